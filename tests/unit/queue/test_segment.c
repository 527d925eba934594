/* Segments: appended, synced, read; an earlier life is never read again. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "tests/lib/scratch.h"

#define BYTES (64u * 1024)

static const unsigned char us[16] = "instance of ours", them[16] = "instance, theirs";

struct fixture {
	char path[600];
	int dir;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	strcpy(f->path, scratch_make());
	f->dir = open(f->path, O_RDONLY | O_DIRECTORY);
	*state = f;
	return f->dir < 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	close(f->dir);
	scratch_remove(f->path);
	free(f);
	return 0;
}

/* Appends one record of message `id`; its offset. */
static int64_t
append(struct segment_writer *w, msg_id_t id, const char *body)
{
	struct record_envelope env = { .id = id, .sender = SLICE_LIT("s@e") };
	struct slice piece = slice_str(body);
	static char zeros[RECORD_ALIGN];
	struct iovec iov[3];
	struct buf b;
	int64_t at;

	buf_init(&b);
	record_encode(&b, &env, 0, &piece, 1);
	record_stamp(b.data, w->info.epoch);
	iov[0] = (struct iovec){ b.data, b.len };
	iov[1] = (struct iovec){ (void *)(uintptr_t)piece.p, piece.n };
	iov[2] = (struct iovec){ zeros, record_padding(b.len, piece.n) };
	at = segment_append(w, iov, 3);
	buf_clear(&b);
	return at;
}

static void
append_and_read(void **state)
{
	struct fixture *f = *state;
	struct segment_cache *c = segment_cache_new(f->dir, us);
	struct segment_writer w;
	struct segment_info info;
	struct segment_ref ref;
	int64_t at[10];

	assert_int_equal(segment_create(f->dir, 7, BYTES, us), 0);
	assert_int_equal(segment_create(f->dir, 7, BYTES, us), -E_EXISTS);
	assert_int_equal(segment_stamp(f->dir, 7, 100, us), 0);
	assert_int_equal(segment_read_info(f->dir, 7, us, &info), 0);
	assert_int_equal(info.epoch, 100);
	assert_int_equal(info.bytes, BYTES);
	assert_int_equal(segment_writer_open(&w, f->dir, 7, 99, us), -E_FORMAT);
	assert_int_equal(segment_writer_open(&w, f->dir, 7, 100, them), -E_FOREIGN);
	assert_int_equal(segment_writer_open(&w, f->dir, 8, 100, us), -E_MISSING);
	assert_int_equal(segment_writer_open(&w, f->dir, 7, 100, us), 0);
	assert_true(segment_fits(&w, BYTES - SEGMENT_HEADER_BYTES));
	assert_false(segment_fits(&w, BYTES - SEGMENT_HEADER_BYTES + 1));
	for (msg_id_t i = 0; i < 10; i++) {
		at[i] = append(&w, i + 1, "hello\r\n");
		assert_true(at[i] >= SEGMENT_HEADER_BYTES && at[i] % RECORD_ALIGN == 0);
	}
	assert_int_equal(segment_sync(&w), 0);
	assert_int_equal(segment_get(c, 7, 100, &ref), 0);
	for (msg_id_t i = 0; i < 10; i++) {
		struct record r;

		assert_int_equal(record_decode(&r, slice_sub(ref.bytes, (size_t)at[i]), 100, i + 1),
				 0);
		assert_true(slice_is(r.body, "hello\r\n"));
		record_clear(&r);
	}
	segment_put(c, 7, 100);
	segment_writer_close(&w);
	segment_cache_free(&c);
}

static void
an_earlier_life_is_gone(void **state)
{
	struct fixture *f = *state;
	struct segment_cache *c = segment_cache_new(f->dir, us);
	struct segment_writer w;
	struct segment_ref old, ref;
	struct record r;
	int64_t first, second;

	assert_int_equal(segment_create(f->dir, 1, BYTES, us), 0);
	assert_int_equal(segment_stamp(f->dir, 1, 10, us), 0);
	assert_int_equal(segment_writer_open(&w, f->dir, 1, 10, us), 0);
	first = append(&w, 1, "old one\r\n");
	second = append(&w, 2, "old two\r\n");
	segment_writer_close(&w);
	assert_int_equal(segment_get(c, 1, 10, &old), 0); /* pinned over the change */

	assert_int_equal(segment_stamp(f->dir, 1, 11, us), 0);
	assert_int_equal(segment_get(c, 1, 10, &ref), -E_MISSING);
	assert_int_equal(segment_get(c, 1, 11, &ref), 0);
	/* Same place, same bytes, nothing written yet in this life. */
	assert_int_equal(record_decode(&r, slice_sub(ref.bytes, (size_t)first), 11, 1), -E_FORMAT);
	assert_int_equal(segment_writer_open(&w, f->dir, 1, 11, us), 0);
	assert_int_equal(append(&w, 3, "new one\r\n"), first);
	assert_int_equal(record_decode(&r, slice_sub(ref.bytes, (size_t)first), 11, 3), 0);
	record_clear(&r);
	assert_int_equal(record_decode(&r, slice_sub(ref.bytes, (size_t)second), 11, 2), -E_FORMAT);
	segment_writer_close(&w);
	segment_put(c, 1, 10);
	segment_put(c, 1, 11);

	/* The same number as another file. */
	assert_int_equal(segment_remove(f->dir, 1), 0);
	assert_int_equal(segment_create(f->dir, 1, 2 * BYTES, us), 0);
	assert_int_equal(segment_stamp(f->dir, 1, 12, us), 0);
	assert_int_equal(segment_get(c, 1, 12, &ref), 0);
	assert_int_equal(ref.bytes.n, 2 * BYTES);
	segment_put(c, 1, 12);
	segment_cache_free(&c);
}

