/* stat_view: the three outputs from objects in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "shm/stat.h"
#include "shm/stat_view.h"
#include "shm/stat_words.h"

static char dir[64];

static void
put_queue(struct stat_object *o, unsigned row, const char *name, const char *mode, uint64_t rcp)
{
	struct stat_queue q;

	memset(&q, 0, sizeof q);
	snprintf(q.name, sizeof q.name, "%s", name);
	snprintf(q.mode, sizeof q.mode, "%s", mode);
	q.rcp = rcp;
	q.paused = row == 1;
	if (strcmp(mode, "backoff") == 0) {
		strcpy(q.backoffReason, "421 \"no\"\\ \xff");
		q.nextDue = 1795292371123456u;
	}
	stat_put_queue(o, row, &q);
}

static void
put_limit(struct stat_object *o, unsigned row, const char *object, uint64_t used, uint64_t limit,
	  uint64_t waiting)
{
	struct stat_limit l;

	memset(&l, 0, sizeof l);
	strcpy(l.scope, "queue");
	strcpy(l.object, object);
	strcpy(l.name, "max-msg-rate");
	strcpy(l.value, "500/h");
	l.used = used;
	l.limit = limit;
	l.waiting = waiting;
	l.windowSeconds = 3600;
	l.nextRoom = waiting > 0 ? 1795292371000000u : 0;
	stat_put_limit(o, row, &l);
}

/* A scheduler with `queues` queues, two workers, a receiver. */
static void
fill(struct stat_view *v, unsigned queues)
{
	struct stat_object *s, *w1, *w0, *r;
	struct stat_totals t = { .received = 11, .bounced = 3 };
	struct stat_worker w = { .opened = 5 };
	struct stat_source src;
	char name[64];

	strcpy(dir, "/tmp/test_stat_view.XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(stat_create(&s, dir, STAT_SCHEDULER, 0), 0);
	assert_int_equal(stat_create(&w1, dir, STAT_WORKER, 1), 0);
	assert_int_equal(stat_create(&w0, dir, STAT_WORKER, 0), 0);
	assert_int_equal(stat_create(&r, dir, STAT_RECEIVER, 0), 0);
	stat_put_totals(s, &t);
	stat_put_totals(w1, &w);
	put_queue(s, 0, "a\"b.test/v\\x\n", "normal", 1000000);
	put_queue(s, 1, "b.test/v", "backoff", 2000000);
	for (unsigned i = 2; i < queues; i++) {
		snprintf(name, sizeof name, "q%u.test/v", i);
		put_queue(s, i, name, i >= 250 ? "backoff" : "normal", queues - i);
	}
	memset(&src, 0, sizeof src);
	strcpy(src.ip, "192.0.2.1");
	strcpy(src.limit, "max-msg-rate");
	src.disabled = 1;
	src.worker = STAT_NONE;
	stat_put_source(s, 3, &src);
	put_limit(s, 0, "a.test/v", 5, 500, 0);
	put_limit(s, 1, "b\"x.test/v", 400, 500, 0);
	put_limit(s, 2, "c.test/v", 1, 500, 3);
	stat_beat(s, 1000000, STAT_RUNNING);
	stat_beat(w1, 500000, STAT_DRAINING);
	atomic_store(&stat_header(s)->generation, 2);
	memset(v, 0, sizeof *v);
	stat_view_read(v, dir);
	stat_close(&s);
	stat_close(&w1);
	stat_close(&w0);
	stat_close(&r);
}

static void
clean(struct stat_view *v)
{
	static const char *const names[] = { "shm/scheduler", "shm/worker-0", "shm/worker-1",
					     "shm/receiver-0" };
	char path[128];

	stat_view_clear(v);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	snprintf(path, sizeof path, "%s/shm", dir);
	rmdir(path);
	rmdir(dir);
}

/* What a row says of a time is over when that has come, though nobody writes the row again. */
static void
test_settle(void **state)
{
	const uint64_t due = 1795292371123456u;
	struct stat_view v;

	(void)state;
	fill(&v, 4);
	v.limits[0].nextRoom = due;
	stat_view_settle(&v, due - 1);
	assert_int_equal(v.queues[0].nextDue, due);
	assert_int_equal(v.limits[0].nextRoom, due);
	stat_view_settle(&v, due);
	assert_int_equal(v.queues[0].nextDue, 0);
	assert_int_equal(v.limits[0].nextRoom, 0);
	clean(&v);
}

static void
test_json(void **state)
{
	static const char *const queue_keys[] = { "name",      "mode",          "paused",
						  "rcp",       "conn",          "msgRate",
						  "attempted", "delivered",     "transient",
						  "bounced",   "backoffReason", "nextDue" };
	static const char *const source_keys[] = { "ip",    "queue", "msgRate",     "connectRate",
						   "limit", "used",  "windowStart", "disabled" };
	struct buf out = { 0 };
	struct stat_view v;
	json_t *root, *row;

	(void)state;
	fill(&v, 4);
	stat_view_json(&v, 3000000, &out);
	root = json_loadb(out.data + out.start, out.len, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(root);
	row = json_object_get(root, "shm");
	assert_int_equal(json_integer_value(json_object_get(row, "version")), STAT_VERSION);
	assert_int_equal(json_integer_value(json_object_get(row, "bytes")), v.bytes);
	assert_int_equal(json_integer_value(json_object_get(row, "generation")), 2);
	assert_int_equal(strlen(json_string_value(json_object_get(row, "startedAt"))), 20);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(root, "totals"), "received")),
		11);
	assert_int_equal(json_array_size(json_object_get(root, "queue")), 4);
	row = json_array_get(json_object_get(root, "queue"), 0); /* most recipients first */
	for (size_t i = 0; i < sizeof queue_keys / sizeof queue_keys[0]; i++)
		assert_non_null(json_object_get(row, queue_keys[i]));
	assert_string_equal(json_string_value(json_object_get(row, "name")), "b.test/v");
	assert_string_equal(json_string_value(json_object_get(row, "backoffReason")),
			    "421 \"no\"\\ \xef\xbf\xbd");
	assert_string_equal(json_string_value(json_object_get(row, "nextDue")),
			    "2026-11-21T20:19:31Z");
	assert_true(json_is_true(json_object_get(row, "paused")));
	row = json_array_get(json_object_get(root, "queue"), 1);
	assert_true(json_is_null(json_object_get(row, "nextDue")));
	assert_true(json_is_false(json_object_get(row, "paused")));
	row = json_array_get(json_object_get(root, "source"), 0);
	for (size_t i = 0; i < sizeof source_keys / sizeof source_keys[0]; i++)
		assert_non_null(json_object_get(row, source_keys[i]));
	assert_true(json_is_true(json_object_get(row, "disabled")));
	assert_true(json_is_null(json_object_get(row, "worker")));
	/* Those that are waited for first, then the fullest. */
	assert_int_equal(json_array_size(json_object_get(root, "limit")), 3);
	row = json_array_get(json_object_get(root, "limit"), 0);
	assert_string_equal(json_string_value(json_object_get(row, "object")), "c.test/v");
	assert_int_equal(json_integer_value(json_object_get(row, "waiting")), 3);
	assert_int_equal(json_integer_value(json_object_get(row, "windowSeconds")), 3600);
	assert_true(json_is_string(json_object_get(row, "nextRoom")));
	row = json_array_get(json_object_get(root, "limit"), 1);
	assert_int_equal(json_integer_value(json_object_get(row, "used")), 400);
	assert_true(json_is_null(json_object_get(row, "nextRoom")));
	row = json_array_get(json_object_get(root, "worker"), 1);
	assert_int_equal(json_integer_value(json_object_get(row, "slot")), 1);
	assert_int_equal(json_integer_value(json_object_get(row, "pid")), getpid());
	assert_int_equal(json_integer_value(json_object_get(row, "heartbeatMs")), 2500);
	assert_string_equal(json_string_value(json_object_get(row, "state")), "draining");
	assert_int_equal(json_integer_value(json_object_get(row, "opened")), 5);
	assert_int_equal(json_array_size(json_object_get(root, "receiver")), 1);
	assert_true(json_is_null(json_object_get(root, "resolver")));
	json_decref(root);
	buf_clear(&out);
	clean(&v);
}

