/* event: one line of the event log and its fields; encoder and decoder come from the tables.
 *
 * An event holds the decision taken (due, attempts, done), so a replay applies decisions and never
 * rules, and all strings that an accounting record needs, so the recorder reads nothing else.
 * Idempotent by (kind, entry, attempt, recipient), otherwise by lsn. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/ids.h"
#include "common/base/str.h"

// clang-format off
#define EVENT_KINDS(X) \
	X(RECEPTION,  "a message was accepted: all its recipients") \
	X(RESULT,     "an attempt of one entry ended: per recipient") \
	X(CONNECT,    "a connection attempt ended without a transaction") \
	X(OUTCOME,    "an outcome without an attempt: expired, deleted, bounced by rule") \
	X(MODE,       "a queue's state changed") \
	X(OPERATOR,   "an operator's act") \
	X(ATTEMPT,    "a connection attempt that did not fail, as far as known: its grant stamp")

/* name, C type suffix (U: u64, S: slice) */
#define EVENT_FIELDS(X) \
	X(U, wall_us)          /* time logged */ \
	X(U, stamp_boot_us)    /* grant stamp, CLOCK_BOOTTIME */ \
	X(U, message) \
	X(U, ordinal) \
	X(U, attempt) \
	X(U, lease) \
	X(U, first_rcpt)       /* index of recipient 0 of the entry in the record */ \
	X(U, entry_rcpts)      /* recipients of the entry */ \
	X(U, received_wall_us) \
	X(U, due_s)            /* decision: 0 when the entry is finished */ \
	X(U, attempts)         /* decision: the row's count after it */ \
	X(U, row_flags)        /* decision: store_row_flags */ \
	X(U, queue_number) \
	X(U, retry_level)      /* decision for the queue */ \
	X(U, retry_at_s) \
	X(U, paused) \
	X(U, segment) X(U, epoch) X(U, offset) \
	X(U, body_bytes) \
	X(U, maybe_dup) \
	X(U, finished)         /* decision: no recipient of the entry is left */ \
	X(S, done)             /* decision: bitmap of finished recipients after it */ \
	X(S, queue) X(S, vmta) X(S, pool) X(S, job) X(S, envid) \
	X(S, sender) \
	X(S, src_mta) X(S, src_ip) X(S, dst_ip) X(S, user) \
	X(S, dlv_source_ip) X(S, dlv_destination_ip) X(S, dlv_esmtp) X(S, dsn_mta) \
	X(S, reason)           /* of CONNECT, MODE, OUTCOME, OPERATOR: text */ \
	X(S, provider)         /* of RESULT, CONNECT, ATTEMPT: whose limits were charged */ \
	X(U, volume_bytes)     /* of RESULT: charged and kept: the body's, once, if it may have been delivered to anybody */ \
	X(U, mode)             /* decision, of MODE: 1 normal, 2 back-off */ \
	X(S, rule)             /* of MODE: FILE:LINE */ \
	X(U, mode_number)      /* decision, of MODE: the number of its row */ \
	X(S, mode_row)         /* decision, of MODE: the row after it */ \
	X(U, owed_number)      /* of MODE: the number of the row that owes somebody word of it; 0: none does */ \
	X(S, owed_row)         /* that row */

#define EVENT_ACTIONS(X) \
	X(RECEIVED, "received") \
	X(DELIVERED, "relayed") \
	X(BOUNCED, "failed") \
	X(DEFERRED, "delayed") \
	X(EXPIRED, "failed") \
	X(DELETED, "failed") \
	X(UNATTEMPTED, "none")
// clang-format on

enum event_kind {
	EVENT_NONE,
#define X(name, help) EVENT_##name,
	EVENT_KINDS(X)
#undef X
	EVENT_KIND_COUNT
};

enum event_action {
#define X(name, dsn) EVENT_##name,
	EVENT_ACTIONS(X)
#undef X
	EVENT_ACTION_COUNT
};

/* Of a recipient, in place of a stamp: no RCPT was sent for it, nothing was charged. */
#define EVENT_STAMP_NONE 1

/* One recipient of an event. */
struct event_rcpt {
	uint16_t index;       /* within the entry; of RECEPTION within the message */
	uint8_t action;       /* enum event_action */
	uint8_t status[3];    /* enhanced status code */
	struct slice address;
	struct slice diag;    /* "smtp;550 5.1.1 no such user", at most 512 bytes */
	struct slice queue;   /* of RECEPTION: the entry's queue; else empty */
	uint64_t stamp_boot_us; /* its grant, when it was charged by itself; 0: the event's; EVENT_STAMP_NONE */
	struct slice category;  /* of RESULT: the class that a rule gives to the reply; empty: none */
	struct slice rule;      /* of RESULT: "FILE:LINE" of the rule that names the reply; empty: none */
};

struct event {
	enum event_kind kind;
	uint64_t lsn; /* given by the log */
#define EVENT_U(name) uint64_t name;
#define EVENT_S(name) struct slice name;
#define X(type, name) EVENT_##type(name)
	EVENT_FIELDS(X)
#undef X
#undef EVENT_U
#undef EVENT_S
	const struct event_rcpt *rcpts;
	size_t n_rcpts;
};

/* Appends kind, the fields that are not zero or empty, and the recipients. */
void event_encode(struct buf *out, const struct event *e);
/* Slices point into `s`; rcpts into *scratch, which the caller owns and frees (buf_clear).
 * 0 or -E_BAD. Unknown fields of a later version are skipped. */
int event_decode(struct event *out, struct slice s, struct buf *scratch);
