#include "scheduler/core/pump_impl.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/redirect.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

#define LAST_ERROR_MAX 512

/* The larger half ---------------------------------------------------------------------------- */
struct active *
pump_active(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (!q->active) {
		q->active = mem_zalloc(sizeof(*q->active));
		q->active->idle = (struct list){ CORE_NONE, CORE_NONE };
		/* Not every queue begins at the first source IP. */
		q->active->source_turn = q->number * 2654435761u >> 8;
	}
	return q->active;
}

void
pump_active_free(struct core *c, struct active **a)
{
	if (!*a)
		return;
	mem_free((*a)->targets);
	mem_free((*a)->target_limits);
	mem_free((*a)->old_providers);
	if ((*a)->meters)
		mem_free((*a)->meters->delivered);
	mem_free((*a)->meters);
	texts_drop(&c->errors, (*a)->last_error);
	mem_free((*a)->doom_text);
	mem_free(*a);
	*a = NULL;
}

/* Never 0. */
static uint64_t
route_key(const struct conf_queue *s)
{
	uint64_t h = 14695981039346656037ull ^ s->default_smtp_port;

	for (const char *p = s->smtp_hosts; p && *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211ull;
	h = (h ^ (s->smtp_hosts ? 1u : 0u)) * 1099511628211ull;
	return h ? h : 1;
}

/* Other hosts than before a reload: the route is void, and with it the connections. */
static void
note_route_key(struct active *a)
{
	uint64_t key = route_key(a->settings);

	if (a->route_key && a->route_key != key) {
		targets_forget(a);
		a->dead_until = 0;
	}
	a->route_key = key;
}

const struct conf_queue *
pump_settings(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];
	struct active *a = pump_active(c, qi);

	if (a->settings)
		return a->settings;
	a->settings = c->ops.settings(c->ctx, q->number, slice_of(q->name, q->name_len));
	CHECK(a->settings);
	note_route_key(a);
	if (a->settings->allow_priority_interruption &&
	    a->settings->queue_priority < c->lowest_priority)
		c->lowest_priority = a->settings->queue_priority;
	limits_queue_set(c, qi);
	return a->settings;
}

void
pump_last_error(struct core *c, uint32_t qi, struct slice text)
{
	struct active *a;
	const char *old;

	if (text.n == 0)
		return;
	a = pump_active(c, qi);
	/* The new one first: `text` may be the old one. */
	text = slice_of(text.p, text.n < LAST_ERROR_MAX ? text.n : LAST_ERROR_MAX);
	old = a->last_error;
	a->last_error = texts_take(&c->errors, slice_of(text.p, strnlen(text.p, text.n)));
	texts_drop(&c->errors, old);
	a->last_error_wall = c->now.wall_us;
}

/* Steps of a visit --------------------------------------------------------------------------- */
void
pump_wake_at(struct visit *v, uint64_t at)
{
	if (at < v->wake)
		v->wake = at;
}

enum core_wait
pump_wait_in_line(struct visit *v, enum line_kind line, uint32_t of, enum refusal refusal,
		  enum core_wait wait)
{
	v->line = line;
	v->of = of;
	v->line_wake = NEVER;
	v->refusal = refusal;
	return wait;
}

enum core_wait
pump_wait_until(struct visit *v, uint64_t at, enum refusal refusal, enum core_wait wait)
{
	v->q->until = at;
	v->refusal = refusal;
	pump_wake_at(v, at);
	return wait;
}

/* For a limit that has no room: one of its own with its own timer, a shared one in its line. */
enum core_wait
pump_wait_for_limit(struct core *c, struct visit *v, const struct answer *no)
{
	const struct limit *l = &c->limits[no->limit];
	enum core_wait wait = l->rate ? CORE_WAIT_RATE : CORE_WAIT_CONNECTIONS;

	v->limit = no->limit;
	if (l->scope == CORE_SCOPE_QUEUE || l->scope == CORE_SCOPE_QUEUE_SOURCE)
		return pump_wait_until(v, no->when, REFUSAL_LIMIT, wait);
	v->q->until = no->when;
	pump_wait_in_line(v, LINE_LIMIT, no->limit, REFUSAL_LIMIT, wait);
	v->line_wake = no->when;
	return wait;
}

/* The turn is used: the next of the line may come. */
void
pump_use_turn(struct core *c, struct visit *v)
{
	if (v->turn && v->q->line == v->turn)
		lines_leave(c, v->qi);
	v->turn = 0;
	v->a->owed[0] = v->a->owed[1] = 0;
}

struct asker
pump_asker(const struct core *c, const struct visit *v)
{
	uint32_t e = v->q->ready.head, ready = v->q->n[PLACE_READY];
	uint32_t claim = grants_most(v->s);

	return (struct asker){ .bytes = e == CORE_NONE ? 1 : admit_bytes(c, e),
			       .want = ready < claim ? claim : ready,
			       .qi = v->qi,
			       .priority = v->s->queue_priority,
			       .turn = v->turn };
}

