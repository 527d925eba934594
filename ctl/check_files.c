#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/event_log/event_file.h"
#include "common/event_log/event_log.h"
#include "common/event_log/event_reader.h"
#include "common/proc/fault.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "common/queue/segment_file.h"
#include "ctl/check.h"

/* Segments ----------------------------------------------------------------------------------------
 */
static void
check_known(struct check *c, uint32_t number, const struct check_segment *g)
{
	struct segment_info info = { 0 };
	int rc = segment_read_info(c->spool.segments_fd, number, c->spool.instance, &info);

	check_looked(c, CHECK_SEGMENTS, 1);
	/* A free one may have been on its way to a new use, or out. */
	if (g->row.state == STORE_SEGMENT_FREE)
		return;
	if (rc != 0)
		check_found(c, CHECK_SEGMENTS, "segment=%u %s", number, err_text(rc));
	else if (info.bytes != g->row.bytes)
		check_found(c, CHECK_SEGMENTS, "segment=%u is of %llu bytes, its row says %llu",
			    number, (unsigned long long)info.bytes,
			    (unsigned long long)g->row.bytes);
	else if (info.epoch != g->row.epoch)
		check_found(c, CHECK_SEGMENTS, "segment=%u is of epoch %llu, its row says %llu",
			    number, (unsigned long long)info.epoch,
			    (unsigned long long)g->row.epoch);
}

/* A receiver writes only after the commit that names the epoch. */
static void
check_stranger(void *arg, uint32_t number)
{
	struct check *c = arg;
	char head[RECORD_HEADER_BYTES];
	struct segment_info info;
	struct record_header h;
	int fd =
		segment_file_open(c->spool.segments_fd, number, O_RDONLY, c->spool.instance, &info);

	check_looked(c, CHECK_STRANGERS, 1);
	if (fd == -E_FOREIGN) /* one without a row may have been made or removed just then */
		check_found(c, CHECK_STRANGERS, "segment=%u %s", number, err_text(fd));
	if (fd < 0)
		return;
	if (info.epoch >= c->meta.next_epoch &&
	    pread(fd, head, sizeof head, SEGMENT_HEADER_BYTES) == (ssize_t)sizeof head &&
	    record_header_decode(slice_of(head, sizeof head), &h) == 0 && h.epoch == info.epoch)
		check_found(c, CHECK_STRANGERS, "segment=%u holds mail newer than the rows",
			    number);
	close(fd);
}

void
check_segment_files(struct check *c)
{
	int rc;

	check_looked(c, CHECK_SEGMENTS, 0);
	if (!c->live) {
		rc = segment_each(c->spool.segments_fd, check_stranger, c);
		if (rc != 0)
			check_found(c, CHECK_STRANGERS, "segments/: %s", err_text(rc));
	}
	for (uint32_t n = 0; n < c->n_segments; n++) {
		const struct check_segment *g = check_segment_at(c, n);

		/* Live, a free one may be on its way to a new use, and another's epoch be newer. */
		if (g != NULL && (!c->live || g->row.state == STORE_SEGMENT_SEALED))
			check_known(c, n, g);
	}
}

/* Claims ------------------------------------------------------------------------------------------
 */
static void
add_claim(struct check *c, unsigned worker, unsigned slot, const struct claim_view *v)
{
	mem_grow((void **)&c->claims, &c->cap_claims, c->n_claims + 1, sizeof *c->claims);
	c->claims[c->n_claims++] = (struct check_claim){ v->grant.key, worker, slot, false };
}

struct table {
	struct check *c;
	struct claim_table *t;
	unsigned worker;
};

static int
read_table(void *arg)
{
	struct table *t = arg;
	unsigned used = claim_slots_used(t->t);

	for (unsigned slot = 0; slot < used; slot++) {
		struct claim_view v;
		int rc = claim_read(t->t, slot, &v);

		check_looked(t->c, CHECK_CLAIMS, 1);
		if (rc != 0)
			check_found(t->c, CHECK_CLAIMS, "worker=%u slot=%u %s", t->worker, slot,
				    err_text(rc));
		else if (v.state != CLAIM_FREE)
			add_claim(t->c, t->worker, slot, &v);
		if (rc == 0 && v.state != CLAIM_FREE && t->c->store != NULL &&
		    v.grant.lease >= t->c->meta.next_lease)
			check_found(t->c, CHECK_MARKS,
				    "worker=%u slot=%u lease=%llu is not below the mark %llu",
				    t->worker, slot, (unsigned long long)v.grant.lease,
				    (unsigned long long)t->c->meta.next_lease);
		if (rc == 0 && v.state == CLAIM_ANSWERED && !v.results_ok)
			check_found(t->c, CHECK_CLAIMS, "worker=%u slot=%u its results: %s",
				    t->worker, slot, err_text(-E_CRC));
	}
	return 0;
}

static int
by_entry(const void *a, const void *b)
{
	const struct check_claim *x = a, *y = b;

	if (x->key.message != y->key.message)
		return x->key.message < y->key.message ? -1 : 1;
	return (int)x->key.ordinal - (int)y->key.ordinal;
}

