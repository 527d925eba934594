#include "scheduler/limit_words.h"

#include <stdio.h>
#include <string.h>

#include "common/conf/conf_value.h"
#include "scheduler/control.h"
#include "scheduler/target_names.h"

#define MEASURES (CORE_MEASURE_SMTP_OUT + 1)

/* By measure; NULL: the scope has no such. */
// clang-format off
static const char *const plain[2][MEASURES] = {
	{ "max-msg-rate", "max-connect-rate", "max-data-volume-rate", "max-smtp-out" },
	{ "backoff-max-msg-rate", "backoff-max-connect-rate", "backoff-max-data-volume-rate", "backoff-max-smtp-out" },
};
static const char *const per_source[2][MEASURES] = {
	{ "source-ip-max-msg-rate", "source-ip-max-connect-rate", "source-ip-max-data-volume-rate", "source-ip-max-smtp-out" },
	{ "backoff-source-ip-max-msg-rate", "backoff-source-ip-max-connect-rate", "backoff-source-ip-max-data-volume-rate",
	  "backoff-source-ip-max-smtp-out" },
};
static const char *const of_vmta[MEASURES] = {
	"max-smtp-msg-rate", "max-connect-rate", "max-smtp-data-volume-rate", "max-smtp-out",
};
/* What it is called, and before the object in a line. */
static const struct { const char *name, *on; } scopes[] = {
	[CORE_SCOPE_QUEUE] = { "queue", NULL },
	[CORE_SCOPE_QUEUE_SOURCE] = { "queue-source-ip", NULL },
	[CORE_SCOPE_SOURCE] = { "source-ip", "" },
	[CORE_SCOPE_VMTA] = { "virtual-mta", "virtual MTA " },
	[CORE_SCOPE_PROVIDER] = { "provider", "provider " },
	[CORE_SCOPE_JOB] = { "job", "job " },
	[CORE_SCOPE_SENDER] = { "sender", "sender " },
	[CORE_SCOPE_MX_SOURCE] = { "mx", "" },
	[CORE_SCOPE_DESTINATION] = { "destination", "" },
	[CORE_SCOPE_ALL] = { "all", NULL },
};
// clang-format on

static const char *
directive_of(const struct core_limit_view *v)
{
	switch (v->scope) {
	case CORE_SCOPE_QUEUE_SOURCE:
		return per_source[v->backoff][v->measure];
	case CORE_SCOPE_VMTA:
		return of_vmta[v->measure];
	case CORE_SCOPE_MX_SOURCE:
		return "mx-connection-limit";
	case CORE_SCOPE_DESTINATION:
		return "ip-connection-limit";
	case CORE_SCOPE_ALL:
		return "total-max-smtp-out";
	case CORE_SCOPE_QUEUE:
		return v->recover ? "recover" : plain[v->backoff][v->measure];
	default:
		return plain[0][v->measure];
	}
}

static const struct conf_source_ip *
source_of(const struct scheduler *s, uint32_t number)
{
	const struct conf_source_ip *ips;

	return number < conf_source_ips(s->conf, &ips) ? &ips[number] : NULL;
}

static struct slice
object_of(const struct scheduler *s, const struct core_limit_view *v)
{
	enum conf_override_scope over;

	switch (v->scope) {
	case CORE_SCOPE_QUEUE:
	case CORE_SCOPE_QUEUE_SOURCE:
		return names_get(s->names, v->queue);
	case CORE_SCOPE_SOURCE:
		return acts_object(s, v->scope, v->source_ip, &over);
	case CORE_SCOPE_VMTA:
	case CORE_SCOPE_JOB:
	case CORE_SCOPE_SENDER:
		return acts_object(s, v->scope, v->number, &over);
	case CORE_SCOPE_PROVIDER:
		return v->name.n > 0 ? v->name : acts_object(s, v->scope, v->number, &over);
	case CORE_SCOPE_MX_SOURCE:
	case CORE_SCOPE_DESTINATION:
		return target_names_get(s->target_names, v->id);
	default:
		return SLICE_NONE;
	}
}

void
limit_words_rate(double a_second, char *out, size_t bytes)
{
	double n = a_second >= 1 ? a_second : a_second * 60;

	if (n >= 1)
		snprintf(out, bytes, "%.1f/%c", n, a_second >= 1 ? 's' : 'm');
	else
		snprintf(out, bytes, "%.1f/h", n * 60);
}

static void
write_value(const struct core_limit_view *v, char *out, size_t bytes)
{
	const struct conf_rate rate = { v->n, v->window_us };
	struct buf b = { 0 };

	/* What was learned has windows that nobody would write. */
	if (v->recover && v->window_us % 1000000u != 0) {
		limit_words_rate((double)v->n * 1e6 / (double)v->window_us, out, bytes);
		return;
	}
	if (v->window_us == 0)
		buf_printf(&b, "%llu", (unsigned long long)v->n);
	else if (v->measure == CORE_MEASURE_VOLUME)
		conf_value_put_volume(&b, &rate);
	else
		conf_value_put_rate(&b, &rate);
	str_copy(out, bytes, buf_slice(&b));
	buf_clear(&b);
}

