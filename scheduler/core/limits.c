#include "scheduler/core/limits.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"

/* A promise that is not used is void in the second epoch after it was made. */
#define PROMISE_EPOCH_US (SECOND_US / 2)
#define PROMISE_LOOK_US  20000u
/* A line that goes at a steady pace is not woken for each single one. */
#define PACE_BATCH_US 5000u
/* For each new group so many are looked at whether they are still in use; so many at one go. */
#define SWEEP_PER_GROUP 3
#define SWEEP_AT_ONCE   256

/* Keys --------------------------------------------------------------------------------------- */
static uint64_t
mix(uint64_t h)
{
	h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ull;
	h = (h ^ h >> 27) * 0x94d049bb133111ebull;
	return h ^ h >> 31;
}

static uint64_t
group_key(enum core_scope scope, uint64_t id, uint32_t source)
{
	return mix(mix(id + 0x9e3779b97f4a7c15ull * (scope + 1u)) + source);
}

static void
key_add(struct core_charge_key *k, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		k->hi = (k->hi ^ (unsigned char)p[i]) * 1099511628211ull;
		k->lo = mix(k->lo + (unsigned char)p[i] + 1);
	}
}

static void
key_add_number(struct core_charge_key *k, uint64_t n)
{
	key_add(k, (const char *)&n, sizeof(n));
}

/* By names, which stay when numbers change; what has only a number has a durable one. */
static struct core_charge_key
charge_key(const struct core *c, const struct limit *l)
{
	struct core_charge_key k = { 14695981039346656037ull, 0x243f6a8885a308d3ull };
	const struct group *g = l->scope == CORE_SCOPE_QUEUE ? NULL : &c->groups[l->owner];
	uint32_t qi = g ? g->number : l->owner;

	key_add_number(&k, l->scope);
	key_add_number(&k, l->measure);
	key_add_number(&k, l->mode == LIMIT_BACKOFF);
	if (l->scope == CORE_SCOPE_QUEUE || l->scope == CORE_SCOPE_QUEUE_SOURCE)
		key_add(&k, c->queues[qi].name, c->queues[qi].name_len);
	if (l->scope == CORE_SCOPE_QUEUE_SOURCE || l->scope == CORE_SCOPE_SOURCE) {
		const char *text = c->sources[g->source].text;

		key_add(&k, "/", 1);
		key_add(&k, text ? text : "", text ? strlen(text) : 0);
	} else if (g && g->name) {
		key_add(&k, g->name, strlen(g->name));
	} else if (g) {
		key_add_number(&k, g->number);
	}
	k.hi = mix(k.hi ^ k.lo);
	return k;
}

/* One limit ---------------------------------------------------------------------------------- */
static uint32_t
limit_new(struct core *c, enum core_scope scope, enum core_measure measure, enum limit_mode mode,
	  uint32_t owner)
{
	uint32_t i = c->free_limit;

	if (i) {
		c->free_limit = c->limits[i].owner;
	} else {
		i = c->n_limits++;
		mem_grow((void **)&c->limits, &c->limits_cap, (size_t)i + 1, sizeof(*c->limits));
	}
	c->limits[i] = (struct limit){
		.scope = (uint8_t)scope,
		.measure = (uint8_t)measure,
		.mode = (uint8_t)mode,
		.owner = owner,
		.owned = true,
		.made = true,
	};
	return i;
}

static bool
is_count(const struct limit *l)
{
	return l->measure == CORE_MEASURE_SMTP_OUT;
}

static void
rate_away(struct core *c, struct limit *l)
{
	rate_free(&l->rate);
	if (l->memory)
		c->ops.charges_free(c->ctx, l->memory);
	l->memory = NULL;
}

static void
rate_make(struct core *c, struct limit *l, uint64_t n, uint64_t window)
{
	struct core_charge_key key;
	bool found = false;

	l->memory = NULL;
	if (c->ops.charges && c->ops.charges_free) {
		key = charge_key(c, l);
		l->memory = c->ops.charges(c->ctx, &key, rate_bytes(n), &found);
	}
	l->found = found;
	if (l->memory)
		l->rate = rate_place(l->memory, n, window, c->now.boot_us);
	else
		rate_change(&l->rate, n, window, c->now.boot_us);
}

