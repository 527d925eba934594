/* limit_cost: what an admission costs: the core, many queues with mail behind one limit, a fixed
 * number of admissions in virtual time inside one function, so that callgrind can count what it
 * takes:
 *
 *   valgrind --tool=callgrind --toggle-collect=measured limit_cost QUEUES ADMISSIONS one|none|all
 *
 * one: a limit of the virtual MTA that all wait for; none: no limits; all: each there is, none
 * reached. Prints the admissions and the CPU time of each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/event_log/event.h"
#include "scheduler/core/core.h"
#include "tests/lib/quiet_ops.h"

#define SECOND UINT64_C(1000000)
#define NEVER_REACHED                                                                              \
	{                                                                                          \
		10000000, SECOND                                                                   \
	}
#define PENDING 4096 /* connections that are not idle */

static struct {
	struct core *core;
	struct core_now now;
	struct conf_queue settings;
	struct conf_limits all;
	bool every;
	uint32_t n_queues, *asked, n_asked;
	struct core_open opens[PENDING];
	struct core_work works[PENDING];
	uint32_t closes[PENDING];
	uint8_t bits[PENDING];
	unsigned n_opens, n_works, n_closes;
	uint64_t next_message, admissions;
} w;

static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)queue;
	(void)name;
	return &w.settings;
}

static void
op_ask(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	w.asked[w.n_asked++] = queue;
}

static void
op_open(void *ctx, const struct core_open *o)
{
	(void)ctx;
	CHECK(w.n_opens < PENDING);
	w.opens[w.n_opens++] = *o;
}

static bool
op_work(void *ctx, const struct core_work *k)
{
	(void)ctx;
	if (w.n_works == PENDING)
		return false;
	w.works[w.n_works++] = *k;
	return true;
}

static void
op_close(void *ctx, uint32_t connection, unsigned worker)
{
	(void)ctx;
	(void)worker;
	CHECK(w.n_closes < PENDING);
	w.closes[w.n_closes++] = connection;
}

static void
op_source_limits(void *ctx, uint32_t queue, struct slice name, uint32_t source_ip, bool backoff,
		 struct conf_limits *out)
{
	(void)backoff;
	(void)ctx;
	(void)queue;
	(void)name;
	(void)source_ip;
	*out = w.all;
}

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	(void)scope;
	(void)number;
	if (w.every)
		*out = w.all;
	return w.every;
}

static void
mail(uint32_t queue)
{
	struct core_entry_facts f = { .key = { ++w.next_message, 0 },
				      .queue = queue,
				      .epoch = 7,
				      .received_s = (uint32_t)(w.now.wall_us / SECOND),
				      .n_rcpts = 1,
				      .kbytes = 2,
				      .job = 1,
				      .sender_domain = 1,
				      .committed = true };

	core_entry_add(w.core, &w.now, &f);
}

static void
settle(const struct core_work *k)
{
	struct core_rcpt_result rcpt = { 0, EVENT_DELIVERED };
	struct core_result r = { .entry = k->entry,
				 .lease = k->lease,
				 .rcpts = &rcpt,
				 .n_rcpts = 1,
				 .body_bytes = 2048 };
	struct core_decision d;

	CHECK(core_settle(w.core, &w.now, &r, &d) && d.finished);
	core_entry_gone(w.core, &w.now, k->entry);
	core_worker_room(w.core, &w.now, k->worker);
	mail(k->queue); /* it never runs dry */
	w.admissions++;
}

/* Time passes, what was decided is done. */
static void
turn(void)
{
	uint64_t next = core_run(w.core, &w.now, 0);
	unsigned opens = w.n_opens, works = w.n_works, closes = w.n_closes;
	static struct core_open o[PENDING];
	static struct core_work k[PENDING];
	static uint32_t x[PENDING];

	memcpy(o, w.opens, opens * sizeof(o[0]));
	memcpy(k, w.works, works * sizeof(k[0]));
	memcpy(x, w.closes, closes * sizeof(x[0]));
	w.n_opens = w.n_works = w.n_closes = 0;
	if (next == UINT64_MAX || next < w.now.boot_us + 1000 ||
	    opens + works + closes + w.n_asked > 0)
		next = w.now.boot_us + 1000;
	w.now.wall_us += next - w.now.boot_us;
	w.now.boot_us = next;
	while (w.n_asked > 0) {
		uint32_t queue = w.asked[--w.n_asked];

		core_route(w.core, &w.now, queue, CORE_ROUTE_GOOD, 1, 1 + queue, 1, UINT64_MAX / 2,
			   "");
	}
	for (unsigned i = 0; i < opens; i++)
		core_opened_as(w.core, &w.now, o[i].connection, 0, true);
	for (unsigned i = 0; i < works; i++)
		settle(&k[i]);
	for (unsigned i = 0; i < closes; i++)
		core_closed(w.core, &w.now, x[i], slice_str(""));
}

