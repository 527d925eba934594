/* What is charged ahead: never too little, and it goes back. */
#include "scheduler/core/rate.h"
#include "tests/unit/core/kept.h"

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

/* What comes back when its bucket has ended is not kept for others: nobody can take from that. */
static void
given_back_late(void **state)
{
	uint64_t before;

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
	send_more(3);
	mail_of(3, 8);
	run();
	before = charged();
	assert_true(before > 5);
	pass(15 * SECOND);
	assert_int_equal(charged(), before);
	assert_true(core_returned(fx.core, &fx.now, fx.works[4].entry, fx.works[4].lease));
	assert_int_equal(charged(), before - 1);
	assert_int_equal(used(CORE_SCOPE_JOB, 8), 4);
	assert_int_equal(charged(), 4);
}

/* Of a source IP that is taken away what was sent is kept, and not what was charged ahead. */
static void
charged_ahead_and_gone(void **state)
{
	static const uint32_t others[] = { 0, CORE_NONE, CORE_NONE };
	struct core_world w;

	(void)state;
	ips[1].limits.max_msg_rate = (struct conf_rate){ 100000, HOUR };
	fx.settings[3].connection_idle_timeout_us = 10 * MINUTE;
	start();
	pass(HOUR - fx.now.boot_us % HOUR);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	settle_with(0, EVENT_DELIVERED, 0);
	run();
	send_more(9);
	mail_of(3, 8);
	run();
	assert_true(charged() > 11);
	ips[1].text = "192.0.2.9";
	w = world();
	core_reconfigure_in(fx.core, &fx.now, &w, others);
	run();
	assert_true(kept[0].used && !kept[0].taken);
	assert_int_equal(rate_used((const struct rate *)kept[0].memory), 11);
	/* What is still charged to it finds nothing to give back to. */
	assert_true(core_returned(fx.core, &fx.now, fx.works[10].entry, fx.works[10].lease));
	run();
	assert_int_equal(rate_used((const struct rate *)kept[0].memory), 11);
}

/* What is told of the past may be all that was sure. */
static void
charged_ahead_and_past(void **state)
{
	struct core_past p = { .queue = CORE_NONE,
			       .source_ip = CORE_NONE,
			       .job = 8,
			       .age_us = SECOND,
			       .rcpts = 20000 };

	(void)state;
	job.max_msg_rate = (struct conf_rate){ 100000, HOUR };
	fx.settings[3].connection_idle_timeout_us = 10 * MINUTE;
	names[8] = "news";
	start();
	pass(HOUR - fx.now.boot_us % HOUR + SECOND);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	settle_with(0, EVENT_DELIVERED, 0);
	run();
	send_more(9);
	assert_true(charged() > 10);
	core_charge_event(fx.core, &fx.now, &p);
	assert_int_equal(charged(), 20010);
	mail_of(3, 8);
	run();
	assert_int_equal(fx.n_works, 10);
	assert_int_equal(view(3).wait, CORE_WAIT_RATE);
}

/* A body that takes all the room there is: nothing is kept back for those that come later. */
static void
charged_ahead_and_full(void **state)
{
	struct core_entry_facts f = {
		.key = { 999, 3 }, .queue = 3, .n_rcpts = 1, .kbytes = 2048 - 1, .committed = true
	};

	(void)state;
	fx.settings[3].max_data_volume_rate = (struct conf_rate){ 10 << 20, HOUR };
	fx.settings[3].connection_idle_timeout_us = 10 * MINUTE;
	start();
	pass(HOUR - fx.now.boot_us % HOUR);
	mail_of(3, 8);
	run();
	route(3, 1);
	opened(0);
	for (unsigned i = 0; i < 5; i++) {
		struct core_rcpt_result delivered = { 0, EVENT_DELIVERED };
		struct core_result r = { .entry = fx.works[i].entry,
					 .lease = fx.works[i].lease,
					 .rcpts = &delivered,
					 .n_rcpts = 1,
					 .body_bytes = 1 };

		assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
		core_entry_gone(fx.core, &fx.now, r.entry);
		mail_of(3, 8);
		run();
	}
	settle_with(5, EVENT_DELIVERED, 0);
	assert_true(charged() > 1024);
	f.received_s = (uint32_t)(fx.now.wall_us / SECOND);
	core_entry_add(fx.core, &fx.now, &f);
	run();
	assert_int_equal(fx.n_works, 7);
	assert_true(charged() <= 2 << 20);
}

static void
puts_of_100(uint32_t queue, unsigned n)
{
	while (n-- > 0) {
		struct core_entry_facts f = { .key = { ++fx.next_message, 3 },
					      .queue = queue,
					      .received_s = (uint32_t)(fx.now.wall_us / SECOND),
					      .n_rcpts = 100,
					      .job = 8,
					      .committed = true };

		core_entry_add(fx.core, &fx.now, &f);
	}
	run();
}

