#include "ctl/check.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/proc/fault.h"

#define PROGRESS_US 1000000u

// clang-format off
static const struct {
	const char *name, *help;
	bool live;
} checks[CHECK_COUNT] = {
#define X(id, name, live, help) { name, help, live },
	CHECKS(X)
#undef X
};
// clang-format on

void
check_looked(struct check *c, enum check_id id, uint64_t n)
{
	c->tallies[id].run = true;
	c->tallies[id].looked += n;
}

void
check_found(struct check *c, enum check_id id, const char *fmt, ...)
{
	struct check_tally *t = &c->tallies[id];
	char line[512];
	va_list ap;

	t->run = true;
	if (t->wrong++ >= CHECK_SHOWN)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	buf_printf(&t->shown, "%s\n", line);
}

void
check_progress(struct check *c, const char *what, uint64_t n)
{
	uint64_t now = clock_boot_us();

	if (now - c->told_boot_us < PROGRESS_US)
		return;
	c->told_boot_us = now;
	fprintf(stderr, "sluice: queue-check: %s: %llu\n", what, (unsigned long long)n);
}

/* The report --------------------------------------------------------------------------------------
 */
uint64_t
check_wrong(const struct check *c)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < CHECK_COUNT; i++)
		n += c->tallies[i].wrong;
	return n;
}

static const char *
state_of(const struct check *c, unsigned i)
{
	const struct check_tally *t = &c->tallies[i];

	if (t->wrong > 0)
		return "wrong";
	if (t->run)
		return "good";
	return c->live && !checks[i].live ? "not-live" : "not-done";
}

static void
show_text(const struct check *c)
{
	for (unsigned i = 0; i < CHECK_COUNT; i++) {
		const struct check_tally *t = &c->tallies[i];
		struct slice rest = buf_slice(&t->shown);

		printf("%-13s %-8s looked at %llu, wrong %llu: %s\n", checks[i].name,
		       state_of(c, i), (unsigned long long)t->looked, (unsigned long long)t->wrong,
		       checks[i].help);
		while (rest.n > 0) {
			struct slice line = slice_cut(&rest, '\n');

			if (line.n > 0)
				printf("    %.*s\n", (int)line.n, line.p);
		}
		if (t->wrong > CHECK_SHOWN)
			printf("    and %llu more\n", (unsigned long long)(t->wrong - CHECK_SHOWN));
	}
	printf("rows %llu, of them quarantined %llu; wrong %llu\n", (unsigned long long)c->rows,
	       (unsigned long long)c->quarantined, (unsigned long long)check_wrong(c));
}

static void
show_json(const struct check *c, const char *message)
{
	struct buf out = { 0 };
	struct json j;

	json_init(&j, &out);
	json_object_begin(&j);
	json_key(&j, "data");
	json_object_begin(&j);
	json_key_u64(&j, "rows", c->rows);
	json_key_u64(&j, "quarantined", c->quarantined);
	json_key_u64(&j, "wrong", check_wrong(c));
	json_key(&j, "check");
	json_array_begin(&j);
	for (unsigned i = 0; i < CHECK_COUNT; i++) {
		const struct check_tally *t = &c->tallies[i];
		struct slice rest = buf_slice(&t->shown);

		json_object_begin(&j);
		json_key_str(&j, "name", checks[i].name);
		json_key_str(&j, "state", state_of(c, i));
		json_key_u64(&j, "looked", t->looked);
		json_key_u64(&j, "wrong", t->wrong);
		json_key(&j, "found");
		json_array_begin(&j);
		while (rest.n > 0) {
			struct slice line = slice_cut(&rest, '\n');

			if (line.n > 0)
				json_string(&j, line);
		}
		json_array_end(&j);
		json_object_end(&j);
	}
	json_array_end(&j);
	json_object_end(&j);
	json_key_str(&j, "status", check_wrong(c) == 0 && message[0] == '\0' ? "success" : "error");
	json_key_str(&j, "message", message);
	json_object_end(&j);
	printf("%.*s\n", (int)out.len, out.data + out.start);
	buf_clear(&out);
}

/* All of it ---------------------------------------------------------------------------------------
 */
static void
look(struct check *c)
{
	if (check_open_store(c)) {
		check_tables(c);
		check_segment_files(c);
		if (!c->live)
			check_claims_load(c);
		check_rows(c);
		if (!c->live) {
			check_claims_end(c);
			check_events(c);
		}
	} else if (!c->live) {
		check_claims_load(c); /* what can be said without the rows */
	}
}

void
check_clear(struct check *c)
{
	store_close(&c->store);
	for (size_t i = 0; i < c->n_segments; i++) {
		if (c->segments[i].fd >= 0)
			close(c->segments[i].fd);
	}
	mem_free(c->segments);
	mem_free(c->named);
	mem_free(c->redirects);
	mem_free(c->claims);
	for (unsigned i = 0; i < CHECK_COUNT; i++)
		buf_clear(&c->tallies[i].shown);
	spool_close(&c->spool);
}

/* 0, or the status to end with; *why said. */
static int
enter(struct check *c, const char *path, char *why, size_t why_bytes)
{
	const char *text = "";
	int rc = spool_look(&c->spool, path, &text);

	if (rc != 0) {
		snprintf(why, why_bytes, "%.300s: %s (%s)", path, text, err_text(rc));
		/* What is there is wrong; what is not there cannot be looked at. */
		return rc == -E_FORMAT || faccessat(AT_FDCWD, path, F_OK, 0) == 0 ? 1 : 3;
	}
	rc = c->live ? 0 : spool_lock(&c->spool);
	if (rc != 0) {
		snprintf(why, why_bytes, "%.300s: an instance runs on it; --live looks beside it",
			 path);
		return 3;
	}
	return 0;
}

int
check_look(struct check *c, const char *spool_path, char *why, size_t why_bytes)
{
	int status;

	c->told_boot_us = clock_boot_us();
	status = enter(c, spool_path, why, why_bytes);
	if (status == 0)
		look(c);
	return status;
}

int
check_run(const char *spool_path, bool live, bool json)
{
	static struct check c;
	char why[512] = "";
	int status;

	c = (struct check){ .live = live };
	fault_init();
	status = check_look(&c, spool_path, why, sizeof why);
	if (status == 0) {
		status = check_wrong(&c) > 0;
		if (!json)
			show_text(&c);
	}
	if (json)
		show_json(&c, why);
	if (why[0] != '\0')
		fprintf(stderr, "sluice: %s\n", why);
	else if (status != 0)
		fprintf(stderr, "sluice: queue-check: %llu findings\n",
			(unsigned long long)check_wrong(&c));
	check_clear(&c);
	return status;
}
