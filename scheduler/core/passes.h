/* passes: what is known to be far from all its limits, so that it needs not be asked.
 *
 * Most mail meets no limit most of the time, but falls in twenty. Once a message and a connection
 * of a queue have been found to have room in all of theirs, and in each for so much more, nothing
 * can stand against the next ones before as much was charged to any limits at all: two counters
 * are looked at. A pass is void when one of its limits changes or somebody waits at one. */
#pragma once

#include "scheduler/core/limits.h"

/* NULL: ask the limits. Holds until something is charged or changes. */
const struct pass *passes_find(struct core *c, const struct asker *who, uint32_t source,
			       const struct core_tag *t);
/* So many have room in the counts of one of its sets, which a pass does not vouch for. */
uint64_t passes_counts_room(const struct core *c, uint32_t set);
/* After a decision that no limit was near to: finds out whether there is a pass for more of them. */
void passes_learn(struct core *c, const struct asker *who, uint32_t source, struct core_tag *t);
/* Those of this queue are void. */
void passes_forget_queue(struct core *c, uint32_t qi);
/* Lets go of one that was not used for long. */
void passes_age(struct core *c);

/* All are void: a limit of many has changed. */
static inline void
passes_void(struct core *c)
{
	c->pass_epoch++;
}
