/* Hosts in turn, retry, DNS answers, deferral, expiry. */
#include "tests/unit/core/fixture.h"

static void
route_to(uint32_t queue, const struct core_target *t, uint16_t n)
{
	static uint64_t generation = 5000;

	core_route_targets(fx.core, queue, t, n);
	core_route(fx.core, &fx.now, queue, CORE_ROUTE_GOOD, 1, ++generation, n,
		   fx.now.boot_us + 24 * HOUR, "");
	run();
}

static void
answer(uint32_t queue, unsigned status, uint64_t expires_in, const char *text)
{
	core_route(fx.core, &fx.now, queue, status, 0, 0, 0, fx.now.boot_us + expires_in, text);
	run();
}

static void
all_gone(void)
{
	for (size_t i = 0; i < fx.n_gives; i++)
		core_entry_gone(fx.core, &fx.now, fx.gives[i].entry);
	fx.n_gives = 0;
	run();
}

/* All targets of the best preference in turn; others only when those failed. */
static void
targets_in_turn(void **state)
{
	static const struct core_target t[] = {
		{ 11, 10, 0 }, { 12, 10, 1 }, { 13, 10, 2 }, { 14, 20, 3 }, { 15, 20, 4 }
	};
	static const uint16_t first[] = { 0, 1, 2, 0, 1, 2 };

	(void)state;
	fx_begin();
	mails(0, 6);
	run();
	route_to(0, t, 5);
	assert_int_equal(fx.n_opens, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(fx.opens[i].target, first[i]);
	open_failed(0, CORE_FAIL_HOST); /* target 0: another one in its place */
	assert_int_equal(fx.opens[6].target, 1);
	open_failed(1, CORE_FAIL_HOST);
	assert_int_equal(fx.opens[7].target, 2);
	open_failed(2, CORE_FAIL_HOST); /* none of preference 10 is left */
	assert_int_equal(fx.opens[8].target, 3);
	open_failed(3, CORE_FAIL_HOST);
	assert_int_equal(fx.opens[9].target, 4);
	opened(4); /* target 1 works after all */
	open_failed(5, CORE_FAIL_HOST);
	assert_int_equal(fx.opens[10].target, 1);
	assert_int_equal(view(0).retry_at_wall_us, 0);
}

/* Without preferences: in the given order. */
static void
plain_targets(void **state)
{
	(void)state;
	fx_begin();
	mails(0, 1);
	run();
	route(0, 3);
	assert_int_equal(fx.opens[0].target, 0);
	open_failed(0, CORE_FAIL_HOST);
	assert_int_equal(fx.opens[1].target, 1);
	open_failed(1, CORE_FAIL_DENIED);
	assert_int_equal(fx.opens[2].target, 2);
	open_failed(2, CORE_FAIL_HOST_PERMANENT);
	assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
	assert_int_equal(fx.n_gives, 0);
	assert_true(slice_is(view(0).last_error, "it failed"));
}

static void
attempts_per_mx(void **state)
{
	static const struct core_target t[] = { { 1, 10, 0 }, { 2, 10, 0 }, { 3, 10, 0 },
						{ 4, 10, 0 }, { 5, 20, 1 }, { 6, 20, 1 } };
	static const uint16_t order[] = { 0, 1, 4, 5 };

	(void)state;
	fx_begin();
	fx.settings[0].mx_connection_attempts = 2;
	mails(0, 1);
	run();
	route_to(0, t, 6);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(fx.n_opens, i + 1);
		assert_int_equal(fx.opens[i].target, order[i]);
		open_failed(i, CORE_FAIL_HOST);
	}
	assert_int_equal(fx.n_opens, 4);
	assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
}

/* The list advances on each failed round, stays on its last, restarts after a delivery. */
static void
retry_after(void **state)
{
	static const unsigned minutes[] = { 10, 30, 30 };

	(void)state;
	fx_begin();
	mails(0, 2);
	run();
	route(0, 1);
	for (unsigned i = 0; i < 3; i++) {
		size_t n = fx.n_opens;
		uint32_t third;

		assert_int_equal(n, 2 * i + 2);
		open_failed(n - 2, CORE_FAIL_HOST);
		assert_int_equal(view(0).wait,
				 CORE_WAIT_CONNECTIONS); /* the other one may get through */
		open_failed(n - 1, CORE_FAIL_HOST);
		assert_int_equal(fx.n_changed, i + 1);
		assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
		assert_int_equal(view(0).retry_at_wall_us, fx.now.wall_us + minutes[i] * MINUTE);
		assert_int_equal(view(0).retry_level, 1);
		third = mail(0, 1); /* waits for the queue */
		pass(minutes[i] * MINUTE - 1);
		assert_int_equal(fx.n_opens, n);
		core_entry_gone(fx.core, &fx.now, third);
		pass(1);
	}
	opened(fx.n_opens - 1);
	settle(0, EVENT_DELIVERED);
	assert_int_equal(fx.d.retry_level, 0);
	assert_int_equal(view(0).retry_level, 0);
	assert_int_equal(fx.n_changed, 4);
}

