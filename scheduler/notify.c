#include "scheduler/notify.h"

#include <endian.h>

#include "common/base/check.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/conf/conf_value.h"
#include "common/ipc/notification.h"
#include "scheduler/backoff_rows.h"
#include "scheduler/control.h"
#include "scheduler/notify_text.h"
#include "scheduler/overrides.h"
#include "scheduler/state.h"

#define GATHER_US  1000000u  /* what happens together is told together */
#define AGAIN_US   20000000u /* a message that did not come to be by then is sent again */
#define NO_ROOM_US 500000u   /* no receiver, or its ring is full */
#define DIGEST_MAX 500
#define LISTS_SEEN 16
#define TO_MAX     4000
#define QUEUES_AT_ONCE 1024

/* Who gets the same messages. They are as many as there are lists in the configuration. */
struct audience {
	struct audience *next;
	struct notify_pace pace;
	char to[];
};

struct owed {
	uint64_t key;
	uint32_t number; /* of its row */
	bool durable;
	bool told;             /* to be taken out */
	uint64_t since_us;     /* boot: durable since */
	uint64_t sent_till_us; /* boot: until then a message of it is on its way; 0: none is */
	unsigned receiver;     /* that has it */
	struct audience *audience;
	struct slice blob; /* owned */
};

struct notify {
	struct audience *audiences;
	struct owed *rows; /* by key */
	size_t n, cap;
	uint64_t last_key;
	struct timer timer;
	uint64_t wake_us; /* boot: what the timer is set to; 0: it is not */
};

bool
notify_is_queue(struct slice queue_name)
{
	struct slice end = SLICE_LIT("/" CONF_VMTA_NOTIFY);

	return queue_name.n > end.n && slice_eq(slice_sub(queue_name, queue_name.n - end.n), end);
}

/* The table ------------------------------------------------------------------------------------ */
static void
wake(struct scheduler *s, uint64_t in_us)
{
	struct notify *n = s->notify;
	uint64_t at = loop_boot_us(s->loop) + in_us;

	if (n->wake_us != 0 && n->wake_us <= at)
		return;
	n->wake_us = at;
	timer_set(&n->timer, in_us);
}

static struct audience *
audience_of(struct notify *n, struct slice to)
{
	struct audience *a;

	for (a = n->audiences; a != NULL; a = a->next) {
		if (slice_is(to, a->to))
			return a;
	}
	a = mem_zalloc(sizeof *a + to.n + 1);
	memcpy(a->to, to.p, to.n);
	a->next = n->audiences;
	n->audiences = a;
	return a;
}

/* NULL: it is not owed (any more). */
static struct owed *
find(struct notify *n, uint64_t key)
{
	size_t low = 0, high = n->n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (n->rows[mid].key < key)
			low = mid + 1;
		else
			high = mid;
	}
	return low < n->n && n->rows[low].key == key ? &n->rows[low] : NULL;
}

static struct owed *
put(struct notify *n, uint64_t key, uint32_t number, struct slice blob, struct slice to)
{
	size_t at = n->n;
	void *p = n->rows;

	mem_grow(&p, &n->cap, n->n + 1, sizeof *n->rows);
	n->rows = p;
	while (at > 0 && n->rows[at - 1].key > key) /* as loaded; else it is the last */
		at--;
	memmove(n->rows + at + 1, n->rows + at, (n->n - at) * sizeof *n->rows);
	n->n++;
	n->rows[at] = (struct owed){
		.key = key,
		.number = number,
		.audience = audience_of(n, to),
		.blob = slice_of(mem_memdup0(blob.p, blob.n), blob.n),
	};
	if (key > n->last_key)
		n->last_key = key;
	return &n->rows[at];
}

static void
free_row(struct owed *o)
{
	mem_free((void *)(uintptr_t)o->blob.p);
}

/* Those that are told. There may be very many rows, and a message tells many of them: at one go. */
static void
take_out_told(struct notify *n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n->n; i++) {
		if (n->rows[i].told)
			free_row(&n->rows[i]);
		else
			n->rows[kept++] = n->rows[i];
	}
	n->n = kept;
}

