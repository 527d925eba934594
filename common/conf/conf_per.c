#include "common/conf/conf_per.h"

#include <stdlib.h>

#include "common/base/check.h"
#include "common/conf/conf_type.h"
#include "common/conf/conf_value.h"

/* Parsing ------------------------------------------------------------------------------------- */
static struct conf_rate
value_of(enum conf_type type, struct slice s)
{
	struct conf_rate r = { 0, 0 };

	if (type == CONF_TYPE_CIDR_RATE)
		CHECK(conf_value_rate(s, &r));
	else if (type == CONF_TYPE_CIDR_VOLUME)
		CHECK(conf_value_volume(s, &r));
	else if (!slice_is(s, "unlimited"))
		CHECK(slice_u64(s, INT32_MAX, &r.n));
	return r;
}

static struct slice
without_wildcard(struct slice pattern, bool *below)
{
	*below = pattern.n > 0 && pattern.p[0] == '*';
	return *below ? slice_sub(pattern, 2) : pattern;
}

static int
cidr_order(const struct conf_cidr *a, const struct conf_cidr *b)
{
	if (a->bits != b->bits)
		return a->bits > b->bits ? -1 : 1;
	if (a->all != b->all)
		return a->all ? 1 : -1;
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	return memcmp(a->net, b->net, sizeof a->net);
}

static int
mx_order(const struct conf_per_entry *a, const struct conf_per_entry *b)
{
	int c;

	if (a->below != b->below)
		return a->below ? 1 : -1;
	if (a->mx.n != b->mx.n)
		return a->mx.n > b->mx.n ? -1 : 1;
	c = a->mx.n > 0 ? strncasecmp(a->mx.p, b->mx.p, a->mx.n) : 0;
	return c;
}

static int
same_or_order(const struct conf_per_entry *a, const struct conf_per_entry *b)
{
	int c = cidr_order(&a->cidr, &b->cidr);

	return c != 0 ? c : mx_order(a, b);
}

/* The last of equal ones first. */
static int
entry_order(const void *pa, const void *pb)
{
	const struct conf_per_entry *a = pa, *b = pb;
	int c = same_or_order(a, b);

	return c != 0 ? c : (a->at < b->at) - (a->at > b->at);
}

static size_t
without_doubles(struct conf_per_entry *e, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++) {
		if (kept == 0 || same_or_order(&e[kept - 1], &e[i]) != 0)
			e[kept++] = e[i];
	}
	return kept;
}

static bool
same_prefix(const struct conf_cidr *a, const struct conf_cidr *b)
{
	return a->bits == b->bits && a->family == b->family && a->all == b->all;
}

const struct conf_per *
conf_per_parse(struct conf_arena *a, const struct conf_value *v)
{
	const struct conf_strings *list = v != NULL ? v->v.strings : NULL;
	struct conf_per *p;

	if (v == NULL)
		return NULL;
	p = conf_arena_zalloc(a, sizeof *p);
	p->value = v;
	p->e = conf_arena_zalloc(a, (list->n + 1) * sizeof *p->e);
	for (size_t i = 0; i < list->n; i++) {
		struct conf_per_entry *e = &p->e[i];
		struct slice what, value;

		CHECK(conf_type_pair(slice_str(list->s[i]), &what, &value));
		e->at = (unsigned)i;
		e->rate = value_of(v->d->type, value);
		if (v->d->type == CONF_TYPE_MX_COUNT)
			e->mx = without_wildcard(what, &e->below);
		else
			CHECK(conf_net_cidr(what, &e->cidr));
	}
	p->n = list->n;
	if (p->n > 1)
		qsort(p->e, p->n, sizeof *p->e, entry_order);
	p->n = without_doubles(p->e, p->n);
	for (size_t i = p->n; i-- > 0;) {
		bool last = i + 1 == p->n || !same_prefix(&p->e[i].cidr, &p->e[i + 1].cidr);

		p->e[i].next = last ? (unsigned)i + 1 : p->e[i + 1].next;
	}
	return p;
}

/* Look-up ------------------------------------------------------------------------------------- */
static int
net_order(const void *key, const void *entry)
{
	const struct conf_cidr *a = key;
	const struct conf_per_entry *e = entry;

	return memcmp(a->net, e->cidr.net, sizeof a->net);
}

const struct conf_per_entry *
conf_per_address(const struct conf_per *p, const struct sockaddr *addr)
{
	struct conf_cidr whole;
	bool known = conf_net_of(addr, &whole);

	/* Prefix by prefix, the longest first. */
	for (size_t i = 0; p != NULL && i < p->n; i = p->e[i].next) {
		const struct conf_per_entry *e = &p->e[i], *hit;
		struct conf_cidr key = whole;

		if (e->cidr.all || (!known && e->cidr.bits == 0))
			return e;
		if (!known || e->cidr.family != whole.family)
			continue;
		conf_net_mask(&key, e->cidr.bits);
		hit = bsearch(&key, e, e->next - i, sizeof *e, net_order);
		if (hit != NULL)
			return hit;
	}
	return NULL;
}

static bool
is_below(struct slice domain, struct slice mx)
{
	size_t more;

	if (domain.n == 0)
		return true;
	if (mx.n < domain.n + 2)
		return false;
	more = mx.n - domain.n;
	return mx.p[more - 1] == '.' && slice_eq_nocase(slice_sub(mx, more), domain);
}

const struct conf_per_entry *
conf_per_mx(const struct conf_per *p, struct slice mx)
{
	for (size_t i = 0; p != NULL && i < p->n; i++) {
		const struct conf_per_entry *e = &p->e[i];

		if (e->below ? is_below(e->mx, mx) : slice_eq_nocase(e->mx, mx))
			return e;
	}
	return NULL;
}

bool
conf_per_mx_matches(struct slice pattern, struct slice mx)
{
	bool below;
	struct slice name = without_wildcard(pattern, &below);

	return below ? is_below(name, mx) : slice_eq_nocase(name, mx);
}

const char *
conf_per_text(const struct conf_per *p, const struct conf_per_entry *e, unsigned *line)
{
	*line = p->value->v.strings->lines[e->at];
	return p->value->v.strings->s[e->at];
}
