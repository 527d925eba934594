/* Limits that queues share, and those of other measures than messages of a queue. */
#include "tests/unit/core/fixture_limits.h"

static struct conf_limits providers[2], jobs[2], sender_9, at_source;
static uint32_t interrupted;
static unsigned n_interrupted;

static void
op_source_limits(void *ctx, uint32_t queue, struct slice name, uint32_t source, bool backoff,
		 struct conf_limits *out)
{
	(void)backoff;
	(void)ctx;
	(void)queue;
	(void)name;
	if (source == 1)
		*out = at_source;
}

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	if (scope == CORE_SCOPE_PROVIDER && number < 2)
		*out = providers[number];
	else if (scope == CORE_SCOPE_JOB && number >= 8 && number < 10)
		*out = jobs[number - 8];
	else if (scope == CORE_SCOPE_SENDER && number == 9)
		*out = sender_9;
	else
		return false;
	return true;
}

static void
op_interrupt(void *ctx, uint32_t connection, unsigned worker)
{
	(void)ctx;
	(void)worker;
	interrupted = connection;
	n_interrupted++;
}

static void
begin(uint64_t total)
{
	static const struct core_ops ops = { FX_OPS, .source_limits = op_source_limits,
					     .scope_limits = op_scope_limits,
					     .interrupt = op_interrupt };
	struct core_world w = fx_limits_world(3);

	w.total_max_smtp_out = total;
	fx_begin();
	fx_core_in(&ops, &w);
}

static int
setup(void **state)
{
	(void)state;
	fx_unlimited();
	memset(providers, 0, sizeof(providers));
	memset(jobs, 0, sizeof(jobs));
	memset(&sender_9, 0, sizeof(sender_9));
	memset(&at_source, 0, sizeof(at_source));
	n_interrupted = 0;
	return 0;
}

static struct core_limit_view
limit(enum core_scope scope, enum core_measure measure)
{
	return fx_limits_view(scope, measure, CORE_NONE);
}

static uint64_t
used(enum core_scope scope, enum core_measure measure)
{
	return limit(scope, measure).used;
}

