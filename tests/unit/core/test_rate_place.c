/* rate: in memory that outlives the process. Each change is made by a child that is traced step by
 * step; after every store the memory is taken as what a killed process left, and must never count
 * less than was charged. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "scheduler/core/rate.h"

#define SECOND    1000000ull
#define BYTES     4096
#define STEPS_MAX 2000000
#define PAST_MAX  20000

static uint64_t rng = 88172645463325252ull;

static uint64_t
rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* What surely was charged, in order. */
struct model {
	uint64_t n, window_us;
	size_t count;
	struct charge {
		uint64_t stamp, k;
	} all[PAST_MAX];
};

static void
model_add(struct model *m, uint64_t stamp, uint64_t k)
{
	if (m->count == PAST_MAX) {
		memmove(m->all, m->all + PAST_MAX / 2, PAST_MAX / 2 * sizeof(m->all[0]));
		m->count = PAST_MAX / 2;
	}
	m->all[m->count++] = (struct charge){ stamp, k };
}

static uint64_t
share_of(uint64_t n)
{
	return n / 5 ? n / 5 : 1;
}

static uint64_t
model_room(const struct model *m, uint64_t t)
{
	uint64_t delta = rate_delta_us(m->window_us), sum = 0, late = 0, share = share_of(m->n);

	for (size_t i = m->count; i-- > 0;) {
		const struct charge *c = &m->all[i];

		if (c->stamp + m->window_us + delta >= t)
			sum += c->k;
		if (c->stamp + m->window_us / 10 + delta >= t)
			late += c->k;
	}
	if (sum >= m->n || late >= share)
		return 0;
	return m->n - sum < share - late ? m->n - sum : share - late;
}

/* What a process that died left in `memory` is taken up at `now`. */
static void
never_less(const void *memory, const struct model *m, uint64_t now)
{
	static uint64_t copy[BYTES / 8];
	struct rate *r;

	memcpy(copy, memory, BYTES);
	assert_true(rate_whole(copy, BYTES, now));
	r = rate_place(copy, m->n, m->window_us, now);
	assert_int_equal(rate_limit(r), m->n);
	assert_int_equal(rate_window_us(r), m->window_us);
	for (uint64_t t = now; t < now + m->window_us * 12 / 10; t += m->window_us / 23 + 1) {
		uint64_t room = rate_room(r, t), most = model_room(m, t);

		if (room > most)
			fail_msg("n=%llu window=%llu: room %llu, not %llu, %llu us later",
				 (unsigned long long)m->n, (unsigned long long)m->window_us,
				 (unsigned long long)room, (unsigned long long)most,
				 (unsigned long long)(t - now));
	}
	assert_int_equal(rate_room(r, now + 3 * m->window_us + SECOND), rate_share(r));
	rate_free(&r);
}

/* Taking it up changes nothing: as much room as where nobody died, now and later. */
static void
same_as_before(const struct rate *r, uint64_t now)
{
	static uint64_t copy[BYTES / 8], placed[BYTES / 8];
	uint64_t w = rate_window_us(r), n = rate_limit(r);
	struct rate *a, *b;

	memcpy(copy, r, rate_bytes(n));
	memcpy(placed, r, rate_bytes(n));
	a = (struct rate *)copy;
	b = rate_place(placed, n, w, now);
	assert_int_equal(rate_used(a), rate_used(b));
	for (uint64_t t = now; t < now + w * 12 / 10; t += w / 17 + 1) {
		assert_int_equal(rate_room(a, t), rate_room(b, t));
		assert_int_equal(rate_when(a, t), rate_when(b, t));
	}
}

struct op {
	enum {
		CHARGE,
		FORCE,
		REFUND,
		LOOK,
		PLACE, /* the same numbers, or others */
		OPS,
	} what;
	uint64_t now, k, stamp, n, window_us;
};

static void
run(void *memory, const struct op *op)
{
	struct rate *r = memory;

	switch (op->what) {
	case CHARGE:
		rate_charge(r, op->now, op->k);
		break;
	case FORCE:
		rate_force(r, op->now, op->k);
		break;
	case REFUND:
		rate_refund(r, op->stamp, op->k);
		break;
	case LOOK:
		(void)rate_room(r, op->now);
		break;
	default:
		(void)rate_place(r, op->n, op->window_us, op->now);
		break;
	}
}

