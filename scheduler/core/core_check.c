/* core_check: every invariant of the core's tables, for tests and the simulator. */
#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/limits_impl.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

/* So soon after there may be room again a line is looked at. */
#define LOOKS_WITHIN_US (SECOND_US / 4)

/* What is summed up over the tables and compared with the counters. */
struct sums {
	uint32_t n[PLACES];
	uint32_t rcpts;
	uint64_t kbytes;
	uint32_t conns, opening, idle, busy, promised;
};

static void
check_list(const struct core *c, uint32_t qi, const struct list *l, enum place place, bool sorted,
	   uint32_t *n)
{
	uint32_t prev = CORE_NONE;

	for (uint32_t e = l->head; e != CORE_NONE; prev = e, e = c->entries[e].next) {
		const struct entry *en = &c->entries[e];

		CHECK(en->queue == qi && en->place == place && en->prev == prev);
		CHECK(!sorted || prev == CORE_NONE || c->entries[prev].due <= en->due);
		CHECK(place != PLACE_READY || entries_untried(c, e) > 0 ||
		      entries_unfinished(c, e) == 0);
		++*n;
	}
	CHECK(l->tail == prev);
}

static void
check_entries(const struct core *c, struct sums *sums)
{
	uint32_t *used = mem_calloc(c->n_chunks, sizeof(*used));

	for (uint32_t e = 0; e < c->n_entries; e++) {
		const struct entry *en = &c->entries[e];
		const struct queue *q;
		struct sums *s;

		CHECK(en->place <= PLACE_LEAVING);
		used[e / CHUNK] += en->place != PLACE_FREE;
		if (!place_counts(en->place))
			continue;
		CHECK(en->queue < c->n_queues);
		q = &c->queues[en->queue];
		s = &sums[en->queue];
		s->n[en->place]++;
		s->rcpts += entries_unfinished(c, e);
		s->kbytes += en->kbytes;
		if (en->place == PLACE_READY || en->place == PLACE_DEFERRED)
			CHECK(en->received >= q->oldest);
		if (en->place == PLACE_CLAIMED) {
			const struct claim *cl = &c->claims[en->next];

			CHECK(en->next < c->n_claims_made && cl->entry == e && cl->lease != 0);
			CHECK(cl->n_attempt > 0 && cl->lease < c->next_lease);
			if (cl->conn != CORE_NONE) {
				CHECK(c->conns[cl->conn].state == CONN_BUSY);
				CHECK(c->conns[cl->conn].claim == en->next);
				CHECK(c->conns[cl->conn].queue == en->queue);
			}
		}
	}
	for (uint32_t k = 0; k < c->n_chunks; k++)
		CHECK(c->chunks[k].used == used[k] && (k >= c->low_chunk || used[k] == CHUNK));
	mem_free(used);
}

static void
check_conns(const struct core *c, struct sums *sums)
{
	uint32_t n = 0, idle = 0, closing = 0, resting = 0, last = CORE_NONE;
	struct {
		uint32_t conns, closing;
	} of[WORKERS_MAX] = { 0 };

	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		const struct conn *cn = &c->conns[i];
		struct sums *s = &sums[cn->queue];

		if (cn->state == CONN_FREE)
			continue;
		n++;
		CHECK(cn->queue < c->n_queues && c->workers[cn->worker].up);
		s->conns++;
		s->opening += cn->state == CONN_OPENING;
		s->idle += cn->state == CONN_IDLE;
		s->busy += cn->state == CONN_BUSY;
		idle += cn->state == CONN_IDLE;
		s->promised += cn->promises[0] != 0;
		closing += cn->state == CONN_CLOSING;
		of[cn->worker].conns++;
		of[cn->worker].closing += cn->state == CONN_CLOSING;
		CHECK((cn->claim != CORE_NONE) == (cn->state == CONN_BUSY));
		if (cn->claim != CORE_NONE)
			CHECK(c->claims[cn->claim].conn == i && c->claims[cn->claim].lease != 0);
	}
	CHECK(n == c->n_conns && closing == c->n_closing);
	for (unsigned i = 0; i < c->n_workers; i++)
		CHECK(of[i].conns == c->workers[i].n_conns &&
		      of[i].closing == c->workers[i].n_closing);
	for (uint32_t i = c->resting.head; i != CORE_NONE; last = i, i = c->conns[i].rest_next) {
		CHECK(c->conns[i].state == CONN_IDLE && c->conns[i].rest_prev == last);
		resting++;
	}
	CHECK(resting == idle && c->resting.tail == last);
}

