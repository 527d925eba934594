/* The life of segment files where something went wrong before. */
#include "tests/unit/scheduler/fixture.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common/queue/segment.h"
#include "scheduler/segment_pool.h"
#include "scheduler/segments.h"

struct world {
	struct segments *segments;
	unsigned answers;
	uint32_t number;
	uint64_t epoch;
	int rc;
};

static void
opened(void *arg, unsigned receiver, uint32_t generation, uint64_t for_bytes, uint32_t number,
       uint64_t epoch, uint64_t bytes, int rc)
{
	struct fixture *f = arg;
	struct world *w = f->at;

	assert_int_equal(receiver, 3);
	assert_int_equal(generation, 17);
	assert_int_equal(for_bytes, 0);
	assert_true(rc != 0 || bytes == SEGMENT_BYTES);
	w->answers++;
	w->number = number;
	w->epoch = epoch;
	w->rc = rc;
	loop_stop(f->loop);
}

static void
flush(struct fixture *f)
{
	struct world *w = f->at;

	segments_flush(w->segments);
}

static struct fixture *
make(struct world *w, uint64_t next_epoch)
{
	struct store_meta meta = {
		.next_message_id = 1, .next_epoch = next_epoch, .next_lsn = 1, .next_lease = 1
	};
	struct fixture *f = fx_make(&meta, 64u << 20);

	memset(w, 0, sizeof *w);
	f->at = w;
	f->at_turn_end = flush;
	w->segments = segments_new(f->loop, f->committer, f->spool.segments_fd, f->spool.instance,
				   opened, f);
	return f;
}

static void
end(struct fixture *f)
{
	struct world *w = f->at;

	segments_free(&w->segments);
	fx_remove(f);
}

static void
make_file(struct fixture *f, uint32_t number, uint64_t epoch, enum store_segment_state state,
	  bool with_row)
{
	struct store_segment row = { .epoch = 1, .bytes = SEGMENT_BYTES, .state = (uint8_t)state };
	struct world *w = f->at;

	assert_int_equal(
		segment_create(f->spool.segments_fd, number, SEGMENT_BYTES, f->spool.instance), 0);
	assert_int_equal(segment_stamp(f->spool.segments_fd, number, epoch, f->spool.instance), 0);
	if (with_row)
		segments_restore(w->segments, number, &row);
}

static bool
has_file(struct fixture *f, uint32_t number)
{
	struct segment_info info;

	return segment_read_info(f->spool.segments_fd, number, f->spool.instance, &info) == 0;
}

/* Killed between the stamp and the commit of the epoch that it took: the number is in a file only.
 */
static void
epoch_in_a_file_only(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 7);

	(void)state;
	make_file(f, 1, 7, STORE_SEGMENT_FREE, true);
	segments_start(w.segments);
	segments_request(w.segments, 3, 17, 0);
	fx_run(f);
	assert_int_equal(w.rc, 0);
	assert_int_equal(w.number, 1);
	assert_int_equal(w.epoch, 8);
	assert_int_equal(committer_meta_view(f->committer)->next_epoch, 9);
	end(f);
}

/* A free file that went bad costs itself, not all reception. */
static void
file_that_cannot_be_stamped(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 7);
	int fd;

	(void)state;
	make_file(f, 1, 2, STORE_SEGMENT_FREE, true);
	make_file(f, 2, 3, STORE_SEGMENT_FREE, true);
	segments_start(w.segments);
	fd = openat(f->spool.segments_fd, "00000001.seg", O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "spoilt", 6, 0), 6);
	close(fd);
	segments_request(w.segments, 3, 17, 0);
	fx_run(f);
	assert_int_equal(w.rc, 0);
	assert_int_equal(w.number, 2);
	assert_false(has_file(f, 1));
	end(f);
}

