/* destination: the key of a question for a route, taken apart. Pure.
 *
 * `DOMAIN` or `=VALUE`, and `\nPORT` behind it for another default port than 25. VALUE is the
 * directive smtp-hosts: `host[:port],host;...`; comma: same preference; semicolon: next; `[ip]`,
 * `[IPv6:ip]` and `lookup-mx:DOMAIN` stand where a host may stand. A domain may be an address
 * literal (RFC 5321, 4.1.3). */
#pragma once

#include <netinet/in.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "common/base/str.h"

#define DESTINATION_NAME_BYTES 256

enum destination_kind {
	DESTINATION_MX,      /* ask for the MX hosts of `name` */
	DESTINATION_HOST,    /* ask for the addresses of `name` */
	DESTINATION_ADDRESS, /* `addr` it is */
};

struct destination_item {
	enum destination_kind kind;
	char name[DESTINATION_NAME_BYTES];
	struct sockaddr_storage addr; /* with port */
	uint16_t port;
	uint16_t group; /* 0 is tried first */
};

struct destination {
	unsigned n;
	struct destination_item items[ROUTE_MX_MAX];
	bool by_hand; /* from smtp-hosts: the administrator says where */
};

/* 0 or -E_BAD. */
int destination_parse(struct destination *out, struct slice key);

/* An address in text, also with the tag "IPv6:". False when it is none. */
bool destination_address(struct slice text, uint16_t port, struct sockaddr_storage *out);
