#include "scheduler/core/limits_impl.h"

#include <string.h>

#include "common/base/mem.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/passes.h"

/* Limits that are looked at in one go whether they are off for long enough. */
#define OFF_LOOKS 32

/* Keys --------------------------------------------------------------------------------------- */
static uint64_t
mix(uint64_t h)
{
	h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ull;
	h = (h ^ h >> 27) * 0x94d049bb133111ebull;
	return h ^ h >> 31;
}

uint64_t
limits_group_key(enum core_scope scope, uint64_t id, uint32_t source)
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
	key_add_number(&k, l->mode == LIMIT_HELD ? 2 : l->mode == LIMIT_BACKOFF);
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
		.ahead_since = NEVER,
	};
	return i;
}

void
limits_not_sure(struct core *c, struct limit *l)
{
	limits_take_back(l);
	l->sure = 0;
	if (l->scope == CORE_SCOPE_QUEUE)
		passes_forget_queue(c, l->owner);
	else if (l->scope == CORE_SCOPE_QUEUE_SOURCE)
		passes_forget_queue(c, c->groups[l->owner].number);
	else if (l->scope != CORE_SCOPE_DESTINATION && l->scope != CORE_SCOPE_MX_SOURCE)
		passes_void(c);
}

static void
rate_away(struct core *c, struct limit *l)
{
	bool over;

	limits_not_sure(c, l);
	over = !l->rate || rate_is_empty(l->rate, c->now.boot_us);
	rate_free(&l->rate);
	if (l->memory && !over && c->ops.charges_keep)
		c->ops.charges_keep(c->ctx, l->memory);
	else if (l->memory)
		c->ops.charges_free(c->ctx, l->memory);
	l->memory = NULL;
}

/* A rate of these numbers for the limit, in memory that outlives the process if there is any. Of
 * what is found there the numbers are taken too. */
static void
rate_make(struct core *c, struct limit *l, uint64_t n, uint64_t window, bool wide)
{
	uint64_t now = c->now.boot_us, was;
	struct core_charge_key key;
	bool found = false;

	l->memory = NULL;
	if (c->ops.charges && c->ops.charges_free && l->mode != LIMIT_LEARNED) {
		key = charge_key(c, l);
		l->memory = c->ops.charges(c->ctx, &key, wide ? rate_bytes_wide() : rate_bytes(n),
					   &found);
	}
	was = found && l->memory ? rate_found_n(l->memory) : 0;
	if (!l->memory)
		l->rate = wide ? rate_new_wide(n, window) : rate_new(n, window);
	else if (was)
		l->rate = rate_place(l->memory, was, rate_found_window_us(l->memory), now);
	else if (wide)
		l->rate = rate_place_wide(l->memory, n, window, now);
	else
		l->rate = rate_place(l->memory, n, window, now);
	l->found = l->found || (found && l->memory);
}

/* Another rate for the same limit: what was charged goes on counting. The old memory counts until
 * it is given back. */
static void
rate_replace(struct core *c, struct limit *l, uint64_t n, uint64_t window, bool wide)
{
	struct rate *was = l->rate;
	void *memory = l->memory;

	limits_not_sure(c, l);
	l->rate = NULL;
	rate_make(c, l, n, window, wide);
	rate_move(l->rate, was, c->now.boot_us);
	rate_free(&was);
	if (memory)
		c->ops.charges_free(c->ctx, memory);
	/* Its stamps are not what they were. */
	l->no_refund_until = c->now.boot_us + window + rate_delta_us(window) + 1;
}

static void
rate_set(struct core *c, struct limit *l, uint64_t n, uint64_t window)
{
	if (!l->rate)
		rate_make(c, l, n, window, false);
	if (rate_limit(l->rate) == n && rate_window_us(l->rate) == window)
		return;
	if (rate_window_us(l->rate) != window || !rate_set_n(l->rate, n, c->now.boot_us))
		rate_replace(c, l, n, window, rate_needs_wide(l->rate, n, window, c->now.boot_us));
}

