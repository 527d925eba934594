#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/queue/record.h"
#include "common/queue/segment_file.h"
#include "ctl/check.h"

#define SLICE    4096 /* rows of one short read transaction */
#define OPEN_MAX 256

/* A row, copied out of its transaction. */
struct held {
	struct entry_key key;
	struct store_row row;
	unsigned char done[(ENTRY_RCPT_MAX + 7) / 8];
	bool good;
};

/* Where a record lies: for the overlaps, 16 bytes a message. */
struct span {
	uint32_t segment, offset16;
	uint64_t bytes;
};

struct rows {
	struct check *c;
	struct held held[SLICE];
	unsigned n;
	struct span *spans;
	size_t n_spans, cap_spans;
	/* The message whose entries are being gone through. */
	msg_id_t message;
	uint32_t segment, offset16;
	uint64_t epoch;
	bool readable;
	uint32_t n_rcpts;
	unsigned char *taken; /* recipients that an entry has */
	struct buf bytes;
};

static void
hold(void *arg, struct entry_key key, const struct store_row *row)
{
	struct rows *r = arg;
	struct held *h = &r->held[r->n++];

	h->key = key;
	h->good = row != NULL;
	if (row == NULL)
		return;
	h->row = *row;
	memcpy(h->done, row->done.p != NULL ? row->done.p : "", row->done.n);
	h->row.done = slice_of(h->done, row->done.n);
}

/* Live: is the row still what it was? Otherwise what was seen of it means nothing. */
struct again {
	const struct held *held;
	bool same;
};

static void
compare(void *arg, struct entry_key key, const struct store_row *row)
{
	struct again *a = arg;
	const struct held *h = a->held;

	a->same =
		key.message == h->key.message && key.ordinal == h->key.ordinal &&
		(row == NULL ? !h->good
			     : h->good && row->segment == h->row.segment &&
				       row->epoch == h->row.epoch && row->offset == h->row.offset);
}

static bool
still_so(struct rows *r, const struct held *h)
{
	struct again again = { .held = h };
	struct entry_key key = h->key;

	if (!r->c->live)
		return true;
	return store_load_slice(r->c->store, &key, 1, compare, &again) >= 0 && again.same;
}

#define FOUND(r, h, id, fmt, ...)                                                                  \
	do {                                                                                       \
		char text_[ID_TEXT_BYTES];                                                         \
		if (still_so(r, h))                                                                \
			check_found((r)->c, id, "entry=%s " fmt, id_entry_text(text_, (h)->key),   \
				    __VA_ARGS__);                                                  \
	} while (0)

/* Records -----------------------------------------------------------------------------------------
 */
static int
segment_fd(struct check *c, struct check_segment *g, uint32_t number)
{
	struct segment_info info;

	if (g->fd >= 0)
		return g->fd;
	if (c->n_open >= OPEN_MAX) {
		for (size_t i = 0; i < c->n_segments; i++) {
			if (c->segments[i].fd >= 0)
				close(c->segments[i].fd);
			c->segments[i].fd = -1;
		}
		c->n_open = 0;
	}
	g->fd = segment_file_open(c->spool.segments_fd, number, O_RDONLY, c->spool.instance, &info);
	c->n_open += g->fd >= 0;
	return g->fd;
}

/* The whole record at the place of the row, into r->bytes. */
static int
read_record(struct rows *r, const struct store_row *row, struct check_segment *g)
{
	uint64_t at = (uint64_t)row->offset * RECORD_ALIGN;
	char head[RECORD_HEADER_BYTES];
	struct record_header h;
	int fd = segment_fd(r->c, g, row->segment), rc;
	ssize_t n;

	if (fd < 0)
		return fd;
	n = pread(fd, head, sizeof head, (off_t)at);
	if (n < 0)
		return -err_errno();
	rc = record_header_decode(slice_of(head, (size_t)n), &h);
	if (rc != 0)
		return rc;
	if (h.total_bytes > g->row.bytes - at)
		return -E_BAD;
	buf_reset(&r->bytes);
	n = pread(fd, buf_room(&r->bytes, (size_t)h.total_bytes), (size_t)h.total_bytes, (off_t)at);
	if (n < 0)
		return -err_errno();
	if ((uint64_t)n < h.total_bytes)
		return -E_BAD;
	buf_added(&r->bytes, (size_t)n);
	return 0;
}

