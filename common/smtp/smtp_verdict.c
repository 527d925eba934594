#include "common/smtp/smtp_verdict.h"

#include "common/base/check.h"

/* The status that stands for a reply without its own, most particular row first (RFC 3463 and the
 * basic codes of RFC 5321 4.2.3); code 0 is any code of that class, phase NONE any phase. */
static const struct {
	uint16_t code;
	uint8_t class;
	uint8_t phase;
	uint16_t subject, detail;
} defaults[] = {
	// clang-format off
	{ 421, 4, VERDICT_AT_NONE, 3, 2 },
	{ 450, 4, VERDICT_AT_RCPT, 2, 0 },
	{ 452, 4, VERDICT_AT_RCPT, 5, 3 },
	{ 452, 4, VERDICT_AT_NONE, 3, 1 },
	{ 550, 5, VERDICT_AT_RCPT, 1, 1 },
	{ 551, 5, VERDICT_AT_RCPT, 1, 6 },
	{ 552, 4, VERDICT_AT_RCPT, 5, 3 }, /* taken as 452 */
	{ 552, 5, VERDICT_AT_RCPT, 2, 2 },
	{ 552, 5, VERDICT_AT_NONE, 3, 4 },
	{ 553, 5, VERDICT_AT_RCPT, 1, 3 },
	{ 556, 5, VERDICT_AT_NONE, 1, 10 },
	{ 521, 5, VERDICT_AT_NONE, 3, 2 },
	{   0, 2, VERDICT_AT_NONE, 0, 0 },
	{   0, 4, VERDICT_AT_NONE, 0, 0 },
	{   0, 5, VERDICT_AT_NONE, 0, 0 },
	// clang-format on
};

static struct verdict_status
default_status(unsigned class, unsigned code, enum verdict_phase phase,
	       const struct smtp_policy *policy)
{
	if (code == 553 && phase == VERDICT_AT_RCPT && policy->invalid_mailbox_553)
		return VERDICT_STATUS(5, 1, 1);
	for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++) {
		if (defaults[i].class != class)
			continue;
		if (defaults[i].code != 0 && defaults[i].code != code)
			continue;
		if (defaults[i].phase != VERDICT_AT_NONE && defaults[i].phase != phase)
			continue;
		return VERDICT_STATUS((uint8_t) class, defaults[i].subject, defaults[i].detail);
	}
	return VERDICT_STATUS((uint8_t) class, 0, 0);
}

static enum verdict_scope
scope_of(enum verdict_phase phase)
{
	switch (phase) {
	case VERDICT_AT_RCPT:
		return VERDICT_RECIPIENT;
	case VERDICT_AT_MAIL:
	case VERDICT_AT_DATA:
	case VERDICT_AT_DOT:
		return VERDICT_MESSAGE;
	case VERDICT_AT_BODY:
	case VERDICT_AT_RSET:
	case VERDICT_AT_QUIT:
		return VERDICT_CONNECTION;
	default:
		return VERDICT_HOST;
	}
}

/* What a reply of 4xx or 5xx does. */
static enum verdict_action
action_of(enum verdict_phase phase, unsigned code, bool accepted, const struct smtp_policy *policy)
{
	if (code < 500)
		return VERDICT_TRANSIENT;
	switch (phase) {
	case VERDICT_AT_GREETING:
		return policy->bounce_5xx_greeting ? VERDICT_PERMANENT : VERDICT_TRANSIENT;
	case VERDICT_AT_RCPT:
		return code == 552 && accepted ? VERDICT_TRANSIENT : VERDICT_PERMANENT;
	case VERDICT_AT_MAIL:
	case VERDICT_AT_DATA:
	case VERDICT_AT_DOT:
		return VERDICT_PERMANENT;
	default:
		return VERDICT_TRANSIENT;
	}
}

/* The reply that lets the dialogue go on. */
static bool
is_expected(enum verdict_phase phase, unsigned code)
{
	if (phase == VERDICT_AT_DATA)
		return code / 100 == 3;
	return code / 100 == 2 && phase != VERDICT_AT_BODY;
}

