/* Who comes when, of many queues behind one limit: in turn, by priority, and at the same cost
 * however many wait. A driver of its own: each OPEN and each WORK takes LATENCY_US. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/event_log/event.h"
#include "scheduler/core/state.h"

#define SECOND     1000000ull
#define LATENCY_US 2000
#define QUEUES     100001
#define EVENTS     262144

/* A queue and what was seen of it. */
struct seen {
	const struct conf_queue *settings;
	uint64_t last, longest; /* grant; time between two */
	uint64_t before, longest_before; /* what they were then */
	uint64_t grants;
	uint32_t left; /* mail */
};
struct due {
	uint64_t at;
	uint32_t number; /* connection, or entry */
	uint64_t lease;  /* 0: a connection is open */
};

static struct {
	struct core *core;
	struct core_now now;
	struct seen q[QUEUES];
	uint32_t n;
	struct due events[EVENTS];
	size_t head, tail;
	uint64_t grants, opens, next_message;
	uint64_t by_source[32];
	uint64_t most_open;
	unsigned return_one_in; /* of the grants: the worker was too late; 0: none */
} w;

static struct conf_queue plain, urgent;
static struct conf_vmta_source sources[32];
static struct conf_vmta vmtas[3];
static struct conf_source_ip ips[33];

static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	return w.q[queue].settings;
}

static void
op_ask(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)queue;
	(void)name;
}

static void
later(uint32_t number, uint64_t lease)
{
	w.events[w.tail++ % EVENTS] = (struct due){ w.now.boot_us + LATENCY_US, number, lease };
	assert_true(w.tail - w.head < EVENTS);
}

static void
op_open(void *ctx, const struct core_open *o)
{
	(void)ctx;
	w.opens++;
	later(o->connection, 0);
}

static bool
op_work(void *ctx, const struct core_work *k)
{
	struct seen *q = &w.q[k->queue];

	(void)ctx;
	q->before = q->last;
	q->longest_before = q->longest;
	if (w.now.boot_us - q->last > q->longest)
		q->longest = w.now.boot_us - q->last;
	q->last = w.now.boot_us;
	q->grants += k->n_attempt;
	w.grants += k->n_attempt;
	w.by_source[k->source_ip] += k->n_attempt;
	later(k->entry, k->lease);
	return true;
}

static uint32_t closing[EVENTS];
static size_t n_closing;

static void
op_close(void *ctx, uint32_t connection, unsigned worker)
{
	(void)ctx;
	(void)worker;
	closing[n_closing++] = connection;
}

static void
op_give_up(void *ctx, uint32_t entry, enum core_give_up why, const char *text)
{
	(void)ctx;
	(void)entry;
	(void)why;
	(void)text;
	fail();
}

static void
op_changed(void *ctx, uint32_t queue)
{
	(void)ctx;
	(void)queue;
}

/* `n` queues of the virtual MTA "v" with `n_sources` source IPs. */
static void
begin(uint32_t n, unsigned n_sources)
{
	static const struct core_ops ops = { .settings = op_settings,
					     .ask_route = op_ask,
					     .open = op_open,
					     .work = op_work,
					     .close = op_close,
					     .give_up = op_give_up,
					     .queue_changed = op_changed };
	struct core_world world = { .workers = 2,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = n_sources + 1,
				    .n_vmtas = 2,
				    .vmtas = vmtas,
				    .source_ips = ips };

	core_free(&w.core);
	memset(&w, 0, sizeof(w));
	n_closing = 0;
	w.n = n;
	w.now = (struct core_now){ 5000 * SECOND, 1800000000 * SECOND };
	vmtas[0] = (struct conf_vmta){ .name = "{default}", .n_sources = 1, .sources = sources };
	vmtas[1].name = "v";
	vmtas[1].n_sources = n_sources;
	vmtas[1].sources = sources + 1;
	w.core = core_new_in(&ops, NULL, &world, 1);
	for (uint32_t i = 0; i < n; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%u.example/v", i);
		w.q[i].settings = &plain;
		w.q[i].last = w.now.boot_us;
		core_queue_add(w.core, i, slice_str(name));
	}
	for (unsigned i = 0; i < 2; i++)
		core_worker_up(w.core, &w.now, i);
}

static int
setup(void **state)
{
	(void)state;
	plain = (struct conf_queue){
		.max_smtp_out = 20,
		.max_msg_per_connection = CONF_UNLIMITED,
		.max_rcpt_per_transaction = 1000,
		.mx_connection_attempts = 10,
		.queue_priority = 50,
		.bounce_after_us = CONF_NEVER,
		.retry_recipients_after_us = 600 * SECOND,
		.connection_idle_timeout_us = 0,
		.allow_priority_interruption = true,
	};
	urgent = plain;
	urgent.queue_priority = 90;
	memset(vmtas, 0, sizeof(vmtas));
	memset(ips, 0, sizeof(ips));
	for (uint32_t i = 0; i < 32; i++)
		sources[i] = (struct conf_vmta_source){ .source_ip = i, .weight = 1 };
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	core_free(&w.core);
	return 0;
}