static void
add_span(struct rows *r, const struct store_row *row, uint64_t bytes)
{
	mem_grow((void **)&r->spans, &r->cap_spans, r->n_spans + 1, sizeof *r->spans);
	r->spans[r->n_spans++] = (struct span){ row->segment, row->offset, bytes };
}

/* The record of a message, looked at once for all its entries that lie there. */
static void
open_record(struct rows *r, const struct held *h, struct check_segment *g)
{
	struct record rec;
	int rc;

	if (r->message == h->key.message && r->segment == h->row.segment &&
	    r->offset16 == h->row.offset && r->epoch == h->row.epoch)
		return;
	r->message = h->key.message;
	r->segment = h->row.segment;
	r->offset16 = h->row.offset;
	r->epoch = h->row.epoch;
	r->readable = false;
	check_looked(r->c, CHECK_RECORDS, 1);
	rc = read_record(r, &h->row, g);
	if (rc == 0)
		rc = record_decode(&rec, buf_slice(&r->bytes), h->row.epoch, h->key.message);
	if (rc != 0) {
		FOUND(r, h, CHECK_RECORDS, "segment=%u offset=%llu %s", h->row.segment,
		      (unsigned long long)h->row.offset * RECORD_ALIGN, err_text(rc));
		return;
	}
	r->readable = true;
	r->n_rcpts = rec.env.n_rcpts;
	mem_free(r->taken);
	r->taken = mem_zalloc(r->n_rcpts / 8 + 1u);
	if ((uint64_t)h->row.offset * RECORD_ALIGN + rec.header.total_bytes > g->row.committed)
		FOUND(r, h, CHECK_PLACES, "segment=%u its record ends behind what is committed",
		      h->row.segment);
	add_span(r, &h->row, rec.header.total_bytes);
	record_clear(&rec);
}

static void
check_recipients(struct rows *r, const struct held *h)
{
	const struct store_row *row = &h->row;

	check_looked(r->c, CHECK_RECIPIENTS, 1);
	if (row->n_rcpts == 0 || row->n_rcpts > ENTRY_RCPT_MAX || row->first_rcpt > r->n_rcpts ||
	    row->n_rcpts > r->n_rcpts - row->first_rcpt) {
		FOUND(r, h, CHECK_RECIPIENTS, "recipients %u+%u of %u", row->first_rcpt,
		      row->n_rcpts, r->n_rcpts);
		return;
	}
	for (uint32_t i = row->first_rcpt; i < row->first_rcpt + row->n_rcpts; i++) {
		if (r->taken[i / 8] >> i % 8 & 1) {
			FOUND(r, h, CHECK_RECIPIENTS, "recipient %u is another entry's too", i);
			return;
		}
		r->taken[i / 8] |= (unsigned char)(1u << i % 8);
	}
}

/* Rows --------------------------------------------------------------------------------------------
 */
static void
meet_claims(struct check *c, struct entry_key key)
{
	size_t lo = 0, hi = c->n_claims;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		struct entry_key k = c->claims[mid].key;

		if (k.message < key.message ||
		    (k.message == key.message && k.ordinal < key.ordinal))
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < c->n_claims && c->claims[lo].key.message == key.message &&
	       c->claims[lo].key.ordinal == key.ordinal;
	     lo++)
		c->claims[lo].has_row = true;
}

static void
check_marks(struct rows *r, const struct held *h)
{
	const struct store_meta *m = &r->c->meta;

	check_looked(r->c, CHECK_MARKS, 1);
	if (h->key.message >= m->next_message_id)
		FOUND(r, h, CHECK_MARKS, "its id is not below the mark %llu",
		      (unsigned long long)m->next_message_id);
	if (h->row.epoch >= m->next_epoch)
		FOUND(r, h, CHECK_MARKS, "its epoch is not below the mark %llu",
		      (unsigned long long)m->next_epoch);
}

