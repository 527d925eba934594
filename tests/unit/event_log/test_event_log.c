/* The event log: in order, to the synced end, over files, cuts, recycling, restarts and damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/event_log/event_file.h"
#include "common/event_log/event_log.h"
#include "tests/lib/scratch.h"

#define BYTES 16384u

static const unsigned char us[16] = "instance of ours", them[16] = "instance, theirs";
static const struct event_position start, no_limit;

struct fixture {
	char path[600];
	int dir;
	struct event_writer *w;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	strcpy(f->path, scratch_make());
	f->dir = open(f->path, O_RDONLY | O_DIRECTORY);
	*state = f;
	return event_writer_open_sized(&f->w, f->dir, us, start, 1, BYTES);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	event_writer_close(&f->w);
	close(f->dir);
	scratch_remove(f->path);
	free(f);
	return 0;
}

static const char *
file_path(const struct fixture *f, uint64_t number)
{
	char name[EVENT_NAME_BYTES];

	event_file_name(name, number);
	return scratch_path(f->path, name);
}

/* Appends an event whose contents follow from its number, with `pad` bytes of text. */
static uint64_t
append(struct event_writer *w, uint64_t message, size_t pad)
{
	static char text[8192];
	struct event_rcpt rcpt = { .action = EVENT_DELIVERED, .address = SLICE_LIT("a@b.example") };
	struct event e = { .kind = EVENT_RESULT, .message = message, .rcpts = &rcpt, .n_rcpts = 1 };

	memset(text, 't', sizeof text);
	e.reason = slice_of(text, pad);
	return event_append(w, &e);
}

static void
append_synced(struct event_writer *w, uint64_t from, uint64_t n, size_t pad)
{
	for (uint64_t i = 0; i < n; i++)
		append(w, from + i, pad);
	assert_int_equal(event_sync(w), 0);
}

/* Reads from `from` to `limit`: each lsn and message number one above the last. How many, or -E_*.
 */
static int
count(const struct fixture *f, struct event_position from, struct event_position limit,
      uint64_t *first, uint64_t *last)
{
	struct event_reader *r;
	struct event_position pos;
	struct event e;
	uint64_t before = 0;
	int n = 0, rc;

	assert_int_equal(event_reader_open(&r, f->dir, us, from), 0);
	while ((rc = event_read(r, limit, &e, &pos)) == 1) {
		assert_int_equal(e.kind, EVENT_RESULT);
		assert_int_equal(e.n_rcpts, 1);
		assert_true(slice_is(e.rcpts[0].address, "a@b.example"));
		assert_int_equal(e.lsn, e.message);
		if (n > 0)
			assert_int_equal(e.lsn, before + 1);
		else if (first != NULL)
			*first = e.lsn;
		before = e.lsn;
		n++;
	}
	if (last != NULL)
		*last = before;
	event_reader_close(&r);
	return rc < 0 ? rc : n;
}

static void
reopen(struct fixture *f, struct event_position from, uint64_t lsn)
{
	event_writer_close(&f->w);
	assert_int_equal(event_writer_open_sized(&f->w, f->dir, us, from, lsn, BYTES), 0);
}

static void
only_what_was_synced(void **state)
{
	struct fixture *f = *state;
	struct event_position a = event_writer_position(f->w), b;

	assert_int_equal(count(f, start, no_limit, NULL, NULL), 0);
	assert_int_equal(append(f->w, 1, 10), 1);
	assert_int_equal(append(f->w, 2, 0), 2);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 0);
	assert_false(event_position_before(a, event_writer_position(f->w)));
	assert_int_equal(event_sync(f->w), 0);
	b = event_writer_position(f->w);
	assert_true(event_position_before(a, b));
	assert_int_equal(event_writer_next_lsn(f->w), 3);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 2);
	assert_int_equal(count(f, a, b, NULL, NULL), 2);
	append_synced(f->w, 3, 5, 100);
	assert_int_equal(count(f, a, b, NULL, NULL), 2); /* not behind the limit */
	assert_int_equal(count(f, b, no_limit, NULL, NULL), 5);
	assert_int_equal(count(f, start, start, NULL, NULL), 7);
	assert_int_equal(event_sync(f->w), 0); /* of nothing */
}

