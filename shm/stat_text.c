#include "shm/stat_view.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/str.h"
#include "shm/stat_words.h"

#define NAME_COLUMN 48
#define HUNG_MS     5000 /* a process beats every second */

static void
put_age(struct buf *out, uint64_t seconds)
{
	if (seconds >= 86400)
		buf_printf(out, "%" PRIu64 "d%" PRIu64 "h", seconds / 86400, seconds / 3600 % 24);
	else if (seconds >= 3600)
		buf_printf(out, "%" PRIu64 "h%" PRIu64 "m", seconds / 3600, seconds / 60 % 60);
	else if (seconds >= 60)
		buf_printf(out, "%" PRIu64 "m%" PRIu64 "s", seconds / 60, seconds % 60);
	else
		buf_printf(out, "%" PRIu64 "s", seconds);
}

static void
head(struct buf *out, const struct stat_process *s, uint64_t boot_us, uint64_t wall_us)
{
	char text[64];
	uint64_t ms = stat_heartbeat_ms(&s->info, boot_us);

	buf_printf(out, "sluice %s  %s  pid %" PRIu32 "  up ",
		   str_escape(text, sizeof text, slice_str(s->info.build)),
		   stat_state_name(s->info.state), s->info.pid);
	put_age(out, wall_us > s->info.started_wall_us
			     ? (wall_us - s->info.started_wall_us) / 1000000u
			     : 0);
	buf_printf(out, "  configuration %" PRIu64 "  heartbeat %" PRIu64 ".%" PRIu64 "s ago%s\n\n",
		   s->info.generation, ms / 1000, ms % 1000 / 100,
		   ms > HUNG_MS ? "  NO HEARTBEAT: stopped, hung or dead" : "");
}

/* Name and value, three pairs a line. */
static void
totals(struct buf *out, const struct stat_process *s)
{
	const struct stat_table *t = stat_table_of(STAT_SCHEDULER);

	for (size_t i = 0; i < t->n; i++)
		buf_printf(out, "%-17s %12" PRIu64 "%s", t->fields[i].name,
			   stat_field_value(&t->fields[i], &s->u),
			   i % 3 == 2 || i + 1 == t->n ? "\n" : "   ");
	buf_putc(out, '\n');
}

/* How wide the column of a field is: as its name or the longest value. */
static int
field_width(const struct stat_view *v, enum stat_writer writer, const struct stat_field *f)
{
	size_t width = strlen(f->name);

	for (unsigned n = 0; n < v->n_processes; n++) {
		const struct stat_process *p = &v->processes[n];
		size_t digits = 1;

		if (p->info.writer != writer || !p->has_block)
			continue;
		for (uint64_t x = stat_field_value(f, &p->u); x >= 10; x /= 10)
			digits++;
		width = digits > width ? digits : width;
	}
	return (int)width;
}

/* The same for the names of `n` rows, no less than `least`; one that is longer than NAME_COLUMN
 * moves its own row only. */
static int
names_width(const void *rows, size_t n, size_t row_bytes, size_t name_offset, size_t least)
{
	for (size_t i = 0; i < n; i++) {
		size_t length = strlen((const char *)rows + i * row_bytes + name_offset);

		if (length > least)
			least = length < NAME_COLUMN ? length : NAME_COLUMN;
	}
	return (int)least;
}

static void
end_line(struct buf *out)
{
	while (out->len > 0 && out->data[out->start + out->len - 1] == ' ')
		out->len--;
	buf_putc(out, '\n');
}

static void
processes(struct buf *out, const struct stat_view *v, enum stat_writer writer, uint64_t boot_us)
{
	const struct stat_table *t = stat_table_of(writer);
	bool any = false;

	for (unsigned n = 0; n < v->n_processes; n++) {
		const struct stat_process *p = &v->processes[n];
		uint64_t ms = stat_heartbeat_ms(&p->info, boot_us);

		if (p->info.writer != writer)
			continue;
		if (!any) {
			buf_printf(out, "%-10s %4s %8s %-9s %9s", stat_writer_name(writer), "slot",
				   "pid", "state", "heartbeat");
			for (size_t i = 0; i < t->n; i++)
				buf_printf(out, " %*s", field_width(v, writer, &t->fields[i]),
					   t->fields[i].name);
			buf_putc(out, '\n');
		}
		any = true;
		buf_printf(out, "%-10s %4" PRIu32 " %8" PRIu32 " %-9s %6" PRIu64 ".%" PRIu64 "s",
			   ms > HUNG_MS ? "  SILENT" : "", p->info.slot, p->info.pid,
			   stat_state_name(p->info.state), ms / 1000, ms % 1000 / 100);
		for (size_t i = 0; i < t->n && p->has_block; i++)
			buf_printf(out, " %*" PRIu64, field_width(v, writer, &t->fields[i]),
				   stat_field_value(&t->fields[i], &p->u));
		buf_putc(out, '\n');
	}
	if (any)
		buf_putc(out, '\n');
}

static void
and_more(struct buf *out, size_t n, size_t rows)
{
	if (n > rows)
		buf_printf(out, "... and %zu more; --json has them all\n", n - rows);
	buf_putc(out, '\n');
}

