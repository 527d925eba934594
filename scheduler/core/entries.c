#include "scheduler/core/entries.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/redirect.h"

/* How far an entry may be from its place at the end of a lane before sorting is cheaper. */
#define LANE_STEPS 32

struct queue *
entries_queue(struct core *c, uint32_t e)
{
	return &c->queues[c->entries[e].queue];
}

/* The first chunk with a free entry, a new one when there is none. Low ones first: the others run
 * empty. */
static struct chunk *
chunk_with_room(struct core *c, uint32_t *k)
{
	while (c->low_chunk < c->n_chunks && c->chunks[c->low_chunk].used == CHUNK)
		c->low_chunk++;
	*k = c->low_chunk;
	if (*k == c->n_chunks) {
		CHECK(c->n_chunks < CORE_NONE / CHUNK);
		mem_grow((void **)&c->chunks, &c->chunks_cap, (size_t)*k + 1, sizeof(*c->chunks));
		mem_grow((void **)&c->entries, &c->entries_cap, ((size_t)*k + 1) * CHUNK,
			 sizeof(*c->entries));
		c->chunks[c->n_chunks++] = (struct chunk){ .free = CORE_NONE };
	}
	return &c->chunks[*k];
}

uint32_t
entries_new(struct core *c)
{
	uint32_t k, e;
	struct chunk *ch = chunk_with_room(c, &k);

	if (ch->used++ == 0 && c->spare_chunk == k)
		c->spare_chunk = CORE_NONE;
	if (ch->free != CORE_NONE) {
		e = ch->free;
		ch->free = c->entries[e].next;
	} else {
		if (ch->made == 0)
			memset(&c->entries[(size_t)k * CHUNK], 0, CHUNK * sizeof(*c->entries));
		e = k * CHUNK + ch->made++;
	}
	if (e >= c->n_entries)
		c->n_entries = e + 1;
	memset(&c->entries[e], 0, sizeof(c->entries[e]));
	c->entries[e].next = c->entries[e].prev = CORE_NONE;
	return e;
}

/* Its last entry is gone. One empty chunk is kept, for entries that come and go; the lowest. */
static void
chunk_is_empty(struct core *c, uint32_t k)
{
	uint32_t other = c->spare_chunk;

	c->spare_chunk = k;
	if (other == CORE_NONE)
		return;
	if (other < k) {
		c->spare_chunk = other;
		other = k;
	}
	mem_release(&c->entries[(size_t)other * CHUNK], CHUNK * sizeof(*c->entries));
	c->chunks[other] = (struct chunk){ .free = CORE_NONE };
}

static void
entry_back(struct core *c, uint32_t e)
{
	uint32_t k = e / CHUNK;
	struct chunk *ch = &c->chunks[k];

	c->entries[e].place = PLACE_FREE;
	c->entries[e].next = ch->free;
	ch->free = e;
	if (k < c->low_chunk)
		c->low_chunk = k;
	if (--ch->used == 0)
		chunk_is_empty(c, k);
}

static void
tag_less(struct core *c, uint32_t tag)
{
	struct core_tag t = c->tags[tag];

	CHECK(t.n > 0);
	if (--c->tags[tag].n > 0)
		return;
	map_take(&c->tags_map, (uint64_t)t.job << 32 | t.sender_domain);
	c->tags[tag].job = c->free_tag;
	c->free_tag = tag;
	if (c->ops.tag)
		c->ops.tag(c->ctx, t.job, t.sender_domain, false);
	if (c->tags_map.n == 0) { /* there may have been very many */
		mem_free(c->tags);
		c->tags = NULL;
		c->tags_cap = c->n_tags = 0;
		c->free_tag = CORE_NONE;
		map_clear(&c->tags_map);
	}
}

void
entries_free(struct core *c, uint32_t e)
{
	struct entry *en = &c->entries[e];

	CHECK(en->place == PLACE_LEAVING);
	if (en->has_marks)
		mem_free((void *)(uintptr_t)map_take(&c->marks, e));
	en->has_marks = 0;
	tag_less(c, en->tag);
	entry_back(c, e);
}