/* A fifth of N that went while nobody waited counts for the pace of those that wait then. */
static void
charged_ahead_and_paced(void **state)
{
	(void)state;
	job.max_msg_rate = (struct conf_rate){ 100000, HOUR };
	fx.settings[3].connection_idle_timeout_us = HOUR;
	fx.settings[3].max_smtp_out = fx.settings[7].max_smtp_out = 1;
	names[8] = "news";
	start();
	pass(HOUR - fx.now.boot_us % HOUR);
	puts_of_100(3, 1);
	route(3, 1);
	opened(0);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(fx.n_works, i + 1);
		settle_with(i, EVENT_DELIVERED, 0);
		puts_of_100(3, i < 199 ? 1 : 5);
		if (i % 4 == 3) /* what is left goes back, of the pace too */
			assert_int_equal(used(CORE_SCOPE_JOB, 8), 100 * (i < 199 ? i + 2 : 200));
	}
	assert_int_equal(fx.n_works, 200);
	puts_of_100(7, 5);
	route(7, 1);
	for (unsigned i = 0; i < 500; i++)
		pass(SECOND);
	assert_int_equal(fx.n_works, 200);
	for (unsigned i = 0; i < 300; i++) {
		pass(SECOND);
		for (size_t k = 1; k < fx.n_opens; k++)
			core_opened(fx.core, &fx.now, fx.opens[k].connection, 0);
		run();
	}
	assert_true(fx.n_works > 200);
}

/* At random ---------------------------------------------------------------------------------- */
/* One counter that is charged as it happens, and what the core has in its memory. */
static struct counter {
	uint64_t window_us;
	struct rate *plain;
	uint64_t memory[512];
} counters[2]; /* messages, volume */

static const struct rate *
kept_rate(const struct counter *of)
{
	for (unsigned i = 0; i < KEPT; i++) {
		if (kept[i].used && rate_found_window_us(kept[i].memory) == of->window_us)
			return (const struct rate *)kept[i].memory;
	}
	return NULL;
}

/* Nobody who is killed now has sent more than is charged; and who asks is told what was sent. */
static void
compare(bool asked)
{
	struct wanted w = { .scope = CORE_SCOPE_JOB, .number = 8 };
	uint32_t cursor = 0;

	while (asked && core_each_limit(fx.core, &fx.now, &cursor, 10, pick, &w))
		;
	for (unsigned i = 0; i < 2; i++) {
		const struct rate *r = kept_rate(&counters[i]);
		uint64_t has = r ? rate_used(r) : 0;

		rate_room(counters[i].plain, fx.now.boot_us);
		if (asked)
			assert_int_equal(has, rate_used(counters[i].plain));
		else
			assert_true(has >= rate_used(counters[i].plain));
	}
}

static struct {
	uint64_t bytes;
	bool over;
} sent[LOGGED];
static size_t n_sent;

static uint64_t
body_of(const struct core_work *w)
{
	return (w->key.message % 7) * 100 * 1024 + 1024;
}

static void
see_works(void)
{
	for (size_t k = 0; k < fx.n_opens; k++)
		core_opened(fx.core, &fx.now, fx.opens[k].connection, 0);
	run();
	for (; n_sent < fx.n_works; n_sent++) {
		const struct core_work *w = &fx.works[n_sent];

		sent[n_sent].bytes = body_of(w);
		sent[n_sent].over = false;
		rate_force(counters[0].plain, w->granted_boot_us, w->n_attempt);
		rate_past(counters[1].plain, w->granted_boot_us, 0, sent[n_sent].bytes);
	}
}

/* Some of its recipients were not attempted, and a part of the body was not sent. */
static void
end_work(size_t k)
{
	const struct core_work *w = &fx.works[k];
	struct core_rcpt_result rcpts[ENTRY_RCPT_MAX];
	struct core_result r = { .entry = w->entry, .lease = w->lease, .rcpts = rcpts };
	unsigned back = rand() % 3 ? 0 : (unsigned)rand() % (w->n_attempt + 1u);

	for (unsigned i = 0; i < w->n_rcpts; i++) {
		if ((fx.bits[k][i / 8] >> (i % 8) & 1) && r.n_rcpts + back < w->n_attempt)
			rcpts[r.n_rcpts++] =
				(struct core_rcpt_result){ (uint16_t)i, EVENT_DELIVERED };
	}
	r.body_bytes = r.n_rcpts ? sent[k].bytes - (uint64_t)rand() % 1024 : 0;
	if (rand() % 8 == 0) {
		back = w->n_attempt;
		r.body_bytes = 0;
		assert_true(core_returned(fx.core, &fx.now, w->entry, w->lease));
	} else {
		assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
		if (fx.d.finished)
			core_entry_gone(fx.core, &fx.now, r.entry);
	}
	rate_refund(counters[0].plain, w->granted_boot_us, back);
	rate_refund(counters[1].plain, w->granted_boot_us, sent[k].bytes - r.body_bytes);
	sent[k].over = true;
}

