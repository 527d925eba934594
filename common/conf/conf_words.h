/* conf_words: forms of words in the configuration: names, hosts, addresses, patterns.
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
bool conf_words_daily(struct slice s);
/* One of "a|b|c". */
bool conf_words_choice(const char *choices, struct slice s);
