#include "common/base/str.h"

#include <strings.h>

bool
slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static unsigned char
lower(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? (unsigned char)(c + 32) : c;
}

bool
slice_eq_nocase(struct slice a, struct slice b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++) {
		if (lower((unsigned char)a.p[i]) != lower((unsigned char)b.p[i]))
			return false;
	}
	return true;
}

bool
slice_is(struct slice a, const char *s)
{
	return slice_eq(a, slice_str(s));
}

bool
slice_starts_nocase(struct slice a, const char *prefix)
{
	size_t n = strlen(prefix);

	return a.n >= n && slice_eq_nocase(slice_of(a.p, n), slice_of(prefix, n));
}

int
slice_cmp(struct slice a, struct slice b)
{
	size_t n = a.n < b.n ? a.n : b.n;
	int c = n ? memcmp(a.p, b.p, n) : 0;

	if (c != 0)
		return c;
	return a.n < b.n ? -1 : a.n > b.n;
}

struct slice
slice_trim(struct slice a)
{
	while (a.n > 0 && (a.p[0] == ' ' || a.p[0] == '\t')) {
		a.p++;
		a.n--;
	}
	while (a.n > 0 && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t'))
		a.n--;
	return a;
}

struct slice
slice_sub(struct slice a, size_t from)
{
	if (from >= a.n)
		return slice_of(a.p ? a.p + a.n : NULL, 0);
	return slice_of(a.p + from, a.n - from);
}

struct slice
slice_cut(struct slice *rest, char c)
{
	struct slice all = *rest;
	const char *hit = all.n ? memchr(all.p, c, all.n) : NULL;

	if (hit == NULL) {
		*rest = SLICE_NONE;
		return all;
	}
	*rest = slice_of(hit + 1, all.n - (size_t)(hit - all.p) - 1);
	return slice_of(all.p, (size_t)(hit - all.p));
}

bool
slice_u64(struct slice a, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (a.n == 0)
		return false;
	for (size_t i = 0; i < a.n; i++) {
		unsigned d = (unsigned char)a.p[i] - (unsigned)'0';

		if (d > 9 || v > (UINT64_MAX - d) / 10)
			return false;
		v = v * 10 + d;
		if (v > max)
			return false;
	}
	*out = v;
	return true;
}

void
str_lower(char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (char)lower((unsigned char)p[i]);
}

void
str_copy(char *dst, size_t bytes, struct slice src)
{
	size_t n = src.n < bytes - 1 ? src.n : bytes - 1;

	if (n > 0)
		memcpy(dst, src.p, n);
	dst[n] = '\0';
}

const char *
str_escape(char *dst, size_t bytes, struct slice src)
{
	static const char hex[] = "0123456789abcdef";
	size_t o = 0;

	for (size_t i = 0; i < src.n; i++) {
		unsigned char c = (unsigned char)src.p[i];

		if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
			if (o + 2 > bytes)
				break;
			dst[o++] = (char)c;
			continue;
		}
		if (o + 5 > bytes)
			break;
		dst[o++] = '\\';
		dst[o++] = 'x';
		dst[o++] = hex[c >> 4];
		dst[o++] = hex[c & 15];
	}
	dst[o] = '\0';
	return dst;
}
