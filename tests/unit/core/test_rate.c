/* rate: against a model that keeps every stamp, for many numbers and windows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scheduler/core/rate.h"

#define SECOND 1000000ull

static uint64_t rng;

static uint64_t
rnd(void)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return rng * 2685821657736338717ull;
}

struct model {
	uint64_t *stamps;
	size_t n, cap;
};

static void
model_add(struct model *m, uint64_t at, uint64_t k)
{
	while (k-- > 0) {
		if (m->n == m->cap) {
			m->cap = m->cap ? m->cap * 2 : 64;
			m->stamps = realloc(m->stamps, m->cap * sizeof(*m->stamps));
		}
		m->stamps[m->n++] = at;
	}
}

/* The most that any closed window of that length holds. */
static size_t
densest(const struct model *m, uint64_t length)
{
	size_t first = 0, most = 0;

	for (size_t i = 0; i < m->n; i++) {
		while (m->stamps[first] + length < m->stamps[i])
			first++;
		if (i - first + 1 > most)
			most = i - first + 1;
	}
	return most;
}

static const struct row {
	uint64_t n, window_us;
} rows[] = {
	{ 1, SECOND },           { 1, 86400 * SECOND },  { 2, SECOND },
	{ 3, 10 * SECOND },      { 4, SECOND },          { 5, SECOND },
	{ 9, 60 * SECOND },      { 10, SECOND },         { 14, 7 * SECOND },
	{ 20, SECOND },          { 83, 600 * SECOND },   { 100, 60 * SECOND },
	{ 127, SECOND },         { 128, SECOND },        { 129, SECOND },
	{ 130, 3600 * SECOND },  { 500, 3600 * SECOND }, { 1000, SECOND },
	{ 1000, 3600 * SECOND }, { 5000, 60 * SECOND },  { 20000, 3600 * SECOND },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static uint64_t
share_of(uint64_t n)
{
	return n / 5 ? n / 5 : 1;
}

/* As much as there is room for, at once: the exact limit, and 98 % of what twenty windows could
 * hold. */
static void
fill(uint64_t n, uint64_t window_us)
{
	struct rate *r = rate_new(n, window_us);
	struct model m = { 0 };
	uint64_t begin = 123456789, now = begin, end = begin + 20 * window_us;

	while (now < end) {
		uint64_t room = rate_room(r, now);
		uint64_t when = rate_when(r, now);

		assert_true(room == 0 ? when > now : when == now);
		if (room > 0) {
			assert_true(room <= rate_share(r));
			rate_charge(r, now, room);
			model_add(&m, now, room);
		} else {
			/* One tick earlier there is none: it wakes nobody in vain, and nobody
			 * late. */
			assert_int_equal(rate_room(r, when - 1), 0);
			now = when;
		}
	}
	assert_true(densest(&m, window_us) <= n);
	assert_true(densest(&m, window_us / 10) <= share_of(n));
	if (m.n < n * 20 * 98 / 100)
		fail_msg("%llu in %llu us: %zu of %llu", (unsigned long long)n,
			 (unsigned long long)window_us, m.n, (unsigned long long)n * 20);
	free(m.stamps);
	rate_free(&r);
}

static void
greedy(void **state)
{
	static const uint64_t numbers[] = { 1, 2, 5, 7, 100, 128, 129, 1000, 5000 };
	static const uint64_t seconds[] = { 1, 60, 600, 3600, 86400 };

	(void)state;
	for (size_t i = 0; i < ROWS; i++)
		fill(rows[i].n, rows[i].window_us);
	for (size_t i = 0; i < 9 * 5; i++)
		fill(numbers[i / 5], seconds[i % 5] * SECOND);
}

/* Random arrivals, sizes, gaps and refunds. */
static void
random_arrivals(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 20 * ROWS; seed++) {
		const struct row *row = &rows[seed % ROWS];
		struct rate *r = rate_new(row->n, row->window_us);
		struct model m = { 0 };
		uint64_t now = 1000, gap = row->window_us / (1 + seed % 97);

		rng = seed * 0x9e3779b97f4a7c15ull + 1;
		for (unsigned k = 0; k < 400; k++) {
			uint32_t room, want = 1 + (uint32_t)(rnd() % (row->n < 7 ? 2 : row->n / 3));

			now += rnd() % (gap + 1);
			if (rnd() % 50 == 0)
				now += row->window_us * (rnd() % 3);
			room = rate_room(r, now);
			want = want < room ? want : room;
			rate_charge(r, now, want);
			model_add(&m, now, want);
			if (want > 0 && rnd() % 4 == 0) {
				uint32_t back = (uint32_t)(rnd() % want) + 1;

				rate_refund(r, now, back);
				m.n -= back;
				assert_true(rate_room(r, now) >= back ||
					    rate_room(r, now) + want >= room);
			}
		}
		assert_true(densest(&m, row->window_us) <= row->n);
		assert_true(densest(&m, row->window_us / 10) <= share_of(row->n));
		free(m.stamps);
		rate_free(&r);
	}
}

/* The deadline: what is charged may happen up to delta later, and counts for that long more. */
static void
late_attempts(void **state)
{
	(void)state;
	for (size_t i = 0; i < ROWS; i++) {
		struct rate *r = rate_new(rows[i].n, rows[i].window_us);
		uint64_t delta = rate_delta_us(rows[i].window_us), now = 5 * SECOND;
		struct model m = { 0 };

		rng = i + 7;
		for (unsigned k = 0; k < 2000; k++) {
			uint64_t room = rate_room(r, now);

			if (room == 0) {
				now = rate_when(r, now);
				continue;
			}
			rate_charge(r, now, room);
			/* All late by nearly delta, or none at all. */
			model_add(&m, now + (rnd() % 2 ? delta : 0), room);
		}
		for (size_t k = 1; k < m.n; k++) { /* insertion sort: nearly sorted */
			uint64_t s = m.stamps[k];
			size_t p = k;

			for (; p > 0 && m.stamps[p - 1] > s; p--)
				m.stamps[p] = m.stamps[p - 1];
			m.stamps[p] = s;
		}
		assert_true(densest(&m, rows[i].window_us) <= rows[i].n);
		free(m.stamps);
		rate_free(&r);
	}
}

