/* providers: which domains' mail goes to the same hosts, as numbers: the first `providers` entry
 * that has all MX hosts of a domain's lowest preference, else those hosts themselves. Numbers are
 * of this process alone. */
#pragma once

#include "common/conf/conf.h"

struct providers;

struct providers *providers_new(void);
void providers_free(struct providers **p);

/* The queue has a route: `best` as in struct route. Its provider's number; of no host: 0. */
uint32_t providers_route(struct providers *p, const struct conf *conf, uint32_t queue,
			 struct slice best);
/* Another configuration: calls back with each queue that has another provider by it. */
void providers_reload(struct providers *p, const struct conf *conf,
		      void (*fn)(void *arg, uint32_t queue, uint32_t provider), void *arg);
/* A provider's name, or hosts with ',' between; borrowed until the next providers_route(). */
struct slice providers_name(const struct providers *p, uint32_t provider);
/* The name of the queue's provider, empty: none. */
struct slice providers_of(const struct providers *p, uint32_t queue);
/* The hosts of its route, as in struct route; empty: not known. */
struct slice providers_hosts(const struct providers *p, uint32_t queue);
/* The queue has another number from now on. */
void providers_renumber(struct providers *p, uint32_t queue, uint32_t number);
/* False: it has none by the configuration. */
bool providers_limits(const struct providers *p, const struct conf *conf, uint32_t provider,
		      struct conf_limits *out);
/* The number of a provider by its name, as events have it: by the configuration, or (`hosts`)
 * hosts. 0: none. It stays its own. */
uint32_t providers_number(struct providers *p, const struct conf *conf, struct slice name,
			  bool hosts);
/* Forgets hosts that no queue has any more, some at a time; their numbers may be given to others.
 */
void providers_sweep(struct providers *p);
