/* load_run: what the sessions of a load run share: who sends next and when, the ledger, the counts,
 * the end. Ledger lines, written only after the 250 to the dot was read:
 *   time_us id recipient xxh64-of-body bytes
 * and, where the dot was sent and its answer never came (delivered or not: nobody knows):
 *   unknown time_us id recipient xxh64-of-body bytes */
#pragma once

#include <stdio.h>

#include "bench/load/load_session.h"

struct load_options {
	unsigned sessions;
	uint64_t messages;       /* UINT64_MAX: until the duration is over */
	double rate;             /* messages a second; 0: as fast as it goes */
	double duration_s;       /* 0: none */
	double timeout_s;        /* silence of the peer */
	unsigned per_connection; /* 0: no limit */
	bool pipelining;
	bool reconnect; /* after a loss or a refused connect, go on */
	bool insist;    /* a 4xx is no end: the message is sent anew, under another id */
	bool has_bind;
	struct sockaddr_storage bind;
	socklen_t bind_len;
};

struct load_run {
	struct loop *loop;
	struct load_options opt;
	struct load_plan plan;
	struct load_stats stats;
	FILE *ledger; /* or NULL */
	struct load_session *sessions;
	struct load_session *idle;
	uint64_t next_number, todo, in_flight;
	uint64_t begun;    /* since start_us, for the rate */
	uint64_t start_us; /* boot clock */
	unsigned alive;    /* sessions that are not DEAD */
	bool stopping, ended;
	struct timer pace, tick, end;
	char date[64];
	uint64_t date_s;
};

/* Connects all sessions and runs until everything is settled. False when messages were left. */
bool load_run(struct load_run *r);
void load_run_stop(struct load_run *r); /* no new message; ends when those in flight are settled */

/* From the sessions. */
void load_run_idle(struct load_run *r, struct load_session *s);     /* ready for a message */
void load_run_settled(struct load_run *r, struct load_session *s);  /* its message is */
void load_run_returned(struct load_run *r, struct load_session *s); /* its message was not sent */
void load_run_forget(struct load_run *r, struct load_session *s);   /* if it was idle: no more */
void load_run_dead(struct load_run *r, struct load_session *s);
const char *load_run_date(struct load_run *r);
/* One line for recipient `k` of the session's mail. */
void load_run_write(struct load_run *r, const struct load_session *s, unsigned k, bool unknown);
