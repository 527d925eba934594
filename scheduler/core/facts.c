/* facts: what the core is told about queues, entries and routes. */
#include <limits.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/conns.h"
#include "scheduler/core/entries.h"
#include "scheduler/core/grants.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/redirect.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"
#include "scheduler/core/targets.h"

/* Queues ------------------------------------------------------------------------------------- */
void
core_queue_add(struct core *c, uint32_t queue, struct slice name)
{
	struct queue *q;

	if (queue_index(c, queue) != CORE_NONE)
		return;
	CHECK(queue < CORE_NONE && name.n <= UINT16_MAX);
	if (queue >= c->n_numbers) {
		size_t old = c->n_numbers;

		mem_grow((void **)&c->by_number, &c->n_numbers, (size_t)queue + 1,
			 sizeof(*c->by_number));
		for (size_t i = old; i < c->n_numbers; i++)
			c->by_number[i] = CORE_NONE;
	}
	mem_grow((void **)&c->queues, &c->queues_cap, (size_t)c->n_queues + 1, sizeof(*c->queues));
	c->by_number[queue] = c->n_queues;
	q = &c->queues[c->n_queues++];
	*q = (struct queue){
		.name = mem_memdup0(name.p, name.n),
		.name_len = (uint16_t)name.n,
		.number = queue,
		.heap_pos = UINT32_MAX,
		.ready = { CORE_NONE, CORE_NONE },
		.lanes = { { CORE_NONE, CORE_NONE }, { CORE_NONE, CORE_NONE } },
		.oldest = UINT32_MAX,
		.scan_oldest = UINT32_MAX,
		.scan_cursor = CORE_NONE,
		.vmta = sources_vmta(c, name),
		.wait = CORE_WAIT_EMPTY,
		.modes = c->modes,
		.line_next = CORE_NONE,
		.line_prev = CORE_NONE,
	};
}

void
core_queue_restore(struct core *c, uint32_t queue, bool paused, unsigned retry_level,
		   uint64_t retry_at_wall_us, struct slice last_error)
{
	uint32_t qi = queue_index(c, queue);
	struct queue *q;

	CHECK(qi != CORE_NONE);
	q = &c->queues[qi];
	q->paused = paused;
	q->retry_level =
		(uint8_t)(retry_level < RETRY_STEPS_MAX ? retry_level : RETRY_STEPS_MAX - 1);
	q->retry_at = retry_at_wall_us;
	q->retry_is_wall = retry_at_wall_us > 0;
	pump_last_error(c, qi, last_error);
	run_push(c, qi);
}

void
core_charge(struct core *c, const struct core_now *now, uint32_t queue, uint64_t stamp_boot_us,
	    uint32_t rcpts, uint32_t connects)
{
	uint32_t qi = queue_index(c, queue);
	struct charges set = { .n = 0 };

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	pump_settings(c, qi);
	if (stamp_boot_us > now->boot_us)
		stamp_boot_us = now->boot_us;
	charges_add_queue(c, &set, qi, CORE_MEASURE_MSG);
	charges_add_queue(c, &set, qi, CORE_MEASURE_CONNECT);
	limits_past(c, &set, now->boot_us - stamp_boot_us, rcpts, connects, 0);
	run_push(c, qi);
}

void
core_charge_event(struct core *c, const struct core_now *now, const struct core_past *p)
{
	uint32_t qi = p->queue != CORE_NONE ? queue_index(c, p->queue) : CORE_NONE;
	struct charges set = { .n = 0 };

	core_clock(c, now);
	if (qi != CORE_NONE)
		pump_settings(c, qi);
	admit_past(c, qi, p, &set);
	limits_past(c, &set, p->age_us, p->rcpts, p->connects, p->bytes);
	if (qi != CORE_NONE)
		run_push(c, qi);
}

void
core_settings_changed(struct core *c, const struct core_now *now)
{
	core_clock(c, now);
	c->lowest_priority = UINT_MAX;
	limits_ask_again(c);
	for (uint32_t i = 0; i < c->n_queues; i++) {
		if (!c->queues[i].active)
			continue;
		c->queues[i].active->settings = NULL;
		run_push(c, i);
	}
	conns_recount(c);
}

