/* Limits as seen in the stream of grants. */
#include "tests/unit/core/fixture.h"

/* Runs until `end`, every WORK delivered at once, every OPEN successful, every CLOSE done; from the
 * given ones of each log on. */
static void
flow(uint64_t end, size_t o, size_t w, size_t cl)
{
	for (;;) {
		uint64_t next = 0;
		bool busy = true;

		while (busy) {
			next = run();
			busy = false;
			for (; o < fx.n_opens; o++, busy = true)
				core_opened(fx.core, &fx.now, fx.opens[o].connection, 0);
			for (; w < fx.n_works; w++, busy = true)
				settle_with(w, EVENT_DELIVERED, 0);
			for (; cl < fx.n_closes; cl++, busy = true)
				core_closed(fx.core, &fx.now, fx.closes[cl], SLICE_NONE);
		}
		if (next > end)
			return;
		assert_true(next > fx.now.boot_us); /* no polling */
		fx.now.wall_us += next - fx.now.boot_us;
		fx.now.boot_us = next;
	}
}

static size_t
densest(uint64_t length, bool connects)
{
	size_t most = 0, n = connects ? fx.n_opens : fx.n_works;

	for (size_t i = 0; i < n; i++) {
		size_t sum = 0;

		for (size_t k = i; k < n; k++) {
			uint64_t from = connects ? fx.opens[i].deadline_boot_us
						 : fx.works[i].granted_boot_us;
			uint64_t at = connects ? fx.opens[k].deadline_boot_us
					       : fx.works[k].granted_boot_us;

			if (at > from + length)
				break;
			sum += connects ? 1 : fx.works[k].n_attempt;
		}
		most = sum > most ? sum : most;
	}
	return most;
}

static void
message_rate(void **state)
{
	static const struct {
		uint64_t n, window_s;
		unsigned mails, rcpts;
	} rows[] = { { 10, 1, 300, 1 },
		     { 5, 60, 200, 1 },
		     { 100, 10, 2500, 1 },
		     { 200, 10, 60, 80 },
		     { 1, 1, 40, 3 } };

	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t window = rows[i].window_s * SECOND, n = rows[i].n, sent = 0;
		uint64_t share = n / 5 ? n / 5 : 1;

		fx_begin();
		fx.settings[0].max_msg_rate = (struct conf_rate){ n, window };
		for (unsigned k = 0; k < rows[i].mails; k++)
			mail(0, rows[i].rcpts);
		run();
		route(0, 1);
		flow(fx.now.boot_us + 20 * window, 0, 0, 0);
		for (size_t k = 0; k < fx.n_works; k++) {
			assert_true(fx.works[k].n_attempt <= share);
			assert_int_equal(fx.works[k].deadline_boot_us - fx.works[k].granted_boot_us,
					 window / 100 < 10000 ? 10000 : window / 100);
			sent += fx.works[k].n_attempt;
		}
		assert_true(densest(window, false) <= n);
		assert_true(densest(window / 10, false) <= share);
		if (sent < 20 * n * 98 / 100 && view(0).entries > 0)
			fail_msg("row %u: %llu wait %d limit %s conns %u", i,
				 (unsigned long long)sent, view(0).wait, view(0).limit,
				 view(0).connections);
		assert_int_equal(view(0).attempted, sent);
		if (view(0).entries) {
			assert_int_equal(view(0).wait, CORE_WAIT_RATE);
			assert_string_equal(view(0).limit, "max-msg-rate");
			assert_true(view(0).until_wall_us > fx.now.wall_us);
		}
	}
}

static void
connect_rate(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_connect_rate = (struct conf_rate){ 10, 60 * SECOND };
	fx.settings[0].max_msg_per_connection = 1;
	mails(0, 300);
	run();
	route(0, 1);
	flow(fx.now.boot_us + 20 * MINUTE, 0, 0, 0);
	assert_true(densest(MINUTE, true) <= 10);
	assert_true(densest(6 * SECOND, true) <= 2);
	assert_true(fx.n_opens >= 196);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	assert_string_equal(view(0).limit, "max-connect-rate");
}

