/* process: what stands around the scheduler in its process: the loop with its timers, channels,
 * clocks, the line to the master, the log. Stand-ins with the names of the real ones. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/fault.h"
#include "scheduler/control.h"
#include "scheduler/quota.h"
#include "tests/sim/sim.h"

#define TIMERS   64
#define WATCHES  32
#define LINKS    64
#define CONTROLS 64
#define PAYLOAD  4096

/* Channels ------------------------------------------------------------------------------------- */
struct letter {
	struct message m;
	char bytes[PAYLOAD];
};
struct way {
	struct letter letters[RING_ENTRIES];
	unsigned put, got; /* counts */
	bool wants_room;
};
struct channel {
	struct link *l;
	void (*on_input)(void *arg);
	void *arg;
	struct letter read;
};
struct link {
	bool used;
	bool other;          /* the other process holds its end */
	struct channel *end; /* the scheduler's, NULL: closed or not yet open */
	bool promised;       /* on its way to the scheduler */
	bool input;
	struct way in, out; /* to and from the scheduler */
};

static struct link links[LINKS];

struct link *
link_new(void)
{
	for (int i = 0; i < LINKS; i++) {
		struct link *l = &links[i];

		if (l->used)
			continue;
		l->used = l->other = true;
		l->end = NULL;
		l->promised = l->input = false;
		l->in.put = l->in.got = l->out.put = l->out.got = 0;
		l->in.wants_room = l->out.wants_room = false;
		return l;
	}
	sim_broken("more than %d channels", LINKS);
}

static void
unuse(struct link *l)
{
	if (!l->other && l->end == NULL && !l->promised)
		l->used = false;
}

void
link_leave(struct link *l)
{
	l->other = false;
	unuse(l);
}

bool
link_alive(const struct link *l)
{
	return l->end != NULL || l->promised;
}

static bool
way_put(struct way *w, const struct message *m, struct slice payload)
{
	struct letter *at = &w->letters[w->put % RING_ENTRIES];

	HOLDS(payload.n <= PAYLOAD, "a payload of %zu bytes", payload.n);
	if (w->put - w->got >= RING_ENTRIES - 1) {
		w->wants_room = true;
		return false;
	}
	at->m = *m;
	at->m.payload_bytes = (uint32_t)payload.n;
	if (payload.n > 0)
		memcpy(at->bytes, payload.p, payload.n);
	w->put++;
	return true;
}

bool
link_put(struct link *l, const struct message *m, struct slice payload)
{
	if (!way_put(&l->in, m, payload))
		return false;
	l->input = true;
	return true;
}

bool
link_get(struct link *l, struct message *m, struct slice *payload)
{
	struct letter *at = &l->out.letters[l->out.got % RING_ENTRIES];

	if (l->out.got == l->out.put)
		return false;
	l->out.got++;
	*m = at->m;
	*payload = slice_of(at->bytes, at->m.payload_bytes);
	if (l->out.wants_room) {
		l->out.wants_room = false;
		l->input = true;
	}
	return true;
}

bool
link_taken(const struct link *l)
{
	return l->in.got == l->in.put && l->out.got == l->out.put;
}

int
channel_open(struct channel **out, const struct channel_fds *fds, char side, struct loop *loop,
	     void (*on_input)(void *arg), void *arg)
{
	struct channel *c = mem_zalloc(sizeof *c);

	(void)loop;
	HOLDS(side == 'S', "a channel of another side");
	c->l = &links[fds->memfd];
	c->l->end = c;
	c->l->promised = false;
	c->on_input = on_input;
	c->arg = arg;
	*out = c;
	return 0;
}

void
channel_close(struct channel **c)
{
	if (*c == NULL)
		return;
	(*c)->l->end = NULL;
	unuse((*c)->l);
	mem_free(*c);
	*c = NULL;
}

void
channel_fds_close(struct channel_fds *f)
{
	links[f->memfd].promised = false;
	unuse(&links[f->memfd]);
}

