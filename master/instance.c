#include "master/instance.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/str.h"
#include "common/ipc/operator.h"
#include "common/proc/route.h"
#include "master/complain.h"
#include "master/listen.h"

#define ROOT_NOFILE 262144 /* descriptors that root asks for; connections need one each */

/* Configuration, user ------------------------------------------------------------------------
 */

static int
load_conf(struct instance *in)
{
	struct conf_report report = { 0 };
	int rc = conf_parse_fd(in->snapshot_fd, &in->conf, &report);

	conf_report_clear(&report);
	if (rc != 0) {
		complain("cannot read the configuration again: %s", err_text(rc));
		return rc;
	}
	in->start_conf = conf_hold(in->conf);
	in->conf_generation = 1;
	in->global = conf_global(in->conf);
	return 0;
}

static int
find_user(struct instance *in)
{
	const char *name = in->global->user;

	if (name == NULL)
		return 0;
	if (user_find(name, &in->user) == 0) {
		in->drop_user = geteuid() == 0;
		return 0;
	}
	if (geteuid() != 0)
		return 0; /* it could not be changed to anyway: warn_user() tells */
	complain("there is no user `%s`", name);
	return -E_MISSING;
}

/* Once there is a log. */
static void
warn_user(const struct instance *in)
{
	const char *name = in->global->user;

	if (name == NULL && geteuid() == 0)
		log_warn("user=root the configuration names no `user` to run as");
	if (name != NULL && !in->drop_user && in->user.uid != geteuid())
		log_warn("user=%s cannot be changed to: not started as root", name);
}

static void
raise_limits(void)
{
	struct rlimit r, more;

	if (getrlimit(RLIMIT_NOFILE, &r) != 0)
		return;
	more = r;
	if (more.rlim_max < ROOT_NOFILE)
		more.rlim_max = ROOT_NOFILE;
	more.rlim_cur = more.rlim_max;
	if (geteuid() == 0 && setrlimit(RLIMIT_NOFILE, &more) == 0)
		return;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &r) != 0)
		log_warn("limit=nofile not raised error=\"%s\"", strerror(errno));
}

/* Directories -------------------------------------------------------------------------------------
 */

/* Makes what is missing of the path above its last part. */
static void
make_parents(const char *path)
{
	char part[4096];
	mode_t mask = umask(022); /* the user passes through them */

	for (const char *p = strchr(path + 1, '/'); p != NULL; p = strchr(p + 1, '/')) {
		str_copy(part, sizeof part, slice_of(path, (size_t)(p - path)));
		(void)mkdir(part, 0755); /* what fails here fails again below, with a message */
	}
	(void)umask(mask);
}

/* A directory of ours: 0750, the user's, and not where a symbolic link leads. Its descriptor or
 * -E_*. */
static int
make_dir(const struct instance *in, int at, const char *name)
{
	int fd;

	if (mkdirat(at, name, 0750) != 0 && errno != EEXIST)
		return -err_errno();
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	if (fchmod(fd, 0750) != 0 ||
	    (in->drop_user && fchown(fd, in->user.uid, in->user.gid) != 0)) {
		int rc = -err_errno();

		close(fd);
		return rc;
	}
	return fd;
}

/* Makes a directory that is missing and gives it to the user; one that is there stays as it is.
 * What fails here fails again when a file in it is opened, with a message. */
static void
make_missing_dir(const struct instance *in, const char *dir)
{
	struct stat st;
	int fd;

	if (dir[0] != '/' || stat(dir, &st) == 0)
		return;
	make_parents(dir);
	fd = make_dir(in, AT_FDCWD, dir);
	if (fd >= 0)
		close(fd);
}

/* "/dir" of "/dir/file"; "" when the path is not absolute (a command, a word). */
static void
dir_of(char *dir, size_t bytes, const char *path)
{
	const char *slash = strrchr(path, '/');

	dir[0] = '\0';
	if (path[0] == '/')
		str_copy(dir, bytes, slice_of(path, slash > path ? (size_t)(slash - path) : 1));
}

