/* role: the kinds of process and their entry points. The master forks and calls the entry; no process
 * folder includes another. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "common/conf/conf.h"

// clang-format off
/* name, entry, letter in message.h, count */
#define ROLES(X) \
	X(SCHEDULER, scheduler_main, 'S', 1) \
	X(RESOLVER,  resolver_main,  'V', 1) \
	X(RECORDER,  recorder_main,  'A', 1) \
	X(WORKER,    deliverer_main, 'W', conf_global(conf)->workers) \
	X(RECEIVER,  receiver_main,  'R', conf_global(conf)->receivers)
// clang-format on

enum role {
#define X(name, entry, letter, count) ROLE_##name,
	ROLES(X)
#undef X
	ROLE_COUNT,
	ROLE_MASTER = ROLE_COUNT
};

/* What a child inherits from the master: everything, by name. All else is closed. */
struct heritage {
	enum role role;
	unsigned slot;       /* number within its kind */
	uint32_t generation; /* its life: how often this slot was started, from 1; never repeats while the master lives */
	int control_fd;      /* SEQPACKET to the master (control.h); its end means: leave at once */
	int snapshot_fd;     /* sealed memfd: the configuration */
	uint64_t conf_generation; /* counts the reloads that succeeded, from 1 */
	const struct conf_global *fixed; /* of the master's start: what a reload cannot change; NULL: nothing is */
	bool background;     /* no stderr: a log that should go there goes to syslog */
	int routes_fd;       /* memfd of the routes: read-write for the resolver, read-only for others */
	int listener_fds[LISTENERS_MAX]; /* receivers only, in the order of conf_listeners() */
	unsigned n_listeners;
	int operator_fd;     /* scheduler only: the listening operator socket */
	int guard_fd;        /* the spool, flock()ed by the master and all its children as long as one of them lives */
	bool instance_was_ready; /* all of it ran once: what does not start now is waited for, not given up */
	unsigned char start_id[16]; /* random, of this master's life */
	uint64_t resolver_starts;   /* for route generations */
};

#define X(name, entry, letter, count) int entry(struct heritage *h);
ROLES(X)
#undef X

const char *role_name(enum role role); /* "scheduler", "worker", ... */
