#include "bench/load/load_stats.h"

/* 0..15 are exact; from there sixteen buckets for each doubling. */
static unsigned
bucket_of(uint64_t us)
{
	unsigned octave, b;

	if (us < 16)
		return (unsigned)us;
	octave = 63u - (unsigned)__builtin_clzll(us);
	b = (octave - 3) * 16 + (unsigned)(us >> (octave - 4) & 15);
	return b < LOAD_BUCKETS ? b : LOAD_BUCKETS - 1;
}

/* The greatest latency that falls into bucket `b`. */
static uint64_t
bucket_top(unsigned b)
{
	unsigned octave = b / 16 + 3;

	return b < 16 ? b : ((UINT64_C(16) + b % 16 + 1) << (octave - 4)) - 1;
}

void
load_stats_latency(struct load_stats *s, uint64_t us)
{
	s->buckets[bucket_of(us)]++;
	s->n_latencies++;
	if (us > s->max_us)
		s->max_us = us;
}

uint64_t
load_stats_percentile(const struct load_stats *s, double share)
{
	uint64_t want = (uint64_t)(share * (double)s->n_latencies), sum = 0;

	if (s->n_latencies == 0)
		return 0;
	for (unsigned b = 0; b < LOAD_BUCKETS; b++) {
		sum += s->buckets[b];
		if (sum > 0 && sum >= want)
			return bucket_top(b) < s->max_us ? bucket_top(b) : s->max_us;
	}
	return s->max_us;
}

void
load_stats_json(struct json *j, const struct load_stats *s)
{
	uint64_t us = s->last_us > s->first_us ? s->last_us - s->first_us : 0;

#define X(name) json_key_u64(j, #name, s->name);
	LOAD_COUNTERS(X)
#undef X
	json_key_u64(j, "first_us", s->first_us);
	json_key_u64(j, "last_us", s->last_us);
	json_key_u64(j, "elapsed_ms", us / 1000);
	json_key_u64(j, "rate", us > 0 ? s->messages * 1000000 / us : 0);
	json_key_u64(j, "latency_p50_us", load_stats_percentile(s, 0.50));
	json_key_u64(j, "latency_p99_us", load_stats_percentile(s, 0.99));
	json_key_u64(j, "latency_max_us", s->max_us);
}
