/* new_message: the payload of NEW: what the scheduler must know of a message without reading it.
 * Encoded: vmta, sender domain, job (length-prefixed), then per entry domain, first, count. With
 * NEW_WITH_RECEPTION the strings of the reception event follow, encoded as an event (event.h). Last the keys of
 * what a notification tells. */
#pragma once

#include "common/base/buf.h"
#include "common/queue/record.h"

struct new_message {
	struct slice vmta, sender_domain, job;
	uint64_t received_wall_us;
	uint16_t n_entries;
	const struct record_entry *entries; /* decode: into *scratch */
	struct slice reception; /* an encoded EVENT_RECEPTION, empty when no acct-file wants `r` */
	struct slice owed;      /* of a notification of ours: its keys (notification.h); else empty */
};

void new_message_encode(struct buf *out, const struct new_message *m);
/* Slices point into `s`, entries into *scratch, which is reset first and the caller's to clear. Entries
 * are checked: at least one, without gaps from recipient 0 on, none empty. 0 or -E_BAD. */
int new_message_decode(struct new_message *out, struct slice s, struct buf *scratch);
