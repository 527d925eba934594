#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/smtp/smtp_data.h"

#define ROW(in, body, flaws, dot, rest)                                                            \
	{                                                                                          \
		in, sizeof(in) - 1, body, sizeof(body) - 1, flaws, dot, rest                       \
	}
#define OPEN -1

static const struct row {
	const char *in;
	size_t in_n;
	const char *body;
	size_t body_n;
	unsigned flaws;
	int dot;  /* some line begins with a dot */
	int rest; /* bytes behind the end, OPEN: no end in it */
} rows[] = {
	/* clang-format off */
	ROW(".\r\n", "", 0, 0, 0),
	ROW("a\r\n.\r\n", "a\r\n", 0, 0, 0),
	ROW("a\r\n.\r\nQUIT\r\n", "a\r\n", 0, 0, 6),
	ROW("\r\n.\r\n", "\r\n", 0, 0, 0),
	ROW("\r\n\r\n.\r\n", "\r\n\r\n", 0, 0, 0),
	ROW("..\r\n.\r\n", ".\r\n", 0, 1, 0),
	ROW("...\r\n.\r\n", "..\r\n", 0, 1, 0),
	ROW(".a\r\n.\r\n", "a\r\n", 0, 0, 0),
	ROW("a\r\n..b\r\nc..\r\n.\r\n", "a\r\n.b\r\nc..\r\n", 0, 1, 0),
	ROW("a.\r\n.\r\n", "a.\r\n", 0, 0, 0),
	ROW("a\r\n. \r\n.\r\n", "a\r\n \r\n", 0, 0, 0),
	ROW("", "", 0, 0, OPEN),
	ROW("a", "a", 0, 0, OPEN),
	ROW("a\r\n", "a\r\n", 0, 0, OPEN),
	ROW("a\r\n.", "a\r\n", 0, 0, OPEN),
	ROW("a\r\n.\r", "a\r\n", 0, 0, OPEN),
	ROW("a\n.\n", "", SMTP_DATA_BARE_LF, 0, OPEN),
	ROW("a\n.\n\r\n.\r\n", "", SMTP_DATA_BARE_LF, 0, 0),
	ROW("a\r\n.\nb\r\n.\r\n", "", SMTP_DATA_BARE_LF, 0, 0),
	ROW("a\n.\r\nb\r\n.\r\n", "", SMTP_DATA_BARE_LF, 0, 0),
	ROW("a\rb\r\n.\r\n", "", SMTP_DATA_BARE_CR, 0, 0),
	ROW("a\r\r\n.\r\n", "", SMTP_DATA_BARE_CR, 0, 0),
	ROW("a\r\n.\rb\r\n.\r\n", "", SMTP_DATA_BARE_CR, 0, 0),
	ROW("a\r\n.\r\r\n.\r\n", "", SMTP_DATA_BARE_CR, 0, 0),
	ROW("a\0b\r\n.\r\n", "", SMTP_DATA_NUL, 0, 0),
	ROW("\0\r\n.\r\n", "", SMTP_DATA_NUL, 0, 0),
	ROW("\r\n.\0\r\n.\r\n", "", SMTP_DATA_NUL, 0, 0),
	ROW("0123456789012345678901234567890123456789\r\n.\r\n", "0123456789012345678901234567890123456789\r\n", 0, 0, 0),
	ROW("0123456789012345678901234567890123456789\nx\r\n.\r\n", "", SMTP_DATA_BARE_LF, 0, 0),
	/* clang-format on */
};

struct outcome {
	struct buf body;
	struct smtp_data d;
	bool ended;
	size_t rest;
};

/* Feeds in[0, n) cut every `step` bytes and, besides, at `cut`; each part from memory of its own.
 */
static void
feed(struct outcome *o, const char *in, size_t n, size_t step, size_t cut)
{
	size_t at = 0;

	memset(o, 0, sizeof *o);
	smtp_data_init(&o->d, 1u << 20);
	while (at < n && !o->ended) {
		size_t part = n - at < step ? n - at : step;
		char *exact;
		struct slice left;

		if (at < cut && at + part > cut)
			part = cut - at;
		exact = memcpy(mem_alloc(part), in + at, part);
		left = slice_of(exact, part);
		for (bool more = true; more;) {
			struct slice run;

			switch (smtp_data_next(&o->d, &left, &run)) {
			case SMTP_DATA_RUN:
				assert_true(run.n > 0);
				buf_put_slice(&o->body, run);
				break;
			case SMTP_DATA_END:
				o->ended = true;
				o->rest = left.n + n - at - part;
				more = false;
				break;
			case SMTP_DATA_MORE:
				assert_int_equal(left.n, 0);
				more = false;
				break;
			}
		}
		at += part;
		mem_free(exact);
	}
}

static void
check(const struct row *r, struct outcome *o)
{
	if (o->ended != (r->rest != OPEN) || (o->ended && o->rest != (size_t)r->rest) ||
	    o->d.flaws != r->flaws)
		fail_msg("%s: ended %d rest %zu flaws %u", r->in, o->ended, o->rest, o->d.flaws);
	/* Of a flawed message some runs may be out already: they are not to be used. */
	if (r->flaws == 0) {
		if (!slice_eq(buf_slice(&o->body), slice_of(r->body, r->body_n)))
			fail_msg("%s: body %.*s", r->in, (int)o->body.len, o->body.data);
		assert_int_equal(o->d.dot_line, r->dot);
		assert_int_equal(o->d.bytes, r->body_n);
	}
	buf_clear(&o->body);
}

