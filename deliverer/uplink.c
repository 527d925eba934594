#include "deliverer/uplink.h"

#include <string.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"

struct uplink_waiting {
	struct uplink_waiting *next;
	struct message m;
	uint32_t payload_bytes;
	char payload[];
};

void
uplink_init(struct uplink *u, struct loop *loop,
	    void (*on_message)(void *arg, const struct message *m, struct slice payload), void *arg)
{
	memset(u, 0, sizeof *u);
	u->loop = loop;
	u->on_message = on_message;
	u->arg = arg;
}

static void
keep(struct uplink *u, const struct message *m, struct slice payload)
{
	struct uplink_waiting *one = mem_alloc(sizeof *one + payload.n);

	one->next = NULL;
	one->m = *m;
	one->payload_bytes = (uint32_t)payload.n;
	if (payload.n > 0)
		memcpy(one->payload, payload.p, payload.n);
	if (u->last != NULL)
		u->last->next = one;
	else
		u->first = one;
	u->last = one;
}

void
uplink_release(struct uplink *u)
{
	while (u->first != NULL && u->channel != NULL) {
		struct uplink_waiting *one = u->first;

		if (channel_send(u->channel, &one->m, slice_of(one->payload, one->payload_bytes)) !=
		    0)
			return;
		u->first = one->next;
		if (u->first == NULL)
			u->last = NULL;
		mem_free(one);
	}
}

static void
on_input(void *arg)
{
	struct uplink *u = arg;
	struct message m;
	struct slice payload;
	int rc = 0;

	uplink_release(u);
	while (u->channel != NULL && (rc = channel_recv(u->channel, &m, &payload)) == 1)
		u->on_message(u->arg, &m, payload);
	if (rc < 0 && u->channel != NULL) {
		log_error("channel to scheduler broke its rules: %s", err_text(rc));
		uplink_detach(u);
		u->broken = true;
	}
}

int
uplink_attach(struct uplink *u, const struct channel_fds *fds)
{
	uplink_detach(u);
	return channel_open(&u->channel, fds, 'W', u->loop, on_input, u);
}

void
uplink_detach(struct uplink *u)
{
	if (u->channel != NULL)
		channel_close(&u->channel);
	u->channel = NULL;
}

void
uplink_send(struct uplink *u, const struct message *m, struct slice payload)
{
	if (u->first == NULL && u->channel != NULL && channel_send(u->channel, m, payload) == 0)
		return;
	keep(u, m, payload);
}

void
uplink_send_first(struct uplink *u, const struct message *m)
{
	/* A new channel is empty and holds RING_ENTRIES of these; a worker has no more to tell than
	 * its claims and connections. What overflows goes behind what waits. */
	if (u->channel == NULL || channel_send(u->channel, m, SLICE_NONE) != 0)
		keep(u, m, SLICE_NONE);
}

void
uplink_keep_only(struct uplink *u, unsigned kind)
{
	struct uplink_waiting *one = u->first;

	u->first = u->last = NULL;
	while (one != NULL) {
		struct uplink_waiting *next = one->next;

		one->next = NULL;
		if (one->m.kind != kind) {
			mem_free(one);
		} else {
			if (u->last != NULL)
				u->last->next = one;
			else
				u->first = one;
			u->last = one;
		}
		one = next;
	}
}

void
uplink_each_waiting(struct uplink *u, void (*fn)(void *arg, const struct message *m), void *arg)
{
	for (struct uplink_waiting *one = u->first; one != NULL; one = one->next)
		fn(arg, &one->m);
}

void
uplink_flush(struct uplink *u)
{
	if (u->channel != NULL)
		channel_flush(u->channel);
}

bool
uplink_waits(const struct uplink *u)
{
	return u->first != NULL;
}
