/* Queues made of several domains: queue-to, and what mx-rollup-list makes of a domain's MX hosts.
 */
#include "tests/unit/conf/fixture.h"

static void
expect(const char *what, const char *got, const char *want)
{
	if ((got == NULL) != (want == NULL) || (got != NULL && strcmp(got, want) != 0))
		fail_msg("%s: %s instead of %s", what, got ? got : "none", want ? want : "none");
}

static void
test_queue_to(void **state)
{
	static const struct {
		const char *queue, *to;
	} rows[] = {
		{ "a.test/{default}", "one.queue" },
		{ "sub.b.test/{default}", "one.queue" },
		{ "b.test/{default}", NULL },
		{ "one.queue/{default}", NULL },  /* to itself */
		{ "c.test/{default}", "a.test" }, /* one step: what a.test says is for mail to
						     a.test */
		{ "a.test/v", "v.queue" },
		{ "c.test/v", "a.test" },
		{ "[10.0.0.1]/v", "ten.queue" },
		{ "d.test/w", "one.queue" }, /* of a macro */
	};
	struct conf *c = parsed(
		"domain-macros = ( { name = \"m\"; domains = [ \"d.test\", \"e.test\" ]; } );\n"
		"domains = ( { name = \"a.test\"; queue-to = \"One.Queue.\"; }, { name = "
		"\"*.b.test\"; queue-to = \"one.queue\"; },\n"
		"  { name = \"one.queue\"; queue-to = \"one.queue\"; }, { name = \"c.test\"; "
		"queue-to = \"a.test\"; },\n"
		"  { name = \"$m\"; queue-to = \"one.queue\"; }, { name = \"[10/8]\"; queue-to = "
		"\"ten.queue\"; } );\n"
		"virtual-mtas = ( { name = \"v\"; domains = ( { name = \"a.test\"; queue-to = "
		"\"v.queue\"; } ); } );");
	struct conf *none = parsed("domains = ( { name = \"a.test\"; } );");

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct slice vmta = slice_str(rows[i].queue), domain = slice_cut(&vmta, '/');

		expect(rows[i].queue, conf_queue_to(c, domain, vmta), rows[i].to);
		expect("none", conf_queue_to(none, domain, vmta), NULL);
	}
	conf_free(&c);
	conf_free(&none);
}

/* Addresses are those of mx1.byip.test, say. */
static bool
reaches(void *arg, const char *hosts)
{
	return arg != NULL && strcmp(hosts, arg) == 0;
}

