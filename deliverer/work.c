#include "deliverer/work.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/ipc/results.h"
#include "common/proc/fault.h"
#include "common/smtp/smtp_client_stuff.h"
#include "deliverer/connection.h"
#include "deliverer/worker.h"

#define DIAG_BYTES (REPLY_KEPT_MAX + 32)
#define READ_TRIES 3 /* of a record on a disk that gives errors, before it counts as damaged */

struct work *
work_new(const struct message *m, struct slice bitmap)
{
	uint16_t entry_rcpts = m->u.work.n_rcpts;
	struct work *work;

	if (entry_rcpts == 0 || entry_rcpts > ENTRY_RCPT_MAX ||
	    bitmap.n < (entry_rcpts + 7u) / 8u || m->u.work.claim_slot >= CLAIM_SLOTS ||
	    m->u.work.lease == 0)
		return NULL;
	work = mem_zalloc(sizeof *work);
	work->lease = m->u.work.lease;
	work->epoch = m->u.work.epoch;
	work->deadline_boot_us = m->u.work.deadline_boot_us;
	work->id = m->u.work.id;
	work->claim_slot = m->u.work.claim_slot;
	work->segment = m->u.work.segment;
	work->offset16 = m->u.work.offset16;
	work->first_rcpt = m->u.work.first_rcpt;
	work->entry_rcpts = entry_rcpts;
	work->attempt = m->u.work.attempt;
	work->indexes = mem_calloc(entry_rcpts, sizeof *work->indexes);
	for (uint16_t i = 0; i < entry_rcpts; i++) {
		if (((unsigned char)bitmap.p[i / 8] >> (i % 8)) & 1)
			work->indexes[work->n_rcpts++] = i;
	}
	if (m->u.work.flags & WORK_ASK)
		work->stamps = mem_calloc(entry_rcpts, sizeof *work->stamps);
	return work;
}

void
work_free(struct worker *w, struct work **work)
{
	struct work *k = *work;

	if (k == NULL)
		return;
	if (k->decoded)
		record_clear(&k->record);
	if (k->pinned)
		segment_put(w->segments, k->segment, k->epoch);
	mem_free(k->indexes);
	mem_free(k->stamps);
	mem_free(k);
	*work = NULL;
}

void
work_return(struct worker *w, uint32_t connection, struct work **work, unsigned why)
{
	struct message m = { .kind = MESSAGE_RETURNED };
	int rc = claim_return(w->claims, (*work)->claim_slot, (*work)->lease);

	if (rc != 0)
		log_error("claim slot=%u lease=%" PRIu64 " cannot be returned: %s",
			  (*work)->claim_slot, (*work)->lease, err_text(rc));
	m.u.returned.lease = (*work)->lease;
	m.u.returned.connection = connection;
	m.u.returned.claim_slot = (*work)->claim_slot;
	m.u.returned.why = why;
	uplink_send(&w->uplink, &m, SLICE_NONE);
	work_free(w, work);
}

/* Loading ------------------------------------------------------------------------------------- */

/* Through the map, whose file may have been cut, or may not be readable: guarded. */
struct opening {
	struct segment_cache *segments;
	struct work *work;
};

static int
open_segment(void *arg)
{
	struct opening *o = arg;
	struct work *k = o->work;

	return segment_get(o->segments, k->segment, k->epoch, &k->segment_ref);
}

/* The record of the work, out of the pinned segment: 0 or -E_*. Guarded too. */
static int
read_record(void *arg)
{
	struct work *k = arg;
	uint64_t offset = (uint64_t)k->offset16 * RECORD_ALIGN;
	unsigned flags;
	int rc =
		record_decode(&k->record, slice_sub(k->segment_ref.bytes, offset), k->epoch, k->id);

	if (rc != 0)
		return rc;
	k->decoded = true;
	if (k->n_rcpts == 0 || k->first_rcpt > k->record.env.n_rcpts ||
	    k->entry_rcpts > k->record.env.n_rcpts - k->first_rcpt)
		return -E_BAD;
	flags = smtp_client_body_scan(k->record.body);
	if (flags & SMTP_CLIENT_BODY_FLAWED)
		return -E_BAD; /* what two servers could read in two ways never leaves */
	k->stuff = (flags & SMTP_CLIENT_BODY_DOT_LINES) != 0;
	k->open_end = (flags & SMTP_CLIENT_BODY_OPEN_END) != 0;
	return 0;
}

