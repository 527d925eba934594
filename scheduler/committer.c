#include "scheduler/committer.h"

#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/kill_point.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/planted.h"
#include "common/base/wire.h"

/* A batch is full at so many operations. Each may lie on a page of its own, which LMDB copies and keeps the
 * memory of; and what comes next waits for the commit: many times more would not be faster. */
#define BATCH_OPS 1000
/* Buffers that a batch leaves larger than this are given back. */
#define BATCH_KEPT_BYTES (256u << 10)

enum op_kind { OP_PUT_ROW, OP_DEL_ROW, OP_PUT_REPLY, OP_PUT_NAME, OP_DEL_NAME, OP_PUT_QUEUE, OP_PUT_SEGMENT, OP_PUT_ACT, OP_DEL_ACT,
	       OP_PUT_REDIRECT, OP_DEL_REDIRECT, OP_PUT_BACKOFF, OP_DEL_BACKOFF };

/* Slices of an op are offsets into the batch's bytes while it fills. */
struct op {
	enum op_kind kind;
	uint32_t number;
	struct entry_key key;
	size_t bytes_at;
	size_t bytes_n;
	union {
		struct store_row row;
		struct store_queue queue;
		struct store_segment segment;
		struct store_act act; /* texts: one behind the other in the bytes */
		uint32_t to; /* of a redirect */
	} u;
};

struct action {
	commit_action *fn;
	void *ctx;
	uint64_t a, b, c;
};

struct lane {
	struct op *ops;
	size_t n_ops, cap_ops;
	struct action *actions;
	size_t n_actions, cap_actions;
	struct buf bytes; /* names, replies, bitmaps */
};

struct batch {
	struct lane lanes[2]; /* enum commit_lane */
	struct buf events;    /* u32 length, encoded event */
	size_t n_events;
	bool has_mode;         /* one of them is a change of mode */
	struct buf receptions; /* u64: the messages that some of these are of */
};

/* What the threads work on: a batch and the settle lane of the one before. */
struct job {
	struct batch *batch;   /* NULL: only the earlier settle lane */
	struct batch *earlier; /* NULL: none */
	struct store_meta meta;
	struct buf receptions;        /* u64: what the store is to remember */
	struct event_position synced; /* result */
};

struct committer {
	struct loop *loop;
	struct store *store;
	struct event_writer *log;
	struct store_meta meta;
	bool meta_changed;
	struct committer_hooks hooks;
	void *arg;
	struct batch batches[3];
	struct batch *filling;
	struct batch *settling; /* its events are on disk, its settle lane is not; NULL: none */
	struct batch *spares[2];
	unsigned n_spares;
	struct job job;
	bool busy; /* the threads have the job */
	bool failed; /* a job failed: nothing is written after it */
	bool job_has_meta;
	struct buf scratch;
	struct event_position synced, covered;
	struct event_position low;
	struct committer_counts counts;
	struct buf owed;     /* u64 */
	bool has_receptions; /* the store holds a list of them (until a commit without) */
	uint64_t ahead; /* bytes of disk kept for the store's next pages */
	int done_fd;
	struct watch done_watch;
	/* Shared with the threads, under the mutex. */
	pthread_t thread, event_thread, file_thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake, event_wake, event_done, file_wake;
	bool have_job;
	bool events_wanted, events_finished;
	int events_rc;
	int rc;
	uint64_t took_us;
	bool finished;
	bool leave;
	struct event_position recycle_low;
	bool recycle;
};

/* The batch ------------------------------------------------------------------------------------ */
static struct op *
add_op(struct committer *c, enum commit_lane which, enum op_kind kind)
{
	struct lane *l = &c->filling->lanes[which];
	void *p = l->ops;
	struct op *op;

	mem_grow(&p, &l->cap_ops, l->n_ops + 1, sizeof *l->ops);
	l->ops = p;
	op = &l->ops[l->n_ops++];
	memset(op, 0, sizeof *op);
	op->kind = kind;
	return op;
}

static void
op_bytes(struct committer *c, enum commit_lane which, struct op *op, struct slice s)
{
	struct lane *l = &c->filling->lanes[which];

	op->bytes_at = l->bytes.len;
	op->bytes_n = s.n;
	buf_put_slice(&l->bytes, s);
}

