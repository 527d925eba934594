/* dispatch: the workers' side: the core's decisions as messages, what workers say as facts. */
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "scheduler/backoff.h"
#include "scheduler/charges.h"
#include "scheduler/reply_matches.h"
#include "scheduler/state.h"

#define TELL_US 10000000u /* between two log lines of a worker's full ring */

static bool
send_to(struct peer *p, const struct message *m, struct slice payload)
{
	if (p->channel == NULL)
		return false;
	if (channel_send(p->channel, m, payload) == 0)
		return true;
	p->n_refused++;
	return false;
}

/* It has much to do at once, or is stuck, until the master finds that out. */
static void
tell_refused(struct peer *p, uint64_t now_us)
{
	if (p->n_refused == 0 || (p->told_us != 0 && now_us - p->told_us < TELL_US))
		return;
	log_warn("worker=%u ring=full opens=%llu action=again", p->slot, (unsigned long long)p->n_refused);
	p->n_refused = 0;
	p->told_us = now_us;
}

/* An OPEN that did not fit: given back to the core at the next tick, never from inside an op. */
static void
unsent_add(struct scheduler *s, uint32_t connection)
{
	void *p = s->unsent;

	mem_grow(&p, &s->cap_unsent, s->n_unsent + 1, sizeof *s->unsent);
	s->unsent = p;
	s->unsent[s->n_unsent++] = connection;
	s->conns[connection].unsent = true;
}

void
dispatch_tick(struct scheduler *s)
{
	struct core_now now = scheduler_now(s);

	for (size_t i = 0; i < s->n_unsent; i++) {
		struct conn *c = &s->conns[s->unsent[i]];

		/* Its worker died meanwhile; the number may already stand for another connection. */
		if (!c->used || !c->unsent)
			continue;
		c->used = false;
		core_open_failed(s->core, &now, s->unsent[i], CORE_FAIL_NOT_ATTEMPTED, SLICE_NONE);
		scheduler_kick(s);
	}
	s->n_unsent = 0;
	/* Room comes with a settled claim; but none may be out, when the ring or the disk was full. */
	for (unsigned i = 0; i < s->n_workers; i++) {
		tell_refused(&s->workers[i], now.boot_us);
		if (!s->workers[i].refused_work)
			continue;
		s->workers[i].refused_work = false;
		core_worker_room(s->core, &now, i);
		scheduler_kick(s);
	}
}

/* The core's decisions ------------------------------------------------------------------------- */
static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	struct scheduler *s = ctx;

	return settings_get(s->settings, queue, name);
}

static void
op_ask_route(void *ctx, uint32_t queue, struct slice name)
{
	routes_ask(ctx, queue, name);
}

static bool op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out);

/* The number of a job or sender domain stays its own as long as it has limits; without them it does not matter: 0. */
static uint32_t
limited(struct scheduler *s, enum core_scope scope, uint32_t number)
{
	struct conf_limits l = { 0 };

	return number != 0 && op_scope_limits(s, scope, number, &l) ? number : 0;
}

static void
op_open(void *ctx, const struct core_open *o)
{
	struct scheduler *s = ctx;
	struct message m = { .kind = MESSAGE_OPEN };
	struct slice name = names_get(s->names, o->queue);
	struct slice vmta = name;
	int number;

	slice_cut(&vmta, '/');
	number = conf_vmta_find(s->conf, vmta);
	CHECK(o->connection < CORE_CONNECTIONS_MAX && !s->conns[o->connection].used);
	s->conns[o->connection] = (struct conn){ .entry = CORE_NONE,
						 .queue = o->queue,
						 .source_ip = o->source_ip,
						 .open_stamp_boot_us = o->granted_boot_us,
						 .job = limited(s, CORE_SCOPE_JOB, o->job),
						 .sender_domain = limited(s, CORE_SCOPE_SENDER,
									  o->sender_domain),
						 .worker = (uint8_t)o->worker,
						 .used = true };
	m.u.open.route_generation = o->route_generation;
	m.u.open.route_slot = o->route_slot;
	m.u.open.target = o->target;
	m.u.open.deadline_boot_us = o->deadline_boot_us;
	m.u.open.connection = o->connection;
	m.u.open.source_ip = o->source_ip;
	m.u.open.vmta = number < 0 ? 0 : (uint32_t)number;
	m.u.open.queue = o->queue;
	m.u.open.conf_generation = proc_heritage(s->proc)->conf_generation;
	if (!send_to(&s->workers[o->worker], &m, name))
		unsent_add(s, o->connection);
}

