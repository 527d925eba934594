#include "common/queue/store_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

/* The file as LMDB writes it, native byte order. A page: u64 number, u16 pad, u16 flags, u16 lower
 * and u16 upper end of its gap (of an overflow page: u32 pages); then u16 offsets of its nodes. A
 * node: u16 and u16 size (low, high), u16 flags, u16 key bytes, key, value. In a branch size and
 * flags are the number of the page below. */
#define PAGE_HEAD   16
#define NODE_HEAD   8
#define META_MAGIC  0xbeefc0deu
#define NONE        UINT64_MAX
#define DEPTH_MAX   16
#define PAGE_LEAST  4096
#define PAGE_MOST   65536
#define TABLES_MAX  16
#define NAME_BYTES  32
#define PAGES_BOUND (1ull << 32)

enum { IS_BRANCH = 1, IS_LEAF = 2, IS_OVERFLOW = 4, IS_META = 8 };
enum { NODE_BIG = 1, NODE_TABLE = 2 };
enum { FREE_FLAGS = 8 /* its keys are integers */ };

struct db {
	uint32_t pad;
	uint16_t flags, depth;
	uint64_t branch, leaf, overflow, entries, root;
};
_Static_assert(sizeof(struct db) == 48, "as LMDB has it");

struct meta {
	uint32_t magic, version;
	uint64_t address, map_bytes;
	struct db free, main;
	uint64_t last_page, txn;
};
_Static_assert(sizeof(struct meta) == 136, "as LMDB has it");

enum kind { TREE_FREE, TREE_MAIN, TREE_TABLE };

struct key {
	const unsigned char *p;
	size_t n;
};

struct table {
	char name[NAME_BYTES + 1];
	struct db db;
};

struct walk {
	int fd;
	uint64_t file_bytes;
	uint32_t page_bytes;
	struct meta meta;
	unsigned char *used, *idle; /* a bit for each page */
	unsigned char *levels[DEPTH_MAX];
	unsigned char *big; /* an overflow value */
	size_t big_cap;
	struct table tables[TABLES_MAX];
	unsigned n_tables;
	enum kind kind; /* of the tree being walked, and what was counted there */
	struct db counted;
	store_pages_fn *found;
	void *arg;
	struct store_pages *out;
};

static void
problem(struct walk *w, uint64_t page, const char *what)
{
	w->out->problems++;
	if (w->found != NULL)
		w->found(w->arg, page, what);
}

static uint16_t
u16_at(const unsigned char *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof v);
	return v;
}

static uint64_t
u64_at(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof v);
	return v;
}

