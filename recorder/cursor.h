/* cursor: how far the recorder has come: the event position and, of each accounting file, what it
 * held there. One small file, replaced as a whole, synced: what it says is on disk.
 *
 * SPOOL/cursors/acct: u32 magic, u32 version, u64 event file, u64 event offset, u32 number of
 * files, for each: configured path, present file, file that is still to be moved (length-prefixed),
 * u64 bytes, u64 opened at; from version 2 on u64 lsn of the next event; u32 CRC32C of all before.
 * Upgrade: new fields before the CRC, a higher version; lower ones are read. */
#pragma once

#include <stdint.h>

#include "common/base/buf.h"
#include "common/event_log/event_log.h"

#define CURSOR_FILES_MAX 1000

struct cursor_file {
	char *key;      /* the path in the configuration */
	char *path;     /* the file being written; "" none yet */
	char *finished; /* full and still to be moved away; "" none */
	uint64_t bytes; /* that are durable and belong to events before the position */
	uint64_t opened_wall_us;
};

struct cursor {
	struct event_position at;
	uint64_t next_lsn; /* of the event there; 0: not known */
	struct cursor_file *files;
	size_t n_files;
};

/* 0, -E_MISSING (none yet), -E_CRC, -E_FORMAT, -E_IO. Cleared by cursor_clear(). */
int cursor_load(struct cursor *c, int cursors_fd);
/* Durable when it returns 0. */
int cursor_save(const struct cursor *c, int cursors_fd);
void cursor_clear(struct cursor *c);
