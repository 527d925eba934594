/* notification: the payload of NOTIFY: a message that the scheduler has to send, for a receiver to
 * take in as it takes in any other. Encoded: each of the three with its length before it. */
#pragma once

#include "common/base/buf.h"
#include "common/base/str.h"

struct notification {
	struct slice to;   /* mail addresses, a line feed between two */
	struct slice owed; /* u64 keys of what it tells, little endian: they come back in NEW */
	struct slice text; /* header and body in wire form (CRLF, no line begins with a dot) */
};

void notification_encode(struct buf *out, const struct notification *n);
/* Slices point into `s`. 0 or -E_BAD: also when one is empty, or `owed` not whole. */
int notification_decode(struct notification *out, struct slice s);
