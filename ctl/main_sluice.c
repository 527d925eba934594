/* sluice: the operator's command. Its words go to the scheduler; what comes back is JSON, printed
 * as it is or as tables. Exit status: 0 done, 1 refused or not found, 2 wrong usage, 3 the daemon
 * does not answer. */
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/conf/conf.h"
#include "ctl/answer.h"
#include "ctl/check.h"
#include "ctl/command.h"
#include "ctl/instance.h"
#include "ctl/rules_test.h"

#define DEFAULT_CONF      "/etc/sluice/sluice.conf"
#define CALL_TIMEOUT_MS   8000
#define SELECT_TIMEOUT_MS 120000 /* records are read, or a row is written of each of very many queues */
#define RELOAD_TIMEOUT_MS 150000 /* two checks of a large configuration, and all processes */
#define STOP_TIMEOUT_MS   35000

enum status { STATUS_DONE = 0, STATUS_REFUSED = 1, STATUS_USAGE = 2, STATUS_NO_DAEMON = 3 };

struct options {
	const char *socket; /* or NULL */
	const char *conf;   /* or NULL */
	bool json;
};

/* Saying how it went ------------------------------------------------------------------------------
 */

/* "mode= paused" as `[--mode=] [--paused]`. */
static void
usage_options(FILE *to, const struct command *c)
{
	struct slice rest = slice_str(c->options);

	fprintf(to, "  %-28s", "");
	while (rest.p != NULL) {
		struct slice one = slice_cut(&rest, ' ');

		fprintf(to, " [--%.*s]", (int)one.n, one.p);
	}
	fputc('\n', to);
}

static void
usage(FILE *to)
{
	const struct command *c;

	fputs("usage: sluice [-s SOCKET | -c FILE] [--json] COMMAND ...\n"
	      "  -s SOCKET  the instance's control socket\n"
	      "  -c FILE    its configuration, default " DEFAULT_CONF "\n"
	      "  --json     the answer as JSON\n\n",
	      to);
	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		char call[80];

		if (c->kind == COMMAND_LATER)
			continue;
		snprintf(call, sizeof call, "%s %s", c->words, c->args);
		fprintf(to, "  %-28s %s\n", call, c->help);
		if (c->options[0] != '\0')
			usage_options(to, c);
	}
	fputs("\nPatterns: D/V, */V, D/*, */*. Words may be shortened.\n", to);
}

/* One line on stderr; with --json also the envelope on stdout. */
static enum status
fail(const struct options *o, enum status status, const char *message)
{
	struct buf out = { 0 };
	struct json j;

	fprintf(stderr, "sluice: %s\n", message);
	if (o->json) {
		json_init(&j, &out);
		json_object_begin(&j);
		json_key(&j, "data");
		json_object_begin(&j);
		json_object_end(&j);
		json_key_str(&j, "status", "error");
		json_key_str(&j, "message", message);
		json_object_end(&j);
		printf("%.*s\n", (int)out.len, out.data + out.start);
		buf_clear(&out);
	}
	return status;
}

/* Commands done here
 * --------------------------------------------------------------------------------- */

static void
print_check_json(const struct conf_report *r, const char *message, bool good)
{
	struct slice rest = buf_slice(&r->text);
	struct buf out = { 0 };
	struct json j;

	json_init(&j, &out);
	json_object_begin(&j);
	json_key(&j, "data");
	json_object_begin(&j);
	json_key_u64(&j, "errors", r->n_errors);
	json_key_u64(&j, "warnings", r->n_warnings);
	json_key(&j, "report");
	json_array_begin(&j);
	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');

		if (line.n > 0)
			json_string(&j, line);
	}
	json_array_end(&j);
	json_object_end(&j);
	json_key_str(&j, "status", good ? "success" : "error");
	json_key_str(&j, "message", message);
	json_object_end(&j);
	printf("%.*s\n", (int)out.len, out.data + out.start);
	buf_clear(&out);
}

/* Errors and warnings on stdout, as FILE:LINE: message; how it ended on stderr when it ended badly.
 */
