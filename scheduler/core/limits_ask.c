#include "scheduler/core/limits_impl.h"

#include "common/base/check.h"
#include "common/base/mem.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/lines.h"
#include "scheduler/core/sources.h"

/* So much of what is sure to have room is charged ahead. */
#define AHEAD_PART 64

/* Sets --------------------------------------------------------------------------------------- */
bool
limits_in_mode(const struct core *c, const struct limit *l)
{
	const struct group *g;
	const struct queue *q;
	bool twin;

	if (l->mode != LIMIT_NORMAL && l->mode != LIMIT_BACKOFF)
		return true;
	if (l->scope == CORE_SCOPE_QUEUE) {
		q = &c->queues[l->owner];
		twin = q->backoff && !(q->learning && l->measure == CORE_MEASURE_MSG);
	} else {
		g = &c->groups[l->owner];
		q = &c->queues[g->number];
		twin = q->backoff || backoff_is_at(c, g->number, g->source);
	}
	return (l->mode == LIMIT_BACKOFF) == twin;
}

static bool
holds(const struct core *c, const struct limit *l)
{
	return limit_is_in_force(l) && limits_in_mode(c, l);
}

bool
limits_measure(const struct core *c, const struct charges *set, enum core_measure m)
{
	for (uint32_t k = 0; k < set->n; k++) {
		if (c->limits[set->of[k]].measure == m)
			return true;
	}
	return false;
}

uint32_t
sets_make(struct core *c, const struct charges *charges)
{
	uint32_t i = c->free_set;

	if (charges->n == 0)
		return 0;
	if (i) {
		c->free_set = c->sets[i].next_free;
	} else {
		i = c->n_sets++;
		mem_grow((void **)&c->sets, &c->sets_cap, (size_t)i + 1, sizeof(*c->sets));
	}
	c->sets[i].refs = 1;
	c->sets[i].charges = *charges;
	for (uint32_t k = 0; k < charges->n; k++)
		limits_hold(c, charges->of[k]);
	return i;
}

void
sets_drop(struct core *c, uint32_t *set)
{
	uint32_t i = *set;
	struct charge_set *s = &c->sets[i];

	*set = 0;
	if (i == 0)
		return;
	CHECK(s->refs > 0);
	if (--s->refs > 0)
		return;
	for (uint32_t k = 0; k < s->charges.n; k++)
		limits_release(c, s->charges.of[k]);
	s->next_free = c->free_set;
	c->free_set = i;
}

/* Asking ------------------------------------------------------------------------------------- */
/* One limit is asked for one more. */
static void
ask_one(struct core *c, const struct asker *who, uint32_t i, uint64_t bytes, struct answer *out)
{
	struct limit *l = &c->limits[i];
	const struct active *a = who->qi == CORE_NONE ? NULL : c->queues[who->qi].active;
	uint64_t room, when = 0;
	bool refuse;

	if (!holds(c, l))
		return;
	out->near = true;
	if (l->measure == CORE_MEASURE_VOLUME) {
		room = limits_room_of(c, l, NULL);
		refuse = bytes > room && !rate_fits(l->rate, c->now.boot_us, bytes);
		if (refuse)
			when = rate_when_fits(l->rate, c->now.boot_us, bytes);
	} else {
		room = limits_room_of(c, l, a);
		refuse = room == 0;
		if (refuse)
			when = limits_when_of(c, l);
		else if (!who->first && (when = limits_pace_when(c, l, who->qi, who->priority)) > 0)
			refuse = true;
		if (l->rate && rate_share(l->rate) < room)
			room = rate_share(l->rate);
		if (l->rate && room < out->room)
			out->room = room;
		else if (!l->rate && room < out->uses)
			out->uses = room;
	}
	if (!refuse && l->line && l->line != who->turn && !who->first && a->n_promised == 0 &&
	    !limits_is_owed(a, i) && lines_ahead(c, l->line, who->qi, who->priority)) {
		refuse = true;
		when = c->now.boot_us;
	}
	if (l->line && lines_others(c, l->line, who->qi, who->priority))
		out->crowded = true;
	if (l->within < out->within)
		out->within = l->within;
	if (!refuse)
		return;
	/* A count is given back sooner or later: as if in a second. */
	if (out->limit == 0 ||
	    (when == NEVER ? c->now.boot_us + SECOND_US : when) >
		    (out->when == NEVER ? c->now.boot_us + SECOND_US : out->when)) {
		out->limit = i;
		out->when = when;
	}
}

