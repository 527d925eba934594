/* smtp_client: the client side of one SMTP connection as a pure machine (RFC 5321, RFC 2920).
 *
 * Bytes go in, a "want" comes out; sockets, timers and files are the driver's. Commands outstanding
 * stand in a FIFO, and a reply always answers its head: pipelining is no special case.
 *
 *   GREETING -220-> HELLO -2xx-> READY --begin()--> SENDING -354-> BODY --body_done()--> DOT
 *                                  ^                   |             |                    |
 *                                  |                   +--- ended ---+------ reply -------+
 *                                  |                                 v
 *                                  +---- RESETTING <--taken()---- RESULT --taken()--> CLOSED
 *                                  +-----------------<--taken()------+
 *   READY --quit()--> QUITTING -reply-> CLOSED          any state --fail()--> RESULT or CLOSED
 *
 * Nothing is said to the peer between the end of a transaction and smtp_client_taken(): the driver
 * reports the outcomes before RSET, QUIT or the next MAIL leaves. One RSET belongs to the
 * transaction: a pipelined DATA that was refused for good is believed when RSET has got its own
 * answer behind it (PROVING), for a peer that once said a reply too much is a reply late.
 *
 * Invariants: a recipient is DELIVERED only by a well-formed 2xx that answers a dot whose last byte
 * was written (or, when the operator asked for it, by a timeout there); once that byte is written
 * and no well-formed 2xx, 4xx or 5xx answers it, the outcome is UNKNOWN. A recipient is PERMANENT
 * by a reply only if no reply of the transaction was out of place as far as can be seen. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"
#include "common/mail/verdict.h"
#include "common/smtp/smtp_client_outcome.h"
#include "common/smtp/smtp_ehlo.h"
#include "common/smtp/smtp_reply.h"
#include "common/smtp/smtp_verdict.h"

enum smtp_client_want {
	SMTP_CLIENT_READ = 1,   /* give bytes to smtp_client_feed() */
	SMTP_CLIENT_WRITE = 2,  /* write smtp_client_output() */
	SMTP_CLIENT_BODY = 4,   /* write the body, then smtp_client_body_done() */
	SMTP_CLIENT_RESULT = 8, /* read the outcomes, then smtp_client_taken() */
	SMTP_CLIENT_MAIL = 16,  /* ready: smtp_client_begin() or smtp_client_quit() */
	SMTP_CLIENT_CLOSE = 32, /* close the socket; c->end says why */
	SMTP_CLIENT_MAY =
		64, /* say whether recipient c->ask_rcpt may be attempted: smtp_client_may() */
};

/* How long the present wait may take; the driver holds the timers. One deadline spans a whole
 * reply. */
// clang-format off
#define SMTP_CLIENT_DEADLINE_TABLE(X)                                                              \
	X(NONE,     "")                                                                            \
	X(GREETING, "smtp-greeting-timeout")                                                       \
	X(COMMAND,  "smtp-command-reply-timeout")      /* EHLO MAIL RCPT DATA RSET */              \
	X(BODY,     "data-send-timeout")               /* from one accepted block to the next */   \
	X(DOT,      "smtp-data-termination-timeout")                                               \
	X(ASK,      "")                                /* our own side's word */                   \
	X(IDLE,     "connection-idle-timeout")                                                     \
	X(QUIT,     "")                                /* a courtesy: seconds */
// clang-format on
#define X(name, directive) SMTP_CLIENT_DEADLINE_##name,
enum smtp_client_deadline { SMTP_CLIENT_DEADLINE_TABLE(X) SMTP_CLIENT_DEADLINES };
#undef X

enum smtp_client_state {
	SMTP_CLIENT_GREETING,
	SMTP_CLIENT_HELLO,
	SMTP_CLIENT_READY,
	SMTP_CLIENT_SENDING,
	SMTP_CLIENT_PROVING,
	SMTP_CLIENT_IN_BODY,
	SMTP_CLIENT_IN_DOT,
	SMTP_CLIENT_ENDED, /* want RESULT */
	SMTP_CLIENT_RESETTING,
	SMTP_CLIENT_QUITTING,
	SMTP_CLIENT_CLOSED,
};

/* One command sent or about to be: its reply is due when its last byte is written. */
struct smtp_client_command {
	uint8_t phase; /* enum verdict_phase */
	uint32_t rcpt; /* of RCPT: recipient number */
	uint64_t end;  /* position behind it in the output stream */
};

/* What is to be sent. Borrowed from begin() until taken(). */
struct smtp_client_message {
	struct slice sender; /* without brackets; empty: the null sender */
	uint64_t body_bytes; /* wire form, unstuffed */
	bool body_8bit;
	size_t n_rcpts;
	/* Each recipient wants its leave (MAY) before its RCPT. Only without PIPELINING: there all
	 * leave at once. */
	bool ask;
	/* Recipient `i` without brackets. */
	struct slice (*rcpt)(const void *arg, size_t i);
	const void *arg;
};

/* What the operator's rules say of one reply (smtp_client_listen()). */
struct smtp_client_ruling {
	bool stay;      /* whom it concerns stays queued, also by 5xx; comes before `bounce` */
	bool bounce;    /* a 4xx to RCPT is for good */
	bool skip_host; /* this host is done with for now: the transaction runs to its end, then QUIT */
	bool leave;     /* as skip_host, but the host is as good as before */
	uint64_t rule;  /* kept with the outcome of those it concerns; 0: none */
};

