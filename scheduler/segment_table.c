#include "scheduler/segment_table.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"

static void
unlink_seg(struct segment_table *t, uint32_t number)
{
	struct seg *g = &t->segs[number];
	uint32_t prev = g->prev, next = g->next;

	if (prev != 0)
		t->segs[prev].next = next;
	else
		t->lists[g->list].first = next;
	if (next != 0)
		t->segs[next].prev = prev;
	else
		t->lists[g->list].last = prev;
	t->lists[g->list].n--;
}

static void
append(struct segment_table *t, uint32_t number, enum segment_list to)
{
	struct seg *g = &t->segs[number];

	g->list = (uint8_t)to;
	g->next = 0;
	g->prev = t->lists[to].last;
	if (g->prev != 0)
		t->segs[g->prev].next = number;
	else
		t->lists[to].first = number;
	t->lists[to].last = number;
	t->lists[to].n++;
}

void
segment_table_move(struct segment_table *t, uint32_t number, enum segment_list to)
{
	CHECK(number > 0 && number <= t->highest && to < SEGMENT_LISTS);
	unlink_seg(t, number);
	append(t, number, to);
}

struct seg *
segment_table_at(struct segment_table *t, uint32_t number)
{
	void *p = t->segs;
	size_t before = t->cap;

	CHECK(number > 0 && number < SEGMENTS_MAX);
	mem_grow(&p, &t->cap, (size_t)number + 1, sizeof *t->segs);
	t->segs = p;
	if (t->cap > before)
		memset(t->segs + before, 0, (t->cap - before) * sizeof *t->segs);
	while (t->highest < number)
		append(t, ++t->highest, SEGMENT_UNUSED);
	return &t->segs[number];
}

struct seg *
segment_table_find(const struct segment_table *t, uint32_t number)
{
	return number > 0 && number <= t->highest && t->segs[number].known ? &t->segs[number]
									   : NULL;
}

uint32_t
segment_table_unused(struct segment_table *t)
{
	if (t->lists[SEGMENT_UNUSED].n > 0)
		return t->lists[SEGMENT_UNUSED].first;
	if (t->highest + 1 >= SEGMENTS_MAX)
		return SEGMENTS_MAX;
	segment_table_at(t, t->highest + 1);
	return t->highest;
}

void
segment_table_mark(struct segment_table *t, uint32_t number)
{
	struct seg *g = &t->segs[number];
	void *p = t->dirty;

	if (g->dirty)
		return;
	g->dirty = true;
	mem_grow(&p, &t->cap_dirty, t->n_dirty + 1, sizeof *t->dirty);
	t->dirty = p;
	t->dirty[t->n_dirty++] = number;
}

enum segment_list
segment_table_open_list(unsigned owner)
{
	if (owner == SEGMENTS_COMPACTOR)
		return SEGMENT_OPEN_COMPACTOR;
	CHECK(owner < RECEIVERS_MAX);
	return (enum segment_list)(SEGMENT_OPEN + owner);
}

void
segment_table_clear(struct segment_table *t)
{
	mem_free(t->segs);
	mem_free(t->dirty);
	memset(t, 0, sizeof *t);
}
