/* smtp_client_stuff: the body on its way out: dots doubled (RFC 5321 4.5.2), line ends proven. */
#pragma once

#include <stdbool.h>

#include "common/base/buf.h"
#include "common/base/str.h"

/* Embedded; zero-initialised is the beginning of a body. */
struct smtp_client_stuff {
	bool inside; /* the last byte was not a line's end */
	bool after_cr;
	bool flawed; /* a bare CR, a bare LF or a NUL was met: nothing may follow, least of all a
			dot */
};

/* Appends `body` to *out with each dot that begins a line doubled. A body may come in pieces cut
 * anywhere. False when it is flawed: what two servers could read in two ways is not sent. */
bool smtp_client_stuff_put(struct smtp_client_stuff *s, struct slice body, struct buf *out);

enum smtp_client_body_flags {
	SMTP_CLIENT_BODY_FLAWED = 1, /* a bare CR, a bare LF or a NUL */
	SMTP_CLIENT_BODY_DOT_LINES =
		2, /* some line begins with a dot: it needs smtp_client_stuff_put() */
	SMTP_CLIENT_BODY_OPEN_END = 4, /* not empty, and does not end in CRLF */
};

/* What a whole body is like, in one pass: the proof before bytes go from a file to a socket. */
unsigned smtp_client_body_scan(struct slice body);
