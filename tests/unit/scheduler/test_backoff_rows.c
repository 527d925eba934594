/* Back-off as it is kept: thresholds count in a sliding window, what is stored comes back, ends,
 * exemptions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/queue/store.h"
#include "scheduler/backoff_rows.h"

#define SEC    1000000ull
#define MINUTE (60 * SEC)
#define T0     (1700000000ull * SEC)

static void
counts_in_a_window(void **state)
{
	static const struct conf_rate after = { 3, 10 * MINUTE };
	// clang-format off
	static const struct { uint64_t at; bool fires; } rows[] = {
		{ 0, false }, { 5 * MINUTE, false },
		{ 10 * MINUTE, false },               /* the first one has just left the window */
		{ 15 * MINUTE - 1, true },            /* 5, 10, 15 */
		{ 15 * MINUTE, false },               /* it began anew */
		{ 15 * MINUTE + 1, false }, { 15 * MINUTE + 2, true },
	};
	// clang-format on
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_count *c =
		backoff_counts_get(r, 7, CONF_RULE_QUEUE, SLICE_LIT("a.example/v"));
	struct backoff_count *other =
		backoff_counts_get(r, 7, CONF_RULE_QUEUE, SLICE_LIT("a.example/w"));

	(void)state;
	assert_ptr_not_equal(c, other);
	assert_ptr_equal(c, backoff_counts_get(r, 7, CONF_RULE_QUEUE, SLICE_LIT("A.example/V")));
	assert_ptr_not_equal(c,
			     backoff_counts_get(r, 8, CONF_RULE_QUEUE, SLICE_LIT("a.example/v")));
	assert_ptr_not_equal(c, backoff_counts_get(r, 7, CONF_RULE_VMTA, SLICE_LIT("a.example/v")));
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		assert_int_equal(backoff_count_add(c, &after, T0 + rows[i].at), rows[i].fires);
	assert_int_equal(backoff_count_now(other, T0), 0);
	backoff_rows_free(&r);
}

/* A threshold beyond the stamps: never too early, and never much too late. */
static void
counts_large(void **state)
{
	static const struct conf_rate after = { 1000, 10 * MINUTE };
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_count *c =
		backoff_counts_get(r, 7, CONF_RULE_QUEUE, SLICE_LIT("a.example/v"));

	(void)state;
	/* 950 in any window: never. */
	for (uint64_t i = 0; i < 5000; i++)
		assert_false(backoff_count_add(c, &after, T0 + i * (10 * MINUTE / 950)));
	assert_true(backoff_count_now(c, T0 + 4999 * (10 * MINUTE / 950)) >= 950 * 60 / 64);
	/* All at once: with the 1000th at the latest. */
	c->n = 0;
	for (uint64_t i = 0; i < 999; i++)
		assert_false(backoff_count_add(c, &after, T0 + 999 * MINUTE + i));
	assert_true(backoff_count_add(c, &after, T0 + 999 * MINUTE + 999));
	backoff_rows_free(&r);
}

static const struct backoff_why why = {
	.reason = { "421 too many", 12 },
	.rule = { "sluice.conf:12", 14 },
	.source_ip = { "192.0.2.1", 9 },
	.reroute = { "mta2", 4 },
	.rule_key = 0x1234567890abcdefull,
	.for_us = 10 * MINUTE,
};

static struct backoff_row *
ended(struct backoff_rows *r, uint64_t boot_us, uint64_t *next)
{
	*next = 0;
	return backoff_rows_ended(r, boot_us, next);
}

static struct backoff_rows *
again(struct backoff_rows **r, uint64_t wall_us, uint64_t boot_us)
{
	struct backoff_rows *new = backoff_rows_new();
	const struct backoff_row *row;

	for (size_t i = 0; (row = backoff_rows_at(*r, i)) != NULL; i++) {
		struct buf b = { 0 };

		backoff_row_encode(&b, row);
		assert_true(b.len <= STORE_BACKOFF_MAX);
		assert_true(
			backoff_rows_restore(new, row->number, buf_slice(&b), wall_us, boot_us));
		/* Cut anywhere it is not understood, and nothing is taken in. */
		for (size_t n = 0; n < b.len; n += n < 60 || b.len - n < 60 ? 1 : 37) {
			struct backoff_rows *cut = backoff_rows_new();

			assert_false(backoff_rows_restore(cut, 1, slice_of(b.data + b.start, n),
							  wall_us, boot_us));
			assert_int_equal(backoff_rows_count(cut), 0);
			backoff_rows_free(&cut);
		}
		buf_clear(&b);
	}
	backoff_rows_free(r);
	return new;
}

