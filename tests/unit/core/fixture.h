/* fixture: a core whose decisions are written down, and a clock that the test moves. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/event_log/event.h"
#include "scheduler/core/core.h"

#define SECOND 1000000ull
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define QUEUES 400
#define FRESH  10 /* numbers behind those of QUEUES */
#define LOGGED 8192
#define WALL_S 1800000000u

struct backoff_end {
	uint32_t queue, source_ip;
	unsigned why;
};
struct give_up {
	uint32_t entry;
	enum core_give_up why;
	char text[64];
};
struct fixture {
	struct core *core;
	struct core_now now;
	struct conf_queue settings[QUEUES + FRESH];
	struct core_open opens[LOGGED];
	struct core_work works[LOGGED];
	uint8_t bits[LOGGED][(ENTRY_RCPT_MAX + 7) / 8];
	uint32_t closes[LOGGED];
	uint32_t asks[LOGGED];
	struct give_up gives[LOGGED];
	struct backoff_end overs[LOGGED];
	size_t n_overs;
	size_t n_opens, n_works, n_closes, n_asks, n_gives, n_changed, n_moved;
	unsigned room; /* claims that workers still take */
	uint64_t next_message;
	struct core_decision d; /* of the last settle() */
	struct core_queue_view shown[QUEUES + FRESH]; /* as core_each_changed() named them */
	uint64_t shown_shift;
};

static struct fixture fx;

static const struct conf_queue *
fx_settings(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	assert_true(queue < QUEUES + FRESH && name.n > 0);
	return &fx.settings[queue];
}

static void
fx_ask(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	assert_true(fx.n_asks < LOGGED);
	fx.asks[fx.n_asks++] = queue;
}

static void
fx_open(void *ctx, const struct core_open *o)
{
	(void)ctx;
	assert_true(fx.n_opens < LOGGED);
	fx.opens[fx.n_opens++] = *o;
}

static bool
fx_work(void *ctx, const struct core_work *w)
{
	(void)ctx;
	assert_true(fx.n_works < LOGGED);
	if (fx.room == 0)
		return false;
	fx.room--;
	memcpy(fx.bits[fx.n_works], w->attempt_bits, (w->n_rcpts + 7u) / 8);
	fx.works[fx.n_works] = *w;
	fx.works[fx.n_works].attempt_bits = fx.bits[fx.n_works];
	fx.n_works++;
	return true;
}

static void
fx_close(void *ctx, uint32_t connection, unsigned worker)
{
	(void)ctx;
	(void)worker;
	assert_true(fx.n_closes < LOGGED);
	fx.closes[fx.n_closes++] = connection;
}

static void
fx_give_up(void *ctx, uint32_t entry, enum core_give_up why, const char *text)
{
	(void)ctx;
	assert_true(fx.n_gives < LOGGED);
	fx.gives[fx.n_gives].entry = entry;
	fx.gives[fx.n_gives].why = why;
	snprintf(fx.gives[fx.n_gives++].text, sizeof(fx.gives[0].text), "%s", text);
}

static void
fx_changed(void *ctx, uint32_t queue)
{
	(void)ctx;
	(void)queue;
	fx.n_changed++;
}

static void
fx_backoff_over(void *ctx, uint32_t queue, uint32_t source_ip, unsigned why)
{
	(void)ctx;
	assert_true(fx.n_overs < LOGGED);
	fx.overs[fx.n_overs++] = (struct backoff_end){ queue, source_ip, why };
}

static void
fx_moved(void *ctx, uint32_t entry)
{
	(void)ctx;
	(void)entry;
	fx.n_moved++;
}

static const struct conf_vmta_source fx_default[] = { { 0, "", 1 } };
static const struct conf_vmta_source fx_even[] = { { 1, "a", 1 }, { 2, "b", 1 } };
static const struct conf_vmta_source fx_uneven[] = { { 1, "a", 1 }, { 2, "b", 3 } };
static const struct conf_vmta_source fx_one[] = { { 1, "a", 1 } };
static const struct conf_vmta fx_vmtas[] = {
	{ .name = "{default}", .n_sources = 1, .sources = fx_default },
	{ .name = "even", .n_sources = 2, .sources = fx_even },
	{ .name = "uneven", .n_sources = 2, .sources = fx_uneven },
	{ .name = "one", .n_sources = 1, .sources = fx_one },
};

