/* run: the list of queues to look at. */
#pragma once

#include "scheduler/core/state.h"

/* Something about the queue changed: it is looked at soon. No harm when nothing did. */
void run_push(struct core *c, uint32_t qi);
/* What is seen of it may have changed: core_each_changed() names it. */
void run_note(struct core *c, uint32_t qi);
static inline void
run_touch(struct core *c, uint32_t qi)
{
	if (!c->queues[qi].touched)
		run_note(c, qi);
}
uint32_t run_pop(struct core *c); /* CORE_NONE when the list is empty */

/* It has entries to give up, or to move, and there is no room: woken, in turn, when there is. */
void run_join_doomed(struct core *c, uint32_t qi);
void run_wake_doomed(struct core *c);
