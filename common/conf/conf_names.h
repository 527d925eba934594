/* conf_names: names that are looked up, compared without case. Virtual MTAs and pools share one name space. */
#pragma once

#include "common/conf/conf_impl.h"

enum conf_named_kind {
	CONF_NAMED_VMTA,
	CONF_NAMED_POOL,
	CONF_NAMED_PROVIDER,
	CONF_NAMED_JOB,
	CONF_NAMED_SENDER,
	CONF_NAMED_RULES
};

void conf_names_add(struct conf *c, const char *name, enum conf_named_kind kind, unsigned number);
/* Its number, or -1. */
int conf_names_find(const struct conf *c, struct slice name, enum conf_named_kind kind);
void conf_names_clear(struct conf *c);
