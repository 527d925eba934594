#include "scheduler/core/backoff_impl.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

/* So many end at one go. */
#define ENDS_AT_ONCE 256
/* The wall clock may be set while nobody looks: it is looked at so often. */
#define LOOK_US (60 * SECOND_US)
/* Timers of the wall clock are set anew when that has moved by more. */
#define SHIFT_US ((int64_t)SECOND_US)

/* Rates --------------------------------------------------------------------------------------- */
static uint64_t
normal_mps(struct core *c, uint32_t qi)
{
	return recover_mps_of(&pump_settings(c, qi)->max_msg_rate);
}

/* Delivered in the last minute, or since the first of them: `*us`, a second at least. */
static uint64_t
delivered_mps(const struct core *c, uint32_t qi, uint64_t *us)
{
	const struct active *a = c->queues[qi].active;
	const struct deliveries *d = a && a->meters ? a->meters->delivered : NULL;
	uint64_t sum, since, covered;

	*us = 0;
	if (!d || (sum = meter_minute(&d->meter, c->now.boot_us)) == 0)
		return 0;
	since = c->now.boot_us - d->since_us;
	covered = (METER_STEPS - 1) * 10 * SECOND_US + c->now.boot_us % (10 * SECOND_US);
	since = since < covered ? since : covered;
	*us = since > SECOND_US ? since : SECOND_US;
	return sum * 1000 * SECOND_US / *us;
}

struct conf_rate
backoff_allowed(struct core *c, const struct backoff *b, uint64_t *left_us)
{
	const struct conf_rate *normal = &pump_settings(c, b->queue)->max_msg_rate, none = { 0 };
	uint64_t since = c->now.wall_us > b->ended_wall ? c->now.wall_us - b->ended_wall : 0;
	unsigned percent;

	*left_us = 0;
	if (backoff_is_automatic(b))
		return recover_rate_of(b->learned.rate_mps);
	if (!b->over)
		return none;
	if (b->spread_us > 0) {
		*left_us = since < b->spread_us ? b->spread_us - since : 0;
		return since < b->spread_us ? recover_rate_of(b->spread_mps) : none;
	}
	percent = recover_percent(&b->how, since, left_us);
	if (percent >= 100)
		return none;
	if (normal->window_us && normal->n)
		return (struct conf_rate){ normal->n * percent / 100 ? normal->n * percent / 100
								     : 1,
					   normal->window_us };
	return recover_rate_of(b->before_mps * percent / 100);
}

/* Sets what the recovery allows, and when to look at it again. */
static void
apply_recovery(struct core *c, uint32_t i)
{
	struct backoff *b = &c->backoffs[i];
	uint64_t left, at = NEVER;
	struct conf_rate r;

	if (!backoff_is_whole(b))
		return;
	r = backoff_allowed(c, b, &left);
	limits_queue_learned(c, b->queue, &r);
	if (backoff_is_automatic(b))
		at = b->learned.next_us;
	else if (b->over)
		at = c->now.boot_us + (r.n ? left : 0);
	if (!b->over && b->until_wall && core_boot_of(c, b->until_wall) < at)
		at = core_boot_of(c, b->until_wall);
	timers_set(&c->backoff_timers, i, at);
}

static void
set_timer(struct core *c, uint32_t i)
{
	const struct backoff *b = &c->backoffs[i];

	if (backoff_is_whole(b))
		apply_recovery(c, i);
	else
		timers_set(&c->backoff_timers, i,
			   b->until_wall ? core_boot_of(c, b->until_wall) : NEVER);
}

void
backoff_settings(struct core *c, uint32_t qi)
{
	uint32_t i = c->backoff_map.n ? backoff_find(c, qi, CORE_NONE) : CORE_NONE;

	if (i != CORE_NONE)
		apply_recovery(c, i);
}

/* What holds ---------------------------------------------------------------------------------- */
/* Connections of source IPs that are not to be used now end with their message. */
static void
retire_others(struct core *c, uint32_t qi)
{
	const struct active *a = c->queues[qi].active;
	uint32_t left = a ? a->n_conns : 0;

	for (uint32_t i = 0; left > 0; i++) {
		struct conn *cn = &c->conns[i];

		if (cn->state == CONN_FREE || cn->queue != qi)
			continue;
		left--;
		if (!backoff_may_use(c, qi, cn->source))
			cn->retired = 1;
	}
}

static void
stale_sources(struct core *c, uint32_t qi)
{
	int32_t vmta = c->queues[qi].vmta;

	for (uint32_t i = 0; vmta >= 0 && i < c->vmtas[vmta].n_sources; i++)
		limits_stale_source(c, qi, c->vmtas[vmta].sources[i]);
}

/* The queue's mode is another one, or that of a source IP of it: limits, connections, and who
 * waits. */
