#include "scheduler/core/rate_impl.h"

#include "common/base/check.h"

uint64_t
rate_delta_us(uint64_t window_us)
{
	uint64_t d = window_us / 100;

	if (d < 10000)
		return 10000;
	return d > 1000000 ? 1000000 : d;
}

static uint64_t
short_us(uint64_t window_us)
{
	return window_us / 10 + rate_delta_us(window_us) + 1;
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

uint64_t
rate_share(const struct rate *r)
{
	return r->n < 10 ? 1 : r->n / 5;
}

uint64_t
rate_used(const struct rate *r)
{
	return rate_has_buckets(r) ? r->u.big.sum : r->sum;
}

static uint64_t
recent(const struct rate *r)
{
	return rate_has_buckets(r) ? r->u.big.recent : r->recent;
}

/* Stamps ------------------------------------------------------------------------------------- */
static void
stamps_advance(struct rate *r, uint64_t now)
{
	uint64_t counts;

	if (r->sum == 0)
		return;
	counts = rate_long_us(r->window_us);
	while (r->sum > 0 && *rate_stamp_at(r, 0) + counts <= now) {
		r->first = (uint8_t)(r->first + 1u == r->n ? 0 : r->first + 1u);
		r->sum--;
	}
	if (r->recent > r->sum)
		r->recent = r->sum;
	counts = short_us(r->window_us);
	while (r->recent > 0 && *rate_stamp_at(r, r->sum - r->recent) + counts <= now)
		r->recent--;
}

static void
stamps_add(struct rate *r, uint64_t now, uint64_t k)
{
	if (k > r->n)
		k = r->n; /* older ones than the last n say nothing more */
	while (k-- > 0) {
		if (r->sum == r->n)
			r->first = (uint8_t)(r->first + 1u == r->n ? 0 : r->first + 1u);
		else
			r->sum++;
		if (r->recent < r->sum)
			r->recent++;
		rate_put(rate_stamp_at(r, r->sum - 1u), now);
	}
}

/* One step at a time: whoever dies here leaves one twice, and none out of order. */
static void
stamps_take_out(struct rate *r, uint64_t stamp, uint64_t k)
{
	uint64_t from = r->sum;

	while (from > 0 && *rate_stamp_at(r, from - 1) >= stamp)
		from--;
	/* [from, sum) are of that stamp or later; the equal ones stand first. */
	for (; k > 0 && from < r->sum && *rate_stamp_at(r, from) == stamp; k--) {
		for (uint64_t i = from; i + 1 < r->sum; i++)
			rate_put(rate_stamp_at(r, i), *rate_stamp_at(r, i + 1));
		rate_put(rate_stamp_at(r, r->sum - 1u), 0);
		if (r->sum - from <= r->recent)
			r->recent--;
		r->sum--;
	}
}

/* When at most `most` of the last `of` are left that count for `counts`. */
static uint64_t
stamps_when(struct rate *r, uint64_t of, uint64_t most, uint64_t counts)
{
	return of > most ? *rate_stamp_at(r, r->sum - most - 1) + counts : 0;
}

/* Works out what is not stored word by word; false: no rate leaves such words. */
static bool
stamps_order(struct rate *r)
{
	uint64_t newest = 0, n = r->n, at = n - 1, k = 0, all = 0;

	for (uint64_t i = 0; i < n; i++) {
		all += r->u.stamps[i] != 0;
		if (r->u.stamps[i] > newest)
			newest = r->u.stamps[i];
	}
	if (newest > r->last_us)
		return false;
	for (uint64_t i = 0; i < n; i++)
		if (r->u.stamps[i] == newest && r->u.stamps[i + 1 == n ? 0 : i + 1] != newest)
			at = i;
	for (uint64_t before = newest; k < n; k++) {
		uint64_t s = r->u.stamps[at >= k ? at - k : at + n - k];

		if (s == 0 || s > before)
			break;
		before = s;
	}
	r->sum = r->recent = (uint8_t)k;
	r->first = (uint8_t)(k == 0 ? 0 : at + 1 >= k ? at + 1 - k : at + 1 + n - k);
	stamps_advance(r, r->last_us);
	return k == all;
}

/* Buckets ------------------------------------------------------------------------------------ */
static void
buckets_advance(struct rate *r, uint64_t now)
{
	struct buckets *g = &r->u.big;
	uint64_t number;

	/* Mostly nothing has run out since. */
	if (g->recent > 0 && rate_bucket_end(g, g->recent_first) + g->short_us > now &&
	    rate_bucket_end(g, g->first) + g->long_us > now)
		return;
	number = now / g->width_us;
	while (g->recent > 0 && rate_bucket_end(g, g->recent_first) + g->short_us <= now)
		g->recent -= g->b[g->recent_first++ % BUCKETS];
	while (g->sum > 0 && rate_bucket_end(g, g->first) + g->long_us <= now) {
		uint64_t *b = &g->b[g->first++ % BUCKETS];

		g->sum -= *b;
		if (*b)
			rate_put(b, 0);
	}
	if (g->recent == 0)
		g->recent_first = number;
	if (g->sum == 0)
		g->first = number;
	CHECK(number - g->first < BUCKETS);
}

static inline void
buckets_add(struct rate *r, uint64_t now, uint64_t k)
{
	struct buckets *g = &r->u.big;
	uint64_t *b = &g->b[now / g->width_us % BUCKETS];

	if (k > SUM_MAX - g->sum)
		k = SUM_MAX - g->sum;
	rate_put(b, *b + k);
	g->sum += k;
	g->recent += k;
}

static void
buckets_take_out(struct rate *r, uint64_t stamp, uint64_t k)
{
	struct buckets *g = &r->u.big;
	uint64_t number = stamp / g->width_us;
	uint64_t *b = &g->b[number % BUCKETS];

	if (number < g->first || number > r->last_us / g->width_us)
		return;
	if (k > *b)
		k = *b;
	rate_put(b, *b - k);
	g->sum -= k;
	if (number >= g->recent_first)
		g->recent -= k;
}

/* When at most `most` of `left`, that count for `counts` from number `b` on, are left. */
static uint64_t
buckets_when(const struct buckets *g, uint64_t b, uint64_t left, uint64_t most, uint64_t counts)
{
	uint64_t when = 0;

	for (; left > most; b++) {
		left -= g->b[b % BUCKETS];
		when = rate_bucket_end(g, b) + counts;
	}
	return when;
}

bool
rate_order_buckets(struct rate *r)
{
	struct buckets *g = &r->u.big;
	uint64_t number, sum = 0;

	g->long_us = rate_long_us(r->window_us);
	g->short_us = short_us(r->window_us);
	/* A bucket counts until its end + long_us; so 254 widths reach over all that counts, and
	 * the bucket that comes round has been dropped by then. */
	g->width_us = (g->long_us + BUCKETS - 3) / (BUCKETS - 2);
	number = (r->last_us ? r->last_us : BIAS) / g->width_us;
	for (unsigned i = 0; i < BUCKETS; i++) {
		if (g->b[i] > SUM_MAX - sum)
			return false;
		sum += g->b[i];
	}
	g->sum = g->recent = sum;
	g->first = g->recent_first = number - (BUCKETS - 1);
	if (r->last_us == 0)
		return sum == 0;
	buckets_advance(r, r->last_us);
	return true;
}

bool
rate_order_words(struct rate *r)
{
	return rate_has_buckets(r) ? rate_order_buckets(r) : stamps_order(r);
}

/* Both --------------------------------------------------------------------------------------- */
/* Until when something larger than n closes the rate: it takes as many windows as it is times n. */
uint64_t
rate_owed_until(const struct rate *r)
{
	__extension__ unsigned __int128 t =
		(__extension__(unsigned __int128) r->owed * r->window_us) / r->n;
	uint64_t most = RATE_WINDOW_MAX_US * 8;

	return r->owed_us + (t < most ? (uint64_t)t : most) + rate_delta_us(r->window_us) + 1;
}

uint64_t
rate_advance(struct rate *r, uint64_t now_us)
{
	uint64_t now = now_us + BIAS;

	if (now <= r->last_us)
		return r->last_us;
	if (rate_has_buckets(r))
		buckets_advance(r, now);
	else
		stamps_advance(r, now);
	if (r->owed && rate_owed_until(r) <= now)
		rate_put(&r->owed, 0);
	rate_put(&r->last_us, now);
	return now;
}

static bool
is_closed(const struct rate *r, uint64_t now)
{
	return now < r->closed_us || r->owed;
}

static uint64_t
room_at(const struct rate *r, uint64_t now)
{
	uint64_t share = rate_share(r), used = rate_used(r), late = recent(r);

	if (late >= share || used >= r->n || is_closed(r, now))
		return 0;
	return r->n - used < share - late ? r->n - used : share - late;
}

bool
rate_is_empty(struct rate *r, uint64_t now_us)
{
	uint64_t now = rate_advance(r, now_us);

	return rate_used(r) == 0 && !is_closed(r, now);
}

uint64_t
rate_room(struct rate *r, uint64_t now_us)
{
	return room_at(r, rate_advance(r, now_us));
}

/* How much may count already, against n and against the share, for `k` to go. */
static uint64_t
before_long(const struct rate *r, uint64_t k)
{
	return k > r->n ? 0 : r->n - k;
}

static uint64_t
before_short(const struct rate *r, uint64_t k)
{
	uint64_t share = rate_share(r);

	return k > share ? 0 : share - k;
}

static bool
fits_at(const struct rate *r, uint64_t now, uint64_t k)
{
	return rate_used(r) <= before_long(r, k) && recent(r) <= before_short(r, k) &&
	       !is_closed(r, now);
}

bool
rate_fits(struct rate *r, uint64_t now_us, uint64_t k)
{
	return fits_at(r, rate_advance(r, now_us), k);
}

static uint64_t
later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

uint64_t
rate_when_fits(struct rate *r, uint64_t now_us, uint64_t k)
{
	uint64_t when = rate_advance(r, now_us), most = before_long(r, k), few = before_short(r, k);
	struct buckets *g = &r->u.big;

	when = later(when, r->closed_us);
	if (r->owed)
		when = later(when, rate_owed_until(r));
	if (rate_has_buckets(r)) {
		when = later(when, buckets_when(g, g->first, g->sum, most, g->long_us));
		when = later(when, buckets_when(g, g->recent_first, g->recent, few, g->short_us));
	} else {
		when = later(when, stamps_when(r, r->sum, most, rate_long_us(r->window_us)));
		when = later(when, stamps_when(r, r->recent, few, short_us(r->window_us)));
	}
	return when - BIAS;
}

uint64_t
rate_when(struct rate *r, uint64_t now_us)
{
	return rate_when_fits(r, now_us, 1);
}

static uint64_t
amount(uint64_t k)
{
	return k < RATE_N_MAX ? k : RATE_N_MAX;
}

void
rate_add(struct rate *r, uint64_t now, uint64_t k)
{
	if (rate_has_buckets(r))
		buckets_add(r, now, k);
	else
		stamps_add(r, now, k);
}

/* One thing of `k`; a second one that is too large, before the first is made up for, adds to it. */
static void
add_whole(struct rate *r, uint64_t now, uint64_t k)
{
	if (k > r->n) {
		if (r->owed == 0)
			rate_put(&r->owed_us, now);
		rate_put(&r->owed, amount(r->owed + k));
	}
	rate_add(r, now, k);
}

void
rate_force(struct rate *r, uint64_t now_us, uint64_t k)
{
	uint64_t now = now_us + BIAS;

	if (now != r->last_us)
		now = rate_advance(r, now_us);
	if (rate_has_buckets(r))
		buckets_add(r, now, amount(k));
	else
		stamps_add(r, now, amount(k));
}

void
rate_charge(struct rate *r, uint64_t now_us, uint64_t k)
{
	uint64_t now = rate_advance(r, now_us);

	CHECK(fits_at(r, now, k));
	add_whole(r, now, amount(k));
}

uint64_t
rate_alike_until(const struct rate *r, uint64_t now_us)
{
	uint64_t now = now_us + BIAS;

	if (!rate_has_buckets(r) || now < r->last_us)
		return 0;
	return rate_bucket_end(&r->u.big, now / r->u.big.width_us) - BIAS;
}

void
rate_past(struct rate *r, uint64_t now_us, uint64_t age_us, uint64_t k)
{
	if (age_us >= BIAS / 2)
		return;
	/* `now` less `age` may be before the boot: less than 0, but not less than -BIAS. */
	add_whole(r, rate_advance(r, now_us - age_us), amount(k));
}

void
rate_refund(struct rate *r, uint64_t stamp_us, uint64_t k)
{
	uint64_t stamp = stamp_us + BIAS;

	if (rate_has_buckets(r))
		buckets_take_out(r, stamp, k);
	else
		stamps_take_out(r, stamp, k);
	if (r->owed && r->owed_us == stamp) {
		uint64_t left = r->owed > k ? r->owed - k : 0;

		rate_put(&r->owed, left > r->n ? left : 0);
	}
}

void
rate_close_until(struct rate *r, uint64_t boot_us)
{
	if (boot_us + BIAS > r->closed_us)
		rate_put(&r->closed_us, boot_us + BIAS);
}
