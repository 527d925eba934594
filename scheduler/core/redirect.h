/* redirect: a queue's entries become another's: at once for all who ask, one by one in the lists.
 */
#pragma once

#include "scheduler/core/state.h"

/* The queue that an entry of this one belongs to: itself, unless it is being moved. */
static inline uint32_t
redirect_end(const struct core *c, uint32_t qi)
{
	while (c->queues[qi].moving)
		qi = (uint32_t)map_get(&c->moves, qi);
	return qi;
}

static inline bool
redirect_keeps(const struct core *c, uint32_t qi, uint32_t e)
{
	return c->kept.n > 0 && map_get(&c->kept, qi) == e;
}

/* The queue that this entry belongs to. */
static inline uint32_t
redirect_of(const struct core *c, uint32_t e)
{
	uint32_t qi = c->entries[e].queue;

	return redirect_keeps(c, qi, e) ? qi : redirect_end(c, qi);
}

/* Moves a slice of what waits; true: there is more, and room for it. When nothing is left the
 * redirect is over. */
bool redirect_step(struct core *c, uint32_t qi);
