/* smtp-pattern-lists as other modules get them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/limits.h"
#include "common/conf/conf.h"

static struct conf *
parse(const char *text, struct slice compiled, unsigned errors)
{
	struct conf_report r = { 0 };
	struct buf snapshot = { 0 };
	struct conf *c = NULL;

	conf_snapshot_text(&snapshot, "f", slice_str(text));
	if (compiled.n > 0)
		conf_snapshot_add_rules(&snapshot, compiled);
	(void)conf_parse(buf_slice(&snapshot), &c, &r);
	if (r.n_errors != errors)
		fail_msg("%.*s", (int)r.text.len, buf_slice(&r.text).p);
	if (c != NULL && compiled.n > 0)
		assert_true(slice_eq(conf_rules_compiled(c), compiled));
	conf_report_clear(&r);
	buf_clear(&snapshot);
	return c;
}

static const char text[] = "providers = ( { name = \"p\"; mx = \"*.p.example\"; }, { name = "
			   "\"google\"; mx = \"*.google.com\"; } );\n"
			   "domains = ( { name = \"*\"; smtp-pattern-list = \"Mine\"; },\n"
			   "  { name = \"a.b\"; smtp-pattern-list = \"other\"; } );\n"
			   "virtual-mtas = ( { name = \"v\"; domains = ( { name = \"*\"; "
			   "smtp-pattern-list = \"shipped\"; } ); } );\n"
			   "smtp-pattern-lists = (\n"
			   "  { name = \"mine\"; then = \"shipped\"; rules = (\n"
			   "    { reply = \"/^421 a\\\\/b/\"; actions = [ \"mode=backoff\", "
			   "\"backoff-to-normal-after=2h\" ]; after = \"3/10m\";\n"
			   "      scope = \"provider\"; provider = \"Google\"; category = \"c\"; "
			   "recover = \"10%,50% every 5m\";\n"
			   "      stage = \"rcpt, dot\"; dry-run = true; last = true; },\n"
			   "    { reply = \"//\"; actions = \"skip-mx, defer-queue\"; } ); },\n"
			   "  { name = \"other\"; },\n"
			   "  { name = \"shipped\"; rules = (\n"
			   "    { reply = \"/x/\"; actions = [ ]; category = \"only\"; } ); } );\n";

static void
test_rule(const struct conf_rule *r)
{
	assert_string_equal(r->pattern, "^421 a\\/b");
	assert_int_equal(r->actions.set,
			 1u << CONF_ACTION_BACKOFF | 1u << CONF_ACTION_TO_NORMAL_AFTER);
	assert_true(r->actions.backoff_to_normal_after_us == 7200000000ull);
	assert_true(r->after.n == 3 && r->after.window_us == 600000000);
	assert_int_equal(r->scope, CONF_RULE_PROVIDER);
	assert_int_equal(r->provider, 1);
	assert_int_equal(r->stages, CONF_STAGE_RCPT | CONF_STAGE_DOT);
	assert_true(r->dry_run && r->last && !r->recover->automatic && r->recover->n == 2);
	assert_string_equal(r->category, "c");
	assert_string_equal(r->list, "mine");
	assert_string_equal(r->file, "f");
	assert_int_equal(r->line, 7);
}

static void
test_built(void **state)
{
	struct conf *c = parse(text, SLICE_NONE, 0);
	const struct conf_rule_list *l;
	const struct conf_rule *r;
	struct conf_queue q;

	(void)state;
	assert_int_equal(conf_rules(c, &r), 3);
	assert_int_equal(conf_rule_lists(c, &l), 3);
	test_rule(&r[0]);
	assert_true(r[1].actions.set ==
		    (1u << CONF_ACTION_SKIP_MX | 1u << CONF_ACTION_DEFER_QUEUE));
	assert_true(r[1].after.n == 0 && r[1].scope == CONF_RULE_QUEUE && r[1].provider == -1 &&
		    r[1].stages == 0);
	assert_true(!r[1].dry_run && !r[1].last && r[1].category == NULL && r[1].recover == NULL);
	assert_string_equal(r[1].pattern, "");
	assert_true(r[2].actions.set == 0 && r[2].line == 13);
	assert_string_equal(l[0].name, "mine");
	assert_true(l[0].n == 3 && l[0].rules[0] == 0 && l[0].rules[1] == 1 && l[0].rules[2] == 2);
	assert_true(l[0].used && l[1].used && l[2].used);
	assert_true(conf_rule_find(c, r[1].key) == 1 && conf_rule_find(c, 5) == -1);
	assert_true(l[0].n_own == 2 && l[0].then == 2 && l[1].then == -1 && l[2].n_own == 1);
	assert_true(l[1].n == 0 && l[2].n == 1 && l[2].rules[0] == 2);
	assert_int_equal(conf_rule_list_find(c, SLICE_LIT("OTHER")), 1);
	assert_int_equal(conf_rule_list_find(c, SLICE_LIT("p")), -1);
	conf_queue(c, SLICE_LIT("x.y"), SLICE_LIT("{default}"), &q);
	assert_int_equal(q.rules, 0);
	conf_queue(c, SLICE_LIT("a.b"), SLICE_LIT("{default}"), &q);
	assert_int_equal(q.rules, 1);
	conf_queue(c, SLICE_LIT("a.b"), SLICE_LIT("v"), &q);
	assert_int_equal(q.rules, 2);
	conf_free(&c);
	c = parse("", SLICE_NONE, 0);
	conf_queue(c, SLICE_LIT("a.b"), SLICE_LIT("v"), &q);
	assert_true(q.rules == -1 && conf_rules(c, &r) == 0 && conf_rule_lists(c, &l) == 0);
	conf_free(&c);
}

/* A rule is the same after a reload that moves it, and no other. */
static void
test_keys(void **state)
{
	static const char *const one[] = {
		"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"/x/\"; actions = "
		"\"skip-mx\"; } ); } );",
		"\n\nsmtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"/x/\"; actions = "
		"\"defer-queue\"; } ); } );",
		"smtp-pattern-lists = ( { name = \"k\"; rules = ( { reply = \"/x/\"; actions = "
		"\"skip-mx\"; } ); } );",
		"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"/y/\"; actions = "
		"\"skip-mx\"; } ); } );",
		"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"/x/\"; actions = "
		"\"skip-mx\"; category = \"a\"; } ); } );",
		"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"/x/\"; actions = "
		"\"skip-mx\"; stage = \"mail\"; } ); } );",
	};
	uint64_t keys[6];

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		struct conf *c = parse(one[i], SLICE_NONE, 0);
		const struct conf_rule *r;

		assert_int_equal(conf_rules(c, &r), 1);
		keys[i] = r[0].key;
		for (size_t k = 0; k < i; k++)
			assert_true((keys[i] == keys[k]) == (i == 1));
		conf_free(&c);
	}
}

