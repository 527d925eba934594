#include "deliverer/reply_rules.h"

#include "common/base/check.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/conf/conf_rollup_ips.h"
#include "common/ipc/reply_match.h"
#include "common/pattern/pattern_set.h"
#include "common/rules/rules.h"
#include "common/rules/rules_merge.h"
#include "deliverer/connection.h"
#include "deliverer/worker.h"

struct reply_rules {
	struct reply_rules *next;
	uint64_t generation;
	unsigned users; /* connections */
	struct conf *conf;
	struct rules *rules;
};

/* Generations --------------------------------------------------------------------------------- */

static struct reply_rules *
find(const struct worker *w, uint64_t generation)
{
	struct reply_rules *r = w->rules;

	while (r != NULL && r->generation != generation)
		r = r->next;
	return r;
}

void
reply_rules_prepare(struct worker *w, const struct conf *conf, uint64_t generation)
{
	struct reply_rules *r;

	if (find(w, generation) != NULL)
		return;
	r = mem_zalloc(sizeof *r);
	r->generation = generation;
	r->conf = conf_hold(conf);
	r->rules = rules_new(conf, pattern_vectorscan());
	if (rules_compiled_here(r->rules) > 0)
		log_debug("configuration=%llu lists compiled here=%u",
			  (unsigned long long)generation, rules_compiled_here(r->rules));
	r->next = w->rules;
	w->rules = r;
}

void
reply_rules_sweep(struct worker *w, bool dropped)
{
	uint64_t now = proc_heritage(w->proc)->conf_generation;
	struct reply_rules **at = &w->rules;

	while (*at != NULL) {
		struct reply_rules *r = *at;

		if (r->users > 0 || r->generation == now || (r->generation > now && !dropped)) {
			at = &r->next;
			continue;
		}
		*at = r->next;
		rules_free(&r->rules);
		conf_free(&r->conf);
		mem_free(r);
	}
}

void
reply_rules_tick(struct worker *w)
{
	uint64_t n = pattern_given_up();

	if (n > w->given_up)
		log_warn("matching=given-up searches=%llu why=\"a pattern with back-references; it counts as no match\"",
			 (unsigned long long)(n - w->given_up));
	w->given_up = n;
}

/* Connections --------------------------------------------------------------------------------- */

/* The configured provider that has all hosts of the route; -1: none. A queue of rollup-by-ip has
 * addresses for hosts: there it is the names of its list, as for its limits. */
static int
provider_of(const struct conf *conf, struct slice queue_name, struct slice best)
{
	struct slice hosts[ROUTE_BEST_HOSTS], domain = slice_cut(&queue_name, '/');
	struct slice base = conf_rollup_base(domain);
	size_t n = 0;

	if (base.n != domain.n)
		n = conf_rollup_patterns(conf, base, hosts, ROUTE_BEST_HOSTS);
	if (n == 0)
		n = route_best_hosts(best, hosts);
	return conf_provider_find(conf, hosts, n);
}

static void
use(struct connection *c, struct reply_rules *r, int list)
{
	if (c->rules.of != NULL)
		c->rules.of->users--;
	c->rules.of = r;
	if (r != NULL)
		r->users++;
	c->rules.list = r != NULL ? list : -1;
	c->rules.provider = c->rules.list >= 0 ? provider_of(r->conf, slice_str(c->rules.queue_name),
							     slice_str(c->rules.best))
					       : -1;
}

void
reply_rules_open(struct connection *c, uint64_t generation, const struct conf *conf, int list,
		 struct slice queue_name, struct slice best)
{
	CHECK(c->rules.of == NULL && c->rules.best == NULL);
	c->rules.queue_name = mem_memdup0(queue_name.p, queue_name.n);
	c->rules.best = mem_memdup0(best.p != NULL ? best.p : "", best.n);
	reply_rules_prepare(c->worker, conf,
			    generation); /* there already, but for an earlier one */
	use(c, find(c->worker, generation), list);
}

void
reply_rules_close(struct connection *c)
{
	use(c, NULL, -1);
	reply_rules_sweep(c->worker, false);
	mem_free(c->rules.queue_name);
	mem_free(c->rules.best);
	c->rules.queue_name = c->rules.best = NULL;
}

/* The rules of the configuration in force, when that has changed. */
static void
renew(struct connection *c)
{
	struct worker *w = c->worker;
	uint64_t generation = proc_heritage(w->proc)->conf_generation;
	struct slice vmta, domain;
	struct reply_rules *r;
	struct conf_queue q;

	if (c->rules.of == NULL || c->rules.of->generation == generation)
		return;
	r = find(w, generation);
	if (r == NULL)
		return;
	vmta = slice_str(c->rules.queue_name);
	domain = slice_cut(&vmta, '/');
	conf_queue(r->conf, domain, vmta, &q);
	use(c, r, q.rules);
	reply_rules_sweep(w, false);
}