/* All scopes at once: each is charged what was granted, no more, and what comes back is in none. */
static void
chained(void **state)
{
	static const enum core_scope scopes[] = { CORE_SCOPE_QUEUE,    CORE_SCOPE_QUEUE_SOURCE,
						  CORE_SCOPE_SOURCE,   CORE_SCOPE_VMTA,
						  CORE_SCOPE_PROVIDER, CORE_SCOPE_JOB };
	struct core_limit_view v;

	(void)state;
	vmtas[3].limits.max_msg_rate = (struct conf_rate){ 50, HOUR };
	ips[1].limits.max_msg_rate = (struct conf_rate){ 40, HOUR };
	at_source.max_msg_rate = (struct conf_rate){ 60, HOUR };
	providers[1].max_msg_rate = (struct conf_rate){ 30, HOUR };
	jobs[0].max_msg_rate = (struct conf_rate){ 100, HOUR };
	begin(CONF_UNLIMITED);
	fx.settings[3].source_limits = true;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 80, HOUR };
	core_route_provider(fx.core, &fx.now, 3, 1, slice_str("google"));
	connected(3, 20, 1);
	/* The provider is the tightest: a fifth of 30. */
	assert_int_equal(fx.n_works, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(used(scopes[i], CORE_MEASURE_MSG), 6);
	assert_int_equal(fx.works[0].deadline_boot_us - fx.works[0].granted_boot_us, SECOND);
	assert_true(core_blocking_limit(fx.core, &fx.now, 3, &v));
	assert_int_equal(v.scope, CORE_SCOPE_PROVIDER);
	assert_true(slice_eq(v.name, slice_str("google")));
	assert_int_equal(v.n, 30);
	assert_true(v.next_room_wall_us > fx.now.wall_us);
	assert_int_equal(v.waiting, 1);
	assert_string_equal(view(3).limit, "max-msg-rate");
	/* Handed back and not attempted: in none of them any more. */
	assert_true(core_returned(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease));
	settle_with(1, EVENT_UNATTEMPTED, 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(used(scopes[i], CORE_MEASURE_MSG), 4);
	run();
	assert_int_equal(fx.n_works, 8);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(used(scopes[i], CORE_MEASURE_MSG), 6);
}

/* Of a queue and a source IP the limits are asked for at their next use, or when somebody looks:
 * what counted when they were set counts in a window that is longer. */
static void
asked_late(void **state)
{
	struct core_world world = { .workers = 2,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = 3,
				    .n_vmtas = 4,
				    .vmtas = vmtas,
				    .source_ips = ips };
	static const uint32_t same[] = { 0, 1, 2 };

	(void)state;
	at_source.max_msg_rate = (struct conf_rate){ 60, MINUTE };
	begin(CONF_UNLIMITED);
	fx.settings[3].source_limits = true;
	connected(3, 4, 1);
	assert_int_equal(used(CORE_SCOPE_QUEUE_SOURCE, CORE_MEASURE_MSG), 4);
	for (unsigned i = 0; i < 4; i++)
		settle_with(i, EVENT_DELIVERED, 0);
	for (unsigned i = 0; i < fx.n_opens; i++)
		core_closed(fx.core, &fx.now, fx.opens[i].connection, slice_str("gone"));
	at_source.max_msg_rate = (struct conf_rate){ 60, HOUR };
	core_reconfigure_in(fx.core, &fx.now, &world, same);
	fx.now.boot_us += 20 * MINUTE;
	fx.now.wall_us += 20 * MINUTE;
	assert_int_equal(used(CORE_SCOPE_QUEUE_SOURCE, CORE_MEASURE_MSG), 4);
}

/* Connects and connections: all scopes, and what was not attempted comes back. */
static void
connects(void **state)
{
	static const enum core_scope scopes[] = { CORE_SCOPE_QUEUE_SOURCE, CORE_SCOPE_SOURCE,
						  CORE_SCOPE_VMTA, CORE_SCOPE_PROVIDER };
	struct conf_limits l = { .max_connect_rate = { 20, HOUR }, .max_smtp_out = 3 };

	(void)state;
	vmtas[3].limits = ips[1].limits = at_source = l;
	providers[0] = l;
	begin(CONF_UNLIMITED);
	fx.settings[3].source_limits = true;
	core_route_provider(fx.core, &fx.now, 3, 0, slice_str("p"));
	mails(3, 10);
	run();
	route(3, 1);
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(view(3).wait, CORE_WAIT_CONNECTIONS);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(used(scopes[i], CORE_MEASURE_CONNECT), 3);
		assert_int_equal(used(scopes[i], CORE_MEASURE_SMTP_OUT), 3);
	}
	assert_int_equal(used(CORE_SCOPE_ALL, CORE_MEASURE_SMTP_OUT), 3);
	core_open_failed(fx.core, &fx.now, fx.opens[0].connection, CORE_FAIL_NOT_ATTEMPTED,
			 SLICE_NONE);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(used(scopes[i], CORE_MEASURE_CONNECT), 2);
		assert_int_equal(used(scopes[i], CORE_MEASURE_SMTP_OUT), 2);
	}
	core_open_failed(fx.core, &fx.now, fx.opens[1].connection, CORE_FAIL_HOST, SLICE_NONE);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(used(scopes[i], CORE_MEASURE_CONNECT), 2);
		assert_int_equal(used(scopes[i], CORE_MEASURE_SMTP_OUT), 1);
	}
}

/* Bytes: reserved at the start, what nobody got comes back; a body above a fifth goes alone. */
static void
volume(void **state)
{
	struct core_rcpt_result rcpt = { 0, EVENT_DELIVERED };
	struct core_result r = { .rcpts = &rcpt, .n_rcpts = 1, .body_bytes = 5000 };

	(void)state;
	vmtas[3].limits.max_data_volume_rate = (struct conf_rate){ 200 * 1024, HOUR };
	begin(CONF_UNLIMITED);
	connected(3, 10, 1); /* of 20 kbytes each: two in a tenth */
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_VOLUME), 40 * 1024);
	assert_string_equal(view(3).limit, "max-smtp-data-volume-rate");
	settle_with(0, EVENT_BOUNCED, 0);
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_VOLUME), 20 * 1024);
	r.entry = fx.works[1].entry;
	r.lease = fx.works[1].lease;
	assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
	core_entry_gone(fx.core, &fx.now, r.entry);
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_VOLUME), 5000);
	run();
	assert_int_equal(fx.n_works, 3); /* 20 kbytes more fit, 40 do not */
}

