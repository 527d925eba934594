/* answer: the daemon's JSON as text for people. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ctl/answer.h"

#define ENVELOPE(data) "{\"data\":{" data "},\"status\":\"success\",\"message\":\"\"}"

static char *
printed(const char *json)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	struct answer a;

	assert_int_equal(answer_parse(&a, slice_str(json)), 0);
	answer_print(&a, f);
	answer_clear(&a);
	fclose(f);
	return text;
}

// clang-format off
static const struct {
	const char *json;
	const char *parts[6]; /* that must be in the text, in this order */
} rows[] = {
	/* Back-off: the mode and the reply that caused it, in each of the queue commands. */
	{ ENVELOPE("\"queue\":[{\"name\":\"a.test/v\",\"rcp\":7,\"mode\":\"backoff\",\"paused\":false,\"event\":[],"
		   "\"backoff\":{\"reason\":\"421 4.7.0 too many\",\"rule\":\"x.conf:3\",\"since\":\"S\",\"until\":null}},"
		   "{\"name\":\"b.test/v\",\"rcp\":1,\"mode\":\"normal\",\"paused\":true,"
		   "\"event\":[{\"text\":\"first\"},{\"text\":\"450 busy\"}],\"backoff\":null}],\"totalRcp\":8"),
	  { "QUEUE", "a.test/v backoff", "421 4.7.0 too many", "b.test/v normal,paused", "450 busy", "totalRcp 8" } },
	{ ENVELOPE("\"queue\":[{\"name\":\"a.test/v\",\"mode\":\"backoff\",\"event\":[{\"type\":\"t\",\"text\":\"e1\"}],"
		   "\"backoff\":{\"reason\":\"421 x\",\"rule\":\"x.conf:3\",\"since\":\"S\",\"until\":null,\"learnedRate\":\"9.5/s\"},"
		   "\"modeEvent\":[{\"from\":\"normal\",\"to\":\"backoff\"}]}]"),
	  { "a.test/v backoff", "in back-off since S until -, by rule x.conf:3:\n  421 x\nlearned rate 9.5/s", "Events:", "e1", "Mode changes:", "normal backoff" } },
	{ ENVELOPE("\"queue\":[{\"name\":\"a/b\",\"blocked\":{\"by\":\"rate\",\"limit\":\"max-msg-rate 9/h\",\"until\":\"T\"}}]"),
	  { "rate (max-msg-rate 9/h) until T" } },
	{ ENVELOPE("\"queue\":[{\"name\":\"a/b\",\"blocked\":{\"by\":\"retry\",\"limit\":null,\"until\":\"T\"}}]"), { "retry until T" } },
	{ ENVELOPE("\"queue\":[]"), { "no queues" } },
	{ ENVELOPE("\"setting\":[{\"name\":\"x\",\"value\":20,\"file\":\"f.conf\",\"line\":9,\"scope\":\"global\"},"
		   "{\"name\":\"y\",\"value\":\"1/h\",\"file\":null}]"),
	  { "x       20    global f.conf:9", "y       1/h", "default" } },
	{ ENVELOPE("\"message\":[{\"id\":\"0001\",\"rcpt\":[\"a@x\",\"b@x\"],\"nextDue\":null}]"), { "0001", "a@x, b@x", "-" } },
	{ ENVELOPE("\"matched\":3"), { "matched 3" } },
	{ ENVELOPE("\"a\":{\"b\":{\"c\":1.5,\"d\":true}},\"list\":[1,\"two\"]"), { "a.b.c 1.5", "a.b.d yes", "list  1, two" } },
	/* Shapes that nobody has told it of. */
	{ ENVELOPE("\"thing\":[{\"x\":1,\"y\":{\"z\":2}},{\"x\":null}]"), { "x y", "1 2", "-" } },
	{ ENVELOPE("\"queue\":[7,8]"), { "queue 7, 8" } },
	{ ENVELOPE("\"queue\":[{\"name\":{\"odd\":1},\"mode\":7,\"paused\":3,\"backoff\":\"x\",\"event\":4,\"blocked\":[]}]"), { "QUEUE" } },
	{ ENVELOPE("\"setting\":[{\"name\":null,\"file\":7,\"line\":\"x\"}]"), { "default" } },
	{ ENVELOPE("\"domain\":[{\"other\":1}]"), { "DOMAIN" } },
	{ ENVELOPE(""), { "" } },
	{ "{\"data\":{},\"status\":\"success\",\"message\":\"3 of 4 done\"}", { "3 of 4 done\n" } },
	/* Terminals are left alone. */
	{ ENVELOPE("\"x\":\"a\\u001b[31mb\\u0007\\u009b\\u0000\\n\""), { "x a?[31mb????" } },
	{ ENVELOPE("\"queue\":[{\"name\":\"\\u001b]0;t\\u0007/v\"}]"), { "?]0;t?/v" } },
};
// clang-format on

static void
test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char *text = printed(rows[i].json), *at = text;

		for (int k = 0; k < 6 && rows[i].parts[k] != NULL; k++) {
			char *found = strstr(at, rows[i].parts[k]);

			if (found == NULL)
				fail_msg("row %zu: no \"%s\" in\n%s", i, rows[i].parts[k], text);
			at = found + strlen(rows[i].parts[k]);
		}
		assert_null(strchr(text, 0x1b));
		free(text);
	}
}

static void
test_malformed(void **state)
{
	static const char *const bad[] = {
		"",
		"{",
		"[]",
		"7",
		"{\"data\":{}}",
		"{\"data\":[],\"status\":\"success\"}",
		"{\"data\":{},\"status\":1}",
		"{\"data\":{\"a\":1,\"a\":2},\"status\":\"success\"}",
		"{\"data\":{},\"status\":\"success\"} x",
	};
	struct answer a;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_true(answer_parse(&a, slice_str(bad[i])) < 0);
	assert_int_equal(
		answer_parse(&a,
			     slice_str("{\"data\":{},\"status\":\"error\",\"message\":\"why\"}")),
		0);
	assert_false(a.success);
	assert_string_equal(a.message, "why");
	answer_clear(&a);
}

/* Every column of a table stands under its title: what makes it readable through a pipe. */
static void
test_aligned(void **state)
{
	char *text = printed(ENVELOPE(
		"\"worker\":[{\"slot\":0,\"pid\":12345,\"state\":\"running\",\"connections\":7},"
		"{\"slot\":11,\"pid\":7,\"state\":\"draining\",\"connections\":1000}]"));
	char *first = strtok(text, "\n"), *second = strtok(NULL, "\n"), *third = strtok(NULL, "\n");
	size_t state_at;

	(void)state;
	assert_non_null(third);
	state_at = (size_t)(strstr(first, "STATE") - first);
	assert_int_equal(strncmp(second + state_at, "running ", 8), 0);
	assert_int_equal(strncmp(third + state_at, "draining", 8), 0);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_aligned),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
