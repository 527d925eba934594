#include "scheduler/core/sources.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/run.h"

/* Bounds of the table of turns of one virtual MTA. */
#define TURNS_MAX      16384
#define TURNS_WORK_MAX 16000000u
/* Queues and source IPs that are looked at to find one that can use a worker's room. */
#define OFFER_LOOKS 1024

/* Making ------------------------------------------------------------------------------------- */
static uint64_t
name_hash(struct slice name)
{
	uint64_t h = 14695981039346656037ull;

	for (size_t i = 0; i < name.n; i++) {
		unsigned char ch = (unsigned char)name.p[i];

		if (ch >= 'A' && ch <= 'Z')
			ch = (unsigned char)(ch + 32);
		h = (h ^ ch) * 1099511628211ull;
	}
	return h;
}

/* Smooth weighted round robin, written out once: each takes its weight as credit every step, the
 * richest has the turn and pays the sum. */
static void
make_turns(struct vmta *v, const struct conf_vmta *from)
{
	unsigned n = from->n_sources;
	uint64_t sum = 0, most = TURNS_WORK_MAX / n < TURNS_MAX ? TURNS_WORK_MAX / n : TURNS_MAX;
	uint64_t *weight = mem_calloc(n, sizeof(*weight));
	int64_t *credit = mem_calloc(n, sizeof(*credit));
	bool even = true;

	for (unsigned i = 0; i < n; i++) {
		weight[i] = from->sources[i].weight ? from->sources[i].weight : 1;
		even = even && weight[i] == weight[0];
		sum += weight[i];
	}
	if (most < n)
		most = n;
	for (unsigned i = 0; i < n; i++) {
		if (even)
			weight[i] = 1;
		else if (sum > most)
			weight[i] = weight[i] * most / sum ? weight[i] * most / sum : 1;
	}
	sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum += weight[i];
	v->n_turns = (uint32_t)sum;
	v->turns = mem_calloc(sum, sizeof(*v->turns));
	for (uint64_t t = 0; t < sum; t++) {
		unsigned best = 0;

		for (unsigned i = 0; even ? false : i < n; i++) {
			credit[i] += (int64_t)weight[i];
			if (credit[i] > credit[best])
				best = i;
		}
		if (even)
			best = (unsigned)t;
		credit[best] -= (int64_t)sum;
		v->turns[t] = from->sources[best].source_ip;
	}
	mem_free(weight);
	mem_free(credit);
}

static void
make_tables(struct core *c, const struct core_world *w)
{
	CHECK(w->n_source_ips >= 1);
	c->n_sources = w->n_source_ips;
	c->sources = mem_calloc(c->n_sources, sizeof(*c->sources));
	for (size_t i = 0; i < c->n_sources; i++)
		c->sources[i].guest = -1;
	c->n_vmtas = w->n_vmtas;
	c->vmtas = mem_calloc(w->n_vmtas ? w->n_vmtas : 1, sizeof(*c->vmtas));
	for (size_t i = 0; i < w->n_vmtas; i++) {
		struct vmta *v = &c->vmtas[i];

		CHECK(w->vmtas[i].n_sources > 0);
		for (unsigned k = 0; k < w->vmtas[i].n_sources; k++)
			CHECK(w->vmtas[i].sources[k].source_ip < c->n_sources);
		v->name = mem_strdup(w->vmtas[i].name);
		v->line = (struct list){ CORE_NONE, CORE_NONE };
		make_turns(v, &w->vmtas[i]);
		map_put(&c->vmta_names, name_hash(slice_str(v->name)), i);
	}
	c->move_next = NEVER;
}

void
sources_make(struct core *c, const struct core_world *w)
{
	CHECK(w->workers >= 1 && w->workers <= WORKERS_MAX);
	c->n_workers = w->workers;
	for (unsigned i = 0; i < WORKERS_MAX; i++)
		c->workers[i].line = c->workers[i].conns = (struct list){ CORE_NONE, CORE_NONE };
	make_tables(c, w);
}

void
sources_clear(struct core *c)
{
	for (size_t i = 0; i < c->n_vmtas; i++) {
		mem_free(c->vmtas[i].name);
		mem_free(c->vmtas[i].turns);
	}
	mem_free(c->vmtas);
	mem_free(c->sources);
	map_clear(&c->vmta_names);
}

int
sources_vmta(const struct core *c, struct slice queue_name)
{
	struct slice vmta = queue_name;
	uint64_t i;

	for (size_t k = queue_name.n; k > 0; k--) {
		if (queue_name.p[k - 1] == '/') {
			vmta = slice_sub(queue_name, k);
			break;
		}
	}
	i = map_get(&c->vmta_names, name_hash(vmta));
	if (i != MAP_NONE && slice_eq_nocase(vmta, slice_str(c->vmtas[i].name)))
		return (int)i;
	return -1;
}

/* Owners ------------------------------------------------------------------------------------- */
/* Whether the worker is a home of the source IP: one has it, all those with the same remainder when
 * there are fewer IPs than workers, all have index 0 ("the kernel chooses"). */
