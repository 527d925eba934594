#include "shm/stat_view.h"

#include <inttypes.h>
#include <string.h>

#include "shm/stat_words.h"

#define NAMED_ROWS 200 /* series of one metric stay few, however many queues there are */

/* msgRate -> msg_rate. */
static void
put_snake(struct buf *out, const char *name)
{
	for (; *name != '\0'; name++) {
		if (*name >= 'A' && *name <= 'Z') {
			buf_putc(out, '_');
			buf_putc(out, (char)(*name - 'A' + 'a'));
		} else {
			buf_putc(out, *name);
		}
	}
}

static void
put_metric(struct buf *out, const char *prefix, const struct stat_field *f)
{
	buf_puts(out, "sluice_");
	buf_puts(out, prefix);
	put_snake(out, f->name);
	if (f->kind == STAT_KIND_counter)
		buf_puts(out, "_total");
	else if (f->kind == STAT_KIND_time)
		buf_puts(out, "_timestamp_seconds");
}

static void
put_head(struct buf *out, const char *prefix, const struct stat_field *f)
{
	buf_puts(out, "# HELP ");
	put_metric(out, prefix, f);
	buf_printf(out, " %s\n# TYPE ", f->help);
	put_metric(out, prefix, f);
	buf_puts(out, f->kind == STAT_KIND_counter ? " counter\n" : " gauge\n");
}

/* A label's value: backslash, quote and newline escaped; other controls and bytes that are not
 * ASCII (they may be no UTF-8, which would spoil the whole scrape) as '?'. */
static void
put_label(struct buf *out, const char *name, const char *value)
{
	buf_printf(out, "%s=\"", name);
	for (const unsigned char *p = (const unsigned char *)value; *p != '\0'; p++) {
		if (*p == '\\' || *p == '"')
			buf_printf(out, "\\%c", *p);
		else if (*p == '\n')
			buf_puts(out, "\\n");
		else
			buf_putc(out, *p >= 0x20 && *p < 0x7f ? (char)*p : '?');
	}
	buf_putc(out, '"');
}

static void
put_value(struct buf *out, const struct stat_field *f, uint64_t v)
{
	if (f->kind == STAT_KIND_time)
		buf_printf(out, " %" PRIu64 ".%06" PRIu64 "\n", v / 1000000u, v % 1000000u);
	else
		buf_printf(out, " %" PRIu64 "\n", v);
}

static void
queue_metrics(struct buf *out, const struct stat_view *v)
{
	size_t named = v->n_queues < NAMED_ROWS ? v->n_queues : NAMED_ROWS;

	for (size_t i = 0; i < stat_table_queue.n; i++) {
		const struct stat_field *f = &stat_table_queue.fields[i];
		uint64_t other = 0;

		put_head(out, "queue_", f);
		for (size_t n = 0; n < v->n_queues; n++) {
			if (n >= named) {
				other += stat_field_value(f, &v->queues[n]);
				continue;
			}
			put_metric(out, "queue_", f);
			buf_putc(out, '{');
			put_label(out, "queue", v->queues[n].name);
			buf_putc(out, '}');
			put_value(out, f, stat_field_value(f, &v->queues[n]));
		}
		if (named < v->n_queues && f->kind != STAT_KIND_time) {
			put_metric(out, "queue_", f);
			buf_puts(out, "{queue=\"other\"}");
			put_value(out, f, other);
		}
	}
	buf_puts(out, "# HELP sluice_queue_backoff 1 when in back-off mode\n"
		      "# TYPE sluice_queue_backoff gauge\n");
	uint64_t other = 0;
	for (size_t n = 0; n < v->n_queues; n++) {
		bool backoff = strcmp(v->queues[n].mode, "backoff") == 0;

		if (n >= named) {
			other += backoff;
			continue;
		}
		buf_puts(out, "sluice_queue_backoff{");
		put_label(out, "queue", v->queues[n].name);
		buf_printf(out, "} %d\n", backoff);
	}
	if (named < v->n_queues)
		buf_printf(out, "sluice_queue_backoff{queue=\"other\"} %" PRIu64 "\n", other);
}

static void
source_metrics(struct buf *out, const struct stat_view *v)
{
	size_t named = v->n_sources < NAMED_ROWS ? v->n_sources : NAMED_ROWS;

	for (size_t i = 0; i < stat_table_source.n; i++) {
		const struct stat_field *f = &stat_table_source.fields[i];
		uint64_t other = 0;

		if (strcmp(f->name, "worker") == 0)
			continue; /* a number of no quantity */
		put_head(out, "source_", f);
		for (size_t n = 0; n < v->n_sources; n++) {
			const struct stat_source *s = &v->sources[n];

			if (n >= named) {
				other += stat_field_value(f, s);
				continue;
			}
			put_metric(out, "source_", f);
			buf_putc(out, '{');
			put_label(out, "ip", s->ip);
			buf_putc(out, ',');
			put_label(out, "queue", s->queue);
			buf_putc(out, ',');
			put_label(out, "limit", s->limit);
			buf_putc(out, '}');
			put_value(out, f, stat_field_value(f, s));
		}
		if (named < v->n_sources && f->kind != STAT_KIND_time) {
			put_metric(out, "source_", f);
			buf_puts(out, "{ip=\"other\",queue=\"\",limit=\"\"}");
			put_value(out, f, other);
		}
	}
}

