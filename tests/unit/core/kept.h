/* kept: a core whose charges live in memory that outlives it. */
#pragma once

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
