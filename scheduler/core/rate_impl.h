/* rate_impl: what rate.c (charging, asking) and rate_place.c (making, changing, finding again)
 * share. */
#pragma once

#include "scheduler/core/rate.h"

/* The process may be killed between any two stores, and the memory lives on. So what counts stands
 * in words that are valid by themselves, each changed by one store, and in this order:
 *   what has run out leaves; `last_us`; what is charged.
 * All else (sums, positions) is worked out again by rate_place(). */
#define STAMPS_MAX 128
#define BUCKETS    256

/* So many that no sum runs over. */
#define SUM_MAX (UINT64_C(1) << 61)

/* Times inside are later by this: what happened before the boot has a stamp, and none is 0. */
#define BIAS (UINT64_C(1) << 52)

enum kind {
	KIND_NONE, /* zeros: nothing was charged */
	KIND_STAMPS = 0x52415331,
	KIND_BUCKETS = 0x52415431,
	KIND_UNKNOWN = 0x52415531,  /* rate_unknown(): since last_us, for windows up to window_us */
	KIND_CHANGING = 0x52415631, /* who made it over died */
};

/* What counts at `number` stands in b[number % BUCKETS]; 0 in those of other times. So a word
 * always belongs to the one number of its place that is at most BUCKETS - 1 before that of
 * last_us. */
struct buckets {
	uint64_t sum;          /* of all that counts against n */
	uint64_t recent;       /* of what counts against the share */
	uint64_t first;        /* oldest number in sum */
	uint64_t recent_first; /* oldest number in recent */
	uint64_t width_us;
	uint64_t long_us;  /* window + delta: how long a charge counts against n */
	uint64_t short_us; /* tenth + delta: against the share */
	uint64_t b[BUCKETS];
};

struct rate {
	uint32_t kind;
	uint8_t placed;
	uint8_t first;  /* stamps: place of the oldest that counts */
	uint8_t sum;    /* stamps: that count against n */
	uint8_t recent; /* stamps: of these, the last ones, against the share */
	uint64_t n;
	uint64_t window_us;
	uint64_t last_us;   /* latest clock value seen */
	uint64_t closed_us; /* nothing before */
	uint64_t owed_us;   /* something larger than n was charged then: */
	uint64_t owed;      /* this much; 0: no */
	union {
		/* A ring of n. From the newest backwards they only grow older; after the newest
		 * may stand zeros, what was given back. */
		uint64_t stamps[STAMPS_MAX];
		struct buckets big;
	} u;
};

_Static_assert(offsetof(struct rate, u) + 8 == RATE_BYTES_MIN, "a rate of 1 is the smallest");

/* One store, after all before it: the compiler keeps the order, and what a killed process stored
 * is in the memory in that order. */
static inline void
rate_put(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void
rate_put_kind(struct rate *r, enum kind kind)
{
	__atomic_store_n(&r->kind, (uint32_t)kind, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* nor does what follows come before it */
}

/* One more: a window holds both its ends. */
static inline uint64_t
rate_long_us(uint64_t window_us)
{
	return window_us + rate_delta_us(window_us) + 1;
}

static inline bool
rate_has_buckets(const struct rate *r)
{
	return r->kind == KIND_BUCKETS;
}

static inline uint64_t *
rate_stamp_at(struct rate *r, uint64_t i)
{
	uint64_t place = r->first + i;

	return &r->u.stamps[place >= r->n ? place - r->n : place];
}

static inline uint64_t
rate_bucket_end(const struct buckets *g, uint64_t number)
{
	return (number + 1) * g->width_us;
}

/* Until when something larger than n closes the rate. */
uint64_t rate_owed_until(const struct rate *r);
/* What has run out at `now_us` leaves; the latest clock value, in internal time. */
uint64_t rate_advance(struct rate *r, uint64_t now_us);
/* `now` as rate_advance() returned it. */
void rate_add(struct rate *r, uint64_t now, uint64_t k);
/* Works out what is not stored word by word; false: no rate leaves such words. */
bool rate_order_words(struct rate *r);
bool rate_order_buckets(struct rate *r); /* the same, whatever its kind says */
