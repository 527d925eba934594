/* str: slices, bytes with a length and no NUL; the only shape in which foreign text travels. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Borrowed bytes; never owned, never NUL-terminated by promise. */
struct slice {
	const char *p;
	size_t n;
};

#define SLICE_NONE ((struct slice){ NULL, 0 })
/* Of a string literal or array. */
#define SLICE_LIT(s) ((struct slice){ (s), sizeof(s) - 1 })

static inline struct slice
slice_of(const void *p, size_t n)
{
	return (struct slice){ (const char *)p, n };
}

static inline struct slice
slice_str(const char *s)
{
	return (struct slice){ s, s ? strlen(s) : 0 };
}

bool slice_eq(struct slice a, struct slice b);
bool slice_eq_nocase(struct slice a, struct slice b); /* ASCII case only */
bool slice_is(struct slice a, const char *s);
bool slice_starts_nocase(struct slice a, const char *prefix);
int slice_cmp(struct slice a, struct slice b);        /* as memcmp, shorter first */
struct slice slice_trim(struct slice a);              /* blanks and tabs off both ends */
struct slice slice_sub(struct slice a, size_t from);  /* from byte `from`; empty past the end */
/* Cuts *rest at the first `c`: returns what is before it, *rest is what is behind (n = 0 at the
 * end, p = NULL when there is nothing more). */
struct slice slice_cut(struct slice *rest, char c);

/* Decimal, digits only, no sign, whole slice. False on anything else or above `max`. */
bool slice_u64(struct slice a, uint64_t max, uint64_t *out);

/* Lower-cases ASCII letters in place. */
void str_lower(char *p, size_t n);

/* Copies with truncation, always NUL-terminated; `bytes` is the size of dst. */
void str_copy(char *dst, size_t bytes, struct slice src);

/* Writes `src` with every byte outside 0x20..0x7e, and `"` and `\`, as \xNN; always
 * NUL-terminated, truncated to `bytes`. Returns dst. For log lines and JSON-free text. */
const char *str_escape(char *dst, size_t bytes, struct slice src);
