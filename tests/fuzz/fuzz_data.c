/* The body decoder beside a plain one that sees all bytes at once. First byte: the size of pieces.
 */
#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/smtp/smtp_data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT 200

struct result {
	struct buf body;
	bool ended, dot_line, eight_bit;
	unsigned flaws;
	size_t used;
};

static bool
behind_crlf(const char *p, size_t i)
{
	return i == 0 || (i >= 2 && p[i - 2] == '\r' && p[i - 1] == '\n');
}

/* The definition, byte by byte. An end, if there is one, decides which bytes count. */
static void
plain(struct result *r, const char *p, size_t n)
{
	size_t i;

	for (i = 0; i + 3 <= n && !(behind_crlf(p, i) && memcmp(p + i, ".\r\n", 3) == 0); i++)
		;
	r->ended = i + 3 <= n;
	r->used = r->ended ? i + 3 : n;
	for (size_t k = 0; k < (r->ended ? i : n); k++) {
		bool stuffed = behind_crlf(p, k) && p[k] == '.';

		if (p[k] == '\0')
			r->flaws |= SMTP_DATA_NUL;
		if (p[k] == '\r' && k + 1 < n && p[k + 1] != '\n')
			r->flaws |= SMTP_DATA_BARE_CR;
		if (p[k] == '\n' && (k == 0 || p[k - 1] != '\r'))
			r->flaws |= SMTP_DATA_BARE_LF;
		r->eight_bit |= (unsigned char)p[k] > 127;
		if (!stuffed)
			buf_putc(&r->body, p[k]);
		else
			r->dot_line |= k + 1 < n && p[k + 1] == '.';
	}
	if (r->body.len > LIMIT)
		r->flaws |= SMTP_DATA_TOO_BIG;
}

static void
ours(struct result *r, const char *p, size_t n, size_t piece)
{
	struct smtp_data d;

	smtp_data_init(&d, LIMIT);
	while (r->used < n && !r->ended) {
		size_t part = n - r->used < piece ? n - r->used : piece;
		char *exact = memcpy(mem_alloc(part), p + r->used, part);
		struct slice in = slice_of(exact, part);
		struct slice run;
		enum smtp_data_step step;

		while ((step = smtp_data_next(&d, &in, &run)) == SMTP_DATA_RUN) {
			CHECK(run.n > 0 && run.p >= exact && run.p + run.n <= exact + part);
			buf_put_slice(&r->body, run);
		}
		r->ended = step == SMTP_DATA_END;
		CHECK(r->ended || in.n == 0);
		r->used += part - in.n;
		mem_free(exact);
	}
	r->flaws = d.flaws;
	r->dot_line = d.dot_line;
	r->eight_bit = d.eight_bit;
	if (d.flaws == 0)
		CHECK(d.bytes == r->body.len);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct result want = { 0 }, got = { 0 };
	const char *p = (const char *)data + 1;

	if (size < 2)
		return 0;
	plain(&want, p, size - 1);
	ours(&got, p, size - 1, data[0] == 0 ? size : data[0]);
	CHECK(got.ended == want.ended && got.used == want.used);
	/* A CR or dot at the very end is open yet: only whole messages are compared further. */
	if (want.ended) {
		unsigned spoilt = ~(unsigned)SMTP_DATA_TOO_BIG;

		/* How long a message is that is spoilt anyway is nobody's question. */
		CHECK((got.flaws & spoilt) == (want.flaws & spoilt));
		CHECK((got.flaws != 0) == (want.flaws != 0));
		if (want.flaws == 0)
			CHECK(slice_eq(buf_slice(&got.body), buf_slice(&want.body)) &&
			      got.dot_line == want.dot_line && got.eight_bit == want.eight_bit);
	}
	buf_clear(&want.body);
	buf_clear(&got.body);
	return 0;
}
