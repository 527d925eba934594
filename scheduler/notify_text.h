/* notify_text: the message that tells operators what happened. Pure. */
#pragma once

#include <stddef.h>

#include "scheduler/notify_event.h"

struct notify_from {
	const char *host_name;
	uint64_t wall_us; /* of the message */
};

/* Appends header and body in wire form: ASCII, CRLF, no line of more than 998 bytes or with a dot in
 * front, whatever the texts of the events hold. One event is told in full, several in a digest. All
 * have the same addresses, those of the first. */
void notify_text(struct buf *out, const struct notify_from *from, const struct notify_event *events,
		 size_t n);
/* The same of as many of them, the first ones, as go in one message: at least one. How many. */
#define NOTIFY_TEXT_MAX (1u << 20)
size_t notify_text_most(struct buf *out, const struct notify_from *from,
			const struct notify_event *events, size_t n);