/* Without PIPELINING a WORK charges no recipient; each asks for itself. */
static void
one_by_one(void **state)
{
	struct core_rcpt_result rcpts[3] = { { 0, EVENT_DELIVERED },
					     { 1, EVENT_UNATTEMPTED },
					     { 2, EVENT_UNATTEMPTED } };
	struct core_result r = { .rcpts = rcpts, .n_rcpts = 3 };
	uint64_t stamp, deadline;

	(void)state;
	vmtas[3].limits.max_msg_rate = (struct conf_rate){ 10, HOUR };
	begin(CONF_UNLIMITED);
	mail(3, 3);
	run();
	route(3, 1);
	core_opened_as(fx.core, &fx.now, fx.opens[0].connection, 0, false);
	run();
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_MSG), 0);
	assert_int_equal(fx.works[0].n_attempt, 2); /* no transaction carries more than a fifth */
	pass(1000);
	assert_true(core_rcpt_ask(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease, 0, &stamp,
				  &deadline));
	assert_int_equal(stamp, fx.now.boot_us);
	assert_int_equal(deadline, stamp + SECOND);
	assert_false(core_rcpt_ask(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease, 2,
				   &stamp, &deadline)); /* not of this claim */
	assert_false(
		core_rcpt_ask(fx.core, &fx.now, fx.works[0].entry, 7777, 1, &stamp, &deadline));
	pass(1000);
	assert_true(core_rcpt_ask(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease, 1, &stamp,
				  &deadline));
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_MSG), 2);
	r.entry = fx.works[0].entry;
	r.lease = fx.works[0].lease;
	assert_true(
		core_settle(fx.core, &fx.now, &r, &fx.d)); /* the second was not sent after all */
	assert_int_equal(used(CORE_SCOPE_VMTA, CORE_MEASURE_MSG), 1);
	assert_int_equal(view(3).attempted, 1);
}

/* A limit that is used up meanwhile: the recipient is refused, its entry goes on when there is
 * room. */
static void
ask_refused(void **state)
{
	uint64_t stamp, deadline;

	(void)state;
	vmtas[3].limits.max_msg_rate = (struct conf_rate){ 5, HOUR };
	begin(CONF_UNLIMITED);
	mail(3, 1);
	mail(7, 1);
	run();
	route(3, 1);
	route(7, 1);
	core_opened_as(fx.core, &fx.now, fx.opens[0].connection, 0, false);
	run();
	assert_int_equal(fx.n_works, 1);
	pass(2 * SECOND); /* what was promised to the other one is void */
	while (fx.n_opens < 2)
		pass(SECOND);
	core_opened_as(fx.core, &fx.now, fx.opens[1].connection, 0, false);
	run();
	assert_int_equal(fx.n_works, 2);
	assert_true(core_rcpt_ask(fx.core, &fx.now, fx.works[1].entry, fx.works[1].lease, 0, &stamp,
				  &deadline));
	assert_false(core_rcpt_ask(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease, 0,
				   &stamp, &deadline));
	assert_true(core_returned(fx.core, &fx.now, fx.works[0].entry, fx.works[0].lease));
	run();
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE); /* and not held for an idle return */
	settle(1, EVENT_DELIVERED);
	o_seen = w_seen = 2;
	for (unsigned i = 0; i < 20 && fx.n_works < 3; i++) {
		pass(MINUTE);
		work_off();
	}
	assert_int_equal(fx.n_works, 3);
	assert_int_equal(fx.works[2].queue, 3);
}

/* A queue that changes its provider counts in both until the old one's window is empty. */
static void
provider_change(void **state)
{
	struct fx_limits_wanted w = { .scope = CORE_SCOPE_PROVIDER,
				      .measure = CORE_MEASURE_MSG,
				      .number = CORE_NONE };
	uint32_t cursor = 0;
	uint64_t first = 0;

	(void)state;
	providers[0].max_msg_rate = (struct conf_rate){ 100, HOUR };
	providers[1].max_msg_rate = (struct conf_rate){ 50, HOUR };
	begin(CONF_UNLIMITED);
	core_route_provider(fx.core, &fx.now, 0, 0, slice_str("old"));
	connected(0, 2, 1);
	core_route_provider(fx.core, &fx.now, 0, 1, slice_str("new"));
	settle(0, EVENT_DELIVERED);
	settle(1, EVENT_DELIVERED);
	mails(0, 3);
	connected(0, 0, 1);
	for (size_t k = 2; k < fx.n_opens; k++)
		core_opened(fx.core, &fx.now, fx.opens[k].connection, 0);
	run();
	assert_int_equal(fx.n_works, 5);
	while (core_each_limit(fx.core, &fx.now, &cursor, 1, fx_limits_pick, &w)) {
		if (w.n == 1)
			first = w.v.used;
	}
	assert_int_equal(w.n, 2);
	assert_int_equal(first, 5);
	assert_int_equal(w.v.used, 3);
}

