/* How the rate returns after back-off: the steps, and the controller. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/core/recover.h"

#define SECOND 1000000ull
#define MINUTE (60 * SECOND)

static void
percents(void **state)
{
	const struct conf_recover how = { .every_us = 10 * MINUTE,
					  .n = 3,
					  .percent = { 10, 25, 50 } };
	const struct conf_recover whole = { .every_us = MINUTE, .n = 2, .percent = { 40, 100 } };
	static const struct {
		uint64_t since;
		unsigned percent;
		uint64_t left;
	} rows[] = {
		{ 0, 10, 10 * MINUTE },           { 10 * MINUTE - 1, 10, 1 },
		{ 10 * MINUTE, 25, 10 * MINUTE }, { 29 * MINUTE, 50, MINUTE },
		{ 30 * MINUTE, 100, 0 },          { UINT64_MAX, 100, 0 },
	};
	uint64_t left;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(recover_percent(&how, rows[i].since, &left), rows[i].percent);
		assert_int_equal(left, rows[i].left);
	}
	assert_int_equal(recover_percent(&whole, MINUTE, &left), 100);
	assert_int_equal(recover_percent(&(struct conf_recover){ 0 }, 0, &left), 100);
}

static void
rates(void **state)
{
	static const uint64_t mps[] = { 1,    17,    999,    1000,   1001,
					5400, 20000, 123456, 500000, 10000000 };

	(void)state;
	for (size_t i = 0; i < sizeof(mps) / sizeof(mps[0]); i++) {
		struct conf_rate r = recover_rate_of(mps[i]);

		assert_true(r.n >= 1 && r.window_us >= 1000000 - 1);
		assert_in_range(recover_mps_of(&r), mps[i], mps[i] + mps[i] / 10000);
	}
	assert_int_equal(recover_rate_of(0).n, 0);
	assert_int_equal(recover_mps_of(&(struct conf_rate){ 0 }), 0);
	assert_int_equal(recover_mps_of(&(struct conf_rate){ .n = 100, .window_us = 60 * MINUTE }),
			 27);
}

static void
starts(void **state)
{
	struct recover_auto r;

	(void)state;
	recover_auto_begin(&r, 100000, MINUTE, 0, 0, 5 * SECOND);
	assert_int_equal(r.rate_mps, 90000);
	/* Never above the normal limit. */
	recover_auto_begin(&r, 100000, MINUTE, 50000, 0, 5 * SECOND);
	assert_int_equal(r.rate_mps, 50000);
	/* Nothing is known: first what is under way is waited for. */
	recover_auto_begin(&r, 0, 0, 50000, 0, 5 * SECOND);
	assert_int_equal(r.rate_mps, RECOVER_LEAST_MPS);
	recover_auto_step(&r, 50000, 6 * SECOND);
	assert_int_equal(r.rate_mps, 5000);
	recover_auto_begin(&r, 0, 0, 0, 0, 5 * SECOND);
	recover_auto_step(&r, 50000, 6 * SECOND);
	assert_int_equal(r.rate_mps, RECOVER_UNKNOWN_MPS);
	recover_auto_begin(&r, 100000, MINUTE, 0, 1234, 5 * SECOND); /* after a restart */
	assert_int_equal(r.rate_mps, 1234);
	recover_auto_begin(&r, 1, MINUTE, 1, 0, 5 * SECOND);
	assert_int_equal(r.rate_mps, RECOVER_LEAST_MPS);
}

/* A queue that has just begun: nothing more is sent, and refusals of what was sent say nothing, until what is under way has been
 * answered. With what was delivered before that is what is allowed. */
static void
starts_knowing_little(void **state)
{
	struct recover_auto r;

	(void)state;
	recover_auto_begin(&r, 20000, SECOND, 1000000, 0, 5 * SECOND);
	assert_int_equal(r.rate_mps, RECOVER_LEAST_MPS);
	recover_auto_delivered(&r, 30, 5 * SECOND + 1000);
	for (unsigned i = 0; i < 50; i++)
		assert_false(recover_auto_match(&r, 5 * SECOND + 10000 * i));
	recover_auto_delivered(&r, 50, 5 * SECOND + 600000);
	assert_false(recover_auto_step(&r, 1000000, 6 * SECOND - 1));
	assert_int_equal(r.rate_mps, RECOVER_LEAST_MPS);
	recover_auto_step(&r, 1000000, 6 * SECOND);
	assert_int_equal(r.rate_mps, 90000);
	assert_int_equal(r.ceiling_mps, 100000);
	/* That is known as well as any ceiling: no search beyond it yet. */
	recover_auto_delivered(&r, 90, 7 * SECOND);
	recover_auto_step(&r, 1000000, 7 * SECOND);
	assert_in_range(r.rate_mps, 94000, 96000);
	/* Of hardly anything it is not, and it is looked for at once. */
	recover_auto_begin(&r, 1000, SECOND, 1000000, 0, 5 * SECOND);
	recover_auto_delivered(&r, 2, 5 * SECOND + 1000);
	recover_auto_step(&r, 1000000, 6 * SECOND);
	assert_int_equal(r.rate_mps, 900);
	recover_auto_step(&r, 1000000, 7 * SECOND);
	assert_in_range(r.rate_mps, 1100, 1200);
}

