/* The master with stand-ins for the real processes: what it starts, restarts, tells and stops. The
 * stand-ins and the test share a board in memory that survives all forks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/ipc/operator.h"
#include "common/proc/proc.h"
#include "common/proc/route.h"
#include "master/master.h"
#include "shm/stat.h"
#include "tests/lib/child.h"

#define SLOTS 2  /* workers; one of all others */
#define SLACK 10 /* times as long as a machine takes that is not busy */

enum conduct {
	WELL,
	DIES_AT_START,   /* before it is ready */
	DIES_WHEN_READY, /* 100 ms after it was */
	DEAF_TO_DRAIN,   /* never says that it is done */
	HANGS_IN_DRAIN,  /* and turns its loop no more */
	ASKS_TO_STOP,    /* 200 ms after it was ready */
	SILENT,          /* no heartbeat after the first */
	BEATS,           /* all the time; the others have no heart, and are not asked for it */
	REFUSES,         /* every other configuration */
	SLOW_TO_PREPARE, /* longer than the master waits */
	DIES_PREPARING,  /* the first time */
	DIES_COMMITTING, /* the first time */
};

struct seat {
	_Atomic int conduct;
	_Atomic int pid;
	_Atomic unsigned starts, readies, channels, hellos, gone, drained_as;
	_Atomic unsigned last_generation; /* of the peer of the last channel */
	_Atomic uint64_t started_us[8];
	_Atomic unsigned bad;
	_Atomic unsigned prepares, commits, drops, works_by; /* generation that is in force there */
};

static struct board {
	struct seat seats[ROLE_COUNT][SLOTS];
	_Atomic unsigned drains;
	_Atomic unsigned worker_gone, worker_gone_generation;
	_Atomic unsigned hellos_from[ROLE_COUNT];
} * board;

/* Stand-ins
 * ------------------------------------------------------------------------------------------ */

struct stand_in {
	struct proc *p;
	struct heritage *h;
	struct seat *seat;
	struct channel *channels[ROLE_COUNT][SLOTS];
	struct stat_object *stat;
	struct timer timer;
};
static struct stand_in self;

static void
take_input(struct channel **c)
{
	struct message m;
	struct slice payload;
	int rc;

	while (*c != NULL && (rc = channel_recv(*c, &m, &payload)) != 0) {
		if (rc < 0) {
			self.seat->bad++;
			channel_close(c);
			return;
		}
		self.seat->hellos++;
	}
}

static void
on_input(void *arg)
{
	take_input(arg);
}

static void
on_channel(void *arg, enum role peer, unsigned slot, uint32_t generation,
	   const struct channel_fds *fds)
{
	static const struct {
		char letter;
		enum message_kind hello;
	} rows[] = {
		[ROLE_SCHEDULER] = { 'S', MESSAGE_NONE },
		[ROLE_RESOLVER] = { 'V', MESSAGE_ROUTE },
		[ROLE_RECORDER] = { 'A', MESSAGE_CURSOR },
		[ROLE_WORKER] = { 'W', MESSAGE_WORKER_HELLO },
		[ROLE_RECEIVER] = { 'R', MESSAGE_RECEIVER_HELLO },
	};
	struct channel **c = &self.channels[peer][slot];
	struct message m = { .kind = (uint16_t)rows[self.h->role].hello };

	(void)arg;
	channel_close(c);
	if (channel_open(c, fds, rows[self.h->role].letter, proc_loop(self.p), on_input, c) != 0) {
		self.seat->bad++;
		return;
	}
	self.seat->channels++;
	self.seat->last_generation = generation;
	if (self.h->role == ROLE_SCHEDULER) {
		channel_expect(*c, rows[peer].letter);
		return;
	}
	if (peer != ROLE_SCHEDULER || channel_send(*c, &m, SLICE_NONE) != 0)
		self.seat->bad++;
	channel_flush(*c);
}

static void
on_peer_gone(void *arg, enum role peer, unsigned slot, uint32_t generation)
{
	(void)arg;
	self.seat->gone++;
	channel_close(&self.channels[peer][slot]);
	if (self.h->role == ROLE_SCHEDULER && peer == ROLE_WORKER) {
		board->worker_gone++;
		board->worker_gone_generation = generation;
	}
}

static void
on_drain(void *arg)
{
	(void)arg;
	self.seat->drained_as = ++board->drains;
	if (self.seat->conduct == HANGS_IN_DRAIN) {
		for (;;)
			pause();
	}
	if (self.seat->conduct != DEAF_TO_DRAIN)
		proc_done(self.p);
}

