#include "shm/stat_view.h"

#include "common/base/json.h"
#include "shm/stat_words.h"

static void
time_or_null(struct json *j, const char *key, uint64_t wall_us)
{
	char text[STAT_TIME_BYTES];

	json_key_str(j, key, wall_us != 0 ? stat_time(text, wall_us) : NULL);
}

static void
fields(struct json *j, const struct stat_table *t, const void *row)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct stat_field *f = &t->fields[i];
		uint64_t v = stat_field_value(f, row);

		if (f->kind == STAT_KIND_time)
			time_or_null(j, f->name, v);
		else if (f->kind == STAT_KIND_flag)
			json_key_bool(j, f->name, v != 0);
		else if (v == STAT_NONE)
			json_key_str(j, f->name, NULL);
		else
			json_key_u64(j, f->name, v);
	}
}

static void
process_fields(struct json *j, const struct stat_process *p, uint64_t boot_us)
{
	json_key_u64(j, "pid", p->info.pid);
	json_key_str(j, "state", stat_state_name(p->info.state));
	json_key_u64(j, "heartbeatMs", stat_heartbeat_ms(&p->info, boot_us));
}

static void
shm_object(struct json *j, const struct stat_view *v, uint64_t boot_us)
{
	const struct stat_process *s = stat_view_scheduler(v);

	json_key(j, "shm");
	json_object_begin(j);
	json_key_u64(j, "version", STAT_VERSION);
	json_key_u64(j, "bytes", v->bytes);
	json_key_u64(j, "generation", s != NULL ? s->info.generation : 0);
	time_or_null(j, "startedAt", s != NULL ? s->info.started_wall_us : 0);
	if (s != NULL) {
		json_key_str(j, "build", s->info.build);
		process_fields(j, s, boot_us);
	}
	json_key_u64(j, "skipped", v->skipped);
	json_object_end(j);
}

static void
queue_object(struct json *j, const struct stat_queue *q)
{
	json_object_begin(j);
	json_key_str(j, "name", q->name);
	json_key_str(j, "mode", q->mode);
	json_key_str(j, "backoffReason", q->backoffReason);
	fields(j, &stat_table_queue, q);
	json_object_end(j);
}

static void
source_object(struct json *j, const struct stat_source *s)
{
	json_object_begin(j);
	json_key_str(j, "ip", s->ip);
	json_key_str(j, "queue", s->queue);
	json_key_str(j, "limit", s->limit);
	fields(j, &stat_table_source, s);
	json_object_end(j);
}

static void
limit_object(struct json *j, const struct stat_limit *l)
{
	json_object_begin(j);
	json_key_str(j, "scope", l->scope);
	json_key_str(j, "object", l->object);
	json_key_str(j, "sourceIp", l->sourceIp);
	json_key_str(j, "name", l->name);
	json_key_str(j, "value", l->value);
	fields(j, &stat_table_limit, l);
	json_object_end(j);
}

/* The processes of one kind: an array when they are numbered, else one object or null. */
static void
processes(struct json *j, const struct stat_view *v, enum stat_writer writer, bool numbered,
	  uint64_t boot_us)
{
	bool any = false;

	json_key(j, stat_writer_name(writer));
	if (numbered)
		json_array_begin(j);
	for (unsigned i = 0; i < v->n_processes; i++) {
		const struct stat_process *p = &v->processes[i];

		if (p->info.writer != writer || (any && !numbered))
			continue;
		any = true;
		json_object_begin(j);
		if (numbered)
			json_key_u64(j, "slot", p->info.slot);
		process_fields(j, p, boot_us);
		if (p->has_block)
			fields(j, stat_table_of(writer), &p->u);
		json_object_end(j);
	}
	if (numbered)
		json_array_end(j);
	else if (!any)
		json_null(j);
}

void
stat_view_json(const struct stat_view *v, uint64_t boot_us, struct buf *out)
{
	const struct stat_process *s = stat_view_scheduler(v);
	struct json j;

	json_init(&j, out);
	json_object_begin(&j);
	shm_object(&j, v, boot_us);
	json_key(&j, "totals");
	json_object_begin(&j);
	if (s != NULL && s->has_block)
		fields(&j, stat_table_of(STAT_SCHEDULER), &s->u);
	json_object_end(&j);
	json_key(&j, "queue");
	json_array_begin(&j);
	for (size_t i = 0; i < v->n_queues; i++)
		queue_object(&j, &v->queues[i]);
	json_array_end(&j);
	json_key(&j, "source");
	json_array_begin(&j);
	for (size_t i = 0; i < v->n_sources; i++)
		source_object(&j, &v->sources[i]);
	json_array_end(&j);
	json_key(&j, "limit");
	json_array_begin(&j);
	for (size_t i = 0; i < v->n_limits; i++)
		limit_object(&j, &v->limits[i]);
	json_array_end(&j);
	processes(&j, v, STAT_WORKER, true, boot_us);
	processes(&j, v, STAT_RECEIVER, true, boot_us);
	processes(&j, v, STAT_RESOLVER, false, boot_us);
	processes(&j, v, STAT_RECORDER, false, boot_us);
	json_object_end(&j);
	buf_putc(out, '\n');
}
