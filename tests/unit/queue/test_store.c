/* The store: rows and tables come back, damage is told, an error makes the transaction nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <endian.h>
#include <lmdb.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/queue/store.h"
#include "common/queue/store_impl.h"
#include "tests/lib/scratch.h"

static const unsigned char us[16] = "instance of ours", them[16] = "instance, theirs";

struct fixture {
	char path[600];
	struct store *s;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	strcpy(f->path, scratch_make());
	mkdir(scratch_path(f->path, "lmdb"), 0750);
	*state = f;
	return store_open(&f->s, f->path, us);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	store_close(&f->s);
	scratch_remove(f->path);
	free(f);
	return 0;
}

static void
reopen(struct fixture *f)
{
	store_close(&f->s);
	assert_int_equal(store_open(&f->s, f->path, us), 0);
}

static struct store_row
row_of(uint64_t i)
{
	return (struct store_row){
		.queue = (uint32_t)i * 3 + 1,
		.segment = (uint32_t)(i >> 10),
		.epoch = 0x1122334455667788u + i,
		.offset = (uint32_t)(256 + i),
		.due_s = 1795290408u + (uint32_t)i,
		.received_s = 1795290000u,
		.job = 7,
		.sender_domain = (uint32_t)(i % 5),
		.attempts = (uint16_t)i,
		.n_rcpts = 20,
		.first_rcpt = 3,
		.kbytes = 21,
		.flags = i % 2 ? STORE_ROW_MAYBE_DUP : 0,
		.done = i % 3 ? SLICE_NONE : slice_of("\x01\x80\x0f", 3),
	};
}

struct seen {
	uint64_t n;
	struct entry_key last;
	bool in_order, right;
};

static void
see_row(void *arg, struct entry_key key, const struct store_row *row)
{
	struct seen *s = arg;
	struct store_row want = row_of(key.message);

	if (s->n > 0 && (key.message < s->last.message ||
			 (key.message == s->last.message && key.ordinal <= s->last.ordinal)))
		s->in_order = false;
	if (row->queue != want.queue || row->segment != want.segment || row->epoch != want.epoch ||
	    row->offset != want.offset || row->due_s != want.due_s ||
	    row->received_s != want.received_s || row->job != want.job ||
	    row->sender_domain != want.sender_domain || row->attempts != want.attempts ||
	    row->n_rcpts != want.n_rcpts || row->first_rcpt != want.first_rcpt ||
	    row->kbytes != want.kbytes || row->flags != want.flags ||
	    !slice_eq(row->done, want.done))
		s->right = false;
	s->last = key;
	s->n++;
}

static struct seen
load(struct store *s, uint64_t *bad)
{
	struct seen seen = { .in_order = true, .right = true };

	assert_int_equal(store_load_rows(s, see_row, &seen, bad), 0);
	return seen;
}

static void
put_rows(struct store *s, uint64_t from, uint64_t n)
{
	struct store_txn *t;

	assert_int_equal(store_begin(s, &t), 0);
	for (uint64_t i = from; i < from + n; i++) {
		struct store_row row = row_of(i);

		for (uint16_t o = 0; o < 2; o++)
			assert_int_equal(store_put_row(t, (struct entry_key){ i, o }, &row), 0);
	}
	assert_int_equal(store_commit(&t), 0);
	assert_null(t);
}

static void
rows_come_back(void **state)
{
	struct fixture *f = *state;
	struct store_row row;
	struct store_txn *t;
	struct seen seen;
	uint64_t bad;

	put_rows(f->s, 250, 20); /* over a byte's border: the order is the numbers' */
	put_rows(f->s, 1, 10);
	seen = load(f->s, &bad);
	assert_true(seen.in_order && seen.right);
	assert_int_equal(seen.n, 60);
	assert_int_equal(bad, 0);
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_del_row(t, (struct entry_key){ 5, 1 }), 0);
	assert_int_equal(store_del_row(t, (struct entry_key){ 5, 1 }), 0); /* absent is fine */
	assert_int_equal(store_del_row(t, (struct entry_key){ 7000, 0 }), 0);
	assert_int_equal(store_commit(&t), 0);
	reopen(f);
	seen = load(f->s, &bad);
	assert_true(seen.in_order && seen.right);
	assert_int_equal(seen.n, 59);
	/* One of them, as a transaction sees it. */
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_get_row(t, (struct entry_key){ 5, 1 }, &row), -E_MISSING);
	assert_int_equal(store_get_row(t, (struct entry_key){ 6, 1 }, &row), 0);
	assert_int_equal(row.queue, 19);
	assert_int_equal(row.done.n, 3);
	row.queue = 20;
	assert_int_equal(store_put_row(t, (struct entry_key){ 6, 1 }, &row), 0);
	assert_int_equal(store_get_row(t, (struct entry_key){ 6, 1 }, &row), 0);
	assert_int_equal(row.queue, 20);
	store_abort(&t);
	assert_int_equal(bad, 0);
}

