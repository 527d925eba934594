/* sources: which worker has which source IP, and whose turn it is. */
#pragma once

#include "scheduler/core/state.h"

/* Tables from the world given to core_new_in(). */
void sources_make(struct core *c, const struct core_world *w);
void sources_clear(struct core *c);
/* Other tables: connections and claims get the new numbers (map: old to new, CORE_NONE); no queue
 * may stand in a line of a virtual MTA. */
void sources_change(struct core *c, const struct core_world *w, const uint32_t *map);
/* Number of the virtual MTA of a queue named "domain/vmta", -1. */
int sources_vmta(const struct core *c, struct slice queue_name);

/* The source IP and worker of the queue's next connection: its position in the turns moves. `heads`: the
 * worker whose line for connections the queue heads, WORKERS_MAX none. False when there is none now;
 * *when: boot µs when that may change by itself (NEVER: only by a worker's life); *full: a worker that
 * would do, had it a connection to spare, WORKERS_MAX none. */
bool sources_pick(struct core *c, uint32_t vmta, unsigned heads, uint32_t *turn, uint32_t *source,
		  unsigned *worker, uint64_t *when, unsigned *full);
uint32_t sources_conn_room(const struct core *c, unsigned worker); /* so many more connections */
/* The source IP has to leave the worker its connections are at. */
bool sources_leaving(const struct core *c, uint32_t source);
void sources_bad(struct core *c, uint32_t source);
/* What it has room for is offered to one that stands in another worker's line and could use it. */
void sources_offer(struct core *c, unsigned worker);
/* It has one connection less. */
void sources_conn_ended(struct core *c, unsigned worker);
/* None uses the source IP any more, perhaps. */
void sources_conn_gone(struct core *c, uint32_t source);
/* The worker that has it, -1: none; of shared ones the first alive. */
int sources_worker(const struct core *c, uint32_t source);

void sources_worker_up(struct core *c, unsigned worker);
void sources_worker_down(struct core *c, unsigned worker);
/* The first look at the clock: homes that are not up have until MOVE_AFTER_START_US. */
void sources_begin(struct core *c);
/* Moves what is to be moved by now. */
void sources_tick(struct core *c);
