/* settle: what became of claims and entries, made durable: event, row, then the slot is free. */
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/planted.h"
#include "scheduler/quarantine.h"
#include "scheduler/state.h"

#define OUTCOME_TEXT_MAX 600

static const char lost_diag[] = "x-sluice;connection lost";
static const char unknown_diag[] = "x-sluice;connection lost after the final dot, outcome unknown";

/* After the commit ----------------------------------------------------------------------------- */
static void
slot_is_free(void *ctx, uint64_t worker, uint64_t slot, uint64_t unused)
{
	struct scheduler *s = ctx;
	struct core_now now = scheduler_now(s);

	(void)unused;
	KILL_POINT("slot-free");
	claim_free(s->claims[worker], (unsigned)slot);
	if (worker >= s->n_workers)
		return; /* of an earlier configuration */
	core_worker_room(s->core, &now, (unsigned)worker);
}

static void
entry_is_gone(void *ctx, uint64_t entry, uint64_t segment, uint64_t kbytes)
{
	struct scheduler *s = ctx;
	struct core_now now = scheduler_now(s);

	core_entry_gone(s->core, &now, (uint32_t)entry);
	if (!PLANTED(recycle_early))
		segments_live(s->segments, (uint32_t)segment, -1, (uint32_t)kbytes);
}

/* Events --------------------------------------------------------------------------------------- */
static void
event_queue(struct scheduler *s, struct event *e, uint32_t queue)
{
	struct slice rest = names_get(s->names, queue);

	e->queue_number = queue;
	e->queue = rest;
	slice_cut(&rest, '/');
	e->vmta = rest;
}

static void
event_of_entry(struct scheduler *s, struct event *e, const struct core_entry_facts *f)
{
	event_queue(s, e, f->queue);
	e->wall_us = loop_wall_us(s->loop);
	e->message = f->key.message;
	e->ordinal = f->key.ordinal;
	e->first_rcpt = f->first_rcpt;
	e->entry_rcpts = f->n_rcpts;
	e->segment = f->segment;
	e->epoch = f->epoch;
	e->offset = f->offset16;
	e->received_wall_us = (uint64_t)f->received_s * 1000000u;
}

static void
event_strings(struct event *e, const struct result_strings *st)
{
	e->sender = st->sender;
	e->pool = st->pool;
	e->job = st->job;
	e->envid = st->envid;
	e->src_mta = st->src_mta;
	e->src_ip = st->src_ip;
	e->dst_ip = st->dst_ip;
	e->user = st->user;
	if (st->received_wall_us != 0)
		e->received_wall_us = st->received_wall_us;
	e->body_bytes = st->body_bytes;
}

struct store_row
settle_row(const struct core_entry_facts *f)
{
	return (struct store_row){
		.queue = f->queue,
		.segment = f->segment,
		.epoch = f->epoch,
		.offset = f->offset16,
		.due_s = f->due_s,
		.received_s = f->received_s,
		.job = f->job,
		.sender_domain = f->sender_domain,
		.attempts = f->attempts,
		.n_rcpts = f->n_rcpts,
		.first_rcpt = f->first_rcpt,
		.kbytes = f->kbytes,
		.flags = f->row_flags,
		.done = f->done,
	};
}

static struct store_row
row_of(const struct core_entry_facts *f, const struct core_decision *d)
{
	struct store_row row = settle_row(f);

	row.due_s = d->due_s;
	row.attempts = d->attempts;
	row.flags = d->row_flags;
	row.done = d->done;
	return row;
}

static void
put_row(struct scheduler *s, const struct core_entry_facts *f, const struct core_decision *d)
{
	struct store_row row = row_of(f, d);

	committer_put_row(s->committer, COMMIT_SETTLE, f->key, &row);
}

static void
forget_entry(struct scheduler *s, uint32_t entry, const struct core_entry_facts *f)
{
	committer_del_row(s->committer, COMMIT_SETTLE, f->key);
	if (PLANTED(recycle_early))
		segments_live(s->segments, f->segment, -1, f->kbytes);
	committer_then(s->committer, COMMIT_SETTLE, entry_is_gone, s, entry, f->segment, f->kbytes);
}

