#include "master/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/str.h"

static struct sockaddr_un address;
static socklen_t address_bytes;
static uint64_t watchdog_us;

void
notify_init(void)
{
	const char *path = getenv("NOTIFY_SOCKET"), *watchdog = getenv("WATCHDOG_USEC");
	size_t n = path != NULL ? strlen(path) : 0;

	address_bytes = 0;
	if (n > 1 && n < sizeof address.sun_path && (path[0] == '/' || path[0] == '@')) {
		address.sun_family = AF_UNIX;
		memcpy(address.sun_path, path, n);
		if (path[0] == '@')
			address.sun_path[0] = '\0'; /* an abstract name */
		address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	}
	watchdog_us = 0;
	if (watchdog == NULL || !slice_u64(slice_str(watchdog), UINT64_MAX / 2, &watchdog_us))
		watchdog_us = 0;
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
}

void
notify_send(const char *state)
{
	int fd;

	if (address_bytes == 0)
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	(void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address,
		     address_bytes);
	close(fd);
}

uint64_t
notify_watchdog_us(void)
{
	return watchdog_us / 2;
}
