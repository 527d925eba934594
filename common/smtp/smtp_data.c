#include "common/smtp/smtp_data.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "common/base/check.h"

/*
 *             '.'        CR         LF
 *   START ---------> DOT -----> DOT_CR -----> END
 *    ^  \ other       | other      | other: bare CR
 *    |   v            v            v
 *    |   TEXT <--------------------+
 *    |    | CR    ^ other: bare CR
 *    | LF v       |
 *    +--- CR -----+
 *
 * START is the place behind CRLF and before the first byte: only there a dot means something.
 */
enum state { START, TEXT, CR, DOT, DOT_CR, END };

void
smtp_data_init(struct smtp_data *d, uint64_t limit)
{
	memset(d, 0, sizeof *d);
	d->limit = limit;
	d->state = START;
}

static bool
is_special(char c)
{
	return c == '\r' || c == '\n' || c == '\0';
}

/* The first CR, LF or NUL in [p, end), or end; *high gathers the bytes' high bits. */
static const char *
next_special(const char *p, const char *end, unsigned *high)
{
#ifdef __SSE2__
	const __m128i cr = _mm_set1_epi8('\r');
	const __m128i lf = _mm_set1_epi8('\n');

	while (end - p >= 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
		__m128i hit =
			_mm_or_si128(_mm_cmpeq_epi8(v, _mm_setzero_si128()),
				     _mm_or_si128(_mm_cmpeq_epi8(v, cr), _mm_cmpeq_epi8(v, lf)));
		unsigned mask = (unsigned)_mm_movemask_epi8(hit);
		unsigned top = (unsigned)_mm_movemask_epi8(v);

		if (mask != 0) {
			/* Only the bytes before the hit are ours to judge yet. */
			*high |= top & ((mask & -mask) - 1);
			return p + __builtin_ctz(mask);
		}
		*high |= top;
		p += 16;
	}
#endif
	while (p < end && !is_special(*p))
		*high |= (unsigned char)*p++ & 0x80u;
	return p;
}

/* Runs through text until the input ends, a flaw shows, or a line begins with a dot. */
static const char *
scan_text(struct smtp_data *d, const char *p, const char *end)
{
	unsigned high = 0;

	d->state = TEXT;
	for (;;) {
		p = next_special(p, end, &high);
		if (p == end)
			break;
		if (*p != '\r') {
			d->flaws |= *p == '\n' ? SMTP_DATA_BARE_LF : SMTP_DATA_NUL;
			p++;
			continue;
		}
		p++;
		if (p == end) {
			d->state = CR;
			break;
		}
		if (*p != '\n') {
			d->flaws |= SMTP_DATA_BARE_CR;
			continue; /* a second CR may yet be the first half of CRLF */
		}
		p++;
		if (p == end || *p == '.') {
			d->state = START;
			break;
		}
	}
	d->eight_bit |= high != 0;
	return p;
}

/* One byte of the states that are not plain text; where it leaves TEXT, the byte is yet to be read.
 */
static void
step(struct smtp_data *d, char c)
{
	switch ((enum state)d->state) {
	case START:
		CHECK(c == '.');
		d->state = DOT;
		return;
	case DOT:
		if (c == '\r') {
			d->state = DOT_CR;
			return;
		}
		d->dot_line |= c == '.';
		d->state = TEXT;
		return;
	case DOT_CR:
	case CR:
		if (c == '\n') {
			d->state = d->state == CR ? START : END;
			return;
		}
		d->flaws |= SMTP_DATA_BARE_CR;
		d->state = TEXT;
		return;
	case TEXT:
	case END:
		break;
	}
	CHECK(!"reachable");
}

/* Accounts for a run and gives it out, unless the message is refused already. */
static enum smtp_data_step
give(struct smtp_data *d, struct slice found, struct slice *run)
{
	d->bytes += found.n;
	if (d->bytes > d->limit)
		d->flaws |= SMTP_DATA_TOO_BIG;
	*run = d->flaws == 0 ? found : SLICE_NONE;
	return run->n > 0 ? SMTP_DATA_RUN : SMTP_DATA_MORE;
}

enum smtp_data_step
smtp_data_next(struct smtp_data *d, struct slice *in, struct slice *run)
{
	const char *p = in->p;
	const char *end = in->p + in->n;
	enum smtp_data_step out = SMTP_DATA_MORE;

	CHECK(d->state != END);
	*run = SLICE_NONE;
	while (p < end && out == SMTP_DATA_MORE) {
		const char *from = p;

		if (d->state == TEXT || (d->state == START && *p != '.')) {
			p = scan_text(d, p, end);
			out = give(d, slice_of(from, (size_t)(p - from)), run);
		} else if (d->state == CR && *p == '\n') {
			step(d, *p++);
			out = give(d, slice_of(from, 1), run);
		} else {
#ifdef PLANTED_BUGS
			/* Looks ahead without asking whether there is anything. */
			if (d->state == DOT_CR && *p == '\r' && p[1] == '\n')
				d->flaws |= SMTP_DATA_BARE_CR;
#endif
			step(d, *p);
			if (d->state != TEXT)
				p++; /* what is text is read there */
			if (d->state == END)
				out = SMTP_DATA_END;
		}
	}
	*in = slice_of(p, (size_t)(end - p));
	return out;
}