struct verdict
smtp_verdict(enum verdict_phase phase, const struct smtp_reply *reply, bool accepted,
	     const struct smtp_policy *policy)
{
	struct verdict v = { .reason = VERDICT_BY_REPLY,
			     .phase = (uint8_t)phase,
			     .code = reply->code };
	unsigned class;

	CHECK(reply->code >= 200 && reply->code <= 599);
	if (reply->code < 400 && !is_expected(phase, reply->code)) {
		/* 250 to DATA, 354 to RCPT: the two sides no longer talk about the same thing. */
		v = smtp_verdict_failure(phase, VERDICT_BY_PROTOCOL, policy);
		v.code = reply->code;
		return v;
	}
	v.scope = (uint8_t)scope_of(phase);
	if (reply->code < 400)
		v.action = VERDICT_DELIVERED;
	else
		v.action = (uint8_t)action_of(phase, reply->code, accepted, policy);
	if (reply->code == 421) {
		v.scope = policy->mx_unavailable_421 || v.scope == VERDICT_HOST
				  ? VERDICT_HOST
				  : VERDICT_CONNECTION;
	}
	class = v.action == VERDICT_DELIVERED ? 2 : v.action == VERDICT_PERMANENT ? 5 : 4;
	v.status =
		reply->enhanced.class == class ? reply->enhanced
					       : default_status(class, reply->code, phase, policy);
	return v;
}

/* The status that we give for a failure without an understood reply. */
static const struct verdict_status failure_status[VERDICT_REASONS] = {
	// clang-format off
	[VERDICT_BY_NONE]        = { 4, 0, 0 },
	[VERDICT_BY_REFUSED]     = { 4, 4, 1 },
	[VERDICT_BY_UNREACHABLE] = { 4, 4, 1 },
	[VERDICT_BY_TIMEOUT]     = { 4, 4, 2 },
	[VERDICT_BY_LOST]        = { 4, 4, 2 },
	[VERDICT_BY_PROTOCOL]    = { 4, 5, 0 },
	[VERDICT_BY_TOO_LONG]    = { 4, 4, 0 },
	[VERDICT_BY_LOOP]        = { 4, 4, 6 },
	[VERDICT_BY_DENIED]      = { 4, 4, 4 },
	[VERDICT_BY_SOURCE]      = { 4, 3, 5 },
	[VERDICT_BY_RESOURCES]   = { 4, 3, 2 },
	[VERDICT_BY_NO_FEATURE]  = { 5, 6, 3 },
	[VERDICT_BY_TOO_BIG]     = { 5, 3, 4 },
	[VERDICT_BY_BAD_ADDRESS] = { 5, 1, 3 },
	[VERDICT_BY_STALE]       = { 4, 0, 0 },
	[VERDICT_BY_DAMAGED]     = { 5, 3, 0 },
	[VERDICT_BY_INTERRUPTED] = { 4, 0, 0 },
	// clang-format on
};

struct verdict
smtp_verdict_failure(enum verdict_phase phase, enum verdict_reason reason,
		     const struct smtp_policy *policy)
{
	struct verdict v = { .reason = (uint8_t)reason,
			     .phase = (uint8_t)phase,
			     .scope = VERDICT_CONNECTION,
			     .action = VERDICT_TRANSIENT };

	CHECK(reason != VERDICT_BY_REPLY && reason < VERDICT_REASONS);
	v.status = failure_status[reason];
	if (scope_of(phase) == VERDICT_HOST)
		v.scope = VERDICT_HOST;
	if (reason == VERDICT_BY_NO_FEATURE || reason == VERDICT_BY_TOO_BIG ||
	    reason == VERDICT_BY_BAD_ADDRESS) {
		v.scope = phase == VERDICT_AT_RCPT ? VERDICT_RECIPIENT : VERDICT_MESSAGE;
		v.action = VERDICT_PERMANENT;
	} else if (reason == VERDICT_BY_STALE) {
		v.scope = VERDICT_MESSAGE;
		v.action = VERDICT_UNATTEMPTED;
	} else if (reason == VERDICT_BY_DAMAGED) {
		v.scope = VERDICT_MESSAGE;
		v.action = VERDICT_QUARANTINED;
	} else if (phase == VERDICT_AT_DOT) {
		/* It may have been delivered and it may not: only a retry is honest. */
		v.scope = VERDICT_MESSAGE;
		v.action = VERDICT_UNKNOWN;
		if (reason == VERDICT_BY_TIMEOUT && policy->assume_delivery_on_timeout) {
			v.action = VERDICT_DELIVERED;
			v.status = VERDICT_STATUS(2, 0, 0);
		}
	} else if (phase == VERDICT_AT_BODY && policy->bounce_transfer_failure &&
		   (reason == VERDICT_BY_LOST || reason == VERDICT_BY_TIMEOUT)) {
		v.scope = VERDICT_MESSAGE;
		v.action = VERDICT_PERMANENT;
		v.status.class = 5;
	}
	return v;
}
