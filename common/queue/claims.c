#include "common/queue/claims.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/wire.h"

#define TABLE_MAGIC   0x3142434cu /* "LCB1" */
#define TABLE_VERSION 1
#define HEADER_BYTES  4096
#define HEADER_USED   36
#define GROW_SLOTS    64 /* the file grows by so many at a time */
#define TABLE_BYTES   (HEADER_BYTES + (size_t)CLAIM_SLOTS * CLAIM_SLOT_BYTES)

/* A slot as it lies in the file; native byte order, the file never leaves the machine.
 * The word is written last: state in the low byte, a checksum of state and lease in the high half;
 * 0 is FREE. Upgrade: another TABLE_VERSION; a table of the older one is read once, settled, and
 * made anew. */
struct slot {
	_Atomic uint64_t word;
	uint64_t lease;
	uint64_t message;
	uint64_t granted_boot_us;
	uint32_t queue;
	uint32_t attempt;
	uint32_t connection;
	uint32_t source_ip;
	uint32_t generation;
	uint16_t ordinal;
	uint16_t n_rcpts;
	unsigned char rcpts[CLAIM_BITMAP_BYTES];
	unsigned char ask; /* 0 in tables of before */
	unsigned char reserved[127 - CLAIM_BITMAP_BYTES];
	uint32_t grant_crc; /* from `lease` up to here */
	/* The worker's. */
	uint32_t results_bytes;
	uint32_t results_crc; /* of lease, length, results */
	unsigned char padding[180];
	unsigned char
		results[CLAIM_RESULT_BYTES]; /* until they are there: stamps, from the end down */
	/* The scheduler's again: a copy of the lease at the far end. */
	uint64_t lease_tail;
};
_Static_assert(sizeof(struct slot) == CLAIM_SLOT_BYTES, "claim slot layout");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "claim states live in shared memory");

struct claim_table {
	int fd;
	unsigned char *base;
	_Atomic unsigned used; /* slots that the file holds, as far as known */
	unsigned n_free;
	uint16_t free_slots[CLAIM_SLOTS]; /* a stack: low numbers are taken first */
	bool is_free[CLAIM_SLOTS];
};

static struct slot *
slot_at(const struct claim_table *t, unsigned slot)
{
	return (struct slot *)(void *)(t->base + HEADER_BYTES + (size_t)slot * CLAIM_SLOT_BYTES);
}

static uint64_t
word_of(enum claim_state state, uint64_t lease)
{
	unsigned char b[9];
	uint64_t le = htole64(lease);

	if (state == CLAIM_FREE)
		return 0;
	b[0] = (unsigned char)state;
	memcpy(b + 1, &le, 8);
	return (uint64_t)crc32c(0, b, sizeof b) << 32 | (unsigned)state;
}

static uint32_t
grant_crc(const struct slot *s)
{
	return crc32c(0, &s->lease,
		      offsetof(struct slot, grant_crc) - offsetof(struct slot, lease));
}

static uint32_t
results_crc(const struct slot *s, uint32_t bytes)
{
	uint32_t crc = crc32c(0, &s->lease, sizeof s->lease);

	crc = crc32c(crc, &bytes, sizeof bytes);
	return crc32c(crc, s->results, bytes);
}

static void
put_header(struct buf *b, const unsigned char instance[16])
{
	wire_put_u32(b, TABLE_MAGIC);
	wire_put_u32(b, TABLE_VERSION);
	wire_put_u32(b, CLAIM_SLOTS);
	wire_put_u32(b, CLAIM_SLOT_BYTES);
	buf_put(b, instance, 16);
	wire_put_u32(b, crc32c(0, b->data, b->len));
	CHECK(b->len == HEADER_USED);
}

static bool
is_zero(const char *p, size_t n)
{
	while (n > 0 && p[n - 1] == 0)
		n--;
	return n == 0;
}

