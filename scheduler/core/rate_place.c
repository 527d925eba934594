/* rate: making one, changing its numbers, and finding it again in memory that outlived a process.
 */
#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/rate_impl.h"

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
rate_bytes_wide(void)
{
	return offsetof(struct rate, u) + sizeof(struct buckets);
}

size_t
rate_bytes(uint64_t n)
{
	return n <= STAMPS_MAX ? offsetof(struct rate, u) + n * sizeof(uint64_t)
			       : rate_bytes_wide();
}

static size_t
bytes_of(const struct rate *r)
{
	return rate_has_buckets(r) ? rate_bytes_wide() : rate_bytes(r->n);
}

/* Into memory whose words of `u` are zero. */
static void
init(struct rate *r, uint64_t n, uint64_t window_us, bool wide)
{
	r->n = n;
	r->window_us = window_us;
	r->last_us = r->closed_us = r->owed_us = r->owed = 0;
	r->first = r->sum = r->recent = 0;
	if (wide)
		CHECK(rate_order_buckets(r));
}

static struct rate *
make(uint64_t n, uint64_t window_us, bool wide)
{
	struct rate *r = mem_zalloc(wide ? rate_bytes_wide() : rate_bytes(n));

	init(r, n, window_us, wide);
	rate_put_kind(r, wide ? KIND_BUCKETS : KIND_STAMPS);
	return r;
}

struct rate *
rate_new(uint64_t n, uint64_t window_us)
{
	n = limited_n(n);
	return make(n, limited_window(window_us), n > STAMPS_MAX);
}

struct rate *
rate_new_wide(uint64_t n, uint64_t window_us)
{
	return make(limited_n(n), limited_window(window_us), true);
}

void
rate_free(struct rate **r)
{
	if (*r && !(*r)->placed)
		mem_free(*r);
	*r = NULL;
}

/* What has run out by its own window may count in one that is longer: then all of it that is there
 * is moved, however long nobody has looked at it. */
static uint64_t
leave_for(struct rate *r, uint64_t window_us, uint64_t now_us)
{
	uint64_t now = now_us + BIAS;

	if (window_us <= r->window_us)
		return rate_advance(r, now_us);
	return now > r->last_us ? now : r->last_us;
}

/* Internal times; those of a bucket are its end, which is later. */
static void
move(struct rate *to, struct rate *from, uint64_t now)
{
	if (rate_has_buckets(from)) {
		struct buckets *g = &from->u.big;

		for (uint64_t b = g->first; b <= from->last_us / g->width_us; b++) {
			uint64_t end = rate_bucket_end(g, b), k = g->b[b % BUCKETS];

			if (k)
				rate_add(to, rate_advance(to, (end < now ? end : now) - BIAS), k);
		}
	} else {
		for (uint64_t i = 0; i < from->sum; i++)
			rate_add(to, rate_advance(to, *rate_stamp_at(from, i) - BIAS), 1);
	}
	rate_advance(to, now - BIAS);
	rate_put(&to->owed_us, from->owed_us);
	rate_put(&to->owed, from->owed > to->n ? from->owed : 0);
}

static struct rate *
copy_of(const struct rate *r)
{
	size_t bytes = bytes_of(r);
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

	move(to, copy, leave_for(copy, to->window_us, now_us));
	/* Of a longer window less is known. */
	if (copy->closed_us > to->closed_us || to->window_us <= copy->window_us)
		rate_put(&to->closed_us, copy->closed_us);
	rate_free(&copy);
}

bool
rate_needs_wide(struct rate *r, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	(void)leave_for(r, window_us, now_us);
	return n > STAMPS_MAX || rate_used(r) > n;
}

bool
rate_forgets(struct rate *r, uint64_t now_us, uint64_t k)
{
	rate_advance(r, now_us);
	return !rate_has_buckets(r) && r->sum + k > r->n;
}

bool
rate_set_n(struct rate *r, uint64_t n, uint64_t now_us)
{
	n = limited_n(n);
	if (n == r->n)
		return true;
	if (!rate_has_buckets(r) || !rate_needs_wide(r, n, r->window_us, now_us))
		return false;
	rate_put(&r->n, n);
	if (r->owed <= n)
		rate_put(&r->owed, 0);
	return true;
}

void
rate_change(struct rate **rate, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	struct rate *old = *rate, *r;

	n = limited_n(n);
	window_us = limited_window(window_us);
	if (old && old->window_us == window_us && rate_set_n(old, n, now_us))
		return;
	r = make(n, window_us, old ? rate_needs_wide(old, n, window_us, now_us) : n > STAMPS_MAX);
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
	    r->owed_us > r->last_us || (r->kind == KIND_STAMPS && r->n > STAMPS_MAX))
		return false;
	return rate_order_words(r);
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
	if ((r->kind != KIND_STAMPS && r->kind != KIND_BUCKETS) || bytes_of(r) > bytes)
		return false;
	copy = copy_of(r);
	whole = order(copy, now_us + BIAS);
	mem_free(copy);
	return whole;
}

