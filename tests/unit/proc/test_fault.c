/* SIGBUS: guarded, an error of the one read, again and again and in threads; elsewhere the end of
 * the process, with a line in the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/proc/fault.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

static char root[600];

static int
setup(void **state)
{
	(void)state;
	strcpy(root, scratch_make());
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	scratch_remove(root);
	return 0;
}

/* A map of two pages whose file ends after the first. */
static char *
cut_map(void)
{
	const char *path = scratch_path(root, "file");
	char *p;
	int fd;

	scratch_write(path, "x", 1);
	assert_int_equal(truncate(path, 8192), 0);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	close(fd);
	assert_int_equal(p[8191], 0);
	assert_int_equal(truncate(path, 4096), 0);
	return p;
}

static int
read_end(void *arg)
{
	volatile char *p = arg;

	return p[8191];
}

static int
read_begin(void *arg)
{
	volatile char *p = arg;

	return p[0];
}

static void *
many(void *arg)
{
	for (int i = 0; i < 1000; i++) {
		if (fault_guarded(read_begin, arg) != 'x' || fault_guarded(read_end, arg) != -E_IO)
			return arg;
	}
	return NULL;
}

static void
guarded(void **state)
{
	char *p = cut_map();
	pthread_t threads[4];

	(void)state;
	fault_init();
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, many, p), 0);
	assert_null(many(p));
	for (int i = 0; i < 4; i++) {
		void *wrong = p;

		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
	munmap(p, 8192);
}

static void
not_guarded(void **state)
{
	const char *log = scratch_path(root, "log");
	char *p = cut_map(), *text;
	size_t n;
	int status;
	pid_t pid = child_fork();

	(void)state;
	if (pid == 0) {
		log_open(log, "test");
		fault_init();
		(void)fault_guarded(read_end, p); /* one before changes nothing */
		_exit(read_end(p));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	text = scratch_read(log, &n);
	assert_non_null(memmem(text, n, "signal=SIGBUS", 13));
	free(text);
	munmap(p, 8192);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(guarded),
		TEST(not_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
