/* instance: what one running Sluice owns: configuration, run directory, spool, sockets; made before
 * root is given up, passed on to the children. */
#pragma once

#include <stdbool.h>

#include "common/conf/conf.h"
#include "common/proc/user.h"
#include "common/queue/spool.h"

#define INSTANCE_PID_FILE "sluiced.pid" /* in the run directory */

struct instance {
	int snapshot_fd; /* sealed memfd */
	struct conf *conf;
	const struct conf_global *global;
	bool drop_user; /* started as root with a `user`: it owns everything */
	struct user user;
	char run[4096];
	int run_fd;         /* locked: one instance for each run directory */
	struct spool spool; /* locked */
	int listener_fds[LISTENERS_MAX];
	unsigned n_listeners;
	int operator_fd;
	int routes_fd, routes_read_fd;
	unsigned char start_id[16];
	bool owns_files; /* the pid file and the socket are ours to remove */
};

/* Takes the snapshot; all else as the configuration says, in the end as `user`. 0 or -E_*
 * (complained). */
int instance_open(struct instance *in, int snapshot_fd, bool foreground);

/* Closes the master's copies of the listeners: when the receivers have closed theirs, clients are
 * refused. */
void instance_stop_listening(struct instance *in);

/* Removes the pid file and the socket, gives up the locks. */
void instance_close(struct instance *in);
