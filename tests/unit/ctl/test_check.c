/* queue-check: a queue that is whole has no findings; each invariant that is broken is found, by
 * its name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/event_log/event_log.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "ctl/check.h"
#include "tests/lib/scratch.h"

#define MESSAGES 10
#define EPOCH    5
/* kind, scope, name, on, and the reason somewhere */
#define BACKOFF_ROW "\1\0\3\0\0\0a/b\1 421 too many"
/* what is owed: kind, key, of what, scope, three times, then texts: who is told, and the others */
#define BACKOFF_OWED "\3@@@@@@@@" "\1\0" "tttttttt" "uuuuuuuu" "vvvvvvvv" "\3\0\0\0a@b" "\0\0\0\0"

static char root[600];

static int
setup(void **state)
{
	(void)state;
	strcpy(root, scratch_make());
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	scratch_remove(root);
	return 0;
}

/* What a case may change before it is written, and after. */
struct made {
	struct spool spool;
	struct store *store;
	struct store_txn *txn;
	struct store_meta meta;
	struct store_segment segment;
	uint64_t offsets[MESSAGES + 1];
};

/* The record's head, in front of a body; free it. */
static struct buf
head_of(msg_id_t id, struct slice body)
{
	const struct slice rcpts[4] = { SLICE_LIT("a@one.example"), SLICE_LIT("b@one.example"),
					SLICE_LIT("c@two.example"), SLICE_LIT("d@two.example") };
	const struct record_entry entries[2] = { { SLICE_LIT("one.example"), 0, 2 },
						 { SLICE_LIT("two.example"), 2, 2 } };
	const struct record_envelope env = { .id = id,
					     .sender = SLICE_LIT("s@x.example"),
					     .vmta = SLICE_LIT("{default}"),
					     .n_rcpts = 4,
					     .rcpts = rcpts,
					     .n_entries = 2,
					     .entries = entries };
	struct buf head = { 0 };

	record_encode(&head, &env, 0, &body, 1);
	record_stamp(head.data, EPOCH);
	return head;
}

static uint64_t
put_record(struct segment_writer *w, msg_id_t id)
{
	const struct slice body = SLICE_LIT("Subject: x\r\n\r\nthe body of it\r\n");
	static char zeros[RECORD_ALIGN];
	struct buf head = head_of(id, body);
	struct iovec iov[3];
	int64_t at;

	iov[0] = (struct iovec){ head.data, head.len };
	iov[1] = (struct iovec){ (void *)(uintptr_t)body.p, body.n };
	iov[2] = (struct iovec){ zeros, (size_t)record_padding(head.len, body.n) };
	at = segment_append(w, iov, 3);
	assert_true(at > 0);
	buf_clear(&head);
	return (uint64_t)at;
}

static void
put_row(struct made *m, msg_id_t id, unsigned ordinal, uint32_t segment, uint64_t epoch,
	uint64_t offset, uint32_t queue, uint32_t first)
{
	struct store_row row = { .queue = queue,
				 .segment = segment,
				 .epoch = epoch,
				 .offset = (uint32_t)(offset / 16),
				 .n_rcpts = 2,
				 .first_rcpt = first };

	assert_int_equal(store_put_row(m->txn, (struct entry_key){ id, (uint16_t)ordinal }, &row),
			 0);
}

static void
make_segment(struct made *m)
{
	struct segment_writer w;

	assert_int_equal(segment_create(m->spool.segments_fd, 1, 1 << 20, m->spool.instance), 0);
	assert_int_equal(segment_stamp(m->spool.segments_fd, 1, EPOCH, m->spool.instance), 0);
	assert_int_equal(segment_writer_open(&w, m->spool.segments_fd, 1, EPOCH, m->spool.instance),
			 0);
	for (unsigned i = 1; i <= MESSAGES; i++)
		m->offsets[i] = put_record(&w, i);
	m->segment = (struct store_segment){
		.epoch = EPOCH, .bytes = 1 << 20, .committed = w.end, .state = STORE_SEGMENT_SEALED
	};
	assert_int_equal(segment_sync(&w), 0);
	segment_writer_close(&w);
}

static void
make_events(struct made *m)
{
	struct event_position none = { 0, 0 };
	struct event_writer *log;

	assert_int_equal(event_writer_open_sized(&log, m->spool.events_fd, m->spool.instance, none,
						 1, 1 << 20),
			 0);
	for (unsigned i = 1; i <= MESSAGES; i++) {
		struct event e = { .kind = EVENT_RESULT, .message = i, .attempt = 1, .lease = i };

		event_append(log, &e);
		assert_int_equal(event_sync(log), 0);
	}
	m->meta.event_file = 1;
	m->meta.event_offset = 4096;
	m->meta.next_lsn = 1;
	event_writer_close(&log);
}