static bool
is_home(const struct core *c, uint32_t source, unsigned worker)
{
	unsigned real = (unsigned)c->n_sources - 1;

	if (source == 0)
		return true;
	if (real >= c->n_workers)
		return source % c->n_workers == worker;
	return source % real == worker % real;
}

static bool
home_is_up(const struct core *c, uint32_t source)
{
	for (unsigned w = 0; w < c->n_workers; w++) {
		if (c->workers[w].up && is_home(c, source, w))
			return true;
	}
	return false;
}

bool
sources_leaving(const struct core *c, uint32_t source)
{
	return c->sources[source].guest >= 0 && home_is_up(c, source);
}

int
sources_worker(const struct core *c, uint32_t source)
{
	const struct source *s = &c->sources[source];

	if (s->guest >= 0)
		return s->guest;
	for (unsigned w = 0; w < c->n_workers; w++) {
		if (c->workers[w].up && is_home(c, source, w))
			return (int)w;
	}
	return -1;
}

uint32_t
sources_conn_room(const struct core *c, unsigned worker)
{
	const struct worker *w = &c->workers[worker];

	if (w->most_conns == 0)
		return UINT32_MAX;
	if (w->n_conns + w->n_unknown >= w->most_conns)
		return 0;
	return w->most_conns - w->n_conns - w->n_unknown;
}

/* Nobody overtakes those that wait for it. */
static bool
takes_conn(const struct core *c, unsigned worker, unsigned heads, unsigned *full)
{
	if (sources_conn_room(c, worker) > 0 &&
	    (worker == heads || c->workers[worker].conns.head == CORE_NONE))
		return true;
	*full = worker;
	return false;
}

/* The worker for its next connection, -1: none now. */
static int
next_worker(struct core *c, uint32_t source, unsigned heads, unsigned *full)
{
	struct source *s = &c->sources[source];

	if (s->guest >= 0) {
		if (sources_leaving(c, source) || !takes_conn(c, (unsigned)s->guest, heads, full))
			return -1;
		return s->guest;
	}
	for (unsigned i = 1; i <= c->n_workers; i++) {
		unsigned w = (s->turn + i) % c->n_workers;

		if (c->workers[w].up && is_home(c, source, w) && takes_conn(c, w, heads, full)) {
			s->turn = w;
			return (int)w;
		}
	}
	return -1;
}

bool
sources_pick(struct core *c, uint32_t vmta, unsigned heads, uint32_t *turn, uint32_t *source,
	     unsigned *worker, uint64_t *when, unsigned *full)
{
	struct vmta *v = &c->vmtas[vmta];

	*when = NEVER;
	*full = WORKERS_MAX;
	for (uint32_t i = 0; i < v->n_turns; i++) {
		uint32_t s = v->turns[(*turn + i) % v->n_turns];
		uint64_t bad = c->sources[s].bad_until;
		int w;

		if (bad > c->now.boot_us) {
			*when = bad < *when ? bad : *when;
			continue;
		}
		w = next_worker(c, s, heads, full);
		if (w < 0)
			continue;
		*turn = (*turn + i + 1) % v->n_turns;
		*source = s;
		*worker = (unsigned)w;
		return true;
	}
	return false;
}

void
sources_bad(struct core *c, uint32_t source)
{
	c->sources[source].bad_until = c->now.boot_us + SOURCE_BAD_US;
}

/* All queues that wait for a source IP, or a connection by one, look again. Seldom: at a worker's
 * birth and death. */
static void
wake_all(struct core *c)
{
	for (size_t i = 0; i < c->n_vmtas; i++)
		run_wake_line(c, &c->vmtas[i].line);
	for (unsigned w = 0; w < c->n_workers; w++)
		run_wake_line(c, &c->workers[w].conns);
}

/* Whether it could have a connection of the worker. */
static bool
may_use(const struct core *c, const struct queue *q, unsigned worker, unsigned *looks)
{
	const struct vmta *v = q->vmta < 0 ? NULL : &c->vmtas[q->vmta];

	for (uint32_t i = 0; v && i < v->n_turns && *looks < OFFER_LOOKS; i++) {
		uint32_t s = v->turns[i];

		++*looks;
		if (c->sources[s].bad_until > c->now.boot_us)
			continue;
		if (c->sources[s].guest >= 0
			    ? c->sources[s].guest == (int)worker && !sources_leaving(c, s)
			    : is_home(c, s, worker))
			return true;
	}
	return false;
}

void
sources_conn_ended(struct core *c, unsigned worker)
{
	c->workers[worker].offers += c->n_conns_line > 0;
}

void
sources_offer(struct core *c, unsigned worker)
{
	unsigned looks = 0;

	for (unsigned i = 1; i < c->n_workers; i++) {
		unsigned other = (worker + i) % c->n_workers;

		for (uint32_t qi = c->workers[other].conns.head;
		     qi != CORE_NONE && looks++ < OFFER_LOOKS; qi = c->queues[qi].line_next) {
			if (c->queues[qi].in_run || !may_use(c, &c->queues[qi], worker, &looks))
				continue;
			run_push(c, qi);
			return;
		}
	}
}

