/* Source IPs: turns, weights, which worker has them, moves, and what a restart finds. */
#include "tests/unit/core/fixture.h"

static unsigned
opens_from(size_t first, uint32_t source, int worker)
{
	unsigned n = 0;

	for (size_t i = first; i < fx.n_opens; i++)
		n += fx.opens[i].source_ip == source &&
		     (worker < 0 || fx.opens[i].worker == (unsigned)worker);
	return n;
}

/* Queue 0 {default}: the kernel chooses; 1 "even": IPs 1, 2; 2 "uneven": IPs 1, 2 by 1 : 3. */
static void
turns(void **state)
{
	static const struct {
		uint32_t queue;
		unsigned by_source[3];
	} rows[] = { { 0, { 80, 0, 0 } },
		     { 1, { 0, 40, 40 } },
		     { 2, { 0, 20, 60 } },
		     { 5, { 0, 40, 40 } } };

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		fx_begin();
		fx.settings[rows[i].queue].max_smtp_out = 80;
		fx.settings[rows[i].queue].mx_connection_attempts = 80;
		mails(rows[i].queue, 80);
		run();
		route(rows[i].queue, 1);
		assert_int_equal(fx.n_opens, 80);
		for (uint32_t s = 0; s < 3; s++)
			assert_int_equal(opens_from(0, s, -1), rows[i].by_source[s]);
		/* Smooth: in any four of 1 : 3 each has its share. */
		for (size_t k = 0; i == 2 && k + 4 <= 80; k++) {
			unsigned ones = 0;

			for (size_t j = k; j < k + 4; j++)
				ones += fx.opens[j].source_ip == 1;
			assert_int_equal(ones, 1);
		}
	}
}

/* Two workers, two IPs: IP 1 at worker 1, IP 2 at worker 0; index 0 at both in turn. */
static void
homes(void **state)
{
	(void)state;
	fx_begin();
	for (uint32_t q = 0; q < 3; q++) {
		mails(q, 8);
		run();
		route(q, 1);
	}
	assert_int_equal(opens_from(0, 0, 0), 4);
	assert_int_equal(opens_from(0, 0, 1), 4);
	assert_int_equal(opens_from(0, 1, 0), 0);
	assert_int_equal(opens_from(0, 2, 1), 0);
	assert_int_equal(opens_from(0, 1, 1) + opens_from(0, 2, 0), 16);
}

/* Fewer IPs than workers: shared, in turn. */
static void
shared(void **state)
{
	(void)state;
	fx_begin_in(5, 3, CONF_UNLIMITED);
	fx.settings[1].max_smtp_out = 60;
	fx.settings[1].mx_connection_attempts = 60;
	mails(1, 60);
	run();
	route(1, 1);
	assert_int_equal(opens_from(0, 1, 1), 15); /* 1 and 3 share IP 1 */
	assert_int_equal(opens_from(0, 1, 3), 15);
	assert_int_equal(opens_from(0, 2, 0), 10); /* 0, 2 and 4 share IP 2 */
	assert_int_equal(opens_from(0, 2, 2), 10);
	assert_int_equal(opens_from(0, 2, 4), 10);
	/* One of them dies: the others go on at once. */
	core_worker_down(fx.core, &fx.now, 1);
	run();
	assert_int_equal(opens_from(60, 1, 3), opens_from(60, 1, -1));
	assert_true(fx.n_opens > 70);
}

static int
owner(uint32_t source)
{
	struct core_source_view v;

	core_source_view(fx.core, &fx.now, source, &v);
	return v.worker;
}

static void
worker_dies_and_returns(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[1].max_smtp_out = 2;
	connected(1, 2, 1);
	assert_int_equal(opens_from(0, 1, 1), 1);
	core_worker_down(fx.core, &fx.now, 1);
	assert_int_equal(view(1).connections, 1);
	run();
	assert_int_equal(owner(1), -1);
	pass(100000);
	core_worker_up(fx.core, &fx.now, 1); /* within 200 ms: nothing has moved */
	run();
	assert_int_equal(owner(1), 1);
	pass(10 * SECOND);
	assert_int_equal(owner(1), 1);
}

