/* conf_scan: one file before libconfig reads it: its grammar, checked with better words than the
 * library has, and the line of every setting, exact ones this time.
 *
 * The library gets only what it will take: a file with a syntax error is cut behind the last whole
 * value and its brackets are closed, a name that stands twice is renamed, @include and NUL never
 * reach it. So its own error paths, which leak and worse, are not entered. Integers that it would
 * wrap silently are reported here too. */
#pragma once

#include "common/base/mem.h"
#include "common/conf/conf_msgs.h"

#define CONF_DEPTH_MAX       32   /* brackets inside brackets */
#define CONF_GROUP_NAMES_MAX 2000 /* settings of one group */

/* What is known of a setting, in the order of the file: names of groups, elements of lists. */
struct conf_mark {
	unsigned line;
	bool twice;   /* the name stands in this group already: reported, renamed, to be skipped */
	bool bad_int; /* an integer in the value does not fit: reported, not to be judged */
};

struct conf_scan {
	char *text;    /* for the library: NUL-terminated, always of its grammar */
	unsigned line; /* of the syntax error that was reported, 0: none; nothing behind it is known
			*/
	unsigned open; /* brackets that were open there */
	struct conf_mark *marks;
	size_t n_marks, cap_marks;
};

/* `content` is borrowed for the call only. Messages name `file`. */
void conf_scan(struct conf_scan *s, struct slice content, unsigned file, struct conf_msgs *m);
void conf_scan_clear(struct conf_scan *s);