static void
over_many_files(void **state)
{
	struct fixture *f = *state;
	struct event_position mid;
	uint64_t last;

	for (uint64_t i = 0; i < 30; i++)
		append_synced(f->w, 1 + i * 10, 10, 300 + i * 20);
	assert_true(event_writer_position(f->w).file > 5);
	assert_int_equal(count(f, start, no_limit, NULL, &last), 300);
	assert_int_equal(count(f, start, event_writer_position(f->w), NULL, NULL), 300);
	mid = event_writer_position(f->w);
	/* One batch over several files. */
	append_synced(f->w, 301, 40, 2000);
	assert_true(event_writer_position(f->w).file > mid.file + 3);
	assert_int_equal(count(f, mid, event_writer_position(f->w), NULL, NULL), 40);
	assert_int_equal(count(f, mid, no_limit, NULL, NULL), 40);
	reopen(f, mid, 301);
	assert_int_equal(event_writer_next_lsn(f->w), 341);
	append_synced(f->w, 341, 3, 10);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 343);
}

static void
a_reader_follows(void **state)
{
	struct fixture *f = *state;
	struct event_position pos = { 0, 0 };
	struct event_reader *r;
	struct event e;
	uint64_t lsn = 1;

	assert_int_equal(event_reader_open(&r, f->dir, us, start), 0);
	for (int turn = 0; turn < 60; turn++) {
		append_synced(f->w, lsn, 7, 90);
		for (int i = 0; i < 7; i++) {
			assert_int_equal(event_read(r, event_writer_position(f->w), &e, &pos), 1);
			assert_int_equal(e.lsn, lsn++);
		}
		assert_int_equal(event_read(r, event_writer_position(f->w), &e, &pos), 0);
		assert_int_equal(event_read(r, no_limit, &e, &pos), 0);
		if (turn == 20) {
			/* A restart of the reader goes on where it was. */
			event_reader_close(&r);
			assert_int_equal(event_reader_open(&r, f->dir, us, pos), 0);
		}
	}
	assert_true(pos.file > 1);
	event_reader_close(&r);
}

/* The last event cut at every byte, as a writer killed while it wrote leaves it: the log ends
 * before it, and goes on from there. */
static void
a_torn_tail(void **state)
{
	struct fixture *f = *state;
	struct event_position before, end;
	char path[700];
	char *whole, *torn;
	size_t n;

	strcpy(path, file_path(f, 1));
	append_synced(f->w, 1, 3, 50);
	before = event_writer_position(f->w);
	append_synced(f->w, 4, 1, 50);
	end = event_writer_position(f->w);
	whole = scratch_read(path, &n);
	torn = malloc(n);
	for (uint64_t cut = before.offset; cut < end.offset; cut++) {
		/* Of the padding nothing can be missing: it is zeros. */
		int left;

		memcpy(torn, whole, n);
		memset(torn + cut, 0, n - cut);
		left = memcmp(torn, whole, n) == 0 ? 4 : 3;
		scratch_write(path, torn, n);
		assert_int_equal(count(f, start, no_limit, NULL, NULL), left);
		/* To one who knows that it was synced, it is damage. */
		assert_int_equal(count(f, start, end, NULL, NULL), left == 4 ? 4 : -E_CRC);
		reopen(f, start, 1);
		assert_int_equal(event_writer_next_lsn(f->w), left + 1);
		append_synced(f->w, (uint64_t)left + 1, 2, 50);
		assert_int_equal(count(f, start, no_limit, NULL, NULL), left + 2);
	}
	assert_int_equal(count(f, start, event_writer_position(f->w), NULL, NULL), 6);
	free(torn);
	free(whole);
}

/* A batch of three whose first event did not reach the disk while the others did, and a new batch
 * of the same size in its place: the old two must not come back behind it. */
static void
leftovers_are_not_resurrected(void **state)
{
	struct fixture *f = *state;
	struct event_position before;
	const char *path = file_path(f, 1);

	append_synced(f->w, 1, 2, 50);
	before = event_writer_position(f->w);
	append_synced(f->w, 3, 3, 50);
	scratch_flip(path, before.offset + 40, 3);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 2);
	reopen(f, start, 1);
	assert_int_equal(event_writer_next_lsn(f->w), 3);
	append_synced(f->w, 3, 1, 50);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 3);
}

