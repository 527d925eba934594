/* smtp_reply: one reply of a peer, bytes in, line by line (RFC 5321 4.2, RFC 3463).
 *
 * Every bound is in limits.h: REPLY_LINE_MAX a line, REPLY_LINES_MAX lines, REPLY_READ_MAX bytes,
 * REPLY_KEPT_MAX bytes of text kept. What is not a reply is an error and stays one: it is neither a
 * success nor a refusal. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/str.h"
#include "common/mail/verdict.h"

struct smtp_reply {
	uint16_t code; /* 200..599; 0 before the first line */
	uint16_t lines;
	uint32_t bytes;                 /* read for this reply */
	struct verdict_status enhanced; /* of the first line, where its class is the code's */
	uint16_t text_n;
	/* `550 5.7.1 first second`: code once, enhanced code once, the lines' texts joined by one
	 * blank, what is not printable UTF-8 replaced by `?`; cut at REPLY_KEPT_MAX. No NUL. */
	char text[REPLY_KEPT_MAX];
	struct buf partial; /* a line without its end yet */
};

enum smtp_reply_step {
	SMTP_REPLY_MORE,     /* all bytes taken, the reply goes on */
	SMTP_REPLY_LINE,     /* a line ended, another one follows: call again with the rest */
	SMTP_REPLY_DONE,     /* the last line ended */
	SMTP_REPLY_GARBAGE,  /* not a reply: bad code, mixed codes, bare CR or LF, NUL */
	SMTP_REPLY_TOO_LONG, /* a bound was passed */
};

/* Zero-initialised is ready too. Keeps the memory of a partial line. */
void smtp_reply_begin(struct smtp_reply *r);
void smtp_reply_clear(struct smtp_reply *r);

/* Takes bytes up to the end of one line; *used says how many. After LINE and DONE *text is that
 * line's text behind the code, unchanged, valid until the next call. After DONE call
 * smtp_reply_begin() before more bytes. */
enum smtp_reply_step smtp_reply_feed(struct smtp_reply *r, struct slice in, size_t *used,
				     struct slice *text);

/* Bytes were taken since smtp_reply_begin(). */
static inline bool
smtp_reply_begun(const struct smtp_reply *r)
{
	return r->bytes > 0;
}

static inline struct slice
smtp_reply_text(const struct smtp_reply *r)
{
	return slice_of(r->text, r->text_n);
}
