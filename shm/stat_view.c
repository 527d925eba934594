#include "shm/stat_view.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"

static void
add_queues(struct stat_view *v, const struct stat_object *o, uint32_t used)
{
	for (uint32_t row = 0; row < used; row++) {
		void *rows = v->queues;
		int rc;

		mem_grow(&rows, &v->queues_cap, v->n_queues + 1, sizeof *v->queues);
		v->queues = rows;
		rc = stat_get_queue(o, row, &v->queues[v->n_queues]);
		if (rc == 0)
			v->n_queues++;
		else if (rc != -E_MISSING)
			v->skipped++;
	}
}

static void
add_sources(struct stat_view *v, const struct stat_object *o, uint32_t used)
{
	for (uint32_t row = 0; row < used; row++) {
		void *rows = v->sources;
		int rc;

		mem_grow(&rows, &v->sources_cap, v->n_sources + 1, sizeof *v->sources);
		v->sources = rows;
		rc = stat_get_source(o, row, &v->sources[v->n_sources]);
		if (rc == 0)
			v->n_sources++;
		else if (rc != -E_MISSING)
			v->skipped++;
	}
}

static void
add_limits(struct stat_view *v, const struct stat_object *o, uint32_t used)
{
	for (uint32_t row = 0; row < used; row++) {
		void *rows = v->limits;
		int rc;

		mem_grow(&rows, &v->limits_cap, v->n_limits + 1, sizeof *v->limits);
		v->limits = rows;
		rc = stat_get_limit(o, row, &v->limits[v->n_limits]);
		if (rc == 0)
			v->n_limits++;
		else if (rc != -E_MISSING)
			v->skipped++;
	}
}

static uint64_t
share_of(const struct stat_limit *l)
{
	return l->limit == 0 ? 0 : (uint64_t)((double)l->used * 1000 / (double)l->limit);
}

static int
by_fullness(const void *a, const void *b)
{
	const struct stat_limit *x = a, *y = b;
	int c;

	if (x->waiting != y->waiting)
		return x->waiting < y->waiting ? 1 : -1;
	if (share_of(x) != share_of(y))
		return share_of(x) < share_of(y) ? 1 : -1;
	c = strcmp(x->object, y->object);
	if (c == 0)
		c = strcmp(x->name, y->name);
	return c != 0 ? c : strcmp(x->sourceIp, y->sourceIp);
}

static int
by_recipients(const void *a, const void *b)
{
	const struct stat_queue *x = a, *y = b;

	if (x->rcp != y->rcp)
		return x->rcp < y->rcp ? 1 : -1;
	if (x->conn != y->conn)
		return x->conn < y->conn ? 1 : -1;
	return strcmp(x->name, y->name);
}

static int
by_connections(const void *a, const void *b)
{
	const struct stat_source *x = a, *y = b;
	int names;

	if (x->conn != y->conn)
		return x->conn < y->conn ? 1 : -1;
	names = strcmp(x->ip, y->ip);
	return names != 0 ? names : strcmp(x->queue, y->queue);
}

void
stat_view_add(struct stat_view *v, const struct stat_object *o)
{
	struct stat_process *p = &v->processes[v->n_processes];

	CHECK(v->n_processes < STAT_PROCESSES_MAX);
	if (stat_get_info(o, &p->info) != 0)
		return;
	v->n_processes++;
	v->bytes += p->info.bytes;
	memset(&p->u, 0, sizeof p->u);
	p->has_block = stat_get_totals(o, &p->u, stat_totals_bytes(p->info.writer)) == 0;
	if (!p->has_block)
		v->skipped++;
	add_queues(v, o, p->info.queues_used);
	add_sources(v, o, p->info.sources_used);
	add_limits(v, o, p->info.limits_used);
	if (v->n_queues > 1)
		qsort(v->queues, v->n_queues, sizeof *v->queues, by_recipients);
	if (v->n_sources > 1)
		qsort(v->sources, v->n_sources, sizeof *v->sources, by_connections);
	if (v->n_limits > 1)
		qsort(v->limits, v->n_limits, sizeof *v->limits, by_fullness);
}

static void
read_one(struct stat_view *v, const char *run_dir, const char *what, enum stat_writer writer,
	 unsigned slot)
{
	struct stat_object *o = NULL;
	int rc = stat_open(&o, run_dir, writer, slot);

	if (writer == STAT_SCHEDULER)
		v->scheduler_rc = rc;
	if (rc == 0)
		stat_view_add(v, o);
	else if (rc != -E_MISSING)
		buf_printf(&v->notes, "%s %u: %s\n", what, slot, err_text(rc));
	stat_close(&o);
}

void
stat_view_read(struct stat_view *v, const char *run_dir)
{
	read_one(v, run_dir, "scheduler", STAT_SCHEDULER, 0);
	for (unsigned slot = 0; slot < WORKERS_MAX; slot++)
		read_one(v, run_dir, "worker", STAT_WORKER, slot);
	for (unsigned slot = 0; slot < RECEIVERS_MAX; slot++)
		read_one(v, run_dir, "receiver", STAT_RECEIVER, slot);
	read_one(v, run_dir, "resolver", STAT_RESOLVER, 0);
	read_one(v, run_dir, "recorder", STAT_RECORDER, 0);
}

void
stat_view_settle(struct stat_view *v, uint64_t wall_us)
{
	for (size_t i = 0; i < v->n_queues; i++) {
		if (v->queues[i].nextDue <= wall_us)
			v->queues[i].nextDue = 0;
	}
	for (size_t i = 0; i < v->n_limits; i++) {
		if (v->limits[i].nextRoom <= wall_us)
			v->limits[i].nextRoom = 0;
	}
}

void
stat_view_clear(struct stat_view *v)
{
	mem_free(v->queues);
	mem_free(v->sources);
	mem_free(v->limits);
	buf_clear(&v->notes);
	memset(v, 0, sizeof *v);
}

const struct stat_process *
stat_view_scheduler(const struct stat_view *v)
{
	for (unsigned i = 0; i < v->n_processes; i++)
		if (v->processes[i].info.writer == STAT_SCHEDULER)
			return &v->processes[i];
	return NULL;
}
