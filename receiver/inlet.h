/* inlet: the way of accepted messages to safety: parcels of all sessions form groups, each group
 * is one write and one sync in one segment, then NEW goes to the scheduler, and its ACK is the 250.
 *
 *   submit -> waiting -> (group in the flush thread) -> outgoing -> sent -> ACK: answer
 *
 * NEWs leave in the order of their offsets: the scheduler takes everything below the highest offset
 * that it committed for known. Ids and segments come from the scheduler and are asked for ahead.
 *
 * Where the scheduler or the room is missing, the flow stalls: the owner stops reading; after
 * INLET_STALL_US it refuses (451) what is not on its way yet. */
#pragma once

#include <stdbool.h>

#include "common/event/loop.h"
#include "common/ipc/channel.h"
#include "receiver/parcel.h"

#define INLET_STALL_US (30 * 1000000ull)
/* A message that a scheduler may have taken waits longer: 451 could make a duplicate of it. RFC
 * 5321 4.5.3.2.6 has clients wait 10 minutes. */
#define INLET_SENT_US (300 * 1000000ull)

enum inlet_flow { INLET_STALLED, INLET_OPEN, INLET_REFUSING };

struct inlet;

struct inlet_hooks {
	/* The last word on a parcel whose owner still waits. The parcel is gone afterwards. */
	void (*on_answer)(void *arg, void *owner, const char *reply);
	void (*on_flow)(void *arg, enum inlet_flow flow);
	/* The channel to the living scheduler is of no use, and there is no other one: the process
	 * is to be replaced. Until then that scheduler keeps all segments it found at its start. */
	void (*on_broken)(void *arg);
	/* The scheduler has a message of its own to send: the payload of a NOTIFY, borrowed. */
	void (*on_notification)(void *arg, struct slice payload);
};

/* `dir`: descriptor of segments/, borrowed. */
struct inlet *inlet_new(struct loop *loop, int dir, const unsigned char instance[16],
			uint32_t generation, const struct inlet_hooks *hooks, void *arg);
/* Waits for the flush thread; answers nobody. */
void inlet_free(struct inlet **in);

/* A (new) channel to the scheduler; what is unacknowledged is sent again. Takes the descriptors. */
void inlet_connect(struct inlet *in, const struct channel_fds *fds);
void inlet_disconnect(struct inlet *in); /* the scheduler is dead */

/* A message id, 0 when there is none just now. */
msg_id_t inlet_take_id(struct inlet *in);
/* Takes the parcel; its owner hears by on_answer, never from inside this call. */
void inlet_submit(struct inlet *in, struct parcel *p);
/* The owner of a parcel that was not answered yet is gone: nobody is to be answered. */
void inlet_disown(struct parcel *p);

enum inlet_flow inlet_flow(const struct inlet *in);
/* The reply to who is refused just now: 452 where the scheduler has no room, else 451. */
const char *inlet_refusal(const struct inlet *in);
/* Bytes of bodies in the hands of inlet. */
uint64_t inlet_held_bytes(const struct inlet *in);
bool inlet_is_empty(const struct inlet *in);
struct inlet_counts {
	uint64_t syncs, bytes; /* groups written, bytes of bodies taken */
	uint64_t waiting;      /* messages without their last word */
	uint64_t seg_wait_us;  /* longest time without a segment to write to, after the first one */
	uint64_t seg_failed;   /* segments given up after a failed write or sync */
};
struct inlet_counts inlet_counts(const struct inlet *in);

/* Once at the end of each turn of the loop, and at least once a second. */
void inlet_turn(struct inlet *in);
/* Before an orderly end, when empty: gives the segments back. */
void inlet_seal_all(struct inlet *in);
