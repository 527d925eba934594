/* route: where a domain's mail goes: MX hosts and their addresses, in slots of the resolver's object.
 *
 * One memfd, ROUTE_SLOTS slots of ROUTE_SLOT_BYTES; only the resolver writes. A slot is a seqlock around
 * {generation, status, expiry, key, targets in the order to try them}. Generations are u64 and never
 * repeat (high half: the resolver's start count). Readers copy, with bounded retries. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/base/limits.h"
#include "common/base/str.h"

#define ROUTE_SLOT_BYTES 16384
#define ROUTE_HOST_BYTES 256
#define ROUTE_BEST_BYTES 1024

enum route_status {
	ROUTE_GOOD,         /* has targets */
	ROUTE_NO_DOMAIN,    /* NXDOMAIN: permanent (5.1.2) */
	ROUTE_NO_MX,        /* exists, but neither MX nor address: permanent (5.1.2), see bounce-upon-no-mx */
	ROUTE_NULL_MX,      /* RFC 7505: permanent (5.1.10, 556) */
	ROUTE_TEMPORARY,    /* SERVFAIL, time-out, bogus: retry-after-dns-error */
	ROUTE_UNUSABLE,     /* MX there, none of them resolves: transient, never the implicit MX (C15) */
	ROUTE_LOOP,         /* every MX that counts is ourselves: permanent (5.4.6), C19 */
};

struct route_target {
	struct sockaddr_storage addr; /* with port */
	uint16_t preference;
	uint16_t mx;                  /* which MX host: index into hosts[] */
};
struct route {
	uint64_t generation;
	uint64_t expires_boot_us;
	enum route_status status;
	uint16_t n_targets, n_hosts;
	/* So many targets are all addresses of all hosts of the lowest preference; 0: those are not known whole: a
	 * lookup failed, or there are too many. */
	uint16_t n_best;
	struct route_target targets[ROUTE_TARGETS_MAX]; /* ascending preference, equal ones shuffled */
	char hosts[ROUTE_MX_MAX][ROUTE_HOST_BYTES];     /* NUL-terminated */
	/* All hosts of the lowest preference, with an address or not: lower case, sorted, each once, with ',' between.
	 * Where they are too long, those that fit and "#" with a hash of all. */
	char best[ROUTE_BEST_BYTES];
};

/* Room for all host names of `best`, a slice each. */
#define ROUTE_BEST_HOSTS (ROUTE_BEST_BYTES / 2)
/* Its host names into `hosts`, without the hash of those that found no room; how many. Borrowed. */
size_t route_best_hosts(struct slice best, struct slice hosts[ROUTE_BEST_HOSTS]);

int route_object_create(void);                /* master: the memfd or -E_* */
struct route_object;
int route_object_map(struct route_object **out, int fd, int writable);
void route_object_unmap(struct route_object **o);
/* Reader: a checked copy of slot `slot`. 0, -E_MISSING (another generation or empty), -E_AGAIN, -E_BAD. */
int route_get(const struct route_object *o, uint32_t slot, uint64_t generation, struct route *out);
/* Resolver. generation is not 0; a target's mx < n_hosts; ROUTE_GOOD has targets. */
void route_put(struct route_object *o, uint32_t slot, const struct route *r);
/* ROUTE_TARGET's wording for logs and status: a short text and its enhanced status "5.1.2". */
const char *route_status_text(enum route_status s, const char **enhanced);
