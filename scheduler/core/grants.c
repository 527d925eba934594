#include "scheduler/core/grants.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/event_log/event.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

#define ROW_MAYBE_DUP 1 /* STORE_ROW_MAYBE_DUP */

/* Claims in a row that attempted nothing, after which the entry has to wait. */
#define IDLE_RESULTS_MAX    2
#define IDLE_RETURNS_MAX    3
#define IDLE_RETURN_HOLD_US (5 * SECOND_US)

/* The table ---------------------------------------------------------------------------------- */
static uint32_t
claim_new(struct core *c, size_t bitmap_bytes)
{
	uint32_t k = c->free_claim;

	if (k != CORE_NONE) {
		c->free_claim = c->claims[k].entry;
	} else {
		mem_grow((void **)&c->claims, &c->claims_cap, (size_t)c->n_claims_made + 1,
			 sizeof(*c->claims));
		k = c->n_claims_made++;
	}
	memset(&c->claims[k], 0, sizeof(c->claims[k]));
	c->claims[k].bits = mem_zalloc(bitmap_bytes);
	c->n_claims++;
	return k;
}

static void
claim_forget_unknown(struct core *c, struct claim *cl)
{
	if (!cl->unknown)
		return;
	cl->unknown = false;
	c->workers[cl->worker].n_unknown--;
	sources_conn_ended(c, cl->worker);
}

void
grants_worker_down(struct core *c, unsigned worker)
{
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		if (c->claims[k].lease && c->claims[k].worker == worker)
			claim_forget_unknown(c, &c->claims[k]);
	}
}

/* Ends the claim; its connection, if it lives, is CLOSING or idle again: `conn_to`. */
static void
claim_free(struct core *c, uint32_t k, enum conn_state conn_to)
{
	struct claim *cl = &c->claims[k];

	if (cl->conn != CORE_NONE) {
		c->conns[cl->conn].claim = CORE_NONE;
		conns_set(c, cl->conn, conn_to);
	}
	claim_forget_unknown(c, cl);
	limits_let_go(c, &cl->charges);
	for (uint32_t i = 0; i < cl->n_later; i++)
		limits_release(c, cl->later[i].limit);
	mem_free(cl->bits);
	mem_free(cl->stamps);
	mem_free(cl->later);
	cl->bits = NULL;
	cl->stamps = NULL;
	cl->later = NULL;
	cl->lease = 0;
	cl->entry = c->free_claim;
	c->free_claim = k;
	c->n_claims--;
}

void
grants_clear(struct core *c)
{
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		mem_free(c->claims[k].bits);
		mem_free(c->claims[k].stamps);
		mem_free(c->claims[k].later);
	}
	mem_free(c->claims);
}

/* CORE_NONE when there is no such claim: an old lease, or nonsense from a worker. */
static uint32_t
claim_of(const struct core *c, uint32_t entry, uint64_t lease)
{
	if (entry >= c->n_entries || c->entries[entry].place != PLACE_CLAIMED || lease == 0)
		return CORE_NONE;
	return c->claims[c->entries[entry].next].lease == lease ? c->entries[entry].next
								: CORE_NONE;
}

/* Giving up ---------------------------------------------------------------------------------- */
void
grants_give_up(struct core *c, uint32_t e, enum core_give_up why, const char *text)
{
	struct active *a = pump_active(c, c->entries[e].queue);
	uint32_t rcpts = entries_unfinished(c, e);

	*(why == CORE_DISCARDED ? &a->delivered : &a->bounced) += rcpts;
	c->totals.bounced += rcpts; /* the driver takes off what was discarded or has expired */
	entries_move(c, e, PLACE_LEAVING);
	if (c->give_up_room != UINT32_MAX && c->give_up_room > 0)
		c->give_up_room--;
	c->ops.give_up(c->ctx, e, why, text ? text : "");
}

bool
grants_expired(struct core *c, uint32_t e)
{
	uint64_t after = pump_settings(c, c->entries[e].queue)->bounce_after_us;

	return after != CONF_NEVER &&
	       seconds_of(c->now.boot_us) >=
		       c->entries[e].received + (after + SECOND_US - 1) / SECOND_US;
}

/* Granting ----------------------------------------------------------------------------------- */
unsigned
grants_most(const struct conf_queue *s)
{
	uint64_t most = s->max_rcpt_per_transaction ? s->max_rcpt_per_transaction : 1;

	return (unsigned)(most > CLAIM_RCPT_MAX ? CLAIM_RCPT_MAX : most);
}