static bool
op_work(void *ctx, const struct core_work *w)
{
	struct scheduler *s = ctx;
	struct peer *p = &s->workers[w->worker];
	struct conn *c = &s->conns[w->connection];
	struct message m = { .kind = MESSAGE_WORK };
	struct claim_grant g = {
		.lease = w->lease,
		.key = w->key,
		.queue = w->queue,
		.attempt = w->attempt,
		.connection = w->connection,
		.source_ip = w->source_ip,
		.generation = p->generation,
		.n_rcpts = w->n_attempt,
		.ask = w->ask,
		.granted_boot_us = w->granted_boot_us,
	};
	int slot;

	p->refused_work = true;
	memcpy(g.rcpts, w->attempt_bits, (w->n_rcpts + 7u) / 8);
	if (p->channel == NULL || !channel_has_room(p->channel, IPC_PAYLOAD_MAX / 1024))
		return false;
	slot = claim_grant(s->claims[w->worker], &g);
	if (slot < 0)
		return false;
	KILL_POINT("claim-granted");
	p->refused_work = false;
	CHECK(c->used && c->entry == CORE_NONE);
	c->entry = w->entry;
	c->lease = w->lease;
	c->n_matches = 0;
	c->n_fired = 0;
	c->stamp_boot_us = w->granted_boot_us;
	c->claim_slot = (uint32_t)slot;
	c->attempt = (uint16_t)w->attempt;
	m.u.work.lease = w->lease;
	m.u.work.epoch = w->epoch;
	m.u.work.deadline_boot_us = w->deadline_boot_us;
	m.u.work.id = w->key.message;
	m.u.work.connection = w->connection;
	m.u.work.claim_slot = (uint32_t)slot;
	m.u.work.segment = w->segment;
	m.u.work.offset16 = w->offset16;
	m.u.work.first_rcpt = (uint16_t)w->first_rcpt;
	m.u.work.flags = w->ask ? WORK_ASK : 0;
	m.u.work.n_rcpts = w->n_rcpts;
	m.u.work.attempt = (uint16_t)w->attempt;
	CHECK(send_to(p, &m, slice_of(w->attempt_bits, ((size_t)w->n_rcpts + 7) / 8)));
	return true;
}

static void
op_close(void *ctx, uint32_t connection, unsigned worker)
{
	struct scheduler *s = ctx;
	struct message m = { .kind = MESSAGE_CLOSE };

	m.u.conn.connection = connection;
	peer_send(&s->workers[worker], &m);
}

static void
op_interrupt(void *ctx, uint32_t connection, unsigned worker)
{
	struct scheduler *s = ctx;
	struct message m = { .kind = MESSAGE_CLOSE };

	m.u.conn.connection = connection;
	m.u.conn.flags = CLOSE_NOW;
	peer_send(&s->workers[worker], &m);
}

/* The enhanced status that leads `text` ("5.1.2 no such domain"), else `usual`; *rest is what follows. */
static void
leading_status(const char *text, const unsigned char usual[3], unsigned char status[3], const char **rest)
{
	unsigned a, b, c;
	int n = 0;

	memcpy(status, usual, 3);
	*rest = text != NULL ? text : "";
	if (text == NULL || sscanf(text, "%1u.%3u.%3u %n", &a, &b, &c, &n) != 3 || n == 0)
		return;
	status[0] = (unsigned char)a;
	status[1] = (unsigned char)(b & 255);
	status[2] = (unsigned char)(c & 255);
	*rest = text + n;
}