/* For a test that has more of its own. */
// clang-format off
#define FX_OPS \
	.settings = fx_settings, .ask_route = fx_ask, .open = fx_open, .work = fx_work, \
	.close = fx_close, .give_up = fx_give_up, .queue_changed = fx_changed
// clang-format on

/* Another core in place of the fixture's, with QUEUES queues "dN.example/V", V by turns {default},
 * even, uneven, one; workers live. */
static void
fx_core_in(const struct core_ops *ops, const struct core_world *world)
{
	static const char *const vmtas[] = { "{default}", "even", "uneven", "one" };

	core_free(&fx.core);
	fx.core = core_new_in(ops, NULL, world, 100);
	for (uint32_t i = 0; i < QUEUES; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%u.example/%s", i, vmtas[i % 4]);
		core_queue_add(fx.core, i, slice_str(name));
	}
	for (unsigned i = 0; i < world->workers; i++)
		core_worker_up(fx.core, &fx.now, i);
}

/* A core in that world, and roomy settings. */
static void
fx_begin_in(unsigned workers, size_t n_source_ips, uint64_t total)
{
	static const struct core_ops ops = { FX_OPS,
					     .moved = fx_moved,
					     .backoff_over = fx_backoff_over };
	struct core_world world = { .workers = workers,
				    .total_max_smtp_out = total,
				    .n_source_ips = n_source_ips,
				    .n_vmtas = n_source_ips > 2 ? 4 : 1,
				    .vmtas = fx_vmtas };

	core_free(&fx.core);
	memset(&fx, 0, sizeof(fx));
	fx.room = UINT32_MAX;
	fx.now = (struct core_now){ 5000 * SECOND, WALL_S * SECOND };
	for (uint32_t i = 0; i < QUEUES + FRESH; i++) {
		fx.settings[i] = (struct conf_queue){
			.max_smtp_out = 20,
			.max_msg_per_connection = CONF_UNLIMITED,
			.max_rcpt_per_transaction = 1000,
			.mx_connection_attempts = 10,
			.retry_after = { .n = 2, .us = { 10 * MINUTE, 30 * MINUTE } },
			.retry_recipients_after_us = 15 * MINUTE,
			.retry_after_dns_error_us = MINUTE,
			.bounce_after_us = 108 * HOUR,
			.bounce_upon_5xx_greeting = true,
		};
	}
	fx_core_in(&ops, &world);
}

static inline void
fx_begin(void)
{
	fx_begin_in(2, 3, CONF_UNLIMITED);
}

static inline void
fx_show(void *arg, uint32_t queue)
{
	(void)arg;
	assert_true(queue < QUEUES + FRESH);
	assert_true(core_queue_view(fx.core, &fx.now, queue, &fx.shown[queue]));
}

static inline uint64_t
fx_due(const struct core_queue_view *v)
{
	return v->wait == CORE_WAIT_NONE || v->until_wall_us <= fx.now.wall_us ? 0
									     : v->until_wall_us;
}

/* Who looks only at queues that are named as changed sees all there is to see. */
static inline void
fx_check_shown(void)
{
	uint64_t shift = fx.now.wall_us - fx.now.boot_us;

	while (core_each_changed(fx.core, 7, fx_show, NULL))
		;
	for (uint32_t i = 0; i < QUEUES + FRESH; i++) {
		const struct core_queue_view *s = &fx.shown[i];
		struct core_queue_view v;

		if (!core_queue_view(fx.core, &fx.now, i, &v))
			continue;
		assert_true(s->rcpts == v.rcpts && s->entries == v.entries && s->kbytes == v.kbytes);
		assert_true(s->connections == v.connections && s->opening == v.opening);
		assert_true(s->attempted == v.attempted && s->delivered == v.delivered);
		assert_true(s->transient == v.transient && s->bounced == v.bounced);
		assert_true(s->paused == v.paused && s->retry_level == v.retry_level);
		if (shift == fx.shown_shift)
			assert_int_equal(fx_due(s), fx_due(&v));
	}
	fx.shown_shift = shift;
}

