/* Back-off: in, out, what holds meanwhile, and how the rate returns. */
#include "scheduler/core/state.h"
#include "tests/unit/core/fixture.h"

static size_t closed; /* closes that are done */

static int
setup(void **state)
{
	(void)state;
	closed = 0;
	fx_begin();
	return 0;
}

static struct core_backoff
whole(uint64_t after_us)
{
	return (struct core_backoff){ .source_ip = CORE_NONE,
				      .until_wall_us = after_us ? fx.now.wall_us + after_us : 0 };
}

static bool
enter(uint32_t queue, struct core_backoff how)
{
	bool fresh = core_backoff_enter(fx.core, &fx.now, queue, &how);

	core_check(fx.core);
	return fresh;
}

static struct core_backoff_view
seen(uint32_t queue, uint32_t source)
{
	struct core_backoff_view v;

	assert_true(core_backoff_view(fx.core, queue, source, &v));
	return v;
}

static bool
is_seen(uint32_t queue, uint32_t source)
{
	struct core_backoff_view v;

	return core_backoff_view(fx.core, queue, source, &v);
}

static void
over_is(size_t k, uint32_t queue, uint32_t source, enum core_backoff_end why)
{
	assert_int_equal(fx.n_overs, k + 1);
	assert_int_equal(fx.overs[k].queue, queue);
	assert_int_equal(fx.overs[k].source_ip, source);
	assert_int_equal(fx.overs[k].why, why);
}

static uint32_t
source_of(uint32_t connection)
{
	for (size_t k = fx.n_opens; k-- > 0;) {
		if (fx.opens[k].connection == connection)
			return fx.opens[k].source_ip;
	}
	return CORE_NONE;
}

/* Opens succeed, closes are done, all that is granted is delivered; to the end of what happens now.
 */
static void
work_off_from(size_t *o, size_t *w)
{
	while (*o < fx.n_opens || *w < fx.n_works || closed < fx.n_closes) {
		while (*o < fx.n_opens)
			opened((*o)++);
		while (*w < fx.n_works)
			settle((*w)++, EVENT_DELIVERED);
		while (closed < fx.n_closes)
			core_closed(fx.core, &fx.now, fx.closes[closed++], SLICE_NONE);
		run();
	}
}

/* For so long; how many were granted. */
static size_t
work_for(uint64_t us, size_t *o, size_t *w)
{
	size_t before = fx.n_works;

	for (uint64_t t = 0; t < us; t += SECOND / 10) {
		work_off_from(o, w);
		pass(SECOND / 10);
	}
	return fx.n_works - before;
}

/* No grant at the old limit after it; connections that are too many end, also when the rate is used
 * up. */
static void
at_once(void **state)
{
	size_t n;

	(void)state;
	fx.settings[3].backoff.max_smtp_out = 2;
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 5, HOUR };
	connected(3, 10, 1);
	assert_int_equal(fx.n_works, 10);
	mails(3, 20);
	assert_true(enter(3, whole(0)));
	assert_true(view(3).backoff);
	for (size_t k = 0; k < 10; k++)
		settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_works, 10);
	assert_int_equal(fx.n_closes, 10); /* those that are left are of no use for an hour */
	n = fx.n_works;
	assert_true(core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false));
	assert_false(core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false));
	for (size_t k = 0; k < 10; k++)
		core_closed(fx.core, &fx.now, fx.closes[k], SLICE_NONE);
	run();
	for (size_t k = 10; k < fx.n_opens; k++)
		opened(k);
	assert_true(fx.n_works > n);
	assert_false(view(3).backoff);
	assert_int_equal(fx.n_overs, 0); /* who ends it knows it */
}

/* Idle connections that are too many end although the rate has room soon. */
static void
surplus(void **state)
{
	(void)state;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 100, 10 * SECOND };
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 50, 10 * SECOND };
	fx.settings[3].backoff.max_smtp_out = 3;
	connected(3, 10, 1);
	mails(3, 10);
	assert_int_equal(fx.n_works, 10);
	enter(3, whole(0));
	for (size_t k = 0; k < 8; k++) {
		settle(k, EVENT_DELIVERED);
		assert_int_equal(fx.n_works, 10); /* a fifth of fifty is used up */
		assert_int_equal(fx.n_closes, k < 7 ? k + 1 : 7);
	}
}

