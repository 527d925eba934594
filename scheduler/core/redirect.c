#include "scheduler/core/redirect.h"

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/run.h"

/* Each costs its row besides: a claim of another queue waits for so many at the most. */
#define MOVE_SLICE 256

/* What the queue was about to do for its mail. */
static void
drop_plans(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (q->line)
		lines_leave(c, qi);
	q->doom_left = q->release_left = 0;
	q->scan_stage = 0;
	q->scan_cursor = CORE_NONE;
	q->until = 0;
	q->refusal = REFUSAL_NONE;
	if (q->active)
		q->active->blocked_by = 0;
}

static void
renumber(struct core *c, uint32_t qi, uint32_t fresh)
{
	struct queue *q = &c->queues[qi];
	size_t old = c->n_numbers;

	if (fresh == q->number)
		return;
	CHECK(fresh < CORE_NONE && queue_index(c, fresh) == CORE_NONE);
	mem_grow((void **)&c->by_number, &c->n_numbers, (size_t)fresh + 1, sizeof(*c->by_number));
	for (size_t i = old; i < c->n_numbers; i++)
		c->by_number[i] = CORE_NONE;
	c->by_number[q->number] = CORE_NONE;
	c->by_number[fresh] = qi;
	q->number = fresh;
}

/* Of those that wait the first, else this one. */
static uint32_t
choose_kept(const struct core *c, uint32_t qi, uint32_t e)
{
	uint32_t head = entries_head(&c->queues[qi]);

	if (head != CORE_NONE)
		return head;
	return e < c->n_entries && c->entries[e].place == PLACE_CLAIMED && c->entries[e].queue == qi
		       ? e
		       : CORE_NONE;
}

static bool
begin(struct core *c, const struct core_now *now, uint32_t from, uint32_t to, uint32_t fresh,
      uint32_t *kept)
{
	uint32_t qi = queue_index(c, from), ti = queue_index(c, to);
	struct queue *q;

	core_clock(c, now);
	CHECK(qi != CORE_NONE && ti != CORE_NONE);
	q = &c->queues[qi];
	if (q->moving || redirect_end(c, ti) == qi)
		return false;
	renumber(c, qi, fresh);
	if (queue_entries(q) == 0) {
		if (kept)
			*kept = CORE_NONE;
		return true;
	}
	drop_plans(c, qi);
	q->moving = true;
	map_put(&c->moves, qi, ti);
	if (kept && (*kept = choose_kept(c, qi, *kept)) != CORE_NONE)
		map_put(&c->kept, qi, *kept);
	run_push(c, qi);
	return true;
}

bool
core_redirect(struct core *c, const struct core_now *now, uint32_t from, uint32_t to,
	      uint32_t fresh)
{
	return begin(c, now, from, to, fresh, NULL);
}

bool
core_redirect_but_one(struct core *c, const struct core_now *now, uint32_t from, uint32_t to,
		      uint32_t fresh, uint32_t *kept)
{
	return begin(c, now, from, to, fresh, kept);
}

uint32_t
core_redirected(const struct core *c, uint32_t queue)
{
	uint32_t qi = queue_index(c, queue);

	return qi == CORE_NONE ? queue : c->queues[redirect_end(c, qi)].number;
}

void
core_move_room(struct core *c, const struct core_now *now, uint32_t room)
{
	core_clock(c, now);
	c->move_room = room;
	run_wake_doomed(c);
}

/* The first of those that wait, but for the one that stays. */
static uint32_t
next_to_go(const struct core *c, uint32_t qi)
{
	const struct queue *q = &c->queues[qi];
	const uint32_t heads[] = { q->ready.head, q->lanes[0].head, q->lanes[1].head };

	if (c->kept.n == 0)
		return entries_head(q);
	for (unsigned i = 0; i < sizeof heads / sizeof heads[0]; i++) {
		uint32_t e = heads[i];

		if (e != CORE_NONE && redirect_keeps(c, qi, e))
			e = c->entries[e].next;
		if (e != CORE_NONE)
			return e;
	}
	return CORE_NONE;
}

static void
end(struct core *c, uint32_t qi)
{
	c->queues[qi].moving = c->queues[qi].unsorted = false;
	map_take(&c->moves, qi);
	map_take(&c->kept, qi);
}

bool
core_redirect_over(struct core *c, const struct core_now *now, uint32_t queue)
{
	uint32_t qi = queue_index(c, queue);

	core_clock(c, now);
	if (qi == CORE_NONE || !c->queues[qi].moving)
		return true;
	if (next_to_go(c, qi) != CORE_NONE)
		return false;
	end(c, qi);
	run_push(c, qi);
	return true;
}

bool
redirect_step(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];
	uint32_t ti = redirect_end(c, qi), e;
	unsigned n = 0;

	while ((e = next_to_go(c, qi)) != CORE_NONE && n < MOVE_SLICE && c->move_room > 0) {
		entries_transfer(c, e, ti);
		if (c->move_room != UINT32_MAX)
			c->move_room--;
		if (c->ops.moved)
			c->ops.moved(c->ctx, e);
		n++;
	}
	if (n > 0)
		run_push(c, ti);
	if (queue_entries(q) == (map_get(&c->kept, qi) != MAP_NONE))
		end(c, qi);
	if (e != CORE_NONE && c->move_room == 0)
		run_join_doomed(c, qi);
	return e != CORE_NONE && c->move_room > 0;
}
