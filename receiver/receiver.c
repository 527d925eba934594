/* receiver: the process that takes mail in: sockets, sessions, and the way to the scheduler. */
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/proc/proc.h"
#include "common/queue/spool.h"
#include "receiver/listener.h"
#include "receiver/notifications.h"
#include "shm/stat.h"

#define SWEEP_US      1000000u
#define DRAIN_US      4000000u /* running transactions have this long, then they hear 421 */
#define DRAIN_LAST_US 2000000u /* and messages on their way to the disk this much longer */
#define FDS_KEPT      64       /* for everything that is not a client */

struct receiver {
	struct proc *proc;
	struct loop *loop;
	const struct conf *conf;
	struct spool spool;
	struct inlet *inlet;
	struct notifications *notifications;
	struct session_pool sessions;
	struct listeners *listeners;
	struct timer sweep;
	struct stat_object *stat;
	uint64_t drain_since_us; /* 0: not draining */
	bool done;
};

static void
on_answer(void *arg, void *owner, const char *reply)
{
	(void)arg;
	session_answer(owner, reply);
}

static void
on_flow(void *arg, enum inlet_flow flow)
{
	struct receiver *r = arg;

	if (flow == INLET_REFUSING)
		log_warn("no scheduler or no room for mail: refusing it for now");
	if (r->listeners != NULL)
		listeners_set(r->listeners, flow != INLET_STALLED);
	session_pool_flow(&r->sessions);
}

static void
on_broken(void *arg)
{
	struct receiver *r = arg;

	proc_fail(r->proc);
}

static void
on_notification(void *arg, struct slice payload)
{
	struct receiver *r = arg;

	notifications_take(r->notifications, payload);
}

static void
on_channel(void *arg, enum role peer, unsigned slot, uint32_t generation,
	   const struct channel_fds *fds)
{
	struct receiver *r = arg;
	struct channel_fds mine = *fds;

	(void)slot;
	(void)generation;
	if (peer == ROLE_SCHEDULER)
		inlet_connect(r->inlet, &mine);
	else
		channel_fds_close(&mine);
}

static void
on_peer_gone(void *arg, enum role peer, unsigned slot, uint32_t generation)
{
	struct receiver *r = arg;

	(void)slot;
	(void)generation;
	if (peer != ROLE_SCHEDULER)
		return;
	inlet_disconnect(r->inlet);
	notifications_forget(r->notifications);
}

static void
on_drain(void *arg)
{
	struct receiver *r = arg;

	if (r->drain_since_us != 0)
		return;
	r->drain_since_us = loop_boot_us(r->loop);
	listeners_free(&r->listeners);
	/* Without a master there is no time for what clients have begun: only what is on its way to
	 * the disk. */
	session_pool_drain(&r->sessions, proc_is_orphaned(r->proc));
}

static void
finish_drain(struct receiver *r)
{
	uint64_t age = loop_boot_us(r->loop) - r->drain_since_us;
	bool over = age >= DRAIN_US + DRAIN_LAST_US;

	if (r->done || r->drain_since_us == 0)
		return;
	if (age >= DRAIN_US)
		session_pool_drain(&r->sessions, true);
	if (!over && (r->sessions.n > 0 || !inlet_is_empty(r->inlet)))
		return;
	r->done = true;
	log_info("drained messages=%llu", (unsigned long long)r->sessions.n_messages);
	if (inlet_is_empty(r->inlet))
		inlet_seal_all(r->inlet);
	proc_done(r->proc);
}

static void
on_turn_end(void *arg)
{
	struct receiver *r = arg;

	if (r->drain_since_us == 0)
		notifications_turn(r->notifications, r->sessions.terms);
	inlet_turn(r->inlet);
	finish_drain(r);
}

static void
put_stats(struct receiver *r)
{
	struct inlet_counts c = inlet_counts(r->inlet);
	struct stat_receiver row = {
		.connections = r->sessions.n,
		.accepted = r->sessions.n_accepted,
		.messages = r->sessions.n_messages,
		.refused = r->sessions.n_refused,
		.bytes = c.bytes,
		.syncs = c.syncs,
		.waiting = c.waiting,
		.seg_wait_us_max = c.seg_wait_us,
		.seg_failed = c.seg_failed,
		.cpu_us = clock_cpu_us(),
	};

	if (r->stat == NULL)
		return;
	stat_put_totals(r->stat, &row);
	stat_beat(r->stat, loop_boot_us(r->loop),
		  r->drain_since_us != 0 ? STAT_DRAINING : STAT_RUNNING);
}