/* The timer, a further match, the wall clock that is set. */
static void
timer(void **state)
{
	uint64_t since = fx.now.wall_us;
	struct core_backoff_view v;

	(void)state;
	assert_true(enter(3, whole(HOUR)));
	pass(50 * MINUTE);
	assert_false(enter(3, whole(HOUR)));
	pass(50 * MINUTE);
	v = seen(3, CORE_NONE);
	assert_int_equal(v.since_wall_us, since);
	assert_int_equal(v.until_wall_us, since + 110 * MINUTE);
	assert_int_equal(v.ended_wall_us, 0);
	assert_true(view(3).backoff);
	pass(10 * MINUTE - 1);
	assert_int_equal(fx.n_overs, 0);
	pass(1);
	over_is(0, 3, CORE_NONE, CORE_BACKOFF_TIME);
	assert_false(view(3).backoff);
	assert_false(is_seen(3, CORE_NONE));
	/* The clock is set back, then far ahead: what the wall says counts. */
	enter(3, whole(HOUR));
	fx.now.wall_us -= HOUR;
	pass(90 * MINUTE);
	assert_true(view(3).backoff);
	fx.now.wall_us += 20 * MINUTE;
	run();
	assert_true(view(3).backoff);
	fx.now.wall_us += 10 * MINUTE;
	run();
	over_is(1, 3, CORE_NONE, CORE_BACKOFF_TIME);
	/* Without an end. */
	enter(3, whole(0));
	pass(10000 * HOUR);
	assert_true(view(3).backoff);
	assert_false(enter(3, whole(MINUTE)));
	assert_true(run() <= fx.now.boot_us + MINUTE);
	pass(MINUTE);
	over_is(2, 3, CORE_NONE, CORE_BACKOFF_TIME);
	/* At a start it may be over already, and a queue without mail has it too. */
	enter(7, (struct core_backoff){ .source_ip = CORE_NONE,
					.since_wall_us = since,
					.until_wall_us = fx.now.wall_us - 1 });
	run();
	over_is(3, 7, CORE_NONE, CORE_BACKOFF_TIME);
	assert_false(core_backoff_enter(fx.core, &fx.now, 9999,
					&(struct core_backoff){ .source_ip = CORE_NONE }));
}

/* A delivery ends it, but not of what was on its way before. */
static void
delivery(void **state)
{
	struct core_backoff how = whole(0);

	(void)state;
	fx.settings[3].max_smtp_out = 2;
	connected(3, 5, 1);
	assert_int_equal(fx.n_works, 2);
	how.after_delivery = true;
	enter(3, how);
	settle(0, EVENT_DELIVERED);
	assert_true(view(3).backoff);
	settle(2, EVENT_DEFERRED);
	assert_true(view(3).backoff);
	settle(3, EVENT_DELIVERED);
	assert_false(view(3).backoff);
	over_is(0, 3, CORE_NONE, CORE_BACKOFF_DELIVERY);
	settle(1, EVENT_DELIVERED);
	assert_int_equal(fx.n_overs, 1);
}

/* Entering is no retry; the next one takes the twin's interval. */
static void
retry(void **state)
{
	(void)state;
	fx.settings[3].backoff_retry_after = (struct conf_intervals){ .n = 1, .us = { HOUR } };
	fx.settings[3].max_smtp_out = 1;
	connected(3, 2, 1);
	enter(3, whole(0));
	run();
	assert_int_equal(view(3).retry_at_wall_us, 0);
	settle_with(0, EVENT_DEFERRED, GONE | HOST);
	core_closed(fx.core, &fx.now, fx.opens[0].connection, SLICE_NONE);
	run();
	assert_int_equal(view(3).retry_at_wall_us, fx.now.wall_us + HOUR);
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, true);
	run();
	assert_int_equal(view(3).retry_at_wall_us, fx.now.wall_us + HOUR);
}

