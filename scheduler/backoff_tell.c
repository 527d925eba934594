/* backoff_tell: the core is told which queues are in back-off, and where mail goes elsewhere it is
 * sent there: of one queue at once, of many in slices. */
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/backoff_impl.h"
#include "scheduler/notify.h"
#include "scheduler/state.h"

#define QUEUES_A_TURN 512
#define LOOPS_NAMED   100 /* lines of the log, a sweep */

/* What the core was told of a queue. */
struct told {
	uint32_t by;      /* number of the row by which it is in back-off; 0: it is not */
	uint32_t how;     /* by the configuration of then */
	uint32_t sources : 30; /* and of which changes of source IPs' modes */
	bool loop_is_told : 1; /* operators were, in this mode */
	bool waits : 1;        /* it is on the list `later` */
};

struct list { /* of queues, by number */
	uint32_t *of;
	size_t n, cap;
};

struct backoff_tell {
	struct told *told; /* by queue */
	size_t cap;
	uint32_t how, sources; /* counted up: then all are to be told anew */
	/* All queues are looked at, some in a turn: their mode, and whether their mail has to go
	 * elsewhere. `again`: once more from the beginning; `tell`: for a flip. */
	bool sweeping, again, tell;
	uint32_t loops; /* reported in this sweep */
	bool looped; /* since then loops may have ended that others were told of */
	uint32_t cursor;
	struct list due;   /* whose mail may have to */
	struct list asked; /* that the core waits for */
	struct list later; /* whose mail cannot go yet */
	bool trying_again;
};

static void
add(struct list *l, uint32_t queue)
{
	void *p = l->of;

	mem_grow(&p, &l->cap, l->n + 1, sizeof *l->of);
	l->of = p;
	l->of[l->n++] = queue;
}

static void
renumber(struct list *l, uint32_t from, uint32_t fresh)
{
	for (size_t i = 0; i < l->n; i++) {
		if (l->of[i] == from)
			l->of[i] = fresh;
	}
}

void
backoff_tell_open(struct scheduler *s, bool sources)
{
	s->backoff_tell = mem_zalloc(sizeof *s->backoff_tell);
	s->backoff_tell->sources = sources;
}

void
backoff_tell_close(struct scheduler *s)
{
	if (s->backoff_tell == NULL)
		return;
	mem_free(s->backoff_tell->told);
	mem_free(s->backoff_tell->due.of);
	mem_free(s->backoff_tell->asked.of);
	mem_free(s->backoff_tell->later.of);
	mem_free(s->backoff_tell);
	s->backoff_tell = NULL;
}

static struct told *
told(struct scheduler *s, uint32_t queue)
{
	struct backoff_tell *b = s->backoff_tell;
	size_t before = b->cap;
	void *p = b->told;

	mem_grow(&p, &b->cap, (size_t)queue + 1, sizeof *b->told);
	b->told = p;
	if (b->cap > before)
		memset(b->told + before, 0, (b->cap - before) * sizeof *b->told);
	return &b->told[queue];
}

static void
reroute_each(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;

	if (!core_queue_view(s->core, &now, queue, &v) || v.entries == 0)
		return;
	if (core_redirected(s->core, queue) == queue)
		backoff_reroute(s, queue, CORE_NONE, s->backoff_tell->tell);
	/* It is to keep its mail again: what comes does not follow what went, however long something of
	 * it is in flight. */
	else if (!rollups_has(s, queue) && backoff_target(s, queue) == queue &&
		 !core_redirect_over(s->core, &now, queue))
		(void)backoff_reroute_later(s, queue);
}

/* Not now: whoever changes a mode goes on to use the queue's number, which this may change. */
void
backoff_reroute_soon(struct scheduler *s, uint32_t queue)
{
	add(&s->backoff_tell->due, queue);
	scheduler_kick(s);
}

bool
backoff_reroute_later(struct scheduler *s, uint32_t queue)
{
	struct told *t = told(s, queue);

	if (t->waits)
		return false;
	t->waits = true;
	add(&s->backoff_tell->later, queue);
	return !s->backoff_tell->trying_again;
}

/* A loop of its mail is told once in a mode, and of very many queues not each by its name. */
bool
backoff_loop_is_news(struct scheduler *s, uint32_t queue)
{
	struct told *t = told(s, queue);
	bool news = !t->loop_is_told;

	t->loop_is_told = true;
	return news && (!s->backoff_tell->sweeping || s->backoff_tell->loops++ < LOOPS_NAMED);
}