/* A whole queue; `change` may spoil what is about to be committed. */
static void
make(struct made *m, void (*change)(struct made *m))
{
	struct claim_grant g = { .lease = 3, .key = { 4, 1 }, .attempt = 1, .n_rcpts = 2 };
	struct claim_table *claims;
	const char *why;

	memset(m, 0, sizeof *m);
	assert_int_equal(spool_open(&m->spool, root, &why), 0);
	assert_int_equal(store_open_sized(&m->store, root, m->spool.instance, 16 << 20), 0);
	m->meta = (struct store_meta){ .next_message_id = 1000,
				       .next_epoch = 100,
				       .next_lease = 1000 };
	make_segment(m);
	make_events(m);
	assert_int_equal(claim_table_open(&claims, m->spool.claims_fd, 0, m->spool.instance), 0);
	assert_true(claim_grant(claims, &g) >= 0);
	claim_table_close(&claims);
	assert_int_equal(store_begin(m->store, &m->txn), 0);
	assert_int_equal(store_put_name(m->txn, 1, SLICE_LIT("one.example/{default}")), 0);
	assert_int_equal(store_put_name(m->txn, 2, SLICE_LIT("two.example/{default}")), 0);
	assert_int_equal(store_put_name(m->txn, 3, SLICE_LIT("a job")), 0);
	assert_int_equal(store_put_queue(m->txn, 1, &(struct store_queue){ .paused = true }), 0);
	for (unsigned i = 1; i <= MESSAGES; i++) {
		put_row(m, i, 0, 1, EPOCH, m->offsets[i], 1, 0);
		put_row(m, i, 1, 1, EPOCH, m->offsets[i], 2, 2);
		assert_int_equal(store_put_reply(m->txn, (struct entry_key){ i, 0 },
						 SLICE_LIT("450 the last reply")),
				 0);
	}
	/* A queue that was redirected, over another one, with rows of before. */
	assert_int_equal(store_put_name(m->txn, 12345, SLICE_LIT("three.example/{default}")), 0);
	assert_int_equal(store_put_redirect(m->txn, 1200, 12345), 0);
	assert_int_equal(store_put_redirect(m->txn, 1201, 1200), 0);
	put_row(m, 3, 0, 1, EPOCH, m->offsets[3], 1201, 0);
	assert_int_equal(store_put_backoff(m->txn, 3, SLICE_LIT(BACKOFF_ROW)), 0);
	assert_int_equal(store_put_backoff(m->txn, 5, SLICE_LIT(BACKOFF_OWED)), 0);
	if (change != NULL)
		change(m);
	assert_int_equal(store_put_segment(m->txn, 1, &m->segment), 0);
	assert_int_equal(store_put_meta(m->txn, &m->meta), 0);
	assert_int_equal(store_commit(&m->txn), 0);
	store_close(&m->store);
	spool_close(&m->spool);
}

/* Changes before the commit: what the scheduler would never write. */
static void
state_without_name(struct made *m)
{
	store_put_queue(m->txn, 77, &(struct store_queue){ .paused = true });
}

static void
row_without_name(struct made *m)
{
	put_row(m, 2, 0, 1, EPOCH, m->offsets[2], 3, 0);
}

static void
redirect_to_nowhere(struct made *m)
{
	store_put_redirect(m->txn, 6, 77);
}

static void
redirect_to_itself(struct made *m)
{
	store_put_redirect(m->txn, 6, 7);
	store_put_redirect(m->txn, 7, 6);
}

static void
row_redirected_to_nowhere(struct made *m)
{
	store_put_redirect(m->txn, 6, 77);
	put_row(m, 2, 0, 1, EPOCH, m->offsets[2], 6, 0);
}

static void
backoff_of_no_name(struct made *m)
{
	store_put_backoff(m->txn, 4, slice_of("\1\0\0\0\0\0", 6));
}

static void
backoff_owed_to_nobody(struct made *m)
{
	store_put_backoff(m->txn, 6, slice_of("\3@@@@@@@@\1\0ttttttttuuuuuuuuvvvvvvvv\0\0\0\0", 39));
}

static void
row_of_another_epoch(struct made *m)
{
	put_row(m, 2, 0, 1, EPOCH + 1, m->offsets[2], 1, 0);
}

static void
row_without_segment(struct made *m)
{
	put_row(m, 2, 0, 9, EPOCH, m->offsets[2], 1, 0);
}

static void
row_in_free_segment(struct made *m)
{
	m->segment.state = STORE_SEGMENT_FREE;
}

static void
row_behind_committed(struct made *m)
{
	m->segment.committed = m->offsets[MESSAGES];
}

static void
record_behind_committed(struct made *m)
{
	m->segment.committed = m->offsets[MESSAGES] + 16;
}

