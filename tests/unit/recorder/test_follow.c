/* Following the log: each record once, whatever is killed, cut, full or taken away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/event_log/event_file.h"
#include "common/proc/fault.h"
#include "recorder/follow.h"
#include "tests/lib/child.h"
#include "tests/lib/csv.h"
#include "tests/lib/scratch.h"

#define WALL        1795290408000000u
#define EVENT_BYTES (256u << 10)

static const unsigned char instance[16] = "instance of ours";
static const struct event_position start;

struct fixture {
	char root[600], csv[700], json[700], done[700];
	int events, cursors;
	struct event_writer *w;
	uint64_t n;    /* events logged */
	uint64_t rows; /* records they make */
	uint64_t lost; /* of the events logged; each was of n % 3 + 1 records */
	unsigned char *is_lost;
	struct conf_acct_file files[2];
	struct follow *f;
};

static int
setup(void **state)
{
	struct fixture *x = calloc(1, sizeof *x);

	strcpy(x->root, scratch_make());
	snprintf(x->csv, sizeof x->csv, "%s/acct.csv", x->root);
	snprintf(x->json, sizeof x->json, "%s/made/lines.json", x->root);
	snprintf(x->done, sizeof x->done, "%s/done", x->root);
	mkdir(scratch_path(x->root, "events"), 0750);
	mkdir(scratch_path(x->root, "cursors"), 0750);
	mkdir(x->done, 0750);
	x->events = open(scratch_path(x->root, "events"), O_RDONLY | O_DIRECTORY);
	x->cursors = open(scratch_path(x->root, "cursors"), O_RDONLY | O_DIRECTORY);
	x->files[0] = (struct conf_acct_file){
		.path = x->csv, .d = true, .b = true, .max_size_bytes = 100000, .iso_times = true
	};
	x->files[1] = (struct conf_acct_file){ .path = x->json,
					       .d = true,
					       .json = true,
					       .max_size_bytes = 1u << 30,
					       .move_to = x->done,
					       .move_interval_us = 1000000,
					       .world_readable = true,
					       .iso_times = true };
	*state = x;
	return event_writer_open_sized(&x->w, x->events, instance, start, 1, EVENT_BYTES);
}

static int
teardown(void **state)
{
	struct fixture *x = *state;

	follow_close(&x->f);
	event_writer_close(&x->w);
	close(x->events);
	close(x->cursors);
	scratch_remove(x->root);
	free(x->is_lost);
	free(x);
	return 0;
}

/* Events of one to three recipients; the first is delivered, the others bounce. */
static void
log_events(struct fixture *x, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct event_rcpt rcpts[3];
		struct event e = { .kind = EVENT_RESULT,
				   .message = ++x->n,
				   .wall_us = WALL,
				   .queue = SLICE_LIT("a.example/mta1"),
				   .rcpts = rcpts,
				   .n_rcpts = 1 + x->n % 3 };

		for (unsigned k = 0; k < e.n_rcpts; k++)
			rcpts[k] = (struct event_rcpt){
				.index = (uint16_t)k,
				.action = k == 0 ? EVENT_DELIVERED : EVENT_BOUNCED,
				.status = { 2, 0, 0 },
				.address = SLICE_LIT("some.one@a.example"),
				.diag = SLICE_LIT("smtp;250 2.0.0 \"ok\", thank you")
			};
		event_append(x->w, &e);
		x->rows += e.n_rcpts;
	}
	assert_int_equal(event_sync(x->w), 0);
}

static void
open_follow(struct fixture *x)
{
	follow_close(&x->f);
	assert_int_equal(follow_open(&x->f, x->events, x->cursors, instance, x->files, 2), 0);
}

static void
run_all(struct fixture *x, uint64_t wall_us)
{
	int rc;

	while ((rc = follow_run(x->f, event_writer_position(x->w), 100, wall_us)) == 1)
		;
	assert_int_equal(rc, 0);
}

struct tally {
	unsigned char *csv, *json; /* times seen, by event and recipient */
	uint64_t rows, lines;
	unsigned files;
};

static void
tally_id(const struct fixture *x, unsigned char *seen, const char *id)
{
	unsigned long long lsn;
	unsigned rcpt;

	assert_int_equal(sscanf(id, "696e7374-%llx-%u", &lsn, &rcpt), 2);
	assert_true(lsn >= 1 && lsn <= x->n && rcpt < 3);
	assert_false(x->is_lost != NULL && x->is_lost[lsn]);
	if (++seen[lsn * 3 + rcpt] != 1)
		fail_msg("%.24s came again", id);
}

