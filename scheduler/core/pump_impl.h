/* pump_impl: what pump.c (a visit of a queue), pump_grant.c (its messages) and pump_open.c (its
 * connections) share. */
#pragma once

#include "scheduler/core/limits.h"
#include "scheduler/core/pump.h"

/* One visit: what is looked at and what comes of it. */
struct visit {
	struct queue *q;
	struct active *a;
	const struct conf_queue *s;
	uint32_t qi;
	unsigned left;       /* decisions until others have their turn */
	bool again;          /* there is more to do at once */
	uint32_t turn;       /* the line that it heads and now has room; 0: none, or used */
	uint64_t wake;       /* earliest time at which something changes by itself */
	enum line_kind line; /* where it is to wait, with `of` */
	uint32_t of;
	uint64_t line_wake; /* when that line may have room */
	enum refusal refusal;
	uint32_t limit; /* of REFUSAL_LIMIT */
};

/* Something changes by itself then. */
void pump_wake_at(struct visit *v, uint64_t at);
/* What it waits for. */
enum core_wait pump_wait_in_line(struct visit *v, enum line_kind line, uint32_t of,
				 enum refusal refusal, enum core_wait wait);
enum core_wait pump_wait_until(struct visit *v, uint64_t at, enum refusal refusal,
			       enum core_wait wait);
enum core_wait pump_wait_for_limit(struct core *c, struct visit *v, const struct answer *no);
/* The turn is used: the next of the line may come. */
void pump_use_turn(struct core *c, struct visit *v);
struct asker pump_asker(const struct core *c, const struct visit *v);
/* What stands against opening one more connection; opens it when nothing does (CORE_WAIT_NONE). */
enum core_wait pump_try_open(struct core *c, struct visit *v, bool *opened);
/* max-smtp-out may have been lowered. */
bool pump_are_too_many(const struct core *c, const struct visit *v);
bool pump_has_to_end(const struct core *c, const struct visit *v, const struct conn *cn);
/* In back-off that only sends probes: not before the next one. A probe is a try, and waits for none. */
enum core_wait pump_wait_for_probe(struct core *c, struct visit *v);
/* Hands entries to idle connections and opens new ones, until something stands against it. */
enum core_wait pump_hand_out(struct core *c, struct visit *v);
