/* sink_promise: a message's envelope, and the ledger lines that stand for it: prepared when the dot
 * is answered by 2xx, moved to the ledger when that answer is out, or marked when it never was.
 * Pure but for the log. */
#pragma once

#include "bench/sink/sink_body.h"
#include "bench/sink/sink_log.h"

/* Embedded; zero-initialised is empty. */
struct sink_promise {
	struct buf envelope; /* sender NUL recipient NUL ... */
	size_t n_rcpts;
	struct buf lines; /* prepared, each without its time */
	bool made;        /* lines wait for the answer to be out */
};

void sink_promise_clear(struct sink_promise *p);

/* A new envelope; lines that wait stay. */
void sink_promise_forget(struct sink_promise *p);
void sink_promise_sender(struct sink_promise *p, struct slice sender);
void sink_promise_rcpt(struct sink_promise *p, struct slice rcpt);
struct slice sink_promise_first_rcpt(const struct sink_promise *p); /* empty without any */

/* Prepares the lines of the envelope: ` provider peer key recipient hash bytes sender`. */
void sink_promise_make(struct sink_promise *p, const char *provider, const char *peer,
		       const struct sink_body *b);
/* Moves them to the log, each with `word` and the time in front. Returns how many. */
size_t sink_promise_write(struct sink_promise *p, struct sink_log *log, const char *word,
			  uint64_t now_us);
