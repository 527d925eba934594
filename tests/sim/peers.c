/* peers: receivers and workers as the real ones behave towards the scheduler, with real segments
 * and claim tables; a resolver that knows every domain; the recorder. Each step is one small act,
 * so that a death comes between any two. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/err.h"
#include "common/base/wire.h"
#include "common/ipc/new_message.h"
#include "common/ipc/results.h"
#include "common/proc/route.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "tests/sim/sim.h"

#define PARCELS 48
#define SEALS   8
#define LINE    (PARCELS + 3 * SEALS) /* with notices */
#define CONNS 64 /* as many as there are: one worker may have them all */
#define OUTS    96
#define ASKS    64
#define DOMAINS 6

struct peer_base {
	enum role role;
	unsigned slot;
	bool lives, told_gone;
	uint32_t generation;
	struct link *l;
};

static const struct spool *spool;

/* Receivers ------------------------------------------------------------------------------------ */
struct parcel {
	bool is_notice, synced;
	struct sim_record r;
	struct message notice; /* a segment is sealed, or held */
	char news[768];
	size_t n_news;
};
struct receiver {
	struct peer_base b;
	bool resumed, ids_asked, segment_asked, open;
	uint64_t next_id, ids_end;
	struct segment_writer w;
	struct parcel line[LINE]; /* the first n_sent are told and wait for an answer */
	unsigned n, n_sent;
	struct message seals[SEALS];
	unsigned n_seals;
	unsigned mute; /* turns in which it tells nothing: busy with something else */
};
static struct receiver receivers[SIM_RECEIVERS];

static bool
say(struct peer_base *b, const struct message *m, struct slice payload)
{
	return b->l != NULL && link_alive(b->l) && link_put(b->l, m, payload);
}

static struct parcel *
add_parcel(struct receiver *v)
{
	struct parcel *p = &v->line[v->n++];

	HOLDS(v->n <= LINE, "a receiver has too much in hand");
	memset(p, 0, sizeof *p);
	return p;
}

static void
take_parcel(struct receiver *v, unsigned i)
{
	memmove(&v->line[i], &v->line[i + 1], (--v->n - i) * sizeof *v->line);
	if (i < v->n_sent)
		v->n_sent--;
}

static bool
receiver_sync(struct receiver *v)
{
	bool any = false;

	for (unsigned i = 0; i < v->n; i++)
		any = any || !v->line[i].synced;
	if (!any || !v->open)
		return false;
	HOLDS(segment_sync(&v->w) == 0, "a segment cannot be synced");
	for (unsigned i = 0; i < v->n; i++)
		v->line[i].synced = true;
	return true;
}

static void
seal(struct receiver *v)
{
	struct parcel *p;

	receiver_sync(v); /* what was written last goes with the old segment */
	p = add_parcel(v);
	p->is_notice = p->synced = true;
	p->notice.kind = MESSAGE_SEG_SEAL;
	p->notice.u.seg_seal.number = v->w.info.number;
	p->notice.u.seg_seal.epoch = v->w.info.epoch;
	p->notice.u.seg_seal.end = v->w.end;
	segment_writer_close(&v->w);
	v->open = false;
}

/* Envelope, payload of NEW and record of one message; the line's last parcel. */
static bool
write_message(struct receiver *v)
{
	static char rcpts[8][64], domains[4][32], body[3000];
	struct slice addresses[8], piece;
	struct record_entry entries[4];
	struct buf head = { 0 }, news = { 0 };
	struct record_envelope env = { .id = v->next_id, .received_wall_us = sim_clock.wall_us };
	struct new_message n = { .vmta = SLICE_LIT("{default}"),
				 .sender_domain = SLICE_LIT("from.example") };
	struct sim_record r = { .id = v->next_id };
	struct parcel *p;
	static const char zeros[RECORD_ALIGN];
	struct iovec iov[3];
	int64_t at;

	r.n_entries = (uint16_t)(sim_percent(75) ? 1 : 2);
	for (unsigned i = 0, d = sim_below(DOMAINS); i < r.n_entries; i++, d = (d + 1) % DOMAINS) {
		r.domain[i] = (uint8_t)d;
		r.first[i] = r.n_rcpts;
		r.count[i] = (uint16_t)(sim_percent(70) ? 1 : 1 + sim_below(3));
		snprintf(domains[i], sizeof domains[i], "d%u.example", d);
		entries[i] = (struct record_entry){ slice_str(domains[i]), r.first[i], r.count[i] };
		for (unsigned k = 0; k < r.count[i]; k++, r.n_rcpts++) {
			snprintf(rcpts[r.n_rcpts], sizeof rcpts[0], "r%u.%llx@%s", r.n_rcpts,
				 (unsigned long long)r.id, domains[i]);
			addresses[r.n_rcpts] = slice_str(rcpts[r.n_rcpts]);
		}
	}
	env.sender = SLICE_LIT("sender@from.example");
	env.vmta = n.vmta;
	env.job = n.job = sim_percent(50)   ? SLICE_NONE
			  : sim_percent(50) ? SLICE_LIT("job1")
					    : SLICE_LIT("d1.example/{default}");
	env.n_rcpts = r.n_rcpts;
	env.rcpts = addresses;
	env.n_entries = r.n_entries;
	env.entries = entries;
	for (size_t i = 0, bytes = sim_below(sizeof body); i < sizeof body; i += 8) {
		uint64_t x = sim_random();

		memcpy(body + i, &x, 8);
		piece = slice_of(body, bytes);
	}
	record_encode(&head, &env, 0, &piece, 1);
	r.bytes = record_total(head.len, piece.n);
	if (!segment_fits(&v->w, r.bytes)) {
		buf_clear(&head);
		seal(v);
		return true;
	}
	v->next_id++;
	r.segment = v->w.info.number;
	r.epoch = v->w.info.epoch;
	record_stamp(head.data + head.start, r.epoch);
	iov[0] = (struct iovec){ head.data + head.start, head.len };
	iov[1] = (struct iovec){ (void *)(uintptr_t)piece.p, piece.n };
	iov[2] = (struct iovec){ (void *)(uintptr_t)zeros, record_padding(head.len, piece.n) };
	at = segment_append(&v->w, iov, 3);
	HOLDS(at >= 0, "a record cannot be appended");
	r.offset = (uint64_t)at;
	p = add_parcel(v);
	p->r = r;
	n.received_wall_us = env.received_wall_us;
	n.n_entries = r.n_entries;
	n.entries = entries;
	new_message_encode(&news, &n);
	p->n_news = news.len;
	HOLDS(news.len <= sizeof p->news, "news of %zu bytes", news.len);
	memcpy(p->news, news.data + news.start, news.len);
	buf_clear(&head);
	buf_clear(&news);
	ledger_written(&r);
	return true;
}

