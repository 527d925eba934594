#include "common/conf/conf_arena.h"

#include <stdint.h>

#include "common/base/check.h"
#include "common/base/mem.h"

#define CHUNK_BYTES ((size_t)64 << 10)
#define ALIGN       ((size_t)16)

struct conf_arena_chunk {
	struct conf_arena_chunk *next;
	_Alignas(16) char bytes[];
};

void *
conf_arena_zalloc(struct conf_arena *a, size_t bytes)
{
	void *p;

	CHECK(bytes < SIZE_MAX / 4);
	bytes = (bytes + ALIGN - 1) & ~(ALIGN - 1);
	if (a->chunks == NULL || a->room - a->used < bytes) {
		size_t usual = a->chunk_bytes != 0 ? a->chunk_bytes : CHUNK_BYTES;
		size_t room = bytes > usual ? bytes : usual;
		struct conf_arena_chunk *c = mem_zalloc(sizeof *c + room);

		c->next = a->chunks;
		a->chunks = c;
		a->room = room;
		a->used = 0;
	}
	p = a->chunks->bytes + a->used;
	a->used += bytes;
	return p;
}

const char *
conf_arena_str(struct conf_arena *a, struct slice s)
{
	char *p = conf_arena_zalloc(a, s.n + 1);

	if (s.n > 0)
		memcpy(p, s.p, s.n);
	return p;
}

void
conf_arena_clear(struct conf_arena *a)
{
	while (a->chunks != NULL) {
		struct conf_arena_chunk *next = a->chunks->next;

		mem_free(a->chunks);
		a->chunks = next;
	}
	a->used = a->room = 0;
}