static void
row_of_another_record(struct made *m)
{
	put_row(m, 2, 0, 1, EPOCH, m->offsets[3], 1, 0);
}

static void
row_between_records(struct made *m)
{
	put_row(m, 2, 0, 1, EPOCH, m->offsets[2] + 16, 1, 0);
}

static void
rcpt_twice(struct made *m)
{
	put_row(m, 2, 1, 1, EPOCH, m->offsets[2], 2, 1);
}

static void
rcpt_of_none(struct made *m)
{
	put_row(m, 2, 1, 1, EPOCH, m->offsets[2], 2, 3);
}

/* A whole record inside the body of another one, and both have rows. */
static void
record_in_a_record(struct made *m)
{
	uint64_t outer = m->segment.committed, inner;
	struct buf body = { 0 }, in = head_of(21, SLICE_NONE), out;
	int fd = openat(m->spool.segments_fd, "00000001.seg", O_WRONLY);

	out = head_of(20, SLICE_NONE);
	while ((out.len + body.len) % 16 != 0)
		buf_putc(&body, 'x');
	inner = outer + out.len + body.len;
	buf_put_slice(&body, buf_slice(&in));
	buf_clear(&out);
	out = head_of(20, buf_slice(&body));
	assert_int_equal(pwrite(fd, out.data, out.len, (off_t)outer), out.len);
	assert_int_equal(pwrite(fd, body.data, body.len, (off_t)(outer + out.len)), body.len);
	close(fd);
	m->segment.committed = outer + record_total(out.len, body.len);
	put_row(m, 20, 0, 1, EPOCH, outer, 1, 0);
	put_row(m, 21, 0, 1, EPOCH, inner, 1, 0);
	buf_clear(&in);
	buf_clear(&out);
	buf_clear(&body);
}

static void
id_above_mark(struct made *m)
{
	m->meta.next_message_id = 5;
}

static void
epoch_above_mark(struct made *m)
{
	m->meta.next_epoch = EPOCH;
}

static void
lease_above_mark(struct made *m)
{
	m->meta.next_lease = 2;
}

static void
claim_of_the_future(struct made *m)
{
	struct claim_grant g = { .lease = 4, .key = { 5000, 0 }, .attempt = 1, .n_rcpts = 2 };
	struct claim_table *t;

	assert_int_equal(claim_table_open(&t, m->spool.claims_fd, 0, m->spool.instance), 0);
	assert_true(claim_grant(t, &g) >= 0);
	claim_table_close(&t);
}

static void
segment_row_of_another_size(struct made *m)
{
	m->segment.bytes -= 4096;
}

static void
row_of_a_file_that_is_gone(struct made *m)
{
	store_put_segment(
		m->txn, 2,
		&(struct store_segment){ .epoch = 3, .bytes = 1 << 20, .committed = 4096, .state = STORE_SEGMENT_SEALED });
}

/* Changes of the files. */
static void
edit(const char *name, const char *text, size_t skip, size_t n)
{
	char path[700];
	size_t size, at;
	char *all;

	snprintf(path, sizeof path, "%s/%s", root, name);
	all = scratch_read(path, &size);
	for (at = 0; text != NULL && at + strlen(text) <= size; at++) {
		if (memcmp(all + at, text, strlen(text)) == 0)
			break;
	}
	assert_true(at + skip + n <= size);
	memset(all + at + skip, 0, n);
	scratch_write(path, all, size);
	free(all);
}

static void
body_damaged(void)
{
	edit("segments/00000001.seg", "the body", 0, 1);
}

static void
envelope_damaged(void)
{
	edit("segments/00000001.seg", "c@two", 0, 1);
}

static void
segment_header_zeroed(void)
{
	edit("segments/00000001.seg", NULL, 0, 64);
}

static void
event_damaged(void)
{
	edit("events/000000000001.log", NULL, 4096 + 40, 4);
}

static void
claims_header_damaged(void)
{
	edit("claims/worker-00", NULL, 0, 8);
}

static void
claim_damaged(void)
{
	edit("claims/worker-00", NULL, 4096 + 8, 1);
}

static void
cursor_malformed(void)
{
	scratch_write(scratch_path(root, "cursors/acct"), "a cursor that is no cursor at all", 33);
}

static void
name_damaged(void)
{
	edit("lmdb/data.mdb", "a job", 0, 1);
}

static void
redirect_damaged(void)
{
	edit("lmdb/data.mdb", "\x39\x30\0\0", 0, 1); /* 12345, to which number 1200 leads */
}

static void
backoff_damaged(void)
{
	edit("lmdb/data.mdb", "421 too many", 0, 1);
}

static void
reply_damaged(void)
{
	edit("lmdb/data.mdb", "the last reply", 0, 1);
}

