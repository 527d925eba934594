#include "scheduler/core/rate.h"

#include <stdbool.h>
#include <stddef.h>

#include "common/base/check.h"
#include "common/base/mem.h"

#define STAMPS_MAX 128
#define BUCKETS    256

struct rate {
	uint64_t n;
	uint64_t window_us;
	uint64_t delta_us;
	uint64_t long_us;  /* window + delta: how long a charge counts against n */
	uint64_t short_us; /* tenth + delta: against the share */
	uint64_t last_us;  /* latest clock value seen */
	uint64_t sum;      /* of all that counts against n */
	uint64_t width_us; /* of a bucket; 0: stamps */
	uint64_t first;    /* stamps: position of the oldest; buckets: number of the oldest kept */
	uint32_t share;
	union {
		uint64_t stamps[STAMPS_MAX]; /* ring by `first`; n of them in use at most */
		uint32_t buckets[BUCKETS];   /* ring by number */
	} u;
};

uint64_t
rate_delta_us(uint64_t window_us)
{
	uint64_t d = window_us / 100;

	if (d < 10000)
		return 10000;
	return d > 1000000 ? 1000000 : d;
}

struct rate *
rate_new(uint64_t n, uint64_t window_us)
{
	struct rate *r = mem_zalloc(sizeof(*r));

	CHECK(n > 0 && window_us >= 1000);
	r->n = n;
	r->window_us = window_us;
	r->delta_us = rate_delta_us(window_us);
	/* One more: a window holds both its ends. */
	r->long_us = window_us + r->delta_us + 1;
	r->short_us = window_us / 10 + r->delta_us + 1;
	r->share = n / 5 > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)(n / 5);
	if (r->share == 0)
		r->share = 1;
	/* A bucket counts until its end + long_us; so 254 widths reach over all that counts, and
	 * the bucket that comes round has been dropped by then. */
	if (n > STAMPS_MAX)
		r->width_us = (r->long_us + BUCKETS - 3) / (BUCKETS - 2);
	return r;
}

void
rate_free(struct rate **r)
{
	mem_free(*r);
	*r = NULL;
}

uint64_t
rate_window_us(const struct rate *r)
{
	return r->window_us;
}

uint64_t
rate_limit(const struct rate *r)
{
	return r->n;
}

uint32_t
rate_share(const struct rate *r)
{
	return r->share;
}

uint64_t
rate_used(const struct rate *r)
{
	return r->sum;
}

/* Stamps ------------------------------------------------------------------------------------- */
static uint64_t *
stamp_at(struct rate *r, uint64_t i)
{
	return &r->u.stamps[(r->first + i) % STAMPS_MAX];
}

static void
stamps_advance(struct rate *r, uint64_t now)
{
	while (r->sum > 0 && *stamp_at(r, 0) + r->long_us <= now) {
		r->first = (r->first + 1) % STAMPS_MAX;
		r->sum--;
	}
}

/* Charges that still count against the share; counting stops at the share. */
static uint32_t
stamps_recent(struct rate *r, uint64_t now)
{
	uint32_t k = 0;

	while (k < r->share && k<r->sum && * stamp_at(r, r->sum - 1 - k) + r->short_us> now)
		k++;
	return k;
}

static void
stamps_add(struct rate *r, uint64_t now, uint32_t k)
{
	if (k > r->n)
		k = (uint32_t)r->n; /* older ones than the last n say nothing more */
	while (k-- > 0) {
		if (r->sum == r->n) {
			r->first = (r->first + 1) % STAMPS_MAX;
			r->sum--;
		}
		*stamp_at(r, r->sum++) = now;
	}
}

static void
stamps_take_out(struct rate *r, uint64_t stamp, uint32_t k)
{
	uint64_t from = r->sum;

	while (from > 0 && *stamp_at(r, from - 1) >= stamp)
		from--;
	/* [from, sum) are of that stamp or later; the equal ones stand first. */
	while (k-- > 0 && from < r->sum && *stamp_at(r, from) == stamp) {
		for (uint64_t i = from; i + 1 < r->sum; i++)
			*stamp_at(r, i) = *stamp_at(r, i + 1);
		r->sum--;
	}
}

/* Buckets ------------------------------------------------------------------------------------ */
static uint64_t
bucket_end(const struct rate *r, uint64_t number)
{
	return (number + 1) * r->width_us;
}