void
sources_conn_gone(struct core *c, uint32_t source)
{
	if (c->sources[source].n_conns > 0 || !sources_leaving(c, source))
		return;
	c->sources[source].guest = -1;
	wake_all(c);
}

/* Moves -------------------------------------------------------------------------------------- */
static void
arrange_move(struct core *c, uint32_t source, uint64_t at)
{
	c->sources[source].move_at = at;
	if (at < c->move_next)
		c->move_next = at;
}

/* The live worker with the fewest guests, -1. */
static int
host_for(const struct core *c)
{
	unsigned guests[WORKERS_MAX] = { 0 };
	int best = -1;

	for (size_t i = 0; i < c->n_sources; i++) {
		if (c->sources[i].guest >= 0)
			guests[c->sources[i].guest]++;
	}
	for (unsigned w = 0; w < c->n_workers; w++) {
		if (c->workers[w].up && (best < 0 || guests[w] < guests[best]))
			best = (int)w;
	}
	return best;
}

void
sources_tick(struct core *c)
{
	bool moved = false;

	if (c->move_next > c->now.boot_us)
		return;
	c->move_next = NEVER;
	for (uint32_t i = 1; i < c->n_sources; i++) {
		struct source *s = &c->sources[i];
		int host;

		if (s->move_at == 0)
			continue;
		if (s->move_at > c->now.boot_us) {
			c->move_next = s->move_at < c->move_next ? s->move_at : c->move_next;
			continue;
		}
		s->move_at = 0;
		if (s->guest >= 0 || home_is_up(c, i))
			continue;
		host = host_for(c);
		s->guest = host; /* none alive: the next one that comes takes it */
		moved = moved || host >= 0;
	}
	if (moved)
		wake_all(c);
}

void
sources_begin(struct core *c)
{
	for (uint32_t i = 1; i < c->n_sources; i++) {
		if (!home_is_up(c, i))
			arrange_move(c, i, c->now.boot_us + MOVE_AFTER_START_US);
	}
}

/* A connection stays where it is only if its source IP is still there and at home. */
static void
renumber_conns(struct core *c, const uint32_t *map)
{
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		struct conn *cn = &c->conns[i];
		uint32_t to;

		if (cn->state == CONN_FREE)
			continue;
		to = map[cn->source];
		cn->source = to == CORE_NONE ? 0 : to;
		if (to == CORE_NONE || !is_home(c, to, cn->worker))
			cn->retired = 1;
		c->sources[cn->source].n_conns++;
		run_push(c, cn->queue);
	}
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		uint32_t to = c->claims[k].lease ? map[c->claims[k].source] : 0;

		c->claims[k].source = to == CORE_NONE ? 0 : to;
	}
}

void
sources_change(struct core *c, const struct core_world *w, const uint32_t *map)
{
	struct source *old = c->sources;
	size_t n_old = c->n_sources;

	CHECK(w->workers == c->n_workers && map[0] == 0);
	c->sources = NULL;
	sources_clear(c);
	make_tables(c, w);
	for (size_t i = 0; i < n_old; i++) {
		struct source *s = map[i] == CORE_NONE ? NULL : &c->sources[map[i]];

		if (!s)
			continue;
		*s = old[i];
		s->n_conns = 0;
		s->move_at = 0;
		s->guest = -1;
		s->turn %= c->n_workers;
	}
	mem_free(old);
	renumber_conns(c, map);
	sources_begin(c);
}

/* Queues with an idle connection on a source IP that has to go home are to look at it. */
static void
push_idle_users(struct core *c)
{
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		if (c->conns[i].state == CONN_IDLE && sources_leaving(c, c->conns[i].source))
			run_push(c, c->conns[i].queue);
	}
}

void
sources_worker_up(struct core *c, unsigned worker)
{
	bool leaving = false;

	c->workers[worker].up = true;
	c->workers[worker].full = false;
	for (uint32_t i = 1; i < c->n_sources; i++) {
		struct source *s = &c->sources[i];

		if (is_home(c, i, worker)) {
			s->move_at = 0;
			if (s->guest >= 0 && s->n_conns == 0)
				s->guest = -1;
			leaving = leaving || s->guest >= 0;
		} else if (c->started && s->guest < 0 && s->move_at == 0 && !home_is_up(c, i)) {
			arrange_move(c, i, c->now.boot_us); /* nobody was there to take it */
		}
	}
	if (leaving)
		push_idle_users(c);
	wake_all(c);
}

void
sources_worker_down(struct core *c, unsigned worker)
{
	c->workers[worker].up = false;
	c->workers[worker].full = false;
	run_wake_line(c, &c->workers[worker].line);
	c->workers[worker].offers = 0;
	for (uint32_t i = 1; i < c->n_sources; i++) {
		struct source *s = &c->sources[i];

		if (s->guest == (int)worker)
			s->guest = -1;
		else if (!is_home(c, i, worker))
			continue;
		if (s->guest < 0 && s->move_at == 0 && !home_is_up(c, i))
			arrange_move(c, i, c->now.boot_us + MOVE_AFTER_US);
	}
	wake_all(c);
}