/* It moves after 200 ms, and goes home when the guest has no connection of it left. */
static void
guest(void **state)
{
	size_t k;

	(void)state;
	fx_begin();
	fx.settings[1].connection_idle_timeout_us = HOUR;
	run();
	core_worker_down(fx.core, &fx.now, 1);
	run();
	pass(199000);
	assert_int_equal(owner(1), -1);
	pass(1000);
	assert_int_equal(owner(1), 0);
	connected(1, 2, 1);
	mails(1, 1); /* there is more to send on it, but not from there */
	assert_int_equal(opens_from(0, 1, 0), 1);
	core_worker_up(fx.core, &fx.now, 1);
	run();
	assert_int_equal(owner(1), 0); /* a transaction runs */
	for (k = 0; fx.works[k].source_ip != 1; k++)
		;
	settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.n_closes, 1); /* not kept idle */
	assert_int_equal(fx.closes[0], fx.works[k].connection);
	/* Until it is closed only IP 2 is used. */
	mails(1, 3);
	run();
	assert_int_equal(opens_from(2, 1, -1), 0);
	core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
	run();
	assert_int_equal(owner(1), 1);
	mails(1, 4);
	run();
	assert_true(opens_from(2, 1, 1) > 0);
	assert_int_equal(opens_from(2, 1, 0), 0);
}

/* Who waited for the IP goes on when it has moved, without being told by anything else. */
static void
moved_for_who_waits(void **state)
{
	(void)state;
	fx_begin();
	run();
	core_worker_down(fx.core, &fx.now, 1);
	mails(3, 1);
	run();
	route(3, 1);
	assert_int_equal(view(3).wait, CORE_WAIT_SOURCES);
	pass(200000);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(fx.opens[0].worker, 0);
}

/* The idle ones of a guest are closed as soon as the home is back. */
static void
guest_idle(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[1].connection_idle_timeout_us = HOUR;
	run();
	core_worker_down(fx.core, &fx.now, 1);
	pass(300000);
	connected(1, 1, 1);
	if (fx.opens[0].source_ip == 2) {
		settle(0, EVENT_DEFERRED);
		core_closed(fx.core, &fx.now, fx.opens[0].connection, SLICE_NONE);
		mails(1, 1);
		run();
		opened(1);
	}
	assert_int_equal(fx.opens[fx.n_opens - 1].source_ip, 1);
	settle(fx.n_works - 1, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 0);
	core_worker_up(fx.core, &fx.now, 1);
	run();
	assert_int_equal(fx.n_closes, 1);
}

static void
nobody_lives(void **state)
{
	(void)state;
	fx_begin();
	core_worker_down(fx.core, &fx.now, 0);
	core_worker_down(fx.core, &fx.now, 1);
	for (uint32_t q = 0; q < 3; q++) {
		mails(q, 1);
		run();
		route(q, 1);
		assert_int_equal(view(q).wait, CORE_WAIT_SOURCES);
	}
	pass(10 * SECOND);
	assert_int_equal(fx.n_opens, 0);
	core_worker_up(fx.core, &fx.now, 0); /* takes what nobody was there to take */
	pass(SECOND);
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(owner(1), 0);
	assert_int_equal(owner(2), 0);
}

/* At start a worker has a second; then another takes its IPs. */
static void
at_start(void **state)
{
	struct core_world w = { .workers = 2,
				.total_max_smtp_out = CONF_UNLIMITED,
				.n_source_ips = 3,
				.n_vmtas = 4,
				.vmtas = fx_vmtas };
	static const struct core_ops ops = { FX_OPS };

	(void)state;
	fx_begin();
	core_free(&fx.core);
	fx.core = core_new_in(&ops, NULL, &w, 1);
	run();
	core_worker_up(fx.core, &fx.now, 0);
	pass(900000);
	assert_int_equal(owner(1), -1);
	assert_int_equal(owner(2), 0);
	pass(100000);
	assert_int_equal(owner(1), 0);
	core_worker_up(fx.core, &fx.now, 1);
	run();
	assert_int_equal(owner(1), 1); /* it had no connection there */
}

static void
source_cannot_be_used(void **state)
{
	(void)state;
	fx_begin();
	mails(1, 1);
	run();
	route(1, 1);
	open_failed(0, CORE_FAIL_SOURCE);
	assert_int_equal(fx.n_opens, 2);
	assert_int_not_equal(fx.opens[1].source_ip, fx.opens[0].source_ip);
	open_failed(1, CORE_FAIL_SOURCE);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(view(1).wait, CORE_WAIT_SOURCES);
	assert_int_equal(view(1).until_wall_us, fx.now.wall_us + MINUTE);
	pass(MINUTE);
	assert_int_equal(fx.n_opens, 3);
}

static void
unknown_virtual_mta(void **state)
{
	(void)state;
	fx_begin();
	core_queue_add(fx.core, 50,
		       slice_str("d50.example/gone")); /* there is one already by that number */
	core_free(&fx.core);
	fx_begin_in(2, 1, CONF_UNLIMITED); /* only {default} is configured */
	mails(1, 1);
	run();
	assert_int_equal(fx.n_asks, 0);
	assert_int_equal(view(1).wait, CORE_WAIT_SOURCES);
	assert_string_equal(view(1).limit, "virtual MTA is not configured");
}

