#include "common/net/deny.h"

#include "common/base/check.h"

static const struct {
	const char *block, *why;
} rows[] = {
	// clang-format off
	{ "0.0.0.0/8",       "this network" },
	{ "10.0.0.0/8",      "private" },
	{ "100.64.0.0/10",   "shared by carriers" },
	{ "127.0.0.0/8",     "loopback" },
	{ "169.254.0.0/16",  "link-local" },
	{ "172.16.0.0/12",   "private" },
	{ "192.168.0.0/16",  "private" },
	{ "224.0.0.0/4",     "multicast" },
	{ "240.0.0.0/4",     "reserved" }, /* with 255.255.255.255 */
	{ "::/128",          "unspecified" },
	{ "::1/128",         "loopback" },
	{ "::/96",           "IPv4 in an old form" },
	{ "64:ff9b:1::/48",  "local translation" },
	{ "100::/64",        "discard only" },
	{ "fc00::/7",        "unique local" },
	{ "fe80::/10",       "link-local" },
	{ "fec0::/10",       "site-local" },
	{ "ff00::/8",        "multicast" },
	// clang-format on
};
#define ROWS (sizeof rows / sizeof rows[0])

/* The table, parsed once. Each process has one thread that asks. */
static const struct cidr *
blocks(void)
{
	static struct cidr parsed[ROWS];
	static bool ready;

	for (size_t i = 0; i < ROWS && !ready; i++)
		CHECK(cidr_parse(&parsed[i], slice_str(rows[i].block)));
	ready = true;
	return parsed;
}

/* The IPv4 address inside an address of a translation prefix (RFC 6052 64:ff9b::/96, RFC 3056
 * 2002::/16), where it would lead; else the address itself. */
static struct addr
translated(const struct addr *a)
{
	static const unsigned char nat64[12] = { 0, 0x64, 0xff, 0x9b };
	const unsigned char *b = a->u.v6.sin6_addr.s6_addr;
	const unsigned char *v4 = NULL;
	struct addr out = { 0 };

	if (a->u.sa.sa_family != AF_INET6)
		return *a;
	if (memcmp(b, nat64, 12) == 0)
		v4 = b + 12;
	else if (b[0] == 0x20 && b[1] == 0x02)
		v4 = b + 2;
	if (v4 == NULL)
		return *a;
	out.u.v4.sin_family = AF_INET;
	out.u.v4.sin_port = a->u.v6.sin6_port;
	memcpy(&out.u.v4.sin_addr, v4, 4);
	out.len = sizeof out.u.v4;
	return out;
}

static const char *
denied_by_table(const struct addr *a)
{
	const struct cidr *c = blocks();

	for (size_t i = 0; i < ROWS; i++) {
		if (cidr_holds(&c[i], a))
			return rows[i].why;
	}
	return NULL;
}

static bool
is_own(const struct deny_lists *lists, const struct addr *a)
{
	for (size_t i = 0; i < lists->n_own; i++) {
		const struct addr *own = &lists->own[i];

		if (addr_port(own) == addr_port(a) && addr_same_ip(own, a))
			return true;
	}
	return false;
}

enum deny_answer
deny_check(const struct deny_lists *lists, const struct addr *a, const char **why)
{
	struct addr plain = addr_unmapped(a);
	struct addr inner = translated(&plain);
	const char *unused;

	if (why == NULL)
		why = &unused;
	*why = "";
	for (size_t i = 0; i < lists->n_allow; i++) {
		if (cidr_holds(&lists->allow[i], &plain) || cidr_holds(&lists->allow[i], a))
			return DENY_ALLOWED;
	}
	*why = denied_by_table(&plain);
	if (*why == NULL)
		*why = denied_by_table(&inner);
	if (*why == NULL && is_own(lists, &plain))
		*why = "our own listener";
	if (*why == NULL && plain.u.sa.sa_family != AF_INET && plain.u.sa.sa_family != AF_INET6)
		*why = "no address";
	if (*why != NULL)
		return DENY_YES;
	*why = "";
	return DENY_NO;
}
