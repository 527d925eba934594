#include "resolver/route_cache.h"

#include <sys/queue.h>
#include <uthash.h>

#include "common/base/check.h"
#include "common/base/mem.h"

struct entry {
	UT_hash_handle hh;
	TAILQ_ENTRY(entry) link; /* of the list by use, least first */
	char *key;
	char *text;
	struct cached_route route;
};
TAILQ_HEAD(entry_list, entry);

struct route_cache {
	struct route_object *object;
	struct entry *table;
	struct entry_list by_use;
	uint32_t free_slots[ROUTE_SLOTS]; /* a ring: what was free longest is used first */
	uint32_t first_free, n_free;
	uint64_t next_generation;
};

int
route_cache_open(struct route_cache **out, int routes_fd, uint64_t starts)
{
	struct route_cache *c = mem_zalloc(sizeof *c);
	int rc = route_object_map(&c->object, routes_fd, 1);

	if (rc != 0) {
		mem_free(c);
		return rc;
	}
	TAILQ_INIT(&c->by_use);
	for (uint32_t i = 0; i < ROUTE_SLOTS; i++)
		c->free_slots[i] = i;
	c->n_free = ROUTE_SLOTS;
	c->next_generation = (starts << 32) + 1;
	*out = c;
	return 0;
}

static void
give_slot(struct route_cache *c, uint32_t slot)
{
	CHECK(c->n_free < ROUTE_SLOTS);
	c->free_slots[(c->first_free + c->n_free++) % ROUTE_SLOTS] = slot;
}

static void
forget(struct route_cache *c, struct entry *e)
{
	HASH_DEL(c->table, e);
	TAILQ_REMOVE(&c->by_use, e, link);
	give_slot(c, e->route.slot);
	mem_free(e->key);
	mem_free(e->text);
	mem_free(e);
}

static uint32_t
take_slot(struct route_cache *c)
{
	uint32_t slot;

	if (c->n_free == 0) {
		struct entry *least = TAILQ_FIRST(&c->by_use);

		CHECK(least != NULL); /* each slot is free or an entry's */
		forget(c, least);
	}
	slot = c->free_slots[c->first_free];
	c->first_free = (c->first_free + 1) % ROUTE_SLOTS;
	c->n_free--;
	return slot;
}

static struct entry *
find(struct route_cache *c, struct slice key)
{
	struct entry *e;

	HASH_FIND(hh, c->table, key.p, (unsigned)key.n, e);
	return e;
}

bool
route_cache_get(struct route_cache *c, struct slice key, uint64_t boot_us, struct cached_route *out)
{
	struct entry *e = find(c, key);

	if (e == NULL || e->route.expires_boot_us <= boot_us)
		return false;
	TAILQ_REMOVE(&c->by_use, e, link);
	TAILQ_INSERT_TAIL(&c->by_use, e, link);
	*out = e->route;
	out->text = e->text;
	return true;
}

void
route_cache_put(struct route_cache *c, struct slice key, uint64_t boot_us, struct lookup_result *r,
		struct cached_route *out)
{
	struct entry *e = find(c, key);
	uint32_t slot;

	/* The former slot goes to the end of the line before one is taken: with all slots in use it
	 * is this one. */
	if (e != NULL)
		forget(c, e);
	slot = take_slot(c);
	e = mem_zalloc(sizeof *e);
	e->key = mem_memdup0(key.p, key.n);
	e->text = mem_strdup(r->text);
	r->route.generation = c->next_generation++;
	r->route.expires_boot_us = boot_us + r->ttl_us;
	route_put(c->object, slot, &r->route);
	e->route = (struct cached_route){
		.slot = slot,
		.generation = r->route.generation,
		.expires_boot_us = r->route.expires_boot_us,
		.status = r->route.status,
		.n_targets = r->route.n_targets,
	};
	HASH_ADD_KEYPTR(hh, c->table, e->key, (unsigned)key.n, e);
	TAILQ_INSERT_TAIL(&c->by_use, e, link);
	*out = e->route;
	out->text = e->text;
}

void
route_cache_empty(struct route_cache *c)
{
	struct entry *e;

	while ((e = TAILQ_FIRST(&c->by_use)) != NULL)
		forget(c, e);
}

void
route_cache_close(struct route_cache **cp)
{
	struct route_cache *c = *cp;

	if (c == NULL)
		return;
	route_cache_empty(c);
	route_object_unmap(&c->object);
	mem_free(c);
	*cp = NULL;
}