void
core_limits_changed(struct core *c, const struct core_now *now, enum core_scope scope,
		    uint32_t number)
{
	uint32_t qi = queue_index(c, number);

	core_clock(c, now);
	if (scope == CORE_SCOPE_QUEUE || scope == CORE_SCOPE_QUEUE_SOURCE) {
		if (qi == CORE_NONE || !c->queues[qi].active)
			return;
		limits_ask_again_queue(c, qi);
		c->queues[qi].active->settings = NULL;
		pump_settings(c, qi);
		run_push(c, qi);
	} else {
		limits_ask_again_scope(c, scope, number);
	}
	conns_recount(c);
}

/* Providers ------------------------------------------------------------------------------------ */
static void
leave_provider(struct core *c, struct active *a)
{
	uint64_t until = c->now.boot_us + limits_group_longest(c, a->provider);
	struct old_provider *o;

	if (a->provider == 0)
		return;
	if (!a->old_providers)
		a->old_providers = mem_calloc(OLD_PROVIDERS, sizeof(*a->old_providers));
	o = &a->old_providers[0];
	for (unsigned i = 1; i < OLD_PROVIDERS && o->group; i++) {
		if (!a->old_providers[i].group || a->old_providers[i].until < o->until)
			o = &a->old_providers[i];
	}
	limits_group_drop(c, o->group);
	*o = (struct old_provider){ a->provider, until };
	a->provider = 0;
}

void
core_route_provider(struct core *c, const struct core_now *now, uint32_t queue, uint32_t provider,
		    struct slice name)
{
	uint32_t qi = queue_index(c, queue), group = 0;
	struct active *a;

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	a = pump_active(c, qi);
	if (provider != CORE_NONE)
		group = limits_group_provider(c, provider, name);
	if (group == a->provider)
		return;
	leave_provider(c, a);
	passes_forget_queue(c, qi);
	for (unsigned i = 0; a->old_providers && i < OLD_PROVIDERS; i++) {
		if (group && a->old_providers[i].group == group) {
			limits_group_drop(c, group);
			a->old_providers[i].group = 0;
		}
	}
	a->provider = group;
	if (group)
		c->groups[group].users++;
	run_push(c, qi);
}

/* Entries ------------------------------------------------------------------------------------ */
/* One more entry of this job and sender domain. */
static uint32_t
tag_of(struct core *c, uint32_t job, uint32_t sender_domain)
{
	uint64_t key = (uint64_t)job << 32 | sender_domain, tag = map_get(&c->tags_map, key);

	if (tag == MAP_NONE) {
		/* They may have been other names' numbers before. */
		limits_stale(c, CORE_SCOPE_JOB, job);
		limits_stale(c, CORE_SCOPE_SENDER, sender_domain);
		tag = c->free_tag;
		if (tag != CORE_NONE) {
			c->free_tag = c->tags[tag].job;
		} else {
			mem_grow((void **)&c->tags, &c->tags_cap, (size_t)c->n_tags + 1,
				 sizeof(*c->tags));
			tag = c->n_tags++;
		}
		c->tags[tag] = (struct core_tag){ .job = job, .sender_domain = sender_domain };
		map_put(&c->tags_map, key, tag);
		if (c->ops.tag)
			c->ops.tag(c->ctx, job, sender_domain, true);
	}
	c->tags[tag].n++;
	return (uint32_t)tag;
}

static void
note_epoch(struct core *c, uint32_t segment, uint64_t epoch)
{
	size_t old = c->n_epochs;

	CHECK(segment < 1u << 22);
	mem_grow((void **)&c->epochs, &c->n_epochs, (size_t)segment + 1, sizeof(*c->epochs));
	for (size_t i = old; i < c->n_epochs; i++)
		c->epochs[i] = 0;
	c->epochs[segment] = epoch;
}

/* Core seconds, rounded up, of a wall second by the present clocks; later steps of the wall clock
 * change nothing. Within a third of what 32 bits hold. */
static uint32_t
seconds_of_wall(const struct core *c, uint32_t wall_s)
{
	int64_t us = (int64_t)wall_s * (int64_t)SECOND_US - (int64_t)c->now.wall_us +
		     (int64_t)c->now.boot_us;
	int64_t s = (us + (int64_t)SECOND_US * CORE_SECONDS_BASE + (int64_t)SECOND_US - 1) /
		    (int64_t)SECOND_US;

	if (s < 1)
		return 1;
	return s > (int64_t)CORE_SECONDS_BASE * 2 ? CORE_SECONDS_BASE * 2 : (uint32_t)s;
}

