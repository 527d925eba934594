#include "scheduler/core/backoff.h"
#include "scheduler/core/limits.h"
#include "scheduler/core/run.h"
#include "scheduler/core/sources.h"

#include "common/base/check.h"
#include "common/base/mem.h"

/* Bounds of the table of turns of one virtual MTA. */
#define TURNS_MAX      16384
#define TURNS_WORK_MAX 16000000u

/* Making ------------------------------------------------------------------------------------- */
static uint64_t
name_hash(struct slice name)
{
	uint64_t h = 14695981039346656037ull;

	for (size_t i = 0; i < name.n; i++) {
		unsigned char ch = (unsigned char)name.p[i];

		if (ch >= 'A' && ch <= 'Z')
			ch = (unsigned char)(ch + 32);
		h = (h ^ ch) * 1099511628211ull;
	}
	return h;
}

/* Smooth weighted round robin, written out once: each takes its weight as credit every step, the
 * richest has the turn and pays the sum. */
static void
make_turns(struct vmta *v, const struct conf_vmta *from)
{
	unsigned n = from->n_sources;
	uint64_t sum = 0, most = TURNS_WORK_MAX / n < TURNS_MAX ? TURNS_WORK_MAX / n : TURNS_MAX;
	uint64_t *weight = mem_calloc(n, sizeof(*weight));
	int64_t *credit = mem_calloc(n, sizeof(*credit));
	bool even = true;

	for (unsigned i = 0; i < n; i++) {
		weight[i] = from->sources[i].weight ? from->sources[i].weight : 1;
		even = even && weight[i] == weight[0];
		sum += weight[i];
	}
	if (most < n)
		most = n;
	for (unsigned i = 0; i < n; i++) {
		if (even)
			weight[i] = 1;
		else if (sum > most)
			weight[i] = weight[i] * most / sum ? weight[i] * most / sum : 1;
	}
	sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum += weight[i];
	v->n_turns = (uint32_t)sum;
	v->turns = mem_calloc(sum, sizeof(*v->turns));
	for (uint64_t t = 0; t < sum; t++) {
		unsigned best = 0;

		for (unsigned i = 0; even ? false : i < n; i++) {
			credit[i] += (int64_t)weight[i];
			if (credit[i] > credit[best])
				best = i;
		}
		if (even)
			best = (unsigned)t;
		credit[best] -= (int64_t)sum;
		v->turns[t] = from->sources[best].source_ip;
	}
	mem_free(weight);
	mem_free(credit);
}

/* Each source IP of the virtual MTA once, and it among those of the source IP. */
static void
list_sources(struct core *c, uint32_t vmta, const struct conf_vmta *from)
{
	struct vmta *v = &c->vmtas[vmta];

	v->sources = mem_calloc(from->n_sources, sizeof(*v->sources));
	for (unsigned k = 0; k < from->n_sources; k++) {
		uint32_t s = from->sources[k].source_ip;
		struct source *so = &c->sources[s];

		if (so->n_vmtas && so->vmtas[so->n_vmtas - 1] == vmta)
			continue;
		v->sources[v->n_sources++] = s;
		mem_grow((void **)&so->vmtas, &so->vmtas_cap, (size_t)so->n_vmtas + 1,
			 sizeof(*so->vmtas));
		so->vmtas[so->n_vmtas++] = vmta;
	}
}

static void
make_tables(struct core *c, const struct core_world *w)
{
	CHECK(w->n_source_ips >= 1);
	c->n_sources = w->n_source_ips;
	c->sources = mem_calloc(c->n_sources, sizeof(*c->sources));
	for (size_t i = 0; i < c->n_sources; i++) {
		c->sources[i].guest = -1;
		if (!w->source_ips)
			continue;
		c->sources[i].limits = w->source_ips[i].limits;
		c->sources[i].text = mem_strdup(w->source_ips[i].text ? w->source_ips[i].text : "");
	}
	c->n_vmtas = w->n_vmtas;
	c->vmtas = mem_calloc(w->n_vmtas ? w->n_vmtas : 1, sizeof(*c->vmtas));
	for (size_t i = 0; i < w->n_vmtas; i++) {
		struct vmta *v = &c->vmtas[i];

		CHECK(w->vmtas[i].n_sources > 0);
		for (unsigned k = 0; k < w->vmtas[i].n_sources; k++)
			CHECK(w->vmtas[i].sources[k].source_ip < c->n_sources);
		v->name = mem_strdup(w->vmtas[i].name);
		v->limits = w->vmtas[i].limits;
		make_turns(v, &w->vmtas[i]);
		list_sources(c, (uint32_t)i, &w->vmtas[i]);
		map_put(&c->vmta_names, name_hash(slice_str(v->name)), i);
	}
	c->move_next = NEVER;
}

