#include "common/conf/conf_domain.h"

#include <uthash.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/conf/conf_rollup_ips.h"
#include "common/conf/conf_type.h"

/* Work that the warning about hidden names may cost, in look-ups. */
#define HIDDEN_BUDGET 200000

enum kind { KIND_ALL, KIND_BELOW, KIND_WITH, KIND_EXACT };

struct entry {
	struct entry *next;
	const struct conf_block *block;
};

struct pattern {
	UT_hash_handle hh;
	struct entry *macro, *written; /* newest last */
	size_t n;
	char key[]; /* holder, kind, name without its wildcard */
};

/* [CIDR] names: few, looked through one by one, the wider first. */
struct literal {
	struct conf_cidr cidr;
	unsigned holder;
	bool macro;
	const struct conf_block *block;
};

struct conf_patterns {
	struct pattern *table;
	struct literal *literals;
	size_t n_literals, cap_literals;
	unsigned char *kinds; /* of each holder: bits of the kinds it has */
	size_t cap_kinds;
};

#define KEY_MAX (sizeof(unsigned) + 1 + CONF_PATTERN_MAX)

static size_t
pattern_key(char out[KEY_MAX], unsigned holder, enum kind kind, struct slice name)
{
	memcpy(out, &holder, sizeof holder);
	out[sizeof holder] = (char)kind;
	if (name.n > 0)
		memcpy(out + sizeof holder + 1, name.p, name.n);
	return sizeof holder + 1 + name.n;
}

static const struct pattern *
pattern_find(const struct conf_patterns *p, unsigned holder, enum kind kind, struct slice name)
{
	char key[KEY_MAX];
	size_t n;
	struct pattern *hit;

	if (name.n >= CONF_PATTERN_MAX || !(p->kinds[holder] & 1u << kind))
		return NULL;
	n = pattern_key(key, holder, kind, name);
	HASH_FIND(hh, p->table, key, n, hit);
	return hit;
}

/* The kind of a pattern and its name without the wildcard. */
static enum kind
pattern_kind(struct slice *name)
{
	if (slice_is(*name, "*")) {
		*name = SLICE_NONE;
		return KIND_ALL;
	}
	if (slice_starts_nocase(*name, "*.")) {
		*name = slice_sub(*name, 2);
		return KIND_BELOW;
	}
	if (slice_starts_nocase(*name, "[*.]")) {
		*name = slice_sub(*name, 4);
		return KIND_WITH;
	}
	return KIND_EXACT;
}

static void
entry_append(struct conf_arena *a, struct entry **list, const struct conf_block *block)
{
	while (*list != NULL) {
		if ((*list)->block == block)
			return; /* one macro may hold a name twice */
		list = &(*list)->next;
	}
	*list = conf_arena_zalloc(a, sizeof **list);
	(*list)->block = block;
}

struct add {
	struct conf *c;
	unsigned holder;
	const struct conf_block *block;
	bool macro;
};

static void
add_literal(struct add *a, struct slice name)
{
	struct conf_patterns *p = a->c->patterns;
	struct slice inner = slice_sub(name, slice_starts_nocase(name, "[ipv6:") ? 6 : 1);
	struct literal l = { .holder = a->holder, .macro = a->macro, .block = a->block };
	void *v = p->literals;

	CHECK(conf_net_cidr(slice_of(inner.p, inner.n - 1), &l.cidr));
	mem_grow(&v, &p->cap_literals, p->n_literals + 1, sizeof *p->literals);
	p->literals = v;
	p->literals[p->n_literals++] = l;
}

static bool
add_name(void *arg, const char *domain)
{
	struct add *a = arg;
	struct conf_patterns *p = a->c->patterns;
	char lower[CONF_PATTERN_MAX], key[KEY_MAX];
	struct slice name;
	enum kind kind;
	size_t n;
	struct pattern *hit;

	CHECK(conf_type_pattern(slice_str(domain), lower)); /* conf_check() saw them all */
	name = slice_str(lower);
	if (lower[0] == '[' && lower[1] != '*') {
		add_literal(a, name);
		return true;
	}
	kind = pattern_kind(&name);
	n = pattern_key(key, a->holder, kind, name);
	HASH_FIND(hh, p->table, key, n, hit);
	if (hit == NULL) {
		hit = conf_arena_zalloc(&a->c->arena, sizeof *hit + n);
		memcpy(hit->key, key, n);
		hit->n = n;
		HASH_ADD_KEYPTR(hh, p->table, hit->key, hit->n, hit);
	}
	p->kinds[a->holder] |= (unsigned char)(1u << kind);
	entry_append(&a->c->arena, a->macro ? &hit->macro : &hit->written, a->block);
	return true;
}

