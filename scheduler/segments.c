#include "scheduler/segments.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/offload.h"

#define POOL_LOW  2  /* make one more when fewer are free */
#define POOL_HIGH 32 /* remove files above that */

#define OPEN_MAX 64 /* of one receiver, which uses three and may have missed a few when we died */

#define SEGMENTS_MAX (1u << 22) /* the index keeps numbers below that */

struct seg {
	struct store_segment row;
	uint32_t live;
	uint32_t pins;
	bool known;
	bool busy;  /* a job works on its file */
	bool lost;  /* a file of this number cannot be removed: the number is not used */
	bool dirty; /* row differs from the store's */
};

struct request {
	unsigned receiver;
	uint32_t generation;
	uint64_t bytes;
};

struct segments {
	struct committer *committer;
	struct offload *thread;
	segments_opened *fn;
	void *arg;
	int dir;
	unsigned char instance[16];
	struct seg *segs; /* by number; 0 is unused */
	size_t cap;
	uint32_t highest;
	uint32_t *dirty;
	size_t n_dirty, cap_dirty;
	struct request *requests; /* waiting for a free segment */
	size_t n_requests, cap_requests;
	unsigned creating;
	bool tight; /* no file is made, none kept beyond POOL_LOW */
	uint64_t files, unused;
};

enum job_kind { JOB_CREATE, JOB_STAMP, JOB_REMOVE };
struct job {
	struct offload_job base;
	struct segments *s;
	enum job_kind kind;
	uint32_t number;
	uint64_t epoch;
	uint64_t bytes;
	struct request request;
	int rc;
};

static void serve(struct segments *s);

static struct seg *
seg_at(struct segments *s, uint32_t number)
{
	void *p = s->segs;
	size_t before = s->cap;

	mem_grow(&p, &s->cap, (size_t)number + 1, sizeof *s->segs);
	s->segs = p;
	if (s->cap > before)
		memset(s->segs + before, 0, (s->cap - before) * sizeof *s->segs);
	if (number > s->highest)
		s->highest = number;
	return &s->segs[number];
}

static struct seg *
seg_find(struct segments *s, uint32_t number)
{
	return number > 0 && number <= s->highest && s->segs[number].known ? &s->segs[number] : NULL;
}

static void
mark_dirty(struct segments *s, uint32_t number)
{
	struct seg *g = &s->segs[number];
	void *p = s->dirty;

	if (g->dirty)
		return;
	g->dirty = true;
	mem_grow(&p, &s->cap_dirty, s->n_dirty + 1, sizeof *s->dirty);
	s->dirty = p;
	s->dirty[s->n_dirty++] = number;
}

/* The thread's work ---------------------------------------------------------------------------- */
static void
job_work(struct offload_job *base)
{
	struct job *j = (struct job *)base;

	switch (j->kind) {
	case JOB_CREATE:
		j->rc = segment_create(j->s->dir, j->number, j->bytes, j->s->instance);
		break;
	case JOB_STAMP:
		j->rc = segment_stamp(j->s->dir, j->number, j->epoch, j->s->instance);
		KILL_POINT("segment-stamped");
		break;
	case JOB_REMOVE:
		j->rc = segment_remove(j->s->dir, j->number);
		break;
	}
}

static void job_done(struct offload_job *base);

static struct job *
job_start(struct segments *s, enum job_kind kind, uint32_t number)
{
	struct job *j = mem_zalloc(sizeof *j);

	j->base.work = job_work;
	j->base.done = job_done;
	j->s = s;
	j->kind = kind;
	j->number = number;
	seg_at(s, number)->busy = true;
	return j;
}

static void
fail_requests(struct segments *s, int rc)
{
	for (size_t i = 0; i < s->n_requests; i++) {
		struct request *r = &s->requests[i];

		s->fn(s->arg, r->receiver, r->generation, r->bytes, 0, 0, 0, rc);
	}
	s->n_requests = 0;
}

static void
add_request(struct segments *s, struct request r)
{
	void *p = s->requests;

	mem_grow(&p, &s->cap_requests, s->n_requests + 1, sizeof *s->requests);
	s->requests = p;
	s->requests[s->n_requests++] = r;
}

/* A free segment's file goes, and its row with it. */
static void
retire(struct segments *s, uint32_t number)
{
	struct job *j = job_start(s, JOB_REMOVE, number);
	struct seg *g = seg_at(s, number);

	s->unused--;
	s->files--;
	g->row.bytes = 0; /* a row of no bytes: forgotten at the next start */
	mark_dirty(s, number);
	g->known = false;
	offload_add(s->thread, &j->base);
}

