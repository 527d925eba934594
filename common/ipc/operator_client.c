/* The client's side of operator.h. */
#include "common/ipc/operator.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/wire.h"

#define HEAD_BYTES   12
#define ANSWER_BYTES (1u << 30) /* the longest JSON text that is collected */

/* Addresses ---------------------------------------------------------------------------------------
 */

/* A socket's name has room for 107 bytes; a longer path is reached through its open directory. */
int
operator_address(struct sockaddr_un *out, const char *path, int *dir_fd)
{
	const char *slash = strrchr(path, '/');
	char *dir;
	int n;

	*dir_fd = -1;
	memset(out, 0, sizeof *out);
	out->sun_family = AF_UNIX;
	if (strlen(path) < sizeof out->sun_path) {
		strcpy(out->sun_path, path);
		return 0;
	}
	if (slash == NULL)
		return -E_TOO_BIG;
	dir = mem_memdup0(path, (size_t)(slash - path) + 1);
	*dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	mem_free(dir);
	if (*dir_fd < 0)
		return -err_errno();
	n = snprintf(out->sun_path, sizeof out->sun_path, "/proc/self/fd/%d%s", *dir_fd, slash);
	if (n < 0 || (size_t)n >= sizeof out->sun_path) {
		close(*dir_fd);
		*dir_fd = -1;
		return -E_TOO_BIG;
	}
	return 0;
}

/* Client ------------------------------------------------------------------------------------------
 */

static int
client_connect(const char *path, unsigned timeout_ms)
{
	struct timeval tv = { timeout_ms / 1000, (suseconds_t)(timeout_ms % 1000) * 1000 };
	struct sockaddr_un addr;
	int dir_fd, fd, rc = operator_address(&addr, path, &dir_fd);

	if (rc != 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		rc = -err_errno();
	} else if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) != 0 ||
		   connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
		rc = errno == EAGAIN ? -E_TIMEOUT : -err_errno();
		close(fd);
	}
	if (dir_fd >= 0)
		close(dir_fd);
	return rc != 0 ? rc : fd;
}

static int
send_request(int fd, const struct slice *words, size_t n)
{
	struct buf payload = { 0 }, frame = { 0 };
	ssize_t sent;
	int rc = 0;

	operator_words_encode(&payload, words, n);
	if (payload.len > OPERATOR_FRAME_MAX - HEAD_BYTES) {
		rc = -E_TOO_BIG;
		goto out;
	}
	operator_encode(&frame, OPERATOR_REQUEST, buf_slice(&payload));
	do {
		sent = send(fd, frame.data + frame.start, frame.len, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		rc = errno == EAGAIN ? -E_TIMEOUT : -err_errno();
out:
	buf_clear(&payload);
	buf_clear(&frame);
	return rc;
}

/* One frame into *frame (of OPERATOR_FRAME_MAX + 1 bytes), within the time. Its length or -E_*. */
static ssize_t
read_frame(int fd, char *frame, unsigned timeout_ms)
{
	uint64_t until = clock_boot_us() + (uint64_t)timeout_ms * 1000;

	for (;;) {
		struct pollfd p = { fd, POLLIN, 0 };
		uint64_t now = clock_boot_us();
		int left = now < until ? (int)((until - now + 999) / 1000) : 0;
		int rc = poll(&p, 1, left);
		ssize_t n;

		if (rc == 0)
			return -E_TIMEOUT;
		if (rc < 0 && errno != EINTR)
			return -err_errno();
		if (rc < 0)
			continue;
		n = recv(fd, frame, OPERATOR_FRAME_MAX + 1, MSG_DONTWAIT);
		if (n > 0)
			return n;
		if (n == 0)
			return -E_CLOSED;
		if (errno != EINTR && errno != EAGAIN)
			return -err_errno();
	}
}

/* 0 to go on, 1 at the end with *code, -E_*. */
static int
take_frame(struct slice bytes, struct buf *json, int *code)
{
	struct operator_frame f;
	struct wire_reader r;
	int rc = operator_decode(&f, bytes);

	if (rc != 0)
		return rc;
	if (f.kind == OPERATOR_DATA) {
		if (json->len + f.payload.n > ANSWER_BYTES)
			return -E_TOO_BIG;
		buf_put_slice(json, f.payload);
		return 0;
	}
	if (f.kind != OPERATOR_END)
		return -E_BAD;
	wire_read_init(&r, f.payload);
	*code = (int)(wire_u32(&r) & 0xff);
	return wire_done(&r) ? 1 : -E_BAD;
}

int
operator_call(const char *socket_path, const struct slice *words, size_t n, unsigned timeout_ms,
	      struct buf *json)
{
	int code = 0, rc, fd = client_connect(socket_path, timeout_ms);
	char *frame;

	if (fd < 0)
		return fd;
	frame = mem_alloc(OPERATOR_FRAME_MAX + 1);
	rc = send_request(fd, words, n);
	while (rc == 0) {
		ssize_t got = read_frame(fd, frame, timeout_ms);

		rc = got < 0 ? (int)got : take_frame(slice_of(frame, (size_t)got), json, &code);
	}
	mem_free(frame);
	close(fd);
	return rc < 0 ? rc : code;
}
