/* record: one message on disk: a 64-byte header, the envelope, the body in wire form.
 *
 *   offset 0   header (little endian)
 *              u32 magic  u16 version  u16 flags  u64 epoch  u64 message id  u32 envelope bytes
 *              u32 content CRC32C (envelope, body)  u64 body bytes  u64 received wall µs
 *              u64 total bytes, padded to 16  u32 reserved  u32 header CRC32C (of the 60 before)
 *   offset 64  envelope: length-prefixed fields (record.c)
 *   then       body: CRLF wire form, not dot-stuffed
 *
 * Upgrade: a new field of the envelope goes to its end and bumps RECORD_VERSION; a reader takes what
 * its version knows and skips the rest. The epoch stands in the header alone so that a record can be
 * encoded before its place in a segment is known. Pure: no I/O. */
#pragma once

#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/ids.h"
#include "common/base/str.h"

#define RECORD_MAGIC        0x3143524cu /* "LRC1" */
#define RECORD_VERSION      1
#define RECORD_HEADER_BYTES 64
#define RECORD_ALIGN        16

enum record_flags {
	RECORD_DOT_LINES = 1, /* some line of the body begins with a dot: stuff it on the way out */
	RECORD_8BIT = 2,      /* BODY=8BITMIME or bytes above 0x7f */
};

/* One entry of the message: recipients first .. first+count-1, all of one queue. */
struct record_entry {
	struct slice domain; /* of its queue: the recipient domain or where its queue-to leads; lower case */
	uint32_t first;
	uint32_t count;
};

/* All slices borrowed. */
struct record_envelope {
	msg_id_t id;
	uint64_t received_wall_us;
	struct slice sender;   /* without brackets; empty is the null sender */
	struct slice src_mta;  /* "helo (ip)", accounting's srcMta */
	struct slice src_ip;   /* rcvSourceIp */
	struct slice dst_ip;   /* rcvDestinationIp */
	struct slice user;     /* rcvSmtpUser, empty */
	struct slice vmta;     /* the member that was chosen; "{default}" */
	struct slice pool;     /* the pool that was asked for, empty: none */
	struct slice job;
	struct slice envid;
	uint32_t n_rcpts;
	const struct slice *rcpts; /* addresses without brackets, grouped by entry */
	uint16_t n_entries;
	const struct record_entry *entries;
};

/* Appends header and envelope to *out (epoch 0, CRCs filled in for the body given in pieces). The
 * record on disk is *out, then the body pieces, then record_padding() zero bytes. */
void record_encode(struct buf *out, const struct record_envelope *env, unsigned flags,
		   const struct slice *body, size_t n_body);
/* Writes the epoch into an encoded header (64 bytes at p) and renews the header's CRC. */
void record_stamp(void *p, uint64_t epoch);
/* Total bytes on disk and the padding at their end. */
uint64_t record_total(uint64_t head_bytes, uint64_t body_bytes);
uint64_t record_padding(uint64_t head_bytes, uint64_t body_bytes);

struct record_header {
	uint64_t epoch;
	msg_id_t id;
	uint64_t received_wall_us;
	uint64_t body_bytes;
	uint64_t total_bytes;
	uint32_t envelope_bytes;
	uint32_t content_crc;
	unsigned flags;
};
/* Reads and checks 64 bytes. 0, -E_CRC, -E_FORMAT or -E_BAD (lengths that cannot be). */
int record_header_decode(struct slice s, struct record_header *out);

/* A decoded record; slices point into the bytes it was decoded from, arrays are owned. */
struct record {
	struct record_header header;
	struct record_envelope env;
	struct slice body;
	struct slice *rcpts_owned;
	struct record_entry *entries_owned;
};
/* Decodes the record at the start of `s` (may be longer): checks header, epoch (unless 0), id (unless
 * 0), content CRC over envelope and body. 0 or -E_CRC, -E_FORMAT, -E_BAD. On success record_clear(). */
int record_decode(struct record *out, struct slice s, uint64_t epoch, msg_id_t id);
/* The same from the envelope alone, body not read and content CRC not checked. */
int record_decode_envelope(struct record *out, struct slice s, uint64_t epoch, msg_id_t id);
void record_clear(struct record *r);
