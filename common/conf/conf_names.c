#include "common/conf/conf_names.h"

#include <uthash.h>

#define NAME_MAX_BYTES 300

struct conf_named {
	UT_hash_handle hh;
	enum conf_named_kind kind;
	unsigned number;
	char key[]; /* the name space, then the name in lower case */
};

static char
space_of(enum conf_named_kind kind)
{
	return kind == CONF_NAMED_POOL ? CONF_NAMED_VMTA : (char)kind;
}

void
conf_names_add(struct conf *c, const char *name, enum conf_named_kind kind, unsigned number)
{
	size_t n = strlen(name);
	struct conf_named *e = conf_arena_zalloc(&c->arena, sizeof *e + n + 2);

	e->key[0] = space_of(kind);
	memcpy(e->key + 1, name, n);
	str_lower(e->key + 1, n);
	e->kind = kind;
	e->number = number;
	HASH_ADD_KEYPTR(hh, c->names, e->key, n + 1, e);
}

int
conf_names_find(const struct conf *c, struct slice name, enum conf_named_kind kind)
{
	char key[NAME_MAX_BYTES + 1];
	struct conf_named *e;

	if (name.n == 0 || name.n > NAME_MAX_BYTES)
		return -1;
	key[0] = space_of(kind);
	memcpy(key + 1, name.p, name.n);
	str_lower(key + 1, name.n);
	HASH_FIND(hh, c->names, key, name.n + 1, e);
	return e != NULL && e->kind == kind ? (int)e->number : -1;
}

void
conf_names_clear(struct conf *c)
{
	HASH_CLEAR(hh, c->names);
}
