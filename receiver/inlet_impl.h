/* inlet_impl: what the files of inlet share. */
#pragma once

#include "receiver/flush.h"
#include "receiver/inlet.h"
#include "receiver/room.h"

#define SEALS_KEPT 256
#define NO_ROOM    "452 4.3.1 Insufficient system storage"

struct id_block {
	msg_id_t next;
	uint32_t left;
};

struct inlet {
	struct loop *loop;
	struct inlet_hooks hooks;
	void *arg;
	uint32_t generation;
	bool resumed; /* had a channel before */
	struct channel *channel;
	struct flush *flush;
	struct room room;
	uint64_t ask_not_before_us;
	bool no_room; /* the scheduler's last word on a segment or a message was that it has none */
	uint64_t refuse_until_us;
	uint64_t write_not_before_us;

	struct id_block ids[2]; /* in use, next */
	bool ids_asked;

	struct parcel_list waiting; /* for a group */
	struct parcel_list large;   /* for a segment of their own */
	struct parcel_list group;   /* in the flush thread's hands */
	enum room_place group_place;
	struct parcel_list outgoing; /* synced; NEWs and SEALs in their order */
	struct parcel_list sent;     /* for their ACK */
	uint64_t n;                  /* parcels in all lists */
	uint64_t held_bytes;
	struct inlet_counts counts;

	struct message
		seals[SEALS_KEPT]; /* a ring: told to this scheduler, told again to the next */
	unsigned n_seals;

	struct iovec *iov;
	size_t iov_cap;

	enum inlet_flow flow;
	uint64_t stalled_at_us;
	bool had_room;
	uint64_t no_room_since_us; /* 0: there is a segment, or never was one */
};

/* Ends a parcel's life; its owner, if there still is one, hears `reply`. */
void inlet_finish(struct inlet *in, struct parcel *p, const char *reply);
void inlet_accept(struct inlet *in, struct parcel *p); /* with 250 and its id */
/* What the scheduler gives. */
void inlet_take_block(struct inlet *in, const struct message *m);
void inlet_take_segment(struct inlet *in, const struct message *m);
/* A SEAL goes out behind the NEWs before it: a sealed segment without live rows is recycled. */
void inlet_queue_notice(struct inlet *in, struct parcel_list *l, struct parcel *notice);
/* As much of `outgoing` as the ring takes. */
void inlet_send_outgoing(struct inlet *in);
