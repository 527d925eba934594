/* loop: thin over libevent's core: watchers of descriptors and timers, one clock read per turn. */
#pragma once

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

struct loop; /* opaque */

/* Create it after fork. Never fails but by abort. */
struct loop *loop_new(void);
void loop_free(struct loop **l);

/* Runs until loop_stop(). */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);

/* Called once after all events of a turn: the place to batch (group sends, wake-ups). */
void loop_set_turn_end(struct loop *l, void (*fn)(void *arg), void *arg);

/* The clocks as read once in this turn, when first asked for, µs (clock.h). */
uint64_t loop_boot_us(const struct loop *l);
uint64_t loop_wall_us(const struct loop *l);

/* The longest turn since the last call, from its first event to the end of turn_end: by the clock, and in CPU time,
 * which others on the machine have no part in (measured from the first call on). */
struct loop_turn {
	uint64_t us, cpu_us;
};
struct loop_turn loop_longest(struct loop *l);

struct event_base *loop_base(struct loop *l); /* borrowed, for libunbound */

/* A watcher of one descriptor. Embedded in its owner; zero-initialised is "not watching". */
struct watch {
	struct event *ev;
	struct loop *loop;
	void (*fn)(void *arg, short what);
	void *arg;
	short what; /* EV_READ | EV_WRITE now asked for */
};

/* Binds fd and callback; nothing is watched until watch_set(). */
void watch_init(struct watch *w, struct loop *l, int fd, void (*fn)(void *arg, short what), void *arg);
/* Asks for EV_READ, EV_WRITE, both or 0. Persistent. Cheap when nothing changes. */
void watch_set(struct watch *w, short what);
void watch_clear(struct watch *w); /* before the descriptor is closed; may be called twice */

/* A one-shot timer. Embedded; zero-initialised is "not set". */
struct timer {
	struct event *ev;
	struct loop *loop;
	void (*fn)(void *arg);
	void *arg;
};

void timer_init(struct timer *t, struct loop *l, void (*fn)(void *arg), void *arg);
/* Fires once in `us` from the start of this turn; setting again replaces. */
void timer_set(struct timer *t, uint64_t us);
void timer_stop(struct timer *t);
bool timer_is_set(const struct timer *t);
void timer_clear(struct timer *t);

/* A signal, delivered in the loop. */
void loop_on_signal(struct loop *l, int signo, void (*fn)(void *arg), void *arg);
