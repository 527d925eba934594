/* Claim tables: every move and every refusal, and what a damaged slot says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/queue/claims.h"
#include "tests/lib/scratch.h"

static const unsigned char us[16] = "instance of ours", them[16] = "instance, theirs";

struct fixture {
	char path[600];
	int dir;
	struct claim_table *scheduler, *worker; /* as two processes would have it */
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	strcpy(f->path, scratch_make());
	f->dir = open(f->path, O_RDONLY | O_DIRECTORY);
	*state = f;
	return f->dir < 0 || claim_table_open(&f->scheduler, f->dir, 3, us) != 0 ||
	       claim_table_open(&f->worker, f->dir, 3, us) != 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	claim_table_close(&f->scheduler);
	claim_table_close(&f->worker);
	close(f->dir);
	scratch_remove(f->path);
	free(f);
	return 0;
}

static struct claim_grant
grant_of(uint64_t lease)
{
	return (struct claim_grant){ .lease = lease,
				     .key = { .message = 77, .ordinal = 2 },
				     .queue = 5,
				     .attempt = 3,
				     .connection = 11,
				     .source_ip = 1,
				     .generation = 4,
				     .n_rcpts = 9,
				     .granted_boot_us = 123456789,
				     .rcpts = { 0x81, 0, 0x7f } };
}

/* A new claim brought to `state` by its worker; its slot. */
static unsigned
claim_in(struct fixture *f, enum claim_state state, uint64_t lease)
{
	struct claim_grant g = grant_of(lease);
	int slot = claim_grant(f->scheduler, &g);

	assert_true(slot >= 0);
	if (state == CLAIM_RETURNED)
		assert_int_equal(claim_return(f->worker, (unsigned)slot, lease), 0);
	if (state == CLAIM_BEGUN || state == CLAIM_DOT_SENT || state == CLAIM_ANSWERED)
		assert_int_equal(claim_begin(f->worker, (unsigned)slot, lease), 0);
	if (state == CLAIM_DOT_SENT || state == CLAIM_ANSWERED)
		assert_int_equal(claim_dot(f->worker, (unsigned)slot, lease), 0);
	if (state == CLAIM_ANSWERED)
		assert_int_equal(
			claim_answer(f->worker, (unsigned)slot, lease, SLICE_LIT("250 ok")), 0);
	return (unsigned)slot;
}

static void
the_whole_way(void **state)
{
	struct fixture *f = *state;
	unsigned slot = claim_in(f, CLAIM_ANSWERED, 1000);
	struct claim_grant g = grant_of(1000);
	struct claim_view v;

	assert_int_equal(claim_read(f->scheduler, slot, &v), 0);
	assert_int_equal(v.state, CLAIM_ANSWERED);
	assert_int_equal(v.grant.lease, g.lease);
	assert_int_equal(v.grant.key.message, g.key.message);
	assert_int_equal(v.grant.key.ordinal, g.key.ordinal);
	assert_int_equal(v.grant.queue, g.queue);
	assert_int_equal(v.grant.attempt, g.attempt);
	assert_int_equal(v.grant.connection, g.connection);
	assert_int_equal(v.grant.source_ip, g.source_ip);
	assert_int_equal(v.grant.generation, g.generation);
	assert_int_equal(v.grant.n_rcpts, g.n_rcpts);
	assert_int_equal(v.grant.granted_boot_us, g.granted_boot_us);
	assert_memory_equal(v.grant.rcpts, g.rcpts, sizeof g.rcpts);
	assert_true(v.results_ok);
	assert_true(slice_is(v.results, "250 ok"));
	claim_free(f->scheduler, slot);
	assert_int_equal(claim_read(f->worker, slot, &v), 0);
	assert_int_equal(v.state, CLAIM_FREE);
}

