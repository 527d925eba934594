/* disk: the files lie on a memory file system; each write goes there at once, and what the sectors
 * held when they were last synced is kept. A power cut puts back any part of that: a sector is as
 * written, as synced or as written in between; a file's size and a folder's names likewise (names
 * in their order). Pages that a process changed through a map are written when the kernel likes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/queue/claims.h"
#include "tests/sim/sim.h"

#define SECTOR   512u
#define FDS_MAX  1024
#define FILES    512
#define NAMES    1024 /* changes of names that are not synced */
#define MAPS_MAX 256
#define EVENTFD  100000
#define SHADOW   (4096u + 24u * CLAIM_SLOT_BYTES) /* of a claim table: what is looked at */

struct sector {
	struct file *file;
	uint32_t number;
	uint32_t at; /* in the file's list */
	bool has_between;
	bool lost; /* a sync of it failed: the next ones say nothing of it, until it is written
		      again */
	unsigned char synced[SECTOR], between[SECTOR];
};

struct file {
	bool used, gone;
	unsigned refs;
	ino_t ino;
	int fd;
	uint64_t size, synced_size;
	struct sector **map; /* by number */
	size_t n_map;
	struct sector **list; /* not synced */
	size_t n_list, cap_list;
	unsigned char *shadow; /* a claim table: what the kernel has written */
};

struct open_file {
	bool used, ours, sync_writes;
	struct file *file;
	char *folder; /* its path */
};

enum change_kind { CREATED, RENAMED, REMOVED };
struct change {
	enum change_kind kind;
	char *folder, *from, *to;
	int trash; /* what was there before, 0 nothing */
	struct file *file;
};

static struct file files[FILES];
static struct open_file fds[FDS_MAX];
static struct change changes[NAMES];
static unsigned n_changes;
static int next_trash;
static struct sector *spare;
static unsigned n_unsynced;
static struct {
	void *p;
	size_t n;
} maps[MAPS_MAX];
static struct {
	bool used;
	uint64_t count;
} eventfds[64];
static const char *root;
static unsigned error_rate; /* in 20000 calls */
static uint64_t n_errors;

int __real_open(const char *path, int flags, ...);
int __real_openat(int dir, const char *path, int flags, ...);
int __real_close(int fd);
ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __real_read(int fd, void *p, size_t n);
int __real_ftruncate(int fd, off_t n);
int __real_posix_fallocate(int fd, off_t at, off_t n);
int __real_renameat(int d1, const char *from, int d2, const char *to);
int __real_unlinkat(int dir, const char *name, int flags);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
int __real_munmap(void *p, size_t n);
int __real_closedir(DIR *d);
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);

int __wrap_open(const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_close(int fd);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t at);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_read(int fd, void *p, size_t n);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_ftruncate(int fd, off_t n);
int __wrap_posix_fallocate(int fd, off_t at, off_t n);
int __wrap_fallocate(int fd, int mode, off_t at, off_t n);
int __wrap_renameat(int d1, const char *from, int d2, const char *to);
int __wrap_unlinkat(int dir, const char *name, int flags);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
int __wrap_munmap(void *p, size_t n);
int __wrap_closedir(DIR *d);
int __wrap_eventfd(unsigned count, int flags);
ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags);

static char *
copy(const char *s)
{
	return s == NULL ? NULL : memcpy(__real_malloc(strlen(s) + 1), s, strlen(s) + 1);
}

/* Files ---------------------------------------------------------------------------------------- */
static void clean_all(struct file *f);

static void
forget_if_unused(struct file *f)
{
	if (!f->gone || f->refs > 0)
		return;
	HOLDS(f->n_list == 0 || sim_spoilt, "a file that is gone has unsynced sectors");
	clean_all(f);
	__real_close(f->fd);
	__real_free(f->map);
	__real_free(f->list);
	__real_free(f->shadow);
	memset(f, 0, sizeof *f);
}

static struct file *
file_of(const char *path, ino_t ino, uint64_t size, bool made)
{
	struct file *empty = NULL;

	for (int i = 0; i < FILES; i++) {
		if (files[i].used && files[i].ino == ino)
			return &files[i];
		if (!files[i].used && empty == NULL)
			empty = &files[i];
	}
	HOLDS(empty != NULL, "more than %d files", FILES);
	empty->used = true;
	empty->ino = ino;
	empty->size = size;
	empty->synced_size = made ? 0 : size;
	empty->fd = __real_open(path, O_RDWR | O_CLOEXEC);
	HOLDS(empty->fd >= 0, "%s cannot be opened again", path);
	if (strstr(path, "/claims/") != NULL)
		empty->shadow = __real_calloc(1, SHADOW);
	return empty;
}

