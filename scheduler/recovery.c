/* recovery: what a crash left, made whole before anything new is granted.
 *
 * 1. The event log is replayed from the position in the last commit: decisions already taken are
 *    written to the rows (idempotent: a crash here repeats it).
 * 2. Rows, names, queue states and segments are loaded.
 * 3. Claim tables: a slot that a row covers, or without a row, is freed. For the others the entry is
 *    claimed again under the old lease, until its worker says that it does not run any more, or the
 *    master says that worker is dead. Of several claims of one entry only the last may run: the
 *    results of the others were read before it was granted, they are settled in that order, first. */
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/planted.h"
#include "scheduler/quarantine.h"
#include "scheduler/state.h"

#define EVENTS_A_COMMIT 5000

/* 1. Replay ------------------------------------------------------------------------------------ */
static int
apply_entry(struct store_txn *t, const struct event *e)
{
	struct entry_key key = { e->message, (uint16_t)e->ordinal };
	struct store_row row;
	int rc = store_get_row(t, key, &row);

	if (rc == -E_MISSING)
		return 0; /* finished by an earlier replay, or never acknowledged */
	if (rc == -E_CRC && !e->finished) {
		char id[ID_TEXT_BYTES];

		log_error("entry=%s row=damaged event=skipped", id_entry_text(id, key));
		return 0; /* loading counts it; the others go on */
	}
	if (rc != 0 && rc != -E_CRC)
		return rc;
	if (e->finished)
		return store_del_row(t, key);
	if (row.attempts > e->attempts)
		return 0;
	row.due_s = (uint32_t)e->due_s;
	row.attempts = (uint16_t)e->attempts;
	row.flags = (uint8_t)e->row_flags;
	row.done = e->done;
	return store_put_row(t, key, &row);
}

static int
apply_mode(struct store_txn *t, const struct event *e)
{
	int rc = 0;

	if (e->mode_row.n > 0 && e->mode_row.n <= STORE_BACKOFF_MAX)
		rc = store_put_backoff(t, (uint32_t)e->mode_number, e->mode_row);
	/* Nobody can have been told yet: a message is stored behind the commit that covers this. */
	if (rc == 0 && e->owed_row.n > 0 && e->owed_row.n <= STORE_BACKOFF_MAX)
		rc = store_put_backoff(t, (uint32_t)e->owed_number, e->owed_row);
	return rc;
}

static int
apply(struct store_txn *t, const struct event *e)
{
	switch (e->kind) {
	case EVENT_RESULT:
	case EVENT_OUTCOME:
		return apply_entry(t, e);
	case EVENT_MODE:
		return apply_mode(t, e);
	default:
		return 0; /* a queue's state is in the same commit as its event, or was not promised */
	}
}

/* Reads up to EVENTS_A_COMMIT events into one transaction. 1: there may be more. */
static int
replay_some(struct scheduler *s, struct event_reader *r, struct store_meta *meta, struct event_position end,
	    uint64_t *count)
{
	struct event_position pos = { meta->event_file, meta->event_offset };
	struct store_txn *t;
	struct event e;
	int rc = store_begin(s->store, &t);
	int got = 1;

	if (rc != 0)
		return rc;
	for (unsigned i = 0; i < EVENTS_A_COMMIT && rc == 0; i++) {
		got = event_read(r, end, &e, &pos);
		if (got <= 0)
			break;
		rc = apply(t, &e);
		KILL_POINT("during-replay");
		if (e.kind == EVENT_RECEPTION)
			receptions_seen(s, e.message);
		meta->next_lsn = e.lsn + 1;
		(*count)++;
	}
	if (rc == 0 && got < 0)
		rc = got;
	if (rc == 0) {
		meta->event_file = pos.file;
		meta->event_offset = pos.offset;
		rc = store_put_meta(t, meta);
		/* The replay does not come by those that it has seen again. */
		if (rc == 0)
			rc = receptions_put(s, t);
	}
	if (rc != 0) {
		store_abort(&t);
		return rc;
	}
	rc = store_commit(&t);
	return rc != 0 ? rc : got > 0;
}

