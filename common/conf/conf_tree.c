#include "common/conf/conf_tree.h"

#include "common/base/check.h"

struct conf_block *
conf_block_new(struct conf_arena *a, struct conf_block *parent, enum conf_scope_id scope)
{
	struct conf_block *b = conf_arena_zalloc(a, sizeof *b);

	b->parent = parent;
	b->scope = scope;
	return b;
}

void
conf_block_attach(struct conf_block *b)
{
	struct conf_block *p = b->parent;

	if (p->last_child != NULL)
		p->last_child->next = b;
	else
		p->children = b;
	p->last_child = b;
}

struct conf_block *
conf_block_skip(struct conf_block *b, enum conf_scope_id scope)
{
	while (b != NULL && b->scope != scope)
		b = b->next;
	return b;
}

struct conf_value *
conf_block_value(const struct conf_block *b, const struct conf_directive *d)
{
	struct conf_value *v = b->values;

	while (v != NULL && v->d != d)
		v = v->next;
	return v;
}

struct conf_value *
conf_block_get(const struct conf_block *b, const char *name)
{
	const struct conf_directive *d = conf_schema_find(b->scope, name);

	CHECK(d != NULL);
	return conf_block_value(b, d);
}

struct conf_value *
conf_block_set(struct conf_arena *a, struct conf_block *b, const struct conf_value *v)
{
	struct conf_value *old = conf_block_value(b, v->d);

	if (old != NULL) {
		struct conf_value *next = old->next;

		*old = *v;
		old->next = next;
		return old;
	}
	struct conf_value *copy = conf_arena_zalloc(a, sizeof *copy);

	*copy = *v;
	copy->next = NULL;
	if (b->last_value != NULL)
		b->last_value->next = copy;
	else
		b->values = copy;
	b->last_value = copy;
	return copy;
}
