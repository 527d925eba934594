/* deny: where mail never goes: loopback, private, link-local and such addresses, and ourselves.
 *
 * Asked with the very sockaddr that connect() is given, so no later lookup can slip in another. An
 * allow list (allow-destinations) overrides every row. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/net/addr.h"

struct deny_lists {
	const struct cidr *allow;
	size_t n_allow;
	const struct addr *own; /* addresses and ports that we listen on */
	size_t n_own;
};

enum deny_answer {
	DENY_NO,      /* a public address: go */
	DENY_ALLOWED, /* listed as allowed: go */
	DENY_YES,
};

/* `a` with its port. *why (may be NULL) names the row: "loopback", "private", ...; static. */
enum deny_answer deny_check(const struct deny_lists *lists, const struct addr *a, const char **why);
