/* Replies against rules: which match, in which order, and what they do together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/rules/rules.h"
#include "common/rules/rules_merge.h"
#include "common/rules/rules_wait.h"

#define N_OF(a) (sizeof(a) / sizeof *(a))
#define S       1000000ull

static struct conf *
parse(const char *text, struct slice compiled)
{
	struct conf_report r = { 0 };
	static struct buf snapshot; /* what was compiled is borrowed from it */
	struct conf *c = NULL;

	buf_clear(&snapshot);
	conf_snapshot_text(&snapshot, "f", slice_str(text));
	if (compiled.n > 0)
		conf_snapshot_add_rules(&snapshot, compiled);
	if (conf_parse(buf_slice(&snapshot), &c, &r) != 0)
		fail_msg("%.*s", (int)r.text.len, buf_slice(&r.text).p);
	conf_report_clear(&r);
	return c;
}

#define BEGIN                                                                                      \
	"domains = ( { name = \"*\"; smtp-pattern-list = \"l\"; } );\n"                            \
	"providers = ( { name = \"p\"; mx = \"*.p.example\"; }, { name = \"q\"; mx = "             \
	"\"*.q.example\"; } );\n"                                                                  \
	"smtp-pattern-lists = ( { name = \"l\"; rules = (\n"
#define END " ); } );\n"

/* Matching ------------------------------------------------------------------------------------ */
static const char matching[] =
	BEGIN "{ reply = \"/^421/\"; actions = \"mode=backoff\"; },\n"
	      "{ reply = \"/too many/\"; actions = \"defer-queue\"; provider = \"p\"; },\n"
	      "{ reply = \"/too many/\"; actions = \"skip-mx\"; stage = \"mail,dot\"; },\n"
	      "{ reply = \"/4\\\\.7\\\\.(\\\\d)\\\\b.*\\\\1/\"; actions = [ ]; },\n"
	      "{ reply = \"/dry/\"; actions = \"bounce-queue\"; last = true; dry-run = true; },\n"
	      "{ reply = \"/special/\"; actions = [ ]; last = true; },\n"
	      "{ reply = \"/many|special|dry/\"; actions = \"reconnect\"; }" END;

static const struct {
	const char *text;
	int provider;
	enum verdict_phase phase;
	const char *rules; /* their numbers */
} matches[] = {
	{ "250 OK", 0, VERDICT_AT_DOT, "" },
	{ "421 hello", -1, VERDICT_AT_GREETING, "0" },
	{ "421 too many", -1, VERDICT_AT_GREETING, "06" },
	{ "421 TOO Many", 0, VERDICT_AT_GREETING, "016" },
	{ "421 too many", 1, VERDICT_AT_GREETING, "06" },
	{ "421 too many", 0, VERDICT_AT_MAIL, "0126" },
	{ "421 too many", 1, VERDICT_AT_BODY, "026" },
	{ "421 too many", 1, VERDICT_AT_NONE, "06" },
	{ "421 4.7.5 x 5", -1, VERDICT_AT_RCPT, "03" },
	{ "421 4.7.5 x 6", -1, VERDICT_AT_RCPT, "0" },
	{ "550 special, too many", 0, VERDICT_AT_RCPT, "15" },
	{ "550 dry", 0, VERDICT_AT_RCPT, "46" },
	{ "", 0, VERDICT_AT_RCPT, "" },
};

/* The numbers of the rules that match, one digit each; static until the next call. */
static const char *
hits_of(struct rules *r, const struct rules_query *q)
{
	static char got[RULE_HITS_MAX + 1];
	struct rules_hits hits;

	rules_match(r, q, &hits);
	for (unsigned k = 0; k < hits.n; k++)
		got[k] = (char)('0' + hits.rule[k]);
	got[hits.n] = '\0';
	return got;
}

static void
check_matches(struct rules *r, int list)
{
	for (size_t i = 0; i < N_OF(matches); i++) {
		struct rules_query q = { .list = list,
					 .provider = matches[i].provider,
					 .stage = rules_stage(matches[i].phase),
					 .text = slice_str(matches[i].text) };
		const char *got = hits_of(r, &q);

		if (strcmp(got, list < 0 ? "" : matches[i].rules) != 0)
			fail_msg("%s at %u of %d: %s", matches[i].text, matches[i].phase,
				 matches[i].provider, got);
	}
}