/* The way back, rounded down: what came in as a wall second comes out as the same. */
static uint32_t
wall_of_seconds(const struct core *c, uint32_t s)
{
	int64_t us = ((int64_t)s - (int64_t)CORE_SECONDS_BASE) * (int64_t)SECOND_US +
		     (int64_t)c->now.wall_us - (int64_t)c->now.boot_us;

	return us < 0 ? 0 : (uint32_t)(us / (int64_t)SECOND_US);
}

static void
new_mail(struct core *c, uint32_t qi)
{
	struct queue *q = &c->queues[qi];

	if (c->started && q->retry_at && !q->retry_is_dns &&
	    pump_settings(c, qi)->retry_upon_new_mail) {
		q->retry_at = 0;
		c->ops.queue_changed(c->ctx, q->number);
	}
	run_push(c, qi);
}

/* Retries that came due while nobody ran do not all leave at once. */
static uint32_t
overdue_spread(const struct queue *q)
{
	uint32_t s = (q->n[PLACE_READY] + q->n[PLACE_DEFERRED]) / OVERDUE_PER_SECOND;

	return s < OVERDUE_SPREAD_S ? s : s % OVERDUE_SPREAD_S;
}

uint32_t
core_entry_add(struct core *c, const struct core_now *now, const struct core_entry_facts *f)
{
	uint32_t e, qi = queue_index(c, f->queue), now_s;
	struct entry *en;

	core_clock(c, now);
	CHECK(qi != CORE_NONE && f->n_rcpts > 0 && f->n_rcpts <= ENTRY_RCPT_MAX);
	CHECK(f->key.message < 1ull << 48 && f->first_rcpt < 1u << 14);
	note_epoch(c, f->segment, f->epoch);
	e = entries_new(c);
	en = &c->entries[e];
	now_s = seconds_of(c->now.boot_us);
	en->message = f->key.message & 0xffffffffffffull;
	en->ordinal = f->key.ordinal;
	en->queue = qi;
	en->received = seconds_of_wall(c, f->received_s);
	if (en->received > now_s)
		en->received = now_s; /* what comes from the future is new */
	en->tag = tag_of(c, f->job, f->sender_domain);
	en->offset16 = f->offset16;
	en->segment = f->segment & 0x3fffff;
	en->n_rcpts = f->n_rcpts & 0x3ff;
	en->first_rcpt = f->first_rcpt & 0x3fff;
	en->attempts = f->attempts;
	en->kbytes = (f->kbytes < 0x7ffff ? f->kbytes : 0x7ffff) & 0x7ffff;
	en->row_flags = f->row_flags;
	entries_set_done(c, e, f->done);
	if (!f->committed) {
		en->due = f->due_s ? seconds_of_wall(c, f->due_s) : 0;
		entries_move(c, e, PLACE_HELD);
		run_touch(c, qi);
		return e;
	}
	en->due = f->due_s ? seconds_of_wall(c, f->due_s) : 0;
	if (!c->started && en->due > 0 && en->due <= now_s && en->attempts > 0)
		en->due = now_s + overdue_spread(&c->queues[qi]);
	if (en->due > now_s)
		entries_defer(c, e, en->due);
	else
		entries_ready(c, e, false);
	new_mail(c, qi);
	return e;
}

static struct entry *
known(struct core *c, uint32_t entry)
{
	CHECK(entry < c->n_entries && c->entries[entry].place != PLACE_FREE);
	return &c->entries[entry];
}

void
core_entry_committed(struct core *c, const struct core_now *now, uint32_t entry)
{
	struct entry *en = known(c, entry);

	core_clock(c, now);
	if (en->place != PLACE_HELD)
		return;
	if (en->due > seconds_of(c->now.boot_us))
		entries_defer(c, entry, en->due);
	else
		entries_ready(c, entry, false);
	new_mail(c, en->queue);
}

void
core_entry_gone(struct core *c, const struct core_now *now, uint32_t entry)
{
	struct entry *en = known(c, entry);

	core_clock(c, now);
	CHECK(en->place != PLACE_CLAIMED);
	if (en->place != PLACE_LEAVING)
		entries_move(c, entry, PLACE_LEAVING);
	run_push(c, en->queue);
	entries_free(c, entry);
}

