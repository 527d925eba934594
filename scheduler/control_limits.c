/* control_limits: what operators set over the configuration: `set limit`, `disable source`, `enable
 * source`. */
#include <stdio.h>

#include "common/base/mem.h"
#include "common/conf/conf_value.h"
#include "common/net/addr.h"
#include "scheduler/control.h"
#include "scheduler/notify.h"

/* Telling a queue that a source IP is disabled looks at all connections. */
#define QUEUES_A_TURN 128

/* In force already; the answer comes when it is on disk. */
static bool
answer_when_durable(struct request *r, struct slice queue)
{
	struct buf text = { 0 };

	buf_printf(&text, "uid=%u", control_uid(r));
	for (unsigned i = 0; i < r->n_words; i++) {
		buf_putc(&text, ' ');
		buf_put_slice(&text, r->words[i]);
	}
	acts_event(r->s, queue, slice_of(buf_slice(&text).p, text.len < 1000 ? text.len : 1000));
	buf_clear(&text);
	control_finish_when_durable(r);
	return false;
}

/* Objects ----------------------------------------------------------------------------------------
 */
/* Of a queue or a pattern of such, as they are called: false, and the request has failed. */
static bool
queue_object(struct request *r, struct slice name, char out[OVERRIDE_OBJECT + 1])
{
	struct slice vmta = name, domain = slice_cut(&vmta, '/');

	if (domain.n == 0 || memchr(name.p, '=', name.n) != NULL || vmta.n == 0 || name.n > NAME_BYTES_MAX ||
	    memchr(vmta.p, '/', vmta.n) != NULL) {
		control_fail(r, 2, "a queue is missing: D/V, or a pattern of such");
		return false;
	}
	for (size_t i = 0; i < name.n; i++) {
		if ((unsigned char)name.p[i] <= ' ' || name.p[i] == 0x7f) {
			control_fail(r, 1, "no queue can be called so");
			return false;
		}
	}
	if (memchr(vmta.p, '*', vmta.n) == NULL && conf_vmta_find(r->s->conf, vmta) < 0) {
		control_fail(r, 1, "no such virtual MTA: %.*s",
			     (int)(vmta.n < 100 ? vmta.n : 100), vmta.p);
		return false;
	}
	(void)control_queue_name(r, name, out);
	return true;
}

static bool
source_object(struct request *r, struct slice ip, char out[OVERRIDE_OBJECT + 1])
{
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(r->s->conf, &ips);
	struct addr wanted, one;

	if (!addr_parse(&wanted, ip, 0)) {
		control_fail(r, 1, "no IP address: %.*s", (int)(ip.n < 100 ? ip.n : 100), ip.p);
		return false;
	}
	for (size_t i = 1; i < n; i++) {
		if (addr_parse(&one, slice_str(ips[i].text), 0) && addr_same_ip(&one, &wanted)) {
			str_copy(out, OVERRIDE_OBJECT + 1, slice_str(ips[i].text));
			return true;
		}
	}
	control_fail(r, 1, "no source IP of this configuration: %.*s",
		     (int)(ip.n < 100 ? ip.n : 100), ip.p);
	return false;
}

static bool
named_object(struct request *r, enum conf_override_scope scope, struct slice name,
	     char out[OVERRIDE_OBJECT + 1])
{
	const struct conf_provider *providers;
	const struct conf_vmta *vmtas;
	size_t n = conf_providers(r->s->conf, &providers);
	int v = conf_vmta_find(r->s->conf, name);

	if (name.n > NAME_BYTES_MAX) {
		control_fail(r, 1, "the name is too long");
		return false;
	}
	str_copy(out, OVERRIDE_OBJECT + 1, name);
	if (scope == CONF_OVER_VMTA && v >= 0) {
		(void)conf_vmtas(r->s->conf, &vmtas);
		str_copy(out, OVERRIDE_OBJECT + 1, slice_str(vmtas[v].name));
		return true;
	}
	if (scope == CONF_OVER_SENDER)
		str_lower(out, name.n);
	for (size_t i = 0; scope == CONF_OVER_PROVIDER && i < n; i++) {
		if (slice_eq_nocase(slice_str(providers[i].name), name)) {
			str_copy(out, OVERRIDE_OBJECT + 1, slice_str(providers[i].name));
			return true;
		}
	}
	if (scope == CONF_OVER_JOB || scope == CONF_OVER_SENDER)
		return true;
	control_fail(r, 1, "no such %s: %.100s",
		     scope == CONF_OVER_VMTA ? "virtual MTA" : "provider", out);
	return false;
}

/* set limit --------------------------------------------------------------------------------------
 */
struct setting {
	enum conf_override_scope scope;
	char object[OVERRIDE_OBJECT + 1];
	struct slice assignment; /* NAME=VALUE, NAME, or empty */
};