static void
check_row(struct rows *r, const struct held *h)
{
	struct check *c = r->c;
	struct check_segment *g;

	meet_claims(c, h->key);
	check_looked(c, CHECK_ROWS, 1);
	c->rows++;
	if (!h->good) {
		FOUND(r, h, CHECK_ROWS, "%s", "fails its checksum");
		return;
	}
	c->quarantined += (h->row.flags & STORE_ROW_QUARANTINED) != 0;
	check_looked(c, CHECK_ROW_NAMES, 1);
	if (!check_is_named(c, check_redirected(c, h->row.queue)))
		FOUND(r, h, CHECK_ROW_NAMES, "queue=%u has no name", h->row.queue);
	if (!c->live)
		check_marks(r, h);
	check_looked(c, CHECK_PLACES, 1);
	g = check_segment_at(c, h->row.segment);
	if (g == NULL || g->row.epoch != h->row.epoch || g->row.state == STORE_SEGMENT_FREE ||
	    (uint64_t)h->row.offset * RECORD_ALIGN < SEGMENT_HEADER_BYTES ||
	    (uint64_t)h->row.offset * RECORD_ALIGN >= g->row.committed) {
		FOUND(r, h, CHECK_PLACES, "segment=%u epoch=%llu offset=%llu: %s", h->row.segment,
		      (unsigned long long)h->row.epoch,
		      (unsigned long long)h->row.offset * RECORD_ALIGN,
		      g == NULL                      ? "no such segment"
		      : g->row.epoch != h->row.epoch ? "the segment has another epoch"
		      : g->row.state == STORE_SEGMENT_FREE
			      ? "the segment is free"
			      : "not between header and committed end");
		return;
	}
	g->rows++;
	open_record(r, h, g);
	if (r->readable)
		check_recipients(r, h);
}

static int
by_place(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	if (x->segment != y->segment)
		return x->segment < y->segment ? -1 : 1;
	return x->offset16 < y->offset16 ? -1 : x->offset16 > y->offset16;
}

static void
check_overlaps(struct rows *r)
{
	check_looked(r->c, CHECK_OVERLAPS, r->n_spans);
	if (r->n_spans > 0)
		qsort(r->spans, r->n_spans, sizeof *r->spans, by_place);
	for (size_t i = 1; i < r->n_spans; i++) {
		const struct span *a = &r->spans[i - 1], *b = &r->spans[i];

		if (a->segment == b->segment && (uint64_t)a->offset16 * RECORD_ALIGN + a->bytes >
							(uint64_t)b->offset16 * RECORD_ALIGN)
			check_found(r->c, CHECK_OVERLAPS, "segment=%u records at %llu and %llu",
				    a->segment, (unsigned long long)a->offset16 * RECORD_ALIGN,
				    (unsigned long long)b->offset16 * RECORD_ALIGN);
	}
}

void
check_rows(struct check *c)
{
	static struct rows r;
	struct entry_key from = { 0 };
	int rc = 1;

	r = (struct rows){ .c = c };
	check_looked(c, CHECK_ROWS, 0);
	while (rc == 1) {
		r.n = 0;
		rc = store_load_slice(c->store, &from, SLICE, hold, &r);
		if (c->live) { /* newer than the rows: what they name is there */
			check_load_names(c);
			check_load_segments(c);
		}
		for (unsigned i = 0; i < r.n; i++)
			check_row(&r, &r.held[i]);
		check_progress(c, "rows", c->rows);
	}
	if (rc < 0)
		check_found(c, CHECK_ROWS, "the table cannot be read: %s", err_text(rc));
	if (!c->live)
		check_overlaps(&r);
	mem_free(r.spans);
	mem_free(r.taken);
	buf_clear(&r.bytes);
}
