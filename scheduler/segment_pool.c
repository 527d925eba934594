#include "scheduler/segment_pool.h"

#include <string.h>

#include "common/base/limits.h"

#define WINDOW_SECONDS 3

/* Seconds that have passed since leave the ring. */
static void
advance(struct segment_pool *p, uint64_t now_us)
{
	uint64_t now = now_us / 1000000u;

	if (now >= p->second + SEGMENT_POOL_SECONDS) {
		memset(p->bytes, 0, sizeof p->bytes);
		p->second = now;
	}
	while (p->second < now)
		p->bytes[++p->second % SEGMENT_POOL_SECONDS] = 0;
}

void
segment_pool_note(struct segment_pool *p, uint64_t now_us, uint64_t bytes)
{
	advance(p, now_us);
	p->bytes[p->second % SEGMENT_POOL_SECONDS] += bytes;
}

unsigned
segment_pool_target(struct segment_pool *p, uint64_t now_us, uint64_t file_bytes)
{
	uint64_t most = 0, n;

	advance(p, now_us);
	for (unsigned i = 0; i + WINDOW_SECONDS <= SEGMENT_POOL_SECONDS; i++) {
		uint64_t sum = 0;

		for (unsigned k = 0; k < WINDOW_SECONDS; k++)
			sum += p->bytes[(p->second + SEGMENT_POOL_SECONDS - i - k) %
					SEGMENT_POOL_SECONDS];
		if (sum > most)
			most = sum;
	}
	n = (most + file_bytes - 1) / file_bytes;
	if (n < SEGMENT_POOL_LOW)
		return SEGMENT_POOL_LOW;
	return n > SEGMENT_POOL_HIGH ? SEGMENT_POOL_HIGH : (unsigned)n;
}