int
recovery_replay(struct scheduler *s, struct store_meta *meta, struct event_position end)
{
	struct event_position from = { meta->event_file, meta->event_offset };
	struct event_reader *r;
	uint64_t count = 0;
	int rc;

	if (meta->event_file == 0)
		return 0; /* a new spool: nothing was ever logged */
	rc = receptions_load(s);
	if (rc != 0)
		return rc;
	if (PLANTED(replay_none))
		return 0;
	rc = event_reader_open(&r, s->spool.events_fd, s->spool.instance, from);
	if (rc != 0)
		return rc;
	if (PLANTED(replay_start)) {
		struct event e;

		(void)event_read(r, end, &e, &from);
	}
	do {
		rc = replay_some(s, r, meta, end, &count);
	} while (rc == 1);
	event_reader_close(&r);
	if (count > 0)
		log_info("recovery replayed=%llu", (unsigned long long)count);
	return rc;
}

/* 2. Load -------------------------------------------------------------------------------------- */
static int
claim_order(const void *a, const void *b)
{
	const struct old_claim *x = a;
	const struct old_claim *y = b;

	if (x->grant.key.message != y->grant.key.message)
		return x->grant.key.message < y->grant.key.message ? -1 : 1;
	if (x->grant.key.ordinal != y->grant.key.ordinal)
		return x->grant.key.ordinal < y->grant.key.ordinal ? -1 : 1;
	/* Leases count up; what has none to be believed comes last. */
	if (x->believable != y->believable)
		return x->believable ? -1 : 1;
	return x->grant.lease < y->grant.lease ? -1 : x->grant.lease > y->grant.lease;
}

static int
lease_order(const void *a, const void *b)
{
	const struct old_claim *x = a;
	const struct old_claim *y = b;

	return x->grant.lease < y->grant.lease ? -1 : x->grant.lease > y->grant.lease;
}

static bool
same_entry(const struct old_claim *o, struct entry_key key)
{
	return o->grant.key.message == key.message && o->grant.key.ordinal == key.ordinal;
}

