/* view: what others may see of the core; changes nothing. */
#include "common/base/check.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/backoff_impl.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/limits_impl.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/redirect.h"
#include "scheduler/core/sources.h"

/* Entries looked at for one that is called for. */
#define SCAN_PER_ENTRY 64
#define SCAN_LEAST     65536
/* With more source IPs than these nobody asks which of them has room first. */
#define LAST_SOURCES 64

// clang-format off
static const char *const refusal_texts[] = {
	[REFUSAL_NONE] = NULL,
	[REFUSAL_MAX_SMTP_OUT] = "max-smtp-out",
	[REFUSAL_LIMIT] = NULL,
	[REFUSAL_CLAIM_TABLE] = "claim table of the worker",
	[REFUSAL_NO_VMTA] = "virtual MTA is not configured",
	[REFUSAL_TARGETS] = "no other host is left in this round",
	[REFUSAL_ATTEMPTS] = "mx-connection-attempts",
	[REFUSAL_HANDED_BACK] = "the worker handed connections back",
	[REFUSAL_RAMPUP] = "smtp-out-rampup-interval",
	[REFUSAL_DESCRIPTORS] = "descriptors of the worker",
};
/* Directives by measure, of each scope that calls them by other names than the first row. */
static const char *const directives[][MEASURES] = {
	{ "max-msg-rate", "max-connect-rate", "max-data-volume-rate", "max-smtp-out" },
	{ "backoff-max-msg-rate", "backoff-max-connect-rate", "backoff-max-data-volume-rate",
	  "backoff-max-smtp-out" },
	{ "source-ip-max-msg-rate", "source-ip-max-connect-rate", "source-ip-max-data-volume-rate",
	  "source-ip-max-smtp-out" },
	{ "max-smtp-msg-rate", "max-connect-rate", "max-smtp-data-volume-rate", "max-smtp-out" },
	{ "backoff-source-ip-max-msg-rate", "backoff-source-ip-max-connect-rate",
	  "backoff-source-ip-max-data-volume-rate", "backoff-source-ip-max-smtp-out" },
};
// clang-format on

static const char *
directive(const struct limit *l)
{
	switch ((enum core_scope)l->scope) {
	case CORE_SCOPE_QUEUE_SOURCE:
		return directives[l->mode == LIMIT_BACKOFF ? 4
				  : l->mode == LIMIT_HELD  ? 1
							   : 2][l->measure];
	case CORE_SCOPE_VMTA:
		return directives[3][l->measure];
	case CORE_SCOPE_MX_SOURCE:
		return "mx-connection-limit";
	case CORE_SCOPE_DESTINATION:
		return "ip-connection-limit";
	case CORE_SCOPE_ALL:
		return "total-max-smtp-out";
	default:
		return l->mode == LIMIT_LEARNED ? "recover"
						: directives[l->mode == LIMIT_BACKOFF][l->measure];
	}
}

static const char *
refusal_text(const struct core *c, const struct queue *q)
{
	if (q->paused)
		return NULL;
	if (q->refusal == REFUSAL_LIMIT && q->active)
		return directive(&c->limits[q->active->blocked_by]);
	return refusal_texts[q->refusal];
}

static const struct queue *
find(const struct core *c, uint32_t number)
{
	uint32_t qi = queue_index(c, number);

	return qi == CORE_NONE ? NULL : &c->queues[qi];
}

/* Deferred mail that is due before the next probe waits for that, too. */
static void
view_probe(const struct core *c, const struct queue *q, const struct core_now *now,
	   struct core_queue_view *out)
{
	uint64_t at;

	if (!q->probing || out->wait != CORE_WAIT_RETRY || q->n[PLACE_READY] > 0)
		return;
	at = backoff_probe_at(c, (uint32_t)(q - c->queues));
	if (at <= now->boot_us || at <= q->until)
		return;
	out->wait = CORE_WAIT_BACKOFF;
	out->until_wall_us = now->wall_us + (at - now->boot_us);
}

bool
core_queue_view(const struct core *c, const struct core_now *now, uint32_t queue,
		struct core_queue_view *out)
{
	const struct queue *q = find(c, queue);
	const struct active *a;

