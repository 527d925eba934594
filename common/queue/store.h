/* store: the durable rows in LMDB. Only the scheduler opens it; one thread of it writes.
 *
 * Flags: none but MDB_NOTLS (no WRITEMAP, no NOSYNC, no DUPSORT). Tables: rows, names, queues,
 * segments, replies, meta, acts, redirects, backoff. Every value carries a CRC32C of key and value; what fails it is
 * reported, never used. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/ids.h"
#include "common/base/str.h"

struct store;

/* Opens or creates SPOOL/lmdb. -E_FOREIGN when it belongs to another instance; -E_FORMAT, -E_CRC
 * when it is damaged or its data file was emptied: never reset. Once in a process, never across
 * fork. */
int store_open(struct store **out, const char *spool_path, const unsigned char instance[16]);
/* The same with another size of the map than STORE_MAP_BYTES: for tests of a full one. */
int store_open_sized(struct store **out, const char *spool_path, const unsigned char instance[16],
		     uint64_t map_bytes);
/* For looking, also while the scheduler runs: nothing is made and nothing written. Only the store_load_ and
 * store_last_ functions may be used with it. */
int store_open_reading(struct store **out, const char *spool_path, const unsigned char instance[16]);
void store_close(struct store **s);
/* Takes room on the disk for `ahead` bytes behind what the data file uses, so that commits find it also when
 * the disk is full: after a commit, by the thread that writes. Quick when there is nothing to do. */
void store_reserve(struct store *s, uint64_t ahead);
/* Share of the map in use, 0..100; what LMDB can use again does not count. Quick. */
unsigned store_fill_percent(struct store *s);

/* One entry's row. */
struct store_row {
	uint32_t queue; /* number in the names table */
	uint32_t segment;
	uint64_t epoch;
	uint32_t offset; /* in units of 16 bytes */
	uint32_t due_s;  /* wall seconds; 0: at once */
	uint32_t received_s;
	uint32_t job, sender_domain; /* numbers in the names table, 0 none */
	uint16_t attempts;
	uint16_t n_rcpts;
	uint32_t first_rcpt; /* index in the record's recipients */
	uint32_t kbytes;     /* record size in KiB, rounded up */
	uint8_t flags;
	struct slice done; /* bitmap of finished recipients, (n_rcpts + 7) / 8 bytes; empty: none */
};
enum store_row_flags {
	STORE_ROW_MAYBE_DUP = 1,
	STORE_ROW_QUARANTINED = 2, /* its record is damaged: kept, never sent */
};

struct store_queue { /* state of one queue */
	bool paused;
	uint8_t retry_level; /* index into retry-after of the next failure */
	uint32_t retry_at_s; /* 0: not in retry */
	struct slice reason; /* last error, at most 512 bytes */
};
enum store_segment_state { STORE_SEGMENT_FREE, STORE_SEGMENT_OPEN, STORE_SEGMENT_SEALED };
/* What an operator set, until it ends: a limit, a source IP that is disabled. */
enum store_act_kind { STORE_ACT_LIMIT = 1, STORE_ACT_SOURCE_DISABLED };
#define STORE_ACT_TEXT_MAX 900 /* bytes of its three texts */
struct store_act {
	uint8_t kind;
	uint8_t scope;           /* of a limit: enum override_scope */
	uint64_t since_wall_us, until_wall_us; /* until 0: for ever */
	struct slice object;     /* queue or pattern, address, name */
	struct slice name;       /* directive; of a disabled source IP the address */
	struct slice value;      /* as it was given; of a source IP the rule, empty: an operator */
};
#define STORE_BACKOFF_MAX 16000 /* bytes of what is kept of one object's back-off */
struct store_segment {
	uint64_t epoch;
	uint64_t bytes;
	uint64_t committed; /* records below this offset are acknowledged or forgotten */
	uint8_t state;
	uint8_t receiver; /* owner while OPEN */
	bool failed;      /* a write or sync of it did: its file goes when it is empty */
};
struct store_meta {
	uint64_t next_message_id; /* high-water mark of leased blocks */
	uint64_t next_epoch;
	uint64_t event_file, event_offset; /* event log is covered up to here */
	uint64_t next_lsn;
	uint64_t next_lease;
};

/* The last commit made durable: one whose sync failed is what the system shows, and may never reach the disk. Before
 * the first transaction. 0 or -E_*. */
int store_write_again(struct store *s);

/* Loading at start; each calls fn for every item (slices borrowed for the call) and counts in *bad
 * those whose checksum fails and those that the table counts but does not show. A new store's meta:
 * numbers begin at 1, event position {0, 0}. */
