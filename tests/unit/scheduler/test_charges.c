/* charges: what a process, a boot, a full disk and damage leave of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "scheduler/charges.h"
#include "scheduler/core/rate.h"
#include "tests/lib/scratch.h"

#define SECOND 1000000ull
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)

static const unsigned char us[16] = "instance of ours", them[16] = "instance, theirs";

struct fixture {
	char path[600];
	int dir;
	struct charges *c;
	struct charges_now now;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	strcpy(f->path, scratch_make());
	f->dir = open(f->path, O_RDONLY | O_DIRECTORY);
	f->now = (struct charges_now){ 5 * HOUR, 1000 * DAY, "boot one" };
	*state = f;
	if (f->dir < 0 || charges_open(&f->c, f->dir, us, &f->now) != 0)
		return 1;
	charges_rebuilt(f->c, INT64_MIN);
	charges_longest(f->c, MINUTE);
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	charges_close(&f->c);
	close(f->dir);
	scratch_remove(f->path);
	free(f);
	return 0;
}

static void
again(struct fixture *f)
{
	charges_close(&f->c);
	assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
	charges_longest(f->c, MINUTE);
}

static struct core_charge_key
key_of(uint64_t k)
{
	return (struct core_charge_key){ k * 0x9e3779b97f4a7c15ull, k };
}

static struct rate *
take(struct fixture *f, uint64_t k, uint64_t n, uint64_t window_us, bool want_found)
{
	struct core_charge_key key = key_of(k);
	bool found;
	void *memory = charges_take(f->c, &key, rate_bytes(n), &found);

	assert_non_null(memory);
	assert_int_equal(found, want_found);
	return rate_place(memory, n, window_us, f->now.boot_us);
}

static size_t
slots(struct fixture *f)
{
	struct charges_counts c;

	charges_counts(f->c, &c);
	return c.slots;
}

/* It dies and is opened again: what was charged is there, for other numbers too. */
static void
after_a_death(void **state)
{
	static const struct {
		uint64_t n, n2;
	} rows[] = { { 1, 1 }, { 10, 10 }, { 1000, 1000 }, { 1, 128 }, { 128, 1000 }, { 5000, 2 } };
	struct fixture *f = *state;

	for (unsigned i = 0; i < 6; i++)
		rate_force(take(f, i, rows[i].n, HOUR, false), f->now.boot_us, rows[i].n);
	f->now.boot_us += MINUTE;
	again(f);
	assert_int_equal(slots(f), 6);
	for (unsigned i = 0; i < 6; i++) {
		struct rate *r = take(f, i, rows[i].n2, HOUR, true);

		assert_true(rate_used(r) >= (rows[i].n < rows[i].n2 ? rows[i].n : rows[i].n2));
		if (rows[i].n2 <= rows[i].n)
			assert_int_equal(rate_room(r, f->now.boot_us), 0);
		assert_int_equal(rate_room(r, f->now.boot_us + 62 * MINUTE), rate_share(r));
	}
	assert_int_equal(slots(f), 6);
	f->now.boot_us += 62 * MINUTE;
	again(f);
	(void)take(f, 6, 1, HOUR, false);
	assert_int_equal(slots(f), 7);
}

/* While a limit moves to other memory, the first one is what counts. */
static void
in_a_change(void **state)
{
	struct fixture *f = *state;
	struct rate *a = take(f, 1, 10, HOUR, false), *b;

	rate_charge(a, f->now.boot_us, 2);
	b = take(f, 1, 1000, HOUR, false);
	again(f);
	assert_int_equal(slots(f), 1);
	a = take(f, 1, 10, HOUR, true);
	assert_int_equal(rate_used(a), 2);
	b = take(f, 1, 1000, HOUR, false);
	rate_move(b, a, f->now.boot_us);
	charges_give(f->c, a);
	rate_charge(b, f->now.boot_us, 5);
	again(f);
	assert_int_equal(rate_used(take(f, 1, 1000, HOUR, true)), 7);
}

/* A short window is closed after a reboot; the longer one that its limit gets before that is over
 * knows what was charged. */
static void
short_then_long(void **state)
{
	struct fixture *f = *state;
	struct event_position at = { 3, 400 };
	struct rate *a = take(f, 1, 10, 10 * MINUTE, false), *b;

	rate_charge(a, f->now.boot_us, 2);
	charges_tick(f->c, f->now.boot_us, f->now.wall_us);
	charges_sync_begin(f->c, f->now.boot_us, at);
	charges_sync_end(f->c, charges_sync(f->c));
	charges_rebuilt(f->c, INT64_MIN);
	charges_close(&f->c);
	f->now = (struct charges_now){ 10 * SECOND, f->now.wall_us + MINUTE, "boot two" };
	again(f);
	charges_rebuilt(f->c, INT64_MIN);
	a = take(f, 1, 10, 10 * MINUTE, true);
	assert_int_equal(rate_when(a, f->now.boot_us), f->now.boot_us + 10 * MINUTE + SECOND + 1);
	b = take(f, 1, 20, HOUR, false);
	rate_move(b, a, f->now.boot_us);
	charges_give(f->c, a);
	assert_int_equal(rate_used(b), 2);
	assert_int_equal(rate_room(b, f->now.boot_us + 30 * MINUTE), 4);
	assert_int_equal(rate_used(b), 2);
}

