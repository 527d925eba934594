/* sink_body: the bytes between DATA's 354 and the final dot: finds the end, undoes the dot
 * stuffing, hashes the body, takes the message key out of the header, counts wire faults. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

#define SINK_KEY_BYTES  72  /* kept of an X-Load-Id, with NUL */
#define SINK_HEAD_BYTES 128 /* kept of a header line to recognise it */
#define SINK_LINE_MAX   998 /* RFC 5321 4.5.3.1.6, without CRLF */

/* What no honest client sends (RFC 5321 2.3.8, 4.1.1.4, 4.5.2). */
#define SINK_FAULTS(X)                                                                             \
	X(bare_cr)                                                                                 \
	X(bare_lf)                                                                                 \
	X(nul)                                                                                     \
	X(long_lines)                                                                              \
	X(unstuffed_dot)                                                                           \
	X(eight_bit)

struct sink_faults {
#define X(name) uint64_t name;
	SINK_FAULTS(X)
#undef X
};

/* Opaque but for embedding: only sink_body.c looks inside. */
struct sink_body {
	uint64_t hash[11]; /* an XXH64_state_t: v1 total, v1..v4, memory, counters */
	struct sink_faults faults;
	uint64_t bytes;    /* content after unstuffing, header and body */
	uint64_t cr_total; /* all CR; those of line ends are taken off at the end */
	uint64_t line_ends;
	uint64_t line_bytes; /* of the line under way */
	int state;
	bool in_header;
	size_t head_n;
	char head[SINK_HEAD_BYTES];
	char key[SINK_KEY_BYTES];
};

void sink_body_init(struct sink_body *b);

/* Takes bytes up to and with the end `CRLF . CRLF`; returns how many, sets *done at the end. */
size_t sink_body_feed(struct sink_body *b, const char *p, size_t n, bool *done);

/* After the end: XXH64 (seed 0) of what follows the first empty line; the key, "-" without one. */
uint64_t sink_body_hash(const struct sink_body *b);
const char *sink_body_key(const struct sink_body *b);
