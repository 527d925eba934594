/* sink_script and sink_rules: texts that are taken and refused; conditions over facts and time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "bench/sink/sink_rules.h"
#include "common/base/err.h"

static const char whole[] =
	"providers = ( { name = \"a\"; listen = [ \"127.0.0.1:25\", \"[::1]:25\" ];\n"
	"  banner = \"220 hi\"; features = [ \"SIZE 1\" ]; delay-ms = { rcpt = 5; dot = 50; };\n"
	"  max-connections = 7; max-messages-per-connection = 9;\n"
	"  rules = ( { stage = \"rcpt\"; percent = 5.0; reply = \"450 4.2.1 later\"; },\n"
	"    { stage = \"dot\"; every = 100; action = \"close\"; } ); }, { } );";

static void
test_whole(void **state)
{
	struct sink_script *s = NULL;
	char err[200] = "";

	(void)state;
	if (sink_script_parse(&s, whole, err, sizeof err) != 0)
		fail_msg("%s", err);
	assert_int_equal(s->n, 2);
	assert_string_equal(s->providers[0].name, "a");
	assert_int_equal(s->providers[0].n_listen, 2);
	assert_string_equal(s->providers[0].listen[1], "[::1]:25");
	assert_int_equal(s->providers[0].n_features, 1);
	assert_int_equal(s->providers[0].delay_ms[SINK_AT_dot], 50);
	assert_int_equal(s->providers[0].delay_ms[SINK_AT_mail], 0);
	assert_int_equal(s->providers[0].max_connections, 7);
	assert_int_equal(s->providers[0].max_messages, 9);
	assert_int_equal(s->providers[0].n_rules, 2);
	assert_int_equal(s->providers[0].rules[1].stage, SINK_AT_dot);
	assert_int_equal(s->providers[0].rules[1].action, SINK_DO_close);
	assert_int_equal(s->providers[0].rules[1].every, 100);
	assert_string_equal(s->providers[1].name, "provider2");
	assert_string_equal(s->providers[1].features[0], "PIPELINING");
	sink_script_free(&s);
	assert_null(s);
}

// clang-format off
static const struct { const char *text, *complaint; } bad[] = {
	{ "providers = ( { nam = \"a\"; } );", "line 1: nam: is not known here" },
	{ "providers = (\n{ name = 1; } );", "line 2: name: wants a string" },
	{ "providers = ( );", "missing" },
	{ "x = 1;", "missing" },
	{ "providers = ( { } ); x = 1;", "only providers" },
	{ "providers = ( { name = \"a b\"; } );", "no blanks" },
	{ "providers = ( { listen = \"a\"; } );", "array" },
	{ "providers = ( { max-connections = -1; } );", "0 or more" },
	{ "providers = ( { delay-ms = { lunch = 1; }; } );", "no stage" },
	{ "providers = ( { rules = ( { reply = \"250 x\"; } ); } );", "needs a stage" },
	{ "providers = ( { rules = ( { stage = \"rcpt\"; } ); } );", "needs a reply" },
	{ "providers = ( { rules = ( { stage = \"lunch\"; reply = \"250 x\"; } ); } );", "none of the known words" },
	{ "providers = ( { rules = ( { stage = \"rcpt\"; reply = \"x\"; } ); } );", "begins with a code" },
	{ "providers = ( { rules = ( { stage = \"rcpt\"; percent = 101; reply = \"450 x\"; } ); } );", "0 to 100" },
	{ "providers = ( { rules = ( { stage = \"rcpt\"; limit = 3; reply = \"450 x\"; } ); } );", "go together" },
	{ "providers = ( { rules = ( { stage = \"rcpt\"; every = 0; reply = \"450 x\"; } ); } );", "positive" },
	{ "providers = ( {", "line 1: syntax error" },
};
// clang-format on

static void
test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct sink_script *s = NULL;
		char err[200] = "";

		assert_int_equal(sink_script_parse(&s, bad[i].text, err, sizeof err), -E_BAD);
		if (s != NULL || strstr(err, bad[i].complaint) == NULL)
			fail_msg("%s: %s", bad[i].text, err);
	}
}

/* The rules of one provider, from the text between the parentheses. */
static struct sink_rules *
rules_of(const char *rules, struct sink_script **s)
{
	char text[1000], err[200];

	snprintf(text, sizeof text, "providers = ( { rules = ( %s ); } );", rules);
	if (sink_script_parse(s, text, err, sizeof err) != 0)
		fail_msg("%s: %s", text, err);
	return sink_rules_new(&(*s)->providers[0], 1);
}

struct step {
	enum sink_stage stage;
	unsigned ms;
	const char *key, *client;
	int rule; /* index of the rule that applies, -1 none */
};

struct play {
	const char *rules;
	struct step steps[12];
};

#define LATER "reply = \"450 later\";"