static bool
receiver_tell(struct receiver *v)
{
	struct parcel *p = &v->line[v->n_sent];
	struct message m = { .kind = MESSAGE_NEW };

	if (v->mute > 0) {
		v->mute--;
		return false;
	}
	if (v->n_sent == v->n || !p->synced)
		return false;
	if (p->is_notice) {
		if (!say(&v->b, &p->notice, SLICE_NONE))
			return false;
		if (p->notice.kind == MESSAGE_SEG_SEAL)
			v->seals[v->n_seals++ % SEALS] = p->notice;
		take_parcel(v, v->n_sent);
		return true;
	}
	m.u.new_message.id = p->r.id;
	m.u.new_message.segment = p->r.segment;
	m.u.new_message.epoch = p->r.epoch;
	m.u.new_message.offset = p->r.offset;
	m.u.new_message.bytes = p->r.bytes;
	m.u.new_message.n_entries = p->r.n_entries;
	if (!say(&v->b, &m, slice_of(p->news, p->n_news)))
		return false;
	v->n_sent++;
	return true;
}

static void
receiver_answered(struct receiver *v, const struct message *m)
{
	for (unsigned i = 0; i < v->n_sent; i++) {
		struct parcel *p = &v->line[i];

		if (p->is_notice || p->r.id != m->u.ack.id)
			continue;
		if (m->kind == MESSAGE_ACK)
			ledger_acknowledged(p->r.id);
		else
			ledger_refused(p->r.id);
		take_parcel(v, i);
		return;
	}
	sim_broken("an answer for message %llx that nobody waits for",
		   (unsigned long long)m->u.ack.id);
}

/* By the file, not its number: one that was removed may still be open. */
static void
nobody_else_writes(const struct receiver *v)
{
	struct stat mine, other;

	HOLDS(fstat(v->w.fd, &mine) == 0, "a segment has no state");
	for (unsigned i = 0; i < SIM_RECEIVERS; i++) {
		const struct receiver *o = &receivers[i];

		HOLDS(o == v || !o->open || fstat(o->w.fd, &other) != 0 ||
			      other.st_ino != mine.st_ino,
		      "segment %u is given to a second receiver", v->w.info.number);
	}
}

static void
receiver_room(struct receiver *v, const struct message *m)
{
	v->segment_asked = false;
	if (m->u.seg_open.number == 0)
		return;
	HOLDS(!v->open, "a second segment");
	HOLDS(segment_writer_open(&v->w, spool->segments_fd, m->u.seg_open.number,
				  m->u.seg_open.epoch, spool->instance) == 0,
	      "segment %u is given but cannot be opened", m->u.seg_open.number);
	v->open = true;
	nobody_else_writes(v);
}

static bool
receiver_hears(struct receiver *v)
{
	struct message m;
	struct slice payload;

	if (v->b.l == NULL || !link_get(v->b.l, &m, &payload))
		return false;
	switch (m.kind) {
	case MESSAGE_ID_BLOCK:
		v->ids_asked = false;
		v->next_id = m.u.id_block.first;
		v->ids_end = v->next_id + m.u.id_block.count;
		break;
	case MESSAGE_SEG_OPEN:
		receiver_room(v, &m);
		break;
	default:
		receiver_answered(v, &m);
		break;
	}
	return true;
}

static bool
receiver_asks(struct receiver *v)
{
	struct message m = { .kind = MESSAGE_ID_REQ };

	if (v->b.l == NULL)
		return false;
	if (v->next_id == v->ids_end && !v->ids_asked) {
		m.u.id_req.count = 1;
		return v->ids_asked = say(&v->b, &m, SLICE_NONE);
	}
	memset(&m, 0, sizeof m);
	m.kind = MESSAGE_SEG_REQ;
	if (!v->open && !v->segment_asked)
		return v->segment_asked = say(&v->b, &m, SLICE_NONE);
	return false;
}