static bool
bit_is_set(const unsigned char *bits, uint64_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static void
bit_set(unsigned char *bits, uint64_t i)
{
	bits[i / 8] |= (unsigned char)(1u << (i % 8));
}

/* All of it or -E_IO; a file that ends before is -E_CRC. */
static int
read_at(const struct walk *w, void *dst, size_t n, uint64_t at)
{
	char *p = dst;

	while (n > 0) {
		ssize_t got = pread(w->fd, p, n, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -E_IO;
		if (got == 0)
			return -E_CRC;
		p += got;
		n -= (size_t)got;
		at += (uint64_t)got;
	}
	return 0;
}

/* Notes that `n` pages from `page` on are in use; false when they cannot be. */
static bool
claim(struct walk *w, uint64_t page, uint64_t n)
{
	if (page < 2 || n == 0 || page > w->meta.last_page || n - 1 > w->meta.last_page - page) {
		problem(w, page, "a page is named that the file does not have");
		return false;
	}
	for (uint64_t i = page; i < page + n; i++) {
		if (bit_is_set(w->used, i)) {
			problem(w, i, "the page is in use twice");
			return false;
		}
		bit_set(w->used, i);
	}
	w->out->used += n;
	return true;
}

/* Keys --------------------------------------------------------------------------------------------
 */
static int
compare(const struct walk *w, struct key a, struct key b)
{
	size_t n = a.n < b.n ? a.n : b.n;
	int c;

	if (w->kind == TREE_FREE) {
		uint64_t x = u64_at(a.p), y = u64_at(b.p);

		return x < y ? -1 : x > y;
	}
	c = memcmp(a.p, b.p, n);
	if (c != 0)
		return c;
	return a.n < b.n ? -1 : a.n > b.n;
}

static struct key
node_key(const unsigned char *node)
{
	return (struct key){ node + NODE_HEAD, u16_at(node + 6) };
}

/* Leaves ------------------------------------------------------------------------------------------
 */
/* Reads an overflow value of `n` bytes into w->big; NULL when it cannot be. */
static const unsigned char *
big_value(struct walk *w, uint64_t page, size_t n)
{
	uint64_t pages = (n + PAGE_HEAD + w->page_bytes - 1) / w->page_bytes;
	size_t bytes = (size_t)pages * w->page_bytes;
	uint32_t said;

	if (!claim(w, page, pages))
		return NULL;
	w->counted.overflow += pages;
	mem_grow((void **)&w->big, &w->big_cap, bytes, 1);
	if (read_at(w, w->big, bytes, page * w->page_bytes) != 0) {
		problem(w, page, "the page cannot be read");
		return NULL;
	}
	memcpy(&said, w->big + 12, sizeof said);
	if (u64_at(w->big) != page || u16_at(w->big + 10) != IS_OVERFLOW || said != pages) {
		problem(w, page, "the page's head is not that of a long value");
		return NULL;
	}
	return w->big + PAGE_HEAD;
}

/* A value of the free list: how many, then the pages. */
static void
note_idle(struct walk *w, uint64_t page, const unsigned char *value, size_t n)
{
	uint64_t count = n >= 8 ? u64_at(value) : 0;

	if (n < 8 || n % 8 != 0 || count > n / 8 - 1) {
		problem(w, page, "a length on the free list is wrong");
		return;
	}
	for (uint64_t i = 1; i <= count; i++) {
		uint64_t idle = u64_at(value + 8 * i);

		if (idle < 2 || idle > w->meta.last_page) {
			problem(w, page, "the free list names a page that the file does not have");
		} else if (bit_is_set(w->idle, idle)) {
			problem(w, page, "the free list names a page twice");
		} else {
			bit_set(w->idle, idle);
			w->out->idle++;
		}
	}
}

static void
note_table(struct walk *w, uint64_t page, const unsigned char *node, const unsigned char *value,
	   size_t n)
{
	struct key key = node_key(node);
	struct table *t;

	if (w->n_tables == TABLES_MAX || key.n == 0 || key.n > NAME_BYTES ||
	    n != sizeof(struct db)) {
		problem(w, page, "the list of tables is wrong");
		return;
	}
	t = &w->tables[w->n_tables++];
	memcpy(t->name, key.p, key.n);
	t->name[key.n] = '\0';
	memcpy(&t->db, value, sizeof t->db);
}

static void
leaf_node(struct walk *w, uint64_t page, const unsigned char *node)
{
	uint16_t flags = u16_at(node + 4);
	size_t n = u16_at(node) | (size_t)u16_at(node + 2) << 16;
	const unsigned char *value = node + NODE_HEAD + u16_at(node + 6);

	w->counted.entries++;
	if (flags != (w->kind == TREE_MAIN ? NODE_TABLE : flags & NODE_BIG)) {
		problem(w, page, "an entry is marked as what it cannot be");
		return;
	}
	if (flags & NODE_BIG) {
		value = big_value(w, u64_at(value), n);
		if (value == NULL)
			return;
	}
	if (w->kind == TREE_FREE)
		note_idle(w, page, value, n);
	else if (w->kind == TREE_MAIN)
		note_table(w, page, node, value, n);
}

/* Pages -------------------------------------------------------------------------------------------
 */
static size_t
even(size_t n)
{
	return (n + 1) & ~(size_t)1;
}

/* Bytes of the node at `at`, 0 when it leaves the page. */
static size_t
node_bytes(const struct walk *w, const unsigned char *p, unsigned at, bool leaf)
{
	size_t n = NODE_HEAD;

	if (at % 2 != 0 || at + NODE_HEAD > w->page_bytes)
		return 0;
	n += u16_at(p + at + 6);
	if (leaf && (u16_at(p + at + 4) & NODE_BIG) != 0)
		n += 8;
	else if (leaf)
		n += u16_at(p + at) | (size_t)u16_at(p + at + 2) << 16;
	n = even(n);
	return at + n <= w->page_bytes ? n : 0;
}

/* Head, offsets, nodes side by side up to the end of the page; keys in order, between `low` and
 * `high` (p NULL: open). The number of nodes, or -1 with the problem told. */
static int
check_page(struct walk *w, const unsigned char *p, uint64_t page, struct key low, struct key high)
{
	unsigned flags = u16_at(p + 10), lower = u16_at(p + 12), upper = u16_at(p + 14);
	bool leaf = flags == IS_LEAF;
	int n = ((int)lower - PAGE_HEAD) / 2;
	size_t sum = 0;
	struct key last = low;

	if (u64_at(p) != page || (flags != IS_LEAF && flags != IS_BRANCH) || lower % 2 != 0 ||
	    n < 1 || lower > upper || upper > w->page_bytes) {
		problem(w, page, "the page's head is wrong");
		return -1;
	}
	for (int i = 0; i < n; i++) {
		unsigned at = u16_at(p + PAGE_HEAD + 2 * i);
		size_t bytes = at >= upper ? node_bytes(w, p, at, leaf) : 0;
		struct key key;

		if (bytes == 0) {
			problem(w, page, "an entry leaves the page");
			return -1;
		}
		sum += bytes;
		if (!leaf && i == 0)
			continue; /* the first key of a branch stands for nothing */
		key = node_key(p + at);
		if ((w->kind == TREE_FREE && key.n != 8) || key.n == 0) {
			problem(w, page, "a key's length is wrong");
			return -1;
		}
		if ((last.p != NULL && compare(w, last, key) >= (leaf && i == 0 ? 1 : 0)) ||
		    (high.p != NULL && compare(w, key, high) >= 0)) {
			problem(w, page, "the keys are out of order");
			return -1;
		}
		last = key;
	}
	if (sum != w->page_bytes - upper) {
		problem(w, page, "the entries do not fill what the page says");
		return -1;
	}
	return n;
}

static void
walk_page(struct walk *w, uint64_t page, unsigned depth, struct key low, struct key high)
{
	unsigned char *p = w->levels[depth];
	int n;

	if (!claim(w, page, 1))
		return;
	if (read_at(w, p, w->page_bytes, page * w->page_bytes) != 0) {
		problem(w, page, "the page cannot be read");
		return;
	}
	n = check_page(w, p, page, low, high);
	if (n < 0)
		return;
	if ((u16_at(p + 10) == IS_LEAF) != (depth + 1 == w->counted.depth)) {
		problem(w, page, "the tree is not as deep as it says");
		return;
	}
	if (u16_at(p + 10) == IS_LEAF) {
		w->counted.leaf++;
		for (int i = 0; i < n; i++)
			leaf_node(w, page, p + u16_at(p + PAGE_HEAD + 2 * i));
		return;
	}
	w->counted.branch++;
	for (int i = 0; i < n; i++) {
		const unsigned char *node = p + u16_at(p + PAGE_HEAD + 2 * i);
		uint64_t below = u16_at(node) | (uint64_t)u16_at(node + 2) << 16 |
				 (uint64_t)u16_at(node + 4) << 32;
		struct key next = high;

		if (i + 1 < n)
			next = node_key(p + u16_at(p + PAGE_HEAD + 2 * (i + 1)));
		walk_page(w, below, depth + 1, i > 0 ? node_key(node) : low, next);
	}
}

static void
walk_tree(struct walk *w, enum kind kind, const struct db *db)
{
	static const struct key open = { NULL, 0 };
	uint64_t before = w->out->problems;

	w->kind = kind;
	w->counted = (struct db){ .depth = db->depth };
	if (db->flags != (kind == TREE_FREE ? FREE_FLAGS : 0) ||
	    (kind != TREE_FREE && db->pad != 0) || db->depth > DEPTH_MAX ||
	    (db->root == NONE) != (db->depth == 0)) {
		problem(w, 0, "what a table says of itself cannot be");
		return;
	}
	if (db->root != NONE)
		walk_page(w, db->root, 0, open, open);
	if (w->out->problems == before &&
	    (w->counted.branch != db->branch || w->counted.leaf != db->leaf ||
	     w->counted.overflow != db->overflow || w->counted.entries != db->entries))
		problem(w, 0, "a table does not hold as many pages and entries as it says");
	if (kind == TREE_TABLE)
		w->out->entries += w->counted.entries;
}

/* The whole ---------------------------------------------------------------------------------------
 */
/* The two meta pages: of the last commit and of the one before it. */
static int
read_metas(struct walk *w)
{
	unsigned char head[PAGE_HEAD + sizeof(struct meta)];
	struct meta m[2];

	w->page_bytes = PAGE_LEAST;
	for (unsigned i = 0; i < 2; i++) {
		int rc = read_at(w, head, sizeof head, (uint64_t)i * w->page_bytes);

		if (rc != 0)
			return rc == -E_CRC ? -E_FORMAT : rc;
		memcpy(&m[i], head + PAGE_HEAD, sizeof m[i]);
		if (u64_at(head) != i || u16_at(head + 10) != IS_META || m[i].magic != META_MAGIC ||
		    m[i].version != 1)
			return -E_FORMAT;
		if (i > 0)
			continue;
		w->page_bytes = m[0].free.pad;
		if (w->page_bytes < PAGE_LEAST || w->page_bytes > PAGE_MOST ||
		    (w->page_bytes & (w->page_bytes - 1)) != 0)
			return -E_FORMAT;
	}
	w->meta = m[0].txn > m[1].txn ? m[0] : m[1];
	/* They are written in turns: a flipped bit in a number must not bring back what was before.
	 */
	if ((m[0].txn != 0 || m[1].txn != 0) &&
	    (m[0].txn % 2 != 0 || m[1].txn % 2 != 1 ||
	     (m[0].txn > m[1].txn ? m[0].txn - m[1].txn : m[1].txn - m[0].txn) != 1))
		problem(w, w->meta.txn % 2, "the two last commits are not one after the other");
	if (m[0].free.pad != m[1].free.pad)
		problem(w, 1, "the page sizes differ");
	if (w->meta.last_page < 1 || w->meta.last_page >= PAGES_BOUND) {
		problem(w, w->meta.txn % 2, "the number of pages cannot be");
		return -E_CRC;
	}
	return 0;
}

static void
account(struct walk *w)
{
	for (uint64_t p = 2; p <= w->meta.last_page; p++) {
		bool used = bit_is_set(w->used, p), idle = bit_is_set(w->idle, p);

		if (used && idle)
			problem(w, p, "the page is in use and on the free list");
		w->out->leaked += !used && !idle;
	}
}

static int
check(struct walk *w)
{
	int rc = read_metas(w);

	if (rc != 0)
		return rc;
	w->out->txn = w->meta.txn;
	w->out->pages = w->meta.last_page + 1;
	w->out->used = 2;
	w->used = mem_zalloc((size_t)(w->meta.last_page / 8 + 1));
	w->idle = mem_zalloc((size_t)(w->meta.last_page / 8 + 1));
	for (unsigned i = 0; i < DEPTH_MAX; i++)
		w->levels[i] = mem_alloc(w->page_bytes);
	walk_tree(w, TREE_FREE, &w->meta.free);
	walk_tree(w, TREE_MAIN, &w->meta.main);
	for (unsigned i = 0; i < w->n_tables; i++)
		walk_tree(w, TREE_TABLE, &w->tables[i].db);
	account(w);
	return w->out->problems == 0 ? 0 : -E_CRC;
}

int
store_pages_check(int dir, struct store_pages *out, store_pages_fn *found, void *arg)
{
	struct walk w = { .found = found, .arg = arg, .out = out };
	struct stat st;
	int rc;

	memset(out, 0, sizeof *out);
	w.fd = openat(dir, "data.mdb", O_RDONLY | O_CLOEXEC);
	if (w.fd < 0)
		return -err_errno();
	if (fstat(w.fd, &st) != 0)
		rc = -err_errno();
	else
		rc = st.st_size == 0 ? -E_MISSING : check(&w);
	close(w.fd);
	for (unsigned i = 0; i < DEPTH_MAX; i++)
		mem_free(w.levels[i]);
	mem_free(w.used);
	mem_free(w.idle);
	mem_free(w.big);
	return rc;
}
