/* pattern: one regular expression of the configuration (PCRE2), whose matching no text can make
 * slow.
 *
 * Searched, not anchored, in bytes; letters of ASCII match in both cases unless (?-i) stands in it.
 * The first try is PCRE2's, under a limit of steps; a pattern that runs into it is asked again by
 * an automaton, whose states are bounded: 0.2 s for the worst of 512 bytes. What even that cannot settle (back-references in a text made for it) is no match, and
 * counted.
 *
 * Not for threads: matching works in one room for the whole process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"

#define PATTERN_BYTES_MAX  4096
#define PATTERN_GROUPS_MAX 8

struct pattern; /* opaque */

/* What a pattern's groups took, in their order; empty where one took no part. Borrowed from the
 * text. */
struct pattern_groups {
	unsigned n;
	struct slice at[PATTERN_GROUPS_MAX];
};

/* 0, or -E_BAD with why (and at which byte) on one line in *why. */
int pattern_check(struct slice re, struct buf *why);
/* The same, ready to match; the caller owns *out. `why` may be NULL. */
int pattern_new(struct pattern **out, struct slice re, struct buf *why);
void pattern_free(struct pattern **p); /* *p becomes NULL; NULL is fine */

/* Is it in the text? `groups` (or NULL) is filled when it is; the automaton knows of no groups and
 * is not asked then. */
bool pattern_match(struct pattern *p, struct slice text, struct pattern_groups *groups);

/* How many searches of this process ended without an answer. */
uint64_t pattern_given_up(void);
