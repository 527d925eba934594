/* rules: which rules of the configuration a reply matches.
 *
 * One for each generation of the configuration and process that reads replies. The patterns of all
 * lists in use are compiled once, by the process that checks the configuration; the bytes stand in
 * its snapshot behind the files (conf_rules_compiled()) and every worker loads them. Matching is
 * not for threads (common/pattern). */
#pragma once

#include "common/base/limits.h"
#include "common/conf/conf.h"
#include "common/mail/verdict.h"
#include "common/pattern/pattern_set.h"

#define RULES_TEXT_MAX REPLY_KEPT_MAX /* bytes of a reply that are looked at */

struct rules; /* opaque */

/* Appends what rules_new() loads; `engine` may be NULL. Some 100 ms for each 100 patterns with one.
 */
void rules_compile(const struct conf *c, const struct pattern_engine *engine, struct buf *out);

/* Loads what was compiled, or compiles where that is missing or not of these rules, this engine and
 * this machine. Becomes an owner of the conf. The caller owns what it gets. */
struct rules *rules_new(const struct conf *c, const struct pattern_engine *engine);
void rules_free(struct rules **r);
/* How many lists had to be compiled here. */
unsigned rules_compiled_here(const struct rules *r);

struct rules_query {
	int list;          /* number of conf_rule_lists(); -1 matches nothing */
	int provider;      /* of the queue: number of conf_providers(), -1: none of them */
	unsigned stage;    /* rules_stage(); 0: unknown, rules of some stages do not match */
	struct slice text; /* the reply on one line: smtp_reply_text() */
};

/* The rules that match, in the order of the list, up to the first that is `last`: numbers of
 * conf_rules(). */
struct rules_hits {
	unsigned n;
	uint32_t rule[RULE_HITS_MAX];
	uint64_t wait_us; /* the time that the reply names, by the first wait-reply rule that finds
			     one; 0: none */
};
void rules_match(struct rules *r, const struct rules_query *q, struct rules_hits *out);

/* The stage (enum conf_rule_stage) of a reply that came in this phase; 0: of none. */
unsigned rules_stage(enum verdict_phase phase);
