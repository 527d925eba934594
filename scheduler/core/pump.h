/* pump: looks at one queue and makes all decisions about it that can be made now: what is due, what
 * is expired, grants, connections to open and to close, and where it waits. */
#pragma once

#include "scheduler/core/state.h"

/* Looks at the queue; adds to *decisions. `turn`: the line of which it is the first, and which has
 * room now (LINE_TOTAL, LINE_ASKS). */
void pump_visit(struct core *c, uint32_t qi, unsigned *decisions, enum line turn);

/* The larger half of a queue, made on first use. */
struct active *pump_active(struct core *c, uint32_t qi);
void pump_active_free(struct core *c, struct active **a);
/* Its settings, with the rates set up by them. */
const struct conf_queue *pump_settings(struct core *c, uint32_t qi);
void pump_last_error(struct core *c, uint32_t qi, struct slice text);
/* One more connection may be opened in all / one more lookup asked. */
bool pump_total_room(const struct core *c);
bool pump_asks_room(const struct core *c);
