/* buf: a growing byte buffer; append at the end, consume at the front. */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

/* Embedded; zero-initialised is empty. Bytes in use are data[start .. start+len). */
struct buf {
	char *data;
	size_t start;
	size_t len;
	size_t cap;
};

void buf_init(struct buf *b);
void buf_clear(struct buf *b); /* frees; empty again */
void buf_reset(struct buf *b); /* keeps the memory */

/* Room for `n` more bytes at the end; write there, then buf_added(). */
char *buf_room(struct buf *b, size_t n);
void buf_added(struct buf *b, size_t n);

void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_slice(struct buf *b, struct slice s);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Takes `n` bytes off the front. */
void buf_consume(struct buf *b, size_t n);

static inline struct slice
buf_slice(const struct buf *b)
{
	return b->data == NULL ? SLICE_NONE : slice_of(b->data + b->start, b->len);
}