static const char *
on_prepare(void *arg, const struct conf *conf, uint64_t generation)
{
	(void)arg;
	if (conf_global(conf)->workers != 2 || generation <= self.seat->works_by)
		self.seat->bad++;
	if (self.seat->prepares++ == 0 && self.seat->conduct == DIES_PREPARING)
		_exit(8);
	if (self.seat->conduct == SLOW_TO_PREPARE)
		usleep(2000000);
	return self.seat->conduct == REFUSES ? "not to my taste" : NULL;
}

static void
on_commit(void *arg, const struct conf *conf, const struct conf *old)
{
	(void)arg;
	if (self.seat->commits++ == 0 && self.seat->conduct == DIES_COMMITTING)
		_exit(9);
	if (conf != proc_conf(self.p) || old == conf ||
	    proc_conf_of(self.p, self.seat->works_by) != old)
		self.seat->bad++;
	self.seat->works_by = (unsigned)self.h->conf_generation;
}

static void
on_drop(void *arg)
{
	(void)arg;
	self.seat->drops++;
}

static void
on_timer(void *arg)
{
	(void)arg;
	if (self.seat->conduct == DIES_WHEN_READY)
		_exit(7);
	if (self.seat->conduct == ASKS_TO_STOP)
		proc_ask_stop(self.p);
	if (self.seat->conduct == BEATS) {
		stat_beat(self.stat, clock_boot_us(), STAT_RUNNING);
		timer_set(&self.timer, 50000);
	}
}

/* What it was given, by name, and nothing else. */
static void
check_heritage(const struct heritage *h)
{
	struct route_object *routes;
	struct stat st;
	unsigned open_fds = 0;

	if (fstat(h->guard_fd, &st) != 0 ||
	    route_object_map(&routes, h->routes_fd, h->role == ROLE_RESOLVER) != 0)
		self.seat->bad++;
	else
		route_object_unmap(&routes);
	if ((h->role == ROLE_RECEIVER) != (h->n_listeners > 0) ||
	    (h->role == ROLE_SCHEDULER) != (h->operator_fd >= 0))
		self.seat->bad++;
	for (int fd = 3; fd < 256; fd++)
		open_fds += fcntl(fd, F_GETFD) >= 0;
	/* Log, control, snapshot, routes, guard; listener or operator socket; libevent's own four.
	 */
	if (open_fds > 5 + 1 + 4)
		self.seat->bad++;
}

static int
stand_in(struct heritage *h)
{
	static const struct proc_hooks hooks = {
		.on_channel = on_channel,
		.on_peer_gone = on_peer_gone,
		.on_drain = on_drain,
		.on_prepare = on_prepare,
		.on_commit = on_commit,
		.on_drop = on_drop,
	};
	struct seat *seat = &board->seats[h->role][h->slot];
	unsigned n = seat->starts;
	int rc;

	self.h = h;
	self.seat = seat;
	seat->pid = getpid();
	if (n < 8)
		seat->started_us[n] = clock_boot_us();
	seat->starts = n + 1;
	if (seat->conduct == DIES_AT_START)
		return 1;
	self.p = proc_begin(h, &hooks, NULL);
	if (self.p == NULL)
		return 1;
	check_heritage(h);
	seat->works_by = (unsigned)h->conf_generation;
	if (seat->conduct == SILENT || seat->conduct == BEATS) {
		if (stat_create(&self.stat, conf_global(proc_conf(self.p))->run,
				h->role == ROLE_WORKER ? STAT_WORKER : STAT_RECEIVER, h->slot) != 0)
			seat->bad++;
		else
			stat_beat(self.stat, clock_boot_us(), STAT_RUNNING);
	}
	timer_init(&self.timer, proc_loop(self.p), on_timer, NULL);
	timer_set(&self.timer, seat->conduct == ASKS_TO_STOP ? 200000 : 100000);
	seat->readies++;
	proc_ready(self.p);
	rc = proc_run(self.p);
	return rc;
}

#define X(name, entry, letter, count)                                                              \
	int entry(struct heritage *h)                                                              \
	{                                                                                          \
		return stand_in(h);                                                                \
	}
ROLES(X)
#undef X

/* The fixture
 * ------------------------------------------------------------------------------------------ */

static char dir[64];
static const char *extra = ""; /* further lines of the configuration */
static unsigned port;          /* of the listener */
static pid_t launched[8];
static unsigned n_launched;
static const struct master_times usual_times = {
	.receivers_ms = 5000,
	.workers_ms = 10000,
	.scheduler_ms = 15000,
	.all_ms = 20000,
	.heartbeat_ms = 600,
	.check_ms = 100,
	.prepare_ms = 10000,
	.commit_ms = 10000,
	.quick_ms = 500,
	.pause_ms = 500,
};

