/* conf_build: the arrays and structs that other modules ask for, out of the tree. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uthash.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/conf/conf_domain.h"
#include "common/conf/conf_impl.h"
#include "common/conf/conf_limits.h"
#include "common/conf/conf_names.h"
#include "common/conf/conf_rollup.h"
#include "common/conf/conf_rules.h"
#include "common/conf/conf_type.h"

static unsigned
count(const struct conf_block *parent, enum conf_scope_id scope)
{
	unsigned n = 0;

	for (struct conf_block *b = conf_block_skip(parent->children, scope); b != NULL;
	     b = conf_block_skip(b->next, scope))
		n++;
	return n;
}

bool
conf_store(void *base, const struct conf_value *v)
{
	char *to = (char *)base + v->d->offset;

	if (v->d->offset == CONF_UNBOUND)
		return false;
	switch (v->d->type) {
	case CONF_TYPE_BOOL:
		*(bool *)to = v->v.flag;
		return true;
	case CONF_TYPE_RATE:
	case CONF_TYPE_VOLUME:
		*(struct conf_rate *)to = v->v.rate;
		return true;
	case CONF_TYPE_INTERVALS:
		*(struct conf_intervals *)to = *v->v.intervals;
		return true;
	case CONF_TYPE_COUNT:
	case CONF_TYPE_COUNT_U:
	case CONF_TYPE_INTERVAL:
	case CONF_TYPE_INTERVAL_N:
	case CONF_TYPE_SIZE:
	case CONF_TYPE_SIZE_U:
		if (v->d->size == sizeof(uint64_t))
			*(uint64_t *)to = v->v.number;
		else if (v->d->size == sizeof(uint32_t))
			*(uint32_t *)to = (uint32_t)v->v.number;
		else
			*(uint16_t *)to = (uint16_t)v->v.number;
		return true;
	default:
		CHECK(v->d->size == sizeof(char *));
		*(const char **)to = v->v.string;
		return true;
	}
}

static void
store_defaults(struct conf *c, enum conf_scope_id scope, void *base)
{
	const struct conf_scope *s = conf_schema_scope(scope);
	struct conf_value v;

	for (size_t i = 0; i < s->n_rows; i++) {
		if (s->rows[i].offset != CONF_UNBOUND &&
		    conf_type_default(&c->arena, &s->rows[i], &v))
			conf_store(base, &v);
	}
}

static void
store_values(const struct conf_block *b, void *base)
{
	for (const struct conf_value *v = b->values; v != NULL; v = v->next)
		conf_store(base, v);
}

static const char *
first_of(const struct conf_block *b, const char *name)
{
	const struct conf_value *v = conf_block_get(b, name);

	return v == NULL || v->v.strings->n == 0 ? NULL : v->v.strings->s[0];
}

/* Global -------------------------------------------------------------------------------------- */
static void
build_global(struct conf *c)
{
	struct conf_global *g = &c->global;
	const struct conf_value *user = conf_block_get(c->root, "user");
	const struct conf_value *servers = conf_block_get(c->root, "name-server");
	char name[256];

	store_defaults(c, CONF_SCOPE_GLOBAL, g);
	store_values(c->root, g);
	g->host_name = first_of(c->root, "host-name");
	if (g->host_name == NULL) {
		if (gethostname(name, sizeof name) != 0)
			str_copy(name, sizeof name, SLICE_LIT("localhost"));
		name[sizeof name - 1] = '\0';
		g->host_name = conf_arena_str(&c->arena, slice_str(name));
	}
	g->user = user ? user->v.string : NULL;
	g->postmaster = first_of(c->root, "postmaster");
	if (g->postmaster == NULL) {
		char text[300];

		snprintf(text, sizeof text, "postmaster@%s", g->host_name);
		g->postmaster = conf_arena_str(&c->arena, slice_str(text));
	}
	g->name_server = first_of(c->root, "name-server");
	g->name_servers = servers ? servers->v.strings->s
				  : (const char **)conf_arena_zalloc(&c->arena, sizeof(char *));
}

