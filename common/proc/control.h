/* control: the line between the master and one child: short messages on a SEQPACKET socket pair.
 *
 * The master sends CHANNEL (with the three descriptors of a channel), PEER_GONE and DRAIN; a child
 * READY, ASK_STOP and ASK_KILL. The end of the line is a message too: the master reaps, a child leaves within
 * half a second. */
#pragma once

#include <stdint.h>

#include "common/ipc/channel.h"
#include "common/proc/role.h"

// clang-format off
/* name, sent by the master, with a channel's descriptors */
#define CONTROLS(X) \
	X(CHANNEL,   1, 1)  /* to the peer role, slot, generation */ \
	X(PEER_GONE, 1, 0)  /* that peer is dead */ \
	X(DRAIN,     1, 0)  /* finish and leave */ \
	X(READY,     0, 0)  /* started well */ \
	X(ASK_STOP,  0, 0)  /* an operator wants the whole instance to stop (scheduler only) */ \
	X(ASK_KILL,  0, 0)  /* that life of role, slot broke the rules of its channel (scheduler only) */
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
};

/* fds[0] is the master's end; both non-blocking and close-on-exec. 0 or -E_*. */
int control_pair(int fds[2]);

/* `fds` goes with CHANNEL and stays the caller's, else NULL. 0, -E_AGAIN (the other side does not
 * read), -E_CLOSED or another -E_*. */
int control_send(int fd, const struct control_message *m, const struct channel_fds *fds);

/* 1 with *m, for CHANNEL also *fds, which the caller then owns; 0 none; -E_CLOSED the line is down;
 * -E_BAD not a message that this side may get (all descriptors that came with it are closed). */
int control_recv(int fd, bool from_master, struct control_message *m, struct channel_fds *fds);

const char *control_name(unsigned kind);