static unsigned
claim_size(const struct conf_queue *s, const struct conn *cn, uint64_t room)
{
	unsigned most = grants_most(s);

	if (cn->rcpt_max && cn->rcpt_max < most)
		most = cn->rcpt_max;
	return (unsigned)(room < most ? room : most);
}

static void
describe(struct core *c, uint32_t e, uint32_t k, uint64_t within, struct core_work *w)
{
	const struct entry *en = &c->entries[e];
	const struct claim *cl = &c->claims[k];

	*w = (struct core_work){
		.connection = cl->conn,
		.queue = c->queues[en->queue].number,
		.entry = e,
		.key = { .message = en->message, .ordinal = (uint16_t)en->ordinal },
		.worker = cl->worker,
		.source_ip = cl->source,
		.lease = cl->lease,
		.attempt = en->attempts + 1u,
		.segment = en->segment,
		.offset16 = en->offset16,
		.epoch = c->epochs[en->segment],
		.first_rcpt = en->first_rcpt,
		.n_rcpts = (uint16_t)en->n_rcpts,
		.attempt_bits = cl->bits,
		.n_attempt = cl->n_attempt,
		.deadline_boot_us = cl->stamp + within,
		.granted_boot_us = cl->stamp,
		.ask = cl->one_by_one,
	};
}

static struct meters *
meters_of(struct active *a)
{
	if (!a->meters)
		a->meters = mem_calloc(1, sizeof(*a->meters));
	return a->meters;
}

/* Counters of attempted recipients: so many more, or (`back`) less. */
static void
count_attempted(struct core *c, uint32_t k, uint32_t n, bool back)
{
	struct claim *cl = &c->claims[k];
	struct active *a = pump_active(c, c->entries[cl->entry].queue);
	struct source *s = &c->sources[cl->source];

	run_touch(c, c->entries[cl->entry].queue);
	if (back) {
		a->attempted -= n;
		s->attempted -= n;
		c->totals.attempted -= n;
		return;
	}
	a->attempted += n;
	s->attempted += n;
	c->totals.attempted += n;
	meter_add(&meters_of(a)->attempted, c->now.boot_us, n);
	meter_add(&s->msg, c->now.boot_us, n);
}

static void
refund_later(struct core *c, const struct claim *cl, uint64_t stamp)
{
	for (uint32_t i = 0; i < cl->n_later; i++) {
		struct charges one = { .n = 1, .of = { cl->later[i].limit } };

		if (stamp >= cl->later[i].since)
			limits_refund(c, &one, stamp, 1, 0);
	}
}

/* The recipients that are left in the bits of the claim were not attempted. */
static void
refund_rest(struct core *c, uint32_t k, uint32_t n)
{
	struct claim *cl = &c->claims[k];

	if (!cl->one_by_one) {
		limits_refund(c, sets_of(c, cl->charges), cl->stamp, n, 0);
		count_attempted(c, k, n, true);
		return;
	}
	for (unsigned i = 0; cl->stamps && i < c->entries[cl->entry].n_rcpts; i++) {
		if (!bit_get(cl->bits, i) || cl->stamps[i] == 0)
			continue;
		limits_refund(c, sets_of(c, cl->charges), cl->stamps[i], 1, 0);
		refund_later(c, cl, cl->stamps[i]);
		count_attempted(c, k, 1, true);
	}
}

/* `used`: bytes of a body that somebody got; the rest of what was reserved goes back. */
static void
refund_volume(struct core *c, uint32_t k, uint64_t used)
{
	struct claim *cl = &c->claims[k];

	if (used < cl->bytes)
		limits_refund(c, sets_of(c, cl->charges), cl->stamp, 0, cl->bytes - used);
}

static uint32_t
claim_make(struct core *c, uint32_t e, uint32_t conn, unsigned worker, uint32_t source,
	   unsigned most)
{
	uint32_t k = claim_new(c, (c->entries[e].n_rcpts + 7u) / 8);
	struct claim *cl = &c->claims[k];

	cl->entry = e;
	cl->conn = conn;
	cl->worker = (uint8_t)worker;
	cl->source = source;
	cl->stamp = c->now.boot_us;
	cl->n_attempt = (uint16_t)entries_pick(c, e, most, cl->bits);
	CHECK(cl->n_attempt > 0);
	entries_move(c, e, PLACE_CLAIMED);
	c->entries[e].next = k;
	return k;
}

