/* header: one pass over the header section of a message on its way in: what is ours is read and cut
 * out, what counts hops is counted, nothing is copied. Works on the wire form (CRLF, unstuffed). */
#pragma once

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/str.h"

/* The fields that may be ours. */
enum header_field { HEADER_VIRTUAL_MTA, HEADER_JOB, HEADER_ENVID, HEADER_FIELDS };

/* What to do with each; all zero: only count. */
struct header_rules {
	bool process[HEADER_FIELDS]; /* read it, and cut it out */
	bool retain[HEADER_FIELDS];  /* ... but leave it where it is */
	const char *job_name;        /* NULL: "X-Job" */
	uint64_t max_hops;           /* Received fields above it are a loop */
};

enum header_flaw {
	HEADER_FINE,
	HEADER_LOOP,      /* more than max_hops Received fields */
	HEADER_TOO_BIG,   /* HEADER_BYTES_MAX, HEADER_LINE_MAX */
	HEADER_BAD_FIELD, /* a field of ours is not printable, too long, or a job with blanks */
	HEADER_TOO_MANY,  /* fields of ours repeated over and over */
};

#define HEADER_PIECES_MAX 16

struct header_value {
	bool given;
	uint16_t n; /* 0: given and empty */
	char text[X_HEADER_VALUE_MAX];
};

struct header_scan {
	enum header_flaw flaw;
	enum header_field bad; /* with HEADER_BAD_FIELD */
	unsigned received;
	bool date, message_id;                     /* such a field is there */
	size_t header_bytes;                       /* with the empty line where there is one */
	struct header_value values[HEADER_FIELDS]; /* the first of each; further ones are cut too */
	size_t n_pieces;                           /* what stays of the message, in order */
	struct slice pieces[HEADER_PIECES_MAX];
	uint64_t piece_bytes; /* their sum */
};

/* `message` is header and body together; the pieces borrow from it. The section ends at the first
 * empty line, or before the first line that is neither a field nor the continuation of one. */
void header_scan(struct header_scan *h, const struct header_rules *rules, struct slice message);

/* The reply that refuses a flaw, without CRLF; NULL for HEADER_FINE. */
const char *header_refusal(const struct header_scan *h);

static inline struct slice
header_value_slice(const struct header_value *v)
{
	return slice_of(v->text, v->n);
}

/* Appends our trace field (RFC 5321 4.4). `client` is the peer's IP or NULL to hide it, `date` in
 * RFC 5322 form, `id` the message id's text. */
struct header_trace {
	const char *helo; /* NULL: no "from" clause, to hide the source */
	const char *client;
	const char *host_name;
	const char *with; /* "SMTP", "ESMTP" */
	const char *id;
	const char *date;
};
void header_put_received(struct buf *out, const struct header_trace *t);
