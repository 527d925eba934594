#include "scheduler/core/core.h"

#include <limits.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

/* Opens are held for 3.2 s at the most: when a worker has descriptors again, mail goes out within 5
 * s. */
#define HOLD_LEVEL_MOST 5

/* So many turns in a row that led nowhere, then the line rests. */
#define VAIN_TURNS   16
#define VAIN_REST_US 10000u

/* A waiting queue whose turn does not come sooner is looked at in this many at one go. */
#define TIMERS_AT_ONCE 4096

/* Clock -------------------------------------------------------------------------------------- */
void
core_clock(struct core *c, const struct core_now *now)
{
	uint64_t boot = c->now.boot_us;

	c->now = *now;
	if (c->now.boot_us < boot)
		c->now.boot_us = boot; /* it never runs backwards */
	/* Not before the time is known: what was charged to them has stamps. */
	if (c->all == 0)
		limits_world_set(c);
	backoff_clock(c);
}

uint64_t
core_wall_of(const struct core *c, uint64_t boot_us)
{
	uint64_t wall = c->now.wall_us + boot_us - c->now.boot_us;

	return (int64_t)wall < 0 ? 0 : wall;
}

uint64_t
core_boot_of(const struct core *c, uint64_t wall_us)
{
	uint64_t boot = c->now.boot_us + wall_us - c->now.wall_us;

	return (int64_t)boot < 0 ? 0 : boot;
}

void
meter_add(struct meter *m, uint64_t now_us, uint32_t k)
{
	uint32_t step = (uint32_t)(now_us / (10 * SECOND_US));

	if (step - m->step >= METER_STEPS)
		memset(m->count, 0, sizeof(m->count));
	else
		while (m->step != step)
			m->count[++m->step % METER_STEPS] = 0;
	m->step = step;
	m->count[step % METER_STEPS] += k;
}

uint64_t
meter_minute(const struct meter *m, uint64_t now_us)
{
	uint32_t step = (uint32_t)(now_us / (10 * SECOND_US));
	uint64_t sum = 0;

	for (uint32_t i = 0; i < METER_STEPS; i++) {
		if (step - (m->step - i) < METER_STEPS)
			sum += m->count[(m->step - i) % METER_STEPS];
	}
	return sum;
}

/* Life --------------------------------------------------------------------------------------- */
static uint32_t *
heap_position(void *arg, uint32_t queue)
{
	struct core *c = arg;

	return &c->queues[queue].heap_pos;
}

static uint32_t *
line_heap_position(void *arg, uint32_t line)
{
	struct core *c = arg;

	return &c->lines[line].heap_pos;
}

struct core *
core_new_in(const struct core_ops *ops, void *ctx, const struct core_world *w, uint64_t next_lease)
{
	struct core *c = mem_zalloc(sizeof(*c));

	c->ops = *ops;
	c->ctx = ctx;
	c->next_lease = next_lease ? next_lease : 1;
	c->total_max = w->total_max_smtp_out;
	c->free_claim = c->free_tag = c->spare_chunk = CORE_NONE;
	c->give_up_room = c->move_room = UINT32_MAX;
	c->lowest_priority = UINT_MAX;
	c->doomed = c->run = c->poked = c->free_conns = c->resting =
		(struct list){ CORE_NONE, CORE_NONE };
	c->timers.pos = heap_position;
	c->timers.arg = c;
	c->line_timers.pos = line_heap_position;
	c->line_timers.arg = c;
	backoff_make(c);
	/* The first of each is nobody. */
	mem_grow((void **)&c->lines, &c->lines_cap, 1, sizeof(*c->lines));
	mem_grow((void **)&c->limits, &c->limits_cap, 1, sizeof(*c->limits));
	mem_grow((void **)&c->groups, &c->groups_cap, 1, sizeof(*c->groups));
	mem_grow((void **)&c->sets, &c->sets_cap, 1, sizeof(*c->sets));
	memset(c->sets, 0, sizeof(*c->sets));
	memset(c->lines, 0, c->lines_cap * sizeof(*c->lines));
	memset(c->limits, 0, sizeof(*c->limits));
	memset(c->groups, 0, sizeof(*c->groups));
	c->n_lines = c->n_limits = c->n_groups = c->n_sets = 1;
	c->pass_epoch = 1;
	sources_make(c, w);
	return c;
}

