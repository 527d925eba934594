#include "scheduler/core/pump.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/redirect.h"
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
	unsigned left;       /* decisions until others have their turn */
	bool again;          /* there is more to do at once */
	uint32_t turn;       /* the line that it heads and now has room; 0: none, or used */
	uint64_t wake;       /* earliest time at which something changes by itself */
	enum line_kind line; /* where it is to wait, with `of` */
	uint32_t of;
	uint64_t line_wake; /* when that line may have room */
	enum refusal refusal;
	uint32_t limit; /* of REFUSAL_LIMIT */
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
	mem_free((*a)->targets);
	mem_free((*a)->target_limits);
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
static void
wake_at(struct visit *v, uint64_t at)
{
	if (at < v->wake)
		v->wake = at;
}

static enum core_wait
wait_in_line(struct visit *v, enum line_kind line, uint32_t of, enum refusal refusal,
	     enum core_wait wait)
{
	v->line = line;
	v->of = of;
	v->line_wake = NEVER;
	v->refusal = refusal;
	return wait;
}

static enum core_wait
wait_until(struct visit *v, uint64_t at, enum refusal refusal, enum core_wait wait)
{
	v->q->until = at;
	v->refusal = refusal;
	wake_at(v, at);
	return wait;
}

/* For a limit that has no room: one of its own with its own timer, a shared one in its line. */
static enum core_wait
wait_for_limit(struct core *c, struct visit *v, const struct answer *no)
{
	const struct limit *l = &c->limits[no->limit];
	enum core_wait wait = l->rate ? CORE_WAIT_RATE : CORE_WAIT_CONNECTIONS;

	v->limit = no->limit;
	if (l->scope == CORE_SCOPE_QUEUE || l->scope == CORE_SCOPE_QUEUE_SOURCE)
		return wait_until(v, no->when, REFUSAL_LIMIT, wait);
	v->q->until = no->when;
	wait_in_line(v, LINE_LIMIT, no->limit, REFUSAL_LIMIT, wait);
	v->line_wake = no->when;
	return wait;
}

/* The turn is used: the next of the line may come. */
static void
use_turn(struct core *c, struct visit *v)
{
	if (v->turn && v->q->line == v->turn)
		lines_leave(c, v->qi);
	v->turn = 0;
	v->a->owed[0] = v->a->owed[1] = 0;
}

static struct asker
asker_of(const struct core *c, const struct visit *v)
{
	uint32_t e = v->q->ready.head;

	return (struct asker){ .bytes = e == CORE_NONE ? 1 : admit_bytes(c, e),
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
		if (c->n_asks >= DNS_INFLIGHT_MAX ||
		    (!(v->turn && v->turn == c->asks_line) &&
		     lines_ahead(c, c->asks_line, v->qi, v->s->queue_priority)))
			return wait_in_line(v, LINE_ASKS, 0, REFUSAL_NONE, CORE_WAIT_DNS);
		c->n_asks++;
		if (v->turn && v->turn == c->asks_line)
			v->turn = 0;
	}
	a->asked_at = c->now.boot_us ? c->now.boot_us : 1;
	c->ops.ask_route(c->ctx, v->q->number, slice_of(v->q->name, v->q->name_len));
	v->left--;
	wake_at(v, a->asked_at + ASK_AGAIN_US);
	return CORE_WAIT_DNS;
}

/* The line is one for connections; for messages. */
static bool
connects_from(const struct core *c, uint32_t line)
{
	const struct line *l = &c->lines[line];
	unsigned m = l->kind == LINE_LIMIT ? c->limits[l->of].measure : CORE_MEASURE_MSG;

	return l->kind == LINE_SOURCES || l->kind == LINE_CONNS || m == CORE_MEASURE_CONNECT ||
	       m == CORE_MEASURE_SMTP_OUT;
}

static bool
grants_from(const struct core *c, uint32_t line)
{
	const struct line *l = &c->lines[line];
	const struct limit *li = &c->limits[l->of];

	if (l->kind != LINE_LIMIT)
		return l->kind == LINE_SENDERS;
	return li->measure == CORE_MEASURE_MSG || li->measure == CORE_MEASURE_VOLUME ||
	       li->scope == CORE_SCOPE_JOB || li->scope == CORE_SCOPE_SENDER;
}