/* Other numbers: what was charged goes on counting. */
static void
rate_set(struct core *c, struct limit *l, uint64_t n, uint64_t window)
{
	struct rate *was;
	void *memory;

	if (!l->rate) {
		rate_make(c, l, n, window);
		return;
	}
	if (rate_limit(l->rate) == n && rate_window_us(l->rate) == window)
		return;
	l->no_refund_until = c->now.boot_us + window + rate_delta_us(window) + 1;
	if (!l->memory) {
		rate_change(&l->rate, n, window, c->now.boot_us);
		return;
	}
	/* Other memory for the same key; the old one counts until it is given back. */
	was = l->rate;
	memory = l->memory;
	l->rate = NULL;
	rate_make(c, l, n, window);
	rate_move(l->rate, was, c->now.boot_us);
	rate_free(&was);
	c->ops.charges_free(c->ctx, memory);
}

void
limits_unused(struct core *c, uint32_t i)
{
	struct limit *l = &c->limits[i];

	if (l->owned || l->refs > 0 || l->line)
		return;
	l->made = false;
	l->owner = c->free_limit;
	c->free_limit = i;
}

static void
disown(struct core *c, uint32_t *at)
{
	uint32_t i = *at;

	*at = 0;
	if (!i)
		return;
	c->limits[i].owned = false;
	rate_away(c, &c->limits[i]); /* what is still charged to it does not matter any more */
	lines_poke(c, c->limits[i].line);
	limits_unused(c, i);
}

/* What the configuration says of one measure; `n` 0: unlimited. */
static void
set_one(struct core *c, uint32_t *at, enum core_scope scope, enum core_measure measure,
	enum limit_mode mode, uint32_t owner, uint64_t n, uint64_t window)
{
	struct limit *l;

	if (n == 0) {
		disown(c, at);
		return;
	}
	if (*at == 0)
		*at = limit_new(c, scope, measure, mode, owner);
	l = &c->limits[*at];
	l->mode = (uint8_t)mode;
	if (l->n != n)
		lines_poke(c, l->line);
	l->n = n;
	if (window)
		rate_set(c, l, n, window < 1000 ? 1000 : window);
}

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

		set_one(c, &c->groups[group].bounds.of[m], scope, (enum core_measure)m,
			LIMIT_ALWAYS, group, rate_n(r), r->window_us);
	}
	set_one(c, &c->groups[group].bounds.of[CORE_MEASURE_SMTP_OUT], scope, CORE_MEASURE_SMTP_OUT,
		LIMIT_ALWAYS, group, out_n(l->max_smtp_out), 0);
	c->groups[group].stale = false;
}

/* Queues ------------------------------------------------------------------------------------- */
/* A twin that is new has what the other one was charged: it is one counter with two Ns. */
static void
inherit(struct core *c, uint32_t twin, uint32_t own)
{
	struct limit *l = &c->limits[twin];

	if (twin && own && !l->found)
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

		set_one(c, &a->own.of[m], CORE_SCOPE_QUEUE, (enum core_measure)m,
			same ? LIMIT_ALWAYS : LIMIT_NORMAL, qi, n, r->window_us);
		was = a->backoff.of[m];
		set_one(c, &a->backoff.of[m], CORE_SCOPE_QUEUE, (enum core_measure)m, LIMIT_BACKOFF,
			qi, same ? 0 : twin, b->window_us);
		if (!was)
			inherit(c, a->backoff.of[m], a->own.of[m]);
	}
}

void
limits_queue_clear(struct core *c, struct active *a)
{
	for (unsigned m = 0; m < MEASURES; m++) {
		disown(c, &a->own.of[m]);
		disown(c, &a->backoff.of[m]);
	}
}

uint64_t
limits_queue_out(const struct core *c, uint32_t qi)
{
	const struct queue *q = &c->queues[qi];
	const struct conf_queue *s = q->active->settings;
	uint64_t n = s->max_smtp_out, twin = s->backoff.max_smtp_out;

	if (q->backoff && twin > 0 && twin < n)
		n = twin;
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
	if (is_count(l))
		return true;
	rate_room(l->rate, c->now.boot_us);
	return rate_used(l->rate) == 0;
}

