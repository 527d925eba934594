#include "receiver/inlet.h"

#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "receiver/inlet_impl.h"
#include "receiver/notice.h"

#define ID_BLOCK     32768
#define ID_LOW       16384
#define GROUP_BYTES  (8u << 20)
#define ASK_AGAIN_US 1000000u /* after a segment that could not be opened */
#define BUSY         "451 4.3.2 System not accepting mail, try again later"
#define PAUSE_US     500000u /* after a failed write */

static void on_group_done(void *arg, int rc, uint64_t offset);

struct inlet *
inlet_new(struct loop *loop, int dir, const unsigned char instance[16], uint32_t generation,
	  const struct inlet_hooks *hooks, void *arg)
{
	struct inlet *in = mem_zalloc(sizeof *in);

	in->loop = loop;
	in->hooks = *hooks;
	in->arg = arg;
	in->generation = generation;
	in->flow = INLET_STALLED;
	in->stalled_at_us = loop_boot_us(loop);
	room_init(&in->room, dir, instance);
	in->flush = flush_new(loop, on_group_done, in);
	return in;
}

static void
free_list(struct parcel_list *l)
{
	for (struct parcel *p; (p = parcel_pop(l)) != NULL;)
		parcel_free(p);
}

void
inlet_free(struct inlet **inp)
{
	struct inlet *in = *inp;

	if (in == NULL)
		return;
	flush_free(&in->flush);
	channel_close(&in->channel);
	room_clear(&in->room);
	free_list(&in->waiting);
	free_list(&in->large);
	free_list(&in->group);
	free_list(&in->outgoing);
	free_list(&in->sent);
	mem_free(in->iov);
	mem_free(in);
	*inp = NULL;
}

void
inlet_finish(struct inlet *in, struct parcel *p, const char *reply)
{
	void *owner = p->owner_answered ? NULL : p->owner;

	in->n--;
	in->held_bytes -= p->body.len;
	parcel_free(p);
	if (owner != NULL)
		in->hooks.on_answer(in->arg, owner, reply);
}

void
inlet_accept(struct inlet *in, struct parcel *p)
{
	char text[ID_TEXT_BYTES];
	char reply[64];

	KILL_POINT("before-250");
	snprintf(reply, sizeof reply, "250 2.0.0 Queued as %s", id_message_text(text, p->id));
	inlet_finish(in, p, reply);
}

/* Ids --------------------------------------------------------------------------------------------
 */

msg_id_t
inlet_take_id(struct inlet *in)
{
	if (in->ids[0].left == 0) {
		in->ids[0] = in->ids[1];
		in->ids[1].left = 0;
	}
	if (in->ids[0].left == 0)
		return 0;
	in->ids[0].left--;
	return in->ids[0].next++;
}

void
inlet_take_block(struct inlet *in, const struct message *m)
{
	struct id_block *b = &in->ids[in->ids[0].left > 0];

	in->ids_asked = false;
	if (m->u.id_block.first == 0 || b->left > 0)
		return;
	b->next = m->u.id_block.first;
	b->left = m->u.id_block.count;
}

/* Segments ---------------------------------------------------------------------------------------
 */

static void
note_room(struct inlet *in)
{
	uint64_t now = loop_boot_us(in->loop);

	if (!room_has(&in->room, ROOM_CURRENT)) {
		if (in->had_room && in->no_room_since_us == 0)
			in->no_room_since_us = now;
		return;
	}
	in->had_room = true;
	if (in->no_room_since_us != 0 && now - in->no_room_since_us > in->counts.seg_wait_us)
		in->counts.seg_wait_us = now - in->no_room_since_us;
	in->no_room_since_us = 0;
}

void
inlet_queue_notice(struct inlet *in, struct parcel_list *l, struct parcel *notice)
{
	in->n++;
	parcel_push(l, notice);
}

static void
seal_place(struct inlet *in, enum room_place place, uint64_t end, bool failed)
{
	struct message seal;

	room_seal(&in->room, place, end, &seal);
	seal.u.seg_seal.failed = failed;
	inlet_queue_notice(in, &in->outgoing, notice_seal(&seal));
	room_shift(&in->room);
	note_room(in);
}

