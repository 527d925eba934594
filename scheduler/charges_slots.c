/* charges: the slots of the file: made, used, freed, found again. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/base/err.h"
#include "scheduler/charges_impl.h"
#include "scheduler/core/rate.h"

/* Slots -------------------------------------------------------------------------------------- */
static void
charges_push_free(struct charges *c, struct slot *s, uint32_t id, int size)
{
	charges_put(&s->word, 0);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	s->lo = c->free[size];
	c->free[size] = id;
}

/* The file gets one more extent. Blocks are taken here, where running out of them is an error; a
 * write to a hole of a mapped file on a full disk would be a signal. */
static int
grow(struct charges *c, int size)
{
	off_t at = (off_t)(HEADER_BYTES + (size_t)c->n_extents * EXTENT_BYTES);
	struct extent *e;
	int rc;

	if (c->n_extents == EXTENTS_MAX)
		return -E_FULL;
	do {
		rc = posix_fallocate(c->fd, at, EXTENT_BYTES);
	} while (rc == EINTR);
	if (rc != 0)
		return -E_FULL;
	e = (void *)extent_at(c, c->n_extents);
	e->size = sizes[size];
	e->magic = EXTENT_MAGIC;
	e->crc = extent_crc(e);
	for (uint32_t i = extent_slots(sizes[size]); i-- > 0;) {
		uint32_t id = c->n_extents << 12 | i;

		charges_push_free(c, slot_of(c, id), id, size);
	}
	c->n_extents++;
	c->counts.bytes = HEADER_BYTES + (uint64_t)c->n_extents * EXTENT_BYTES;
	return 0;
}

/* A slot of that size whose rate is zeros; not in use before charges_begin_use(). */
struct slot *
charges_new_slot(struct charges *c, int size)
{
	struct slot *s;

	if (c->free[size] == NO_SLOT && grow(c, size) != 0)
		return NULL;
	s = slot_of(c, c->free[size]);
	c->free[size] = (uint32_t)s->lo;
	memset(s->rate, 0, sizes[size]);
	return s;
}

void
charges_begin_use(struct charges *c, struct slot *s, uint64_t hi, uint64_t lo)
{
	s->hi = hi;
	s->lo = lo;
	charges_put(&s->word, slot_word(s, c->next_seq));
	c->next_seq = c->next_seq == UINT32_MAX ? 1 : c->next_seq + 1;
	c->counts.slots++;
}

void
charges_end_use(struct charges *c, struct slot *s)
{
	uint32_t id = id_of(c, s);

	charges_push_free(c, s, id, size_index(size_of(c, id)));
	c->counts.slots--;
}

/* A slot that was found in use. */
static void
found_slot(struct charges *c, struct slot *s, uint32_t id, uint64_t boot_us)
{
	uint64_t key = map_key(s->hi, s->lo), other = map_get(&c->found, key);
	uint32_t seq = (uint32_t)s->word;

	if (s->word != slot_word(s, seq)) {
		c->counts.damaged++;
		c->damaged_us = boot_us;
		charges_push_free(c, s, id, size_index(size_of(c, id)));
		return;
	}
	c->counts.slots++;
	if (seq >= c->next_seq)
		c->next_seq = seq + 1;
	if (other != MAP_NONE) {
		struct slot *o = slot_of(c, (uint32_t)other);

		if ((uint32_t)o->word < seq) {
			charges_end_use(c, s);
			return;
		}
		charges_end_use(c, o);
	}
	if (!rate_whole(s->rate, size_of(c, id), boot_us)) {
		c->counts.damaged++;
		rate_unknown(s->rate, boot_us, UINT64_MAX, 0);
	}
	map_put(&c->found, key, id);
}

void
charges_scan(struct charges *c, uint64_t boot_us)
{
	for (uint32_t x = 0; x < c->n_extents; x++) {
		struct extent *e = (void *)extent_at(c, x);
		int size = size_index(e->size);

		if (e->magic != EXTENT_MAGIC || e->crc != extent_crc(e) || size < 0 ||
		    sizes[size] != e->size) {
			/* All zeros: the process died before it was begun. */
			if (e->magic != 0 || e->size != 0 || e->crc != 0) {
				c->counts.damaged++;
				c->damaged_us = boot_us;
			}
			size = 0;
			memset(e, 0, EXTENT_BYTES);
			e->size = sizes[size];
			e->magic = EXTENT_MAGIC;
			e->crc = extent_crc(e);
		}
		for (uint32_t i = extent_slots(e->size); i-- > 0;) {
			uint32_t id = x << 12 | i;
			struct slot *s = slot_of(c, id);

			if (s->word == 0)
				charges_push_free(c, s, id, size);
			else
				found_slot(c, s, id, boot_us);
		}
	}
	c->counts.unclaimed = c->found.n;
}
