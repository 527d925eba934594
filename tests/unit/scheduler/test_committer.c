/* The writer: what an event must precede is not in the store before it, and after an error nothing
 * is written. */
#include "tests/unit/scheduler/fixture.h"

static const struct store_meta fresh = {
	.next_message_id = 1, .next_epoch = 1, .next_lsn = 1, .next_lease = 1
};

static struct entry_key
key_of(uint64_t message)
{
	return (struct entry_key){ message, 0 };
}

static struct store_row
row_of(uint16_t attempts)
{
	return (struct store_row){
		.queue = 1, .segment = 1, .epoch = 1, .n_rcpts = 1, .attempts = attempts
	};
}

struct seen {
	uint64_t n;
	unsigned attempts[8]; /* by message */
};

static void
see(void *arg, struct entry_key key, const struct store_row *row)
{
	struct seen *s = arg;

	s->n++;
	assert_true(key.message < 8);
	s->attempts[key.message] = row->attempts;
}

static struct seen
look(struct fixture *f)
{
	struct seen s = { 0 };
	uint64_t bad;

	assert_int_equal(store_load_rows(f->store, see, &s, &bad), 0);
	assert_int_equal(bad, 0);
	return s;
}

static uint64_t
events_in(struct fixture *f)
{
	struct event_position begin = { 0, 0 }, end = committer_synced(f->committer), at;
	struct event_reader *r;
	struct event e;
	uint64_t n = 0;

	assert_int_equal(event_reader_open(&r, f->spool.events_fd, f->spool.instance, begin), 0);
	while (event_read(r, end, &e, &at) == 1)
		n++;
	event_reader_close(&r);
	return n;
}

struct order {
	unsigned now, settled, turn;
};

static void
on_now(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
	struct fixture *f = ctx;
	struct order *o = f->at;
	struct seen s = look(f);

	(void)a;
	(void)b;
	(void)c;
	o->now = ++o->turn;
	/* The new row is there and the event is; the row that the event is about is as it was. */
	assert_int_equal(s.n, 2);
	assert_int_equal(s.attempts[1], 0);
	assert_int_equal(events_in(f), 1);
	assert_true(event_position_before(committer_covered(f->committer),
					  committer_synced(f->committer)));
}

static void
on_settled(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
	struct fixture *f = ctx;
	struct order *o = f->at;
	struct seen s = look(f);

	(void)a;
	(void)b;
	(void)c;
	o->settled = ++o->turn;
	assert_int_equal(s.attempts[1], 1);
	assert_false(event_position_before(committer_covered(f->committer),
					   committer_synced(f->committer)));
	loop_stop(f->loop);
}

static void
stop_when_there(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
	struct fixture *f = ctx;

	(void)a;
	(void)b;
	(void)c;
	loop_stop(f->loop);
}

static void
event_before_row(void **state)
{
	struct fixture *f = fx_make(&fresh, 64u << 20);
	struct order order = { 0 };
	struct event e = { .kind = EVENT_RESULT, .message = 1, .attempt = 1 };
	struct store_row row = row_of(0);

	(void)state;
	f->at = &order;
	committer_put_row(f->committer, COMMIT_NOW, key_of(1), &row);
	committer_then(f->committer, COMMIT_NOW, stop_when_there, f, 0, 0, 0);
	fx_run(f);
	committer_put_row(f->committer, COMMIT_NOW, key_of(2), &row);
	committer_event(f->committer, &e);
	row = row_of(1);
	committer_put_row(f->committer, COMMIT_SETTLE, key_of(1), &row);
	committer_then(f->committer, COMMIT_NOW, on_now, f, 0, 0, 0);
	committer_then(f->committer, COMMIT_SETTLE, on_settled, f, 0, 0, 0);
	fx_run(f);
	assert_int_equal(order.now, 1);
	assert_int_equal(order.settled, 2);
	fx_remove(f);
}

static void
never(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
	(void)ctx;
	(void)a;
	(void)b;
	(void)c;
	fail_msg("an answer after a failed commit");
}

static void
fill(struct fixture *f)
{
	struct store_row row = row_of(0);

	for (uint64_t i = 0; i < 20000; i++)
		committer_put_row(f->committer, COMMIT_NOW, key_of(1000000 + i), &row);
	committer_then(f->committer, COMMIT_NOW, never, f, 0, 0, 0);
}

static void
on_soon(void *arg)
{
	struct fixture *f = arg;

	loop_stop(f->loop);
}

static void
nothing_after_an_error(void **state)
{
	struct fixture *f = fx_make(&fresh, 256u << 10); /* a map that has no room for it */
	struct timer soon = { 0 };

	(void)state;
	fill(f);
	fx_run(f);
	assert_int_equal(f->failures, 1);
	assert_true(f->failure < 0);
	/* The turn goes on to its end, and perhaps others before the process leaves: nothing is
	 * tried again. */
	fill(f);
	timer_init(&soon, f->loop, on_soon, f);
	timer_set(&soon, 50000);
	fx_run(f);
	timer_clear(&soon);
	assert_int_equal(f->failures, 1);
	fx_remove(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(event_before_row),
		cmocka_unit_test(nothing_after_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
