/* Files on disk: includes, errors over several files in one run, the generated texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/conf/conf.h"
#include "common/conf/conf_schema.h"
#include "common/conf/conf_type.h"
#include "tests/lib/scratch.h"

#define N_OF(a) (sizeof(a) / sizeof *(a))

/* A configuration in a directory of its own. */
struct world {
	char dir[512];
	struct buf snapshot;
	struct conf_report r;
	struct conf *c;
	int rc;
};

static void
world_make(struct world *w)
{
	char sub[600];

	memset(w, 0, sizeof *w);
	str_copy(w->dir, sizeof w->dir, slice_str(scratch_make()));
	snprintf(sub, sizeof sub, "%s/conf.d", w->dir);
	assert_int_equal(mkdir(sub, 0755), 0);
}

static void
world_file(struct world *w, const char *name, const char *text)
{
	scratch_write(scratch_path(w->dir, name), text, strlen(text));
}

static void
world_parse(struct world *w)
{
	w->rc = conf_snapshot_read(scratch_path(w->dir, "sluice.conf"), &w->snapshot, &w->r);
	/* All that follows comes from the snapshot: the files may go. */
	scratch_remove(w->dir);
	if (w->rc == 0)
		w->rc = conf_parse(buf_slice(&w->snapshot), &w->c, &w->r);
	buf_putc(&w->r.text, '\0');
	w->r.text.len--;
}

static const char *
report(const struct world *w)
{
	return w->r.text.data + w->r.text.start;
}

static void
world_end(struct world *w)
{
	conf_free(&w->c);
	conf_report_clear(&w->r);
	buf_clear(&w->snapshot);
	scratch_remove(w->dir);
}

/* Twenty errors of as many kinds, in three files, in the order of files and lines. */
static const char main_file[] =
	"# the main file\n"
	"include = [ \"conf.d/*.conf\", \"missing.conf\" ];\n"
	"host-name = 5;\n"
	"workers = 65;\n"
	"workes = 4;\n"
	"total-max-smtp-out = 3000000000;\n"
	"receivers = 2;\n"
	"smtp-listeners = ( { address = \"127.0.0.1:2525\"; },\n"
	"  { address = \"127.0.0.1:2525\"; },\n"
	"  { address = \"localhost\"; } );\n"
	"sources = ( { always-allow-relaying = true; },\n"
	"  { match = \"10.0.0.0/8\"; default-virtual-mta = \"nowhere\"; } );\n";
static const char file_a[] = "domains = (\n"
			     "  { name = \"a.test\"; max-msg-rate = 1000; },\n"
			     "  { name = \"b.test\";\n"
			     "    max-connect-rate = \"10/fortnight\";\n"
			     "    max-smtp-out = 5;\n"
			     "    allow-destinations = [ \"127.0.0.0/8\",\n"
			     "      \"10.0.0.0/99\"\n"
			     "    ]; },\n"
			     "  { name = \"$nomacro\"; } );\n"
			     "domain-macros = ( { name = \"m\"; domains = [ \"$n\" ]; },\n"
			     "  { name = \"n\"; domains = [ \"$m\" ]; } );\n"
			     "receivers = 3;\n";
static const char file_b[] =
	"virtual-mtas = ( { name = \"v\"; }, { smtp-source-hosts = ( ); } );\n"
	"virtual-mta-pools = (\n"
	"  { name = \"p\"; virtual-mtas = [ \"v\" ]; domains = ( { name = \"*\"; } ); },\n"
	"  { name = \"q\"; virtual-mtas = [ \"v\" ]; domains = ( { name = \"*\"; } ); } );\n"
	"smtp-pattern-lists = ( { name = \"l\"; rules = (\n"
	"  { reply = \"no slashes\"; actions = [ \"skip-mx\" ]; },\n"
	"  { reply = \"/x/\"; actions = [ \"mode=backoff\", \"mode=normal\" ]; } ); } );\n"
	"acct-files = ( { path = \"/a/b\"; max-size = \"250M\" \n"
	"  ;; sync = ; } );\n";

static const struct {
	const char *at, *says;
} twenty[] = {
	{ "/sluice.conf:2: ", "missing.conf\": not found" },
	{ "/sluice.conf:3: ", "an integer where" },
	{ "/sluice.conf:4: ", "65 is out of range 1..64" },
	{ "/sluice.conf:5: ", "did you mean workers?" },
	{ "/sluice.conf:6: ", "does not fit into 32 bits" },
	{ "/sluice.conf:9: ", "stands already in" },
	{ "/sluice.conf:10: ", "bad address and port \"localhost\"" },
	{ "/sluice.conf:11: ", "match is missing" },
	{ "/sluice.conf:12: ", "there is no virtual-mta or virtual-mta-pool \"nowhere\"" },
	{ "/conf.d/10-a.conf:2: ", "the bare integer 1000 has no unit" },
	{ "/conf.d/10-a.conf:4: ", "bad rate \"10/fortnight\"" },
	{ "/conf.d/10-a.conf:7: ", "bad CIDRs \"10.0.0.0/99\"" },
	{ "/conf.d/10-a.conf:9: ", "there is no domain-macro \"nomacro\"" },
	{ "/conf.d/10-a.conf:11: ", "leads back" },
	{ "/conf.d/10-a.conf:12: ", "receivers stands already in" },
	{ "/conf.d/20-b.conf:1: ", "name is missing" },
	{ "/conf.d/20-b.conf:4: ", "which both have domains" },
	{ "/conf.d/20-b.conf:6: ", "bad regular expression" },
	{ "/conf.d/20-b.conf:7: ", "exclude each other" },
	{ "/conf.d/20-b.conf:9: ", "syntax error" },
};

