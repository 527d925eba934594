#include "deliverer/connection.h"

#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/net/sock.h"
#include "common/proc/fault.h"
#include "common/smtp/smtp_client_stuff.h"
#include "deliverer/worker.h"

#define SECOND         1000000ull
#define TRANSACTION_US (3600 * SECOND) /* besides its body at SLOWEST_BYTES a second */
#define SLOWEST_BYTES  500u
#define TAIL_MOST      65536u     /* a body's end that leaves together with the dot */
#define SENDFILE_MOST  (1u << 20) /* of one call, so that one peer does not hold the loop */
#define STUFF_MOST     32768u
#define TURNS_MOST     64 /* steps of one drive before others get their turn */

/* Lists --------------------------------------------------------------------------------------- */

static struct connection **
bucket_of(struct worker *w, uint32_t number)
{
	return &w->buckets[number % WORKER_BUCKETS];
}

struct connection *
connection_find(struct worker *w, uint32_t number)
{
	struct connection *c = *bucket_of(w, number);

	while (c != NULL && c->number != number)
		c = c->next_in_bucket;
	return c;
}

/* The scheduler may use the number again. */
static void
forget_number(struct connection *c)
{
	struct connection **at = bucket_of(c->worker, c->number);

	if (!c->numbered)
		return;
	while (*at != c)
		at = &(*at)->next_in_bucket;
	*at = c->next_in_bucket;
	c->numbered = false;
}

struct connection *
connection_new(struct worker *w, uint32_t number)
{
	struct connection *c = mem_zalloc(sizeof *c);

	c->worker = w;
	c->fd = -1;
	c->number = number;
	c->numbered = true;
	c->opened_boot_us = loop_boot_us(w->loop);
	c->next_in_bucket = *bucket_of(w, number);
	*bucket_of(w, number) = c;
	c->next = w->all;
	c->prev = &w->all;
	if (c->next != NULL)
		c->next->prev = &c->next;
	w->all = c;
	w->n_connections++;
	return c;
}

/* The socket is gone; freed when the turn ends, for its events may still be about. */
static void
end(struct connection *c)
{
	struct worker *w = c->worker;

	if (c->ended)
		return;
	CHECK(c->work == NULL);
	while (c->waiting != NULL) {
		struct work *k = c->waiting;

		c->waiting = k->next;
		work_return(w, c->number, &k, RETURN_CONNECTION_GONE);
	}
	forget_number(c);
	watch_clear(&c->watch);
	timer_clear(&c->timer);
	/* A peer that has stopped reading would otherwise hold what it has not read, for minutes.
	 */
	if (c->fd >= 0 && c->client_live &&
	    (c->client.end.reason == VERDICT_BY_TIMEOUT ||
	     c->client.end.reason == VERDICT_BY_INTERRUPTED))
		sock_abort(c->fd);
	else if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	*c->prev = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	w->n_connections--;
	c->ended = true;
	c->next = w->ended;
	w->ended = c;
}

void
connection_reap(struct worker *w)
{
	while (w->ended != NULL) {
		struct connection *c = w->ended;

		w->ended = c->next;
		if (c->client_live)
			smtp_client_clear(&c->client);
		buf_clear(&c->stuffed);
		reply_rules_close(c);
		mem_free(c);
	}
}

/* Telling the scheduler ----------------------------------------------------------------------- */

void
connection_fail_open(struct connection *c, unsigned why, enum verdict_reason reason,
		     const char *text)
{
	static const struct smtp_policy policy;

	work_report_open_failed(c, why, smtp_verdict_failure(VERDICT_AT_CONNECT, reason, &policy),
				slice_str(text));
	forget_number(c);
	end(c);
}

/* The dialogue ended before it was ready for mail. */
static void
tell_open_failed(struct connection *c)
{
	const struct verdict *v = &c->client.end;
	unsigned why = OPEN_LOST;

	if (v->reason == VERDICT_BY_REPLY)
		why = v->action == VERDICT_PERMANENT ? OPEN_GREETING_PERMANENT
						     : OPEN_GREETING_TRANSIENT;
	else if (v->reason == VERDICT_BY_TIMEOUT)
		why = OPEN_CONNECT_TIMEOUT;
	else if (v->reason != VERDICT_BY_LOST)
		why = OPEN_PROTOCOL;
	work_report_open_failed(c, why, *v, smtp_client_end_text(&c->client));
	forget_number(c);
}

