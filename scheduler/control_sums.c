/* control_sums: queues summed up by domain or virtual MTA. */
#include "common/base/mem.h"
#include "scheduler/control.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits((keyptr), (keylen)))
#include <uthash.h>

struct sum {
	UT_hash_handle hh;
	struct slice name;
	uint64_t rcpts, kbytes, connections, queues;
};
struct summing {
	struct request *r;
	bool by_vmta;
	uint32_t cursor;
	uint64_t most;
	struct sum *sums;
};

static void
sum_queue(void *arg, uint32_t queue)
{
	struct summing *x = arg;
	struct core_now now = scheduler_now(x->r->s);
	struct core_queue_view v;
	struct slice vmta, name;
	struct sum *e = NULL;

	if (!core_queue_view(x->r->s->core, &now, queue, &v))
		return;
	vmta = v.name;
	name = slice_cut(&vmta, '/');
	if (x->by_vmta)
		name = vmta;
	HASH_FIND(hh, x->sums, name.p, name.n, e);
	if (e == NULL) {
		e = mem_zalloc(sizeof *e);
		e->name = name;
		HASH_ADD_KEYPTR(hh, x->sums, e->name.p, e->name.n, e);
	}
	e->rcpts += v.rcpts;
	e->kbytes += v.kbytes;
	e->connections += v.connections;
	e->queues++;
}

static int
sum_order(const struct sum *a, const struct sum *b)
{
	if (a->rcpts != b->rcpts)
		return a->rcpts > b->rcpts ? -1 : 1;
	return slice_cmp(a->name, b->name);
}

static bool
sum_some(struct request *r)
{
	struct summing *x = r->state;
	struct slice pattern = control_word(r, 0);
	struct sum *e, *next;

	if (core_each_queue(r->s->core, &x->cursor, CONTROL_LOOK_A_TURN, sum_queue, x))
		return false;
	HASH_SORT(x->sums, sum_order);
	json_key(&r->json, x->by_vmta ? "vmta" : "domain");
	json_array_begin(&r->json);
	HASH_ITER(hh, x->sums, e, next)
	{
		if (x->most > 0 && (pattern.n == 0 || control_matches(e->name, pattern))) {
			json_object_begin(&r->json);
			json_key_string(&r->json, "name", e->name);
			json_key_u64(&r->json, x->by_vmta ? "domains" : "queues", e->queues);
			json_key_u64(&r->json, "rcp", e->rcpts);
			json_key_u64(&r->json, "kb", e->kbytes);
			json_key_u64(&r->json, "conn", e->connections);
			json_object_end(&r->json);
			x->most--;
		}
		HASH_DEL(x->sums, e);
		mem_free(e);
	}
	json_array_end(&r->json);
	mem_free(x);
	return true;
}

static bool
show_sums(struct request *r, bool by_vmta)
{
	struct slice items = control_option(r, "maxitems");
	struct summing *x;
	uint64_t most = 20;

	if (items.n > 0 && !slice_u64(items, UINT32_MAX, &most)) {
		control_fail(r, 2, "--maxitems takes a whole number");
		return true;
	}
	x = mem_zalloc(sizeof *x);
	*x = (struct summing){ .r = r, .by_vmta = by_vmta, .most = most };
	r->state = x;
	return sum_some(r) || control_go_on(r, sum_some);
}

bool
control_show_domains(struct request *r)
{
	return show_sums(r, false);
}

bool
control_show_vmtas(struct request *r)
{
	return show_sums(r, true);
}