static enum status
check_config(const struct options *o, const char *path)
{
	struct conf_report report = { 0 };
	struct buf snapshot = { 0 };
	struct conf *conf = NULL;
	char message[256];
	int rc = conf_snapshot_read(path, &snapshot, &report);

	if (rc == 0)
		rc = conf_parse(buf_slice(&snapshot), &conf, &report);
	snprintf(message, sizeof message, "%.150s: %u error%s, %u warning%s", path, report.n_errors,
		 report.n_errors == 1 ? "" : "s", report.n_warnings,
		 report.n_warnings == 1 ? "" : "s");
	if (rc != 0 && report.n_errors == 0)
		snprintf(message, sizeof message, "%.150s: %s", path, err_text(rc));
	if (o->json) {
		print_check_json(&report, message, rc == 0);
	} else {
		fwrite(report.text.data + report.text.start, 1, report.text.len, stdout);
		if (rc == 0)
			puts(message);
	}
	if (rc != 0) {
		fflush(stdout);
		fprintf(stderr, "sluice: %s\n", message);
	}
	conf_free(&conf);
	conf_report_clear(&report);
	buf_clear(&snapshot);
	return rc == 0 ? STATUS_DONE : STATUS_REFUSED;
}

static enum status
show_version(const struct options *o)
{
	if (o->json)
		puts("{\"data\":{\"version\":\"" SLUICE_VERSION
		     "\"},\"status\":\"success\",\"message\":\"\"}");
	else
		puts("sluice " SLUICE_VERSION);
	return STATUS_DONE;
}

/* Of the spool that the configuration names, unless --spool names one. */
static enum status
check_queue(const struct options *o, const struct command_line *line)
{
	const char *path = command_option(line, "spool");
	const char *conf_path = o->conf != NULL ? o->conf : DEFAULT_CONF;
	bool live = command_option(line, "live") != NULL;
	struct conf_report report = { 0 };
	struct buf snapshot = { 0 };
	struct conf *conf = NULL;
	char message[256];
	enum status status;
	int rc = 0;

	if (path == NULL) {
		rc = conf_snapshot_read(conf_path, &snapshot, &report);
		if (rc == 0)
			rc = conf_parse(buf_slice(&snapshot), &conf, &report);
		path = rc == 0 ? conf_global(conf)->spool : NULL;
	}
	snprintf(message, sizeof message, "%.150s cannot be used (--spool=DIR does without): %s",
		 conf_path, err_text(rc));
	status = path == NULL ? fail(o, STATUS_REFUSED, message)
			      : (enum status)check_run(path, live, o->json);
	conf_free(&conf);
	conf_report_clear(&report);
	buf_clear(&snapshot);
	return status;
}

/* Prints what the rules say; the exit status. */
static enum status
test_rules_on(const struct options *o, const struct rules_test *t, struct slice replies)
{
	struct buf out = { 0 };
	struct json j;
	unsigned bad;

	if (!o->json) {
		bad = rules_test_run(t, replies, stdout, NULL);
		fflush(stdout);
		if (bad > 0)
			fprintf(stderr, "sluice: %u of these are no SMTP replies\n", bad);
		return bad == 0 ? STATUS_DONE : STATUS_REFUSED;
	}
	json_init(&j, &out);
	json_object_begin(&j);
	json_key(&j, "data");
	json_object_begin(&j);
	json_key(&j, "reply");
	json_array_begin(&j);
	bad = rules_test_run(t, replies, stdout, &j);
	json_array_end(&j);
	json_object_end(&j);
	json_key_str(&j, "status", bad == 0 ? "success" : "error");
	json_key_str(&j, "message", bad == 0 ? "" : "not all of it are SMTP replies");
	json_object_end(&j);
	fwrite(out.data + out.start, 1, out.len, stdout); /* of very many replies more than an int counts */
	putchar('\n');
	buf_clear(&out);
	if (bad > 0)
		fprintf(stderr, "sluice: %u of these are no SMTP replies\n", bad);
	return bad == 0 ? STATUS_DONE : STATUS_REFUSED;
}

