/* conf_per: values that are given per CIDR or per MX pattern ("CIDR N", "CIDR RATE", "MX N"),
 * parsed once and looked up by address or name: the most specific one decides. */
#pragma once

#include "common/conf/conf_net.h"
#include "common/conf/conf_tree.h"

/* A count stands in rate.n, with window 0; unlimited is n = 0. */
struct conf_per_entry {
	struct conf_cidr cidr;
	struct slice mx; /* a pattern without its "*." */
	bool below;      /* it had one, or was "*" */
	struct conf_rate rate;
	unsigned at;   /* its place in the list as written */
	unsigned next; /* the first one of a wider prefix */
};

struct conf_per {
	const struct conf_value *value; /* where it was written */
	size_t n;
	struct conf_per_entry *e; /* the most specific first */
};

/* NULL for NULL. Of equal ones the last stays. */
const struct conf_per *conf_per_parse(struct conf_arena *a, const struct conf_value *v);
/* NULL: nothing matches, or there is no list. The unspecified address (the kernel chooses) is in
 * every CIDR that holds all addresses. */
const struct conf_per_entry *conf_per_address(const struct conf_per *p,
					      const struct sockaddr *addr);
const struct conf_per_entry *conf_per_mx(const struct conf_per *p, struct slice mx);
/* What of the list was written for the entry. */
const char *conf_per_text(const struct conf_per *p, const struct conf_per_entry *e, unsigned *line);

/* Whether the host name is of the pattern "a.b", "*.a.b" (below it only) or "*". Without case. */
bool conf_per_mx_matches(struct slice pattern, struct slice mx);
