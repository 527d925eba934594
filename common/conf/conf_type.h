/* conf_type: a raw value of the file turned into the typed value that its directive wants. */
#pragma once

#include "common/conf/conf_msgs.h"
#include "common/conf/conf_tree.h"

enum conf_raw_kind {
	CONF_RAW_BOOL,
	CONF_RAW_INT,
	CONF_RAW_FLOAT,
	CONF_RAW_STRING,
	CONF_RAW_STRINGS, /* array or list of strings only */
	CONF_RAW_OTHER,   /* a group, a list of something else */
};

struct conf_raw {
	enum conf_raw_kind kind;
	bool flag;
	long long number;
	const char *string;
	struct conf_strings list; /* borrowed */
};

/* Where the value stands, for messages. */
struct conf_place {
	struct conf_arena *arena;
	struct conf_msgs *msgs;
	const struct conf_block *block;
	unsigned file, line;
};

/* Checks `raw` and fills *out (all but its place in the block). False when an error was reported.
 * Strings are copied into the arena. */
bool conf_type_value(struct conf_place *p, const struct conf_directive *d,
		     const struct conf_raw *raw, struct conf_value *out);

/* The typed default of `d`; false when it has none. A default that is not of its type is our bug.
 */
bool conf_type_default(struct conf_arena *a, const struct conf_directive *d,
		       struct conf_value *out);

/* "domain "a.b": max-msg-rate" and the like, for messages about a directive in a block. */
const char *conf_place_name(const struct conf_block *b, const struct conf_directive *d, char *out,
			    size_t bytes);

/* A domain or domain pattern without macros: lower-cased into `out` without the root's dot; false
 * when it is none. */
#define CONF_PATTERN_MAX 300
bool conf_type_pattern(struct slice s, char out[CONF_PATTERN_MAX]);
/* Where in "CIDR VALUE" the value begins; false when there is no blank. */
bool conf_type_pair(struct slice s, struct slice *first, struct slice *second);
