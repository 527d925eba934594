#include "common/conf/conf_limits.h"

#include "common/base/check.h"
#include "common/conf/conf_domain.h"
#include "common/conf/conf_names.h"
#include "common/conf/conf_override.h"
#include "common/conf/conf_value.h"

#define HOUR_US          (3600ull * 1000 * 1000)
#define BACKOFF_OUT_MOST 20         /* PowerMTA's default of backoff-max-smtp-out */
#define NOT_GIVEN        UINT64_MAX /* n of a twin */

static const char *const source_names[2][CONF_SOURCE_MEASURES] = {
	{ "source-ip-max-msg-rate", "source-ip-max-connect-rate", "source-ip-max-data-volume-rate",
	  "source-ip-max-smtp-out" },
	{ "backoff-source-ip-max-msg-rate", "backoff-source-ip-max-connect-rate",
	  "backoff-source-ip-max-data-volume-rate", "backoff-source-ip-max-smtp-out" },
};

/* Building ------------------------------------------------------------------------------------ */
static void
store_limits(struct conf_limits *l, const struct conf_block *b)
{
	for (const struct conf_value *v = b->values; v != NULL; v = v->next)
		conf_store(l, v);
}

/* The pools' first: what a virtual MTA says itself wins. */
static void
build_vmtas(struct conf *c)
{
	CONF_EACH(p, c->root, CONF_SCOPE_POOL)
	{
		const struct conf_pool *pool = &c->pools[p->id];

		for (unsigned i = 0; i < pool->n_vmtas; i++)
			store_limits(&c->vmtas[pool->vmtas[i]].limits, p);
	}
	CONF_EACH(v, c->root, CONF_SCOPE_VMTA)
	store_limits(&c->vmtas[v->id].limits, v);
}

/* conf_limits_check() saw to it that no two say different things of one address. */
static void
build_source_ips(struct conf *c, const struct conf_block *parent)
{
	CONF_EACH(h, parent, CONF_SCOPE_SOURCE_HOST)
	store_limits(&c->source_ips[h->id].limits, h);
}

static void
build_providers(struct conf *c)
{
	struct conf_provider *p;
	size_t n = 0;

	CONF_EACH(b, c->root, CONF_SCOPE_PROVIDER)
	n++;
	p = c->providers = conf_arena_zalloc(&c->arena, (n + 1) * sizeof *p);
	CONF_EACH(b, c->root, CONF_SCOPE_PROVIDER)
	{
		p->name = b->key;
		p->mx = conf_block_get(b, "mx")->v.strings->s;
		store_limits(&p->limits, b);
		b->id = (unsigned)c->n_providers++;
		conf_names_add(c, p->name, CONF_NAMED_PROVIDER, b->id);
		p++;
	}
}

static struct conf_limits *
build_named(struct conf *c, enum conf_scope_id scope, enum conf_named_kind kind)
{
	struct conf_limits *l;
	unsigned n = 0;

	CONF_EACH(b, c->root, scope)
	n++;
	l = conf_arena_zalloc(&c->arena, (n + 1) * sizeof *l);
	n = 0;
	CONF_EACH(b, c->root, scope)
	{
		store_limits(&l[n], b);
		b->id = n++;
		conf_names_add(c, b->key, kind, b->id);
	}
	return l;
}

void
conf_limits_build(struct conf *c)
{
	build_vmtas(c);
	build_source_ips(c, c->root);
	CONF_EACH(v, c->root, CONF_SCOPE_VMTA)
	build_source_ips(c, v);
	build_providers(c);
	c->jobs = build_named(c, CONF_SCOPE_JOB, CONF_NAMED_JOB);
	c->senders = build_named(c, CONF_SCOPE_SENDER, CONF_NAMED_SENDER);
	c->mx_connections =
		conf_per_parse(&c->arena, conf_block_get(c->root, "mx-connection-limit"));
	c->ip_connections =
		conf_per_parse(&c->arena, conf_block_get(c->root, "ip-connection-limit"));
}

