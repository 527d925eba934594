#include "common/ipc/channel.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/ipc/ring.h"

#define CHANNEL_MAGIC   0x4843534cu /* "LSCH" */
#define CHANNEL_VERSION 1
#define CHANNEL_SEALS   (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Messages taken in one call of on_input, so that one busy peer does not hold up the others. */
#define CHANNEL_TURN_MAX 1024

/* The memfd: a page of header and counters, then entries and bytes of ring 0 (to the scheduler),
 * then those of ring 1. Nothing of it is used to find a place: sizes are compared, never followed.
 */
struct channel_header {
	uint32_t magic, version;
	uint32_t header_bytes, entry_bytes, n_entries, n_bytes;
	uint64_t bytes;
	struct ring_head heads[2];
};

#define HEADER_BYTES  4096u
#define ENTRIES_BYTES ((uint64_t)RING_ENTRIES * sizeof(struct message))
#define ONE_BYTES     (ENTRIES_BYTES + RING_BYTES)
#define ALL_BYTES     (HEADER_BYTES + 2 * ONE_BYTES)

_Static_assert(sizeof(struct channel_header) <= HEADER_BYTES, "the header has its page");
_Static_assert(IPC_PAYLOAD_MAX <= RING_BYTES, "the largest payload fits an empty ring");

struct channel {
	unsigned char *map;
	struct channel_fds fds;
	char side, peer; /* letters; peer 0: not known yet */
	struct loop *loop;
	struct watch watch;
	void (*on_input)(void *arg);
	void *arg;
	struct ring_tx tx;
	struct ring_rx rx;
	bool broken;         /* the peer broke the rules; channel_recv() says so */
	bool sent, consumed; /* since the last flush */
	bool in_input;
	bool unfinished; /* on_input stopped before the ring was empty */
	unsigned budget;
	bool *gone; /* set when closed within on_input */
};

static struct ring_place
place_of(unsigned char *map, unsigned ring)
{
	struct channel_header *h = (struct channel_header *)(void *)map;
	unsigned char *at = map + HEADER_BYTES + ring * ONE_BYTES;

	return (struct ring_place){
		.head = &h->heads[ring],
		.entries = (struct message *)(void *)at,
		.bytes = at + ENTRIES_BYTES,
		.n_entries = RING_ENTRIES,
		.n_bytes = RING_BYTES,
	};
}

/* Making one ------------------------------------------------------------------------------------
 */