/* Entries of a job at its limit are passed over. */
static void
job_passed_over(void **state)
{
	struct core_entry_facts f = { .queue = 0,
				      .segment = 17,
				      .epoch = 4711,
				      .n_rcpts = 1,
				      .job = 9,
				      .sender_domain = 9,
				      .committed = true };

	(void)state;
	jobs[0].max_msg_rate = (struct conf_rate){ 5, HOUR };
	begin(CONF_UNLIMITED);
	f.received_s = (uint32_t)(fx.now.wall_us / SECOND);
	mails(0, 10); /* of job 8 */
	f.key = (struct entry_key){ 1000, 1 };
	core_entry_add(fx.core, &fx.now, &f);
	run();
	route(0, 1);
	for (size_t k = 0; k < fx.n_opens; k++)
		opened(k);
	assert_int_equal(fx.n_works, 2);
	assert_int_equal(fx.works[1].key.message, 1000);
	assert_int_equal(view(0).wait, CORE_WAIT_RATE);
	assert_int_equal(limit(CORE_SCOPE_JOB, CORE_MEASURE_MSG).waiting, 1);
	assert_int_equal(limit(CORE_SCOPE_JOB, CORE_MEASURE_MSG).number, 8);
}

/* A number that nobody held any more is another job's now: its limits are not the former's. */
static void
number_of_another_job(void **state)
{
	(void)state;
	jobs[0].max_msg_rate = (struct conf_rate){ 5, HOUR };
	begin(CONF_UNLIMITED);
	mail(0, 1);
	run();
	route(0, 1);
	work_off();
	assert_int_equal(fx.n_works, 1);
	jobs[0].max_msg_rate.n = 0;
	mails(0, 10);
	work_off();
	assert_int_equal(fx.n_works, 11);
}

/* Another source IP takes over when one is at its limit; when all are, whichever has room first. */
static void
sources_at_limits(void **state)
{
	(void)state;
	ips[1].limits.max_connect_rate = (struct conf_rate){ 5, HOUR };
	ips[2].limits.max_smtp_out = 2;
	begin(CONF_UNLIMITED);
	mails(1, 20); /* of the virtual MTA "even": 192.0.2.1 and .2 by turns */
	run();
	route(1, 1);
	assert_int_equal(fx.n_opens, 3);
	assert_int_equal(view(1).connections, 3);
	assert_true(view(1).wait == CORE_WAIT_RATE || view(1).wait == CORE_WAIT_CONNECTIONS);
	pass(7 * MINUTE);
	assert_int_equal(fx.n_opens, 4);
	assert_int_equal(fx.opens[3].source_ip, 1);
	for (size_t k = 0; k < 4; k++) {
		if (fx.opens[k].source_ip != 2)
			continue;
		open_failed(k, CORE_FAIL_SOURCE); /* bad for a minute */
		break;
	}
	assert_int_equal(fx.n_opens, 4);
	pass(MINUTE + 1);
	assert_int_equal(fx.n_opens, 5);
	assert_int_equal(fx.opens[4].source_ip, 2);
}

/* An idle connection whose source IP has no room for a message is not used; another one is. */
static void
source_message_room(void **state)
{
	(void)state;
	ips[1].limits.max_msg_rate = (struct conf_rate){ 5, HOUR };
	begin(CONF_UNLIMITED);
	fx.settings[1].connection_idle_timeout_us = HOUR;
	connected(1, 4, 1);
	for (size_t k = 0; k < fx.n_works; k++) {
		if (core_entry_is(fx.core, fx.works[k].entry, fx.works[k].key))
			settle(k, EVENT_DELIVERED);
	}
	for (unsigned i = 0; i < 10 && view(1).entries > 0; i++) {
		for (size_t k = 0; k < fx.n_opens; k++)
			core_opened(fx.core, &fx.now, fx.opens[k].connection, 0);
		run();
		for (size_t k = 0; k < fx.n_works; k++) {
			if (core_entry_is(fx.core, fx.works[k].entry, fx.works[k].key) &&
			    core_entry_is_claimed(fx.core, fx.works[k].entry))
				settle(k, EVENT_DELIVERED);
		}
	}
	assert_int_equal(view(1).entries, 0);
	assert_int_equal(used(CORE_SCOPE_SOURCE, CORE_MEASURE_MSG), 1);
}