void
conf_domain_add(struct conf *c, struct conf_expansion *e, unsigned holder,
		const struct conf_block *block)
{
	const char *name = conf_block_get(block, "name")->v.string;
	struct add a = {
		.c = c, .holder = holder, .block = block, .macro = strchr(name, '$') != NULL
	};
	void *v;

	if (c->patterns == NULL)
		c->patterns = mem_zalloc(sizeof *c->patterns);
	if (holder >= c->patterns->cap_kinds) {
		size_t old = c->patterns->cap_kinds;

		v = c->patterns->kinds;
		mem_grow(&v, &c->patterns->cap_kinds, holder + 1, 1);
		c->patterns->kinds = v;
		memset(c->patterns->kinds + old, 0, c->patterns->cap_kinds - old);
	}
	CHECK(conf_macro_expand(e, name, add_name, &a));
}

static int
literal_order(const void *pa, const void *pb)
{
	const struct literal *a = pa, *b = pb;

	if (a->cidr.bits != b->cidr.bits)
		return a->cidr.bits < b->cidr.bits ? -1 : 1;
	return (int)b->macro - (int)a->macro;
}

void
conf_domain_added(struct conf *c)
{
	if (c->patterns != NULL && c->patterns->n_literals > 1)
		qsort(c->patterns->literals, c->patterns->n_literals, sizeof *c->patterns->literals,
		      literal_order);
}

void
conf_domain_clear(struct conf *c)
{
	struct conf_patterns *p = c->patterns;

	if (p == NULL)
		return;
	HASH_CLEAR(hh, p->table);
	mem_free(p->literals);
	mem_free(p->kinds);
	mem_free(p);
	c->patterns = NULL;
}

/* Look-up ------------------------------------------------------------------------------------- */
struct visit {
	const struct conf_patterns *p;
	unsigned holder;
	void (*fn)(void *arg, const struct conf_block *block);
	void *arg;
};

static void
visit_pattern(const struct visit *v, enum kind kind, struct slice name)
{
	const struct pattern *hit = pattern_find(v->p, v->holder, kind, name);

	if (hit == NULL)
		return;
	for (const struct entry *e = hit->macro; e != NULL; e = e->next)
		v->fn(v->arg, e->block);
	for (const struct entry *e = hit->written; e != NULL; e = e->next)
		v->fn(v->arg, e->block);
}

static void
visit_literals(const struct visit *v, struct slice domain)
{
	struct slice ip = slice_sub(domain, slice_starts_nocase(domain, "[ipv6:") ? 6 : 1);
	struct sockaddr_storage ss;
	socklen_t len;

	if (ip.n == 0 || !conf_net_ip(slice_of(ip.p, ip.n - 1), &ss, &len))
		return;
	for (size_t i = 0; i < v->p->n_literals; i++) {
		const struct literal *l = &v->p->literals[i];

		if (l->holder == v->holder && conf_net_match(&l->cidr, (struct sockaddr *)&ss))
			v->fn(v->arg, l->block);
	}
}

/* From the last label to the whole name: at each, what is below it, then it with what is below. */
static void
visit_suffixes(const struct visit *v, struct slice domain)
{
	size_t at = domain.n;

	while (at > 0) {
		struct slice suffix;

		at--;
		if (at > 0 && domain.p[at - 1] != '.')
			continue;
		suffix = slice_sub(domain, at);
		if (at > 0)
			visit_pattern(v, KIND_BELOW, suffix);
		visit_pattern(v, KIND_WITH, suffix);
	}
}

void
conf_domain_each(const struct conf *c, unsigned holder, struct slice domain,
		 void (*fn)(void *arg, const struct conf_block *block), void *arg)
{
	struct visit v = { .p = c->patterns, .holder = holder, .fn = fn, .arg = arg };

	if (v.p == NULL || holder >= v.p->cap_kinds)
		return;
	visit_pattern(&v, KIND_ALL, SLICE_NONE);
	if (domain.n > 1 && domain.p[0] == '[') {
		visit_literals(&v, domain);
		return;
	}
	if (v.p->kinds[holder] & (1u << KIND_BELOW | 1u << KIND_WITH))
		visit_suffixes(&v, domain);
	visit_pattern(&v, KIND_EXACT, domain);
}

