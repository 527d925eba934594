#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/disk.h"
#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/event_log/event_file.h"
#include "common/event_log/event_log.h"
#include "common/event_log/event_reader.h"

#define COPY_BYTES (1u << 20)

/* What of a batch goes into one file. */
struct part {
	struct event_position at;
	size_t start, bytes; /* in the batch */
};

struct event_writer {
	int dir;
	unsigned char instance[16], boot_id[16];
	uint32_t seed;
	uint64_t file_bytes;
	int failed; /* of the first error: nothing is written after it */

	struct buf batch;
	struct buf encoded; /* the event being appended */
	struct part *parts;
	size_t n_parts, cap_parts;
	uint64_t batch_lsn, next_lsn;
	struct event_position tail;   /* where the next event of the batch goes */
	struct event_position synced; /* where all before it is on disk */

	pthread_mutex_t lock; /* of what follows: the set of files */
	uint64_t file;        /* number of the one that is open */
	int fd;
};

static int
sync_fd(int fd)
{
	return fdatasync(fd) == 0 ? 0 : -err_errno();
}

/* Opening ---------------------------------------------------------------------------------------
 */

/* What a batch cut short left behind the end of file `number`. A later batch that happens to end
 * where one of these begins would make it the next event: their magics go. */
static int
erase_leftovers(struct event_writer *w, uint64_t number, uint64_t from)
{
	static const char zeros[EVENT_ALIGN];
	struct event_file_header h;
	struct event_frame f;
	unsigned erased = 0;
	char *p;
	int fd = event_file_open(w->dir, number, O_RDWR, w->instance, &h);
	int rc = 0;

	if (fd < 0)
		return fd == -E_MISSING ? 0 : fd;
	p = mmap(NULL, h.bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		rc = -err_errno();
		close(fd);
		return rc;
	}
	for (uint64_t at = from; rc == 0 && at + EVENT_ALIGN <= h.bytes; at += EVENT_ALIGN) {
		if (event_frame_decode(slice_of(p + at, h.bytes - at), number, w->seed, &f) ==
		    -E_MISSING)
			continue;
		rc = file_write(fd, zeros, sizeof zeros, at);
		erased++;
	}
	munmap(p, h.bytes);
	/* What was valid before the end may so far be in the page cache only. */
	if (rc == 0)
		rc = sync_fd(fd);
	close(fd);
	if (erased > 0)
		log_warn("event_file=%llu unfinished_events=%u erased", (unsigned long long)number,
			 erased);
	return rc;
}

/* What is valid in file `number` from `from` on is written once more: after a sync that failed the system
 * may take pages for clean that never reached the disk, and a further sync would not touch them. */
static int
write_again(struct event_writer *w, uint64_t number, uint64_t from, uint64_t to)
{
	struct event_file_header h;
	char *bytes;
	int fd = event_file_open(w->dir, number, O_RDWR, w->instance, &h);
	int rc = 0;

	if (fd < 0)
		return fd == -E_MISSING ? 0 : fd;
	if (to > h.bytes)
		to = h.bytes;
	bytes = mem_alloc(COPY_BYTES);
	while (rc == 0 && from < to) {
		size_t want = to - from < COPY_BYTES ? (size_t)(to - from) : COPY_BYTES;
		ssize_t n = pread(fd, bytes, want, (off_t)from);

		if (n <= 0)
			rc = n < 0 ? -err_errno() : -E_FORMAT;
		else
			rc = file_write(fd, bytes, (size_t)n, from);
		from += (uint64_t)(n > 0 ? n : 0);
	}
	if (rc == 0)
		rc = sync_fd(fd);
	mem_free(bytes);
	close(fd);
	return rc;
}

static int
find_end(struct event_writer *w, struct event_position from, uint64_t next_lsn)
{
	struct event_reader *r;
	struct event_position pos;
	struct event e;
	int rc = event_reader_open_at(&r, w->dir, w->instance, from, next_lsn);

	if (rc != 0)
		return rc;
	while ((rc = event_read(r, (struct event_position){ 0, 0 }, &e, &pos)) == 1)
		;
	w->synced = event_reader_position(r);
	w->next_lsn = event_reader_next_lsn(r);
	event_reader_close(&r);
	if (from.file == 0)
		return rc;
	for (uint64_t n = from.file; rc == 0 && n <= w->synced.file; n++)
		rc = write_again(w, n, n == from.file ? from.offset : EVENT_FILE_HEADER_BYTES,
				 n == w->synced.file ? w->synced.offset : UINT64_MAX);
	return rc;
}