// clang-format off
#define RC SINK_AT_rcpt
static const struct play plays[] = {
	{ "{ stage = \"rcpt\"; " LATER " }",
	  { { SINK_AT_mail, 0, "a", "c", -1 }, { RC, 0, "a", "c", 0 }, { RC, 9, "b", "d", 0 } } },
	{ "{ stage = \"rcpt\"; match = \"*@a.example\"; " LATER " }, { stage = \"rcpt\"; client = \"127.0.0.2\"; " LATER " }",
	  { { RC, 0, "u@A.Example", "127.0.0.1", 0 }, { RC, 0, "u@b.example", "127.0.0.1", -1 }, { RC, 0, "u@b.example", "127.0.0.2", 1 },
	    { RC, 0, "u@a.example.org", "127.0.0.22", -1 } } },
	{ "{ stage = \"rcpt\"; every = 3; " LATER " }",
	  { { RC, 0, "a", "c", -1 }, { RC, 0, "a", "c", -1 }, { RC, 0, "a", "c", 0 }, { RC, 0, "a", "c", -1 }, { RC, 0, "a", "c", -1 }, { RC, 0, "a", "c", 0 } } },
	{ "{ stage = \"rcpt\"; first-attempts = 2; " LATER " }",
	  { { RC, 0, "a", "c", 0 }, { RC, 0, "b", "c", 0 }, { RC, 0, "a", "c", 0 }, { RC, 0, "a", "c", -1 }, { RC, 0, "b", "c", 0 }, { RC, 0, "b", "c", -1 } } },
	{ "{ stage = \"rcpt\"; from-ms = 100; until-ms = 200; " LATER " }",
	  { { RC, 99, "a", "c", -1 }, { RC, 100, "a", "c", 0 }, { RC, 199, "a", "c", 0 }, { RC, 200, "a", "c", -1 } } },
	/* Two in any 1000 ms; what is refused is not counted. */
	{ "{ stage = \"rcpt\"; limit = 2; window-ms = 1000; " LATER " }",
	  { { RC, 0, "a", "c", -1 }, { RC, 600, "a", "d", -1 }, { RC, 999, "a", "c", 0 }, { RC, 1000, "a", "c", -1 }, { RC, 1500, "a", "c", 0 }, { RC, 1600, "a", "c", -1 },
	    { RC, 1999, "a", "c", 0 }, { RC, 2000, "a", "c", -1 } } },
	{ "{ stage = \"rcpt\"; limit = 1; window-ms = 1000; by = \"client\"; " LATER " }",
	  { { RC, 0, "a", "c", -1 }, { RC, 1, "a", "d", -1 }, { RC, 2, "a", "c", 0 }, { RC, 3, "a", "d", 0 }, { RC, 1000, "a", "c", -1 }, { RC, 1000, "a", "d", 0 } } },
	{ "{ stage = \"rcpt\"; limit = 0; window-ms = 1; " LATER " }", { { RC, 0, "a", "c", 0 }, { RC, 900, "a", "c", 0 } } },
	{ "{ stage = \"rcpt\"; percent = 0; " LATER " }", { { RC, 0, "a", "c", -1 }, { RC, 0, "b", "c", -1 } } },
};
// clang-format on

static void
test_plays(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof plays / sizeof plays[0]; i++) {
		struct sink_script *s = NULL;
		struct sink_rules *r = rules_of(plays[i].rules, &s);

		for (const struct step *st = plays[i].steps; st->key != NULL; st++) {
			struct sink_facts f = { st->stage, st->ms * 1000u, slice_str(st->key),
						slice_str(st->client) };
			const struct sink_rule *got = sink_rules_decide(r, &f);
			int index = got != NULL ? (int)(got - s->providers[0].rules) : -1;

			if (index != st->rule)
				fail_msg("play %zu step %zu: rule %d", i,
					 (size_t)(st - plays[i].steps), index);
		}
		sink_rules_free(&r);
		sink_script_free(&s);
	}
}

static unsigned
hits(struct sink_rules *r, unsigned keys, bool fires[])
{
	unsigned n = 0;

	for (unsigned i = 0; i < keys; i++) {
		char key[20];
		struct sink_facts f = { SINK_AT_rcpt, 0, SLICE_NONE, SLICE_LIT("c") };

		snprintf(key, sizeof key, "u%u", i);
		f.key = slice_str(key);
		fires[i] = sink_rules_decide(r, &f) != NULL;
		n += fires[i];
	}
	return n;
}

static void
test_percent(void **state)
{
	static const char *const rules[] = {
		"{ stage = \"rcpt\"; percent = 5.0; " LATER " }",
		"{ stage = \"rcpt\"; percent = 5.0; sticky = true; " LATER " }",
		"{ stage = \"rcpt\"; percent = 5.0; first-attempts = 1; " LATER " }",
	};
	static bool once[20000], twice[20000];

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct sink_script *s = NULL;
		struct sink_rules *r = rules_of(rules[i], &s);
		unsigned first = hits(r, 20000, once), second = hits(r, 20000, twice);
		bool same = memcmp(once, twice, sizeof once) == 0;

		assert_in_range(first, 850, 1150); /* 1000, five standard deviations */
		if (i < 2)
			assert_in_range(second, 850, 1150);
		else
			assert_int_equal(second, 0);
		assert_int_equal(same, i == 1);
		sink_rules_free(&r);
		sink_script_free(&s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_plays),
		cmocka_unit_test(test_percent),
	};

	return cmocka_run_group_tests_name("bench/sink_script", tests, NULL, NULL);
}