static void
tell_opened(struct connection *c)
{
	struct worker *w = c->worker;
	struct message m = { .kind = MESSAGE_OPENED };
	struct buf words = { 0 };

	smtp_ehlo_print(&c->client.ehlo, &words);
	str_copy(c->esmtp, sizeof c->esmtp, buf_slice(&words));
	buf_clear(&words);
	m.u.opened.connection = c->number;
	m.u.opened.limit_size = c->client.ehlo.size;
	m.u.opened.rcpt_max = c->client.ehlo.rcpt_max;
	if (c->client.ehlo.has & SMTP_EHLO_PIPELINING)
		m.u.opened.flags = OPENED_PIPELINING;
	m.u.opened.took_ms = (uint32_t)((loop_boot_us(w->loop) - c->opened_boot_us) / 1000);
	uplink_send(&w->uplink, &m, slice_str(c->esmtp));
	c->announced = true;
	w->counters.opened++;
}

static void
tell_closed(struct connection *c)
{
	const struct verdict *v = &c->client.end;
	struct message m = { .kind = MESSAGE_CLOSED };
	struct slice text = smtp_client_end_text(&c->client);

	if (!c->numbered)
		return;
	m.u.closed.connection = c->number;
	m.u.closed.messages = c->client.transactions;
	/* A peer that leaves while nothing is under way is in its right. */
	if (v->reason == VERDICT_BY_LOST && v->phase == VERDICT_AT_NONE)
		text = SLICE_LIT("closed by the peer");
	else if (v->reason == VERDICT_BY_REPLY)
		m.u.closed.why = OPEN_GREETING_TRANSIENT;
	else if (v->reason != VERDICT_BY_NONE && v->reason != VERDICT_BY_INTERRUPTED)
		m.u.closed.why = v->reason == VERDICT_BY_PROTOCOL ? OPEN_PROTOCOL : OPEN_LOST;
	if (text.n == 0)
		text = slice_str(verdict_reason_text(v->reason));
	uplink_send(&c->worker->uplink, &m, text);
	forget_number(c);
}

/* Writing ------------------------------------------------------------------------------------- */

static struct slice
body_left(const struct work *k)
{
	return slice_sub(k->record.body, k->body_sent);
}

/* The claim says "the dot may have left" before any byte of it does. */
static bool
finish_body(struct connection *c)
{
	struct work *k = c->work;
	int rc = claim_dot(c->worker->claims, k->claim_slot, k->lease);

	if (rc != 0) {
		log_error("claim slot=%u cannot say that its dot leaves: %s", k->claim_slot,
			  err_text(rc));
		smtp_client_fail(&c->client, VERDICT_BY_RESOURCES);
		return false;
	}
	KILL_POINT("dot-claimed");
	smtp_client_body_done(&c->client, !k->open_end);
	return true;
}

/* Prepares the next piece of the body as `tail`, or sends a piece of it straight from the file.
 * 1: go on writing, 0: the socket is full, -E_*. Guarded. */
static int
feed_body(void *arg)
{
	struct connection *c = arg;
	struct work *k = c->work;
	struct slice left = body_left(k);
	uint64_t offset;
	ssize_t n;

	if (k->stuff && left.n > 0) {
		struct smtp_client_stuff stuff = { 0 };
		size_t piece = left.n < STUFF_MOST ? left.n : STUFF_MOST;

		/* Pieces end behind a line, or nowhere in particular when there is none. */
		const char *lf = memrchr(left.p, '\n', piece);
		if (lf != NULL)
			piece = (size_t)(lf - left.p) + 1;
		stuff.inside = k->body_sent > 0 && left.p[-1] != '\n';
		stuff.after_cr = k->body_sent > 0 && left.p[-1] == '\r';
		buf_reset(&c->stuffed);
		if (!smtp_client_stuff_put(&stuff, slice_of(left.p, piece), &c->stuffed))
			return -E_BAD; /* not what was proven: the dialogue ends without a dot */
		c->tail = buf_slice(&c->stuffed);
		k->body_sent += piece;
		left = body_left(k);
	} else if (!k->stuff && left.n <= TAIL_MOST) {
		c->tail = left;
		k->body_sent += left.n;
		left.n = 0;
	}
	if (c->tail.n > 0 || left.n == 0) {
		/* A broken filter wants the dot in a segment of its own (pix-bug-workaround). */
		if (left.n == 0 && (!c->client.pix || c->tail.n == 0))
			return finish_body(c) ? 1 : -E_BAD;
		return 1;
	}
	offset = (uint64_t)(left.p - k->segment_ref.bytes.p);
	left.n -= TAIL_MOST / 2;
	n = sock_sendfile(c->fd, k->segment_ref.fd, &offset,
			  left.n < SENDFILE_MOST ? left.n : SENDFILE_MOST);
	if (n == -E_AGAIN)
		return 0;
	if (n < 0)
		return (int)n;
	k->body_sent += (uint64_t)n;
	connection_wait(c); /* data-send-timeout runs from block to block */
	return 1;
}

/* Writes what is there: body bytes first, then commands. 1: progress, 0: the socket is full, -E_*.
 */
