/* A short run of the reference model; tests/tools/server_model does long ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define main server_model_main
int server_model_main(int argc, char **argv);
#include "tests/tools/server_model.c"
#undef main

static void
machine_agrees_with_model(void **state)
{
	char *argv[] = { (char[]){ "server_model" }, (char[]){ "5000" }, (char[]){ "20261121" },
			 NULL };

	(void)state;
	assert_int_equal(server_model_main(3, argv), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(machine_agrees_with_model) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