/* Whose limit it is: an option, or the queue that is the first word. */
static bool
read_object(struct request *r, struct setting *out)
{
	static const char *const options[CONF_OVER_SCOPES] = { NULL,       "source-ip", "vmta",
							       "provider", "job",       "sender" };
	struct slice object = SLICE_NONE;

	*out = (struct setting){ .scope = CONF_OVER_QUEUE };
	for (unsigned i = 1; i < CONF_OVER_SCOPES; i++) {
		struct slice v = control_option(r, options[i]);

		if (v.n == 0)
			continue;
		if (object.n > 0) {
			control_fail(r, 2,
				     "--%s and --%s: the limit of one object is set at a time",
				     options[out->scope], options[i]);
			return false;
		}
		object = v;
		out->scope = (enum conf_override_scope)i;
	}
	out->assignment = control_word(r, object.n > 0 ? 0 : 1);
	if (control_word(r, object.n > 0 ? 1 : 2).n > 0) {
		control_fail(r, 2, "one limit is set at a time");
		return false;
	}
	if (object.n == 0)
		return queue_object(r, control_word(r, 0), out->object);
	if (out->scope == CONF_OVER_SOURCE_IP)
		return source_object(r, object, out->object);
	return named_object(r, out->scope, object, out->object);
}

/* 0: for ever. */
static bool
read_time(struct request *r, const char *option, uint64_t *us)
{
	struct slice text = control_option(r, option);

	*us = 0;
	if (!control_given(r, option))
		return true;
	if (text.n > 0 && conf_value_interval(text, us) && *us > 0)
		return true;
	control_fail(r, 2, "--%s takes a time such as 90s, 10m or 1d", option);
	return false;
}

static struct slice
event_queue(const struct setting *x)
{
	return x->scope == CONF_OVER_QUEUE && strchr(x->object, '*') == NULL ? slice_str(x->object)
									     : SLICE_NONE;
}

static bool
clear_limits(struct request *r, const struct setting *x)
{
	const struct override *row;
	unsigned n = 0;

	for (size_t i = 0; (row = overrides_at(r->s->overrides, i)) != NULL;) {
		if (row->limit == NULL || row->scope != x->scope ||
		    !slice_eq_nocase(slice_str(row->object), slice_str(x->object)) ||
		    (x->assignment.n > 0 &&
		     !slice_is(x->assignment, conf_override_name(row->limit)))) {
			i++;
			continue;
		}
		acts_end(r->s, row);
		n++;
	}
	if (n == 0) {
		control_fail(r, 1, "no operator has set %s%.*s for %.200s",
			     x->assignment.n > 0 ? "" : "a limit",
			     (int)(x->assignment.n < 100 ? x->assignment.n : 100),
			     x->assignment.n > 0 ? x->assignment.p : "", x->object);
		return true;
	}
	json_key_u64(&r->json, "cleared", n);
	return answer_when_durable(r, event_queue(x));
}

static void
make_known(struct scheduler *s, const char *queue)
{
	struct slice vmta = slice_str(queue), domain = slice_cut(&vmta, '/');

	if (strchr(queue, '*') == NULL)
		(void)scheduler_queue(s, domain, vmta);
}

static void
write_limit(struct request *r, const struct setting *x, const struct conf_override *limit,
	    uint64_t for_us)
{
	json_key_str(&r->json, "scope", conf_override_scope_name(x->scope));
	json_key_str(&r->json, "object", x->object);
	json_key_str(&r->json, "name", conf_override_name(limit));
	json_key_str(&r->json, "value", conf_override_value(limit));
	json_key_time(&r->json, "until", for_us > 0 ? loop_wall_us(r->s->loop) + for_us : 0);
}

bool
control_set_limit(struct request *r)
{
	struct setting x;
	struct slice value, name;
	struct conf_override *limit;
	struct buf why = { 0 };
	uint64_t for_us;

	if (!read_object(r, &x) || !read_time(r, "for", &for_us))
		return true;
	if (control_flag(r, "clear"))
		return clear_limits(r, &x);
	value = x.assignment;
	name = slice_cut(&value, '=');
	if (x.assignment.n == 0 || value.p == NULL) {
		control_fail(r, 2, "a limit is missing: NAME=VALUE, or --clear");
		return true;
	}
	limit = conf_override_new(x.scope, name, value, &why);
	if (limit == NULL) {
		control_fail(r, 1, "%.*s", (int)why.len, buf_slice(&why).p);
		buf_clear(&why);
		return true;
	}
	buf_clear(&why);
	if (x.scope == CONF_OVER_QUEUE)
		make_known(r->s, x.object);
	write_limit(r, &x, limit, for_us);
	if (!acts_set_limit(r->s, x.scope, slice_str(x.object), limit, for_us)) {
		control_fail(r, 1,
			     "operators have set %d limits and disabled sources: there are no more",
			     OVERRIDES_MAX);
		return true;
	}
	return answer_when_durable(r, event_queue(&x));
}

/* disable source, enable source ------------------------------------------------------------------
 */
struct telling {
	struct request *r;
	char pattern[OVERRIDE_OBJECT + 1];
	char source[OVERRIDE_OBJECT + 1];
	uint32_t cursor;
	bool disable;
	bool one_by_one; /* enabled: a pattern's row has ended, which the core has of each queue */
};

