#include "common/event/loop.h"

#include <string.h>
#include <time.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#define SIGNALS_MAX 8

struct signal_hook {
	struct event *ev;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	struct event_base *base;
	uint64_t boot_us;
	uint64_t wall_us;
	bool clocks_read; /* in this turn */
	struct loop_turn longest;
	bool measures_cpu;
	uint64_t cpu_us; /* of this thread, at the end of the last turn */
	bool stopped;
	void (*turn_end)(void *arg);
	void *turn_arg;
	struct signal_hook signals[SIGNALS_MAX];
	int n_signals;
};

static void
read_clocks(struct loop *l)
{
	l->boot_us = clock_boot_us();
	l->wall_us = clock_wall_us();
	l->clocks_read = true;
}

/* The first who asks in a turn reads them: before the wait for events they would be too old. */
static const struct loop *
with_clocks(const struct loop *l)
{
	if (!l->clocks_read)
		read_clocks((struct loop *)(uintptr_t)l);
	return l;
}

static uint64_t
thread_cpu_us(void)
{
	struct timespec ts;

	CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts) == 0);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void
note_turn(struct loop *l)
{
	uint64_t us;

	if (l->measures_cpu) {
		uint64_t cpu = thread_cpu_us(); /* the wait between turns takes next to none */

		us = cpu - l->cpu_us;
		l->cpu_us = cpu;
		if (us > l->longest.cpu_us)
			l->longest.cpu_us = us;
	}
	us = l->clocks_read ? clock_boot_us() - l->boot_us : 0;
	if (us > l->longest.us)
		l->longest.us = us;
}

struct loop *
loop_new(void)
{
	struct loop *l = mem_zalloc(sizeof *l);
	struct event_config *cfg = event_config_new();

	CHECK(cfg != NULL);
	event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST |
					   EVENT_BASE_FLAG_PRECISE_TIMER);
	l->base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	CHECK(l->base != NULL);
	read_clocks(l);
	return l;
}

void
loop_free(struct loop **l)
{
	if (*l == NULL)
		return;
	for (int i = 0; i < (*l)->n_signals; i++)
		event_free((*l)->signals[i].ev);
	event_base_free((*l)->base);
	mem_free(*l);
	*l = NULL;
}

void
loop_run(struct loop *l)
{
	l->stopped = false;
	l->clocks_read = false;
	while (!l->stopped) {
		if (event_base_loop(l->base, EVLOOP_ONCE) != 0)
			break; /* nothing is watched any more */
		if (l->turn_end != NULL)
			l->turn_end(l->turn_arg);
		note_turn(l);
		l->clocks_read = false;
	}
}

void
loop_stop(struct loop *l)
{
	l->stopped = true;
	event_base_loopbreak(l->base);
}

void
loop_set_turn_end(struct loop *l, void (*fn)(void *arg), void *arg)
{
	l->turn_end = fn;
	l->turn_arg = arg;
}

uint64_t
loop_boot_us(const struct loop *l)
{
	return with_clocks(l)->boot_us;
}

uint64_t
loop_wall_us(const struct loop *l)
{
	return with_clocks(l)->wall_us;
}

struct loop_turn
loop_longest(struct loop *l)
{
	struct loop_turn longest = l->longest;

	if (!l->measures_cpu) {
		l->measures_cpu = true;
		l->cpu_us = thread_cpu_us();
	}
	l->longest = (struct loop_turn){ 0, 0 };
	return longest;
}

struct event_base *
loop_base(struct loop *l)
{
	return l->base;
}

static void
on_watch(evutil_socket_t fd, short what, void *arg)
{
	struct watch *w = arg;

	(void)fd;
	with_clocks(w->loop); /* here a turn begins */
	w->fn(w->arg, what);
}

void
watch_init(struct watch *w, struct loop *l, int fd, void (*fn)(void *arg, short what), void *arg)
{
	memset(w, 0, sizeof *w);
	w->loop = l;
	w->fn = fn;
	w->arg = arg;
	w->ev = event_new(l->base, fd, EV_READ | EV_PERSIST, on_watch, w);
	CHECK(w->ev != NULL);
}

void
watch_set(struct watch *w, short what)
{
	CHECK(w->ev != NULL);
	if (what == w->what)
		return;
	if (w->what != 0)
		event_del(w->ev);
	w->what = what;
	if (what == 0)
		return;
	CHECK(event_assign(w->ev, w->loop->base, event_get_fd(w->ev), (short)(what | EV_PERSIST),
			   on_watch, w) == 0);
	CHECK(event_add(w->ev, NULL) == 0);
}

void
watch_clear(struct watch *w)
{
	if (w->ev != NULL)
		event_free(w->ev);
	memset(w, 0, sizeof *w);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct timer *t = arg;

	(void)fd;
	(void)what;
	with_clocks(t->loop);
	t->fn(t->arg);
}

void
timer_init(struct timer *t, struct loop *l, void (*fn)(void *arg), void *arg)
{
	t->loop = l;
	t->fn = fn;
	t->arg = arg;
	t->ev = event_new(l->base, -1, 0, on_timer, t);
	CHECK(t->ev != NULL);
}

void
timer_set(struct timer *t, uint64_t us)
{
	struct timeval tv = { (time_t)(us / 1000000u), (suseconds_t)(us % 1000000u) };

	CHECK(t->ev != NULL);
	CHECK(event_add(t->ev, &tv) == 0);
}

void
timer_stop(struct timer *t)
{
	if (t->ev != NULL)
		event_del(t->ev);
}

bool
timer_is_set(const struct timer *t)
{
	return t->ev != NULL && event_pending(t->ev, EV_TIMEOUT, NULL) != 0;
}

void
timer_clear(struct timer *t)
{
	if (t->ev != NULL)
		event_free(t->ev);
	memset(t, 0, sizeof *t);
}

static void
on_signal(evutil_socket_t fd, short what, void *arg)
{
	struct signal_hook *h = arg;

	(void)fd;
	(void)what;
	h->fn(h->arg);
}

void
loop_on_signal(struct loop *l, int signo, void (*fn)(void *arg), void *arg)
{
	struct signal_hook *h = &l->signals[l->n_signals];

	CHECK(l->n_signals < SIGNALS_MAX);
	h->fn = fn;
	h->arg = arg;
	h->ev = evsignal_new(l->base, signo, on_signal, h);
	CHECK(h->ev != NULL && event_add(h->ev, NULL) == 0);
	l->n_signals++;
}
