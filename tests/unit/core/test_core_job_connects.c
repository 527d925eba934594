/* Connect rates of jobs and sender domains: an attempt is charged to those of the message it is
 * made for. */
#include "tests/unit/core/fixture_limits.h"

static struct conf_limits jobs[2]; /* of job 8 and 9 */
static struct conf_limits sender;

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	if (scope == CORE_SCOPE_JOB)
		*out = jobs[number - 8];
	else if (scope == CORE_SCOPE_SENDER)
		*out = sender;
	else
		return false;
	return true;
}

static void
start(void)
{
	static const struct core_ops ops = { FX_OPS, .scope_limits = op_scope_limits };
	struct core_world w = fx_limits_world(3);

	for (uint32_t i = 0; i < QUEUES; i++)
		fx.settings[i].connection_idle_timeout_us = HOUR;
	fx_core_in(&ops, &w);
}

static int
setup(void **state)
{
	(void)state;
	fx_unlimited();
	fx_begin();
	memset(jobs, 0, sizeof(jobs));
	sender = (struct conf_limits){ 0 };
	return 0;
}

static void
mail_of(uint32_t queue, uint32_t job, unsigned n)
{
	while (n-- > 0)
		fx_mail_of(queue, job, 9);
	run();
}

static uint64_t
used(enum core_scope scope, uint32_t number)
{
	return fx_limits_view(scope, CORE_MEASURE_CONNECT, number).used;
}

/* Two of ten in a tenth; what was not attempted comes back; the rest waits in the line. */
static void
charged_to_the_job(void **state)
{
	struct core_limit_view v;

	(void)state;
	jobs[0].max_connect_rate = (struct conf_rate){ 10, HOUR };
	start();
	mail_of(3, 8, 6);
	route(3, 1);
	assert_int_equal(fx.n_opens, 2);
	assert_int_equal(fx.opens[0].job, 8);
	assert_int_equal(fx.opens[0].sender_domain, 9);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 2);
	assert_true(core_blocking_limit(fx.core, &fx.now, 3, &v));
	assert_int_equal(v.scope, CORE_SCOPE_JOB);
	assert_int_equal(v.measure, CORE_MEASURE_CONNECT);
	/* Another queue with mail of the job has none either, until its time comes. */
	mail_of(7, 8, 1);
	route(7, 1);
	assert_int_equal(fx.n_opens, 2);
	open_failed(0, CORE_FAIL_NOT_ATTEMPTED);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 2);
	assert_int_equal(fx.n_opens, 3);
	pass(13 * MINUTE); /* several wait: a steady pace */
	route(3, 1);
	assert_true(fx.n_opens >= 4);
	/* A connection that is there is used by all of them. */
	opened(fx.n_opens - 1);
	assert_true(fx.n_works >= 1);
}

/* Of a job without room: the connection is made for one behind it. */
static void
another_job_passes(void **state)
{
	(void)state;
	jobs[0].max_connect_rate = (struct conf_rate){ 1, HOUR };
	start();
	mail_of(3, 8, 2);
	mail_of(3, 9, 1);
	route(3, 1);
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(fx.opens[0].job, 8);
	assert_int_equal(fx.opens[1].job, 9);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 1);
}

static void
charged_to_the_sender(void **state)
{
	struct core_past p = {
		.queue = 3, .source_ip = 1, .sender_domain = 9, .age_us = MINUTE, .connects = 1
	};

	(void)state;
	sender.max_connect_rate = (struct conf_rate){ 10, HOUR };
	start();
	core_charge_event(fx.core, &fx.now, &p);
	assert_int_equal(used(CORE_SCOPE_SENDER, 9), 1);
	mail_of(3, 8, 6);
	route(3, 1);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(used(CORE_SCOPE_SENDER, 9), 2);
}

#define T(name) cmocka_unit_test_setup(name, setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(charged_to_the_job),
		T(another_job_passes),
		T(charged_to_the_sender),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
