#include "recorder/follow.h"

#include <stdio.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/kill_point.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/proc/fault.h"
#include "recorder/acct_file.h"
#include "recorder/cursor.h"

#define PENDING_BYTES (1u << 20) /* rows of one file held before they are written */

struct follow {
	int events_fd, cursors_fd;
	unsigned char instance[16];
	struct acct_file *files;
	size_t n_files;
	struct event_reader *reader; /* NULL: opened at the next turn */
	struct event_position at;    /* behind the last event that became rows */
	uint64_t next_lsn;           /* of the event there; 0: not known */
	struct event_position saved; /* the cursor's */
	bool rotate, state_changed;
	bool sync_failed; /* what the files hold behind the cursor is unknown */
	struct follow_counts counts;
};

static const struct cursor_file *
find_state(const struct cursor *c, const char *key)
{
	for (size_t i = 0; i < c->n_files; i++) {
		if (strcmp(c->files[i].key, key) == 0)
			return &c->files[i];
	}
	return NULL;
}

static void
init_files(struct follow *f, const struct conf_acct_file *files, size_t n, const struct cursor *c)
{
	f->files = mem_calloc(n, sizeof *f->files);
	for (size_t i = 0; i < n && f->n_files < CURSOR_FILES_MAX; i++) {
		struct acct_file *file = &f->files[f->n_files];

		if (files[i].path[0] == '|') {
			log_error("acct=\"%s\" programs are not served: no records there",
				  files[i].path);
			continue;
		}
		acct_file_init(file, &files[i], f->instance, find_state(c, files[i].path));
		acct_file_named(file); /* a move that a crash cut off */
		f->n_files++;
	}
}

int
follow_open(struct follow **out, int events_fd, int cursors_fd, const unsigned char instance[16],
	    const struct conf_acct_file *files, size_t n_files)
{
	struct follow *f;
	struct cursor c;
	int rc = cursor_load(&c, cursors_fd);

	if (rc == -E_CRC || rc == -E_FORMAT)
		log_error("cursor=acct error=\"%s\" records of known events come again, with their "
			  "ids",
			  err_text(rc));
	else if (rc != 0 && rc != -E_MISSING)
		return rc;
	f = mem_zalloc(sizeof *f);
	f->events_fd = events_fd;
	f->cursors_fd = cursors_fd;
	memcpy(f->instance, instance, sizeof f->instance);
	f->at = f->saved = c.at;
	f->next_lsn = c.next_lsn;
	init_files(f, files, n_files, &c);
	cursor_clear(&c);
	*out = f;
	return 0;
}

void
follow_close(struct follow **f)
{
	if (*f == NULL)
		return;
	event_reader_close(&(*f)->reader);
	for (size_t i = 0; i < (*f)->n_files; i++)
		acct_file_close(&(*f)->files[i]);
	mem_free((*f)->files);
	mem_free(*f);
	*f = NULL;
}

struct event_position
follow_position(const struct follow *f)
{
	return f->saved;
}

static bool
is_saved(const struct follow *f)
{
	return f->at.file == f->saved.file && f->at.offset == f->saved.offset;
}

bool
follow_is_dirty(const struct follow *f)
{
	return f->state_changed || f->rotate || !is_saved(f);
}

bool
follow_is_spoilt(const struct follow *f)
{
	return f->sync_failed;
}

void
follow_rotate(struct follow *f)
{
	f->rotate = true;
}

static int
write_all(struct follow *f)
{
	int rc = 0;

	for (size_t i = 0; i < f->n_files && rc == 0; i++) {
		rc = acct_file_write(&f->files[i]);
		if (rc != 0)
			log_error("acct=%s error=\"%s\" records wait in the event log",
				  f->files[i].path, err_text(rc));
	}
	return rc;
}

/* Makes the present state the durable one. Nothing may be pending: it would be skipped. */
static int
save(struct follow *f)
{
	struct cursor c = { .at = f->at, .next_lsn = f->next_lsn, .n_files = f->n_files };
	int rc;

	c.files = mem_calloc(f->n_files, sizeof *c.files);
	for (size_t i = 0; i < f->n_files; i++) {
		CHECK(f->files[i].pending.len == 0);
		acct_file_state(&f->files[i], &c.files[i]);
	}
	KILL_POINT("before-cursor");
	rc = cursor_save(&c, f->cursors_fd);
	mem_free(c.files);
	if (rc != 0) {
		log_error("cursor=acct error=\"%s\"", err_text(rc));
		return rc;
	}
	f->saved = f->at;
	f->state_changed = false;
	for (size_t i = 0; i < f->n_files; i++) {
		f->state_changed = f->state_changed || f->files[i].finished[0] != '\0';
		acct_file_named(&f->files[i]);
	}
	return 0;
}

/* Files that need one get a name, and that is made durable before anything is written there. Called
 * only when the cursor is up to date; as long as it fails, no event is read. */
static int
name_files(struct follow *f, bool rotate, uint64_t wall_us)
{
	bool unnamed = false;

	for (size_t i = 0; i < f->n_files; i++) {
		struct acct_file *file = &f->files[i];
		int rc;

		if (acct_file_wants_next(file, rotate, wall_us)) {
			rc = acct_file_next(file, wall_us);
			if (rc != 0) {
				log_error("acct=%s next_file error=\"%s\"", file->conf->path,
					  err_text(rc));
				return rc;
			}
		}
		unnamed = unnamed || file->unnamed;
	}
	return unnamed ? save(f) : 0;
}

