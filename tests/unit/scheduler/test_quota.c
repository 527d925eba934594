/* When reception stops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/quota.h"

#define G (1ull << 30)

static void
rows(void **state)
{
	// clang-format off
	static const struct {
		uint64_t disk, free;
		unsigned map;
		bool reached;
	} table[] = {
		{ 10 * G,   3 * G / 2 + G / 100, 0, false },
		{ 10 * G,   3 * G / 2 - G / 100, 0, true },
		{ 10 * G,   0,       0,  true },
		{ 10 * G,   5 * G,   84, false },
		{ 10 * G,   5 * G,   85, true },
		{ 10 * G,   5 * G,   100, true },
		{ 1000 * G, 4 * G,   0,  false }, /* 15 % of it would be a waste */
		{ 1000 * G, 4 * G - 1, 0, true },
		{ 0,        0,       0,  false },
	};
	// clang-format on

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		assert_int_equal(quota_is_reached(table[i].disk, table[i].free, table[i].map),
				 table[i].reached);
}

static void
of_a_real_one(void **state)
{
	(void)state;
	assert_false(quota_is_reached_at(-1, 0));
	assert_true(quota_is_reached_at(0, 100) || quota_is_reached_at(1, 100));
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(rows),
					    cmocka_unit_test(of_a_real_one) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
