/* connection_ask: the leave of each RCPT, when the scheduler charges recipients one by one. */
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/event_log/event.h"
#include "deliverer/connection.h"
#include "deliverer/worker.h"

int
connection_ask(struct connection *c)
{
	struct worker *w = c->worker;
	struct work *k = c->work;
	struct message m = { .kind = MESSAGE_RCPT_ASK };

	if (!c->numbered || w->uplink.channel == NULL) { /* nobody is there to answer */
		k->asked = false;
		smtp_client_may(&c->client, false);
		return 1;
	}
	if (k->asked)
		return 0;
	k->asked = true;
	m.u.rcpt_ask.lease = k->lease;
	m.u.rcpt_ask.connection = c->number;
	m.u.rcpt_ask.claim_slot = k->claim_slot;
	m.u.rcpt_ask.index = k->indexes[c->client.ask_rcpt];
	uplink_send(&w->uplink, &m, SLICE_NONE);
	return 0;
}

/* The stamp is in the claim slot before a byte of the RCPT leaves: whoever dies, what was attempted
 * is known. */
static bool
take_leave(struct connection *c, const struct message *m)
{
	struct work *k = c->work;
	int rc;

	if (m->u.rcpt_may.may == 0 || m->u.rcpt_may.stamp_boot_us <= EVENT_STAMP_NONE ||
	    clock_boot_us() > m->u.rcpt_may.deadline_boot_us)
		return false;
	rc = claim_stamp(c->worker->claims, k->claim_slot, k->lease, k->n_stamped,
			 m->u.rcpt_may.index, m->u.rcpt_may.stamp_boot_us);
	if (rc != 0) {
		log_error("claim slot=%u takes no stamp: %s", k->claim_slot, err_text(rc));
		return false;
	}
	KILL_POINT("rcpt-stamped");
	k->n_stamped++;
	k->stamps[c->client.ask_rcpt] = m->u.rcpt_may.stamp_boot_us;
	c->leave_by_us = m->u.rcpt_may.deadline_boot_us;
	return true;
}

void
connection_may(struct connection *c, const struct message *m)
{
	struct work *k = c->work;

	/* The answer to what is asked now? One that comes behind its transaction's end is nobody's.
	 */
	if (k == NULL || k->lease != m->u.rcpt_may.lease || !k->asked ||
	    !(smtp_client_want(&c->client) & SMTP_CLIENT_MAY) ||
	    k->indexes[c->client.ask_rcpt] != m->u.rcpt_may.index)
		return;
	k->asked = false;
	smtp_client_may(&c->client, take_leave(c, m));
	connection_drive(c);
}
