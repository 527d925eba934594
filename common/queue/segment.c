#include "common/queue/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/queue/segment_file.h"

#define SEGMENT_MAGIC   0x3147534cu /* "LSG1" */
#define SEGMENT_VERSION 1
#define HEADER_USED     56 /* bytes of the header that mean something, CRC included */

void
segment_name(char name[SEGMENT_NAME_BYTES], uint32_t number)
{
	snprintf(name, SEGMENT_NAME_BYTES, "%08u.seg", number);
}

/* Header, little endian: u32 magic, u16 version, u16 0, u32 number, u32 0, u64 epoch, u64 file
 * bytes, 16 bytes instance, u32 0, u32 CRC32C of the 52 before; zeros up to 4096. Upgrade: new
 * fields follow the CRC with one of their own. */
static void
encode_header(char dst[SEGMENT_HEADER_BYTES], const struct segment_info *info,
	      const unsigned char instance[16])
{
	struct buf b;

	buf_init(&b);
	wire_put_u32(&b, SEGMENT_MAGIC);
	wire_put_u16(&b, SEGMENT_VERSION);
	wire_put_u16(&b, 0);
	wire_put_u32(&b, info->number);
	wire_put_u32(&b, 0);
	wire_put_u64(&b, info->epoch);
	wire_put_u64(&b, info->bytes);
	buf_put(&b, instance, 16);
	wire_put_u32(&b, 0);
	wire_put_u32(&b, crc32c(0, b.data, b.len));
	CHECK(b.len == HEADER_USED);
	memset(dst, 0, SEGMENT_HEADER_BYTES);
	memcpy(dst, b.data, b.len);
	buf_clear(&b);
}

int
segment_header_decode(struct slice s, uint32_t number, const unsigned char instance[16],
		      struct segment_info *out)
{
	struct wire_reader r;
	struct slice id;
	uint32_t magic;
	uint16_t version;

	wire_read_init(&r, slice_of(s.p, s.n < HEADER_USED ? s.n : HEADER_USED));
	magic = wire_u32(&r);
	version = wire_u16(&r);
	wire_u16(&r);
	out->number = wire_u32(&r);
	wire_u32(&r);
	out->epoch = wire_u64(&r);
	out->bytes = wire_u64(&r);
	id = wire_raw(&r, 16);
	wire_u32(&r);
	if (r.bad || crc32c(0, s.p, HEADER_USED - 4) != wire_u32(&r))
		return -E_CRC;
	if (magic != SEGMENT_MAGIC || version != SEGMENT_VERSION || out->number != number)
		return -E_FORMAT;
	if (memcmp(id.p, instance, 16) != 0)
		return -E_FOREIGN;
	return 0;
}

int
segment_file_open(int dir, uint32_t number, int flags, const unsigned char instance[16],
		  struct segment_info *info)
{
	char name[SEGMENT_NAME_BYTES];
	char header[HEADER_USED];
	struct stat st;
	ssize_t n;
	int fd, rc;