static void
test_matching(void **state)
{
	const struct pattern_engine *engines[] = { NULL, pattern_vectorscan() };
	char other[sizeof matching];

	(void)state;
	for (size_t e = 0; e < N_OF(engines); e++) {
		struct conf *c = parse(matching, SLICE_NONE);
		struct rules *r = rules_new(c, engines[e]);
		struct buf compiled = { 0 };

		assert_int_equal(rules_compiled_here(r), 1);
		check_matches(r, 0);
		check_matches(r, -1);
		rules_compile(c, engines[e], &compiled);
		rules_free(&r);
		conf_free(&c);
		c = parse(matching, buf_slice(&compiled));
		r = rules_new(c, engines[e]);
		assert_int_equal(rules_compiled_here(r), 0);
		conf_free(&c); /* the rules own it too */
		check_matches(r, 0);
		rules_free(&r);
		/* as many rules, one of them another one */
		str_copy(other, sizeof other, slice_str(matching));
		memcpy(strstr(other, "^421"), "^422", 4);
		c = parse(other, buf_slice(&compiled));
		r = rules_new(c, engines[e]);
		assert_int_equal(rules_compiled_here(r), 1);
		rules_free(&r);
		conf_free(&c);
		buf_clear(&compiled);
	}
}

/* A list and those behind it: one order, `last` ends them all, and each is compiled once. */
static void
test_chain(void **state)
{
	static const char chain[] =
		"domains = ( { name = \"*\"; smtp-pattern-list = \"a\"; }, { name = \"x.y\"; "
		"smtp-pattern-list = \"b\"; } );\n"
		"smtp-pattern-lists = (\n"
		"{ name = \"a\"; then = \"c\"; rules = ( { reply = \"/stop/\"; actions = [ ]; last "
		"= true; },\n"
		"  { reply = \"/x/\"; actions = [ ]; } ); },\n"
		"{ name = \"b\"; then = \"c\"; },\n"
		"{ name = \"c\"; rules = ( { reply = \"/x|stop/\"; actions = [ ]; } ); },\n"
		"{ name = \"unused\"; then = \"c\"; rules = ( { reply = \"/x/\"; actions = [ ]; } "
		"); } );";
	static const struct {
		int list;
		const char *text, *rules;
	} rows[] = { { 0, "x", "12" },     { 1, "x", "2" },      { 2, "x", "2" },
		     { 0, "stop x", "0" }, { 1, "stop x", "2" }, { 3, "x", "32" },
		     { 0, "nothing", "" } };
	struct conf *c = parse(chain, SLICE_NONE);
	struct rules *r = rules_new(c, pattern_vectorscan());

	(void)state;
	assert_int_equal(rules_compiled_here(r), 3);
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct rules_query q = { .list = rows[i].list,
					 .provider = -1,
					 .text = slice_str(rows[i].text) };
		const char *got = hits_of(r, &q);

		if (strcmp(got, rows[i].rules) != 0)
			fail_msg("%zu: %s", i, got);
	}
	rules_free(&r);
	conf_free(&c);
}

static void
test_only_lists_in_use(void **state)
{
	struct conf *c = parse("smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = "
			       "\"/a/\"; actions = [ ]; } ); } );",
			       SLICE_NONE);
	struct rules *r = rules_new(c, NULL);
	struct rules_query q = { .list = 0, .provider = -1, .text = SLICE_LIT("a") };
	struct rules_hits hits;

	(void)state;
	assert_int_equal(rules_compiled_here(r), 0);
	rules_match(r, &q, &hits);
	assert_int_equal(hits.n, 1);
	assert_int_equal(rules_compiled_here(r), 1);
	rules_free(&r);
	conf_free(&c);
}