/* disable source: at once, for one queue and for all, and back. */
static void
disabled(void **state)
{
	(void)state;
	begin(CONF_UNLIMITED);
	core_source_disable(fx.core, &fx.now, CORE_NONE, 1, true, UINT64_MAX);
	core_source_disable(fx.core, &fx.now, 5, 2, true, fx.now.boot_us + MINUTE);
	mails(1, 4);
	mails(5, 4);
	run();
	route(1, 1);
	route(5, 1);
	assert_int_equal(view(5).wait, CORE_WAIT_SOURCES);
	for (size_t k = 0; k < fx.n_opens; k++) {
		assert_int_equal(fx.opens[k].queue, 1);
		assert_int_equal(fx.opens[k].source_ip, 2);
		opened(k);
	}
	pass(MINUTE + 1);
	assert_true(view(5).connections > 0);
	/* Connections that are there end with their message. */
	core_source_disable(fx.core, &fx.now, CORE_NONE, 2, true, UINT64_MAX);
	run();
	settle(0, EVENT_DELIVERED);
	assert_true(fx.n_closes > 0);
	mails(9, 1);
	run();
	route(9, 1);
	assert_int_equal(view(9).wait, CORE_WAIT_SOURCES);
	core_source_disable(fx.core, &fx.now, CORE_NONE, 1, false, 0);
	run();
	assert_int_equal(view(9).connections, 1);
}

/* A queue of higher priority takes the connection of a lower one: an idle one at once, a busy one
 * after its message, or in the middle of it. */
static void
interruption(void **state)
{
	static const struct {
		bool may, in_transfer;
	} rows[] = { { true, false }, { true, true }, { false, false } };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		setup(NULL);
		begin(1);
		fx.settings[0].queue_priority = 20;
		fx.settings[0].allow_priority_interruption = rows[i].may;
		fx.settings[0].allow_priority_interruption_during_transfer = rows[i].in_transfer;
		fx.settings[4].queue_priority = 90;
		core_settings_changed(fx.core,
				      &fx.now); /* which forgets what it knew of priorities */
		connected(0, 5, 1);
		assert_int_equal(fx.n_works, 1);
		mail(4, 1);
		run();
		route(4, 1);
		assert_int_equal(view(4).wait, CORE_WAIT_CONNECTIONS);
		assert_int_equal(n_interrupted, rows[i].in_transfer);
		settle(0, EVENT_DELIVERED);
		assert_int_equal(fx.n_closes, rows[i].may);
		if (!rows[i].may)
			continue;
		core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
		run();
		assert_int_equal(fx.opens[1].queue, 4);
	}
}

/* An idle connection is closed at once when another queue waits for its place. */
static void
idle_gives_way(void **state)
{
	(void)state;
	vmtas[3].limits.max_smtp_out = 1;
	begin(CONF_UNLIMITED);
	fx.settings[3].connection_idle_timeout_us = HOUR;
	connected(3, 1, 1);
	settle(0, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 0);
	mail(7, 1);
	run();
	route(7, 1);
	assert_int_equal(fx.n_closes, 1);
	core_closed(fx.core, &fx.now, fx.closes[0], SLICE_NONE);
	run();
	assert_int_equal(fx.opens[1].queue, 7);
	/* And one that becomes idle while somebody waits. */
	fx.settings[7].connection_idle_timeout_us = HOUR;
	core_settings_changed(fx.core, &fx.now);
	opened(1);
	mail(3, 1);
	run();
	assert_int_equal(fx.n_closes, 1);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 2);
}

static void
rampup_and_errors(void **state)
{
	(void)state;
	begin(CONF_UNLIMITED);
	fx.settings[0].smtp_out_rampup_interval_us = 10 * SECOND;
	fx.settings[0].max_errors_per_connection = 2;
	mails(0, 10);
	run();
	route(0, 1);
	assert_int_equal(fx.n_opens, 1);
	assert_string_equal(view(0).limit, "smtp-out-rampup-interval");
	opened(0);
	pass(10 * SECOND);
	assert_int_equal(fx.n_opens, 2);
	settle(0, EVENT_BOUNCED);
	assert_int_equal(fx.n_closes, 0);
	settle(1, EVENT_DEFERRED);
	assert_int_equal(fx.n_closes, 1);
}

