/* stat_impl: the layout of a stat object's file, for its writer (stat.c) and its reader
 * (stat_read.c).
 *
 * A header, the totals block, the queue blocks, the source blocks, the limit blocks, each on a 64-byte border.
 *
 *     block: u64 seq | copy 0 | copy 1
 *
 * The seqlock is of the kind with two copies. An even seq says copy 0 is whole, an odd one copy 1;
 * the writer changes the other, flips, and then brings the first one up to date. So a reader finds
 * a whole copy also while the writer stands still in the middle of a change (stopped, killed, in a
 * debugger); with a single copy it could only give up. Readers retry when the writer flipped while
 * they copied. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "shm/stat.h"

#define STAT_BLOCK_ALIGN 64u
#define STAT_PATH_BYTES  512

struct stat_block {
	_Atomic uint64_t seq;
	_Atomic uint64_t words[]; /* copy 0, then copy 1 */
};

/* Where the rows of one kind are; copied from the header and checked when the object is opened. */
struct stat_region {
	uint32_t offset, stride, max;
	uint32_t words;  /* of one copy */
	uint32_t backed; /* writer: rows whose pages are allocated */
};

struct stat_object {
	struct stat_header *header; /* the map; for an image our copy of it */
	uint64_t map_bytes;
	struct stat_region totals, queues, sources, limits;
	enum stat_writer writer;
	uint32_t slot;
	int fd; /* writer's, for fallocate; -1 */
	bool writable;
	bool image;
};

/* What each kind of writer is called and what its block holds. */
#define STAT_WRITERS (STAT_RECORDER + 1)
struct stat_writer_kind {
	const char *name;
	bool numbered;
	uint32_t bytes;
};
extern const struct stat_writer_kind stat_writer_kinds[STAT_WRITERS];

uint32_t stat_aligned(uint32_t n);
uint32_t stat_block_bytes(uint32_t payload);
struct stat_block *stat_block_at(const struct stat_object *o, const struct stat_region *r,
				 uint32_t row);
/* RUN/shm/<prefix>NAME. 0 or -E_TOO_BIG. */
int stat_path(char dst[STAT_PATH_BYTES], const char *run_dir, const char *prefix,
	      enum stat_writer writer, unsigned slot);