static void
create(struct segments *s, uint64_t bytes)
{
	struct job *j;
	uint32_t number = 1;

	while (number <= s->highest && (s->segs[number].known || s->segs[number].busy || s->segs[number].lost))
		number++;
	if (number >= SEGMENTS_MAX) {
		fail_requests(s, -E_FULL);
		return;
	}
	j = job_start(s, JOB_CREATE, number);
	j->bytes = bytes;
	s->creating++;
	offload_add(s->thread, &j->base);
}

static void
opened_is_durable(void *ctx, uint64_t number, uint64_t receiver_generation, uint64_t for_bytes)
{
	struct segments *s = ctx;
	struct seg *g = seg_find(s, (uint32_t)number);

	CHECK(g != NULL);
	s->fn(s->arg, (unsigned)(receiver_generation >> 32), (uint32_t)receiver_generation, for_bytes,
	      (uint32_t)number, g->row.epoch, g->row.bytes, 0);
}

static void
stamped(struct segments *s, struct job *j)
{
	struct seg *g = &s->segs[j->number];

	if (j->rc != 0) {
		/* Nothing lives in it: another file takes its place. */
		log_error("segment=%u stamp=failed error=\"%s\" action=remove", j->number, err_text(j->rc));
		retire(s, j->number);
		add_request(s, j->request);
		return;
	}
	s->unused--;
	g->row.state = STORE_SEGMENT_OPEN;
	g->row.receiver = (uint8_t)j->request.receiver;
	g->row.epoch = j->epoch;
	g->row.committed = SEGMENT_HEADER_BYTES;
	mark_dirty(s, j->number);
	segments_flush(s);
	committer_then(s->committer, COMMIT_NOW, opened_is_durable, s, j->number,
		       (uint64_t)j->request.receiver << 32 | j->request.generation, j->request.bytes);
}

static void
created(struct segments *s, struct job *j)
{
	struct seg *g = &s->segs[j->number];

	s->creating--;
	if (j->rc != 0) {
		log_error("segment=%u create=failed error=\"%s\"", j->number, err_text(j->rc));
		g->lost = j->rc == -E_EXISTS;
		fail_requests(s, j->rc);
		return;
	}
	memset(&g->row, 0, sizeof g->row);
	g->row.bytes = j->bytes;
	g->row.state = STORE_SEGMENT_FREE;
	g->known = true;
	s->files++;
	s->unused++;
	mark_dirty(s, j->number);
}

static void
job_done(struct offload_job *base)
{
	struct job *j = (struct job *)base;
	struct segments *s = j->s;

	s->segs[j->number].busy = false;
	switch (j->kind) {
	case JOB_CREATE:
		created(s, j);
		break;
	case JOB_STAMP:
		stamped(s, j);
		break;
	case JOB_REMOVE:
		if (j->rc != 0)
			log_warn("segment=%u remove=failed error=\"%s\"", j->number, err_text(j->rc));
		s->segs[j->number].lost = j->rc != 0 && j->rc != -E_MISSING;
		break;
	}
	mem_free(j);
	serve(s);
}

/* Requests ------------------------------------------------------------------------------------- */
static uint32_t
find_free(struct segments *s, uint64_t bytes)
{
	uint64_t want = bytes + SEGMENT_HEADER_BYTES;

	for (uint32_t n = 1; n <= s->highest; n++) {
		struct seg *g = &s->segs[n];

		if (!g->known || g->busy || g->row.state != STORE_SEGMENT_FREE || g->pins > 0)
			continue;
		/* An ordinary request takes ordinary files, a large one a file that is large enough. */
		if (bytes == 0 ? g->row.bytes == SEGMENT_BYTES : g->row.bytes >= want)
			return n;
	}
	return 0;
}

static void
serve(struct segments *s)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->n_requests; i++) {
		struct request r = s->requests[i];
		uint32_t number = find_free(s, r.bytes);
		struct job *j;

		if (number == 0) {
			s->requests[kept++] = r;
			continue;
		}
		j = job_start(s, JOB_STAMP, number);
		j->request = r;
		j->epoch = committer_meta(s->committer)->next_epoch++;
		offload_add(s->thread, &j->base);
	}
	s->n_requests = kept;
	if (s->tight) {
		fail_requests(s, -E_FULL);
	} else if (kept > s->creating) {
		uint64_t bytes = s->requests[kept - 1].bytes;

		create(s, bytes == 0 ? SEGMENT_BYTES : (bytes + SEGMENT_HEADER_BYTES + 4095) & ~4095ull);
	} else if (s->unused + s->creating < POOL_LOW) {
		create(s, SEGMENT_BYTES);
	}
}

