#include <endian.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/queue/store_impl.h"

int
store_put(struct store_txn *t, MDB_dbi table, MDB_val key, const void *rest, size_t n)
{
	unsigned char bytes[STORE_VALUE_MAX];
	MDB_val value = { n + 4, bytes };
	uint32_t crc = htole32(store_value_crc(key, rest, n));

	CHECK(n + 4 <= sizeof bytes);
	if (t->failed != 0)
		return t->failed;
	memcpy(bytes, &crc, 4);
	if (n > 0)
		memcpy(bytes + 4, rest, n);
	t->failed = store_error(mdb_put(t->txn, table, &key, &value, 0), "put");
	return t->failed;
}

int
store_begin(struct store *s, struct store_txn **out)
{
	struct store_txn *t;
	MDB_txn *txn;
	int rc;

	if (s->failed != 0)
		return s->failed;
	rc = mdb_txn_begin(s->env, NULL, 0, &txn);
	if (rc != 0)
		return store_error(rc, "begin");
	t = mem_zalloc(sizeof *t);
	t->store = s;
	t->txn = txn;
	*out = t;
	return 0;
}

int
store_put_row(struct store_txn *t, struct entry_key key, const struct store_row *row)
{
	unsigned char k[STORE_KEY_BYTES], v[STORE_ROW_BYTES + STORE_DONE_MAX];

	store_key_encode(k, key);
	return store_put(t, t->store->rows, (MDB_val){ sizeof k, k }, v, store_row_encode(v, row));
}

int
store_get_row(struct store_txn *t, struct entry_key key, struct store_row *row)
{
	unsigned char k[STORE_KEY_BYTES];
	MDB_val kv = { sizeof k, k }, v;
	struct slice rest;
	int rc;

	if (t->failed != 0)
		return t->failed;
	store_key_encode(k, key);
	rc = store_error(mdb_get(t->txn, t->store->rows, &kv, &v), "get");
	if (rc != 0)
		return rc;
	return store_value_check(kv, v, &rest) && store_row_decode(rest, row) ? 0 : -E_CRC;
}

int
store_del(struct store_txn *t, MDB_dbi table, MDB_val key)
{
	int rc;

	if (t->failed != 0)
		return t->failed;
	rc = mdb_del(t->txn, table, &key, NULL);
	if (rc != MDB_NOTFOUND)
		t->failed = store_error(rc, "delete");
	return t->failed;
}

int
store_del_row(struct store_txn *t, struct entry_key key)
{
	unsigned char k[STORE_KEY_BYTES];

	store_key_encode(k, key);
	store_del(t, t->store->rows, (MDB_val){ sizeof k, k });
	return store_del(t, t->store->replies, (MDB_val){ sizeof k, k });
}

static struct slice
at_most(struct slice s, size_t max)
{
	return slice_of(s.p, s.n < max ? s.n : max);
}

int
store_put_reply(struct store_txn *t, struct entry_key key, struct slice reply)
{
	unsigned char k[STORE_KEY_BYTES];
	MDB_val kv = { sizeof k, k }, v;
	struct slice rest;

	store_key_encode(k, key);
	reply = at_most(reply, REPLY_KEPT_MAX);
	/* Mostly it is the same as last time: then its page is not written again. */
	if (t->failed == 0 && mdb_get(t->txn, t->store->replies, &kv, &v) == 0 &&
	    store_value_check(kv, v, &rest) && slice_eq(rest, reply))
		return 0;
	return store_put(t, t->store->replies, (MDB_val){ sizeof k, k }, reply.p, reply.n);
}

static int
put_numbered(struct store_txn *t, MDB_dbi table, uint32_t number, struct slice rest)
{
	uint32_t k = htobe32(number);

	return store_put(t, table, (MDB_val){ sizeof k, &k }, rest.p, rest.n);
}

int
store_put_name(struct store_txn *t, uint32_t number, struct slice name)
{
	CHECK(name.n <= NAME_BYTES_MAX);
	return put_numbered(t, t->store->names, number, name);
}

