#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/mem.h"
#include "common/smtp/smtp_command.h"

static void
verbs(void **state)
{
	static const struct {
		const char *line;
		enum smtp_verb verb;
		const char *args;
	} rows[] = {
		/* clang-format off */
		{ "EHLO a.b", SMTP_VERB_EHLO, "a.b" },
		{ "ehlo a.b", SMTP_VERB_EHLO, "a.b" },
		{ "HeLo x  ", SMTP_VERB_HELO, "x" },
		{ "MAIL FROM:<>", SMTP_VERB_MAIL, "FROM:<>" },
		{ "rcpt to:<a@b>", SMTP_VERB_RCPT, "to:<a@b>" },
		{ "DATA", SMTP_VERB_DATA, "" },
		{ "DATA ", SMTP_VERB_DATA, "" },
		{ "RSET", SMTP_VERB_RSET, "" },
		{ "noop  x", SMTP_VERB_NOOP, " x" },
		{ "VRFY a", SMTP_VERB_VRFY, "a" },
		{ "HELP", SMTP_VERB_HELP, "" },
		{ "QUIT", SMTP_VERB_QUIT, "" },
		{ "BDAT 1 LAST", SMTP_VERB_UNBUILT, "1 LAST" },
		{ "STARTTLS", SMTP_VERB_UNBUILT, "" },
		{ "AUTH PLAIN", SMTP_VERB_UNBUILT, "PLAIN" },
		{ "EXPN x", SMTP_VERB_UNBUILT, "x" },
		{ "GET / HTTP/1.1", SMTP_VERB_FOREIGN, "/ HTTP/1.1" },
		{ "CONNECT a:25 HTTP/1.1", SMTP_VERB_FOREIGN, "a:25 HTTP/1.1" },
		{ "", SMTP_VERB_UNKNOWN, "" },
		{ " ", SMTP_VERB_UNKNOWN, "" },
		{ "QUITX", SMTP_VERB_UNKNOWN, "" },
		{ "QUI", SMTP_VERB_UNKNOWN, "" },
		{ "MAIL\tFROM:<>", SMTP_VERB_UNKNOWN, "" },
		/* clang-format on */
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct smtp_command c;

		smtp_command_parse(&c, slice_str(rows[i].line));
		if (c.verb != rows[i].verb || !slice_is(c.args, rows[i].args))
			fail_msg("%s: verb %d args %.*s", rows[i].line, c.verb, (int)c.args.n,
				 c.args.p);
	}
}

