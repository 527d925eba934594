/* ledger: what was promised to clients, what the far ends took, and what the events say of it. It
 * reads the event stream as the recorder would, and after each start the rows; it asks the
 * scheduler nothing.
 *
 *   - an event of a number says the same whenever it is read; numbers have no gap
 *   - a recipient ends once; nothing is sent after its end was recorded
 *   - an end that a worker reported was reported so, under that lease; a lease has one result at
 * most
 *   - no recipient is out twice while the first claim's worker lives
 *   - delivered twice: only when a power cut came between, or the first time is flagged
 *   - after each start: rows and index are the same entries, and each acknowledged recipient
 * without an end is in them, each one with an end is not
 *   - when all has come to rest: each acknowledged recipient has an end, no row is left */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "tests/sim/sim.h"

#define WRITTEN_MAX 8192 /* of one episode */
#define HASH        16384
#define LEASES      16384
#define EVENTS      65536
#define DOMAINS     6

enum answer { OPEN, ACKED, REFUSED };

struct rcpt {
	uint8_t end; /* enum event_action, 0 none yet */
	bool seen;   /* in the rows, while they are looked through */
	bool flagged;
	uint16_t taken; /* how often a far end said 250 */
	uint64_t out;   /* lease under which it is being sent */
	uint64_t took_lease;
	unsigned took_cuts;
};
struct message_state {
	struct sim_record r;
	enum answer answer;
	bool leased; /* some entry of it was, ever */
	uint16_t attempts[4];
	bool finished[4];
	struct rcpt rcpts[8];
};
struct lease_state {
	uint64_t lease;
	struct message_state *m;
	unsigned entry; /* ordinal */
	bool result, flagged;
	bool must_flag;     /* what it delivered was delivered again */
	uint8_t action[8];  /* by index within the entry: what the far end said */
	uint64_t stamps[8]; /* of those whose RCPT left after it was asked for */
	uint16_t bits;
	bool ask;
	unsigned cuts; /* when it was granted */
};

struct sim_counts sim_counts;
static struct message_state *messages;
static unsigned n_messages;
static uint32_t by_id[HASH];
static struct lease_state *leases;
static unsigned n_leases;
static uint32_t by_lease[2 * LEASES];
static uint32_t *event_sums;
static uint64_t last_lsn;
static unsigned cuts;

void
ledger_begin(void)
{
	if (messages == NULL) {
		messages = calloc(WRITTEN_MAX, sizeof *messages);
		leases = calloc(LEASES, sizeof *leases);
		event_sums = calloc(EVENTS, sizeof *event_sums);
	}
	n_messages = n_leases = 0;
	memset(by_id, 0, sizeof by_id);
	memset(by_lease, 0, sizeof by_lease);
	last_lsn = 0;
	cuts = 0;
}

static struct message_state *
find_message(msg_id_t id)
{
	for (unsigned h = (unsigned)(id * 0x9e3779b97f4a7c15ull >> 50) % HASH;;
	     h = (h + 1) % HASH) {
		if (by_id[h] == 0)
			return NULL;
		if (messages[by_id[h] - 1].r.id == id)
			return &messages[by_id[h] - 1];
	}
}

static struct lease_state *
find_lease(uint64_t lease)
{
	for (unsigned h = (unsigned)(lease * 0x9e3779b97f4a7c15ull >> 48) % (2 * LEASES);;
	     h = (h + 1) % (2 * LEASES)) {
		if (by_lease[h] == 0)
			return NULL;
		if (leases[by_lease[h] - 1].lease == lease)
			return &leases[by_lease[h] - 1];
	}
}

static struct lease_state *
need_lease(uint64_t lease)
{
	struct lease_state *l = find_lease(lease);

	HOLDS(l != NULL, "lease %llu was never given", (unsigned long long)lease);
	return l;
}

static struct rcpt *
rcpt_of(struct message_state *m, unsigned entry, unsigned index)
{
	HOLDS(entry < m->r.n_entries && index < m->r.count[entry],
	      "message %llx has no recipient %u.%u", (unsigned long long)m->r.id, entry, index);
	return &m->rcpts[m->r.first[entry] + index];
}

/* What the world does ----------------------------------------------------------------------------
 */
void
ledger_written(const struct sim_record *r)
{
	unsigned h = (unsigned)(r->id * 0x9e3779b97f4a7c15ull >> 50) % HASH;
	struct message_state *m = &messages[n_messages++];

	HOLDS(n_messages < WRITTEN_MAX, "an episode of too many messages");
	HOLDS(find_message(r->id) == NULL, "message id %llx is given twice",
	      (unsigned long long)r->id);
	memset(m, 0, sizeof *m);
	m->r = *r;
	while (by_id[h] != 0)
		h = (h + 1) % HASH;
	by_id[h] = n_messages;
	sim_counts.written++;
}