static void
count_loops(struct backoff_tell *b)
{
	if (b->loops > LOOPS_NAMED)
		log_warn("reroute=loop queues=%u not named here", b->loops - LOOPS_NAMED);
	b->loops = 0;
}

void
backoff_tell_tick(struct scheduler *s)
{
	struct backoff_tell *b = s->backoff_tell;
	struct list *l = &b->later;
	size_t n = l->n < QUEUES_A_TURN ? l->n : QUEUES_A_TURN;

	if (n == 0 || committer_is_full(s->committer))
		return;
	b->trying_again = true;
	for (size_t i = 0; i < n; i++) {
		told(s, l->of[i])->waits = false;
		reroute_each(s, l->of[i]); /* may come behind the others again */
	}
	b->trying_again = false;
	l->n -= n;
	memmove(l->of, l->of + n, l->n * sizeof *l->of);
}

/* In force ------------------------------------------------------------------------------------- */
/* Source IPs are few: one by one. */
void
backoff_tell_sources(struct scheduler *s, uint32_t queue)
{
	struct core_now now = scheduler_now(s);
	const struct backoff_row *own = backoff_own(s, queue), *row;
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips);

	if (notify_is_queue(names_get(s->names, queue)))
		return;
	for (uint32_t i = 1; i < n; i++) {
		struct core_backoff how = { .source_ip = i };

		row = backoff_of_source(s, slice_str(ips[i].text));
		if (row != NULL && backoff_row_holds(row, own)) {
			how.since_wall_us = row->since_wall_us;
			(void)core_backoff_enter(s->core, &now, queue, &how);
		} else if (row != NULL) {
			(void)core_backoff_leave(s->core, &now, queue, i, false);
		}
	}
}

/* Tells the core, whatever it was told before; `anew`: no reply has matched. */
static void
tell(struct scheduler *s, uint32_t queue, const struct backoff_row *row, bool anew)
{
	struct core_now now = scheduler_now(s);
	struct backoff_room room = { 0 };
	struct core_backoff how;

	if (row == NULL) {
		(void)core_backoff_leave(s->core, &now, queue, CORE_NONE, false);
	} else {
		backoff_how(s, queue, row, &how, &room);
		how.anew = anew;
		(void)core_backoff_enter(s->core, &now, queue, &how);
		backoff_room_clear(&room);
	}
	scheduler_kick(s);
}

static bool
is_told(struct scheduler *s, uint32_t queue, const struct backoff_row *row)
{
	const struct told *t = told(s, queue);

	return t->by == (row != NULL ? row->number : 0) &&
	       (row == NULL || t->how == s->backoff_tell->how);
}

void
backoff_queue(struct scheduler *s, uint32_t queue)
{
	struct backoff_tell *b = s->backoff_tell;
	const struct backoff_row *row;
	struct told *t;
	bool met, other;

	if (s->core == NULL || !backoff_is_known(s))
		return;
	row = backoff_of(s, queue);
	/* Noted before it is told: that may ask for other queues, and come back to this one; and
	 * the table may move. */
	if (!is_told(s, queue, row)) {
		t = told(s, queue);
		other = t->by != (row != NULL ? row->number : 0);
		t->by = row != NULL ? row->number : 0;
		t->how = b->how;
		t->loop_is_told &= !other;
		/* Its own row has just come: by a match. */
		met = other && row != NULL && row->scope == CONF_RULE_QUEUE;
		tell(s, queue, row, !met);
		if (other && (row == NULL || row->scope != CONF_RULE_QUEUE))
			backoff_reroute_soon(s, queue);
	}
	t = told(s, queue);
	if (t->sources != b->sources) {
		t->sources = b->sources;
		backoff_tell_sources(s, queue);
	}
}

bool
backoff_is_told(struct scheduler *s, uint32_t queue)
{
	struct backoff_tell *b = s->backoff_tell;

	if (!backoff_is_known(s) ||
	    (is_told(s, queue, backoff_of(s, queue)) && told(s, queue)->sources == b->sources))
		return true;
	add(&b->asked, queue);
	scheduler_kick(s);
	return false;
}

