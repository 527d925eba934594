#include "common/base/err.h"

#include <errno.h>

static const char *const texts[] = {
	[E_OK] = "ok",
#define X(name, text) [E_##name] = text,
	ERR_TABLE(X)
#undef X
};

int
err_errno(void)
{
	switch (errno) {
	case EIO:
		return E_IO;
	case ENOSPC:
	case EDQUOT:
	case ENOBUFS:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
		return E_FULL;
	case EAGAIN:
	case EINPROGRESS:
	case EINTR:
		return E_AGAIN;
	case ENOENT:
		return E_MISSING;
	case EEXIST:
		return E_EXISTS;
	case EACCES:
	case EPERM:
		return E_DENIED;
	case EPIPE:
	case ECONNRESET:
	case ECONNABORTED:
		return E_CLOSED;
	case ETIMEDOUT:
		return E_TIMEOUT;
	case ECONNREFUSED:
		return E_REFUSED;
	case EHOSTUNREACH:
	case ENETUNREACH:
	case EADDRNOTAVAIL:
		return E_UNREACHABLE;
	default:
		return E_SYSTEM;
	}
}

const char *
err_text(int rc)
{
	int n = rc < 0 ? -rc : rc;

	if (n >= (int)(sizeof texts / sizeof texts[0]))
		return "unknown error";
	return texts[n];
}
