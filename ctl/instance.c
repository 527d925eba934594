#include "ctl/instance.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <libconfig.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/conf/conf.h"
#include "common/ipc/operator.h"

#define POLL_MS     50
#define DEFAULT_RUN "/run/sluice"

/* Somebody edits the file while the daemon runs: its errors must not keep the operator out. `run`
 * of a file whose syntax holds; false when it may stand in another one. */
static bool
find_run(const char *conf_path, char *run, size_t bytes)
{
	config_t file;
	const char *value;
	bool found = false;

	config_init(&file);
	if (config_read_file(&file, conf_path) == CONFIG_TRUE) {
		if (config_lookup_string(&file, "run", &value) == CONFIG_TRUE && value[0] == '/')
			found = snprintf(run, bytes, "%s", value) < (int)bytes;
		else if (config_lookup(&file, "run") == NULL &&
			 config_lookup(&file, "include") == NULL)
			found = snprintf(run, bytes, "%s", DEFAULT_RUN) < (int)bytes;
	}
	config_destroy(&file);
	return found;
}

static int
socket_of(const char *run, char socket_path[INSTANCE_SOCKET_BYTES])
{
	return snprintf(socket_path, INSTANCE_SOCKET_BYTES, "%s/%s", run, OPERATOR_SOCKET_NAME) <
			       INSTANCE_SOCKET_BYTES
		       ? 0
		       : -E_TOO_BIG;
}

int
instance_socket(const char *conf_path, char socket_path[INSTANCE_SOCKET_BYTES], struct buf *why)
{
	struct conf_report report = { 0 };
	struct buf snapshot = { 0 };
	struct conf *conf = NULL;
	char run[INSTANCE_SOCKET_BYTES];
	int rc = conf_snapshot_read(conf_path, &snapshot, &report);

	if (rc == 0)
		rc = conf_parse(buf_slice(&snapshot), &conf, &report);
	if (rc == 0)
		rc = socket_of(conf_global(conf)->run, socket_path);
	else if (find_run(conf_path, run, sizeof run))
		rc = socket_of(run, socket_path);
	else
		buf_put_slice(why, buf_slice(&report.text));
	if (rc == -E_TOO_BIG && why->len == 0)
		buf_puts(why, "the run directory's name is too long\n");
	conf_free(&conf);
	conf_report_clear(&report);
	buf_clear(&snapshot);
	return rc;
}

/* A connection that says nothing; -E_* when nobody listens. Never waits. */
static int
touch(const char *socket_path)
{
	struct sockaddr_un addr;
	int dir_fd, fd, rc = operator_address(&addr, socket_path, &dir_fd);

	if (rc != 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		rc = -err_errno();
	} else if (connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
		rc = -err_errno();
		close(fd);
	}
	if (dir_fd >= 0)
		close(dir_fd);
	return rc != 0 ? rc : fd;
}

int
instance_watch(const char *socket_path)
{
	struct ucred cred = { 0 };
	socklen_t n = sizeof cred;
	int pidfd, fd = touch(socket_path);

	if (fd < 0)
		return fd;
	/* Who made the socket listen: the master. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) != 0 || cred.pid <= 0)
		pidfd = -E_MISSING;
	else if ((pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0)) < 0)
		pidfd = -err_errno();
	close(fd);
	return pidfd;
}

static int
wait_for_process(int pidfd, unsigned timeout_ms)
{
	uint64_t until = clock_boot_us() + (uint64_t)timeout_ms * 1000;
	struct pollfd p = { pidfd, POLLIN, 0 };
	int rc = 0;

	for (;;) {
		uint64_t now = clock_boot_us();
		int n = poll(&p, 1, now < until ? (int)((until - now) / 1000 + 1) : 0);

		if (n > 0)
			break;
		if (n == 0 || errno != EINTR) {
			rc = -E_TIMEOUT;
			break;
		}
	}
	close(pidfd);
	return rc;
}

int
instance_wait_gone(const char *socket_path, int pidfd, unsigned timeout_ms)
{
	struct timespec pause = { 0, POLL_MS * 1000000L };
	uint64_t until = clock_boot_us() + (uint64_t)timeout_ms * 1000;

	if (pidfd >= 0)
		return wait_for_process(pidfd, timeout_ms);
	for (;;) {
		int fd = touch(socket_path);

		if (fd == -E_MISSING || fd == -E_REFUSED)
			return 0;
		if (fd >= 0)
			close(fd);
		if (clock_boot_us() >= until)
			return -E_TIMEOUT;
		nanosleep(&pause, NULL);
	}
}
