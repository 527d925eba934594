/* listen: the sockets that are bound once, as who was started, and kept while the master lives. */
#pragma once

#include "common/conf/conf.h"
#include "master/instance.h"

/* Binds every smtp-listener into in->listener_fds. 0 or -E_* (complained). */
int listen_smtp(struct instance *in);

/* Binds the operator socket in the run directory, 0660, `user`'s. 0 or -E_* (complained). */
int listen_operator(struct instance *in);