static int
write_out(struct connection *c)
{
	struct slice out = smtp_client_output(&c->client);
	bool apart = c->client.pix && c->tail.n > 0;
	struct iovec iov[2] = {
		{ .iov_base = (void *)(uintptr_t)c->tail.p, .iov_len = c->tail.n },
		{ .iov_base = (void *)(uintptr_t)out.p, .iov_len = apart ? 0 : out.n },
	};
	bool tail = c->tail.n > 0;
	size_t of_tail;
	ssize_t n = sock_write(c->fd, tail ? iov : iov + 1, tail ? 2 : 1, false);

	if (n == -E_AGAIN)
		return 0;
	if (n < 0)
		return (int)n;
	of_tail = (size_t)n < c->tail.n ? (size_t)n : c->tail.n;
	c->tail = slice_sub(c->tail, of_tail);
	if ((size_t)n > of_tail) {
		smtp_client_wrote(&c->client, (size_t)n - of_tail);
		c->leave_by_us = 0;
	}
	if (c->client.state == SMTP_CLIENT_IN_DOT)
		KILL_POINT("dot-sent");
	if (tail)
		connection_wait(c);
	return 1;
}

/* The dialogue -------------------------------------------------------------------------------- */

/* Begins the next work that waits; false when there is none that can begin. */
static bool
begin_work(struct connection *c)
{
	struct worker *w = c->worker;

	while (c->waiting != NULL) {
		struct work *k = c->waiting;
		struct smtp_client_message message;

		c->waiting = k->next;
		k->next = NULL;
		if (smtp_client_spent(&c->client)) {
			work_return(w, c->number, &k, RETURN_CONNECTION_GONE);
			continue;
		}
		/* The grant's time may have run out on the way; looked at again when it is written.
		 */
		if (clock_boot_us() > k->deadline_boot_us) {
			work_return(w, c->number, &k, RETURN_LATE);
		} else if (w->draining || !c->numbered) {
			work_return(w, c->number, &k, RETURN_DRAIN);
		} else if (work_load(c, &k)) {
			c->work = k;
			reply_rules_begin(c);
			c->most_at_us = loop_boot_us(w->loop) + TRANSACTION_US +
					k->record.body.n / SLOWEST_BYTES * SECOND;
			w->counters.active++;
			c->leave_by_us = k->deadline_boot_us;
			message = work_message(k);
			smtp_client_begin(&c->client, &message);
			return true;
		}
	}
	return false;
}

/* The end of a transaction: the outcome is kept and told before another word goes to the peer. */
static void
end_work(struct connection *c)
{
	uint64_t sent = c->work->body_sent;

	c->worker->counters.sent_bytes += sent;
	c->tail = SLICE_NONE;
	c->most_at_us = c->leave_by_us = 0;
	work_report(c, &c->work);
	smtp_client_taken(&c->client);
}

/* The very moment before the first byte of a grant: is there time left? Reading the record, or a
 * full socket, may have taken it. False: it is taken back. */
static bool
in_time(struct connection *c)
{
	if (c->leave_by_us == 0 || clock_boot_us() <= c->leave_by_us)
		return true;
	c->leave_by_us = 0;
	if (smtp_client_unbegin(&c->client)) {
		c->worker->counters.active--;
		c->most_at_us = 0;
		work_return(c->worker, c->number, &c->work, RETURN_LATE);
	} else {
		smtp_client_may(&c->client, false);
	}
	return false;
}

/* The machine wants nothing but bytes from the peer, or the socket is full: asks for what to watch.
 */
static void
watch_for(struct connection *c, bool blocked)
{
	watch_set(&c->watch, (short)(EV_READ | (blocked ? EV_WRITE : 0)));
	connection_wait_on(c);
}

/* Nothing can be written any more; what the peer has said before it left is still heard. */
static void
lose(struct connection *c)
{
	struct worker *w = c->worker;
	ssize_t n = sock_read(c->fd, w->read_buffer, sizeof w->read_buffer);

	if (n > 0)
		smtp_client_feed(&c->client, slice_of(w->read_buffer, (size_t)n));
	smtp_client_fail(&c->client, VERDICT_BY_LOST);
}

