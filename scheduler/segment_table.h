/* segment_table: what the scheduler knows of each segment file, by number and by the list it is on.
 *
 * A segment stands on exactly one list, so that nothing is ever searched for:
 *
 *   UNUSED   no file has this number
 *   FREE     may be handed out: of the ordinary size
 *   OPEN     one list for each owner
 *   SEALED   the live records fill a good part of it
 *   THIN     sealed, and mostly dead: the longest thin first
 *   HELD     a job or a commit decides where it goes next
 *   LOST     its number cannot be used: a file of it cannot be removed */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "common/queue/store.h"

#define SEGMENTS_MAX (1u << 22) /* the index keeps numbers below that */
/* Owner of what compaction writes; never the number of a receiver. */
#define SEGMENTS_COMPACTOR 255u

enum segment_list {
	SEGMENT_UNUSED,
	SEGMENT_FREE,
	SEGMENT_SEALED,
	SEGMENT_THIN,
	SEGMENT_HELD,
	SEGMENT_LOST,
	SEGMENT_OPEN_COMPACTOR,
	SEGMENT_OPEN, /* of receiver 0; of receiver N: SEGMENT_OPEN + N */
	SEGMENT_LISTS = SEGMENT_OPEN + RECEIVERS_MAX,
};

struct seg {
	struct store_segment row;
	uint64_t live_kbytes; /* of the records of its entries; one with several counts as often */
	uint64_t thin_since_us;
	uint32_t live;
	uint32_t pins;
	uint32_t next, prev; /* of its list, 0 none */
	uint8_t list;
	bool known;   /* there is such a file, and a row for it */
	bool dirty;   /* row differs from the store's */
	bool doubted; /* open since an earlier scheduler: who has it has not said so, or its claims are not settled */
	bool old;     /* not free when we started: a receiver of before may write to it, or tell of it */
	bool no_move; /* a record in it cannot be moved: left alone */
};

struct segment_table {
	struct seg *segs; /* by number; 0 is unused */
	size_t cap;
	uint32_t highest;
	struct {
		uint32_t first, last;
		uint32_t n;
	} lists[SEGMENT_LISTS];
	uint32_t *dirty;
	size_t n_dirty, cap_dirty;
};

/* Zero-initialised is empty. */
void segment_table_clear(struct segment_table *t);
/* Makes the number known to the table; pointers from before are void. */
struct seg *segment_table_at(struct segment_table *t, uint32_t number);
/* NULL when there is no such file. */
struct seg *segment_table_find(const struct segment_table *t, uint32_t number);
/* To the end of another list. */
void segment_table_move(struct segment_table *t, uint32_t number, enum segment_list to);
/* A number without a file; made when there is none. SEGMENTS_MAX: all are in use. */
uint32_t segment_table_unused(struct segment_table *t);
void segment_table_mark(struct segment_table *t, uint32_t number); /* its row is to be written */
/* The list of what this owner has open. */
enum segment_list segment_table_open_list(unsigned owner);
