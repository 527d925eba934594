#include "scheduler/core/limits_impl.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/sources.h"

/* For each new group so many are looked at whether they are still in use; so many at one go. */
#define SWEEP_PER_GROUP 3
#define SWEEP_AT_ONCE   256

/* What the configuration says ---------------------------------------------------------------- */
static const struct conf_rate *
rate_of(const struct conf_limits *l, enum core_measure m)
{
	switch (m) {
	case CORE_MEASURE_MSG:
		return &l->max_msg_rate;
	case CORE_MEASURE_CONNECT:
		return &l->max_connect_rate;
	case CORE_MEASURE_VOLUME:
		return &l->max_data_volume_rate;
	default:
		return NULL;
	}
}

static uint64_t
rate_n(const struct conf_rate *r)
{
	return r->window_us ? r->n : 0;
}

static uint64_t
out_n(uint64_t max_smtp_out)
{
	return max_smtp_out == CONF_UNLIMITED ? 0 : max_smtp_out;
}

void
limits_group_set(struct core *c, uint32_t group, const struct conf_limits *l)
{
	enum core_scope scope = (enum core_scope)c->groups[group].scope;

	for (unsigned m = 0; m < CORE_MEASURE_SMTP_OUT; m++) {
		const struct conf_rate *r = rate_of(l, (enum core_measure)m);

		limits_set_one(c, &c->groups[group].bounds.of[m], scope, (enum core_measure)m,
			       LIMIT_ALWAYS, group, rate_n(r), r->window_us);
	}
	limits_set_one(c, &c->groups[group].bounds.of[CORE_MEASURE_SMTP_OUT], scope,
		       CORE_MEASURE_SMTP_OUT, LIMIT_ALWAYS, group, out_n(l->max_smtp_out), 0);
	c->groups[group].stale = false;
}

/* Queues ------------------------------------------------------------------------------------- */
/* A twin that is new has what the other one was charged: it is one counter with two Ns. */
static void
inherit(struct core *c, uint32_t twin, uint32_t own)
{
	struct limit *l = &c->limits[twin];

	if (!twin || !own || l->found)
		return;
	/* What was charged ahead to the one is not yet charged to the other. */
	limits_take_back(&c->limits[own]);
	limits_not_sure(c, l);
	/* More than its N, which may be a higher one tomorrow. */
	if (rate_needs_wide(c->limits[own].rate, l->n, rate_window_us(l->rate), c->now.boot_us))
		limits_keep_all(c, l);
	rate_move(l->rate, c->limits[own].rate, c->now.boot_us);
}

void
limits_queue_set(struct core *c, uint32_t qi)
{
	struct active *a = c->queues[qi].active;
	const struct conf_queue *s = a->settings;
	const struct conf_limits normal = {
		.max_msg_rate = s->max_msg_rate,
		.max_connect_rate = s->max_connect_rate,
		.max_data_volume_rate = s->max_data_volume_rate,
	};

	for (unsigned m = 0; m < CORE_MEASURE_SMTP_OUT; m++) {
		const struct conf_rate *r = rate_of(&normal, (enum core_measure)m);
		const struct conf_rate *b = rate_of(&s->backoff, (enum core_measure)m);
		uint64_t n = rate_n(r), twin = rate_n(b);
		uint32_t was;
		bool same = twin == 0 || (twin == n && b->window_us == r->window_us);

		limits_set_one(c, &a->own.of[m], CORE_SCOPE_QUEUE, (enum core_measure)m,
			       same ? LIMIT_ALWAYS : LIMIT_NORMAL, qi, n, r->window_us);
		was = a->backoff.of[m];
		limits_set_one(c, &a->backoff.of[m], CORE_SCOPE_QUEUE, (enum core_measure)m,
			       LIMIT_BACKOFF, qi, same ? 0 : twin, b->window_us);
		if (!was)
			inherit(c, a->backoff.of[m], a->own.of[m]);
	}
	backoff_settings(c, qi);
}