static void
op_give_up(void *ctx, uint32_t entry, enum core_give_up why, const char *text)
{
	/* RFC 3463: delivery time expired; bad destination system; no answer from host. */
	static const unsigned char expired[3] = { 4, 4, 7 }, no_domain[3] = { 5, 1, 2 }, no_host[3] = { 5, 4, 1 };
	static const unsigned char success[3] = { 2, 0, 0 }, undefined[3] = { 5, 0, 0 };
	struct scheduler *s = ctx;
	unsigned char status[3];
	char diag[600];

	switch (why) {
	case CORE_EXPIRED:
		settle_outcome(s, entry, EVENT_EXPIRED, expired, "x-sluice;delivery time expired (bounce-after)");
		break;
	case CORE_DISCARDED:
		settle_outcome(s, entry, EVENT_DELIVERED, success, "x-sluice;discarded");
		break;
	case CORE_HOST_REFUSED:
	case CORE_NO_ROUTE:
		leading_status(text, why == CORE_NO_ROUTE ? no_domain : no_host, status, &text);
		snprintf(diag, sizeof diag, "%s%s", strncmp(text, "smtp;", 5) == 0 ? "" : "smtp;", text);
		settle_outcome(s, entry, EVENT_BOUNCED, status, diag);
		break;
	case CORE_BOUNCE_QUEUE:
		snprintf(diag, sizeof diag, "x-pmta;bounce-queue;reply:%s", text);
		settle_outcome(s, entry, EVENT_BOUNCED, undefined, diag);
		break;
	}
}

static void
op_tag(void *ctx, uint32_t job, uint32_t sender_domain, bool used)
{
	struct scheduler *s = ctx;

	names_hold(s->names, job, used ? 1 : -1);
	names_hold(s->names, sender_domain, used ? 1 : -1);
}

static void
op_source_limits(void *ctx, uint32_t queue, struct slice name, uint32_t source_ip, bool backoff,
		 struct conf_limits *out)
{
	struct scheduler *s = ctx;
	struct slice vmta = name, domain = slice_cut(&vmta, '/');
	const struct conf_source_ip *ips;

	memset(out, 0, sizeof *out);
	if (settings_get(s->settings, queue, name)->source_limits && source_ip < conf_source_ips(s->conf, &ips))
		conf_queue_source_over(s->conf, domain, vmta, source_ip, backoff, overrides_of_queue(s->overrides, name),
				       out);
}

/* Of source IPs and virtual MTAs *out has what the configuration says. */
static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	struct scheduler *s = ctx;
	const struct conf_limits *l = NULL;
	enum conf_override_scope over;
	bool some = false;
	struct slice name = acts_object(s, scope, number, &over);

	switch (scope) {
	case CORE_SCOPE_PROVIDER:
		some = providers_limits(s->providers, s->conf, number, out);
		break;
	case CORE_SCOPE_JOB:
		l = conf_job_limits(s->conf, name);
		break;
	case CORE_SCOPE_SENDER:
		l = conf_sender_limits(s->conf, name);
		break;
	default:
		break;
	}
	if (l != NULL)
		*out = *l;
	return (name.n > 0 && overrides_apply(s->overrides, over, name, out)) || some || l != NULL;
}

static struct slice
op_scope_name(void *ctx, enum core_scope scope, uint32_t number)
{
	enum conf_override_scope over;

	return acts_object(ctx, scope, number, &over);
}

static void
op_moved(void *ctx, uint32_t entry)
{
	struct scheduler *s = ctx;
	struct core_entry_facts f;
	struct store_row row;

	core_entry_get(s->core, entry, &f);
	row = settle_row(&f);
	committer_put_row(s->committer, COMMIT_SETTLE, f.key, &row);
	KILL_POINT("entry-moved");
}

static void
op_queue_changed(void *ctx, uint32_t queue)
{
	settle_queue_row(ctx, queue);
}

static void *
op_charges(void *ctx, const struct core_charge_key *key, size_t bytes, bool *found)
{
	struct scheduler *s = ctx;

	*found = false;
	return s->charges != NULL ? charges_take(s->charges, key, bytes, found) : NULL;
}

static void
op_charges_free(void *ctx, void *memory)
{
	struct scheduler *s = ctx;

	charges_give(s->charges, memory);
}

static void
op_charges_keep(void *ctx, void *memory)
{
	struct scheduler *s = ctx;

	charges_leave(s->charges, memory);
}

static void
op_backoff_over(void *ctx, uint32_t queue, uint32_t source_ip, unsigned why)
{
	backoff_over(ctx, queue, source_ip, why);
}

static bool
op_mode_is_told(void *ctx, uint32_t queue)
{
	return backoff_is_told(ctx, queue);
}

