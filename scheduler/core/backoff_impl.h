/* backoff_impl: what backoff.c (how a queue enters and leaves), backoff_table.c (which ones there are)
 * and view.c share. */
#pragma once

#include "scheduler/core/backoff.h"

/* A row for the queue, or for one source IP of it. */
uint32_t backoff_new(struct core *c, uint32_t qi, uint32_t source);
void backoff_drop(struct core *c, uint32_t i);
/* One more source IP of the queue has a row, or one less (-1). */
void backoff_note_sources(struct core *c, uint32_t qi, int by);
/* What the recovery of now allows; n 0: it does not limit. *left_us: so long. */
struct conf_rate backoff_allowed(struct core *c, const struct backoff *b, uint64_t *left_us);

static inline bool
backoff_is_whole(const struct backoff *b)
{
	return b->source == CORE_NONE;
}

static inline bool
backoff_is_automatic(const struct backoff *b)
{
	return b->how.automatic && !b->over;
}
