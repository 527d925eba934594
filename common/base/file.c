#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/mem.h"

#define ZERO_BYTES  (1u << 20)
#define PIECE_BYTES (4u << 20)
#define NAP_US      20000u /* a hurry that begins during a rest is seen within this */
#define REST_MAX_US 500000u

int
file_write(int fd, const void *p, size_t n, uint64_t at)
{
	const char *c = p;

	while (n > 0) {
		ssize_t done = pwrite(fd, c, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -err_errno() : -E_FULL;
		c += done;
		n -= (size_t)done;
		at += (size_t)done;
	}
	return 0;
}

static bool
in_hurry(const struct file_pace *pace)
{
	return pace->hurry != NULL && atomic_load(pace->hurry);
}

static void
rest(const struct file_pace *pace, uint64_t us)
{
	if (us > REST_MAX_US)
		us = REST_MAX_US;
	while (us > 0 && !in_hurry(pace)) {
		uint64_t nap = us < NAP_US ? us : NAP_US;
		struct timespec t = { 0, (long)nap * 1000 };

		nanosleep(&t, NULL);
		us -= nap;
	}
}

static int
fill_piece(int fd, const char *zeros, uint64_t from, uint64_t to)
{
	int rc = 0;

	for (uint64_t at = from; rc == 0 && at < to; at += ZERO_BYTES)
		rc = file_write(fd, zeros, to - at < ZERO_BYTES ? to - at : ZERO_BYTES, at);
	return rc;
}

int
file_fill(int fd, uint64_t from, uint64_t to, const struct file_pace *pace)
{
	char *zeros = mem_zalloc(ZERO_BYTES);
	int rc = 0;

	for (uint64_t at = from; rc == 0 && at < to; at += PIECE_BYTES) {
		uint64_t began = clock_boot_us();

		rc = fill_piece(fd, zeros, at, to - at < PIECE_BYTES ? to : at + PIECE_BYTES);
		if (pace == NULL || rc != 0)
			continue;
		if (fdatasync(fd) != 0)
			rc = -err_errno();
		rest(pace, (clock_boot_us() - began) * pace->rest);
	}
	mem_free(zeros);
	return rc;
}

int
file_make(int dir, const char *name, int (*write)(int fd, void *arg), void *arg)
{
	char temp[64];
	int n = snprintf(temp, sizeof temp, "%s.new", name);
	int fd, rc;

	CHECK(n > 0 && (size_t)n < sizeof temp);
	fd = openat(dir, temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	if (fd < 0)
		return -err_errno();
	rc = write(fd, arg);
	if (rc == 0 && fsync(fd) != 0)
		rc = -err_errno();
	close(fd);
	if (rc == 0 && (renameat(dir, temp, dir, name) != 0 || fsync(dir) != 0))
		rc = -err_errno();
	if (rc != 0)
		unlinkat(dir, temp, 0);
	return rc;
}