static void
add_change(enum change_kind kind, const char *folder, const char *from, const char *to, int trash,
	   struct file *f)
{
	HOLDS(n_changes < NAMES, "more than %d names not synced", NAMES);
	changes[n_changes++] =
		(struct change){ kind, copy(folder), copy(from), copy(to), trash, f };
}

/* The sector leaves the list of what is not synced. */
static void
clean(struct sector *s)
{
	struct file *f = s->file;

	f->list[s->at] = f->list[--f->n_list];
	f->list[s->at]->at = s->at;
	f->map[s->number] = NULL;
	n_unsynced--;
	*(struct sector **)(void *)s->synced = spare;
	spare = s;
}

static void
clean_all(struct file *f)
{
	while (f->n_list > 0)
		clean(f->list[f->n_list - 1]);
}

/* A sync reaches all that no earlier one has failed for. */
static void
clean_synced(struct file *f)
{
	for (size_t i = f->n_list; i-- > 0;) {
		if (!f->list[i]->lost)
			clean(f->list[i]);
	}
}

static bool
disk_fails(void)
{
	if (!threads_inside() || sim_calm || sim_below(20000) >= error_rate)
		return false;
	n_errors++;
	errno = sim_percent(50) ? EIO : ENOSPC;
	return true;
}

static struct sector *
new_sector(void)
{
	struct sector *s = spare;

	if (s == NULL)
		return __real_malloc(sizeof *s);
	spare = *(struct sector **)(void *)s->synced;
	return s;
}

static void
add_sector(struct file *f, uint32_t number, const unsigned char *was)
{
	struct sector *s = new_sector();

	if (f->n_list == f->cap_list) {
		f->cap_list = f->cap_list * 2 + 64;
		f->list = __real_realloc(f->list, f->cap_list * sizeof(struct sector *));
	}
	s->file = f;
	s->number = number;
	s->at = (uint32_t)f->n_list;
	s->has_between = s->lost = false;
	memcpy(s->synced, was, SECTOR);
	f->list[f->n_list++] = s;
	f->map[number] = s;
	n_unsynced++;
}

/* Before a write of `n` bytes at `at`: what is there is kept. */
static void
keep(struct file *f, uint64_t at, uint64_t n)
{
	static unsigned char was[1u << 21];
	uint32_t first = (uint32_t)(at / SECTOR), last = (uint32_t)((at + n - 1) / SECTOR);
	size_t bytes = (size_t)(last - first + 1) * SECTOR;
	ssize_t got;

	HOLDS(bytes <= sizeof was, "a write of %zu bytes", bytes);
	if (last >= f->n_map) {
		size_t want = (size_t)last * 2 + 64;

		f->map = __real_realloc(f->map, want * sizeof(struct sector *));
		memset(f->map + f->n_map, 0, (want - f->n_map) * sizeof(struct sector *));
		f->n_map = want;
	}
	got = pread(f->fd, was, bytes, (off_t)first * SECTOR);
	HOLDS(got >= 0, "a file cannot be read");
	memset(was + got, 0, bytes - (size_t)got);
	for (uint32_t i = first; i <= last; i++) {
		const unsigned char *p = was + (size_t)(i - first) * SECTOR;

		if (f->map[i] == NULL) {
			add_sector(f, i, p);
		} else if (f->map[i]->lost) {
			f->map[i]->lost = false;
		} else if (sim_percent(50)) {
			f->map[i]->has_between = true;
			memcpy(f->map[i]->between, p, SECTOR);
		}
	}
	if (at + n > f->size)
		f->size = at + n;
}

static struct file *
fd_file(int fd)
{
	return fd >= 0 && fd < FDS_MAX && fds[fd].used ? fds[fd].file : NULL;
}

/* Opening and closing ----------------------------------------------------------------------------
 */
static const char *
whole_path(int dir, const char *name)
{
	static char path[2][4096];
	static unsigned turn;

	if (dir == AT_FDCWD || name[0] == '/')
		return name;
	HOLDS(dir < FDS_MAX && fds[dir].folder != NULL, "a folder is not known");
	turn = !turn;
	if (strcmp(name, ".") == 0)
		return fds[dir].folder;
	snprintf(path[turn], sizeof path[turn], "%s/%s", fds[dir].folder, name);
	return path[turn];
}

