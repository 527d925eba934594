/* The client's small parts: addresses in commands, dots in bodies, the scan of a whole body. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/mem.h"
#include "common/smtp/smtp_client_command.h"
#include "common/smtp/smtp_client_stuff.h"

static const struct {
	const char *address;
	bool ok;
} addresses[] = {
	// clang-format off
	{ "a@b.example", true },
	{ "", true },
	{ "Abc@X.example", true },
	{ "\"a b\"@x.example", true },
	{ "\"a<b>\"@x.example", true },
	{ "\"a\\\"b c\"@x.example", true },
	{ "\xc3\xa4@x.example", true },
	{ "a b@x.example", false },
	{ "a@x.example> SIZE=1", false },
	{ "a@x.example>", false },
	{ "<a@x.example", false },
	{ "a@x.example\r\nRCPT TO:<b@x.example", false },
	{ "a\n@x.example", false },
	{ "a\t@x.example", false },
	{ "a\x7f@x.example", false },
	{ "\"a@x.example", false },
	{ "\"a\\", false },
	{ "\"a\\\r\"@x.example", false },
	{ "\"a\\\"@x.example", false },
	// clang-format on
};

static void
test_addresses(void **state)
{
	char address[300];

	(void)state;
	for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		if (smtp_client_address_ok(slice_str(addresses[i].address)) != addresses[i].ok)
			fail_msg("row %zu `%s`", i, addresses[i].address);
	}
	assert_false(smtp_client_address_ok(slice_of("a\0b@x", 5)));
	memset(address, 'a', sizeof address);
	assert_true(smtp_client_address_ok(slice_of(address, 254)));
	assert_false(smtp_client_address_ok(slice_of(address, 255)));
	assert_true(smtp_client_address_utf8(slice_str("a@b\xc3\xbc.example")));
	assert_false(smtp_client_address_utf8(slice_str("a@b.example")));
	assert_true(smtp_client_helo_ok(slice_str("mta.example")));
	assert_true(smtp_client_helo_ok(slice_str("[192.0.2.1]")));
	assert_false(smtp_client_helo_ok(slice_str("")));
	assert_false(smtp_client_helo_ok(slice_str("a b")));
	assert_false(smtp_client_helo_ok(slice_str("a\r\nQUIT")));
	assert_false(smtp_client_helo_ok(slice_of(address, 256)));
}

/* What a peer makes of stuffed bytes (RFC 5321 4.5.2). */
static void
unstuff(struct slice in, struct buf *out)
{
	bool line = true;

	for (size_t i = 0; i < in.n; i++) {
		if (line && in.p[i] == '.') {
			assert_true(i + 1 < in.n && in.p[i + 1] != '\r');
			line = false;
			continue;
		}
		buf_putc(out, in.p[i]);
		line = in.p[i] == '\n';
	}
}

static bool
stuff_in_pieces(struct slice body, size_t piece, struct buf *out)
{
	struct smtp_client_stuff s = { 0 };
	bool ok = true;

	while (body.n > 0 && ok) {
		size_t n = body.n < piece ? body.n : piece;
		char *own = mem_alloc(n);

		memcpy(own, body.p, n);
		ok = smtp_client_stuff_put(&s, slice_of(own, n), out);
		mem_free(own);
		body = slice_sub(body, n);
	}
	return ok;
}

static const struct {
	const char *body, *wire; /* wire NULL: flawed */
	unsigned flags;
} bodies[] = {
	// clang-format off
	{ "", "", 0 },
	{ "a\r\n", "a\r\n", 0 },
	{ ".\r\n", "..\r\n", SMTP_CLIENT_BODY_DOT_LINES },
	{ "..\r\n", "...\r\n", SMTP_CLIENT_BODY_DOT_LINES },
	{ "a\r\n.b\r\n\r\n.\r\n", "a\r\n..b\r\n\r\n..\r\n", SMTP_CLIENT_BODY_DOT_LINES },
	{ "a.b\r\nc.\r\n", "a.b\r\nc.\r\n", 0 },
	{ "a", "a", SMTP_CLIENT_BODY_OPEN_END },
	{ ".", "..", SMTP_CLIENT_BODY_DOT_LINES | SMTP_CLIENT_BODY_OPEN_END },
	{ "\r\n", "\r\n", 0 },
	{ "a\nb\r\n", NULL, SMTP_CLIENT_BODY_FLAWED },
	{ "\n", NULL, SMTP_CLIENT_BODY_FLAWED },
	{ "a\rb\r\n", NULL, SMTP_CLIENT_BODY_FLAWED },
	{ "a\r\r\n", NULL, SMTP_CLIENT_BODY_FLAWED },
	{ "a\r\n\n", NULL, SMTP_CLIENT_BODY_FLAWED },
	{ "a\n.\n", NULL, SMTP_CLIENT_BODY_FLAWED | SMTP_CLIENT_BODY_DOT_LINES },
	{ "a\r\n.\rb\r\n", NULL, SMTP_CLIENT_BODY_FLAWED | SMTP_CLIENT_BODY_DOT_LINES },
	// clang-format on
};

