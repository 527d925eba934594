/* recorder: the process that writes the accounting files. It reads the event log up to where the
 * scheduler says it is synced, and tells the scheduler which events it no longer needs. */
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/ipc/channel.h"
#include "common/proc/proc.h"
#include "common/queue/spool.h"
#include "recorder/follow.h"
#include "shm/stat.h"

#define BATCH_US      20000   /* events gather this long before they are recorded */
#define CHECKPOINT_US 1000000 /* records are durable, and events free, this much later */
#define RETRY_US      2000000 /* after an error of a file or the log */
#define TICK_US       1000000
#define TURN_EVENTS   2000 /* then the loop gets a look at the channel */

struct recorder {
	struct proc *proc;
	struct spool spool;
	struct follow *follow;
	struct channel *channel;
	struct event_position limit; /* what the scheduler said is synced */
	struct timer work, checkpoint, tick;
	struct stat_object *stat;
	bool sync_each; /* some file asks for it */
	bool draining;
};

static void
tell_position(struct recorder *r)
{
	struct event_position at = follow_position(r->follow);
	struct message m = { .kind = MESSAGE_CURSOR };

	if (r->channel == NULL || at.file == 0)
		return;
	m.u.position.file = at.file;
	m.u.position.offset = at.offset;
	/* Refused for want of room: the next checkpoint says it again. */
	(void)channel_send(r->channel, &m, SLICE_NONE);
}

static uint64_t
wall_us(const struct recorder *r)
{
	return loop_wall_us(proc_loop(r->proc));
}

static int
checkpoint(struct recorder *r)
{
	int rc = follow_is_dirty(r->follow) ? follow_checkpoint(r->follow, wall_us(r)) : 0;

	if (rc == 0)
		tell_position(r);
	return rc;
}

static void
leave_if_spoilt(struct recorder *r)
{
	if (!follow_is_spoilt(r->follow))
		return;
	log_error("accounting sync=failed action=restart");
	proc_fail(r->proc);
}

static void
on_checkpoint(void *arg)
{
	struct recorder *r = arg;

	if (checkpoint(r) != 0)
		timer_set(&r->checkpoint, RETRY_US);
	leave_if_spoilt(r);
}

static void
on_work(void *arg)
{
	struct recorder *r = arg;
	int rc = 0;

	if (r->limit.file != 0)
		rc = follow_run(r->follow, r->limit, TURN_EVENTS, wall_us(r));
	if (rc >= 0 && r->sync_each && checkpoint(r) != 0)
		rc = -E_IO;
	if (rc < 0)
		timer_set(&r->work, RETRY_US);
	else if (rc > 0)
		timer_set(&r->work, 0);
	if (follow_is_dirty(r->follow) && !timer_is_set(&r->checkpoint))
		timer_set(&r->checkpoint, CHECKPOINT_US);
	/* All is recorded, or cannot be now: what is left waits in the log for the next start. */
	if (r->draining && rc <= 0) {
		(void)checkpoint(r);
		proc_done(r->proc);
	}
	leave_if_spoilt(r);
}

static void
on_tick(void *arg)
{
	struct recorder *r = arg;
	struct follow_counts c = follow_counts(r->follow, r->limit);
	struct stat_recorder row = {
		.events = c.events, .records = c.records, .lag = c.lag, .gaps = c.gaps
	};

	timer_set(&r->tick, TICK_US);
	if (r->stat == NULL)
		return;
	stat_put_totals(r->stat, &row);
	stat_beat(r->stat, loop_boot_us(proc_loop(r->proc)),
		  r->draining ? STAT_DRAINING : STAT_RUNNING);
}

static void
open_stat(struct recorder *r, const struct heritage *h)
{
	int rc = stat_create(&r->stat, conf_global(proc_conf(r->proc))->run, STAT_RECORDER, 0);

	if (rc != 0)
		log_warn("statistics=none error=\"%s\"", err_text(rc));
	else
		stat_header(r->stat)->generation = h->conf_generation;
	timer_init(&r->tick, proc_loop(r->proc), on_tick, r);
	on_tick(r);
}

static void
read_channel(struct recorder *r)
{
	struct message m;
	struct slice payload;
	int rc;

	while ((rc = channel_recv(r->channel, &m, &payload)) == 1) {
		struct event_position at = { m.u.position.file, m.u.position.offset };

		if (m.kind == MESSAGE_SYNCED && event_position_before(r->limit, at))
			r->limit = at;
	}
	if (rc < 0) {
		log_error("channel error=\"%s\" action=restart", err_text(rc));
		channel_close(&r->channel);
		proc_fail(r->proc); /* nobody would give us another one */
	}
}