/* One step. 1: look again, 0: wait for events, 2: wait until the socket takes more. */
static int
step(struct connection *c)
{
	unsigned want = smtp_client_want(&c->client);
	int rc;

	if (!c->announced && c->numbered && c->client.end.reason != VERDICT_BY_NONE)
		tell_open_failed(c);
	if (want & SMTP_CLIENT_RESULT) {
		end_work(c);
		return 1;
	}
	if (want & SMTP_CLIENT_CLOSE) {
		tell_closed(c);
		end(c);
		return 0;
	}
	if (want & SMTP_CLIENT_MAIL) {
		if (!c->announced && c->numbered)
			tell_opened(c);
		if (begin_work(c))
			return 1;
		if (!c->closing && !smtp_client_spent(&c->client))
			return 0;
		smtp_client_quit(&c->client);
		return 1;
	}
	if (want & SMTP_CLIENT_MAY)
		return connection_ask(c);
	if (c->tail.n > 0 || (want & SMTP_CLIENT_WRITE))
		rc = in_time(c) ? write_out(c) : 1;
	else if (want & SMTP_CLIENT_BODY)
		rc = fault_guarded(feed_body, c); /* it reads the map */
	else
		return 0;
	if (rc < 0)
		lose(c);
	return rc == 0 ? 2 : 1;
}

void
connection_drive(struct connection *c)
{
	int go = 1;

	if (c->driving || c->ended)
		return;
	c->driving = true;
	for (int i = 0; go == 1 && i < TURNS_MOST && !c->ended; i++)
		go = step(c);
	c->driving = false;
	if (!c->ended)
		watch_for(c, go != 0);
}

static void
on_connected(struct connection *c)
{
	struct addr local;
	int rc = sock_connected(c->fd);

	if (rc != 0) {
		connection_fail_connect(c, rc, "");
		return;
	}
	c->connecting = false;
	if (sock_local(c->fd, &local))
		addr_text(c->source_text, &local);
	connection_wait(c);
	connection_drive(c);
}

static void
on_event(void *arg, short what)
{
	struct connection *c = arg;
	struct worker *w = c->worker;
	ssize_t n;

	if (c->ended)
		return;
	if (c->connecting) {
		on_connected(c);
		return;
	}
	if (what & EV_READ) {
		n = sock_read(c->fd, w->read_buffer, sizeof w->read_buffer);
		if (n > 0)
			smtp_client_feed(&c->client, slice_of(w->read_buffer, (size_t)n));
		else if (n != -E_AGAIN)
			smtp_client_fail(&c->client, VERDICT_BY_LOST);
	}
	connection_drive(c);
}

/* The scheduler's words ----------------------------------------------------------------------- */

void
connection_start(struct connection *c, int fd, const struct smtp_policy *policy, bool loop_check)
{
	c->fd = fd;
	c->connecting = true;
	smtp_client_init(&c->client, policy, slice_str(c->helo));
	c->client.loop_check = loop_check;
	c->client_live = true;
	reply_rules_listen(c);
	watch_init(&c->watch, c->worker->loop, fd, on_event, c);
	watch_set(&c->watch, EV_WRITE);
	connection_timer_init(c);
	c->deadline_serial = c->client.deadline_serial;
	connection_wait(c);
}

void
connection_work(struct connection *c, struct work *work)
{
	struct work **at = &c->waiting;

	while (*at != NULL)
		at = &(*at)->next;
	*at = work;
	if (!c->connecting)
		connection_drive(c);
	if (c->waiting != NULL)
		connection_wake_at(c, c->waiting->deadline_boot_us + 1);
}

void
connection_close_when_idle(struct connection *c)
{
	c->closing = true;
	if (c->connecting || !c->announced) {
		/* Nobody waits for it any more. */
		if (c->numbered)
			connection_fail_open(c, c->fd >= 0 ? OPEN_GIVEN_UP : OPEN_LATE,
					     VERDICT_BY_STALE, "");
		else if (c->connecting)
			end(c);
		return;
	}
	connection_drive(c);
}

void
connection_interrupt(struct connection *c)
{
	enum verdict_phase phase =
		c->work != NULL ? smtp_client_phase(&c->client) : VERDICT_AT_NONE;

	if (phase == VERDICT_AT_MAIL || phase == VERDICT_AT_RCPT || phase == VERDICT_AT_DATA ||
	    phase == VERDICT_AT_BODY) {
		c->closing = true;
		smtp_client_fail(&c->client, VERDICT_BY_INTERRUPTED);
		connection_drive(c);
		return;
	}
	connection_close_when_idle(c);
}

void
connection_orphan(struct connection *c)
{
	c->closing = true;
	while (c->waiting != NULL) {
		struct work *k = c->waiting;

		c->waiting = k->next;
		work_return(c->worker, c->number, &k, RETURN_CONNECTION_GONE);
	}
	/* The next scheduler gives numbers of its own; a lease that runs is known by itself. */
	forget_number(c);
	if (c->work != NULL) {
		connection_drive(c); /* it may wait for an answer that does not come any more */
		return;
	}
	/* It also counts connections anew: this one may not outlive the count. */
	if (c->client_live && c->client.state == SMTP_CLIENT_READY) {
		smtp_client_quit(&c->client);
		(void)write_out(c);
	}
	end(c);
}
