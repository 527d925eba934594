#include "scheduler/core/lines.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/run.h"

uint32_t *
lines_owner(struct core *c, enum line_kind kind, uint32_t of)
{
	switch (kind) {
	case LINE_LIMIT:
		return &c->limits[of].line;
	case LINE_ASKS:
		return &c->asks_line;
	case LINE_SOURCES:
		return &c->vmtas[of].lines[0];
	case LINE_SENDERS:
		return &c->vmtas[of].lines[1];
	case LINE_ROOM:
		return &c->workers[of].line;
	case LINE_CONNS:
		return &c->workers[of].conns;
	case LINE_NONE:
		break;
	}
	CHECK(!"a line of nothing");
	return NULL;
}

/* Life --------------------------------------------------------------------------------------- */
static uint32_t
line_new(struct core *c, enum line_kind kind, uint32_t of)
{
	uint32_t i = c->free_line;
	struct line *l;
	size_t cap;
	struct line_class *classes;

	if (i) {
		c->free_line = c->lines[i].poked_next;
	} else {
		i = c->n_lines++;
		cap = c->lines_cap;
		mem_grow((void **)&c->lines, &c->lines_cap, (size_t)i + 1, sizeof(*c->lines));
		memset(c->lines + cap, 0, (c->lines_cap - cap) * sizeof(*c->lines));
	}
	c->n_used_lines++;
	if (kind == LINE_LIMIT) {
		c->n_limit_lines++;
		passes_void(c);
	}
	l = &c->lines[i];
	classes = l->classes;
	cap = l->cap;
	*l = (struct line){
		.classes = classes, /* the memory is used again */
		.cap = cap,
		.kind = (uint8_t)kind,
		.of = of,
		.heap_pos = UINT32_MAX,
		.poked_next = CORE_NONE,
	};
	return i;
}

/* Without queues, and nobody is about to look at it: it goes. */
static void
release(struct core *c, uint32_t i)
{
	struct line *l = &c->lines[i];
	enum line_kind kind = (enum line_kind)l->kind;
	uint32_t of = l->of;

	if (l->n > 0 || l->poked)
		return;
	timers_set(&c->line_timers, i, NEVER);
	*lines_owner(c, kind, of) = 0;
	l->kind = LINE_NONE;
	if (l->cap > 4) {
		mem_free(l->classes);
		l->classes = NULL;
		l->cap = 0;
	}
	l->poked_next = c->free_line;
	c->free_line = i;
	c->n_used_lines--;
	if (kind == LINE_LIMIT) {
		c->n_limit_lines--;
		limits_unused(c, of);
	}
}

void
lines_clear(struct core *c)
{
	for (uint32_t i = 1; i < c->n_lines; i++)
		mem_free(c->lines[i].classes);
	mem_free(c->lines);
	timers_clear(&c->line_timers);
}

/* Order -------------------------------------------------------------------------------------- */
static struct line_class *
find_class(const struct line *l, unsigned priority)
{
	for (uint32_t k = 0; k < l->n_classes; k++) {
		if (l->classes[k].priority == priority)
			return &l->classes[k];
	}
	return NULL;
}

static struct line_class *
make_class(struct line *l, unsigned priority)
{
	struct line_class *cl = find_class(l, priority);
	uint32_t k = l->n_classes;

	if (cl)
		return cl;
	mem_grow((void **)&l->classes, &l->cap, (size_t)k + 1, sizeof(*l->classes));
	while (k > 0 && l->classes[k - 1].priority < priority) {
		l->classes[k] = l->classes[k - 1];
		k--;
	}
	l->classes[k] = (struct line_class){ .queues = { CORE_NONE, CORE_NONE },
					     .priority = (uint8_t)priority };
	l->n_classes++;
	return &l->classes[k];
}

static void
drop_class(struct line *l, struct line_class *cl)
{
	uint32_t k = (uint32_t)(cl - l->classes);

	memmove(cl, cl + 1, (l->n_classes - k - 1) * sizeof(*cl));
	l->n_classes--;
}

static void
link_queue(struct core *c, struct list *l, uint32_t qi, bool head)
{
	struct queue *q = &c->queues[qi];

	q->line_next = head ? l->head : CORE_NONE;
	q->line_prev = head ? CORE_NONE : l->tail;
	if (q->line_prev == CORE_NONE)
		l->head = qi;
	else
		c->queues[q->line_prev].line_next = qi;
	if (q->line_next == CORE_NONE)
		l->tail = qi;
	else
		c->queues[q->line_next].line_prev = qi;
}

static void
unlink_queue(struct core *c, struct list *l, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (q->line_prev == CORE_NONE)
		l->head = q->line_next;
	else
		c->queues[q->line_prev].line_next = q->line_next;
	if (q->line_next == CORE_NONE)
		l->tail = q->line_prev;
	else
		c->queues[q->line_next].line_prev = q->line_prev;
}

