/* What is charged, and by what it is found again: in another life of the scheduler, by names; and
 * across a change of the limits while recipients are asked for. */
#include "tests/unit/core/kept.h"

/* The number of a job is given to another one while nobody runs: each has what it was charged. */
static void
by_the_name_of_a_job(void **state)
{
	(void)state;
	job.max_msg_rate = (struct conf_rate){ 50, HOUR };
	names[8] = "news";
	start();
	mail_of(3, 8);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	while (fx.n_works < 2)
		opened(fx.n_opens - 1);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 2);
	names[8] = "ads";
	names[9] = "news";
	start();
	mail_of(3, 9);
	run();
	route(3, 1);
	opened(fx.n_opens - 1);
	assert_int_equal(used(CORE_SCOPE_JOB, 9), 3);
	/* And the other way round: a name of this number has nothing to do with it. */
	names[8] = "news";
	names[9] = "ads";
	start();
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(fx.n_opens - 1);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 4);
}

/* As long as something is charged to it the number of a job is not another's. */
static void
number_is_held(void **state)
{
	(void)state;
	job.max_msg_rate = (struct conf_rate){ 50, HOUR };
	names[8] = "news";
	names[9] = "ads";
	start();
	mail_of(3, 8);
	mail_of(3, 9);
	run();
	route(3, 1);
	opened(0);
	while (fx.n_works < 2)
		opened(fx.n_opens - 1);
	settle_with(0, EVENT_DELIVERED, 0);
	settle_with(1, EVENT_DELIVERED, 0);
	run();
	assert_int_equal(tags[8], 1);
	assert_int_equal(tags[9], 0);
}

static void
provider_of_the_past(void **state)
{
	struct core_past p = { .queue = CORE_NONE,
			       .source_ip = CORE_NONE,
			       .provider = slice_str("google"),
			       .provider_number = 5,
			       .age_us = MINUTE,
			       .rcpts = 4 };

	(void)state;
	provider.max_msg_rate = (struct conf_rate){ 30, HOUR };
	start();
	core_charge_event(fx.core, &fx.now, &p);
	assert_int_equal(used(CORE_SCOPE_PROVIDER, 5), 4);
	/* The queue that comes to it finds it charged; and so does the next process. */
	core_route_provider(fx.core, &fx.now, 3, 5, slice_str("google"));
	assert_int_equal(used(CORE_SCOPE_PROVIDER, 5), 4);
	start();
	core_route_provider(fx.core, &fx.now, 3, 5, slice_str("google"));
	assert_int_equal(used(CORE_SCOPE_PROVIDER, 5), 4);
}

static bool
ask(unsigned index)
{
	uint64_t stamp, deadline;

	return core_rcpt_ask(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease, index, &stamp,
			     &deadline);
}

/* A reload in the middle of a transaction: the limits that are new hold for the next recipient. */
static void
asked_across_a_reload(void **state)
{
	static const uint32_t same[] = { 0, 1, 2 };
	struct core_world w;

	(void)state;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 1000, HOUR };
	start();
	mail(3, 8);
	run();
	route(3, 1);
	core_opened_as(fx.core, &fx.now, fx.opens[0].connection, 0, false);
	run();
	assert_int_equal(fx.n_works, 1);
	assert_true(ask(0));
	pass(1000);
	vmtas[3].limits.max_msg_rate = (struct conf_rate){ 10, HOUR };
	provider.max_msg_rate = (struct conf_rate){ 100, HOUR };
	w = world();
	core_reconfigure_in(fx.core, &fx.now, &w, same);
	core_route_provider(fx.core, &fx.now, 3, 5, slice_str("google"));
	assert_true(ask(1) && ask(2));
	assert_false(ask(3)); /* two are a fifth of 10 */
	assert_int_equal(used(CORE_SCOPE_VMTA, 3), 2);
	assert_int_equal(used(CORE_SCOPE_PROVIDER, 5), 2);
	assert_int_equal(used(CORE_SCOPE_QUEUE, CORE_NONE), 3);
	/* Not attempted after all: each gets back what it was charged, no more. */
	core_charge_event(fx.core, &fx.now,
			  &(struct core_past){ .queue = 3, .source_ip = 1, .rcpts = 1 });
	assert_true(core_returned(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease));
	core_check(fx.core);
	assert_int_equal(used(CORE_SCOPE_QUEUE, CORE_NONE), 1);
	assert_int_equal(used(CORE_SCOPE_VMTA, 3), 1);
	assert_int_equal(used(CORE_SCOPE_PROVIDER, 5), 0);
}

/* The limit of a job is set to a longer window before the job is used again: what counted then
 * counts in that one, however late it is used. */
static void
longer_before_it_is_used(void **state)
{
	static const uint32_t same[] = { 0, 1, 2 };
	struct core_world w = world();

	(void)state;
	job.max_msg_rate = (struct conf_rate){ 50, 10 * MINUTE };
	names[8] = "news";
	start();
	mail_of(3, 8);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	while (fx.n_works < 2)
		opened(fx.n_opens - 1);
	pass(5 * MINUTE);
	start();
	job.max_msg_rate = (struct conf_rate){ 128, 24 * HOUR };
	core_reconfigure_in(fx.core, &fx.now, &w, same);
	fx.now.boot_us += 20 * MINUTE;
	fx.now.wall_us += 20 * MINUTE;
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(fx.n_opens - 1);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 3);
}

/* What the driver says with a false does not matter. */
static void
nothing_said(void **state)
{
	(void)state;
	ips[1].limits.max_msg_rate = (struct conf_rate){ 40, HOUR };
	start();
	assert_int_equal(used(CORE_SCOPE_SOURCE, CORE_NONE), 0);
}

#define T(name) cmocka_unit_test_setup(name, setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(by_the_name_of_a_job),  T(number_is_held), T(provider_of_the_past),
		T(asked_across_a_reload), T(nothing_said),   T(longer_before_it_is_used),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
