/* connection: one SMTP connection to one MX address, from OPEN to CLOSED; the driver of
 * smtp_client. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/event/loop.h"
#include "common/ipc/message.h"
#include "common/net/addr.h"
#include "common/proc/route.h"
#include "common/smtp/smtp_client.h"
#include "deliverer/reply_rules.h"
#include "deliverer/work.h"

struct worker;

/* The queue's timeouts, µs. */
struct connection_timeouts {
	uint64_t connect, greeting, command, body, dot, multiline;
};

struct connection {
	struct worker *worker;
	struct connection *next_in_bucket, *next, **prev;
	uint32_t number, source_ip, queue;
	bool numbered;   /* the scheduler knows it: in a bucket */
	bool announced;  /* OPENED was sent */
	bool connecting; /* connect() is under way */
	bool closing;    /* CLOSE was asked for, or the worker drains: QUIT when idle */
	bool ended;      /* on the list of those to free */
	bool driving;    /* connection_drive() is at work further up the stack */
	int fd;
	struct watch watch;

	struct timer timer;
	uint64_t timer_at_us; /* when the timer fires; it may fire early and be set again */
	uint64_t deadline_us; /* when the present wait is over */
	uint64_t most_at_us;  /* when the present transaction is over at the latest */
	uint64_t leave_by_us; /* what was granted leaves until then or not at all; 0: it has left */
	uint32_t deadline_serial;
	bool multiline_seen;

	struct connection_timeouts timeouts;
	struct smtp_client client;
	bool client_live;
	char helo[SMTP_DOMAIN_MAX + 1];
	char mx[ROUTE_HOST_BYTES];
	char target_text[ADDR_TEXT_BYTES], source_text[ADDR_TEXT_BYTES];
	char dsn_mta[ROUTE_HOST_BYTES + ADDR_TEXT_BYTES];
	char esmtp[128];         /* what the peer offers, for the records */
	uint64_t opened_boot_us; /* when OPEN came */

	struct {
		struct reply_rules *of; /* NULL: none */
		int list, provider;     /* numbers of its configuration; -1: none */
		char *queue_name, *best;
		uint32_t transaction;         /* from 1; 0: before the first */
		uint32_t told[RULE_HITS_MAX]; /* rules that the scheduler knows of in this transaction */
		unsigned n_told;
	} rules;

	struct work *work;    /* running */
	struct work *waiting; /* in order; begins when the peer is ready */
	struct slice tail;    /* body bytes that go before smtp_client_output() */
	struct buf stuffed;   /* what `tail` borrows when the body is stuffed */
};

struct connection *connection_find(struct worker *w, uint32_t number);

/* OPEN. Answers OPENED or OPEN_FAILED in its time. */
void connection_open(struct worker *w, const struct message *m, struct slice queue_name);
/* A connection object in no list but `all`; freed by connection_reap() after connection_end(). */
struct connection *connection_new(struct worker *w, uint32_t number);
/* The socket is connected or under way: from here on events drive it. */
void connection_start(struct connection *c, int fd, const struct smtp_policy *policy,
		      bool loop_check);
/* The same, by what sock_connect() or sock_connected() said. */
void connection_fail_connect(struct connection *c, int rc, const char *text);
/* It never became ready; the scheduler is told, the connection is over. */
void connection_fail_open(struct connection *c, unsigned why, enum verdict_reason reason,
			  const char *text);

/* WORK, for a connection that lives; takes the work. */
void connection_work(struct connection *c, struct work *work);
/* RCPT_MAY. */
void connection_may(struct connection *c, const struct message *m);
/* Asks once for the recipient that is next. 1: look again, 0: the answer is due. */
int connection_ask(struct connection *c);
/* CLOSE, and drain: what runs ends, then QUIT. */
void connection_close_when_idle(struct connection *c);
/* CLOSE_NOW: what runs ends here, unless its dot is out: then it runs to its end. */
void connection_interrupt(struct connection *c);
/* The scheduler is dead: what has not begun goes; what runs goes on. */
void connection_orphan(struct connection *c);

/* Does what can be done now. */
void connection_drive(struct connection *c);
void connection_timer_init(struct connection *c);
/* A new wait begins; the present one may go on. */
void connection_wait(struct connection *c);
void connection_wait_on(struct connection *c);
/* Looks at what waits at that time at the latest. */
void connection_wake_at(struct connection *c, uint64_t at_us);

/* At the end of a turn: frees what ended in it. */
void connection_reap(struct worker *w);
