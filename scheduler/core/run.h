/* run: the list of queues to look at, and the lines in which queues wait for what many want. */
#pragma once

#include "scheduler/core/state.h"

/* Something about the queue changed: it is looked at soon. No harm when nothing did. */
void run_push(struct core *c, uint32_t qi);
uint32_t run_pop(struct core *c); /* CORE_NONE when the list is empty */

/* At the end of the line `which` (of worker or virtual MTA `of`), or at its head: its turn was in
 * vain. Keeps its place when it is in it already. */
void run_line_join(struct core *c, uint32_t qi, enum line which, unsigned of, bool head);
void run_line_leave(struct core *c, uint32_t qi);
/* All in the line are looked at. They leave it themselves. */
void run_wake_line(struct core *c, const struct list *line);
/* The first in the line of a worker's room has its turn. */
/* It has entries to give up and there is no room: woken, in turn, when there is. */
void run_join_doomed(struct core *c, uint32_t qi);
void run_wake_doomed(struct core *c);
void run_wake_room(struct core *c, unsigned worker);
