/* A writer of segments, event log and store killed at any instant: what it had acknowledged is
 * there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/event_log/event_log.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "common/queue/store.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

#define ROUNDS       20
#define SEGMENT_SIZE (2u << 20)
#define EVENT_SIZE   (64u << 10)
#define GROUP        4 /* messages of one sync, one event batch and one commit */
#define BODY         "a message\r\n"

struct writer {
	struct spool spool;
	struct store *store;
	struct event_writer *events;
	struct store_meta meta;
};

static void
open_writer(struct writer *w, const char *path)
{
	const char *why;

	CHECK(spool_open(&w->spool, path, &why) == 0);
	CHECK(store_open(&w->store, path, w->spool.instance) == 0);
	CHECK(store_load_meta(w->store, &w->meta) == 0);
	CHECK(event_writer_open_sized(
		      &w->events, w->spool.events_fd, w->spool.instance,
		      (struct event_position){ w->meta.event_file, w->meta.event_offset },
		      w->meta.next_lsn, EVENT_SIZE) == 0);
}

static void
close_writer(struct writer *w)
{
	event_writer_close(&w->events);
	store_close(&w->store);
	spool_close(&w->spool);
}

/* What the log holds beyond the last commit was done: the ids go on behind it. */
static void
replay(struct writer *w)
{
	struct event_position from = { w->meta.event_file, w->meta.event_offset }, pos;
	struct event_reader *r;
	struct event e;
	int rc;

	CHECK(event_reader_open(&r, w->spool.events_fd, w->spool.instance, from) == 0);
	while ((rc = event_read(r, event_writer_position(w->events), &e, &pos)) == 1) {
		if (e.message >= w->meta.next_message_id)
			w->meta.next_message_id = e.message + 1;
	}
	CHECK(rc == 0);
	event_reader_close(&r);
}

static int64_t
append_record(struct segment_writer *seg, msg_id_t id)
{
	struct record_envelope env = { .id = id, .sender = SLICE_LIT("s@e") };
	struct slice body = SLICE_LIT(BODY);
	static char zeros[RECORD_ALIGN];
	struct iovec iov[3];
	struct buf b;
	int64_t at;

	buf_init(&b);
	record_encode(&b, &env, 0, &body, 1);
	record_stamp(b.data, seg->info.epoch);
	iov[0] = (struct iovec){ b.data, b.len };
	iov[1] = (struct iovec){ (void *)(uintptr_t)body.p, body.n };
	iov[2] = (struct iovec){ zeros, record_padding(b.len, body.n) };
	at = segment_append(seg, iov, 3);
	buf_clear(&b);
	return at;
}

/* One group: records synced, events synced, rows committed, then acknowledged. False: segment full.
 */
static bool
one_group(struct writer *w, struct segment_writer *seg, int ack)
{
	struct store_row rows[GROUP] = { 0 };
	struct event_position pos;
	struct store_txn *t;
	uint64_t first = w->meta.next_message_id;

	if (!segment_fits(seg, GROUP * 1024))
		return false;
	for (int i = 0; i < GROUP; i++) {
		rows[i].segment = seg->info.number;
		rows[i].epoch = seg->info.epoch;
		rows[i].offset = (uint32_t)(append_record(seg, first + (uint64_t)i) / RECORD_ALIGN);
	}
	CHECK(segment_sync(seg) == 0);
	for (int i = 0; i < GROUP; i++)
		event_append(w->events, &(struct event){ .kind = EVENT_RECEPTION,
							 .message = first + (uint64_t)i });
	CHECK(event_sync(w->events) == 0);
	pos = event_writer_position(w->events);
	w->meta.next_message_id += GROUP;
	w->meta.event_file = pos.file;
	w->meta.event_offset = pos.offset;
	w->meta.next_lsn = event_writer_next_lsn(w->events);
	CHECK(store_begin(w->store, &t) == 0);
	for (int i = 0; i < GROUP; i++)
		store_put_row(t, (struct entry_key){ first + (uint64_t)i, 0 }, &rows[i]);
	store_put_meta(t, &w->meta);
	CHECK(store_commit(&t) == 0);
	for (int i = 0; i < GROUP; i++) {
		uint64_t id = first + (uint64_t)i;

		CHECK(write(ack, &id, sizeof id) == sizeof id);
	}
	return true;
}

