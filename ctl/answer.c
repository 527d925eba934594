#include "ctl/answer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <libsmartcols.h>

#include "common/base/buf.h"
#include "common/base/err.h"

#define DEPTH_MAX   8
#define COLUMNS_MAX 24
#define PATH_BYTES  256

int
answer_parse(struct answer *out, struct slice json)
{
	json_error_t error;
	const char *status;

	memset(out, 0, sizeof *out);
	out->root = json_loadb(json.p, json.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
	if (!json_is_object(out->root))
		goto bad;
	out->data = json_object_get(out->root, "data");
	status = json_string_value(json_object_get(out->root, "status"));
	out->message = json_string_value(json_object_get(out->root, "message"));
	if (out->message == NULL)
		out->message = "";
	if (!json_is_object(out->data) || status == NULL)
		goto bad;
	out->success = strcmp(status, "success") == 0;
	return 0;
bad:
	answer_clear(out);
	return -E_BAD;
}

void
answer_clear(struct answer *a)
{
	json_decref(a->root);
	memset(a, 0, sizeof *a);
}

/* Values as text
 * ----------------------------------------------------------------------------------- */

/* Foreign text, fit for a terminal: C0, DEL and C1 controls become '?'. */
static void
put_clean(struct buf *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] < 0xa0) {
			i++;
			c = '?';
		}
		buf_putc(out, c < 0x20 || c == 0x7f ? '?' : (char)c);
	}
}

static void put_value(struct buf *out, const json_t *v, unsigned depth);

/* Inside one cell: a list with commas, an object as its values that are something. */
static void
put_nested(struct buf *out, const json_t *v, unsigned depth)
{
	const char *between = "";
	const char *key;
	json_t *one;
	size_t i;

	if (depth == 0)
		return;
	if (json_is_array(v)) {
		json_array_foreach(v, i, one)
		{
			buf_puts(out, between);
			put_value(out, one, depth - 1);
			between = ", ";
		}
		return;
	}
	json_object_foreach((json_t *)(uintptr_t)v, key, one)
	{
		if (json_is_null(one))
			continue;
		buf_puts(out, between);
		put_value(out, one, depth - 1);
		between = " ";
	}
}

static void
put_value(struct buf *out, const json_t *v, unsigned depth)
{
	switch (v != NULL ? json_typeof(v) : JSON_NULL) {
	case JSON_STRING:
		if (json_string_length(v) == 0)
			buf_putc(out, '-'); /* a blank cell would move the next ones to the left */
		put_clean(out, json_string_value(v), json_string_length(v));
		break;
	case JSON_INTEGER:
		buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
		break;
	case JSON_REAL:
		buf_printf(out, "%g", json_real_value(v));
		break;
	case JSON_TRUE:
		buf_puts(out, "yes");
		break;
	case JSON_FALSE:
		buf_puts(out, "no");
		break;
	case JSON_NULL:
		buf_putc(out, '-');
		break;
	case JSON_OBJECT:
	case JSON_ARRAY:
		put_nested(out, v, depth);
		break;
	}
}

/* Special cells
 * ------------------------------------------------------------------------------------- */

static const char *
text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* Mode, and that it is paused: two states, one column. */
static void
put_mode(struct buf *out, const json_t *row)
{
	put_value(out, json_object_get(row, "mode"), 1);
	if (json_is_true(json_object_get(row, "paused")))
		buf_puts(out, ",paused");
}

/* "2026-11-21T09:30:00Z"; of today the time alone. */
static void
put_moment(struct buf *out, const char *iso)
{
	char today[16];
	time_t now = time(NULL);
	struct tm tm;

	if (gmtime_r(&now, &tm) != NULL && strftime(today, sizeof today, "%Y-%m-%dT", &tm) > 0 &&
	    strncmp(iso, today, strlen(today)) == 0)
		iso += strlen(today);
	put_clean(out, iso, strlen(iso));
}

/* The sender; that of a bounce message is empty. */
static void
put_sender(struct buf *out, const json_t *row)
{
	const char *orig = text_of(row, "orig");

	if (orig != NULL && orig[0] == '\0')
		buf_puts(out, "<>");
	else
		put_value(out, json_object_get(row, "orig"), 1);
}

/* What keeps it from sending: `retry until T`, `rate (max-msg-rate 500/h) until T`. */
static void
put_blocked(struct buf *out, const json_t *row)
{
	const json_t *b = json_object_get(row, "blocked");
	const char *by = text_of(b, "by"), *limit = text_of(b, "limit"),
		   *until = text_of(b, "until");

	if (by == NULL || strcmp(by, "none") == 0 || strcmp(by, "empty") == 0) {
		buf_putc(out, '-');
		return;
	}
	put_clean(out, by, strlen(by));
	if (limit != NULL && limit[0] != '\0') {
		buf_puts(out, " (");
		put_clean(out, limit, strlen(limit));
		buf_putc(out, ')');
	}
	if (until != NULL) {
		buf_puts(out, " until ");
		put_moment(out, until);
	}
}

