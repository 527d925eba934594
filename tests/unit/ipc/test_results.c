/* Results and their strings: round trips, the bound of the claim slot, malformed bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/ipc/results.h"
#include "common/queue/claims.h"

static struct result_rcpt rcpts[CLAIM_RCPT_MAX];
static char texts[CLAIM_RCPT_MAX][600];

static const struct results frame = {
	.flags = 5,
	.wall_us = 1790000000000000u,
	.boot_us = 123456789,
	.dlv_source_ip = { "192.0.2.10", 10 },
	.dlv_destination_ip = { "2001:db8::1", 11 },
	.dsn_mta = { "mx1.example.com (2001:db8::1)", 29 },
	.dlv_esmtp = { "PIPELINING,SIZE,8BITMIME,ENHANCEDSTATUSCODES", 44 },
	.rcpts = rcpts,
};

static void
assert_slice(struct slice a, struct slice b)
{
	assert_int_equal(a.n, b.n);
	assert_true(slice_eq(a, b));
}

/* Encodes the first n, decodes, compares all but the texts; how many texts came back whole. */
static size_t
round_trip(size_t n)
{
	struct results in = frame, out;
	struct buf b = { 0 }, scratch = { 0 };
	size_t whole = 0;

	in.n_rcpts = n;
	buf_puts(&b, "before"); /* what is in front must not count */
	results_encode(&b, &in);
	buf_consume(&b, 6);
	assert_in_range(b.len, 1, CLAIM_RESULT_BYTES);
	assert_int_equal(results_decode(&out, buf_slice(&b), &scratch), 0);
	assert_int_equal(out.flags, in.flags);
	assert_int_equal(out.wall_us, in.wall_us);
	assert_int_equal(out.boot_us, in.boot_us);
	assert_slice(out.dlv_source_ip, in.dlv_source_ip);
	assert_slice(out.dlv_destination_ip, in.dlv_destination_ip);
	assert_slice(out.dsn_mta, in.dsn_mta);
	assert_slice(out.dlv_esmtp, in.dlv_esmtp);
	assert_int_equal(out.n_rcpts, n);
	for (size_t i = 0; i < n; i++) {
		const struct result_rcpt *a = &in.rcpts[i], *z = &out.rcpts[i];

		assert_int_equal(a->index, z->index);
		assert_int_equal(a->action, z->action);
		assert_memory_equal(a->status, z->status, 3);
		assert_int_equal(a->code, z->code);
		assert_true(a->stamp_boot_us == z->stamp_boot_us);
		if (z->diag.n > 0) /* shortened at most */
			assert_memory_equal(a->diag.p, z->diag.p, z->diag.n);
		if (a->diag.n == z->diag.n)
			whole++;
	}
	buf_clear(&b);
	buf_clear(&scratch);
	return whole;
}

static void
set(size_t i, unsigned index, unsigned action, unsigned code, struct slice diag)
{
	rcpts[i] = (struct result_rcpt){
		.index = (uint16_t)index,
		.action = (uint8_t)action,
		.status = { (uint8_t)(code / 100), 1, (uint8_t)(i % 7) },
		.code = (uint16_t)code,
		.diag = diag,
	};
}

static void
test_plain(void **state)
{
	(void)state;
	assert_int_equal(round_trip(0), 0);
	set(0, 0, EVENT_DELIVERED, 250, SLICE_LIT("smtp;250 2.0.0 ok"));
	assert_int_equal(round_trip(1), 1);
	set(1, 5, EVENT_BOUNCED, 550, SLICE_LIT("smtp;550 5.1.1 no such user"));
	set(2, 3, EVENT_UNATTEMPTED, 0, SLICE_NONE);
	set(3, 65535, EVENT_DEFERRED, 450, SLICE_LIT("smtp;450 4.2.1"));
	set(4, 0, EVENT_DEFERRED, 450, SLICE_LIT("smtp;450 4.2.1"));
	assert_int_equal(round_trip(5), 5);
}

/* Stamps of their own: each comes back, a talk of hours too, and the claim's and none between. */
static void
test_stamps(void **state)
{
	static const uint64_t base = 1ull << 50;
	char whole[] = "smtp;250 2.0.0 ok";

	(void)state;
	for (size_t i = 0; i < CLAIM_RCPT_MAX; i++) {
		set(i, (unsigned)i, EVENT_DELIVERED, 250, slice_str(whole));
		rcpts[i].stamp_boot_us = i % 7 == 3   ? 0
					 : i % 7 == 5 ? EVENT_STAMP_NONE
						      : base - 34000000000u + i * 34000000u;
	}
	assert_int_equal(round_trip(CLAIM_RCPT_MAX), CLAIM_RCPT_MAX);
	rcpts[0].stamp_boot_us = 2;
	assert_int_equal(round_trip(1), 1);
	rcpts[0].stamp_boot_us = EVENT_STAMP_NONE;
	assert_int_equal(round_trip(2), 2);
	for (size_t i = 0; i < CLAIM_RCPT_MAX; i++) /* the worst case by far */
		set(i, (unsigned)(65535 - 2 * i), i % 2 ? EVENT_DELIVERED : EVENT_BOUNCED,
		    250 + i % 2, SLICE_NONE);
	for (size_t i = 0; i < CLAIM_RCPT_MAX; i++)
		rcpts[i].stamp_boot_us = base - (i % 2) * ((1ull << 34) + i);
	assert_int_equal(round_trip(CLAIM_RCPT_MAX), CLAIM_RCPT_MAX);
}

