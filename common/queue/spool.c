#include "common/queue/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/str.h"

#define FORMAT_LINE  "sluice spool 1\n"
#define FORMAT_BYTES (sizeof FORMAT_LINE - 1 + 32 + 1)
#define LOCK_WAIT_MS 4000
#define LOCK_STEP_MS 50

static const char *const folders[] = { "lmdb", "segments", "events", "claims", "cursors" };

/* Makes every folder of `path` that is missing, each name synced in its parent. */
static int
make_path(const char *path)
{
	char part[4096];
	size_t n = strlen(path);

	if (n == 0 || n >= sizeof part)
		return -E_BAD;
	for (size_t i = 1; i <= n; i++) {
		int fd;

		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0750) != 0) {
			if (errno == EEXIST)
				continue;
			return -err_errno();
		}
		if (strlen(part) + 4 >= sizeof part)
			return -E_BAD;
		memcpy(part + i, "/..", 4);
		fd = open(part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return -err_errno();
		if (fsync(fd) != 0) {
			close(fd);
			return -E_IO;
		}
		close(fd);
	}
	return 0;
}

/* Nothing in it but what a file system or our own first start, cut short, leaves there. */
static bool
looks_empty(int dir)
{
	struct dirent *de;
	bool empty = true;
	DIR *d;
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return false;
	d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return false;
	}
	while (empty && (de = readdir(d)) != NULL) {
		const char *n = de->d_name;

		empty = strcmp(n, ".") == 0 || strcmp(n, "..") == 0 ||
			strcmp(n, "lost+found") == 0 || strcmp(n, "format.new") == 0;
	}
	closedir(d);
	return empty;
}

/* Written and synced under another name first: `format` is whole or absent. */
static int
write_format(int dir)
{
	unsigned char id[16];
	char text[FORMAT_BYTES + 1];
	size_t o = sizeof FORMAT_LINE - 1;
	int fd, rc = 0;

	if (getrandom(id, sizeof id, 0) != (ssize_t)sizeof id)
		return -E_SYSTEM;
	memcpy(text, FORMAT_LINE, o);
	for (int i = 0; i < 16; i++, o += 2)
		snprintf(text + o, 3, "%02x", id[i]);
	text[o] = '\n';
	fd = openat(dir, "format.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	if (fd < 0)
		return -err_errno();
	if (write(fd, text, FORMAT_BYTES) != (ssize_t)FORMAT_BYTES)
		rc = -E_FULL;
	else if (fsync(fd) != 0)
		rc = -err_errno();
	close(fd);
	if (rc == 0 && (renameat(dir, "format.new", dir, "format") != 0 || fsync(dir) != 0))
		rc = -err_errno();
	return rc;
}

static int
hex_nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int
read_format(int dir, unsigned char instance[16], const char **why)
{
	char text[FORMAT_BYTES + 1];
	const char *hex = text + sizeof FORMAT_LINE - 1;
	int fd = openat(dir, "format", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -err_errno();
	n = read(fd, text, sizeof text);
	close(fd);
	*why = "its file `format` is not of this version";
	if (n != (ssize_t)FORMAT_BYTES || memcmp(text, FORMAT_LINE, sizeof FORMAT_LINE - 1) != 0 ||
	    text[FORMAT_BYTES - 1] != '\n')
		return -E_FORMAT;
	for (int i = 0; i < 16; i++) {
		int hi = hex_nibble(hex[2 * i]), lo = hex_nibble(hex[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -E_FORMAT;
		instance[i] = (unsigned char)(hi << 4 | lo);
	}
	*why = NULL;
	return 0;
}

static int
open_folder(int dir, const char *name, int *out)
{
	*out = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *out < 0 ? -err_errno() : 0;
}

static int
open_folders(struct spool *s)
{
	int rc;

	if ((rc = open_folder(s->fd, "segments", &s->segments_fd)) != 0 ||
	    (rc = open_folder(s->fd, "events", &s->events_fd)) != 0 ||
	    (rc = open_folder(s->fd, "claims", &s->claims_fd)) != 0 ||
	    (rc = open_folder(s->fd, "cursors", &s->cursors_fd)) != 0)
		return rc;
	return 0;
}

static int
make_folders(struct spool *s)
{
	for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
		if (mkdirat(s->fd, folders[i], 0750) != 0 && errno != EEXIST)
			return -err_errno();
	}
	/* Also when all are there: a start that was killed may have left names that are not synced. */
	if (fsync(s->fd) != 0)
		return -err_errno();
	return open_folders(s);
}

static int
open_all(struct spool *s, const char **why)
{
	int rc = make_path(s->path);

	*why = "it cannot be made";
	if (rc != 0)
		return rc;
	*why = "it cannot be opened";
	s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0)
		return -err_errno();
	if (faccessat(s->fd, "format", F_OK, 0) != 0) {
		*why = "it holds files but no file `format`: not a spool";
		if (errno != ENOENT || !looks_empty(s->fd))
			return -E_FORMAT;
		*why = "its file `format` cannot be written";
		rc = write_format(s->fd);
		if (rc != 0)
			return rc;
	}
	*why = "its file `format` cannot be read";
	rc = read_format(s->fd, s->instance, why);
	if (rc != 0)
		return rc;
	*why = "its folders cannot be made or opened";
	return make_folders(s);
}

int
spool_open(struct spool *s, const char *path, const char **why)
{
	int rc;

	memset(s, 0, sizeof *s);
	s->fd = s->segments_fd = s->events_fd = s->claims_fd = s->cursors_fd = s->lock_fd =
		s->lock_file_fd = -1;
	str_copy(s->path, sizeof s->path, slice_str(path));
	rc = open_all(s, why);
	if (rc != 0)
		spool_close(s);
	else
		*why = NULL;
	return rc;
}

static int
look_all(struct spool *s, const char **why)
{
	int rc;

	*why = "it cannot be opened";
	s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0)
		return -err_errno();
	*why = "its file `format` cannot be read";
	rc = read_format(s->fd, s->instance, why);
	if (rc != 0)
		return rc;
	*why = "one of its folders cannot be opened";
	return open_folders(s);
}

int
spool_look(struct spool *s, const char *path, const char **why)
{
	int rc;

	memset(s, 0, sizeof *s);
	s->fd = s->segments_fd = s->events_fd = s->claims_fd = -1;
	s->cursors_fd = s->lock_fd = s->lock_file_fd = -1;
	str_copy(s->path, sizeof s->path, slice_str(path));
	rc = look_all(s, why);
	if (rc != 0)
		spool_close(s);
	else
		*why = NULL;
	return rc;
}

/* File systems on which a sync does not mean what the queue needs. */
static void
warn_file_system(const struct spool *s)
{
	static const struct {
		unsigned long magic;
		const char *name;
	} doubtful[] = {
		{ 0x01021994, "tmpfs" },     { 0x858458f6, "ramfs" }, { 0x6969, "nfs" },
		{ 0x794c7630, "overlayfs" }, { 0x65735546, "fuse" },
	};
	struct statfs fs;

	if (fstatfs(s->fd, &fs) != 0)
		return;
	for (size_t i = 0; i < sizeof doubtful / sizeof doubtful[0]; i++) {
		if ((unsigned long)fs.f_type == doubtful[i].magic)
			log_warn("spool=%s filesystem=%s mail may be lost when the machine stops",
				 s->path, doubtful[i].name);
	}
}

/* The process named in the lock file lives: no use waiting for it. */
static bool
holder_lives(int fd)
{
	char text[24];
	ssize_t n = pread(fd, text, sizeof text - 1, 0);
	uint64_t pid;

	while (n > 0 && text[n - 1] == '\n')
		n--;
	if (n <= 0 || !slice_u64(slice_of(text, (size_t)n), INT32_MAX, &pid) || pid == 0)
		return false;
	return kill((pid_t)pid, 0) == 0 || errno == EPERM;
}

/* The folder's lock and the file's, or none of them. The file may be removed or replaced under a
 * running instance, the folder only together with the queue in it; but not every file system locks
 * folders. */
static bool
lock_both(int dir, int file)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) != 0)
		return false;
	if (fcntl(file, F_OFD_SETLK, &lock) == 0)
		return true;
	if (dir >= 0)
		(void)flock(dir, LOCK_UN);
	return false;
}

