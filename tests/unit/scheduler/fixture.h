/* fixture: a spool of its own, a loop, and the writer over it; what the driver's parts stand on. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/queue/spool.h"
#include "common/queue/store.h"
#include "scheduler/committer.h"
#include "tests/lib/scratch.h"

#define EVENT_FILE_SMALL (1u << 20)
#define WAIT_US          10000000u

struct fixture {
	char path[600];
	struct spool spool;
	struct loop *loop;
	struct store *store;
	struct committer *committer;
	struct store_meta meta;
	struct timer late;
	void (*at_turn_end)(struct fixture *f);
	void (*at_commit)(struct fixture *f);
	void *at; /* the test's */
	unsigned failures;
	int failure;
};

static void
fx_late(void *arg)
{
	(void)arg;
	fail_msg("it did not come within %u s", WAIT_US / 1000000);
}

static void
fx_turn_end(void *arg)
{
	struct fixture *f = arg;

	if (f->at_turn_end != NULL)
		f->at_turn_end(f);
	committer_kick(f->committer);
}

static void
fx_committed(void *arg)
{
	struct fixture *f = arg;

	if (f->at_commit != NULL)
		f->at_commit(f);
}

static void
fx_failed(void *arg, int rc)
{
	struct fixture *f = arg;

	f->failures++;
	f->failure = rc;
	loop_stop(f->loop);
}

/* A committer with `meta` over a store of `map_bytes`. */
static struct fixture *
fx_make(const struct store_meta *meta, uint64_t map_bytes)
{
	static const struct committer_hooks hooks = { fx_committed, fx_failed };
	struct fixture *f = calloc(1, sizeof *f);
	struct event_writer *log;
	const char *why = "";

	log_open("/dev/null", "test");
	strcpy(f->path, scratch_make());
	f->meta = *meta;
	f->loop = loop_new();
	assert_int_equal(spool_open(&f->spool, f->path, &why), 0);
	assert_int_equal(store_open_sized(&f->store, f->path, f->spool.instance, map_bytes), 0);
	assert_int_equal(event_writer_open_sized(&log, f->spool.events_fd, f->spool.instance,
						 (struct event_position){ 0, 0 }, 1,
						 EVENT_FILE_SMALL),
			 0);
	f->committer = committer_new(f->loop, f->store, log, &f->meta, &hooks, f);
	loop_set_turn_end(f->loop, fx_turn_end, f);
	timer_init(&f->late, f->loop, fx_late, f);
	return f;
}

static void
fx_run(struct fixture *f)
{
	timer_set(&f->late, WAIT_US);
	committer_kick(f->committer);
	loop_run(f->loop);
}

static void
fx_remove(struct fixture *f)
{
	committer_free(&f->committer); /* closes the store and the log */
	timer_clear(&f->late);
	loop_free(&f->loop);
	spool_close(&f->spool);
	scratch_remove(f->path);
	free(f);
}
