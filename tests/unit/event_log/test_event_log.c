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
	};

	log_threshold(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
