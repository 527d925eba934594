/* intake: the receivers' side: ids, segments, new messages, acknowledgements. */
#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/planted.h"
#include "common/ipc/new_message.h"
#include "scheduler/notify.h"
#include "scheduler/state.h"

#define ID_BLOCK_COUNT 65536
#define STAMP_TRUST_US (600 * 1000000ull)
#define SEG_REQ_MAX    (2ull * (MESSAGE_BYTES_MAX + ENVELOPE_BYTES_MAX))

static struct peer *
alive(struct scheduler *s, uint64_t slot, uint64_t generation)
{
	struct peer *p = &s->receivers[slot];

	return p->channel != NULL && p->generation == (uint32_t)generation ? p : NULL;
}

static void
ids_are_durable(void *ctx, uint64_t slot_generation, uint64_t first, uint64_t count)
{
	struct scheduler *s = ctx;
	struct peer *p = alive(s, slot_generation >> 32, slot_generation);
	struct message m = { .kind = MESSAGE_ID_BLOCK };

	if (p == NULL)
		return;
	m.u.id_block.first = first;
	m.u.id_block.count = (uint32_t)count;
	peer_send(p, &m);
}

static uint64_t
slot_generation(const struct peer *p)
{
	return (uint64_t)p->slot << 32 | p->generation;
}

static void
give_ids(struct peer *p)
{
	struct store_meta *meta = committer_meta(p->s->committer);
	uint64_t first = meta->next_message_id;

	meta->next_message_id += ID_BLOCK_COUNT;
	committer_then(p->s->committer, COMMIT_NOW, ids_are_durable, p->s, slot_generation(p), first, ID_BLOCK_COUNT);
}

void
intake_segment(void *arg, unsigned receiver, uint32_t generation, uint64_t for_bytes, uint32_t number,
	       uint64_t epoch, uint64_t bytes, int rc)
{
	struct scheduler *s = arg;
	struct peer *p = alive(s, receiver, generation);
	struct message m = { .kind = MESSAGE_SEG_OPEN };

	if (p == NULL) {
		if (rc == 0)
			segments_seal(s->segments, number, epoch, receiver, false);
		return;
	}
	m.u.seg_open.epoch = epoch;
	m.u.seg_open.bytes = bytes;
	m.u.seg_open.for_bytes = for_bytes;
	m.u.seg_open.number = number; /* 0: there is none to be had */
	peer_send(p, &m);
}

/* New messages --------------------------------------------------------------------------------- */
static void
answer(void *ctx, uint64_t slot_gen, uint64_t id, uint64_t status)
{
	struct scheduler *s = ctx;
	struct peer *p = alive(s, slot_gen >> 32, slot_gen);
	struct message m = { .kind = status == 0 ? MESSAGE_ACK : MESSAGE_NACK };

	if (p == NULL)
		return;
	m.u.ack.id = id;
	m.u.ack.status = (uint32_t)status;
	peer_send(p, &m);
}

static void
entry_is_durable(void *ctx, uint64_t entry, uint64_t a, uint64_t b)
{
	struct scheduler *s = ctx;
	struct core_now now = scheduler_now(s);

	(void)a;
	(void)b;
	core_entry_committed(s->core, &now, (uint32_t)entry);
}

static void
log_reception(struct scheduler *s, const struct new_message *n)
{
	struct event e;

	if (!s->wants_reception || n->reception.n == 0)
		return;
	if (!committer_takes_event(s->committer, n->reception.n)) {
		log_warn("reception event=%zu_bytes larger than a file of the event log", n->reception.n);
		return;
	}
	if (event_decode(&e, n->reception, &s->scratch2) != 0 || e.kind != EVENT_RECEPTION) {
		log_warn("reception event=malformed");
		return;
	}
	committer_reception(s->committer, &e);
}

/* A message comes at most INLET_SENT_US after its stamp. One that is older, or of the future, was stamped
 * before a step of the clock: by it the message would expire at its first deferral, or never. */
