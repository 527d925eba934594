#include "common/rules/rules.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/rules/rules_wait.h"

#define MAGIC 0x314c5552u /* "RUL1" */

struct rules {
	struct conf *conf; /* ours too */
	const struct conf_rule *rules;
	const struct conf_rule_list *lists;
	size_t n_lists;
	const struct pattern_engine *engine;
	struct pattern_set **sets; /* of each list; NULL: not needed so far */
	unsigned compiled_here;
};

/* The patterns of a list's own rules; the caller frees. Those of the list behind it have a set of
 * their own: many lists may end in one. */
static struct slice *
patterns_of(const struct conf_rule *rules, const struct conf_rule_list *l)
{
	struct slice *s = mem_calloc(l->n_own + 1, sizeof *s);

	for (unsigned i = 0; i < l->n_own; i++)
		s[i] = slice_str(rules[l->rules[i]].pattern);
	return s;
}

/* What the bytes of a list were compiled from. */
static uint64_t
fingerprint(const struct slice *patterns, size_t n)
{
	uint64_t h = n;

	for (size_t i = 0; i < n; i++)
		h = XXH3_64bits_withSeed(patterns[i].p, patterns[i].n, h);
	return h;
}

/* Compiled: u32 magic, then for each list in use: u32 number, u64 fingerprint, bytes of its set. */
void
rules_compile(const struct conf *c, const struct pattern_engine *engine, struct buf *out)
{
	const struct conf_rule_list *lists;
	const struct conf_rule *rules;
	size_t n = conf_rule_lists(c, &lists);

	(void)conf_rules(c, &rules);
	wire_put_u32(out, MAGIC);
	for (size_t i = 0; i < n; i++) {
		struct slice *patterns;
		struct pattern_set *set;
		struct buf bytes = { 0 };

		if (!lists[i].used)
			continue;
		patterns = patterns_of(rules, &lists[i]);
		set = pattern_set_new(patterns, lists[i].n_own, engine);
		pattern_set_save(set, &bytes);
		wire_put_u32(out, (uint32_t)i);
		wire_put_u64(out, fingerprint(patterns, lists[i].n_own));
		wire_put_bytes(out, buf_slice(&bytes));
		buf_clear(&bytes);
		pattern_set_free(&set);
		mem_free(patterns);
	}
}

static void
load(struct rules *r, struct slice compiled)
{
	struct wire_reader w;

	wire_read_init(&w, compiled);
	if (compiled.n == 0 || wire_u32(&w) != MAGIC)
		return;
	while (!w.bad && wire_left(&w) > 0) {
		uint32_t i = wire_u32(&w);
		uint64_t print = wire_u64(&w);
		struct slice bytes = wire_bytes(&w, CONF_RULES_BYTES_MAX), *patterns;

		if (w.bad || i >= r->n_lists || r->sets[i] != NULL)
			return;
		patterns = patterns_of(r->rules, &r->lists[i]);
		if (fingerprint(patterns, r->lists[i].n_own) == print)
			(void)pattern_set_load(&r->sets[i], patterns, r->lists[i].n_own, r->engine,
					       bytes);
		mem_free(patterns);
	}
}

static struct pattern_set *
set_of(struct rules *r, size_t i)
{
	if (r->sets[i] == NULL) {
		struct slice *patterns = patterns_of(r->rules, &r->lists[i]);

		r->sets[i] = pattern_set_new(patterns, r->lists[i].n_own, r->engine);
		r->compiled_here++;
		mem_free(patterns);
	}
	return r->sets[i];
}

struct rules *
rules_new(const struct conf *c, const struct pattern_engine *engine)
{
	struct rules *r = mem_zalloc(sizeof *r);

	r->conf = conf_hold(c);
	r->engine = engine;
	(void)conf_rules(c, &r->rules);
	r->n_lists = conf_rule_lists(c, &r->lists);
	r->sets = mem_calloc(r->n_lists + 1, sizeof(struct pattern_set *));
	load(r, conf_rules_compiled(c));
	for (size_t i = 0; i < r->n_lists; i++) {
		if (r->lists[i].used)
			(void)set_of(r, i);
	}
	return r;
}

void
rules_free(struct rules **rp)
{
	struct rules *r = *rp;

	*rp = NULL;
	if (r == NULL)
		return;
	for (size_t i = 0; i < r->n_lists; i++)
		pattern_set_free(&r->sets[i]);
	mem_free(r->sets);
	conf_free(&r->conf);
	mem_free(r);
}

unsigned
rules_compiled_here(const struct rules *r)
{
	return r->compiled_here;
}

static bool
concerns(const struct conf_rule *rule, const struct rules_query *q)
{
	return (rule->provider < 0 || rule->provider == q->provider) &&
	       (rule->stages == 0 || (rule->stages & q->stage) != 0);
}

/* The time that the reply names, by what the rule's groups took or, when it has none, by its words.
 */
static uint64_t
wait_of(struct pattern_set *set, size_t i, struct slice text)
{
	struct pattern_groups groups;
	uint64_t us = 0;

	pattern_set_groups(set, i, text, &groups);
	if (groups.n > 0 ? rules_wait_groups(text, &groups, &us) : rules_wait_text(text, &us))
		return us;
	return 0;
}

/* Adds the hits of a list's own rules. False: no rule behind them is asked. */
static bool
match_list(struct rules *r, size_t number, const struct rules_query *q, struct slice text,
	   struct rules_hits *out)
{
	const struct conf_rule_list *list = &r->lists[number];
	struct pattern_set *set = set_of(r, number);

	pattern_set_scan(set, text);
	for (long i = pattern_set_candidate(set, 0); i >= 0;
	     i = pattern_set_candidate(set, (size_t)i + 1)) {
		const struct conf_rule *rule = &r->rules[list->rules[i]];

		if (!concerns(rule, q) || !pattern_set_confirm(set, (size_t)i, text))
			continue;
		out->rule[out->n++] = list->rules[i];
		if ((rule->actions.set & 1u << CONF_ACTION_WAIT_REPLY) && !rule->dry_run &&
		    out->wait_us == 0)
			out->wait_us = wait_of(set, (size_t)i, text);
		if ((rule->last && !rule->dry_run) || out->n == RULE_HITS_MAX)
			return false;
	}
	return true;
}

void
rules_match(struct rules *r, const struct rules_query *q, struct rules_hits *out)
{
	struct slice text =
		slice_of(q->text.p, q->text.n < RULES_TEXT_MAX ? q->text.n : RULES_TEXT_MAX);
	int list = q->list;

	CHECK(list < (int)r->n_lists);
	out->n = 0;
	out->wait_us = 0;
	while (list >= 0 && match_list(r, (size_t)list, q, text, out))
		list = r->lists[list].then;
}

unsigned
rules_stage(enum verdict_phase phase)
{
	switch (phase) {
	case VERDICT_AT_GREETING:
		return CONF_STAGE_CONNECT;
	case VERDICT_AT_EHLO:
	case VERDICT_AT_HELO:
		return CONF_STAGE_EHLO;
	case VERDICT_AT_MAIL:
		return CONF_STAGE_MAIL;
	case VERDICT_AT_RCPT:
		return CONF_STAGE_RCPT;
	case VERDICT_AT_DATA:
		return CONF_STAGE_DATA;
	case VERDICT_AT_BODY:
	case VERDICT_AT_DOT:
		return CONF_STAGE_DOT;
	default:
		return 0;
	}
}