void
channel_expect(struct channel *c, char peer)
{
	(void)c;
	(void)peer;
}

int
channel_send(struct channel *c, const struct message *m, struct slice payload)
{
	return way_put(&c->l->out, m, payload) ? 0 : -E_FULL;
}

bool
channel_has_room(const struct channel *c, size_t payload_bytes)
{
	struct way *w = &c->l->out;

	(void)payload_bytes;
	if (w->put - w->got < RING_ENTRIES - 1)
		return true;
	w->wants_room = true;
	return false;
}

bool
channel_is_broken(const struct channel *c)
{
	(void)c;
	return false;
}

void
channel_flush(struct channel *c)
{
	(void)c;
}

int
channel_recv(struct channel *c, struct message *m, struct slice *payload)
{
	struct way *w = &c->l->in;

	if (w->got == w->put)
		return 0;
	c->read = w->letters[w->got++ % RING_ENTRIES];
	*m = c->read.m;
	*payload = slice_of(c->read.bytes, m->payload_bytes);
	return 1;
}

/* Loop ----------------------------------------------------------------------------------------- */
struct source { /* what timer.ev and watch.ev point to */
	struct timer *timer;
	struct watch *watch;
	int fd;
	bool set;
	uint64_t due_us;
};
struct loop {
	struct source timers[TIMERS], watches[WATCHES];
	void (*turn_end)(void *arg);
	void *turn_arg;
	bool stopped, clocks_read;
	uint64_t boot_us, wall_us;
};

static struct loop *the_loop; /* NULL: none lives */

struct loop *
loop_new(void)
{
	the_loop = mem_zalloc(sizeof *the_loop);
	return the_loop;
}

void
loop_free(struct loop **l)
{
	*l = NULL;
}

void
loop_stop(struct loop *l)
{
	l->stopped = true;
}

void
loop_set_turn_end(struct loop *l, void (*fn)(void *arg), void *arg)
{
	l->turn_end = fn;
	l->turn_arg = arg;
}

static void
read_clocks(const struct loop *l)
{
	struct loop *m = (struct loop *)(uintptr_t)l;

	if (l->clocks_read)
		return;
	m->boot_us = sim_clock.boot_us;
	m->wall_us = sim_clock.wall_us;
	m->clocks_read = true;
}

uint64_t
loop_boot_us(const struct loop *l)
{
	read_clocks(l);
	return l->boot_us;
}

uint64_t
loop_wall_us(const struct loop *l)
{
	read_clocks(l);
	return l->wall_us;
}

static struct source *
source_of(struct event *ev)
{
	return (struct source *)(void *)ev;
}

static struct source *
free_source(struct source *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (list[i].timer == NULL && list[i].watch == NULL)
			return &list[i];
	}
	sim_broken("too many timers or watches");
}

void
watch_init(struct watch *w, struct loop *l, int fd, void (*fn)(void *arg, short what), void *arg)
{
	memset(w, 0, sizeof *w);
	w->loop = l;
	w->fn = fn;
	w->arg = arg;
	w->ev = (struct event *)(void *)free_source(l->watches, WATCHES);
	*source_of(w->ev) = (struct source){ .watch = w, .fd = fd };
}

void
watch_set(struct watch *w, short what)
{
	w->what = what;
}

void
watch_clear(struct watch *w)
{
	if (w->ev != NULL)
		memset(w->ev, 0, sizeof(struct source));
	memset(w, 0, sizeof *w);
}

void
timer_init(struct timer *t, struct loop *l, void (*fn)(void *arg), void *arg)
{
	t->loop = l;
	t->fn = fn;
	t->arg = arg;
	t->ev = (struct event *)(void *)free_source(l->timers, TIMERS);
	*source_of(t->ev) = (struct source){ .timer = t };
}