/* Who is told ---------------------------------------------------------------------------------- */
static void
add_addresses(struct buf *to, const char *const *list)
{
	for (; list != NULL && *list != NULL; list++) {
		struct slice all = buf_slice(to), address = slice_str(*list);
		bool there = false;

		while (all.n > 0 && !there)
			there = slice_eq_nocase(slice_cut(&all, '\n'), address);
		if (there || to->len + address.n + 1 > TO_MAX)
			continue;
		if (to->len > 0)
			buf_putc(to, '\n');
		buf_put_slice(to, address);
	}
}

/* Whoever is to be told of some queue among many. Queues share their lists: mostly the first one has them all. */
struct asking {
	struct scheduler *s;
	struct buf *to;
	unsigned scope; /* CONF_RULE_SCOPES: name is a pattern of queues, and it is about a source
			   IP */
	struct slice name;
	const char *const *seen[LISTS_SEEN];
	unsigned n_seen, left; /* lists that nobody had yet */
};

static bool
concerns(const struct asking *a, uint32_t queue, struct slice queue_name)
{
	switch (a->scope) {
	case CONF_RULE_SCOPES:
		return control_matches(queue_name, a->name);
	case CONF_RULE_VMTA:
		(void)slice_cut(&queue_name, '/');
		return slice_eq_nocase(queue_name, a->name);
	case CONF_RULE_PROVIDER:
		return slice_eq_nocase(providers_of(a->s->providers, queue), a->name);
	default:
		return true;
	}
}

static void
ask_queue(void *arg, uint32_t queue)
{
	struct asking *a = arg;
	struct slice name = names_get(a->s->names, queue);
	const struct conf_queue *q;
	const char *const *list;

	if (notify_is_queue(name) || !concerns(a, queue, name))
		return;
	q = settings_get(a->s->settings, queue, name);
	list = a->scope == CONF_RULE_SCOPES ? q->source_notify : q->backoff_notify;
	for (unsigned i = 0; i < a->n_seen; i++) {
		if (a->seen[i] == list)
			return;
	}
	if (a->n_seen < LISTS_SEEN) {
		a->seen[a->n_seen++] = list;
		a->left -= list != NULL && a->left > 0;
	}
	add_addresses(a->to, list);
}

static void
ask_queues(struct scheduler *s, unsigned scope, struct slice name, struct buf *to)
{
	struct asking a = { .s = s, .to = to, .scope = scope, .name = name };
	uint32_t cursor = 0;

	a.left = conf_notify_lists(s->conf, scope == CONF_RULE_SCOPES);
	while (a.left > 0 &&
	       core_each_queue(s->core, &cursor, QUEUES_AT_ONCE, ask_queue, &a)) {
	}
}

static void
queue_settings(const struct scheduler *s, struct slice name, struct conf_queue *out)
{
	struct slice vmta = name, domain = slice_cut(&vmta, '/');

	conf_queue_over(s->conf, domain, vmta, overrides_of_queue(s->overrides, name), out);
}

/* What happened -------------------------------------------------------------------------------- */
static void
put_limits(struct buf *b, const struct conf_queue *q, bool backoff)
{
	const char *twin = backoff ? "backoff-" : "";
	const struct conf_limits *l = &q->backoff;

	buf_printf(b, "%smax-msg-rate ", twin);
	conf_value_put_rate(b, backoff ? &l->max_msg_rate : &q->max_msg_rate);
	buf_printf(b, ", %smax-connect-rate ", twin);
	conf_value_put_rate(b, backoff ? &l->max_connect_rate : &q->max_connect_rate);
	buf_printf(b, ", %smax-data-volume-rate ", twin);
	conf_value_put_volume(b, backoff ? &l->max_data_volume_rate : &q->max_data_volume_rate);
	buf_printf(b, ", %smax-smtp-out %llu", twin,
		   (unsigned long long)(backoff ? l->max_smtp_out : q->max_smtp_out));
	buf_printf(b, ", %sretry-after ", twin);
	conf_value_put_intervals(b, backoff ? &q->backoff_retry_after : &q->retry_after);
}

