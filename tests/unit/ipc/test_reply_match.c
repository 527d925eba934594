/* reply_match: there and back; what does not fit its shape is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/ipc/message.h"
#include "common/ipc/reply_match.h"

static struct reply_match
full(void)
{
	static char text[REPLY_KEPT_MAX + 100];
	struct reply_match m = { .n = RULE_HITS_MAX };

	memset(text, 't', sizeof text);
	m.text = slice_of(text, sizeof text);
	for (unsigned i = 0; i < RULE_HITS_MAX; i++)
		m.rules[i] =
			(struct reply_match_rule){ UINT32_MAX - i, UINT64_MAX - i, i % 2 == 0 };
	return m;
}

static void
there_and_back(void **state)
{
	struct reply_match in = full(), out;
	struct buf b = { 0 };
	struct message m = { .kind = MESSAGE_REPLY_MATCH };

	(void)state;
	reply_match_encode(&b, &in);
	m.payload_bytes = (uint32_t)b.len;
	assert_int_equal(message_check(&m, 'W', 'S'), 0);
	assert_int_equal(reply_match_decode(&out, buf_slice(&b)), 0);
	assert_int_equal(out.n, RULE_HITS_MAX);
	assert_int_equal(out.text.n, REPLY_KEPT_MAX); /* cut */
	for (unsigned i = 0; i < out.n; i++) {
		assert_int_equal(out.rules[i].number, in.rules[i].number);
		assert_int_equal(out.rules[i].key, in.rules[i].key);
		assert_int_equal(out.rules[i].fresh, in.rules[i].fresh);
	}
	buf_clear(&b);
}

static void
refused(void **state)
{
	struct reply_match in = full(), out;
	struct buf b = { 0 };
	size_t head = 1 + RULE_HITS_MAX * 13;

	(void)state;
	reply_match_encode(&b, &in);
	for (size_t n = 0; n < head; n++) { /* cut within the rules */
		char *p = malloc(n + 1);

		memcpy(p, b.data + b.start, n);
		assert_int_equal(reply_match_decode(&out, slice_of(p, n)), -E_BAD);
		free(p);
	}
	assert_int_equal(reply_match_decode(&out, slice_of(b.data + b.start, head)),
			 0); /* no text */
	b.data[b.start] = RULE_HITS_MAX + 1;
	assert_int_equal(reply_match_decode(&out, buf_slice(&b)), -E_BAD);
	b.data[b.start] = 0;
	assert_int_equal(reply_match_decode(&out, buf_slice(&b)), -E_BAD);
	b.data[b.start] = RULE_HITS_MAX;
	b.data[b.start + 13] = 2; /* neither fresh nor not */
	assert_int_equal(reply_match_decode(&out, buf_slice(&b)), -E_BAD);
	b.data[b.start + 13] = 1;
	buf_puts(&b, "x"); /* a text too long */
	assert_int_equal(reply_match_decode(&out, buf_slice(&b)), -E_BAD);
	buf_clear(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(there_and_back),
					    cmocka_unit_test(refused) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
