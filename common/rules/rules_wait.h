/* rules_wait: the time that a reply names. Pure. */
#pragma once

#include "common/pattern/pattern.h"

#define RULES_WAIT_MAX_US (7ull * 86400 * 1000 * 1000) /* longer than this no reply can mean */

/* "try again in 5 minutes", "Greylisted for 300s", "come back in 00:05:00": the first that stands
 * behind a word like "in", else the first that is no pace ("100 per hour") and not over. False:
 * none, or none up to the longest. */
bool rules_wait_text(struct slice text, uint64_t *us);

/* What the first group of a pattern took out of the text, and what stands behind it there: "(\d+)
 * minutes",
 * "(\d+) (minutes|hours)", "in (.*)"; a number alone is seconds. */
bool rules_wait_groups(struct slice text, const struct pattern_groups *groups, uint64_t *us);