static void
is_durable(void *ctx, uint64_t key, uint64_t b, uint64_t c)
{
	struct scheduler *s = ctx;
	struct owed *o = find(s->notify, key);

	(void)b;
	(void)c;
	if (o == NULL)
		return;
	o->durable = true;
	o->since_us = loop_boot_us(s->loop);
	wake(s, GATHER_US);
}

/* Keys only rise, also over a restart: a receiver may still have a message of an earlier life. */
static const struct owed *
owe(struct scheduler *s, struct notify_event *e)
{
	struct notify *n = s->notify;
	struct buf blob = { 0 };
	const struct owed *o;

	e->wall_us = loop_wall_us(s->loop);
	e->key = e->wall_us > n->last_key ? e->wall_us : n->last_key + 1;
	notify_event_encode(&blob, e);
	o = put(n, e->key, backoff_number(s), buf_slice(&blob), e->to);
	buf_clear(&blob);
	committer_put_backoff(s->committer, o->number, o->blob);
	committer_then(s->committer, COMMIT_NOW, is_durable, s, o->key, 0, 0);
	KILL_POINT("notify-owed");
	return o;
}

static struct slice
pattern_of(const struct scheduler *s, uint64_t rule_key)
{
	const struct conf_rule *rules;
	int i = rule_key != 0 ? conf_rule_find(s->conf, rule_key) : -1;

	(void)conf_rules(s->conf, &rules);
	return i >= 0 ? slice_str(rules[i].pattern) : SLICE_NONE;
}

uint32_t
notify_mode(struct scheduler *s, const struct backoff_row *row, struct slice reason,
	    struct slice rule, struct slice *blob)
{
	struct core_now now = scheduler_now(s);
	struct buf to = { 0 }, limits = { 0 };
	struct notify_event e = {
		.kind = row->on ? NOTIFY_BACKOFF : NOTIFY_NORMAL,
		.scope = row->scope,
		.until_us = row->on ? row->until_wall_us : 0,
		.name = slice_str(row->name),
		.reason = reason,
		.rule = rule,
		.source_ip = row->on ? slice_str(row->source_ip) : SLICE_NONE,
		.reroute = row->on ? slice_str(row->reroute) : SLICE_NONE,
	};
	const struct owed *o = NULL;
	struct core_queue_view v;
	struct conf_queue q;

	*blob = SLICE_NONE;
	if (conf_notify_lists(s->conf, false) == 0)
		return 0;
	if (row->on && rule.n > 0)
		e.pattern = pattern_of(s, row->rule_key);
	if (row->scope == CONF_RULE_QUEUE) {
		queue_settings(s, e.name, &q);
		add_addresses(&to, q.backoff_notify);
		put_limits(&limits, &q, row->on);
		if (core_queue_view(s->core, &now, names_find(s->names, e.name), &v))
			e.retry_us = v.retry_at_wall_us;
	} else {
		ask_queues(s, row->scope, e.name, &to);
		buf_puts(&limits,
			 row->on ? "those of each queue for back-off" : "those of each queue");
	}
	e.to = buf_slice(&to);
	e.limits = buf_slice(&limits);
	if (e.to.n > 0 && !notify_is_queue(e.name))
		o = owe(s, &e);
	buf_clear(&to);
	buf_clear(&limits);
	if (o != NULL)
		*blob = o->blob;
	return o != NULL ? o->number : 0;
}

void
notify_source(struct scheduler *s, const struct override *row, bool disabled,
	      const struct notify_why *why)
{
	struct buf to = { 0 };
	struct notify_event e = {
		.kind = disabled ? NOTIFY_SOURCE_OFF : NOTIFY_SOURCE_ON,
		.scope = CONF_RULE_QUEUE,
		.until_us = disabled ? row->until_wall_us : 0,
		.name = slice_str(row->object),
		.reason = why->reason,
		.rule = why->rule,
		.pattern = why->pattern,
		.source_ip = slice_str(row->source),
	};
	struct conf_queue q;

	if (conf_notify_lists(s->conf, true) == 0)
		return;
	if (row->is_pattern) {
		ask_queues(s, CONF_RULE_SCOPES, e.name, &to);
	} else {
		queue_settings(s, e.name, &q);
		add_addresses(&to, q.source_notify);
	}
	e.to = buf_slice(&to);
	if (e.to.n > 0 && !notify_is_queue(e.name))
		(void)owe(s, &e);
	buf_clear(&to);
}

