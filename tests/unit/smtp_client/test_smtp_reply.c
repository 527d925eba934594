/* smtp_reply: rows of bytes and what they are, each fed whole, byte by byte and cut at every place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/mem.h"
#include "common/smtp/smtp_reply.h"

static const struct {
	const char *in;
	enum smtp_reply_step end;
	uint16_t code, lines;
	struct verdict_status enhanced;
	const char *text;
} rows[] = {
	// clang-format off
	{ "250 OK\r\n", SMTP_REPLY_DONE, 250, 1, { 0 }, "250 OK" },
	{ "250\r\n", SMTP_REPLY_DONE, 250, 1, { 0 }, "250" },
	{ "250 \r\n", SMTP_REPLY_DONE, 250, 1, { 0 }, "250" },
	{ "250 rejected\r\n", SMTP_REPLY_DONE, 250, 1, { 0 }, "250 rejected" },
	{ "299 x\r\n", SMTP_REPLY_DONE, 299, 1, { 0 }, "299 x" },
	{ "455 x\r\n", SMTP_REPLY_DONE, 455, 1, { 0 }, "455 x" },
	{ "599 x\r\n", SMTP_REPLY_DONE, 599, 1, { 0 }, "599 x" },
	{ "354 go\r\n", SMTP_REPLY_DONE, 354, 1, { 0 }, "354 go" },
	{ "550 5.7.1 blocked\r\n", SMTP_REPLY_DONE, 550, 1, { 5, 7, 1 }, "550 5.7.1 blocked" },
	{ "550 5.7.2\r\n", SMTP_REPLY_DONE, 550, 1, { 5, 7, 2 }, "550 5.7.2" },
	{ "550 5.7.26 x\r\n", SMTP_REPLY_DONE, 550, 1, { 5, 7, 26 }, "550 5.7.26 x" },
	{ "550 5.7.1234 x\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 5.7.1234 x" },
	{ "550 5.7 x\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 5.7 x" },
	{ "550 5.7.1: x\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 5.7.1: x" },
	{ "450 5.7.1 x\r\n", SMTP_REPLY_DONE, 450, 1, { 0 }, "450 5.7.1 x" }, /* another class */
	{ "550 3.7.1 x\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 3.7.1 x" },
	{ "550-5.1.1 no such\r\n550-5.1.1 user here\r\n550 5.1.1 sorry\r\n", SMTP_REPLY_DONE, 550, 3,
	  { 5, 1, 1 }, "550 5.1.1 no such user here sorry" },
	{ "550-5.1.1 a\r\n550 5.2.2 b\r\n", SMTP_REPLY_DONE, 550, 2, { 5, 1, 1 },
	  "550 5.1.1 a 5.2.2 b" },
	{ "550-a\r\n550 5.1.1 b\r\n", SMTP_REPLY_DONE, 550, 2, { 0 }, "550 a 5.1.1 b" },
	{ "250-\r\n250-  \r\n250 x\r\n", SMTP_REPLY_DONE, 250, 3, { 0 }, "250 x" },
	{ "250-a  b \r\n250   c\r\n", SMTP_REPLY_DONE, 250, 2, { 0 }, "250 a  b c" },
	{ "550 a\tb\x01\x7f z\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 a b?? z" },
	{ "550 \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\r\n", SMTP_REPLY_DONE, 550, 1, { 0 },
	  "550 \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80" },
	{ "550 \xc3(\xff\xed\xa0\x80\xc0\xaf\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 ?(??????" },
	{ "550 \xc2\x9b[31m\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 ?[31m" }, /* C1 control */
	{ "550 \x1b[31m\r\n", SMTP_REPLY_DONE, 550, 1, { 0 }, "550 ?[31m" },
	/* Not whole. */
	{ "", SMTP_REPLY_MORE, 0, 0, { 0 }, "" },
	{ "2", SMTP_REPLY_MORE, 0, 0, { 0 }, "" },
	{ "250", SMTP_REPLY_MORE, 0, 0, { 0 }, "" },
	{ "250-", SMTP_REPLY_MORE, 0, 0, { 0 }, "" },
	{ "250 OK\r", SMTP_REPLY_MORE, 0, 0, { 0 }, "" },
	{ "250-a\r\n", SMTP_REPLY_MORE, 250, 1, { 0 }, "250 a" },
	{ "250-a\r\n25", SMTP_REPLY_MORE, 250, 1, { 0 }, "250 a" },
	/* Not replies. */
	{ "\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "2\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "25\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "2500 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250x\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "2a0 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "25\xb0 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "150 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "650 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "050 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "HTTP/1.1 200 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ " 250 OK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250 OK\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250 O\rK\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250 O\r\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250-a\r\n550 b\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250-a\r\n251 b\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250-a\r\n\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	{ "250-a\r\nb\r\n", SMTP_REPLY_GARBAGE, 0, 0, { 0 }, NULL },
	// clang-format on
};

