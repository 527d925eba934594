/* instance: which daemon is meant, and whether it is still there. */
#pragma once

#include <stddef.h>

#include "common/base/buf.h"

#define INSTANCE_SOCKET_BYTES 4096

/* The socket of the instance that the configuration `conf_path` describes. 0, or -E_* with the
 * reasons as lines in *why. Of a file with errors, but without errors of syntax, `run` counts. */
int instance_socket(const char *conf_path, char socket_path[INSTANCE_SOCKET_BYTES],
		    struct buf *why);

/* A hold on the process that listens at `socket_path`, for instance_wait_gone(). A pidfd, or -E_*:
 * nobody listens, or it cannot be told who. */
int instance_watch(const char *socket_path);

/* Waits until that process has ended (`pidfd`), or, when there is no pidfd (negative), until nobody
 * listens. 0 or -E_TIMEOUT. Closes pidfd. */
int instance_wait_gone(const char *socket_path, int pidfd, unsigned timeout_ms);