static bool
is_simulated(const char *path)
{
	return root != NULL && strncmp(path, root, strlen(root)) == 0 &&
	       strstr(path, "lock") == NULL;
}

static int
open_any(int dir, const char *name, int flags, mode_t mode)
{
	const char *path = whole_path(dir, name);
	struct stat st;
	bool there;
	int fd;

	if (!is_simulated(path)) {
		fd = __real_open(path, flags, mode);
		if (fd >= 0 && threads_inside() && fd < FDS_MAX)
			fds[fd] = (struct open_file){ .used = true, .ours = true };
		return fd;
	}
	there = access(path, F_OK) == 0;
	fd = __real_open(path, flags, mode);
	if (fd < 0)
		return fd;
	HOLDS(fd < FDS_MAX && fstat(fd, &st) == 0, "too many descriptors");
	HOLDS(!fds[fd].used, "descriptor %d is open twice", fd);
	fds[fd] = (struct open_file){ .used = true, .ours = threads_inside() };
	if (S_ISDIR(st.st_mode)) {
		fds[fd].folder = copy(path);
		return fd;
	}
	fds[fd].file = file_of(path, st.st_ino, (uint64_t)st.st_size, !there);
	fds[fd].file->refs++;
	fds[fd].sync_writes = (flags & O_DSYNC) != 0;
	if (flags & O_TRUNC) { /* only what was never finished is opened so */
		clean_all(fds[fd].file);
		fds[fd].file->size = fds[fd].file->synced_size = 0;
	}
	if (!there) {
		char folder[4096];
		const char *last = strrchr(path, '/');

		snprintf(folder, sizeof folder, "%.*s", (int)(last - path), path);
		add_change(CREATED, folder, last + 1, NULL, 0, fds[fd].file);
	}
	return fd;
}

int
__wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return open_any(AT_FDCWD, path, flags, mode);
}

int
__wrap_openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return open_any(dir, path, flags, mode);
}

static void
closed(int fd)
{
	struct file *f = fd_file(fd);

	if (fd < 0 || fd >= FDS_MAX || !fds[fd].used)
		return;
	__real_free(fds[fd].folder);
	memset(&fds[fd], 0, sizeof fds[fd]);
	if (f != NULL) {
		f->refs--;
		forget_if_unused(f);
	}
}

int
__wrap_close(int fd)
{
	if (fd >= EVENTFD) {
		eventfds[fd - EVENTFD].used = false;
		return 0;
	}
	closed(fd);
	return __real_close(fd);
}

int
__wrap_closedir(DIR *d)
{
	closed(dirfd(d));
	return __real_closedir(d);
}

/* Writing and syncing ----------------------------------------------------------------------------
 */
static ssize_t
write_at(int fd, struct file *f, const void *p, size_t n, off_t at)
{
	ssize_t done;

	keep(f, (uint64_t)at, n);
	done = __real_pwrite(fd, p, n, at);
	HOLDS(done == (ssize_t)n, "the memory file system is full");
	return done;
}

ssize_t
__wrap_pwrite(int fd, const void *p, size_t n, off_t at)
{
	struct file *f = fd_file(fd);
	ssize_t done;

	if (f == NULL || n == 0)
		return __real_pwrite(fd, p, n, at);
	threads_pause(fds[fd].sync_writes ? 50 : 15);
	if (disk_fails())
		return -1;
	if (threads_inside() && n > SECTOR && sim_percent(5)) { /* cut short by what comes now */
		size_t half = n / 2 / SECTOR * SECTOR;

		write_at(fd, f, p, half, at);
		threads_pause(100);
		write_at(fd, f, (const char *)p + half, n - half, at + (off_t)half);
		done = (ssize_t)n;
	} else {
		done = write_at(fd, f, p, n, at);
	}
	if (fds[fd].sync_writes) {
		threads_pause(50);
		for (uint64_t i = (uint64_t)at / SECTOR; i <= ((uint64_t)at + n - 1) / SECTOR;
		     i++) {
			if (f->map[i] != NULL)
				clean(f->map[i]);
		}
		threads_pause(30);
	}
	return done;
}

ssize_t
__wrap_pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	ssize_t all = 0;

	for (int i = 0; i < n; i++) {
		ssize_t done = __wrap_pwrite(fd, iov[i].iov_base, iov[i].iov_len, at + all);

		if (done < 0)
			return done;
		all += done;
	}
	return all;
}