static const char *
log_place(const struct instance *in, const struct conf *conf)
{
	const char *where = conf_global(conf)->log_file;

	/* In the background there is no stderr. */
	return in->background && strcmp(where, "stderr") == 0 ? "syslog" : where;
}

static int
open_log(struct instance *in)
{
	const char *where = log_place(in, in->conf);
	char dir[4096];
	int rc;

	dir_of(dir, sizeof dir, where);
	make_missing_dir(in, dir);
	rc = log_open(where, "master");
	if (rc != 0) {
		complain("cannot open the log file %s: %s", where, err_text(rc));
		return rc;
	}
	if (in->drop_user && log_descriptor() > 2 &&
	    fchown(log_descriptor(), in->user.uid, in->user.gid) != 0)
		log_warn("file=%s owner not changed", where);
	return 0;
}

static void
make_acct_dirs(const struct instance *in)
{
	const struct conf_acct_file *files;
	size_t n = conf_acct_files(in->conf, &files);

	for (size_t i = 0; i < n; i++) {
		char dir[4096];

		dir_of(dir, sizeof dir, files[i].path);
		make_missing_dir(in, dir);
		if (files[i].move_to != NULL)
			make_missing_dir(in, files[i].move_to);
	}
}

/* As the user: accounting that cannot be written waits in the event log, and the disk fills. */
static void
warn_acct_dirs(const struct instance *in)
{
	const struct conf_acct_file *files;
	size_t n = conf_acct_files(in->conf, &files);

	for (size_t i = 0; i < n; i++) {
		char dir[4096];

		dir_of(dir, sizeof dir, files[i].path);
		if (dir[0] != '\0' && faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) != 0)
			remark("accounting cannot be written into %s: %s; records wait in the "
			       "spool",
			       dir, strerror(errno));
	}
}

/* Objects of an earlier life would look as if their writers had died. */
static void
empty_dir(int fd)
{
	struct dirent *e;
	DIR *d = fdopendir(fd);

	if (d == NULL) {
		close(fd);
		return;
	}
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] != '.')
			(void)unlinkat(fd, e->d_name, 0);
	}
	closedir(d);
}

static int
open_run(struct instance *in)
{
	int shm_fd;

	str_copy(in->run, sizeof in->run, slice_str(in->global->run));
	make_parents(in->run);
	in->run_fd = make_dir(in, AT_FDCWD, in->run);
	if (in->run_fd < 0) {
		complain("cannot use the run directory %s: %s", in->run, err_text(in->run_fd));
		return in->run_fd;
	}
	if (flock(in->run_fd, LOCK_EX | LOCK_NB) != 0) {
		complain("the run directory %s is in use by another sluiced", in->run);
		return -E_LOCKED;
	}
	shm_fd = make_dir(in, in->run_fd, "shm");
	if (shm_fd < 0) {
		complain("cannot use %s/shm: %s", in->run, err_text(shm_fd));
		return shm_fd;
	}
	empty_dir(shm_fd);
	return 0;
}

/* Gives what an earlier start as root left behind to the user, two levels deep; never through a
 * link. */
