/* notify: who is told by mail of back-off and of disabled source IPs (backoff-notify,
 * disabled-source-ip-notify), exactly once each.
 *
 *   the change happens -> owed -> sent to a receiver -> its NEW comes -> stored, and not owed
 *                          ^             |
 *                          +-------------+  it took too long, or the receiver is dead
 *
 * A row in the commit of the change owes it. The commit of the message that tells it takes the row
 * away; a message is taken only if all that it tells is still owed. So whoever dies, and whatever is
 * sent again, one message tells it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

struct scheduler;
struct backoff_row;
struct override;

/* Its mail is of notices alone: back-off never holds it, and nobody is told of it. */
bool notify_is_queue(struct slice queue_name);

/* At start, before the rows; each row as loaded, false: not understood; then all is known. */
void notify_open(struct scheduler *s);
bool notify_is_blob(struct slice blob);
bool notify_load(struct scheduler *s, uint32_t number, struct slice blob);
void notify_started(struct scheduler *s);
void notify_close(struct scheduler *s);

/* The row's mode has changed: owed in the batch that fills. The number of what owes it, and the bytes of
 * that row (borrowed for the turn); 0: nobody is to be told. */
uint32_t notify_mode(struct scheduler *s, const struct backoff_row *row, struct slice reason,
		     struct slice rule, struct slice *blob);
/* A source IP is disabled for a queue or a pattern of such, or enabled again. */
struct notify_why {
	struct slice reason, rule, pattern; /* rule: FILE:LINE; both empty: it was no rule */
};
void notify_source(struct scheduler *s, const struct override *row, bool disabled,
		   const struct notify_why *why);

/* A receiver stored a message that tells these keys (u64 each). True: they are owed no more, in the
 * batch that fills. False: some of it was told before, the message is not to be sent. */
bool notify_stored(struct scheduler *s, struct slice keys);
/* The receiver is dead, and what it was sent is lost. */
void notify_receiver_gone(struct scheduler *s, unsigned slot);
