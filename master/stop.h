/* stop: the orderly end, stage by stage, each bounded:
 *
 *   receivers            no new mail; what was acknowledged is queued
 *   workers              running transactions end and are reported
 *   scheduler, resolver  everything is settled and synced
 *   recorder             writes what was settled
 */
#pragma once

#include <stdbool.h>

#include "common/event/loop.h"
#include "master/children.h"

struct stop {
	struct children *children;
	void (*on_stopped)(void *arg);
	void *arg;
	struct timer timer;
	uint64_t began_boot_us;
	int stage; /* -1: not stopping */
};

void stop_init(struct stop *s, struct loop *loop, struct children *children,
	       void (*on_stopped)(void *arg), void *arg);
void stop_clear(struct stop *s);

void stop_begin(struct stop *s); /* again is nothing */
bool stop_is_on(const struct stop *s);
void stop_reaped(struct stop *s); /* a child has died: perhaps the stage is over */
