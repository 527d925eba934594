#include "scheduler/core/limits_impl.h"

#include <string.h>

#include "common/base/mem.h"
#include "scheduler/core/lines.h"

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

void
limits_disown(struct core *c, uint32_t *at)
{
	uint32_t i = *at;

	*at = 0;
	if (!i)
		return;
	c->limits[i].owned = false;
	c->limits[i].sure = 0;
	rate_away(c, &c->limits[i]); /* what is still charged to it does not matter any more */
	lines_poke(c, c->limits[i].line);
	limits_unused(c, i);
}

/* What the configuration says of one measure; `n` 0: unlimited. */
void
limits_set_one(struct core *c, uint32_t *at, enum core_scope scope, enum core_measure measure,
	       enum limit_mode mode, uint32_t owner, uint64_t n, uint64_t window)
{
	struct limit *l;

	if (n == 0) {
		limits_disown(c, at);
		return;
	}
	if (*at == 0)
		*at = limit_new(c, scope, measure, mode, owner);
	l = &c->limits[*at];
	l->mode = (uint8_t)mode;
	if (l->n != n)
		lines_poke(c, l->line);
	l->n = n;
	l->sure = 0;
	l->within = NEVER;
	if (!window)
		return;
	rate_set(c, l, n, window < 1000 ? 1000 : window);
	l->within = rate_delta_us(rate_window_us(l->rate));
	l->pace_one = limits_pace_of(l, 1);
	l->pace_late = rate_window_us(l->rate) / 50;
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
