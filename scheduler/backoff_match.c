/* backoff_match: from the rules that match a reply to what is done. */
#include <stdio.h>

#include "common/base/check.h"
#include "common/base/kill_point.h"
#include "common/base/log.h"
#include "common/conf/conf_actions.h"
#include "common/rules/rules_merge.h"
#include "scheduler/backoff_impl.h"
#include "scheduler/notify.h"
#include "scheduler/reply_matches.h"
#include "scheduler/state.h"

#define PLACE_BYTES 512

/* What it would have done now: a threshold is tried out to learn that. */
static void
log_dry(const struct scheduler *s, const struct backoff_match *m, const struct conf_rule *r)
{
	struct slice name = names_get(s->names, m->queue);
	struct buf actions = { 0 };

	conf_actions_put(&actions, &r->actions);
	buf_putc(&actions, '\0');
	log_info("queue=%.*s rule=%s:%u dry-run=fires actions=\"%s\"", (int)name.n, name.p, r->file,
		 r->line, actions.data + actions.start);
	buf_clear(&actions);
}

/* Those that fire: each without `after`; with it those whose count is reached. */
static unsigned
fired(struct scheduler *s, const struct backoff_match *m, uint32_t *out)
{
	const struct conf_rule *rules;
	size_t n_rules = conf_rules(s->conf, &rules);
	unsigned n = 0;

	for (unsigned i = 0; i < m->n && i < RULE_HITS_MAX; i++) {
		CHECK(m->rule[i] < n_rules);
		if (rules[m->rule[i]].after.n == 0)
			out[n++] = m->rule[i];
		else if ((m->fresh >> i & 1) != 0 &&
			 backoff_count(s, m->rule[i], m->queue, m->source_ip))
			out[n++] = m->rule[i];
		else
			continue;
		if (rules[m->rule[i]].dry_run && rules[m->rule[i]].after.n > 1)
			log_dry(s, m, &rules[m->rule[i]]);
	}
	return n;
}

static struct slice
place(const struct scheduler *s, int32_t rule, char dst[PLACE_BYTES])
{
	const struct conf_rule *rules;
	size_t n = conf_rules(s->conf, &rules);

	if (rule < 0 || (size_t)rule >= n)
		return SLICE_NONE;
	snprintf(dst, PLACE_BYTES, "%s:%u", rules[rule].file, rules[rule].line);
	return slice_str(dst);
}

static void
enter(struct scheduler *s, const struct backoff_match *m, const struct rules_verdict *v)
{
	const struct conf_queue *q =
		settings_get(s->settings, m->queue, names_get(s->names, m->queue));
	struct backoff_row *row = backoff_scope_row(s, v->scope, m->queue, m->source_ip);
	int32_t rule = v->by[CONF_ACTION_BACKOFF];
	const struct conf_source_ip *ips;
	const struct conf_rule *rules;
	char at[PLACE_BYTES];
	struct backoff_why why = {
		.reason = m->text,
		.rule = place(s, rule, at),
		.for_us = q->backoff_to_normal_after_us,
	};

	(void)conf_rules(s->conf, &rules);
	if (rule >= 0)
		why.rule_key = rules[rule].key;
	if (rules_verdict_has(v, CONF_ACTION_TO_NORMAL_AFTER))
		why.for_us = v->backoff_to_normal_after_us;
	if (m->source_ip < conf_source_ips(s->conf, &ips))
		why.source_ip = slice_str(ips[m->source_ip].text);
	backoff_enter(s, row, &why, m->queue, m->entry);
}

/* `source` is one of the queue's virtual MTA, and it has no other one left. */
static bool
was_the_last_source(struct scheduler *s, uint32_t queue, struct slice source)
{
	bool own = false;
	struct core_now now = scheduler_now(s);
	struct slice vmta = names_get(s->names, queue);
	const struct conf_source_ip *ips;
	const struct conf_vmta *vmtas;
	int number;

	(void)slice_cut(&vmta, '/');
	number = conf_vmta_find(s->conf, vmta);
	if (number < 0 || !core_sources_all_disabled(s->core, &now, queue))
		return false;
	(void)conf_source_ips(s->conf, &ips);
	(void)conf_vmtas(s->conf, &vmtas);
	for (unsigned i = 0; i < vmtas[number].n_sources; i++) {
		struct slice ip = slice_str(ips[vmtas[number].sources[i].source_ip].text);

		own |= slice_eq_nocase(ip, source);
	}
	return own;
}

