/* claims: the claim table of one worker, a mapped file in the spool that outlives both processes.
 *
 * File `claims/worker-NN`: a 4096-byte header {magic, version, slots, slot bytes, instance}, then slots.
 * The scheduler writes a slot's grant and frees it; the worker writes everything else. A CRC32C covers
 * the grant; a second one covers the results. The lease stands at both ends.
 *
 *   FREE -> GRANTED -> BEGUN -> DOT_SENT -> ANSWERED -> FREE
 *              |          |         \ connection lost: UNKNOWN outcome, stays DOT_SENT with results
 *              |          \-> ANSWERED (ended before the dot)
 *              |          \-> RETURNED (MAIL has not left after all)
 *              \-> RETURNED (not begun) -> FREE
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/str.h"

#define CLAIM_SLOT_BYTES   16384
#define CLAIM_RESULT_BYTES (CLAIM_SLOT_BYTES - 384)
#define CLAIM_BITMAP_BYTES ((ENTRY_RCPT_MAX + 7) / 8)
#define CLAIM_SLOTS        4096 /* claims of one worker at a time; the file is sparse */

enum claim_state {
	CLAIM_FREE,
	CLAIM_GRANTED,  /* written by the scheduler */
	CLAIM_BEGUN,    /* MAIL may have left */
	CLAIM_DOT_SENT, /* the final dot may have left */
	CLAIM_ANSWERED, /* results are complete */
	CLAIM_RETURNED, /* handed back, nothing attempted */
};

struct claim_grant {
	uint64_t lease;       /* unique for the life of the spool */
	struct entry_key key;
	uint32_t queue;
	uint32_t attempt;     /* counts from 1 */
	uint32_t connection;
	uint32_t source_ip;
	uint32_t generation;  /* of the worker */
	uint16_t n_rcpts;     /* recipients of this claim */
	bool ask;             /* they are charged one by one: claim_stamp() */
	uint64_t granted_boot_us; /* the grant stamp */
	unsigned char rcpts[CLAIM_BITMAP_BYTES]; /* which of the entry's they are */
};

struct claim_table;

/* Opens or creates the table of worker `slot`; maps it. -E_FORMAT when it is not ours. */
int claim_table_open(struct claim_table **out, int claims_fd, unsigned slot, const unsigned char instance[16]);
/* Looks at its header, writes nothing: 0, -E_MISSING, or as claim_table_open() says. */
int claim_table_check(int claims_fd, unsigned slot, const unsigned char instance[16]);
void claim_table_close(struct claim_table **t);

/* Scheduler. Grant takes a free slot: its index, or -E_FULL. */
int claim_grant(struct claim_table *t, const struct claim_grant *g);
void claim_free(struct claim_table *t, unsigned slot);

/* Scheduler: takes the disk room of the first slots, so that work goes on when the disk is full later. */
int claim_reserve(struct claim_table *t);
/* Slots 0 .. n-1 were ever used: what a start has to read. */
unsigned claim_slots_used(struct claim_table *t);

/* Both. What a slot says: 0; -E_CRC when state, grant or lease ends do not agree: treat as UNKNOWN
 * outcome; the grant as far as it can be read stands in out->grant also then. */
struct claim_view {
	enum claim_state state;
	struct claim_grant grant;
	bool results_ok;      /* state says ANSWERED and the results' CRC holds */
	struct slice results; /* as given to claim_answer(); a stable copy is the caller's to make */
};
int claim_read(struct claim_table *t, unsigned slot, struct claim_view *out);

/* The recipients whose RCPTs may have left, in order; how many. Those that an answer has overwritten are missing. */
struct claim_stamped {
	uint64_t stamp_boot_us;
	uint16_t index;
};
unsigned claim_stamps(struct claim_table *t, unsigned slot, uint64_t lease, struct claim_stamped *out,
		      unsigned most);

/* Worker; each refuses (-E_DENIED) a lease that is not the slot's and a move that is not in the
 * drawing, and tells a slot that is damaged (-E_CRC). */
int claim_begin(struct claim_table *t, unsigned slot, uint64_t lease);
/* An RCPT is about to leave: its recipient (index within the entry) and its stamp, the `k`th of this claim. */
int claim_stamp(struct claim_table *t, unsigned slot, uint64_t lease, unsigned k, uint16_t index,
		uint64_t stamp_boot_us);
int claim_dot(struct claim_table *t, unsigned slot, uint64_t lease);
/* `results`: at most CLAIM_RESULT_BYTES (else -E_TOO_BIG, nothing done), encoded as common/ipc/message.h says for RESULT. */
int claim_answer(struct claim_table *t, unsigned slot, uint64_t lease, struct slice results);
int claim_return(struct claim_table *t, unsigned slot, uint64_t lease);
