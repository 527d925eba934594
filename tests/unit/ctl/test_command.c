/* command: the command line understood, or refused with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ctl/command.h"

#define WORDS_MAX 80

/* Splits at blanks, in place. */
static size_t
split(char *line, const char **words)
{
	size_t n = 0;

	for (char *p = strtok(line, " "); p != NULL && n < WORDS_MAX; p = strtok(NULL, " "))
		words[n++] = p;
	return n;
}

static void
joined(const struct command_line *line, char *dst, size_t bytes)
{
	dst[0] = '\0';
	for (size_t i = 0; i < line->n; i++) {
		size_t used = strlen(dst);

		snprintf(dst + used, bytes - used, "%s%.*s", i > 0 ? " " : "",
			 (int)line->words[i].n, line->words[i].p);
	}
}

// clang-format off
static const struct {
	const char *line;
	int id;          /* -1: refused */
	const char *sent; /* or a part of the reason */
} rows[] = {
	{ "show status", COMMAND_ID_SHOW_STATUS, "show status" },
	{ "show queue a.test/v", COMMAND_ID_SHOW_QUEUE, "show queue a.test/v" },
	{ "show queues", COMMAND_ID_SHOW_QUEUES, "show queues" },
	{ "show queues */v --mode=backoff --maxitems=3", COMMAND_ID_SHOW_QUEUES, "show queues */v --mode=backoff --maxitems=3" },
	{ "show queues --paused --connected --errors --sort=size", COMMAND_ID_SHOW_QUEUES,
	  "show queues --paused --connected --errors --sort=size" },
	{ "sh topq", COMMAND_ID_SHOW_TOPQUEUES, "show topqueues" },
	{ "show dom", COMMAND_ID_SHOW_DOMAINS, "show domains" },
	{ "sho disab sour a/b", COMMAND_ID_SHOW_DISABLED, "show disabled sources a/b" },
	{ "pause queue */*", COMMAND_ID_PAUSE_QUEUE, "pause queue */*" },
	{ "resume queue a.test/*", COMMAND_ID_RESUME_QUEUE, "resume queue a.test/*" },
	{ "schedule a.test/v", COMMAND_ID_SCHEDULE, "schedule a.test/v" },
	{ "list --queue=*/v --rcpt=x@y --jobId=7 --older-than=1h", COMMAND_ID_LIST,
	  "list --queue=*/v --rcpt=x@y --jobId=7 --older-than=1h" },
	{ "delete --orig=a@b --envId=e", COMMAND_ID_DELETE, "delete --orig=a@b --envId=e" },
	{ "check config", COMMAND_ID_CHECK_CONFIG, "check config" },
	{ "check config x.conf", COMMAND_ID_CHECK_CONFIG, "check config x.conf" },
	{ "stop", COMMAND_ID_STOP, "stop" },
	{ "version", COMMAND_ID_VERSION, "version" },
	{ "reload", COMMAND_ID_RELOAD, "reload" },
	{ "set limit a/b max-msg-rate=1/h --for=1h", COMMAND_ID_SET_LIMIT, "set limit a/b max-msg-rate=1/h --for=1h" },
	{ "", -1, "missing" },
	{ "show", -1, "no such command: show" },
	{ "shows status", -1, "no such command: shows status" },
	{ "statuss", -1, "no such command" },
	{ "show q", -1, "ambiguous" },
	{ "s", -1, "ambiguous" },
	{ "show queue", -1, "usage: sluice show queue D/V" },
	{ "show queue a b", -1, "usage" },
	{ "show status x", -1, "usage" },
	{ "pause queue", -1, "usage: sluice pause queue D/V" },
	{ "stop now", -1, "usage" },
	{ "show queues --mode", -1, "unknown option --mode" },
	{ "show queues --paused=1", -1, "unknown option --paused=1" },
	{ "show queues --mod=backoff", -1, "unknown option" },
	{ "show queues --", -1, "unknown option" },
	{ "delete --que=1", -1, "unknown option" },
};
// clang-format on

static void
test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const char *words[WORDS_MAX];
		struct command_line line;
		char copy[256], why[256] = "", sent[256];
		size_t n;
		int rc;

		snprintf(copy, sizeof copy, "%s", rows[i].line);
		n = split(copy, words);
		rc = command_parse(&line, words, n, why, sizeof why);
		if (rows[i].id < 0) {
			assert_true(rc < 0);
			if (strstr(why, rows[i].sent) == NULL)
				fail_msg("%s: %s", rows[i].line, why);
			continue;
		}
		if (rc != 0)
			fail_msg("%s: %s", rows[i].line, why);
		assert_int_equal((int)line.command->id, rows[i].id);
		joined(&line, sent, sizeof sent);
		assert_string_equal(sent, rows[i].sent);
	}
}

/* Every command of the table is found by its own words, and its help is there. */
static void
test_table(void **state)
{
	const struct command *c;
	size_t n = 0;

	(void)state;
	for (; (c = command_at(n)) != NULL; n++) {
		const char *words[WORDS_MAX] = { NULL };
		struct command_line line;
		char copy[64], why[256];
		size_t n_words;

		assert_int_equal((size_t)c->id, n);
		assert_true(c->help[0] != '\0' && c->most >= c->least);
		snprintf(copy, sizeof copy, "%s", c->words);
		n_words = split(copy, words);
		for (unsigned i = 0; i < c->least; i++)
			words[n_words++] = "x";
		assert_int_equal(command_parse(&line, words, n_words, why, sizeof why), 0);
		assert_ptr_equal(line.command, c);
	}
	assert_int_equal(n, COMMAND_ID_COUNT);
}

static void
test_arguments(void **state)
{
	const char *words[] = { "show", "queues", "--paused", "a/b", "--errors" };
	const char *many[WORDS_MAX];
	struct command_line line;
	char why[64];

	(void)state;
	assert_int_equal(command_parse(&line, words, 5, why, sizeof why), 0);
	assert_string_equal(command_argument(&line, 0), "a/b");
	assert_null(command_argument(&line, 1));
	for (size_t i = 0; i < WORDS_MAX; i++)
		many[i] = "list";
	assert_true(command_parse(&line, many, OPERATOR_WORDS_MAX, why, sizeof why) < 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_arguments),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
