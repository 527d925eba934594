/* When the last idle connection has its message the limits are not asked again for the next one:
 * only if they would say the same. */
#include "tests/unit/core/fixture.h"

static struct conf_limits jobs[2]; /* of job 8 and 9 */

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	if (scope != CORE_SCOPE_JOB)
		return false;
	*out = jobs[number - 8];
	return true;
}

static void
start(void)
{
	static const struct core_ops ops = { .settings = fx_settings,
					     .ask_route = fx_ask,
					     .open = fx_open,
					     .work = fx_work,
					     .close = fx_close,
					     .give_up = fx_give_up,
					     .queue_changed = fx_changed,
					     .scope_limits = op_scope_limits };
	struct core_world w = { .workers = 2,
				.total_max_smtp_out = CONF_UNLIMITED,
				.n_source_ips = 3,
				.n_vmtas = 4,
				.vmtas = fx_vmtas };

	core_free(&fx.core);
	fx.core = core_new_in(&ops, NULL, &w, 100);
	for (uint32_t i = 0; i < 8; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%u.example/one", i);
		core_queue_add(fx.core, i, slice_str(name));
		fx.settings[i].connection_idle_timeout_us = HOUR;
	}
	for (unsigned i = 0; i < 2; i++)
		core_worker_up(fx.core, &fx.now, i);
}

static int
setup(void **state)
{
	(void)state;
	fx_begin();
	memset(jobs, 0, sizeof(jobs));
	return 0;
}

/* Nobody looks at it yet. */
static void
put(uint32_t queue, uint32_t job, unsigned rcpts, uint32_t kbytes)
{
	struct core_entry_facts f = { .key = { ++fx.next_message, 3 },
				      .queue = queue,
				      .received_s = (uint32_t)(fx.now.wall_us / SECOND),
				      .n_rcpts = (uint16_t)rcpts,
				      .kbytes = kbytes,
				      .job = job,
				      .committed = true };

	core_entry_add(fx.core, &fx.now, &f);
}

static void
puts_of(uint32_t queue, uint32_t job, unsigned n)
{
	while (n-- > 0)
		put(queue, job, 1, 20);
}

/* The only connection of queue 3, idle again, when the job has sent that many over it. */
static void
one_idle(uint32_t job, unsigned sent)
{
	for (unsigned i = 0; i < sent; i++) {
		puts_of(3, job, 1);
		run();
		if (i == 0) {
			route(3, 1);
			opened(0);
		}
		assert_int_equal(fx.n_works, i + 1);
		settle(i, EVENT_DELIVERED);
	}
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(fx.n_closes, 0);
	assert_int_equal(view(3).connections, 1);
}

static void
waits_for_job_8(void)
{
	struct core_limit_view v;

	assert_int_equal(fx.n_opens, 1);
	assert_true(core_blocking_limit(fx.core, &fx.now, 3, &v));
	assert_int_equal(v.scope, CORE_SCOPE_JOB);
	assert_int_equal(v.number, 8);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE);
}

/* One of another job went first, past those whose job has no room: they are not like it. */
static void
past_a_job_without_room(void **state)
{
	(void)state;
	jobs[0].max_msg_rate = (struct conf_rate){ 10, HOUR };
	start();
	one_idle(8, 2);
	puts_of(3, 8, 5);
	puts_of(3, 9, 1);
	run();
	assert_int_equal(fx.n_works, 3);
	waits_for_job_8();
}

static void
before_a_job_without_room(void **state)
{
	(void)state;
	jobs[0].max_msg_rate = (struct conf_rate){ 10, HOUR };
	start();
	one_idle(8, 2);
	puts_of(3, 9, 1);
	puts_of(3, 8, 5);
	run();
	assert_int_equal(fx.n_works, 3);
	waits_for_job_8();
}

/* What was just granted counts: there is no connection too much. */
static void
one_place_less(void **state)
{
	(void)state;
	jobs[0].max_smtp_out = 3;
	start();
	one_idle(8, 1);
	puts_of(3, 8, 6);
	run();
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.n_opens, 3);
}

/* A transaction may take all that there was room for. */
static void
all_at_once(void **state)
{
	(void)state;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 5000, HOUR };
	start();
	put(3, 8, 1000, 20);
	run();
	route(3, 1);
	assert_int_equal(fx.n_opens, 1);
	put(3, 8, 1000, 20);
	put(3, 8, 1000, 20);
	opened(0);
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(fx.works[0].n_attempt, 1000);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE);
}

/* The last one that there is room for. */
static void
near_a_rate(void **state)
{
	(void)state;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 10, HOUR };
	start();
	one_idle(8, 1);
	puts_of(3, 8, 5);
	run();
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE);
}

static void
near_a_count(void **state)
{
	struct core_limit_view v;

	(void)state;
	jobs[0].max_smtp_out = 1;
	start();
	one_idle(8, 1);
	puts_of(3, 8, 5);
	run();
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.n_opens, 1);
	assert_true(core_blocking_limit(fx.core, &fx.now, 3, &v));
	assert_int_equal(v.measure, CORE_MEASURE_SMTP_OUT);
}

/* Nor is a larger one like it. */
static void
larger_body(void **state)
{
	(void)state;
	fx.settings[3].max_data_volume_rate = (struct conf_rate){ 10 << 20, HOUR };
	start();
	one_idle(8, 3);
	put(3, 8, 1, 20);
	put(3, 8, 1, 3000);
	run();
	assert_int_equal(fx.n_works, 4);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE);
}

/* There is room for one such body and not for two. */
static void
same_body_again(void **state)
{
	(void)state;
	fx.settings[3].max_data_volume_rate = (struct conf_rate){ 10 << 20, HOUR };
	start();
	one_idle(8, 3);
	put(3, 8, 1, 1100);
	put(3, 8, 1, 1100);
	run();
	assert_int_equal(fx.n_works, 4);
	assert_int_equal(fx.n_opens, 1);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE);
}

/* Far from all limits it opens what it needs. */
static void
room_for_all(void **state)
{
	(void)state;
	jobs[0].max_msg_rate = (struct conf_rate){ 100000, HOUR };
	fx.settings[3].max_data_volume_rate = (struct conf_rate){ 1 << 30, HOUR };
	start();
	one_idle(8, 3);
	puts_of(3, 8, 5);
	run();
	assert_int_equal(fx.n_works, 4);
	assert_int_equal(fx.n_opens, 5);
}

#define T(name) cmocka_unit_test_setup(name, setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(past_a_job_without_room),
		T(before_a_job_without_room),
		T(one_place_less),
		T(all_at_once),
		T(near_a_rate),
		T(near_a_count),
		T(larger_body),
		T(same_body_again),
		T(room_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
