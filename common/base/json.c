#include "common/base/json.h"

#include <inttypes.h>

#include "common/base/clock.h"

void
json_init(struct json *j, struct buf *out)
{
	j->out = out;
	j->comma = false;
}

static void
before_value(struct json *j)
{
	if (j->comma)
		buf_putc(j->out, ',');
	j->comma = true;
}

static void
open_with(struct json *j, char c)
{
	before_value(j);
	buf_putc(j->out, c);
	j->comma = false;
}

static void
close_with(struct json *j, char c)
{
	buf_putc(j->out, c);
	j->comma = true;
}

void
json_object_begin(struct json *j)
{
	open_with(j, '{');
}

void
json_object_end(struct json *j)
{
	close_with(j, '}');
}

void
json_array_begin(struct json *j)
{
	open_with(j, '[');
}

void
json_array_end(struct json *j)
{
	close_with(j, ']');
}

void
json_key(struct json *j, const char *key)
{
	before_value(j);
	buf_putc(j->out, '"');
	buf_puts(j->out, key);
	buf_puts(j->out, "\":");
	j->comma = false;
}

/* Bytes of the valid UTF-8 sequence at p (RFC 3629), 0 when it is none. */
static size_t
utf8_length(const unsigned char *p, size_t n)
{
	size_t want;
	uint32_t c;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		want = 2, c = p[0] & 0x1f;
	else if ((p[0] & 0xf0) == 0xe0)
		want = 3, c = p[0] & 0x0f;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		want = 4, c = p[0] & 0x07;
	else
		return 0;
	if (n < want)
		return 0;
	for (size_t i = 1; i < want; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if ((want == 3 && c < 0x800) || (want == 4 && (c < 0x10000 || c > 0x10ffff)))
		return 0;
	if (c >= 0xd800 && c <= 0xdfff)
		return 0;
	return want;
}

void
json_string(struct json *j, struct slice s)
{
	const unsigned char *p = (const unsigned char *)s.p;

	before_value(j);
	buf_putc(j->out, '"');
	for (size_t i = 0; i < s.n;) {
		size_t n = utf8_length(p + i, s.n - i);

		if (n == 0) {
			buf_puts(j->out, "\xef\xbf\xbd");
			i++;
		} else if (n > 1) {
			buf_put(j->out, p + i, n);
			i += n;
		} else {
			if (p[i] == '"' || p[i] == '\\')
				buf_printf(j->out, "\\%c", p[i]);
			else if (p[i] < 0x20 || p[i] == 0x7f)
				buf_printf(j->out, "\\u%04x", p[i]);
			else
				buf_putc(j->out, (char)p[i]);
			i++;
		}
	}
	buf_putc(j->out, '"');
}

void
json_u64(struct json *j, uint64_t v)
{
	before_value(j);
	buf_printf(j->out, "%" PRIu64, v);
}

void
json_i64(struct json *j, int64_t v)
{
	before_value(j);
	buf_printf(j->out, "%" PRId64, v);
}

void
json_bool(struct json *j, bool v)
{
	before_value(j);
	buf_puts(j->out, v ? "true" : "false");
}

void
json_null(struct json *j)
{
	before_value(j);
	buf_puts(j->out, "null");
}

void
json_key_string(struct json *j, const char *key, struct slice s)
{
	json_key(j, key);
	json_string(j, s);
}

void
json_key_str(struct json *j, const char *key, const char *s)
{
	json_key(j, key);
	if (s == NULL)
		json_null(j);
	else
		json_string(j, slice_str(s));
}

void
json_key_u64(struct json *j, const char *key, uint64_t v)
{
	json_key(j, key);
	json_u64(j, v);
}

void
json_key_bool(struct json *j, const char *key, bool v)
{
	json_key(j, key);
	json_bool(j, v);
}

void
json_key_time(struct json *j, const char *key, uint64_t wall_us)
{
	char iso[CLOCK_ISO_BYTES];

	json_key(j, key);
	if (wall_us == 0)
		json_null(j);
	else
		json_string(j, slice_str(clock_iso(iso, wall_us)));
}