static void
test_errors_of_three_files(void **state)
{
	struct world w;
	char *line, *save = NULL;
	size_t n = 0;

	(void)state;
	world_make(&w);
	world_file(&w, "sluice.conf", main_file);
	world_file(&w, "conf.d/20-b.conf", file_b);
	world_file(&w, "conf.d/10-a.conf", file_a);
	world_file(&w, "conf.d/30.txt", "nonsense");
	world_parse(&w);
	assert_true(w.rc < 0 && w.c == NULL);
	assert_int_equal(w.r.n_errors, N_OF(twenty));
	for (line = strtok_r(w.r.text.data + w.r.text.start, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		size_t dir = strlen(w.dir);

		if (strstr(line, ": warning: ") != NULL)
			continue;
		assert_true(n < N_OF(twenty));
		if (strncmp(line, w.dir, dir) != 0 ||
		    strncmp(line + dir, twenty[n].at, strlen(twenty[n].at)) != 0 ||
		    strstr(line, twenty[n].says) == NULL)
			fail_msg("%zu: %s\ninstead of\n%s ... %s", n, line, twenty[n].at,
				 twenty[n].says);
		n++;
	}
	assert_int_equal(n, N_OF(twenty));
	world_end(&w);
}

static void
test_includes(void **state)
{
	struct world w;
	struct conf_queue q;

	(void)state;
	world_make(&w);
	world_file(&w, "sluice.conf",
		   "/* include = [ \"no.conf\" ]; */ # include = \"no.conf\"\n"
		   "log-file = \"stderr\"; postmaster = [ \"include@b.c\" ];\n"
		   "include = [ \"conf.d/*.conf\", \"empty.d/*.conf\" ]; workers = 7;\n"
		   "domains = ( { name = \"a\"; default-smtp-port = 1; } );\n");
	world_file(&w, "conf.d/b.conf",
		   "domains = ( { name = \"b\"; default-smtp-port = 3; },\n"
		   "{ name = \"a\"; default-smtp-port = 4; } );");
	world_file(&w, "conf.d/a.conf",
		   "include = \"../more.inc\";\n"
		   "domains = ( { name = \"b\"; default-smtp-port = 2; } );");
	world_file(&w, "more.inc", "user = \"u\";");
	world_parse(&w);
	if (w.rc != 0)
		fail_msg("%s", report(&w));
	assert_int_equal(conf_global(w.c)->workers, 7);
	assert_string_equal(conf_global(w.c)->user, "u");
	conf_queue(w.c, SLICE_LIT("a"), SLICE_NONE, &q);
	assert_int_equal(q.default_smtp_port, 4);
	conf_queue(w.c, SLICE_LIT("b"), SLICE_NONE, &q);
	assert_int_equal(q.default_smtp_port, 3);
	assert_int_equal(w.r.n_warnings, 4);
	assert_non_null(strstr(report(&w), "/conf.d/b.conf:1: warning: "));
	world_end(&w);
}

static void
test_bad_includes(void **state)
{
	struct world w;

	(void)state;
	world_make(&w); /* a loop: each file once */
	world_file(&w, "sluice.conf", "\ninclude = [ \"a.conf\" ];\n");
	world_file(&w, "a.conf", "\n\ninclude = [ \"sluice.conf\" ];\n");
	world_parse(&w);
	assert_int_equal(w.r.n_errors, 1);
	assert_non_null(strstr(report(&w), "/a.conf:3: "));
	assert_non_null(strstr(report(&w), "included already"));
	world_end(&w);

	world_make(&w); /* a directory is no file */
	world_file(&w, "sluice.conf", "include = [ \"conf.d\" ];\n");
	world_parse(&w);
	assert_int_equal(w.r.n_errors, 1);
	world_end(&w);

	world_make(&w); /* no main file */
	world_parse(&w);
	assert_int_equal(w.r.n_errors, 1);
	assert_true(w.rc < 0);
	assert_non_null(strstr(report(&w), "/sluice.conf:1: the file cannot be read: not found\n"));
	world_end(&w);

	world_make(&w); /* an include inside a block is no include of files here */
	world_file(&w, "sluice.conf",
		   "domains = ( { name = \"a\"; include = \"none.conf\"; } );\n");
	world_parse(&w);
	assert_int_equal(w.r.n_errors, 0);
	world_end(&w);
}

/* Generated texts ----------------------------------------------------------------------------- */
static void
expect_clean(struct slice text)
{
	struct buf snapshot = { 0 };
	struct conf_report r = { 0 };
	struct conf *c = NULL;

	conf_snapshot_text(&snapshot, "sample", text);
	if (conf_parse(buf_slice(&snapshot), &c, &r) != 0 || r.n_warnings > 0)
		fail_msg("%.*s", (int)r.text.len, buf_slice(&r.text).p);
	conf_free(&c);
	conf_report_clear(&r);
	buf_clear(&snapshot);
}

/* The sample is a file that works, also with every comment sign before a setting taken away. */
static void
test_sample(void **state)
{
	struct buf sample = { 0 }, all = { 0 };
	struct slice rest;
	unsigned n = 0;

	(void)state;
	conf_print_sample(&sample);
	expect_clean(buf_slice(&sample));
	rest = buf_slice(&sample);
	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n'), text = slice_trim(line);

		if (text.n > 1 && text.p[0] == '#' && text.p[1] != ' ') {
			if (slice_starts_nocase(text, "#include"))
				continue;
			text = slice_sub(text, 1);
			n++;
		}
		buf_put_slice(&all, text);
		buf_putc(&all, '\n');
	}
	expect_clean(buf_slice(&all));
	assert_true(n > 50);
	buf_clear(&sample);
	buf_clear(&all);
}

