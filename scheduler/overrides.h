/* overrides: what operators set until it ends: limits over the file's, and source IPs that are not
 * to be used. The table alone: nothing here is durable or acts. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/conf/conf.h"
#include "common/queue/store.h"

#define OVERRIDES_MAX   4096
#define OVERRIDES_OURS  3584 /* up to so many rules of replies may add to them: the others are for operators */
#define OVERRIDE_NEVER  UINT64_MAX /* it has no end */
#define OVERRIDE_ORIGIN 64         /* bytes of "set by operator until 2026-11-22T03:00:00Z" */
#define OVERRIDE_OBJECT 520        /* bytes of an object: the longest queue */
#define OVERRIDE_RULE   300        /* bytes of FILE:LINE; of a longer one the end */

struct override {
	uint32_t number; /* of its row in the store */
	enum store_act_kind kind;
	enum conf_override_scope scope;        /* of a limit */
	bool is_pattern;                       /* of queues: the object has a `*` */
	uint64_t since_wall_us, until_wall_us; /* until 0: it has no end */
	uint64_t until_boot_us;
	char *object;                /* "d/v" or a pattern of such, address, name */
	struct conf_override *limit; /* NULL: a disabled source IP */
	char *source;                /* its address; NULL: a limit */
	char *rule;                  /* FILE:LINE of the rule that disabled it; NULL: an operator did */
	char origin[OVERRIDE_ORIGIN];
	struct override *next; /* with the same object */
};

struct overrides;

struct overrides *overrides_new(void);
void overrides_free(struct overrides **o);

/* Borrowed; stays until it is taken out. */
size_t overrides_count(const struct overrides *o);
const struct override *overrides_at(const struct overrides *o, size_t i);
const struct override *overrides_find(const struct overrides *o, enum store_act_kind kind,
				      enum conf_override_scope scope, struct slice object,
				      struct slice name);

/* Puts it in, with the number of the one that was there, or a free one. `limit` is taken. NULL:
 * there are too many. */
const struct override *overrides_put_limit(struct overrides *o, enum conf_override_scope scope,
					   struct slice object, struct conf_override *limit,
					   uint64_t since_wall_us, uint64_t until_wall_us,
					   uint64_t until_boot_us);
const struct override *overrides_put_source(struct overrides *o, struct slice queues,
					    struct slice source, struct slice rule,
					    uint64_t since_wall_us, uint64_t until_wall_us,
					    uint64_t until_boot_us);
/* As loaded, with its number; false: it is not understood. */
bool overrides_restore(struct overrides *o, uint32_t number, const struct store_act *act,
		       uint64_t wall_us, uint64_t boot_us);
void overrides_remove(struct overrides *o, const struct override *row);
/* What is to be stored of a row; borrows from it. */
struct store_act overrides_act(const struct override *row);

/* One that has ended; NULL: none. *next: when one ends the next time. */
const struct override *overrides_ended(const struct overrides *o, uint64_t boot_us, uint64_t *next);

/* The limits that hold for queue "d/v", the weakest first: a pattern, then the queue itself.
 * Borrowed until the next call. */
struct conf_overs overrides_of_queue(struct overrides *o, struct slice queue);
/* Of another scope, into *l; false: there are none. Names without case. */
bool overrides_apply(const struct overrides *o, enum conf_override_scope scope, struct slice name,
		     struct conf_limits *l);
/* Which of them decides the directive; `ip` matters to what is given per CIDR, NULL for none. NULL:
 * the file does. */
const struct override *overrides_deciding(struct overrides *o, enum conf_override_scope scope,
					  struct slice name, const char *directive,
					  const struct conf_source_ip *ip);

/* Whether the source IP is disabled for this queue by a row that is not for all queues; until when,
 * the longest. */
bool overrides_source_disabled(const struct overrides *o, struct slice queue, struct slice source,
			       uint64_t *until_boot_us);
/* A row for all queues: the core keeps those by source IP alone. */
bool overrides_all_queues(const struct override *row);
/* Whether there is any other row of a source IP. */
bool overrides_disable_for_some(const struct overrides *o);
/* The source IP is disabled for all queues. */
bool overrides_disabled_for_all(const struct overrides *o, struct slice source);