static void
some_mail(void)
{
	struct core_entry_facts f = { .key = { ++fx.next_message, 3 },
				      .queue = rand() % 2 ? 3 : 7,
				      .received_s = (uint32_t)(fx.now.wall_us / SECOND),
				      .n_rcpts = (uint16_t)(1 + rand() % 30),
				      .job = 8,
				      .committed = true };

	f.kbytes = (uint32_t)(f.key.message % 7 * 100 + 1);
	core_entry_add(fx.core, &fx.now, &f);
}

static void
begin_again(void)
{
	struct kept killed[KEPT];

	memcpy(killed, kept, sizeof(kept));
	core_free(&fx.core);
	memcpy(kept, killed, sizeof(kept));
	for (unsigned i = 0; i < 2; i++) {
		const struct rate *r = kept_rate(&counters[i]);

		if (!r)
			continue;
		/* What was charged ahead stays charged. */
		assert_true(rate_used(r) <= rate_used(counters[i].plain) + rate_limit(r) / 64);
		memcpy(counters[i].memory, r, sizeof(counters[i].memory));
		rate_free(&counters[i].plain);
		counters[i].plain = rate_place(counters[i].memory, rate_limit(r),
					       counters[i].window_us, fx.now.boot_us);
	}
	fx.n_opens = fx.n_works = n_sent = 0;
	memset(fx.shown, 0, sizeof(fx.shown));
	start();
	route(3, 1);
	route(7, 1);
}

static void
set_n(bool few)
{
	job.max_msg_rate.n = few ? 6000 : 100000;
	job.max_data_volume_rate.n = few ? UINT64_C(1) << 28 : UINT64_C(1) << 33;
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_JOB, 8);
}

static void
take_away(void)
{
	struct conf_limits was = job;

	job = (struct conf_limits){ 0 };
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_JOB, 8);
	some_mail();
	some_mail();
	run();
	see_works();
	fx.now.boot_us += (uint64_t)rand() % SECOND;
	job = was;
	core_limits_changed(fx.core, &fx.now, CORE_SCOPE_JOB, 8);
}

static void
step(void)
{
	size_t k = fx.n_works ? (size_t)rand() % fx.n_works : 0;
	unsigned what = (unsigned)rand() % 200;

	if (what < 90)
		some_mail();
	else if (what < 160 && fx.n_works > 0 && !sent[k].over)
		end_work(k);
	else if (what < 190)
		pass((uint64_t)rand() % (rand() % 4 ? SECOND / 50 : 20 * SECOND));
	else if (what < 194)
		set_n(rand() % 2);
	else if (what < 196 && fx.n_works > 0) /* else this process does not know it yet */
		take_away();
	else if (what == 196)
		pass(10 * MINUTE);
	else if (what == 197 && rand() % 4 == 0)
		pass(3 * HOUR);
	else if (what == 198 && rand() % 4 == 0)
		begin_again();
}

static void
charged_ahead_at_random(void **state)
{
	(void)state;
	srand(4711);
	job.max_msg_rate = (struct conf_rate){ 100000, HOUR };
	job.max_data_volume_rate = (struct conf_rate){ UINT64_C(1) << 33, 2 * HOUR };
	fx.settings[3].connection_idle_timeout_us = HOUR;
	fx.settings[7].connection_idle_timeout_us = HOUR;
	names[8] = "news";
	for (unsigned i = 0; i < 2; i++) {
		counters[i].window_us = (i + 1) * HOUR;
		counters[i].plain = rate_new(UINT64_C(1) << 40, counters[i].window_us);
	}
	begin_again();
	for (unsigned i = 0; i < 6000 && fx.n_works + 100 < LOGGED; i++) {
		step();
		run();
		see_works();
		compare(rand() % 20 == 0);
	}
	for (unsigned i = 0; i < 2; i++)
		rate_free(&counters[i].plain);
}

#define T(name) cmocka_unit_test_setup(name, setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(charged_ahead),           T(charged_ahead_and_lowered), T(given_back_late),
		T(charged_ahead_and_paced), T(charged_ahead_and_gone),    T(charged_ahead_and_past),
		T(charged_ahead_and_full),  T(charged_ahead_at_random),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