/* Lines of a metric; every sample belongs to the HELP and TYPE right above its group. */
static void
check_exposition(char *text)
{
	char group[128] = "", *save = NULL;
	int lines = 0;

	for (char *line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		size_t name = strcspn(line, "{ ");

		lines++;
		if (strncmp(line, "# HELP ", 7) == 0) {
			name = strcspn(line + 7, " ");
			snprintf(group, sizeof group, "%.*s", (int)name, line + 7);
			assert_int_equal(strncmp(group, "sluice_", 7), 0);
		} else if (strncmp(line, "# TYPE ", 7) == 0) {
			assert_int_equal(strncmp(line + 7, group, strlen(group)), 0);
			assert_true(strstr(line, " counter") != NULL ||
				    strstr(line, " gauge") != NULL);
			assert_int_equal(strstr(line, " counter") != NULL,
					 strcmp(group + strlen(group) - 6, "_total") == 0);
		} else {
			assert_int_equal(name, strlen(group));
			assert_int_equal(strncmp(line, group, name), 0);
			assert_non_null(strrchr(line, ' '));
		}
	}
	assert_true(lines > 100);
}

static void
test_prometheus(void **state)
{
	struct buf out = { 0 };
	struct stat_view v;
	const char *text;
	unsigned rows = 0;

	(void)state;
	fill(&v, 300);
	stat_view_prometheus(&v, 3000000, &out);
	buf_putc(&out, '\0');
	text = out.data + out.start;
	assert_non_null(strstr(text, "sluice_received_total 11\n"));
	assert_non_null(strstr(text, "sluice_queue_rcp{queue=\"b.test/v\"} 2000000\n"));
	assert_non_null(
		strstr(text, "sluice_queue_rcp{queue=\"a\\\"b.test/v\\\\x\\n\"} 1000000\n"));
	assert_non_null(strstr(
		text,
		"sluice_queue_next_due_timestamp_seconds{queue=\"b.test/v\"} 1795292371.123456\n"));
	assert_non_null(strstr(text, "sluice_queue_backoff{queue=\"b.test/v\"} 1\n"));
	/* 300 queues: 200 by name; the others hold 100, 99, ... 1 recipients and 50 of them are in
	 * back-off. */
	assert_non_null(strstr(text, "sluice_queue_rcp{queue=\"other\"} 5050\n"));
	assert_non_null(strstr(text, "sluice_queue_backoff{queue=\"other\"} 50\n"));
	assert_null(strstr(text, "sluice_queue_next_due_timestamp_seconds{queue=\"other\"}"));
	for (const char *p = text; (p = strstr(p, "sluice_queue_rcp{")) != NULL; p++)
		rows++;
	assert_int_equal(rows, 201);
	assert_non_null(strstr(text, "sluice_worker_opened_total{slot=\"1\"} 5\n"));
	assert_non_null(strstr(
		text,
		"sluice_process_heartbeat_age_seconds{process=\"scheduler\",slot=\"0\"} 2.000\n"));
	check_exposition(out.data + out.start);
	buf_clear(&out);
	clean(&v);
}