static void
tally_csv(const struct fixture *x, struct tally *t)
{
	char pattern[800];
	glob_t g;

	snprintf(pattern, sizeof pattern, "%s/acct-*.csv", x->root);
	glob(pattern, 0, NULL, &g);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		size_t n;
		char *p = scratch_read(g.gl_pathv[i], &n);
		struct csv *c = csv_parse(p, n);

		assert_non_null(c);
		for (size_t r = 0; r < csv_rows(c); r++)
			tally_id(x, t->csv, csv_get(c, r, "eventId"));
		t->rows += csv_rows(c);
		t->files++;
		csv_free(&c);
		free(p);
	}
	globfree(&g);
}

static void
tally_json(const struct fixture *x, struct tally *t, const char *dir)
{
	char pattern[800];
	glob_t g;

	snprintf(pattern, sizeof pattern, "%s/lines-*.json", dir);
	glob(pattern, 0, NULL, &g);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		size_t n;
		char *p = scratch_read(g.gl_pathv[i], &n), *at = p;

		assert_true(n == 0 || p[n - 1] == '\n');
		while ((at = memmem(at, n - (size_t)(at - p), "\"eventId\":\"", 11)) != NULL) {
			at += 11;
			tally_id(x, t->json, at);
			t->lines++;
		}
		free(p);
	}
	globfree(&g);
}

/* Every record exactly once: in the CSV files all of them, in the JSON files the delivered ones. */
static unsigned
check_all(const struct fixture *x)
{
	struct tally t = { 0 };
	char made[700];

	t.csv = calloc(x->n + 1, 3);
	t.json = calloc(x->n + 1, 3);
	snprintf(made, sizeof made, "%s/made", x->root);
	tally_csv(x, &t);
	tally_json(x, &t, made);
	tally_json(x, &t, x->done);
	assert_int_equal(t.rows, x->rows);
	assert_int_equal(t.lines, x->n - x->lost);
	free(t.csv);
	free(t.json);
	return t.files;
}

