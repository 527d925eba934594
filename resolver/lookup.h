/* lookup: one question for a route, from its key to the hosts and addresses: MX first, then A and
 * AAAA of each. */
#pragma once

#include "common/proc/route.h"
#include "resolver/candidates.h"
#include "resolver/dns.h"

/* What all lookups share; borrowed. */
struct lookup_env {
	struct dns *dns;
	struct loop *loop;
	struct own_addrs own;
	uint64_t seed;
	uint64_t timeout_us; /* of one lookup */
};

struct lookup_result {
	struct route route; /* without generation and expiry */
	uint64_t ttl_us; /* within the bounds of N22: at least 30 s, at most a day; a failure 5 s */
	char text[256];  /* why there is no route; empty with ROUTE_GOOD */
};

struct lookup; /* opaque */

/* `key` as in destination.h. `done` runs once from the loop, never inside this call; the lookup is
 * gone after it. It ends within env->timeout_us, whatever the servers do. */
struct lookup *lookup_start(struct lookup_env *env, struct slice key,
			    void (*done)(void *arg, const struct lookup_result *r), void *arg);
void lookup_cancel(struct lookup **l); /* done does not run */
