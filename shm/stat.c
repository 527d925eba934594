/* The writer. Pages of rows are allocated (fallocate) before they are first written: a full tmpfs
 * costs rows, not the writer's life by SIGBUS. */
#include "shm/stat_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/mem.h"

#define ROWS_AT_A_TIME 256u

#ifndef SLUICE_VERSION
#define SLUICE_VERSION ""
#endif

// clang-format off
const struct stat_writer_kind stat_writer_kinds[STAT_WRITERS] = {
	[STAT_SCHEDULER] = { "scheduler", false, sizeof(struct stat_totals) },
	[STAT_WORKER]    = { "worker",    true,  sizeof(struct stat_worker) },
	[STAT_RECEIVER]  = { "receiver",  true,  sizeof(struct stat_receiver) },
	[STAT_RESOLVER]  = { "resolver",  false, sizeof(struct stat_resolver) },
	[STAT_RECORDER]  = { "recorder",  false, sizeof(struct stat_recorder) },
};
// clang-format on

_Static_assert(sizeof(struct stat_queue) % 8 == 0, "copied in words");
_Static_assert(sizeof(struct stat_source) % 8 == 0, "copied in words");
_Static_assert(sizeof(struct stat_limit) % 8 == 0, "copied in words");

uint32_t
stat_totals_bytes(enum stat_writer writer)
{
	CHECK((unsigned)writer < STAT_WRITERS);
	return stat_writer_kinds[writer].bytes;
}

uint32_t
stat_aligned(uint32_t n)
{
	return (n + STAT_BLOCK_ALIGN - 1) / STAT_BLOCK_ALIGN * STAT_BLOCK_ALIGN;
}

uint32_t
stat_block_bytes(uint32_t payload)
{
	return stat_aligned((uint32_t)sizeof(struct stat_block) + 2 * payload);
}

int
stat_path(char dst[STAT_PATH_BYTES], const char *run_dir, const char *prefix,
	  enum stat_writer writer, unsigned slot)
{
	int n;

	CHECK((unsigned)writer < STAT_WRITERS);
	if (stat_writer_kinds[writer].numbered)
		n = snprintf(dst, STAT_PATH_BYTES, "%s/shm/%s%s-%u", run_dir, prefix,
			     stat_writer_kinds[writer].name, slot);
	else
		n = snprintf(dst, STAT_PATH_BYTES, "%s/shm/%s%s", run_dir, prefix,
			     stat_writer_kinds[writer].name);
	return n < STAT_PATH_BYTES ? 0 : -E_TOO_BIG;
}

struct stat_block *
stat_block_at(const struct stat_object *o, const struct stat_region *r, uint32_t row)
{
	return (struct stat_block *)((char *)o->header + r->offset + (uint64_t)r->stride * row);
}

static void
store_words(_Atomic uint64_t *dst, const void *src, uint32_t words)
{
	for (uint32_t i = 0; i < words; i++) {
		uint64_t w;

		memcpy(&w, (const char *)src + (size_t)i * 8, 8);
		atomic_store_explicit(&dst[i], w, memory_order_relaxed);
	}
}

/* Readers are sent to copy 1, copy 0 is written, readers are sent to copy 0, copy 1 is written. The
 * release fences keep each copy's stores behind the flip that took the readers off it. */
static void
block_write(struct stat_block *b, const void *src, uint32_t words)
{
	uint64_t seq = atomic_load_explicit(&b->seq, memory_order_relaxed) & ~(uint64_t)1;

	atomic_store_explicit(&b->seq, seq + 1, memory_order_release);
	atomic_thread_fence(memory_order_release);
	store_words(b->words, src, words);
	atomic_store_explicit(&b->seq, seq + 2, memory_order_release);
	atomic_thread_fence(memory_order_release);
	store_words(b->words + words, src, words);
}

static int
back_with_pages(const struct stat_object *o, uint64_t offset, uint64_t bytes)
{
	if (fallocate(o->fd, 0, (off_t)offset, (off_t)bytes) == 0)
		return 0;
	/* A file system without fallocate: then it is as good as any sparse file. */
	return errno == EOPNOTSUPP ? 0 : -err_errno();
}

/* True when the pages of `row` are there. */
static bool
row_backed(const struct stat_object *o, struct stat_region *r, uint32_t row)
{
	while (row >= r->backed) {
		uint32_t n =
			r->max - r->backed < ROWS_AT_A_TIME ? r->max - r->backed : ROWS_AT_A_TIME;

		if (back_with_pages(o, r->offset + (uint64_t)r->stride * r->backed,
				    (uint64_t)r->stride * n) != 0)
			return false;
		r->backed += n;
	}
	return true;
}

static void
lay_out(struct stat_object *o, enum stat_writer writer)
{
	uint32_t at = stat_aligned(sizeof(struct stat_header));

	o->totals =
		(struct stat_region){ .offset = at,
				      .stride = stat_block_bytes(stat_writer_kinds[writer].bytes),
				      .max = 1,
				      .words = stat_writer_kinds[writer].bytes / 8 };
	at += o->totals.stride;
	o->queues = (struct stat_region){ .offset = at,
					  .stride = stat_block_bytes(sizeof(struct stat_queue)),
					  .max = writer == STAT_SCHEDULER ? STAT_QUEUE_ROWS : 0,
					  .words = sizeof(struct stat_queue) / 8 };
	at += o->queues.stride * o->queues.max;
	o->sources = (struct stat_region){ .offset = at,
					   .stride = stat_block_bytes(sizeof(struct stat_source)),
					   .max = writer == STAT_SCHEDULER ? STAT_SOURCE_ROWS : 0,
					   .words = sizeof(struct stat_source) / 8 };
	at += o->sources.stride * o->sources.max;
	o->limits = (struct stat_region){ .offset = at,
					  .stride = stat_block_bytes(sizeof(struct stat_limit)),
					  .max = writer == STAT_SCHEDULER ? STAT_LIMIT_ROWS : 0,
					  .words = sizeof(struct stat_limit) / 8 };
	at += o->limits.stride * o->limits.max;
	o->map_bytes = at;
}

