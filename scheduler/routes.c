/* routes: asking the resolver, and handing its answers to the core. */
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/net/addr.h"
#include "common/proc/route.h"
#include "scheduler/state.h"
#include "scheduler/target_names.h"

/* The key: a domain, or "=" and the queue's smtp-hosts, the addresses in its name, or the hosts that are rolled up in it;
 * the port behind a newline.
 * What cannot be asked: why, with its enhanced status; else NULL. */
static const char *
make_key(struct scheduler *s, uint32_t queue, struct slice name, struct buf *key)
{
	const struct conf_queue *q = dispatch_ops.settings(s, queue, name);
	struct slice rest = name;
	struct slice domain = slice_cut(&rest, '/');
	const char *hosts = q->smtp_hosts != NULL ? q->smtp_hosts : conf_rollup_hosts(s->conf, domain);

	buf_reset(key);
	buf_putc(key, '=');
	if (hosts != NULL)
		buf_puts(key, hosts);
	else if (conf_rollup_ips_hosts(domain, key))
		; /* behind the sign */
	else if (conf_is_rollup(domain)) /* no such domain: its mail would be returned */
		return "4.3.5 mx-rollup-list and smtp-hosts name no host for this queue";
	else {
		buf_reset(key);
		buf_put_slice(key, domain);
	}
	buf_printf(key, "\n%u", q->default_smtp_port);
	return key->len > ASK_BYTES_MAX ? "4.3.5 smtp-hosts is too long" : NULL;
}

static void
unasked_add(struct scheduler *s, uint32_t queue)
{
	void *p = s->unasked;

	mem_grow(&p, &s->cap_unasked, s->n_unasked + 1, sizeof *s->unasked);
	s->unasked = p;
	s->unasked[s->n_unasked++] = queue;
}

/* An answer to a question of before a reload may be about other hosts. */
static uint64_t
token_of(const struct scheduler *s, uint32_t queue)
{
	return (uint64_t)(uint32_t)proc_heritage(s->proc)->conf_generation << 32 | queue;
}

static void
send_key(struct scheduler *s, uint32_t what, const char *why)
{
	struct message m = { .kind = MESSAGE_ASK };

	m.u.ask.token = token_of(s, what);
	if (why != NULL || channel_send(s->resolver.channel, &m, buf_slice(&s->payload)) != 0)
		unasked_add(s, what);
}

void
routes_ask(struct scheduler *s, uint32_t queue, struct slice name)
{
	if (s->resolver.channel != NULL) /* else: asked again when it is back */
		send_key(s, queue, make_key(s, queue, name, &s->payload));
}

void
routes_ask_for(struct scheduler *s, uint32_t what)
{
	uint32_t number = what & ~(ROUTES_ROLLUP | ROUTES_ANCHOR);
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;
	const char *hosts;

	if (s->resolver.channel == NULL)
		return;
	if (what & ROUTES_ANCHOR) {
		hosts = anchors_hosts(s, number);
		buf_reset(&s->payload);
		buf_printf(&s->payload, "=%s\n25", hosts ? hosts : "");
		if (hosts != NULL)
			send_key(s, what, NULL);
	} else if (core_queue_view(s->core, &now, number, &v)) {
		send_key(s, what, make_key(s, number, v.name, &s->payload));
	}
}

/* What found no room is asked again; a key that can never be sent is no route. */
void
routes_tick(struct scheduler *s)
{
	struct core_now now = scheduler_now(s);
	size_t n = s->n_unasked;

	providers_sweep(s->providers);
	s->n_unasked = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t queue = s->unasked[i];
		struct core_queue_view v;
		const char *why;

		if (queue & (ROUTES_ROLLUP | ROUTES_ANCHOR)) {
			routes_ask_for(s, queue);
			continue;
		}
		if (!core_queue_view(s->core, &now, queue, &v))
			continue;
		why = make_key(s, queue, v.name, &s->payload);
		if (why != NULL)
			core_route(s->core, &now, queue, ROUTE_UNUSABLE, 0, 0, 0, 0, why);
		else
			routes_ask(s, queue, v.name);
	}
	if (n > 0)
		scheduler_kick(s);
}

static uint64_t
host_id(const char *host)
{
	char lower[ROUTE_HOST_BYTES];
	size_t n = strnlen(host, sizeof lower - 1);

	str_copy(lower, sizeof lower, slice_of(host, n));
	str_lower(lower, n);
	return XXH3_64bits(lower, n);
}