/* Runs it in a child; each state of the memory goes through never_less(). How many there were. */
static unsigned
traced(void *memory, const struct op *op, const struct model *m)
{
	static uint64_t last[BYTES / 8];
	unsigned states = 0, steps = 0;
	int status;
	pid_t pid;

	memcpy(last, memory, BYTES);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
			_exit(3);
		raise(SIGSTOP);
		run(memory, op);
		_exit(0);
	}
	for (; steps < STEPS_MAX; steps++) {
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSTOPPED(status))
			break;
		if (memcmp(last, memory, BYTES) != 0) {
			memcpy(last, memory, BYTES);
			never_less(last, m, op->now);
			states++;
		}
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
	}
	assert_true(steps < STEPS_MAX);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	return states;
}

static uint64_t
later(const struct model *m, uint64_t now)
{
	switch (rnd() % 5) {
	case 0:
		return now;
	case 1:
		return now + rnd() % 1000;
	case 2:
		return now + rnd() % (m->window_us / 20);
	case 3:
		return now + rnd() % (m->window_us / 3);
	default:
		return rnd() % 8 ? now + rnd() % (m->window_us / 10)
				 : now + rnd() % (3 * m->window_us);
	}
}

/* Something that may happen at op->now; model `after` is with it. */
static void
choose(struct op *op, struct rate *r, const struct model *m, bool others)
{
	uint64_t room = rate_room(r, op->now);
	unsigned dice = (unsigned)(rnd() % 20);

	op->what = LOOK;
	if (dice < 10 && room > 0) {
		op->what = CHARGE;
		op->k = rnd() % 3 ? 1 + rnd() % room : room;
	} else if (dice < 11 && rate_used(r) < m->n) {
		op->what = FORCE; /* no more than fills it: of more the oldest are forgotten */
		op->k = 1 + rnd() % (m->n - rate_used(r));
	} else if (dice < 15 && m->count > 0) {
		const struct charge *c =
			&m->all[m->count - 1 - rnd() % (m->count < 6 ? m->count : 6)];

		op->what = REFUND;
		op->stamp = c->stamp;
		op->k = c->k ? 1 + rnd() % c->k : 0;
	} else if (dice < 17 && others) {
		op->what = PLACE;
		op->n = m->n;
		op->window_us = m->window_us;
	}
}

/* The model after it: in a window of unknown place a charge may be missing as long as it is on its
 * way, and what is given back may be missing from then on. */
static void
apply(struct model *m, const struct op *op)
{
	if (op->what == CHARGE || op->what == FORCE)
		model_add(m, op->now, op->k);
	for (uint64_t i = m->count, k = op->k; op->what == REFUND && i-- > 0;) {
		uint64_t part = k < m->all[i].k ? k : m->all[i].k;

		if (m->all[i].stamp != op->stamp)
			continue;
		m->all[i].k -= part;
		k -= part;
	}
}

static const uint64_t numbers[] = { 1, 2, 5, 7, 100, 128, 129, 1000, 5000 };
static const uint64_t windows[] = { SECOND, 60 * SECOND, 600 * SECOND, 3600 * SECOND,
				    86400 * SECOND };

static struct model model, less;

static void
killed_at_every_store(void **state)
{
	uint64_t *memory =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned states = 0;

	(void)state;
	assert_ptr_not_equal(memory, MAP_FAILED);
	for (size_t c = 0; c < 9 * 5; c++) {
		struct op op = { .now = 777 * SECOND };
		struct rate *r;

		memset(memory, 0, BYTES);
		memset(&model, 0, sizeof(model));
		model.n = numbers[c / 5];
		model.window_us = windows[c % 5];
		r = rate_place(memory, model.n, model.window_us, op.now);
		for (unsigned i = 0; i < 120; i++) {
			op.now = later(&model, op.now);
			for (unsigned tries = 0;
			     tries == 0 || (i % 60 == 59 && op.what == LOOK && tries < 9); tries++)
				choose(&op, r, &model, true);
			less = model;
			if (op.what == REFUND)
				apply(&less, &op);
			if (i % 60 == 59)
				states += traced(memory, &op, &less);
			else
				run(memory, &op);
			apply(&model, &op);
			never_less(memory, &model, op.now);
			same_as_before(r, op.now);
		}
	}
	munmap(memory, BYTES);
	assert_true(states > 300);
}