ssize_t
__wrap_writev(int fd, const struct iovec *iov, int n)
{
	off_t at = lseek(fd, 0, SEEK_CUR);
	ssize_t done = __wrap_pwritev(fd, iov, n, at);

	if (done > 0)
		lseek(fd, at + done, SEEK_SET);
	return done;
}

ssize_t
__wrap_write(int fd, const void *p, size_t n)
{
	struct file *f;

	if (fd >= EVENTFD) {
		eventfds[fd - EVENTFD].count += *(const uint64_t *)p;
		return (ssize_t)n;
	}
	f = fd_file(fd);
	if (f != NULL && n > 0)
		keep(f, (uint64_t)lseek(fd, 0, SEEK_CUR), n);
	return __real_write(fd, p, n);
}

ssize_t
__wrap_read(int fd, void *p, size_t n)
{
	if (fd < EVENTFD)
		return __real_read(fd, p, n);
	if (eventfds[fd - EVENTFD].count == 0) {
		errno = EAGAIN;
		return -1;
	}
	memcpy(p, &eventfds[fd - EVENTFD].count, sizeof(uint64_t));
	eventfds[fd - EVENTFD].count = 0;
	return (ssize_t)n;
}

static void
drop_change(unsigned i, bool undone)
{
	struct change *c = &changes[i];

	if (c->trash != 0 && !undone) {
		char path[4096];

		snprintf(path, sizeof path, "%s.trash/%d", root, c->trash);
		unlink(path);
		if (c->file != NULL) {
			clean_all(c->file);
			c->file->gone = true;
			forget_if_unused(c->file);
		}
	}
	__real_free(c->folder);
	__real_free(c->from);
	__real_free(c->to);
	memmove(c, c + 1, (--n_changes - i) * sizeof *c);
}

static int
sync_any(int fd)
{
	struct file *f = fd_file(fd);

	threads_pause(60);
	if (disk_fails()) {
		for (size_t i = 0; f != NULL && i < f->n_list; i++)
			f->list[i]->lost = true;
		return -1;
	}
	if (f != NULL) {
		clean_synced(f);
		f->synced_size = f->size;
	} else if (fd >= 0 && fd < FDS_MAX && fds[fd].folder != NULL) {
		for (unsigned i = 0; i < n_changes;) {
			if (strcmp(changes[i].folder, fds[fd].folder) == 0)
				drop_change(i, false);
			else
				i++;
		}
	}
	threads_pause(60);
	return 0;
}

int
__wrap_fsync(int fd)
{
	return sync_any(fd);
}

int
__wrap_fdatasync(int fd)
{
	return sync_any(fd);
}

int
__wrap_ftruncate(int fd, off_t n)
{
	struct file *f = fd_file(fd);

	if (f != NULL) {
		HOLDS((uint64_t)n >= f->size, "a file is cut");
		f->size = (uint64_t)n;
	}
	return __real_ftruncate(fd, n);
}

int
__wrap_posix_fallocate(int fd, off_t at, off_t n)
{
	struct file *f = fd_file(fd);

	if (f != NULL && (uint64_t)(at + n) > f->size)
		f->size = (uint64_t)(at + n);
	return __real_ftruncate(fd, at + n); /* the same, and only what is used takes memory */
}

/* Room is reserved, or holes are punched over a whole file. */
int
__wrap_fallocate(int fd, int mode, off_t at, off_t n)
{
	static const char zeros[65536];

	if (mode == 0)
		return __wrap_posix_fallocate(fd, at, n);
	while (n > 0) {
		size_t part = (size_t)n < sizeof zeros ? (size_t)n : sizeof zeros;

		if (__wrap_pwrite(fd, zeros, part, at) < 0)
			return -1;
		at += (off_t)part;
		n -= (off_t)part;
	}
	return 0;
}

/* Names ---------------------------------------------------------------------------------------- */
static struct file *
known_file(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return NULL;
	for (int i = 0; i < FILES; i++) {
		if (files[i].used && files[i].ino == st.st_ino)
			return &files[i];
	}
	return NULL;
}

/* Puts what is at `path` aside; 0: nothing is. */
static int
put_aside(const char *path, struct file **f)
{
	char trash[4096];

	*f = known_file(path);
	snprintf(trash, sizeof trash, "%s.trash/%d", root, next_trash + 1);
	if (rename(path, trash) != 0)
		return 0;
	return ++next_trash;
}