void
inlet_take_segment(struct inlet *in, const struct message *m)
{
	int rc = room_take(&in->room, m);
	struct message seal = { .kind = MESSAGE_SEG_SEAL };

	if (rc == 0) {
		in->no_room = false;
		room_shift(&in->room);
		note_room(in);
		return;
	}
	in->ask_not_before_us = loop_boot_us(in->loop) + ASK_AGAIN_US;
	if (rc == -E_FULL) {
		in->no_room = true;
		while (m->u.seg_open.for_bytes > 0 && in->large.head != NULL)
			inlet_finish(in, parcel_pop(&in->large), NO_ROOM);
		return;
	}
	log_error("segment=%u not usable: %s", m->u.seg_open.number, err_text(rc));
	seal.u.seg_seal.number = m->u.seg_open.number;
	seal.u.seg_seal.epoch = m->u.seg_open.epoch;
	seal.u.seg_seal.end = SEGMENT_HEADER_BYTES;
	inlet_queue_notice(in, &in->outgoing, notice_seal(&seal));
}

/* Asks for what runs low; what the ring does not take is asked for next turn. */
static void
ask_for_supplies(struct inlet *in)
{
	struct message m = { .kind = MESSAGE_ID_REQ };

	if (in->channel == NULL)
		return;
	if (!in->ids_asked && (uint64_t)in->ids[0].left + in->ids[1].left < ID_LOW) {
		m.u.id_req.count = ID_BLOCK;
		in->ids_asked = channel_send(in->channel, &m, SLICE_NONE) == 0;
	}
	if (loop_boot_us(in->loop) < in->ask_not_before_us)
		return;
	memset(&m, 0, sizeof m);
	m.kind = MESSAGE_SEG_REQ;
	for (unsigned n = room_wanted(&in->room); n > 0; n--) {
		if (channel_send(in->channel, &m, SLICE_NONE) != 0)
			return;
		in->room.asked++;
	}
	if (in->large.head != NULL && in->room.special_asked == 0 &&
	    !room_has(&in->room, ROOM_SPECIAL)) {
		m.u.seg_req.bytes = in->large.head->total;
		if (channel_send(in->channel, &m, SLICE_NONE) == 0)
			in->room.special_asked = in->large.head->total;
	}
}

/* Groups -----------------------------------------------------------------------------------------
 */

static void
add_iov(struct inlet *in, size_t *n, const void *p, size_t bytes)
{
	void *v = in->iov;

	if (bytes == 0)
		return;
	mem_grow(&v, &in->iov_cap, *n + 1, sizeof *in->iov);
	in->iov = v;
	in->iov[(*n)++] = (struct iovec){ (void *)(uintptr_t)p, bytes };
}

static void
add_parcel(struct inlet *in, struct parcel *p, const struct segment_writer *w, uint64_t offset,
	   size_t *n)
{
	static const char zeros[RECORD_ALIGN];

	p->segment = w->info.number;
	p->epoch = w->info.epoch;
	p->offset = offset;
	record_stamp(p->head.data + p->head.start, p->epoch);
	add_iov(in, n, p->head.data + p->head.start, p->head.len);
	for (size_t i = 0; i < p->n_pieces; i++)
		add_iov(in, n, p->pieces[i].p, p->pieces[i].n);
	CHECK(p->padding <= sizeof zeros);
	add_iov(in, n, zeros, p->padding);
}

#ifdef NEGATIVE_EARLY_ACKNOWLEDGE
/* The negative control: tells the client before anything is on disk. */
static void
acknowledge_early(struct inlet *in)
{
	for (struct parcel *p = in->group.head; p != NULL; p = p->next) {
		char text[ID_TEXT_BYTES];
		char reply[64];

		snprintf(reply, sizeof reply, "250 2.0.0 Queued as %s",
			 id_message_text(text, p->id));
		p->owner_answered = true;
		if (p->owner != NULL)
			in->hooks.on_answer(in->arg, p->owner, reply);
	}
}
#endif

