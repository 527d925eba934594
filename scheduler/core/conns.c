#include "scheduler/core/conns.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"

struct conn *
conns_get(struct core *c, uint32_t number)
{
	if (number >= c->n_conns_made || c->conns[number].state == CONN_FREE)
		return NULL;
	return &c->conns[number];
}

static void
free_list_add(struct core *c, uint32_t number)
{
	struct conn *cn = &c->conns[number];

	/* Used again late: what is still said about the old one then finds it free. */
	cn->state = CONN_FREE;
	cn->next = CORE_NONE;
	cn->prev = c->free_conns.tail;
	if (cn->prev == CORE_NONE)
		c->free_conns.head = number;
	else
		c->conns[cn->prev].next = number;
	c->free_conns.tail = number;
}

static void
free_list_take(struct core *c, uint32_t number)
{
	struct conn *cn = &c->conns[number];

	if (cn->prev == CORE_NONE)
		c->free_conns.head = cn->next;
	else
		c->conns[cn->prev].next = cn->next;
	if (cn->next == CORE_NONE)
		c->free_conns.tail = cn->prev;
	else
		c->conns[cn->next].prev = cn->prev;
}

static bool
make_up_to(struct core *c, uint32_t number)
{
	if (number >= CORE_CONNECTIONS_MAX)
		return false;
	mem_grow((void **)&c->conns, &c->conns_cap, (size_t)number + 1, sizeof(*c->conns));
	while (c->n_conns_made <= number)
		free_list_add(c, c->n_conns_made++);
	return true;
}

static void
start(struct core *c, uint32_t number, uint32_t qi, unsigned worker, uint32_t source, uint32_t set)
{
	struct conn *cn = &c->conns[number];

	free_list_take(c, number);
	memset(cn, 0, sizeof(*cn));
	cn->state = CONN_OPENING;
	cn->queue = qi;
	cn->worker = (uint8_t)worker;
	cn->source = source;
	cn->claim = cn->next = cn->prev = CORE_NONE;
	cn->stamp = cn->opened_at = c->now.boot_us;
	cn->pipelining = 1;
	cn->charges = set;
	limits_charge(c, sets_of(c, set), 1, 0);
	c->n_conns++;
	c->sources[source].n_conns++;
	c->workers[worker].n_conns++;
	pump_active(c, qi)->n_conns++;
	pump_active(c, qi)->n_opening++;
}

uint32_t
conns_new(struct core *c, uint32_t qi, unsigned worker, uint32_t source, uint32_t set)
{
	/* A little reserve, so that numbers rest before they are used again. */
	if (c->free_conns.head == CORE_NONE || c->n_conns + 64 > c->n_conns_made)
		make_up_to(c, c->n_conns_made);
	if (c->free_conns.head == CORE_NONE)
		return CORE_NONE;

	uint32_t number = c->free_conns.head;

	start(c, number, qi, worker, source, set);
	return number;
}

static bool
is_count(const struct core *c, uint32_t limit)
{
	return c->limits[limit].measure == CORE_MEASURE_SMTP_OUT;
}

/* Charges the connection to the counts it falls in now, and goes on with those it was charged to
 * that are still there. */
static void
count_anew(struct core *c, struct conn *cn)
{
	struct charges now = { .n = 0 }, counts = { .n = 0 };
	const struct charges *was;
	uint32_t fresh;

	admit_connection(c, cn->queue, &now);
	admit_connection_source(c, cn->queue, cn->source, &now);
	admit_destination(c, &cn->limits, &now);
	admit_mx(c, &cn->limits, cn->source, &now);
	was = sets_of(c, cn->charges);
	for (uint32_t k = 0; k < was->n; k++) {
		if (c->limits[was->of[k]].owned)
			charges_add(&counts, was->of[k], c->limits[was->of[k]].measure);
	}
	for (uint32_t k = 0; k < now.n; k++) {
		if (is_count(c, now.of[k]) && !charges_has(&counts, now.of[k]))
			charges_add(&counts, now.of[k], CORE_MEASURE_SMTP_OUT);
	}
	limits_charge(c, &counts, 0, 0);
	fresh = sets_make(c, &counts);
	limits_let_go(c, &cn->charges);
	cn->charges = fresh;
}

static bool
is_ending(const struct conn *cn)
{
	return cn->state == CONN_CLOSING || cn->yields;
}

static bool
is_surplus(const struct core *c, const struct conn *cn)
{
	const struct charges *set = sets_of(c, cn->charges);

	for (uint32_t left = set->counts; left; left &= left - 1) {
		const struct limit *l = &c->limits[set->of[__builtin_ctz(left)]];

		if (limit_is_in_force(l) && l->used > l->n + l->ending)
			return true;
	}
	return false;
}

/* It ends with its message. */
static void
yield_later(struct core *c, struct conn *cn)
{
	limits_count_state(c, sets_of(c, cn->charges), 0, 1);
	cn->yields = 1;
}

