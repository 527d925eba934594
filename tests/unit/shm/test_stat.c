/* stat: what the writer puts the reader gets, whole; what is not an object is an error. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "shm/stat.h"

static char dir[64];

static int
set_up(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_stat.XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static const char *
path_of(const char *name)
{
	static char path[256];

	snprintf(path, sizeof path, "%s/shm/%s", dir, name);
	return path;
}

static int
tear_down(void **state)
{
	static const char *const names[] = { "scheduler", "worker-0", "worker-3", "receiver-0",
					     "resolver",  "recorder", "alias",    "" };

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (names[i][0] != '\0')
			unlink(path_of(names[i]));
	rmdir(path_of(""));
	return rmdir(dir);
}

static struct stat_object *
create(enum stat_writer writer, unsigned slot)
{
	struct stat_object *o = NULL;

	assert_int_equal(stat_create(&o, dir, writer, slot), 0);
	return o;
}

static struct stat_object *
open_it(enum stat_writer writer, unsigned slot)
{
	struct stat_object *o = NULL;

	assert_int_equal(stat_open(&o, dir, writer, slot), 0);
	return o;
}

static struct stat_queue
queue_named(const char *name, uint64_t n)
{
	struct stat_queue q;

	memset(&q, 0, sizeof q);
	snprintf(q.name, sizeof q.name, "%s", name);
	strcpy(q.mode, "backoff");
	strcpy(q.backoffReason, "421 4.7.0 too many");
	q.paused = 1;
	q.rcp = n;
	q.nextDue = n + 1;
	return q;
}

static void
test_round_trip(void **state)
{
	struct stat_object *w = create(STAT_SCHEDULER, 0);
	struct stat_object *r = open_it(STAT_SCHEDULER, 0);
	struct stat_totals t = { .received = 7, .segments_free = 9 }, t2;
	struct stat_queue q = queue_named("a.test/v", 5), q2;
	struct stat_source s, s2;
	struct stat_limit l, l2;
	struct stat_info info;

	(void)state;
	memset(&s, 0, sizeof s);
	strcpy(s.ip, "192.0.2.1");
	s.worker = 3;
	assert_int_equal(stat_get_totals(r, &t2, sizeof t2), 0);
	assert_int_equal(t2.received, 0);
	assert_int_equal(stat_get_queue(r, 0, &q2), -E_MISSING);
	stat_put_totals(w, &t);
	stat_put_queue(w, 700, &q);
	stat_put_source(w, 0, &s);
	memset(&l, 0, sizeof l);
	strcpy(l.scope, "queue");
	strcpy(l.object, "a.test/v");
	strcpy(l.value, "500/h");
	l.nextRoom = 77;
	stat_put_limit(w, 4, &l);
	stat_beat(w, 123456, STAT_RUNNING);
	atomic_store(&stat_header(w)->generation, 4);
	assert_int_equal(stat_get_totals(r, &t2, sizeof t2), 0);
	assert_memory_equal(&t, &t2, sizeof t);
	assert_int_equal(stat_get_totals(r, &t2, sizeof(struct stat_worker)), -E_FORMAT);
	assert_int_equal(stat_get_queue(r, 700, &q2), 0);
	assert_memory_equal(&q, &q2, sizeof q);
	assert_int_equal(stat_get_queue(r, 699, &q2), -E_MISSING);
	assert_int_equal(stat_get_queue(r, STAT_QUEUE_ROWS, &q2), -E_MISSING);
	assert_int_equal(stat_get_queue(r, UINT32_MAX, &q2), -E_MISSING);
	assert_int_equal(stat_get_source(r, 0, &s2), 0);
	assert_memory_equal(&s, &s2, sizeof s);
	assert_int_equal(stat_get_source(r, STAT_SOURCE_ROWS, &s2), -E_MISSING);
	assert_int_equal(stat_get_info(r, &info), 0);
	assert_int_equal(info.heartbeat_boot_us, 123456);
	assert_int_equal(info.state, STAT_RUNNING);
	assert_int_equal(info.pid, getpid());
	assert_int_equal(info.generation, 4);
	assert_int_equal(info.queues_used, 701);
	assert_int_equal(info.sources_used, 1);
	assert_int_equal(info.limits_used, 5);
	assert_int_equal(stat_get_limit(r, 4, &l2), 0);
	assert_memory_equal(&l, &l2, sizeof l);
	assert_int_equal(stat_get_limit(r, 3, &l2), -E_MISSING);
	assert_int_equal(stat_get_limit(r, STAT_LIMIT_ROWS, &l2), -E_MISSING);
	memset(&l, 0, sizeof l);
	stat_put_limit(w, 4, &l);
	assert_int_equal(stat_get_limit(r, 4, &l2), -E_MISSING);
	q.name[0] = '\0';
	stat_put_queue(w, 700, &q);
	assert_int_equal(stat_get_queue(r, 700, &q2), -E_MISSING);
	stat_put_queue(w, STAT_QUEUE_ROWS - 1, &q);
	stat_close(&w);
	assert_null(w);
	assert_int_equal(stat_get_info(r, &info), 0);
	assert_int_equal(info.state, STAT_GONE);
	stat_close(&r);
}

static void
test_every_writer(void **state)
{
	static const struct {
		enum stat_writer writer;
		unsigned slot;
		uint32_t bytes;
	} rows[] = {
		{ STAT_SCHEDULER, 0, sizeof(struct stat_totals) },
		{ STAT_WORKER, 3, sizeof(struct stat_worker) },
		{ STAT_RECEIVER, 0, sizeof(struct stat_receiver) },
		{ STAT_RESOLVER, 0, sizeof(struct stat_resolver) },
		{ STAT_RECORDER, 0, sizeof(struct stat_recorder) },
	};
	unsigned char in[1024], out[1024];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct stat_object *w = create(rows[i].writer, rows[i].slot);
		struct stat_object *r = open_it(rows[i].writer, rows[i].slot);
		struct stat st;

		assert_int_equal(stat_totals_bytes(rows[i].writer), rows[i].bytes);
		memset(in, (int)(0x11 * (i + 1)), sizeof in);
		stat_put_totals(w, in);
		assert_int_equal(stat_get_totals(r, out, rows[i].bytes), 0);
		assert_memory_equal(in, out, rows[i].bytes);
		stat_close(&r);
		stat_close(&w);
		if (rows[i].writer == STAT_WORKER) {
			assert_int_equal(stat(path_of("worker-3"), &st), 0);
			assert_int_equal(st.st_mode & 0777, 0640);
			assert_int_equal(stat_open(&r, dir, STAT_WORKER, 2), -E_MISSING);
		}
	}
}

static void
test_replaced(void **state)
{
	struct stat_object *old = create(STAT_RESOLVER, 0);
	struct stat_object *r = open_it(STAT_RESOLVER, 0), *r2;
	struct stat_object *young = create(STAT_RESOLVER, 0);
	struct stat_resolver row = { .lookups = 8 }, got;
	struct stat_info info;

	(void)state;
	assert_int_equal(stat_get_info(r, &info), 0);
	assert_int_equal(info.state, STAT_GONE);
	stat_put_totals(young, &row);
	r2 = open_it(STAT_RESOLVER, 0);
	assert_int_equal(stat_get_totals(r2, &got, sizeof got), 0);
	assert_int_equal(got.lookups, 8);
	assert_int_equal(stat_get_totals(r, &got, sizeof got), 0);
	assert_int_equal(got.lookups, 0);
	stat_close(&old);
	stat_close(&r);
	stat_close(&r2);
	stat_close(&young);
}

/* The writer stands still inside a change, at whichever half of it: a whole copy is still there. */
static void
test_stopped_writer(void **state)
{
	struct stat_object *w = create(STAT_RECORDER, 0);
	struct stat_object *r = open_it(STAT_RECORDER, 0);
	struct stat_recorder a = { 1, 2, 3, 4 }, got;
	uint64_t *block = (uint64_t *)((char *)stat_header(w) + stat_header(w)->totals_offset);

	(void)state;
	stat_put_totals(w, &a);
	assert_int_equal(block[0] % 2, 0);
	block[0]++;    /* flipped to copy 1, ... */
	block[1] = 99; /* ... copy 0 half written */
	assert_int_equal(stat_get_totals(r, &got, sizeof got), 0);
	assert_memory_equal(&got, &a, sizeof a);
	stat_put_totals(w, &a);      /* the next life of a block goes on from an odd count */
	block[1 + sizeof a / 8] = 77; /* copy 1 half written, readers are at copy 0 */
	assert_int_equal(stat_get_totals(r, &got, sizeof got), 0);
	assert_memory_equal(&got, &a, sizeof a);
	block[0]++;
	assert_int_equal(stat_get_totals(r, &got, sizeof got), 0);
	assert_int_equal(got.events, 77); /* the reader does follow the count */
	stat_close(&r);
	stat_close(&w);
}

