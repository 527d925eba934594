/* channel: the pair of rings between the scheduler and one other process, in a memfd of their own.
 *
 * Two rings of RING_ENTRIES messages (Concurrency Kit SPSC) and two byte rings of RING_BYTES for
 * payloads; an eventfd each way with a "sleeping" flag: publish, fence, wake only a sleeper. A half
 * written message is never visible. After a death of either side the master makes a new one: contents
 * of a ring are never trusted to survive. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"
#include "common/event/loop.h"
#include "common/ipc/message.h"

/* memfd, eventfd that wakes the scheduler, eventfd that wakes the other side. */
struct channel_fds {
	int memfd, wake_scheduler, wake_other;
};
int channel_create(struct channel_fds *out); /* by the master. 0 or -E_* */
void channel_fds_close(struct channel_fds *f);

struct channel; /* one end */

/* Takes the descriptors, also when it fails. `side`: 'S' or the letter of the other process (message.h). `on_input` runs
 * in the loop when messages may be waiting (drain with channel_recv until it gives 0) and when room
 * was made after a refused send. 0 or -E_BAD (not a channel), -E_SYSTEM. */
int channel_open(struct channel **out, const struct channel_fds *fds, char side, struct loop *loop,
		 void (*on_input)(void *arg), void *arg);
void channel_close(struct channel **c); /* may be called within on_input */
/* Of side 'S': the letter of the other process. Without it the first message decides; after it what
 * another kind of process says is -E_BAD. */
void channel_expect(struct channel *c, char peer);

/* Puts m with its payload (may be empty) into the ring, or -E_FULL: nothing was sent, on_input will run
 * when there is room. The peer is woken by channel_flush(). */
int channel_send(struct channel *c, const struct message *m, struct slice payload);
bool channel_has_room(const struct channel *c, size_t payload_bytes);
/* The peer broke the rules: nothing can be sent any more, channel_recv() gives -E_BAD. */
bool channel_is_broken(const struct channel *c);
/* Wakes the peer if it sleeps and something was sent or consumed; call it once per turn. */
void channel_flush(struct channel *c);

/* 1 and a copy in *m, payload borrowed until the next call; 0 none; -E_BAD: the peer broke the rules
 * (kind, direction, size): close the channel. */
int channel_recv(struct channel *c, struct message *m, struct slice *payload);
