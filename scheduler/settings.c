#include "scheduler/settings.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits((keyptr), (keylen)))
#include <uthash.h>

#include "common/base/mem.h"

struct set {
	UT_hash_handle hh;
	struct conf_queue value;
};

struct settings {
	const struct conf *conf;
	struct overrides *overrides;
	struct set *sets;     /* by value */
	struct set **by_queue;
	size_t cap;
};

struct settings *
settings_new(const struct conf *conf, struct overrides *overrides)
{
	struct settings *s = mem_zalloc(sizeof *s);

	s->conf = conf;
	s->overrides = overrides;
	return s;
}

void
settings_free(struct settings **sp)
{
	struct settings *s = *sp;
	struct set *e, *next;

	if (s == NULL)
		return;
	HASH_ITER(hh, s->sets, e, next)
	{
		HASH_DEL(s->sets, e);
		mem_free(e);
	}
	mem_free(s->by_queue);
	mem_free(s);
	*sp = NULL;
}

static struct set *
intern(struct settings *s, struct slice name)
{
	struct set *e = mem_zalloc(sizeof *e);
	struct set *known = NULL;
	struct slice vmta = name;
	struct slice domain = slice_cut(&vmta, '/');

	/* Strings are borrowed from the configuration, so equal values are equal bytes; padding is zero. */
	conf_queue_over(s->conf, domain, vmta,
			s->overrides != NULL ? overrides_of_queue(s->overrides, name)
					     : (struct conf_overs){ NULL, 0 },
			&e->value);
	HASH_FIND(hh, s->sets, &e->value, sizeof e->value, known);
	if (known != NULL) {
		mem_free(e);
		return known;
	}
	HASH_ADD(hh, s->sets, value, sizeof e->value, e);
	return e;
}

void
settings_forget(struct settings *s, uint32_t queue)
{
	if (queue < s->cap)
		s->by_queue[queue] = NULL;
}

void
settings_forget_all(struct settings *s)
{
	if (s->cap > 0)
		memset(s->by_queue, 0, s->cap * sizeof *s->by_queue);
}

const struct conf_queue *
settings_get(struct settings *s, uint32_t queue, struct slice name)
{
	void *p = s->by_queue;
	size_t before = s->cap;

	mem_grow(&p, &s->cap, (size_t)queue + 1, sizeof *s->by_queue);
	s->by_queue = p;
	if (s->cap > before)
		memset(s->by_queue + before, 0, (s->cap - before) * sizeof *s->by_queue);
	if (s->by_queue[queue] == NULL)
		s->by_queue[queue] = intern(s, name);
	return &s->by_queue[queue]->value;
}