static void
deltas(void **state)
{
	(void)state;
	assert_int_equal(rate_delta_us(SECOND), 10000);
	assert_int_equal(rate_delta_us(SECOND / 2), 10000);
	assert_int_equal(rate_delta_us(60 * SECOND), 600000);
	assert_int_equal(rate_delta_us(3600 * SECOND), SECOND);
}

static void
refunds(void **state)
{
	static const uint64_t n[] = { 10, 128, 1000 };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct rate *r = rate_new(n[i], 10 * SECOND);
		uint64_t share = rate_share(r);

		rate_charge(r, 100 * SECOND, share);
		assert_int_equal(rate_room(r, 100 * SECOND), 0);
		rate_refund(r, 100 * SECOND, 1);
		assert_int_equal(rate_room(r, 100 * SECOND), 1);
		rate_refund(r, 50 * SECOND, 5); /* nothing was charged then */
		assert_int_equal(rate_room(r, 100 * SECOND), 1);
		rate_refund(r, 100 * SECOND, 1000000); /* never more than was charged */
		assert_int_equal(rate_room(r, 100 * SECOND), share);
		assert_int_equal(rate_used(r), 0);
		rate_refund(r, 0, 3);
		rate_free(&r);
	}
}

/* Other numbers: what was charged goes on counting. */
static void
changes(void **state)
{
	static const struct {
		uint64_t n1, w1, n2, w2;
	} ch[] = {
		{ 10, 10, 20, 10 },    { 20, 10, 10, 10 },       { 100, 60, 1000, 60 },
		{ 1000, 60, 100, 60 }, { 1000, 60, 2000, 3600 }, { 2000, 3600, 1000, 1 },
		{ 5, 1, 5, 60 },       { 200, 60, 150, 60 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(ch) / sizeof(ch[0]); i++) {
		struct rate *r = NULL;
		uint64_t now = 1000 * SECOND, used = 0;
		uint64_t half = ch[i].w1 * SECOND / 2;

		rate_change(&r, ch[i].n1, ch[i].w1 * SECOND, now);
		while (now < 1000 * SECOND + half && used < ch[i].n1) {
			uint64_t room = rate_room(r, now);

			if (room == 0) {
				now = rate_when(r, now);
				continue;
			}
			rate_charge(r, now, room);
			used += room;
		}
		rate_change(&r, ch[i].n2, ch[i].w2 * SECOND, now);
		assert_int_equal(rate_limit(r), ch[i].n2);
		if (ch[i].w2 >= ch[i].w1) {
			uint64_t most = ch[i].n2 > used ? ch[i].n2 - used : 0;

			assert_true(rate_room(r, now) <= most);
			assert_true(rate_used(r) >= (used < ch[i].n2 ? used : ch[i].n2));
		}
		/* And all of it ends. */
		now += 2 * (ch[i].w1 + ch[i].w2) * SECOND + 10 * SECOND;
		assert_int_equal(rate_room(r, now), rate_share(r));
		rate_free(&r);
	}
}

static void
force_beyond(void **state)
{
	static const uint64_t n[] = { 3, 1000 };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rate *r = rate_new(n[i], SECOND);
		uint64_t now = 77 * SECOND;

		rate_force(r, now, n[i] * 3);
		assert_int_equal(rate_room(r, now), 0);
		assert_true(rate_when(r, now) > now + SECOND);
		assert_true(rate_when(r, now) < now + SECOND * 11 / 10);
		assert_true(rate_room(r, rate_when(r, now)) > 0);
		assert_true(rate_room(r, now) > 0); /* the clock does not run backwards */
		rate_free(&r);
	}
}

/* What is charged in the same bucket leaves in the same moment, and what comes next does not. */
static void
alike(void **state)
{
	uint64_t now = 7777777777;
	struct rate *r = rate_new(5, (3600 * SECOND));

	(void)state;
	assert_int_equal(rate_alike_until(r, now), 0);
	rate_free(&r);
	for (unsigned i = 0; i < 50; i++, now += 12345678901 + i) {
		uint64_t at[4] = { now }, when[4];

		r = rate_new(1000, (3600 * SECOND));
		at[2] = rate_alike_until(r, now);
		at[1] = at[2] - 1;
		assert_true(at[2] > now && at[2] - now <= (3600 * SECOND) / 200);
		rate_force(r, at[2], 1);
		assert_int_equal(rate_alike_until(r, now), 0); /* the clock went back */
		rate_free(&r);
		for (unsigned k = 0; k < 3; k++) {
			r = rate_new(1000, (3600 * SECOND));
			rate_force(r, at[k], 1000);
			when[k] = rate_when(r, at[k]);
			rate_free(&r);
		}
		assert_int_equal(when[0], when[1]);
		assert_true(when[2] > when[1]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greedy),        cmocka_unit_test(random_arrivals),
		cmocka_unit_test(late_attempts), cmocka_unit_test(deltas),
		cmocka_unit_test(refunds),       cmocka_unit_test(changes),
		cmocka_unit_test(force_beyond),  cmocka_unit_test(alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
