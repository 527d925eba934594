#include "master/children.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/control.h"
#include "master/background.h"
#include "master/master.h"
#include "shm/stat.h"

#define QUICK_FREE      2 /* so many in a row bring the first pause */
#define PAUSE_MOST_US   3000000u /* back within 5 s of the end of what killed it */
#define HOPELESS_DEATHS 4 /* of one child before the instance was ever ready */

enum child_state { CHILD_WAITING, CHILD_STARTING, CHILD_RUNNING, CHILD_GONE };

struct child {
	struct children *all;
	enum role role;
	unsigned slot;
	uint32_t generation; /* 0: never forked */
	enum child_state state;
	pid_t pid;
	int control_fd; /* our end; -1 when it is dead */
	struct watch control;
	uint64_t ready_boot_us; /* 0: this life was not ready yet */
	unsigned quick_deaths;  /* in a row */
	bool killed;
	uint64_t prepared, committed; /* generations of the configuration */
	struct timer restart;
};

struct children {
	struct loop *loop;
	const struct instance *in;
	struct children_hooks hooks;
	void *arg;
	struct child *list;
	unsigned n;
	bool no_restart;
	bool was_ready;
	const struct instance_next *next; /* not decided yet; NULL: none */
};

// clang-format off
static int (*const entries[ROLE_COUNT])(struct heritage *) = {
#define X(name, entry, letter, count) [ROLE_##name] = entry,
	ROLES(X)
#undef X
};
// clang-format on

static unsigned
count_of(enum role role, const struct conf *conf)
{
	switch (role) {
#define X(name, entry, letter, count)                                                              \
	case ROLE_##name:                                                                          \
		return count;
		ROLES(X)
#undef X
	default:
		return 0;
	}
}

static bool
lives(const struct child *ch)
{
	return ch->state == CHILD_STARTING || ch->state == CHILD_RUNNING;
}

static void
kill_child(struct child *ch, const char *because)
{
	if (!lives(ch) || ch->killed)
		return;
	log_warn("killing role=%s slot=%u pid=%d because=%s", role_name(ch->role), ch->slot,
		 (int)ch->pid, because);
	ch->killed = true;
	kill(ch->pid, SIGKILL);
}

/* Telling
 * ------------------------------------------------------------------------------------------ */

static void
tell(struct child *ch, enum control_kind kind, const struct child *about,
     const struct channel_fds *fds)
{
	struct control_message m = { .kind = kind };
	int rc;

	if (!lives(ch))
		return;
	if (about != NULL) {
		m.role = about->role;
		m.slot = about->slot;
		m.generation = about->generation;
	}
	rc = control_send(ch->control_fd, &m, fds);
	/* A closed line is a death that we are about to reap. */
	if (rc != 0 && rc != -E_CLOSED)
		kill_child(ch, "control-line-full");
}

/* About the configuration: `fd` -1 brings none. */
static void
tell_conf(struct child *ch, enum control_kind kind, uint64_t generation, unsigned slot, int fd)
{
	struct control_message m = {
		.kind = kind, .role = ch->role, .slot = slot, .number = generation
	};
	struct channel_fds fds = { fd, -1, -1 };
	int rc;

	if (!lives(ch))
		return;
	rc = control_send(ch->control_fd, &m, fd >= 0 ? &fds : NULL);
	if (rc != 0 && rc != -E_CLOSED)
		kill_child(ch, "control-line-full");
}

static void
prepare(struct child *ch)
{
	const struct instance_next *next = ch->all->next;

	if (next == NULL)
		return;
	for (unsigned i = 0; ch->role == ROLE_RECEIVER && i < next->n_listeners; i++)
		tell_conf(ch, CONTROL_LISTENER, next->generation, i, next->listener_fds[i]);
	tell_conf(ch, CONTROL_PREPARE, next->generation, 0, next->snapshot_fd);
}

static struct child *
scheduler(struct children *c)
{
	return &c->list[0];
}

