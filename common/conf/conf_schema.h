/* conf_schema: every directive as one row, grouped by the kind of block it stands in.
 *
 * The rows live in conf_schema_*.h; parser, checker, sample file and manual page come from them.
 *   B(field, name, TYPE, arg, default, example, help)  built: sets `field` of the struct of its
 * scope R(field, ...)                                      the same; a change needs a restart
 *   C(name, TYPE, arg, default, example, help)         built: read by code of its own
 *   N(name, TYPE, arg, default, help)                  known, its value is checked, not supported
 * yet To build a directive: give its row a field and turn N into B. `arg` is the range of a number
 * ("1..64"), the choices of a word ("a|b"), the kind of block of a list; defaults are written as in
 * a file, without the quotes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"

/* X(type, word for it, how it is written) */
// clang-format off
#define CONF_TYPE_TABLE(X) \
	X(BOOL, "boolean", "true or false, without quotes") \
	X(BOOL_OR, "boolean or word", "true, false or one of the words") \
	X(COUNT, "integer", "an integer without quotes") \
	X(COUNT_U, "integer or unlimited", "an integer without quotes, or \"unlimited\"") \
	X(COUNT_A, "integer or auto", "an integer without quotes, or \"auto\"") \
	X(RATE, "rate", "a string such as \"1000/h\", \"83/10m\" or \"unlimited\"") \
	X(VOLUME, "volume rate", "a string such as \"500M/h\", \"10m/5m\" or \"unlimited\"") \
	X(THRESHOLD, "threshold", "a string such as \"5/10m\"") \
	X(DAILY, "daily steps", "a string such as \"100/day,200/day\"") \
	X(INTERVAL, "interval", "a string such as \"90s\", \"10m\" or \"4d12h\"") \
	X(INTERVAL_N, "interval or never", "a string such as \"10m\" or \"4d12h\", or \"never\"") \
	X(INTERVALS, "intervals", "a string such as \"10m,30m,1h\", at most 30 intervals") \
	X(SIZE, "size", "a string such as \"250M\" or \"64k\"") \
	X(SIZE_U, "size or unlimited", "a string such as \"250M\", or \"unlimited\"") \
	X(STRING, "string", "a string") \
	X(STRINGS, "strings", "a string or an array of strings") \
	X(PATH, "path", "a string with an absolute path") \
	X(LOG, "path or word", "an absolute path, \"stderr\" or \"syslog\"") \
	X(ACCT_PATH, "path", "an absolute path or \"|COMMAND\"") \
	X(NAME, "name", "a string without blanks, '/', ',' and '*'") \
	X(HOST, "host name", "a string with a host name") \
	X(HOSTS, "host names", "a host name or an array of them") \
	X(ADDRESS, "mail address", "a string such as \"ops@example.com\"") \
	X(ADDRESSES, "mail addresses", "a mail address or an array of them") \
	X(PATTERN, "domain pattern", "\"*\", \"a.b\", \"*.a.b\", \"[*.]a.b\", \"[CIDR]\"; $MACRO anywhere") \
	X(DOMAINS, "domains", "an array of domains; $MACRO anywhere") \
	X(MATCH, "CIDR or name", "a CIDR such as \"10/8\", or a name") \
	X(IP, "IP address", "a string such as \"192.0.2.1\"") \
	X(IPS, "IP addresses", "an IP address or an array of them") \
	X(IP_PORT, "address and port", "a string such as \"127.0.0.1:25\" or \"[::1]:25\"") \
	X(NAME_SERVER, "name servers", "\"IP\" or \"IP@PORT\", or an array of them") \
	X(CIDRS, "CIDRs", "a string such as \"10.0.0.0/8\", or an array of them") \
	X(CIDR_COUNT, "count per CIDR", "\"CIDR N\" or an array of such strings") \
	X(CIDR_RATE, "rate per CIDR", "\"CIDR RATE\", such as \"0/0 500/h\", or an array of them") \
	X(CIDR_VOLUME, "volume rate per CIDR", "\"CIDR VOLUME\", such as \"0/0 1g/h\", or an array") \
	X(MX_PATTERNS, "MX patterns", "a host name, \"*.DOMAIN\" or \"*\", or an array of them") \
	X(MX_COUNT, "count per MX", "\"MX-PATTERN N\" or an array of such strings") \
	X(SOURCE_HOST, "address and name", "\"IP HOST-NAME\" or an array of such strings") \
	X(QUEUE, "queue", "the domain of a queue, such as \"several.queue\"") \
	X(ROLLUP, "rollups", "\"MX QUEUE\", \"MX QUEUE rollup-by-ip\", or an array of them") \
	X(SMTP_HOSTS, "hosts", "\"HOST[:PORT],HOST;HOST\" or \"lookup-mx:DOMAIN\"") \
	X(REGEX, "regular expression", "a string that begins and ends with /") \
	X(ENUM, "word", "one of the words, in quotes") \
	X(WORDS, "words", "words with commas between, or an array of them") \
	X(VMTA, "virtual MTA", "the name of a virtual MTA") \
	X(VMTA_POOL, "virtual MTA or pool", "the name of a virtual MTA or pool") \
	X(VMTAS, "virtual MTAs", "an array of names of virtual MTAs") \
	X(SOURCE, "client rule", "the name of a rule in sources") \
	X(REPLY_LIST, "pattern list", "the name of a list in smtp-pattern-lists") \
	X(PROVIDER, "provider", "the name of a provider") \
	X(ACTIONS, "actions", "an array of actions, such as [ \"mode=backoff\" ]") \
	X(RECOVER, "recovery", "\"auto\" or steps such as \"10%,25%,50% every 10m\"") \
	X(INCLUDE, "files", "an array of file names and patterns") \
	X(LIST, "list", "a list of groups: ( { ... }, { ... } )") \
	X(GROUP, "group", "a group: { ... }")