/* Sending -------------------------------------------------------------------------------------- */
static struct peer *
some_receiver(struct scheduler *s)
{
	for (unsigned i = 0; i < s->n_receivers; i++) {
		if (s->receivers[i].channel != NULL && s->receivers[i].said_hello)
			return &s->receivers[i];
	}
	return NULL;
}

/* One message of these, or as many of them as it may hold: so many; 0: it cannot go now. */
static size_t
send_one(struct scheduler *s, struct audience *a, struct owed **rows, size_t n)
{
	struct notify_from from = { conf_global(s->conf)->host_name, loop_wall_us(s->loop) };
	struct message m = { .kind = MESSAGE_NOTIFY };
	struct peer *p = some_receiver(s);
	struct notify_event *events;
	struct notification out;
	struct buf keys = { 0 }, text = { 0 }, payload = { 0 };
	bool gone;

	if (p == NULL || s->quota != QUOTA_FREE)
		return 0;
	events = mem_calloc(n, sizeof *events);
	for (size_t i = 0; i < n; i++)
		CHECK(notify_event_decode(&events[i], rows[i]->blob));
	n = notify_text_most(&text, &from, events, n);
	for (size_t i = 0; i < n; i++) {
		uint64_t key = htole64(rows[i]->key);

		buf_put(&keys, &key, sizeof key);
	}
	m.u.notify.events = (uint32_t)n;
	out = (struct notification){ slice_str(a->to), buf_slice(&keys), buf_slice(&text) };
	notification_encode(&payload, &out);
	gone = channel_send(p->channel, &m, buf_slice(&payload)) == 0;
	if (gone) {
		KILL_POINT("notify-sent");
		log_info("notification events=%zu receiver=%u to=%.*s", n, p->slot,
			 (int)strcspn(a->to, "\n"), a->to);
		notify_pace_sent(&a->pace, loop_boot_us(s->loop));
	}
	for (size_t i = 0; i < n && gone; i++) {
		rows[i]->sent_till_us = loop_boot_us(s->loop) + AGAIN_US;
		rows[i]->receiver = p->slot;
	}
	mem_free(events);
	buf_clear(&keys);
	buf_clear(&text);
	buf_clear(&payload);
	return gone ? n : 0;
}

/* Those of this audience that may be told, at most DIGEST_MAX; and when another one may. */
static size_t
ready(struct notify *n, const struct audience *a, uint64_t now, struct owed **out, uint64_t *next)
{
	uint64_t oldest = UINT64_MAX;
	size_t k = 0;

	for (size_t i = 0; i < n->n; i++) {
		struct owed *o = &n->rows[i];

		if (o->audience != a || !o->durable)
			continue;
		if (o->sent_till_us > now) {
			if (o->sent_till_us < *next)
				*next = o->sent_till_us;
			continue;
		}
		if (o->since_us < oldest)
			oldest = o->since_us;
		if (k < DIGEST_MAX)
			out[k++] = o;
	}
	if (k == 0 || oldest + GATHER_US <= now)
		return k;
	if (oldest + GATHER_US < *next)
		*next = oldest + GATHER_US;
	return 0;
}

