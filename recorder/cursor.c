#include "recorder/cursor.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/event_log/event_cursor.h"

#define PATH_BYTES 4096

static char *
take_text(struct wire_reader *r)
{
	struct slice s = wire_bytes(r, PATH_BYTES);

	return mem_memdup0(s.p, s.n);
}

static int
decode(struct cursor *c, struct slice rest, uint32_t version)
{
	struct wire_reader r;
	uint32_t n;

	wire_read_init(&r, rest);
	n = wire_u32(&r);
	if (r.bad || n > CURSOR_FILES_MAX)
		return -E_FORMAT;
	c->files = mem_calloc(n, sizeof *c->files);
	for (c->n_files = 0; c->n_files < n; c->n_files++) {
		struct cursor_file *f = &c->files[c->n_files];

		f->key = take_text(&r);
		f->path = take_text(&r);
		f->finished = take_text(&r);
		f->bytes = wire_u64(&r);
		f->opened_wall_us = wire_u64(&r);
	}
	c->next_lsn = version >= 2 ? wire_u64(&r) : 0;
	return wire_done(&r) ? 0 : -E_FORMAT;
}

int
cursor_load(struct cursor *c, int cursors_fd)
{
	struct buf bytes = { 0 };
	struct slice rest;
	uint32_t version;
	int rc;

	memset(c, 0, sizeof *c);
	rc = event_cursor_load(cursors_fd, &bytes, &version, &c->at, &rest);
	if (rc == 0)
		rc = decode(c, rest, version);
	buf_clear(&bytes);
	if (rc != 0)
		cursor_clear(c);
	return rc;
}

static void
encode(struct buf *b, const struct cursor *c)
{
	wire_put_u32(b, EVENT_CURSOR_MAGIC);
	wire_put_u32(b, EVENT_CURSOR_VERSION);
	wire_put_u64(b, c->at.file);
	wire_put_u64(b, c->at.offset);
	wire_put_u32(b, (uint32_t)c->n_files);
	for (size_t i = 0; i < c->n_files; i++) {
		wire_put_bytes(b, slice_str(c->files[i].key));
		wire_put_bytes(b, slice_str(c->files[i].path));
		wire_put_bytes(b, slice_str(c->files[i].finished));
		wire_put_u64(b, c->files[i].bytes);
		wire_put_u64(b, c->files[i].opened_wall_us);
	}
	wire_put_u64(b, c->next_lsn);
	wire_put_u32(b, crc32c(0, b->data + b->start, b->len));
}

int
cursor_save(const struct cursor *c, int cursors_fd)
{
	struct buf b = { 0 };
	int rc = 0;
	int fd = openat(cursors_fd, "acct.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

	if (fd < 0)
		return -err_errno();
	encode(&b, c);
	if (write(fd, b.data + b.start, b.len) != (ssize_t)b.len)
		rc = -E_FULL;
	else if (fdatasync(fd) != 0)
		rc = -err_errno();
	close(fd);
	buf_clear(&b);
	if (rc == 0 &&
	    (renameat(cursors_fd, "acct.new", cursors_fd, EVENT_CURSOR_NAME) != 0 || fsync(cursors_fd) != 0))
		rc = -err_errno();
	return rc;
}

void
cursor_clear(struct cursor *c)
{
	for (size_t i = 0; i < c->n_files; i++) {
		mem_free(c->files[i].key);
		mem_free(c->files[i].path);
		mem_free(c->files[i].finished);
	}
	mem_free(c->files);
	memset(c, 0, sizeof *c);
}
