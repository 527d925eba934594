#include "scheduler/core/admit.h"

#include "common/base/check.h"
#include "scheduler/core/backoff.h"
#include "scheduler/core/pump.h"
#include "scheduler/core/sources.h"

static inline void
add_both(const struct core *c, struct charges *set, uint32_t group)
{
	charges_add_group(c, set, group, CORE_MEASURE_MSG);
	charges_add_group(c, set, group, CORE_MEASURE_VOLUME);
}

/* The i-th former provider of a queue that has some; 0: its windows are empty. */
static uint32_t
old_provider(struct core *c, struct active *a, unsigned i)
{
	struct old_provider *o = &a->old_providers[i];

	if (o->group == 0)
		return 0;
	if (o->until <= c->now.boot_us) {
		limits_group_drop(c, o->group);
		o->group = 0;
	}
	return o->group;
}

static uint32_t
vmta_group(const struct core *c, uint32_t qi)
{
	int32_t v = c->queues[qi].vmta;

	return v < 0 ? 0 : c->vmtas[v].group;
}

/* The group that was found the last time, if it still is that object's. */
static inline uint32_t
group_of(struct core *c, uint32_t *last, enum core_scope scope, uint32_t number, uint32_t source)
{
	const struct group *g = &c->groups[*last];

	if (!g->made || g->scope != scope || g->number != number || g->source != source || g->stale)
		*last = limits_group_asked(c, scope, number, source);
	return *last;
}

/* 0 when the queue has none for that source IP. */
static uint32_t
source_group(struct core *c, uint32_t qi, uint32_t source)
{
	if (!(c->ops.source_limits && pump_settings(c, qi)->source_limits) &&
	    !backoff_is_at(c, qi, source))
		return 0;
	return group_of(c, &c->queues[qi].active->source_groups[source % SOURCE_GROUPS],
			CORE_SCOPE_QUEUE_SOURCE, qi, source);
}

void
admit_message(struct core *c, uint32_t qi, struct charges *set)
{
	struct active *a = pump_active(c, qi);

	charges_add_queue(c, set, qi, CORE_MEASURE_MSG);
	charges_add_queue(c, set, qi, CORE_MEASURE_VOLUME);
	add_both(c, set, vmta_group(c, qi));
	add_both(c, set, a->provider);
	for (unsigned i = 0; a->old_providers && i < OLD_PROVIDERS; i++)
		add_both(c, set, old_provider(c, a, i));
}

void
admit_message_source(struct core *c, uint32_t qi, uint32_t source, struct charges *set)
{
	add_both(c, set, c->sources[source].group);
	add_both(c, set, source_group(c, qi, source));
}

static inline uint32_t
tag_group(struct core *c, enum core_scope scope, uint32_t number, uint32_t *last)
{
	return number && c->ops.scope_limits ? group_of(c, last, scope, number, 0) : 0;
}

static void
add_tag(struct core *c, struct charges *set, enum core_scope scope, uint32_t number, uint32_t *last)
{
	uint32_t group = tag_group(c, scope, number, last);

	add_both(c, set, group);
	charges_add_group(c, set, group, CORE_MEASURE_SMTP_OUT);
}

void
admit_message_tag(struct core *c, struct core_tag *t, struct charges *set)
{
	add_tag(c, set, CORE_SCOPE_JOB, t->job, &t->job_group);
	add_tag(c, set, CORE_SCOPE_SENDER, t->sender_domain, &t->sender_group);
}

void
admit_message_entry(struct core *c, uint32_t e, struct charges *set)
{
	admit_message_tag(c, &c->tags[c->entries[e].tag], set);
}

void
admit_connection_tag(struct core *c, struct core_tag *t, struct charges *set)
{
	charges_add_group(c, set, tag_group(c, CORE_SCOPE_JOB, t->job, &t->job_group),
			  CORE_MEASURE_CONNECT);
	charges_add_group(c, set,
			  tag_group(c, CORE_SCOPE_SENDER, t->sender_domain, &t->sender_group),
			  CORE_MEASURE_CONNECT);
}

uint64_t
admit_bytes(const struct core *c, uint32_t e)
{
	uint64_t kbytes = c->entries[e].kbytes;

	return kbytes ? kbytes * 1024 : 1;
}

uint32_t
admit_entry(struct core *c, const struct asker *who, struct charges *set, struct answer *a)
{
	uint32_t e = c->queues[who->qi].ready.head;
	const struct answer yes = ANSWER_YES;
	struct answer first = yes;

	if (!c->ops.scope_limits)
		return e;
	for (unsigned i = 0; i < LOOK_AHEAD && e != CORE_NONE; i++, e = c->entries[e].next) {
		charges_none(set);
		*a = yes;
		admit_message_entry(c, e, set);
		if (set->n == 0)
			return e;
		limits_ask(c, who, set, admit_bytes(c, e), a);
		if (a->limit == 0)
			return e;
		if (i == 0)
			first = *a;
	}
	*a = first;
	return CORE_NONE;
}