static void
modes_come_back(void **state)
{
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_row *row =
		backoff_rows_make(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1"));
	uint64_t next;

	(void)state;
	assert_true(backoff_row_enter(r, row, &why, T0, 500));
	r = again(&r, T0 + 4 * MINUTE, 9000); /* another boot, four minutes later */
	row = backoff_rows_find(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1"));
	assert_non_null(row);
	assert_true(row->on);
	assert_int_equal(backoff_rows_on(r, CONF_RULE_QUEUE), 1);
	assert_true(row->since_wall_us == T0 && row->until_wall_us == T0 + 10 * MINUTE);
	assert_string_equal(row->reason, "421 too many");
	assert_string_equal(row->rule, "sluice.conf:12");
	assert_string_equal(row->source_ip, "192.0.2.1");
	assert_string_equal(row->reroute, "mta2");
	assert_true(row->rule_key == why.rule_key);
	assert_int_equal(row->n_changes, 1);
	assert_null(ended(r, 9000 + 6 * MINUTE - 1, &next));
	assert_true(next == 9000 + 6 * MINUTE);
	assert_ptr_equal(ended(r, 9000 + 6 * MINUTE, &next), row);
	/* A further match: the timer begins again, since stays, no change of mode. */
	assert_false(backoff_row_enter(r, row, &why, T0 + 5 * MINUTE, 9000 + MINUTE));
	assert_true(row->since_wall_us == T0 && row->until_wall_us == T0 + 15 * MINUTE);
	assert_int_equal(row->n_changes, 1);
	assert_true(backoff_row_leave(r, row, SLICE_LIT("by command"), T0 + 6 * MINUTE));
	assert_false(backoff_row_leave(r, row, SLICE_LIT("by command"), T0 + 6 * MINUTE));
	/* A recovery in steps, of which the rule says how. */
	row->recovering = true;
	row->before_mps = 5000;
	row->rate_mps = 700;
	assert_int_equal(backoff_rows_on(r, CONF_RULE_QUEUE), 0);
	r = again(&r, T0 + 7 * MINUTE, 1);
	row = backoff_rows_find(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1"));
	assert_false(row->on);
	assert_int_equal(row->n_changes, 2);
	assert_string_equal(row->changes[1].reason, "by command");
	assert_true(row->recovering && row->before_mps == 5000 && row->rate_mps == 700);
	assert_true(row->rule_key == why.rule_key);
	assert_true(backoff_row_enter(r, row, &why, T0 + 8 * MINUTE, 1));
	assert_true(!row->recovering && row->before_mps == 0 && row->rate_mps == 0);
	backoff_rows_free(&r);
}

/* One whose end passed while nothing ran ends at once. */
static void
an_end_that_passed(void **state)
{
	struct backoff_rows *r = backoff_rows_new();
	uint64_t next;

	(void)state;
	(void)backoff_row_enter(r,
				backoff_rows_make(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1")),
				&why, T0, 500);
	r = again(&r, T0 + 11 * MINUTE, 77);
	assert_non_null(ended(r, 77, &next));
	backoff_rows_free(&r);
}

/* Ends come in their order, whatever moved or left them. */
static void
ends_in_their_order(void **state)
{
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_why of = why;
	struct backoff_row *row;
	uint64_t next, last = 0, left = 0;
	char name[40];

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof name, "d%u.example/mta1", i);
		row = backoff_rows_make(r, CONF_RULE_QUEUE, slice_str(name));
		of.for_us = i % 10 == 9 ? BACKOFF_NEVER : 1 + i * 7919 % 1009;
		assert_true(backoff_row_enter(r, row, &of, T0, 0));
		if (i % 10 == 3) /* begins again */
			assert_false(backoff_row_enter(r, row, &of, T0, 2000));
		if (i % 10 == 5)
			assert_true(backoff_row_leave(r, row, SLICE_LIT("by command"), T0));
	}
	r = again(&r, T0 + 1, 5000);
	while ((row = ended(r, 10000, &next)) != NULL) {
		assert_true(row->on && row->until_boot_us == next && next >= last);
		last = next;
		assert_true(backoff_row_leave(r, row, SLICE_LIT("over"), T0));
		left++;
	}
	assert_int_equal(left, 800);
	assert_true(next == BACKOFF_NEVER);
	assert_int_equal(backoff_rows_on(r, CONF_RULE_QUEUE), 100);
	backoff_rows_free(&r);
}

/* What has been normal for a month is forgotten; what is in back-off, ends, or keeps a wider scope off is not. */
static void
what_is_past_is_forgotten(void **state)
{
	const uint64_t later = T0 + MINUTE + BACKOFF_KEPT_US;
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_row *wide = backoff_rows_make(r, CONF_RULE_VMTA, SLICE_LIT("mta1")), *row;
	struct backoff_why of = why;
	uint64_t next, last = 0;
	unsigned ends = 0;
	char name[40];

	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof name, "d%u.example/mta1", i);
		row = backoff_rows_make(r, CONF_RULE_QUEUE, slice_str(name));
		of.for_us = 1 + i * 37 % 101;
		(void)backoff_row_enter(r, row, &of, T0, 0);
		if (i % 2 == 0)
			(void)backoff_row_leave(r, row, SLICE_LIT("over"), T0 + MINUTE);
		assert_false(backoff_row_is_past(r, row, later));
		assert_int_equal(backoff_row_is_past(r, row, later + 1), i % 2 == 0);
	}
	row = backoff_rows_find(r, CONF_RULE_QUEUE, SLICE_LIT("d0.example/mta1"));
	row->recovering = true;
	assert_false(backoff_row_is_past(r, row, later + 1));
	row->recovering = false;
	(void)backoff_row_enter(r, wide, &why, T0, 0);
	assert_true(backoff_row_exempt(row, wide));
	assert_false(backoff_row_is_past(r, row, later + 1));
	(void)backoff_row_leave(r, wide, SLICE_LIT("over"), later);
	assert_true(backoff_row_is_past(r, row, later + 1));
	/* One that was in no back-off of its own, but taken out of a source IP's. */
	row = backoff_rows_make(r, CONF_RULE_QUEUE, SLICE_LIT("e.example/mta1"));
	wide = backoff_rows_make(r, CONF_RULE_SOURCE_IP, SLICE_LIT("192.0.2.1"));
	(void)backoff_row_enter(r, wide, &why, T0, 0);
	assert_true(backoff_row_exempt(row, wide));
	assert_false(backoff_row_is_past(r, row, later + 1));
	(void)backoff_row_leave(r, wide, SLICE_LIT("over"), T0);
	assert_false(backoff_row_is_past(r, row, T0 + BACKOFF_KEPT_US));
	assert_true(backoff_row_is_past(r, row, T0 + BACKOFF_KEPT_US + 1));
	for (size_t i = 0; (row = backoff_rows_at(r, i)) != NULL;) {
		if (backoff_row_is_past(r, row, later + 1))
			backoff_rows_forget(r, row);
		else
			i++;
	}
	assert_int_equal(backoff_rows_count(r), 51);
	assert_null(backoff_rows_find(r, CONF_RULE_QUEUE, SLICE_LIT("d4.example/mta1")));
	while ((row = ended(r, 1000, &next)) != NULL) {
		assert_true(row->on && row->until_boot_us == next && next >= last);
		last = next;
		assert_ptr_equal(backoff_rows_find(r, CONF_RULE_QUEUE, slice_str(row->name)), row);
		(void)backoff_row_leave(r, row, SLICE_LIT("over"), later);
		ends++;
	}
	assert_int_equal(ends, 50);
	backoff_rows_free(&r);
}