/* The first claim of an entry, or where it would stand. */
static size_t
first_claim(const struct scheduler *s, struct entry_key key)
{
	size_t lo = 0, hi = s->n_old_claims;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		struct entry_key k = s->old_claims[mid].grant.key;

		if (k.message < key.message || (k.message == key.message && k.ordinal < key.ordinal))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Opens the claims of an entry that its row does not cover yet: how many. *known: the attempts that were settled
 * before the first of them was granted. The row may know of fewer: the power went before their events were
 * synced. Their numbers are not given again, and what this one becomes covers it. */
static unsigned
open_claims(struct scheduler *s, struct entry_key key, unsigned attempts, uint16_t *known)
{
	unsigned n = 0;

	*known = (uint16_t)attempts;

	for (size_t i = first_claim(s, key); i < s->n_old_claims && same_entry(&s->old_claims[i], key); i++) {
		struct old_claim *o = &s->old_claims[i];

		o->open = !o->believable || o->grant.attempt > attempts;
		if (!o->believable)
			o->grant.attempt = attempts + 1;
		if (o->open && n++ == 0 && o->grant.attempt - 1 < UINT16_MAX)
			*known = (uint16_t)(o->grant.attempt - 1);
	}
	return n;
}

static void
load_name(void *arg, uint32_t number, struct slice name)
{
	struct scheduler *s = arg;

	names_restore(s->names, number, name);
}

/* Jobs and sender domains have names too: only what a row or a state is for is a queue. */
static bool
queue_is_known(struct scheduler *s, uint32_t queue)
{
	struct slice name = names_get(s->names, queue);

	names_reserve(s->names, queue);
	if (name.n == 0 || memchr(name.p, '/', name.n) == NULL)
		return false;
	core_queue_add(s->core, queue, name);
	names_keep(s->names, queue);
	return true;
}

static void
load_queue(void *arg, uint32_t queue, const struct store_queue *q)
{
	struct scheduler *s = arg;

	if (!queue_is_known(s, queue)) {
		log_error("queue=%u state=without_name", queue);
		return;
	}
	core_queue_restore(s->core, queue, q->paused, q->retry_level, (uint64_t)q->retry_at_s * 1000000u, q->reason);
}

static void
load_segment(void *arg, uint32_t number, const struct store_segment *seg)
{
	struct scheduler *s = arg;

	segments_restore(s->segments, number, seg);
}

static void
load_row(void *arg, struct entry_key key, const struct store_row *stored)
{
	struct scheduler *s = arg;
	struct store_row now_of = *stored;
	const struct store_row *row = &now_of;
	struct core_now now = scheduler_now(s);
	struct core_entry_facts f;
	uint32_t entry;
	unsigned claims;
	uint16_t attempts;

	now_of.queue = redirects_row(s, stored->queue);
	names_reserve(s->names, row->job);
	names_reserve(s->names, row->sender_domain);
	if (!queue_is_known(s, row->queue) || (row->flags & STORE_ROW_QUARANTINED) != 0) {
		quarantine_row(s, (row->flags & STORE_ROW_QUARANTINED) != 0 ? QUARANTINE_RECORD : QUARANTINE_NAME,
			       key, row);
		return;
	}
	KILL_POINT("during-load");
	claims = open_claims(s, key, row->attempts, &attempts);
	f = (struct core_entry_facts){
		.key = key,
		.queue = row->queue,
		.segment = row->segment,
		.offset16 = row->offset,
		.epoch = row->epoch,
		.received_s = row->received_s,
		.due_s = row->due_s,
		.first_rcpt = row->first_rcpt,
		.n_rcpts = row->n_rcpts,
		.attempts = attempts,
		.kbytes = row->kbytes,
		.job = row->job,
		.sender_domain = row->sender_domain,
		.row_flags = row->flags,
		.done = row->done,
		.committed = !receptions_row(s, key, claims > 0) && claims == 0,
	};
	entry = core_entry_add(s->core, &now, &f);
	segments_restore_entry(s->segments, row->segment, row->epoch, f.kbytes);
	receptions_entry(s, key, entry);
	for (size_t i = first_claim(s, key); claims > 0 && same_entry(&s->old_claims[i], key); i++) {
		if (!s->old_claims[i].open)
			continue;
		s->old_claims[i].entry = entry;
		claims--;
	}
}

static void
collect_claims(struct scheduler *s, unsigned worker)
{
	for (unsigned slot = 0; slot < CLAIM_SLOTS; slot++) {
		struct claim_view v;
		int rc = claim_read(s->claims[worker], slot, &v);
		void *p = s->old_claims;

		if (rc == 0 && v.state == CLAIM_FREE)
			continue;
		if (rc != 0)
			log_error("worker=%u claim_slot=%u damaged=yes message=%llu", worker, slot,
				  (unsigned long long)v.grant.key.message);
		if (rc != 0 && v.grant.key.message == 0) {
			claim_free(s->claims[worker], slot);
			continue;
		}
		mem_grow(&p, &s->cap_old_claims, s->n_old_claims + 1, sizeof *s->old_claims);
		s->old_claims = p;
		s->old_claims[s->n_old_claims++] = (struct old_claim){
			.grant = v.grant, .worker = worker, .slot = slot, .entry = CORE_NONE, .believable = rc == 0
		};
	}
}

/* `bad` counts over the tables; `before` is what it was ahead of this one. */
static uint64_t
tell_bad(const char *table, int rc, uint64_t before, uint64_t bad)
{
	if (rc == 0 && bad > before)
		log_error("store table=%s damaged_rows=%llu", table, (unsigned long long)(bad - before));
	return bad;
}

int
recovery_load(struct scheduler *s, const struct store_meta *meta)
{
	uint64_t bad = 0, told = 0;
	int rc;

	(void)meta;
	quarantine_open(s);
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		if (s->claims[w] != NULL)
			collect_claims(s, w);
	}
	if (s->n_old_claims > 0)
		qsort(s->old_claims, s->n_old_claims, sizeof *s->old_claims, claim_order);
	rc = store_load_names(s->store, load_name, s, &bad);
	told = tell_bad("names", rc, told, bad);
	if (rc == 0)
		rc = redirects_load(s);
	if (rc == 0)
		rc = store_load_queues(s->store, load_queue, s, &bad);
	told = tell_bad("queues", rc, told, bad);
	if (rc == 0)
		rc = store_load_segments(s->store, load_segment, s, &bad);
	told = tell_bad("segments", rc, told, bad);
	if (rc == 0)
		rc = store_load_rows(s->store, load_row, s, &bad);
	(void)tell_bad("rows", rc, told, bad);
	names_loaded(s->names);
	if (rc == 0)
		rc = quarantine_loaded(s, bad > 0, load_row);
	if (rc == 0)
		redirects_loaded(s, bad > 0);
	return rc;
}

/* 3. Claims ------------------------------------------------------------------------------------ */
static void
source_of(const struct old_claim *o, struct settle_source *from)
{
	*from = (struct settle_source){ o->entry,	  o->grant.lease,	   o->worker, o->slot,
					o->grant.attempt, o->grant.granted_boot_us,
					o->grant.source_ip };
}

