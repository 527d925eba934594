/* stats_limits: limits in shared memory: those that queues wait for, then the fullest, as many as
 * there are rows. */
#include <stdio.h>
#include <string.h>

#include "common/base/mem.h"
#include "scheduler/limit_words.h"

/* With very many limits a round takes long, not much: so many are looked at, and written, so far
 * apart. */
#define LIMITS_A_SLICE 256
#define ROWS_A_SLICE   128
#define SLICE_US       100000u
#define QUIET_SLICE_US 500000u /* while nothing happens: only what runs out is less */
#define ROUND_US       1000000u

struct seen {
	uint64_t score;
	struct core_limit_view view;
	char name[STAT_QUEUE_NAME]; /* its own, which the core only lends */
};

/* What stands in the row of a source IP. */
struct of_source {
	bool found;
	enum core_measure measure;
	char limit[64];
	uint64_t used, window_us;
};

struct limit_rows {
	struct timer slice;
	bool in_round, writing;
	uint64_t began_at;
	uint32_t cursor;
	struct seen *seen; /* a heap, the least important first */
	size_t n, cap;
	uint64_t count;
	size_t written, before;           /* rows of this round, of the one before */
	struct of_source *sources, *next; /* of the last whole round, of this one */
	size_t n_sources;
	uint64_t told, untold;
	uint64_t changes; /* of queues, at the last slice */
};

static uint64_t
score_of(const struct core_limit_view *v)
{
	if (v->waiting > 0)
		return (1ull << 40) + v->waiting;
	return v->n == 0 ? 0 : (uint64_t)((double)v->used * 1000000 / (double)v->n);
}

static void
swap(struct limit_rows *r, size_t a, size_t b)
{
	struct seen x = r->seen[a];

	r->seen[a] = r->seen[b];
	r->seen[b] = x;
}

static void
sift_down(struct limit_rows *r, size_t i)
{
	for (;;) {
		size_t least = i;

		for (size_t k = 2 * i + 1; k <= 2 * i + 2 && k < r->n; k++) {
			if (r->seen[k].score < r->seen[least].score)
				least = k;
		}
		if (least == i)
			return;
		swap(r, i, least);
		i = least;
	}
}

static void
sift_up(struct limit_rows *r, size_t i)
{
	while (i > 0 && r->seen[i].score < r->seen[(i - 1) / 2].score) {
		swap(r, i, (i - 1) / 2);
		i = (i - 1) / 2;
	}
}

static void
note_source(struct scheduler *s, const struct core_limit_view *v)
{
	struct limit_rows *r = s->limit_rows;
	struct of_source *of;
	struct limit_words w;

	if (v->scope != CORE_SCOPE_SOURCE || v->source_ip >= r->n_sources)
		return;
	of = &r->next[v->source_ip];
	if (of->found && of->measure <= v->measure)
		return;
	limit_words_short(s, v, &w);
	*of = (struct of_source){
		.found = true, .measure = v->measure, .used = v->used, .window_us = v->window_us
	};
	snprintf(of->limit, sizeof of->limit, "%s %s", w.directive, w.value);
}

static void
on_limit(void *arg, const struct core_limit_view *v)
{
	struct scheduler *s = arg;
	struct limit_rows *r = s->limit_rows;
	struct seen one = { .score = score_of(v), .view = *v };
	void *p = r->seen;

	r->count++;
	note_source(s, v);
	if (r->n == STAT_LIMIT_ROWS && one.score <= r->seen[0].score)
		return;
	str_copy(one.name, sizeof one.name, v->name);
	if (r->n == STAT_LIMIT_ROWS) {
		r->seen[0] = one;
		sift_down(r, 0);
		return;
	}
	mem_grow(&p, &r->cap, r->n + 1, sizeof *r->seen);
	r->seen = p;
	r->seen[r->n] = one;
	sift_up(r, r->n++);
}

