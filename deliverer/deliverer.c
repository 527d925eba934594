/* deliverer: a delivery worker: opens connections, sends what it is given, reports what came of it.
 */
#include <ifaddrs.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "deliverer/connection.h"
#include "deliverer/reply_rules.h"
#include "deliverer/work.h"
#include "deliverer/worker.h"

#define FDS_RESERVED     128 /* segments kept open, channels, log, control */
#define FDS_A_CONNECTION 2   /* its socket, its segment */

/* Messages ------------------------------------------------------------------------------------ */

static void
on_work(struct worker *w, const struct message *m, struct slice bitmap)
{
	struct connection *c = connection_find(w, m->u.work.connection);
	struct work *work = work_new(m, bitmap);

	if (work == NULL) {
		log_error("work lease=%" PRIu64 " makes no sense", m->u.work.lease);
		return;
	}
	if (c == NULL || c->closing)
		work_return(w, m->u.work.connection, &work,
			    w->draining ? RETURN_DRAIN : RETURN_CONNECTION_GONE);
	else
		connection_work(c, work);
}

static void
on_message(void *arg, const struct message *m, struct slice payload)
{
	struct worker *w = arg;
	struct connection *c;

	switch (m->kind) {
	case MESSAGE_OPEN:
		c = connection_find(w, m->u.open.connection);
		if (c != NULL)
			log_error("connection=%u is open already", m->u.open.connection);
		else
			connection_open(w, m, payload);
		break;
	case MESSAGE_WORK:
		on_work(w, m, payload);
		break;
	case MESSAGE_RCPT_MAY:
		c = connection_find(w, m->u.rcpt_may.connection);
		if (c != NULL)
			connection_may(c, m);
		break;
	case MESSAGE_CLOSE:
		c = connection_find(w, m->u.conn.connection);
		if (c != NULL && (m->u.conn.flags & CLOSE_NOW))
			connection_interrupt(c);
		else if (c != NULL)
			connection_close_when_idle(c);
		break;
	default:
		log_error("message kind=%s is not for a worker", message_name(m->kind));
		break;
	}
}

/* Channels ------------------------------------------------------------------------------------ */

static void
tell_held(struct worker *w, const struct connection *c)
{
	struct message m = { .kind = MESSAGE_HELD };
	struct claim_view view;

	m.u.held.connection = c->number;
	m.u.held.source_ip = c->source_ip;
	m.u.held.queue = c->queue;
	m.u.held.lease = c->work->lease;
	m.u.held.claim_slot = c->work->claim_slot;
	m.u.held.state = CLAIM_BEGUN;
	if (claim_read(w->claims, c->work->claim_slot, &view) == 0)
		m.u.held.state = view.state;
	uplink_send_first(&w->uplink, &m);
}

/* A result that no scheduler has read yet: its lease is still ours until one has. */
static void
tell_held_result(void *arg, const struct message *result)
{
	struct worker *w = arg;
	struct message m = { .kind = MESSAGE_HELD };

	if (result->kind != MESSAGE_RESULT)
		return;
	m.u.held.lease = result->u.result.lease;
	m.u.held.connection = result->u.result.connection;
	m.u.held.claim_slot = result->u.result.claim_slot;
	m.u.held.state = CLAIM_ANSWERED;
	uplink_send_first(&w->uplink, &m);
}

static void
orphan_all(struct worker *w)
{
	struct connection *next;

	for (struct connection *c = w->all; c != NULL; c = next) {
		next = c->next;
		connection_orphan(c);
	}
}

/* The scheduler died: its numbers mean nothing to the next one. */
static void
lose_scheduler(struct worker *w)
{
	uplink_detach(&w->uplink);
	orphan_all(w);
	uplink_keep_only(&w->uplink, MESSAGE_RESULT);
}

