#include "scheduler/core/sources.h"

#include "common/base/check.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"

/* Queues and source IPs that are looked at to find one that can use a worker's room. */
#define OFFER_LOOKS 1024
/* So many are told of one source IP's room: one may have something else in the way. */
#define OFFER_MOST 4

/* In the map of what is disabled, where NEVER means nothing. */
#define DISABLED_FOR_EVER (NEVER - 1)

/* Owners ------------------------------------------------------------------------------------- */
bool
sources_is_home(const struct core *c, uint32_t source, unsigned worker)
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
		if (c->workers[w].up && sources_is_home(c, source, w))
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
		if (c->workers[w].up && sources_is_home(c, source, w))
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
takes_conn(const struct core *c, const struct asker *who, unsigned worker, unsigned *full)
{
	if (sources_conn_room(c, worker) > 0 &&
	    !lines_ahead(c, c->workers[worker].conns, who->qi, who->priority))
		return true;
	*full = worker;
	return false;
}

/* The worker for its next connection, -1: none now. */
static int
next_worker(struct core *c, const struct asker *who, uint32_t source, unsigned *full)
{
	struct source *s = &c->sources[source];

	if (s->guest >= 0) {
		if (sources_leaving(c, source) || !takes_conn(c, who, (unsigned)s->guest, full))
			return -1;
		return s->guest;
	}
	for (unsigned i = 1; i <= c->n_workers; i++) {
		unsigned w = (s->turn + i) % c->n_workers;

		if (c->workers[w].up && sources_is_home(c, source, w) &&
		    takes_conn(c, who, w, full)) {
			s->turn = w;
			return (int)w;
		}
	}
	return -1;
}

/* Until when the source IP is not to be used (by this queue), 0: it is; NEVER: without end. */
static uint64_t
out_of_use(const struct core *c, uint32_t qi, uint32_t source, bool *own)
{
	const struct source *s = &c->sources[source];
	uint64_t until = s->bad_until, own_until;

	*own = false;
	if (s->disabled && s->disabled_until > until)
		until = s->disabled_until;
	if (qi != CORE_NONE && c->disabled.n > 0) {
		own_until = map_get(&c->disabled, sources_disabled_key(qi, source));
		if (own_until != MAP_NONE && own_until > until) {
			until = own_until == DISABLED_FOR_EVER ? NEVER : own_until;
			*own = true;
		}
	}
	if (qi != CORE_NONE && !backoff_may_use(c, qi, source)) {
		until = NEVER;
		*own = true;
	}
	return until > c->now.boot_us ? until : 0;
}

bool
sources_is_usable(const struct core *c, uint32_t qi, uint32_t source)
{
	bool own;

	return out_of_use(c, qi, source, &own) == 0;
}

/* What one source IP has against it; true: nothing. */
static bool
try_source(struct core *c, const struct asker *who, const struct core_target_limits *t, uint32_t s,
	   struct source_choice *out, bool *all_own)
{
	struct answer a = ANSWER_YES;
	struct charges set = { .n = 0 };
	bool own;
	uint64_t until = out_of_use(c, who->qi, s, &own);
	int w;

	if (until) {
		uint64_t *at = own ? &out->own_when : &out->when;

		*at = until < *at ? until : *at;
		*all_own = *all_own && own;
		return false;
	}
	admit_connection_source(c, who->qi, s, &set);
	admit_mx(c, t, s, &set);
	admit_message_source(c, who->qi, s, &set);
	limits_ask(c, who, &set, who->bytes, &a);
	if (a.limit) {
		bool mine = c->limits[a.limit].scope == CORE_SCOPE_QUEUE_SOURCE;
		uint64_t *at = mine ? &out->own_when : &out->when;

		if (out->no.limit == 0 || a.when < out->no.when)
			out->no = a;
		*at = a.when < *at ? a.when : *at;
		*all_own = *all_own && mine;
		return false;
	}
	w = next_worker(c, who, s, &out->full);
	if (w < 0) {
		*all_own = false;
		return false;
	}
	out->source = s;
	out->worker = (unsigned)w;
	out->within = a.within;
	return true;
}

