/* committer: the one writer: event log first, then the store, in the loop's order.
 *
 * The loop fills a batch; when the writer is free it takes the batch whole (no timer: the next group
 * forms while the last one commits). A batch has two lanes. What stands by itself (new rows, segments,
 * names) is committed while the batch's events are being synced beside it, by a second thread: an
 * acknowledgement does not wait for the event log. What an event must precede (the row of a settled entry)
 * goes into the next transaction, when that event is on disk:
 *
 *     batch k:    events k -> fdatasync  |  transaction: lane NOW of k, lane SETTLE of k-1
 *     batch k+1:  events k+1 ...         |  transaction: lane NOW of k+1, lane SETTLE of k
 *
 * Each transaction names the event position that its rows already contain: the end of events k-1.
 * A third thread keeps files of the event log ready. Actions run in the loop: those of NOW when both halves of their batch are on disk, those of SETTLE when
 * their transaction is. Any error ends the process without an answer: what a failed commit did is
 * unknown, so the next life re-reads it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/ids.h"
#include "common/base/str.h"
#include "common/event/loop.h"
#include "common/event_log/event_log.h"
#include "common/queue/store.h"

struct committer;

enum commit_lane {
	COMMIT_NOW,    /* with this batch; its actions also wait for this batch's events */
	COMMIT_SETTLE, /* after this batch's events */
};

/* Runs in the loop when its lane of the batch is on disk. */
typedef void commit_action(void *ctx, uint64_t a, uint64_t b, uint64_t c);

struct committer_hooks {
	/* After the actions of a batch; what it adds is in the next one, which is handed over right behind it. */
	void (*on_committed)(void *arg);
	void (*on_failure)(void *arg, int rc);
};

/* `meta` as loaded; the committer keeps its event position and lsn up to date. Takes log and store. */
struct committer *committer_new(struct loop *loop, struct store *store, struct event_writer *log,
				const struct store_meta *meta, const struct committer_hooks *hooks,
				void *arg);
void committer_free(struct committer **c);

/* Adding to the batch that fills. */
void committer_event(struct committer *c, const struct event *e);
/* The same for the reception of a message whose rows are in lane NOW: should the event not reach the disk, the
 * next life knows that it is missing. */
void committer_reception(struct committer *c, const struct event *e);
/* Messages whose reception an earlier life did not log and this one could not yet: u64 ids. Each transaction names
 * them too, until others are given. */
void committer_owe(struct committer *c, struct slice ids);
void committer_put_row(struct committer *c, enum commit_lane lane, struct entry_key key, const struct store_row *row);
void committer_del_row(struct committer *c, enum commit_lane lane, struct entry_key key);
void committer_put_reply(struct committer *c, enum commit_lane lane, struct entry_key key, struct slice reply);
void committer_put_name(struct committer *c, uint32_t number, struct slice name);
void committer_del_name(struct committer *c, uint32_t number);
void committer_put_queue(struct committer *c, uint32_t queue, const struct store_queue *q);
void committer_put_segment(struct committer *c, uint32_t number, const struct store_segment *s);
void committer_put_act(struct committer *c, uint32_t number, const struct store_act *act);
void committer_del_act(struct committer *c, uint32_t number);
/* What store_put_redirect() says. */
void committer_put_redirect(struct committer *c, uint32_t from, uint32_t to);
void committer_del_redirect(struct committer *c, uint32_t from);
void committer_put_backoff(struct committer *c, uint32_t number, struct slice blob);
void committer_del_backoff(struct committer *c, uint32_t number);
/* High-water marks: to change (then written with the next batch), and to look at. */
struct store_meta *committer_meta(struct committer *c);
const struct store_meta *committer_meta_view(const struct committer *c);
void committer_then(struct committer *c, enum commit_lane lane, commit_action *fn, void *ctx, uint64_t a, uint64_t b, uint64_t d);

/* Hands the batch over if the thread is free; once per turn. */
void committer_kick(struct committer *c);
/* True when the filling batch has reached its bound: take nothing new from the rings. */
bool committer_is_full(const struct committer *c);
/* An event of so many encoded bytes fits into the log's files, which are small on a small disk. */
bool committer_takes_event(const struct committer *c, size_t encoded_bytes);
uint64_t committer_event_file_bytes(const struct committer *c);
bool committer_is_idle(const struct committer *c);
/* Where readers of the event log may go. */
struct event_position committer_synced(const struct committer *c);
/* Events before it are contained in the store's rows: a replay begins there. */
struct event_position committer_covered(const struct committer *c);
/* Event files before `low` are no longer needed by readers; recycled in the background. */
void committer_recycle_events(struct committer *c, struct event_position low);

struct committer_counts {
	uint64_t commits, commit_us, events;
};
void committer_counts(const struct committer *c, struct committer_counts *out);