/* All that it allows is delivered. */
static void
calm(struct recover_auto *r, uint64_t *now, uint64_t end)
{
	for (; *now < end; *now += SECOND) {
		recover_auto_delivered(r, r->rate_mps / 1000 + 1, *now + SECOND);
		assert_false(recover_auto_step(r, 0, *now + SECOND));
	}
}

static void
up_and_down(void **state)
{
	struct recover_auto r;
	uint64_t now = 1000 * SECOND, rate;

	(void)state;
	recover_auto_begin(&r, 100000, MINUTE, 0, 0, now);
	/* What comes now was sent before it began. */
	assert_false(recover_auto_match(&r, now + RECOVER_HOLD_US - 1));
	assert_int_equal(r.rate_mps, 90000);
	/* Back to where it was refused, slower and slower, then beyond, faster and faster. */
	assert_false(recover_auto_step(&r, 0, now + SECOND - 1));
	calm(&r, &now, now + 2 * SECOND);
	assert_in_range(r.rate_mps, 97000, 99000);
	calm(&r, &now, now + 3 * SECOND);
	assert_in_range(r.rate_mps, 99900, 100100);
	calm(&r, &now, now + 5 * SECOND);
	assert_in_range(r.rate_mps, 105000, 111000);
	rate = r.rate_mps;
	calm(&r, &now, now + 10 * SECOND);
	assert_in_range(r.rate_mps, rate * 2, rate * 3);
	/* One refusal among many: a little down, and once for all that was sent before. */
	rate = r.rate_mps;
	assert_true(recover_auto_match(&r, now));
	assert_in_range(r.rate_mps, rate * 85 / 100, rate * 87 / 100); /* of the rate before the last step up */
	rate = r.rate_mps;
	for (unsigned i = 0; i < 100; i++)
		assert_false(recover_auto_match(&r, now + 100 * i));
	assert_int_equal(r.rate_mps, rate);
	/* A clock that jumps ahead, and a normal limit that it comes to. */
	assert_true(recover_auto_step(&r, rate + 1, now += 1000000 * SECOND));
	assert_int_equal(r.rate_mps, rate + 1);
	assert_true(r.next_us > now);
}

/* A peer that takes a third of what it took: it is known after a second. */
static void
falls(void **state)
{
	struct recover_auto r;
	uint64_t now = 1000 * SECOND, taken = 0, matches = 0;

	(void)state;
	recover_auto_begin(&r, 300000, MINUTE, 0, 0, now);
	calm(&r, &now, now + 5 * SECOND);
	for (unsigned i = 0; i < 20; i++, now += SECOND / 10) {
		uint64_t sent = r.rate_mps / 10000;

		for (uint64_t k = 0; k < sent; k++) {
			if (k < 10)
				recover_auto_delivered(&r, 1, now + k * 100000 / sent);
			else
				recover_auto_match(&r, now + k * 100000 / sent);
			matches += k >= 10;
			taken += k < 10;
		}
	}
	assert_in_range(r.rate_mps, 60000, 110000);
	assert_true(matches < taken);
}

