#include "common/proc/reload_answer.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/wire.h"

#define ANSWER_BYTES_MAX (8u << 20)

int
reload_answer_write(const struct reload_answer *a)
{
	struct buf b = { 0 };
	int fd = memfd_create("sluice-reload", MFD_CLOEXEC), rc = fd;

	if (fd < 0)
		return -err_errno();
	wire_put_u32(&b, a->status);
	wire_put_bytes(&b, a->message);
	wire_put_bytes(&b, a->data);
	if (write(fd, b.data + b.start, b.len) != (ssize_t)b.len) {
		rc = -E_SYSTEM; /* no memory */
		close(fd);
	}
	buf_clear(&b);
	return rc;
}

int
reload_answer_read(struct reload_answer *a, int fd, struct buf *text)
{
	struct wire_reader r;
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) != 0)
		return -err_errno();
	if (st.st_size <= 0 || st.st_size > ANSWER_BYTES_MAX)
		return -E_BAD;
	n = pread(fd, buf_room(text, (size_t)st.st_size), (size_t)st.st_size, 0);
	if (n != st.st_size)
		return -E_BAD;
	buf_added(text, (size_t)n);
	wire_read_init(&r, buf_slice(text));
	a->status = wire_u32(&r);
	a->message = wire_bytes(&r, ANSWER_BYTES_MAX);
	a->data = wire_bytes(&r, ANSWER_BYTES_MAX);
	return wire_done(&r) ? 0 : -E_BAD;
}
