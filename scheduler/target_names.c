#include "scheduler/target_names.h"

#include <uthash.h>

#include "common/base/mem.h"

#define NAMES_MOST 65536

struct one {
	UT_hash_handle hh;
	uint64_t id;
	char *name;
};

struct target_names {
	struct one *all;
};

static struct one *
find(const struct target_names *t, uint64_t id)
{
	struct one *o = NULL;

	if (t != NULL)
		HASH_FIND(hh, t->all, &id, sizeof id, o);
	return o;
}

void
target_names_note(struct target_names **t, uint64_t id, struct slice name)
{
	struct one *o = find(*t, id);

	if (o != NULL || name.n == 0)
		return;
	if (*t != NULL && HASH_COUNT((*t)->all) >= NAMES_MOST)
		target_names_free(t);
	if (*t == NULL)
		*t = mem_zalloc(sizeof **t);
	o = mem_zalloc(sizeof *o);
	o->id = id;
	o->name = mem_memdup0(name.p, name.n);
	HASH_ADD(hh, (*t)->all, id, sizeof o->id, o);
}

struct slice
target_names_get(const struct target_names *t, uint64_t id)
{
	const struct one *o = find(t, id);

	return o != NULL ? slice_str(o->name) : SLICE_NONE;
}

void
target_names_free(struct target_names **t)
{
	struct one *o, *next;

	if (*t == NULL)
		return;
	HASH_ITER(hh, (*t)->all, o, next)
	{
		HASH_DEL((*t)->all, o);
		mem_free(o->name);
		mem_free(o);
	}
	mem_free(*t);
	*t = NULL;
}
