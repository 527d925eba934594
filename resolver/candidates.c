#include "resolver/candidates.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/check.h"
#include "common/base/mem.h"

/* splitmix64: the order among equals need not be secret, only even. */
static uint64_t
next_random(uint64_t *seed)
{
	uint64_t z = (*seed += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

struct candidate *
candidates_add(struct candidates *c)
{
	void *hosts = c->hosts;
	struct candidate *host;

	mem_grow(&hosts, &c->cap, c->n + 1, sizeof *c->hosts);
	c->hosts = hosts;
	host = &c->hosts[c->n++];
	memset(host, 0, sizeof *host);
	return host;
}

void
candidates_clear(struct candidates *c)
{
	mem_free(c->hosts);
	memset(c, 0, sizeof *c);
}

static uint32_t
rank(const struct candidate *host)
{
	return (uint32_t)host->group << 16 | host->preference;
}

static int
by_rank(const void *a, const void *b)
{
	uint32_t x = rank(*(const struct candidate *const *)a),
		 y = rank(*(const struct candidate *const *)b);

	return x < y ? -1 : x > y;
}

/* The names of the lowest rank ------------------------------------------------------------------
 */
static int
by_name(const void *a, const void *b)
{
	const char *const *x = a, *const *y = b;

	return strcasecmp(*x, *y);
}

/* Sorted, each once; the caller frees. */
static const char **
best_names(const struct candidates *c, size_t *n)
{
	const char **names = mem_calloc(c->n, sizeof *names);
	uint32_t lowest = UINT32_MAX;
	size_t all = 0;

	for (size_t i = 0; i < c->n; i++) {
		if (rank(&c->hosts[i]) < lowest)
			lowest = rank(&c->hosts[i]);
	}
	for (size_t i = 0; i < c->n; i++) {
		if (rank(&c->hosts[i]) == lowest)
			names[all++] = c->hosts[i].name;
	}
	qsort(names, all, sizeof *names, by_name);
	*n = 0;
	for (size_t i = 0; i < all; i++) {
		if (i == 0 || strcasecmp(names[i], names[i - 1]) != 0)
			names[(*n)++] = names[i];
	}
	return names;
}

static void
join_best(struct candidates *c)
{
	char hash[24];
	uint64_t h = 0;
	size_t n, used = 0, fits = 0, room = sizeof c->best - sizeof hash - 1;
	const char **names = best_names(c, &n);
	bool whole = true;

	memset(c->best, 0, sizeof c->best);
	for (size_t i = 0; i < n; i++) {
		char lower[ROUTE_HOST_BYTES];
		size_t bytes = strlen(names[i]);

		str_copy(lower, sizeof lower, slice_str(names[i]));
		str_lower(lower, bytes);
		for (char *comma = lower; (comma = strchr(comma, ',')) != NULL;)
			*comma = '_';                          /* no name that is in use */
		h = XXH3_64bits_withSeed(lower, bytes + 1, h); /* with the NUL */
		whole = whole && used + bytes + 1 <= room;
		if (!whole)
			continue;
		if (fits++ > 0)
			c->best[used++] = ',';
		memcpy(c->best + used, lower, bytes);
		used += bytes;
	}
	if (!whole)
		snprintf(c->best + used, sizeof c->best - used, "%s#%016llx", fits > 0 ? "," : "",
			 (unsigned long long)h);
	mem_free(names);
}

void
candidates_sort(struct candidates *c, uint64_t *seed)
{
	struct candidate **order, *sorted;
	size_t kept = c->n < ROUTE_MX_MAX ? c->n : ROUTE_MX_MAX;

	if (c->n == 0)
		return;
	join_best(c);
	/* Shuffled whole, then sorted by rank alone and stably (insertion: at most a few hundred).
	 */
	order = mem_calloc(c->n, sizeof *order);
	for (size_t i = 0; i < c->n; i++) {
		size_t j = next_random(seed) % (i + 1);

		order[i] = order[j];
		order[j] = &c->hosts[i];
	}
	for (size_t i = 1; i < c->n; i++) {
		struct candidate *one = order[i];
		size_t j = i;

		for (; j > 0 && by_rank(&order[j - 1], &one) > 0; j--)
			order[j] = order[j - 1];
		order[j] = one;
	}
	c->best_cut = kept < c->n && rank(order[kept]) == rank(order[0]);
	sorted = mem_calloc(kept, sizeof *sorted);
	for (size_t i = 0; i < kept; i++)
		sorted[i] = *order[i];
	mem_free(order);
	mem_free(c->hosts);
	c->hosts = sorted;
	c->n = c->cap = kept;
}

void
candidate_add_addr(struct candidate *host, int family, const void *addr)
{
	struct sockaddr_storage *at = &host->addrs[host->n_addrs];
	struct sockaddr_in *v4 = (struct sockaddr_in *)at;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)at;
	unsigned same = 0;

	for (unsigned i = 0; i < host->n_addrs; i++)
		same += host->addrs[i].ss_family == family;
	if (same == CANDIDATE_ADDRS_MAX / 2) {
		host->cut = true;
		return;
	}
	host->n_addrs++;
	memset(at, 0, sizeof *at);
	if (family == AF_INET) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(host->port);
		memcpy(&v4->sin_addr, addr, 4);
	} else {
		CHECK(family == AF_INET6);
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(host->port);
		memcpy(&v6->sin6_addr, addr, 16);
	}
}

