#include "common/net/addr.h"

#include <arpa/inet.h>
#include <stdio.h>

/* Either family from text without a port. */
static bool
parse_ip(struct addr *out, struct slice text, uint16_t port)
{
	char z[INET6_ADDRSTRLEN];

	memset(out, 0, sizeof *out);
	if (text.n == 0 || text.n >= sizeof z || memchr(text.p, '\0', text.n) != NULL)
		return false;
	str_copy(z, sizeof z, text);
	if (inet_pton(AF_INET, z, &out->u.v4.sin_addr) == 1) {
		out->u.v4.sin_family = AF_INET;
		out->len = sizeof out->u.v4;
	} else if (inet_pton(AF_INET6, z, &out->u.v6.sin6_addr) == 1) {
		out->u.v6.sin6_family = AF_INET6;
		out->len = sizeof out->u.v6;
	} else {
		memset(out, 0, sizeof *out);
		return false;
	}
	addr_set_port(out, port);
	return true;
}

bool
addr_parse(struct addr *out, struct slice text, uint16_t port)
{
	struct slice rest = text, ip;
	uint64_t v = port;

	memset(out, 0, sizeof *out);
	if (text.n == 0)
		return false;
	if (text.p[0] == '[') {
		rest = slice_sub(text, 1);
		ip = slice_cut(&rest, ']');
		if (rest.p == NULL)
			return false; /* not closed */
		if (rest.n > 0 && (rest.p[0] != ':' || !slice_u64(slice_sub(rest, 1), 65535, &v)))
			return false;
		return memchr(ip.p, ':', ip.n) != NULL && parse_ip(out, ip, (uint16_t)v);
	}
	ip = slice_cut(&rest, '@');
	if (rest.p != NULL) {
		if (!slice_u64(rest, 65535, &v))
			return false;
	} else if (memchr(text.p, '.', text.n) != NULL) {
		const char *colon = memchr(text.p, ':', text.n);

		/* One colon behind an IPv4 address is a port; more are an IPv6 address. */
		if (colon != NULL &&
		    memchr(colon + 1, ':', (size_t)(text.p + text.n - colon - 1)) == NULL) {
			rest = slice_sub(text, (size_t)(colon - text.p) + 1);
			ip = slice_of(text.p, (size_t)(colon - text.p));
			if (!slice_u64(rest, 65535, &v))
				return false;
		}
	}
	return parse_ip(out, ip, (uint16_t)v);
}

bool
addr_from(struct addr *out, const struct sockaddr *sa, socklen_t len)
{
	memset(out, 0, sizeof *out);
	if (len < (socklen_t)sizeof sa->sa_family)
		return false;
	if (sa->sa_family == AF_INET && len >= (socklen_t)sizeof out->u.v4) {
		memcpy(&out->u.v4, sa, sizeof out->u.v4);
		out->len = sizeof out->u.v4;
		return true;
	}
	if (sa->sa_family == AF_INET6 && len >= (socklen_t)sizeof out->u.v6) {
		memcpy(&out->u.v6, sa, sizeof out->u.v6);
		out->len = sizeof out->u.v6;
		return true;
	}
	return false;
}

const char *
addr_text(char dst[ADDR_TEXT_BYTES], const struct addr *a)
{
	const char *ok = NULL;

	if (a->u.sa.sa_family == AF_INET)
		ok = inet_ntop(AF_INET, &a->u.v4.sin_addr, dst, ADDR_TEXT_BYTES);
	else if (a->u.sa.sa_family == AF_INET6)
		ok = inet_ntop(AF_INET6, &a->u.v6.sin6_addr, dst, ADDR_TEXT_BYTES);
	if (ok == NULL)
		memcpy(dst, "-", 2);
	return dst;
}

const char *
addr_port_text(char dst[ADDR_TEXT_BYTES], const struct addr *a)
{
	size_t n;

	addr_text(dst, a);
	n = strlen(dst);
	snprintf(dst + n, ADDR_TEXT_BYTES - n, "@%u", addr_port(a));
	return dst;
}

