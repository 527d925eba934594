/* control_select: `list` and `delete`: entries picked by queue, job, age, sender, recipient, envelope id.
 *
 * In slices, one a turn: what the index knows (queue, job, age) is picked in the loop; what stands in the
 * records is looked through by the reader thread, a batch of entries in the order of their places at a time.
 * A deletion is answered when the last of what it deleted is on disk. */
#include <stdio.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/control.h"
#include "scheduler/quarantine.h"

#define PICKS_A_TURN  2048
#define BATCHES_MAX   2    /* at the reader thread */
#define OUTCOMES_MAX  4096 /* waiting for their records: then no more are withdrawn */

struct selection {
	struct request *r;
	bool deleting;
	bool by_record; /* something is asked for that only the records know */
	struct slice queue, orig, rcpt, envid;
	uint32_t job; /* name number; UINT32_MAX: a job that nobody has */
	uint64_t received_before_s;
	uint64_t most;
	uint32_t cursor;
	bool all_picked;
	struct batch *picking;
	unsigned batches;
	uint64_t shown, deleted, busy;
	uint64_t unread; /* entries whose records could not be, so nobody knows whether they match */
	uint64_t outcomes; /* begun and not yet on disk */
	unsigned char *matches; /* by queue number */
	size_t cap_matches;
};

/* An entry that the index picked, and what the reader thread found. */
struct pick {
	struct entry_key key;
	uint64_t epoch;
	uint32_t entry;
	uint32_t segment, offset16;
	uint32_t first_rcpt;
	uint16_t n_rcpts;
	bool matches;
	int rc;
	size_t at, bytes; /* header and envelope of one that matches, in the batch's copies */
};

struct batch {
	struct offload_job base;
	struct selection *sel;
	struct buf copies;
	size_t n;
	struct pick picks[PICKS_A_TURN];
};

/* Picking from the index ----------------------------------------------------------------------- */
enum { UNKNOWN, MATCHES, DIFFERS };

/* Each queue's name is compared once, however many entries it holds. */
static bool
queue_matches(struct selection *sel, uint32_t queue)
{
	void *p = sel->matches;
	size_t before = sel->cap_matches;

	if (sel->queue.n == 0)
		return true;
	mem_grow(&p, &sel->cap_matches, (size_t)queue + 1, 1);
	sel->matches = p;
	if (sel->cap_matches > before)
		memset(sel->matches + before, UNKNOWN, sel->cap_matches - before);
	if (sel->matches[queue] == UNKNOWN)
		sel->matches[queue] =
			control_matches(names_get(sel->r->s->names, queue), sel->queue) ? MATCHES : DIFFERS;
	return sel->matches[queue] == MATCHES;
}

static void
pick_entry(void *arg, uint32_t entry)
{
	struct selection *sel = arg;
	struct batch *b = sel->picking;
	struct core_entry_facts f;

	core_entry_get(sel->r->s->core, entry, &f);
	if (!f.committed)
		return; /* nobody was told yet that it is queued */
	if (sel->job != 0 && f.job != sel->job)
		return;
	if (!queue_matches(sel, f.queue))
		return;
	if (sel->received_before_s != 0 && f.received_s > sel->received_before_s)
		return;
	b->picks[b->n++] = (struct pick){ .key = f.key,
					  .epoch = f.epoch,
					  .entry = entry,
					  .segment = f.segment,
					  .offset16 = f.offset16,
					  .first_rcpt = f.first_rcpt,
					  .n_rcpts = f.n_rcpts };
}

/* Reading, in the reader thread ---------------------------------------------------------------- */
static bool
address_matches(struct slice address, struct slice pattern)
{
	if (pattern.n > 2 && pattern.p[0] == '*' && pattern.p[1] == '@') {
		struct slice domain = slice_sub(pattern, 1);

		return address.n > domain.n && slice_eq_nocase(slice_sub(address, address.n - domain.n), domain);
	}
	return slice_eq_nocase(address, pattern);
}

static bool
record_matches(const struct selection *sel, const struct pick *p, const struct record *rec)
{
	if (sel->orig.n > 0 && !address_matches(rec->env.sender, sel->orig))
		return false;
	if (sel->envid.n > 0 && !slice_eq(rec->env.envid, sel->envid))
		return false;
	if (sel->rcpt.n == 0)
		return true;
	for (uint32_t i = p->first_rcpt; i < p->first_rcpt + p->n_rcpts && i < rec->env.n_rcpts; i++) {
		if (address_matches(rec->env.rcpts[i], sel->rcpt))
			return true;
	}
	return false;
}

