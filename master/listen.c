#include "master/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

static int
bind_smtp(const struct conf_listener *l, int *out)
{
	const int on = 1;
	int rc, fd = socket(l->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return fail("make a socket for", l->text);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (l->addr.ss_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, (const struct sockaddr *)&l->addr, l->addr_len) != 0 ||
	    listen(fd, SMTP_BACKLOG) != 0) {
		rc = fail("listen on", l->text);
		close(fd);
		return rc;
	}
	log_listening(fd);
	*out = fd;
	return 0;
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
		int rc = bind_smtp(&list[i], &in->listener_fds[i]);

		if (rc != 0)
			return rc;
		in->n_listeners++;
	}
	return 0;
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