static void
test_bounds(void **state)
{
	struct buf text = { 0 };
	struct rules_query q = { .provider = -1 };
	struct rules_hits hits;
	struct rules *r;
	struct conf *c;
	char reply[RULES_TEXT_MAX + 10];

	(void)state;
	buf_puts(&text, BEGIN "{ reply = \"/end/\"; actions = [ ]; }");
	for (int i = 0; i < 2 * RULE_HITS_MAX; i++)
		buf_puts(&text, ",{ reply = \"/a/\"; actions = [ ]; }\n");
	buf_puts(&text, END);
	buf_putc(&text, '\0');
	c = parse(text.data, SLICE_NONE);
	r = rules_new(c, pattern_vectorscan());
	memset(reply, 'a', sizeof reply);
	memcpy(reply + RULES_TEXT_MAX - 2, "end", 3); /* begins in the part that is looked at */
	q.text = slice_of(reply, sizeof reply);
	rules_match(r, &q, &hits);
	assert_true(hits.n == RULE_HITS_MAX && hits.rule[0] == 1 &&
		    hits.rule[hits.n - 1] == RULE_HITS_MAX);
	memcpy(reply + RULES_TEXT_MAX - 3, "end", 3);
	rules_match(r, &q, &hits);
	assert_true(hits.n == RULE_HITS_MAX && hits.rule[0] == 0);
	rules_free(&r);
	conf_free(&c);
	buf_clear(&text);
}

/* What they do together ------------------------------------------------------------------------ */
static const char together[] = BEGIN
	/* 0 */
	"{ reply = \"/a/\"; actions = [ \"mode=backoff\", \"backoff-to-normal-after=2h\" ]; scope "
	"= \"source-ip\";\n"
	"  recover = \"auto\"; category = \"c0\"; },\n"
	/* 1 */ "{ reply = \"/a/\"; actions = \"mode=normal\"; category = \"c1\"; },\n"
	/* 2 */ "{ reply = \"/a/\"; actions = \"mode=backoff\"; scope = \"provider\"; },\n"
	/* 3 */ "{ reply = \"/a/\"; actions = \"skip-mx, defer-queue\"; },\n"
	/* 4 */ "{ reply = \"/a/\"; actions = \"bounce-queue, disable-source-ip\"; },\n"
	/* 5 */ "{ reply = \"/a/\"; actions = \"disable-source-ip, reenable-after=4h\"; },\n"
	/* 6 */ "{ reply = \"/a/\"; actions = \"reduce-connections\"; },\n"
	/* 7 */ "{ reply = \"/a/\"; actions = \"reduce-connections, for=1h, wait-reply\"; },\n"
	/* 8 */ "{ reply = \"/a/\"; actions = \"mode=backoff, bounce-rcpt\"; dry-run = true; "
	"category = \"dry\"; },\n"
	/* 9 */ "{ reply = \"/a/\"; actions = \"mode=normal\"; scope = \"virtual-mta\"; }" END;

static const struct {
	uint32_t rules[6];
	size_t n;
	const char *actions, *category;
	enum conf_rule_scope scope;
	unsigned n_dry;
} merges[] = {
	{ { 0 }, 0, "", NULL, CONF_RULE_QUEUE, 0 },
	{ { 0 }, 1, "mode=backoff, backoff-to-normal-after=2h", "c0", CONF_RULE_SOURCE_IP, 0 },
	{ { 0, 1 }, 2, "mode=backoff, backoff-to-normal-after=2h", "c0", CONF_RULE_SOURCE_IP, 0 },
	{ { 1, 0 }, 2, "mode=normal", "c1", CONF_RULE_QUEUE, 0 },
	{ { 9, 0 }, 2, "mode=normal", "c0", CONF_RULE_VMTA, 0 },
	/* the interval goes with its own rule */
	{ { 2, 0 }, 2, "mode=backoff", "c0", CONF_RULE_PROVIDER, 0 },
	{ { 3, 4 }, 2, "skip-mx, disable-source-ip, defer-queue", NULL, CONF_RULE_QUEUE, 0 },
	{ { 4, 3 }, 2, "bounce-queue, disable-source-ip, defer-queue", NULL, CONF_RULE_QUEUE, 0 },
	{ { 4, 5 }, 2, "bounce-queue, disable-source-ip", NULL, CONF_RULE_QUEUE, 0 },
	{ { 5, 4 },
	  2,
	  "bounce-queue, disable-source-ip, reenable-after=4h",
	  NULL,
	  CONF_RULE_QUEUE,
	  0 },
	{ { 6, 7 }, 2, "reduce-connections, wait-reply", NULL, CONF_RULE_QUEUE, 0 },
	{ { 7, 6 }, 2, "reduce-connections, for=1h, wait-reply", NULL, CONF_RULE_QUEUE, 0 },
	{ { 8, 3, 99, 8 }, 4, "skip-mx, defer-queue", NULL, CONF_RULE_QUEUE, 2 },
	{ { 0, 3, 5, 7 },
	  4,
	  "mode=backoff, backoff-to-normal-after=2h, skip-mx, disable-source-ip, "
	  "reenable-after=4h, defer-queue, "
	  "reduce-connections, for=1h, wait-reply",
	  "c0",
	  CONF_RULE_SOURCE_IP,
	  0 },
};

