#include "tests/lib/smtp_model.h"

#include <ctype.h>

#include "common/base/limits.h"

static uint64_t rng;

void
smtp_model_seed(uint64_t seed)
{
	rng = seed * 0x9e3779b97f4a7c15ull | 1;
	smtp_model_pick(1);
}

unsigned
smtp_model_pick(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)((rng >> 20) % n);
}

static void
reply(struct smtp_model *m, int code)
{
	buf_printf(&m->codes, "%d ", code);
}

/* A client's mistake: the 21st ends the session. */
static void
mistake(struct smtp_model *m, int code)
{
	m->closed = ++m->errors > 20;
	reply(m, m->closed ? 421 : code);
}

static void
forget(struct smtp_model *m)
{
	m->sender = false;
	m->rcpts = 0;
	buf_reset(&m->envelope);
}

static void
send_any_case(struct smtp_model *m, const char *text)
{
	bool swap = smtp_model_pick(3) == 0;

	for (; *text != '\0'; text++)
		buf_putc(&m->bytes,
			 (char)(swap && smtp_model_pick(2) == 0 ? tolower((unsigned char)*text)
								: *text));
}

/* local@domain by the grammar; as written into *wire, as it is to be kept into *kept. */
static void
random_address(struct buf *wire, struct buf *kept, const char *first)
{
	static const char atext[] = "abcXYZ019!#$%&'*+-/=?^_`{|}~";
	static const char quoted[] = "a @<>,;:.()[] ";
	struct buf local = { 0 };
	unsigned n = 1 + smtp_model_pick(4);

	if (smtp_model_pick(4) == 0) {
		buf_printf(&local, "\"%c", first[0]);
		for (unsigned i = 0; i < n; i++) {
			if (smtp_model_pick(3) == 0)
				buf_printf(&local, "\\%c", smtp_model_pick(2) == 0 ? '"' : '\\');
			buf_putc(&local, quoted[smtp_model_pick(sizeof quoted - 1)]);
		}
		buf_putc(&local, '"');
	} else {
		buf_puts(&local, first);
		for (unsigned i = 0; i < n; i++)
			buf_printf(&local, "%s%c", i > 0 && smtp_model_pick(3) == 0 ? "." : "",
				   atext[smtp_model_pick(sizeof atext - 1)]);
	}
	buf_put_slice(wire, buf_slice(&local));
	buf_put_slice(kept, buf_slice(&local));
	buf_clear(&local);
	n = 1 + smtp_model_pick(3);
	for (unsigned i = 0; i < n; i++) {
		char c = "aBz09"[smtp_model_pick(5)];
		const char *tail = smtp_model_pick(2) == 0 ? "-x" : "Y";

		buf_printf(wire, "%c%c%s", i == 0 ? '@' : '.', c, tail);
		buf_printf(kept, "%c%c%s", i == 0 ? '@' : '.', tolower(c),
			   tail[0] == 'Y' ? "y" : tail);
	}
}

static const char *const bad_paths[] = { "<",        "<>x",         "a@b",      "<a@b",
					 "<a@>",     "<@b>",        "<a..b@c>", "<a b@c>",
					 "<a@b_c>",  "<a@[1.2.3]>", "<\"a@b>",  "<a@-b>",
					 "<(c)a@b>", "< a@b>",      "<a@b >",   "<.a@b>",
					 "<@x:>",    "<@x,a@b>",    "<a\x01@b>" };
#define BAD_PATHS (sizeof bad_paths / sizeof bad_paths[0])

static void
do_mail(struct smtp_model *m)
{
	static const struct {
		const char *text;
		int code;
	} params[] = {
		{ "", 250 },
		{ "", 250 },
		{ "", 250 },
		{ " SIZE=600", 250 },
		{ " size=1 BODY=8BITMIME", 250 },
		{ "  body=7bit ", 250 },
		{ " SIZE=601", 552 },
		{ " SIZE=99999999999999999999", 552 },
		{ " SIZE=x", 501 },
		{ " SIZE=1 SIZE=1", 501 },
		{ " BODY=x", 501 },
		{ " RET=FULL", 555 },
		{ " SIZE", 501 },
	};
	struct buf kept = { 0 };
	unsigned kind = smtp_model_pick(20), p = smtp_model_pick(sizeof params / sizeof params[0]);
	static const char *const who[] = { "a", "b", "s", "d", "m" }; /* s, d, m: refused there */
	const char *first =
		who[smtp_model_pick(10) < 7 ? smtp_model_pick(2) : 2 + smtp_model_pick(3)];
	int code = params[p].code;

	send_any_case(m, "MAIL FROM:");
	if (kind == 0) {
		buf_puts(&m->bytes, bad_paths[smtp_model_pick(BAD_PATHS)]);
		code = 501;
	} else if (kind < 4) {
		buf_puts(&m->bytes, "<>");
		first = "0";
	} else {
		buf_puts(&m->bytes, kind == 5 ? "<@r.x,@[1.2.3.4]:" : "<");
		random_address(&m->bytes, &kept, first);
		buf_putc(&m->bytes, '>');
	}
	buf_printf(&m->bytes, "%s\r\n", kind == 0 ? "" : params[p].text);
	if (!m->hello || m->sender)
		mistake(m, 503);
	else if (code == 552)
		reply(m, 552);
	else if (code != 250)
		mistake(m, code);
	else if (first[0] == 's')
		reply(m, 451);
	else {
		reply(m, 250);
		forget(m);
		m->sender = true;
		m->who = first[0];
		buf_printf(&m->envelope, "%.*s>", (int)kept.len,
			   kept.data != NULL ? kept.data : "");
	}
	buf_clear(&kept);
}