/* In back-off the reply that caused it, else the last error. */
static void
put_reason(struct buf *out, const json_t *row)
{
	const char *text = text_of(json_object_get(row, "backoff"), "reason");
	const json_t *events = json_object_get(row, "event");
	size_t n = json_array_size(events);

	if (text == NULL && n > 0)
		text = text_of(json_array_get(events, n - 1), "text");
	if (text != NULL)
		put_clean(out, text, strlen(text));
	else
		buf_putc(out, '-');
}

/* Where a setting came from: `FILE:LINE` or `default`. */
static void
put_origin(struct buf *out, const json_t *row)
{
	const char *file = text_of(row, "file"), *origin = text_of(row, "origin");
	const json_t *line = json_object_get(row, "line");

	if (origin != NULL) {
		put_clean(out, origin, strlen(origin));
		return;
	}
	if (file == NULL) {
		buf_puts(out, "default");
		return;
	}
	put_clean(out, file, strlen(file));
	if (json_integer_value(line) > 0)
		buf_printf(out, ":%" JSON_INTEGER_FORMAT, json_integer_value(line));
}

/* `a.example/mta1 from 192.0.2.10`. */
static void
put_object(struct buf *out, const json_t *row)
{
	const char *source = text_of(row, "sourceIp");

	put_value(out, json_object_get(row, "object"), 1);
	if (source != NULL && source[0] != '\0') {
		buf_puts(out, " from ");
		put_clean(out, source, strlen(source));
	}
}

/* `max-msg-rate 500/h`. */
static void
put_limit(struct buf *out, const json_t *row)
{
	put_value(out, json_object_get(row, "name"), 1);
	buf_putc(out, ' ');
	put_value(out, json_object_get(row, "value"), 1);
}

static void
put_next_room(struct buf *out, const json_t *row)
{
	const char *when = text_of(row, "nextRoom");

	if (when != NULL)
		put_moment(out, when);
	else
		buf_putc(out, '-');
}

/* Tables
 * -------------------------------------------------------------------------------------------- */

struct column {
	const char *key; /* of the row's object */
	const char *title;
	void (*put)(struct buf *out, const json_t *row); /* NULL: the value of key */
};

struct layout {
	const char *array; /* key of the array in data */
	struct column columns[COLUMNS_MAX];
};

// clang-format off
static const struct layout layouts[] = {
	{ "queue", { { "name", "QUEUE", NULL }, { "mode", "MODE", put_mode }, { "rcp", "RCPT", NULL }, { "kb", "KB", NULL },
		     { "conn", "CONN", NULL }, { "msgRate", "RCPT/MIN", NULL }, { "delivered", "DELIVERED", NULL },
		     { "transient", "DEFERRED", NULL }, { "bounced", "BOUNCED", NULL },
		     { "blocked", "WAITS-FOR", put_blocked }, { "event", "REASON", put_reason } } },
	{ "domain", { { "name", "DOMAIN", NULL }, { "rcp", "RCPT", NULL }, { "kb", "KB", NULL }, { "conn", "CONN", NULL },
		      { "queues", "QUEUES", NULL } } },
	{ "vmta", { { "name", "VMTA", NULL }, { "domains", "DOMAINS", NULL }, { "rcp", "RCPT", NULL }, { "kb", "KB", NULL },
		    { "conn", "CONN", NULL } } },
	{ "source", { { "ip", "SOURCE-IP", NULL }, { "name", "NAME", NULL }, { "vmta", "VMTA", NULL }, { "worker", "WORKER", NULL },
		      { "conn", "CONN", NULL }, { "attempted", "ATTEMPTED", NULL }, { "delivered", "DELIVERED", NULL },
		      { "msgRate", "RCPT/MIN", NULL }, { "connectRate", "CONN/MIN", NULL }, { "mode", "MODE", NULL },
		      { "backoff", "REASON", put_reason } } },
	{ "worker", { { "slot", "WORKER", NULL }, { "pid", "PID", NULL }, { "generation", "LIFE", NULL }, { "state", "STATE", NULL },
		      { "sources", "SOURCES", NULL } } },
	{ "setting", { { "name", "SETTING", NULL }, { "value", "VALUE", NULL }, { "scope", "SCOPE", NULL },
		       { "file", "FROM", put_origin } } },
	{ "limit", { { "scope", "SCOPE", NULL }, { "object", "OF", put_object }, { "name", "LIMIT", put_limit }, { "used", "USED", NULL },
		     { "limit", "MOST", NULL }, { "nextRoom", "NEXT-ROOM", put_next_room }, { "refused", "REFUSED", NULL },
		     { "waiting", "WAITING", NULL }, { "file", "FROM", put_origin } } },
	{ "override", { { "scope", "SCOPE", NULL }, { "object", "OF", NULL }, { "name", "SET-BY-OPERATOR", put_limit },
			{ "since", "SINCE", NULL }, { "until", "UNTIL", NULL } } },
	{ "disabledSource", { { "ip", "SOURCE-IP", NULL }, { "queue", "QUEUE", NULL }, { "by", "BY", NULL }, { "rule", "RULE", NULL }, { "since", "SINCE", NULL },
			      { "until", "UNTIL", NULL } } },
	{ "message", { { "id", "ID", NULL }, { "queue", "QUEUE", NULL }, { "orig", "FROM", put_sender }, { "rcpt", "RECIPIENT", NULL },
		       { "timeQueued", "QUEUED", NULL }, { "attempts", "TRIED", NULL }, { "nextDue", "NEXT", NULL },
		       { "kb", "KB", NULL }, { "jobId", "JOB", NULL }, { "envId", "ENVID", NULL }, { "lastReply", "LAST-REPLY", NULL } } },
};
// clang-format on

