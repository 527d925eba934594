/* acct_record: events as accounting records: which, in which columns, as CSV or JSON. Pure.
 *
 * Types, columns and their order are PowerMTA's; eventId, grantStamp and maybeDup follow as ours.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/conf/conf.h"
#include "common/event_log/event.h"

enum acct_type {
	ACCT_D = 1,  /* delivered */
	ACCT_B = 2,  /* bounced: rejected, expired, deleted */
	ACCT_T = 4,  /* transient error of a recipient */
	ACCT_TQ = 8, /* transient error of a queue */
	ACCT_R = 16, /* received */
};

#define ACCT_COLUMNS_MAX 48

/* The layout of one accounting file. */
struct acct_layout {
	unsigned types; /* of enum acct_type */
	unsigned n_columns;
	uint8_t columns[ACCT_COLUMNS_MAX]; /* rows of the column table, in their order */
	bool json, iso_times;
	const char *user_string; /* or NULL */
	char id_prefix[9];       /* of every eventId: eight hex digits of the spool's instance */
};

/* `conf` is borrowed for its strings. */
void acct_layout_init(struct acct_layout *l, const struct conf_acct_file *conf,
		      const unsigned char instance[16]);

/* The first line of a file; nothing for JSON. */
void acct_put_header(struct buf *out, const struct acct_layout *l);

/* Appends the records that the event makes in this layout; how many. */
unsigned acct_put_event(struct buf *out, const struct acct_layout *l, const struct event *e);

/* "2.0.0 (success)". */
void acct_put_status(struct buf *out, const uint8_t status[3]);