/* Claims --------------------------------------------------------------------------------------- */
static struct slice
worst_text(const struct results *r)
{
	struct slice text = SLICE_NONE;

	for (size_t i = 0; i < r->n_rcpts; i++) {
		if (r->rcpts[i].action != EVENT_DELIVERED)
			text = r->rcpts[i].diag;
	}
	return text;
}

/* Bytes that stay charged: the body's, once, if it may have been delivered to anybody. */
static uint64_t
volume_of(const struct results *r, const struct result_strings *st, const struct core_entry_facts *f)
{
	bool kept = (r->flags & RESULT_MAYBE_DUP) != 0;

	for (size_t i = 0; i < r->n_rcpts; i++)
		kept |= r->rcpts[i].action == EVENT_DELIVERED;
	if (!kept)
		return 0;
	return st->body_bytes != 0 ? st->body_bytes : (uint64_t)f->kbytes * 1024; /* the record is unreadable */
}

static struct slice
source_text(const struct scheduler *s, uint32_t source_ip)
{
	const struct conf_source_ip *ips;

	return source_ip < conf_source_ips(s->conf, &ips) ? slice_str(ips[source_ip].text) : SLICE_NONE;
}

static bool
decide(struct scheduler *s, const struct settle_source *from, const struct results *r, uint64_t volume,
       struct core_decision *d)
{
	struct core_now now = scheduler_now(s);
	struct core_rcpt_result rcpts[CLAIM_RCPT_MAX];
	struct core_result in = {
		.entry = from->entry,
		.lease = from->lease,
		.rcpts = rcpts,
		.connection_gone = (r->flags & RESULT_CONNECTION_GONE) != 0,
		.host_failed = (r->flags & RESULT_HOST) != 0,
		.maybe_dup = (r->flags & RESULT_MAYBE_DUP) != 0,
		.interrupted = (r->flags & RESULT_INTERRUPTED) != 0,
		.body_bytes = volume,
		.text = worst_text(r),
	};

	for (size_t i = 0; i < r->n_rcpts && i < CLAIM_RCPT_MAX; i++)
		rcpts[in.n_rcpts++] = (struct core_rcpt_result){ r->rcpts[i].index, r->rcpts[i].action };
	return core_settle(s->core, &now, &in, d);
}

/* A limit refused the first RCPT, say: the entry stands where it stood, there is nothing to remember. */
static bool
nothing_happened(const struct results *r, const struct core_entry_facts *f, const struct core_decision *d)
{
	bool attempted = r->n_rcpts == 0;

	for (size_t i = 0; i < r->n_rcpts; i++)
		attempted |= r->rcpts[i].action != EVENT_UNATTEMPTED;
	return !attempted && !d->finished && d->due_s == 0 && d->attempts == f->attempts &&
	       (r->flags & (RESULT_MAYBE_DUP | RESULT_HOST | RESULT_DAMAGED)) == 0;
}

/* What a worker says of a grant of ours lies behind the claim's and before now (unless that was in an earlier boot), or is
 * not to be believed. */
static uint64_t
row_stamp(uint64_t said, uint64_t claim_us, uint64_t now_us)
{
	if (said <= EVENT_STAMP_NONE)
		return said;
	return said >= claim_us && (said <= now_us || claim_us > now_us) ? said : 0;
}

/* The category and the place of the rule that names a reply; one that this configuration has no more says nothing.
 * `texts` holds the places; recipients in a row mostly have the same. */