int
__wrap_renameat(int d1, const char *from, int d2, const char *to)
{
	char source[4096], target[4096];
	struct file *f;
	int trash;

	if (!is_simulated(whole_path(d1, from)))
		return __real_renameat(d1, from, d2, to);
	threads_pause(30);
	snprintf(source, sizeof source, "%s", whole_path(d1, from));
	snprintf(target, sizeof target, "%s", whole_path(d2, to));
	trash = put_aside(target, &f);
	if (rename(source, target) != 0)
		sim_broken("%s cannot be renamed", source);
	add_change(RENAMED, fds[d1].folder, from, to, trash, f);
	threads_pause(30);
	return 0;
}

int
__wrap_unlinkat(int dir, const char *name, int flags)
{
	char path[4096];
	struct file *f;
	int trash;

	snprintf(path, sizeof path, "%s", whole_path(dir, name));
	if (!is_simulated(path))
		return __real_unlinkat(dir, name, flags);
	threads_pause(30);
	trash = put_aside(path, &f);
	if (trash == 0) {
		errno = ENOENT;
		return -1;
	}
	add_change(REMOVED, fds[dir].folder, name, NULL, trash, f);
	threads_pause(30);
	return 0;
}

/* Maps ----------------------------------------------------------------------------------------- */
void *
__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	void *p = __real_mmap(at, n, prot, flags, fd, off);

	if (p == MAP_FAILED || !threads_inside() || fd < 0)
		return p;
	for (int i = 0; i < MAPS_MAX; i++) {
		if (maps[i].p == NULL) {
			maps[i].p = p;
			maps[i].n = n;
			return p;
		}
	}
	sim_broken("more than %d maps", MAPS_MAX);
}

int
__wrap_munmap(void *p, size_t n)
{
	for (int i = 0; i < MAPS_MAX; i++) {
		if (maps[i].p == p)
			maps[i].p = NULL;
	}
	return __real_munmap(p, n);
}

int
__wrap_eventfd(unsigned count, int flags)
{
	(void)flags;
	for (int i = 0; i < (int)(sizeof eventfds / sizeof eventfds[0]); i++) {
		if (!eventfds[i].used) {
			eventfds[i].used = true;
			eventfds[i].count = count;
			return EVENTFD + i;
		}
	}
	sim_broken("too many eventfds");
}

unsigned
disk_spoil(const char *path, struct slice what, size_t at, unsigned char then)
{
	struct stat st;
	unsigned char *p;
	unsigned n = 0;
	int fd = __real_open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0) {
		if (fd >= 0)
			__real_close(fd);
		return 0;
	}
	p = __real_mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	HOLDS(p != MAP_FAILED, "%s cannot be mapped", path);
	for (unsigned char *end = p + st.st_size, *q = p; q < end; q++) {
		q = memmem(q, (size_t)(end - q), what.p, what.n);
		if (q == NULL)
			break;
		if (q + at + 1 < end && q[at + 1] == then) {
			q[at] |= 0x40;
			n++;
		}
	}
	__real_munmap(p, (size_t)st.st_size);
	__real_close(fd);
	return n;
}

int
disk_eventfd_ready(int fd)
{
	return fd >= EVENTFD && eventfds[fd - EVENTFD].count > 0;
}

ssize_t
__wrap_getrandom(void *p, size_t n, unsigned flags)
{
	(void)flags;
	for (size_t i = 0; i < n; i++)
		((unsigned char *)p)[i] = (unsigned char)sim_random();
	return (ssize_t)n;
}

/* Faults --------------------------------------------------------------------------------------- */
void
disk_kill(void)
{
	for (int i = 0; i < FDS_MAX; i++) {
		if (fds[i].used && fds[i].ours) {
			closed(i);
			__real_close(i);
		}
	}
	for (int i = 0; i < MAPS_MAX; i++) {
		if (maps[i].p != NULL)
			__real_munmap(maps[i].p, maps[i].n);
		maps[i].p = NULL;
	}
	for (size_t i = 0; i < sizeof eventfds / sizeof eventfds[0]; i++)
		eventfds[i].used = false;
}

static void
undo(struct change *c)
{
	char from[4096], to[4096], trash[4096];

	snprintf(from, sizeof from, "%s/%s", c->folder, c->from);
	snprintf(to, sizeof to, "%s/%s", c->folder, c->to != NULL ? c->to : "");
	snprintf(trash, sizeof trash, "%s.trash/%d", root, c->trash);
	switch (c->kind) {
	case CREATED:
		HOLDS(unlink(from) == 0, "undo of %s", from);
		clean_all(c->file);
		c->file->gone = true;
		forget_if_unused(c->file);
		break;
	case RENAMED:
		HOLDS(rename(to, from) == 0, "undo of %s", to);
		if (c->trash != 0)
			HOLDS(rename(trash, to) == 0, "undo of %s", trash);
		break;
	case REMOVED:
		HOLDS(rename(trash, from) == 0, "undo of %s", from);
		break;
	}
}