void
limits_queue_learned(struct core *c, uint32_t qi, const struct conf_rate *r)
{
	struct active *a = c->queues[qi].active;
	uint32_t was = a->learned;

	limits_set_one(c, &a->learned, CORE_SCOPE_QUEUE, CORE_MEASURE_MSG, LIMIT_LEARNED, qi,
		       rate_n(r), r->window_us);
	if (!was)
		inherit(c, a->learned, a->own.of[CORE_MEASURE_MSG]);
}

void
limits_queue_clear(struct core *c, struct active *a)
{
	for (unsigned m = 0; m < CORE_MEASURE_SMTP_OUT; m++) {
		limits_disown(c, &a->own.of[m]);
		limits_disown(c, &a->backoff.of[m]);
	}
	limits_disown(c, &a->learned);
}

uint64_t
limits_queue_out(const struct core *c, uint32_t qi)
{
	const struct queue *q = &c->queues[qi];
	const struct conf_queue *s = q->active->settings;
	uint64_t n = s->max_smtp_out, twin = s->backoff.max_smtp_out;

	if (q->backoff && twin > 0)
		n = twin;
	if (q->active->most_conns && q->active->most_until > c->now.boot_us &&
	    (n == 0 || q->active->most_conns < n))
		n = q->active->most_conns;
	return n ? n : CONF_UNLIMITED;
}

/* Groups ------------------------------------------------------------------------------------- */
static bool
limit_is_idle(struct core *c, uint32_t i)
{
	struct limit *l = &c->limits[i];

	if (i == 0)
		return true;
	if (l->refs > 0 || l->line || l->used > 0)
		return false;
	if (limit_is_count(l))
		return true;
	limits_take_back(l);
	rate_room(l->rate, c->now.boot_us);
	return rate_used(l->rate) == 0;
}

/* The number of a job or sender domain goes on meaning the same while it has limits (`used`). */
static void
tag_group(struct core *c, struct group *g, bool used)
{
	if (g->tagged == used)
		return;
	g->tagged = used;
	if (c->ops.tag)
		c->ops.tag(c->ctx, g->scope == CORE_SCOPE_JOB ? g->number : 0,
			   g->scope == CORE_SCOPE_SENDER ? g->number : 0, used);
}

static void
group_free(struct core *c, uint32_t i)
{
	struct group *g = &c->groups[i];

	tag_group(c, g, false);

	for (unsigned m = 0; m < MEASURES; m++) {
		limits_disown(c, &g->bounds.of[m]);
		limits_disown(c, &g->backoff.of[m]);
		limits_disown(c, &g->held.of[m]);
	}
	map_take(&c->group_map, g->key);
	mem_free(g->name);
	g->name = NULL;
	g->made = false;
	g->users = c->free_group;
	c->free_group = i;
}

void
limits_sweep(struct core *c)
{
	limits_sweep_off(c);
	passes_age(c);
	for (unsigned i = 0; i < SWEEP_AT_ONCE && c->sweep_due > 0; i++, c->sweep_due--) {
		struct group *g;
		bool idle = true;

		c->group_hand = c->group_hand + 1 < c->n_groups ? c->group_hand + 1 : 1;
		g = &c->groups[c->group_hand];
		if (!g->made || g->users > 0)
			continue;
		/* What counts in the window that it was given since. */
		if (g->stale && g->scope == CORE_SCOPE_QUEUE_SOURCE)
			limits_group_asked(c, CORE_SCOPE_QUEUE_SOURCE, g->number, g->source);
		for (unsigned m = 0; m < MEASURES; m++)
			idle = idle && limit_is_idle(c, g->bounds.of[m]) &&
			       limit_is_idle(c, g->backoff.of[m]) &&
			       limit_is_idle(c, g->held.of[m]);
		if (idle)
			group_free(c, c->group_hand);
	}
}