static void
test_text(void **state)
{
	struct buf out = { 0 };
	struct stat_view v;
	const char *text;

	(void)state;
	fill(&v, 60);
	stat_view_text(&v, 7000000, 1795292371123456u, 50, &out);
	buf_putc(&out, '\0');
	text = out.data + out.start;
	assert_non_null(strstr(text, "NO HEARTBEAT"));
	assert_non_null(strstr(text, "421 \\x22no\\x22"));
	assert_non_null(strstr(text, "... and 10 more"));
	assert_non_null(strstr(text, "disabled"));
	buf_clear(&out);
	clean(&v);
}

static void
test_nothing_there(void **state)
{
	struct stat_view v = { 0 };
	struct buf out = { 0 };

	(void)state;
	stat_view_read(&v, "/nowhere");
	assert_int_equal(v.n_processes, 0);
	assert_true(v.scheduler_rc < 0);
	assert_int_equal(v.notes.len, 0);
	stat_view_json(&v, 0, &out);
	stat_view_prometheus(&v, 0, &out);
	stat_view_text(&v, 0, 0, 10, &out);
	assert_true(out.len > 0);
	buf_clear(&out);
	stat_view_clear(&v);
}

static void
test_time(void **state)
{
	static const struct {
		uint64_t s;
		const char *text;
	} rows[] = {
		{ 0, "1970-01-01T00:00:00Z" },          { 951782399, "2000-02-28T23:59:59Z" },
		{ 951782400, "2000-02-29T00:00:00Z" },  { 1709251199, "2024-02-29T23:59:59Z" },
		{ 1709251200, "2024-03-01T00:00:00Z" }, { 4107542399, "2100-02-28T23:59:59Z" },
		{ 4107542400, "2100-03-01T00:00:00Z" }, { 1795292371, "2026-11-21T20:19:31Z" },
	};
	char text[STAT_TIME_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		assert_string_equal(stat_time(text, rows[i].s * 1000000u), rows[i].text);
	assert_true(strlen(stat_time(text, UINT64_MAX)) > 20);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_settle),        cmocka_unit_test(test_json),
		cmocka_unit_test(test_prometheus),    cmocka_unit_test(test_text),
		cmocka_unit_test(test_nothing_there), cmocka_unit_test(test_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
