/* limits: the table of all limits, what is charged to them, and who waits for them.
 *
 * A limit is scope x measure; a group holds those of one object. A decision gathers the limits it
 * falls in (struct charges), asks room of all and is charged to all, or to none. What it was
 * charged to it remembers, and holds: a limit that is configured away lives on until then. */
#pragma once

#include "scheduler/core/state.h"

void limits_clear(struct core *c);

/* Objects ------------------------------------------------------------------------------------ */
/* The group of this object, made when there is none: 0 never. `id`: number, or a hash of its name.
 */
uint32_t limits_group(struct core *c, enum core_scope scope, uint64_t id, uint32_t source);
/* The same, with the limits that the driver knows of it; 0 when it has none. */
uint32_t limits_group_asked(struct core *c, enum core_scope scope, uint32_t number,
			    uint32_t source);
uint32_t limits_group_provider(struct core *c, uint32_t number, struct slice name);
/* Its limits are these now. What was charged goes on counting. */
void limits_group_set(struct core *c, uint32_t group, const struct conf_limits *l);
/* If there is such a group: its limits are asked for again at its next use. */
void limits_stale(struct core *c, enum core_scope scope, uint32_t number);
void limits_group_name(struct core *c, uint32_t group, struct slice name);
void limits_group_drop(struct core *c, uint32_t group); /* one user less */
/* The rates of a queue by its settings. */
void limits_queue_set(struct core *c, uint32_t qi);
/* What the recovery from back-off allows; n 0: it is over. What was used counts. */
void limits_queue_learned(struct core *c, uint32_t qi, const struct conf_rate *r);
void limits_queue_clear(struct core *c, struct active *a);
/* max-smtp-out of the queue in its present mode. */
uint64_t limits_queue_out(const struct core *c, uint32_t qi);
/* Virtual MTAs, source IPs and all: by their configuration, and what ops.scope_limits says. */
void limits_world_set(struct core *c);
/* Groups whose limits the driver knows are asked for again. */
void limits_ask_again(struct core *c);
/* Source IPs and virtual MTAs have other numbers: by the old one the new, CORE_NONE: it is gone. */
void limits_renumber(struct core *c, const uint32_t *sources, const uint32_t *vmtas);
/* The limits of the queue for a source IP, if it has some, are asked for again at the next use. */
void limits_stale_source(struct core *c, uint32_t qi, uint32_t source);
/* The same for one object, and for those of a queue by source IP. */
void limits_ask_again_scope(struct core *c, enum core_scope scope, uint32_t number);
void limits_ask_again_queue(struct core *c, uint32_t qi);
/* The longest window of the group, with its deadline. */
uint64_t limits_group_longest(const struct core *c, uint32_t group);
/* Nobody waits for it any more. */
void limits_unused(struct core *c, uint32_t limit);

/* Some of the groups that nobody uses any more go; not while a decision is being made. */
void limits_sweep(struct core *c);

/* What was charged ahead goes back: the rate says what counts, and the pace. */
void limits_take_rest(struct limit *l);
static inline void
limits_take_back(struct limit *l)
{
	if (l->ahead > 0)
		limits_take_rest(l);
	l->ahead_since = NEVER;
	l->alike_until = 0;
}

/* Decisions ---------------------------------------------------------------------------------- */
static inline bool
limit_is_in_force(const struct limit *l)
{
	return l->owned && !l->off_until;
}

/* What is behind them needs no value. */
static inline void
charges_none(struct charges *set)
{
	set->n = set->counts = set->volumes = 0;
}

static inline void
charges_add(struct charges *set, uint32_t limit, enum core_measure m)
{
	if (limit == 0 || set->n == CHARGES_MAX)
		return;
	set->counts |= (uint32_t)(m == CORE_MEASURE_SMTP_OUT) << set->n;
	set->volumes |= (uint32_t)(m == CORE_MEASURE_VOLUME) << set->n;
	set->of[set->n++] = limit;
}

static inline void
charges_join(struct charges *set, const struct charges *more)
{
	uint32_t n = more->n < CHARGES_MAX - set->n ? more->n : CHARGES_MAX - set->n;

	if (n == 0)
		return;
	set->counts |= more->counts << set->n;
	set->volumes |= more->volumes << set->n;
	for (uint32_t k = 0; k < n; k++)
		set->of[set->n + k] = more->of[k];
	set->n += n;
}

static inline bool
charges_has(const struct charges *set, uint32_t limit)
{
	for (uint32_t k = 0; k < set->n; k++) {
		if (set->of[k] == limit)
			return true;
	}
	return false;
}

