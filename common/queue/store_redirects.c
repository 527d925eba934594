#include <endian.h>

#include "common/base/buf.h"
#include "common/base/wire.h"
#include "common/queue/store_impl.h"

int
store_put_redirect(struct store_txn *t, uint32_t from, uint32_t to)
{
	uint32_t k = htobe32(from);
	MDB_val key = { sizeof k, &k };
	struct buf b;

	buf_init(&b);
	wire_put_u32(&b, to);
	store_put(t, t->store->redirects, key, b.data + b.start, b.len);
	buf_clear(&b);
	store_del(t, t->store->names, key);
	return store_del(t, t->store->queues, key);
}

int
store_del_redirect(struct store_txn *t, uint32_t from)
{
	uint32_t k = htobe32(from);

	return store_del(t, t->store->redirects, (MDB_val){ sizeof k, &k });
}

struct load_redirects {
	void (*fn)(void *arg, uint32_t from, uint32_t to);
	void *arg;
};

static bool
one_redirect(void *arg, MDB_val key, struct slice rest)
{
	struct load_redirects *l = arg;
	struct wire_reader r;
	uint32_t from, to;

	wire_read_init(&r, rest);
	to = wire_u32(&r);
	if (r.bad || !store_number_decode(key, &from))
		return false;
	l->fn(l->arg, from, to);
	return true;
}

int
store_load_redirects(struct store *s, void (*fn)(void *arg, uint32_t from, uint32_t to), void *arg,
		     uint64_t *bad)
{
	struct load_redirects l = { fn, arg };

	*bad = 0;
	return s->redirects == 0 ? 0 : store_each(s, s->redirects, one_redirect, &l, bad);
}