static void
nothing_of_what_was_aborted(void **state)
{
	struct fixture *f = *state;
	struct store_row row = row_of(1);
	struct store_txn *t;
	uint64_t bad;

	put_rows(f->s, 10, 5);
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_row(t, (struct entry_key){ 1, 0 }, &row), 0);
	assert_int_equal(store_del_row(t, (struct entry_key){ 10, 0 }), 0);
	store_abort(&t);
	assert_null(t);
	assert_int_equal(load(f->s, &bad).n, 10);
	reopen(f);
	assert_int_equal(load(f->s, &bad).n, 10);
}

static void
see_name(void *arg, uint32_t number, struct slice name)
{
	char want[32];

	snprintf(want, sizeof want, "domain%u.example/mta1", number);
	assert_true(slice_is(name, want));
	++*(unsigned *)arg;
}

static void
see_queue(void *arg, uint32_t queue, const struct store_queue *q)
{
	assert_int_equal(q->paused, queue == 1);
	assert_int_equal(q->retry_level, queue);
	assert_int_equal(q->retry_at_s, queue * 100);
	assert_int_equal(q->reason.n, queue == 2 ? REPLY_KEPT_MAX : 10);
	++*(unsigned *)arg;
}

static void
see_segment(void *arg, uint32_t number, const struct store_segment *seg)
{
	assert_int_equal(seg->epoch, number + 1000);
	assert_int_equal(seg->bytes, SEGMENT_BYTES);
	assert_int_equal(seg->committed, 4096 + number);
	assert_int_equal(seg->state, number % 3);
	assert_int_equal(seg->receiver, 2);
	assert_int_equal(seg->failed, number == 2);
	++*(unsigned *)arg;
}

static void
the_other_tables(void **state)
{
	struct fixture *f = *state;
	struct store_meta meta = { 1, 2, 3, 4, 5, 6 }, got;
	static char long_reason[600];
	struct store_txn *t;
	unsigned n = 0;
	uint64_t bad;
	char reply[16];

	memset(long_reason, 'r', sizeof long_reason);
	assert_int_equal(store_load_meta(f->s, &got), 0);
	assert_int_equal(got.next_message_id, 1);
	assert_int_equal(got.next_lsn, 1);
	assert_int_equal(got.next_lease, 1);
	assert_int_equal(got.next_epoch, 1);
	assert_int_equal(got.event_file, 0);
	assert_int_equal(store_begin(f->s, &t), 0);
	for (uint32_t i = 1; i <= 300; i++) {
		char name[32];

		snprintf(name, sizeof name, "domain%u.example/mta1", i);
		assert_int_equal(store_put_name(t, i, slice_str(name)), 0);
	}
	for (uint32_t i = 1; i <= 3; i++) {
		struct store_queue q = { .paused = i == 1,
					 .retry_level = (uint8_t)i,
					 .retry_at_s = i * 100,
					 .reason = slice_of(long_reason, i == 2 ? 600 : 10) };
		struct store_segment seg = { .epoch = i + 1000,
					     .bytes = SEGMENT_BYTES,
					     .committed = 4096 + i,
					     .state = (uint8_t)(i % 3),
					     .receiver = 2,
					     .failed = i == 2 };

		assert_int_equal(store_put_queue(t, i, &q), 0);
		assert_int_equal(store_put_segment(t, i, &seg), 0);
	}
	assert_int_equal(store_put_meta(t, &meta), 0);
	assert_int_equal(
		store_put_reply(t, (struct entry_key){ 9, 1 }, SLICE_LIT("450 4.2.1 later")), 0);
	assert_int_equal(store_commit(&t), 0);
	reopen(f);
	assert_int_equal(store_load_names(f->s, see_name, &n, &bad), 0);
	assert_int_equal(store_load_queues(f->s, see_queue, &n, &bad), 0);
	assert_int_equal(store_load_segments(f->s, see_segment, &n, &bad), 0);
	assert_int_equal(n, 300 + 3 + 3);
	assert_int_equal(bad, 0);
	assert_int_equal(store_load_meta(f->s, &got), 0);
	assert_memory_equal(&got, &meta, sizeof got);
	assert_int_equal(store_last_reply(f->s, (struct entry_key){ 9, 1 }, reply, sizeof reply),
			 15);
	assert_string_equal(reply, "450 4.2.1 later");
	assert_int_equal(store_last_reply(f->s, (struct entry_key){ 9, 1 }, reply, 4), 3);
	assert_string_equal(reply, "450");
	assert_int_equal(store_last_reply(f->s, (struct entry_key){ 9, 0 }, reply, sizeof reply),
			 -E_MISSING);
	/* The row takes its reply with it. */
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_del_row(t, (struct entry_key){ 9, 1 }), 0);
	assert_int_equal(store_commit(&t), 0);
	assert_int_equal(store_last_reply(f->s, (struct entry_key){ 9, 1 }, reply, sizeof reply),
			 -E_MISSING);
}