uint16_t
addr_port(const struct addr *a)
{
	if (a->u.sa.sa_family == AF_INET)
		return ntohs(a->u.v4.sin_port);
	return a->u.sa.sa_family == AF_INET6 ? ntohs(a->u.v6.sin6_port) : 0;
}

void
addr_set_port(struct addr *a, uint16_t port)
{
	if (a->u.sa.sa_family == AF_INET)
		a->u.v4.sin_port = htons(port);
	else if (a->u.sa.sa_family == AF_INET6)
		a->u.v6.sin6_port = htons(port);
}

struct addr
addr_unmapped(const struct addr *a)
{
	static const unsigned char mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
	const unsigned char *b = a->u.v6.sin6_addr.s6_addr;
	struct addr out;

	if (a->u.sa.sa_family != AF_INET6 || memcmp(b, mapped, 12) != 0)
		return *a;
	memset(&out, 0, sizeof out);
	out.u.v4.sin_family = AF_INET;
	out.u.v4.sin_port = a->u.v6.sin6_port;
	memcpy(&out.u.v4.sin_addr, b + 12, 4);
	out.len = sizeof out.u.v4;
	return out;
}

bool
addr_same_ip(const struct addr *a, const struct addr *b)
{
	struct addr x = addr_unmapped(a), y = addr_unmapped(b);

	if (x.u.sa.sa_family != y.u.sa.sa_family)
		return false;
	if (x.u.sa.sa_family == AF_INET)
		return x.u.v4.sin_addr.s_addr == y.u.v4.sin_addr.s_addr;
	return x.u.sa.sa_family == AF_INET6 &&
	       memcmp(&x.u.v6.sin6_addr, &y.u.v6.sin6_addr, 16) == 0;
}

bool
addr_is_any(const struct addr *a)
{
	static const unsigned char zero[16];

	if (a->u.sa.sa_family == AF_INET)
		return a->u.v4.sin_addr.s_addr == 0;
	return a->u.sa.sa_family == AF_INET6 && memcmp(&a->u.v6.sin6_addr, zero, 16) == 0;
}

/* IPv4 with parts missing behind: `10` is 10.0.0.0. */
static bool
parse_short_v4(struct slice text, unsigned char bytes[4])
{
	struct slice rest = text;
	size_t n = 0;

	while (rest.p != NULL) {
		uint64_t v;

		if (n == 4 || !slice_u64(slice_cut(&rest, '.'), 255, &v))
			return false;
		bytes[n++] = (unsigned char)v;
	}
	return n > 0;
}

bool
cidr_parse(struct cidr *out, struct slice text)
{
	struct slice rest = slice_trim(text);
	struct slice ip = slice_cut(&rest, '/');
	struct addr a;
	uint64_t bits;

	memset(out, 0, sizeof *out);
	if (parse_ip(&a, ip, 0) && a.u.sa.sa_family == AF_INET6) {
		out->family = AF_INET6;
		memcpy(out->bytes, &a.u.v6.sin6_addr, 16);
	} else if (rest.p != NULL ? parse_short_v4(ip, out->bytes) : a.u.sa.sa_family == AF_INET) {
		out->family = AF_INET;
		if (rest.p == NULL)
			memcpy(out->bytes, &a.u.v4.sin_addr, 4);
	} else {
		return false;
	}
	bits = out->family == AF_INET ? 32 : 128;
	if (rest.p != NULL && !slice_u64(rest, bits, &bits))
		return false;
	out->bits = (uint8_t)bits;
	return true;
}

bool
cidr_holds(const struct cidr *c, const struct addr *a)
{
	const unsigned char *p;
	size_t whole = c->bits / 8, rest = c->bits % 8;

	if (a->u.sa.sa_family != c->family)
		return false;
	p = c->family == AF_INET ? (const unsigned char *)&a->u.v4.sin_addr
				 : a->u.v6.sin6_addr.s6_addr;
	if (memcmp(p, c->bytes, whole) != 0)
		return false;
	return rest == 0 || ((p[whole] ^ c->bytes[whole]) >> (8 - rest)) == 0;
}