static void
rows_in_all_splits(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct row *r = &rows[i];
		struct outcome o;

		feed(&o, r->in, r->in_n, SIZE_MAX, 0);
		check(r, &o);
		feed(&o, r->in, r->in_n, 1, 0);
		check(r, &o);
		for (size_t cut = 1; cut < r->in_n; cut++) {
			feed(&o, r->in, r->in_n, SIZE_MAX, cut);
			check(r, &o);
		}
	}
}

/* What may stand on either side of a lone dot: only CRLF on both sides is an end. */
#define EDGE(s)                                                                                    \
	{                                                                                          \
		s, sizeof(s) - 1                                                                   \
	}
static const struct slice edges[] = {
	EDGE(""),     EDGE("\r"),     EDGE("\n"),     EDGE("\r\n"),
	EDGE("\n\r"), EDGE("\r\r\n"), EDGE("\0\r\n"), EDGE("\r\n\0"),
};

/* The definition, naively: the first ".CRLF" that stands at the start or behind CRLF. */
static size_t
true_end(const char *p, size_t n)
{
	for (size_t i = 0; i + 3 <= n; i++) {
		if (memcmp(p + i, ".\r\n", 3) == 0 &&
		    (i == 0 || (i >= 2 && memcmp(p + i - 2, "\r\n", 2) == 0)))
			return i + 3;
	}
	return 0;
}

static bool
is_flawed(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\0' || (p[i] == '\r' && (i + 1 == n || p[i + 1] != '\n')) ||
		    (p[i] == '\n' && (i == 0 || p[i - 1] != '\r')))
			return true;
	}
	return false;
}

static void
smuggle(struct slice before, struct slice after, unsigned *clean)
{
	struct buf b = { 0 };
	struct outcome o;
	size_t end;
	bool flawed;

	buf_puts(&b, "Subject: x\r\n\r\nfirst");
	buf_put_slice(&b, before);
	buf_putc(&b, '.');
	buf_put_slice(&b, after);
	buf_puts(&b, "MAIL FROM:<evil@a>\r\nRCPT TO:<b@c>\r\nDATA\r\nsecond\r\n.\r\n");
	end = true_end(b.data, b.len);
	flawed = is_flawed(b.data, end);
	for (size_t step = 1; step <= b.len; step++) {
		feed(&o, b.data, b.len, step, 0);
		assert_true(o.ended);
		assert_int_equal(b.len - o.rest, end);
		assert_int_equal(o.d.flaws != 0, flawed);
		buf_clear(&o.body);
	}
	/* An end before the true one, unflawed, exists for exactly one pair. */
	*clean += end < b.len && !flawed;
	buf_clear(&b);
}

static void
smuggling_set(void **state)
{
	unsigned clean = 0;

	(void)state;
	for (size_t i = 0; i < 8; i++) {
		for (size_t k = 0; k < 8; k++)
			smuggle(edges[i], edges[k], &clean);
	}
	/* CRLF.CRLF itself, and CRLF.CRLF NUL, whose NUL is the next command's. */
	assert_int_equal(clean, 2);
}

static void
size_limit(void **state)
{
	(void)state;
	for (uint64_t limit = 4; limit <= 6; limit++) {
		struct smtp_data d;
		struct slice in = SLICE_LIT("..ab\r\n.\r\nX"); /* 5 bytes of body */
		struct slice run;
		size_t given = 0;

		smtp_data_init(&d, limit);
		while (smtp_data_next(&d, &in, &run) == SMTP_DATA_RUN)
			given += run.n;
		assert_int_equal(in.n, 1);
		assert_int_equal(d.flaws, limit < 5 ? SMTP_DATA_TOO_BIG : 0);
		assert_true(given <= limit);
	}
}

static void
eight_bit_is_seen(void **state)
{
	(void)state;
	for (size_t at = 0; at < 64; at++) {
		char text[80];
		struct smtp_data d;
		struct slice in, run;

		memset(text, 'a', sizeof text);
		memcpy(text + 70, "\r\n.\r\n", 5);
		text[at] = (char)0xe9;
		/* Behind the end it is not ours. */
		text[75] = (char)0xe9;
		in = slice_of(text, 76);
		smtp_data_init(&d, 1000);
		while (smtp_data_next(&d, &in, &run) == SMTP_DATA_RUN)
			;
		assert_true(d.eight_bit);
		text[at] = 'a';
		in = slice_of(text, 76);
		smtp_data_init(&d, 1000);
		while (smtp_data_next(&d, &in, &run) == SMTP_DATA_RUN)
			;
		assert_false(d.eight_bit);
	}
}

/* A usual body is one run: nothing is cut into lines. */
static void
runs_are_long(void **state)
{
	struct buf b = { 0 };
	struct smtp_data d;
	struct slice in, run;

	(void)state;
	for (int i = 0; i < 270; i++)
		buf_puts(
			&b,
			"The quick brown fox jumps over the lazy dog, and again over another.\r\n");
	buf_puts(&b, ".\r\n");
	in = buf_slice(&b);
	smtp_data_init(&d, 1u << 20);
	assert_int_equal(smtp_data_next(&d, &in, &run), SMTP_DATA_RUN);
	assert_int_equal(run.n, b.len - 3);
	assert_int_equal(smtp_data_next(&d, &in, &run), SMTP_DATA_END);
	buf_clear(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_in_all_splits), cmocka_unit_test(smuggling_set),
		cmocka_unit_test(size_limit),         cmocka_unit_test(eight_bit_is_seen),
		cmocka_unit_test(runs_are_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