static void
on_input(void *arg)
{
	struct recorder *r = arg;
	struct event_position before = r->limit;

	if (r->channel != NULL)
		read_channel(r);
	if (event_position_before(before, r->limit) && !timer_is_set(&r->work))
		timer_set(&r->work, BATCH_US);
}

static void
on_channel(void *arg, enum role peer, unsigned slot, uint32_t generation,
	   const struct channel_fds *fds)
{
	struct recorder *r = arg;
	struct channel_fds copy = *fds;

	(void)slot;
	(void)generation;
	if (peer != ROLE_SCHEDULER) {
		channel_fds_close(&copy);
		return;
	}
	channel_close(&r->channel);
	/* A scheduler that starts anew finds the end of the log by itself; it may lie before what
	 * the old one had said, when that was never used. */
	r->limit = (struct event_position){ 0, 0 };
	if (channel_open(&r->channel, fds, 'A', proc_loop(r->proc), on_input, r) != 0) {
		log_error("channel open=failed");
		proc_fail(r->proc);
		return;
	}
	tell_position(r);
	on_input(r);
}

static void
on_peer_gone(void *arg, enum role peer, unsigned slot, uint32_t generation)
{
	struct recorder *r = arg;

	(void)slot;
	(void)generation;
	if (peer != ROLE_SCHEDULER)
		return;
	on_input(r); /* its last words */
	channel_close(&r->channel);
}

static void
on_drain(void *arg)
{
	struct recorder *r = arg;

	on_input(r);
	r->draining = true;
	timer_set(&r->work, 0);
}

static void
on_turn_end(void *arg)
{
	struct recorder *r = arg;

	if (r->channel != NULL)
		channel_flush(r->channel);
}

static int
open_files(struct recorder *r, const struct conf *conf)
{
	const struct conf_acct_file *files;
	size_t n = conf_acct_files(conf, &files);
	int rc;

	r->sync_each = false;
	for (size_t i = 0; i < n; i++)
		r->sync_each = r->sync_each || files[i].sync;
	rc = follow_open(&r->follow, r->spool.events_fd, r->spool.cursors_fd, r->spool.instance,
			 files, n);
	if (rc != 0)
		log_error("cursor open=failed error=\"%s\"", err_text(rc));
	return rc;
}

/* As a restart would: what was read is recorded by the old configuration, what comes by the new
 * one. */
static void
on_commit(void *arg, const struct conf *conf, const struct conf *old)
{
	struct recorder *r = arg;

	(void)old;
	/* If that fails, rows behind the cursor come off where the file is still served, and come
	 * again. */
	(void)checkpoint(r);
	follow_close(&r->follow);
	if (open_files(r, conf) != 0) {
		proc_fail(r->proc); /* the next life tries again */
		return;
	}
	if (r->stat != NULL)
		stat_header(r->stat)->generation = proc_heritage(r->proc)->conf_generation;
	timer_set(&r->work, 0);
}

static int
open_all(struct recorder *r)
{
	const struct conf *conf = proc_conf(r->proc);
	const char *why = "";
	int rc = spool_open(&r->spool, conf_global(conf)->spool, &why);

	if (rc != 0) {
		log_error("spool=%s open=failed error=\"%s\" why=\"%s\"", conf_global(conf)->spool,
			  err_text(rc), why);
		return rc;
	}
	return open_files(r, conf);
}

int
recorder_main(struct heritage *h)
{
	static const struct proc_hooks hooks = {
		.on_channel = on_channel,
		.on_peer_gone = on_peer_gone,
		.on_drain = on_drain,
		.on_commit = on_commit,
	};
	struct recorder r = { 0 };
	int status = 1;

	r.proc = proc_begin(h, &hooks, &r);
	if (r.proc == NULL)
		return 1;
	timer_init(&r.work, proc_loop(r.proc), on_work, &r);
	timer_init(&r.checkpoint, proc_loop(r.proc), on_checkpoint, &r);
	if (open_all(&r) == 0) {
		loop_set_turn_end(proc_loop(r.proc), on_turn_end, &r);
		open_stat(&r, h);
		proc_ready(r.proc);
		status = proc_run(r.proc);
		stat_close(&r.stat);
	}
	follow_close(&r.follow);
	channel_close(&r.channel);
	spool_close(&r.spool);
	return status;
}
