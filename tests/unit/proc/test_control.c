/* The control line: messages, descriptors, and what must not pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/proc/control.h"

static unsigned
open_fds(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");

	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static void
close_pair(int fds[2])
{
	close(fds[0]);
	close(fds[1]);
}

static void
test_messages(void **state)
{
	struct control_message m = { .kind = CONTROL_PEER_GONE,
				     .role = ROLE_WORKER,
				     .slot = 3,
				     .generation = 9 },
			       got;
	struct control_message ready = { .kind = CONTROL_READY };
	struct channel_fds fds;
	int line[2];

	(void)state;
	assert_int_equal(control_pair(line), 0);
	assert_int_equal(control_recv(line[1], true, &got, &fds), 0);
	assert_int_equal(control_send(line[0], &m, NULL), 0);
	assert_int_equal(control_recv(line[1], true, &got, &fds), 1);
	assert_memory_equal(&m, &got, sizeof m);
	assert_int_equal(fds.memfd, -1);
	assert_int_equal(control_send(line[1], &ready, NULL), 0);
	assert_int_equal(control_recv(line[0], false, &got, &fds), 1);
	assert_int_equal(got.kind, CONTROL_READY);
	/* What was said before the end is heard, then the end. */
	assert_int_equal(control_send(line[1], &ready, NULL), 0);
	close(line[1]);
	assert_int_equal(control_recv(line[0], false, &got, &fds), 1);
	assert_int_equal(control_recv(line[0], false, &got, &fds), -E_CLOSED);
	assert_int_equal(control_send(line[0], &m, NULL), -E_CLOSED);
	close(line[0]);
	assert_string_equal(control_name(CONTROL_DRAIN), "DRAIN");
}

static void
test_descriptors(void **state)
{
	struct control_message m = { .kind = CONTROL_CHANNEL,
				     .role = ROLE_SCHEDULER,
				     .slot = 0,
				     .generation = 1 },
			       got;
	struct channel_fds fds, theirs;
	unsigned before = open_fds();
	int line[2];

	(void)state;
	assert_int_equal(control_pair(line), 0);
	assert_int_equal(channel_create(&fds), 0);
	assert_int_equal(control_send(line[0], &m, &fds), 0);
	assert_int_equal(control_recv(line[1], true, &got, &theirs), 1);
	assert_true(theirs.memfd >= 0 && theirs.wake_scheduler >= 0 && theirs.wake_other >= 0);
	assert_true(fcntl(theirs.memfd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fcntl(theirs.memfd, F_GET_SEALS), fcntl(fds.memfd, F_GET_SEALS));
	channel_fds_close(&fds);
	channel_fds_close(&theirs);
	close_pair(line);
	assert_int_equal(open_fds(), before);
}

/* Raw bytes with n copies of a descriptor. */
static void
send_raw(int fd, const void *p, size_t bytes, int passed, unsigned n)
{
	struct iovec iov = { (void *)(uintptr_t)p, bytes };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
	} space;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n > 0) {
		struct cmsghdr *c;

		memset(&space, 0, sizeof space);
		msg.msg_control = space.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		for (unsigned i = 0; i < n; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &passed, sizeof passed);
	}
	assert_int_equal(sendmsg(fd, &msg, 0), bytes);
}

static void
test_refused(void **state)
{
	static const struct {
		uint32_t kind, role;
		size_t bytes;
		unsigned fds;
		bool from_master;
	} rows[] = {
		{ CONTROL_NONE, 0, 16, 0, true },
		{ CONTROL_KIND_COUNT, 0, 16, 0, true },
		{ CONTROL_READY, 0, 16, 0, true }, /* wrong direction */
		{ CONTROL_DRAIN, 0, 16, 0, false },
		{ CONTROL_CHANNEL, 0, 16, 3, false },
		{ CONTROL_PEER_GONE, ROLE_MASTER + 1, 16, 0, true },
		{ CONTROL_DRAIN, 0, 15, 0, true }, /* short, long */
		{ CONTROL_DRAIN, 0, 24, 0, true },
		{ CONTROL_CHANNEL, 0, 16, 0, true }, /* descriptors missing, too many, unasked */
		{ CONTROL_CHANNEL, 0, 16, 2, true },
		{ CONTROL_CHANNEL, 0, 16, 8, true },
		{ CONTROL_DRAIN, 0, 16, 1, true },
		{ CONTROL_READY, 0, 16, 3, false },
	};
	unsigned before = open_fds();

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		uint32_t words[6] = { rows[i].kind, rows[i].role };
		struct control_message got;
		struct channel_fds fds;
		int line[2];

		assert_int_equal(control_pair(line), 0);
		send_raw(line[0], words, rows[i].bytes, 0, rows[i].fds);
		assert_int_equal(control_recv(line[1], rows[i].from_master, &got, &fds), -E_BAD);
		assert_int_equal(fds.memfd, -1);
		close_pair(line);
		assert_int_equal(open_fds(), before); /* nothing that came along stays open */
	}
}

/* A child that does not read is noticed, not waited for. */
static void
test_full(void **state)
{
	struct control_message m = {
		.kind = CONTROL_PEER_GONE, .role = ROLE_WORKER, .slot = 0, .generation = 1
	};
	unsigned sent = 0;
	int line[2], rc;

	(void)state;
	assert_int_equal(control_pair(line), 0);
	while ((rc = control_send(line[0], &m, NULL)) == 0)
		sent++;
	assert_int_equal(rc, -E_AGAIN);
	assert_true(sent > 200); /* a hundred children may come and go while one recovers */
	close_pair(line);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
