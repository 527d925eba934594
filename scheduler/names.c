#include "scheduler/names.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits((keyptr), (keylen)))
#include <uthash.h>

#include "common/base/mem.h"

struct name {
	UT_hash_handle hh;
	uint32_t number;
	uint32_t bytes;
	char text[];
};

struct names {
	struct name *by_text;
	struct name **by_number;
	size_t cap;
	uint32_t highest;
};

struct names *
names_new(void)
{
	return mem_zalloc(sizeof(struct names));
}

void
names_free(struct names **np)
{
	struct names *n = *np;
	struct name *e, *next;

	if (n == NULL)
		return;
	HASH_ITER(hh, n->by_text, e, next)
	{
		HASH_DEL(n->by_text, e);
		mem_free(e);
	}
	mem_free(n->by_number);
	mem_free(n);
	*np = NULL;
}

static struct name *
find(const struct names *n, struct slice text)
{
	struct name *e = NULL;

	HASH_FIND(hh, n->by_text, text.p, text.n, e);
	return e;
}

void
names_reserve(struct names *n, uint32_t number)
{
	void *p = n->by_number;
	size_t before = n->cap;

	if (number <= n->highest)
		return;
	mem_grow(&p, &n->cap, (size_t)number + 1, sizeof *n->by_number);
	n->by_number = p;
	if (n->cap > before)
		memset(n->by_number + before, 0, (n->cap - before) * sizeof *n->by_number);
	n->highest = number;
}

void
names_restore(struct names *n, uint32_t number, struct slice text)
{
	struct name *e;

	if (number == 0 || find(n, text) != NULL)
		return;
	names_reserve(n, number);
	e = mem_alloc(sizeof *e + text.n + 1);
	e->number = number;
	e->bytes = (uint32_t)text.n;
	memcpy(e->text, text.p, text.n);
	e->text[text.n] = '\0';
	HASH_ADD_KEYPTR(hh, n->by_text, e->text, text.n, e);
	n->by_number[number] = e;
}

uint32_t
names_number(struct names *n, struct slice text, bool *is_new)
{
	struct name *e;

	*is_new = false;
	if (text.n == 0)
		return 0;
	e = find(n, text);
	if (e != NULL)
		return e->number;
	*is_new = true;
	names_restore(n, n->highest + 1, text);
	return n->highest;
}

uint32_t
names_find(const struct names *n, struct slice text)
{
	struct name *e = text.n > 0 ? find(n, text) : NULL;

	return e != NULL ? e->number : 0;
}

struct slice
names_get(const struct names *n, uint32_t number)
{
	if (number == 0 || number > n->highest || n->by_number[number] == NULL)
		return SLICE_NONE;
	return slice_of(n->by_number[number]->text, n->by_number[number]->bytes);
}
