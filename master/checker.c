#include "master/checker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/conf/conf.h"

#define CHECK_SECONDS 60 /* then the child is given up */

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

enum { EXIT_GOOD, EXIT_FAILED, EXIT_WRONG };

static int
write_all(int fd, struct slice s)
{
	while (s.n > 0) {
		ssize_t n = write(fd, s.p, s.n);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -err_errno();
		s = slice_sub(s, (size_t)n);
	}
	return 0;
}

/* The child. */
_Noreturn static void
check(const char *path, int snapshot_fd, int report_fd)
{
	struct conf_report report = { 0 };
	struct buf snapshot = { 0 };
	struct conf *conf = NULL;
	sigset_t none;
	int rc;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGALRM, SIG_DFL);
	alarm(CHECK_SECONDS);
	rc = conf_snapshot_read(path, &snapshot, &report);
	if (rc == 0)
		rc = conf_parse(buf_slice(&snapshot), &conf, &report);
	if (write_all(report_fd, buf_slice(&report.text)) != 0)
		_exit(EXIT_FAILED);
	if (rc != 0 || report.n_errors > 0)
		_exit(EXIT_WRONG);
	_exit(write_all(snapshot_fd, buf_slice(&snapshot)) == 0 ? EXIT_GOOD : EXIT_FAILED);
}

static void
read_report(int fd, struct buf *out)
{
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) != 0 || st.st_size <= 0)
		return;
	n = pread(fd, buf_room(out, (size_t)st.st_size), (size_t)st.st_size, 0);
	if (n > 0)
		buf_added(out, (size_t)n);
}

static enum checker_verdict
judge(const char *path, int status, struct buf *report)
{
	if (WIFSIGNALED(status)) {
		buf_printf(report, "%s:1: the checker died on this configuration (signal %d, %s)\n",
			   path, WTERMSIG(status), strsignal(WTERMSIG(status)));
		return CHECKER_WRONG;
	}
	switch (WEXITSTATUS(status)) {
	case EXIT_GOOD:
		return CHECKER_GOOD;
	case EXIT_WRONG:
		if (report->len == 0)
			buf_printf(report, "%s:1: cannot be read\n", path);
		return CHECKER_WRONG;
	}
	buf_printf(report, "sluiced: the configuration could not be checked\n");
	return CHECKER_FAILED;
}

enum checker_verdict
checker_run(const char *path, int *snapshot_fd, struct buf *report)
{
	int fd = memfd_create("sluice-conf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int report_fd = memfd_create("sluice-report", MFD_CLOEXEC);
	enum checker_verdict verdict = CHECKER_FAILED;
	int status = 0;
	pid_t pid;

	*snapshot_fd = -1;
	pid = fd < 0 || report_fd < 0 ? -1 : fork();
	if (pid == 0)
		check(path, fd, report_fd);
	if (pid < 0) {
		buf_printf(report, "sluiced: cannot check the configuration: %s\n",
			   strerror(errno));
		goto out;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	read_report(report_fd, report);
	verdict = judge(path, status, report);
	if (verdict == CHECKER_GOOD && fcntl(fd, F_ADD_SEALS, SEALS) != 0) {
		buf_printf(report, "sluiced: cannot seal the configuration: %s\n", strerror(errno));
		verdict = CHECKER_FAILED;
	}
out:
	if (report_fd >= 0)
		close(report_fd);
	if (verdict == CHECKER_GOOD)
		*snapshot_fd = fd;
	else if (fd >= 0)
		close(fd);
	return verdict;
}
