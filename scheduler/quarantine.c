#include "scheduler/quarantine.h"

#include <stdio.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/fault.h"
#include "scheduler/control.h"

#define DELETED_AT_ONCE 5000 /* of one command: a transaction has its bounds */
#define SEGMENTS_BOUND  (1u << 22)

struct item {
	struct entry_key key;
	struct store_row row; /* done: owned */
	enum quarantine_why why;
	bool placed; /* its record's header was seen where the row says, or the row is sound */
	bool gone;   /* its deletion is under way */
};

struct quarantine {
	struct item *items;
	size_t n, cap;
	struct segment_cache *cache; /* the loop's own; NULL until it is needed */
	struct quarantine_counts counts;
};

static const char *const why_texts[] = {
	[QUARANTINE_ROW] = "row damaged",
	[QUARANTINE_NAME] = "name of its queue lost",
	[QUARANTINE_RECORD] = "record damaged",
};

void
quarantine_open(struct scheduler *s)
{
	s->quarantine = mem_zalloc(sizeof *s->quarantine);
}

void
quarantine_close(struct scheduler *s)
{
	struct quarantine *q = s->quarantine;

	if (q == NULL)
		return;
	for (size_t i = 0; i < q->n; i++)
		mem_free((void *)(uintptr_t)q->items[i].row.done.p);
	mem_free(q->items);
	segment_cache_free(&q->cache);
	mem_free(q);
	s->quarantine = NULL;
}

struct quarantine_counts
quarantine_counts(const struct scheduler *s)
{
	static const struct quarantine_counts none;

	return s->quarantine != NULL ? s->quarantine->counts : none;
}

/* Items ---------------------------------------------------------------------------------------- */
static bool
is_done(const struct item *it, unsigned i)
{
	return it->row.done.n > i / 8 && ((unsigned char)it->row.done.p[i / 8] >> i % 8 & 1) != 0;
}

static unsigned
unfinished(const struct item *it)
{
	unsigned n = 0;

	if (it->why == QUARANTINE_ROW)
		return 1; /* at least */
	for (unsigned i = 0; i < it->row.n_rcpts; i++)
		n += !is_done(it, i);
	return n;
}

static void
count(struct quarantine *q, const struct item *it, bool comes)
{
	unsigned n = unfinished(it);

	q->counts.entries += comes ? 1 : -1ull;
	q->counts.rcpts += comes ? n : -(uint64_t)n;
}

/* What a sound row names is not forgotten, and no number of it given to another name. */
static void
hold_names(struct scheduler *s, const struct item *it, int delta)
{
	if (it->why == QUARANTINE_ROW)
		return;
	names_keep(s->names, redirects_end(s, it->row.queue));
	names_hold(s->names, it->row.job, delta);
	names_hold(s->names, it->row.sender_domain, delta);
}

static struct item *
add(struct scheduler *s, enum quarantine_why why, struct entry_key key, const struct store_row *row)
{
	struct quarantine *q = s->quarantine;
	void *p = q->items;
	struct item *it;

	mem_grow(&p, &q->cap, q->n + 1, sizeof *q->items);
	q->items = p;
	it = &q->items[q->n++];
	*it = (struct item){ .key = key, .row = *row, .why = why };
	it->row.done = SLICE_NONE;
	if (row->done.n > 0)
		it->row.done = slice_of(mem_memdup0(row->done.p, row->done.n), row->done.n);
	if (why == QUARANTINE_ROW)
		it->row.kbytes = 0;
	count(q, it, true);
	hold_names(s, it, 1);
	return it;
}

static void
drop(struct scheduler *s, size_t i)
{
	struct quarantine *q = s->quarantine;

	count(q, &q->items[i], false);
	hold_names(s, &q->items[i], -1);
	mem_free((void *)(uintptr_t)q->items[i].row.done.p);
	q->items[i] = q->items[--q->n];
}

