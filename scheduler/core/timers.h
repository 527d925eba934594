/* timers: a binary heap of (boot µs, queue); each queue stands in it at most once. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Embedded; zero-initialised is empty. `pos` answers where a queue stands (an element of the
 * owner). */
struct timers {
	struct timer {
		uint64_t at;
		uint32_t queue;
	} * heap;
	size_t n;
	size_t cap;
	uint32_t *(*pos)(void *arg, uint32_t queue); /* UINT32_MAX there: not in the heap */
	void *arg;
};

void timers_clear(struct timers *t);
/* Sets, moves or (at UINT64_MAX) takes out the queue's timer. */
void timers_set(struct timers *t, uint32_t queue, uint64_t at);
/* Time of the earliest, UINT64_MAX when there is none. */
uint64_t timers_next(const struct timers *t);
/* Takes the earliest out; the heap may not be empty. */
uint32_t timers_pop(struct timers *t);