/* Not attempted is not counted. */
static void
refunds(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_msg_rate = (struct conf_rate){ 1, HOUR };
	fx.settings[0].max_connect_rate = (struct conf_rate){ 1, HOUR };
	mails(0, 2);
	run();
	route(0, 1);
	assert_int_equal(fx.n_opens, 1);
	open_failed(0, CORE_FAIL_NOT_ATTEMPTED);
	assert_int_equal(fx.n_asks, 2); /* perhaps the route was stale */
	route(0, 1);
	assert_int_equal(fx.n_opens, 1); /* and not without a pause */
	assert_int_equal(view(0).wait, CORE_WAIT_CONNECTIONS);
	pass(100000);
	assert_int_equal(fx.n_opens, 2);
	opened(1);
	assert_int_equal(fx.n_works, 1);
	assert_true(core_returned(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease));
	run();
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.works[1].entry, fx.works[0].entry); /* its old place */
	assert_int_equal(fx.works[1].attempt, 1);
	settle(1, EVENT_UNATTEMPTED);
	assert_int_equal(view(0).attempted, 1);
	assert_int_equal(fx.n_works, 3);
	/* Twice in a row nothing was attempted: that one waits, the other has its turn. */
	assert_int_not_equal(fx.works[2].entry, fx.works[0].entry);
	mail(0, 1);
	settle(2, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 3);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	assert_int_equal(view(0).attempted, 1);
}

/* Handed back again and again: ever slower. */
static void
handed_back(void **state)
{
	uint64_t begin;

	(void)state;
	fx_begin();
	mails(0, 1);
	run();
	route(0, 1);
	begin = fx.now.boot_us;
	for (size_t k = 0; k < 20; k++) {
		while (fx.n_opens == k) {
			uint64_t next = run();

			if (fx.n_opens == k)
				fx.now.boot_us = next;
			if (view(0).wait == CORE_WAIT_DNS)
				route(0, 1);
		}
		open_failed(k, CORE_FAIL_NOT_ATTEMPTED);
		route(0, 1);
	}
	assert_true(fx.now.boot_us - begin > 45 * SECOND);
	assert_true(fx.now.boot_us - begin < 200 * SECOND);
}

/* Several that were opened together and come back together are one time. */
static void
handed_back_together(void **state)
{
	size_t n;

	(void)state;
	fx_begin();
	mails(0, 8);
	run();
	route(0, 1);
	n = fx.n_opens;
	assert_true(n >= 4);
	for (size_t k = 0; k < n; k++)
		open_failed(k, CORE_FAIL_NO_RESOURCES);
	run();
	assert_int_equal(fx.n_opens, n);
	pass(100000);
	assert_true(fx.n_opens > n);
	/* The next time is a second one. */
	for (size_t k = n; k < fx.n_opens; k++)
		open_failed(k, CORE_FAIL_NO_RESOURCES);
	n = fx.n_opens;
	pass(100000);
	assert_int_equal(fx.n_opens, n);
	pass(100000);
	assert_true(fx.n_opens > n);
}

/* total-max-smtp-out: in turn by age, as many as there is room for. */
static void
total(void **state)
{
	(void)state;
	fx_begin_in(2, 3, 2);
	for (uint32_t q = 0; q < 5; q++)
		mails(q * 4, 3);
	run();
	for (uint32_t q = 0; q < 5; q++) {
		route(q * 4, 5);
		fx.now.boot_us++;
	}
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.opens[0].queue, 0);
	assert_int_equal(fx.opens[1].queue, 0);
	assert_int_equal(view(4).wait, CORE_WAIT_CONNECTIONS);
	assert_string_equal(view(4).limit, "total-max-smtp-out");
	/* New mail does not cost a queue its place. */
	mail(4, 1);
	mail(16, 1);
	run();
	open_failed(0, CORE_FAIL_HOST);
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(fx.opens[2].queue, 0); /* it stood first, with its third message */
	open_failed(1, CORE_FAIL_HOST);
	assert_int_equal(fx.opens[3].queue, 4);
}

