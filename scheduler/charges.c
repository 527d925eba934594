#include "scheduler/charges_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "scheduler/core/rate.h"

#define NAME        "charges"
#define NAME_NEW    "charges.new"
#define VERSION     1
#define LOOK_A_TICK 256

/* The file ----------------------------------------------------------------------------------- */
static struct charges *
new_charges(int fd)
{
	struct charges *c;
	struct stat st;
	void *p;

	/* More address space than file: what lies behind the end is touched after it has grown. */
	p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || fstat(fd, &st) != 0) {
		close(fd);
		return NULL;
	}
	c = mem_zalloc(sizeof(*c));
	c->fd = fd;
	c->base = p;
	c->h = p;
	c->next_seq = 1;
	c->longest_us = RATE_WINDOW_MAX_US;
	if (st.st_size > HEADER_BYTES)
		c->n_extents = (uint32_t)(((uint64_t)st.st_size - HEADER_BYTES) / EXTENT_BYTES);
	if (c->n_extents > EXTENTS_MAX)
		c->n_extents = EXTENTS_MAX;
	c->counts.bytes = (uint64_t)st.st_size;
	for (unsigned i = 0; i < SIZES; i++)
		c->free[i] = NO_SLOT;
	return c;
}

static void
drop(struct charges **c)
{
	if (*c == NULL)
		return;
	munmap((*c)->base, MAP_BYTES);
	close((*c)->fd);
	map_clear(&(*c)->found);
	mem_free(*c);
	*c = NULL;
}

/* The file that is there, of whichever boot. */
static int
attach(struct charges **out, int dir, const unsigned char instance[16])
{
	int fd = openat(dir, NAME, O_RDWR | O_CLOEXEC), rc = 0;
	struct charges *c;
	struct stat st;

	*out = NULL;
	if (fd < 0)
		return -err_errno();
	if (fstat(fd, &st) != 0 || st.st_size < HEADER_BYTES) {
		close(fd);
		return -E_FORMAT;
	}
	c = new_charges(fd);
	if (c == NULL)
		return -E_SYSTEM;
	if (c->h->magic != MAGIC || c->h->version != VERSION)
		rc = -E_FORMAT;
	else if (c->h->crc != header_crc(c->h))
		rc = -E_CRC;
	else if (memcmp(c->h->instance, instance, 16) != 0)
		rc = -E_FOREIGN;
	if (rc != 0)
		drop(&c);
	*out = c;
	return rc;
}

/* An empty one under its other name; it is not to be found before name_it(). */
static int
make(struct charges **out, int dir, const unsigned char instance[16], const struct charges_now *now)
{
	int fd = openat(dir, NAME_NEW, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640), rc;
	struct charges *c;

	*out = NULL;
	if (fd < 0)
		return -err_errno();
	do {
		rc = posix_fallocate(fd, 0, HEADER_BYTES);
	} while (rc == EINTR);
	if (rc != 0) {
		close(fd);
		return -E_FULL;
	}
	c = new_charges(fd);
	if (c == NULL)
		return -E_SYSTEM;
	c->h->magic = MAGIC;
	c->h->version = VERSION;
	memcpy(c->h->instance, instance, 16);
	memcpy(c->h->boot_id, now->boot_id, 16);
	c->h->since_us = c->h->boot_us = now->boot_us;
	c->h->wall_less_boot = now->wall_us - now->boot_us;
	*out = c;
	return 0;
}

static int
name_it(struct charges *c, int dir)
{
	c->h->crc = header_crc(c->h);
	if (fdatasync(c->fd) != 0 || renameat(dir, NAME_NEW, dir, NAME) != 0 || fsync(dir) != 0)
		return -err_errno();
	return 0;
}

/* The newer of the two marks that are whole; false: none is. */
static bool
last_sync(const struct header *h, struct sync *out)
{
	bool got = false;

	for (unsigned i = 0; i < 2; i++) {
		const struct sync *s = &h->syncs[i];

		if (s->seq == 0 || s->crc != sync_crc(s) || (got && s->seq < out->seq))
			continue;
		*out = *s;
		got = true;
	}
	return got;
}