/* Its recipients are charged as far as they got their leave. */
static void
adopt_asked(struct scheduler *s, const struct core_now *now, const struct old_claim *o)
{
	struct claim_stamped stamped[CLAIM_RCPT_MAX];
	struct core_rcpt_stamp granted[CLAIM_RCPT_MAX];
	unsigned n = claim_stamps(s->claims[o->worker], o->slot, o->grant.lease, stamped, CLAIM_RCPT_MAX);

	for (unsigned i = 0; i < n; i++)
		granted[i] = (struct core_rcpt_stamp){ stamped[i].stamp_boot_us, stamped[i].index };
	core_adopt_asked(s->core, now, o->entry, o->grant.lease, granted, n);
}

/* The held entry becomes a claim again, under its old lease; connections of that life are the worker's.
 * False: it has no unfinished recipient. */
static bool
adopt(struct scheduler *s, struct old_claim *o)
{
	struct core_now now = scheduler_now(s);
	const struct conf_source_ip *ips;
	unsigned worker = o->worker < s->n_workers ? o->worker : 0;
	uint32_t source = o->grant.source_ip < conf_source_ips(s->conf, &ips) ? o->grant.source_ip : 0;
	struct core_totals t;

	if (!o->believable) { /* whatever it was: a lease that nobody has */
		core_totals(s->core, &t);
		o->grant.lease = t.next_lease;
		source = 0;
	}
	core_entry_committed(s->core, &now, o->entry);
	core_adopt(s->core, &now, o->entry, o->grant.lease, CORE_NONE, worker, source);
	if (o->believable && o->grant.ask)
		adopt_asked(s, &now, o);
	return core_entry_is_claimed(s->core, o->entry);
}

static void
settle_old(struct scheduler *s, struct old_claim *o)
{
	struct settle_source from;
	struct claim_view v;

	o->open = false;
	source_of(o, &from);
	if (!o->believable || claim_read(s->claims[o->worker], o->slot, &v) != 0)
		memset(&v, 0, sizeof v);
	settle_lost(s, &from, &v);
}

void
recovery_claims(struct scheduler *s)
{
	size_t open = 0;

	for (size_t i = 0; i < s->n_old_claims; i++) {
		struct old_claim *o = &s->old_claims[i];

		o->open = o->open && adopt(s, o);
		if (!o->open) {
			claim_free(s->claims[o->worker], o->slot);
			continue;
		}
		open++;
		/* A later claim of the entry, or there are fewer workers now. */
		if ((i + 1 < s->n_old_claims && o[1].open && o[1].entry == o->entry) || o->worker >= s->n_workers)
			settle_old(s, o);
	}
	if (s->n_old_claims == 0)
		return;
	log_info("recovery claims=%zu open=%zu", s->n_old_claims, open);
	qsort(s->old_claims, s->n_old_claims, sizeof *s->old_claims, lease_order);
}

/* An open claim by its lease, NULL when there is none. */
static struct old_claim *
find_lease(struct scheduler *s, unsigned worker, uint64_t lease)
{
	size_t lo = 0, hi = s->n_old_claims;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->old_claims[mid].grant.lease < lease)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < s->n_old_claims && s->old_claims[lo].grant.lease == lease; lo++) {
		if (s->old_claims[lo].open && s->old_claims[lo].worker == worker)
			return &s->old_claims[lo];
	}
	return NULL;
}

void
recovery_held(struct scheduler *s, unsigned worker, const struct message *m)
{
	struct old_claim *o = find_lease(s, worker, m->u.held.lease);

	if (o != NULL)
		o->running = true;
}

struct old_claim *
recovery_lease(struct scheduler *s, unsigned worker, uint64_t lease, struct settle_source *from)
{
	struct old_claim *o = find_lease(s, worker, lease);

	if (o == NULL || !o->running)
		return NULL;
	o->open = false;
	source_of(o, from);
	return o;
}

void
recovery_worker_known(struct scheduler *s, unsigned worker)
{
	for (size_t i = 0; i < s->n_old_claims; i++) {
		struct old_claim *o = &s->old_claims[i];

		if (o->open && !o->running && o->worker == worker)
			settle_old(s, o);
	}
}

bool
recovery_is_over(const struct scheduler *s)
{
	for (size_t i = 0; i < s->n_old_claims; i++) {
		if (s->old_claims[i].open)
			return false;
	}
	return true;
}

void
recovery_worker_gone(struct scheduler *s, unsigned worker)
{
	for (size_t i = 0; i < s->n_old_claims; i++) {
		struct old_claim *o = &s->old_claims[i];

		if (o->open && o->worker == worker)
			settle_old(s, o);
	}
}
