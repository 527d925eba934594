/* world: what the simulator knows of its world by itself, and the rules that every decision of the
 * core has to keep, checked in the ops. One translation unit includes it (tests/tools/sim.c). */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/event_log/event.h"
#include "scheduler/core/core.h"
#include "scheduler/core/recover.h"
#include "tests/lib/chance.h"

#define QUEUES  7
#define ENTRIES 96
#define CONNS   CORE_CONNECTIONS_MAX
#define CLAIMS  512
#define WORKERS 3
#define SOURCES 5
#define STREAM  4096
#define VMTAS   3
#define PROVS   3
#define TAGS    3 /* jobs, sender domains */
#define HOSTS   3 /* MX names; as many destinations */
#define KEPT    4096 /* limits whose charges outlive the core */
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
	unsigned kbytes, job, sender;
};
struct stream {
	uint64_t stamp[STREAM];
	uint64_t amount[STREAM]; /* of volumes */
	unsigned n;
};
/* One object that has limits, and what it was seen to use. */
struct model_limits {
	struct conf_limits l;
	struct stream msgs, connects, bytes;
	unsigned conns;
};
/* Those that one decision falls in. */
#define SCOPES_MAX 16
struct model_scopes {
	struct model_limits *of[SCOPES_MAX];
	unsigned n;
};
struct model_conn {
	bool opening, open, closing, pipelining;
	unsigned queue, worker, source;
	uint64_t stamp;
	struct model_scopes tags; /* whose connect rates it is charged to */
	struct model_scopes scopes;
	struct model_limits *mx, *ip; /* NULL: none */
};
struct model_claim {
	bool used, adopted;
	uint64_t lease;
	uint32_t entry, conn;
	unsigned slot, worker;
	uint8_t bits;
	uint64_t stamp;
	bool one_by_one;
	uint8_t asked, refused; /* bits */
	uint64_t stamps[8];
	uint64_t bytes;
	struct model_scopes scopes;
};
struct model_queue {
	struct conf_queue settings;
	struct model_limits own;
	struct model_limits at[SOURCES]; /* queue x source IP */
	struct conf_limits at_normal[SOURCES], at_backoff[SOURCES];
	struct model_limits held[SOURCES]; /* the queue's twins, in back-off for the source IP */
	struct model_backoff {
		bool on, over, after_delivery, automatic, only;
		uint64_t until, ended, first_lease;
		struct conf_recover how;
		unsigned sources; /* bits */
		uint64_t probe_us, probe_at;
	} whole, by_source[SOURCES];
	uint64_t disabled_until[SOURCES]; /* by hand or by a reply; 0: it may be used */
	bool entered; /* ever */
	uint64_t attempted;
	bool asked, paused;
	int provider; /* -1: none */
	uint64_t provider_until[PROVS];
	struct core_target_limits hosts[8]; /* of its route */
};
/* Memory of charges. */
struct kept {
	struct core_charge_key key;
	void *memory;
	size_t bytes;
	bool taken; /* by the present core */
};

struct world {
	uint64_t rng, seed;
	struct core *core;
	struct core_now now;
	int64_t wall_shift; /* as the core has seen it */
	uint64_t next_message, total_max;
	struct model_queue queues[QUEUES];
	uint32_t room_to_move;
	struct model_entry entries[ENTRIES];
	struct model_conn conns[CONNS];
	struct model_claim claims[CLAIMS];
	bool up[WORKERS];
	unsigned n_conns, room[WORKERS];
	bool restarted; /* counters began anew */
	bool calm;      /* no more faults: everything must get done */
	unsigned conf;  /* which of the configurations */
	unsigned burst; /* messages at one go, of which most are for one queue */
	unsigned scope; /* that is being charged: where a violation is */
	bool keeps; /* charges outlive the core */
	uint64_t disabled_until[SOURCES]; /* for all queues */
	struct model_limits sources[SOURCES], vmtas[VMTAS], provs[PROVS], jobs[TAGS], senders[TAGS];
	struct model_limits mx[HOSTS][SOURCES], ip[HOSTS];
	struct kept kept[KEPT];
	unsigned n_kept;
	struct conf_source_ip source_ips[SOURCES];
	uint64_t grants, opens, done, steps;
};

static struct world w;