/* Only the source IPs that are named. */
static void
use_source(void **state)
{
	static const uint32_t only[] = { 2, 77 };
	struct core_backoff how = whole(0);
	size_t first;

	(void)state;
	connected(1, 4, 1);
	assert_int_equal(fx.n_works, 4);
	how.sources = only;
	how.n_sources = 2;
	how.only_sources = true;
	enter(1, how);
	mails(1, 4);
	run();
	for (size_t k = 0; k < 4; k++)
		settle(k, EVENT_DELIVERED);
	for (size_t k = 4; k < fx.n_works; k++)
		assert_int_equal(fx.works[k].source_ip, 2);
	assert_int_equal(fx.n_closes, 2);
	first = fx.n_opens;
	mails(1, 10);
	run();
	assert_true(fx.n_opens > first);
	for (size_t k = first; k < fx.n_opens; k++)
		assert_int_equal(fx.opens[k].source_ip, 2);
	/* None: nothing goes, and it says so. */
	how.n_sources = 0;
	assert_false(enter(5, how) && enter(5, how));
	mail(5, 1);
	run();
	route(5, 1);
	assert_int_equal(view(5).wait, CORE_WAIT_SOURCES);
	first = fx.n_opens;
	core_backoff_leave(fx.core, &fx.now, 5, CORE_NONE, true);
	run();
	assert_int_equal(fx.n_opens, first + 1);
}

/* Slowed is only what goes by that source IP. */
static void
one_source(void **state)
{
	struct core_backoff how = whole(HOUR);
	size_t o, w, at_1 = 0, at_2 = 0;

	(void)state;
	fx.settings[1].max_msg_rate = (struct conf_rate){ 1000, HOUR };
	fx.settings[1].backoff.max_msg_rate = (struct conf_rate){ 5, HOUR };
	fx.settings[1].backoff.max_smtp_out = 1;
	connected(1, 20, 1);
	o = fx.n_opens;
	assert_int_equal(o, 20);
	for (size_t k = 10; k < o; k++)
		opened(k);
	assert_int_equal(fx.n_works, 20);
	how.source_ip = 1;
	assert_true(enter(1, how));
	assert_false(enter(1, how));
	assert_false(view(1).backoff);
	assert_true(view(1).backoff_source);
	assert_false(is_seen(1, CORE_NONE));
	assert_false(is_seen(1, 2));
	assert_int_equal(seen(1, 1).until_wall_us, fx.now.wall_us + HOUR);
	w = 0;
	while (w < 20)
		settle(w++, EVENT_DELIVERED);
	for (size_t k = 0; k < fx.n_closes; k++)
		at_1 += source_of(fx.closes[k]) == 1;
	assert_int_equal(at_1, 10);
	at_1 = 0;
	mails(1, 100);
	run();
	work_for(20 * MINUTE, &o, &w);
	for (size_t k = 20; k < fx.n_works; k++) {
		at_1 += fx.works[k].source_ip == 1;
		at_2 += fx.works[k].source_ip == 2;
	}
	assert_true(at_1 <= 5);
	assert_true(at_2 >= 90);
	assert_true(core_backoff_leave(fx.core, &fx.now, 1, 1, false));
	assert_false(view(1).backoff_source);
	mails(1, 100);
	run();
	work_for(MINUTE, &o, &w);
	at_2 = at_1;
	for (size_t k = 20; k < fx.n_works; k++)
		at_1 += fx.works[k].source_ip == 1;
	assert_true(at_1 > at_2 + 5);
	/* By its timer. */
	how.until_wall_us = fx.now.wall_us + MINUTE;
	enter(1, how);
	pass(MINUTE);
	over_is(0, 1, 1, CORE_BACKOFF_TIME);
}

