/* event_file: one file of the event log, as writer and reader share it: names, header, frames. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"

#define EVENT_FILE_HEADER_BYTES 4096
#define EVENT_NAME_BYTES        32
#define EVENT_ALIGN             16
#define EVENT_FRAME_HEAD        32 /* before the payload; the CRC is 4 behind it */

struct event_file_header {
	uint64_t number;
	uint64_t bytes; /* of the whole file */
	unsigned char boot_id[16];
};

void event_file_name(char name[EVENT_NAME_BYTES], uint64_t number);
/* Calls fn for every file of the log, in order of their numbers. */
int event_file_each(int dir, void (*fn)(void *arg, uint64_t number), void *arg);

/* Opens file `number` and checks its header. The descriptor or -E_MISSING (also when the header
 * names another number: a file on its way to a new use), -E_CRC, -E_FORMAT, -E_FOREIGN, -E_IO. */
int event_file_open(int dir, uint64_t number, int flags, const unsigned char instance[16],
		    struct event_file_header *out);
/* Creates file `number`, pre-written and synced under another name, then named and that synced. */
int event_file_create(int dir, const struct event_file_header *h, const unsigned char instance[16]);
/* Writes the header of an open file; not synced. */
int event_file_stamp(int fd, const struct event_file_header *h, const unsigned char instance[16]);

struct event_frame {
	uint64_t lsn;
	uint64_t batch; /* lsn of the first event that was synced together with it */
	struct slice payload;
	uint64_t bytes; /* of the whole frame with its padding */
};
/* The CRC of a frame begins with this, so that no foreign text inside an event can pass for one. */
uint32_t event_frame_seed(const unsigned char instance[16]);
/* Appends a frame around what the caller appends between: begin returns a mark, end closes it. */
size_t event_frame_begin(struct buf *b, uint64_t lsn, uint64_t batch, uint64_t file);
void event_frame_end(struct buf *b, size_t mark, uint32_t seed);
/* The frame at the start of `s` if it is one of file `file`. 0, -E_MISSING (no frame of this file
 * begins here) or -E_CRC (one begins, but is not whole). */
int event_frame_decode(struct slice s, uint64_t file, uint32_t seed, struct event_frame *out);
/* What the head of a frame says, its checksum not looked at. Errors as above. */
int event_frame_claims(struct slice s, uint64_t file, struct event_frame *out);