int store_load_meta(struct store *s, struct store_meta *out);
int store_load_rows(struct store *s,
		    void (*fn)(void *arg, struct entry_key key, const struct store_row *row),
		    void *arg, uint64_t *bad);
/* At most `most` rows from `*from` on, in one short read transaction; `row` NULL: it fails its checksum. *from is
 * moved on. 1 there may be more, 0 not. */
int store_load_slice(struct store *s, struct entry_key *from, unsigned most,
		     void (*fn)(void *arg, struct entry_key key, const struct store_row *row),
		     void *arg);
/* Replies, whose text does not matter: of which entries there are some. */
int store_load_replies(struct store *s, void (*fn)(void *arg, struct entry_key key), void *arg,
		       uint64_t *bad);
/* The rows that store_load_rows() only counted, as far as they can be read: any of it may be wrong. */
int store_load_damaged(struct store *s,
		       void (*fn)(void *arg, struct entry_key key, const struct store_row *guess),
		       void *arg);
int store_load_names(struct store *s, void (*fn)(void *arg, uint32_t number, struct slice name),
		     void *arg, uint64_t *bad);
int store_load_queues(struct store *s,
		      void (*fn)(void *arg, uint32_t queue, const struct store_queue *q), void *arg,
		      uint64_t *bad);
int store_load_segments(struct store *s,
			void (*fn)(void *arg, uint32_t number, const struct store_segment *seg),
			void *arg, uint64_t *bad);
/* None in a store that was made before there were such. */
int store_load_acts(struct store *s, void (*fn)(void *arg, uint32_t number, const struct store_act *act), void *arg,
		    uint64_t *bad);
/* Numbers of queues whose rows are another queue's. None in a store that was made before there were such. */
int store_load_redirects(struct store *s, void (*fn)(void *arg, uint32_t from, uint32_t to), void *arg,
			 uint64_t *bad);
/* What is known of back-off: modes and counts (scheduler/backoff_rows.h). None in a store that was made before there
 * were such. */
int store_load_backoff(struct store *s, void (*fn)(void *arg, uint32_t number, struct slice blob), void *arg,
		       uint64_t *bad);
/* The list of the last transaction that had one, appended to *out. 0 or -E_*; none at all is 0. -E_CRC: a part
 * of it is damaged, *out has the others. */
int store_load_receptions(struct store *s, struct buf *out);
/* The last reply of an entry, copied; length or -E_MISSING. Own short read transaction. */
int store_last_reply(struct store *s, struct entry_key key, char *dst, size_t bytes);

/* Writing: one transaction at a time, by one thread. Any error makes the whole transaction
 * unusable: store_abort() it, answer nobody, and let the process end: what a failed commit did is
 * unknown. */
struct store_txn;
int store_begin(struct store *s, struct store_txn **out);
int store_put_row(struct store_txn *t, struct entry_key key, const struct store_row *row);
/* What the transaction sees; row->done is borrowed until the next call. 0, -E_MISSING, -E_CRC. */
int store_get_row(struct store_txn *t, struct entry_key key, struct store_row *row);
int store_del_row(struct store_txn *t, struct entry_key key); /* also its reply; fine when absent */
int store_put_reply(struct store_txn *t, struct entry_key key, struct slice reply);
int store_put_name(struct store_txn *t, uint32_t number, struct slice name);
int store_del_name(struct store_txn *t, uint32_t number); /* fine when absent */
int store_put_queue(struct store_txn *t, uint32_t queue, const struct store_queue *q);
int store_put_segment(struct store_txn *t, uint32_t number, const struct store_segment *seg);
/* By a number that is the caller's to give; -E_TOO_BIG: its texts are longer than a value may be. */
int store_put_act(struct store_txn *t, uint32_t number, const struct store_act *act);
int store_del_act(struct store_txn *t, uint32_t number); /* fine when absent */
/* From now on the rows of queue number `from` are those of `to`. The number has no name of its own any more, and no
 * state: whoever is called so has another number. */
int store_put_redirect(struct store_txn *t, uint32_t from, uint32_t to);
int store_del_redirect(struct store_txn *t, uint32_t from); /* fine when absent */
/* By a number that is the caller's to give; -E_TOO_BIG: longer than STORE_BACKOFF_MAX. */
int store_put_backoff(struct store_txn *t, uint32_t number, struct slice blob);
int store_del_backoff(struct store_txn *t, uint32_t number); /* fine when absent */
/* Messages (u64, little endian) whose rows are in this transaction while their reception events are being
 * written beside it; takes the place of the last list. */
int store_put_receptions(struct store_txn *t, struct slice ids);
int store_put_meta(struct store_txn *t, const struct store_meta *m);
int store_commit(struct store_txn **t); /* 0 only when it is on disk */
void store_abort(struct store_txn **t);
