/* conf_override: the inside of an operator's override. */
#pragma once

#include "common/conf/conf_per.h"

/* Into the settings of a queue; what is given per CIDR only says that there is some. */
void conf_override_store(const struct conf_override *o, struct conf_queue *q);
/* NULL: it is not given per CIDR. */
const struct conf_per *conf_override_per(const struct conf_override *o);
const struct conf_directive *conf_override_directive(const struct conf_override *o);
