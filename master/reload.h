/* reload: the files read anew while the mail goes on (doc/decisions/0014-reload.md).
 *
 *          asked           good             all prepared          scheduler           all committed
 *   IDLE ---------> CHECKING ----> PREPARING --------------> FIRST ---------> REST --------------->
 * IDLE ^                | wrong         | one refuses, or not in time    both bounded: then the
 * answer goes out
 *     +----------------+---------------+                                with what is missing in the
 * log
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/event/loop.h"
#include "master/checker.h"
#include "master/children.h"
#include "master/instance.h"

enum reload_state { RELOAD_IDLE, RELOAD_CHECKING, RELOAD_PREPARING, RELOAD_FIRST, RELOAD_REST };

struct reload {
	struct instance *in;
	struct children *children;
	const char *path; /* of the configuration */
	enum reload_state state;
	struct checker checker;
	struct instance_next next;
	uint64_t tried; /* the highest generation that was given to anyone */
	uint64_t began_boot_us;
	struct timer timer;
	bool asked;          /* by the scheduler, who waits for the answer */
	bool again;          /* asked for while one was under way; */
	bool again_asked;    /* by the scheduler */
	bool started;        /* the instance was ready once: set by the owner */
	bool told;           /* the service manager, that one is under way */
	bool closed;         /* the instance stops */
	struct buf report;   /* lines */
	struct buf restarts; /* JSON objects of what needs a restart, commas between */
};

void reload_init(struct reload *r, struct loop *loop, struct instance *in,
		 struct children *children, const char *path);
void reload_clear(struct reload *r);

/* Begins one, or another one after the present. `asked`: the scheduler is to be answered. */
void reload_ask(struct reload *r, bool asked);
/* The instance stops: what is under way is dropped, nothing begins any more. */
void reload_close(struct reload *r);

/* Facts, for the hooks of children.h. */
void reload_stranger(struct reload *r, pid_t pid, int status);
void reload_edition(struct reload *r, enum role role, unsigned slot, enum control_kind kind,
		    const char *why);
void reload_reaped(struct reload *r);
