#include "scheduler/providers.h"

#include "common/base/mem.h"
#include "common/proc/route.h"
#include "scheduler/names.h"

#define SWEEP_MOST 1000
/* A name of a provider by the configuration begins with this; no host does. */
#define CONFIGURED '='

struct of_queue {
	uint32_t hosts, provider; /* numbers of names, 0 none */
};

struct providers {
	struct names *names; /* hosts, held by their queues; configured providers, kept */
	struct of_queue *queues;
	size_t n, cap;
	uint32_t *of_hosts; /* by number of hosts: the provider, 0 not looked for yet */
	size_t cap_hosts;
};

/* Makes *array hold `n`, new ones zero. */
static void *
grown(void *array, size_t *cap, size_t n, size_t bytes)
{
	size_t before = *cap;

	mem_grow(&array, cap, n, bytes);
	if (*cap > before)
		memset((char *)array + before * bytes, 0, (*cap - before) * bytes);
	return array;
}

struct providers *
providers_new(void)
{
	struct providers *p = mem_zalloc(sizeof *p);

	p->names = names_new();
	names_loaded(p->names);
	return p;
}

void
providers_free(struct providers **pp)
{
	struct providers *p = *pp;

	*pp = NULL;
	if (p == NULL)
		return;
	names_free(&p->names);
	mem_free(p->queues);
	mem_free(p->of_hosts);
	mem_free(p);
}

static struct of_queue *
queue_at(struct providers *p, uint32_t queue)
{
	if (queue >= p->n) {
		p->queues = grown(p->queues, &p->cap, (size_t)queue + 1, sizeof *p->queues);
		p->n = (size_t)queue + 1;
	}
	return &p->queues[queue];
}

/* The configured provider that has all of these hosts; -1: none. */
static int
find(const struct conf *conf, struct slice best)
{
	struct slice hosts[ROUTE_BEST_HOSTS];

	return conf_provider_find(conf, hosts, route_best_hosts(best, hosts));
}

static uint32_t
configured(struct providers *p, struct slice provider)
{
	struct buf name = { 0 };
	uint32_t number;
	bool is_new;

	buf_printf(&name, "%c%.*s", CONFIGURED, (int)provider.n, provider.p);
	number = names_number(p->names, buf_slice(&name), &is_new);
	names_keep(p->names, number); /* what it was charged must not become another's */
	buf_clear(&name);
	return number;
}

static uint32_t
look_for(struct providers *p, const struct conf *conf, uint32_t hosts)
{
	const struct conf_provider *all;
	int i = find(conf, names_get(p->names, hosts));

	if (i < 0)
		return hosts;
	conf_providers(conf, &all);
	return configured(p, slice_str(all[i].name));
}

uint32_t
providers_number(struct providers *p, const struct conf *conf, struct slice name, bool hosts)
{
	uint32_t number = 0;
	bool is_new;

	if (name.n == 0)
		return 0;
	if (conf_provider_limits(conf, name) != NULL)
		return configured(p, name);
	if (hosts) {
		number = names_number(p->names, name, &is_new);
		names_keep(p->names, number);
	}
	return number;
}

static uint32_t
provider_of(struct providers *p, const struct conf *conf, uint32_t hosts)
{
	p->of_hosts = grown(p->of_hosts, &p->cap_hosts, (size_t)hosts + 1, sizeof *p->of_hosts);
	if (p->of_hosts[hosts] == 0)
		p->of_hosts[hosts] = look_for(p, conf, hosts);
	return p->of_hosts[hosts];
}

uint32_t
providers_route(struct providers *p, const struct conf *conf, uint32_t queue, struct slice best)
{
	struct of_queue *q = queue_at(p, queue);
	uint32_t hosts;
	bool is_new;

	if (best.n == 0)
		return q->provider; /* an answer that names none: it stays what it was */
	hosts = names_number(p->names, best, &is_new);
	names_hold(p->names, hosts, 1);
	names_hold(p->names, q->hosts, -1);
	q->hosts = hosts;
	q->provider = provider_of(p, conf, hosts);
	return q->provider;
}

void
providers_reload(struct providers *p, const struct conf *conf,
		 void (*fn)(void *arg, uint32_t queue, uint32_t provider), void *arg)
{
	if (p->cap_hosts > 0)
		memset(p->of_hosts, 0, p->cap_hosts * sizeof *p->of_hosts);
	for (size_t i = 0; i < p->n; i++) {
		struct of_queue *q = &p->queues[i];
		uint32_t now = q->hosts != 0 ? provider_of(p, conf, q->hosts) : 0;

		if (now == q->provider)
			continue;
		q->provider = now;
		fn(arg, (uint32_t)i, now);
	}
}

struct slice
providers_name(const struct providers *p, uint32_t provider)
{
	struct slice name = names_get(p->names, provider);

	return name.n > 0 && name.p[0] == CONFIGURED ? slice_sub(name, 1) : name;
}

struct slice
providers_of(const struct providers *p, uint32_t queue)
{
	return queue < p->n ? providers_name(p, p->queues[queue].provider) : SLICE_NONE;
}

struct slice
providers_hosts(const struct providers *p, uint32_t queue)
{
	return queue < p->n ? names_get(p->names, p->queues[queue].hosts) : SLICE_NONE;
}

void
providers_renumber(struct providers *p, uint32_t queue, uint32_t number)
{
	if (queue >= p->n)
		return;
	names_hold(p->names, queue_at(p, number)->hosts, -1);
	p->queues[number] = p->queues[queue];
	p->queues[queue] = (struct of_queue){ 0, 0 };
}

bool
providers_limits(const struct providers *p, const struct conf *conf, uint32_t provider,
		 struct conf_limits *out)
{
	struct slice name = names_get(p->names, provider);
	const struct conf_limits *l;

	if (name.n == 0 || name.p[0] != CONFIGURED)
		return false;
	l = conf_provider_limits(conf, slice_sub(name, 1));
	if (l == NULL)
		return false; /* gone from the configuration */
	*out = *l;
	return true;
}

static void
forgotten(void *arg, uint32_t number)
{
	struct providers *p = arg;

	if (number < p->cap_hosts)
		p->of_hosts[number] = 0;
}

void
providers_sweep(struct providers *p)
{
	(void)names_sweep(p->names, SWEEP_MOST, forgotten, p);
}
