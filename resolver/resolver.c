#include "resolver/resolver.h"

#include <sys/queue.h>
#include <uthash.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "resolver/lookup.h"
#include "resolver/route_cache.h"

#define LOOKUP_TIMEOUT_US 10000000u
#define JOBS_MAX          65536 /* lookups running and in line; more are refused for now */

/* A key that is being looked up, and who waits for it. */
struct job {
	UT_hash_handle hh;
	TAILQ_ENTRY(job) link; /* while in line */
	struct resolver *resolver;
	char *key;
	size_t key_bytes;
	struct lookup *lookup; /* NULL while in line */
	uint64_t *tokens;
	size_t n_tokens, tokens_cap;
};
TAILQ_HEAD(job_list, job);

/* An answer the ring had no room for. */
struct answer {
	STAILQ_ENTRY(answer) link;
	struct message m;
	char text[256];
};
STAILQ_HEAD(answer_list, answer);

struct resolver {
	struct loop *loop;
	struct channel *channel; /* NULL while there is no scheduler */
	bool cut_off;            /* there is one, but its channel could not be used */
	struct lookup_env env;
	struct route_cache *cache;
	struct job *jobs;
	struct job_list in_line;
	unsigned running;
	struct answer_list answers;
	struct stat_resolver stat;
	struct dns *next_dns; /* of a configuration that is not in force yet */
	struct own_addrs next_own;
};

/* Answers ----------------------------------------------------------------------------------------
 */

static void
flush_answers(struct resolver *r)
{
	struct answer *a;

	while (r->channel != NULL && (a = STAILQ_FIRST(&r->answers)) != NULL) {
		if (channel_send(r->channel, &a->m, slice_str(a->text)) != 0)
			return; /* on_input runs when there is room */
		STAILQ_REMOVE_HEAD(&r->answers, link);
		mem_free(a);
	}
}

static void
drop_answers(struct resolver *r)
{
	struct answer *a;

	while ((a = STAILQ_FIRST(&r->answers)) != NULL) {
		STAILQ_REMOVE_HEAD(&r->answers, link);
		mem_free(a);
	}
}

static void
answer(struct resolver *r, uint64_t token, const struct cached_route *route)
{
	struct answer *a = mem_zalloc(sizeof *a);

	a->m.kind = MESSAGE_ROUTE;
	a->m.u.route.token = token;
	a->m.u.route.generation = route->generation;
	a->m.u.route.expires_boot_us = route->expires_boot_us;
	a->m.u.route.slot = route->slot;
	a->m.u.route.status = route->status;
	a->m.u.route.n_targets = route->n_targets;
	str_copy(a->text, sizeof a->text, slice_str(route->text));
	STAILQ_INSERT_TAIL(&r->answers, a, link);
	r->stat.answered++;
}

/* Jobs
 * --------------------------------------------------------------------------------------------- */

static void
job_free(struct job *job)
{
	struct resolver *r = job->resolver;

	HASH_DEL(r->jobs, job);
	if (job->lookup == NULL)
		TAILQ_REMOVE(&r->in_line, job, link);
	else
		r->running--;
	lookup_cancel(&job->lookup);
	mem_free(job->tokens);
	mem_free(job->key);
	mem_free(job);
}

static void
on_found(void *arg, const struct lookup_result *result)
{
	struct job *job = arg;
	struct resolver *r = job->resolver;
	struct lookup_result copy = *result;
	struct cached_route route;

	route_cache_put(r->cache, slice_of(job->key, job->key_bytes), loop_boot_us(r->loop), &copy,
			&route);
	if (route.status == ROUTE_TEMPORARY)
		r->stat.failed++;
	for (size_t i = 0; i < job->n_tokens; i++)
		answer(r, job->tokens[i], &route);
	HASH_DEL(r->jobs, job);
	r->running--;
	mem_free(job->tokens);
	mem_free(job->key);
	mem_free(job);
}

static void
start_jobs(struct resolver *r)
{
	struct job *job;

	while (r->running < DNS_INFLIGHT_MAX && (job = TAILQ_FIRST(&r->in_line)) != NULL) {
		TAILQ_REMOVE(&r->in_line, job, link);
		r->running++;
		r->stat.lookups++;
		job->lookup =
			lookup_start(&r->env, slice_of(job->key, job->key_bytes), on_found, job);
	}
}

static struct job *
job_new(struct resolver *r, struct slice key)
{
	struct job *job = mem_zalloc(sizeof *job);

	job->resolver = r;
	job->key = mem_memdup0(key.p, key.n);
	job->key_bytes = key.n;
	HASH_ADD_KEYPTR(hh, r->jobs, job->key, (unsigned)key.n, job);
	TAILQ_INSERT_TAIL(&r->in_line, job, link);
	return job;
}

