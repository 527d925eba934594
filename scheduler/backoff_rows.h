/* backoff_rows: what is known of back-off: modes of queues and of wider scopes with how they came
 * and went, and how often rules have matched. The table alone, and its form on disk: nothing here
 * is durable or acts. Pure.
 *
 * Objects go by name: numbers of queues, virtual MTAs and source IPs change. Times are of the wall
 * clock, which goes on over a restart; ends also of the boot clock, which nobody sets. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/conf/conf.h"

#define BACKOFF_CHANGES    10 /* mode changes that are kept */
#define BACKOFF_EXEMPT_MAX 8  /* scopes that one queue is taken out of */
#define BACKOFF_STAMPS                                                                             \
	64 /* a threshold up to this is counted by the match, a larger one by the 64th of its      \
	      window */
#define BACKOFF_NEVER UINT64_MAX
/* What has been normal for so long is forgotten: of many domains each may flip once. */
#define BACKOFF_KEPT_US (30 * 86400ull * 1000000)

/* Texts are the row's own and never NULL. */
struct backoff_change {
	uint64_t wall_us;
	bool to_backoff;
	char *reason;
};

struct backoff_row {
	uint32_t number; /* of its blob in the store */
	enum conf_rule_scope scope;
	char *name;             /* "d/v", address, virtual MTA, provider */
	bool on;                /* in back-off */
	uint64_t since_wall_us; /* of this mode; 0: it was never in another */
	uint64_t until_wall_us; /* of back-off; 0: no end */
	uint64_t until_boot_us; /* BACKOFF_NEVER: no end */
	uint64_t rule_key;      /* 0: no rule's; stays while the recovery lasts */
	char *reason, *rule;    /* the reply, or who; FILE:LINE, empty: no rule */
	char *source_ip;        /* that the reply came to; empty: not known */
	char *reroute;          /* virtual MTA that its mail went to first; empty: none */
	/* Of a queue. Thousandths of a recipient a second: delivered before, allowed now; 0: not known. */
	uint64_t before_mps, rate_mps;
	bool recovering; /* back-off is over, the steps of its recovery are not */
	unsigned n_changes;
	struct backoff_change changes[BACKOFF_CHANGES]; /* the oldest first */
	/* Of a queue: scopes whose back-off does not hold for it, as long as theirs lasts. */
	unsigned n_exempt;
	struct backoff_exempt {
		uint32_t number; /* of the scope's row */
		uint64_t since_wall_us;
	} exempt[BACKOFF_EXEMPT_MAX];
};

struct backoff_count {
	uint32_t number;
	uint64_t rule_key;
	enum conf_rule_scope scope;
	char *name;
	uint64_t window_us;
	unsigned n;
	struct backoff_stamp {
		uint64_t wall_us;
		uint32_t matches;
	} stamps[BACKOFF_STAMPS]; /* the oldest first */
};

struct backoff_rows;

struct backoff_rows *backoff_rows_new(void);
void backoff_rows_free(struct backoff_rows **r);

/* NULL: nothing is known. Names without case. */
struct backoff_row *backoff_rows_find(const struct backoff_rows *r, enum conf_rule_scope scope,
				      struct slice name);
struct backoff_row *backoff_rows_make(struct backoff_rows *r, enum conf_rule_scope scope,
				      struct slice name);
/* Borrowed; stays. */
size_t backoff_rows_count(const struct backoff_rows *r);
struct backoff_row *backoff_rows_at(const struct backoff_rows *r, size_t i);
/* Rows of this scope that are on: 0 says that none need be looked for. */
size_t backoff_rows_on(const struct backoff_rows *r, enum conf_rule_scope scope);

struct backoff_why {
	struct slice reason, rule, source_ip, reroute;
	uint64_t rule_key;
	uint64_t for_us; /* BACKOFF_NEVER: no end */
};
/* It is (still) in back-off from now on: what `why` says holds, but for since and where its mail
 * goes, which stay. True: it was not. */
bool backoff_row_enter(struct backoff_rows *r, struct backoff_row *row,
		       const struct backoff_why *why, uint64_t wall_us, uint64_t boot_us);
/* False: it was not in back-off. */
bool backoff_row_leave(struct backoff_rows *r, struct backoff_row *row, struct slice reason,
		       uint64_t wall_us);
/* The scope's row is on, and the queue (NULL: nothing is known of it) is not exempt from it. */
bool backoff_row_holds(const struct backoff_row *scope_row, const struct backoff_row *queue_row);
/* Another mode, which is not its own: a wider scope's does not hold for it any more. */
void backoff_row_note(struct backoff_row *row, struct slice reason, uint64_t wall_us);
/* Until the scope's row ends. False: there was no room, or it is so already. */
bool backoff_row_exempt(struct backoff_row *queue_row, const struct backoff_row *scope_row);

/* Nothing has come of it for BACKOFF_KEPT_US, and nothing hangs on it. */
bool backoff_row_is_past(const struct backoff_rows *r, const struct backoff_row *row,
			 uint64_t wall_us);
void backoff_rows_forget(struct backoff_rows *r, struct backoff_row *row);

/* A number that no blob has, for another kind of them in the same table; and one that was loaded. */
uint32_t backoff_rows_number(struct backoff_rows *r);
void backoff_rows_has_number(struct backoff_rows *r, uint32_t number);

/* One whose end has come; it stays on: the caller's to leave. NULL: none; *next: when the next one
 * ends, BACKOFF_NEVER: none does. */
struct backoff_row *backoff_rows_ended(const struct backoff_rows *r, uint64_t boot_us,
				       uint64_t *next);

/* One more match of a rule with `after`. True: it fires, and the count begins anew. */
struct backoff_count *backoff_counts_get(struct backoff_rows *r, uint64_t rule_key,
					 enum conf_rule_scope scope, struct slice name);
bool backoff_count_add(struct backoff_count *c, const struct conf_rate *after, uint64_t wall_us);
/* How many still count. */
uint64_t backoff_count_now(const struct backoff_count *c, uint64_t wall_us);
/* One of which nothing counts any more is taken out: the number of its blob; 0: none among the next
 * few. */
uint32_t backoff_counts_sweep(struct backoff_rows *r, uint64_t wall_us);

/* As stored: appended to *out, at most STORE_BACKOFF_MAX bytes. */
void backoff_row_encode(struct buf *out, const struct backoff_row *row);
void backoff_count_encode(struct buf *out, const struct backoff_count *c);
/* False: not understood, nothing was taken in. */
bool backoff_rows_restore(struct backoff_rows *r, uint32_t number, struct slice blob,
			  uint64_t wall_us, uint64_t boot_us);