/* Lists -------------------------------------------------------------------------------------- */
static void
unlink_entry(struct core *c, uint32_t e)
{
	struct entry *en = &c->entries[e];
	struct queue *q = &c->queues[en->queue];

	if (en->prev != CORE_NONE)
		c->entries[en->prev].next = en->next;
	if (en->next != CORE_NONE)
		c->entries[en->next].prev = en->prev;
	if (q->ready.head == e)
		q->ready.head = en->next;
	if (q->ready.tail == e)
		q->ready.tail = en->prev;
	for (unsigned i = 0; i < 2; i++) {
		if (q->lanes[i].head == e)
			q->lanes[i].head = en->next;
		if (q->lanes[i].tail == e)
			q->lanes[i].tail = en->prev;
	}
	if (q->scan_cursor == e)
		q->scan_cursor = en->next;
	if (q->doom_left > 0)
		q->doom_left--;
	if (q->release_left > 0 && en->place == PLACE_DEFERRED)
		q->release_left--;
	en->next = en->prev = CORE_NONE;
}

/* Behind `after`, CORE_NONE: at the head. */
static void
link_entry(struct core *c, struct list *l, uint32_t after, uint32_t e)
{
	struct entry *en = &c->entries[e];
	struct queue *q = &c->queues[en->queue];

	en->prev = after;
	en->next = after == CORE_NONE ? l->head : c->entries[after].next;
	if (en->prev == CORE_NONE)
		l->head = e;
	else
		c->entries[en->prev].next = e;
	if (en->next == CORE_NONE)
		l->tail = e;
	else
		c->entries[en->next].prev = e;
	if (en->received < q->oldest)
		q->oldest = en->received;
	if (en->received < q->scan_oldest)
		q->scan_oldest = en->received;
}

/* Takes the entry out of its list and moves the counts. */
static void
change_place(struct core *c, uint32_t e, enum place to)
{
	struct entry *en = &c->entries[e];
	struct queue *q = &c->queues[en->queue];
	enum place from = en->place;
	uint32_t rcpts = entries_unfinished(c, e);

	if (from == PLACE_READY || from == PLACE_DEFERRED)
		unlink_entry(c, e);
	if (place_counts(from)) {
		q->n[from]--;
	} else {
		CHECK(from == PLACE_FREE);
		if (queue_entries(q) == 0)
			c->totals.queues_with_mail++;
		q->n_rcpts += rcpts;
		q->kbytes += en->kbytes;
		c->totals.queued_entries++;
		c->totals.queued_rcpts += rcpts;
		c->totals.queued_kbytes += en->kbytes;
	}
	en->place = to;
	if (!place_counts(to) && redirect_keeps(c, en->queue, e))
		map_take(&c->kept, en->queue);
	if (place_counts(to)) {
		q->n[to]++;
		return;
	}
	q->n_rcpts -= rcpts;
	q->kbytes -= en->kbytes;
	c->totals.queued_entries--;
	c->totals.queued_rcpts -= rcpts;
	c->totals.queued_kbytes -= en->kbytes;
	if (queue_entries(q) == 0)
		c->totals.queues_with_mail--;
}

void
entries_move(struct core *c, uint32_t e, enum place to)
{
	CHECK(to == PLACE_HELD || to == PLACE_CLAIMED || to == PLACE_LEAVING);
	change_place(c, e, to);
}

void
entries_ready(struct core *c, uint32_t e, bool front)
{
	struct queue *q = entries_queue(c, e);

	change_place(c, e, PLACE_READY);
	c->entries[e].due = 0;
	link_entry(c, &q->ready, front ? CORE_NONE : q->ready.tail, e);
}

/* Where in the lane it belongs, looking back a few steps; false when that is further away. */
static bool
lane_place(const struct core *c, const struct list *lane, uint32_t due, uint32_t *after)
{
	uint32_t at = lane->tail;

	for (unsigned i = 0; i < LANE_STEPS; i++) {
		if (at == CORE_NONE || c->entries[at].due <= due) {
			*after = at;
			return true;
		}
		at = c->entries[at].prev;
	}
	return false;
}