/* Opens file `number` for writing; makes it, or stamps it for this boot, where needed. Lock held.
 */
static int
open_file(struct event_writer *w, uint64_t number, bool empty, int *out)
{
	struct event_file_header h;
	char name[EVENT_NAME_BYTES];
	int rc;
	int fd = event_file_open(w->dir, number, O_RDWR, w->instance, &h);

	if (empty && (fd < 0 ? fd == -E_MISSING : h.bytes != w->file_bytes)) {
		if (fd >= 0)
			close(fd);
		event_file_name(name, number);
		unlinkat(w->dir, name, 0);
		h = (struct event_file_header){ .number = number, .bytes = w->file_bytes };
		memcpy(h.boot_id, w->boot_id, 16);
		rc = event_file_create(w->dir, &h, w->instance);
		if (rc != 0)
			return rc;
		fd = event_file_open(w->dir, number, O_RDWR, w->instance, &h);
	}
	if (fd < 0)
		return fd;
	if (empty && memcmp(h.boot_id, w->boot_id, 16) != 0) {
		memcpy(h.boot_id, w->boot_id, 16);
		rc = event_file_stamp(fd, &h, w->instance);
		if (rc == 0)
			rc = sync_fd(fd);
		if (rc != 0) {
			close(fd);
			return rc;
		}
	}
	*out = fd;
	return 0;
}

static int
open_tail(struct event_writer *w)
{
	struct event_file_header h = { 0 };
	bool empty = w->synced.offset == EVENT_FILE_HEADER_BYTES;
	int rc;
	int fd = event_file_open(w->dir, w->synced.file, O_RDONLY, w->instance, &h);

	if (fd >= 0)
		close(fd);
	else if (fd != -E_MISSING)
		return fd;
	if ((rc = erase_leftovers(w, w->synced.file, w->synced.offset)) != 0 ||
	    (rc = erase_leftovers(w, w->synced.file + 1, EVENT_FILE_HEADER_BYTES)) != 0)
		return rc;
	w->tail = w->synced;
	/* A file holds events of one boot and is of one size: else the next event begins a new one.
	 */
	if (!empty && (memcmp(h.boot_id, w->boot_id, 16) != 0 || h.bytes != w->file_bytes)) {
		w->tail = (struct event_position){ w->synced.file + 1, EVENT_FILE_HEADER_BYTES };
		empty = true;
	}
	w->file = w->tail.file;
	return open_file(w, w->file, empty, &w->fd);
}

int
event_writer_open_sized(struct event_writer **out, int events_fd, const unsigned char instance[16],
			struct event_position from, uint64_t next_lsn, uint64_t file_bytes)
{
	struct event_writer *w = mem_zalloc(sizeof *w);
	int rc;

	CHECK(next_lsn > 0 && file_bytes > EVENT_FILE_HEADER_BYTES &&
	      file_bytes % EVENT_ALIGN == 0);
	w->dir = events_fd;
	w->fd = -1;
	w->file_bytes = file_bytes;
	memcpy(w->instance, instance, sizeof w->instance);
	w->seed = event_frame_seed(instance);
	clock_boot_id(w->boot_id);
	pthread_mutex_init(&w->lock, NULL);
	/* A file that was renamed by one killed right then: its events are only as durable as its name. */
	rc = fsync(events_fd) == 0 ? 0 : -err_errno();
	if (rc == 0)
		rc = find_end(w, from, next_lsn);
	if (rc == 0)
		rc = open_tail(w);
	if (rc != 0) {
		event_writer_close(&w);
		return rc;
	}
	*out = w;
	return 0;
}

int
event_writer_open(struct event_writer **out, int events_fd, const unsigned char instance[16],
		  struct event_position from, uint64_t next_lsn)
{
	return event_writer_open_sized(out, events_fd, instance, from, next_lsn,
				       disk_file_bytes(events_fd, EVENT_FILE_BYTES));
}

