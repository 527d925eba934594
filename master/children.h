/* children: the processes of an instance: forked in order, told of each other, restarted when they
 * die.
 *
 *            fork              READY
 *   WAITING ------> STARTING ---------> RUNNING
 *     ^  |              |                  |
 *     |  | no restart   +------- reaped ---+
 *     |  v                       |
 *     | GONE <-------------------+  (no restart)
 *     +--------------------------+  at once, or after a pause when it died soon again and again
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/event/loop.h"
#include "common/proc/role.h"
#include "master/instance.h"

struct children; /* opaque */

struct children_hooks {
	void (*on_ready)(void *arg);    /* all of them have been ready for the first time */
	void (*on_hopeless)(void *arg); /* before that: one dies again and again */
	void (*on_ask_stop)(void *arg); /* the scheduler was told to stop the instance */
	void (*on_reaped)(void *arg);   /* one has died (after a restart was arranged, if any) */
};

/* SIGCHLD must be blocked and children_reap() called when it comes. */
struct children *children_new(struct loop *loop, const struct instance *in,
			      const struct children_hooks *hooks, void *arg);
void children_free(struct children **c); /* forgets those that live */

void children_start(struct children *c); /* in the order of ROLES */
void children_reap(struct children *c);
void children_no_restart(struct children *c); /* from here on who dies stays dead */

#define CHILDREN_MASK(role) (1u << (role))
#define CHILDREN_ALL        ((1u << ROLE_COUNT) - 1)
/* Of the roles in the mask: tells them to drain, kills them, counts those that live. */
void children_drain(struct children *c, unsigned roles);
void children_kill(struct children *c, unsigned roles);
unsigned children_alive(const struct children *c, unsigned roles);

/* Kills workers whose heartbeat in shared memory is older than `limit_us`. */
void children_check_heartbeats(struct children *c, uint64_t limit_us);
