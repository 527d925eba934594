/* smtp_command: one command line of a client, taken apart (RFC 5321 4.1). Pure. */
#pragma once

#include "common/base/str.h"
#include "common/mail/address.h"

/* clang-format off */
#define SMTP_VERB_TABLE(X) \
	X(EHLO) X(HELO) X(MAIL) X(RCPT) X(DATA) X(RSET) X(NOOP) X(VRFY) X(HELP) X(QUIT)
/* clang-format on */

enum smtp_verb {
#define X(name) SMTP_VERB_##name,
	SMTP_VERB_TABLE(X)
#undef X
		SMTP_VERB_UNBUILT, /* known to RFCs, not offered here: 502 */
	SMTP_VERB_UNKNOWN,         /* 500 */
	SMTP_VERB_FOREIGN,         /* the first word of another protocol, such as HTTP: hang up */
	SMTP_VERBS
};

struct smtp_command {
	enum smtp_verb verb;
	struct slice args; /* behind the verb and its blank, borrowed; trailing blanks are off */
};

/* `line` is without its CRLF. */
void smtp_command_parse(struct smtp_command *c, struct slice line);

/* What MAIL gives beside the address. */
enum smtp_body { SMTP_BODY_UNSAID, SMTP_BODY_7BIT, SMTP_BODY_8BITMIME };
struct smtp_mail {
	struct address sender;
	uint64_t size; /* SIZE=, 0 when not given; a number too large for us is UINT64_MAX */
	enum smtp_body body;
};

/* Each returns NULL, or the reply that refuses the command (without CRLF, static). `max_size`
 * bounds SIZE=. The address is borrowed from the arguments. */
const char *smtp_command_mail(struct slice args, uint64_t max_size, struct smtp_mail *out);
const char *smtp_command_rcpt(struct slice args, struct address *out);
/* The argument of EHLO and HELO: a domain or address literal, taken a little wider than the
 * grammar (underscores occur), never wider than what may stand in a header. */
const char *smtp_command_hello(struct slice args);
