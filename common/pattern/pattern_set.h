/* pattern_set: many patterns searched in one text at once.
 *
 * With an engine (Vectorscan) one pass over the text names the candidates; without one every
 * pattern is a candidate. Candidates are sure, or have to be confirmed one by one by PCRE2: what
 * comes out is the same either way. Compiling takes the engine hundreds of milliseconds, so what it
 * compiled can be saved and loaded.
 *
 * Not for threads: scanning works in one room for the whole process. */
#pragma once

#include "common/pattern/pattern.h"

struct pattern_set; /* opaque */

struct pattern_engine; /* opaque: see pattern_engine.h */
/* NULL: built without it, or not for this machine. Naming it links the library. */
const struct pattern_engine *pattern_vectorscan(void);

/* The patterns, which pattern_check() takes, are borrowed for the call. `engine` may be NULL. */
struct pattern_set *pattern_set_new(const struct slice *patterns, size_t n,
				    const struct pattern_engine *engine);
void pattern_set_free(struct pattern_set **s);

/* Appends what the engine made; nothing that would have to be trusted when it came from elsewhere.
 */
void pattern_set_save(const struct pattern_set *s, struct buf *out);
/* The set of the same patterns, engine and machine, from those bytes: 0 or -E_BAD. */
int pattern_set_load(struct pattern_set **out, const struct slice *patterns, size_t n,
		     const struct pattern_engine *engine, struct slice saved);

/* The engine's name, "pcre2" without one; with how many of the patterns it needs no help. */
const char *pattern_set_engine(const struct pattern_set *s, size_t *sure);

/* The first candidate at `from` or behind it of the text last scanned, -1 when there is none. */
void pattern_set_scan(struct pattern_set *s, struct slice text);
long pattern_set_candidate(const struct pattern_set *s, size_t from);
/* Whether candidate `i` is in that text. */
bool pattern_set_confirm(struct pattern_set *s, size_t i, struct slice text);
/* The groups of pattern `i` in the text; none when it is not in it. */
void pattern_set_groups(struct pattern_set *s, size_t i, struct slice text,
			struct pattern_groups *groups);
