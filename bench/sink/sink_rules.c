#include "bench/sink/sink_rules.h"

#include <fnmatch.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/check.h"
#include "common/base/mem.h"

#define PATTERN_KEY_MAX 512

/* Attempts by key: open addressing over 64-bit hashes; a collision of two keys is accepted. */
struct seen {
	uint64_t *keys; /* 0 is empty */
	uint32_t *counts;
	size_t cap, n;
};

/* The last `limit` stamps of one window, a ring. */
struct window {
	uint64_t *stamps;
	size_t n, at;
};

struct rule_state {
	uint64_t times;
	struct seen seen;
	struct seen window_of; /* client hash → index into windows, +1 */
	struct window *windows;
	size_t n_windows, cap_windows;
};

struct sink_rules {
	const struct sink_provider *provider;
	uint64_t seed;
	uint64_t dice;
	bool any[SINK_STAGE_COUNT]; /* the stage has rules at all */
	struct rule_state *states;
};

struct sink_rules *
sink_rules_new(const struct sink_provider *p, uint64_t seed)
{
	struct sink_rules *r = mem_zalloc(sizeof *r);

	r->provider = p;
	r->seed = r->dice = XXH64(p->name, strlen(p->name), seed);
	r->states = mem_calloc(p->n_rules + 1, sizeof *r->states);
	for (size_t i = 0; i < p->n_rules; i++)
		r->any[p->rules[i].stage] = true;
	return r;
}

static void
seen_clear(struct seen *s)
{
	mem_free(s->keys);
	mem_free(s->counts);
}

void
sink_rules_free(struct sink_rules **r)
{
	if (*r == NULL)
		return;
	for (size_t i = 0; i < (*r)->provider->n_rules; i++) {
		struct rule_state *st = &(*r)->states[i];

		seen_clear(&st->seen);
		seen_clear(&st->window_of);
		for (size_t k = 0; k < st->n_windows; k++)
			mem_free(st->windows[k].stamps);
		mem_free(st->windows);
	}
	mem_free((*r)->states);
	mem_free(*r);
	*r = NULL;
}

static uint32_t *seen_at(struct seen *s, uint64_t key);

static void
seen_grow(struct seen *s)
{
	struct seen old = *s;

	s->cap = old.cap > 0 ? old.cap * 2 : 64;
	s->keys = mem_calloc(s->cap, sizeof *s->keys);
	s->counts = mem_calloc(s->cap, sizeof *s->counts);
	s->n = 0;
	for (size_t i = 0; i < old.cap; i++)
		if (old.keys[i] != 0)
			*seen_at(s, old.keys[i]) = old.counts[i];
	seen_clear(&old);
}

/* The count of `key`, made 0 when it is new. */
static uint32_t *
seen_at(struct seen *s, uint64_t key)
{
	size_t i;

	key += key == 0;
	if (s->n * 2 >= s->cap)
		seen_grow(s);
	for (i = key & (s->cap - 1); s->keys[i] != 0 && s->keys[i] != key;)
		i = (i + 1) & (s->cap - 1);
	if (s->keys[i] == 0) {
		s->keys[i] = key;
		s->n++;
	}
	return &s->counts[i];
}

static uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t
roll(struct sink_rules *r)
{
	r->dice += 0x9e3779b97f4a7c15u;
	return mix(r->dice);
}

static bool
within_percent(uint64_t random, double percent)
{
	return (double)(random >> 11) < percent * (double)(UINT64_C(1) << 53) / 100;
}

static bool
matches(const char *pattern, struct slice text)
{
	char buf[PATTERN_KEY_MAX];

	if (pattern == NULL)
		return true;
	str_copy(buf, sizeof buf, text);
	return fnmatch(pattern, buf, FNM_CASEFOLD) == 0;
}

static struct window *
window_of(struct rule_state *st, const struct sink_rule *rule, struct slice client)
{
	uint64_t key = rule->by_client ? XXH64(client.p, client.n, 0) : 1;
	uint32_t *index = seen_at(&st->window_of, key);
	void *windows = st->windows;

	if (*index == 0) {
		mem_grow(&windows, &st->cap_windows, st->n_windows + 1, sizeof *st->windows);
		st->windows = windows;
		st->windows[st->n_windows] =
			(struct window){ mem_calloc((size_t)rule->limit + 1, sizeof(uint64_t)), 0,
					 0 };
		*index = (uint32_t)++st->n_windows;
	}
	return &st->windows[*index - 1];
}

/* True when the event is beyond the limit. What is within it is counted, what is refused is not. */
static bool
beyond_limit(struct window *w, const struct sink_rule *rule, uint64_t now_us)
{
	size_t limit = (size_t)rule->limit;
	uint64_t window_us = (uint64_t)rule->window_ms * 1000;

	if (limit == 0)
		return true;
	if (w->n == limit && now_us - w->stamps[w->at] < window_us)
		return true;
	w->stamps[w->at] = now_us;
	w->at = (w->at + 1) % limit;
	if (w->n < limit)
		w->n++;
	return false;
}

static bool
applies(struct sink_rules *r, size_t i, const struct sink_facts *f)
{
	const struct sink_rule *rule = &r->provider->rules[i];
	struct rule_state *st = &r->states[i];
	uint64_t now_ms = f->now_us / 1000;
	uint64_t key;

	if (rule->stage != f->stage || now_ms < (uint64_t)rule->from_ms ||
	    (rule->until_ms > 0 && now_ms >= (uint64_t)rule->until_ms) ||
	    !matches(rule->client, f->client) || !matches(rule->match, f->key))
		return false;
	key = XXH64(f->key.p, f->key.n, mix(r->seed + i));
	if (rule->percent < 100 &&
	    !within_percent(rule->sticky || rule->first_attempts > 0 ? key : roll(r),
			    rule->percent))
		return false;
	if (rule->every > 0 && ++st->times % (uint64_t)rule->every != 0)
		return false;
	if (rule->first_attempts > 0) {
		uint32_t *n = seen_at(&st->seen, key);

		if (*n >= (uint32_t)rule->first_attempts)
			return false;
		++*n;
	}
	return rule->limit < 0 || beyond_limit(window_of(st, rule, f->client), rule, f->now_us);
}

const struct sink_rule *
sink_rules_decide(struct sink_rules *r, const struct sink_facts *f)
{
	CHECK(f->stage < SINK_STAGE_COUNT);
	if (!r->any[f->stage])
		return NULL;
	for (size_t i = 0; i < r->provider->n_rules; i++)
		if (applies(r, i, f))
			return &r->provider->rules[i];
	return NULL;
}