static void
give_up_expired(struct core *c, uint32_t e)
{
	grants_give_up(c, e, CORE_EXPIRED, "");
}

/* Gives up what outlived bounce-after, in slices; at most once in 1 % of it, at least a second
 * apart. */
static void
expire(struct core *c, struct visit *v)
{
	uint64_t after = v->s->bounce_after_us, now = c->now.boot_us, first;
	uint32_t after_s, now_s = seconds_of(now);

	if (v->q->n[PLACE_READY] + v->q->n[PLACE_DEFERRED] == 0) {
		v->q->scan_stage = 0;
		v->q->oldest = UINT32_MAX;
	}
	if (after == CONF_NEVER || v->q->oldest == UINT32_MAX)
		return;
	after_s = after / SECOND_US >= CORE_SECONDS_BASE
			  ? CORE_SECONDS_BASE
			  : (uint32_t)((after + SECOND_US - 1) / SECOND_US);
	if (v->q->scan_stage > 0 || (v->q->scan_at <= now && v->q->oldest <= now_s - after_s)) {
		if (c->give_up_room == 0) {
			run_join_doomed(c, v->qi);
			return;
		}
		if (!entries_scan(c, v->q, now_s - after_s, SCAN_SLICE, give_up_expired)) {
			v->again = true;
			return;
		}
		v->q->scan_at = now + (after / 100 > SECOND_US ? after / 100 : SECOND_US);
	}
	if (v->q->oldest == UINT32_MAX)
		return;
	first = us_of_seconds(v->q->oldest + after_s);
	pump_wake_at(v, first > v->q->scan_at ? first : v->q->scan_at);
}

/* Those in retry first: what comes meanwhile stands behind the others, and is not counted. */
static uint32_t
next_doomed(const struct queue *q)
{
	for (unsigned i = 0; i < 2; i++) {
		if (q->lanes[i].head != CORE_NONE)
			return q->lanes[i].head;
	}
	return q->ready.head;
}

static void
doom(struct core *c, struct visit *v)
{
	for (unsigned i = 0; v->q->doom_left > 0; i++) {
		uint32_t e = next_doomed(v->q);

		if (e == CORE_NONE) {
			v->q->doom_left = 0;
			return;
		}
		if (c->give_up_room == 0) {
			run_join_doomed(c, v->qi);
			return;
		}
		if (i == DOOM_SLICE) {
			v->again = true;
			return;
		}
		grants_give_up(c, e, (enum core_give_up)v->q->doom_why, v->a->doom_text);
	}
}

static void
release(struct core *c, struct visit *v)
{
	uint32_t due;

	if (!entries_release(c, v->q, seconds_of(c->now.boot_us), RELEASE_SLICE)) {
		v->again = true;
		return;
	}
	v->q->release_left = 0;
	due = entries_due(c, v->q);
	if (due != UINT32_MAX)
		pump_wake_at(v, us_of_seconds(due));
}

/* Where the queue waits, and all that can be decided before it has to. */
static enum core_wait
decide(struct core *c, struct visit *v)
{
	struct queue *q = v->q;
	enum core_wait w;

	if (q->paused)
		return CORE_WAIT_PAUSED;
	if (q->doom_left > 0 || q->moving || !backoff_mode_known(c, v->qi))
		return CORE_WAIT_NONE;
	w = pump_wait_for_probe(c, v);
	if (w != CORE_WAIT_NONE)
		return w;
	if (q->retry_at > c->now.boot_us)
		return pump_wait_until(v, q->retry_at, REFUSAL_NONE,
				       q->retry_is_dns ? CORE_WAIT_DNS : CORE_WAIT_RETRY);
	q->retry_at = 0;
	if (q->n[PLACE_READY] > 0 && v->s->discard) {
		targets_doom(c, v->qi, CORE_DISCARDED, "");
		return CORE_WAIT_NONE;
	}
	if (q->n[PLACE_READY] > 0 && v->a->dead_until > c->now.boot_us) {
		targets_doom(c, v->qi, CORE_NO_ROUTE, NULL);
		return CORE_WAIT_NONE;
	}
	if (q->n[PLACE_READY] > 0)
		return pump_hand_out(c, v);
	if (q->n[PLACE_CLAIMED] + q->n[PLACE_HELD] > 0)
		return CORE_WAIT_NONE;
	if (q->n[PLACE_DEFERRED] > 0)
		return pump_wait_until(v, us_of_seconds(entries_due(c, q)), REFUSAL_NONE,
				       CORE_WAIT_RETRY);
	return CORE_WAIT_EMPTY;
}

/* Whether the queue is about to use its idle connections: it waits for something that comes soon,
 * or at least not for long yet. */
static bool
needs_idle(const struct core *c, const struct visit *v, enum core_wait w, const struct conn *cn,
	   bool wanted)
{
	uint64_t longest = wanted ? RATE_SOON_US : RATE_IDLE_US, now = c->now.boot_us;

	if (v->q->n[PLACE_READY] == 0 || w == CORE_WAIT_PAUSED || w == CORE_WAIT_RETRY ||
	    w == CORE_WAIT_DNS || w == CORE_WAIT_BACKOFF)
		return false;
	if (v->line == LINE_LIMIT || v->line == LINE_SENDERS)
		return cn->since + longest > now;
	return w != CORE_WAIT_RATE || v->q->until <= now + longest;
}