static void
on_sweep(void *arg)
{
	struct receiver *r = arg;

	put_stats(r);
	session_pool_sweep(&r->sessions);
	timer_set(&r->sweep, SWEEP_US);
}

/* The cap of this process: its share of total-max-smtp-in, what the system gives, our own bound. */
static unsigned
session_limit(const struct conf *conf)
{
	const struct conf_global *g = conf_global(conf);
	unsigned receivers = g->receivers > 0 ? g->receivers : 1;
	uint64_t most = CONNECTIONS_MAX;
	struct rlimit files;

	if (g->total_max_smtp_in != CONF_UNLIMITED &&
	    (g->total_max_smtp_in + receivers - 1) / receivers < most)
		most = (g->total_max_smtp_in + receivers - 1) / receivers;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files) != 0)
			getrlimit(RLIMIT_NOFILE, &files);
		if (files.rlim_cur > FDS_KEPT && files.rlim_cur - FDS_KEPT < most)
			most = files.rlim_cur - FDS_KEPT;
	}
	return (unsigned)most;
}

static void
on_commit(void *arg, const struct conf *conf, const struct conf *old)
{
	struct receiver *r = arg;
	struct heritage *h = proc_heritage(r->proc);

	(void)old;
	r->conf = conf;
	session_pool_terms(&r->sessions, terms_new(conf, h->slot));
	if (r->stat != NULL)
		stat_header(r->stat)->generation = h->conf_generation;
	if (r->listeners != NULL) {
		listeners_change(r->listeners, conf, h->listener_fds, h->n_listeners,
				 session_limit(conf));
		return;
	}
	for (unsigned i = 0; i < h->n_listeners; i++) /* draining */
		close(h->listener_fds[i]);
}

static int
begin(struct receiver *r, struct heritage *h)
{
	static const struct inlet_hooks hooks = { on_answer, on_flow, on_broken, on_notification };
	const char *why = "";
	int rc = spool_open(&r->spool, conf_global(r->conf)->spool, &why);

	if (rc != 0) {
		log_error("spool=%s %s %s", conf_global(r->conf)->spool, err_text(rc), why);
		return rc;
	}
	r->inlet = inlet_new(r->loop, r->spool.segments_fd, r->spool.instance, h->generation,
			     &hooks, r);
	r->notifications = notifications_new(r->loop, r->inlet);
	session_pool_init(&r->sessions, r->loop, r->inlet, terms_new(r->conf, h->slot));
	r->listeners = listeners_new(&r->sessions);
	listeners_change(r->listeners, r->conf, h->listener_fds, h->n_listeners,
			 session_limit(r->conf));
	rc = stat_create(&r->stat, conf_global(r->conf)->run, STAT_RECEIVER, h->slot);
	if (rc != 0)
		log_warn("statistics=none error=\"%s\"", err_text(rc));
	else
		stat_header(r->stat)->generation = h->conf_generation;
	timer_init(&r->sweep, r->loop, on_sweep, r);
	timer_set(&r->sweep, SWEEP_US);
	put_stats(r);
	loop_set_turn_end(r->loop, on_turn_end, r);
	return 0;
}

static void
end(struct receiver *r)
{
	loop_set_turn_end(r->loop, NULL, NULL);
	timer_clear(&r->sweep);
	put_stats(r);
	stat_close(&r->stat);
	listeners_free(&r->listeners);
	session_pool_clear(&r->sessions);
	notifications_free(&r->notifications);
	inlet_free(&r->inlet);
	spool_close(&r->spool);
}

int
receiver_main(struct heritage *h)
{
	static const struct proc_hooks hooks = {
		.on_channel = on_channel,
		.on_peer_gone = on_peer_gone,
		.on_drain = on_drain,
		.on_commit = on_commit,
	};
	struct receiver r = { 0 };
	int status;

	r.proc = proc_begin(h, &hooks, &r);
	if (r.proc == NULL)
		return EXIT_FAILURE;
	r.loop = proc_loop(r.proc);
	r.conf = proc_conf(r.proc);
	if (begin(&r, h) != 0)
		return EXIT_FAILURE;
	proc_ready(r.proc);
	status = proc_run(r.proc);
	end(&r);
	return status;
}
