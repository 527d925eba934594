/* receptions: an acknowledgement waits for the rows and for the reception event, but the two are written beside
 * each other: a crash can leave the rows alone. So the transaction names the messages whose events are on
 * their way; what a replay does not find of them is logged again, from the record, by the next life.
 *
 * The record is found through one entry of the message, whichever is there. That one is not sent before its
 * record was read: with its last row the message would be gone, and nobody could tell of it. Until then each
 * transaction names the message again, so that also the life after that one knows. */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/ipc/reception.h"
#include "scheduler/state.h"

static int
by_message(const void *a, const void *b)
{
	msg_id_t x = ((const struct lost_reception *)a)->message;
	msg_id_t y = ((const struct lost_reception *)b)->message;

	return x < y ? -1 : x > y;
}

static struct lost_reception *
find(struct scheduler *s, msg_id_t message)
{
	struct lost_reception key = { .message = message };

	if (s->n_receptions == 0)
		return NULL;
	return bsearch(&key, s->receptions, s->n_receptions, sizeof key, by_message);
}

int
receptions_load(struct scheduler *s)
{
	struct buf ids = { 0 };
	struct wire_reader r;
	int rc = store_load_receptions(s->store, &ids);

	if (rc == -E_CRC) { /* it protects events of receptions alone: no reason not to start */
		log_error("store table=meta row=receptions error=\"%s\" the `r` records of some messages may be missing",
			  err_text(rc));
		rc = 0;
	}
	mem_free(s->receptions); /* of an earlier try */
	s->n_receptions = ids.len / 8;
	s->receptions = mem_calloc(s->n_receptions, sizeof *s->receptions);
	wire_read_init(&r, buf_slice(&ids));
	for (size_t i = 0; i < s->n_receptions; i++)
		s->receptions[i] = (struct lost_reception){ .message = wire_u64(&r), .entry = CORE_NONE };
	if (s->n_receptions > 0)
		qsort(s->receptions, s->n_receptions, sizeof *s->receptions, by_message);
	buf_clear(&ids);
	return rc;
}

void
receptions_seen(struct scheduler *s, msg_id_t message)
{
	struct lost_reception *l = find(s, message);

	if (l != NULL)
		l->logged = true;
}

int
receptions_put(struct scheduler *s, struct store_txn *t)
{
	struct buf ids = { 0 };
	int rc;

	if (s->n_receptions == 0)
		return 0;
	for (size_t i = 0; i < s->n_receptions; i++) {
		if (!s->receptions[i].logged)
			wire_put_u64(&ids, s->receptions[i].message);
	}
	rc = store_put_receptions(t, buf_slice(&ids));
	buf_clear(&ids);
	return rc;
}

bool
receptions_row(struct scheduler *s, struct entry_key key, bool claimed)
{
	struct lost_reception *l = find(s, key.message);

	if (l == NULL || l->logged || l->held || !s->wants_reception)
		return false;
	l->key = key;
	l->held = !claimed;
	return l->held;
}

void
receptions_entry(struct scheduler *s, struct entry_key key, uint32_t entry)
{
	struct lost_reception *l = find(s, key.message);

	if (l != NULL && l->key.message == key.message && l->key.ordinal == key.ordinal)
		l->entry = entry;
}

/* The messages whose reception is to be logged yet; without any, nothing is left to remember. */
static void
tell_committer(struct scheduler *s)
{
	struct buf ids = { 0 };

	for (size_t i = 0; i < s->n_receptions; i++) {
		if (s->receptions[i].owed)
			wire_put_u64(&ids, s->receptions[i].message);
	}
	committer_owe(s->committer, buf_slice(&ids));
	if (ids.len == 0) {
		mem_free(s->receptions);
		s->receptions = NULL;
		s->n_receptions = 0;
	}
	buf_clear(&ids);
}

/* The event is on disk. */
static void
let_go(void *ctx, uint64_t entry, uint64_t message, uint64_t ordinal)
{
	struct scheduler *s = ctx;
	struct core_now now = scheduler_now(s);
	struct entry_key key = { message, (uint16_t)ordinal };

	if (core_entry_is(s->core, (uint32_t)entry, key))
		core_entry_committed(s->core, &now, (uint32_t)entry);
	scheduler_kick(s);
}

static void
log_again(struct scheduler *s, void *arg, int rc, const struct record *rec)
{
	struct lost_reception *l = arg;
	struct buf encoded = { 0 };
	struct event e;

	l->owed = false;
	if (rc == 0 && rec != NULL) { /* else it is in the log that the record cannot be read */
		reception_encode(&encoded, &rec->env, rec->header.body_bytes);
		if (committer_takes_event(s->committer, encoded.len) &&
		    event_decode(&e, buf_slice(&encoded), &s->scratch2) == 0)
			committer_reception(s->committer, &e);
		buf_clear(&encoded);
	}
	if (l->held) /* before it, a last row could go and nobody could tell of the message */
		committer_then(s->committer, COMMIT_NOW, let_go, s, l->entry, l->key.message, l->key.ordinal);
	if (!s->receptions_begin)
		tell_committer(s);
}

void
receptions_log_again(struct scheduler *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_receptions; i++) {
		struct lost_reception *l = &s->receptions[i];

		l->owed = !l->logged && l->entry != CORE_NONE && s->wants_reception;
		n += l->owed;
	}
	s->receptions_begin = true;
	for (size_t i = 0; i < s->n_receptions; i++) {
		if (s->receptions[i].owed)
			records_read(s, s->receptions[i].entry, log_again, &s->receptions[i]);
	}
	s->receptions_begin = false;
	if (n > 0)
		log_info("recovery receptions=%zu logged=again", n);
	tell_committer(s);
}