bool
sources_pick(struct core *c, const struct asker *who, const struct core_target_limits *t,
	     struct source_choice *out)
{
	struct vmta *v = &c->vmtas[c->queues[who->qi].vmta];
	uint32_t turn = c->queues[who->qi].active->source_turn, failed = 0;
	bool all_own = true;

	*out = (struct source_choice){ .when = NEVER, .own_when = NEVER, .full = WORKERS_MAX };
	c->picks++;
	for (uint32_t i = 0; i < v->n_turns && failed < v->n_sources; i++) {
		uint32_t at = (turn % v->n_turns + i) % v->n_turns, s = v->turns[at];

		if (c->sources[s].pick == c->picks)
			continue; /* looked at already */
		if (try_source(c, who, t, s, out, &all_own)) {
			out->turn = (at + 1) % v->n_turns;
			return true;
		}
		c->sources[s].pick = c->picks;
		failed++;
	}
	out->what = all_own ? SOURCE_NO_OWN : SOURCE_NO_WORKER;
	return false;
}

uint32_t
sources_surplus(struct core *c, const struct asker *who)
{
	const struct vmta *v = &c->vmtas[c->queues[who->qi].vmta];
	struct source_choice sc = { .when = NEVER, .own_when = NEVER, .full = WORKERS_MAX };
	uint32_t second = CORE_NONE;
	bool all_own = true;

	c->picks++;
	for (uint32_t i = c->queues[who->qi].active->idle.head; i != CORE_NONE;
	     i = c->conns[i].next) {
		struct source *s = &c->sources[c->conns[i].source];

		if (s->pick == c->picks)
			second = i;
		s->pick = c->picks;
	}
	for (uint32_t k = 0; second != CORE_NONE && k < v->n_sources; k++) {
		uint32_t s = v->sources[k];

		if (c->sources[s].pick != c->picks && try_source(c, who, NULL, s, &sc, &all_own))
			return second;
	}
	return CORE_NONE;
}

uint32_t
sources_next(const struct core *c, uint32_t qi)
{
	const struct queue *q = &c->queues[qi];
	const struct vmta *v = q->vmta < 0 ? NULL : &c->vmtas[q->vmta];

	return v ? v->turns[q->active->source_turn % v->n_turns] : CORE_NONE;
}

bool
sources_take_next(struct core *c, const struct asker *who, struct source_choice *out)
{
	const struct vmta *v = &c->vmtas[c->queues[who->qi].vmta];
	uint32_t at = c->queues[who->qi].active->source_turn % v->n_turns, s = v->turns[at];
	unsigned full;
	bool own;
	int w;

	if (out_of_use(c, who->qi, s, &own))
		return false;
	w = next_worker(c, who, s, &full);
	if (w < 0)
		return false;
	out->source = s;
	out->worker = (unsigned)w;
	out->turn = (at + 1) % v->n_turns;
	return true;
}

void
sources_took(struct core *c, uint32_t vmta, uint32_t *turn, const struct source_choice *sc)
{
	(void)c;
	(void)vmta;
	*turn = sc->turn;
}

static bool
group_has_room(struct core *c, uint32_t group, bool connections, uint64_t *when)
{
	static const struct asker nobody = { .first = true, .qi = CORE_NONE, .want = 1 };
	struct charges set = { .n = 0 };
	struct answer a = ANSWER_YES;

	charges_add_group(c, &set, group, CORE_MEASURE_MSG);
	charges_add_group(c, &set, group, CORE_MEASURE_VOLUME);
	if (connections) {
		charges_add_group(c, &set, group, CORE_MEASURE_CONNECT);
		charges_add_group(c, &set, group, CORE_MEASURE_SMTP_OUT);
	}
	limits_ask_room(c, &nobody, &set, 1, &a);
	if (a.limit && a.when < *when)
		*when = a.when;
	return a.limit == 0;
}

