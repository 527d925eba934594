#include "scheduler/core/admit.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/pump_impl.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

/* The line is one for messages. */
static bool
grants_from(const struct core *c, uint32_t line)
{
	const struct line *l = &c->lines[line];
	const struct limit *li = &c->limits[l->of];

	if (l->kind != LINE_LIMIT)
		return l->kind == LINE_SENDERS;
	return li->measure == CORE_MEASURE_MSG || li->measure == CORE_MEASURE_VOLUME ||
	       (li->measure == CORE_MEASURE_SMTP_OUT &&
		(li->scope == CORE_SCOPE_JOB || li->scope == CORE_SCOPE_SENDER));
}

bool
pump_are_too_many(const struct core *c, const struct visit *v)
{
	return v->a->n_opening + v->a->n_idle + v->a->n_busy > limits_queue_out(c, v->qi);
}

bool
pump_has_to_end(const struct core *c, const struct visit *v, const struct conn *cn)
{
	if (pump_are_too_many(c, v))
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
source_has_room(struct core *c, const struct asker *who, struct grant *g, uint32_t source,
		struct idle_choice *ic)
{
	struct charges set;
	struct answer a = g->yes;

	charges_none(&set);
	admit_message_source(c, g->qi, source, &set);
	limits_ask(c, who, &set, g->bytes, &a);
	if (a.limit) {
		ic->blocked++;
		if (ic->limit == 0 || a.when < ic->when) {
			ic->when = a.when;
			ic->limit = a.limit;
		}
		ic->shared = ic->shared || c->limits[a.limit].scope == CORE_SCOPE_SOURCE;
		return false;
	}
	charges_join(&g->set, &set);
	g->yes = a;
	return true;
}

/* The idle connection to use next: the most recently used one that may be used. Those that have to
 * end are closed. */
static void
choose_idle(struct core *c, struct visit *v, const struct asker *who, struct grant *g,
	    struct idle_choice *ic)
{
	uint32_t next, last = CORE_NONE;

	*ic = (struct idle_choice){ .conn = CORE_NONE, .full = WORKERS_MAX, .when = NEVER };
	for (uint32_t i = v->a->idle.head; i != CORE_NONE; i = next) {
		struct conn *cn = &c->conns[i];

		next = cn->next;
		if (pump_has_to_end(c, v, cn)) {
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
		if (source_has_room(c, who, g, cn->source, ic)) {
			ic->conn = i;
			return;
		}
		last = cn->source;
	}
}

/* All idle connections come from source IPs that have no room, and no other may be opened. It is told
 * of what ends first: another source IP may have room for a connection before one of these has. */
static enum core_wait
wait_for_sender(struct visit *v, const struct idle_choice *ic)
{
	uint32_t limit = v->limit;
	uint64_t until = v->q->until;
	bool earlier = v->refusal == REFUSAL_LIMIT && until > 0 && until < ic->when;

	if (ic->shared) {
		pump_wait_in_line(v, LINE_SENDERS, (uint32_t)v->q->vmta, REFUSAL_LIMIT,
				  CORE_WAIT_RATE);
		v->line_wake = ic->when;
	} else {
		pump_wait_until(v, ic->when, REFUSAL_LIMIT, CORE_WAIT_RATE);
	}
	v->limit = earlier ? limit : ic->limit;
	v->q->until = earlier ? until : ic->when;
	return CORE_WAIT_RATE;
}

/* None may be opened, says `w`, and the idle ones have no room. */
static enum core_wait
wait_blocked(struct core *c, struct visit *v, const struct idle_choice *ic, enum core_wait w)
{
	struct asker who = pump_asker(c, v);
	struct source_choice sc;
	uint32_t surplus;

	if (w == CORE_WAIT_DNS || w == CORE_WAIT_RETRY || v->q->vmta < 0)
		return w;
	if (v->line == LINE_LIMIT) {
		pump_wake_at(v, ic->when);
		return w;
	}
	/* Another source IP has room, but its connections take all there may be. */
	if (v->refusal != REFUSAL_MAX_SMTP_OUT || v->a->n_conns != v->a->n_idle + v->a->n_busy)
		return wait_for_sender(v, ic);
	if (ic->when > c->now.boot_us + RATE_SOON_US && sources_pick(c, &who, NULL, &sc) &&
	    sc.source != c->conns[v->a->idle.tail].source) {
		conns_close(c, v->a->idle.tail);
		return w;
	}
	surplus = v->a->n_busy == 0 ? sources_surplus(c, &who) : CORE_NONE;
	if (surplus != CORE_NONE) {
		conns_close(c, surplus);
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

/* No idle connection is left, and the limits would say of the next message what they said of the
 * one that was granted: it is like that one, and what they have room for is still more than makes a
 * difference. */
static bool
same_again(const struct core *c, const struct visit *v, const struct asker *who,
	   const struct grant *g)
{
	uint32_t e = v->q->ready.head;

	return !g->yes.near && v->a->idle.head == CORE_NONE && e != CORE_NONE &&
	       c->entries[e].tag == c->entries[g->e].tag && admit_bytes(c, e) <= g->bytes &&
	       g->n_rcpts + v->q->n[PLACE_READY] <= who->want;
}

enum core_wait
pump_wait_for_probe(struct core *c, struct visit *v)
{
	uint64_t at;

	if (!v->q->probing || v->q->n[PLACE_READY] == 0)
		return CORE_WAIT_NONE;
	at = backoff_probe_at(c, v->qi);
	if (at > c->now.boot_us)
		return pump_wait_until(v, at, REFUSAL_NONE, CORE_WAIT_BACKOFF);
	if (!v->q->retry_is_dns)
		v->q->retry_at = 0;
	return CORE_WAIT_NONE;
}

/* The next message and the connection it goes on, if there is one, when it is known that nothing is
 * in their way. */
static bool
choose_known(struct core *c, const struct visit *v, const struct asker *who, struct grant *g,
	     struct idle_choice *ic)
{
	uint32_t i, source, e = v->q->ready.head;
	const struct pass *p;
	uint64_t room;

	while ((i = v->a->idle.head) != CORE_NONE && pump_has_to_end(c, v, &c->conns[i]))
		conns_close(c, i);
	if (i != CORE_NONE && c->workers[c->conns[i].worker].full)
		return false;
	source = i == CORE_NONE ? sources_next(c, v->qi) : c->conns[i].source;
	p = passes_find(c, who, source, &c->tags[c->entries[e].tag]);
	room = p ? passes_counts_room(c, p->message) : 0;
	if (room == 0)
		return false;
	*ic = (struct idle_choice){ .conn = i, .full = WORKERS_MAX, .when = NEVER };
	g->e = e;
	g->bytes = who->bytes;
	g->known = p->message;
	g->yes.uses = room;
	g->yes.near = room < 2;
	g->yes.within = p->message_within;
	return true;
}

/* The same by asking all limits; what is to be waited for when one refuses, or the connections. */
static bool
choose_asked(struct core *c, struct visit *v, const struct asker *who, struct grant *g,
	     enum core_wait *w)
{
	struct charges queue;

	charges_none(&queue);
	g->e = admit_entry(c, who, &g->set, &g->yes);
	if (g->e == CORE_NONE) {
		*w = pump_wait_for_limit(c, v, &g->yes);
		return false;
	}
	g->bytes = admit_bytes(c, g->e);
	admit_message(c, v->qi, &queue);
	limits_ask(c, who, &queue, g->bytes, &g->yes);
	if (g->yes.limit) {
		*w = pump_wait_for_limit(c, v, &g->yes);
		return false;
	}
	charges_join(&g->set, &queue);
	return true;
}

/* Hands entries to idle connections; *go_on: what stands against it is the want of a connection. */
static enum core_wait
grant_all(struct core *c, struct visit *v, struct idle_choice *ic, uint64_t *room, bool *go_on)
{
	struct queue *q = v->q;
	enum core_wait w;

	*go_on = false;
	while (q->n[PLACE_READY] > 0) {
		struct asker who = pump_asker(c, v);
		enum granted done;
		struct grant g;
		bool kept, known;

		if ((w = pump_wait_for_probe(c, v)) != CORE_WAIT_NONE)
			return w;
		grants_begin(&g, v->qi);
		known = choose_known(c, v, &who, &g, ic);
		if (!known && !choose_asked(c, v, &who, &g, &w))
			return w;
		/* While others wait a turn is for one transaction. */
		*room = g.yes.crowded ? 1 : g.yes.room < g.yes.uses ? g.yes.room : g.yes.uses;
		if (v->left == 0) {
			v->again = true;
			return CORE_WAIT_NONE;
		}
		if (!known)
			choose_idle(c, v, &who, &g, ic);
		if (ic->conn == CORE_NONE && ic->full != WORKERS_MAX)
			return pump_wait_in_line(v, LINE_ROOM, ic->full, REFUSAL_CLAIM_TABLE,
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
		if (!known && !g.yes.near)
			passes_learn(c, &who, c->conns[g.conn].source,
				     &c->tags[c->entries[g.e].tag]);
		if (!kept && v->a->n_promised > 0)
			keep_promise(c, v);
		/* One recipient for each turn: what is more is paid in turns. */
		if (g.yes.crowded && v->a->debt < (int32_t)g.n_rcpts - 1)
			v->a->debt = (int32_t)g.n_rcpts - 1;
		if (v->turn && grants_from(c, v->turn))
			pump_use_turn(c, v);
		v->a->owed[0] = v->a->owed[1] = 0;
		if (same_again(c, v, &who, &g)) {
			*room -= *room != UINT64_MAX;
			*ic = (struct idle_choice){ .conn = CORE_NONE, .full = WORKERS_MAX };
			break;
		}
	}
	*go_on = true;
	return CORE_WAIT_NONE;
}

enum core_wait
pump_hand_out(struct core *c, struct visit *v)
{
	struct queue *q = v->q;
	struct active *a = v->a;
	struct idle_choice ic = { .conn = CORE_NONE };
	uint64_t room = UINT64_MAX;
	bool opened = true, go_on;
	enum core_wait w = grant_all(c, v, &ic, &room, &go_on);

	if (!go_on)
		return w;
	if (q->probing)
		room = 1;
	while (opened && a->n_opening + a->n_idle - ic.blocked <
				 (q->n[PLACE_READY] < room ? q->n[PLACE_READY] : room)) {
		if (v->left == 0) {
			v->again = true;
			return CORE_WAIT_NONE;
		}
		w = pump_try_open(c, v, &opened);
		if (opened)
			continue;
		if (ic.blocked > 0 && a->n_opening == 0 && !v->again)
			return wait_blocked(c, v, &ic, w);
		return w;
	}
	return CORE_WAIT_NONE;
}
