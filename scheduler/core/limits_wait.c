#include "scheduler/core/limits_impl.h"

#include "scheduler/core/admit.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/sources.h"

/* A promise that is not used is void in the second epoch after it was made. */
#define PROMISE_EPOCH_US (SECOND_US / 2)
#define PROMISE_LOOK_US  20000u
/* A line that goes at a steady pace is not woken for each single one. */
#define PACE_BATCH_US 5000u
#define PACE_LATE_US  50000u
/* In place of a limit: the queue has had so many turns in vain that it goes before others in any line. */
#define OWED_BY_ALL UINT32_MAX

/* Turns that are owed ------------------------------------------------------------------------ */
bool
limits_is_owed(const struct active *a, uint32_t limit)
{
	return a->owed[0] == limit || a->owed[1] == limit || a->owed[0] == OWED_BY_ALL;
}

void
limits_owe(struct active *a, uint32_t limit)
{
	if (limits_is_owed(a, limit))
		return;
	/* A third one: were the first forgotten for it, a queue that four lines stand before would go
	 * round and round. */
	if (a->owed[1] != 0)
		limit = OWED_BY_ALL;
	a->owed[1] = a->owed[0];
	a->owed[0] = limit;
}

/* Room --------------------------------------------------------------------------------------- */
/* What is promised and not lapsed. */
static uint64_t
promised(struct core *c, struct limit *l)
{
	uint64_t epoch = c->now.boot_us / PROMISE_EPOCH_US;

	if (l->promise_epoch + 1 == epoch) {
		l->promised[1] = l->promised[0];
		l->promised[0] = 0;
	} else if (l->promise_epoch != epoch) {
		l->promised[0] = l->promised[1] = 0;
	}
	l->promise_epoch = epoch;
	return (uint64_t)l->promised[0] + l->promised[1];
}

uint64_t
limits_pace_of(const struct limit *l, uint64_t k)
{
	uint64_t window = rate_window_us(l->rate);

	return k * (window + rate_delta_us(window)) / l->n;
}

uint64_t
limits_pace_late(uint64_t window_us)
{
	uint64_t part = window_us / 20 < PACE_LATE_US ? window_us / 20 : PACE_LATE_US;

	return window_us / 50 > part ? window_us / 50 : part;
}

/* When the pace allows the next one: 0 now, or it does not matter. */
uint64_t
limits_pace_when(const struct core *c, const struct limit *l, uint32_t qi, unsigned priority)
{
	uint64_t batch;

	if (!limit_is_paced(l) || l->paced <= c->now.boot_us || !l->line ||
	    !lines_others(c, l->line, qi, priority))
		return 0;
	batch = rate_window_us(l->rate) / 200;
	return l->paced + (batch < PACE_BATCH_US ? batch : PACE_BATCH_US);
}

/* Room that is not promised to others. */
uint64_t
limits_room_of(struct core *c, struct limit *l, const struct active *a)
{
	uint64_t room, kept = 0;

	if (limit_is_count(l))
		return l->used < l->n ? l->n - l->used : 0;
	limits_take_back(l);
	room = rate_room(l->rate, c->now.boot_us);
	if (l->scope != CORE_SCOPE_QUEUE)
		kept = promised(c, l);
	/* Time only makes it more; what is charged or promised from now on is taken off. */
	l->sure = limit_is_in_force(l) && room > kept ? room - kept : 0;
	if (a)
		kept -= a->n_promised < kept ? a->n_promised : kept;
	return room > kept ? room - kept : 0;
}

uint64_t
limits_when_of(struct core *c, struct limit *l)
{
	uint64_t when;

	if (limit_is_count(l))
		return l->used < l->n ? c->now.boot_us : NEVER;
	when = rate_when(l->rate, c->now.boot_us);
	if (when <= c->now.boot_us && promised(c, l) > 0) {
		/* More of it may be there before the promises are void. */
		when = (l->promise_epoch + 1) * PROMISE_EPOCH_US;
		if (when > c->now.boot_us + PROMISE_LOOK_US)
			when = c->now.boot_us + PROMISE_LOOK_US;
	}
	return when;
}

/* Waiting ------------------------------------------------------------------------------------ */
bool
limits_line_has_room(struct core *c, uint32_t line, uint64_t *when)
{
	const struct line *ln = &c->lines[line];
	struct limit *l;
	uint32_t head;

	*when = NEVER;
	switch ((enum line_kind)ln->kind) {
	case LINE_LIMIT:
		l = &c->limits[ln->of];
		if (!limit_is_in_force(l))
			return true;
		head = lines_head(c, line);
		if (limits_room_of(c, l, c->queues[head].active) == 0)
			*when = limits_when_of(c, l);
		else
			*when = limits_pace_when(c, l, head, c->queues[head].line_priority);
		return *when == 0;
	case LINE_ASKS:
		return c->n_asks < DNS_INFLIGHT_MAX;
	case LINE_ROOM:
		return !c->workers[ln->of].full;
	case LINE_CONNS:
		return sources_conn_room(c, ln->of) > 0;
	case LINE_SOURCES:
		return sources_have_room(c, ln->of, true, when);
	case LINE_SENDERS:
		return sources_have_room(c, ln->of, false, when);
	case LINE_NONE:
		break;
	}
	return false;
}

bool
limits_wanted(const struct core *c, const struct charges *set)
{
	if (c->n_limit_lines == 0)
		return false;
	for (uint32_t left = set->counts; left; left &= left - 1) {
		const struct limit *l = &c->limits[set->of[__builtin_ctz(left)]];

		if (l->line && c->lines[l->line].n > l->ending && l->used >= l->n)
			return true;
	}
	return false;
}

void
limits_promise(struct core *c, struct conn *cn)
{
	struct charges set;
	unsigned n = 0;

	charges_none(&set);
	admit_message(c, cn->queue, &set);
	for (uint32_t k = 0; k < set.n && n < PROMISES_MAX; k++) {
		struct limit *l = &c->limits[set.of[k]];

		if (l->scope == CORE_SCOPE_QUEUE || l->measure != CORE_MEASURE_MSG)
			continue;
		promised(c, l);
		l->promised[0]++;
		l->sure -= l->sure > 0;
		cn->promises[n++] = set.of[k];
	}
	if (n == 0)
		return;
	c->charged_units++; /* as much as one */
	cn->promise_epoch = c->now.boot_us / PROMISE_EPOCH_US;
	c->queues[cn->queue].active->n_promised++;
}

void
limits_promise_over(struct core *c, struct conn *cn)
{
	if (cn->promises[0] == 0)
		return;
	for (unsigned n = 0; n < PROMISES_MAX && cn->promises[n]; n++) {
		struct limit *l = &c->limits[cn->promises[n]];

		cn->promises[n] = 0;
		if (!l->made || promised(c, l) == 0 || cn->promise_epoch + 1 < l->promise_epoch)
			continue;
		/* The limit may be another one by now: it is a promise only. */
		if (l->promised[l->promise_epoch - cn->promise_epoch] > 0)
			l->promised[l->promise_epoch - cn->promise_epoch]--;
		lines_poke(c, l->line);
	}
	c->queues[cn->queue].active->n_promised--;
}
