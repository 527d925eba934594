/* backoff_how: what the core is told of a queue's back-off, put together from its row and the
 * settings of now. */
#include "common/base/mem.h"
#include "common/conf/conf_actions.h"
#include "common/conf/conf_net.h"
#include "scheduler/backoff_impl.h"
#include "scheduler/state.h"

static bool
is_between(char c)
{
	return c == ' ' || c == ',' || c == '"' || c == '[' || c == ']' || c == '\t';
}

/* backoff-use-source: the numbers of those that this configuration has. */
static void
use_sources(struct scheduler *s, struct slice text, struct core_backoff *how,
	    struct backoff_room *room)
{
	const struct conf_source_ip *ips;
	size_t n = conf_source_ips(s->conf, &ips), n_own = 0;

	while (text.n > 0 && is_between(text.p[0]))
		text = slice_sub(text, 1);
	if (text.n == 0) /* an empty list takes back what a wider name says */
		return;
	room->sources = mem_calloc(n, sizeof *room->sources);
	while (text.n > 0) {
		struct sockaddr_storage ip;
		socklen_t ip_len;
		size_t len = 0;
		bool good;

		while (len < text.n && !is_between(text.p[len]))
			len++;
		good = conf_net_ip(slice_of(text.p, len), &ip, &ip_len);
		for (uint32_t i = 1; i < n && good && n_own < n; i++) {
			if (conf_net_same(&ips[i].addr, &ip))
				room->sources[n_own++] = i;
		}
		text = slice_sub(text, len < text.n ? len + 1 : len);
	}
	how->sources = room->sources;
	how->n_sources = n_own;
	how->only_sources = true;
}

/* Of a queue whose mail goes elsewhere: one message in each interval since back-off began. */
static void
probes(struct scheduler *s, uint32_t queue, const struct backoff_row *row, uint64_t every_us,
       struct core_backoff *how)
{
	uint64_t now = loop_wall_us(s->loop), since = row->since_wall_us;

	if (every_us == 0 || !backoff_sends_away(s, queue))
		return;
	how->probe_us = every_us;
	how->probe_next_wall_us =
		now > since ? since + ((now - since) / every_us + 1) * every_us : now + every_us;
	how->after_delivery = true;
}

static const struct conf_rule *
recover_rule(const struct scheduler *s, const struct backoff_row *row)
{
	int rule = row->rule_key != 0 ? conf_rule_find(s->conf, row->rule_key) : -1;
	const struct conf_rule *rules;

	(void)conf_rules(s->conf, &rules);
	return rule >= 0 && rules[rule].recover != NULL ? &rules[rule] : NULL;
}

const struct conf_rule *
backoff_recover_rule(struct scheduler *s, uint32_t queue)
{
	const struct backoff_row *row = backoff_of(s, queue);

	if (row == NULL)
		row = backoff_own(s, queue);
	return row != NULL ? recover_rule(s, row) : NULL;
}

/* The rule's, if there is such a rule still; else the domain's. */
static const struct conf_recover *
recovery(struct scheduler *s, const struct backoff_row *row, struct slice domain, struct slice vmta,
	 struct backoff_room *room)
{
	const struct conf_rule *rule = recover_rule(s, row);
	struct conf_setting set;

	if (rule != NULL)
		return rule->recover;
	if (!conf_setting_find(s->conf, domain, vmta, "recover", &set) || set.value == NULL)
		return NULL;
	room->recover = mem_zalloc(sizeof *room->recover);
	return conf_recover_parse(slice_str(set.value), room->recover) ? room->recover : NULL;
}

void
backoff_how(struct scheduler *s, uint32_t queue, const struct backoff_row *row,
	    struct core_backoff *how, struct backoff_room *room)
{
	struct slice vmta = names_get(s->names, queue), domain;
	const struct conf_queue *q = settings_get(s->settings, queue, vmta);
	struct conf_setting set;

	domain = slice_cut(&vmta, '/');
	*how = (struct core_backoff){
		.source_ip = CORE_NONE,
		.since_wall_us = row->since_wall_us,
		.after_delivery = q->backoff_to_normal_after_delivery, /* its end by time is the
									  row's: ours */
		.before_mps = row->before_mps,
		.rate_mps = row->rate_mps,
	};
	if (conf_setting_find(s->conf, domain, vmta, "backoff-use-source", &set) &&
	    set.value != NULL)
		use_sources(s, slice_str(set.value), how, room);
	probes(s, queue, row, q->backoff_probe_after_us, how);
	how->recover = recovery(s, row, domain, vmta, room);
}

void
backoff_room_clear(struct backoff_room *room)
{
	mem_free(room->sources);
	mem_free(room->recover);
}