static const struct layout *
layout_of(const char *key)
{
	for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
		if (strcmp(layouts[i].array, key) == 0)
			return &layouts[i];
	return NULL;
}

/* For an array that has no layout: the keys of its first row. */
static void
improvise(struct layout *l, const json_t *rows)
{
	json_t *first = json_array_get(rows, 0);
	unsigned n = 0;
	const char *key;
	json_t *v;

	json_object_foreach(first, key, v)
	{
		if (n == COLUMNS_MAX - 1)
			break;
		l->columns[n].key = l->columns[n].title = key;
		l->columns[n++].put = NULL;
	}
}

static bool
is_terminal(FILE *to)
{
	int fd = fileno(to);

	return fd >= 0 && isatty(fd);
}

static struct libscols_table *
table_new(FILE *to)
{
	struct libscols_table *t = scols_new_table();

	scols_table_set_stream(t, to);
	/* Into a pipe as wide as it has to be; on a terminal the last column gives way. */
	scols_table_set_termforce(t,
				  is_terminal(to) ? SCOLS_TERMFORCE_AUTO : SCOLS_TERMFORCE_NEVER);
	return t;
}

static bool
all_numbers(const json_t *rows, const char *key)
{
	const json_t *row;
	bool any = false;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		const json_t *v = json_object_get(row, key);

		if (v != NULL && !json_is_number(v) && !json_is_null(v))
			return false;
		any = any || json_is_number(v);
	}
	return any;
}

static void
print_table(const struct layout *l, const json_t *rows, FILE *to)
{
	struct libscols_table *t = table_new(to);
	struct buf cell = { 0 };
	const json_t *row;
	size_t i;

	for (const struct column *c = l->columns; c->key != NULL; c++) {
		int flags = c->put == NULL && all_numbers(rows, c->key) ? SCOLS_FL_RIGHT : 0;

		if (c[1].key == NULL && c != l->columns)
			flags |= SCOLS_FL_TRUNC;
		scols_table_new_column(t, c->title, 0, flags);
	}
	json_array_foreach(rows, i, row)
	{
		struct libscols_line *line = scols_table_new_line(t, NULL);
		size_t n = 0;

		for (const struct column *c = l->columns; c->key != NULL; c++) {
			buf_reset(&cell);
			if (c->put != NULL)
				c->put(&cell, row);
			else
				put_value(&cell, json_object_get(row, c->key), DEPTH_MAX);
			buf_putc(&cell, '\0');
			scols_line_set_data(line, n++, cell.data + cell.start);
		}
	}
	scols_print_table(t);
	buf_clear(&cell);
	scols_unref_table(t);
}

static void
print_remark(const char *what, const char *text, FILE *to)
{
	struct buf clean = { 0 };

	if (text == NULL)
		return;
	put_clean(&clean, text, strlen(text));
	fprintf(to, "\n%s %.*s\n", what, (int)clean.len, clean.data + clean.start);
	buf_clear(&clean);
}

