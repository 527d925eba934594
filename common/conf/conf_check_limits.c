/* conf_check_limits: limits of one thing that stand in several places. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "common/conf/conf_limits.h"
#include "common/conf/conf_type.h"

static bool
same_value(const struct conf_value *a, const struct conf_value *b)
{
	if (a->d->type == CONF_TYPE_RATE || a->d->type == CONF_TYPE_VOLUME)
		return a->v.rate.n == b->v.rate.n && a->v.rate.window_us == b->v.rate.window_us;
	return a->v.number == b->v.number;
}

/* The source hosts ---------------------------------------------------------------------------- */
struct host {
	struct conf_cidr addr;
	size_t at; /* in the order of the files */
	const struct conf_block *b;
};
struct hosts {
	struct host *v;
	size_t n, cap;
};

static void
hosts_add(struct hosts *all, const struct conf_block *parent)
{
	CONF_EACH(b, parent, CONF_SCOPE_SOURCE_HOST)
	{
		struct host h = { .at = all->n, .b = b };
		void *p = all->v;

		if (!conf_net_cidr(slice_str(b->key), &h.addr))
			continue;
		mem_grow(&p, &all->cap, all->n + 1, sizeof *all->v);
		all->v = p;
		all->v[all->n++] = h;
	}
}

static int
addr_order(const struct host *a, const struct host *b)
{
	if (a->addr.family != b->addr.family)
		return a->addr.family < b->addr.family ? -1 : 1;
	return memcmp(a->addr.net, b->addr.net, sizeof a->addr.net);
}

static int
host_order(const void *pa, const void *pb)
{
	const struct host *a = pa, *b = pb;
	int c = addr_order(a, b);

	return c != 0 ? c : (a->at > b->at) - (a->at < b->at);
}

/* One address, in several virtual MTAs: what they say of it must agree. */
static void
check_one_host(struct conf_loader *x, const struct host *h, size_t n)
{
	const struct conf_scope *scope = conf_schema_scope(CONF_SCOPE_SOURCE_HOST);
	char where[300];

	for (size_t k = 0; k < scope->n_rows; k++) {
		const struct conf_directive *d = &scope->rows[k];
		const struct conf_value *first = NULL;

		for (size_t i = 0; i < n && d->offset != CONF_UNBOUND; i++) {
			const struct conf_value *v = conf_block_value(h[i].b, d);

			if (first == NULL || v == NULL) {
				first = first != NULL ? first : v;
				continue;
			}
			if (same_value(first, v))
				continue;
			conf_msgs_error(x->msgs, v->file, v->line,
					"%s: \"%.60s\" contradicts \"%.60s\" in %s:%u; a limit of "
					"an address holds for all virtual MTAs together",
					conf_place_name(h[i].b, d, where, sizeof where), v->text,
					first->text, x->files[first->file].name, first->line);
			break;
		}
	}
}

static void
check_hosts(struct conf_loader *x)
{
	struct hosts all = { 0 };
	size_t end;

	hosts_add(&all, x->root);
	CONF_EACH(m, x->root, CONF_SCOPE_VMTA)
	hosts_add(&all, m);
	if (all.n > 1)
		qsort(all.v, all.n, sizeof *all.v, host_order);
	for (size_t i = 0; i < all.n; i = end) {
		end = i + 1;
		while (end < all.n && addr_order(&all.v[i], &all.v[end]) == 0)
			end++;
		if (end > i + 1)
			check_one_host(x, &all.v[i], end - i);
	}
	mem_free(all.v);
}

/* Pools --------------------------------------------------------------------------------------- */
/* One limit of a pool, for one member: another pool must not have said otherwise, unless the member
 * decides. */
static void
check_inherited(struct conf_loader *x, struct conf_block *member, const struct conf_value *v,
		const struct conf_value **said)
{
	if (conf_block_get(member, v->d->name) != NULL)
		return;
	if (*said == NULL) {
		*said = v;
		return;
	}
	if (!same_value(*said, v))
		conf_msgs_error(
			x->msgs, v->file, v->line,
			"virtual MTA \"%.60s\" would inherit %s \"%.60s\" and \"%.60s\" of %s:%u",
			member->key, v->d->name, v->text, (*said)->text,
			x->files[(*said)->file].name, (*said)->line);
}

