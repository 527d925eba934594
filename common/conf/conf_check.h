/* conf_check: what is wrong between blocks of the whole tree: names that are not defined, loops,
 * names that stand for two things. */
#pragma once

#include "common/conf/conf_load.h"

/* Reports to x->msgs. */
void conf_check(struct conf_loader *x);
