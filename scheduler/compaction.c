#include "scheduler/compaction.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/queue/record.h"
#include "scheduler/offload.h"
#include "scheduler/state.h"

#define VICTIMS_MAX   64
#define VICTIMS_LEAST 2 /* for one new segment */
#define SCAN_SLICE    4096
#define SCAN_EVERY_US 5000u
#define PIECE_KBYTES  4096
#define PIECE_MOVES   1024
#define REST_TIMES    9
#define REST_MAX_US   5000000u
#define AGAIN_US      30000000u /* after a pass that failed */
#define WAIT_US       5000u     /* while the batch is full */

enum state { IDLE, SCANNING, OPENING, COPYING, RESTING, SETTLING };

struct victim {
	uint32_t number;
	uint64_t epoch;
	bool unreadable;
};

struct move {
	struct entry_key key;
	uint32_t entry;
	uint32_t segment, offset16;
	uint32_t new_offset16; /* 0: the record is not good */
	uint32_t kbytes;
};

struct compaction {
	struct compaction_world w;
	struct offload *thread;
	struct timer timer;
	enum state state;
	uint64_t not_before_us;
	struct victim victims[VICTIMS_MAX]; /* by number */
	unsigned n_victims;
	uint32_t cursor;
	struct move *moves; /* by place */
	size_t n_moves, cap_moves;
	size_t at, end;            /* the piece that is being copied */
	struct segment_writer out; /* of the thread while it copies; fd -1: none */
	uint32_t number;
	uint64_t epoch;
	uint64_t unsettled; /* moves that are not committed yet */
	bool failed;
	struct compaction_counts counts;
	struct buf scratch; /* the thread's */
};

struct piece {
	struct offload_job base;
	struct compaction *c;
	uint64_t bytes, took_us;
	int rc;
};

static void rest_is_over(void *arg);

