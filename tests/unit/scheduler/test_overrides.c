/* What operators set: which holds for a queue, one in place of another, what is stored comes back,
 * ends. */
#include "scheduler/overrides.h"
#include "scheduler/settings.h"
#include "tests/unit/conf/fixture.h"

#define HOUR (3600ull * 1000000)

static const struct override *
put(struct overrides *o, enum conf_override_scope scope, const char *object, const char *name,
    const char *value, uint64_t since, uint64_t until_boot_us)
{
	struct buf why = { 0 };
	struct conf_override *limit =
		conf_override_new(scope, slice_str(name), slice_str(value), &why);

	assert_non_null(limit);
	return overrides_put_limit(o, scope, slice_str(object), limit, since,
				   until_boot_us == OVERRIDE_NEVER ? 0 : until_boot_us,
				   until_boot_us);
}

static uint64_t
rate_of(struct overrides *o, const char *queue)
{
	struct conf *c = parsed("virtual-mtas = ( { name = \"V\"; }, { name = \"w\"; } );");
	struct slice vmta = slice_str(queue), domain = slice_cut(&vmta, '/');
	struct conf_queue q;

	conf_queue_over(c, domain, vmta, overrides_of_queue(o, slice_str(queue)), &q);
	conf_free(&c);
	return q.max_msg_rate.n;
}

/* The queue itself, its domain, a part of one, its virtual MTA, all: in whatever order they were
 * set. */
static void
the_nearest_holds(void **state)
{
	static const char *const objects[] = { "*/*", "*/V", "*.example/*", "a.example/*",
					       "a.example/V" };
	// clang-format off
	static const struct { const char *queue; uint64_t rate; } rows[] = {
		{ "x.test/w", 1 }, { "x.test/V", 2 }, { "b.example/V", 3 }, { "b.example/w", 3 },
		{ "a.example/w", 4 }, { "a.example/V", 5 }, { "a.example/v", 5 },
	};
	// clang-format on
	unsigned orders[] = { 0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 2, 4, 0, 1, 3 };

	(void)state;
	for (unsigned k = 0; k < N_OF(orders); k += 5) {
		struct overrides *o = overrides_new();
		char value[20];

		for (unsigned i = 0; i < 5; i++) {
			snprintf(value, sizeof value, "%u/h", orders[k + i] + 1);
			put(o, CONF_OVER_QUEUE, objects[orders[k + i]], "max-msg-rate", value, i,
			    OVERRIDE_NEVER);
		}
		for (size_t i = 0; i < N_OF(rows); i++) {
			if (rate_of(o, rows[i].queue) != rows[i].rate)
				fail_msg("order %u: %s", k, rows[i].queue);
		}
		/* Taken out again one by one. */
		for (unsigned i = 5; i-- > 0;)
			overrides_remove(o, overrides_find(o, STORE_ACT_LIMIT, CONF_OVER_QUEUE,
							   slice_str(objects[i]),
							   SLICE_LIT("max-msg-rate")));
		assert_int_equal(overrides_count(o), 0);
		assert_int_equal(rate_of(o, "a.example/V"), 0);
		overrides_free(&o);
	}
}

