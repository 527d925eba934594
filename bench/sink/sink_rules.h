/* sink_rules: which rule of a provider applies now; keeps the counts, windows and attempts that
 * the conditions need. Pure: facts and time in, a rule out; the dice are seeded. */
#pragma once

#include "bench/sink/sink_script.h"
#include "common/base/str.h"

struct sink_rules; /* opaque */

struct sink_facts {
	enum sink_stage stage;
	uint64_t now_us;  /* since the start of the script */
	struct slice key; /* what `match`, `first-attempts` and `sticky` look at */
	struct slice client;
};

/* The provider must outlive it. Equal seeds and facts give equal answers. */
struct sink_rules *sink_rules_new(const struct sink_provider *p, uint64_t seed);
void sink_rules_free(struct sink_rules **r);

/* The first rule that applies, or NULL. Every call counts as one event of its stage. */
const struct sink_rule *sink_rules_decide(struct sink_rules *r, const struct sink_facts *f);