static void
fill_header(struct stat_object *o)
{
	struct stat_header *h = o->header;

	h->version = STAT_VERSION;
	h->header_bytes = sizeof *h;
	h->bytes = (uint32_t)o->map_bytes;
	h->writer = o->writer;
	h->slot = o->slot;
	atomic_store(&h->pid, (uint32_t)getpid());
	h->totals_offset = o->totals.offset;
	h->totals_bytes = o->totals.stride;
	h->queues_offset = o->queues.offset;
	h->queue_bytes = o->queues.stride;
	h->queues_max = o->queues.max;
	h->sources_offset = o->sources.offset;
	h->source_bytes = o->sources.stride;
	h->sources_max = o->sources.max;
	h->limits_offset = o->limits.offset;
	h->limit_bytes = o->limits.stride;
	h->limits_max = o->limits.max;
	atomic_store(&h->state, STAT_STARTING);
	atomic_store(&h->heartbeat_boot_us, clock_boot_us());
	h->started_wall_us = clock_wall_us();
	snprintf(h->build, sizeof h->build, "%s", SLUICE_VERSION);
	h->magic = STAT_MAGIC;
}

/* A reader that still maps the file of our predecessor shall see that it is of the past. */
static void
mark_gone(const char *path)
{
	struct stat st;
	struct stat_header *h;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= (off_t)sizeof *h) {
		h = mmap(NULL, sizeof *h, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (h != MAP_FAILED) {
			if (h->magic == STAT_MAGIC && h->version == STAT_VERSION)
				atomic_store(&h->state, STAT_GONE);
			munmap(h, sizeof *h);
		}
	}
	close(fd);
}

static int
make_file(struct stat_object *o, const char *path)
{
	void *map;

	o->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (o->fd < 0)
		return -err_errno();
	if (fchmod(o->fd, 0640) != 0 || ftruncate(o->fd, (off_t)o->map_bytes) != 0)
		return -err_errno();
	if (back_with_pages(o, 0, o->queues.offset) != 0)
		return -E_FULL;
	map = mmap(NULL, o->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
	if (map == MAP_FAILED)
		return -err_errno();
	o->header = map;
	return 0;
}

int
stat_create(struct stat_object **out, const char *run_dir, enum stat_writer writer, unsigned slot)
{
	struct stat_object *o = mem_zalloc(sizeof *o);
	char dir[STAT_PATH_BYTES], path[STAT_PATH_BYTES], temporary[STAT_PATH_BYTES];
	int rc;

	o->fd = -1;
	o->writer = writer;
	o->slot = slot;
	o->writable = true;
	lay_out(o, writer);
	rc = stat_path(path, run_dir, "", writer, slot);
	if (rc == 0)
		rc = stat_path(temporary, run_dir, ".new-", writer, slot);
	if (rc != 0)
		goto fail;
	snprintf(dir, sizeof dir, "%s/shm", run_dir);
	if (mkdir(dir, 0750) != 0 && errno != EEXIST) {
		rc = -err_errno();
		goto fail;
	}
	unlink(temporary);
	rc = make_file(o, temporary);
	if (rc != 0)
		goto fail;
	fill_header(o);
	mark_gone(path);
	if (rename(temporary, path) != 0) {
		rc = -err_errno();
		goto fail;
	}
	*out = o;
	return 0;
fail:
	if (o->fd >= 0)
		unlink(temporary);
	stat_close(&o);
	return rc;
}

void
stat_close(struct stat_object **op)
{
	struct stat_object *o = *op;

	if (o == NULL)
		return;
	if (o->writable && o->header != NULL)
		atomic_store(&o->header->state, STAT_GONE);
	if (o->image)
		mem_free(o->header);
	else if (o->header != NULL)
		munmap(o->header, o->map_bytes);
	if (o->fd >= 0)
		close(o->fd);
	mem_free(o);
	*op = NULL;
}

struct stat_header *
stat_header(struct stat_object *o)
{
	return o->header;
}

void
stat_beat(struct stat_object *o, uint64_t boot_us, enum stat_state state)
{
	CHECK(o->writable);
	atomic_store_explicit(&o->header->heartbeat_boot_us, boot_us, memory_order_relaxed);
	atomic_store_explicit(&o->header->state, state, memory_order_relaxed);
}

void
stat_put_totals(struct stat_object *o, const void *totals)
{
	CHECK(o->writable);
	block_write(stat_block_at(o, &o->totals, 0), totals, o->totals.words);
}

static void
put_row(struct stat_object *o, struct stat_region *r, _Atomic uint32_t *used, unsigned row,
	const void *src)
{
	CHECK(o->writable && row < r->max);
	if (!row_backed(o, r, row))
		return; /* no memory for it: the totals tell of it */
	block_write(stat_block_at(o, r, row), src, r->words);
	if (row >= atomic_load_explicit(used, memory_order_relaxed))
		atomic_store_explicit(used, row + 1, memory_order_release);
}

void
stat_put_queue(struct stat_object *o, unsigned row, const struct stat_queue *q)
{
	put_row(o, &o->queues, &o->header->queues_used, row, q);
}

void
stat_put_source(struct stat_object *o, unsigned row, const struct stat_source *s)
{
	put_row(o, &o->sources, &o->header->sources_used, row, s);
}

void
stat_put_limit(struct stat_object *o, unsigned row, const struct stat_limit *l)
{
	put_row(o, &o->limits, &o->header->limits_used, row, l);
}