/* One queue asked for by name: what its table row has no room for. */
static void
print_history(const json_t *queue, FILE *to)
{
	static const char *const lists[] = { "event", "modeEvent" };
	const json_t *backoff = json_object_get(queue, "backoff");
	const char *retry = text_of(queue, "retryTime");
	const char *config = text_of(json_object_get(queue, "blocked"), "config");

	print_remark("in retry until", retry, to);
	print_remark("the limit stands in", config, to);

	if (json_is_object(backoff)) {
		struct buf text = { 0 };

		buf_puts(&text, "\nin back-off since ");
		put_value(&text, json_object_get(backoff, "since"), 1);
		buf_puts(&text, " until ");
		put_value(&text, json_object_get(backoff, "until"), 1);
		buf_puts(&text, ", by rule ");
		put_value(&text, json_object_get(backoff, "rule"), 1);
		buf_puts(&text, ":\n  ");
		put_value(&text, json_object_get(backoff, "reason"), 1);
		buf_putc(&text, '\n');
		if (json_is_string(json_object_get(backoff, "learnedRate"))) {
			buf_puts(&text, "learned rate ");
			put_value(&text, json_object_get(backoff, "learnedRate"), 1);
			buf_putc(&text, '\n');
		}
		fwrite(text.data + text.start, 1, text.len, to);
		buf_clear(&text);
	}
	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
		const json_t *list = json_object_get(queue, lists[i]);
		struct layout l = { .array = lists[i] };

		if (json_array_size(list) == 0)
			continue;
		fprintf(to, "\n%s\n", i == 0 ? "Events:" : "Mode changes:");
		improvise(&l, list);
		print_table(&l, list, to);
	}
}

/* The rest
 * ------------------------------------------------------------------------------------------ */

/* An array of rows; a list of plain values is one value. */
static bool
is_table(const json_t *v)
{
	return json_is_array(v) &&
	       (json_array_size(v) == 0 || json_is_object(json_array_get(v, 0)));
}

/* Scalars of nested objects as `a.b.c  value`, in two columns. */
static void
collect(struct libscols_table *t, const char *path, const json_t *v, unsigned depth)
{
	char longer[PATH_BYTES];
	struct libscols_line *line;
	struct buf cell = { 0 };
	const char *key;
	json_t *one;

	if (json_is_object(v) && depth > 0) {
		json_object_foreach((json_t *)(uintptr_t)v, key, one)
		{
			snprintf(longer, sizeof longer, "%s%s%s", path, path[0] != '\0' ? "." : "",
				 key);
			/* Rows at the top are tables of their own. */
			if (path[0] != '\0' || !is_table(one))
				collect(t, longer, one, depth - 1);
		}
		return;
	}
	line = scols_table_new_line(t, NULL);
	put_clean(&cell, path, strlen(path));
	buf_putc(&cell, '\0');
	scols_line_set_data(line, 0, cell.data + cell.start);
	buf_reset(&cell);
	put_value(&cell, v, DEPTH_MAX);
	buf_putc(&cell, '\0');
	scols_line_set_data(line, 1, cell.data + cell.start);
	buf_clear(&cell);
}

static void
print_scalars(const json_t *data, bool after_table, FILE *to)
{
	struct libscols_table *t = table_new(to);

	scols_table_enable_noheadings(t, 1);
	scols_table_new_column(t, "", 0, 0);
	scols_table_new_column(t, "", 0, 0);
	collect(t, "", data, DEPTH_MAX);
	if (scols_table_get_nlines(t) > 0) {
		if (after_table)
			fputc('\n', to);
		scols_print_table(t);
	}
	scols_unref_table(t);
}

static void
print_array(const char *key, const json_t *rows, FILE *to)
{
	const struct layout *known = layout_of(key);
	struct layout own = { .array = key };

	if (json_array_size(rows) == 0) {
		fprintf(to, "no %ss\n", known != NULL ? known->array : "row");
		return;
	}
	if (known == NULL)
		improvise(&own, rows);
	print_table(known != NULL ? known : &own, rows, to);
	if (strcmp(key, "queue") == 0 && json_array_size(rows) == 1)
		print_history(json_array_get(rows, 0), to);
}

void
answer_print(const struct answer *a, FILE *to)
{
	bool tables = false;
	const char *key;
	json_t *v;

	json_object_foreach(a->data, key, v)
	{
		if (!is_table(v))
			continue;
		if (tables)
			fputc('\n', to);
		print_array(key, v, to);
		tables = true;
	}
	print_scalars(a->data, tables, to);
	if (a->message[0] != '\0') {
		struct buf line = { 0 };

		put_clean(&line, a->message, strlen(a->message));
		buf_putc(&line, '\n');
		fwrite(line.data + line.start, 1, line.len, to);
		buf_clear(&line);
	}
}

void
answer_print_reload(const struct answer *a, FILE *to)
{
	const json_t *report = json_object_get(a->data, "report");
	struct buf out = { 0 };

	for (size_t i = 0; i < json_array_size(report); i++) {
		const json_t *line = json_array_get(report, i);

		put_clean(&out, json_string_value(line) != NULL ? json_string_value(line) : "",
			  json_string_length(line));
		buf_putc(&out, '\n');
	}
	if (a->success)
		buf_printf(&out, "reloaded: generation %" JSON_INTEGER_FORMAT "\n",
			   json_integer_value(json_object_get(a->data, "generation")));
	fwrite(out.data + out.start, 1, out.len, to);
	buf_clear(&out);
}
