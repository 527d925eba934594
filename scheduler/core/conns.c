#include "scheduler/core/conns.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
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
start(struct core *c, uint32_t number, uint32_t qi, unsigned worker, uint32_t source)
{
	struct conn *cn = &c->conns[number];

	free_list_take(c, number);
	memset(cn, 0, sizeof(*cn));
	cn->state = CONN_OPENING;
	cn->queue = qi;
	cn->worker = (uint8_t)worker;
	cn->source = source;
	cn->claim = cn->next = cn->prev = CORE_NONE;
	cn->stamp = c->now.boot_us;
	c->n_conns++;
	c->sources[source].n_conns++;
	c->workers[worker].n_conns++;
	pump_active(c, qi)->n_conns++;
	pump_active(c, qi)->n_opening++;
}

uint32_t
conns_new(struct core *c, uint32_t qi, unsigned worker, uint32_t source)
{
	/* A little reserve, so that numbers rest before they are used again. */
	if (c->free_conns.head == CORE_NONE || c->n_conns + 64 > c->n_conns_made)
		make_up_to(c, c->n_conns_made);
	if (c->free_conns.head == CORE_NONE)
		return CORE_NONE;

	uint32_t number = c->free_conns.head;

	start(c, number, qi, worker, source);
	return number;
}

bool
conns_adopt(struct core *c, uint32_t number, uint32_t qi, unsigned worker, uint32_t source,
	    enum conn_state state)
{
	if (conns_get(c, number) || !make_up_to(c, number))
		return false;
	start(c, number, qi, worker, source);
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

	if (cn->state == CONN_IDLE)
		idle_remove(c, a, number);
	--*counter(c, a, cn->state);
	c->workers[cn->worker].n_closing -= cn->state == CONN_CLOSING;
	cn->state = (uint8_t)to;
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

void
conns_close_resting(struct core *c, unsigned worker)
{
	const struct worker *w = worker == WORKERS_MAX ? NULL : &c->workers[worker];

	/* As many as wait for one end already. */
	if (w ? w->n_closing >= w->n_conns_line : c->n_closing >= c->n_total_line + c->n_conns_line)
		return;
	for (uint32_t i = c->resting.head; i != CORE_NONE; i = c->conns[i].rest_next) {
		const struct queue *q = &c->queues[c->conns[i].queue];

		if (worker != WORKERS_MAX && c->conns[i].worker != worker)
			continue;
		if (!q->in_run && q->line != LINE_ROOM &&
		    (q->wait != CORE_WAIT_RATE || q->until > c->now.boot_us + RATE_SOON_US)) {
			run_push(c, c->conns[i].queue);
			conns_close(c, i);
			return;
		}
	}
}

void
conns_close(struct core *c, uint32_t number)
{
	conns_set(c, number, CONN_CLOSING);
	c->ops.close(c->ctx, number, c->conns[number].worker);
}
