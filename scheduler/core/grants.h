/* grants: claims, from the grant of an entry to a ready connection until its end. */
#pragma once

#include "scheduler/core/state.h"

enum granted {
	GRANTED,
	GRANT_NO_ENTRY, /* what was ready had to be given up */
	GRANT_FULL,     /* the worker's claim table has no room: nothing happened */
};
/* Grants the first ready entry of the queue, at most `room` recipients of it, to the idle
 * connection. */
enum granted grants_make(struct core *c, uint32_t qi, uint32_t conn, uint32_t room);
/* Gives the entry up: it leaves its queue. */
void grants_give_up(struct core *c, uint32_t e, enum core_give_up why, const char *text);
bool grants_expired(struct core *c, uint32_t e);
/* Its connections are gone, those of an earlier life too. */
void grants_worker_down(struct core *c, unsigned worker);
void grants_clear(struct core *c);
/* CORE_NONE when there is no such claim: an old lease, or nonsense from a worker. */
uint32_t grants_claim_of(const struct core *c, uint32_t entry, uint64_t lease);
/* `n` recipients of the claim are charged at `stamp`, or (`back`) given back. */
void grants_count(struct core *c, uint32_t k, uint64_t stamp, uint32_t n, bool back);
/* What was granted one by one and not attempted is given back. */
void grants_ask_ends(struct core *c, uint32_t k);
