#include "common/conf/conf_net.h"

#include <arpa/inet.h>

static bool
ip_parse(struct slice s, unsigned char out[16], int *family)
{
	char text[INET6_ADDRSTRLEN + 1];

	if (s.n == 0 || s.n >= sizeof text || memchr(s.p, '\0', s.n) != NULL)
		return false;
	str_copy(text, sizeof text, s);
	memset(out, 0, 16);
	*family = strchr(text, ':') != NULL ? AF_INET6 : AF_INET;
	return inet_pton(*family, text, out) == 1;
}

static socklen_t
addr_fill(struct sockaddr_storage *out, int family, const unsigned char *ip, unsigned port)
{
	memset(out, 0, sizeof *out);
	if (family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)out;

		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)port);
		memcpy(&in->sin_addr, ip, 4);
		return sizeof *in;
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons((uint16_t)port);
	memcpy(&in6->sin6_addr, ip, 16);
	return sizeof *in6;
}

static struct slice
without_brackets(struct slice s)
{
	if (s.n >= 2 && s.p[0] == '[' && s.p[s.n - 1] == ']')
		return slice_of(s.p + 1, s.n - 2);
	return s;
}

bool
conf_net_ip(struct slice s, struct sockaddr_storage *out, socklen_t *len)
{
	unsigned char ip[16];
	int family;

	if (!ip_parse(without_brackets(s), ip, &family))
		return false;
	*len = addr_fill(out, family, ip, 0);
	return true;
}

bool
conf_net_ip_port(struct slice s, char sep, struct sockaddr_storage *out, socklen_t *len)
{
	const char *at = s.n ? memrchr(s.p, sep, s.n) : NULL;
	struct slice host, port;
	unsigned char ip[16];
	uint64_t n;
	int family;

	if (at == NULL)
		return false;
	host = slice_of(s.p, (size_t)(at - s.p));
	port = slice_of(at + 1, s.n - host.n - 1);
	if (!slice_u64(port, 65535, &n) || n == 0)
		return false;
	/* A bare IPv6 address before a colon would be a riddle. */
	if (sep == ':' && host.n > 0 && host.p[0] != '[' && memchr(host.p, ':', host.n) != NULL)
		return false;
	if (!ip_parse(without_brackets(host), ip, &family))
		return false;
	*len = addr_fill(out, family, ip, (unsigned)n);
	return true;
}

/* "10", "10.1" and so on: missing octets are zero. */
static bool
short_ipv4(struct slice s, unsigned char out[16])
{
	unsigned n = 0;

	memset(out, 0, 16);
	while (s.p != NULL) {
		uint64_t octet;

		if (n == 4 || !slice_u64(slice_cut(&s, '.'), 255, &octet))
			return false;
		out[n++] = (unsigned char)octet;
	}
	return n > 0;
}

static void
zero_host_bits(struct conf_cidr *c)
{
	unsigned bytes = c->family == AF_INET ? 4 : 16;

	for (unsigned i = 0; i < bytes; i++) {
		unsigned keep = c->bits > i * 8 ? c->bits - i * 8 : 0;

		if (keep < 8)
			c->net[i] &= (unsigned char)(0xff00u >> keep);
	}
}

bool
conf_net_cidr(struct slice s, struct conf_cidr *out)
{
	struct conf_cidr c = { .all = slice_is(s, "0/0") };
	struct slice rest = s, host = slice_cut(&rest, '/');
	uint64_t bits;

	if (!ip_parse(host, c.net, &c.family)) {
		if (rest.p == NULL || !short_ipv4(host, c.net))
			return false;
		c.family = AF_INET;
	}
	bits = c.family == AF_INET ? 32 : 128;
	if (rest.p != NULL && !slice_u64(rest, bits, &bits))
		return false;
	c.bits = (unsigned)bits;
	zero_host_bits(&c);
	*out = c;
	return true;
}

bool
conf_net_of(const struct sockaddr *addr, struct conf_cidr *out)
{
	struct conf_cidr a = { .bits = 32, .family = AF_INET };

	if (addr->sa_family == AF_INET) {
		memcpy(a.net, &((const struct sockaddr_in *)addr)->sin_addr, 4);
	} else if (addr->sa_family == AF_INET6) {
		const struct in6_addr *in6 = &((const struct sockaddr_in6 *)addr)->sin6_addr;

		if (IN6_IS_ADDR_V4MAPPED(in6)) {
			memcpy(a.net, in6->s6_addr + 12, 4);
		} else {
			a.family = AF_INET6;
			a.bits = 128;
			memcpy(a.net, in6->s6_addr, 16);
		}
	} else {
		return false;
	}
	*out = a;
	return true;
}

void
conf_net_mask(struct conf_cidr *c, unsigned bits)
{
	c->bits = bits;
	zero_host_bits(c);
}

bool
conf_net_match(const struct conf_cidr *c, const struct sockaddr *addr)
{
	struct conf_cidr a;

	if (!conf_net_of(addr, &a))
		return false;
	if (c->all)
		return true;
	if (a.family != c->family)
		return false;
	conf_net_mask(&a, c->bits);
	return memcmp(a.net, c->net, sizeof a.net) == 0;
}

bool
conf_net_same(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *x = (const struct sockaddr_in *)a;
		const struct sockaddr_in *y = (const struct sockaddr_in *)b;

		return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
	}
	const struct sockaddr_in6 *x = (const struct sockaddr_in6 *)a;
	const struct sockaddr_in6 *y = (const struct sockaddr_in6 *)b;

	return x->sin6_port == y->sin6_port &&
	       memcmp(&x->sin6_addr, &y->sin6_addr, sizeof x->sin6_addr) == 0;
}
