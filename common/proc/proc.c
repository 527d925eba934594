#include "common/proc/proc.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/control.h"
#include "common/proc/fault.h"
#include "common/proc/user.h"

/* After the end of the control line. Long enough for a dot that is out to be answered, or a message
 * to be committed and its 250 said; the next master waits for the spool as long. */
#define ORPHAN_MS 250

#define KEPT_MAX (LISTENERS_MAX + 16)

/* One configuration: before, in force, or to come. */
struct edition {
	struct conf *conf; /* NULL: none */
	uint64_t generation;
};

struct proc {
	struct heritage *h;
	struct proc_hooks hooks;
	void *arg;
	struct loop *loop;
	struct edition last, now, next;
	int next_listeners[LISTENERS_MAX]; /* of `next`, -1 where none came */
	struct watch control;
	char name[16]; /* as the kernel has it: 15 letters */
	bool draining, orphaned, ended;
	int status;
};

/* What is inherited ------------------------------------------------------------------------------
 */

static int
by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Closes every descriptor but 0, 1, 2 and those of the list. */
static void
close_others(int *kept, unsigned n)
{
	unsigned from = 3;

	qsort(kept, n, sizeof *kept, by_number);
	for (unsigned i = 0; i < n; i++) {
		unsigned fd = (unsigned)kept[i];

		if (kept[i] < 3)
			continue;
		if (fd > from)
			(void)close_range(from, fd - 1, 0);
		from = fd + 1;
	}
	(void)close_range(from, ~0u, 0);
}

/* A child keeps what the heritage names and the log; the rest belongs to the master. */
static void
close_foreign(const struct heritage *h, const char *who)
{
	int kept[KEPT_MAX];
	unsigned n = 0;
	int log_fd = log_descriptor();

	kept[n++] = h->control_fd;
	kept[n++] = h->snapshot_fd;
	kept[n++] = h->routes_fd;
	kept[n++] = h->operator_fd;
	kept[n++] = h->guard_fd;
	kept[n++] = log_fd;
	for (unsigned i = 0; i < h->n_listeners; i++)
		kept[n++] = h->listener_fds[i];
	if (log_fd < 0)
		closelog(); /* its descriptor is the C library's secret */
	close_others(kept, n);
	if (log_fd < 0)
		log_open("syslog", who);
	else
		log_who(who);
}

static void
set_signals(void)
{
	static const int ignored[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE };
	sigset_t none;

	/* The master decides: ^C of a terminal goes to all of us. */
	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void
raise_limits(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &r);
	}
}

static int
load_conf(struct proc *p, int fd, uint64_t generation, struct edition *out)
{
	struct conf_report report = { 0 };
	int rc = conf_parse_fd(fd, &out->conf, &report);

	conf_report_clear(&report);
	out->generation = generation;
	if (rc == 0 && p->h->fixed != NULL)
		conf_keep(out->conf, p->h->fixed, NULL, NULL);
	return rc;
}

static int
drop_root(const struct conf *conf)
{
	const char *name = conf_global(conf)->user;
	struct user u;
	int rc;

	if (geteuid() != 0 || name == NULL)
		return 0;
	rc = user_find(name, &u);
	return rc != 0 ? rc : user_drop(&u);
}

/* The line to the master --------------------------------------------------------------------------
 */

/* A thread of its own, because the promise holds whatever the process is doing: when the master is
 * gone, this process is gone in time. */
static void *
watch_master(void *arg)
{
	struct pollfd p = { *(const int *)arg, 0, 0 };
	struct timespec wait = { ORPHAN_MS / 1000, (ORPHAN_MS % 1000) * 1000000L };

	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	nanosleep(&wait, NULL);
	log_error("left because=master-gone drained=no");
	_exit(1);
}

static int
start_watcher(struct proc *p)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 128u << 10);
	rc = pthread_create(&thread, &attr, watch_master, &p->h->control_fd);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc == 0 ? 0 : -E_SYSTEM;
}

static void
send_control(struct proc *p, const struct control_message *m)
{
	int rc = control_send(p->h->control_fd, m, NULL);

	if (rc != 0 && rc != -E_CLOSED)
		log_error("cannot tell the master what=%s error=\"%s\"", control_name(m->kind),
			  err_text(rc));
}

static void
tell(struct proc *p, enum control_kind kind)
{
	struct control_message m = { .kind = kind, .role = p->h->role, .slot = p->h->slot };

	send_control(p, &m);
}

/* Reload ------------------------------------------------------------------------------------------
 */

static void
answer(struct proc *p, enum control_kind kind, uint64_t generation, const char *text)
{
	struct control_message m = {
		.kind = kind, .role = p->h->role, .slot = p->h->slot, .number = generation
	};

	str_copy(m.text, sizeof m.text, slice_str(text));
	send_control(p, &m);
}

