#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/mem.h"
#include "common/smtp/smtp_server.h"

/* A driver in memory: takes all but what a row says otherwise, and keeps what was accepted. */
struct driver {
	struct smtp_server s;
	struct buf in, out;
	struct buf body; /* of the running transaction */
	struct buf mail; /* bodies of all messages accepted, each behind "[" and before "]" */
	unsigned resets;
	const char *sender_reply, *rcpt_reply, *data_reply, *message_reply;
	bool hold; /* answers to MESSAGE come later */
	bool closed;
};

static void
driver_init(struct driver *d)
{
	memset(d, 0, sizeof *d);
	smtp_server_init(&d->s, "mta.example", 1000, 3);
	smtp_server_greet(&d->s, &d->out, NULL);
}

static void
driver_clear(struct driver *d)
{
	buf_clear(&d->in);
	buf_clear(&d->out);
	buf_clear(&d->body);
	buf_clear(&d->mail);
}

static void
driver_done(struct driver *d)
{
	if (d->message_reply == NULL || d->message_reply[0] == '2') {
		buf_putc(&d->mail, '[');
		buf_put_slice(&d->mail, buf_slice(&d->body));
		buf_putc(&d->mail, ']');
	}
	buf_reset(&d->body);
	smtp_server_answer(&d->s, &d->out, d->message_reply);
}

/* The kept input lies in memory of exactly its size while the machine looks at it. */
static void
driver_run(struct driver *d)
{
	size_t n = d->in.len;
	char *exact = n > 0 ? memcpy(mem_alloc(n), d->in.data + d->in.start, n) : NULL;
	struct slice left = slice_of(exact, n);

	for (bool more = true; more;) {
		switch (smtp_server_next(&d->s, &left, &d->out)) {
		case SMTP_SERVER_SENDER:
			smtp_server_answer(&d->s, &d->out, d->sender_reply);
			break;
		case SMTP_SERVER_RECIPIENT:
			smtp_server_answer(&d->s, &d->out, d->rcpt_reply);
			break;
		case SMTP_SERVER_DATA:
			assert_int_equal(d->body.len, 0);
			smtp_server_answer(&d->s, &d->out, d->data_reply);
			break;
		case SMTP_SERVER_BODY:
			buf_put_slice(&d->body, d->s.run);
			break;
		case SMTP_SERVER_MESSAGE:
			if (d->hold)
				break;
			driver_done(d);
			break;
		case SMTP_SERVER_RESET:
			d->resets++;
			buf_reset(&d->body);
			break;
		case SMTP_SERVER_CLOSE:
			d->closed = true;
			more = false;
			break;
		case SMTP_SERVER_MORE:
		case SMTP_SERVER_WAITING:
			more = false;
			break;
		}
	}
	buf_consume(&d->in, n - left.n);
	mem_free(exact);
}

static void
driver_put(struct driver *d, const char *text, size_t n, size_t step)
{
	while (n > 0 && !d->closed) {
		size_t part = n < step ? n : step;

		buf_put(&d->in, text, part);
		driver_run(d);
		text += part;
		n -= part;
	}
}

/* Every reply line in the form that RFC 5321 4.2 and RFC 2034 want; and the codes alone, for rows.
 */
static void
codes_of(const struct driver *d, struct buf *codes)
{
	struct slice rest = buf_slice(&d->out);
	bool first = true;

	while (rest.n > 0) {
		const char *lf = memchr(rest.p, '\n', rest.n);
		struct slice line;

		assert_non_null(lf);
		line = slice_of(rest.p, (size_t)(lf - rest.p) + 1);
		rest = slice_sub(rest, line.n);
		assert_in_range(line.n, 6, 512);
		assert_true(line.p[line.n - 2] == '\r');
		assert_null(memchr(line.p, '\r', line.n - 2));
		assert_true(line.p[0] >= '2' && line.p[0] <= '5');
		if (line.p[3] == '-')
			continue; /* of EHLO */
		assert_true(line.p[3] == ' ');
		/* Greeting, HELO, EHLO and 354 have no enhanced code; all others have their class.
		 */
		if (!first && line.p[0] != '3' && !(line.n > 5 && line.p[5] != '.')) {
			assert_true(line.p[4] == line.p[0]);
			assert_true(line.p[5] == '.' && line.p[7] == '.');
		}
		first = false;
		buf_put(codes, line.p, 3);
		buf_putc(codes, ' ');
	}
}