static void
retry_upon_new_mail(void **state)
{
	(void)state;
	for (unsigned on = 0; on < 2; on++) {
		fx_begin();
		fx.settings[0].retry_upon_new_mail = on;
		mails(0, 1);
		run();
		route(0, 1);
		open_failed(0, CORE_FAIL_HOST);
		mails(0, 1);
		run();
		assert_int_equal(fx.n_opens, on ? 3 : 1);
	}
}

static void
greeting_refused(void **state)
{
	static const struct {
		bool bounce;
		enum core_failure second;
		size_t gives;
	} rows[] = { { true, CORE_FAIL_HOST_PERMANENT, 50 },
		     { false, CORE_FAIL_HOST_PERMANENT, 0 },
		     { true, CORE_FAIL_HOST, 0 } };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		fx_begin();
		fx.settings[0].bounce_upon_5xx_greeting = rows[i].bounce;
		fx.settings[0].max_smtp_out = 1;
		mails(0, 50);
		run();
		route(0, 2);
		open_failed(0, CORE_FAIL_HOST_PERMANENT);
		assert_int_equal(fx.n_gives, 0);
		open_failed(1, rows[i].second);
		assert_int_equal(fx.n_gives, rows[i].gives);
		if (rows[i].gives == 0) {
			assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
			continue;
		}
		assert_int_equal(fx.gives[0].why, CORE_HOST_REFUSED);
		assert_string_equal(fx.gives[0].text, "it failed");
		assert_int_equal(view(0).wait, CORE_WAIT_EMPTY);
		all_gone();
		mails(0, 1); /* mail that comes later has its chance */
		run();
		assert_int_equal(fx.n_opens, 3);
	}
}

static void
dns_answers(void **state)
{
	static const struct {
		unsigned status;
		size_t gives;
		uint64_t retry_us;
		enum core_wait wait;
	} rows[] = {
		{ CORE_ROUTE_NO_DOMAIN, 100, 0, CORE_WAIT_EMPTY },
		{ CORE_ROUTE_NO_MX, 100, 0, CORE_WAIT_EMPTY },
		{ CORE_ROUTE_NULL_MX, 100, 0, CORE_WAIT_EMPTY },
		{ CORE_ROUTE_LOOP, 100, 0, CORE_WAIT_EMPTY },
		{ CORE_ROUTE_TEMPORARY, 0, MINUTE, CORE_WAIT_DNS },
		{ CORE_ROUTE_UNUSABLE, 0, 10 * MINUTE, CORE_WAIT_RETRY },
		{ 99, 0, MINUTE, CORE_WAIT_DNS },
		{ CORE_ROUTE_GOOD, 0, MINUTE, CORE_WAIT_DNS }, /* without targets */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fx_begin();
		mails(0, 100);
		run();
		answer(0, rows[i].status, HOUR, "no such domain");
		assert_int_equal(fx.n_gives, rows[i].gives);
		assert_int_equal(view(0).wait, rows[i].wait);
		assert_int_equal(view(0).retry_at_wall_us,
				 rows[i].retry_us ? fx.now.wall_us + rows[i].retry_us : 0);
		assert_int_equal(view(0).retry_level, rows[i].status == CORE_ROUTE_UNUSABLE);
		assert_int_equal(fx.n_changed, rows[i].status == CORE_ROUTE_UNUSABLE);
		if (rows[i].retry_us) {
			pass(rows[i].retry_us - 1);
			assert_int_equal(fx.n_asks, 1);
			pass(1);
			assert_int_equal(fx.n_asks, 2);
			continue;
		}
		assert_int_equal(fx.gives[0].why, CORE_NO_ROUTE);
		assert_string_equal(fx.gives[99].text, "no such domain");
		all_gone();
		/* The answer holds until it expires. */
		mails(0, 1);
		run();
		assert_int_equal(fx.n_gives, 1);
		assert_string_equal(fx.gives[0].text, "no such domain");
		all_gone();
		pass(HOUR);
		mails(0, 1);
		run();
		assert_int_equal(fx.n_gives, 0);
		assert_int_equal(fx.n_asks, 2);
	}
}

/* Mail that comes while others are given up in slices is not among them, and waits for its own
 * fate. */