enum granted
grants_make(struct core *c, struct grant *g)
{
	struct conn *cn = &c->conns[g->conn];
	struct core_work w;
	struct claim *cl;
	uint32_t k;

	CHECK(c->entries[g->e].place == PLACE_READY && c->entries[g->e].queue == g->qi);
	CHECK(cn->state == CONN_IDLE && cn->queue == g->qi && g->yes.room > 0);
	/* A row whose recipients are all finished should have been deleted: nothing is to be sent.
	 */
	if (grants_expired(c, g->e) || entries_unfinished(c, g->e) == 0) {
		grants_give_up(c, g->e, CORE_EXPIRED, "");
		return GRANT_NO_ENTRY;
	}
	k = claim_make(c, g->e, g->conn, cn->worker, cn->source,
		       claim_size(pump_settings(c, g->qi), cn, g->yes.room));
	cl = &c->claims[k];
	cl->lease = c->next_lease++;
	cl->one_by_one =
		!cn->pipelining &&
		limits_measure(c, g->known ? sets_of(c, g->known) : &g->set, CORE_MEASURE_MSG);
	cl->bytes = g->bytes;
	cn->claim = k;
	conns_set(c, g->conn, CONN_BUSY);
	describe(c, g->e, k, g->yes.within, &w);
	if (!c->ops.work(c->ctx, &w)) {
		c->workers[cn->worker].full = true;
		entries_ready(c, g->e, true);
		claim_free(c, k, CONN_IDLE);
		return GRANT_FULL;
	}
	if (c->queues[g->qi].probing)
		backoff_probed(c, g->qi);
	cn->n_messages++;
	g->n_rcpts = cl->n_attempt;
	cl->charges = g->known ? sets_hold(c, g->known) : sets_make(c, &g->set);
	limits_charge(c, sets_of(c, cl->charges), cl->one_by_one ? 0 : cl->n_attempt, cl->bytes);
	if (!cl->one_by_one)
		count_attempted(c, k, cl->n_attempt, false);
	return GRANTED;
}

/* Ends --------------------------------------------------------------------------------------- */
/* Idle again, unless the worker said that it is gone. */
static enum conn_state
conn_afterwards(struct core *c, uint32_t k, bool gone)
{
	uint32_t conn = c->claims[k].conn;

	if (conn == CORE_NONE)
		return CONN_CLOSING;
	return gone ? CONN_CLOSING : CONN_IDLE;
}

static void
defer(struct core *c, uint32_t e, uint64_t us)
{
	uint64_t due = c->now.boot_us + us + SECOND_US - 1;

	c->entries[e].idle_returns = 0;
	c->entries[e].host_failed = 0;
	entries_new_round(c, e);
	entries_defer(c, e, seconds_of(due));
}

/* What came back unattempted was no turn: the queue is the next one where others wait. */
static void
owe_turns(struct core *c, uint32_t k)
{
	const struct charges *set = sets_of(c, c->claims[k].charges);
	struct active *a = pump_active(c, c->entries[c->claims[k].entry].queue);

	for (uint32_t i = 0; i < set->n; i++) {
		const struct limit *l = &c->limits[set->of[i]];

		if (l->line && l->measure == CORE_MEASURE_MSG)
			limits_owe(a, set->of[i]);
	}
}

bool
core_returned(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease)
{
	uint32_t k, qi;

	core_clock(c, now);
	k = claim_of(c, entry, lease);
	if (k == CORE_NONE)
		return false;
	qi = c->entries[entry].queue;
	refund_rest(c, k, c->claims[k].n_attempt);
	refund_volume(c, k, 0);
	if (c->claims[k].conn != CORE_NONE)
		c->conns[c->claims[k].conn].n_messages--;
	if (c->claims[k].refused) {
		entries_ready(c, entry, true); /* a limit's doing, not its own */
	} else if (c->entries[entry].idle_returns + 1 >= IDLE_RETURNS_MAX) {
		defer(c, entry, IDLE_RETURN_HOLD_US);
	} else {
		c->entries[entry].idle_returns++;
		entries_ready(c, entry, true);
		owe_turns(c, k);
	}
	claim_free(c, k, conn_afterwards(c, k, false));
	run_push(c, qi);
	return true;
}

struct tally {
	unsigned delivered, bounced, deferred;
};

