/* checker: reads and checks the configuration in a child of its own: what breaks on it is not the
 * daemon. */
#pragma once

#include <sys/types.h>

#include "common/base/buf.h"

enum checker_verdict {
	CHECKER_GOOD,
	CHECKER_WRONG,  /* has errors, or the checker died of it */
	CHECKER_FAILED, /* could not be checked: no memory, no process */
};

/* In two steps, for who does other things meanwhile: begin, and end with the status of the reaped
 * child. */
struct checker {
	pid_t pid; /* 0: none runs */
	const char *path;
	int fd, report_fd;
};
/* 0 or -E_*. `path` is borrowed. */
int checker_begin(struct checker *c, const char *path);
enum checker_verdict checker_end(struct checker *c, int status, int *snapshot_fd,
				 struct buf *report);

/* Reads `path` with what it includes. *report gets the lines to print (errors, warnings), in all
 * cases. With CHECKER_GOOD *snapshot_fd is a sealed memfd of the very bytes that were checked, and of what was compiled
 * of its rules. */
enum checker_verdict checker_run(const char *path, int *snapshot_fd, struct buf *report);
