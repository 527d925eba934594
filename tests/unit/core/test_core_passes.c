/* What is far from all its limits is not asked, and the first change of anything is obeyed. */
#include "scheduler/core/state.h"
#include "tests/unit/core/fixture_limits.h"

#define NUMBER 3 /* queue of virtual MTA "one", whose source IP is 1 */
#define OTHER  7 /* another one there */
#define JOB    8
#define SENDER 9

static struct conf_limits of[CORE_SCOPE_ALL + 1], at_source, large;
static bool has[CORE_SCOPE_ALL + 1];

static void
op_source_limits(void *ctx, uint32_t queue, struct slice name, uint32_t source, bool backoff,
		 struct conf_limits *out)
{
	(void)ctx;
	(void)queue;
	(void)name;
	(void)source;
	(void)backoff;
	*out = at_source;
}

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	(void)number;
	if (has[scope])
		*out = of[scope];
	return has[scope];
}

static void
set(enum core_scope scope, const struct conf_limits *l)
{
	has[scope] = true;
	of[scope] = *l;
}

/* From now on; at once. */
static void
set_now(enum core_scope scope, uint32_t number, const struct conf_limits *l)
{
	set(scope, l);
	core_limits_changed(fx.core, &fx.now, scope, number);
}

struct wanted {
	enum core_scope scope;
	enum core_measure measure;
	uint64_t used;
	unsigned n;
};

static void
pick(void *arg, const struct core_limit_view *v)
{
	struct wanted *w = arg;

	if (v->scope != w->scope || v->measure != w->measure ||
	    (v->scope == CORE_SCOPE_SOURCE && v->source_ip != 1) ||
	    (v->scope == CORE_SCOPE_VMTA && v->number != 3) ||
	    (v->scope == CORE_SCOPE_PROVIDER && v->number != 1))
		return;
	w->used = v->used;
	w->n++;
}

/* Of what NUMBER falls in. */
static uint64_t
used(enum core_scope scope, enum core_measure m)
{
	struct wanted w = { .scope = scope, .measure = m };
	uint32_t cursor = 0;

	while (core_each_limit(fx.core, &fx.now, &cursor, 3, pick, &w))
		;
	assert_int_equal(w.n, 1);
	return w.used;
}

static int
setup(void **state)
{
	static const struct core_ops ops = { FX_OPS, .source_limits = op_source_limits,
					     .scope_limits = op_scope_limits };
	static const enum core_scope all[] = { CORE_SCOPE_SOURCE, CORE_SCOPE_VMTA,
					       CORE_SCOPE_PROVIDER, CORE_SCOPE_JOB,
					       CORE_SCOPE_SENDER };
	struct core_world w = fx_limits_world(3);

	(void)state;
	fx_unlimited();
	memset(has, 0, sizeof(has));
	large = (struct conf_limits){ .max_msg_rate = { 100000, HOUR },
				      .max_connect_rate = { 100000, HOUR },
				      .max_data_volume_rate = { UINT64_C(1) << 36, HOUR },
				      .max_smtp_out = 1000 };
	at_source = large;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		set(all[i], &large);
	fx_begin();
	fx_core_in(&ops, &w);
	for (uint32_t i = 0; i < QUEUES; i++) {
		fx.settings[i].max_rcpt_per_transaction = 10;
		fx.settings[i].source_limits = true;
		fx.settings[i].max_msg_rate = large.max_msg_rate;
		fx.settings[i].max_connect_rate = large.max_connect_rate;
		fx.settings[i].max_data_volume_rate = large.max_data_volume_rate;
	}
	return 0;
}

/* The queue's pass, whatever is charged; NULL: it has none. */
static const struct pass *
pass_of(uint32_t queue)
{
	const struct core *c = fx.core;
	uint32_t qi = c->by_number[queue];

	for (uint32_t i = 0; c->passes && i < PASS_SETS * PASS_WAYS; i++) {
		const struct pass *p = &c->passes[i];

		if (p->epoch == c->pass_epoch && p->qi == qi && p->units_until > c->charged_units)
			return p;
	}
	return NULL;
}

/* A message went out, and the next one has a pass. */
static void
warm(uint32_t queue)
{
	core_route_provider(fx.core, &fx.now, queue, 1, slice_str("prov"));
	mail(queue, 1);
	run();
	route(queue, 1);
	work_off();
	assert_non_null(pass_of(queue));
}