struct hammer {
	struct stat_object *w;
	_Atomic int stop;
};

static void *
hammer(void *arg)
{
	struct hammer *h = arg;
	struct stat_queue q = queue_named("q/v", 0);

	for (uint64_t n = 1; !h->stop; n++) {
		q.rcp = q.kb = q.conn = q.msgRate = q.attempted = q.delivered = q.transient =
			q.bounced = q.nextDue = q.paused = n;
		memset(q.backoffReason, (int)('a' + n % 26), sizeof q.backoffReason - 1);
		stat_put_queue(h->w, 0, &q);
	}
	return NULL;
}

static void
test_never_torn(void **state)
{
	struct hammer h = { .w = create(STAT_SCHEDULER, 0) };
	struct stat_object *r = open_it(STAT_SCHEDULER, 0);
	struct stat_queue q = queue_named("q/v", 0);
	uint64_t last = 0, changes = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, hammer, &h), 0);
	for (long i = 0; i < 30000 || (changes < 100 && i < 30000000); i++) {
		int rc = stat_get_queue(r, 0, &q);

		if (rc == -E_AGAIN || rc == -E_MISSING)
			continue;
		assert_int_equal(rc, 0);
		assert_true(q.rcp >= last && q.rcp == q.nextDue && q.paused == q.rcp &&
			    q.kb == q.rcp);
		assert_int_equal(q.backoffReason[0], 'a' + q.rcp % 26);
		assert_int_equal(q.backoffReason[sizeof q.backoffReason - 2], 'a' + q.rcp % 26);
		changes += q.rcp != last;
		last = q.rcp;
	}
	h.stop = 1;
	pthread_join(thread, NULL);
	assert_true(changes >= 100);
	stat_close(&r);
	stat_close(&h.w);
}