/* The envelope alone says whether it is wanted; only then is the whole record read and checked. */
static void
read_record(struct batch *b, struct pick *p, struct slice at)
{
	struct record rec;

	p->rc = record_decode_envelope(&rec, at, p->epoch, p->key.message);
	if (p->rc != 0)
		return;
	p->matches = record_matches(b->sel, p, &rec);
	record_clear(&rec);
	if (!p->matches)
		return;
	p->rc = record_decode(&rec, at, p->epoch, p->key.message);
	if (p->rc != 0)
		return;
	p->at = b->copies.len;
	p->bytes = RECORD_HEADER_BYTES + rec.header.envelope_bytes;
	buf_put(&b->copies, at.p, p->bytes);
	record_clear(&rec);
}

static void
work(struct offload_job *base)
{
	struct batch *b = (struct batch *)base;
	struct segment_cache *cache = b->sel->r->s->cache;
	struct segment_ref ref = { 0 };
	bool open = false;

	for (size_t i = 0; i < b->n; i++) {
		struct pick *p = &b->picks[i];

		if (!open || ref.number != p->segment || ref.epoch != p->epoch) {
			if (open)
				segment_put(cache, ref.number, ref.epoch);
			p->rc = segment_get(cache, p->segment, p->epoch, &ref);
			open = p->rc == 0;
		}
		if (open)
			read_record(b, p, slice_sub(ref.bytes, (size_t)p->offset16 * RECORD_ALIGN));
	}
	if (open)
		segment_put(cache, ref.number, ref.epoch);
}

/* Judging -------------------------------------------------------------------------------------- */
static void
show(struct selection *sel, const struct core_entry_facts *f, const struct record *rec, unsigned index)
{
	struct scheduler *s = sel->r->s;
	struct json *j = &sel->r->json;
	char id[ID_TEXT_BYTES], reply[REPLY_KEPT_MAX];
	int n = store_last_reply(s->store, f->key, reply, sizeof reply);

	json_object_begin(j);
	json_key_str(j, "id", id_entry_text(id, f->key));
	json_key_string(j, "queue", names_get(s->names, f->queue));
	json_key_string(j, "orig", rec != NULL ? rec->env.sender : SLICE_NONE);
	json_key_string(j, "rcpt", settle_rcpt_address(rec, f, index));
	json_key_time(j, "timeQueued", (uint64_t)f->received_s * 1000000u);
	json_key_u64(j, "attempts", f->attempts);
	json_key_time(j, "nextDue", (uint64_t)f->due_s * 1000000u);
	json_key(j, "lastReply");
	if (n > 0)
		json_string(j, control_reply(slice_of(reply, (size_t)n)));
	else
		json_null(j);
	json_key_string(j, "jobId", names_get(s->names, f->job));
	json_key_string(j, "envId", rec != NULL ? rec->env.envid : SLICE_NONE);
	json_key_u64(j, "kb", f->kbytes);
	json_object_end(j);
	sel->shown++;
}

/* All but the end of the request. */
static void
conclude(struct selection *sel)
{
	struct request *r = sel->r;
	struct json *j = &r->json;

	if (sel->deleting) {
		if (sel->busy > 0)
			control_fail(r, sel->deleted == 0, "%llu recipients are being delivered now and were left",
				     (unsigned long long)sel->busy);
		else if (sel->unread > 0)
			control_fail(r, sel->deleted == 0, "%llu entries could not be read and were left",
				     (unsigned long long)sel->unread);
		else if (sel->deleted == 0)
			control_fail(r, 1, "nothing that is queued matches");
		json_key_u64(j, "matched", sel->deleted);
		json_key_u64(j, "busy", sel->busy);
		json_key_u64(j, "notRead", sel->unread);
	} else {
		json_array_end(j);
	}
	if (sel->job != 0 && sel->job != UINT32_MAX)
		names_hold(r->s->names, sel->job, -1);
	mem_free(sel->matches);
	mem_free(sel);
}

static void
finish(struct selection *sel)
{
	struct request *r = sel->r;

	conclude(sel);
	control_finish(r);
}