#define HOLDS(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "violation: seed %llu step %llu: %s (line %d, scope %u)\n", \
				(unsigned long long)w.seed, (unsigned long long)w.steps, #cond,    \
				__LINE__, w.scope);                                                         \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static uint64_t
rnd(void)
{
	return chance_next(&w.rng);
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
stream_put(struct stream *s, uint64_t now, uint64_t amount)
{
	if (s->n == STREAM) {
		memmove(s->stamp, s->stamp + STREAM / 2, sizeof(s->stamp) / 2);
		memmove(s->amount, s->amount + STREAM / 2, sizeof(s->amount) / 2);
		s->n = STREAM / 2;
	}
	s->stamp[s->n] = now;
	s->amount[s->n++] = amount;
}

static void
stream_add(struct stream *s, const struct conf_rate *r, uint64_t now)
{
	unsigned in_window = 0, in_tenth = 0;
	uint64_t share = r->n / 5 ? r->n / 5 : 1;

	stream_put(s, now, 1);
	if (r->n == 0)
		return;
	for (unsigned i = s->n; i-- > 0 && s->stamp[i] + r->window_us >= now;) {
		in_window++;
		in_tenth += s->stamp[i] + r->window_us / 10 >= now;
	}
	HOLDS(in_window <= r->n);
	HOLDS(in_tenth <= share);
}

/* Bytes: what is larger than N goes alone. */
static void
stream_add_bytes(struct stream *s, const struct conf_rate *r, uint64_t now, uint64_t bytes)
{
	uint64_t others = 0, others_in_tenth = 0;

	for (unsigned i = s->n; r->n && i-- > 0 && s->stamp[i] + r->window_us >= now;) {
		others += s->amount[i];
		if (s->stamp[i] + r->window_us / 10 >= now)
			others_in_tenth += s->amount[i];
	}
	stream_put(s, now, bytes);
	if (r->n == 0)
		return;
	HOLDS(others == 0 || others + bytes <= r->n);
	HOLDS(others_in_tenth == 0 || others_in_tenth + bytes <= (r->n / 5 ? r->n / 5 : 1));
}

static void
stream_drop(struct stream *s, unsigned i)
{
	memmove(&s->stamp[i], &s->stamp[i + 1], (s->n - i - 1) * sizeof(s->stamp[0]));
	memmove(&s->amount[i], &s->amount[i + 1], (s->n - i - 1) * sizeof(s->amount[0]));
	s->n--;
}

static void
stream_take(struct stream *s, uint64_t stamp, unsigned k)
{
	for (unsigned i = s->n; i-- > 0 && k > 0;) {
		if (s->stamp[i] != stamp)
			continue;
		stream_drop(s, i);
		k--;
	}
}

static void
stream_take_bytes(struct stream *s, uint64_t stamp, uint64_t bytes)
{
	for (unsigned i = s->n; i-- > 0 && bytes > 0;) {
		uint64_t k = s->amount[i] < bytes ? s->amount[i] : bytes;

		if (s->stamp[i] != stamp)
			continue;
		s->amount[i] -= k;
		bytes -= k;
		if (s->amount[i] == 0)
			stream_drop(s, i);
	}
}

static void
scopes_add(struct model_scopes *s, struct model_limits *l)
{
	HOLDS(s->n < SCOPES_MAX);
	s->of[s->n++] = l;
}

/* Source IPs by what they are, not by the number that the configuration of now gives them. */
static unsigned
physical(unsigned source)
{
	return w.conf && source == 3 ? 4 : w.conf && source == 4 ? 3 : source;
}

/* What everything of a queue from a source IP falls in. */
static struct model_scopes
scopes_of(unsigned queue, unsigned source)
{
	struct model_queue *q = &w.queues[queue];
	struct model_scopes s = { .n = 0 };

	scopes_add(&s, &q->own);
	scopes_add(&s, &q->at[source]);
	scopes_add(&s, &q->held[source]);
	scopes_add(&s, &w.sources[source]);
	scopes_add(&s, &w.vmtas[queue % VMTAS]);
	for (int p = 0; p < PROVS; p++) {
		if (p == q->provider || w.now.boot_us < q->provider_until[p])
			scopes_add(&s, &w.provs[p]);
	}
	return s;
}

static void
use_msg(const struct model_scopes *s, uint64_t now)
{
	for (unsigned i = 0; i < s->n; i++, w.scope++)
		stream_add(&s->of[i]->msgs, &s->of[i]->l.max_msg_rate, now);
	w.scope = 0;
}

static void
unuse_msg(const struct model_scopes *s, uint64_t stamp, unsigned k)
{
	for (unsigned i = 0; i < s->n; i++)
		stream_take(&s->of[i]->msgs, stamp, k);
}

static void
use_bytes(const struct model_scopes *s, uint64_t now, uint64_t bytes)
{
	for (unsigned i = 0; i < s->n; i++, w.scope++)
		stream_add_bytes(&s->of[i]->bytes, &s->of[i]->l.max_data_volume_rate, now, bytes);
	w.scope = 0;
}

static void
unuse_bytes(const struct model_scopes *s, uint64_t stamp, uint64_t bytes)
{
	for (unsigned i = 0; i < s->n; i++)
		stream_take_bytes(&s->of[i]->bytes, stamp, bytes);
}

static void
use_count(struct model_limits *l)
{
	if (!l)
		return;
	l->conns++;
	HOLDS(l->l.max_smtp_out == 0 || l->conns <= l->l.max_smtp_out);
}

static void
unuse_count(struct model_limits *l)
{
	if (l && l->conns > 0)
		l->conns--;
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

/* What is disabled, or not named for back-off, is not used. */
static void
check_source(unsigned queue, uint32_t number)
{
	const struct model_queue *q = &w.queues[queue];
	unsigned source = physical(number);

	HOLDS(!q->whole.on || q->whole.over || !q->whole.only || q->whole.sources >> source & 1);
	HOLDS(q->disabled_until[source] <= w.now.boot_us);
	HOLDS(w.disabled_until[source] <= w.now.boot_us);
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
	check_source(o->queue, o->source_ip);
	*cn = (struct model_conn){ .opening = true,
				   .queue = o->queue,
				   .worker = o->worker,
				   .source = physical(o->source_ip),
				   .stamp = w.now.boot_us };
	HOLDS(++w.n_conns <= w.total_max);
	cn->scopes = scopes_of(o->queue, physical(o->source_ip));
	for (unsigned i = 0; i < cn->scopes.n; i++, w.scope++) {
		struct model_limits *l = cn->scopes.of[i];

		stream_add(&l->connects, &l->l.max_connect_rate, w.now.boot_us);
		use_count(l);
	}
	w.scope = 0;
	if (o->job)
		scopes_add(&cn->tags, &w.jobs[o->job - 1]);
	if (o->sender_domain)
		scopes_add(&cn->tags, &w.senders[o->sender_domain - 1]);
	for (unsigned i = 0; i < cn->tags.n; i++)
		stream_add(&cn->tags.of[i]->connects, &cn->tags.of[i]->l.max_connect_rate,
			   w.now.boot_us);
	if (o->target < 8) {
		const struct core_target_limits *t = &q->hosts[o->target];

		cn->mx = t->mx_limit ? &w.mx[t->mx_id - 1][physical(o->source_ip)] : NULL;
		cn->ip = t->ip_limit ? &w.ip[t->ip_id - 1] : NULL;
	}
	use_count(cn->mx);
	use_count(cn->ip);
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

static void take_mode(unsigned queue);

static bool
op_work(void *ctx, const struct core_work *k)
{
	struct model_entry *e = entry_of(k->entry);
	struct model_queue *q = &w.queues[k->queue];
	unsigned i, n = 0;

	(void)ctx;
	take_mode(k->queue);
	check_source(k->queue, k->source_ip);
	HOLDS(w.conns[k->connection].open && w.conns[k->connection].queue == k->queue);
	HOLDS(w.up[k->worker] && w.conns[k->connection].worker == k->worker);
	HOLDS(!e->claimed && !e->held && !e->leaving && e->queue == k->queue && !q->paused);
	/* What is on its way to another queue is not sent from the old one. */
	HOLDS(core_redirected(w.core, k->queue) == k->queue);
	HOLDS(k->n_rcpts == e->n_rcpts);
	if (w.room[k->worker] == 0)
		return false;
	if (q->whole.on && !q->whole.over && q->whole.probe_us) {
		HOLDS(q->whole.probe_at <= w.now.boot_us);
		q->whole.probe_at = w.now.boot_us + q->whole.probe_us;
	}
	for (i = 0; i < CLAIMS && w.claims[i].used; i++)
		;
	HOLDS(i < CLAIMS);
	struct model_scopes scopes = scopes_of(k->queue, physical(k->source_ip));

	HOLDS(physical(k->source_ip) == w.conns[k->connection].source);
	scopes_add(&scopes, &w.jobs[e->job]);
	scopes_add(&scopes, &w.senders[e->sender]);
	for (unsigned r = 0; r < 8; r++) {
		if (!(k->attempt_bits[0] >> r & 1))
			continue;
		HOLDS(r < e->n_rcpts && e->fate[r] == ALIVE);
		if (!k->ask)
			use_msg(&scopes, w.now.boot_us);
		n++;
	}
	use_bytes(&scopes, w.now.boot_us, e->kbytes ? e->kbytes * 1024 : 1);
	use_count(&w.jobs[e->job]);
	use_count(&w.senders[e->sender]);
	HOLDS(!k->ask || !w.conns[k->connection].pipelining);
	if (!k->ask)
		q->attempted += n;
	HOLDS(n == k->n_attempt && n > 0 && n <= q->settings.max_rcpt_per_transaction);
	HOLDS(k->granted_boot_us == w.now.boot_us);
	for (unsigned j = 0; j < CLAIMS; j++)
		HOLDS(!w.claims[j].used ||
		      (w.claims[j].entry != k->entry && w.claims[j].conn != k->connection));
	w.claims[i] = (struct model_claim){ .used = true,
					    .lease = k->lease,
					    .entry = k->entry,
					    .conn = k->connection,
					    .slot = (unsigned)(e - w.entries),
					    .worker = k->worker,
					    .bits = k->attempt_bits[0],
					    .stamp = k->granted_boot_us,
					    .one_by_one = k->ask,
					    .bytes = e->kbytes ? e->kbytes * 1024 : 1,
					    .scopes = scopes };
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
op_moved(void *ctx, uint32_t entry)
{
	struct model_entry *e = entry_of(entry);
	struct core_entry_facts f;

	(void)ctx;
	core_entry_get(w.core, entry, &f);
	HOLDS(e->used && !e->claimed && !e->leaving && f.queue < QUEUES && w.room_to_move > 0);
	HOLDS(f.queue == core_redirected(w.core, e->queue));
	w.room_to_move--;
	e->queue = f.queue;
}

static void
op_changed(void *ctx, uint32_t queue)
{
	(void)ctx;
	HOLDS(queue < QUEUES);
}

/* What holds in the queue's mode of now, by its timers too: those pass before anything is granted. */
static void
take_mode(unsigned queue)
{
	struct model_queue *q = &w.queues[queue];
	const struct conf_queue *s = &q->settings;
	bool twins = q->whole.on && !q->whole.over;
	uint64_t left, out = s->backoff.max_smtp_out;

	q->own.l = (struct conf_limits){ .max_msg_rate = s->max_msg_rate,
					 .max_connect_rate = s->max_connect_rate,
					 .max_smtp_out = s->max_smtp_out };
	if (twins && s->backoff.max_msg_rate.n && !q->whole.automatic)
		q->own.l.max_msg_rate = s->backoff.max_msg_rate;
	if (twins && s->backoff.max_connect_rate.n)
		q->own.l.max_connect_rate = s->backoff.max_connect_rate;
	if (twins && out)
		q->own.l.max_smtp_out = out;
	if (q->whole.on && q->whole.over && s->max_msg_rate.n) {
		uint64_t since = w.now.wall_us > q->whole.ended ? w.now.wall_us - q->whole.ended : 0;
		unsigned percent_now = recover_percent(&q->whole.how, since, &left);
		uint64_t n = s->max_msg_rate.n * percent_now / 100;

		q->own.l.max_msg_rate.n = n ? n : 1;
	}
	for (unsigned i = 0; i < SOURCES; i++) {
		bool here = q->by_source[i].on;

		q->at[i].l = twins || here ? q->at_backoff[i] : q->at_normal[i];
		for (unsigned k = 0; k < 2; k++) {
			struct conf_rate *r = k ? &q->at[i].l.max_connect_rate : &q->at[i].l.max_msg_rate;
			const struct conf_limits *n = &q->at_normal[i];

			if (r->n == 0)
				*r = k ? n->max_connect_rate : n->max_msg_rate;
		}
		if (q->at[i].l.max_data_volume_rate.n == 0)
			q->at[i].l.max_data_volume_rate = q->at_normal[i].max_data_volume_rate;
		q->held[i].l = here ? s->backoff : (struct conf_limits){ .max_smtp_out = 0 };
	}
}

static void
model_leave(unsigned queue, unsigned source, bool at_once)
{
	struct model_queue *q = &w.queues[queue];
	struct model_backoff *b = source == CORE_NONE ? &q->whole : &q->by_source[source];
	bool steps = source == CORE_NONE && !at_once && !b->over && b->how.n > 0 && !b->automatic;

	b->over = steps;
	b->on = steps;
	b->ended = w.now.wall_us;
	take_mode(queue);
}

static void
op_backoff_over(void *ctx, uint32_t queue, uint32_t source_ip, unsigned why)
{
	unsigned source = source_ip == CORE_NONE ? CORE_NONE : physical(source_ip);
	struct model_queue *q = &w.queues[queue];
	struct model_backoff *b = source == CORE_NONE ? &q->whole : &q->by_source[source];

	(void)ctx;
	HOLDS(b->on);
	switch ((enum core_backoff_end)why) {
	case CORE_BACKOFF_TIME:
		HOLDS(!b->over && b->until && b->until <= w.now.wall_us);
		break;
	case CORE_BACKOFF_DELIVERY:
		HOLDS(!b->over && b->after_delivery);
		break;
	case CORE_BACKOFF_RECOVERED:
		HOLDS(!b->over && b->automatic && q->settings.max_msg_rate.n);
		break;
	case CORE_BACKOFF_STEPS:
		HOLDS(b->over);
		break;
	}
	model_leave(queue, source, false);
}

/* What limits the scopes have, and memory for their charges. */
static void
op_source_limits(void *ctx, uint32_t queue, struct slice name, uint32_t source_ip, bool backoff,
		 struct conf_limits *out)
{
	struct model_queue *q = &w.queues[queue];

	(void)ctx;
	(void)name;
	*out = backoff ? q->at_backoff[physical(source_ip)] : q->at_normal[physical(source_ip)];
}

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	switch (scope) {
	case CORE_SCOPE_PROVIDER:
		*out = w.provs[number].l;
		return true;
	case CORE_SCOPE_JOB:
		*out = w.jobs[number - 1].l;
		return true;
	case CORE_SCOPE_SENDER:
		*out = w.senders[number - 1].l;
		return true;
	default:
		return false;
	}
}

/* A key that is taken gets a second memory, as the file gives it. */
static void *
op_charges(void *ctx, const struct core_charge_key *key, size_t bytes, bool *found)
{
	struct kept *at = NULL;

	(void)ctx;
	*found = false;
	if (!w.keeps)
		return NULL;
	for (unsigned i = 0; i < w.n_kept; i++) {
		struct kept *k = &w.kept[i];

		if (!k->memory && !at)
			at = k;
		if (!k->memory || k->taken || k->key.hi != key->hi || k->key.lo != key->lo)
			continue;
		if (k->bytes < bytes) /* other numbers than before the restart */
			k->memory = realloc(k->memory, bytes);
		*found = k->taken = true;
		return k->memory;
	}
	if (!at) {
		HOLDS(w.n_kept < KEPT);
		at = &w.kept[w.n_kept++];
	}
	*at = (struct kept){ *key, calloc(1, bytes), bytes, true };
	return at->memory;
}

static void
op_charges_free(void *ctx, void *memory)
{
	(void)ctx;
	for (unsigned i = 0; i < w.n_kept; i++) {
		if (w.kept[i].memory != memory)
			continue;
		free(memory);
		w.kept[i].memory = NULL;
	}
}

static const struct core_ops ops = { .settings = op_settings,
				     .ask_route = op_ask,
				     .open = op_open,
				     .work = op_work,
				     .close = op_close,
				     .give_up = op_give_up,
				     .queue_changed = op_changed,
				     .moved = op_moved,
				     .charges = op_charges,
				     .charges_free = op_charges_free,
				     .source_limits = op_source_limits,
				     .scope_limits = op_scope_limits,
				     .backoff_over = op_backoff_over };
