#include "common/conf/conf_check.h"

#include <stdio.h>

#include "common/conf/conf_limits.h"
#include "common/conf/conf_macro.h"
#include "common/conf/conf_net.h"
#include "common/conf/conf_rules.h"
#include "common/conf/conf_type.h"
#include "common/conf/conf_words.h"

/* References ---------------------------------------------------------------------------------- */
static bool
is_vmta(struct conf_loader *x, struct slice name)
{
	return slice_is(name, "{default}") ||
	       conf_load_find(x, x->root, CONF_SCOPE_VMTA, name) != NULL;
}

static bool
is_pool(struct conf_loader *x, struct slice name)
{
	return conf_load_find(x, x->root, CONF_SCOPE_POOL, name) != NULL;
}

static void
check_vmtas(struct conf_loader *x, const struct conf_value *v)
{
	for (size_t i = 0; i < v->v.strings->n; i++) {
		struct slice name = slice_str(v->v.strings->s[i]);

		if (is_vmta(x, name))
			continue;
		if (is_pool(x, name))
			conf_msgs_error(x->msgs, v->file, v->v.strings->lines[i],
					"%s: \"%.100s\" is a pool; write virtual MTAs", v->d->name,
					name.p);
		else
			conf_load_undefined(x, v->file, v->v.strings->lines[i], name,
					    CONF_SCOPE_VMTA, CONF_SCOPE_VMTA);
	}
}

static bool
has_source_host(const struct conf_block *b, struct slice text, const struct sockaddr_storage *ip)
{
	const struct conf_value *pairs = conf_block_get(b, "smtp-source-host");
	struct sockaddr_storage own;
	struct slice first, name;
	socklen_t len;

	CONF_EACH(h, b, CONF_SCOPE_SOURCE_HOST)
	{
		if (slice_is(text, h->key) ||
		    (conf_net_ip(slice_str(h->key), &own, &len) && conf_net_same(&own, ip)))
			return true;
	}
	for (size_t i = 0; pairs != NULL && i < pairs->v.strings->n; i++) {
		if (conf_type_pair(slice_str(pairs->v.strings->s[i]), &first, &name) &&
		    conf_net_ip(first, &own, &len) && conf_net_same(&own, ip))
			return true;
	}
	return false;
}

/* Addresses that nothing is sent from: mail would wait for them as long as back-off lasts. */
static void
check_source_ips(struct conf_loader *x, const struct conf_value *v)
{
	for (size_t i = 0; i < v->v.strings->n; i++) {
		struct slice text = slice_str(v->v.strings->s[i]);
		struct sockaddr_storage ip;
		socklen_t len;
		bool found = !conf_net_ip(text, &ip, &len) || has_source_host(x->root, text, &ip);

		CONF_EACH(m, x->root, CONF_SCOPE_VMTA)
		found = found || has_source_host(m, text, &ip);
		if (!found)
			conf_load_undefined(x, v->file, v->v.strings->lines[i], text,
					    CONF_SCOPE_SOURCE_HOST, CONF_SCOPE_SOURCE_HOST);
	}
}

/* The blocks that a value of the type names; CONF_SCOPES for other types. */
static enum conf_scope_id
scope_named(enum conf_type type)
{
	switch (type) {
	case CONF_TYPE_VMTA:
	case CONF_TYPE_VMTA_POOL:
		return CONF_SCOPE_VMTA;
	case CONF_TYPE_SOURCE:
		return CONF_SCOPE_SOURCE;
	case CONF_TYPE_REPLY_LIST:
		return CONF_SCOPE_REPLY_LIST;
	case CONF_TYPE_PROVIDER:
		return CONF_SCOPE_PROVIDER;
	default:
		return CONF_SCOPES;
	}
}

static void
check_value(struct conf_loader *x, const struct conf_value *v)
{
	enum conf_scope_id scope = scope_named(v->d->type);
	bool pool = v->d->type == CONF_TYPE_VMTA_POOL;
	struct slice name;

	if (v->d->type == CONF_TYPE_VMTAS)
		check_vmtas(x, v);
	if (v->d->type == CONF_TYPE_IPS)
		check_source_ips(x, v);
	if (scope == CONF_SCOPES)
		return;
	name = slice_str(v->v.string);
	if (name.n == 0) /* it takes back what a wider name says */
		return;
	if (scope == CONF_SCOPE_VMTA
		    ? is_vmta(x, name) ||
			      (pool && (is_pool(x, name) || conf_words_choice(v->d->arg, name)))
		    : conf_load_find(x, x->root, scope, name) != NULL)
		return;
	conf_load_undefined(x, v->file, v->line, name, scope, pool ? CONF_SCOPE_POOL : scope);
}

