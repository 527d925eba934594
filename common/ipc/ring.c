#include "common/ipc/ring.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"

// cppcheck-suppress unknownMacro
CK_RING_PROTOTYPE(message, message)

_Static_assert(sizeof(struct ring_head) == 128, "a line for each side");

void
ring_place_init(const struct ring_place *at)
{
	memset(at->head, 0, sizeof *at->head);
	atomic_store(&at->head->sleeping, 1);
}

static void
check_place(const struct ring_place *at)
{
	CHECK(at->n_entries >= 2 && (at->n_entries & (at->n_entries - 1)) == 0);
	CHECK(at->n_bytes >= 2 && (at->n_bytes & (at->n_bytes - 1)) == 0);
}

/* Producer --------------------------------------------------------------------------------------
 */

void
ring_tx_init(struct ring_tx *tx, const struct ring_place *at)
{
	check_place(at);
	tx->at = *at;
	tx->bytes = 0;
	ck_ring_init(&tx->ring, at->n_entries);
}

int
ring_has_room(struct ring_tx *tx, size_t payload_bytes)
{
	const struct ring_head *h = tx->at.head;
	uint32_t consumed = atomic_load_explicit(&h->consumed, memory_order_acquire);
	uint64_t bytes = atomic_load_explicit(&h->consumed_bytes, memory_order_acquire);
	uint32_t used = tx->ring.p_tail - consumed;
	uint64_t used_bytes = tx->bytes - bytes;

	if (used > tx->ring.mask || used_bytes > tx->at.n_bytes)
		return -E_BAD;
	tx->ring.c_head = consumed;
	return used < tx->ring.mask && payload_bytes <= tx->at.n_bytes - used_bytes;
}

static void
copy_in(struct ring_tx *tx, struct slice payload)
{
	uint32_t at = (uint32_t)(tx->bytes & (tx->at.n_bytes - 1));
	size_t first = tx->at.n_bytes - at;

	if (payload.n == 0)
		return;
	if (first > payload.n)
		first = payload.n;
	memcpy(tx->at.bytes + at, payload.p, first);
	memcpy(tx->at.bytes, payload.p + first, payload.n - first);
}

int
ring_put(struct ring_tx *tx, const struct message *m, struct slice payload)
{
	struct message entry = *m;
	int rc = ring_has_room(tx, payload.n);

	if (rc <= 0)
		return rc < 0 ? rc : -E_FULL;
	entry.payload_bytes = (uint32_t)payload.n;
	entry.zero = 0;
	copy_in(tx, payload);
	CHECK(ck_ring_enqueue_spsc_message(&tx->ring, tx->at.entries, &entry));
	tx->bytes += payload.n;
	/* The entry is published last: who sees it sees its payload and the count of bytes. */
	atomic_store_explicit(&tx->at.head->produced_bytes, tx->bytes, memory_order_release);
	atomic_store_explicit(&tx->at.head->produced, tx->ring.p_tail, memory_order_release);
	return 0;
}

bool
ring_wait_room(struct ring_tx *tx, size_t payload_bytes)
{
	atomic_store_explicit(&tx->at.head->wants_room, 1, memory_order_relaxed);
	/* Flag before the second look; the consumer counts before it looks at the flag. */
	atomic_thread_fence(memory_order_seq_cst);
	if (ring_has_room(tx, payload_bytes) <= 0)
		return false;
	atomic_store_explicit(&tx->at.head->wants_room, 0, memory_order_relaxed);
	return true;
}

static bool
take_flag(_Atomic uint32_t *flag)
{
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load_explicit(flag, memory_order_relaxed) != 0 &&
	       atomic_exchange(flag, 0) != 0;
}

bool
ring_tx_wakes(struct ring_tx *tx)
{
	return take_flag(&tx->at.head->sleeping);
}

/* Consumer --------------------------------------------------------------------------------------
 */

void
ring_rx_init(struct ring_rx *rx, const struct ring_place *at)
{
	check_place(at);
	rx->at = *at;
	rx->bytes = 0;
	ck_ring_init(&rx->ring, at->n_entries);
	buf_init(&rx->payload);
}

void
ring_rx_clear(struct ring_rx *rx)
{
	buf_clear(&rx->payload);
}

static void
copy_out(struct ring_rx *rx, size_t n)
{
	uint32_t at = (uint32_t)(rx->bytes & (rx->at.n_bytes - 1));
	size_t first = rx->at.n_bytes - at;

#ifdef PLANTED_BUGS
	first++; /* one byte too many where a payload wraps */
#endif
	if (first > n)
		first = n;
	buf_put(&rx->payload, rx->at.bytes + at, first);
	buf_put(&rx->payload, rx->at.bytes, n - first);
}

int
ring_get(struct ring_rx *rx, struct message *m, char from, char to)
{
	struct ring_head *h = rx->at.head;
	uint32_t produced = atomic_load_explicit(&h->produced, memory_order_acquire);
	uint64_t bytes = atomic_load_explicit(&h->produced_bytes, memory_order_acquire) - rx->bytes;

	if (produced - rx->ring.c_head > rx->ring.mask || bytes > rx->at.n_bytes)
		return -E_BAD;
	rx->ring.p_tail = produced;
	if (!ck_ring_dequeue_spsc_message(&rx->ring, rx->at.entries, m))
		return 0;
	if (message_check(m, from, to) != 0 || m->payload_bytes > bytes)
		return -E_BAD;
	buf_reset(&rx->payload);
	copy_out(rx, m->payload_bytes);
	rx->bytes += m->payload_bytes;
	atomic_store_explicit(&h->consumed_bytes, rx->bytes, memory_order_release);
	atomic_store_explicit(&h->consumed, rx->ring.c_head, memory_order_release);
	return 1;
}

bool
ring_sleep(struct ring_rx *rx)
{
	struct ring_head *h = rx->at.head;

	atomic_store_explicit(&h->sleeping, 1, memory_order_relaxed);
	/* Flag before the second look; the producer publishes before it looks at the flag. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&h->produced, memory_order_acquire) == rx->ring.c_head)
		return true;
	atomic_store_explicit(&h->sleeping, 0, memory_order_relaxed);
	return false;
}

bool
ring_rx_wakes(struct ring_rx *rx)
{
	return take_flag(&rx->at.head->wants_room);
}
