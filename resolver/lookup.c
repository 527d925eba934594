/*   start --> ask MX of each item --> (all answered) --> ask A, AAAA of the best hosts --> (all
 * answered) --> done |  no MX to ask ------------------------^  no host at all
 * -------------------------------------------^
 *     +--- any time: the timer, ROUTE_TEMPORARY
 * ------------------------------------------------------------^
 *
 * RFC 5321, 5.1; RFC 7505 (null MX). A domain without MX is its own host (implicit MX); a domain
 * with MX hosts that do not resolve is not. */
#include "resolver/lookup.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "resolver/destination.h"

#define TTL_MIN_S     30u
#define TTL_MAX_S     86400u
#define TTL_FAILURE_S 5u
#define TTL_PARTIAL_S 60u /* some hosts could not be looked up */

struct part {
	struct lookup *lookup;
	struct dns_query *query; /* NULL when answered */
	unsigned index;          /* of the item or of the host */
	enum dns_type type;
};

struct lookup {
	struct lookup_env *env;
	struct destination destination;
	struct candidates hosts;
	struct part parts[2 * ROUTE_MX_MAX];
	unsigned n_parts, pending;
	struct timer timer;
	uint32_t ttl_s;
	bool has_ttl;
	bool implicit;             /* the one host is the domain itself */
	bool failed;               /* some item gave no host: */
	enum route_status failure; /* why, the one that a retry may mend before others */
	char text[256];
	void (*done)(void *arg, const struct lookup_result *r);
	void *arg;
};

static void start_addresses(struct lookup *l);

static void
lookup_free(struct lookup *l)
{
	for (unsigned i = 0; i < l->n_parts; i++)
		if (l->parts[i].query != NULL)
			dns_forget(l->parts[i].query);
	timer_clear(&l->timer);
	candidates_clear(&l->hosts);
	mem_free(l);
}

void
lookup_cancel(struct lookup **l)
{
	if (*l != NULL)
		lookup_free(*l);
	*l = NULL;
}

static void
use_ttl(struct lookup *l, uint32_t ttl_s)
{
	if (!l->has_ttl || ttl_s < l->ttl_s)
		l->ttl_s = ttl_s;
	l->has_ttl = true;
}

static void
note_failure(struct lookup *l, enum route_status why, const char *what, const char *name,
	     const char *detail)
{
	if (l->failed && (l->failure == ROUTE_TEMPORARY || why != ROUTE_TEMPORARY))
		return;
	l->failed = true;
	l->failure = why;
	snprintf(l->text, sizeof l->text, "%s%.200s: %s", what, name, detail);
}

static uint64_t
bounded_ttl_us(const struct lookup *l, enum route_status status)
{
	uint32_t s = l->ttl_s;

	if (status == ROUTE_TEMPORARY)
		return TTL_FAILURE_S * 1000000u;
	for (size_t i = 0; i < l->hosts.n; i++)
		if (l->hosts.hosts[i].temporary && s > TTL_PARTIAL_S)
			s = TTL_PARTIAL_S;
	if (!l->has_ttl || s < TTL_MIN_S)
		s = TTL_MIN_S;
	return (uint64_t)(s < TTL_MAX_S ? s : TTL_MAX_S) * 1000000u;
}

/* Hands the result over; the lookup is gone when the callback runs. */
static void
finish(struct lookup *l, struct lookup_result *r)
{
	void (*done)(void *arg, const struct lookup_result *result) = l->done;
	void *arg = l->arg;

	r->ttl_us = bounded_ttl_us(l, r->route.status);
	lookup_free(l);
	done(arg, r);
}

static void
finish_with(struct lookup *l, enum route_status status, const char *text)
{
	struct lookup_result r;

	memset(&r, 0, sizeof r);
	r.route.status = status;
	str_copy(r.text, sizeof r.text, slice_str(text));
	finish(l, &r);
}

/* All addresses are in. */
static void
finish_route(struct lookup *l)
{
	struct lookup_result r;
	const char *name = l->destination.items[0].name, *text;

	candidates_route(&l->hosts, &l->env->own, &l->env->seed, &r.route);
	r.text[0] = '\0';
	if (r.route.status == ROUTE_UNUSABLE && l->implicit)
		r.route.status = ROUTE_NO_MX;
	/* Of smtp-hosts with several parts a failed one may be the one that works later. */
	if (r.route.status == ROUTE_UNUSABLE && l->failed && l->failure == ROUTE_TEMPORARY)
		r.route.status = ROUTE_TEMPORARY;
	if (r.route.status == ROUTE_TEMPORARY && l->failed)
		str_copy(r.text, sizeof r.text, slice_str(l->text));
	else if (r.route.status != ROUTE_GOOD) {
		text = route_status_text(r.route.status, NULL);
		snprintf(r.text, sizeof r.text, "%.150s: %s", name, text);
	}
	finish(l, &r);
}

static void
ask(struct lookup *l, unsigned index, const char *name, enum dns_type type,
    void (*done)(void *arg, const struct dns_answer *a))
{
	struct part *p = &l->parts[l->n_parts++];

	CHECK(l->n_parts <= 2 * ROUTE_MX_MAX);
	*p = (struct part){ .lookup = l, .index = index, .type = type };
	l->pending++;
	p->query = dns_ask(l->env->dns, name, type, index == 0, done, p);
}

/* Addresses
 * ------------------------------------------------------------------------------------------ */