/* A new channel between the scheduler and `other`; both live. */
static void
link_to_scheduler(struct children *c, struct child *other)
{
	struct channel_fds fds;
	int rc = channel_create(&fds);

	if (rc != 0) {
		log_error("no channel role=%s slot=%u error=\"%s\"", role_name(other->role),
			  other->slot, err_text(rc));
		kill_child(other, "no-channel"); /* its next life may have more luck */
		return;
	}
	tell(scheduler(c), CONTROL_CHANNEL, other, &fds);
	tell(other, CONTROL_CHANNEL, scheduler(c), &fds);
	channel_fds_close(&fds);
}

static void
introduce(struct child *ch)
{
	struct children *c = ch->all;

	/* Not before it has its queue: until then it counts as dead, and receivers refuse in time. */
	if (ch != scheduler(c)) {
		if (scheduler(c)->state == CHILD_RUNNING)
			link_to_scheduler(c, ch);
		return;
	}
	for (unsigned i = 1; i < c->n; i++) {
		if (lives(&c->list[i]))
			link_to_scheduler(c, &c->list[i]);
	}
}

/* Forking
 * ------------------------------------------------------------------------------------------ */

/* What the new process gets. */
static void
make_heritage(const struct child *ch, int control_fd, struct heritage *h)
{
	const struct instance *in = ch->all->in;

	*h = (struct heritage){
		.role = ch->role,
		.slot = ch->slot,
		.generation = ch->generation,
		.control_fd = control_fd,
		.snapshot_fd = in->snapshot_fd,
		.conf_generation = in->conf_generation,
		.fixed = conf_global(in->start_conf),
		.background = in->background,
		.routes_fd = ch->role == ROLE_RESOLVER ? in->routes_fd : in->routes_read_fd,
		.operator_fd = ch->role == ROLE_SCHEDULER ? in->operator_fd : -1,
		.guard_fd = in->spool.lock_fd,
		.instance_was_ready = ch->all->was_ready,
	};
	memcpy(h->start_id, in->start_id, sizeof h->start_id);
	if (ch->role == ROLE_RESOLVER)
		h->resolver_starts = ch->generation;
	if (ch->role == ROLE_RECEIVER) {
		h->n_listeners = in->n_listeners;
		memcpy(h->listener_fds, in->listener_fds, sizeof h->listener_fds);
	}
}

static void on_control(void *arg, short what);
static void schedule_restart(struct child *ch);

static void
fork_child(struct child *ch)
{
	static struct heritage h; /* static: the child's, while it lives */
	int fds[2], rc = control_pair(fds);

	ch->generation++;
	ch->ready_boot_us = 0;
	ch->killed = false;
	ch->prepared = ch->committed = ch->all->in->conf_generation;
	if (rc == 0) {
		ch->pid = fork();
		if (ch->pid < 0) {
			rc = -err_errno();
			close(fds[0]);
			close(fds[1]);
		}
	}
	if (rc != 0) {
		log_error("cannot start role=%s slot=%u error=\"%s\"", role_name(ch->role),
			  ch->slot, err_text(rc));
		ch->quick_deaths++;
		schedule_restart(ch);
		return;
	}
	if (ch->pid == 0) {
		background_child();
		make_heritage(ch, fds[1], &h);
		_exit(entries[ch->role](&h));
	}
	close(fds[1]);
	ch->control_fd = fds[0];
	ch->state = CHILD_STARTING;
	watch_init(&ch->control, ch->all->loop, ch->control_fd, on_control, ch);
	watch_set(&ch->control, EV_READ);
	log_info("started role=%s slot=%u generation=%u pid=%d", role_name(ch->role), ch->slot,
		 ch->generation, (int)ch->pid);
	if (ch->generation > 1)
		KILL_POINT("mid-restart");
	if (ch != scheduler(ch->all))
		introduce(ch);
	prepare(ch);
}

static void
on_restart(void *arg)
{
	struct child *ch = arg;

	if (ch->state == CHILD_WAITING)
		fork_child(ch);
}

static uint64_t
restart_pause_us(const struct child *ch)
{
	uint64_t pause = master_times.pause_ms * 1000ull;

	if (ch->quick_deaths < QUICK_FREE)
		return 0;
	for (unsigned i = QUICK_FREE; i < ch->quick_deaths && pause < PAUSE_MOST_US; i++)
		pause *= 2;
	return pause < PAUSE_MOST_US ? pause : PAUSE_MOST_US;
}