static void
ten_changes_are_kept(void **state)
{
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_row *row =
		backoff_rows_make(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1"));
	char longest[3 * 600];
	struct backoff_why w = why;

	(void)state;
	memset(longest, 'x', sizeof longest);
	w.reason = slice_of(longest, sizeof longest);
	for (uint64_t i = 0; i < 25; i++) {
		if (i % 2 == 0)
			assert_true(backoff_row_enter(r, row, &w, T0 + i, i));
		else
			assert_true(backoff_row_leave(r, row, w.reason, T0 + i));
	}
	r = again(&r, T0, 0); /* the longest there is fits into the store */
	row = backoff_rows_at(r, 0);
	assert_int_equal(row->n_changes, BACKOFF_CHANGES);
	assert_true(row->changes[9].wall_us == T0 + 24 && row->changes[9].to_backoff);
	assert_true(row->changes[0].wall_us == T0 + 15 && !row->changes[0].to_backoff);
	backoff_rows_free(&r);
}

/* Until the scope's back-off ends: the next one holds for the queue again. */
static void
exempt_from_a_scope(void **state)
{
	struct backoff_rows *r = backoff_rows_new();
	struct backoff_row *scope = backoff_rows_make(r, CONF_RULE_VMTA, SLICE_LIT("mta1"));
	struct backoff_row *queue =
		backoff_rows_make(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1"));

	(void)state;
	assert_false(backoff_row_exempt(queue, scope)); /* it is not on */
	(void)backoff_row_enter(r, scope, &why, T0, 0);
	assert_true(backoff_row_holds(scope, queue) && backoff_row_holds(scope, NULL));
	assert_true(backoff_row_exempt(queue, scope));
	assert_false(backoff_row_holds(scope, queue));
	r = again(&r, T0 + 1, 1);
	scope = backoff_rows_find(r, CONF_RULE_VMTA, SLICE_LIT("MTA1"));
	queue = backoff_rows_find(r, CONF_RULE_QUEUE, SLICE_LIT("a.example/mta1"));
	assert_false(backoff_row_holds(scope, queue));
	assert_true(backoff_row_holds(scope, NULL));
	/* A further match goes on with the same back-off. */
	assert_false(backoff_row_enter(r, scope, &why, T0 + MINUTE, MINUTE));
	assert_false(backoff_row_holds(scope, queue));
	(void)backoff_row_leave(r, scope, SLICE_LIT("time"), T0 + 2 * MINUTE);
	(void)backoff_row_enter(r, scope, &why, T0 + 3 * MINUTE, 3 * MINUTE);
	assert_true(backoff_row_holds(scope, queue));
	assert_true(backoff_row_exempt(queue, scope));
	assert_int_equal(queue->n_exempt, 1);
	backoff_rows_free(&r);
}

static void
counts_come_back(void **state)
{
	static const struct conf_rate after = { 3, 10 * MINUTE };
	struct backoff_rows *r = backoff_rows_new(), *b = backoff_rows_new();
	struct backoff_count *c = backoff_counts_get(r, 9, CONF_RULE_PROVIDER, SLICE_LIT("google"));
	struct buf blob = { 0 };
	uint32_t number = c->number;

	(void)state;
	assert_false(backoff_count_add(c, &after, T0));
	assert_false(backoff_count_add(c, &after, T0 + 1));
	backoff_count_encode(&blob, c);
	assert_true(backoff_rows_restore(b, number, buf_slice(&blob), T0 + 2, 5));
	c = backoff_counts_get(b, 9, CONF_RULE_PROVIDER, SLICE_LIT("google"));
	assert_int_equal(c->number, number);
	assert_int_equal(backoff_counts_sweep(b, T0 + 2), 0);
	assert_int_equal(backoff_counts_sweep(b, T0 + 11 * MINUTE), number);
	assert_int_equal(backoff_counts_sweep(b, T0 + 11 * MINUTE), 0);
	assert_true(backoff_rows_restore(b, number, buf_slice(&blob), T0 + 2, 5));
	c = backoff_counts_get(b, 9, CONF_RULE_PROVIDER, SLICE_LIT("google"));
	assert_true(backoff_count_add(c, &after, T0 + 2));
	/* Numbers of the store are given once. */
	assert_true(backoff_rows_make(b, CONF_RULE_QUEUE, SLICE_LIT("x/y"))->number > number);
	buf_clear(&blob);
	backoff_rows_free(&r);
	backoff_rows_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_in_a_window),   cmocka_unit_test(counts_large),
		cmocka_unit_test(modes_come_back),      cmocka_unit_test(an_end_that_passed),
		cmocka_unit_test(ends_in_their_order),  cmocka_unit_test(what_is_past_is_forgotten),
		cmocka_unit_test(ten_changes_are_kept), cmocka_unit_test(exempt_from_a_scope),
		cmocka_unit_test(counts_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