static void
tell(const struct item *it)
{
	char id[ID_TEXT_BYTES];

	log_error("entry=%s quarantined=yes why=\"%s\" queue=%u segment=%u offset=%llu place=%s",
		  id_entry_text(id, it->key), why_texts[it->why], it->row.queue, it->row.segment,
		  (unsigned long long)it->row.offset * RECORD_ALIGN,
		  it->placed ? "known" : "unknown");
}

/* Records -------------------------------------------------------------------------------------- */
struct look {
	struct segment_cache *cache;
	const struct item *it;
	struct buf copy; /* header and envelope */
	msg_id_t id;     /* that stands there */
};

static int
look(void *arg)
{
	struct look *l = arg;
	const struct store_row *row = &l->it->row;
	struct segment_ref ref;
	struct record_header h;
	struct slice at;
	int rc = segment_get(l->cache, row->segment, row->epoch, &ref);

	if (rc != 0)
		return rc;
	at = slice_sub(ref.bytes, (size_t)row->offset * RECORD_ALIGN);
	rc = record_header_decode(at, &h);
	if (rc == 0 && h.epoch != row->epoch)
		rc = -E_FORMAT;
	if (rc == 0 && at.n < RECORD_HEADER_BYTES + h.envelope_bytes)
		rc = -E_BAD;
	if (rc == 0) {
		l->id = h.id;
		buf_put(&l->copy, at.p, RECORD_HEADER_BYTES + h.envelope_bytes);
	}
	segment_put(l->cache, row->segment, row->epoch);
	return rc;
}

/* The envelope of what stands where the row says, as far as it can be read: the bytes of the body,
 * and so the checksum over both, are not looked at. 0: *rec points into *copy. `id` 0: of any
 * message. */
static int
envelope_of(struct scheduler *s, const struct item *it, msg_id_t id, struct buf *copy,
	    struct record *rec)
{
	struct quarantine *q = s->quarantine;
	struct look l = { .it = it };
	int rc;

	if (it->row.segment == 0 || it->row.segment >= SEGMENTS_BOUND ||
	    it->row.offset < SEGMENT_HEADER_BYTES / 16)
		return -E_BAD;
	if (q->cache == NULL)
		q->cache = segment_cache_new(s->spool.segments_fd, s->spool.instance);
	l.cache = q->cache;
	rc = fault_guarded(look, &l);
	if (rc == 0)
		rc = record_decode_envelope(rec, buf_slice(&l.copy), it->row.epoch, id);
	*copy = l.copy;
	return rc;
}

/* Loading -------------------------------------------------------------------------------------- */
void
quarantine_row(struct scheduler *s, enum quarantine_why why, struct entry_key key,
	       const struct store_row *row)
{
	struct item *it = add(s, why, key, row);

	it->placed = true;
	segments_restore_entry(s->segments, row->segment, row->epoch, row->kbytes);
	if (why == QUARANTINE_RECORD)
		tell(it);
}

static void
damaged_row(void *arg, struct entry_key key, const struct store_row *row)
{
	struct scheduler *s = arg;

	(void)add(s, QUARANTINE_ROW, key, row);
}

/* A whole segment is read for a record of one of these messages: its row does not say where it is.
 */
struct search {
	struct scheduler *s;
	size_t left;
	int rc; /* -E_FULL: a segment could not be looked at, which says nothing of what is in it */
};

static bool
is_want(int rc)
{
	return rc == -E_FULL || rc == -E_AGAIN;
}

static void
found(struct search *f, const struct segment_ref *ref, uint64_t offset,
      const struct record_header *h)
{
	struct quarantine *q = f->s->quarantine;

	for (size_t i = 0; i < q->n && f->left > 0; i++) {
		struct item *it = &q->items[i];

		if (it->placed || it->key.message != h->id)
			continue;
		it->placed = true;
		it->row.segment = ref->number;
		it->row.epoch = ref->epoch;
		it->row.offset = (uint32_t)(offset / RECORD_ALIGN);
		f->left--;
	}
}

struct scan {
	struct search *search;
	struct segment_ref ref;
};