static void
queues(struct buf *out, const struct stat_view *v, size_t rows)
{
	char name[STAT_QUEUE_NAME], reason[STAT_REASON], time[STAT_TIME_BYTES];
	int width = names_width(v->queues, v->n_queues < rows ? v->n_queues : rows,
				sizeof *v->queues, offsetof(struct stat_queue, name), 20);

	if (v->n_queues == 0)
		return;
	buf_printf(out, "%-*s %-7s %7s %5s %7s %9s %9s %9s %8s  %-20s %s\n", width, "queue", "mode",
		   "rcp", "conn", "rcp/min", "attempted", "delivered", "transient", "bounced",
		   "next", "reason");
	for (size_t i = 0; i < v->n_queues && i < rows; i++) {
		const struct stat_queue *q = &v->queues[i];

		buf_printf(out,
			   "%-*s %-7s %7" PRIu64 " %5" PRIu64 " %7" PRIu64 " %9" PRIu64 " %9" PRIu64
			   " %9" PRIu64 " %8" PRIu64 "  %-20s %s",
			   width, str_escape(name, sizeof name, slice_str(q->name)),
			   q->paused != 0                    ? "paused"
			   : strcmp(q->mode, "backoff") == 0 ? "backoff"
							     : "normal",
			   q->rcp, q->conn, q->msgRate, q->attempted, q->delivered, q->transient,
			   q->bounced, q->nextDue != 0 ? stat_time(time, q->nextDue) : "now",
			   str_escape(reason, sizeof reason, slice_str(q->backoffReason)));
		end_line(out);
	}
	and_more(out, v->n_queues, rows);
}

static void
sources(struct buf *out, const struct stat_view *v, size_t rows)
{
	char ip[64], queue[STAT_QUEUE_NAME], limit[64], worker[24];
	int width = names_width(v->sources, v->n_sources < rows ? v->n_sources : rows,
				sizeof *v->sources, offsetof(struct stat_source, ip), 20);

	if (v->n_sources == 0)
		return;
	buf_printf(out, "%-*s %6s %8s %8s %6s %10s %10s  %-8s %s\n", width, "source", "conn",
		   "rcp/min", "conn/min", "worker", "attempted", "delivered", "", "limit");
	for (size_t i = 0; i < v->n_sources && i < rows; i++) {
		const struct stat_source *s = &v->sources[i];

		if (s->worker == STAT_NONE)
			strcpy(worker, "-");
		else
			snprintf(worker, sizeof worker, "%" PRIu64, s->worker);
		buf_printf(out,
			   "%-*s %6" PRIu64 " %8" PRIu64 " %8" PRIu64 " %6s %10" PRIu64
			   " %10" PRIu64 "  %-8s",
			   width, str_escape(ip, sizeof ip, slice_str(s->ip)), s->conn, s->msgRate,
			   s->connectRate, worker, s->attempted, s->delivered,
			   s->disabled != 0 ? "disabled" : "");
		if (s->limit[0] != '\0')
			buf_printf(out, " %s",
				   str_escape(limit, sizeof limit, slice_str(s->limit)));
		if (s->used != 0)
			buf_printf(out, " used %" PRIu64, s->used);
		if (s->queue[0] != '\0')
			buf_printf(out, " for %s",
				   str_escape(queue, sizeof queue, slice_str(s->queue)));
		end_line(out);
	}
	and_more(out, v->n_sources, rows);
}

static void
limits(struct buf *out, const struct stat_view *v, size_t rows)
{
	char object[STAT_QUEUE_NAME], name[64], value[40], ip[64], time[STAT_TIME_BYTES];
	int width = names_width(v->limits, v->n_limits < rows ? v->n_limits : rows,
				sizeof *v->limits, offsetof(struct stat_limit, object), 20);

	if (v->n_limits == 0)
		return;
	buf_printf(out, "%-*s %-24s %-12s %9s %9s %9s %7s  %-20s %s\n", width, "limit of", "name",
		   "value", "used", "limit", "refused", "waiting", "next room", "source");
	for (size_t i = 0; i < v->n_limits && i < rows; i++) {
		const struct stat_limit *l = &v->limits[i];

		buf_printf(out,
			   "%-*s %-24s %-12s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %7" PRIu64
			   "  %-20s %s",
			   width,
			   str_escape(object, sizeof object,
				      slice_str(l->object[0] != '\0' ? l->object : "all")),
			   str_escape(name, sizeof name, slice_str(l->name)),
			   str_escape(value, sizeof value, slice_str(l->value)), l->used, l->limit,
			   l->refused, l->waiting,
			   l->nextRoom != 0 ? stat_time(time, l->nextRoom) : "now",
			   str_escape(ip, sizeof ip, slice_str(l->sourceIp)));
		end_line(out);
	}
	and_more(out, v->n_limits, rows);
}

void
stat_view_text(const struct stat_view *v, uint64_t boot_us, uint64_t wall_us, size_t rows,
	       struct buf *out)
{
	const struct stat_process *s = stat_view_scheduler(v);

	if (s != NULL)
		head(out, s, boot_us, wall_us);
	if (s != NULL && s->has_block)
		totals(out, s);
	queues(out, v, rows);
	sources(out, v, rows);
	limits(out, v, rows);
	processes(out, v, STAT_WORKER, boot_us);
	processes(out, v, STAT_RECEIVER, boot_us);
	processes(out, v, STAT_RESOLVER, boot_us);
	processes(out, v, STAT_RECORDER, boot_us);
}
