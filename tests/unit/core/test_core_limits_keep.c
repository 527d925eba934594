/* What is charged, and by what it is found again: in another life of the scheduler, by names; and
 * across a change of the limits while recipients are asked for. */
#include "scheduler/core/rate.h"
#include "tests/unit/core/fixture.h"

#define KEPT 64

static struct conf_vmta vmtas[4];
static struct conf_source_ip ips[3];
static struct conf_limits job, provider;
static const char *names[20]; /* of jobs, by number */
static int tags[20];
static struct kept {
	struct core_charge_key key;
	size_t bytes;
	uint64_t memory[512];
	bool used, taken;
} kept[KEPT];

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	if (scope == CORE_SCOPE_PROVIDER && number == 5)
		*out = provider;
	else if (scope == CORE_SCOPE_JOB && names[number] && strcmp(names[number], "news") == 0)
		*out = job;
	else {
		memset(out, 0, sizeof(*out)); /* it says nothing, whatever is there */
		return false;
	}
	return true;
}

static struct slice
op_scope_name(void *ctx, enum core_scope scope, uint32_t number)
{
	(void)ctx;
	return scope == CORE_SCOPE_JOB && names[number] ? slice_str(names[number]) : SLICE_NONE;
}

static void
op_tag(void *ctx, uint32_t number, uint32_t sender_domain, bool used)
{
	(void)ctx;
	(void)sender_domain;
	tags[number] += used ? 1 : -1;
}

static void *
op_charges(void *ctx, const struct core_charge_key *key, size_t bytes, bool *found)
{
	(void)ctx;
	*found = false;
	for (unsigned i = 0; i < KEPT; i++) {
		struct kept *k = &kept[i];

		if (!k->used || k->taken || k->key.hi != key->hi || k->key.lo != key->lo)
			continue;
		assert_true(bytes <= k->bytes);
		k->taken = *found = true;
		return k->memory;
	}
	for (unsigned i = 0; i < KEPT; i++) {
		if (kept[i].used)
			continue;
		kept[i] = (struct kept){
			.key = *key, .bytes = sizeof(kept[i].memory), .used = true, .taken = true
		};
		return kept[i].memory;
	}
	fail();
	return NULL;
}

static struct kept *
kept_of(void *memory)
{
	for (unsigned i = 0; i < KEPT; i++) {
		if (kept[i].memory == memory)
			return &kept[i];
	}
	fail();
	return NULL;
}

static void
op_charges_free(void *ctx, void *memory)
{
	(void)ctx;
	kept_of(memory)->used = false;
}

static void
op_charges_keep(void *ctx, void *memory)
{
	(void)ctx;
	kept_of(memory)->taken = false;
}

static struct core_world
world(void)
{
	return (struct core_world){ .workers = 2,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = 3,
				    .n_vmtas = 4,
				    .vmtas = vmtas,
				    .source_ips = ips };
}

/* A core over what was kept. */
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
					     .tag = op_tag,
					     .scope_limits = op_scope_limits,
					     .scope_name = op_scope_name,
					     .charges = op_charges,
					     .charges_free = op_charges_free,
					     .charges_keep = op_charges_keep };
	struct core_world w = world();

	core_free(&fx.core);
	for (unsigned i = 0; i < KEPT; i++)
		kept[i].taken = false;
	memset(tags, 0, sizeof(tags));
	fx.core = core_new_in(&ops, NULL, &w, 100);
	for (uint32_t i = 0; i < QUEUES; i++) {
		static const char *const ends[] = { "{default}", "even", "uneven", "one" };
		char name[40];

		snprintf(name, sizeof(name), "d%u.example/%s", i, ends[i % 4]);
		core_queue_add(fx.core, i, slice_str(name));
	}
	for (unsigned i = 0; i < 2; i++)
		core_worker_up(fx.core, &fx.now, i);
}

static int
setup(void **state)
{
	(void)state;
	core_free(&fx.core);
	memcpy(vmtas, fx_vmtas, sizeof(vmtas));
	memset(ips, 0, sizeof(ips));
	ips[0].text = "";
	ips[1].text = "192.0.2.1";
	ips[2].text = "192.0.2.2";
	memset(kept, 0, sizeof(kept));
	memset(names, 0, sizeof(names));
	job = provider = (struct conf_limits){ 0 };
	fx_begin();
	return 0;
}