static void
damage_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *path = scratch_path(f->path, "00000003.seg");
	struct segment_cache *c = segment_cache_new(f->dir, us);
	struct segment_info info;
	struct segment_ref ref;

	assert_int_equal(segment_create(f->dir, 3, BYTES, us), 0);
	for (size_t bit = 0; bit < 56 * 8; bit++) {
		scratch_flip(path, bit / 8, bit % 8);
		assert_true(segment_read_info(f->dir, 3, us, &info) < 0);
		scratch_flip(path, bit / 8, bit % 8);
	}
	assert_int_equal(segment_read_info(f->dir, 3, us, &info), 0);
	/* Under another number it is not that segment. */
	scratch_copy(path, scratch_path(f->path, "00000004.seg"));
	assert_int_equal(segment_read_info(f->dir, 4, us, &info), -E_FORMAT);
	/* Cut short, a map of it would fault. */
	assert_int_equal(truncate(path, BYTES - 1), 0);
	assert_int_equal(segment_get(c, 3, 0, &ref), -E_FORMAT);
	assert_int_equal(truncate(path, 10), 0);
	assert_int_equal(segment_get(c, 3, 0, &ref), -E_CRC);
	segment_cache_free(&c);
}

static void
collect(void *arg, uint32_t number)
{
	uint32_t **p = arg;

	*(*p)++ = number;
}

static void
each_in_order(void **state)
{
	struct fixture *f = *state;
	static const uint32_t made[] = { 12, 3, 100000000 };
	uint32_t seen[8], *end = seen;

	for (size_t i = 0; i < 3; i++)
		assert_int_equal(segment_create(f->dir, made[i], 8192, us), 0);
	scratch_write(scratch_path(f->path, "00000009.seg.new"), "", 0);
	scratch_write(scratch_path(f->path, "9.seg"), "", 0);
	scratch_write(scratch_path(f->path, "99999999999.seg"), "", 0);
	assert_int_equal(segment_each(f->dir, collect, &end), 0);
	assert_int_equal(end - seen, 3);
	assert_int_equal(seen[0], 3);
	assert_int_equal(seen[1], 12);
	assert_int_equal(seen[2], 100000000);
}

/* More files than the cache keeps, some pinned: each read right, descriptors bounded. */
static void
the_cache_forgets(void **state)
{
	struct fixture *f = *state;
	struct segment_cache *c = segment_cache_new(f->dir, us);
	struct segment_ref ref, pinned;
	int most = 0;

	for (uint32_t i = 1; i <= 150; i++) {
		assert_int_equal(segment_create(f->dir, i, 8192, us), 0);
		assert_int_equal(segment_stamp(f->dir, i, i, us), 0);
	}
	assert_int_equal(segment_get(c, 1, 1, &pinned), 0);
	for (uint32_t i = 2; i <= 150; i++) {
		assert_int_equal(segment_get(c, i, i, &ref), 0);
		assert_int_equal(ref.number, i);
		most = ref.fd > most ? ref.fd : most;
		segment_put(c, i, i);
	}
	assert_true(most < 100);
	assert_int_equal(segment_get(c, 1, 1, &ref), 0);
	assert_ptr_equal(ref.bytes.p, pinned.bytes.p); /* it stayed */
	segment_put(c, 1, 1);
	segment_put(c, 1, 1);
	segment_cache_free(&c);
}

/* A write that goes only half way (file size limit): an error, and never written again. */
static void
a_failed_write_is_final(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, tight = { 8192, RLIM_INFINITY };
	struct segment_writer w;
	static char body[8000];

	memset(body, 'x', sizeof body - 1);
	assert_int_equal(segment_create(f->dir, 1, BYTES, us), 0);
	assert_int_equal(segment_stamp(f->dir, 1, 1, us), 0);
	assert_int_equal(segment_writer_open(&w, f->dir, 1, 1, us), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	tight.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_FSIZE, &tight);
	assert_true(append(&w, 1, body) < 0);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(w.failed);
	assert_true(append(&w, 2, "x") < 0);
	assert_true(segment_sync(&w) < 0);
	segment_writer_close(&w);
}

/* The blocks of a removed file are free although somebody has it mapped, and its map is no segment. */
static void
removed_while_mapped(void **state)
{
	struct fixture *f = *state;
	struct segment_cache *c = segment_cache_new(f->dir, us);
	struct segment_ref ref;
	struct stat st;

	assert_int_equal(segment_create(f->dir, 1, BYTES, us), 0);
	assert_int_equal(segment_stamp(f->dir, 1, 1, us), 0);
	assert_int_equal(segment_get(c, 1, 1, &ref), 0);
	assert_int_equal(fstat(ref.fd, &st), 0);
	assert_true(st.st_blocks > 0);
	assert_int_equal(segment_remove(f->dir, 1), 0);
	assert_int_equal(fstat(ref.fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	segment_put(c, 1, 1);
	assert_int_equal(segment_get(c, 1, 1, &ref), -E_MISSING);
	segment_cache_free(&c);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(append_and_read), TEST(an_earlier_life_is_gone), TEST(damage_is_refused),
		TEST(each_in_order),   TEST(the_cache_forgets),       TEST(a_failed_write_is_final),
		TEST(removed_while_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