/* Rows: how the text of recipient i is made, how many must come back whole. */
static void
make_same(size_t i)
{
	(void)i;
	snprintf(texts[i], sizeof texts[i], "smtp;250 2.0.0 Ok: queued as 4XyZ");
}

static void
make_address(size_t i)
{
	snprintf(texts[i], sizeof texts[i],
		 "smtp;550 5.1.1 <user%06zu@example.com>: Recipient address rejected: User unknown "
		 "in "
		 "virtual mailbox table",
		 i * 7919 % 1000000);
}

static void
make_random(size_t i)
{
	for (size_t k = 0; k < 512; k++)
		texts[i][k] = (char)(' ' + (i * 7 + k * (i + 3) + k * k / 7) % 90);
	texts[i][512] = '\0';
}

static void
make_none(size_t i)
{
	texts[i][0] = '\0';
}

static void
test_bounds(void **state)
{
	static const struct {
		const char *what;
		void (*make)(size_t i);
		size_t n, whole_least, whole_most;
		bool scattered; /* indices and outcomes differ from one to the next */
	} rows[] = {
		{ "equal texts", make_same, 1000, 1000, 1000, false },
		{ "texts that quote the address", make_address, 1000, 1000, 1000, false },
		{ "as many, scattered", make_address, 1000, 0, 1000, true },
		{ "nothing in common", make_random, 1000, 0, 0, false },
		{ "nothing in common, scattered", make_random, 1000, 0, 0, true },
		{ "nothing in common, few", make_random, 20, 20, 20, false },
		{ "no texts, scattered", make_none, 1000, 1000, 1000, true },
	};

	(void)state;
	for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
		for (size_t i = 0; i < rows[r].n; i++) {
			rows[r].make(i);
			set(i, (unsigned)(rows[r].scattered ? 65535 - i * 60 : i),
			    rows[r].scattered && i % 2 ? EVENT_BOUNCED : EVENT_DEFERRED, 450,
			    slice_str(texts[i]));
			if (!rows[r].scattered)
				rcpts[i].status[2] = 0;
		}
		print_message("%s\n", rows[r].what);
		assert_in_range(round_trip(rows[r].n), rows[r].whole_least, rows[r].whole_most);
	}
}

/* Rules stay with their recipients; those beyond the first RESULT_RULES_MAX are not named, and where there is no room at
 * all none is, but every outcome. */
static void
test_rules(void **state)
{
	struct results in = frame, out;
	struct buf b = { 0 }, scratch = { 0 };

	(void)state;
	for (size_t i = 0; i < CLAIM_RCPT_MAX; i++) {
		set(i, (unsigned)i, EVENT_DEFERRED, 450, SLICE_LIT("smtp;450 4.7.1 slow down"));
		rcpts[i].rule = i < 3 ? 0 : i < 10 ? UINT64_MAX - 1 : i < 100 ? i / 2 : 77;
	}
	in.rcpts = rcpts;
	in.n_rcpts = CLAIM_RCPT_MAX;
	results_encode(&b, &in);
	assert_in_range(b.len, 1, CLAIM_RESULT_BYTES);
	assert_int_equal(results_decode(&out, buf_slice(&b), &scratch), 0);
	assert_int_equal(out.flags, in.flags);
	assert_int_equal(out.rcpts[2].rule, 0);
	assert_int_equal(out.rcpts[3].rule, UINT64_MAX - 1);
	assert_int_equal(out.rcpts[9].rule, UINT64_MAX - 1);
	assert_int_equal(out.rcpts[11].rule, 5);
	assert_int_equal(out.rcpts[12].rule, 6);
	assert_int_equal(out.rcpts[71].rule, 35); /* the last that has room */
	assert_int_equal(out.rcpts[72].rule, 0);
	assert_int_equal(out.rcpts[999].rule, 0);
	/* The 31 keys behind UINT64_MAX - 1 are 5 to 35. */
	for (size_t i = 0; i < CLAIM_RCPT_MAX; i++) { /* nothing in common */
		set(i, (unsigned)(65535 - 2 * i), i % 2 ? EVENT_DELIVERED : EVENT_BOUNCED, 250 + i % 2, SLICE_NONE);
		rcpts[i].rule = 1 + i % 7;
		rcpts[i].stamp_boot_us = (1ull << 40) - (i % 2) * ((1ull << 34) + i);
	}
	buf_reset(&b);
	results_encode(&b, &in);
	assert_in_range(b.len, 1, CLAIM_RESULT_BYTES);
	assert_int_equal(results_decode(&out, buf_slice(&b), &scratch), 0);
	assert_int_equal(out.n_rcpts, CLAIM_RCPT_MAX);
	assert_int_equal(out.rcpts[999].index, 65535 - 2 * 999);
	for (size_t i = 0; i < CLAIM_RCPT_MAX; i++)
		rcpts[i].rule = rcpts[i].stamp_boot_us = 0;
	buf_clear(&b);
	buf_clear(&scratch);
}

