#include "common/conf/conf_words.h"

#include <ctype.h>
#include <stdio.h>

#include "common/conf/conf_net.h"
#include "common/conf/conf_schema.h"
#include "common/conf/conf_value.h"

#define NAME_MAX_BYTES 128

bool
conf_words_name(struct slice s)
{
	if (s.n == 0 || s.n > NAME_MAX_BYTES || s.p[0] == '{' || s.p[0] == '$')
		return false;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c <= ' ' || c == 0x7f || strchr("/,*\"<>", c) != NULL)
			return false;
	}
	return true;
}

bool
conf_words_host(struct slice s)
{
	size_t label = 0;

	if (s.n == 0 || s.n > SMTP_DOMAIN_MAX)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c == '.') {
			if (label == 0)
				return false;
			label = 0;
			continue;
		}
		if ((c < 0x80 && !isalnum(c) && c != '-' && c != '_') || ++label > 63)
			return false;
	}
	return true;
}

bool
conf_words_mx(struct slice s)
{
	return slice_is(s, "*") ||
	       conf_words_host(slice_starts_nocase(s, "*.") ? slice_sub(s, 2) : s);
}

bool
conf_words_address(struct slice s)
{
	const char *at = s.n ? memrchr(s.p, '@', s.n) : NULL;
	struct slice local, domain;

	if (at == NULL)
		return false;
	local = slice_of(s.p, (size_t)(at - s.p));
	domain = slice_of(at + 1, s.n - local.n - 1);
	if (local.n == 0 || local.n > SMTP_LOCAL_PART_MAX || !conf_words_host(domain))
		return false;
	for (size_t i = 0; i < local.n; i++) {
		unsigned char c = (unsigned char)local.p[i];

		if (c <= ' ' || c == 0x7f || strchr("<>,;@", c) != NULL)
			return false;
	}
	return true;
}

/* "host", "host:25", "[192.0.2.1]:25", "[IPv6:::1]". */
static bool
is_host_port(struct slice s)
{
	struct sockaddr_storage ss;
	socklen_t len;
	uint64_t port;

	if (s.n > 0 && s.p[0] == '[') {
		const char *end = memchr(s.p, ']', s.n);
		struct slice ip;

		if (end == NULL)
			return false;
		ip = slice_of(s.p + 1, (size_t)(end - s.p) - 1);
		if (slice_starts_nocase(ip, "IPv6:"))
			ip = slice_sub(ip, 5);
		if (!conf_net_ip(ip, &ss, &len))
			return false;
		s = slice_sub(s, ip.n == 0 ? s.n : (size_t)(end - s.p) + 1);
		return s.n == 0 ||
		       (s.p[0] == ':' && slice_u64(slice_sub(s, 1), 65535, &port) && port > 0);
	}
	struct slice host = slice_cut(&s, ':');

	return conf_words_host(host) && (s.p == NULL || (slice_u64(s, 65535, &port) && port > 0));
}

bool
conf_words_smtp_hosts(struct slice s)
{
	if (slice_starts_nocase(s, "lookup-mx:"))
		return conf_words_host(slice_sub(s, strlen("lookup-mx:")));
	while (s.p != NULL) {
		struct slice level = slice_cut(&s, ';');

		while (level.p != NULL) {
			if (!is_host_port(slice_trim(slice_cut(&level, ','))))
				return false;
		}
	}
	return true;
}

bool
conf_words_recover(struct slice s)
{
	const char *every = s.n ? memmem(s.p, s.n, " every ", 7) : NULL;
	struct slice steps;
	uint64_t us;

	if (slice_is(s, "auto"))
		return true;
	if (every == NULL)
		return false;
	steps = slice_of(s.p, (size_t)(every - s.p));
	if (!conf_value_interval(slice_trim(slice_sub(s, steps.n + 7)), &us) || us == 0)
		return false;
	while (steps.p != NULL) {
		struct slice one = slice_trim(slice_cut(&steps, ','));
		uint64_t percent;

		if (one.n < 2 || one.p[one.n - 1] != '%' ||
		    !slice_u64(slice_of(one.p, one.n - 1), 100, &percent) || percent == 0)
			return false;
	}
	return true;
}

bool
conf_words_daily(struct slice s)
{
	while (s.p != NULL) {
		struct slice unit = slice_trim(slice_cut(&s, ','));
		struct slice n = slice_cut(&unit, '/');
		uint64_t v;

		if (!slice_u64(n, CONF_RATE_MAX, &v) || !(slice_eq_nocase(unit, SLICE_LIT("d")) ||
							  slice_eq_nocase(unit, SLICE_LIT("day"))))
			return false;
	}
	return true;
}