static bool
names_retry_tls(const struct conf_value *v)
{
	for (size_t i = 0; i < v->v.strings->n; i++) {
		if (strstr(v->v.strings->s[i], "retry-tls") != NULL)
			return true;
	}
	return false;
}

/* What is of its type and known, but not done yet. */
static void
warn_value(struct conf_loader *x, const struct conf_block *b, const struct conf_value *v)
{
	bool todo = false;
	char where[300];

	if (v->d->type == CONF_TYPE_ACTIONS)
		todo = names_retry_tls(v);
	else if (v->d->type == CONF_TYPE_ACCT_PATH)
		todo = v->text[0] == '|';
	else if (b->scope == CONF_SCOPE_DOMAIN && strcmp(v->d->name, "type") == 0)
		todo = strcmp(v->text, "smtp") != 0 && strcmp(v->text, "discard") != 0;
	else if (b->scope == CONF_SCOPE_DOMAIN && strcmp(v->d->name, "bounce-upon-no-mx") == 0)
		todo = v->v.string != NULL && v->text[0] >= '0' && v->text[0] <= '9';
	else if (strcmp(v->d->name, "add-date-header") == 0)
		todo = strcmp(v->text, "override") == 0;
	else if (strcmp(v->d->name, "default-virtual-mta") == 0)
		todo = strcmp(v->text, "by-smtp-source-ip") == 0;
	if (todo)
		conf_msgs_warn(x->msgs, v->file, v->line, "%s: \"%.100s\" is not supported yet",
			       conf_place_name(b, v->d, where, sizeof where),
			       v->d->type == CONF_TYPE_ACTIONS ? "retry-tls" : v->text);
}

static void
warn_doubles(struct conf_loader *x, const struct conf_block *b, const struct conf_value *v)
{
	char where[300];

	if (v->d->type != CONF_TYPE_CIDR_COUNT && v->d->type != CONF_TYPE_CIDR_RATE &&
	    v->d->type != CONF_TYPE_CIDR_VOLUME && v->d->type != CONF_TYPE_MX_COUNT)
		return;
	if (conf_per_parse(x->arena, v)->n < v->v.strings->n)
		conf_msgs_warn(x->msgs, v->file, v->line,
			       "%s: one %s stands twice; the last counts",
			       conf_place_name(b, v->d, where, sizeof where),
			       v->d->type == CONF_TYPE_MX_COUNT ? "MX pattern" : "CIDR");
}

static void
check_block(struct conf_loader *x, const struct conf_block *b)
{
	for (const struct conf_value *v = b->values; v != NULL; v = v->next) {
		check_value(x, v);
		warn_value(x, b, v);
		warn_doubles(x, b, v);
	}
	for (const struct conf_block *c = b->children; c != NULL; c = c->next)
		check_block(x, c);
}

/* Domains ------------------------------------------------------------------------------------- */
struct domain_check {
	struct conf_loader *x;
	const struct conf_block *b;
	bool said;
};

static bool
check_expanded(void *arg, const char *domain)
{
	struct domain_check *dc = arg;
	char lower[CONF_PATTERN_MAX];

	if (!conf_type_pattern(slice_str(domain), lower) && !dc->said) {
		conf_msgs_error(dc->x->msgs, dc->b->file, dc->b->line,
				"domain \"%.100s\": its macros make \"%.100s\", which is no domain "
				"pattern",
				dc->b->key, domain);
		dc->said = true;
	}
	return true;
}

static void
check_domain(struct conf_loader *x, struct conf_expansion *e, const struct conf_block *b)
{
	struct domain_check dc = { .x = x, .b = b };
	const struct conf_value *v = conf_block_get(b, "name");

	if (v == NULL || strchr(v->v.string, '$') == NULL)
		return;
	if (conf_macro_expand(e, v->v.string, check_expanded, &dc) || e->why == NULL)
		return;
	if (strcmp(e->why, "no macro") == 0)
		conf_load_undefined(x, v->file, v->line, slice_str(e->at), CONF_SCOPE_MACRO,
				    CONF_SCOPE_MACRO);
	else
		conf_msgs_error(x->msgs, v->file, v->line, "domain \"%.100s\": %s names from $%s",
				b->key, e->why, e->at);
}

