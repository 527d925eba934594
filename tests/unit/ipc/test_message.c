/* Messages, the payload of NEW, and a small ring around its corners. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/ipc/message.h"
#include "common/ipc/new_message.h"
#include "common/ipc/ring.h"

static void
test_check(void **state)
{
	static const struct {
		uint16_t kind, zero;
		uint32_t bytes;
		char from, to;
		int rc;
	} rows[] = {
		{ MESSAGE_ACK, 0, 0, 'S', 'R', 0 },
		{ MESSAGE_ACK, 0, 0, 0, 'R', 0 },
		{ MESSAGE_ACK, 0, 0, 'S', 0, 0 },
		{ MESSAGE_ACK, 0, 0, 'S', 'W', -E_BAD },
		{ MESSAGE_ACK, 0, 0, 'R', 'S', -E_BAD },
		{ MESSAGE_ACK, 0, 1, 'S', 'R', -E_BAD },
		{ MESSAGE_ACK, 1, 0, 'S', 'R', -E_BAD },
		{ MESSAGE_NONE, 0, 0, 0, 0, -E_BAD },
		{ MESSAGE_KIND_COUNT, 0, 0, 0, 0, -E_BAD },
		{ 65535, 0, 0, 0, 0, -E_BAD },
		{ MESSAGE_WORK, 0, 128, 'S', 'W', 0 },
		{ MESSAGE_WORK, 0, 129, 'S', 'W', -E_BAD },
		{ MESSAGE_NEW, 0, IPC_PAYLOAD_MAX, 'R', 'S', 0 },
		{ MESSAGE_NEW, 0, IPC_PAYLOAD_MAX + 1, 'R', 'S', -E_BAD },
		{ MESSAGE_ASK, 0, 5, 'S', 'V', 0 },
		{ MESSAGE_CURSOR, 0, 0, 'A', 'S', 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct message m = { .kind = rows[i].kind,
				     .zero = rows[i].zero,
				     .payload_bytes = rows[i].bytes };

		assert_int_equal(message_check(&m, rows[i].from, rows[i].to), rows[i].rc);
	}
	assert_string_equal(message_name(MESSAGE_RECEIVER_HELLO), "RECEIVER_HELLO");
	assert_string_equal(message_name(60000), "unknown");
	assert_int_equal(message_from(MESSAGE_ROUTE), 'V');
	assert_int_equal(message_from(60000), 0);
}

static void
test_new_message(void **state)
{
	static const struct record_entry entries[] = {
		{ SLICE_LIT("a.example"), 0, 2 },
		{ SLICE_LIT("b.example"), 2, 1000 },
	};
	struct new_message in = {
		.vmta = SLICE_LIT("mta1"),
		.sender_domain = SLICE_LIT("example.org"),
		.received_wall_us = 99,
		.n_entries = 2,
		.entries = entries,
		.reception = SLICE_LIT("event"),
	};
	struct new_message out;
	struct buf b = { 0 }, scratch = { 0 };

	(void)state;
	new_message_encode(&b, &in);
	assert_int_equal(new_message_decode(&out, buf_slice(&b), &scratch), 0);
	assert_true(slice_is(out.vmta, "mta1"));
	assert_true(slice_is(out.sender_domain, "example.org"));
	assert_int_equal(out.job.n, 0);
	assert_int_equal(out.received_wall_us, 99);
	assert_int_equal(out.n_entries, 2);
	assert_true(slice_is(out.entries[0].domain, "a.example"));
	assert_int_equal(out.entries[1].first, 2);
	assert_int_equal(out.entries[1].count, 1000);
	assert_true(slice_is(out.reception, "event"));
	for (size_t n = 0; n < b.len; n++) {
		char *copy = mem_memdup0(b.data, n);

		assert_int_equal(new_message_decode(&out, slice_of(copy, n), &scratch), -E_BAD);
		mem_free(copy);
	}
	buf_clear(&b);
	buf_clear(&scratch);
}

/* Entries that a receiver could not mean. */
static void
test_new_message_entries(void **state)
{
	static const struct {
		struct record_entry e[2];
		uint16_t n;
		int rc;
	} rows[] = {
		{ { { SLICE_LIT("a"), 0, 1 }, { SLICE_LIT("b"), 1, 1 } }, 2, 0 },
		{ { { SLICE_LIT("a"), 1, 1 } }, 1, -E_BAD }, /* not from 0 */
		{ { { SLICE_LIT("a"), 0, 0 } }, 1, -E_BAD }, /* empty */
		{ { { SLICE_LIT("a"), 0, 2 }, { SLICE_LIT("b"), 1, 1 } }, 2, -E_BAD }, /* overlap */
		{ { { SLICE_LIT("a"), 0, 2 }, { SLICE_LIT("b"), 3, 1 } }, 2, -E_BAD }, /* gap */
		{ { { SLICE_LIT("a"), 0, ENTRY_RCPT_MAX } }, 1, 0 },
		{ { { SLICE_LIT("a"), 0, ENTRY_RCPT_MAX + 1 } }, 1, -E_BAD },
		{ { { SLICE_LIT("a"), 0, UINT32_MAX } }, 1, -E_BAD },
		{ { { SLICE_LIT("a"), 0, 1 } }, 0, -E_BAD }, /* none */
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct new_message in = { .n_entries = rows[i].n, .entries = rows[i].e }, out;
		struct buf b = { 0 }, scratch = { 0 };

		new_message_encode(&b, &in);
		assert_int_equal(new_message_decode(&out, buf_slice(&b), &scratch), rows[i].rc);
		buf_clear(&b);
		buf_clear(&scratch);
	}
}

