/* The resolver's process: a resolver on the skeleton of common/proc, with its stat object. */
#include <ifaddrs.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/proc.h"
#include "resolver/resolver.h"
#include "shm/stat.h"

#define BEAT_US 1000000u

/* Addresses that we listen on. */
struct own {
	struct sockaddr_storage *list;
	size_t n, cap;
};

struct process {
	struct proc *proc;
	struct resolver *resolver;
	struct stat_object *stat;
	struct timer beat;
	struct own own, next; /* of the configuration in force, of the one to come */
	bool switching;       /* `next` is another one */
	bool draining;
};

/* What we listen on
 * ---------------------------------------------------------------------------------- */

static void
add_own(struct own *own, const struct sockaddr *addr, in_port_t port)
{
	void *list = own->list;
	struct sockaddr_storage *at;

	mem_grow(&list, &own->cap, own->n + 1, sizeof *own->list);
	own->list = list;
	at = &own->list[own->n++];
	memset(at, 0, sizeof *at);
	if (addr->sa_family == AF_INET) {
		memcpy(at, addr, sizeof(struct sockaddr_in));
		((struct sockaddr_in *)at)->sin_port = port;
	} else {
		memcpy(at, addr, sizeof(struct sockaddr_in6));
		((struct sockaddr_in6 *)at)->sin6_port = port;
	}
}

static bool
is_any(const struct sockaddr_storage *addr, in_port_t *port)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)addr;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)addr;

	if (addr->ss_family == AF_INET) {
		*port = v4->sin_port;
		return v4->sin_addr.s_addr == htonl(INADDR_ANY);
	}
	*port = v6->sin6_port;
	return IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
}

/* A listener on all addresses stands for each address of this host. */
static void
collect_own(struct own *own, const struct conf *conf)
{
	const struct conf_listener *listeners;
	size_t n = conf_listeners(conf, &listeners);
	struct ifaddrs *all = NULL;

	own->n = 0;
	if (getifaddrs(&all) != 0)
		log_warn("cannot list the addresses of this host error=\"%s\"",
			 err_text(err_errno()));
	for (size_t i = 0; i < n; i++) {
		const struct sockaddr_storage *addr = &listeners[i].addr;
		in_port_t port;

		if (!is_any(addr, &port)) {
			add_own(own, (const struct sockaddr *)addr, port);
			continue;
		}
		for (const struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
			if (one->ifa_addr == NULL)
				continue;
			if (one->ifa_addr->sa_family == AF_INET ||
			    (one->ifa_addr->sa_family == AF_INET6 && addr->ss_family == AF_INET6))
				add_own(own, one->ifa_addr, port);
		}
	}
	if (all != NULL)
		freeifaddrs(all);
}

/* The skeleton's hooks
 * ------------------------------------------------------------------------------- */

static void
on_channel(void *arg, enum role peer, unsigned slot, uint32_t generation,
	   const struct channel_fds *fds)
{
	struct process *p = arg;
	struct channel_fds mine = *fds;

	(void)slot;
	(void)generation;
	if (peer == ROLE_SCHEDULER && p->resolver != NULL)
		resolver_channel(p->resolver, fds);
	else
		channel_fds_close(&mine);
}

static void
on_peer_gone(void *arg, enum role peer, unsigned slot, uint32_t generation)
{
	struct process *p = arg;

	(void)peer;
	(void)slot;
	(void)generation;
	resolver_channel_gone(p->resolver);
}

static void
on_drain(void *arg)
{
	struct process *p = arg;

	p->draining = true;
	proc_done(p->proc);
}

/* Reload
 * --------------------------------------------------------------------------------------------- */

static bool
same_servers(const struct conf *a, const struct conf *b)
{
	const char *x = conf_global(a)->name_server, *y = conf_global(b)->name_server;

	return x == y || (x != NULL && y != NULL && strcmp(x, y) == 0);
}