/* 10 %, 25 %, 50 %, all. */
static void
steps(void **state)
{
	static const struct conf_recover in_steps = { .every_us = 10 * MINUTE,
						      .n = 3,
						      .percent = { 10, 25, 50 } };
	static const size_t most[] = { 10, 25, 50, 100 };
	struct core_backoff how = whole(MINUTE);
	size_t o, w = 0;

	(void)state;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 100, MINUTE };
	connected(3, 1, 1);
	o = fx.n_opens;
	how.recover = &in_steps;
	enter(3, how);
	mails(3, 5000);
	work_for(61 * SECOND, &o, &w);
	over_is(0, 3, CORE_NONE, CORE_BACKOFF_TIME);
	assert_false(view(3).backoff);
	assert_in_range(seen(3, CORE_NONE).ended_wall_us - seen(3, CORE_NONE).since_wall_us, MINUTE,
			MINUTE + SECOND);
	assert_int_equal(seen(3, CORE_NONE).rate_mps, 166);
	work_for(60 * SECOND, &o, &w);
	for (unsigned i = 0; i < 4; i++) {
		size_t n = work_for(5 * MINUTE, &o, &w);

		assert_in_range(n, most[i] * 5 * 95 / 100 - 1, most[i] * 6);
		if (i == 0)
			assert_string_equal(view(3).limit, "recover");
		work_for(5 * MINUTE, &o, &w);
	}
	assert_int_equal(fx.n_overs, 2);
	over_is(1, 3, CORE_NONE, CORE_BACKOFF_STEPS);
	assert_false(is_seen(3, CORE_NONE));
	/* A match in the recovery is back-off anew; at once is at once. */
	enter(3, how);
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false);
	assert_true(is_seen(3, CORE_NONE));
	assert_true(enter(3, how));
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false);
	assert_false(core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false));
	assert_true(is_seen(3, CORE_NONE));
	assert_false(core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, true));
	assert_false(is_seen(3, CORE_NONE));
	/* After a restart: in its second step, or over. */
	how.recover = &in_steps;
	how.ended_wall_us = fx.now.wall_us - 15 * MINUTE;
	enter(3, how);
	assert_false(view(3).backoff);
	assert_int_equal(seen(3, CORE_NONE).rate_mps, 416);
	how.ended_wall_us = fx.now.wall_us - 31 * MINUTE;
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, true);
	enter(3, how);
	run();
	assert_false(is_seen(3, CORE_NONE));
	over_is(2, 3, CORE_NONE, CORE_BACKOFF_STEPS);
}

/* Without a limit the percentages are of what was delivered before. */
static void
steps_of_before(void **state)
{
	static const struct conf_recover in_steps = { .every_us = 10 * MINUTE,
						      .n = 1,
						      .percent = { 50 } };
	struct core_backoff how = whole(0);
	size_t o = 0, w = 0;

	(void)state;
	fx.settings[3].max_smtp_out = 2;
	mail(3, 1);
	run();
	route(3, 1);
	for (unsigned i = 0; i < 60; i++) {
		mails(3, 4);
		work_for(SECOND, &o, &w);
	}
	how.recover = &in_steps;
	enter(3, how);
	assert_in_range(seen(3, CORE_NONE).before_mps, 3600, 4400);
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false);
	mails(3, 1000);
	assert_in_range(work_for(100 * SECOND, &o, &w), 170, 225);
	/* Nothing was delivered, nothing limits: nothing to recover. */
	enter(7, how);
	core_backoff_leave(fx.core, &fx.now, 7, CORE_NONE, false);
	assert_false(is_seen(7, CORE_NONE));
}

struct charged {
	unsigned limits;
	uint64_t most, least; /* used, of the rates of queue 3 */
};

static void
look_at(void *arg, const struct core_limit_view *v)
{
	struct charged *ch = arg;

	if (v->scope != CORE_SCOPE_QUEUE || v->queue != 3 || v->measure != CORE_MEASURE_MSG)
		return;
	if (ch->limits == 0 || v->used > ch->most)
		ch->most = v->used;
	if (ch->limits == 0 || v->used < ch->least)
		ch->least = v->used;
	ch->limits++;
}

static struct charged
charged(void)
{
	struct charged ch = { 0 };
	uint32_t cursor = 0;

	while (core_each_limit(fx.core, &fx.now, &cursor, 10, look_at, &ch))
		;
	return ch;
}

/* Far from its N a limit is charged ahead: what back-off brings begins with what was sent, and so
 * it is with all of them from then on. */
static void
sent_not_ahead(void **state)
{
	static const struct conf_recover in_steps = { .every_us = 10 * MINUTE,
						      .n = 1,
						      .percent = { 50 } };
	struct core_backoff how = whole(0);
	struct charged ch;
	size_t o = 0, w = 0;

	(void)state;
	fx.settings[3].max_smtp_out = 1;
	fx.settings[3].connection_idle_timeout_us = 10 * MINUTE;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 100000, HOUR };
	pass(HOUR - fx.now.boot_us % HOUR);
	mail(3, 1);
	run();
	route(3, 1);
	for (unsigned i = 0; i < 10; i++) {
		work_off_from(&o, &w);
		if (i < 9)
			mail(3, 1);
		run();
	}
	how.recover = &in_steps;
	enter(3, how);
	core_backoff_leave(fx.core, &fx.now, 3, CORE_NONE, false);
	core_check(fx.core);
	ch = charged();
	assert_int_equal(ch.limits, 2);
	assert_int_equal(ch.least, 10);
	assert_int_equal(ch.most, 10);
	for (unsigned i = 0; i < 10; i++) {
		mail(3, 1);
		run();
		work_off_from(&o, &w);
	}
	ch = charged();
	assert_int_equal(ch.least, 20);
	assert_int_equal(ch.most, 20);
}