static void
on_channel(void *arg, enum role peer, unsigned slot, uint32_t generation,
	   const struct channel_fds *fds)
{
	struct worker *w = arg;
	struct heritage *h = proc_heritage(w->proc);
	struct message m = { .kind = MESSAGE_WORKER_HELLO };
	static bool resumed;
	int rc;

	(void)slot;
	(void)generation;
	CHECK(peer == ROLE_SCHEDULER);
	lose_scheduler(w);
	rc = uplink_attach(&w->uplink, fds);
	if (rc != 0) {
		log_error("channel to scheduler cannot be opened: %s", err_text(rc));
		proc_fail(w->proc);
		return;
	}
	m.u.hello.pid = (uint32_t)getpid();
	m.u.hello.generation = h->generation;
	m.u.hello.flags = resumed ? HELLO_RESUMED : 0;
	m.u.hello.connections = w->connections_max;
	uplink_send_first(&w->uplink, &m);
	for (const struct connection *c = w->all; c != NULL; c = c->next) {
		if (c->work != NULL)
			tell_held(w, c);
	}
	uplink_each_waiting(&w->uplink, tell_held_result, w);
	m.kind = MESSAGE_HELLO_END;
	uplink_send_first(&w->uplink, &m);
	uplink_release(&w->uplink);
	uplink_flush(&w->uplink);
	resumed = true;
}

static void
on_peer_gone(void *arg, enum role peer, unsigned slot, uint32_t generation)
{
	(void)slot;
	(void)generation;
	if (peer == ROLE_SCHEDULER)
		lose_scheduler(arg);
}

/* Turns --------------------------------------------------------------------------------------- */

static void
leave_when_drained(struct worker *w)
{
	/* Without a scheduler the results stay in the claim table for the next one. */
	if (w->draining && w->n_connections == 0 &&
	    (w->uplink.channel == NULL || !uplink_waits(&w->uplink)))
		proc_done(w->proc);
}

static void
on_drain(void *arg)
{
	struct worker *w = arg;
	struct connection *next;

	w->draining = true;
	for (struct connection *c = w->all; c != NULL; c = next) {
		next = c->next;
		connection_close_when_idle(c);
	}
	leave_when_drained(w);
}

static void
on_turn_end(void *arg)
{
	struct worker *w = arg;

	connection_reap(w);
	uplink_flush(&w->uplink);
	if (w->uplink.broken)
		proc_fail(w->proc); /* nobody would give us another one */
	leave_when_drained(w);
}

static void
on_tick(void *arg)
{
	struct worker *w = arg;

	w->counters.connections = w->n_connections;
	w->counters.cpu_us = clock_cpu_us();
	reply_rules_tick(w);
	if (w->stat != NULL) {
		stat_put_totals(w->stat, &w->counters);
		stat_beat(w->stat, loop_boot_us(w->loop),
			  w->draining ? STAT_DRAINING : STAT_RUNNING);
	}
	timer_set(&w->tick, 1000000);
}

/* Start --------------------------------------------------------------------------------------- */

/* As many connections as descriptors allow (proc.c has raised the limit): each may send from a segment that no other
 * one has open. */
static unsigned
connections_max(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) != 0)
		return 512;
	if (lim.rlim_cur >= FDS_A_CONNECTION * CONNECTIONS_MAX + FDS_RESERVED)
		return CONNECTIONS_MAX;
	if (lim.rlim_cur < 2 * FDS_RESERVED)
		return (unsigned)lim.rlim_cur / 8 + 1;
	return (unsigned)(lim.rlim_cur - FDS_RESERVED) / FDS_A_CONNECTION;
}

static void
add_own(struct worker *w, const struct addr *a, uint16_t port)
{
	void *p = w->own;

	mem_grow(&p, &w->own_cap, w->n_own + 1, sizeof *w->own);
	w->own = p;
	w->own[w->n_own] = *a;
	addr_set_port(&w->own[w->n_own++], port);
}

