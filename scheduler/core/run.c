#include "scheduler/core/run.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"

void
run_note(struct core *c, uint32_t qi)
{
	/* Each stands there once: room for all of them is enough. */
	if (c->touched_first > c->n_queues) {
		c->n_touched -= c->touched_first;
		memmove(c->touched, c->touched + c->touched_first,
			c->n_touched * sizeof(*c->touched));
		c->touched_first = 0;
	}
	mem_grow((void **)&c->touched, &c->touched_cap, (size_t)c->n_touched + 1,
		 sizeof(*c->touched));
	c->touched[c->n_touched++] = qi;
	c->queues[qi].touched = true;
}

void
run_push(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	run_touch(c, qi);
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
	uint32_t room = c->give_up_room > c->move_room ? c->give_up_room : c->move_room;

	for (uint32_t n = room; n > 0 && c->doomed.head != CORE_NONE; n--) {
		uint32_t qi = c->doomed.head;

		c->doomed.head = c->queues[qi].doomed_next;
		if (c->doomed.head == CORE_NONE)
			c->doomed.tail = CORE_NONE;
		c->queues[qi].in_doomed = false;
		run_push(c, qi);
	}
}