/* From every state, every move: only those of the drawing are taken. */
static void
every_move(void **state)
{
	struct fixture *f = *state;
	static const struct {
		enum claim_state from;
		bool begin, dot, answer, give_back;
	} rows[] = {
		{ CLAIM_GRANTED, true, false, false, true },
		{ CLAIM_BEGUN, false, true, true, true },
		{ CLAIM_DOT_SENT, false, false, true, false },
		{ CLAIM_ANSWERED, false, false, false, false },
		{ CLAIM_RETURNED, false, false, false, false },
	};
	static const enum claim_state to[] = { CLAIM_BEGUN, CLAIM_DOT_SENT, CLAIM_ANSWERED,
					       CLAIM_RETURNED };
	uint64_t lease = 1;

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const bool legal[] = { rows[i].begin, rows[i].dot, rows[i].answer,
				       rows[i].give_back };

		for (size_t m = 0; m < 4; m++, lease++) {
			unsigned slot = claim_in(f, rows[i].from, lease);
			struct claim_view v;
			int rc[2];

			/* First by one who has another lease, then by the right one. */
			for (int turn = 0; turn < 2; turn++) {
				uint64_t who = turn == 0 ? lease + 1000000 : lease;

				rc[turn] = m == 0   ? claim_begin(f->worker, slot, who)
					   : m == 1 ? claim_dot(f->worker, slot, who)
					   : m == 2 ? claim_answer(f->worker, slot, who,
								   SLICE_LIT("r"))
						    : claim_return(f->worker, slot, who);
				claim_read(f->scheduler, slot, &v);
				assert_int_equal(v.state,
						 turn == 1 && legal[m] ? to[m] : rows[i].from);
			}
			assert_int_equal(rc[0], -E_DENIED);
			assert_int_equal(rc[1], legal[m] ? 0 : -E_DENIED);
		}
	}
}

static void
a_freed_slot_is_nobodys(void **state)
{
	struct fixture *f = *state;
	unsigned slot = claim_in(f, CLAIM_BEGUN, 5);
	struct claim_grant g = grant_of(6);

	claim_free(f->scheduler, slot);
	assert_int_equal(claim_dot(f->worker, slot, 5), -E_DENIED);
	assert_int_equal(claim_grant(f->scheduler, &g), slot);
	/* The late one of the old lease does not touch the new one. */
	assert_int_equal(claim_begin(f->worker, slot, 5), -E_DENIED);
	assert_int_equal(claim_answer(f->worker, slot, 5, SLICE_LIT("late")), -E_DENIED);
	assert_int_equal(claim_begin(f->worker, slot, 6), 0);
	assert_int_equal(claim_begin(f->worker, CLAIM_SLOTS, 6), -E_DENIED);
	assert_int_equal(claim_begin(f->worker, CLAIM_SLOTS - 1, 6), -E_DENIED);
}

static void
as_many_as_there_are(void **state)
{
	struct fixture *f = *state;
	struct claim_grant g = grant_of(1);
	struct claim_view v;
	struct stat st;

	assert_int_equal(claim_slots_used(f->scheduler), 0);
	for (unsigned i = 0; i < CLAIM_SLOTS; i++) {
		g.lease = i + 1;
		assert_int_equal(claim_grant(f->scheduler, &g), i);
	}
	assert_int_equal(claim_grant(f->scheduler, &g), -E_FULL);
	assert_int_equal(claim_slots_used(f->scheduler), CLAIM_SLOTS);
	claim_free(f->scheduler, 17);
	g.lease = 99999;
	assert_int_equal(claim_grant(f->scheduler, &g), 17);
	assert_int_equal(stat(scratch_path(f->path, "worker-03"), &st), 0);
	assert_int_equal(st.st_size, 4096 + (off_t)CLAIM_SLOTS * CLAIM_SLOT_BYTES);

	/* A new scheduler finds them all and gives none of them again. */
	assert_int_equal(claim_begin(f->worker, 4000, 4001), 0);
	claim_free(f->scheduler, 1000);
	claim_table_close(&f->scheduler);
	assert_int_equal(claim_table_open(&f->scheduler, f->dir, 3, us), 0);
	assert_int_equal(claim_slots_used(f->scheduler), CLAIM_SLOTS);
	assert_int_equal(claim_read(f->scheduler, 4000, &v), 0);
	assert_int_equal(v.state, CLAIM_BEGUN);
	assert_int_equal(v.grant.lease, 4001);
	assert_int_equal(claim_grant(f->scheduler, &g), 1000);
	assert_int_equal(claim_grant(f->scheduler, &g), -E_FULL);
}

