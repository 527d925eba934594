/* rate: what is charged as a whole (bodies), against what the contract says of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scheduler/core/rate.h"

#define SECOND 1000000ull
#define MB     (1ull << 20)

/* A body above a fifth goes when its tenth is empty, and alone in it. */
static void
above_a_fifth(void **state)
{
	static const uint64_t n[] = { 100, 1000, 100 * MB };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct rate *r = rate_new(n[i], 10 * SECOND);
		uint64_t now = 50 * SECOND, big = n[i] / 2, when;

		rate_charge(r, now, 1);
		assert_false(rate_fits(r, now, big));
		when = rate_when_fits(r, now, big);
		assert_true(when > now + SECOND && when < now + 12 * SECOND / 10);
		assert_false(rate_fits(r, when - 1, big));
		assert_true(rate_fits(r, when, big));
		rate_charge(r, when, big);
		assert_false(rate_fits(r, when, 1));
		assert_int_equal(rate_room(r, when), 0);
		now = rate_when(r, when);
		assert_true(now > when + SECOND && now < when + 12 * SECOND / 10);
		assert_true(rate_fits(r, now, big - 1));
		assert_false(rate_fits(r, now, big)); /* the first one counts still */
		rate_free(&r);
	}
}

/* One above N goes when the window is empty; then nothing until it is made up for. */
static void
above_n(void **state)
{
	static const uint64_t n[] = { 1, 100, 1000, 100 * MB };

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct rate *r = rate_new(n[i], 10 * SECOND);
		uint64_t now = 50 * SECOND, when;

		rate_charge(r, now, 1);
		when = rate_when_fits(r, now, n[i] + 1);
		assert_true(when > now + 10 * SECOND && when < now + 103 * SECOND / 10);
		assert_false(rate_fits(r, when - 1, n[i] + 1));
		now = when;
		rate_charge(r, now, n[i] * 7 / 2 + 1);
		when = rate_when(r, now);
		assert_true(when >= now + 35 * SECOND && when <= now + 42 * SECOND);
		assert_int_equal(rate_room(r, when - 1), 0);
		assert_false(rate_fits(r, when - 1, 1));
		assert_int_equal(rate_room(r, when), rate_share(r));
		/* Given back: as if it had not been. */
		rate_charge(r, when + 60 * SECOND, n[i] * 5);
		assert_int_equal(rate_room(r, when + 60 * SECOND), 0);
		rate_refund(r, when + 60 * SECOND, n[i] * 5);
		assert_int_equal(rate_room(r, when + 60 * SECOND), rate_share(r));
		assert_int_equal(rate_used(r), 0);
		rate_free(&r);
	}
}

/* With as much mail of any size as there is room for: on average never above the rate, and in no
 * window above N but for the one body that is larger. */
static void
mixed_bodies(void **state)
{
	static const uint64_t n[] = { 128, 129, 5000, 100 * MB };
	uint64_t rng = 88172645463325252ull;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct rate *r = rate_new(n[i], 60 * SECOND);
		uint64_t begin = 1000 * SECOND, now = begin, sum = 0, last_sum = 0, last = 0;
		uint64_t stamps[4000], sizes[4000], first = 0, inside = 0;

		for (unsigned k = 0; k < 4000; k++) {
			uint64_t size;

			rng ^= rng << 13;
			rng ^= rng >> 7;
			rng ^= rng << 17;
			size = 1 + rng % (rng >> 60 == 0 ? 3 * n[i] : n[i] / 20);
			if (!rate_fits(r, now, size)) {
				now = rate_when_fits(r, now, size);
				assert_true(rate_fits(r, now, size));
			}
			rate_charge(r, now, size);
			stamps[k] = now;
			sizes[k] = size;
			sum += size;
			for (inside += size; stamps[first] + 60 * SECOND < now; first++)
				inside -= sizes[first];
			assert_true(inside <= n[i] || (size > n[i] && inside == size));
			last = now;
			last_sum = size;
		}
		/* All but the last is made up for. */
		assert_true((sum - last_sum) / n[i] <= (last - begin) / (60 * SECOND) + 1);
		rate_free(&r);
	}
}

/* Bytes up to the largest numbers. */
static void
large(void **state)
{
	uint64_t n = UINT64_C(1) << 50, now = SECOND;
	struct rate *r = rate_new(n, 86400 * SECOND);

	(void)state;
	for (unsigned k = 0; k < 5; k++) {
		assert_int_equal(rate_room(r, now), n / 5);
		rate_charge(r, now, n / 5);
		now = rate_when(r, now);
	}
	assert_true(rate_used(r) == n / 5 * 5);
	rate_charge(r, now + 86400 * 2 * SECOND, UINT64_MAX);
	assert_int_equal(rate_room(r, now + 86400 * 60 * SECOND), 0);
	rate_free(&r);
	r = rate_new(UINT64_MAX, UINT64_MAX);
	for (unsigned k = 0; k < 1000; k++)
		rate_force(r, now, UINT64_MAX);
	assert_int_equal(rate_room(r, now), 0);
	rate_free(&r);
}

static void
closed(void **state)
{
	struct rate *r = rate_new(10, SECOND);

	(void)state;
	rate_close_until(r, 5 * SECOND);
	rate_close_until(r, 4 * SECOND);
	assert_int_equal(rate_room(r, SECOND), 0);
	assert_false(rate_fits(r, SECOND, 1));
	assert_int_equal(rate_when(r, SECOND), 5 * SECOND);
	rate_force(r, 9 * SECOND / 2, 10);
	assert_int_equal(rate_when(r, 9 * SECOND / 2), 9 * SECOND / 2 + SECOND + 10001);
	rate_change(&r, 1000, SECOND, 9 * SECOND / 2);
	assert_int_equal(rate_room(r, 5 * SECOND - 1), 0);
	assert_int_equal(rate_room(r, 5 * SECOND), 200);
	rate_free(&r);
}

/* What happened before the boot counts by its age. */
static void
the_past(void **state)
{
	static const uint64_t n[] = { 100, 1000 };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rate *r = rate_new(n[i], 3600 * SECOND);
		uint64_t now = 10 * SECOND, when;

		rate_past(r, now, 7200 * SECOND, n[i] / 10); /* too old */
		rate_past(r, now, 3000 * SECOND, n[i] / 2);
		rate_past(r, now, 3200 * SECOND, n[i] / 2); /* out of order: as the one before */
		assert_int_equal(rate_room(r, now), 0);
		assert_int_equal(rate_used(r), n[i]);
		when = rate_when(r, now);
		assert_true(when > now + 600 * SECOND && when < now + 630 * SECOND);
		assert_int_equal(rate_room(r, when), rate_share(r));
		rate_free(&r);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(above_a_fifth), cmocka_unit_test(above_n),
		cmocka_unit_test(mixed_bodies),  cmocka_unit_test(large),
		cmocka_unit_test(closed),        cmocka_unit_test(the_past),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
