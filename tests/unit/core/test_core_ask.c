/* Recipients that are asked for one by one, and what ends without being anybody's fault. */
#include "tests/unit/core/fixture.h"

static void
without_pipelining(size_t k)
{
	core_opened_as(fx.core, &fx.now, fx.opens[k].connection, 0, false);
	run();
}

static bool
ask(size_t k, unsigned index, uint64_t *stamp)
{
	uint64_t deadline = 0;
	bool may = core_rcpt_ask(fx.core, &fx.now, fx.works[k].entry, fx.works[k].lease, index,
				 stamp, &deadline);

	core_check(fx.core);
	if (may) {
		assert_int_equal(*stamp, fx.now.boot_us);
		assert_int_equal(deadline, fx.now.boot_us + 10000); /* 1 % of a second */
	}
	return may;
}

/* The first recipients of the k-th WORK end so, the others were not attempted. */
static void
settle_first(size_t k, unsigned n, enum event_action action, bool interrupted)
{
	struct core_rcpt_result rcpts[ENTRY_RCPT_MAX];
	struct core_result r = { .entry = fx.works[k].entry,
				 .lease = fx.works[k].lease,
				 .rcpts = rcpts,
				 .interrupted = interrupted,
				 .connection_gone = interrupted };

	for (unsigned i = 0; i < fx.works[k].n_rcpts; i++) {
		if ((fx.bits[k][i / 8] >> (i % 8) & 1) == 0)
			continue;
		rcpts[r.n_rcpts] = (struct core_rcpt_result){
			(uint16_t)i, (uint8_t)(r.n_rcpts < n ? action : EVENT_UNATTEMPTED)
		};
		r.n_rcpts++;
	}
	assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
	core_check(fx.core);
	if (fx.d.finished)
		core_entry_gone(fx.core, &fx.now, r.entry);
	run();
}

/* A rate of 20 a second: four at once. */
static void
begin(unsigned rcpts, unsigned n_mails)
{
	fx_begin();
	fx.settings[0].max_msg_rate = (struct conf_rate){ 20, SECOND };
	fx.settings[0].max_smtp_out = 1;
	for (unsigned i = 0; i < n_mails; i++)
		mail(0, rcpts);
	run();
	route(0, 1);
}

static void
each_by_itself(void **state)
{
	uint64_t stamp;

	(void)state;
	begin(4, 2);
	without_pipelining(0);
	assert_int_equal(fx.n_works, 1);
	assert_true(fx.works[0].ask);
	assert_int_equal(fx.works[0].n_attempt, 4);
	assert_int_equal(view(0).attempted, 0); /* nothing is charged by the WORK */
	assert_true(ask(0, 0, &stamp));
	assert_false(ask(0, 0, &stamp)); /* once */
	assert_false(ask(0, 4, &stamp)); /* not of the entry */
	assert_false(ask(0, 60000, &stamp));
	fx.works[0].lease++;
	assert_false(ask(0, 1, &stamp)); /* nobody's lease */
	fx.works[0].lease--;
	pass(5000);
	for (unsigned i = 1; i < 4; i++)
		assert_true(ask(0, i, &stamp));
	assert_int_equal(view(0).attempted, 4);
	settle_first(0, 4, EVENT_DELIVERED, false);
	/* All four of this tenth are used: the next message waits, it is not even begun. */
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	pass(200000);
	assert_int_equal(fx.n_works, 2);
}

static void
refused_goes_back(void **state)
{
	uint64_t stamp;

	(void)state;
	begin(4, 1);
	fx.settings[0].max_smtp_out = 2;
	mail(0, 4);
	run();
	without_pipelining(0);
	if (fx.n_opens > 1)
		without_pipelining(1);
	assert_int_equal(fx.n_works, 2); /* both were begun: there is room for one of them */
	assert_true(ask(0, 0, &stamp) && ask(0, 1, &stamp) && ask(0, 2, &stamp));
	assert_true(ask(1, 0, &stamp));
	assert_false(ask(1, 1, &stamp));
	assert_false(ask(0, 3, &stamp));
	settle_first(1, 1, EVENT_DELIVERED, false);
	settle_first(0, 3, EVENT_DELIVERED, false);
	assert_int_equal(fx.d.due_s, 0); /* it is not to blame: no retry-recipients-after */
	assert_int_equal(view(0).rcpts, 4);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	assert_int_equal(fx.n_works, 2);
	pass(200000);
	assert_int_equal(fx.n_works, 4); /* the four that are left, in two messages */
	assert_int_equal(fx.works[2].n_attempt + fx.works[3].n_attempt, 4);
}

/* Refused at once, again and again: it stays ready, more often than a claim may come back for
 * nothing. */
static void
refused_in_vain(void **state)
{
	uint64_t stamp;

	(void)state;
	begin(1, 1);
	without_pipelining(0);
	for (size_t k = 0; k < 5; k++) {
		assert_int_equal(fx.n_works, k + 1);
		core_charge(fx.core, &fx.now, 0, fx.now.boot_us, 4, 0); /* others were quicker */
		assert_false(ask(k, 0, &stamp));
		settle_first(k, 0, EVENT_UNATTEMPTED, false);
		assert_int_equal(fx.d.due_s, 0);
		assert_int_equal(fx.d.attempts, 0);
		assert_int_equal(view(0).wait, CORE_WAIT_RATE);
		pass(300000);
	}
}

/* A leave that came too late: a busy machine's doing. It is tried again, and waits for seconds when
 * that is all that happens. */