static void
name_rules(struct scheduler *s, const struct results *r, struct event_rcpt *rcpts, struct buf *texts)
{
	struct { uint64_t key; int number; size_t at, n; } known[RESULT_RULES_MAX];
	const struct conf_rule *rules;
	size_t n_known = 0;

	(void)conf_rules(s->conf, &rules);
	for (size_t i = 0; i < r->n_rcpts && i < CLAIM_RCPT_MAX; i++) {
		size_t k = 0;

		while (k < n_known && known[k].key != r->rcpts[i].rule)
			k++;
		if (r->rcpts[i].rule == 0 || k == RESULT_RULES_MAX || k < n_known)
			continue;
		known[k].key = r->rcpts[i].rule;
		known[k].number = conf_rule_find(s->conf, known[k].key);
		known[k].at = texts->len;
		if (known[k].number >= 0)
			buf_printf(texts, "%s:%u", rules[known[k].number].file, rules[known[k].number].line);
		known[k].n = texts->len - known[k].at;
		n_known++;
	}
	for (size_t i = 0; i < r->n_rcpts && i < CLAIM_RCPT_MAX; i++) {
		for (size_t k = 0; k < n_known; k++) {
			const char *category;

			if (known[k].key != r->rcpts[i].rule || known[k].number < 0)
				continue;
			category = rules[known[k].number].category;
			rcpts[i].category = category != NULL ? slice_str(category) : SLICE_NONE;
			rcpts[i].rule = slice_of(buf_slice(texts).p + known[k].at, known[k].n);
		}
	}
}

/* The event of results: what the worker says of its attempt, what the core makes of it, and who it
 * was for. */
static void
event_attempt(struct scheduler *s, struct event *e, const struct settle_source *from,
	      const struct results *r)
{
	e->stamp_boot_us = from->stamp_boot_us;
	e->attempt = from->attempt;
	e->lease = from->lease;
	e->dlv_source_ip =
		r->dlv_source_ip.n > 0 ? r->dlv_source_ip : source_text(s, from->source_ip);
	e->dlv_destination_ip = r->dlv_destination_ip;
	e->dlv_esmtp = r->dlv_esmtp;
	e->dsn_mta = r->dsn_mta;
}

static void
event_decision(struct event *e, const struct core_decision *d)
{
	e->due_s = d->due_s;
	e->attempts = d->attempts;
	e->row_flags = d->row_flags;
	e->done = d->done;
	e->finished = d->finished;
	e->retry_level = d->retry_level;
	e->retry_at_s = d->retry_at_s;
}

static void
event_rcpts(struct event *e, struct event_rcpt *rcpts, const struct settle_source *from,
	    const struct results *r, const struct result_strings *strings, uint64_t now_us)
{
	e->rcpts = rcpts;
	for (size_t i = 0; i < r->n_rcpts && i < CLAIM_RCPT_MAX; i++) {
		const struct result_rcpt *in = &r->rcpts[i];
		struct event_rcpt *out = &rcpts[e->n_rcpts++];

		memset(out, 0, sizeof *out);
		out->index = in->index;
		out->action = in->action;
		memcpy(out->status, in->status, 3);
		out->diag = in->diag;
		out->stamp_boot_us = row_stamp(in->stamp_boot_us, from->stamp_boot_us, now_us);
		out->address = i < strings->n_rcpts ? strings->rcpts[i] : SLICE_NONE;
	}
}

/* An entry that is not finished: its row as decided, and what was answered last. */
static void
keep_entry(struct scheduler *s, uint32_t entry, const struct core_entry_facts *f,
	   const struct core_decision *d, bool quarantined, struct slice reply)
{
	struct store_row row = row_of(f, d);

	if (quarantined)
		quarantine_entry(s, entry, f->key, &row);
	else
		committer_put_row(s->committer, COMMIT_SETTLE, f->key, &row);
	committer_put_reply(s->committer, COMMIT_SETTLE, f->key, reply);
}