/* Flips one bit inside the values of some rows in the file: those and only those are told. */
static void
damaged_values_are_told(void **state)
{
	struct fixture *f = *state;
	char path[700];
	struct seen seen;
	uint64_t bad;
	size_t n;
	char *p;
	unsigned flipped = 0;

	snprintf(path, sizeof path, "%s/lmdb/data.mdb", f->path);
	put_rows(f->s, 1, 100);
	store_close(&f->s);
	p = scratch_read(path, &n);
	/* Both entries of the messages 10, 20, 30 hold these numbers. */
	for (uint64_t i = 10; i <= 30; i += 10) {
		uint64_t epoch = row_of(i).epoch;

		for (size_t at = 0; at + 8 < n; at++) {
			if (memcmp(p + at, &epoch, 8) == 0) {
				scratch_flip(path, at + flipped % 8, flipped % 8);
				flipped++;
			}
		}
	}
	free(p);
	assert_int_equal(flipped, 6);
	assert_int_equal(store_open(&f->s, f->path, us), 0);
	seen = load(f->s, &bad);
	assert_true(seen.right && seen.in_order);
	assert_int_equal(bad, flipped);
	assert_int_equal(seen.n, 200 - flipped);
}

static void
refused_not_reset(void **state)
{
	struct fixture *f = *state;
	struct store *s = NULL;
	char path[700];
	struct stat st;

	snprintf(path, sizeof path, "%s/lmdb/data.mdb", f->path);
	put_rows(f->s, 1, 3);
	store_close(&f->s);
	assert_int_equal(store_open(&s, f->path, them), -E_FOREIGN);
	scratch_copy(path, scratch_path(f->path, "kept"));
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(store_open(&s, f->path, us), -E_FORMAT);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 0); /* left as it was found */
	unlink(path);
	assert_int_equal(store_open(&s, f->path, us), -E_FORMAT);
	scratch_write(path, "this is not a database, it only lies here", 41);
	assert_true(store_open(&s, f->path, us) < 0);
	scratch_copy(scratch_path(f->path, "kept"), path);
	reopen(f);
}

