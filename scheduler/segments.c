#include "scheduler/segments.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/disk.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/planted.h"
#include "scheduler/segments_impl.h"

#define OPEN_MAX 64 /* of one receiver, which uses three and may have missed a few when we died */

#define THIN_SHARE      4        /* live records fill less than 1/THIN_SHARE */
#define CREATE_AGAIN_US 5000000u /* after one that failed */
#define RETIRE_US       1000000u /* one surplus file at a time */

struct job {
	struct segment_job base;
	struct request request;
};

static void job_done(void *arg, struct segment_job *base);

static void
job_start(struct segments *s, enum segment_job_kind kind, uint32_t number, uint64_t bytes,
	  const struct request *r)
{
	struct job *j = mem_zalloc(sizeof *j);

	j->base.kind = kind;
	j->base.number = number;
	j->base.bytes = bytes;
	j->base.arg = s;
	j->base.done = job_done;
	if (r != NULL) {
		j->request = *r;
		j->base.epoch = committer_meta(s->committer)->next_epoch++;
	}
	segment_table_move(&s->t, number, SEGMENT_HELD);
	segment_jobs_add(s->jobs, &j->base);
}

static unsigned
unused_count(const struct segments *s)
{
	return s->t.lists[SEGMENT_FREE].n;
}

/* Requests ------------------------------------------------------------------------------------- */
static void
answer(struct segments *s, const struct request *r, uint32_t number, int rc)
{
	struct seg *g = segment_table_find(&s->t, number);

	if (r->owner < RECEIVERS_MAX)
		s->waiting[r->owner]--;
	r->fn(r->arg, r->owner, r->generation, r->bytes, number, g == NULL ? 0 : g->row.epoch,
	      g == NULL ? 0 : g->row.bytes, rc);
}

static bool
is_ordinary(const struct segments *s, const struct request *r)
{
	return r->bytes + SEGMENT_HEADER_BYTES <= s->ordinary;
}

static uint64_t
bytes_for(const struct segments *s, const struct request *r)
{
	return is_ordinary(s, r) ? s->ordinary
				 : (r->bytes + SEGMENT_HEADER_BYTES + 4095) & ~4095ull;
}

static void
serve(struct segments *s, const struct request *r)
{
	uint32_t number = s->t.lists[SEGMENT_FREE].first;

	if (is_ordinary(s, r) && number != 0) {
		job_start(s, SEGMENT_JOB_STAMP, number, 0, r);
		return;
	}
	number = s->tight ? SEGMENTS_MAX : segment_table_unused(&s->t);
	if (number == SEGMENTS_MAX)
		answer(s, r, 0, -E_FULL);
	else
		job_start(s, SEGMENT_JOB_RESERVE, number, bytes_for(s, r), r);
}

bool
segments_request(struct segments *s, unsigned receiver, uint32_t generation, uint64_t bytes)
{
	struct request r = { receiver, generation, bytes, s->fn, s->arg };

	CHECK(receiver < RECEIVERS_MAX);
	if (s->t.lists[segment_table_open_list(receiver)].n + s->waiting[receiver] >= OPEN_MAX)
		return false;
	s->waiting[receiver]++;
	serve(s, &r);
	return true;
}

void
segments_request_own(struct segments *s, segments_opened *fn, void *arg)
{
	struct request r = { SEGMENTS_COMPACTOR, 0, 0, fn, arg };

	serve(s, &r);
}

/* Ctx is the request's own: there may be many on their way. */
struct opened {
	struct segments *s;
	struct request request;
};

static void
opened_is_durable(void *ctx, uint64_t number, uint64_t b, uint64_t c)
{
	struct opened *o = ctx;

	(void)b;
	(void)c;
	answer(o->s, &o->request, (uint32_t)number, 0);
	mem_free(o);
}

static void
open_for(struct segments *s, uint32_t number, uint64_t epoch, const struct request *r)
{
	struct seg *g = segment_table_at(&s->t, number);
	struct opened *o = mem_alloc(sizeof *o);

	*o = (struct opened){ s, *r };
	g->row.state = STORE_SEGMENT_OPEN;
	g->row.receiver = (uint8_t)r->owner;
	g->row.epoch = epoch;
	g->row.committed = SEGMENT_HEADER_BYTES;
	g->row.failed = false;
	g->doubted = g->old = g->no_move = false;
	segment_table_move(&s->t, number, segment_table_open_list(r->owner));
	segment_pool_note(&s->pool, loop_boot_us(s->loop), g->row.bytes);
	segment_table_mark(&s->t, number);
	segments_flush(s);
	committer_then(s->committer, COMMIT_NOW, opened_is_durable, o, number, 0, 0);
}

