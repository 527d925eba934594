#include "common/queue/record.h"

#include <endian.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/wire.h"

/* Offsets in the header that are written after the rest is known. */
#define AT_EPOCH         8
#define AT_ENVELOPE      24
#define AT_CONTENT_CRC   28
#define AT_TOTAL         48
#define AT_HEADER_CRC    60
#define BODY_BYTES_BOUND (1ull << 40)

/* The string fields of the envelope in their order on disk; a new one goes to the end of the whole
 * envelope, behind the entries, not into this list. */
// clang-format off
#define ENVELOPE_STRINGS(X) \
	X(sender) X(src_mta) X(src_ip) X(dst_ip) X(user) X(vmta) X(pool) X(job) X(envid)
// clang-format on

static void
set_u32(char *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof v);
}

static void
set_u64(char *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof v);
}

static uint32_t
header_crc(const void *p)
{
	return crc32c(0, p, AT_HEADER_CRC);
}

uint64_t
record_padding(uint64_t head_bytes, uint64_t body_bytes)
{
	return -(head_bytes + body_bytes) & (RECORD_ALIGN - 1);
}

uint64_t
record_total(uint64_t head_bytes, uint64_t body_bytes)
{
	return head_bytes + body_bytes + record_padding(head_bytes, body_bytes);
}

static void
put_envelope(struct buf *out, const struct record_envelope *env)
{
#define X(field) wire_put_bytes(out, env->field);
	ENVELOPE_STRINGS(X)
#undef X
	wire_put_u32(out, env->n_rcpts);
	for (uint32_t i = 0; i < env->n_rcpts; i++)
		wire_put_bytes(out, env->rcpts[i]);
	wire_put_u16(out, env->n_entries);
	for (unsigned i = 0; i < env->n_entries; i++) {
		const struct record_entry *e = &env->entries[i];

		CHECK(e->count > 0 && e->first <= env->n_rcpts &&
		      e->count <= env->n_rcpts - e->first);
		wire_put_bytes(out, e->domain);
		wire_put_u32(out, e->first);
		wire_put_u32(out, e->count);
	}
}

void
record_encode(struct buf *out, const struct record_envelope *env, unsigned flags,
	      const struct slice *body, size_t n_body)
{
	size_t at = out->len;
	uint64_t body_bytes = 0;
	size_t head_bytes;
	uint32_t crc;
	char *p;

	for (size_t i = 0; i < n_body; i++)
		body_bytes += body[i].n;
	wire_put_u32(out, RECORD_MAGIC);
	wire_put_u16(out, RECORD_VERSION);
	wire_put_u16(out, (uint16_t)flags);
	wire_put_u64(out, 0); /* epoch: record_stamp() */
	wire_put_u64(out, env->id);
	wire_put_u32(out, 0); /* envelope bytes */
	wire_put_u32(out, 0); /* content CRC */
	wire_put_u64(out, body_bytes);
	wire_put_u64(out, env->received_wall_us);
	wire_put_u64(out, 0); /* total */
	wire_put_u32(out, 0); /* reserved */
	wire_put_u32(out, 0); /* header CRC */
	CHECK(out->len - at == RECORD_HEADER_BYTES);
	put_envelope(out, env);

	head_bytes = out->len - at;
	CHECK(head_bytes - RECORD_HEADER_BYTES <= ENVELOPE_BYTES_MAX);
	p = out->data + out->start + at;
	crc = crc32c(0, p + RECORD_HEADER_BYTES, head_bytes - RECORD_HEADER_BYTES);
	for (size_t i = 0; i < n_body; i++)
		crc = crc32c(crc, body[i].p, body[i].n);
	set_u32(p + AT_ENVELOPE, (uint32_t)(head_bytes - RECORD_HEADER_BYTES));
	set_u32(p + AT_CONTENT_CRC, crc);
	set_u64(p + AT_TOTAL, record_total(head_bytes, body_bytes));
	set_u32(p + AT_HEADER_CRC, header_crc(p));
}

void
record_stamp(void *p, uint64_t epoch)
{
	set_u64((char *)p + AT_EPOCH, epoch);
	set_u32((char *)p + AT_HEADER_CRC, header_crc(p));
}