/* The controller. */
static void
automatic(void **state)
{
	static const struct conf_recover by_itself = { .automatic = true };
	struct core_backoff how = whole(0);
	size_t o = 0, w = 0, n;
	uint64_t rate;

	(void)state;
	fx.settings[3].max_msg_rate = (struct conf_rate){ 100, SECOND };
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 1, HOUR };
	mail(3, 1);
	run();
	route(3, 1);
	for (unsigned i = 0; i < 60; i++) {
		mails(3, 20);
		work_for(SECOND, &o, &w);
	}
	how.recover = &by_itself;
	enter(3, how);
	assert_true(view(3).backoff);
	rate = seen(3, CORE_NONE).rate_mps;
	assert_in_range(rate, 16000, 20000);
	mails(3, 1000);
	run();
	/* In place of one an hour; what went in the second before counts. */
	n = work_for(4 * SECOND, &o, &w);
	assert_in_range(n, 40, 72);
	assert_string_equal(view(3).limit, "recover");
	assert_true(seen(3, CORE_NONE).rate_mps > rate);
	rate = seen(3, CORE_NONE).rate_mps;
	how.anew = true; /* told anew, as after a reload */
	assert_false(enter(3, how));
	assert_int_equal(seen(3, CORE_NONE).rate_mps, rate);
	how.anew = false;
	assert_false(enter(3, how)); /* a further match, and one that belongs to it */
	assert_true(seen(3, CORE_NONE).rate_mps < rate);
	rate = seen(3, CORE_NONE).rate_mps;
	enter(3, how);
	assert_int_equal(seen(3, CORE_NONE).rate_mps, rate);
	/* Up to the normal limit, and no further: then it is over. */
	for (unsigned i = 0; i < 200 && fx.n_overs == 0; i++) {
		assert_true(seen(3, CORE_NONE).rate_mps < 100000);
		pass(5 * SECOND);
	}
	over_is(0, 3, CORE_NONE, CORE_BACKOFF_RECOVERED);
	assert_false(view(3).backoff);
	assert_false(is_seen(3, CORE_NONE));
	/* After a restart it goes on where it was. */
	how.rate_mps = 1234;
	enter(3, how);
	assert_int_equal(seen(3, CORE_NONE).rate_mps, 1234);
	/* Of one that has just begun, and waits, the rate that it begins with. */
	how.rate_mps = 0;
	enter(7, how);
	assert_true(seen(7, CORE_NONE).automatic);
	assert_int_equal(seen(7, CORE_NONE).rate_mps, RECOVER_UNKNOWN_MPS);
}

/* Fewer connections for a while; into retry by hand. */
static void
by_hand(void **state)
{
	(void)state;
	connected(3, 8, 1);
	assert_int_equal(fx.n_works, 8);
	core_cap_connections(fx.core, &fx.now, 3, 4, fx.now.wall_us + MINUTE);
	mails(3, 20);
	for (size_t k = 0; k < 8; k++)
		settle(k, EVENT_DELIVERED);
	assert_int_equal(fx.n_closes, 4);
	assert_int_equal(fx.n_works, 12);
	for (size_t k = 0; k < 4; k++)
		core_closed(fx.core, &fx.now, fx.closes[k], SLICE_NONE);
	run();
	assert_int_equal(fx.n_opens, 8);
	pass(MINUTE);
	assert_true(fx.n_opens > 8);
	/* The later one stays. */
	core_defer_queue(fx.core, &fx.now, 7, fx.now.wall_us + HOUR);
	core_defer_queue(fx.core, &fx.now, 7, fx.now.wall_us + MINUTE);
	core_defer_queue(fx.core, &fx.now, 7, 0);
	mail(7, 1);
	run();
	assert_int_equal(view(7).retry_at_wall_us, fx.now.wall_us + HOUR);
	assert_int_equal(view(7).wait, CORE_WAIT_RETRY);
	core_defer_queue(fx.core, &fx.now, 3, 0);
	run();
	assert_int_equal(view(3).retry_at_wall_us, fx.now.wall_us + 10 * MINUTE);
	core_defer_queue(fx.core, &fx.now, 3, 0); /* ten replies are one deferral */
	assert_int_equal(view(3).retry_at_wall_us, fx.now.wall_us + 10 * MINUTE);
	assert_int_equal(view(3).retry_level, 1);
}

