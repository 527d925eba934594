/* quota: when reception stops, so that what is queued already always finds room to be finished. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* At 85 % of a file system or of the store's map; of a large file system at least this much is
 * kept. */
#define QUOTA_PERCENT       85
#define QUOTA_RESERVE_BYTES (4ull << 30)

/* `free_bytes` of a file system of `disk_bytes`, and the share of the map in use. */
bool quota_is_reached(uint64_t disk_bytes, uint64_t free_bytes, unsigned map_percent);
/* The same of the file system of `fd`; false when it cannot be asked. */
bool quota_is_reached_at(int fd, unsigned map_percent);