void
core_free(struct core **core)
{
	struct core *c = *core;

	if (!c)
		return;
	for (size_t i = 0; i < c->marks.cap; i++) {
		if (c->marks.cells[i].value != MAP_NONE)
			mem_free((void *)(uintptr_t)c->marks.cells[i].value);
	}
	for (uint32_t i = 0; i < c->n_queues; i++) {
		pump_active_free(c, &c->queues[i].active);
		mem_free(c->queues[i].name);
	}
	grants_clear(c);
	sources_clear(c);
	lines_clear(c);
	limits_clear(c);
	backoff_clear(c);
	map_clear(&c->marks);
	map_clear(&c->tags_map);
	map_clear(&c->moves);
	map_clear(&c->kept);
	texts_clear(&c->errors);
	timers_clear(&c->timers);
	mem_free(c->entries);
	mem_free(c->chunks);
	mem_free(c->tags);
	mem_free(c->epochs);
	mem_free(c->queues);
	mem_free(c->touched);
	mem_free(c->by_number);
	mem_free(c->conns);
	mem_free(c);
	*core = NULL;
}

/* Connections of a source IP that the virtual MTA does not have any more end with their message. */
static void
retire_strangers(struct core *c, const struct core_world *w)
{
	struct map has = { 0 };

	for (size_t v = 0; v < w->n_vmtas; v++) {
		for (unsigned k = 0; k < w->vmtas[v].n_sources; k++)
			map_put(&has, (uint64_t)v << 32 | w->vmtas[v].sources[k].source_ip, 1);
	}
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		struct conn *cn = &c->conns[i];
		int32_t vmta = cn->state == CONN_FREE ? -1 : c->queues[cn->queue].vmta;

		if (vmta >= 0 && map_get(&has, (uint64_t)vmta << 32 | cn->source) == MAP_NONE)
			cn->retired = 1;
	}
	map_clear(&has);
}

void
core_reconfigure_in(struct core *c, const struct core_now *now, const struct core_world *w,
		    const uint32_t *source_map)
{
	core_clock(c, now);
	for (uint32_t i = 0; i < c->n_queues; i++) {
		enum line_kind kind = (enum line_kind)c->lines[c->queues[i].line].kind;

		if (c->queues[i].line && (kind == LINE_SOURCES || kind == LINE_SENDERS))
			lines_leave(c, i);
	}
	lines_settle(c);
	sources_change(c, w, source_map);
	c->total_max = w->total_max_smtp_out;
	limits_world_set(c);
	for (uint32_t i = 0; i < c->n_queues; i++) {
		struct queue *q = &c->queues[i];

		q->vmta = sources_vmta(c, slice_of(q->name, q->name_len));
	}
	retire_strangers(c, w);
	core_settings_changed(c, now);
	lines_poke_all(c);
}

void
core_routes_void(struct core *c, const struct core_now *now)
{
	core_clock(c, now);
	for (uint32_t i = 0; i < c->n_queues; i++) {
		if (c->queues[i].active)
			c->queues[i].active->route_expires = c->now.boot_us;
	}
}

/* Running ------------------------------------------------------------------------------------ */
/* The next queue to look at and the line whose turn it has; CORE_NONE when there is none. */
static uint32_t
next_queue(struct core *c, uint32_t *turn)
{
	uint32_t line;

	while ((line = lines_poked(c)) != 0) {
		uint32_t qi = lines_head(c, line);
		uint64_t when;

		if (qi == CORE_NONE || !limits_line_has_room(c, line, &when)) {
			lines_unpoke(c);
			if (qi != CORE_NONE)
				lines_wake_at(c, line, when);
			continue;
		}
		/* It had more than its share the last time. */
		if (c->queues[qi].active->debt > 0 &&
		    lines_others(c, line, qi, c->queues[qi].line_priority)) {
			c->queues[qi].active->debt--;
			lines_rotate(c, qi);
			continue;
		}
		*turn = line;
		return qi;
	}
	*turn = 0;
	sources_offer_all(c);
	return run_pop(c);
}