static void
apply_mode(struct core *c, uint32_t qi, uint32_t source)
{
	struct queue *q = &c->queues[qi];

	run_push(c, qi);
	passes_forget_queue(c, qi);
	if (!q->active)
		return;
	if (source != CORE_NONE) {
		limits_stale_source(c, qi, source);
		limits_group_asked(c, CORE_SCOPE_QUEUE_SOURCE, qi, source);
		conns_recount_queue(c, qi);
		return;
	}
	if (q->only_sources)
		retire_others(c, qi);
	if (c->ops.source_limits && pump_settings(c, qi)->source_limits) {
		stale_sources(c, qi);
		conns_recount_queue(c, qi);
	}
}

static void
take_how(struct core *c, struct backoff *b, const struct core_backoff *how, bool fresh)
{
	uint64_t latest = c->now.boot_us + how->probe_us;
	uint32_t *sources = NULL;
	size_t n = 0;

	if (backoff_is_whole(b) && how->only_sources && how->n_sources > 0) {
		sources = mem_calloc(how->n_sources, sizeof(*sources));
		for (size_t k = 0; k < how->n_sources; k++) {
			if (how->sources[k] < c->n_sources)
				sources[n++] = how->sources[k];
		}
	}
	mem_free(b->sources);
	b->sources = sources;
	b->n_sources = n;
	b->until_wall = how->until_wall_us;
	b->after_delivery = how->after_delivery;
	b->first_lease = c->next_lease;
	if (fresh || b->probe_us == 0)
		b->probe_at =
			how->probe_next_wall_us ? core_boot_of(c, how->probe_next_wall_us) : latest;
	if (b->probe_at > latest)
		b->probe_at = latest;
	b->probe_us = backoff_is_whole(b) ? how->probe_us : 0;
}

/* How the rate returns, of back-off that begins (`fresh`), or meets a further match. */
static void
take_recover(struct core *c, struct backoff *b, const struct core_backoff *how, bool fresh)
{
	static const struct conf_recover none;
	bool was = backoff_is_automatic(b);
	uint64_t us = RECOVER_ROUGH_US;

	b->how = backoff_is_whole(b) && how->recover ? *how->recover : none;
	if (fresh && b->before_mps == 0)
		b->before_mps = how->before_mps ? how->before_mps : delivered_mps(c, b->queue, &us);
	if (!b->how.automatic)
		return;
	if (fresh || !was)
		recover_auto_begin(&b->learned, b->before_mps, us, normal_mps(c, b->queue),
				   how->rate_mps, c->now.boot_us);
	else if (!how->anew)
		recover_auto_match(&b->learned, c->now.boot_us);
}

static void
set_bits(struct core *c, const struct backoff *b, bool only_sources)
{
	struct queue *q = &c->queues[b->queue];

	q->backoff = !b->over;
	q->only_sources = q->backoff && only_sources;
	q->learning = backoff_is_automatic(b);
	q->probing = q->backoff && b->probe_us > 0;
}

bool
core_backoff_enter(struct core *c, const struct core_now *now, uint32_t queue,
		   const struct core_backoff *how)
{
	uint32_t qi = queue_index(c, queue), i;
	struct backoff *b;
	bool fresh, known;

	core_clock(c, now);
	if (qi == CORE_NONE || (how->source_ip != CORE_NONE && how->source_ip >= c->n_sources))
		return false;
	pump_settings(c, qi);
	i = backoff_find(c, qi, how->source_ip);
	known = i != CORE_NONE;
	if (!known)
		i = backoff_new(c, qi, how->source_ip);
	b = &c->backoffs[i];
	fresh = !known || b->over;
	b->over = false;
	b->spread_us = 0;
	if (fresh)
		b->since_wall = how->since_wall_us ? how->since_wall_us : c->now.wall_us;
	take_how(c, b, how, fresh);
	take_recover(c, b, how, fresh);
	if (!backoff_is_whole(b)) {
		if (!known)
			backoff_note_sources(c, qi, 1);
	} else {
		if (how->ended_wall_us) {
			b->over = true;
			b->ended_wall = how->ended_wall_us < c->now.wall_us ? how->ended_wall_us
									     : c->now.wall_us;
		}
		set_bits(c, b, how->only_sources);
	}
	set_timer(c, i);
	apply_mode(c, qi, how->source_ip);
	return fresh;
}

/* What is due does not leave in one wave where nothing else slows it down. */
static void
spread(const struct core *c, struct backoff *b)
{
	uint64_t ready = c->queues[b->queue].n[PLACE_READY], s = ready / OVERDUE_PER_SECOND;

	if (s > OVERDUE_SPREAD_S)
		s = OVERDUE_SPREAD_S;
	b->spread_us = s * SECOND_US;
	b->spread_mps = s > 0 ? ready * 1000 / s : 0;
}

