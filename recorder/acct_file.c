#include "recorder/acct_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"

#define NUMBERS_MAX 1000000 /* files of one day */

/* The configuration has changed since the file was begun: other columns, or lines of another
 * format. */
static bool
has_other_layout(const struct acct_file *f)
{
	struct buf ours = { 0 }, theirs = { 0 };
	int fd = f->bytes > 0 ? open(f->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
	bool other = false;
	size_t most;
	ssize_t n;

	if (fd < 0)
		return false;
	if (f->layout.json)
		buf_putc(&ours, '{');
	else
		acct_put_header(&ours, &f->layout);
	most = f->bytes < ours.len ? (size_t)f->bytes : ours.len;
	n = pread(fd, buf_room(&theirs, most), most, 0);
	if (n > 0) {
		buf_added(&theirs, (size_t)n);
		other = !slice_eq(buf_slice(&ours), buf_slice(&theirs));
	}
	close(fd);
	buf_clear(&ours);
	buf_clear(&theirs);
	return other;
}

void
acct_file_init(struct acct_file *f, const struct conf_acct_file *conf,
	       const unsigned char instance[16], const struct cursor_file *was)
{
	memset(f, 0, sizeof *f);
	f->conf = conf;
	f->fd = -1;
	acct_layout_init(&f->layout, conf, instance);
	acct_put_header(&f->pending, &f->layout);
	f->header_bytes = f->pending.len;
	buf_reset(&f->pending);
	if (was == NULL)
		return;
	str_copy(f->path, sizeof f->path, slice_str(was->path));
	str_copy(f->finished, sizeof f->finished, slice_str(was->finished));
	f->bytes = was->bytes;
	f->opened_wall_us = was->opened_wall_us;
	f->other_layout = has_other_layout(f);
}

void
acct_file_close(struct acct_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	buf_clear(&f->pending);
}

/* Someone renamed or removed the file under us: its rows went with it, the next go to a new one. */
static bool
was_taken_away(const struct acct_file *f)
{
	struct stat ours, there;

	if (f->fd < 0 || fstat(f->fd, &ours) != 0)
		return false;
	return stat(f->path, &there) != 0 || there.st_ino != ours.st_ino ||
	       there.st_dev != ours.st_dev;
}

bool
acct_file_wants_next(struct acct_file *f, bool rotate, uint64_t wall_us)
{
	bool has_rows = f->bytes > f->header_bytes;

	if (f->unnamed)
		return false;
	if (f->path[0] == '\0' || f->other_layout || f->bytes >= f->conf->max_size_bytes ||
	    (rotate && has_rows))
		return true;
	if (f->conf->move_to != NULL && has_rows &&
	    wall_us >= f->opened_wall_us + f->conf->move_interval_us)
		return true;
	return was_taken_away(f);
}

/* "/dir/acct.csv" and a number as "/dir/acct-2026-11-21-0000.csv". */
static bool
name_numbered(char *dst, size_t bytes, const char *dir, const char *path, uint64_t wall_us,
	      unsigned number)
{
	const char *base = strrchr(path, '/') + 1, *dot = strrchr(base, '.');
	size_t stem = dot != NULL && dot != base ? (size_t)(dot - base) : strlen(base);
	time_t t = (time_t)(wall_us / 1000000u);
	struct tm tm;
	int n;

	gmtime_r(&t, &tm);
	n = snprintf(dst, bytes, "%s/%.*s-%04d-%02d-%02d-%04u%s", dir, (int)stem, base,
		     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, number, base + stem);
	return n > 0 && (size_t)n < bytes;
}

static void
directory_of(char *dst, size_t bytes, const char *path)
{
	const char *slash = strrchr(path, '/');

	str_copy(dst, bytes, slice_of(path, slash != NULL ? (size_t)(slash - path) : 0));
}

int
acct_file_next(struct acct_file *f, uint64_t wall_us)
{
	char dir[4096], name[4096], moved[4096];
	struct stat st;

	CHECK(f->pending.len == 0);
	if (strchr(f->conf->path, '/') == NULL)
		return -E_BAD;
	directory_of(dir, sizeof dir, f->conf->path);
	for (unsigned i = 0; i < NUMBERS_MAX; i++) {
		if (!name_numbered(name, sizeof name, dir, f->conf->path, wall_us, i))
			return -E_BAD;
		if (lstat(name, &st) == 0 || strcmp(name, f->path) == 0)
			continue;
		if (f->conf->move_to != NULL &&
		    name_numbered(moved, sizeof moved, f->conf->move_to, f->conf->path, wall_us,
				  i) &&
		    lstat(moved, &st) == 0)
			continue;
		if (f->fd >= 0)
			close(f->fd);
		f->fd = -1;
		if (f->conf->move_to != NULL && f->path[0] != '\0')
			memcpy(f->finished, f->path, sizeof f->finished);
		memcpy(f->path, name, sizeof f->path);
		f->bytes = 0;
		f->opened_wall_us = wall_us;
		f->dirty = false;
		f->other_layout = false;
		f->unnamed = true;
		return 0;
	}
	return -E_FULL;
}

static int
write_at(int fd, const char *p, size_t n, uint64_t at)
{
	while (n > 0) {
		ssize_t done = pwrite(fd, p, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -err_errno() : -E_FULL;
		p += done;
		n -= (size_t)done;
		at += (size_t)done;
	}
	return 0;
}

static int
sync_directory_of(const char *path)
{
	char dir[4096];
	int rc = 0, fd;

	directory_of(dir, sizeof dir, path);
	if (dir[0] == '\0')
		str_copy(dir, sizeof dir, slice_str(path[0] == '/' ? "/" : "."));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	if (fsync(fd) != 0)
		rc = -err_errno();
	close(fd);
	return rc;
}

/* The names that lead to a new file, before a cursor stands behind records in it. That of its
 * directory, too: we may have made it, in a life that ended right then. */
static int
sync_names(const char *path)
{
	char dir[4096];
	int rc = sync_directory_of(path);

	if (rc != 0)
		return rc;
	directory_of(dir, sizeof dir, path);
	rc = sync_directory_of(dir);
	return rc == -E_DENIED ? 0 : rc; /* what we may not read we have not made anything in */
}

/* Makes the file's directory, if that is all that is missing. */
static int
open_at(const struct acct_file *f)
{
	mode_t mode = f->conf->world_readable ? 0644 : 0640;
	int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
	char dir[4096];
	int fd = open(f->path, flags, mode);

	if (fd < 0 && errno == ENOENT) {
		directory_of(dir, sizeof dir, f->path);
		if (mkdir(dir, f->conf->world_readable ? 0755 : 0750) == 0)
			fd = open(f->path, flags, mode);
	}
	if (fd < 0)
		return -err_errno();
	/* Not what the umask left of it. */
	if (fchmod(fd, mode) != 0)
		log_warn("acct=%s mode=failed", f->path);
	return fd;
}

/* Opens the file that the cursor names: cut to its durable length, or begun with a header. */
static int
open_file(struct acct_file *f)
{
	struct buf header = { 0 };
	struct stat st;
	int fd = open_at(f);
	int rc = 0;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) != 0)
		rc = -err_errno();
	if (rc == 0 && (uint64_t)st.st_size < f->bytes) {
		/* Cut or taken away by others: what is gone is gone, the rest has its header again.
		 */
		log_warn("acct=%s bytes=%lld expected=%llu the file lost records", f->path,
			 (long long)st.st_size, (unsigned long long)f->bytes);
		f->bytes = (uint64_t)st.st_size;
	}
	if (rc == 0 && ftruncate(fd, (off_t)f->bytes) != 0)
		rc = -err_errno();
	if (rc == 0 && f->bytes == 0) {
		acct_put_header(&header, &f->layout);
		rc = write_at(fd, header.data, header.len, 0);
		if (rc == 0)
			rc = sync_names(f->path);
		f->bytes = rc == 0 ? header.len : 0;
		f->dirty = true;
		buf_clear(&header);
	}
	if (rc != 0) {
		close(fd);
		return rc;
	}
	f->fd = fd;
	return 0;
}

