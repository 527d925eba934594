#include "common/conf/conf_names.h"

#include <uthash.h>

#define NAME_MAX_BYTES 200

struct conf_named {
	UT_hash_handle hh;
	enum conf_named_kind kind;
	unsigned number;
	char key[]; /* lower case */
};

void
conf_names_add(struct conf *c, const char *name, enum conf_named_kind kind, unsigned number)
{
	size_t n = strlen(name);
	struct conf_named *e = conf_arena_zalloc(&c->arena, sizeof *e + n + 1);

	memcpy(e->key, name, n);
	str_lower(e->key, n);
	e->kind = kind;
	e->number = number;
	HASH_ADD_KEYPTR(hh, c->names, e->key, n, e);
}

int
conf_names_find(const struct conf *c, struct slice name, enum conf_named_kind kind)
{
	char key[NAME_MAX_BYTES];
	struct conf_named *e;

	if (name.n == 0 || name.n >= sizeof key)
		return -1;
	memcpy(key, name.p, name.n);
	str_lower(key, name.n);
	HASH_FIND(hh, c->names, key, name.n, e);
	return e != NULL && e->kind == kind ? (int)e->number : -1;
}

void
conf_names_clear(struct conf *c)
{
	HASH_CLEAR(hh, c->names);
}
