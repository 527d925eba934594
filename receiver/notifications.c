#include "receiver/notifications.h"

#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/ipc/notification.h"

#define WAITING_MAX 64

struct notifications {
	struct loop *loop;
	struct inlet *inlet;
	struct buf waiting[WAITING_MAX]; /* a ring of payloads */
	unsigned first, n;
};

struct notifications *
notifications_new(struct loop *loop, struct inlet *inlet)
{
	struct notifications *n = mem_zalloc(sizeof *n);

	n->loop = loop;
	n->inlet = inlet;
	return n;
}

void
notifications_free(struct notifications **np)
{
	struct notifications *n = *np;

	if (n == NULL)
		return;
	for (unsigned i = 0; i < WAITING_MAX; i++)
		buf_clear(&n->waiting[i]);
	mem_free(n);
	*np = NULL;
}

void
notifications_forget(struct notifications *n)
{
	n->n = 0;
}

void
notifications_take(struct notifications *n, struct slice payload)
{
	struct buf *b = &n->waiting[(n->first + n->n) % WAITING_MAX];

	if (n->n == WAITING_MAX)
		return; /* it comes again */
	buf_reset(b);
	buf_put_slice(b, payload);
	n->n++;
}

/* False: there is nobody to send it to. */
static bool
read_recipients(struct envelope *e, struct slice to)
{
	static const struct address nobody = { .kind = ADDRESS_NULL };

	envelope_begin(e, &nobody);
	while (to.n > 0) {
		struct slice text = slice_cut(&to, '\n');
		struct address a;

		if (address_parse_mailbox(text, &a) == 0)
			(void)envelope_add(e, &a);
	}
	return e->n > 0;
}

static void
hand_over(struct notifications *n, struct slice payload, struct terms *terms, msg_id_t id)
{
	static const struct conf_client rules; /* nothing is read, added or cut out */
	struct smtp_server from_us = { .state = SMTP_SERVER_STATE_BODY };
	struct envelope envelope = { 0 };
	struct buf body = { 0 };
	struct notification in;
	struct parcel *parcel;
	struct parcel_source src = {
		.rules = &rules,
		.smtp = &from_us,
		.peer = "",
		.local = "",
		.envelope = &envelope,
		.body = &body,
		.id = id,
		.wall_us = loop_wall_us(n->loop),
	};
	const char *refusal = "malformed";

	str_copy(from_us.helo, sizeof from_us.helo, slice_str(terms->maker.host_name));
	if (notification_decode(&in, payload) == 0 && read_recipients(&envelope, in.to)) {
		buf_put_slice(&body, in.text);
		src.owed = in.owed;
		refusal = parcel_make(&terms->maker, &src, &parcel);
	}
	if (refusal != NULL) {
		log_error("notification refused=\"%s\"", refusal);
	} else {
		KILL_POINT("notify-before-store");
		inlet_submit(n->inlet, parcel);
	}
	buf_clear(&body);
	envelope_clear(&envelope);
}

void
notifications_turn(struct notifications *n, struct terms *terms)
{
	while (n->n > 0 && inlet_flow(n->inlet) == INLET_OPEN) {
		msg_id_t id = inlet_take_id(n->inlet);

		if (id == 0)
			return;
		hand_over(n, buf_slice(&n->waiting[n->first]), terms, id);
		n->first = (n->first + 1) % WAITING_MAX;
		n->n--;
	}
}
