/* store_impl: what the files of the store share: the environment, its tables, keys and values. */
#pragma once

#include <lmdb.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/queue/store.h"

// clang-format off
#define STORE_TABLES(X) X(rows) X(names) X(queues) X(segments) X(replies) X(meta) X(acts) X(redirects) X(backoff)

#define STORE_META_FIELDS(X) \
	X(next_message_id) X(next_epoch) X(event_file) X(event_offset) X(next_lsn) X(next_lease)
// clang-format on

#define STORE_KEY_BYTES    10 /* u64 message id, u16 ordinal, big endian: the order of arrival */
#define STORE_NUMBER_BYTES 4
#define STORE_ROW_BYTES    54
#define STORE_DONE_MAX     ((ENTRY_RCPT_MAX + 7) / 8)
#define STORE_VALUE_MAX    1024
#define STORE_KEY_MAX      16
#define STORE_META_KEY     "meta"
/* In the table meta: a list in as many rows as it needs, as no value is longer than
 * STORE_VALUE_MAX. */
#define STORE_RECEPTIONS_KEY       "receptions"
#define STORE_RECEPTIONS_ROW_BYTES ((STORE_VALUE_MAX - 4) / 8 * 8)
#define STORE_RECEPTIONS_ROWS_MAX  10000

struct store {
	MDB_env *env;
#define X(name) MDB_dbi name;
	STORE_TABLES(X)
#undef X
	uint64_t map_bytes;      /* asked for: the quota counts from it, the map may be larger */
	uint64_t reserved_bytes; /* of the data file, taken from the disk so far */
	int failed;              /* of the first commit that failed: nothing is written any more */
};

struct store_txn {
	struct store *store;
	MDB_txn *txn;
	int failed; /* of the first error: sticks */
};

/* LMDB's codes in our words; what it said goes to the log. */
int store_error(int lmdb_rc, const char *what);

/* Every value: u32 CRC32C of key and rest, then the rest. */
uint32_t store_value_crc(MDB_val key, const void *rest, size_t n);
bool store_value_check(MDB_val key, MDB_val value, struct slice *rest);
MDB_val store_receptions_key(char dst[STORE_KEY_MAX],
			     unsigned i); /* of the list's row i; borrows dst */

void store_key_encode(unsigned char dst[STORE_KEY_BYTES], struct entry_key key);
bool store_key_decode(MDB_val v, struct entry_key *out);
bool store_number_decode(MDB_val v, uint32_t *out);

/* The rest of a row's value; encode gives its length, at most STORE_ROW_BYTES + STORE_DONE_MAX. */
size_t store_row_encode(unsigned char *dst, const struct store_row *row);
bool store_row_decode(struct slice s, struct store_row *row);

/* One table in one read transaction: calls `one` for each item; counts in *bad what it refuses, what fails its
 * checksum, and what the table says it holds but does not show. */
int store_each(struct store *s, MDB_dbi table, bool (*one)(void *arg, MDB_val key, struct slice rest), void *arg,
	       uint64_t *bad);

/* Stores a value in the transaction; the first error sticks. */
int store_put(struct store_txn *t, MDB_dbi table, MDB_val key, const void *rest, size_t n);

int store_del(struct store_txn *t, MDB_dbi table, MDB_val key); /* fine when absent */

/* Opens the environment: map, lock, a data file as long as it says. 0 or -E_* with s->env to be
 * closed. */
int store_env_open(struct store *s, const char *path, int dir, uint64_t map_bytes);
/* Pages on LMDB's free list. */
uint64_t store_free_pages(struct store *s);
/* Reads all pages of an existing environment: not 0 when they are not sound, and why in the log.
 * Before any other use. */
int store_probe(const char *path, int dir);