/* A connection as it is to be opened, and what it is charged to. */
struct opening {
	unsigned target;
	uint32_t source;
	unsigned worker;
	struct charges set;
	struct answer yes;
};

static const struct core_target_limits *
target_limits(const struct active *a, unsigned target)
{
	return a->target_limits ? &a->target_limits[target] : NULL;
}

static void
open_one(struct core *c, struct visit *v, const struct opening *op)
{
	struct active *a = v->a;
	const struct core_target_limits *t = target_limits(a, op->target);
	uint32_t number = conns_new(c, v->qi, op->worker, op->source, &op->set);
	struct conn *cn = &c->conns[number];
	struct core_open o = {
		.connection = number,
		.queue = v->q->number,
		.source_ip = op->source,
		.worker = op->worker,
		.route_slot = a->route_slot,
		.route_generation = a->route_generation,
		.target = (uint16_t)op->target,
		.deadline_boot_us = c->now.boot_us + op->yes.within,
		.granted_boot_us = c->now.boot_us,
	};

	cn->route_slot = a->route_slot;
	cn->route_generation = a->route_generation;
	cn->target = (uint16_t)op->target;
	cn->target_id = a->targets[op->target].id;
	if (t)
		cn->limits = *t;
	limits_promise(c, cn);
	a->turn = (uint16_t)op->target;
	a->last_open = c->now.boot_us;
	meter_add(&c->sources[op->source].connect, c->now.boot_us, 1);
	c->totals.connect_attempts++;
	c->ops.open(c->ctx, &o);
	v->left--;
}

/* The target and the source IP of the next connection, such that none of their limits refuses.
 * False: *no says which does, or no source IP is to be had (`no->limit` 0). */
static bool
choose(struct core *c, struct visit *v, struct opening *op, struct source_choice *sc, int target)
{
	struct active *a = v->a;
	struct asker who = asker_of(c, v);
	uint64_t skip = 0;
	unsigned best = a->targets[target].preference;

	for (unsigned n = 0; n < a->n_targets; n++) {
		const struct core_target_limits *t = target_limits(a, (unsigned)target);
		struct answer yes = op->yes;
		struct charges set = { .n = 0 };

		admit_destination(c, t, &set);
		limits_ask(c, &who, &set, 0, &yes);
		if (yes.limit == 0 && sources_pick(c, &who, t, sc)) {
			op->target = (unsigned)target;
			op->source = sc->source;
			op->worker = sc->worker;
			for (uint32_t k = 0; k < set.n; k++)
				charges_add(&op->set, set.of[k]);
			admit_connection_source(c, v->qi, sc->source, &op->set);
			admit_mx(c, t, sc->source, &op->set);
			if (sc->within < op->yes.within)
				op->yes.within = sc->within;
			return true;
		}
		if (yes.limit && skip == 0) {
			sc->no = yes;
			sc->what = SOURCE_NO_LIMIT;
		}
		/* Another address of the same preference may have room. */
		if (!t || target >= 64 || (yes.limit == 0 && t->mx_limit == 0))
			break;
		skip |= 1ull << target;
		target = targets_pick(c, a, v->s, skip);
		if (target < 0 || a->targets[target].preference != best)
			break;
	}
	return false;
}

/* No source IP of the virtual MTA can be used now. */
static enum core_wait
wait_for_source(struct core *c, struct visit *v, const struct source_choice *sc)
{
	uint32_t vmta = (uint32_t)v->q->vmta;
	enum core_wait wait = CORE_WAIT_SOURCES;
	enum refusal refusal = REFUSAL_NONE;

	if (sc->what == SOURCE_NO_LIMIT)
		return wait_for_limit(c, v, &sc->no);
	if (sc->no.limit) {
		v->limit = sc->no.limit;
		refusal = REFUSAL_LIMIT;
		wait = c->limits[sc->no.limit].rate ? CORE_WAIT_RATE : CORE_WAIT_CONNECTIONS;
	}
	wake_at(v, sc->own_when);
	v->q->until = sc->own_when < sc->when ? sc->own_when : sc->when;
	if (sc->what == SOURCE_NO_OWN) {
		v->refusal = refusal;
		return wait;
	}
	if (sc->full != WORKERS_MAX) {
		wake_at(v, sc->when);
		return wait_in_line(v, LINE_CONNS, sc->full, REFUSAL_DESCRIPTORS,
				    CORE_WAIT_CONNECTIONS);
	}
	wait_in_line(v, LINE_SOURCES, vmta, refusal, wait);
	v->line_wake = sc->when;
	return wait;
}