static void
buckets_advance(struct rate *r, uint64_t now)
{
	uint64_t number = now / r->width_us;

	if (r->sum == 0 || number >= r->first + 2 * BUCKETS) {
		for (unsigned i = 0; i < BUCKETS; i++)
			r->u.buckets[i] = 0;
		r->sum = 0;
		r->first = number;
		return;
	}
	while (r->first < number && bucket_end(r, r->first) + r->long_us <= now) {
		uint32_t *b = &r->u.buckets[r->first % BUCKETS];

		r->sum -= *b;
		*b = 0;
		r->first++;
	}
	CHECK(number - r->first < BUCKETS);
}

static uint64_t
buckets_recent(const struct rate *r, uint64_t now)
{
	uint64_t number = now / r->width_us, k = 0;

	for (uint64_t b = number;; b--) {
		if (bucket_end(r, b) + r->short_us <= now)
			break;
		k += r->u.buckets[b % BUCKETS];
		if (b == r->first)
			break;
	}
	return k;
}

static uint64_t
buckets_when(const struct rate *r, uint64_t now)
{
	uint64_t number = now / r->width_us, when = now;
	uint64_t left = r->sum, recent = buckets_recent(r, now);

	for (uint64_t b = r->first; left >= r->n && b <= number; b++) {
		left -= r->u.buckets[b % BUCKETS];
		when = bucket_end(r, b) + r->long_us;
	}
	for (uint64_t b = r->first; recent >= r->share && b <= number; b++) {
		if (bucket_end(r, b) + r->short_us <= now)
			continue;
		recent -= r->u.buckets[b % BUCKETS];
		if (bucket_end(r, b) + r->short_us > when)
			when = bucket_end(r, b) + r->short_us;
	}
	return when;
}

/* Both --------------------------------------------------------------------------------------- */
static uint64_t
advance(struct rate *r, uint64_t now)
{
	if (now < r->last_us)
		now = r->last_us;
	r->last_us = now;
	if (r->width_us)
		buckets_advance(r, now);
	else
		stamps_advance(r, now);
	return now;
}

uint32_t
rate_room(struct rate *r, uint64_t now_us)
{
	uint64_t now = advance(r, now_us);
	uint64_t recent = r->width_us ? buckets_recent(r, now) : stamps_recent(r, now);
	uint64_t room = r->sum < r->n ? r->n - r->sum : 0;

	if (recent >= r->share)
		return 0;
	return room < r->share - recent ? (uint32_t)room : (uint32_t)(r->share - recent);
}

uint64_t
rate_when(struct rate *r, uint64_t now_us)
{
	uint64_t now = advance(r, now_us), when = now, t;

	if (r->width_us)
		return buckets_when(r, now);
	if (r->sum >= r->n)
		when = *stamp_at(r, 0) + r->long_us;
	if (r->sum >= r->share) {
		t = *stamp_at(r, r->sum - r->share) + r->short_us;
		when = t > when ? t : when;
	}
	return when;
}

void
rate_force(struct rate *r, uint64_t now_us, uint32_t k)
{
	uint64_t now = advance(r, now_us);

	if (!r->width_us) {
		stamps_add(r, now, k);
		return;
	}
	r->u.buckets[now / r->width_us % BUCKETS] += k;
	r->sum += k;
}

void
rate_charge(struct rate *r, uint64_t now_us, uint32_t k)
{
	CHECK(k <= rate_room(r, now_us));
	rate_force(r, now_us, k);
}

void
rate_refund(struct rate *r, uint64_t stamp_us, uint32_t k)
{
	uint64_t number;
	uint32_t *b;

	if (!r->width_us) {
		stamps_take_out(r, stamp_us, k);
		return;
	}
	number = stamp_us / r->width_us;
	if (number < r->first || number >= r->first + BUCKETS)
		return;
	b = &r->u.buckets[number % BUCKETS];
	if (k > *b)
		k = *b;
	*b -= k;
	r->sum -= k;
}

void
rate_change(struct rate **rate, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	struct rate *old = *rate, *r;

	if (old && old->n == n && old->window_us == window_us)
		return;
	r = rate_new(n, window_us);
	if (old && old->width_us) {
		uint64_t number = advance(old, now_us) / old->width_us;

		for (uint64_t b = old->first; b <= number; b++) {
			uint64_t end = bucket_end(old, b);

			if (old->u.buckets[b % BUCKETS])
				rate_force(r, end < now_us ? end : now_us,
					   old->u.buckets[b % BUCKETS]);
		}
	} else if (old) {
		for (uint64_t i = 0; i < old->sum; i++)
			rate_force(r, *stamp_at(old, i), 1);
	}
	rate_free(rate);
	*rate = r;
}