static void
tell_queue(void *arg, uint32_t queue)
{
	struct telling *t = arg;

	if (!control_matches(names_get(t->r->s->names, queue), slice_str(t->pattern)))
		return;
	acts_tell_queue(t->r->s, queue, slice_str(t->source));
	if (t->disable)
		backoff_source_disabled(t->r->s, queue, slice_str(t->source), SLICE_NONE,
					CORE_NONE);
}

static bool
tell_some(struct request *r)
{
	struct telling *t = r->state;

	r->waits = committer_is_full(r->s->committer); /* each queue may go into back-off by it */
	if (r->waits)
		return false;
	if (core_each_queue(r->s->core, &t->cursor, QUEUES_A_TURN, tell_queue, t))
		return false;
	mem_free(t);
	(void)answer_when_durable(r, SLICE_NONE);
	return true;
}

/* All queues by one word to the core, a queue by another, those of a pattern one by one. */
static bool
tell_queues(struct request *r, const struct telling *what)
{
	struct telling *t;
	uint32_t queue;

	if (strchr(what->pattern, '*') == NULL) {
		queue = names_find(r->s->names, slice_str(what->pattern));
		if (queue != 0 && what->disable)
			backoff_source_disabled(r->s, queue, slice_str(what->source), SLICE_NONE,
						CORE_NONE);
		return answer_when_durable(r, slice_str(what->pattern));
	}
	if (!what->disable && !what->one_by_one)
		return answer_when_durable(r, SLICE_NONE);
	t = mem_zalloc(sizeof *t);
	*t = *what;
	r->state = t;
	return control_go_on(r, tell_some);
}

static bool
read_source(struct request *r, struct telling *t)
{
	t->r = r;
	if (control_word(r, 1).n == 0) {
		control_fail(r, 2, "an IP and a queue or pattern are expected");
		return false;
	}
	return source_object(r, control_word(r, 0), t->source) &&
	       queue_object(r, control_word(r, 1), t->pattern);
}

bool
control_disable_source(struct request *r)
{
	struct telling t = { .disable = true };
	struct notify_why why = { .reason = SLICE_LIT("by command") };
	uint64_t for_us;

	if (!read_source(r, &t) || !read_time(r, "reenable-after", &for_us))
		return true;
	make_known(r->s, t.pattern);
	if (!acts_disable(r->s, slice_str(t.pattern), slice_str(t.source), for_us, &why)) {
		control_fail(r, 1,
			     "operators have set %d limits and disabled sources: there are no more",
			     OVERRIDES_MAX);
		return true;
	}
	json_key_str(&r->json, "ip", t.source);
	json_key_str(&r->json, "queue", t.pattern);
	json_key_time(&r->json, "until", for_us > 0 ? loop_wall_us(r->s->loop) + for_us : 0);
	return tell_queues(r, &t);
}

/* Also what was said, by operators or rules, of single queues that the pattern means. */
bool
control_enable_source(struct request *r)
{
	struct telling t = { 0 };
	const struct override *row;
	bool found = false;

	if (!read_source(r, &t))
		return true;
	for (size_t i = 0; (row = overrides_at(r->s->overrides, i)) != NULL;) {
		if (row->source == NULL || strcmp(row->source, t.source) != 0 ||
		    !control_matches(slice_str(row->object), slice_str(t.pattern))) {
			i++;
			continue;
		}
		found = true;
		t.one_by_one = t.one_by_one ||
			       (strchr(row->object, '*') != NULL && !overrides_all_queues(row));
		acts_end(r->s, row);
	}
	if (!found) {
		control_fail(r, 1, "%.64s is not disabled for %.150s", t.source, t.pattern);
		return true;
	}
	json_key_str(&r->json, "ip", t.source);
	json_key_str(&r->json, "queue", t.pattern);
	return tell_queues(r, &t);
}

bool
control_show_disabled(struct request *r)
{
	struct slice pattern = control_word(r, 1);
	const struct override *row;
	struct json *j = &r->json;

	if (!slice_is(control_word(r, 0), "sources")) {
		control_fail(r, 2, "no such command");
		return true;
	}
	json_key(j, "disabledSource");
	json_array_begin(j);
	for (size_t i = 0; (row = overrides_at(r->s->overrides, i)) != NULL; i++) {
		/* What holds for a queue is asked for, or the rows of a pattern. */
		if (row->source == NULL ||
		    (pattern.n > 0 && !control_matches(pattern, slice_str(row->object)) &&
		     !control_matches(slice_str(row->object), pattern)))
			continue;
		json_object_begin(j);
		json_key_str(j, "ip", row->source);
		json_key_str(j, "queue", row->object);
		json_key_str(j, "by", row->rule != NULL ? "rule" : "operator");
		json_key_str(j, "rule", row->rule);
		json_key_time(j, "since", row->since_wall_us);
		json_key_time(j, "until", row->until_wall_us);
		json_object_end(j);
	}
	json_array_end(j);
	return true;
}
