#include "scheduler/core/backoff_impl.h"

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/limits.h"

static uint64_t
key_of(uint32_t qi, uint32_t source)
{
	return (uint64_t)qi << 32 | source;
}

static uint32_t *
heap_position(void *arg, uint32_t i)
{
	struct core *c = arg;

	return &c->backoffs[i].heap_pos;
}

void
backoff_make(struct core *c)
{
	c->backoff_timers.pos = heap_position;
	c->backoff_timers.arg = c;
	c->free_backoff = CORE_NONE;
}

void
backoff_clear(struct core *c)
{
	for (uint32_t i = 0; i < c->n_backoffs; i++)
		mem_free(c->backoffs[i].sources);
	mem_free(c->backoffs);
	map_clear(&c->backoff_map);
	timers_clear(&c->backoff_timers);
}

uint32_t
backoff_find(const struct core *c, uint32_t qi, uint32_t source)
{
	uint64_t i = map_get(&c->backoff_map, key_of(qi, source));

	return i == MAP_NONE ? CORE_NONE : (uint32_t)i;
}

uint32_t
backoff_new(struct core *c, uint32_t qi, uint32_t source)
{
	uint32_t i = c->free_backoff;

	if (i != CORE_NONE) {
		c->free_backoff = c->backoffs[i].queue;
	} else {
		i = c->n_backoffs++;
		mem_grow((void **)&c->backoffs, &c->backoffs_cap, (size_t)i + 1,
			 sizeof(*c->backoffs));
	}
	c->backoffs[i] = (struct backoff){
		.queue = qi,
		.source = source,
		.heap_pos = UINT32_MAX,
		.made = true,
	};
	map_put(&c->backoff_map, key_of(qi, source), i);
	return i;
}

void
backoff_drop(struct core *c, uint32_t i)
{
	struct backoff *b = &c->backoffs[i];

	timers_set(&c->backoff_timers, i, NEVER);
	map_take(&c->backoff_map, key_of(b->queue, b->source));
	mem_free(b->sources);
	*b = (struct backoff){ .queue = c->free_backoff, .heap_pos = UINT32_MAX };
	c->free_backoff = i;
}

bool
backoff_names(const struct core *c, uint32_t qi, uint32_t source)
{
	uint32_t i = backoff_find(c, qi, CORE_NONE);

	if (i == CORE_NONE)
		return true;
	for (size_t k = 0; k < c->backoffs[i].n_sources; k++) {
		if (c->backoffs[i].sources[k] == source)
			return true;
	}
	return false;
}

uint64_t
backoff_probe_at(const struct core *c, uint32_t qi)
{
	uint32_t i = backoff_find(c, qi, CORE_NONE);

	return i == CORE_NONE ? 0 : c->backoffs[i].probe_at;
}

void
backoff_probed(struct core *c, uint32_t qi)
{
	uint32_t i = backoff_find(c, qi, CORE_NONE);

	if (i != CORE_NONE)
		c->backoffs[i].probe_at = c->now.boot_us + c->backoffs[i].probe_us;
}

void
backoff_note_sources(struct core *c, uint32_t qi, int by)
{
	struct queue *q = &c->queues[qi];

	q->backoff_source = (uint32_t)((int)q->n_backoff_sources + by) > 0;
	q->n_backoff_sources = (uint16_t)(q->n_backoff_sources + by);
}

void
backoff_renumber(struct core *c, const uint32_t *map)
{
	struct map fresh = { 0 };

	for (uint32_t i = 0; i < c->n_backoffs; i++) {
		struct backoff *b = &c->backoffs[i];
		size_t n = 0;

		if (!b->made)
			continue;
		for (size_t k = 0; k < b->n_sources; k++) {
			if (map[b->sources[k]] != CORE_NONE)
				b->sources[n++] = map[b->sources[k]];
		}
		b->n_sources = n;
		if (backoff_is_whole(b) || map[b->source] != CORE_NONE)
			continue;
		backoff_note_sources(c, b->queue, -1);
		backoff_drop(c, i);
	}
	for (uint32_t i = 0; i < c->n_backoffs; i++) {
		struct backoff *b = &c->backoffs[i];

		if (!b->made)
			continue;
		if (!backoff_is_whole(b))
			b->source = map[b->source];
		map_put(&fresh, key_of(b->queue, b->source), i);
	}
	map_clear(&c->backoff_map);
	c->backoff_map = fresh;
}

void
backoff_check(const struct core *c)
{
	uint32_t n = 0, *sources = mem_calloc((size_t)c->n_queues + 1, sizeof(*sources));

	for (uint32_t i = 0; i < c->n_backoffs; i++) {
		const struct backoff *b = &c->backoffs[i];

		if (!b->made)
			continue;
		n++;
		CHECK(b->queue < c->n_queues && backoff_find(c, b->queue, b->source) == i);
		CHECK(backoff_is_whole(b) || (b->source < c->n_sources && !b->over));
		CHECK(b->over || !b->until_wall || b->heap_pos != UINT32_MAX);
		CHECK(!b->over || b->heap_pos != UINT32_MAX);
		sources[b->queue] += !backoff_is_whole(b);
		for (size_t k = 0; k < b->n_sources; k++)
			CHECK(b->sources[k] < c->n_sources);
	}
	CHECK(n == c->backoff_map.n);
	for (uint32_t qi = 0; qi < c->n_queues; qi++) {
		const struct queue *q = &c->queues[qi];
		uint32_t i = backoff_find(c, qi, CORE_NONE);
		const struct backoff *b = i == CORE_NONE ? NULL : &c->backoffs[i];
		const struct limit *l = q->active ? &c->limits[q->active->learned] : NULL;

		CHECK(q->backoff == (b && !b->over));
		CHECK(q->backoff_source == (sources[qi] > 0));
		CHECK(q->n_backoff_sources == sources[qi]);
		CHECK(q->backoff || (!q->only_sources && !q->learning && !q->probing));
		CHECK(q->learning == (b && backoff_is_automatic(b)));
		/* A rate that nobody learns any more refuses nothing. */
		CHECK(!l || q->active->learned == 0 || !q->active->settings || b ||
		      !limit_is_in_force(l));
	}
	for (size_t i = 0; i < c->backoff_timers.n; i++)
		CHECK(c->backoffs[c->backoff_timers.heap[i].queue].heap_pos == i);
	mem_free(sources);
}
