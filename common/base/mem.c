#include "common/base/mem.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/check.h"

void *
mem_alloc(size_t bytes)
{
	void *p = malloc(bytes ? bytes : 1);

	CHECK(p != NULL);
	return p;
}

void *
mem_zalloc(size_t bytes)
{
	return mem_calloc(1, bytes);
}

void *
mem_calloc(size_t n, size_t bytes)
{
	void *p = calloc(n ? n : 1, bytes ? bytes : 1);

	CHECK(p != NULL);
	return p;
}

void *
mem_realloc(void *p, size_t bytes)
{
	p = realloc(p, bytes ? bytes : 1);
	CHECK(p != NULL);
	return p;
}

char *
mem_strdup(const char *s)
{
	return mem_memdup0(s, strlen(s));
}

char *
mem_memdup0(const void *p, size_t n)
{
	char *s = mem_alloc(n + 1);

	if (n > 0)
		memcpy(s, p, n);
	s[n] = '\0';
	return s;
}

void
mem_free(void *p)
{
	free(p);
}

void
mem_tune(void)
{
	/* Fixed thresholds: else the first large block that is freed makes the allocator keep all like it. */
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
	mallopt(M_ARENA_MAX, 2);
}

void
mem_trim(void)
{
	malloc_trim(0);
}

void
mem_release(void *p, size_t bytes)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1);
	uintptr_t to = ((uintptr_t)p + bytes) & ~(page - 1);

	if (from >= to || madvise((void *)from, to - from, MADV_DONTNEED) != 0) {
		memset(p, 0, bytes);
		return;
	}
	memset(p, 0, from - (uintptr_t)p);
	memset((void *)to, 0, (uintptr_t)p + bytes - to);
}

void
mem_grow(void **p, size_t *cap, size_t want, size_t size)
{
	size_t n = *cap ? *cap : 16;

	if (want <= *cap)
		return;
	while (n < want)
		n *= 2;
	CHECK(n <= SIZE_MAX / size);
	*p = mem_realloc(*p, n * size);
	*cap = n;
}