static void
too_late(void **state)
{
	uint64_t stamp;

	(void)state;
	begin(4, 1);
	fx.settings[0].connection_idle_timeout_us = HOUR;
	without_pipelining(0);
	assert_true(ask(0, 0, &stamp));
	settle_first(0, 0, EVENT_UNATTEMPTED, false);
	assert_int_equal(fx.d.due_s, 0);
	pass(300000);
	/* One goes and a limit refuses the next: not in a row any more. */
	assert_true(ask(1, 0, &stamp));
	core_charge(fx.core, &fx.now, 0, fx.now.boot_us, 4, 0);
	assert_false(ask(1, 1, &stamp));
	settle_first(1, 1, EVENT_DELIVERED, false);
	pass(300000);
	for (size_t k = 2; k < 4; k++) {
		assert_int_equal(fx.n_works, k + 1);
		assert_true(ask(k, 1, &stamp));
		settle_first(k, 0, EVENT_UNATTEMPTED, false);
		assert_int_equal(fx.d.due_s != 0, k == 3);
		if (k == 2)
			pass(300000);
	}
	pass(7 * SECOND);
	assert_int_equal(fx.n_works, 5); /* not after retry-recipients-after */
}

/* Granted, and then not sent: given back. */
static void
not_sent_is_given_back(void **state)
{
	uint64_t stamp;

	(void)state;
	begin(4, 2);
	without_pipelining(0);
	for (unsigned i = 0; i < 4; i++)
		assert_true(ask(0, i, &stamp));
	settle_first(0, 1, EVENT_DELIVERED, false);
	assert_int_equal(view(0).attempted, 1);
	assert_int_equal(fx.n_works, 2); /* there is room for three again */
	assert_true(ask(1, 1, &stamp) && ask(1, 2, &stamp) && ask(1, 3, &stamp));
	assert_true(core_returned(fx.core, &fx.now, fx.works[1].entry, fx.works[1].lease));
	run();
	assert_int_equal(view(0).attempted, 1);
	assert_int_equal(fx.n_works, 3);
}

/* With PIPELINING, or without a message rate, nobody asks. */
static void
no_round_trip(void **state)
{
	uint64_t stamp;

	(void)state;
	begin(4, 1);
	core_opened_as(fx.core, &fx.now, fx.opens[0].connection, 0, true);
	run();
	assert_false(fx.works[0].ask);
	assert_int_equal(view(0).attempted, 4);
	assert_false(ask(0, 0, &stamp));
	core_free(&fx.core);
	fx_begin();
	mail(0, 4);
	run();
	route(0, 1);
	without_pipelining(0);
	assert_false(fx.works[0].ask);
}

static void
adopted(void **state)
{
	struct core_rcpt_stamp granted[] = {
		{ 990000, 0 }, { 995000, 2 }, { 996000, 2 }, { 997000, 900 }
	};
	uint32_t e;

	(void)state;
	fx_begin();
	fx.settings[0].max_msg_rate = (struct conf_rate){ 20, SECOND };
	e = mail(0, 4);
	core_adopt(fx.core, &fx.now, e, 5000, CORE_NONE, 1, 0);
	core_adopt_asked(fx.core, &fx.now, e, 4999, granted, 4); /* nobody's */
	core_adopt_asked(fx.core, &fx.now, e, 5000, granted, 4);
	run();
	assert_int_equal(view(0).attempted, 2);
	fx.works[0] = (struct core_work){ .entry = e, .lease = 5000, .n_rcpts = 4 };
	fx.bits[0][0] = 15;
	settle_first(0, 1, EVENT_DELIVERED, false);
	assert_int_equal(view(0).attempted, 1); /* the second did not leave after all */
	assert_int_equal(view(0).rcpts, 3);
}

/* Ended by ourselves: ready at once, charged all the same, and nobody is blamed. */
static void
interrupted(void **state)
{
	(void)state;
	begin(4, 1);
	core_opened_as(fx.core, &fx.now, fx.opens[0].connection, 0, true);
	run();
	settle_first(0, 4, EVENT_DEFERRED, true);
	assert_int_equal(fx.d.due_s, 0);
	assert_int_equal(fx.d.attempts, 1);
	assert_int_equal(view(0).attempted, 4);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	core_closed(fx.core, &fx.now, fx.opens[0].connection, SLICE_NONE);
	pass(200000);
	assert_int_equal(view(0).retry_at_wall_us, 0);
	assert_int_equal(fx.n_opens, 2);
}

/* connect() was called, then it was given up: charged, and the host is not blamed. */
static void
given_up(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_connect_rate = (struct conf_rate){ 1, HOUR };
	mails(0, 1);
	run();
	route(0, 1);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(fx.opens[0].granted_boot_us, fx.now.boot_us);
	open_failed(0, CORE_FAIL_GIVEN_UP);
	pass(10 * SECOND);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	assert_int_equal(view(0).retry_at_wall_us, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(each_by_itself, fx_end),
		cmocka_unit_test_teardown(refused_goes_back, fx_end),
		cmocka_unit_test_teardown(refused_in_vain, fx_end),
		cmocka_unit_test_teardown(too_late, fx_end),
		cmocka_unit_test_teardown(not_sent_is_given_back, fx_end),
		cmocka_unit_test_teardown(no_round_trip, fx_end),
		cmocka_unit_test_teardown(adopted, fx_end),
		cmocka_unit_test_teardown(interrupted, fx_end),
		cmocka_unit_test_teardown(given_up, fx_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
