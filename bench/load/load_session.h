/* load_session: one SMTP client of a load run: sends mail after mail, tells the run what became of
 * each. The run (load_run.h) decides who may send next. */
#pragma once

#include <netinet/in.h>

#include "bench/load/load_mail.h"
#include "bench/load/load_stats.h"
#include "common/event/loop.h"

struct load_run;

/* NEW -> BANNER -> EHLO -> IDLE -> MAIL -> RCPT.. -> DATA -> DOT -> IDLE ...
 * A refused transaction goes on by RSET; QUIT and PAUSE (before a new connection) come from IDLE
 * or from any loss; DEAD is for good. */
enum load_state {
	LOAD_NEW,
	LOAD_BANNER,
	LOAD_EHLO,
	LOAD_IDLE,
	LOAD_MAIL,
	LOAD_RCPT,
	LOAD_DATA,
	LOAD_DOT,
	LOAD_RSET,
	LOAD_QUIT,
	LOAD_PAUSE,
	LOAD_DEAD
};

struct load_session {
	struct load_run *run;
	int fd; /* -1: none */
	enum load_state state;
	struct watch watch;
	struct timer timer;        /* PAUSE: then connect again */
	struct load_session *next; /* in the run's list of idle ones */
	struct sockaddr_storage target;
	socklen_t target_len;
	struct buf in, out;
	struct load_mail mail;
	size_t mail_sent; /* bytes of the mail on the wire, while in DOT */
	bool has_mail;    /* a message was given by the run and is not yet settled */
	bool can_pipeline;
	unsigned rcpts_sent, rcpts_answered, rcpts_taken;
	unsigned char *taken;       /* by recipient: its RCPT got a 2xx */
	unsigned mails_done;        /* on this connection */
	unsigned failures;          /* connects in a row */
	uint64_t dot_us, active_us; /* boot clock */
};

void load_session_init(struct load_session *s, struct load_run *run);
void load_session_connect(struct load_session *s);
/* The session is IDLE: send message `number` now. */
void load_session_mail(struct load_session *s, uint64_t number);
/* Ends it politely from IDLE, at once from anywhere else. */
void load_session_quit(struct load_session *s);
/* The peer has been silent too long: as if the connection were lost. */
void load_session_expire(struct load_session *s);
void load_session_clear(struct load_session *s);