static void
schedule_restart(struct child *ch)
{
	struct children *c = ch->all;

	if (c->no_restart) {
		ch->state = CHILD_GONE;
		return;
	}
	ch->state = CHILD_WAITING;
	/* Also without a pause through the loop: all deaths that were reaped together are told
	 * first. */
	timer_set(&ch->restart, restart_pause_us(ch));
	if (!c->was_ready && ch->quick_deaths >= HOPELESS_DEATHS)
		c->hooks.on_hopeless(c->arg);
}

/* What a child says
 * -------------------------------------------------------------------------------- */

static void
note_ready(struct child *ch)
{
	struct children *c = ch->all;

	if (ch->state != CHILD_STARTING)
		return;
	ch->state = CHILD_RUNNING;
	ch->ready_boot_us = clock_boot_us();
	log_info("ready role=%s slot=%u generation=%u pid=%d", role_name(ch->role), ch->slot,
		 ch->generation, (int)ch->pid);
	if (ch == scheduler(c))
		introduce(ch);
	if (c->was_ready)
		return;
	for (unsigned i = 0; i < c->n; i++) {
		if (c->list[i].state != CHILD_RUNNING)
			return;
	}
	c->was_ready = true;
	c->hooks.on_ready(c->arg);
}

static void
kill_as_asked(struct children *c, const struct control_message *m)
{
	for (unsigned i = 1; i < c->n; i++) {
		struct child *ch = &c->list[i];

		if (ch->role == (enum role)m->role && ch->slot == m->slot &&
		    ch->generation == m->generation)
			kill_child(ch, "channel-broken");
	}
}

static void
note_edition(struct child *ch, const struct control_message *m)
{
	struct children *c = ch->all;

	if (m->kind == CONTROL_COMMITTED && m->number > ch->committed)
		ch->committed = m->number;
	/* What is said of one that was dropped is of no interest any more. */
	if (m->kind != CONTROL_COMMITTED && (c->next == NULL || c->next->generation != m->number))
		return;
	if (m->kind == CONTROL_PREPARED)
		ch->prepared = m->number;
	c->hooks.on_edition(c->arg, ch->role, ch->slot, m->kind, m->text);
}

static void
on_control(void *arg, short what)
{
	struct child *ch = arg;
	struct children *c = ch->all;
	struct control_message m = { 0 };
	struct channel_fds fds;
	int rc;

	(void)what;
	while ((rc = control_recv(ch->control_fd, false, &m, &fds)) > 0) {
		if (m.kind == CONTROL_READY)
			note_ready(ch);
		else if (m.kind == CONTROL_ASK_STOP && ch->role == ROLE_SCHEDULER)
			c->hooks.on_ask_stop(c->arg);
		else if (m.kind == CONTROL_ASK_KILL && ch->role == ROLE_SCHEDULER)
			kill_as_asked(c, &m);
		else if (m.kind == CONTROL_ASK_RELOAD && ch->role == ROLE_SCHEDULER)
			c->hooks.on_ask_reload(c->arg);
		else if (m.kind == CONTROL_PREPARED || m.kind == CONTROL_REFUSED ||
			 m.kind == CONTROL_COMMITTED)
			note_edition(ch, &m);
	}
	if (rc == 0)
		return;
	/* It has left (then this kill finds nobody) or it lost its line: useless. */
	watch_set(&ch->control, 0);
	if (rc == -E_BAD)
		kill_child(ch, "malformed-control-message");
	else if (!ch->killed)
		kill(ch->pid, SIGKILL);
}

/* Death
 * -------------------------------------------------------------------------------------------- */

static void
log_death(const struct child *ch, int status, uint64_t lived_us)
{
	bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;

	log_line(clean ? LOG_LEVEL_INFO : LOG_LEVEL_WARN,
		 "died role=%s slot=%u generation=%u pid=%d %s=%d ready=%s ready_ms=%llu",
		 role_name(ch->role), ch->slot, ch->generation, (int)ch->pid,
		 WIFSIGNALED(status) ? "signal" : "status",
		 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		 ch->ready_boot_us != 0 ? "yes" : "no", (unsigned long long)(lived_us / 1000));
}

