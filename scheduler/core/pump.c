#include "scheduler/core/pump.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

#define LAST_ERROR_MAX 512

/* One visit: what is looked at and what comes of it. */
struct visit {
	struct queue *q;
	struct active *a;
	const struct conf_queue *s;
	uint32_t qi;
	unsigned left;  /* decisions until others have their turn */
	bool again;     /* there is more to do at once */
	enum line turn; /* the line that it heads and now has room */
	uint64_t wake;  /* earliest time at which something changes by itself */
	enum line line; /* where it is to wait, with `of` */
	unsigned of;
	enum limit limit;
};

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
	rate_free(&(*a)->msg);
	rate_free(&(*a)->connect);
	mem_free((*a)->targets);
	texts_drop(&c->errors, (*a)->last_error);
	mem_free((*a)->doom_text);
	mem_free(*a);
	*a = NULL;
}

static void
set_rate(struct rate **r, const struct conf_rate *limit, uint64_t now)
{
	if (limit->n == 0 || limit->window_us == 0)
		rate_free(r);
	else
		rate_change(r, limit->n, limit->window_us < 1000 ? 1000 : limit->window_us, now);
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
	set_rate(&a->msg, &a->settings->max_msg_rate, c->now.boot_us);
	set_rate(&a->connect, &a->settings->max_connect_rate, c->now.boot_us);
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

bool
pump_total_room(const struct core *c)
{
	return c->n_conns < c->total_max && c->n_conns < CORE_CONNECTIONS_MAX;
}

bool
pump_asks_room(const struct core *c)
{
	return c->n_asks < DNS_INFLIGHT_MAX;
}

/* Steps of a visit --------------------------------------------------------------------------- */
static void
wake_at(struct visit *v, uint64_t at)
{
	if (at < v->wake)
		v->wake = at;
}

static enum core_wait
wait_in_line(struct visit *v, enum line line, unsigned of, enum limit limit, enum core_wait wait)
{
	v->line = line;
	v->of = of;
	v->limit = limit;
	return wait;
}

static enum core_wait
wait_until(struct visit *v, uint64_t at, enum limit limit, enum core_wait wait)
{
	v->q->until = at;
	v->limit = limit;
	wake_at(v, at);
	return wait;
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
	wake_at(v, first > v->q->scan_at ? first : v->q->scan_at);
}

static void
doom(struct core *c, struct visit *v)
{
	for (unsigned i = 0; v->q->doom_left > 0; i++) {
		uint32_t e = entries_head(v->q);

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
		wake_at(v, us_of_seconds(due));
}

/* A lookup, or a place in the line for one. */
static enum core_wait
ask(struct core *c, struct visit *v)
{
	struct active *a = v->a;

	if (a->asked_at && a->asked_at + ASK_AGAIN_US > c->now.boot_us) {
		wake_at(v, a->asked_at + ASK_AGAIN_US);
		return CORE_WAIT_DNS;
	}
	if (!a->asked_at) {
		if (!pump_asks_room(c) || (v->turn != LINE_ASKS && c->asks_line.head != CORE_NONE))
			return wait_in_line(v, LINE_ASKS, 0, LIMIT_NONE, CORE_WAIT_DNS);
		c->n_asks++;
	}
	a->asked_at = c->now.boot_us ? c->now.boot_us : 1;
	c->ops.ask_route(c->ctx, v->q->number, slice_of(v->q->name, v->q->name_len));
	v->left--;
	wake_at(v, a->asked_at + ASK_AGAIN_US);
	return CORE_WAIT_DNS;
}

static void
open_one(struct core *c, struct visit *v, unsigned target, uint32_t source, unsigned worker)
{
	struct active *a = v->a;
	uint32_t number = conns_new(c, v->qi, worker, source);
	struct conn *cn = &c->conns[number];
	uint64_t within = a->connect ? rate_delta_us(rate_window_us(a->connect)) : DEADLINE_US;
	struct core_open o = {
		.connection = number,
		.queue = v->q->number,
		.source_ip = source,
		.worker = worker,
		.route_slot = a->route_slot,
		.route_generation = a->route_generation,
		.target = (uint16_t)target,
		.deadline_boot_us = c->now.boot_us + within,
	};

	cn->route_slot = a->route_slot;
	cn->route_generation = a->route_generation;
	cn->target = (uint16_t)target;
	cn->target_id = a->targets[target].id;
	a->turn = (uint16_t)target;
	if (a->connect)
		rate_charge(a->connect, c->now.boot_us, 1);
	meter_add(&c->sources[source].connect, c->now.boot_us, 1);
	c->totals.connect_attempts++;
	c->ops.open(c->ctx, &o);
	v->left--;
}

/* What stands against opening one more connection; opens it when nothing does (CORE_WAIT_NONE). */
static enum core_wait
try_open(struct core *c, struct visit *v, bool *opened)
{
	struct active *a = v->a;
	uint64_t now = c->now.boot_us, when;
	uint32_t source;
	unsigned worker;
	int target;

	*opened = false;
	if (v->q->vmta < 0)
		return wait_until(v, NEVER, LIMIT_NO_VMTA, CORE_WAIT_SOURCES);
	if (targets_round_over(c, v->qi)) {
		v->again = true;
		return CORE_WAIT_RETRY;
	}
	if (a->n_conns >= v->s->max_smtp_out)
		return wait_until(v, NEVER, LIMIT_MAX_SMTP_OUT, CORE_WAIT_CONNECTIONS);
	if (!targets_route_valid(c, a))
		return ask(c, v);
	target = targets_pick(c, a, v->s);
	if (target < 0)
		return wait_until(v, targets_again_at(a, v->s), LIMIT_TARGETS,
				  CORE_WAIT_CONNECTIONS);
	/* Nothing is known of the hosts yet: not all connections at once. */
	if (a->n_idle + a->n_busy == 0 && a->n_opening >= v->s->mx_connection_attempts &&
	    a->n_opening > 0)
		return wait_until(v, NEVER, LIMIT_ATTEMPTS, CORE_WAIT_CONNECTIONS);
	if (a->open_hold > now)
		return wait_until(v, a->open_hold, LIMIT_HANDED_BACK, CORE_WAIT_CONNECTIONS);
	if (a->connect && rate_room(a->connect, now) == 0)
		return wait_until(v, rate_when(a->connect, now), LIMIT_CONNECT_RATE,
				  CORE_WAIT_RATE);
	if (!pump_total_room(c) || (v->turn != LINE_TOTAL && c->total_line.head != CORE_NONE))
		return wait_in_line(v, LINE_TOTAL, 0, LIMIT_TOTAL, CORE_WAIT_CONNECTIONS);
	if (!sources_pick(c, (uint32_t)v->q->vmta, &a->source_turn, &source, &worker, &when)) {
		wake_at(v, when);
		v->q->until = when;
		return wait_in_line(v, LINE_SOURCES, 0, LIMIT_NONE, CORE_WAIT_SOURCES);
	}
	open_one(c, v, (unsigned)target, source, worker);
	if (v->turn == LINE_TOTAL) {
		v->turn = LINE_NONE; /* one at a turn: others wait too */
		run_line_leave(c, v->qi);
	}
	*opened = true;
	return CORE_WAIT_NONE;
}

static bool
has_to_end(const struct core *c, const struct visit *v, const struct conn *cn)
{
	/* max-smtp-out may have been lowered. */
	if (v->a->n_opening + v->a->n_idle + v->a->n_busy > v->s->max_smtp_out)
		return true;
	return cn->retired || cn->n_messages >= v->s->max_msg_per_connection ||
	       !targets_has(v->a, cn) || sources_leaving(c, cn->source);
}

/* The idle connection to use next: the most recently used one that may be used. Those that have to
 * end are closed. */
static uint32_t
usable_idle(struct core *c, struct visit *v, unsigned *full_worker)
{
	uint32_t next;

	for (uint32_t i = v->a->idle.head; i != CORE_NONE; i = next) {
		struct conn *cn = &c->conns[i];

		next = cn->next;
		if (has_to_end(c, v, cn)) {
			conns_close(c, i);
			continue;
		}
		if (!c->workers[cn->worker].full)
			return i;
		*full_worker = cn->worker;
	}
	return CORE_NONE;
}

/* Hands entries to idle connections and opens new ones, until something stands against it. */
static enum core_wait
hand_out(struct core *c, struct visit *v)
{
	struct queue *q = v->q;
	struct active *a = v->a;
	uint32_t room = UINT32_MAX;
	bool opened = true;

	while (q->n[PLACE_READY] > 0) {
		unsigned full = WORKERS_MAX;
		uint32_t conn = usable_idle(c, v, &full);

		if (a->msg) {
			uint64_t left = rate_room(a->msg, c->now.boot_us);

			room = left < UINT32_MAX ? (uint32_t)left : UINT32_MAX;
		}
		if (room == 0)
			return wait_until(v, rate_when(a->msg, c->now.boot_us), LIMIT_MSG_RATE,
					  CORE_WAIT_RATE);
		if (v->left == 0) {
			v->again = true;
			return CORE_WAIT_NONE;
		}
		if (conn != CORE_NONE) {
			if (grants_make(c, v->qi, conn, room) != GRANT_FULL)
				v->left--;
			continue;
		}
		if (full != WORKERS_MAX)
			return wait_in_line(v, LINE_ROOM, full, LIMIT_CLAIM_TABLE,
					    CORE_WAIT_CONNECTIONS);
		break;
	}
	while (opened &&
	       a->n_opening + a->n_idle < (q->n[PLACE_READY] < room ? q->n[PLACE_READY] : room)) {
		enum core_wait w;

		if (v->left == 0) {
			v->again = true;
			return CORE_WAIT_NONE;
		}
		w = try_open(c, v, &opened);
		if (!opened)
			return w;
	}
	return CORE_WAIT_NONE;
}

/* Where the queue waits, and all that can be decided before it has to. */
static enum core_wait
decide(struct core *c, struct visit *v)
{
	struct queue *q = v->q;

	if (q->paused)
		return CORE_WAIT_PAUSED;
	if (q->doom_left > 0)
		return CORE_WAIT_NONE;
	if (q->retry_at > c->now.boot_us)
		return wait_until(v, q->retry_at, LIMIT_NONE,
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
		return hand_out(c, v);
	if (q->n[PLACE_CLAIMED] + q->n[PLACE_HELD] > 0)
		return CORE_WAIT_NONE;
	if (q->n[PLACE_DEFERRED] > 0)
		return wait_until(v, us_of_seconds(entries_due(c, q)), LIMIT_NONE, CORE_WAIT_RETRY);
	return CORE_WAIT_EMPTY;
}

/* Closes idle connections that the queue has no use for: the oldest first. */
static void
close_idle(struct core *c, struct visit *v, enum core_wait w)
{
	uint64_t now = c->now.boot_us, keep = v->s->connection_idle_timeout_us;
	uint64_t longest = c->total_line.head == CORE_NONE ? RATE_IDLE_US : RATE_SOON_US;
	uint32_t prev;

	if (v->again)
		return;
	if (v->q->n[PLACE_READY] > 0 && w != CORE_WAIT_PAUSED && w != CORE_WAIT_RETRY &&
	    w != CORE_WAIT_DNS) {
		if (w != CORE_WAIT_RATE || v->q->until <= now + longest)
			return;
	}
	if (v->q->paused || v->q->retry_at > now)
		keep = 0;
	for (uint32_t i = v->a->idle.tail; i != CORE_NONE; i = prev) {
		struct conn *cn = &c->conns[i];

		prev = cn->prev;
		if (keep && cn->since + keep > now && !has_to_end(c, v, cn))
			wake_at(v, cn->since + keep);
		else
			conns_close(c, i);
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

void
pump_visit(struct core *c, uint32_t qi, unsigned *decisions, enum line turn)
{
	struct queue *q = &c->queues[qi];
	struct visit v = { .q = q, .qi = qi, .left = QUANTUM, .turn = turn, .wake = NEVER };
	enum core_wait w;
	unsigned room_turn = q->room_turn ? q->line_of : WORKERS_MAX;

	settle_clock(c, q);
	q->until = 0;
	if (!q->active && queue_entries(q) == 0) {
		q->wait = q->paused ? CORE_WAIT_PAUSED : CORE_WAIT_EMPTY;
		timers_set(&c->timers, qi, NEVER);
		return;
	}
	v.s = pump_settings(c, qi);
	v.a = q->active;
	if (q->doom_left > 0)
		doom(c, &v);
	if (q->doom_left == 0)
		release(c, &v);
	expire(c, &v);
	w = decide(c, &v);
	if (q->until == NEVER)
		q->until = 0;
	close_idle(c, &v, w);
	q->wait = (uint8_t)w;
	q->limit = (uint8_t)v.limit;
	if (v.line != LINE_NONE)
		run_line_join(c, qi, v.line, v.of, v.line == LINE_ROOM && room_turn == v.of);
	else if (!v.again)
		run_line_leave(c, qi);
	if (v.line == LINE_TOTAL && !pump_total_room(c))
		conns_close_resting(c);
	timers_set(&c->timers, qi, v.wake);
	if (v.again)
		run_push(c, qi);
	/* A worker's room goes to the next in its line when this queue left some. */
	q->room_turn = false;
	if (room_turn != WORKERS_MAX && !c->workers[room_turn].full)
		run_wake_room(c, room_turn);
	*decisions += QUANTUM - v.left;
}