static int
scan(void *arg)
{
	struct scan *sc = arg;
	uint64_t at = SEGMENT_HEADER_BYTES;
	struct record_header h;

	while (at < sc->ref.bytes.n &&
	       record_header_decode(slice_sub(sc->ref.bytes, at), &h) == 0 &&
	       h.epoch == sc->ref.epoch && sc->search->left > 0) {
		found(sc->search, &sc->ref, at, &h);
		at += h.total_bytes;
	}
	return 0;
}

static void
search_segment(void *arg, uint32_t number)
{
	struct search *f = arg;
	struct scheduler *s = f->s;
	struct quarantine *q = s->quarantine;
	struct scan sc = { .search = f };
	struct segment_info info;
	int rc;

	if (f->left == 0 || f->rc != 0)
		return;
	rc = segment_read_info(s->spool.segments_fd, number, s->spool.instance, &info);
	if (rc == 0 && info.epoch != 0)
		rc = segment_get(q->cache, number, info.epoch, &sc.ref);
	if (is_want(rc))
		f->rc = -E_FULL;
	if (rc != 0 || info.epoch == 0)
		return;
	(void)fault_guarded(scan, &sc);
	segment_put(q->cache, number, info.epoch);
}

/* What the row names is there and cannot be read now: it is kept as if it were right. */
static bool
is_unreadable(int rc)
{
	return rc == -E_IO || rc == -E_SYSTEM || rc == -E_DENIED;
}

/* Where the records of damaged rows lie: their segments are not to be used again. 0, or -E_FULL: not now. */
static int
place_damaged(struct scheduler *s)
{
	struct quarantine *q = s->quarantine;
	struct search search = { .s = s };

	for (size_t i = 0; i < q->n; i++) {
		struct item *it = &q->items[i];
		struct record rec = { 0 };
		struct buf copy = { 0 };
		int rc;

		if (it->why != QUARANTINE_ROW)
			continue;
		/* Of whatever message: it may be the key that is damaged. */
		rc = envelope_of(s, it, 0, &copy, &rec);
		it->placed = rc == 0 || is_unreadable(rc);
		search.left += !it->placed;
		record_clear(&rec);
		buf_clear(&copy);
		if (is_want(rc))
			return -E_FULL;
	}
	if (search.left > 0 && is_want(segment_each(s->spool.segments_fd, search_segment, &search)))
		return -E_FULL;
	if (search.rc != 0)
		return search.rc;
	for (size_t i = 0; i < q->n; i++) {
		struct item *it = &q->items[i];

		if (it->why != QUARANTINE_ROW)
			continue;
		if (it->placed)
			segments_restore_entry(s->segments, it->row.segment, it->row.epoch, it->row.kbytes);
		tell(it);
	}
	return 0;
}

/* The record's first recipient of the entry says its domain, and the record its virtual MTA. */
static bool
queue_of_record(struct scheduler *s, struct item *it, uint32_t *queue)
{
	struct record rec = { 0 };
	struct buf copy = { 0 };
	bool known = false;

	if (envelope_of(s, it, it->key.message, &copy, &rec) == 0) {
		for (unsigned i = 0; i < rec.env.n_entries && !known; i++) {
			const struct record_entry *e = &rec.env.entries[i];

			if (it->row.first_rcpt < e->first ||
			    it->row.first_rcpt - e->first >= e->count || e->domain.n == 0 ||
			    rec.env.vmta.n == 0 ||
			    e->domain.n + rec.env.vmta.n + 1 > NAME_BYTES_MAX)
				continue;
			*queue = scheduler_queue(s, e->domain, rec.env.vmta);
			known = true;
		}
		record_clear(&rec);
	}
	buf_clear(&copy);
	return known;
}

