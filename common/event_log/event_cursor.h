/* event_cursor: how far the recorder has come, as its file (recorder/cursor.h) begins. Who starts before
 * it learns here which files of the log it has done with. */
#pragma once

#include "common/base/buf.h"
#include "common/event_log/event_log.h"

#define EVENT_CURSOR_NAME    "acct"
#define EVENT_CURSOR_MAGIC   0x3152434cu /* "LCR1" */
#define EVENT_CURSOR_VERSION 2

/* Events before *at are recorded durably. *version: 1 .. EVENT_CURSOR_VERSION. *bytes: the checked file; *rest: what it says behind the position,
 * borrowed from it. 0, -E_MISSING (none yet), -E_CRC, -E_FORMAT, -E_IO; *bytes is the caller's to clear. */
int event_cursor_load(int cursors_fd, struct buf *bytes, uint32_t *version, struct event_position *at,
		      struct slice *rest);
/* The position alone, and the lsn of the event there (0: not known). */
int event_cursor_position(int cursors_fd, struct event_position *at, uint64_t *lsn);