void
rate_mend(void *memory, size_t bytes)
{
	struct rate *r = memory;
	uint64_t *u = r->u.stamps, n;

	/* A bucket means what it meant, or what came later and is told by others. */
	if (r->kind != KIND_STAMPS || r->n > STAMPS_MAX || rate_bytes(r->n) > bytes)
		return;
	for (uint64_t i = 1; i < r->n; i++) {
		uint64_t s = u[i], k = i;

		for (; k > 0 && u[k - 1] > s; k--)
			u[k] = u[k - 1];
		u[k] = s;
	}
	n = r->n > 0 ? u[r->n - 1] : 0;
	if (n > r->last_us)
		r->last_us = n;
}

void
rate_unknown(void *memory, uint64_t since_us, uint64_t longest_us, int64_t longer_since_us)
{
	struct rate *r = memory;

	rate_put_kind(r, KIND_CHANGING); /* who dies here: as if nothing at all were known */
	r->last_us = since_us + BIAS;
	r->window_us = longest_us;
	r->closed_us = longer_since_us == INT64_MIN ? 0 : (uint64_t)longer_since_us + BIAS;
	rate_put_kind(r, KIND_UNKNOWN);
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
rate_found_n(const void *memory)
{
	const struct rate *r = memory;

	return is_rate(r) ? r->n : 0;
}

uint64_t
rate_last_us(const void *memory)
{
	const struct rate *r = memory;

	return is_rate(r) && r->last_us > BIAS ? r->last_us - BIAS : 0;
}

bool
rate_is_over(const void *memory, uint64_t window_us, uint64_t now_us)
{
	const struct rate *r = memory;
	uint64_t now = now_us + BIAS, widest;

	if (!is_rate(r))
		return r->kind == KIND_NONE;
	/* A bucket is no wider than that. */
	widest = rate_long_us(r->window_us) / (BUCKETS - 2) + 1;
	if (window_us < r->window_us)
		window_us = r->window_us;
	return r->last_us + rate_long_us(limited_window(window_us)) + widest < now &&
	       r->closed_us < now && (r->owed == 0 || rate_owed_until(r) < now);
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
	init(to, r->n, r->window_us, rate_has_buckets(r));
	if (rate_has_buckets(r)) {
		struct buckets *g = &r->u.big;

		rate_put_kind(to, KIND_BUCKETS);
		for (uint64_t b = g->first; b <= r->last_us / g->width_us; b++) {
			uint64_t end = rate_bucket_end(g, b) + shift;

			if (g->b[b % BUCKETS])
				rate_add(to, rate_advance(to, (end < now ? end : now) - BIAS),
					 g->b[b % BUCKETS]);
		}
	} else {
		rate_put_kind(to, KIND_STAMPS);
		for (uint64_t i = 0; i < r->sum; i++) {
			uint64_t stamp = *rate_stamp_at(r, i) + shift;

			rate_add(to, rate_advance(to, (stamp < now ? stamp : now) - BIAS), 1);
		}
	}
	if (r->closed_us)
		to->closed_us = r->closed_us + shift;
	if (r->owed) {
		to->owed_us = r->owed_us + shift < now ? r->owed_us + shift : now;
		to->owed = r->owed;
	}
	rate_advance(to, (last < now ? last : now) - BIAS);
	rate_free(&r);
	return true;
}

/* A fresh rate in memory that held something else, or nothing. Who dies in the middle of it leaves
 * KIND_CHANGING, or still nothing. */
static void
make_over(struct rate *r, uint64_t n, uint64_t window_us, uint64_t closed_us, bool wide)
{
	uint64_t *words = (uint64_t *)&r->u;
	size_t bytes = wide ? rate_bytes_wide() : rate_bytes(n);

	if (r->kind != KIND_NONE)
		rate_put_kind(r, KIND_CHANGING);
	for (size_t i = 0; i < (bytes - offsetof(struct rate, u)) / sizeof(*words); i++)
		rate_put(&words[i], 0);
	init(r, n, window_us, wide);
	r->placed = 1;
	r->closed_us = closed_us;
	rate_put_kind(r, wide ? KIND_BUCKETS : KIND_STAMPS);
}

static struct rate *
place(struct rate *r, uint64_t n, uint64_t window_us, uint64_t now_us, bool wide)
{
	uint64_t now = now_us + BIAS, closed;
	struct rate *old;

	CHECK((uintptr_t)r % 8 == 0);
	if (r->kind == KIND_NONE || r->kind == KIND_UNKNOWN) {
		closed = window_us <= r->window_us ? r->last_us : r->closed_us;
		closed = r->kind == KIND_UNKNOWN && closed > 0 ? closed + rate_long_us(window_us)
							       : 0;
		make_over(r, n, window_us, closed, wide);
	} else if (r->kind == KIND_CHANGING || !order(r, now)) {
		make_over(r, n, window_us, now + rate_long_us(window_us), wide);
	} else if (r->n != n || r->window_us != window_us) {
		old = copy_of(r);
		/* Where there is room for it, all stays known. */
		wide = wide ||
		       (rate_has_buckets(old) && rate_needs_wide(old, n, window_us, now_us));
		make_over(r, n, window_us, now + rate_long_us(window_us), wide);
		move(r, old, leave_for(old, window_us, now_us));
		rate_put(&r->closed_us, old->closed_us);
		rate_free(&old);
	} else {
		r->placed = 1;
	}
	return r;
}

struct rate *
rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	n = limited_n(n);
	return place(memory, n, limited_window(window_us), now_us, n > STAMPS_MAX);
}

struct rate *
rate_place_wide(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	return place(memory, limited_n(n), limited_window(window_us), now_us, true);
}