static void
do_rcpt(struct smtp_model *m)
{
	struct buf kept = { 0 };
	unsigned kind = smtp_model_pick(16);
	const char *first = smtp_model_pick(6) == 0 ? "n" : "y"; /* n: the driver refuses it */
	int code = 250;

	send_any_case(m, "RCPT TO:");
	if (kind == 0 || kind == 1) {
		buf_puts(&m->bytes, kind == 0 ? bad_paths[smtp_model_pick(BAD_PATHS)] : "<>");
		code = 501;
	} else if (kind == 2) {
		buf_puts(&m->bytes, smtp_model_pick(2) == 0 ? "<y@[192.0.2.1]>" : "<y@[IPv6:::1]>");
		code = 550;
	} else if (kind == 3) {
		buf_puts(&m->bytes, "<y@b> NOTIFY=NEVER");
		code = 555;
	} else {
		buf_puts(&m->bytes, kind == 4 ? " <@r:" : "<");
		random_address(&m->bytes, &kept, first);
		buf_putc(&m->bytes, '>');
	}
	buf_puts(&m->bytes, "\r\n");
	if (!m->sender)
		mistake(m, 503);
	else if (code == 555)
		mistake(m, 555);
	else if (code != 250)
		reply(m, code); /* an address is no mistake */
	else if (m->rcpts == SMTP_MODEL_RCPTS)
		reply(m, 452);
	else if (first[0] == 'n')
		reply(m, 550);
	else {
		reply(m, 250);
		m->rcpts++;
		buf_printf(&m->envelope, "%.*s,", (int)kept.len, kept.data);
	}
	buf_clear(&kept);
}

/* A body of difficult pieces, cut at its true end; what it is worth by the plain definition. */
static void
do_body(struct smtp_model *m)
{
	static const struct slice pieces[] = {
		{ "a", 1 },         { "bcdefghijklmnopqrstuvwxyz", 25 },
		{ "\r\n", 2 },      { ".", 1 },
		{ "\r\n.", 3 },     { "\r\n..", 4 },
		{ "\r\n.\r\n", 5 }, { "\xe9", 1 },
		{ "\r", 1 },        { "\n", 1 },
		{ "\0", 1 },        { "\n.\n", 3 }
	};
	unsigned kinds = smtp_model_pick(2) == 0 ? 12 : 8; /* half of them without flaws */
	struct buf b = { 0 }, body = { 0 };
	bool flawed = false;
	size_t end;

	if (smtp_model_pick(10) == 0) { /* around the limit, with its last CRLF */
		for (unsigned i = SMTP_MODEL_SIZE - 4 + smtp_model_pick(4); i > 0; i--)
			buf_putc(&b, 'x');
	} else {
		for (unsigned i = smtp_model_pick(60); i > 0; i--)
			buf_put_slice(&b, pieces[smtp_model_pick(kinds)]);
	}
	buf_puts(&b, "\r\n.\r\n");
	for (end = 0; memcmp(b.data + end, ".\r\n", 3) != 0 ||
		      (end > 0 && (end < 2 || memcmp(b.data + end - 2, "\r\n", 2) != 0));
	     end++) {
		char c = b.data[end];
		bool dot_first =
			c == '.' &&
			(end == 0 || (end >= 2 && memcmp(b.data + end - 2, "\r\n", 2) == 0));

		flawed |= c == '\0' || (c == '\r' && b.data[end + 1] != '\n') ||
			  (c == '\n' && (end == 0 || b.data[end - 1] != '\r'));
		if (!dot_first)
			buf_putc(&body, c);
	}
	buf_put(&m->bytes, b.data, end + 3);
	m->closed = flawed;
	if (flawed) {
		reply(m, 550);
		buf_puts(&m->bytes, "MAIL FROM:<a@b>\r\nNOOP\r\n"); /* heard by nobody */
	} else if (body.len > SMTP_MODEL_SIZE) {
		reply(m, 552);
	} else if (m->who == 'm') {
		reply(m, 451);
	} else {
		reply(m, 250);
		buf_printf(&m->mail, "%.*s[", (int)m->envelope.len, m->envelope.data);
		buf_put_slice(&m->mail, buf_slice(&body));
		buf_puts(&m->mail, "]\n");
	}
	forget(m);
	buf_clear(&b);
	buf_clear(&body);
}