void
committer_event(struct committer *c, const struct event *e)
{
	struct batch *b = c->filling;

	buf_reset(&c->scratch);
	event_encode(&c->scratch, e);
	wire_put_u32(&b->events, (uint32_t)c->scratch.len);
	buf_put_slice(&b->events, buf_slice(&c->scratch));
	b->n_events++;
	b->has_mode = b->has_mode || e->kind == EVENT_MODE;
}

void
committer_reception(struct committer *c, const struct event *e)
{
	committer_event(c, e);
	wire_put_u64(&c->filling->receptions, e->message);
}

void
committer_owe(struct committer *c, struct slice ids)
{
	buf_reset(&c->owed);
	buf_put_slice(&c->owed, ids);
}

void
committer_put_row(struct committer *c, enum commit_lane lane, struct entry_key key, const struct store_row *row)
{
	struct op *op;

	if (PLANTED(row_first))
		lane = COMMIT_NOW;
	op = add_op(c, lane, OP_PUT_ROW);
	op->key = key;
	op->u.row = *row;
	op_bytes(c, lane, op, row->done);
}

void
committer_del_row(struct committer *c, enum commit_lane lane, struct entry_key key)
{
	add_op(c, PLANTED(row_first) ? COMMIT_NOW : lane, OP_DEL_ROW)->key = key;
}

void
committer_put_reply(struct committer *c, enum commit_lane lane, struct entry_key key, struct slice reply)
{
	struct op *op = add_op(c, lane, OP_PUT_REPLY);

	op->key = key;
	op_bytes(c, lane, op, slice_of(reply.p, reply.n < REPLY_KEPT_MAX ? reply.n : REPLY_KEPT_MAX));
}

void
committer_put_name(struct committer *c, uint32_t number, struct slice name)
{
	struct op *op = add_op(c, COMMIT_NOW, OP_PUT_NAME);

	op->number = number;
	op_bytes(c, COMMIT_NOW, op, name);
}

void
committer_del_name(struct committer *c, uint32_t number)
{
	add_op(c, COMMIT_NOW, OP_DEL_NAME)->number = number;
}

void
committer_put_queue(struct committer *c, uint32_t queue, const struct store_queue *q)
{
	struct op *op = add_op(c, COMMIT_NOW, OP_PUT_QUEUE);

	op->number = queue;
	op->u.queue = *q;
	op_bytes(c, COMMIT_NOW, op, slice_of(q->reason.p, q->reason.n < 512 ? q->reason.n : 512));
}

void
committer_put_segment(struct committer *c, uint32_t number, const struct store_segment *s)
{
	struct op *op = add_op(c, COMMIT_NOW, OP_PUT_SEGMENT);

	op->number = number;
	op->u.segment = *s;
}

void
committer_put_act(struct committer *c, uint32_t number, const struct store_act *act)
{
	struct op *op = add_op(c, COMMIT_NOW, OP_PUT_ACT);
	struct buf *bytes = &c->filling->lanes[COMMIT_NOW].bytes;

	CHECK(act->object.n + act->name.n + act->value.n <= STORE_ACT_TEXT_MAX);
	op->number = number;
	op->u.act = *act;
	op_bytes(c, COMMIT_NOW, op, act->object);
	buf_put_slice(bytes, act->name);
	buf_put_slice(bytes, act->value);
}

void
committer_del_act(struct committer *c, uint32_t number)
{
	add_op(c, COMMIT_NOW, OP_DEL_ACT)->number = number;
}

void
committer_put_redirect(struct committer *c, uint32_t from, uint32_t to)
{
	struct op *op = add_op(c, COMMIT_NOW, OP_PUT_REDIRECT);

	op->number = from;
	op->u.to = to;
}

void
committer_del_redirect(struct committer *c, uint32_t from)
{
	add_op(c, COMMIT_NOW, OP_DEL_REDIRECT)->number = from;
}

void
committer_put_backoff(struct committer *c, uint32_t number, struct slice blob)
{
	struct op *op = add_op(c, COMMIT_NOW, OP_PUT_BACKOFF);

	CHECK(blob.n <= STORE_BACKOFF_MAX);
	op->number = number;
	op_bytes(c, COMMIT_NOW, op, blob);
}

void
committer_del_backoff(struct committer *c, uint32_t number)
{
	add_op(c, COMMIT_NOW, OP_DEL_BACKOFF)->number = number;
}

