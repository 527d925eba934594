/* The floor everything stands on: slices, buffers, wire fields, checksums, ids, clocks, JSON text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/ids.h"
#include "common/base/json.h"
#include "common/base/wire.h"

static void
slices(void **state)
{
	static const struct {
		const char *text;
		uint64_t max;
		bool good;
		uint64_t value;
	} numbers[] = {
		{ "0", 9, true, 0 },
		{ "9", 9, true, 9 },
		{ "10", 9, false, 0 },
		{ "", 9, false, 0 },
		{ "1 ", 9, false, 0 },
		{ "-1", 9, false, 0 },
		{ "18446744073709551615", UINT64_MAX, true, UINT64_MAX },
		{ "18446744073709551616", UINT64_MAX, false, 0 },
		{ "99999999999999999999", UINT64_MAX, false, 0 },
	};
	struct slice rest = SLICE_LIT("a,,b");
	uint64_t v;

	(void)state;
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		assert_int_equal(slice_u64(slice_str(numbers[i].text), numbers[i].max, &v), numbers[i].good);
		if (numbers[i].good)
			assert_true(v == numbers[i].value);
	}
	assert_true(slice_is(slice_cut(&rest, ','), "a"));
	assert_true(slice_is(slice_cut(&rest, ','), ""));
	assert_true(slice_is(slice_cut(&rest, ','), "b"));
	assert_null(rest.p);
	assert_true(slice_eq_nocase(SLICE_LIT("AbC[\\]"), SLICE_LIT("aBc[\\]")));
	assert_false(slice_eq_nocase(SLICE_LIT("@"), SLICE_LIT("`"))); /* 0x40, 0x60: no letters */
	assert_true(slice_is(slice_trim(SLICE_LIT(" \t x y \t")), "x y"));
	assert_int_equal(slice_sub(SLICE_LIT("abc"), 5).n, 0);
	assert_true(slice_cmp(SLICE_LIT("ab"), SLICE_LIT("abc")) < 0);
}

static void
escaping_stays_inside(void **state)
{
	char dst[16];

	(void)state;
	assert_string_equal(str_escape(dst, sizeof dst, SLICE_LIT("a\"b\\c\r\n")), "a\\x22b\\x5cc\\x0d");
	/* An escape is whole or not there, for every size. */
	for (size_t n = 1; n <= sizeof dst; n++) {
		memset(dst, '#', sizeof dst);
		str_escape(dst, n, SLICE_LIT("\x01\x02\x03\x04\x05"));
		assert_int_equal(strlen(dst) % 4, 0);
		assert_true(strlen(dst) < n);
	}
}

static void
buffers(void **state)
{
	struct buf b = { 0 };

	(void)state;
	for (int i = 0; i < 1000; i++) {
		buf_printf(&b, "%d,", i);
		if (i % 3 == 0)
			buf_consume(&b, 2);
	}
	assert_true(b.len > 2000);
	assert_int_equal(memcmp(b.data + b.start + b.len - 4, "999,", 4), 0);
	buf_consume(&b, b.len);
	assert_int_equal(b.start, 0);
	buf_clear(&b);
	assert_null(b.data);
}

static void
wire_is_sticky(void **state)
{
	struct buf b = { 0 };
	struct wire_reader r;

	(void)state;
	wire_put_u8(&b, 0xfe);
	wire_put_u16(&b, 0xfedc);
	wire_put_u32(&b, 0xfedcba98u);
	wire_put_u64(&b, 0xfedcba9876543210u);
	wire_put_bytes(&b, SLICE_LIT("text"));
	/* Every cut is noticed, and nothing is read past it. */
	for (size_t n = 0; n <= b.len; n++) {
		wire_read_init(&r, slice_of(b.data, n));
		bool same = wire_u8(&r) == 0xfe;

		same &= wire_u16(&r) == 0xfedc;
		same &= wire_u32(&r) == 0xfedcba98u;
		same &= wire_u64(&r) == 0xfedcba9876543210u;
		same &= slice_is(wire_bytes(&r, 4), "text");
		assert_int_equal(same && wire_done(&r), n == b.len);
		assert_int_equal(r.bad, n < b.len);
	}
	wire_read_init(&r, slice_of(b.data + 15, b.len - 15));
	assert_int_equal(wire_bytes(&r, 3).n, 0); /* longer than allowed */
	assert_true(r.bad);
	buf_clear(&b);
}