/* How many a receiver has and waits for. */
static unsigned
count_of(const struct segments *s, unsigned receiver)
{
	unsigned n = 0;

	for (uint32_t i = 1; i <= s->highest; i++)
		n += s->segs[i].known && s->segs[i].row.state == STORE_SEGMENT_OPEN && s->segs[i].row.receiver == receiver;
	for (size_t i = 0; i < s->n_requests; i++)
		n += s->requests[i].receiver == receiver;
	return n;
}

bool
segments_request(struct segments *s, unsigned receiver, uint32_t generation, uint64_t bytes)
{
	if (count_of(s, receiver) >= OPEN_MAX)
		return false;
	if (bytes + SEGMENT_HEADER_BYTES <= SEGMENT_BYTES)
		bytes = 0;
	add_request(s, (struct request){ receiver, generation, bytes });
	serve(s);
	return true;
}

void
segments_tight(struct segments *s, bool tight)
{
	s->tight = tight;
	for (uint32_t n = 1; tight && n <= s->highest && s->unused > POOL_LOW; n++) {
		struct seg *g = &s->segs[n];

		if (g->known && !g->busy && g->row.state == STORE_SEGMENT_FREE && g->pins == 0)
			retire(s, n);
	}
	serve(s);
}

/* Life ----------------------------------------------------------------------------------------- */
static void
is_free_now(void *ctx, uint64_t number, uint64_t epoch, uint64_t unused)
{
	struct segments *s = ctx;
	struct seg *g = seg_find(s, (uint32_t)number);

	(void)unused;
	/* Only now may the file be written over: its rows are gone from the disk. */
	if (g == NULL || g->row.epoch != epoch || g->row.state != STORE_SEGMENT_FREE)
		return;
	g->busy = false;
	s->unused++;
	if (s->unused > (s->tight ? POOL_LOW : POOL_HIGH) || g->row.bytes != SEGMENT_BYTES)
		retire(s, (uint32_t)number);
	serve(s);
}

static void
maybe_free(struct segments *s, uint32_t number)
{
	struct seg *g = &s->segs[number];

	if (!g->known || g->busy || g->row.state != STORE_SEGMENT_SEALED || g->live > 0 || g->pins > 0)
		return;
	g->row.state = STORE_SEGMENT_FREE;
	g->busy = true;
	mark_dirty(s, number);
	segments_flush(s);
	committer_then(s->committer, COMMIT_NOW, is_free_now, s, number, g->row.epoch, 0);
}

int
segments_check(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver, uint64_t offset, uint64_t bytes)
{
	struct seg *g = seg_find(s, number);

	if (g == NULL || g->row.epoch != epoch || g->row.receiver != receiver || offset % 16 != 0 ||
	    bytes > g->row.bytes || offset > g->row.bytes - bytes || offset < SEGMENT_HEADER_BYTES ||
	    g->row.state == STORE_SEGMENT_FREE)
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
	struct seg *g = seg_find(s, number);

	CHECK(g != NULL && end <= g->row.bytes);
	g->row.committed = end;
	mark_dirty(s, number);
}

void
segments_seal(struct segments *s, uint32_t number, uint64_t epoch, unsigned receiver)
{
	struct seg *g = seg_find(s, number);

	if (g == NULL || g->row.epoch != epoch || g->row.receiver != receiver ||
	    g->row.state != STORE_SEGMENT_OPEN)
		return;
	g->row.state = STORE_SEGMENT_SEALED;
	mark_dirty(s, number);
	KILL_POINT("sealed");
	maybe_free(s, number);
}

void
segments_seal_all(struct segments *s, unsigned receiver)
{
	for (uint32_t n = 1; n <= s->highest; n++) {
		struct seg *g = &s->segs[n];

		if (g->known && g->row.state == STORE_SEGMENT_OPEN && g->row.receiver == receiver)
			segments_seal(s, n, g->row.epoch, receiver);
	}
	for (size_t i = 0; i < s->n_requests;) {
		if (s->requests[i].receiver == receiver)
			s->requests[i] = s->requests[--s->n_requests];
		else
			i++;
	}
}

