#include "common/event_log/event_file.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/base/wire.h"

#define FILE_MAGIC   0x3156454cu /* "LEV1" */
#define FILE_VERSION 1
#define HEADER_USED  60

#define FRAME_MAGIC_TEXT "ENT1"

void
event_file_name(char name[EVENT_NAME_BYTES], uint64_t number)
{
	snprintf(name, EVENT_NAME_BYTES, "%012" PRIu64 ".log", number);
}

static bool
parse_name(const char *name, uint64_t *number)
{
	char again[EVENT_NAME_BYTES];
	size_t n = strlen(name);

	if (n < 16 || !slice_u64(slice_of(name, n - 4), UINT64_MAX, number))
		return false;
	event_file_name(again, *number);
	return strcmp(again, name) == 0;
}

static int
by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int
event_file_each(int dir, void (*fn)(void *arg, uint64_t number), void *arg)
{
	uint64_t *numbers = NULL, number;
	size_t n = 0, cap = 0;
	struct dirent *de;
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
	if (n > 0)
		qsort(numbers, n, sizeof *numbers, by_number);
	for (size_t i = 0; i < n; i++)
		fn(arg, numbers[i]);
	mem_free(numbers);
	return 0;
}

/* Header, little endian: u32 magic, u32 version, u64 number, u64 file bytes, 16 bytes instance, 16
 * bytes boot id, u32 CRC32C of the 56 before; zeros up to 4096. A file holds events of one boot.
 * Upgrade: new fields follow the CRC with one of their own. */
int
event_file_stamp(int fd, const struct event_file_header *h, const unsigned char instance[16])
{
	char block[EVENT_FILE_HEADER_BYTES] = { 0 };
	struct buf b;

	buf_init(&b);
	wire_put_u32(&b, FILE_MAGIC);
	wire_put_u32(&b, FILE_VERSION);
	wire_put_u64(&b, h->number);
	wire_put_u64(&b, h->bytes);
	buf_put(&b, instance, 16);
	buf_put(&b, h->boot_id, 16);
	wire_put_u32(&b, crc32c(0, b.data, b.len));
	CHECK(b.len == HEADER_USED);
	memcpy(block, b.data, b.len);
	buf_clear(&b);
	return file_write(fd, block, sizeof block, 0);
}

static int
header_decode(struct slice s, uint64_t number, const unsigned char instance[16],
	      struct event_file_header *out)
{
	struct wire_reader r;
	struct slice id, boot;
	uint32_t magic, version;

	wire_read_init(&r, s);
	magic = wire_u32(&r);
	version = wire_u32(&r);
	out->number = wire_u64(&r);
	out->bytes = wire_u64(&r);
	id = wire_raw(&r, 16);
	boot = wire_raw(&r, 16);
	if (r.bad || crc32c(0, s.p, HEADER_USED - 4) != wire_u32(&r) || r.bad)
		return -E_CRC;
	if (magic != FILE_MAGIC || version != FILE_VERSION)
		return -E_FORMAT;
	if (memcmp(id.p, instance, 16) != 0)
		return -E_FOREIGN;
	if (out->number != number)
		return -E_MISSING;
	memcpy(out->boot_id, boot.p, 16);
	return 0;
}

int
event_file_open(int dir, uint64_t number, int flags, const unsigned char instance[16],
		struct event_file_header *out)
{
	char name[EVENT_NAME_BYTES], head[HEADER_USED];
	struct stat st;
	ssize_t n;
	int fd, rc;

	event_file_name(name, number);
	fd = openat(dir, name, flags | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	n = pread(fd, head, sizeof head, 0);
	if (n < 0 || fstat(fd, &st) != 0)
		rc = -err_errno();
	else
		rc = header_decode(slice_of(head, (size_t)n), number, instance, out);
	/* Cut short it would fault when mapped. */
	if (rc == 0 && ((uint64_t)st.st_size < out->bytes || out->bytes < EVENT_FILE_HEADER_BYTES))
		rc = -E_FORMAT;
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

struct new_file {
	const struct event_file_header *header;
	const unsigned char *instance;
};

static int
write_new(int fd, void *arg)
{
	const struct new_file *n = arg;
	int rc = event_file_stamp(fd, n->header, n->instance);

	return rc != 0 ? rc : file_fill(fd, EVENT_FILE_HEADER_BYTES, n->header->bytes, NULL);
}

int
event_file_create(int dir, const struct event_file_header *h, const unsigned char instance[16])
{
	struct new_file n = { h, instance };
	char name[EVENT_NAME_BYTES];

	event_file_name(name, h->number);
	return file_make(dir, name, write_new, &n);
}

uint32_t
event_frame_seed(const unsigned char instance[16])
{
	return crc32c(0, instance, 16);
}

/* Frame: magic, u32 payload bytes, u64 lsn, u64 file number, u64 batch, payload, u32 CRC32C of all
 * before, zeros up to a multiple of 16. */
size_t
event_frame_begin(struct buf *b, uint64_t lsn, uint64_t batch, uint64_t file)
{
	size_t mark = b->len;

	CHECK(mark % EVENT_ALIGN == 0);
	buf_put(b, FRAME_MAGIC_TEXT, 4);
	wire_put_u32(b, 0);
	wire_put_u64(b, lsn);
	wire_put_u64(b, file);
	wire_put_u64(b, batch);
	return mark;
}

void
event_frame_end(struct buf *b, size_t mark, uint32_t seed)
{
	static const char zeros[EVENT_ALIGN];
	size_t payload = b->len - mark - EVENT_FRAME_HEAD;
	uint32_t n = htole32((uint32_t)payload);
	char *p = b->data + b->start + mark;

	CHECK(payload <= EVENT_BYTES_MAX);
	memcpy(p + 4, &n, 4);
	wire_put_u32(b, crc32c(seed, p, b->len - mark));
	buf_put(b, zeros, -b->len & (EVENT_ALIGN - 1));
}

static uint64_t
frame_bytes(uint64_t payload)
{
	return (EVENT_FRAME_HEAD + payload + 4 + EVENT_ALIGN - 1) & ~(uint64_t)(EVENT_ALIGN - 1);
}

int
event_frame_claims(struct slice s, uint64_t file, struct event_frame *out)
{
	struct wire_reader r;
	uint32_t n;

	/* Asked at every 16 bytes of a file when its end is looked for: the magic decides fast. */
	if (s.n < EVENT_FRAME_HEAD || memcmp(s.p, FRAME_MAGIC_TEXT, 4) != 0)
		return -E_MISSING;
	wire_read_init(&r, s);
	wire_u32(&r);
	n = wire_u32(&r);
	out->lsn = wire_u64(&r);
	if (wire_u64(&r) != file)
		return -E_MISSING;
	out->batch = wire_u64(&r);
	if (n > EVENT_BYTES_MAX)
		return -E_CRC;
	out->payload = wire_raw(&r, n);
	out->bytes = frame_bytes(n);
	return r.bad ? -E_CRC : 0;
}

int
event_frame_decode(struct slice s, uint64_t file, uint32_t seed, struct event_frame *out)
{
	struct wire_reader r;
	size_t n;
	uint32_t crc;
	int rc = event_frame_claims(s, file, out);

	if (rc != 0)
		return rc;
	n = EVENT_FRAME_HEAD + out->payload.n;
	wire_read_init(&r, slice_sub(s, n));
	crc = wire_u32(&r);
	return r.bad || crc32c(seed, s.p, n) != crc ? -E_CRC : 0;
}
