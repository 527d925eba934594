#include "master/stop.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "master/master.h"

static const struct {
	const char *name;
	unsigned roles;
	const unsigned *until_ms;
} stages[] = {
	{ "receivers", CHILDREN_MASK(ROLE_RECEIVER), &master_times.receivers_ms },
	{ "workers", CHILDREN_MASK(ROLE_WORKER), &master_times.workers_ms },
	{ "scheduler", CHILDREN_MASK(ROLE_SCHEDULER) | CHILDREN_MASK(ROLE_RESOLVER),
	  &master_times.scheduler_ms },
	{ "recorder", CHILDREN_ALL, &master_times.all_ms },
};
#define STAGES ((int)(sizeof stages / sizeof *stages))

/* Goes on to the first stage that has somebody left; past the last one is the end. */
static void
advance(struct stop *s)
{
	uint64_t passed_us = clock_boot_us() - s->began_boot_us;
	uint64_t until_us;

	while (++s->stage < STAGES && children_alive(s->children, stages[s->stage].roles) == 0)
		;
	if (s->stage >= STAGES) {
		timer_stop(&s->timer);
		log_info("stopped took_ms=%llu", (unsigned long long)(passed_us / 1000));
		s->on_stopped(s->arg);
		return;
	}
	log_info("stopping stage=%s processes=%u", stages[s->stage].name,
		 children_alive(s->children, stages[s->stage].roles));
	children_drain(s->children, stages[s->stage].roles);
	until_us = *stages[s->stage].until_ms * 1000ull;
	timer_set(&s->timer, until_us > passed_us ? until_us - passed_us : 0);
}

static void
on_late(void *arg)
{
	struct stop *s = arg;

	/* Their deaths are reaped like any other, and that goes on to the next stage. */
	children_kill(s->children, stages[s->stage].roles);
}

void
stop_init(struct stop *s, struct loop *loop, struct children *children,
	  void (*on_stopped)(void *arg), void *arg)
{
	*s = (struct stop){
		.children = children, .on_stopped = on_stopped, .arg = arg, .stage = -1
	};
	timer_init(&s->timer, loop, on_late, s);
}

void
stop_clear(struct stop *s)
{
	timer_clear(&s->timer);
}

bool
stop_is_on(const struct stop *s)
{
	return s->stage >= 0;
}

void
stop_begin(struct stop *s)
{
	if (stop_is_on(s))
		return;
	s->began_boot_us = clock_boot_us();
	children_no_restart(s->children);
	advance(s);
}

void
stop_reaped(struct stop *s)
{
	if (s->stage >= 0 && s->stage < STAGES &&
	    children_alive(s->children, stages[s->stage].roles) == 0)
		advance(s);
}
