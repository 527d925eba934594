#include "master/master.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/str.h"
#include "common/conf/conf.h"
#include "master/background.h"
#include "master/checker.h"
#include "master/children.h"
#include "master/complain.h"
#include "master/instance.h"
#include "master/notify.h"
#include "master/options.h"
#include "master/reload.h"
#include "master/stop.h"

#define EXIT_CONFIGURATION 2

struct master_times master_times = {
	.receivers_ms = 8000,
	.workers_ms = 18000,
	.scheduler_ms = 22000,
	.all_ms = 25000,
	.prepare_ms = 10000,
	.commit_ms = 5000,
#ifdef KILL_POINTS /* its children die and hang all the time, as they are told */
	.heartbeat_ms = 5000,
	.check_ms = 500,
	.quick_ms = 100,
	.pause_ms = 20,
#else
	.heartbeat_ms = 60000,
	.check_ms = 5000,
	.quick_ms = 2000,
	.pause_ms = 1000,
#endif
};

struct master {
	struct loop *loop;
	struct instance in;
	struct children *children;
	struct stop stop;
	struct reload reload;
	const char *conf_path;
	int signal_fd;
	struct watch signals;
	struct timer heartbeats, watchdog;
	uint64_t checked_boot_us, awake_boot_us; /* when it looked, and since when without a gap */
	int status;
};

/* What happens
 * ------------------------------------------------------------------------------------- */

static void
begin_stop(struct master *m, const char *because)
{
	if (stop_is_on(&m->stop))
		return;
	log_info("stopping because=%s", because);
	notify_send("STOPPING=1");
	reload_close(&m->reload);
	instance_stop_listening(&m->in);
	stop_begin(&m->stop);
}

static void
on_ready(void *arg)
{
	struct master *m = arg;
	char text[64];

	m->reload.started = true;
	log_info("ready");
	snprintf(text, sizeof text, "READY=1\nMAINPID=%d", (int)getpid());
	notify_send(text);
	background_tell(EXIT_SUCCESS);
}

static void
on_hopeless(void *arg)
{
	struct master *m = arg;

	if (stop_is_on(&m->stop))
		return;
	complain("a process died again and again while starting; the log says which and why");
	m->status = EXIT_FAILURE;
	begin_stop(m, "start-failed");
}

static void
on_ask_stop(void *arg)
{
	begin_stop(arg, "operator");
}

static void
on_reaped(void *arg)
{
	struct master *m = arg;

	reload_reaped(&m->reload);
	stop_reaped(&m->stop);
}

static void
on_stranger(void *arg, pid_t pid, int status)
{
	struct master *m = arg;

	reload_stranger(&m->reload, pid, status);
}

static void
on_ask_reload(void *arg)
{
	struct master *m = arg;

	reload_ask(&m->reload, true);
}

static void
on_edition(void *arg, enum role role, unsigned slot, enum control_kind kind, const char *why)
{
	struct master *m = arg;

	reload_edition(&m->reload, role, slot, kind, why);
}

static void
on_stopped(void *arg)
{
	struct master *m = arg;

	loop_stop(m->loop);
}

static void
on_signals(void *arg, short what)
{
	struct master *m = arg;
	struct signalfd_siginfo si;

	(void)what;
	while (read(m->signal_fd, &si, sizeof si) == (ssize_t)sizeof si) {
		switch (si.ssi_signo) {
		case SIGTERM:
		case SIGINT:
			begin_stop(m, si.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
			break;
		case SIGHUP:
			reload_ask(&m->reload, false);
			break;
		case SIGUSR1:
			instance_reopen_log(&m->in);
			children_reopen_log(m->children);
			log_info("log=reopened");
			break;
		case SIGCHLD:
			children_reap(m->children);
			break;
		}
	}
}

static void
on_heartbeats(void *arg)
{
	struct master *m = arg;
	uint64_t now = clock_boot_us();

	/* The master itself stood still, and most likely the whole machine: who could not beat
	 * either has all of the time again. */
	if (now - m->checked_boot_us > 3000ull * master_times.check_ms)
		m->awake_boot_us = now;
	m->checked_boot_us = now;
	children_check_heartbeats(m->children, master_times.heartbeat_ms * 1000ull,
				  m->awake_boot_us);
	timer_set(&m->heartbeats, master_times.check_ms * 1000ull);
}

static void
on_watchdog(void *arg)
{
	struct master *m = arg;

	notify_send("WATCHDOG=1");
	timer_set(&m->watchdog, notify_watchdog_us());
}

/* Running
 * ------------------------------------------------------------------------------------------ */

/* By descriptor, not by handler: children have nothing to undo but the mask. */
static int
open_signals(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGCHLD);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	CHECK(fd >= 0);
	return fd;
}

