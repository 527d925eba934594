/* mem: allocation that does not fail (it aborts); sizes are bounded where bytes enter. */
#pragma once

#include <stddef.h>

void *mem_alloc(size_t bytes);             /* uninitialised; never NULL */
void *mem_zalloc(size_t bytes);            /* zeroed */
void *mem_calloc(size_t n, size_t bytes);  /* zeroed; checks the product */
void *mem_realloc(void *p, size_t bytes);  /* p may be NULL */
char *mem_strdup(const char *s);           /* s may not be NULL */
char *mem_memdup0(const void *p, size_t n); /* a copy with a NUL behind it */
/* Once, at the start of a process that holds much: large blocks come from the system and go back to it, and
 * threads share their memory. */
void mem_tune(void);
/* What was freed in small pieces goes back to the system as well, where whole pages are free. Takes some ms. */
void mem_trim(void);
/* The bytes read as zero from now on; whole pages of them go back to the system until they are written again. */
void mem_release(void *p, size_t bytes);
void mem_free(void *p);                    /* NULL is fine */

/* Grows the array *p of elements of `size` bytes to hold at least `want`; *cap in elements. */
void mem_grow(void **p, size_t *cap, size_t want, size_t size);