static int
format_memfd(int fd)
{
	struct channel_header *h;
	unsigned char *map;

	if (ftruncate(fd, (off_t)ALL_BYTES) != 0)
		return -err_errno();
	map = mmap(NULL, HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -err_errno();
	h = (struct channel_header *)(void *)map;
	h->magic = CHANNEL_MAGIC;
	h->version = CHANNEL_VERSION;
	h->header_bytes = HEADER_BYTES;
	h->entry_bytes = sizeof(struct message);
	h->n_entries = RING_ENTRIES;
	h->n_bytes = RING_BYTES;
	h->bytes = ALL_BYTES;
	for (unsigned i = 0; i < 2; i++)
		ring_place_init(&(struct ring_place){ .head = &h->heads[i] });
	munmap(map, HEADER_BYTES);
	/* A size that cannot change: no process can make the other die of SIGBUS. */
	return fcntl(fd, F_ADD_SEALS, CHANNEL_SEALS) == 0 ? 0 : -err_errno();
}

int
channel_create(struct channel_fds *out)
{
	int rc;

	out->memfd = memfd_create("sluice-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	out->wake_scheduler = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	out->wake_other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (out->memfd < 0 || out->wake_scheduler < 0 || out->wake_other < 0)
		rc = -err_errno();
	else
		rc = format_memfd(out->memfd);
	if (rc != 0)
		channel_fds_close(out);
	return rc;
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
channel_fds_close(struct channel_fds *f)
{
	close_fd(&f->memfd);
	close_fd(&f->wake_scheduler);
	close_fd(&f->wake_other);
}

/* One end ---------------------------------------------------------------------------------------
 */

static int
map_memfd(int fd, unsigned char **out)
{
	const struct channel_header *h;
	struct stat st;
	unsigned char *map;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & CHANNEL_SEALS) != CHANNEL_SEALS || fstat(fd, &st) != 0 ||
	    (uint64_t)st.st_size != ALL_BYTES)
		return -E_BAD;
	map = mmap(NULL, ALL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -E_SYSTEM;
	h = (const struct channel_header *)(const void *)map;
	if (h->magic != CHANNEL_MAGIC || h->version != CHANNEL_VERSION ||
	    h->header_bytes != HEADER_BYTES || h->entry_bytes != sizeof(struct message) ||
	    h->n_entries != RING_ENTRIES || h->n_bytes != RING_BYTES || h->bytes != ALL_BYTES) {
		munmap(map, ALL_BYTES);
		return -E_BAD;
	}
	*out = map;
	return 0;
}

static int
own_fd(const struct channel *c)
{
	return c->side == 'S' ? c->fds.wake_scheduler : c->fds.wake_other;
}

static int
peer_fd(const struct channel *c)
{
	return c->side == 'S' ? c->fds.wake_other : c->fds.wake_scheduler;
}

static void
ring_bell(int fd)
{
	/* EAGAIN means that the counter is full: then it has rung. */
	if (eventfd_write(fd, 1) != 0)
		return;
}

static void
on_wake(void *arg, short what)
{
	struct channel *c = arg;
	eventfd_t n;
	bool gone = false;

	(void)what;
	if (eventfd_read(own_fd(c), &n) != 0)
		n = 0; /* somebody was faster; look all the same */
	c->gone = &gone;
	c->in_input = true;
	c->unfinished = false;
	c->budget = CHANNEL_TURN_MAX;
	c->on_input(c->arg);
	if (gone)
		return;
	c->gone = NULL;
	c->in_input = false;
	/* The flag is not up while something waits: nobody else would wake us again. */
	if (c->unfinished)
		ring_bell(own_fd(c));
}

int
channel_open(struct channel **out, const struct channel_fds *fds, char side, struct loop *loop,
	     void (*on_input)(void *arg), void *arg)
{
	struct channel_fds mine = *fds;
	struct ring_place to_scheduler, from_scheduler;
	struct channel *c;
	unsigned char *map;
	int rc = map_memfd(mine.memfd, &map);

	*out = NULL;
	if (rc != 0) {
		channel_fds_close(&mine);
		return rc;
	}
	c = mem_zalloc(sizeof *c);
	c->map = map;
	c->fds = mine;
	c->side = side;
	c->peer = side == 'S' ? 0 : 'S';
	c->loop = loop;
	c->on_input = on_input;
	c->arg = arg;
	to_scheduler = place_of(map, 0);
	from_scheduler = place_of(map, 1);
	ring_tx_init(&c->tx, side == 'S' ? &from_scheduler : &to_scheduler);
	ring_rx_init(&c->rx, side == 'S' ? &to_scheduler : &from_scheduler);
	watch_init(&c->watch, loop, own_fd(c), on_wake, c);
	watch_set(&c->watch, EV_READ);
	*out = c;
	return 0;
}

void
channel_close(struct channel **cp)
{
	struct channel *c = *cp;

	if (c == NULL)
		return;
	if (c->gone != NULL)
		*c->gone = true;
	watch_clear(&c->watch);
	ring_rx_clear(&c->rx);
	munmap(c->map, ALL_BYTES);
	channel_fds_close(&c->fds);
	mem_free(c);
	*cp = NULL;
}

void
channel_expect(struct channel *c, char peer)
{
	CHECK(c->side == 'S');
	c->peer = peer;
}

/* Marks it for good and lets the owner find out in on_input. */
static void
mark_broken(struct channel *c)
{
	if (!c->broken)
		ring_bell(own_fd(c));
	c->broken = true;
}

int
channel_send(struct channel *c, const struct message *m, struct slice payload)
{
	struct message head = *m;
	int rc;

	head.payload_bytes = payload.n <= UINT32_MAX ? (uint32_t)payload.n : UINT32_MAX;
	CHECK(message_check(&head, c->side, c->side == 'S' ? c->peer : 'S') == 0);
	if (c->broken)
		return -E_FULL;
	rc = ring_put(&c->tx, &head, payload);
	if (rc == -E_FULL && ring_wait_room(&c->tx, payload.n))
		rc = ring_put(&c->tx, &head, payload);
	if (rc == -E_BAD)
		mark_broken(c);
	if (rc != 0)
		return -E_FULL;
	c->sent = true;
	return 0;
}

bool
channel_has_room(const struct channel *c, size_t payload_bytes)
{
	struct ring_tx *tx =
		(struct ring_tx *)(uintptr_t)&c->tx; /* only its view of the peer moves */

	if (c->broken)
		return false;
	return ring_has_room(tx, payload_bytes) > 0 || ring_wait_room(tx, payload_bytes);
}

bool
channel_is_broken(const struct channel *c)
{
	return c->broken;
}

void
channel_flush(struct channel *c)
{
	bool wake = false;

	if (c->sent)
		wake = ring_tx_wakes(&c->tx);
	if (c->consumed)
		wake |= ring_rx_wakes(&c->rx);
	c->sent = c->consumed = false;
	if (wake)
		ring_bell(peer_fd(c));
}

int
channel_recv(struct channel *c, struct message *m, struct slice *payload)
{
	int rc;

	if (c->broken)
		return -E_BAD;
	if (c->in_input && c->budget == 0)
		return 0; /* `unfinished` still stands: on_input runs again next turn */
	do {
		rc = ring_get(&c->rx, m, c->peer, c->side);
	} while (rc == 0 && !ring_sleep(&c->rx));
	c->unfinished = rc == 1;
	if (rc < 0) {
		c->broken = true;
		return -E_BAD;
	}
	if (rc == 0)
		return 0;
	if (c->peer == 0)
		c->peer = message_from(m->kind);
	if (c->in_input)
		c->budget--;
	c->consumed = true;
	*payload = buf_slice(&c->rx.payload);
	return 1;
}