const struct core_ops dispatch_ops = {
	.settings = op_settings,
	.ask_route = op_ask_route,
	.open = op_open,
	.work = op_work,
	.close = op_close,
	.give_up = op_give_up,
	.tag = op_tag,
	.queue_changed = op_queue_changed,
	.moved = op_moved,
	.source_limits = op_source_limits,
	.scope_limits = op_scope_limits,
	.scope_name = op_scope_name,
	.interrupt = op_interrupt,
	.charges = op_charges,
	.charges_free = op_charges_free,
	.charges_keep = op_charges_keep,
	.backoff_over = op_backoff_over,
	.mode_is_told = op_mode_is_told,
};

/* What workers say ----------------------------------------------------------------------------- */
/* The connection of a worker's message, or NULL: numbers from outside are checked against our own. */
static struct conn *
own_conn(struct peer *p, uint32_t number)
{
	struct conn *c;

	if (number >= CORE_CONNECTIONS_MAX)
		return NULL;
	c = &p->s->conns[number];
	return c->used && c->worker == p->slot ? c : NULL;
}

static struct settle_source
source_of(const struct peer *p, const struct conn *c)
{
	return (struct settle_source){ c->entry,   c->lease,	     p->slot,	  c->claim_slot,
				       c->attempt, c->stamp_boot_us, c->source_ip };
}

/* The connection has ended with a lease out: its result should have come before, the claim table decides. */
static void
lose_lease(struct peer *p, struct conn *c)
{
	struct settle_source from = source_of(p, c);
	struct claim_view v;

	if (c->entry == CORE_NONE)
		return;
	c->entry = CORE_NONE;
	if (claim_read(p->s->claims[p->slot], from.claim_slot, &v) != 0)
		memset(&v, 0, sizeof v);
	settle_lost(p->s, &from, &v);
}

/* An attempt that did not fail, or of which nobody can say how it ended; once for each connection. */
static void
log_attempt(struct scheduler *s, struct conn *c, struct slice reason)
{
	struct settle_attempt a = { .kind = EVENT_ATTEMPT,
				    .queue = c->queue,
				    .source_ip = c->source_ip,
				    .job = c->job,
				    .sender_domain = c->sender_domain,
				    .stamp_boot_us = c->open_stamp_boot_us,
				    .reason = reason };

	if (c->ready || c->unsent)
		return;
	c->ready = true;
	settle_connect(s, &a);
}

static void
on_opened(struct peer *p, const struct message *m)
{
	struct core_now now = scheduler_now(p->s);
	struct conn *c = own_conn(p, m->u.opened.connection);

	if (c == NULL)
		return;
	log_attempt(p->s, c, SLICE_NONE);
	core_opened_as(p->s->core, &now, m->u.opened.connection, m->u.opened.rcpt_max,
		       (m->u.opened.flags & OPENED_PIPELINING) != 0);
}

/* A worker is about to send one RCPT. The answer goes at once: the peer waits. */
static void
on_rcpt_ask(struct peer *p, const struct message *m)
{
	struct core_now now = scheduler_now(p->s);
	struct conn *c = own_conn(p, m->u.rcpt_ask.connection);
	struct message answer = { .kind = MESSAGE_RCPT_MAY };
	uint64_t stamp = 0, deadline = 0;

	if (c != NULL && c->entry != CORE_NONE && c->lease == m->u.rcpt_ask.lease &&
	    core_rcpt_ask(p->s->core, &now, c->entry, c->lease, m->u.rcpt_ask.index, &stamp, &deadline)) {
		answer.u.rcpt_may.may = 1;
		answer.u.rcpt_may.stamp_boot_us = stamp;
		answer.u.rcpt_may.deadline_boot_us = deadline;
	}
	answer.u.rcpt_may.lease = m->u.rcpt_ask.lease;
	answer.u.rcpt_may.connection = m->u.rcpt_ask.connection;
	answer.u.rcpt_may.index = m->u.rcpt_ask.index;
	peer_send(p, &answer);
	KILL_POINT("rcpt-granted");
}

