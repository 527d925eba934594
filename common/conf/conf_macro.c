#include "common/conf/conf_macro.h"

#include <ctype.h>
#include <stdio.h>

#include "common/conf/conf_type.h"

#define DEPTH_MAX 16

/* What block->id says of a macro. */
enum state { UNKNOWN, VISITING, FINE, BAD };

/* Cuts `text` at its first $NAME; false when there is none. */
static bool
split(const char *text, struct slice *before, struct slice *name, const char **behind)
{
	const char *dollar = strchr(text, '$'), *p;

	if (dollar == NULL)
		return false;
	for (p = dollar + 1; isalnum((unsigned char)*p) || *p == '_' || *p == '-'; p++)
		;
	*before = slice_of(text, (size_t)(dollar - text));
	*name = slice_of(dollar + 1, (size_t)(p - dollar) - 1);
	*behind = p;
	return true;
}

static struct conf_block *
find(struct conf_loader *x, struct slice name)
{
	return name.n == 0 ? NULL : conf_load_find(x, x->root, CONF_SCOPE_MACRO, name);
}

static enum state visit(struct conf_loader *x, struct conf_block *m, unsigned depth);

/* The macros that one domain of macro `m` uses. */
static bool
visit_domain(struct conf_loader *x, struct conf_block *m, const char *domain, unsigned line,
	     unsigned depth)
{
	const struct conf_value *v = conf_block_get(m, "domains");
	struct slice before, name;
	bool ok = true;

	while (split(domain, &before, &name, &domain)) {
		struct conf_block *used = find(x, name);

		if (used == NULL) {
			conf_load_undefined(x, v->file, line, name, CONF_SCOPE_MACRO,
					    CONF_SCOPE_MACRO);
			ok = false;
		} else if (used->id == VISITING || depth == DEPTH_MAX) {
			conf_msgs_error(x->msgs, v->file, line,
					"domain-macro \"%.60s\": $%.*s leads back to it", m->key,
					(int)name.n, name.p);
			ok = false;
		} else if (visit(x, used, depth + 1) == BAD)
			ok = false;
	}
	return ok;
}

static enum state
visit(struct conf_loader *x, struct conf_block *m, unsigned depth)
{
	const struct conf_value *v = conf_block_get(m, "domains");
	bool ok = v != NULL;

	if (m->id != UNKNOWN)
		return (enum state)m->id;
	m->id = VISITING;
	for (size_t i = 0; v != NULL && i < v->v.strings->n; i++)
		ok = visit_domain(x, m, v->v.strings->s[i], v->v.strings->lines[i], depth) && ok;
	m->id = ok ? FINE : BAD;
	return (enum state)m->id;
}

void
conf_macro_check(struct conf_loader *x)
{
	CONF_EACH(m, x->root, CONF_SCOPE_MACRO)
	visit(x, m, 0);
}

static bool
failed(struct conf_expansion *e, const char *why, struct slice name)
{
	e->why = why;
	str_copy(e->at, sizeof e->at, name);
	return false;
}

static bool
expand(struct conf_expansion *e, const char *text, unsigned depth,
       bool (*fn)(void *arg, const char *domain), void *arg)
{
	char whole[CONF_PATTERN_MAX];
	const struct conf_value *v;
	const struct conf_block *m;
	struct slice before, name;
	const char *behind;

	if (e->budget == 0)
		return failed(e, "too many", slice_str(text));
	e->budget--;
	if (!split(text, &before, &name, &behind))
		return fn(arg, text);
	m = find(e->x, name);
	if (m == NULL)
		return failed(e, "no macro", name);
	if (m->id == BAD)
		return failed(e, NULL, name);
	if (depth == 2 * DEPTH_MAX)
		return failed(e, "too many", name);
	v = conf_block_get(m, "domains");
	for (size_t i = 0; i < v->v.strings->n; i++) {
		int n = snprintf(whole, sizeof whole, "%.*s%s%s", (int)before.n, before.p,
				 v->v.strings->s[i], behind);

		if (n < 0 || (size_t)n >= sizeof whole)
			return failed(e, "too long", name);
		if (!expand(e, whole, depth + 1, fn, arg))
			return false;
	}
	return true;
}

bool
conf_macro_expand(struct conf_expansion *e, const char *text,
		  bool (*fn)(void *arg, const char *domain), void *arg)
{
	e->why = NULL;
	e->at[0] = '\0';
	return expand(e, text, 0, fn, arg);
}