/* Moves parcels from `from` into the group while they fit. */
static void
fill_group(struct inlet *in, struct parcel_list *from, enum room_place place)
{
	struct segment_writer *w = &in->room.at[place];
	uint64_t used = 0;
	size_t n = 0;

	while (from->head != NULL && (used == 0 || used + from->head->total <= GROUP_BYTES) &&
	       segment_fits(w, used + from->head->total)) {
		struct parcel *p = parcel_pop(from);

		add_parcel(in, p, w, w->end + used, &n);
		used += p->total;
		parcel_push(&in->group, p);
		if (place == ROOM_SPECIAL)
			break;
	}
	CHECK(n > 0);
	in->group_place = place;
	in->counts.syncs++;
	flush_start(in->flush, w, in->iov, n);
#ifdef NEGATIVE_EARLY_ACKNOWLEDGE
	acknowledge_early(in);
#endif
}

static void
form_group(struct inlet *in)
{
	if (flush_is_busy(in->flush) || loop_boot_us(in->loop) < in->write_not_before_us)
		return;
	if (in->large.head != NULL && room_has(&in->room, ROOM_SPECIAL)) {
		if (segment_fits(&in->room.at[ROOM_SPECIAL], in->large.head->total)) {
			fill_group(in, &in->large, ROOM_SPECIAL);
			return;
		}
		/* Made for a message that has left meanwhile. */
		seal_place(in, ROOM_SPECIAL, in->room.at[ROOM_SPECIAL].end, false);
	}
	if (in->waiting.head == NULL)
		return;
	/* Files are smaller on a small disk: what no ordinary one takes waits for its own. */
	while (room_has(&in->room, ROOM_CURRENT) && in->waiting.head != NULL &&
	       in->waiting.head->total >
		       in->room.at[ROOM_CURRENT].info.bytes - SEGMENT_HEADER_BYTES)
		parcel_push(&in->large, parcel_pop(&in->waiting));
	if (in->waiting.head == NULL)
		return;
	if (room_has(&in->room, ROOM_CURRENT) &&
	    !segment_fits(&in->room.at[ROOM_CURRENT], in->waiting.head->total))
		seal_place(in, ROOM_CURRENT, in->room.at[ROOM_CURRENT].end, false);
	if (room_has(&in->room, ROOM_CURRENT))
		fill_group(in, &in->waiting, ROOM_CURRENT);
}

static void
on_group_done(void *arg, int rc, uint64_t offset)
{
	struct inlet *in = arg;
	struct parcel_list done = in->group;

	in->group.head = NULL;
	if (rc != 0) {
		/* What is behind `offset` is unknown: never written, never named. */
		log_error("segment=%u offset=%llu write failed: %s",
			  in->room.at[in->group_place].info.number, (unsigned long long)offset,
			  err_text(rc));
		seal_place(in, in->group_place, offset, true);
		in->counts.seg_failed++;
		in->write_not_before_us = loop_boot_us(in->loop) + PAUSE_US;
		for (struct parcel *p; (p = parcel_pop(&done)) != NULL;)
			inlet_finish(in, p, "451 4.3.0 Message not stored, try again later");
		return;
	}
	for (struct parcel *p; (p = parcel_pop(&done)) != NULL;) {
		in->held_bytes -= p->body.len;
		parcel_drop_bytes(p);
		parcel_push(&in->outgoing, p);
	}
	if (in->group_place == ROOM_SPECIAL)
		seal_place(in, ROOM_SPECIAL, in->room.at[ROOM_SPECIAL].end, false);
}

void
inlet_submit(struct inlet *in, struct parcel *p)
{
	in->n++;
	in->held_bytes += p->body.len;
	in->counts.bytes += p->body.len;
	p->since_us = loop_boot_us(in->loop);
	parcel_push(p->total > ROOM_ORDINARY_MAX ? &in->large : &in->waiting, p);
}

void
inlet_disown(struct parcel *p)
{
	p->owner = NULL;
}

/* The flow ---------------------------------------------------------------------------------------
 */

