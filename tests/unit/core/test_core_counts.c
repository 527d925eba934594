/* Counts that are lowered, and queues that wait for one of several things. */
#include "tests/unit/core/fixture_limits.h"

static uint64_t at_source[2]; /* max-smtp-out by mode */
static uint32_t over;         /* an operator's for source IP 2 */

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	if (scope != CORE_SCOPE_SOURCE || number != 2 || over == 0)
		return false;
	out->max_smtp_out = over;
	return true;
}

static void
op_source_limits(void *ctx, uint32_t queue, struct slice name, uint32_t source, bool backoff,
		 struct conf_limits *out)
{
	(void)ctx;
	(void)queue;
	(void)name;
	(void)source;
	out->max_smtp_out = at_source[backoff];
}

static void
start(void)
{
	static const struct core_ops ops = { FX_OPS, .scope_limits = op_scope_limits,
					     .source_limits = op_source_limits };
	struct core_world w = fx_limits_world(5);

	for (uint32_t i = 0; i < QUEUES; i++)
		fx.settings[i].connection_idle_timeout_us = HOUR;
	fx_core_in(&ops, &w);
}

static int
setup(void **state)
{
	(void)state;
	fx_unlimited();
	over = 0;
	at_source[0] = at_source[1] = 0;
	fx_begin();
	return 0;
}

static void
reload(void)
{
	static const uint32_t same[] = { 0, 1, 2, 3, 4 };
	struct core_world w = fx_limits_world(5);

	core_reconfigure_in(fx.core, &fx.now, &w, same);
	run();
}

/* Six connections of queue 3, four of them idle. */
static void
six(void)
{
	start();
	connected(3, 6, 1);
	assert_int_equal(fx.n_works, 6);
	for (size_t k = 0; k < 4; k++)
		settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 0);
}

/* The idle ones first, then those that carry a message, when it is done. */
static void
lowered(void **state)
{
	(void)state;
	vmtas[3].limits.max_smtp_out = 6;
	six();
	vmtas[3].limits.max_smtp_out = 3;
	reload();
	assert_int_equal(fx.n_closes, 3);
	vmtas[3].limits.max_smtp_out = 1;
	reload();
	assert_int_equal(fx.n_closes, 4);
	settle(4, EVENT_DELIVERED);
	settle(5, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 5);
	for (size_t k = 0; k < 5; k++)
		core_closed(fx.core, &fx.now, fx.closes[k], SLICE_NONE);
	run();
	assert_int_equal(view(3).connections, 1);
	/* The one that is left goes on. */
	mail(3, 1);
	run();
	assert_int_equal(fx.n_works, 7);
}

/* More mail waits: it does not keep the ones that are too many. */
static void
lowered_while_busy(void **state)
{
	(void)state;
	vmtas[3].limits.max_smtp_out = 6;
	six();
	mails(3, 10);
	run();
	assert_int_equal(fx.n_works, 10);
	vmtas[3].limits.max_smtp_out = 2;
	reload();
	assert_int_equal(fx.n_closes, 0);
	for (size_t k = 4; k < 10; k++)
		settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 4);
	assert_int_equal(fx.n_works, 12);
}

/* Back-off has its own limits by source IP. */
static void
other_mode(void **state)
{
	(void)state;
	at_source[0] = 6;
	at_source[1] = 2;
	fx.settings[3].source_limits = true;
	six();
	core_backoff_enter(fx.core, &fx.now, 3,
			   &(const struct core_backoff){ .source_ip = CORE_NONE });
	run();
	assert_int_equal(fx.n_closes, 4);
	for (size_t k = 0; k < 4; k++)
		core_closed(fx.core, &fx.now, fx.closes[k], SLICE_NONE);
	mails(3, 5);
	run();
	assert_int_equal(fx.n_opens, 6);
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, true);
	run();
	assert_int_equal(fx.n_opens, 10);
}

/* Queue 5 waits for one of two things: worker 1 has no connection left, and source IP 2's count is
 * used up, by the second OPEN. */
