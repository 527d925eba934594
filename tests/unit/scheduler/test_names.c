/* Numbers of names: given once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scheduler/names.h"

static void
numbers(void **state)
{
	struct names *n = names_new();
	bool is_new;

	(void)state;
	assert_int_equal(names_number(n, SLICE_LIT("a/v"), &is_new), 1);
	assert_true(is_new);
	assert_int_equal(names_number(n, SLICE_LIT("b/v"), &is_new), 2);
	assert_int_equal(names_number(n, SLICE_LIT("a/v"), &is_new), 1);
	assert_false(is_new);
	assert_int_equal(names_number(n, SLICE_NONE, &is_new), 0);
	assert_int_equal(names_find(n, SLICE_LIT("c/v")), 0);
	assert_true(slice_is(names_get(n, 2), "b/v"));
	assert_int_equal(names_get(n, 3).n, 0);
	names_free(&n);
}

/* A row names a number whose own name is damaged: another name under it would send mail elsewhere.
 */
static void
reserved(void **state)
{
	struct names *n = names_new();
	bool is_new;

	(void)state;
	names_restore(n, 3, SLICE_LIT("c/v"));
	names_reserve(n, 70);
	names_reserve(n, 5);
	assert_int_equal(names_get(n, 70).n, 0);
	assert_int_equal(names_number(n, SLICE_LIT("d/v"), &is_new), 71);
	assert_true(slice_is(names_get(n, 3), "c/v"));
	names_free(&n);
}

static unsigned n_gone;
static uint32_t last_gone;

static void
gone(void *arg, uint32_t number)
{
	(void)arg;
	n_gone++;
	last_gone = number;
}

/* What nobody holds goes at the sweep, and its number is given again; what is held or kept stays. */
static void
forgotten(void **state)
{
	struct names *n = names_new();
	bool is_new;

	(void)state;
	n_gone = 0;
	names_restore(n, 1, SLICE_LIT("queue/v"));
	names_keep(n, 1);
	names_restore(n, 2, SLICE_LIT("job"));
	names_hold(n, 2, 1);
	names_restore(n, 4, SLICE_LIT("left over"));
	names_reserve(n, 6);
	names_loaded(n);
	assert_false(names_sweep(n, 100, gone, NULL));
	assert_int_equal(n_gone, 1);
	assert_int_equal(last_gone, 4);
	assert_int_equal(names_find(n, SLICE_LIT("left over")), 0);
	/* 4 was given back last, 3 and 5 were never used, 6 is somebody's. */
	assert_int_equal(names_number(n, SLICE_LIT("x"), &is_new), 4);
	names_hold(n, 4, 1);
	assert_int_equal(names_number(n, SLICE_LIT("y"), &is_new), 3);
	names_hold(n, 3, 1);
	assert_int_equal(names_number(n, SLICE_LIT("z"), &is_new), 5);
	names_hold(n, 5, 1);
	assert_int_equal(names_number(n, SLICE_LIT("w"), &is_new), 7);
	/* In between somebody comes back to it. */
	names_hold(n, 2, -1);
	assert_int_equal(names_number(n, SLICE_LIT("job"), &is_new), 2);
	assert_false(is_new);
	names_hold(n, 2, 1);
	assert_false(names_sweep(n, 100, gone, NULL));
	assert_int_equal(n_gone, 2); /* w, which nobody took */
	assert_int_equal(last_gone, 7);
	assert_true(slice_is(names_get(n, 2), "job"));
	assert_true(slice_is(names_get(n, 1), "queue/v"));
	names_free(&n);
}

/* Very many come and go; each is found while it is there, and the others are not. */
static void
very_many(void **state)
{
	enum { N = 100000 };
	struct names *n = names_new();
	uint32_t *numbers = calloc(N, sizeof *numbers);
	bool is_new;

	(void)state;
	n_gone = 0;
	names_loaded(n);
	for (int round = 0; round < 2; round++) {
		char text[32];

		for (int i = 0; i < N; i++) {
			int len = snprintf(text, sizeof text, "job-%d-%d", round, i);

			numbers[i] = names_number(n, slice_of(text, (size_t)len), &is_new);
			assert_true(is_new && numbers[i] <= N);
			names_hold(n, numbers[i], 1);
		}
		for (int i = 0; i < N; i++) {
			if (i % 1000 != 0)
				names_hold(n, numbers[i], -1);
		}
		while (names_sweep(n, 1000, gone, NULL))
			;
		for (int i = 0; i < N; i++) {
			int len = snprintf(text, sizeof text, "job-%d-%d", round, i);

			assert_int_equal(names_find(n, slice_of(text, (size_t)len)), i % 1000 == 0 ? numbers[i] : 0);
		}
		assert_int_equal(names_count(n), N / 1000);
		for (int i = 0; i < N; i += 1000)
			names_hold(n, numbers[i], -1);
		assert_false(names_sweep(n, N, gone, NULL));
		assert_int_equal(names_count(n), 0);
	}
	assert_int_equal(n_gone, 2 * N);
	free(numbers);
	names_free(&n);
}

/* The name gets another number; its old one is never given again, nor does it vanish in a sweep. */
static void
unnamed(void **state)
{
	struct names *n = names_new();
	bool is_new;

	(void)state;
	n_gone = 0;
	for (uint32_t i = 1; i <= 50; i++) {
		char name[20];

		names_restore(n, i,
			      slice_of(name, (size_t)snprintf(name, sizeof name, "d%u/v", i)));
		names_keep(n, i);
	}
	names_loaded(n);
	names_hold(n, 8, 1);
	assert_true(names_is_held(n, 8));
	assert_false(names_is_held(n, 7));
	assert_false(names_is_held(n, 700));
	names_unname(n, 7);
	assert_int_equal(names_find(n, SLICE_LIT("d7/v")), 0);
	assert_int_equal(names_get(n, 7).n, 0);
	assert_int_equal(names_count(n), 49);
	assert_int_equal(names_number(n, SLICE_LIT("d7/v"), &is_new), 51);
	assert_true(is_new);
	assert_int_equal(names_number(n, SLICE_LIT("other/v"), &is_new), 52);
	while (names_sweep(n, 1, gone, NULL))
		;
	assert_int_equal(n_gone, 2); /* of 51 and 52, which nobody keeps */
	assert_int_equal(names_number(n, SLICE_LIT("third/v"), &is_new) > 50, true);
	for (uint32_t i = 1; i <= 50; i++)
		assert_int_equal(names_get(n, i).n > 0, i != 7);
	names_free(&n);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(numbers), cmocka_unit_test(reserved),
					    cmocka_unit_test(forgotten), cmocka_unit_test(very_many), cmocka_unit_test(unnamed) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
