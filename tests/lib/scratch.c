#include "tests/lib/scratch.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"

const char *
scratch_make(void)
{
	static char path[512];
	const char *base = getenv("TMPDIR");

	snprintf(path, sizeof path, "%s/sluice-test-XXXXXX", base != NULL ? base : "/tmp");
	CHECK(mkdtemp(path) != NULL);
	return path;
}

const char *
scratch_path(const char *dir, const char *name)
{
	static char ring[4][1024];
	static unsigned turn;
	char *p = ring[turn++ % 4];

	snprintf(p, sizeof ring[0], "%s/%s", dir, name);
	return p;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void
scratch_remove(const char *dir)
{
	CHECK(strstr(dir, "/sluice-test-") != NULL);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

char *
scratch_read(const char *path, size_t *n)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	char *p;

	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	*n = (size_t)st.st_size;
	p = malloc(*n + 1);
	CHECK(p != NULL);
	for (size_t at = 0; at < *n;) {
		ssize_t got = read(fd, p + at, *n - at);

		CHECK(got > 0);
		at += (size_t)got;
	}
	p[*n] = '\0';
	close(fd);
	return p;
}

void
scratch_write(const char *path, const void *p, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);

	CHECK(fd >= 0);
	for (size_t at = 0; at < n;) {
		ssize_t done = write(fd, (const char *)p + at, n - at);

		CHECK(done > 0);
		at += (size_t)done;
	}
	close(fd);
}

void
scratch_copy(const char *from, const char *to)
{
	size_t n;
	char *p = scratch_read(from, &n);

	scratch_write(to, p, n);
	free(p);
}

void
scratch_flip(const char *path, size_t byte, unsigned bit)
{
	unsigned char c;
	int fd = open(path, O_RDWR);

	CHECK(fd >= 0 && pread(fd, &c, 1, (off_t)byte) == 1);
	c ^= (unsigned char)(1u << bit);
	CHECK(pwrite(fd, &c, 1, (off_t)byte) == 1);
	close(fd);
}