struct store_meta *
committer_meta(struct committer *c)
{
	c->meta_changed = true;
	return &c->meta;
}

const struct store_meta *
committer_meta_view(const struct committer *c)
{
	return &c->meta;
}

void
committer_then(struct committer *c, enum commit_lane lane, commit_action *fn, void *ctx, uint64_t a, uint64_t b,
	       uint64_t d)
{
	struct lane *l = &c->filling->lanes[lane];
	void *p = l->actions;

	mem_grow(&p, &l->cap_actions, l->n_actions + 1, sizeof *l->actions);
	l->actions = p;
	l->actions[l->n_actions++] = (struct action){ fn, ctx, a, b, d };
}

static bool
lane_is_empty(const struct lane *l)
{
	return l->n_ops == 0 && l->n_actions == 0;
}

static bool
batch_is_empty(const struct batch *b)
{
	return lane_is_empty(&b->lanes[COMMIT_NOW]) && lane_is_empty(&b->lanes[COMMIT_SETTLE]) &&
	       b->n_events == 0;
}

static void
empty(struct buf *b)
{
	if (b->cap > BATCH_KEPT_BYTES)
		buf_clear(b);
	else
		buf_reset(b);
}

static void
batch_reset(struct batch *b)
{
	for (int i = 0; i < 2; i++) {
		struct lane *l = &b->lanes[i];

		l->n_ops = l->n_actions = 0;
		empty(&l->bytes);
		if (l->cap_ops * sizeof *l->ops > BATCH_KEPT_BYTES) {
			mem_free(l->ops);
			l->ops = NULL;
			l->cap_ops = 0;
		}
		if (l->cap_actions * sizeof *l->actions > BATCH_KEPT_BYTES) {
			mem_free(l->actions);
			l->actions = NULL;
			l->cap_actions = 0;
		}
	}
	b->n_events = 0;
	b->has_mode = false;
	empty(&b->events);
	empty(&b->receptions);
}

/* The threads ---------------------------------------------------------------------------------- */
static int
write_events(struct committer *c, struct batch *b)
{
	struct wire_reader r;
	int rc;

	wire_read_init(&r, buf_slice(&b->events));
	for (size_t i = 0; i < b->n_events; i++)
		event_append_encoded(c->log, wire_bytes(&r, EVENT_BYTES_MAX));
	CHECK(wire_done(&r));
	KILL_POINT("before-event-sync");
	rc = event_sync(c->log);
	KILL_POINT("after-event-sync");
	return rc;
}