/* The same where the unfinished batch had begun the next file. */
static void
leftovers_in_the_next_file(void **state)
{
	struct fixture *f = *state;
	uint64_t lsn = 1;

	while (event_writer_position(f->w).offset + 3000 < BYTES)
		append_synced(f->w, lsn++, 1, 1000);
	append_synced(f->w, lsn, 3, 4000); /* does not fit: the next file begins */
	assert_int_equal(event_writer_position(f->w).file, 2);
	scratch_flip(file_path(f, 2), EVENT_FILE_HEADER_BYTES + 100, 0);
	reopen(f, start, 1);
	assert_int_equal(event_writer_position(f->w).file, 1);
	assert_int_equal(event_writer_next_lsn(f->w), lsn);
	append_synced(f->w, lsn, 1, 4000);
	assert_int_equal(event_writer_position(f->w).file, 2);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), lsn);
}

/* Damage to what was synced is told, wherever it is; a reader with a limit and one without. */
static void
every_flipped_bit_is_told(void **state)
{
	struct fixture *f = *state;
	struct event_position begin, end, all;
	const char *path = file_path(f, 1);
	struct event_writer *w;

	append_synced(f->w, 1, 2, 20);
	begin = event_writer_position(f->w);
	append_synced(f->w, 3, 1, 20);
	end = event_writer_position(f->w);
	append_synced(f->w, 4, 2, 20);
	all = event_writer_position(f->w);
	for (uint64_t at = begin.offset; at < end.offset - 16; at++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			scratch_flip(path, at, bit);
			assert_int_equal(count(f, start, all, NULL, NULL), -E_CRC);
			assert_int_equal(count(f, start, no_limit, NULL, NULL), -E_CRC);
			scratch_flip(path, at, bit);
		}
	}
	scratch_flip(path, begin.offset + 40, 0);
	event_writer_close(&f->w);
	assert_int_equal(event_writer_open_sized(&w, f->dir, us, start, 1, BYTES), -E_CRC);
	/* From behind the damage it is no concern. */
	assert_int_equal(event_writer_open_sized(&w, f->dir, us, end, 4, BYTES), 0);
	event_writer_close(&w);
	/* An lsn that is not the one that follows: some events are missing. */
	assert_int_equal(event_writer_open_sized(&w, f->dir, us, end, 3, BYTES), -E_CRC);
	scratch_flip(path, begin.offset + 40, 0);
	assert_int_equal(count(f, start, all, NULL, NULL), 5);
}

/* Damage in an earlier file, to its last event, its first, its header; a file that is gone. */
static void
damage_in_an_earlier_file(void **state)
{
	struct fixture *f = *state;
	struct event_position end, at = { 2, EVENT_FILE_HEADER_BYTES };
	struct event_writer *w;

	for (uint64_t i = 0; i < 40; i++)
		append_synced(f->w, i + 1, 1, 1500);
	end = event_writer_position(f->w);
	assert_true(end.file > 4);
	for (uint64_t place = EVENT_FILE_HEADER_BYTES + 40; place < BYTES - 1600; place += 1500) {
		scratch_flip(file_path(f, 2), place, 1);
		assert_int_equal(count(f, start, end, NULL, NULL), -E_CRC);
		assert_int_equal(count(f, start, no_limit, NULL, NULL), -E_CRC);
		scratch_flip(file_path(f, 2), place, 1);
	}
	scratch_flip(file_path(f, 3), 20, 1);
	assert_true(count(f, start, end, NULL, NULL) < 0);
	assert_true(count(f, start, no_limit, NULL, NULL) < 0);
	scratch_flip(file_path(f, 3), 20, 1);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 40);
	unlink(file_path(f, 2));
	assert_int_equal(count(f, start, end, NULL, NULL), -E_MISSING);
	event_writer_close(&f->w);
	assert_int_equal(event_writer_open_sized(&w, f->dir, us, at, 9, BYTES), -E_MISSING);
	assert_int_equal(event_writer_open_sized(&w, f->dir, them, end, 41, BYTES), -E_FOREIGN);
}

