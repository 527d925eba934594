#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/queue/segment_file.h"

int
segment_source_open(int dir, uint32_t number, uint64_t epoch, const unsigned char instance[16])
{
	struct segment_info info;
	int fd = segment_file_open(dir, number, O_RDONLY, instance, &info);

	if (fd >= 0 && info.epoch != epoch) {
		close(fd);
		return -E_MISSING;
	}
	return fd;
}

/* By pread, not from a map: a disk that cannot read says so, it sends no signal. */
static int
read_all(int fd, char *dst, size_t n, uint64_t at)
{
	while (n > 0) {
		ssize_t got = pread(fd, dst, n, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -err_errno() : -E_FORMAT;
		dst += got;
		n -= (size_t)got;
		at += (size_t)got;
	}
	return 0;
}

static int
read_record(int source, uint64_t epoch, uint64_t offset, msg_id_t id, uint64_t most,
	    struct buf *out)
{
	char head[RECORD_HEADER_BYTES];
	struct record_header h;
	struct record rec;
	int rc = read_all(source, head, sizeof head, offset);

	if (rc == 0)
		rc = record_header_decode(slice_of(head, sizeof head), &h);
	if (rc != 0)
		return rc;
	if (h.total_bytes > most)
		return -E_TOO_BIG;
	buf_reset(out);
	rc = read_all(source, buf_room(out, h.total_bytes), h.total_bytes, offset);
	if (rc != 0)
		return rc;
	buf_added(out, h.total_bytes);
	rc = record_decode(&rec, buf_slice(out), epoch, id);
	if (rc == 0)
		record_clear(&rec);
	return rc;
}

int64_t
segment_copy(struct segment_writer *w, int source, uint64_t epoch, uint64_t offset, msg_id_t id,
	     struct buf *scratch)
{
	struct iovec iov;
	int rc = read_record(source, epoch, offset, id, w->info.bytes - w->end, scratch);

	if (rc != 0)
		return rc;
	iov = (struct iovec){ scratch->data + scratch->start, scratch->len };
	record_stamp(iov.iov_base, w->info.epoch);
	return segment_append(w, &iov, 1);
}