static void
test_together(void **state)
{
	struct conf *c = parse(together, SLICE_NONE);

	(void)state;
	for (size_t i = 0; i < N_OF(merges); i++) {
		struct rules_verdict v;
		struct buf out = { 0 };

		rules_merge(c, merges[i].rules, merges[i].n, 7 * S, &v);
		rules_verdict_put(&out, &v);
		buf_putc(&out, '\0');
		if (strcmp(out.data, merges[i].actions) != 0)
			fail_msg("%zu: %s", i, out.data);
		assert_true(v.scope == merges[i].scope && v.n_dry == merges[i].n_dry);
		assert_true((v.category == NULL) == (merges[i].category == NULL));
		assert_true(v.category == NULL || strcmp(v.category, merges[i].category) == 0);
		assert_true(v.wait_us ==
			    (rules_verdict_has(&v, CONF_ACTION_WAIT_REPLY) ? 7 * S : 0));
		for (unsigned a = 0; a < CONF_ACTIONS; a++)
			assert_true((v.by[a] >= 0) == rules_verdict_has(&v, (enum conf_action)a));
		buf_clear(&out);
	}
	conf_free(&c);
}

static void
test_details(void **state)
{
	struct conf *c = parse(together, SLICE_NONE);
	struct rules_verdict v;

	(void)state;
	rules_merge(c, (const uint32_t[]){ 6, 7, 3, 0 }, 4, 0, &v);
	assert_true(v.for_us == RULES_REDUCE_FOR_US && v.by[CONF_ACTION_REDUCE_CONNECTIONS] == 6);
	assert_true(v.by[CONF_ACTION_WAIT_REPLY] == 7 && v.by[CONF_ACTION_SKIP_MX] == 3 &&
		    v.wait_us == 0);
	assert_true(v.recover != NULL && v.recover->automatic && v.category_by == 0);
	assert_true(v.backoff_to_normal_after_us == 7200 * S &&
		    v.by[CONF_ACTION_TO_NORMAL_AFTER] == 0);
	rules_merge(c, (const uint32_t[]){ 2, 0 }, 2, 0, &v);
	assert_true(v.recover == NULL && v.by[CONF_ACTION_TO_NORMAL_AFTER] == -1);
	conf_free(&c);
}

