/* quota: when reception stops, so that what is queued already always finds room to be finished. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/event_log/event_log.h"

/* At 85 % of a file system, of the store's map or of what the event log may have; of a large file system at
 * least this much is kept. */
#define QUOTA_PERCENT       85
#define QUOTA_RESERVE_BYTES (4ull << 30)
/* Once reached, it stays so until there is a little more. */
#define QUOTA_BACK_PERCENT  82

enum quota { QUOTA_FREE, QUOTA_DISK, QUOTA_MAP, QUOTA_EVENTS };

struct quota_facts {
	uint64_t disk_bytes, free_bytes;
	unsigned map_percent, events_percent;
};

/* What is used up, `before` being the last answer. */
enum quota quota_check(const struct quota_facts *f, enum quota before);
const char *quota_text(enum quota q); /* "disk", "map", "event-log"; "none" */
/* After `more` bytes on the file system of `fd` the quota of the disk is not reached. */
bool quota_has_room(int fd, uint64_t more);

/* Share of what the event log may have (a quarter of the disk, at most EVENT_LOG_FILES_MAX files, at least 4)
 * that lies between the oldest event somebody still has to read and the end, 0..100. */
unsigned quota_events_percent(struct event_position low, struct event_position end, uint64_t file_bytes, uint64_t disk_bytes);