/* What stands against opening one more connection; opens it when nothing does (CORE_WAIT_NONE). */
static enum core_wait
try_open(struct core *c, struct visit *v, bool *opened)
{
	struct active *a = v->a;
	uint64_t now = c->now.boot_us;
	struct opening op = { .yes = ANSWER_YES };
	struct asker who = asker_of(c, v);
	struct source_choice sc;
	int target;

	*opened = false;
	if (v->q->vmta < 0)
		return wait_until(v, NEVER, REFUSAL_NO_VMTA, CORE_WAIT_SOURCES);
	if (targets_round_over(c, v->qi)) {
		v->again = true;
		return CORE_WAIT_RETRY;
	}
	if (a->n_conns >= limits_queue_out(c, v->qi)) {
		a->out_refused++;
		return wait_until(v, NEVER, REFUSAL_MAX_SMTP_OUT, CORE_WAIT_CONNECTIONS);
	}
	if (!targets_route_valid(c, a))
		return ask(c, v);
	target = targets_pick(c, a, v->s, 0);
	if (target < 0)
		return wait_until(v, targets_again_at(a, v->s), REFUSAL_TARGETS,
				  CORE_WAIT_CONNECTIONS);
	/* Nothing is known of the hosts yet: not all connections at once. */
	if (a->n_idle + a->n_busy == 0 && a->n_opening >= v->s->mx_connection_attempts &&
	    a->n_opening > 0)
		return wait_until(v, NEVER, REFUSAL_ATTEMPTS, CORE_WAIT_CONNECTIONS);
	if (a->open_hold > now)
		return wait_until(v, a->open_hold, REFUSAL_HANDED_BACK, CORE_WAIT_CONNECTIONS);
	if (a->last_open && a->last_open + v->s->smtp_out_rampup_interval_us > now)
		return wait_until(v, a->last_open + v->s->smtp_out_rampup_interval_us,
				  REFUSAL_RAMPUP, CORE_WAIT_CONNECTIONS);
	admit_connection(c, v->qi, &op.set);
	limits_ask(c, &who, &op.set, 0, &op.yes);
	if (op.yes.limit)
		return wait_for_limit(c, v, &op.yes);
	if (!choose(c, v, &op, &sc, target))
		return wait_for_source(c, v, &sc);
	sources_took(c, (uint32_t)v->q->vmta, &a->source_turn, &sc);
	open_one(c, v, &op);
	if (v->turn && c->lines[v->turn].kind != LINE_ROOM && connects_from(c, v->turn))
		use_turn(c, v); /* one at a turn: others wait too */
	else if (v->turn == 0 && v->q->line && c->lines[v->q->line].kind == LINE_CONNS)
		lines_leave(c, v->qi);
	*opened = true;
	return CORE_WAIT_NONE;
}

static bool
has_to_end(const struct core *c, const struct visit *v, const struct conn *cn)
{
	/* max-smtp-out may have been lowered. */
	if (v->a->n_opening + v->a->n_idle + v->a->n_busy > limits_queue_out(c, v->qi))
		return true;
	if (v->s->max_errors_per_connection && cn->n_errors >= v->s->max_errors_per_connection)
		return true;
	return cn->retired || cn->yields || cn->n_messages >= v->s->max_msg_per_connection ||
	       !targets_has(v->a, cn) || sources_leaving(c, cn->source);
}