#define HI     "EHLO c.example\r\n"
#define FROM   "MAIL FROM:<a@b>\r\n"
#define TO     "RCPT TO:<c@d>\r\n"
#define MSG    "S: x\r\n\r\nhi\r\n.\r\n"
#define BYE    "QUIT\r\n"
#define TEN(x) x x x x x x x x x x

static const struct row {
	const char *in;
	const char *codes;
	const char *mail;
	bool closed;
} rows[] = {
	/* clang-format off */
	{ "", "220 ", "", false },
	{ BYE, "220 221 ", "", true },
	{ HI FROM TO "DATA\r\n" MSG BYE, "220 250 250 250 354 250 221 ", "[S: x\r\n\r\nhi\r\n]", true },
	{ "HELO c\r\n" FROM TO "DATA\r\n" MSG, "220 250 250 250 354 250 ", "[S: x\r\n\r\nhi\r\n]", false },
	{ HI "MAIL FROM:<>\r\n" TO "DATA\r\n.\r\n", "220 250 250 250 354 250 ", "[]", false },
	/* two messages, one behind the other in one write */
	{ HI FROM TO "DATA\r\n" MSG FROM TO "DATA\r\na\r\n.\r\n" BYE, "220 250 250 250 354 250 250 250 354 250 221 ", "[S: x\r\n\r\nhi\r\n][a\r\n]", true },
	/* order */
	{ FROM, "220 503 ", "", false },
	{ TO, "220 503 ", "", false },
	{ "DATA\r\n", "220 503 ", "", false },
	{ HI TO, "220 250 503 ", "", false },
	{ HI "DATA\r\n", "220 250 503 ", "", false },
	{ HI FROM "DATA\r\n", "220 250 250 503 ", "", false },
	{ HI FROM FROM, "220 250 250 503 ", "", false },
	{ HI FROM TO FROM, "220 250 250 250 503 ", "", false },
	{ HI FROM TO "RSET\r\nDATA\r\n", "220 250 250 250 250 503 ", "", false },
	{ HI FROM TO HI "DATA\r\n", "220 250 250 250 250 503 ", "", false },
	{ HI FROM TO "DATA\r\n" MSG "DATA\r\n" TO, "220 250 250 250 354 250 503 503 ", "[S: x\r\n\r\nhi\r\n]", false },
	{ HI FROM "RSET\r\n" FROM TO, "220 250 250 250 250 250 ", "", false },
	{ HI FROM "EHLO\r\n" TO, "220 250 250 501 250 ", "", false }, /* a bad EHLO changes nothing */
	/* any time, any case */
	{ "noop\r\nNoOp x\r\nhelp\r\nrset\r\nvrfy x\r\n", "220 250 250 214 250 252 ", "", false },
	{ "VRFY\r\n", "220 501 ", "", false },
	{ HI "DATA x\r\nRSET x\r\nQUIT x\r\n", "220 250 503 501 501 ", "", false },
	{ HI FROM TO "DATA x\r\n", "220 250 250 250 501 ", "", false },
	{ "STARTTLS\r\nAUTH PLAIN\r\nBDAT 3\r\nEXPN x\r\nFOO\r\n\r\n", "220 502 502 502 502 500 500 ", "", false },
	/* arguments */
	{ HI "MAIL FROM:<a@b> SIZE=1000 BODY=8BITMIME\r\n", "220 250 250 ", "", false },
	{ HI "MAIL FROM:<a@b> SIZE=1001\r\n" TO, "220 250 552 503 ", "", false },
	{ HI "MAIL FROM:<a@b> X=1\r\n", "220 250 555 ", "", false },
	{ HI FROM "RCPT TO:<c@d> NOTIFY=NEVER\r\n" "DATA\r\n", "220 250 250 555 503 ", "", false },
	{ HI FROM "RCPT TO:<c@[1.2.3.4]>\r\n" "RCPT TO:<>\r\n" TO, "220 250 250 550 501 250 ", "", false },
	{ HI FROM TO TO TO TO, "220 250 250 250 250 250 452 ", "", false },
	{ HI FROM TO TO TO TO "DATA\r\n" MSG, "220 250 250 250 250 250 452 354 250 ", "[S: x\r\n\r\nhi\r\n]", false },
	/* lines */
	{ "NOOP\n", "220 500 ", "", false },
	{ "NOOP\rNOOP\r\n", "220 500 ", "", false },
	{ "NOOP\r\r\n", "220 500 ", "", false },
	/* other protocols */
	{ "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "220 ", "", true },
	{ "POST /x HTTP/1.0\r\n\r\n" HI, "220 ", "", true },
	{ HI "CONNECT x:25 HTTP/1.1\r\n", "220 250 ", "", true },
	{ "\x16\x03\x01\x02", "220 ", "", true },
	{ "\x80", "220 ", "", true },
	/* flawed messages: read to their true end, refused, and not a word more to that client */
	{ HI FROM TO "DATA\r\na\n.\nb\r\n.\r\n" FROM, "220 250 250 250 354 550 ", "", true },
	{ HI FROM TO "DATA\r\na\rb\r\n.\r\n" FROM TO "DATA\r\n" MSG, "220 250 250 250 354 550 ", "", true },
	/* too large a one: read over, and the session is clean behind it */
	{ HI FROM TO "DATA\r\n" TEN(TEN("123456789\r\n")) ".\r\n" "DATA\r\n" FROM, "220 250 250 250 354 552 503 250 ", "", false },
	{ HI FROM TO "DATA\r\n" TEN(TEN("123456789\r\n")) ".\r\n" BYE, "220 250 250 250 354 552 221 ", "", true },
	/* patience */
	{ TEN("X\r\n") TEN("X\r\n"), "220 " TEN("500 ") TEN("500 "), "", false },
	{ TEN("X\r\n") TEN("X\r\n") "X\r\n" HI, "220 " TEN("500 ") TEN("500 ") "421 ", "", true },
	{ HI FROM TEN("RCPT TO:<x>\r\n") TEN("RCPT TO:<x>\r\n") "RCPT TO:<x>\r\n" TO, "220 250 250 " TEN("501 ") TEN("501 ") "501 250 ", "", false },
	/* clang-format on */
};

static void
check_row(const struct row *r, size_t step)
{
	struct driver d;
	struct buf codes = { 0 };

	driver_init(&d);
	driver_put(&d, r->in, strlen(r->in), step);
	codes_of(&d, &codes);
	if (!slice_is(buf_slice(&codes), r->codes))
		fail_msg("%s\nstep %zu: got %.*s want %s", r->in, step, (int)codes.len, codes.data,
			 r->codes);
	if (!slice_is(buf_slice(&d.mail), r->mail))
		fail_msg("%s\nstep %zu: mail %.*s", r->in, step, (int)d.mail.len, d.mail.data);
	assert_int_equal(d.closed, r->closed);
	buf_clear(&codes);
	driver_clear(&d);
}

static void
dialogues(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		check_row(&rows[i], SIZE_MAX);
		check_row(&rows[i], 1);
		check_row(&rows[i], 7);
	}
}