static bool
receiver_step(struct receiver *v)
{
	switch (sim_below(6)) {
	case 0:
		if (sim_calm || v->n >= PARCELS / 2 || !v->open || v->next_id == v->ids_end)
			return false;
		if (sim_percent(1)) {
			seal(v);
			return true;
		}
		return write_message(v);
	case 1:
		return receiver_sync(v);
	case 2:
		return receiver_tell(v);
	case 3:
		return receiver_asks(v);
	default:
		return receiver_hears(v);
	}
}

static void
tell_held(struct receiver *v, uint32_t number, uint64_t epoch)
{
	struct parcel *p = add_parcel(v);

	p->is_notice = p->synced = true;
	p->notice.kind = MESSAGE_SEG_HELD;
	p->notice.u.seg_held.number = number;
	p->notice.u.seg_held.epoch = epoch;
}

static void
receiver_connect(struct receiver *v)
{
	struct message m = { .kind = MESSAGE_RECEIVER_HELLO };

	m.u.hello.flags = v->resumed ? HELLO_RESUMED : 0;
	HOLDS(link_put(v->b.l, &m, SLICE_NONE), "no room for a first word");
	if (v->resumed) {
		unsigned kept = v->n_seals < SEALS ? v->n_seals : SEALS;

		/* What was told is told again, then the seals, then the rest. */
		HOLDS(v->n + kept <= LINE, "too much to tell again");
		memmove(&v->line[v->n_sent + kept], &v->line[v->n_sent],
			(v->n - v->n_sent) * sizeof *v->line);
		for (unsigned i = 0; i < kept; i++) {
			struct parcel *p = &v->line[v->n_sent + i];

			memset(p, 0, sizeof *p);
			p->is_notice = p->synced = true;
			p->notice = v->seals[(v->n_seals - kept + i) % SEALS];
		}
		v->n += kept;
		for (unsigned i = v->n; i-- > 0;) {
			if (v->line[i].is_notice && v->line[i].notice.kind == MESSAGE_SEG_HELD)
				take_parcel(v, i);
		}
		if (v->open)
			tell_held(v, v->w.info.number, v->w.info.epoch);
		tell_held(v, 0, 0);
	}
	v->n_seals = 0;
	v->n_sent = 0;
	v->mute = sim_percent(20) ? sim_below(400) : 0;
	v->resumed = true;
}

/* Workers -------------------------------------------------------------------------------------- */
enum phase { GOT, BEGUN, ASKING, SENT, ANSWERED };
struct sim_conn {
	bool used, opening, closing, orphan, busy;
	uint32_t number;
	struct message work;
	unsigned char bits[128];
	enum phase phase;
	bool lost; /* with the dot out */
	struct result_rcpt rcpts[8];
	char addresses[8][64];
	unsigned n_rcpts;
	bool asked; /* the scheduler's answer is due */
	unsigned n_asked, n_stamped;
};
struct out {
	struct message m;
	char payload[2048];
	size_t n;
};
struct sim_worker {
	struct peer_base b;
	bool resumed, said_hello;
	struct claim_table *claims;
	struct segment_cache *cache;
	struct sim_conn conns[CONNS];
	struct out outs[OUTS];
	unsigned n_outs;
};
static struct sim_worker workers[SIM_WORKERS];

static void
worker_say(struct sim_worker *w, const struct message *m, struct slice payload)
{
	struct out *o = &w->outs[w->n_outs];

	HOLDS(w->n_outs < OUTS && payload.n <= sizeof o->payload, "a worker has too much to say");
	if (w->b.l == NULL && m->kind != MESSAGE_RESULT)
		return;
	o->m = *m;
	o->n = payload.n;
	if (payload.n > 0)
		memcpy(o->payload, payload.p, payload.n);
	w->n_outs++;
}

static bool
worker_flush(struct sim_worker *w)
{
	if (w->n_outs == 0 ||
	    !say(&w->b, &w->outs[0].m, slice_of(w->outs[0].payload, w->outs[0].n)))
		return false;
	memmove(w->outs, w->outs + 1, --w->n_outs * sizeof *w->outs);
	return true;
}

static void
worker_closed(struct sim_worker *w, struct sim_conn *c)
{
	struct message m = { .kind = MESSAGE_CLOSED };

	m.u.closed.connection = c->number;
	if (!c->orphan)
		worker_say(w, &m, SLICE_LIT("closed"));
	c->used = false;
}