/* Feeds `in` in pieces of at most `piece` bytes, each in memory of its own size. */
static enum smtp_reply_step
feed(struct smtp_reply *r, struct slice in, size_t piece)
{
	enum smtp_reply_step step = SMTP_REPLY_MORE;

	while (in.n > 0) {
		size_t n = in.n < piece ? in.n : piece, at = 0;
		char *own = mem_alloc(n);

		memcpy(own, in.p, n);
		in = slice_sub(in, n);
		while (at < n) {
			size_t used;
			struct slice text;

			step = smtp_reply_feed(r, slice_of(own + at, n - at), &used, &text);
			assert_true(used > 0 && used <= n - at);
			at += used;
			if (step != SMTP_REPLY_MORE && step != SMTP_REPLY_LINE) {
				mem_free(own);
				return step;
			}
		}
		mem_free(own);
	}
	/* After a line that goes on, more is awaited. */
	return step == SMTP_REPLY_LINE ? SMTP_REPLY_MORE : step;
}

static void
test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t len = strlen(rows[i].in);

		for (size_t piece = 1; piece <= len + 1; piece++) {
			struct smtp_reply r = { 0 };
			enum smtp_reply_step step = feed(&r, slice_str(rows[i].in), piece);

			if (step != rows[i].end)
				fail_msg("row %zu `%s` in pieces of %zu: %d", i, rows[i].in, piece,
					 step);
			if (rows[i].text != NULL) {
				assert_int_equal(r.code, rows[i].code);
				assert_int_equal(r.lines, rows[i].lines);
				if (!slice_is(smtp_reply_text(&r), rows[i].text))
					fail_msg("row %zu text `%.*s`", i, (int)r.text_n, r.text);
				assert_true(verdict_status_eq(r.enhanced, rows[i].enhanced));
			}
			smtp_reply_clear(&r);
		}
	}
}

/* What stands behind a reply is left alone; the next one begins clean. */
static void
test_two_in_a_row(void **state)
{
	static const char in[] = "250-5.0.0 x\r\n250 y\r\n450 4.2.1 z\r\n";
	struct smtp_reply r = { 0 };
	struct slice rest = SLICE_LIT(in), text;
	size_t used;

	(void)state;
	assert_int_equal(smtp_reply_feed(&r, rest, &used, &text), SMTP_REPLY_LINE);
	assert_true(slice_is(text, "5.0.0 x"));
	rest = slice_sub(rest, used);
	assert_int_equal(smtp_reply_feed(&r, rest, &used, &text), SMTP_REPLY_DONE);
	assert_true(slice_is(text, "y"));
	rest = slice_sub(rest, used);
	assert_int_equal(r.code, 250);
	smtp_reply_begin(&r);
	assert_false(smtp_reply_begun(&r));
	assert_int_equal(smtp_reply_feed(&r, rest, &used, &text), SMTP_REPLY_DONE);
	assert_int_equal(used, rest.n);
	assert_true(slice_is(smtp_reply_text(&r), "450 4.2.1 z"));
	assert_int_equal(r.enhanced.detail, 1);
	smtp_reply_clear(&r);
}