static void report_damaged(struct connection *c, struct work **work, int rc);

bool
work_load(struct connection *c, struct work **work)
{
	struct worker *w = c->worker;
	struct work *k = *work;
	struct opening opening = { w->segments, k };
	int opened = fault_guarded(open_segment, &opening), rc;

	k->pinned = opened == 0;
	if (opened == -E_FULL || opened == -E_SYSTEM) {
		log_warn("segment=%u cannot be opened: %s", k->segment, err_text(opened));
		work_return(w, c->number, work, RETURN_NO_RESOURCES);
		return false;
	}
	/* Before the record is touched: a disk that fails under the map kills this process, and
	 * that must count as an attempt, or it would kill the next ones too. */
	rc = claim_begin(w->claims, k->claim_slot, k->lease);
	if (rc != 0) {
		/* Somebody else's slot: without it the outcome could not be kept. */
		log_error("claim slot=%u lease=%" PRIu64 " cannot begin: %s", k->claim_slot,
			  k->lease, err_text(rc));
		work_return(w, c->number, work, RETURN_NO_RESOURCES);
		return false;
	}
	KILL_POINT("claim-begun");
	rc = opened == 0 ? fault_guarded(read_record, k) : opened;
	if (rc != 0)
		report_damaged(c, work, rc);
	return rc == 0;
}

static struct slice
rcpt_of(const void *arg, size_t i)
{
	const struct work *k = arg;

	return k->record.env.rcpts[k->first_rcpt + k->indexes[i]];
}

struct smtp_client_message
work_message(const struct work *k)
{
	return (struct smtp_client_message){
		.sender = k->record.env.sender,
		.body_bytes = k->record.body.n + (k->open_end ? 2u : 0u),
		.body_8bit = (k->record.header.flags & RECORD_8BIT) != 0,
		.n_rcpts = k->n_rcpts,
		.ask = k->stamps != NULL,
		.rcpt = rcpt_of,
		.arg = k,
	};
}

/* Results ------------------------------------------------------------------------------------- */

static uint8_t
event_action_of(unsigned action)
{
	switch (action) {
	case VERDICT_DELIVERED:
		return EVENT_DELIVERED;
	case VERDICT_PERMANENT:
		return EVENT_BOUNCED;
	case VERDICT_UNATTEMPTED:
		return EVENT_UNATTEMPTED;
	default:
		return EVENT_DEFERRED;
	}
}

/* `smtp;550 5.1.1 no such user` of a reply, `x-sluice;connection lost at dot` of its lack. */
static struct slice
diagnose(char dst[DIAG_BYTES], struct verdict v, struct slice text)
{
	int n;

	if (v.reason == VERDICT_BY_REPLY)
		n = snprintf(dst, DIAG_BYTES, "smtp;%.*s", (int)text.n, text.p ? text.p : "");
	else
		n = snprintf(dst, DIAG_BYTES, "x-sluice;%s at %s%s%.*s",
			     verdict_reason_text(v.reason), verdict_phase_text(v.phase),
			     text.n > 0 ? ": " : "", (int)text.n, text.p ? text.p : "");
	return slice_of(dst, n < DIAG_BYTES ? (size_t)n : DIAG_BYTES - 1);
}

static void
set_row(struct result_rcpt *row, uint16_t index, struct verdict v)
{
	bool fits = v.status.subject <= UINT8_MAX && v.status.detail <= UINT8_MAX;

	row->index = index;
	row->action = event_action_of(v.action);
	row->status[0] = v.status.class;
	row->status[1] = fits ? (uint8_t)v.status.subject : 0;
	row->status[2] = fits ? (uint8_t)v.status.detail : 0;
	row->code = v.code;
}

