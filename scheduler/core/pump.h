/* pump: looks at one queue and makes all decisions about it that can be made now: what is due, what
 * is expired, grants, connections to open and to close, and where it waits. */
#pragma once

#include "scheduler/core/state.h"

/* Looks at the queue; adds to *decisions. `turn`: the line of which it is the first, and which has
 * room now, 0: none. False: the turn was not used. */
bool pump_visit(struct core *c, uint32_t qi, unsigned *decisions, uint32_t turn);

/* The larger half of a queue, made on first use. */
struct active *pump_active(struct core *c, uint32_t qi);
void pump_active_free(struct core *c, struct active **a);
/* Its settings, with the rates set up by them. */
const struct conf_queue *pump_settings(struct core *c, uint32_t qi);
void pump_last_error(struct core *c, uint32_t qi, struct slice text);