/* The record that WORK names is the one that was acknowledged. */
static void
read_record(struct sim_worker *w, struct sim_conn *c)
{
	const struct message *k = &c->work;
	struct segment_ref ref;
	struct record rec;
	int rc = segment_get(w->cache, k->u.work.segment, k->u.work.epoch, &ref);

	HOLDS(rc == 0, "message %llx: its segment %u cannot be read: %s",
	      (unsigned long long)k->u.work.id, k->u.work.segment, err_text(rc));
	rc = record_decode(&rec, slice_sub(ref.bytes, (size_t)k->u.work.offset16 * RECORD_ALIGN),
			   k->u.work.epoch, k->u.work.id);
	HOLDS(rc == 0, "message %llx: its record in segment %u at %llu is damaged: %s",
	      (unsigned long long)k->u.work.id, k->u.work.segment,
	      (unsigned long long)k->u.work.offset16 * RECORD_ALIGN, err_text(rc));
	c->n_rcpts = 0;
	for (unsigned i = 0; i < k->u.work.n_rcpts; i++) {
		struct result_rcpt *r = &c->rcpts[c->n_rcpts];

		if ((c->bits[i / 8] >> i % 8 & 1) == 0)
			continue;
		HOLDS(k->u.work.first_rcpt + i < rec.env.n_rcpts,
		      "a recipient that is not in the record");
		memset(r, 0, sizeof *r);
		r->index = (uint16_t)i;
		str_copy(c->addresses[c->n_rcpts++], sizeof c->addresses[0],
			 rec.env.rcpts[k->u.work.first_rcpt + i]);
	}
	record_clear(&rec);
	segment_put(w->cache, k->u.work.segment, k->u.work.epoch);
}

static void
decide(struct sim_conn *c, bool after_dot)
{
	for (unsigned i = 0; i < c->n_rcpts; i++) {
		struct result_rcpt *r = &c->rcpts[i];
		unsigned x = sim_calm ? 0 : sim_below(100);

		if ((c->work.u.work.flags & WORK_ASK) != 0 && r->stamp_boot_us == 0)
			r->stamp_boot_us = EVENT_STAMP_NONE;
		/* Lost before anybody was asked for: all bear it. */
		if (r->stamp_boot_us == EVENT_STAMP_NONE && (c->n_stamped > 0 || after_dot)) {
			r->action = EVENT_UNATTEMPTED;
			continue;
		}
		r->action = !after_dot || x >= 85 ? EVENT_DEFERRED
			    : x < 75              ? EVENT_DELIVERED
						  : EVENT_BOUNCED;
		r->status[0] = r->action == EVENT_DELIVERED ? 2
			       : r->action == EVENT_BOUNCED ? 5
							    : 4;
		r->diag = r->action == EVENT_DELIVERED ? SLICE_LIT("smtp;250 taken")
						       : SLICE_LIT("smtp;450 not so");
		if (after_dot)
			ledger_took(c->work.u.work.lease, r->index, r->action);
		if (c->lost) {
			r->action = EVENT_DEFERRED;
			r->status[0] = 4;
		}
	}
}

static void
send_result(struct sim_worker *w, struct sim_conn *c, uint32_t flags)
{
	struct results r = { .flags = flags,
			     .wall_us = sim_clock.wall_us,
			     .boot_us = sim_clock.boot_us };
	struct slice addresses[8];
	struct result_strings st = { .sender = SLICE_LIT("sender@from.example"),
				     .rcpts = addresses };
	struct buf encoded = { 0 }, payload = { 0 };
	struct message m = { .kind = MESSAGE_RESULT };
	int rc;

	r.rcpts = c->rcpts;
	r.n_rcpts = st.n_rcpts = c->n_rcpts;
	r.dsn_mta = SLICE_LIT("dns;mx.example (192.0.2.1)");
	for (unsigned i = 0; i < c->n_rcpts; i++)
		addresses[i] = slice_str(c->addresses[i]);
	results_encode(&encoded, &r);
	rc = claim_answer(w->claims, c->work.u.work.claim_slot, c->work.u.work.lease,
			  buf_slice(&encoded));
	HOLDS(rc == 0, "a claim slot does not take its answer: %s", err_text(rc));
	wire_put_u32(&payload, (uint32_t)encoded.len);
	buf_put_slice(&payload, buf_slice(&encoded));
	if (sim_percent(85))
		result_strings_encode(&payload, &st);
	m.u.result.lease = c->work.u.work.lease;
	m.u.result.connection = c->number;
	m.u.result.claim_slot = c->work.u.work.claim_slot;
	m.u.result.flags = flags;
	if (!sim_percent(2) || sim_calm || c->orphan) /* else the claim table must do */
		worker_say(w, &m, buf_slice(&payload));
	else
		flags |= RESULT_CONNECTION_GONE;
	ledger_lease_ends(c->work.u.work.lease, true);
	c->busy = false;
	buf_clear(&encoded);
	buf_clear(&payload);
	if ((flags & RESULT_CONNECTION_GONE) != 0)
		worker_closed(w, c);
	else if (c->orphan)
		c->used = false;
}

static void
give_back(struct sim_worker *w, struct sim_conn *c)
{
	struct message m = { .kind = MESSAGE_RETURNED };

	HOLDS(claim_return(w->claims, c->work.u.work.claim_slot, c->work.u.work.lease) == 0,
	      "a claim cannot be returned");
	m.u.returned.lease = c->work.u.work.lease;
	m.u.returned.connection = c->number;
	m.u.returned.claim_slot = c->work.u.work.claim_slot;
	m.u.returned.why = RETURN_LATE;
	worker_say(w, &m, SLICE_NONE);
	ledger_lease_ends(c->work.u.work.lease, true);
	c->busy = false;
	if (c->orphan)
		c->used = false;
}

static struct sim_conn *find_conn(struct sim_worker *w, uint32_t number);

