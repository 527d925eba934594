#include "common/net/sock.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "common/base/err.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

/* What connect() or SO_ERROR said, as one of ours. */
static int
connect_error(int e)
{
	switch (e) {
	case ECONNREFUSED:
	case ECONNRESET:
		return -E_REFUSED;
	case ETIMEDOUT:
		return -E_TIMEOUT;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
	case EACCES: /* a local firewall, or a broadcast address */
	case EPERM:
	case ENOPROTOOPT:
	case EPROTO:
		return -E_UNREACHABLE;
	case EADDRNOTAVAIL: /* all ports of this pair of addresses are in use */
	case EAGAIN:
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		return -E_FULL;
	default:
		return -E_SYSTEM;
	}
}

static int
bind_source(int fd, const struct addr *source)
{
	struct addr local = *source;
	int on = 1;

	addr_set_port(&local, 0);
	(void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
	if (bind(fd, &local.u.sa, local.len) == 0)
		return 0;
	return errno == EADDRINUSE || errno == ENOBUFS || errno == ENOMEM ? -E_FULL : -E_MISSING;
}

int
sock_connect(const struct addr *source, const struct addr *target, const struct deny_lists *lists)
{
	int family = target->u.sa.sa_family, on = 1, rc = 0, fd;

	if (deny_check(lists, target, NULL) == DENY_YES)
		return -E_DENIED;
	if (source->u.sa.sa_family != AF_UNSPEC && source->u.sa.sa_family != family)
		return -E_MISSING;
	fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno == EAFNOSUPPORT ? -E_UNREACHABLE : connect_error(errno);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (source->u.sa.sa_family != AF_UNSPEC)
		rc = bind_source(fd, source);
	if (rc == 0 && connect(fd, &target->u.sa, target->len) != 0 && errno != EINPROGRESS)
		rc = connect_error(errno);
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

int
sock_connected(int fd)
{
	int e = 0;
	socklen_t n = sizeof e;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0)
		return -E_SYSTEM;
	return e == 0 ? 0 : connect_error(e);
}

bool
sock_local(int fd, struct addr *out)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof ss;

	memset(out, 0, sizeof *out);
	return getsockname(fd, (struct sockaddr *)&ss, &n) == 0 &&
	       addr_from(out, (struct sockaddr *)&ss, n);
}

/* Of a read or a write that moved nothing. */
static ssize_t
transfer_error(void)
{
	switch (errno) {
	case EAGAIN:
	case EINTR:
		return -E_AGAIN;
	case EPIPE:
	case ECONNRESET:
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return -E_CLOSED;
	case EIO:
		return -E_IO;
	default:
		return -E_SYSTEM;
	}
}

ssize_t
sock_read(int fd, void *p, size_t n)
{
	ssize_t got = recv(fd, p, n, 0);

	return got >= 0 ? got : transfer_error();
}

ssize_t
sock_write(int fd, const struct iovec *iov, int n, bool more)
{
	struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n };
	ssize_t put = sendmsg(fd, &m, MSG_NOSIGNAL | (more ? MSG_MORE : 0));

	return put >= 0 ? put : transfer_error();
}

ssize_t
sock_sendfile(int fd, int file, uint64_t *offset, size_t count)
{
	off_t at = (off_t)*offset;
	ssize_t put = sendfile(fd, file, &at, count);

	if (put < 0)
		return transfer_error();
	if (put == 0 && count > 0)
		return -E_BAD;
	*offset = (uint64_t)at;
	return put;
}

void
sock_abort(int fd)
{
	struct linger off = { .l_onoff = 1, .l_linger = 0 };

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
	close(fd);
}
