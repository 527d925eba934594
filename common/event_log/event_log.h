/* event_log: what happened, in order, before the queue forgets it: an append-only log of events.
 *
 * Files `events/NNNNNNNNNNNN.log`, pre-written EVENT_FILE_BYTES each (less on a small disk), used in order of their number and
 * recycled once both the committed position and all cursors are past them. A file begins with a
 * 4096-byte header {magic, version, file number, instance, boot id, CRC32C}; events follow, 16-byte
 * aligned: u32 magic, u32 length, u64 lsn, u64 file number, u64 batch, payload, CRC32C over all of it.
 * The file number in each event keeps a recycled file's old events from being taken for new ones; the
 * batch (lsn of the first event synced together with it) tells a tail that was being written when the
 * power went from damage: an event of a later batch proves that what is missing was once synced.
 * A position is (file, offset). Readers go only as far as the writer has synced. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"
#include "common/event_log/event.h"

struct event_position {
	uint64_t file;
	uint64_t offset;
};
static inline bool
event_position_before(struct event_position a, struct event_position b)
{
	return a.file < b.file || (a.file == b.file && a.offset < b.offset);
}

#define EVENT_SPARES 2 /* files kept ready behind the one that is written */

struct event_writer;
/* Opens for append at the end of what is valid from `from` on, {0, 0} being the first file there is;
 * `next_lsn` is the lsn of the event at `from` (both of the store's meta). Everything up to the end is
 * written and synced again (after a failed sync what the system shows us may never reach the disk); what was left of an unfinished batch behind it is erased. The caller replays from `from`
 * to event_writer_position() with a reader. -E_CRC when synced events are damaged, -E_MISSING when the
 * file of `from` is gone: never skipped over. */
int event_writer_open(struct event_writer **out, int events_fd, const unsigned char instance[16],
		      struct event_position from, uint64_t next_lsn);
/* The same with files of another size than EVENT_FILE_BYTES: for tests. */
int event_writer_open_sized(struct event_writer **out, int events_fd, const unsigned char instance[16],
			    struct event_position from, uint64_t next_lsn, uint64_t file_bytes);
/* Behind opening: events that were synced once, and read up to `behind` (the next one with `next_lsn`; 0: not known),
 * are gone; damage at the end looks like a batch that was not finished. The next event begins a new file behind both
 * ends, with a number that none of them can have had. The replay of what is left is done before; it is for the store to
 * know the new position then. */
int event_writer_pass(struct event_writer *w, struct event_position behind, uint64_t next_lsn);
/* Adds an event to the batch in memory; returns its lsn. */
uint64_t event_append(struct event_writer *w, const struct event *e);
/* The same for an event that was encoded (event_encode) by another thread. */
uint64_t event_append_encoded(struct event_writer *w, struct slice payload);
/* Writes the batch and fdatasyncs. 0 or -E_*: then nothing of it may be acted upon, and never again. */
int event_sync(struct event_writer *w);
struct event_position event_writer_position(const struct event_writer *w); /* end of what is synced */
uint64_t event_writer_next_lsn(const struct event_writer *w);
uint64_t event_writer_file_bytes(const struct event_writer *w);
/* True when an event of so many encoded bytes fits into a file. */
bool event_writer_takes(const struct event_writer *w, size_t encoded_bytes);
/* Files wholly before `low` may be used again (two are kept ready, more are removed). Background work is
 * the caller's thread: call it there; this and event_prepare() may run beside append and sync. */
int event_recycle(struct event_writer *w, struct event_position low);
/* The same without a writer, for a disk that has no room to open one: removes the files wholly before `low`, but
 * for the youngest `keep` of them. */
int event_log_trim(int events_fd, struct event_position low, unsigned keep);
/* Pre-writes the next file if there is none; slow, call it from a background thread. */
int event_prepare(struct event_writer *w);
/* The beginning of the oldest file there is; {1, 0} when there is none. Negative: -E_*. */
int event_log_oldest(int events_fd, struct event_position *out);
/* Files of the log, spare ones too: what a quota counts. Any thread. Negative: -E_*. */
int event_log_files(int events_fd);
void event_writer_close(struct event_writer **w); /* what was not synced is gone */

struct event_reader;
int event_reader_open(struct event_reader **out, int events_fd, const unsigned char instance[16], struct event_position from);
/* The same, and the lsn that the first event must have (0: any). */
int event_reader_open_at(struct event_reader **out, int events_fd, const unsigned char instance[16],
			 struct event_position from, uint64_t lsn);
/* The next event before `limit` ({0,0}: to the end of what is valid, to be asked rarely: the end is found
 * by a scan of the file). 1 and *e borrowed until the next call, 0 nothing more now, -E_CRC / -E_BAD /
 * -E_FORMAT / -E_FOREIGN / -E_MISSING when what is there is damaged or gone, or -E_IO and the like.
 * *pos becomes the position behind it. Files are read through maps: a caller that is to survive a bad
 * disk runs this, and event_resync(), guarded; after a fault the reader can only be closed. */
int event_read(struct event_reader *r, struct event_position limit, struct event *e, struct event_position *pos);
/* What was passed over. */
struct event_gap {
	struct event_position from, to; /* `to`: where reading goes on */
	bool whole;     /* no event is missing: the header of a file is damaged, or nothing is behind its end */
	uint64_t bytes; /* between them, of files that are there, with what was not used at their ends */
	uint64_t first_lsn, last_lsn; /* of the events missing; 0: not known */
};
/* After event_read() told of damage: goes on at the next whole event before `limit` (not {0,0}: all before it was
 * synced) that can stand behind the last one read. 1, 0 when there is none and reading goes on at the limit, or
 * -E_*: a disk that cannot be read is no damage, nothing was passed over. */
int event_resync(struct event_reader *r, struct event_position limit, struct event_gap *gap);
/* The lsn that the next event must have; 0: not known. */
uint64_t event_reader_expects(const struct event_reader *r);
/* Of the event read last: the boot that its stamp_boot_us belongs to. */
const unsigned char *event_reader_boot_id(const struct event_reader *r);
void event_reader_close(struct event_reader **r);
