/* The way of an entry through the core: lookup, connection, claim, result. */
#include "tests/unit/core/fixture.h"

static void
one_message(void **state)
{
	uint32_t e;

	(void)state;
	fx_begin();
	e = mail(0, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_EMPTY); /* nothing is decided before core_run() */
	assert_int_equal(run(), fx.now.boot_us + 30 * SECOND); /* then the lookup is asked again */
	assert_int_equal(fx.n_asks, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_DNS);
	route(0, 1);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(fx.opens[0].queue, 0);
	assert_int_equal(fx.opens[0].source_ip, 0);
	assert_int_equal(fx.opens[0].route_slot, 3);
	assert_int_equal(fx.opens[0].route_generation, 1001);
	assert_true(fx.opens[0].deadline_boot_us > fx.now.boot_us);
	assert_int_equal(view(0).opening, 1);
	opened(0);
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(fx.works[0].entry, e);
	assert_int_equal(fx.works[0].key.message, 1);
	assert_int_equal(fx.works[0].key.ordinal, 3);
	assert_int_equal(fx.works[0].connection, fx.opens[0].connection);
	assert_int_equal(fx.works[0].lease, 100);
	assert_int_equal(fx.works[0].attempt, 1);
	assert_int_equal(fx.works[0].segment, 17);
	assert_int_equal(fx.works[0].offset16, 99);
	assert_int_equal(fx.works[0].epoch, 4711);
	assert_int_equal(fx.works[0].first_rcpt, 5);
	assert_int_equal(fx.works[0].granted_boot_us, fx.now.boot_us);
	assert_true(core_entry_is_claimed(fx.core, e));
	assert_int_equal(core_claim_bits(fx.core, e)[0], 1);
	assert_int_equal(view(0).connections, 1);
	settle(0, EVENT_DELIVERED);
	assert_true(fx.d.finished);
	assert_int_equal(fx.d.attempts, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_EMPTY);
	assert_int_equal(view(0).delivered, 1);
	assert_int_equal(view(0).attempted, 1);
	assert_int_equal(view(0).msg_rate, 1);
	assert_int_equal(fx.n_closes, 1);
	core_closed(fx.core, &fx.now, fx.opens[0].connection, SLICE_NONE);
	assert_int_equal(run(), UINT64_MAX); /* nothing left to wait for */
	assert_int_equal(core_connection_worker(fx.core, fx.opens[0].connection), -1);
}

static void
facts_come_back(void **state)
{
	struct core_entry_facts f, out;
	static const uint8_t done[] = { 0x05, 0x80 };
	uint32_t e;

	(void)state;
	fx_begin();
	f = (struct core_entry_facts){
		.key = { 0xabcdef012345, 65535 },
		.queue = 7,
		.segment = 4000000,
		.offset16 = 0xfffffff1,
		.epoch = 1ull << 60,
		.received_s = WALL_S - 86400,
		.due_s = WALL_S + 777,
		.first_rcpt = 9999,
		.n_rcpts = 16,
		.attempts = 65535,
		.kbytes = 262145,
		.job = UINT32_MAX,
		.sender_domain = 12345678,
		.row_flags = 0xff,
		.done = slice_of(done, 2),
		.committed = true,
	};
	for (unsigned us = 0; us < 1000000; us += 99999) {
		fx.now.boot_us += us;
		e = core_entry_add(fx.core, &fx.now, &f);
		core_entry_get(fx.core, e, &out);
		assert_int_equal(out.key.message, f.key.message);
		assert_int_equal(out.key.ordinal, f.key.ordinal);
		assert_int_equal(out.queue, 7);
		assert_int_equal(out.segment, f.segment);
		assert_int_equal(out.offset16, f.offset16);
		assert_int_equal(out.epoch, f.epoch);
		assert_int_equal(out.received_s, f.received_s);
		assert_int_equal(out.due_s, f.due_s);
		assert_int_equal(out.first_rcpt, f.first_rcpt);
		assert_int_equal(out.n_rcpts, 16);
		assert_int_equal(out.attempts, 65535);
		assert_int_equal(out.kbytes, 262145);
		assert_int_equal(out.job, UINT32_MAX);
		assert_int_equal(out.sender_domain, 12345678);
		assert_int_equal(out.row_flags, 0xff);
		assert_true(slice_eq(out.done, f.done));
		assert_true(out.committed);
		assert_true(core_entry_is(fx.core, e, f.key));
		core_entry_gone(fx.core, &fx.now, e);
		assert_false(core_entry_is(fx.core, e, f.key));
	}
}