void
conf_limits_domain(struct conf *c, struct conf_block *b)
{
	struct conf_source_limits *l = NULL;

	for (unsigned twin = 0; twin < 2; twin++) {
		for (unsigned m = 0; m < CONF_SOURCE_MEASURES; m++) {
			const struct conf_value *v = conf_block_get(b, source_names[twin][m]);

			if (v == NULL)
				continue;
			if (l == NULL)
				l = conf_arena_zalloc(&c->arena, sizeof *l);
			l->of[twin][m] = conf_per_parse(&c->arena, v);
		}
	}
	b->source_limits = l;
	c->has_source_limits |= l != NULL;
}

/* Twins --------------------------------------------------------------------------------------- */
void
conf_limits_twins_begin(struct conf_queue *q)
{
	q->backoff.max_msg_rate.n = NOT_GIVEN;
	q->backoff.max_connect_rate.n = NOT_GIVEN;
	q->backoff.max_data_volume_rate.n = NOT_GIVEN;
}

static void
twin_rate(struct conf_rate *twin, const struct conf_rate *normal)
{
	if (twin->n == NOT_GIVEN)
		*twin = *normal;
}

void
conf_limits_twins_end(struct conf_queue *q)
{
	twin_rate(&q->backoff.max_msg_rate, &q->max_msg_rate);
	twin_rate(&q->backoff.max_connect_rate, &q->max_connect_rate);
	twin_rate(&q->backoff.max_data_volume_rate, &q->max_data_volume_rate);
	if (q->backoff.max_smtp_out == 0)
		q->backoff.max_smtp_out =
			q->max_smtp_out < BACKOFF_OUT_MOST ? q->max_smtp_out : BACKOFF_OUT_MOST;
	if (q->backoff_retry_after.n > 0)
		return;
	q->backoff_retry_after = q->retry_after;
	for (unsigned i = 0; i < q->retry_after.n; i++) {
		if (q->retry_after.us[i] < HOUR_US)
			q->backoff_retry_after.us[i] = HOUR_US;
	}
}

/* Asking -------------------------------------------------------------------------------------- */
size_t
conf_providers(const struct conf *c, const struct conf_provider **out)
{
	*out = c->providers;
	return c->n_providers;
}

static bool
has_host(const struct conf_provider *p, struct slice mx)
{
	for (const char *const *pattern = p->mx; *pattern != NULL; pattern++) {
		if (conf_per_mx_matches(slice_str(*pattern), mx))
			return true;
	}
	return false;
}

int
conf_provider_find(const struct conf *c, const struct slice *mx, size_t n)
{
	for (size_t i = 0; n > 0 && i < c->n_providers; i++) {
		size_t has = 0;

		while (has < n && has_host(&c->providers[i], mx[has]))
			has++;
		if (has == n)
			return (int)i;
	}
	return -1;
}

const struct conf_limits *
conf_provider_limits(const struct conf *c, struct slice provider)
{
	int n = conf_names_find(c, provider, CONF_NAMED_PROVIDER);

	return n < 0 ? NULL : &c->providers[n].limits;
}

const struct conf_limits *
conf_job_limits(const struct conf *c, struct slice job)
{
	int n = conf_names_find(c, job, CONF_NAMED_JOB);

	return n < 0 ? NULL : &c->jobs[n];
}

const struct conf_limits *
conf_sender_limits(const struct conf *c, struct slice sender_domain)
{
	int n = conf_names_find(c, sender_domain, CONF_NAMED_SENDER);

	return n < 0 ? NULL : &c->senders[n];
}

static uint64_t
connections(const struct conf_per_entry *e)
{
	return e == NULL || e->rate.n == 0 ? CONF_UNLIMITED : e->rate.n;
}

uint64_t
conf_mx_connection_limit(const struct conf *c, struct slice mx)
{
	return connections(conf_per_mx(c->mx_connections, mx));
}

uint64_t
conf_ip_connection_limit(const struct conf *c, const struct sockaddr *destination)
{
	return connections(conf_per_address(c->ip_connections, destination));
}

/* Queue × source IP --------------------------------------------------------------------------- */
struct source_search {
	const struct sockaddr *addr;
	const struct conf_per *list[2][CONF_SOURCE_MEASURES];
	const struct conf_per_entry *hit[2][CONF_SOURCE_MEASURES];
};

