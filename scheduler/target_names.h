/* target_names: what the MX hosts and addresses are called that have a limit of connections: the core knows them by
 * hashes. */
#pragma once

#include <stdint.h>

#include "common/base/str.h"

struct target_names; /* opaque; NULL: none yet */

/* *t is made at the first name. Beyond some 60,000 all are forgotten: routes are renewed, and with them the names. */
void target_names_note(struct target_names **t, uint64_t id, struct slice name);
/* Empty when it is not known; borrowed until the next note. */
struct slice target_names_get(const struct target_names *t, uint64_t id);
void target_names_free(struct target_names **t);
