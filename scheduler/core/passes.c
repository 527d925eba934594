#include "scheduler/core/passes.h"

#include "common/base/mem.h"
#include "scheduler/core/admit.h"
#include "scheduler/core/limits_impl.h"

/* So much has to be charged before it is tried again: a try costs as much as some ten messages. */
#define TRY_EVERY 64
#define UNUSED_US (10 * SECOND_US)
/* The rate itself is looked at when less than such a part of N is known to be free. */
#define SURE_PART 16

static struct pass *
passes_of(struct core *c, uint32_t qi)
{
	return &c->passes[(qi * 2654435761u >> 16) % PASS_SETS * PASS_WAYS];
}

static void
drop(struct core *c, struct pass *p)
{
	if (p->epoch == 0)
		return;
	p->epoch = 0;
	sets_drop(c, &p->message);
	sets_drop(c, &p->connection);
	limits_group_drop(c, p->job_group);
	limits_group_drop(c, p->sender_group);
}

/* Also one without limits: it has to be there to learn that it has some, or means another one. */
static uint32_t
hold_group(struct core *c, uint32_t number, uint32_t group)
{
	if (!c->ops.scope_limits || number == 0)
		return 0;
	c->groups[group].users++;
	return group;
}

void
passes_forget_queue(struct core *c, uint32_t qi)
{
	struct pass *p;

	if (!c->passes)
		return;
	p = passes_of(c, qi);
	for (unsigned i = 0; i < PASS_WAYS; i++, p++) {
		if (p->epoch && p->qi == qi)
			p->units_until = 0;
	}
}

void
passes_age(struct core *c)
{
	struct pass *p;

	if (!c->passes)
		return;
	c->pass_hand = (c->pass_hand + 1) % (PASS_SETS * PASS_WAYS);
	p = &c->passes[c->pass_hand];
	if (p->epoch && (p->epoch != c->pass_epoch || p->used_at + UNUSED_US < c->now.boot_us))
		drop(c, p);
}

/* Connections that were opened for want of one may each take one more. */
static uint64_t
needed(const struct core *c, const struct asker *who)
{
	return who->want + c->n_conns;
}

const struct pass *
passes_find(struct core *c, const struct asker *who, uint32_t source, const struct core_tag *t)
{
	struct pass *p;

	if (!c->passes || source == CORE_NONE)
		return NULL;
	p = passes_of(c, who->qi);
	for (unsigned i = 0; i < PASS_WAYS; i++, p++) {
		if (p->qi != who->qi || p->source != source || p->job != t->job ||
		    p->sender_domain != t->sender_domain)
			continue;
		if (p->epoch != c->pass_epoch ||
		    p->units_until < c->charged_units + needed(c, who) ||
		    p->bytes_until < c->charged_bytes + 2 * who->bytes ||
		    c->groups[p->job_group].stale || c->groups[p->sender_group].stale)
			return NULL;
		p->used_at = c->now.boot_us;
		return p;
	}
	return NULL;
}

uint64_t
passes_counts_room(const struct core *c, uint32_t set)
{
	const struct charges *of = sets_of(c, set);
	uint64_t room = UINT64_MAX;

	for (uint32_t left = of->counts; left; left &= left - 1) {
		const struct limit *l = &c->limits[of->of[__builtin_ctz(left)]];
		uint64_t own = l->used < l->n ? l->n - l->used : 0;

		if (own < room)
			room = own;
	}
	return room;
}

/* What the limit is sure to have room for, of its measure; 0: it has to be asked each time. */
static uint64_t
margin(struct core *c, struct limit *l)
{
	if (l->line || !limit_is_in_force(l))
		return 0;
	if (!limits_in_mode(c, l))
		return UINT64_MAX; /* it refuses nothing, until a flip, which voids the pass */
	if (limit_is_count(l))
		return UINT64_MAX; /* what is given back to it is used again: looked at each time */
	if (l->sure < 2 * TRY_EVERY + l->n / SURE_PART)
		limits_room_of(c, l, NULL);
	return l->sure;
}

static void
narrow(struct core *c, const struct charges *set, struct pass *p, uint64_t *within)
{
	for (uint32_t k = 0; k < set->n; k++) {
		struct limit *l = &c->limits[set->of[k]];
		uint64_t *until =
			l->measure == CORE_MEASURE_VOLUME ? &p->bytes_until : &p->units_until;
		uint64_t now =
			l->measure == CORE_MEASURE_VOLUME ? c->charged_bytes : c->charged_units;
		uint64_t m = margin(c, l);

		if (m < *until - now)
			*until = now + m;
		if (l->within < *within)
			*within = l->within;
	}
}

/* The one that is replaced; NULL: those there are too young. */
static struct pass *
place_for(struct core *c, const struct asker *who, uint32_t source, const struct core_tag *t)
{
	struct pass *p = passes_of(c, who->qi), *oldest = p;

	for (unsigned i = 0; i < PASS_WAYS; i++, p++) {
		if (p->qi == who->qi && p->source == source && p->job == t->job &&
		    p->sender_domain == t->sender_domain) {
			oldest = p;
			break;
		}
		if (p->tried < oldest->tried)
			oldest = p;
	}
	return oldest->tried && oldest->tried + TRY_EVERY > c->charged_units ? NULL : oldest;
}

static bool
has_old_provider(const struct active *a)
{
	for (unsigned i = 0; a->old_providers && i < OLD_PROVIDERS; i++) {
		if (a->old_providers[i].group)
			return true;
	}
	return false;
}

void
passes_learn(struct core *c, const struct asker *who, uint32_t source, struct core_tag *t)
{
	struct charges message = { .n = 0 }, connection = { .n = 0 };
	struct pass *p, found;

	if (!c->passes)
		c->passes = mem_calloc(PASS_SETS * PASS_WAYS, sizeof(*c->passes));
	p = place_for(c, who, source, t);
	if (!p)
		return;
	drop(c, p);
	*p = (struct pass){
		.tried = c->charged_units,
		.used_at = c->now.boot_us,
		.units_until = UINT64_MAX,
		.bytes_until = UINT64_MAX,
		.message_within = DEADLINE_US,
		.connection_within = DEADLINE_US,
		.qi = who->qi,
		.source = source,
		.job = t->job,
		.sender_domain = t->sender_domain,
	};
	/* Its windows end at a time of their own. */
	if (has_old_provider(c->queues[who->qi].active))
		return;
	admit_message(c, who->qi, &message);
	admit_message_source(c, who->qi, source, &message);
	admit_message_tag(c, t, &message);
	admit_connection(c, who->qi, &connection);
	admit_connection_source(c, who->qi, source, &connection);
	admit_connection_tag(c, t, &connection);
	if (message.n == CHARGES_MAX || connection.n == CHARGES_MAX)
		return;
	found = *p;
	narrow(c, &message, &found, &found.message_within);
	narrow(c, &connection, &found, &found.connection_within);
	if (found.units_until < c->charged_units + needed(c, who) + TRY_EVERY ||
	    found.bytes_until < c->charged_bytes + 2 * who->bytes)
		return;
	*p = found;
	p->job_group = hold_group(c, t->job, t->job_group);
	p->sender_group = hold_group(c, t->sender_domain, t->sender_group);
	p->message = sets_make(c, &message);
	p->connection = sets_make(c, &connection);
	p->epoch = c->pass_epoch;
}
