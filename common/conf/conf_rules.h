/* conf_rules: smtp-pattern-lists, checked and built. */
#pragma once

#include "common/conf/conf_impl.h"

/* Patterns that do not compile, lists that lead back to themselves, more than there may be. */
void conf_rules_check(struct conf_loader *x);
/* After the providers. */
void conf_rules_build(struct conf *c);