/* Applies what the worker says; recipients not of this claim, or named twice, are ignored. */
static struct tally
apply_results(struct core *c, uint32_t k, const struct core_result *r)
{
	const struct claim *cl = &c->claims[k];
	struct tally t = { 0, 0, 0 };

	for (size_t i = 0; i < r->n_rcpts; i++) {
		unsigned index = r->rcpts[i].index;

		if (index >= c->entries[cl->entry].n_rcpts || !bit_get(cl->bits, index) ||
		    r->rcpts[i].action == EVENT_UNATTEMPTED)
			continue;
		bit_clear(cl->bits, index);
		switch (r->rcpts[i].action) {
		case EVENT_DELIVERED:
			t.delivered++;
			entries_finish_rcpt(c, cl->entry, index);
			break;
		case EVENT_BOUNCED:
			t.bounced++;
			entries_finish_rcpt(c, cl->entry, index);
			break;
		default:
			t.deferred++;
			if (!r->host_failed && !r->interrupted)
				entries_tried_rcpt(c, cl->entry, index);
		}
	}
	return t;
}

static void
count_delivered(struct meters *m, uint64_t now_us, uint32_t n)
{
	struct deliveries *d = m->delivered;

	if (!d)
		d = m->delivered = mem_calloc(1, sizeof(*d));
	if (d->last_us == 0 || now_us - d->last_us > 60 * SECOND_US)
		d->since_us = now_us;
	d->last_us = now_us;
	meter_add(&d->meter, now_us, n);
}

static void
count_results(struct core *c, uint32_t k, struct tally t)
{
	struct active *a = pump_active(c, c->entries[c->claims[k].entry].queue);

	a->delivered += t.delivered;
	if (t.delivered > 0)
		count_delivered(meters_of(a), c->now.boot_us, t.delivered);
	a->bounced += t.bounced;
	a->transient += t.deferred;
	c->sources[c->claims[k].source].delivered += t.delivered;
	c->totals.delivered += t.delivered;
	c->totals.bounced += t.bounced;
	c->totals.transient += t.deferred;
}

/* Where the entry goes after the attempt. `asked`: its leaves were given one by one, and what
 * attempted nothing used them too late, or not. */
static void
place_after(struct core *c, uint32_t e, struct tally t, bool host_failed, bool held_up, bool asked)
{
	struct entry *en = &c->entries[e];
	uint64_t hold = pump_settings(c, en->queue)->retry_recipients_after_us;

	if (t.delivered + t.bounced + t.deferred > 0)
		en->idle_returns = 0;
	if (entries_unfinished(c, e) == 0) {
		entries_move(c, e, PLACE_LEAVING);
	} else if (held_up && entries_untried(c, e) > 0) {
		entries_ready(c, e,
			      true); /* not its own fault: a limit, or mail of a higher priority */
	} else if (entries_untried(c, e) == 0 ||
		   (en->n_rcpts == 1 && t.deferred > 0 && !host_failed)) {
		defer(c, e, hold); /* all had their turn in this round */
	} else if (t.delivered + t.bounced + t.deferred == 0) {
		if (en->idle_returns + 1 >= IDLE_RESULTS_MAX) {
			defer(c, e,
			      asked && hold > IDLE_RETURN_HOLD_US ? IDLE_RETURN_HOLD_US : hold);
			return;
		}
		en->idle_returns++;
		entries_ready(c, e, true);
	} else if (host_failed) {
		/* Once at another host; then it waits: it may be what ends connections. */
		if (en->host_failed) {
			defer(c, e, hold);
			return;
		}
		en->host_failed = 1;
		en->idle_returns = 0;
		entries_ready(c, e, false);
	} else {
		en->idle_returns = 0;
		entries_ready(c, e, true); /* the others now, at the old place */
	}
}

static void
decide(struct core *c, uint32_t e, struct core_decision *out)
{
	const struct entry *en = &c->entries[e];
	const struct queue *q = &c->queues[en->queue];

	*out = (struct core_decision){
		.finished = en->place == PLACE_LEAVING,
		.attempts = (uint16_t)en->attempts,
		.row_flags = (uint8_t)en->row_flags,
		.done = entries_done(c, e),
		.retry_level = q->retry_level,
	};
	/* Rounded down, as it is read and shown: coming back from the row it is the same moment. */
	if (en->place == PLACE_DEFERRED)
		out->due_s = (uint32_t)(core_wall_of(c, us_of_seconds(en->due)) / SECOND_US);
	if (q->retry_at > c->now.boot_us)
		out->retry_at_s =
			(uint32_t)((core_wall_of(c, q->retry_at) + SECOND_US - 1) / SECOND_US);
}

