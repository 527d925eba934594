/* rules_merge: what several rules that match one reply do together. Pure. */
#pragma once

#include "common/conf/conf.h"

#define RULES_REDUCE_FOR_US (30ull * 60 * 1000 * 1000) /* reduce-connections without for= */

struct rules_verdict {
	uint32_t set;             /* 1 << enum conf_action: what is to be done */
	int32_t by[CONF_ACTIONS]; /* the rule that each comes from, -1 */
	/* Of a back-off: the queue's own values hold where the rule has none. */
	uint64_t backoff_to_normal_after_us; /* with the bit TO_NORMAL_AFTER; may be CONF_NEVER */
	enum conf_rule_scope scope; /* of either mode */
	const struct conf_recover *recover; /* NULL: none of the rule */
	uint64_t reenable_after_us;         /* with the bit REENABLE_AFTER; may be CONF_NEVER */
	uint64_t for_us;                    /* with REDUCE_CONNECTIONS */
	uint64_t wait_us;                   /* with WAIT_REPLY; 0: the reply names no time */
	const char *category;               /* of the first rule that has one; NULL: none */
	int32_t category_by;
	unsigned n_dry; /* rules that would have had something to say */
};

static inline bool
rules_verdict_has(const struct rules_verdict *v, enum conf_action a)
{
	return (v->set & 1u << a) != 0;
}

/* The fault is the source's, the host's or the session's, and not the mail's: who met the reply stays queued, also on
 * 5xx. To bounce comes before the session's. */
bool rules_verdict_stays(const struct rules_verdict *v);

/* `rules`: those that fire, numbers of conf_rules(), in order; a number that is none is passed
 * over. What contradicts an earlier rule (both modes; skip-mx and bounce-queue) is dropped, and the
 * same action again adds nothing; an interval goes with the action of its own rule. Dry runs only
 * count. */
void rules_merge(const struct conf *c, const uint32_t *rules, size_t n, uint64_t wait_us,
		 struct rules_verdict *out);

/* As a file would say it, with ", " between. */
void rules_verdict_put(struct buf *out, const struct rules_verdict *v);
