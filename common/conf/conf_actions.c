#include "common/conf/conf_actions.h"

#include <stdio.h>

#include "common/conf/conf_schema.h"
#include "common/conf/conf_value.h"

/* One action as it is written: its name, whether an interval stands behind it, what it must stand
 * behind. */
static const struct {
	const char *name;
	bool timed;
	enum conf_action partner;
} actions[CONF_ACTIONS] = {
#define X(id, name, timed, partner) { name, timed, CONF_ACTION_##partner },
	CONF_ACTION_TABLE(X)
#undef X
};

#define X(id, name, timed, partner) "|" name
static const char action_names[] = "mode=backoff" CONF_ACTION_TABLE(X);
#undef X

#define BIT(a) (1u << CONF_ACTION_##a)

/* The action that `s` is, with its interval in *us; CONF_ACTION_NONE if it is none. */
static enum conf_action
action_parse(struct slice s, uint64_t *us)
{
	for (enum conf_action a = 0; a < CONF_ACTION_NONE; a++) {
		size_t n = strlen(actions[a].name);

		if (!actions[a].timed) {
			if (slice_is(s, actions[a].name))
				return a;
			continue;
		}
		if (s.n <= n || !slice_is(slice_of(s.p, n), actions[a].name) || s.p[n] != '=')
			continue;
		s = slice_sub(s, n + 1);
		*us = CONF_NEVER;
		if (slice_is(s, "never") || (conf_value_interval(s, us) && *us > 0))
			return a;
		break;
	}
	return CONF_ACTION_NONE;
}

/* Why `a` may not join the actions in `seen`, or NULL. */
static const char *
action_conflict(enum conf_action a, unsigned seen, char *text, size_t bytes)
{
	unsigned modes = BIT(BACKOFF) | BIT(NORMAL);
	unsigned ends = BIT(SKIP_MX) | BIT(BOUNCE_QUEUE);
	unsigned both = seen | 1u << a;

	if (seen & 1u << a)
		snprintf(text, bytes, "%s stands twice", actions[a].name);
	else if ((both & modes) == modes)
		snprintf(text, bytes, "mode=backoff and mode=normal exclude each other");
	else if ((both & ends) == ends)
		snprintf(text, bytes, "skip-mx and bounce-queue exclude each other");
	else if (actions[a].partner != CONF_ACTION_NONE && !(seen & 1u << actions[a].partner))
		snprintf(text, bytes, "%s= works only behind %s", actions[a].name,
			 actions[actions[a].partner].name);
	else
		return NULL;
	return text;
}

static const char *
action_unknown(struct slice s, char *text, size_t bytes)
{
	char near[64];
	int n = (int)(s.n < 60 ? s.n : 60);
	struct slice value = s, name = slice_cut(&value, '=');

	for (enum conf_action a = 0; a < CONF_ACTION_NONE; a++) {
		if (!actions[a].timed || !slice_is(name, actions[a].name))
			continue;
		snprintf(text, bytes, "%s wants an interval above 0, such as %s=10m, or never",
			 actions[a].name, actions[a].name);
		return text;
	}
	if (conf_schema_suggest_word(action_names, s, near, sizeof near))
		snprintf(text, bytes, "unknown action \"%.*s\"; did you mean \"%s\"?", n, s.p,
			 near);
	else
		snprintf(text, bytes, "unknown action \"%.*s\"", n, s.p);
	return text;
}

static void
take(struct conf_actions *out, enum conf_action a, uint64_t us)
{
	out->set |= 1u << a;
	if (a == CONF_ACTION_TO_NORMAL_AFTER)
		out->backoff_to_normal_after_us = us;
	else if (a == CONF_ACTION_REENABLE_AFTER)
		out->reenable_after_us = us;
	else if (a == CONF_ACTION_FOR)
		out->for_us = us;
}

const char *
conf_actions_parse(const char *const *s, size_t n, struct conf_actions *out, size_t *at, char *text,
		   size_t bytes)
{
	struct conf_actions all = { 0 };

	for (size_t i = 0; i < n; i++) {
		struct slice rest = slice_str(s[i]);

		*at = i;
		while (rest.p != NULL) {
			struct slice one = slice_trim(slice_cut(&rest, ','));
			uint64_t us = 0;
			enum conf_action a = action_parse(one, &us);
			const char *why = a == CONF_ACTION_NONE
						  ? action_unknown(one, text, bytes)
						  : action_conflict(a, all.set, text, bytes);

			if (why != NULL)
				return why;
			take(&all, a, us);
		}
	}
	if (out != NULL)
		*out = all;
	return NULL;
}

void
conf_actions_put(struct buf *out, const struct conf_actions *a)
{
	const char *comma = "";

	for (unsigned i = 0; i < CONF_ACTIONS; i++) {
		if (!(a->set & 1u << i))
			continue;
		buf_printf(out, "%s%s", comma, actions[i].name);
		comma = ", ";
		if (!actions[i].timed)
			continue;
		buf_putc(out, '=');
		conf_value_put_interval(
			out, i == CONF_ACTION_TO_NORMAL_AFTER  ? a->backoff_to_normal_after_us
			     : i == CONF_ACTION_REENABLE_AFTER ? a->reenable_after_us
							       : a->for_us);
	}
}

/* Recovery ------------------------------------------------------------------------------------ */
bool
conf_recover_parse(struct slice s, struct conf_recover *out)
{
	const char *every = s.n ? memmem(s.p, s.n, " every ", 7) : NULL;
	struct conf_recover r = { .automatic = slice_is(s, "auto") };
	struct slice steps;

	if (!r.automatic) {
		if (every == NULL)
			return false;
		steps = slice_of(s.p, (size_t)(every - s.p));
		if (!conf_value_interval(slice_trim(slice_sub(s, steps.n + 7)), &r.every_us) ||
		    r.every_us == 0)
			return false;
		while (steps.p != NULL) {
			struct slice one = slice_trim(slice_cut(&steps, ','));
			uint64_t percent;

			if (r.n == RETRY_STEPS_MAX || one.n < 2 || one.p[one.n - 1] != '%' ||
			    !slice_u64(slice_of(one.p, one.n - 1), 100, &percent) || percent == 0 ||
			    (r.n > 0 && percent <= r.percent[r.n - 1]))
				return false;
			r.percent[r.n++] = (uint8_t)percent;
		}
	}
	if (out != NULL)
		*out = r;
	return true;
}