static inline uint64_t
run(void)
{
	uint64_t next = core_run(fx.core, &fx.now, 0);

	core_check(fx.core);
	fx_check_shown();
	return next;
}

static inline void
pass(uint64_t us)
{
	fx.now.boot_us += us;
	fx.now.wall_us += us;
	run();
}

static inline uint32_t
add(uint32_t queue, unsigned rcpts, bool committed)
{
	struct core_entry_facts f = {
		.key = { ++fx.next_message, 3 },
		.queue = queue,
		.segment = 17,
		.offset16 = 99,
		.epoch = 4711,
		.received_s = (uint32_t)(fx.now.wall_us / SECOND),
		.first_rcpt = 5,
		.n_rcpts = (uint16_t)rcpts,
		.kbytes = 20,
		.job = 8,
		.sender_domain = 9,
		.committed = committed,
	};

	return core_entry_add(fx.core, &fx.now, &f);
}

static inline uint32_t
mail(uint32_t queue, unsigned rcpts)
{
	return add(queue, rcpts, true);
}

static inline void
mails(uint32_t queue, unsigned n)
{
	while (n-- > 0)
		mail(queue, 1);
}

static inline void
route(uint32_t queue, uint16_t n_targets)
{
	core_route(fx.core, &fx.now, queue, CORE_ROUTE_GOOD, 3, 1000 + fx.n_asks, n_targets,
		   fx.now.boot_us + 24 * HOUR, "");
	run();
}

/* The k-th OPEN of the log succeeds; fails. */
static inline void
opened(size_t k)
{
	assert_true(k < fx.n_opens);
	core_opened(fx.core, &fx.now, fx.opens[k].connection, 0);
	run();
}

static inline void
open_failed(size_t k, enum core_failure why)
{
	assert_true(k < fx.n_opens);
	core_open_failed(fx.core, &fx.now, fx.opens[k].connection, why, slice_str("it failed"));
	run();
}

enum { GONE = 1, HOST = 2, DUP = 4 };

/* All recipients of the k-th WORK of the log end so. */
static inline void
settle_with(size_t k, enum event_action action, unsigned flags)
{
	struct core_rcpt_result rcpts[ENTRY_RCPT_MAX];
	struct core_result r = { .entry = fx.works[k].entry,
				 .lease = fx.works[k].lease,
				 .rcpts = rcpts };

	assert_true(k < fx.n_works);
	for (unsigned i = 0; i < fx.works[k].n_rcpts; i++) {
		if (fx.bits[k][i / 8] >> (i % 8) & 1)
			rcpts[r.n_rcpts++] =
				(struct core_rcpt_result){ (uint16_t)i, (uint8_t)action };
	}
	r.connection_gone = flags & GONE;
	r.host_failed = flags & HOST;
	r.maybe_dup = flags & DUP;
	r.text = slice_str("452 later");
	assert_true(core_settle(fx.core, &fx.now, &r, &fx.d));
	core_check(fx.core);
	if (fx.d.finished)
		core_entry_gone(fx.core, &fx.now, r.entry);
}

static inline void
settle(size_t k, enum event_action action)
{
	settle_with(k, action, 0);
	run();
}

static inline struct core_queue_view
view(uint32_t queue)
{
	struct core_queue_view v;

	assert_true(core_queue_view(fx.core, &fx.now, queue, &v));
	return v;
}

/* Mail, route and n open connections. */
static inline void
connected(uint32_t queue, unsigned n_mails, uint16_t n_targets)
{
	size_t first = fx.n_opens;

	mails(queue, n_mails);
	run();
	route(queue, n_targets);
	for (size_t k = first, n = fx.n_opens; k < n; k++)
		opened(k);
}

static inline int
fx_end(void **state)
{
	(void)state;
	core_free(&fx.core);
	return 0;
}