static void
total_in_turn(void **state)
{
	static const uint32_t order[] = { 4, 8, 12, 16, 4, 8, 12, 16, 4, 8 };

	(void)state;
	fx_begin_in(2, 3, 1);
	for (uint32_t q = 0; q < 5; q++) {
		fx.settings[q * 4].max_msg_per_connection = 1;
		fx.settings[q * 4].max_smtp_out = 2;
		mails(q * 4, q ? 3 : 1);
	}
	run();
	for (uint32_t q = 0; q < 5; q++)
		route(q * 4, 1);
	assert_int_equal(fx.n_opens, 1);
	mail(16, 1); /* new mail does not cost a queue its place */
	mail(4, 1);
	run();
	for (unsigned k = 0; k < 10; k++) {
		opened(k);
		settle(k, EVENT_DELIVERED);
		assert_int_equal(fx.n_closes, k + 1);
		core_closed(fx.core, &fx.now, fx.closes[k], SLICE_NONE);
		run();
		assert_int_equal(fx.n_opens, k + 2);
		assert_int_equal(fx.opens[k + 1].queue, order[k]);
	}
}

/* A worker has descriptors for two connections: in turn by age, and who has another worker goes
 * there. */
static void
descriptors(void **state)
{
	static const uint32_t order[] = { 11, 15, 19 };

	(void)state;
	fx_begin_in(2, 3, CONF_UNLIMITED);
	core_worker_connections(fx.core, &fx.now, 1, 2);
	for (uint32_t q = 3; q < 20; q += 4) /* of worker 1 alone */
		mail(q, 1);
	run();
	for (uint32_t q = 3; q < 20; q += 4)
		route(q, 1);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(view(11).wait, CORE_WAIT_CONNECTIONS);
	assert_string_equal(view(11).limit, "descriptors of the worker");
	mails(1, 2); /* of either worker */
	run();
	route(1, 1);
	assert_int_equal(fx.n_opens, 4);
	assert_int_equal(fx.opens[2].worker, 0);
	assert_int_equal(fx.opens[3].worker, 0);
	/* What has nothing more to send ends for those that wait. */
	for (unsigned k = 0; k < 3; k++) {
		unsigned conn = k < 2 ? k : 4;

		opened(conn);
		settle(conn < 2 ? conn : 2, EVENT_DELIVERED);
		assert_int_equal(fx.n_closes, k + 1);
		assert_int_equal(fx.closes[k], fx.opens[conn].connection);
		core_closed(fx.core, &fx.now, fx.closes[k], SLICE_NONE);
		run();
		assert_int_equal(fx.n_opens, k + 5);
		assert_int_equal(fx.opens[k + 4].queue, order[k]);
		assert_int_equal(fx.opens[k + 4].worker, 1);
	}
	/* It comes back with more of them. */
	mails(23, 3);
	run();
	route(23, 1);
	assert_int_equal(fx.n_opens, 7);
	core_worker_connections(fx.core, &fx.now, 1, 0);
	run();
	assert_int_equal(fx.n_opens, 10);
}

/* Who would take any worker stands in the line of one: the others' room is offered to it. */
static void
descriptors_of_others(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		fx_begin_in(2, 3, CONF_UNLIMITED);
		core_worker_connections(fx.core, &fx.now, 0, 1);
		core_worker_connections(fx.core, &fx.now, 1, 1);
		connected(0, 1, 1);
		connected(4, 1, 1);
		mail(8, 1);
		run();
		route(8, 1);
		assert_int_equal(fx.n_opens, 2);
		settle(i, EVENT_DELIVERED);
		assert_int_equal(fx.n_closes, 1);
		core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
		run();
		assert_int_equal(fx.n_opens, 3);
		assert_int_equal(fx.opens[2].worker, fx.opens[i].worker);
	}
	fx_begin_in(2, 3, CONF_UNLIMITED);
	core_worker_down(fx.core, &fx.now, 1);
	core_worker_connections(fx.core, &fx.now, 0, 1);
	connected(0, 1, 1);
	mail(4, 1);
	run();
	route(4, 1);
	assert_int_equal(fx.n_opens, 1);
	core_worker_up(fx.core, &fx.now, 1);
	run();
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.opens[1].worker, 1);
}