static void
build_listeners(struct conf *c)
{
	static const char anywhere[] = "0.0.0.0:25"; /* as PowerMTA, where none is given */
	struct conf_listener *l;

	c->n_listeners = count(c->root, CONF_SCOPE_SMTP_LISTENER);
	c->listeners = conf_arena_zalloc(&c->arena, (c->n_listeners + 1) * sizeof *c->listeners);
	l = c->listeners;
	CONF_EACH(b, c->root, CONF_SCOPE_SMTP_LISTENER)
	{
		const struct conf_value *source = conf_block_get(b, "source");

		l->text = b->key;
		CHECK(conf_net_ip_port(slice_str(b->key), ':', &l->addr, &l->addr_len));
		l->source = source ? source->v.string : NULL;
		l->file = c->files[b->file];
		l->line = b->line;
		l++;
	}
	if (c->n_listeners == 0) {
		l->text = anywhere;
		CHECK(conf_net_ip_port(SLICE_LIT("0.0.0.0:25"), ':', &l->addr, &l->addr_len));
		c->n_listeners = 1;
	}
}

/* Virtual MTAs -------------------------------------------------------------------------------- */
static unsigned
source_ip_number(struct conf *c, const char *text)
{
	struct conf_source_ip ip = { .text = text };
	void *v = c->source_ips;

	CHECK(conf_net_ip(slice_str(text), &ip.addr, &ip.addr_len));
	for (size_t i = 1; i < c->n_source_ips; i++) {
		if (conf_net_same(&c->source_ips[i].addr, &ip.addr))
			return (unsigned)i;
	}
	mem_grow(&v, &c->cap_source_ips, c->n_source_ips + 1, sizeof *c->source_ips);
	c->source_ips = v;
	c->source_ips[c->n_source_ips] = ip;
	return (unsigned)c->n_source_ips++;
}

static void
build_sources(struct conf *c, struct conf_vmta *m, const struct conf_block *b)
{
	const struct conf_value *pairs = conf_block_get(b, "smtp-source-host");
	unsigned n = count(b, CONF_SCOPE_SOURCE_HOST) + (pairs ? (unsigned)pairs->v.strings->n : 0);
	struct conf_vmta_source *s = conf_arena_zalloc(&c->arena, (n + 1) * sizeof *s);

	m->sources = s;
	m->n_sources = n;
	for (size_t i = 0; pairs != NULL && i < pairs->v.strings->n; i++, s++) {
		struct slice ip, name;

		CHECK(conf_type_pair(slice_str(pairs->v.strings->s[i]), &ip, &name));
		s->source_ip = source_ip_number(c, conf_arena_str(&c->arena, ip));
		s->helo = conf_arena_str(&c->arena, name);
		s->weight = 1;
	}
	CONF_EACH(h, b, CONF_SCOPE_SOURCE_HOST)
	{
		const struct conf_value *name = conf_block_get(h, "name");
		const struct conf_value *weight = conf_block_get(h, "weight");

		s->source_ip = h->id = source_ip_number(c, h->key);
		s->helo = name ? name->v.string : c->global.host_name;
		s->weight = weight ? (unsigned)weight->v.number : 1;
		s++;
	}
}

static void
build_vmtas(struct conf *c)
{
	struct conf_vmta *m;

	c->n_vmtas = 1 + count(c->root, CONF_SCOPE_VMTA);
	m = c->vmtas = conf_arena_zalloc(&c->arena, c->n_vmtas * sizeof *c->vmtas);
	c->vmta_pool = conf_arena_zalloc(&c->arena, c->n_vmtas * sizeof *c->vmta_pool);
	c->source_ips = mem_zalloc(16 * sizeof *c->source_ips);
	c->cap_source_ips = 16;
	c->n_source_ips = 1;
	c->source_ips[0].text = "";
	m->name = "{default}";
	build_sources(c, m, c->root);
	if (m->n_sources == 0) {
		struct conf_vmta_source *s = conf_arena_zalloc(&c->arena, sizeof *s);

		*s = (struct conf_vmta_source){ 0, c->global.host_name, 1 };
		m->sources = s;
		m->n_sources = 1;
	}
	CONF_EACH(b, c->root, CONF_SCOPE_VMTA)
	{
		b->id = (unsigned)(++m - c->vmtas);
		m->name = b->key;
		build_sources(c, m, b);
		if (m->n_sources == 0) { /* the global ones */
			m->sources = c->vmtas[0].sources;
			m->n_sources = c->vmtas[0].n_sources;
		}
	}
	for (size_t i = 0; i < c->n_vmtas; i++) {
		c->vmta_pool[i] = -1;
		conf_names_add(c, c->vmtas[i].name, CONF_NAMED_VMTA, (unsigned)i);
	}
	conf_names_add(c, CONF_VMTA_NOTIFY, CONF_NAMED_VMTA, 0);
}