uint32_t
limits_group(struct core *c, enum core_scope scope, uint64_t id, uint32_t source)
{
	uint64_t key = limits_group_key(scope, id, source), found = map_get(&c->group_map, key);
	uint32_t i;

	if (found != MAP_NONE)
		return (uint32_t)found;
	c->sweep_due += SWEEP_PER_GROUP;
	i = c->free_group;
	if (i) {
		c->free_group = c->groups[i].users;
	} else {
		i = c->n_groups++;
		mem_grow((void **)&c->groups, &c->groups_cap, (size_t)i + 1, sizeof(*c->groups));
	}
	c->groups[i] = (struct group){
		.key = key,
		.id = id,
		.number = (uint32_t)id,
		.source = source,
		.scope = (uint8_t)scope,
		.made = true,
		.stale = true,
	};
	map_put(&c->group_map, key, i);
	return i;
}

static bool
has_limits(const struct conf_limits *l)
{
	for (unsigned m = 0; m < CORE_MEASURE_SMTP_OUT; m++) {
		if (rate_n(rate_of(l, (enum core_measure)m)) > 0)
			return true;
	}
	return out_n(l->max_smtp_out) > 0;
}

/* A job or a sender domain with limits: they are kept by its name. */
static void
name_tag_group(struct core *c, uint32_t group)
{
	struct group *g = &c->groups[group];
	struct slice name = SLICE_NONE;

	if (c->ops.scope_name)
		name = c->ops.scope_name(c->ctx, (enum core_scope)g->scope, g->number);
	if (g->name && !slice_eq(slice_str(g->name), name)) {
		for (unsigned m = 0; m < MEASURES; m++) /* another's number before */
			limits_disown(c, &g->bounds.of[m]);
	}
	if (name.n > 0)
		limits_group_name(c, group, name);
	tag_group(c, g, true);
}

/* Of these two rates, which are charged alike, the one or the other holds by mode. */
static void
set_twins(struct core *c, uint32_t group, enum core_measure m, const struct conf_rate *normal,
	  const struct conf_rate *backoff)
{
	struct group *g = &c->groups[group];
	bool same = rate_n(backoff) == 0 ||
		    (rate_n(backoff) == rate_n(normal) && backoff->window_us == normal->window_us);
	uint32_t was = g->backoff.of[m];

	limits_set_one(c, &g->bounds.of[m], CORE_SCOPE_QUEUE_SOURCE, m,
		       same ? LIMIT_ALWAYS : LIMIT_NORMAL, group, rate_n(normal),
		       normal->window_us);
	limits_set_one(c, &g->backoff.of[m], CORE_SCOPE_QUEUE_SOURCE, m, LIMIT_BACKOFF, group,
		       same ? 0 : rate_n(backoff), backoff->window_us);
	if (!was)
		inherit(c, g->backoff.of[m], g->bounds.of[m]);
}

/* Those of a queue for a source IP: as they are configured, and the queue's own while it is in
 * back-off for that source IP. */
static void
ask_queue_source(struct core *c, uint32_t group)
{
	struct group *g = &c->groups[group];
	uint32_t qi = g->number;
	const struct conf_queue *s = pump_settings(c, qi);
	const struct queue *q = &c->queues[qi];
	struct conf_limits normal = { 0 }, backoff = { 0 }, held = { 0 };
	bool is_held = backoff_is_at(c, qi, g->source);
	uint64_t out;

	if (c->ops.source_limits && s->source_limits) {
		struct slice name = slice_of(q->name, q->name_len);

		c->ops.source_limits(c->ctx, q->number, name, g->source, false, &normal);
		c->ops.source_limits(c->ctx, q->number, name, g->source, true, &backoff);
	}
	if (is_held)
		held = s->backoff;
	for (unsigned i = 0; i < CORE_MEASURE_SMTP_OUT; i++) {
		enum core_measure m = (enum core_measure)i;
		const struct conf_rate *h = rate_of(&held, m);

		set_twins(c, group, m, rate_of(&normal, m), rate_of(&backoff, m));
		limits_set_one(c, &g->held.of[m], CORE_SCOPE_QUEUE_SOURCE, m, LIMIT_HELD, group,
			       rate_n(h), h->window_us);
	}
	out = out_n(q->backoff || is_held ? backoff.max_smtp_out : normal.max_smtp_out);
	if (out_n(held.max_smtp_out) > 0 && (out == 0 || held.max_smtp_out < out))
		out = held.max_smtp_out;
	limits_set_one(c, &g->bounds.of[CORE_MEASURE_SMTP_OUT], CORE_SCOPE_QUEUE_SOURCE,
		       CORE_MEASURE_SMTP_OUT, LIMIT_ALWAYS, group, out, 0);
	g->stale = false;
}