bool
settle_results(struct scheduler *s, const struct settle_source *from, const struct results *r,
	       const struct result_strings *strings)
{
	struct event_rcpt rcpts[CLAIM_RCPT_MAX];
	struct event e = { .kind = EVENT_RESULT };
	struct core_entry_facts f;
	struct core_decision d;
	struct buf places = { 0 };
	uint64_t volume, now_us = loop_boot_us(s->loop);
	bool quarantined;

	core_entry_get(s->core, from->entry, &f);
	volume = volume_of(r, strings, &f);
	if (!decide(s, from, r, volume, &d))
		return false;
	if (nothing_happened(r, &f, &d)) {
		slot_is_free(s, from->worker, from->claim_slot, 0);
		return true;
	}
	event_of_entry(s, &e, &f);
	event_queue(s, &e, f.sent_by);
	event_strings(&e, strings);
	event_attempt(s, &e, from, r);
	event_decision(&e, &d);
	quarantined = (r->flags & RESULT_DAMAGED) != 0 && !d.finished;
	if (quarantined) {
		e.row_flags |= STORE_ROW_QUARANTINED;
		e.due_s = 0;
		e.reason = SLICE_LIT("quarantined: its record is damaged");
	}
	e.maybe_dup = (r->flags & RESULT_MAYBE_DUP) != 0 || (f.row_flags & STORE_ROW_MAYBE_DUP) != 0;
	e.volume_bytes = volume;
	e.provider = providers_of(s->providers, f.sent_by);
	event_rcpts(&e, rcpts, from, r, strings, now_us);
	name_rules(s, r, rcpts, &places);
	committer_event(s->committer, &e);
	buf_clear(&places);
	if (d.finished)
		forget_entry(s, from->entry, &f);
	else
		keep_entry(s, from->entry, &f, &d, quarantined, worst_text(r));
	if (r->flags & RESULT_MAYBE_DUP)
		s->totals.maybe_dup++;
	if (PLANTED(slot_early))
		slot_is_free(s, from->worker, from->claim_slot, 0);
	else
		committer_then(s->committer, COMMIT_NOW, slot_is_free, s, from->worker, from->claim_slot, 0);
	return true;
}

/* By record ------------------------------------------------------------------------------------ */
struct waiting {
	struct settle_source from;
	struct buf encoded; /* results */
};

struct slice
settle_rcpt_address(const struct record *rec, const struct core_entry_facts *f, unsigned index)
{
	uint64_t n = (uint64_t)f->first_rcpt + index;

	return rec != NULL && n < rec->env.n_rcpts ? rec->env.rcpts[n] : SLICE_NONE;
}

static void
strings_of_record(struct result_strings *st, const struct record *rec)
{
	memset(st, 0, sizeof *st);
	if (rec == NULL)
		return;
	st->sender = rec->env.sender;
	st->pool = rec->env.pool;
	st->job = rec->env.job;
	st->envid = rec->env.envid;
	st->src_mta = rec->env.src_mta;
	st->src_ip = rec->env.src_ip;
	st->dst_ip = rec->env.dst_ip;
	st->user = rec->env.user;
	st->received_wall_us = rec->header.received_wall_us;
	st->body_bytes = rec->header.body_bytes;
}

static void
results_with_record(struct scheduler *s, void *arg, int rc, const struct record *rec)
{
	struct waiting *w = arg;
	struct slice addresses[CLAIM_RCPT_MAX];
	struct result_strings st;
	struct core_entry_facts f;
	struct results r;

	/* A lost record still has its outcome: the event then lacks the strings, not the truth. */
	(void)rc;
	CHECK(results_decode(&r, buf_slice(&w->encoded), &s->scratch) == 0);
	core_entry_get(s->core, w->from.entry, &f);
	strings_of_record(&st, rec);
	st.rcpts = addresses;
	for (size_t i = 0; i < r.n_rcpts && i < CLAIM_RCPT_MAX; i++)
		addresses[st.n_rcpts++] = settle_rcpt_address(rec, &f, r.rcpts[i].index);
	if (!settle_results(s, &w->from, &r, &st))
		claim_free(s->claims[w->from.worker], w->from.claim_slot);
	buf_clear(&w->encoded);
	mem_free(w);
}

void
settle_by_record(struct scheduler *s, const struct settle_source *from, const struct results *r)
{
	struct waiting *w = mem_zalloc(sizeof *w);

	w->from = *from;
	results_encode(&w->encoded, r);
	records_read(s, from->entry, results_with_record, w);
}

bool
settle_rcpt_is_done(const struct core_entry_facts *f, unsigned i)
{
	return f->done.n > i / 8 && ((unsigned char)f->done.p[i / 8] >> (i % 8) & 1) != 0;
}

/* The recipients of a claim that are unfinished. */
static size_t
claimed_rcpts(const struct core_entry_facts *f, const unsigned char *bits, struct result_rcpt *out)
{
	size_t k = 0;

	for (unsigned i = 0; i < f->n_rcpts && k < CLAIM_RCPT_MAX; i++) {
		if (settle_rcpt_is_done(f, i) || (bits != NULL && (bits[i / 8] >> i % 8 & 1) == 0))
			continue;
		memset(&out[k], 0, sizeof out[k]);
		out[k++].index = (uint16_t)i;
	}
	return k;
}