static void
recycled_files_are_empty(void **state)
{
	struct fixture *f = *state;
	struct event_position low;
	uint64_t first, last, lsn = 1;
	int files;

	for (int turn = 0; turn < 12; turn++) {
		for (int i = 0; i < 20; i++)
			append_synced(f->w, lsn++, 1, 1500);
		low = event_writer_position(f->w);
		assert_int_equal(event_recycle(f->w, low), 0);
		files = event_log_files(f->dir);
		assert_true(files <= 3); /* the present one and two ready */
		assert_int_equal(event_prepare(f->w), 0);
		/* The old contents of the spare files are not read behind the end. */
		assert_int_equal(count(f, low, no_limit, NULL, NULL), 0);
		append_synced(f->w, lsn++, 1, 100);
		assert_int_equal(count(f, low, no_limit, &first, &last), 1);
		assert_int_equal(first, lsn - 1);
	}
	files = count(f, start, no_limit, &first, &last);
	assert_int_equal(files, last - first + 1);
	assert_int_equal(last, lsn - 1);
	reopen(f, low, lsn - 1);
	assert_int_equal(event_writer_next_lsn(f->w), lsn);
	/* A crash between the new header and the new name: still no file of the log. */
	for (int i = 0; i < 20; i++)
		append_synced(f->w, lsn++, 1, 1500);
	low = event_writer_position(f->w);
	assert_true(low.file > 2);
	{
		struct event_file_header h = { .number = low.file + 9, .bytes = BYTES };
		uint64_t old = low.file - 1;
		int fd;

		while (access(file_path(f, old - 1), F_OK) == 0)
			old--;
		fd = open(file_path(f, old), O_RDWR);
		assert_true(fd >= 0);
		assert_int_equal(event_file_stamp(fd, &h, us), 0);
		close(fd);
		assert_true(count(f, start, no_limit, &first, &last) > 0);
		assert_int_equal(last, lsn - 1);
		assert_int_equal(event_recycle(f->w, low), 0);
		assert_true(access(file_path(f, old), F_OK) != 0);
	}
	append_synced(f->w, lsn, 30, 1500);
	assert_int_equal(count(f, low, no_limit, NULL, NULL), 30);
}

static void
a_new_boot_begins_a_new_file(void **state)
{
	struct fixture *f = *state;
	struct event_file_header h;
	struct event_position end;
	struct event_reader *r;
	struct event e;
	int fd;

	append_synced(f->w, 1, 3, 10);
	end = event_writer_position(f->w);
	fd = event_file_open(f->dir, 1, O_RDWR, us, &h);
	assert_true(fd >= 0);
	h.boot_id[0] ^= 1;
	assert_int_equal(event_file_stamp(fd, &h, us), 0);
	close(fd);
	reopen(f, start, 1);
	append_synced(f->w, 4, 2, 10);
	assert_int_equal(event_writer_position(f->w).file, 2);
	assert_int_equal(count(f, start, no_limit, NULL, NULL), 5);
	assert_int_equal(count(f, start, event_writer_position(f->w), NULL, NULL), 5);
	assert_int_equal(event_reader_open(&r, f->dir, us, start), 0);
	assert_int_equal(event_read(r, no_limit, &e, &end), 1);
	assert_memory_equal(event_reader_boot_id(r), h.boot_id, 16);
	while (event_read(r, no_limit, &e, &end) == 1)
		;
	assert_memory_not_equal(event_reader_boot_id(r), h.boot_id, 16);
	event_reader_close(&r);
}