bool
sources_have_room(struct core *c, uint32_t vmta, bool connections, uint64_t *when)
{
	const struct vmta *v = &c->vmtas[vmta];
	bool own;

	*when = NEVER;
	for (uint32_t i = 0; i < v->n_sources; i++) {
		uint32_t s = v->sources[i];
		uint64_t until = out_of_use(c, CORE_NONE, s, &own);

		if (until) {
			*when = until < *when ? until : *when;
			continue;
		}
		if (sources_worker(c, s) >= 0 && !sources_leaving(c, s) &&
		    group_has_room(c, c->sources[s].group, connections, when))
			return true;
	}
	return false;
}

static bool
has_source(const struct source *s, const struct queue *q)
{
	for (uint32_t i = 0; q->vmta >= 0 && i < s->n_vmtas; i++) {
		if (s->vmtas[i] == (uint32_t)q->vmta)
			return true;
	}
	return false;
}

/* Those that wait for a worker's connection, and have this source IP too, look again: the first
 * few. */
static void
offer_source(struct core *c, const struct source *s)
{
	unsigned looks = 0, told = 0;

	for (unsigned w = 0; w < c->n_workers; w++) {
		const struct line *l = &c->lines[c->workers[w].conns];

		for (uint32_t k = 0; c->workers[w].conns && k < l->n_classes; k++) {
			for (uint32_t qi = l->classes[k].queues.head;
			     qi != CORE_NONE && told < OFFER_MOST && ++looks < OFFER_LOOKS;
			     qi = c->queues[qi].line_next) {
				if (c->queues[qi].in_run || !has_source(s, &c->queues[qi]))
					continue;
				run_push(c, qi);
				told++;
			}
		}
	}
}

void
sources_poke(struct core *c, uint32_t source)
{
	const struct source *s = &c->sources[source];

	if (c->n_used_lines == 0)
		return;
	for (uint32_t i = 0; i < s->n_vmtas; i++) {
		lines_poke(c, c->vmtas[s->vmtas[i]].lines[0]);
		lines_poke(c, c->vmtas[s->vmtas[i]].lines[1]);
	}
	offer_source(c, s);
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
	for (size_t i = 0; i < c->n_vmtas; i++) {
		lines_push_all(c, c->vmtas[i].lines[0]);
		lines_push_all(c, c->vmtas[i].lines[1]);
	}
	for (unsigned w = 0; w < c->n_workers; w++)
		lines_push_all(c, c->workers[w].conns);
}

/* Whether it could have a connection of the worker. */
static bool
may_use(const struct core *c, const struct queue *q, unsigned worker, unsigned *looks)
{
	const struct vmta *v = q->vmta < 0 ? NULL : &c->vmtas[q->vmta];

	for (uint32_t i = 0; v && i < v->n_sources && *looks < OFFER_LOOKS; i++) {
		uint32_t s = v->sources[i];

		++*looks;
		if (c->sources[s].bad_until > c->now.boot_us)
			continue;
		if (c->sources[s].guest >= 0
			    ? c->sources[s].guest == (int)worker && !sources_leaving(c, s)
			    : sources_is_home(c, s, worker))
			return true;
	}
	return false;
}

static bool
somebody_waits(const struct core *c)
{
	for (unsigned w = 0; w < c->n_workers; w++) {
		if (c->workers[w].conns)
			return true;
	}
	return false;
}

void
sources_conn_ended(struct core *c, unsigned worker)
{
	c->workers[worker].offers += somebody_waits(c);
	lines_poke(c, c->workers[worker].conns);
}

