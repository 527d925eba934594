/* verdict: what an outcome means: whom it concerns, and what becomes of them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

/* Whom the outcome speaks about; a wider scope stands behind a narrower one. */
// clang-format off
#define VERDICT_SCOPE_TABLE(X)                                                                     \
	X(RECIPIENT,  "recipient")  /* this recipient only */                                      \
	X(MESSAGE,    "message")    /* this message, all its recipients here */                    \
	X(CONNECTION, "connection") /* this connection; another one may do better */               \
	X(HOST,       "host")       /* this MX address; the next one may do better */              \
	X(QUEUE,      "queue")      /* nothing of this queue may go */

/* UNKNOWN: the dot was sent and no answer understood: retried, and flagged as a possible double. */
#define VERDICT_ACTION_TABLE(X)                                                                    \
	X(UNATTEMPTED, "unattempted") /* nothing was said to the peer: back to the queue */        \
	X(DELIVERED,   "delivered")                                                                \
	X(PERMANENT,   "permanent")                                                                \
	X(TRANSIENT,   "transient")                                                                \
	X(UNKNOWN,     "unknown")                                                                  \
	X(QUARANTINED, "quarantined") /* the record is damaged: never sent, an operator must look */

/* Where it came from. */
#define VERDICT_REASON_TABLE(X)                                                                    \
	X(NONE,        "")                                                                         \
	X(REPLY,       "reply")                                                                    \
	X(REFUSED,     "connection refused")                                                       \
	X(UNREACHABLE, "unreachable")                                                              \
	X(TIMEOUT,     "timed out")                                                                \
	X(LOST,        "connection lost")                                                          \
	X(PROTOCOL,    "protocol error")                                                           \
	X(TOO_LONG,    "reply too long")                                                           \
	X(LOOP,        "mail loops back to ourselves")                                             \
	X(DENIED,      "destination address not permitted")                                        \
	X(SOURCE,      "source address cannot be used")                                            \
	X(RESOURCES,   "out of descriptors or connection slots")                                   \
	X(NO_FEATURE,  "peer lacks an extension that the message needs")                           \
	X(TOO_BIG,     "message larger than the peer takes")                                       \
	X(BAD_ADDRESS, "address that no command can carry")                                        \
	X(STALE,       "overtaken before it began")                                                \
	X(DAMAGED,     "record damaged")                                                           \
	X(INTERRUPTED, "interrupted for mail of a higher priority")

/* The stage of the dialogue that it ended in. */
#define VERDICT_PHASE_TABLE(X)                                                                     \
	X(NONE,     "none")                                                                        \
	X(CONNECT,  "connect")                                                                     \
	X(GREETING, "greeting")                                                                    \
	X(EHLO,     "ehlo")                                                                        \
	X(HELO,     "helo")                                                                        \
	X(MAIL,     "mail")                                                                        \
	X(RCPT,     "rcpt")                                                                        \
	X(DATA,     "data")                                                                        \
	X(BODY,     "body")                                                                        \
	X(DOT,      "dot")                                                                         \
	X(RSET,     "rset")                                                                        \
	X(QUIT,     "quit")
// clang-format on

#define X(name, text) VERDICT_##name,
enum verdict_scope { VERDICT_SCOPE_TABLE(X) VERDICT_SCOPES };
enum verdict_action { VERDICT_ACTION_TABLE(X) VERDICT_ACTIONS };
#undef X
#define X(name, text) VERDICT_BY_##name,
enum verdict_reason { VERDICT_REASON_TABLE(X) VERDICT_REASONS };
#undef X
#define X(name, text) VERDICT_AT_##name,
enum verdict_phase { VERDICT_PHASE_TABLE(X) VERDICT_PHASES };
#undef X

/* An enhanced status code, class.subject.detail (RFC 3463); class 0 is none. */
struct verdict_status {
	uint8_t class;
	uint16_t subject;
	uint16_t detail;
};

#define VERDICT_STATUS(c, s, d) ((struct verdict_status){ (c), (s), (d) })

/* Bytes of the code at the beginning of `in` (digits only: 2, 4 or 5, then twice 1 to 3 digits,
 * followed by a blank or the end), stored in *out; 0 when there is none. */
size_t verdict_status_parse(struct slice in, struct verdict_status *out);

#define VERDICT_STATUS_BYTES 16
/* `5.7.1`; an empty text for class 0. Returns dst. */
const char *verdict_status_text(char dst[VERDICT_STATUS_BYTES], struct verdict_status s);
bool verdict_status_eq(struct verdict_status a, struct verdict_status b);

/* What a reply, or the lack of one, means. The text stands beside it, where it was kept. */
struct verdict {
	uint8_t scope;                /* enum verdict_scope */
	uint8_t action;               /* enum verdict_action */
	uint8_t reason;               /* enum verdict_reason */
	uint8_t phase;                /* enum verdict_phase */
	uint16_t code;                /* of the reply, 0 when none was read */
	struct verdict_status status; /* the peer's where its class agrees, else ours */
};

/* Lower-case words; "?" for a number that is none. Static. */
const char *verdict_scope_text(unsigned scope);
const char *verdict_action_text(unsigned action);
const char *verdict_reason_text(unsigned reason);
const char *verdict_phase_text(unsigned phase);

/* True when every number lies in its table: a verdict that another process wrote. */
bool verdict_valid(const struct verdict *v);
