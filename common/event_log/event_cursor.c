#include "common/event_log/event_cursor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/wire.h"

#define BYTES_MAX (16u << 20)

static int
read_all(int cursors_fd, struct buf *bytes)
{
	struct stat st;
	char *p;
	ssize_t n;
	int fd = openat(cursors_fd, EVENT_CURSOR_NAME, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -err_errno();
	if (fstat(fd, &st) != 0 || st.st_size > (off_t)BYTES_MAX) {
		close(fd);
		return -E_FORMAT;
	}
	p = mem_alloc((size_t)st.st_size + 1);
	n = read(fd, p, (size_t)st.st_size);
	close(fd);
	if (n == st.st_size)
		buf_put(bytes, p, (size_t)n);
	mem_free(p);
	return n == st.st_size ? 0 : -E_IO;
}

int
event_cursor_load(int cursors_fd, struct buf *bytes, uint32_t *version, struct event_position *at, struct slice *rest)
{
	struct wire_reader r;
	struct slice s;
	int rc = read_all(cursors_fd, bytes);

	if (rc != 0)
		return rc;
	s = buf_slice(bytes);
	if (s.n < 4)
		return -E_CRC;
	wire_read_init(&r, slice_sub(s, s.n - 4));
	s.n -= 4;
	if (wire_u32(&r) != crc32c(0, s.p, s.n))
		return -E_CRC;
	wire_read_init(&r, s);
	if (wire_u32(&r) != EVENT_CURSOR_MAGIC)
		return -E_FORMAT;
	*version = wire_u32(&r);
	if (*version < 1 || *version > EVENT_CURSOR_VERSION)
		return -E_FORMAT;
	at->file = wire_u64(&r);
	at->offset = wire_u64(&r);
	if (r.bad)
		return -E_FORMAT;
	*rest = wire_raw(&r, wire_left(&r));
	return 0;
}

int
event_cursor_position(int cursors_fd, struct event_position *at, uint64_t *lsn)
{
	struct buf bytes = { 0 };
	struct slice rest;
	uint32_t version;
	int rc = event_cursor_load(cursors_fd, &bytes, &version, at, &rest);

	*lsn = 0;
	if (rc == 0 && version >= 2 && rest.n >= 8) {
		struct wire_reader r;

		wire_read_init(&r, slice_sub(rest, rest.n - 8));
		*lsn = wire_u64(&r);
	}
	buf_clear(&bytes);
	return rc;
}