/* One that rests is closed for who waits, whatever ends elsewhere. */
static void
descriptors_that_rest(void **state)
{
	(void)state;
	fx_begin_in(2, 3, CONF_UNLIMITED);
	core_worker_connections(fx.core, &fx.now, 1, 1);
	fx.settings[3].connection_idle_timeout_us = HOUR;
	connected(3, 1, 1);
	settle(0, EVENT_DELIVERED);
	assert_int_equal(fx.opens[0].worker, 1);
	connected(0, 1, 1);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.opens[1].worker, 0);
	assert_int_equal(fx.n_closes, 1);
	mail(7, 1); /* of worker 1 alone */
	run();
	route(7, 1);
	assert_int_equal(fx.n_closes, 2);
	assert_int_equal(fx.closes[1], fx.opens[0].connection);
	core_closed(fx.core, &fx.now, fx.closes[1], SLICE_NONE);
	run();
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(fx.opens[2].queue, 7);
}

/* What a worker still does since before a restart counts, until it is done or the worker is dead. */
static void
descriptors_in_use(void **state)
{
	struct core_rcpt_result rcpt = { 0, EVENT_DELIVERED };
	struct core_result r = { .lease = 50, .rcpts = &rcpt, .n_rcpts = 1 };
	uint32_t e;
	size_t asks;

	(void)state;
	for (unsigned dies = 0; dies < 2; dies++) {
		fx_begin_in(2, 3, CONF_UNLIMITED);
		core_worker_connections(fx.core, &fx.now, 1, 1);
		e = mail(3, 1);
		core_adopt(fx.core, &fx.now, e, 50, CORE_NONE, 1, 1);
		mail(7, 1);
		run();
		route(7, 1);
		assert_int_equal(fx.n_opens, 0);
		assert_string_equal(view(7).limit, "descriptors of the worker");
		if (dies) {
			core_worker_down(fx.core, &fx.now, 1);
			core_check(fx.core);
			core_worker_up(fx.core, &fx.now, 1);
			run();
			assert_int_equal(fx.n_opens, 1);
		}
		r.entry = e;
		assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
		core_entry_gone(fx.core, &fx.now, e);
		run();
		assert_int_equal(fx.n_opens, 1);
	}
	/* The route is none the worse for it when a worker has no room after all. */
	asks = fx.n_asks;
	open_failed(0, CORE_FAIL_NO_RESOURCES);
	assert_int_equal(view(7).wait, CORE_WAIT_CONNECTIONS);
	pass(SECOND);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.n_asks, asks);
}

/* Those that wait for one that dies do not wait for ever. */
static void
descriptors_of_a_dead_worker(void **state)
{
	(void)state;
	fx_begin_in(2, 3, CONF_UNLIMITED);
	core_worker_connections(fx.core, &fx.now, 1, 1);
	mail(3, 1);
	mail(7, 1);
	run();
	route(3, 1);
	route(7, 1);
	assert_int_equal(fx.n_opens, 1);
	core_worker_down(fx.core, &fx.now, 1);
	run();
	pass(SECOND); /* its source IP moves */
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(fx.opens[1].worker, 0);
	assert_int_equal(fx.opens[2].worker, 0);
}

/* A queue that waits for its rate does not keep connections that others wait for. */
static void
idle_for_others(void **state)
{
	static const struct {
		unsigned window_s;
		size_t closes;
	} rows[] = { { 20, 1 } /* needed again in two seconds */, { 6, 0 } /* in less than one */ };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		fx_begin_in(2, 3, 1);
		fx.settings[0].max_msg_rate = (struct conf_rate){ 5, rows[i].window_s * SECOND };
		connected(0, 50, 1);
		for (size_t k = 0; k < fx.n_works; k++)
			settle(k, EVENT_DELIVERED);
		assert_int_equal(view(0).wait, CORE_WAIT_RATE);
		assert_int_equal(fx.n_closes, 0);
		mail(4, 1);
		run();
		route(4, 1);
		assert_int_equal(view(4).wait, CORE_WAIT_CONNECTIONS);
		assert_int_equal(fx.n_closes, rows[i].closes);
		if (rows[i].closes == 0)
			continue;
		core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
		run();
		assert_int_equal(fx.opens[1].queue, 4);
	}
}