static struct master_times short_times; /* of the next one; no test but those of a limit meets it */

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* A socket at 127.0.0.1:`at`, connected when `at` is one that listens. */
static int
tcp(unsigned at, bool connected)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)at),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if ((connected ? connect : bind)(fd, (struct sockaddr *)&a, sizeof a) == 0)
		return fd;
	close(fd);
	return -1;
}

static unsigned
free_port(void)
{
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	int fd = tcp(0, false);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	close(fd);
	return ntohs(a.sin_port);
}

static int
set_up(void **state)
{
	(void)state;
	port = free_port();
	snprintf(dir, sizeof dir, "/tmp/sluice-test-master-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chmod(dir, 0755), 0);
	memset(board, 0, sizeof *board);
	extra = "";
	short_times = usual_times;
	return 0;
}

/* What a failed test has left running. */
static void
clear_away(void)
{
	uint64_t until = clock_boot_us() + 3000000;
	pid_t pid;

	for (unsigned i = 0; i < n_launched; i++)
		kill(launched[i], SIGKILL);
	n_launched = 0;
	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0 || (pid == 0 && clock_boot_us() < until))
		usleep(1000);
}

static int
tear_down(void **state)
{
	(void)state;
	clear_away();
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}

static void
write_conf(const char *name, const char *spool)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f,
		"host-name = \"mta.example.com\";\nspool = \"%s/%s\";\nrun = \"%s/run\";\n"
		"log-file = \"%s/log\";\nworkers = 2;\nreceivers = 1;\npostmaster = "
		"\"ops@example.com\";\n"
		"smtp-listeners = ( { address = \"127.0.0.1:%u\"; } );\n%s\n",
		dir, spool, dir, dir, port, extra);
	fclose(f);
}

/* Forks a process that becomes sluiced; its stderr goes to DIR/err. */
static pid_t
launch(const char *conf, const char *option)
{
	char path[128], err[128];
	char name[] = "sluiced", c[] = "-c", o[8] = "";
	char *argv[] = { name, c, path, o, NULL };
	pid_t pid;
	int fd;

	snprintf(path, sizeof path, "%s/%s", dir, conf);
	snprintf(err, sizeof err, "%s/err", dir);
	snprintf(o, sizeof o, "%s", option);
	pid = child_fork();
	assert_true(pid >= 0);
	if (pid > 0) {
		if (n_launched < sizeof launched / sizeof *launched)
			launched[n_launched++] = pid;
		return pid;
	}
	fd = open(err, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	dup2(fd, 2);
	master_times = short_times;
	_exit(master_main(o[0] != '\0' ? 4 : 3, argv));
}

static struct seat *
seat(enum role role, unsigned slot)
{
	return &board->seats[role][slot];
}

static void
nap_ms(unsigned ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

/* Waits until *n is at least `least`: so long, with tenfold slack, as everywhere here. */
static void
await(const _Atomic unsigned *n, unsigned least, unsigned within_ms, const char *what)
{
	uint64_t until = clock_boot_us() + SLACK * within_ms * 1000ull;

	while (*n < least) {
		if (clock_boot_us() > until)
			fail_msg("not in time: %s (%u of %u)", what, *n, least);
		nap_ms(5);
	}
}

static void
await_all_ready(void)
{
	for (unsigned role = 0; role < ROLE_COUNT; role++) {
		await(&seat(role, 0)->readies, 1, 5000, role_name(role));
		await(&seat(role, 0)->channels, role == ROLE_SCHEDULER ? 5 : 1, 5000, "channels");
	}
	await(&seat(ROLE_WORKER, 1)->readies, 1, 5000, "worker 1");
	await(&seat(ROLE_SCHEDULER, 0)->hellos, 5, 5000, "hellos");
}

/* Reaped: its number may be another's. */
static void
forget(pid_t pid)
{
	for (unsigned i = 0; i < n_launched; i++) {
		if (launched[i] == pid)
			launched[i] = launched[--n_launched];
	}
}

/* The exit status; -1 when it was killed or is not done in time. */
static int
await_exit(pid_t pid, unsigned within_ms)
{
	uint64_t until = clock_boot_us() + SLACK * within_ms * 1000ull;
	int status;

	while (clock_boot_us() < until) {
		if (waitpid(pid, &status, WNOHANG) == pid) {
			forget(pid);
			return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		}
		nap_ms(5);
	}
	return -1;
}

static bool
exists(const char *name)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return lstat(path, &st) == 0;
}

static bool
file_says(const char *name, const char *what)
{
	static char text[65536];
	char path[128];
	size_t n;
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "r");
	if (f == NULL)
		return false;
	n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = '\0';
	return strstr(text, what) != NULL;
}

