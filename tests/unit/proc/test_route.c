/* Route slots: one writer, readers that believe nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/proc/route.h"
#include "tests/lib/child.h"

/* A route whose every number follows from its generation. */
static void
make(struct route *r, uint64_t generation)
{
	memset(r, 0, sizeof *r);
	r->generation = generation;
	r->expires_boot_us = generation * 3;
	r->n_hosts = (uint16_t)(1 + generation % ROUTE_MX_MAX);
	r->n_targets = ROUTE_TARGETS_MAX;
	for (unsigned i = 0; i < r->n_hosts; i++)
		snprintf(r->hosts[i], sizeof r->hosts[i], "mx%llu", (unsigned long long)generation);
	for (unsigned i = 0; i < r->n_targets; i++) {
		struct sockaddr_in *in4 = (struct sockaddr_in *)&r->targets[i].addr;

		in4->sin_family = AF_INET;
		in4->sin_addr.s_addr = (uint32_t)generation;
		r->targets[i].mx = (uint16_t)(i % r->n_hosts);
	}
}

static bool
whole(const struct route *r)
{
	struct route want;

	make(&want, r->generation);
	return memcmp(&want, r, sizeof want) == 0;
}

static void
test_put_get(void **state)
{
	int fd = route_object_create(), self;
	struct route_object *o, *reader;
	struct route r, out;
	char path[64];

	(void)state;
	assert_true(fd >= 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	self = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(self >= 0);
	assert_int_equal(route_object_map(&o, fd, 1), 0);
	assert_true(route_object_map(&reader, self, 1) < 0); /* not for writing */
	assert_int_equal(route_object_map(&reader, self, 0), 0);
	assert_int_equal(route_get(reader, 7, 5, &out), -E_MISSING);
	make(&r, 5);
	route_put(o, 7, &r);
	assert_int_equal(route_get(reader, 7, 5, &out), 0);
	assert_true(whole(&out));
	assert_int_equal(route_get(reader, 7, 6, &out), -E_MISSING);
	assert_int_equal(route_get(reader, 7, 0, &out), -E_MISSING);
	assert_int_equal(route_get(reader, ROUTE_SLOTS, 5, &out), -E_MISSING);
	make(&r, 6);
	route_put(o, 7, &r);
	assert_int_equal(route_get(reader, 7, 5, &out), -E_MISSING);
	assert_int_equal(route_get(reader, 7, 6, &out), 0);
	route_object_unmap(&o);
	route_object_unmap(&reader);
	close(self);
	close(fd);
}

/* The resolver dies while it writes; readers do not wait, the next one heals the slot. */
static void
test_torn(void **state)
{
	int fd = route_object_create();
	struct route_object *o;
	struct route r, out;
	uint64_t *words;

	(void)state;
	assert_int_equal(route_object_map(&o, fd, 1), 0);
	make(&r, 9);
	route_put(o, 0, &r);
	words = mmap(NULL, ROUTE_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(words != MAP_FAILED);
	words[0]++; /* odd: being written */
	assert_int_equal(route_get(o, 0, 9, &out), -E_AGAIN);
	make(&r, 10);
	route_put(o, 0, &r);
	assert_int_equal(route_get(o, 0, 10, &out), 0);
	assert_true(whole(&out));
	/* A resolver gone mad. */
	for (size_t at = 8; at < sizeof r; at += 2) {
		uint16_t *p = (uint16_t *)(void *)words + 4 + at / 2, was = *p;

		*p = 0xffff;
		if (route_get(o, 0, 10, &out) == 0)
			assert_true(out.n_targets <= ROUTE_TARGETS_MAX &&
				    out.n_hosts <= ROUTE_MX_MAX &&
				    memchr(out.hosts[0], '\0', ROUTE_HOST_BYTES) != NULL);
		*p = was;
	}
	munmap(words, ROUTE_SLOT_BYTES);
	route_object_unmap(&o);
	close(fd);
}

/* A reader never sees a mixture while another process writes without pause. */
static void
test_seqlock(void **state)
{
	int fd = route_object_create();
	struct route_object *o;
	struct route r, out;
	unsigned seen = 0;
	uint64_t newest = 1, until = clock_boot_us() + 10000000;
	pid_t pid;

	(void)state;
	assert_int_equal(route_object_map(&o, fd, 1), 0);
	pid = child_fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		for (uint64_t g = 1;; g++) {
			make(&r, g);
			route_put(o, 3, &r);
			usleep(50);
		}
	}
	/* At most some seconds, however slow the machine. */
	while (seen < 500 && clock_boot_us() < until) {
		int rc = route_get(o, 3, newest, &out);

		if (rc == 0) {
			assert_true(whole(&out));
			seen++;
		}
		if (rc == -E_MISSING && out.generation > newest)
			newest = out.generation;
		assert_true(rc == 0 || rc == -E_MISSING || rc == -E_AGAIN);
	}
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(seen, 500);
	route_object_unmap(&o);
	close(fd);
}

static void
test_not_routes(void **state)
{
	struct route_object *o;
	const char *enhanced;
	int fd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)state;
	assert_int_equal(route_object_map(&o, fd, 0), -E_BAD);
	close(fd);
	assert_int_equal(route_object_map(&o, 0, 0), -E_BAD);
	assert_non_null(route_status_text(ROUTE_NULL_MX, &enhanced));
	assert_string_equal(enhanced, "5.1.10");
}

static void
test_best_hosts(void **state)
{
	static const struct {
		const char *best;
		size_t n;
		const char *last; /* of them */
	} rows[] = { { "", 0, "" },
		     { "a.x", 1, "a.x" },
		     { "a.x,b.x", 2, "b.x" },
		     { "a.x,#0123456789abcdef", 1, "a.x" },
		     { "#0123456789abcdef", 0, "" } };
	struct slice hosts[ROUTE_BEST_HOSTS];
	char most[ROUTE_BEST_BYTES + 2];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t n = route_best_hosts(slice_str(rows[i].best), hosts);

		assert_int_equal(n, rows[i].n);
		assert_true(n == 0 || slice_is(hosts[n - 1], rows[i].last));
	}
	assert_int_equal(route_best_hosts(SLICE_NONE, hosts), 0);
	for (size_t i = 0; i < sizeof most; i++)
		most[i] = i % 2 ? ',' : 'a';
	assert_int_equal(route_best_hosts(slice_of(most, sizeof most), hosts), ROUTE_BEST_HOSTS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put_get),
		cmocka_unit_test(test_torn),
		cmocka_unit_test(test_seqlock),
		cmocka_unit_test(test_not_routes),
		cmocka_unit_test(test_best_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