static struct results
results_of(const struct connection *c)
{
	return (struct results){
		.wall_us = loop_wall_us(c->worker->loop),
		.boot_us = loop_boot_us(c->worker->loop),
		.dlv_source_ip = slice_str(c->source_text),
		.dlv_destination_ip = slice_str(c->target_text),
		.dsn_mta = slice_str(c->dsn_mta),
		.dlv_esmtp = slice_str(c->esmtp),
	};
}

/* Appends the strings that an event of these results needs. */
static void
put_strings(struct buf *out, const struct work *k)
{
	const struct record_envelope *env = &k->record.env;
	struct slice *rcpts = mem_calloc(k->n_rcpts, sizeof *rcpts);
	struct result_strings s = {
		.sender = env->sender,
		.pool = env->pool,
		.job = env->job,
		.envid = env->envid,
		.src_mta = env->src_mta,
		.src_ip = env->src_ip,
		.dst_ip = env->dst_ip,
		.user = env->user,
		.received_wall_us = env->received_wall_us,
		.body_bytes = k->record.header.body_bytes,
		.rcpts = rcpts,
		.n_rcpts = k->n_rcpts,
	};

	for (size_t i = 0; i < k->n_rcpts; i++)
		rcpts[i] = rcpt_of(k, i);
	result_strings_encode(out, &s);
	mem_free(rcpts);
}

/* The claim slot first, then the scheduler: a crash between the two loses nothing. */
static void
send_results(struct connection *c, struct work **work, const struct results *r, uint64_t sent_bytes)
{
	struct worker *w = c->worker;
	struct work *k = *work;
	struct message m = { .kind = MESSAGE_RESULT };
	struct buf *encoded = &w->scratch, *payload = &w->scratch2;
	int rc;

	buf_reset(encoded);
	results_encode(encoded, r);
	rc = claim_answer(w->claims, k->claim_slot, k->lease, buf_slice(encoded));
	if (rc != 0)
		log_error("claim slot=%u lease=%" PRIu64 " cannot be answered: %s", k->claim_slot,
			  k->lease, err_text(rc));
	KILL_POINT("answered");
	buf_reset(payload);
	wire_put_u32(payload, (uint32_t)encoded->len);
	buf_put_slice(payload, buf_slice(encoded));
	if (k->decoded)
		put_strings(payload, k);
	m.u.result.lease = k->lease;
	m.u.result.connection = c->number;
	m.u.result.claim_slot = k->claim_slot;
	m.u.result.flags = r->flags;
	m.u.result.sent_bytes = sent_bytes < UINT32_MAX ? (uint32_t)sent_bytes : UINT32_MAX;
	uplink_send(&w->uplink, &m, buf_slice(payload));
	KILL_POINT("result-sent");
	work_free(w, work);
}

/* Nothing was said to the peer, and nothing will be: the bytes are not what was accepted. */
static void
report_damaged(struct connection *c, struct work **work, int rc)
{
	struct work *k = *work;
	struct smtp_policy policy = { 0 };
	struct verdict v = smtp_verdict_failure(VERDICT_AT_NONE, VERDICT_BY_DAMAGED, &policy);
	char diag[DIAG_BYTES], id[ID_TEXT_BYTES];
	struct results r = results_of(c);
	struct result_rcpt *rows = mem_calloc(k->n_rcpts + 1u, sizeof *rows);
	bool again = rc == -E_IO && k->attempt < READ_TRIES;

	log_error("message=%s segment=%u offset=%" PRIu64 " record=%s error=\"%s\"",
		  id_message_text(id, k->id), k->segment, (uint64_t)k->offset16 * RECORD_ALIGN,
		  again ? "unreadable" : "damaged", err_text(rc));
	v.status = VERDICT_STATUS(4, 3, 0);
	for (size_t i = 0; i < k->n_rcpts; i++) {
		set_row(&rows[i], k->indexes[i], v);
		rows[i].diag = diagnose(diag, v, slice_str(err_text(rc)));
		rows[i].stamp_boot_us = EVENT_STAMP_NONE;
	}
	r.flags = again ? 0 : RESULT_DAMAGED; /* a disk may come back */
	r.rcpts = rows;
	r.n_rcpts = k->n_rcpts;
	if (k->decoded) {
		/* Its strings are not to be believed either. */
		record_clear(&k->record);
		k->decoded = false;
	}
	send_results(c, work, &r, 0);
	mem_free(rows);
}

