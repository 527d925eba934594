/* err: the world's failures as small negative numbers; errno never crosses a module border. */
#pragma once

#define ERR_TABLE(X)                                                                               \
	X(IO, "input/output error")                                                                \
	X(FULL, "no room left")                                                                    \
	X(AGAIN, "not now, try again")                                                             \
	X(BAD, "malformed")                                                                        \
	X(CRC, "checksum does not match")                                                          \
	X(FORMAT, "unknown format or version")                                                     \
	X(FOREIGN, "belongs to another instance")                                                  \
	X(LOCKED, "in use by another process")                                                     \
	X(MISSING, "not found")                                                                    \
	X(EXISTS, "exists already")                                                                \
	X(DENIED, "not permitted")                                                                 \
	X(TOO_BIG, "too large")                                                                    \
	X(CLOSED, "closed by the other side")                                                      \
	X(TIMEOUT, "timed out")                                                                    \
	X(UNREACHABLE, "unreachable")                                                              \
	X(REFUSED, "refused")                                                                      \
	X(SYSTEM, "system call failed")

enum err {
	E_OK = 0,
#define X(name, text) E_##name,
	ERR_TABLE(X)
#undef X
};

/* The E_* (positive; callers return `-E_*`) that stands for the present errno, never E_OK. */
int err_errno(void);

/* A short lower-case text for `rc` (either sign); static storage. */
const char *err_text(int rc);
