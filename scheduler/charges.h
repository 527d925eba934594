/* charges: what was charged to limits, in the mapped file SPOOL/charges, which outlives the process
 * and, by and large, the machine.
 *
 * A header of 4096 bytes, then extents of 128 KiB; an extent holds slots of one size, a slot the
 * key of a limit and the memory of its rate (scheduler/core/rate.h). The file grows and never
 * shrinks nor moves; what a slot holds is found again by its key.
 *
 * The file belongs to one boot of the machine. Under another one it is made anew: what the old one
 * is known to hold goes on counting by its age, and events logged since it was last synced are to be
 * counted too (charges_past()); rates with windows of at most CHARGES_SHORT_US begin closed for one
 * window besides, counted from the first start under this boot. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/event_log/event_log.h"
#include "scheduler/core/core.h"

#define CHARGES_SHORT_US UINT64_C(600000000)

struct charges;

struct charges_now {
	uint64_t boot_us, wall_us;
	unsigned char boot_id[16];
};

/* Opens or makes it. What cannot be used is reported in the log and made anew. 0, or -E_* when
 * there is no file to be had: then limits are forgotten when the process dies. */
int charges_open(struct charges **out, int spool_fd, const unsigned char instance[16],
		 const struct charges_now *now);
/* No rate in it is used any more. */
void charges_close(struct charges **c);

/* Memory for the rate of `key`: what was found, or new. NULL: there is no room on the disk. A key
 * that is taken already gets a second slot (its owner moves, then gives the first one back); until
 * then the first one is what counts. */
void *charges_take(struct charges *c, const struct core_charge_key *key, size_t bytes, bool *found);
/* The limit is no more; nothing of it counts. */
void charges_give(struct charges *c, void *memory);
/* The limit is no more, for now: what counts is found again by its key as long as it counts. */
void charges_leave(struct charges *c, void *memory);

/* The longest window that a limit has by the configuration of now. The limit that comes for what nobody has taken
 * may have another window than when it was charged: it counts as long as it might in that one. Until this was said
 * nothing is given back. */
void charges_longest(struct charges *c, uint64_t window_us);

/* At least once a second: what time it is, in both clocks; and what nobody has taken since the
 * start and does not count any more is given back, some at a time. */
void charges_tick(struct charges *c, uint64_t boot_us, uint64_t wall_us);

/* What happened before and is not in the file. False: nothing, or it was counted
 * (charges_rebuilt()).
 */
struct charges_past {
	struct event_position from; /* events from here on; {0, 0}: all there are */
	unsigned char boot_id[16];  /* of the old boot, when the file came from there: */
	bool has_boot;
	uint64_t synced_boot_us; /* stamps of it up to here are in the file */
	int64_t shift_us;        /* a stamp of it, and this: on the clock of this boot */
};
bool charges_past(const struct charges *c, struct charges_past *out);
/* Past events were counted, but of what was before `known_boot_us` (on this boot's clock; negative:
 * before it) nobody knows anything; INT64_MIN: all is known. A new limit is closed for that. */
void charges_rebuilt(struct charges *c, int64_t known_boot_us);
/* They could not be read: limits above CHARGES_SHORT_US begin closed too. */
void charges_not_rebuilt(struct charges *c, uint64_t boot_us);

/* Syncing: begin and end in the loop, the work anywhere. `at`: the end of the log, which holds no
 * event of a later grant than `boot_us`. */
void charges_sync_begin(struct charges *c, uint64_t boot_us, struct event_position at);
int charges_sync(struct charges *c);
void charges_sync_end(struct charges *c, int rc);
/* Events from here on may be asked for after the next boot: not to be recycled. False: any may. */
bool charges_needs_events(const struct charges *c, struct event_position *from);

struct charges_counts {
	size_t slots;     /* in use */
	size_t unclaimed; /* found, and not taken since */
	size_t damaged;   /* found so at the start */
	size_t moved;     /* from another boot */
	uint64_t bytes;   /* of the file */
};
void charges_counts(const struct charges *c, struct charges_counts *out);