/* Other settings count at once; what was charged goes on counting. */
static void
settings_change(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_msg_rate = (struct conf_rate){ 5, HOUR };
	fx.settings[0].max_smtp_out = 1;
	connected(0, 50, 1);
	settle(0, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(fx.n_closes, 1); /* six minutes until the next: no peer waits for that */
	fx.settings[0].max_msg_rate = (struct conf_rate){ 10, HOUR };
	run();
	assert_int_equal(fx.n_works, 1); /* not asked for again yet */
	core_settings_changed(fx.core, &fx.now);
	run();
	core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
	run();
	opened(1);
	assert_int_equal(fx.n_works, 2);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 2);
	fx.settings[0].max_msg_rate = (struct conf_rate){ 0, 0 };
	core_settings_changed(fx.core, &fx.now);
	flow(fx.now.boot_us, 2, 2, 1);
	assert_int_equal(view(0).entries, 0);
}

/* max-smtp-out made smaller: those above it end with their message, though there is more to send.
 */
static void
fewer_connections(void **state)
{
	(void)state;
	fx_begin();
	connected(0, 10, 1);
	mails(0, 100);
	run();
	for (size_t k = 10; k < fx.n_opens; k++)
		opened(k);
	assert_int_equal(view(0).connections, 20);
	fx.settings[0].max_smtp_out = 3;
	core_settings_changed(fx.core, &fx.now);
	run();
	assert_int_equal(fx.n_closes, 0);
	for (size_t k = 0; k < 20; k++)
		settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 17);
	assert_int_equal(fx.n_works, 23);
}

/* A restart: what was attempted before counts. */
static void
charges_survive(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_msg_rate = (struct conf_rate){ 100, HOUR };
	fx.settings[0].max_connect_rate = (struct conf_rate){ 100, HOUR };
	fx.now.boot_us = 10 * HOUR;
	for (unsigned i = 0; i < 5; i++)
		core_charge(fx.core, &fx.now, 0, 10 * HOUR - (50 - 10 * i) * MINUTE, 19, 2);
	core_charge(fx.core, &fx.now, 399, 10 * HOUR, 1, 1);
	core_charge(fx.core, &fx.now, 77777, 10 * HOUR, 1, 1);
	connected(0, 100, 1);
	while (fx.n_works < 5)
		settle(fx.n_works - 1, EVENT_DELIVERED);
	for (size_t k = 0; k < 5; k++) {
		if (core_entry_is(fx.core, fx.works[k].entry, fx.works[k].key))
			settle(k, EVENT_DELIVERED);
	}
	assert_int_equal(fx.n_works, 5);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	assert_in_range(view(0).until_wall_us - fx.now.wall_us, 10 * MINUTE,
			10 * MINUTE + 2 * SECOND);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(message_rate),
		cmocka_unit_test(connect_rate),
		cmocka_unit_test(refunds),
		cmocka_unit_test(handed_back),
		cmocka_unit_test(handed_back_together),
		cmocka_unit_test(total),
		cmocka_unit_test(total_in_turn),
		cmocka_unit_test(descriptors),
		cmocka_unit_test(descriptors_of_others),
		cmocka_unit_test(descriptors_that_rest),
		cmocka_unit_test(descriptors_in_use),
		cmocka_unit_test(descriptors_of_a_dead_worker),
		cmocka_unit_test(idle_for_others),
		cmocka_unit_test(charges_survive),
		cmocka_unit_test(fewer_connections),
		cmocka_unit_test(settings_change),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