/* The last one that is left counts, whoever disabled the others. */
static void
all_disabled(void **state)
{
	(void)state;
	assert_false(core_sources_all_disabled(fx.core, &fx.now, 1));
	core_source_disable(fx.core, &fx.now, CORE_NONE, 1, true, UINT64_MAX);
	assert_false(core_sources_all_disabled(fx.core, &fx.now, 1));
	assert_true(core_sources_all_disabled(fx.core, &fx.now, 3));
	core_source_disable(fx.core, &fx.now, 1, 2, true, fx.now.boot_us + MINUTE);
	assert_true(core_sources_all_disabled(fx.core, &fx.now, 1));
	assert_false(core_sources_all_disabled(fx.core, &fx.now, 5));
	assert_false(core_sources_all_disabled(fx.core, &fx.now, 9999));
	pass(MINUTE);
	assert_false(core_sources_all_disabled(fx.core, &fx.now, 1));
	core_source_disable(fx.core, &fx.now, CORE_NONE, 1, false, 0);
	assert_false(core_sources_all_disabled(fx.core, &fx.now, 3));
}

/* A time that the peer named is not cut short by what was in flight then. */
static void
a_longer_wait_stays(void **state)
{
	(void)state;
	connected(7, 1, 1);
	core_defer_queue(fx.core, &fx.now, 7, fx.now.wall_us + 3 * HOUR);
	settle_with(0, EVENT_DEFERRED, GONE | HOST);
	run();
	assert_int_equal(view(7).wait, CORE_WAIT_RETRY);
	assert_int_equal(view(7).retry_at_wall_us, fx.now.wall_us + 3 * HOUR);
}

/* What waits is given up, not what is in flight, nor another queue's. */
static void
bounce_queue(void **state)
{
	(void)state;
	connected(7, 20, 1);
	run();
	mails(5, 3);
	core_bounce_queue(fx.core, &fx.now, 7, "550 5.7.1 go away");
	run();
	assert_true(fx.n_works > 0);
	assert_int_equal(fx.n_gives, 20 - fx.n_works);
	assert_int_equal(fx.gives[0].why, CORE_BOUNCE_QUEUE);
	assert_int_equal(view(7).entries, fx.n_works);
	assert_int_equal(view(5).entries, 3);
}

/* It goes on for some turns: what comes meanwhile did not wait when it was asked for. */
static void
bounce_queue_spares_what_comes(void **state)
{
	uint32_t late[4];

	(void)state;
	connected(7, 10, 1);
	for (size_t k = 0; k < 3; k++)
		settle(k, EVENT_DEFERRED);
	core_give_up_room(fx.core, &fx.now, 0);
	core_bounce_queue(fx.core, &fx.now, 7, "550 5.7.1 go away");
	for (unsigned i = 0; i < 4; i++)
		late[i] = mail(7, 1);
	run();
	core_give_up_room(fx.core, &fx.now, 100);
	run();
	assert_int_equal(fx.n_gives, 10 - (fx.n_works - 3));
	for (size_t k = 0; k < fx.n_gives; k++) {
		for (unsigned i = 0; i < 4; i++)
			assert_int_not_equal(fx.gives[k].entry, late[i]);
	}
}