/* So many of many go out now. */
static size_t
sent_of(uint32_t queue, unsigned n)
{
	size_t before = fx.n_works;

	for (unsigned i = 0; i < n; i++)
		mail(queue, 1);
	work_off();
	return fx.n_works - before;
}

static const enum core_scope rated[] = { CORE_SCOPE_QUEUE,    CORE_SCOPE_QUEUE_SOURCE,
					 CORE_SCOPE_SOURCE,   CORE_SCOPE_VMTA,
					 CORE_SCOPE_PROVIDER, CORE_SCOPE_JOB,
					 CORE_SCOPE_SENDER };

/* All are charged. */
static void
not_asked(void **state)
{
	uint64_t connects;

	(void)state;
	warm(NUMBER);
	assert_int_equal(sent_of(NUMBER, 200), 200);
	for (size_t s = 0; s < sizeof(rated) / sizeof(rated[0]); s++)
		assert_int_equal(used(rated[s], CORE_MEASURE_MSG), 201);
	connects = used(CORE_SCOPE_VMTA, CORE_MEASURE_CONNECT);
	assert_int_equal(connects, fx.n_opens);
	/* Nothing was said of what was delivered: all bytes have come back. */
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_VOLUME), 0);
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_SMTP_OUT), 0);
	assert_non_null(pass_of(NUMBER));
}

/* A limit of each scope, changed: a fifth of its N is the most in a tenth of its window. */
static void
changed(enum core_scope scope, uint32_t number)
{
	struct conf_limits small = large;

	setup(NULL);
	warm(NUMBER);
	small.max_msg_rate = (struct conf_rate){ 50, HOUR };
	if (scope == CORE_SCOPE_QUEUE)
		fx.settings[NUMBER].max_msg_rate = small.max_msg_rate;
	else if (scope == CORE_SCOPE_QUEUE_SOURCE)
		at_source = small;
	else
		set(scope, &small);
	core_limits_changed(fx.core, &fx.now, scope, number);
	assert_int_equal(sent_of(NUMBER, 100), 9);
	assert_int_equal(used(scope, CORE_MEASURE_MSG), 10);
}

static void
changed_limits(void **state)
{
	(void)state;
	changed(CORE_SCOPE_QUEUE, NUMBER);
	changed(CORE_SCOPE_QUEUE_SOURCE, NUMBER);
	changed(CORE_SCOPE_SOURCE, 1);
	changed(CORE_SCOPE_VMTA, 3);
	changed(CORE_SCOPE_PROVIDER, 1);
	changed(CORE_SCOPE_JOB, JOB);
	changed(CORE_SCOPE_SENDER, SENDER);
}

/* The same for one that nobody had set before. */
static void
new_limit(void **state)
{
	struct conf_limits small = { .max_msg_rate = { 50, HOUR } };

	(void)state;
	has[CORE_SCOPE_JOB] = false;
	warm(NUMBER);
	set_now(CORE_SCOPE_JOB, JOB, &small);
	assert_true(sent_of(NUMBER, 100) <= 10);
	assert_int_equal(fx.core->n_queues, QUEUES);
}

/* Mail of many others, who have no limits either: what was not looked at meanwhile is forgotten. */
static void
many_others(void)
{
	warm(OTHER);
	for (uint32_t i = 100; i < 300; i++) {
		fx_mail_of(OTHER, i, i);
		work_off();
	}
}

/* The same for one whose mail went out unasked for so long that its object was forgotten. */
static void
new_limit_late(void **state)
{
	struct conf_limits small = { .max_msg_rate = { 50, HOUR } };

	(void)state;
	has[CORE_SCOPE_JOB] = has[CORE_SCOPE_SENDER] = false;
	warm(NUMBER);
	add(NUMBER + 1, 1, true); /* without a route: there is always some mail of the job */
	many_others();
	set_now(CORE_SCOPE_JOB, JOB, &small);
	assert_int_equal(sent_of(NUMBER, 100), 10);
}

/* All of its mail has gone, and the number is another job's by now. */
static void
number_again(void **state)
{
	struct conf_limits small = { .max_msg_rate = { 50, HOUR } };

	(void)state;
	has[CORE_SCOPE_JOB] = has[CORE_SCOPE_SENDER] = false;
	warm(NUMBER);
	many_others();
	set(CORE_SCOPE_JOB, &small);
	assert_int_equal(sent_of(NUMBER, 100), 10);
}

