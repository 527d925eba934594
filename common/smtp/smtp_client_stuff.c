#include "common/smtp/smtp_client_stuff.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

bool
smtp_client_stuff_put(struct smtp_client_stuff *s, struct slice body, struct buf *out)
{
	while (body.n > 0 && !s->flawed) {
		const char *lf = memchr(body.p, '\n', body.n);
		size_t n = lf != NULL ? (size_t)(lf - body.p) + 1 : body.n;
		size_t text = n;

		if (!s->inside && !s->after_cr && body.p[0] == '.')
			buf_put(out, ".", 1);
		if (lf != NULL) {
			bool cr_here = n >= 2 && body.p[n - 2] == '\r';

			if (!cr_here && !(n == 1 && s->after_cr))
				s->flawed = true;
			text = cr_here ? n - 2 : n - 1;
		} else if (body.p[n - 1] == '\r') {
			text = n - 1;
		}
		/* A CR that the last piece ended with must be followed by this piece's LF. */
		if ((s->after_cr && !(lf != NULL && n == 1)) ||
		    memchr(body.p, '\r', text) != NULL || memchr(body.p, '\0', text) != NULL)
			s->flawed = true;
		if (s->flawed)
			break;
		buf_put(out, body.p, n);
		s->after_cr = lf == NULL && body.p[n - 1] == '\r';
		s->inside = lf == NULL;
		body = slice_sub(body, n);
	}
	return !s->flawed;
}

/* Between two bytes: what the earlier one was. */
struct scan {
	bool after_cr;
	bool at_line; /* the next byte begins a line */
	unsigned flags;
};

static void
scan_bytes(struct scan *s, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if ((p[i] == '\n') != s->after_cr || p[i] == '\0')
			s->flags |= SMTP_CLIENT_BODY_FLAWED;
		if (s->at_line && p[i] == '.')
			s->flags |= SMTP_CLIENT_BODY_DOT_LINES;
		s->after_cr = p[i] == '\r';
		s->at_line = p[i] == '\n';
	}
}

#ifdef __SSE2__
static unsigned
mask_of(__m128i v, char c)
{
	return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8(c)));
}

/* Sixteen bytes at a time: each LF must stand one place behind a CR, and each CR before an LF. */
static size_t
scan_blocks(struct scan *s, const char *p, size_t n)
{
	unsigned cr_before = s->after_cr, lf_before = s->at_line;
	unsigned flawed = 0, dots = 0;
	size_t i;

	for (i = 0; i + 16 <= n; i += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
		unsigned cr = mask_of(v, '\r'), lf = mask_of(v, '\n');

		flawed |= lf ^ (((cr << 1) | cr_before) & 0xffffu);
		flawed |= mask_of(v, '\0');
		dots |= mask_of(v, '.') & ((lf << 1) | lf_before);
		cr_before = cr >> 15;
		lf_before = lf >> 15;
	}
	s->after_cr = cr_before != 0;
	s->at_line = lf_before != 0;
	s->flags |= flawed ? SMTP_CLIENT_BODY_FLAWED : 0u;
	s->flags |= dots ? SMTP_CLIENT_BODY_DOT_LINES : 0u;
	return i;
}
#else
static size_t
scan_blocks(struct scan *s, const char *p, size_t n)
{
	(void)s;
	(void)p;
	(void)n;
	return 0;
}
#endif

unsigned
smtp_client_body_scan(struct slice body)
{
	struct scan s = { .at_line = true };
	size_t done = scan_blocks(&s, body.p, body.n);

	scan_bytes(&s, body.p + done, body.n - done);
	if (s.after_cr)
		s.flags |= SMTP_CLIENT_BODY_FLAWED;
	if (body.n > 0 && !s.at_line)
		s.flags |= SMTP_CLIENT_BODY_OPEN_END;
	return s.flags;
}
