/* A queue's mail becomes another queue's. */
#include "tests/unit/core/fixture.h"

static uint32_t
queue_of(uint32_t e)
{
	struct core_entry_facts f;

	core_entry_get(fx.core, e, &f);
	return f.queue;
}

static bool
redirect(uint32_t from, uint32_t to, uint32_t fresh)
{
	bool done = core_redirect(fx.core, &fx.now, from, to, fresh);

	core_check(fx.core);
	return done;
}

static void
count(void *arg, uint32_t e)
{
	(void)e;
	++*(unsigned *)arg;
}

static unsigned
listed(uint32_t queue)
{
	uint32_t cursor = 0;
	unsigned n = 0;

	while (core_each_entry(fx.core, queue, &cursor, 1000, count, &n))
		;
	return n;
}

/* Whoever asks is told at once; the lists follow, as far as there is room. */
static void
at_once_and_in_steps(void **state)
{
	size_t claimed;
	uint32_t last;

	(void)state;
	fx_begin();
	connected(0, 3000, 1);
	last = mail(0, 1);
	run();
	claimed = fx.n_works;
	core_move_room(fx.core, &fx.now, 0);
	assert_true(redirect(0, 4, QUEUES));
	assert_int_equal(queue_of(last), 4);
	assert_int_equal(listed(4), 3001);
	assert_int_equal(listed(QUEUES), 0);
	assert_int_equal(core_redirected(fx.core, QUEUES), 4);
	run();
	pass(MINUTE);
	assert_int_equal(fx.n_moved, 0);
	for (unsigned k = 1; k <= 5; k++) {
		core_move_room(fx.core, &fx.now, 300);
		run();
		assert_int_equal(fx.n_moved, 300 * k);
		assert_int_equal(view(4).entries, 300 * k);
	}
	core_move_room(fx.core, &fx.now, 5000);
	run();
	/* What is in flight follows when it is back. */
	assert_int_equal(fx.n_moved, 3001 - claimed);
	assert_int_equal(view(QUEUES).entries, claimed);
	assert_int_equal(fx.n_works, claimed);
	assert_int_equal(core_redirected(fx.core, QUEUES), 4);
}

/* The name keeps what is its own; the old number is nobody's. */
static void
a_fresh_number(void **state)
{
	struct core_queue_view v;

	(void)state;
	fx_begin();
	connected(0, 1, 1);
	core_pause(fx.core, &fx.now, 0, true);
	assert_true(redirect(0, 4, QUEUES + 3));
	assert_false(core_queue_view(fx.core, &fx.now, 0, &v));
	v = view(QUEUES + 3);
	assert_true(slice_is(v.name, "d0.example/{default}"));
	assert_true(v.paused);
	assert_int_equal(v.connections, 1);
	/* An answer to the old one changes nothing. */
	core_route(fx.core, &fx.now, 0, CORE_ROUTE_NO_DOMAIN, 0, 0, 0, 0, "5.1.2 none");
	run();
	assert_int_equal(fx.n_gives, 0);
	/* An empty queue only changes its number. */
	assert_true(redirect(8, 4, QUEUES + 4));
	assert_int_equal(core_redirected(fx.core, QUEUES + 4), QUEUES + 4);
}

static void
times_stay(void **state)
{
	struct core_entry_facts before, after;

	(void)state;
	fx_begin();
	connected(0, 3, 1);
	settle(0, EVENT_DEFERRED);
	settle(1, EVENT_DEFERRED);
	core_entry_get(fx.core, fx.works[1].entry, &before);
	assert_true(before.due_s > WALL_S);
	pass(MINUTE);
	assert_true(redirect(0, 4, 0));
	run();
	core_entry_get(fx.core, fx.works[1].entry, &after);
	assert_int_equal(after.queue, 4);
	assert_int_equal(after.sent_by, 4);
	assert_int_equal(after.due_s, before.due_s);
	assert_int_equal(after.received_s, before.received_s);
	assert_int_equal(after.attempts, 1);
	fx.n_opens = fx.n_works = 0;
	route(4, 1);
	assert_int_equal(fx.n_opens, 0);
	pass(15 * MINUTE);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.opens[0].queue, 4);
}