/* The rest is not attempted: DATA with those that were, or RSET. */
static void
conn_asked_all(struct sim_worker *w, struct sim_conn *c)
{
	if (c->n_stamped == 0) {
		decide(c, true);
		send_result(w, c, 0);
		return;
	}
	HOLDS(claim_dot(w->claims, c->work.u.work.claim_slot, c->work.u.work.lease) == 0,
	      "a claim cannot send its dot");
	c->phase = SENT;
}

static void
conn_asks(struct sim_worker *w, struct sim_conn *c)
{
	struct message m = { .kind = MESSAGE_RCPT_ASK };

	if (!sim_calm && sim_percent(3)) { /* lost before the dot */
		decide(c, false);
		send_result(w, c, RESULT_CONNECTION_GONE | (sim_percent(50) ? RESULT_HOST : 0));
		return;
	}
	if (c->n_asked == c->n_rcpts || c->orphan) {
		conn_asked_all(w, c);
		return;
	}
	if (c->asked)
		return;
	c->asked = true;
	m.u.rcpt_ask.lease = c->work.u.work.lease;
	m.u.rcpt_ask.connection = c->number;
	m.u.rcpt_ask.claim_slot = c->work.u.work.claim_slot;
	m.u.rcpt_ask.index = c->rcpts[c->n_asked].index;
	worker_say(w, &m, SLICE_NONE);
}

static void
conn_may(struct sim_worker *w, const struct message *m)
{
	struct sim_conn *c = find_conn(w, m->u.rcpt_may.connection);
	uint64_t lease = m->u.rcpt_may.lease;
	unsigned index = m->u.rcpt_may.index;

	if (c == NULL || !c->busy || c->phase != ASKING || !c->asked ||
	    c->work.u.work.lease != lease)
		return;
	HOLDS(c->rcpts[c->n_asked].index == index, "an answer to another question");
	c->asked = false;
	if (m->u.rcpt_may.may == 0 || m->u.rcpt_may.deadline_boot_us < sim_clock.boot_us) {
		conn_asked_all(w, c);
		return;
	}
	HOLDS(claim_stamp(w->claims, c->work.u.work.claim_slot, lease, c->n_stamped,
			  (uint16_t)index, m->u.rcpt_may.stamp_boot_us) == 0,
	      "a claim takes no stamp");
	ledger_stamped(lease, index, m->u.rcpt_may.stamp_boot_us);
	c->rcpts[c->n_asked++].stamp_boot_us = m->u.rcpt_may.stamp_boot_us;
	c->n_stamped++;
}

static void
tell_match(struct sim_worker *w, const struct sim_conn *c)
{
	struct message m = { .kind = MESSAGE_REPLY_MATCH };
	struct buf payload = { 0 };

	if (!c->orphan && w->b.l != NULL && modes_match(&m, &payload)) {
		m.u.reply_match.lease = c->work.u.work.lease;
		m.u.reply_match.connection = c->number;
		worker_say(w, &m, buf_slice(&payload));
	}
	buf_clear(&payload);
}

static void
conn_works(struct sim_worker *w, struct sim_conn *c)
{
	unsigned slot = c->work.u.work.claim_slot;
	uint64_t lease = c->work.u.work.lease;

	switch (c->phase) {
	case GOT:
		if (!sim_calm && sim_percent(5)) {
			give_back(w, c);
			break;
		}
		HOLDS(claim_begin(w->claims, slot, lease) == 0, "a claim cannot begin");
		c->phase = BEGUN;
		break;
	case BEGUN:
		read_record(w, c);
		if ((c->work.u.work.flags & WORK_ASK) != 0) {
			c->asked = false;
			c->n_asked = c->n_stamped = 0;
			c->phase = ASKING;
			break;
		}
		if (!sim_calm && sim_percent(5)) { /* lost before the dot */
			decide(c, false);
			send_result(w, c,
				    RESULT_CONNECTION_GONE | (sim_percent(50) ? RESULT_HOST : 0));
			break;
		}
		HOLDS(claim_dot(w->claims, slot, lease) == 0, "a claim cannot send its dot");
		c->phase = SENT;
		break;
	case ASKING:
		conn_asks(w, c);
		break;
	case SENT:
		c->lost = !sim_calm && sim_percent(5);
		decide(c, true);
		if (sim_flips && sim_percent(40))
			tell_match(w, c);
		c->phase = ANSWERED;
		break;
	case ANSWERED:
		send_result(w, c, c->lost ? RESULT_CONNECTION_GONE | RESULT_MAYBE_DUP : 0);
		break;
	}
}

static struct sim_conn *
find_conn(struct sim_worker *w, uint32_t number)
{
	for (int i = 0; i < CONNS; i++) {
		if (w->conns[i].used && !w->conns[i].orphan && w->conns[i].number == number)
			return &w->conns[i];
	}
	return NULL;
}

static void
worker_opens(struct sim_worker *w, const struct message *m)
{
	HOLDS(find_conn(w, m->u.open.connection) == NULL, "connection %u is opened twice",
	      m->u.open.connection);
	for (int i = 0; i < CONNS; i++) {
		struct sim_conn *c = &w->conns[i];

		if (c->used)
			continue;
		*c = (struct sim_conn){ .used = true,
					.opening = true,
					.number = m->u.open.connection };
		return;
	}
	sim_broken("more than %d connections of a worker", CONNS);
}

