#include <endian.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/wire.h"
#include "common/queue/store_impl.h"

/* u8 kind, u8 scope, u64 since, u64 until, object, name, value (length-prefixed). Upgrade: a new
 * field goes behind; what is left over is of a later version. */
int
store_put_act(struct store_txn *t, uint32_t number, const struct store_act *act)
{
	uint32_t k = htobe32(number);
	struct buf b;
	int rc = -E_TOO_BIG;

	if (act->object.n + act->name.n + act->value.n > STORE_ACT_TEXT_MAX)
		return rc;
	buf_init(&b);
	wire_put_u8(&b, act->kind);
	wire_put_u8(&b, act->scope);
	wire_put_u64(&b, act->since_wall_us);
	wire_put_u64(&b, act->until_wall_us);
	wire_put_bytes(&b, act->object);
	wire_put_bytes(&b, act->name);
	wire_put_bytes(&b, act->value);
	rc = store_put(t, t->store->acts, (MDB_val){ sizeof k, &k }, b.data + b.start, b.len);
	buf_clear(&b);
	return rc;
}

int
store_del_act(struct store_txn *t, uint32_t number)
{
	uint32_t k = htobe32(number);

	return store_del(t, t->store->acts, (MDB_val){ sizeof k, &k });
}

struct load_acts {
	void (*fn)(void *arg, uint32_t number, const struct store_act *act);
	void *arg;
};

static bool
one_act(void *arg, MDB_val key, struct slice rest)
{
	struct load_acts *l = arg;
	struct store_act act;
	struct wire_reader r;
	uint32_t number;

	wire_read_init(&r, rest);
	act.kind = wire_u8(&r);
	act.scope = wire_u8(&r);
	act.since_wall_us = wire_u64(&r);
	act.until_wall_us = wire_u64(&r);
	act.object = wire_bytes(&r, STORE_ACT_TEXT_MAX);
	act.name = wire_bytes(&r, STORE_ACT_TEXT_MAX);
	act.value = wire_bytes(&r, STORE_ACT_TEXT_MAX);
	if (r.bad || !store_number_decode(key, &number))
		return false;
	l->fn(l->arg, number, &act);
	return true;
}

int
store_load_acts(struct store *s,
		void (*fn)(void *arg, uint32_t number, const struct store_act *act), void *arg,
		uint64_t *bad)
{
	struct load_acts l = { fn, arg };

	*bad = 0;
	return s->acts == 0 ? 0 : store_each(s, s->acts, one_act, &l, bad);
}
