#include "common/base/wire.h"

static void
put_le(struct buf *b, uint64_t v, int n)
{
	unsigned char t[8];

	for (int i = 0; i < n; i++)
		t[i] = (unsigned char)(v >> (8 * i));
	buf_put(b, t, (size_t)n);
}

void
wire_put_u8(struct buf *b, uint8_t v)
{
	put_le(b, v, 1);
}

void
wire_put_u16(struct buf *b, uint16_t v)
{
	put_le(b, v, 2);
}

void
wire_put_u32(struct buf *b, uint32_t v)
{
	put_le(b, v, 4);
}

void
wire_put_u64(struct buf *b, uint64_t v)
{
	put_le(b, v, 8);
}

void
wire_put_bytes(struct buf *b, struct slice s)
{
	wire_put_u32(b, (uint32_t)s.n);
	buf_put_slice(b, s);
}

void
wire_read_init(struct wire_reader *r, struct slice s)
{
	r->p = (const unsigned char *)s.p;
	r->end = s.n > 0 ? r->p + s.n : r->p; /* p may be NULL */
	r->bad = false;
}

static uint64_t
get_le(struct wire_reader *r, size_t n)
{
	uint64_t v = 0;

	if (r->bad || (size_t)(r->end - r->p) < n) {
		r->bad = true;
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		v |= (uint64_t)r->p[i] << (8 * i);
	r->p += n;
	return v;
}

uint8_t
wire_u8(struct wire_reader *r)
{
	return (uint8_t)get_le(r, 1);
}

uint16_t
wire_u16(struct wire_reader *r)
{
	return (uint16_t)get_le(r, 2);
}

uint32_t
wire_u32(struct wire_reader *r)
{
	return (uint32_t)get_le(r, 4);
}

uint64_t
wire_u64(struct wire_reader *r)
{
	return get_le(r, 8);
}

struct slice
wire_raw(struct wire_reader *r, size_t n)
{
	struct slice s;

	if (r->bad || (size_t)(r->end - r->p) < n) {
		r->bad = true;
		return SLICE_NONE;
	}
	s = slice_of(r->p, n);
	r->p += n;
	return s;
}

struct slice
wire_bytes(struct wire_reader *r, size_t max)
{
	uint32_t n = wire_u32(r);

	if (r->bad || n > max) {
		r->bad = true;
		return SLICE_NONE;
	}
	return wire_raw(r, n);
}

size_t
wire_left(const struct wire_reader *r)
{
	return r->bad ? 0 : (size_t)(r->end - r->p);
}

bool
wire_done(const struct wire_reader *r)
{
	return !r->bad && r->p == r->end;
}
