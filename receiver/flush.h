/* flush: the thread that writes and syncs one group of records while the loop forms the next. */
#pragma once

#include <stdbool.h>
#include <sys/uio.h>

#include "common/event/loop.h"
#include "common/queue/segment.h"

struct flush;

/* `on_done` runs in the loop after each group; rc is 0 or -E_*, `offset` where the group begins. */
struct flush *flush_new(struct loop *loop, void (*on_done)(void *arg, int rc, uint64_t offset),
			void *arg);
void flush_free(struct flush **f); /* waits for a group on its way */

bool flush_is_busy(const struct flush *f);
/* Appends all of iov to the segment, then one fdatasync. Not while busy; writer and iov are the
 * thread's until on_done. */
void flush_start(struct flush *f, struct segment_writer *w, struct iovec *iov, size_t n);
