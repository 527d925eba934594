#include "common/proc/route.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"

#define OBJECT_BYTES ((size_t)ROUTE_SLOTS * ROUTE_SLOT_BYTES)
#define OBJECT_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

#define READ_TRIES 1000 /* then the writer is dead in the middle, or always busy there */

/* A seqlock: odd while the resolver writes. A zeroed slot is empty (generation 0). */
struct route_slot {
	_Atomic uint64_t sequence;
	struct route route;
};
_Static_assert(sizeof(struct route_slot) <= ROUTE_SLOT_BYTES, "a route fits its slot");

struct route_object {
	unsigned char *map;
	bool writable;
};

size_t
route_best_hosts(struct slice best, struct slice hosts[ROUTE_BEST_HOSTS])
{
	size_t n = 0;

	while (best.p != NULL && best.n > 0 && n < ROUTE_BEST_HOSTS) {
		hosts[n] = slice_cut(&best, ',');
		n += hosts[n].n > 0 && hosts[n].p[0] != '#';
	}
	return n;
}

int
route_object_create(void)
{
	int fd = memfd_create("sluice-routes", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

	if (fd < 0)
		return -err_errno();
	if (ftruncate(fd, (off_t)OBJECT_BYTES) == 0 && fcntl(fd, F_ADD_SEALS, OBJECT_SEALS) == 0)
		return fd;
	rc = -err_errno();
	close(fd);
	return rc;
}

int
route_object_map(struct route_object **out, int fd, int writable)
{
	struct stat st;
	void *map;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & OBJECT_SEALS) != OBJECT_SEALS || fstat(fd, &st) != 0 ||
	    (size_t)st.st_size != OBJECT_BYTES)
		return -E_BAD;
	map = mmap(NULL, OBJECT_BYTES, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
		   fd, 0);
	if (map == MAP_FAILED)
		return -err_errno();
	*out = mem_zalloc(sizeof **out);
	(*out)->map = map;
	(*out)->writable = writable != 0;
	return 0;
}

void
route_object_unmap(struct route_object **o)
{
	if (*o == NULL)
		return;
	munmap((*o)->map, OBJECT_BYTES);
	mem_free(*o);
	*o = NULL;
}

static struct route_slot *
slot_at(const struct route_object *o, uint32_t slot)
{
	return (struct route_slot *)(void *)(o->map + (size_t)slot * ROUTE_SLOT_BYTES);
}

/* A copy of what the resolver wrote: it reads answers from the net, so believe nothing. */
static bool
plausible(const struct route *r)
{
	if ((unsigned)r->status > ROUTE_LOOP || r->n_targets > ROUTE_TARGETS_MAX ||
	    r->n_hosts > ROUTE_MX_MAX || r->n_best > r->n_targets || (r->status == ROUTE_GOOD && r->n_targets == 0))
		return false;
	for (unsigned i = 0; i < r->n_targets; i++) {
		sa_family_t family = r->targets[i].addr.ss_family;

		if ((family != AF_INET && family != AF_INET6) || r->targets[i].mx >= r->n_hosts)
			return false;
	}
	for (unsigned i = 0; i < r->n_hosts; i++) {
		if (memchr(r->hosts[i], '\0', ROUTE_HOST_BYTES) == NULL)
			return false;
	}
	return memchr(r->best, '\0', sizeof r->best) != NULL;
}

int
route_get(const struct route_object *o, uint32_t slot, uint64_t generation, struct route *out)
{
	struct route_slot *s;

	if (slot >= ROUTE_SLOTS || generation == 0)
		return -E_MISSING;
	s = slot_at(o, slot);
	for (int i = 0; i < READ_TRIES; i++) {
		uint64_t before = atomic_load_explicit(&s->sequence, memory_order_acquire);

		if (before & 1)
			continue;
		memcpy(out, &s->route, sizeof *out);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&s->sequence, memory_order_relaxed) != before)
			continue;
		if (out->generation != generation)
			return -E_MISSING;
		return plausible(out) ? 0 : -E_BAD;
	}
	return -E_AGAIN;
}

void
route_put(struct route_object *o, uint32_t slot, const struct route *r)
{
	struct route_slot *s;
	uint64_t sequence;

	CHECK(o->writable && slot < ROUTE_SLOTS && r->generation != 0 && plausible(r));
	s = slot_at(o, slot);
	/* Odd already when a resolver died while it wrote here. */
	sequence = atomic_load_explicit(&s->sequence, memory_order_relaxed) | 1;
	atomic_store_explicit(&s->sequence, sequence, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	memcpy(&s->route, r, sizeof *r);
	atomic_store_explicit(&s->sequence, sequence + 1, memory_order_release);
}

const char *
route_status_text(enum route_status s, const char **enhanced)
{
	// clang-format off
	static const struct {
		const char *text, *enhanced;
	} rows[] = {
		[ROUTE_GOOD]      = { "route found", "2.0.0" },
		[ROUTE_NO_DOMAIN] = { "no such domain", "5.1.2" },
		[ROUTE_NO_MX]     = { "domain has neither MX nor address records", "5.1.2" },
		[ROUTE_NULL_MX]   = { "domain does not accept mail (null MX)", "5.1.10" },
		[ROUTE_TEMPORARY] = { "temporary failure of name resolution", "4.4.3" },
		[ROUTE_UNUSABLE]  = { "no MX host of the domain resolves to an address", "4.4.4" },
		[ROUTE_LOOP]      = { "the MX records point back to this host", "5.4.6" },
	};
	// clang-format on
	unsigned i = (unsigned)s <= ROUTE_LOOP ? (unsigned)s : ROUTE_TEMPORARY;

	if (enhanced != NULL)
		*enhanced = rows[i].enhanced;
	return rows[i].text;
}