static uint64_t
earliest_change(struct core *c, const struct queue *q)
{
	uint64_t at = NEVER;

	if (q->retry_at > c->now.boot_us && !q->paused && q->n[PLACE_READY] > 0 &&
	    q->wait != CORE_WAIT_BACKOFF) /* a probe does not wait for it */
		at = q->retry_at;
	if (q->line == 0 && q->until > c->now.boot_us && q->until < at)
		at = q->until;
	if (q->release_left == 0 && !q->unsorted) {
		for (unsigned i = 0; i < 2; i++) {
			uint32_t e = q->lanes[i].head;

			if (e != CORE_NONE && us_of_seconds(c->entries[e].due) < at)
				at = us_of_seconds(c->entries[e].due);
		}
	}
	return at;
}

/* A queue stands still only with a reason, and something will end it. */
static void
check_progress(struct core *c, uint32_t qi)
{
	const struct queue *q = &c->queues[qi];
	uint64_t timer = q->heap_pos == UINT32_MAX ? NEVER : c->timers.heap[q->heap_pos].at;
	const struct active *a = q->active;

	if (q->in_run)
		return;
	CHECK(q->wait != CORE_WAIT_CONNECTIONS || q->refusal != REFUSAL_NONE);
	CHECK((q->refusal == REFUSAL_LIMIT) == (a && a->blocked_by != 0));
	CHECK(q->line == 0 || q->wait == CORE_WAIT_CONNECTIONS || q->wait == CORE_WAIT_RATE ||
	      q->wait == CORE_WAIT_SOURCES || q->wait == CORE_WAIT_DNS);
	if (q->moving) {
		uint64_t kept = map_get(&c->kept, qi);
		uint32_t stay = kept != MAP_NONE, listed = 0;

		if (stay && (c->entries[kept].place == PLACE_READY ||
			     c->entries[kept].place == PLACE_DEFERRED))
			listed = 1;
		CHECK(!stay || c->entries[kept].queue == qi);
		CHECK(q->in_doomed || q->n[PLACE_READY] + q->n[PLACE_DEFERRED] == listed);
		CHECK(queue_entries(q) > stay);
		return;
	}
	CHECK(q->doom_left > 0 || timer <= earliest_change(c, q));
	CHECK(q->doom_left == 0 || q->in_doomed);
	if (q->n[PLACE_READY] == 0 || q->paused || q->doom_left > 0 || q->modes != c->modes)
		return;
	CHECK(q->wait != CORE_WAIT_EMPTY);
	switch ((enum core_wait)q->wait) {
	case CORE_WAIT_NONE:
		CHECK(a && a->n_opening > 0);
		break;
	case CORE_WAIT_CONNECTIONS:
		CHECK(q->line || a->n_conns > 0 || timer != NEVER);
		break;
	case CORE_WAIT_RATE:
		CHECK(q->line || timer != NEVER);
		break;
	case CORE_WAIT_BACKOFF:
		CHECK(timer != NEVER && q->probing);
		break;
	case CORE_WAIT_RETRY:
		CHECK(timer != NEVER);
		break;
	case CORE_WAIT_DNS:
		CHECK(q->line || timer != NEVER);
		break;
	case CORE_WAIT_SOURCES:
		CHECK(q->line || q->vmta < 0 || timer != NEVER || c->disabled.n > 0 ||
		      q->only_sources);
		break;
	default:
		CHECK(!"a queue with ready mail waits for nothing");
	}
}