static bool
is_over(const struct selection *sel)
{
	return sel->all_picked && sel->batches == 0 && sel->outcomes == 0;
}

static void
outcome_is_durable(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
	struct selection *sel = ctx;

	(void)a;
	(void)b;
	(void)c;
	sel->outcomes--;
	if (is_over(sel) && sel->r->step == NULL)
		finish(sel);
}

static void
delete_rcpts(struct selection *sel, const struct core_entry_facts *f, uint32_t entry, const unsigned char *bits,
	     unsigned n)
{
	struct core_now now = scheduler_now(sel->r->s);

	if (n == 0)
		return;
	if (!core_entry_withdraw(sel->r->s->core, &now, entry)) {
		sel->busy += n;
		return;
	}
	sel->deleted += n;
	sel->outcomes++;
	settle_delete(sel->r->s, entry, bits, f->due_s, outcome_is_durable, sel);
}

static void
judge(struct selection *sel, const struct pick *p, const struct record *rec)
{
	unsigned char bits[(ENTRY_RCPT_MAX + 7) / 8] = { 0 };
	struct core_entry_facts f;
	unsigned n = 0;

	if (!core_entry_is(sel->r->s->core, p->entry, p->key))
		return; /* gone meanwhile */
	core_entry_get(sel->r->s->core, p->entry, &f);
	for (unsigned i = 0; i < f.n_rcpts && sel->shown + sel->deleted + n < sel->most; i++) {
		if (settle_rcpt_is_done(&f, i))
			continue;
		if (sel->rcpt.n > 0 && !address_matches(settle_rcpt_address(rec, &f, i), sel->rcpt))
			continue;
		if (!sel->deleting) {
			show(sel, &f, rec, i);
			continue;
		}
		bits[i / 8] |= (unsigned char)(1u << i % 8);
		n++;
	}
	delete_rcpts(sel, &f, p->entry, bits, n);
}

static void
judge_read(struct selection *sel, const struct batch *b, const struct pick *p)
{
	char id[ID_TEXT_BYTES];
	struct record rec;

	if (p->rc != 0) {
		log_error("message=%s segment=%u offset=%llu record=unreadable error=\"%s\"",
			  id_message_text(id, p->key.message), p->segment,
			  (unsigned long long)p->offset16 * RECORD_ALIGN, err_text(p->rc));
		if (!sel->by_record)
			judge(sel, p, NULL);
		else
			sel->unread++;
		return;
	}
	if (!p->matches)
		return;
	CHECK(record_decode_envelope(&rec, slice_of(b->copies.data + b->copies.start + p->at, p->bytes), p->epoch,
				     p->key.message) == 0);
	judge(sel, p, &rec);
	record_clear(&rec);
}

static void
done(struct offload_job *base)
{
	struct batch *b = (struct batch *)base;
	struct selection *sel = b->sel;

	sel->batches--;
	for (size_t i = 0; i < b->n; i++) {
		segments_pin(sel->r->s->segments, b->picks[i].segment, -1);
		if (sel->r->client != NULL || sel->deleting)
			judge_read(sel, b, &b->picks[i]);
	}
	scheduler_kick(sel->r->s);
	buf_clear(&b->copies);
	mem_free(b);
	if (is_over(sel) && sel->r->step == NULL)
		finish(sel);
}

/* Slices --------------------------------------------------------------------------------------- */
static bool
has_enough(const struct selection *sel)
{
	return sel->shown + sel->deleted >= sel->most || (sel->r->client == NULL && !sel->deleting);
}

static void
pass_on(struct selection *sel)
{
	struct batch *b = sel->picking;
	struct scheduler *s = sel->r->s;

	if (sel->deleting && !sel->by_record) { /* the outcomes read what they need themselves */
		for (size_t i = 0; i < b->n; i++)
			judge(sel, &b->picks[i], NULL);
		b->n = 0;
		return;
	}
	if (b->n == 0)
		return;
	sel->picking = NULL;
	sel->batches++;
	for (size_t i = 0; i < b->n; i++)
		segments_pin(s->segments, b->picks[i].segment, 1);
	offload_add(s->reader, &b->base);
}

