/* fixture_limits: the fixture's world where a test may limit virtual MTAs and source IPs, what a
 * limit says of itself, and peers that take everything. */
#pragma once

#include "tests/unit/core/fixture.h"

static struct conf_vmta vmtas[4];
static struct conf_source_ip ips[5];
static size_t o_seen, w_seen, c_seen; /* of the logs, by work_off() */

/* For each test's setup: nothing is limited. */
static inline void
fx_unlimited(void)
{
	static const char *const texts[] = { "", "192.0.2.1", "192.0.2.2", "192.0.2.3",
					     "192.0.2.4" };

	memcpy(vmtas, fx_vmtas, sizeof(vmtas));
	memset(ips, 0, sizeof(ips));
	for (size_t i = 0; i < sizeof(ips) / sizeof(ips[0]); i++)
		ips[i].text = texts[i];
	o_seen = w_seen = c_seen = 0;
}

static inline struct core_world
fx_limits_world(size_t n_source_ips)
{
	return (struct core_world){ .workers = 2,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = n_source_ips,
				    .n_vmtas = 4,
				    .vmtas = vmtas,
				    .source_ips = ips };
}

/* The limits of that scope, measure and number (CORE_NONE: any): the last one, and how many. */
struct fx_limits_wanted {
	enum core_scope scope;
	enum core_measure measure;
	uint32_t number;
	struct core_limit_view v;
	unsigned n;
};

static inline void
fx_limits_pick(void *arg, const struct core_limit_view *v)
{
	struct fx_limits_wanted *w = arg;

	if (v->scope != w->scope || v->measure != w->measure ||
	    (w->number != CORE_NONE && v->number != w->number))
		return;
	w->v = *v;
	w->n++;
}

/* The only one. */
static inline struct core_limit_view
fx_limits_view(enum core_scope scope, enum core_measure measure, uint32_t number)
{
	struct fx_limits_wanted w = { .scope = scope, .measure = measure, .number = number };
	uint32_t cursor = 0;

	while (core_each_limit(fx.core, &fx.now, &cursor, 3, fx_limits_pick, &w))
		;
	assert_int_equal(w.n, 1);
	return w.v;
}

/* A message of one recipient, of that job and sender domain; nobody looks at it yet. */
static inline void
fx_mail_of(uint32_t queue, uint32_t job, uint32_t sender_domain)
{
	struct core_entry_facts f = { .key = { ++fx.next_message, 3 },
				      .queue = queue,
				      .received_s = (uint32_t)(fx.now.wall_us / SECOND),
				      .n_rcpts = 1,
				      .job = job,
				      .sender_domain = sender_domain,
				      .committed = true };

	core_entry_add(fx.core, &fx.now, &f);
}

/* Every OPEN so far succeeds, every WORK is delivered, every CLOSE done; each once. */
static inline void
work_off(void)
{
	for (unsigned i = 0; i < 1000; i++) {
		size_t before = o_seen + w_seen + c_seen;

		run();
		for (; o_seen < fx.n_opens; o_seen++)
			core_opened(fx.core, &fx.now, fx.opens[o_seen].connection, 0);
		for (; w_seen < fx.n_works; w_seen++)
			settle_with(w_seen, EVENT_DELIVERED, 0);
		for (; c_seen < fx.n_closes; c_seen++)
			core_closed(fx.core, &fx.now, fx.closes[c_seen], SLICE_NONE);
		if (before == o_seen + w_seen + c_seen)
			return;
	}
	fail();
}