static void
check_queue(struct core *c, uint32_t qi, const struct sums *s)
{
	struct queue *q = &c->queues[qi];
	const struct active *a = q->active;
	uint32_t ready = 0, deferred = 0, idle = 0;

	check_list(c, qi, &q->ready, PLACE_READY, false, &ready);
	check_list(c, qi, &q->lanes[0], PLACE_DEFERRED, !q->unsorted, &deferred);
	check_list(c, qi, &q->lanes[1], PLACE_DEFERRED, true, &deferred);
	for (unsigned p = 0; p < PLACES; p++)
		CHECK(q->n[p] == s->n[p]);
	CHECK(ready == q->n[PLACE_READY] && deferred == q->n[PLACE_DEFERRED]);
	CHECK(q->n_rcpts == s->rcpts && q->kbytes == s->kbytes);
	CHECK(q->doom_left <= ready + deferred && q->release_left <= deferred);
	if (a) {
		CHECK(a->n_conns == s->conns && a->n_opening == s->opening);
		CHECK(a->n_idle == s->idle && a->n_busy == s->busy);
		CHECK(a->n_promised == s->promised);
		for (uint32_t i = a->idle.head; i != CORE_NONE; i = c->conns[i].next) {
			CHECK(c->conns[i].state == CONN_IDLE && c->conns[i].queue == qi);
			idle++;
		}
		CHECK(idle == a->n_idle);
		CHECK((a->failed | a->refused | a->denied) == a->failed);
		/* What is too much has ended, but for what has not been looked at. */
		CHECK(q->in_run || a->n_idle == 0 || !a->settings ||
		      a->n_opening + a->n_idle + a->n_busy <= limits_queue_out(c, qi));
	} else {
		CHECK(s->conns == 0);
	}
	check_progress(c, qi);
}

/* A line stands still only as long as there is no room, and something will wake it in time. */
static void
check_line_wakes(struct core *c, uint32_t i)
{
	const struct line *l = &c->lines[i];
	const struct limit *limit = l->kind == LINE_LIMIT ? &c->limits[l->of] : NULL;
	uint64_t when, at;

	if (l->poked || l->n == 0)
		return;
	if (l->kind == LINE_SOURCES || l->kind == LINE_SENDERS)
		return; /* there may be room, and each has something of its own in the way */
	at = l->heap_pos == UINT32_MAX ? NEVER : c->line_timers.heap[l->heap_pos].at;
	if (at == NEVER) {
		CHECK(!limits_line_has_room(c, i, &when));
		CHECK(when == NEVER);
		return;
	}
	if (!limit || limit->measure == CORE_MEASURE_VOLUME)
		return; /* there may be room for less */
	if (limits_line_has_room(c, i, &when))
		when = c->now.boot_us;
	/* Who is left of several may still wait as they had to. */
	if (limit_is_paced(limit) && limit->paced > when)
		when = limit->paced;
	CHECK(when == NEVER || at <= when + LOOKS_WITHIN_US);
}

static uint32_t
check_line(struct core *c, uint32_t i)
{
	struct line *l = &c->lines[i];
	uint32_t n = 0;

	CHECK(*lines_owner(c, (enum line_kind)l->kind, l->of) == i);
	CHECK(l->n > 0 || l->poked);
	for (uint32_t k = 0; k < l->n_classes; k++) {
		const struct line_class *cl = &l->classes[k];
		uint32_t prev = CORE_NONE, in_class = 0;

		CHECK(k == 0 || l->classes[k - 1].priority > cl->priority);
		for (uint32_t qi = cl->queues.head; qi != CORE_NONE;
		     prev = qi, qi = c->queues[qi].line_next) {
			const struct queue *q = &c->queues[qi];

			CHECK(q->line == i && q->line_prev == prev);
			CHECK(q->line_priority == cl->priority && q->active);
			CHECK((l->kind != LINE_SOURCES && l->kind != LINE_SENDERS) ||
			      q->vmta == (int)l->of);
			in_class++;
		}
		CHECK(cl->queues.tail == prev && cl->n == in_class && in_class > 0);
		n += in_class;
	}
	CHECK(l->n == n);
	check_line_wakes(c, i);
	return n;
}

