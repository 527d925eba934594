/* sink_log: a line file written in large pieces: the ledger, the trace, the list of connections.
 * Lost at a kill is at most what came since the last flush (the main program's: 100 ms). */
#pragma once

#include "common/base/buf.h"

struct sink_log {
	int fd; /* -1: nobody asked for this file */
	struct buf buf;
};

/* `path` NULL: a log that drops everything. Truncates. 0 or -E_*. */
int sink_log_open(struct sink_log *l, const char *path);
static inline bool
sink_log_wanted(const struct sink_log *l)
{
	return l->fd >= 0;
}
/* The caller has appended whole lines to l->buf; writes when they have grown large. */
void sink_log_added(struct sink_log *l);
void sink_log_flush(struct sink_log *l);
void sink_log_close(struct sink_log *l);

/* One field of a line: blanks, controls and `\` become \xNN; an empty one becomes `<>`. */
void sink_log_field(struct buf *b, struct slice s);
/* A number, quicker than printf; it is written for every message. */
void sink_log_u64(struct buf *b, uint64_t v);
void sink_log_hex64(struct buf *b, uint64_t v);
