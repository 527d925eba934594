/* acct_file: one accounting file on disk, its successors, and how far it is durable.
 *
 * A file gets its name in the cursor before it is made, so a crash leaves none that nobody knows
 * of:
 *
 *   name chosen -> cursor saved -> made, header written -> rows ... -> full: the next name is
 * chosen
 *
 * What lies behind the durable length when a file is opened again was written for events that will
 * be read again: it is cut off. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/conf/conf.h"
#include "recorder/acct_record.h"
#include "recorder/cursor.h"

struct acct_file {
	const struct conf_acct_file *conf;
	struct acct_layout layout;
	char path[4096];     /* of the file being written; "" none chosen yet */
	char finished[4096]; /* full, to be moved to conf->move_to once no cursor names it */
	int fd;              /* -1: not opened yet */
	size_t header_bytes;
	uint64_t bytes; /* written, pending rows not counted */
	uint64_t opened_wall_us;
	struct buf pending; /* rows not written yet */
	bool dirty;         /* written since the last sync */
	bool other_layout;  /* it was begun with other columns: nothing more goes into it */
	bool unnamed;       /* path was chosen since the last cursor: not to be made yet */
};

/* `was`: what the cursor says of it, or NULL. */
void acct_file_init(struct acct_file *f, const struct conf_acct_file *conf,
		    const unsigned char instance[16], const struct cursor_file *was);
void acct_file_close(struct acct_file *f);

/* Needs a next file: none yet, of another layout, full, too old, taken away by others, or `rotate`
 * and it holds records. */
bool acct_file_wants_next(struct acct_file *f, bool rotate, uint64_t wall_us);
/* Chooses the name of the next file, in the directory of this one's path. 0 or -E_*. */
int acct_file_next(struct acct_file *f, uint64_t wall_us);
/* Writes the pending rows, opening or making the file if need be. 0, or -E_* and they are still
 * pending. */
int acct_file_write(struct acct_file *f);
int acct_file_sync(struct acct_file *f);
/* For the cursor: what is on disk after acct_file_sync(). Texts borrowed. */
void acct_file_state(const struct acct_file *f, struct cursor_file *out);
/* After the cursor that names the present file was saved: moves the finished one away. */
void acct_file_named(struct acct_file *f);
