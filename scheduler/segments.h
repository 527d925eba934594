/* segments: the life cycle of segment files: FREE -> OPEN(receiver) -> SEALED -> FREE.
 *
 * A segment is handed to a receiver only after its new epoch is synced in the file and committed in its
 * row. It is free again when it is sealed, no entry lives in it, the commit that forgot the last one is
 * durable and nobody reads it. Slow work runs in a thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/event/loop.h"
#include "common/queue/segment.h"
#include "common/queue/store.h"
#include "scheduler/committer.h"

struct segments;

/* A segment is open for `receiver` and committed as such; number 0 and rc < 0 when none could be had. */
typedef void segments_opened(void *arg, unsigned receiver, uint32_t generation, uint64_t for_bytes,
			     uint32_t number, uint64_t epoch, uint64_t bytes, int rc);

struct segments *segments_new(struct loop *loop, struct committer *committer, int dir,
			      const unsigned char instance[16], segments_opened *fn, void *arg);
void segments_free(struct segments **s);

/* Start: rows as loaded, then files without a row (removed), then the pool. */
void segments_restore(struct segments *s, uint32_t number, const struct store_segment *seg);
/* An entry was loaded that lives in it: also when the segment's own row was lost. */
void segments_restore_entry(struct segments *s, uint32_t number, uint64_t epoch);
void segments_start(struct segments *s);

/* A receiver wants room for a record of `bytes` (0: an ordinary one). Answered by segments_opened. False: it has
 * far more open, or asked for, than one can use. */
bool segments_request(struct segments *s, unsigned receiver, uint32_t generation, uint64_t bytes);
/* The disk is nearly full: no more files, and free ones go; requests get what is free or -E_FULL. */
void segments_tight(struct segments *s, bool tight);
/* A NEW at offset..offset+bytes of a segment: 1 take it, 0 it is committed already (only acknowledge),
 * -E_DENIED: not this receiver's, not open, or another epoch. */
int segments_check(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver, uint64_t offset, uint64_t bytes);
/* Taken: counts in the batch that fills. */
void segments_committed_to(struct segments *s, uint32_t number, uint64_t end);
void segments_seal(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver);
/* The receiver is gone: what it had open is sealed at the committed offset. */
void segments_seal_all(struct segments *s, unsigned receiver);

/* One more, one less entry lives in it. The last call after the entry's removal is durable. */
void segments_live(struct segments *s, uint32_t number, int delta);
/* Somebody reads it (a reader thread): not recycled meanwhile. */
void segments_pin(struct segments *s, uint32_t number, int delta);
/* Writes the rows that changed into the batch; once per turn, before committer_kick(). */
void segments_flush(struct segments *s);
void segments_counts(const struct segments *s, uint64_t *files, uint64_t *unused);
