/* pattern_engine: what a matcher of many patterns at once has to offer. */
#pragma once

#include "common/pattern/pattern_set.h"

/* How far the engine can be trusted with a pattern. */
enum pattern_grade {
	PATTERN_SURE,   /* a hit is a match */
	PATTERN_MAYBE,  /* no hit is no match; a hit has to be confirmed */
	PATTERN_ALWAYS, /* it does not know this pattern: always a candidate */
	PATTERN_GRADES,
};

struct pattern_engine {
	const char *name;
	/* Grades all `n` patterns and makes *db of those that are not ALWAYS; NULL when there is
	 * none such. */
	void (*compile)(const struct slice *patterns, size_t n, uint8_t *grades, void **db);
	void (*save)(const void *db, struct buf *out);
	int (*load)(struct slice saved, void **db); /* 0 or -E_BAD */
	/* Sets the bit of each pattern hit. */
	void (*scan)(const void *db, struct slice text, uint64_t *bits);
	void (*free)(void *db);
};