bool
core_settle(struct core *c, const struct core_now *now, const struct core_result *r,
	    struct core_decision *out)
{
	uint32_t k, qi, conn, source;
	struct tally t;
	unsigned attempted;
	bool held_up, asked;
	struct conn *cn;

	core_clock(c, now);
	k = claim_of(c, r->entry, r->lease);
	if (k == CORE_NONE)
		return false;
	qi = c->entries[r->entry].queue;
	cn = c->claims[k].conn == CORE_NONE ? NULL : &c->conns[c->claims[k].conn];
	t = apply_results(c, k, r);
	attempted = t.delivered + t.bounced + t.deferred;
	refund_rest(c, k, c->claims[k].n_attempt - attempted);
	refund_volume(c, k, r->maybe_dup ? UINT64_MAX : r->body_bytes);
	count_results(c, k, t);
	if (attempted > 0 && c->entries[r->entry].attempts < UINT16_MAX)
		c->entries[r->entry].attempts++;
	if (r->maybe_dup)
		c->entries[r->entry].row_flags |= ROW_MAYBE_DUP;
	if (r->text.n && (t.deferred + t.bounced > 0 || r->host_failed))
		pump_last_error(c, qi, r->text);
	if (cn && attempted == 0 && cn->n_messages > 0)
		cn->n_messages--;
	if (cn && r->host_failed)
		targets_failed(c, qi, cn, TARGET_FAILED);
	else if (cn)
		cn->n_errors += t.bounced + t.deferred;
	if (t.delivered > 0) {
		if (c->queues[qi].retry_level > 0) {
			c->queues[qi].retry_level = 0;
			c->ops.queue_changed(c->ctx, c->queues[qi].number);
		}
		if (cn && !r->host_failed)
			targets_succeeded(c, qi, cn);
	}
	conn = c->claims[k].conn;
	source = c->claims[k].source_gone ? CORE_NONE : c->claims[k].source;
	held_up = c->claims[k].refused || r->interrupted;
	asked = c->claims[k].one_by_one && !r->connection_gone && !r->host_failed;
	claim_free(c, k, conn_afterwards(c, k, r->connection_gone));
	if (conn != CORE_NONE && r->host_failed && !r->connection_gone)
		conns_close(c, conn);
	place_after(c, r->entry, t, r->host_failed, held_up, asked);
	if (r->host_failed)
		targets_round_over(c, qi);
	if (t.delivered > 0)
		backoff_delivered(c, qi, source, r->lease, t.delivered);
	decide(c, r->entry, out);
	run_push(c, qi);
	return true;
}

void
core_adopt(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
	   uint32_t connection, unsigned worker, uint32_t source_ip)
{
	struct charges set = { .n = 0 };
	struct entry *en;
	uint32_t k, qi;

	core_clock(c, now);
	CHECK(entry < c->n_entries && worker < c->n_workers);
	en = &c->entries[entry];
	qi = en->queue;
	/* What a worker states is not believed against what is known here. */
	if ((en->place != PLACE_READY && en->place != PLACE_DEFERRED) || lease == 0 ||
	    source_ip >= c->n_sources)
		return;
	if (lease >= c->next_lease)
		c->next_lease = lease + 1;
	pump_settings(c, qi);
	if (!conns_adopt(c, connection, qi, worker, source_ip, CONN_BUSY))
		connection = CORE_NONE;
	k = claim_make(c, entry, connection, worker, source_ip, CLAIM_RCPT_MAX);
	c->claims[k].lease = lease;
	if (connection != CORE_NONE) {
		c->conns[connection].claim = k;
		c->conns[connection].n_messages = 1;
	} else {
		c->claims[k].unknown = true;
		c->workers[worker].n_unknown++;
	}
	admit_message(c, qi, &set);
	admit_message_source(c, qi, source_ip, &set);
	admit_message_entry(c, entry, &set);
	c->claims[k].bytes = admit_bytes(c, entry);
	limits_adopt(c, &set, c->claims[k].n_attempt, c->claims[k].bytes);
	c->claims[k].charges = sets_make(c, &set);
	count_attempted(c, k, c->claims[k].n_attempt, false);
	run_push(c, qi);
}

/* Recipients one by one ----------------------------------------------------------------------- */
static void
add_rcpt_limits(const struct core *c, struct charges *set, const struct charges *from)
{
	for (uint32_t i = 0; i < from->n; i++) {
		if (c->limits[from->of[i]].measure == CORE_MEASURE_MSG &&
		    !charges_has(set, from->of[i]))
			charges_add(set, from->of[i], c->limits[from->of[i]].measure);
	}
}

