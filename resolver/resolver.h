/* resolver: answers the scheduler's ASK with a ROUTE: from the cache, or by a lookup that all who
 * ask share. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/event/loop.h"
#include "common/ipc/channel.h"
#include "shm/stat.h"

struct resolver; /* opaque */

struct resolver_options {
	const char *name_server; /* or NULL */
	int routes_fd;           /* borrowed */
	uint64_t starts;         /* high half of the generations */
	uint64_t seed;           /* of the order among equals */
	const struct sockaddr_storage
		*own; /* addresses we listen on; borrowed as long as the resolver lives */
	size_t n_own;
	uint64_t timeout_us; /* of one lookup; 0: 10 s */
};

/* 0 or -E_*. */
int resolver_open(struct resolver **out, struct loop *l, const struct resolver_options *o);
void resolver_close(struct resolver **r);

/* A new channel to the scheduler (takes the descriptors); the former one and what was asked on it
 * is forgotten, though the lookups go on for the cache. */
void resolver_channel(struct resolver *r, const struct channel_fds *fds);
void resolver_channel_gone(struct resolver *r);
/* The last channel could not be used, or broke its rules: what is asked by it is never answered. */
bool resolver_is_cut_off(const struct resolver *r);

/* Other name servers, other addresses of ours: a resolver for them is tried, or made ready (0), and
 * takes over with resolver_switch(); the lookups under way begin again, nothing is known of before.
 * -E_*: those servers cannot be used. Of `o` only name_server, own, n_own count. */
int resolver_prepare(struct resolver *r, const struct resolver_options *o);
void resolver_switch(struct resolver *r);
void resolver_unprepare(struct resolver *r);

/* At the end of each turn of the loop. */
void resolver_turn(struct resolver *r);
void resolver_stat(const struct resolver *r, struct stat_resolver *out);