/* A row with nothing left to do, which should not be: it goes, and nobody gets mail twice. */
static void
all_done_already(void **state)
{
	static const uint8_t done[] = { 0x07 };
	struct core_entry_facts f = { .queue = 0,
				      .n_rcpts = 3,
				      .received_s = WALL_S,
				      .done = slice_of(done, 1),
				      .committed = true };

	(void)state;
	fx_begin();
	core_entry_add(fx.core, &fx.now, &f);
	connected(0, 1, 1);
	run();
	assert_int_equal(fx.n_gives, 1);
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(fx.works[0].n_rcpts, 1);
}

static void
held_until_committed(void **state)
{
	uint32_t e;

	(void)state;
	fx_begin();
	e = add(0, 1, false);
	run();
	assert_int_equal(fx.n_asks, 0);
	core_entry_committed(fx.core, &fx.now, e);
	core_entry_committed(fx.core, &fx.now, e); /* twice is once */
	run();
	assert_int_equal(fx.n_asks, 1);
	e = add(1, 1, false);
	core_entry_gone(fx.core, &fx.now, e);
	run();
	assert_int_equal(view(1).entries, 0);
}

/* Never more OPENs than entries, than max-smtp-out. */
static void
connections_by_need(void **state)
{
	static const struct {
		unsigned mails, max, want;
	} rows[] = { { 1, 20, 1 },
		     { 3, 20, 3 },
		     { 9, 4, 4 },
		     { 15, 1, 1 },
		     { 30, 20, 10 /* mx-connection-attempts first */ } };

	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fx_begin();
		fx.settings[0].max_smtp_out = rows[i].max;
		mails(0, rows[i].mails);
		run();
		route(0, 1);
		assert_int_equal(fx.n_opens, rows[i].want);
	}
	/* Once a host has answered the others follow. */
	opened(0);
	assert_int_equal(fx.n_opens, 20);
	assert_string_equal(view(0).limit, "max-smtp-out");
	assert_int_equal(view(0).wait, CORE_WAIT_CONNECTIONS);
}

/* Where the rate may be learned they follow as mail is taken. */
static void
connections_of_who_learns(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_smtp_out = 8;
	fx.settings[0].learns = true;
	mails(0, 200);
	run();
	route(0, 1);
	assert_int_equal(fx.n_opens, 4);
	for (unsigned i = 0; i < 4; i++)
		opened(i);
	for (unsigned i = 0; i < 9; i++)
		settle(i, EVENT_DELIVERED);
	assert_int_equal(fx.n_opens, 4);
	settle(9, EVENT_DELIVERED);
	assert_int_equal(fx.n_opens, 5); /* a half of what was delivered */
	settle(10, EVENT_DEFERRED);
	assert_int_equal(fx.n_opens, 5);
	for (unsigned i = 11; i < 17; i++)
		settle(i, EVENT_DELIVERED);
	assert_int_equal(fx.n_opens, 8);
}

/* Idle connections before new ones; the one used last first. */
static void
idle_first(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].connection_idle_timeout_us = MINUTE;
	connected(0, 3, 1);
	assert_int_equal(fx.n_works, 3);
	pass(SECOND);
	settle(2, EVENT_DELIVERED);
	pass(SECOND);
	settle(0, EVENT_DELIVERED);
	pass(SECOND);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 0);
	mails(0, 2);
	run();
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(fx.works[3].connection, fx.works[1].connection);
	assert_int_equal(fx.works[4].connection, fx.works[0].connection);
	/* The one left over is closed when its time is up: it went idle at 1 s. */
	pass(MINUTE - 3 * SECOND);
	assert_int_equal(fx.n_closes, 0);
	pass(SECOND);
	assert_int_equal(fx.n_closes, 1);
	assert_int_equal(fx.closes[0], fx.works[2].connection);
}

static void
messages_per_connection(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_smtp_out = 1;
	fx.settings[0].max_msg_per_connection = 2;
	connected(0, 3, 1);
	settle(0, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.n_closes, 0);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 1);
	assert_int_equal(fx.n_opens, 1); /* it is open until it is closed */
	core_closed(fx.core, &fx.now, fx.opens[0].connection, SLICE_NONE);
	run();
	assert_int_equal(fx.n_opens, 2);
}

/* 5 recipients, 2 a transaction: 0 1, then 2 3, then 4; what was deferred waits for the end of the
 * round. */
