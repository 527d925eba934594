#include "common/proc/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"

#define FDS 3 /* of a channel: the most that a message brings */

/* Room for everything that a slow child may be told before it reads: it may be in its recovery. */
#define SEND_BUFFER_BYTES (1 << 20)

static const struct {
	const char *name;
	bool by_master;
	unsigned fds;
} rows[] = { [CONTROL_NONE] = { "none", false, 0 },
#define X(name, by_master, fds) [CONTROL_##name] = { #name, by_master, fds },
	     CONTROLS(X)
#undef X
};

const char *
control_name(unsigned kind)
{
	return kind < CONTROL_KIND_COUNT ? rows[kind].name : "unknown";
}

int
control_pair(int fds[2])
{
	int bytes = SEND_BUFFER_BYTES;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
		return -err_errno();
	/* As much as may be had; the default is enough for all but extremes. */
	if (setsockopt(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
		(void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
	return 0;
}

union fd_space {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * FDS)];
};

int
control_send(int fd, const struct control_message *m, const struct channel_fds *fds)
{
	struct iovec iov = { (void *)(uintptr_t)m, sizeof *m };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	union fd_space space;
	ssize_t n;

	CHECK(m->kind > CONTROL_NONE && m->kind < CONTROL_KIND_COUNT);
	CHECK((rows[m->kind].fds > 0) == (fds != NULL));
	if (fds != NULL) {
		const int list[FDS] = { fds->memfd, fds->wake_scheduler, fds->wake_other };
		struct cmsghdr *c;

		memset(&space, 0, sizeof space);
		msg.msg_control = space.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * rows[m->kind].fds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * rows[m->kind].fds);
		memcpy(CMSG_DATA(c), list, sizeof(int) * rows[m->kind].fds);
	}
	do {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	/* Too many descriptors in flight is the other side's not reading, too. */
	if (errno == EAGAIN || errno == ETOOMANYREFS || errno == ENOBUFS)
		return -E_AGAIN;
	return errno == EPIPE || errno == ECONNRESET ? -E_CLOSED : -err_errno();
}

/* All descriptors that came into list[0..max); what is beyond is closed. Their number. */
static unsigned
take_fds(struct msghdr *msg, int *list, unsigned max)
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (n < max)
				list[n++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

static bool
acceptable(const struct control_message *m, ssize_t bytes, bool from_master, unsigned n_fds)
{
	if (bytes != (ssize_t)sizeof *m || m->kind == CONTROL_NONE || m->kind >= CONTROL_KIND_COUNT)
		return false;
	return rows[m->kind].by_master == from_master && m->role <= ROLE_MASTER &&
	       n_fds == rows[m->kind].fds && memchr(m->text, '\0', sizeof m->text) != NULL;
}

int
control_recv(int fd, bool from_master, struct control_message *m, struct channel_fds *fds)
{
	struct iovec iov = { m, sizeof *m };
	union fd_space space;
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = space.bytes,
			      .msg_controllen = sizeof space.bytes };
	int list[FDS];
	unsigned n_fds;
	ssize_t n;

	*fds = (struct channel_fds){ -1, -1, -1 };
	do {
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return -E_CLOSED;
	n_fds = take_fds(&msg, list, FDS);
	if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
	    !acceptable(m, n, from_master, n_fds)) {
		while (n_fds > 0)
			close(list[--n_fds]);
		return -E_BAD;
	}
	if (n_fds == FDS)
		*fds = (struct channel_fds){ list[0], list[1], list[2] };
	else if (n_fds == 1)
		fds->memfd = list[0];
	return 1;
}