static void
end_surplus_of(struct core *c, enum conn_state state)
{
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		struct conn *cn = &c->conns[i];

		if (cn->state != state || is_ending(cn) || !is_surplus(c, cn))
			continue;
		yield_later(c, cn);
	}
}

/* A count may have become less than there are connections. */
static void
end_surplus(struct core *c)
{
	uint32_t next;

	for (uint32_t i = c->resting.head; i != CORE_NONE; i = next) {
		next = c->conns[i].rest_next;
		if (!is_surplus(c, &c->conns[i]))
			continue;
		run_push(c, c->conns[i].queue);
		conns_close(c, i);
	}
	end_surplus_of(c, CONN_BUSY);
	end_surplus_of(c, CONN_OPENING);
}

static void
recount(struct core *c, struct conn *cn)
{
	pump_settings(c, cn->queue);
	limits_count_state(c, sets_of(c, cn->charges), -(cn->state == CONN_IDLE), -is_ending(cn));
	count_anew(c, cn);
	limits_count_state(c, sets_of(c, cn->charges), cn->state == CONN_IDLE, is_ending(cn));
}

void
conns_recount(struct core *c)
{
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		if (c->conns[i].state != CONN_FREE)
			recount(c, &c->conns[i]);
	}
	end_surplus(c);
}

void
conns_recount_queue(struct core *c, uint32_t qi)
{
	const struct active *a = c->queues[qi].active;
	uint32_t left = a ? a->n_conns : 0, next;

	for (uint32_t i = 0; left > 0; i++) {
		if (c->conns[i].state == CONN_FREE || c->conns[i].queue != qi)
			continue;
		recount(c, &c->conns[i]);
		left--;
	}
	if (!a || a->n_conns == 0)
		return;
	for (uint32_t i = a->idle.head; i != CORE_NONE; i = next) {
		next = c->conns[i].next;
		if (is_surplus(c, &c->conns[i]))
			conns_close(c, i);
	}
	left = a->n_opening + a->n_busy;
	for (uint32_t i = 0; left > 0; i++) {
		struct conn *cn = &c->conns[i];

		if (cn->queue != qi || (cn->state != CONN_BUSY && cn->state != CONN_OPENING))
			continue;
		left--;
		if (!is_ending(cn) && is_surplus(c, cn))
			yield_later(c, cn);
	}
}

bool
conns_adopt(struct core *c, uint32_t number, uint32_t qi, unsigned worker, uint32_t source,
	    enum conn_state state)
{
	if (conns_get(c, number) || !make_up_to(c, number))
		return false;
	start(c, number, qi, worker, source, 0);
	count_anew(c, &c->conns[number]);
	conns_set(c, number, state);
	return true;
}

static uint32_t *
counter(struct core *c, struct active *a, enum conn_state state)
{
	switch (state) {
	case CONN_OPENING:
		return &a->n_opening;
	case CONN_IDLE:
		return &a->n_idle;
	case CONN_BUSY:
		return &a->n_busy;
	default:
		return &c->n_closing;
	}
}

static void
rest_add(struct core *c, uint32_t number)
{
	struct conn *cn = &c->conns[number];

	cn->rest_next = CORE_NONE;
	cn->rest_prev = c->resting.tail;
	if (cn->rest_prev == CORE_NONE)
		c->resting.head = number;
	else
		c->conns[cn->rest_prev].rest_next = number;
	c->resting.tail = number;
}

static void
rest_remove(struct core *c, uint32_t number)
{
	struct conn *cn = &c->conns[number];

	if (cn->rest_prev == CORE_NONE)
		c->resting.head = cn->rest_next;
	else
		c->conns[cn->rest_prev].rest_next = cn->rest_next;
	if (cn->rest_next == CORE_NONE)
		c->resting.tail = cn->rest_prev;
	else
		c->conns[cn->rest_next].rest_prev = cn->rest_prev;
}

static void
idle_remove(struct core *c, struct active *a, uint32_t number)
{
	struct conn *cn = &c->conns[number];

	rest_remove(c, number);

	if (cn->prev == CORE_NONE)
		a->idle.head = cn->next;
	else
		c->conns[cn->prev].next = cn->next;
	if (cn->next == CORE_NONE)
		a->idle.tail = cn->prev;
	else
		c->conns[cn->next].prev = cn->prev;
	cn->next = cn->prev = CORE_NONE;
}