/* Only now, when all numbers in use are known: a new one is none of them. */
static void
name_queues(struct scheduler *s,
	    void (*load)(void *arg, struct entry_key key, const struct store_row *row))
{
	struct quarantine *q = s->quarantine;
	unsigned named = 0;

	for (size_t i = 0; i < q->n;) {
		struct item *it = &q->items[i];
		uint32_t queue;

		if (it->why != QUARANTINE_NAME) {
			i++;
		} else if (!queue_of_record(s, it, &queue)) {
			tell(it);
			i++;
		} else {
			struct store_row row = it->row;

			named++;
			row.queue = queue;
			committer_put_row(s->committer, COMMIT_NOW, it->key, &row);
			load(s, it->key, &row);
			segments_live(s->segments, row.segment, -1, row.kbytes); /* counted twice meanwhile */
			drop(s, i);
		}
	}
	if (named > 0)
		log_warn("rows=%u queue names were lost, and taken from the records", named);
}

int
quarantine_loaded(struct scheduler *s, bool bad,
		  void (*load)(void *arg, struct entry_key key, const struct store_row *row))
{
	struct quarantine *q = s->quarantine;
	int rc = bad ? store_load_damaged(s->store, damaged_row, s) : 0;

	if (rc != 0 || q->n == 0)
		return rc;
	if (q->cache == NULL)
		q->cache = segment_cache_new(s->spool.segments_fd, s->spool.instance);
	rc = place_damaged(s);
	if (rc != 0)
		return rc;
	name_queues(s, load);
	if (q->n > 0)
		log_error("quarantined entries=%llu rcpts=%llu: `sluice list --quarantined` shows "
			  "them",
			  (unsigned long long)q->counts.entries,
			  (unsigned long long)q->counts.rcpts);
	return 0;
}

/* Running -------------------------------------------------------------------------------------- */
static void
has_left(void *ctx, uint64_t entry, uint64_t unused, uint64_t unused2)
{
	struct scheduler *s = ctx;
	struct core_now now = scheduler_now(s);

	(void)unused;
	(void)unused2;
	/* It still lives in its segment. */
	core_entry_gone(s->core, &now, (uint32_t)entry);
}

void
quarantine_entry(struct scheduler *s, uint32_t entry, struct entry_key key,
		 const struct store_row *row)
{
	struct core_now now = scheduler_now(s);
	struct store_row kept = *row;
	struct item *it;

	kept.flags |= STORE_ROW_QUARANTINED;
	kept.due_s = 0;
	it = add(s, QUARANTINE_RECORD, key, &kept);
	it->placed = true;
	tell(it);
	committer_put_row(s->committer, COMMIT_SETTLE, key, &it->row);
	(void)core_entry_withdraw(s->core, &now, entry); /* false: it is leaving already */
	committer_then(s->committer, COMMIT_SETTLE, has_left, s, entry, 0, 0);
}

/* Operators ------------------------------------------------------------------------------------ */
static void
show(struct request *r, const struct item *it)
{
	struct json *j = &r->json;
	struct scheduler *s = r->s;
	char id[ID_TEXT_BYTES];
	bool sound = it->why != QUARANTINE_ROW;

	json_object_begin(j);
	json_key_str(j, "id", id_entry_text(id, it->key));
	json_key_string(j, "queue", sound ? names_get(s->names, redirects_end(s, it->row.queue)) : SLICE_NONE);
	json_key_str(j, "why", why_texts[it->why]);
	json_key_u64(j, "rcp", unfinished(it));
	json_key_time(j, "timeQueued", sound ? (uint64_t)it->row.received_s * 1000000u : 0);
	json_key_u64(j, "attempts", sound ? it->row.attempts : 0);
	json_key_u64(j, "segment", it->placed ? it->row.segment : 0);
	json_key_u64(j, "offset", it->placed ? (uint64_t)it->row.offset * RECORD_ALIGN : 0);
	json_object_end(j);
}

static void
is_deleted(void *ctx, uint64_t message, uint64_t ordinal, uint64_t unused)
{
	struct scheduler *s = ctx;
	struct quarantine *q = s->quarantine;

	(void)unused;
	for (size_t i = 0; i < q->n; i++) {
		struct item *it = &q->items[i];

		if (!it->gone || it->key.message != message || it->key.ordinal != ordinal)
			continue;
		if (it->placed)
			segments_live(s->segments, it->row.segment, -1, it->row.kbytes);
		drop(s, i);
		return;
	}
}