void
ledger_acknowledged(msg_id_t id)
{
	struct message_state *m = find_message(id);

	HOLDS(m != NULL && m->answer == OPEN, "message %llx is answered again",
	      (unsigned long long)id);
	m->answer = ACKED;
	sim_counts.acked++;
	sim_tell("acknowledged %llx", (unsigned long long)id);
}

void
ledger_refused(msg_id_t id)
{
	struct message_state *m = find_message(id);

	HOLDS(m != NULL && m->answer == OPEN, "message %llx is answered again",
	      (unsigned long long)id);
	if (!sim_spoilt) {
		HOLDS(!m->leased, "message %llx is refused, which was sent on already",
		      (unsigned long long)id);
		m->answer = REFUSED;
	}
	sim_counts.refused++;
	sim_tell("refused %llx", (unsigned long long)id);
}

static struct lease_state *
new_lease(uint64_t lease)
{
	unsigned h = (unsigned)(lease * 0x9e3779b97f4a7c15ull >> 48) % (2 * LEASES);
	struct lease_state *l = &leases[n_leases++];

	HOLDS(n_leases < LEASES, "an episode of too many leases");
	HOLDS(find_lease(lease) == NULL, "lease %llu is given twice", (unsigned long long)lease);
	memset(l, 0, sizeof *l);
	l->lease = lease;
	while (by_lease[h] != 0)
		h = (h + 1) % (2 * LEASES);
	by_lease[h] = n_leases;
	sim_counts.leases++;
	return l;
}

void
ledger_granted(const struct message *work, struct slice bits, unsigned worker)
{
	struct message_state *m = find_message(work->u.work.id);
	struct lease_state *l;
	unsigned entry = 0;

	HOLDS(m != NULL, "work for message %llx, which nobody wrote",
	      (unsigned long long)work->u.work.id);
	HOLDS(m->answer != REFUSED, "work for message %llx, which was refused",
	      (unsigned long long)m->r.id);
	while (entry < m->r.n_entries && m->r.first[entry] != work->u.work.first_rcpt)
		entry++;
	l = new_lease(work->u.work.lease);
	sim_counts.moved += work->u.work.segment != m->r.segment;
	l->m = m;
	m->leased = true;
	l->entry = entry;
	l->ask = (work->u.work.flags & WORK_ASK) != 0;
	l->cuts = cuts;
	for (unsigned i = 0; i < work->u.work.n_rcpts; i++) {
		struct rcpt *r;

		if (((unsigned char)bits.p[i / 8] >> i % 8 & 1) == 0)
			continue;
		r = rcpt_of(m, entry, i);
		HOLDS(r->out == 0,
		      "recipient %u of %llx is out under lease %llu and again under %llu",
		      m->r.first[entry] + i, (unsigned long long)m->r.id,
		      (unsigned long long)r->out, (unsigned long long)l->lease);
		HOLDS(r->end == 0, "recipient %u of %llx is given out after its end",
		      m->r.first[entry] + i, (unsigned long long)m->r.id);
		r->out = l->lease;
		l->bits |= (uint16_t)(1u << i);
	}
	sim_tell("lease %llu: %llx.%u in segment %u at worker %u", (unsigned long long)l->lease,
		 (unsigned long long)m->r.id, entry, work->u.work.segment, worker);
}

void
ledger_stamped(uint64_t lease, unsigned index, uint64_t stamp_boot_us)
{
	struct lease_state *l = need_lease(lease);

	HOLDS(l->ask && l->stamps[index] == 0, "recipient %u of lease %llu is granted twice", index,
	      (unsigned long long)lease);
	HOLDS(stamp_boot_us > EVENT_STAMP_NONE && stamp_boot_us <= sim_clock.boot_us,
	      "a stamp that cannot be");
	l->stamps[index] = stamp_boot_us;
	sim_counts.stamped++;
}