/* Left by its limit, and found by the next of that name as long as it counts. */
static void
left_and_found(void **state)
{
	struct fixture *f = *state;
	struct rate *a = take(f, 1, 10, HOUR, false);

	rate_charge(a, f->now.boot_us, 2);
	charges_leave(f->c, a);
	assert_int_equal(slots(f), 1);
	a = take(f, 1, 10, HOUR, true);
	assert_int_equal(rate_used(a), 2);
	charges_leave(f->c, a);
	f->now.boot_us += 2 * HOUR;
	for (unsigned i = 0; i < 100; i++)
		charges_tick(f->c, f->now.boot_us, f->now.wall_us);
	assert_int_equal(slots(f), 0);
	assert_int_equal(rate_used(take(f, 1, 10, HOUR, false)), 0);
}

/* What nobody takes goes when it does not count any more. */
static void
nobody_takes(void **state)
{
	struct fixture *f = *state;

	for (unsigned k = 0; k < 3000; k++)
		rate_charge(take(f, k, 1, k % 2 ? HOUR : DAY, false), f->now.boot_us, 1);
	again(f);
	for (unsigned i = 0; i < 100; i++)
		charges_tick(f->c, f->now.boot_us + 2 * HOUR, f->now.wall_us);
	assert_int_equal(slots(f), 1500);
	(void)take(f, 7, 1, HOUR, false);
	(void)take(f, 8, 1, DAY, true);
}

static void
tick_long(struct fixture *f)
{
	for (unsigned i = 0; i < 100; i++)
		charges_tick(f->c, f->now.boot_us, f->now.wall_us);
}

/* Before anybody takes it its limit gets a longer window: what counted then counts in that one,
 * after a kill and after a reboot too. */
static void
longer_by_then(void **state)
{
	struct fixture *f = *state;
	struct rate *was;

	rate_charge(take(f, 1, 50, 10 * MINUTE, false), f->now.boot_us, 3);
	rate_charge(take(f, 2, 50, 10 * MINUTE, false), f->now.boot_us, 3);
	again(f);
	f->now.boot_us += 5 * MINUTE;
	charges_longest(f->c, DAY);
	f->now.boot_us += HOUR;
	tick_long(f);
	assert_int_equal(slots(f), 2);
	was = take(f, 1, 50, 10 * MINUTE, true);
	rate_move(take(f, 1, 128, DAY, false), was, f->now.boot_us);
	charges_give(f->c, was);
	charges_close(&f->c);
	assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
	tick_long(f);
	assert_int_equal(slots(f), 2); /* it was not said yet what there is */
	charges_longest(f->c, DAY);
	assert_int_equal(rate_used(take(f, 1, 128, DAY, true)), 3);
	charges_sync_begin(f->c, f->now.boot_us, (struct event_position){ 3, 4096 });
	charges_sync_end(f->c, charges_sync(f->c));
	charges_close(&f->c);
	f->now = (struct charges_now){ MINUTE, f->now.wall_us + 2 * HOUR, "boot two" };
	assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
	charges_longest(f->c, DAY);
	tick_long(f);
	assert_int_equal(slots(f), 2);
	was = take(f, 2, 50, 10 * MINUTE, true);
	rate_move(take(f, 2, 1000, DAY, false), was, f->now.boot_us);
	assert_int_equal(rate_used(take(f, 1, 128, DAY, true)), 3);
	charges_leave(f->c, was);
	f->now.boot_us += 20 * HOUR;
	tick_long(f);
	assert_int_equal(slots(f), 3);
	charges_longest(f->c, HOUR); /* nothing is that long any more */
	tick_long(f);
	assert_int_equal(slots(f), 2);
}