static void
note_source_limits(void *arg, const struct conf_block *block)
{
	struct source_search *s = arg;

	for (unsigned i = 0; block->source_limits != NULL && i < 2 * CONF_SOURCE_MEASURES; i++) {
		unsigned twin = i / CONF_SOURCE_MEASURES, m = i % CONF_SOURCE_MEASURES;
		const struct conf_per *p = block->source_limits->of[twin][m];
		const struct conf_per_entry *e = conf_per_address(p, s->addr);

		if (e != NULL) {
			s->list[twin][m] = p;
			s->hit[twin][m] = e;
		}
	}
}

/* False: nothing is to be found. */
static bool
search_source_limits(const struct conf *c, struct slice domain, struct slice vmta,
		     const struct sockaddr *addr, struct source_search *s)
{
	int v;

	*s = (struct source_search){ .addr = addr };
	if (!c->has_source_limits)
		return false;
	v = conf_vmta_find(c, vmta);
	conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, note_source_limits, s);
	return true;
}

static void
note_overrides(struct source_search *s, struct conf_overs over)
{
	for (size_t i = 0; i < over.n; i++) {
		const struct conf_per *p = conf_override_per(over.v[i].override);
		const struct conf_per_entry *e = conf_per_address(p, s->addr);
		unsigned k = 0;

		if (e == NULL)
			continue;
		while (strcmp(source_names[k / CONF_SOURCE_MEASURES][k % CONF_SOURCE_MEASURES],
			      p->value->d->name) != 0)
			k++;
		s->hit[k / CONF_SOURCE_MEASURES][k % CONF_SOURCE_MEASURES] = e;
	}
}

void
conf_queue_source(const struct conf *c, struct slice domain, struct slice vmta, unsigned source_ip,
		  bool backoff, struct conf_limits *out)
{
	conf_queue_source_over(c, domain, vmta, source_ip, backoff, (struct conf_overs){ NULL, 0 },
			       out);
}

void
conf_queue_source_over(const struct conf *c, struct slice domain, struct slice vmta,
		       unsigned source_ip, bool backoff, struct conf_overs over,
		       struct conf_limits *out)
{
	struct conf_rate r[CONF_SOURCE_MEASURES] = { { 0, 0 } };
	struct source_search s;

	CHECK(source_ip < c->n_source_ips);
	if (search_source_limits(c, domain, vmta, (struct sockaddr *)&c->source_ips[source_ip].addr,
				 &s) ||
	    over.n > 0) {
		note_overrides(&s, over);
		for (unsigned m = 0; m < CONF_SOURCE_MEASURES; m++) {
			if (backoff && s.hit[1][m] != NULL)
				r[m] = s.hit[1][m]->rate;
			else if (s.hit[0][m] != NULL)
				r[m] = s.hit[0][m]->rate;
		}
	}
	*out = (struct conf_limits){ .max_msg_rate = r[CONF_SOURCE_MSG],
				     .max_connect_rate = r[CONF_SOURCE_CONNECT],
				     .max_data_volume_rate = r[CONF_SOURCE_VOLUME],
				     .max_smtp_out = r[CONF_SOURCE_SMTP_OUT].n };
}

/* Where a limit stands ------------------------------------------------------------------------ */
static bool
found(const struct conf *c, const struct conf_value *v, struct conf_setting *out)
{
	if (v == NULL)
		return false;
	*out = (struct conf_setting){ v->text, c->files[v->file], v->line };
	return true;
}

static bool
found_per(const struct conf *c, const struct conf_per *p, const struct conf_per_entry *e,
	  struct conf_setting *out)
{
	if (e == NULL)
		return false;
	out->value = conf_per_text(p, e, &out->line);
	out->file = c->files[p->value->file];
	return true;
}

static const struct conf_value *
named_value(const struct conf *c, enum conf_scope_id scope, struct slice name,
	    const char *directive)
{
	const struct conf_directive *d = conf_schema_find(scope, directive);

	CONF_EACH(b, c->root, scope)
	{
		if (d != NULL && slice_eq_nocase(slice_str(b->key), name))
			return conf_block_value(b, d);
	}
	return NULL;
}

