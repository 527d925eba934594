/* Limits whose numbers change, that go and that come back: nothing that counts is forgotten. */
#include "tests/unit/core/fixture_limits.h"

static struct conf_rate *
rate(void)
{
	return &fx.settings[0].max_msg_rate;
}

static void
work_for(uint64_t us)
{
	work_off();
	for (uint64_t t = 0; t < us; t += 10 * SECOND) {
		pass(10 * SECOND);
		work_off();
	}
}

static void
begin(uint64_t n)
{
	fx_unlimited();
	fx_begin();
	*rate() = (struct conf_rate){ n, HOUR };
	fx.settings[0].max_smtp_out = 1;
	fx.settings[0].max_rcpt_per_transaction = 1;
	mails(0, 600);
	run();
	route(0, 1);
}

static void
change(uint64_t n)
{
	*rate() = (struct conf_rate){ n, n ? HOUR : 0 };
	core_settings_changed(fx.core, &fx.now);
	run();
}

/* Granted in the hour that ends now. */
static size_t
in_the_hour(void)
{
	size_t n = 0;

	for (size_t i = 0; i < fx.n_works; i++)
		n += fx.works[i].granted_boot_us + HOUR >= fx.now.boot_us;
	return n;
}

/* In each hour that ends with one of them. */
static size_t
most_in_an_hour(size_t from)
{
	size_t most = 0;

	for (size_t i = from; i < fx.n_works; i++) {
		size_t n = 0;

		for (size_t k = 0; k <= i; k++)
			n += fx.works[k].granted_boot_us + HOUR >= fx.works[i].granted_boot_us;
		most = n > most ? n : most;
	}
	return most;
}

/* 300, then 20, then 300 again, while the first are in the window. */
static void
lowered_and_raised(void **state)
{
	size_t before;

	(void)state;
	begin(300);
	work_for(45 * MINUTE);
	assert_int_equal(fx.n_works, 300);
	change(20);
	work_for(MINUTE);
	change(300);
	work_for(MINUTE);
	assert_int_equal(in_the_hour(), 300);
	assert_int_equal(fx.n_works, 300);
	before = fx.n_works;
	work_for(HOUR);
	assert_true(most_in_an_hour(before) <= 300);
	/* And it is not closed for nothing: what has left the window comes again. */
	assert_true(fx.n_works >= 590);
}

/* The same between two that know stamps. */
static void
lowered_among_few(void **state)
{
	size_t before;

	(void)state;
	begin(100);
	work_for(45 * MINUTE);
	assert_int_equal(fx.n_works, 100);
	change(10);
	change(100);
	before = fx.n_works;
	work_for(HOUR);
	assert_true(most_in_an_hour(before) <= 100);
	assert_true(fx.n_works >= 198);
}

/* By the lower N, when nothing is over it any more, it is as exact as ever. */
static void
low_for_long(void **state)
{
	(void)state;
	begin(300);
	work_for(45 * MINUTE);
	change(20);
	work_for(2 * HOUR);
	change(21);
	work_for(10 * MINUTE);
	assert_true(most_in_an_hour(fx.n_works - 10) <= 21);
	change(300);
	work_for(20 * MINUTE);
	assert_true(in_the_hour() > 100);
}

/* Taken away and set again: what it was charged, and what went meanwhile, is in the window. */
static void
taken_away_and_back(void **state)
{
	size_t before;

	(void)state;
	begin(50);
	work_for(30 * MINUTE);
	assert_int_equal(fx.n_works, 50);
	change(0);
	mails(0, 60);
	before = fx.n_works;
	fx.settings[0].max_smtp_out = 1;
	while (fx.n_works < before + 60) { /* unlimited, for a while */
		assert_true(w_seen < fx.n_works || o_seen < fx.n_opens);
		for (; o_seen < fx.n_opens; o_seen++)
			core_opened(fx.core, &fx.now, fx.opens[o_seen].connection, 0);
		if (w_seen < fx.n_works)
			settle_with(w_seen++, EVENT_DELIVERED, 0);
		run();
	}
	change(50);
	before = fx.n_works;
	work_for(20 * MINUTE);
	assert_int_equal(fx.n_works, before);
	work_for(3 * HOUR);
	assert_true(fx.n_works >= before + 90);
	assert_true(most_in_an_hour(before) <= 50);
}

/* A window after it was taken away nothing is left of it. */
static void
gone_for_a_window(void **state)
{
	struct core_limit_view v;
	size_t before;

	(void)state;
	begin(50);
	work_for(30 * MINUTE);
	change(0);
	assert_true(core_blocking_limit(fx.core, &fx.now, 0, &v));
	assert_int_equal(v.measure, CORE_MEASURE_SMTP_OUT);
	work_for(61 * MINUTE);
	before = fx.n_works;
	assert_true(before > 300);
	change(50);
	mails(0, 30);
	work_for(10 * SECOND);
	assert_int_equal(fx.n_works, before + 10);
}

/* A body of twice N: it goes, and two windows are closed behind it. */
static void
body_above_n(void **state)
{
	(void)state;
	fx_begin();
	fx.settings[0].max_data_volume_rate = (struct conf_rate){ 10 * 1024, HOUR };
	mails(0, 2);
	run();
	route(0, 1);
	opened(0);
	assert_int_equal(fx.n_works, 1);
	settle_with(0, EVENT_DELIVERED, DUP); /* nothing of it comes back */
	pass(119 * MINUTE);
	for (o_seen = 1; o_seen < fx.n_opens; o_seen++)
		opened(o_seen);
	assert_int_equal(fx.n_works, 1);
	pass(2 * MINUTE);
	for (; o_seen < fx.n_opens; o_seen++)
		opened(o_seen);
	assert_int_equal(fx.n_works, 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lowered_and_raised), cmocka_unit_test(lowered_among_few),
		cmocka_unit_test(low_for_long),       cmocka_unit_test(taken_away_and_back),
		cmocka_unit_test(gone_for_a_window),  cmocka_unit_test(body_above_n),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
