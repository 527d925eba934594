/* world: what the simulator knows of its world by itself, and the rules that every decision of the
 * core has to keep, checked in the ops. One translation unit includes it (tests/tools/sim.c). */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/event_log/event.h"
#include "scheduler/core/core.h"

#define QUEUES  7
#define ENTRIES 96
#define CONNS   CORE_CONNECTIONS_MAX
#define CLAIMS  512
#define WORKERS 3
#define SOURCES 5
#define STREAM  4096
#define SECOND  1000000ull

enum fate { ALIVE, DELIVERED, BOUNCED, GIVEN_UP, WITHDRAWN };

struct model_entry {
	bool used, held, claimed, leaving;
	uint32_t index; /* in the core */
	unsigned queue, n_rcpts;
	uint32_t received_s; /* boot seconds */
	uint64_t message;
	uint32_t row_received_s, due_s; /* its row */
	uint16_t attempts;
	uint8_t row_flags;
	enum fate fate[8];
};
struct model_conn {
	bool opening, open, closing;
	unsigned queue, worker;
	uint64_t stamp;
};
struct model_claim {
	bool used;
	uint64_t lease;
	uint32_t entry, conn;
	unsigned slot, worker;
	uint8_t bits;
	uint64_t stamp;
};
struct stream {
	uint64_t stamp[STREAM];
	unsigned n;
};
struct model_queue {
	struct conf_queue settings;
	struct stream msgs, connects;
	unsigned conns;
	uint64_t attempted;
	bool asked, paused;
};

struct world {
	uint64_t rng, seed;
	struct core *core;
	struct core_now now;
	uint64_t next_message, total_max;
	struct model_queue queues[QUEUES];
	struct model_entry entries[ENTRIES];
	struct model_conn conns[CONNS];
	struct model_claim claims[CLAIMS];
	bool up[WORKERS];
	unsigned n_conns, room[WORKERS];
	bool restarted; /* counters began anew */
	bool calm;      /* no more faults: everything must get done */
	unsigned conf;  /* which of the configurations */
	unsigned burst; /* messages at one go, of which most are for one queue */
	uint64_t grants, opens, done, steps;
};

static struct world w;

#define HOLDS(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "violation: seed %llu step %llu: %s (line %d)\n",          \
				(unsigned long long)w.seed, (unsigned long long)w.steps, #cond,    \
				__LINE__);                                                         \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static uint64_t
rnd(void)
{
	w.rng ^= w.rng >> 12;
	w.rng ^= w.rng << 25;
	w.rng ^= w.rng >> 27;
	return w.rng * 2685821657736338717ull;
}

static unsigned
below(unsigned n)
{
	return (unsigned)((rnd() >> 33) % n);
}

static bool
percent(unsigned p)
{
	return below(100) < p;
}

/* Limits, as one sees them from outside ------------------------------------------------------ */
static void
stream_add(struct stream *s, const struct conf_rate *r, uint64_t now)
{
	unsigned in_window = 0, in_tenth = 0;
	uint64_t share = r->n / 5 ? r->n / 5 : 1;

	if (s->n == STREAM) {
		memmove(s->stamp, s->stamp + STREAM / 2, sizeof(s->stamp) / 2);
		s->n = STREAM / 2;
	}
	s->stamp[s->n++] = now;
	if (r->n == 0)
		return;
	for (unsigned i = s->n; i-- > 0 && s->stamp[i] + r->window_us >= now;) {
		in_window++;
		in_tenth += s->stamp[i] + r->window_us / 10 >= now;
	}
	HOLDS(in_window <= r->n);
	HOLDS(in_tenth <= share);
}

static void
stream_take(struct stream *s, uint64_t stamp, unsigned k)
{
	for (unsigned i = s->n; i-- > 0 && k > 0;) {
		if (s->stamp[i] != stamp)
			continue;
		memmove(&s->stamp[i], &s->stamp[i + 1], (s->n - i - 1) * sizeof(s->stamp[0]));
		s->n--;
		k--;
	}
}

/* Decisions of the core ---------------------------------------------------------------------- */
static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	return &w.queues[queue].settings;
}

static void
op_ask(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	w.queues[queue].asked = true;
}

