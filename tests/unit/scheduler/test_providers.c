/* Providers: which queues share one, and that numbers mean one thing as long as somebody uses them.
 */
#include "scheduler/providers.h"
#include "tests/unit/conf/fixture.h"

static const char with_google[] =
	"providers = ( { name = \"google\"; mx = [ \"*.google.com\", \"gmail.test\" ]; "
	"max-msg-rate = \"5/s\"; }, { name = \"all\"; mx = \"*.test\"; } );";

static void
expect_name(const struct providers *p, uint32_t provider, const char *name)
{
	struct slice s = providers_name(p, provider);

	if (!slice_is(s, name))
		fail_msg("%.*s instead of %s", (int)s.n, s.p, name);
}

static void
test_key(void **state)
{
	struct conf *c = parsed(with_google);
	struct providers *p = providers_new();
	struct conf_limits l;
	uint32_t a, b, hosts;

	(void)state;
	a = providers_route(p, c, 1, SLICE_LIT("a.google.com,gmail.test"));
	b = providers_route(p, c, 2, SLICE_LIT("b.google.com"));
	assert_int_equal(a, b);
	expect_name(p, a, "google");
	assert_true(providers_limits(p, c, a, &l));
	assert_int_equal(l.max_msg_rate.n, 5);
	/* the first one that has all of them */
	expect_name(p, providers_route(p, c, 3, SLICE_LIT("gmail.test,other.test")), "all");
	/* none has: the hosts, shared by whoever has the same */
	hosts = providers_route(p, c, 4, SLICE_LIT("a.google.com,mx.example"));
	expect_name(p, hosts, "a.google.com,mx.example");
	assert_int_equal(providers_route(p, c, 5, SLICE_LIT("a.google.com,mx.example")), hosts);
	assert_false(providers_limits(p, c, hosts, &l));
	/* hosts that are called like a provider are none */
	assert_int_not_equal(providers_route(p, c, 6, SLICE_LIT("google")), a);
	assert_false(providers_limits(p, c, providers_route(p, c, 6, SLICE_LIT("google")), &l));
	/* a hash for what found no room matches no pattern */
	expect_name(p, providers_route(p, c, 7, SLICE_LIT("a.google.com,#0123456789abcdef")),
		    "google");
	/* an answer without hosts leaves it */
	assert_int_equal(providers_route(p, c, 1, SLICE_NONE), a);
	assert_int_equal(providers_route(p, c, 8, SLICE_NONE), 0);
	assert_false(providers_limits(p, c, 0, &l));
	/* another MX */
	expect_name(p, providers_route(p, c, 1, SLICE_LIT("mx.example")), "mx.example");
	assert_int_equal(providers_route(p, c, 2, SLICE_LIT("b.google.com")), b);
	providers_free(&p);
	conf_free(&c);
}

struct changes {
	unsigned n;
	uint32_t queue[10], provider[10];
};

static void
note_change(void *arg, uint32_t queue, uint32_t provider)
{
	struct changes *ch = arg;

	assert_true(ch->n < 10);
	ch->queue[ch->n] = queue;
	ch->provider[ch->n++] = provider;
}

static void
test_reload(void **state)
{
	struct conf *with = parsed(with_google), *without = parsed("");
	struct providers *p = providers_new();
	struct changes ch = { 0 };
	struct conf_limits l;
	uint32_t google = providers_route(p, with, 1, SLICE_LIT("a.google.com"));

	(void)state;
	providers_route(p, with, 2, SLICE_LIT("mx.example"));
	providers_route(p, with, 5, SLICE_LIT("a.google.com"));
	providers_reload(p, without, note_change, &ch);
	assert_int_equal(ch.n, 2);
	assert_int_equal(ch.queue[0], 1);
	assert_int_equal(ch.queue[1], 5);
	expect_name(p, ch.provider[0], "a.google.com");
	assert_int_equal(ch.provider[1], ch.provider[0]);
	assert_false(providers_limits(p, without, google, &l)); /* it may still count in it */
	ch.n = 0;
	providers_reload(p, without, note_change, &ch);
	assert_int_equal(ch.n, 0);
	providers_reload(p, with, note_change, &ch); /* and back: the same number */
	assert_int_equal(ch.n, 2);
	assert_int_equal(ch.provider[0], google);
	providers_free(&p);
	conf_free(&with);
	conf_free(&without);
}

/* Domains that change their MX all the time: what nobody has is forgotten, what somebody has is
 * not. */
static void
test_forgetting(void **state)
{
	struct conf *c = parsed(with_google);
	struct providers *p = providers_new();
	uint32_t kept = providers_route(p, c, 1, SLICE_LIT("kept.example"));
	uint32_t google = providers_route(p, c, 2, SLICE_LIT("a.google.com")), highest = 0;

	(void)state;
	providers_route(p, c, 2,
			SLICE_LIT("mx.example")); /* nobody has google, but its number stays */
	for (unsigned i = 0; i < 50000; i++) {
		char hosts[60];
		int n = snprintf(hosts, sizeof hosts, i % 3 == 0 ? "h%u.google.com" : "h%u.example",
				 i);
		uint32_t number = providers_route(p, c, 3, slice_of(hosts, (size_t)n));

		if (i % 3 == 0)
			assert_int_equal(number, google);
		else
			expect_name(p, number, hosts);
		highest = number > highest ? number : highest;
		if (i % 100 == 99)
			providers_sweep(p);
	}
	assert_true(highest < 1000);
	expect_name(p, kept, "kept.example");
	expect_name(p, google, "google");
	assert_int_equal(providers_route(p, c, 4, SLICE_LIT("kept.example")), kept);
	providers_free(&p);
	conf_free(&c);
}

static void
test_renumber(void **state)
{
	struct conf *c = parsed("");
	struct providers *p = providers_new();

	(void)state;
	providers_renumber(p, 1, 2); /* not known yet */
	providers_route(p, c, 1, SLICE_LIT("a.example"));
	providers_route(p, c, 5, SLICE_LIT("b.example"));
	providers_renumber(p, 1, 900);
	providers_renumber(p, 5, 3);
	assert_true(slice_is(providers_hosts(p, 900), "a.example"));
	assert_true(slice_is(providers_hosts(p, 3), "b.example"));
	assert_int_equal(providers_hosts(p, 1).n, 0);
	assert_int_equal(providers_hosts(p, 5000).n, 0);
	assert_true(slice_is(providers_of(p, 900), "a.example"));
	/* What it had is forgotten, what it has is not. */
	providers_renumber(p, 3, 900);
	providers_sweep(p);
	assert_true(slice_is(providers_hosts(p, 900), "b.example"));
	providers_free(&p);
	conf_free(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key),
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_forgetting),
		cmocka_unit_test(test_renumber),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