void
backoff_source_disabled(struct scheduler *s, uint32_t queue, struct slice source, struct slice rule,
			uint32_t entry)
{
	struct slice name = names_get(s->names, queue);
	const struct conf_queue *q = settings_get(s->settings, queue, name);
	struct backoff_why why = {
		.reason = SLICE_LIT("all SMTP sources are disabled"),
		.rule = rule,
		.source_ip = source,
		.for_us = q->backoff_to_normal_after_us,
	};

	if (!was_the_last_source(s, queue, source))
		return;
	log_warn("All SMTP sources for queue %.*s are now disabled.", (int)name.n, name.p);
	/* What tells operators of back-off is not held by it. */
	if (notify_is_queue(name))
		return;
	if (q->backoff_upon_all_sources_disabled)
		backoff_enter(s, backoff_scope_row(s, CONF_RULE_QUEUE, queue, CORE_NONE), &why,
			      queue, entry);
}

/* What strangers reply leaves operators room. */
static bool
is_room(struct scheduler *s, struct slice queue, const char *source)
{
	return overrides_count(s->overrides) < OVERRIDES_OURS ||
	       overrides_find(s->overrides, STORE_ACT_SOURCE_DISABLED, CONF_OVER_QUEUE, queue,
			      slice_str(source)) != NULL;
}

/* It is disabled, by an operator or by a rule for as long or longer: that stays. What an operator
 * said holds as long as that says; replies were on their way. */
static bool
is_disabled_longer(struct scheduler *s, struct slice queue, const char *source, uint64_t for_us)
{
	const struct override *row = overrides_find(s->overrides, STORE_ACT_SOURCE_DISABLED,
						    CONF_OVER_QUEUE, queue, slice_str(source));

	if (row == NULL || row->rule == NULL || row->until_boot_us == OVERRIDE_NEVER)
		return row != NULL;
	return for_us != CONF_NEVER && row->until_boot_us >= loop_boot_us(s->loop) + for_us;
}

static void
disable_source(struct scheduler *s, const struct backoff_match *m, const struct rules_verdict *v)
{
	struct slice name = names_get(s->names, m->queue);
	const struct conf_queue *q = settings_get(s->settings, m->queue, name);
	const struct conf_source_ip *ips;
	uint64_t after = rules_verdict_has(v, CONF_ACTION_REENABLE_AFTER)
				 ? v->reenable_after_us
				 : q->reenable_source_ip_after_us;
	char at[PLACE_BYTES], text[PLACE_BYTES + REPLY_KEPT_MAX + 100];
	int32_t by = v->by[CONF_ACTION_DISABLE_SOURCE_IP];
	struct slice rule = place(s, by, at);
	struct notify_why told = { .reason = m->text, .rule = rule };
	const struct conf_rule *rules;

	if (m->source_ip == 0 || m->source_ip >= conf_source_ips(s->conf, &ips))
		return; /* the kernel chose it: there is no other */
	if (is_disabled_longer(s, name, ips[m->source_ip].text, after))
		return;
	if (by >= 0 && (size_t)by < conf_rules(s->conf, &rules))
		told.pattern = slice_str(rules[by].pattern);
	if (!is_room(s, name, ips[m->source_ip].text) ||
	    !acts_disable(s, name, slice_str(ips[m->source_ip].text),
			  after == CONF_NEVER ? 0 : after, &told)) {
		if (reply_matches_may_log(s))
			log_error("queue=%.*s source=%s disable=refused why=\"too many\"", (int)name.n,
			  name.p, ips[m->source_ip].text);
		return;
	}
	snprintf(text, sizeof text, "disabled source %s by %.*s: %.*s", ips[m->source_ip].text,
		 (int)rule.n, rule.n > 0 ? rule.p : "", (int)m->text.n,
		 m->text.n > 0 ? m->text.p : "");
	acts_event(s, name, slice_str(text));
	backoff_source_disabled(s, m->queue, slice_str(ips[m->source_ip].text), rule, m->entry);
}

static void
leave(struct scheduler *s, const struct backoff_match *m, const struct rules_verdict *v)
{
	struct backoff_row *row = backoff_scope_find(s, v->scope, m->queue, m->source_ip);
	char at[PLACE_BYTES];
	struct slice rule = place(s, v->by[CONF_ACTION_NORMAL], at);

	if (row != NULL && v->scope != CONF_RULE_QUEUE)
		backoff_leave(s, row, m->text, rule);
	(void)backoff_out(s, m->queue, m->text, rule);
}

