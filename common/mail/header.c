#include "common/mail/header.h"

#include "common/base/check.h"

static const char *const names[HEADER_FIELDS] = { "X-Virtual-MTA", "X-Job", "X-Envid" };

/* One field of the section, with its continuation lines and its last CRLF. */
struct field {
	struct slice all;
	struct slice name;
	struct slice value; /* raw: folded, with the CRLF at its end */
};

/* The end of the line that starts at `from`, behind its LF or at the end of the text. */
static size_t
line_end(struct slice s, size_t from)
{
	const char *lf = memchr(s.p + from, '\n', s.n - from);

	return lf != NULL ? (size_t)(lf - s.p) + 1 : s.n;
}

/* field-name = printable ASCII without ":" (RFC 5322 3.6.8); blanks before the colon are obsolete
 * syntax and taken. Its length, or 0 when the line is not a field. */
static size_t
name_length(struct slice s, size_t from, size_t end, size_t *colon)
{
	size_t i = from;
	size_t n;

	while (i < end && s.p[i] > 32 && s.p[i] < 127 && s.p[i] != ':')
		i++;
	n = i - from;
#ifdef PLANTED_BUGS
	while (s.p[i] == ' ' || s.p[i] == '\t') /* may run over the end of the text */
		i++;
#else
	while (i < end && (s.p[i] == ' ' || s.p[i] == '\t'))
		i++;
#endif
	if (n == 0 || i >= end || s.p[i] != ':')
		return 0;
	*colon = i;
	return n;
}

/* Reads the field at `at`. False where the header section ends; *too_big when a bound is passed. */
static bool
take_field(struct slice s, size_t at, struct field *f, bool *too_big)
{
	size_t end;
	size_t colon;
	size_t n;

	if (at == s.n)
		return false;
	end = line_end(s, at);
	n = name_length(s, at, end, &colon);
	if (n == 0)
		return false; /* the empty line, too */
	*too_big = end - at > HEADER_LINE_MAX;
	while (end < s.n && end - at <= HEADER_BYTES_MAX && (s.p[end] == ' ' || s.p[end] == '\t')) {
		size_t from = end;

		end = line_end(s, from);
		if (end - from > HEADER_LINE_MAX)
			*too_big = true;
	}
	f->all = slice_of(s.p + at, end - at);
	f->name = slice_of(s.p + at, n);
	f->value = slice_of(s.p + colon + 1, end - colon - 1);
	return true;
}

/* Unfolds and trims into *out. False when it is not fit to be kept. */
static bool
read_value(struct header_value *out, struct slice raw, bool blanks_allowed)
{
	size_t n = 0;

	while (raw.n > 0 && strchr(" \t\r\n", raw.p[raw.n - 1]) != NULL && raw.p[raw.n - 1] != '\0')
		raw.n--;
	while (raw.n > 0 && strchr(" \t\r\n", raw.p[0]) != NULL && raw.p[0] != '\0')
		raw = slice_sub(raw, 1);
	for (size_t i = 0; i < raw.n; i++) {
		char c = raw.p[i];

		/* A fold's line end goes, its blanks stay (RFC 5322 2.2.3). */
		if (c == '\r' && i + 2 < raw.n && raw.p[i + 1] == '\n') {
			i++;
			continue;
		}
		if (c == '\t')
			c = ' ';
		if (c < 32 || c > 126 || (c == ' ' && !blanks_allowed) || n == sizeof out->text)
			return false;
		out->text[n++] = c;
	}
	out->n = (uint16_t)n;
	out->given = true;
	return true;
}

/* Which of our fields it is, or HEADER_FIELDS. */
static enum header_field
field_of(const struct header_rules *rules, struct slice name)
{
	for (enum header_field i = 0; i < HEADER_FIELDS; i++) {
		const char *ours =
			i == HEADER_JOB && rules->job_name != NULL ? rules->job_name : names[i];

		if (rules->process[i] && slice_eq_nocase(name, slice_str(ours)))
			return i;
	}
	return HEADER_FIELDS;
}