int
record_header_decode(struct slice s, struct record_header *out)
{
	struct wire_reader r;
	uint32_t magic, crc;
	uint16_t version;

	if (s.n < RECORD_HEADER_BYTES)
		return -E_BAD;
	wire_read_init(&r, slice_of(s.p, RECORD_HEADER_BYTES));
	magic = wire_u32(&r);
	version = wire_u16(&r);
	out->flags = wire_u16(&r);
	out->epoch = wire_u64(&r);
	out->id = wire_u64(&r);
	out->envelope_bytes = wire_u32(&r);
	out->content_crc = wire_u32(&r);
	out->body_bytes = wire_u64(&r);
	out->received_wall_us = wire_u64(&r);
	out->total_bytes = wire_u64(&r);
	wire_u32(&r);
	crc = wire_u32(&r);
	/* The checksum first: a flipped bit in magic or version is damage, not another format. But
	 * bytes that were never a header (zeros, mail) are told apart by the magic. */
	if (crc != header_crc(s.p))
		return magic == RECORD_MAGIC ? -E_CRC : -E_FORMAT;
	/* The high byte of the version counts incompatible layouts. */
	if (magic != RECORD_MAGIC || version == 0 || version > 0xff)
		return -E_FORMAT;
	if (out->envelope_bytes > ENVELOPE_BYTES_MAX || out->body_bytes > BODY_BYTES_BOUND ||
	    out->total_bytes != record_total(RECORD_HEADER_BYTES + (uint64_t)out->envelope_bytes,
					     out->body_bytes))
		return -E_BAD;
	return 0;
}

static bool
read_rcpts(struct wire_reader *r, struct record *out)
{
	uint32_t n = wire_u32(r);

	/* Each takes four bytes at least: the input itself bounds what is allocated. */
	if (r->bad || n > SMTP_RCPT_MAX || n > wire_left(r) / 4)
		return false;
	out->rcpts_owned = mem_calloc(n, sizeof *out->rcpts_owned);
	for (uint32_t i = 0; i < n; i++)
		out->rcpts_owned[i] = wire_bytes(r, NAME_BYTES_MAX);
	out->env.n_rcpts = n;
	out->env.rcpts = out->rcpts_owned;
	return !r->bad;
}

static bool
read_entries(struct wire_reader *r, struct record *out)
{
	uint16_t n = wire_u16(r);
	uint32_t bound = out->env.n_rcpts;

#ifdef PLANTED_BUGS
	bound++;
#endif
	if (r->bad || n > wire_left(r) / 12)
		return false;
	out->entries_owned = mem_calloc(n, sizeof *out->entries_owned);
	for (unsigned i = 0; i < n; i++) {
		struct record_entry *e = &out->entries_owned[i];

		e->domain = wire_bytes(r, NAME_BYTES_MAX);
		e->first = wire_u32(r);
		e->count = wire_u32(r);
		if (r->bad || e->count == 0 || e->first > bound || e->count > bound - e->first)
			return false;
	}
	out->env.n_entries = n;
	out->env.entries = out->entries_owned;
	return true;
}

static int
read_envelope(struct record *out, struct slice s)
{
	struct wire_reader r;

	wire_read_init(&r, s);
	out->env.id = out->header.id;
	out->env.received_wall_us = out->header.received_wall_us;
#define X(field) out->env.field = wire_bytes(&r, ENVELOPE_BYTES_MAX);
	ENVELOPE_STRINGS(X)
#undef X
	if (r.bad || !read_rcpts(&r, out) || !read_entries(&r, out)) {
		record_clear(out);
		return -E_BAD;
	}
	return 0; /* what is left over is of a later version */
}

/* Header and envelope of the record at the start of `s`; `whole` asks for the body too. */
static int
decode(struct record *out, struct slice s, uint64_t epoch, msg_id_t id, bool whole)
{
	const struct record_header *h = &out->header;
	struct slice envelope;
	int rc;

	memset(out, 0, sizeof *out);
	rc = record_header_decode(s, &out->header);
	if (rc != 0)
		return rc;
	if ((epoch != 0 && h->epoch != epoch) || (id != 0 && h->id != id))
		return -E_FORMAT;
	s = slice_sub(s, RECORD_HEADER_BYTES);
	if (h->envelope_bytes > s.n || (whole && h->body_bytes > s.n - h->envelope_bytes))
		return -E_BAD;
	envelope = slice_of(s.p, h->envelope_bytes);
	if (whole) {
		if (crc32c(0, s.p, h->envelope_bytes + h->body_bytes) != h->content_crc)
			return -E_CRC;
		out->body = slice_of(s.p + h->envelope_bytes, h->body_bytes);
	}
	return read_envelope(out, envelope);
}

int
record_decode(struct record *out, struct slice s, uint64_t epoch, msg_id_t id)
{
	return decode(out, s, epoch, id, true);
}

int
record_decode_envelope(struct record *out, struct slice s, uint64_t epoch, msg_id_t id)
{
	return decode(out, s, epoch, id, false);
}

void
record_clear(struct record *r)
{
	mem_free(r->rcpts_owned);
	mem_free(r->entries_owned);
	memset(r, 0, sizeof *r);
}
