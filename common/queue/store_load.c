#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/wire.h"
#include "common/queue/store_impl.h"

int
store_each(struct store *s, MDB_dbi table, bool (*one)(void *arg, MDB_val key, struct slice rest),
	   void *arg, uint64_t *bad)
{
	MDB_txn *txn = NULL;
	MDB_cursor *c = NULL;
	MDB_val k, v;
	MDB_stat st = { 0 };
	uint64_t seen = 0;
	int rc;

	*bad = 0;
	rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
	if (rc == 0)
		rc = mdb_stat(txn, table, &st);
	if (rc == 0)
		rc = mdb_cursor_open(txn, table, &c);
	while (rc == 0 && (rc = mdb_cursor_get(c, &k, &v, MDB_NEXT)) == 0) {
		struct slice rest;

		seen++;
		if (!store_value_check(k, v, &rest) || !one(arg, k, rest))
			++*bad;
	}
	if (rc == MDB_NOTFOUND)
		rc = 0;
	if (rc == 0 && seen != st.ms_entries)
		*bad += seen < st.ms_entries ? st.ms_entries - seen : seen - st.ms_entries;
	if (c != NULL)
		mdb_cursor_close(c);
	if (txn != NULL)
		mdb_txn_abort(txn);
	return store_error(rc, "load");
}

struct load_rows {
	void (*fn)(void *arg, struct entry_key key, const struct store_row *row);
	void *arg;
};

static bool
one_row(void *arg, MDB_val key, struct slice rest)
{
	struct load_rows *l = arg;
	struct entry_key k;
	struct store_row row;

	if (!store_key_decode(key, &k) || !store_row_decode(rest, &row))
		return false;
	l->fn(l->arg, k, &row);
	return true;
}

int
store_load_rows(struct store *s,
		void (*fn)(void *arg, struct entry_key key, const struct store_row *row), void *arg,
		uint64_t *bad)
{
	struct load_rows l = { fn, arg };

	return store_each(s, s->rows, one_row, &l, bad);
}

int
store_load_slice(struct store *s, struct entry_key *from, unsigned most,
		 void (*fn)(void *arg, struct entry_key key, const struct store_row *row),
		 void *arg)
{
	unsigned char first[STORE_KEY_BYTES];
	MDB_val k = { sizeof first, first }, v;
	MDB_txn *txn = NULL;
	MDB_cursor *c = NULL;
	unsigned n = 0;
	int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);

	store_key_encode(first, *from);
	if (rc == 0)
		rc = mdb_cursor_open(txn, s->rows, &c);
	if (rc == 0)
		rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
	for (; rc == 0 && n < most; n++, rc = mdb_cursor_get(c, &k, &v, MDB_NEXT)) {
		struct slice rest;
		struct store_row row;
		struct entry_key key = { 0 };
		bool good = store_key_decode(k, &key) && store_value_check(k, v, &rest) &&
			    store_row_decode(rest, &row);

		fn(arg, key, good ? &row : NULL);
		*from = key;
		if (++from->ordinal == 0)
			from->message++;
	}
	if (c != NULL)
		mdb_cursor_close(c);
	if (txn != NULL)
		mdb_txn_abort(txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc == 0 ? 1 : store_error(rc, "load slice");
}

struct load_replies {
	void (*fn)(void *arg, struct entry_key key);
	void *arg;
};

static bool
one_reply(void *arg, MDB_val key, struct slice rest)
{
	struct load_replies *l = arg;
	struct entry_key k;

	(void)rest;
	if (!store_key_decode(key, &k))
		return false;
	l->fn(l->arg, k);
	return true;
}

int
store_load_replies(struct store *s, void (*fn)(void *arg, struct entry_key key), void *arg,
		   uint64_t *bad)
{
	struct load_replies l = { fn, arg };

	return store_each(s, s->replies, one_reply, &l, bad);
}

int
store_load_damaged(struct store *s,
		   void (*fn)(void *arg, struct entry_key key, const struct store_row *guess),
		   void *arg)
{
	MDB_txn *txn = NULL;
	MDB_cursor *c = NULL;
	MDB_val k, v;
	int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);

	if (rc == 0)
		rc = mdb_cursor_open(txn, s->rows, &c);
	while (rc == 0 && (rc = mdb_cursor_get(c, &k, &v, MDB_NEXT)) == 0) {
		struct slice rest = SLICE_NONE;
		struct store_row row = { 0 };
		struct entry_key key = { 0 };

		if (store_value_check(k, v, &rest) && store_key_decode(k, &key) &&
		    store_row_decode(rest, &row))
			continue;
		if (!store_key_decode(k, &key) || rest.p == NULL || !store_row_decode(rest, &row))
			row = (struct store_row){ 0 };
		fn(arg, key, &row);
	}
	if (c != NULL)
		mdb_cursor_close(c);
	if (txn != NULL)
		mdb_txn_abort(txn);
	return rc == MDB_NOTFOUND ? 0 : store_error(rc, "load damaged");
}

struct load_names {
	void (*fn)(void *arg, uint32_t number, struct slice name);
	void *arg;
};

static bool
one_name(void *arg, MDB_val key, struct slice rest)
{
	struct load_names *l = arg;
	uint32_t number;

	if (!store_number_decode(key, &number))
		return false;
	l->fn(l->arg, number, rest);
	return true;
}

