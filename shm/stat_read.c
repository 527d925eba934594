/* The reader. It trusts nothing that it has not checked against the file's size; a file that is
 * truncated under it gives SIGBUS, which is caught around each access and becomes -E_BAD. */
#include "shm/stat_impl.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

#define READ_TRIES 1000

/* SIGBUS of a mapped file that somebody cut: back to the copy that met it. */
static _Thread_local sigjmp_buf *volatile guard;
static struct sigaction before_us;

static void
on_sigbus(int signo)
{
	if (guard != NULL)
		siglongjmp(*guard, 1);
	/* Not ours: as it was, and the access faults once more. */
	sigaction(signo, &before_us, NULL);
}

/* At each open, for others may have put their own handler there meanwhile. */
static void
catch_sigbus(void)
{
	struct sigaction now, sa = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGBUS, NULL, &now) != 0 || now.sa_handler == on_sigbus)
		return;
	before_us = now;
	sigaction(SIGBUS, &sa, NULL);
}

/* Runs `fn` with SIGBUS caught: its answer, or -E_BAD when the file ended before its size. */
static int
guarded(int (*fn)(void *arg), void *arg)
{
	sigjmp_buf here;
	int rc;

	if (sigsetjmp(here, 0) != 0) {
		guard = NULL;
		return -E_BAD;
	}
	guard = &here;
	atomic_signal_fence(memory_order_seq_cst);
	rc = fn(arg);
	atomic_signal_fence(memory_order_seq_cst);
	guard = NULL;
	return rc;
}

static int
block_read(const struct stat_block *b, void *dst, uint32_t words)
{
	for (int tries = 0; tries < READ_TRIES; tries++) {
		uint64_t seq = atomic_load_explicit(&b->seq, memory_order_acquire);
		const _Atomic uint64_t *src = b->words + (seq & 1) * words;

		for (uint32_t i = 0; i < words; i++) {
			uint64_t w = atomic_load_explicit(&src[i], memory_order_relaxed);

			memcpy((char *)dst + (size_t)i * 8, &w, 8);
		}
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&b->seq, memory_order_relaxed) == seq)
			return 0;
	}
	return -E_AGAIN;
}

struct block_job {
	const struct stat_block *block;
	void *dst;
	uint32_t words;
};

static int
block_job(void *arg)
{
	struct block_job *job = arg;

	return block_read(job->block, job->dst, job->words);
}

static int
block_get(const struct stat_object *o, const struct stat_region *r, uint32_t row, void *dst)
{
	struct block_job job = { stat_block_at(o, r, row), dst, r->words };

	return guarded(block_job, &job);
}

/* A region's numbers from the header; all of it must lie behind the header and inside the file. */
static int
region_check(struct stat_region *r, uint32_t offset, uint32_t stride, uint32_t max, uint32_t most,
	     uint32_t payload, uint64_t file_bytes)
{
	uint64_t end;

	if (max > most)
		return -E_BAD;
	if (stride != stat_block_bytes(payload))
		return -E_FORMAT; /* another layout of the row, though the version is ours */
	if (offset < sizeof(struct stat_header) || offset % STAT_BLOCK_ALIGN != 0)
		return -E_BAD;
	end = offset + (uint64_t)stride * max;
	if (end > file_bytes)
		return -E_BAD;
	*r = (struct stat_region){
		.offset = offset, .stride = stride, .max = max, .words = payload / 8
	};
	return 0;
}

/* Each number is read once: what was checked is what is used, whoever scribbles meanwhile. */
static int
header_check(void *arg)
{
	struct stat_object *o = arg;
	const struct stat_header *h = o->header;
	uint32_t bytes, writer;
	int rc;

	if (h->magic != STAT_MAGIC)
		return -E_BAD;
	if (h->version != STAT_VERSION || h->header_bytes != sizeof *h)
		return -E_FORMAT;
	bytes = h->bytes;
	writer = h->writer;
	o->slot = h->slot;
#ifdef PLANTED_BUGS
	if (bytes > stat_aligned((uint32_t)o->map_bytes)) /* rounded up to the next block */
#else
	if (bytes > o->map_bytes)
#endif
		return -E_BAD;
	if (writer >= STAT_WRITERS || o->slot >= WORKERS_MAX)
		return -E_BAD;
	o->writer = writer;
	rc = region_check(&o->totals, h->totals_offset, h->totals_bytes, 1, 1,
			  stat_writer_kinds[writer].bytes, bytes);
	if (rc == 0)
		rc = region_check(&o->queues, h->queues_offset, h->queue_bytes, h->queues_max,
				  STAT_QUEUE_ROWS, sizeof(struct stat_queue), bytes);
	if (rc == 0)
		rc = region_check(&o->sources, h->sources_offset, h->source_bytes, h->sources_max,
				  STAT_SOURCE_ROWS, sizeof(struct stat_source), bytes);
	if (rc == 0)
		rc = region_check(&o->limits, h->limits_offset, h->limit_bytes, h->limits_max,
				  STAT_LIMIT_ROWS, sizeof(struct stat_limit), bytes);
	return rc;
}

