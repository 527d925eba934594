#include "common/smtp/smtp_reply.h"

void
smtp_reply_begin(struct smtp_reply *r)
{
	r->code = 0;
	r->lines = 0;
	r->bytes = 0;
	r->enhanced = VERDICT_STATUS(0, 0, 0);
	r->text_n = 0;
	buf_reset(&r->partial);
}

void
smtp_reply_clear(struct smtp_reply *r)
{
	smtp_reply_begin(r);
	buf_clear(&r->partial);
}

/* Bytes of the valid UTF-8 sequence at p (RFC 3629), 0 when it is none. */
static size_t
utf8_bytes(const unsigned char *p, size_t n)
{
	static const struct {
		unsigned char lead_from, lead_to, second_from, second_to, bytes;
	} rows[] = {
		{ 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 },
		{ 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		if (p[0] < rows[i].lead_from || p[0] > rows[i].lead_to)
			continue;
		if (n < rows[i].bytes || p[1] < rows[i].second_from || p[1] > rows[i].second_to)
			return 0;
		for (size_t k = 2; k < rows[i].bytes; k++) {
			if (p[k] < 0x80 || p[k] > 0xbf)
				return 0;
		}
		return rows[i].bytes;
	}
	return 0;
}

/* Appends foreign bytes to the kept text; false when it is full. */
static bool
keep(struct smtp_reply *r, struct slice s)
{
	const unsigned char *p = (const unsigned char *)s.p;

	for (size_t i = 0; i < s.n;) {
		size_t n = p[i] < 0x80 ? 1 : utf8_bytes(p + i, s.n - i);
		bool printable = n > 0 && p[i] >= 0x20 && p[i] != 0x7f;

		/* C1 controls are two bytes in UTF-8, and no more welcome than the others. */
		if (n == 2 && p[i] == 0xc2 && p[i + 1] < 0xa0)
			printable = false;
		if (n == 0)
			n = 1;
#ifdef PLANTED_BUGS
		if (r->text_n + (printable ? n : 1) > REPLY_KEPT_MAX + 1)
			return false;
#else
		if (r->text_n + (printable ? n : 1) > REPLY_KEPT_MAX)
			return false;
#endif
		if (p[i] == '\t')
			r->text[r->text_n++] = ' ';
		else if (!printable)
			r->text[r->text_n++] = '?';
		else
			for (size_t k = 0; k < n; k++)
				r->text[r->text_n++] = (char)p[i + k];
		i += n;
	}
	return true;
}

/* Adds a line's text: the enhanced code only where it differs from the first line's. */
static void
join(struct smtp_reply *r, struct slice text)
{
	struct verdict_status s;
	size_t n;

	text = slice_trim(text);
	n = verdict_status_parse(text, &s);
	if (n > 0 && s.class == r->code / 100) {
		if (r->lines == 1) {
			r->enhanced = s;
		} else if (verdict_status_eq(s, r->enhanced)) {
			text = slice_trim(slice_sub(text, n));
		}
	}
	if (text.n > 0 && keep(r, SLICE_LIT(" ")))
		(void)keep(r, text);
}

/* One whole line without its CRLF. */
static enum smtp_reply_step
take_line(struct smtp_reply *r, struct slice line, struct slice *text)
{
	unsigned code;

	if (line.n < 3)
		return SMTP_REPLY_GARBAGE;
	for (size_t i = 0; i < 3; i++) {
		if (line.p[i] < '0' || line.p[i] > '9')
			return SMTP_REPLY_GARBAGE;
	}
	/* A code alone is a last line (RFC 5321 4.2: clients accept it). */
	if (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-')
		return SMTP_REPLY_GARBAGE;
	if (memchr(line.p, '\r', line.n) != NULL || memchr(line.p, '\0', line.n) != NULL)
		return SMTP_REPLY_GARBAGE;
	code = (unsigned)(line.p[0] - '0') * 100 + (unsigned)(line.p[1] - '0') * 10 +
	       (unsigned)(line.p[2] - '0');
	if (r->lines > 0 && code != r->code)
		return SMTP_REPLY_GARBAGE;
	if (++r->lines > REPLY_LINES_MAX)
		return SMTP_REPLY_TOO_LONG;
	if (r->lines == 1) {
		r->code = (uint16_t)code;
		(void)keep(r, slice_of(line.p, 3));
	}
	*text = slice_sub(line, 4);
	join(r, *text);
	return line.n > 3 && line.p[3] == '-' ? SMTP_REPLY_LINE : SMTP_REPLY_DONE;
}

enum smtp_reply_step
smtp_reply_feed(struct smtp_reply *r, struct slice in, size_t *used, struct slice *text)
{
	const char *lf = in.n > 0 ? memchr(in.p, '\n', in.n) : NULL;
	size_t n = lf != NULL ? (size_t)(lf - in.p) + 1 : in.n;
	struct slice line = slice_of(in.p, n);

	*used = n;
	*text = SLICE_NONE;
	if (n == 0)
		return SMTP_REPLY_MORE;
	/* Hopeless from its first byte: do not wait for the end of a line that cannot be one. */
	if (r->partial.len == 0 && (in.p[0] < '2' || in.p[0] > '5'))
		return SMTP_REPLY_GARBAGE;
	r->bytes += (uint32_t)(n < REPLY_READ_MAX ? n : REPLY_READ_MAX);
	if (r->partial.len + n > REPLY_LINE_MAX || r->bytes > REPLY_READ_MAX)
		return SMTP_REPLY_TOO_LONG;
	if (lf == NULL) {
		buf_put_slice(&r->partial, line);
		return SMTP_REPLY_MORE;
	}
	if (r->partial.len > 0) {
		buf_put_slice(&r->partial, line);
		line = buf_slice(&r->partial);
	}
	if (line.n < 2 || line.p[line.n - 2] != '\r')
		return SMTP_REPLY_GARBAGE;
	line.n -= 2;
	/* The bytes stay in the buffer until the next one is put: *text borrows them. */
	buf_reset(&r->partial);
	return take_line(r, line, text);
}