/* The limits of a running queue change: at once, and what was used counts; also in back-off. */
static void
changes(void **state)
{
	(void)state;
	ips[1].limits.max_smtp_out = 1;
	begin(CONF_UNLIMITED);
	fx.settings[3].max_msg_rate = (struct conf_rate){ 50, HOUR };
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 20, HOUR };
	mails(3, 30);
	run();
	route(3, 1);
	work_off();
	assert_int_equal(fx.n_works, 10); /* a fifth of 50 */
	core_backoff_enter(fx.core, &fx.now, 3,
			   &(const struct core_backoff){ .source_ip = CORE_NONE });
	pass(8 * MINUTE);
	work_off();
	/* Ten of twenty are used: four more in this tenth. */
	assert_int_equal(fx.n_works, 14);
	assert_string_equal(view(3).limit, "backoff-max-msg-rate");
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, true);
	work_off();
	assert_int_equal(fx.n_works, 20); /* four of ten were in this tenth */
	assert_string_equal(view(3).limit, "max-msg-rate");
	/* Both at once, and without a twin: what was used counts. */
	fx.settings[3].max_msg_rate = (struct conf_rate){ 21, HOUR };
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 21, HOUR };
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_QUEUE, 3);
	assert_int_equal(used(CORE_SCOPE_QUEUE, CORE_MEASURE_MSG), 20);
}

/* The same number in a shorter window: who waits for it is told. */
static void
shorter_window(void **state)
{
	size_t before;

	(void)state;
	providers[1].max_msg_rate = (struct conf_rate){ 10, HOUR };
	begin(CONF_UNLIMITED);
	core_route_provider(fx.core, &fx.now, 3, 1, slice_str("google"));
	mails(3, 40);
	run();
	route(3, 1);
	work_off();
	before = fx.n_works;
	assert_in_range(before, 1, 10);
	providers[1].max_msg_rate = (struct conf_rate){ 10, 10 * SECOND };
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_PROVIDER, CORE_NONE);
	for (unsigned i = 0; i < 30; i++) {
		pass(SECOND);
		work_off();
	}
	assert_true(fx.n_works >= before + 20);
}

/* So many lines that a queue would have to be the first in, one after the other: it gets its turn all the same, though
 * there are always others before it in each. */
static void
four_lines(void **state)
{
	/* The first is in all four; three more in the line of its virtual MTA, its provider, its job, its sender domain. */
	static const uint32_t queues[] = { 3, 7, 11, 15, 4, 8, 12, 5, 9, 13, 6, 10, 14 };
	const struct conf_rate rate = { 60, MINUTE };
	size_t before, of_all = 0;

	(void)state;
	vmtas[3].limits.max_msg_rate = providers[1].max_msg_rate = jobs[0].max_msg_rate =
		sender_9.max_msg_rate = rate;
	begin(CONF_UNLIMITED);
	for (size_t i = 0; i < sizeof(queues) / sizeof(queues[0]); i++) {
		uint32_t q = queues[i];

		if (q == 3 || q % 4 == 0)
			core_route_provider(fx.core, &fx.now, q, 1, slice_str("google"));
		for (unsigned k = 0; k < 60; k++)
			fx_mail_of(q, q == 3 || q % 4 == 1 ? 8 : 30, q == 3 || q % 4 == 2 ? 9 : 30);
		run();
		route(q, 1);
	}
	for (unsigned i = 0; i < 300; i++) {
		pass(SECOND / 10);
		work_off();
	}
	before = fx.n_works;
	for (unsigned i = 0; i < 900; i++) {
		pass(SECOND / 10);
		work_off();
	}
	for (size_t i = before; i < fx.n_works; i++)
		of_all += fx.works[i].queue == 3;
	assert_in_range(of_all, 5, 30);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(chained, setup),
		cmocka_unit_test_setup(asked_late, setup),
		cmocka_unit_test_setup(connects, setup),
		cmocka_unit_test_setup(volume, setup),
		cmocka_unit_test_setup(one_by_one, setup),
		cmocka_unit_test_setup(ask_refused, setup),
		cmocka_unit_test_setup(provider_change, setup),
		cmocka_unit_test_setup(job_passed_over, setup),
		cmocka_unit_test_setup(number_of_another_job, setup),
		cmocka_unit_test_setup(sources_at_limits, setup),
		cmocka_unit_test_setup(source_message_room, setup),
		cmocka_unit_test_setup(disabled, setup),
		cmocka_unit_test_setup(interruption, setup),
		cmocka_unit_test_setup(idle_gives_way, setup),
		cmocka_unit_test_setup(rampup_and_errors, setup),
		cmocka_unit_test_setup(changes, setup),
		cmocka_unit_test_setup(shorter_window, setup),
		cmocka_unit_test_setup(four_lines, setup),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
