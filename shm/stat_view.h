/* stat_view: everything the stat objects say, copied once, and shown as JSON, Prometheus or plain
 * text. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "shm/stat.h"

/* One process's object: its header's numbers and its own block. */
struct stat_process {
	struct stat_info info;
	bool has_block; /* false: it changed under every try, or the file was cut */
	union {
		struct stat_totals scheduler;
		struct stat_worker worker;
		struct stat_receiver receiver;
		struct stat_resolver resolver;
		struct stat_recorder recorder;
	} u;
};

#define STAT_PROCESSES_MAX (3 + WORKERS_MAX + RECEIVERS_MAX)

/* Zero-initialised is empty. */
struct stat_view {
	struct stat_process processes[STAT_PROCESSES_MAX]; /* by kind, then by slot */
	unsigned n_processes;
	struct stat_queue *queues; /* most recipients first */
	size_t n_queues, queues_cap;
	struct stat_source *sources;
	size_t n_sources, sources_cap;
	struct stat_limit *limits; /* those that refuse first, then the fullest */
	size_t n_limits, limits_cap;
	uint64_t bytes;   /* of all objects */
	unsigned skipped; /* rows that could not be read whole */
	struct buf notes; /* one line for each object that is there and cannot be read */
	int scheduler_rc; /* why there is no scheduler's object, 0 when there is */
};

/* Reads RUN/shm/NAME of every possible name; nothing else is opened. */
void stat_view_read(struct stat_view *v, const char *run_dir);
/* Adds one opened object. */
void stat_view_add(struct stat_view *v, const struct stat_object *o);
/* Times that lie before `wall_us` are over: a row is not written again for that. */
void stat_view_settle(struct stat_view *v, uint64_t wall_us);
void stat_view_clear(struct stat_view *v);

/* The scheduler's process or NULL. */
const struct stat_process *stat_view_scheduler(const struct stat_view *v);

/* `boot_us`, `wall_us`: now, for ages. */
void stat_view_json(const struct stat_view *v, uint64_t boot_us, struct buf *out);
/* The first 200 queues, sources and limits by name, the rest summed as "other" (not of limits) (text exposition format
 * 0.0.4). */
void stat_view_prometheus(const struct stat_view *v, uint64_t boot_us, struct buf *out);
/* For people: totals, processes, at most `rows` queues and sources. */
void stat_view_text(const struct stat_view *v, uint64_t boot_us, uint64_t wall_us, size_t rows,
		    struct buf *out);
