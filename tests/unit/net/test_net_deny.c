/* deny and sock: where mail never goes, asked about the very bytes that connect() gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/net/deny.h"
#include "common/net/sock.h"

static const struct {
	const char *address;
	bool denied;
} rows[] = {
	// clang-format off
	{ "0.0.0.0", true }, { "0.255.255.255", true }, { "1.0.0.0", false },
	{ "9.255.255.255", false }, { "10.0.0.0", true }, { "10.255.255.255", true }, { "11.0.0.0", false },
	{ "100.63.255.255", false }, { "100.64.0.0", true }, { "100.127.255.255", true }, { "100.128.0.0", false },
	{ "126.255.255.255", false }, { "127.0.0.1", true }, { "127.255.255.255", true }, { "128.0.0.0", false },
	{ "169.253.255.255", false }, { "169.254.169.254", true }, { "169.255.0.0", false },
	{ "172.15.255.255", false }, { "172.16.0.0", true }, { "172.31.255.255", true }, { "172.32.0.0", false },
	{ "192.167.255.255", false }, { "192.168.0.1", true }, { "192.169.0.0", false },
	{ "192.0.2.1", false }, { "223.255.255.255", false },
	{ "224.0.0.1", true }, { "239.255.255.255", true }, { "240.0.0.1", true }, { "255.255.255.255", true },
	{ "::", true }, { "::1", true }, { "::2", true }, { "2001:db8::1", false }, { "2606:4700::1", false },
	{ "::ffff:127.0.0.1", true }, { "::ffff:10.0.0.1", true }, { "::ffff:192.168.1.1", true },
	{ "::ffff:0.0.0.0", true }, { "::ffff:169.254.169.254", true }, { "::ffff:192.0.2.1", false },
	{ "::127.0.0.1", true }, { "64:ff9b::127.0.0.1", true }, { "64:ff9b::10.1.1.1", true },
	{ "64:ff9b::192.0.2.1", false }, { "2002:7f00:1::", true }, { "2002:a00:1::1", true },
	{ "fe7f::1", false }, { "fe80::1", true }, { "febf::1", true }, { "fec0::1", true },
	{ "fc00::1", true }, { "fdff::1", true }, { "fbff::1", false }, { "ff02::1", true },
	// clang-format on
};

static struct addr
addr_of(const char *text)
{
	struct addr a;

	assert_true(addr_parse(&a, slice_str(text), 25));
	return a;
}

static void
test_rows(void **state)
{
	const struct deny_lists none = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct addr a = addr_of(rows[i].address);
		const char *why;

		if ((deny_check(&none, &a, &why) == DENY_YES) != rows[i].denied)
			fail_msg("%s: %s", rows[i].address, why);
		assert_true((why[0] != '\0') == rows[i].denied);
	}
}

static void
test_lists(void **state)
{
	struct cidr allow[2];
	struct addr own[2] = { addr_of("192.0.2.7@2525"), addr_of("[2001:db8::7]:25") };
	struct deny_lists lists = { .own = own, .n_own = 2 };
	struct addr a;

	(void)state;
	a = addr_of("192.0.2.7@2525");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_YES);
	a = addr_of("::ffff:192.0.2.7@2525");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_YES);
	a = addr_of("192.0.2.7@25"); /* another port of ours is another service */
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_NO);
	a = addr_of("2001:db8::7@25");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_YES);

	assert_true(cidr_parse(&allow[0], slice_str("127.0.0.0/8")));
	assert_true(cidr_parse(&allow[1], slice_str("192.0.2.0/24")));
	lists.allow = allow;
	lists.n_allow = 2;
	a = addr_of("127.0.0.2");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_ALLOWED);
	a = addr_of("::ffff:127.0.0.2");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_ALLOWED);
	a = addr_of("10.0.0.1");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_YES);
	a = addr_of("192.0.2.7@2525");
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_ALLOWED);
	memset(&a, 0, sizeof a);
	assert_int_equal(deny_check(&lists, &a, NULL), DENY_YES);
}

/* A listener on 127.0.0.1; its port. */
static int
listen_here(struct addr *at)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t n = sizeof at->u.v4;

	*at = addr_of("127.0.0.1@0");
	assert_int_equal(bind(fd, &at->u.sa, at->len), 0);
	assert_int_equal(listen(fd, 10), 0);
	assert_int_equal(getsockname(fd, &at->u.sa, &n), 0);
	return fd;
}

static void
wait_for(int fd, short what)
{
	struct pollfd p = { .fd = fd, .events = what };

	assert_int_equal(poll(&p, 1, 5000), 1);
}

static void
test_connect(void **state)
{
	struct deny_lists lists = { 0 };
	struct cidr allow;
	struct addr none = { 0 }, here = addr_of("127.0.0.77@9"), nowhere = addr_of("192.0.2.99"),
		    at, local;
	int listener = listen_here(&at), fd, peer;
	char text[ADDR_TEXT_BYTES], b[8];
	struct iovec iov = { .iov_base = b, .iov_len = 3 };

	(void)state;
	assert_true(cidr_parse(&allow, slice_str("127/8")));
	assert_int_equal(sock_connect(&none, &at, &lists), -E_DENIED);
	lists.allow = &allow;
	lists.n_allow = 1;
	assert_int_equal(sock_connect(&nowhere, &at, &lists), -E_MISSING);
	at.u.sa.sa_family = AF_INET;
	fd = sock_connect(&here, &at, &lists);
	assert_true(fd >= 0);
	wait_for(fd, POLLOUT);
	assert_int_equal(sock_connected(fd), 0);
	assert_true(sock_local(fd, &local));
	assert_string_equal(addr_text(text, &local), "127.0.0.77");
	assert_true(addr_port(&local) != 9);
	peer = accept(listener, NULL, NULL);
	assert_int_equal(sock_read(fd, b, sizeof b), -E_AGAIN);
	assert_int_equal(write(peer, "hey", 3), 3);
	wait_for(fd, POLLIN);
	assert_int_equal(sock_read(fd, b, sizeof b), 3);
	assert_int_equal(sock_write(fd, &iov, 1, false), 3);
	assert_int_equal(read(peer, b, sizeof b), 3);
	sock_abort(peer);
	wait_for(fd, POLLIN);
	assert_int_equal(sock_read(fd, b, sizeof b), -E_CLOSED);
	assert_int_equal(sock_write(fd, &iov, 1, false), -E_CLOSED);
	close(fd);
	close(listener);
	/* Nobody listens there now. */
	fd = sock_connect(&none, &at, &lists);
	if (fd >= 0) {
		wait_for(fd, POLLOUT);
		assert_int_equal(sock_connected(fd), -E_REFUSED);
		close(fd);
	} else {
		assert_int_equal(fd, -E_REFUSED);
	}
}

static void
test_sendfile(void **state)
{
	char path[] = "/tmp/test_net_deny.XXXXXX", b[16];
	int file = mkstemp(path), pair[2];
	uint64_t at = 2;

	(void)state;
	assert_true(file >= 0);
	unlink(path);
	assert_int_equal(write(file, "0123456789", 10), 10);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(sock_sendfile(pair[0], file, &at, 5), 5);
	assert_int_equal(at, 7);
	assert_int_equal(read(pair[1], b, sizeof b), 5);
	assert_memory_equal(b, "23456", 5);
	at = 10;
	assert_int_equal(sock_sendfile(pair[0], file, &at, 5),
			 -E_BAD); /* shorter than it should be */
	close(pair[1]);
	at = 0;
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(sock_sendfile(pair[0], file, &at, 5), -E_CLOSED);
	close(pair[0]);
	close(file);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_sendfile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
