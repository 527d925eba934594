/* worker: what the parts of a delivery worker share. One process, one loop, no threads. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/event/loop.h"
#include "common/net/deny.h"
#include "common/proc/proc.h"
#include "common/proc/route.h"
#include "common/queue/claims.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "deliverer/uplink.h"
#include "shm/stat.h"

#define WORKER_BUCKETS 4096
#define WORKER_READ    65536

struct connection;

struct worker {
	struct proc *proc;
	struct loop *loop;
	struct uplink uplink;
	struct spool spool;
	struct claim_table *claims;
	struct segment_cache *segments;
	struct route_object *routes;
	struct stat_object *stat; /* NULL: none could be made; mail goes on */
	struct stat_worker counters;
	struct timer tick;
	bool draining;
	struct reply_rules *rules; /* of each generation in use */
	uint64_t given_up;         /* pattern_given_up(), as far as it was told */

	struct connection *buckets[WORKER_BUCKETS]; /* those that the scheduler knows, by number */
	struct connection *all;                     /* every one, also those that only say QUIT */
	struct connection *ended;                   /* freed at the end of the turn */
	unsigned n_connections, connections_max;

	/* Addresses that we listen on (deny.h). */
	struct addr *own;
	size_t n_own, own_cap;

	char read_buffer[WORKER_READ];
	struct buf scratch;  /* encoded results */
	struct buf scratch2; /* payloads, addresses */
};