static void
mail(uint32_t queue, uint32_t n, unsigned rcpts)
{
	for (uint32_t i = 0; i < n; i++) {
		struct core_entry_facts f = {
			.key = { ++w.next_message, 0 },
			.queue = queue,
			.segment = 1,
			.epoch = 1,
			.received_s = (uint32_t)(w.now.wall_us / SECOND),
			.n_rcpts = (uint16_t)rcpts,
			.kbytes = 10,
			.committed = true,
		};

		core_entry_add(w.core, &w.now, &f);
		w.q[queue].left++;
	}
}

static void
route(uint32_t queue)
{
	core_route(w.core, &w.now, queue, CORE_ROUTE_GOOD, 1, 1, 1, w.now.boot_us + 86400 * SECOND,
		   "");
}

/* The worker could not begin before the deadline. */
static bool
too_late(const struct due *ev)
{
	static uint64_t random = 1;
	struct seen *q = &w.q[w.core->entries[ev->number].queue];

	random = random * 6364136223846793005ull + 1442695040888963407ull;
	if (w.return_one_in == 0 || (random >> 33) % w.return_one_in != 0)
		return false;
	q->last = q->before;
	q->longest = q->longest_before;
	q->grants--;
	w.grants--;
	assert_true(core_returned(w.core, &w.now, ev->number, ev->lease));
	return true;
}

static void
happen(const struct due *ev)
{
	struct core_rcpt_result rcpts[ENTRY_RCPT_MAX];
	struct core_result r = { .entry = ev->number, .lease = ev->lease, .rcpts = rcpts };
	struct core_decision d;
	const uint8_t *bits;

	if (ev->lease == 0) {
		core_opened(w.core, &w.now, ev->number, 0);
		return;
	}
	if (too_late(ev))
		return;
	bits = core_claim_bits(w.core, ev->number);
	for (unsigned i = 0; i < ENTRY_RCPT_MAX && i < w.core->entries[ev->number].n_rcpts; i++) {
		if (bits[i / 8] >> (i % 8) & 1)
			rcpts[r.n_rcpts++] =
				(struct core_rcpt_result){ (uint16_t)i, EVENT_DELIVERED };
	}
	assert_true(core_settle(w.core, &w.now, &r, &d));
	if (d.finished)
		core_entry_gone(w.core, &w.now, ev->number);
}

/* Virtual time goes on until `end`. */
static void
flow(uint64_t end)
{
	while (w.now.boot_us < end) {
		uint64_t next = core_run(w.core, &w.now, 0);

		while (n_closing > 0)
			core_closed(w.core, &w.now, closing[--n_closing], SLICE_NONE);
		if (w.core->n_conns > w.most_open)
			w.most_open = w.core->n_conns;
		if (w.core->run.head != CORE_NONE || w.core->poked.head != CORE_NONE)
			continue;
		if (w.head < w.tail && w.events[w.head % EVENTS].at < next)
			next = w.events[w.head % EVENTS].at;
		next = next < end ? next : end;
		if (next > w.now.boot_us) {
			w.now.wall_us += next - w.now.boot_us;
			w.now.boot_us = next;
		}
		while (w.head < w.tail && w.events[w.head % EVENTS].at <= w.now.boot_us)
			happen(&w.events[w.head++ % EVENTS]);
	}
	core_check(w.core);
}

/* 1000 queues in a virtual MTA of 200/s, one of them with very much mail: each has its turn. */
static void
thousand_in_turn(unsigned return_one_in)
{
	uint64_t longest = 0, seconds = 40;

	vmtas[1].limits.max_msg_rate = (struct conf_rate){ 200, SECOND };
	begin(1000, 2);
	w.return_one_in = return_one_in;
	mail(0, 20000, 1);
	for (uint32_t i = 1; i < 1000; i++)
		mail(i, 20, 1);
	for (uint32_t i = 0; i < 1000; i++)
		route(i);
	flow(w.now.boot_us + seconds * SECOND);
	for (uint32_t i = 0; i < 1000; i++) {
		if (w.now.boot_us - w.q[i].last > w.q[i].longest)
			w.q[i].longest = w.now.boot_us - w.q[i].last;
		longest = w.q[i].longest > longest ? w.q[i].longest : longest;
	}
	print_message("grants %llu opens %llu longest %llu us visits %llu most open %llu\n",
		      (unsigned long long)w.grants, (unsigned long long)w.opens,
		      (unsigned long long)longest, (unsigned long long)w.core->visits,
		      (unsigned long long)w.most_open);
	assert_true(w.grants <= seconds * 200);
	assert_true(w.grants >= seconds * 200 * 97 / 100);
	assert_true(longest <= 6 * SECOND);
}

static void
in_turn(void **state)
{
	(void)state;
	thousand_in_turn(0);
}