static enum status
test_rules(const struct options *o, const struct command_line *line)
{
	const char *conf_path = o->conf != NULL ? o->conf : DEFAULT_CONF;
	const char *list = command_option(line, "list"), *what = command_argument(line, 0);
	struct buf snapshot = { 0 }, replies = { 0 }, why = { 0 };
	struct conf_report report = { 0 };
	struct rules_test t = { 0 };
	struct conf *conf = NULL;
	enum status status;
	int rc;

	if (command_argument(line, 1) != NULL) {
		list = what;
		what = command_argument(line, 1);
	}
	rc = conf_snapshot_read(conf_path, &snapshot, &report);
	if (rc == 0)
		rc = conf_parse(buf_slice(&snapshot), &conf, &report);
	if (rc != 0)
		buf_printf(&why, "%.150s cannot be used: %s (see check config)", conf_path, err_text(rc));
	t.conf = conf;
	if (rc == 0)
		rc = rules_test_select(&t, list, command_option(line, "provider"), command_option(line, "stage"), &why);
	if (rc == 0 && (rc = rules_test_read(what, &replies)) != 0)
		buf_printf(&why, "%.150s: %s", what, err_text(rc));
	buf_putc(&why, '\0');
	status = rc != 0 ? fail(o, STATUS_REFUSED, buf_slice(&why).p) : test_rules_on(o, &t, buf_slice(&replies));
	conf_free(&conf);
	conf_report_clear(&report);
	buf_clear(&snapshot);
	buf_clear(&replies);
	buf_clear(&why);
	return status;
}

static enum status
run_local(const struct options *o, const struct command_line *line)
{
	const char *path = command_argument(line, 0);

	if (line->command->id == COMMAND_ID_VERSION)
		return show_version(o);
	if (line->command->id == COMMAND_ID_QUEUE_CHECK)
		return check_queue(o, line);
	if (line->command->id == COMMAND_ID_RULES_TEST)
		return test_rules(o, line);
	if (path == NULL)
		path = o->conf != NULL ? o->conf : DEFAULT_CONF;
	return check_config(o, path);
}

/* Commands for the daemon
 * ------------------------------------------------------------------------------ */

/* The socket's path, or the status to end with. */
static enum status
find_socket(const struct options *o, char path[INSTANCE_SOCKET_BYTES])
{
	const char *conf = o->conf != NULL ? o->conf : DEFAULT_CONF;
	struct buf why = { 0 };
	char message[512];
	int rc;

	if (o->socket != NULL) {
		if (strlen(o->socket) >= INSTANCE_SOCKET_BYTES)
			return fail(o, STATUS_USAGE, "the socket's name is too long");
		strcpy(path, o->socket);
		return STATUS_DONE;
	}
	rc = instance_socket(conf, path, &why);
	if (rc != 0) {
		struct slice first = buf_slice(&why);

		first = slice_cut(&first, '\n');
		snprintf(message, sizeof message,
			 "%.150s cannot be used (-s SOCKET does without): %.*s", conf,
			 (int)(first.n > 300 ? 300 : first.n),
			 first.n > 0 ? first.p : err_text(rc));
		if (first.n == 0)
			snprintf(message, sizeof message, "%.150s: %s", conf, err_text(rc));
		buf_clear(&why);
		return fail(o, STATUS_REFUSED, message);
	}
	buf_clear(&why);
	return STATUS_DONE;
}

static enum status
no_answer(const struct options *o, const char *path, int rc)
{
	char message[512];

	if (rc == -E_DENIED) {
		snprintf(message, sizeof message, "%.300s: %s", path, err_text(rc));
		return fail(o, STATUS_REFUSED, message);
	}
	snprintf(message, sizeof message, "the daemon does not answer at %.300s: %s", path,
		 err_text(rc));
	return fail(o, STATUS_NO_DAEMON, message);
}

/* Prints it; the exit status, `code` being what the daemon says. */
static enum status
show_answer(const struct options *o, const struct command *c, struct slice json, int code)
{
	enum status status = (enum status)code;
	struct answer a;

	if (answer_parse(&a, json) != 0)
		return fail(o, STATUS_NO_DAEMON, "the daemon's answer is malformed");
	if (!a.success && status == STATUS_DONE)
		status = STATUS_REFUSED;
	if (o->json)
		printf("%.*s\n", (int)json.n, json.p);
	else if (c->kind == COMMAND_RELOAD)
		answer_print_reload(&a, stdout);
	else if (a.success && c->kind != COMMAND_STOP) /* that is told when it has stopped */
		answer_print(&a, stdout);
	fflush(stdout);
	if (!a.success)
		fprintf(stderr, "sluice: %s\n", a.message[0] != '\0' ? a.message : "refused");
	answer_clear(&a);
	return status;
}