static void
test_bodies(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
		struct slice body = slice_str(bodies[i].body);

		assert_int_equal(smtp_client_body_scan(body), bodies[i].flags);
		for (size_t piece = 1; piece <= body.n + 1; piece++) {
			struct buf out = { 0 }, back = { 0 };
			bool ok = stuff_in_pieces(body, piece, &out);

			if (bodies[i].wire == NULL) {
				assert_false(ok);
			} else {
				assert_true(ok);
				if (!slice_is(buf_slice(&out), bodies[i].wire))
					fail_msg("row %zu in pieces of %zu", i, piece);
				unstuff(buf_slice(&out), &back);
				assert_true(slice_eq(buf_slice(&back), body));
			}
			buf_clear(&out);
			buf_clear(&back);
		}
	}
}

/* The scan by blocks against a plain reading, at every alignment and with a flaw at every place. */
static unsigned
plain_scan(const char *p, size_t n)
{
	unsigned flags = 0;

	for (size_t i = 0; i < n; i++) {
		bool cr = i > 0 && p[i - 1] == '\r';

		if ((p[i] == '\n') != cr || p[i] == '\0')
			flags |= SMTP_CLIENT_BODY_FLAWED;
		if (p[i] == '.' && (i == 0 || p[i - 1] == '\n'))
			flags |= SMTP_CLIENT_BODY_DOT_LINES;
	}
	if (n > 0 && p[n - 1] == '\r')
		flags |= SMTP_CLIENT_BODY_FLAWED;
	if (n > 0 && p[n - 1] != '\n')
		flags |= SMTP_CLIENT_BODY_OPEN_END;
	return flags;
}

static void
test_scan_against_plain(void **state)
{
	static const char bytes[] = "ab.\r\n\r\n.\0";
	unsigned seed = 1;

	(void)state;
	for (int round = 0; round < 30000; round++) {
		size_t n = (size_t)(rand_r(&seed) % 70);
		char *p = mem_alloc(n + 1);
		size_t alphabet = round % 3 == 0 ? 9 : 3;

		for (size_t i = 0; i < n; i++) {
			p[i] = bytes[(size_t)rand_r(&seed) % alphabet];
			/* Mostly proper lines, so that a single flaw is what decides. */
			if (rand_r(&seed) % 7 == 0 && i + 1 < n) {
				p[i++] = '\r';
				p[i] = '\n';
			}
		}
		if (smtp_client_body_scan(slice_of(p, n)) != plain_scan(p, n))
			fail_msg("round %d", round);
		mem_free(p);
	}
}

/* Ten thousand lines that begin with dots arrive as they were. */
static void
test_dot_lines(void **state)
{
	struct buf body = { 0 }, out = { 0 }, back = { 0 };
	unsigned seed = 7;

	(void)state;
	for (int i = 0; i < 10000; i++) {
		for (int k = rand_r(&seed) % 4; k > 0; k--)
			buf_putc(&body, '.');
		if (rand_r(&seed) % 2)
			buf_puts(&body, "text . text");
		buf_puts(&body, "\r\n");
	}
	assert_true(stuff_in_pieces(buf_slice(&body), 1009, &out));
	assert_null(memmem(out.data + out.start, out.len, "\r\n.\r\n", 5));
	unstuff(buf_slice(&out), &back);
	assert_true(slice_eq(buf_slice(&back), buf_slice(&body)));
	buf_clear(&body);
	buf_clear(&out);
	buf_clear(&back);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_bodies),
		cmocka_unit_test(test_scan_against_plain),
		cmocka_unit_test(test_dot_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