/* The address as 16 bytes (IPv4 mapped) and the port. */
static void
plain(const struct sockaddr_storage *a, unsigned char addr[16], uint16_t *port)
{
	memset(addr, 0, 16);
	if (a->ss_family == AF_INET) {
		addr[10] = addr[11] = 0xff;
		memcpy(addr + 12, &((const struct sockaddr_in *)a)->sin_addr, 4);
		*port = ((const struct sockaddr_in *)a)->sin_port;
	} else {
		memcpy(addr, &((const struct sockaddr_in6 *)a)->sin6_addr, 16);
		*port = ((const struct sockaddr_in6 *)a)->sin6_port;
	}
}

static bool
is_own(const struct candidate *host, const struct own_addrs *own)
{
	unsigned char theirs[16], ours[16];
	uint16_t their_port, our_port;

	for (unsigned i = 0; i < host->n_addrs; i++) {
		plain(&host->addrs[i], theirs, &their_port);
		for (size_t k = 0; k < own->n; k++) {
			plain(&own->addrs[k], ours, &our_port);
			if (our_port == their_port && memcmp(ours, theirs, 16) == 0)
				return true;
		}
	}
	return false;
}

/* Hosts before this one are better than every MX that is ourselves. */
static size_t
first_own(const struct candidates *c, const struct own_addrs *own)
{
	size_t at = 0;

	while (at < c->n && !(c->hosts[at].from_mx && is_own(&c->hosts[at], own)))
		at++;
	if (at == c->n)
		return at;
	while (at > 0 && rank(&c->hosts[at - 1]) == rank(&c->hosts[at]))
		at--;
	return at;
}

/* In random order inside each family, IPv4 first: without a route for IPv6 nothing waits for it. */
static void
put_targets(const struct candidate *host, uint16_t preference, uint64_t *seed, struct route *out)
{
	static const sa_family_t families[] = { AF_INET, AF_INET6 };

	for (int f = 0; f < 2; f++) {
		unsigned order[CANDIDATE_ADDRS_MAX] = { 0 }, n = 0;

		for (unsigned i = 0; i < host->n_addrs; i++) {
			unsigned j = (unsigned)(next_random(seed) % (n + 1));

			if (host->addrs[i].ss_family != families[f])
				continue;
			order[n] = order[j];
			order[j] = i;
			n++;
		}
		for (unsigned i = 0; i < n && out->n_targets < ROUTE_TARGETS_MAX; i++) {
			struct route_target *t = &out->targets[out->n_targets++];

			t->addr = host->addrs[order[i]];
			t->preference = preference;
			t->mx = out->n_hosts;
		}
	}
}

/* Whether nothing is missing of the addresses of the hosts of the lowest rank. */
static bool
best_is_whole(const struct candidates *c)
{
	for (size_t i = 0; i < c->n && rank(&c->hosts[i]) == rank(&c->hosts[0]); i++) {
		if (c->hosts[i].temporary || c->hosts[i].cut)
			return false;
	}
	return !c->best_cut;
}

void
candidates_route(const struct candidates *c, const struct own_addrs *own, uint64_t *seed,
		 struct route *out)
{
	size_t last = first_own(c, own);
	bool temporary = false, grouped = c->n > 0 && c->hosts[c->n - 1].group > 0;
	uint16_t level = 0;

	CHECK(c->n <= ROUTE_MX_MAX);
	memset(out, 0, sizeof *out);
	memcpy(out->best, c->best, sizeof out->best);
	for (size_t i = 0; i < last; i++) {
		const struct candidate *host = &c->hosts[i];

		temporary = temporary || host->temporary;
		/* Preferences of several groups do not compare: levels are counted instead. */
		if (i > 0 && rank(host) != rank(host - 1))
			level++;
		if (host->n_addrs == 0)
			continue;
		put_targets(host, grouped ? level : host->preference, seed, out);
		str_copy(out->hosts[out->n_hosts++], ROUTE_HOST_BYTES, slice_str(host->name));
		if (rank(host) == rank(&c->hosts[0]))
			out->n_best = out->n_targets;
	}
	if (!best_is_whole(c) || out->n_best == ROUTE_TARGETS_MAX)
		out->n_best = 0;
	if (out->n_targets > 0)
		out->status = ROUTE_GOOD;
	else if (temporary)
		out->status = ROUTE_TEMPORARY;
	else
		out->status = last < c->n ? ROUTE_LOOP : ROUTE_UNUSABLE;
}