void
reply_rules_begin(struct connection *c)
{
	renew(c);
	c->rules.transaction++;
	c->rules.n_told = 0;
}

/* Replies ------------------------------------------------------------------------------------- */

/* It was not told before in this transaction; remembered. A peer whose replies match more rules
 * than there is room for has said enough. */
static bool
is_fresh(struct connection *c, uint32_t rule)
{
	for (unsigned i = 0; i < c->rules.n_told; i++) {
		if (c->rules.told[i] == rule)
			return false;
	}
	if (c->rules.n_told == RULE_HITS_MAX)
		return false;
	c->rules.told[c->rules.n_told++] = rule;
	return true;
}

static void
tell(struct connection *c, const struct rules_query *q, const struct rules_hits *hits,
     uint16_t code)
{
	struct worker *w = c->worker;
	struct message m = { .kind = MESSAGE_REPLY_MATCH };
	struct reply_match told = { .n = hits->n, .text = q->text };
	struct buf payload = { 0 };
	const struct conf_rule *rules;
	bool fresh = false;

	(void)conf_rules(c->rules.of->conf, &rules);
	for (unsigned i = 0; i < hits->n; i++) {
		told.rules[i] = (struct reply_match_rule){ .number = hits->rule[i],
							   .key = rules[hits->rule[i]].key,
							   .fresh = is_fresh(c, hits->rule[i]) };
		fresh |= told.rules[i].fresh;
	}
	if (!fresh || !c->numbered || w->uplink.channel == NULL)
		return;
	m.u.reply_match.lease = c->work != NULL ? c->work->lease : 0;
	m.u.reply_match.conf_generation = c->rules.of->generation;
	m.u.reply_match.wait_us = hits->wait_us;
	m.u.reply_match.connection = c->number;
	m.u.reply_match.transaction = c->rules.transaction;
	m.u.reply_match.code = code;
	m.u.reply_match.stage = (uint16_t)q->stage;
	reply_match_encode(&payload, &told);
	uplink_send(&w->uplink, &m, buf_slice(&payload));
	buf_clear(&payload);
	KILL_POINT("match-told");
}

/* Only rules that fire at each match: whether one with `after` fires, the scheduler alone knows. */
static void
rule_on(const struct reply_rules *r, const struct rules_hits *hits, unsigned code,
	struct smtp_client_ruling *out)
{
	const struct conf_rule *rules;
	struct rules_verdict v;
	uint32_t firing[RULE_HITS_MAX];
	unsigned n = 0;

	(void)conf_rules(r->conf, &rules);
	for (unsigned i = 0; i < hits->n; i++) {
		const struct conf_rule *rule = &rules[hits->rule[i]];

		if (rule->dry_run)
			continue;
		/* The class counts, whether it fires or not; else the first that matches names the
		 * reply. */
		if (out->rule == 0)
			out->rule = rule->key;
		if (rule->after.n == 0)
			firing[n++] = hits->rule[i];
	}
	rules_merge(r->conf, hits->rule, hits->n, hits->wait_us, &v);
	if (v.category_by >= 0)
		out->rule = rules[v.category_by].key;
	rules_merge(r->conf, firing, n, hits->wait_us, &v);
	out->leave = rules_verdict_has(&v, CONF_ACTION_RECONNECT);
	if (code < 400) /* a greeting that happens to hold the word: nothing was refused */
		return;
	out->skip_host = rules_verdict_has(&v, CONF_ACTION_SKIP_MX);
	out->stay = rules_verdict_stays(&v);
	out->bounce = rules_verdict_has(&v, CONF_ACTION_BOUNCE_RCPT);
	/* A source that is disabled has no more business on this connection. */
	out->leave |= rules_verdict_has(&v, CONF_ACTION_DISABLE_SOURCE_IP);
}

static void
heard(void *arg, enum verdict_phase phase, const struct smtp_reply *reply,
      struct smtp_client_ruling *out)
{
	struct connection *c = arg;
	struct rules_query q = { .list = c->rules.list,
				 .provider = c->rules.provider,
				 .stage = rules_stage(phase),
				 .text = smtp_reply_text(reply) };
	struct rules_hits hits;

	if (c->rules.of == NULL || q.list < 0)
		return;
	rules_match(c->rules.of->rules, &q, &hits);
	if (hits.n == 0)
		return;
	rule_on(c->rules.of, &hits, reply->code, out);
	tell(c, &q, &hits, reply->code);
}

void
reply_rules_listen(struct connection *c)
{
	if (c->rules.of != NULL)
		smtp_client_listen(&c->client, heard, c);
}
