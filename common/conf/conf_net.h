/* conf_net: addresses and CIDRs as they are written in the configuration. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "common/base/str.h"

struct conf_cidr {
	unsigned char net[16]; /* host bits zero */
	int family;            /* AF_INET, AF_INET6 */
	unsigned bits;         /* of the prefix */
	bool all;              /* "0/0": every address of every family */
};

/* "192.0.2.1", "2001:db8::1"; also in brackets. Port 0. */
bool conf_net_ip(struct slice s, struct sockaddr_storage *out, socklen_t *len);
/* "192.0.2.1:25", "[2001:db8::1]:25"; `sep` is ':' or '@' (there without brackets). */
bool conf_net_ip_port(struct slice s, char sep, struct sockaddr_storage *out, socklen_t *len);
/* "10/8", "0/0", "192.0.2.1" (all bits), "2001:db8::/32". */
bool conf_net_cidr(struct slice s, struct conf_cidr *out);
/* The CIDR of one address alone; false for the unspecified family. */
bool conf_net_of(const struct sockaddr *addr, struct conf_cidr *out);
/* Makes it the first `bits` bits of itself. */
void conf_net_mask(struct conf_cidr *c, unsigned bits);
/* An IPv4 address mapped into IPv6 is taken as the IPv4 address that it is. */
bool conf_net_match(const struct conf_cidr *c, const struct sockaddr *addr);
bool conf_net_same(const struct sockaddr_storage *a, const struct sockaddr_storage *b);