void
limits_keep_all(struct core *c, struct limit *l)
{
	rate_replace(c, l, rate_limit(l->rate), rate_window_us(l->rate), true);
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

void
limits_disown(struct core *c, uint32_t *at)
{
	uint32_t i = *at;

	*at = 0;
	if (!i)
		return;
	c->n_off -= c->limits[i].off_until != 0;
	c->limits[i].off_until = 0;
	c->limits[i].owned = false;
	rate_away(c, &c->limits[i]);
	lines_poke(c, c->limits[i].line);
	limits_unused(c, i);
}

/* It refuses nothing any more. It is charged on for a window: who sets it again finds what was used
 * meanwhile, as if its N had been without bounds. */
static void
switch_off(struct core *c, uint32_t *at)
{
	struct limit *l = &c->limits[*at];
	uint64_t window;

	if (*at == 0 || l->off_until)
		return;
	if (!l->rate) {
		limits_disown(c, at);
		return;
	}
	window = rate_window_us(l->rate);
	l->off_until = c->now.boot_us + window + rate_delta_us(window) + 1;
	limits_not_sure(c, l);
	c->n_off++;
	lines_poke(c, l->line);
}

static uint32_t *
place_of(struct core *c, uint32_t i)
{
	const struct limit *l = &c->limits[i];
	struct active *a;
	struct group *g;

	if (l->scope != CORE_SCOPE_QUEUE) {
		g = &c->groups[l->owner];
		if (g->backoff.of[l->measure] == i)
			return &g->backoff.of[l->measure];
		if (g->held.of[l->measure] == i)
			return &g->held.of[l->measure];
		return &g->bounds.of[l->measure];
	}
	a = c->queues[l->owner].active;
	if (a->learned == i)
		return &a->learned;
	return a->own.of[l->measure] == i ? &a->own.of[l->measure] : &a->backoff.of[l->measure];
}

void
limits_sweep_off(struct core *c)
{
	for (unsigned k = 0; k < OFF_LOOKS && c->n_off > 0; k++) {
		const struct limit *l;

		c->off_hand = c->off_hand + 1 < c->n_limits ? c->off_hand + 1 : 1;
		l = &c->limits[c->off_hand];
		if (l->made && l->off_until && l->off_until <= c->now.boot_us)
			limits_disown(c, place_of(c, c->off_hand));
	}
}

/* It is asked for again whenever its object begins to be used: mostly nothing has changed. */
static bool
is_the_same(const struct limit *l, enum limit_mode mode, uint64_t n, uint64_t window)
{
	if (l->n != n || l->mode != mode || l->off_until)
		return false;
	return l->rate ? rate_limit(l->rate) == n && rate_window_us(l->rate) == window
		       : window == 0;
}

void
limits_set_one(struct core *c, uint32_t *at, enum core_scope scope, enum core_measure measure,
	       enum limit_mode mode, uint32_t owner, uint64_t n, uint64_t window)
{
	struct limit *l;

	if (n == 0) {
		switch_off(c, at);
		return;
	}
	if (window > 0 && window < 1000)
		window = 1000;
	if (*at == 0)
		*at = limit_new(c, scope, measure, mode, owner);
	else if (is_the_same(&c->limits[*at], mode, n, window))
		return;
	l = &c->limits[*at];
	c->n_off -= l->off_until != 0;
	l->off_until = 0;
	l->mode = (uint8_t)mode;
	limits_not_sure(c, l);
	lines_poke(c, l->line); /* also for another window: room may come sooner */
	l->n = n;
	l->within = NEVER;
	if (!window)
		return;
	rate_set(c, l, n, window);
	l->within = rate_delta_us(rate_window_us(l->rate));
	l->pace_one = limits_pace_of(l, 1);
	l->pace_late = limits_pace_late(rate_window_us(l->rate));
}

void
limits_clear(struct core *c)
{
	for (uint32_t i = 1; i < c->n_limits; i++) {
		/* The memory of charges stays: it is for who comes next. */
		if (!c->limits[i].made)
			continue;
		limits_take_back(&c->limits[i]);
		rate_free(&c->limits[i].rate);
	}
	for (uint32_t i = 1; i < c->n_groups; i++)
		mem_free(c->groups[i].name);
	mem_free(c->limits);
	mem_free(c->groups);
	map_clear(&c->group_map);
	mem_free(c->sets);
	mem_free(c->passes);
}
