/* What anybody may send to the operator socket: frames and the words in them. The first byte says
 * whether the harness makes the frame around the words. What decodes is read to the last byte and
 * encodes to the same bytes. */
#include <stdint.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/ipc/operator.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
touch(struct slice s)
{
	volatile uint32_t sum = 0;

	if (s.n > 0)
		sum += crc32c(0, s.p, s.n);
	(void)sum;
}

static void
frame(struct slice s)
{
	struct operator_frame f;
	struct slice words[OPERATOR_WORDS_MAX];
	struct buf again = { 0 };
	int n;

	if (operator_decode(&f, s) != 0)
		return;
	touch(f.payload);
	operator_encode(&again, f.kind, f.payload);
	CHECK(slice_eq(buf_slice(&again), s));
	buf_reset(&again);
	n = operator_words_decode(f.payload, words);
	CHECK(n <= OPERATOR_WORDS_MAX);
	for (int i = 0; i < n; i++)
		touch(words[i]);
	if (n >= 0) {
		operator_words_encode(&again, words, (size_t)n);
		CHECK(slice_eq(buf_slice(&again), f.payload));
	}
	buf_clear(&again);
}

/* The frame around it made right: the words are what matters. */
static void
words_only(struct slice s)
{
	struct buf b = { 0 };

	if (s.n <= OPERATOR_FRAME_MAX - 12) {
		operator_encode(&b, OPERATOR_REQUEST, s);
		frame(buf_slice(&b));
	}
	buf_clear(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] & 1)
		words_only(slice_of(data + 1, size - 1));
	else
		frame(slice_of(data + 1, size - 1));
	return 0;
}