	if (!q)
		return false;
	a = q->active;
	*out = (struct core_queue_view){
		.number = queue,
		.name = slice_of(q->name, q->name_len),
		.rcpts = q->n_rcpts,
		.entries = queue_entries(q),
		.kbytes = q->kbytes,
		.paused = q->paused,
		.retry_level = q->retry_level,
		.backoff = q->backoff,
		.backoff_source = q->backoff_source,
		.only_sources = q->only_sources,
		.bouncing = q->doom_left > 0 && q->doom_why == CORE_BOUNCE_QUEUE,
		/* An operator who paused it is told so, also before the queue's next turn. */
		.wait = q->paused ? CORE_WAIT_PAUSED : (enum core_wait)q->wait,
		.limit = refusal_text(c, q),
		.last_error = SLICE_NONE,
	};
	if (q->retry_is_wall)
		out->retry_at_wall_us = q->retry_at;
	else if (q->retry_at > now->boot_us)
		out->retry_at_wall_us = now->wall_us + (q->retry_at - now->boot_us);
	if (q->until > now->boot_us && !q->paused)
		out->until_wall_us = now->wall_us + (q->until - now->boot_us);
	view_probe(c, q, now, out);
	if (!a)
		return true;
	out->connections = a->n_conns;
	out->opening = a->n_opening;
	out->attempted = a->attempted;
	out->delivered = a->delivered;
	out->bounced = a->bounced;
	out->transient = a->transient;
	if (a->meters)
		out->msg_rate = meter_minute(&a->meters->attempted, now->boot_us);
	out->last_error = slice_str(a->last_error);
	out->last_error_wall_us = a->last_error_wall;
	return true;
}

bool
core_each_queue(const struct core *c, uint32_t *cursor, unsigned most,
		void (*fn)(void *arg, uint32_t queue), void *arg)
{
	while (*cursor < c->n_queues) {
		if (most-- == 0)
			return true;
		fn(arg, c->queues[(*cursor)++].number);
	}
	return false;
}

bool
core_each_changed(struct core *c, unsigned most, void (*fn)(void *arg, uint32_t queue), void *arg)
{
	while (c->touched_first < c->n_touched) {
		struct queue *q;

		if (most-- == 0)
			return true;
		q = &c->queues[c->touched[c->touched_first++]];
		q->touched = false;
		fn(arg, q->number);
	}
	c->touched_first = c->n_touched = 0;
	return false;
}

bool
core_each_entry(const struct core *c, uint32_t queue, uint32_t *cursor, unsigned most,
		void (*fn)(void *arg, uint32_t entry), void *arg)
{
	uint64_t look = (uint64_t)most * SCAN_PER_ENTRY;
	uint32_t qi;

	if (queue != CORE_NONE && !find(c, queue))
		return false;
	qi = queue != CORE_NONE ? c->by_number[queue] : CORE_NONE;
	if (look < SCAN_LEAST)
		look = SCAN_LEAST;
	while (*cursor < c->n_entries) {
		const struct entry *en = &c->entries[*cursor];

		if (look-- == 0 || most == 0)
			return true;
		if (*cursor % CHUNK == 0 && c->chunks[*cursor / CHUNK].used == 0) {
			*cursor += CHUNK;
			continue;
		}
		++*cursor;
		if (!place_counts(en->place) ||
		    (qi != CORE_NONE && redirect_of(c, *cursor - 1) != qi))
			continue;
		most--;
		fn(arg, *cursor - 1);
	}
	return false;
}

void
core_source_view(const struct core *c, const struct core_now *now, uint32_t source_ip,
		 struct core_source_view *out)
{
	const struct source *s;

	CHECK(source_ip < c->n_sources);
	s = &c->sources[source_ip];
	*out = (struct core_source_view){
		.source_ip = source_ip,
		.worker = sources_worker(c, source_ip),
		.connections = s->n_conns,
		.attempted = s->attempted,
		.delivered = s->delivered,
		.msg_rate = meter_minute(&s->msg, now->boot_us),
		.connect_rate = meter_minute(&s->connect, now->boot_us),
	};
}

void
core_totals(const struct core *c, struct core_totals *out)
{
	*out = c->totals;
	out->connections = c->n_conns;
	out->next_lease = c->next_lease;
}

/* Limits ------------------------------------------------------------------------------------- */
static void
describe_group(const struct core *c, const struct group *g, struct core_limit_view *v)
{
	switch ((enum core_scope)g->scope) {
	case CORE_SCOPE_QUEUE_SOURCE:
		v->queue = c->queues[g->number].number;
		v->source_ip = g->source;
		break;
	case CORE_SCOPE_SOURCE:
		v->source_ip = g->source;
		break;
	case CORE_SCOPE_MX_SOURCE:
		v->source_ip = g->source;
		v->id = g->id;
		break;
	case CORE_SCOPE_DESTINATION:
		v->id = g->id;
		break;
	case CORE_SCOPE_ALL:
		break;
	default:
		v->number = g->number;
	}
	if (g->name)
		v->name = slice_str(g->name);
}