/* A file that is cut while it is mapped: an error at each getter, no signal. */
static void
test_cut_while_mapped(void **state)
{
	struct stat_object *w = create(STAT_SCHEDULER, 0);
	struct stat_object *r = open_it(STAT_SCHEDULER, 0);
	struct stat_totals t;
	struct stat_queue q = queue_named("q/v", 0);
	struct stat_info info;

	(void)state;
	stat_put_queue(w, 60000, &q);
	assert_int_equal(stat_get_queue(r, 60000, &q), 0);
	assert_int_equal(truncate(path_of("scheduler"), 8192), 0);
	assert_int_equal(stat_get_totals(r, &t, sizeof t), 0);
	assert_int_equal(stat_get_queue(r, 60000, &q), -E_BAD);
	assert_int_equal(truncate(path_of("scheduler"), 0), 0);
	assert_int_equal(stat_get_totals(r, &t, sizeof t), -E_BAD);
	assert_int_equal(stat_get_queue(r, 0, &q), -E_BAD);
	assert_int_equal(stat_get_info(r, &info), -E_BAD);
	stat_close(&r);
	/* The writer's own header is gone too: only the descriptor and the map are given back here.
	 */
	assert_int_equal(truncate(path_of("scheduler"), 4096), 0);
	stat_close(&w);
}

static void
write_file(const char *name, const void *bytes, size_t n)
{
	int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0640);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	close(fd);
}

