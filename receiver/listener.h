/* listener: accepts connections on the sockets that the master bound. */
#pragma once

#include <stddef.h>

#include "common/event/loop.h"
#include "receiver/session.h"

struct listeners;

/* Takes the descriptors, which are in the order of conf_listeners(). At most `max_sessions` at a
 * time; further clients hear 421. Accepting begins with listeners_set(). */
struct listeners *listeners_new(struct session_pool *pool, const int *fds, unsigned n,
				unsigned max_sessions);
void listeners_free(struct listeners **l); /* closes them */
void listeners_set(struct listeners *l, bool accepting);
