/* entries: the slab of entries and the lists they stand in; keeps every count of a queue right. */
#pragma once

#include "scheduler/core/state.h"

uint32_t entries_new(struct core *c); /* PLACE_FREE still: entries_move() counts it */
void entries_free(struct core *c, uint32_t e);
struct queue *entries_queue(struct core *c, uint32_t e);

/* To another place; out of any list it is in and, for READY and DEFERRED, into one. */
void entries_ready(struct core *c, uint32_t e, bool front);
void entries_defer(struct core *c, uint32_t e, uint32_t due);
void entries_move(struct core *c, uint32_t e, enum place to); /* HELD, CLAIMED, LEAVING */

/* One of READY or DEFERRED to the end of another queue, with its due time. */
void entries_transfer(struct core *c, uint32_t e, uint32_t qi);

/* Earliest due among the deferred of the queue; UINT32_MAX without any. */
uint32_t entries_due(struct core *c, struct queue *q);
/* Moves those that are due (at most `most`) to the ready ones; false when more are due. */
bool entries_release(struct core *c, struct queue *q, uint32_t now_s, uint32_t most);
/* The next one to give up of READY and DEFERRED, CORE_NONE. */
uint32_t entries_head(const struct queue *q);

/* Searches for entries received at or before `before`: calls `found` (which moves it away) for
 * each; looks at `most` at one go. True when all were looked at: q->oldest is exact then. */
bool entries_scan(struct core *c, struct queue *q, uint32_t before, uint32_t most,
		  void (*found)(struct core *c, uint32_t e));

/* Recipients. */
uint32_t entries_unfinished(const struct core *c, uint32_t e);
struct slice entries_done(struct core *c, uint32_t e);
void entries_set_done(struct core *c, uint32_t e, struct slice bitmap);
void entries_finish_rcpt(struct core *c, uint32_t e, unsigned i);
void entries_tried_rcpt(struct core *c, uint32_t e, unsigned i);
void entries_new_round(struct core *c, uint32_t e);
/* Unfinished recipients that had no turn in this round. */
uint32_t entries_untried(const struct core *c, uint32_t e);
/* The first `most` of those as bits, all bytes of `bits` written; how many. */
unsigned entries_pick(const struct core *c, uint32_t e, unsigned most, uint8_t *bits);

static inline bool
bit_get(const uint8_t *bits, unsigned i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static inline void
bit_set(uint8_t *bits, unsigned i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << (i % 8));
}

static inline void
bit_clear(uint8_t *bits, unsigned i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] & ~(1u << (i % 8)));
}