/* What a recipient is charged to: what its claim was, and what there is by now. */
static void
rcpt_limits(struct core *c, const struct claim *cl, struct charges *set)
{
	uint32_t qi = c->entries[cl->entry].queue;
	struct charges now = { .n = 0 };

	pump_settings(c, qi);
	admit_message(c, qi, &now);
	if (!cl->source_gone)
		admit_message_source(c, qi, cl->source, &now);
	admit_message_entry(c, cl->entry, &now);
	add_rcpt_limits(c, set, sets_of(c, cl->charges));
	for (uint32_t i = 0; i < cl->n_later; i++)
		charges_add(set, cl->later[i].limit, c->limits[cl->later[i].limit].measure);
	add_rcpt_limits(c, set, &now);
}

/* Those of the set that the claim does not have yet are its own from now on. Of one stamp are only
 * recipients that were charged to the same. */
static void
keep_later(struct core *c, struct claim *cl, const struct charges *set)
{
	uint64_t since = c->now.boot_us;

	for (unsigned i = 0; i < c->entries[cl->entry].n_rcpts && since == c->now.boot_us; i++)
		since += cl->stamps[i] == since;
	for (uint32_t k = 0; k < set->n; k++) {
		bool has = charges_has(sets_of(c, cl->charges), set->of[k]);

		for (uint32_t i = 0; i < cl->n_later && !has; i++)
			has = cl->later[i].limit == set->of[k];
		if (has)
			continue;
		mem_grow((void **)&cl->later, &cl->later_cap, (size_t)cl->n_later + 1,
			 sizeof(*cl->later));
		cl->later[cl->n_later++] = (struct later){ since, set->of[k] };
		limits_hold(c, set->of[k]);
	}
}

bool
core_rcpt_ask(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
	      unsigned index, uint64_t *stamp_us, uint64_t *deadline_us)
{
	struct answer yes = ANSWER_YES;
	struct asker who = { .first = true, .want = 1 };
	struct charges set = { .n = 0 };
	struct claim *cl;
	uint32_t k;

	core_clock(c, now);
	k = claim_of(c, entry, lease);
	if (k == CORE_NONE)
		return false;
	cl = &c->claims[k];
	/* Each once: a second ask is nonsense. */
	if (!cl->one_by_one || index >= c->entries[entry].n_rcpts || !bit_get(cl->bits, index) ||
	    (cl->stamps && cl->stamps[index]))
		return false;
	if (!cl->stamps)
		cl->stamps = mem_calloc(c->entries[entry].n_rcpts, sizeof(*cl->stamps));
	rcpt_limits(c, cl, &set);
	who.qi = c->entries[entry].queue;
	limits_ask(c, &who, &set, 0, &yes);
	*deadline_us = c->now.boot_us + yes.within;
	*stamp_us = c->now.boot_us;
	if (yes.limit) {
		cl->refused = true;
		return false;
	}
	keep_later(c, cl, &set);
	cl->stamps[index] = c->now.boot_us ? c->now.boot_us : 1;
	limits_charge_more(c, &set, 1);
	count_attempted(c, k, 1, false);
	return true;
}

void
core_adopt_asked(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
		 const struct core_rcpt_stamp *granted, size_t n)
{
	uint32_t k;
	struct claim *cl;

	core_clock(c, now);
	k = claim_of(c, entry, lease);
	if (k == CORE_NONE || c->claims[k].one_by_one)
		return;
	cl = &c->claims[k];
	limits_refund(c, sets_of(c, cl->charges), cl->stamp, cl->n_attempt, 0);
	count_attempted(c, k, cl->n_attempt, true);
	cl->one_by_one = true;
	cl->stamps = mem_calloc(c->entries[entry].n_rcpts, sizeof(*cl->stamps));
	for (size_t i = 0; i < n; i++) {
		unsigned index = granted[i].index;

		if (index >= c->entries[entry].n_rcpts || !bit_get(cl->bits, index) ||
		    cl->stamps[index] != 0)
			continue;
		/* As all of an adopted claim. */
		cl->stamps[index] = c->now.boot_us ? c->now.boot_us : 1;
		limits_charge_more(c, sets_of(c, cl->charges), 1);
		count_attempted(c, k, 1, false);
	}
}