/* Every state with every command: its reply and the state it leads to, told by the next commands.
 */
static void
every_state_every_command(void **state)
{
	static const char *const into[] = { "", HI, HI FROM, HI FROM TO };
	static const unsigned skip[] = { 1, 2, 3, 4 };
	static const struct {
		const char *line;
		const char *code[4];
		int next[4]; /* index into `into`; -1: closed, 9: body */
	} table[] = {
		/* clang-format off */
		{ HI, { "250", "250", "250", "250" }, { 1, 1, 1, 1 } },
		{ "HELO x\r\n", { "250", "250", "250", "250" }, { 1, 1, 1, 1 } },
		{ "EHLO\r\n", { "501", "501", "501", "501" }, { 0, 1, 2, 3 } },
		{ FROM, { "503", "250", "503", "503" }, { 0, 2, 2, 3 } },
		{ "MAIL FROM:<\r\n", { "503", "501", "503", "503" }, { 0, 1, 2, 3 } },
		{ TO, { "503", "503", "250", "250" }, { 0, 1, 3, 3 } },
		{ "RCPT TO:<\r\n", { "503", "503", "501", "501" }, { 0, 1, 2, 3 } },
		{ "DATA\r\n", { "503", "503", "503", "354" }, { 0, 1, 2, 9 } },
		{ "RSET\r\n", { "250", "250", "250", "250" }, { 0, 1, 1, 1 } },
		{ "NOOP\r\n", { "250", "250", "250", "250" }, { 0, 1, 2, 3 } },
		{ "VRFY x\r\n", { "252", "252", "252", "252" }, { 0, 1, 2, 3 } },
		{ "HELP\r\n", { "214", "214", "214", "214" }, { 0, 1, 2, 3 } },
		{ "QUIT\r\n", { "221", "221", "221", "221" }, { -1, -1, -1, -1 } },
		{ "BDAT 1\r\n", { "502", "502", "502", "502" }, { 0, 1, 2, 3 } },
		{ "WHAT\r\n", { "500", "500", "500", "500" }, { 0, 1, 2, 3 } },
		{ "NOOP\n", { "500", "500", "500", "500" }, { 0, 1, 2, 3 } },
		{ "PUT /\r\n", { "", "", "", "" }, { -1, -1, -1, -1 } },
		/* clang-format on */
	};

	(void)state;
	for (size_t t = 0; t < sizeof table / sizeof table[0]; t++) {
		for (int from = 0; from < 4; from++) {
			static const enum smtp_server_state states[] = { SMTP_SERVER_STATE_STRANGER,
									 SMTP_SERVER_STATE_READY,
									 SMTP_SERVER_STATE_SENDER,
									 SMTP_SERVER_STATE_RCPTS };
			int next = table[t].next[from];
			struct driver d;
			struct buf codes = { 0 };

			driver_init(&d);
			driver_put(&d, into[from], strlen(into[from]), SIZE_MAX);
			assert_int_equal(d.s.state, states[from]);
			driver_put(&d, table[t].line, strlen(table[t].line), SIZE_MAX);
			codes_of(&d, &codes);
			assert_true(codes.len >= 4 * skip[from]);
			if (strncmp(codes.data + 4 * skip[from], table[t].code[from],
				    strlen(table[t].code[from])) != 0)
				fail_msg("state %d, %s: %.*s", from, table[t].line, (int)codes.len,
					 codes.data);
			assert_int_equal(d.s.state, next == -1  ? SMTP_SERVER_STATE_CLOSED
						    : next == 9 ? SMTP_SERVER_STATE_BODY
								: states[next]);
			/* A transaction that is gone was told to the driver, once. */
			assert_int_equal(d.resets, from >= 2 && next == 1);
			buf_clear(&codes);
			driver_clear(&d);
		}
	}
}

