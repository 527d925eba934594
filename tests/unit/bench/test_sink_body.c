/* sink_body: rows of DATA content, each fed whole and byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "bench/sink/sink_body.h"

struct row {
	const char *name;
	const char *wire; /* of `wire_n` bytes, or a string */
	size_t wire_n;    /* 0: strlen */
	size_t left;      /* bytes behind the end */
	const char *body; /* what the hash covers */
	size_t body_n;    /* 0: strlen */
	const char *key;
	size_t bytes; /* content after unstuffing */
	struct sink_faults faults;
};

// clang-format off
static const struct row rows[] = {
	{ "plain", "A: b\r\n\r\nhello\r\n.\r\n", 0, 0, "hello\r\n", 0, "-", 15, { 0 } },
	{ "key", "X-Load-Id: k-17 \r\nB: c\r\n\r\nx\r\n.\r\n", 0, 0, "x\r\n", 0, "k-17", 29, { 0 } },
	{ "key in any case", "x-load-id:k\r\n\r\n.\r\n", 0, 0, "", 0, "k", 15, { 0 } },
	{ "key in the body is none", "A: b\r\n\r\nX-Load-Id: z\r\n.\r\n", 0, 0, "X-Load-Id: z\r\n", 0, "-", 22, { 0 } },
	{ "empty message", ".\r\n", 0, 0, "", 0, "-", 0, { 0 } },
	{ "header alone", "A: b\r\n.\r\n", 0, 0, "", 0, "-", 6, { 0 } },
	{ "stuffed dots", "\r\n..\r\n...x\r\n.\r\n", 0, 0, ".\r\n..x\r\n", 0, "-", 10, { 0 } },
	{ "behind the end", "\r\nx\r\n.\r\nQUIT\r\n", 0, 6, "x\r\n", 0, "-", 5, { 0 } },
	{ "LF dot LF is no end", "\r\nx\n.\ny\r\n.\r\n", 0, 0, "x\n.\ny\r\n", 0, "-", 9, { .bare_lf = 2 } },
	{ "LF dot CRLF is no end", "\r\nx\n.\r\ny\r\n.\r\n", 0, 0, "x\n.\r\ny\r\n", 0, "-", 10, { .bare_lf = 1 } },
	{ "CRLF dot LF is no end", "\r\nx\r\n.\ny\r\n.\r\n", 0, 0, "x\r\n\ny\r\n", 0, "-", 9, { .bare_lf = 1, .unstuffed_dot = 1 } },
	{ "CR dot CR is no end", "\r\nx\r.\ry\r\n.\r\n", 0, 0, "x\r.\ry\r\n", 0, "-", 9, { .bare_cr = 2 } },
	{ "CRLF dot CR is no end", "\r\n.\ry\r\n.\r\n", 0, 0, "\ry\r\n", 0, "-", 6, { .bare_cr = 1, .unstuffed_dot = 1 } },
	{ "CR CR LF ends a line", "\r\nx\r\r\n.\r\n", 0, 0, "x\r\r\n", 0, "-", 6, { .bare_cr = 1 } },
	{ "unstuffed", "\r\n.x\r\n.\r\n", 0, 0, "x\r\n", 0, "-", 5, { .unstuffed_dot = 1 } },
	{ "NUL", "\r\na\0b\r\n.\r\n", 10, 0, "a\0b\r\n", 5, "-", 7, { .nul = 1 } },
	{ "eight bit", "\r\n\xc3\xa9\r\n.\r\n", 0, 0, "\xc3\xa9\r\n", 0, "-", 6, { .eight_bit = 2 } },
};
// clang-format on

static void
check_row(const struct row *r, size_t step)
{
	size_t n = r->wire_n > 0 ? r->wire_n : strlen(r->wire), at = 0;
	size_t body_n = r->body_n > 0 ? r->body_n : strlen(r->body);
	struct sink_body b;
	bool done = false;

	sink_body_init(&b);
	while (at < n && !done) {
		size_t piece = n - at < step ? n - at : step;

		at += sink_body_feed(&b, r->wire + at, piece, &done);
	}
	if (!done || n - at != r->left)
		fail_msg("%s, step %zu: done %d, left %zu", r->name, step, done, n - at);
	if (sink_body_hash(&b) != XXH64(r->body, body_n, 0))
		fail_msg("%s, step %zu: hash", r->name, step);
	if (strcmp(sink_body_key(&b), r->key) != 0 || b.bytes != r->bytes)
		fail_msg("%s, step %zu: key %s, bytes %zu", r->name, step, sink_body_key(&b),
			 (size_t)b.bytes);
	if (memcmp(&b.faults, &r->faults, sizeof b.faults) != 0)
		fail_msg("%s, step %zu: faults", r->name, step);
}

static void
test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		for (size_t step = 1; step < 40; step++)
			check_row(&rows[i], step);
}

/* 998 is allowed, 999 is not; stuffing does not count. */
static void
test_long_lines(void **state)
{
	static const size_t lengths[] = { 997, 998, 999, 5000 };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		for (size_t step = 1; step < 7000; step += 611) {
			char wire[6000] = "\r\n";
			size_t n = 2 + lengths[i], at = 0;
			struct sink_body b;
			bool done = false;

			memset(wire + 2, 'x', lengths[i]);
			memcpy(wire + n, "\r\n.\r\n", 5);
			n += 5;
			sink_body_init(&b);
			while (at < n)
				at += sink_body_feed(&b, wire + at, n - at < step ? n - at : step,
						     &done);
			assert_true(done);
			assert_int_equal(b.faults.long_lines, lengths[i] > 998);
		}
	}
}

/* Many lines, so that the sixteen-at-a-time counting and the quick path over lines are used. */
static void
test_large(void **state)
{
	static char wire[200000], plain[200000];
	size_t n = 2, m = 0;
	struct sink_body b;
	bool done;

	(void)state;
	memcpy(wire, "\r\n", 2);
	for (size_t i = 0; i < 2000; i++) {
		char line[100];
		size_t len = (size_t)snprintf(line, sizeof line, "%s%zu %0*d\r\n", i % 9 ? "" : ".",
					      i, (int)(i * 7 % 70 + 1), 0);

		if (line[0] == '.')
			wire[n++] = '.';
		memcpy(wire + n, line, len);
		memcpy(plain + m, line, len);
		n += len;
		m += len;
	}
	memcpy(wire + n, ".\r\n", 3);
	n += 3;
	for (size_t step = 1; step <= n; step = step * 3 + 1) {
		size_t at = 0;

		sink_body_init(&b);
		for (done = false; at < n;)
			at += sink_body_feed(&b, wire + at, n - at < step ? n - at : step, &done);
		assert_true(done);
		assert_int_equal(b.bytes, m + 2);
		assert_true(sink_body_hash(&b) == XXH64(plain, m, 0));
		assert_int_equal(b.faults.bare_cr + b.faults.bare_lf + b.faults.unstuffed_dot, 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_long_lines),
		cmocka_unit_test(test_large),
	};

	return cmocka_run_group_tests_name("bench/sink_body", tests, NULL, NULL);
}