static void
check_lines(struct core *c)
{
	uint32_t running = 0, waiting = 0, poked = 0, all_conns = 0, touched = 0, at_limits = 0;

	for (uint32_t qi = c->run.head; qi != CORE_NONE; qi = c->queues[qi].run_next) {
		CHECK(c->queues[qi].in_run);
		running++;
	}
	for (uint32_t i = c->poked.head; i != CORE_NONE; i = c->lines[i].poked_next) {
		CHECK(c->lines[i].poked && c->lines[i].kind != LINE_NONE);
		poked++;
	}
	for (uint32_t i = 1; i < c->n_lines; i++) {
		if (c->lines[i].kind == LINE_NONE)
			continue;
		waiting += check_line(c, i);
		poked -= c->lines[i].poked;
		at_limits += c->lines[i].kind == LINE_LIMIT;
	}
	CHECK(at_limits == c->n_limit_lines);
	for (unsigned i = 0; i < c->n_workers; i++) {
		all_conns += c->workers[i].n_conns;
		CHECK(c->workers[i].up || c->workers[i].offers == 0);
	}
	CHECK(all_conns == c->n_conns);
	for (uint32_t i = c->touched_first; i < c->n_touched; i++) {
		CHECK(c->queues[c->touched[i]].touched);
		touched++;
	}
	for (uint32_t i = 0; i < c->n_queues; i++) {
		running -= c->queues[i].in_run;
		waiting -= c->queues[i].line != 0;
		touched -= c->queues[i].touched;
	}
	CHECK(touched == 0 && running == 0 && waiting == 0 && poked == 0);
	for (size_t i = 0; i < c->timers.n; i++) {
		CHECK(c->queues[c->timers.heap[i].queue].heap_pos == i);
		CHECK(i == 0 || c->timers.heap[(i - 1) / 2].at <= c->timers.heap[i].at);
	}
	for (size_t i = 0; i < c->line_timers.n; i++) {
		const struct line *l = &c->lines[c->line_timers.heap[i].queue];

		CHECK(l->heap_pos == i && l->kind != LINE_NONE);
	}
}

/* What connections and claims say that they are charged to is what the limits say. */
static void
add_charges(const struct core *c, struct limit *sums, const struct charges *set, bool idle,
	    bool ending)
{
	CHECK(set->n <= CHARGES_MAX);
	for (uint32_t k = 0; k < set->n; k++) {
		CHECK(set->of[k] > 0 && set->of[k] < c->n_limits && c->limits[set->of[k]].made);
		CHECK((set->counts >> k & 1) ==
		      (c->limits[set->of[k]].measure == CORE_MEASURE_SMTP_OUT));
		CHECK((set->volumes >> k & 1) ==
		      (c->limits[set->of[k]].measure == CORE_MEASURE_VOLUME));
		if (c->limits[set->of[k]].measure != CORE_MEASURE_SMTP_OUT)
			continue;
		sums[set->of[k]].used++;
		sums[set->of[k]].idle += idle;
		sums[set->of[k]].ending += ending;
	}
}

/* Each set has as many holders as it says, and holds its limits once. */
static void
check_sets(const struct core *c, struct limit *sums)
{
	uint32_t *refs = mem_calloc(c->n_sets, sizeof(*refs));

	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		if (c->conns[i].state != CONN_FREE)
			refs[c->conns[i].charges]++;
	}
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		if (c->claims[k].lease)
			refs[c->claims[k].charges]++;
	}
	for (uint32_t i = 0; c->passes && i < PASS_SETS * PASS_WAYS; i++) {
		if (c->passes[i].epoch == 0)
			continue;
		refs[c->passes[i].message]++;
		refs[c->passes[i].connection]++;
	}
	for (uint32_t i = 1; i < c->n_sets; i++) {
		CHECK(c->sets[i].refs == refs[i]);
		for (uint32_t k = 0; refs[i] && k < c->sets[i].charges.n; k++)
			sums[c->sets[i].charges.of[k]].refs++;
	}
	CHECK(c->sets[0].charges.n == 0);
	mem_free(refs);
}

/* So much room has the limit at least, as a pass says that holds. */
static void
check_margin(const struct core *c, const struct pass *p, const struct limit *l)
{
	bool volume = l->measure == CORE_MEASURE_VOLUME;
	uint64_t until = volume ? p->bytes_until : p->units_until;
	uint64_t now = volume ? c->charged_bytes : c->charged_units;

	if (until <= now)
		return;
	CHECK(l->owned && !l->off_until && !l->line);
	if (!limits_in_mode(c, l))
		return;
	CHECK(!l->rate || l->sure + l->ahead >= until - now);
}

/* It is there to be told of a change, also without limits. */
static void
check_held(const struct core *c, uint32_t group, enum core_scope scope, uint32_t number)
{
	const struct group *g = &c->groups[group];

	CHECK(group == 0 || (g->made && g->users > 0 && g->scope == scope && g->number == number));
}

