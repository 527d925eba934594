/* session: one client's connection: socket, the pure SMTP machine, and the transaction it builds.
 */
#pragma once

#include "common/conf/conf.h"
#include "common/event/loop.h"
#include "receiver/inlet.h"
#include "receiver/terms.h"

struct session;

/* What all sessions of the process share; embedded in the receiver. */
struct session_pool {
	struct loop *loop;
	struct inlet *inlet;
	struct terms *terms; /* of sessions and messages to come */
	char *read_buf;      /* SMTP_INPUT_MAX bytes, used within one callback */
	struct session *all;
	unsigned n;
	uint64_t held_bytes; /* bodies not yet with the inlet */
	bool draining;
	uint64_t n_messages; /* acknowledged */
	uint64_t n_refused;  /* messages that were answered with an error */
	uint64_t n_accepted; /* connections */
};

/* Takes `terms`. */
void session_pool_init(struct session_pool *p, struct loop *loop, struct inlet *inlet,
		       struct terms *terms);
void session_pool_clear(struct session_pool *p); /* closes all, says nothing */

/* Takes the connected, non-blocking socket. `refusal`: a reply to greet with, NULL to serve. */
void session_open(struct session_pool *p, int fd, const struct sockaddr *peer,
		  const char *listener_source, const char *refusal);
/* Other terms (taken): for idle sessions at once, for the others with their next message.
 * Which client rule a session's listener names stays as it was when it began. */
void session_pool_terms(struct session_pool *p, struct terms *terms);

/* inlet_hooks.on_answer: `owner` is a session. */
void session_answer(void *owner, const char *reply);
/* The inlet stalls or goes on. */
void session_pool_flow(struct session_pool *p);
/* Once a second: time-outs. */
void session_pool_sweep(struct session_pool *p);
/* 421 to all that are idle; the others follow when their transaction ends. `now`: to all of them
 * except those whose message is on its way to the disk. */
void session_pool_drain(struct session_pool *p, bool now);