static void
describe_limit(struct core *c, const struct core_now *now, struct limit *l,
	       struct core_limit_view *v)
{
	uint64_t when;

	*v = (struct core_limit_view){
		.scope = (enum core_scope)l->scope,
		.measure = (enum core_measure)l->measure,
		.backoff = l->mode == LIMIT_BACKOFF || l->mode == LIMIT_HELD,
		.recover = l->mode == LIMIT_LEARNED,
		.n = l->n,
		.refused = l->refused,
		.waiting = l->line ? c->lines[l->line].n : 0,
		.queue = CORE_NONE,
		.source_ip = CORE_NONE,
		.number = CORE_NONE,
		.name = SLICE_NONE,
	};
	if (l->rate) {
		limits_take_back(l);
		when = rate_when(l->rate, now->boot_us);
		v->window_us = rate_window_us(l->rate);
		v->used = rate_used(l->rate);
		if (when > now->boot_us)
			v->next_room_wall_us = now->wall_us + (when - now->boot_us);
	} else {
		v->used = l->used;
	}
	if (l->scope == CORE_SCOPE_QUEUE)
		v->queue = c->queues[l->owner].number;
	else
		describe_group(c, &c->groups[l->owner], v);
}

/* max-smtp-out of a queue is not in the table. */
static bool
describe_queue_out(const struct core *c, uint32_t qi, struct core_limit_view *v)
{
	const struct queue *q = &c->queues[qi];
	uint64_t n;

	if (!q->active || !q->active->settings)
		return false;
	n = limits_queue_out(c, qi);
	if (n == CONF_UNLIMITED || (q->active->n_conns == 0 && q->refusal != REFUSAL_MAX_SMTP_OUT))
		return false;
	*v = (struct core_limit_view){
		.scope = CORE_SCOPE_QUEUE,
		.measure = CORE_MEASURE_SMTP_OUT,
		.backoff = q->backoff && n != q->active->settings->max_smtp_out,
		.n = n,
		.used = q->active->n_conns,
		.refused = q->active->out_refused,
		.waiting = q->refusal == REFUSAL_MAX_SMTP_OUT,
		.queue = q->number,
		.source_ip = CORE_NONE,
		.number = CORE_NONE,
		.name = SLICE_NONE,
	};
	return true;
}

/* To be seen with its new numbers; and in those it had something would have run out. */
static void
ask_stale(struct core *c, const struct limit *l)
{
	const struct group *g = &c->groups[l->owner];

	if (l->scope == CORE_SCOPE_QUEUE_SOURCE && g->stale)
		(void)limits_group_asked(c, CORE_SCOPE_QUEUE_SOURCE, g->number, g->source);
}

/* The cursor of queues, behind that of the table. */
#define QUEUES_FROM (1u << 31)

bool
core_each_limit(const struct core *core, const struct core_now *now, uint32_t *cursor,
		unsigned most, void (*fn)(void *arg, const struct core_limit_view *v), void *arg)
{
	struct core *c = (struct core *)(uintptr_t)core;
	struct core_limit_view v;

	while (*cursor < QUEUES_FROM) {
		uint32_t i = *cursor;

		if (i >= c->n_limits) {
			*cursor = QUEUES_FROM;
			break;
		}
		++*cursor;
		if (!c->limits[i].made || !limit_is_in_force(&c->limits[i]))
			continue;
		ask_stale(c, &c->limits[i]);
		if (!limit_is_in_force(&c->limits[i]))
			continue;
		describe_limit(c, now, &c->limits[i], &v);
		fn(arg, &v);
		if (--most == 0)
			return true;
	}
	for (unsigned look = SCAN_LEAST; *cursor - QUEUES_FROM < c->n_queues; look--) {
		if (look == 0 || most == 0)
			return true;
		if (!describe_queue_out(c, (*cursor)++ - QUEUES_FROM, &v))
			continue;
		fn(arg, &v);
		most--;
	}
	return false;
}

/* The limit that has room last, of those that refuse; 0: none does. */
struct last {
	uint64_t at; /* boot time */
	uint32_t limit;
};

static void
last_of(struct core *c, const struct core_now *now, const struct charges *set, uint64_t bytes,
	struct last *out)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];
		uint64_t at;

		if (!l->rate || !limit_is_in_force(l) || !limits_in_mode(c, l))
			continue;
		limits_take_back(l);
		at = rate_when_fits(l->rate, now->boot_us,
				    l->measure == CORE_MEASURE_VOLUME ? bytes : 1);
		if (at > now->boot_us && at > out->at)
			*out = (struct last){ at, set->of[k] };
	}
}

