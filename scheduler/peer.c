/* peer: the line to one other process. What its ring has no room for waits in order, so that no
 * answer is lost and no line is cut because the other side reads late. */
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/state.h"

bool
peer_flush(struct peer *p)
{
	while (p->channel != NULL && p->n_sent < p->n_waiting) {
		if (channel_send(p->channel, &p->waiting[p->n_sent], SLICE_NONE) != 0)
			return false; /* its input handler runs when there is room */
		p->n_sent++;
	}
	p->n_sent = p->n_waiting = 0;
	return true;
}

void
peer_send(struct peer *p, const struct message *m)
{
	void *w = p->waiting;

	if (p->channel == NULL || (peer_flush(p) && channel_send(p->channel, m, SLICE_NONE) == 0))
		return;
	mem_grow(&w, &p->cap_waiting, p->n_waiting + 1, sizeof *p->waiting);
	p->waiting = w;
	p->waiting[p->n_waiting++] = *m;
}

void
peer_broken(struct peer *p, int rc)
{
	log_error("%s=%u channel=broken error=\"%s\" action=kill", role_name(p->role), p->slot,
		  err_text(rc));
	peer_close(p);
	proc_ask_kill(p->s->proc, p->role, p->slot, p->generation);
}

void
peer_close(struct peer *p)
{
	channel_close(&p->channel);
	mem_free(p->waiting);
	p->waiting = NULL;
	p->n_sent = p->n_waiting = p->cap_waiting = 0;
	p->said_hello = false;
}