/* The scheduler hears of every death; of its own, everybody. */
static void
tell_death(const struct child *dead)
{
	struct children *c = dead->all;

	if (dead != scheduler(c)) {
		tell(scheduler(c), CONTROL_PEER_GONE, dead, NULL);
		return;
	}
	for (unsigned i = 1; i < c->n; i++)
		tell(&c->list[i], CONTROL_PEER_GONE, dead, NULL);
}

static void
bury(struct child *ch, int status)
{
	uint64_t lived_us = ch->ready_boot_us != 0 ? clock_boot_us() - ch->ready_boot_us : 0;

	log_death(ch, status, lived_us);
	watch_clear(&ch->control);
	close(ch->control_fd);
	ch->control_fd = -1;
	ch->pid = 0;
	ch->state = CHILD_WAITING;
	if (ch->ready_boot_us == 0 || lived_us < master_times.quick_ms * 1000ull)
		ch->quick_deaths++;
	else
		ch->quick_deaths = 0;
	tell_death(ch);
	schedule_restart(ch);
	if (ch->state == CHILD_WAITING && restart_pause_us(ch) > 0)
		log_warn("restart role=%s slot=%u in_ms=%llu quick_deaths=%u", role_name(ch->role),
			 ch->slot, (unsigned long long)(restart_pause_us(ch) / 1000),
			 ch->quick_deaths);
}

static struct child *
find_pid(struct children *c, pid_t pid)
{
	for (unsigned i = 0; i < c->n; i++) {
		if (lives(&c->list[i]) && c->list[i].pid == pid)
			return &c->list[i];
	}
	return NULL;
}

void
children_reap(struct children *c)
{
	bool any = false;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct child *ch = find_pid(c, pid);

		if (ch == NULL) {
			c->hooks.on_stranger(c->arg, pid, status);
			continue;
		}
		ch->killed = true; /* its number may be another's now */
		/* What it said last, before it left, still counts. */
		if (ch->control.what != 0)
			on_control(ch, EV_READ);
		bury(ch, status);
		any = true;
	}
	if (any)
		c->hooks.on_reaped(c->arg);
}

/* All of them
 * -------------------------------------------------------------------------------------- */

struct children *
children_new(struct loop *loop, const struct instance *in, const struct children_hooks *hooks,
	     void *arg)
{
	struct children *c = mem_zalloc(sizeof *c);

	c->loop = loop;
	c->in = in;
	c->hooks = *hooks;
	c->arg = arg;
	for (unsigned role = 0; role < ROLE_COUNT; role++)
		c->n += count_of((enum role)role, in->conf);
	c->list = mem_calloc(c->n, sizeof *c->list);
	c->n = 0;
	for (unsigned role = 0; role < ROLE_COUNT; role++) {
		for (unsigned i = 0; i < count_of((enum role)role, in->conf); i++) {
			struct child *ch = &c->list[c->n++];

			ch->all = c;
			ch->role = (enum role)role;
			ch->slot = i;
			ch->control_fd = -1;
			timer_init(&ch->restart, loop, on_restart, ch);
		}
	}
	CHECK(scheduler(c)->role == ROLE_SCHEDULER);
	return c;
}

void
children_free(struct children **cp)
{
	struct children *c = *cp;

	if (c == NULL)
		return;
	for (unsigned i = 0; i < c->n; i++) {
		timer_clear(&c->list[i].restart);
		watch_clear(&c->list[i].control);
		if (c->list[i].control_fd >= 0)
			close(c->list[i].control_fd);
	}
	mem_free(c->list);
	mem_free(c);
	*cp = NULL;
}

void
children_start(struct children *c)
{
	for (unsigned i = 0; i < c->n; i++)
		fork_child(&c->list[i]);
}

