/* sources: which worker has which source IP, and whose turn it is. */
#pragma once

#include "scheduler/core/limits.h"

/* Tables from the world given to core_new_in(). */
void sources_make(struct core *c, const struct core_world *w);
void sources_clear(struct core *c);
/* Other tables: connections and claims get the new numbers (map: old to new, CORE_NONE); no queue
 * may stand in a line of a virtual MTA. */
void sources_change(struct core *c, const struct core_world *w, const uint32_t *map);
/* Number of the virtual MTA of a queue named "domain/vmta", -1. */
int sources_vmta(const struct core *c, struct slice queue_name);

/* What came of the search for the source IP of a connection. */
enum source_refusal {
	SOURCE_NO_WORKER, /* none that a live worker owns may be used, or one of its limits refuses
			   */
	SOURCE_NO_OWN,    /* each that could be used has a limit of this queue alone that refuses */
	SOURCE_NO_LIMIT,  /* not a matter of source IPs: `no` refuses */
};
struct source_choice {
	uint32_t source;
	unsigned worker;
	uint32_t turn;   /* position behind it */
	uint64_t within; /* the deadline by its limits */
	enum source_refusal what;
	unsigned full; /* a worker that would do, had it a connection to spare; WORKERS_MAX: none */
	struct answer no;  /* the limit in the way that has room first; `limit` 0: none */
	uint64_t when;     /* something that others wait for too may change by itself */
	uint64_t own_when; /* the same, of this queue alone */
};
/* The source IP and worker of the queue's next connection, in turn by weight among those whose
 * limits have room for a connection and for a message; `t`: limits of where it goes, or NULL. */
bool sources_pick(struct core *c, const struct asker *who, const struct core_target_limits *t,
		  struct source_choice *out);
/* The source IP whose turn it is, CORE_NONE without a virtual MTA; and its worker, when it can be
 * used: limits are not asked. */
uint32_t sources_next(const struct core *c, uint32_t qi);
bool sources_take_next(struct core *c, const struct asker *who, struct source_choice *out);
/* All connections of the queue are idle and take all there may be: the last used one of a source IP
 * that has another one, when a source IP that has none could use its place; CORE_NONE. */
uint32_t sources_surplus(struct core *c, const struct asker *who);
/* It is used: the position in the turns moves. */
void sources_took(struct core *c, uint32_t vmta, uint32_t *turn, const struct source_choice *sc);
/* Whether some source IP of the virtual MTA may have room: for a message, or a connection. */
bool sources_have_room(struct core *c, uint32_t vmta, bool connections, uint64_t *when);
/* Those who wait for the virtual MTA's source IPs may look. */
void sources_poke(struct core *c, uint32_t source);
/* It is not disabled for the queue, nor set aside otherwise. */
bool sources_is_usable(const struct core *c, uint32_t qi, uint32_t source);
/* The source IP has to leave the worker its connections are at. */
bool sources_leaving(const struct core *c, uint32_t source);
void sources_bad(struct core *c, uint32_t source);
uint32_t sources_conn_room(const struct core *c, unsigned worker); /* so many more connections */
/* What workers have room for that nobody waits for there is offered to those in other workers'
 * lines that could use it. */
void sources_offer_all(struct core *c);
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

/* Whether the worker is a home of the source IP: one has it, all those with the same remainder when
 * there are fewer IPs than workers, all have index 0 ("the kernel chooses"). */
bool sources_is_home(const struct core *c, uint32_t source, unsigned worker);
static inline uint64_t
sources_disabled_key(uint32_t qi, uint32_t source)
{
	return (uint64_t)qi << 32 | source;
}
