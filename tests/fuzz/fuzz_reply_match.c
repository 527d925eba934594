/* What a worker may tell of the rules that a reply matches. What decodes lies within its bounds, is
 * read to the last byte and encodes to the same bytes; a cut text is the same with less. */
#include <stdint.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/ipc/message.h"
#include "common/ipc/reply_match.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
touch(const struct reply_match *m, struct slice payload)
{
	volatile uint64_t sum = 0;

	CHECK(m->n > 0 && m->n <= RULE_HITS_MAX && m->text.n <= REPLY_KEPT_MAX);
	for (unsigned i = 0; i < m->n; i++)
		sum += m->rules[i].number + m->rules[i].key + m->rules[i].fresh;
	if (m->text.n > 0) {
		CHECK(m->text.p >= payload.p && m->text.p + m->text.n == payload.p + payload.n);
		sum += crc32c(0, m->text.p, m->text.n);
	}
	(void)sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of its own: a read beyond it is seen. */
	struct buf copy = { 0 }, again = { 0 };
	struct reply_match m, cut;
	struct message about = { .kind = MESSAGE_REPLY_MATCH };
	struct slice payload;

	buf_put_slice(&copy, slice_of((const char *)data, size));
	payload = buf_slice(&copy);
	if (reply_match_decode(&m, payload) == 0) {
		touch(&m, payload);
		reply_match_encode(&again, &m);
		CHECK(slice_eq(buf_slice(&again), payload));
		about.payload_bytes = (uint32_t)again.len;
		CHECK(message_check(&about, 'W', 'S') == 0);
		if (m.text.n > 0) {
			CHECK(reply_match_decode(&cut, slice_of(payload.p, payload.n - 1)) == 0);
			CHECK(cut.n == m.n && cut.text.n == m.text.n - 1);
		}
	}
	buf_clear(&again);
	buf_clear(&copy);
	return 0;
}