bool
core_entry_move(struct core *c, uint32_t entry, uint32_t segment, uint32_t offset16, uint64_t epoch)
{
	struct entry *en = known(c, entry);

	if (en->place != PLACE_READY && en->place != PLACE_DEFERRED)
		return false;
	note_epoch(c, segment, epoch);
	en->segment = segment & 0x3fffff;
	en->offset16 = offset16;
	return true;
}

bool
core_entry_withdraw(struct core *c, const struct core_now *now, uint32_t entry)
{
	struct entry *en = known(c, entry);

	core_clock(c, now);
	if (en->place == PLACE_CLAIMED || en->place == PLACE_LEAVING)
		return false;
	entries_move(c, entry, PLACE_LEAVING);
	run_push(c, en->queue);
	return true;
}

bool
core_entry_is(const struct core *c, uint32_t entry, struct entry_key key)
{
	const struct entry *en;

	if (entry >= c->n_entries || c->entries[entry].place == PLACE_FREE)
		return false;
	en = &c->entries[entry];
	return en->message == key.message && en->ordinal == key.ordinal;
}

bool
core_entry_is_claimed(const struct core *c, uint32_t entry)
{
	return entry < c->n_entries && c->entries[entry].place == PLACE_CLAIMED;
}

const uint8_t *
core_claim_bits(const struct core *c, uint32_t entry)
{
	return core_entry_is_claimed(c, entry) ? c->claims[c->entries[entry].next].bits : NULL;
}

void
core_entry_get(const struct core *c, uint32_t entry, struct core_entry_facts *out)
{
	const struct entry *en;
	bool waits;

	CHECK(entry < c->n_entries && c->entries[entry].place != PLACE_FREE);
	en = &c->entries[entry];
	waits = en->due > 0 && (en->place == PLACE_DEFERRED || en->place == PLACE_HELD);
	*out = (struct core_entry_facts){
		.key = { .message = en->message, .ordinal = (uint16_t)en->ordinal },
		.queue = c->queues[redirect_of(c, entry)].number,
		.sent_by = c->queues[en->queue].number,
		.segment = en->segment,
		.offset16 = en->offset16,
		.epoch = c->epochs[en->segment],
		.received_s = wall_of_seconds(c, en->received),
		.due_s = waits ? wall_of_seconds(c, en->due) : 0,
		.first_rcpt = en->first_rcpt,
		.n_rcpts = (uint16_t)en->n_rcpts,
		.attempts = (uint16_t)en->attempts,
		.kbytes = en->kbytes,
		.job = c->tags[en->tag].job,
		.sender_domain = c->tags[en->tag].sender_domain,
		.row_flags = (uint8_t)en->row_flags,
		.done = entries_done((struct core *)(uintptr_t)c, entry),
		.committed = en->place != PLACE_HELD,
	};
}

/* Routes ------------------------------------------------------------------------------------- */
static void
set_targets(struct active *a, const struct core_target *t, uint16_t n)
{
	uint64_t failed = 0, refused = 0, denied = 0;

	/* What failed in this round stays failed where it can be recognised. */
	for (unsigned i = 0; i < n && i < 64; i++) {
		for (unsigned k = 0; t[i].id && k < a->n_targets && k < 64; k++) {
			if (a->targets[k].id != t[i].id)
				continue;
			failed |= (a->failed >> k & 1) << i;
			refused |= (a->refused >> k & 1) << i;
			denied |= (a->denied >> k & 1) << i;
		}
	}
	a->failed = failed;
	a->refused = refused;
	a->denied = denied;
	mem_free(a->targets);
	a->targets = mem_calloc(n, sizeof(*a->targets));
	for (unsigned i = 0; i < n; i++)
		a->targets[i] = t[i];
	mem_free(a->target_limits);
	a->target_limits = NULL;
	a->n_targets = n;
	a->turn = (uint16_t)(n - 1u);
}

void
core_route_targets(struct core *c, uint32_t queue, const struct core_target *targets, uint16_t n)
{
	uint32_t qi = queue_index(c, queue);
	struct active *a;

	if (qi == CORE_NONE || n == 0 || n > ROUTE_TARGETS_MAX)
		return;
	a = pump_active(c, qi);
	set_targets(a, targets, n);
	a->targets_fresh = true;
}