/* Mail lives in a file whose own row is lost: it is neither swept nor given to a receiver. */
static void
row_that_was_lost(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);
	struct segments_counts counts;

	(void)state;
	make_file(f, 1, 9, STORE_SEGMENT_SEALED, false);
	make_file(f, 2, 10, STORE_SEGMENT_SEALED, false);
	segments_restore_entry(w.segments, 1, 9, 3);
	segments_start(w.segments);
	assert_true(has_file(f, 1));
	assert_false(has_file(f, 2)); /* nobody's */
	assert_int_equal(segments_check(w.segments, 1, 9, 0, SEGMENT_HEADER_BYTES, 64), -E_DENIED);
	segments_counts(w.segments, &counts);
	assert_int_equal(counts.files, 1);
	assert_int_equal(counts.unused, 0);
	segments_request(w.segments, 3, 17, 0);
	fx_run(f);
	assert_int_equal(w.rc, 0);
	assert_true(w.number > 1);
	end(f);
}

static void
stop_soon(void *arg)
{
	struct fixture *f = arg;

	loop_stop(f->loop);
}

/* Lets commits and jobs come to rest. */
static void
run_for(struct fixture *f, unsigned ms)
{
	struct timer t = { 0 };

	timer_init(&t, f->loop, stop_soon, f);
	timer_set(&t, ms * 1000u);
	fx_run(f);
	timer_clear(&t);
}

/* Runs until the file is gone, or not. */
static bool
goes(struct fixture *f, uint32_t number)
{
	for (int i = 0; i < 100 && has_file(f, number); i++)
		run_for(f, 20);
	return !has_file(f, number);
}

static void
open_row(struct world *w, uint32_t number, uint64_t epoch, unsigned owner)
{
	struct store_segment row = { .epoch = epoch,
				     .bytes = SEGMENT_BYTES,
				     .committed = SEGMENT_HEADER_BYTES,
				     .state = STORE_SEGMENT_OPEN,
				     .receiver = (uint8_t)owner };

	segments_restore(w->segments, number, &row);
}

/* With an empty pool a file is made at once; where the disk is tight there is none. */
static void
nothing_free(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 7);
	struct segments_counts counts;
	unsigned asked = 0;

	(void)state;
	segments_request(w.segments, 3, 17, 0);
	fx_run(f);
	assert_int_equal(w.rc, 0);
	assert_true(has_file(f, w.number));
	assert_int_equal(segments_check(w.segments, w.number, w.epoch, 3, SEGMENT_HEADER_BYTES, 64),
			 1);
	assert_int_equal(segments_check(w.segments, w.number, w.epoch, 2, SEGMENT_HEADER_BYTES, 64),
			 -E_DENIED);
	segments_tight(w.segments, true);
	for (;;) {
		segments_counts(w.segments, &counts);
		w.rc = 1;
		asked++;
		assert_true(segments_request(w.segments, 3, 17, 0));
		if (w.rc == -E_FULL)
			break;
		assert_true(asked < 10);
		fx_run(f);
		assert_int_equal(w.rc, 0);
	}
	segments_tight(w.segments, false);
	end(f);
}

/* A receiver may not take them all. */
static void
too_many_open(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 100);

	(void)state;
	for (uint32_t n = 1; n < 64; n++)
		open_row(&w, n, n, 3);
	assert_true(segments_request(w.segments, 3, 17, 0));
	assert_false(segments_request(w.segments, 3, 17, 0));
	fx_run(f);
	assert_false(segments_request(w.segments, 3, 17, 0));
	segments_seal(w.segments, 5, 5, 3, false);
	assert_true(segments_request(w.segments, 3, 17, 0));
	end(f);
}

/* What cannot be opened for want of descriptors is no other file: this life does not begin. */
static void
no_descriptors(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);
	struct rlimit limit, none;

	(void)state;
	make_file(f, 1, 11, STORE_SEGMENT_OPEN, false);
	open_row(&w, 1, 11, 3);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(segments_start(w.segments), -E_FULL);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(segments_start(w.segments), 0);
	segments_held_begin(w.segments, 3);
	assert_true(segments_held(w.segments, 1, 11, 3));
	segments_held_end(w.segments, 3);
	end(f);
}

/* Its SEG_OPEN died with the scheduler that sent it: sealed when the receiver has named the others.
 */
