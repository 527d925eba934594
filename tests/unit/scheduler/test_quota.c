/* When reception stops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/disk.h"
#include "scheduler/quota.h"

#define G (1ull << 30)
#define M (1ull << 20)

static void
rows(void **state)
{
	// clang-format off
	static const struct {
		uint64_t disk, free;
		unsigned map, events;
		enum quota before, now;
	} table[] = {
		{ 10 * G,   3 * G / 2 + G / 100, 0, 0, QUOTA_FREE, QUOTA_FREE },
		{ 10 * G,   3 * G / 2 - G / 100, 0, 0, QUOTA_FREE, QUOTA_DISK },
		{ 10 * G,   3 * G / 2 + G / 100, 0, 0, QUOTA_DISK, QUOTA_DISK }, /* not back and forth */
		{ 10 * G,   2 * G,   0, 0,   QUOTA_DISK, QUOTA_FREE },
		{ 10 * G,   0,       0, 0,   QUOTA_FREE, QUOTA_DISK },
		{ 10 * G,   5 * G,   84, 0,  QUOTA_FREE, QUOTA_FREE },
		{ 10 * G,   5 * G,   84, 0,  QUOTA_MAP,  QUOTA_MAP },
		{ 10 * G,   5 * G,   85, 0,  QUOTA_FREE, QUOTA_MAP },
		{ 10 * G,   5 * G,   100, 0, QUOTA_FREE, QUOTA_MAP },
		{ 10 * G,   5 * G,   0, 84,  QUOTA_FREE, QUOTA_FREE },
		{ 10 * G,   5 * G,   0, 85,  QUOTA_FREE, QUOTA_EVENTS },
		{ 10 * G,   5 * G,   0, 81,  QUOTA_EVENTS, QUOTA_FREE },
		{ 1000 * G, 4 * G,   0, 0,   QUOTA_FREE, QUOTA_FREE }, /* 15 % of it would be a waste */
		{ 1000 * G, 4 * G - 30, 0, 0,QUOTA_FREE, QUOTA_DISK },
		{ 0,        0,       0, 0,   QUOTA_FREE, QUOTA_FREE },
	};
	// clang-format on

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		struct quota_facts f = { table[i].disk, table[i].free, table[i].map,
					 table[i].events };

		assert_int_equal(quota_check(&f, table[i].before), table[i].now);
	}
}

static void
of_the_event_log(void **state)
{
	// clang-format off
	static const struct {
		uint64_t low, end, offset, file, disk;
		unsigned percent;
	} table[] = {
		{ 7, 7, 60 * M,  64 * M, 1000 * G, 0 },  /* read up to here, or nearly */
		{ 7, 9, 0,       64 * M, 1000 * G, 0 },  /* 2 of 256 */
		{ 7, 135, 0,     64 * M, 1000 * G, 50 },
		{ 7, 999, 0,     64 * M, 1000 * G, 100 },
		{ 1, 3, 2 * M,   4 * M,  64 * M,   62 }, /* of 16 MiB */
		{ 1, 4, 2 * M,   4 * M,  64 * M,   87 },
		{ 1, 3, 0,       1 * M,  2 * M,    50 }, /* never fewer than 4 files */
		{ 1, 129, 0,     64 * M, 0,        50 },
	};
	// clang-format on

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		assert_int_equal(quota_events_percent(
					 (struct event_position){ table[i].low, 4096 },
					 (struct event_position){ table[i].end, table[i].offset },
					 table[i].file, table[i].disk),
				 table[i].percent);
}

static void
files_of_small_disks(void **state)
{
	(void)state;
	assert_int_equal(disk_file_share(0, 64 * M), 64 * M);
	assert_int_equal(disk_file_share(1000 * G, 64 * M), 64 * M);
	assert_int_equal(disk_file_share(1 * G - 60 * M, 64 * M), 64 * M); /* 1 GiB less its own records */
	assert_int_equal(disk_file_share(64 * M, 64 * M), 4 * M);
	assert_int_equal(disk_file_share(57 * M, 64 * M), 3 * M);
	assert_int_equal(disk_file_share(1 * M, 64 * M), 1 * M);
	assert_true(disk_file_bytes(-1, 64 * M) == 64 * M);
}

static void
of_a_real_one(void **state)
{
	uint64_t bytes, free_bytes;

	(void)state;
	assert_true(quota_has_room(-1, 1)); /* cannot be asked */
	assert_true(disk_room(0, &bytes, &free_bytes) || disk_room(1, &bytes, &free_bytes));
	assert_false(quota_has_room(1, UINT64_MAX / 2) && quota_has_room(0, UINT64_MAX / 2));
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(rows),
					    cmocka_unit_test(of_the_event_log),
					    cmocka_unit_test(files_of_small_disks),
					    cmocka_unit_test(of_a_real_one) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