void
timer_set(struct timer *t, uint64_t us)
{
	source_of(t->ev)->set = true;
	source_of(t->ev)->due_us = sim_clock.boot_us + us;
}

void
timer_stop(struct timer *t)
{
	if (t->ev != NULL)
		source_of(t->ev)->set = false;
}

bool
timer_is_set(const struct timer *t)
{
	return t->ev != NULL && source_of(t->ev)->set;
}

void
timer_clear(struct timer *t)
{
	if (t->ev != NULL)
		memset(t->ev, 0, sizeof(struct source));
	memset(t, 0, sizeof *t);
}

/* The line to the master -------------------------------------------------------------------------
 */
struct control {
	bool gone;
	enum role role;
	unsigned slot;
	uint32_t generation;
	struct link *l;
};
struct proc {
	struct proc_hooks hooks;
	void *arg;
	bool ended;
	int status;
};

static struct control controls[CONTROLS];
static unsigned n_controls;
static struct {
	enum role role;
	unsigned slot;
} kills[CONTROLS];
static unsigned n_kills;
static struct proc proc;
static bool lives, ready;
static struct scheduler *scheduler;
static const struct conf *the_conf;
static struct heritage heritage;

struct proc *
proc_begin(struct heritage *h, const struct proc_hooks *hooks, void *arg)
{
	(void)h;
	memset(arg, 0, sizeof(struct scheduler)); /* a process begins with its own */
	scheduler = arg;
	proc = (struct proc){ .hooks = *hooks, .arg = arg };
	loop_new();
	return &proc;
}

void
proc_ready(struct proc *p)
{
	(void)p;
	ready = true;
	threads_pause(100); /* the ledger looks before it goes on */
}

static void
take_control(void)
{
	struct control c = controls[0];

	memmove(controls, controls + 1, --n_controls * sizeof *controls);
	if (c.gone) {
		proc.hooks.on_peer_gone(proc.arg, c.role, c.slot, c.generation);
	} else {
		struct channel_fds fds = { (int)(c.l - links), 0, 0 };

		proc.hooks.on_channel(proc.arg, c.role, c.slot, c.generation, &fds);
	}
}

static void
take_links(void)
{
	unsigned first = sim_below(LINKS);

	for (unsigned i = 0; i < LINKS; i++) {
		struct link *l = &links[(first + i) % LINKS];

		if (!l->used || l->end == NULL || !l->input)
			continue;
		l->input = false;
		l->end->on_input(l->end->arg);
	}
}

static bool
watch_is_ready(const struct source *e)
{
	return e->watch != NULL && e->watch->what != 0 && disk_eventfd_ready(e->fd);
}

static void
take_events(struct loop *l)
{
	for (int i = 0; i < WATCHES; i++) {
		if (watch_is_ready(&l->watches[i]))
			l->watches[i].watch->fn(l->watches[i].watch->arg, EV_READ);
	}
	for (int i = 0; i < TIMERS; i++) {
		struct source *e = &l->timers[i];

		if (e->timer == NULL || !e->set || e->due_us > sim_clock.boot_us)
			continue;
		e->set = false;
		e->timer->fn(e->timer->arg);
	}
}

int
proc_run(struct proc *p)
{
	struct loop *l = the_loop;

	l->clocks_read = false;
	while (!l->stopped && !p->ended) {
		unsigned order = sim_below(3);

		threads_wait_for_loop();
		l->clocks_read = false;
		if (order == 0)
			take_links();
		if (n_controls > 0 && sim_percent(80))
			take_control();
		take_events(l);
		if (order != 0)
			take_links();
		if (l->turn_end != NULL)
			l->turn_end(l->turn_arg);
		l->clocks_read = false;
	}
	return p->status;
}

void
proc_done(struct proc *p)
{
	p->ended = true;
}

void
proc_fail(struct proc *p)
{
	p->ended = true;
	p->status = 1;
}

void
proc_ask_stop(struct proc *p)
{
	(void)p;
}

