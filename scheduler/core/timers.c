#include "scheduler/core/timers.h"

#include "common/base/check.h"
#include "common/base/mem.h"

void
timers_clear(struct timers *t)
{
	mem_free(t->heap);
	t->heap = NULL;
	t->n = t->cap = 0;
}

static void
place(struct timers *t, size_t i, struct timer what)
{
	t->heap[i] = what;
	*t->pos(t->arg, what.queue) = (uint32_t)i;
}

static void
sift_up(struct timers *t, size_t i)
{
	struct timer what = t->heap[i];

	while (i > 0 && t->heap[(i - 1) / 2].at > what.at) {
		place(t, i, t->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	place(t, i, what);
}

static void
sift_down(struct timers *t, size_t i)
{
	struct timer what = t->heap[i];
	size_t child;

	while ((child = 2 * i + 1) < t->n) {
		if (child + 1 < t->n && t->heap[child + 1].at < t->heap[child].at)
			child++;
		if (t->heap[child].at >= what.at)
			break;
		place(t, i, t->heap[child]);
		i = child;
	}
	place(t, i, what);
}

static void
take_out(struct timers *t, size_t i)
{
	struct timer last = t->heap[--t->n];

	*t->pos(t->arg, t->heap[i].queue) = UINT32_MAX;
	if (i == t->n)
		return;
	place(t, i, last);
	sift_up(t, i);
	sift_down(t, *t->pos(t->arg, last.queue));
}

void
timers_set(struct timers *t, uint32_t queue, uint64_t at)
{
	uint32_t i = *t->pos(t->arg, queue);

	if (at == UINT64_MAX) {
		if (i != UINT32_MAX)
			take_out(t, i);
		return;
	}
	if (i == UINT32_MAX) {
		mem_grow((void **)&t->heap, &t->cap, t->n + 1, sizeof(*t->heap));
		i = (uint32_t)t->n++;
		place(t, i, (struct timer){ at, queue });
	}
	t->heap[i].at = at;
	sift_up(t, i);
	sift_down(t, *t->pos(t->arg, queue));
}

uint64_t
timers_next(const struct timers *t)
{
	return t->n ? t->heap[0].at : UINT64_MAX;
}

uint32_t
timers_pop(struct timers *t)
{
	uint32_t queue;

	CHECK(t->n > 0);
	queue = t->heap[0].queue;
	take_out(t, 0);
	return queue;
}
