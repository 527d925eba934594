/* load_stats: what a load run counted; latencies in a histogram of sixteenth-octaves. */
#pragma once

#include <stdint.h>

#include "common/base/json.h"

#define LOAD_COUNTERS(X)                                                                           \
	X(messages)          /* with at least one recipient acknowledged */                        \
	X(acknowledged)      /* recipients */                                                      \
	X(refused)           /* recipients, by any 4xx or 5xx */                                   \
	X(refused_temporary) /* of these, by 4xx */                                                \
	X(unknown)           /* recipients whose dot was sent and never answered */                \
	X(returned)          /* transactions broken before the dot, begun anew under another id */ \
	X(connects)                                                                                \
	X(connect_failures)                                                                        \
	X(lost_connections)                                                                        \
	X(bytes) /* acknowledged content */

#define LOAD_BUCKETS (40 * 16)

struct load_stats {
#define X(name) uint64_t name;
	LOAD_COUNTERS(X)
#undef X
	uint32_t buckets[LOAD_BUCKETS];
	uint64_t n_latencies, max_us;
	uint64_t first_us, last_us; /* wall clock: first MAIL sent, last 250 read */
};

/* From the final dot written to its answer read. */
void load_stats_latency(struct load_stats *s, uint64_t us);
/* The least latency that `share` (0..1) of all do not exceed, to within 5 %; 0 without any. */
uint64_t load_stats_percentile(const struct load_stats *s, double share);

/* Members into an object already begun. */
void load_stats_json(struct json *j, const struct load_stats *s);
