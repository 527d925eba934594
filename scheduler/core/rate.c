#include "scheduler/core/rate.h"

#include "common/base/check.h"
#include "common/base/mem.h"

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
static void
put(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void
put_kind(struct rate *r, enum kind kind)
{
	__atomic_store_n(&r->kind, (uint32_t)kind, __ATOMIC_RELEASE);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* nor does what follows come before it */
}

uint64_t
rate_delta_us(uint64_t window_us)
{
	uint64_t d = window_us / 100;

	if (d < 10000)
		return 10000;
	return d > 1000000 ? 1000000 : d;
}

/* One more: a window holds both its ends. */
static uint64_t
long_us(uint64_t window_us)
{
	return window_us + rate_delta_us(window_us) + 1;
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

static bool
has_buckets(const struct rate *r)
{
	return r->kind == KIND_BUCKETS;
}

uint64_t
rate_used(const struct rate *r)
{
	return has_buckets(r) ? r->u.big.sum : r->sum;
}

static uint64_t
recent(const struct rate *r)
{
	return has_buckets(r) ? r->u.big.recent : r->recent;
}

/* Stamps ------------------------------------------------------------------------------------- */
static uint64_t *
stamp_at(struct rate *r, uint64_t i)
{
	uint64_t place = r->first + i;

	return &r->u.stamps[place >= r->n ? place - r->n : place];
}

static void
stamps_advance(struct rate *r, uint64_t now)
{
	uint64_t counts;

	if (r->sum == 0)
		return;
	counts = long_us(r->window_us);
	while (r->sum > 0 && *stamp_at(r, 0) + counts <= now) {
		r->first = (uint8_t)(r->first + 1u == r->n ? 0 : r->first + 1u);
		r->sum--;
	}
	if (r->recent > r->sum)
		r->recent = r->sum;
	counts = short_us(r->window_us);
	while (r->recent > 0 && *stamp_at(r, r->sum - r->recent) + counts <= now)
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
		put(stamp_at(r, r->sum - 1u), now);
	}
}

/* One step at a time: whoever dies here leaves one twice, and none out of order. */
static void
stamps_take_out(struct rate *r, uint64_t stamp, uint64_t k)
{
	uint64_t from = r->sum;

	while (from > 0 && *stamp_at(r, from - 1) >= stamp)
		from--;
	/* [from, sum) are of that stamp or later; the equal ones stand first. */
	for (; k > 0 && from < r->sum && *stamp_at(r, from) == stamp; k--) {
		for (uint64_t i = from; i + 1 < r->sum; i++)
			put(stamp_at(r, i), *stamp_at(r, i + 1));
		put(stamp_at(r, r->sum - 1u), 0);
		if (r->sum - from <= r->recent)
			r->recent--;
		r->sum--;
	}
}

/* When at most `most` of the last `of` are left that count for `counts`. */
static uint64_t
stamps_when(struct rate *r, uint64_t of, uint64_t most, uint64_t counts)
{
	return of > most ? *stamp_at(r, r->sum - most - 1) + counts : 0;
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
static uint64_t
bucket_end(const struct buckets *g, uint64_t number)
{
	return (number + 1) * g->width_us;
}

static void
buckets_advance(struct rate *r, uint64_t now)
{
	struct buckets *g = &r->u.big;
	uint64_t number = now / g->width_us;

	while (g->recent > 0 && bucket_end(g, g->recent_first) + g->short_us <= now)
		g->recent -= g->b[g->recent_first++ % BUCKETS];
	while (g->sum > 0 && bucket_end(g, g->first) + g->long_us <= now) {
		uint64_t *b = &g->b[g->first++ % BUCKETS];

		g->sum -= *b;
		if (*b)
			put(b, 0);
	}
	if (g->recent == 0)
		g->recent_first = number;
	if (g->sum == 0)
		g->first = number;
	CHECK(number - g->first < BUCKETS);
}

static void
buckets_add(struct rate *r, uint64_t now, uint64_t k)
{
	struct buckets *g = &r->u.big;
	uint64_t *b = &g->b[now / g->width_us % BUCKETS];

	if (k > SUM_MAX - g->sum)
		k = SUM_MAX - g->sum;
	put(b, *b + k);
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
	put(b, *b - k);
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
		when = bucket_end(g, b) + counts;
	}
	return when;
}

static bool
buckets_order(struct rate *r)
{
	struct buckets *g = &r->u.big;
	uint64_t number, sum = 0;

	g->long_us = long_us(r->window_us);
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

/* Both --------------------------------------------------------------------------------------- */
/* Until when something larger than n closes the rate: it takes as many windows as it is times n. */
static uint64_t
owed_until(const struct rate *r)
{
	__extension__ unsigned __int128 t =
		(__extension__(unsigned __int128) r->owed * r->window_us) / r->n;
	uint64_t most = RATE_WINDOW_MAX_US * 8;

	return r->owed_us + (t < most ? (uint64_t)t : most) + rate_delta_us(r->window_us) + 1;
}

static uint64_t
advance(struct rate *r, uint64_t now_us)
{
	uint64_t now = now_us + BIAS;

	if (now <= r->last_us)
		return r->last_us;
	if (has_buckets(r))
		buckets_advance(r, now);
	else
		stamps_advance(r, now);
	if (r->owed && owed_until(r) <= now)
		put(&r->owed, 0);
	put(&r->last_us, now);
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

uint64_t
rate_room(struct rate *r, uint64_t now_us)
{
	return room_at(r, advance(r, now_us));
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
	return fits_at(r, advance(r, now_us), k);
}

static uint64_t
later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

uint64_t
rate_when_fits(struct rate *r, uint64_t now_us, uint64_t k)
{
	uint64_t when = advance(r, now_us), most = before_long(r, k), few = before_short(r, k);
	struct buckets *g = &r->u.big;

	when = later(when, r->closed_us);
	if (r->owed)
		when = later(when, owed_until(r));
	if (has_buckets(r)) {
		when = later(when, buckets_when(g, g->first, g->sum, most, g->long_us));
		when = later(when, buckets_when(g, g->recent_first, g->recent, few, g->short_us));
	} else {
		when = later(when, stamps_when(r, r->sum, most, long_us(r->window_us)));
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

static void
add(struct rate *r, uint64_t now, uint64_t k)
{
	if (has_buckets(r))
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
			put(&r->owed_us, now);
		put(&r->owed, amount(r->owed + k));
	}
	add(r, now, k);
}

void
rate_force(struct rate *r, uint64_t now_us, uint64_t k)
{
	add(r, advance(r, now_us), amount(k));
}

void
rate_charge(struct rate *r, uint64_t now_us, uint64_t k)
{
	uint64_t now = advance(r, now_us);

	CHECK(fits_at(r, now, k));
	add_whole(r, now, amount(k));
}

void
rate_past(struct rate *r, uint64_t now_us, uint64_t age_us, uint64_t k)
{
	if (age_us >= BIAS / 2)
		return;
	/* `now` less `age` may be before the boot: less than 0, but not less than -BIAS. */
	add_whole(r, advance(r, now_us - age_us), amount(k));
}

void
rate_refund(struct rate *r, uint64_t stamp_us, uint64_t k)
{
	uint64_t stamp = stamp_us + BIAS;

	if (has_buckets(r))
		buckets_take_out(r, stamp, k);
	else
		stamps_take_out(r, stamp, k);
	if (r->owed && r->owed_us == stamp) {
		uint64_t left = r->owed > k ? r->owed - k : 0;

		put(&r->owed, left > r->n ? left : 0);
	}
}

void
rate_close_until(struct rate *r, uint64_t boot_us)
{
	if (boot_us + BIAS > r->closed_us)
		put(&r->closed_us, boot_us + BIAS);
}

/* Making, changing, placing ------------------------------------------------------------------ */
static uint64_t
limited_n(uint64_t n)
{
	CHECK(n > 0);
	return n < RATE_N_MAX ? n : RATE_N_MAX;
}

static uint64_t
limited_window(uint64_t window_us)
{
	CHECK(window_us >= 1000);
	return window_us < RATE_WINDOW_MAX_US ? window_us : RATE_WINDOW_MAX_US;
}

size_t
rate_bytes(uint64_t n)
{
	return offsetof(struct rate, u) +
	       (n <= STAMPS_MAX ? n * sizeof(uint64_t) : sizeof(struct buckets));
}

/* Into memory whose words of `u` are zero. */
static void
init(struct rate *r, uint64_t n, uint64_t window_us)
{
	r->n = n;
	r->window_us = window_us;
	r->last_us = r->closed_us = r->owed_us = r->owed = 0;
	r->first = r->sum = r->recent = 0;
	if (n > STAMPS_MAX)
		CHECK(buckets_order(r));
}

struct rate *
rate_new(uint64_t n, uint64_t window_us)
{
	struct rate *r;

	n = limited_n(n);
	r = mem_zalloc(rate_bytes(n));
	init(r, n, limited_window(window_us));
	put_kind(r, n > STAMPS_MAX ? KIND_BUCKETS : KIND_STAMPS);
	return r;
}

void
rate_free(struct rate **r)
{
	if (*r && !(*r)->placed)
		mem_free(*r);
	*r = NULL;
}

/* Internal times; those of a bucket are its end, which is later. */
static void
move(struct rate *to, struct rate *from, uint64_t now)
{
	if (has_buckets(from)) {
		struct buckets *g = &from->u.big;

		for (uint64_t b = g->first; b <= now / g->width_us; b++) {
			uint64_t end = bucket_end(g, b), k = g->b[b % BUCKETS];

			if (k)
				add(to, advance(to, (end < now ? end : now) - BIAS), k);
		}
	} else {
		for (uint64_t i = 0; i < from->sum; i++)
			add(to, advance(to, *stamp_at(from, i) - BIAS), 1);
	}
	advance(to, now - BIAS);
	put(&to->owed_us, from->owed_us);
	put(&to->owed, from->owed > to->n ? from->owed : 0);
}

static struct rate *
copy_of(const struct rate *r)
{
	size_t bytes = rate_bytes(r->n);
	struct rate *copy = mem_alloc(bytes);

	for (size_t i = 0; i < bytes; i++)
		((char *)copy)[i] = ((const char *)r)[i];
	copy->placed = 0;
	return copy;
}

void
rate_move(struct rate *to, const struct rate *from, uint64_t now_us)
{
	struct rate *copy = copy_of(from);

	move(to, copy, advance(copy, now_us));
	if (copy->closed_us > to->closed_us)
		put(&to->closed_us, copy->closed_us);
	rate_free(&copy);
}

void
rate_change(struct rate **rate, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	struct rate *old = *rate, *r;

	if (old && old->n == limited_n(n) && old->window_us == limited_window(window_us))
		return;
	r = rate_new(n, window_us);
	if (old) {
		CHECK(!old->placed);
		rate_move(r, old, now_us);
	}
	rate_free(rate);
	*rate = r;
}

/* Puts in order what was found at `now`, in the same memory or in a copy; false: it cannot be a
 * rate. */
static bool
order(struct rate *r, uint64_t now)
{
	if (r->n == 0 || r->n > RATE_N_MAX || r->window_us < 1000 ||
	    r->window_us > RATE_WINDOW_MAX_US || r->last_us > now ||
	    (r->last_us > 0 && r->last_us < BIAS / 2) ||
	    r->closed_us > now + 8 * RATE_WINDOW_MAX_US || r->owed > RATE_N_MAX ||
	    r->owed_us > r->last_us || (r->kind == KIND_BUCKETS) != (r->n > STAMPS_MAX))
		return false;
	return has_buckets(r) ? buckets_order(r) : stamps_order(r);
}

bool
rate_whole(const void *memory, size_t bytes, uint64_t now_us)
{
	const struct rate *r = memory;
	struct rate *copy;
	bool whole;

	CHECK(bytes >= RATE_BYTES_MIN);
	if (r->kind == KIND_NONE || r->kind == KIND_UNKNOWN || r->kind == KIND_CHANGING)
		return true;
	if ((r->kind != KIND_STAMPS && r->kind != KIND_BUCKETS) || rate_bytes(r->n) > bytes)
		return false;
	copy = copy_of(r);
	whole = order(copy, now_us + BIAS);
	mem_free(copy);
	return whole;
}

void
rate_unknown(void *memory, uint64_t since_us, uint64_t longest_us, int64_t longer_since_us)
{
	struct rate *r = memory;

	put_kind(r, KIND_CHANGING); /* who dies here: as if nothing at all were known */
	r->last_us = since_us + BIAS;
	r->window_us = longest_us;
	r->closed_us = longer_since_us == INT64_MIN ? 0 : (uint64_t)longer_since_us + BIAS;
	put_kind(r, KIND_UNKNOWN);
}

static bool
is_rate(const struct rate *r)
{
	return r->kind == KIND_STAMPS || r->kind == KIND_BUCKETS;
}

uint64_t
rate_found_window_us(const void *memory)
{
	const struct rate *r = memory;

	return is_rate(r) ? r->window_us : 0;
}

uint64_t
rate_last_us(const void *memory)
{
	const struct rate *r = memory;

	return is_rate(r) && r->last_us > BIAS ? r->last_us - BIAS : 0;
}

bool
rate_is_over(const void *memory, uint64_t now_us)
{
	const struct rate *r = memory;
	uint64_t now = now_us + BIAS, widest;

	if (!is_rate(r))
		return r->kind == KIND_NONE;
	/* A bucket is no wider than that. */
	widest = long_us(r->window_us) / (BUCKETS - 2) + 1;
	return r->last_us + long_us(r->window_us) + widest < now && r->closed_us < now &&
	       (r->owed == 0 || owed_until(r) < now);
}

bool
rate_shift(void *memory, const void *from, int64_t shift_us, uint64_t now_us)
{
	struct rate *to = memory, *r;
	uint64_t now = now_us + BIAS, shift = (uint64_t)shift_us, last;

	if (!is_rate(from))
		return false;
	r = copy_of(from);
	CHECK(order(r, UINT64_MAX / 2));
	last = r->last_us + shift;
	if (r->last_us == 0 || last < BIAS / 2 || last > now + RATE_WINDOW_MAX_US) {
		rate_free(&r);
		return false;
	}
	init(to, r->n, r->window_us);
	if (has_buckets(r)) {
		struct buckets *g = &r->u.big;

		put_kind(to, KIND_BUCKETS);
		for (uint64_t b = g->first; b <= r->last_us / g->width_us; b++) {
			uint64_t end = bucket_end(g, b) + shift;

			if (g->b[b % BUCKETS])
				add(to, advance(to, (end < now ? end : now) - BIAS),
				    g->b[b % BUCKETS]);
		}
	} else {
		put_kind(to, KIND_STAMPS);
		for (uint64_t i = 0; i < r->sum; i++) {
			uint64_t stamp = *stamp_at(r, i) + shift;

			add(to, advance(to, (stamp < now ? stamp : now) - BIAS), 1);
		}
	}
	if (r->closed_us)
		to->closed_us = r->closed_us + shift;
	if (r->owed) {
		to->owed_us = r->owed_us + shift < now ? r->owed_us + shift : now;
		to->owed = r->owed;
	}
	advance(to, (last < now ? last : now) - BIAS);
	rate_free(&r);
	return !rate_is_over(to, now_us);
}

/* A fresh rate in memory that held something else, or nothing. Who dies in the middle of it leaves
 * KIND_CHANGING, or still nothing. */
static void
make_over(struct rate *r, uint64_t n, uint64_t window_us, uint64_t closed_us)
{
	uint64_t *words = (uint64_t *)&r->u;

	if (r->kind != KIND_NONE)
		put_kind(r, KIND_CHANGING);
	for (size_t i = 0; i < (rate_bytes(n) - offsetof(struct rate, u)) / sizeof(*words); i++)
		put(&words[i], 0);
	init(r, n, window_us);
	r->placed = 1;
	r->closed_us = closed_us;
	put_kind(r, n > STAMPS_MAX ? KIND_BUCKETS : KIND_STAMPS);
}

struct rate *
rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	struct rate *r = memory, *old;
	uint64_t now = now_us + BIAS, closed;

	CHECK((uintptr_t)memory % 8 == 0);
	n = limited_n(n);
	window_us = limited_window(window_us);
	if (r->kind == KIND_NONE || r->kind == KIND_UNKNOWN) {
		closed = window_us <= r->window_us ? r->last_us : r->closed_us;
		closed = r->kind == KIND_UNKNOWN && closed > 0 ? closed + long_us(window_us) : 0;
		make_over(r, n, window_us, closed);
	} else if (r->kind == KIND_CHANGING || !order(r, now)) {
		make_over(r, n, window_us, now + long_us(window_us));
	} else if (r->n != n || r->window_us != window_us) {
		old = copy_of(r);
		make_over(r, n, window_us, now + long_us(window_us));
		move(r, old, advance(old, now_us));
		put(&r->closed_us, old->closed_us);
		rate_free(&old);
	} else {
		r->placed = 1;
	}
	return r;
}