void
proc_ask_reload(struct proc *p)
{
	(void)p;
	HOLDS(false, "nobody asked to reload");
}

void
proc_ask_kill(struct proc *p, enum role peer, unsigned slot, uint32_t generation)
{
	(void)p;
	(void)generation;
	HOLDS(n_kills < CONTROLS, "too many are to be killed");
	kills[n_kills].role = peer;
	kills[n_kills++].slot = slot;
}

struct loop *
proc_loop(struct proc *p)
{
	(void)p;
	return the_loop;
}

const struct conf *
proc_conf(struct proc *p)
{
	(void)p;
	return the_conf;
}

struct heritage *
proc_heritage(struct proc *p)
{
	(void)p;
	return &heritage;
}

/* Seen from the world ----------------------------------------------------------------------------
 */
static int exit_status;

static void
run_scheduler(void *arg)
{
	exit_status = scheduler_main(arg);
	lives = false;
}

void __wrap__exit(int status);

void
__wrap__exit(int status)
{
	HOLDS(threads_inside(), "the simulator leaves");
	exit_status = status;
	lives = false;
	for (;;)
		threads_wait_for_loop(); /* never comes back */
}

void
process_conf(const struct conf *conf)
{
	the_conf = conf;
}

const struct conf *
process_the_conf(void)
{
	return the_conf;
}

void
process_start(void)
{
	heritage = (struct heritage){
		.role = ROLE_SCHEDULER, .generation = 1, .routes_fd = -1, .operator_fd = -1
	};
	lives = true;
	ready = false;
	scheduler = NULL;
	n_controls = n_kills = 0;
	threads_start(run_scheduler, &heritage);
}

void
process_kill(void)
{
	lives = ready = false;
	scheduler = NULL;
	the_loop = NULL;
	for (unsigned i = 0; i < n_controls; i++) {
		if (!controls[i].gone)
			controls[i].l->promised = false;
	}
	n_controls = n_kills = 0;
	for (int i = 0; i < LINKS; i++) {
		links[i].end = NULL;
		links[i].promised = false;
		if (links[i].used)
			unuse(&links[i]);
	}
	disk_kill();
	threads_kill();
}

bool
process_lives(void)
{
	return lives;
}

bool
process_is_ready(void)
{
	return lives && ready;
}

struct scheduler *
process_scheduler(void)
{
	return process_is_ready() ? scheduler : NULL;
}

bool
process_can_turn(void)
{
	struct loop *l = the_loop;

	if (l == NULL || !lives)
		return false;
	if (n_controls > 0 || l->stopped || proc.ended)
		return true;
	for (int i = 0; i < WATCHES; i++) {
		if (watch_is_ready(&l->watches[i]))
			return true;
	}
	for (int i = 0; i < LINKS; i++) {
		if (links[i].used && links[i].end != NULL && links[i].input)
			return true;
	}
	return process_next_timer() <= sim_clock.boot_us;
}

uint64_t
process_next_timer(void)
{
	uint64_t next = UINT64_MAX;

	for (int i = 0; the_loop != NULL && i < TIMERS; i++) {
		struct source *e = &the_loop->timers[i];

		if (e->timer != NULL && e->set && e->due_us < next)
			next = e->due_us;
	}
	return next;
}

static struct control *
add_control(void)
{
	HOLDS(n_controls < CONTROLS, "too much to tell the scheduler");
	return &controls[n_controls++];
}

void
process_channel(enum role role, unsigned slot, uint32_t generation, struct link *l)
{
	*add_control() =
		(struct control){ .role = role, .slot = slot, .generation = generation, .l = l };
	l->promised = true;
}

void
process_gone(enum role role, unsigned slot, uint32_t generation)
{
	if (lives)
		*add_control() = (struct control){
			.gone = true, .role = role, .slot = slot, .generation = generation
		};
}