/* What the end of this transaction says about the connection and the host. */
static uint32_t
flags_of(const struct smtp_client *client, bool unknown, bool attempted)
{
	uint32_t flags = unknown ? RESULT_MAYBE_DUP : 0;

	if (!smtp_client_spent(client))
		return flags;
	flags |= RESULT_CONNECTION_GONE;
	if (client->end.reason == VERDICT_BY_INTERRUPTED)
		return flags | RESULT_INTERRUPTED;
	/* An outcome that may be a delivery waits for the message's own retry, not for another
	 * host. */
	if (attempted && !unknown && client->end.reason != VERDICT_BY_NONE &&
	    client->end.phase != VERDICT_AT_NONE)
		flags |= RESULT_HOST;
	return flags;
}

void
work_report_open_failed(struct connection *c, unsigned why, struct verdict v, struct slice text)
{
	struct worker *w = c->worker;
	struct message m = { .kind = MESSAGE_OPEN_FAILED };
	struct results r = results_of(c);
	struct result_rcpt row = { 0 };
	char diag[DIAG_BYTES];

	set_row(&row, 0, v);
	row.diag = diagnose(diag, v, text);
	r.rcpts = &row;
	r.n_rcpts = 1;
	buf_reset(&w->scratch);
	results_encode(&w->scratch, &r);
	m.u.open_failed.connection = c->number;
	m.u.open_failed.why = why;
	m.u.open_failed.code = v.code;
	uplink_send(&w->uplink, &m, buf_slice(&w->scratch));
	w->counters.open_failed++;
}

void
work_report(struct connection *c, struct work **work)
{
	struct worker *w = c->worker;
	struct work *k = *work;
	struct smtp_client *client = &c->client;
	struct smtp_client_outcomes *o = &client->outcomes;
	struct results r = results_of(c);
	struct result_rcpt *rows = mem_calloc(o->n, sizeof *rows);
	char(*diags)[DIAG_BYTES] = mem_calloc(o->n, sizeof *diags);
	bool unknown = false, delivered = false, attempted = false;

	CHECK(o->n == k->n_rcpts);
	for (size_t i = 0; i < o->n; i++) {
		struct verdict v = o->rows[i].verdict;

		CHECK(o->rows[i].state == SMTP_CLIENT_OUTCOME_SETTLED);
		set_row(&rows[i], k->indexes[i], v);
		rows[i].diag = diagnose(diags[i], v, smtp_client_outcomes_text(o, i));
		rows[i].rule = o->rows[i].rule;
		if (k->stamps != NULL)
			rows[i].stamp_boot_us = k->stamps[i] != 0 && v.action != VERDICT_UNATTEMPTED
							? k->stamps[i]
							: EVENT_STAMP_NONE;
		unknown |= v.action == VERDICT_UNKNOWN;
		attempted |= v.action != VERDICT_UNATTEMPTED;
		delivered |= v.action == VERDICT_DELIVERED;
		w->counters.delivered += v.action == VERDICT_DELIVERED;
	}
	r.flags = flags_of(client, unknown, attempted);
	r.rcpts = rows;
	r.n_rcpts = o->n;
	w->counters.transactions++;
	w->counters.active--;
	send_results(c, work, &r, delivered || unknown ? k->record.header.body_bytes : 0);
	mem_free(rows);
	mem_free(diags);
}