static void
meta_page_zeroed(void)
{
	edit("lmdb/data.mdb", NULL, 4096 + 40, 100);
}

static const struct {
	const char *what;
	void (*change)(struct made *m);
	void (*spoil)(void);
	enum check_id id;
} cases[] = {
#define ROW(change, id)                                                                            \
	{                                                                                          \
#change, change, NULL, CHECK_##id                                                  \
	}
#define FILE_(spoil, id)                                                                           \
	{                                                                                          \
#spoil, NULL, spoil, CHECK_##id                                                    \
	}
	ROW(state_without_name, QUEUES),
	ROW(row_without_name, ROW_NAMES),
	ROW(redirect_to_nowhere, REDIRECTS),
	ROW(redirect_to_itself, REDIRECTS),
	ROW(row_redirected_to_nowhere, ROW_NAMES),
	ROW(backoff_of_no_name, BACKOFF),
	ROW(backoff_owed_to_nobody, BACKOFF),
	ROW(row_of_another_epoch, PLACES),
	ROW(row_without_segment, PLACES),
	ROW(row_in_free_segment, PLACES),
	ROW(row_behind_committed, PLACES),
	ROW(record_behind_committed, PLACES),
	ROW(row_of_another_record, RECORDS),
	ROW(row_between_records, RECORDS),
	ROW(rcpt_twice, RECIPIENTS),
	ROW(rcpt_of_none, RECIPIENTS),
	ROW(record_in_a_record, OVERLAPS),
	ROW(id_above_mark, MARKS),
	ROW(epoch_above_mark, MARKS),
	ROW(lease_above_mark, MARKS),
	ROW(epoch_above_mark, STRANGERS),
	ROW(claim_of_the_future, CLAIMS),
	ROW(segment_row_of_another_size, SEGMENTS),
	ROW(row_of_a_file_that_is_gone, SEGMENTS),
	FILE_(body_damaged, RECORDS),
	FILE_(envelope_damaged, RECORDS),
	FILE_(segment_header_zeroed, SEGMENTS),
	FILE_(event_damaged, EVENTS),
	FILE_(claims_header_damaged, CLAIMS),
	FILE_(claim_damaged, CLAIMS),
	FILE_(cursor_malformed, CURSORS),
	FILE_(name_damaged, NAMES),
	FILE_(redirect_damaged, REDIRECTS),
	FILE_(backoff_damaged, BACKOFF),
	FILE_(reply_damaged, REPLIES),
	FILE_(meta_page_zeroed, PAGES),
};

static void
look(struct check *c, bool live)
{
	char why[512] = "";

	*c = (struct check){ .live = live };
	assert_int_equal(check_look(c, root, why, sizeof why), 0);
}

static void
each_is_found(void **state)
{
	static struct check c;
	struct made m;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		make(&m, cases[i].change);
		if (cases[i].spoil != NULL)
			cases[i].spoil();
		look(&c, false);
		if (c.tallies[cases[i].id].wrong == 0)
			print_message("not found: %s\n", cases[i].what);
		assert_true(c.tallies[cases[i].id].wrong > 0);
		check_clear(&c);
		scratch_remove(root);
		strcpy(root, scratch_make());
	}
}

static void
a_whole_queue(void **state)
{
	static struct check c;
	struct made m;

	(void)state;
	make(&m, NULL);
	for (int live = 0; live < 2; live++) {
		look(&c, live);
		for (unsigned i = 0; i < CHECK_COUNT; i++) {
			if (c.tallies[i].wrong > 0)
				print_message("check %u: %.*s\n", i, (int)c.tallies[i].shown.len,
					      c.tallies[i].shown.data);
			assert_true(c.tallies[i].run || live);
		}
		assert_int_equal(check_wrong(&c), 0);
		assert_int_equal(c.rows, 2 * MESSAGES);
		assert_int_equal(c.tallies[CHECK_RECORDS].looked, MESSAGES);
		check_clear(&c);
	}
}

/* Nothing is made where there is no queue, and no instance is looked at under its hands. */
static void
not_entered(void **state)
{
	static struct check c;
	char why[512] = "";
	struct made m;
	struct spool running;
	const char *text;

	(void)state;
	assert_int_equal(check_look(&c, scratch_path(root, "none"), why, sizeof why), 3);
	assert_int_equal(access(scratch_path(root, "none"), F_OK), -1);
	assert_int_equal(check_look(&c, root, why, sizeof why), 1);
	assert_int_equal(access(scratch_path(root, "format"), F_OK), -1);
	make(&m, NULL);
	assert_int_equal(spool_open(&running, root, &text), 0);
	assert_int_equal(spool_lock(&running), 0);
	assert_int_equal(check_look(&c, root, why, sizeof why), 3);
	spool_close(&running);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_whole_queue),
		TEST(each_is_found),
		TEST(not_entered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