static void
totals_by_source(void **state)
{
	struct core_source_view v;

	(void)state;
	fx_begin();
	connected(1, 2, 1);
	core_source_view(fx.core, &fx.now, 1, &v);
	assert_int_equal(v.connections, 1);
	assert_int_equal(v.attempted, 1);
	assert_int_equal(v.msg_rate, 1);
	assert_int_equal(v.connect_rate, 1);
	assert_int_equal(v.delivered, 0);
	pass(70 * SECOND);
	core_source_view(fx.core, &fx.now, 1, &v);
	assert_int_equal(v.msg_rate, 0);
}

/* All connections of a dead worker are gone; its leases end one by one, before or after. */
static void
leases_of_the_dead(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 2; after++) {
		fx_begin_in(1, 1, CONF_UNLIMITED);
		connected(0, 3, 1);
		if (after)
			core_worker_down(fx.core, &fx.now, 0);
		settle_with(0, EVENT_DEFERRED, GONE);
		assert_true(core_returned(fx.core, &fx.now, fx.works[1].entry, fx.works[1].lease));
		settle_with(2, EVENT_DEFERRED, GONE | DUP);
		if (!after)
			core_worker_down(fx.core, &fx.now, 0);
		run();
		assert_int_equal(view(0).connections, 0);
		assert_int_equal(view(0).wait, CORE_WAIT_SOURCES);
		assert_int_equal(view(0).attempted, 2);
		core_worker_up(fx.core, &fx.now, 0);
		run();
		assert_int_equal(fx.n_opens, 4);
		opened(3);
		assert_int_equal(fx.works[3].entry, fx.works[1].entry);
	}
}

static void
adoption(void **state)
{
	struct core_totals t;
	uint32_t e[4];

	(void)state;
	fx_begin();
	for (unsigned i = 0; i < 4; i++)
		e[i] = mail(0, 1);
	core_adopt(fx.core, &fx.now, e[0], 5000, 7, 1, 0);
	core_adopt(fx.core, &fx.now, e[1], 5001, 7, 1, 0); /* the number is taken: without */
	core_adopt(fx.core, &fx.now, e[2], 4000, CORE_NONE, 1, 0); /* the driver may leave it out */
	core_adopt(fx.core, &fx.now, e[0], 6000, 9, 0, 0);         /* is out already */
	core_adopt(fx.core, &fx.now, e[3], 6000, 9, 0, 4000000);   /* nonsense */
	assert_true(core_adopt_connection(fx.core, &fx.now, 8, 0, 0, 0));
	assert_false(core_adopt_connection(fx.core, &fx.now, 8, 0, 0, 0));
	assert_false(core_adopt_connection(fx.core, &fx.now, CORE_CONNECTIONS_MAX, 0, 0, 0));
	assert_int_equal(core_connection_worker(fx.core, 7), 1);
	assert_int_equal(core_connection_worker(fx.core, 8), 0);
	assert_true(core_entry_is_claimed(fx.core, e[2]));
	assert_false(core_entry_is_claimed(fx.core, e[3]));
	run();
	assert_int_equal(fx.n_closes, 1); /* its route is not known: 8 is closed */
	core_totals(fx.core, &t);
	assert_int_equal(t.next_lease, 5002);
	assert_int_equal(t.connections, 2);
	for (unsigned i = 0; i < 3; i++) {
		static const uint64_t lease[] = { 5000, 5001, 4000 };
		struct core_rcpt_result rcpt = { 0, EVENT_DELIVERED };
		struct core_result r = {
			.entry = e[i], .lease = lease[i], .rcpts = &rcpt, .n_rcpts = 1
		};

		assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
		assert_true(fx.d.finished);
		core_entry_gone(fx.core, &fx.now, e[i]);
	}
	run();
	assert_int_equal(fx.n_closes, 2);
	assert_int_equal(view(0).attempted, 3);
	assert_int_equal(view(0).entries, 1);
}

/* Another configuration: IP 1 has become 2, IP 2 is gone, "even" is now "even" with the new 1 only,
 * "one" is gone. */