struct wanted {
	enum core_scope scope;
	uint32_t number;
	uint64_t used;
	unsigned n;
};

static void
pick(void *arg, const struct core_limit_view *v)
{
	struct wanted *w = arg;

	if (v->scope != w->scope || v->measure != CORE_MEASURE_MSG ||
	    (w->number != CORE_NONE && v->number != w->number))
		return;
	w->used = v->used;
	w->n++;
}

static uint64_t
used(enum core_scope scope, uint32_t number)
{
	struct wanted w = { .scope = scope, .number = number };
	uint32_t cursor = 0;

	while (core_each_limit(fx.core, &fx.now, &cursor, 10, pick, &w))
		;
	assert_int_equal(w.n, 1);
	return w.used;
}

static void
mail_of(uint32_t queue, uint32_t number)
{
	struct core_entry_facts f = { .key = { ++fx.next_message, 3 },
				      .queue = queue,
				      .received_s = (uint32_t)(fx.now.wall_us / SECOND),
				      .n_rcpts = 1,
				      .job = number,
				      .committed = true };

	core_entry_add(fx.core, &fx.now, &f);
}

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

/* What the memory says that counts, of the one limit there is. */
static uint64_t
charged(void)
{
	assert_true(kept[0].used && !kept[1].used);
	return rate_used((const struct rate *)kept[0].memory);
}

/* One after the other over one connection. */
static void
send_more(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		size_t works = fx.n_works;

		mail_of(3, 8);
		run();
		assert_int_equal(fx.n_works, works + 1);
		settle_with(works, EVENT_DELIVERED, 0);
		run();
	}
}

/* Far from its N a limit is charged ahead: its memory never says less than what was sent, and who
 * asks is told what was. */
static void
charged_ahead(void **state)
{
	struct kept killed[KEPT];
	uint64_t ahead;

	(void)state;
	job.max_msg_rate = (struct conf_rate){ 100000, HOUR };
	fx.settings[3].connection_idle_timeout_us = 10 * MINUTE;
	names[8] = "news";
	start();
	pass(HOUR - fx.now.boot_us % HOUR);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	settle_with(0, EVENT_DELIVERED, 0);
	run();
	assert_int_equal(charged(), 1);
	send_more(9);
	ahead = charged();
	assert_true(ahead > 10 && ahead < 10 + 100000 / 64);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 10);
	assert_int_equal(charged(), 10);
	/* What was not sent takes from nobody else. */
	send_more(5);
	assert_true(charged() > 15);
	mail_of(3, 8);
	run();
	assert_true(core_returned(fx.core, &fx.now, fx.works[15].entry, fx.works[15].lease));
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 15);
	run();
	settle_with(16, EVENT_DELIVERED, 0);
	/* In the next bucket no more than was sent before. */
	send_more(5);
	assert_true(charged() > 21);
	pass(15 * SECOND);
	send_more(1);
	assert_int_equal(charged(), 22);
	/* Killed, it leaves too much and not too little. */
	send_more(5);
	assert_true(charged() > 27);
	memcpy(killed, kept, sizeof(kept));
	core_free(&fx.core);
	assert_int_equal(charged(), 27);
	memcpy(kept, killed, sizeof(kept));
	start();
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(fx.n_opens - 1);
	assert_true(used(CORE_SCOPE_JOB, 8) >= 28 && used(CORE_SCOPE_JOB, 8) < 28 + 100000 / 64);
}

/* A limit that is set to another N knows what was sent, not what was charged ahead. */
static void
charged_ahead_and_lowered(void **state)
{
	(void)state;
	job.max_msg_rate = (struct conf_rate){ 100000, HOUR };
	fx.settings[3].connection_idle_timeout_us = 10 * MINUTE;
	names[8] = "news";
	start();
	pass(HOUR - fx.now.boot_us % HOUR);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	settle_with(0, EVENT_DELIVERED, 0);
	run();
	send_more(9);
	assert_true(charged() > 10);
	job.max_msg_rate.n = 60; /* a tenth of the window holds 12 */
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_JOB, 8);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 10);
	send_more(2);
	mail_of(3, 8);
	run();
	assert_int_equal(fx.n_works, 12);
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
		T(by_the_name_of_a_job),
		T(number_is_held),
		T(provider_of_the_past),
		T(asked_across_a_reload),
		T(nothing_said),
		T(charged_ahead),
		T(charged_ahead_and_lowered),
		T(longer_before_it_is_used),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
