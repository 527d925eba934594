#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/queue/segment.h"
#include "common/queue/segment_file.h"

/* Maps kept without a pin. A map costs a descriptor and address space, no memory of its own. */
#define CACHE_KEPT 64

struct cached {
	struct segment_ref ref;
	unsigned pins;
	uint64_t used; /* turn of the last segment_get() */
};

struct segment_cache {
	int dir;
	unsigned char instance[16];
	struct cached *items;
	size_t n, cap;
	uint64_t turn;
};

struct segment_cache *
segment_cache_new(int dir, const unsigned char instance[16])
{
	struct segment_cache *c = mem_zalloc(sizeof *c);

	c->dir = dir;
	memcpy(c->instance, instance, sizeof c->instance);
	return c;
}

static void
forget(struct segment_cache *c, size_t i)
{
	struct cached *item = &c->items[i];

	munmap((void *)(uintptr_t)item->ref.bytes.p, item->ref.bytes.n);
	close(item->ref.fd);
	*item = c->items[--c->n];
}

void
segment_cache_free(struct segment_cache **c)
{
	if (*c == NULL)
		return;
	while ((*c)->n > 0)
		forget(*c, (*c)->n - 1);
	mem_free((*c)->items);
	mem_free(*c);
	*c = NULL;
}

/* Still the life that was mapped? The map shows the file's present header. */
static bool
still_valid(const struct segment_cache *c, const struct cached *item)
{
	struct segment_info info;

	return segment_header_decode(item->ref.bytes, item->ref.number, c->instance, &info) == 0 &&
	       info.epoch == item->ref.epoch;
}

static void
evict(struct segment_cache *c)
{
	size_t oldest = SIZE_MAX;

	for (size_t i = 0; i < c->n; i++) {
		if (c->items[i].pins == 0 &&
		    (oldest == SIZE_MAX || c->items[i].used < c->items[oldest].used))
			oldest = i;
	}
	if (oldest != SIZE_MAX)
		forget(c, oldest);
}

static int
map(struct segment_cache *c, uint32_t number, uint64_t epoch, struct segment_ref *out)
{
	struct segment_info info;
	void *p;
	int fd = segment_file_open(c->dir, number, O_RDONLY, c->instance, &info);

	if (fd < 0)
		return fd;
	if (info.epoch != epoch) {
		close(fd);
		return -E_MISSING;
	}
	p = mmap(NULL, info.bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		int rc = -err_errno();

		close(fd);
		return rc;
	}
	*out = (struct segment_ref){
		.number = number, .epoch = epoch, .fd = fd, .bytes = slice_of(p, info.bytes)
	};
	return 0;
}

int
segment_get(struct segment_cache *c, uint32_t number, uint64_t epoch, struct segment_ref *out)
{
	struct cached *item;
	int rc;

	c->turn++;
	for (size_t i = 0; i < c->n; i++) {
		item = &c->items[i];
		if (item->ref.number != number)
			continue;
		if (item->ref.epoch == epoch && still_valid(c, item)) {
			item->pins++;
			item->used = c->turn;
			*out = item->ref;
			return 0;
		}
		if (item->pins == 0)
			forget(c, i--); /* of an earlier life */
	}
	if (c->n >= CACHE_KEPT)
		evict(c);
	mem_grow((void **)&c->items, &c->cap, c->n + 1, sizeof *c->items);
	item = &c->items[c->n];
	rc = map(c, number, epoch, &item->ref);
	if (rc != 0)
		return rc;
	c->n++;
	item->pins = 1;
	item->used = c->turn;
	*out = item->ref;
	return 0;
}

void
segment_put(struct segment_cache *c, uint32_t number, uint64_t epoch)
{
	for (size_t i = 0; i < c->n; i++) {
		struct cached *item = &c->items[i];

		if (item->ref.number != number || item->ref.epoch != epoch || item->pins == 0)
			continue;
		if (--item->pins == 0 && c->n > CACHE_KEPT)
			forget(c, i);
		return;
	}
	CHECK(!"put of a segment that is not pinned");
}