static void
do_data(struct smtp_model *m)
{
	bool args = smtp_model_pick(12) == 0;

	send_any_case(m, "DATA");
	buf_puts(&m->bytes, args ? " x\r\n" : "\r\n");
	if (m->rcpts == 0) {
		mistake(m, 503);
	} else if (args) {
		mistake(m, 501);
	} else if (m->who == 'd') {
		reply(m, 452);
		forget(m);
	} else {
		reply(m, 354);
		do_body(m);
	}
}

static void
do_other(struct smtp_model *m)
{
	static const struct {
		const char *line;
		int code;
	} lines[] = {
		{ "NOOP", 250 },        { "NOOP x y", 250 },  { "HELP", 214 },
		{ "VRFY a", 252 },      { "VRFY", -501 },     { "RSET x", -501 },
		{ "QUIT x", -501 },     { "EHLO", -501 },     { "HELO a b", -501 },
		{ "AUTH PLAIN", -502 }, { "STARTTLS", -502 }, { "BDAT 4 LAST", -502 },
		{ "", -500 },           { "FOO", -500 },      { "NOOPX", -500 },
		{ " NOOP", -500 },      { "NOOP\r", -500 },   { "NO\rOP", -500 },
		{ "MAIL", 1 },          { "RCPT", 2 },        { "MAIL FROM", 1 },
	};
	unsigned i = smtp_model_pick(sizeof lines / sizeof lines[0]);
	bool bare_lf = smtp_model_pick(20) == 0;
	int code = bare_lf ? -500 : lines[i].code;

	send_any_case(m, lines[i].line);
	buf_puts(&m->bytes, bare_lf ? "\n" : "\r\n");
	if (bare_lf && strcmp(lines[i].line, "NOOP\r") == 0)
		code = 250; /* with the LF it is whole after all */
	if (code == 1 || code == 2)
		mistake(m, (code == 1 ? m->hello && !m->sender : m->sender) ? 501 : 503);
	else if (code < 0)
		mistake(m, -code);
	else
		reply(m, code);
}

static void
do_end(struct smtp_model *m)
{
	if (smtp_model_pick(3) > 0) {
		send_any_case(m, "QUIT\r\n");
		reply(m, 221);
	} else {
		buf_puts(&m->bytes, smtp_model_pick(2) == 0
					    ? "GET / HTTP/1.1\r\n"
					    : "POST /a HTTP/1.0\r\nMAIL FROM:<a@b>\r\n");
	}
	m->closed = true;
}

static void
do_long_line(struct smtp_model *m)
{
	size_t n = SMTP_COMMAND_MAX - 4 + smtp_model_pick(5);

	buf_puts(&m->bytes, "NOOP ");
	for (size_t i = 7; i < n; i++)
		buf_putc(&m->bytes, 'x');
	buf_puts(&m->bytes, "\r\n");
	reply(m, 250);
}

void
smtp_model_command(struct smtp_model *m)
{
	unsigned k = smtp_model_pick(1000);

	if (k < 100 || (!m->hello && k < 700)) {
		bool ehlo = smtp_model_pick(4) > 0;

		send_any_case(m, ehlo ? "EHLO c.x\r\n" : "HELO [1.2.3.4]\r\n");
		reply(m, 250);
		m->hello = true;
		forget(m);
	} else if (k < 300) {
		do_mail(m);
	} else if (k < 600) {
		do_rcpt(m);
	} else if (k < 760) {
		do_data(m);
	} else if (k < 800) {
		send_any_case(m, "RSET\r\n");
		reply(m, 250);
		forget(m);
	} else if (k < 980) {
		do_other(m);
	} else if (k < 990) {
		do_long_line(m);
	} else {
		do_end(m);
	}
}

void
smtp_model_begin(struct smtp_model *m)
{
	memset(m, 0, sizeof *m);
	reply(m, 220);
}

void
smtp_model_clear(struct smtp_model *m)
{
	buf_clear(&m->bytes);
	buf_clear(&m->codes);
	buf_clear(&m->mail);
	buf_clear(&m->envelope);
}
