#include "common/event_log/event.h"

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/wire.h"

/* An event: u8 kind, then fields {u8 tag, value}, a tag 0, the number of recipients, the
 * recipients. A tag is twice the field's number (from 1, in the order of EVENT_FIELDS), plus 1 for
 * bytes. Numbers are varints (7 bits a byte, low first, high bit: more follow); bytes have a varint
 * length before. A recipient is one such byte string, so that a later version may add to it.
 * Upgrade: new fields, kinds and actions go to the end of their tables. */

enum field_tag {
	TAG_END,
#define TAG_U         0
#define TAG_S         1
#define X(type, name) NUMBER_##name,
	EVENT_FIELDS(X)
#undef X
		TAG_COUNT
};
_Static_assert(TAG_COUNT <= 127, "a tag is one byte");

static void
put_number(struct buf *b, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		wire_put_u8(b, (uint8_t)(v | 0x80));
	wire_put_u8(b, (uint8_t)v);
}

static uint64_t
get_number(struct wire_reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t c = wire_u8(r);

		v |= (uint64_t)(c & 0x7f) << shift;
		if (c < 0x80)
			return v;
	}
	r->bad = true;
	return 0;
}

static void
put_bytes(struct buf *b, struct slice s)
{
	put_number(b, s.n);
	buf_put_slice(b, s);
}

static struct slice
get_bytes(struct wire_reader *r)
{
	uint64_t n = get_number(r);

	if (n > wire_left(r)) {
		r->bad = true;
		return SLICE_NONE;
	}
	return wire_raw(r, n);
}

static void
put_field_U(struct buf *b, unsigned number, uint64_t v)
{
	if (v == 0)
		return;
	wire_put_u8(b, (uint8_t)(number * 2 + TAG_U));
	put_number(b, v);
}

static void
put_field_S(struct buf *b, unsigned number, struct slice v)
{
	if (v.n == 0)
		return;
	wire_put_u8(b, (uint8_t)(number * 2 + TAG_S));
	put_bytes(b, v);
}

static size_t
number_bytes(uint64_t v)
{
	size_t n = 1;

	for (; v >= 0x80; v >>= 7)
		n++;
	return n;
}

static void
put_rcpt(struct buf *b, const struct event_rcpt *r)
{
	bool ruled = r->category.n > 0 || r->rule.n > 0;
	size_t strings = number_bytes(r->address.n) + r->address.n + number_bytes(r->diag.n) +
			 r->diag.n + number_bytes(r->queue.n) + r->queue.n +
			 (r->stamp_boot_us != 0 || ruled ? number_bytes(r->stamp_boot_us) : 0) +
			 (ruled ? number_bytes(r->category.n) + r->category.n +
					  number_bytes(r->rule.n) + r->rule.n
				: 0);

	put_number(b, number_bytes(r->index) + 4 + strings);
	put_number(b, r->index);
	wire_put_u8(b, r->action);
	buf_put(b, r->status, 3);
	put_bytes(b, r->address);
	put_bytes(b, r->diag);
	put_bytes(b, r->queue);
	if (r->stamp_boot_us != 0 || ruled)
		put_number(b, r->stamp_boot_us);
	if (ruled) {
		put_bytes(b, r->category);
		put_bytes(b, r->rule);
	}
}

void
event_encode(struct buf *out, const struct event *e)
{
	wire_put_u8(out, (uint8_t)e->kind);
#define X(type, name) put_field_##type(out, NUMBER_##name, e->name);
	EVENT_FIELDS(X)
#undef X
	wire_put_u8(out, TAG_END);
	put_number(out, e->n_rcpts);
	for (size_t i = 0; i < e->n_rcpts; i++)
		put_rcpt(out, &e->rcpts[i]);
}

static void
get_field(struct wire_reader *r, unsigned tag, struct event *out)
{
	uint64_t u = 0;
	struct slice s = SLICE_NONE;

	if (tag & TAG_S)
		s = get_bytes(r);
	else
		u = get_number(r);
	switch (tag) {
#define EVENT_U(name) out->name = u;
#define EVENT_S(name) out->name = s;
#define X(type, name)                                                                              \
	case NUMBER_##name * 2 + TAG_##type:                                                       \
		EVENT_##type(name) break;
		EVENT_FIELDS(X)
#undef X
#undef EVENT_U
#undef EVENT_S
	default:
		break; /* of a later version */
	}
}

static bool
get_rcpt(struct wire_reader *r, struct event_rcpt *out)
{
	struct wire_reader one;
	struct slice status;
	uint64_t index;

	wire_read_init(&one, get_bytes(r));
	index = get_number(&one);
	out->index = (uint16_t)index;
	out->action = wire_u8(&one);
	status = wire_raw(&one, 3);
	out->address = get_bytes(&one);
	out->diag = get_bytes(&one);
	out->queue = get_bytes(&one);
	out->stamp_boot_us = !one.bad && wire_left(&one) > 0 ? get_number(&one) : 0;
	out->category = !one.bad && wire_left(&one) > 0 ? get_bytes(&one) : SLICE_NONE;
	out->rule = !one.bad && wire_left(&one) > 0 ? get_bytes(&one) : SLICE_NONE;
	if (r->bad || one.bad || index > UINT16_MAX || out->action >= EVENT_ACTION_COUNT)
		return false;
	memcpy(out->status, status.p, 3);
	return true;
}

int
event_decode(struct event *out, struct slice s, struct buf *scratch)
{
	struct wire_reader r;
	struct event_rcpt *rcpts;
	uint64_t n;
	uint8_t kind, tag;

	memset(out, 0, sizeof *out);
	buf_reset(scratch);
	wire_read_init(&r, s);
	kind = wire_u8(&r);
	/* A kind of a later version is nothing that this one could act on. */
	out->kind = kind < EVENT_KIND_COUNT ? (enum event_kind)kind : EVENT_NONE;
	while ((tag = wire_u8(&r)) != TAG_END && !r.bad)
		get_field(&r, tag, out);
	n = get_number(&r);
	/* Each takes nine bytes at least: the input itself bounds what is allocated. */
	if (r.bad || n > SMTP_RCPT_MAX || n > wire_left(&r) / 9)
		return -E_BAD;
	if (kind == 0)
		return -E_BAD;
	/* At least one: the address of nothing is no address to count from. */
	rcpts = (struct event_rcpt *)(void *)buf_room(scratch, (n + 1) * sizeof *rcpts);
	for (uint64_t i = 0; i < n; i++) {
		if (!get_rcpt(&r, &rcpts[i]))
			return -E_BAD;
	}
	if (r.bad)
		return -E_BAD;
	out->rcpts = rcpts;
	out->n_rcpts = n;
	return 0;
}