static void
run_loop(struct master *m)
{
	static const struct children_hooks hooks = {
		.on_ready = on_ready,
		.on_hopeless = on_hopeless,
		.on_ask_stop = on_ask_stop,
		.on_reaped = on_reaped,
		.on_stranger = on_stranger,
		.on_ask_reload = on_ask_reload,
		.on_edition = on_edition,
	};

	m->loop = loop_new();
	watch_init(&m->signals, m->loop, m->signal_fd, on_signals, m);
	watch_set(&m->signals, EV_READ);
	timer_init(&m->heartbeats, m->loop, on_heartbeats, m);
	timer_set(&m->heartbeats, master_times.check_ms * 1000ull);
	timer_init(&m->watchdog, m->loop, on_watchdog, m);
	if (notify_watchdog_us() > 0)
		timer_set(&m->watchdog, notify_watchdog_us());
	m->children = children_new(m->loop, &m->in, &hooks, m);
	stop_init(&m->stop, m->loop, m->children, on_stopped, m);
	reload_init(&m->reload, m->loop, &m->in, m->children, m->conf_path);
	children_start(m->children);

	loop_run(m->loop);

	reload_clear(&m->reload);
	stop_clear(&m->stop);
	children_free(&m->children);
	timer_clear(&m->watchdog);
	timer_clear(&m->heartbeats);
	watch_clear(&m->signals);
	loop_free(&m->loop);
}

/* Tests do not wait a minute for a worker to hang. */
static void
shorten_for_tests(void)
{
	const char *text = getenv("SLUICE_TEST_HEARTBEAT_MS");
	uint64_t ms;

	if (text == NULL || !slice_u64(slice_str(text), 60000, &ms) || ms == 0)
		return;
	master_times.heartbeat_ms = (unsigned)ms;
	master_times.check_ms = (unsigned)(ms / 8 + 1);
}

static int
run(const char *conf_path, int snapshot_fd, bool foreground)
{
	static struct master m;
	int rc;

	if (!foreground && (rc = background_enter()) != 0) {
		complain("cannot go into the background: %s", err_text(rc));
		return EXIT_FAILURE;
	}
	m.status = EXIT_SUCCESS;
	shorten_for_tests();
	m.conf_path = conf_path;
	/* From here on a signal waits: nothing is left half made. */
	m.signal_fd = open_signals();
	rc = instance_open(&m.in, snapshot_fd, foreground);
	if (rc == 0) {
		log_info("starting version=%s spool=%s run=%s", SLUICE_VERSION, m.in.global->spool,
			 m.in.run);
		run_loop(&m);
		instance_close(&m.in);
	} else {
		m.status = EXIT_FAILURE;
	}
	close(m.signal_fd);
	background_tell(m.status); /* nothing when it was ready once */
	return m.status;
}

static int
print(void (*make)(struct buf *out))
{
	struct buf text = { 0 };
	bool good;

	make(&text);
	good = fwrite(text.data + text.start, 1, text.len, stdout) == text.len &&
	       fflush(stdout) == 0;
	buf_clear(&text);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Checks; goes on to run when that was asked for. */
static int
check_and_run(const struct options *o)
{
	struct buf report = { 0 };
	int snapshot_fd;
	enum checker_verdict verdict = checker_run(o->conf_path, &snapshot_fd, &report);

	if (report.len > 0)
		fwrite(report.data + report.start, 1, report.len, stderr);
	buf_clear(&report);
	if (verdict == CHECKER_WRONG)
		return EXIT_CONFIGURATION;
	if (verdict == CHECKER_FAILED)
		return EXIT_FAILURE;
	if (o->act == OPTIONS_CHECK) {
		close(snapshot_fd);
		printf("%s: no errors\n", o->conf_path);
		return EXIT_SUCCESS;
	}
	return run(o->conf_path, snapshot_fd, o->foreground);
}

int
master_main(int argc, char **argv)
{
	struct options o;

	options_parse(&o, argc, argv);
	notify_init();
	log_who("master");
	switch (o.act) {
	case OPTIONS_VERSION:
		puts("sluiced " SLUICE_VERSION);
		return EXIT_SUCCESS;
	case OPTIONS_SAMPLE:
		return print(conf_print_sample);
	case OPTIONS_MANUAL:
		return print(conf_print_manual);
	case OPTIONS_HELP:
		options_print_help(stdout);
		return EXIT_SUCCESS;
	case OPTIONS_WRONG:
		options_print_help(stderr);
		return EXIT_FAILURE;
	case OPTIONS_CHECK:
	case OPTIONS_RUN:
		break;
	}
	return check_and_run(&o);
}
