#include "common/ipc/operator.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/wire.h"

#define HEAD_BYTES   12
#define ANSWER_BYTES (1u << 30) /* the longest JSON text that a client collects */

/* Frames -----------------------------------------------------------------------------------------
 */

void
operator_encode(struct buf *out, enum operator_kind kind, struct slice payload)
{
	CHECK(payload.n <= OPERATOR_FRAME_MAX - HEAD_BYTES);
	wire_put_u32(out, OPERATOR_MAGIC);
	wire_put_u16(out, OPERATOR_VERSION);
	wire_put_u16(out, (uint16_t)kind);
	wire_put_bytes(out, payload);
}

int
operator_decode(struct operator_frame *out, struct slice frame)
{
	struct wire_reader r;
	uint32_t magic;
	uint16_t version;

	wire_read_init(&r, frame);
	magic = wire_u32(&r);
	version = wire_u16(&r);
	if (r.bad || magic != OPERATOR_MAGIC)
		return -E_BAD;
	if (version != OPERATOR_VERSION)
		return -E_FORMAT;
	out->kind = (enum operator_kind)wire_u16(&r);
	out->payload = wire_bytes(&r, OPERATOR_FRAME_MAX - HEAD_BYTES);
	if (!wire_done(&r) || out->kind < OPERATOR_REQUEST || out->kind > OPERATOR_END)
		return -E_BAD;
	return 0;
}

void
operator_words_encode(struct buf *out, const struct slice *words, size_t n)
{
	CHECK(n <= OPERATOR_WORDS_MAX);
	wire_put_u16(out, (uint16_t)n);
	for (size_t i = 0; i < n; i++)
		wire_put_bytes(out, words[i]);
}

int
operator_words_decode(struct slice payload, struct slice *words)
{
	struct wire_reader r;
	unsigned n;

	wire_read_init(&r, payload);
	n = wire_u16(&r);
#ifdef PLANTED_BUGS
	if (n > OPERATOR_WORDS_MAX + 1) /* one word too many */
#else
	if (n > OPERATOR_WORDS_MAX)
#endif
		return -E_BAD;
	for (unsigned i = 0; i < n && !r.bad; i++)
		words[i] = wire_bytes(&r, OPERATOR_FRAME_MAX);
	return wire_done(&r) ? (int)n : -E_BAD;
}