static void
all_of_it_once(void **state)
{
	struct fixture *x = *state;
	struct stat st;

	open_follow(x);
	log_events(x, 2000);
	run_all(x, WALL);
	assert_true(follow_is_dirty(x->f));
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_false(follow_is_dirty(x->f));
	assert_false(event_position_before(follow_position(x->f), event_writer_position(x->w)));
	assert_true(check_all(x) > 5); /* files of 100 kB */
	log_events(x, 10);
	run_all(x, WALL);
	check_all(x);   /* written at once, durable later */
	open_follow(x); /* as after a crash before the checkpoint */
	run_all(x, WALL);
	check_all(x);
	open_follow(x); /* and by now the file is old enough to be moved */
	run_all(x, WALL + 5000000);
	check_all(x);
	assert_int_equal(stat(scratch_path(x->root, "acct-2026-11-21-0000.csv"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(stat(scratch_path(x->done, "lines-2026-11-21-0000.json"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
}

/* Killed at any instant, twenty times over one log. */
static void
killed(void **state)
{
	struct fixture *x = *state;
	unsigned kills = 0, files;

	srand(20261121);
	log_events(x, 6000);
	for (int round = 0; round < 20; round++) {
		struct timespec wait = { .tv_nsec = 500000 + rand() % 12000000 };
		int status;
		pid_t pid = child_fork();

		if (pid == 0) {
			uint64_t wall = WALL + (uint64_t)round * 1000000;
			int rc = 1;

			CHECK(follow_open(&x->f, x->events, x->cursors, instance, x->files, 2) ==
			      0);
			for (unsigned turn = 0; rc == 1; turn++) {
				rc = follow_run(x->f, event_writer_position(x->w), 20,
						wall += 20000);
				if (turn % 4 == 3)
					CHECK(follow_checkpoint(x->f, wall) == 0);
			}
			CHECK(rc == 0);
			_exit(0);
		}
		nanosleep(&wait, NULL);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_false(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		kills += WIFSIGNALED(status);
	}
	open_follow(x);
	run_all(x, WALL + 3600000000u);
	assert_int_equal(follow_checkpoint(x->f, WALL + 3600000000u), 0);
	files = check_all(x);
	print_message("%u kills, %u files, %llu records\n", kills, files,
		      (unsigned long long)x->rows);
	assert_true(kills > 5 && files > 10);
}

/* No room on the disk: no half line, nothing lost, all there when there is room again. */
static void
no_room(void **state)
{
	struct fixture *x = *state;
	struct rlimit old, tight;
	int rc = 0;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	tight = old;
	tight.rlim_cur = 50000;
	log_events(x, 3000);
	open_follow(x);
	setrlimit(RLIMIT_FSIZE, &tight);
	for (int i = 0; i < 5 && rc >= 0; i++)
		rc = follow_run(x->f, event_writer_position(x->w), 1000, WALL);
	assert_true(rc < 0);
	assert_true(follow_checkpoint(x->f, WALL) < 0);
	assert_true(follow_run(x->f, event_writer_position(x->w), 1000, WALL) < 0);
	setrlimit(RLIMIT_FSIZE, &old);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	check_all(x);
}

/* A directory that is not there: nothing is read, so nothing is lost; it goes on when it is there.
 */
static void
no_directory(void **state)
{
	struct fixture *x = *state;

	snprintf(x->csv, sizeof x->csv, "%s/not/yet/acct.csv", x->root);
	log_events(x, 10);
	open_follow(x);
	assert_true(follow_run(x->f, event_writer_position(x->w), 1000, WALL) < 0);
	assert_int_equal(follow_position(x->f).file, 0);
	snprintf(x->csv, sizeof x->csv, "%s/acct.csv", x->root);
	open_follow(x);
	run_all(x, WALL);
	check_all(x);
}

static void
taken_away(void **state)
{
	struct fixture *x = *state;

	open_follow(x);
	log_events(x, 20);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_int_equal(rename(scratch_path(x->root, "acct-2026-11-21-0000.csv"),
				scratch_path(x->root, "acct-1999-01-01-0000.csv")),
			 0);
	log_events(x, 20);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	log_events(x, 20);
	run_all(x, WALL);
	assert_int_equal(check_all(x), 2);
	assert_int_equal(access(scratch_path(x->root, "acct-2026-11-21-0001.csv"), F_OK), 0);
}

static void
asked_to_rotate(void **state)
{
	struct fixture *x = *state;

	open_follow(x);
	follow_rotate(x->f);
	log_events(x, 5);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_int_equal(access(scratch_path(x->root, "acct-2026-11-21-0001.csv"), F_OK), -1);
	log_events(x, 5);
	run_all(x, WALL);
	assert_int_equal(check_all(x), 2);
	follow_rotate(x->f);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	follow_rotate(x->f); /* nothing in it: no further file */
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	log_events(x, 5);
	run_all(x, WALL);
	assert_int_equal(check_all(x), 3);
	/* The JSON files went where finished files go. */
	assert_int_equal(access(scratch_path(x->done, "lines-2026-11-21-0000.json"), F_OK), 0);
	assert_int_equal(access(scratch_path(x->done, "lines-2026-11-21-0001.json"), F_OK), 0);
}

/* A file of ours that holds something else already is not written to. */
static void
names_in_use(void **state)
{
	struct fixture *x = *state;
	const char *old = scratch_path(x->root, "acct-2026-11-21-0000.csv");
	char *p;
	size_t n;

	scratch_write(old, "type,eventId\r\n", 14);
	open_follow(x);
	log_events(x, 5);
	run_all(x, WALL);
	p = scratch_read(old, &n);
	assert_int_equal(n, 14);
	free(p);
	assert_int_equal(check_all(x), 2);
}

/* A damaged cursor: the records come again under their ids, in new files; a lost event file
 * likewise. */
static void
damaged_cursor(void **state)
{
	struct fixture *x = *state;
	struct follow *f = NULL;

	open_follow(x);
	log_events(x, 5);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	scratch_flip(scratch_path(x->root, "cursors/acct"), 30, 2);
	follow_close(&x->f);
	assert_int_equal(follow_open(&f, x->events, x->cursors, instance, x->files, 1), 0);
	assert_int_equal(follow_run(f, event_writer_position(x->w), 1000, WALL), 0);
	assert_int_equal(follow_checkpoint(f, WALL), 0);
	assert_int_equal(access(scratch_path(x->root, "acct-2026-11-21-0001.csv"), F_OK), 0);
	follow_close(&f);
}

/* Receptions are wanted, too: they bring columns, and these a file of their own. */
static void
other_columns(void **state)
{
	struct fixture *x = *state;

	open_follow(x);
	log_events(x, 10);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	open_follow(x); /* the same: it goes on */
	log_events(x, 10);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_int_equal(check_all(x), 1);
	x->files[0].r = true;
	open_follow(x);
	log_events(x, 10);
	run_all(x, WALL);
	assert_int_equal(check_all(x), 2);
	open_follow(x); /* as after a crash */
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_int_equal(check_all(x), 2);
}

/* Where the event of `lsn` stands, before anything is damaged. */
static struct event_position
place_of(const struct fixture *x, uint64_t lsn)
{
	struct event_position at = { 1, EVENT_FILE_HEADER_BYTES }, behind = at;
	struct event_reader *r;
	struct event e = { .lsn = 0 };

	assert_int_equal(event_reader_open(&r, x->events, instance, start), 0);
	while (e.lsn < lsn) {
		at = behind;
		assert_int_equal(event_read(r, event_writer_position(x->w), &e, &behind), 1);
		if (behind.file != at.file)
			at = (struct event_position){ behind.file, EVENT_FILE_HEADER_BYTES };
	}
	event_reader_close(&r);
	return at;
}

static const char *
event_path(const struct fixture *x, uint64_t file)
{
	char name[EVENT_NAME_BYTES + 8] = "events/";

	event_file_name(name + 7, file);
	return scratch_path(x->root, name);
}

static void
lose(struct fixture *x, uint64_t first, uint64_t last)
{
	for (uint64_t lsn = first; lsn <= last; lsn++) {
		x->is_lost[lsn] = 1;
		x->lost++;
		x->rows -= 1 + lsn % 3;
	}
}

static uint64_t
last_of_first_file(const struct fixture *x)
{
	uint64_t low = 1, high = x->n; /* the first is in it, the last is not */

	while (high - low > 1) {
		uint64_t mid = (low + high) / 2;

		*(place_of(x, mid).file == 1 ? &low : &high) = mid;
	}
	return low;
}

/* The next event is damaged, is the last of its file, and the recorder begins there: it knows by
 * its cursor that the next file does not follow. */
static void
damaged_end_of_a_file_behind_a_start(void **state)
{
	struct fixture *x = *state;
	struct event_position at;
	uint64_t last;

	x->is_lost = calloc(10000, 1);
	log_events(x, 2000);
	last = last_of_first_file(x);
	at = place_of(x, last);
	open_follow(x);
	for (int rc = 1; rc != 0;) {
		rc = follow_run(x->f, at, 500, WALL);
		assert_true(rc >= 0);
	}
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_int_equal(follow_position(x->f).offset, at.offset);
	scratch_flip(event_path(x, 1), at.offset + 1, 1);
	lose(x, last, last);
	open_follow(x);
	run_all(x, WALL);
	assert_int_equal(follow_counts(x->f, event_writer_position(x->w)).gaps, 1);
	check_all(x);
}

/* Damage ahead of the cursor: told, counted, passed over; all else is recorded once, across
 * restarts, and the position gets to the end. */
static void
damaged_events(void **state)
{
	struct fixture *x = *state;
	struct event_position at;
	struct follow_counts c;

	x->is_lost = calloc(10000, 1);
	log_events(x, 4000);
	assert_true(event_writer_position(x->w).file > 2);
	at = place_of(x, 4000);
	scratch_flip(event_path(x, at.file), at.offset + 50, 3); /* the last one before the limit */
	at = place_of(x, 700);
	scratch_flip(event_path(x, at.file), at.offset + 4, 7);
	at = place_of(x, 3);
	scratch_flip(event_path(x, at.file), at.offset + 60, 1);
	scratch_flip(event_path(x, 2), 30, 1); /* a header */
	lose(x, 3, 3);
	lose(x, 700, 700);
	lose(x, 4000, 4000);
	open_follow(x);
	for (int i = 0; i < 40; i++) {
		assert_true(follow_run(x->f, event_writer_position(x->w), 20, WALL) >= 0);
		if (i % 3 == 2)
			assert_int_equal(follow_checkpoint(x->f, WALL), 0);
		if (i % 7 == 6)
			open_follow(x);
	}
	run_all(x, WALL);
	c = follow_counts(x->f, event_writer_position(x->w));
	assert_true(c.gaps >= 1 && c.gaps <= 3); /* of this life */
	assert_int_equal(c.lag, 0);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	assert_false(event_position_before(follow_position(x->f), event_writer_position(x->w)));
	check_all(x);
	/* And on from there, also after a restart. */
	log_events(x, 50);
	run_all(x, WALL);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	check_all(x);
	log_events(x, 1);
	at = event_writer_position(x->w);
	log_events(x, 1);
	assert_true(at.file == event_writer_position(x->w).file);
	log_events(x, 30);
	scratch_flip(event_path(x, at.file), at.offset + 50, 1);
	lose(x, x->n - 30, x->n - 30);
	open_follow(x);
	run_all(x, WALL);
	assert_int_equal(follow_counts(x->f, event_writer_position(x->w)).gaps, 1);
	check_all(x);
}

/* The map ends early under the reader: not a death, and what is left of the file is read. */
static void
an_event_file_cut_while_mapped(void **state)
{
	struct fixture *x = *state;
	struct event_position at;
	uint64_t lsn = 400, last, cut;

	fault_init(); /* cmocka puts its own handler before each test */
	x->is_lost = calloc(10000, 1);
	log_events(x, 2000);
	at = place_of(x, lsn);
	assert_int_equal(at.file, 1);
	cut = (at.offset + 4095) & ~(uint64_t)4095; /* no page is there behind it */
	while (place_of(x, lsn + 1).offset <= cut)
		lsn++;
	last = last_of_first_file(x);
	assert_true(last > lsn);
	open_follow(x);
	assert_int_equal(follow_run(x->f, event_writer_position(x->w), 50, WALL), 1);
	assert_int_equal(truncate(event_path(x, at.file), (off_t)cut), 0);
	lose(x, lsn, last);
	for (int tries = 0, rc = 1; rc != 0; tries++) {
		rc = follow_run(x->f, event_writer_position(x->w), 100, WALL);
		assert_true(tries < 100 && (rc >= 0 || rc == -E_IO));
	}
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	check_all(x);
}

/* Stands before the system's: a disk that cannot be read. */
static bool no_reads;
ssize_t
pread(int fd, void *p, size_t n, off_t at)
{
	if (no_reads) {
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pread64, fd, p, n, at);
}

/* What the disk cannot read now is no damage: the position stays until it can. */
static void
a_disk_that_cannot_be_read(void **state)
{
	struct fixture *x = *state;

	log_events(x, 4000);
	assert_true(event_writer_position(x->w).file > 2);
	open_follow(x);
	for (int tries = 0; tries < 4; tries++) {
		int rc = 1;

		no_reads = true;
		while (rc > 0)
			rc = follow_run(x->f, event_writer_position(x->w), 100, WALL);
		no_reads = false;
		assert_int_equal(rc, -E_IO);
		assert_int_equal(follow_counts(x->f, event_writer_position(x->w)).gaps, 0);
		if (tries == 1)
			assert_int_equal(
				follow_run(x->f, event_writer_position(x->w), 100, WALL), 1);
		if (tries == 2)
			open_follow(x);
	}
	run_all(x, WALL);
	assert_int_equal(follow_counts(x->f, event_writer_position(x->w)).gaps, 0);
	assert_int_equal(follow_checkpoint(x->f, WALL), 0);
	check_all(x);
}

/* Stands before the system's: what is synced, in its order. */
static char synced[40][4096];
static unsigned n_synced;
int fsync(int fd);
int
fsync(int fd)
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, synced[n_synced % 40], sizeof synced[0] - 1);
	if (n > 0)
		synced[n_synced++ % 40][n] = '\0';
	return (int)syscall(SYS_fsync, fd);
}

static unsigned
times_synced(const char *path)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_synced && i < 40; i++)
		n += strcmp(synced[i], path) == 0;
	return n;
}

/* A directory that was made for the records is there after a power cut: the one that holds its name
 * was synced before the cursor stood behind them. Also when a life that made it ended right then.
 */
static void
names_are_synced(void **state)
{
	struct fixture *x = *state;

	open_follow(x);
	log_events(x, 5);
	n_synced = 0;
	run_all(x, WALL);
	assert_int_equal(follow_position(x->f).file, 0); /* no cursor yet */
	assert_true(times_synced(scratch_path(x->root, "made")) >= 1);
	assert_true(times_synced(x->root) >= 2); /* it holds made/, and the other file */
	follow_close(&x->f);
	snprintf(x->json, sizeof x->json, "%s/other/lines.json", x->root);
	x->files[0].path = x->json; /* only this one */
	mkdir(scratch_path(x->root, "other"), 0750);
	n_synced = 0;
	assert_int_equal(follow_open(&x->f, x->events, x->cursors, instance, x->files, 1), 0);
	assert_int_equal(follow_run(x->f, event_writer_position(x->w), 100, WALL), 0);
	assert_int_equal(times_synced(scratch_path(x->root, "other")), 1);
	assert_int_equal(times_synced(x->root), 1);
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(all_of_it_once),
		TEST(killed),
		TEST(no_room),
		TEST(no_directory),
		TEST(taken_away),
		TEST(asked_to_rotate),
		TEST(names_in_use),
		TEST(damaged_cursor),
		TEST(other_columns),
		TEST(damaged_events),
		TEST(an_event_file_cut_while_mapped),
		TEST(a_disk_that_cannot_be_read),
		TEST(names_are_synced),
		TEST(damaged_end_of_a_file_behind_a_start),
	};

	log_threshold(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