/* Another boot ------------------------------------------------------------------------------- */
/* Calls fn for each slot of `old` that is whole, when it has been mended. */
static void
each_whole(struct charges *old, void (*fn)(void *arg, const struct slot *s, uint32_t size),
	   void *arg)
{
	uint64_t copy[(SLOT_HEAD + SLOT_MOST) / sizeof(uint64_t)];
	struct slot *s = (struct slot *)(void *)copy;

	for (uint32_t x = 0; x < old->n_extents; x++) {
		const struct extent *e = (const void *)extent_at(old, x);
		int size = size_index(e->size);

		if (e->magic != EXTENT_MAGIC || e->crc != extent_crc(e) || size < 0 ||
		    sizes[size] != e->size)
			continue;
		for (uint32_t i = 0; i < extent_slots(e->size); i++) {
			memcpy(copy, slot_of(old, x << 12 | i), slot_bytes(e->size));
			rate_mend(s->rate, e->size);
			if (s->word != 0 && s->word == slot_word(s, (uint32_t)s->word) &&
			    rate_whole(s->rate, e->size, UINT64_MAX / 8))
				fn(arg, s, e->size);
		}
	}
}

static void
see_last(void *arg, const struct slot *s, uint32_t size)
{
	uint64_t *last = arg, t = rate_last_us(s->rate);

	(void)size;
	/* No more than what the clocks may have lagged behind. */
	if (t > *last && t < *last + 60000000)
		*last = t;
}

struct mover {
	struct charges *to;
	int64_t shift_us;
	uint64_t boot_us;
	bool failed;
};

/* A short window is closed, for the clocks are not that sure: what is charged to it is for a longer
 * one that its limit may have before that is over. */
static void
move_slot(void *arg, const struct slot *s, uint32_t size)
{
	struct mover *m = arg;
	uint64_t window = rate_found_window_us(s->rate);
	struct slot *n;

	if (m->failed || window == 0)
		return;
	n = charges_new_slot(m->to, size_index(size));
	if (n == NULL) {
		m->failed = true;
		return;
	}
	charges_begin_use(m->to, n, s->hi, s->lo);
	if (!rate_shift(n->rate, s->rate, m->shift_us, m->boot_us)) {
		charges_end_use(m->to, n);
		return;
	}
	m->to->counts.moved++;
	if (window <= CHARGES_SHORT_US)
		rate_close_until((struct rate *)(void *)n->rate,
				 m->boot_us + window + rate_delta_us(window) + 1);
}

/* What the old file holds goes into the new one. */
static void
take_over(struct charges *c, struct charges *old, const struct charges_now *now)
{
	struct header *h = c->h;
	uint64_t last = old->h->boot_us, then;
	struct mover m = { .to = c, .boot_us = now->boot_us };
	struct sync sync;

	each_whole(old, see_last, &last);
	then = old->h->wall_less_boot + last;
	m.shift_us = (int64_t)(now->boot_us - last) -
		     (int64_t)(now->wall_us > then ? now->wall_us - then : 0);
	if (!last_sync(old->h, &sync) || old->h->rebuilt == 0)
		return; /* nobody knows which pages went to the disk */
	each_whole(old, move_slot, &m);
	if (m.failed)
		return;
	memcpy(h->old_boot_id, old->h->boot_id, 16);
	h->has_old = 1;
	h->shift_us = m.shift_us;
	h->old_synced_us = sync.boot_us;
	h->events = sync.events;
	/* What was moved is on the disk before the file has its name; what the events tell is not.
	 */
	sync.boot_us = now->boot_us;
	sync.seq = 1;
	sync.crc = sync_crc(&sync);
	h->syncs[1] = sync;
	if (old->h->unknown_before != 0)
		h->unknown_before = old->h->unknown_before + (uint64_t)m.shift_us;
}

static int
make_anew(struct charges **out, struct charges **old, int dir, const unsigned char instance[16],
	  const struct charges_now *now, uint64_t short_us)
{
	int rc = make(out, dir, instance, now);

	if (rc == 0) {
		(*out)->h->short_us = short_us;
		if (*old != NULL)
			take_over(*out, *old, now);
		rc = name_it(*out, dir);
		/* Those moved are found by the scan. */
		drop(out);
	}
	drop(old);
	return rc != 0 ? rc : attach(out, dir, instance);
}

