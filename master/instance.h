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
	uint64_t conf_generation; /* of `conf`; the first is 1 */
	struct conf *start_conf;  /* the first one: what only a start changes */
	bool background;
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

/* Another configuration on its way to be the instance's. */
struct instance_next {
	int snapshot_fd;
	struct conf *conf;
	uint64_t generation;
	int listener_fds[LISTENERS_MAX]; /* in the order of its listeners, all its own */
	unsigned n_listeners;
};

/* Takes the snapshot; all else as the configuration says, in the end as `user`. 0 or -E_*
 * (complained). */
int instance_open(struct instance *in, int snapshot_fd, bool foreground);

/* Takes the snapshot (it was checked) and makes what it needs: sockets, the log file. Nothing of
 * the instance changes. 0, or -E_* with the reason in *report, a line "FILE:LINE: message". What
 * needs a restart goes to `told` (conf_keep()). */
int instance_prepare(struct instance *in, int snapshot_fd, struct instance_next *next,
		     struct buf *report, void (*told)(void *arg, const struct conf_kept *kept),
		     void *arg);
/* `next` is the instance's; sockets that are no listeners any more take no new clients. */
void instance_commit(struct instance *in, struct instance_next *next);
void instance_drop(struct instance_next *next);
/* Opens the log file anew, as after a rename. */
void instance_reopen_log(struct instance *in);

/* Closes the master's copies of the listeners: when the receivers have closed theirs, clients are
 * refused. */
void instance_stop_listening(struct instance *in);

/* Removes the pid file and the socket, gives up the locks. */
void instance_close(struct instance *in);