static int
map_file(struct stat_object *o, const char *path)
{
	struct stat st;
	void *map;
	int rc = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return -err_errno();
	if (fstat(fd, &st) != 0) {
		rc = -err_errno();
	} else if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct stat_header) ||
		   st.st_size > UINT32_MAX) {
		rc = -E_BAD;
	} else {
		o->map_bytes = (uint64_t)st.st_size;
		map = mmap(NULL, o->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			rc = -err_errno();
		else
			o->header = map;
	}
	close(fd);
	return rc;
}

int
stat_open(struct stat_object **out, const char *run_dir, enum stat_writer writer, unsigned slot)
{
	struct stat_object *o = mem_zalloc(sizeof *o);
	char path[STAT_PATH_BYTES];
	int rc = stat_path(path, run_dir, "", writer, slot);

	o->fd = -1;
	catch_sigbus();
	if (rc == 0)
		rc = map_file(o, path);
	if (rc == 0)
		rc = guarded(header_check, o);
	if (rc == 0 &&
	    (o->writer != writer || (stat_writer_kinds[writer].numbered && o->slot != slot)))
		rc = -E_BAD;
	if (rc == 0)
		*out = o;
	else
		stat_close(&o);
	return rc;
}

int
stat_open_image(struct stat_object **out, const void *bytes, uint64_t n)
{
	struct stat_object *o;
	int rc;

	if (n < sizeof(struct stat_header))
		return -E_BAD;
	o = mem_zalloc(sizeof *o);
	o->fd = -1;
	o->image = true;
	o->map_bytes = n;
	o->header = mem_alloc(n);
	memcpy((void *)o->header, bytes, n);
	rc = header_check(o);
	if (rc == 0)
		*out = o;
	else
		stat_close(&o);
	return rc;
}

static uint32_t
at_most(uint32_t n, uint32_t max)
{
	return n < max ? n : max;
}

struct info_job {
	const struct stat_object *o;
	struct stat_info *out;
};

static int
info_job(void *arg)
{
	const struct stat_object *o = ((struct info_job *)arg)->o;
	struct stat_info *out = ((struct info_job *)arg)->out;
	const struct stat_header *h = o->header;

	out->pid = atomic_load(&h->pid);
	out->state = atomic_load(&h->state);
	out->generation = atomic_load(&h->generation);
	out->heartbeat_boot_us = atomic_load(&h->heartbeat_boot_us);
	out->queues_used = at_most(atomic_load(&h->queues_used), o->queues.max);
	out->sources_used = at_most(atomic_load(&h->sources_used), o->sources.max);
	out->limits_used = at_most(atomic_load(&h->limits_used), o->limits.max);
	out->started_wall_us = h->started_wall_us;
	memcpy(out->build, h->build, sizeof out->build);
	return 0;
}

int
stat_get_info(const struct stat_object *o, struct stat_info *out)
{
	struct info_job job = { o, out };

	memset(out, 0, sizeof *out);
	out->writer = o->writer;
	out->slot = o->slot;
	out->version = STAT_VERSION;
	out->bytes = (uint32_t)o->map_bytes;
	if (guarded(info_job, &job) != 0)
		return -E_BAD;
	out->build[sizeof out->build - 1] = '\0';
	return 0;
}

int
stat_get_totals(const struct stat_object *o, void *totals, uint32_t bytes)
{
	if (bytes != stat_writer_kinds[o->writer].bytes)
		return -E_FORMAT;
	return block_get(o, &o->totals, 0, totals);
}

int
stat_get_queue(const struct stat_object *o, unsigned row, struct stat_queue *q)
{
	int rc;

	if (row >= o->queues.max)
		return -E_MISSING;
	rc = block_get(o, &o->queues, row, q);
	if (rc != 0)
		return rc;
	/* The writer ends its strings; bytes that a stranger scribbled may not. */
	q->name[sizeof q->name - 1] = '\0';
	q->mode[sizeof q->mode - 1] = '\0';
	q->backoffReason[sizeof q->backoffReason - 1] = '\0';
	return q->name[0] != '\0' ? 0 : -E_MISSING;
}

int
stat_get_source(const struct stat_object *o, unsigned row, struct stat_source *s)
{
	int rc;

	if (row >= o->sources.max)
		return -E_MISSING;
	rc = block_get(o, &o->sources, row, s);
	if (rc != 0)
		return rc;
	s->ip[sizeof s->ip - 1] = '\0';
	s->queue[sizeof s->queue - 1] = '\0';
	s->limit[sizeof s->limit - 1] = '\0';
	return s->ip[0] != '\0' ? 0 : -E_MISSING;
}

int
stat_get_limit(const struct stat_object *o, unsigned row, struct stat_limit *l)
{
	int rc;

	if (row >= o->limits.max)
		return -E_MISSING;
	rc = block_get(o, &o->limits, row, l);
	if (rc != 0)
		return rc;
	l->scope[sizeof l->scope - 1] = '\0';
	l->object[sizeof l->object - 1] = '\0';
	l->sourceIp[sizeof l->sourceIp - 1] = '\0';
	l->name[sizeof l->name - 1] = '\0';
	l->value[sizeof l->value - 1] = '\0';
	return l->scope[0] != '\0' ? 0 : -E_MISSING;
}