int
charges_open(struct charges **out, int spool_fd, const unsigned char instance[16],
	     const struct charges_now *now)
{
	struct charges *c, *old = NULL;
	uint64_t short_us = CHARGES_SHORT_US;
	int rc = attach(&c, spool_fd, instance);

	*out = NULL;
	if (rc == -E_IO || rc == -E_SYSTEM || rc == -E_DENIED)
		return rc;
	if (rc != 0 || memcmp(c->h->boot_id, now->boot_id, 16) != 0) {
		if (rc == 0)
			log_info("charges=%s boot=another action=make_anew", NAME);
		else if (rc == -E_MISSING)
			short_us = 0; /* the events tell, as far as they go back */
		else
			log_error("charges=%s error=\"%s\" action=make_anew limits=closed", NAME,
				  err_text(rc));
		old = c;
		rc = make_anew(&c, &old, spool_fd, instance, now, short_us);
		if (rc != 0)
			return rc;
	}
	charges_scan(c, now->boot_us);
	if (c->counts.damaged > 0)
		log_error("charges=%s damaged=%zu limits=closed", NAME, c->counts.damaged);
	charges_tick(c, now->boot_us, now->wall_us);
	*out = c;
	return 0;
}

void
charges_close(struct charges **c)
{
	drop(c);
}

/* Taking and giving -------------------------------------------------------------------------- */
/* Nobody knows what was charged to a new one, if it has had charges before. */
static void
mark_unknown(const struct charges *c, struct slot *s)
{
	const struct header *h = c->h;
	uint64_t since = h->since_us, shorter = h->short_us;

	if (c->damaged_us != 0 && (shorter == 0 || c->damaged_us > since)) {
		since = c->damaged_us;
		shorter = CHARGES_SHORT_US;
	}
	if (shorter == 0 && h->unknown_before == 0)
		return;
	rate_unknown(s->rate, since, shorter,
		     h->unknown_before ? (int64_t)(h->unknown_before - TIME_BIAS) : INT64_MIN);
}

/* The slot that was found for it, large enough. */
static struct slot *
take_found(struct charges *c, const struct core_charge_key *key, int size)
{
	uint64_t id = map_get(&c->found, map_key(key->hi, key->lo));
	struct slot *s, *n;
	uint32_t has;

	if (id == MAP_NONE)
		return NULL;
	s = slot_of(c, (uint32_t)id);
	if (s->hi != key->hi || s->lo != key->lo)
		return NULL;
	has = size_of(c, (uint32_t)id);
	if (has < sizes[size]) {
		n = charges_new_slot(c, size);
		if (n == NULL)
			return NULL;
		memcpy(n->rate, s->rate, has);
		charges_begin_use(c, n, key->hi, key->lo);
		charges_end_use(c, s);
		s = n;
	}
	(void)map_take(&c->found, map_key(key->hi, key->lo));
	c->counts.unclaimed = c->found.n;
	return s;
}

void *
charges_take(struct charges *c, const struct core_charge_key *key, size_t bytes, bool *found)
{
	int size = size_index(bytes);
	struct slot *s;

	CHECK(size >= 0);
	s = take_found(c, key, size);
	*found = s != NULL;
	if (s == NULL) {
		s = charges_new_slot(c, size);
		if (s == NULL) {
			if (!c->no_room)
				log_error("charges=%s error=\"no room left\" limits=in_memory",
					  NAME);
			c->no_room = true;
			return NULL;
		}
		mark_unknown(c, s);
		charges_begin_use(c, s, key->hi, key->lo);
	}
	return s->rate;
}

void
charges_give(struct charges *c, void *memory)
{
	charges_end_use(c, (struct slot *)(void *)((unsigned char *)memory - SLOT_HEAD));
}

void
charges_leave(struct charges *c, void *memory)
{
	struct slot *s = (struct slot *)(void *)((unsigned char *)memory - SLOT_HEAD);
	uint64_t key = map_key(s->hi, s->lo);

	if (map_get(&c->found, key) != MAP_NONE) { /* another one's key looks like it */
		charges_end_use(c, s);
		return;
	}
	map_put(&c->found, key, id_of(c, s));
	c->counts.unclaimed = c->found.n;
}

