#include "common/proc/proc.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
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

/* After the end of the control line. Long enough for a dot that is out to be answered, or a message to be
 * committed and its 250 said; the next master waits for the spool as long. */
#define ORPHAN_MS 250

#define KEPT_MAX (LISTENERS_MAX + 16)

struct proc {
	struct heritage *h;
	struct proc_hooks hooks;
	void *arg;
	struct loop *loop;
	struct conf *conf;
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
	static const int ignored[] = { SIGTERM, SIGINT, SIGHUP, SIGPIPE };
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
load_conf(struct proc *p)
{
	struct conf_report report = { 0 };
	struct stat st;
	void *bytes;
	int rc;

	if (fstat(p->h->snapshot_fd, &st) != 0)
		return -err_errno();
	if (st.st_size == 0)
		return -E_BAD;
	/* Stays mapped: the configuration may borrow from it. */
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, p->h->snapshot_fd, 0);
	if (bytes == MAP_FAILED)
		return -err_errno();
	rc = conf_parse(slice_of(bytes, (size_t)st.st_size), &p->conf, &report);
	conf_report_clear(&report);
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
	name_process(p);
	close_foreign(h, p->name + 3);
	set_signals();
	fault_init();
	raise_limits();
	rc = load_conf(p);
	if (rc != 0) {
		log_error("cannot start step=configuration error=\"%s\"", err_text(rc));
		goto fail;
	}
	rc = drop_root(p->conf);
	if (rc != 0) {
		log_error("cannot start step=user user=%s error=\"%s\"", conf_global(p->conf)->user,
			  err_text(rc));
		goto fail;
	}
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
	conf_free(&p->conf);
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
	return p->conf;
}

struct heritage *
proc_heritage(struct proc *p)
{
	return p->h;
}