/* Claimed and uncommitted ones, and what comes before they are all gone. */
static void
stragglers_follow(void **state)
{
	uint32_t held, fresh, e;

	(void)state;
	fx_begin();
	connected(0, 1, 1);
	e = fx.works[0].entry;
	held = add(0, 1, false);
	assert_true(redirect(0, 4, QUEUES));
	run();
	assert_int_equal(fx.n_moved, 0);
	assert_int_equal(queue_of(e), 4);
	assert_int_equal(queue_of(held), 4);
	core_entry_committed(fx.core, &fx.now, held);
	fresh = mail(QUEUES, 1);
	run();
	assert_int_equal(fx.n_moved, 2);
	assert_int_equal(queue_of(fresh), 4);
	assert_int_equal(view(4).entries, 2);
	/* No second redirect before the first is over. */
	assert_false(redirect(QUEUES, 8, QUEUES + 1));
	settle(0, EVENT_DEFERRED);
	assert_int_equal(fx.n_moved, 3);
	assert_int_equal(queue_of(e), 4);
	assert_int_equal(core_redirected(fx.core, QUEUES), QUEUES);
	/* It is over: the name's new mail is its own. */
	fresh = mail(QUEUES, 1);
	run();
	assert_int_equal(queue_of(fresh), QUEUES);
	assert_int_equal(view(QUEUES).entries, 1);
}

/* Over before all that is in flight is back: that stays, and so does what is new; not before all that
 * waited has gone. */
static void
over_at_once(void **state)
{
	size_t claimed;
	uint32_t e;

	(void)state;
	fx_begin();
	connected(0, 50, 1);
	claimed = fx.n_works;
	assert_true(claimed > 0);
	assert_true(core_redirect_over(fx.core, &fx.now, 0)); /* nothing goes anywhere */
	core_move_room(fx.core, &fx.now, 10);
	assert_true(redirect(0, 4, QUEUES));
	run();
	assert_false(core_redirect_over(fx.core, &fx.now, QUEUES));
	assert_int_equal(core_redirected(fx.core, QUEUES), 4);
	core_move_room(fx.core, &fx.now, 1000);
	run();
	assert_int_equal(core_redirected(fx.core, QUEUES), 4);
	assert_true(core_redirect_over(fx.core, &fx.now, QUEUES));
	core_check(fx.core);
	assert_int_equal(core_redirected(fx.core, QUEUES), QUEUES);
	e = mail(QUEUES, 1);
	settle(0, EVENT_DEFERRED);
	run();
	assert_int_equal(queue_of(e), QUEUES);
	assert_int_equal(queue_of(fx.works[0].entry), QUEUES);
	assert_int_equal(fx.n_moved, 50 - claimed);
	assert_int_equal(view(QUEUES).entries, claimed + 1);
}


static void
chains_and_loops(void **state)
{
	uint32_t e;

	(void)state;
	fx_begin();
	e = mail(0, 1);
	mail(4, 1);
	mail(8, 1);
	core_move_room(fx.core, &fx.now, 0);
	assert_false(redirect(0, 0, 0));
	assert_true(redirect(0, 4, 0));
	assert_false(redirect(4, 0, 4)); /* would come back */
	assert_true(redirect(4, 8, QUEUES));
	assert_false(redirect(8, 0, 8));
	assert_int_equal(queue_of(e), 8);
	assert_int_equal(listed(8), 3);
	core_move_room(fx.core, &fx.now, UINT32_MAX);
	run();
	assert_int_equal(view(8).entries, 3);
	assert_int_equal(core_redirected(fx.core, 0), 0);
	assert_int_equal(core_redirected(fx.core, QUEUES), QUEUES);
	assert_true(redirect(8, 0, 8)); /* now it does not */
	run();
	assert_int_equal(view(0).entries, 3);
}

