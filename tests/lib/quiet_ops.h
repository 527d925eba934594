/* quiet_ops: ops of the scheduler's core for who gives nothing up and does not look at queues. */
#pragma once

#include "common/base/check.h"
#include "scheduler/core/core.h"

static inline void
quiet_give_up(void *ctx, uint32_t entry, enum core_give_up why, const char *text)
{
	(void)ctx;
	(void)entry;
	(void)why;
	(void)text;
	CHECK(!"nothing is given up here");
}

static inline void
quiet_changed(void *ctx, uint32_t queue)
{
	(void)ctx;
	(void)queue;
}