/* Of a claim whose recipients are asked for one by one: who has a stamp was attempted. Unless nobody was: mail that kills
 * its worker would be tried for ever. */
static void
take_stamps(struct scheduler *s, const struct settle_source *from, struct result_rcpt *rcpts, size_t n_rcpts)
{
	struct claim_stamped stamped[CLAIM_RCPT_MAX];
	unsigned n = claim_stamps(s->claims[from->worker], from->claim_slot, from->lease, stamped, CLAIM_RCPT_MAX);

	for (size_t i = 0; i < n_rcpts; i++) {
		rcpts[i].stamp_boot_us = EVENT_STAMP_NONE;
		for (unsigned k = 0; k < n; k++) {
			if (stamped[k].index == rcpts[i].index)
				rcpts[i].stamp_boot_us = stamped[k].stamp_boot_us;
		}
		if (n > 0 && rcpts[i].stamp_boot_us == EVENT_STAMP_NONE)
			rcpts[i].action = EVENT_UNATTEMPTED;
	}
}

void
settle_lost(struct scheduler *s, const struct settle_source *from, const struct claim_view *v)
{
	struct result_rcpt rcpts[CLAIM_RCPT_MAX];
	struct core_entry_facts f;
	struct core_now now = scheduler_now(s);
	struct results r = { .flags = RESULT_CONNECTION_GONE, .rcpts = rcpts };
	bool known = v->grant.lease == from->lease && v->state != CLAIM_FREE;

	core_entry_get(s->core, from->entry, &f);
	if (known && v->state == CLAIM_ANSWERED && v->results_ok &&
	    results_decode(&r, v->results, &s->scratch) == 0) {
		r.flags |= RESULT_CONNECTION_GONE;
		settle_by_record(s, from, &r);
		return;
	}
	if (known && (v->state == CLAIM_GRANTED || v->state == CLAIM_RETURNED)) {
		(void)core_returned(s->core, &now, from->entry, from->lease);
		claim_free(s->claims[from->worker], from->claim_slot);
		return;
	}
	/* Begun: a failed attempt. With the dot out, or a slot that cannot be believed: unknown. */
	r = (struct results){ .flags = RESULT_CONNECTION_GONE, .rcpts = rcpts };
	r.wall_us = now.wall_us;
	r.boot_us = now.boot_us;
	if (!known || v->state != CLAIM_BEGUN)
		r.flags |= RESULT_MAYBE_DUP;
	r.n_rcpts = claimed_rcpts(&f, known ? v->grant.rcpts : core_claim_bits(s->core, from->entry), rcpts);
	for (size_t i = 0; i < r.n_rcpts; i++) {
		rcpts[i].action = EVENT_DEFERRED;
		rcpts[i].status[0] = 4;
		rcpts[i].status[1] = 4;
		rcpts[i].status[2] = 2; /* RFC 3463: bad connection */
		rcpts[i].diag = r.flags & RESULT_MAYBE_DUP ? SLICE_LIT(unknown_diag) : SLICE_LIT(lost_diag);
	}
	if (known && v->grant.ask)
		take_stamps(s, from, rcpts, r.n_rcpts);
	settle_by_record(s, from, &r);
}

/* Outcomes without an attempt ------------------------------------------------------------------ */
/* One that waits for its record; there may be a million of them. */
struct outcome {
	uint32_t entry;
	uint32_t due_s;      /* of the recipients that stay */
	unsigned char *bits; /* the recipients, NULL all */
	commit_action *then; /* when it is on disk; NULL: nobody waits */
	void *ctx;
	enum event_action action;
	unsigned char status[3];
	char diag[];
};