/* What is left over is not summed up: limits do not add up. */
static void
limit_metrics(struct buf *out, const struct stat_view *v)
{
	size_t named = v->n_limits < NAMED_ROWS ? v->n_limits : NAMED_ROWS;

	for (size_t i = 0; i < stat_table_limit.n; i++) {
		const struct stat_field *f = &stat_table_limit.fields[i];

		put_head(out, "limit_", f);
		for (size_t n = 0; n < named; n++) {
			const struct stat_limit *l = &v->limits[n];

			put_metric(out, "limit_", f);
			buf_putc(out, '{');
			put_label(out, "scope", l->scope);
			buf_putc(out, ',');
			put_label(out, "object", l->object);
			buf_putc(out, ',');
			put_label(out, "source_ip", l->sourceIp);
			buf_putc(out, ',');
			put_label(out, "name", l->name);
			buf_putc(out, '}');
			put_value(out, f, stat_field_value(f, l));
		}
	}
}

/* The own blocks of the processes of one kind, labelled by slot when there can be several. */
static void
process_metrics(struct buf *out, const struct stat_view *v, enum stat_writer writer,
		const char *prefix, bool numbered)
{
	const struct stat_table *t = stat_table_of(writer);

	for (size_t i = 0; i < t->n; i++) {
		bool head = false;

		for (unsigned n = 0; n < v->n_processes; n++) {
			const struct stat_process *p = &v->processes[n];

			if (p->info.writer != writer || !p->has_block)
				continue;
			if (!head)
				put_head(out, prefix, &t->fields[i]);
			head = true;
			put_metric(out, prefix, &t->fields[i]);
			if (numbered)
				buf_printf(out, "{slot=\"%u\"}", p->info.slot);
			put_value(out, &t->fields[i], stat_field_value(&t->fields[i], &p->u));
		}
	}
}

static void
put_process_label(struct buf *out, const struct stat_process *p)
{
	buf_printf(out, "{process=\"%s\",slot=\"%u\"}", stat_writer_name(p->info.writer),
		   p->info.slot);
}

static void
common_metrics(struct buf *out, const struct stat_view *v, uint64_t boot_us)
{
	const struct stat_process *s = stat_view_scheduler(v);

	if (s != NULL) {
		buf_puts(out, "# HELP sluice_build_info the running version\n"
			      "# TYPE sluice_build_info gauge\nsluice_build_info{");
		put_label(out, "version", s->info.build);
		buf_puts(out,
			 "} 1\n# HELP sluice_start_timestamp_seconds when the scheduler started\n"
			 "# TYPE sluice_start_timestamp_seconds gauge\n");
		buf_printf(out, "sluice_start_timestamp_seconds %" PRIu64 "\n",
			   s->info.started_wall_us / 1000000u);
		buf_puts(out, "# HELP sluice_configuration_generation counts reloads\n"
			      "# TYPE sluice_configuration_generation gauge\n");
		buf_printf(out, "sluice_configuration_generation %" PRIu64 "\n",
			   s->info.generation);
	}
	buf_puts(out, "# HELP sluice_process_state 0 starting, 1 running, 2 draining, 3 gone\n"
		      "# TYPE sluice_process_state gauge\n");
	for (unsigned i = 0; i < v->n_processes; i++) {
		buf_puts(out, "sluice_process_state");
		put_process_label(out, &v->processes[i]);
		buf_printf(out, " %" PRIu32 "\n", v->processes[i].info.state);
	}
	buf_puts(out,
		 "# HELP sluice_process_heartbeat_age_seconds time since it last said it lives\n"
		 "# TYPE sluice_process_heartbeat_age_seconds gauge\n");
	for (unsigned i = 0; i < v->n_processes; i++) {
		uint64_t ms = stat_heartbeat_ms(&v->processes[i].info, boot_us);

		buf_puts(out, "sluice_process_heartbeat_age_seconds");
		put_process_label(out, &v->processes[i]);
		buf_printf(out, " %" PRIu64 ".%03" PRIu64 "\n", ms / 1000, ms % 1000);
	}
}

void
stat_view_prometheus(const struct stat_view *v, uint64_t boot_us, struct buf *out)
{
	common_metrics(out, v, boot_us);
	process_metrics(out, v, STAT_SCHEDULER, "", false);
	queue_metrics(out, v);
	source_metrics(out, v);
	limit_metrics(out, v);
	process_metrics(out, v, STAT_WORKER, "worker_", true);
	process_metrics(out, v, STAT_RECEIVER, "receiver_", true);
	process_metrics(out, v, STAT_RESOLVER, "resolver_", false);
	process_metrics(out, v, STAT_RECORDER, "recorder_", false);
}
