/* event_reader: what the writer needs of a reader when it looks for the end of the log. */
#pragma once

#include "common/event_log/event_log.h"

/* Where the next event would be read, and the lsn it must have (0: none was read, any). */
struct event_position event_reader_position(const struct event_reader *r);
uint64_t event_reader_next_lsn(const struct event_reader *r);