/* A few go one by one, many together. */
static void
tell(struct scheduler *s, struct audience *a, uint64_t *next)
{
	uint64_t now = loop_boot_us(s->loop), room_at;
	struct owed *rows[DIGEST_MAX];
	unsigned room = notify_pace_room(&a->pace, now, &room_at);
	size_t n = ready(s->notify, a, now, rows, next), each, gone, at = 0;

	if (n == 0)
		return;
	if (room == 0) {
		*next = room_at < *next ? room_at : *next;
		return;
	}
	each = n <= room ? 1 : n;
	for (; at < n && room > 0; room--, at += gone) {
		gone = send_one(s, a, rows + at, each < n - at ? each : n - at);
		if (gone == 0)
			break;
	}
	if (at > 0 && now + AGAIN_US < *next)
		*next = now + AGAIN_US;
	/* Those that there was no room for; and whether there are more shows the next look. */
	if (at < n && now + NO_ROOM_US < *next)
		*next = now + NO_ROOM_US;
	else if (n == DIGEST_MAX && now + 1 < *next)
		*next = now + 1;
}

static void
on_timer(void *arg)
{
	struct scheduler *s = arg;
	struct notify *n = s->notify;
	uint64_t now = loop_boot_us(s->loop), next = UINT64_MAX;

	n->wake_us = 0;
	if (s->draining) /* the next life tells it */
		return;
	for (struct audience *a = n->audiences; a != NULL; a = a->next)
		tell(s, a, &next);
	scheduler_kick(s);
	if (next != UINT64_MAX)
		wake(s, next > now ? next - now : 0);
}

bool
notify_stored(struct scheduler *s, struct slice keys)
{
	struct notify *n = s->notify;
	uint64_t key;
	bool all = true;

	for (size_t i = 0; i + sizeof key <= keys.n && all; i += sizeof key) {
		memcpy(&key, keys.p + i, sizeof key);
		all = find(n, le64toh(key)) != NULL;
	}
	for (size_t i = 0; i + sizeof key <= keys.n; i += sizeof key) {
		struct owed *o;

		memcpy(&key, keys.p + i, sizeof key);
		o = find(n, le64toh(key));
		if (all && !o->told) { /* not named twice */
			committer_del_backoff(s->committer, o->number);
			o->told = true;
		} else if (o != NULL) {
			o->sent_till_us = 0;
		}
	}
	if (all) {
		take_out_told(n);
		KILL_POINT("notify-stored");
		return true;
	}
	log_info("notification events=%zu stored=no some were told before", keys.n / sizeof key);
	wake(s, GATHER_US);
	return false;
}

void
notify_receiver_gone(struct scheduler *s, unsigned slot)
{
	struct notify *n = s->notify;
	uint64_t now = loop_boot_us(s->loop);
	bool some = false;

	for (size_t i = 0; i < n->n; i++) {
		struct owed *o = &n->rows[i];

		if (o->sent_till_us <= now || o->receiver != slot)
			continue;
		o->sent_till_us = 0;
		o->audience->pace = (struct notify_pace){ { 0 } };
		some = true;
	}
	if (some)
		wake(s, 0);
}

/* Life ----------------------------------------------------------------------------------------- */
void
notify_open(struct scheduler *s)
{
	s->notify = mem_zalloc(sizeof *s->notify);
	timer_init(&s->notify->timer, s->loop, on_timer, s);
}

bool
notify_is_blob(struct slice blob)
{
	return blob.n > 0 && (unsigned char)blob.p[0] == NOTIFY_BLOB;
}

bool
notify_load(struct scheduler *s, uint32_t number, struct slice blob)
{
	struct notify_event e;
	struct owed *o;

	if (!notify_event_decode(&e, blob) || find(s->notify, e.key) != NULL)
		return false;
	o = put(s->notify, e.key, number, blob, e.to);
	o->durable = true;
	o->since_us = loop_boot_us(s->loop);
	return true;
}

void
notify_started(struct scheduler *s)
{
	if (s->notify->n == 0)
		return;
	log_info("notification owed=%zu", s->notify->n);
	wake(s, GATHER_US);
}

void
notify_close(struct scheduler *s)
{
	struct notify *n = s->notify;

	if (n == NULL)
		return;
	timer_clear(&n->timer);
	for (size_t i = 0; i < n->n; i++)
		free_row(&n->rows[i]);
	while (n->audiences != NULL) {
		struct audience *a = n->audiences;

		n->audiences = a->next;
		mem_free(a);
	}
	mem_free(n->rows);
	mem_free(n);
	s->notify = NULL;
}