int
event_writer_pass(struct event_writer *w, struct event_position behind, uint64_t next_lsn)
{
	struct event_position at = { w->synced.file + 1, EVENT_FILE_HEADER_BYTES };
	int fd, rc;

	CHECK(w->batch.len == 0 && w->failed == 0);
	if (behind.file >= at.file)
		at.file = behind.file + 1;
	if (next_lsn == 0) { /* more than there was room for */
		uint64_t files = behind.file > w->synced.file ? behind.file - w->synced.file : 0;

		next_lsn = w->next_lsn + (files * w->file_bytes + behind.offset) / EVENT_ALIGN;
	}
	rc = erase_leftovers(w, at.file, EVENT_FILE_HEADER_BYTES);
	if (rc == 0)
		rc = open_file(w, at.file, true, &fd);
	if (rc != 0)
		return rc;
	close(w->fd);
	w->fd = fd;
	w->file = at.file;
	w->tail = w->synced = at;
	if (next_lsn > w->next_lsn)
		w->next_lsn = next_lsn;
	return 0;
}

void
event_writer_close(struct event_writer **w)
{
	if (*w == NULL)
		return;
	if ((*w)->fd >= 0)
		close((*w)->fd);
	buf_clear(&(*w)->batch);
	buf_clear(&(*w)->encoded);
	mem_free((*w)->parts);
	pthread_mutex_destroy(&(*w)->lock);
	mem_free(*w);
	*w = NULL;
}

/* Appending -------------------------------------------------------------------------------------
 */

static struct part *
part_for(struct event_writer *w, size_t mark)
{
	struct part *p = w->n_parts > 0 ? &w->parts[w->n_parts - 1] : NULL;

	if (p != NULL && p->at.file == w->tail.file)
		return p;
	mem_grow((void **)&w->parts, &w->cap_parts, w->n_parts + 1, sizeof *w->parts);
	p = &w->parts[w->n_parts++];
	*p = (struct part){ .at = w->tail, .start = mark };
	return p;
}

static size_t
put_frame(struct event_writer *w, struct slice payload)
{
	size_t mark = event_frame_begin(&w->batch, w->next_lsn, w->batch_lsn, w->tail.file);

	buf_put_slice(&w->batch, payload);
	event_frame_end(&w->batch, mark, w->seed);
	return w->batch.len - mark;
}

uint64_t
event_append_encoded(struct event_writer *w, struct slice payload)
{
	size_t mark = w->batch.len, n;

	if (mark == 0)
		w->batch_lsn = w->next_lsn;
	n = put_frame(w, payload);
	CHECK(n <= w->file_bytes - EVENT_FILE_HEADER_BYTES);
	if (n > w->file_bytes - w->tail.offset) {
		/* The file's number is in the frame: written again for the next one. */
		w->batch.len = mark;
		w->tail = (struct event_position){ w->tail.file + 1, EVENT_FILE_HEADER_BYTES };
		n = put_frame(w, payload);
	}
	part_for(w, mark)->bytes += n;
	w->tail.offset += n;
	return w->next_lsn++;
}

uint64_t
event_append(struct event_writer *w, const struct event *e)
{
	buf_reset(&w->encoded);
	event_encode(&w->encoded, e);
	return event_append_encoded(w, buf_slice(&w->encoded));
}

static int
sync_part(struct event_writer *w, const struct part *p)
{
	int rc;

	if (p->at.file != w->file) {
		int fd;

		pthread_mutex_lock(&w->lock);
		rc = open_file(w, p->at.file, true, &fd);
		if (rc == 0) {
			close(w->fd);
			w->fd = fd;
			w->file = p->at.file;
		}
		pthread_mutex_unlock(&w->lock);
		if (rc != 0)
			return rc;
	}
	rc = file_write(w->fd, w->batch.data + p->start, p->bytes, p->at.offset);
	return rc != 0 ? rc : sync_fd(w->fd);
}

int
event_sync(struct event_writer *w)
{
	/* In order: a part in the next file proves that the one before it is on disk. */
	for (size_t i = 0; i < w->n_parts && w->failed == 0; i++)
		w->failed = sync_part(w, &w->parts[i]);
	if (w->failed != 0)
		return w->failed;
	if (w->n_parts > 0)
		w->synced = w->tail;
	buf_reset(&w->batch);
	w->n_parts = 0;
	return 0;
}

struct event_position
event_writer_position(const struct event_writer *w)
{
	return w->synced;
}

uint64_t
event_writer_next_lsn(const struct event_writer *w)
{
	return w->next_lsn;
}

uint64_t
event_writer_file_bytes(const struct event_writer *w)
{
	return w->file_bytes;
}

bool
event_writer_takes(const struct event_writer *w, size_t encoded_bytes)
{
	return encoded_bytes + EVENT_FRAME_HEAD + 4 + EVENT_ALIGN <=
	       w->file_bytes - EVENT_FILE_HEADER_BYTES;
}

/* Files -----------------------------------------------------------------------------------------
 */

