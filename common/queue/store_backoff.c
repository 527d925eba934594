#include <endian.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/wire.h"
#include "common/queue/store_impl.h"

/* A blob may be longer than a value: key u32 number, u8 part (big endian, so parts come in order);
 * each value is u8 how many parts, then its bytes. All parts are of one transaction. Upgrade: what
 * is in the blob is the scheduler's (scheduler/backoff_rows.h). */
#define PART_BYTES 1000
#define PARTS_MAX  ((STORE_BACKOFF_MAX + PART_BYTES - 1) / PART_BYTES)
#define PART_KEY   5

_Static_assert(PART_BYTES + 1 + 4 <= STORE_VALUE_MAX, "a part fits into a value");

static MDB_val
part_key(unsigned char dst[PART_KEY], uint32_t number, unsigned part)
{
	uint32_t k = htobe32(number);

	memcpy(dst, &k, sizeof k);
	dst[4] = (unsigned char)part;
	return (MDB_val){ PART_KEY, dst };
}

/* Those from `part` on, which an earlier, longer blob has left. */
static int
del_parts(struct store_txn *t, uint32_t number, unsigned part)
{
	unsigned char k[PART_KEY];

	for (; part < PARTS_MAX && t->failed == 0; part++) {
		MDB_val key = part_key(k, number, part);
		int rc = mdb_del(t->txn, t->store->backoff, &key, NULL);

		if (rc == MDB_NOTFOUND)
			break;
		t->failed = store_error(rc, "del");
	}
	return t->failed;
}

int
store_put_backoff(struct store_txn *t, uint32_t number, struct slice blob)
{
	unsigned n = blob.n == 0 ? 1 : (unsigned)((blob.n + PART_BYTES - 1) / PART_BYTES);
	unsigned char k[PART_KEY], v[PART_BYTES + 1];

	if (blob.n > STORE_BACKOFF_MAX)
		return -E_TOO_BIG;
	for (unsigned i = 0; i < n; i++) {
		size_t at = (size_t)i * PART_BYTES;
		size_t bytes = blob.n - at < PART_BYTES ? blob.n - at : PART_BYTES;

		v[0] = (unsigned char)n;
		if (bytes > 0)
			memcpy(v + 1, blob.p + at, bytes);
		store_put(t, t->store->backoff, part_key(k, number, i), v, bytes + 1);
	}
	return del_parts(t, number, n);
}

int
store_del_backoff(struct store_txn *t, uint32_t number)
{
	return del_parts(t, number, 0);
}

struct load_backoff {
	void (*fn)(void *arg, uint32_t number, struct slice blob);
	void *arg;
	struct buf blob;
	uint32_t number; /* that is being put together */
	unsigned parts, of;
	uint64_t unfinished;
};

static bool
one_part(void *arg, MDB_val key, struct slice rest)
{
	struct load_backoff *l = arg;
	const unsigned char *k = key.mv_data;
	uint32_t number;
	unsigned part;

	if (key.mv_size != PART_KEY || rest.n < 1)
		return false;
	memcpy(&number, k, sizeof number);
	number = be32toh(number);
	part = k[4];
	if (part == 0) {
		l->unfinished += l->parts != l->of;
		buf_reset(&l->blob);
		l->number = number;
		l->parts = 0;
		l->of = (unsigned char)rest.p[0];
	} else if (number != l->number || part != l->parts || (unsigned char)rest.p[0] != l->of) {
		return false;
	}
	buf_put_slice(&l->blob, slice_sub(rest, 1));
	if (++l->parts == l->of)
		l->fn(l->arg, number, buf_slice(&l->blob));
	return true;
}

int
store_load_backoff(struct store *s, void (*fn)(void *arg, uint32_t number, struct slice blob),
		   void *arg, uint64_t *bad)
{
	struct load_backoff l = { .fn = fn, .arg = arg };
	int rc;

	*bad = 0;
	if (s->backoff == 0)
		return 0;
	rc = store_each(s, s->backoff, one_part, &l, bad);
	/* Parts that are missing are parts that were counted, or the last ones of all. */
	if (*bad == 0)
		*bad = l.unfinished + (l.parts != l.of);
	buf_clear(&l.blob);
	return rc;
}
