/* records: reading messages off the loop, for outcomes without an attempt and for selections.
 *
 * Requests wait in a line, a few words each, however many there are; a bounded number of them is
 * out at the reader thread, and none when the batch is full: what they bring goes into it. */
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/fault.h"
#include "scheduler/state.h"

#define READS_MAX 256

struct wanted {
	struct entry_key key;
	uint32_t entry;
	records_fn *fn;
	void *arg;
};

struct records {
	struct wanted *line; /* from `first` on */
	size_t first, n, cap;
	unsigned out;
};

struct job {
	struct offload_job base;
	struct scheduler *s;
	records_fn *fn;
	void *arg;
	uint32_t segment;
	uint32_t offset16;
	uint64_t epoch;
	msg_id_t id;
	int rc;
	struct buf copy; /* header and envelope */
	struct record rec;
};

/* Guarded: the map's file may have been cut, or the disk may not give it. */
static int
read_record(void *arg)
{
	struct job *j = arg;
	struct segment_ref ref;
	struct record on_disk;
	struct slice at;
	int rc = segment_get(j->s->cache, j->segment, j->epoch, &ref);

	if (rc != 0)
		return rc;
	at = slice_sub(ref.bytes, (size_t)j->offset16 * RECORD_ALIGN);
	rc = record_decode(&on_disk, at, j->epoch, j->id);
	if (rc == 0) {
		buf_put(&j->copy, at.p, RECORD_HEADER_BYTES + on_disk.header.envelope_bytes);
		record_clear(&on_disk);
	}
	segment_put(j->s->cache, j->segment, j->epoch);
	return rc;
}

static void
work(struct offload_job *base)
{
	struct job *j = (struct job *)base;

	j->rc = fault_guarded(read_record, j);
	if (j->rc == 0)
		j->rc = record_decode_envelope(&j->rec, buf_slice(&j->copy), j->epoch, j->id);
}

static void
done(struct offload_job *base)
{
	struct job *j = (struct job *)base;
	char id[ID_TEXT_BYTES];

	if (j->rc != 0)
		log_error("message=%s segment=%u offset=%llu record=unreadable error=\"%s\"",
			  id_message_text(id, j->id), j->segment,
			  (unsigned long long)j->offset16 * RECORD_ALIGN, err_text(j->rc));
	if (j->rc == -E_MISSING)
		j->rc = -E_CRC; /* its segment; the entry is there */
	j->s->records->out--;
	j->fn(j->s, j->arg, j->rc, j->rc == 0 ? &j->rec : NULL);
	segments_pin(j->s->segments, j->segment, -1);
	if (j->rc == 0)
		record_clear(&j->rec);
	buf_clear(&j->copy);
	scheduler_kick(j->s);
	mem_free(j);
}

static void
begin(struct scheduler *s, const struct wanted *w)
{
	struct job *j;
	struct core_entry_facts f;

	if (!core_entry_is(s->core, w->entry, w->key)) {
		w->fn(s, w->arg, -E_MISSING, NULL); /* gone while it stood in line */
		return;
	}
	core_entry_get(s->core, w->entry, &f);
	j = mem_zalloc(sizeof *j);
	j->base.work = work;
	j->base.done = done;
	j->s = s;
	j->fn = w->fn;
	j->arg = w->arg;
	j->segment = f.segment;
	j->offset16 = f.offset16;
	j->epoch = f.epoch;
	j->id = f.key.message;
	s->records->out++;
	segments_pin(s->segments, j->segment, 1);
	if (s->reader != NULL) {
		offload_add(s->reader, &j->base);
		return;
	}
	work(&j->base); /* at the start there is no thread, and nobody waits for the loop */
	done(&j->base);
}

void
records_turn(struct scheduler *s)
{
	struct records *r = s->records;

	while (r->n > 0 && r->out < READS_MAX && !committer_is_full(s->committer)) {
		struct wanted w = r->line[r->first++];

		r->n--;
		begin(s, &w); /* may add to the line */
	}
}

size_t
records_waiting(const struct scheduler *s)
{
	return s->records->n;
}

void
records_read(struct scheduler *s, uint32_t entry, records_fn *fn, void *arg)
{
	struct records *r = s->records;
	struct wanted w = { .entry = entry, .fn = fn, .arg = arg };
	struct core_entry_facts f;
	void *line = r->line;

	core_entry_get(s->core, entry, &f);
	w.key = f.key;
	if (s->reader == NULL) {
		begin(s, &w);
		return;
	}
	/* Where the front half has gone, the rest moves there: twice the room for one move each. */
	if (r->first > 0 && r->first >= r->n) {
		memmove(r->line, r->line + r->first, r->n * sizeof *r->line);
		r->first = 0;
	}
	mem_grow(&line, &r->cap, r->first + r->n + 1, sizeof *r->line);
	r->line = line;
	r->line[r->first + r->n++] = w;
}

void
records_open(struct scheduler *s)
{
	s->records = mem_zalloc(sizeof *s->records);
}

void
records_close(struct scheduler *s)
{
	if (s->records != NULL)
		mem_free(s->records->line);
	mem_free(s->records);
	s->records = NULL;
}