static struct outcome *
outcome_new(uint32_t entry, enum event_action action, const unsigned char status[3], const char *diag)
{
	size_t n = strlen(diag);
	struct outcome *o;

	if (n > OUTCOME_TEXT_MAX)
		n = OUTCOME_TEXT_MAX;
	o = mem_alloc(sizeof *o + n + 1);
	*o = (struct outcome){ .entry = entry, .action = action };
	memcpy(o->status, status, sizeof o->status);
	memcpy(o->diag, diag, n);
	o->diag[n] = '\0';
	return o;
}

/* The unfinished recipients that the outcome names, into e->rcpts; their bits join `done`. */
static void
outcome_rcpts(struct event *e, struct event_rcpt *rcpts, const struct outcome *o, const struct core_entry_facts *f,
	      const struct record *rec, unsigned char *done)
{
	unsigned left = 0;

	e->rcpts = rcpts;
	for (unsigned i = 0; i < f->n_rcpts; i++) {
		struct event_rcpt *out = &rcpts[e->n_rcpts];

		if (settle_rcpt_is_done(f, i)) {
			done[i / 8] |= (unsigned char)(1u << i % 8);
			continue;
		}
		if (o->bits != NULL && (o->bits[i / 8] >> i % 8 & 1) == 0) {
			left++;
			continue;
		}
		done[i / 8] |= (unsigned char)(1u << i % 8);
		out->index = (uint16_t)i;
		out->action = (uint8_t)o->action;
		memcpy(out->status, o->status, 3);
		out->address = settle_rcpt_address(rec, f, i);
		out->diag = slice_str(o->diag);
		e->n_rcpts++;
	}
	e->finished = left == 0;
}

/* The entry lives on with fewer recipients: a new place in its queue under the same key. */
static void
keep_rest(struct scheduler *s, uint32_t entry, struct core_entry_facts *f, struct slice done)
{
	struct core_now now = scheduler_now(s);
	struct core_decision d = {
		.due_s = f->due_s, .attempts = f->attempts, .row_flags = f->row_flags, .done = done
	};

	put_row(s, f, &d);
	f->done = done;
	f->committed = true;
	core_entry_gone(s->core, &now, entry);
	(void)core_entry_add(s->core, &now, f);
}

/* The record that an outcome is to be told of is damaged or lost. The entry is kept: an end that names no recipient
 * would be a silent loss. */
static void
outcome_without_record(struct scheduler *s, const struct outcome *o, struct core_entry_facts *f)
{
	struct core_decision d = { .attempts = f->attempts, .row_flags = f->row_flags };
	unsigned char done[(ENTRY_RCPT_MAX + 7) / 8];
	struct event e = { .kind = EVENT_OUTCOME };
	struct store_row row;

	for (unsigned i = 0; i < f->n_rcpts; i++) {
		bool left = !settle_rcpt_is_done(f, i);

		s->totals.expired -= left && o->action == EVENT_EXPIRED;
		s->discarded -= left && o->action == EVENT_DELIVERED;
		s->kept_back += left;
	}
	memcpy(done, f->done.p != NULL ? f->done.p : "", f->done.n);
	f->done = slice_of(done, f->done.n);
	d.done = f->done;
	row = row_of(f, &d);
	event_of_entry(s, &e, f);
	e.attempt = e.attempts = f->attempts;
	e.row_flags = f->row_flags | STORE_ROW_QUARANTINED;
	e.done = f->done;
	e.reason = SLICE_LIT("quarantined: its record is damaged");
	committer_event(s->committer, &e);
	quarantine_entry(s, o->entry, f->key, &row);
}