static void
on_address(void *arg, const struct dns_answer *a)
{
	struct part *p = arg;
	struct lookup *l = p->lookup;
	struct candidate *host = &l->hosts.hosts[p->index];

	p->query = NULL;
	l->pending--;
	switch (a->outcome) {
	case DNS_FOUND:
		for (unsigned i = 0; i < a->n; i++)
			candidate_add_addr(host, p->type == DNS_A ? AF_INET : AF_INET6,
					   a->records[i].addr);
		use_ttl(l, a->ttl_s);
		break;
	case DNS_NODATA:
	case DNS_NXDOMAIN:
		/* A host with IPv4 only is no reason to look again soon. */
		break;
	case DNS_FAILED:
		host->temporary = true;
		note_failure(l, ROUTE_TEMPORARY, "address of ", host->name, a->why);
		break;
	}
	if (l->pending == 0)
		finish_route(l);
}

/* The hosts whose addresses are still awaited count as failed for now; the others are used. */
static void
give_up(struct lookup *l)
{
	for (unsigned i = 0; i < l->n_parts; i++) {
		const struct part *p = &l->parts[i];

		if (p->query == NULL)
			continue;
		note_failure(l, ROUTE_TEMPORARY, "", l->destination.items[0].name,
			     "DNS did not answer in time");
		if (p->type != DNS_MX)
			l->hosts.hosts[p->index].temporary = true;
	}
	if (l->n_parts > 0 && l->parts[0].type != DNS_MX)
		finish_route(l);
	else
		finish_with(l, ROUTE_TEMPORARY, l->text);
}

static void
on_timer(void *arg)
{
	struct lookup *l = arg;

	if (l->n_parts > 0) {
		give_up(l);
		return;
	}
	/* No MX had to be asked for: only now, so that lookup_start() calls nobody back. */
	timer_set(&l->timer, l->env->timeout_us);
	start_addresses(l);
}

/* All MX answers are in, or none was needed. */
static void
start_addresses(struct lookup *l)
{
	struct sockaddr_storage literal;

	if (l->hosts.n == 0) {
		finish_with(l, l->failed ? l->failure : ROUTE_UNUSABLE, l->text);
		return;
	}
	candidates_sort(&l->hosts, &l->env->seed);
	l->n_parts = 0;
	for (unsigned i = 0; i < l->hosts.n; i++) {
		struct candidate *host = &l->hosts.hosts[i];
		struct slice name = slice_str(host->name);

		/* An address where a name belongs is a host that does not resolve. */
		if (host->n_addrs > 0 || !dns_name_ok(name) ||
		    destination_address(name, 25, &literal))
			continue;
		ask(l, i, host->name, DNS_A, on_address);
		ask(l, i, host->name, DNS_AAAA, on_address);
	}
	if (l->pending == 0)
		finish_route(l);
}

/* MX
 * -------------------------------------------------------------------------------------------------
 */

static void
add_host(struct lookup *l, const struct destination_item *item, const char *name,
	 uint16_t preference, bool from_mx)
{
	struct candidate *host = candidates_add(&l->hosts);

	str_copy(host->name, sizeof host->name, slice_str(name));
	host->port = item->port;
	host->group = item->group;
	host->preference = preference;
	host->from_mx = from_mx;
	if (item->kind == DESTINATION_ADDRESS) {
		host->n_addrs = 1;
		host->addrs[0] = item->addr;
	}
}

/* RFC 7505: "." alone says that no mail is wanted; beside others it says nothing. */
static void
add_mx_hosts(struct lookup *l, const struct destination_item *item, const struct dns_answer *a)
{
	unsigned added = 0;

	for (unsigned i = 0; i < a->n; i++) {
		if (a->records[i].host[0] == '\0')
			continue;
		add_host(l, item, a->records[i].host, a->records[i].preference, true);
		added++;
	}
	if (added == 0)
		note_failure(l, ROUTE_NULL_MX, "", item->name,
			     route_status_text(ROUTE_NULL_MX, NULL));
}

static void
on_mx(void *arg, const struct dns_answer *a)
{
	struct part *p = arg;
	struct lookup *l = p->lookup;
	const struct destination_item *item = &l->destination.items[p->index];

	p->query = NULL;
	l->pending--;
	if (a->outcome != DNS_FAILED)
		use_ttl(l, a->ttl_s);
	switch (a->outcome) {
	case DNS_FOUND:
		add_mx_hosts(l, item, a);
		break;
	case DNS_NODATA:
		l->implicit = l->destination.n == 1;
		add_host(l, item, item->name, 0, true);
		break;
	case DNS_NXDOMAIN:
		note_failure(l, ROUTE_NO_DOMAIN, "", item->name,
			     route_status_text(ROUTE_NO_DOMAIN, NULL));
		break;
	case DNS_FAILED:
		note_failure(l, ROUTE_TEMPORARY, "MX of ", item->name, a->why);
		break;
	}
	if (l->pending == 0)
		start_addresses(l);
}

struct lookup *
lookup_start(struct lookup_env *env, struct slice key,
	     void (*done)(void *arg, const struct lookup_result *r), void *arg)
{
	struct lookup *l = mem_zalloc(sizeof *l);
	char name[128];

	l->env = env;
	l->done = done;
	l->arg = arg;
	timer_init(&l->timer, env->loop, on_timer, l);
	if (destination_parse(&l->destination, key) != 0) {
		str_escape(name, sizeof name, key);
		l->destination.n = 0;
		note_failure(l, ROUTE_NO_DOMAIN, "", name, "not a name that mail can be sent to");
	}
	for (unsigned i = 0; i < l->destination.n; i++) {
		const struct destination_item *item = &l->destination.items[i];

		if (item->kind == DESTINATION_MX)
			ask(l, i, item->name, DNS_MX, on_mx);
		else
			add_host(l, item, item->name, 0, false);
	}
	timer_set(&l->timer, l->pending > 0 ? env->timeout_us : 0);
	return l;
}