void
core_route_target_limits(struct core *c, uint32_t queue, const struct core_target_limits *limits,
			 uint16_t n)
{
	uint32_t qi = queue_index(c, queue);
	struct active *a;
	bool any = false;

	if (qi == CORE_NONE)
		return;
	a = pump_active(c, qi);
	if (n == 0 || n != a->n_targets)
		return;
	for (unsigned i = 0; i < n; i++)
		any = any || limits[i].mx_limit || limits[i].ip_limit;
	mem_free(a->target_limits);
	a->target_limits = NULL;
	if (!any)
		return;
	a->target_limits = mem_calloc(n, sizeof(*limits));
	memcpy(a->target_limits, limits, n * sizeof(*limits));
}

/* The question is answered: another may be asked. */
static void
answered(struct core *c, struct active *a)
{
	if (!a->asked_at)
		return;
	a->asked_at = 0;
	c->n_asks--;
	lines_poke(c, c->asks_line);
}

void
core_route_elsewhere(struct core *c, const struct core_now *now, uint32_t queue)
{
	uint32_t qi = queue_index(c, queue);

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	answered(c, pump_active(c, qi));
	run_push(c, qi);
}

static void
good_route(struct core *c, uint32_t qi, uint32_t slot, uint64_t generation, uint16_t n,
	   uint64_t expires)
{
	struct active *a = pump_active(c, qi);
	struct core_target plain[ROUTE_TARGETS_MAX];

	if (!a->targets_fresh || a->n_targets != n) {
		for (unsigned i = 0; i < n; i++)
			plain[i] = (struct core_target){ 0, (uint16_t)i, (uint16_t)i };
		set_targets(a, plain, n);
	}
	a->targets_fresh = false;
	a->dead_until = 0;
	a->route_slot = slot;
	a->route_generation = generation;
	/* However short-lived it is, it serves for a moment: else it would be asked for without
	 * end. */
	a->route_expires =
		expires > c->now.boot_us + SECOND_US ? expires : c->now.boot_us + SECOND_US;
}

/* Mail that comes until the answer has expired meets the same fate without a question. */
static void
dead_route(struct core *c, uint32_t qi, uint64_t expires, const char *text)
{
	uint64_t now = c->now.boot_us;

	if (expires < now + DEAD_LEAST_US)
		expires = now + DEAD_LEAST_US;
	pump_active(c, qi)->dead_until =
		expires < now + DEAD_MOST_US ? expires : now + DEAD_MOST_US;
	targets_doom(c, qi, CORE_NO_ROUTE, text ? text : "");
}

void
core_route(struct core *c, const struct core_now *now, uint32_t queue, unsigned route_status,
	   uint32_t slot, uint64_t generation, uint16_t n_targets, uint64_t expires_boot_us,
	   const char *text)
{
	uint32_t qi = queue_index(c, queue);
	struct active *a;

	core_clock(c, now);
	if (qi == CORE_NONE)
		return;
	a = pump_active(c, qi);
	answered(c, a);
	if (route_status == CORE_ROUTE_GOOD && generation != 0 && n_targets > 0 &&
	    n_targets <= ROUTE_TARGETS_MAX) {
		good_route(c, qi, slot, generation, n_targets, expires_boot_us);
		run_push(c, qi);
		return;
	}
	pump_last_error(c, qi, slice_str(text));
	targets_forget(a);
	switch (route_status) {
	case CORE_ROUTE_NO_DOMAIN:
	case CORE_ROUTE_NO_MX:
	case CORE_ROUTE_NULL_MX:
	case CORE_ROUTE_LOOP:
		dead_route(c, qi, expires_boot_us, text);
		break;
	case CORE_ROUTE_UNUSABLE:
		if (c->queues[qi].retry_at <= now->boot_us)
			targets_retry(c, qi, 0);
		break;
	default:
		if (c->queues[qi].retry_at <= now->boot_us)
			targets_retry(c, qi,
				      pump_settings(c, qi)->retry_after_dns_error_us
					      ? pump_settings(c, qi)->retry_after_dns_error_us
					      : 60 * SECOND_US);
	}
}

void
core_resolver_up(struct core *c, const struct core_now *now)
{
	core_clock(c, now);
	for (uint32_t i = 0; i < c->n_queues; i++) {
		struct active *a = c->queues[i].active;

		if (!a || !a->asked_at)
			continue;
		a->asked_at = 0;
		c->n_asks--;
		run_push(c, i);
	}
	lines_poke(c, c->asks_line);
}
