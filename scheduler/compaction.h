/* compaction: what still lives in thin segments moves together, so that their files are free again.
 *
 *   IDLE -> SCANNING (the index, in slices: who lives in the victims) -> OPENING (a segment of its
 * own)
 *        -> COPYING <-> RESTING (a thread copies a piece and syncs it; the moves are applied and go
 * into the batch; then the disk belongs to others nine times as long as the piece took)
 *        -> SETTLING (until all moves are committed: its segment is sealed, the victims are let go)
 * -> IDLE
 *
 * An entry moves only while it waits in its queue, at the place where it was found: one that is
 * claimed, leaving or not committed yet stays where it is until a later pass. The index has the new
 * place at once and everything later is built from it; its row follows in the settle lane, behind
 * every row of the entry that is on its way. The old record lives on until that row is durable. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/committer.h"
#include "scheduler/core/core.h"
#include "scheduler/segments.h"

struct compaction;

struct compaction_world {
	struct loop *loop;
	struct core *core;
	struct committer *committer;
	struct segments *segments;
	int dir; /* of segments/ */
	const unsigned char *instance;
	uint64_t after_us; /* so long a segment is thin before its turn comes */
};

struct compaction *compaction_new(const struct compaction_world *w);
/* Waits for the piece that is being copied; its moves are not made. */
void compaction_free(struct compaction **c);
/* Several times a second. */
void compaction_tick(struct compaction *c);

struct compaction_counts {
	uint64_t segments; /* emptied */
	uint64_t records, bytes;
};
void compaction_counts(const struct compaction *c, struct compaction_counts *out);
