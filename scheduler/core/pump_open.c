#include "scheduler/core/admit.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/pump_impl.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

/* A lookup, or a place in the line for one. */
static enum core_wait
ask(struct core *c, struct visit *v)
{
	struct active *a = v->a;

	if (a->asked_at && a->asked_at + ASK_AGAIN_US > c->now.boot_us) {
		pump_wake_at(v, a->asked_at + ASK_AGAIN_US);
		return CORE_WAIT_DNS;
	}
	if (!a->asked_at) {
		if (c->n_asks >= DNS_INFLIGHT_MAX ||
		    (!(v->turn && v->turn == c->asks_line) &&
		     lines_ahead(c, c->asks_line, v->qi, v->s->queue_priority)))
			return pump_wait_in_line(v, LINE_ASKS, 0, REFUSAL_NONE, CORE_WAIT_DNS);
		c->n_asks++;
		if (v->turn && v->turn == c->asks_line)
			v->turn = 0;
	}
	a->asked_at = c->now.boot_us ? c->now.boot_us : 1;
	c->ops.ask_route(c->ctx, v->q->number, slice_of(v->q->name, v->q->name_len));
	v->left--;
	pump_wake_at(v, a->asked_at + ASK_AGAIN_US);
	return CORE_WAIT_DNS;
}

/* The line is one for connections. */
static bool
connects_from(const struct core *c, uint32_t line)
{
	const struct line *l = &c->lines[line];
	unsigned m = l->kind == LINE_LIMIT ? c->limits[l->of].measure : CORE_MEASURE_MSG;

	return l->kind == LINE_SOURCES || l->kind == LINE_CONNS || m == CORE_MEASURE_CONNECT ||
	       m == CORE_MEASURE_SMTP_OUT;
}

/* A connection as it is to be opened, and what it is charged to. */
struct opening {
	uint32_t e; /* for whose job and sender */
	unsigned target;
	uint32_t source;
	unsigned worker;
	uint32_t known; /* not 0: what it is charged to is this set */
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
	uint32_t set = op->known ? sets_hold(c, op->known) : sets_make(c, &op->set);
	uint32_t number = conns_new(c, v->qi, op->worker, op->source, set);
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

	if (op->e != CORE_NONE) {
		o.job = c->tags[c->entries[op->e].tag].job;
		o.sender_domain = c->tags[c->entries[op->e].tag].sender_domain;
	}
	cn->route_slot = a->route_slot;
	cn->route_generation = a->route_generation;
	cn->target = (uint16_t)op->target;
	cn->target_id = a->targets[op->target].id;
	if (t)
		cn->limits = *t;
	if (!op->known) /* else there is room for one more of each connection */
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
	struct asker who = pump_asker(c, v);
	uint64_t skip = 0;
	unsigned best = a->targets[target].preference;

