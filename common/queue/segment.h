/* segment: message records on disk: pre-written files of 64 MiB, appended once, synced, then read.
 *
 * File `segments/NNNNNNNN.seg`: a 4096-byte header {magic, version, number, epoch, file bytes,
 * instance id, CRC32C}, then records back to back. The file is written full of zeros once; every
 * use stamps a new epoch (synced) so that records of earlier lives are never taken for mail. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/buf.h"
#include "common/base/file.h"
#include "common/base/ids.h"
#include "common/base/str.h"

#define SEGMENT_HEADER_BYTES 4096

struct segment_info {
	uint32_t number;
	uint64_t epoch;
	uint64_t bytes; /* of the whole file */
};

/* Creates and pre-writes file `number` of `bytes` in `dir` (descriptor of segments/), synced, and its
 * name synced. Slow (tens of ms): background threads only. 0 or -E_*. */
int segment_create(int dir, uint32_t number, uint64_t bytes, const unsigned char instance[16]);
/* The same at a pace that leaves the disk to others (NULL: at once). */
int segment_create_paced(int dir, uint32_t number, uint64_t bytes, const unsigned char instance[16],
			 const struct file_pace *pace);
/* The same in a few ms: the blocks are only reserved, so that its first use syncs more slowly. */
int segment_reserve(int dir, uint32_t number, uint64_t bytes, const unsigned char instance[16]);
/* Stamps a new epoch and syncs: the segment is empty again. 0 or -E_*. */
int segment_stamp(int dir, uint32_t number, uint64_t epoch, const unsigned char instance[16]);
int segment_read_info(int dir, uint32_t number, const unsigned char instance[16], struct segment_info *out);
int segment_remove(int dir, uint32_t number);
/* Removes what a crash left of files that were being made. Nobody makes one meanwhile. */
void segment_sweep_unfinished(int dir);
/* Calls fn for every segment file found. */
int segment_each(int dir, void (*fn)(void *arg, uint32_t number), void *arg);

/* The writing end: one receiver. */
struct segment_writer {
	int fd;
	struct segment_info info;
	uint64_t end;  /* bytes used, next append goes here */
	bool failed;   /* an error was seen: never written again */
};
int segment_writer_open(struct segment_writer *w, int dir, uint32_t number, uint64_t epoch,
			const unsigned char instance[16]);
/* True when `bytes` more fit. */
bool segment_fits(const struct segment_writer *w, uint64_t bytes);
/* Writes all of iov at the end (pwritev, loops over partial writes); it must fit. The offset written
 * at, or -E_* and w->failed. Durable only after segment_sync(). iov is changed. */
int64_t segment_append(struct segment_writer *w, struct iovec *iov, int n);
/* fdatasync. 0 or -E_* and w->failed. */
int segment_sync(struct segment_writer *w);
void segment_writer_close(struct segment_writer *w);

/* Moving records to another segment. Opens one of epoch `epoch` to read from: the descriptor or -E_*. */
int segment_source_open(int dir, uint32_t number, uint64_t epoch, const unsigned char instance[16]);
/* Appends a copy of record `id` at `offset` of the source: checked whole, stamped for `w`. Its offset in `w`;
 * -E_* with w->failed when writing failed, without when the record is not good. */
int64_t segment_copy(struct segment_writer *w, int source, uint64_t epoch, uint64_t offset, msg_id_t id,
		     struct buf *scratch);

/* The reading end: a small cache of read-only maps and descriptors, one per thread that reads. */
struct segment_cache;
struct segment_cache *segment_cache_new(int dir, const unsigned char instance[16]);
void segment_cache_free(struct segment_cache **c);
/* The file's mapping if its epoch is `epoch` (re-read when the cached one differs). 0 or -E_MISSING
 * (no such file, or it has another epoch), -E_CRC, -E_FORMAT, -E_FOREIGN, -E_IO. Pinned: valid until
 * segment_put() of the same number and epoch. */
struct segment_ref {
	uint32_t number;
	uint64_t epoch;
	int fd;             /* for sendfile */
	struct slice bytes; /* the whole file */
};
int segment_get(struct segment_cache *c, uint32_t number, uint64_t epoch, struct segment_ref *out); /* pins */
void segment_put(struct segment_cache *c, uint32_t number, uint64_t epoch);                         /* unpins */
