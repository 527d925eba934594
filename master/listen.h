/* listen: the sockets that are bound once, as who was started, and kept while the master lives. */
#pragma once

#include "common/conf/conf.h"
#include "master/instance.h"

/* Binds every smtp-listener into in->listener_fds. 0 or -E_* (complained). */
int listen_smtp(struct instance *in);

/* Opens the listeners of next->conf into next->listener_fds; an address that the instance has
 * already is the same socket. 0 or -E_* with a line in *report. */
int listen_next(const struct instance *in, struct instance_next *next, struct buf *report);
/* Sockets of `in` that are not in `next` take no new client; who is on the way in is still let in.
 */
void listen_retire(const struct instance *in, const struct instance_next *next);

/* Binds the operator socket in the run directory, 0660, `user`'s. 0 or -E_* (complained). */
int listen_operator(struct instance *in);