static void
test_rollup(void **state)
{
	static const struct {
		const char *domain, *mx, *queue; /* mx: with commas */
	} rows[] = {
		/* every MX that is named for the queue is among the domain's */
		{ "d.test", "mx1.one.test,mx2.one.test", "one.rollup" },
		{ "d.test", "MX2.one.test,mx1.ONE.test", "one.rollup" },
		{ "d.test", "mx1.one.test", NULL },
		{ "d.test", "mx1.one.test,other.test", NULL },
		/* the domain may have more: they are not used then */
		{ "d.test", "mx1.one.test,mx2.one.test,other.test", "one.rollup" },
		/* wildcards */
		{ "d.test", "alt3.google.test", "google.rollup" },
		{ "d.test", "google.test", NULL },
		{ "d.test", "alt3.google.test,other.test", "google.rollup" },
		{ "d.test", "a.both.test", NULL },
		{ "d.test", "a.both.test,b.fixed.test", "both.rollup" },
		/* the first queue of the list */
		{ "d.test", "alt3.google.test,mx1.one.test,mx2.one.test", "one.rollup" },
		/* by addresses: patterns are for names, hosts are not */
		{ "d.test", "x.byip.test", "i:pattern.rollup" },
		{ "d.test", "x.byip.test,other.test", "i:pattern.rollup" },
		{ "d.test", "mx1.byhost.test", NULL },
		{ "d.test", "mx1.byhost.test", "h:host.rollup" },
		{ "d.test", "whatever.test", "h:host.rollup" },
		{ "d.test", "whatever.test,x.byip.test", "h:host.rollup" },
		{ "off.test", "whatever.test", NULL },
		{ "off.test", "x.byip.test", NULL },
		{ "10.0.0.1.host.rollup", "x.byip.test", NULL },
		{ "d.test", "", NULL },
		/* nobody says where its mail would go */
		{ "d.test", "a.nobody.test", NULL },
		{ "v.test", "a.nobody.test", "v:nobody.rollup" },
		/* not everyone wants it, and a rollup queue is none of its own members */
		{ "off.test", "mx1.one.test,mx2.one.test", NULL },
		{ "one.rollup", "mx1.one.test,mx2.one.test", NULL },
	};
	struct conf *c =
		parsed("mx-rollup-list = { mx = [ \"mx1.one.test One.rollup\", \"*.google.test "
		       "google.rollup\",\n"
		       " \"*.both.test both.rollup\", \"b.fixed.test both.rollup\", \"mx2.one.test "
		       "one.rollup\",\n"
		       " \"*.nobody.test nobody.rollup\", \"mx1.byhost.test host.rollup rollup-by-ip\", \"*.byip.test  pattern.rollup rollup-by-ip\" ]; };\n"
		       "domains = ( { name = \"off.test\"; disable-mx-rollup = true; },\n"
		       " { name = \"google.rollup\"; smtp-hosts = \"a.test\"; }, { name = \"both.rollup\"; "
		       "smtp-hosts = \"[10.0.0.1]\"; } );\n"
		       "virtual-mtas = ( { name = \"v\"; domains = ( { name = \"nobody.rollup\"; smtp-hosts = "
		       "\"a.test\"; } ); } );");

	struct slice two[2];

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct slice rest = slice_str(rows[i].mx), mx[4];
		const char *want = rows[i].queue;
		char kind = want != NULL && want[1] == ':' ? want[0] : 0;
		struct conf_rolled to = { NULL, NULL, false };
		size_t n = 0;

		while (rest.p != NULL && rest.n > 0)
			mx[n++] = slice_cut(&rest, ',');
		(void)conf_rollup(c, slice_str(rows[i].domain),
				  kind == 'v' ? SLICE_LIT("v") : SLICE_LIT("{default}"), mx, n,
				  reaches, kind == 'h' ? (void *)(uintptr_t)"mx1.byhost.test" : NULL,
				  &to);
		expect(rows[i].mx, to.queue, kind ? want + 2 : want);
		assert_int_equal(to.by_ip, kind == 'i' || kind == 'h');
		expect(rows[i].mx, to.hosts, kind == 'h' ? "mx1.byhost.test" : NULL);
	}
	assert_true(conf_has_rollups(c));
	expect("hosts", conf_rollup_hosts(c, SLICE_LIT("ONE.rollup")), "mx1.one.test,mx2.one.test");
	expect("patterns", conf_rollup_hosts(c, SLICE_LIT("both.rollup")), NULL);
	assert_true(conf_rollup_names(c, SLICE_LIT("Both.rollup"), SLICE_LIT("B.fixed.test")));
	assert_false(conf_rollup_names(c, SLICE_LIT("both.rollup"), SLICE_LIT("c.fixed.test")));
	assert_false(conf_rollup_names(c, SLICE_LIT("no.rollup"), SLICE_LIT("b.fixed.test")));
	assert_int_equal(conf_rollup_patterns(c, SLICE_LIT("both.rollup"), two, 2), 2);
	assert_true(slice_is(two[0], "*.both.test") && slice_is(two[1], "b.fixed.test"));
	assert_int_equal(conf_rollup_patterns(c, SLICE_LIT("both.rollup"), two, 1), 1);
	assert_int_equal(conf_rollup_patterns(c, SLICE_LIT("no.rollup"), two, 2), 0);
	expect("no such", conf_rollup_hosts(c, SLICE_LIT("d.test")), NULL);
	assert_true(conf_is_rollup(SLICE_LIT("any.Rollup")));
	assert_false(conf_is_rollup(SLICE_LIT(".rollup")) || conf_is_rollup(SLICE_LIT("a.rollup.test")));
	conf_free(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_queue_to),
		cmocka_unit_test(test_rollup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