static void
worker_is_given(struct sim_worker *w, const struct message *m, struct slice bits)
{
	struct sim_conn *c = find_conn(w, m->u.work.connection);

	if (c == NULL || c->closing) { /* it has gone meanwhile */
		struct message back = { .kind = MESSAGE_RETURNED };

		(void)claim_return(w->claims, m->u.work.claim_slot, m->u.work.lease);
		back.u.returned.lease = m->u.work.lease;
		back.u.returned.connection = m->u.work.connection;
		back.u.returned.claim_slot = m->u.work.claim_slot;
		worker_say(w, &back, SLICE_NONE);
		return;
	}
	HOLDS(!c->busy && !c->opening, "work for a connection that is not idle");
	c->busy = true;
	c->phase = GOT;
	c->lost = false;
	c->work = *m;
	memset(c->bits, 0, sizeof c->bits);
	memcpy(c->bits, bits.p, bits.n);
	ledger_granted(m, bits, w->b.slot);
}

static bool
worker_hears(struct sim_worker *w)
{
	struct message m;
	struct slice payload;
	struct sim_conn *c;

	if (w->b.l == NULL || !link_alive(w->b.l) || w->n_outs > OUTS / 2 ||
	    !link_get(w->b.l, &m, &payload))
		return false;
	switch (m.kind) {
	case MESSAGE_OPEN:
		worker_opens(w, &m);
		break;
	case MESSAGE_WORK:
		worker_is_given(w, &m, payload);
		break;
	case MESSAGE_RCPT_MAY:
		conn_may(w, &m);
		break;
	case MESSAGE_CLOSE:
		c = find_conn(w, m.u.conn.connection);
		if (c != NULL)
			c->closing = true;
		break;
	default:
		break;
	}
	return true;
}

static void
open_ends(struct sim_worker *w, struct sim_conn *c)
{
	struct message m = { .kind = MESSAGE_OPENED };

	c->opening = false;
	if (sim_calm || sim_percent(85)) {
		m.u.opened.connection = c->number;
		m.u.opened.rcpt_max = sim_percent(20) ? 1 : 0;
		m.u.opened.flags = sim_percent(50) ? OPENED_PIPELINING : 0;
		worker_say(w, &m, SLICE_NONE);
		return;
	}
	m.kind = MESSAGE_OPEN_FAILED;
	m.u.open_failed.connection = c->number;
	m.u.open_failed.why =
		OPEN_CONNECT_REFUSED + sim_below(OPEN_NO_RESOURCES - OPEN_CONNECT_REFUSED + 1);
	worker_say(w, &m, SLICE_NONE);
	c->used = false;
}

static bool
conn_step(struct sim_worker *w, struct sim_conn *c)
{
	if (!c->used || w->n_outs > OUTS / 2)
		return false;
	if (c->opening)
		open_ends(w, c);
	else if (c->busy)
		conn_works(w, c);
	else if (c->closing || (!sim_calm && sim_percent(1)))
		worker_closed(w, c);
	else
		return false;
	return true;
}

static bool
worker_step(struct sim_worker *w)
{
	if (sim_percent(30))
		return worker_hears(w);
	if (sim_percent(40))
		return worker_flush(w);
	for (unsigned i = 0, first = sim_below(CONNS); i < CONNS; i++) {
		if (conn_step(w, &w->conns[(first + i) % CONNS]))
			return true;
	}
	return false;
}

static void
worker_connect(struct sim_worker *w)
{
	struct message m = { .kind = MESSAGE_WORKER_HELLO };

	m.u.hello.flags = w->resumed ? HELLO_RESUMED : 0;
	m.u.hello.connections = sim_below(3) == 0 ? 1 + sim_below(8) : 0;
	HOLDS(link_put(w->b.l, &m, SLICE_NONE), "no room for a first word");
	for (int i = 0; i < CONNS; i++) {
		struct sim_conn *c = &w->conns[i];
		struct message held = { .kind = MESSAGE_HELD };

		if (!c->used || !c->busy)
			continue;
		held.u.held.connection = c->number;
		held.u.held.lease = c->work.u.work.lease;
		held.u.held.claim_slot = c->work.u.work.claim_slot;
		held.u.held.state = CLAIM_BEGUN;
		HOLDS(link_put(w->b.l, &held, SLICE_NONE), "no room for what is held");
	}
	for (unsigned i = 0; i < w->n_outs; i++) {
		struct message held = { .kind = MESSAGE_HELD };

		held.u.held.lease = w->outs[i].m.u.result.lease;
		held.u.held.connection = w->outs[i].m.u.result.connection;
		held.u.held.claim_slot = w->outs[i].m.u.result.claim_slot;
		held.u.held.state = CLAIM_ANSWERED;
		HOLDS(link_put(w->b.l, &held, SLICE_NONE), "no room for what is held");
	}
	memset(&m, 0, sizeof m);
	m.kind = MESSAGE_HELLO_END;
	HOLDS(link_put(w->b.l, &m, SLICE_NONE), "no room for a last word");
	w->resumed = true;
}

static void
worker_orphaned(struct sim_worker *w)
{
	unsigned kept = 0;

	for (int i = 0; i < CONNS; i++) {
		struct sim_conn *c = &w->conns[i];

		c->orphan = true;
		if (!c->busy)
			c->used = false;
	}
	for (unsigned i = 0; i < w->n_outs; i++) {
		if (w->outs[i].m.kind == MESSAGE_RESULT)
			w->outs[kept++] = w->outs[i];
	}
	w->n_outs = kept;
}