static void
check_passes(const struct core *c)
{
	for (uint32_t i = 0; c->passes && i < PASS_SETS * PASS_WAYS; i++) {
		const struct pass *p = &c->passes[i];
		const struct charges *of[] = { sets_of(c, p->message), sets_of(c, p->connection) };

		if (p->epoch) {
			check_held(c, p->job_group, CORE_SCOPE_JOB, p->job);
			check_held(c, p->sender_group, CORE_SCOPE_SENDER, p->sender_domain);
		}
		if (p->epoch != c->pass_epoch || p->units_until == 0)
			continue;
		for (unsigned s = 0; s < 2; s++) {
			for (uint32_t k = 0; k < of[s]->n; k++)
				check_margin(c, p, &c->limits[of[s]->of[k]]);
		}
	}
}

static void
check_limits(const struct core *c)
{
	struct limit *sums = mem_calloc((size_t)c->n_limits + 1, sizeof(*sums));
	uint32_t off = 0;

	check_sets(c, sums);
	check_passes(c);

	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		const struct conn *cn = &c->conns[i];

		if (cn->state != CONN_FREE)
			add_charges(c, sums, sets_of(c, cn->charges), cn->state == CONN_IDLE,
				    cn->state == CONN_CLOSING || cn->yields);
	}
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		if (c->claims[k].lease)
			add_charges(c, sums, sets_of(c, c->claims[k].charges), false, false);
		for (uint32_t i = 0; c->claims[k].lease && i < c->claims[k].n_later; i++)
			sums[c->claims[k].later[i].limit].refs++;
	}
	for (uint32_t i = 1; i < c->n_limits; i++) {
		const struct limit *l = &c->limits[i];

		if (!l->made)
			continue;
		CHECK(l->refs == sums[i].refs && l->used == sums[i].used);
		CHECK(l->idle == sums[i].idle && l->ending == sums[i].ending);
		CHECK(l->owned || l->refs > 0 || l->line);
		CHECK(!l->off_until || (l->owned && l->rate));
		off += l->off_until != 0;
		CHECK(!l->line || c->lines[l->line].of == i);
		/* What comes back to such a limit wakes nobody. */
		CHECK(l->ahead_since == NEVER || (l->rate && !l->line));
		CHECK(l->sure == 0 || l->sure <= rate_room(l->rate, c->now.boot_us));
	}
	CHECK(off == c->n_off);
	mem_free(sums);
}

void
core_check(const struct core *core)
{
	struct core *c = (struct core *)(uintptr_t)core;
	struct sums *sums = mem_calloc((size_t)c->n_queues + 1, sizeof(*sums));
	struct core_totals t = { 0 };
	uint32_t asks = 0, claimed = 0, unknown[WORKERS_MAX] = { 0 };

	check_entries(c, sums);
	check_conns(c, sums);
	for (uint32_t i = 0; i < c->n_queues; i++) {
		check_queue(c, i, &sums[i]);
		t.queued_rcpts += sums[i].rcpts;
		t.queued_kbytes += sums[i].kbytes;
		for (unsigned p = 0; p < PLACES; p++)
			t.queued_entries += sums[i].n[p];
		t.queues_with_mail += queue_entries(&c->queues[i]) > 0;
		asks += c->queues[i].active && c->queues[i].active->asked_at;
		claimed += sums[i].n[PLACE_CLAIMED];
	}
	CHECK(t.queued_rcpts == c->totals.queued_rcpts &&
	      t.queued_entries == c->totals.queued_entries);
	CHECK(t.queued_kbytes == c->totals.queued_kbytes &&
	      t.queues_with_mail == c->totals.queues_with_mail);
	CHECK(asks == c->n_asks && claimed == c->n_claims);
	check_lines(c);
	check_limits(c);
	backoff_check(c);
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		CHECK(!c->claims[k].unknown ||
		      (c->claims[k].lease && c->claims[k].conn == CORE_NONE));
		unknown[c->claims[k].worker] += c->claims[k].unknown;
	}
	for (unsigned i = 0; i < c->n_workers; i++)
		CHECK(unknown[i] == c->workers[i].n_unknown);
	for (size_t i = 1; i < c->n_sources; i++)
		CHECK(c->sources[i].guest < 0 || c->sources[i].guest < (int)c->n_workers);
	mem_free(sums);
}
