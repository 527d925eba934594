/* backoff: which queues are in back-off, as a whole or for single source IPs, and when that ends.
 *
 *   normal -> back-off -> recovery in steps -> normal
 *   Recovery, and back-off for a source IP, may be missing; a match in recovery is back-off anew. */
#pragma once

#include "scheduler/core/state.h"

void backoff_make(struct core *c);
void backoff_clear(struct core *c);
/* After the clock was read: timers of the wall clock, when that was set. */
void backoff_clock(struct core *c);
/* Ends what is over by now, some at one go. */
void backoff_tick(struct core *c);
uint64_t backoff_next(const struct core *c);
/* `n` recipients got a message that was granted as `lease`. */
void backoff_delivered(struct core *c, uint32_t qi, uint32_t source, uint64_t lease, uint32_t n);
/* Its settings are other ones. */
void backoff_settings(struct core *c, uint32_t qi);
/* Source IPs have other numbers. */
void backoff_renumber(struct core *c, const uint32_t *map);
void backoff_check(const struct core *c);

uint32_t backoff_find(const struct core *c, uint32_t qi, uint32_t source); /* CORE_NONE: none */
bool backoff_names(const struct core *c, uint32_t qi, uint32_t source);

/* False: nothing is to be granted; the driver tells its mode, and it is looked at again. */
bool backoff_mode_known(struct core *c, uint32_t qi);
/* Of a queue that sends one message in an interval: when the next one may go, boot µs. And one went. */
uint64_t backoff_probe_at(const struct core *c, uint32_t qi);
void backoff_probed(struct core *c, uint32_t qi);

/* For this source IP, beside the whole queue. */
static inline bool
backoff_is_at(const struct core *c, uint32_t qi, uint32_t source)
{
	return c->queues[qi].backoff_source && backoff_find(c, qi, source) != CORE_NONE;
}

static inline bool
backoff_may_use(const struct core *c, uint32_t qi, uint32_t source)
{
	return !c->queues[qi].only_sources || backoff_names(c, qi, source);
}
