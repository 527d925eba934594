/* wire: little-endian fields into and out of bytes, with a sticky error: check once at the end. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"

/* Writing appends to a buf. */
void wire_put_u8(struct buf *b, uint8_t v);
void wire_put_u16(struct buf *b, uint16_t v);
void wire_put_u32(struct buf *b, uint32_t v);
void wire_put_u64(struct buf *b, uint64_t v);
/* u32 length, then the bytes. */
void wire_put_bytes(struct buf *b, struct slice s);

/* Reading: past the end gives 0 or an empty slice and sets `bad` for good. */
struct wire_reader {
	const unsigned char *p;
	const unsigned char *end;
	bool bad;
};

void wire_read_init(struct wire_reader *r, struct slice s);
uint8_t wire_u8(struct wire_reader *r);
uint16_t wire_u16(struct wire_reader *r);
uint32_t wire_u32(struct wire_reader *r);
uint64_t wire_u64(struct wire_reader *r);
/* Borrowed from the input; `max` bounds the length, longer is bad. */
struct slice wire_bytes(struct wire_reader *r, size_t max);
struct slice wire_raw(struct wire_reader *r, size_t n);
size_t wire_left(const struct wire_reader *r);
/* True when nothing went wrong and nothing is left over. */
bool wire_done(const struct wire_reader *r);