	segment_name(name, number);
	fd = openat(dir, name, flags | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	n = pread(fd, header, sizeof header, 0);
	if (n < 0 || fstat(fd, &st) != 0) {
		rc = -err_errno();
	} else {
		rc = segment_header_decode(slice_of(header, (size_t)n), number, instance, info);
		if (rc == 0 && (uint64_t)st.st_size < info->bytes)
			rc = -E_FORMAT; /* cut short: a map of it would fault */
	}
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

struct new_segment {
	struct segment_info info;
	const unsigned char *instance;
	const struct file_pace *pace;
	bool reserve;
};

static int
write_new(int fd, void *arg)
{
	const struct new_segment *n = arg;
	char header[SEGMENT_HEADER_BYTES];
	int rc;

	encode_header(header, &n->info, n->instance);
	rc = file_write(fd, header, sizeof header, 0);
	if (rc != 0)
		return rc;
	if (n->reserve && fallocate(fd, 0, 0, (off_t)n->info.bytes) == 0)
		return 0;
	if (n->reserve && errno != EOPNOTSUPP)
		return -err_errno();
	return file_fill(fd, SEGMENT_HEADER_BYTES, n->info.bytes, n->pace);
}

static int
make_file(int dir, struct new_segment *n)
{
	char name[SEGMENT_NAME_BYTES];

	CHECK(n->info.bytes > SEGMENT_HEADER_BYTES);
	segment_name(name, n->info.number);
	if (faccessat(dir, name, F_OK, 0) == 0)
		return -E_EXISTS;
	return file_make(dir, name, write_new, n);
}

int
segment_create(int dir, uint32_t number, uint64_t bytes, const unsigned char instance[16])
{
	return segment_create_paced(dir, number, bytes, instance, NULL);
}

int
segment_create_paced(int dir, uint32_t number, uint64_t bytes, const unsigned char instance[16],
		     const struct file_pace *pace)
{
	struct new_segment n = { .info = { .number = number, .bytes = bytes },
				 .instance = instance,
				 .pace = pace };

	return make_file(dir, &n);
}

int
segment_reserve(int dir, uint32_t number, uint64_t bytes, const unsigned char instance[16])
{
	struct new_segment n = { .info = { .number = number, .bytes = bytes },
				 .instance = instance,
				 .reserve = true };

	return make_file(dir, &n);
}

int
segment_stamp(int dir, uint32_t number, uint64_t epoch, const unsigned char instance[16])
{
	char header[SEGMENT_HEADER_BYTES];
	struct segment_info info;
	int fd = segment_file_open(dir, number, O_RDWR, instance, &info);
	int rc;

	if (fd < 0)
		return fd;
	CHECK(epoch > info.epoch);
	info.epoch = epoch;
	encode_header(header, &info, instance);
	rc = file_write(fd, header, sizeof header, 0);
	if (rc == 0 && fdatasync(fd) != 0)
		rc = -err_errno();
	close(fd);
	return rc;
}

int
segment_read_info(int dir, uint32_t number, const unsigned char instance[16],
		  struct segment_info *out)
{
	int fd = segment_file_open(dir, number, O_RDONLY, instance, out);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

int
segment_remove(int dir, uint32_t number)
{
	char name[SEGMENT_NAME_BYTES];
	struct stat st;
	int fd;

	segment_name(name, number);
	/* Who still has it mapped keeps the file, not its blocks; and sees that it is no segment. */
	fd = openat(dir, name, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		if (fstat(fd, &st) == 0)
			(void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, st.st_size);
		close(fd);
	}
	if (unlinkat(dir, name, 0) != 0 || fsync(dir) != 0)
		return -err_errno();
	return 0;
}

void
segment_sweep_unfinished(int dir)
{
	struct dirent *de;
	DIR *d;
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return;
	}
	while ((de = readdir(d)) != NULL) {
		size_t n = strlen(de->d_name);

		if (n > 8 && strcmp(de->d_name + n - 8, ".seg.new") == 0)
			(void)unlinkat(dir, de->d_name, 0);
	}
	closedir(d);
}

static int
by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static bool
parse_name(const char *name, uint32_t *number)
{
	char again[SEGMENT_NAME_BYTES];
	size_t n = strlen(name);
	uint64_t v;

	if (n < 12 || !slice_u64(slice_of(name, n - 4), UINT32_MAX, &v))
		return false;
	segment_name(again, (uint32_t)v);
	*number = (uint32_t)v;
	return strcmp(again, name) == 0;
}

int
segment_each(int dir, void (*fn)(void *arg, uint32_t number), void *arg)
{
	uint32_t *numbers = NULL;
	size_t n = 0, cap = 0;
	struct dirent *de;
	uint32_t number;
	DIR *d;
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -err_errno();
	d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return -E_SYSTEM;
	}
	while ((de = readdir(d)) != NULL) {
		if (!parse_name(de->d_name, &number))
			continue;
		mem_grow((void **)&numbers, &cap, n + 1, sizeof *numbers);
		numbers[n++] = number;
	}
	closedir(d);
	/* Called only now: fn may create and remove files. */
	if (n > 0)
		qsort(numbers, n, sizeof *numbers, by_number);
	for (size_t i = 0; i < n; i++)
		fn(arg, numbers[i]);
	mem_free(numbers);
	return 0;
}

int
segment_writer_open(struct segment_writer *w, int dir, uint32_t number, uint64_t epoch,
		    const unsigned char instance[16])
{
	int fd;

	memset(w, 0, sizeof *w);
	w->fd = -1;
	fd = segment_file_open(dir, number, O_RDWR, instance, &w->info);
	if (fd < 0)
		return fd;
	if (w->info.epoch != epoch) {
		close(fd);
		return -E_FORMAT;
	}
	w->fd = fd;
	w->end = SEGMENT_HEADER_BYTES;
	return 0;
}

bool
segment_fits(const struct segment_writer *w, uint64_t bytes)
{
	return bytes <= w->info.bytes - w->end;
}

/* Takes `done` bytes off the front of the vector; empty elements go too. */
static void
advance(struct iovec **iov, int *n, size_t done)
{
	while (*n > 0 && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n > 0) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

int64_t
segment_append(struct segment_writer *w, struct iovec *iov, int n)
{
	uint64_t at = w->end, bytes = 0;

	if (w->failed)
		return -E_IO;
	for (int i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	CHECK(segment_fits(w, bytes));
	advance(&iov, &n, 0);
	while (n > 0) {
		ssize_t done = pwritev(w->fd, iov, n < IOV_MAX ? n : IOV_MAX, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			w->failed = true;
			return done < 0 ? -err_errno() : -E_FULL;
		}
		at += (uint64_t)done;
		advance(&iov, &n, (size_t)done);
	}
	at = w->end;
	w->end += bytes;
	return (int64_t)at;
}

int
segment_sync(struct segment_writer *w)
{
#ifdef NEGATIVE_NO_SEGMENT_SYNC
	(void)w;
	return 0;
#else
	if (w->failed)
		return -E_IO;
	/* After a failed sync the kernel may call the lost pages clean: never ask it again. */
	if (fdatasync(w->fd) != 0) {
		w->failed = true;
		return -err_errno();
	}
	return 0;
#endif
}

void
segment_writer_close(struct segment_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}