static void
put_piece(struct header_scan *h, struct slice s)
{
	struct slice *last = h->n_pieces > 0 ? &h->pieces[h->n_pieces - 1] : NULL;

	if (s.n == 0)
		return;
	h->piece_bytes += s.n;
	if (last != NULL && last->p + last->n == s.p) {
		last->n += s.n;
		return;
	}
	if (h->n_pieces == HEADER_PIECES_MAX) {
		h->flaw = HEADER_TOO_MANY;
		return;
	}
	h->pieces[h->n_pieces++] = s;
}

/* A field that is processed: its value is read, and it is cut out unless it is to stay. */
static void
take_ours(struct header_scan *h, const struct header_rules *rules, enum header_field which,
	  const struct field *f, struct slice *kept)
{
	if (!h->values[which].given &&
	    !read_value(&h->values[which], f->value, which == HEADER_VIRTUAL_MTA)) {
		h->flaw = HEADER_BAD_FIELD;
		h->bad = which;
		return;
	}
	if (rules->retain[which])
		return;
	put_piece(h, slice_of(kept->p, (size_t)(f->all.p - kept->p)));
	*kept = slice_of(f->all.p + f->all.n, 0);
}

static void
count_field(struct header_scan *h, const struct header_rules *rules, struct slice name)
{
	if (slice_eq_nocase(name, SLICE_LIT("Received"))) {
		if (++h->received > rules->max_hops)
			h->flaw = HEADER_LOOP;
	} else if (slice_eq_nocase(name, SLICE_LIT("Date"))) {
		h->date = true;
	} else if (slice_eq_nocase(name, SLICE_LIT("Message-ID"))) {
		h->message_id = true;
	}
}

void
header_scan(struct header_scan *h, const struct header_rules *rules, struct slice message)
{
	struct slice kept = slice_of(message.p, 0);
	struct field f;
	size_t at = 0;
	bool too_big = false;

	h->flaw = HEADER_FINE;
	h->received = 0;
	h->date = h->message_id = false;
	h->n_pieces = 0;
	h->piece_bytes = 0;
	for (int i = 0; i < HEADER_FIELDS; i++) {
		h->values[i].given = false;
		h->values[i].n = 0;
	}
	while (h->flaw == HEADER_FINE && take_field(message, at, &f, &too_big)) {
		enum header_field which = field_of(rules, f.name);

		at += f.all.n;
		if (too_big || at > HEADER_BYTES_MAX)
			h->flaw = HEADER_TOO_BIG;
		else if (which != HEADER_FIELDS)
			take_ours(h, rules, which, &f, &kept);
		else
			count_field(h, rules, f.name);
	}
	if (message.n - at >= 2 && message.p[at] == '\r' && message.p[at + 1] == '\n')
		at += 2;
	h->header_bytes = at;
	if (h->flaw == HEADER_FINE)
		put_piece(h, slice_of(kept.p, (size_t)(message.p + message.n - kept.p)));
}

const char *
header_refusal(const struct header_scan *h)
{
	switch (h->flaw) {
	case HEADER_FINE:
		return NULL;
	case HEADER_LOOP:
		return "554 5.4.6 Too many hops: mail loop";
	case HEADER_TOO_BIG:
		return "552 5.3.4 Message header too large";
	case HEADER_TOO_MANY:
		return "550 5.6.0 Too many X- fields";
	case HEADER_BAD_FIELD:
		break;
	}
	switch (h->bad) {
	case HEADER_VIRTUAL_MTA:
		return "550 5.6.0 Invalid X-Virtual-MTA";
	case HEADER_JOB:
		return "550 5.6.0 Invalid job id";
	default:
		return "550 5.6.0 Invalid X-Envid";
	}
}

void
header_put_received(struct buf *out, const struct header_trace *t)
{
	buf_puts(out, "Received: ");
	if (t->helo != NULL) {
		buf_puts(out, "from ");
		buf_puts(out, t->helo);
		if (t->client != NULL) {
			buf_puts(out, strchr(t->client, ':') != NULL ? " ([IPv6:" : " ([");
			buf_puts(out, t->client);
			buf_puts(out, "])");
		}
		buf_puts(out, "\r\n\t");
	}
	buf_printf(out, "by %.255s with %s id %s;\r\n\t%s\r\n", t->host_name, t->with, t->id,
		   t->date);
}
