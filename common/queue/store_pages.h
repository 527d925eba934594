/* store_pages: is the LMDB file sound? Its pages carry no checksums, and LMDB follows them on
 * trust: one flipped bit may be a fault of the process, a row that is not found, or a page in use
 * that is handed out once more. So all of it is read here first, by pread() and without LMDB: every
 * page that a table or the free list names is looked at once, and each must be named exactly once.
 *
 * What it does not see is the inside of values (they have a CRC32C of their own) and of pages that
 * are not in use. Format: LMDB 0.9, 64 bit, data version 1. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct store_pages {
	uint64_t txn;        /* of the last commit */
	uint64_t pages;      /* of the file, as the last commit says */
	uint64_t used, idle; /* in tables (and meta); on the free list */
	uint64_t leaked;     /* neither: space lost, nothing worse */
	uint64_t problems;
	uint64_t entries; /* of all named tables */
};

/* Calls `found` (may be NULL) for each problem, with the page it is in (0: the whole). 0 sound,
 * -E_CRC not, -E_MISSING no file or an empty one, -E_FORMAT no LMDB file of this version, -E_IO.
 * Only while nobody writes. */
typedef void store_pages_fn(void *arg, uint64_t page, const char *what);
int store_pages_check(int dir, struct store_pages *out, store_pages_fn *found, void *arg);
