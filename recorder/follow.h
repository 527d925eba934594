/* follow: from the event log into the accounting files, so that each record is there once whenever
 * this process dies: rows are written at will, then files are synced, then the cursor; a start cuts
 * what lies behind the cursor off and reads those events again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/conf/conf.h"
#include "common/event_log/event_log.h"

struct follow;

/* All descriptors and `files` borrowed. 0 or -E_* (a cursor that cannot be read is an error of the
 * disk; one that is damaged is told in the log, and the log of events is recorded from its start).
 */
int follow_open(struct follow **out, int events_fd, int cursors_fd,
		const unsigned char instance[16], const struct conf_acct_file *files,
		size_t n_files);
void follow_close(struct follow **f); /* no checkpoint: as a crash */

/* Records events before `limit`, at most about `most` of them. 1 there are more, 0 no more now, or
 * -E_*: nothing was lost, try again later. Damage is passed over, and told in the log. `wall_us`: now. */
int follow_run(struct follow *f, struct event_position limit, unsigned most, uint64_t wall_us);
/* Makes what was recorded durable: files, then the cursor. 0 or -E_*: as above. */
int follow_checkpoint(struct follow *f, uint64_t wall_us);
/* True when there is something that a checkpoint would make durable. */
bool follow_is_dirty(const struct follow *f);
/* A sync failed: nothing is recorded any more. The next life takes off what is behind the cursor and writes it
 * anew. */
bool follow_is_spoilt(const struct follow *f);
/* Events before it are durably recorded. */
struct event_position follow_position(const struct follow *f);
/* Next checkpoint begins new files: `sluice rotate acct`. */
void follow_rotate(struct follow *f);

struct follow_counts {
	uint64_t events, records; /* read, and rows that they became (of types that a file wants) at most */
	uint64_t gaps;            /* stretches of the log that were damaged: their events are not recorded */
	uint64_t lag;             /* bytes of the log up to `limit` that were not read, about */
};
struct follow_counts follow_counts(const struct follow *f, struct event_position limit);
