#include "common/rules/rules_merge.h"

#include <string.h>

#define BIT(a) (1u << CONF_ACTION_##a)

/* Actions that cannot stand beside one another: the earlier rule decides. */
static const uint32_t contrary[] = { BIT(BACKOFF) | BIT(NORMAL), BIT(SKIP_MX) | BIT(BOUNCE_QUEUE) };

/* Those that only say more about another one. */
#define DETAILS (BIT(TO_NORMAL_AFTER) | BIT(REENABLE_AFTER) | BIT(FOR))

static bool
is_free(uint32_t taken, uint32_t bit)
{
	if (taken & bit)
		return false;
	for (size_t i = 0; i < sizeof contrary / sizeof *contrary; i++) {
		if ((contrary[i] & bit) && (contrary[i] & taken))
			return false;
	}
	return true;
}

/* What an action brings with it from its rule. */
static void
take_details(struct rules_verdict *v, enum conf_action a, const struct conf_rule *r, int32_t number)
{
	uint32_t detail = 0;

	if (a == CONF_ACTION_BACKOFF) {
		v->scope = r->scope;
		v->recover = r->recover;
		v->backoff_to_normal_after_us = r->actions.backoff_to_normal_after_us;
		detail = BIT(TO_NORMAL_AFTER);
	} else if (a == CONF_ACTION_NORMAL) {
		v->scope = r->scope;
	} else if (a == CONF_ACTION_DISABLE_SOURCE_IP) {
		v->reenable_after_us = r->actions.reenable_after_us;
		detail = BIT(REENABLE_AFTER);
	} else if (a == CONF_ACTION_REDUCE_CONNECTIONS) {
		v->for_us = r->actions.set & BIT(FOR) ? r->actions.for_us : RULES_REDUCE_FOR_US;
		detail = BIT(FOR);
	}
	detail &= r->actions.set;
	v->set |= detail;
	for (unsigned i = 0; i < CONF_ACTIONS; i++) {
		if (detail & 1u << i)
			v->by[i] = number;
	}
}

static void
take_rule(struct rules_verdict *v, const struct conf_rule *r, int32_t number)
{
	uint32_t before = v->set;

	if (v->category == NULL && r->category != NULL) {
		v->category = r->category;
		v->category_by = number;
	}
	for (unsigned a = 0; a < CONF_ACTIONS; a++) {
		uint32_t bit = 1u << a;

		if (!(r->actions.set & bit) || (bit & DETAILS) || !is_free(before, bit))
			continue;
		v->set |= bit;
		v->by[a] = number;
		take_details(v, (enum conf_action)a, r, number);
	}
}

void
rules_merge(const struct conf *c, const uint32_t *rules, size_t n, uint64_t wait_us,
	    struct rules_verdict *out)
{
	const struct conf_rule *all;
	size_t n_all = conf_rules(c, &all);

	memset(out, 0, sizeof *out);
	memset(out->by, -1, sizeof out->by);
	out->category_by = -1;
	for (size_t i = 0; i < n; i++) {
		if (rules[i] >= n_all)
			continue;
		if (all[rules[i]].dry_run)
			out->n_dry++;
		else
			take_rule(out, &all[rules[i]], (int32_t)rules[i]);
	}
	if (rules_verdict_has(out, CONF_ACTION_WAIT_REPLY))
		out->wait_us = wait_us;
}

bool
rules_verdict_stays(const struct rules_verdict *v)
{
	const uint32_t theirs = 1u << CONF_ACTION_SKIP_MX | 1u << CONF_ACTION_DISABLE_SOURCE_IP;
	const uint32_t session = 1u << CONF_ACTION_RECONNECT | 1u << CONF_ACTION_REDUCE_CONNECTIONS;
	const uint32_t bounce = 1u << CONF_ACTION_BOUNCE_RCPT | 1u << CONF_ACTION_BOUNCE_QUEUE;

	return (v->set & theirs) != 0 || ((v->set & session) != 0 && (v->set & bounce) == 0);
}

void
rules_verdict_put(struct buf *out, const struct rules_verdict *v)
{
	struct conf_actions a = { .set = v->set,
				  .backoff_to_normal_after_us = v->backoff_to_normal_after_us,
				  .reenable_after_us = v->reenable_after_us,
				  .for_us = v->for_us };

	conf_actions_put(out, &a);
}