static void
assert_nothing_bad(void)
{
	for (unsigned role = 0; role < ROLE_COUNT; role++) {
		for (unsigned i = 0; i < SLOTS; i++)
			assert_int_equal(seat(role, i)->bad, 0);
	}
}

static void
stop_well(pid_t pid)
{
	kill(pid, SIGTERM);
	assert_int_equal(await_exit(pid, 6000), 0);
	assert_nothing_bad();
}

/* Orphans come to us: all of them must be gone within the time. */
static void
assert_no_orphans(unsigned within_ms)
{
	uint64_t until = clock_boot_us() + SLACK * within_ms * 1000ull;

	while (clock_boot_us() < until) {
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return;
		nap_ms(5);
	}
	fail_msg("children outlive the master");
}

/* Tests
 * ------------------------------------------------------------------------------------------------
 */

static void
test_starts_and_stops(void **state)
{
	pid_t pid;
	int fd;

	(void)state;
	write_conf("a.conf", "spool");
	pid = launch("a.conf", "-f");
	await_all_ready();
	assert_true(exists("run/control.sock"));
	assert_true(exists("run/sluiced.pid"));
	assert_true(exists("run/shm"));
	kill(pid, SIGHUP);
	await(&seat(ROLE_RECEIVER, 0)->works_by, 2, 5000, "reload");
	fd = tcp(port, true);
	assert_true(fd >= 0);
	close(fd);
	stop_well(pid);
	assert_int_equal(tcp(port, true), -1);
	assert_true(file_says("log", "reload=done generation=2"));
	/* Who brings mail stops first, who records it last. */
	assert_true(seat(ROLE_RECEIVER, 0)->drained_as == 1);
	assert_true(seat(ROLE_WORKER, 0)->drained_as < seat(ROLE_SCHEDULER, 0)->drained_as);
	assert_true(seat(ROLE_WORKER, 1)->drained_as < seat(ROLE_SCHEDULER, 0)->drained_as);
	assert_true(seat(ROLE_SCHEDULER, 0)->drained_as < seat(ROLE_RECORDER, 0)->drained_as);
	assert_false(exists("run/control.sock"));
	assert_false(exists("run/sluiced.pid"));
	for (unsigned role = 0; role < ROLE_COUNT; role++)
		assert_int_equal(seat(role, 0)->starts, 1);
}

static void
test_restarts(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	pid = launch("a.conf", "-f");
	await_all_ready();
	kill(seat(ROLE_WORKER, 1)->pid, SIGKILL);
	await(&seat(ROLE_WORKER, 1)->readies, 2, 3000, "worker again");
	await(&board->worker_gone, 1, 3000, "the scheduler hears of it");
	assert_int_equal(board->worker_gone_generation, 1);
	await(&seat(ROLE_SCHEDULER, 0)->channels, 6, 3000, "a new channel");
	assert_int_equal(seat(ROLE_SCHEDULER, 0)->last_generation, 2);
	await(&seat(ROLE_SCHEDULER, 0)->hellos, 6, 3000, "and a word through it");

	kill(seat(ROLE_SCHEDULER, 0)->pid, SIGKILL);
	await(&seat(ROLE_SCHEDULER, 0)->readies, 2, 3000, "scheduler again");
	for (unsigned role = ROLE_RESOLVER; role < ROLE_COUNT; role++) {
		await(&seat(role, 0)->gone, 1, 3000, "others hear of it");
		await(&seat(role, 0)->channels, 2, 3000, "new channels");
		assert_int_equal(seat(role, 0)->last_generation, 2);
		assert_int_equal(seat(role, 0)->starts, 1);
	}
	await(&seat(ROLE_SCHEDULER, 0)->hellos, 11, 3000, "words through them");
	stop_well(pid);
}

static uint64_t
between(const struct seat *s, unsigned from)
{
	return (s->started_us[from + 1] - s->started_us[from]) / 1000;
}