/* What came of the search for an idle connection. */
struct idle_choice {
	uint32_t conn;    /* CORE_NONE: none */
	unsigned full;    /* a worker whose claim table is full, WORKERS_MAX: none */
	uint32_t blocked; /* so many come from source IPs that have no room for a message */
	uint64_t when;    /* one of those has room */
	bool shared;      /* it is a limit that other queues share */
	uint32_t limit;
};

/* Whether the source IP of the connection has room for the message; its limits join the grant. */
static bool
source_has_room(struct core *c, struct visit *v, struct grant *g, uint32_t source,
		struct idle_choice *ic)
{
	struct asker who = asker_of(c, v);
	struct charges set = { .n = 0 };
	struct answer a = g->yes;

	admit_message_source(c, v->qi, source, &set);
	limits_ask(c, &who, &set, g->bytes, &a);
	if (a.limit) {
		ic->blocked++;
		if (ic->limit == 0 || a.when < ic->when) {
			ic->when = a.when;
			ic->limit = a.limit;
		}
		ic->shared = ic->shared || c->limits[a.limit].scope == CORE_SCOPE_SOURCE;
		return false;
	}
	for (uint32_t k = 0; k < set.n; k++)
		charges_add(&g->set, set.of[k]);
	g->yes = a;
	return true;
}

/* The idle connection to use next: the most recently used one that may be used. Those that have to
 * end are closed. */
static void
choose_idle(struct core *c, struct visit *v, struct grant *g, struct idle_choice *ic)
{
	uint32_t next, last = CORE_NONE;

	*ic = (struct idle_choice){ .conn = CORE_NONE, .full = WORKERS_MAX, .when = NEVER };
	for (uint32_t i = v->a->idle.head; i != CORE_NONE; i = next) {
		struct conn *cn = &c->conns[i];

		next = cn->next;
		if (has_to_end(c, v, cn)) {
			conns_close(c, i);
			continue;
		}
		if (c->workers[cn->worker].full) {
			ic->full = cn->worker;
			continue;
		}
		if (cn->source == last) {
			ic->blocked++;
			continue;
		}
		if (source_has_room(c, v, g, cn->source, ic)) {
			ic->conn = i;
			return;
		}
		last = cn->source;
	}
}

/* All idle connections come from source IPs that have no room, and no other may be opened. */
static enum core_wait
wait_for_sender(struct visit *v, const struct idle_choice *ic)
{
	enum core_wait wait = CORE_WAIT_RATE;

	v->limit = ic->limit;
	v->q->until = ic->when;
	if (!ic->shared)
		return wait_until(v, ic->when, REFUSAL_LIMIT, wait);
	wait_in_line(v, LINE_SENDERS, (uint32_t)v->q->vmta, REFUSAL_LIMIT, wait);
	v->line_wake = ic->when;
	return wait;
}

/* None may be opened, says `w`, and the idle ones have no room. */
static enum core_wait
wait_blocked(struct core *c, struct visit *v, const struct idle_choice *ic, enum core_wait w)
{
	struct asker who = asker_of(c, v);
	struct source_choice sc;

	if (w == CORE_WAIT_DNS || w == CORE_WAIT_RETRY || v->q->vmta < 0)
		return w;
	if (v->line == LINE_LIMIT) {
		wake_at(v, ic->when);
		return w;
	}
	/* Another source IP has room, but its connections take all there may be. */
	if (v->refusal == REFUSAL_MAX_SMTP_OUT && ic->when > c->now.boot_us + RATE_SOON_US &&
	    v->a->n_conns == v->a->n_idle + v->a->n_busy && sources_pick(c, &who, NULL, &sc) &&
	    sc.source != c->conns[v->a->idle.tail].source) {
		conns_close(c, v->a->idle.tail);
		return w;
	}
	return wait_for_sender(v, ic);
}

/* A message went out on a connection for which no room was kept: then one is kept too much. */
static void
keep_promise(struct core *c, struct visit *v)
{
	for (uint32_t i = v->a->idle.tail; i != CORE_NONE; i = c->conns[i].prev) {
		if (c->conns[i].promises[0] == 0)
			continue;
		limits_promise_over(c, &c->conns[i]);
		return;
	}
}

