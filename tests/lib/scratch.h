/* scratch: a directory of a test's own, on a real file system, gone when the test is. */
#pragma once

#include <stddef.h>

/* Makes one; its path, static until the next call. */
const char *scratch_make(void);
/* `dir`/`name` in a static ring of four. */
const char *scratch_path(const char *dir, const char *name);
void scratch_remove(const char *dir);

/* Whole files; each fails the test when it cannot. read: malloc()ed, for free(). */
char *scratch_read(const char *path, size_t *n);
void scratch_write(const char *path, const void *p, size_t n);
void scratch_copy(const char *from, const char *to); /* of a file */
void scratch_flip(const char *path, size_t byte, unsigned bit);