/* The address, without its port for seed 0; never 0. */
static uint64_t
address_id(const struct sockaddr_storage *addr, uint64_t host)
{
	uint64_t id;

	if (addr->ss_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)addr;

		id = XXH3_64bits_withSeed(&v6->sin6_addr, sizeof v6->sin6_addr, host ? host ^ v6->sin6_port : 0);
	} else {
		const struct sockaddr_in *v4 = (const void *)addr;

		id = XXH3_64bits_withSeed(&v4->sin_addr, sizeof v4->sin_addr, host ? host ^ v4->sin_port : 0);
	}
	return id != 0 ? id : 1;
}

/* 0: none. */
static uint32_t
limit_of(uint64_t n)
{
	return n == CONF_UNLIMITED || n > UINT32_MAX ? 0 : (uint32_t)n;
}

/* What has a limit is shown to operators. */
static void
name_target(struct scheduler *s, const struct core_target_limits *l, const char *host, const struct sockaddr_storage *to)
{
	char text[ADDR_TEXT_BYTES];
	struct addr addr;

	if (l->mx_limit != 0)
		target_names_note(&s->target_names, l->mx_id, slice_str(host));
	if (l->ip_limit != 0 && addr_from(&addr, (const struct sockaddr *)to, sizeof *to))
		target_names_note(&s->target_names, l->ip_id, slice_str(addr_text(text, &addr)));
}

/* What counts per MX host and per address, whoever's route it is in. */
static void
tell_target_limits(struct scheduler *s, uint32_t queue, const struct route *r)
{
	struct core_target_limits limits[ROUTE_TARGETS_MAX], hosts[ROUTE_MX_MAX];

	for (uint16_t i = 0; i < r->n_hosts; i++) {
		hosts[i].mx_id = host_id(r->hosts[i]);
		hosts[i].mx_limit = limit_of(conf_mx_connection_limit(s->conf, slice_str(r->hosts[i])));
	}
	for (uint16_t i = 0; i < r->n_targets; i++) {
		const struct route_target *t = &r->targets[i];

		limits[i] = hosts[t->mx]; /* < n_hosts: route_get() saw to it */
		limits[i].ip_id = address_id(&t->addr, 0);
		limits[i].ip_limit = limit_of(conf_ip_connection_limit(s->conf, (const void *)&t->addr));
		name_target(s, &limits[i], r->hosts[t->mx], &t->addr);
	}
	core_route_target_limits(s->core, queue, limits, r->n_targets);
}

static void
tell_provider(struct scheduler *s, uint32_t queue, uint32_t provider)
{
	struct core_now now = scheduler_now(s);

	core_route_provider(s->core, &now, queue, provider != 0 ? provider : CORE_NONE,
			    providers_name(s->providers, provider));
	backoff_queue(s, queue);
}

static void
has_other_provider(void *arg, uint32_t queue, uint32_t provider)
{
	tell_provider(arg, queue, provider);
}

static bool
same_global(const struct conf *a, const struct conf *b, const char *directive)
{
	struct conf_setting x, y;
	bool in_a = conf_setting_find(a, SLICE_NONE, SLICE_NONE, directive, &x);
	bool in_b = conf_setting_find(b, SLICE_NONE, SLICE_NONE, directive, &y);

	return in_a && in_b && slice_eq(slice_str(x.value), slice_str(y.value));
}

void
routes_reconfigured(struct scheduler *s, const struct conf *old)
{
	struct core_now now = scheduler_now(s);

	providers_reload(s->providers, s->conf, has_other_provider, s);
	/* They come with the targets, and with them the answer that decides on a rollup. */
	if (!same_global(old, s->conf, "mx-connection-limit") || !same_global(old, s->conf, "ip-connection-limit") ||
	    conf_has_rollups(old) || conf_has_rollups(s->conf))
		core_routes_void(s->core, &now);
	if (conf_has_rollups(old) || conf_has_rollups(s->conf))
		rollups_reconfigured(s);
	anchors_forget(s);
}

/* Names MX host and address across renewals of a route: live connections stay with the same target. */
static uint64_t
target_id(const struct route *r, const struct route_target *t)
{
	return address_id(&t->addr, host_id(t->mx < ROUTE_MX_MAX ? r->hosts[t->mx] : "") | 1);
}

