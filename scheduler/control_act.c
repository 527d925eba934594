/* control_act: commands that change queues or the instance. */
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/control.h"

/* Each change of a queue is a row to be written: so many make a transaction of bounded size. */
#define QUEUES_A_TURN 1024

struct acting {
	struct request *r;
	struct slice pattern;
	uint32_t cursor;
	unsigned matched;
	bool other; /* something else than queues was meant, and done already */
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
act_some(struct request *r)
{
	struct acting *a = r->state;

	r->waits = committer_is_full(r->s->committer);
	if (r->waits)
		return false;
	if (core_each_queue(r->s->core, &a->cursor, QUEUES_A_TURN, on_queue, a))
		return false;
	if (a->matched == 0 && !a->other)
		control_fail(r, 1, "no queue matches");
	json_key_u64(&r->json, "matched", a->matched);
	mem_free(a);
	if (r->status == 0)
		control_finish_when_durable(r);
	return true;
}

/* The answer comes when all of it is on disk. */
static bool
each_match(struct request *r, void (*act)(struct acting *a, uint32_t queue), bool other)
{
	struct slice pattern = control_word(r, 0);
	struct acting *a;

	if (pattern.n == 0) {
		control_fail(r, 2, "a queue or pattern is missing: D/V, */V, D/* or */*");
		return true;
	}
	a = mem_zalloc(sizeof *a);
	*a = (struct acting){ .r = r, .pattern = pattern, .act = act, .other = other };
	r->state = a;
	return control_go_on(r, act_some);
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
act_backoff(struct acting *a, uint32_t queue)
{
	backoff_command(a->r->s, queue, true);
}

static void
act_normal(struct acting *a, uint32_t queue)
{
	backoff_command(a->r->s, queue, false);
}

static void
act_schedule(struct acting *a, uint32_t queue)
{
	struct core_now now = scheduler_now(a->r->s);

	core_schedule(a->r->s->core, &now, queue, control_flag(a->r, "retry-recipients"));
}

/* What is set of a queue may be set before its first mail comes. */
static void
make_named_queue(struct request *r)
{
	char room[NAME_BYTES_MAX + 1];
	struct slice name = control_queue_name(r, control_word(r, 0), room);

	if (name.n > 0 && name.n < NAME_BYTES_MAX && memchr(name.p, '*', name.n) == NULL &&
	    memchr(name.p, '/', name.n) != NULL) {
		struct slice vmta = name;
		struct slice domain = slice_cut(&vmta, '/');

		if (slice_is(vmta, "{default}") || conf_vmta_find(r->s->conf, vmta) >= 0)
			(void)scheduler_queue(r->s, domain, vmta);
	}
}

bool
control_pause(struct request *r)
{
	make_named_queue(r);
	return each_match(r, act_pause, false);
}

bool
control_set_queue(struct request *r)
{
	struct slice mode = control_option(r, "mode");

	if (!slice_is(mode, "backoff") && !slice_is(mode, "normal")) {
		control_fail(r, 2, "--mode=backoff or --mode=normal");
		return true;
	}
	if (slice_is(mode, "normal"))
		return each_match(r, act_normal, backoff_end_wide(r->s, control_word(r, 0)));
	make_named_queue(r);
	return each_match(r, act_backoff, false);
}

bool
control_resume(struct request *r)
{
	return each_match(r, act_resume, false);
}

bool
control_schedule(struct request *r)
{
	return each_match(r, act_schedule, false);
}

bool
control_stop(struct request *r)
{
	json_key_bool(&r->json, "stopping", true);
	proc_ask_stop(r->s->proc);
	return true;
}
