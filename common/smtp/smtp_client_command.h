/* smtp_client_command: the client's command lines; every foreign byte is checked where it is
 * written. */
#pragma once

#include <stdbool.h>

#include "common/base/buf.h"
#include "common/base/str.h"

/* True when `address` (without brackets) can stand in a command: no controls, at most
 * SMTP_PATH_MAX with its brackets, blanks and brackets only within quotes, quotes closed. */
bool smtp_client_address_ok(struct slice address);
/* True when it needs SMTPUTF8 (RFC 6531). */
bool smtp_client_address_utf8(struct slice address);
/* True when `name` can stand behind EHLO: printable ASCII without blanks, 1..255 bytes. */
bool smtp_client_helo_ok(struct slice name);

struct smtp_client_mail {
	struct slice sender; /* empty: the null sender */
	bool with_size;
	uint64_t size;
	bool body_8bit;
	bool utf8;
};

/* Append one line each. Addresses must have passed the checks above. */
void smtp_client_put_mail(struct buf *out, const struct smtp_client_mail *m);
void smtp_client_put_rcpt(struct buf *out, struct slice address);