static void
doom_in_slices(void **state)
{
	struct core_entry_facts f = {
		.queue = 0, .n_rcpts = 1, .received_s = WALL_S, .committed = true
	};
	uint32_t late;

	(void)state;
	fx_begin();
	fx.settings[0].max_smtp_out = 1;
	mails(0, 1000);
	run();
	route(0, 1);
	core_open_failed(fx.core, &fx.now, fx.opens[0].connection, CORE_FAIL_HOST_PERMANENT,
			 slice_str("554 no"));
	core_run(fx.core, &fx.now, 1);
	core_check(fx.core);
	assert_true(fx.n_gives < 1000);
	late = mail(0, 1);
	f.due_s = WALL_S + 60;
	core_entry_add(fx.core, &fx.now, &f);
	core_entry_withdraw(fx.core, &fx.now, 999);
	run();
	assert_int_equal(fx.n_gives, 999);
	for (size_t i = 0; i < fx.n_gives; i++)
		assert_int_not_equal(fx.gives[i].entry, late);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(view(0).entries, 2);
}

/* The route has to be fresh for new connections only. */
static void
route_expires(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].connection_idle_timeout_us = HOUR;
	mails(0, 1);
	run();
	core_route(fx.core, &fx.now, 0, CORE_ROUTE_GOOD, 1, 77, 1, fx.now.boot_us + MINUTE, "");
	run();
	opened(0);
	settle(0, EVENT_DELIVERED);
	pass(2 * MINUTE);
	mails(0, 1);
	run();
	assert_int_equal(fx.n_works, 2); /* on the old connection */
	assert_int_equal(fx.n_asks, 1);
	mails(0, 1);
	run();
	assert_int_equal(fx.n_asks, 2);
	assert_int_equal(fx.n_opens, 1);
	route(0, 1); /* another generation: the old connection ends with its message */
	assert_int_equal(fx.n_opens, 2);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 1);
}

/* A renewed route that names the same host keeps its connections, and what failed stays failed. */
static void
route_renewed(void **state)
{
	static const struct core_target t1[] = { { 1, 10, 0 }, { 2, 20, 1 } },
					t2[] = { { 3, 5, 0 }, { 2, 20, 1 }, { 1, 30, 2 } },
					t3[] = { { 9, 10, 0 } };

	(void)state;
	fx_begin();
	fx.settings[0].connection_idle_timeout_us = HOUR;
	mails(0, 1);
	run();
	route_to(0, t1, 2);
	open_failed(0, CORE_FAIL_HOST);
	opened(1); /* host 2 */
	settle(0, EVENT_DELIVERED);
	route_to(0, t2, 3);
	assert_int_equal(fx.n_closes, 0);
	mails(0, 4);
	run();
	assert_int_equal(fx.works[1].connection, fx.opens[1].connection);
	assert_int_equal(fx.opens[2].target, 0);
	open_failed(2, CORE_FAIL_HOST);
	open_failed(3, CORE_FAIL_HOST);
	open_failed(4, CORE_FAIL_HOST);
	for (size_t i = 5; i < fx.n_opens; i++)
		assert_int_equal(fx.opens[i].target, 1); /* 0 failed now, 2 (host 1) before */
	route_to(0, t3, 1);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 1); /* its host has left the route */
}

/* An idle connection that is kept ends with its route. */
static void
route_renewed_while_idle(void **state)
{
	static const struct core_target t[] = { { 1, 10, 0 } }, other[] = { { 2, 10, 0 } };

	(void)state;
	fx_begin();
	fx.settings[0].connection_idle_timeout_us = HOUR;
	mails(0, 1);
	run();
	route_to(0, t, 1);
	opened(0);
	settle(0, EVENT_DELIVERED);
	route_to(0, t, 1);
	assert_int_equal(fx.n_closes, 0);
	route_to(0, other, 1);
	assert_int_equal(fx.n_closes, 1);
}

static void
lookups_in_flight(void **state)
{
	(void)state;
	fx_begin();
	for (uint32_t q = 0; q < QUEUES; q++)
		mails(q, 1);
	run();
	assert_int_equal(fx.n_asks, 200);
	assert_int_equal(view(399).wait, CORE_WAIT_DNS);
	mail(399, 1);
	for (uint32_t q = 0; q < 200; q++) {
		route(fx.asks[q], 1);
		assert_int_equal(fx.n_asks, 201 + q);
		assert_int_equal(fx.asks[200 + q], 200 + q); /* in the order in which they came */
	}
	fx_begin();
	mails(0, 1);
	run();
	pass(30 * SECOND);
	assert_int_equal(fx.n_asks, 2); /* nobody answered */
	core_resolver_up(fx.core, &fx.now);
	run();
	assert_int_equal(fx.n_asks, 3);
	route(0, 1);
	assert_int_equal(fx.n_opens, 1);
	core_resolver_up(fx.core, &fx.now);
	run();
	assert_int_equal(fx.n_asks, 3);
}