/* Closes idle connections that the queue has no use for: the oldest first. */
static void
close_idle(struct core *c, struct visit *v, enum core_wait w)
{
	uint64_t now = c->now.boot_us, keep = v->s->connection_idle_timeout_us;
	uint32_t prev;

	if (v->again)
		return;
	if (v->q->paused || v->q->retry_at > now)
		keep = 0;
	for (uint32_t i = v->a->idle.tail; i != CORE_NONE; i = prev) {
		struct conn *cn = &c->conns[i];
		bool wanted =
			limits_wanted(c, sets_of(c, cn->charges)) || c->workers[cn->worker].conns;

		prev = cn->prev;
		if (cn->yields || cn->retired || pump_are_too_many(c, v)) {
			conns_close(c, i);
		} else if (needs_idle(c, v, w, cn, wanted)) {
			if (v->line == LINE_LIMIT || v->line == LINE_SENDERS)
				pump_wake_at(v, cn->since + RATE_IDLE_US);
		} else if (keep && !wanted && cn->since + keep > now &&
			   !pump_has_to_end(c, v, cn)) {
			pump_wake_at(v, cn->since + keep);
		} else {
			conns_close(c, i);
		}
	}
}

/* Wall times from the store become boot times when the clock is known. */
static void
settle_clock(struct core *c, struct queue *q)
{
	if (!q->retry_is_wall)
		return;
	q->retry_is_wall = false;
	q->retry_at = core_boot_of(c, q->retry_at);
	if (q->retry_at <= c->now.boot_us)
		q->retry_at = 0;
}

/* What was owed to the queue, and promised, when it has no use for it. */
static void
forget_turns(struct core *c, uint32_t qi)
{
	struct active *a = c->queues[qi].active;

	a->owed[0] = a->owed[1] = 0;
	a->debt = 0;
}

/* A turn that was not used, for want of something else: the queue does not begin at the end again.
 */
static void
keep_turn(struct core *c, struct visit *v)
{
	const struct line *l = &c->lines[v->turn];

	if (v->turn == 0 || l->kind != LINE_LIMIT || v->again ||
	    (v->line == LINE_LIMIT && v->of == l->of))
		return;
	limits_owe(v->a, l->of);
}

static void
take_place(struct core *c, struct visit *v)
{
	bool head = v->line == LINE_LIMIT && (limits_is_owed(v->a, v->of) || v->a->n_promised > 0);

	if (v->line == LINE_NONE) {
		if (!v->again)
			lines_leave(c, v->qi);
		return;
	}
	lines_join(c, v->qi, v->line, v->of, head);
	lines_wake_at(c, v->q->line, v->line_wake);
	if (v->line == LINE_LIMIT && !c->limits[v->of].rate)
		conns_make_room(c, v->of, v->s->queue_priority);
	if (v->line == LINE_CONNS && sources_conn_room(c, v->of) == 0)
		conns_make_worker_room(c, v->of);
}

/* What is to be done for a queue that has just been looked at. */
static void
finish(struct core *c, struct visit *v, enum core_wait w)
{
	struct queue *q = v->q;

	if (q->until == NEVER)
		q->until = 0;
	close_idle(c, v, w);
	q->wait = (uint8_t)w;
	q->refusal = (uint8_t)v->refusal;
	v->a->blocked_by = v->refusal == REFUSAL_LIMIT ? v->limit : 0;
	if (q->n[PLACE_READY] == 0 && !v->again)
		forget_turns(c, v->qi);
	keep_turn(c, v);
	take_place(c, v);
	timers_set(&c->timers, v->qi, v->wake);
	if (v->again)
		run_push(c, v->qi);
}

bool
pump_visit(struct core *c, uint32_t qi, unsigned *decisions, uint32_t turn)
{
	struct queue *q = &c->queues[qi];
	struct visit v = { .q = q, .qi = qi, .left = QUANTUM, .turn = turn, .wake = NEVER };
	enum core_wait w;

	c->visits++;
	run_touch(c, qi);
	settle_clock(c, q);
	q->until = 0;
	v.again = q->moving && redirect_step(c, qi);
	if (!q->active && queue_entries(q) == 0) {
		q->wait = q->paused ? CORE_WAIT_PAUSED : CORE_WAIT_EMPTY;
		timers_set(&c->timers, qi, NEVER);
		return true;
	}
	v.s = pump_settings(c, qi);
	v.a = q->active;
	if (!q->moving) {
		if (q->doom_left > 0)
			doom(c, &v);
		if (q->doom_left == 0)
			release(c, &v);
		expire(c, &v);
	}
	w = decide(c, &v);
	finish(c, &v, w);
	*decisions += QUANTUM - v.left;
	return v.turn == 0;
}
