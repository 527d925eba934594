/* The spool: made once, refused when it is not ours, locked by one instance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/queue/spool.h"
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

static void
made_once(void **state)
{
	const char *path = scratch_path(root, "a/b/spool"), *why = "?";
	struct spool s, again;
	struct stat st;

	(void)state;
	assert_int_equal(spool_open(&s, path, &why), 0);
	assert_null(why);
	assert_true(s.fd >= 0 && s.segments_fd >= 0 && s.events_fd >= 0 && s.claims_fd >= 0 &&
		    s.cursors_fd >= 0);
	assert_int_equal(s.lock_fd, -1);
	assert_int_equal(fstat(s.segments_fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0750);
	assert_int_equal(spool_open(&again, path, &why), 0);
	assert_memory_equal(s.instance, again.instance, 16);
	assert_memory_not_equal(s.instance, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	spool_close(&again);
	spool_close(&s);
	assert_int_equal(s.fd, -1);
	spool_close(&s);
}

static void
refused_not_reset(void **state)
{
	static const struct {
		const char *file, *content;
		int rc;
	} rows[] = {
		{ "notes.txt", "my thesis", -E_FORMAT },
		{ "format", "", -E_FORMAT },
		{ "format", "sluice spool 2\n00112233445566778899aabbccddeeff\n", -E_FORMAT },
		{ "format", "sluice spool 1\n00112233445566778899aabbccddeef\n", -E_FORMAT },
		{ "format", "sluice spool 1\n00112233445566778899aabbccddeeXX\n", -E_FORMAT },
		{ "format", "sluice spool 1\n00112233445566778899aabbccddeeff\nmore", -E_FORMAT },
		{ "format", "sluice spool 1\n00112233445566778899aabbccddeeff\n", 0 },
		{ "format.new", "sluice sp", 0 }, /* our own first start, cut short */
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char name[32], path[700];
		const char *why = NULL;
		struct spool s;
		struct stat st;

		snprintf(name, sizeof name, "s%zu", i);
		snprintf(path, sizeof path, "%s/%s", root, name);
		assert_int_equal(mkdir(path, 0750), 0);
		scratch_write(scratch_path(path, rows[i].file), rows[i].content,
			      strlen(rows[i].content));
		if (spool_open(&s, path, &why) != rows[i].rc)
			fail_msg("row %zu", i);
		if (rows[i].rc != 0) {
			assert_non_null(why);
			/* Nothing was made in it. */
			assert_true(stat(scratch_path(path, "lmdb"), &st) != 0);
		} else {
			spool_close(&s);
		}
	}
}

static void
one_instance(void **state)
{
	const char *path = scratch_path(root, "spool"), *why;
	struct spool s, other;
	int ready[2], status;
	pid_t master, child = 0;

	(void)state;
	assert_int_equal(spool_open(&s, path, &why), 0);
	assert_int_equal(pipe(ready), 0);
	master = child_fork();
	if (master == 0) {
		/* A master with a child of its own, which outlives it by half a second. */
		if (spool_lock(&s) != 0)
			_exit(1);
		child = child_fork();
		if (child == 0) {
			close(ready[0]);
			if (write(ready[1], "x", 1) != 1)
				_exit(1);
			while (kill(getppid(), 0) == 0 && getppid() != 1)
				usleep(10000);
			usleep(500000);
			_exit(0);
		}
		pause();
		_exit(0);
	}
	{
		char c;

		assert_int_equal(read(ready[0], &c, 1), 1);
	}
	assert_int_equal(spool_open(&other, path, &why), 0); /* opening is free */
	assert_int_equal(spool_lock(&other), -E_LOCKED);
	kill(master, SIGKILL);
	assert_int_equal(waitpid(master, &status, 0), master);
	/* The old child still writes: the lock comes free with it. */
	assert_int_equal(spool_lock(&other), 0);
	assert_true(other.lock_fd >= 0);
	spool_close(&other);
	assert_int_equal(spool_lock(&s), 0);
	spool_close(&s);
	close(ready[0]);
	close(ready[1]);
}

/* The lock file is removed, or another one put in its place: the running instance still keeps others out. */
static void
lock_file_swapped(void **state)
{
	const char *path = scratch_path(root, "spool"), *why;
	struct spool s, other;
	char file[700];

	(void)state;
	snprintf(file, sizeof file, "%s/lock", path);
	assert_int_equal(spool_open(&s, path, &why), 0);
	assert_int_equal(spool_lock(&s), 0);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(spool_open(&other, path, &why), 0);
	assert_int_equal(spool_lock(&other), -E_LOCKED);
	scratch_write(file, "1\n", 2);
	assert_int_equal(spool_lock(&other), -E_LOCKED);
	spool_close(&s);
	assert_int_equal(spool_lock(&other), 0);
	spool_close(&other);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(made_once),
		TEST(refused_not_reset),
		TEST(one_instance),
		TEST(lock_file_swapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