void
conf_domain_all(const struct conf *c, unsigned vmta, struct slice domain,
		void (*fn)(void *arg, const struct conf_block *block), void *arg)
{
	domain = conf_rollup_base(domain);
	conf_domain_each(c, CONF_HOLDER_GLOBAL, domain, fn, arg);
	if (c->vmta_pool[vmta] >= 0)
		conf_domain_each(c, conf_holder_pool((unsigned)c->vmta_pool[vmta]), domain, fn,
				 arg);
	conf_domain_each(c, conf_holder_vmta(c, vmta), domain, fn, arg);
}

/* Hidden names -------------------------------------------------------------------------------- */
/* The search for what the blocks of one holder hide. */
struct hidden {
	const struct conf *c;
	struct conf_loader *x;
	unsigned holder;
	unsigned budget; /* look-ups that are left */
};

struct winner {
	const struct conf_directive *d;
	const struct conf_block *block;
};

static void
note_winner(void *arg, const struct conf_block *block)
{
	struct winner *w = arg;

	if (conf_block_value(block, w->d) != NULL)
		w->block = block;
}

static bool
keep_first(void *arg, const char *domain)
{
	str_copy(arg, CONF_PATTERN_MAX, slice_str(domain));
	return false;
}

/* The name of a block, the first one when it is a macro, without its wildcard. */
static enum kind
block_name(const struct hidden *h, const struct conf_block *b, char room[CONF_PATTERN_MAX],
	   struct slice *name)
{
	struct conf_expansion e = { .x = h->x, .budget = 1000 };

	room[0] = '\0';
	conf_macro_expand(&e, conf_block_get(b, "name")->v.string, keep_first, room);
	*name = slice_str(room);
	return pattern_kind(name);
}

/* Whether the wide block decides `d` for the narrower names of the other. */
static bool
hides(const struct hidden *h, const struct conf_block *wide, const struct conf_block *narrow,
      const struct conf_directive *d)
{
	char room_a[CONF_PATTERN_MAX], room_b[CONF_PATTERN_MAX];
	struct slice a, b;
	enum kind kind_a = block_name(h, narrow, room_a, &a);
	enum kind kind_b = block_name(h, wide, room_b, &b);
	struct winner w = { .d = d };

	if (kind_a <= kind_b && a.n <= b.n)
		return false;
	conf_domain_each(h->c, h->holder, a, note_winner, &w);
	return w.block == wide;
}

static void
warn_value_hides(struct hidden *h, const struct conf_block *wide, const struct conf_value *v)
{
	const struct conf_block *first = NULL;
	const struct conf_value *value = NULL;
	unsigned n = 0;

	CONF_EACH(b, h->c->root, CONF_SCOPE_DOMAIN)
	{
		const struct conf_value *old = conf_block_value(b, v->d);

		if (h->budget == 0 || n > 1)
			break;
		h->budget--;
		if (old == NULL || !hides(h, wide, b, v->d) || n++ > 0)
			continue;
		first = b;
		value = old;
	}
	if (n > 0)
		conf_msgs_warn(
			h->x->msgs, v->file, v->line,
			"%s \"%.60s\": domain \"%.60s\": %s hides that of the narrower domain "
			"\"%.60s\" in %s:%u%s",
			conf_schema_scope(wide->parent->scope)->title, wide->parent->key, wide->key,
			v->d->name, first->key, h->c->files[value->file], value->line,
			n > 1 ? " and of others" : "");
}

static void
warn_blocks_hide(struct hidden *h, const struct conf_block *parent)
{
	CONF_EACH(b, parent, CONF_SCOPE_DOMAIN)
	{
		char room[CONF_PATTERN_MAX];
		struct slice name;

		if (block_name(h, b, room, &name) == KIND_EXACT)
			continue;
		for (const struct conf_value *v = b->values; v != NULL; v = v->next) {
			if (strcmp(v->d->name, "name") != 0)
				warn_value_hides(h, b, v);
		}
	}
}

void
conf_domain_warn_hidden(struct conf *c, struct conf_loader *x)
{
	struct hidden h = { .c = c, .x = x, .budget = HIDDEN_BUDGET };

	CONF_EACH(p, c->root, CONF_SCOPE_POOL)
	{
		h.holder = conf_holder_pool(p->id);
		warn_blocks_hide(&h, p);
	}
	CONF_EACH(v, c->root, CONF_SCOPE_VMTA)
	{
		h.holder = conf_holder_vmta(c, v->id);
		warn_blocks_hide(&h, v);
	}
}
