/* grants: claims, from the grant of an entry to a ready connection until its end. */
#pragma once

#include "scheduler/core/limits.h"

enum granted {
	GRANTED,
	GRANT_NO_ENTRY, /* what was ready had to be given up */
	GRANT_FULL,     /* the worker's claim table has no room: nothing happened */
};
/* A ready entry of the queue, an idle connection, and what the grant is charged to, which has room
 * for it. */
struct grant {
	uint32_t qi, e, conn;
	struct charges set;
	uint32_t known; /* not 0: what it is charged to is this set, and nothing was asked */
	struct answer yes;
	uint64_t bytes;
	uint32_t n_rcpts; /* out: recipients granted */
};
static inline void
grants_begin(struct grant *g, uint32_t qi)
{
	const struct answer yes = ANSWER_YES;

	g->qi = qi;
	g->known = 0;
	g->yes = yes;
	charges_none(&g->set);
}
/* Recipients of one claim at most. */
unsigned grants_most(const struct conf_queue *s);
enum granted grants_make(struct core *c, struct grant *g);
/* Gives the entry up: it leaves its queue. */
void grants_give_up(struct core *c, uint32_t e, enum core_give_up why, const char *text);
bool grants_expired(struct core *c, uint32_t e);
/* Its connections are gone, those of an earlier life too. */
void grants_worker_down(struct core *c, unsigned worker);
void grants_clear(struct core *c);
