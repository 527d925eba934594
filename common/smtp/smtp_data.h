/* smtp_data: the body of a message on its way in: dots unstuffed, the end found, nothing copied.
 *
 * Only CRLF.CRLF ends it (RFC 5321 4.1.1.4). A bare CR, a bare LF or a NUL is read over up to that
 * end and remembered as a flaw: what two servers could read in two ways is refused as a whole. */
#pragma once

#include "common/base/str.h"

/* Flaws: any of them means that the message is to be refused. */
enum {
	SMTP_DATA_BARE_CR = 1,
	SMTP_DATA_BARE_LF = 2,
	SMTP_DATA_NUL = 4,
	SMTP_DATA_TOO_BIG = 8,
};

enum smtp_data_step {
	SMTP_DATA_MORE, /* the input is used up; there is no run */
	SMTP_DATA_RUN,  /* *run holds body bytes; call again */
	SMTP_DATA_END,  /* the final dot is taken; what is left of the input is behind it */
};

struct smtp_data {
	uint64_t bytes; /* of the body so far, unstuffed */
	uint64_t limit;
	unsigned flaws;
	bool dot_line;  /* some line of the body begins with a dot */
	bool eight_bit; /* some byte of it is above 127 */
	unsigned char state;
};

void smtp_data_init(struct smtp_data *d, uint64_t limit);

/* Takes from the front of *in. A run is borrowed from the input, in wire form (CRLF, unstuffed).
 * After the first flaw there are no more runs: the rest is only read over. */
enum smtp_data_step smtp_data_next(struct smtp_data *d, struct slice *in, struct slice *run);