/* Files come and go ---------------------------------------------------------------------------- */
void
segments_retire(struct segments *s, uint32_t number)
{
	struct seg *g = segment_table_at(&s->t, number);

	s->files--;
	g->row.bytes = 0; /* a row of no bytes: forgotten at the next start */
	segment_table_mark(&s->t, number);
	g->known = false;
	job_start(s, SEGMENT_JOB_REMOVE, number, 0, NULL);
}

static void
come(struct segments *s, uint32_t number, uint64_t bytes)
{
	struct seg *g = segment_table_at(&s->t, number);

	memset(&g->row, 0, sizeof g->row);
	g->row.bytes = bytes;
	g->row.state = STORE_SEGMENT_FREE;
	g->known = true;
	s->files++;
	segment_table_mark(&s->t, number);
}

static void
stamped(struct segments *s, const struct job *j)
{
	if (j->base.rc == 0) {
		open_for(s, j->base.number, j->base.epoch, &j->request);
		return;
	}
	/* Nothing lives in it: another file takes its place. */
	log_error("segment=%u stamp=failed error=\"%s\" action=remove", j->base.number,
		  err_text(j->base.rc));
	segments_retire(s, j->base.number);
	serve(s, &j->request);
}

static void
not_created(struct segments *s, const struct job *j)
{
	log_error("segment=%u create=failed error=\"%s\"", j->base.number, err_text(j->base.rc));
	segment_table_move(&s->t, j->base.number,
			   j->base.rc == -E_EXISTS ? SEGMENT_LOST : SEGMENT_UNUSED);
	s->create_not_before_us = loop_boot_us(s->loop) + CREATE_AGAIN_US;
}

static void
job_done(void *arg, struct segment_job *base)
{
	struct segments *s = arg;
	struct job *j = (struct job *)base;
	bool gone = base->rc == 0 || base->rc == -E_MISSING;

	switch (base->kind) {
	case SEGMENT_JOB_CREATE:
		s->creating = false;
		if (base->rc != 0) {
			not_created(s, j);
			break;
		}
		come(s, base->number, base->bytes);
		segment_table_move(&s->t, base->number, SEGMENT_FREE);
		break;
	case SEGMENT_JOB_RESERVE:
		if (base->rc != 0) {
			not_created(s, j);
			if (base->rc == -E_EXISTS)
				serve(s, &j->request);
			else
				answer(s, &j->request, 0, base->rc);
			break;
		}
		come(s, base->number, base->bytes);
		open_for(s, base->number, base->epoch, &j->request);
		break;
	case SEGMENT_JOB_STAMP:
		stamped(s, j);
		break;
	case SEGMENT_JOB_REMOVE:
		if (!gone)
			log_warn("segment=%u remove=failed error=\"%s\"", base->number,
				 err_text(base->rc));
		segment_table_move(&s->t, base->number, gone ? SEGMENT_UNUSED : SEGMENT_LOST);
		break;
	}
	mem_free(j);
	segments_tick(s);
}

void
segments_tick(struct segments *s)
{
	uint64_t now = loop_boot_us(s->loop);
	unsigned target = segment_pool_target(&s->pool, now, s->ordinary);
	uint32_t number;

	if (!s->tight && unused_count(s) < target && !s->creating &&
	    now >= s->create_not_before_us) {
		number = segment_table_unused(&s->t);
		if (number == SEGMENTS_MAX)
			return;
		s->creating = true;
		job_start(s, SEGMENT_JOB_CREATE, number, s->ordinary, NULL);
	} else if (unused_count(s) > 2 * target && now >= s->retire_not_before_us) {
		s->retire_not_before_us = now + RETIRE_US;
		segments_retire(s, s->t.lists[SEGMENT_FREE].last);
	}
}

void
segments_tight(struct segments *s, bool tight)
{
	s->tight = tight;
	while (tight && unused_count(s) > SEGMENT_POOL_LOW)
		segments_retire(s, s->t.lists[SEGMENT_FREE].last);
}

/* Life ----------------------------------------------------------------------------------------- */
static void
is_free_now(void *ctx, uint64_t number, uint64_t epoch, uint64_t unused)
{
	struct segments *s = ctx;
	struct seg *g = segment_table_find(&s->t, (uint32_t)number);
	unsigned most = 2 * segment_pool_target(&s->pool, loop_boot_us(s->loop), s->ordinary);

	(void)unused;
	/* Only now may the file be written over: its rows are gone from the disk. */
	CHECK(g != NULL && g->row.epoch == epoch && g->list == SEGMENT_HELD);
	if (s->tight)
		most = SEGMENT_POOL_LOW;
	if (unused_count(s) >= most || g->row.bytes != s->ordinary || g->row.failed)
		segments_retire(s, (uint32_t)number);
	else
		segment_table_move(&s->t, (uint32_t)number, SEGMENT_FREE);
}

