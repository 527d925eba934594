/* A question is WAITING (in line), ASKED (libunbound has it) or ANSWERED (its answer waits for
 * dns_run).
 *
 * libunbound calls back inside ub_resolve_event() when it knows the answer, and in the loop
 * otherwise. Either way the callback only parses the packet and moves the question to the answered
 * list: nothing above this file has to be re-entrant. A question that was forgotten while ASKED
 * stays until libunbound is done with it, because its memory is libunbound's callback argument. */
#include "resolver/dns.h"

#include <string.h>
#include <sys/queue.h>
#include <unbound-event.h>
#include <unbound.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"

struct dns_query {
	TAILQ_ENTRY(dns_query) link;
	struct dns *dns;
	char name[DNS_NAME_BYTES];
	enum dns_type type;
	bool urgent;
	enum { QUERY_WAITING, QUERY_ASKED, QUERY_ANSWERED } state;
	void (*done)(void *arg, const struct dns_answer *a); /* NULL: forgotten */
	void *arg;
	struct dns_answer *answer; /* only as long as its records */
};
TAILQ_HEAD(query_list, dns_query);

struct dns {
	struct ub_ctx *ctx;
	struct query_list urgent, waiting, answered;
	struct query_list asked;
	unsigned inflight; /* but for urgent ones */
	bool running;
};

static struct query_list *
line_of(const struct dns_query *q)
{
	return q->urgent ? &q->dns->urgent : &q->dns->waiting;
}

static void
query_free(struct dns_query *q)
{
	mem_free(q->answer);
	mem_free(q);
}

static void
fail(struct dns_answer *a, const char *why)
{
	a->outcome = DNS_FAILED;
	a->why = why;
	a->n = 0;
	a->ttl_s = 0;
}

/* Keeps a copy that is only as long as it has to be. */
static void
answered(struct dns_query *q, const struct dns_answer *a)
{
	size_t bytes = offsetof(struct dns_answer, records) + a->n * sizeof a->records[0];

	q->answer = mem_alloc(bytes);
	memcpy(q->answer, a, bytes);
	q->state = QUERY_ANSWERED;
	TAILQ_INSERT_TAIL(&q->dns->answered, q, link);
}

static void
on_answer(void *arg, int rcode, void *packet, int packet_len, int sec, char *why_bogus,
	  int was_ratelimited)
{
	struct dns_query *q = arg;
	struct dns_answer a;

	(void)why_bogus;
	CHECK(q->state == QUERY_ASKED);
	TAILQ_REMOVE(&q->dns->asked, q, link);
	if (q->done == NULL) {
		query_free(q);
		return;
	}
	q->dns->inflight -= !q->urgent;
	/* rcode is 0 for most answers, whatever they say: the packet decides. */
	if (was_ratelimited != 0)
		fail(&a, "rate limited");
	else if (sec == 1)
		fail(&a, "DNSSEC validation failed");
	else if (rcode != 0 || packet == NULL || packet_len < 0)
		fail(&a, rcode == 2 ? "SERVFAIL" : "no answer");
	else
		dns_answer_parse(&a, q->name, q->type, slice_of(packet, (size_t)packet_len));
	answered(q, &a);
}

static void
send_query(struct dns *d, struct dns_query *q)
{
	struct dns_answer a;
	int rc;

	q->state = QUERY_ASKED;
	TAILQ_INSERT_TAIL(&d->asked, q, link);
	d->inflight += !q->urgent;
	rc = ub_resolve_event(d->ctx, q->name, (int)q->type, 1, q, on_answer, NULL);
	if (rc == 0)
		return; /* q may be answered already */
	TAILQ_REMOVE(&d->asked, q, link);
	d->inflight -= !q->urgent;
	fail(&a, ub_strerror(rc));
	answered(q, &a);
}

struct dns_query *
dns_ask(struct dns *d, const char *name, enum dns_type type, bool urgent,
	void (*done)(void *arg, const struct dns_answer *a), void *arg)
{
	struct dns_query *q = mem_zalloc(sizeof *q);

	q->dns = d;
	str_copy(q->name, sizeof q->name, slice_str(name));
	q->type = type;
	q->urgent = urgent;
	q->done = done;
	q->arg = arg;
	q->state = QUERY_WAITING;
	TAILQ_INSERT_TAIL(line_of(q), q, link);
	return q;
}

void
dns_forget(struct dns_query *q)
{
	switch (q->state) {
	case QUERY_WAITING:
		TAILQ_REMOVE(line_of(q), q, link);
		query_free(q);
		break;
	case QUERY_ASKED:
		/* Its place is free at once; libunbound bounds what it still works on. */
		q->dns->inflight -= !q->urgent;
		q->done = NULL;
		break;
	case QUERY_ANSWERED:
		TAILQ_REMOVE(&q->dns->answered, q, link);
		query_free(q);
		break;
	}
}