static void
on_ask(struct resolver *r, uint64_t token, struct slice key)
{
	struct cached_route route;
	struct job *job;
	void *tokens;

	if (route_cache_get(r->cache, key, loop_boot_us(r->loop), &route)) {
		answer(r, token, &route);
		return;
	}
	HASH_FIND(hh, r->jobs, key.p, (unsigned)key.n, job);
	if (job == NULL && HASH_COUNT(r->jobs) >= JOBS_MAX) {
		route = (struct cached_route){ .status = ROUTE_TEMPORARY,
					       .text = "too many lookups" };
		r->stat.failed++;
		answer(r, token, &route);
		return;
	}
	if (job == NULL)
		job = job_new(r, key);
	tokens = job->tokens;
	mem_grow(&tokens, &job->tokens_cap, job->n_tokens + 1, sizeof *job->tokens);
	job->tokens = tokens;
	job->tokens[job->n_tokens++] = token;
}

/* The channel
 * ---------------------------------------------------------------------------------------- */

static void
on_input(void *arg)
{
	struct resolver *r = arg;
	struct message m;
	struct slice payload;
	int rc;

	while ((rc = channel_recv(r->channel, &m, &payload)) > 0)
		if (m.kind == MESSAGE_ASK)
			on_ask(r, m.u.ask.token, payload);
	if (rc < 0) {
		log_error("scheduler channel=broken error=\"%s\"", err_text(rc));
		resolver_channel_gone(r);
		r->cut_off = true;
	}
}

void
resolver_channel_gone(struct resolver *r)
{
	struct job *job, *next;

	channel_close(&r->channel);
	drop_answers(r);
	/* Nobody waits for them any more; those in line need not begin. */
	for (job = r->jobs; job != NULL; job = next) {
		next = job->hh.next;
		job->n_tokens = 0;
		if (job->lookup == NULL)
			job_free(job);
	}
}

void
resolver_channel(struct resolver *r, const struct channel_fds *fds)
{
	int rc;

	resolver_channel_gone(r);
	rc = channel_open(&r->channel, fds, 'V', r->loop, on_input, r);
	r->cut_off = rc != 0;
	if (rc != 0)
		log_error("scheduler channel=refused error=\"%s\"", err_text(rc));
}

bool
resolver_is_cut_off(const struct resolver *r)
{
	return r->cut_off;
}

void
resolver_turn(struct resolver *r)
{
	start_jobs(r);
	dns_run(r->env.dns);
	/* An answer from the cache of libunbound makes room at once. */
	while (r->running < DNS_INFLIGHT_MAX && !TAILQ_EMPTY(&r->in_line)) {
		start_jobs(r);
		dns_run(r->env.dns);
	}
	flush_answers(r);
	if (r->channel != NULL)
		channel_flush(r->channel);
}

void
resolver_stat(const struct resolver *r, struct stat_resolver *out)
{
	*out = r->stat;
	out->inflight = r->running;
}

/* Life
 * -----------------------------------------------------------------------------------------------
 */

int
resolver_open(struct resolver **out, struct loop *l, const struct resolver_options *o)
{
	struct resolver *r = mem_zalloc(sizeof *r);
	int rc;

	TAILQ_INIT(&r->in_line);
	STAILQ_INIT(&r->answers);
	r->loop = l;
	r->env.loop = l;
	r->env.own = (struct own_addrs){ o->own, o->n_own };
	r->env.seed = o->seed;
	r->env.timeout_us = o->timeout_us != 0 ? o->timeout_us : LOOKUP_TIMEOUT_US;
	rc = route_cache_open(&r->cache, o->routes_fd, o->starts);
	if (rc == 0)
		rc = dns_open(&r->env.dns, l, o->name_server);
	if (rc == 0)
		*out = r;
	else
		resolver_close(&r);
	return rc;
}

int
resolver_prepare(struct resolver *r, const struct resolver_options *o)
{
	resolver_unprepare(r);
	r->next_own = (struct own_addrs){ o->own, o->n_own };
	return dns_open(&r->next_dns, r->loop, o->name_server);
}

void
resolver_unprepare(struct resolver *r)
{
	dns_close(&r->next_dns);
}

void
resolver_switch(struct resolver *r)
{
	if (r->next_dns == NULL)
		return;
	/* Who waits goes on waiting: in line again, for the new servers. */
	for (struct job *job = r->jobs; job != NULL; job = job->hh.next) {
		if (job->lookup == NULL)
			continue;
		lookup_cancel(&job->lookup);
		r->running--;
		TAILQ_INSERT_TAIL(&r->in_line, job, link);
	}
	dns_close(&r->env.dns);
	r->env.dns = r->next_dns;
	r->env.own = r->next_own;
	r->next_dns = NULL;
	route_cache_empty(r->cache);
}

void
resolver_close(struct resolver **rp)
{
	struct resolver *r = *rp;
	struct job *job, *next;

	if (r == NULL)
		return;
	resolver_channel_gone(r);
	for (job = r->jobs; job != NULL; job = next) {
		next = job->hh.next;
		job_free(job);
	}
	resolver_unprepare(r);
	dns_close(&r->env.dns);
	route_cache_close(&r->cache);
	mem_free(r);
	*rp = NULL;
}