static void
make_free(struct segments *s, uint32_t number)
{
	struct seg *g = &s->t.segs[number];

	g->row.state = STORE_SEGMENT_FREE;
	segment_table_move(&s->t, number, SEGMENT_HELD);
	segment_table_mark(&s->t, number);
	if (PLANTED(recycle_early)) {
		is_free_now(s, number, g->row.epoch, 0);
		return;
	}
	segments_flush(s);
	committer_then(s->committer, COMMIT_NOW, is_free_now, s, number, g->row.epoch, 0);
}

void
segments_weigh(struct segments *s, uint32_t number)
{
	struct seg *g = &s->t.segs[number];
	bool thin = g->live > 0 && g->live_kbytes * 1024 * THIN_SHARE < g->row.bytes &&
		    g->row.bytes == s->ordinary && !g->no_move;

	if (g->list != SEGMENT_SEALED && g->list != SEGMENT_THIN)
		return;
	if (g->live == 0 && g->pins == 0 && !(g->old && s->n_unheard > 0)) {
		make_free(s, number);
	} else if (thin && g->list == SEGMENT_SEALED) {
		g->thin_since_us = loop_boot_us(s->loop);
		segment_table_move(&s->t, number, SEGMENT_THIN);
	} else if (!thin && g->list == SEGMENT_THIN) {
		segment_table_move(&s->t, number, SEGMENT_SEALED);
	}
}

unsigned
segments_thin(const struct segments *s, uint64_t age_us, struct segments_thin *out, unsigned most)
{
	uint64_t now = loop_boot_us(s->loop);
	unsigned n = 0;

	for (uint32_t number = s->t.lists[SEGMENT_THIN].first; number != 0 && n < most;) {
		const struct seg *g = &s->t.segs[number];

		if (now < g->thin_since_us + age_us)
			break; /* those behind it are thin for a shorter time */
		out[n++] = (struct segments_thin){ number, g->live, g->row.epoch, g->live_kbytes };
		number = g->next;
	}
	return n;
}

void
segments_thin_later(struct segments *s, uint32_t number, bool never)
{
	struct seg *g = segment_table_find(&s->t, number);

	if (g == NULL || g->list != SEGMENT_THIN)
		return;
	g->no_move = never;
	g->thin_since_us = loop_boot_us(s->loop);
	segment_table_move(&s->t, number, never ? SEGMENT_SEALED : SEGMENT_THIN);
}

int
segments_check(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver,
	       uint64_t offset, uint64_t bytes)
{
	struct seg *g = segment_table_find(&s->t, number);

	if (g == NULL || g->row.epoch != epoch || g->row.receiver != receiver || offset % 16 != 0 ||
	    bytes > g->row.bytes || offset > g->row.bytes - bytes ||
	    offset < SEGMENT_HEADER_BYTES || g->row.state == STORE_SEGMENT_FREE)
		return -E_DENIED;
	if (offset + bytes <= g->row.committed)
		return 0;
	if (g->row.state != STORE_SEGMENT_OPEN || offset < g->row.committed)
		return -E_DENIED;
	return 1;
}

void
segments_committed_to(struct segments *s, uint32_t number, uint64_t end)
{
	struct seg *g = segment_table_find(&s->t, number);

	CHECK(g != NULL && end <= g->row.bytes);
	if (!PLANTED(no_mark))
		g->row.committed = end;
	segment_table_mark(&s->t, number);
}

static void
seal(struct segments *s, uint32_t number)
{
	struct seg *g = &s->t.segs[number];

	g->row.state = STORE_SEGMENT_SEALED;
	g->doubted = false;
	segment_table_mark(&s->t, number);
	KILL_POINT("sealed");
	segment_table_move(&s->t, number, SEGMENT_SEALED);
	segments_weigh(s, number);
}

static struct seg *
find_open(struct segments *s, uint32_t number, uint64_t epoch, unsigned owner)
{
	struct seg *g = segment_table_find(&s->t, number);

	return g != NULL && g->row.epoch == epoch && g->row.receiver == owner &&
			       g->row.state == STORE_SEGMENT_OPEN
		       ? g
		       : NULL;
}