/* What the old queue waited for, and was about to do, is forgotten. */
static void
plans_are_dropped(void **state)
{
	(void)state;
	fx_begin();
	mails(0, 5);
	run();
	assert_int_equal(view(0).wait, CORE_WAIT_DNS);
	assert_true(redirect(0, 4, 0));
	core_route_elsewhere(fx.core, &fx.now, 0);
	run();
	assert_int_equal(view(0).wait, CORE_WAIT_EMPTY);
	assert_int_equal(view(4).entries, 5);
	/* The next one asks again. */
	fx.n_asks = 0;
	mail(0, 1);
	run();
	assert_int_equal(fx.n_asks, 1);
	/* Its mail was to be given up; that of the other queue is not. */
	core_give_up_room(fx.core, &fx.now, 0);
	mails(0, 10);
	core_route(fx.core, &fx.now, 0, CORE_ROUTE_NO_DOMAIN, 0, 0, 0, fx.now.boot_us + HOUR,
		   "5.1.2 none");
	run();
	assert_true(redirect(0, 4, 0));
	core_give_up_room(fx.core, &fx.now, UINT32_MAX);
	run();
	assert_int_equal(fx.n_gives, 0);
	assert_int_equal(view(4).entries, 16);
}

/* The settings of the queue that it comes to hold: also how old it may be. */
static void
expiry_of_the_other(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[4].bounce_after_us = 30 * MINUTE;
	mails(0, 5);
	run();
	pass(HOUR);
	assert_int_equal(fx.n_gives, 0);
	assert_true(redirect(0, 4, 0));
	run();
	run();
	assert_int_equal(fx.n_gives, 5);
	assert_int_equal(fx.gives[0].why, CORE_EXPIRED);
}

/* One entry stays, whatever moves around it, and is the queue's own again when the rest has gone. */
static void
all_but_one(void **state)
{
	uint32_t e, kept = CORE_NONE;
	size_t claimed;

	(void)state;
	fx_begin();
	connected(0, 1000, 1);
	run();
	claimed = fx.n_works;
	assert_true(claimed > 0);
	core_move_room(fx.core, &fx.now, 100);
	assert_true(core_redirect_but_one(fx.core, &fx.now, 0, 4, QUEUES, &kept));
	core_check(fx.core);
	assert_int_not_equal(kept, CORE_NONE);
	assert_int_equal(queue_of(kept), QUEUES);
	assert_int_equal(listed(QUEUES), 1);
	assert_int_equal(listed(4), 999);
	run();
	assert_int_equal(fx.n_moved, 100);
	core_move_room(fx.core, &fx.now, UINT32_MAX);
	run();
	core_check(fx.core);
	assert_int_equal(view(QUEUES).entries, 1 + claimed);
	for (size_t k = 0; k < claimed; k++)
		settle(k, EVENT_DEFERRED);
	assert_int_equal(fx.n_moved, 999);
	assert_int_equal(core_redirected(fx.core, QUEUES), QUEUES);
	assert_int_equal(view(QUEUES).entries, 1);
	/* None waits: one in flight, if it is named; and one that goes is forgotten. */
	e = mail(8, 1);
	run();
	route(8, 1);
	opened(fx.n_opens - 1);
	kept = e;
	assert_true(core_redirect_but_one(fx.core, &fx.now, 8, 12, 8, &kept));
	assert_int_equal(kept, e);
	settle(fx.n_works - 1, EVENT_DELIVERED);
	assert_int_equal(view(8).entries, 0);
	mail(8, 1);
	run();
	assert_int_equal(core_redirected(fx.core, 8), 8);
	kept = CORE_NONE;
	assert_true(core_redirect_but_one(fx.core, &fx.now, 9, 12, 9, &kept));
	assert_int_equal(kept, CORE_NONE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(at_once_and_in_steps, fx_end),
		cmocka_unit_test_teardown(a_fresh_number, fx_end),
		cmocka_unit_test_teardown(times_stay, fx_end),
		cmocka_unit_test_teardown(stragglers_follow, fx_end),
		cmocka_unit_test_teardown(over_at_once, fx_end),
		cmocka_unit_test_teardown(chains_and_loops, fx_end),
		cmocka_unit_test_teardown(plans_are_dropped, fx_end),
		cmocka_unit_test_teardown(expiry_of_the_other, fx_end),
		cmocka_unit_test_teardown(all_but_one, fx_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
