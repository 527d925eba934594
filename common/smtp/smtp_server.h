/* smtp_server: the receiving side of SMTP (RFC 5321) as a pure machine: bytes in, replies out, and
 * an event wherever the driver has to decide or to keep something.
 *
 *                greet              EHLO, HELO              MAIL               RCPT
 *   GREETING -----------> STRANGER -------------> READY -----------> SENDER -----------> RCPTS
 *                                                   ^ RSET, EHLO, HELO |                   |
 *                                                   +------------------+-------------------+
 *                                                   |                  DATA                v
 *                                                   +----- done ------------------------- BODY
 *
 * A body with a bare CR, a bare LF or a NUL is refused at its true end, and the session with it.
 *
 * Which command is legal in which state is one table in smtp_server.c. The driver loops:
 *
 *     while (output is small)
 *         switch (smtp_server_next(s, &in, &out)) ...
 *
 * The machine holds no input: what it did not take stays with the driver (a partial line, commands
 * pipelined behind a question), who offers it again with more behind it. */
#pragma once

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/str.h"
#include "common/smtp/smtp_command.h"
#include "common/smtp/smtp_data.h"

enum smtp_server_event {
	SMTP_SERVER_MORE,      /* wants more input behind what is left of *in */
	SMTP_SERVER_SENDER,    /* s->mail: smtp_server_answer() accepts or refuses it */
	SMTP_SERVER_RECIPIENT, /* s->recipient: the same */
	SMTP_SERVER_DATA,      /* about to say 354: the same; the last chance to have no room */
	SMTP_SERVER_BODY,      /* s->run: body bytes to keep */
	SMTP_SERVER_MESSAGE,   /* complete: smtp_server_answer() when it is safe; nothing is read
				  before */
	SMTP_SERVER_RESET,   /* the transaction is over, nothing was accepted: drop what is kept */
	SMTP_SERVER_WAITING, /* an answer is owed; nothing was taken */
	SMTP_SERVER_CLOSE,   /* send the output, then hang up */
};

enum smtp_server_state {
	SMTP_SERVER_STATE_GREETING,
	SMTP_SERVER_STATE_STRANGER, /* no EHLO yet */
	SMTP_SERVER_STATE_READY,
	SMTP_SERVER_STATE_SENDER, /* a sender, no recipient accepted */
	SMTP_SERVER_STATE_RCPTS,
	SMTP_SERVER_STATE_BODY,
	SMTP_SERVER_STATE_CLOSED,
	SMTP_SERVER_STATES
};

struct smtp_server {
	enum smtp_server_state state;
	enum smtp_server_event asked; /* the question that is open, else SMTP_SERVER_MORE */
	bool esmtp;                   /* EHLO was said, not HELO */
	bool skipping;                /* inside a line too long to be kept */
	bool quit;                    /* CLOSED by the client's own QUIT */
	unsigned errors;
	uint32_t n_rcpts; /* accepted */
	uint32_t max_rcpts;
	uint64_t max_size;
	const char *host_name; /* borrowed */
	char helo[SMTP_DOMAIN_MAX + 1];

	/* Valid at their event only; addresses and run are borrowed from the input. */
	struct smtp_mail mail;
	struct address recipient;
	struct slice run;

	struct smtp_data data; /* dot_line, eight_bit and bytes stay valid until the next DATA */
};

void smtp_server_init(struct smtp_server *s, const char *host_name, uint64_t max_size,
		      uint32_t max_rcpts);

/* Says 220, or `refusal` (a whole reply such as "421 4.3.2 ...", without CRLF) and closes. */
void smtp_server_greet(struct smtp_server *s, struct buf *out, const char *refusal);

/* Takes what it can from the front of *in and appends replies to *out, up to the next event. */
enum smtp_server_event smtp_server_next(struct smtp_server *s, struct slice *in, struct buf *out);

/* Answers the open question: NULL accepts in our own words; else a whole reply without CRLF, "2..."
 * accepts and "4..." or "5..." refuses. After a refused DATA or an answered MESSAGE the transaction
 * is over. */
void smtp_server_answer(struct smtp_server *s, struct buf *out, const char *reply);

/* Ends the session from our side (421 and its like); whatever was open is dropped. */
void smtp_server_shut(struct smtp_server *s, struct buf *out, const char *reply);

/* Nothing begun that a client would lose: a good moment for 421. */
static inline bool
smtp_server_is_idle(const struct smtp_server *s)
{
	return s->state <= SMTP_SERVER_STATE_READY && s->asked == SMTP_SERVER_MORE;
}
