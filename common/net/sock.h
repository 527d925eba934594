/* sock: the few socket calls that the delivery side needs, non-blocking and close-on-exec. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/net/addr.h"
#include "common/net/deny.h"

/* Begins a TCP connection from `source` (family AF_UNSPEC: the kernel chooses; its port is not
 * looked at) to `target`. The deny list is asked here, about the bytes that connect() gets. Ports
 * of the source are chosen at connect time (IP_BIND_ADDRESS_NO_PORT), so that 64,000 connections
 * per target are possible, not per source. The descriptor, connected or under way (wait for it to
 * be writable, then sock_connected()), or -E_DENIED, -E_MISSING (the source address is not here, or
 * of the other family), -E_FULL (descriptors, ports), -E_REFUSED, -E_UNREACHABLE, -E_SYSTEM. */
int sock_connect(const struct addr *source, const struct addr *target,
		 const struct deny_lists *lists);
/* Of a descriptor that became writable: 0, or -E_REFUSED, -E_UNREACHABLE, -E_TIMEOUT, -E_SYSTEM. */
int sock_connected(int fd);
/* The local address of a connected socket; false when it has none. */
bool sock_local(int fd, struct addr *out);

/* Bytes moved (0 is the peer's end of file for reading), or -E_AGAIN, -E_CLOSED, -E_SYSTEM. */
ssize_t sock_read(int fd, void *p, size_t n);
/* `more`: further bytes follow at once, so a short segment may wait for them (MSG_MORE). */
ssize_t sock_write(int fd, const struct iovec *iov, int n, bool more);
/* `count` bytes of the file at *offset, which moves; the end of the file is -E_BAD. */
ssize_t sock_sendfile(int fd, int file, uint64_t *offset, size_t count);

/* A reset instead of a farewell: what the peer still has not read is dropped at once. */
void sock_abort(int fd);
