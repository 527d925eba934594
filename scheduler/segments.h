/* segments: the life cycle of segment files: FREE -> OPEN(owner) -> SEALED -> FREE.
 *
 * A segment is handed to a receiver (or to compaction) only after its new epoch is synced in the
 * file and committed in its row. It is free again when it is sealed, no entry lives in it, the
 * commit that forgot the last one is durable and nobody reads it. Slow work runs in threads.
 *
 * Free ones are kept for three seconds of the traffic of late and made ahead, at a pace. When there
 * is none a request gets one whose blocks are only reserved: nobody waits for zeros. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/event/loop.h"
#include "common/queue/segment.h"
#include "common/queue/store.h"
#include "scheduler/committer.h"
#include "scheduler/segment_table.h"

struct segments;

/* A segment is open for `owner` and committed as such; number 0 and rc < 0 when none could be had.
 */
typedef void segments_opened(void *arg, unsigned owner, uint32_t generation, uint64_t for_bytes,
			     uint32_t number, uint64_t epoch, uint64_t bytes, int rc);

struct segments *segments_new(struct loop *loop, struct committer *committer, int dir,
			      const unsigned char instance[16], segments_opened *fn, void *arg);
void segments_free(struct segments **s);

/* Before all that: receivers 0..n-1 may live on from before. What is not free at the start is not
 * used again until each of them has said all that it has (segments_held_end) or is known to be gone
 * (segments_seal_all): it may still write there, or tell of what was committed there. */
void segments_expect(struct segments *s, unsigned receivers);
/* Start: rows as loaded, then files without a row (removed), then the pool. 0, or -E_FULL for want of memory or
 * descriptors: this life cannot begin. */
void segments_restore(struct segments *s, uint32_t number, const struct store_segment *seg);
/* An entry was loaded that lives in it: also when the segment's own row was lost. */
void segments_restore_entry(struct segments *s, uint32_t number, uint64_t epoch, uint32_t kbytes);
int segments_start(struct segments *s);
/* The claims of our earlier life are settled: nobody reads any more what compaction had open then.
 */
void segments_release_old(struct segments *s);

/* A receiver wants room for a record of `bytes` (0: an ordinary one). Answered by segments_opened.
 * False: it has far more open, or asked for, than one can use. */
bool segments_request(struct segments *s, unsigned receiver, uint32_t generation, uint64_t bytes);
/* Compaction wants one, owned by SEGMENTS_COMPACTOR; none is made for it while the disk is tight.
 */
void segments_request_own(struct segments *s, segments_opened *fn, void *arg);
/* The disk is nearly full: no more files, and free ones go; requests get what is free or -E_FULL.
 */
void segments_tight(struct segments *s, bool tight);
/* Several times a second: keeps the pool. */
void segments_tick(struct segments *s);
/* A NEW at offset..offset+bytes of a segment: 1 take it, 0 it is committed already (only
 * acknowledge), -E_DENIED: not this receiver's, not open, or another epoch. */
int segments_check(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver,
		   uint64_t offset, uint64_t bytes);
/* Taken: counts in the batch that fills. */
void segments_committed_to(struct segments *s, uint32_t number, uint64_t end);
/* `failed`: a write or sync of it did; its file goes when it is empty. Told again by a receiver that
 * outlived a scheduler, also of one that is sealed already. */
void segments_seal(struct segments *s, uint32_t number, uint64_t epoch, unsigned owner,
		   bool failed);
/* The receiver is gone: what it had open is sealed at the committed offset. */
void segments_seal_all(struct segments *s, unsigned receiver);
/* A receiver that outlived a scheduler says which ones it has: begin, each of them, end. The others
 * of it, whose SEG_OPEN was lost with that scheduler, are sealed. False: we do not have it as open
 * of this receiver, its row was lost; the receiver must not go on writing there. */
void segments_held_begin(struct segments *s, unsigned receiver);
bool segments_held(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver);
void segments_held_end(struct segments *s, unsigned receiver);

/* One more, one less entry lives in it, with a record of `kbytes`. The last call after the entry's
 * removal is durable. */
void segments_live(struct segments *s, uint32_t number, int delta, uint32_t kbytes);
/* Somebody reads it (a reader thread): not recycled meanwhile. */
void segments_pin(struct segments *s, uint32_t number, int delta);
/* Up to `most` sealed segments that were thin (live records fill less than a quarter) for `age_us`,
 * the longest first. */
struct segments_thin {
	uint32_t number;
	uint32_t live;
	uint64_t epoch;
	uint64_t live_kbytes;
};
unsigned segments_thin(const struct segments *s, uint64_t age_us, struct segments_thin *out,
		       unsigned most);
/* Compaction could not empty it: its turn comes again after all others; `never`: not in this life.
 */
void segments_thin_later(struct segments *s, uint32_t number, bool never);
uint64_t segments_ordinary_bytes(const struct segments *s); /* of one file that is not for a large message */
uint32_t segments_entries(const struct segments *s, uint32_t number); /* that live in it */
/* Writes the rows that changed into the batch; once per turn, before committer_kick(). */
void segments_flush(struct segments *s);

struct segments_counts {
	uint64_t files, unused, sealed, thin;
};
void segments_counts(const struct segments *s, struct segments_counts *out);