/* A line of `n` bytes with its CRLF. */
static void
put_line(struct buf *b, const char *lead, size_t n, char fill)
{
	size_t from = b->len;

	buf_puts(b, lead);
	while (b->len - from < n - 2)
		buf_putc(b, fill);
	buf_puts(b, "\r\n");
}

static enum smtp_reply_step
feed_buf(struct smtp_reply *r, struct buf *b, size_t piece)
{
	enum smtp_reply_step step = feed(r, buf_slice(b), piece);

	buf_clear(b);
	return step;
}

static void
test_bounds(void **state)
{
	static const size_t pieces[] = { 1, 7, 100000 };
	struct buf b = { 0 };

	(void)state;
	for (size_t p = 0; p < 3; p++) {
		struct smtp_reply r = { 0 };

		put_line(&b, "250 ", REPLY_LINE_MAX, 'x');
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_DONE);
		assert_int_equal(r.text_n, REPLY_KEPT_MAX);
		smtp_reply_clear(&r);

		put_line(&b, "250 ", REPLY_LINE_MAX + 1, 'x');
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_TOO_LONG);
		smtp_reply_clear(&r);

		/* No line end at all: given up at the bound, not later. */
		for (int i = 0; i < REPLY_LINE_MAX + 1; i++)
			buf_putc(&b, '2');
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_TOO_LONG);
		assert_true(r.partial.len <= REPLY_LINE_MAX);
		smtp_reply_clear(&r);

		for (int i = 1; i < REPLY_LINES_MAX; i++)
			buf_puts(&b, "250-x\r\n");
		buf_puts(&b, "250 x\r\n");
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_DONE);
		smtp_reply_clear(&r);

		for (int i = 0; i < REPLY_LINES_MAX; i++)
			buf_puts(&b, "250-x\r\n");
		buf_puts(&b, "250 x\r\n");
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_TOO_LONG);
		smtp_reply_clear(&r);

		/* 64 KiB in 32 lines exactly, and one byte more. */
		for (int i = 0; i < 31; i++)
			put_line(&b, "250-", 2048, 'y');
		put_line(&b, "250 ", 2048, 'y');
		assert_int_equal(b.len, REPLY_READ_MAX);
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_DONE);
		smtp_reply_clear(&r);
		for (int i = 0; i < 32; i++)
			put_line(&b, "250-", 2048, 'y');
		buf_puts(&b, "2");
		assert_int_equal(feed_buf(&r, &b, pieces[p]), SMTP_REPLY_TOO_LONG);
		smtp_reply_clear(&r);
	}
}

/* The kept text ends at its bound, and never inside a UTF-8 sequence. */
static void
test_kept(void **state)
{
	(void)state;
	for (size_t lead = 500; lead < 520; lead++) {
		struct smtp_reply r = { 0 };
		struct buf b = { 0 };
		size_t n;

		put_line(&b, "250 ", lead, 'a');
		b.len -= 2;
		buf_puts(&b, "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\r\n");
		assert_int_equal(feed_buf(&r, &b, 1), SMTP_REPLY_DONE);
		n = r.text_n;
		assert_true(n <= REPLY_KEPT_MAX && n > REPLY_KEPT_MAX - 14);
		/* Whatever is there ends with an `a` or a whole euro sign. */
		assert_true(r.text[n - 1] == 'a' || r.text[n - 1] == '\xac');
		smtp_reply_clear(&r);
	}
}

/* NUL cannot stand in the rows. */
static void
test_nul(void **state)
{
	static const char in[] = "250 a\0b\r\n";

	(void)state;
	for (size_t piece = 1; piece < 12; piece++) {
		struct smtp_reply r = { 0 };

		assert_int_equal(feed(&r, SLICE_LIT(in), piece), SMTP_REPLY_GARBAGE);
		smtp_reply_clear(&r);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),   cmocka_unit_test(test_two_in_a_row),
		cmocka_unit_test(test_bounds), cmocka_unit_test(test_kept),
		cmocka_unit_test(test_nul),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