static void
check_pools_limit(struct conf_loader *x, const struct conf_directive *d, unsigned n_vmtas)
{
	const struct conf_value **said = mem_calloc(n_vmtas + 1, sizeof *said);

	CONF_EACH(p, x->root, CONF_SCOPE_POOL)
	{
		const struct conf_value *members = conf_block_get(p, "virtual-mtas");
		const struct conf_value *v = conf_block_value(p, d);

		for (size_t i = 0; v != NULL && members != NULL && i < members->v.strings->n; i++) {
			struct conf_block *m = conf_load_find(x, x->root, CONF_SCOPE_VMTA,
							      slice_str(members->v.strings->s[i]));

			if (m != NULL)
				check_inherited(x, m, v, &said[m->id]);
		}
	}
	mem_free(said);
}

static void
check_pools(struct conf_loader *x)
{
	const struct conf_scope *scope = conf_schema_scope(CONF_SCOPE_POOL);
	unsigned n = 0;

	CONF_EACH(m, x->root, CONF_SCOPE_VMTA)
	m->id = n++; /* of no meaning after this */
	for (size_t k = 0; k < scope->n_rows; k++) {
		if (scope->rows[k].offset != CONF_UNBOUND)
			check_pools_limit(x, &scope->rows[k], n);
	}
}

/* Twins --------------------------------------------------------------------------------------- */
/* The normal value beside the twin: of the same domain, else of all in the same place, else of all.
 */
static const struct conf_value *
normal_of(struct conf_loader *x, const struct conf_block *domain, const char *name)
{
	const struct conf_block *all[] = {
		domain,
		conf_load_find(x, domain->parent, CONF_SCOPE_DOMAIN, SLICE_LIT("*")),
		conf_load_find(x, x->root, CONF_SCOPE_DOMAIN, SLICE_LIT("*")),
	};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		const struct conf_value *v = all[i] == NULL ? NULL : conf_block_get(all[i], name);

		if (v != NULL)
			return v;
	}
	return NULL;
}

static bool
is_above(const struct conf_value *twin, const struct conf_value *normal)
{
	const struct conf_rate *a = &twin->v.rate, *b = &normal->v.rate;

	if (twin->d->type != CONF_TYPE_RATE && twin->d->type != CONF_TYPE_VOLUME)
		return twin->v.number > normal->v.number;
	if (b->n == 0 || b->window_us == 0)
		return false; /* unlimited */
	if (a->n == 0 || a->window_us == 0)
		return true;
	return (double)a->n * (double)b->window_us > (double)b->n * (double)a->window_us;
}

/* It may be meant so; but whoever writes it most likely mistook one for the other. */
static void
check_twins(struct conf_loader *x, const struct conf_block *b)
{
	static const char *const names[] = { "backoff-max-smtp-out", "backoff-max-msg-rate",
					     "backoff-max-connect-rate",
					     "backoff-max-data-volume-rate" };

	for (size_t i = 0; b->scope == CONF_SCOPE_DOMAIN && i < sizeof names / sizeof *names; i++) {
		const struct conf_value *twin = conf_block_get(b, names[i]), *normal;
		char where[300];

		if (twin == NULL)
			continue;
		normal = normal_of(x, b, names[i] + sizeof "backoff-" - 1);
		if (normal != NULL && is_above(twin, normal))
			conf_msgs_warn(x->msgs, twin->file, twin->line,
				       "%s: \"%.60s\" is above the normal \"%.60s\" of %s:%u",
				       conf_place_name(b, twin->d, where, sizeof where), twin->text,
				       normal->text, x->files[normal->file].name, normal->line);
	}
	for (const struct conf_block *c = b->children; c != NULL; c = c->next)
		check_twins(x, c);
}

void
conf_limits_check(struct conf_loader *x)
{
	check_hosts(x);
	check_pools(x);
	check_twins(x, x->root);
}
