/* uplink: a worker's end of its channel to the scheduler. Nothing is dropped: what does not fit, or
 * has nobody to read it, waits here (bounded by the claims and connections that the scheduler
 * gave). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"
#include "common/ipc/channel.h"

struct uplink_waiting;

struct uplink {
	struct loop *loop;
	struct channel *channel; /* NULL: the scheduler is gone */
	bool broken;             /* it did not keep to the rules: this process is of no more use */
	struct uplink_waiting *first, *last;
	void (*on_message)(void *arg, const struct message *m, struct slice payload);
	void *arg;
};

void uplink_init(struct uplink *u, struct loop *loop,
		 void (*on_message)(void *arg, const struct message *m, struct slice payload),
		 void *arg);
/* Takes the descriptors; what waits is kept, but behind what is sent now until uplink_release(). */
int uplink_attach(struct uplink *u, const struct channel_fds *fds);
void uplink_release(struct uplink *u);
void uplink_detach(struct uplink *u);

/* In order; what cannot leave now waits. */
void uplink_send(struct uplink *u, const struct message *m, struct slice payload);
/* Past what waits, for the words that must be the first on a new channel. */
void uplink_send_first(struct uplink *u, const struct message *m);
/* Forgets what waits, but for messages of `kind`: numbers of a dead scheduler mean nothing. */
void uplink_keep_only(struct uplink *u, unsigned kind);
/* Calls fn for each message that waits. */
void uplink_each_waiting(struct uplink *u, void (*fn)(void *arg, const struct message *m),
			 void *arg);
/* Once per turn. */
void uplink_flush(struct uplink *u);
/* Something waits. */
bool uplink_waits(const struct uplink *u);
