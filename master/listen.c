#include "master/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/ipc/operator.h"
#include "master/complain.h"

#define SMTP_BACKLOG     1024
#define OPERATOR_BACKLOG OPERATOR_CLIENTS_MAX

static int
fail(const char *what, const char *which)
{
	int rc = -err_errno();

	complain("cannot %s %s: %s", what, which, strerror(errno));
	return rc;
}

/* "ADDRESS:PORT" as bound: with port 0 the kernel has chosen. */
static void
log_listening(int fd)
{
	struct sockaddr_storage a;
	socklen_t n = sizeof a;
	char text[INET6_ADDRSTRLEN] = "?";
	unsigned port = 0;

	if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
		return;
	if (a.ss_family == AF_INET) {
		const struct sockaddr_in *in4 = (const struct sockaddr_in *)&a;

		inet_ntop(AF_INET, &in4->sin_addr, text, sizeof text);
		port = ntohs(in4->sin_port);
	} else if (a.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a;

		inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
		port = ntohs(in6->sin6_port);
	}
	log_info("listening address=%s port=%u", text, port);
}

/* The descriptor or -E_*. */
static int
bind_smtp(const struct conf_listener *l)
{
	const int on = 1;
	int rc, fd = socket(l->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -err_errno();
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (l->addr.ss_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, (const struct sockaddr *)&l->addr, l->addr_len) != 0 ||
	    listen(fd, SMTP_BACKLOG) != 0) {
		rc = -err_errno();
		close(fd);
		return rc;
	}
	log_listening(fd);
	return fd;
}

int
listen_smtp(struct instance *in)
{
	const struct conf_listener *list;
	size_t n = conf_listeners(in->conf, &list);

	if (n > LISTENERS_MAX) {
		complain("more than %d smtp-listeners", LISTENERS_MAX);
		return -E_TOO_BIG;
	}
	for (size_t i = 0; i < n; i++) {
		int fd = bind_smtp(&list[i]);

		if (fd < 0) {
			complain("cannot listen on %s: %s", list[i].text, err_text(fd));
			return fd;
		}
		in->listener_fds[in->n_listeners++] = fd;
	}
	return 0;
}

static bool
same_address(const struct conf_listener *a, const struct conf_listener *b)
{
	return a->addr_len == b->addr_len && memcmp(&a->addr, &b->addr, a->addr_len) == 0;
}

/* Which listener of the configuration has the address, -1: none. */
static int
find_address(const struct conf *conf, const struct conf_listener *l)
{
	const struct conf_listener *list;
	size_t n = conf_listeners(conf, &list);

	for (size_t i = 0; i < n; i++) {
		if (same_address(&list[i], l))
			return (int)i;
	}
	return -1;
}

/* The socket for a listener of the next configuration: a copy of ours, or a new one. */
static int
open_next(const struct instance *in, const struct conf_listener *l)
{
	int had = find_address(in->conf, l), fd;

	if (had < 0 || (unsigned)had >= in->n_listeners)
		return bind_smtp(l);
	fd = fcntl(in->listener_fds[had], F_DUPFD_CLOEXEC, 3);
	return fd >= 0 ? fd : -err_errno();
}

int
listen_next(const struct instance *in, struct instance_next *next, struct buf *report)
{
	const struct conf_listener *list;
	size_t n = conf_listeners(next->conf, &list);

	for (size_t i = 0; i < n; i++) {
		int fd = i < LISTENERS_MAX ? open_next(in, &list[i]) : -E_TOO_BIG;

		if (fd < 0) {
			buf_printf(report, "%s:%u: smtp-listeners: cannot listen on %s: %s\n",
				   list[i].file != NULL ? list[i].file : "default", list[i].line,
				   list[i].text, err_text(fd));
			return fd;
		}
		next->listener_fds[next->n_listeners++] = fd;
	}
	return 0;
}

void
listen_retire(const struct instance *in, const struct instance_next *next)
{
	/* Of what comes to the socket, SYNs are dropped: closing it with a client in its backlog,
	 * or between the SYN and the ACK, would reset a connection that the client has seen
	 * established. The flags are byte 13 of the TCP header, with which the kernel gives the
	 * segment to the filter. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x02, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };
	const struct conf_listener *list;
	size_t n = conf_listeners(in->conf, &list);

	for (size_t i = 0; i < n && i < in->n_listeners; i++) {
		if (find_address(next->conf, &list[i]) >= 0)
			continue;
		log_info("listening=no address=%s", list[i].text);
		if (setsockopt(in->listener_fds[i], SOL_SOCKET, SO_ATTACH_FILTER, &program,
			       sizeof program) != 0)
			log_warn("address=%s filter=failed error=\"%s\"", list[i].text,
				 err_text(err_errno()));
	}
}

/* Bound under a name of its own, then renamed: it is never there with the wrong mode or owner, and
 * what a killed instance left is replaced. */
static int
bind_operator(struct instance *in, const char *path, const char *temporary)
{
	struct sockaddr_un addr;
	int dir_fd, rc = operator_address(&addr, temporary, &dir_fd);

	if (rc != 0)
		return rc;
	(void)unlink(temporary);
	if (bind(in->operator_fd, (struct sockaddr *)&addr, sizeof addr) != 0)
		rc = -err_errno();
	if (dir_fd >= 0)
		close(dir_fd);
	if (rc != 0)
		return rc;
	if (chmod(temporary, 0660) != 0 ||
	    (in->drop_user && lchown(temporary, in->user.uid, in->user.gid) != 0) ||
	    listen(in->operator_fd, OPERATOR_BACKLOG) != 0 || rename(temporary, path) != 0) {
		rc = -err_errno();
		(void)unlink(temporary);
	}
	return rc;
}

int
listen_operator(struct instance *in)
{
	char path[4096], temporary[4096];
	int rc;

	if (snprintf(path, sizeof path, "%s/%s", in->run, OPERATOR_SOCKET_NAME) >=
		    (int)sizeof path ||
	    snprintf(temporary, sizeof temporary, "%s/.%s", in->run, OPERATOR_SOCKET_NAME) >=
		    (int)sizeof temporary)
		return -E_TOO_BIG;
	in->operator_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (in->operator_fd < 0)
		return fail("make a socket for", path);
	rc = bind_operator(in, path, temporary);
	if (rc != 0)
		complain("cannot make the operator socket %s: %s", path, err_text(rc));
	return rc;
}