static void
recipient_deferred(void **state)
{
	(void)state;
	fx_begin();
	connected(0, 1, 1);
	settle(0, EVENT_DEFERRED);
	assert_false(fx.d.finished);
	assert_int_equal(fx.d.attempts, 1);
	assert_int_equal(fx.d.due_s, WALL_S + 900);
	assert_int_equal(fx.d.retry_at_s, 0);
	assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
	assert_int_equal(view(0).until_wall_us, (WALL_S + 900) * SECOND);
	assert_int_equal(view(0).retry_at_wall_us, 0); /* the queue is not in retry */
	mails(0, 1);                                   /* others are not held */
	run();
	assert_int_equal(fx.n_opens, 2);
	opened(1);
	settle(1, EVENT_DELIVERED);
	pass(15 * MINUTE - SECOND);
	assert_int_equal(fx.n_opens, 2);
	pass(SECOND);
	assert_int_equal(fx.n_opens, 3);
	opened(2);
	assert_int_equal(fx.works[2].attempt, 2);
	settle_with(2, EVENT_DEFERRED, DUP);
	assert_int_equal(fx.d.row_flags, 1);
	assert_int_equal(fx.d.attempts, 2);
	assert_true(slice_is(view(0).last_error, "452 later"));
	/* `schedule` leaves it there unless told otherwise. */
	core_schedule(fx.core, &fx.now, 0, false);
	run();
	assert_int_equal(fx.n_opens, 3);
	core_schedule(fx.core, &fx.now, 0, true);
	run();
	assert_int_equal(fx.n_opens, 4);
}

static void
schedule_retry(void **state)
{
	(void)state;
	fx_begin();
	mails(0, 1);
	run();
	route(0, 1);
	open_failed(0, CORE_FAIL_HOST);
	core_schedule(fx.core, &fx.now, 0, false);
	run();
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(view(0).retry_at_wall_us, 0);
	assert_int_equal(fx.n_changed, 2);
}

/* 421 or lost: other hosts first, then the queue's retry. */
static void
host_fails_in_transaction(void **state)
{
	(void)state;
	fx_begin();
	connected(0, 1, 2);
	settle_with(0, EVENT_DEFERRED, HOST | GONE);
	assert_int_equal(fx.d.due_s, 0);
	assert_int_equal(fx.d.attempts, 1);
	assert_int_equal(fx.d.retry_at_s, 0);
	run();
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.opens[1].target, 1);
	core_closed(fx.core, &fx.now, fx.opens[0].connection, SLICE_NONE);
	opened(1);
	assert_int_equal(fx.works[1].attempt, 2);
	settle_with(1, EVENT_DEFERRED, HOST | GONE);
	assert_int_equal(fx.d.retry_at_s, WALL_S + 600);
	assert_int_equal(fx.d.retry_level, 1);
	run();
	assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
}

/* A message that ends connections does not end one after the other. */
static void
poison(void **state)
{
	size_t w = 0, o = 0;
	unsigned hits = 0;

	(void)state;
	fx_begin();
	mails(0, 200);
	run();
	route(0, 8);
	while (w < fx.n_works || o < fx.n_opens) {
		for (; o < fx.n_opens; o++)
			opened(o);
		for (size_t n = fx.n_works; w < n; w++) {
			bool bad = fx.works[w].key.message == 1;

			settle_with(w, bad ? EVENT_DEFERRED : EVENT_DELIVERED,
				    bad ? HOST | GONE : 0);
			hits += bad;
		}
		run();
	}
	assert_int_equal(view(0).delivered, 199);
	assert_int_equal(hits, 2);
	assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
	assert_int_equal(view(0).retry_at_wall_us, 0); /* it waits alone */
}

static void
unattempted(void **state)
{
	(void)state;
	fx_begin();
	connected(0, 1, 1);
	settle(0, EVENT_UNATTEMPTED);
	assert_int_equal(fx.d.due_s, 0);
	assert_int_equal(fx.d.attempts, 0);
	assert_int_equal(fx.n_works, 2);
	settle(1, EVENT_UNATTEMPTED);
	assert_int_equal(fx.d.due_s, WALL_S + 900);
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(view(0).attempted, 0);
}