static void
test_not_an_object(void **state)
{
	struct stat_object *w = create(STAT_RESOLVER, 0), *r = NULL;
	char image[4096];
	struct stat_header *h = (struct stat_header *)image;
	size_t n;
	int fd = open(path_of("resolver"), O_RDONLY);

	(void)state;
	assert_int_equal(stat_open(&r, dir, STAT_RECORDER, 0), -E_MISSING);
	assert_int_equal(stat_open(&r, "/nowhere", STAT_RECORDER, 0), -E_MISSING);
	n = (size_t)read(fd, image, sizeof image);
	close(fd);
	assert_true(n > sizeof *h && n < sizeof image);
	stat_close(&w);
#define TRY(name, change, want)                                                                    \
	do {                                                                                       \
		char kept[sizeof image];                                                           \
		memcpy(kept, image, n);                                                            \
		change;                                                                            \
		assert_int_equal(stat_open_image(&r, image, n), want);                             \
		write_file(name, image, n);                                                        \
		assert_int_equal(stat_open(&r, dir, STAT_RESOLVER, 0), want);                      \
		assert_null(r);                                                                    \
		memcpy(image, kept, n);                                                            \
	} while (0)
	TRY("resolver", h->magic++, -E_BAD);
	TRY("resolver", h->version++, -E_FORMAT);
	TRY("resolver", h->header_bytes--, -E_FORMAT);
	TRY("resolver", h->bytes++, -E_BAD);
	TRY("resolver", h->bytes = 0, -E_BAD);
	TRY("resolver", h->writer = 5, -E_BAD);
	TRY("resolver", h->writer = STAT_SCHEDULER, -E_FORMAT);
	TRY("resolver", h->slot = 64, -E_BAD);
	TRY("resolver", h->totals_offset += 64, -E_BAD);
	TRY("resolver", h->totals_offset += 8, -E_BAD);
	TRY("resolver", h->totals_offset = 0, -E_BAD);
	TRY("resolver", h->totals_offset = UINT32_MAX - 63, -E_BAD);
	TRY("resolver", h->totals_bytes = 0, -E_FORMAT);
	TRY("resolver", h->queues_max = 1, -E_BAD);
	TRY("resolver", h->queues_max = UINT32_MAX, -E_BAD);
	TRY("resolver", h->queue_bytes = 1, -E_FORMAT);
	TRY("resolver", h->sources_max = 1, -E_BAD);
	TRY("resolver", h->sources_max = STAT_SOURCE_ROWS + 1, -E_BAD);
	TRY("resolver", h->limits_max = 1, -E_BAD);
	TRY("resolver", h->limits_max = STAT_LIMIT_ROWS + 1, -E_BAD);
	TRY("resolver", h->limit_bytes += 64, -E_FORMAT);
	for (size_t cut = 0; cut < n; cut++)
		assert_true(stat_open_image(&r, image, cut) < 0);
	write_file("resolver", image, 10);
	assert_int_equal(stat_open(&r, dir, STAT_RESOLVER, 0), -E_BAD);
	write_file("resolver", image, 0);
	assert_int_equal(stat_open(&r, dir, STAT_RESOLVER, 0), -E_BAD);
	/* Of another writer, under our name. */
	write_file("recorder", image, n);
	assert_int_equal(stat_open(&r, dir, STAT_RECORDER, 0), -E_BAD);
	unlink(path_of("recorder"));
	assert_int_equal(symlink("resolver", path_of("recorder")), 0);
	assert_true(stat_open(&r, dir, STAT_RECORDER, 0) < 0);
	unlink(path_of("recorder"));
	assert_int_equal(mkfifo(path_of("recorder"), 0640), 0);
	assert_int_equal(stat_open(&r, dir, STAT_RECORDER, 0), -E_BAD);
	assert_int_equal(stat_open_image(&r, image, n), 0);
	stat_close(&r);
}

/* Bits of a whole object turned one by one: never a crash, strings always ended. */
static void
test_scribbled(void **state)
{
	struct stat_object *w = create(STAT_SCHEDULER, 0), *r = NULL;
	size_t n = stat_header(w)->queues_offset + 2 * stat_header(w)->queue_bytes;
	struct stat_queue q = queue_named("q/v", 1);
	struct stat_info info;
	char *image;

	(void)state;
	stat_put_queue(w, 0, &q);
	image = mem_memdup0(stat_header(w), n);
	((struct stat_header *)image)->queues_max = 2;
	((struct stat_header *)image)->sources_max = 0;
	((struct stat_header *)image)->sources_offset = (uint32_t)n;
	((struct stat_header *)image)->limits_max = 0;
	((struct stat_header *)image)->limits_offset = (uint32_t)n;
	((struct stat_header *)image)->bytes = (uint32_t)n;
	stat_close(&w);
	assert_int_equal(stat_open_image(&r, image, n), 0);
	stat_close(&r);
	for (size_t i = 0; i < n; i++) {
		char kept = image[i];

		image[i] = (char)~kept;
		if (stat_open_image(&r, image, n) == 0) {
			assert_int_equal(stat_get_info(r, &info), 0);
			assert_true(info.queues_used <= 2);
			for (unsigned row = 0; row < 3; row++)
				if (stat_get_queue(r, row, &q) == 0)
					assert_true(strnlen(q.name, sizeof q.name) < sizeof q.name);
			stat_close(&r);
		}
		image[i] = kept;
	}
	memset(image + stat_totals_bytes(STAT_SCHEDULER), 'x',
	       n - stat_totals_bytes(STAT_SCHEDULER));
	if (stat_open_image(&r, image, n) == 0 && stat_get_queue(r, 0, &q) == 0) {
		assert_int_equal(strlen(q.name), sizeof q.name - 1);
		assert_int_equal(strlen(q.backoffReason), sizeof q.backoffReason - 1);
	}
	stat_close(&r);
	mem_free(image);
}

static void
test_cannot_create(void **state)
{
	struct stat_object *w = NULL;
	char deep[600];

	(void)state;
	assert_int_equal(stat_create(&w, "/nowhere/at/all", STAT_RESOLVER, 0), -E_MISSING);
	memset(deep, 'd', sizeof deep - 1);
	deep[sizeof deep - 1] = '\0';
	assert_int_equal(stat_create(&w, deep, STAT_RESOLVER, 0), -E_TOO_BIG);
	assert_null(w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_every_writer, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_replaced, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stopped_writer, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_never_torn, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cut_while_mapped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_not_an_object, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_scribbled, set_up, tear_down),
		cmocka_unit_test(test_cannot_create),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
