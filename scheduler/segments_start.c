#include "common/base/err.h"
#include "common/base/log.h"
#include "scheduler/segments_impl.h"

static enum segment_list
list_of(const struct store_segment *row)
{
	if (row->state == STORE_SEGMENT_FREE)
		return SEGMENT_FREE;
	if (row->state == STORE_SEGMENT_OPEN &&
	    (row->receiver < RECEIVERS_MAX || row->receiver == SEGMENTS_COMPACTOR))
		return segment_table_open_list(row->receiver);
	return SEGMENT_SEALED;
}

void
segments_expect(struct segments *s, unsigned receivers)
{
	for (unsigned i = 0; i < receivers; i++)
		s->unheard[i] = true;
	s->n_unheard = receivers;
}

void
segments_restore(struct segments *s, uint32_t number, const struct store_segment *row)
{
	struct seg *g;

	if (number == 0 || number >= SEGMENTS_MAX || row->bytes == 0)
		return;
	g = segment_table_at(&s->t, number);
	g->row = *row;
	g->known = true;
	g->old = row->state != STORE_SEGMENT_FREE;
	segment_table_move(&s->t, number, list_of(row));
	s->files++;
}

void
segments_restore_entry(struct segments *s, uint32_t number, uint64_t epoch, uint32_t kbytes)
{
	struct seg *g = segment_table_find(&s->t, number);

	if (g == NULL) {
		/* The row is damaged; the file is not swept. Whose it was is not known: what
		 * compaction had open is kept longest. */
		struct store_segment row = { .epoch = epoch,
					     .state = STORE_SEGMENT_OPEN,
					     .receiver = SEGMENTS_COMPACTOR,
					     .bytes = s->ordinary };

		if (number == 0 || number >= SEGMENTS_MAX)
			return;
		log_error("segment=%u row=missing action=rebuilt", number);
		segments_restore(s, number, &row);
		segment_table_mark(&s->t, number);
		g = segment_table_find(&s->t, number);
	}
	g->live++;
	g->live_kbytes += kbytes;
}

static void
sweep(void *arg, uint32_t number)
{
	struct segments *s = arg;

	/* A file that no row knows was being made or removed when we died. */
	if (segment_table_find(&s->t, number) != NULL)
		return;
	log_info("segment=%u swept=yes", number);
	if (segment_remove(s->dir, number) != 0)
		log_warn("segment=%u remove=failed", number);
}

/* What the file says of itself, where its row may know less. */
static void
note_info(struct segments *s, uint32_t number, const struct segment_info *info)
{
	struct seg *g = &s->t.segs[number];

	/* Stamped, but the commit that named the epoch did not come any more: it is not given
	 * again. */
	if (info->epoch >= committer_meta_view(s->committer)->next_epoch)
		committer_meta(s->committer)->next_epoch = info->epoch + 1;
	if (info->bytes != g->row.bytes) {
		g->row.bytes = info->bytes; /* a rebuilt row */
		segment_table_mark(&s->t, number);
	}
}

/* Died while it was stamped or removed: nothing lives in it. */
static void
forget_free(struct segments *s, uint32_t number)
{
	struct seg *g = &s->t.segs[number];

	g->known = false;
	g->row.bytes = 0;
	s->files--;
	segment_table_mark(&s->t, number);
	segment_table_move(&s->t, number, SEGMENT_UNUSED);
	(void)segment_remove(s->dir, number);
}

/* What a receiver says of it is not what lies there. */
static void
close_to_receiver(struct segments *s, uint32_t number)
{
	struct seg *g = &s->t.segs[number];

	if (g->list < SEGMENT_OPEN)
		return;
	log_error("segment=%u receiver=%u file=other action=sealed", number, g->row.receiver);
	g->row.state = STORE_SEGMENT_SEALED;
	segment_table_mark(&s->t, number);
	segment_table_move(&s->t, number, SEGMENT_SEALED);
}

/* 0, or -E_FULL: it could not be looked at, which says nothing of what it is. */
static int
start_one(struct segments *s, uint32_t number)
{
	struct seg *g = &s->t.segs[number];
	struct segment_info info;
	int rc;

	if (!g->known)
		return 0;
	rc = segment_read_info(s->dir, number, s->instance, &info);
	if (rc == -E_FULL || rc == -E_AGAIN)
		return -E_FULL;
	if (rc != 0 && g->list == SEGMENT_FREE) {
		forget_free(s, number);
		return 0;
	}
	if (g->list == SEGMENT_FREE && (g->row.bytes != s->ordinary || g->row.failed)) {
		segments_retire(s, number); /* made for one large message, or not good */
		return 0;
	}
	if (rc != 0)
		log_error("segment=%u header=unreadable error=\"%s\" live=%u", number, err_text(rc),
			  g->live);
	else
		note_info(s, number, &info);
	if (rc != 0 || info.epoch != g->row.epoch)
		close_to_receiver(s, number);
	if (g->list == SEGMENT_OPEN_COMPACTOR) {
		/* A worker may read from it under a claim of our earlier life whose row was not
		 * committed any more. Its row stays as it is, for a further start may come first.
		 */
		g->pins++;
		g->doubted = true;
	} else {
		segments_weigh(s, number);
	}
	return 0;
}

void
segments_release_old(struct segments *s)
{
	uint32_t n = s->t.lists[SEGMENT_OPEN_COMPACTOR].first;

	while (n != 0) {
		struct seg *g = &s->t.segs[n];
		uint32_t next = g->next;

		if (g->doubted) { /* what is not was opened in this life */
			g->doubted = false;
			g->row.state = STORE_SEGMENT_SEALED;
			segment_table_mark(&s->t, n);
			segment_table_move(&s->t, n, SEGMENT_SEALED);
			segments_pin(s, n, -1);
		}
		n = next;
	}
}

int
segments_start(struct segments *s)
{
	int rc = segment_each(s->dir, sweep, s);

	if (rc != 0)
		log_warn("segments sweep=failed error=\"%s\"", err_text(rc));
	segment_sweep_unfinished(s->dir);
	rc = 0;
	for (uint32_t n = 1; n <= s->t.highest && rc == 0; n++)
		rc = start_one(s, n);
	if (rc == 0)
		segments_tick(s);
	return rc;
}
