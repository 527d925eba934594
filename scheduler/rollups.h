/* rollups: the mail of domains whose MX hosts mx-rollup-list names goes to the queues named there.
 *
 * Decided when the route of a domain's queue is known. Until that expires new mail of the domain
 * goes there as well; then it begins in the domain's own queue, and the next answer decides. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

struct scheduler;

/* Where new mail of this queue goes. */
uint32_t rollups_queue(const struct scheduler *s, uint32_t queue);
/* The queue's MX hosts of the lowest preference (as in struct route) are known for so long. True:
 * its mail is another queue's now, the route is not wanted. */
bool rollups_route(struct scheduler *s, uint32_t queue, struct slice best, uint64_t until_boot_us);
/* Another list: what is queued, and whose hosts are known, is looked through in the next turns. */
void rollups_reconfigured(struct scheduler *s);
/* Each turn; true: there is more to do. */
bool rollups_turn(struct scheduler *s);
void rollups_close(struct scheduler *s);