/* Out of back-off, into the recovery if there is one, or out of that too. */
static void
leave(struct core *c, uint32_t i, bool at_once)
{
	struct backoff *b = &c->backoffs[i];
	uint32_t qi = b->queue, source = b->source;
	const struct conf_rate none = { 0 };
	uint64_t left;
	bool steps;

	if (!backoff_is_whole(b)) {
		backoff_drop(c, i);
		backoff_note_sources(c, qi, -1);
		apply_mode(c, qi, source);
		return;
	}
	steps = !at_once && !b->over && !b->how.automatic;
	b->over = true;
	b->ended_wall = c->now.wall_us;
	set_bits(c, b, false);
	if (steps && b->how.n == 0)
		spread(c, b);
	if (steps && backoff_allowed(c, b, &left).n > 0) {
		apply_recovery(c, i);
	} else {
		backoff_drop(c, i);
		limits_queue_learned(c, qi, &none);
	}
	apply_mode(c, qi, CORE_NONE);
}

bool
core_backoff_leave(struct core *c, const struct core_now *now, uint32_t queue, uint32_t source_ip,
		   bool at_once)
{
	uint32_t qi = queue_index(c, queue), i;
	bool was;

	core_clock(c, now);
	i = qi == CORE_NONE ? CORE_NONE : backoff_find(c, qi, source_ip);
	if (i == CORE_NONE)
		return false;
	was = !c->backoffs[i].over;
	if (was || at_once)
		leave(c, i, at_once);
	return was;
}

void
core_modes_changed(struct core *c)
{
	c->modes++;
}

bool
backoff_mode_known(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (q->modes != c->modes &&
	    (!c->ops.mode_is_told || c->ops.mode_is_told(c->ctx, q->number)))
		q->modes = c->modes;
	return q->modes == c->modes;
}

/* Ends ---------------------------------------------------------------------------------------- */
static void
end(struct core *c, uint32_t i, enum core_backoff_end why)
{
	uint32_t queue = c->queues[c->backoffs[i].queue].number, source = c->backoffs[i].source;

	leave(c, i, false);
	if (c->ops.backoff_over)
		c->ops.backoff_over(c->ctx, queue, source, why);
}

void
backoff_delivered(struct core *c, uint32_t qi, uint32_t source, uint64_t lease, uint32_t n)
{
	const uint32_t at[] = { CORE_NONE, source };
	const struct queue *q = &c->queues[qi];

	for (unsigned k = 0; k < (source == CORE_NONE ? 1 : 2) && (q->backoff || q->backoff_source);
	     k++) {
		uint32_t i = backoff_find(c, qi, at[k]);
		struct backoff *b = i == CORE_NONE ? NULL : &c->backoffs[i];

		if (b && backoff_is_automatic(b))
			recover_auto_delivered(&b->learned, n, c->now.boot_us);
		if (b && !b->over && b->after_delivery && lease >= b->first_lease)
			end(c, i, CORE_BACKOFF_DELIVERY);
	}
}

static void
look(struct core *c, uint32_t i)
{
	struct backoff *b = &c->backoffs[i];
	uint64_t left;

	if (!b->over && b->until_wall && b->until_wall <= c->now.wall_us) {
		end(c, i, CORE_BACKOFF_TIME);
		return;
	}
	if (backoff_is_automatic(b) &&
	    recover_auto_step(&b->learned, normal_mps(c, b->queue), c->now.boot_us)) {
		end(c, i, CORE_BACKOFF_RECOVERED);
		return;
	}
	if (b->over && backoff_allowed(c, b, &left).n == 0) {
		end(c, i, CORE_BACKOFF_STEPS);
		return;
	}
	set_timer(c, i);
	run_push(c, b->queue);
}

void
backoff_tick(struct core *c)
{
	for (unsigned k = 0; k < ENDS_AT_ONCE && timers_next(&c->backoff_timers) <= c->now.boot_us;
	     k++)
		look(c, timers_pop(&c->backoff_timers));
}

uint64_t
backoff_next(const struct core *c)
{
	uint64_t next = timers_next(&c->backoff_timers);

	return next != NEVER && next > c->now.boot_us + LOOK_US ? c->now.boot_us + LOOK_US : next;
}

void
backoff_clock(struct core *c)
{
	int64_t shift = (int64_t)(c->now.wall_us - c->now.boot_us), by = shift - c->wall_shift;

	if (by <= SHIFT_US && by >= -SHIFT_US)
		return;
	c->wall_shift = shift;
	for (uint32_t i = 0; i < c->n_backoffs; i++) {
		struct backoff *b = &c->backoffs[i];

		if (!b->made)
			continue;
		/* Set back behind the end of back-off: what has gone by of the way back has. */
		if (b->over && b->ended_wall > c->now.wall_us)
			b->ended_wall += (uint64_t)by;
		set_timer(c, i);
	}
}