/* The spool's folder, opened to be locked; negative where folders cannot be. */
static int
open_lockable(const struct spool *s)
{
	int dir = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) != 0 && errno != EWOULDBLOCK) {
		close(dir);
		return -1;
	}
	return dir;
}

int
spool_lock(struct spool *s)
{
	/* Of the open file, not of the process: children that outlive a killed master hold it too,
	 * and nobody may write beside them. */
	const struct timespec step = { .tv_nsec = LOCK_STEP_MS * 1000000l };
	char text[24];
	int fd = openat(s->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
	int dir = fd < 0 ? -1 : open_lockable(s);
	int n;

	if (fd < 0)
		return -err_errno();
	for (int waited_ms = 0; !lock_both(dir, fd); waited_ms += LOCK_STEP_MS) {
		if ((errno != EAGAIN && errno != EACCES) || holder_lives(fd) ||
		    waited_ms >= LOCK_WAIT_MS) {
			close(fd);
			if (dir >= 0)
				close(dir);
			return -E_LOCKED;
		}
		nanosleep(&step, NULL);
	}
	n = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n)
		log_warn("spool=%s the lock file cannot be written", s->path);
	s->lock_fd = dir >= 0 ? dir : fd;
	s->lock_file_fd = dir >= 0 ? fd : -1;
	warn_file_system(s);
	return 0;
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
spool_close(struct spool *s)
{
	close_fd(&s->segments_fd);
	close_fd(&s->events_fd);
	close_fd(&s->claims_fd);
	close_fd(&s->cursors_fd);
	close_fd(&s->lock_fd);
	close_fd(&s->lock_file_fd);
	close_fd(&s->fd);
}