void
dns_run(struct dns *d)
{
	struct dns_query *q;

	CHECK(!d->running);
	d->running = true;
	for (;;) {
		if ((q = TAILQ_FIRST(&d->answered)) != NULL) {
			TAILQ_REMOVE(&d->answered, q, link);
			q->done(q->arg, q->answer);
			query_free(q);
		} else if ((q = TAILQ_FIRST(&d->urgent)) != NULL ||
			   (d->inflight < DNS_INFLIGHT_MAX &&
			    (q = TAILQ_FIRST(&d->waiting)) != NULL)) {
			TAILQ_REMOVE(line_of(q), q, link);
			send_query(d, q);
		} else {
			break;
		}
	}
	d->running = false;
}

/* Setting up --------------------------------------------------------------------------------------
 */

// clang-format off
static const struct {
	const char *name, *value;
} options[] = {
	{ "do-not-query-localhost:", "no" },    /* a resolver on this host is the usual case */
	{ "num-queries-per-thread:", "1024" },
	{ "outgoing-range:",         "1024" }, /* 200 lookups with two urgent ones each, 200 others; slack */
	{ "msg-cache-size:",         "16m" },
	{ "rrset-cache-size:",       "32m" },
	{ "cache-max-ttl:",          "86400" },
	{ "infra-host-ttl:",         "60" },    /* a resolver that was away is tried again soon */
	{ "infra-keep-probing:",     "yes" },
	{ "unblock-lan-zones:",      "yes" },
};
// clang-format on

static int
set_options(struct ub_ctx *ctx)
{
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		int rc = ub_ctx_set_option(ctx, options[i].name, options[i].value);

		if (rc == 0)
			continue;
		log_error("resolver option=%s value=\"%s\" error=\"%s\"", options[i].name,
			  options[i].value, ub_strerror(rc));
		return -E_BAD;
	}
	return 0;
}

static int
set_server(struct ub_ctx *ctx, const char *name_server)
{
	int rc = name_server != NULL ? ub_ctx_set_fwd(ctx, name_server)
				     : ub_ctx_resolvconf(ctx, NULL);

	if (rc == 0)
		return 0;
	log_error("resolver name-server=%s error=\"%s\"",
		  name_server != NULL ? name_server : "/etc/resolv.conf", ub_strerror(rc));
	/* Without a usable resolv.conf the library asks the root servers itself. */
	return name_server != NULL ? -E_BAD : 0;
}

/* Names that the library would deny by itself, but a private name server may know. This makes the
 * options final. */
static int
open_names(struct ub_ctx *ctx)
{
	static const char *const names[] = { "test.", "invalid." };

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		int rc = ub_ctx_zone_remove(ctx, names[i]);

		if (rc == 0)
			continue;
		log_error("resolver local-zone=%s error=\"%s\"", names[i], ub_strerror(rc));
		return -E_BAD;
	}
	return 0;
}

struct probe {
	bool called, good;
};

static void
on_probe(void *arg, int rcode, void *packet, int packet_len, int sec, char *why_bogus,
	 int was_ratelimited)
{
	struct probe *p = arg;
	struct dns_answer a;

	(void)sec;
	(void)why_bogus;
	(void)was_ratelimited;
	p->called = true;
	if (rcode != 0 || packet_len < 0)
		return;
	dns_answer_parse(&a, "localhost", DNS_A, slice_of(packet, (size_t)packet_len));
	p->good = a.outcome == DNS_FOUND;
}

/* Wrong options are only noticed by the first question; this one is answered without the net, at
 * once. */
static int
probe(struct ub_ctx *ctx)
{
	static struct probe p;

	p = (struct probe){ 0 };
	if (ub_resolve_event(ctx, "localhost", DNS_A, 1, &p, on_probe, NULL) == 0 && p.called &&
	    p.good)
		return 0;
	log_error("resolver options are refused by libunbound");
	return -E_BAD;
}

int
dns_open(struct dns **out, struct loop *l, const char *name_server)
{
	struct dns *d = mem_zalloc(sizeof *d);
	int rc;

	TAILQ_INIT(&d->urgent);
	TAILQ_INIT(&d->waiting);
	TAILQ_INIT(&d->asked);
	TAILQ_INIT(&d->answered);
	d->ctx = ub_ctx_create_event(loop_base(l));
	CHECK(d->ctx != NULL);
	ub_ctx_debugout(d->ctx, NULL);
	rc = set_options(d->ctx);
	if (rc == 0)
		rc = set_server(d->ctx, name_server);
	if (rc == 0)
		rc = open_names(d->ctx);
	if (rc == 0)
		rc = probe(d->ctx);
	if (rc == 0)
		*out = d;
	else
		dns_close(&d);
	return rc;
}

void
dns_close(struct dns **dp)
{
	struct dns *d = *dp;
	struct dns_query *q;

	if (d == NULL)
		return;
	ub_ctx_delete(d->ctx);
	while ((q = TAILQ_FIRST(&d->urgent)) != NULL || (q = TAILQ_FIRST(&d->waiting)) != NULL) {
		TAILQ_REMOVE(line_of(q), q, link);
		query_free(q);
	}
	while ((q = TAILQ_FIRST(&d->asked)) != NULL) {
		TAILQ_REMOVE(&d->asked, q, link);
		query_free(q);
	}
	while ((q = TAILQ_FIRST(&d->answered)) != NULL) {
		TAILQ_REMOVE(&d->answered, q, link);
		query_free(q);
	}
	mem_free(d);
	*dp = NULL;
}
