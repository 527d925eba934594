/* control: the line between the master and one child: short messages on a SEQPACKET socket pair.
 *
 * The master sends CHANNEL (with the three descriptors of a channel), PEER_GONE and DRAIN; a child
 * READY, ASK_STOP and ASK_KILL. A reload is LISTENER (receivers, one for each), PREPARE, answered by PREPARED or
 * REFUSED; then COMMIT, answered by COMMITTED, or DROP (doc/decisions/0014-reload.md). The end of the line is a message too: the master reaps, a child leaves within
 * half a second. */
#pragma once

#include <stdint.h>

#include "common/ipc/channel.h"
#include "common/proc/role.h"

// clang-format off
/* name, sent by the master, descriptors: 3 of a channel, 1 of whatever it is about */
#define CONTROLS(X) \
	X(CHANNEL,   1, 3)  /* to the peer role, slot, generation */ \
	X(PEER_GONE, 1, 0)  /* that peer is dead */ \
	X(DRAIN,     1, 0)  /* finish and leave */ \
	X(READY,     0, 0)  /* started well */ \
	X(ASK_STOP,  0, 0)  /* an operator wants the whole instance to stop (scheduler only) */ \
	X(ASK_KILL,  0, 0)  /* that life of role, slot broke the rules of its channel (scheduler only) */ \
	X(LISTENER,  1, 1)  /* number `slot` of the listeners of the configuration that PREPARE brings */ \
	X(PREPARE,   1, 1)  /* the snapshot of configuration `number` */ \
	X(COMMIT,    1, 0)  /* it is in force */ \
	X(DROP,      1, 0)  /* it never will be */ \
	X(PREPARED,  0, 0)  /* could work by configuration `number` */ \
	X(REFUSED,   0, 0)  /* cannot; `text` says why */ \
	X(COMMITTED, 0, 0)  /* works by it */ \
	X(ASK_RELOAD, 0, 0) /* an operator wants the files read anew (scheduler only) */ \
	X(RELOADED,  1, 1)  /* how that went: a file as reload_answer in proc.h (scheduler only) */ \
	X(REOPEN_LOG, 1, 0) /* the log file was renamed */
// clang-format on

enum control_kind {
	CONTROL_NONE,
#define X(name, by_master, fds) CONTROL_##name,
	CONTROLS(X)
#undef X
		CONTROL_KIND_COUNT
};

struct control_message {
	uint32_t kind; /* enum control_kind */
	uint32_t role; /* enum role of the peer that it is about */
	uint32_t slot, generation;
	uint64_t number;     /* generation of a configuration */
	char text[104];      /* NUL-terminated, one line */
};

/* fds[0] is the master's end; both non-blocking and close-on-exec. 0 or -E_*. */
int control_pair(int fds[2]);

/* `fds` stays the caller's; NULL with a message that takes none; who takes one takes fds->memfd. 0, -E_AGAIN (the other side does not
 * read), -E_CLOSED or another -E_*. */
int control_send(int fd, const struct control_message *m, const struct channel_fds *fds);

/* 1 with *m and, with a message that brings some, *fds, which the caller then owns (-1: not brought); 0 none; -E_CLOSED the line is down;
 * -E_BAD not a message that this side may get (all descriptors that came with it are closed). */
int control_recv(int fd, bool from_master, struct control_message *m, struct channel_fds *fds);

const char *control_name(unsigned kind);