static void
open_and_unknown(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);

	(void)state;
	for (uint32_t n = 1; n <= 3; n++) {
		make_file(f, n, 10 + n, STORE_SEGMENT_OPEN, false);
		open_row(&w, n, 10 + n, n == 3 ? 4 : 3);
	}
	segments_start(w.segments);
	segments_held_begin(w.segments, 3);
	assert_true(segments_held(w.segments, 1, 11, 3));
	assert_false(segments_held(w.segments, 3, 13, 3)); /* another's */
	assert_int_equal(segments_check(w.segments, 2, 12, 3, SEGMENT_HEADER_BYTES, 64), 1);
	segments_held_end(w.segments, 3);
	assert_int_equal(segments_check(w.segments, 1, 11, 3, SEGMENT_HEADER_BYTES, 64), 1);
	assert_int_equal(segments_check(w.segments, 2, 12, 3, SEGMENT_HEADER_BYTES, 64), -E_DENIED);
	assert_int_equal(segments_check(w.segments, 3, 13, 4, SEGMENT_HEADER_BYTES, 64), 1);
	end(f);
}

static bool
is_known(struct world *w, uint32_t number, uint64_t epoch, unsigned receiver)
{
	return segments_check(w->segments, number, epoch, receiver, SEGMENT_HEADER_BYTES, 64) == 0;
}

/* All of it has been sent on already, but that it was committed may not have been heard: it is not
 * used again before every receiver of the earlier life has told again what it has no answer for. */
static void
told_again_late(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);

	(void)state;
	segments_expect(w.segments, 3);
	for (uint32_t n = 1; n <= 2; n++) {
		struct store_segment row = { .epoch = 10 + n,
					     .bytes = SEGMENT_BYTES,
					     .committed = SEGMENT_HEADER_BYTES + 64,
					     .state = STORE_SEGMENT_SEALED,
					     .receiver = 1 };

		make_file(f, n, 10 + n, STORE_SEGMENT_SEALED, false);
		segments_restore(w.segments, n, &row);
	}
	segments_restore_entry(w.segments, 2, 12, 1);
	segments_start(w.segments);
	segments_live(w.segments, 2, -1, 1);
	segments_held_end(w.segments, 0);
	segments_seal_all(w.segments, 2);
	segments_seal_all(w.segments, 2); /* and dies once more */
	run_for(f, 300);
	assert_true(is_known(&w, 1, 11, 1));
	assert_true(is_known(&w, 2, 12, 1));
	segments_held_begin(w.segments, 1);
	assert_true(is_known(&w, 1, 11, 1));
	segments_held_end(w.segments, 1);
	assert_false(is_known(&w, 1, 11, 1));
	assert_false(is_known(&w, 2, 12, 1));
	run_for(f, 300);
	end(f);
}

/* Among the next `most` that are asked for. */
static bool
is_given(struct fixture *f, uint32_t number, unsigned most)
{
	struct world *w = f->at;

	run_for(f, 200);
	for (unsigned i = 0; i < most; i++) {
		segments_request(w->segments, 3, 17, 0);
		fx_run(f);
		assert_int_equal(w->rc, 0);
		if (w->number == number)
			return true;
	}
	return false;
}

/* The row of a file is lost while a receiver writes to it: it is told, and until it is dead the
 * file is nobody else's, even if no mail lives in it any more. */
static void
row_lost_while_open(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);

	segments_expect(w.segments, 2);
	make_file(f, 1, 11, STORE_SEGMENT_OPEN, false);
	make_file(f, 2, 12, STORE_SEGMENT_OPEN, false); /* no mail either: swept */
	segments_restore_entry(w.segments, 1, 11, 3);
	segments_start(w.segments);
	segments_live(w.segments, 1, -1, 3);
	segments_held_end(w.segments, 0);
	segments_held_begin(w.segments, 1);
	assert_false(segments_held(w.segments, 1, 11, 1));
	assert_false(segments_held(w.segments, 2, 12, 1));
	assert_int_equal(segments_check(w.segments, 1, 11, 1, SEGMENT_HEADER_BYTES, 64), -E_DENIED);
	assert_false(is_given(f, 1, 4));
	if (*state != NULL) { /* a worker of before may read it: it may have been compaction's */
		segments_seal_all(w.segments, 1);
		assert_false(is_given(f, 1, 4));
		segments_release_old(w.segments);
	} else {
		segments_release_old(w.segments);
		assert_false(is_given(f, 1, 4));
		segments_seal_all(w.segments, 1); /* dead */
	}
	assert_true(is_given(f, 1, 8));
	end(f);
}