void
lines_leave(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];
	uint32_t i = q->line;
	struct line *l = &c->lines[i];
	struct line_class *cl;
	bool was_head;

	if (i == 0)
		return;
	cl = find_class(l, q->line_priority);
	CHECK(cl);
	was_head = cl == l->classes && cl->queues.head == qi;
	unlink_queue(c, &cl->queues, qi);
	q->line = 0;
	l->n--;
	if (--cl->n == 0)
		drop_class(l, cl);
	if (l->n == 0)
		release(c, i);
	else if (was_head)
		lines_poke(c, i); /* the next one may need less */
}

void
lines_join(struct core *c, uint32_t qi, enum line_kind kind, uint32_t of, bool head)
{
	struct queue *q = &c->queues[qi];
	const struct active *a = q->active;
	unsigned priority = a && a->settings ? a->settings->queue_priority : 50;
	uint32_t i = *lines_owner(c, kind, of);
	struct line_class *cl;

	if (i && q->line == i && q->line_priority == priority && !head)
		return;
	lines_leave(c, qi);
	i = *lines_owner(c, kind, of);
	if (!i) {
		i = line_new(c, kind, of);
		*lines_owner(c, kind, of) = i;
	}
	q->line = i;
	q->line_priority = (uint8_t)priority;
	cl = make_class(&c->lines[i], priority);
	link_queue(c, &cl->queues, qi, head);
	cl->n++;
	c->lines[i].n++;
}

void
lines_rotate(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];
	struct line_class *cl = find_class(&c->lines[q->line], q->line_priority);

	CHECK(q->line && cl);
	unlink_queue(c, &cl->queues, qi);
	link_queue(c, &cl->queues, qi, false);
}

uint32_t
lines_head(const struct core *c, uint32_t line)
{
	const struct line *l = &c->lines[line];

	return line && l->n ? l->classes[0].queues.head : CORE_NONE;
}

bool
lines_ahead(const struct core *c, uint32_t line, uint32_t qi, unsigned priority)
{
	const struct line *l = &c->lines[line];

	if (line == 0 || l->n == 0 || l->classes[0].priority < priority)
		return false;
	return l->classes[0].queues.head != qi;
}

bool
lines_others(const struct core *c, uint32_t line, uint32_t qi, unsigned priority)
{
	const struct line *l = &c->lines[line];

	if (line == 0 || l->n == 0 || l->classes[0].priority < priority)
		return false;
	return l->classes[0].priority > priority || l->classes[0].n > 1 ||
	       l->classes[0].queues.head != qi;
}

uint32_t
lines_above(const struct core *c, uint32_t line, unsigned priority)
{
	const struct line *l = &c->lines[line];
	uint32_t n = 0;

	for (uint32_t k = 0; line && k < l->n_classes && l->classes[k].priority > priority; k++)
		n += l->classes[k].n;
	return n;
}

/* Waking ------------------------------------------------------------------------------------- */
void
lines_poke(struct core *c, uint32_t line)
{
	struct line *l = &c->lines[line];

	if (line == 0 || l->poked || l->n == 0)
		return;
	l->poked = true;
	l->poked_next = CORE_NONE;
	if (c->poked.tail == CORE_NONE)
		c->poked.head = line;
	else
		c->lines[c->poked.tail].poked_next = line;
	c->poked.tail = line;
}

uint32_t
lines_poked(const struct core *c)
{
	return c->poked.head == CORE_NONE ? 0 : c->poked.head;
}

void
lines_unpoke(struct core *c)
{
	uint32_t i = c->poked.head;
	struct line *l = &c->lines[i];

	CHECK(i != CORE_NONE);
	c->poked.head = l->poked_next;
	if (c->poked.head == CORE_NONE)
		c->poked.tail = CORE_NONE;
	l->poked = false;
	l->poked_next = CORE_NONE;
	release(c, i);
}

void
lines_wake_at(struct core *c, uint32_t line, uint64_t at)
{
	const struct line *l = &c->lines[line];

	if (line == 0 || l->n == 0)
		return;
	if (at <= c->now.boot_us) {
		lines_poke(c, line);
		return;
	}
	if (l->heap_pos == UINT32_MAX || c->line_timers.heap[l->heap_pos].at > at)
		timers_set(&c->line_timers, line, at);
}

void
lines_tick(struct core *c)
{
	while (timers_next(&c->line_timers) <= c->now.boot_us)
		lines_poke(c, timers_pop(&c->line_timers));
}

void
lines_push_all(struct core *c, uint32_t line)
{
	const struct line *l = &c->lines[line];

	for (uint32_t k = 0; line && k < l->n_classes; k++) {
		for (uint32_t qi = l->classes[k].queues.head; qi != CORE_NONE;
		     qi = c->queues[qi].line_next)
			run_push(c, qi);
	}
	lines_poke(c, line);
}

void
lines_settle(struct core *c)
{
	while (lines_poked(c))
		lines_unpoke(c);
}

void
lines_poke_all(struct core *c)
{
	for (uint32_t i = 1; i < c->n_lines; i++) {
		if (c->lines[i].kind != LINE_NONE)
			lines_poke(c, i);
	}
}