void
children_no_restart(struct children *c)
{
	c->no_restart = true;
	for (unsigned i = 0; i < c->n; i++) {
		timer_stop(&c->list[i].restart);
		if (c->list[i].state == CHILD_WAITING)
			c->list[i].state = CHILD_GONE;
	}
}

static bool
in_mask(const struct child *ch, unsigned roles)
{
	return lives(ch) && (roles & CHILDREN_MASK(ch->role)) != 0;
}

void
children_drain(struct children *c, unsigned roles)
{
	for (unsigned i = 0; i < c->n; i++) {
		if (in_mask(&c->list[i], roles))
			tell(&c->list[i], CONTROL_DRAIN, NULL, NULL);
	}
}

void
children_kill(struct children *c, unsigned roles)
{
	for (unsigned i = 0; i < c->n; i++) {
		if (in_mask(&c->list[i], roles))
			kill_child(&c->list[i], "drained-too-long");
	}
}

unsigned
children_alive(const struct children *c, unsigned roles)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++)
		n += in_mask(&c->list[i], roles);
	return n;
}

/* Reload
 * --------------------------------------------------------------------------------------------- */

void
children_prepare(struct children *c, const struct instance_next *next)
{
	c->next = next;
	for (unsigned i = 0; i < c->n; i++)
		prepare(&c->list[i]);
}

unsigned
children_unprepared(const struct children *c, unsigned roles, uint64_t generation)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++)
		n += in_mask(&c->list[i], roles) && c->list[i].prepared < generation;
	return n;
}

bool
children_find_unprepared(const struct children *c, uint64_t generation, enum role *role,
			 unsigned *slot)
{
	for (unsigned i = 0; i < c->n; i++) {
		if (!lives(&c->list[i]) || c->list[i].prepared >= generation)
			continue;
		*role = c->list[i].role;
		*slot = c->list[i].slot;
		return true;
	}
	return false;
}

unsigned
children_uncommitted(const struct children *c, unsigned roles, uint64_t generation)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++)
		n += in_mask(&c->list[i], roles) && c->list[i].committed < generation;
	return n;
}

void
children_commit(struct children *c, unsigned roles, uint64_t generation)
{
	c->next = NULL;
	for (unsigned i = 0; i < c->n; i++) {
		/* One that was born since the decision was born with it. */
		if (in_mask(&c->list[i], roles) && c->list[i].committed < generation)
			tell_conf(&c->list[i], CONTROL_COMMIT, generation, 0, -1);
	}
}

void
children_drop(struct children *c)
{
	uint64_t generation = c->next != NULL ? c->next->generation : 0;

	if (c->next == NULL)
		return;
	c->next = NULL;
	for (unsigned i = 0; i < c->n; i++)
		tell_conf(&c->list[i], CONTROL_DROP, generation, 0, -1);
}

void
children_reloaded(struct children *c, int fd)
{
	tell_conf(scheduler(c), CONTROL_RELOADED, 0, 0, fd);
}

void
children_reopen_log(struct children *c)
{
	for (unsigned i = 0; i < c->n; i++)
		tell_conf(&c->list[i], CONTROL_REOPEN_LOG, 0, 0, -1);
}

void
children_check_heartbeats(struct children *c, uint64_t limit_us, uint64_t awake_boot_us)
{
	uint64_t now = clock_boot_us();

	if (now - awake_boot_us <= limit_us)
		return;
	for (unsigned i = 0; i < c->n; i++) {
		struct child *ch = &c->list[i];
		struct stat_object *o;
		struct stat_info info;

		if ((ch->role != ROLE_WORKER && ch->role != ROLE_RECEIVER) ||
		    ch->state != CHILD_RUNNING ||
		    stat_open(&o, c->in->run, ch->role == ROLE_WORKER ? STAT_WORKER : STAT_RECEIVER,
			      ch->slot) != 0)
			continue;
		if (stat_get_info(o, &info) == 0 && info.pid == (uint32_t)ch->pid &&
		    now > info.heartbeat_boot_us && now - info.heartbeat_boot_us > limit_us &&
		    now - ch->ready_boot_us > limit_us)
			kill_child(ch, "no-heartbeat");
		stat_close(&o);
	}
}