/* Another boot: short windows closed for one window from the first start on, long ones by age. */
static void
reboot(void **state)
{
	struct fixture *f = *state;
	struct charges_past past;
	struct rate *r;

	rate_charge(take(f, 1, 10, 10 * MINUTE, false), f->now.boot_us, 1);
	r = take(f, 2, 1000, HOUR, false);
	for (unsigned i = 0; i < 4; i++)
		rate_charge(r, f->now.boot_us + i * 7 * MINUTE, 200);
	rate_charge(take(f, 3, 1, DAY, false), f->now.boot_us, 1);
	rate_charge(take(f, 4, 1, HOUR, false), f->now.boot_us, 1);
	f->now.boot_us += 21 * MINUTE;
	f->now.wall_us += 21 * MINUTE;
	charges_tick(f->c, f->now.boot_us, f->now.wall_us);
	charges_sync_begin(f->c, f->now.boot_us, (struct event_position){ 3, 4096 });
	assert_int_equal(charges_sync(f->c), 0);
	charges_sync_end(f->c, 0);
	/* Down for five minutes; up for ten seconds now. */
	f->now = (struct charges_now){ 10 * SECOND, 1000 * DAY + 26 * MINUTE, "boot two" };
	again(f);
	assert_true(charges_past(f->c, &past));
	assert_true(past.has_boot);
	assert_memory_equal(past.boot_id, "boot one", 8);
	assert_int_equal(past.from.file, 3);
	assert_int_equal(past.synced_boot_us, 5 * HOUR + 21 * MINUTE);
	assert_int_equal(past.shift_us, (int64_t)(10 * SECOND) - (int64_t)(5 * HOUR + 26 * MINUTE));
	/* Killed before that was counted: it is asked for again. */
	f->now.boot_us += SECOND;
	again(f);
	assert_true(charges_past(f->c, &past));
	charges_rebuilt(f->c, 0);
	f->now.boot_us += 20 * SECOND;
	again(f);
	assert_false(charges_past(f->c, &past));
	r = take(f, 1, 10, 10 * MINUTE, true);
	assert_int_equal(rate_when(r, f->now.boot_us), 10 * SECOND + 10 * MINUTE + SECOND + 1);
	r = take(f, 5, 20, SECOND, false);
	assert_int_equal(rate_room(r, f->now.boot_us), 4);
	r = take(f, 4, 1, HOUR, true);
	/* 26 minutes and 21 seconds old. */
	assert_int_equal(rate_when(r, f->now.boot_us), 10 * SECOND + 34 * MINUTE + SECOND + 1);
	r = take(f, 3, 1, DAY, true);
	assert_int_equal(rate_room(r, 23 * HOUR), 0);
	assert_int_equal(rate_room(r, DAY - 25 * MINUTE), 1);
	r = take(f, 2, 1000, HOUR, true);
	assert_int_equal(rate_used(r), 800);
	assert_int_equal(rate_room(r, f->now.boot_us), 0 + rate_room(r, f->now.boot_us));
	assert_true(rate_room(r, f->now.boot_us) <= 200);
	assert_int_equal(rate_used(r), 800);
	(void)rate_room(r, 10 * SECOND + 36 * MINUTE);
	assert_int_equal(rate_used(r), 600);
	/* What is new and long has had no charges: all is known. */
	assert_int_equal(rate_room(take(f, 6, 1, DAY, false), f->now.boot_us), 1);
}

/* Nobody knows what was charged before: closed for that, also after a kill. */
static void
not_known(void **state)
{
	struct fixture *f = *state;
	struct charges_past past;

	charges_close(&f->c);
	assert_int_equal(unlinkat(f->dir, "charges", 0), 0);
	assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
	assert_true(charges_past(f->c, &past));
	assert_false(past.has_boot);
	assert_int_equal(past.from.file, 0);
	charges_rebuilt(f->c, (int64_t)(f->now.boot_us - 20 * MINUTE));
	f->now.boot_us += SECOND;
	again(f);
	assert_int_equal(rate_room(take(f, 1, 100, 10 * MINUTE, false), f->now.boot_us), 20);
	assert_int_equal(rate_when(take(f, 2, 100, HOUR, false), f->now.boot_us),
			 5 * HOUR + 40 * MINUTE + SECOND + 1);
	/* Before this boot. */
	charges_not_rebuilt(f->c, f->now.boot_us);
	assert_int_equal(rate_when(take(f, 3, 100, HOUR, false), f->now.boot_us),
			 f->now.boot_us + HOUR + SECOND + 1);
}

static void
of_another(void **state)
{
	struct fixture *f = *state;

	rate_charge(take(f, 1, 10, MINUTE, false), f->now.boot_us, 1);
	charges_close(&f->c);
	f->now.boot_us += HOUR;
	assert_int_equal(charges_open(&f->c, f->dir, them, &f->now), 0);
	charges_rebuilt(f->c, INT64_MIN);
	f->now.boot_us += SECOND;
	charges_close(&f->c);
	assert_int_equal(charges_open(&f->c, f->dir, them, &f->now), 0);
	assert_int_equal(slots(f), 0);
	assert_int_equal(rate_when(take(f, 1, 10, MINUTE, false), f->now.boot_us),
			 6 * HOUR + MINUTE + 600001);
	assert_int_equal(rate_room(take(f, 2, 10, HOUR, false), f->now.boot_us), 2);
}