static void
own_tree(const struct instance *in, int fd, unsigned depth)
{
	struct dirent *e;
	struct stat st;
	int sub = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	DIR *d = sub < 0 ? NULL : fdopendir(sub);

	if (d == NULL)
		return;
	rewinddir(d);
	while ((e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
		    (!S_ISDIR(st.st_mode) && (!S_ISREG(st.st_mode) || st.st_nlink > 1)))
			continue;
		if (st.st_uid != in->user.uid &&
		    fchownat(fd, e->d_name, in->user.uid, in->user.gid, AT_SYMLINK_NOFOLLOW) != 0)
			log_warn("file=%s owner not changed", e->d_name);
		if (S_ISDIR(st.st_mode) && depth > 0) {
			int below = openat(fd, e->d_name,
					   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (below >= 0) {
				own_tree(in, below, depth - 1);
				close(below);
			}
		}
	}
	closedir(d);
}

static int
open_spool(struct instance *in)
{
	const char *why = NULL, *path = in->global->spool;
	int rc;

	make_parents(path);
	rc = spool_open(&in->spool, path, &why);
	if (rc != 0) {
		complain("cannot use the spool %s: %s (%s)", path, why != NULL ? why : "?",
			 err_text(rc));
		return rc;
	}
	rc = spool_lock(&in->spool);
	if (rc != 0) {
		complain("the spool %s is in use by another sluiced", path);
		return rc;
	}
	if (!in->drop_user)
		return 0;
	if (fchown(in->spool.fd, in->user.uid, in->user.gid) != 0)
		log_warn("spool=%s owner not changed", path);
	own_tree(in, in->spool.fd, 1);
	return 0;
}

static int
write_pid_file(struct instance *in)
{
	char text[32];
	int n = snprintf(text, sizeof text, "%d\n", (int)getpid()), rc = 0;
	int fd = openat(in->run_fd, INSTANCE_PID_FILE ".new",
			O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);

	if (fd < 0)
		rc = -err_errno();
	else if (write(fd, text, (size_t)n) != n ||
		 (in->drop_user && fchown(fd, in->user.uid, in->user.gid) != 0) ||
		 renameat(in->run_fd, INSTANCE_PID_FILE ".new", in->run_fd, INSTANCE_PID_FILE) != 0)
		rc = -err_errno();
	if (fd >= 0)
		close(fd);
	if (rc != 0)
		complain("cannot write %s/%s: %s", in->run, INSTANCE_PID_FILE, err_text(rc));
	in->owns_files = rc == 0;
	return rc;
}

/* All of it
 * ---------------------------------------------------------------------------------------- */

static int
make_routes(struct instance *in)
{
	char self[64];

	in->routes_fd = route_object_create();
	if (in->routes_fd < 0) {
		complain("cannot make the memory for routes: %s", err_text(in->routes_fd));
		return in->routes_fd;
	}
	/* A second opening, for those who only read. */
	snprintf(self, sizeof self, "/proc/self/fd/%d", in->routes_fd);
	in->routes_read_fd = open(self, O_RDONLY | O_CLOEXEC);
	if (in->routes_read_fd >= 0)
		return 0;
	complain("cannot open the memory for routes again: %s", strerror(errno));
	return -err_errno();
}

static int
give_up_root(struct instance *in)
{
	int rc = in->drop_user ? user_drop_but_ports(&in->user) : 0;

	if (rc != 0)
		complain("cannot become user `%s`: %s", in->user.name, err_text(rc));
	user_no_new_privileges();
	return rc;
}

int
instance_open(struct instance *in, int snapshot_fd, bool foreground)
{
	int rc;

	memset(in, 0, sizeof *in);
	in->snapshot_fd = snapshot_fd;
	in->background = !foreground;
	in->run_fd = in->operator_fd = in->routes_fd = in->routes_read_fd = -1;
	in->spool.fd = in->spool.segments_fd = in->spool.events_fd = in->spool.claims_fd =
		in->spool.cursors_fd = in->spool.lock_fd = in->spool.lock_file_fd = -1;
	(void)umask(027);
	if ((rc = load_conf(in)) != 0 || (rc = find_user(in)) != 0 || (rc = open_log(in)) != 0)
		goto out;
	warn_user(in);
	raise_limits();
	make_acct_dirs(in);
	if ((rc = open_run(in)) != 0 || (rc = open_spool(in)) != 0 ||
	    (rc = write_pid_file(in)) != 0 || (rc = listen_smtp(in)) != 0 ||
	    (rc = listen_operator(in)) != 0 || (rc = make_routes(in)) != 0 ||
	    (rc = give_up_root(in)) != 0)
		goto out;
	warn_acct_dirs(in);
	if (getrandom(in->start_id, sizeof in->start_id, 0) != (ssize_t)sizeof in->start_id)
		rc = -E_SYSTEM;
out:
	if (rc != 0)
		instance_close(in);
	return rc;
}

/* Another configuration
 * ------------------------------------------------------------------------------------ */

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Where the log goes must be writable before anything depends on it. */
static int
try_log(struct instance *in, const struct conf *conf, struct buf *report)
{
	const char *where = log_place(in, conf);
	char dir[4096];
	int fd, rc = 0;

	if (where[0] != '/')
		return 0;
	dir_of(dir, sizeof dir, where);
	make_missing_dir(in, dir);
	fd = open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd >= 0)
		close(fd);
	else
		rc = -err_errno();
	if (rc != 0) {
		struct conf_setting set = { 0 };

		(void)conf_setting_find(conf, SLICE_NONE, SLICE_NONE, "log-file", &set);
		buf_printf(report, "%s:%u: log-file: \"%s\" cannot be written: %s\n",
			   set.file != NULL ? set.file : "default", set.line, where, err_text(rc));
	}
	return rc;
}

