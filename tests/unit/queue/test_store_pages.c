/* The pages of LMDB: what it writes is sound, whatever was done; a flipped bit anywhere is told, or
 * was in a value (which has its own checksum), or means nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/queue/store.h"
#include "common/queue/store_pages.h"
#include "tests/lib/scratch.h"

static const unsigned char us[16] = "instance of ours";

struct fixture {
	char path[600], data[700];
	int dir;
	struct store *s;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	strcpy(f->path, scratch_make());
	mkdir(scratch_path(f->path, "lmdb"), 0750);
	f->dir = open(scratch_path(f->path, "lmdb"), O_RDONLY | O_DIRECTORY);
	snprintf(f->data, sizeof f->data, "%s/lmdb/data.mdb", f->path);
	*state = f;
	return store_open(&f->s, f->path, us);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	store_close(&f->s);
	close(f->dir);
	scratch_remove(f->path);
	free(f);
	return 0;
}

static void
show(void *arg, uint64_t page, const char *what)
{
	(void)arg;
	print_message("page %llu: %s\n", (unsigned long long)page, what);
}

static struct store_row
row_of(uint64_t i)
{
	return (struct store_row){ .queue = 1 + (uint32_t)(i % 50),
				   .segment = (uint32_t)(i >> 12) + 1,
				   .epoch = i,
				   .offset = (uint32_t)i,
				   .attempts = (uint16_t)i,
				   .n_rcpts = 20,
				   .done = i % 7 ? SLICE_NONE : slice_of("\x01\x80\x0f", 3) };
}

/* One transaction of the life of a queue: some come, some change, some go. */
static void
live(struct fixture *f, uint64_t *next, uint64_t *first)
{
	struct store_txn *t;
	unsigned come = (unsigned)rand() % 600, go = (unsigned)rand() % 600;
	static char reply[500];

	memset(reply, 'r', sizeof reply);
	assert_int_equal(store_begin(f->s, &t), 0);
	for (unsigned i = 0; i < come; i++, ++*next) {
		struct store_row row = row_of(*next);

		assert_int_equal(store_put_row(t, (struct entry_key){ *next, 0 }, &row), 0);
	}
	for (unsigned i = 0; i < go && *first < *next; i++) {
		/* Mostly in their order, some out of it. */
		uint64_t k = rand() % 4 ? (*first)++ : *first + (uint64_t)rand() % (*next - *first);

		assert_int_equal(store_del_row(t, (struct entry_key){ k, 0 }), 0);
	}
	for (unsigned i = 0; i < 50 && *first < *next; i++) {
		struct entry_key k = { *first + (uint64_t)rand() % (*next - *first), 0 };
		struct store_row row;

		if (store_get_row(t, k, &row) != 0)
			continue;
		row.done = slice_of("\x01\x80\x0f", 3);
		assert_int_equal(store_put_row(t, k, &row), 0);
		assert_int_equal(store_put_reply(t, k, slice_of(reply, (size_t)rand() % 500)), 0);
	}
	if (rand() % 10 == 0)
		store_abort(&t);
	else
		assert_int_equal(store_commit(&t), 0);
}

static void
what_lmdb_writes_is_sound(void **state)
{
	struct fixture *f = *state;
	uint64_t next = 1, first = 1;
	struct store_pages p;

	srand(7);
	assert_int_equal(store_pages_check(f->dir, &p, show, NULL), 0);
	for (int i = 0; i < 400; i++) {
		live(f, &next, &first);
		assert_int_equal(store_pages_check(f->dir, &p, show, NULL), 0);
		assert_int_equal(p.leaked, 0);
		assert_int_equal(p.used + p.idle, p.pages);
	}
	assert_true(p.pages > 100 && p.idle > 10 && p.entries > 1000);
}

struct seen {
	uint64_t n, sum;
	bool right;
};

static void
see_row(void *arg, struct entry_key key, const struct store_row *row)
{
	struct seen *s = arg;
	struct store_row want = row_of(key.message);

	s->n++;
	s->right = s->right && row->epoch == want.epoch && row->queue == want.queue;
}