static void
close_listeners(struct proc *p)
{
	for (unsigned i = 0; i < LISTENERS_MAX; i++) {
		if (p->next_listeners[i] >= 0)
			close(p->next_listeners[i]);
		p->next_listeners[i] = -1;
	}
}

static void
drop_next(struct proc *p)
{
	close_listeners(p);
	if (p->next.conf == NULL)
		return;
	if (p->hooks.on_drop != NULL)
		p->hooks.on_drop(p->arg);
	conf_free(&p->next.conf);
}

static void
take_listener(struct proc *p, unsigned i, int fd)
{
	if (i >= LISTENERS_MAX || p->next_listeners[i] >= 0)
		close(fd);
	else
		p->next_listeners[i] = fd;
}

static const char *
try_next(struct proc *p)
{
	const struct conf_listener *l;

	for (size_t i = 0; p->h->role == ROLE_RECEIVER && i < conf_listeners(p->next.conf, &l);
	     i++) {
		if (i >= LISTENERS_MAX || p->next_listeners[i] < 0)
			return "a listener is missing";
	}
	return p->hooks.on_prepare != NULL
		       ? p->hooks.on_prepare(p->arg, p->next.conf, p->next.generation)
		       : NULL;
}

static void
prepare(struct proc *p, uint64_t generation, int fd)
{
	const char *why;
	int rc;

	if (p->next.conf != NULL) { /* was never decided */
		conf_free(&p->next.conf);
		if (p->hooks.on_drop != NULL)
			p->hooks.on_drop(p->arg);
	}
	rc = load_conf(p, fd, generation, &p->next);
	close(fd);
	why = rc != 0 ? err_text(rc) : try_next(p);
	if (why != NULL) {
		log_warn("configuration=%llu prepare=refused why=\"%s\"",
			 (unsigned long long)generation, why);
		answer(p, CONTROL_REFUSED, generation, why);
		conf_free(&p->next.conf);
		close_listeners(p);
		return;
	}
	answer(p, CONTROL_PREPARED, generation, "");
}

/* The old listeners' descriptors are the process's; those of the heritage are what it gets now. */
static void
pass_listeners(struct proc *p)
{
	const struct conf_listener *l;

	if (p->h->role != ROLE_RECEIVER)
		return;
	p->h->n_listeners = (unsigned)conf_listeners(p->now.conf, &l);
	memcpy(p->h->listener_fds, p->next_listeners, sizeof p->h->listener_fds);
	for (unsigned i = 0; i < LISTENERS_MAX; i++)
		p->next_listeners[i] = -1;
}

static void
open_log(struct proc *p)
{
	const char *where = conf_global(p->now.conf)->log_file;
	int rc = log_open(p->h->background && strcmp(where, "stderr") == 0 ? "syslog" : where,
			  p->name + 3);

	if (rc != 0)
		log_error("log=%s open=failed error=\"%s\" the old one is written on", where,
			  err_text(rc));
}

static void
commit(struct proc *p, uint64_t generation)
{
	if (p->next.conf == NULL || p->next.generation != generation) {
		/* Cannot be, and must not go unnoticed: the next life begins with it. */
		log_error("configuration=%llu commit=unknown", (unsigned long long)generation);
		proc_fail(p);
		return;
	}
	conf_free(&p->last.conf);
	p->last = p->now;
	p->now = p->next;
	p->next.conf = NULL;
	p->h->conf_generation = generation;
	pass_listeners(p);
	open_log(p);
	if (p->hooks.on_commit != NULL)
		p->hooks.on_commit(p->arg, p->now.conf, p->last.conf);
	log_info("configuration=%llu", (unsigned long long)generation);
	answer(p, CONTROL_COMMITTED, generation, "");
}

static void
reloaded(struct proc *p, int fd)
{
	struct reload_answer a;
	struct buf text = { 0 };
	int rc = reload_answer_read(&a, fd, &text);

	close(fd);
	if (rc != 0)
		a = (struct reload_answer){ 1, slice_str(err_text(rc)), SLICE_NONE };
	if (p->hooks.on_reloaded != NULL)
		p->hooks.on_reloaded(p->arg, &a);
	buf_clear(&text);
}

static void
drain(struct proc *p)
{
	if (p->draining)
		return;
	p->draining = true;
	if (p->hooks.on_drain != NULL)
		p->hooks.on_drain(p->arg);
	else
		proc_done(p);
}

