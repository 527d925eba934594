#include "scheduler/core/map.h"

#include "common/base/check.h"
#include "common/base/mem.h"

void
map_clear(struct map *m)
{
	mem_free(m->cells);
	*m = (struct map){ 0 };
}

static size_t
home(const struct map *m, uint64_t key)
{
	key ^= key >> 32;
	key *= 0x9e3779b97f4a7c15ull;
	key ^= key >> 29;
	return key & (m->cap - 1);
}

/* The cell of the key, or the empty one where it would go. */
static size_t
find(const struct map *m, uint64_t key)
{
	size_t i = home(m, key);

	while (m->cells[i].value != MAP_NONE && m->cells[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return i;
}

uint64_t
map_get(const struct map *m, uint64_t key)
{
	return m->n ? m->cells[find(m, key)].value : MAP_NONE;
}

static void
resize(struct map *m, size_t cap)
{
	struct map other = { .cap = cap };

	other.cells = mem_calloc(cap, sizeof(*other.cells));
	for (size_t i = 0; i < cap; i++)
		other.cells[i].value = MAP_NONE;
	for (size_t i = 0; i < m->cap; i++) {
		if (m->cells[i].value != MAP_NONE)
			map_put(&other, m->cells[i].key, m->cells[i].value);
	}
	map_clear(m);
	*m = other;
}

void
map_put(struct map *m, uint64_t key, uint64_t value)
{
	size_t i;

	CHECK(value != MAP_NONE);
	if ((m->n + 1) * 3 > m->cap * 2)
		resize(m, m->cap ? m->cap * 2 : 16);
	i = find(m, key);
	if (m->cells[i].value == MAP_NONE)
		m->n++;
	m->cells[i] = (struct map_cell){ key, value };
}

uint64_t
map_take(struct map *m, uint64_t key)
{
	size_t hole, i;
	uint64_t value;

	if (m->n == 0)
		return MAP_NONE;
	hole = find(m, key);
	value = m->cells[hole].value;
	if (value == MAP_NONE)
		return MAP_NONE;
	/* Close the hole: move back what could not stand at its home because of it. */
	for (i = (hole + 1) & (m->cap - 1); m->cells[i].value != MAP_NONE;
	     i = (i + 1) & (m->cap - 1)) {
		size_t at = home(m, m->cells[i].key);

		if (((i - at) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
			m->cells[hole] = m->cells[i];
			hole = i;
		}
	}
	m->cells[hole].value = MAP_NONE;
	m->n--;
	if (m->cap > 1024 && m->n * 8 < m->cap)
		resize(m, m->cap / 4);
	return value;
}