static void
one_waits(void)
{
	ips[2].limits.max_smtp_out = 1;
	start();
	core_worker_connections(fx.core, &fx.now, 1, 1);
	connected(3, 1, 1);
	assert_int_equal(fx.opens[0].worker, 1);
	connected(1, 1, 1);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.opens[1].source_ip, 2);
	mail(5, 1);
	run();
	route(5, 1);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(view(5).wait, CORE_WAIT_CONNECTIONS);
}

/* Whichever ends first. */
static void
whichever_ends_first(void **state)
{
	(void)state;
	one_waits();
	settle_with(1, EVENT_DELIVERED, GONE);
	core_closed(fx.core, &fx.now, fx.opens[1].connection, SLICE_NONE);
	run();
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(fx.opens[2].source_ip, 2);
}

static void
more_at_the_other(void **state)
{
	(void)state;
	one_waits();
	ips[2].limits.max_smtp_out = 2;
	reload();
	assert_int_equal(fx.n_opens, 3);
}

/* Set by an operator. */
static void
more_by_hand(void **state)
{
	(void)state;
	one_waits();
	over = 2;
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_SOURCE, 2);
	run();
	assert_int_equal(fx.n_opens, 3);
}

/* Who stands before it in the worker's line has no use for what ended. */
static void
another_one_first(void **state)
{
	static const struct conf_vmta_source one_four[] = { { 1, "a", 1 }, { 4, "d", 1 } };

	(void)state;
	ips[2].limits.max_smtp_out = ips[4].limits.max_smtp_out = 1;
	vmtas[2].sources = one_four;
	start();
	core_worker_connections(fx.core, &fx.now, 1, 1);
	connected(3, 1, 1); /* of 1 */
	connected(1, 1, 1);
	assert_int_equal(fx.opens[1].source_ip, 2);
	connected(2, 1, 1);
	assert_int_equal(fx.opens[2].source_ip, 4);
	for (uint32_t q = 6; q >= 5; q--) { /* of 1 and 4, then of 1 and 2 */
		mail(q, 1);
		run();
		route(q, 1);
	}
	assert_int_equal(fx.n_opens, 3);
	settle_with(1, EVENT_DELIVERED, GONE);
	core_closed(fx.core, &fx.now, fx.opens[1].connection, SLICE_NONE);
	run();
	assert_int_equal(fx.n_opens, 4);
	assert_int_equal(fx.opens[3].queue, 5);
}

#define T(name) cmocka_unit_test_setup(name, setup)

/* All connections that the queue may have came from one source IP while the other one was out: that
 * one gets its share when it is back, and no more is closed then. */
static void
spread_again(void **state)
{
	unsigned by[3] = { 0 };
	size_t closes;

	(void)state;
	ips[1].limits.max_msg_rate = ips[2].limits.max_msg_rate = (struct conf_rate){ 10, SECOND };
	start();
	fx.settings[1].max_smtp_out = 4;
	core_source_disable(fx.core, &fx.now, CORE_NONE, 2, true, UINT64_MAX);
	mails(1, 400);
	run();
	route(1, 1);
	work_off();
	assert_int_equal(fx.n_opens, 4);
	core_source_disable(fx.core, &fx.now, CORE_NONE, 2, false, 0);
	for (unsigned i = 0; i < 50; i++) {
		pass(20000);
		work_off();
	}
	for (size_t k = 0; k < fx.n_works; k++)
		by[fx.works[k].source_ip]++;
	assert_true(by[1] >= 9 && by[2] >= 8);
	closes = fx.n_closes;
	assert_true(closes >= 1 && closes <= 3);
	for (unsigned i = 0; i < 100; i++) {
		pass(20000);
		work_off();
	}
	assert_int_equal(fx.n_closes, closes);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(lowered),           T(lowered_while_busy),
		T(other_mode),        T(whichever_ends_first),
		T(more_at_the_other), T(more_by_hand),
		T(another_one_first), T(spread_again),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