static void *
event_thread_main(void *arg)
{
	struct committer *c = arg;

	pthread_mutex_lock(&c->mutex);
	for (;;) {
		int rc;

		while (!c->events_wanted && !c->leave)
			pthread_cond_wait(&c->event_wake, &c->mutex);
		if (!c->events_wanted)
			break;
		c->events_wanted = false;
		pthread_mutex_unlock(&c->mutex);
		rc = write_events(c, c->job.batch);
		pthread_mutex_lock(&c->mutex);
		c->events_rc = rc;
		c->events_finished = true;
		pthread_cond_signal(&c->event_done);
	}
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

static void
events_begin(struct committer *c)
{
	pthread_mutex_lock(&c->mutex);
	c->events_wanted = true;
	c->events_finished = false;
	pthread_cond_signal(&c->event_wake);
	pthread_mutex_unlock(&c->mutex);
}

static int
events_end(struct committer *c)
{
	int rc;

	pthread_mutex_lock(&c->mutex);
	while (!c->events_finished)
		pthread_cond_wait(&c->event_done, &c->mutex);
	rc = c->events_rc;
	pthread_mutex_unlock(&c->mutex);
	return rc;
}

static int
write_op(struct store_txn *t, struct lane *l, struct op *op)
{
	struct slice bytes = slice_of(l->bytes.data + l->bytes.start + op->bytes_at, op->bytes_n);

	switch (op->kind) {
	case OP_PUT_ROW:
		op->u.row.done = bytes;
		return store_put_row(t, op->key, &op->u.row);
	case OP_DEL_ROW:
		return store_del_row(t, op->key);
	case OP_PUT_REPLY:
		return store_put_reply(t, op->key, bytes);
	case OP_PUT_NAME:
		return store_put_name(t, op->number, bytes);
	case OP_DEL_NAME:
		return store_del_name(t, op->number);
	case OP_PUT_QUEUE:
		op->u.queue.reason = bytes;
		return store_put_queue(t, op->number, &op->u.queue);
	case OP_PUT_SEGMENT:
		return store_put_segment(t, op->number, &op->u.segment);
	case OP_PUT_ACT:
		op->u.act.object = bytes;
		op->u.act.name.p = bytes.p + bytes.n;
		op->u.act.value.p = op->u.act.name.p + op->u.act.name.n;
		return store_put_act(t, op->number, &op->u.act);
	case OP_DEL_ACT:
		return store_del_act(t, op->number);
	case OP_PUT_REDIRECT:
		return store_put_redirect(t, op->number, op->u.to);
	case OP_DEL_REDIRECT:
		return store_del_redirect(t, op->number);
	case OP_PUT_BACKOFF:
		return store_put_backoff(t, op->number, bytes);
	case OP_DEL_BACKOFF:
		return store_del_backoff(t, op->number);
	}
	return -E_BAD;
}

static int
write_lane(struct store_txn *t, struct lane *l)
{
	int rc = 0;

	for (size_t i = 0; i < l->n_ops && rc == 0; i++) {
		rc = write_op(t, l, &l->ops[i]);
		KILL_POINT("mid-batch");
	}
	return rc;
}

static int
write_rows(struct committer *c, struct job *j)
{
	struct slice receptions = buf_slice(&j->receptions);
	struct store_txn *t;
	int rc = store_begin(c->store, &t);

	if (rc != 0)
		return rc;
	if (j->batch != NULL)
		rc = write_lane(t, &j->batch->lanes[COMMIT_NOW]);
	if (rc == 0 && j->earlier != NULL)
		rc = write_lane(t, &j->earlier->lanes[COMMIT_SETTLE]);
	/* The events of the batch before are on disk: its list goes. */
	if (rc == 0 && (receptions.n > 0 || c->has_receptions))
		rc = store_put_receptions(t, receptions);
	if (rc == 0)
		rc = store_put_meta(t, &j->meta);
	if (rc != 0) {
		store_abort(&t);
		return rc;
	}
	c->has_receptions = receptions.n > 0;
	KILL_POINT("before-commit");
	if (j->batch != NULL && j->batch->has_mode)
		KILL_POINT("flip-before-commit");
	rc = store_commit(&t);
	if (j->batch != NULL && j->batch->has_mode)
		KILL_POINT("flip-after-commit");
	KILL_POINT("after-commit-before-ack");
	if (rc == 0)
		store_reserve(c->store, c->ahead);
	return rc;
}

static bool
has_rows(const struct job *j)
{
	return (j->batch != NULL && (j->batch->lanes[COMMIT_NOW].n_ops > 0 || j->batch->receptions.len > 0)) ||
	       j->earlier != NULL;
}

static int
write_job(struct committer *c, struct job *j, bool meta_changed)
{
	bool events = j->batch != NULL && j->batch->n_events > 0;
	int rc = 0, events_rc = 0;

	if (events)
		events_begin(c);
	if (has_rows(j) || meta_changed)
		rc = write_rows(c, j);
	if (events)
		events_rc = events_end(c);
	j->synced = event_writer_position(c->log);
	return rc != 0 ? rc : events_rc;
}

static void
tell_loop(struct committer *c)
{
	uint64_t one = 1;

	if (write(c->done_fd, &one, sizeof one) != (ssize_t)sizeof one)
		log_error("committer wake=failed");
}

/* One job; the mutex is held at entry and exit. */
static void
thread_step(struct committer *c)
{
	uint64_t began;
	int rc;

	c->have_job = false;
	pthread_mutex_unlock(&c->mutex);
	began = clock_boot_us();
	rc = write_job(c, &c->job, c->job_has_meta);
	pthread_mutex_lock(&c->mutex);
	c->took_us = clock_boot_us() - began;
	c->rc = rc;
	c->finished = true;
	tell_loop(c);
}

static void *
thread_main(void *arg)
{
	struct committer *c = arg;

	pthread_mutex_lock(&c->mutex);
	while (!c->leave) {
		if (!c->have_job)
			pthread_cond_wait(&c->wake, &c->mutex);
		else
			thread_step(c);
	}
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

/* Files of the event log are written full here, so that no commit waits for 64 MiB of zeros. */
static void *
file_thread_main(void *arg)
{
	struct committer *c = arg;

	pthread_mutex_lock(&c->mutex);
	while (!c->leave) {
		struct event_position low = c->recycle_low;
		int rc;

		if (!c->recycle) {
			pthread_cond_wait(&c->file_wake, &c->mutex);
			continue;
		}
		c->recycle = false;
		pthread_mutex_unlock(&c->mutex);
		rc = event_recycle(c->log, low);
		if (rc == 0)
			rc = event_prepare(c->log);
		if (rc != 0)
			log_warn("event_log files=not_ready error=\"%s\"", err_text(rc));
		pthread_mutex_lock(&c->mutex);
	}
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

/* The loop's side ------------------------------------------------------------------------------ */
static void
run_actions(struct lane *l)
{
	/* An action may add to the batch that fills, never to this one. */
	for (size_t i = 0; i < l->n_actions; i++) {
		struct action *a = &l->actions[i];

		a->fn(a->ctx, a->a, a->b, a->c);
	}
}

static void
put_back(struct committer *c, struct batch *b)
{
	batch_reset(b);
	c->spares[c->n_spares++] = b;
}

static void
see_to_files(struct committer *c, struct event_position low)
{
	c->low = low;
	pthread_mutex_lock(&c->mutex);
	c->recycle_low = low;
	c->recycle = true;
	pthread_cond_signal(&c->file_wake);
	pthread_mutex_unlock(&c->mutex);
}

/* The job is on disk: its batch now settles, the one before is finished. */
static void
job_done(struct committer *c)
{
	struct batch *batch = c->job.batch, *earlier = c->job.earlier;

	if (c->synced.file != c->job.synced.file)
		see_to_files(c, c->low); /* the next one is in use: one more is made ready */
	c->synced = c->job.synced;
	c->covered = (struct event_position){ c->job.meta.event_file, c->job.meta.event_offset };
	c->settling = NULL;
	if (earlier != NULL) {
		run_actions(&earlier->lanes[COMMIT_SETTLE]);
		put_back(c, earlier);
	}
	if (batch == NULL)
		return;
	c->counts.events += batch->n_events;
	run_actions(&batch->lanes[COMMIT_NOW]);
	if (batch->n_events == 0 && lane_is_empty(&batch->lanes[COMMIT_SETTLE])) {
		put_back(c, batch);
	} else {
		c->settling = batch;
	}
}

static void
on_done(void *arg, short what)
{
	struct committer *c = arg;
	uint64_t n;
	int rc;

	(void)what;
	if (read(c->done_fd, &n, sizeof n) < 0)
		return;
	pthread_mutex_lock(&c->mutex);
	if (!c->finished) {
		pthread_mutex_unlock(&c->mutex);
		return;
	}
	c->finished = false;
	rc = c->rc;
	c->counts.commits++;
	c->counts.commit_us += c->took_us;
	pthread_mutex_unlock(&c->mutex);
	c->busy = false;
	if (rc != 0) {
		c->failed = true;
		c->hooks.on_failure(c->arg, rc);
		return;
	}
	job_done(c);
	/* The next batch goes at the end of the turn, when the segments' rows have joined it: rows of
	 * messages without the offset that covers them would be queued again after a crash. */
	if (c->hooks.on_committed != NULL)
		c->hooks.on_committed(c->arg);
}

void
committer_kick(struct committer *c)
{
	bool fresh = !batch_is_empty(c->filling);

	if (c->failed || c->busy || (!fresh && c->settling == NULL && !c->meta_changed))
		return;
	/* The rows of this transaction contain all events that are on disk by now, no later ones. */
	c->meta.event_file = c->synced.file;
	c->meta.event_offset = c->synced.offset;
	c->meta.next_lsn = event_writer_next_lsn(c->log);
	c->job.batch = NULL;
	c->job.earlier = c->settling;
	c->job.meta = c->meta;
	buf_reset(&c->job.receptions);
	buf_put_slice(&c->job.receptions, buf_slice(&c->owed));
	c->job_has_meta = c->meta_changed;
	c->meta_changed = false;
	if (fresh) {
		c->job.batch = c->filling;
		CHECK(c->n_spares > 0); /* one fills, one is being written, one settles */
		c->filling = c->spares[--c->n_spares];
		buf_put_slice(&c->job.receptions, buf_slice(&c->job.batch->receptions));
	}
	c->busy = true;
	pthread_mutex_lock(&c->mutex);
	c->have_job = true;
	pthread_cond_signal(&c->wake);
	pthread_mutex_unlock(&c->mutex);
}

bool
committer_is_full(const struct committer *c)
{
	const struct batch *b = c->filling;

	return b->lanes[COMMIT_NOW].n_ops + b->lanes[COMMIT_SETTLE].n_ops >= BATCH_OPS ||
	       b->events.len >= event_writer_file_bytes(c->log) / 32;
}

bool
committer_takes_event(const struct committer *c, size_t encoded_bytes)
{
	return event_writer_takes(c->log, encoded_bytes);
}

uint64_t
committer_event_file_bytes(const struct committer *c)
{
	return event_writer_file_bytes(c->log);
}

bool
committer_is_idle(const struct committer *c)
{
	return !c->busy && c->settling == NULL && batch_is_empty(c->filling) && !c->meta_changed;
}

struct event_position
committer_synced(const struct committer *c)
{
	return c->synced;
}

struct event_position
committer_covered(const struct committer *c)
{
	return c->covered;
}

void
committer_recycle_events(struct committer *c, struct event_position low)
{
	if (low.file != c->low.file)
		see_to_files(c, low);
}

void
committer_counts(const struct committer *c, struct committer_counts *out)
{
	*out = c->counts;
}

struct committer *
committer_new(struct loop *loop, struct store *store, struct event_writer *log,
	      const struct store_meta *meta, const struct committer_hooks *hooks, void *arg)
{
	struct committer *c = mem_zalloc(sizeof *c);

	c->loop = loop;
	c->store = store;
	c->log = log;
	c->meta = *meta;
	c->meta_changed = true;
	c->has_receptions = true; /* perhaps */
	c->hooks = *hooks;
	c->arg = arg;
	c->filling = &c->batches[0];
	c->spares[c->n_spares++] = &c->batches[1];
	c->spares[c->n_spares++] = &c->batches[2];
	c->synced = c->covered = event_writer_position(log);
	c->ahead = event_writer_file_bytes(log) / 4;
	c->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(c->done_fd >= 0);
	watch_init(&c->done_watch, loop, c->done_fd, on_done, c);
	watch_set(&c->done_watch, EV_READ);
	CHECK(pthread_mutex_init(&c->mutex, NULL) == 0);
	CHECK(pthread_cond_init(&c->wake, NULL) == 0);
	CHECK(pthread_cond_init(&c->event_wake, NULL) == 0);
	CHECK(pthread_cond_init(&c->event_done, NULL) == 0);
	CHECK(pthread_cond_init(&c->file_wake, NULL) == 0);
	c->recycle = true; /* the first thing it does: have the next event file ready */
	CHECK(pthread_create(&c->thread, NULL, thread_main, c) == 0);
	CHECK(pthread_create(&c->event_thread, NULL, event_thread_main, c) == 0);
	CHECK(pthread_create(&c->file_thread, NULL, file_thread_main, c) == 0);
	return c;
}

static void
batch_clear(struct batch *b)
{
	for (int i = 0; i < 2; i++) {
		mem_free(b->lanes[i].ops);
		mem_free(b->lanes[i].actions);
		buf_clear(&b->lanes[i].bytes);
	}
	buf_clear(&b->events);
	buf_clear(&b->receptions);
}

void
committer_free(struct committer **cp)
{
	struct committer *c = *cp;

	if (c == NULL)
		return;
	pthread_mutex_lock(&c->mutex);
	c->leave = true;
	pthread_cond_signal(&c->wake);
	pthread_cond_signal(&c->event_wake);
	pthread_cond_signal(&c->file_wake);
	pthread_mutex_unlock(&c->mutex);
	pthread_join(c->thread, NULL);
	pthread_join(c->event_thread, NULL);
	pthread_join(c->file_thread, NULL);
	watch_clear(&c->done_watch);
	close(c->done_fd);
	for (int i = 0; i < 3; i++)
		batch_clear(&c->batches[i]);
	buf_clear(&c->scratch);
	buf_clear(&c->owed);
	buf_clear(&c->job.receptions);
	event_writer_close(&c->log);
	store_close(&c->store);
	pthread_mutex_destroy(&c->mutex);
	pthread_cond_destroy(&c->wake);
	mem_free(c);
	*cp = NULL;
}
