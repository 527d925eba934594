/* load_mail and load_stats: messages are what they say, and the sink reads back the same hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "bench/load/load_mail.h"
#include "bench/load/load_stats.h"
#include "bench/sink/sink_body.h"
#include "common/base/mem.h"

static char *domains[] = { (char[]){ "a.example" }, (char[]){ "b.example" } };

static struct load_plan
plan_of(size_t size, bool eight_bit)
{
	return (struct load_plan){ .seed = 7,
				   .tag = "t",
				   .size_bytes = size,
				   .domains = domains,
				   .n_domains = 2,
				   .sender = "s@x.example",
				   .rcpts = 1,
				   .eight_bit = eight_bit,
				   .pool = load_pool_new(7, eight_bit) };
}

/* All wire bytes, gathered `max` pieces and `step` bytes at a time. */
static struct buf
wire_of(const struct load_mail *m, int max, size_t step)
{
	struct buf b = { 0 };

	while (b.len < m->wire_bytes) {
		struct iovec iov[8];
		int n = load_mail_pieces(m, b.len, iov, max);
		size_t left = step;

		assert_in_range(n, 1, max);
		for (int i = 0; i < n && left > 0; i++) {
			size_t take = iov[i].iov_len < left ? iov[i].iov_len : left;

			buf_put(&b, iov[i].iov_base, take);
			left -= take;
		}
	}
	assert_int_equal(b.len, m->wire_bytes);
	return b;
}

static void
check_mail(const struct load_mail *m, const struct buf *wire, size_t size, bool eight_bit)
{
	struct sink_body body;
	bool done;

	sink_body_init(&body);
	assert_int_equal(sink_body_feed(&body, wire->data + wire->start, wire->len, &done),
			 wire->len);
	assert_true(done);
	assert_string_equal(sink_body_key(&body), m->id);
	assert_true(sink_body_hash(&body) == m->hash);
	assert_int_equal(body.bytes, m->bytes);
	if (size > 1000)
		assert_in_range(m->bytes, size - 81, size);
	if (size > 10000 || !eight_bit) /* one line in eight */
		assert_int_equal(body.faults.eight_bit > 0, eight_bit);
	body.faults.eight_bit = 0;
	for (size_t i = 0; i < sizeof body.faults; i++)
		assert_int_equal(((unsigned char *)&body.faults)[i], 0);
}

static void
test_sizes(void **state)
{
	static const size_t sizes[] = { 1, 2048, 20480, 102400, 3000000 };

	(void)state;
	for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
		size_t size = sizes[i / 2];
		struct load_plan plan = plan_of(size, i % 2 == 1);
		struct load_mail m = { 0 };

		for (uint64_t number = 0; number < 5; number++) {
			struct buf whole, pieces;

			load_mail_make(&m, &plan, number, "Sat, 21 Nov 2026 19:46:48 +0000");
			whole = wire_of(&m, 8, SIZE_MAX);
			pieces = wire_of(&m, 1, 997);
			assert_memory_equal(whole.data, pieces.data, whole.len);
			check_mail(&m, &whole, size, i % 2 == 1);
			buf_clear(&whole);
			buf_clear(&pieces);
		}
		load_mail_clear(&m);
		load_pool_free(&plan.pool);
	}
}

/* Equal seeds and numbers: equal bodies; different numbers: different ones. Dots are there. */
static void
test_deterministic(void **state)
{
	struct load_plan p = plan_of(20480, false), q = plan_of(20480, false);
	struct load_mail a = { 0 }, b = { 0 };
	struct buf wire;

	(void)state;
	load_mail_make(&a, &p, 3, "d");
	load_mail_make(&b, &q, 3, "d");
	assert_true(a.hash == b.hash);
	load_mail_make(&b, &q, 4, "d");
	assert_true(a.hash != b.hash);
	wire = wire_of(&a, 8, SIZE_MAX);
	assert_non_null(memmem(wire.data, wire.len, "\r\n..", 4));
	buf_clear(&wire);
	load_mail_clear(&a);
	load_mail_clear(&b);
	load_pool_free(&p.pool);
	load_pool_free(&q.pool);
}

static void
test_rcpts(void **state)
{
	static const char *const want[2][2][2] = {
		{ { "u-t-0.0@a.example", "u-t-0.1@a.example" },
		  { "u-t-1.0@b.example", "u-t-1.1@b.example" } },
		{ { "u-t-0.0@a.example", "u-t-0.1@b.example" },
		  { "u-t-1.0@b.example", "u-t-1.1@a.example" } },
	};
	struct load_plan p = plan_of(2048, false);

	(void)state;
	p.rcpts = 2;
	for (unsigned i = 0; i < 8; i++) {
		struct buf b = { 0 };

		p.spread = i / 4;
		load_rcpt_put(&b, &p, i / 2 % 2, i % 2);
		buf_putc(&b, '\0');
		assert_string_equal(b.data + b.start, want[i / 4][i / 2 % 2][i % 2]);
		buf_clear(&b);
	}
	load_pool_free(&p.pool);
}

static void
test_percentiles(void **state)
{
	struct load_stats *s = mem_zalloc(sizeof *s);

	(void)state;
	assert_int_equal(load_stats_percentile(s, 0.5), 0);
	for (uint64_t i = 1; i <= 1000; i++)
		load_stats_latency(s, i * 100);
	assert_in_range(load_stats_percentile(s, 0.5), 50000, 53200);
	assert_in_range(load_stats_percentile(s, 0.99), 99000, 100000);
	assert_int_equal(load_stats_percentile(s, 1.0), 100000);
	assert_int_equal(s->max_us, 100000);
	load_stats_latency(s, UINT64_MAX);
	assert_true(load_stats_percentile(s, 1.0) > 100000);
	mem_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_deterministic),
		cmocka_unit_test(test_rcpts),
		cmocka_unit_test(test_percentiles),
	};

	return cmocka_run_group_tests_name("bench/load_mail", tests, NULL, NULL);
}
