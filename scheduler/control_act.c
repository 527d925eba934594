/* control_act: commands that change queues or the instance. */
#include "common/base/log.h"
#include "scheduler/control.h"

struct acting {
	struct request *r;
	struct slice pattern;
	unsigned matched;
	void (*act)(struct acting *a, uint32_t queue);
};

static void
on_queue(void *arg, uint32_t queue)
{
	struct acting *a = arg;

	if (!control_matches(names_get(a->r->s->names, queue), a->pattern))
		return;
	a->matched++;
	a->act(a, queue);
}

static bool
for_each_match(struct request *r, void (*act)(struct acting *a, uint32_t queue))
{
	struct acting a = { .r = r, .pattern = control_word(r, 0), .act = act };
	uint32_t cursor = 0;

	if (a.pattern.n == 0) {
		control_fail(r, 2, "a queue or pattern is missing: D/V, */V, D/* or */*");
		return true;
	}
	while (core_each_queue(r->s->core, &cursor, 4096, on_queue, &a))
		;
	if (a.matched == 0)
		control_fail(r, 1, "no queue matches");
	json_key_u64(&r->json, "matched", a.matched);
	return true;
}

static void
act_pause(struct acting *a, uint32_t queue)
{
	struct core_now now = scheduler_now(a->r->s);

	core_pause(a->r->s->core, &now, queue, true);
}

static void
act_resume(struct acting *a, uint32_t queue)
{
	struct core_now now = scheduler_now(a->r->s);

	core_pause(a->r->s->core, &now, queue, false);
}

static void
act_schedule(struct acting *a, uint32_t queue)
{
	struct core_now now = scheduler_now(a->r->s);

	core_schedule(a->r->s->core, &now, queue, control_flag(a->r, "retry-recipients"));
}

bool
control_pause(struct request *r)
{
	struct slice name = control_word(r, 0);

	/* A queue may be paused before its first mail comes. */
	if (name.n > 0 && name.n < NAME_BYTES_MAX && memchr(name.p, '*', name.n) == NULL &&
	    memchr(name.p, '/', name.n) != NULL) {
		struct slice vmta = name;
		struct slice domain = slice_cut(&vmta, '/');

		if (slice_is(vmta, "{default}") || conf_vmta_find(r->s->conf, vmta) >= 0)
			(void)scheduler_queue(r->s, domain, vmta);
	}
	return for_each_match(r, act_pause);
}

bool
control_resume(struct request *r)
{
	return for_each_match(r, act_resume);
}

bool
control_schedule(struct request *r)
{
	return for_each_match(r, act_schedule);
}

bool
control_stop(struct request *r)
{
	json_key_bool(&r->json, "stopping", true);
	proc_ask_stop(r->s->proc);
	return true;
}
