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
#include "common/proc/control.h"
#include "common/proc/role.h"
#include "master/instance.h"

struct children; /* opaque */

struct children_hooks {
	void (*on_ready)(void *arg);    /* all of them have been ready for the first time */
	void (*on_hopeless)(void *arg); /* before that: one dies again and again */
	void (*on_ask_stop)(void *arg); /* the scheduler was told to stop the instance */
	void (*on_reaped)(void *arg);   /* one has died (after a restart was arranged, if any) */
	void (*on_stranger)(void *arg, pid_t pid,
			    int status);  /* a child of the master that is none of these */
	void (*on_ask_reload)(void *arg); /* the scheduler was told to */
	/* PREPARED or COMMITTED, of the generation that is on its way; REFUSED with why. */
	void (*on_edition)(void *arg, enum role role, unsigned slot, enum control_kind kind,
			   const char *why);
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

/* Reload. Gives `next` (borrowed until children_drop() or instance_commit()) to all that live, and
 * to those that come to life before it is decided. */
void children_prepare(struct children *c, const struct instance_next *next);
/* How many of the roles in the mask live and have not said that they are prepared for, or work by,
 * `generation`. */
unsigned children_unprepared(const struct children *c, unsigned roles, uint64_t generation);
/* One of those that are not prepared; false: there is none. */
bool children_find_unprepared(const struct children *c, uint64_t generation, enum role *role,
			      unsigned *slot);
unsigned children_uncommitted(const struct children *c, unsigned roles, uint64_t generation);
/* After instance_commit(): it is in force. */
void children_commit(struct children *c, unsigned roles, uint64_t generation);
void children_drop(struct children *c);
/* To the scheduler, if it lives: the answer (reload_answer.h) in `fd`. */
void children_reloaded(struct children *c, int fd);
void children_reopen_log(struct children *c);

/* Kills workers and receivers whose heartbeat in shared memory is older than `limit_us`; what was
 * before `awake_boot_us` does not count. */
void children_check_heartbeats(struct children *c, uint64_t limit_us, uint64_t awake_boot_us);