bool
process_asks_kill(enum role *role, unsigned *slot)
{
	if (n_kills == 0)
		return false;
	*role = kills[--n_kills].role;
	*slot = kills[n_kills].slot;
	return true;
}

/* Clocks, log, checks; what is left out
 * ------------------------------------------------------------ */
uint64_t __wrap_clock_boot_us(void);
uint64_t __wrap_clock_wall_us(void);
void __wrap_clock_boot_id(unsigned char id[16]);
enum quota __wrap_quota_check(const struct quota_facts *f, enum quota before);
int __wrap_store_probe(const char *path, int dir);

uint64_t
__wrap_clock_boot_us(void)
{
	return sim_clock.boot_us;
}

uint64_t
__wrap_clock_wall_us(void)
{
	return sim_clock.wall_us;
}

void
__wrap_clock_boot_id(unsigned char id[16])
{
	memset(id, (int)sim_clock.boot, 16);
}

/* It forks; what it looks for is not simulated. */
int
__wrap_store_probe(const char *path, int dir)
{
	(void)path;
	(void)dir;
	return 0;
}

/* A disk that fills and is cleared again, as far as the quota goes. */
enum quota
__wrap_quota_check(const struct quota_facts *f, enum quota before)
{
	(void)f;
	(void)before;
	return sim_no_room ? QUOTA_DISK : QUOTA_FREE;
}

const char *
role_name(enum role role)
{
	static const char *const names[] = { "scheduler", "resolver", "recorder",
					     "worker",    "receiver", "master" };

	return names[role];
}

int
log_open(const char *where, const char *who)
{
	(void)where;
	(void)who;
	return 0;
}

void
log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	(void)level;
	if (!sim_loud)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	sim_tell("  log: %s", line);
}

void
check_failed(const char *file, int line, const char *what)
{
	sim_broken("%s:%d: CHECK(%s)", file, line, what);
}

int
control_open(struct scheduler *s)
{
	(void)s;
	return 0;
}

void
control_close(struct scheduler *s)
{
	(void)s;
}

void
stats_reconfigured(struct scheduler *s)
{
	(void)s;
}

void
stats_renumber(struct scheduler *s, uint32_t queue, uint32_t number)
{
	(void)s;
	(void)queue;
	(void)number;
}

/* Operators are not simulated. */
void
control_finish(struct request *r)
{
	(void)r;
}

void
control_fail(struct request *r, int status, const char *fmt, ...)
{
	(void)r;
	(void)status;
	(void)fmt;
}

struct slice
control_option(const struct request *r, const char *name)
{
	(void)r;
	(void)name;
	return SLICE_NONE;
}

bool
control_matches(struct slice name, struct slice pattern)
{
	(void)name;
	(void)pattern;
	return false;
}

int
fault_guarded(int (*fn)(void *arg), void *arg)
{
	return fn(arg);
}

/* The only one whom they let move mail: sometimes a queue's becomes another's. */
static void
note_queue(void *arg, uint32_t queue)
{
	uint32_t *some = arg; /* how many, and them */

	if (some[0] < 30)
		some[++some[0]] = queue;
}

bool
control_turn(struct scheduler *s)
{
	uint32_t some[31] = { 0 }, cursor = 0, from, to;

	if (sim_calm || sim_flips || sim_below(1000) >= 20)
		return false;
	(void)core_each_queue(s->core, &cursor, 30, note_queue, some);
	if (some[0] < 2)
		return false;
	from = some[1 + sim_below(some[0])];
	to = some[1 + sim_below(some[0])];
	if (redirects_make(s, from, to) != 0) {
		sim_tell("queue %u is redirected to %u", from, to);
		sim_counts.redirects++;
	}
	return false;
}

int
stats_open(struct scheduler *s)
{
	(void)s;
	return 0;
}

void
stats_tick(struct scheduler *s)
{
	(void)s;
}

void
stats_close(struct scheduler *s)
{
	(void)s;
}