static void
one_in_place_of_another(void **state)
{
	struct overrides *o = overrides_new();
	const struct override *row;
	struct conf_limits l = { 0 };
	uint32_t number;

	(void)state;
	row = put(o, CONF_OVER_QUEUE, "a/V", "max-msg-rate", "1/h", 1, OVERRIDE_NEVER);
	number = row->number;
	put(o, CONF_OVER_QUEUE, "a/V", "max-smtp-out", "3", 1, OVERRIDE_NEVER);
	row = put(o, CONF_OVER_QUEUE, "A/v", "max-msg-rate", "2/h", 2, OVERRIDE_NEVER);
	assert_int_equal(row->number, number);
	assert_int_equal(overrides_count(o), 2);
	assert_int_equal(rate_of(o, "a/V"), 2);
	/* The same name in other scopes is another limit. */
	put(o, CONF_OVER_JOB, "a", "max-msg-rate", "7/h", 1, OVERRIDE_NEVER);
	put(o, CONF_OVER_PROVIDER, "a", "max-msg-rate", "8/h", 1, OVERRIDE_NEVER);
	assert_int_equal(overrides_count(o), 4);
	assert_true(overrides_apply(o, CONF_OVER_JOB, SLICE_LIT("A"), &l));
	assert_int_equal(l.max_msg_rate.n, 7);
	assert_false(overrides_apply(o, CONF_OVER_SENDER, SLICE_LIT("a"), &l));
	row = overrides_deciding(o, CONF_OVER_PROVIDER, SLICE_LIT("a"), "max-msg-rate", NULL);
	assert_string_equal(conf_override_value(row->limit), "8/h");
	assert_null(overrides_deciding(o, CONF_OVER_PROVIDER, SLICE_LIT("a"), "max-connect-rate",
				       NULL));
	overrides_free(&o);
}

static void
as_many_as_there_are(void **state)
{
	struct overrides *o = overrides_new();
	char name[40];

	(void)state;
	for (unsigned i = 0; i < OVERRIDES_MAX; i++) {
		snprintf(name, sizeof name, "job%u", i);
		assert_non_null(
			put(o, CONF_OVER_JOB, name, "max-msg-rate", "1/h", 1, OVERRIDE_NEVER));
	}
	assert_null(put(o, CONF_OVER_JOB, "more", "max-msg-rate", "1/h", 1, OVERRIDE_NEVER));
	/* Another value for one that is there. */
	assert_non_null(put(o, CONF_OVER_JOB, "job7", "max-msg-rate", "2/h", 1, OVERRIDE_NEVER));
	assert_int_equal(overrides_count(o), OVERRIDES_MAX);
	overrides_free(&o);
}

static void
comes_back(void **state)
{
	struct overrides *o = overrides_new(), *again = overrides_new();
	const struct override *row, *got;
	struct store_act act;
	uint64_t next, until;

	(void)state;
	row = put(o, CONF_OVER_QUEUE, "a/V", "source-ip-max-msg-rate", "10/8 1/h, 0/0 2/h", 5,
		  100 * HOUR);
	act = overrides_act(row);
	/* An hour is left by the wall clock, wherever the other one stands. */
	assert_true(overrides_restore(again, 9, &act, 99 * HOUR, 7 * HOUR));
	got = overrides_at(again, 0);
	assert_int_equal(got->number, 9);
	assert_int_equal(got->since_wall_us, 5);
	assert_int_equal(got->until_wall_us, 100 * HOUR);
	assert_int_equal(got->until_boot_us, 8 * HOUR);
	assert_string_equal(got->object, "a/V");
	assert_string_equal(conf_override_value(got->limit), "10/8 1/h, 0/0 2/h");
	assert_string_equal(got->origin, "set by operator until 1970-01-05T04:00:00Z");
	assert_null(overrides_ended(again, 8 * HOUR - 1, &next));
	assert_int_equal(next, 8 * HOUR);
	assert_ptr_equal(overrides_ended(again, 8 * HOUR, &next), got);
	row = overrides_put_source(o, SLICE_LIT("*/V"), SLICE_LIT("192.0.2.1"), SLICE_LIT("/etc/r.conf:7"), 6, 0,
				   OVERRIDE_NEVER);
	act = overrides_act(row);
	assert_true(overrides_restore(again, 10, &act, 99 * HOUR, 7 * HOUR));
	got = overrides_find(again, STORE_ACT_SOURCE_DISABLED, CONF_OVER_QUEUE, SLICE_LIT("*/V"),
			     SLICE_LIT("192.0.2.1"));
	assert_string_equal(got->rule, "/etc/r.conf:7");
	assert_true(
		overrides_source_disabled(again, SLICE_LIT("x/V"), SLICE_LIT("192.0.2.1"), &until));
	assert_true(until == OVERRIDE_NEVER);
	/* It ended while nobody ran. */
	act.until_wall_us = 3 * HOUR;
	act.object = SLICE_LIT("b/V");
	assert_true(overrides_restore(again, 11, &act, 99 * HOUR, 7 * HOUR));
	assert_non_null(overrides_ended(again, 7 * HOUR, &next));
	/* Of a later version: left alone, its number is not given again. */
	act.kind = 77;
	assert_false(overrides_restore(again, 1, &act, 99 * HOUR, 7 * HOUR));
	row = put(again, CONF_OVER_JOB, "j", "max-msg-rate", "1/h", 1, OVERRIDE_NEVER);
	assert_int_equal(row->number, 2);
	overrides_free(&o);
	overrides_free(&again);
}