/* Rows of files that have gone, or are of another life: who has them open is told. */
static void
open_but_not_there(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 30);

	(void)state;
	segments_expect(w.segments, 4);
	make_file(f, 2, 22, STORE_SEGMENT_OPEN, false);
	make_file(f, 3, 13, STORE_SEGMENT_OPEN, false);
	for (uint32_t n = 1; n <= 3; n++)
		open_row(&w, n, 10 + n, 3);
	segments_start(w.segments);
	for (uint32_t n = 1; n <= 3; n++)
		assert_int_equal(segments_check(w.segments, n, 10 + n, 3, SEGMENT_HEADER_BYTES, 64),
				 n == 3 ? 1 : -E_DENIED);
	segments_held_begin(w.segments, 3);
	for (uint32_t n = 1; n <= 3; n++)
		assert_int_equal(segments_held(w.segments, n, 10 + n, 3), n == 3);
	end(f);
}

/* What compaction had open is kept until no claim of that life can be read from it. */
static void
half_written_by_compaction(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);
	struct segments_counts counts;

	(void)state;
	make_file(f, 1, 11, STORE_SEGMENT_OPEN, false);
	open_row(&w, 1, 11, SEGMENTS_COMPACTOR);
	segments_start(w.segments);
	run_for(f, 300);
	for (int i = 0; i < 6; i++) { /* whoever asks, gets another one */
		segments_request(w.segments, 3, 17, 0);
		fx_run(f);
		assert_int_equal(w.rc, 0);
		assert_true(w.number > 1);
	}
	segments_release_old(w.segments);
	segments_release_old(w.segments);
	run_for(f, 300);
	segments_counts(w.segments, &counts);
	assert_int_equal(counts.sealed + counts.thin, 0);
	end(f);
}

/* A file whose write failed is not used again; nor is what a crash left half made. */
static void
failed_and_unfinished(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);
	int fd;

	(void)state;
	make_file(f, 1, 11, STORE_SEGMENT_OPEN, false);
	make_file(f, 2, 12, STORE_SEGMENT_OPEN, false);
	open_row(&w, 1, 11, 3);
	open_row(&w, 2, 12, 3);
	fd = openat(f->spool.segments_fd, "00000009.seg.new", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	close(fd);
	segments_start(w.segments);
	assert_int_not_equal(faccessat(f->spool.segments_fd, "00000009.seg.new", F_OK, 0), 0);
	segments_live(w.segments, 1, 1, 5);
	segments_seal(w.segments, 1, 11, 3, true);
	segments_seal(w.segments, 2, 12, 3, false);
	run_for(f, 200);
	assert_true(has_file(f, 1)); /* mail lives in it */
	segments_live(w.segments, 1, -1, 5);
	assert_true(goes(f, 1));
	assert_true(has_file(f, 2));
	end(f);
}

/* That a write failed is kept in the row, and heard again of what is sealed already. */
static void
failed_before_a_restart(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);

	(void)state;
	for (uint32_t n = 1; n <= 4; n++) {
		struct store_segment row = {
			.epoch = 10 + n,
			.bytes = SEGMENT_BYTES,
			.state = n == 4 ? STORE_SEGMENT_FREE : STORE_SEGMENT_SEALED,
			.receiver = 3,
			.failed = n == 1 || n == 4,
		};

		make_file(f, n, 10 + n, STORE_SEGMENT_SEALED, false);
		segments_restore(w.segments, n, &row);
	}
	for (uint32_t n = 1; n <= 3; n++)
		segments_restore_entry(w.segments, n, 10 + n, 1);
	segments_start(w.segments);
	assert_true(goes(f, 4));
	segments_seal(w.segments, 2, 12, 3, true);
	segments_seal(w.segments, 3, 99, 3, true); /* of another life of the file */
	for (uint32_t n = 1; n <= 3; n++)
		segments_live(w.segments, n, -1, 1);
	assert_true(goes(f, 1));
	assert_true(goes(f, 2));
	assert_true(has_file(f, 3));
	end(f);
}