/* X(scope, title, list it stands in, key of its blocks or NULL, struct that holds it or void) */
#define CONF_SCOPE_TABLE(X) \
	X(GLOBAL, "global", "", NULL) \
	X(SOURCE, "source", "sources", "match") \
	X(SMTP_LISTENER, "smtp-listener", "smtp-listeners", "address") \
	X(HTTP_LISTENER, "http-listener", "http-listeners", "address") \
	X(VMTA, "virtual-mta", "virtual-mtas", "name") \
	X(POOL, "virtual-mta-pool", "virtual-mta-pools", "name") \
	X(DOMAIN, "domain", "domains", "name") \
	X(SOURCE_HOST, "smtp-source-host", "smtp-source-hosts", "ip") \
	X(MACRO, "domain-macro", "domain-macros", "name") \
	X(PROVIDER, "provider", "providers", "name") \
	X(JOB, "job", "jobs", "name") \
	X(SENDER, "sender", "senders", "name") \
	X(REPLY_LIST, "smtp-pattern-list", "smtp-pattern-lists", "name") \
	X(RULE, "rule", "rules", NULL) \
	X(ACCT, "acct-file", "acct-files", "path") \
	X(SPOOL, "spool", "spools", "path") \
	X(SMTP_USER, "smtp-user", "smtp-users", "name") \
	X(SOURCE_GROUP, "source-group", "source-groups", "name") \
	X(BOUNCE, "bounce-processor", "", NULL) \
	X(FEEDBACK, "feedback-loop-processor", "", NULL) \
	X(EMAIL_PATTERNS, "email-patterns", "", NULL) \
	X(ADDRESSES, "address-list", "address-lists", "name") \
	X(PATTERN_LIST, "pattern-list", "pattern-lists", "name") \
	X(ROLLUP, "mx-rollup-list", "", NULL) \
	X(DNS, "dns", "", NULL) \
	X(REWRITE, "rewrite-list", "rewrite-lists", "name") \
	X(KEYS, "domain-key-list", "domain-key-lists", "name") \
	X(PROXY, "proxy", "proxies", "name") \
	X(VAULT, "vault", "", NULL) \
	X(TRANSMISSIONS, "transmissions-api", "", NULL) \
	X(TRANSMISSIONS_LISTENER, "transmissions-api-listener", "transmissions-api-listeners", "address") \
	X(SIGNALS, "signals", "", NULL)
// clang-format on

enum conf_type {
#define X(id, title, hint) CONF_TYPE_##id,
	CONF_TYPE_TABLE(X)
#undef X
		CONF_TYPES
};

enum conf_scope_id {
#define X(id, title, list, key) CONF_SCOPE_##id,
	CONF_SCOPE_TABLE(X)
#undef X
		CONF_SCOPES
};

#define CONF_REQUIRED "(required)" /* the default of what must be given */
#define CONF_UNBOUND  UINT16_MAX

struct conf_directive {
	const char *name;
	enum conf_type type;
	const char *arg;
	const char *def;     /* NULL: none */
	const char *example; /* shown in the sample; NULL: the default is */
	const char *help;
	bool built, restart;
	uint16_t offset; /* of the bound field, CONF_UNBOUND if there is none */
	uint16_t size;
};

struct conf_scope {
	const char *title;
	const char *list;
	const char *key;
	const struct conf_directive *rows; /* in the order of the manual */
	size_t n_rows;
};

const struct conf_scope *conf_schema_scope(enum conf_scope_id id);
/* The scope that the rows of lists and groups name in `arg`. */
enum conf_scope_id conf_schema_scope_of(const struct conf_directive *list);

const char *conf_schema_type_title(enum conf_type t);
const char *conf_schema_type_hint(enum conf_type t);

/* The row of `name`, letter for letter, or NULL. */
const struct conf_directive *conf_schema_find(enum conf_scope_id id, const char *name);

/* A spelling of older PowerMTA versions: the row that it means, or NULL. `*of_integer` is the
 * format that makes a value of the old integer ("%d/h"), or NULL. */
const struct conf_directive *conf_schema_find_old(enum conf_scope_id id, const char *name,
						  const char **of_integer);

/* The nearest known name in the scope, at most `most` changes away, or NULL when nothing is near.
 */
const char *conf_schema_suggest(enum conf_scope_id id, const char *name, unsigned most);
/* The first other scope that has `name`, or -1. */
int conf_schema_elsewhere(enum conf_scope_id id, const char *name);
/* The one of `choices` ("a|b|c") nearest to `word` into `out`; false when nothing is near. */
bool conf_schema_suggest_word(const char *choices, struct slice word, char *out, size_t bytes);
