/* conf_msgs: errors and warnings of one parse, gathered, then printed in order of file and line. */
#pragma once

#include "common/conf/conf.h"

struct conf_msgs {
	struct conf_msg *v;
	size_t n, cap;
	unsigned n_errors, n_warnings;
};

/* `file` is the number of the file in the snapshot. Control bytes in the text are escaped. */
void conf_msgs_error(struct conf_msgs *m, unsigned file, unsigned line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void conf_msgs_warn(struct conf_msgs *m, unsigned file, unsigned line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The text of the first error, without a place, into *out. Empties *m. */
void conf_msgs_first(struct conf_msgs *m, struct buf *out);
/* Sorts and appends to *r; `names` are the files' names. Empties *m. */
void conf_msgs_flush(struct conf_msgs *m, const char *const *names, struct conf_report *r);