void
segments_seal(struct segments *s, uint32_t number, uint64_t epoch, unsigned owner, bool failed)
{
	struct seg *g = segment_table_find(&s->t, number);

	/* An epoch is of one use of one file, whoever sealed it meanwhile. */
	if (failed && g != NULL && g->row.epoch == epoch && g->row.state != STORE_SEGMENT_FREE &&
	    !g->row.failed) {
		g->row.failed = true;
		segment_table_mark(&s->t, number);
	}
	if (find_open(s, number, epoch, owner) != NULL)
		seal(s, number);
}

/* The receiver has told all that it had, or is gone. After the last one nobody of before writes to
 * an old segment, nor has to hear that a message in it is committed. */
static void
heard(struct segments *s, unsigned receiver)
{
	if (!s->unheard[receiver])
		return;
	s->unheard[receiver] = false;
	if (--s->n_unheard > 0)
		return;
	for (uint32_t n = 1; n <= s->t.highest; n++) {
		if (s->t.segs[n].old) {
			s->t.segs[n].old = false;
			segments_weigh(s, n);
		}
	}
}

void
segments_seal_all(struct segments *s, unsigned receiver)
{
	enum segment_list list = segment_table_open_list(receiver);

	while (s->t.lists[list].n > 0)
		seal(s, s->t.lists[list].first);
	heard(s, receiver);
}

void
segments_held_begin(struct segments *s, unsigned receiver)
{
	uint32_t n = s->t.lists[segment_table_open_list(receiver)].first;

	for (; n != 0; n = s->t.segs[n].next)
		s->t.segs[n].doubted = true;
}

bool
segments_held(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver)
{
	struct seg *g = find_open(s, number, epoch, receiver);

	if (g != NULL)
		g->doubted = false;
	return g != NULL;
}

void
segments_held_end(struct segments *s, unsigned receiver)
{
	uint32_t n = s->t.lists[segment_table_open_list(receiver)].first;

	while (n != 0) {
		uint32_t next = s->t.segs[n].next;

		if (s->t.segs[n].doubted) {
			log_info("segment=%u receiver=%u held=no action=sealed", n, receiver);
			seal(s, n);
		}
		n = next;
	}
	heard(s, receiver);
}

void
segments_live(struct segments *s, uint32_t number, int delta, uint32_t kbytes)
{
	struct seg *g = segment_table_find(&s->t, number);

	if (g == NULL)
		return;
	CHECK(delta >= 0 ||
	      (g->live >= (uint32_t)-delta && g->live_kbytes >= (uint64_t)-delta * kbytes));
	g->live = (uint32_t)((int64_t)g->live + delta);
	g->live_kbytes = (uint64_t)((int64_t)g->live_kbytes + (int64_t)delta * kbytes);
	segments_weigh(s, number);
}

void
segments_pin(struct segments *s, uint32_t number, int delta)
{
	struct seg *g = segment_table_find(&s->t, number);

	if (g == NULL)
		return;
	CHECK(delta >= 0 || g->pins >= (uint32_t)-delta);
	g->pins = (uint32_t)((int64_t)g->pins + delta);
	segments_weigh(s, number);
}

uint32_t
segments_entries(const struct segments *s, uint32_t number)
{
	const struct seg *g = segment_table_find(&s->t, number);

	return g == NULL ? 0 : g->live;
}

uint64_t
segments_ordinary_bytes(const struct segments *s)
{
	return s->ordinary;
}

void
segments_flush(struct segments *s)
{
	for (size_t i = 0; i < s->t.n_dirty; i++) {
		uint32_t number = s->t.dirty[i];

		s->t.segs[number].dirty = false;
		committer_put_segment(s->committer, number, &s->t.segs[number].row);
	}
	s->t.n_dirty = 0;
}

void
segments_counts(const struct segments *s, struct segments_counts *out)
{
	*out = (struct segments_counts){ s->files, unused_count(s), s->t.lists[SEGMENT_SEALED].n,
					 s->t.lists[SEGMENT_THIN].n };
}

struct segments *
segments_new(struct loop *loop, struct committer *committer, int dir,
	     const unsigned char instance[16], segments_opened *fn, void *arg)
{
	struct segments *s = mem_zalloc(sizeof *s);

	s->loop = loop;
	s->committer = committer;
	s->jobs = segment_jobs_new(loop, dir, instance);
	s->dir = dir;
	s->ordinary = disk_file_bytes(dir, SEGMENT_BYTES);
	memcpy(s->instance, instance, 16);
	s->fn = fn;
	s->arg = arg;
	return s;
}

void
segments_free(struct segments **sp)
{
	struct segments *s = *sp;

	if (s == NULL)
		return;
	segment_jobs_free(&s->jobs);
	segment_table_clear(&s->t);
	mem_free(s);
	*sp = NULL;
}