	for (unsigned n = 0; n < a->n_targets; n++) {
		const struct core_target_limits *t = target_limits(a, (unsigned)target);
		struct answer yes = op->yes;
		struct charges set;

		charges_none(&set);
		admit_destination(c, t, &set);
		limits_ask(c, &who, &set, 0, &yes);
		if (yes.limit == 0 && sources_pick(c, &who, t, sc)) {
			op->target = (unsigned)target;
			op->source = sc->source;
			op->worker = sc->worker;
			charges_join(&op->set, &set);
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
		return pump_wait_for_limit(c, v, &sc->no);
	if (sc->no.limit) {
		v->limit = sc->no.limit;
		refusal = REFUSAL_LIMIT;
		wait = c->limits[sc->no.limit].rate ? CORE_WAIT_RATE : CORE_WAIT_CONNECTIONS;
	}
	pump_wake_at(v, sc->own_when);
	v->q->until = sc->own_when < sc->when ? sc->own_when : sc->when;
	if (sc->what == SOURCE_NO_OWN) {
		v->refusal = refusal;
		return wait;
	}
	if (sc->full != WORKERS_MAX) {
		pump_wake_at(v, sc->when);
		return pump_wait_in_line(v, LINE_CONNS, sc->full, REFUSAL_DESCRIPTORS,
					 CORE_WAIT_CONNECTIONS);
	}
	pump_wait_in_line(v, LINE_SOURCES, vmta, refusal, wait);
	v->line_wake = sc->when;
	return wait;
}

/* When it may be more connections again, that nobody has to end. */
static uint64_t
most_until(const struct core *c, const struct active *a)
{
	if (a->most_conns == 0 || a->most_until <= c->now.boot_us)
		return NEVER;
	return a->most_until;
}

/* The same, when it is known that no limit refuses. */
static bool
choose_known(struct core *c, const struct visit *v, const struct asker *who, struct opening *op,
	     struct source_choice *sc, int target)
{
	const struct core_target_limits *t = target_limits(v->a, (unsigned)target);
	uint32_t e = v->q->ready.head;
	const struct pass *p;

	if (e == CORE_NONE || (t && (t->ip_limit || t->mx_limit)))
		return false;
	p = passes_find(c, who, sources_next(c, v->qi), &c->tags[c->entries[e].tag]);
	if (!p || passes_counts_room(c, p->connection) == 0 || !sources_take_next(c, who, sc))
		return false;
	op->known = p->connection;
	op->e = e;
	op->target = (unsigned)target;
	op->source = sc->source;
	op->worker = sc->worker;
	op->yes.within = p->connection_within;
	return true;
}

/* So many connections a queue begins with that may learn its rate; one more for each two recipients
 * that were taken: who takes less than the limit says then refuses only so much of it. */
#define LEARNS_FIRST 4

static bool
begins(const struct active *a, const struct conf_queue *s)
{
	return s->learns && a->n_conns >= LEARNS_FIRST && a->n_conns >= a->delivered / 2;
}

/* What stands against opening one more connection; opens it when nothing does (CORE_WAIT_NONE). */
enum core_wait
pump_try_open(struct core *c, struct visit *v, bool *opened)
{
	struct active *a = v->a;
	uint64_t now = c->now.boot_us;
	struct opening op = { .yes = ANSWER_YES };
	struct asker who = pump_asker(c, v);
	struct source_choice sc;
	int target;

	*opened = false;
	if (v->q->vmta < 0)
		return pump_wait_until(v, NEVER, REFUSAL_NO_VMTA, CORE_WAIT_SOURCES);
	if (targets_round_over(c, v->qi)) {
		v->again = true;
		return CORE_WAIT_RETRY;
	}
	if (a->n_conns >= limits_queue_out(c, v->qi)) {
		a->out_refused++;
		return pump_wait_until(v, most_until(c, a), REFUSAL_MAX_SMTP_OUT,
				       CORE_WAIT_CONNECTIONS);
	}
	if (!targets_route_valid(c, a))
		return ask(c, v);
	target = targets_pick(c, a, v->s, 0);
	if (target < 0)
		return pump_wait_until(v, targets_again_at(a, v->s), REFUSAL_TARGETS,
				       CORE_WAIT_CONNECTIONS);
	/* Little is known of the hosts yet: not all connections at once. */
	if ((a->n_idle + a->n_busy == 0 && a->n_opening >= v->s->mx_connection_attempts &&
	     a->n_opening > 0) ||
	    begins(a, v->s))
		return pump_wait_until(v, NEVER, REFUSAL_ATTEMPTS, CORE_WAIT_CONNECTIONS);
	if (a->open_hold > now)
		return pump_wait_until(v, a->open_hold, REFUSAL_HANDED_BACK, CORE_WAIT_CONNECTIONS);
	if (a->last_open && a->last_open + v->s->smtp_out_rampup_interval_us > now)
		return pump_wait_until(v, a->last_open + v->s->smtp_out_rampup_interval_us,
				       REFUSAL_RAMPUP, CORE_WAIT_CONNECTIONS);
	if (!choose_known(c, v, &who, &op, &sc, target)) {
		admit_connection(c, v->qi, &op.set);
		limits_ask(c, &who, &op.set, 0, &op.yes);
		if (op.yes.limit)
			return pump_wait_for_limit(c, v, &op.yes);
		op.e = admit_connection_entry(c, &who, &op.set, &op.yes);
		if (op.yes.limit)
			return pump_wait_for_limit(c, v, &op.yes);
		if (!choose(c, v, &op, &sc, target))
			return wait_for_source(c, v, &sc);
	}
	sources_took(c, (uint32_t)v->q->vmta, &a->source_turn, &sc);
	open_one(c, v, &op);
	if (!op.known && !op.yes.near && op.e != CORE_NONE)
		passes_learn(c, &who, op.source, &c->tags[c->entries[op.e].tag]);
	if (v->turn && c->lines[v->turn].kind != LINE_ROOM && connects_from(c, v->turn))
		pump_use_turn(c, v); /* one at a turn: others wait too */
	else if (v->turn == 0 && v->q->line && c->lines[v->q->line].kind == LINE_CONNS)
		lines_leave(c, v->qi);
	*opened = true;
	return CORE_WAIT_NONE;
}
