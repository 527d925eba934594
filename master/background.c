#include "master/background.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"

static int tell_fd = -1;

/* The command: waits for the one byte; a daemon that died without it has failed. */
_Noreturn static void
wait_for_daemon(int fd, pid_t between)
{
	unsigned char status = 1;
	ssize_t n;

	while (waitpid(between, NULL, 0) < 0 && errno == EINTR)
		;
	do {
		n = read(fd, &status, 1);
	} while (n < 0 && errno == EINTR);
	_exit(n == 1 ? status : 1);
}

int
background_enter(void)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) != 0)
		return -err_errno();
	pid = fork();
	if (pid < 0) {
		int rc = -err_errno();

		close(fds[0]);
		close(fds[1]);
		return rc;
	}
	if (pid > 0) {
		close(fds[1]);
		wait_for_daemon(fds[0], pid);
	}
	close(fds[0]);
	tell_fd = fds[1];
	setsid();
	pid = fork(); /* not a session leader: never gets a terminal */
	if (pid > 0)
		_exit(0);
	if (pid < 0)
		_exit(1);
	return 0;
}

static void
leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	for (int fd = 0; fd <= 2; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
}

void
background_tell(int status)
{
	unsigned char byte = (unsigned char)status;

	if (tell_fd < 0)
		return;
	if (write(tell_fd, &byte, 1) != 1)
		byte = 0; /* the command was killed: nobody wants to know */
	close(tell_fd);
	tell_fd = -1;
	leave_terminal();
}

void
background_child(void)
{
	if (tell_fd < 0)
		return;
	close(tell_fd);
	tell_fd = -1;
	leave_terminal();
}
