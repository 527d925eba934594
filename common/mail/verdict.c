#include "common/mail/verdict.h"

#include <stdio.h>

#define X(name, text) text,
static const char *const scope_texts[] = { VERDICT_SCOPE_TABLE(X) };
static const char *const action_texts[] = { VERDICT_ACTION_TABLE(X) };
static const char *const reason_texts[] = { VERDICT_REASON_TABLE(X) };
static const char *const phase_texts[] = { VERDICT_PHASE_TABLE(X) };
#undef X

const char *
verdict_scope_text(unsigned scope)
{
	return scope < VERDICT_SCOPES ? scope_texts[scope] : "?";
}

const char *
verdict_action_text(unsigned action)
{
	return action < VERDICT_ACTIONS ? action_texts[action] : "?";
}

const char *
verdict_reason_text(unsigned reason)
{
	return reason < VERDICT_REASONS ? reason_texts[reason] : "?";
}

const char *
verdict_phase_text(unsigned phase)
{
	return phase < VERDICT_PHASES ? phase_texts[phase] : "?";
}

bool
verdict_valid(const struct verdict *v)
{
	return v->scope < VERDICT_SCOPES && v->action < VERDICT_ACTIONS &&
	       v->reason < VERDICT_REASONS && v->phase < VERDICT_PHASES && v->code < 1000 &&
	       (v->status.class == 0 || v->status.class == 2 || v->status.class == 4 ||
		v->status.class == 5) &&
	       v->status.subject < 1000 && v->status.detail < 1000;
}

/* One to three digits at in[*at]; *at moves behind them. */
static bool
three_digits(struct slice in, size_t *at, uint16_t *out)
{
	size_t from = *at;
	unsigned v = 0;

	while (*at < in.n && *at - from < 3 && in.p[*at] >= '0' && in.p[*at] <= '9') {
		v = v * 10 + (unsigned)(in.p[*at] - '0');
		(*at)++;
	}
	*out = (uint16_t)v;
	return *at > from;
}

size_t
verdict_status_parse(struct slice in, struct verdict_status *out)
{
	struct verdict_status s;
	size_t at = 2;

	if (in.n < 5 || (in.p[0] != '2' && in.p[0] != '4' && in.p[0] != '5') || in.p[1] != '.')
		return 0;
	s.class = (uint8_t)(in.p[0] - '0');
	if (!three_digits(in, &at, &s.subject) || at >= in.n || in.p[at] != '.')
		return 0;
	at++;
	if (!three_digits(in, &at, &s.detail))
		return 0;
	/* "5.7.2" with nothing behind it is whole; "5.7.1234" and "5.7.1.2" are text. */
	if (at < in.n && in.p[at] != ' ' && in.p[at] != '\t')
		return 0;
	*out = s;
	return at;
}

const char *
verdict_status_text(char dst[VERDICT_STATUS_BYTES], struct verdict_status s)
{
	dst[0] = '\0';
	if (s.class != 0)
		snprintf(dst, VERDICT_STATUS_BYTES, "%u.%u.%u", s.class, s.subject, s.detail);
	return dst;
}

bool
verdict_status_eq(struct verdict_status a, struct verdict_status b)
{
	return a.class == b.class && a.subject == b.subject && a.detail == b.detail;
}