static void
outcome_with_record(struct scheduler *s, void *arg, int rc, const struct record *rec)
{
	struct outcome *o = arg;
	unsigned char done[(ENTRY_RCPT_MAX + 7) / 8] = { 0 };
	struct event_rcpt *rcpts;
	struct event e = { .kind = EVENT_OUTCOME };
	struct core_entry_facts f;
	struct result_strings st;

	core_entry_get(s->core, o->entry, &f);
	f.due_s = o->due_s; /* it has left its queue, and the core forgot */
	/* What an operator deletes goes, readable or not. */
	if (rc != 0 && o->action != EVENT_DELETED) {
		outcome_without_record(s, o, &f);
		mem_free(o->bits);
		mem_free(o);
		return;
	}
	rcpts = mem_calloc(f.n_rcpts, sizeof *rcpts);
	event_of_entry(s, &e, &f);
	strings_of_record(&st, rec);
	event_strings(&e, &st);
	e.attempt = f.attempts;
	e.attempts = f.attempts;
	e.due_s = f.due_s;
	e.row_flags = f.row_flags;
	e.maybe_dup = (f.row_flags & STORE_ROW_MAYBE_DUP) != 0;
	e.reason = slice_str(o->diag);
	outcome_rcpts(&e, rcpts, o, &f, rec, done);
	e.done = slice_of(done, ((size_t)f.n_rcpts + 7) / 8);
	committer_event(s->committer, &e);
	if (o->action == EVENT_DELETED)
		s->totals.deleted += e.n_rcpts;
	if (e.finished)
		forget_entry(s, o->entry, &f);
	else
		keep_rest(s, o->entry, &f, e.done);
	if (o->then != NULL)
		committer_then(s->committer, COMMIT_SETTLE, o->then, o->ctx, 0, 0, 0);
	mem_free(rcpts);
	mem_free(o->bits);
	mem_free(o);
}

void
settle_outcome(struct scheduler *s, uint32_t entry, enum event_action action,
	       const unsigned char status[3], const char *diag)
{
	struct core_entry_facts f;
	unsigned n = 0;

	/* The core counts what it gives up as bounced, whatever it is: told apart in stats.c. */
	core_entry_get(s->core, entry, &f);
	for (unsigned i = 0; i < f.n_rcpts; i++)
		n += !settle_rcpt_is_done(&f, i);
	s->totals.expired += action == EVENT_EXPIRED ? n : 0;
	s->discarded += action == EVENT_DELIVERED ? n : 0;
	records_read(s, entry, outcome_with_record, outcome_new(entry, action, status, diag));
}

void
settle_delete(struct scheduler *s, uint32_t entry, const unsigned char *bits, uint32_t due_s, commit_action *then,
	      void *ctx)
{
	static const unsigned char status[3] = { 5, 0, 0 };
	struct outcome *o = outcome_new(entry, EVENT_DELETED, status, "x-pmta;deleted by administrator");

	o->due_s = due_s;
	o->then = then;
	o->ctx = ctx;
	if (bits != NULL) {
		o->bits = mem_alloc((ENTRY_RCPT_MAX + 7) / 8);
		memcpy(o->bits, bits, (ENTRY_RCPT_MAX + 7) / 8);
	}
	records_read(s, entry, outcome_with_record, o);
}

/* Queues --------------------------------------------------------------------------------------- */
void
settle_connect(struct scheduler *s, const struct settle_attempt *a)
{
	struct event e = { .kind = a->kind };
	struct slice rest = names_get(s->names, a->queue);
	struct slice domain = names_get(s->names, a->sender_domain);
	char sender[NAME_BYTES_MAX + 1] = "@";

	/* Whose connect rates it was charged to. */
	e.job = names_get(s->names, a->job);
	if (domain.n > 0 && domain.n <= NAME_BYTES_MAX) {
		memcpy(sender + 1, domain.p, domain.n);
		e.sender = slice_of(sender, domain.n + 1);
	}
	e.wall_us = loop_wall_us(s->loop);
	e.stamp_boot_us = a->stamp_boot_us;
	e.queue_number = a->queue;
	e.queue = rest;
	slice_cut(&rest, '/');
	e.vmta = rest;
	e.dlv_source_ip = source_text(s, a->source_ip);
	e.provider = providers_of(s->providers, a->queue);
	e.dlv_destination_ip = a->destination;
	e.dsn_mta = a->mta;
	e.reason = a->reason;
	committer_event(s->committer, &e);
}

void
settle_queue_row(struct scheduler *s, uint32_t queue)
{
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;
	struct store_queue row;

	if (!core_queue_view(s->core, &now, queue, &v))
		return;
	row = (struct store_queue){
		.paused = v.paused,
		.retry_level = (uint8_t)v.retry_level,
		.retry_at_s = (uint32_t)(v.retry_at_wall_us / 1000000u),
		.reason = v.last_error,
	};
	committer_put_queue(s->committer, queue, &row);
}