void measured(uint64_t until);

__attribute__((noinline)) void
measured(uint64_t until)
{
	while (w.admissions < until)
		turn();
}

static const struct core_ops ops = { .settings = op_settings,
				     .ask_route = op_ask,
				     .open = op_open,
				     .work = op_work,
				     .close = op_close,
				     .give_up = quiet_give_up,
				     .queue_changed = quiet_changed,
				     .source_limits = op_source_limits,
				     .scope_limits = op_scope_limits };

static void
build(const char *which)
{
	static const struct conf_vmta_source nobody[] = { { 0, "", 1 } }, one[] = { { 1, "a", 1 } };
	static struct conf_source_ip ips[2] = { { .text = "" }, { .text = "192.0.2.1" } };
	static struct conf_vmta vmtas[2] = {
		{ .name = "{default}", .n_sources = 1, .sources = nobody },
		{ .name = "v", .n_sources = 1, .sources = one }
	};
	struct core_world world = { .workers = 1,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = 2,
				    .source_ips = ips,
				    .n_vmtas = 2,
				    .vmtas = vmtas };
	struct conf_rate never = NEVER_REACHED, bytes = { UINT64_C(1) << 40, SECOND };

	w.every = strcmp(which, "all") == 0;
	if (w.every)
		w.all = (struct conf_limits){ never, never, bytes, 1000000 };
	ips[1].limits = vmtas[1].limits = w.all;
	if (strcmp(which, "one") == 0)
		vmtas[1].limits.max_msg_rate = (struct conf_rate){ 2000, SECOND };
	w.settings = (struct conf_queue){ .max_smtp_out = 1,
					  .max_msg_rate = w.all.max_msg_rate,
					  .max_connect_rate = w.all.max_connect_rate,
					  .max_data_volume_rate = w.all.max_data_volume_rate,
					  .source_limits = w.every,
					  .max_msg_per_connection =
						  1, /* the same work for few and many */
					  .max_errors_per_connection = CONF_UNLIMITED,
					  .max_rcpt_per_transaction = 100,
					  .mx_connection_attempts = 10,
					  .retry_after = { .n = 1, .us = { SECOND } },
					  .retry_recipients_after_us = SECOND,
					  .retry_after_dns_error_us = SECOND,
					  .bounce_after_us = CONF_NEVER,
					  .connection_idle_timeout_us = 5 * SECOND,
					  .queue_priority = 50 };
	w.asked = mem_zalloc((w.n_queues + 1) * sizeof(w.asked[0]));
	w.core = core_new_in(&ops, NULL, &world, 1);
	for (uint32_t i = 0; i < w.n_queues; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%u.example/v", i);
		core_queue_add(w.core, i, slice_str(name));
		if (w.every)
			core_route_provider(w.core, &w.now, i, 1, slice_str("prov"));
		mail(i);
		mail(i);
	}
	core_worker_up(w.core, &w.now, 0);
}

int
main(int argc, char **argv)
{
	uint64_t n = argc == 4 ? strtoull(argv[2], NULL, 10) : 0, before, at;
	clock_t began;

	if (n == 0)
		return 2;
	w.n_queues = (uint32_t)strtoul(argv[1], NULL, 10);
	w.now = (struct core_now){ 1000 * SECOND, 1800000000 * SECOND };
	build(argv[3]);
	/* Until its windows are full, its queues wait in line, and each had its turn: the first
	 * costs more. */
	while (w.admissions < 5000 + 2 * (uint64_t)w.n_queues)
		turn();
	before = w.admissions;
	at = w.now.boot_us;
	began = clock();
	measured(before + n);
	printf("%llu admissions in %.3f virtual s, %.3f us each\n",
	       (unsigned long long)(w.admissions - before), (double)(w.now.boot_us - at) / 1e6,
	       (double)(clock() - began) * 1e6 / CLOCKS_PER_SEC / (double)(w.admissions - before));
	core_free(&w.core);
	mem_free(w.asked);
	return 0;
}