/* The data file cut at every page: an error or fewer rows and a count of the bad, never a fault. */
static void
cut_short(void **state)
{
	struct fixture *f = *state;
	const char *kept = scratch_path(f->path, "kept");
	char path[700];
	size_t n;

	snprintf(path, sizeof path, "%s/lmdb/data.mdb", f->path);
	put_rows(f->s, 1, 2000);
	store_close(&f->s);
	scratch_copy(path, kept);
	free(scratch_read(kept, &n));
	for (size_t cut = 4096; cut < n; cut += 4096 * 5) {
		struct store *s = NULL;
		uint64_t bad = 0;
		struct seen seen = { .in_order = true, .right = true };

		scratch_copy(kept, path);
		assert_int_equal(truncate(path, (off_t)cut), 0);
		if (store_open(&s, f->path, us) != 0)
			continue;
		if (store_load_rows(s, see_row, &seen, &bad) == 0)
			assert_true(bad > 0 || seen.n == 4000);
		assert_true(seen.right);
		store_close(&s);
	}
	scratch_copy(kept, path);
	reopen(f);
}

/* One bit anywhere in the data file: refused, or counted, or of no meaning. Never a fault, never a
 * wrong row, never a queue that is silently shorter. */
static void
any_bit(void **state)
{
	struct fixture *f = *state;
	const char *kept = scratch_path(f->path, "kept");
	unsigned refused = 0, counted = 0;
	char path[700];
	size_t n;

	snprintf(path, sizeof path, "%s/lmdb/data.mdb", f->path);
	put_rows(f->s, 1, 1000);
	put_rows(f->s, 1001, 1000);
	store_close(&f->s);
	scratch_copy(path, kept);
	free(scratch_read(kept, &n));
	srand(20261121);
	for (int i = 0; i < 100; i++) {
		/* Half of them in the first bytes of a page, where LMDB keeps its own. */
		size_t at = (size_t)rand() % n;
		struct store *s = NULL;
		uint64_t bad = 0;

		scratch_copy(kept, path);
		scratch_flip(path, i % 2 ? at : at / 4096 * 4096 + at % 64, (unsigned)rand() % 8);
		if (store_open(&s, f->path, us) != 0) {
			refused++;
			continue;
		}
		struct seen seen = { .in_order = true, .right = true };
		if (store_load_rows(s, see_row, &seen, &bad) != 0) {
			refused++;
		} else {
			assert_true(seen.right);
			assert_true(bad > 0 || seen.n == 4000);
			counted += bad > 0;
		}
		store_close(&s);
	}
	print_message("%u refused, %u counted\n", refused, counted);
	assert_true(refused > 0 && counted > 10);
	scratch_copy(kept, path);
	reopen(f);
}

/* A full map: the transaction is refused as a whole, what was there stays and can be deleted. */
static void
a_full_map(void **state)
{
	struct fixture *f = *state;
	struct store_txn *t = NULL;
	uint64_t i = 1, bad, before;
	int rc = 0;

	store_close(&f->s);
	assert_int_equal(store_open_sized(&f->s, f->path, us, 1u << 20), 0);
	assert_true(store_fill_percent(f->s) < 10);
	while (store_fill_percent(f->s) < 60)
		put_rows(f->s, i, 80), i += 80;
	before = load(f->s, &bad).n;
	assert_int_equal(store_begin(f->s, &t), 0);
	for (uint64_t k = 0; rc == 0 && k < 100000; k++) {
		struct store_row row = row_of(i + k);

		rc = store_put_row(t, (struct entry_key){ i + k, 0 }, &row);
	}
	assert_int_equal(rc, -E_FULL);
	assert_int_equal(store_put_name(t, 1, SLICE_LIT("x")), -E_FULL); /* it sticks */
	assert_int_equal(store_commit(&t), -E_FULL);
	assert_null(t);
	assert_int_equal(load(f->s, &bad).n, before);
	for (uint64_t k = 1; k < i; k++) {
		if (k % 80 == 1)
			assert_int_equal(store_begin(f->s, &t), 0);
		assert_int_equal(store_del_row(t, (struct entry_key){ k, 0 }), 0);
		assert_int_equal(store_del_row(t, (struct entry_key){ k, 1 }), 0);
		if (k % 80 == 0)
			assert_int_equal(store_commit(&t), 0);
	}
	assert_int_equal(load(f->s, &bad).n, 0);
	/* The file is as large as ever, the room in it is free. */
	assert_true(store_fill_percent(f->s) < 40);
}

static void
count_row(void *arg, struct entry_key key, const struct store_row *row)
{
	(void)row;
	*(uint64_t *)arg += key.message > 0;
}

