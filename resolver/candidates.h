/* candidates: the hosts a route may be made of, and making it: order, bounds, our own addresses.
 * Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/base/limits.h"
#include "common/base/str.h"
#include "common/proc/route.h"

#define CANDIDATE_ADDRS_MAX 16 /* of one host, half of each family: none crowds out the others */

/* A host by its name, before its addresses are known. */
struct candidate {
	char name[ROUTE_HOST_BYTES];
	uint16_t port;
	uint16_t group, preference; /* group first: of smtp-hosts; within it the MX preference */
	bool from_mx;   /* the domain's owner named it: we must not come back to ourselves */
	bool temporary; /* an address lookup failed for now */
	bool cut;       /* it has more addresses than these */
	unsigned n_addrs;
	struct sockaddr_storage addrs[CANDIDATE_ADDRS_MAX]; /* with port */
};

struct candidates {
	struct candidate *hosts;
	size_t n, cap;
	char best[ROUTE_BEST_BYTES]; /* as in struct route; of candidates_sort() */
	bool best_cut;               /* not all of those are left */
};

/* Appends; the caller fills it before the next call. */
struct candidate *candidates_add(struct candidates *c);
void candidates_clear(struct candidates *c);
/* By group and preference, equal ones shuffled by `seed`; at most ROUTE_MX_MAX stay. Those of the
 * lowest rank are named in c->best before that. */
void candidates_sort(struct candidates *c, uint64_t *seed);
/* An address for the host; ignored when it has enough of its family. */
void candidate_add_addr(struct candidate *host, int family, const void *addr);

/* Addresses and ports that we listen on; 0.0.0.0 and :: must be expanded. */
struct own_addrs {
	const struct sockaddr_storage *addrs;
	size_t n;
};

/* From sorted candidates: hosts, targets, status (ROUTE_GOOD, ROUTE_LOOP, ROUTE_TEMPORARY,
 * ROUTE_UNUSABLE); generation and expiry stay the caller's. RFC 5321, 5.1: when we are one of the
 * MX hosts, it and those of its or a worse preference are left out. */
void candidates_route(const struct candidates *c, const struct own_addrs *own, uint64_t *seed,
		      struct route *out);
