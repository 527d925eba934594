#include "bench/sink/sink_log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/log.h"

#define WRITE_AT (256u << 10)

int
sink_log_open(struct sink_log *l, const char *path)
{
	buf_init(&l->buf);
	l->fd = -1;
	if (path == NULL)
		return 0;
	l->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	return l->fd < 0 ? -err_errno() : 0;
}

void
sink_log_flush(struct sink_log *l)
{
	while (l->buf.len > 0) {
		struct slice s = buf_slice(&l->buf);
		ssize_t n = write(l->fd, s.p, s.n);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			log_error("ledger write failed error=\"%s\"", err_text(err_errno()));
			_exit(1); /* a test bench that cannot write its evidence must not go on */
		}
		buf_consume(&l->buf, (size_t)n);
	}
}

void
sink_log_added(struct sink_log *l)
{
	if (l->fd < 0)
		buf_reset(&l->buf);
	else if (l->buf.len >= WRITE_AT)
		sink_log_flush(l);
}

void
sink_log_close(struct sink_log *l)
{
	if (l->fd < 0)
		return;
	sink_log_flush(l);
	close(l->fd);
	l->fd = -1;
	buf_clear(&l->buf);
}

static bool
is_plain(unsigned char c)
{
	return c > ' ' && c != 0x7f && c != '\\';
}

void
sink_log_field(struct buf *b, struct slice s)
{
	size_t i = 0;

	if (s.n == 0)
		buf_puts(b, "<>");
	while (i < s.n) {
		size_t from = i;

		while (i < s.n && is_plain((unsigned char)s.p[i]))
			i++;
		buf_put(b, s.p + from, i - from);
		if (i < s.n)
			buf_printf(b, "\\x%02x", (unsigned char)s.p[i++]);
	}
}

void
sink_log_u64(struct buf *b, uint64_t v)
{
	char digits[20];
	size_t n = 0;

	do
		digits[sizeof digits - ++n] = (char)('0' + v % 10);
	while ((v /= 10) > 0);
	buf_put(b, digits + sizeof digits - n, n);
}

void
sink_log_hex64(struct buf *b, uint64_t v)
{
	char *p = buf_room(b, 16);

	for (int i = 0; i < 16; i++)
		p[i] = "0123456789abcdef"[v >> (60 - 4 * i) & 15];
	buf_added(b, 16);
}