static void
group_free(struct core *c, uint32_t i)
{
	struct group *g = &c->groups[i];

	for (unsigned m = 0; m < MEASURES; m++)
		disown(c, &g->bounds.of[m]);
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
	for (unsigned i = 0; i < SWEEP_AT_ONCE && c->sweep_due > 0; i++, c->sweep_due--) {
		struct group *g;
		bool idle = true;

		c->group_hand = c->group_hand + 1 < c->n_groups ? c->group_hand + 1 : 1;
		g = &c->groups[c->group_hand];
		if (!g->made || g->users > 0)
			continue;
		for (unsigned m = 0; m < MEASURES; m++)
			idle = idle && limit_is_idle(c, g->bounds.of[m]);
		if (idle)
			group_free(c, c->group_hand);
	}
}

uint32_t
limits_group(struct core *c, enum core_scope scope, uint64_t id, uint32_t source)
{
	uint64_t key = group_key(scope, id, source), found = map_get(&c->group_map, key);
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

static void
ask_driver(struct core *c, uint32_t group)
{
	struct conf_limits l = { 0 };
	struct group *g = &c->groups[group];
	enum core_scope scope = (enum core_scope)g->scope;

	if (scope == CORE_SCOPE_QUEUE_SOURCE) {
		const struct queue *q = &c->queues[g->number];

		if (c->ops.source_limits)
			c->ops.source_limits(c->ctx, q->number, slice_of(q->name, q->name_len),
					     g->source, &l);
	} else if (scope == CORE_SCOPE_SOURCE) {
		l = c->sources[g->source].limits;
	} else if (scope == CORE_SCOPE_VMTA) {
		l = c->vmtas[g->number].limits;
	}
	if (scope != CORE_SCOPE_QUEUE_SOURCE && c->ops.scope_limits)
		c->ops.scope_limits(c->ctx, scope, g->number, &l);
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
	uint64_t found = map_get(&c->group_map, group_key(scope, number, 0));

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
	g->key = group_key((enum core_scope)g->scope, id, g->source);
	return g->source != CORE_NONE && g->number != CORE_NONE;
}

void
limits_renumber(struct core *c, const uint32_t *sources, const uint32_t *vmtas)
{
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

void
limits_clear(struct core *c)
{
	for (uint32_t i = 1; i < c->n_limits; i++) {
		/* The memory of charges stays: it is for who comes next. */
		if (c->limits[i].made)
			rate_free(&c->limits[i].rate);
	}
	for (uint32_t i = 1; i < c->n_groups; i++)
		mem_free(c->groups[i].name);
	mem_free(c->limits);
	mem_free(c->groups);
	map_clear(&c->group_map);
}

/* Decisions ---------------------------------------------------------------------------------- */
void
charges_add_group(const struct core *c, struct charges *set, uint32_t group, enum core_measure m)
{
	if (group)
		charges_add(set, c->groups[group].bounds.of[m]);
}

void
charges_add_queue(const struct core *c, struct charges *set, uint32_t qi, enum core_measure m)
{
	const struct active *a = c->queues[qi].active;

	charges_add(set, a->own.of[m]);
	charges_add(set, a->backoff.of[m]);
}

static bool
holds(const struct core *c, const struct limit *l, uint32_t qi)
{
	if (qi == CORE_NONE)
		return l->owned;
	return l->owned &&
	       (l->mode == LIMIT_ALWAYS || (l->mode == LIMIT_BACKOFF) == c->queues[qi].backoff);
}

bool
limits_is_owed(const struct active *a, uint32_t limit)
{
	return a->owed[0] == limit || a->owed[1] == limit;
}

void
limits_owe(struct active *a, uint32_t limit)
{
	if (limits_is_owed(a, limit))
		return;
	a->owed[1] = a->owed[0];
	a->owed[0] = limit;
}

/* What is promised and not lapsed. */
static uint64_t
promised(struct core *c, struct limit *l)
{
	uint64_t epoch = c->now.boot_us / PROMISE_EPOCH_US;

	if (l->promise_epoch + 1 == epoch) {
		l->promised[1] = l->promised[0];
		l->promised[0] = 0;
	} else if (l->promise_epoch != epoch) {
		l->promised[0] = l->promised[1] = 0;
	}
	l->promise_epoch = epoch;
	return (uint64_t)l->promised[0] + l->promised[1];
}

/* Pace: as long as several wait, what N allows goes out steadily and not in bursts of a fifth, so
 * that one of a higher priority finds room at any time. Being late is made up for, by a fiftieth of
 * the window. */
static bool
is_paced(const struct limit *l)
{
	return l->scope != CORE_SCOPE_QUEUE && l->rate && l->measure != CORE_MEASURE_VOLUME;
}

static uint64_t
pace_of(const struct limit *l, uint64_t k)
{
	uint64_t window = rate_window_us(l->rate);

	return k * (window + rate_delta_us(window)) / l->n;
}

static void
pace(struct core *c, struct limit *l, uint64_t k)
{
	uint64_t late = rate_window_us(l->rate) / 50;

	if (l->paced + late < c->now.boot_us)
		l->paced = c->now.boot_us - late;
	l->paced += pace_of(l, k);
}

/* When the pace allows the next one: 0 now, or it does not matter. */
static uint64_t
pace_when(const struct core *c, const struct limit *l, uint32_t qi, unsigned priority)
{
	uint64_t batch;

	if (!is_paced(l) || l->paced <= c->now.boot_us || !l->line ||
	    !lines_others(c, l->line, qi, priority))
		return 0;
	batch = rate_window_us(l->rate) / 200;
	return l->paced + (batch < PACE_BATCH_US ? batch : PACE_BATCH_US);
}

/* Room that is not promised to others. */
static uint64_t
room_of(struct core *c, struct limit *l, const struct active *a)
{
	uint64_t room, kept = 0;

	if (is_count(l))
		return l->used < l->n ? l->n - l->used : 0;
	room = rate_room(l->rate, c->now.boot_us);
	if (l->scope != CORE_SCOPE_QUEUE)
		kept = promised(c, l);
	if (a)
		kept -= a->n_promised < kept ? a->n_promised : kept;
	return room > kept ? room - kept : 0;
}

static uint64_t
when_of(struct core *c, struct limit *l)
{
	uint64_t when;

	if (is_count(l))
		return l->used < l->n ? c->now.boot_us : NEVER;
	when = rate_when(l->rate, c->now.boot_us);
	if (when <= c->now.boot_us && promised(c, l) > 0) {
		/* More of it may be there before the promises are void. */
		when = (l->promise_epoch + 1) * PROMISE_EPOCH_US;
		if (when > c->now.boot_us + PROMISE_LOOK_US)
			when = c->now.boot_us + PROMISE_LOOK_US;
	}
	return when;
}

/* One limit is asked for one more. */
static void
ask_one(struct core *c, const struct asker *who, uint32_t i, uint64_t bytes, struct answer *out)
{
	struct limit *l = &c->limits[i];
	const struct active *a = who->qi == CORE_NONE ? NULL : c->queues[who->qi].active;
	uint64_t room, within, when = 0;
	bool refuse;

	if (!holds(c, l, who->qi))
		return;
	if (l->measure == CORE_MEASURE_VOLUME) {
		refuse = !rate_fits(l->rate, c->now.boot_us, bytes);
		if (refuse)
			when = rate_when_fits(l->rate, c->now.boot_us, bytes);
	} else {
		room = room_of(c, l, a);
		refuse = room == 0;
		if (refuse)
			when = when_of(c, l);
		else if (!who->first && (when = pace_when(c, l, who->qi, who->priority)) > 0)
			refuse = true;
		if (l->rate && rate_share(l->rate) < room)
			room = rate_share(l->rate);
		if (room < out->room)
			out->room = room;
	}
	if (!refuse && l->line && l->line != who->turn && !who->first && a->n_promised == 0 &&
	    !limits_is_owed(a, i) && lines_ahead(c, l->line, who->qi, who->priority)) {
		refuse = true;
		when = c->now.boot_us;
	}
	if (l->line && lines_others(c, l->line, who->qi, who->priority))
		out->crowded = true;
	if (l->rate) {
		within = rate_delta_us(rate_window_us(l->rate));
		if (within < out->within)
			out->within = within;
	}
	if (!refuse)
		return;
	/* A count is given back sooner or later: as if in a second. */
	if (out->limit == 0 ||
	    (when == NEVER ? c->now.boot_us + SECOND_US : when) >
		    (out->when == NEVER ? c->now.boot_us + SECOND_US : out->when)) {
		out->limit = i;
		out->when = when;
	}
}

void
limits_ask_room(struct core *c, const struct asker *who, const struct charges *set, uint64_t bytes,
		struct answer *a)
{
	for (uint32_t k = 0; k < set->n; k++)
		ask_one(c, who, set->of[k], bytes, a);
}

void
limits_ask(struct core *c, const struct asker *who, const struct charges *set, uint64_t bytes,
	   struct answer *a)
{
	limits_ask_room(c, who, set, bytes, a);
	if (a->limit)
		c->limits[a->limit].refused++;
}

static uint64_t
amount(const struct limit *l, uint64_t n, uint64_t bytes)
{
	return l->measure == CORE_MEASURE_VOLUME ? bytes : n;
}

/* Beyond N it forgets the oldest: to give back later ones then would make room too early. */
static void
note_excess(struct core *c, struct limit *l, uint64_t k)
{
	uint64_t window = rate_window_us(l->rate);

	if (rate_used(l->rate) + k > l->n)
		l->no_refund_until = c->now.boot_us + window + rate_delta_us(window) + 1;
}

static void
charge_one(struct core *c, struct limit *l, uint64_t k)
{
	l->refs++;
	if (is_count(l)) {
		l->used++;
	} else if (l->rate && k > 0) {
		note_excess(c, l, k);
		rate_force(l->rate, c->now.boot_us, k);
		if (is_paced(l))
			pace(c, l, k);
	}
}

void
limits_charge(struct core *c, const struct charges *set, uint64_t n, uint64_t bytes)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		charge_one(c, l, amount(l, n, bytes));
	}
}

