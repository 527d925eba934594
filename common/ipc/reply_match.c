#include "common/ipc/reply_match.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/wire.h"

/* u8 n, n times {u32 number, u64 key, u8 fresh}, the text. */

#define RULE_BYTES (4 + 8 + 1)
_Static_assert(1 + RULE_HITS_MAX * RULE_BYTES + REPLY_KEPT_MAX <= 1024, "fits its message");

void
reply_match_encode(struct buf *out, const struct reply_match *m)
{
	CHECK(m->n > 0 && m->n <= RULE_HITS_MAX);
	wire_put_u8(out, (uint8_t)m->n);
	for (unsigned i = 0; i < m->n; i++) {
		wire_put_u32(out, m->rules[i].number);
		wire_put_u64(out, m->rules[i].key);
		wire_put_u8(out, m->rules[i].fresh);
	}
	buf_put_slice(out,
		      m->text.n <= REPLY_KEPT_MAX ? m->text : slice_of(m->text.p, REPLY_KEPT_MAX));
}

int
reply_match_decode(struct reply_match *out, struct slice payload)
{
	struct wire_reader r;
	uint8_t fresh;

	wire_read_init(&r, payload);
	out->n = wire_u8(&r);
#ifdef PLANTED_BUGS
	if (r.bad || out->n == 0 || out->n > RULE_HITS_MAX + 1) /* one rule too many */
#else
	if (r.bad || out->n == 0 || out->n > RULE_HITS_MAX)
#endif
		return -E_BAD;
	for (unsigned i = 0; i < out->n; i++) {
		out->rules[i].number = wire_u32(&r);
		out->rules[i].key = wire_u64(&r);
		fresh = wire_u8(&r);
		if (r.bad || fresh > 1)
			return -E_BAD;
		out->rules[i].fresh = fresh == 1;
	}
	if (wire_left(&r) > REPLY_KEPT_MAX)
		return -E_BAD;
	out->text = wire_raw(&r, wire_left(&r));
	return 0;
}
