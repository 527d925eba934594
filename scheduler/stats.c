/* stats: what the scheduler shows in shared memory: totals, rows of queues with traffic, source
 * IPs.
 *
 * A queue's row is written when something about it changed: with very many queues that wait, those
 * cost nothing. What passes by itself is the number of recipients in the last minute, for which the
 * queue is looked at again as long as it is not 0, and times, which readers compare with their own
 * clock. */
#include <string.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/backoff_rows.h"
#include "scheduler/quarantine.h"
#include "scheduler/state.h"

/* Rows are written in slices; when many changed it takes several, this far apart. */
#define QUEUES_A_SLICE 512
#define SLICE_US       20000u
#define TURN_WINDOW_US 10000000u
/* Rates of the last minute are looked at again. */
#define WARM_EVERY_US 10000000u
/* The wall clock was set, or has drifted so far: all times are written anew. */
#define WALL_STEP_US 500000

/* Of a queue. */
struct shown {
	uint32_t row; /* + 1; 0: none, UNTOLD: it should have one */
	bool warm;    /* in warm[] */
};
#define UNTOLD UINT32_MAX

struct stat_rows {
	struct shown *of; /* by queue number */
	size_t cap;
	uint32_t used; /* rows */
	struct timer slice;
	bool busy; /* more is to be written: the timer runs */
	bool all;  /* each queue, from `cursor` on */
	uint32_t cursor;
	uint32_t *warm; /* queues that sent within the last minute */
	size_t n_warm, cap_warm;
	size_t warm_left; /* of them are to be looked at, those before this one */
	uint64_t warm_at;
	uint64_t shift; /* wall clock less boot clock, of the times that are written */
	uint64_t untold;
	uint64_t changed;                 /* queues that did, counted up */
	struct loop_turn longest, before; /* turn in this window, and in the one before */
	uint64_t window_at;
	size_t source_rows; /* written the last time */
};

static struct shown *
shown_of(struct stat_rows *r, uint32_t queue)
{
	void *p = r->of;
	size_t before = r->cap;

	mem_grow(&p, &r->cap, (size_t)queue + 1, sizeof *r->of);
	r->of = p;
	if (r->cap > before)
		memset(r->of + before, 0, (r->cap - before) * sizeof *r->of);
	return &r->of[queue];
}

void
stats_renumber(struct scheduler *s, uint32_t queue, uint32_t number)
{
	uint32_t row;

	if (s->stat_rows == NULL)
		return;
	row = shown_of(s->stat_rows, queue)->row;
	shown_of(s->stat_rows, queue)->row = 0;
	shown_of(s->stat_rows, number)->row = row;
}

static void
fill_row(struct scheduler *s, struct stat_queue *q, const struct core_queue_view *v)
{
	const struct backoff_row *row = backoff_of(s, v->number);

	memset(q, 0, sizeof *q);
	str_copy(q->name, sizeof q->name, v->name);
	str_copy(q->mode, sizeof q->mode, slice_str(row != NULL ? "backoff" : "normal"));
	if (row != NULL)
		str_copy(q->backoffReason, sizeof q->backoffReason, slice_str(row->reason));
	q->paused = v->paused;
	q->rcp = v->rcpts;
	q->kb = v->kbytes;
	q->conn = v->connections;
	q->msgRate = v->msg_rate;
	q->attempted = v->attempted;
	q->delivered = v->delivered;
	q->transient = v->transient;
	q->bounced = v->bounced;
	q->nextDue = v->wait == CORE_WAIT_NONE ? 0 : v->until_wall_us;
}

/* Whether it has a row: one with traffic since the start, paused or in back-off, as long as there are rows. */
static bool
take_row(struct stat_rows *r, struct shown *sh, const struct core_queue_view *v)
{
	bool wanted = v->rcpts > 0 || v->connections > 0 || v->attempted > 0 || v->paused ||
		      v->backoff;

	if (sh->row != 0 && sh->row != UNTOLD)
		return true;
	if (wanted && r->used < STAT_QUEUE_ROWS) {
		r->untold -= sh->row == UNTOLD;
		sh->row = ++r->used;
		return true;
	}
	r->untold += wanted;
	r->untold -= sh->row == UNTOLD;
	sh->row = wanted ? UNTOLD : 0;
	return false;
}

static void
keep_warm(struct stat_rows *r, struct shown *sh, uint32_t queue)
{
	void *p = r->warm;

	if (sh->warm)
		return;
	mem_grow(&p, &r->cap_warm, r->n_warm + 1, sizeof *r->warm);
	r->warm = p;
	r->warm[r->n_warm++] = queue;
	sh->warm = true;
}