/* The mode that `v` has decided for. Rules that say the same of another scope contradict nobody:
 * each scope has its row, and the first rule says how. */
static void
change_mode(struct scheduler *s, struct backoff_match *m, const uint32_t *rules, unsigned n,
	    const struct rules_verdict *v)
{
	bool on = rules_verdict_has(v, CONF_ACTION_BACKOFF);
	enum conf_action mode = on ? CONF_ACTION_BACKOFF : CONF_ACTION_NORMAL;
	unsigned done = 0, bit;

	for (unsigned i = 0; i < n; i++) {
		struct rules_verdict one;

		rules_merge(s->conf, &rules[i], 1, 0, &one);
		if (!rules_verdict_has(&one, mode))
			continue;
		/* Mail that was sent elsewhere meanwhile took the queue's number along. */
		m->queue = s->conns[m->connection].queue;
		if (!backoff_has_scope(s, one.scope, m->queue, m->source_ip))
			one.scope = CONF_RULE_QUEUE; /* it has no object of that: the queue alone */
		bit = 1u << one.scope;
		if (done & bit)
			continue;
		done |= bit;
		if (on)
			enter(s, m, &one);
		else
			leave(s, m, &one);
	}
}

/* Into retry, for the time that the reply names, or its own; fewer connections for a while. */
static void
slow_down(struct scheduler *s, const struct backoff_match *m, const struct rules_verdict *v)
{
	struct core_now now = scheduler_now(s);
	struct core_queue_view view;

	if (rules_verdict_has(v, CONF_ACTION_WAIT_REPLY) && v->wait_us > 0)
		core_defer_queue(s->core, &now, m->queue, now.wall_us + v->wait_us);
	else if (rules_verdict_has(v, CONF_ACTION_DEFER_QUEUE))
		core_defer_queue(s->core, &now, m->queue, 0);
	if (rules_verdict_has(v, CONF_ACTION_REDUCE_CONNECTIONS) &&
	    core_queue_view(s->core, &now, m->queue, &view)) {
		const struct conf_queue *q = settings_get(s->settings, m->queue, view.name);
		uint64_t most = view.backoff ? q->backoff.max_smtp_out : q->max_smtp_out;
		uint64_t until =
			v->for_us > UINT64_MAX - now.wall_us ? UINT64_MAX : now.wall_us + v->for_us;

		core_cap_connections(s->core, &now, m->queue,
				     most < 2 ? 1 : (uint32_t)(most > 40000 ? 20000 : most / 2),
				     until);
	}
	scheduler_kick(s);
}

/* What waits; the message that met the reply comes back with it, and bounces by that. */
static void
bounce_queue(struct scheduler *s, const struct backoff_match *m)
{
	struct core_now now = scheduler_now(s);
	struct slice name = names_get(s->names, m->queue);
	char text[REPLY_KEPT_MAX + 1];

	log_warn("queue=%.*s bounced=all", (int)name.n, name.p);
	str_copy(text, sizeof text, m->text);
	core_bounce_queue(s->core, &now, m->queue, text);
	scheduler_kick(s);
}

void
backoff_matched(struct scheduler *s, const struct backoff_match *m)
{
	uint32_t rules[RULE_HITS_MAX];
	struct backoff_match now = *m;
	struct rules_verdict v;
	unsigned n;

	KILL_POINT("match-read");
	/* What tells operators of back-off is not held by it, and there is no word of word. */
	if (notify_is_queue(names_get(s->names, m->queue)))
		return;
	n = fired(s, m, rules);
	if (n == 0)
		return;
	rules_merge(s->conf, rules, n, m->wait_us, &v);
	reply_matches_fired(s, m, &v);
	if (m->code >= 400 && rules_verdict_has(&v, CONF_ACTION_BOUNCE_QUEUE))
		bounce_queue(s, m);
	if (m->code >= 400 && rules_verdict_has(&v, CONF_ACTION_DISABLE_SOURCE_IP))
		disable_source(s, m, &v);
	if (rules_verdict_has(&v, CONF_ACTION_BACKOFF) || rules_verdict_has(&v, CONF_ACTION_NORMAL))
		change_mode(s, &now, rules, n, &v);
	/* By what holds in the mode of now; and the queue may have another number, see there. */
	now.queue = s->conns[m->connection].queue;
	slow_down(s, &now, &v);
}
