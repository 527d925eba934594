#include "common/base/buf.h"

#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"

void
buf_init(struct buf *b)
{
	memset(b, 0, sizeof *b);
}

void
buf_clear(struct buf *b)
{
	mem_free(b->data);
	buf_init(b);
}

void
buf_reset(struct buf *b)
{
	b->start = b->len = 0;
}

static __attribute__((noinline)) char *
make_room(struct buf *b, size_t n)
{
	CHECK(n < SIZE_MAX / 4);
	if (b->data == NULL && n == 0)
		n = 1; /* a place to point at */
	if (b->start + b->len + n > b->cap) {
		if (b->start > 0) {
			memmove(b->data, b->data + b->start, b->len);
			b->start = 0;
		}
		if (b->len + n > b->cap) {
			void *p = b->data;

			mem_grow(&p, &b->cap, b->len + n, 1);
			b->data = p;
		}
	}
	return b->data + b->start + b->len;
}

/* Mostly there is room. */
static inline char *
room(struct buf *b, size_t n)
{
	if (b->data == NULL || n > b->cap - b->start - b->len)
		return make_room(b, n);
	return b->data + b->start + b->len;
}

char *
buf_room(struct buf *b, size_t n)
{
	return room(b, n);
}

void
buf_added(struct buf *b, size_t n)
{
	CHECK(b->start + b->len + n <= b->cap);
	b->len += n;
}

void
buf_put(struct buf *b, const void *p, size_t n)
{
	if (n == 0)
		return;
	memcpy(room(b, n), p, n);
	b->len += n;
}

void
buf_put_slice(struct buf *b, struct slice s)
{
	buf_put(b, s.p, s.n);
}

void
buf_puts(struct buf *b, const char *s)
{
	buf_put(b, s, strlen(s));
}

void
buf_putc(struct buf *b, char c)
{
	*room(b, 1) = c;
	b->len++;
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	CHECK(n >= 0);
	va_start(ap, fmt);
	vsnprintf(buf_room(b, (size_t)n + 1), (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

void
buf_consume(struct buf *b, size_t n)
{
	CHECK(n <= b->len);
	b->start += n;
	b->len -= n;
	if (b->len == 0)
		b->start = 0;
}