static uint32_t
received_s(const struct scheduler *s, uint64_t stamp_wall_us)
{
	uint64_t now = loop_wall_us(s->loop);
	uint64_t away = now > stamp_wall_us ? now - stamp_wall_us : stamp_wall_us - now;

	return (uint32_t)((away < STAMP_TRUST_US ? stamp_wall_us : now) / 1000000u);
}

static void
queue_entry(struct peer *p, const struct message *m, const struct new_message *n, uint16_t ordinal)
{
	struct scheduler *s = p->s;
	const struct record_entry *re = &n->entries[ordinal];
	struct core_now now = scheduler_now(s);
	struct core_entry_facts f = {
		.key = { m->u.new_message.id, ordinal },
		.queue = backoff_target_of_new(s, rollups_queue(s, scheduler_queue(s, re->domain, n->vmta))),
		.segment = m->u.new_message.segment,
		.offset16 = (uint32_t)(m->u.new_message.offset / RECORD_ALIGN),
		.epoch = m->u.new_message.epoch,
		.received_s = received_s(s, n->received_wall_us),
		.first_rcpt = re->first,
		.n_rcpts = (uint16_t)re->count,
		.kbytes = (uint32_t)((m->u.new_message.bytes + 1023) / 1024),
		.job = scheduler_name(s, n->job),
		.sender_domain = scheduler_name(s, n->sender_domain),
	};
	struct store_row row = {
		.queue = f.queue,
		.segment = f.segment,
		.epoch = f.epoch,
		.offset = f.offset16,
		.received_s = f.received_s,
		.job = f.job,
		.sender_domain = f.sender_domain,
		.n_rcpts = f.n_rcpts,
		.first_rcpt = f.first_rcpt,
		.kbytes = f.kbytes,
	};
	uint32_t entry = core_entry_add(s->core, &now, &f);

	segments_live(s->segments, f.segment, 1, f.kbytes);
	committer_put_row(s->committer, COMMIT_NOW, f.key, &row);
	committer_then(s->committer, COMMIT_NOW, entry_is_durable, s, entry, 0, 0);
	s->totals.received_rcpt += f.n_rcpts;
}

/* What a receiver says is checked as if it were hostile. */
static bool
entries_are_sane(const struct new_message *n, const struct message *m)
{
	uint64_t next = 0;

	if (n->n_entries == 0 || n->n_entries != m->u.new_message.n_entries || n->vmta.n == 0 ||
	    n->vmta.n > NAME_BYTES_MAX / 2)
		return false;
	for (uint16_t i = 0; i < n->n_entries; i++) {
		const struct record_entry *e = &n->entries[i];

		if (e->count == 0 || e->count > ENTRY_RCPT_MAX || e->first != next || e->domain.n == 0 ||
		    e->domain.n > SMTP_DOMAIN_MAX)
			return false;
		next += e->count;
	}
	return next <= SMTP_RCPT_MAX;
}

/* One of a block that was leased to somebody. */
static bool
id_was_leased(const struct scheduler *s, msg_id_t id)
{
	return id != 0 && id < committer_meta_view(s->committer)->next_message_id;
}