static void
disabled_for(void **state)
{
	struct overrides *o = overrides_new();
	struct slice ip = SLICE_LIT("192.0.2.1"), other = SLICE_LIT("192.0.2.2");
	uint64_t until;

	(void)state;
	overrides_put_source(o, SLICE_LIT("*/*"), ip, SLICE_NONE, 1, 0, OVERRIDE_NEVER);
	assert_false(overrides_disable_for_some(o));
	assert_false(overrides_source_disabled(o, SLICE_LIT("a/V"), ip, &until));
	overrides_put_source(o, SLICE_LIT("a/*"), ip, SLICE_NONE, 1, 5, 5);
	overrides_put_source(o, SLICE_LIT("a/V"), ip, SLICE_NONE, 1, 4, 4);
	assert_true(overrides_disable_for_some(o));
	assert_true(overrides_source_disabled(o, SLICE_LIT("a/V"), ip, &until));
	assert_int_equal(until, 5);
	assert_false(overrides_source_disabled(o, SLICE_LIT("b/V"), ip, &until));
	assert_false(overrides_source_disabled(o, SLICE_LIT("a/V"), other, &until));
	for (size_t i = overrides_count(o); i-- > 0;)
		overrides_remove(o, overrides_at(o, i));
	assert_false(overrides_disable_for_some(o));
	overrides_free(&o);
}

/* What was put together stays for who has it; what is asked for anew has the override in it. */
static void
settings_are_put_together_anew(void **state)
{
	struct overrides *o = overrides_new();
	struct conf *c = parsed("virtual-mtas = ( { name = \"V\"; } );");
	struct settings *s = settings_new(c, o);
	const struct conf_queue *before, *after;

	(void)state;
	before = settings_get(s, 3, SLICE_LIT("a/V"));
	assert_ptr_equal(settings_get(s, 4, SLICE_LIT("b/V")), before);
	put(o, CONF_OVER_QUEUE, "a/V", "max-msg-rate", "3/h", 1, OVERRIDE_NEVER);
	settings_forget(s, 3);
	settings_forget(s, 3000);
	after = settings_get(s, 3, SLICE_LIT("a/V"));
	assert_int_equal(after->max_msg_rate.n, 3);
	assert_int_equal(before->max_msg_rate.n, 0);
	assert_ptr_equal(settings_get(s, 4, SLICE_LIT("b/V")), before);
	put(o, CONF_OVER_QUEUE, "*/V", "max-msg-rate", "3/h", 1, OVERRIDE_NEVER);
	settings_forget_all(s);
	assert_ptr_equal(settings_get(s, 4, SLICE_LIT("b/V")), after); /* equal ones are one */
	settings_free(&s);
	overrides_free(&o);
	conf_free(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_nearest_holds),
		cmocka_unit_test(one_in_place_of_another),
		cmocka_unit_test(as_many_as_there_are),
		cmocka_unit_test(comes_back),
		cmocka_unit_test(disabled_for),
		cmocka_unit_test(settings_are_put_together_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
