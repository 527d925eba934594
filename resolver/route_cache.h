/* route_cache: which slot of the routes object holds the answer for which key; the least used give
 * way. */
#pragma once

#include "common/base/str.h"
#include "common/proc/route.h"
#include "resolver/lookup.h"

struct route_cache; /* opaque */

/* What a ROUTE message says of an entry. */
struct cached_route {
	uint32_t slot;
	uint64_t generation;
	uint64_t expires_boot_us;
	enum route_status status;
	uint16_t n_targets;
	const char *text; /* borrowed until the entry changes */
};

/* Maps the object behind `routes_fd` (which stays the caller's). `starts`: the resolver's start
 * count, the high half of every generation. 0 or -E_*. */
int route_cache_open(struct route_cache **out, int routes_fd, uint64_t starts);
/* Nothing is known any more; the slots keep what they hold until they are needed. */
void route_cache_empty(struct route_cache *c);
void route_cache_close(struct route_cache **c);

/* False when it is not there or has expired. */
bool route_cache_get(struct route_cache *c, struct slice key, uint64_t boot_us,
		     struct cached_route *out);
/* Writes the route into a slot, with a generation of its own and the expiry. The slot that held the
 * key's former route keeps it until it is needed: what was opened with it may still be looked up.
 */
void route_cache_put(struct route_cache *c, struct slice key, uint64_t boot_us,
		     struct lookup_result *r, struct cached_route *out);