/* Other numbers found at a start: made over in place. */
static void
killed_in_a_change(void **state)
{
	uint64_t *memory =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	for (unsigned c = 0; c < 14; c++) {
		struct op op = { .now = 777 * SECOND };
		struct rate *r;

		memset(memory, 0, BYTES);
		memset(&model, 0, sizeof(model));
		model.n = numbers[rnd() % 9];
		model.window_us = windows[rnd() % 5];
		r = rate_place(memory, model.n, model.window_us, op.now);
		for (unsigned i = 0; i < 100; i++) {
			op.now = later(&model, op.now);
			choose(&op, r, &model, false);
			run(memory, &op);
			apply(&model, &op);
		}
		op.what = PLACE;
		op.n = numbers[rnd() % 9];
		op.window_us = windows[rnd() % 5];
		/* Charges older than the old window are not known any more. */
		for (size_t i = 0; i < model.count; i++)
			if (model.all[i].stamp + model.window_us < op.now)
				model.all[i].k = 0;
		/* Of one forced on beyond the limit the newest that fill it stay. */
		for (uint64_t i = model.count, sum = 0; i-- > 0;) {
			uint64_t k = model.all[i].k, most = model.n <= 128 ? model.n - sum : k;

			model.all[i].k = k < most ? k : most;
			sum += model.all[i].k;
		}
		model.n = op.n;
		model.window_us = op.window_us;
		(void)traced(memory, &op, &model);
		never_less(memory, &model, op.now);
		same_as_before(r, op.now);
	}
	munmap(memory, BYTES);
}

/* What was not known is closed, and a kill neither makes that longer nor forgets it. */
static void
unknown(void **state)
{
	static uint64_t memory[BYTES / 8];
	struct rate *r;

	(void)state;
	rate_unknown(memory, 100 * SECOND, 600 * SECOND, INT64_MIN);
	assert_true(rate_whole(memory, RATE_BYTES_MIN, 100 * SECOND));
	r = rate_place(memory, 10, 60 * SECOND, 110 * SECOND);
	assert_int_equal(rate_room(r, 160 * SECOND), 0);
	r = rate_place(memory, 10, 60 * SECOND, 160 * SECOND);
	assert_int_equal(rate_room(r, 160 * SECOND + 600000), 0);
	assert_int_equal(rate_when(r, 160 * SECOND), 160 * SECOND + 600001);
	assert_int_equal(rate_room(r, 160 * SECOND + 600001), 2);
	memset(memory, 0, sizeof(memory));
	rate_unknown(memory, 100 * SECOND, 600 * SECOND, INT64_MIN);
	r = rate_place(memory, 1000, 601 * SECOND, 110 * SECOND);
	assert_int_equal(rate_room(r, 110 * SECOND), 200);
}

/* A window made longer: what had run out of the shorter one when that is done counted when it was
 * last looked at, perhaps when the limit was set. */
static void
longer(void **state)
{
	static const uint64_t n[] = { 10, 1000 };
	static uint64_t memory[BYTES / 8], copy[BYTES / 8];

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t was = n[i / 2], is = n[i % 2];
		struct rate *r, *to;

		memset(memory, 0, sizeof(memory));
		r = rate_place(memory, was, 60 * SECOND, 100 * SECOND);
		rate_charge(r, 100 * SECOND, 1);
		rate_charge(r, 150 * SECOND, 1);
		memcpy(copy, memory, sizeof(copy));
		assert_false(rate_is_over(memory, 600 * SECOND, 300 * SECOND));
		assert_false(rate_is_over(memory, 0, 200 * SECOND));
		assert_true(rate_is_over(memory, 0, 300 * SECOND));
		to = is > 128 ? rate_new_wide(is, 600 * SECOND) : rate_new(is, 600 * SECOND);
		rate_move(to, r, 300 * SECOND);
		assert_int_equal(rate_used(to), 2);
		assert_false(rate_is_empty(to, 600 * SECOND));
		assert_true(rate_is_empty(to, 800 * SECOND));
		rate_free(&to);
		r = rate_place(copy, is, 600 * SECOND, 300 * SECOND);
		assert_int_equal(rate_used(r), 2);
		/* Not in one that is as long. */
		to = rate_new(is, 60 * SECOND);
		rate_move(to, (struct rate *)memory, 300 * SECOND);
		assert_int_equal(rate_used(to), 0);
		rate_free(&to);
	}
}

