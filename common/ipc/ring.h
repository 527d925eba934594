/* ring: one direction of a channel: messages and their payloads through memory that the other side
 * may scribble over at will.
 *
 * Concurrency Kit's SPSC ring moves the entries. Its bookkeeping (indices, mask) stays private to
 * each side; of the shared memory only the other side's counters are read, and believed only as far
 * as they are possible. Entry and payload are copied out first, then checked. */
#pragma once

#include <ck_ring.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"
#include "common/ipc/message.h"

/* The shared counters of one direction; each line is written by one side, but for the two flags,
 * which their owner raises and the other side takes down. */
struct ring_head {
	alignas(64) _Atomic uint32_t produced; /* entries */
	_Atomic uint32_t wants_room; /* the producer was refused: wake it when there is room */
	_Atomic uint64_t produced_bytes;
	alignas(64) _Atomic uint32_t consumed;
	_Atomic uint32_t sleeping; /* the consumer waits for its eventfd */
	_Atomic uint64_t consumed_bytes;
};

/* Where a ring lies; `n_entries` and `n_bytes` are powers of two and not read from there. */
struct ring_place {
	struct ring_head *head;
	struct message *entries; /* n_entries of them; one less is ever in use */
	unsigned char *bytes;
	uint32_t n_entries, n_bytes;
};
/* Fresh: empty, and the consumer asleep. */
void ring_place_init(const struct ring_place *at);

/* Producing end. */
struct ring_tx {
	struct ring_place at;
	struct ck_ring ring; /* private copy: p_tail is ours, c_head the last believable */
	uint64_t bytes;      /* produced */
};
void ring_tx_init(struct ring_tx *tx, const struct ring_place *at);
/* 0, -E_FULL, or -E_BAD: the counters of the other side cannot be. m->payload_bytes is set in the
 * ring. */
int ring_put(struct ring_tx *tx, const struct message *m, struct slice payload);
/* 1, 0, or -E_BAD as above. */
int ring_has_room(struct ring_tx *tx, size_t payload_bytes);
/* Asks to be woken when something was consumed; true when there is room after all. */
bool ring_wait_room(struct ring_tx *tx, size_t payload_bytes);
/* After ring_put: the consumer sleeps and must be woken now (asked once for each sleep). */
bool ring_tx_wakes(struct ring_tx *tx);

/* Consuming end. */
struct ring_rx {
	struct ring_place at;
	struct ck_ring ring; /* private copy: c_head is ours */
	uint64_t bytes;      /* consumed */
	struct buf payload;  /* of the last message, ours */
};
void ring_rx_init(struct ring_rx *rx, const struct ring_place *at);
void ring_rx_clear(struct ring_rx *rx);
/* 1 with a checked copy, the payload in rx->payload; 0 none; -E_BAD. `from`, `to` as
 * message_check(). */
int ring_get(struct ring_rx *rx, struct message *m, char from, char to);
/* Before waiting: raises the flag; false when something has come meanwhile (the flag is down
 * again). */
bool ring_sleep(struct ring_rx *rx);
/* After ring_get: the producer waits for room and must be woken now. */
bool ring_rx_wakes(struct ring_rx *rx);