/* One of that line may use the worker's room: it is looked at. */
static bool
offer_to(struct core *c, const struct line *l, unsigned worker, unsigned *looks)
{
	for (uint32_t k = 0; k < l->n_classes; k++) {
		for (uint32_t qi = l->classes[k].queues.head;
		     qi != CORE_NONE && ++*looks < OFFER_LOOKS; qi = c->queues[qi].line_next) {
			if (c->queues[qi].in_run || !may_use(c, &c->queues[qi], worker, looks))
				continue;
			run_push(c, qi);
			return true;
		}
	}
	return false;
}

static void
offer(struct core *c, unsigned worker)
{
	unsigned looks = 0;

	for (unsigned i = 1; i < c->n_workers; i++) {
		unsigned other = (worker + i) % c->n_workers;

		if (c->workers[other].conns &&
		    offer_to(c, &c->lines[c->workers[other].conns], worker, &looks))
			return;
	}
}

void
sources_offer_all(struct core *c)
{
	for (unsigned w = 0; w < c->n_workers; w++) {
		uint32_t room = c->workers[w].offers ? sources_conn_room(c, w) : 0;

		if (c->workers[w].offers > room)
			c->workers[w].offers = room;
		if (c->workers[w].conns)
			continue;
		for (; c->workers[w].offers > 0; c->workers[w].offers--)
			offer(c, w);
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

		if (sources_is_home(c, i, worker)) {
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
	lines_push_all(c, c->workers[worker].line);
	lines_push_all(c, c->workers[worker].conns);
	c->workers[worker].offers = 0;
	for (uint32_t i = 1; i < c->n_sources; i++) {
		struct source *s = &c->sources[i];

		if (s->guest == (int)worker)
			s->guest = -1;
		else if (!sources_is_home(c, i, worker))
			continue;
		if (s->guest < 0 && s->move_at == 0 && !home_is_up(c, i))
			arrange_move(c, i, c->now.boot_us + MOVE_AFTER_US);
	}
	wake_all(c);
}

/* Out of use by hand -------------------------------------------------------------------------- */
void
core_source_disable(struct core *c, const struct core_now *now, uint32_t queue, uint32_t source_ip,
		    bool disabled, uint64_t until_boot_us)
{
	uint32_t qi = CORE_NONE;

	core_clock(c, now);
	if (source_ip >= c->n_sources)
		return;
	if (queue != CORE_NONE) {
		qi = queue_index(c, queue);
		if (qi == CORE_NONE)
			return;
		map_take(&c->disabled, sources_disabled_key(qi, source_ip));
		if (disabled)
			map_put(&c->disabled, sources_disabled_key(qi, source_ip),
				until_boot_us == NEVER ? DISABLED_FOR_EVER : until_boot_us);
		run_push(c, qi);
	} else {
		c->sources[source_ip].disabled = disabled;
		c->sources[source_ip].disabled_until = disabled ? until_boot_us : 0;
		sources_poke(c, source_ip);
	}
	for (uint32_t i = 0; disabled && i < c->n_conns_made; i++) {
		struct conn *cn = &c->conns[i];

		if (cn->state == CONN_FREE || cn->source != source_ip ||
		    (qi != CORE_NONE && cn->queue != qi))
			continue;
		cn->retired = 1;
		run_push(c, cn->queue);
	}
}

bool
core_sources_all_disabled(const struct core *c, const struct core_now *now, uint32_t queue)
{
	uint32_t qi = queue_index(c, queue);
	const struct vmta *v;

	if (qi == CORE_NONE || c->queues[qi].vmta < 0)
		return false;
	v = &c->vmtas[c->queues[qi].vmta];
	for (uint32_t i = 0; i < v->n_sources; i++) {
		const struct source *s = &c->sources[v->sources[i]];
		uint64_t until = map_get(&c->disabled, sources_disabled_key(qi, v->sources[i]));

		if (!(s->disabled && s->disabled_until > now->boot_us) &&
		    (until == MAP_NONE || until <= now->boot_us))
			return false;
	}
	return true;
}
