/* conf_actions: what a rule says is to be done, as words and as a struct. Pure. */
#pragma once

#include "common/conf/conf.h"

/* The actions of one rule together: NULL when they go together, else why not. `s` are n strings,
 * each one action or several with commas; *at is the one at fault; `text` has room for the reason.
 * `out` may be NULL. */
const char *conf_actions_parse(const char *const *s, size_t n, struct conf_actions *out, size_t *at,
			       char *text, size_t bytes);

/* "auto", or rising percentages and a pace: "10%,25%,50% every 10m". `out` may be NULL. */
bool conf_recover_parse(struct slice s, struct conf_recover *out);