/* The line after a turn: goes on, or rests. */
static void
after_turn(struct core *c, uint32_t line, uint32_t qi, bool used)
{
	struct line *l = &c->lines[line];
	bool sources = l->kind == LINE_SOURCES || l->kind == LINE_SENDERS;
	uint64_t until = c->queues[qi].until;

	if (used || l->kind == LINE_NONE || l->n == 0) {
		l->vain = l->asked = 0;
		return;
	}
	if (c->queues[qi].line == line && !sources) {
		lines_unpoke(c);
		lines_wake_at(c, line,
			      until > c->now.boot_us ? until : c->now.boot_us + VAIN_REST_US);
		return;
	}
	/* The next one may have a use for it. Of those who wait for source IPs each may have
	 * something of its own in the way: once all were asked, it takes an event to ask again. */
	l->vain++;
	if (c->queues[qi].line == line) {
		lines_rotate(c, qi);
		if (++l->asked >= l->n) {
			l->vain = l->asked = 0;
			lines_unpoke(c);
			return;
		}
	}
	if (l->vain % VAIN_TURNS == 0) {
		lines_unpoke(c);
		lines_wake_at(c, line, c->now.boot_us + VAIN_REST_US);
	}
}

void
core_give_up_room(struct core *c, const struct core_now *now, uint32_t room)
{
	core_clock(c, now);
	c->give_up_room = room;
	run_wake_doomed(c);
}

uint64_t
core_run(struct core *c, const struct core_now *now, unsigned most)
{
	unsigned work = 0;
	uint64_t next;

	core_clock(c, now);
	if (!c->started) {
		c->started = true;
		sources_begin(c);
	}
	sources_tick(c);
	lines_tick(c);
	limits_sweep(c);
	backoff_tick(c);
	for (unsigned i = 0; timers_next(&c->timers) <= c->now.boot_us; i++) {
		if (i == TIMERS_AT_ONCE && most) {
			work = most;
			break;
		}
		run_push(c, timers_pop(&c->timers));
	}
	for (;;) {
		uint32_t turn, qi;
		bool used;

		if (most && work >= most)
			return c->now.boot_us;
		qi = next_queue(c, &turn);
		if (qi == CORE_NONE)
			break;
		used = pump_visit(c, qi, &work, turn);
		if (turn)
			after_turn(c, turn, qi, used);
		work++; /* also a look costs time */
	}
	next = timers_next(&c->timers);
	if (timers_next(&c->line_timers) < next)
		next = timers_next(&c->line_timers);
	if (backoff_next(c) < next)
		next = backoff_next(c);
	return c->move_next < next ? c->move_next : next;
}

/* Workers ------------------------------------------------------------------------------------ */
void
core_worker_up(struct core *c, const struct core_now *now, unsigned worker)
{
	core_clock(c, now);
	CHECK(worker < c->n_workers);
	sources_worker_up(c, worker);
}

void
core_worker_connections(struct core *c, const struct core_now *now, unsigned worker, uint32_t most)
{
	core_clock(c, now);
	CHECK(worker < c->n_workers);
	c->workers[worker].most_conns = most;
	lines_poke(c, c->workers[worker].conns);
}

void
core_worker_down(struct core *c, const struct core_now *now, unsigned worker)
{
	core_clock(c, now);
	CHECK(worker < c->n_workers);
	c->workers[worker].up = false;
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		struct conn *cn = &c->conns[i];
		uint32_t qi;

		if (cn->state == CONN_FREE || cn->worker != worker)
			continue;
		qi = cn->queue;
		if (cn->state == CONN_OPENING)
			c->totals.connect_failed++;
		conns_free(c, i);
		run_push(c, qi);
	}
	grants_worker_down(c, worker);
	sources_worker_down(c, worker);
}

void
core_worker_room(struct core *c, const struct core_now *now, unsigned worker)
{
	core_clock(c, now);
	CHECK(worker < c->n_workers);
	c->workers[worker].full = false;
	lines_poke(c, c->workers[worker].line);
}

/* Connections -------------------------------------------------------------------------------- */
/* The n-th time in a row that OPENs came back unattempted: the next one waits longer. */
static void
hold_opens(struct core *c, struct active *a)
{
	uint64_t hold = 100000ull << a->hold_level;

	if (a->open_hold > c->now.boot_us)
		return; /* it was opened before: the same time */
	if (a->hold_level < HOLD_LEVEL_MOST)
		a->hold_level++;
	a->open_hold = c->now.boot_us + hold;
}