static void
build_pools(struct conf *c)
{
	struct conf_pool *p;

	c->n_pools = count(c->root, CONF_SCOPE_POOL);
	p = c->pools = conf_arena_zalloc(&c->arena, (c->n_pools + 1) * sizeof *c->pools);
	CONF_EACH(b, c->root, CONF_SCOPE_POOL)
	{
		const struct conf_strings *s = conf_block_get(b, "virtual-mtas")->v.strings;
		unsigned *numbers = conf_arena_zalloc(&c->arena, (s->n + 1) * sizeof *numbers);
		bool has_domains = conf_block_skip(b->children, CONF_SCOPE_DOMAIN) != NULL;

		b->id = (unsigned)(p - c->pools);
		p->name = b->key;
		p->vmtas = numbers;
		for (size_t i = 0; i < s->n; i++) {
			int v = conf_vmta_find(c, slice_str(s->s[i]));

			CHECK(v >= 0);
			numbers[p->n_vmtas++] = (unsigned)v;
			if (has_domains)
				c->vmta_pool[v] = (int)b->id;
		}
		conf_names_add(c, p->name, CONF_NAMED_POOL, b->id);
		p++;
	}
}

/* Client rules -------------------------------------------------------------------------------- */
static int
rule_order(const void *pa, const void *pb)
{
	const struct conf_client_rule *a = pa, *b = pb;

	if (a->by_name != b->by_name)
		return a->by_name ? 1 : -1;
	if (a->cidr.bits != b->cidr.bits)
		return a->cidr.bits < b->cidr.bits ? -1 : 1;
	return a->block->id < b->block->id ? -1 : a->block->id > b->block->id;
}

static void
build_clients(struct conf *c)
{
	const struct conf_value *relay = conf_block_get(c->root, "always-allow-relaying");
	struct conf_client_rule *r;

	store_defaults(c, CONF_SCOPE_SOURCE, &c->client_defaults);
	if (relay != NULL)
		c->client_defaults.always_allow_relaying = relay->v.flag;
	c->n_client_rules = count(c->root, CONF_SCOPE_SOURCE);
	r = c->client_rules = conf_arena_zalloc(&c->arena, (c->n_client_rules + 1) * sizeof *c->client_rules);
	CONF_EACH(b, c->root, CONF_SCOPE_SOURCE)
	{
		b->id = (unsigned)(r - c->client_rules);
		r->block = b;
		r->by_name = !conf_net_cidr(slice_str(b->key), &r->cidr);
		r++;
	}
	if (c->n_client_rules > 1)
		qsort(c->client_rules, c->n_client_rules, sizeof *c->client_rules, rule_order);
}

/* Accounting files ---------------------------------------------------------------------------- */
static void
set_record(struct conf_acct_file *f, struct slice word)
{
	const struct {
		const char *a, *b;
		bool *flag;
	} words[] = {
		{ "d", "delivered", &f->d },       { "b", "bounced", &f->b },
		{ "t", "transient", &f->t },       { "tq", "transient-queue", &f->tq },
		{ "r", "received", &f->r },        { "rb", "remote-bounced", &f->rb },
		{ "rs", "remote-status", &f->rs }, { "f", "feedback-loop", &f->f },
	};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		if (slice_is(word, words[i].a) || slice_is(word, words[i].b))
			*words[i].flag = true;
	}
}

static void
build_acct(struct conf *c)
{
	struct conf_acct_file *f;

	c->n_acct_files = count(c->root, CONF_SCOPE_ACCT);
	f = c->acct_files = conf_arena_zalloc(&c->arena, (c->n_acct_files + 1) * sizeof *f);
	CONF_EACH(b, c->root, CONF_SCOPE_ACCT)
	{
		const struct conf_value *records = conf_block_get(b, "records");
		const struct conf_value *format = conf_block_get(b, "format");

		store_defaults(c, CONF_SCOPE_ACCT, f);
		store_values(b, f);
		f->path = b->key;
		f->json = format != NULL && strcmp(format->text, "json") == 0;
		f->d = f->b = records == NULL;
		for (size_t i = 0; records != NULL && i < records->v.strings->n; i++) {
			struct slice rest = slice_str(records->v.strings->s[i]);

			while (rest.p != NULL)
				set_record(f, slice_trim(slice_cut(&rest, ',')));
		}
		f++;
	}
}

