/* conf_rollup_ips: queues of rollup-by-ip: each has the addresses that it delivers to in its name,
 * "192.0.2.1+2001:db8::1.NAME.rollup". So it delivers to nothing else, whatever the DNS or the list
 * says later, and after a restart. Pure. */
#pragma once

#include <sys/socket.h>

#include "common/base/limits.h"
#include "common/base/buf.h"
#include "common/base/str.h"

#define CONF_ROLLUP_IPS_MAX ROUTE_MX_MAX /* each is a host of the queue's route */

/* Addresses without ports: IPv4 before IPv6, ascending, each once. */
struct conf_rollup_ips {
	size_t n;
	struct conf_rollup_ip {
		int family;
		unsigned char bytes[16];
	} of[CONF_ROLLUP_IPS_MAX];
};

/* False: there is no room, or it has no form in a name. */
bool conf_rollup_ips_add(struct conf_rollup_ips *ips, const struct sockaddr_storage *address);
/* Whether all of `some` are among `all`. */
bool conf_rollup_ips_within(const struct conf_rollup_ips *some, const struct conf_rollup_ips *all);
/* The domain of the queue NAME.rollup's part that has these addresses; false: there is none, or it
 * would be too long. */
bool conf_rollup_ips_name(const struct conf_rollup_ips *ips, struct slice queue,
			  char name[SMTP_DOMAIN_MAX + 1]);

/* NAME.rollup of such a domain: whose settings are its; any other domain is its own. */
struct slice conf_rollup_base(struct slice domain);
/* Its addresses, in the form of smtp-hosts, IPv4 first; false: it is no such domain. */
bool conf_rollup_ips_hosts(struct slice domain, struct buf *hosts);
