/* The life of segment files where something went wrong before. */
#include "tests/unit/scheduler/fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "common/queue/segment.h"
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(epoch_in_a_file_only),
		cmocka_unit_test(file_that_cannot_be_stamped),
		cmocka_unit_test(row_that_was_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