static void
on_queue(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;
	struct stat_queue q;
	struct shown *sh = shown_of(s->stat_rows, queue);

	if (!core_queue_view(s->core, &now, queue, &v) || !take_row(s->stat_rows, sh, &v))
		return;
	fill_row(s, &q, &v);
	stat_put_queue(s->stat, sh->row - 1, &q);
	if (v.msg_rate > 0)
		keep_warm(s->stat_rows, sh, queue);
}

static void
on_change(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;

	s->stat_rows->changed++;
	on_queue(s, queue);
}

/* Behind the addresses: those that are disabled for some queues. The number of rows. */
static size_t
put_disabled(struct scheduler *s, size_t rows)
{
	const struct override *of;

	for (size_t i = 0; (of = overrides_at(s->overrides, i)) != NULL && rows < STAT_SOURCE_ROWS;
	     i++) {
		struct stat_source row = { .disabled = 1, .worker = STAT_NONE };

		if (of->source == NULL || overrides_all_queues(of))
			continue;
		str_copy(row.ip, sizeof row.ip, slice_str(of->source));
		str_copy(row.queue, sizeof row.queue, slice_str(of->object));
		stat_put_source(s->stat, (unsigned)rows++, &row);
	}
	return rows;
}

static void
put_sources(struct scheduler *s)
{
	static const struct stat_source none;
	struct core_now now = scheduler_now(s);
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips), rows;

	for (size_t i = 0; i < n && i < STAT_SOURCE_ROWS; i++) {
		struct core_source_view v;
		struct stat_source row;

		core_source_view(s->core, &now, (uint32_t)i, &v);
		if (i == 0 && v.attempted == 0 && v.connections == 0)
			continue; /* the kernel's choice is not in use */
		memset(&row, 0, sizeof row);
		str_copy(row.ip, sizeof row.ip, slice_str(i == 0 ? "any" : ips[i].text));
		row.conn = v.connections;
		row.attempted = v.attempted;
		row.delivered = v.delivered;
		row.msgRate = v.msg_rate;
		row.connectRate = v.connect_rate;
		row.worker = v.worker < 0 ? STAT_NONE : (uint64_t)v.worker;
		row.disabled = overrides_disabled_for_all(s->overrides, slice_str(ips[i].text));
		stats_limits_source(s, (uint32_t)i, &row);
		stat_put_source(s->stat, (unsigned)i, &row);
	}
	rows = put_disabled(s, n < STAT_SOURCE_ROWS ? n : STAT_SOURCE_ROWS);
	for (size_t i = rows; i < s->stat_rows->source_rows; i++)
		stat_put_source(s->stat, (unsigned)i, &none);
	s->stat_rows->source_rows = rows;
}

void
stats_outcomes(const struct scheduler *s, uint64_t *delivered, uint64_t *bounced)
{
	struct core_totals t;

	/* What the core gives up it counts as bounced. */
	core_totals(s->core, &t);
	*delivered = t.delivered + s->discarded;
	*bounced = t.bounced - s->discarded - s->totals.expired - s->kept_back;
}

static void
put_longest_turn(struct scheduler *s, struct stat_totals *t)
{
	struct stat_rows *r = s->stat_rows;
	uint64_t now = loop_boot_us(s->loop);
	struct loop_turn turn = loop_longest(s->loop);

	if (now - r->window_at >= TURN_WINDOW_US) {
		r->before = r->longest;
		r->longest = (struct loop_turn){ 0, 0 };
		r->window_at = now;
	}
	if (turn.us > r->longest.us)
		r->longest.us = turn.us;
	if (turn.cpu_us > r->longest.cpu_us)
		r->longest.cpu_us = turn.cpu_us;
	t->loop_turn_us_max = r->longest.us > r->before.us ? r->longest.us : r->before.us;
	t->loop_cpu_us_max =
		r->longest.cpu_us > r->before.cpu_us ? r->longest.cpu_us : r->before.cpu_us;
}

