/* load_mail: the messages of a load run. Message `number` of a plan is always the same: its size,
 * domain, recipients, virtual MTA and body follow from the seed and the number. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/buf.h"

#define LOAD_ID_BYTES 40
#define LOAD_SIZE_MIX                                                                              \
	0 /* half 2 KiB, a third 8 KiB, the rest 20 KiB and one in a hundred 100 KiB */
#define LOAD_SIZE_MAX  (64u << 20)
#define LOAD_RCPTS_MAX 10000

struct load_pool; /* opaque: the lines of which bodies are cut */

struct load_plan {
	uint64_t seed;
	const char *tag;   /* front part of ids; unique per run */
	size_t size_bytes; /* of header and body, met to within a line; or LOAD_SIZE_MIX */
	char **domains;
	size_t n_domains;
	char **vmtas; /* X-Virtual-MTA in turn; n 0: none */
	size_t n_vmtas;
	const char *job;    /* X-Job, "%d" for the message's number; or NULL */
	const char *sender; /* envelope and From: */
	unsigned rcpts;     /* of each message, all of one domain */
	bool spread;        /* ... of as many domains in turn */
	bool eight_bit;     /* says so in the header; the pool must be made so too */
	struct load_pool *pool;
};

/* `eight_bit`: some lines hold UTF-8 above 0x7f. Some lines begin with a dot. */
struct load_pool *load_pool_new(uint64_t seed, bool eight_bit);
void load_pool_free(struct load_pool **p);

/* One message, ready to be sent; `head` grows once and is used again. */
struct load_mail {
	uint64_t number;
	char id[LOAD_ID_BYTES];
	struct buf head;        /* header, empty line, first body line */
	size_t bytes;           /* of header and body, before dot stuffing */
	uint64_t hash;          /* XXH64 (seed 0) of the body as plain text with CRLF */
	const char *lap, *rest; /* wire form: `laps` times lap, then rest */
	size_t lap_n, rest_n, laps;
	size_t wire_bytes; /* all that goes over the wire, with the final dot */
};

/* `date`: an RFC 5322 date-time for the header. */
void load_mail_make(struct load_mail *m, const struct load_plan *plan, uint64_t number,
		    const char *date);
void load_mail_clear(struct load_mail *m);

/* The wire bytes from `offset` on as at most `max` pieces; returns how many. */
int load_mail_pieces(const struct load_mail *m, size_t offset, struct iovec *iov, int max);

/* Appends the address of recipient `k` of message `number`; no two are equal. */
void load_rcpt_put(struct buf *b, const struct load_plan *plan, uint64_t number, unsigned k);