#define ENTRIES 4
#define BYTES   64

/* Every size of payload at every place of the byte ring, past the wrap of the 32-bit counters too.
 */
static void
test_ring_corners(void **state)
{
	static struct message entries[ENTRIES];
	static unsigned char bytes[BYTES];
	struct ring_head head;
	const struct ring_place at = { &head, entries, bytes, ENTRIES, BYTES };
	struct ring_tx tx;
	struct ring_rx rx;
	char payload[BYTES + 1];
	unsigned step = 0;

	(void)state;
	ring_place_init(&at);
	ring_tx_init(&tx, &at);
	ring_rx_init(&rx, &at);
	/* As if 2^32 - 100 messages had passed. */
	tx.ring.p_tail = tx.ring.c_head = rx.ring.p_tail = rx.ring.c_head = UINT32_MAX - 99;
	head.produced = head.consumed = UINT32_MAX - 99;
	for (unsigned round = 0; round < 20; round++) {
		for (size_t n = 0; n <= BYTES; n++, step++) {
			struct message m = { .kind = MESSAGE_RESULT, .u.result.lease = step }, got;

			memset(payload, (int)step, n);
			assert_int_equal(ring_put(&tx, &m, slice_of(payload, n)), 0);
			assert_int_equal(ring_put(&tx, &m, slice_of(payload, BYTES - n + 1)),
					 -E_FULL);
			assert_int_equal(ring_get(&rx, &got, 'W', 'S'), 1);
			assert_int_equal(got.u.result.lease, step);
			assert_int_equal(rx.payload.len, n);
			if (n > 0)
				assert_memory_equal(buf_slice(&rx.payload).p, payload, n);
			assert_int_equal(ring_get(&rx, &got, 'W', 'S'), 0);
		}
	}
	ring_rx_clear(&rx);
}

/* Counters of the other side that cannot be. */
static void
test_ring_impossible(void **state)
{
	static struct message entries[ENTRIES];
	static unsigned char bytes[BYTES];
	static const struct {
		uint32_t produced, consumed;
		uint64_t produced_bytes, consumed_bytes;
		int put, get;
	} rows[] = {
		{ 1, 0, 0, 0, 0, -E_BAD }, /* an entry of zeros */
		{ 4, 0, 0, 0, 0, -E_BAD }, /* more than fit */
		{ UINT32_MAX, 0, 0, 0, 0, -E_BAD },
		{ 0, 1, 0, 0, -E_BAD, 0 }, /* consumed what was not produced */
		{ 0, UINT32_MAX, 0, 0, 0, 0 },
		{ 0, UINT32_MAX - 2, 0, 0, -E_FULL, 0 },
		{ 0, UINT32_MAX - 3, 0, 0, -E_BAD, 0 },
		{ 0, 0, BYTES + 1, 0, 0, -E_BAD },
		{ 0, 0, 0, 1, -E_BAD, 0 },
		{ 0, 0, 0, UINT64_MAX - BYTES, -E_BAD, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct ring_head head;
		const struct ring_place at = { &head, entries, bytes, ENTRIES, BYTES };
		struct message m = { .kind = MESSAGE_RETURNED }, got;
		struct ring_tx tx;
		struct ring_rx rx;

		memset(entries, 0, sizeof entries);
		ring_place_init(&at);
		ring_tx_init(&tx, &at);
		ring_rx_init(&rx, &at);
		head.produced = rows[i].produced;
		head.consumed = rows[i].consumed;
		head.produced_bytes = rows[i].produced_bytes;
		head.consumed_bytes = rows[i].consumed_bytes;
		assert_int_equal(ring_get(&rx, &got, 'W', 'S'), rows[i].get);
		head.consumed = rows[i].consumed;
		head.consumed_bytes = rows[i].consumed_bytes;
		assert_int_equal(ring_put(&tx, &m, SLICE_NONE), rows[i].put);
		ring_rx_clear(&rx);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_new_message),
		cmocka_unit_test(test_new_message_entries),
		cmocka_unit_test(test_ring_corners),
		cmocka_unit_test(test_ring_impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