/* Any byte may be wrong: it is opened, and a slot whose head is wrong leaves short windows closed.
 */
static void
damage(void **state)
{
	struct fixture *f = *state;
	const char *path;

	for (size_t at = 0; at < 4096 + 64 + 200; at += at < 256 ? 1 : at < 4090 ? 61 : 1) {
		struct rate *r;
		struct core_charge_key key = key_of(1);
		bool found;
		void *memory;

		charges_close(&f->c);
		(void)unlinkat(f->dir, "charges", 0);
		assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
		charges_rebuilt(f->c, INT64_MIN);
		rate_charge(take(f, 1, 1, MINUTE, false), f->now.boot_us, 1);
		charges_close(&f->c);
		path = scratch_path(f->path, "charges");
		scratch_flip(path, at, (unsigned)at % 8);
		assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
		memory = charges_take(f->c, &key, rate_bytes(1), &found);
		r = rate_place(memory, 1, MINUTE, f->now.boot_us);
		/* A stamp or a number may be believable still. */
		if (rate_room(r, f->now.boot_us) != 0)
			fail_msg("byte %zu: open", at);
	}
}

/* Whatever the length: a file that was cut off. */
static void
cut_off(void **state)
{
	struct fixture *f = *state;
	static const off_t lengths[] = { 0, 1, 4095, 4096, 4097, 70000, 4096 + (128 << 10) - 1 };

	for (unsigned i = 0; i < 7; i++) {
		(void)take(f, 100 + i, 10, HOUR, false);
		charges_close(&f->c);
		assert_int_equal(truncate(scratch_path(f->path, "charges"), lengths[i]), 0);
		assert_int_equal(charges_open(&f->c, f->dir, us, &f->now), 0);
		rate_force(take(f, 100 + i, 10, HOUR, false), f->now.boot_us, 2);
	}
}

static long
anon_kb(void)
{
	FILE *p = fopen("/proc/self/status", "r");
	char line[200];
	long kb = -1;

	while (p && fgets(line, sizeof line, p))
		(void)sscanf(line, "RssAnon: %ld", &kb);
	fclose(p);
	return kb;
}

static void
hundred_thousand(void **state)
{
	struct fixture *f = *state;
	long before = anon_kb();
	struct charges_counts c;

	for (unsigned k = 0; k < 100000; k++)
		rate_charge(take(f, k, 1, HOUR, false), f->now.boot_us, 1);
	charges_counts(f->c, &c);
	assert_int_equal(c.slots, 100000);
	assert_true(c.bytes < 20000000);
	assert_true(anon_kb() - before < 300);
	again(f);
	for (unsigned k = 0; k < 100000; k++)
		assert_int_equal(rate_room(take(f, k, 1, HOUR, true), f->now.boot_us), 0);
	charges_counts(f->c, &c);
	assert_int_equal(c.slots, 100000);
	assert_int_equal(c.unclaimed, 0);
}

static void
full_disk(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, few = { 5000, 5000 };
	struct core_charge_key key = key_of(1);
	bool found;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	few.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
	assert_null(charges_take(f->c, &key, 64, &found));
	assert_false(found);
	assert_null(charges_take(f->c, &key, 64, &found));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_non_null(charges_take(f->c, &key, 64, &found));
}

/* Events are kept until a mark that does without them is surely on the disk. */
static void
events_kept(void **state)
{
	struct fixture *f = *state;
	struct event_position at;

	assert_false(charges_needs_events(f->c, &at));
	for (unsigned i = 1; i < 5; i++) {
		charges_sync_begin(f->c, f->now.boot_us, (struct event_position){ i, 5000 });
		assert_int_equal(charges_sync(f->c), 0);
		charges_sync_end(f->c, 0);
		assert_true(charges_needs_events(f->c, &at));
		assert_int_equal(at.file, i == 1 ? 1 : i - 1);
	}
	again(f);
	assert_true(charges_needs_events(f->c, &at));
	assert_int_equal(at.file, 3);
	charges_sync_begin(f->c, f->now.boot_us, at);
	charges_sync_end(f->c, -1);
	assert_false(charges_needs_events(f->c, &at));
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(after_a_death), T(in_a_change),    T(left_and_found),   T(short_then_long),
		T(nobody_takes),  T(reboot),         T(not_known),        T(of_another),
		T(damage),        T(cut_off),        T(hundred_thousand), T(full_disk),
		T(events_kept),   T(longer_by_then),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