static void
op_open(void *ctx, const struct core_open *o)
{
	struct model_queue *q = &w.queues[o->queue];
	struct model_conn *cn = &w.conns[o->connection];

	(void)ctx;
	HOLDS(!cn->opening && !cn->open && !cn->closing);
	HOLDS(w.up[o->worker] && o->source_ip < SOURCES);
	HOLDS(!q->paused);
	*cn = (struct model_conn){
		.opening = true, .queue = o->queue, .worker = o->worker, .stamp = w.now.boot_us
	};
	HOLDS(++q->conns <= q->settings.max_smtp_out);
	HOLDS(++w.n_conns <= w.total_max);
	stream_add(&q->connects, &q->settings.max_connect_rate, w.now.boot_us);
	w.opens++;
}

static struct model_entry *
entry_of(uint32_t index)
{
	for (unsigned i = 0; i < ENTRIES; i++) {
		if (w.entries[i].used && w.entries[i].index == index)
			return &w.entries[i];
	}
	HOLDS(!"an entry that is not there");
	return NULL;
}

static bool
op_work(void *ctx, const struct core_work *k)
{
	struct model_entry *e = entry_of(k->entry);
	struct model_queue *q = &w.queues[k->queue];
	unsigned i, n = 0;

	(void)ctx;
	HOLDS(w.conns[k->connection].open && w.conns[k->connection].queue == k->queue);
	HOLDS(w.up[k->worker] && w.conns[k->connection].worker == k->worker);
	HOLDS(!e->claimed && !e->held && !e->leaving && e->queue == k->queue && !q->paused);
	HOLDS(k->n_rcpts == e->n_rcpts);
	if (w.room[k->worker] == 0)
		return false;
	for (i = 0; i < CLAIMS && w.claims[i].used; i++)
		;
	HOLDS(i < CLAIMS);
	for (unsigned r = 0; r < 8; r++) {
		if (!(k->attempt_bits[0] >> r & 1))
			continue;
		HOLDS(r < e->n_rcpts && e->fate[r] == ALIVE);
		stream_add(&q->msgs, &q->settings.max_msg_rate, w.now.boot_us);
		n++;
	}
	q->attempted += n;
	HOLDS(n == k->n_attempt && n > 0 && n <= q->settings.max_rcpt_per_transaction);
	HOLDS(k->granted_boot_us == w.now.boot_us);
	for (unsigned j = 0; j < CLAIMS; j++)
		HOLDS(!w.claims[j].used ||
		      (w.claims[j].entry != k->entry && w.claims[j].conn != k->connection));
	w.claims[i] = (struct model_claim){ true,
					    k->lease,
					    k->entry,
					    k->connection,
					    (unsigned)(e - w.entries),
					    k->worker,
					    k->attempt_bits[0],
					    k->granted_boot_us };
	e->claimed = true;
	w.room[k->worker]--;
	w.grants++;
	return true;
}

static void
op_close(void *ctx, uint32_t connection, unsigned worker)
{
	struct model_conn *cn = &w.conns[connection];

	(void)ctx;
	HOLDS(cn->open && !cn->closing && cn->worker == worker);
	cn->open = false;
	cn->closing = true;
}

static void
op_give_up(void *ctx, uint32_t entry, enum core_give_up why, const char *text)
{
	struct model_entry *e = entry_of(entry);
	struct conf_queue *s = &w.queues[e->queue].settings;

	(void)ctx;
	HOLDS(text != NULL);
	HOLDS(!e->claimed && !e->leaving);
	if (why == CORE_EXPIRED)
		HOLDS((int64_t)(w.now.boot_us / SECOND) + 2 >=
		      (int64_t)(int32_t)e->received_s + (int64_t)(s->bounce_after_us / SECOND));
	for (unsigned r = 0; r < e->n_rcpts; r++) {
		if (e->fate[r] == ALIVE)
			e->fate[r] = GIVEN_UP;
	}
	e->leaving = true;
}

static void
op_changed(void *ctx, uint32_t queue)
{
	(void)ctx;
	HOLDS(queue < QUEUES);
}

static const struct core_ops ops = { .settings = op_settings,
				     .ask_route = op_ask,
				     .open = op_open,
				     .work = op_work,
				     .close = op_close,
				     .give_up = op_give_up,
				     .queue_changed = op_changed };