/* The worker may report otherwise, when it did not hear the answer. */
void
ledger_took(uint64_t lease, unsigned index, enum event_action action)
{
	struct lease_state *l = need_lease(lease);
	struct rcpt *r = rcpt_of(l->m, l->entry, index);

	l->action[index] = (uint8_t)action;
	if (action != EVENT_DELIVERED)
		return;
	HOLDS(r->end == 0, "recipient %u of %llx is delivered after its end",
	      l->m->r.first[l->entry] + index, (unsigned long long)l->m->r.id);
	if (r->taken++ > 0) {
		struct lease_state *before = need_lease(r->took_lease);

		sim_counts.dups++;
		if (r->took_cuts == cuts) {
			r->flagged = true; /* its event must say so, when it comes */
			before->must_flag = true;
		}
	}
	r->took_lease = lease;
	r->took_cuts = cuts;
}

void
ledger_lease_ends(uint64_t lease, bool said)
{
	struct lease_state *l = need_lease(lease);

	(void)said;
	for (unsigned i = 0; i < l->m->r.count[l->entry]; i++) {
		struct rcpt *r = rcpt_of(l->m, l->entry, i);

		if ((l->bits >> i & 1) != 0 && r->out == lease)
			r->out = 0;
	}
}

void
ledger_cut(void)
{
	cuts++;
}

/* Events --------------------------------------------------------------------------------------- */
static uint32_t
sum_of(const struct event *e)
{
	struct buf b = { 0 };
	uint32_t crc;

	event_encode(&b, e);
	crc = crc32c(1, b.data + b.start, b.len) | 1;
	buf_clear(&b);
	return crc;
}

/* False: it was read before, by an earlier life of the recorder. */
static bool
is_new(const struct event *e)
{
	uint32_t sum = sum_of(e);

	HOLDS(e->lsn < EVENTS, "an episode of too many events");
	if (e->lsn <= last_lsn) {
		HOLDS(event_sums[e->lsn] == sum, "event %llu says something else than before",
		      (unsigned long long)e->lsn);
		return false;
	}
	HOLDS(e->lsn == last_lsn + 1, "event %llu follows event %llu", (unsigned long long)e->lsn,
	      (unsigned long long)last_lsn);
	last_lsn = e->lsn;
	event_sums[e->lsn] = sum;
	sim_counts.events++;
	return true;
}

/* Whoever died: each RCPT that left has its own stamp in the log, and no other has one. After a
 * power cut the claim table may know less than its worker did. */
static void
check_stamp(const struct event *e, const struct lease_state *l, const struct event_rcpt *er)
{
	uint64_t stamp = l->stamps[er->index];

	if (!l->ask) {
		HOLDS(er->stamp_boot_us == 0, "event %llu: a stamp that nobody asked for",
		      (unsigned long long)e->lsn);
		return;
	}
	if (l->cuts != cuts)
		return;
	if (stamp == 0)
		HOLDS(er->stamp_boot_us == EVENT_STAMP_NONE,
		      "event %llu: no RCPT was sent for recipient %u, and it has the stamp %llu",
		      (unsigned long long)e->lsn, er->index, (unsigned long long)er->stamp_boot_us);
	else
		HOLDS(er->stamp_boot_us == stamp && er->action != EVENT_UNATTEMPTED,
		      "event %llu: recipient %u was granted at %llu, the event says %llu, action "
		      "%u",
		      (unsigned long long)e->lsn, er->index, (unsigned long long)stamp,
		      (unsigned long long)er->stamp_boot_us, er->action);
}

static void
check_result(const struct event *e, struct lease_state *l, const struct event_rcpt *er)
{
	uint8_t said = l->action[er->index];

	check_stamp(e, l, er);
	HOLDS((l->bits >> er->index & 1) != 0,
	      "event %llu: a recipient that lease %llu did not hold", (unsigned long long)e->lsn,
	      (unsigned long long)l->lease);
	if (er->action == EVENT_DELIVERED || er->action == EVENT_BOUNCED)
		HOLDS(said == er->action,
		      "event %llu: recipient %u of %llx ends as %u, the far end said %u",
		      (unsigned long long)e->lsn, er->index, (unsigned long long)e->message,
		      er->action, said);
	else if (said == EVENT_DELIVERED)
		HOLDS(e->maybe_dup != 0 || l->flagged,
		      "event %llu: recipient %u of %llx was taken, but is deferred without a flag",
		      (unsigned long long)e->lsn, er->index, (unsigned long long)e->message);
}

static void
count_end(const struct event_rcpt *er)
{
	switch (er->action) {
	case EVENT_DELIVERED:
		sim_counts.delivered++;
		break;
	case EVENT_BOUNCED:
		sim_counts.bounced++;
		break;
	case EVENT_EXPIRED:
		sim_counts.expired++;
		break;
	default:
		sim_counts.deferred++;
		break;
	}
}