int
acct_file_write(struct acct_file *f)
{
	int rc;

	if (f->path[0] == '\0' || f->unnamed || (f->fd >= 0 && f->pending.len == 0))
		return 0; /* no event is read before the file has its name */
	if (f->fd < 0) {
		rc = open_file(f);
		if (rc != 0)
			return rc;
	}
	rc = write_at(f->fd, f->pending.data + f->pending.start, f->pending.len, f->bytes);
	if (rc != 0) {
		/* No half line stays: whoever reads the file sees whole records. */
		if (ftruncate(f->fd, (off_t)f->bytes) != 0)
			log_warn("acct=%s truncate=failed", f->path);
		return rc;
	}
	f->dirty = f->dirty || f->pending.len > 0;
	f->bytes += f->pending.len;
	buf_reset(&f->pending);
	return 0;
}

int
acct_file_sync(struct acct_file *f)
{
	if (!f->dirty || f->fd < 0)
		return 0;
	if (fdatasync(f->fd) != 0)
		return -err_errno();
	f->dirty = false;
	return 0;
}

void
acct_file_state(const struct acct_file *f, struct cursor_file *out)
{
	*out = (struct cursor_file){ .key = (char *)(uintptr_t)f->conf->path,
				     .path = (char *)(uintptr_t)f->path,
				     .finished = (char *)(uintptr_t)f->finished,
				     .bytes = f->bytes,
				     .opened_wall_us = f->opened_wall_us };
}

void
acct_file_named(struct acct_file *f)
{
	char copy[4096], target[8192];

	f->unnamed = false;
	if (f->finished[0] == '\0' || f->conf->move_to == NULL)
		return;
	memcpy(copy, f->finished, sizeof copy);
	snprintf(target, sizeof target, "%s/%s", f->conf->move_to, basename(copy));
	if (renameat2(AT_FDCWD, f->finished, AT_FDCWD, target, RENAME_NOREPLACE) != 0 &&
	    errno != ENOENT)
		log_warn("acct=%s move_to=%s error=\"%s\"", f->finished, f->conf->move_to,
			 err_text(err_errno()));
	f->finished[0] = '\0';
}