/* In each folder the first some changes stay, the later ones never were. */
static void
cut_names(void)
{
	while (n_changes > 0) {
		char *folder = copy(changes[0].folder);
		unsigned n = 0, stay;

		for (unsigned i = 0; i < n_changes; i++)
			n += strcmp(changes[i].folder, folder) == 0;
		stay = sim_below(n + 1);
		for (unsigned i = n_changes; i-- > 0;) {
			if (strcmp(changes[i].folder, folder) != 0)
				continue;
			if (n-- > stay) {
				undo(&changes[i]);
				drop_change(i, true);
			}
		}
		for (unsigned i = 0; i < n_changes;) {
			if (strcmp(changes[i].folder, folder) == 0)
				drop_change(i, false);
			else
				i++;
		}
		__real_free(folder);
	}
}

static void
cut_sectors(struct file *f, unsigned lost)
{
	while (f->n_list > 0) {
		struct sector *s = f->list[f->n_list - 1];
		const unsigned char *p = NULL;

		if (sim_percent(lost))
			p = s->synced;
		else if (s->has_between && sim_percent(30))
			p = s->between;
		if (p != NULL)
			__real_pwrite(f->fd, p, SECTOR, (off_t)s->number * SECTOR);
		clean(s);
	}
}

static void
cut_table(struct file *f, unsigned lost)
{
	unsigned char *p = __real_malloc(SHADOW);
	ssize_t n = pread(f->fd, p, SHADOW, 0);

	for (ssize_t at = 4096; at + (ssize_t)SECTOR <= n; at += SECTOR) {
		if (memcmp(p + at, f->shadow + at, SECTOR) == 0)
			continue;
		if (sim_percent(lost))
			__real_pwrite(f->fd, f->shadow + at, SECTOR, at);
		else
			memcpy(f->shadow + at, p + at, SECTOR);
	}
	__real_free(p);
}

void
disk_power_cut(void)
{
	unsigned mood = sim_below(4);

	for (int i = 0; i < FILES; i++) {
		struct file *f = &files[i];
		unsigned lost = mood == 0 ? 100 : mood == 1 ? 0 : 10 + sim_below(81);

		if (!f->used)
			continue;
		cut_sectors(f, lost);
		if (f->shadow != NULL)
			cut_table(f, lost);
		if (f->size != f->synced_size && sim_percent(lost) && !f->gone) {
			f->size = f->synced_size;
			HOLDS(__real_ftruncate(f->fd, (off_t)f->size) == 0, "a file cannot be cut");
			if (f->shadow != NULL && f->size < SHADOW)
				memset(f->shadow + f->size, 0, SHADOW - f->size);
		}
		/* A write into a sector behind the end may have made the file longer than it says.
		 */
		HOLDS(__real_ftruncate(f->fd, (off_t)f->size) == 0, "a file cannot be cut");
		f->synced_size = f->size;
	}
	cut_names();
	HOLDS(n_unsynced == 0, "sectors are left over");
}

void
disk_write_back(void)
{
	struct file *f = &files[sim_below(FILES)];
	unsigned slot = sim_below(24);
	unsigned char p[CLAIM_SLOT_BYTES];
	size_t at = 4096 + (size_t)slot * CLAIM_SLOT_BYTES;

	if (!f->used || f->shadow == NULL)
		return;
	if (pread(f->fd, p, sizeof p, (off_t)at) == (ssize_t)sizeof p)
		memcpy(f->shadow + at, p, sizeof p);
}

unsigned
disk_unsynced(void)
{
	return n_unsynced;
}

uint64_t
disk_errors(void)
{
	return n_errors;
}

void
disk_begin(const char *path, unsigned rate)
{
	root = path;
	error_rate = rate;
	n_changes = 0;
	next_trash = 0;
}

void
disk_end(void)
{
	disk_kill();
	while (n_changes > 0)
		drop_change(0, true);
	for (int i = 0; i < FILES; i++) {
		if (!files[i].used)
			continue;
		clean_all(&files[i]);
		files[i].gone = true;
		files[i].refs = 0;
		forget_if_unused(&files[i]);
	}
	for (int i = 3; i < FDS_MAX; i++) {
		if (fds[i].used)
			__wrap_close(i);
	}
}
