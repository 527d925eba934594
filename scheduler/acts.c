/* acts: what operators set, made durable and put in force: limits over the file's, disabled source
 * IPs. */
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/control.h"
#include "scheduler/notify.h"

#define LATER_US 60000000u /* timers are not set further ahead */

/* Names and numbers ------------------------------------------------------------------------------
 */
struct slice
acts_object(const struct scheduler *s, enum core_scope scope, uint32_t number,
	    enum conf_override_scope *over)
{
	const struct conf_source_ip *ips;
	const struct conf_vmta *vmtas;

	switch (scope) {
	case CORE_SCOPE_SOURCE:
		*over = CONF_OVER_SOURCE_IP;
		return number < conf_source_ips(s->conf, &ips) ? slice_str(ips[number].text)
							       : SLICE_NONE;
	case CORE_SCOPE_VMTA:
		*over = CONF_OVER_VMTA;
		return number < conf_vmtas(s->conf, &vmtas) ? slice_str(vmtas[number].name)
							    : SLICE_NONE;
	case CORE_SCOPE_PROVIDER:
		*over = CONF_OVER_PROVIDER;
		return providers_name(s->providers, number);
	case CORE_SCOPE_JOB:
		*over = CONF_OVER_JOB;
		return names_get(s->names, number);
	case CORE_SCOPE_SENDER:
		*over = CONF_OVER_SENDER;
		return names_get(s->names, number);
	default:
		*over = CONF_OVER_QUEUE;
		return SLICE_NONE;
	}
}

/* CORE_NONE: the configuration has no such address. */
static uint32_t
source_number(const struct scheduler *s, struct slice text)
{
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips);

	for (uint32_t i = 1; i < n; i++) {
		if (slice_is(text, ips[i].text))
			return i;
	}
	return CORE_NONE;
}

/* In force ---------------------------------------------------------------------------------------
 */
static void
tell_queue_limits(struct scheduler *s, const struct override *row)
{
	struct core_now now = scheduler_now(s);
	uint32_t queue;

	if (row->is_pattern) {
		settings_forget_all(s->settings);
		core_settings_changed(s->core, &now);
		return;
	}
	queue = names_find(s->names, slice_str(row->object));
	if (queue == 0)
		return;
	settings_forget(s->settings, queue);
	core_limits_changed(s->core, &now, CORE_SCOPE_QUEUE, queue);
}

/* The number of a job or sender domain, which stays its own from now on: else another name might get it, and the core
 * takes what it knows of the number for that one's. */
static uint32_t
kept_name(struct scheduler *s, struct slice name)
{
	uint32_t number = scheduler_name(s, name);

	names_keep(s->names, number);
	return number;
}

static void
tell_limits(struct scheduler *s, const struct override *row)
{
	struct core_now now = scheduler_now(s);
	struct slice object = slice_str(row->object);
	uint32_t number = CORE_NONE;
	enum core_scope scope;

	charges_reconfigured(s);
	switch (row->scope) {
	case CONF_OVER_QUEUE:
		tell_queue_limits(s, row);
		return;
	case CONF_OVER_SOURCE_IP:
		scope = CORE_SCOPE_SOURCE;
		number = source_number(s, object);
		break;
	case CONF_OVER_VMTA:
		scope = CORE_SCOPE_VMTA;
		number = (uint32_t)conf_vmta_find(s->conf, object);
		break;
	case CONF_OVER_PROVIDER:
		core_limits_changed(s->core, &now, CORE_SCOPE_PROVIDER, CORE_NONE);
		return;
	default:
		scope = row->scope == CONF_OVER_JOB ? CORE_SCOPE_JOB : CORE_SCOPE_SENDER;
		number = kept_name(s, object);
		break;
	}
	/* What the configuration does not have now is asked for when it comes. */
	if (number != CORE_NONE)
		core_limits_changed(s->core, &now, scope, number);
}