/* A recipient's own stamp; without one the bytes are those of before. */
static void
stamps_of_recipients(void **state)
{
	struct event_rcpt rcpts[] = {
		{ .index = 1,
		  .action = EVENT_DELIVERED,
		  .diag = SLICE_LIT("smtp;250 ok"),
		  .stamp_boot_us = 1ull << 50 },
		{ .index = 2, .action = EVENT_DEFERRED, .stamp_boot_us = EVENT_STAMP_NONE },
		{ .index = 3, .action = EVENT_BOUNCED, .queue = SLICE_LIT("q") },
	};
	struct event e = { .kind = EVENT_RESULT,
			   .provider = SLICE_LIT("google"),
			   .volume_bytes = 12345,
			   .rcpts = rcpts,
			   .n_rcpts = 3 };
	struct event out;
	struct buf b = { 0 }, scratch = { 0 };

	(void)state;
	event_encode(&b, &e);
	assert_int_equal(event_decode(&out, buf_slice(&b), &scratch), 0);
	for (size_t i = 0; i < 3; i++)
		assert_true(out.rcpts[i].stamp_boot_us == rcpts[i].stamp_boot_us);
	assert_true(slice_is(out.rcpts[0].diag, "smtp;250 ok") &&
		    slice_is(out.rcpts[2].queue, "q"));
	assert_true(slice_is(out.provider, "google") && out.volume_bytes == 12345);
	for (size_t n = 0; n < b.len; n++)
		assert_int_equal(event_decode(&out, slice_of(b.data, n), &scratch), -E_BAD);
	buf_clear(&b);
	buf_clear(&scratch);
}

/* The largest event there may be, in files of the usual size. */
static void
a_large_event(void **state)
{
	struct fixture *f = *state;
	static struct event_rcpt rcpts[10000];
	static char text[500];
	struct event e = { .kind = EVENT_RECEPTION, .rcpts = rcpts, .n_rcpts = 10000 };
	struct event_position pos;
	struct event_reader *r;

	memset(text, 'x', sizeof text);
	for (size_t i = 0; i < 10000; i++)
		rcpts[i] = (struct event_rcpt){ .index = (uint16_t)i,
						.address = slice_of(text, 320),
						.queue = slice_of(text, 500) };
	event_writer_close(&f->w);
	assert_int_equal(event_writer_open_sized(&f->w, f->dir, us, start, 1, 12u << 20), 0);
	event_append(f->w, &e);
	assert_int_equal(event_sync(f->w), 0);
	assert_int_equal(event_reader_open(&r, f->dir, us, start), 0);
	assert_int_equal(event_read(r, no_limit, &e, &pos), 1);
	assert_int_equal(e.n_rcpts, 10000);
	assert_int_equal(e.rcpts[9999].index, 9999);
	assert_int_equal(e.rcpts[9999].queue.n, 500);
	event_reader_close(&r);
}

/* Damage passed over ----------------------------------------------------------------------------
 */

#define MANY 240u

struct pass {
	unsigned char seen[5000];
	unsigned events, gaps;
	uint64_t missing;     /* of the ranges told */
	struct event_gap gap; /* the last one */
};

/* All that can be read, as the recorder does it: each event once, in order, and what is not there
 * was told. */
static void
read_past(const struct fixture *f, struct event_position from, uint64_t lsn,
	  struct event_position limit, struct pass *p)
{
	struct event_position pos;
	struct event_reader *r;
	struct event e;
	uint64_t last = lsn - 1;
	int rc = 1;

	assert_int_equal(event_reader_open_at(&r, f->dir, us, from, lsn), 0);
	for (int turns = 0; rc == 1 && turns < 5000; turns++) {
		rc = event_read(r, limit, &e, &pos);
		if (rc == 1) {
			assert_true(e.lsn > last && e.lsn < sizeof p->seen && e.lsn == e.message);
			assert_int_equal(p->seen[e.lsn]++, 0);
			last = e.lsn;
			p->events++;
		} else if (rc < 0) {
			rc = event_resync(r, limit, &p->gap);
			assert_true(rc >= 0);
			p->gaps++;
			assert_true(!event_position_before(p->gap.to, p->gap.from));
			assert_false(event_position_before(limit, p->gap.to));
			assert_true(lsn == 0 || p->gap.first_lsn == last + 1);
			if (rc == 0)
				break;
			p->missing += p->gap.last_lsn - last;
			last = p->gap.last_lsn;
		}
	}
	assert_int_equal(rc, 0);
	event_reader_close(&r);
}

static void
assert_gone(const struct pass *p, uint64_t n, uint64_t first, uint64_t last)
{
	for (uint64_t i = 1; i <= n; i++)
		assert_int_equal(p->seen[i], i < first || i > last);
}

/* An event's place in its file, and its length. */
static struct event_position place[MANY + 50];