static _Noreturn void
child(const char *path, uint32_t round, int ack)
{
	struct writer w;
	struct segment_writer seg;

	open_writer(&w, path);
	replay(&w);
	CHECK(segment_create(w.spool.segments_fd, round, SEGMENT_SIZE, w.spool.instance) == 0);
	CHECK(segment_stamp(w.spool.segments_fd, round, round + 1, w.spool.instance) == 0);
	CHECK(segment_writer_open(&seg, w.spool.segments_fd, round, round + 1, w.spool.instance) ==
	      0);
	while (one_group(&w, &seg, ack))
		;
	_exit(0);
}

/* Runs a child and kills it some time after its first word; appends what it acknowledged. */
static void
run_and_kill(const char *path, uint32_t round, uint64_t **acked, size_t *n, size_t *cap)
{
	struct timespec wait = { .tv_nsec = rand() % 40000000 };
	int ack[2], status;
	uint64_t id;
	pid_t pid;
	bool first = true;

	CHECK(pipe(ack) == 0);
	pid = child_fork();
	if (pid == 0) {
		close(ack[0]);
		child(path, round, ack[1]);
	}
	close(ack[1]);
	while (read(ack[0], &id, sizeof id) == sizeof id) {
		mem_grow((void **)acked, cap, *n + 1, sizeof **acked);
		(*acked)[(*n)++] = id;
		if (first) {
			nanosleep(&wait, NULL);
			kill(pid, SIGKILL);
			first = false;
		}
	}
	close(ack[0]);
	waitpid(pid, &status, 0);
	assert_false(first); /* it came to life */
	assert_false(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

struct found {
	unsigned char *row, *event; /* by message id */
	uint64_t max;
	struct segment_cache *cache;
};

static void
see_row(void *arg, struct entry_key key, const struct store_row *row)
{
	struct found *f = arg;
	struct segment_ref ref;
	struct record r;

	assert_int_equal(segment_get(f->cache, row->segment, row->epoch, &ref), 0);
	assert_int_equal(record_decode(&r, slice_sub(ref.bytes, (size_t)row->offset * RECORD_ALIGN),
				       row->epoch, key.message),
			 0);
	assert_true(slice_is(r.body, BODY));
	record_clear(&r);
	segment_put(f->cache, row->segment, row->epoch);
	if (key.message <= f->max)
		f->row[key.message]++;
}

static void
check_all(const char *path, const uint64_t *acked, size_t n)
{
	static const struct event_position start;
	struct found f = { .max = acked[n - 1] };
	struct event_reader *r;
	struct event_position pos;
	struct writer w;
	struct event e;
	uint64_t bad;
	int rc;

	f.row = calloc(f.max + 1, 1);
	f.event = calloc(f.max + 1, 1);
	open_writer(&w, path);
	f.cache = segment_cache_new(w.spool.segments_fd, w.spool.instance);
	assert_int_equal(store_load_rows(w.store, see_row, &f, &bad), 0);
	assert_int_equal(bad, 0);
	assert_int_equal(event_reader_open(&r, w.spool.events_fd, w.spool.instance, start), 0);
	while ((rc = event_read(r, event_writer_position(w.events), &e, &pos)) == 1) {
		if (e.message <= f.max)
			f.event[e.message]++;
	}
	assert_int_equal(rc, 0);
	event_reader_close(&r);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(f.row[acked[i]], 1);
		assert_int_equal(f.event[acked[i]], 1);
	}
	segment_cache_free(&f.cache);
	close_writer(&w);
	free(f.row);
	free(f.event);
}

static void
killed_at_any_instant(void **state)
{
	char path[700];
	uint64_t *acked = NULL;
	size_t n = 0, cap = 0;

	(void)state;
	srand(20261121);
	strcpy(path, scratch_path(scratch_make(), "spool"));
	for (uint32_t round = 0; round < ROUNDS; round++) {
		run_and_kill(path, round, &acked, &n, &cap);
		check_all(path, acked, n);
	}
	print_message("%d kills, %zu acknowledged\n", ROUNDS, n);
	assert_true(n > ROUNDS * GROUP);
	mem_free(acked);
	*strrchr(path, '/') = '\0';
	scratch_remove(path);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_at_any_instant),
	};

	log_threshold(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