bool
conf_words_choice(const char *choices, struct slice s)
{
	struct slice rest = slice_str(choices);

	while (rest.p != NULL) {
		if (slice_eq(slice_cut(&rest, '|'), s))
			return true;
	}
	return false;
}

/* Actions ------------------------------------------------------------------------------------- */
// clang-format off
/* X(action, takes an interval, the action it must follow or none) */
#define ACTION_TABLE(X) \
	X(BACKOFF,     "mode=backoff",            false, NONE) \
	X(NORMAL,      "mode=normal",             false, NONE) \
	X(AFTER,       "backoff-to-normal-after", true,  BACKOFF) \
	X(SKIP_MX,     "skip-mx",                 false, NONE) \
	X(BOUNCE,      "bounce-queue",            false, NONE) \
	X(BOUNCE_RCPT, "bounce-rcpt",             false, NONE) \
	X(DISABLE,     "disable-source-ip",       false, NONE) \
	X(REENABLE,    "reenable-after",          true,  DISABLE) \
	X(DEFER,       "defer-queue",             false, NONE) \
	X(RECONNECT,   "reconnect",               false, NONE) \
	X(REDUCE,      "reduce-connections",      false, NONE) \
	X(FOR,         "for",                     true,  REDUCE) \
	X(RETRY_TLS,   "retry-tls",               false, NONE) \
	X(WAIT_REPLY,  "wait-reply",              false, NONE)
// clang-format on

enum action {
#define X(id, name, timed, partner) ACTION_##id,
	ACTION_TABLE(X)
#undef X
		ACTION_NONE
};

static const struct {
	const char *name;
	bool timed;
	enum action partner;
} actions[] = {
#define X(id, name, timed, partner) { name, timed, ACTION_##partner },
	ACTION_TABLE(X)
#undef X
};

#define X(id, name, timed, partner) "|" name
static const char action_names[] = "mode=backoff" ACTION_TABLE(X);
#undef X

/* The action that `s` is, with its interval checked; ACTION_NONE if it is none. */
static enum action
action_parse(struct slice s)
{
	for (enum action a = 0; a < ACTION_NONE; a++) {
		size_t n = strlen(actions[a].name);
		uint64_t us;

		if (!actions[a].timed) {
			if (slice_is(s, actions[a].name))
				return a;
			continue;
		}
		if (s.n > n && slice_is(slice_of(s.p, n), actions[a].name) && s.p[n] == '=' &&
		    (slice_is(slice_sub(s, n + 1), "never") ||
		     (conf_value_interval(slice_sub(s, n + 1), &us) && us > 0)))
			return a;
	}
	return ACTION_NONE;
}

/* Why `a` may not join the actions in `seen`, or NULL. */
static const char *
action_conflict(enum action a, unsigned seen, char *text, size_t bytes)
{
	unsigned modes = 1u << ACTION_BACKOFF | 1u << ACTION_NORMAL;
	unsigned ends = 1u << ACTION_SKIP_MX | 1u << ACTION_BOUNCE;
	unsigned both = seen | 1u << a;

	if (seen & 1u << a)
		snprintf(text, bytes, "%s stands twice", actions[a].name);
	else if ((both & modes) == modes)
		snprintf(text, bytes, "mode=backoff and mode=normal exclude each other");
	else if ((both & ends) == ends)
		snprintf(text, bytes, "skip-mx and bounce-queue exclude each other");
	else if (actions[a].partner != ACTION_NONE && !(seen & 1u << actions[a].partner))
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

	if (conf_schema_suggest_word(action_names, s, near, sizeof near))
		snprintf(text, bytes, "unknown action \"%.*s\"; did you mean \"%s\"?", n, s.p,
			 near);
	else
		snprintf(text, bytes, "unknown action \"%.*s\"", n, s.p);
	return text;
}

const char *
conf_words_actions(const char *const *s, size_t n, size_t *at, char *text, size_t bytes)
{
	unsigned seen = 0;

	for (size_t i = 0; i < n; i++) {
		struct slice rest = slice_str(s[i]);

		*at = i;
		while (rest.p != NULL) {
			struct slice one = slice_trim(slice_cut(&rest, ','));
			enum action a = action_parse(one);
			const char *why = a == ACTION_NONE ? action_unknown(one, text, bytes)
							   : action_conflict(a, seen, text, bytes);

			if (why != NULL)
				return why;
			seen |= 1u << a;
		}
	}
	return NULL;
}