/* Domains ------------------------------------------------------------------------------------- */
/* The list of a block with the global one behind it. */
static void
join_destinations(struct conf *c, struct conf_block *b, const struct conf_value *global)
{
	struct conf_value *v = conf_block_value(b, c->rows.allow_destinations);
	struct conf_strings *all;

	if (v == NULL || global == NULL)
		return;
	all = conf_arena_zalloc(&c->arena, sizeof *all);
	all->n = v->v.strings->n + global->v.strings->n;
	all->s = conf_arena_zalloc(&c->arena, (all->n + 1) * sizeof *all->s);
	memcpy(all->s, v->v.strings->s, v->v.strings->n * sizeof *all->s);
	memcpy(all->s + v->v.strings->n, global->v.strings->s,
	       global->v.strings->n * sizeof *all->s);
	v->v.strings = all;
}

static void
build_domains_of(struct conf *c, struct conf_expansion *e, unsigned holder,
		 const struct conf_block *parent)
{
	const struct conf_value *global =
		conf_block_value(c->root, c->rows.global_allow_destinations);

	CONF_EACH(b, parent, CONF_SCOPE_DOMAIN)
	{
		join_destinations(c, b, global);
		c->n_backoff_notify += conf_block_value(b, c->rows.backoff_notify) != NULL;
		c->n_source_notify += conf_block_value(b, c->rows.source_notify) != NULL;
		conf_limits_domain(c, b);
		conf_rollup_domain(c, b);
		conf_domain_add(c, e, holder, b);
	}
}

static void
build_domains(struct conf *c, struct conf_loader *x)
{
	struct conf_expansion e = { .x = x, .budget = CONF_EXPANSIONS_MAX };
	const struct conf_value *global =
		conf_block_value(c->root, c->rows.global_allow_destinations);

	store_defaults(c, CONF_SCOPE_DOMAIN, &c->queue_defaults);
	conf_limits_twins_begin(&c->queue_defaults);
	c->queue_defaults.rules = -1;
	c->queue_defaults.allow_destinations =
		global ? (const char *const *)global->v.strings->s
		       : (const char *const *)conf_arena_zalloc(&c->arena, sizeof(char *));
	build_domains_of(c, &e, CONF_HOLDER_GLOBAL, c->root);
	CONF_EACH(p, c->root, CONF_SCOPE_POOL)
	build_domains_of(c, &e, conf_holder_pool(p->id), p);
	CONF_EACH(m, c->root, CONF_SCOPE_VMTA)
	build_domains_of(c, &e, conf_holder_vmta(c, m->id), m);
	conf_domain_added(c);
}

void
conf_build(struct conf *c, struct conf_loader *x)
{
	c->root = x->root;
	c->rows.type = conf_schema_find(CONF_SCOPE_DOMAIN, "type");
	c->rows.allow_destinations = conf_schema_find(CONF_SCOPE_DOMAIN, "allow-destinations");
	c->rows.bounce_upon_no_mx = conf_schema_find(CONF_SCOPE_DOMAIN, "bounce-upon-no-mx");
	c->rows.pattern_list = conf_schema_find(CONF_SCOPE_DOMAIN, "smtp-pattern-list");
	c->rows.recover = conf_schema_find(CONF_SCOPE_DOMAIN, "recover");
	c->rows.backoff_notify = conf_schema_find(CONF_SCOPE_DOMAIN, "backoff-notify");
	c->rows.source_notify = conf_schema_find(CONF_SCOPE_DOMAIN, "disabled-source-ip-notify");
	c->rows.add_date_header = conf_schema_find(CONF_SCOPE_SOURCE, "add-date-header");
	c->rows.global_allow_destinations =
		conf_schema_find(CONF_SCOPE_GLOBAL, "allow-destinations");
	build_global(c);
	build_listeners(c);
	build_vmtas(c);
	build_pools(c);
	conf_limits_build(c);
	conf_rollup_build(c);
	conf_rules_build(c);
	build_clients(c);
	build_acct(c);
	build_domains(c, x);
	conf_domain_warn_hidden(c, x);
	conf_rollup_warn(c, x);
	c->longest_window = conf_window_longest(c->root);
}