void
limits_adopt(struct core *c, struct charges *set, uint64_t n, uint64_t bytes)
{
	uint32_t kept = 0;

	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		if (l->rate && l->found)
			continue;
		charge_one(c, l, amount(l, n, bytes));
		set->of[kept++] = set->of[k];
	}
	set->n = kept;
}

void
limits_past(struct core *c, const struct charges *set, uint64_t age, uint64_t rcpts,
	    uint64_t connects, uint64_t bytes)
{
	for (uint32_t i = 0; i < set->n; i++) {
		struct limit *l = &c->limits[set->of[i]];
		uint64_t k =
			l->measure == CORE_MEASURE_CONNECT ? connects : amount(l, rcpts, bytes);

		if (!l->rate || k == 0)
			continue;
		note_excess(c, l, k);
		rate_past(l->rate, c->now.boot_us, age, k);
	}
}

void
limits_charge_more(struct core *c, const struct charges *set, uint64_t n)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		if (!l->rate || l->measure != CORE_MEASURE_MSG)
			continue;
		note_excess(c, l, n);
		rate_force(l->rate, c->now.boot_us, n);
		if (is_paced(l))
			pace(c, l, n);
	}
}

/* Something was given back: who waits for it looks. */
static void
poke_waiting(struct core *c, const struct limit *l)
{
	lines_poke(c, l->line);
	if (l->owned && (l->scope == CORE_SCOPE_SOURCE || l->scope == CORE_SCOPE_MX_SOURCE))
		sources_poke(c, c->groups[l->owner].source);
}

