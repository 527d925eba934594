/* small: bounds for the simulator's own build: files that fill, rings that overflow and numbers
 * that run out within some hundred messages. Included before everything else (-include). */
#pragma once

#include "common/base/limits.h"
#include "scheduler/core/core.h"

#undef SEGMENT_BYTES
#define SEGMENT_BYTES (16u << 10)
#undef EVENT_FILE_BYTES
#define EVENT_FILE_BYTES (32u << 10)
#undef STORE_MAP_BYTES
#define STORE_MAP_BYTES (32ull << 20)
#undef RING_ENTRIES
#define RING_ENTRIES 32
#define REDIRECT_FEW 0 /* a redirect also of a single entry */
#undef CORE_CONNECTIONS_MAX
#define CORE_CONNECTIONS_MAX 64