void
entries_defer(struct core *c, uint32_t e, uint32_t due)
{
	struct queue *q = entries_queue(c, e);
	uint32_t after = CORE_NONE;
	struct list *lane = &q->lanes[0];

	change_place(c, e, PLACE_DEFERRED);
	c->entries[e].due = due;
	if (q->unsorted) {
		after = lane->tail;
	} else if (!lane_place(c, lane, due, &after)) {
		lane = &q->lanes[1];
		if (!lane_place(c, lane, due, &after)) {
			lane = &q->lanes[0];
			after = lane->tail;
			q->unsorted = true;
		}
	}
	link_entry(c, lane, after, e);
}

void
entries_transfer(struct core *c, uint32_t e, uint32_t qi)
{
	struct entry *en = &c->entries[e];
	bool deferred = en->place == PLACE_DEFERRED;

	CHECK(deferred || en->place == PLACE_READY);
	change_place(c, e, PLACE_LEAVING);
	en->place = PLACE_FREE; /* as if it came new */
	en->queue = qi;
	if (deferred)
		entries_defer(c, e, en->due);
	else
		entries_ready(c, e, false);
}

static int
compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Both lanes into the first, by due. Happens after loading and when delays were changed. */
static void
sort_lanes(struct core *c, struct queue *q)
{
	size_t n = 0;
	uint64_t *order = mem_calloc((size_t)q->n[PLACE_DEFERRED] + 1, sizeof(*order));
	uint32_t last = CORE_NONE;

	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t e = q->lanes[i].head; e != CORE_NONE; e = c->entries[e].next)
			order[n++] = (uint64_t)c->entries[e].due << 32 | e;
	}
	CHECK(n == q->n[PLACE_DEFERRED]);
	qsort(order, n, sizeof(*order), compare_u64);
	q->lanes[0] = q->lanes[1] = (struct list){ CORE_NONE, CORE_NONE };
	for (size_t i = 0; i < n; i++) {
		link_entry(c, &q->lanes[0], last, (uint32_t)order[i]);
		last = (uint32_t)order[i];
	}
	q->unsorted = false;
	/* A search for expired entries that was among them begins anew. */
	if (q->scan_stage > 1) {
		q->scan_stage = 2;
		q->scan_cursor = q->lanes[0].head;
	}
	mem_free(order);
}

static struct list *
earliest_lane(struct core *c, struct queue *q)
{
	struct list *a = &q->lanes[0], *b = &q->lanes[1];

	if (q->unsorted)
		sort_lanes(c, q);
	if (a->head == CORE_NONE)
		return b;
	if (b->head == CORE_NONE)
		return a;
	return c->entries[b->head].due < c->entries[a->head].due ? b : a;
}

uint32_t
entries_due(struct core *c, struct queue *q)
{
	uint32_t e = earliest_lane(c, q)->head;

	return e == CORE_NONE ? UINT32_MAX : c->entries[e].due;
}

bool
entries_release(struct core *c, struct queue *q, uint32_t now_s, uint32_t most)
{
	for (;;) {
		uint32_t e = earliest_lane(c, q)->head;

		if (e == CORE_NONE || (q->release_left == 0 && c->entries[e].due > now_s))
			return true;
		if (most-- == 0)
			return false;
		entries_ready(c, e, false);
	}
}

uint32_t
entries_head(const struct queue *q)
{
	if (q->ready.head != CORE_NONE)
		return q->ready.head;
	return q->lanes[0].head != CORE_NONE ? q->lanes[0].head : q->lanes[1].head;
}

bool
entries_scan(struct core *c, struct queue *q, uint32_t before, uint32_t most,
	     void (*found)(struct core *c, uint32_t e))
{
	if (q->scan_stage == 0) {
		q->scan_stage = 1;
		q->scan_cursor = q->ready.head;
		q->scan_oldest = UINT32_MAX;
	}
	for (;;) {
		uint32_t e = q->scan_cursor;

		if (e == CORE_NONE) {
			if (q->scan_stage == 3)
				break;
			q->scan_cursor = q->lanes[q->scan_stage++ - 1].head;
			continue;
		}
		if (most-- == 0)
			return false;
		q->scan_cursor = c->entries[e].next;
		if (c->entries[e].received <= before)
			found(c, e);
		else if (c->entries[e].received < q->scan_oldest)
			q->scan_oldest = c->entries[e].received;
	}
	q->scan_stage = 0;
	q->oldest = q->scan_oldest;
	return true;
}