static void
ask_driver(struct core *c, uint32_t group)
{
	struct conf_limits l = { 0 }, said;
	struct group *g = &c->groups[group];
	enum core_scope scope = (enum core_scope)g->scope;

	if (scope == CORE_SCOPE_QUEUE_SOURCE) {
		ask_queue_source(c, group);
		return;
	}
	if (scope == CORE_SCOPE_SOURCE) {
		l = c->sources[g->source].limits;
	} else if (scope == CORE_SCOPE_VMTA) {
		l = c->vmtas[g->number].limits;
	}
	said = l;
	if (c->ops.scope_limits && c->ops.scope_limits(c->ctx, scope, g->number, &said))
		l = said;
	if ((scope == CORE_SCOPE_JOB || scope == CORE_SCOPE_SENDER) && has_limits(&l))
		name_tag_group(c, group);
	limits_group_set(c, group, &l);
}

uint32_t
limits_group_asked(struct core *c, enum core_scope scope, uint32_t number, uint32_t source)
{
	uint32_t i = limits_group(c, scope, number, source);

	if (c->groups[i].stale)
		ask_driver(c, i);
	return i;
}

void
limits_stale(struct core *c, enum core_scope scope, uint32_t number)
{
	uint64_t found = map_get(&c->group_map, limits_group_key(scope, number, 0));

	if (found != MAP_NONE)
		c->groups[found].stale = true;
}

void
limits_stale_source(struct core *c, uint32_t qi, uint32_t source)
{
	uint64_t found =
		map_get(&c->group_map, limits_group_key(CORE_SCOPE_QUEUE_SOURCE, qi, source));

	passes_forget_queue(c, qi);
	if (found != MAP_NONE)
		c->groups[found].stale = true;
}

void
limits_group_name(struct core *c, uint32_t group, struct slice name)
{
	struct group *g = &c->groups[group];

	if (g->name && slice_eq(slice_str(g->name), name))
		return;
	mem_free(g->name);
	g->name = mem_memdup0(name.p, name.n);
}

uint32_t
limits_group_provider(struct core *c, uint32_t number, struct slice name)
{
	uint32_t group = limits_group(c, CORE_SCOPE_PROVIDER, number, 0);

	limits_group_name(c, group, name);
	return limits_group_asked(c, CORE_SCOPE_PROVIDER, number, 0);
}

void
limits_group_drop(struct core *c, uint32_t group)
{
	if (group == 0)
		return;
	CHECK(c->groups[group].users > 0);
	c->groups[group].users--;
}

void
limits_ask_again(struct core *c)
{
	passes_void(c);
	for (uint32_t i = 1; i < c->n_groups; i++) {
		struct group *g = &c->groups[i];

		if (!g->made || g->scope == CORE_SCOPE_MX_SOURCE ||
		    g->scope == CORE_SCOPE_DESTINATION || g->scope == CORE_SCOPE_ALL)
			continue;
		/* Of queue x source there may be very many: each at its next use. */
		if (g->scope == CORE_SCOPE_QUEUE_SOURCE)
			g->stale = true;
		else
			ask_driver(c, i);
	}
}