static void
refusals_of_the_driver(void **state)
{
	struct driver d;
	struct buf codes = { 0 };

	(void)state;
	driver_init(&d);
	d.sender_reply = "451 4.3.2 Later";
	driver_put(&d, HI FROM TO, strlen(HI FROM TO), SIZE_MAX);
	d.sender_reply = NULL;
	d.rcpt_reply = "550 5.7.1 Relaying denied";
	driver_put(&d, FROM TO "DATA\r\n", strlen(FROM TO "DATA\r\n"), SIZE_MAX);
	d.rcpt_reply = NULL;
	d.data_reply = "452 4.3.1 Full";
	driver_put(&d, TO "DATA\r\nDATA\r\n", strlen(TO "DATA\r\nDATA\r\n"), SIZE_MAX);
	d.data_reply = NULL;
	d.message_reply = "451 4.3.0 Not stored";
	driver_put(&d, FROM TO "DATA\r\n" MSG "DATA\r\n", strlen(FROM TO "DATA\r\n" MSG "DATA\r\n"),
		   SIZE_MAX);
	codes_of(&d, &codes);
	assert_true(slice_is(buf_slice(&codes),
			     "220 250 451 503 250 550 503 250 452 503 250 250 354 451 503 "));
	assert_int_equal(d.mail.len, 0);
	buf_clear(&codes);
	driver_clear(&d);
}

