/* rollups: the mail of domains whose MX hosts mx-rollup-list names goes to the queues named there.
 *
 * Decided when the route of a domain's queue is known. Until that expires new mail of the domain
 * goes there as well; then it begins in the domain's own queue, and the next answer decides. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

struct route;
struct scheduler;

/* This queue's mail goes to a rollup queue. */
bool rollups_has(const struct scheduler *s, uint32_t queue);
/* Where new mail of this queue goes. */
uint32_t rollups_queue(const struct scheduler *s, uint32_t queue);
/* The queue's route is known until then; `what` as of routes_ask_for(). True: its mail is another
 * queue's now, or that waits for another answer and the route is asked for again: this one is not
 * wanted. False: it is for itself, until *until_boot_us, which may be earlier now. */
bool rollups_route(struct scheduler *s, uint32_t what, const struct route *r,
		   uint64_t *until_boot_us);
/* Another list: what is queued, and whose hosts are known, is looked through in the next turns. */
void rollups_reconfigured(struct scheduler *s);
/* Each turn; true: there is more to do. */
bool rollups_turn(struct scheduler *s);
void rollups_close(struct scheduler *s);