static void
rcpt_event(const struct event *e, struct message_state *m, struct lease_state *l,
	   const struct event_rcpt *er)
{
	struct rcpt *r = rcpt_of(m, (unsigned)e->ordinal, er->index);
	char address[64];

	snprintf(address, sizeof address, "r%u.%llx@d%u.example",
		 m->r.first[e->ordinal] + er->index, (unsigned long long)m->r.id,
		 m->r.domain[e->ordinal]);
	HOLDS(slice_is(er->address, address), "event %llu: the address of %s is \"%.*s\"",
	      (unsigned long long)e->lsn, address, (int)er->address.n, er->address.p);
	HOLDS(r->end == 0, "event %llu: %s ends again or is tried after its end",
	      (unsigned long long)e->lsn, address);
	if (l != NULL)
		check_result(e, l, er);
	count_end(er);
	if (er->action == EVENT_DELIVERED || er->action == EVENT_BOUNCED ||
	    er->action == EVENT_EXPIRED || er->action == EVENT_DELETED)
		r->end = er->action;
	if (er->action == EVENT_DELIVERED && r->flagged)
		HOLDS(e->maybe_dup != 0,
		      "event %llu: %s was delivered twice, and it does not say so",
		      (unsigned long long)e->lsn, address);
}

void
ledger_event(const struct event *e)
{
	struct message_state *m;
	struct lease_state *l = NULL;
	bool finished = true;

	if (!is_new(e))
		return;
	modes_event(e);
	if (e->kind != EVENT_RESULT && e->kind != EVENT_OUTCOME)
		return;
	sim_tell("event %llu: kind %u of %llx.%u lease %llu attempt %llu attempts %llu rcpts %zu "
		 "action %u dup %llu",
		 (unsigned long long)e->lsn, e->kind, (unsigned long long)e->message,
		 (unsigned)e->ordinal, (unsigned long long)e->lease, (unsigned long long)e->attempt,
		 (unsigned long long)e->attempts, e->n_rcpts,
		 e->n_rcpts > 0 ? e->rcpts[0].action : 0, (unsigned long long)e->maybe_dup);
	m = find_message(e->message);
	HOLDS(m != NULL && e->ordinal < m->r.n_entries, "event %llu: message %llx is not known",
	      (unsigned long long)e->lsn, (unsigned long long)e->message);
	HOLDS(!m->finished[e->ordinal], "event %llu: its entry has ended before",
	      (unsigned long long)e->lsn);
	if (e->kind == EVENT_RESULT) {
		l = find_lease(
			e->lease); /* not one that a worker heard of: then nothing was begun */
		HOLDS(l == NULL || (l->m == m && l->entry == e->ordinal),
		      "event %llu: the lease of another entry", (unsigned long long)e->lsn);
		HOLDS(l == NULL || !l->result, "event %llu: a second result of lease %llu",
		      (unsigned long long)e->lsn, (unsigned long long)e->lease);
		HOLDS(e->attempts >= m->attempts[e->ordinal], "event %llu: attempts go back",
		      (unsigned long long)e->lsn);
		m->attempts[e->ordinal] = (uint16_t)e->attempts;
	}
	for (size_t i = 0; i < e->n_rcpts; i++)
		rcpt_event(e, m, l, &e->rcpts[i]);
	if (l != NULL) {
		l->result = true;
		l->flagged = l->flagged || e->maybe_dup != 0;
	}
	for (unsigned i = 0; i < m->r.count[e->ordinal]; i++)
		finished = finished && rcpt_of(m, (unsigned)e->ordinal, i)->end != 0;
	HOLDS(finished == (e->finished != 0), "event %llu: %s finished", (unsigned long long)e->lsn,
	      finished ? "it is not said that the entry is" : "it is said that the entry is");
	m->finished[e->ordinal] = finished;
}

/* Rows ----------------------------------------------------------------------------------------- */
static uint64_t rows_seen;

static void
look_at_row(void *arg, struct entry_key key, const struct store_row *row)
{
	struct message_state *m = find_message(key.message);

	(void)arg;
	rows_seen++;
	sim_tell("row %llx.%u in segment %u epoch %llu attempts %u",
		 (unsigned long long)key.message, key.ordinal, row->segment,
		 (unsigned long long)row->epoch, row->attempts);
	HOLDS(m != NULL && key.ordinal < m->r.n_entries,
	      "a row of message %llx, which nobody wrote", (unsigned long long)key.message);
	for (unsigned i = 0; i < row->n_rcpts; i++) {
		bool done = row->done.n > i / 8 &&
			    ((unsigned char)row->done.p[i / 8] >> i % 8 & 1) != 0;
		struct rcpt *r = rcpt_of(m, key.ordinal, i);

		HOLDS(done == (r->end != 0),
		      "recipient %u of %llx is %s by its row, and %s by the events",
		      m->r.first[key.ordinal] + i, (unsigned long long)key.message,
		      done ? "finished" : "open", r->end != 0 ? "finished" : "open");
		r->seen = !done;
	}
}