static void
log_many(struct fixture *f, uint64_t n)
{
	struct event_position pos, from = start;
	struct event_reader *r;
	struct event e;

	for (uint64_t i = 1; i <= n; i++)
		append_synced(f->w, i, 1, (i * 37) % 700);
	assert_int_equal(event_reader_open(&r, f->dir, us, from), 0);
	place[1] = (struct event_position){ 1, EVENT_FILE_HEADER_BYTES };
	while (event_read(r, event_writer_position(f->w), &e, &pos) == 1) {
		if (pos.file != place[e.lsn].file) /* it went to the next file */
			place[e.lsn] = (struct event_position){ pos.file, EVENT_FILE_HEADER_BYTES };
		place[e.lsn + 1] = pos;
	}
	event_reader_close(&r);
}

static void
zero(const char *path, uint64_t at, size_t n)
{
	char *bytes;
	size_t all;

	bytes = scratch_read(path, &all);
	memset(bytes + at, 0, n);
	scratch_write(path, bytes, all);
	free(bytes);
}

/* One event after the other is damaged: header, length, payload, or all of it. */
static void
each_event_passed_over(void **state)
{
	struct fixture *f = *state;
	static const unsigned at[] = { 0, 4, 6, 9, 17, 25, 33, 40 };
	struct event_position end;
	char *whole;
	size_t n;

	log_many(f, 60);
	end = event_writer_position(f->w);
	assert_true(end.file > 1);
	for (uint64_t lsn = 1; lsn <= 60; lsn++) {
		char path[700];

		strcpy(path, file_path(f, place[lsn].file));
		whole = scratch_read(path, &n);
		for (size_t i = 0; i < 8 + 1; i++) {
			struct pass p = { 0 }, unknown = { 0 };

			if (i < 8)
				scratch_flip(path, place[lsn].offset + at[i], 5);
			else
				zero(path, place[lsn].offset, 48);
			read_past(f, start, 1, end, &p);
			assert_gone(&p, 60, lsn, lsn);
			assert_int_equal(p.gaps, 1);
			assert_int_equal(p.missing, lsn < 60);
			assert_true(p.gap.bytes >= 48);
			/* One that begins right there, and does not know what is to come. */
			if (place[lsn].file == place[lsn + 1].file) {
				read_past(f, place[lsn], 0, end, &unknown);
				assert_int_equal(unknown.events, 60 - lsn);
			}
			scratch_write(path, whole, n);
		}
		free(whole);
	}
}

/* A reader that was skipped to the limit goes on there, with whatever comes. */
static void
on_from_the_limit(void **state)
{
	struct fixture *f = *state;
	struct event_position end, pos;
	struct event_reader *r;
	struct event_gap gap;
	struct event e;

	append_synced(f->w, 1, 5, 50);
	end = event_writer_position(f->w);
	assert_int_equal(event_reader_open(&r, f->dir, us, start), 0);
	scratch_flip(file_path(f, 1), end.offset - 40, 1);
	for (int i = 0; i < 4; i++)
		assert_int_equal(event_read(r, end, &e, &pos), 1);
	/* Not behind the limit, were there a thousand events. */
	append_synced(f->w, 6, 1, 8000);
	append_synced(f->w, 7, 40, 500);
	assert_int_equal(event_read(r, end, &e, &pos), -E_CRC);
	assert_int_equal(event_resync(r, end, &gap), 0);
	assert_int_equal(gap.first_lsn, 5);
	assert_int_equal(gap.last_lsn, 0);
	assert_int_equal(gap.to.offset, end.offset);
	assert_int_equal(event_reader_expects(r), 0);
	assert_int_equal(event_read(r, end, &e, &pos), 0);
	for (uint64_t lsn = 6; lsn <= 46; lsn++) {
		assert_int_equal(event_read(r, event_writer_position(f->w), &e, &pos), 1);
		assert_int_equal(e.lsn, lsn);
	}
	assert_int_equal(event_reader_expects(r), 47);
	assert_true(pos.file > 1);
	event_reader_close(&r);
}

/* Not knowing the next lsn, it does not take the next file for what follows. */
static void
unknown_lsn_before_damage(void **state)
{
	struct fixture *f = *state;
	struct event_position end;

	log_many(f, 100);
	end = event_writer_position(f->w);
	assert_true(place[5].file == 1 && place[6].file == 1 && end.file > 2);
	scratch_flip(file_path(f, 1), place[5].offset + 35, 0);
	assert_int_equal(count(f, place[5], end, NULL, NULL), -E_CRC);
	scratch_flip(file_path(f, 1), place[1].offset + 35, 0);
	assert_int_equal(count(f, start, end, NULL, NULL), -E_CRC);
}