/* One of the source IPs will do: of that which has room first. */
static struct last
last_of_sources(struct core *c, const struct core_now *now, uint32_t qi, uint64_t bytes,
		bool connects)
{
	const struct vmta *v = &c->vmtas[c->queues[qi].vmta];
	struct last first = { NEVER, 0 };

	for (uint32_t i = 0; i < v->n_sources && first.at > 0; i++) {
		struct charges set = { .n = 0 };
		struct last one = { 0, 0 };

		if (i == LAST_SOURCES)
			return (struct last){ 0, 0 };
		if (!sources_is_usable(c, qi, v->sources[i]))
			continue;
		admit_message_source(c, qi, v->sources[i], &set);
		if (connects)
			admit_connection_source(c, qi, v->sources[i], &set);
		last_of(c, now, &set, bytes, &one);
		if (one.at < first.at)
			first = one;
	}
	return first.at == NEVER ? (struct last){ 0, 0 } : first;
}

/* What keeps the queue waiting longest. It waits for the first that refused, and for the next one
 * when that has room; who asks wants to know when it sends. */
static struct last
last_to_have_room(struct core *c, const struct core_now *now, uint32_t qi)
{
	struct queue *q = &c->queues[qi];
	uint32_t e = q->ready.head;
	struct charges set = { .n = 0 }, entry = { .n = 0 };
	struct last all = { 0, 0 }, source;
	bool connects = q->active->n_conns == 0;
	uint64_t bytes;

	if (e == CORE_NONE || q->vmta < 0)
		return all;
	bytes = admit_bytes(c, e);
	admit_message(c, qi, &set);
	last_of(c, now, &set, bytes, &all);
	admit_message_entry(c, e, &entry);
	if (connects) {
		charges_none(&set);
		admit_connection(c, qi, &set);
		last_of(c, now, &set, bytes, &all);
		admit_connection_tag(c, &c->tags[c->entries[e].tag], &entry);
	}
	last_of(c, now, &entry, bytes, &all);
	source = last_of_sources(c, now, qi, bytes, connects);
	return source.at > all.at ? source : all;
}

bool
core_blocking_limit(const struct core *core, const struct core_now *now, uint32_t queue,
		    struct core_limit_view *out)
{
	struct core *c = (struct core *)(uintptr_t)core;
	const struct queue *q = find(c, queue);
	struct last last;
	struct limit *l;
	uint64_t at;

	if (!q || q->paused || !q->active)
		return false;
	if (q->refusal == REFUSAL_MAX_SMTP_OUT)
		return describe_queue_out(c, c->by_number[queue], out);
	l = &c->limits[q->active->blocked_by];
	if (q->refusal != REFUSAL_LIMIT || !l->made || !limit_is_in_force(l))
		return false;
	describe_limit(c, now, l, out);
	if (!l->rate)
		return true;
	last = last_to_have_room(c, now, c->by_number[queue]);
	at = now->wall_us + (last.at - now->boot_us);
	if (last.limit == 0 || at <= out->next_room_wall_us)
		return true;
	describe_limit(c, now, &c->limits[last.limit], out);
	out->next_room_wall_us = at;
	return true;
}

/* Back-off ----------------------------------------------------------------------------------- */
static void
describe_backoff(const struct core *c, const struct backoff *b, struct core_backoff_view *out)
{
	struct core *mine = (struct core *)(uintptr_t)c;
	uint64_t left;
	struct conf_rate r;

	*out = (struct core_backoff_view){
		.source_ip = b->source,
		.since_wall_us = b->since_wall,
		.until_wall_us = b->until_wall,
		.ended_wall_us = b->over ? b->ended_wall : 0,
		.after_delivery = b->after_delivery,
		.before_mps = b->before_mps,
		.automatic = backoff_is_automatic(b),
	};
	r = backoff_allowed(mine, b, &left);
	out->rate_mps = recover_mps_of(&r);
	/* While it waits it allows nothing, which is no rate that somebody may begin with again. */
	if (out->automatic)
		out->rate_mps = b->learned.waits ? b->learned.low_mps : b->learned.rate_mps;
}

bool
core_backoff_view(const struct core *c, uint32_t queue, uint32_t source_ip,
		  struct core_backoff_view *out)
{
	uint32_t qi = queue_index(c, queue),
		 i = qi == CORE_NONE ? CORE_NONE : backoff_find(c, qi, source_ip);

	if (i == CORE_NONE)
		return false;
	describe_backoff(c, &c->backoffs[i], out);
	return true;
}