void
conns_set(struct core *c, uint32_t number, enum conn_state to)
{
	struct conn *cn = &c->conns[number];
	struct active *a = pump_active(c, cn->queue);

	limits_count_state(c, sets_of(c, cn->charges), (to == CONN_IDLE) - (cn->state == CONN_IDLE),
			   !is_ending(cn) && to == CONN_CLOSING);
	if (cn->state == CONN_IDLE)
		idle_remove(c, a, number);
	if (to != CONN_IDLE)
		limits_promise_over(c, cn);
	--*counter(c, a, cn->state);
	c->workers[cn->worker].n_closing -= cn->state == CONN_CLOSING;
	cn->state = (uint8_t)to & 7;
	++*counter(c, a, to);
	c->workers[cn->worker].n_closing += to == CONN_CLOSING;
	if (to != CONN_IDLE)
		return;
	rest_add(c, number);
	cn->since = c->now.boot_us;
	cn->prev = CORE_NONE;
	cn->next = a->idle.head;
	if (cn->next == CORE_NONE)
		a->idle.tail = number;
	else
		c->conns[cn->next].prev = number;
	a->idle.head = number;
}

void
conns_free(struct core *c, uint32_t number)
{
	struct conn *cn = &c->conns[number];
	struct active *a = pump_active(c, cn->queue);

	conns_set(c, number, CONN_CLOSING);
	limits_count_state(c, sets_of(c, cn->charges), 0, -1);
	limits_let_go(c, &cn->charges);
	if (cn->claim != CORE_NONE)
		c->claims[cn->claim].conn = CORE_NONE;
	c->n_closing--;
	c->workers[cn->worker].n_closing--;
	a->n_conns--;
	c->n_conns--;
	c->sources[cn->source].n_conns--;
	c->workers[cn->worker].n_conns--;
	sources_conn_ended(c, cn->worker);
	free_list_add(c, number);
	sources_conn_gone(c, cn->source);
}

/* Idle, and its queue is not about to use it. */
static bool
is_spare(const struct core *c, const struct conn *cn)
{
	const struct queue *q = &c->queues[cn->queue];

	return !q->in_run && (q->line == 0 || c->lines[q->line].kind != LINE_ROOM) &&
	       (q->wait != CORE_WAIT_RATE || q->until > c->now.boot_us + RATE_SOON_US);
}

static bool
close_spare(struct core *c, uint32_t limit)
{
	for (uint32_t i = c->resting.head; i != CORE_NONE; i = c->conns[i].rest_next) {
		if (charges_has(sets_of(c, c->conns[i].charges), limit) &&
		    is_spare(c, &c->conns[i])) {
			run_push(c, c->conns[i].queue);
			conns_close(c, i);
			return true;
		}
	}
	return false;
}

/* The connection of the lowest priority below this one, CORE_NONE. An idle one rather than a busy
 * one. */
static uint32_t
lowest(const struct core *c, uint32_t limit, unsigned priority)
{
	uint32_t best = CORE_NONE;
	unsigned best_rank = priority * 2;

	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		const struct conn *cn = &c->conns[i];
		const struct conf_queue *s;
		unsigned rank;

		if (cn->state == CONN_FREE || is_ending(cn) ||
		    !charges_has(sets_of(c, cn->charges), limit))
			continue;
		s = c->queues[cn->queue].active->settings;
		if (!s || !s->allow_priority_interruption)
			continue;
		rank = s->queue_priority * 2 + (cn->state != CONN_IDLE);
		if (s->queue_priority < priority && rank < best_rank) {
			best = i;
			best_rank = rank;
		}
	}
	return best;
}

static void
have_yield(struct core *c, uint32_t number)
{
	struct conn *cn = &c->conns[number];

	if (cn->state == CONN_IDLE) {
		run_push(c, cn->queue);
		conns_close(c, number);
		return;
	}
	limits_count_state(c, sets_of(c, cn->charges), 0, 1);
	cn->yields = 1;
	if (cn->state == CONN_BUSY && c->ops.interrupt &&
	    c->queues[cn->queue].active->settings->allow_priority_interruption_during_transfer)
		c->ops.interrupt(c->ctx, number, cn->worker);
}

void
conns_make_worker_room(struct core *c, unsigned worker)
{
	const struct worker *w = &c->workers[worker];

	/* As many as wait for one end already. */
	if (!w->conns || w->n_closing >= c->lines[w->conns].n)
		return;
	for (uint32_t i = c->resting.head; i != CORE_NONE; i = c->conns[i].rest_next) {
		if (c->conns[i].worker == worker && is_spare(c, &c->conns[i])) {
			run_push(c, c->conns[i].queue);
			conns_close(c, i);
			return;
		}
	}
}

void
conns_make_room(struct core *c, uint32_t limit, unsigned priority)
{
	const struct limit *l = &c->limits[limit];
	uint32_t best;

	if (!l->line || l->used < l->n || l->ending >= c->lines[l->line].n)
		return;
	if (l->idle > 0 && close_spare(c, limit))
		return;
	/* Only for those of this priority and above, of whom there may be few among many. */
	if (c->lowest_priority >= priority || l->ending >= lines_above(c, l->line, priority - 1))
		return;
	best = lowest(c, limit, priority);
	if (best != CORE_NONE)
		have_yield(c, best);
}

void
conns_close(struct core *c, uint32_t number)
{
	conns_set(c, number, CONN_CLOSING);
	c->ops.close(c->ctx, number, c->conns[number].worker);
}
