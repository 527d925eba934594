/* charges_impl: how the file lies on the disk, and its slots: for charges.c and charges_slots.c. */
#pragma once

#include "common/base/crc32c.h"
#include "scheduler/charges.h"
#include "scheduler/core/map.h"

#define MAGIC        0x31474843u /* "CHG1" */
#define EXTENT_MAGIC 0x31454843u
#define HEADER_BYTES 4096
#define EXTENT_BYTES (128u << 10)
#define EXTENT_HEAD  64
#define EXTENTS_MAX  32768
#define MAP_BYTES    (HEADER_BYTES + (size_t)EXTENTS_MAX * EXTENT_BYTES)
#define SLOT_HEAD    offsetof(struct slot, rate)
#define NO_SLOT      UINT32_MAX
#define TIME_BIAS    (UINT64_C(1) << 62)

/* Bytes of the rates of a slot; see rate_bytes(). */
static const uint16_t sizes[] = { 64, 96, 136, 216, 376, 696, 1080, 2160 };
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))
#define SLOT_MOST 2160 /* the largest of them */

/* As it lies in the file; native byte order, the file never leaves the machine. Up to `crc` it is
 * written once, before the file has its name. Upgrade: another VERSION; a file of the older one is
 * made anew as after a reboot, with all limits closed for a window. */
struct header {
	uint32_t magic, version;
	unsigned char instance[16];
	unsigned char boot_id[16];
	uint64_t since_us; /* first start under this boot, or where the file was made anew */
	uint64_t short_us; /* fresh rates with windows up to this are closed until since + window */
	/* The past. */
	unsigned char old_boot_id[16];
	uint64_t has_old;
	int64_t shift_us;
	uint64_t old_synced_us;
	struct event_position events;
	uint32_t crc_pad, crc;
	/* Changed by one store each. */
	uint64_t rebuilt;        /* 1: the past was counted */
	uint64_t unknown_before; /* + TIME_BIAS; 0: nothing is unknown to longer windows */
	uint64_t boot_us;        /* the clocks: this, */
	uint64_t wall_less_boot; /* and wall - boot */
	struct sync {
		uint64_t boot_us; /* what was charged up to here was on the disk */
		struct event_position events;
		uint32_t seq, crc;
	} syncs[2]; /* by turns */
};
_Static_assert(sizeof(struct header) <= HEADER_BYTES, "the header is one page");

struct extent {
	uint32_t magic, size; /* bytes of a rate */
	uint32_t crc;
};

/* `word` is written last: a sequence number and a CRC32C of it and the key; 0: free. Of two slots
 * with one key the older one counts: it is freed when the newer one is whole. */
struct slot {
	uint64_t hi, lo; /* free: lo is the number of the next free one */
	uint64_t word;
	uint64_t rate[];
};

struct charges {
	int fd;
	unsigned char *base;
	struct header *h;
	uint32_t n_extents;
	uint32_t next_seq;
	uint32_t free[SIZES]; /* heads of lists */
	struct map found;     /* key to slot: not taken yet */
	size_t look;          /* where in its cells */
	uint64_t longest_us;  /* window there may be */
	struct charges_counts counts;
	bool no_room;        /* was said */
	uint64_t damaged_us; /* slots lost their keys: fresh rates are closed from here; 0: none did
			      */
	/* Syncing. */
	struct sync next;
	struct event_position needs, needs_next;
	bool holds, holds_next;
};

/* Places ------------------------------------------------------------------------------------- */
static inline unsigned char *
extent_at(const struct charges *c, uint32_t x)
{
	return c->base + HEADER_BYTES + (size_t)x * EXTENT_BYTES;
}

static inline size_t
slot_bytes(uint32_t size)
{
	return SLOT_HEAD + size;
}

static inline uint32_t
extent_slots(uint32_t size)
{
	return (uint32_t)((EXTENT_BYTES - EXTENT_HEAD) / slot_bytes(size));
}

static inline struct slot *
slot_of(const struct charges *c, uint32_t id)
{
	unsigned char *x = extent_at(c, id >> 12);
	const struct extent *e = (const void *)x;

	return (struct slot *)(void *)(x + EXTENT_HEAD + (id & 4095) * slot_bytes(e->size));
}

static inline uint32_t
size_of(const struct charges *c, uint32_t id)
{
	return ((const struct extent *)(const void *)extent_at(c, id >> 12))->size;
}

static inline int
size_index(size_t bytes)
{
	for (unsigned i = 0; i < SIZES; i++)
		if (sizes[i] >= bytes)
			return (int)i;
	return -1;
}

static inline uint32_t
id_of(const struct charges *c, const struct slot *s)
{
	size_t at = (size_t)((const unsigned char *)s - c->base) - HEADER_BYTES;
	uint32_t x = (uint32_t)(at / EXTENT_BYTES);
	const struct extent *e = (const void *)extent_at(c, x);

	return x << 12 | (uint32_t)((at % EXTENT_BYTES - EXTENT_HEAD) / slot_bytes(e->size));
}

/* Checks ------------------------------------------------------------------------------------- */
static inline uint32_t
header_crc(const struct header *h)
{
	return crc32c(0, h, offsetof(struct header, crc));
}

static inline uint32_t
extent_crc(const struct extent *e)
{
	return crc32c(0, e, offsetof(struct extent, crc));
}

static inline uint32_t
sync_crc(const struct sync *s)
{
	return crc32c(0, s, offsetof(struct sync, crc));
}

static inline uint64_t
slot_word(const struct slot *s, uint32_t seq)
{
	uint64_t words[3] = { s->hi, s->lo, seq };

	return (uint64_t)crc32c(0, words, sizeof(words)) << 32 | seq;
}

static inline uint64_t
map_key(uint64_t hi, uint64_t lo)
{
	return hi * 0x9e3779b97f4a7c15ull ^ lo;
}

static inline void
charges_put(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Slots ------------------------------------------------------------------------------------- */
/* One whose rate is zeros; not in use before charges_begin_use(). NULL: no room. */
struct slot *charges_new_slot(struct charges *c, int size);
void charges_begin_use(struct charges *c, struct slot *s, uint64_t hi, uint64_t lo);
void charges_end_use(struct charges *c, struct slot *s);
/* Finds what is in use and what is free. */
void charges_scan(struct charges *c, uint64_t boot_us);