/* Headers of files, whole files, cut files. */
static void
files_passed_over(void **state)
{
	struct fixture *f = *state;
	struct event_position end;
	uint64_t first, last;
	struct pass p = { 0 };
	char two[700], keep[700];

	log_many(f, MANY);
	end = event_writer_position(f->w);
	assert_true(end.file > 4);
	for (first = 1; place[first].file < 2; first++)
		;
	for (last = first; place[last + 1].file == 2; last++)
		;
	strcpy(two, file_path(f, 2));
	strcpy(keep, scratch_path(f->path, "keep"));
	scratch_copy(two, keep);
	/* The header alone: nothing is missing. */
	zero(two, 0, 4096);
	read_past(f, start, 1, end, &p);
	assert_int_equal(p.events, MANY);
	assert_true(p.gap.whole);
	/* The header and what follows. */
	zero(two, 0, place[first + 3].offset + 8);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_gone(&p, MANY, first, first + 3);
	assert_int_equal(p.missing, 4);
	/* All of it; gone; cut; in the middle, over its end. */
	zero(two, 4096, BYTES - 4096);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_gone(&p, MANY, first, last);
	assert_int_equal(p.gaps, 1);
	unlink(two);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_false(p.gap.whole);
	assert_gone(&p, MANY, first, last);
	scratch_copy(keep, two);
	assert_int_equal(truncate(two, (off_t)place[first + 5].offset), 0);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_gone(&p, MANY, first + 5, last);
	scratch_write(two, "", 0);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_gone(&p, MANY, first, last);
	/* Another file in its place. */
	scratch_copy(file_path(f, 3), two);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_gone(&p, MANY, first, last);
	scratch_copy(keep, two);
	/* The file of the limit: not beyond it. */
	zero(file_path(f, end.file), 0, 4096);
	p = (struct pass){ 0 };
	read_past(f, start, 1, place[MANY - 1], &p);
	assert_int_equal(p.events, MANY - 2);
	p = (struct pass){ 0 };
	read_past(f, start, 1, end, &p);
	assert_int_equal(p.events, MANY);
}

/* Puts a whole frame of the same file and instance, of `lsn`, into the text of event `outer`. */
static void
embed(struct fixture *f, uint64_t outer, uint64_t lsn, size_t at, size_t pad)
{
	static char text[3000];
	struct event_rcpt rcpt = { .address = SLICE_LIT("a@b.example") };
	struct event e = { .kind = EVENT_RESULT, .message = lsn, .rcpts = &rcpt, .n_rcpts = 1 };
	struct buf b = { 0 };
	size_t mark;

	memset(text, 't', sizeof text);
	mark = event_frame_begin(&b, lsn, lsn, event_writer_position(f->w).file);
	event_encode(&b, &e);
	event_frame_end(&b, mark, event_frame_seed(us));
	memcpy(text + at, b.data, b.len);
	e.message = outer;
	e.reason = slice_of(text, pad);
	assert_int_equal(event_append(f->w, &e), outer);
	assert_int_equal(event_sync(f->w), 0);
	buf_clear(&b);
}

/* What looks like an event inside of a damaged one is not taken for one: the length of the damaged
 * one leads over it, or, when that is damaged too, its lsn is one that cannot be. */
