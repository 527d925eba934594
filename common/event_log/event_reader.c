#include "common/event_log/event_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/event_log/event_file.h"

/* One file, mapped. */
struct mapped {
	struct event_file_header header;
	struct slice bytes; /* p NULL: none */
};

struct event_reader {
	int dir;
	unsigned char instance[16];
	uint32_t seed;
	struct mapped file;
	struct event_position at;
	uint64_t lsn; /* of the next event; 0: any */
	struct buf scratch;
};

static void
unmap(struct mapped *m)
{
	if (m->bytes.p != NULL)
		munmap((void *)(uintptr_t)m->bytes.p, m->bytes.n);
	m->bytes = SLICE_NONE;
}

static int
map(const struct event_reader *r, uint64_t number, struct mapped *out)
{
	int rc = 0;
	int fd = event_file_open(r->dir, number, O_RDONLY, r->instance, &out->header);
	void *p;

	out->bytes = SLICE_NONE;
	if (fd < 0)
		return fd;
	p = mmap(NULL, out->header.bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		rc = -err_errno();
	else
		out->bytes = slice_of(p, out->header.bytes);
	close(fd);
	return rc;
}

struct first_file {
	const struct event_reader *reader;
	uint64_t number;
};

static void
note_first(void *arg, uint64_t number)
{
	struct first_file *f = arg;
	struct event_file_header h;
	int fd;

	if (f->number != 0)
		return;
	/* A file on its way to a new use still has its old name: not the first one. */
	fd = event_file_open(f->reader->dir, number, O_RDONLY, f->reader->instance, &h);
	if (fd == -E_MISSING)
		return;
	if (fd >= 0)
		close(fd);
	f->number = number;
}

int
event_reader_open_at(struct event_reader **out, int events_fd, const unsigned char instance[16],
		     struct event_position from, uint64_t lsn)
{
	struct event_reader *r = mem_zalloc(sizeof *r);
	struct first_file first = { .reader = r };
	int rc = 0;

	r->dir = events_fd;
	memcpy(r->instance, instance, sizeof r->instance);
	r->seed = event_frame_seed(instance);
	r->lsn = lsn;
	if (from.file == 0) {
		rc = event_file_each(events_fd, note_first, &first);
		/* An empty log will begin with file 1. */
		from = (struct event_position){ .file = first.number ? first.number : 1 };
	}
	if (from.offset < EVENT_FILE_HEADER_BYTES)
		from.offset = EVENT_FILE_HEADER_BYTES;
	r->at = from;
	if (rc != 0) {
		event_reader_close(&r);
		return rc;
	}
	*out = r;
	return 0;
}

int
event_reader_open(struct event_reader **out, int events_fd, const unsigned char instance[16],
		  struct event_position from)
{
	return event_reader_open_at(out, events_fd, instance, from, 0);
}

void
event_reader_close(struct event_reader **r)
{
	if (*r == NULL)
		return;
	unmap(&(*r)->file);
	buf_clear(&(*r)->scratch);
	mem_free(*r);
	*r = NULL;
}

struct event_position
event_reader_position(const struct event_reader *r)
{
	return r->at;
}

uint64_t
event_reader_next_lsn(const struct event_reader *r)
{
	return r->lsn;
}

const unsigned char *
event_reader_boot_id(const struct event_reader *r)
{
	return r->file.header.boot_id;
}

/* The frame at `offset` if it is the one that comes next. */
static int
frame_at(const struct event_reader *r, const struct mapped *m, uint64_t offset,
	 struct event_frame *out)
{
	int rc = event_frame_decode(slice_sub(m->bytes, offset), m->header.number, r->seed, out);

	if (rc == 0 && r->lsn != 0 && out->lsn != r->lsn)
		rc = -E_MISSING;
	return rc;
}

/* Some frame behind `offset` is of a batch begun after the event that is missing here was synced.
 */
static bool
synced_behind(const struct event_reader *r, const struct mapped *m, uint64_t offset)
{
	struct event_frame f;

	if (r->lsn == 0)
		return false;
	for (; offset < m->bytes.n; offset += EVENT_ALIGN) {
		if (event_frame_decode(slice_sub(m->bytes, offset), m->header.number, r->seed,
				       &f) == 0 &&
		    f.batch > r->lsn)
			return true;
	}
	return false;
}

/* No next event stands at the present place: is it the first one of the next file? 1 and moved
 * there, 0 it is nowhere yet, -E_* it was there once. */
static int
next_file(struct event_reader *r, struct event_position limit)
{
	struct mapped next;
	struct event_frame f;
	int rc;

	if (limit.file == r->at.file)
		return -E_CRC; /* before the limit there is an event */
	rc = map(r, r->at.file + 1, &next);
	if (rc != 0) {
		if (rc != -E_MISSING || limit.file != 0)
			return rc;
		return synced_behind(r, &r->file, r->at.offset) ? -E_CRC : 0;
	}
	if (frame_at(r, &next, EVENT_FILE_HEADER_BYTES, &f) == 0) {
		unmap(&r->file);
		r->file = next;
		r->at.file++;
		r->at.offset = EVENT_FILE_HEADER_BYTES;
		return 1;
	}
	/* It was synced when the limit is in that file, or a later batch is. */
	rc = 0;
	if (limit.file != 0) {
		struct event_position begin = { r->at.file + 1, EVENT_FILE_HEADER_BYTES };

		rc = event_position_before(begin, limit) ? -E_CRC : 0;
	} else if (synced_behind(r, &r->file, r->at.offset) ||
		   synced_behind(r, &next, EVENT_FILE_HEADER_BYTES)) {
		rc = -E_CRC;
	}
	unmap(&next);
	return rc;
}

/* Finds the frame at the present place or at the start of the next file. 1, 0 or -E_*. */
static int
find(struct event_reader *r, struct event_position limit, struct event_frame *f)
{
	int rc;

	if (r->file.bytes.p == NULL) {
		rc = map(r, r->at.file, &r->file);
		/* A log that has not begun is empty; one that lost its file is not. */
		if (rc == -E_MISSING && limit.file == 0 && r->at.file == 1 &&
		    r->at.offset == EVENT_FILE_HEADER_BYTES && r->lsn <= 1)
			return 0;
		if (rc != 0)
			return rc;
	}
	if (frame_at(r, &r->file, r->at.offset, f) == 0)
		return 1;
	rc = next_file(r, limit);
	if (rc == 1 && frame_at(r, &r->file, r->at.offset, f) != 0)
		rc = -E_CRC;
	return rc;
}

int
event_read(struct event_reader *r, struct event_position limit, struct event *e,
	   struct event_position *pos)
{
	struct event_frame f;
	int rc;

	if (limit.file != 0 && !event_position_before(r->at, limit))
		return 0;
	rc = find(r, limit, &f);
	if (rc != 1)
		return rc;
	rc = event_decode(e, f.payload, &r->scratch);
	if (rc != 0)
		return rc;
	e->lsn = f.lsn;
	r->lsn = f.lsn + 1;
	r->at.offset += f.bytes;
	*pos = r->at;
	return 1;
}