/* Resolver and recorder
 * ---------------------------------------------------------------------------- */
struct resolver {
	struct peer_base b;
	uint64_t tokens[ASKS];
	unsigned n;
};
static struct resolver resolver;

static bool
resolver_step(void)
{
	struct message m;
	struct slice payload;

	if (resolver.b.l == NULL || !link_alive(resolver.b.l))
		return false;
	if (resolver.n < ASKS && link_get(resolver.b.l, &m, &payload)) {
		if (m.kind == MESSAGE_ASK)
			resolver.tokens[resolver.n++] = m.u.ask.token;
		return true;
	}
	if (resolver.n == 0)
		return false;
	memset(&m, 0, sizeof m);
	m.kind = MESSAGE_ROUTE;
	m.u.route.token = resolver.tokens[0];
	m.u.route.generation = 1 + sim_below(3);
	m.u.route.slot = (uint32_t)(resolver.tokens[0] % ROUTE_SLOTS);
	m.u.route.expires_boot_us = sim_clock.boot_us + 3600 * SIM_SECOND;
	m.u.route.status = ROUTE_GOOD;
	m.u.route.n_targets = (uint16_t)(1 + sim_below(2));
	if (!sim_calm && sim_percent(10))
		m.u.route.status = sim_percent(80) ? ROUTE_TEMPORARY : ROUTE_NO_DOMAIN;
	if (m.u.route.status != ROUTE_GOOD)
		m.u.route.n_targets = 0;
	if (!say(&resolver.b, &m, SLICE_NONE))
		return false;
	memmove(resolver.tokens, resolver.tokens + 1, --resolver.n * sizeof *resolver.tokens);
	return true;
}

struct recorder {
	struct peer_base b;
	struct event_reader *reader;
	struct event_position at, durable, limit, told;
};
static struct recorder recorder;

static bool
recorder_step(void)
{
	struct recorder *r = &recorder;
	struct message m;
	struct slice payload;
	struct event e;
	int rc;

	if (r->b.l == NULL || !link_alive(r->b.l))
		return false;
	if (link_get(r->b.l, &m, &payload)) {
		if (m.kind == MESSAGE_SYNCED)
			r->limit =
				(struct event_position){ m.u.position.file, m.u.position.offset };
		return true;
	}
	if (event_position_before(r->at, r->limit)) {
		if (r->reader == NULL) {
			rc = event_reader_open(&r->reader, spool->events_fd, spool->instance,
					       r->at);
			HOLDS(rc == 0, "the event log cannot be opened at %llu/%llu: %s",
			      (unsigned long long)r->at.file, (unsigned long long)r->at.offset,
			      err_text(rc));
		}
		for (unsigned n = 1 + sim_below(20); n > 0; n--) {
			rc = event_read(r->reader, r->limit, &e, &r->at);
			HOLDS(rc >= 0, "the event log cannot be read at %llu/%llu: %s",
			      (unsigned long long)r->at.file, (unsigned long long)r->at.offset,
			      err_text(rc));
			if (rc == 0)
				break;
			ledger_event(&e);
		}
		return true;
	}
	if (!event_position_before(r->told, r->at))
		return false;
	memset(&m, 0, sizeof m);
	m.kind = MESSAGE_CURSOR;
	r->durable = r->at; /* its files are synced */
	m.u.position.file = r->at.file;
	m.u.position.offset = r->at.offset;
	if (!say(&r->b, &m, SLICE_NONE))
		return false;
	r->told = r->at;
	return true;
}

static void
recorder_forgets(void)
{
	event_reader_close(&recorder.reader);
	recorder.at = recorder.durable;
	recorder.limit = (struct event_position){ 0, 0 };
}

/* All of them ------------------------------------------------------------------------------------
 */
#define PEERS (SIM_RECEIVERS + SIM_WORKERS + 2)

static struct peer_base *
base_of(unsigned i)
{
	if (i < SIM_RECEIVERS)
		return &receivers[i].b;
	if (i < SIM_RECEIVERS + SIM_WORKERS)
		return &workers[i - SIM_RECEIVERS].b;
	return i == SIM_RECEIVERS + SIM_WORKERS ? &resolver.b : &recorder.b;
}

static void
connect_peer(struct peer_base *b)
{
	b->l = link_new();
	process_channel(b->role, b->slot, b->generation, b->l);
	switch (b->role) {
	case ROLE_RECEIVER:
		receiver_connect(&receivers[b->slot]);
		break;
	case ROLE_WORKER:
		worker_connect(&workers[b->slot]);
		break;
	case ROLE_RECORDER:
		recorder.told = (struct event_position){ 0, 0 };
		break;
	default:
		resolver.n = 0;
		break;
	}
}

static void
born(struct peer_base *b)
{
	b->lives = true;
	b->generation++;
	if (b->role == ROLE_WORKER) {
		struct sim_worker *w = &workers[b->slot];

		HOLDS(claim_table_open(&w->claims, spool->claims_fd, b->slot, spool->instance) == 0,
		      "a worker cannot open its claim table");
		w->cache = segment_cache_new(spool->segments_fd, spool->instance);
	}
	if (process_is_ready())
		connect_peer(b);
}