/* Nonsense is found out, and closes for a window. */
static void
damaged(void **state)
{
	static uint64_t good[BYTES / 8], bad[BYTES / 8];
	unsigned found = 0;

	(void)state;
	for (unsigned c = 0; c < 2000; c++) {
		uint64_t n = numbers[c % 9], now = 1000 * SECOND, room;
		size_t bytes = rate_bytes(n);
		struct rate *r;

		memset(good, 0, sizeof(good));
		r = rate_place(good, n, 60 * SECOND, now);
		for (unsigned i = 0; i < 15 && (room = rate_room(r, now)) > 0; i++) {
			rate_charge(r, now, room);
			now = rate_when(r, now);
		}
		memcpy(bad, good, sizeof(bad));
		for (unsigned i = 0; i < 3; i++)
			bad[rnd() % (bytes / 8)] = rnd() >> rnd() % 64;
		if (!rate_whole(bad, bytes, now)) {
			found++;
			rate_unknown(bad, now, UINT64_MAX, INT64_MIN);
		}
		r = rate_place(bad, n, 60 * SECOND, now);
		(void)rate_room(r, now);
		(void)rate_when(r, now + SECOND);
	}
	assert_true(found > 1000);
	memset(bad, 0xff, sizeof(bad));
	assert_false(rate_whole(bad, RATE_BYTES_MIN, SECOND));
}

static void
sizes(void **state)
{
	(void)state;
	assert_true(rate_bytes(1) <= 64);
	assert_true(rate_bytes(128) <= 128 * 8 + 64);
	assert_true(rate_bytes(129) <= 256 * 8 + 128);
	assert_true(rate_bytes(UINT64_MAX) == rate_bytes(129));
}

/* Of another boot: any words of the stamps as they were some time before, and perhaps the head.
 * What was charged by then counts. */
static void
torn(void **state)
{
	static uint64_t before[BYTES / 8], after[BYTES / 8], mixed[BYTES / 8];
	const uint64_t n = 100, head = rate_bytes(1) / 8 - 1;
	unsigned kept = 0;

	(void)state;
	for (unsigned k = 0; k < 4000; k++) {
		uint64_t now = 4000 * SECOND, w = 60 * SECOND, cut = rnd() % (n + 1), old;
		bool low = k % 2, head_too = k % 4 > 1;
		struct rate *r;

		memset(before, 0, sizeof(before));
		r = rate_place(before, n, w, now);
		for (unsigned i = 0; i < 250; i++, now += SECOND / 4 + rnd() % SECOND)
			if (rate_room(r, now) > 0)
				rate_charge(r, now, 1);
		memcpy(after, before, sizeof(after));
		r = rate_place(after, n, w, now);
		for (unsigned i = 0; i < 20; i++, now += SECOND / 2)
			if (rate_room(r, now) > 0)
				rate_charge(r, now, 1);
		(void)rate_room((struct rate *)before, now);
		old = rate_used((struct rate *)before);
		memcpy(mixed, head_too ? before : after, sizeof(mixed));
		for (uint64_t i = 0; i < n; i++)
			mixed[head + i] = ((i < cut) == low ? before : after)[head + i];
		rate_mend(mixed, rate_bytes(n));
		assert_true(rate_whole(mixed, rate_bytes(n), now));
		r = rate_place(mixed, n, w, now);
		kept += rate_used(r) >= old;
	}
	assert_int_equal(kept, 4000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_at_every_store),
		cmocka_unit_test(killed_in_a_change),
		cmocka_unit_test(unknown),
		cmocka_unit_test(longer),
		cmocka_unit_test(damaged),
		cmocka_unit_test(torn),
		cmocka_unit_test(sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
