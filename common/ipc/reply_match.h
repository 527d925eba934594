/* reply_match: the rules that a reply matches, as a worker tells the scheduler behind REPLY_MATCH.
 * Rules go by number and key: a scheduler that has another configuration by now finds them by key.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/str.h"

struct reply_match_rule {
	uint32_t number; /* of conf_rules() */
	uint64_t key;
	bool fresh; /* it has not matched before in this transaction, or on this connection before
		       MAIL */
};

struct reply_match {
	unsigned n; /* 1 to RULE_HITS_MAX */
	struct reply_match_rule rules[RULE_HITS_MAX];
	struct slice text; /* at most REPLY_KEPT_MAX bytes; of decode: points into the payload */
};

void reply_match_encode(struct buf *out, const struct reply_match *m);
/* 0 or -E_BAD. */
int reply_match_decode(struct reply_match *out, struct slice payload);