static void
results_have_a_bound(void **state)
{
	struct fixture *f = *state;
	unsigned slot = claim_in(f, CLAIM_DOT_SENT, 1);
	static char bytes[CLAIM_RESULT_BYTES + 1];
	struct claim_view v;

	memset(bytes, 'r', sizeof bytes);
	assert_int_equal(claim_answer(f->worker, slot, 1, slice_of(bytes, sizeof bytes)),
			 -E_TOO_BIG);
	claim_read(f->scheduler, slot, &v);
	assert_int_equal(v.state, CLAIM_DOT_SENT);
	assert_int_equal(claim_answer(f->worker, slot, 1, slice_of(bytes, sizeof bytes - 1)), 0);
	assert_int_equal(claim_read(f->scheduler, slot, &v), 0);
	assert_true(v.results_ok);
	assert_int_equal(v.results.n, CLAIM_RESULT_BYTES);
	slot = claim_in(f, CLAIM_BEGUN, 2);
	assert_int_equal(claim_answer(f->worker, slot, 2, SLICE_NONE), 0);
	claim_read(f->scheduler, slot, &v);
	assert_true(v.results_ok);
}

/* Any flipped bit that matters is told; the results say so themselves. */
static void
every_flipped_bit(void **state)
{
	struct fixture *f = *state;
	unsigned slot = claim_in(f, CLAIM_ANSWERED, 31337);
	const size_t at = 4096 + (size_t)slot * CLAIM_SLOT_BYTES;
	int fd = open(scratch_path(f->path, "worker-03"), O_RDWR);
	unsigned char *p =
		mmap(NULL, at + CLAIM_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned told = 0, results = 0;
	struct claim_view v;

	assert_true(p != MAP_FAILED);
	p += at;
	for (size_t bit = 0; bit < CLAIM_SLOT_BYTES * 8; bit++) {
		int rc;

		p[bit / 8] ^= (unsigned char)(1 << bit % 8);
		rc = claim_read(f->scheduler, slot, &v);
		if (rc != 0) {
			assert_int_equal(rc, -E_CRC);
			assert_int_equal(claim_begin(f->worker, slot, 31337), -E_CRC);
			told++;
		} else if (!v.results_ok) {
			assert_int_equal(v.state, CLAIM_ANSWERED);
			results++;
		} else {
			assert_int_equal(v.grant.attempt, 3);
			assert_true(slice_is(v.results, "250 ok"));
		}
		p[bit / 8] ^= (unsigned char)(1 << bit % 8);
	}
	assert_int_equal(told, (188 + 8) * 8);      /* word, grant, its CRC, lease at the end */
	assert_int_equal(results, (4 + 4 + 6) * 8); /* length, CRC, six bytes */
	/* A free slot that shows a state nobody wrote. */
	claim_free(f->scheduler, slot);
	for (size_t bit = 0; bit < 64; bit++) {
		p[bit / 8] ^= (unsigned char)(1 << bit % 8);
		assert_int_equal(claim_read(f->scheduler, slot, &v), -E_CRC);
		p[bit / 8] ^= (unsigned char)(1 << bit % 8);
	}
	munmap(p - at, at + CLAIM_SLOT_BYTES);
	close(fd);
}

/* What was asked for one by one: read by another process, whatever the worker was writing when it
 * died. */
static void
stamps_of_each(void **state)
{
	struct fixture *f = *state;
	struct claim_grant g = grant_of(5);
	struct claim_stamped seen[CLAIM_RCPT_MAX];
	struct claim_view v;
	char results[CLAIM_RESULT_BYTES];
	int slot;

	g.ask = true;
	g.n_rcpts = CLAIM_RCPT_MAX;
	slot = claim_grant(f->scheduler, &g);
	assert_int_equal(claim_stamp(f->worker, (unsigned)slot, 5, 0, 3, 1000), -E_DENIED);
	assert_int_equal(claim_begin(f->worker, (unsigned)slot, 5), 0);
	assert_int_equal(claim_stamps(f->scheduler, (unsigned)slot, 5, seen, CLAIM_RCPT_MAX), 0);
	for (unsigned k = 0; k < CLAIM_RCPT_MAX; k++)
		assert_int_equal(
			claim_stamp(f->worker, (unsigned)slot, 5, k, (uint16_t)(k + 3), 1000 + k),
			0);
	assert_int_equal(claim_stamp(f->worker, (unsigned)slot, 5, CLAIM_RCPT_MAX, 0, 1),
			 -E_TOO_BIG);
	assert_int_equal(claim_stamp(f->worker, (unsigned)slot, 6, 0, 0, 1), -E_DENIED);
	assert_int_equal(claim_stamps(f->scheduler, (unsigned)slot, 6, seen, CLAIM_RCPT_MAX), 0);
	assert_int_equal(claim_stamps(f->scheduler, (unsigned)slot, 5, seen, 10), 10);
	assert_int_equal(claim_stamps(f->scheduler, (unsigned)slot, 5, seen, CLAIM_RCPT_MAX),
			 CLAIM_RCPT_MAX);
	for (unsigned k = 0; k < CLAIM_RCPT_MAX; k++)
		assert_true(seen[k].index == k + 3 && seen[k].stamp_boot_us == 1000 + k);
	assert_int_equal(claim_read(f->scheduler, (unsigned)slot, &v), 0);
	assert_true(v.grant.ask);
	/* An answer of the usual size leaves those of the usual number alone. */
	memset(results, 'r', sizeof results);
	assert_int_equal(claim_answer(f->worker, (unsigned)slot, 5, slice_of(results, 4000)), 0);
	assert_int_equal(claim_stamps(f->scheduler, (unsigned)slot, 5, seen, CLAIM_RCPT_MAX), 750);
	assert_int_equal(claim_read(f->scheduler, (unsigned)slot, &v), 0);
	assert_true(v.results_ok && v.results.n == 4000);
	claim_free(f->scheduler, (unsigned)slot);
	/* The next claim in the slot has none of them. */
	g.lease = 7;
	assert_int_equal(claim_grant(f->scheduler, &g), slot);
	assert_int_equal(claim_stamps(f->scheduler, (unsigned)slot, 7, seen, CLAIM_RCPT_MAX), 0);
}

static void
refused_not_reset(void **state)
{
	struct fixture *f = *state;
	const char *path = scratch_path(f->path, "worker-03");
	struct claim_table *t;

	claim_in(f, CLAIM_GRANTED, 1);
	assert_int_equal(claim_table_open(&t, f->dir, 3, them), -E_FOREIGN);
	for (size_t bit = 0; bit < 36 * 8; bit++) {
		int rc;

		scratch_flip(path, bit / 8, bit % 8);
		rc = claim_table_open(&t, f->dir, 3, us);
		assert_true(rc == -E_FORMAT || rc == -E_FOREIGN);
		scratch_flip(path, bit / 8, bit % 8);
	}
	assert_int_equal(claim_table_open(&t, f->dir, 3, us), 0);
	claim_table_close(&t);
}

/* A power cut left the file with its length and none of its bytes: nothing was granted before they
 * were there. */
static void
a_header_of_zeros_was_never_made(void **state)
{
	struct fixture *f = *state;
	struct claim_table *t;
	int fd = openat(f->dir, "worker-07", O_RDWR | O_CREAT | O_EXCL, 0640);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096 + 64 * CLAIM_SLOT_BYTES), 0);
	close(fd);
	assert_int_equal(claim_table_open(&t, f->dir, 7, us), 0);
	claim_table_close(&t);
	assert_int_equal(claim_table_open(&t, f->dir, 7, them), -E_FOREIGN);
	assert_int_equal(claim_table_open(&t, f->dir, 7, us), 0);
	claim_table_close(&t);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(the_whole_way),
		TEST(every_move),
		TEST(a_freed_slot_is_nobodys),
		TEST(as_many_as_there_are),
		TEST(results_have_a_bound),
		TEST(every_flipped_bit),
		TEST(stamps_of_each),
		TEST(refused_not_reset),
		TEST(a_header_of_zeros_was_never_made),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