/* Its own, else that of the last pool it is a member of. */
static const struct conf_value *
vmta_value(const struct conf *c, struct slice name, const char *directive)
{
	const struct conf_value *v = named_value(c, CONF_SCOPE_VMTA, name, directive), *pooled;
	const struct conf_directive *d = conf_schema_find(CONF_SCOPE_POOL, directive);
	int number = conf_vmta_find(c, name);

	if (v != NULL || d == NULL || number < 0)
		return v;
	CONF_EACH(p, c->root, CONF_SCOPE_POOL)
	{
		const struct conf_pool *pool = &c->pools[p->id];

		pooled = conf_block_value(p, d);
		for (unsigned i = 0; pooled != NULL && i < pool->n_vmtas; i++) {
			if (pool->vmtas[i] == (unsigned)number)
				v = pooled;
		}
	}
	return v;
}

static const struct conf_value *
host_value(const struct conf_block *parent, unsigned source_ip, const struct conf_directive *d)
{
	CONF_EACH(h, parent, CONF_SCOPE_SOURCE_HOST)
	{
		if (h->id == source_ip && conf_block_value(h, d) != NULL)
			return conf_block_value(h, d);
	}
	return NULL;
}

static const struct conf_value *
source_value(const struct conf *c, struct slice ip, const char *directive)
{
	const struct conf_directive *d = conf_schema_find(CONF_SCOPE_SOURCE_HOST, directive);
	const struct conf_value *v;
	struct sockaddr_storage ss;
	socklen_t len;
	unsigned i = 1;

	if (d == NULL || !conf_net_ip(ip, &ss, &len))
		return NULL;
	while (i < c->n_source_ips && !conf_net_same(&c->source_ips[i].addr, &ss))
		i++;
	v = host_value(c->root, i, d);
	CONF_EACH(m, c->root, CONF_SCOPE_VMTA)
	v = v != NULL ? v : host_value(m, i, d);
	return v;
}

/* A source-ip-... directive (or a twin of one that has none for this address: then the normal one).
 */
static bool
queue_source_find(const struct conf *c, struct slice queue, struct slice ip, const char *directive,
		  struct conf_setting *out)
{
	struct slice vmta = queue, domain = slice_cut(&vmta, '/');
	struct sockaddr_storage ss = { .ss_family = AF_UNSPEC };
	struct source_search s;
	socklen_t len;

	if ((ip.n > 0 && !conf_net_ip(ip, &ss, &len)) ||
	    !search_source_limits(c, domain, vmta, (struct sockaddr *)&ss, &s))
		return false;
	for (unsigned m = 0; m < CONF_SOURCE_MEASURES; m++) {
		if (strcmp(directive, source_names[1][m]) == 0 && s.hit[1][m] != NULL)
			return found_per(c, s.list[1][m], s.hit[1][m], out);
		if (strcmp(directive, source_names[0][m]) == 0 ||
		    strcmp(directive, source_names[1][m]) == 0)
			return found_per(c, s.list[0][m], s.hit[0][m], out);
	}
	return false;
}

bool
conf_limit_find(const struct conf *c, const char *scope, struct slice name, struct slice of,
		const char *directive, struct conf_setting *out)
{
	struct sockaddr_storage ss;
	socklen_t len;

	if (strcmp(scope, "provider") == 0)
		return found(c, named_value(c, CONF_SCOPE_PROVIDER, name, directive), out);
	if (strcmp(scope, "job") == 0)
		return found(c, named_value(c, CONF_SCOPE_JOB, name, directive), out);
	if (strcmp(scope, "sender") == 0)
		return found(c, named_value(c, CONF_SCOPE_SENDER, name, directive), out);
	if (strcmp(scope, "virtual-mta") == 0)
		return found(c, vmta_value(c, name, directive), out);
	if (strcmp(scope, "source-ip") == 0)
		return found(c, source_value(c, name, directive), out);
	if (strcmp(scope, "queue-source-ip") == 0)
		return queue_source_find(c, name, of, directive, out);
	if (strcmp(scope, "mx") == 0)
		return found_per(c, c->mx_connections, conf_per_mx(c->mx_connections, name), out);
	if (strcmp(scope, "destination") == 0)
		return conf_net_ip(name, &ss, &len) &&
		       found_per(c, c->ip_connections,
				 conf_per_address(c->ip_connections, (struct sockaddr *)&ss), out);
	return false;
}