static void
checksum(void **state)
{
	unsigned char zeros[32] = { 0 }, ones[32];
	const char *digits = "123456789";

	(void)state;
	memset(ones, 0xff, sizeof ones);
	/* RFC 3720, appendix B.4, and the usual check value. */
	assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aau);
	assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43u);
	assert_int_equal(crc32c(0, digits, 9), 0xe3069283u);
	for (size_t cut = 0; cut <= 9; cut++)
		assert_int_equal(crc32c(crc32c(0, digits, cut), digits + cut, 9 - cut), 0xe3069283u);
}

static void
ids(void **state)
{
	static const char *const bad[] = { "", "123", "00000000000000zz", "0000000000000001.", "0000000000000001.x",
					   "0000000000000001.65536", "00000000000000012" };
	char text[ID_TEXT_BYTES];
	struct entry_key k;

	(void)state;
	assert_true(id_parse(id_entry_text(text, (struct entry_key){ 0xabcdef, 7 }), &k));
	assert_true(k.message == 0xabcdef && k.ordinal == 7);
	assert_string_equal(text, "0000000000abcdef.7");
	assert_true(id_parse("ffffffffffffffff", &k) && k.message == UINT64_MAX && k.ordinal == 0);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_false(id_parse(bad[i], &k));
}

static void
times(void **state)
{
	char text[CLOCK_ISO_BYTES];
	uint64_t leap = 951782400ull * 1000000u; /* 29 February 2000 */

	(void)state;
	assert_string_equal(clock_iso(text, leap), "2000-02-29T00:00:00Z");
	assert_string_equal(clock_acct(text, leap), "2000-02-29 00:00:00+0000");
	assert_string_equal(clock_rfc5322(text, leap), "Tue, 29 Feb 2000 00:00:00 +0000");
	assert_true(clock_boot_us() <= clock_boot_us());
}

static void
json_of_hostile_text(void **state)
{
	static const struct {
		struct slice in;
		const char *out;
	} rows[] = {
		{ { "plain", 5 }, "\"plain\"" },
		{ { "\"\\\n\x7f", 4 }, "\"\\\"\\\\\\u000a\\u007f\"" },
		{ { "a\0b", 3 }, "\"a\\u0000b\"" },
		{ { "\xc3\xa9", 2 }, "\"\xc3\xa9\"" },                      /* valid */
		{ { "\xc0\xaf", 2 }, "\"\xef\xbf\xbd\xef\xbf\xbd\"" },       /* overlong */
		{ { "\xed\xa0\x80", 3 }, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" }, /* surrogate */
		{ { "\xf0\x9f\x98", 3 }, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" }, /* cut off */
	};
	struct buf b = { 0 };
	struct json j;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		buf_reset(&b);
		json_init(&j, &b);
		json_string(&j, rows[i].in);
		assert_int_equal(b.len, strlen(rows[i].out));
		assert_memory_equal(b.data, rows[i].out, b.len);
	}
	buf_reset(&b);
	json_init(&j, &b);
	json_object_begin(&j);
	json_key_u64(&j, "a", 1);
	json_key(&j, "b");
	json_array_begin(&j);
	json_null(&j);
	json_bool(&j, true);
	json_object_begin(&j);
	json_object_end(&j);
	json_array_end(&j);
	json_key_str(&j, "c", NULL);
	json_key_time(&j, "d", 0);
	json_object_end(&j);
	buf_putc(&b, '\0');
	assert_string_equal(b.data, "{\"a\":1,\"b\":[null,true,{}],\"c\":null,\"d\":null}");
	buf_clear(&b);
}

static void
every_error_has_a_text(void **state)
{
	(void)state;
#define X(name, text) assert_string_equal(err_text(-E_##name), text);
	ERR_TABLE(X)
#undef X
	assert_string_equal(err_text(-9999), "unknown error");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slices),	cmocka_unit_test(escaping_stays_inside),
		cmocka_unit_test(buffers),	cmocka_unit_test(wire_is_sticky),
		cmocka_unit_test(checksum),	cmocka_unit_test(ids),
		cmocka_unit_test(times),	cmocka_unit_test(json_of_hostile_text),
		cmocka_unit_test(every_error_has_a_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