/* One message in an interval, also of a queue that is in retry. */
static void
probes(void **state)
{
	struct core_backoff how = whole(0);
	uint64_t began = fx.now.boot_us;

	(void)state;
	how.probe_us = 10 * MINUTE;
	how.probe_next_wall_us = fx.now.wall_us + 4 * MINUTE;
	how.after_delivery = true;
	enter(5, how);
	mails(5, 3);
	run();
	assert_int_equal(view(5).wait, CORE_WAIT_BACKOFF);
	assert_int_equal(view(5).until_wall_us, fx.now.wall_us + 4 * MINUTE);
	pass(4 * MINUTE - SECOND);
	assert_int_equal(fx.n_works, 0);
	pass(SECOND);
	route(5, 1);
	opened(fx.n_opens - 1);
	run();
	assert_int_equal(fx.n_works, 1);
	settle(0, EVENT_DEFERRED); /* its connection stays: the others do not take it */
	assert_int_equal(fx.n_works, 1);
	pass(10 * MINUTE);
	opened(fx.n_opens - 1);
	assert_int_equal(fx.n_works, 2);
	settle_with(1, EVENT_DEFERRED, GONE | HOST);
	run();
	core_defer_queue(fx.core, &fx.now, 5, fx.now.wall_us + 2 * HOUR);
	/* A further match does not bring the next one nearer. */
	how.probe_next_wall_us = 0;
	enter(5, how);
	pass(10 * MINUTE - SECOND);
	assert_int_equal(fx.n_works, 2);
	pass(2 * SECOND);
	opened(fx.n_opens - 1);
	run();
	assert_int_equal(fx.n_works, 3);
	assert_true(fx.now.boot_us >= began + 24 * MINUTE);
	settle(2, EVENT_DELIVERED);
	assert_int_equal(fx.n_overs, 1);
	assert_false(view(5).backoff);
	assert_true(fx.n_works > 3);
}

/* What was deferred until an earlier time than that of the next probe goes then, and says so. */
static void
deferred_mail_waits_for_the_probe(void **state)
{
	struct core_backoff how = whole(0);
	uint64_t next;

	(void)state;
	how.probe_us = 10 * HOUR;
	how.probe_next_wall_us = fx.now.wall_us + MINUTE;
	enter(5, how);
	mails(5, 1);
	run();
	pass(MINUTE);
	route(5, 1);
	opened(fx.n_opens - 1);
	run();
	assert_int_equal(fx.n_works, 1);
	next = fx.now.wall_us + 10 * HOUR;
	settle_with(0, EVENT_DEFERRED, GONE);
	run();
	assert_int_equal(view(5).wait, CORE_WAIT_BACKOFF);
	assert_int_equal(view(5).until_wall_us, next);
	pass(10 * HOUR - SECOND);
	assert_int_equal(fx.n_works, 1);
	assert_int_equal(view(5).until_wall_us, next);
	pass(2 * SECOND);
	opened(fx.n_opens - 1);
	run();
	assert_int_equal(fx.n_works, 2);
}

static uint32_t untold[8];
static size_t n_untold;
static bool all_are_told;

static bool
is_told(void *ctx, uint32_t queue)
{
	(void)ctx;
	if (!all_are_told)
		untold[n_untold++ % 8] = queue;
	return all_are_told;
}

/* A mode that many queues have: each is asked for before it is granted anything, not before. */
static void
asked_before_a_grant(void **state)
{
	size_t works;

	(void)state;
	n_untold = 0;
	all_are_told = false;
	fx.core->ops.mode_is_told = is_told;
	connected(7, 1, 1); /* nothing has changed yet */
	works = fx.n_works;
	assert_true(works > 0);
	core_modes_changed(fx.core);
	assert_int_equal(n_untold, 0);
	mails(7, 5);
	run();
	core_check(fx.core);
	assert_int_equal(fx.n_works, works);
	assert_int_equal(n_untold, 1);
	assert_int_equal(untold[0], 7);
	all_are_told = true;
	core_look_again(fx.core, &fx.now, 7);
	run();
	core_check(fx.core);
	for (size_t k = 0; k < fx.n_works; k++)
		settle(k, EVENT_DELIVERED);
	assert_true(fx.n_works > works);
	all_are_told = false;
	mails(7, 1);
	run();
	assert_int_equal(n_untold, 1); /* it is known, until the next change */
}

/* Nobody came by meanwhile: the queue is not taken for one that was asked for. */
static void
asked_after_many_changes(void **state)
{
	static const unsigned changes[] = { 1, 255, 256, 65535 };

	(void)state;
	n_untold = 0;
	fx.core->ops.mode_is_told = is_told;
	for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
		all_are_told = false;
		for (unsigned k = 0; k < changes[i]; k++)
			core_modes_changed(fx.core);
		mails(7, 1);
		run();
		assert_int_equal(fx.n_asks, i);
		all_are_told = true;
		core_look_again(fx.core, &fx.now, 7);
		run();
		assert_int_equal(fx.n_asks, i + 1);
		core_route(fx.core, &fx.now, 7, CORE_ROUTE_NO_DOMAIN, 0, 0, 0, 0, "5.1.2 none");
		run();
		core_entry_gone(fx.core, &fx.now, fx.gives[fx.n_gives - 1].entry);
		pass(HOUR);
	}
}