/* Two processes may do this at once: both write the same bytes. */
static int
check_header(int fd, const unsigned char instance[16], bool make)
{
	char block[HEADER_BYTES], seen[HEADER_USED] = { 0 };
	struct stat st;
	struct buf b;
	ssize_t n;
	int rc = 0;

	buf_init(&b);
	put_header(&b, instance);
	memset(block, 0, sizeof block);
	memcpy(block, b.data, b.len);
	buf_clear(&b);
	if (fstat(fd, &st) != 0)
		return -err_errno();
	n = pread(fd, seen, sizeof seen, 0);
	if (n < 0 || (st.st_size >= HEADER_BYTES && n != (ssize_t)sizeof seen))
		return -E_IO;
	/* Nothing is granted before the header is on disk. So one of zeros was never there: the
	 * power went when the file had its length and not yet its bytes. And one that is short was
	 * cut off while it was made. */
	if (is_zero(seen, sizeof seen) || (st.st_size < HEADER_BYTES && st.st_size % 512 == 0 &&
					   memcmp(seen, block, (size_t)n) == 0)) {
		if (!make)
			return -E_MISSING;
		if (pwrite(fd, block, sizeof block, 0) != (ssize_t)sizeof block)
			rc = -E_FULL;
		else if (fdatasync(fd) != 0)
			rc = -err_errno();
	} else if (st.st_size < HEADER_BYTES) {
		rc = -E_FORMAT;
	} else if (memcmp(seen, block, sizeof seen) != 0) {
		/* Ours but of another spool, or not ours, or damaged: all refused, none reset. */
		rc = memcmp(seen, block, 16) == 0 ? -E_FOREIGN : -E_FORMAT;
	}
	return rc;
}

/* How many whole slots the file holds. */
static unsigned
slots_in_file(int fd)
{
	struct stat st;
	uint64_t n;

	if (fstat(fd, &st) != 0 || st.st_size < HEADER_BYTES)
		return 0;
	n = ((uint64_t)st.st_size - HEADER_BYTES) / CLAIM_SLOT_BYTES;
	return n < CLAIM_SLOTS ? (unsigned)n : CLAIM_SLOTS;
}

static void
push_free(struct claim_table *t, unsigned slot)
{
	CHECK(!t->is_free[slot]);
	t->is_free[slot] = true;
	t->free_slots[t->n_free++] = (uint16_t)slot;
}

