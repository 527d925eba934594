#include "scheduler/core/targets.h"

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"

#define RETRY_DEFAULT_US (600 * SECOND_US)

static uint64_t
bit(unsigned target)
{
	return target < 64 ? 1ull << target : 0;
}

bool
targets_route_valid(const struct core *c, const struct active *a)
{
	return a->route_generation != 0 && a->n_targets > 0 && a->route_expires > c->now.boot_us;
}

void
targets_forget(struct active *a)
{
	a->route_generation = 0;
	a->failed = a->refused = a->denied = 0;
}

/* Addresses of one MX that failed in this round: mx-connection-attempts bounds them. */
static unsigned
failures_of_mx(const struct active *a, unsigned mx)
{
	unsigned n = 0;

	for (unsigned i = 0; i < a->n_targets; i++)
		n += (a->failed & bit(i)) && a->targets[i].mx == mx;
	return n;
}

static bool
usable(const struct active *a, const struct conf_queue *s, unsigned i)
{
	if (a->failed & bit(i))
		return false;
	return a->failed == 0 || failures_of_mx(a, a->targets[i].mx) < s->mx_connection_attempts;
}

static uint64_t
retry_step(const struct conf_intervals *after, unsigned level)
{
	if (after->n == 0)
		return RETRY_DEFAULT_US;
	return after->us[level < after->n ? level : after->n - 1];
}

uint64_t
targets_again_at(const struct active *a, const struct conf_queue *s)
{
	return a->failed_at + retry_step(&s->retry_after, 0);
}

int
targets_pick(struct core *c, struct active *a, const struct conf_queue *s, uint64_t skip)
{
	int best = -1;
	unsigned best_distance = 0;

	if (a->failed && targets_again_at(a, s) <= c->now.boot_us)
		a->failed = a->refused = a->denied = 0;
	for (unsigned i = 0; i < a->n_targets; i++) {
		/* In turn among equals: the first one behind the last used. */
		unsigned distance = (i + a->n_targets - a->turn - 1u) % a->n_targets;

		if (!usable(a, s, i) || (skip & bit(i)))
			continue;
		if (best >= 0 && a->targets[i].preference > a->targets[best].preference)
			continue;
		if (best < 0 || a->targets[i].preference < a->targets[best].preference ||
		    distance < best_distance) {
			best = (int)i;
			best_distance = distance;
		}
	}
	return best;
}

/* Where the connection's target stands in the present route, -1. */
static int
position(const struct active *a, const struct conn *cn)
{
	if (cn->route_generation == 0 || a->route_generation == 0)
		return -1;
	if (a->route_generation == cn->route_generation)
		return cn->target < a->n_targets ? cn->target : -1;
	for (unsigned i = 0; cn->target_id && i < a->n_targets; i++) {
		if (a->targets[i].id == cn->target_id)
			return (int)i;
	}
	return -1;
}

bool
targets_has(const struct active *a, const struct conn *cn)
{
	return position(a, cn) >= 0;
}

void
targets_failed(struct core *c, uint32_t qi, const struct conn *cn, enum target_failure how)
{
	struct active *a = pump_active(c, qi);
	int i = position(a, cn);

	if (i < 0)
		return;
	if (a->failed == 0)
		a->failed_at = c->now.boot_us;
	a->failed |= bit((unsigned)i);
	a->refused &= ~bit((unsigned)i);
	a->denied &= ~bit((unsigned)i);
	if (how == TARGET_REFUSED)
		a->refused |= bit((unsigned)i);
	if (how == TARGET_DENIED)
		a->denied |= bit((unsigned)i);
}

void
targets_succeeded(struct core *c, uint32_t qi, const struct conn *cn)
{
	struct active *a = pump_active(c, qi);
	int i = position(a, cn);

	if (i < 0)
		return;
	a->failed &= ~bit((unsigned)i);
	a->refused &= ~bit((unsigned)i);
	a->denied &= ~bit((unsigned)i);
}

void
targets_retry(struct core *c, uint32_t qi, uint64_t us)
{
	struct queue *q = &c->queues[qi];
	struct active *a = pump_active(c, qi);
	const struct conf_queue *s = pump_settings(c, qi);
	uint64_t longer = 0;

	/* What a reply asked for (core_defer_queue()) is not cut short by what was in flight. */
	if (us == 0 && !q->retry_is_dns && !q->retry_is_wall)
		longer = q->retry_at;
	q->retry_is_dns = us > 0;
	q->retry_is_wall = false;
	if (us == 0) {
		const struct conf_intervals *after = q->backoff && s->backoff_retry_after.n
							     ? &s->backoff_retry_after
							     : &s->retry_after;
		unsigned last = after->n ? after->n - 1 : 0;

		us = retry_step(after, q->retry_level);
		q->retry_level = (uint8_t)(q->retry_level < last ? q->retry_level + 1u : last);
	}
	q->retry_at = c->now.boot_us + (us ? us : SECOND_US);
	if (q->retry_at < longer)
		q->retry_at = longer;
	a->failed = a->refused = a->denied = 0;
	/* A DNS error is not worth a write: after a restart the question is asked again. */
	if (!q->retry_is_dns)
		c->ops.queue_changed(c->ctx, q->number);
	run_push(c, qi);
}

void
targets_doom(struct core *c, uint32_t qi, enum core_give_up why, const char *text)
{
	struct queue *q = &c->queues[qi];
	struct active *a = pump_active(c, qi);

	q->doom_left = q->n[PLACE_READY] + q->n[PLACE_DEFERRED];
	q->doom_why = (uint8_t)why;
	if (text) {
		char *copy = mem_strdup(text);

		mem_free(a->doom_text);
		a->doom_text = copy;
	}
	run_push(c, qi);
}

bool
targets_round_over(struct core *c, uint32_t qi)
{
	struct active *a = pump_active(c, qi);
	const struct conf_queue *s = pump_settings(c, qi);
	uint64_t all;

	if (a->route_generation == 0 || a->n_opening + a->n_idle + a->n_busy > 0 ||
	    targets_pick(c, a, s, 0) >= 0)
		return false;
	all = a->n_targets < 64 ? bit(a->n_targets) - 1 : UINT64_MAX;
	if (s->bounce_upon_5xx_greeting && a->refused == all) {
		a->failed = a->refused = a->denied = 0;
		targets_doom(c, qi, CORE_HOST_REFUSED, a->last_error);
		return true;
	}
	targets_retry(c, qi, 0);
	return true;
}
