/* limits_impl: what limits.c (one limit), limits_objects.c (what limits belong to), limits_ask.c
 * (asking and charging) and limits_wait.c (room, and who waits for it) share. */
#pragma once

#include "scheduler/core/limits.h"

static inline bool
limit_is_count(const struct limit *l)
{
	return l->measure == CORE_MEASURE_SMTP_OUT;
}

/* Pace: as long as several wait, what N allows goes out steadily and not in bursts of a fifth, so
 * that one of a higher priority finds room at any time. Being late (nobody could use the room: a
 * machine that stood still, connections on their way) is made up for, by a fiftieth of the window or,
 * if that is more, by a twentieth up to 50 ms: no more, for it comes again in each window after it. */
static inline bool
limit_is_paced(const struct limit *l)
{
	return l->scope != CORE_SCOPE_QUEUE && l->rate && l->measure != CORE_MEASURE_VOLUME;
}

uint64_t limits_group_key(enum core_scope scope, uint64_t id, uint32_t source);

/* What the configuration says of one measure; `n` 0: unlimited. *at: the limit, 0: none. */
void limits_set_one(struct core *c, uint32_t *at, enum core_scope scope, enum core_measure measure,
		    enum limit_mode mode, uint32_t owner, uint64_t n, uint64_t window);
void limits_disown(struct core *c, uint32_t *at);
/* It is another one from now on: nothing is sure. */
void limits_not_sure(struct core *c, struct limit *l);

/* Of twins the one whose mode its queue is in, also for one source IP alone. */
bool limits_in_mode(const struct core *c, const struct limit *l);

/* More is charged than its rate can remember: another one. */
void limits_keep_all(struct core *c, struct limit *l);
/* Limits that are off, and whose charges do not count any more, go. */
void limits_sweep_off(struct core *c);

/* Room that is not promised to others. */
uint64_t limits_room_of(struct core *c, struct limit *l, const struct active *a);
uint64_t limits_when_of(struct core *c, struct limit *l);
/* When the pace allows the next one: 0 now, or it does not matter. */
uint64_t limits_pace_when(const struct core *c, const struct limit *l, uint32_t qi,
			  unsigned priority);
uint64_t limits_pace_of(const struct limit *l, uint64_t k);
uint64_t limits_pace_late(uint64_t window_us);

static inline void
limits_pace(const struct core *c, struct limit *l, uint64_t k)
{
	if (l->paced + l->pace_late < c->now.boot_us)
		l->paced = c->now.boot_us - l->pace_late;
	l->paced += k == 1 ? l->pace_one : limits_pace_of(l, k);
}
