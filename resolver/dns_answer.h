/* dns_answer: what one DNS answer says to one question (MX, A, AAAA), from the packet. Pure. */
#pragma once

#include <stdint.h>

#include "common/base/limits.h"
#include "common/base/str.h"

#define DNS_RECORDS_MAX 100 /* of one answer; further ones are ignored */
#define DNS_NAME_BYTES  256

enum dns_type { DNS_A = 1, DNS_MX = 15, DNS_AAAA = 28 };

enum dns_outcome {
	DNS_FOUND,  /* has records */
	DNS_NODATA, /* the name exists, but has none of this type */
	DNS_NXDOMAIN,
	DNS_FAILED, /* no answer, or one that says nothing: try again later */
};

struct dns_record {
	uint16_t preference;       /* MX */
	char host[DNS_NAME_BYTES]; /* MX: without the last dot, "" for the root; may hold \DDD
				      escapes */
	unsigned char addr[16];    /* A: the first 4; AAAA */
};

struct dns_answer {
	enum dns_outcome outcome;
	uint32_t ttl_s;  /* the shortest of what was used; for a negative answer RFC 2308's; 0 not
			    known */
	const char *why; /* of DNS_FAILED: static text */
	unsigned n;
	struct dns_record records[DNS_RECORDS_MAX];
};

/* Aliases are followed inside the packet, at most CNAME_DEPTH_MAX of them (RFC 5321, 5.1). Every
 * length is checked against the record's; a record that does not fit its type is dropped. */
void dns_answer_parse(struct dns_answer *out, const char *name, enum dns_type type,
		      struct slice packet);

/* A host name that may be asked for: letters, digits, - and _ in labels of 1..63, at most 253
 * bytes. */
bool dns_name_ok(struct slice name);
