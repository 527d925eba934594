/* inlet_line: what a receiver and the scheduler say to each other, and what is said again to the
 * next one. */
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "receiver/inlet_impl.h"
#include "receiver/notice.h"

#define REFUSE_US 1000000u /* after the scheduler had no room for a message */

/* False when the ring is full. */
static bool
send_new(struct inlet *in, struct parcel *p)
{
	struct message m = { .kind = MESSAGE_NEW };

	m.u.new_message.id = p->id;
	m.u.new_message.segment = p->segment;
	m.u.new_message.epoch = p->epoch;
	m.u.new_message.offset = p->offset;
	m.u.new_message.bytes = p->total;
	m.u.new_message.n_entries = p->n_entries;
	if (channel_send(in->channel, &m, buf_slice(&p->news)) != 0)
		return false;
	p->sent = true;
	parcel_push(&in->sent, parcel_pop(&in->outgoing));
	return true;
}

static bool
send_notice(struct inlet *in, struct parcel *p)
{
	struct message m;

	notice_message(p, &m);
	if (channel_send(in->channel, &m, SLICE_NONE) != 0)
		return false;
	if (p->notice == MESSAGE_SEG_SEAL)
		in->seals[in->n_seals++ % SEALS_KEPT] = m;
	in->n--;
	parcel_free(parcel_pop(&in->outgoing));
	return true;
}

void
inlet_send_outgoing(struct inlet *in)
{
	struct parcel *p;

	while (in->channel != NULL && (p = in->outgoing.head) != NULL) {
		if (!(p->notice != 0 ? send_notice(in, p) : send_new(in, p)))
			break;
	}
}

static void
take_answer(struct inlet *in, const struct message *m)
{
	struct parcel *p = parcel_take(&in->sent, m->u.ack.id);

	if (p == NULL)
		return; /* given up meanwhile */
	if (m->kind == MESSAGE_ACK) {
		in->no_room = false;
		inlet_accept(in, p);
		return;
	}
	if (m->u.ack.status == 452) {
		in->no_room = true;
		in->refuse_until_us = loop_boot_us(in->loop) + REFUSE_US;
	}
	inlet_finish(in, p,
		     m->u.ack.status == 452 ? NO_ROOM
					    : "451 4.3.0 Message not queued, try again later");
}

/* 0, or -E_* of a broken channel. */
static int
take_messages(struct inlet *in)
{
	struct message m;
	struct slice payload;
	int rc = 0;

	while (in->channel != NULL && (rc = channel_recv(in->channel, &m, &payload)) > 0) {
		switch (m.kind) {
		case MESSAGE_ID_BLOCK:
			inlet_take_block(in, &m);
			break;
		case MESSAGE_SEG_OPEN:
			inlet_take_segment(in, &m);
			break;
		case MESSAGE_ACK:
		case MESSAGE_NACK:
			take_answer(in, &m);
			break;
		case MESSAGE_NOTIFY:
			in->hooks.on_notification(in->arg, payload);
			break;
		default:
			break;
		}
	}
	return rc;
}

static void
on_input(void *arg)
{
	struct inlet *in = arg;
	int rc = take_messages(in);

	if (rc < 0) {
		log_error("scheduler's channel: %s", err_text(rc));
		inlet_disconnect(in);
		in->hooks.on_broken(in->arg);
	}
}

void
inlet_disconnect(struct inlet *in)
{
	/* What a dead scheduler still managed to say was durable before. */
	(void)take_messages(in);
	channel_close(&in->channel);
	in->ids_asked = false;
	in->no_room = false;
	room_forget_asked(&in->room);
}

/* What the last scheduler may not have kept is told to the new one, in the old order: a SEAL that
 * was told stood behind the NEWs of its segment, and what was not told, perhaps since another
 * death, stands behind both. */
static void
tell_again(struct inlet *in)
{
	struct parcel_list again = { 0 };
	unsigned from = in->n_seals > SEALS_KEPT ? in->n_seals - SEALS_KEPT : 0;

	for (struct parcel *p; (p = parcel_pop(&in->sent)) != NULL;)
		parcel_push(&again, p);
	for (unsigned i = from; i < in->n_seals; i++)
		inlet_queue_notice(in, &again, notice_seal(&in->seals[i % SEALS_KEPT]));
	in->n_seals = 0;
	in->n -= notice_drop_held(&in->outgoing);
	parcel_prepend(&in->outgoing, &again);
	/* Behind all of that: what of ours it then has open and does not hear of here, we never
	 * had. */
	for (enum room_place i = 0; i < ROOM_PLACES; i++) {
		if (room_has(&in->room, i))
			inlet_queue_notice(
				in, &in->outgoing,
				notice_held(in->room.at[i].info.number, in->room.at[i].info.epoch));
	}
	inlet_queue_notice(in, &in->outgoing, notice_held(0, 0));
}

void
inlet_connect(struct inlet *in, const struct channel_fds *fds)
{
	struct message hello = { .kind = MESSAGE_RECEIVER_HELLO };
	int rc;

	inlet_disconnect(in);
	rc = channel_open(&in->channel, fds, 'R', in->loop, on_input, in);
	if (rc != 0) {
		in->channel = NULL;
		log_error("scheduler's channel: %s", err_text(rc));
		in->hooks.on_broken(in->arg);
		return;
	}
	hello.u.hello.pid = (uint32_t)getpid();
	hello.u.hello.generation = in->generation;
	hello.u.hello.flags = in->resumed ? HELLO_RESUMED : 0;
	CHECK(channel_send(in->channel, &hello, SLICE_NONE) == 0); /* an empty ring */
	if (in->resumed)
		tell_again(in);
	in->resumed = true;
	inlet_turn(in);
}