void
charges_longest(struct charges *c, uint64_t window_us)
{
	c->longest_us = window_us;
}

void
charges_tick(struct charges *c, uint64_t boot_us, uint64_t wall_us)
{
	charges_put(&c->h->wall_less_boot, wall_us - boot_us);
	charges_put(&c->h->boot_us, boot_us);
	for (unsigned i = 0; i < LOOK_A_TICK && c->found.n > 0; i++) {
		struct map_cell *cell = &c->found.cells[c->look++ % c->found.cap];

		if (cell->value == MAP_NONE)
			continue;
		if (rate_is_over(slot_of(c, (uint32_t)cell->value)->rate, c->longest_us, boot_us)) {
			charges_end_use(c, slot_of(c, (uint32_t)cell->value));
			(void)map_take(&c->found, cell->key);
		}
	}
	c->counts.unclaimed = c->found.n;
}

/* The past ----------------------------------------------------------------------------------- */
bool
charges_past(const struct charges *c, struct charges_past *out)
{
	const struct header *h = c->h;

	*out = (struct charges_past){ .from = h->events,
				      .has_boot = h->has_old != 0,
				      .synced_boot_us = h->old_synced_us,
				      .shift_us = h->shift_us };
	memcpy(out->boot_id, h->old_boot_id, 16);
	return h->rebuilt == 0;
}

void
charges_rebuilt(struct charges *c, int64_t known_boot_us)
{
	uint64_t before = (uint64_t)known_boot_us + TIME_BIAS;

	/* With an old file all before its events is known, as far as it was then. */
	if (c->h->has_old == 0 && known_boot_us != INT64_MIN)
		charges_put(&c->h->unknown_before, before);
	charges_put(&c->h->rebuilt, 1);
}

void
charges_not_rebuilt(struct charges *c, uint64_t boot_us)
{
	uint32_t n = 0;

	charges_put(&c->h->unknown_before, boot_us + TIME_BIAS);
	charges_put(&c->h->rebuilt, 1);
	/* What was moved does not tell all. */
	for (size_t i = 0; i < c->found.cap; i++) {
		struct map_cell *cell = &c->found.cells[i];

		if (cell->value == MAP_NONE)
			continue;
		rate_unknown(slot_of(c, (uint32_t)cell->value)->rate, boot_us, UINT64_MAX,
			     INT64_MIN);
		n++;
	}
	log_error("charges=%s events=unreadable limits=closed moved=%u", NAME, n);
}

/* Syncing ------------------------------------------------------------------------------------ */
void
charges_sync_begin(struct charges *c, uint64_t boot_us, struct event_position at)
{
	c->next = (struct sync){ .boot_us = boot_us, .events = at };
}

int
charges_sync(struct charges *c)
{
	return fdatasync(c->fd) == 0 ? 0 : -err_errno();
}

/* The mark that says so is on the disk with the sync after this one: until then the events behind
 * the mark before it are asked for. */
void
charges_sync_end(struct charges *c, int rc)
{
	struct sync last;

	if (rc != 0) {
		/* Which pages are on the disk is not known any more, and never will be. */
		memset(c->h->syncs, 0, sizeof(c->h->syncs));
		c->holds = c->holds_next = false;
		return;
	}
	c->needs = c->needs_next;
	c->holds = c->holds_next;
	c->needs_next = c->next.events;
	c->holds_next = true;
	c->next.seq = last_sync(c->h, &last) ? last.seq + 1 : 1;
	c->next.crc = sync_crc(&c->next);
	c->h->syncs[c->next.seq % 2] = c->next;
}

bool
charges_needs_events(const struct charges *c, struct event_position *from)
{
	struct sync last;

	if (c->holds) {
		*from = c->needs;
		return true;
	}
	/* Since the start nothing was synced: what the last process left. */
	if (!last_sync(c->h, &last))
		return false;
	for (unsigned i = 0; i < 2; i++) {
		const struct sync *s = &c->h->syncs[i];

		if (s->seq != 0 && s->crc == sync_crc(s) &&
		    !event_position_before(last.events, s->events))
			last.events = s->events;
	}
	*from = last.events;
	return true;
}

void
charges_counts(const struct charges *c, struct charges_counts *out)
{
	*out = c->counts;
}