int
instance_prepare(struct instance *in, int snapshot_fd, struct instance_next *next,
		 struct buf *report, void (*told)(void *arg, const struct conf_kept *kept),
		 void *arg)
{
	struct conf_report again = { 0 };
	int rc;

	*next = (struct instance_next){ .snapshot_fd = snapshot_fd };
	rc = conf_parse_fd(snapshot_fd, &next->conf, &again);
	conf_report_clear(&again);
	if (rc != 0)
		buf_printf(report, "sluiced: cannot read the configuration again: %s\n",
			   err_text(rc));
	if (rc == 0) {
		conf_keep(next->conf, conf_global(in->start_conf), told, arg);
		rc = listen_next(in, next, report);
	}
	if (rc == 0)
		rc = try_log(in, next->conf, report);
	if (rc != 0)
		instance_drop(next);
	return rc;
}

void
instance_drop(struct instance_next *next)
{
	for (unsigned i = 0; i < next->n_listeners; i++)
		close_fd(&next->listener_fds[i]);
	next->n_listeners = 0;
	close_fd(&next->snapshot_fd);
	conf_free(&next->conf);
}

void
instance_commit(struct instance *in, struct instance_next *next)
{
	listen_retire(in, next);
	instance_stop_listening(in);
	memcpy(in->listener_fds, next->listener_fds, sizeof in->listener_fds);
	in->n_listeners = next->n_listeners;
	close_fd(&in->snapshot_fd);
	in->snapshot_fd = next->snapshot_fd;
	conf_free(&in->conf);
	in->conf = next->conf;
	in->global = conf_global(in->conf);
	in->conf_generation = next->generation;
	*next = (struct instance_next){ .snapshot_fd = -1 };
	make_acct_dirs(in);
	instance_reopen_log(in);
}

void
instance_reopen_log(struct instance *in)
{
	const char *where = log_place(in, in->conf);
	int rc = log_open(where, "master");

	if (rc != 0)
		log_error("log=%s open=failed error=\"%s\" the old one is written on", where,
			  err_text(rc));
}

void
instance_stop_listening(struct instance *in)
{
	for (unsigned i = 0; i < in->n_listeners; i++)
		close_fd(&in->listener_fds[i]);
	in->n_listeners = 0;
}

void
instance_close(struct instance *in)
{
	if (in->owns_files) {
		(void)unlinkat(in->run_fd, OPERATOR_SOCKET_NAME, 0);
		(void)unlinkat(in->run_fd, INSTANCE_PID_FILE, 0);
	}
	in->owns_files = false;
	instance_stop_listening(in);
	close_fd(&in->operator_fd);
	close_fd(&in->routes_fd);
	close_fd(&in->routes_read_fd);
	close_fd(&in->snapshot_fd);
	spool_close(&in->spool);
	close_fd(&in->run_fd);
	conf_free(&in->conf);
	conf_free(&in->start_conf);
}