static void
reload(void **state)
{
	static const struct conf_vmta_source only[] = { { 1, "n", 1 } };
	static const struct conf_vmta vmtas[] = {
		{ .name = "{default}", .n_sources = 1, .sources = fx_default },
		{ .name = "even", .n_sources = 1, .sources = only }
	};
	struct core_world w = { .workers = 2,
				.total_max_smtp_out = 7,
				.n_source_ips = 3,
				.n_vmtas = 2,
				.vmtas = vmtas };
	static const uint32_t map[] = { 0, 2, CORE_NONE };
	struct core_source_view v;

	(void)state;
	fx_begin();
	fx.settings[0].connection_idle_timeout_us = HOUR;
	connected(0, 1, 1);
	connected(1, 2, 1);
	connected(3, 1, 1);
	settle(0, EVENT_DELIVERED);
	mails(3, 1);
	run();
	core_reconfigure_in(fx.core, &fx.now, &w, map);
	core_check(fx.core);
	mails(3, 1);
	run();
	core_check(fx.core);
	core_source_view(fx.core, &fx.now, 2, &v);
	assert_int_equal(v.attempted, 2); /* its history went along */
	assert_int_equal(view(3).wait, CORE_WAIT_SOURCES);
	assert_string_equal(view(3).limit, "virtual MTA is not configured");
	assert_int_equal(fx.n_closes, 0); /* the idle one of queue 0 stays */
	mails(1, 2);
	for (size_t k = 1; k < 4; k++)
		settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 3); /* IP 2 is gone, IP 1 lives at another worker now */
	for (size_t i = 0; i < 3; i++)
		core_closed(fx.core, &fx.now, fx.closes[i], SLICE_NONE);
	run();
	assert_true(opens_from(5, 1, 1) >= 2);
	assert_int_equal(opens_from(5, 2, -1), 0);
	assert_int_equal(opens_from(5, 0, -1), 0);
}

/* IP 2 goes from "even" to "one": it is still there, its connections of "even" are of no more use.
 */
static void
source_leaves_vmta(void **state)
{
	static const struct conf_vmta_source one[] = { { 1, "n", 1 } }, two[] = { { 2, "n", 1 } };
	static const struct conf_vmta vmtas[] = {
		{ .name = "{default}", .n_sources = 1, .sources = fx_default },
		{ .name = "even", .n_sources = 1, .sources = one },
		{ .name = "one", .n_sources = 1, .sources = two }
	};
	struct core_world w = { .workers = 2,
				.total_max_smtp_out = 7,
				.n_source_ips = 3,
				.n_vmtas = 3,
				.vmtas = vmtas };
	static const uint32_t map[] = { 0, 1, 2 };

	(void)state;
	fx_begin();
	fx.settings[1].connection_idle_timeout_us = HOUR;
	connected(1, 2, 1);
	settle(0, EVENT_DELIVERED);
	settle(1, EVENT_DELIVERED);
	run();
	assert_int_equal(fx.n_closes, 0);
	core_reconfigure_in(fx.core, &fx.now, &w, map);
	run();
	core_check(fx.core);
	assert_int_equal(fx.n_closes, 1);
	for (size_t i = 0; i < fx.n_opens; i++)
		assert_true((fx.opens[i].connection == fx.closes[0]) ==
			    (fx.opens[i].source_ip == 2));
}

/* Other smtp-hosts: the route is void, the idle connection goes, what comes is for the new route.
 */
static void
other_hosts(void **state)
{
	unsigned asks;

	(void)state;
	fx_begin();
	fx.settings[0].connection_idle_timeout_us = HOUR;
	fx.settings[0].smtp_hosts = "a.example";
	connected(0, 1, 1);
	settle(0, EVENT_DELIVERED);
	run();
	core_settings_changed(fx.core, &fx.now); /* to the same values */
	run();
	assert_int_equal(fx.n_closes, 0);
	asks = fx.n_asks;
	fx.settings[0].smtp_hosts = "b.example";
	core_settings_changed(fx.core, &fx.now);
	mails(0, 1);
	run();
	core_check(fx.core);
	assert_int_equal(fx.n_closes, 1);
	assert_int_equal(fx.n_asks, asks + 1);
	assert_int_equal(fx.n_opens, 1);
	route(0, 1);
	assert_int_equal(fx.n_opens, 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(turns),
		cmocka_unit_test(homes),
		cmocka_unit_test(shared),
		cmocka_unit_test(worker_dies_and_returns),
		cmocka_unit_test(guest),
		cmocka_unit_test(moved_for_who_waits),
		cmocka_unit_test(guest_idle),
		cmocka_unit_test(nobody_lives),
		cmocka_unit_test(at_start),
		cmocka_unit_test(source_cannot_be_used),
		cmocka_unit_test(unknown_virtual_mta),
		cmocka_unit_test(totals_by_source),
		cmocka_unit_test(leases_of_the_dead),
		cmocka_unit_test(adoption),
		cmocka_unit_test(reload),
		cmocka_unit_test(source_leaves_vmta),
		cmocka_unit_test(other_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
