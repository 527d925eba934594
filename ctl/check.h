/* check: `sluice queue-check`: is what lies in the spool whole? One function per invariant, which
 * says what it found; nothing is repaired.
 *
 * Offline it takes the spool's lock, so the instance is stopped. Live it looks beside the running
 * scheduler, in short read transactions: a finding counts only if its row is still the same
 * afterwards, and what only a stopped instance holds still is left out. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/buf.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "common/queue/store.h"

// clang-format off
/* name, looked at also live, what holds */
#define CHECKS(X) \
	X(PAGES,        "pages",        false, "LMDB's pages are sound, each in use or free, once") \
	X(META,         "meta",         true,  "the rows belong to this spool, their marks can be read") \
	X(NAMES,        "names",        true,  "names pass their checksums") \
	X(QUEUES,       "queues",       true,  "states of queues pass their checksums and have names") \
	X(ACTS,         "acts",         true,  "limits that operators set and source IPs they disabled pass their checksums") \
	X(REDIRECTS,    "redirects",    true,  "redirected queues pass their checksums and lead to one that has a name") \
	X(BACKOFF,      "back-off",     true,  "modes of queues, counts of rules and what notices owe pass their checksums and can be read") \
	X(REPLIES,      "replies",      true,  "last replies pass their checksums") \
	X(SEGMENT_ROWS, "segment-rows", true,  "rows of segments pass their checksums") \
	X(SEGMENTS,     "segments",     true,  "each segment's file is there, as long and of the epoch that its row says") \
	X(STRANGERS,    "strangers",    false, "no segment file is another instance's, or newer than the rows") \
	X(ROWS,         "rows",         true,  "rows pass their checksums") \
	X(ROW_NAMES,    "row-names",    true,  "the queue of each row has a name, or was redirected to one") \
	X(PLACES,       "places",       true,  "each row points into a used segment, of the same epoch, before its committed end") \
	X(RECORDS,      "records",      true,  "the record there is whole: header, envelope, body") \
	X(RECIPIENTS,   "recipients",   true,  "entries share out the recipients of their record, none twice") \
	X(OVERLAPS,     "overlaps",     false, "no two records lie over each other") \
	X(MARKS,        "marks",        false, "message ids, leases, epochs, event numbers are below their high-water marks") \
	X(EVENTS,       "events",       false, "the event log can be read from where the rows and the recorder stand") \
	X(CURSORS,      "cursors",      false, "the recorder's cursor is whole and within the log") \
	X(CLAIMS,       "claims",       false, "claim tables are ours and whole; each open claim has its row")
// clang-format on

enum check_id {
#define X(id, name, live, help) CHECK_##id,
	CHECKS(X)
#undef X
		CHECK_COUNT
};

#define CHECK_SHOWN 20 /* findings of one invariant that are told; all are counted */

struct check_tally {
	bool run;
	uint64_t looked, wrong;
	struct buf shown; /* lines */
};

struct check_segment {
	struct store_segment row;
	bool known;
	uint64_t rows;
	int fd; /* -1 */
};

struct check {
	struct spool spool;
	struct store *store; /* NULL: it cannot be used */
	struct store_meta meta;
	bool live;
	struct check_tally tallies[CHECK_COUNT];
	struct check_segment *segments; /* by number */
	size_t n_segments, cap_segments;
	unsigned n_open;
	unsigned char *named; /* a bit for each name's number that is known */
	size_t cap_named;
	uint32_t *redirects; /* by number; 0: it is its own queue */
	size_t cap_redirects, n_redirects;
	uint64_t rows, quarantined;
	/* Open claims, in the order of their entries. */
	struct check_claim {
		struct entry_key key;
		unsigned worker, slot;
		bool has_row;
	} * claims;
	size_t n_claims, cap_claims;
	uint64_t told_boot_us; /* progress, the last time */
};

void check_looked(struct check *c, enum check_id id, uint64_t n);
void check_found(struct check *c, enum check_id id, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void check_progress(struct check *c, const char *what, uint64_t n);

/* check_store.c: pages, meta, names, states, replies, segments' rows. False: the rows cannot be
 * read. */
bool check_open_store(struct check *c);
void check_tables(struct check *c);
bool check_is_named(const struct check *c, uint32_t number);
/* Where the rows with that number belong: itself, unless it was redirected; 0: redirects go round. */
uint32_t check_redirected(const struct check *c, uint32_t number);
struct check_segment *check_segment_at(struct check *c, uint32_t number);
void check_load_names(struct check *c); /* and redirects */
void check_load_segments(struct check *c);
/* check_rows.c: rows with their records. */
void check_rows(struct check *c);
/* check_files.c: segment files, claims, events, cursors. */
void check_segment_files(struct check *c);
void check_claims_load(struct check *c);
void check_claims_end(struct check *c);
void check_events(struct check *c);

/* Enters the spool and looks at all of it: 0, or the exit status with *why. Then check_clear(). */
int check_look(struct check *c, const char *spool_path, char *why, size_t why_bytes);
uint64_t check_wrong(const struct check *c);
void check_clear(struct check *c);

/* The command. The exit status: 0 all holds, 1 something does not, 3 it cannot be looked at. */
int check_run(const char *spool_path, bool live, bool json);