static void
test_long_strings_are_cut(void **state)
{
	static char big[70000];
	struct results in = frame, out;
	struct buf b = { 0 }, scratch = { 0 };

	(void)state;
	memset(big, 'x', sizeof big);
	set(0, 0, EVENT_DEFERRED, 450, slice_of(big, sizeof big));
	in.dlv_source_ip = in.dlv_destination_ip = in.dsn_mta = in.dlv_esmtp =
		slice_of(big, sizeof big);
	in.n_rcpts = 1;
	results_encode(&b, &in);
	assert_in_range(b.len, 1, CLAIM_RESULT_BYTES);
	assert_int_equal(results_decode(&out, buf_slice(&b), &scratch), 0);
	assert_int_equal(out.rcpts[0].diag.n, REPLY_KEPT_MAX);
	buf_clear(&b);
	buf_clear(&scratch);
}

/* Every truncation is refused, every changed byte survived. */
static void
test_malformed(void **state)
{
	struct results in = frame, out;
	struct buf b = { 0 }, scratch = { 0 };

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		make_address(i);
		set(i, (unsigned)i * 3, EVENT_DEFERRED, 450, slice_str(texts[i]));
	}
	in.n_rcpts = 5;
	results_encode(&b, &in);
	for (size_t n = 0; n < b.len; n++) {
		char *copy = mem_memdup0(b.data, n);

		assert_int_equal(results_decode(&out, slice_of(copy, n), &scratch), -E_BAD);
		mem_free(copy);
	}
	for (size_t at = 0; at < b.len; at++) {
		for (unsigned v = 0; v < 256; v += 5) {
			char *copy = mem_memdup0(b.data, b.len);

			copy[at] = (char)v;
			if (results_decode(&out, slice_of(copy, b.len), &scratch) == 0) {
				size_t sum = 0;

				for (size_t i = 0; i < out.n_rcpts; i++) {
					for (size_t k = 0; k < out.rcpts[i].diag.n; k++)
						sum += (unsigned char)out.rcpts[i].diag.p[k];
				}
				assert_true(sum < 1000000);
			}
			mem_free(copy);
		}
	}
	buf_putc(&b, 'x'); /* something left over */
	assert_int_equal(results_decode(&out, buf_slice(&b), &scratch), -E_BAD);
	buf_clear(&b);
	buf_clear(&scratch);
}

static void
test_strings(void **state)
{
	const struct slice addresses[] = { SLICE_LIT("a@example.com"), SLICE_LIT(""),
					   SLICE_LIT("b@c") };
	struct result_strings in = {
		.sender = SLICE_LIT("s@example.org"),
		.pool = SLICE_LIT("pool"),
		.job = SLICE_LIT("job 1"),
		.src_ip = SLICE_LIT("127.0.0.1"),
		.user = SLICE_NONE,
		.received_wall_us = 77,
		.body_bytes = 1u << 30,
		.rcpts = addresses,
		.n_rcpts = 3,
	};
	struct result_strings out;
	struct buf b = { 0 }, scratch = { 0 };

	(void)state;
	result_strings_encode(&b, &in);
	assert_int_equal(result_strings_decode(&out, buf_slice(&b), &scratch), 0);
	assert_slice(out.sender, in.sender);
	assert_slice(out.pool, in.pool);
	assert_slice(out.job, in.job);
	assert_slice(out.src_ip, in.src_ip);
	assert_int_equal(out.user.n, 0);
	assert_int_equal(out.received_wall_us, 77);
	assert_int_equal(out.body_bytes, 1u << 30);
	assert_int_equal(out.n_rcpts, 3);
	for (size_t i = 0; i < 3; i++)
		assert_slice(out.rcpts[i], addresses[i]);
	for (size_t n = 0; n < b.len; n++) {
		char *copy = mem_memdup0(b.data, n);

		assert_int_equal(result_strings_decode(&out, slice_of(copy, n), &scratch), -E_BAD);
		mem_free(copy);
	}
	buf_clear(&b);
	buf_clear(&scratch);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),     cmocka_unit_test(test_stamps),
		cmocka_unit_test(test_bounds),    cmocka_unit_test(test_rules), cmocka_unit_test(test_long_strings_are_cut),
		cmocka_unit_test(test_malformed), cmocka_unit_test(test_strings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
