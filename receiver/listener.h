/* listener: accepts connections on the sockets that the master bound. */
#pragma once

#include <stddef.h>

#include "common/event/loop.h"
#include "receiver/session.h"

struct listeners;

/* At most `max_sessions` at a time; further clients hear 421. Accepting begins with
 * listeners_set(). No socket yet. */
struct listeners *listeners_new(struct session_pool *pool);
void listeners_free(struct listeners **l); /* closes them */
void listeners_set(struct listeners *l, bool accepting);
/* Takes the descriptors, which are in the order of conf_listeners(conf). An address that was served
 * goes on being served; one that is not among them any more is, for the clients who have begun to
 * connect (the master has seen to it that no others come), and then closed. */
void listeners_change(struct listeners *l, const struct conf *conf, const int *fds, unsigned n,
		      unsigned max_sessions);