/* All that is durable now, as a recorder would read it. A cut may have brought back the name of a
 * file that had gone to a new use, with a gap behind it: then from behind the gap; an event that is
 * missing there would be told by its number. */
static void
read_all_events(struct scheduler *s)
{
	struct event_position end = committer_synced(s->committer), from = { 0, 0 }, at = { 0, 0 };
	struct event_reader *r;
	struct event e;
	int rc;

	do {
		rc = event_reader_open(&r, s->spool.events_fd, s->spool.instance, from);
		HOLDS(rc == 0, "the event log cannot be opened");
		while ((rc = event_read(r, end, &e, &at)) == 1)
			ledger_event(&e);
		event_reader_close(&r);
		from.file = (from.file > at.file ? from.file : at.file) + 1;
	} while (rc == -E_MISSING && from.file <= end.file);
	HOLDS(rc == 0, "the event log cannot be read: %s", err_text(rc));
}

void
ledger_after_start(struct scheduler *s)
{
	struct core_totals t;
	uint64_t bad;

	read_all_events(s);
	rows_seen = 0;
	HOLDS(store_load_rows(s->store, look_at_row, NULL, &bad) == 0 && bad == 0,
	      "rows are damaged");
	modes_after_start(s);
	core_totals(s->core, &t);
	/* The start itself may have settled old claims: their rows go with its first commit. */
	HOLDS(rows_seen >= t.queued_entries && rows_seen <= t.queued_entries + s->n_old_claims,
	      "%llu rows, but %llu entries in the index", (unsigned long long)rows_seen,
	      (unsigned long long)t.queued_entries);
	for (unsigned i = 0; i < n_messages; i++) {
		struct message_state *m = &messages[i];

		for (unsigned k = 0; k < m->r.n_rcpts; k++) {
			struct rcpt *r = &m->rcpts[k];

			HOLDS(m->answer != ACKED || r->end != 0 || r->seen,
			      "recipient %u of %llx was acknowledged, has no end and is not queued",
			      k, (unsigned long long)m->r.id);
			r->seen = false;
		}
	}
}

unsigned
ledger_open(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_messages; i++) {
		for (unsigned k = 0; k < messages[i].r.n_rcpts && messages[i].answer == ACKED; k++)
			n += messages[i].rcpts[k].end == 0;
	}
	return n;
}

static void
count_row(void *arg, struct entry_key key, const struct store_row *row)
{
	(void)key;
	(void)row;
	++*(uint64_t *)arg;
}

uint64_t
ledger_rows(struct scheduler *s)
{
	uint64_t n = 0, bad;

	HOLDS(store_load_rows(s->store, count_row, &n, &bad) == 0 && bad == 0, "rows are damaged");
	return n;
}

void
ledger_tell_open(void)
{
	for (unsigned i = 0; i < n_messages; i++) {
		const struct message_state *m = &messages[i];

		for (unsigned k = 0; k < m->r.n_rcpts && m->answer == ACKED; k++) {
			if (m->rcpts[k].end == 0)
				printf("open: recipient %u of %llx, taken %u times, out under "
				       "lease %llu\n",
				       k, (unsigned long long)m->r.id, m->rcpts[k].taken,
				       (unsigned long long)m->rcpts[k].out);
		}
	}
}

void
ledger_at_end(struct scheduler *s)
{
	struct core_totals t;
	uint64_t bad;

	read_all_events(s);
	rows_seen = 0;
	HOLDS(store_load_rows(s->store, look_at_row, NULL, &bad) == 0 && bad == 0,
	      "rows are damaged");
	core_totals(s->core, &t);
	for (unsigned i = 0; i < n_leases; i++)
		HOLDS(!leases[i].must_flag || leases[i].flagged,
		      "what lease %llu delivered of %llx was delivered again without need",
		      (unsigned long long)leases[i].lease, (unsigned long long)leases[i].m->r.id);
	HOLDS(ledger_open() == 0, "%u acknowledged recipients have no end", ledger_open());
	HOLDS(rows_seen == 0 && t.queued_entries == 0, "%llu rows are left, %llu entries",
	      (unsigned long long)rows_seen, (unsigned long long)t.queued_entries);
}
