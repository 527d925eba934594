/* addr: IP addresses and ports: text to sockaddr and back, CIDR blocks. Pure. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/base/str.h"

/* An address of either family; family AF_UNSPEC (zero-initialised) is none. */
struct addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} u;
	socklen_t len;
};

/* `192.0.2.1`, `2001:db8::1`, either with `@PORT`; `[2001:db8::1]:25`, `192.0.2.1:25`. Without a
 * port it is `port`. No names, no scopes. False when it is none of these. */
bool addr_parse(struct addr *out, struct slice text, uint16_t port);
/* From foreign hands: false unless family and length are IPv4's or IPv6's. */
bool addr_from(struct addr *out, const struct sockaddr *sa, socklen_t len);

#define ADDR_TEXT_BYTES 64
/* The address alone, `192.0.2.1`; `-` for none. Returns dst. */
const char *addr_text(char dst[ADDR_TEXT_BYTES], const struct addr *a);
/* `192.0.2.1@25`. */
const char *addr_port_text(char dst[ADDR_TEXT_BYTES], const struct addr *a);

uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);

/* Same family and address; ports are not looked at. A v4-mapped IPv6 address is its IPv4 address.
 */
bool addr_same_ip(const struct addr *a, const struct addr *b);
/* 0.0.0.0 or ::. */
bool addr_is_any(const struct addr *a);
/* ::ffff:a.b.c.d becomes a.b.c.d; all else stays. */
struct addr addr_unmapped(const struct addr *a);

/* A block of addresses: its first `bits` bits decide. */
struct cidr {
	uint8_t family; /* AF_INET, AF_INET6 */
	uint8_t bits;
	unsigned char bytes[16];
};

/* `10.0.0.0/8`, `0/0`, `10/8` (missing parts are 0, as PowerMTA), `2001:db8::/32`, or an address
 * alone. */
bool cidr_parse(struct cidr *out, struct slice text);
/* False for another family. */
bool cidr_holds(const struct cidr *c, const struct addr *a);