static void
tell_all_queues(struct scheduler *s, struct slice source)
{
	struct core_now now = scheduler_now(s);
	uint32_t number = source_number(s, source);
	const struct override *row = overrides_find(s->overrides, STORE_ACT_SOURCE_DISABLED,
						    CONF_OVER_QUEUE, SLICE_LIT("*/*"), source);

	if (number != CORE_NONE)
		core_source_disable(s->core, &now, CORE_NONE, number, row != NULL,
				    row != NULL ? row->until_boot_us : 0);
}

void
acts_tell_queue(struct scheduler *s, uint32_t queue, struct slice source)
{
	struct core_now now = scheduler_now(s);
	uint32_t number = source_number(s, source);
	uint64_t until;
	bool disabled =
		overrides_source_disabled(s->overrides, names_get(s->names, queue), source, &until);

	if (number != CORE_NONE)
		core_source_disable(s->core, &now, queue, number, disabled, until);
}

static void
tell_source(struct scheduler *s, const char *queues, const char *source)
{
	uint32_t queue;

	if (strcmp(queues, "*/*") == 0) {
		tell_all_queues(s, slice_str(source));
	} else if (strchr(queues, '*') == NULL) {
		queue = names_find(s->names, slice_str(queues));
		if (queue != 0)
			acts_tell_queue(s, queue, slice_str(source));
	}
}

static void
tell_all_sources(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;
	const struct override *row;

	for (size_t i = 0; (row = overrides_at(s->overrides, i)) != NULL; i++) {
		if (row->source != NULL && !overrides_all_queues(row) &&
		    control_matches(names_get(s->names, queue), slice_str(row->object)))
			acts_tell_queue(s, queue, slice_str(row->source));
	}
}

void
acts_queue(struct scheduler *s, uint32_t queue)
{
	struct core_now now = scheduler_now(s);
	struct core_queue_view v;
	bool known = core_queue_view(s->core, &now, queue, &v);

	core_queue_add(s->core, queue, names_get(s->names, queue));
	if (!known)
		tell_all_sources(s, queue);
}

/* Time -------------------------------------------------------------------------------------------
 */
static void
watch_ends(struct scheduler *s)
{
	uint64_t now = loop_boot_us(s->loop), next;

	(void)overrides_ended(s->overrides, now, &next);
	if (next == OVERRIDE_NEVER)
		return;
	timer_set(&s->acts_timer, next <= now ? 0 : next - now < LATER_US ? next - now : LATER_US);
}

static void
on_end(void *arg)
{
	struct scheduler *s = arg;
	const struct override *row;
	uint64_t next;

	/* They are few; the batch holds them all. */
	while ((row = overrides_ended(s->overrides, loop_boot_us(s->loop), &next)) != NULL) {
		char text[OVERRIDE_OBJECT + 200], esc[2 * sizeof text];

		snprintf(text, sizeof text, "ended: %s %s%s%s", row->object,
			 row->limit != NULL ? conf_override_name(row->limit) : "source ",
			 row->limit != NULL ? "=" : "",
			 row->limit != NULL ? conf_override_value(row->limit) : row->source);
		log_info("operator act=\"%s\"", str_escape(esc, sizeof esc, slice_str(text)));
		acts_event(s, SLICE_NONE, slice_str(text));
		acts_end(s, row);
	}
	watch_ends(s);
	scheduler_kick(s);
}

void
acts_event(struct scheduler *s, struct slice queue, struct slice text)
{
	struct slice vmta = queue, domain = slice_cut(&vmta, '/');
	struct event e = {
		.kind = EVENT_OPERATOR,
		.wall_us = loop_wall_us(s->loop),
		.queue = domain,
		.vmta = vmta,
		.reason = text,
	};

	committer_event(s->committer, &e);
}

/* Acts -------------------------------------------------------------------------------------------
 */
/* Until when, by both clocks. */
static void
ends(const struct scheduler *s, uint64_t for_us, uint64_t *wall_us, uint64_t *boot_us)
{
	*wall_us = for_us == 0 ? 0 : loop_wall_us(s->loop) + for_us;
	*boot_us = for_us == 0 ? OVERRIDE_NEVER : loop_boot_us(s->loop) + for_us;
}

