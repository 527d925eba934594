/* orders: what an operator, or the action of a rule, asks of a whole queue. */
#include "scheduler/core/pump.h"
#include "scheduler/core/run.h"
#include "scheduler/core/targets.h"

void
core_pause(struct core *c, const struct core_now *now, uint32_t queue, bool paused)
{
	uint32_t qi = queue_index(c, queue);

	core_clock(c, now);
	if (qi == CORE_NONE || c->queues[qi].paused == paused)
		return;
	c->queues[qi].paused = paused;
	c->ops.queue_changed(c->ctx, queue);
	run_push(c, qi);
}

void
core_schedule(struct core *c, const struct core_now *now, uint32_t queue, bool rcpts)
{
	uint32_t qi = queue_index(c, queue);
	struct queue *q;

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	q = &c->queues[qi];
	if (q->retry_at) {
		q->retry_at = 0;
		q->retry_is_wall = false;
		c->ops.queue_changed(c->ctx, queue);
	}
	if (q->active)
		q->active->open_hold = 0;
	if (rcpts)
		q->release_left = q->n[PLACE_DEFERRED];
	run_push(c, qi);
}

void
core_look_again(struct core *c, const struct core_now *now, uint32_t queue)
{
	uint32_t qi = queue_index(c, queue);

	core_clock(c, now);
	if (qi != CORE_NONE)
		run_push(c, qi);
}

void
core_cap_connections(struct core *c, const struct core_now *now, uint32_t queue, uint32_t most,
		     uint64_t until_wall_us)
{
	uint32_t qi = queue_index(c, queue);
	struct active *a;

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	pump_settings(c, qi);
	a = pump_active(c, qi);
	a->most_conns = most;
	a->most_until = core_boot_of(c, until_wall_us);
	run_push(c, qi);
}

void
core_defer_queue(struct core *c, const struct core_now *now, uint32_t queue, uint64_t until_wall_us)
{
	uint32_t qi = queue_index(c, queue);
	struct queue *q;
	uint64_t at;

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	q = &c->queues[qi];
	at = until_wall_us ? core_boot_of(c, until_wall_us) : c->now.boot_us + 1;
	if (at <= c->now.boot_us ||
	    (q->retry_at && !q->retry_is_dns &&
	     (q->retry_is_wall ? core_boot_of(c, q->retry_at) : q->retry_at) >= at))
		return;
	if (until_wall_us == 0) {
		targets_retry(c, qi, 0);
		return;
	}
	q->retry_at = at;
	q->retry_is_dns = q->retry_is_wall = false;
	c->ops.queue_changed(c->ctx, queue);
	run_push(c, qi);
}

void
core_bounce_queue(struct core *c, const struct core_now *now, uint32_t queue, const char *text)
{
	uint32_t qi = queue_index(c, queue);

	core_clock(c, now);
	if (qi == CORE_NONE || c->queues[qi].moving)
		return;
	pump_settings(c, qi);
	targets_doom(c, qi, CORE_BOUNCE_QUEUE, text);
}
