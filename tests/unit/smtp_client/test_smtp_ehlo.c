/* smtp_ehlo: lines of EHLO answers, friendly and hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/mem.h"
#include "common/smtp/smtp_ehlo.h"

static const struct {
	const char *lines; /* parted by | */
	uint16_t has;
	uint64_t size;
	uint32_t rcpt_max, mail_max, domain_max;
	uint8_t auth;
} rows[] = {
	// clang-format off
	{ "PIPELINING|8BITMIME", SMTP_EHLO_PIPELINING | SMTP_EHLO_8BITMIME, 0, 0, 0, 0, 0 },
	{ "pipelining|8bitMime", SMTP_EHLO_PIPELINING | SMTP_EHLO_8BITMIME, 0, 0, 0, 0, 0 },
	{ "  PIPELINING  ", SMTP_EHLO_PIPELINING, 0, 0, 0, 0, 0 },
	{ "PIPELININGX|XPIPELINING|PIPELIN", 0, 0, 0, 0, 0, 0 },
	{ "|  |\t", 0, 0, 0, 0, 0, 0 },
	{ "SIZE", SMTP_EHLO_SIZE, 0, 0, 0, 0, 0 },
	{ "SIZE 0", SMTP_EHLO_SIZE, 0, 0, 0, 0, 0 },
	{ "SIZE 1", SMTP_EHLO_SIZE, 1, 0, 0, 0, 0 },
	{ "SIZE 35882577", SMTP_EHLO_SIZE, 35882577, 0, 0, 0, 0 },
	{ "SIZE 18446744073709551615", SMTP_EHLO_SIZE, UINT64_MAX, 0, 0, 0, 0 },
	{ "SIZE 18446744073709551616", SMTP_EHLO_SIZE, 0, 0, 0, 0, 0 },
	{ "SIZE 99999999999999999999", SMTP_EHLO_SIZE, 0, 0, 0, 0, 0 },
	{ "SIZE -1", SMTP_EHLO_SIZE, 0, 0, 0, 0, 0 },
	{ "SIZE 12x", SMTP_EHLO_SIZE, 0, 0, 0, 0, 0 },
	{ "SIZE 100|SIZE 5", SMTP_EHLO_SIZE, 100, 0, 0, 0, 0 },
	{ "LIMITS RCPTMAX=100 MAILMAX=5 RCPTDOMAINMAX=1", SMTP_EHLO_LIMITS, 0, 100, 5, 1, 0 },
	{ "LIMITS rcptmax=7", SMTP_EHLO_LIMITS, 0, 7, 0, 0, 0 },
	{ "LIMITS RCPTMAX=0", SMTP_EHLO_LIMITS, 0, 0, 0, 0, 0 },
	{ "LIMITS RCPTMAX=", SMTP_EHLO_LIMITS, 0, 0, 0, 0, 0 },
	{ "LIMITS RCPTMAX", SMTP_EHLO_LIMITS, 0, 0, 0, 0, 0 },
	{ "LIMITS", SMTP_EHLO_LIMITS, 0, 0, 0, 0, 0 },
	{ "LIMITS RCPTMAX=4294967297", SMTP_EHLO_LIMITS, 0, 0, 0, 0, 0 },
	{ "LIMITS =5 X=1 RCPTMAX==9", SMTP_EHLO_LIMITS, 0, 0, 0, 0, 0 },
	{ "AUTH PLAIN LOGIN", SMTP_EHLO_AUTH, 0, 0, 0, 0, SMTP_EHLO_AUTH_PLAIN | SMTP_EHLO_AUTH_LOGIN },
	{ "AUTH=PLAIN LOGIN", SMTP_EHLO_AUTH, 0, 0, 0, 0, SMTP_EHLO_AUTH_PLAIN | SMTP_EHLO_AUTH_LOGIN },
	{ "AUTH PLAIN|AUTH=LOGIN", SMTP_EHLO_AUTH, 0, 0, 0, 0, SMTP_EHLO_AUTH_PLAIN | SMTP_EHLO_AUTH_LOGIN },
	{ "AUTH", SMTP_EHLO_AUTH, 0, 0, 0, 0, 0 },
	{ "AUTH=", SMTP_EHLO_AUTH, 0, 0, 0, 0, 0 },
	{ "AUTH XOAUTH2 cram-md5", SMTP_EHLO_AUTH, 0, 0, 0, 0, SMTP_EHLO_AUTH_CRAM_MD5 },
	{ "CHUNKING|DSN|SMTPUTF8|STARTTLS|ENHANCEDSTATUSCODES",
	  SMTP_EHLO_CHUNKING | SMTP_EHLO_DSN | SMTP_EHLO_SMTPUTF8 | SMTP_EHLO_STARTTLS | SMTP_EHLO_ENHANCEDSTATUSCODES, 0, 0, 0, 0, 0 },
	// clang-format on
};

/* Each line in memory of its own size, so that a byte read behind it is seen. */
static void
give(struct smtp_ehlo *e, struct slice line)
{
	char *own = mem_alloc(line.n > 0 ? line.n : 1);

	if (line.n > 0)
		memcpy(own, line.p, line.n);
	smtp_ehlo_line(e, slice_of(own, line.n));
	mem_free(own);
}

static void
test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct smtp_ehlo e = { 0 };
		struct slice rest = slice_str(rows[i].lines);

		while (rest.p != NULL)
			give(&e, slice_cut(&rest, '|'));
		if (e.has != rows[i].has || e.size != rows[i].size || e.auth != rows[i].auth ||
		    e.rcpt_max != rows[i].rcpt_max || e.mail_max != rows[i].mail_max ||
		    e.domain_max != rows[i].domain_max)
			fail_msg("row %zu `%s`", i, rows[i].lines);
	}
}

static void
test_ten_thousand_keywords(void **state)
{
	struct smtp_ehlo e = { 0 };

	(void)state;
	for (int i = 0; i < 10000; i++)
		give(&e, SLICE_LIT("X-NOISE 1 2 3"));
	give(&e, SLICE_LIT("PIPELINING"));
	assert_int_equal(e.has, 0); /* the bound was passed: as if it were not there */
	smtp_ehlo_begin(&e);
	for (int i = 1; i < EHLO_KEYWORDS_MAX; i++)
		give(&e, SLICE_LIT("X-NOISE"));
	give(&e, SLICE_LIT("PIPELINING"));
	assert_int_equal(e.has, SMTP_EHLO_PIPELINING);
}

static void
test_print(void **state)
{
	struct smtp_ehlo e = { 0 };
	struct buf b = { 0 };

	(void)state;
	smtp_ehlo_print(&e, &b);
	assert_int_equal(b.len, 0);
	give(&e, SLICE_LIT("size 5"));
	give(&e, SLICE_LIT("X-OTHER"));
	give(&e, SLICE_LIT("pipelining"));
	smtp_ehlo_print(&e, &b);
	assert_true(slice_is(buf_slice(&b), "PIPELINING SIZE"));
	buf_clear(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_ten_thousand_keywords),
		cmocka_unit_test(test_print),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
