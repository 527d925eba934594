/* address: envelope addresses by the grammar of RFC 5321 (4.1.2, 4.1.3): no comments, no display
 * names, one pass without allocation. */
#pragma once

#include "common/base/buf.h"
#include "common/base/str.h"

enum address_kind {
	ADDRESS_NULL,    /* <>: the sender of a bounce */
	ADDRESS_LOCAL,   /* no domain: only <postmaster> is such a one (RFC 5321 4.5.1) */
	ADDRESS_DOMAIN,  /* local@domain */
	ADDRESS_LITERAL, /* local@[literal] */
};

/* Borrows from what was parsed. `local` is as written, with its quotes; a literal's `domain` has
 * its brackets. */
struct address {
	enum address_kind kind;
	struct slice local;
	struct slice domain;
};

/* Takes a path `<...>` off the front of *s; a source route in it is read and ignored (RFC 5321
 * appendix C). 0, -E_BAD, or -E_TOO_BIG above the sizes of RFC 5321 4.5.3.1; then *s is as it was.
 */
int address_parse_path(struct slice *s, struct address *out);

/* The whole of `s` is local@domain or local@[literal], without brackets around it. */
int address_parse_mailbox(struct slice s, struct address *out);

/* The whole of `s` is a domain name or an address literal. */
bool address_is_domain(struct slice s);
bool address_is_literal(struct slice s);

/* Appends local@domain: the domain in lower case, the local part as it was; nothing for <>. */
void address_put(struct buf *out, const struct address *a);