static void
recipients_per_transaction(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_rcpt_per_transaction = 2;
	mail(0, 5);
	run();
	route(0, 1);
	opened(0);
	assert_int_equal(fx.bits[0][0], 0x03);
	assert_int_equal(fx.works[0].n_attempt, 2);
	settle(0, EVENT_DELIVERED);
	assert_false(fx.d.finished);
	assert_int_equal(fx.d.due_s, 0);
	assert_int_equal(fx.d.done.p[0], 0x03);
	assert_int_equal(fx.bits[1][0], 0x0c);
	settle(1, EVENT_DEFERRED);
	assert_int_equal(fx.d.due_s, 0); /* recipient 4 has not had its turn */
	assert_int_equal(fx.bits[2][0], 0x10);
	assert_int_equal(fx.works[2].attempt, 3);
	settle(2, EVENT_BOUNCED);
	assert_int_equal(fx.d.done.p[0], 0x13);
	assert_int_equal(fx.d.due_s, WALL_S + 900);
	assert_int_equal(fx.d.attempts, 3);
	assert_int_equal(fx.n_works, 3);
	pass(15 * MINUTE + SECOND);
	assert_int_equal(fx.n_opens, 2);
	opened(1);
	assert_int_equal(fx.bits[3][0], 0x0c);
	settle(3, EVENT_DELIVERED);
	assert_true(fx.d.finished);
	assert_int_equal(view(0).delivered, 4);
	assert_int_equal(view(0).bounced, 1);
	assert_int_equal(view(0).transient, 2);
}

static void
recipients_by_peer(void **state)
{
	(void)state;
	fx_begin();
	mail(0, 9);
	run();
	route(0, 1);
	core_opened(fx.core, &fx.now, fx.opens[0].connection, 4);
	run();
	assert_int_equal(fx.bits[0][0], 0x0f);
}

/* One queue with much mail, one that comes later with little: it does not wait until the first is
 * done. */
static void
nobody_starves(void **state)
{
	size_t first = 0;

	(void)state;
	fx_begin();
	for (uint32_t q = 0; q < 2; q++) {
		fx.settings[q].max_smtp_out = 1000;
		fx.settings[q].mx_connection_attempts = 1000;
		mails(q, q == 0 ? 500 : 5);
	}
	core_run(fx.core, &fx.now, 0);
	core_route(fx.core, &fx.now, 0, CORE_ROUTE_GOOD, 1, 1, 1, UINT64_MAX, "");
	core_route(fx.core, &fx.now, 1, CORE_ROUTE_GOOD, 2, 2, 1, UINT64_MAX, "");
	run();
	while (first < fx.n_opens && fx.opens[first].queue == 0)
		first++;
	assert_true(first <= 16);
	assert_int_equal(fx.n_opens, 505);
}

/* What workers say is not believed: old leases, wrong recipients, doubles. */
static void
nonsense_from_workers(void **state)
{
	struct core_rcpt_result bad[] = { { 9, EVENT_DELIVERED },
					  { 2, EVENT_DELIVERED },
					  { 65535, EVENT_BOUNCED },
					  { 0, EVENT_DEFERRED },
					  { 0, EVENT_DELIVERED } };
	struct core_result r = { .rcpts = bad, .n_rcpts = 5 };

	(void)state;
	fx_begin();
	fx.settings[0].max_rcpt_per_transaction = 2;
	mail(0, 3);
	run();
	route(0, 1);
	opened(0);
	r.entry = fx.works[0].entry;
	r.lease = fx.works[0].lease + 1;
	assert_false(core_settle(fx.core, &fx.now, &r, &fx.d));
	assert_false(core_returned(fx.core, &fx.now, r.entry, r.lease));
	assert_false(core_returned(fx.core, &fx.now, 77777777, fx.works[0].lease));
	r.lease = 0;
	assert_false(core_settle(fx.core, &fx.now, &r, &fx.d));
	r.lease = fx.works[0].lease;
	assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
	/* Recipient 2 was not in the claim, 0 was deferred first, 1 was not named. */
	assert_false(fx.d.finished);
	assert_int_equal(view(0).delivered, 0);
	assert_int_equal(view(0).transient, 1);
	assert_int_equal(view(0).attempted, 1);
	assert_int_equal(view(0).rcpts, 3);
	assert_false(core_settle(fx.core, &fx.now, &r, &fx.d));
	run();
	assert_int_equal(fx.bits[1][0], 0x06);
	/* Connections that are not there. */
	core_opened(fx.core, &fx.now, 60000, 0);
	core_closed(fx.core, &fx.now, 60000, SLICE_NONE);
	core_open_failed(fx.core, &fx.now, UINT32_MAX, CORE_FAIL_HOST, SLICE_NONE);
	core_opened(fx.core, &fx.now, fx.opens[0].connection, 0); /* twice */
	run();
}