void
segments_live(struct segments *s, uint32_t number, int delta)
{
	struct seg *g = seg_find(s, number);

	if (g == NULL)
		return;
	CHECK(delta >= 0 || g->live >= (uint32_t)-delta);
	g->live = (uint32_t)((int64_t)g->live + delta);
	if (g->live == 0)
		maybe_free(s, number);
}

void
segments_pin(struct segments *s, uint32_t number, int delta)
{
	struct seg *g = seg_find(s, number);

	if (g == NULL)
		return;
	CHECK(delta >= 0 || g->pins >= (uint32_t)-delta);
	g->pins = (uint32_t)((int64_t)g->pins + delta);
	if (g->pins == 0)
		maybe_free(s, number);
}

void
segments_flush(struct segments *s)
{
	for (size_t i = 0; i < s->n_dirty; i++) {
		uint32_t number = s->dirty[i];

		s->segs[number].dirty = false;
		committer_put_segment(s->committer, number, &s->segs[number].row);
	}
	s->n_dirty = 0;
}

void
segments_counts(const struct segments *s, uint64_t *files, uint64_t *unused)
{
	*files = s->files;
	*unused = s->unused;
}

/* Start ---------------------------------------------------------------------------------------- */
void
segments_restore(struct segments *s, uint32_t number, const struct store_segment *row)
{
	struct seg *g;

	if (number == 0 || row->bytes == 0)
		return;
	g = seg_at(s, number);
	g->row = *row;
	g->known = true;
	s->files++;
	if (row->state == STORE_SEGMENT_FREE)
		s->unused++;
}

void
segments_restore_entry(struct segments *s, uint32_t number, uint64_t epoch)
{
	struct seg *g = seg_find(s, number);

	if (g == NULL) {
		/* The row is damaged; the file is not swept. */
		struct store_segment row = { .epoch = epoch, .state = STORE_SEGMENT_SEALED, .bytes = SEGMENT_BYTES };

		if (number == 0 || number >= SEGMENTS_MAX)
			return;
		log_error("segment=%u row=missing action=rebuilt", number);
		segments_restore(s, number, &row);
		mark_dirty(s, number);
		g = seg_find(s, number);
	}
	g->live++;
}

static void
sweep(void *arg, uint32_t number)
{
	struct segments *s = arg;

	/* A file that no row knows was being made or removed when we died. */
	if (seg_find(s, number) != NULL)
		return;
	log_info("segment=%u swept=yes", number);
	if (segment_remove(s->dir, number) != 0)
		log_warn("segment=%u remove=failed", number);
}

/* What the file says of itself, where its row may know less. */
static void
note_info(struct segments *s, uint32_t number, const struct segment_info *info)
{
	struct seg *g = &s->segs[number];

	/* Stamped, but the commit that named the epoch did not come any more: it is not given again. */
	if (info->epoch >= committer_meta_view(s->committer)->next_epoch)
		committer_meta(s->committer)->next_epoch = info->epoch + 1;
	if (info->bytes != g->row.bytes) {
		g->row.bytes = info->bytes; /* a rebuilt row */
		mark_dirty(s, number);
	}
}

void
segments_start(struct segments *s)
{
	int rc = segment_each(s->dir, sweep, s);

	if (rc != 0)
		log_warn("segments sweep=failed error=\"%s\"", err_text(rc));
	for (uint32_t n = 1; n <= s->highest; n++) {
		struct seg *g = &s->segs[n];
		struct segment_info info;

		if (!g->known)
			continue;
		rc = segment_read_info(s->dir, n, s->instance, &info);
		if (rc != 0 && g->row.state == STORE_SEGMENT_FREE) {
			/* Died while it was stamped or removed: nothing lives in it. */
			g->known = false;
			g->row.bytes = 0;
			s->files--;
			s->unused--;
			mark_dirty(s, n);
			(void)segment_remove(s->dir, n);
			continue;
		}
		if (rc != 0) {
			log_error("segment=%u header=unreadable error=\"%s\" live=%u", n, err_text(rc), g->live);
		} else {
			note_info(s, n, &info);
		}
		maybe_free(s, n);
	}
	serve(s);
}

struct segments *
segments_new(struct loop *loop, struct committer *committer, int dir, const unsigned char instance[16],
	     segments_opened *fn, void *arg)
{
	struct segments *s = mem_zalloc(sizeof *s);

	s->committer = committer;
	s->thread = offload_new(loop);
	s->dir = dir;
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
	offload_free(&s->thread);
	mem_free(s->segs);
	mem_free(s->dirty);
	mem_free(s->requests);
	mem_free(s);
	*sp = NULL;
}
