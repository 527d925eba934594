/* connection_timer: how long a connection waits, for its peer and for its scheduler. */
#include "common/base/clock.h"
#include "deliverer/connection.h"
#include "deliverer/worker.h"

#define SECOND       1000000ull
#define QUIT_MOST_US (5 * SECOND)
#define ASK_MOST_US  (30 * SECOND)      /* a scheduler that says nothing is as one that refuses */
#define IDLE_MOST_US (11 * 60 * SECOND) /* the scheduler closes far sooner */

static uint64_t
wait_us(const struct connection *c)
{
	if (c->connecting)
		return c->timeouts.connect;
	if (c->tail.n > 0)
		return c->timeouts.body;
	switch (smtp_client_deadline(&c->client)) {
	case SMTP_CLIENT_DEADLINE_GREETING:
		return c->timeouts.greeting;
	case SMTP_CLIENT_DEADLINE_BODY:
		return c->timeouts.body;
	case SMTP_CLIENT_DEADLINE_DOT:
		return c->timeouts.dot;
	case SMTP_CLIENT_DEADLINE_ASK:
		return ASK_MOST_US;
	case SMTP_CLIENT_DEADLINE_QUIT:
		return QUIT_MOST_US;
	case SMTP_CLIENT_DEADLINE_IDLE:
		return IDLE_MOST_US;
	default:
		return c->timeouts.command;
	}
}

/* Most deadlines are met: the timer is set once and looks again when it fires early. */
void
connection_wake_at(struct connection *c, uint64_t at_us)
{
	uint64_t now = loop_boot_us(c->worker->loop);

	if (c->timer_at_us != 0 && c->timer_at_us <= at_us)
		return;
	c->timer_at_us = at_us;
	timer_set(&c->timer, at_us > now ? at_us - now : 0);
}

static void
set_deadline(struct connection *c, uint64_t at_us)
{
	c->deadline_us = at_us;
	connection_wake_at(c, at_us);
}

void
connection_wait(struct connection *c)
{
	uint64_t now = loop_boot_us(c->worker->loop);
	uint64_t at = now + wait_us(c);

	if (c->most_at_us != 0 && c->most_at_us < at)
		at = c->most_at_us;
	set_deadline(c, at);
	c->multiline_seen = false;
}

/* A new wait has its own time; a reply that trickles in does not (RFC 5321 4.5.3.2). */
void
connection_wait_on(struct connection *c)
{
	uint64_t now = loop_boot_us(c->worker->loop);

	if (c->deadline_serial != c->client.deadline_serial) {
		c->deadline_serial = c->client.deadline_serial;
		connection_wait(c);
	} else if (c->client.reply.lines > 0 && !c->multiline_seen) {
		c->multiline_seen = true;
		if (now + c->timeouts.multiline < c->deadline_us)
			set_deadline(c, now + c->timeouts.multiline);
	}
}

/* Work whose time ran out before the connection was ready for it. */
static void
return_late(struct connection *c)
{
	while (c->waiting != NULL && clock_boot_us() > c->waiting->deadline_boot_us) {
		struct work *k = c->waiting;

		c->waiting = k->next;
		work_return(c->worker, c->number, &k, RETURN_LATE);
	}
	if (c->waiting != NULL)
		connection_wake_at(c, c->waiting->deadline_boot_us + 1);
}

static void
on_timer(void *arg)
{
	struct connection *c = arg;

	c->timer_at_us = 0;
	return_late(c);
	if (loop_boot_us(c->worker->loop) < c->deadline_us) {
		set_deadline(c, c->deadline_us);
	} else if (c->connecting) {
		connection_fail_open(c, OPEN_CONNECT_TIMEOUT, VERDICT_BY_TIMEOUT, "");
	} else if (smtp_client_want(&c->client) & SMTP_CLIENT_MAY) {
		c->work->asked = false;
		smtp_client_may(&c->client, false);
		connection_drive(c);
	} else {
		smtp_client_fail(&c->client, VERDICT_BY_TIMEOUT);
		connection_drive(c);
	}
}

void
connection_timer_init(struct connection *c)
{
	timer_init(&c->timer, c->worker->loop, on_timer, c);
}