/* A life of 100 ms each; false when what comes at once comes late. */
static bool
pause_grows(void)
{
	const struct seat *s = seat(ROLE_RESOLVER, 0);
	uint64_t killed_us;
	pid_t pid;

	write_conf("a.conf", "spool");
	seat(ROLE_RESOLVER, 0)->conduct = DIES_WHEN_READY;
	pid = launch("a.conf", "-f");
	await(&s->starts, 4, 8000, "restarts");
	assert_true(between(s, 0) >= 100);
	assert_true(between(s, 1) >= 600);  /* twice in a row: a pause */
	assert_true(between(s, 2) >= 1100); /* twice as long */
	seat(ROLE_RESOLVER, 0)->conduct = WELL;
	nap_ms(600);
	if (s->starts != 4) { /* not well soon enough */
		stop_well(pid);
		return false;
	}
	killed_us = clock_boot_us();
	kill(s->pid, SIGKILL); /* it has lived long enough: no pause */
	await(&s->readies, 5, 480, "again");
	assert_int_equal(seat(ROLE_SCHEDULER, 0)->starts, 1);
	stop_well(pid);
	return between(s, 0) < 590 && between(s, 1) < 1000 && between(s, 2) < 3000 &&
	       s->started_us[4] - killed_us < 480000;
}

/* The machine may be busy: it has three tries. */
static void
test_pause_grows(void **state)
{
	unsigned tries = 0;

	(void)state;
	while (!pause_grows()) {
		assert_true(++tries < 3);
		memset(board, 0, sizeof *board);
	}
}

static void
test_one_instance(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	write_conf("b.conf", "other");
	pid = launch("a.conf", "-f");
	await_all_ready();
	assert_int_equal(await_exit(launch("a.conf", "-f"), 3000), 1);
	assert_true(file_says("err", "in use by another sluiced"));
	assert_int_equal(await_exit(launch("b.conf", "-f"), 3000), 1);
	assert_true(file_says("err", "run is in use by another sluiced"));
	/* The first one has not noticed. */
	assert_true(exists("run/control.sock"));
	assert_true(exists("run/sluiced.pid"));
	assert_int_equal(seat(ROLE_SCHEDULER, 0)->starts, 1);
	stop_well(pid);
}

static void
test_master_killed(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_WORKER, 0)->conduct = HANGS_IN_DRAIN;
	seat(ROLE_RECEIVER, 0)->conduct = DEAF_TO_DRAIN;
	pid = launch("a.conf", "-f");
	await_all_ready();
	kill(pid, SIGKILL);
	forget(pid);
	assert_no_orphans(2000);
	/* What it left does not keep the next one from starting. */
	memset(board, 0, sizeof *board);
	pid = launch("a.conf", "-f");
	await_all_ready();
	stop_well(pid);
}

static void
test_next_waits_for_orphans(void **state)
{
	pid_t pid;
	int old;

	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_WORKER, 0)->conduct = HANGS_IN_DRAIN;
	pid = launch("a.conf", "-f");
	await_all_ready();
	old = seat(ROLE_WORKER, 0)->pid;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	forget(pid);
	memset(board, 0, sizeof *board);
	pid = launch("a.conf", "-f");
	await(&seat(ROLE_SCHEDULER, 0)->starts, 1, 4000, "next scheduler");
	waitpid(old, NULL, WNOHANG);
	assert_int_equal(kill(old, 0), -1); /* never beside a process of the old one */
	await_all_ready();
	stop_well(pid);
	assert_no_orphans(100);
}

static void
test_stop_is_bounded(void **state)
{
	uint64_t t;
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_WORKER, 0)->conduct = HANGS_IN_DRAIN;
	seat(ROLE_RECORDER, 0)->conduct = DEAF_TO_DRAIN;
	short_times.receivers_ms = 500;
	short_times.workers_ms = 1000;
	short_times.scheduler_ms = 1500;
	short_times.all_ms = 2000;
	pid = launch("a.conf", "-f");
	await_all_ready();
	kill(pid, SIGTERM);
	t = clock_boot_us();
	kill(pid, SIGTERM);
	assert_int_equal(await_exit(pid, 6000), 0);
	assert_in_range((clock_boot_us() - t) / 1000, 1900, 2000 * SLACK);
	assert_no_orphans(100);
	assert_nothing_bad();
	assert_int_equal(seat(ROLE_WORKER, 0)->starts, 1); /* not restarted while stopping */
}

static void
test_operator_stops(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_SCHEDULER, 0)->conduct = ASKS_TO_STOP;
	pid = launch("a.conf", "-f");
	assert_int_equal(await_exit(pid, 6000), 0);
	assert_nothing_bad();
	assert_true(file_says("log", "because=operator"));
}

static void
test_hopeless(void **state)
{
	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_SCHEDULER, 0)->conduct = DIES_AT_START;
	assert_int_equal(await_exit(launch("a.conf", "-f"), 9000), 1);
	assert_int_equal(seat(ROLE_SCHEDULER, 0)->starts, 4);
	assert_false(exists("run/sluiced.pid"));
	assert_no_orphans(100);
}