/* Another job, and then the same number for another name: what is asked is what it says then. */
static void
another_job(void **state)
{
	struct conf_limits small = { .max_msg_rate = { 50, HOUR } };

	(void)state;
	warm(NUMBER);
	set(CORE_SCOPE_JOB, &small);
	/* No entry has it any more: the next one that comes has it asked again. */
	assert_true(sent_of(NUMBER, 100) < 10);
}

/* All of its settings are read anew. */
static void
reload(void **state)
{
	(void)state;
	warm(NUMBER);
	fx.settings[NUMBER].max_msg_rate = (struct conf_rate){ 50, HOUR };
	core_settings_changed(fx.core, &fx.now);
	assert_int_equal(sent_of(NUMBER, 100), 9);
}

/* Its MX hosts are others: it counts in both providers, and the new one has little room. */
static void
another_provider(void **state)
{
	struct conf_limits small = large;

	(void)state;
	warm(NUMBER);
	small.max_msg_rate = (struct conf_rate){ 50, HOUR };
	set(CORE_SCOPE_PROVIDER, &small);
	core_route_provider(fx.core, &fx.now, NUMBER, 2, slice_str("other"));
	assert_int_equal(sent_of(NUMBER, 100), 10);
	assert_int_equal(fx_limits_view(CORE_SCOPE_PROVIDER, CORE_MEASURE_MSG, 1).used, 11);
	assert_null(pass_of(NUMBER));
}

/* Others use up what both share: the pass does not outlive what it vouched for. */
static void
shared(void **state)
{
	struct conf_limits l = large;

	(void)state;
	l.max_msg_rate = (struct conf_rate){ 5000, HOUR };
	set_now(CORE_SCOPE_VMTA, 3, &l);
	warm(NUMBER);
	warm(OTHER);
	for (unsigned i = 0; i < 20; i++) {
		sent_of(OTHER, 37);
		sent_of(NUMBER, 29);
	}
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_MSG), 1000);
	assert_int_equal(fx.n_works, 1000); /* a fifth */
	assert_null(pass_of(NUMBER));
}

/* Bytes run out before messages do. */
static void
bytes(void **state)
{
	struct conf_limits l = large;

	(void)state;
	l.max_data_volume_rate = (struct conf_rate){ UINT64_C(50) * 20 * 1024, HOUR };
	set_now(CORE_SCOPE_SOURCE, 1, &l);
	warm(NUMBER);
	mails(NUMBER, 20);
	run();
	for (; o_seen < fx.n_opens; o_seen++)
		core_opened(fx.core, &fx.now, fx.opens[o_seen].connection, 0);
	run();
	assert_int_equal(fx.n_works, 11); /* a fifth */
	assert_int_equal(used(CORE_SCOPE_SOURCE, CORE_MEASURE_VOLUME), 10 * 20 * 1024);
}

/* A count has no more than its N at any moment. */
static void
counts(void **state)
{
	struct conf_limits l = large;

	(void)state;
	l.max_smtp_out = 6;
	set_now(CORE_SCOPE_VMTA, 3, &l);
	warm(NUMBER);
	warm(OTHER);
	for (unsigned i = 0; i < 10; i++)
		mail(NUMBER, 1);
	for (unsigned i = 0; i < 10; i++)
		mail(OTHER, 1);
	run();
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_SMTP_OUT), 6);
	work_off();
	assert_int_equal(fx.n_works, 22);
}

/* Claims of a job are as many as it may have; each with all its recipients. */
static void
job_counts(void **state)
{
	struct conf_limits l = large;

	(void)state;
	l.max_smtp_out = 2;
	set(CORE_SCOPE_JOB, &l);
	warm(NUMBER);
	for (unsigned i = 0; i < 10; i++)
		mail(NUMBER, 10);
	run();
	for (; o_seen < fx.n_opens; o_seen++)
		core_opened(fx.core, &fx.now, fx.opens[o_seen].connection, 0);
	run();
	assert_int_equal(used(CORE_SCOPE_JOB, CORE_MEASURE_SMTP_OUT), 2);
	assert_int_equal(fx.works[1].n_attempt, 10);
	work_off();
	assert_int_equal(fx.n_works, 11);
}

