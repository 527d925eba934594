/* conf_arena: memory that is given back all at once, when the configuration is freed. */
#pragma once

#include <stddef.h>

#include "common/base/str.h"

struct conf_arena {
	struct conf_arena_chunk *chunks; /* newest first */
	size_t used, room;               /* of the newest */
	size_t chunk_bytes;              /* 0: many */
};

void *conf_arena_zalloc(struct conf_arena *a, size_t bytes); /* zeroed, aligned for anything */
/* A copy with a NUL behind it; bytes behind an inner NUL are kept but not seen. */
const char *conf_arena_str(struct conf_arena *a, struct slice s);
void conf_arena_clear(struct conf_arena *a);