static void
on_new(struct peer *p, const struct message *m, struct slice payload)
{
	struct scheduler *s = p->s;
	struct new_message n;
	int take = segments_check(s->segments, m->u.new_message.segment, m->u.new_message.epoch, p->slot,
				  m->u.new_message.offset, m->u.new_message.bytes);

	if (take == 0) { /* a commit of our earlier life has it */
		committer_then(s->committer, COMMIT_NOW, answer, s, slot_generation(p), m->u.new_message.id, 0);
		return;
	}
	if (take > 0 && s->quota != QUOTA_FREE) {
		answer(s, slot_generation(p), m->u.new_message.id, 452);
		return;
	}
	if (take < 0 || !id_was_leased(s, m->u.new_message.id) ||
	    new_message_decode(&n, payload, &s->scratch) != 0 || !entries_are_sane(&n, m)) {
		log_error("receiver=%u message=%016llx new=refused", p->slot,
			  (unsigned long long)m->u.new_message.id);
		answer(s, slot_generation(p), m->u.new_message.id, 451);
		return;
	}
	if (n.owed.n > 0 && !notify_stored(s, n.owed)) {
		answer(s, slot_generation(p), m->u.new_message.id, 451);
		return;
	}
	for (uint16_t i = 0; i < n.n_entries; i++)
		queue_entry(p, m, &n, i);
	log_reception(s, &n);
	segments_committed_to(s->segments, m->u.new_message.segment,
			      m->u.new_message.offset + m->u.new_message.bytes);
	s->totals.received++;
	if (PLANTED(ack_early)) {
		answer(s, slot_generation(p), m->u.new_message.id, 0);
		return;
	}
#ifdef NEGATIVE_EARLY_ACKNOWLEDGE
	answer(s, slot_generation(p), m->u.new_message.id, 0);
#else
	committer_then(s->committer, COMMIT_NOW, answer, s, slot_generation(p), m->u.new_message.id, 0);
#endif
}

static void
on_hello(struct peer *p, const struct message *m)
{
	p->said_hello = true;
	p->pid = m->u.hello.pid;
	log_info("receiver=%u pid=%u hello resumed=%d", p->slot, p->pid,
		 (m->u.hello.flags & HELLO_RESUMED) != 0);
	/* One that was started anew has forgotten what its predecessor had open; another one will say. */
	if (m->u.hello.flags & HELLO_RESUMED)
		segments_held_begin(p->s->segments, p->slot);
	else
		segments_seal_all(p->s->segments, p->slot);
}

/* A receiver says last what it has open: all that it had to tell again came before. */
static void
on_held(struct peer *p, const struct message *m)
{
	struct segments *segments = p->s->segments;

	if (m->u.seg_held.number == 0) {
		segments_held_end(segments, p->slot);
	} else if (!segments_held(segments, m->u.seg_held.number, m->u.seg_held.epoch, p->slot)) {
		/* It would write on in what is to be another's: nothing of it is taken until it is dead. */
		log_error("receiver=%u segment=%u held=unknown", p->slot, m->u.seg_held.number);
		peer_broken(p, -E_DENIED);
	}
}

static void
on_message(struct peer *p, const struct message *m, struct slice payload)
{
	struct scheduler *s = p->s;

	switch (m->kind) {
	case MESSAGE_RECEIVER_HELLO:
		on_hello(p, m);
		break;
	case MESSAGE_ID_REQ:
		give_ids(p);
		break;
	case MESSAGE_SEG_REQ:
		if (m->u.seg_req.bytes > SEG_REQ_MAX ||
		    !segments_request(s->segments, p->slot, p->generation, m->u.seg_req.bytes))
			peer_broken(p, -E_DENIED);
		break;
	case MESSAGE_SEG_SEAL:
		segments_seal(s->segments, m->u.seg_seal.number, m->u.seg_seal.epoch, p->slot,
			      m->u.seg_seal.failed != 0);
		break;
	case MESSAGE_SEG_HELD:
		on_held(p, m);
		break;
	case MESSAGE_NEW:
		on_new(p, m, payload);
		break;
	default:
		break;
	}
}

void
intake_channel(struct peer *p)
{
	struct message m;
	struct slice payload;

	/* Nothing new is taken while an answer waits for room in the ring: were it a refusal, and lost with us, what
	 * is committed behind it would make the message that is told again look committed too. */
	while (p->channel != NULL && (peer_flush(p) || channel_is_broken(p->channel)) &&
	       !committer_is_full(p->s->committer)) {
		int rc = channel_recv(p->channel, &m, &payload);

		if (rc == 0)
			return;
		if (rc < 0) {
			peer_broken(p, rc);
			return;
		}
		on_message(p, &m, payload);
	}
}

void
intake_gone(struct peer *p)
{
	/* NEWs left in the ring are dropped: no 250 was given for them. */
	peer_close(p);
	notify_receiver_gone(p->s, p->slot);
	segments_seal_all(p->s->segments, p->slot);
}