static void
test_background(void **state)
{
	char path[128], text[32] = "";
	pid_t daemon;
	FILE *f;

	(void)state;
	write_conf("a.conf", "spool");
	assert_int_equal(await_exit(launch("a.conf", ""), 5000), 0);
	await_all_ready();
	snprintf(path, sizeof path, "%s/run/sluiced.pid", dir);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof text, f));
	fclose(f);
	daemon = (pid_t)atoi(text);
	assert_true(daemon > 1);
	assert_int_equal(getsid(daemon) == getsid(0), 0);
	/* A failure to start is the command's to tell. */
	assert_int_equal(await_exit(launch("a.conf", ""), 3000), 1);
	assert_true(file_says("err", "in use by another sluiced"));
	stop_well(daemon); /* it has come to us as an orphan */
	assert_no_orphans(1000);
}

static void
test_bad_configuration(void **state)
{
	pid_t pid;

	(void)state;
	extra = "no-such-directive = 1;";
	write_conf("bad.conf", "spool");
	extra = "";
	write_conf("good.conf", "spool");
	assert_int_equal(await_exit(launch("bad.conf", "-t"), 3000), 2);
	assert_true(file_says("err", "bad.conf:9: "));
	assert_int_equal(await_exit(launch("bad.conf", "-f"), 3000), 2);
	assert_int_equal(await_exit(launch("bad.conf", ""), 3000), 2);
	assert_int_equal(await_exit(launch("missing.conf", "-t"), 3000), 2);
	assert_false(exists("spool"));
	assert_false(exists("run"));
	pid = launch("good.conf", "-t");
	assert_int_equal(await_exit(pid, 3000), 0);
	assert_false(exists("spool"));
}

static void
test_hung_worker(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_WORKER, 1)->conduct = SILENT;
	pid = launch("a.conf", "-f");
	await_all_ready();
	seat(ROLE_WORKER, 1)->conduct = WELL;
	await(&seat(ROLE_WORKER, 1)->readies, 2, 3000, "the hung worker is replaced");
	assert_true(file_says("log", "because=no-heartbeat"));
	assert_int_equal(seat(ROLE_WORKER, 0)->starts, 1);
	stop_well(pid);
}

/* A frozen container, a machine that slept: the master wakes up first, and nobody is to blame. */
static void
test_all_stood_still(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	short_times.heartbeat_ms = 1500;
	seat(ROLE_WORKER, 1)->conduct = BEATS;
	pid = launch("a.conf", "-f");
	await_all_ready();
	kill(pid, SIGSTOP);
	kill(seat(ROLE_WORKER, 1)->pid, SIGSTOP);
	nap_ms(1600);
	kill(pid, SIGCONT);
	nap_ms(250);
	kill(seat(ROLE_WORKER, 1)->pid, SIGCONT);
	nap_ms(100);
	assert_false(file_says("log", "because=no-heartbeat"));
	assert_int_equal(seat(ROLE_WORKER, 1)->starts, 1);
	stop_well(pid);
}

static void
test_hung_receiver(void **state)
{
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	seat(ROLE_RECEIVER, 0)->conduct = SILENT;
	pid = launch("a.conf", "-f");
	await_all_ready();
	seat(ROLE_RECEIVER, 0)->conduct = WELL;
	await(&seat(ROLE_RECEIVER, 0)->readies, 2, 3000, "the hung receiver is replaced");
	assert_true(file_says("log", "because=no-heartbeat"));
	stop_well(pid);
}

static void
test_notify(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char text[256] = "", name[64];
	unsigned long long said_us;
	struct timespec now;
	ssize_t n;
	pid_t pid;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct timeval tv = { 5, 0 };

	(void)state;
	n = snprintf(name, sizeof name, "@sluice-test-%d", (int)getpid());
	memcpy(addr.sun_path + 1, name + 1, (size_t)n - 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)),
			 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	write_conf("a.conf", "spool");
	pid = launch("a.conf", "-f");
	unsetenv("NOTIFY_SOCKET");
	n = recv(fd, text, sizeof text - 1, 0);
	assert_true(n > 0 && strstr(text, "READY=1\n") == text);
	assert_int_equal(atoi(strstr(text, "MAINPID=") + 8), pid);
	kill(pid, SIGHUP);
	n = recv(fd, text, sizeof text - 1, 0);
	assert_true(n > 0);
	text[n] = '\0';
	clock_gettime(CLOCK_MONOTONIC, &now);
	assert_int_equal(sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%llu", &said_us), 1);
	assert_in_range(now.tv_sec * 1000000ll + now.tv_nsec / 1000 - (long long)said_us, 0,
			5000000);
	n = recv(fd, text, sizeof text - 1, 0);
	assert_true(n > 0 && strstr(text, "READY=1\n") == text);
	stop_well(pid);
	n = recv(fd, text, sizeof text - 1, 0);
	assert_true(n > 0);
	assert_memory_equal(text, "STOPPING=1", 10);
	close(fd);
}