/* While a message waits for its answer nothing behind it is read, and nothing of it is lost. */
static void
waits_for_the_answer(void **state)
{
	static const char behind[] = FROM TO "DATA\r\nsecond\r\n.\r\nNOO";
	struct driver d;
	struct buf codes = { 0 };

	(void)state;
	driver_init(&d);
	d.hold = true;
	driver_put(&d, HI FROM TO "DATA\r\n" MSG, strlen(HI FROM TO "DATA\r\n" MSG), SIZE_MAX);
	driver_put(&d, behind, sizeof behind - 1, 5);
	assert_int_equal(d.in.len, sizeof behind - 1);
	codes_of(&d, &codes);
	assert_true(slice_is(buf_slice(&codes), "220 250 250 250 354 "));
	assert_false(smtp_server_is_idle(&d.s));
	d.hold = false;
	driver_done(&d);
	driver_run(&d);
	assert_int_equal(d.in.len, 3);
	driver_put(&d, "P\r\n", 3, 1);
	buf_reset(&codes);
	codes_of(&d, &codes);
	assert_true(slice_is(buf_slice(&codes), "220 250 250 250 354 250 250 250 354 250 250 "));
	assert_true(slice_is(buf_slice(&d.mail), "[S: x\r\n\r\nhi\r\n][second\r\n]"));
	assert_true(smtp_server_is_idle(&d.s));
	buf_clear(&codes);
	driver_clear(&d);
}

static void
thousand_commands_in_one_segment(void **state)
{
	struct driver d;
	struct buf in = { 0 };
	struct buf codes = { 0 };

	(void)state;
	buf_puts(&in, HI);
	for (int i = 0; i < 1000; i++)
		buf_puts(&in, i % 2 == 0 ? "NOOP\r\n" : "VRFY x\r\n");
	driver_init(&d);
	driver_put(&d, in.data, in.len, SIZE_MAX);
	codes_of(&d, &codes);
	assert_int_equal(codes.len, 4 * 1002);
	buf_clear(&codes);
	buf_clear(&in);
	driver_clear(&d);
}

static void
line_of(size_t bytes, const char *want)
{
	char *text = mem_alloc(bytes);
	struct driver d;
	struct buf codes = { 0 };

	memset(text, 'x', bytes);
	memcpy(text, "NOOP ", 5);
	memcpy(text + bytes - 2, "\r\n", 2);
	for (size_t step = 1; step <= bytes; step = step * 3 + 1) {
		driver_init(&d);
		driver_put(&d, text, bytes, step);
		driver_put(&d, "NOOP\r\n", 6, SIZE_MAX);
		buf_reset(&codes);
		codes_of(&d, &codes);
		if (!slice_is(buf_slice(&codes), want))
			fail_msg("%zu bytes by %zu: %.*s", bytes, step, (int)codes.len, codes.data);
		driver_clear(&d);
	}
	buf_clear(&codes);
	mem_free(text);
}

static void
line_bounds(void **state)
{
	(void)state;
	line_of(512, "220 250 250 ");
	line_of(SMTP_COMMAND_MAX, "220 250 250 ");
	line_of(SMTP_COMMAND_MAX + 1, "220 500 250 ");
	line_of(100000, "220 500 250 ");
}

static void
offers(void **state)
{
	struct driver d;
	struct buf out;

	(void)state;
	driver_init(&d);
	assert_true(slice_is(buf_slice(&d.out), "220 mta.example ESMTP Sluice\r\n"));
	buf_reset(&d.out);
	driver_put(&d, HI, strlen(HI), SIZE_MAX);
	assert_true(slice_is(buf_slice(&d.out),
			     "250-mta.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n"
			     "250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"));
	assert_true(d.s.esmtp);
	assert_string_equal(d.s.helo, "c.example");
	driver_put(&d, "HELO d\r\n", 8, SIZE_MAX);
	assert_false(d.s.esmtp);
	assert_string_equal(d.s.helo, "d");
	out = d.out;
	buf_reset(&out);
	driver_clear(&d);
}

static void
greets_with_a_refusal(void **state)
{
	struct smtp_server s;
	struct buf out = { 0 };
	struct slice in = SLICE_LIT("EHLO x\r\n");

	(void)state;
	smtp_server_init(&s, "mta.example", 1000, 3);
	assert_int_equal(smtp_server_next(&s, &in, &out), SMTP_SERVER_WAITING);
	smtp_server_greet(&s, &out, "421 4.3.2 Too many connections");
	assert_true(slice_is(buf_slice(&out), "421 4.3.2 Too many connections\r\n"));
	assert_int_equal(smtp_server_next(&s, &in, &out), SMTP_SERVER_CLOSE);
	smtp_server_shut(&s, &out, "421 4.3.2 Twice"); /* the last word is said */
	assert_true(slice_is(buf_slice(&out), "421 4.3.2 Too many connections\r\n"));
	buf_clear(&out);
}