/* Hands entries to idle connections; *go_on: what stands against it is the want of a connection. */
static enum core_wait
grant_all(struct core *c, struct visit *v, struct idle_choice *ic, uint64_t *room, bool *go_on)
{
	struct queue *q = v->q;

	*go_on = false;
	while (q->n[PLACE_READY] > 0) {
		struct grant g = { .qi = v->qi, .yes = ANSWER_YES };
		struct asker who = asker_of(c, v);
		enum granted done;
		bool kept;

		g.e = admit_entry(c, &who, &g.yes);
		if (g.e == CORE_NONE)
			return wait_for_limit(c, v, &g.yes);
		g.bytes = admit_bytes(c, g.e);
		admit_message(c, v->qi, &g.set);
		admit_message_entry(c, g.e, &g.set);
		limits_ask(c, &who, &g.set, g.bytes, &g.yes);
		if (g.yes.limit)
			return wait_for_limit(c, v, &g.yes);
		/* While others wait a turn is for one transaction. */
		*room = g.yes.crowded ? 1 : g.yes.room;
		if (v->left == 0) {
			v->again = true;
			return CORE_WAIT_NONE;
		}
		choose_idle(c, v, &g, ic);
		if (ic->conn == CORE_NONE && ic->full != WORKERS_MAX)
			return wait_in_line(v, LINE_ROOM, ic->full, REFUSAL_CLAIM_TABLE,
					    CORE_WAIT_CONNECTIONS);
		if (ic->conn == CORE_NONE)
			break;
		g.conn = ic->conn;
		kept = c->conns[g.conn].promises[0] != 0;
		done = grants_make(c, &g);
		if (done != GRANT_FULL)
			v->left--;
		if (done != GRANTED)
			continue;
		if (!kept && v->a->n_promised > 0)
			keep_promise(c, v);
		/* One recipient for each turn: what is more is paid in turns. */
		if (g.yes.crowded && v->a->debt < (int32_t)g.n_rcpts - 1)
			v->a->debt = (int32_t)g.n_rcpts - 1;
		if (v->turn && grants_from(c, v->turn))
			use_turn(c, v);
		v->a->owed[0] = v->a->owed[1] = 0;
	}
	*go_on = true;
	return CORE_WAIT_NONE;
}

/* Hands entries to idle connections and opens new ones, until something stands against it. */
static enum core_wait
hand_out(struct core *c, struct visit *v)
{
	struct queue *q = v->q;
	struct active *a = v->a;
	struct idle_choice ic = { .conn = CORE_NONE };
	uint64_t room = UINT64_MAX;
	bool opened = true, go_on;
	enum core_wait w = grant_all(c, v, &ic, &room, &go_on);

	if (!go_on)
		return w;
	while (opened && a->n_opening + a->n_idle - ic.blocked <
				 (q->n[PLACE_READY] < room ? q->n[PLACE_READY] : room)) {
		if (v->left == 0) {
			v->again = true;
			return CORE_WAIT_NONE;
		}
		w = try_open(c, v, &opened);
		if (opened)
			continue;
		if (ic.blocked > 0 && a->n_opening == 0 && !v->again)
			return wait_blocked(c, v, &ic, w);
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
	if (q->doom_left > 0 || q->moving)
		return CORE_WAIT_NONE;
	if (q->retry_at > c->now.boot_us)
		return wait_until(v, q->retry_at, REFUSAL_NONE,
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
		return wait_until(v, us_of_seconds(entries_due(c, q)), REFUSAL_NONE,
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
	    w == CORE_WAIT_DNS)
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
		bool wanted = limits_wanted(c, &cn->charges) || c->workers[cn->worker].conns;

		prev = cn->prev;
		if (needs_idle(c, v, w, cn, wanted)) {
			if (v->line == LINE_LIMIT || v->line == LINE_SENDERS)
				wake_at(v, cn->since + RATE_IDLE_US);
		} else if (keep && !wanted && cn->since + keep > now && !has_to_end(c, v, cn)) {
			wake_at(v, cn->since + keep);
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
