/* map and timers against plain arrays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/core/map.h"
#include "scheduler/core/timers.h"

#define KEYS 300

static uint64_t rng;

static uint32_t
rnd(uint32_t n)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return (uint32_t)((rng * 2685821657736338717ull) >> 33) % n;
}

static void
map_random(void **state)
{
	/* Keys that fall together, and some that do not. */
	static const uint64_t factor[] = { 1, 1ull << 32, 0x100000001ull, 0x9e3779b97f4a7c15ull };

	(void)state;
	for (unsigned seed = 1; seed <= 40; seed++) {
		uint64_t want[KEYS];
		struct map m = { 0 };
		size_t n = 0;

		rng = seed;
		for (unsigned i = 0; i < KEYS; i++)
			want[i] = MAP_NONE;
		for (unsigned step = 0; step < 4000; step++) {
			unsigned k = rnd(step % 1000 < 500 ? KEYS : KEYS / 10);
			uint64_t key = k * factor[seed % 4];

			if (rnd(2)) {
				n += want[k] == MAP_NONE;
				want[k] = rnd(1000000);
				map_put(&m, key, want[k]);
			} else {
				n -= want[k] != MAP_NONE;
				assert_int_equal(map_take(&m, key), want[k]);
				want[k] = MAP_NONE;
			}
			assert_int_equal(m.n, n);
			if (step % 50 == 0)
				for (unsigned i = 0; i < KEYS; i++)
					assert_int_equal(map_get(&m, i * factor[seed % 4]),
							 want[i]);
		}
		map_clear(&m);
		assert_int_equal(map_get(&m, 1), MAP_NONE);
		assert_int_equal(map_take(&m, 1), MAP_NONE);
	}
}

static uint32_t places[KEYS];

static uint32_t *
place_of(void *arg, uint32_t queue)
{
	(void)arg;
	return &places[queue];
}

static void
timers_random(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 40; seed++) {
		struct timers t = { .pos = place_of };
		uint64_t at[KEYS];

		rng = seed;
		for (unsigned i = 0; i < KEYS; i++) {
			places[i] = UINT32_MAX;
			at[i] = UINT64_MAX;
		}
		for (unsigned step = 0; step < 4000; step++) {
			uint64_t first = UINT64_MAX;
			unsigned k = rnd(KEYS);

			if (rnd(4) == 0 && timers_next(&t) != UINT64_MAX) {
				first = timers_next(&t);
				k = timers_pop(&t);
				assert_int_equal(at[k], first);
				assert_int_equal(places[k], UINT32_MAX);
				at[k] = UINT64_MAX;
			} else {
				at[k] = rnd(5) == 0 ? UINT64_MAX : rnd(step % 2 ? 20 : 100000);
				timers_set(&t, k, at[k]);
			}
			first = UINT64_MAX;
			for (unsigned i = 0; i < KEYS; i++)
				first = at[i] < first ? at[i] : first;
			assert_int_equal(timers_next(&t), first);
		}
		timers_clear(&t);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(map_random),
		cmocka_unit_test(timers_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
