/* OPEN: what the scheduler chose is looked up, checked and connected to. */
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/net/sock.h"
#include "common/smtp/smtp_client_command.h"
#include "deliverer/connection.h"
#include "deliverer/worker.h"

#define ALLOW_MAX 256

/* The queue's values that the connection itself needs, taken once: a reload changes later ones. */
static void
take_settings(struct connection *c, const struct conf_queue *q, struct smtp_policy *policy)
{
	*policy = (struct smtp_policy){
		.mx_unavailable_421 = q->smtp_421_means_mx_unavailable,
		.bounce_5xx_greeting = q->bounce_upon_5xx_greeting,
		.invalid_mailbox_553 = q->smtp_553_means_invalid_mailbox,
		.ignore_pipelining = q->ignore_pipelining,
		.ignore_8bitmime = q->ignore_8bitmime,
	};
	c->timeouts = (struct connection_timeouts){
		.connect = q->connect_timeout_us,
		.greeting = q->smtp_greeting_timeout_us,
		.command = q->smtp_command_reply_timeout_us,
		.body = q->data_send_timeout_us,
		.dot = q->smtp_data_termination_timeout_us,
		.multiline = q->smtp_multiple_line_response_timeout_us,
	};
}

static size_t
parse_allowed(const struct conf_queue *q, struct cidr allowed[ALLOW_MAX])
{
	size_t n = 0;

	for (size_t i = 0; q->allow_destinations != NULL && q->allow_destinations[i] != NULL; i++) {
		if (n < ALLOW_MAX && cidr_parse(&allowed[n], slice_str(q->allow_destinations[i])))
			n++;
	}
	return n;
}

/* The name that we greet with: of the source IP within the virtual MTA, else the host's. */
static void
take_helo(struct connection *c, const struct conf *conf, uint32_t vmta)
{
	const struct conf_vmta *vmtas;
	size_t n = conf_vmtas(conf, &vmtas);
	const char *name = NULL;

	for (unsigned i = 0; vmta < n && i < vmtas[vmta].n_sources && name == NULL; i++) {
		if (vmtas[vmta].sources[i].source_ip == c->source_ip)
			name = vmtas[vmta].sources[i].helo;
	}
	if (name == NULL || !smtp_client_helo_ok(slice_str(name)))
		name = conf_global(conf)->host_name;
	if (name == NULL || !smtp_client_helo_ok(slice_str(name)))
		name = "localhost";
	str_copy(c->helo, sizeof c->helo, slice_str(name));
}

/* The address to connect to, copied out of the route; false when the route is another by now. */
static bool
take_target(struct connection *c, const struct message *m, struct addr *target, struct buf *best)
{
	static struct route route; /* 14 KB: not on the stack; one thread */
	const struct route_target *t;
	char ip[ADDR_TEXT_BYTES];

	if (route_get(c->worker->routes, m->u.open.route_slot, m->u.open.route_generation,
		      &route) != 0 ||
	    m->u.open.target >= route.n_targets || m->u.open.target >= ROUTE_TARGETS_MAX)
		return false;
	t = &route.targets[m->u.open.target];
	buf_put(best, route.best, strnlen(route.best, sizeof route.best));
	if (!addr_from(target, (const struct sockaddr *)&t->addr, sizeof t->addr))
		return false;
	if (t->mx < route.n_hosts && t->mx < ROUTE_MX_MAX)
		str_copy(c->mx, sizeof c->mx,
			 slice_of(route.hosts[t->mx],
				  strnlen(route.hosts[t->mx], sizeof route.hosts[t->mx])));
	addr_text(ip, target);
	str_copy(c->target_text, sizeof c->target_text, slice_str(ip));
	str_copy(c->dsn_mta, sizeof c->dsn_mta, slice_str(c->mx[0] != '\0' ? c->mx : ip));
	if (strlen(c->dsn_mta) + strlen(ip) + 4 <= sizeof c->dsn_mta) {
		strcat(c->dsn_mta, " (");
		strcat(c->dsn_mta, ip);
		strcat(c->dsn_mta, ")");
	}
	return true;
}