static enum core_failure
failure_of(uint32_t why)
{
	switch (why) {
	case OPEN_GREETING_PERMANENT:
		return CORE_FAIL_HOST_PERMANENT;
	case OPEN_STALE:
	case OPEN_LATE:
		return CORE_FAIL_NOT_ATTEMPTED;
	case OPEN_NO_RESOURCES:
		return CORE_FAIL_NO_RESOURCES;
	case OPEN_SOURCE:
		return CORE_FAIL_SOURCE;
	case OPEN_DENIED:
		return CORE_FAIL_DENIED;
	case OPEN_GIVEN_UP:
		return CORE_FAIL_GIVEN_UP;
	default:
		return CORE_FAIL_HOST;
	}
}

static void
log_failure(struct scheduler *s, struct conn *c, enum core_failure why, const struct results *r, struct slice text)
{
	bool called = why != CORE_FAIL_SOURCE && why != CORE_FAIL_DENIED; /* connect() */
	struct settle_attempt a = { .kind = EVENT_CONNECT,
				    .queue = c->queue,
				    .source_ip = c->source_ip,
				    .job = c->job,
				    .sender_domain = c->sender_domain,
				    .stamp_boot_us = called && !c->ready ? c->open_stamp_boot_us : 0,
				    .destination = r->dlv_destination_ip,
				    .mta = r->dsn_mta,
				    .reason = text };

	if (why == CORE_FAIL_GIVEN_UP)
		log_attempt(s, c, SLICE_LIT("given up"));
	else if (why != CORE_FAIL_NOT_ATTEMPTED && why != CORE_FAIL_NO_RESOURCES)
		settle_connect(s, &a);
}

static void
on_open_failed(struct peer *p, const struct message *m, struct slice payload)
{
	struct scheduler *s = p->s;
	struct core_now now = scheduler_now(s);
	struct conn *c = own_conn(p, m->u.open_failed.connection);
	enum core_failure why = failure_of(m->u.open_failed.why);
	struct results r;
	struct slice text = SLICE_LIT("connection failed");
	char esc[256];

	if (c == NULL)
		return;
	lose_lease(p, c); /* none, unless the worker lies */
	if (results_decode(&r, payload, &s->scratch) != 0)
		memset(&r, 0, sizeof r);
	if (r.n_rcpts > 0)
		text = r.rcpts[0].diag;
	else if (r.dlv_esmtp.n > 0)
		text = r.dlv_esmtp; /* carries the reason when there is no recipient */
	log_info("queue=%.*s worker=%u connect=failed why=%u text=\"%s\"",
		 (int)names_get(s->names, c->queue).n, names_get(s->names, c->queue).p, p->slot,
		 m->u.open_failed.why, str_escape(esc, sizeof esc, text));
	log_failure(s, c, why, &r, text);
	c->used = false;
	core_open_failed(s->core, &now, m->u.open_failed.connection, why, text);
}

static void
on_result(struct peer *p, const struct message *m, struct slice payload)
{
	struct scheduler *s = p->s;
	struct conn *c = own_conn(p, m->u.result.connection);
	struct wire_reader r;
	struct slice encoded, rest;
	struct results results;
	struct result_strings strings;
	struct settle_source from;

	if (c != NULL && c->entry != CORE_NONE && c->lease == m->u.result.lease) {
		from = source_of(p, c);
		c->entry = CORE_NONE;
	} else if (recovery_lease(s, p->slot, m->u.result.lease, &from) == NULL) {
		log_warn("worker=%u lease=%llu result=late", p->slot, (unsigned long long)m->u.result.lease);
		return;
	}
	wire_read_init(&r, payload);
	encoded = wire_bytes(&r, CLAIM_RESULT_BYTES);
	rest = wire_raw(&r, wire_left(&r));
	if (r.bad || results_decode(&results, encoded, &s->scratch) != 0) {
		struct claim_view v = { .state = CLAIM_DOT_SENT };

		log_error("worker=%u result=malformed", p->slot);
		settle_lost(s, &from, &v);
		return;
	}
	results.flags |= m->u.result.flags;
	if (c != NULL && c->n_fired > 0 && from.lease == c->lease)
		reply_matches_rule_on(s, c, &results);
	if (result_strings_decode(&strings, rest, &s->scratch2) != 0 || strings.n_rcpts != results.n_rcpts) {
		settle_by_record(s, &from, &results);
		return;
	}
	if (!settle_results(s, &from, &results, &strings))
		claim_free(s->claims[p->slot], from.claim_slot);
}