static bool
connects_at_once(unsigned at)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)at),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd p = { fd, POLLOUT, 0 };
	bool yes;

	assert_true(connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EINPROGRESS);
	yes = poll(&p, 1, 300) > 0;
	close(fd);
	return yes;
}

/* What it may do, from /proc. */
static unsigned long long
capabilities_of(int pid)
{
	unsigned long long permitted = ~0ull;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof line, f) != NULL && sscanf(line, "CapPrm: %llx", &permitted) != 1)
		;
	fclose(f);
	return permitted;
}

/* The real uid of a process, from /proc. */
static int
uid_of(int pid)
{
	char path[64], line[256];
	int uid = -1;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof line, f) != NULL) {
		if (sscanf(line, "Uid: %d", &uid) == 1)
			break;
	}
	fclose(f);
	return uid;
}

static void
test_user(void **state)
{
	char path[128];
	struct stat st;
	pid_t pid;
	int fd;

	(void)state;
	if (geteuid() != 0)
		skip();
	/* An earlier start as root left files of root's. */
	write_conf("root.conf", "spool");
	pid = launch("root.conf", "-f");
	await_all_ready();
	stop_well(pid);
	memset(board, 0, sizeof *board);
	extra = "user = \"nobody\";";
	write_conf("a.conf", "spool");
	pid = launch("a.conf", "-f");
	await_all_ready();
	assert_int_not_equal(uid_of(pid), 0);
	for (unsigned role = 0; role < ROLE_COUNT; role++)
		assert_int_equal(uid_of(seat(role, 0)->pid), uid_of(pid));
	snprintf(path, sizeof path, "%s/run/control.sock", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	assert_int_equal(st.st_uid, uid_of(pid));
	snprintf(path, sizeof path, "%s/spool/format", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, uid_of(pid));
	kill(seat(ROLE_WORKER, 0)->pid, SIGKILL); /* a restart works without root */
	await(&seat(ROLE_WORKER, 0)->readies, 2, 3000, "worker again");
	/* So does a reload, also for a port that only root may bind; no other process could. */
	for (port = 1023; port > 600 && (fd = tcp(port, false)) < 0; port--)
		;
	close(fd);
	write_conf("a.conf", "spool");
	kill(pid, SIGHUP);
	await(&seat(ROLE_RECEIVER, 0)->works_by, 2, 5000, "reload");
	assert_true(connects_at_once(port));
	for (unsigned role = 0; role < ROLE_COUNT; role++)
		assert_int_equal(capabilities_of(seat(role, 0)->pid), 0);
	assert_int_equal(capabilities_of(pid) & ~(1ull << 10), 0); /* CAP_NET_BIND_SERVICE */
	stop_well(pid);
	assert_false(exists("run/sluiced.pid"));
}

/* Reload
 * --------------------------------------------------------------------------------------------- */

static void
await_log(const char *what)
{
	uint64_t until = clock_boot_us() + SLACK * 5000000;

	while (!file_says("log", what)) {
		if (clock_boot_us() > until)
			fail_msg("not in the log: %s", what);
		nap_ms(10);
	}
}

static void
await_all_work_by(unsigned generation)
{
	for (unsigned role = 0; role < ROLE_COUNT; role++)
		await(&seat(role, 0)->works_by, generation, 5000, role_name(role));
	await(&seat(ROLE_WORKER, 1)->works_by, generation, 5000, "worker 1");
}

static void
test_reload(void **state)
{
	unsigned first = port;
	pid_t pid;
	int fd;

	(void)state;
	write_conf("a.conf", "spool");
	pid = launch("a.conf", "-f");
	await_all_ready();
	/* Another port; `workers` stays what it is, and that is told. */
	port = free_port();
	extra = "workers2 = 1;";
	write_conf("a.conf", "spool");
	kill(pid, SIGHUP);
	await_log("a.conf:9: unknown directive workers2");
	await_log("reload=refused generation=1");
	assert_int_equal(tcp(port, true), -1);
	assert_int_equal(seat(ROLE_SCHEDULER, 0)->prepares, 0);
	extra = "total-max-smtp-out = 7;";
	write_conf("a.conf", "elsewhere");
	kill(pid, SIGHUP);
	await_all_work_by(2);
	await_log("reload=done generation=2");
	assert_true(file_says("log", "a.conf:2: warning: spool: "));
	assert_true(connects_at_once(port));
	/* The stand-in keeps the old socket open, but what knocks there now is not let into the
	 * backlog. */
	assert_false(connects_at_once(first));
	kill(seat(ROLE_RECEIVER, 0)->pid, SIGKILL);
	await(&seat(ROLE_RECEIVER, 0)->starts, 2, 5000, "receiver again");
	assert_int_equal(tcp(first, true), -1);
	await(&seat(ROLE_RECEIVER, 0)->readies, 2, 5000, "receiver ready");
	assert_int_equal(seat(ROLE_RECEIVER, 0)->works_by, 2);
	fd = tcp(port, true);
	assert_true(fd >= 0);
	close(fd);
	assert_nothing_bad();
	stop_well(pid);
}

/* Whoever it is: nobody works by what one refuses, and the next one is everybody's. */
static void
refused_by(enum role role, unsigned slot, enum conduct conduct, const char *says)
{
	pid_t pid;

	write_conf("a.conf", "spool");
	seat(role, slot)->conduct = conduct;
	pid = launch("a.conf", "-f");
	await_all_ready();
	kill(pid, SIGHUP);
	await_log(says);
	await_log("reload=refused generation=1");
	for (unsigned r = 0; r < ROLE_COUNT; r++)
		assert_int_equal(seat(r, 0)->commits, 0);
	seat(role, slot)->conduct = WELL;
	nap_ms(conduct == SLOW_TO_PREPARE ? 1500 : 0); /* it comes to its senses */
	kill(pid, SIGHUP);
	await_all_work_by(3);
	assert_int_equal(seat(ROLE_RESOLVER, 0)->drops, 1);
	assert_int_equal(seat(role, slot)->starts, 1);
	assert_nothing_bad();
	stop_well(pid);
}

static void
test_refused(void **state)
{
	(void)state;
	refused_by(ROLE_RECEIVER, 0, REFUSES, "receiver 0: not to my taste");
}

static void
test_too_late(void **state)
{
	(void)state;
	short_times.prepare_ms = 1000;
	refused_by(ROLE_WORKER, 1, SLOW_TO_PREPARE, "worker 1 did not answer in time");
}

/* Who dies in the middle comes back with what the others work by. */
static void
dies_in_reload(enum role role, enum conduct conduct)
{
	pid_t pid;

	write_conf("a.conf", "spool");
	seat(role, 0)->conduct = conduct;
	pid = launch("a.conf", "-f");
	await_all_ready();
	kill(pid, SIGHUP);
	await(&seat(role, 0)->starts, 2, 5000, "second life");
	await_all_work_by(2);
	await_log("reload=done generation=2");
	assert_nothing_bad();
	stop_well(pid);
}

static void
test_death_preparing(void **state)
{
	(void)state;
	dies_in_reload(ROLE_WORKER, DIES_PREPARING);
}

static void
test_death_committing(void **state)
{
	(void)state;
	dies_in_reload(ROLE_SCHEDULER, DIES_COMMITTING);
}

static void
test_log_is_reopened(void **state)
{
	char from[128], to[128];
	pid_t pid;

	(void)state;
	write_conf("a.conf", "spool");
	pid = launch("a.conf", "-f");
	await_all_ready();
	snprintf(from, sizeof from, "%s/log", dir);
	snprintf(to, sizeof to, "%s/log.1", dir);
	assert_int_equal(rename(from, to), 0);
	kill(pid, SIGUSR1);
	await_log("log=reopened");
	stop_well(pid);
	assert_true(file_says("log", "stopped took_ms"));
	assert_true(file_says("log", "draining")); /* a child's line */
	assert_false(file_says("log.1", "draining"));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_starts_and_stops),
		TEST(test_restarts),
		TEST(test_pause_grows),
		TEST(test_one_instance),
		TEST(test_master_killed),
		TEST(test_next_waits_for_orphans),
		TEST(test_stop_is_bounded),
		TEST(test_operator_stops),
		TEST(test_hopeless),
		TEST(test_background),
		TEST(test_bad_configuration),
		TEST(test_hung_worker),
		TEST(test_hung_receiver),
		TEST(test_all_stood_still),
		TEST(test_notify),
		TEST(test_user),
		TEST(test_reload),
		TEST(test_refused),
		TEST(test_too_late),
		TEST(test_death_preparing),
		TEST(test_death_committing),
		TEST(test_log_is_reopened),
	};

	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	assert_true(board != MAP_FAILED);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