int
follow_checkpoint(struct follow *f, uint64_t wall_us)
{
	bool rotate = f->rotate;
	int rc = write_all(f);

	for (size_t i = 0; i < f->n_files && rc == 0; i++) {
		rc = acct_file_sync(&f->files[i]);
		f->sync_failed = f->sync_failed || rc != 0;
	}
	/* A second sync could say that all is well without writing again what the first one lost. */
	if (f->sync_failed)
		return rc != 0 ? rc : -E_IO;
	if (rc == 0)
		rc = save(f);
	if (rc == 0)
		rc = name_files(f, rotate, wall_us);
	if (rc == 0)
		f->rotate = false;
	return rc;
}

static int
open_reader(struct follow *f)
{
	if (f->reader != NULL)
		return 0;
	return event_reader_open_at(&f->reader, f->events_fd, f->instance, f->at, f->next_lsn);
}

/* True when the event's rows filled a file, or this much waits: time to write. */
static bool
put_event(struct follow *f, const struct event *e)
{
	bool full = false;

	for (size_t i = 0; i < f->n_files; i++) {
		struct acct_file *file = &f->files[i];

		acct_put_event(&file->pending, &file->layout, e);
		full = full || file->pending.len >= PENDING_BYTES ||
		       file->bytes + file->pending.len >= file->conf->max_size_bytes;
	}
	return full;
}

/* What runs guarded: the log is read through maps. */
struct reading {
	struct follow *f;
	struct event_position limit;
	struct event event;
	struct event_gap gap;
};

static int
read_one(void *arg)
{
	struct reading *rd = arg;

	return event_read(rd->f->reader, rd->limit, &rd->event, &rd->f->at);
}

static int
resync(void *arg)
{
	struct reading *rd = arg;

	return event_resync(rd->f->reader, rd->limit, &rd->gap);
}

static bool
is_damage(int rc)
{
	return rc == -E_CRC || rc == -E_BAD || rc == -E_FORMAT || rc == -E_FOREIGN ||
	       rc == -E_MISSING;
}

static void
tell_gap(const struct event_gap *g, int why)
{
	char first[24] = "unknown", last[24] = "unknown";

	if (g->whole) {
		log_error("event_file=%llu error=\"%s\" its header is damaged, no event is missing",
			  (unsigned long long)g->to.file, err_text(why));
		return;
	}
	if (g->first_lsn != 0)
		snprintf(first, sizeof first, "%llu", (unsigned long long)g->first_lsn);
	if (g->last_lsn != 0)
		snprintf(last, sizeof last, "%llu", (unsigned long long)g->last_lsn);
	log_error("event_file=%llu offset=%llu error=\"%s\" skipped_bytes=%llu next_file=%llu "
		  "next_offset=%llu missing_lsn=%s..%s their records are lost",
		  (unsigned long long)g->from.file, (unsigned long long)g->from.offset,
		  err_text(why), (unsigned long long)g->bytes, (unsigned long long)g->to.file,
		  (unsigned long long)g->to.offset, first, last);
}

/* Damage is passed over and told: waiting would not heal it, and in the end the log would be full.
 * What the disk cannot read now may be read later. */
static int
pass_over(struct reading *rd, int why)
{
	struct follow *f = rd->f;
	int rc = fault_guarded(resync, rd);

	if (rc < 0)
		return rc;
	tell_gap(&rd->gap, why);
	f->counts.gaps += !rd->gap.whole;
	f->at = rd->gap.to;
	f->next_lsn = event_reader_expects(f->reader);
	return rc;
}

/* The next event becomes rows. As put_event(); 1 and *full, 0 nothing more now, or -E_*. */
static int
take_event(struct reading *rd, bool *full)
{
	struct follow *f = rd->f;
	int rc = fault_guarded(read_one, rd);

	if (is_damage(rc))
		return pass_over(rd, rc);
	if (rc != 1)
		return rc;
	f->next_lsn = rd->event.lsn + 1;
	f->counts.events++;
	f->counts.records += rd->event.n_rcpts > 0 ? rd->event.n_rcpts : 1;
	*full = put_event(f, &rd->event);
	return 1;
}

int
follow_run(struct follow *f, struct event_position limit, unsigned most, uint64_t wall_us)
{
	struct reading rd = { .f = f, .limit = limit };
	bool full = false;
	int got = 1, rc;

	/* First what could not be written the last time, and after a start what lies behind the
	 * cursor comes off: also of a file that is about to be finished. */
	rc = write_all(f);
	if (rc == 0 && is_saved(f))
		rc = name_files(f, false, wall_us);
	if (rc == 0)
		rc = write_all(f);
	if (rc == 0)
		rc = open_reader(f);
	if (rc != 0)
		return rc;
	for (unsigned n = 0; n < most && !full && got == 1; n++)
		got = take_event(&rd, &full);
	if (got < 0) {
		log_error("event_file=%llu offset=%llu error=\"%s\"",
			  (unsigned long long)f->at.file, (unsigned long long)f->at.offset,
			  err_text(got));
		event_reader_close(&f->reader);
	}
	rc = write_all(f);
	KILL_POINT("after-write");
	if (rc == 0 && full)
		rc = follow_checkpoint(f, wall_us);
	return rc != 0 ? rc : got;
}

struct follow_counts
follow_counts(const struct follow *f, struct event_position limit)
{
	struct follow_counts c = f->counts;
	uint64_t at_file = f->at.file > 0 ? f->at.file : 1; /* 0: nothing was read yet */

	if (limit.file == at_file && limit.offset > f->at.offset)
		c.lag = limit.offset - f->at.offset;
	else if (limit.file > at_file)
		c.lag = (limit.file - at_file) * EVENT_FILE_BYTES + limit.offset - f->at.offset;
	return c;
}