int
store_load_names(struct store *s, void (*fn)(void *arg, uint32_t number, struct slice name),
		 void *arg, uint64_t *bad)
{
	struct load_names l = { fn, arg };

	return store_each(s, s->names, one_name, &l, bad);
}

struct load_queues {
	void (*fn)(void *arg, uint32_t queue, const struct store_queue *q);
	void *arg;
};

static bool
one_queue(void *arg, MDB_val key, struct slice rest)
{
	struct load_queues *l = arg;
	struct store_queue q;
	struct wire_reader r;
	uint32_t number;

	wire_read_init(&r, rest);
	q.paused = wire_u8(&r) != 0;
	q.retry_level = wire_u8(&r);
	q.retry_at_s = wire_u32(&r);
	q.reason = wire_bytes(&r, REPLY_KEPT_MAX);
	if (r.bad || !store_number_decode(key, &number))
		return false; /* what is left over is of a later version */
	l->fn(l->arg, number, &q);
	return true;
}

int
store_load_queues(struct store *s,
		  void (*fn)(void *arg, uint32_t queue, const struct store_queue *q), void *arg,
		  uint64_t *bad)
{
	struct load_queues l = { fn, arg };

	return store_each(s, s->queues, one_queue, &l, bad);
}

#define SEGMENT_ROW_OLD_BYTES 26 /* as it was written before there was `failed` */

struct load_segments {
	void (*fn)(void *arg, uint32_t number, const struct store_segment *seg);
	void *arg;
};

static bool
one_segment(void *arg, MDB_val key, struct slice rest)
{
	struct load_segments *l = arg;
	struct store_segment seg;
	struct wire_reader r;
	uint32_t number;

	wire_read_init(&r, rest);
	seg.epoch = wire_u64(&r);
	seg.bytes = wire_u64(&r);
	seg.committed = wire_u64(&r);
	seg.state = wire_u8(&r);
	seg.receiver = wire_u8(&r);
	seg.failed = rest.n > SEGMENT_ROW_OLD_BYTES && wire_u8(&r) != 0;
	if (r.bad || seg.state > STORE_SEGMENT_SEALED || !store_number_decode(key, &number))
		return false;
	l->fn(l->arg, number, &seg);
	return true;
}

int
store_load_segments(struct store *s,
		    void (*fn)(void *arg, uint32_t number, const struct store_segment *seg),
		    void *arg, uint64_t *bad)
{
	struct load_segments l = { fn, arg };

	return store_each(s, s->segments, one_segment, &l, bad);
}

/* Looks one value up in its own read transaction; *txn is the caller's to abort on 0. */
static int
find(struct store *s, MDB_dbi table, MDB_val key, MDB_txn **txn, struct slice *rest)
{
	MDB_val v;
	int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, txn);

	if (rc != 0)
		return store_error(rc, "begin");
	rc = mdb_get(*txn, table, &key, &v);
	if (rc == 0 && !store_value_check(key, v, rest)) {
		mdb_txn_abort(*txn);
		return -E_CRC;
	}
	if (rc != 0)
		mdb_txn_abort(*txn);
	return store_error(rc, "get");
}

int
store_load_meta(struct store *s, struct store_meta *out)
{
	MDB_val key = { sizeof STORE_META_KEY - 1, (void *)(uintptr_t)STORE_META_KEY };
	struct wire_reader r;
	struct slice rest;
	MDB_txn *txn;
	int rc = find(s, s->meta, key, &txn, &rest);

	if (rc == -E_MISSING) {
		*out = (struct store_meta){
			.next_message_id = 1, .next_epoch = 1, .next_lsn = 1, .next_lease = 1
		};
		return 0;
	}
	if (rc != 0)
		return rc;
	wire_read_init(&r, rest);
#define X(name) out->name = wire_u64(&r);
	STORE_META_FIELDS(X)
#undef X
	mdb_txn_abort(txn);
	return r.bad ? -E_FORMAT : 0;
}

int
store_load_receptions(struct store *s, struct buf *out)
{
	char text[STORE_KEY_MAX];
	int rc = 0, bad = 0;

	for (unsigned i = 0; (rc == 0 || rc == -E_CRC) && i < STORE_RECEPTIONS_ROWS_MAX; i++) {
		struct slice rest;
		MDB_txn *txn;

		rc = find(s, s->meta, store_receptions_key(text, i), &txn, &rest);
		if (rc == 0) {
			buf_put(out, rest.p, rest.n / 8 * 8);
			mdb_txn_abort(txn);
		} else if (rc == -E_CRC) {
			bad = rc;
		}
	}
	if (rc != 0 && rc != -E_MISSING && rc != -E_CRC)
		return rc;
	return bad;
}

int
store_last_reply(struct store *s, struct entry_key key, char *dst, size_t bytes)
{
	unsigned char k[STORE_KEY_BYTES];
	struct slice rest;
	MDB_txn *txn;
	int rc;

	CHECK(bytes > 0);
	store_key_encode(k, key);
	rc = find(s, s->replies, (MDB_val){ sizeof k, k }, &txn, &rest);
	if (rc != 0)
		return rc;
	str_copy(dst, bytes, rest);
	mdb_txn_abort(txn);
	return (int)(rest.n < bytes ? rest.n : bytes - 1);
}