static void
a_large_queue_loads_fast(void **state)
{
	struct fixture *f = *state;
	uint64_t n = 0, bad, begun, us_each;

	for (uint64_t i = 1; i < 200000; i += 10000)
		put_rows(f->s, i, 5000);
	reopen(f);
	begun = clock_cpu_us();
	assert_int_equal(store_load_rows(f->s, count_row, &n, &bad), 0);
	us_each = (clock_cpu_us() - begun) * 1000 / n;
	print_message("%llu rows, %llu ns each\n", (unsigned long long)n,
		      (unsigned long long)us_each);
	assert_int_equal(n, 200000);
	assert_true(us_each < 5000); /* far above what it takes: slow machines, sanitizers */
}

/* A commit may bring more messages than one value has room for. */
static void
lists_of_receptions_come_back(void **state)
{
	static const size_t sizes[] = { 3, 127, 128, 1000, 254, 255, 1, 0, 5 };
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		struct buf put = { 0 }, got = { 0 };
		struct store_txn *t;

		for (size_t k = 0; k < sizes[i]; k++) {
			uint64_t id = htole64(0x1000u * (i + 1) + k);

			buf_put(&put, &id, sizeof id);
		}
		assert_int_equal(store_begin(f->s, &t), 0);
		assert_int_equal(store_put_receptions(t, buf_slice(&put)), 0);
		assert_int_equal(store_commit(&t), 0);
		reopen(f);
		assert_int_equal(store_load_receptions(f->s, &got), 0);
		assert_int_equal(got.len, put.len);
		assert_true(slice_eq(buf_slice(&got), buf_slice(&put)));
		buf_clear(&put);
		buf_clear(&got);
	}
}

/* Over-long for this build, or damaged: the others are read, and the next list replaces all. */
static void
a_damaged_list_of_receptions(void **state)
{
	struct fixture *f = *state;
	struct buf put = { 0 }, got = { 0 };
	char text[STORE_KEY_MAX];
	struct store_txn *t;
	uint64_t id;
	MDB_val key, v;

	for (size_t k = 0; k < 254; k++) {
		id = htole64(k + 1);
		buf_put(&put, &id, sizeof id);
	}
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_receptions(t, buf_slice(&put)), 0);
	key = store_receptions_key(text, 0);
	v = (MDB_val){ 8, &id };
	assert_int_equal(mdb_put(t->txn, f->s->meta, &key, &v, 0), 0);
	assert_int_equal(store_commit(&t), 0);
	assert_int_equal(store_load_receptions(f->s, &got), -E_CRC);
	assert_in_range(got.len, 8, put.len - 8);
	memcpy(&id, got.data + got.start, sizeof id);
	assert_int_equal(le64toh(id), (put.len - got.len) / 8 + 1);
	buf_reset(&got);
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_receptions(t, SLICE_NONE), 0);
	assert_int_equal(store_commit(&t), 0);
	assert_int_equal(store_load_receptions(f->s, &got), 0);
	assert_int_equal(got.len, 0);
	buf_clear(&put);
	buf_clear(&got);
}

/* Operators' acts ----------------------------------------------------------------------------- */
struct acts_seen {
	unsigned n;
	struct store_act last;
	char texts[3][300];
};

static void
see_act(void *arg, uint32_t number, const struct store_act *act)
{
	struct acts_seen *seen = arg;

	seen->n += number;
	seen->last = *act;
	str_copy(seen->texts[0], sizeof seen->texts[0], act->object);
	str_copy(seen->texts[1], sizeof seen->texts[1], act->name);
	str_copy(seen->texts[2], sizeof seen->texts[2], act->value);
}