static bool
select_some(struct request *r)
{
	struct selection *sel = r->state;
	unsigned look = PICKS_A_TURN;

	r->waits = !sel->all_picked && (sel->batches == BATCHES_MAX || records_waiting(r->s) > OUTCOMES_MAX);
	if (r->waits)
		return false;
	if (!sel->all_picked && !has_enough(sel)) {
		if (sel->picking == NULL) {
			sel->picking = mem_zalloc(sizeof *sel->picking);
			sel->picking->base = (struct offload_job){ .work = work, .done = done };
			sel->picking->sel = sel;
		}
		/* No more than can be shown, when each one will be. */
		if (!sel->by_record && sel->most - sel->shown - sel->deleted < look)
			look = (unsigned)(sel->most - sel->shown - sel->deleted);
		sel->all_picked = !core_each_entry(r->s->core, CORE_NONE, &sel->cursor, look, pick_entry, sel);
		pass_on(sel);
		scheduler_kick(r->s);
	}
	sel->all_picked = sel->all_picked || has_enough(sel);
	if (!sel->all_picked)
		return false;
	mem_free(sel->picking);
	sel->picking = NULL;
	if (is_over(sel))
		conclude(sel); /* who called this ends the request */
	else
		r->step = NULL; /* the last batch, or the commit of the last outcome, ends it */
	return true;
}

/* The commands --------------------------------------------------------------------------------- */
/* "2d12h", "90s": seconds; 0 when it is none. */
static uint64_t
age_of(struct slice text)
{
	static const struct {
		char unit;
		uint64_t s;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 604800 } };
	uint64_t total = 0, n = 0;
	bool digits = false;

	for (size_t i = 0; i < text.n; i++) {
		char c = text.p[i];
		uint64_t unit = 0;

		if (c >= '0' && c <= '9' && n < 1000000000) {
			n = n * 10 + (uint64_t)(c - '0');
			digits = true;
			continue;
		}
		for (size_t k = 0; k < sizeof units / sizeof units[0]; k++)
			unit = units[k].unit == c ? units[k].s : unit;
		if (unit == 0 || !digits)
			return 0;
		total += n * unit;
		n = 0;
		digits = false;
	}
	return digits ? 0 : total;
}

/* 2: what is asked for is wrong. */
static bool
parse(struct request *r, struct selection *sel)
{
	struct slice job = control_option(r, "jobId");
	struct slice older = control_option(r, "older-than");
	struct slice items = control_option(r, "maxitems");
	uint64_t age = age_of(older);

	sel->queue = control_option(r, "queue");
	sel->orig = control_option(r, "orig");
	sel->rcpt = control_option(r, "rcpt");
	sel->envid = control_option(r, "envId");
	sel->by_record = sel->orig.n > 0 || sel->rcpt.n > 0 || sel->envid.n > 0;
	if (older.n > 0 && age == 0)
		control_fail(r, 2, "--older-than takes an interval such as 2d12h");
	else if (items.n > 0 && !slice_u64(items, UINT32_MAX, &sel->most))
		control_fail(r, 2, "--maxitems takes a whole number");
	else if (sel->deleting && sel->queue.n == 0 && job.n == 0)
		control_fail(r, 2, "delete needs --queue or --jobId");
	if (r->status != 0)
		return false;
	if (age > 0)
		sel->received_before_s = loop_wall_us(r->s->loop) / 1000000u - age;
	if (job.n > 0) {
		sel->job = names_find(r->s->names, job);
		if (sel->job == 0)
			sel->job = UINT32_MAX;
		else
			names_hold(r->s->names, sel->job, 1); /* its number stays its own meanwhile */
	}
	return true;
}

static bool
select_entries(struct request *r, bool deleting)
{
	struct selection *sel;

	if (control_flag(r, "quarantined"))
		return quarantine_select(r, deleting);
	sel = mem_zalloc(sizeof *sel);
	*sel = (struct selection){ .r = r, .deleting = deleting, .most = deleting ? UINT64_MAX : 100 };
	if (!parse(r, sel)) {
		mem_free(sel);
		return true;
	}
	r->state = sel;
	if (!deleting) {
		json_key(&r->json, "message");
		json_array_begin(&r->json);
	}
	return control_go_on(r, select_some);
}

bool
control_list(struct request *r)
{
	return select_entries(r, false);
}

bool
control_delete(struct request *r)
{
	return select_entries(r, true);
}