static void
mail_arguments(void **state)
{
	static const struct {
		const char *args;
		const char *reply; /* its beginning; NULL: taken */
		uint64_t size;
		enum smtp_body body;
	} rows[] = {
		/* clang-format off */
		{ "FROM:<>", NULL, 0, SMTP_BODY_UNSAID },
		{ "from:<a@b>", NULL, 0, SMTP_BODY_UNSAID },
		{ "FROM: <a@b>", NULL, 0, SMTP_BODY_UNSAID },
		{ "FROM:<a@b> SIZE=0", NULL, 0, SMTP_BODY_UNSAID },
		{ "FROM:<a@b> SIZE=1000", NULL, 1000, SMTP_BODY_UNSAID },
		{ "FROM:<a@b>  size=1  body=7bit ", NULL, 1, SMTP_BODY_7BIT },
		{ "FROM:<a@b> BODY=8BITMIME", NULL, 0, SMTP_BODY_8BITMIME },
		{ "FROM:<a@b> SIZE=1001", "552 5.3.4", 0, 0 },
		{ "FROM:<a@b> SIZE=18446744073709551616", "552 5.3.4", 0, 0 },
		{ "FROM:<a@b> SIZE=99999999999999999999", "552 5.3.4", 0, 0 },
		{ "FROM:<a@b> SIZE=100000000000000000000", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> SIZE=", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> SIZE", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> SIZE=-1", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> SIZE=1x", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> SIZE=1 SIZE=1", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> BODY=BINARYMIME", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> BODY=", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> BODY=7BIT BODY=7BIT", "501 5.5.4", 0, 0 },
		{ "FROM:<a@b> RET=FULL", "555 5.5.4", 0, 0 },
		{ "FROM:<a@b> SMTPUTF8", "555 5.5.4", 0, 0 },
		{ "FROM:<a@b> SIZE=1 AUTH=<>", "555 5.5.4", 0, 0 },
		{ "FROM:<a@b> =", "555 5.5.4", 0, 0 },
		{ "FROM:<a@b>SIZE=1", "501 5.1.7", 0, 0 },
		{ "FROM:<a b@c>", "501 5.1.7", 0, 0 },
		{ "FROM:<postmaster>", "501 5.1.7", 0, 0 },
		{ "FROM:a@b", "501 5.1.7", 0, 0 },
		{ "FROM:", "501 5.1.7", 0, 0 },
		{ "FROM <a@b>", "501 5.5.4", 0, 0 },
		{ "TO:<a@b>", "501 5.5.4", 0, 0 },
		{ "", "501 5.5.4", 0, 0 },
		/* what a shell would like */
		{ "FROM:<;id@b>", "501 5.1.7", 0, 0 },
		{ "FROM:<$(id)@b>", "501 5.1.7", 0, 0 },
		{ "FROM:<`id`@b>", NULL, 0, SMTP_BODY_UNSAID },
		{ "FROM:<|id@b>", NULL, 0, SMTP_BODY_UNSAID },
		/* clang-format on */
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t n = strlen(rows[i].args);
		char *exact = memcpy(mem_alloc(n + 1), rows[i].args, n);
		struct smtp_mail m;
		const char *reply = smtp_command_mail(slice_of(exact, n), 1000, &m);

		if ((reply == NULL) != (rows[i].reply == NULL) ||
		    (reply != NULL && strncmp(reply, rows[i].reply, strlen(rows[i].reply)) != 0))
			fail_msg("%s: %s", rows[i].args, reply != NULL ? reply : "taken");
		if (reply == NULL) {
			assert_int_equal(m.size, rows[i].size);
			assert_int_equal(m.body, rows[i].body);
		}
		mem_free(exact);
	}
}

static void
rcpt_arguments(void **state)
{
	static const struct {
		const char *args;
		const char *reply;
	} rows[] = {
		/* clang-format off */
		{ "TO:<a@b>", NULL },
		{ "to: <a@b> ", NULL },
		{ "TO:<postmaster>", NULL },
		{ "TO:<a@[1.2.3.4]>", NULL },
		{ "TO:<>", "501 5.1.3" },
		{ "TO:<a@b", "501 5.1.3" },
		{ "TO:<a@b>x", "501 5.1.3" },
		{ "TO:<a@b> NOTIFY=NEVER", "555 5.5.4" },
		{ "TO:<a@b> ORCPT=rfc822;+00", "555 5.5.4" },
		{ "FROM:<a@b>", "501 5.5.4" },
		{ "", "501 5.5.4" },
		/* clang-format on */
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct address a;
		const char *reply = smtp_command_rcpt(slice_str(rows[i].args), &a);

		if ((reply == NULL) != (rows[i].reply == NULL) ||
		    (reply != NULL && strncmp(reply, rows[i].reply, 9) != 0))
			fail_msg("%s: %s", rows[i].args, reply != NULL ? reply : "taken");
	}
}

static void
hello_arguments(void **state)
{
	static const char *const good[] = { "a", "mta-1.example.com", "[192.0.2.1]",
					    "[IPv6:2001:db8::1]", "under_score" };
	static const char *const bad[] = { "", "a b", "a\"b", "<a>", "a;b", "a\x7f", "\xc3\xa9" };

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_null(smtp_command_hello(slice_str(good[i])));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_non_null(smtp_command_hello(slice_str(bad[i])));
	assert_non_null(smtp_command_hello(slice_of("a\0b", 3)));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(verbs),
		cmocka_unit_test(mail_arguments),
		cmocka_unit_test(rcpt_arguments),
		cmocka_unit_test(hello_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
