#include "bench/sink/sink_body.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* The line under way, seen from its first byte:
 *
 *   START --'.'--> DOT --CR--> DOT_CR --LF--> (end of message)
 *     |             |             |
 *     +--other------+-------------+--> TEXT --CR--> TEXT_CR --LF--> START
 *                                        ^              |
 *                                        +--other-------+
 */
enum body_state { START, DOT, DOT_CR, TEXT, TEXT_CR };

_Static_assert(sizeof(XXH64_state_t) <= sizeof(((struct sink_body *)0)->hash), "hash state grew");

typedef uint8_t vec16 __attribute__((vector_size(16)));

static XXH64_state_t *
hash_state(struct sink_body *b)
{
	return (XXH64_state_t *)(void *)b->hash;
}

void
sink_body_init(struct sink_body *b)
{
	memset(b, 0, sizeof *b);
	b->in_header = true;
	XXH64_reset(hash_state(b), 0);
}

static uint64_t
lanes_sum(vec16 v)
{
	uint64_t sum = 0;

	for (int i = 0; i < 16; i++)
		sum += v[i];
	return sum;
}

/* CR, NUL and bytes above 0x7f, sixteen at a time: a body is passed over for this once more. */
static void
count_bytes(struct sink_body *b, const char *p, size_t n)
{
	while (n >= 16) {
		vec16 cr = { 0 }, nul = { 0 }, high = { 0 };
		size_t blocks = n / 16 < 255 ? n / 16 : 255; /* no lane overflows */

		for (size_t i = 0; i < blocks; i++, p += 16) {
			vec16 v;

			memcpy(&v, p, 16);
			cr -= (vec16)(v == '\r');
			nul -= (vec16)(v == 0);
			high += v >> 7;
		}
		n -= blocks * 16;
		b->cr_total += lanes_sum(cr);
		b->faults.nul += lanes_sum(nul);
		b->faults.eight_bit += lanes_sum(high);
	}
	for (; n > 0; n--, p++) {
		b->cr_total += *p == '\r';
		b->faults.nul += *p == 0;
		b->faults.eight_bit += (unsigned char)*p >> 7;
	}
}

/* Content bytes: counted, hashed when they are body, kept when they begin a header line. */
static void
take(struct sink_body *b, const char *p, size_t n)
{
	b->bytes += n;
	if (!b->in_header) {
		XXH64_update(hash_state(b), p, n);
		return;
	}
	if (n > SINK_HEAD_BYTES - b->head_n)
		n = SINK_HEAD_BYTES - b->head_n;
	memcpy(b->head + b->head_n, p, n);
	b->head_n += n;
}

static void
header_line_end(struct sink_body *b)
{
	static const char name[] = "X-Load-Id:";
	struct slice line = slice_of(b->head, b->head_n);

	if (line.n == 2)
		b->in_header = false; /* the empty line: CR LF and nothing before it */
	while (line.n > 0 && (line.p[line.n - 1] == '\n' || line.p[line.n - 1] == '\r'))
		line.n--;
	if (slice_starts_nocase(line, name))
		str_copy(b->key, sizeof b->key, slice_trim(slice_sub(line, sizeof name - 1)));
	b->head_n = 0;
}

static void
line_end(struct sink_body *b)
{
	b->line_ends++;
	if (b->line_bytes > SINK_LINE_MAX)
		b->faults.long_lines++;
	b->line_bytes = 0;
	b->state = START;
	if (b->in_header)
		header_line_end(b);
}

/* Text up to the next line end or the end of the bytes; returns how many it took. */
static size_t
feed_text(struct sink_body *b, const char *p, size_t n)
{
	const char *from = p, *end = p + n, *nl;

	while ((nl = memchr(from, '\n', (size_t)(end - from))) != NULL) {
		if (nl > p ? nl[-1] == '\r' : b->state == TEXT_CR) {
			b->line_bytes += (size_t)(nl - p);
			b->line_bytes -= b->line_bytes > 0; /* its CR */
			take(b, p, (size_t)(nl + 1 - p));
			line_end(b);
			return (size_t)(nl + 1 - p);
		}
		b->faults.bare_lf++;
		b->state = TEXT;
		from = nl + 1;
	}
	b->line_bytes += n;
	take(b, p, n);
	if (n > 0)
		b->state = end[-1] == '\r' ? TEXT_CR : TEXT;
	return n;
}

/* A whole run of body lines at once: one hash update as long as no line begins with a dot. */
static size_t
feed_lines(struct sink_body *b, const char *p, size_t n)
{
	const char *from = p, *end = p + n, *nl;

	while (from < end && *from != '.' &&
	       (nl = memchr(from, '\n', (size_t)(end - from))) != NULL && nl > from &&
	       nl[-1] == '\r') {
		b->line_ends++;
		if (nl - 1 - from > SINK_LINE_MAX)
			b->faults.long_lines++;
		from = nl + 1;
	}
	take(b, p, (size_t)(from - p));
	return (size_t)(from - p);
}

/* One step at a line's first bytes. */
static size_t
feed_start(struct sink_body *b, const char *p, size_t n, bool *done)
{
	switch (b->state) {
	case START:
		if (*p == '.') {
			b->state = DOT;
			return 1;
		}
		if (!b->in_header) {
			size_t took = feed_lines(b, p, n);

			if (took > 0)
				return took;
		}
		b->state = TEXT;
		return 0;
	case DOT:
		if (*p == '\r') {
			b->state = DOT_CR;
			return 1;
		}
		b->faults.unstuffed_dot += *p != '.';
		b->state = TEXT;
		return 0;
	default: /* DOT_CR */
		if (*p == '\n') {
			b->line_ends++;
			*done = true;
			return 1;
		}
		b->faults.unstuffed_dot++;
		b->line_bytes++;
		take(b, "\r", 1);
		b->state = TEXT;
		return 0;
	}
}

size_t
sink_body_feed(struct sink_body *b, const char *p, size_t n, bool *done)
{
	size_t i = 0;

	*done = false;
	while (i < n && !*done) {
		if (b->state == TEXT || b->state == TEXT_CR)
			i += feed_text(b, p + i, n - i);
		else
			i += feed_start(b, p + i, n - i, done);
	}
	count_bytes(b, p, i);
	if (*done)
		b->faults.bare_cr = b->cr_total - b->line_ends;
	return i;
}

uint64_t
sink_body_hash(const struct sink_body *b)
{
	return XXH64_digest((const XXH64_state_t *)(const void *)b->hash);
}

const char *
sink_body_key(const struct sink_body *b)
{
	return b->key[0] != '\0' ? b->key : "-";
}