static void
returned_often(void **state)
{
	(void)state;
	fx_begin();
	connected(0, 1, 1);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(fx.n_works, i + 1);
		assert_true(core_returned(fx.core, &fx.now, fx.works[i].entry, fx.works[i].lease));
		run();
	}
	assert_int_equal(fx.n_works, 3);
	assert_int_equal(fx.n_closes, 1);
	pass(6 * SECOND);
	core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
	run();
	assert_int_equal(fx.n_opens, 2);
}

/* A peer that takes connections and drops them at once is no better than one that refuses. */
static void
accepts_and_closes(void **state)
{
	(void)state;
	fx_begin();
	fx.room = 0; /* so that they stay idle */
	connected(0, 1, 1);
	pass(SECOND);
	core_closed(fx.core, &fx.now, fx.opens[0].connection, slice_str("lost"));
	run();
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_RETRY);
	assert_true(slice_is(view(0).last_error, "lost"));
}

/* Expiry counts from reception, whatever the queue waits for. */
enum where { NOWHERE, PAUSED, IN_RETRY, DNS, RATE, DEFERRED, NO_WORKER, CLAIMED, TOTAL };

static void
put_into(enum where w)
{
	switch (w) {
	case PAUSED:
		core_pause(fx.core, &fx.now, 0, true);
		break;
	case IN_RETRY:
		fx.settings[0].retry_after.us[0] = 1000 * HOUR;
		route(0, 1);
		open_failed(0, CORE_FAIL_HOST);
		break;
	case RATE:
		route(0, 1);
		opened(0);
		mails(0, 1);
		break;
	case DEFERRED:
		fx.settings[0].retry_recipients_after_us = 1000 * HOUR;
		route(0, 1);
		opened(0);
		settle(0, EVENT_DEFERRED);
		break;
	case NO_WORKER:
		core_worker_down(fx.core, &fx.now, 0);
		core_worker_down(fx.core, &fx.now, 1);
		route(0, 1);
		break;
	case CLAIMED:
		route(0, 1);
		opened(0);
		break;
	case TOTAL:
	case DNS:
	case NOWHERE:
		break;
	}
	run();
}

static void
expiry(void **state)
{
	static const enum core_wait waits[] = {
		[PAUSED] = CORE_WAIT_PAUSED,     [IN_RETRY] = CORE_WAIT_RETRY,
		[DNS] = CORE_WAIT_DNS,           [RATE] = CORE_WAIT_RATE,
		[DEFERRED] = CORE_WAIT_RETRY,    [NO_WORKER] = CORE_WAIT_SOURCES,
		[TOTAL] = CORE_WAIT_CONNECTIONS, [CLAIMED] = CORE_WAIT_NONE
	};

	(void)state;
	for (enum where w = PAUSED; w <= TOTAL; w++) {
		uint64_t end;

		fx_begin_in(2, 3, w == TOTAL ? 1 : CONF_UNLIMITED);
		fx.settings[0].bounce_after_us = 10 * MINUTE;
		if (w == TOTAL) {
			connected(4, 1, 1);
			mails(0, 1);
			run();
			route(0, 1);
		}
		if (w == RATE)
			fx.settings[0].max_msg_rate = (struct conf_rate){ 1, 10000 * HOUR };
		if (w != TOTAL)
			mails(0, 1);
		run();
		put_into(w);
		assert_int_equal(view(0).wait, waits[w]);
		end = fx.now.boot_us + 10 * MINUTE;
		while (fx.now.boot_us < end - SECOND) {
			pass(SECOND);
			if (w == DNS)
				core_settings_changed(fx.core, &fx.now);
		}
		assert_int_equal(fx.n_gives, 0);
		pass(8 * SECOND); /* a hundredth of ten minutes, and a second for rounding */
		if (w == CLAIMED) {
			assert_int_equal(fx.n_gives, 0);
			settle(0, EVENT_DEFERRED);
			pass(7 * SECOND);
		}
		if (fx.n_gives != 1)
			fail_msg("where %d: %zu", w, fx.n_gives);
		assert_int_equal(fx.gives[0].why, CORE_EXPIRED);
	}
}