/* A queue that the core would like to look at comes before its turn. */
static void
tell_asked(struct scheduler *s)
{
	struct backoff_tell *b = s->backoff_tell;
	struct core_now now = scheduler_now(s);

	for (size_t i = 0; i < b->asked.n; i++) {
		backoff_queue(s, b->asked.of[i]);
		core_look_again(s->core, &now, b->asked.of[i]);
	}
	b->asked.n = 0;
}

static void
sweep_one(void *arg, uint32_t queue)
{
	backoff_queue(arg, queue);
	reroute_each(arg, queue);
}

/* The mode of many queues is another one, or what follows from it. The core asks for each that it
 * comes to; the others, and where their mail goes, have time. */
void
backoff_tell_all(struct scheduler *s, bool tell)
{
	struct backoff_tell *b = s->backoff_tell;

	core_modes_changed(s->core);
	b->again = b->sweeping;
	b->tell = (b->sweeping && b->tell) || tell;
	if (!b->sweeping)
		b->cursor = 0;
	b->sweeping = true;
	scheduler_kick(s);
}

void
backoff_tell_loop(struct scheduler *s)
{
	if (s->backoff_tell->looped)
		return;
	s->backoff_tell->looped = true;
	s->backoff_tell->how++;
	backoff_tell_all(s, false);
}

static void
loops_end(struct scheduler *s)
{
	if (!s->backoff_tell->looped)
		return;
	s->backoff_tell->looped = false;
	s->backoff_tell->how++;
	backoff_tell_all(s, false);
}

bool
backoff_turn(struct scheduler *s)
{
	struct backoff_tell *b = s->backoff_tell;
	bool some = b->asked.n > 0;

	tell_asked(s);
	if (committer_is_full(s->committer)) /* the next turn comes with its commit */
		return some;
	for (size_t i = 0; i < QUEUES_A_TURN && b->due.n > 0; i++)
		reroute_each(s, b->due.of[--b->due.n]);
	if (b->due.n > 0 || !b->sweeping)
		return some || b->due.n > 0;
	b->sweeping = core_each_queue(s->core, &b->cursor, QUEUES_A_TURN, sweep_one, s);
	if (!b->sweeping)
		count_loops(b);
	if (!b->sweeping && b->again) {
		b->sweeping = true;
		b->again = false;
		b->cursor = 0;
	}
	return some || b->sweeping;
}

void
backoff_tell_number(struct scheduler *s, uint32_t from, uint32_t fresh)
{
	struct backoff_tell *b = s->backoff_tell;
	struct told t;

	/* The core's queue has kept what it was told. */
	t = *told(s, from);
	*told(s, fresh) = t;
	*told(s, from) = (struct told){ 0 };
	renumber(&b->due, from, fresh);
	renumber(&b->asked, from, fresh);
	renumber(&b->later, from, fresh);
}

/* `again`: a further match; the recovery of the queue hears of it. */
void
backoff_in_force(struct scheduler *s, const struct backoff_row *row, uint32_t met, bool again)
{
	uint32_t queue;

	if (!row->on)
		loops_end(s);
	if (row->scope == CONF_RULE_QUEUE) {
		queue = names_find(s->names, slice_str(row->name));
		if (queue != 0 && again && row->on)
			tell(s, queue, row, false);
		else if (queue != 0)
			backoff_queue(s, queue);
		return;
	}
	if (row->scope == CONF_RULE_SOURCE_IP) {
		if (again)
			return;
		s->backoff_tell->sources++;
		backoff_tell_all(s, false);
	} else if (!again) {
		backoff_tell_all(s, row->on);
	} else if (backoff_of(s, met) == row) {
		tell(s, met, row, false);
	}
	/* Its next message may be granted before the sweep comes to it; what was told is told. */
	if (!again && met != CORE_NONE)
		backoff_queue(s, met);
}

void
backoff_untold(struct scheduler *s, uint32_t queue)
{
	told(s, queue)->by = 0;
}

static void
each_queue(void *arg, uint32_t queue)
{
	backoff_queue(arg, queue);
}

void
backoff_tell_started(struct scheduler *s)
{
	uint32_t cursor = 0;

	(void)core_each_queue(s->core, &cursor, UINT32_MAX, each_queue, s);
}

void
backoff_reconfigured(struct scheduler *s)
{
	/* Source IPs have other numbers, providers other names; ways out and recovery may be
	 * others. */
	s->backoff_tell->how++;
	s->backoff_tell->sources++;
	backoff_tell_all(s, false);
}