static void
test_manual(void **state)
{
	struct buf man = { 0 };
	unsigned n = 0;
	struct slice rest;

	(void)state;
	conf_print_manual(&man);
	rest = buf_slice(&man);
	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');

		assert_true(line.n <= 120);
		n += slice_is(line, ".TP");
	}
	for (int i = 0; i < CONF_SCOPES; i++)
		n -= (unsigned)conf_schema_scope((enum conf_scope_id)i)->n_rows;
	assert_int_equal(n, CONF_TYPES);
	buf_clear(&man);
}

/* Every row is sound: a default of its own type, a scope that is there, a name that is found. */
static void
test_schema(void **state)
{
	struct conf_arena arena = { 0 };

	(void)state;
	for (int i = 0; i < CONF_SCOPES; i++) {
		const struct conf_scope *s = conf_schema_scope((enum conf_scope_id)i);

		assert_true(s->n_rows > 0);
		for (size_t k = 0; k < s->n_rows; k++) {
			const struct conf_directive *d = &s->rows[k];
			struct conf_value v;

			assert_ptr_equal(conf_schema_find((enum conf_scope_id)i, d->name), d);
			assert_true(d->help[0] != '\0' && strchr(d->name, '.') == NULL);
			if (d->type == CONF_TYPE_LIST || d->type == CONF_TYPE_GROUP)
				assert_true(conf_schema_scope_of(d) < CONF_SCOPES);
			else /* aborts on a default that is not of the type */
				(void)conf_type_default(&arena, d, &v);
			if (d->built && d->def == NULL && d->type != CONF_TYPE_LIST && d->type != CONF_TYPE_GROUP)
				assert_non_null(d->example);
		}
		if (s->key != NULL)
			assert_non_null(conf_schema_find((enum conf_scope_id)i, s->key));
	}
	conf_arena_clear(&arena);
}

static void
test_suggestions(void **state)
{
	char word[64];

	(void)state;
	assert_string_equal(conf_schema_suggest(CONF_SCOPE_DOMAIN, "max-mgs-rate", 9),
			    "max-msg-rate");
	assert_string_equal(conf_schema_suggest(CONF_SCOPE_DOMAIN, "retryafter", 9), "retry-after");
	assert_null(conf_schema_suggest(CONF_SCOPE_DOMAIN, "zzzzzzzzzz", 9));
	assert_null(conf_schema_suggest(CONF_SCOPE_DOMAIN, "", 9));
	assert_int_equal(conf_schema_elsewhere(CONF_SCOPE_DOMAIN, "workers"), CONF_SCOPE_GLOBAL);
	assert_int_equal(conf_schema_elsewhere(CONF_SCOPE_DOMAIN, "nonsense"), -1);
	assert_true(
		conf_schema_suggest_word("smtp|discard", SLICE_LIT("dicsard"), word, sizeof word));
	assert_string_equal(word, "discard");
	assert_false(
		conf_schema_suggest_word("smtp|discard", SLICE_LIT("qqqq"), word, sizeof word));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors_of_three_files),
		cmocka_unit_test(test_includes),
		cmocka_unit_test(test_bad_includes),
		cmocka_unit_test(test_sample),
		cmocka_unit_test(test_manual),
		cmocka_unit_test(test_schema),
		cmocka_unit_test(test_suggestions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