/* The time that a reply names ----------------------------------------------------------------- */
static void
test_wait_text(void **state)
{
	static const struct {
		const char *text;
		uint64_t us; /* 0: none */
	} rows[] = {
		{ "451 4.7.1 Greylisted for 5 minutes", 300 * S },
		{ "450 4.2.0 <a@b>: Recipient address rejected: Greylisted for 300 seconds (see "
		  "http://x/)",
		  300 * S },
		{ "451 4.7.1 Greylisting in action, please come back in 00:05:00", 300 * S },
		{ "451 come back in 1:30:00.", 5400 * S },
		{ "451 try again in 300s", 300 * S },
		{ "421 Retry after 1h30m please", 5400 * S },
		{ "421 limit of 100 messages per 60 minutes, retry in 20 mins", 1200 * S },
		{ "421 try again in 1 hour, 5 minutes and 3 seconds", 3903 * S },
		{ "421 wait at least 90 sec", 90 * S },
		{ "421 try again in an hour", 3600 * S },
		{ "421 try again in one day", 86400 * S },
		{ "421 5 minute(s) to wait", 300 * S },
		{ "421 blocked, 10-minute pause", 600 * S },
		{ "421 after 5 minutes 2 hours", 300 * S },
		{ "421 the last 30 minutes saw 5 minutes of pause", 300 * S },
		{ "421 IN 2 HOURS", 7200 * S },
		{ "250 OK", 0 },
		{ "451 try again later", 0 },
		{ "450 s", 0 },
		{ "421 4.7.0 192.0.2.5 days", 0 },
		{ "421 more than 5 messages per 10 minutes", 0 },
		{ "421 seen 5 minutes ago", 0 },
		{ "421 in 5 minutest", 0 },
		{ "421 in 0 minutes", 0 },
		{ "421 in 8 days", 0 },
		{ "421 in 99999999 minutes", 0 },
		{ "421 in 5 m", 0 },
		{ "421 at 14:05 UTC", 0 },
		{ "421 id a5 minutes", 0 },
		{ "", 0 },
		{ "4", 0 },
		{ "421 in 5", 0 },
		{ "421 in ", 0 },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		uint64_t us = 0;
		size_t n = strlen(rows[i].text);
		char *own = malloc(n + 1); /* nothing is read behind its end */
		bool found;

		assert_non_null(own);
		memcpy(own, rows[i].text, n);
		found = rules_wait_text(slice_of(own, n), &us);
		if (found != (rows[i].us > 0) || (found && us != rows[i].us))
			fail_msg("%s: %d %llu", rows[i].text, found, (unsigned long long)us);
		free(own);
	}
}

static void
test_wait_groups(void **state)
{
	static const struct {
		const char *re, *text;
		uint64_t us;
	} rows[] = {
		{ "retry=(\\\\d+)", "451 limit=9 hours retry=30", 30 * S },
		{ "in (\\\\d+)", "451 in 5 minutes", 300 * S },
		{ "in (\\\\d+) (\\\\w+)", "451 in 5 hours", 18000 * S },
		{ "in (.*) or", "451 in 2 hours 5 minutes or so", 7500 * S },
		{ "(hours|minutes): (\\\\d+)", "451 minutes: 7", 0 },
		{ "unit (?:h|(m)).*?(\\\\d+)", "451 unit h and 12", 12 * S },
		{ "(\\\\d+)(?=;);(sec|min)", "451 wait=12;min", 720 * S },
		{ "in (\\\\d\\\\d:\\\\d\\\\d:\\\\d\\\\d)", "451 in 00:10:00", 600 * S },
		{ "(x?)in", "451 in 10 minutes", 0 },
		{ "in \\\\d+", "451 in 10 minutes", 600 * S },
		{ "in (\\\\d+)", "451 in 99999999", 0 },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		const struct pattern_engine *engines[] = { NULL, pattern_vectorscan() };

		for (size_t e = 0; e < 2; e++) {
			struct buf text = { 0 };
			struct conf *c;
			struct rules *r;
			struct rules_query q = { .provider = -1, .text = slice_str(rows[i].text) };
			struct rules_hits hits;

			buf_printf(&text,
				   BEGIN "{ reply = \"/%s/\"; actions = \"wait-reply\"; }" END,
				   rows[i].re);
			buf_putc(&text, '\0');
			c = parse(text.data, SLICE_NONE);
			r = rules_new(c, engines[e]);
			rules_match(r, &q, &hits);
			assert_int_equal(hits.n, 1);
			if (hits.wait_us != rows[i].us)
				fail_msg("%s: %llu", rows[i].re, (unsigned long long)hits.wait_us);
			rules_free(&r);
			conf_free(&c);
			buf_clear(&text);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matching),  cmocka_unit_test(test_only_lists_in_use),
		cmocka_unit_test(test_bounds),    cmocka_unit_test(test_together),
		cmocka_unit_test(test_details),   cmocka_unit_test(test_chain),
		cmocka_unit_test(test_wait_text), cmocka_unit_test(test_wait_groups),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