static void
died(struct peer_base *b)
{
	struct peer_base keep = *b;

	if (b->l != NULL)
		link_leave(b->l);
	keep.l = NULL;
	keep.lives = false;
	keep.told_gone = false;
	if (b->role == ROLE_RECEIVER) {
		if (receivers[b->slot].open)
			segment_writer_close(&receivers[b->slot].w);
		memset(&receivers[b->slot], 0, sizeof receivers[b->slot]);
	} else if (b->role == ROLE_WORKER) {
		struct sim_worker *w = &workers[b->slot];

		for (int i = 0; i < CONNS; i++) {
			if (w->conns[i].used && w->conns[i].busy)
				ledger_lease_ends(w->conns[i].work.u.work.lease, false);
		}
		claim_table_close(&w->claims);
		segment_cache_free(&w->cache);
		memset(w, 0, sizeof *w);
	} else if (b->role == ROLE_RECORDER) {
		recorder_forgets();
	}
	*b = keep;
}

void
peers_begin(const struct spool *s)
{
	spool = s;
	memset(receivers, 0, sizeof receivers);
	memset(workers, 0, sizeof workers);
	memset(&resolver, 0, sizeof resolver);
	memset(&recorder, 0, sizeof recorder);
	for (unsigned i = 0; i < SIM_RECEIVERS; i++)
		receivers[i].b = (struct peer_base){ .role = ROLE_RECEIVER, .slot = i };
	for (unsigned i = 0; i < SIM_WORKERS; i++)
		workers[i].b = (struct peer_base){ .role = ROLE_WORKER, .slot = i };
	resolver.b.role = ROLE_RESOLVER;
	recorder.b.role = ROLE_RECORDER;
	for (unsigned i = 0; i < PEERS; i++) {
		base_of(i)->told_gone = true;
		born(base_of(i));
	}
}

void
peers_end(void)
{
	for (unsigned i = 0; i < PEERS; i++) {
		if (base_of(i)->lives)
			died(base_of(i));
	}
}

void
peers_connect(void)
{
	for (unsigned i = 0; i < PEERS; i++) {
		struct peer_base *b = base_of(i);

		if (b->lives)
			connect_peer(b);
		b->told_gone = true; /* a new scheduler never knew the dead */
	}
}

void
peers_lost_scheduler(void)
{
	for (unsigned i = 0; i < PEERS; i++) {
		struct peer_base *b = base_of(i);

		/* What a dead scheduler still managed to say was durable before. */
		while (b->role == ROLE_RECEIVER && b->lives && receiver_hears(&receivers[b->slot]))
			;
		if (b->l != NULL)
			link_leave(b->l);
		b->l = NULL;
	}
	for (unsigned i = 0; i < SIM_WORKERS; i++) {
		if (workers[i].b.lives)
			worker_orphaned(&workers[i]);
	}
	for (unsigned i = 0; i < SIM_RECEIVERS; i++)
		receivers[i].ids_asked = receivers[i].segment_asked = false;
}

bool
peers_open_segment(struct segment_info *out)
{
	const struct receiver *v = &receivers[sim_below(SIM_RECEIVERS)];

	if (v->open)
		*out = v->w.info;
	return v->open;
}

bool
peers_step(void)
{
	unsigned i = sim_below(PEERS + 4);
	struct peer_base *b = base_of(i % PEERS);

	if (!b->lives) {
		if (!b->told_gone) {
			b->told_gone = true;
			if (process_is_ready())
				process_gone(b->role, b->slot, b->generation);
			return true;
		}
		if (!sim_calm && !sim_percent(10))
			return false;
		born(b);
		return true;
	}
	switch (b->role) {
	case ROLE_RECEIVER:
		return receiver_step(&receivers[b->slot]);
	case ROLE_WORKER:
		return worker_step(&workers[b->slot]);
	case ROLE_RESOLVER:
		return resolver_step();
	default:
		return recorder_step();
	}
}

void
peers_kill(enum role role, unsigned slot)
{
	for (unsigned i = 0; i < PEERS; i++) {
		struct peer_base *b = base_of(i);

		if (b->lives && b->role == role && b->slot == slot)
			died(b);
	}
}

void
peers_kill_one(void)
{
	struct peer_base *b = base_of(sim_below(PEERS));

	if (b->lives) {
		sim_tell("dies: %s %u", role_name(b->role), b->slot);
		died(b);
	}
}

void
peers_kill_all(void)
{
	for (unsigned i = 0; i < PEERS; i++) {
		if (base_of(i)->lives)
			died(base_of(i));
	}
}

bool
peers_are_idle(void)
{
	if (event_position_before(recorder.at, recorder.limit))
		return false;
	for (unsigned i = 0; i < SIM_RECEIVERS; i++) {
		if (!receivers[i].b.lives || receivers[i].n > 0)
			return false;
	}
	for (unsigned i = 0; i < SIM_WORKERS; i++) {
		struct sim_worker *w = &workers[i];

		if (!w->b.lives || w->n_outs > 0)
			return false;
		for (int k = 0; k < CONNS; k++) {
			if (w->conns[k].used &&
			    (w->conns[k].busy || w->conns[k].opening || w->conns[k].closing))
				return false;
		}
	}
	return recorder.b.lives && resolver.b.lives && resolver.n == 0;
}
