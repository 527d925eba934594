/* records: reading messages off the loop, for outcomes without an attempt and for selections.
 *
 * Requests wait in a line, a few words each, however many there are; a bounded number of them is
 * out at the reader thread, and none when the batch is full: what they bring goes into it.
 *
 * For want of descriptors or memory nothing can be said of a record: the request goes to a second
 * line, which joins the first once per AGAIN_US, until the record is read or known to be lost. */
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/fault.h"
#include "scheduler/state.h"

#define READS_MAX 256
#define AGAIN_US  500000u
#define TELL_US   10000000u /* between two log lines of the same want */

struct wanted {
	struct entry_key key;
	uint32_t entry;
	records_fn *fn;
	void *arg;
};

struct records {
	struct wanted *line; /* from `first` on */
	size_t first, n, cap;
	struct wanted *later;
	size_t n_later, cap_later;
	uint64_t again_at_us, told_at_us;
	unsigned out;
};

struct job {
	struct offload_job base;
	struct scheduler *s;
	struct wanted wanted;
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

/* Nothing is known of the record: the system could not open it just now. */
static bool
may_pass(int rc)
{
	return rc == -E_FULL || rc == -E_AGAIN;
}

static void
put_off(struct scheduler *s, const struct wanted *w, int rc)
{
	struct records *r = s->records;
	void *later = r->later;
	uint64_t now = loop_boot_us(s->loop);

	if (r->n_later == 0)
		r->again_at_us = now + AGAIN_US;
	if (r->told_at_us == 0 || now - r->told_at_us >= TELL_US) {
		log_warn("records read=failed error=\"%s\" waiting=%zu action=again", err_text(rc),
			 r->n + r->n_later + 1);
		r->told_at_us = now;
	}
	mem_grow(&later, &r->cap_later, r->n_later + 1, sizeof *r->later);
	r->later = later;
	r->later[r->n_later++] = *w;
}

static void
done(struct offload_job *base)
{
	struct job *j = (struct job *)base;
	struct scheduler *s = j->s;
	char id[ID_TEXT_BYTES];

	s->records->out--;
	if (may_pass(j->rc)) {
		put_off(s, &j->wanted, j->rc);
		segments_pin(s->segments, j->segment, -1);
		mem_free(j);
		return;
	}
	if (j->rc != 0)
		log_error("message=%s segment=%u offset=%llu record=unreadable error=\"%s\"",
			  id_message_text(id, j->id), j->segment,
			  (unsigned long long)j->offset16 * RECORD_ALIGN, err_text(j->rc));
	if (j->rc == -E_MISSING)
		j->rc = -E_CRC; /* its segment; the entry is there */
	j->wanted.fn(s, j->wanted.arg, j->rc, j->rc == 0 ? &j->rec : NULL);
	segments_pin(s->segments, j->segment, -1);
	if (j->rc == 0)
		record_clear(&j->rec);
	buf_clear(&j->copy);
	scheduler_kick(s);
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
	j->wanted = *w;
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

static void
join_line(struct records *r, const struct wanted *w)
{
	void *line = r->line;

	/* Where the front half has gone, the rest moves there: twice the room for one move each. */
	if (r->first > 0 && r->first >= r->n) {
		memmove(r->line, r->line + r->first, r->n * sizeof *r->line);
		r->first = 0;
	}
	mem_grow(&line, &r->cap, r->first + r->n + 1, sizeof *r->line);
	r->line = line;
	r->line[r->first + r->n++] = *w;
}

void
records_tick(struct scheduler *s)
{
	struct records *r = s->records;

	if (r->n_later == 0 || loop_boot_us(s->loop) < r->again_at_us)
		return;
	for (size_t i = 0; i < r->n_later; i++)
		join_line(r, &r->later[i]);
	r->n_later = 0;
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

	core_entry_get(s->core, entry, &f);
	w.key = f.key;
	if (s->reader == NULL)
		begin(s, &w);
	else
		join_line(r, &w);
}

void
records_open(struct scheduler *s)
{
	s->records = mem_zalloc(sizeof *s->records);
}

void
records_close(struct scheduler *s)
{
	if (s->records != NULL) {
		mem_free(s->records->line);
		mem_free(s->records->later);
	}
	mem_free(s->records);
	s->records = NULL;
}