/* Nobody waits for it, and it has room for more than makes a difference: as most limits do most of
 * the time. */
static inline bool
is_far(const struct limit *l, const struct asker *who, uint64_t bytes, struct answer *out)
{
	if (l->line || l->sure < (l->measure == CORE_MEASURE_VOLUME ? 2 * bytes : who->want))
		return false;
	if (l->within < out->within)
		out->within = l->within;
	return true;
}

static inline bool
count_is_far(const struct limit *l, struct answer *out)
{
	if (l->line || l->used >= l->n || !limit_is_in_force(l))
		return false;
	if (l->n - l->used < 2)
		out->near = true;
	if (l->n - l->used < out->uses)
		out->uses = l->n - l->used;
	return true;
}

void
limits_ask_room(struct core *c, const struct asker *who, const struct charges *set, uint64_t bytes,
		struct answer *a)
{
	for (uint32_t k = 0; k < set->n; k++) {
		const struct limit *l = &c->limits[set->of[k]];

		if (limit_is_count(l) ? !count_is_far(l, a) : !is_far(l, who, bytes, a))
			ask_one(c, who, set->of[k], bytes, a);
	}
}

void
limits_ask(struct core *c, const struct asker *who, const struct charges *set, uint64_t bytes,
	   struct answer *a)
{
	limits_ask_room(c, who, set, bytes, a);
	if (a->limit)
		c->limits[a->limit].refused++;
}

/* Charging ----------------------------------------------------------------------------------- */
static uint64_t
amount(const struct limit *l, uint64_t n, uint64_t bytes)
{
	return l->measure == CORE_MEASURE_VOLUME ? bytes : n;
}

/* What counts is never forgotten: N may be another one tomorrow. */
static void
remember(struct core *c, struct limit *l, uint64_t at, uint64_t k)
{
	if (rate_forgets(l->rate, at, k))
		limits_keep_all(c, l);
}

static void
unpace(struct limit *l, uint64_t k)
{
	uint64_t by = limit_is_paced(l) ? limits_pace_of(l, k) : 0;

	l->paced -= by < l->paced ? by : l->paced;
}

void
limits_take_rest(struct limit *l)
{
	rate_refund(l->rate, l->ahead_since, l->ahead);
	unpace(l, l->ahead);
	l->sure += l->ahead;
	l->ahead = 0;
}

/* A large N is kept in buckets of time, and whatever falls in one counts alike. So when a limit is
 * far from its N and the bucket has had a charge, a part of what is sure is charged ahead at once:
 * the rest of the bucket takes from that. What is left goes back before anybody asks the rate; who
 * is killed leaves it charged, which is too much and never too little. */
static void
charge_ahead(struct core *c, struct limit *l)
{
	uint64_t k = l->sure / AHEAD_PART;

	if (k == 0 || l->line)
		return;
	rate_force(l->rate, c->now.boot_us, k);
	if (limit_is_paced(l))
		limits_pace(c, l, k);
	l->sure -= k;
	l->ahead = k;
	l->ahead_since = c->now.boot_us;
}

static void
charge_now(struct core *c, struct limit *l, uint64_t k)
{
	bool again = c->now.boot_us < l->alike_until;

	limits_take_back(l);
	if (k <= l->sure) {
		l->sure -= k;
	} else {
		l->sure = 0;
		remember(c, l, c->now.boot_us, k);
	}
	if (l->measure == CORE_MEASURE_VOLUME)
		rate_past(l->rate, c->now.boot_us, 0, k); /* one thing: it may be owed */
	else
		rate_force(l->rate, c->now.boot_us, k);
	if (limit_is_paced(l))
		limits_pace(c, l, k);
	if (l->sure == 0)
		return;
	l->alike_until = rate_alike_until(l->rate, c->now.boot_us);
	if (again)
		charge_ahead(c, l);
}

static inline void
charge_rate(struct core *c, struct limit *l, uint64_t k)
{
	if (k <= l->ahead && c->now.boot_us < l->alike_until)
		l->ahead -= k;
	else if (k > 0)
		charge_now(c, l, k);
}

/* Whoever looks at the totals sees no less than what any limit was charged. */
static inline void
count_charged(struct core *c, uint64_t n, uint64_t bytes)
{
	c->charged_units += n > 0 ? n : 1;
	c->charged_bytes += bytes;
}