void
sources_make(struct core *c, const struct core_world *w)
{
	CHECK(w->workers >= 1 && w->workers <= WORKERS_MAX);
	c->n_workers = w->workers;
	make_tables(c, w);
}

static void
clear_sources(struct source *sources, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		mem_free(sources[i].text);
		mem_free(sources[i].vmtas);
	}
	mem_free(sources);
}

static void
clear_vmtas(struct core *c)
{
	for (size_t i = 0; i < c->n_vmtas; i++) {
		mem_free(c->vmtas[i].name);
		mem_free(c->vmtas[i].turns);
		mem_free(c->vmtas[i].sources);
	}
	mem_free(c->vmtas);
	map_clear(&c->vmta_names);
}

void
sources_clear(struct core *c)
{
	clear_vmtas(c);
	clear_sources(c->sources, c->n_sources);
	map_clear(&c->disabled);
}

int
sources_vmta(const struct core *c, struct slice queue_name)
{
	struct slice vmta = queue_name;
	uint64_t i;

	for (size_t k = queue_name.n; k > 0; k--) {
		if (queue_name.p[k - 1] == '/') {
			vmta = slice_sub(queue_name, k);
			break;
		}
	}
	if (slice_is(vmta, CONF_VMTA_NOTIFY))
		vmta = SLICE_LIT("{default}");
	i = map_get(&c->vmta_names, name_hash(vmta));
	if (i != MAP_NONE && slice_eq_nocase(vmta, slice_str(c->vmtas[i].name)))
		return (int)i;
	return -1;
}

/* Another configuration ---------------------------------------------------------------------- */
/* A connection stays where it is only if its source IP is still there and at home. */
static void
renumber_conns(struct core *c, const uint32_t *map)
{
	for (uint32_t i = 0; i < c->n_conns_made; i++) {
		struct conn *cn = &c->conns[i];
		uint32_t to;

		if (cn->state == CONN_FREE)
			continue;
		to = map[cn->source];
		cn->source = to == CORE_NONE ? 0 : to;
		if (to == CORE_NONE || !sources_is_home(c, to, cn->worker))
			cn->retired = 1;
		c->sources[cn->source].n_conns++;
		run_push(c, cn->queue);
	}
	for (uint32_t k = 0; k < c->n_claims_made; k++) {
		uint32_t to = c->claims[k].lease ? map[c->claims[k].source] : 0;

		c->claims[k].source = to == CORE_NONE ? 0 : to;
		c->claims[k].source_gone = c->claims[k].source_gone || to == CORE_NONE;
	}
}

/* By the old number of a virtual MTA the new one, CORE_NONE. */
static uint32_t *
vmta_map(const struct core *c, const struct core_world *w)
{
	uint32_t *map = mem_calloc(c->n_vmtas + 1, sizeof(*map));

	for (size_t i = 0; i < c->n_vmtas; i++) {
		map[i] = CORE_NONE;
		for (uint32_t k = 0; k < w->n_vmtas && map[i] == CORE_NONE; k++) {
			if (slice_eq_nocase(slice_str(c->vmtas[i].name),
					    slice_str(w->vmtas[k].name)))
				map[i] = k;
		}
	}
	return map;
}

static void
renumber_disabled(struct core *c, const uint32_t *map)
{
	struct map old = c->disabled;

	c->disabled = (struct map){ 0 };
	for (size_t i = 0; i < old.cap; i++) {
		uint64_t key = old.cells[i].key;
		uint32_t to;

		if (old.cells[i].value == MAP_NONE)
			continue;
		to = map[(uint32_t)key];
		if (to != CORE_NONE)
			map_put(&c->disabled, sources_disabled_key((uint32_t)(key >> 32), to),
				old.cells[i].value);
	}
	map_clear(&old);
}

void
sources_change(struct core *c, const struct core_world *w, const uint32_t *map)
{
	struct source *old = c->sources;
	size_t n_old = c->n_sources;
	uint32_t *vmtas = vmta_map(c, w);

	CHECK(w->workers == c->n_workers && map[0] == 0);
	c->sources = NULL;
	clear_vmtas(c);
	make_tables(c, w);
	for (size_t i = 0; i < n_old; i++) {
		struct source *s = map[i] == CORE_NONE ? NULL : &c->sources[map[i]];
		struct source was = old[i], is;

		if (!s)
			continue;
		is = *s;
		*s = was;
		s->limits = is.limits;
		s->text = is.text;
		s->vmtas = is.vmtas;
		s->n_vmtas = is.n_vmtas;
		s->vmtas_cap = is.vmtas_cap;
		s->n_conns = 0;
		s->move_at = 0;
		s->guest = -1;
		s->turn %= c->n_workers;
	}
	clear_sources(old, n_old);
	limits_renumber(c, map, vmtas);
	mem_free(vmtas);
	renumber_disabled(c, map);
	backoff_renumber(c, map);
	renumber_conns(c, map);
	sources_begin(c);
}