/* Old entries are found among many young ones, in slices; never is never. */
static void
expiry_of_some(void **state)
{
	struct core_entry_facts f = { .queue = 0, .n_rcpts = 1, .committed = true };

	(void)state;
	fx_begin();
	fx.settings[0].bounce_after_us = HOUR;
	core_pause(fx.core, &fx.now, 0, true);
	for (unsigned i = 0; i < 3000; i++) {
		f.key.message = i + 1;
		f.received_s = i == 1500 ? WALL_S - 1800 : WALL_S;
		core_entry_add(fx.core, &fx.now, &f);
	}
	run();
	pass(30 * MINUTE - 3 * SECOND);
	assert_int_equal(fx.n_gives, 0);
	pass(MINUTE);
	assert_int_equal(fx.n_gives, 1);
	assert_int_equal(fx.gives[0].entry, 1500);
	fx.settings[0].bounce_after_us = CONF_NEVER;
	core_settings_changed(fx.core, &fx.now);
	pass(1000 * HOUR);
	assert_int_equal(fx.n_gives, 1);
	fx.settings[0].bounce_after_us = HOUR;
	core_settings_changed(fx.core, &fx.now);
	run();
	assert_int_equal(fx.n_gives, 3000);
}

/* Who paused a queue that waits for its retry sees it paused at once, and waiting again when it is resumed. */
static void
paused_is_said_at_once(void **state)
{
	struct core_queue_view v;

	(void)state;
	fx_begin();
	core_queue_restore(fx.core, 0, false, 1, fx.now.wall_us + 10 * MINUTE, SLICE_LIT("450 later"));
	mails(0, 1);
	run();
	assert_true(core_queue_view(fx.core, &fx.now, 0, &v));
	assert_int_equal(v.wait, CORE_WAIT_RETRY);
	core_pause(fx.core, &fx.now, 0, true);
	assert_true(core_queue_view(fx.core, &fx.now, 0, &v));
	assert_int_equal(v.wait, CORE_WAIT_PAUSED);
	assert_int_equal(v.until_wall_us, 0);
	core_pause(fx.core, &fx.now, 0, false);
	run();
	assert_true(core_queue_view(fx.core, &fx.now, 0, &v));
	assert_int_equal(v.wait, CORE_WAIT_RETRY);
	assert_true(v.until_wall_us > fx.now.wall_us);
}

/* A search has just been made and the next is far away: what expired meanwhile is not sent all the
 * same. */
static void
expired_at_the_grant(void **state)
{
	(void)state;
	fx_begin();
	core_pause(fx.core, &fx.now, 0, true);
	mails(0, 1);
	pass(10 * MINUTE);
	mails(0, 1);
	pass(108 * HOUR - 10 * MINUTE + SECOND);
	assert_int_equal(fx.n_gives, 1);
	pass(10 * MINUTE);
	assert_int_equal(fx.n_gives, 1);
	mails(0, 1);
	core_pause(fx.core, &fx.now, 0, false);
	run();
	route(0, 1);
	opened(0);
	assert_int_equal(fx.n_gives, 2);
	assert_int_equal(fx.gives[1].why, CORE_EXPIRED);
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(fx.works[0].key.message, 3);
}

/* However many expire together, or lose their domain: no more are given up than there is room for, and all are in
 * the end. */
static void
room_to_give_up(void **state)
{
	size_t before;

	(void)state;
	fx_begin();
	for (uint32_t q = 0; q < 4; q++) {
		core_pause(fx.core, &fx.now, q, true);
		fx.settings[q].bounce_after_us = HOUR;
		mails(q, 100);
	}
	core_give_up_room(fx.core, &fx.now, 0);
	pass(2 * HOUR);
	assert_int_equal(fx.n_gives, 0);
	for (unsigned turn = 0; turn < 8 && fx.n_gives < 300; turn++) {
		before = fx.n_gives;
		core_give_up_room(fx.core, &fx.now, 1);
		run();
		/* A search is not cut short: it gives up what it finds in one go. */
		assert_in_range(fx.n_gives, before, before + 100);
	}
	assert_int_equal(fx.n_gives, 300);
	core_give_up_room(fx.core, &fx.now, UINT32_MAX);
	run();
	assert_int_equal(fx.n_gives, 400);
	/* The same for a domain that cannot get mail; one by one there. */
	core_pause(fx.core, &fx.now, 0, false);
	mails(0, 50);
	core_give_up_room(fx.core, &fx.now, 20);
	run();
	answer(0, CORE_ROUTE_NULL_MX, HOUR, "5.1.10 null MX");
	run();
	assert_int_equal(fx.n_gives, 420);
	core_give_up_room(fx.core, &fx.now, 100);
	run();
	assert_int_equal(fx.n_gives, 450);
}