/* One pattern with two thresholds, and a third to try out: each counts for itself, whatever stands between. */
static void
test_keys_of_alike(void **state)
{
	struct conf *c = parse("smtp-pattern-lists = ( { name = \"l\"; rules = (\n"
			       "{ reply = \"/x/\"; actions = \"defer-queue\"; after = \"3/10m\"; },\n"
			       "{ reply = \"/y/\"; actions = \"skip-mx\"; },\n"
			       "{ reply = \"/x/\"; actions = \"mode=backoff\"; after = \"10/10m\"; },\n"
			       "{ reply = \"/x/\"; actions = \"mode=backoff\"; dry-run = true; } ); },\n"
			       "{ name = \"k\"; rules = ( { reply = \"/x/\"; actions = \"skip-mx\"; } ); } );",
			       SLICE_NONE, 0);
	const struct conf_rule *r;
	size_t n = conf_rules(c, &r);

	(void)state;
	assert_int_equal(n, 5);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(conf_rule_find(c, r[i].key), i);
	conf_free(&c);
}

/* What was compiled comes back; with it, patterns are not compiled only to be checked. */
static void
test_compiled(void **state)
{
	static const char bad[] = "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = "
				  "\"/(/\"; actions = \"skip-mx\"; } ); } );";
	struct conf *c = parse(text, SLICE_LIT("compiled"), 0);

	(void)state;
	conf_free(&c);
	assert_null(parse(bad, SLICE_NONE, 1));
	c = parse(bad, SLICE_LIT("checked elsewhere"), 0);
	conf_free(&c);
}

static void
test_bounds(void **state)
{
	struct buf many = { 0 };

	(void)state;
	buf_puts(&many, "smtp-pattern-lists = ( { name = \"l\"; rules = (\n");
	for (int i = 0; i <= RULES_PER_LIST_MAX; i++)
		buf_printf(&many, "%s{ reply = \"/%d/\"; actions = [ ]; }\n", i > 0 ? "," : "", i);
	buf_puts(&many, "); } );");
	buf_putc(&many, '\0');
	assert_null(parse(many.data, SLICE_NONE, 1));
	buf_clear(&many);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_built),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_keys_of_alike),
		cmocka_unit_test(test_compiled),
		cmocka_unit_test(test_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