static void
take(struct proc *p, const struct control_message *m, struct channel_fds *fds)
{
	enum role role = (enum role)m->role;

	switch (m->kind) {
	case CONTROL_LISTENER:
		take_listener(p, m->slot, fds->memfd);
		break;
	case CONTROL_PREPARE:
		prepare(p, m->number, fds->memfd);
		break;
	case CONTROL_COMMIT:
		commit(p, m->number);
		break;
	case CONTROL_DROP:
		drop_next(p);
		break;
	case CONTROL_RELOADED:
		reloaded(p, fds->memfd);
		break;
	case CONTROL_REOPEN_LOG:
		open_log(p);
		break;
	case CONTROL_CHANNEL:
		if (p->hooks.on_channel != NULL)
			p->hooks.on_channel(p->arg, role, m->slot, m->generation, fds);
		else
			channel_fds_close(fds);
		break;
	case CONTROL_PEER_GONE:
		if (p->hooks.on_peer_gone != NULL)
			p->hooks.on_peer_gone(p->arg, role, m->slot, m->generation);
		break;
	case CONTROL_DRAIN:
		log_info("draining");
		drain(p);
		break;
	}
}

static void
on_control(void *arg, short what)
{
	struct proc *p = arg;
	struct control_message m = { 0 };
	struct channel_fds fds;
	int rc = 1;

	(void)what;
	while (!p->ended && (rc = control_recv(p->h->control_fd, true, &m, &fds)) > 0)
		take(p, &m, &fds);
	if (rc == -E_CLOSED) {
		log_warn("master is gone: leaving");
		p->orphaned = true;
		watch_set(&p->control, 0);
		drain(p);
	} else if (rc < 0) {
		log_error("control line failed error=\"%s\"", err_text(rc));
		proc_fail(p);
	}
}

/* Life --------------------------------------------------------------------------------------------
 */

static void
name_process(struct proc *p)
{
	const struct heritage *h = p->h;

	if (h->role == ROLE_WORKER || h->role == ROLE_RECEIVER)
		snprintf(p->name, sizeof p->name, "sl-%s-%u", role_name(h->role), h->slot % 1000);
	else
		snprintf(p->name, sizeof p->name, "sl-%s", role_name(h->role));
	(void)prctl(PR_SET_NAME, p->name, 0, 0, 0);
}

struct proc *
proc_begin(struct heritage *h, const struct proc_hooks *hooks, void *arg)
{
	struct proc *p = mem_zalloc(sizeof *p);
	int rc;

	p->h = h;
	p->hooks = *hooks;
	p->arg = arg;
	for (unsigned i = 0; i < LISTENERS_MAX; i++)
		p->next_listeners[i] = -1;
	name_process(p);
	close_foreign(h, p->name + 3);
	set_signals();
	fault_init();
	raise_limits();
	rc = load_conf(p, h->snapshot_fd, h->conf_generation, &p->now);
	if (rc != 0) {
		log_error("cannot start step=configuration error=\"%s\"", err_text(rc));
		goto fail;
	}
	rc = drop_root(p->now.conf);
	if (rc != 0) {
		log_error("cannot start step=user user=%s error=\"%s\"",
			  conf_global(p->now.conf)->user, err_text(rc));
		goto fail;
	}
	user_drop_capabilities();
	user_no_new_privileges();
	rc = start_watcher(p);
	if (rc != 0) {
		log_error("cannot start step=watcher error=\"%s\"", err_text(rc));
		goto fail;
	}
	p->loop = loop_new();
	watch_init(&p->control, p->loop, h->control_fd, on_control, p);
	watch_set(&p->control, EV_READ);
	return p;
fail:
	conf_free(&p->now.conf);
	mem_free(p);
	return NULL;
}

void
proc_ready(struct proc *p)
{
	tell(p, CONTROL_READY);
}

int
proc_run(struct proc *p)
{
	if (!p->ended)
		loop_run(p->loop);
	/* A loop that ran out of watchers did not do what it was told. */
	return p->ended ? p->status : 1;
}

static void
end(struct proc *p, int status)
{
	if (p->ended)
		return;
	p->ended = true;
	p->status = status;
	loop_stop(p->loop);
}

void
proc_done(struct proc *p)
{
	end(p, 0);
}

void
proc_fail(struct proc *p)
{
	end(p, 1);
}

void
proc_ask_stop(struct proc *p)
{
	tell(p, CONTROL_ASK_STOP);
}

void
proc_ask_reload(struct proc *p)
{
	tell(p, CONTROL_ASK_RELOAD);
}

void
proc_ask_kill(struct proc *p, enum role peer, unsigned slot, uint32_t generation)
{
	struct control_message m = {
		.kind = CONTROL_ASK_KILL, .role = peer, .slot = slot, .generation = generation
	};

	send_control(p, &m);
}

bool
proc_is_orphaned(const struct proc *p)
{
	return p->orphaned;
}

struct loop *
proc_loop(struct proc *p)
{
	return p->loop;
}

const struct conf *
proc_conf(struct proc *p)
{
	return p->now.conf;
}

const struct conf *
proc_conf_of(struct proc *p, uint64_t generation)
{
	const struct edition *const all[] = { &p->now, &p->next, &p->last };

	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		if (all[i]->conf != NULL && all[i]->generation == generation)
			return all[i]->conf;
	}
	return NULL;
}

struct heritage *
proc_heritage(struct proc *p)
{
	return p->h;
}
