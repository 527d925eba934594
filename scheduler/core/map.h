/* map: u64 to u64, open addressing; for what most entries or queues do not have. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAP_NONE UINT64_MAX /* no value is this */

/* Embedded; zero-initialised is empty. */
struct map {
	struct map_cell {
		uint64_t key;
		uint64_t value; /* MAP_NONE: the cell is empty */
	} * cells;
	size_t cap; /* a power of two, or 0 */
	size_t n;
};

void map_clear(struct map *m); /* frees; empty again */
/* MAP_NONE when there is none. */
uint64_t map_get(const struct map *m, uint64_t key);
/* Adds or replaces. */
void map_put(struct map *m, uint64_t key, uint64_t value);
/* The value taken out, or MAP_NONE. */
uint64_t map_take(struct map *m, uint64_t key);
