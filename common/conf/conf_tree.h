/* conf_tree: the configuration as blocks with typed values, merged from all files, each value with
 * the file and line it came from. Everything lives in one arena. */
#pragma once

#include "common/conf/conf.h"
#include "common/conf/conf_arena.h"
#include "common/conf/conf_schema.h"

/* A list of strings, NULL-terminated. */
struct conf_strings {
	size_t n;
	const char **s;
	unsigned *lines; /* of each */
};

struct conf_value {
	struct conf_value *next; /* of the same block, in the order of the files */
	const struct conf_directive *d;
	const char *text; /* as written; elements joined by ", " */
	unsigned file, line;
	union {
		bool flag;
		uint64_t number; /* counts, sizes, µs */
		struct conf_rate rate;
		const struct conf_intervals *intervals;
		const char *string;
		const struct conf_strings *strings;
	} v;
};

struct conf_block {
	struct conf_block *next;     /* sibling */
	struct conf_block *parent;   /* NULL: the root, which is the global scope */
	struct conf_block *children; /* in the order of the files, all scopes mixed */
	struct conf_block *last_child;
	struct conf_value *values;
	struct conf_value *last_value;
	enum conf_scope_id scope;
	const char *key; /* NULL where blocks have none */
	unsigned file, line;
	bool dead;   /* without a usable key: read for its errors only, no child of anyone */
	const struct conf_source_limits *source_limits; /* of a domain, see conf_limits; NULL: none */
	unsigned id; /* place among its siblings of the same scope, see conf_build */
};

struct conf_block *conf_block_new(struct conf_arena *a, struct conf_block *parent,
				  enum conf_scope_id scope);
/* Puts it behind the other children of its parent. */
void conf_block_attach(struct conf_block *b);

/* The next block of `scope` at `b` or behind it. */
struct conf_block *conf_block_skip(struct conf_block *b, enum conf_scope_id scope);
#define CONF_EACH(b, parent_, scope_)                                                              \
	for (struct conf_block *b = conf_block_skip((parent_)->children, scope_); b != NULL;       \
	     b = conf_block_skip(b->next, scope_))

/* The value of a directive, or NULL. */
struct conf_value *conf_block_value(const struct conf_block *b, const struct conf_directive *d);
/* By name; the name must be in the schema of the block's scope. */
struct conf_value *conf_block_get(const struct conf_block *b, const char *name);
/* Puts `v` (copied) into the block, in place of an older one of the same directive. */
struct conf_value *conf_block_set(struct conf_arena *a, struct conf_block *b,
				  const struct conf_value *v);