static void
keep(struct scheduler *s, const struct override *row)
{
	struct store_act act = overrides_act(row);

	committer_put_act(s->committer, row->number, &act);
	watch_ends(s);
	scheduler_kick(s);
}

bool
acts_set_limit(struct scheduler *s, enum conf_override_scope scope, struct slice object,
	       struct conf_override *limit, uint64_t for_us)
{
	const struct override *row;
	uint64_t wall, boot;

	ends(s, for_us, &wall, &boot);
	row = overrides_put_limit(s->overrides, scope, object, limit, loop_wall_us(s->loop), wall,
				  boot);
	if (row == NULL)
		return false;
	tell_limits(s, row);
	keep(s, row);
	return true;
}

bool
acts_disable(struct scheduler *s, struct slice queues, struct slice source, uint64_t for_us,
	     const struct notify_why *why)
{
	bool is_new = overrides_find(s->overrides, STORE_ACT_SOURCE_DISABLED, CONF_OVER_QUEUE,
				     queues, source) == NULL;
	const struct override *row;
	uint64_t wall, boot;

	ends(s, for_us, &wall, &boot);
	row = overrides_put_source(s->overrides, queues, source, why->rule, loop_wall_us(s->loop),
				   wall, boot);
	if (row == NULL)
		return false;
	tell_source(s, row->object, row->source);
	keep(s, row);
	if (is_new)
		notify_source(s, row, true, why);
	return true;
}

void
acts_end(struct scheduler *s, const struct override *row)
{
	struct override was = *row;
	char *source = row->source != NULL ? mem_memdup0(row->source, strlen(row->source)) : NULL;
	struct notify_why why = { .reason = SLICE_LIT("by command") };

	was.object = mem_memdup0(row->object, strlen(row->object));
	if (row->until_boot_us <= loop_boot_us(s->loop))
		why.reason = SLICE_LIT("its time is over");
	if (source != NULL)
		notify_source(s, row, false, &why);
	committer_del_act(s->committer, row->number);
	overrides_remove(s->overrides, row);
	if (source != NULL)
		tell_source(s, was.object, source);
	else
		tell_limits(s, &was);
	mem_free(was.object);
	mem_free(source);
	scheduler_kick(s);
}

/* Life -------------------------------------------------------------------------------------------
 */
static void
load_act(void *arg, uint32_t number, const struct store_act *act)
{
	struct scheduler *s = arg;

	if (!overrides_restore(s->overrides, number, act, loop_wall_us(s->loop),
			       loop_boot_us(s->loop)))
		log_error("act=%u understood=no action=leave", number);
}

void
acts_load(struct scheduler *s)
{
	uint64_t bad = 0;
	int rc = store_load_acts(s->store, load_act, s, &bad);

	if (rc != 0 || bad > 0)
		log_error("acts load=%s damaged=%llu", rc != 0 ? err_text(rc) : "done",
			  (unsigned long long)bad);
	timer_init(&s->acts_timer, s->loop, on_end, s);
}

static void
tell_sources(struct scheduler *s)
{
	const struct override *row;
	uint32_t cursor = 0;

	for (size_t i = 0; (row = overrides_at(s->overrides, i)) != NULL; i++) {
		if (row->source != NULL && overrides_all_queues(row))
			tell_all_queues(s, slice_str(row->source));
	}
	if (overrides_disable_for_some(s->overrides))
		(void)core_each_queue(s->core, &cursor, UINT32_MAX, tell_all_sources, s);
}

void
acts_started(struct scheduler *s)
{
	const struct override *row;

	for (size_t i = 0; (row = overrides_at(s->overrides, i)) != NULL; i++) {
		if (row->limit != NULL && (row->scope == CONF_OVER_JOB || row->scope == CONF_OVER_SENDER))
			(void)kept_name(s, slice_str(row->object));
	}
	tell_sources(s);
	watch_ends(s);
}

void
acts_reconfigured(struct scheduler *s)
{
	tell_sources(s);
}

void
acts_close(struct scheduler *s)
{
	timer_clear(&s->acts_timer);
}
