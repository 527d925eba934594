/* conns: the table of connections.
 *
 *   FREE -> OPENING -> IDLE <-> BUSY -> CLOSING -> FREE
 *   Any state goes to FREE when the connection or its worker is gone. */
#pragma once

#include "scheduler/core/state.h"

/* A new one in state OPENING, charged to `set`, which it holds in the caller's place; CORE_NONE when
 * all numbers are in use. */
uint32_t conns_new(struct core *c, uint32_t qi, unsigned worker, uint32_t source, uint32_t set);
/* The given number, which a worker states; false when it is in use or absurd. */
bool conns_adopt(struct core *c, uint32_t number, uint32_t qi, unsigned worker, uint32_t source,
		 enum conn_state state);
/* Moves it; keeps the counts and the idle list of its queue. */
void conns_set(struct core *c, uint32_t number, enum conn_state to);
/* Frees the number. What the queue may do now is the caller's to ask for (run_push). */
void conns_free(struct core *c, uint32_t number);
/* Tells the worker to close it: CLOSING. */
void conns_close(struct core *c, uint32_t number);
/* Queues wait for this count: closes the longest idle connection of those it counts that nobody is
 * about to use, else has one of a lower queue-priority yield; unless enough are ending. */
void conns_make_room(struct core *c, uint32_t limit, unsigned priority);
/* Queues wait for a connection of the worker: the same with those it has, nobody yields. */
void conns_make_worker_room(struct core *c, unsigned worker);
/* Limits have come or gone: all connections are counted anew. */
void conns_recount(struct core *c);
/* The same of one queue, by its own limits and those for its source IPs. */
void conns_recount_queue(struct core *c, uint32_t qi);
/* NULL when the number is free or none at all. */
struct conn *conns_get(struct core *c, uint32_t number);