/* Of one measure. */
static inline void
charges_add_group(const struct core *c, struct charges *set, uint32_t group, enum core_measure m)
{
	const struct group *g = &c->groups[group];

	if (!group)
		return;
	charges_add(set, g->bounds.of[m], m);
	if (g->scope != CORE_SCOPE_QUEUE_SOURCE || m == CORE_MEASURE_SMTP_OUT)
		return;
	charges_add(set, g->backoff.of[m], m);
	charges_add(set, g->held.of[m], m);
}

static inline void
charges_add_queue(const struct core *c, struct charges *set, uint32_t qi, enum core_measure m)
{
	const struct active *a = c->queues[qi].active;

	charges_add(set, a->own.of[m], m);
	charges_add(set, a->backoff.of[m], m);
	if (m == CORE_MEASURE_MSG)
		charges_add(set, a->learned, m);
}

/* Whether one of them measures such. */
bool limits_measure(const struct core *c, const struct charges *set, enum core_measure m);

struct asker {
	uint32_t qi;
	unsigned priority;
	uint32_t turn;  /* line whose turn it has, 0: none */
	uint64_t bytes; /* of its next message, for the choice of a source IP */
	uint64_t want;  /* it makes no difference whether there is room for more; at least 1 */
	bool first;     /* before all who wait: it goes on with what it has begun */
};
struct answer {
	uint64_t room;   /* recipients, or attempts, that all rates have room for */
	uint64_t uses;   /* claims, or connections, that all counts have room for */
	uint64_t within; /* the deadline */
	uint64_t when;   /* the refusing limit has room; NEVER: not known */
	uint32_t limit;  /* that refuses, 0: none; of several the one that has room last */
	bool crowded;    /* others wait for one of them */
	bool near;       /* one of them may have no room for a second one like it */
};
/* Asks all for one more, and for so many bytes. Adds to *a, which begins as ANSWER_YES. */
#define ANSWER_YES                                                                                 \
	{                                                                                          \
		UINT64_MAX, UINT64_MAX, DEADLINE_US, 0, 0, false, false                            \
	}
void limits_ask(struct core *c, const struct asker *who, const struct charges *set, uint64_t bytes,
		struct answer *a);
/* The same without a queue, and not counted as a refusal. */
void limits_ask_room(struct core *c, const struct asker *who, const struct charges *set,
		     uint64_t bytes, struct answer *a);
/* Charges `n` recipients or attempts, and bytes, to those of the set that measure such. */
void limits_charge(struct core *c, const struct charges *set, uint64_t n, uint64_t bytes);
/* The same for a claim of an earlier process: what it is charged to already is taken out. */
void limits_adopt(struct core *c, struct charges *set, uint64_t n, uint64_t bytes);
/* What was attempted so long ago. */
void limits_past(struct core *c, const struct charges *set, uint64_t age, uint64_t rcpts,
		 uint64_t connects, uint64_t bytes);
/* More recipients to those that are held already. */
void limits_charge_more(struct core *c, const struct charges *set, uint64_t n);
/* Gives back what was charged at `stamp`. */
void limits_refund(struct core *c, const struct charges *set, uint64_t stamp, uint64_t n,
		   uint64_t bytes);
/* One more holds this limit, and one less. */
void limits_hold(struct core *c, uint32_t limit);
void limits_release(struct core *c, uint32_t limit);
/* Charged to the set no longer: counts are less by one. The caller's hold of it ends; *set becomes 0. */
void limits_let_go(struct core *c, uint32_t *set);

/* Sets that are held by many: each holds its limits. sets_make() begins with one holder. */
uint32_t sets_make(struct core *c, const struct charges *charges);
void sets_drop(struct core *c, uint32_t *set);
static inline const struct charges *
sets_of(const struct core *c, uint32_t set)
{
	return &c->sets[set].charges;
}
static inline uint32_t
sets_hold(struct core *c, uint32_t set)
{
	c->sets[set].refs += set != 0; /* the empty one is nobody's */
	return set;
}
/* A connection that is charged to these begins (1) or ceases (-1) to be idle, and to end. */
void limits_count_state(struct core *c, const struct charges *set, int idle, int ending);

/* Waiting ------------------------------------------------------------------------------------ */
/* Whether the line may have its turn now; else *when. */
bool limits_line_has_room(struct core *c, uint32_t line, uint64_t *when);
/* One of these has a line that is longer than what is ending for it: its connection is called for.
 */
bool limits_wanted(const struct core *c, const struct charges *set);
/* A connection is opened because there is room for messages: that is kept for it a moment, so that
 * not everybody opens one for the same room. Until its first message, or its end. */
void limits_promise(struct core *c, struct conn *cn);
void limits_promise_over(struct core *c, struct conn *cn);
bool limits_is_owed(const struct active *a, uint32_t limit);
void limits_owe(struct active *a, uint32_t limit);