/* What an any-address stands for: each source IP, and each address that an interface has now. */
static void
add_every_own(struct worker *w, const struct conf *conf, uint16_t port)
{
	const struct conf_source_ip *ips;
	size_t n_ips = conf_source_ips(conf, &ips);
	struct ifaddrs *interfaces = NULL;
	struct addr a;

	for (size_t i = 1; i < n_ips; i++) {
		if (addr_from(&a, (const struct sockaddr *)&ips[i].addr, sizeof ips[i].addr))
			add_own(w, &a, port);
	}
	if (getifaddrs(&interfaces) != 0)
		return;
	for (const struct ifaddrs *i = interfaces; i != NULL; i = i->ifa_next) {
		if (i->ifa_addr == NULL)
			continue; /* an interface without one */
		if (addr_from(&a, i->ifa_addr,
			      i->ifa_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
								 : sizeof(struct sockaddr_in)))
			add_own(w, &a, port);
	}
	freeifaddrs(interfaces);
}

static void
put_generation(struct worker *w)
{
	if (w->stat != NULL)
		stat_header(w->stat)->generation = proc_heritage(w->proc)->conf_generation;
}

/* Our own listeners. */
static void
take_own_addresses(struct worker *w, const struct conf *conf)
{
	const struct conf_listener *listeners;
	size_t n = conf_listeners(conf, &listeners);
	struct addr a;

	w->n_own = 0;
	for (size_t i = 0; i < n; i++) {
		if (!addr_from(&a, (const struct sockaddr *)&listeners[i].addr,
			       sizeof listeners[i].addr))
			continue;
		add_own(w, &a, addr_port(&a));
		if (addr_is_any(&a))
			add_every_own(w, conf, addr_port(&a));
	}
}

/* Connections have taken what they need at their OPEN; those to come name their configuration. */
static void
on_commit(void *arg, const struct conf *conf, const struct conf *old)
{
	struct worker *w = arg;

	(void)old;
	take_own_addresses(w, conf);
	put_generation(w);
	reply_rules_sweep(w, false);
}

static const char *
on_prepare(void *arg, const struct conf *conf, uint64_t generation)
{
	reply_rules_prepare(arg, conf, generation);
	return NULL;
}

static void
on_drop(void *arg)
{
	reply_rules_sweep(arg, true);
}

static int
open_all(struct worker *w, struct heritage *h)
{
	const struct conf *conf = proc_conf(w->proc);
	const struct conf_global *g = conf_global(conf);
	const char *why = "";
	int rc = spool_open(&w->spool, g->spool, &why);

	if (rc != 0) {
		log_error("spool %s: %s", g->spool, why != NULL && *why ? why : err_text(rc));
		return rc;
	}
	rc = claim_table_open(&w->claims, w->spool.claims_fd, h->slot, w->spool.instance);
	if (rc != 0) {
		log_error("claim table of worker %u: %s", h->slot, err_text(rc));
		return rc;
	}
	rc = route_object_map(&w->routes, h->routes_fd, 0);
	if (rc != 0) {
		log_error("routes cannot be mapped: %s", err_text(rc));
		return rc;
	}
	w->segments = segment_cache_new(w->spool.segments_fd, w->spool.instance);
	rc = stat_create(&w->stat, g->run, STAT_WORKER, h->slot);
	if (rc != 0) {
		log_warn("no stat object: %s", err_text(rc));
		w->stat = NULL;
	}
	put_generation(w);
	take_own_addresses(w, conf);
	reply_rules_prepare(w, conf, h->conf_generation);
	return 0;
}

int
deliverer_main(struct heritage *h)
{
	static const struct proc_hooks hooks = { .on_channel = on_channel,
						 .on_peer_gone = on_peer_gone,
						 .on_drain = on_drain,
						 .on_prepare = on_prepare,
						 .on_drop = on_drop,
						 .on_commit = on_commit };
	struct worker *w = mem_zalloc(sizeof *w); /* for the life of the process */

	w->proc = proc_begin(h, &hooks, w);
	if (w->proc == NULL)
		return 1;
	w->loop = proc_loop(w->proc);
	w->connections_max = connections_max();
	uplink_init(&w->uplink, w->loop, on_message, w);
	if (open_all(w, h) != 0)
		return 1;
	loop_set_turn_end(w->loop, on_turn_end, w);
	timer_init(&w->tick, w->loop, on_tick, w);
	on_tick(w);
	proc_ready(w->proc);
	return proc_run(w->proc);
}