void
check_claims_load(struct check *c)
{
	check_looked(c, CHECK_CLAIMS, 0);
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		struct table t = { .c = c, .worker = w };
		int rc = claim_table_check(c->spool.claims_fd, w, c->spool.instance);

		if (rc == -E_MISSING)
			continue;
		/* The lock is ours: opening a table that is whole writes nothing. */
		if (rc == 0)
			rc = claim_table_open(&t.t, c->spool.claims_fd, w, c->spool.instance);
		if (rc == 0) {
			rc = fault_guarded(read_table, &t);
			claim_table_close(&t.t);
		}
		if (rc != 0)
			check_found(c, CHECK_CLAIMS, "worker=%u %s", w, err_text(rc));
	}
	if (c->n_claims > 0)
		qsort(c->claims, c->n_claims, sizeof *c->claims, by_entry);
}

/* A claim without a row is one whose outcome was made durable just before the end: told only when
 * the event log does not know it, which a start finds out by itself. */
void
check_claims_end(struct check *c)
{
	for (size_t i = 0; i < c->n_claims; i++) {
		const struct check_claim *k = &c->claims[i];
		char id[ID_TEXT_BYTES];

		if (!k->has_row && k->key.message >= c->meta.next_message_id)
			check_found(c, CHECK_CLAIMS, "worker=%u slot=%u entry=%s was never queued",
				    k->worker, k->slot, id_entry_text(id, k->key));
	}
}

/* Events ------------------------------------------------------------------------------------------
 */
/* The recorder's position: the first of what its file `acct` says (recorder/cursor.c). 0,
 * -E_MISSING or -E_*. */
static int
read_cursor(struct check *c, struct event_position *at)
{
	struct stat st;
	struct wire_reader r;
	char *bytes;
	int fd = openat(c->spool.cursors_fd, "acct", O_RDONLY | O_CLOEXEC), rc = 0;
	size_t n;

	if (fd < 0)
		return -err_errno();
	if (fstat(fd, &st) != 0 || st.st_size < 28 || st.st_size > 16 << 20) {
		close(fd);
		return -E_FORMAT;
	}
	n = (size_t)st.st_size;
	bytes = mem_alloc(n);
	if (pread(fd, bytes, n, 0) != (ssize_t)n)
		rc = -E_IO;
	close(fd);
	wire_read_init(&r, slice_of(bytes + n - 4, 4));
	if (rc == 0 && wire_u32(&r) != crc32c(0, bytes, n - 4))
		rc = -E_CRC;
	wire_read_init(&r, slice_of(bytes + 8, 16));
	at->file = wire_u64(&r);
	at->offset = wire_u64(&r);
	mem_free(bytes);
	return rc;
}

struct reading {
	struct check *c;
	struct event_reader *r;
	struct event_position limit, pos;
};

static int
read_events(void *arg)
{
	struct reading *rd = arg;
	struct check *c = rd->c;
	struct event e;
	uint64_t n = 0, last = 0;
	int rc;

	while ((rc = event_read(rd->r, rd->limit, &e, &rd->pos)) == 1) {
		check_looked(c, CHECK_EVENTS, 1);
		check_progress(c, "events", ++n);
		if (e.lsn <= last)
			check_found(c, CHECK_EVENTS, "lsn=%llu stands behind lsn=%llu",
				    (unsigned long long)e.lsn, (unsigned long long)last);
		last = e.lsn;
		if (e.message >= c->meta.next_message_id)
			check_found(c, CHECK_MARKS,
				    "event lsn=%llu is of message %llu, not below the mark",
				    (unsigned long long)e.lsn, (unsigned long long)e.message);
		if (e.lease >= c->meta.next_lease)
			check_found(c, CHECK_MARKS,
				    "event lsn=%llu is of lease %llu, not below the mark",
				    (unsigned long long)e.lsn, (unsigned long long)e.lease);
	}
	return rc;
}

/* From `from`, where the event `lsn` stands (0: any), to `limit` ({0,0}: to the end). Where it
 * ended. */
static struct event_position
read_log(struct check *c, struct event_position from, uint64_t lsn, struct event_position limit,
	 const char *whose)
{
	struct reading rd = { .c = c, .limit = limit, .pos = from };
	int rc = event_reader_open_at(&rd.r, c->spool.events_fd, c->spool.instance, from, lsn);

	if (rc == 0) {
		rc = fault_guarded(read_events, &rd);
		event_reader_close(&rd.r);
	}
	if (rc != 0)
		check_found(c, CHECK_EVENTS, "%s file=%llu offset=%llu %s", whose,
			    (unsigned long long)rd.pos.file, (unsigned long long)rd.pos.offset,
			    err_text(rc));
	return rd.pos;
}

void
check_events(struct check *c)
{
	struct event_position covered = { c->meta.event_file, c->meta.event_offset };
	struct event_position cursor = { 0 }, end = covered;
	int rc = read_cursor(c, &cursor);

	check_looked(c, CHECK_EVENTS, 0);
	check_looked(c, CHECK_CURSORS, 1);
	if (rc != 0 && rc != -E_MISSING)
		check_found(c, CHECK_CURSORS, "cursors/acct: %s", err_text(rc));
	if (covered.file == 0)
		return; /* a new spool */
	if (rc == 0 && cursor.file > 0 && event_position_before(cursor, covered))
		(void)read_log(c, cursor, 0, covered, "before what the rows contain:");
	end = read_log(c, covered, c->meta.next_lsn, (struct event_position){ 0, 0 },
		       "behind what the rows contain:");
	if (rc == 0 && event_position_before(end, cursor))
		check_found(c, CHECK_CURSORS,
			    "the recorder has read up to file=%llu offset=%llu, the log ends at "
			    "file=%llu offset=%llu",
			    (unsigned long long)cursor.file, (unsigned long long)cursor.offset,
			    (unsigned long long)end.file, (unsigned long long)end.offset);
}