void
limits_ask_again_scope(struct core *c, enum core_scope scope, uint32_t number)
{
	for (uint32_t i = 1; i < c->n_groups; i++) {
		struct group *g = &c->groups[i];

		if (!g->made || g->scope != scope || (number != CORE_NONE && g->number != number))
			continue;
		ask_driver(c, i);
		if (scope == CORE_SCOPE_SOURCE)
			sources_poke(c, g->source);
	}
}

void
limits_ask_again_queue(struct core *c, uint32_t qi)
{
	passes_forget_queue(c, qi);
	for (uint32_t i = 1; i < c->n_groups; i++) {
		struct group *g = &c->groups[i];

		if (g->made && g->scope == CORE_SCOPE_QUEUE_SOURCE && g->number == qi)
			g->stale = true;
	}
}

uint64_t
limits_group_longest(const struct core *c, uint32_t group)
{
	uint64_t longest = 0;

	for (unsigned m = 0; m < CORE_MEASURE_SMTP_OUT; m++) {
		uint32_t i = c->groups[group].bounds.of[m];
		uint64_t window = group && i ? rate_window_us(c->limits[i].rate) : 0;

		if (window && window + rate_delta_us(window) + 1 > longest)
			longest = window + rate_delta_us(window) + 1;
	}
	return longest;
}

/* The new numbers of a group; false: what it belongs to is gone. */
static bool
renumber(struct group *g, const uint32_t *sources, const uint32_t *vmtas)
{
	uint64_t id = g->number;

	switch ((enum core_scope)g->scope) {
	case CORE_SCOPE_SOURCE:
		g->number = g->source = sources[g->source];
		id = g->number;
		break;
	case CORE_SCOPE_QUEUE_SOURCE:
	case CORE_SCOPE_MX_SOURCE:
		g->source = sources[g->source];
		id = g->id;
		break;
	case CORE_SCOPE_VMTA:
		g->number = vmtas[g->number];
		id = g->number;
		break;
	default:
		return true;
	}
	g->id = id;
	g->key = limits_group_key((enum core_scope)g->scope, id, g->source);
	return g->source != CORE_NONE && g->number != CORE_NONE;
}

void
limits_renumber(struct core *c, const uint32_t *sources, const uint32_t *vmtas)
{
	passes_void(c);
	map_clear(&c->group_map);
	for (uint32_t i = 1; i < c->n_groups; i++) {
		struct group *g = &c->groups[i];

		if (g->made && !renumber(g, sources, vmtas))
			group_free(c, i);
	}
	map_clear(&c->group_map);
	for (uint32_t i = 1; i < c->n_groups; i++) {
		if (c->groups[i].made)
			map_put(&c->group_map, c->groups[i].key, i);
	}
}

static uint32_t
named_group(struct core *c, enum core_scope scope, uint32_t number, uint32_t source,
	    const char *name)
{
	uint32_t i = limits_group(c, scope, number, source);

	if (c->groups[i].users == 0)
		c->groups[i].users = 1;
	if (name)
		limits_group_name(c, i, slice_str(name));
	ask_driver(c, i);
	return i;
}

void
limits_world_set(struct core *c)
{
	struct conf_limits all = { .max_smtp_out = c->total_max < CORE_CONNECTIONS_MAX
							   ? c->total_max
							   : CORE_CONNECTIONS_MAX };

	for (uint32_t i = 0; i < c->n_sources; i++)
		c->sources[i].group = named_group(c, CORE_SCOPE_SOURCE, i, i, c->sources[i].text);
	for (uint32_t i = 0; i < c->n_vmtas; i++)
		c->vmtas[i].group = named_group(c, CORE_SCOPE_VMTA, i, 0, c->vmtas[i].name);
	c->all = limits_group(c, CORE_SCOPE_ALL, 0, 0);
	c->groups[c->all].users = 1;
	limits_group_set(c, c->all, &all);
}