static void
on_reply_match(struct peer *p, const struct message *m, struct slice payload)
{
	struct conn *c = own_conn(p, m->u.reply_match.connection);

	if (c != NULL && !c->unsent)
		reply_matches_take(p, c, m, payload);
}

static void
on_returned(struct peer *p, const struct message *m)
{
	struct scheduler *s = p->s;
	struct core_now now = scheduler_now(s);
	struct conn *c = own_conn(p, m->u.returned.connection);
	struct settle_source from;

	if (c != NULL && c->entry != CORE_NONE && c->lease == m->u.returned.lease) {
		from = source_of(p, c);
		c->entry = CORE_NONE;
	} else if (recovery_lease(s, p->slot, m->u.returned.lease, &from) == NULL) {
		return;
	}
	(void)core_returned(s->core, &now, from.entry, from.lease);
	claim_free(s->claims[p->slot], from.claim_slot);
	core_worker_room(s->core, &now, p->slot);
}

static void
on_closed(struct peer *p, const struct message *m, struct slice payload)
{
	struct scheduler *s = p->s;
	struct core_now now = scheduler_now(s);
	struct conn *c = own_conn(p, m->u.closed.connection);

	if (c == NULL)
		return;
	lose_lease(p, c);
	log_attempt(s, c, SLICE_NONE);
	c->used = false;
	core_closed(s->core, &now, m->u.closed.connection, payload);
}

static void
on_hello(struct peer *p, const struct message *m)
{
	struct scheduler *s = p->s;
	struct core_now now = scheduler_now(s);

	if (m->kind == MESSAGE_WORKER_HELLO) {
		p->pid = m->u.hello.pid;
		core_worker_connections(s->core, &now, p->slot, m->u.hello.connections);
		log_info("worker=%u pid=%u hello resumed=%d", p->slot, p->pid,
			 (m->u.hello.flags & HELLO_RESUMED) != 0);
		return;
	}
	p->said_hello = true;
	recovery_worker_known(s, p->slot);
	core_worker_up(s->core, &now, p->slot);
}

static void
on_message(struct peer *p, const struct message *m, struct slice payload)
{
	switch (m->kind) {
	case MESSAGE_WORKER_HELLO:
	case MESSAGE_HELLO_END:
		on_hello(p, m);
		break;
	case MESSAGE_HELD:
		recovery_held(p->s, p->slot, m);
		break;
	case MESSAGE_OPENED:
		on_opened(p, m);
		break;
	case MESSAGE_RCPT_ASK:
		on_rcpt_ask(p, m);
		break;
	case MESSAGE_OPEN_FAILED:
		on_open_failed(p, m, payload);
		break;
	case MESSAGE_RESULT:
		on_result(p, m, payload);
		break;
	case MESSAGE_REPLY_MATCH:
		on_reply_match(p, m, payload);
		break;
	case MESSAGE_RETURNED:
		on_returned(p, m);
		break;
	case MESSAGE_CLOSED:
		on_closed(p, m, payload);
		break;
	default:
		break;
	}
}

/* Takes what has come; `bounded`: stop when the batch is full (the rest is taken after its commit). */
static void
drain(struct peer *p, bool bounded)
{
	struct message m;
	struct slice payload;

	peer_flush(p);
	while (p->channel != NULL && !(bounded && committer_is_full(p->s->committer))) {
		int rc = channel_recv(p->channel, &m, &payload);

		if (rc == 0)
			return;
		if (rc < 0) {
			peer_broken(p, rc);
			return;
		}
		on_message(p, &m, payload);
		scheduler_kick(p->s);
	}
}

void
dispatch_channel(struct peer *p)
{
	drain(p, true);
}

void
dispatch_gone(struct peer *p)
{
	struct scheduler *s = p->s;
	struct core_now now = scheduler_now(s);

	/* First what the dead worker still managed to say, then what its claim table knows. */
	drain(p, false);
	peer_close(p);
	for (uint32_t i = 0; i < CORE_CONNECTIONS_MAX; i++) {
		struct conn *c = &s->conns[i];

		if (!c->used || c->worker != p->slot)
			continue;
		log_attempt(s, c, SLICE_LIT("worker died"));
		c->used = false;
		lose_lease(p, c);
	}
	recovery_worker_gone(s, p->slot);
	core_worker_down(s->core, &now, p->slot);
	scheduler_kick(s);
}