/* An event that says it, with the addresses if they can still be read; then the row goes. */
static void
delete_item(struct scheduler *s, struct item *it)
{
	static const char diag[] = "x-pmta;deleted by administrator";
	struct event e = { .kind = EVENT_OUTCOME,
			   .finished = 1,
			   .reason = SLICE_LIT("deleted from quarantine") };
	struct event_rcpt *rcpts = mem_calloc(it->row.n_rcpts + 1u, sizeof *rcpts);
	struct record rec = { 0 };
	struct buf copy = { 0 };
	char id[ID_TEXT_BYTES];
	bool sound = it->why != QUARANTINE_ROW;

	e.wall_us = loop_wall_us(s->loop);
	e.message = it->key.message;
	e.ordinal = it->key.ordinal;
	e.rcpts = rcpts;
	if (sound) {
		struct slice rest = names_get(s->names, redirects_end(s, it->row.queue));

		e.queue_number = it->row.queue;
		e.queue = rest;
		slice_cut(&rest, '/');
		e.vmta = rest;
		e.first_rcpt = it->row.first_rcpt;
		e.entry_rcpts = it->row.n_rcpts;
		e.attempt = e.attempts = it->row.attempts;
		e.received_wall_us = (uint64_t)it->row.received_s * 1000000u;
	}
	if (sound && envelope_of(s, it, it->key.message, &copy, &rec) == 0) {
		e.sender = rec.env.sender;
		e.job = rec.env.job;
		e.envid = rec.env.envid;
		for (unsigned i = 0; i < it->row.n_rcpts; i++) {
			uint64_t n = (uint64_t)it->row.first_rcpt + i;

			if (is_done(it, i) || n >= rec.env.n_rcpts)
				continue;
			rcpts[e.n_rcpts++] = (struct event_rcpt){ .index = (uint16_t)i,
								  .action = EVENT_DELETED,
								  .status = { 5, 0, 0 },
								  .address = rec.env.rcpts[n],
								  .diag = SLICE_LIT(diag) };
		}
	}
	log_warn("entry=%s quarantined=deleted rcpts=%u accounted=%zu", id_entry_text(id, it->key),
		 unfinished(it), e.n_rcpts);
	committer_event(s->committer, &e);
	committer_del_row(s->committer, COMMIT_SETTLE, it->key);
	committer_then(s->committer, COMMIT_SETTLE, is_deleted, s, it->key.message, it->key.ordinal,
		       0);
	s->totals.deleted += unfinished(it);
	it->gone = true;
	record_clear(&rec);
	buf_clear(&copy);
	mem_free(rcpts);
}

bool
quarantine_select(struct request *r, bool deleting)
{
	struct quarantine *q = r->s->quarantine;
	struct slice pattern = control_option(r, "queue"), items = control_option(r, "maxitems");
	uint64_t most = 100, n = 0;

	if (items.n > 0 && !slice_u64(items, UINT32_MAX, &most)) {
		control_fail(r, 2, "--maxitems takes a whole number");
		return true;
	}
	if (deleting)
		most = DELETED_AT_ONCE;
	else {
		json_key(&r->json, "message");
		json_array_begin(&r->json);
	}
	for (size_t i = 0; i < q->n && n < most; i++) {
		struct item *it = &q->items[i];
		struct slice name = it->why == QUARANTINE_ROW
					    ? SLICE_NONE
					    : names_get(r->s->names,
							redirects_end(r->s, it->row.queue));

		if (it->gone || (pattern.n > 0 && !control_matches(name, pattern)))
			continue;
		n++;
		if (deleting)
			delete_item(r->s, it);
		else
			show(r, it);
	}
	if (!deleting) {
		json_array_end(&r->json);
		return true;
	}
	json_key_u64(&r->json, "matched", n);
	if (n == most)
		snprintf(r->message, sizeof r->message, "there may be more: say it again");
	return true;
}