int
claim_table_check(int claims_fd, unsigned slot, const unsigned char instance[16])
{
	char name[32];
	int fd, rc;

	snprintf(name, sizeof name, "worker-%02u", slot);
	fd = openat(claims_fd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	rc = check_header(fd, instance, false);
	close(fd);
	return rc;
}

int
claim_table_open(struct claim_table **out, int claims_fd, unsigned slot,
		 const unsigned char instance[16])
{
	struct claim_table *t;
	char name[32];
	void *p;
	int fd, rc;

	snprintf(name, sizeof name, "worker-%02u", slot);
	fd = openat(claims_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
	if (fd < 0)
		return -err_errno();
	rc = check_header(fd, instance, true);
	if (rc != 0) {
		close(fd);
		return rc;
	}
	/* More address space than file: what lies behind the end is touched only after it has
	 * grown. */
	p = mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		rc = -err_errno();
		close(fd);
		return rc;
	}
	t = mem_zalloc(sizeof *t);
	t->fd = fd;
	t->base = p;
	t->used = slots_in_file(fd);
	for (unsigned i = t->used; i-- > 0;) {
		if (atomic_load_explicit(&slot_at(t, i)->word, memory_order_acquire) == 0)
			push_free(t, i);
	}
	*out = t;
	return 0;
}

void
claim_table_close(struct claim_table **t)
{
	if (*t == NULL)
		return;
	munmap((*t)->base, TABLE_BYTES);
	close((*t)->fd);
	mem_free(*t);
	*t = NULL;
}

unsigned
claim_slots_used(struct claim_table *t)
{
	unsigned used = slots_in_file(t->fd);

	atomic_store(&t->used, used);
	return used;
}

/* Blocks are taken here, where running out of them is an error; a write to a hole of a mapped file
 * on a full disk would be a signal. */
static int
grow(struct claim_table *t)
{
	unsigned used = t->used;
	unsigned n = CLAIM_SLOTS - used < GROW_SLOTS ? CLAIM_SLOTS - used : GROW_SLOTS;
	int rc;

	if (n == 0)
		return -E_FULL;
	do {
		rc = posix_fallocate(t->fd, (off_t)(HEADER_BYTES + (size_t)used * CLAIM_SLOT_BYTES),
				     (off_t)((size_t)n * CLAIM_SLOT_BYTES));
	} while (rc == EINTR);
	if (rc != 0)
		return -E_FULL;
	t->used = used + n;
	for (unsigned i = used + n; i-- > used;)
		push_free(t, i);
	return 0;
}

int
claim_reserve(struct claim_table *t)
{
	return t->used > 0 ? 0 : grow(t);
}

int
claim_grant(struct claim_table *t, const struct claim_grant *g)
{
	struct slot *s;
	unsigned slot;

	CHECK(g->lease != 0);
	if (t->n_free == 0 && grow(t) != 0)
		return -E_FULL;
	slot = t->free_slots[--t->n_free];
	t->is_free[slot] = false;
	s = slot_at(t, slot);
	s->lease = g->lease;
	s->message = g->key.message;
	s->granted_boot_us = g->granted_boot_us;
	s->queue = g->queue;
	s->attempt = g->attempt;
	s->connection = g->connection;
	s->source_ip = g->source_ip;
	s->generation = g->generation;
	s->ordinal = g->key.ordinal;
	s->n_rcpts = g->n_rcpts;
	memcpy(s->rcpts, g->rcpts, sizeof s->rcpts);
	s->ask = g->ask;
	s->grant_crc = grant_crc(s);
	s->lease_tail = g->lease;
	atomic_store_explicit(&s->word, word_of(CLAIM_GRANTED, g->lease), memory_order_release);
	return (int)slot;
}

void
claim_free(struct claim_table *t, unsigned slot)
{
	CHECK(slot < t->used);
	atomic_store_explicit(&slot_at(t, slot)->word, 0, memory_order_release);
	push_free(t, slot);
}

/* The state that the word says, or -E_CRC when it was not written for this lease. */
static int
state_of(const struct slot *s, uint64_t word)
{
	unsigned state = (unsigned)(word & 0xff);

	if (word == 0)
		return CLAIM_FREE;
	if (state == CLAIM_FREE || state > CLAIM_RETURNED ||
	    word != word_of((enum claim_state)state, s->lease) || s->lease != s->lease_tail ||
	    s->grant_crc != grant_crc(s))
		return -E_CRC;
	return (int)state;
}

int
claim_read(struct claim_table *t, unsigned slot, struct claim_view *out)
{
	const struct slot *s;
	int state;

	CHECK(slot < CLAIM_SLOTS);
	memset(out, 0, sizeof *out);
	if (slot >= t->used && slot >= claim_slots_used(t))
		return 0; /* never used: free */
	s = slot_at(t, slot);
	state = state_of(s, atomic_load_explicit(&s->word, memory_order_acquire));
	out->grant = (struct claim_grant){
		.lease = s->lease,
		.key = { .message = s->message, .ordinal = s->ordinal },
		.queue = s->queue,
		.attempt = s->attempt,
		.connection = s->connection,
		.source_ip = s->source_ip,
		.generation = s->generation,
		.n_rcpts = s->n_rcpts,
		.ask = s->ask != 0,
		.granted_boot_us = s->granted_boot_us,
	};
	memcpy(out->grant.rcpts, s->rcpts, sizeof s->rcpts);
	if (state < 0)
		return state;
	out->state = (enum claim_state)state;
	if (state == CLAIM_ANSWERED) {
		uint32_t n = s->results_bytes;

		out->results_ok = n <= CLAIM_RESULT_BYTES && s->results_crc == results_crc(s, n);
		if (out->results_ok)
			out->results = slice_of(s->results, n);
	}
	return 0;
}

/* The worker's legal moves. */
static bool
may_move(enum claim_state from, enum claim_state to)
{
	switch (to) {
	case CLAIM_BEGUN:
		return from == CLAIM_GRANTED;
	case CLAIM_RETURNED:
		return from == CLAIM_GRANTED || from == CLAIM_BEGUN;
	case CLAIM_DOT_SENT:
		return from == CLAIM_BEGUN;
	case CLAIM_ANSWERED:
		return from == CLAIM_BEGUN || from == CLAIM_DOT_SENT;
	default:
		return false;
	}
}

/* Checks that the slot is this lease's and may go to `to`; the slot or NULL with *rc. */
static struct slot *
enter(struct claim_table *t, unsigned slot, uint64_t lease, enum claim_state to, int *rc)
{
	struct slot *s;
	int state;

	*rc = -E_DENIED;
	if (slot >= CLAIM_SLOTS || (slot >= t->used && slot >= claim_slots_used(t)))
		return NULL;
	s = slot_at(t, slot);
	state = state_of(s, atomic_load_explicit(&s->word, memory_order_acquire));
	if (state < 0) {
		*rc = state;
		return NULL;
	}
	if (s->lease != lease || !may_move((enum claim_state)state, to))
		return NULL;
	*rc = 0;
	return s;
}

static int
move_to(struct claim_table *t, unsigned slot, uint64_t lease, enum claim_state to)
{
	int rc;
	struct slot *s = enter(t, slot, lease, to, &rc);

	if (s != NULL)
		atomic_store_explicit(&s->word, word_of(to, lease), memory_order_release);
	return rc;
}

int
claim_begin(struct claim_table *t, unsigned slot, uint64_t lease)
{
	return move_to(t, slot, lease, CLAIM_BEGUN);
}

int
claim_dot(struct claim_table *t, unsigned slot, uint64_t lease)
{
	return move_to(t, slot, lease, CLAIM_DOT_SENT);
}

/* Each by itself proven: the process may die between two of its bytes. */
struct stamp {
	uint64_t boot_us;
	uint16_t index;
	uint16_t zero;
	uint32_t crc; /* of the lease, its number, what is above */
};
_Static_assert(CLAIM_RCPT_MAX * sizeof(struct stamp) <= CLAIM_RESULT_BYTES,
	       "a stamp for each recipient");

static unsigned char *
stamp_at(struct slot *s, unsigned k)
{
	return s->results + CLAIM_RESULT_BYTES - (k + 1) * sizeof(struct stamp);
}

static uint32_t
stamp_crc(const struct slot *s, unsigned k, const struct stamp *st)
{
	uint32_t crc = crc32c(0, &s->lease, sizeof s->lease);

	crc = crc32c(crc, &k, sizeof k);
	return crc32c(crc, st, offsetof(struct stamp, crc));
}

int
claim_stamp(struct claim_table *t, unsigned slot, uint64_t lease, unsigned k, uint16_t index,
	    uint64_t stamp_boot_us)
{
	struct stamp st = { .boot_us = stamp_boot_us, .index = index };
	int rc;
	struct slot *s = enter(t, slot, lease, CLAIM_DOT_SENT, &rc); /* only while it has begun */

	if (s == NULL)
		return rc;
	if (k >= CLAIM_RCPT_MAX)
		return -E_TOO_BIG;
	st.crc = stamp_crc(s, k, &st);
	memcpy(stamp_at(s, k), &st, sizeof st);
	return 0;
}

unsigned
claim_stamps(struct claim_table *t, unsigned slot, uint64_t lease, struct claim_stamped *out,
	     unsigned most)
{
	struct slot *s;
	unsigned n = 0;

	if (slot >= CLAIM_SLOTS || (slot >= t->used && slot >= claim_slots_used(t)))
		return 0;
	s = slot_at(t, slot);
	if (s->lease != lease)
		return 0;
	for (unsigned k = 0; k < s->n_rcpts && k < CLAIM_RCPT_MAX && n < most; k++) {
		struct stamp st;

		memcpy(&st, stamp_at(s, k), sizeof st);
		if (st.crc == stamp_crc(s, k, &st))
			out[n++] = (struct claim_stamped){ st.boot_us, st.index };
	}
	return n;
}

int
claim_answer(struct claim_table *t, unsigned slot, uint64_t lease, struct slice results)
{
	int rc;
	struct slot *s;

	if (results.n > CLAIM_RESULT_BYTES)
		return -E_TOO_BIG;
	s = enter(t, slot, lease, CLAIM_ANSWERED, &rc);
	if (s == NULL)
		return rc;
	if (results.n > 0)
		memcpy(s->results, results.p, results.n);
	s->results_bytes = (uint32_t)results.n;
	s->results_crc = results_crc(s, s->results_bytes);
	atomic_store_explicit(&s->word, word_of(CLAIM_ANSWERED, lease), memory_order_release);
	return 0;
}

int
claim_return(struct claim_table *t, unsigned slot, uint64_t lease)
{
	return move_to(t, slot, lease, CLAIM_RETURNED);
}