static bool
is_blocked(const struct inlet *in)
{
	if (in->channel == NULL || in->outgoing.head != NULL)
		return true;
	if (in->ids[0].left + in->ids[1].left == 0)
		return true;
	if (loop_boot_us(in->loop) < in->write_not_before_us)
		return true;
	/* No room: in use and spare are full or not there yet. */
	return !room_has(&in->room, ROOM_CURRENT);
}

const char *
inlet_refusal(const struct inlet *in)
{
	return in->no_room ? NO_ROOM : BUSY;
}

static void
give_up_old(struct inlet *in, struct parcel_list *l, uint64_t age_us)
{
	uint64_t now = loop_boot_us(in->loop);

	/* Oldest first, and only as many as are there now. */
	while (l->head != NULL && l->head->notice == 0 && now - l->head->since_us >= age_us)
		inlet_finish(in, parcel_pop(l), inlet_refusal(in));
}

static void
update_flow(struct inlet *in)
{
	uint64_t now = loop_boot_us(in->loop);
	enum inlet_flow was = in->flow;

	/* A full disk does not pass in a moment: no client is kept waiting for it. */
	if (now < in->refuse_until_us || (in->no_room && is_blocked(in)))
		in->flow = INLET_REFUSING;
	else if (!is_blocked(in))
		in->flow = INLET_OPEN;
	else if (was == INLET_OPEN)
		in->flow = INLET_STALLED;
	if (was == INLET_OPEN && in->flow == INLET_STALLED)
		in->stalled_at_us = now;
	if (in->flow == INLET_STALLED && now - in->stalled_at_us >= INLET_STALL_US)
		in->flow = INLET_REFUSING;
	if (in->flow != was)
		in->hooks.on_flow(in->arg, in->flow);
}

/* Bounds the wait of every parcel, whatever the reason of it. */
static void
give_up(struct inlet *in)
{
	struct parcel_list keep = { 0 };
	bool full = in->no_room && is_blocked(in);

	give_up_old(in, &in->waiting, full ? 0 : INLET_STALL_US);
	give_up_old(in, &in->large, full ? 0 : INLET_STALL_US);
	give_up_old(in, &in->sent, INLET_SENT_US);
	if (in->flow != INLET_REFUSING)
		return;
	/* Synced but never told: it may go. Told once to a scheduler now dead: it waits longer. */
	for (struct parcel *p; (p = parcel_pop(&in->outgoing)) != NULL;) {
		uint64_t age = loop_boot_us(in->loop) - p->since_us;

		if (p->notice != 0 || age < (p->sent ? INLET_SENT_US : INLET_STALL_US))
			parcel_push(&keep, p);
		else
			inlet_finish(in, p, inlet_refusal(in));
	}
	in->outgoing = keep;
}

void
inlet_turn(struct inlet *in)
{
	give_up(in);
	ask_for_supplies(in);
	inlet_send_outgoing(in);
	form_group(in);
	inlet_send_outgoing(in); /* a seal, perhaps */
	update_flow(in);
	if (in->channel != NULL)
		channel_flush(in->channel);
}

enum inlet_flow
inlet_flow(const struct inlet *in)
{
	return in->flow;
}

struct inlet_counts
inlet_counts(const struct inlet *in)
{
	struct inlet_counts c = in->counts;
	uint64_t now = loop_boot_us(in->loop);

	c.waiting = in->n;
	if (in->no_room_since_us != 0 && now - in->no_room_since_us > c.seg_wait_us)
		c.seg_wait_us = now - in->no_room_since_us;
	return c;
}

uint64_t
inlet_held_bytes(const struct inlet *in)
{
	return in->held_bytes;
}

bool
inlet_is_empty(const struct inlet *in)
{
	return in->n == 0;
}

void
inlet_seal_all(struct inlet *in)
{
	CHECK(!flush_is_busy(in->flush));
	for (enum room_place i = 0; i < ROOM_PLACES; i++) {
		if (room_has(&in->room, i)) {
			struct message seal;

			room_seal(&in->room, i, in->room.at[i].end, &seal);
			inlet_queue_notice(in, &in->outgoing, notice_seal(&seal));
		}
	}
	inlet_send_outgoing(in);
	if (in->channel != NULL)
		channel_flush(in->channel);
}