static void
frames_inside_of_frames(void **state)
{
	struct fixture *f = *state;
	static const uint64_t lsns[] = { 1, 2, 5, 4000 };
	uint64_t lsn = 1;

	for (size_t i = 0; i < 4; i++) {
		for (size_t shift = 0; shift < 16; shift++, lsn += 3) { /* one of them aligned */
			struct event_position from, to = { 0 };
			struct pass p = { 0 };

			append_synced(f->w, lsn, 1, 900);
			from = event_writer_position(f->w);
			/* As long as it fits, or the next file begins; then there is nothing to
			 * look for. */
			embed(f, lsn + 1, lsns[i] == 5 ? lsn + 4 : lsns[i], 100 + shift, 400);
			append_synced(f->w, lsn + 2, 1, 20);
			to = event_writer_position(f->w);
			if (to.file != from.file)
				continue;
			scratch_flip(file_path(f, to.file), from.offset + 50, 0);
			read_past(f, from, lsn + 1, to, &p);
			assert_int_equal(p.events, 1);
			assert_int_equal(p.missing, 1);
			if (lsns[i] == 5)
				continue; /* that one only its holder's length shows */
			scratch_flip(file_path(f, to.file), from.offset + 5, 1);
			p = (struct pass){ 0 };
			read_past(f, from, lsn + 1, to, &p);
			assert_int_equal(p.events, 1);
			assert_int_equal(p.missing, 1);
		}
	}
}

/* Flips, runs of zeros and of noise anywhere in the files: what is whole is read, once and in
 * order. */
static void
random_damage(void **state)
{
	struct fixture *f = *state;
	struct event_position end;
	unsigned hit_most = 0;
	char *whole[40];
	size_t n = 0;

	log_many(f, MANY);
	end = event_writer_position(f->w);
	assert_true(end.file < 40);
	for (uint64_t k = 1; k <= end.file; k++)
		whole[k] = scratch_read(file_path(f, k), &n);
	srand(20261122);
	for (int round = 0; round < 150; round++) {
		unsigned char hit[MANY + 2] = { 0 };
		unsigned hits = 0, damages = 1 + (unsigned)rand() % 12;
		struct pass p = { 0 };

		for (unsigned d = 0; d < damages; d++) {
			uint64_t k = 1 + (uint64_t)rand() % end.file;
			size_t at = (size_t)rand() % BYTES, len = 1;
			int shape = rand() % 4;
			char *damaged = scratch_read(file_path(f, k), &n);

			if (shape == 1)
				len = 1 + (size_t)rand() % 900;
			if (shape == 2) { /* a page */
				at &= ~(size_t)4095;
				len = 4096;
			}
			if (at + len > BYTES)
				len = BYTES - at;
			if (shape == 0)
				damaged[at] ^= (char)(1 << rand() % 8);
			else
				for (size_t i = 0; i < len; i++)
					damaged[at + i] = shape == 3 ? (char)rand() : 0;
			scratch_write(file_path(f, k), damaged, n);
			free(damaged);
		}
		/* What of an event differs is what is gone; its padding is nothing. */
		for (uint64_t i = 1; i <= MANY; i++) {
			struct event_frame fr;
			char *now = scratch_read(file_path(f, place[i].file), &n);

			hit[i] = event_frame_decode(
					 slice_of(now + place[i].offset, n - place[i].offset),
					 place[i].file, event_frame_seed(us), &fr) != 0;
			hits += hit[i];
			free(now);
		}
		read_past(f, start, 1, end, &p);
		for (uint64_t i = 1; i <= MANY; i++)
			assert_int_equal(p.seen[i], !hit[i]);
		assert_int_equal(p.events, MANY - hits);
		/* All that is missing was told, but at the very end, where nobody knows. */
		for (uint64_t i = MANY; i > 0 && hit[i]; i--)
			hits--;
		assert_int_equal(p.missing, hits);
		hit_most = hits > hit_most ? hits : hit_most;
		for (uint64_t k = 1; k <= end.file; k++)
			scratch_write(file_path(f, k), whole[k], BYTES);
	}
	assert_true(hit_most > 20);
	for (uint64_t k = 1; k <= end.file; k++)
		free(whole[k]);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(only_what_was_synced),
		TEST(over_many_files),
		TEST(a_reader_follows),
		TEST(a_torn_tail),
		TEST(leftovers_are_not_resurrected),
		TEST(leftovers_in_the_next_file),
		TEST(every_flipped_bit_is_told),
		TEST(damage_in_an_earlier_file),
		TEST(recycled_files_are_empty),
		TEST(a_new_boot_begins_a_new_file),
		TEST(a_large_event),
		TEST(stamps_of_recipients),
		TEST(each_event_passed_over),
		TEST(on_from_the_limit),
		TEST(unknown_lsn_before_damage),
		TEST(files_passed_over),
		TEST(frames_inside_of_frames),
		TEST(random_damage),
	};

	log_threshold(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