void
limits_charge(struct core *c, const struct charges *set, uint64_t n, uint64_t bytes)
{
	uint32_t all = (uint32_t)((UINT64_C(1) << set->n) - 1);

	count_charged(c, n, bytes);
	for (uint32_t left = set->counts; left; left &= left - 1)
		c->limits[set->of[__builtin_ctz(left)]].used++;
	for (uint32_t left = set->volumes; left; left &= left - 1)
		charge_rate(c, &c->limits[set->of[__builtin_ctz(left)]], bytes);
	for (uint32_t left = all & ~(set->counts | set->volumes); left; left &= left - 1)
		charge_rate(c, &c->limits[set->of[__builtin_ctz(left)]], n);
}

void
limits_adopt(struct core *c, struct charges *set, uint64_t n, uint64_t bytes)
{
	struct charges kept = { .n = 0 };

	for (uint32_t k = 0; k < set->n; k++) {
		const struct limit *l = &c->limits[set->of[k]];

		if (!l->rate || !l->found)
			charges_add(&kept, set->of[k], l->measure);
	}
	limits_charge(c, &kept, n, bytes);
	*set = kept;
}

void
limits_past(struct core *c, const struct charges *set, uint64_t age, uint64_t rcpts,
	    uint64_t connects, uint64_t bytes)
{
	for (uint32_t i = 0; i < set->n; i++) {
		struct limit *l = &c->limits[set->of[i]];
		uint64_t k =
			l->measure == CORE_MEASURE_CONNECT ? connects : amount(l, rcpts, bytes);

		if (!l->rate || k == 0 || age > RATE_WINDOW_MAX_US)
			continue;
		limits_not_sure(c, l);
		remember(c, l, c->now.boot_us - age, k);
		rate_past(l->rate, c->now.boot_us, age, k);
	}
}

void
limits_charge_more(struct core *c, const struct charges *set, uint64_t n)
{
	count_charged(c, n, 0);
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];

		if (l->rate && l->measure == CORE_MEASURE_MSG)
			charge_rate(c, l, n);
	}
}

/* Something was given back: who waits for it looks. */
static inline void
poke_waiting(struct core *c, const struct limit *l)
{
	if (l->line)
		lines_poke(c, l->line);
	if (l->owned && (l->scope == CORE_SCOPE_SOURCE || l->scope == CORE_SCOPE_MX_SOURCE))
		sources_poke(c, c->groups[l->owner].source);
}

/* `back` of what was charged at `stamp`. */
static void
refund_past(struct core *c, struct limit *l, uint64_t stamp, uint64_t back)
{
	if (!l->rate || c->now.boot_us < l->no_refund_until)
		return;
	rate_refund(l->rate, stamp, back);
	unpace(l, back);
	poke_waiting(c, l);
}

static inline void
refund_one(struct core *c, struct limit *l, uint64_t stamp, uint64_t back)
{
	/* It was charged ahead, or counts as if; a count never is. */
	if (stamp >= l->ahead_since && c->now.boot_us < l->alike_until)
		l->ahead += back;
	else
		refund_past(c, l, stamp, back);
}

void
limits_refund(struct core *c, const struct charges *set, uint64_t stamp, uint64_t n, uint64_t bytes)
{
	for (uint32_t left = bytes > 0 ? set->volumes : 0; left; left &= left - 1)
		refund_one(c, &c->limits[set->of[__builtin_ctz(left)]], stamp, bytes);
	for (uint32_t k = 0; k < set->n && n > 0; k++) {
		if (!(set->volumes >> k & 1))
			refund_one(c, &c->limits[set->of[k]], stamp, n);
	}
}

void
limits_hold(struct core *c, uint32_t limit)
{
	c->limits[limit].refs++;
}

void
limits_release(struct core *c, uint32_t limit)
{
	struct limit *l = &c->limits[limit];

	CHECK(l->refs-- > 0);
	if (!l->owned)
		limits_unused(c, limit);
}

void
limits_let_go(struct core *c, uint32_t *set)
{
	const struct charges *of = sets_of(c, *set);

	for (uint32_t left = of->counts; left; left &= left - 1) {
		struct limit *l = &c->limits[of->of[__builtin_ctz(left)]];

		CHECK(l->used-- > 0);
		poke_waiting(c, l);
	}
	sets_drop(c, set);
}

void
limits_count_state(struct core *c, const struct charges *set, int idle, int ending)
{
	if (idle == 0 && ending == 0)
		return;
	for (uint32_t left = set->counts; left; left &= left - 1) {
		struct limit *l = &c->limits[set->of[__builtin_ctz(left)]];

		l->idle += (uint32_t)idle;
		l->ending += (uint32_t)ending;
	}
}