/* The rate that is refused was only tried since the last step: down goes it from the one before. */
static void
overshoots(void **state)
{
	struct recover_auto r, slow;
	uint64_t now = 1000 * SECOND, sure, rate;

	(void)state;
	recover_auto_begin(&r, 100000, MINUTE, 0, 0, now);
	calm(&r, &now, now + 15 * SECOND);
	sure = r.rate_mps;
	assert_true(sure > 120000); /* the search is far beyond what was allowed */
	calm(&r, &now, now + SECOND);
	rate = r.rate_mps;
	assert_true(rate > sure * 109 / 100);
	slow = r;
	assert_true(recover_auto_match(&r, now + SECOND / 2));
	assert_in_range(r.rate_mps, sure * 94 / 100, sure * 95 / 100);
	/* How far above may be allowed: the last second was half at the one, half at the other. */
	assert_in_range(r.ceiling_mps, sure, (sure + rate) / 2);
	assert_true(r.ceiling_mps > sure * 103 / 100);
	/* Where it was refused before there is nothing new in it. */
	slow.ceiling_mps = sure;
	assert_true(recover_auto_match(&slow, now + SECOND / 2));
	assert_in_range(slow.ceiling_mps, sure * 99 / 100, sure);
	/* On the way back the steps are long, and nothing is known of where they began. */
	recover_auto_begin(&r, 100000, MINUTE, 0, 0, now);
	r.rate_mps = 60000;
	r.sure_mps = 1000;
	recover_auto_delivered(&r, 1000, now + SECOND);
	assert_true(recover_auto_match(&r, now + SECOND));
	assert_in_range(r.rate_mps, 56000, 57000);
}

/* Who sends ten a second has three answers in the time the fast have eight. */
static void
judges_the_slow(void **state)
{
	struct recover_auto r;
	uint64_t now = 1000 * SECOND, rate;

	(void)state;
	for (unsigned fast = 0; fast < 2; fast++) {
		recover_auto_begin(&r, fast ? 100000 : 11000, MINUTE, 0, 0, now);
		rate = r.rate_mps;
		now += RECOVER_HOLD_US;
		assert_false(recover_auto_match(&r, now));
		assert_false(recover_auto_match(&r, now + 1));
		assert_int_equal(recover_auto_match(&r, now + 2), !fast);
		assert_int_equal(r.rate_mps < rate, !fast);
	}
}

/* A peer that takes nothing is asked less and less; then it comes back soon to what it gave on average. */
static void
block(void **state)
{
	struct recover_auto r;
	uint64_t now = 1000 * SECOND, asked = 0;

	(void)state;
	recover_auto_begin(&r, 100000, MINUTE, 0, 0, now);
	calm(&r, &now, now + 20 * SECOND);
	for (uint64_t end = now + 60 * SECOND; now < end; asked++) {
		recover_auto_match(&r, now);
		now += 1000000000 / r.rate_mps;
		recover_auto_step(&r, 0, now);
	}
	assert_in_range(asked, 10, 300);
	assert_in_range(r.rate_mps, RECOVER_LEAST_MPS, 1000);
	/* 20 s of more than 100/s, and 60 of nothing. */
	recover_auto_delivered(&r, 1, now);
	calm(&r, &now, now + 6 * SECOND);
	assert_in_range(r.rate_mps, 20000, 50000);
	/* However long: to a minimum, and it does not get stuck there. */
	for (unsigned i = 0; i < 1000; i++)
		recover_auto_match(&r, now += 2 * SECOND);
	assert_int_equal(r.rate_mps, RECOVER_LEAST_MPS);
	recover_auto_step(&r, 0, now += 5 * SECOND);
	assert_true(r.rate_mps > RECOVER_LEAST_MPS);
}

/* Where there is no mail to see it, being refused nothing says little. */
static void
no_mail(void **state)
{
	struct recover_auto with, without, back;
	uint64_t now = 1000 * SECOND, then = now;
	bool over = false;

	(void)state;
	recover_auto_begin(&with, 100000, MINUTE, 0, 0, now);
	without = with;
	calm(&with, &now, then + 30 * SECOND);
	for (now = then; now < then + 30 * SECOND; now += SECOND)
		recover_auto_step(&without, 0, now + SECOND);
	assert_true(with.rate_mps > 300000);
	assert_true(without.rate_mps < 110000);
	/* Without a limit to come to it stays within reach of what it knows, however long. */
	back = without;
	for (; now < then + 24 * 3600 * SECOND; now += SECOND)
		recover_auto_step(&without, 0, now + SECOND);
	assert_in_range(without.rate_mps, 150000, 200000);
	calm(&without, &now, now + 30 * SECOND);
	assert_true(without.rate_mps > 1000000);
	/* With one it is not in back-off for ever. */
	for (now = then + 30 * SECOND; now < then + 200 * SECOND && !over; now += SECOND)
		over = recover_auto_step(&back, 1000000, now + SECOND);
	assert_true(over);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(percents),    cmocka_unit_test(rates),
		cmocka_unit_test(starts),      cmocka_unit_test(starts_knowing_little),
		cmocka_unit_test(up_and_down), cmocka_unit_test(falls),
		cmocka_unit_test(overshoots),  cmocka_unit_test(judges_the_slow),
		cmocka_unit_test(block),       cmocka_unit_test(no_mail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