void
limits_refund(struct core *c, const struct charges *set, uint64_t stamp, uint64_t n, uint64_t bytes)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];
		uint64_t back = amount(l, n, bytes);

		if (!l->rate || back == 0 || c->now.boot_us < l->no_refund_until)
			continue;
		rate_refund(l->rate, stamp, back);
		if (is_paced(l))
			l->paced -= pace_of(l, back) < l->paced ? pace_of(l, back) : l->paced;
		poke_waiting(c, l);
	}
}

void
limits_let_go(struct core *c, struct charges *set)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		CHECK(l->refs > 0);
		l->refs--;
		if (is_count(l)) {
			CHECK(l->used > 0);
			l->used--;
			poke_waiting(c, l);
		}
		limits_unused(c, set->of[k]);
	}
	set->n = 0;
}

void
limits_count_idle(struct core *c, const struct charges *set, int by)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		if (is_count(l))
			l->idle = (uint32_t)((int64_t)l->idle + by);
	}
}

void
limits_count_ending(struct core *c, const struct charges *set, int by)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		if (is_count(l))
			l->ending = (uint32_t)((int64_t)l->ending + by);
	}
}

/* Waiting ------------------------------------------------------------------------------------ */
bool
limits_line_has_room(struct core *c, uint32_t line, uint64_t *when)
{
	const struct line *ln = &c->lines[line];
	struct limit *l;
	uint32_t head;

	*when = NEVER;
	switch ((enum line_kind)ln->kind) {
	case LINE_LIMIT:
		l = &c->limits[ln->of];
		if (!l->owned)
			return true;
		head = lines_head(c, line);
		if (room_of(c, l, c->queues[head].active) == 0)
			*when = when_of(c, l);
		else
			*when = pace_when(c, l, head, c->queues[head].line_priority);
		return *when == 0;
	case LINE_ASKS:
		return c->n_asks < DNS_INFLIGHT_MAX;
	case LINE_ROOM:
		return !c->workers[ln->of].full;
	case LINE_CONNS:
		return sources_conn_room(c, ln->of) > 0;
	case LINE_SOURCES:
		return sources_have_room(c, ln->of, true, when);
	case LINE_SENDERS:
		return sources_have_room(c, ln->of, false, when);
	case LINE_NONE:
		break;
	}
	return false;
}

