/* Numbers of names: given once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

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

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(numbers), cmocka_unit_test(reserved) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
