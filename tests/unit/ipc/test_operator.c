/* Operator frames and words, and the client against servers of all kinds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/wire.h"
#include "common/ipc/operator.h"
#include "tests/lib/child.h"

static void
test_words(void **state)
{
	const struct slice in[] = { SLICE_LIT("show"), SLICE_LIT(""), SLICE_LIT("--mode=a\nb") };
	struct slice out[OPERATOR_WORDS_MAX];
	struct slice many[OPERATOR_WORDS_MAX];
	struct buf b = { 0 };

	(void)state;
	operator_words_encode(&b, in, 3);
	assert_int_equal(operator_words_decode(buf_slice(&b), out), 3);
	for (size_t i = 0; i < 3; i++)
		assert_true(slice_eq(in[i], out[i]));
	for (size_t n = 0; n < b.len; n++)
		assert_int_equal(operator_words_decode(slice_of(b.data, n), out), -E_BAD);
	buf_putc(&b, 'x');
	assert_int_equal(operator_words_decode(buf_slice(&b), out), -E_BAD);

	buf_reset(&b);
	for (size_t i = 0; i < OPERATOR_WORDS_MAX; i++)
		many[i] = SLICE_LIT("w");
	operator_words_encode(&b, many, OPERATOR_WORDS_MAX);
	assert_int_equal(operator_words_decode(buf_slice(&b), out), OPERATOR_WORDS_MAX);
	b.data[0]++; /* one more */
	wire_put_bytes(&b, SLICE_LIT("w"));
	assert_int_equal(operator_words_decode(buf_slice(&b), out), -E_BAD);
	buf_clear(&b);
}

static void
test_frames(void **state)
{
	static const struct {
		size_t at;
		char v;
		int rc;
	} rows[] = {
		{ 0, 'x', -E_BAD },                    /* magic */
		{ 4, 2, -E_FORMAT },                   /* version */
		{ 6, 0, -E_BAD },                      /* kind */
		{ 6, 4, -E_BAD },    { 8, 5, -E_BAD }, /* length */
		{ 8, 3, -E_BAD },    { 11, 127, -E_BAD }, { 6, OPERATOR_END, 0 },
	};
	struct operator_frame f;
	struct buf b = { 0 };

	(void)state;
	operator_encode(&b, OPERATOR_DATA, SLICE_LIT("{\"a\"}"));
	for (size_t n = 0; n < b.len; n++)
		assert_int_equal(operator_decode(&f, slice_of(b.data, n)), -E_BAD);
	buf_reset(&b);
	operator_encode(&b, OPERATOR_DATA, SLICE_LIT("four"));
	assert_int_equal(operator_decode(&f, buf_slice(&b)), 0);
	assert_int_equal(f.kind, OPERATOR_DATA);
	assert_true(slice_is(f.payload, "four"));
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char was = b.data[rows[i].at];

		b.data[rows[i].at] = rows[i].v;
		assert_int_equal(operator_decode(&f, buf_slice(&b)), rows[i].rc);
		b.data[rows[i].at] = was;
	}
	buf_clear(&b);
}

/* Servers: each serves one client in a child process
 * ------------------------------------------------ */

static void
say(int fd, enum operator_kind kind, struct slice payload)
{
	struct buf b = { 0 };

	operator_encode(&b, kind, payload);
	if (send(fd, b.data, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
		_exit(1);
	buf_clear(&b);
}

static void
say_end(int fd, uint32_t code)
{
	struct buf b = { 0 };

	wire_put_u32(&b, code);
	say(fd, OPERATOR_END, buf_slice(&b));
	buf_clear(&b);
}

static void
echo(int fd, struct slice request)
{
	struct operator_frame f;
	struct slice words[OPERATOR_WORDS_MAX];
	int n = operator_decode(&f, request) != 0 ? -1 : operator_words_decode(f.payload, words);

	for (int i = 0; i < n; i++)
		say(fd, OPERATOR_DATA, words[i]);
	say_end(fd, (uint32_t)n);
}

static void
silent(int fd, struct slice request)
{
	struct pollfd p = { fd, POLLIN, 0 };

	(void)request;
	poll(&p, 1, 5000);
}

static void
hang_up(int fd, struct slice request)
{
	(void)request;
	say(fd, OPERATOR_DATA, SLICE_LIT("{"));
}

static void
babble(int fd, struct slice request)
{
	(void)request;
	if (send(fd, "220 hello", 9, MSG_NOSIGNAL) != 9)
		_exit(1);
}

static void
ask_back(int fd, struct slice request)
{
	(void)request;
	say(fd, OPERATOR_REQUEST, SLICE_NONE);
}

static void
short_end(int fd, struct slice request)
{
	(void)request;
	say(fd, OPERATOR_END, SLICE_LIT("x"));
}

static pid_t
serve(const char *path, void (*answer)(int fd, struct slice request))
{
	static char request[OPERATOR_FRAME_MAX];
	struct sockaddr_un addr;
	int dir_fd, fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), c;
	ssize_t n;
	pid_t pid;

	unlink(path);
	assert_int_equal(operator_address(&addr, path, &dir_fd), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	if (dir_fd >= 0)
		close(dir_fd);
	assert_int_equal(listen(fd, 1), 0);
	pid = child_fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(60);
		c = accept(fd, NULL, NULL);
		n = recv(c, request, sizeof request, 0);
		answer(c, slice_of(request, n > 0 ? (size_t)n : 0));
		_exit(0);
	}
	close(fd);
	return pid;
}

static void
test_call(void **state)
{
	static const struct {
		void (*answer)(int fd, struct slice request);
		int rc;
		const char *json;
		unsigned wait_ms;
	} rows[] = {
		{ echo, 2, "showqueues", 20000 },   { silent, -E_TIMEOUT, "", 200 },
		{ hang_up, -E_CLOSED, "{", 20000 }, { babble, -E_BAD, "", 20000 },
		{ ask_back, -E_BAD, "", 20000 },    { short_end, -E_BAD, "", 20000 },
	};
	const struct slice words[] = { SLICE_LIT("show"), SLICE_LIT("queues") };
	char path[512], dir[] = "/tmp/sluice-test-operator-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	/* Once with an ordinary path, once with one too long for a socket's name. */
	for (unsigned deep = 0; deep < 2; deep++) {
		size_t n = (size_t)snprintf(path, sizeof path, "%s", dir);

		if (deep == 1) {
			n += (size_t)snprintf(path + n, sizeof path - n, "/%0200d", 7);
			assert_int_equal(mkdir(path, 0700), 0);
		}
		snprintf(path + n, sizeof path - n, "/control.sock");
		for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
			struct buf json = { 0 };
			pid_t pid = serve(path, rows[i].answer);
			uint64_t t = clock_boot_us();

			assert_int_equal(operator_call(path, words, 2, rows[i].wait_ms, &json),
					 rows[i].rc);
			assert_true(rows[i].wait_ms > 200 || clock_boot_us() - t < 2000000);
			assert_true(slice_is(buf_slice(&json), rows[i].json));
			assert_int_equal(waitpid(pid, NULL, 0), pid);
			buf_clear(&json);
		}
		/* Nobody behind the name; no name. */
		assert_int_equal(operator_call(path, words, 2, 200, NULL), -E_REFUSED);
		assert_int_equal(unlink(path), 0);
		assert_int_equal(operator_call(path, words, 2, 200, NULL), -E_MISSING);
		path[n] = '\0';
		if (deep == 1)
			assert_int_equal(rmdir(path), 0);
	}
	assert_int_equal(rmdir(dir), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