static const char *
on_prepare(void *arg, const struct conf *conf, uint64_t generation)
{
	struct process *p = arg;
	struct resolver_options o = { .name_server = conf_global(conf)->name_server };
	int rc;

	(void)generation;
	collect_own(&p->next, conf);
	o.own = p->next.list;
	o.n_own = p->next.n;
	p->switching = !same_servers(conf, proc_conf(p->proc)) || p->own.n != p->next.n ||
		       (p->own.n > 0 &&
			memcmp(p->own.list, p->next.list, p->own.n * sizeof *p->own.list) != 0);
	if (!p->switching)
		return NULL; /* what is known stays known */
	rc = resolver_prepare(p->resolver, &o);
	return rc == 0 ? NULL : "the name servers cannot be used";
}

static void
on_drop(void *arg)
{
	resolver_unprepare(((struct process *)arg)->resolver);
}

static void
on_commit(void *arg, const struct conf *conf, const struct conf *old)
{
	struct process *p = arg;
	struct own was = p->own;

	(void)conf;
	(void)old;
	if (p->switching) {
		resolver_switch(p->resolver);
		p->own = p->next;
		p->next = was; /* nobody borrows from it any more */
	}
	if (p->stat != NULL)
		atomic_store(&stat_header(p->stat)->generation,
			     proc_heritage(p->proc)->conf_generation);
}

static void
on_beat(void *arg)
{
	struct process *p = arg;
	struct stat_resolver row;

	timer_set(&p->beat, BEAT_US);
	if (p->stat == NULL)
		return;
	resolver_stat(p->resolver, &row);
	stat_put_totals(p->stat, &row);
	stat_beat(p->stat, loop_boot_us(proc_loop(p->proc)),
		  p->draining ? STAT_DRAINING : STAT_RUNNING);
}

static void
on_turn_end(void *arg)
{
	struct process *p = arg;

	resolver_turn(p->resolver);
	if (resolver_is_cut_off(p->resolver))
		proc_fail(p->proc); /* nobody would give us another one */
}

static int
start(struct process *p, const struct heritage *h)
{
	const struct conf *conf = proc_conf(p->proc);
	struct resolver_options o = {
		.name_server = conf_global(conf)->name_server,
		.routes_fd = h->routes_fd,
		.starts = h->resolver_starts,
	};
	int rc;

	if (getrandom(&o.seed, sizeof o.seed, 0) != sizeof o.seed)
		o.seed = loop_boot_us(proc_loop(p->proc));
	collect_own(&p->own, conf);
	o.own = p->own.list;
	o.n_own = p->own.n;
	rc = resolver_open(&p->resolver, proc_loop(p->proc), &o);
	if (rc != 0)
		return rc;
	rc = stat_create(&p->stat, conf_global(conf)->run, STAT_RESOLVER, 0);
	if (rc != 0) /* mail goes out all the same */
		log_warn("stat object=resolver error=\"%s\"", err_text(rc));
	else
		atomic_store(&stat_header(p->stat)->generation, h->conf_generation);
	timer_init(&p->beat, proc_loop(p->proc), on_beat, p);
	on_beat(p);
	loop_set_turn_end(proc_loop(p->proc), on_turn_end, p);
	return 0;
}

int
resolver_main(struct heritage *h)
{
	static const struct proc_hooks hooks = {
		.on_channel = on_channel,
		.on_peer_gone = on_peer_gone,
		.on_drain = on_drain,
		.on_prepare = on_prepare,
		.on_commit = on_commit,
		.on_drop = on_drop,
	};
	struct process p = { 0 };
	int status = 1, rc;

	p.proc = proc_begin(h, &hooks, &p);
	if (p.proc == NULL)
		return 1;
	rc = start(&p, h);
	if (rc == 0) {
		proc_ready(p.proc);
		status = proc_run(p.proc);
	} else {
		log_error("cannot start error=\"%s\"", err_text(rc));
	}
	timer_clear(&p.beat);
	resolver_close(&p.resolver);
	stat_close(&p.stat);
	mem_free(p.own.list);
	mem_free(p.next.list);
	return status;
}
