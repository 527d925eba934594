/* targets: the route of a queue: which address has the next connection, what failed, when it is
 * over. */
#pragma once

#include "scheduler/core/state.h"

bool targets_route_valid(const struct core *c, const struct active *a);
/* The next one, -1 when all failed in this round; `skip`: bits of those that are not wanted. */
int targets_pick(struct core *c, struct active *a, const struct conf_queue *s, uint64_t skip);
/* When what failed is tried again although others work, boot µs. */
uint64_t targets_again_at(const struct active *a, const struct conf_queue *s);
/* A connection of the queue on that target failed. */
enum target_failure { TARGET_FAILED, TARGET_REFUSED /* 5xx greeting */, TARGET_DENIED };
void targets_failed(struct core *c, uint32_t qi, const struct conn *cn, enum target_failure how);
void targets_succeeded(struct core *c, uint32_t qi, const struct conn *cn);
/* Whether the route of the queue still has what the connection was opened to. */
bool targets_has(const struct active *a, const struct conn *cn);

/* When all targets failed and no connection lives the round is over: retry or give-up, and true. */
bool targets_round_over(struct core *c, uint32_t qi);
/* Into retry for the next step of retry-after (`us` 0), or for `us` after a DNS error. */
void targets_retry(struct core *c, uint32_t qi, uint64_t us);
void targets_forget(struct active *a);
/* Gives up what is in the queue now, in slices. `text` NULL: as the last time. */
void targets_doom(struct core *c, uint32_t qi, enum core_give_up why, const char *text);