void
core_opened(struct core *c, const struct core_now *now, uint32_t connection, uint32_t rcpt_max)
{
	core_opened_as(c, now, connection, rcpt_max, true);
}

void
core_opened_as(struct core *c, const struct core_now *now, uint32_t connection, uint32_t rcpt_max,
	       bool pipelining)
{
	struct conn *cn;

	core_clock(c, now);
	cn = conns_get(c, connection);
	if (!cn || cn->state != CONN_OPENING)
		return;
	cn->rcpt_max = rcpt_max;
	cn->pipelining = pipelining;
	c->queues[cn->queue].active->hold_level = 0;
	targets_succeeded(c, cn->queue, cn);
	conns_set(c, connection, CONN_IDLE);
	cn->stamp = c->now.boot_us;
	run_push(c, cn->queue);
}

void
core_open_failed(struct core *c, const struct core_now *now, uint32_t connection,
		 enum core_failure why, struct slice text)
{
	struct conn *cn;
	struct active *a;
	uint32_t qi;

	core_clock(c, now);
	cn = conns_get(c, connection);
	if (!cn)
		return;
	if (cn->state != CONN_OPENING) {
		core_closed(c, now, connection, text);
		return;
	}
	qi = cn->queue;
	a = pump_active(c, qi);
	c->totals.connect_failed++;
	pump_last_error(c, qi, text);
	if (why == CORE_FAIL_NOT_ATTEMPTED || why == CORE_FAIL_NO_RESOURCES ||
	    why == CORE_FAIL_SOURCE || why == CORE_FAIL_DENIED)
		limits_refund(c, sets_of(c, cn->charges), cn->opened_at, 1, 0);
	if (why == CORE_FAIL_GIVEN_UP) {
		hold_opens(c, a);
	} else if (why == CORE_FAIL_NOT_ATTEMPTED) {
		/* Perhaps the route was stale: a fresh one costs little. */
		a->route_expires = c->now.boot_us;
		hold_opens(c, a);
	} else if (why == CORE_FAIL_NO_RESOURCES) {
		hold_opens(c, a);
	} else if (why == CORE_FAIL_SOURCE) {
		sources_bad(c, cn->source);
	} else {
		targets_failed(c, qi, cn,
			       why == CORE_FAIL_HOST_PERMANENT ? TARGET_REFUSED
			       : why == CORE_FAIL_DENIED       ? TARGET_DENIED
							       : TARGET_FAILED);
	}
	conns_free(c, connection);
	run_push(c, qi);
}

/* A peer that closes what nobody used, this soon after it was ready, does not want us. */
#define QUICK_CLOSE_US (5 * SECOND_US)

void
core_closed(struct core *c, const struct core_now *now, uint32_t connection, struct slice text)
{
	struct conn *cn;
	uint32_t qi;

	core_clock(c, now);
	cn = conns_get(c, connection);
	if (!cn)
		return;
	if (cn->state == CONN_OPENING) {
		core_open_failed(c, now, connection, CORE_FAIL_HOST, text);
		return;
	}
	qi = cn->queue;
	if (cn->state == CONN_IDLE && cn->n_messages == 0 &&
	    cn->stamp + QUICK_CLOSE_US > c->now.boot_us) {
		pump_last_error(c, qi, text);
		targets_failed(c, qi, cn, TARGET_FAILED);
	}
	conns_free(c, connection);
	run_push(c, qi);
}

bool
core_adopt_connection(struct core *c, const struct core_now *now, uint32_t connection,
		      uint32_t queue, unsigned worker, uint32_t source_ip)
{
	uint32_t qi = queue_index(c, queue);

	core_clock(c, now);
	CHECK(worker < c->n_workers);
	if (qi == CORE_NONE || source_ip >= c->n_sources)
		return false;
	pump_settings(c, qi);
	if (!conns_adopt(c, connection, qi, worker, source_ip, CONN_IDLE))
		return false;
	run_push(c, qi);
	return true;
}

int
core_connection_worker(const struct core *c, uint32_t connection)
{
	if (connection >= c->n_conns_made || c->conns[connection].state == CONN_FREE)
		return -1;
	return c->conns[connection].worker;
}
