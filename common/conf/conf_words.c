#include "common/conf/conf_words.h"

#include <ctype.h>

#include "common/conf/conf_net.h"
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