int
store_del_name(struct store_txn *t, uint32_t number)
{
	uint32_t k = htobe32(number);

	return store_del(t, t->store->names, (MDB_val){ sizeof k, &k });
}

int
store_put_queue(struct store_txn *t, uint32_t queue, const struct store_queue *q)
{
	struct buf b;
	int rc;

	buf_init(&b);
	wire_put_u8(&b, q->paused);
	wire_put_u8(&b, q->retry_level);
	wire_put_u32(&b, q->retry_at_s);
	wire_put_bytes(&b, at_most(q->reason, REPLY_KEPT_MAX));
	rc = put_numbered(t, t->store->queues, queue, buf_slice(&b));
	buf_clear(&b);
	return rc;
}

int
store_put_segment(struct store_txn *t, uint32_t number, const struct store_segment *seg)
{
	struct buf b;
	int rc;

	buf_init(&b);
	wire_put_u64(&b, seg->epoch);
	wire_put_u64(&b, seg->bytes);
	wire_put_u64(&b, seg->committed);
	wire_put_u8(&b, seg->state);
	wire_put_u8(&b, seg->receiver);
	wire_put_u8(&b, seg->failed);
	rc = put_numbered(t, t->store->segments, number, buf_slice(&b));
	buf_clear(&b);
	return rc;
}

int
store_put_receptions(struct store_txn *t, struct slice ids)
{
	char text[STORE_KEY_MAX];
	unsigned i = 0;
	int rc = t->failed;

	for (; ids.n > 0 && rc == 0; i++) {
		size_t n = ids.n < STORE_RECEPTIONS_ROW_BYTES ? ids.n : STORE_RECEPTIONS_ROW_BYTES;

		rc = store_put(t, t->store->meta, store_receptions_key(text, i), ids.p, n);
		ids = slice_sub(ids, n);
	}
	/* What the last list had more. */
	for (; rc == 0; i++) {
		MDB_val key = store_receptions_key(text, i);

		rc = mdb_del(t->txn, t->store->meta, &key, NULL);
		if (rc == MDB_NOTFOUND)
			return 0;
		rc = t->failed = store_error(rc, "delete");
	}
	return rc;
}

int
store_put_meta(struct store_txn *t, const struct store_meta *m)
{
	MDB_val key = { sizeof STORE_META_KEY - 1, (void *)(uintptr_t)STORE_META_KEY };
	struct buf b;
	int rc;

	buf_init(&b);
#define X(name) wire_put_u64(&b, m->name);
	STORE_META_FIELDS(X)
#undef X
	rc = store_put(t, t->store->meta, key, b.data, b.len);
	buf_clear(&b);
	return rc;
}

int
store_commit(struct store_txn **t)
{
	struct store *s = (*t)->store;
	int rc = (*t)->failed;

	if (rc != 0) {
		store_abort(t);
		return rc;
	}
	rc = store_error(mdb_txn_commit((*t)->txn), "commit");
	if (rc != 0)
		s->failed = rc; /* what is on disk now is unknown */
	mem_free(*t);
	*t = NULL;
	return rc;
}

void
store_abort(struct store_txn **t)
{
	if (*t == NULL)
		return;
	mdb_txn_abort((*t)->txn);
	mem_free(*t);
	*t = NULL;
}

int
store_write_again(struct store *s)
{
	MDB_stat st;
	char *metas;
	size_t n;
	int fd, rc = mdb_env_get_fd(s->env, &fd);

	if (rc == 0)
		rc = mdb_env_stat(s->env, &st);
	if (rc != 0)
		return store_error(rc, "meta pages");
	/* Its other pages were synced before its meta page was written. */
	n = 2 * (size_t)st.ms_psize;
	metas = mem_alloc(n);
	rc = pread(fd, metas, n, 0) == (ssize_t)n ? 0 : -E_IO;
	if (rc == 0)
		rc = file_write(fd, metas, n, 0);
	if (rc == 0 && fdatasync(fd) != 0)
		rc = -err_errno();
	mem_free(metas);
	return rc;
}
