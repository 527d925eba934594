/* message: what the scheduler and one other process say to each other, in one table.
 *
 * A message is 64 bytes in a ring, its payload (if any) in the byte ring beside it. It is copied out
 * of shared memory, then checked (message_check): kind, direction, payload size. Numbers in it are
 * still the receiver's to check against its own tables: nobody trusts the other side. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/str.h"

// clang-format off
/* name, struct member, from, to, most bytes of payload.  S scheduler, R receiver, W worker, V resolver, A recorder */
#define MESSAGES(X) \
	/* receiver */ \
	X(RECEIVER_HELLO, hello,    R, S, 0)               /* first on a channel */ \
	X(ID_REQ,         id_req,   R, S, 0)               /* wants message ids */ \
	X(ID_BLOCK,       id_block, S, R, 0) \
	X(SEG_REQ,        seg_req,  R, S, 0)               /* wants a segment with room for `bytes` */ \
	X(SEG_OPEN,       seg_open, S, R, 0) \
	X(SEG_SEAL,       seg_seal, R, S, 0)               /* will not write it again */ \
	X(SEG_HELD,       seg_held, R, S, 0)               /* after a new scheduler's start: has it open; number 0: that was all */ \
	X(NEW,            new_message, R, S, IPC_PAYLOAD_MAX) /* a record is synced; payload: new_message.h */ \
	X(ACK,            ack,      S, R, 0)               /* its rows are committed */ \
	X(NACK,           ack,      S, R, 0)               /* not queued: answer 4xx (status is a reply code) */ \
	X(NOTIFY,         notify,   S, R, IPC_PAYLOAD_MAX) /* a message of ours to take in; payload: notification.h */ \
	/* worker */ \
	X(WORKER_HELLO,   hello,    W, S, 0)               /* first; then one HELD each; then HELLO_END */ \
	X(HELD,           held,     W, S, 0)               /* a connection or lease that is still running */ \
	X(HELLO_END,      hello,    W, S, 0) \
	X(OPEN,           open,     S, W, NAME_BYTES_MAX)  /* payload: queue name "domain/vmta" */ \
	X(OPENED,         opened,   W, S, 1024)            /* ready for WORK; payload: EHLO keywords */ \
	X(OPEN_FAILED,    open_failed, W, S, 2048)         /* payload: results.h; its one row (index 0) holds status and text */ \
	X(WORK,           work,     S, W, 128)             /* payload: bitmap of the entry's recipients to attempt */ \
	X(RESULT,         result,   W, S, IPC_PAYLOAD_MAX) /* payload: u32 n, results (results.h, n bytes), then strings for the event */ \
	X(REPLY_MATCH,    reply_match, W, S, 1024)         /* some rules match a reply; payload: reply_match.h. Before the RESULT of its transaction */ \
	X(RETURNED,       returned, W, S, 0)               /* a lease handed back, nothing attempted */ \
	X(RCPT_ASK,       rcpt_ask, W, S, 0)               /* may the RCPT of this recipient leave? Of WORK with WORK_ASK */ \
	X(RCPT_MAY,       rcpt_may, S, W, 0)               /* the answer */ \
	X(CLOSE,          conn,     S, W, 0)               /* QUIT and close when idle; CLOSE_NOW: what runs before its dot ends too */ \
	X(CLOSED,         closed,   W, S, 1024)            /* connection is gone; payload: why, text */ \
	/* resolver */ \
	X(ASK,            ask,      S, V, ASK_BYTES_MAX)   /* payload: domain, or "=" and an smtp-hosts value */ \
	X(ROUTE,          route,    V, S, 512)             /* payload: error text when there is one */ \
	/* recorder */ \
	X(SYNCED,         position, S, A, 0)               /* events before it may be read */ \
	X(CURSOR,         position, A, S, 0)               /* events before it are recorded durably */
// clang-format on

enum message_kind {
	MESSAGE_NONE,
#define X(name, member, from, to, payload) MESSAGE_##name,
	MESSAGES(X)
#undef X
	MESSAGE_KIND_COUNT
};

enum hello_flags { HELLO_RESUMED = 1 /* this process lived before this channel */ };

