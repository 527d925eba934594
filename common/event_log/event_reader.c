#include "common/event_log/event_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/limits.h"
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
	struct mapped next; /* looked at; here, so that a fault under it leaves nothing mapped */
	struct event_position at;
	uint64_t lsn; /* of the next event; 0: any */
	bool or_later;               /* than `lsn`: what was passed over is not known to its end */
	struct buf payload, scratch; /* of the event read last: no caller has the map in hand */
};

static void
unmap(struct mapped *m)
{
	if (m->bytes.p != NULL)
		munmap((void *)(uintptr_t)m->bytes.p, m->bytes.n);
	m->bytes = SLICE_NONE;
}

/* As many bytes as the header says. */
static int
map_file(int fd, struct mapped *m)
{
	void *p = mmap(NULL, m->header.bytes, PROT_READ, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -err_errno();
	m->bytes = slice_of(p, m->header.bytes);
	return 0;
}

static int
map(const struct event_reader *r, uint64_t number, struct mapped *out)
{
	int rc, fd = event_file_open(r->dir, number, O_RDONLY, r->instance, &out->header);

	out->bytes = SLICE_NONE;
	if (fd < 0)
		return fd;
	rc = map_file(fd, out);
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
	unmap(&(*r)->next);
	buf_clear(&(*r)->payload);
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

uint64_t
event_reader_expects(const struct event_reader *r)
{
	return r->or_later ? 0 : r->lsn;
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

	if (rc == 0 && r->lsn != 0 && (r->or_later ? out->lsn < r->lsn : out->lsn != r->lsn))
		rc = -E_MISSING;
	return rc;
}

/* A reader that does not know which event comes next cannot tell the end of a file from damage by
 * the next file alone: the end has no event behind it, and is never that of an empty file. */
static bool
is_end(const struct event_reader *r)
{
	struct event_frame f;

	if (r->lsn != 0 && !r->or_later)
		return true;
	if (r->at.offset == EVENT_FILE_HEADER_BYTES)
		return false;
	for (uint64_t at = r->at.offset; at < r->file.bytes.n; at += EVENT_ALIGN) {
		if (event_frame_decode(slice_sub(r->file.bytes, at), r->file.header.number, r->seed,
				       &f) == 0)
			return false;
	}
	return true;
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

static void
go_to_next(struct event_reader *r, uint64_t number, uint64_t offset)
{
	unmap(&r->file);
	r->file = r->next;
	r->next.bytes = SLICE_NONE;
	r->at = (struct event_position){ number, offset };
}

/* No next event stands at the present place: is it the first one of the next file? 1 and moved
 * there, 0 it is nowhere yet, -E_* it was there once. */
static int
next_file(struct event_reader *r, struct event_position limit)
{
	struct event_frame f;
	int rc;

	if (limit.file == r->at.file)
		return -E_CRC; /* before the limit there is an event */
	rc = map(r, r->at.file + 1, &r->next);
	if (rc != 0) {
		if (rc != -E_MISSING || limit.file != 0)
			return rc;
		return synced_behind(r, &r->file, r->at.offset) ? -E_CRC : 0;
	}
	if (frame_at(r, &r->next, EVENT_FILE_HEADER_BYTES, &f) == 0 && is_end(r)) {
		go_to_next(r, r->at.file + 1, EVENT_FILE_HEADER_BYTES);
		return 1;
	}
	/* It was synced when the limit is in that file, or a later batch is. */
	rc = 0;
	if (limit.file != 0) {
		struct event_position begin = { r->at.file + 1, EVENT_FILE_HEADER_BYTES };

		rc = event_position_before(begin, limit) ? -E_CRC : 0;
	} else if (synced_behind(r, &r->file, r->at.offset) ||
		   synced_behind(r, &r->next, EVENT_FILE_HEADER_BYTES)) {
		rc = -E_CRC;
	}
	unmap(&r->next);
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
	buf_reset(&r->payload);
	buf_put_slice(&r->payload, f.payload);
	rc = event_decode(e, buf_slice(&r->payload), &r->scratch);
	if (rc != 0)
		return rc;
	e->lsn = f.lsn;
	r->lsn = f.lsn + 1;
	r->or_later = false;
	r->at.offset += f.bytes;
	*pos = r->at;
	return 1;
}

/* Behind damage ---------------------------------------------------------------------------------
 */

#define FRAME_LEAST 48 /* bytes of the smallest event, in its frame */

/* The file as it is, when its header cannot be trusted: each frame names the file, and the instance
 * is in its CRC. */
static int
map_headless(const struct event_reader *r, uint64_t number, struct mapped *out)
{
	char name[EVENT_NAME_BYTES];
	struct stat st;
	int rc, fd;

	event_file_name(name, number);
	fd = openat(r->dir, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	*out = (struct mapped){ .header.number = number };
	if (fstat(fd, &st) != 0) {
		rc = -err_errno();
	} else if (st.st_size <= EVENT_FILE_HEADER_BYTES) {
		rc = -E_MISSING; /* nothing is left of it */
	} else {
		out->header.bytes = (uint64_t)st.st_size;
		rc = map_file(fd, out);
	}
	close(fd);
	return rc;
}

/* *whole: the file has the length that it says. */
static int
map_any(const struct event_reader *r, uint64_t number, struct mapped *out, bool *whole)
{
	int rc = map(r, number, out);

	*whole = rc == 0;
	if (rc == -E_CRC || rc == -E_FORMAT || rc == -E_FOREIGN || rc == -E_MISSING)
		rc = map_headless(r, number, out);
	return rc;
}

struct search {
	const struct event_reader *r;
	const struct mapped *file;
	uint64_t at, end; /* in the file */
	uint64_t room;    /* bytes where events may have stood, in the files before */
};

/* A frame at `at` that is whole before the end. */
static bool
whole_at(const struct search *s, uint64_t at, struct event_frame *f)
{
	return at < s->end &&
	       event_frame_decode(slice_of(s->file->bytes.p + at, s->end - at),
				  s->file->header.number, s->r->seed, f) == 0 &&
	       f->bytes <= s->end - at;
}

/* It comes behind the last one read, and not by more events than may have stood between. */
static bool
can_follow(const struct search *s, uint64_t at, const struct event_frame *f)
{
	uint64_t least = s->r->lsn;

	if (f->lsn == 0 || f->lsn < least || f->batch == 0 || f->batch > f->lsn)
		return false;
	return least == 0 || s->r->or_later ||
	       f->lsn - least <= (s->room + at - s->at) / FRAME_LEAST;
}

/* Where the search begins: behind the damaged frame, when its length leads to the event that
 * follows it. Only so are bytes inside of it not looked at. */
static uint64_t
behind_first(const struct search *s)
{
	struct event_frame first, f;

	if (event_frame_claims(slice_of(s->file->bytes.p + s->at, s->end - s->at),
			       s->file->header.number, &first) != 0 ||
	    (s->r->lsn != 0 && first.lsn != s->r->lsn) || first.bytes >= s->end - s->at)
		return s->at;
	return whole_at(s, s->at + first.bytes, &f) && f.lsn == first.lsn + 1 ? s->at + first.bytes
									      : s->at;
}

static bool
search(const struct search *s, struct buf *scratch, uint64_t *found, uint64_t *lsn)
{
	struct event_frame f;
	struct event e;
	uint64_t step;

	if (s->at >= s->end)
		return false;
	/* What stands there may be what comes next, when only the header of its file is damaged. */
	*found = whole_at(s, s->at, &f) ? s->at : behind_first(s);
	for (; *found < s->end; *found += step) {
		step = EVENT_ALIGN;
		if (!whole_at(s, *found, &f) || !can_follow(s, *found, &f))
			continue;
		step = f.bytes;
		*lsn = f.lsn;
		if (event_decode(&e, f.payload, scratch) == 0)
			return true;
	}
	return false;
}

int
event_resync(struct event_reader *r, struct event_position limit, struct event_gap *gap)
{
	struct event_position at = r->at;
	struct search s = { .r = r, .file = &r->next };
	uint64_t found, lsn;
	bool whole;
	int rc;

	CHECK(limit.file != 0);
	*gap = (struct event_gap){ .from = at, .first_lsn = event_reader_expects(r) };
	for (; at.file <= limit.file; at.file++, at.offset = EVENT_FILE_HEADER_BYTES) {
		unmap(&r->next);
		rc = map_any(r, at.file, &r->next, &whole);
		if (rc == -E_MISSING) {
			s.room += EVENT_FILE_BYTES;
			continue;
		}
		if (rc != 0)
			return rc;
		s.at = at.offset;
		s.end = r->next.bytes.n & ~(uint64_t)(EVENT_ALIGN - 1);
		if (at.file == limit.file && limit.offset < s.end)
			s.end = limit.offset;
		if (search(&s, &r->scratch, &found, &lsn)) {
			gap->to = (struct event_position){ at.file, found };
			gap->bytes += found - s.at;
			gap->last_lsn = lsn - 1;
			gap->whole = lsn == r->lsn || !event_position_before(gap->from, gap->to);
			go_to_next(r, at.file, found);
			r->lsn = lsn;
			r->or_later = false;
			return 1;
		}
		if (s.end < s.at)
			s.end = s.at;
		gap->bytes += s.end - s.at;
		s.room += whole ? s.end - s.at : EVENT_FILE_BYTES;
	}
	/* All before the limit was synced: there is nothing more that could be waited for. */
	unmap(&r->next);
	unmap(&r->file);
	gap->to = r->at = limit;
	r->or_later = true;
	return 0;
}