/* Thin is what live mail fills to less than a quarter, sealed, the longest first. */
static void
thin_ones(void **state)
{
	struct world w;
	struct fixture *f = make(&w, 20);
	const uint32_t quarter = SEGMENT_BYTES / 1024 / 4;
	struct segments_thin thin[8];

	(void)state;
	for (uint32_t n = 1; n <= 4; n++)
		open_row(&w, n, n, 3);
	for (uint32_t n = 1; n <= 4; n++) {
		segments_live(w.segments, n, 1, 1);
		segments_live(w.segments, n, 1, quarter - (n == 4));
	}
	assert_int_equal(segments_thin(w.segments, 0, thin, 8), 0); /* open */
	for (uint32_t n = 1; n <= 4; n++)
		segments_seal(w.segments, n, n, 3, false);
	assert_int_equal(segments_thin(w.segments, 0, thin, 8), 0);
	segments_live(w.segments, 3, -1, 1);
	assert_int_equal(segments_thin(w.segments, 0, thin, 8), 0); /* a quarter */
	segments_live(w.segments, 4, -1, 1);
	segments_live(w.segments, 2, -1, quarter);
	assert_int_equal(segments_thin(w.segments, 0, thin, 8), 2);
	assert_int_equal(thin[0].number, 4);
	assert_int_equal(thin[0].live_kbytes, quarter - 1);
	assert_int_equal(thin[1].number, 2);
	assert_int_equal(segments_thin(w.segments, 1000000, thin, 8), 0); /* not old enough */
	segments_thin_later(w.segments, 4, false);
	assert_int_equal(segments_thin(w.segments, 0, thin, 1), 1);
	assert_int_equal(thin[0].number, 2);
	segments_thin_later(w.segments, 2, true);
	assert_int_equal(segments_thin(w.segments, 0, thin, 8), 1);
	segments_live(w.segments, 2, 1, 0);
	segments_live(w.segments, 2, -1, 0);
	assert_int_equal(segments_thin(w.segments, 0, thin, 8), 1); /* left alone */
	end(f);
}

static void
pool_follows_traffic(void **state)
{
	struct segment_pool p = { 0 };
	uint64_t t = 1000000000u;

	(void)state;
	assert_int_equal(segment_pool_target(&p, t, SEGMENT_BYTES), SEGMENT_POOL_LOW);
	/* Three a second: nine for three seconds. */
	for (int s = 0; s < 4; s++, t += 1000000) {
		for (int i = 0; i < 3; i++)
			segment_pool_note(&p, t + (unsigned)i * 1000, SEGMENT_BYTES);
	}
	assert_int_equal(segment_pool_target(&p, t, SEGMENT_BYTES), 9);
	assert_int_equal(segment_pool_target(&p, t + 4000000, SEGMENT_BYTES), 9);
	assert_int_equal(segment_pool_target(&p, t + 12000000, SEGMENT_BYTES), SEGMENT_POOL_LOW);
	segment_pool_note(&p, t + 20000000, 100ull * SEGMENT_BYTES);
	assert_int_equal(segment_pool_target(&p, t + 20000000, SEGMENT_BYTES), SEGMENT_POOL_HIGH);
	assert_int_equal(segment_pool_target(&p, t + 90000000, SEGMENT_BYTES), SEGMENT_POOL_LOW);
}

int
main(void)
{
	static int first_the_receiver;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(epoch_in_a_file_only),
		cmocka_unit_test(file_that_cannot_be_stamped),
		cmocka_unit_test(row_that_was_lost),
		cmocka_unit_test(nothing_free),
		cmocka_unit_test(too_many_open),
		cmocka_unit_test(no_descriptors),
		cmocka_unit_test(open_and_unknown),
		cmocka_unit_test(half_written_by_compaction),
		cmocka_unit_test(open_but_not_there),
		cmocka_unit_test(told_again_late),
		cmocka_unit_test(row_lost_while_open),
		cmocka_unit_test_prestate(row_lost_while_open, &first_the_receiver),
		cmocka_unit_test(failed_and_unfinished),
		cmocka_unit_test(failed_before_a_restart),
		cmocka_unit_test(thin_ones),
		cmocka_unit_test(pool_follows_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