/* A message has the time that its own limits give it, a connection that of its own. */
static void
deadlines(void **state)
{
	struct conf_limits l = large;
	const struct core_work *m;
	const struct core_open *o;

	(void)state;
	l.max_connect_rate = (struct conf_rate){ 100000, SECOND };
	set_now(CORE_SCOPE_VMTA, 3, &l);
	warm(NUMBER);
	assert_int_equal(sent_of(NUMBER, 1), 1);
	m = &fx.works[fx.n_works - 1];
	assert_int_equal(m->deadline_boot_us - m->granted_boot_us, SECOND);
	o = &fx.opens[fx.n_opens - 1];
	assert_int_equal(o->deadline_boot_us - o->granted_boot_us, 10000);
}

/* A source IP out of use is not used, and a worker that has died has none. */
static void
source_out(void **state)
{
	(void)state;
	warm(NUMBER);
	core_source_disable(fx.core, &fx.now, CORE_NONE, 1, true, UINT64_MAX);
	assert_int_equal(sent_of(NUMBER, 10), 0);
	core_source_disable(fx.core, &fx.now, CORE_NONE, 1, false, 0);
	assert_int_equal(sent_of(NUMBER, 0), 10);
	core_source_disable(fx.core, &fx.now, NUMBER, 1, true, UINT64_MAX);
	assert_int_equal(sent_of(NUMBER, 10), 0);
}

/* Nobody goes past those who wait. */
static void
those_who_wait(void **state)
{
	struct conf_limits l = large;

	(void)state;
	warm(NUMBER);
	warm(OTHER);
	/* From now on the virtual MTA has room for 8 more in this tenth of its window. */
	l.max_msg_rate = (struct conf_rate){ 50, HOUR };
	set_now(CORE_SCOPE_VMTA, 3, &l);
	assert_int_equal(sent_of(NUMBER, 20), 8);
	assert_int_equal(sent_of(OTHER, 20), 0);
	assert_string_equal(view(OTHER).limit, "max-smtp-msg-rate");
	for (unsigned i = 0; i < 130; i++) {
		pass(10 * SECOND);
		work_off();
	}
	assert_true(fx.n_works > 14);
	assert_true(view(NUMBER).delivered - 9 <= view(OTHER).delivered);
	assert_true(view(OTHER).delivered - 2 <= view(NUMBER).delivered - 9);
}

/* Twins of the other mode are charged and stop nobody, however small; in their mode they hold at
 * once. */
static void
twins(void **state)
{
	const struct core_backoff whole = { .source_ip = CORE_NONE }, source = { .source_ip = 1 };

	(void)state;
	for (uint32_t i = 0; i < QUEUES; i++) {
		fx.settings[i].backoff.max_msg_rate = (struct conf_rate){ 10, HOUR };
		fx.settings[i].source_limits = false;
	}
	warm(NUMBER);
	assert_int_equal(sent_of(NUMBER, 200), 200);
	assert_non_null(pass_of(NUMBER));
	assert_true(core_backoff_enter(fx.core, &fx.now, NUMBER, &whole));
	assert_int_equal(sent_of(NUMBER, 5), 0);
	assert_true(core_backoff_leave(fx.core, &fx.now, NUMBER, CORE_NONE, true));
	assert_int_equal(sent_of(NUMBER, 200), 205);
	assert_non_null(pass_of(NUMBER));
	assert_true(core_backoff_enter(fx.core, &fx.now, NUMBER, &source));
	assert_int_equal(sent_of(NUMBER, 2),
			 2); /* what is held for the source IP counts from now on */
	assert_true(core_backoff_leave(fx.core, &fx.now, NUMBER, 1, true));
	assert_int_equal(sent_of(NUMBER, 100), 100);
}

/* What it held is let go of when nobody uses it any more. */
static void
let_go(void **state)
{
	(void)state;
	warm(NUMBER);
	assert_non_null(pass_of(NUMBER));
	for (unsigned i = 0; i < PASS_SETS * PASS_WAYS + 1; i++)
		pass(20000);
	assert_null(pass_of(NUMBER));
	for (uint32_t i = 1; i < fx.core->n_limits; i++)
		assert_int_equal(fx.core->limits[i].refs, 0);
}

int
main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fx_end)
	const struct CMUnitTest tests[] = {
		CASE(not_asked),      CASE(changed_limits),   CASE(new_limit),
		CASE(new_limit_late), CASE(number_again),     CASE(another_job),
		CASE(reload),         CASE(another_provider), CASE(shared),
		CASE(bytes),          CASE(counts),           CASE(job_counts),
		CASE(source_out),     CASE(deadlines),        CASE(those_who_wait),
		CASE(twins),          CASE(let_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