/* Every flip: told by the pages, or counted by the loading, or nothing of what was there is
 * changed; and what is then written and deleted leaves a sound file. */
static void
any_bit(void **state)
{
	struct fixture *f = *state;
	const char *kept = scratch_path(f->path, "kept");
	uint64_t next = 1, first = 1, all, bad;
	unsigned told = 0, counted = 0, harmless = 0;
	struct store_pages p;
	struct seen seen;
	size_t n;

	srand(11);
	for (int i = 0; i < 30; i++)
		live(f, &next, &first);
	seen = (struct seen){ .right = true };
	assert_int_equal(store_load_rows(f->s, see_row, &seen, &bad), 0);
	all = seen.n;
	store_close(&f->s);
	assert_int_equal(store_pages_check(f->dir, &p, show, NULL), 0);
	scratch_copy(f->data, kept);
	free(scratch_read(kept, &n));
	log_open("/dev/null", "test");
	for (int i = 0; i < 400; i++) {
		size_t at = (size_t)rand() % n;

		/* Half of them in the first bytes of a page, where LMDB keeps its own; some in
		 * meta. */
		if (i % 2)
			at = at / 4096 * 4096 + at % 64;
		if (i % 10 == 0)
			at = at % 2 * 4096 + at % 152;
		scratch_copy(kept, f->data);
		scratch_flip(f->data, at, (unsigned)rand() % 8);
		if (store_open(&f->s, f->path, us) != 0) {
			told++;
			continue;
		}
		seen = (struct seen){ .right = true };
		assert_int_equal(store_load_rows(f->s, see_row, &seen, &bad), 0);
		assert_true(seen.right);
		assert_int_equal(seen.n + bad, all);
		counted += bad > 0;
		harmless += bad == 0;
		for (int k = 0; k < 3; k++) {
			uint64_t a = next, b = first;

			live(f, &a, &b);
		}
		assert_int_equal(store_pages_check(f->dir, &p, show, NULL), 0);
		store_close(&f->s);
	}
	print_message("of 400: %u refused, %u counted, %u harmless\n", told, counted, harmless);
	assert_true(told > 50 && counted > 20 && harmless > 20);
	scratch_copy(kept, f->data);
	assert_int_equal(store_open(&f->s, f->path, us), 0);
}

/* Cut anywhere, or a block of zeros: refused, or it was not in use. */
static void
cut_and_zeroed(void **state)
{
	struct fixture *f = *state;
	const char *kept = scratch_path(f->path, "kept");
	uint64_t next = 1, first = 1, all, bad;
	struct seen seen = { .right = true };
	unsigned told = 0;
	size_t n;

	srand(13);
	for (int i = 0; i < 30; i++)
		live(f, &next, &first);
	assert_int_equal(store_load_rows(f->s, see_row, &seen, &bad), 0);
	all = seen.n;
	store_close(&f->s);
	scratch_copy(f->data, kept);
	free(scratch_read(kept, &n));
	log_open("/dev/null", "test");
	for (int i = 0; i < 60; i++) {
		static const char zeros[4096];
		size_t at = (size_t)rand() % n;
		int fd;

		scratch_copy(kept, f->data);
		fd = open(f->data, O_RDWR);
		if (i % 2)
			assert_int_equal(ftruncate(fd, (off_t)at), 0);
		else
			assert_int_equal(pwrite(fd, zeros, sizeof zeros, (off_t)(at / 4096 * 4096)),
					 4096);
		close(fd);
		if (store_open(&f->s, f->path, us) != 0) {
			told++;
			continue;
		}
		seen = (struct seen){ .right = true };
		assert_int_equal(store_load_rows(f->s, see_row, &seen, &bad), 0);
		assert_true(seen.right && seen.n == all && bad == 0);
		store_close(&f->s);
	}
	print_message("of 60: %u refused\n", told);
	assert_true(told > 20);
	scratch_copy(kept, f->data);
	assert_int_equal(store_open(&f->s, f->path, us), 0);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_lmdb_writes_is_sound),
		TEST(any_bit),
		TEST(cut_and_zeroed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
