#include "scheduler/core/pump_impl.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/admit.h"
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
		pump_wake_at(v, us_of_seconds(due));
}

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
		if (source_has_room(c, who, g, cn->source, ic)) {
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
		return pump_wait_until(v, ic->when, REFUSAL_LIMIT, wait);
	pump_wait_in_line(v, LINE_SENDERS, (uint32_t)v->q->vmta, REFUSAL_LIMIT, wait);
	v->line_wake = ic->when;
	return wait;
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

/* The next message and the connection it goes on, if there is one, when it is known that nothing is
 * in their way. */
static bool
choose_known(struct core *c, const struct visit *v, const struct asker *who, struct grant *g,
	     struct idle_choice *ic)
{
	uint32_t i, source, e = v->q->ready.head;
	const struct pass *p;
	uint64_t room;

	while ((i = v->a->idle.head) != CORE_NONE && has_to_end(c, v, &c->conns[i]))
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
		w = pump_try_open(c, v, &opened);
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
		return hand_out(c, v);
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
		bool wanted =
			limits_wanted(c, sets_of(c, cn->charges)) || c->workers[cn->worker].conns;

		prev = cn->prev;
		if (cn->yields) {
			conns_close(c, i);
		} else if (needs_idle(c, v, w, cn, wanted)) {
			if (v->line == LINE_LIMIT || v->line == LINE_SENDERS)
				pump_wake_at(v, cn->since + RATE_IDLE_US);
		} else if (keep && !wanted && cn->since + keep > now && !has_to_end(c, v, cn)) {
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