struct message {
	uint16_t kind;
	uint16_t zero;
	uint32_t payload_bytes; /* set by channel_send() */
	union {
		struct {
			uint32_t pid, generation, flags;
			uint32_t connections; /* of a worker: how many it has descriptors for; 0: any number */
		} hello;
		struct {
			uint32_t count;
		} id_req;
		struct {
			uint64_t first;
			uint32_t count;
		} id_block;
		struct {
			uint64_t bytes; /* 0: an ordinary segment */
		} seg_req;
		struct {
			uint64_t epoch, bytes, for_bytes; /* for_bytes: of the request */
			uint32_t number;
		} seg_open;
		struct {
			uint64_t epoch, end;
			uint32_t number;
			uint32_t failed;       /* 1: a write or sync did, the file is not to be used again */
		} seg_seal;
		struct {
			uint64_t epoch;
			uint32_t number;
		} seg_held;
		struct {
			msg_id_t id;
			uint64_t epoch;
			uint64_t offset, bytes; /* of the record in the segment */
			uint32_t segment;
			uint16_t n_entries;
		} new_message;
		struct {
			msg_id_t id;
			uint32_t status; /* of NACK: SMTP code to give, 451 or 452 */
		} ack;
		struct {
			uint32_t events;       /* that it tells */
		} notify;
		struct {
			uint64_t lease; /* 0: the connection holds none */
			uint32_t connection, claim_slot, source_ip, queue;
			uint32_t state; /* enum claim_state */
		} held;
		struct {
			uint64_t route_generation, deadline_boot_us;
			uint64_t conf_generation; /* by which source_ip and vmta are numbers */
			uint32_t connection, source_ip, vmta, queue;
			uint32_t route_slot;
			uint16_t target;
		} open;
		struct {
			uint64_t limit_size;   /* the peer's SIZE, 0 none */
			uint32_t connection;
			uint32_t rcpt_max;     /* most recipients a transaction, 0 no limit known */
			uint32_t took_ms;
			uint32_t flags;        /* enum opened_flags */
		} opened;
		struct {
			uint32_t connection;
			uint32_t why;          /* enum open_failure */
			uint32_t code;         /* SMTP code or 0 */
		} open_failed;
		struct {
			uint64_t lease, epoch, deadline_boot_us;
			msg_id_t id;
			uint32_t connection, claim_slot, segment, offset16;
			uint16_t first_rcpt;   /* of the entry, in the record */
			uint16_t flags;        /* enum work_flags */
			uint16_t n_rcpts;      /* of the entry; the payload's bitmap says which to attempt */
			uint16_t attempt;
		} work;
		struct {
			uint64_t lease;
			uint32_t connection, claim_slot;
			uint32_t flags;        /* enum result_flags */
			uint32_t sent_bytes;
		} result;
		struct {
			uint64_t lease;        /* 0: no transaction is under way */
			uint64_t conf_generation; /* by which rules are numbers */
			uint64_t wait_us;      /* the time that the reply names; 0: none */
			uint32_t connection;
			uint32_t transaction;  /* of the connection, from 1; 0: before its first */
			uint16_t code, stage;  /* enum conf_rule_stage; 0: of none */
		} reply_match;
		struct {
			uint64_t lease;
			uint32_t connection, claim_slot;
			uint32_t why;          /* enum return_why */
		} returned;
		struct {
			uint64_t lease;
			uint32_t connection, claim_slot;
			uint16_t index;        /* within the entry */
		} rcpt_ask;
		struct {
			uint64_t lease;
			uint64_t stamp_boot_us, deadline_boot_us; /* charged then; not to leave later */
			uint32_t connection;
			uint16_t index, may;   /* may 0: it and those behind it are not to be attempted */
		} rcpt_may;
		struct {
			uint32_t connection;
			uint32_t flags;        /* enum close_flags */
		} conn;
		struct {
			uint32_t connection;
			uint32_t why;          /* enum open_failure; 0 orderly */
			uint32_t messages;     /* transactions it carried */
		} closed;
		struct {
			uint64_t token;        /* comes back in ROUTE */
		} ask;
		struct {
			uint64_t token, generation, expires_boot_us;
			uint32_t slot, status; /* enum route_status (common/proc/route.h) */
			uint16_t n_targets;
		} route;
		struct {
			uint64_t file, offset;
		} position;
		unsigned char bytes[56];
	} u;
};
_Static_assert(sizeof(struct message) == 64, "one ring entry is 64 bytes");

enum open_failure {
	OPEN_OK,
	OPEN_CONNECT_REFUSED,
	OPEN_CONNECT_TIMEOUT,
	OPEN_UNREACHABLE,
	OPEN_LOST,              /* closed or reset before it was ready */
	OPEN_GREETING_TRANSIENT, /* 4xx, 421 */
	OPEN_GREETING_PERMANENT, /* 5xx */
	OPEN_PROTOCOL,          /* not SMTP */
	OPEN_DENIED,            /* destination not allowed */
	OPEN_SOURCE,            /* the source IP cannot be bound */
	OPEN_STALE,             /* route generation does not match: nothing attempted */
	OPEN_LATE,              /* deadline passed: nothing attempted */
	OPEN_NO_RESOURCES,      /* descriptors or memory: nothing attempted */
	OPEN_GIVEN_UP,          /* closed by ourselves after connect() was called: says nothing about the host */
};

enum opened_flags { OPENED_PIPELINING = 1 /* MAIL and all RCPT of a transaction leave in one write */ };
enum work_flags { WORK_ASK = 1 /* its recipients are charged one by one: RCPT_ASK before each RCPT */ };
enum close_flags { CLOSE_NOW = 1 };

enum result_flags {
	RESULT_CONNECTION_GONE = 1, /* no further WORK on it; CLOSED follows */
	RESULT_HOST = 2,            /* the host refused as a whole (421, lost): try another target */
	RESULT_MAYBE_DUP = 4,       /* dot sent, answer unknown */
	RESULT_DAMAGED = 8,         /* the record failed its checks and was not sent: an operator must look */
	RESULT_INTERRUPTED = 16,    /* ended by CLOSE_NOW: says nothing about the host or the recipients */
};

enum return_why { RETURN_LATE = 1, RETURN_CONNECTION_GONE, RETURN_DRAIN, RETURN_NO_RESOURCES };

/* 0 or -E_BAD. `from`, `to`: letters of the table; 0 is any. */
int message_check(const struct message *m, char from, char to);
/* The letter of who sends this kind; 0 when there is no such kind. */
char message_from(unsigned kind);
const char *message_name(unsigned kind);