static void
claim_table_full(void **state)
{
	(void)state;
	fx_begin_in(1, 3, CONF_UNLIMITED);
	fx.room = 2;
	connected(0, 2, 1);
	connected(4, 2, 1);
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(view(4).wait, CORE_WAIT_CONNECTIONS);
	assert_string_equal(view(4).limit, "claim table of the worker");
	assert_int_equal(view(4).attempted, 0);
	fx.room = 1;
	core_worker_room(fx.core, &fx.now, 0);
	run();
	assert_int_equal(fx.n_works, 3);
	fx.room = 100;
	core_worker_room(fx.core, &fx.now, 0);
	run();
	assert_int_equal(fx.n_works, 4);
}

/* Room for one wakes one; when it leaves room the next has its turn. */
static void
claim_table_line(void **state)
{
	(void)state;
	fx_begin_in(1, 3, CONF_UNLIMITED);
	fx.room = 0;
	for (uint32_t q = 0; q < 8; q++)
		connected(q * 4, 1, 1);
	assert_int_equal(fx.n_works, 0);
	for (unsigned k = 1; k <= 4; k++) {
		fx.room = 1;
		core_worker_room(fx.core, &fx.now, 0);
		run();
		assert_int_equal(fx.n_works, k);
		assert_int_equal(fx.works[k - 1].queue, (k - 1) * 4);
	}
	fx.room = 100;
	core_worker_room(fx.core, &fx.now, 0);
	run();
	assert_int_equal(fx.n_works, 8);
}

static void
discard(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[3].discard = true;
	mails(3, 200);
	run();
	assert_int_equal(fx.n_gives, 200);
	assert_int_equal(fx.gives[7].why, CORE_DISCARDED);
	assert_int_equal(fx.n_asks, 0);
	for (size_t i = 0; i < fx.n_gives; i++)
		core_entry_gone(fx.core, &fx.now, fx.gives[i].entry);
	run();
	assert_int_equal(view(3).wait, CORE_WAIT_EMPTY);
}

static void
pause_and_withdraw(void **state)
{
	uint32_t e;

	(void)state;
	fx_begin();
	connected(0, 2, 1);
	core_pause(fx.core, &fx.now, 0, true);
	assert_int_equal(fx.n_changed, 1);
	e = mail(0, 1);
	settle(0, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.n_closes, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_PAUSED);
	assert_false(core_entry_withdraw(fx.core, &fx.now, fx.works[1].entry));
	assert_true(core_entry_withdraw(fx.core, &fx.now, e));
	assert_false(core_entry_withdraw(fx.core, &fx.now, e));
	assert_int_equal(view(0).entries, 1);
	core_entry_gone(fx.core, &fx.now, e);
	core_pause(fx.core, &fx.now, 0, false);
	mail(0, 1);
	run();
	assert_int_equal(fx.n_opens, 3); /* the other one is still being closed */
	assert_int_equal(view(0).wait, CORE_WAIT_NONE);
}

static void
count_entry(void *arg, uint32_t entry)
{
	(void)entry;
	++*(unsigned *)arg;
}

static void
looking(void **state)
{
	struct core_totals t;
	uint32_t cursor = 0;
	unsigned n = 0, calls = 0;

	(void)state;
	fx_begin();
	for (unsigned i = 0; i < 100; i++)
		mail(i % 2, 2);
	add(0, 2, false);
	run();
	while (core_each_entry(fx.core, 0, &cursor, 7, count_entry, &n))
		calls++;
	assert_int_equal(n, 51);
	assert_true(calls >= 51 / 7);
	cursor = 0;
	n = 0;
	while (core_each_queue(fx.core, &cursor, 3, count_entry, &n))
		;
	assert_int_equal(n, QUEUES);
	core_totals(fx.core, &t);
	assert_int_equal(t.queued_entries, 101);
	assert_int_equal(t.queued_rcpts, 202);
	assert_int_equal(t.queued_kbytes, 2020);
	assert_int_equal(t.queues_with_mail, 2);
	assert_int_equal(view(0).kbytes, 51 * 20);
	assert_true(slice_is(view(0).name, "d0.example/{default}"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_message),
		cmocka_unit_test(facts_come_back),
		cmocka_unit_test(all_done_already),
		cmocka_unit_test(held_until_committed),
		cmocka_unit_test(connections_by_need),
		cmocka_unit_test(connections_of_who_learns),
		cmocka_unit_test(idle_first),
		cmocka_unit_test(messages_per_connection),
		cmocka_unit_test(recipients_per_transaction),
		cmocka_unit_test(recipients_by_peer),
		cmocka_unit_test(nobody_starves),
		cmocka_unit_test(nonsense_from_workers),
		cmocka_unit_test(claim_table_full),
		cmocka_unit_test(claim_table_line),
		cmocka_unit_test(discard),
		cmocka_unit_test(pause_and_withdraw),
		cmocka_unit_test(looking),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
