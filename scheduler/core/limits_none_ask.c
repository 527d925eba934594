/* limits_none_ask: for the time being: recipients asked for one by one are charged to their queue's
 * message rate alone. To go when limits of every scope are there, together with grants_count() and
 * struct claim's stamps. */
#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"

void
core_opened_as(struct core *c, const struct core_now *now, uint32_t connection, uint32_t rcpt_max,
	       bool pipelining)
{
	struct conn *cn = conns_get(c, connection);

	if (cn)
		cn->lockstep = !pipelining;
	core_opened(c, now, connection, rcpt_max);
}

bool
core_rcpt_ask(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
	      unsigned index, uint64_t *stamp_us, uint64_t *deadline_us)
{
	uint32_t k;
	struct claim *cl;
	struct rate *msg;

	core_clock(c, now);
	k = grants_claim_of(c, entry, lease);
	if (k == CORE_NONE)
		return false;
	cl = &c->claims[k];
	if (!cl->stamps || index >= c->entries[entry].n_rcpts || !bit_get(cl->bits, index) ||
	    cl->stamps[index] != 0)
		return false;
	msg = pump_active(c, c->entries[entry].queue)->msg;
	if (msg && rate_room(msg, c->now.boot_us) == 0) {
		cl->refused = true;
		return false;
	}
	cl->stamps[index] = *stamp_us = c->now.boot_us;
	*deadline_us = c->now.boot_us + (msg ? rate_delta_us(rate_window_us(msg)) : DEADLINE_US);
	grants_count(c, k, c->now.boot_us, 1, false);
	return true;
}

void
core_adopt_asked(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
		 const struct core_rcpt_stamp *granted, size_t n)
{
	uint32_t k;
	struct claim *cl;

	core_clock(c, now);
	k = grants_claim_of(c, entry, lease);
	if (k == CORE_NONE)
		return;
	cl = &c->claims[k];
	grants_count(c, k, cl->stamp, cl->n_attempt, true);
	cl->stamps = mem_calloc(c->entries[entry].n_rcpts, sizeof(*cl->stamps));
	for (size_t i = 0; i < n; i++) {
		if (granted[i].index >= c->entries[entry].n_rcpts ||
		    !bit_get(cl->bits, granted[i].index) || cl->stamps[granted[i].index] != 0)
			continue;
		cl->stamps[granted[i].index] = c->now.boot_us; /* as all of an adopted claim */
		grants_count(c, k, c->now.boot_us, 1, false);
	}
}

void
grants_ask_ends(struct core *c, uint32_t k)
{
	struct claim *cl = &c->claims[k];

	for (unsigned i = 0; i < c->entries[cl->entry].n_rcpts; i++) {
		if (cl->stamps[i] != 0 && bit_get(cl->bits, i))
			grants_count(c, k, cl->stamps[i], 1, true);
	}
}