static void
put_totals(struct scheduler *s)
{
	struct stat_totals t = s->totals;
	struct committer_counts c;
	struct segments_counts g;
	struct compaction_counts m;
	struct core_totals k;

	core_totals(s->core, &k);
	committer_counts(s->committer, &c);
	t.queued_rcpt = k.queued_rcpts;
	t.queued_entries = k.queued_entries;
	t.queued_kbytes = k.queued_kbytes;
	t.queues = k.queues_with_mail;
	t.queues_untold = s->stat_rows->untold;
	t.attempted = k.attempted;
	stats_outcomes(s, &t.delivered, &t.bounced);
	t.quarantined = quarantine_counts(s).rcpts;
	t.transient = k.transient;
	t.connections = k.connections;
	t.connect_attempts = k.connect_attempts;
	t.connect_failed = k.connect_failed;
	t.commits = c.commits;
	t.commit_us = c.commit_us;
	t.events = c.events;
	t.store_fill = store_fill_percent(s->store);
	t.names = names_count(s->names);
	stats_limits_count(s, &t.limits, &t.limits_untold);
	put_longest_turn(s, &t);
	segments_counts(s->segments, &g);
	t.segments = g.files;
	t.segments_free = g.unused;
	t.segments_thin = g.thin;
	compaction_counts(s->compaction, &m);
	t.segments_moved = m.segments;
	t.records_moved = m.records;
	t.moved_bytes = m.bytes;
	stat_put_totals(s->stat, &t);
}

/* Those that sent: what they did becomes less by itself. */
static void
put_warm_rows(struct scheduler *s, unsigned most)
{
	struct stat_rows *r = s->stat_rows;

	for (; most > 0 && r->warm_left > 0; most--) {
		uint32_t queue = r->warm[--r->warm_left];

		r->of[queue].warm = false;
		r->warm[r->warm_left] = r->warm[--r->n_warm];
		on_queue(s, queue); /* comes back, behind those that are left */
	}
}

/* True: there is more. */
static bool
put_changed_rows(struct scheduler *s)
{
	struct stat_rows *r = s->stat_rows;

	if (core_each_changed(s->core, QUEUES_A_SLICE, on_change, s))
		return true;
	put_warm_rows(s, QUEUES_A_SLICE);
	if (r->all)
		r->all = core_each_queue(s->core, &r->cursor, QUEUES_A_SLICE, on_queue, s);
	return r->all || r->warm_left > 0;
}

static void
put_some_rows(void *arg)
{
	struct scheduler *s = arg;
	struct stat_rows *r = s->stat_rows;

	r->busy = put_changed_rows(s);
	if (r->busy)
		timer_set(&r->slice, SLICE_US);
}

/* What has become old by itself. */
static void
note_age(struct scheduler *s)
{
	struct stat_rows *r = s->stat_rows;
	struct core_now now = scheduler_now(s);
	int64_t step = (int64_t)(now.wall_us - now.boot_us - r->shift);

	if (now.boot_us / WARM_EVERY_US != r->warm_at / WARM_EVERY_US) {
		r->warm_at = now.boot_us;
		r->warm_left = r->n_warm;
	}
	if (step > -WALL_STEP_US && step < WALL_STEP_US)
		return;
	r->shift = now.wall_us - now.boot_us;
	r->all = true;
	r->cursor = 0;
}

uint64_t
stats_changes(const struct scheduler *s)
{
	return s->stat_rows->changed;
}

void
stats_tick(struct scheduler *s)
{
	struct stat_rows *r = s->stat_rows;

	if (s->stat == NULL)
		return;
	stat_beat(s->stat, loop_boot_us(s->loop), s->draining ? STAT_DRAINING : STAT_RUNNING);
	put_totals(s);
	put_sources(s);
	note_age(s);
	if (!r->busy)
		put_some_rows(s);
	stats_limits_tick(s);
}

void
stats_reconfigured(struct scheduler *s)
{
	if (s->stat == NULL)
		return;
	stat_header(s->stat)->generation = proc_heritage(s->proc)->conf_generation;
	stats_limits_reconfigured(s);
	put_sources(s);
}

int
stats_open(struct scheduler *s)
{
	int rc = stat_create(&s->stat, conf_global(s->conf)->run, STAT_SCHEDULER, 0);

	if (rc != 0)
		return rc;
	s->stat_rows = mem_zalloc(sizeof *s->stat_rows);
	timer_init(&s->stat_rows->slice, s->loop, put_some_rows, s);
	stats_limits_open(s);
	stat_header(s->stat)->generation = proc_heritage(s->proc)->conf_generation;
	return 0;
}

void
stats_close(struct scheduler *s)
{
	stats_limits_close(s);
	stat_close(&s->stat);
	if (s->stat_rows != NULL) {
		timer_clear(&s->stat_rows->slice);
		mem_free(s->stat_rows->of);
		mem_free(s->stat_rows->warm);
		mem_free(s->stat_rows);
	}
	s->stat_rows = NULL;
}