static unsigned
timeout_ms(const struct command *c)
{
	if (c->kind == COMMAND_RELOAD)
		return RELOAD_TIMEOUT_MS;
	switch (c->id) {
	case COMMAND_ID_LIST:
	case COMMAND_ID_DELETE:
	case COMMAND_ID_SET_QUEUE:
	case COMMAND_ID_PAUSE_QUEUE:
	case COMMAND_ID_RESUME_QUEUE:
	case COMMAND_ID_SCHEDULE:
	case COMMAND_ID_DISABLE_SOURCE:
	case COMMAND_ID_ENABLE_SOURCE:
		return SELECT_TIMEOUT_MS;
	default:
		return CALL_TIMEOUT_MS;
	}
}

static enum status
run_call(const struct options *o, const struct command_line *line)
{
	char path[INSTANCE_SOCKET_BYTES];
	struct buf json = { 0 };
	enum status status = find_socket(o, path);
	bool stop = line->command->kind == COMMAND_STOP;
	int rc, pidfd = -1;

	if (status != STATUS_DONE)
		return status;
	if (stop)
		pidfd = instance_watch(path);
	rc = operator_call(path, line->words, line->n, timeout_ms(line->command), &json);
	/* A daemon that is told to stop may be gone before it has said so. */
	if (stop && rc == -E_CLOSED && pidfd >= 0)
		rc = STATUS_DONE;
	if (rc < 0)
		status = no_answer(o, path, rc);
	else if (json.len > 0)
		status = show_answer(o, line->command, buf_slice(&json), rc);
	buf_clear(&json);
	if (!stop || status != STATUS_DONE) {
		if (pidfd >= 0)
			close(pidfd);
		return status;
	}
	fflush(stdout);
	if (instance_wait_gone(path, pidfd, STOP_TIMEOUT_MS) != 0) {
		fputs("sluice: it has been told to stop, but is still there\n", stderr);
		return STATUS_REFUSED;
	}
	if (!o->json)
		puts("stopped");
	return STATUS_DONE;
}

/* The command line
 * ------------------------------------------------------------------------------------- */

/* -1 go on, else the exit status. What follows the options is left to `optind`. */
static int
parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "+s:c:h", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			o->socket = optarg;
			break;
		case 'c':
			o->conf = optarg;
			break;
		case 'j':
			o->json = true;
			break;
		case 'V':
			return (int)show_version(o);
		case 'h':
			usage(stdout);
			return STATUS_DONE;
		default:
			usage(stderr);
			return STATUS_USAGE;
		}
	}
	return -1;
}

/* The command's words: what is left, without --json, which may stand anywhere. */
static size_t
take_words(int argc, char **argv, struct options *o, const char **words, size_t max)
{
	size_t n = 0;

	for (int i = optind; i < argc && n < max; i++) {
		if (strcmp(argv[i], "--json") == 0)
			o->json = true;
		else
			words[n++] = argv[i];
	}
	return n;
}

static enum status
run(const struct options *o, const struct command_line *line)
{
	char message[128];

	switch (line->command->kind) {
	case COMMAND_LOCAL:
		return run_local(o, line);
	case COMMAND_LATER:
		snprintf(message, sizeof message, "%s: not supported yet", line->command->words);
		return fail(o, STATUS_REFUSED, message);
	case COMMAND_ASK:
	case COMMAND_STOP:
	case COMMAND_RELOAD:
		break;
	}
	return run_call(o, line);
}

int
main(int argc, char **argv)
{
	struct options o = { 0 };
	const char *words[OPERATOR_WORDS_MAX];
	struct command_line line;
	char why[256];
	size_t n;
	int status;

	setlocale(LC_CTYPE, "");
	status = parse_options(argc, argv, &o);
	if (status >= 0)
		return status;
	n = take_words(argc, argv, &o, words, OPERATOR_WORDS_MAX);
	if (command_parse(&line, words, n, why, sizeof why) != 0) {
		if (n == 0)
			usage(stderr);
		return (int)fail(&o, STATUS_USAGE, why);
	}
	status = (int)run(&o, &line);
	if (fflush(stdout) != 0 && status == STATUS_DONE)
		status = STATUS_REFUSED;
	return status;
}