void
limit_words_short(struct scheduler *s, const struct core_limit_view *v, struct limit_words *out)
{
	const struct conf_source_ip *ip = source_of(s, v->source_ip);

	*out = (struct limit_words){
		.scope = scopes[v->scope].name,
		.directive = directive_of(v),
		.object = object_of(s, v),
	};
	if ((v->scope == CORE_SCOPE_QUEUE_SOURCE || v->scope == CORE_SCOPE_MX_SOURCE) && ip != NULL)
		out->source = ip->text;
	write_value(v, out->value, sizeof out->value);
}

static enum conf_override_scope
override_scope(enum core_scope scope)
{
	switch (scope) {
	case CORE_SCOPE_SOURCE:
		return CONF_OVER_SOURCE_IP;
	case CORE_SCOPE_VMTA:
		return CONF_OVER_VMTA;
	case CORE_SCOPE_PROVIDER:
		return CONF_OVER_PROVIDER;
	case CORE_SCOPE_JOB:
		return CONF_OVER_JOB;
	case CORE_SCOPE_SENDER:
		return CONF_OVER_SENDER;
	default:
		return CONF_OVER_QUEUE;
	}
}

static bool
find_setting(struct scheduler *s, const struct core_limit_view *v, const struct limit_words *w,
	     struct conf_setting *set)
{
	struct slice vmta = w->object, domain;
	const struct conf_rule *rule;

	switch (v->scope) {
	case CORE_SCOPE_QUEUE:
		if (v->recover && (rule = backoff_recover_rule(s, v->queue)) != NULL) {
			set->file = rule->file;
			set->line = rule->line;
			return true;
		}
		domain = slice_cut(&vmta, '/');
		return conf_setting_find(s->conf, domain, vmta, w->directive, set);
	case CORE_SCOPE_ALL:
		return conf_setting_find(s->conf, SLICE_LIT("*"), SLICE_LIT("{default}"),
					 w->directive, set);
	default:
		return conf_limit_find(s->conf, w->scope, w->object,
				       w->source != NULL ? slice_str(w->source) : SLICE_NONE,
				       w->directive, set);
	}
}

/* As it was written, "2M/60s" and not "2m/m", if that is what is in force; `written` may have its CIDR before it. */
static void
keep_spelling(const struct core_limit_view *v, const char *written, struct limit_words *out)
{
	struct slice s = slice_str(written != NULL ? written : "");
	struct conf_rate r;
	size_t at = s.n;

	while (at > 0 && s.p[at - 1] != ' ' && s.p[at - 1] != '\t')
		at--;
	s = slice_sub(s, at);
	if (v->window_us == 0 || s.n >= sizeof out->value)
		return;
	if ((v->measure == CORE_MEASURE_VOLUME ? conf_value_volume(s, &r) : conf_value_rate(s, &r)) && r.n == v->n &&
	    r.window_us == v->window_us)
		str_copy(out->value, sizeof out->value, s);
}

void
limit_words(struct scheduler *s, const struct core_limit_view *v, struct limit_words *out)
{
	const struct override *row = NULL;
	struct conf_setting set = { 0 };

	limit_words_short(s, v, out);
	if (v->scope != CORE_SCOPE_MX_SOURCE && v->scope != CORE_SCOPE_DESTINATION &&
	    v->scope != CORE_SCOPE_ALL)
		row = overrides_deciding(s->overrides, override_scope(v->scope), out->object,
					 out->directive, source_of(s, v->source_ip));
	if (row != NULL) {
		out->origin = row->origin;
		keep_spelling(v, conf_override_value(row->limit), out);
	} else if (find_setting(s, v, out, &set) && set.file != NULL) {
		out->file = set.file;
		out->line = set.line;
		keep_spelling(v, set.value, out);
	}
}

void
limit_words_line(const struct limit_words *w, struct buf *out)
{
	const char *on = NULL;

	for (size_t i = 0; i < sizeof scopes / sizeof scopes[0]; i++) {
		if (scopes[i].name == w->scope)
			on = scopes[i].on;
	}
	buf_printf(out, "%s %s", w->directive, w->value);
	if (on != NULL && w->object.n > 0)
		buf_printf(out, " on %s%.*s", on, (int)w->object.n, w->object.p);
	if (w->source != NULL && w->source[0] != '\0')
		buf_printf(out, " %s %s", on != NULL ? "from" : "on", w->source);
}

void
limit_words_place(const struct limit_words *w, struct buf *out)
{
	if (w->origin != NULL)
		buf_puts(out, w->origin);
	else if (w->file != NULL)
		buf_printf(out, "%s:%u", w->file, w->line);
}

void
limit_words_of_queue(struct scheduler *s, struct slice queue, const char *directive,
		     struct buf *line, struct buf *place)
{
	const struct override *row =
		overrides_deciding(s->overrides, CONF_OVER_QUEUE, queue, directive, NULL);
	struct slice vmta = queue, domain = slice_cut(&vmta, '/');
	struct conf_setting set = { 0 };

	buf_puts(line, directive);
	if (row != NULL) {
		buf_printf(line, " %s", conf_override_value(row->limit));
		buf_puts(place, row->origin);
		return;
	}
	if (conf_setting_find(s->conf, domain, vmta, directive, &set) && set.value != NULL)
		buf_printf(line, " %s", set.value);
	if (set.file != NULL)
		buf_printf(place, "%s:%u", set.file, set.line);
}