static struct slice
best_of(const struct route *r)
{
	return slice_of(r->best, strnlen(r->best, sizeof r->best));
}

/* What says whose hosts these are. A queue of rollup-by-ip has addresses for hosts: there it is the names of its list,
 * which its domains' hosts have. */
static struct slice
provider_hosts(struct scheduler *s, uint32_t queue, const struct route *r)
{
	struct slice all[ROUTE_BEST_BYTES / 2], domain, base, rest;
	size_t n;

	if (!conf_has_rollups(s->conf))
		return best_of(r);
	rest = names_get(s->names, queue);
	domain = slice_cut(&rest, '/');
	base = conf_rollup_base(domain);
	if (base.n == domain.n)
		return best_of(r);
	n = conf_rollup_patterns(s->conf, base, all, sizeof all / sizeof *all);
	buf_reset(&s->payload);
	for (size_t i = 0; i < n; i++)
		buf_printf(&s->payload, "%s%.*s", i > 0 ? "," : "", (int)all[i].n, all[i].p);
	return n > 0 && s->payload.len < ROUTE_BEST_BYTES ? buf_slice(&s->payload) : best_of(r);
}

/* Which targets are of equal preference, and of the same host, stands in the resolver's object. */
static void
tell_targets(struct scheduler *s, uint32_t queue, const struct route *r)
{
	struct core_target targets[ROUTE_TARGETS_MAX];

	for (uint16_t i = 0; i < r->n_targets; i++)
		targets[i] = (struct core_target){ target_id(r, &r->targets[i]), r->targets[i].preference,
						   r->targets[i].mx };
	core_route_targets(s->core, queue, targets, r->n_targets);
	tell_target_limits(s, queue, r);
	tell_provider(s, queue, providers_route(s->providers, s->conf, queue, provider_hosts(s, queue, r)));
}

static bool
read_route(const struct scheduler *s, const struct message *m, struct route *r)
{
	return m->u.route.n_targets > 0 && s->routes != NULL &&
	       route_get(s->routes, m->u.route.slot, m->u.route.generation, r) == 0 &&
	       r->n_targets == m->u.route.n_targets;
}

static void
on_route(struct scheduler *s, const struct message *m, struct slice payload)
{
	struct core_now now = scheduler_now(s);
	uint32_t queue = (uint32_t)m->u.route.token;
	const char *enhanced, *usual = route_status_text(m->u.route.status, &enhanced);
	char text[600], whole[640];
	static struct route r;

	uint64_t until = m->u.route.expires_boot_us;
	bool is_good;

	if (m->u.route.token != token_of(s, queue) || m->u.route.slot >= ROUTE_SLOTS ||
	    m->u.route.n_targets > ROUTE_TARGETS_MAX || m->u.route.status > ROUTE_LOOP)
		return;
	is_good = read_route(s, m, &r);
	if (queue & ROUTES_ANCHOR) {
		anchors_route(s, queue & ~ROUTES_ANCHOR, m->u.route.status, is_good ? &r : NULL, until);
		return;
	}
	if (is_good && rollups_route(s, queue, &r, &until))
		return;
	if (queue & ROUTES_ROLLUP)
		return;
	str_copy(text, sizeof text, payload);
	/* The enhanced status leads the text: it comes back with a recipient that is given up. */
	snprintf(whole, sizeof whole, "%s %s", enhanced, text[0] != '\0' ? text : usual);
	if (is_good)
		tell_targets(s, queue, &r);
	core_route(s->core, &now, queue, m->u.route.status, m->u.route.slot, m->u.route.generation,
		   m->u.route.n_targets, until, whole);
}

void
routes_channel(struct peer *p)
{
	struct message m;
	struct slice payload;

	while (p->channel != NULL) {
		int rc = channel_recv(p->channel, &m, &payload);

		if (rc == 0)
			return;
		if (rc < 0) {
			peer_broken(p, rc);
			return;
		}
		if (m.kind == MESSAGE_ROUTE)
			on_route(p->s, &m, payload);
		scheduler_kick(p->s);
	}
}

void
routes_gone(struct peer *p)
{
	channel_close(&p->channel);
}

/* A new resolver knows nothing of what its predecessor was asked. */
void
routes_came(struct peer *p)
{
	struct core_now now = scheduler_now(p->s);

	core_resolver_up(p->s->core, &now);
	anchors_forget(p->s); /* an answer of the other one may be missing */
	scheduler_kick(p->s);
}