int
event_prepare(struct event_writer *w)
{
	int rc, fd = -1;

	pthread_mutex_lock(&w->lock);
	rc = open_file(w, w->file + 1, true, &fd);
	pthread_mutex_unlock(&w->lock);
	if (fd >= 0)
		close(fd);
	return rc;
}

struct recycling {
	struct event_writer *w;
	uint64_t low;     /* files before it are done with */
	uint64_t highest; /* number in use */
	int rc;
};

static void
note_highest(void *arg, uint64_t number)
{
	struct recycling *c = arg;

	if (number > c->highest)
		c->highest = number;
}

/* Gives the file its new header, synced, then its new name: a file of a name that is read is whole.
 */
static int
reuse(struct event_writer *w, uint64_t number, uint64_t new_number)
{
	struct event_file_header h = { .number = new_number, .bytes = w->file_bytes };
	char name[EVENT_NAME_BYTES], new_name[EVENT_NAME_BYTES];
	int fd, rc;

	memcpy(h.boot_id, w->boot_id, 16);
	event_file_name(name, number);
	event_file_name(new_name, new_number);
	fd = openat(w->dir, name, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	if (lseek(fd, 0, SEEK_END) != (off_t)w->file_bytes) {
		close(fd);
		return -E_FORMAT;
	}
	rc = event_file_stamp(fd, &h, w->instance);
	if (rc == 0)
		rc = sync_fd(fd);
	close(fd);
	if (rc == 0 && (renameat(w->dir, name, w->dir, new_name) != 0 || fsync(w->dir) != 0))
		rc = -err_errno();
	return rc;
}

static void
recycle_one(void *arg, uint64_t number)
{
	struct recycling *c = arg;
	struct event_writer *w = c->w;
	char name[EVENT_NAME_BYTES];

	if (c->rc != 0 || number >= c->low || number >= w->file)
		return;
	if (c->highest < w->file + EVENT_SPARES) {
		int rc = reuse(w, number, c->highest + 1);

		if (rc == 0)
			c->highest++;
		if (rc != -E_FORMAT) {
			c->rc = rc;
			return;
		}
	}
	event_file_name(name, number);
	if (unlinkat(w->dir, name, 0) != 0)
		c->rc = -err_errno();
}

int
event_recycle(struct event_writer *w, struct event_position low)
{
	struct recycling c = { .w = w, .low = low.file };
	int rc;

	pthread_mutex_lock(&w->lock);
	c.highest = w->file;
	rc = event_file_each(w->dir, note_highest, &c);
	if (rc == 0)
		rc = event_file_each(w->dir, recycle_one, &c);
	pthread_mutex_unlock(&w->lock);
	return rc != 0 ? rc : c.rc;
}

static void
note_lowest(void *arg, uint64_t number)
{
	struct event_position *low = arg;

	if (low->file == 0)
		low->file = number;
}

int
event_log_oldest(int events_fd, struct event_position *out)
{
	int rc;

	*out = (struct event_position){ 0, 0 };
	rc = event_file_each(events_fd, note_lowest, out);
	if (out->file == 0)
		out->file = 1;
	return rc;
}

static void
count(void *arg, uint64_t number)
{
	(void)number;
	++*(int *)arg;
}

int
event_log_files(int events_fd)
{
	int n = 0;
	int rc = event_file_each(events_fd, count, &n);

	return rc != 0 ? rc : n;
}

struct trimming {
	int dir;
	uint64_t low;  /* files before it are done with */
	unsigned left; /* so many of them are to go */
	int rc;
};

static void
count_old(void *arg, uint64_t number)
{
	struct trimming *t = arg;

	t->left += number < t->low;
}

static void
trim_one(void *arg, uint64_t number)
{
	struct trimming *t = arg;
	char name[EVENT_NAME_BYTES];

	if (t->left == 0 || number >= t->low)
		return;
	t->left--;
	event_file_name(name, number);
	if (unlinkat(t->dir, name, 0) != 0 && t->rc == 0)
		t->rc = -err_errno();
}

int
event_log_trim(int events_fd, struct event_position low, unsigned keep)
{
	struct trimming t = { .dir = events_fd, .low = low.file };
	int rc = event_file_each(events_fd, count_old, &t);

	t.left = t.left > keep ? t.left - keep : 0;
	if (rc == 0 && t.left > 0)
		rc = event_file_each(events_fd, trim_one, &t);
	return rc != 0 ? rc : t.rc;
}