/* Recipients --------------------------------------------------------------------------------- */
static struct marks *
marks_of(const struct core *c, uint32_t e)
{
	if (!c->entries[e].has_marks)
		return NULL;
	return (struct marks *)(uintptr_t)map_get(&c->marks, e);
}

static size_t
marks_bytes(const struct core *c, uint32_t e)
{
	return (c->entries[e].n_rcpts + 7u) / 8;
}

static struct marks *
marks_make(struct core *c, uint32_t e)
{
	struct marks *m = marks_of(c, e);

	if (!m) {
		m = mem_zalloc(sizeof(*m) + 2 * marks_bytes(c, e));
		map_put(&c->marks, e, (uint64_t)(uintptr_t)m);
		c->entries[e].has_marks = 1;
	}
	return m;
}

static uint8_t *
tried_bits(const struct core *c, uint32_t e, const struct marks *m)
{
	return (uint8_t *)(uintptr_t)m->bits + marks_bytes(c, e);
}

uint32_t
entries_unfinished(const struct core *c, uint32_t e)
{
	const struct marks *m = marks_of(c, e);

	return c->entries[e].n_rcpts - (m ? m->n_done : 0u);
}

uint32_t
entries_untried(const struct core *c, uint32_t e)
{
	const struct marks *m = marks_of(c, e);

	return c->entries[e].n_rcpts - (m ? m->n_done + m->n_tried : 0u);
}

struct slice
entries_done(struct core *c, uint32_t e)
{
	const struct marks *m = marks_of(c, e);

	if (!m || m->n_done == 0)
		return SLICE_NONE;
	return slice_of(m->bits, marks_bytes(c, e));
}

/* Sums that hold for entries in a queue; the counts of a free or leaving one are nowhere. */
static void
count_finished(struct core *c, uint32_t e)
{
	if (!place_counts(c->entries[e].place))
		return;
	entries_queue(c, e)->n_rcpts--;
	c->totals.queued_rcpts--;
}

void
entries_finish_rcpt(struct core *c, uint32_t e, unsigned i)
{
	struct marks *m = marks_make(c, e);
	uint8_t *tried = tried_bits(c, e, m);

	CHECK(i < c->entries[e].n_rcpts);
	if (bit_get(m->bits, i))
		return;
	if (bit_get(tried, i)) {
		bit_clear(tried, i);
		m->n_tried--;
	}
	bit_set(m->bits, i);
	m->n_done++;
	count_finished(c, e);
}

void
entries_tried_rcpt(struct core *c, uint32_t e, unsigned i)
{
	struct marks *m;

	CHECK(i < c->entries[e].n_rcpts);
	if (c->entries[e].n_rcpts == 1)
		return; /* its round is over anyway */
	m = marks_make(c, e);
	if (bit_get(m->bits, i) || bit_get(tried_bits(c, e, m), i))
		return;
	bit_set(tried_bits(c, e, m), i);
	m->n_tried++;
}

void
entries_new_round(struct core *c, uint32_t e)
{
	struct marks *m = marks_of(c, e);

	if (!m)
		return;
	memset(tried_bits(c, e, m), 0, marks_bytes(c, e));
	m->n_tried = 0;
}

void
entries_set_done(struct core *c, uint32_t e, struct slice bitmap)
{
	unsigned n = c->entries[e].n_rcpts;

	for (unsigned i = 0; i < n && i / 8 < bitmap.n; i++) {
		if (bit_get((const uint8_t *)bitmap.p, i))
			entries_finish_rcpt(c, e, i);
	}
}

unsigned
entries_pick(const struct core *c, uint32_t e, unsigned most, uint8_t *bits)
{
	const struct marks *m = marks_of(c, e);
	unsigned n = 0;

	memset(bits, 0, marks_bytes(c, e));
	for (unsigned i = 0; i < c->entries[e].n_rcpts && n < most; i++) {
		if (m && (bit_get(m->bits, i) || bit_get(tried_bits(c, e, m), i)))
			continue;
		bit_set(bits, i);
		n++;
	}
	return n;
}
