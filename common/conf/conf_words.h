/* conf_words: forms of words in the configuration: names, hosts, addresses, patterns, actions.
 * Pure; each says whether `s` is of the form. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/str.h"

bool conf_words_name(struct slice s);
bool conf_words_host(struct slice s);
bool conf_words_mx(struct slice s); /* a host name, "*.DOMAIN", "*" */
bool conf_words_address(struct slice s);
bool conf_words_smtp_hosts(struct slice s);
bool conf_words_recover(struct slice s);
bool conf_words_daily(struct slice s);
/* One of "a|b|c". */
bool conf_words_choice(const char *choices, struct slice s);

/* The actions of one rule together: NULL when they go together, else why not. `s` are n strings,
 * each one action or several with commas; *at is the one at fault; `text` has room for the reason.
 */
const char *conf_words_actions(const char *const *s, size_t n, size_t *at, char *text,
			       size_t bytes);
