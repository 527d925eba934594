/* segment_pool: how many free segments are to be kept: what was handed out of late, in the busiest
 * three seconds of the last ten. Pure. */
#pragma once

#include <stdint.h>

#define SEGMENT_POOL_LOW     2
#define SEGMENT_POOL_HIGH    32
#define SEGMENT_POOL_SECONDS 10

/* Zero-initialised is idle. */
struct segment_pool {
	uint64_t bytes[SEGMENT_POOL_SECONDS]; /* a ring, by second */
	uint64_t second;                      /* the newest in it */
};

void segment_pool_note(struct segment_pool *p, uint64_t now_us, uint64_t bytes);
/* So many are to be free, SEGMENT_POOL_LOW..SEGMENT_POOL_HIGH. */
unsigned segment_pool_target(struct segment_pool *p, uint64_t now_us, uint64_t file_bytes);