static void
acts_come_back(void **state)
{
	struct fixture *f = *state;
	struct store_act limit = { STORE_ACT_LIMIT,      2, 1795290408000000u, 1795290409000000u, SLICE_LIT("a.example/mta1"),
				   SLICE_LIT("max-msg-rate"), SLICE_LIT("100/h") };
	static const char longest[STORE_ACT_TEXT_MAX + 1];
	struct acts_seen seen = { 0 };
	struct store_txn *t;
	uint64_t bad;

	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_act(t, 3, &limit), 0);
	assert_int_equal(store_put_act(t, 5, &limit), 0);
	assert_int_equal(store_commit(&t), 0);
	reopen(f);
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_del_act(t, 5), 0);
	assert_int_equal(store_del_act(t, 9), 0);
	assert_int_equal(store_commit(&t), 0);
	reopen(f);
	assert_int_equal(store_load_acts(f->s, see_act, &seen, &bad), 0);
	assert_int_equal(bad, 0);
	assert_int_equal(seen.n, 3);
	assert_int_equal(seen.last.kind, STORE_ACT_LIMIT);
	assert_int_equal(seen.last.scope, 2);
	assert_int_equal(seen.last.since_wall_us, limit.since_wall_us);
	assert_int_equal(seen.last.until_wall_us, limit.until_wall_us);
	assert_string_equal(seen.texts[0], "a.example/mta1");
	assert_string_equal(seen.texts[1], "max-msg-rate");
	assert_string_equal(seen.texts[2], "100/h");
	limit.object = slice_of(longest, sizeof longest);
	limit.name = limit.value = SLICE_NONE;
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_act(t, 3, &limit), -E_TOO_BIG);
	limit.object.n--;
	assert_int_equal(store_put_act(t, 3, &limit), 0);
	store_abort(&t);
}

/* Redirects ----------------------------------------------------------------------------------- */
static void
see_redirect(void *arg, uint32_t from, uint32_t to)
{
	uint32_t *seen = arg;

	assert_true(from < 10);
	assert_int_equal(seen[from], 0);
	seen[from] = to;
}

static void
see_nothing_of(void *arg, uint32_t number, struct slice name)
{
	assert_int_not_equal(number, *(uint32_t *)arg);
	assert_true(name.n > 0);
}

static void
see_no_state_of(void *arg, uint32_t number, const struct store_queue *q)
{
	assert_int_not_equal(number, *(uint32_t *)arg);
	assert_true(q->paused);
}

/* The number loses its name and its state together with what was its own. */
static void
redirects_come_back(void **state)
{
	static const struct store_queue paused = { .paused = true };
	struct fixture *f = *state;
	uint32_t seen[10] = { 0 }, from = 3;
	struct store_txn *t;
	uint64_t bad;

	assert_int_equal(store_begin(f->s, &t), 0);
	for (uint32_t i = 3; i < 6; i++) {
		assert_int_equal(store_put_name(t, i, SLICE_LIT("a.example/mta1")), 0);
		assert_int_equal(store_put_queue(t, i, &paused), 0);
	}
	assert_int_equal(store_commit(&t), 0);
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_redirect(t, 3, 5), 0);
	assert_int_equal(store_put_redirect(t, 7, 3), 0); /* has neither */
	assert_int_equal(store_put_redirect(t, 8, 4), 0);
	assert_int_equal(store_del_redirect(t, 8), 0);
	assert_int_equal(store_del_redirect(t, 9), 0);
	assert_int_equal(store_commit(&t), 0);
	reopen(f);
	assert_int_equal(store_load_redirects(f->s, see_redirect, seen, &bad), 0);
	assert_int_equal(bad, 0);
	assert_int_equal(seen[3], 5);
	assert_int_equal(seen[7], 3);
	assert_int_equal(seen[8], 0);
	assert_int_equal(store_load_names(f->s, see_nothing_of, &from, &bad), 0);
	assert_int_equal(store_load_queues(f->s, see_no_state_of, &from, &bad), 0);
}

/* Back-off ------------------------------------------------------------------------------------ */
struct blobs_seen {
	size_t n[4];
	char first[4];
};

static void
see_blob(void *arg, uint32_t number, struct slice blob)
{
	struct blobs_seen *seen = arg;

	assert_true(number < 4);
	assert_int_equal(seen->n[number], 0);
	seen->n[number] = blob.n;
	seen->first[number] = blob.p[0];
	for (size_t i = 0; i < blob.n; i++)
		assert_int_equal(blob.p[i], (char)(seen->first[number] + (char)(i / 700)));
}

