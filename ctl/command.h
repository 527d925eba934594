/* command: the commands of `sluice`, in one table: words, arguments, options, what is done with the
 * answer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/limits.h"
#include "common/ipc/operator.h"

enum command_kind {
	COMMAND_ASK,   /* the words go to the daemon, the answer is shown */
	COMMAND_LOCAL, /* done here */
	COMMAND_STOP,  /* as ASK, then waits for the end */
	COMMAND_RELOAD, /* as ASK; the report is shown line by line, also of a refused one */
	COMMAND_LATER, /* of the contract, not built yet */
};

#define QUEUE_OPTIONS  "mode= paused connected errors maxitems= sort="
#define LIMIT_OPTIONS  "source-ip= vmta= provider= job= sender= for= clear"
#define SELECT_OPTIONS "queue= orig= rcpt= jobId= envId= older-than= maxitems= quarantined"

// clang-format off
/* id, words, least and most arguments behind them, their names, options (blank between; = takes a value), kind, help */
#define COMMANDS(X) \
	X(CHECK_CONFIG,    "check config",   0, 1, "[FILE]", "", LOCAL, "read the configuration and tell what is wrong with it") \
	X(RELOAD,          "reload",         0, 0, "", "", RELOAD, "read the configuration anew; an error keeps the old one") \
	X(STOP,            "stop",           0, 0, "", "", STOP,  "finish what runs and end the daemon") \
	X(SHOW_STATUS,     "show status",    0, 0, "", "", ASK,   "the instance as a whole") \
	X(SHOW_QUEUES,     "show queues",    0, 1, "[D/V]", QUEUE_OPTIONS, ASK, "queues by name") \
	X(SHOW_TOPQUEUES,  "show topqueues", 0, 1, "[D/V]", QUEUE_OPTIONS, ASK, "queues by recipients") \
	X(SHOW_QUEUE,      "show queue",     1, 1, "D/V", "", ASK, "one queue with its events") \
	X(SHOW_DOMAINS,    "show domains",   0, 1, "[DOMAIN]", "maxitems=", ASK, "queued mail by domain") \
	X(SHOW_VMTAS,      "show vmtas",     0, 1, "[VMTA]", "maxitems=", ASK, "queued mail by virtual MTA") \
	X(SHOW_SOURCES,    "show sources",   0, 0, "", "", ASK, "source IPs") \
	X(SHOW_WORKERS,    "show workers",   0, 0, "", "", ASK, "delivery processes") \
	X(SHOW_JOBS,       "show jobs",      0, 0, "", "maxitems=", LATER, "queued mail by job") \
	X(SHOW_LIMITS,     "show limits",    0, 1, "[D/V]", "maxitems=", ASK, "limits and how far they are used") \
	X(SHOW_DISABLED,   "show disabled sources", 0, 1, "[D/V]", "", ASK, "source IPs that are disabled for a queue") \
	X(SHOW_SETTINGS,   "show settings",  1, 1, "D/V", "", ASK, "each value in force and where it came from") \
	X(SET_QUEUE,       "set queue",      1, 1, "D/V", "mode=", ASK, "change the mode: --mode=backoff or --mode=normal") \
	X(PAUSE_QUEUE,     "pause queue",    1, 1, "D/V", "", ASK, "send nothing from these queues") \
	X(RESUME_QUEUE,    "resume queue",   1, 1, "D/V", "", ASK, "send again") \
	X(PAUSE_JOB,       "pause job",      1, 1, "JOB", "", LATER, "send nothing of this job") \
	X(RESUME_JOB,      "resume job",     1, 1, "JOB", "", LATER, "send again") \
	X(SCHEDULE,        "schedule",       1, 1, "D/V", "retry-recipients", ASK, "try these queues now") \
	X(LIST,            "list",           0, 0, "", SELECT_OPTIONS, ASK, "queued messages") \
	X(DELETE,          "delete",         0, 0, "", SELECT_OPTIONS, ASK, "remove queued messages; they are accounted as deleted") \
	X(DISABLE_SOURCE,  "disable source", 2, 2, "IP D/V", "reenable-after=", ASK, "do not use this source IP") \
	X(ENABLE_SOURCE,   "enable source",  2, 2, "IP D/V", "", ASK, "use it again") \
	X(SET_LIMIT,       "set limit",      0, 2, "[D/V] NAME=VALUE", LIMIT_OPTIONS, ASK, "override a limit, at once and durably; --clear takes it back") \
	X(RULES_TEST,      "rules test",     1, 2, "[LIST] FILE", "list= provider= stage=", LOCAL, "which rules replies match, and what they do together; FILE is -, a file, or a reply itself") \
	X(QUEUE_CHECK,     "queue-check",    0, 0, "", "live spool=", LOCAL, "check the queue's files of a stopped instance, with --live of a running one") \
	X(EXPLAIN,         "explain",        1, 1, "D/V|MESSAGE-ID|RECIPIENT", "", LATER, "why it does not go") \
	X(TRACE,           "trace",          1, 1, "D/V", "", LATER, "deliver one message and show the dialogue") \
	X(RESOLVE,         "resolve",        1, 1, "DOMAIN", "connect", LATER, "the MX hosts of a domain") \
	X(ROTATE_ACCT,     "rotate acct",    0, 0, "", "", LATER, "begin new accounting files") \
	X(RESET_COUNTERS,  "reset counters", 0, 0, "", "", LATER, "counters back to zero") \
	X(TOP,             "top",            0, 0, "", "", LATER, "watch the instance") \
	X(IMPORT_PMTA,     "import-pmta",    1, 1, "FILE", "", LATER, "translate a PowerMTA configuration") \
	X(VERSION,         "version",        0, 0, "", "", LOCAL, "the version of this program")
// clang-format on

enum command_id {
#define X(id, words, least, most, args, options, kind, help) COMMAND_ID_##id,
	COMMANDS(X)
#undef X
		COMMAND_ID_COUNT
};

struct command {
	enum command_id id;
	const char *words;
	unsigned least, most;
	const char *args;
	const char *options;
	enum command_kind kind;
	const char *help;
};

/* A command line understood: the command's full words, then arguments and options as they were
 * given. */
struct command_line {
	const struct command *command;
	struct slice words[OPERATOR_WORDS_MAX];
	size_t n;
	size_t own; /* of these, the command's own words */
};

/* Words may be shortened as long as they are unambiguous. 0, or -E_BAD and why in `why`. */
int command_parse(struct command_line *out, const char *const *words, size_t n, char *why,
		  size_t why_bytes);

/* The value of option `name` ("name" of --name=VALUE; "" of --name); NULL when it is not given. */
const char *command_option(const struct command_line *line, const char *name);

/* The command's argument number `i` (options not counted); NULL when there is none. */
const char *command_argument(const struct command_line *line, size_t i);

const struct command *command_at(size_t i); /* NULL past the last one */
