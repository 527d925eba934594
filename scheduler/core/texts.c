#include "scheduler/core/texts.h"

#include <stddef.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"

struct text {
	uint64_t key; /* where it stands in the map: its hash, or the first free number behind it */
	uint32_t refs;
	char s[];
};

/* FNV-1a; never MAP_NONE's neighbours, so that there is always a number behind. */
static uint64_t
hash_of(struct slice s)
{
	uint64_t h = 14695981039346656037ull;

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ (unsigned char)s.p[i]) * 1099511628211ull;
	return h >> 1;
}

const char *
texts_take(struct texts *t, struct slice s)
{
	uint64_t key = hash_of(s), found;
	struct text *x;

	while ((found = map_get(&t->by_hash, key)) != MAP_NONE) {
		x = (struct text *)(uintptr_t)found;
		if (strlen(x->s) == s.n && memcmp(x->s, s.p, s.n) == 0) {
			x->refs++;
			return x->s;
		}
		key++;
	}
	x = mem_alloc(sizeof(*x) + s.n + 1);
	x->key = key;
	x->refs = 1;
	memcpy(x->s, s.p, s.n);
	x->s[s.n] = '\0';
	map_put(&t->by_hash, key, (uint64_t)(uintptr_t)x);
	return x->s;
}

void
texts_drop(struct texts *t, const char *s)
{
	struct text *x;

	if (!s)
		return;
	x = (struct text *)(uintptr_t)(s - offsetof(struct text, s));
	CHECK(x->refs > 0);
	if (--x->refs > 0)
		return;
	CHECK(map_take(&t->by_hash, x->key) == (uint64_t)(uintptr_t)x);
	mem_free(x);
}

void
texts_clear(struct texts *t)
{
	for (size_t i = 0; i < t->by_hash.cap; i++) {
		if (t->by_hash.cells[i].value != MAP_NONE)
			mem_free((void *)(uintptr_t)t->by_hash.cells[i].value);
	}
	map_clear(&t->by_hash);
}