/* A worker that was held up hands back what it was granted: that was no turn. */
static void
in_turn_after_a_return(void **state)
{
	(void)state;
	thousand_in_turn(50);
}

/* The machine stands still for a moment, again and again, while many wait: the room of then is used later. */
static void
made_up_for(void **state)
{
	uint64_t seconds = 20, from;

	(void)state;
	vmtas[1].limits.max_msg_rate = (struct conf_rate){ 200, SECOND };
	begin(100, 2);
	for (uint32_t i = 0; i < 100; i++) {
		mail(i, 60, 1);
		route(i);
	}
	from = w.now.boot_us;
	for (unsigned i = 1; i <= seconds; i++) {
		flow(from + i * SECOND - SECOND / 20);
		w.now.boot_us += SECOND / 20;
		w.now.wall_us += SECOND / 20;
	}
	print_message("grants %llu\n", (unsigned long long)w.grants);
	assert_true(w.grants <= seconds * 200);
	assert_true(w.grants >= seconds * 200 * 98 / 100);
}

/* By recipients: a queue of large transactions has no more of them than the others. */
static void
by_recipients(void **state)
{
	uint64_t others = 0;

	(void)state;
	vmtas[1].limits.max_msg_rate = (struct conf_rate){ 500, SECOND };
	begin(20, 2);
	mail(0, 2000, 50);
	for (uint32_t i = 1; i < 20; i++)
		mail(i, 3000, 1);
	for (uint32_t i = 0; i < 20; i++)
		route(i);
	flow(w.now.boot_us + 60 * SECOND);
	for (uint32_t i = 1; i < 20; i++)
		others += w.q[i].grants;
	print_message("grants %llu, large %llu, others %llu each\n", (unsigned long long)w.grants,
		      (unsigned long long)w.q[0].grants, (unsigned long long)others / 19);
	assert_true(w.grants >= 60 * 500 * 97 / 100);
	assert_in_range(w.q[0].grants, others / 19 * 8 / 10, others / 19 * 12 / 10);
}

/* queue-priority 90 comes before all who wait, as soon as there is room. */
static void
overtakes(void **state)
{
	uint64_t late[50];

	(void)state;
	vmtas[1].limits.max_msg_rate = (struct conf_rate){ 200, SECOND };
	begin(1000, 2);
	w.q[999].settings = &urgent;
	for (uint32_t i = 0; i < 1000; i++) {
		if (i < 999)
			mail(i, 40, 1);
		route(i);
	}
	flow(w.now.boot_us + 5 * SECOND);
	for (unsigned k = 0; k < 50; k++) {
		uint64_t before = w.now.boot_us;

		mail(999, 1, 1);
		flow(before + 400000);
		assert_int_equal(w.q[999].grants, k + 1);
		late[k] = w.q[999].last - before;
	}
	for (unsigned k = 0; k < 50; k++) {
		for (unsigned i = 0; i + 1 < 50; i++) {
			uint64_t x = late[i];

			if (late[i] <= late[i + 1])
				continue;
			late[i] = late[i + 1];
			late[i + 1] = x;
		}
	}
	print_message("median %llu us, worst %llu us\n", (unsigned long long)late[25],
		      (unsigned long long)late[49]);
	assert_true(late[25] < 100000);
}

/* The cost of an admission does not depend on how many wait. */
static uint64_t
visits_per_mille(uint32_t n)
{
	uint64_t grants, visits;

	/* Connections do not last, or else the few would reuse theirs and the many not. */
	plain.max_msg_per_connection = 1;
	vmtas[1].limits.max_msg_rate = (struct conf_rate){ 200, SECOND };
	begin(n, 2);
	for (uint32_t i = 0; i < n; i++) {
		mail(i, n > 1000 ? 2 : 200, 1);
		route(i);
	}
	flow(w.now.boot_us + 5 * SECOND);
	grants = w.grants;
	visits = w.core->visits;
	flow(w.now.boot_us + 20 * SECOND);
	assert_true(w.grants - grants >= 20 * 200 * 97 / 100);
	print_message("%u queues: %llu visits for %llu grants, %llu opens\n", n,
		      (unsigned long long)(w.core->visits - visits),
		      (unsigned long long)(w.grants - grants), (unsigned long long)w.opens);
	return (w.core->visits - visits) * 1000 / (w.grants - grants);
}

static void
constant_cost(void **state)
{
	uint64_t few, many;

	(void)state;
	few = visits_per_mille(100);
	many = visits_per_mille(100000);
	assert_true(many <= few * 3 / 2 + 500);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(in_turn, setup),
		cmocka_unit_test_setup(in_turn_after_a_return, setup),
		cmocka_unit_test_setup(made_up_for, setup),
		cmocka_unit_test_setup(by_recipients, setup),
		cmocka_unit_test_setup(overtakes, setup),
		cmocka_unit_test_setup(constant_cost, setup),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