bool
limits_measure(const struct core *c, const struct charges *set, enum core_measure m)
{
	for (uint32_t k = 0; k < set->n; k++) {
		if (c->limits[set->of[k]].measure == m)
			return true;
	}
	return false;
}

bool
limits_wanted(const struct core *c, const struct charges *set)
{
	for (uint32_t k = 0; k < set->n; k++) {
		const struct limit *l = &c->limits[set->of[k]];

		if (is_count(l) && l->line && c->lines[l->line].n > l->ending && l->used >= l->n)
			return true;
	}
	return false;
}

void
limits_promise(struct core *c, struct conn *cn)
{
	struct charges set = { .n = 0 };
	unsigned n = 0;

	admit_message(c, cn->queue, &set);
	for (uint32_t k = 0; k < set.n && n < PROMISES_MAX; k++) {
		struct limit *l = &c->limits[set.of[k]];

		if (l->scope == CORE_SCOPE_QUEUE || l->measure != CORE_MEASURE_MSG)
			continue;
		promised(c, l);
		l->promised[0]++;
		cn->promises[n++] = set.of[k];
	}
	if (n == 0)
		return;
	cn->promise_epoch = c->now.boot_us / PROMISE_EPOCH_US;
	c->queues[cn->queue].active->n_promised++;
}

void
limits_promise_over(struct core *c, struct conn *cn)
{
	if (cn->promises[0] == 0)
		return;
	for (unsigned n = 0; n < PROMISES_MAX && cn->promises[n]; n++) {
		struct limit *l = &c->limits[cn->promises[n]];

		cn->promises[n] = 0;
		if (!l->made || promised(c, l) == 0 || cn->promise_epoch + 1 < l->promise_epoch)
			continue;
		/* The limit may be another one by now: it is a promise only. */
		if (l->promised[l->promise_epoch - cn->promise_epoch] > 0)
			l->promised[l->promise_epoch - cn->promise_epoch]--;
		lines_poke(c, l->line);
	}
	c->queues[cn->queue].active->n_promised--;
}