/* Longer than a value: whole or not at all; a shorter one leaves nothing of the longer one before it. */
static void
back_off_comes_back(void **state)
{
	static char text[3][STORE_BACKOFF_MAX + 1];
	struct fixture *f = *state;
	struct blobs_seen seen = { 0 };
	struct store_txn *t;
	uint64_t bad;

	for (size_t i = 0; i < sizeof text[0]; i++) {
		for (unsigned k = 0; k < 3; k++)
			text[k][i] = (char)('a' + (char)k + (char)(i / 700));
	}
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_backoff(t, 1, slice_of(text[0], STORE_BACKOFF_MAX)), 0);
	assert_int_equal(store_put_backoff(t, 2, slice_of(text[1], 5000)), 0);
	assert_int_equal(store_put_backoff(t, 3, slice_of(text[2], 2000)), 0);
	assert_int_equal(store_put_backoff(t, 0, slice_of(text[2], STORE_BACKOFF_MAX + 1)), -E_TOO_BIG);
	assert_int_equal(store_commit(&t), 0);
	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_backoff(t, 2, slice_of(text[2], 10)), 0);
	assert_int_equal(store_del_backoff(t, 3), 0);
	assert_int_equal(store_del_backoff(t, 0), 0);
	assert_int_equal(store_commit(&t), 0);
	reopen(f);
	assert_int_equal(store_load_backoff(f->s, see_blob, &seen, &bad), 0);
	assert_int_equal(bad, 0);
	assert_int_equal(seen.n[1], STORE_BACKOFF_MAX);
	assert_int_equal(seen.first[1], 'a');
	assert_int_equal(seen.n[2], 10);
	assert_int_equal(seen.first[2], 'c');
	assert_int_equal(seen.n[0] + seen.n[3], 0);
}

/* A spool of before there were such: opened for looking as well as for use. */
static void
store_without_acts(void **state)
{
	struct fixture *f = *state;
	struct acts_seen seen = { 0 };
	struct store *looking = NULL;
	struct store_txn *t;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi acts, redirects, backoff;
	uint32_t none[10] = { 0 };
	struct blobs_seen blobs = { 0 };
	uint64_t bad;

	assert_int_equal(store_begin(f->s, &t), 0);
	assert_int_equal(store_put_name(t, 1, SLICE_LIT("a/b")), 0);
	assert_int_equal(store_commit(&t), 0);
	store_close(&f->s);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 16), 0);
	assert_int_equal(mdb_env_open(env, scratch_path(f->path, "lmdb"), 0, 0640), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, "acts", 0, &acts), 0);
	assert_int_equal(mdb_drop(txn, acts, 1), 0);
	assert_int_equal(mdb_dbi_open(txn, "redirects", 0, &redirects), 0);
	assert_int_equal(mdb_drop(txn, redirects, 1), 0);
	assert_int_equal(mdb_dbi_open(txn, "backoff", 0, &backoff), 0);
	assert_int_equal(mdb_drop(txn, backoff, 1), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	assert_int_equal(store_open_reading(&looking, f->path, us), 0);
	assert_int_equal(store_load_acts(looking, see_act, &seen, &bad), 0);
	assert_int_equal(bad, 0);
	assert_int_equal(seen.n, 0);
	assert_int_equal(store_load_redirects(looking, see_redirect, none, &bad), 0);
	assert_int_equal(store_load_backoff(looking, see_blob, &blobs, &bad), 0);
	store_close(&looking);
	assert_int_equal(store_open(&f->s, f->path, us), 0);
	assert_int_equal(store_load_acts(f->s, see_act, &seen, &bad), 0);
	assert_int_equal(seen.n, 0);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(rows_come_back),
		TEST(nothing_of_what_was_aborted),
		TEST(the_other_tables),
		TEST(lists_of_receptions_come_back),
		TEST(a_damaged_list_of_receptions),
		TEST(damaged_values_are_told),
		TEST(refused_not_reset),
		TEST(cut_short),
		TEST(any_bit),
		TEST(a_full_map),
		TEST(a_large_queue_loads_fast),
		cmocka_unit_test_setup_teardown(acts_come_back, setup, teardown),
		TEST(back_off_comes_back),
		TEST(redirects_come_back),
		cmocka_unit_test_setup_teardown(store_without_acts, setup, teardown),
	};

	log_threshold(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