/* Entries that leave while a search in slices stands on them. */
static void
withdrawn_in_search(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].bounce_after_us = HOUR;
	core_pause(fx.core, &fx.now, 0, true);
	mails(0, 1);
	pass(MINUTE);
	mails(0, 5000);
	run();
	fx.now.boot_us += HOUR;
	fx.now.wall_us += HOUR;
	for (unsigned turn = 0; turn < 12; turn++) {
		core_run(fx.core, &fx.now, 1);
		core_check(fx.core);
		for (uint32_t e = 1000 * turn + 1; e < 1000 * turn + 1100 && e < 5000; e++) {
			if (core_entry_is(fx.core, e, (struct entry_key){ e + 1, 3 }) &&
			    core_entry_withdraw(fx.core, &fx.now, e))
				core_entry_gone(fx.core, &fx.now, e);
		}
		core_check(fx.core);
	}
	run();
	pass(2 * MINUTE);
	assert_int_equal(view(0).entries, 0);
}

/* The wall clock is set: nothing expires at once, nothing is released at once. */
static void
wall_steps(void **state)
{
	static const int64_t steps_s[] = { 86400 * 365, -86400 * 365, 3600, -3600 };

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		uint32_t before;

		fx_begin();
		connected(0, 2, 1);
		settle(0, EVENT_DEFERRED);
		before = fx.d.due_s;
		fx.now.wall_us += (uint64_t)(steps_s[i] * (int64_t)SECOND);
		run();
		assert_int_equal(fx.n_gives, 0);
		pass(14 * MINUTE);
		assert_int_equal(fx.n_works, 2);
		settle(1, EVENT_DEFERRED); /* its row speaks of the new wall time */
		assert_int_equal(fx.d.due_s, before + 14 * 60 + steps_s[i]);
		pass(MINUTE + SECOND);
		assert_int_equal(fx.n_opens, 3);
	}
}

/* As loaded: due times in any order, retry times, ages. */
static void
as_loaded(void **state)
{
	struct core_entry_facts f = {
		.queue = 0, .n_rcpts = 1, .received_s = WALL_S - 3600, .committed = true
	};
	uint32_t last = 0;

	(void)state;
	fx_begin();
	core_queue_restore(fx.core, 0, false, 1, (WALL_S + 60) * SECOND, slice_str("451 was busy"));
	core_queue_restore(fx.core, 4, true, 0, 0, SLICE_NONE);
	core_queue_restore(fx.core, 8, false, 0, (WALL_S - 60) * SECOND, SLICE_NONE);
	for (unsigned i = 0; i < 500; i++) {
		f.key.message = i + 1;
		f.due_s = WALL_S + (i * 7919) % 500;
		core_entry_add(fx.core, &fx.now, &f);
	}
	mail(4, 1);
	mail(8, 1);
	run();
	assert_int_equal(fx.n_asks, 1); /* queue 8 only */
	assert_int_equal(fx.asks[0], 8);
	assert_int_equal(view(0).retry_at_wall_us, (WALL_S + 60) * SECOND);
	assert_true(slice_is(view(0).last_error, "451 was busy"));
	assert_int_equal(view(4).wait, CORE_WAIT_PAUSED);
	pass(60 * SECOND);
	assert_int_equal(fx.n_asks, 3); /* and 8 again */
	fx.settings[0].max_smtp_out = 1;
	route(0, 1);
	opened(fx.n_opens - 1);
	while (fx.n_works < 500) {
		size_t k = fx.n_works - 1;
		uint32_t due = (uint32_t)((fx.works[k].key.message - 1) * 7919) % 500;

		assert_true(due >= last);
		last = due;
		assert_true(WALL_S + due <= fx.now.wall_us / SECOND);
		settle(k, EVENT_DELIVERED);
		while (fx.n_works == k + 1) {
			if (fx.n_closes)
				core_closed(fx.core, &fx.now, fx.closes[fx.n_closes - 1],
					    SLICE_NONE);
			pass(SECOND);
			core_opened(fx.core, &fx.now, fx.opens[fx.n_opens - 1].connection, 0);
			run();
		}
	}
}

/* Many due at the same second; a search for expired ones stands among them. */
static void
due_together(void **state)
{
	struct core_entry_facts f = {
		.queue = 0, .n_rcpts = 1, .received_s = WALL_S - 10, .committed = true
	};

	(void)state;
	fx_begin();
	fx.settings[0].bounce_after_us = MINUTE;
	core_pause(fx.core, &fx.now, 0, true);
	for (unsigned i = 0; i < 4000; i++) {
		f.key.message = i + 1;
		f.due_s = WALL_S + 30 + (i % 2 ? 0 : 4000 - i);
		core_entry_add(fx.core, &fx.now, &f);
	}
	run();
	pass(31 * SECOND);
	core_pause(fx.core, &fx.now, 0, false);
	run();
	assert_int_equal(fx.n_asks, 1);
	fx.now.boot_us += 19 * SECOND;
	fx.now.wall_us += 19 * SECOND;
	core_run(fx.core, &fx.now, 2);
	for (unsigned i = 0; i < 3; i++) {
		/* Delays in no order, while the search is under way. */
		f.key.message = 10000 + i;
		f.due_s = WALL_S + 3000 - 200 * i;
		core_entry_add(fx.core, &fx.now, &f);
		core_run(fx.core, &fx.now, 1);
		core_check(fx.core);
	}
	run();
	pass(2 * SECOND);
	assert_int_equal(fx.n_gives, 4003);
	assert_int_equal(view(0).entries, 0);
}

