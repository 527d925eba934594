/* The header scan: what stays is the message less the fields cut out, by a plain line reader. First
 * byte: which fields are processed and retained. */
#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/mail/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct slice
take_line(struct slice *s)
{
	const char *lf = s->n > 0 ? memchr(s->p, '\n', s->n) : NULL;
	struct slice line = lf != NULL ? slice_of(s->p, (size_t)(lf - s->p) + 1) : *s;

	*s = slice_sub(*s, line.n);
	return line;
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* The name of the field that begins here, empty when none does. */
static struct slice
name_of(struct slice line)
{
	size_t n = 0, colon;

	while (n < line.n && line.p[n] > ' ' && line.p[n] < 127 && line.p[n] != ':')
		n++;
	for (colon = n; colon < line.n && is_blank(line.p[colon]); colon++)
		;
	return slice_of(line.p, colon < line.n && line.p[colon] == ':' ? n : 0);
}

static void
plain(struct buf *out, const struct header_rules *rules, struct slice s, unsigned *received)
{
	static const char *const names[] = { "X-Virtual-MTA", "X-Job", "X-Envid" };
	bool cut = false;

	for (bool first = true; s.n > 0; first = false) {
		struct slice before = s;
		struct slice line = take_line(&s);
		struct slice name = name_of(line);

		if (!first && is_blank(line.p[0])) {
			if (!cut)
				buf_put_slice(out, line);
			continue;
		}
		if (name.n == 0) {
			buf_put_slice(out, before);
			return;
		}
		cut = false;
		for (int i = 0; i < 3; i++)
			cut |= rules->process[i] && !rules->retain[i] &&
			       slice_eq_nocase(name, slice_str(names[i]));
		*received += slice_eq_nocase(name, SLICE_LIT("received"));
		if (!cut)
			buf_put_slice(out, line);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct header_rules rules = { .max_hops = 5 };
	struct header_scan h;
	struct buf kept = { 0 }, want = { 0 };
	unsigned received = 0;
	char *exact;

	if (size < 2)
		return 0;
	for (int i = 0; i < 3; i++) {
		rules.process[i] = (data[0] >> i & 1) != 0;
		rules.retain[i] = (data[0] >> (i + 3) & 1) != 0;
	}
	exact = memcpy(mem_alloc(size - 1), data + 1, size - 1);
	header_scan(&h, &rules, slice_of(exact, size - 1));
	CHECK((header_refusal(&h) == NULL) == (h.flaw == HEADER_FINE));
	for (int i = 0; i < HEADER_FIELDS; i++) {
		CHECK(!h.values[i].given || rules.process[i]);
		for (size_t k = 0; k < h.values[i].n; k++)
			CHECK(h.values[i].text[k] >= ' ' && h.values[i].text[k] <= '~');
	}
	if (h.flaw == HEADER_FINE) {
		for (size_t i = 0; i < h.n_pieces; i++)
			buf_put_slice(&kept, h.pieces[i]);
		plain(&want, &rules, slice_of(exact, size - 1), &received);
		CHECK(kept.len == h.piece_bytes && received == h.received);
		CHECK(slice_eq(buf_slice(&kept), buf_slice(&want)));
	}
	buf_clear(&kept);
	buf_clear(&want);
	mem_free(exact);
	return 0;
}
