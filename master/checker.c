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
#include "common/rules/rules.h"

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

/* What the master holds is not for the child: locks, and lines whose end means that the master is
 * dead. */
static void
close_others(int *snapshot_fd, int *report_fd)
{
	/* Above 4 first: either may be where the other one goes. */
	int a = fcntl(*snapshot_fd, F_DUPFD, 5), b = fcntl(*report_fd, F_DUPFD, 5);

	if (a < 0 || b < 0)
		_exit(EXIT_FAILED);
	*snapshot_fd = dup2(a, 3);
	*report_fd = dup2(b, 4);
	(void)close_range(5, ~0u, 0);
}

/* The rules' patterns, once for all processes; also this may die of what it is given. */
static void
compile_rules(const struct conf *conf, struct buf *snapshot)
{
	const struct conf_rule *rules;
	struct buf compiled = { 0 };

	if (conf_rules(conf, &rules) == 0)
		return;
	rules_compile(conf, pattern_vectorscan(), &compiled);
	conf_snapshot_add_rules(snapshot, buf_slice(&compiled));
	buf_clear(&compiled);
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

	close_others(&snapshot_fd, &report_fd);
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
	compile_rules(conf, &snapshot);
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

int
checker_begin(struct checker *c, const char *path)
{
	int rc = 0;

	*c = (struct checker){
		.path = path,
		.fd = memfd_create("sluice-conf", MFD_CLOEXEC | MFD_ALLOW_SEALING),
		.report_fd = memfd_create("sluice-report", MFD_CLOEXEC),
	};
	if (c->fd >= 0 && c->report_fd >= 0) {
		c->pid = fork();
		if (c->pid == 0)
			check(path, c->fd, c->report_fd);
		if (c->pid > 0)
			return 0;
	}
	rc = -err_errno();
	if (c->fd >= 0)
		close(c->fd);
	if (c->report_fd >= 0)
		close(c->report_fd);
	c->pid = 0;
	return rc;
}

enum checker_verdict
checker_end(struct checker *c, int status, int *snapshot_fd, struct buf *report)
{
	enum checker_verdict verdict;

	*snapshot_fd = -1;
	read_report(c->report_fd, report);
	verdict = judge(c->path, status, report);
	if (verdict == CHECKER_GOOD && fcntl(c->fd, F_ADD_SEALS, SEALS) != 0) {
		buf_printf(report, "sluiced: cannot seal the configuration: %s\n", strerror(errno));
		verdict = CHECKER_FAILED;
	}
	close(c->report_fd);
	if (verdict == CHECKER_GOOD)
		*snapshot_fd = c->fd;
	else
		close(c->fd);
	c->pid = 0;
	return verdict;
}

enum checker_verdict
checker_run(const char *path, int *snapshot_fd, struct buf *report)
{
	struct checker c;
	int status = 0, rc = checker_begin(&c, path);

	*snapshot_fd = -1;
	if (rc != 0) {
		buf_printf(report, "sluiced: cannot check the configuration: %s\n", err_text(rc));
		return CHECKER_FAILED;
	}
	while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR)
		;
	return checker_end(&c, status, snapshot_fd, report);
}