static void
write_row(struct scheduler *s, size_t row)
{
	struct seen *x = &s->limit_rows->seen[row];
	struct stat_limit out;
	struct limit_words w;

	memset(&out, 0, sizeof out);
	x->view.name = slice_str(x->name);
	limit_words_short(s, &x->view, &w);
	str_copy(out.scope, sizeof out.scope, slice_str(w.scope));
	str_copy(out.object, sizeof out.object, w.object);
	str_copy(out.sourceIp, sizeof out.sourceIp, slice_str(w.source != NULL ? w.source : ""));
	str_copy(out.name, sizeof out.name, slice_str(w.directive));
	str_copy(out.value, sizeof out.value, slice_str(w.value));
	out.used = x->view.used;
	out.limit = x->view.n;
	out.windowSeconds = x->view.window_us / 1000000u;
	out.refused = x->view.refused;
	out.waiting = x->view.waiting;
	out.nextRoom = x->view.next_room_wall_us;
	stat_put_limit(s->stat, (unsigned)row, &out);
}

static void
round_begin(struct scheduler *s)
{
	struct limit_rows *r = s->limit_rows;
	const struct conf_source_ip *ips;

	r->in_round = true;
	r->writing = false;
	r->began_at = loop_boot_us(s->loop);
	r->cursor = 0;
	r->n = 0;
	r->count = 0;
	r->written = 0;
	mem_free(r->next);
	r->n_sources = conf_source_ips(s->conf, &ips);
	r->next = mem_calloc(r->n_sources, sizeof *r->next);
}

static void
round_end(struct scheduler *s)
{
	static const struct stat_limit none;
	struct limit_rows *r = s->limit_rows;

	for (size_t i = r->n; i < r->before; i++)
		stat_put_limit(s->stat, (unsigned)i, &none);
	r->before = r->n;
	r->told = r->n;
	r->untold = r->count - r->n;
	mem_free(r->sources);
	r->sources = r->next;
	r->next = NULL;
	r->in_round = false;
}

static void
some(void *arg)
{
	struct scheduler *s = arg;
	struct limit_rows *r = s->limit_rows;
	struct core_now now = scheduler_now(s);

	uint64_t changes = stats_changes(s);

	if (!r->writing)
		r->writing =
			!core_each_limit(s->core, &now, &r->cursor, LIMITS_A_SLICE, on_limit, s);
	for (unsigned i = 0; r->writing && i < ROWS_A_SLICE && r->written < r->n; i++)
		write_row(s, r->written++);
	if (r->writing && r->written >= r->n)
		round_end(s);
	else
		timer_set(&r->slice, changes == r->changes ? QUIET_SLICE_US : SLICE_US);
	r->changes = changes;
}

void
stats_limits_tick(struct scheduler *s)
{
	struct limit_rows *r = s->limit_rows;

	if (r->in_round || loop_boot_us(s->loop) - r->began_at < ROUND_US)
		return;
	round_begin(s);
	some(s);
}

void
stats_limits_count(const struct scheduler *s, uint64_t *limits, uint64_t *untold)
{
	*limits = s->limit_rows->told + s->limit_rows->untold;
	*untold = s->limit_rows->untold;
}

void
stats_limits_source(const struct scheduler *s, uint32_t source_ip, struct stat_source *row)
{
	const struct limit_rows *r = s->limit_rows;
	uint64_t now = loop_wall_us(s->loop);
	const struct of_source *of;

	if (r->sources == NULL || source_ip >= r->n_sources || !r->sources[source_ip].found)
		return;
	of = &r->sources[source_ip];
	str_copy(row->limit, sizeof row->limit, slice_str(of->limit));
	row->used = of->used;
	/* The window slides: what counts was charged since. */
	if (of->window_us > 0 && of->used > 0 && of->window_us < now)
		row->windowStart = now - of->window_us;
}

void
stats_limits_reconfigured(struct scheduler *s)
{
	struct limit_rows *r = s->limit_rows;

	/* Source IPs have other numbers: what was gathered by them is void. */
	mem_free(r->sources);
	r->sources = NULL;
	if (!r->in_round)
		return;
	round_begin(s);
	timer_set(&r->slice, SLICE_US); /* also when it is set already */
}

void
stats_limits_open(struct scheduler *s)
{
	s->limit_rows = mem_zalloc(sizeof *s->limit_rows);
	timer_init(&s->limit_rows->slice, s->loop, some, s);
}

void
stats_limits_close(struct scheduler *s)
{
	if (s->limit_rows == NULL)
		return;
	timer_clear(&s->limit_rows->slice);
	mem_free(s->limit_rows->seen);
	mem_free(s->limit_rows->sources);
	mem_free(s->limit_rows->next);
	mem_free(s->limit_rows);
	s->limit_rows = NULL;
}