/* What should become of the bytes behind the first DATA, by the plain definition of the end: the
 * first ".CRLF" at the start or behind CRLF; a lone CR or LF or a NUL before it spoils the message.
 */
static void
expect(struct buf *mail, struct slice s)
{
	bool flawed = false;
	size_t end = 0;

	for (; end + 3 <= s.n; end++) {
		if (memcmp(s.p + end, ".\r\n", 3) == 0 &&
		    (end == 0 || (end >= 2 && memcmp(s.p + end - 2, "\r\n", 2) == 0)))
			break;
		flawed |= s.p[end] == '\0' || (s.p[end] == '\r' && s.p[end + 1] != '\n') ||
			  (s.p[end] == '\n' && (end == 0 || s.p[end - 1] != '\r'));
	}
	assert_true(end + 3 <= s.n);
	if (!flawed) {
		buf_putc(mail, '[');
		for (size_t i = 0; i < end; i++) {
			if (s.p[i] != '.' || i < 2 || memcmp(s.p + i - 2, "\r\n", 2) != 0)
				buf_putc(mail, s.p[i]); /* no line here begins with two dots */
		}
		buf_putc(mail, ']');
	}
	/* What is behind a good end is honest pipelining, unless something stands before the MAIL;
	 * behind a bad one nothing is heard. */
	s = slice_sub(s, end + 3);
	if (!flawed && slice_starts_nocase(s, "MAIL"))
		buf_puts(mail, "[evil\r\n]");
}

/* Whatever stands around the dot, and in whatever pieces it comes. */
static void
smuggling_set(void **state)
{
#define EDGE(s)                                                                                    \
	{                                                                                          \
		s, sizeof(s) - 1                                                                   \
	}
	static const struct slice edges[] = {
		EDGE(""),     EDGE("\r"),     EDGE("\n"),     EDGE("\r\n"),
		EDGE("\n\r"), EDGE("\r\r\n"), EDGE("\0\r\n"), EDGE("\r\n\0"),
	};
	static const char begin[] = HI FROM TO "DATA\r\n";
	static const char smuggled[] =
		"MAIL FROM:<evil@a>\r\nRCPT TO:<v@b>\r\nDATA\r\nevil\r\n.\r\n";
	unsigned kept_first = 0;

	(void)state;
	for (size_t i = 0; i < 64; i++) {
		struct buf in = { 0 };
		struct buf want = { 0 };

		buf_puts(&in, begin);
		buf_puts(&in, "first");
		buf_put_slice(&in, edges[i / 8]);
		buf_putc(&in, '.');
		buf_put_slice(&in, edges[i % 8]);
		buf_puts(&in, smuggled);
		expect(&want, slice_sub(buf_slice(&in), sizeof begin - 1));
		buf_puts(&in, "QUIT\r\n");
		kept_first += slice_starts_nocase(buf_slice(&want), "[first");
		for (size_t step = 1; step < 200; step = step * 2 + 1) {
			struct driver d;

			driver_init(&d);
			driver_put(&d, in.data, in.len, step);
			assert_true(d.closed);
			if (!slice_eq(buf_slice(&d.mail), buf_slice(&want)))
				fail_msg("edges %zu %zu: %.*s, want %.*s", i / 8, i % 8,
					 (int)d.mail.len, d.mail.data, (int)want.len, want.data);
			driver_clear(&d);
		}
		buf_clear(&in);
		buf_clear(&want);
	}
	/* The valid end, the one with a NUL behind it, and those where the dot is only a dot. */
	assert_int_equal(kept_first, 5);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dialogues),
		cmocka_unit_test(every_state_every_command),
		cmocka_unit_test(refusals_of_the_driver),
		cmocka_unit_test(waits_for_the_answer),
		cmocka_unit_test(thousand_commands_in_one_segment),
		cmocka_unit_test(line_bounds),
		cmocka_unit_test(offers),
		cmocka_unit_test(greets_with_a_refusal),
		cmocka_unit_test(smuggling_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
