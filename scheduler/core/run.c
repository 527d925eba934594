#include "scheduler/core/run.h"

#include "common/base/check.h"

void
run_push(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (q->in_run)
		return;
	q->in_run = true;
	q->run_next = CORE_NONE;
	if (c->run.tail == CORE_NONE)
		c->run.head = qi;
	else
		c->queues[c->run.tail].run_next = qi;
	c->run.tail = qi;
}

uint32_t
run_pop(struct core *c)
{
	uint32_t qi = c->run.head;

	if (qi == CORE_NONE)
		return CORE_NONE;
	c->run.head = c->queues[qi].run_next;
	if (c->run.head == CORE_NONE)
		c->run.tail = CORE_NONE;
	c->queues[qi].in_run = false;
	return qi;
}

static struct list *
line_list(struct core *c, const struct queue *q)
{
	switch ((enum line)q->line) {
	case LINE_TOTAL:
		return &c->total_line;
	case LINE_ASKS:
		return &c->asks_line;
	case LINE_SOURCES:
		return &c->vmtas[q->vmta].line;
	case LINE_ROOM:
		return &c->workers[q->line_of].line;
	case LINE_CONNS:
		return &c->workers[q->line_of].conns;
	case LINE_NONE:
		break;
	}
	return NULL;
}

void
run_line_leave(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];
	struct list *l = line_list(c, q);

	if (!l)
		return;
	if (q->line_prev == CORE_NONE)
		l->head = q->line_next;
	else
		c->queues[q->line_prev].line_next = q->line_next;
	if (q->line_next == CORE_NONE)
		l->tail = q->line_prev;
	else
		c->queues[q->line_next].line_prev = q->line_prev;
	c->n_total_line -= q->line == LINE_TOTAL;
	if (q->line == LINE_CONNS) {
		c->n_conns_line--;
		c->workers[q->line_of].n_conns_line--;
	}
	q->line = LINE_NONE;
}

void
run_line_join(struct core *c, uint32_t qi, enum line which, unsigned of, bool head)
{
	struct queue *q = &c->queues[qi];
	struct list *l;

	CHECK(which != LINE_NONE);
	if (q->line == which && ((which != LINE_ROOM && which != LINE_CONNS) || q->line_of == of))
		return;
	run_line_leave(c, qi);
	q->line = (uint8_t)which;
	q->line_of = (uint16_t)of;
	c->n_total_line += which == LINE_TOTAL;
	if (which == LINE_CONNS) {
		c->n_conns_line++;
		c->workers[of].n_conns_line++;
	}
	l = line_list(c, q);
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

void
run_wake_line(struct core *c, const struct list *line)
{
	for (uint32_t qi = line->head; qi != CORE_NONE; qi = c->queues[qi].line_next)
		run_push(c, qi);
}

void
run_join_doomed(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (q->in_doomed)
		return;
	q->in_doomed = true;
	q->doomed_next = CORE_NONE;
	if (c->doomed.tail == CORE_NONE)
		c->doomed.head = qi;
	else
		c->queues[c->doomed.tail].doomed_next = qi;
	c->doomed.tail = qi;
}

void
run_wake_doomed(struct core *c)
{
	/* No more than can find room: each has at least one. */
	for (uint32_t n = c->give_up_room; n > 0 && c->doomed.head != CORE_NONE; n--) {
		uint32_t qi = c->doomed.head;

		c->doomed.head = c->queues[qi].doomed_next;
		if (c->doomed.head == CORE_NONE)
			c->doomed.tail = CORE_NONE;
		c->queues[qi].in_doomed = false;
		run_push(c, qi);
	}
}

void
run_wake_room(struct core *c, unsigned worker)
{
	uint32_t qi = c->workers[worker].line.head;

	if (qi == CORE_NONE)
		return;
	run_line_leave(c, qi);
	c->queues[qi].room_turn = true;
	c->queues[qi].line_of = (uint16_t)worker;
	run_push(c, qi);
}