/* A connection that ends before the worker said it was ready; a failure of one that was. */
static void
odd_ends(void **state)
{
	(void)state;
	fx_begin();
	mails(0, 2);
	run();
	route(0, 2);
	core_closed(fx.core, &fx.now, fx.opens[0].connection, slice_str("lost"));
	run();
	assert_int_equal(fx.opens[2].target, 1);
	opened(1);
	open_failed(1, CORE_FAIL_HOST);
	assert_int_equal(view(0).connections, 1);
	assert_int_equal(core_connection_worker(fx.core, fx.opens[1].connection), -1);
}

/* Retries that came due while nobody ran are spread; new mail is not among them. */
static void
overdue_at_start(void **state)
{
	struct core_entry_facts f = {
		.queue = 0, .n_rcpts = 1, .received_s = WALL_S - 3600, .committed = true
	};
	unsigned in_second[61] = { 0 };

	(void)state;
	fx_begin();
	for (unsigned i = 0; i < 2000; i++) {
		struct core_entry_facts out;
		uint32_t e;

		f.key.message = i + 1;
		f.due_s = i % 2 ? WALL_S - 1 - i : 0;
		f.attempts = i % 2;
		e = core_entry_add(fx.core, &fx.now, &f);
		core_entry_get(fx.core, e, &out);
		assert_true(out.due_s == 0 || (out.due_s > WALL_S && out.due_s <= WALL_S + 60));
		in_second[out.due_s ? out.due_s - WALL_S : 0]++;
	}
	core_check(fx.core);
	assert_in_range(in_second[0], 1000, 1100);
	for (unsigned s = 1; s <= 60; s++)
		assert_true(in_second[s] <= 100);
	run();
	f.key.message = 5000; /* later on there is nothing to spread */
	f.attempts = 1;
	f.due_s = WALL_S;
	core_entry_get(fx.core, core_entry_add(fx.core, &fx.now, &f), &f);
	assert_int_equal(f.due_s, 0);
}

/* Retry delays that are made shorter: those deferred later are due earlier. */
static void
shorter_delays(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_smtp_out = 1;
	connected(0, 300, 1);
	for (unsigned i = 0; i < 300; i++) {
		fx.settings[0].retry_recipients_after_us = (300 - i % 100) * SECOND;
		settle(i, EVENT_DEFERRED);
	}
	assert_int_equal(view(0).until_wall_us, fx.now.wall_us + 201 * SECOND);
	for (unsigned s = 0; s < 300; s++)
		pass(SECOND);
	assert_string_equal(view(0).limit, "max-smtp-out");
	core_schedule(fx.core, &fx.now, 0, true);
	run();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(targets_in_turn),
		cmocka_unit_test(plain_targets),
		cmocka_unit_test(attempts_per_mx),
		cmocka_unit_test(retry_after),
		cmocka_unit_test(retry_upon_new_mail),
		cmocka_unit_test(greeting_refused),
		cmocka_unit_test(dns_answers),
		cmocka_unit_test(doom_in_slices),
		cmocka_unit_test(route_expires),
		cmocka_unit_test(route_renewed),
		cmocka_unit_test(route_renewed_while_idle),
		cmocka_unit_test(lookups_in_flight),
		cmocka_unit_test(recipient_deferred),
		cmocka_unit_test(schedule_retry),
		cmocka_unit_test(host_fails_in_transaction),
		cmocka_unit_test(poison),
		cmocka_unit_test(unattempted),
		cmocka_unit_test(returned_often),
		cmocka_unit_test(accepts_and_closes),
		cmocka_unit_test(expiry),
		cmocka_unit_test(expiry_of_some),
		cmocka_unit_test(expired_at_the_grant),
		cmocka_unit_test(paused_is_said_at_once),
		cmocka_unit_test(room_to_give_up),
		cmocka_unit_test(withdrawn_in_search),
		cmocka_unit_test(wall_steps),
		cmocka_unit_test(as_loaded),
		cmocka_unit_test(due_together),
		cmocka_unit_test(odd_ends),
		cmocka_unit_test(overdue_at_start),
		cmocka_unit_test(shorter_delays),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