static const struct {
	int rc;
	unsigned why;
	enum verdict_reason reason;
} failures[] = {
	// clang-format off
	{ -E_DENIED,      OPEN_DENIED,          VERDICT_BY_DENIED },
	{ -E_MISSING,     OPEN_SOURCE,          VERDICT_BY_SOURCE },
	{ -E_FULL,        OPEN_NO_RESOURCES,    VERDICT_BY_RESOURCES },
	{ -E_REFUSED,     OPEN_CONNECT_REFUSED, VERDICT_BY_REFUSED },
	{ -E_TIMEOUT,     OPEN_CONNECT_TIMEOUT, VERDICT_BY_TIMEOUT },
	{ -E_UNREACHABLE, OPEN_UNREACHABLE,     VERDICT_BY_UNREACHABLE },
	// clang-format on
};

void
connection_fail_connect(struct connection *c, int rc, const char *text)
{
	for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
		if (failures[i].rc == rc) {
			connection_fail_open(c, failures[i].why, failures[i].reason, text);
			return;
		}
	}
	connection_fail_open(c, OPEN_UNREACHABLE, VERDICT_BY_UNREACHABLE, err_text(rc));
}

static void
connect_to(struct connection *c, const struct conf *conf, const struct addr *target,
	   const struct conf_queue *q, uint64_t deadline_boot_us)
{
	const struct conf_source_ip *ips;
	struct cidr allowed[ALLOW_MAX];
	struct deny_lists lists = { .allow = allowed,
				    .n_allow = parse_allowed(q, allowed),
				    .own = c->worker->own,
				    .n_own = c->worker->n_own };
	struct addr source = { 0 };
	struct smtp_policy policy;
	const char *why = "";
	enum deny_answer answer;
	int fd;

	if (c->source_ip >= conf_source_ips(conf, &ips)) {
		connection_fail_open(c, OPEN_SOURCE, VERDICT_BY_SOURCE, "no such source address");
		return;
	}
	if (ips[c->source_ip].addr.ss_family != AF_UNSPEC)
		(void)addr_from(&source, (const struct sockaddr *)&ips[c->source_ip].addr,
				sizeof ips[c->source_ip].addr);
	str_copy(c->source_text, sizeof c->source_text, slice_str(ips[c->source_ip].text));
	take_settings(c, q, &policy);
	answer = deny_check(&lists, target, &why);
	/* The very moment before: the attempt is counted at its stamp. */
	if (deadline_boot_us != 0 && clock_boot_us() > deadline_boot_us) {
		connection_fail_open(c, OPEN_LATE, VERDICT_BY_STALE, "");
		return;
	}
	fd = sock_connect(&source, target, &lists);
	if (fd < 0) {
		connection_fail_connect(c, fd, why);
		return;
	}
	/* Where the operator allows loopback and such by hand, equal names are no loop. */
	connection_start(c, fd, &policy, answer != DENY_ALLOWED);
}

void
connection_open(struct worker *w, const struct message *m, struct slice queue_name)
{
	const struct conf *conf = proc_conf_of(w->proc, m->u.open.conf_generation);
	struct slice vmta = queue_name;
	struct slice domain = slice_cut(&vmta, '/');
	struct connection *c = connection_new(w, m->u.open.connection);
	struct conf_queue q;
	struct addr target;
	struct buf best = { 0 };

	c->source_ip = m->u.open.source_ip;
	c->queue = m->u.open.queue;
	if (conf == NULL) { /* two reloads ago */
		connection_fail_open(c, OPEN_STALE, VERDICT_BY_STALE,
				     "the configuration has changed");
		return;
	}
	conf_queue(conf, domain, vmta, &q);
	take_helo(c, conf, m->u.open.vmta);
	if (w->draining || w->n_connections > w->connections_max) {
		connection_fail_open(c, OPEN_NO_RESOURCES, VERDICT_BY_RESOURCES, "");
	} else if (!take_target(c, m, &target, &best)) {
		connection_fail_open(c, OPEN_STALE, VERDICT_BY_STALE, "the route has changed");
	} else {
		reply_rules_open(c, m->u.open.conf_generation, conf, q.rules, queue_name, buf_slice(&best));
		connect_to(c, conf, &target, &q, m->u.open.deadline_boot_us);
	}
	buf_clear(&best);
}