/* Connections -------------------------------------------------------------------------------- */
static void
add_connection(const struct core *c, struct charges *set, uint32_t group)
{
	charges_add_group(c, set, group, CORE_MEASURE_CONNECT);
	charges_add_group(c, set, group, CORE_MEASURE_SMTP_OUT);
}

void
admit_connection(struct core *c, uint32_t qi, struct charges *set)
{
	struct active *a = pump_active(c, qi);

	charges_add_queue(c, set, qi, CORE_MEASURE_CONNECT);
	add_connection(c, set, vmta_group(c, qi));
	add_connection(c, set, a->provider);
	for (unsigned i = 0; a->old_providers && i < OLD_PROVIDERS; i++)
		add_connection(c, set, old_provider(c, a, i));
	add_connection(c, set, c->all);
}

void
admit_connection_source(struct core *c, uint32_t qi, uint32_t source, struct charges *set)
{
	add_connection(c, set, c->sources[source].group);
	add_connection(c, set, source_group(c, qi, source));
}

void
admit_destination(struct core *c, const struct core_target_limits *t, struct charges *set)
{
	struct conf_limits l = { 0 };
	uint32_t group;

	if (!t || t->ip_limit == 0)
		return;
	l.max_smtp_out = t->ip_limit;
	group = limits_group(c, CORE_SCOPE_DESTINATION, t->ip_id, 0);
	limits_group_set(c, group, &l);
	charges_add_group(c, set, group, CORE_MEASURE_SMTP_OUT);
}

void
admit_mx(struct core *c, const struct core_target_limits *t, uint32_t source, struct charges *set)
{
	struct conf_limits l = { 0 };
	uint32_t group;

	if (!t || t->mx_limit == 0)
		return;
	l.max_smtp_out = t->mx_limit;
	group = limits_group(c, CORE_SCOPE_MX_SOURCE, t->mx_id, source);
	limits_group_set(c, group, &l);
	charges_add_group(c, set, group, CORE_MEASURE_SMTP_OUT);
}

/* Several connections may be opened for one entry, and carry others: it stands for all of its job
 * and its sender. */
uint32_t
admit_connection_entry(struct core *c, const struct asker *who, struct charges *set,
		       struct answer *yes)
{
	uint32_t e = c->queues[who->qi].ready.head;
	struct answer first = *yes;

	if (!c->ops.scope_limits)
		return e;
	for (unsigned i = 0; i < LOOK_AHEAD && e != CORE_NONE; i++, e = c->entries[e].next) {
		struct charges own;
		struct answer a = *yes;

		charges_none(&own);
		admit_connection_tag(c, &c->tags[c->entries[e].tag], &own);
		if (own.n == 0)
			return e;
		limits_ask(c, who, &own, 0, &a);
		if (a.limit == 0) {
			charges_join(set, &own);
			*yes = a;
			return e;
		}
		if (i == 0)
			first = a;
	}
	*yes = first;
	return CORE_NONE;
}

/* The past --------------------------------------------------------------------------------------
 */
void
admit_past(struct core *c, uint32_t qi, const struct core_past *p, struct charges *set)
{
	uint32_t source = p->source_ip < c->n_sources ? p->source_ip : CORE_NONE;
	int vmta = sources_vmta(c, p->vmta);
	bool connect = p->connects > 0;
	struct core_tag t = { .job = p->job, .sender_domain = p->sender_domain };

	if (qi != CORE_NONE) {
		charges_add_queue(c, set, qi, CORE_MEASURE_MSG);
		charges_add_queue(c, set, qi, CORE_MEASURE_VOLUME);
		charges_add_queue(c, set, qi, CORE_MEASURE_CONNECT);
		vmta = c->queues[qi].vmta;
	}
	if (vmta >= 0) {
		add_both(c, set, c->vmtas[vmta].group);
		charges_add_group(c, set, c->vmtas[vmta].group, CORE_MEASURE_CONNECT);
	}
	if (source != CORE_NONE) {
		uint32_t own = qi != CORE_NONE ? source_group(c, qi, source) : 0;

		add_both(c, set, c->sources[source].group);
		add_both(c, set, own);
		charges_add_group(c, set, c->sources[source].group, CORE_MEASURE_CONNECT);
		charges_add_group(c, set, own, CORE_MEASURE_CONNECT);
	}
	if (p->provider.n > 0) {
		uint32_t group = limits_group_provider(c, p->provider_number, p->provider);

		add_both(c, set, group);
		charges_add_group(c, set, group, CORE_MEASURE_CONNECT);
	}
	if (connect) {
		admit_connection_tag(c, &t, set);
		return;
	}
	admit_message_tag(c, &t, set);
}