static void
check_domains(struct conf_loader *x)
{
	struct conf_expansion e = { .x = x, .budget = CONF_EXPANSIONS_MAX };

	CONF_EACH(b, x->root, CONF_SCOPE_DOMAIN)
	check_domain(x, &e, b);
	CONF_EACH(p, x->root, CONF_SCOPE_POOL)
	CONF_EACH(b, p, CONF_SCOPE_DOMAIN)
	check_domain(x, &e, b);
	CONF_EACH(m, x->root, CONF_SCOPE_VMTA)
	CONF_EACH(b, m, CONF_SCOPE_DOMAIN)
	check_domain(x, &e, b);
}

/* Pools --------------------------------------------------------------------------------------- */
/* One member of a pool that has domains: `id` of the virtual MTA remembers that pool. */
static void
claim_member(struct conf_loader *x, struct conf_block *pool, unsigned number,
	     const struct conf_value *v, size_t i, struct conf_block **by_number)
{
	struct conf_block *m =
		conf_load_find(x, x->root, CONF_SCOPE_VMTA, slice_str(v->v.strings->s[i]));

	if (m == NULL)
		return;
	if (m->id != 0 && m->id != number)
		conf_msgs_error(x->msgs, v->file, v->v.strings->lines[i],
				"virtual MTA \"%.60s\" is in the pools \"%.60s\" and \"%.60s\", "
				"which both have domains",
				m->key, by_number[m->id - 1]->key, pool->key);
	m->id = number;
}

static void
check_pools(struct conf_loader *x)
{
	struct conf_block **by_number;
	unsigned n = 0;

	CONF_EACH(p, x->root, CONF_SCOPE_POOL)
	n++;
	by_number = conf_arena_zalloc(x->arena, (n + 1) * sizeof *by_number);
	n = 0;
	CONF_EACH(p, x->root, CONF_SCOPE_POOL)
	{
		const struct conf_value *v = conf_block_get(p, "virtual-mtas");
		const struct conf_block *twin =
			conf_load_find(x, x->root, CONF_SCOPE_VMTA, slice_str(p->key));

		by_number[n++] = p;
		if (twin != NULL)
			conf_msgs_error(x->msgs, p->file, p->line,
					"the name \"%.100s\" belongs to a virtual MTA already, in "
					"%s:%u",
					p->key, x->files[twin->file].name, twin->line);
		if (v != NULL && v->v.strings->n == 0)
			conf_msgs_error(x->msgs, v->file, v->line, "the pool \"%.100s\" is empty",
					p->key);
		if (v == NULL || conf_block_skip(p->children, CONF_SCOPE_DOMAIN) == NULL)
			continue;
		for (size_t i = 0; i < v->v.strings->n; i++)
			claim_member(x, p, n, v, i, by_number);
	}
}

/* Bounds -------------------------------------------------------------------------------------- */
static void
check_count(struct conf_loader *x, enum conf_scope_id scope, unsigned most)
{
	unsigned n = 0;

	CONF_EACH(b, x->root, scope)
	{
		if (n++ == most)
			conf_msgs_error(x->msgs, b->file, b->line, "more than %u %s", most,
					conf_schema_scope(scope)->list);
	}
}

/* Two listeners may spell one address in two ways. */
static void
check_listeners(struct conf_loader *x)
{
	struct sockaddr_storage ss[LISTENERS_MAX];
	const struct conf_block *blocks[LISTENERS_MAX];
	unsigned n = 0;
	socklen_t len;

	CONF_EACH(b, x->root, CONF_SCOPE_SMTP_LISTENER)
	{
		if (n == LISTENERS_MAX || !conf_net_ip_port(slice_str(b->key), ':', &ss[n], &len))
			continue;
		for (unsigned i = 0; i < n; i++) {
			if (conf_net_same(&ss[i], &ss[n]))
				conf_msgs_error(x->msgs, b->file, b->line,
						"smtp-listener %.100s stands already in %s:%u",
						b->key, x->files[blocks[i]->file].name,
						blocks[i]->line);
		}
		blocks[n++] = b;
	}
}

void
conf_check(struct conf_loader *x)
{
	conf_macro_check(x);
	check_block(x, x->root);
	check_domains(x);
	check_pools(x);
	conf_limits_check(x);
	conf_rules_check(x);
	check_listeners(x);
	check_count(x, CONF_SCOPE_SMTP_LISTENER, LISTENERS_MAX);
}
