/* reload_answer: what the master tells the scheduler of a reload that an operator asked for, in a
 * memfd.
 *
 * u32 status, then message and data with their lengths (common/base/wire.h). */
#pragma once

#include <stdint.h>

#include "common/base/buf.h"

struct reload_answer {
	uint32_t status;      /* 0: the new configuration is in force, 1: refused, the old one is */
	struct slice message; /* one line */
	struct slice data;    /* members of the answer's data object, as JSON without the braces */
};

/* A memfd that holds it, or -E_*. */
int reload_answer_write(const struct reload_answer *a);
/* Reads what `fd` holds into *text, from which *a borrows. 0 or -E_*. */
int reload_answer_read(struct reload_answer *a, int fd, struct buf *text);
