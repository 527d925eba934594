/* lines: where queues wait for what several of them want. Higher queue-priority first, equal ones
 * in turn. A line is made when its first queue comes and goes with its last: what has no line costs
 * nothing. */
#pragma once

#include "scheduler/core/state.h"

void lines_clear(struct core *c);

/* In the line *line (made when there is none) of `kind`, with `of`. At the end of its class, or at
 * its head: its turn was in vain. Keeps its place when it is there already, unless `head`. */
void lines_join(struct core *c, uint32_t qi, enum line_kind kind, uint32_t of, bool head);
void lines_leave(struct core *c, uint32_t qi);
/* The head of its class goes to the end of it. */
void lines_rotate(struct core *c, uint32_t qi);
/* Queue at the head, CORE_NONE. */
uint32_t lines_head(const struct core *c, uint32_t line);
/* Whether others come before this queue of that priority: they wait in the line ahead of it. */
bool lines_ahead(const struct core *c, uint32_t line, uint32_t qi, unsigned priority);
/* Whether others wait in the line that are not less urgent. */
bool lines_others(const struct core *c, uint32_t line, uint32_t qi, unsigned priority);
/* Queues of a higher priority than this. */
uint32_t lines_above(const struct core *c, uint32_t line, unsigned priority);

/* There may be room: looked at soon. 0: no line, nothing happens. */
void lines_poke(struct core *c, uint32_t line);
/* Not before `at`; keeps an earlier time. */
void lines_wake_at(struct core *c, uint32_t line, uint64_t at);
/* All queues of the line are looked at. They leave it themselves. */
void lines_push_all(struct core *c, uint32_t line);
/* The first poked line, 0: none; that one is poked no more. */
uint32_t lines_poked(const struct core *c);
void lines_unpoke(struct core *c);
/* Pokes those whose time has come. */
void lines_tick(struct core *c);
/* Nothing is poked any more, and no line without queues is left; then all may be poked. */
void lines_settle(struct core *c);
void lines_poke_all(struct core *c);
/* Where its owner keeps the number of this line. */
uint32_t *lines_owner(struct core *c, enum line_kind kind, uint32_t of);