/* Choosing ------------------------------------------------------------------------------------- */
static int
by_number(const void *a, const void *b)
{
	const struct victim *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static int
by_place(const void *a, const void *b)
{
	const struct move *x = a, *y = b;

	if (x->segment != y->segment)
		return x->segment < y->segment ? -1 : 1;
	return x->offset16 < y->offset16 ? -1 : x->offset16 > y->offset16;
}

/* What fits into one segment together. */
static unsigned
choose(struct compaction *c)
{
	struct segments_thin thin[VICTIMS_MAX];
	unsigned n = segments_thin(c->w.segments, c->w.after_us, thin, VICTIMS_MAX);
	uint64_t most_kbytes = (segments_ordinary_bytes(c->w.segments) - SEGMENT_HEADER_BYTES) / 1024;
	uint64_t kbytes = 0;

	c->n_victims = 0;
	for (unsigned i = 0; i < n; i++) {
		if (kbytes + thin[i].live_kbytes > most_kbytes)
			continue;
		kbytes += thin[i].live_kbytes;
		c->victims[c->n_victims++] =
			(struct victim){ thin[i].number, thin[i].epoch, false };
	}
	qsort(c->victims, c->n_victims, sizeof *c->victims, by_number);
	return c->n_victims;
}

static struct victim *
find_victim(struct compaction *c, uint32_t number)
{
	struct victim key = { .number = number };

	return bsearch(&key, c->victims, c->n_victims, sizeof *c->victims, by_number);
}

void
compaction_tick(struct compaction *c)
{
	if (c->state != IDLE || loop_boot_us(c->w.loop) < c->not_before_us ||
	    choose(c) < VICTIMS_LEAST)
		return;
	for (unsigned i = 0; i < c->n_victims; i++)
		segments_pin(c->w.segments, c->victims[i].number, 1);
	c->state = SCANNING;
	c->cursor = 0;
	c->n_moves = c->at = c->end = 0;
	c->failed = false;
	timer_set(&c->timer, SCAN_EVERY_US);
}

/* The end of a pass ---------------------------------------------------------------------------- */
static void
finish(struct compaction *c)
{
	uint64_t emptied = 0;

	if (c->unsettled > 0) {
		c->state = SETTLING;
		return;
	}
	/* Only now, when every row that names it is durable: what is open of ours at a start may be
	 * known to a worker alone. */
	if (c->number != 0)
		segments_seal(c->w.segments, c->number, c->epoch, SEGMENTS_COMPACTOR, c->failed);
	segment_writer_close(&c->out);
	for (unsigned i = 0; i < c->n_victims; i++) {
		struct victim *v = &c->victims[i];

		emptied += segments_entries(c->w.segments, v->number) == 0;
		segments_pin(c->w.segments, v->number, -1);
		segments_thin_later(c->w.segments, v->number, v->unreadable);
	}
	c->counts.segments += emptied;
	log_info("compaction segments=%u emptied=%llu moved_from=%zu into=%u failed=%d",
		 c->n_victims, (unsigned long long)emptied, c->n_moves, c->number, c->failed);
	if (c->failed)
		c->not_before_us = loop_boot_us(c->w.loop) + AGAIN_US;
	mem_free(c->moves);
	c->moves = NULL;
	c->n_moves = c->cap_moves = 0;
	c->number = 0;
	c->state = IDLE;
}

/* Copying -------------------------------------------------------------------------------------- */
/* The thread's: one record, for all entries that have it. False when writing failed. */
static bool
copy_record(struct compaction *c, struct piece *p, int source, uint64_t epoch, size_t first,
	    size_t end)
{
	struct move *m = &c->moves[first];
	int64_t offset = -E_IO;

	if (source >= 0)
		offset = segment_copy(&c->out, source, epoch, (uint64_t)m->offset16 * RECORD_ALIGN,
				      m->key.message, &c->scratch);
	if (c->out.failed) {
		p->rc = (int)offset;
		return false;
	}
	for (size_t i = first; i < end; i++)
		c->moves[i].new_offset16 =
			offset < 0 ? 0 : (uint32_t)((uint64_t)offset / RECORD_ALIGN);
	return true;
}

static void
copy_piece(struct offload_job *base)
{
	struct piece *p = (struct piece *)base;
	struct compaction *c = p->c;
	uint64_t began = clock_boot_us(), from;
	uint32_t number = 0;
	uint64_t epoch = 0;
	int source = -1;
	size_t next;

	if (c->out.fd < 0)
		p->rc = segment_writer_open(&c->out, c->w.dir, c->number, c->epoch, c->w.instance);
	from = c->out.end;
	for (size_t i = c->at; p->rc == 0 && i < c->end; i = next) {
		struct move *m = &c->moves[i];

		for (next = i + 1; next < c->end && by_place(m, &c->moves[next]) == 0;)
			next++;
		if (m->segment != number) {
			if (source >= 0)
				close(source);
			number = m->segment;
			epoch = find_victim(c, number)->epoch;
			source = segment_source_open(c->w.dir, number, epoch, c->w.instance);
		}
		if (!copy_record(c, p, source, epoch, i, next))
			break;
	}
	if (source >= 0)
		close(source);
	if (p->rc == 0)
		p->rc = segment_sync(&c->out);
	p->bytes = c->out.end - from;
	p->took_us = clock_boot_us() - began;
}

static void
is_settled(void *ctx, uint64_t segment, uint64_t kbytes, uint64_t unused)
{
	struct compaction *c = ctx;

	(void)unused;
	segments_live(c->w.segments, (uint32_t)segment, -1, (uint32_t)kbytes);
	c->unsettled--;
	if (c->unsettled == 0 && c->state == SETTLING)
		finish(c);
}

static void
apply(struct compaction *c, const struct move *m)
{
	struct core_entry_facts f;
	struct store_row row;

	if (m->new_offset16 == 0) {
		find_victim(c, m->segment)->unreadable = true;
		return;
	}
	if (!core_entry_is(c->w.core, m->entry, m->key))
		return;
	core_entry_get(c->w.core, m->entry, &f);
	if (f.segment != m->segment || f.offset16 != m->offset16 ||
	    !core_entry_move(c->w.core, m->entry, c->number, m->new_offset16, c->epoch))
		return;
	segments_live(c->w.segments, c->number, 1, f.kbytes);
	f.segment = c->number;
	f.offset16 = m->new_offset16;
	f.epoch = c->epoch;
	row = settle_row(&f);
	/* One that came due is not to look new at the next start. */
	if (row.due_s == 0 && row.attempts > 0)
		row.due_s = (uint32_t)(loop_wall_us(c->w.loop) / 1000000u);
	committer_put_row(c->w.committer, COMMIT_SETTLE, f.key, &row);
	committer_then(c->w.committer, COMMIT_SETTLE, is_settled, c, m->segment, f.kbytes, 0);
	c->unsettled++;
	c->counts.records++;
}

static void
piece_done(struct offload_job *base)
{
	struct piece *p = (struct piece *)base;
	struct compaction *c = p->c;
	uint64_t rest = p->took_us * REST_TIMES;

	if (p->rc != 0) {
		log_error("compaction segment=%u write=failed error=\"%s\"", c->number,
			  err_text(p->rc));
		c->failed = true;
		mem_free(p);
		finish(c);
		return;
	}
	segments_committed_to(c->w.segments, c->number, c->out.end);
	for (size_t i = c->at; i < c->end; i++)
		apply(c, &c->moves[i]);
	c->counts.bytes += p->bytes;
	c->at = c->end;
	c->state = RESTING;
	timer_set(&c->timer, rest < REST_MAX_US ? rest : REST_MAX_US);
	mem_free(p);
}

static void
next_piece(struct compaction *c)
{
	struct piece *p;
	uint64_t kbytes = 0;

	if (c->at == c->n_moves) {
		finish(c);
		return;
	}
	/* A record is copied once: its entries stay together. */
	for (c->end = c->at; c->end < c->n_moves; c->end++) {
		const struct move *m = &c->moves[c->end];
		bool same = c->end > c->at && by_place(m - 1, m) == 0;

		if (!same && (kbytes >= PIECE_KBYTES || c->end - c->at >= PIECE_MOVES))
			break;
		kbytes += same ? 0 : m->kbytes;
	}
	p = mem_zalloc(sizeof *p);
	p->base.work = copy_piece;
	p->base.done = piece_done;
	p->c = c;
	c->state = COPYING;
	offload_add(c->thread, &p->base);
}

static void
opened(void *arg, unsigned owner, uint32_t generation, uint64_t for_bytes, uint32_t number,
       uint64_t epoch, uint64_t bytes, int rc)
{
	struct compaction *c = arg;

	(void)owner;
	(void)generation;
	(void)for_bytes;
	(void)bytes;
	if (rc != 0) {
		c->failed = true;
		finish(c);
		return;
	}
	c->number = number;
	c->epoch = epoch;
	next_piece(c);
}

/* Searching ------------------------------------------------------------------------------------ */
static void
look_at(void *arg, uint32_t entry)
{
	struct compaction *c = arg;
	struct core_entry_facts f;
	void *p = c->moves;

	core_entry_get(c->w.core, entry, &f);
	if (find_victim(c, f.segment) == NULL)
		return;
	mem_grow(&p, &c->cap_moves, c->n_moves + 1, sizeof *c->moves);
	c->moves = p;
	c->moves[c->n_moves++] = (struct move){ .key = f.key,
						.entry = entry,
						.segment = f.segment,
						.offset16 = f.offset16,
						.kbytes = f.kbytes };
}

static void
scan_some(struct compaction *c)
{
	if (core_each_entry(c->w.core, CORE_NONE, &c->cursor, SCAN_SLICE, look_at, c)) {
		timer_set(&c->timer, SCAN_EVERY_US);
		return;
	}
	if (c->n_moves == 0) {
		finish(c);
		return;
	}
	qsort(c->moves, c->n_moves, sizeof *c->moves, by_place);
	c->state = OPENING;
	segments_request_own(c->w.segments, opened, c);
}

static void
rest_is_over(void *arg)
{
	struct compaction *c = arg;

	if (c->state == SCANNING)
		scan_some(c);
	else if (c->state == RESTING && committer_is_full(c->w.committer))
		timer_set(&c->timer, WAIT_US);
	else if (c->state == RESTING)
		next_piece(c);
}

void
compaction_counts(const struct compaction *c, struct compaction_counts *out)
{
	*out = c->counts;
}

struct compaction *
compaction_new(const struct compaction_world *w)
{
	struct compaction *c = mem_zalloc(sizeof *c);

	c->w = *w;
	c->out.fd = -1;
	c->thread = offload_new(w->loop);
	timer_init(&c->timer, w->loop, rest_is_over, c);
	return c;
}

void
compaction_free(struct compaction **cp)
{
	struct compaction *c = *cp;

	if (c == NULL)
		return;
	offload_free(&c->thread);
	timer_clear(&c->timer);
	segment_writer_close(&c->out);
	buf_clear(&c->scratch);
	mem_free(c->moves);
	mem_free(c);
	*cp = NULL;
}