struct smtp_client {
	enum smtp_client_state state;
	struct smtp_policy policy;
	struct slice helo; /* borrowed for the life of the connection */
	bool loop_check;   /* a peer that greets with our own name is ourselves */
	bool pix;          /* greeting of asterisks: a broken filter (pix-bug-workaround) */
	bool said_helo;
	bool mx_down;     /* 421 and smtp-421-means-mx-unavailable: no further command here */
	bool close_after; /* taken() goes to CLOSED */
	bool reset_after; /* taken() sends RSET */
	uint8_t step;     /* SENDING: what is issued next */
	bool in_step;     /* DATA's 354 came in its place: the replies before were one to one */
	bool contrary;    /* RCPT was accepted although MAIL was not */
	bool lone_dot;    /* 354 although no recipient was accepted */
	bool utf8;        /* an address of the message needs SMTPUTF8 */
	bool asking;      /* want MAY, for recipient ask_rcpt */

	/* Asked of every well-formed reply, before it has an effect; NULL: nobody. */
	void (*listener)(void *arg, enum verdict_phase phase, const struct smtp_reply *reply,
			 struct smtp_client_ruling *out);
	void *listener_arg;
	bool skip_host;       /* a rule says that this host is done with */
	bool leaving;         /* QUIT when the transaction is reported */
	uint64_t notice_rule; /* of `notice` */

	struct smtp_reply reply;
	bool early; /* its first byte came before the command that it could answer had left */
	struct smtp_ehlo ehlo;
	struct buf out;
	uint64_t queued, written; /* output stream positions */
	uint64_t said_from; /* where the transaction, or the RCPT that was asked for, begins */
	size_t ask_rcpt;
	struct smtp_client_command *fifo;
	size_t fifo_cap, fifo_head, fifo_n;
	uint32_t deadline_serial; /* changes when a new wait begins */

	struct smtp_client_message message;
	size_t n_issued, n_answered, n_accepted, n_attempted;
	uint32_t transactions; /* ended on this connection */
	struct smtp_client_outcomes outcomes;

	/* The last 421 of this transaction: what a peer that now leaves has said about it. */
	struct verdict notice;
	/* Of CLOSED, and of QUITTING after a refusal: why, with the reply's text if there was one.
	 * reason NONE: an orderly end. */
	struct verdict end;
	char end_text[REPLY_KEPT_MAX];
	uint16_t end_text_n;
};

/* A new connection, connected a moment ago. `helo` must pass smtp_client_helo_ok(); borrowed. */
void smtp_client_init(struct smtp_client *c, const struct smtp_policy *policy, struct slice helo);
void smtp_client_clear(struct smtp_client *c);

/* `fn` hears of every well-formed reply of every stage, also of one that nothing asked for, and rules on it; *out
 * comes zeroed. A reply of success stays one. */
void smtp_client_listen(struct smtp_client *c,
			void (*fn)(void *arg, enum verdict_phase phase, const struct smtp_reply *reply,
				   struct smtp_client_ruling *out),
			void *arg);

/* enum smtp_client_want, one or more. */
unsigned smtp_client_want(const struct smtp_client *c);
enum smtp_client_deadline smtp_client_deadline(const struct smtp_client *c);

/* Takes all of `in`. */
void smtp_client_feed(struct smtp_client *c, struct slice in);
/* Bytes to write, borrowed until the next call of any other function here. */
struct slice smtp_client_output(const struct smtp_client *c);
void smtp_client_wrote(struct smtp_client *c, size_t n);

/* In state READY only. The message may end at once (want RESULT) without a byte sent. */
void smtp_client_begin(struct smtp_client *c, const struct smtp_client_message *m);
/* Nothing of the transaction has left yet: it is as if it had not begun, in state READY. False, and
 * nothing changed: something has, or it ended by itself. */
bool smtp_client_unbegin(struct smtp_client *c);
/* The answer to want MAY. Refused: this recipient and those behind it are not attempted in this
 * transaction, which goes on with those accepted. An RCPT of which no byte was written yet may be
 * refused afterwards. */
void smtp_client_may(struct smtp_client *c, bool may);
/* A byte of what was begun, or of the RCPT that got its leave, was written. */
bool smtp_client_has_said(const struct smtp_client *c);
/* The body's last byte was written, or stands before smtp_client_output() in the driver's next
 * write. `crlf`: the body is empty or ends in CRLF; otherwise one is added. */
void smtp_client_body_done(struct smtp_client *c, bool crlf);
/* The outcomes were reported. */
void smtp_client_taken(struct smtp_client *c);
void smtp_client_quit(struct smtp_client *c);

/* The driver's news: LOST (end of file, reset), TIMEOUT, DAMAGED (the body cannot be read). */
void smtp_client_fail(struct smtp_client *c, enum verdict_reason reason);

/* True when the connection takes no further message after this one (LIMITS MAILMAX, 421, a
 * failure). */
bool smtp_client_spent(const struct smtp_client *c);

/* The phase that waits now, for logs. */
enum verdict_phase smtp_client_phase(const struct smtp_client *c);

static inline struct slice
smtp_client_end_text(const struct smtp_client *c)
{
	return slice_of(c->end_text, c->end_text_n);
}