/* What has waited leaves over some seconds, then nothing slows the queue down; a few go at once. */
static void
due_mail_is_spread(void **state)
{
	size_t o = 0, w = 0;

	(void)state;
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 1, HOUR };
	enter(3, whole(MINUTE));
	mails(3, 750);
	run();
	route(3, 1);
	assert_int_equal(work_for(MINUTE - SECOND, &o, &w), 1);
	while (!seen(3, CORE_NONE).ended_wall_us)
		pass(SECOND / 10);
	over_is(0, 3, CORE_NONE, CORE_BACKOFF_TIME);
	assert_int_equal(seen(3, CORE_NONE).rate_mps, 107000);
	for (unsigned second = 0; second < 6; second++)
		assert_in_range(work_for(SECOND, &o, &w), 80, 107);
	work_for(2 * SECOND, &o, &w);
	assert_int_equal(w, 750);
	over_is(1, 3, CORE_NONE, CORE_BACKOFF_STEPS);
	assert_false(is_seen(3, CORE_NONE));
	/* A few are no wave. */
	enter(3, whole(MINUTE));
	mails(3, 90);
	pass(MINUTE);
	assert_false(is_seen(3, CORE_NONE));
}

/* The wall clock is set back behind the end of back-off: what is left of the way back is no longer for
 * that. Also when that end was kept on disk. */
static void
the_way_back_of_a_clock_set_back(void **state)
{
	static const struct conf_recover in_steps = { .every_us = 10 * MINUTE,
						      .n = 2,
						      .percent = { 10, 50 } };
	struct core_backoff how = whole(MINUTE);
	size_t o = 0, w = 0;

	(void)state;
	fx.settings[3].backoff.max_msg_rate = (struct conf_rate){ 1, HOUR };
	fx.settings[4].max_msg_rate = (struct conf_rate){ 100, MINUTE };
	how.recover = &in_steps;
	enter(3, whole(MINUTE));
	enter(4, how);
	mails(3, 750);
	run();
	route(3, 1);
	work_for(MINUTE - SECOND, &o, &w);
	while (!seen(3, CORE_NONE).ended_wall_us)
		pass(SECOND / 10);
	work_for(SECOND, &o, &w);
	fx.now.wall_us -= 24 * HOUR;
	work_for(9 * SECOND, &o, &w);
	assert_int_equal(w, 750);
	assert_false(is_seen(3, CORE_NONE));
	pass(10 * MINUTE);
	assert_int_equal(seen(4, CORE_NONE).rate_mps, 833);
	pass(10 * MINUTE);
	assert_false(is_seen(4, CORE_NONE));
	how.ended_wall_us = fx.now.wall_us + 24 * HOUR;
	enter(4, how);
	pass(20 * MINUTE + SECOND);
	assert_false(is_seen(4, CORE_NONE));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(at_once, setup),
		cmocka_unit_test_setup(surplus, setup),
		cmocka_unit_test_setup(timer, setup),
		cmocka_unit_test_setup(delivery, setup),
		cmocka_unit_test_setup(retry, setup),
		cmocka_unit_test_setup(use_source, setup),
		cmocka_unit_test_setup(one_source, setup),
		cmocka_unit_test_setup(steps, setup),
		cmocka_unit_test_setup(steps_of_before, setup),
		cmocka_unit_test_setup(automatic, setup),
		cmocka_unit_test_setup(sent_not_ahead, setup),
		cmocka_unit_test_setup(by_hand, setup),
		cmocka_unit_test_setup(all_disabled, setup),
		cmocka_unit_test_setup(probes, setup),
		cmocka_unit_test_setup(deferred_mail_waits_for_the_probe, setup),
		cmocka_unit_test_setup(a_longer_wait_stays, setup),
		cmocka_unit_test_setup(bounce_queue, setup),
		cmocka_unit_test_setup(bounce_queue_spares_what_comes, setup),
		cmocka_unit_test_setup(asked_before_a_grant, setup),
		cmocka_unit_test_setup(asked_after_many_changes, setup),
		cmocka_unit_test_setup(due_mail_is_spread, setup),
		cmocka_unit_test_setup(the_way_back_of_a_clock_set_back, setup),
	};

	return cmocka_run_group_tests(tests, NULL, fx_end);
}
