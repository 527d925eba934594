#include "scheduler/overrides.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits((keyptr), (keylen)))
#include <uthash.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "scheduler/control.h"

#define KEY_BYTES (OVERRIDE_OBJECT + 2)

/* All rows of one object. */
struct object {
	UT_hash_handle hh;
	char *key; /* scope, object in lower case */
	size_t n;
	struct override *rows;
};

struct overrides {
	struct override **rows;
	size_t n, cap;
	struct object *objects;     /* that are no patterns */
	struct override **patterns; /* limits, the weakest first */
	size_t n_patterns, cap_patterns;
	struct conf_over *found;
	size_t cap_found;
	size_t n_of_all;     /* sources that are disabled for all queues */
	size_t n_of_some;    /* for some */
	unsigned char *used; /* numbers of rows, a bit each */
	size_t cap_used;
};

struct overrides *
overrides_new(void)
{
	return mem_zalloc(sizeof(struct overrides));
}

static void
row_free(struct override *row)
{
	conf_override_free(&row->limit);
	mem_free(row->object);
	mem_free(row->source);
	mem_free(row->rule);
	mem_free(row);
}

void
overrides_free(struct overrides **op)
{
	struct overrides *o = *op;
	struct object *e, *next;

	if (o == NULL)
		return;
	HASH_ITER(hh, o->objects, e, next)
	{
		HASH_DEL(o->objects, e);
		mem_free(e->key);
		mem_free(e);
	}
	for (size_t i = 0; i < o->n; i++)
		row_free(o->rows[i]);
	mem_free(o->rows);
	mem_free(o->patterns);
	mem_free(o->found);
	mem_free(o->used);
	mem_free(o);
	*op = NULL;
}

size_t
overrides_count(const struct overrides *o)
{
	return o->n;
}

const struct override *
overrides_at(const struct overrides *o, size_t i)
{
	return i < o->n ? o->rows[i] : NULL;
}

/* Objects ----------------------------------------------------------------------------------------
 */
static size_t
key_of(char key[KEY_BYTES], enum conf_override_scope scope, struct slice object)
{
	CHECK(object.n <= OVERRIDE_OBJECT);
	key[0] = (char)('0' + scope);
	if (object.n > 0)
		memcpy(key + 1, object.p, object.n);
	str_lower(key + 1, object.n);
	return object.n + 1;
}

static struct object *
find_object(const struct overrides *o, enum conf_override_scope scope, struct slice object)
{
	char key[KEY_BYTES];
	struct object *e = NULL;
	size_t n;

	if (object.n > OVERRIDE_OBJECT)
		return NULL;
	n = key_of(key, scope, object);
	HASH_FIND(hh, o->objects, key, n, e);
	return e;
}

/* What says more beats what says less: the domain before the virtual MTA. */
static unsigned
strength(const struct override *row)
{
	struct slice vmta = slice_str(row->object), domain = slice_cut(&vmta, '/');
	bool d = memchr(domain.p, '*', domain.n) == NULL, v = memchr(vmta.p, '*', vmta.n) == NULL;

	return (d ? 4u : domain.n > 1 ? 2u : 0u) + (v ? 1u : 0u);
}

static int
pattern_order(const void *a, const void *b)
{
	const struct override *x = *(struct override *const *)a, *y = *(struct override *const *)b;

	if (strength(x) != strength(y))
		return strength(x) < strength(y) ? -1 : 1;
	return x->since_wall_us < y->since_wall_us ? -1 : x->since_wall_us > y->since_wall_us;
}

static void
enter(struct overrides *o, struct override *row)
{
	char key[KEY_BYTES];
	struct object *e;

	if (row->limit == NULL) {
		o->n_of_some += !overrides_all_queues(row);
		o->n_of_all += overrides_all_queues(row);
		return;
	}
	if (row->is_pattern) {
		void *p = o->patterns;

		mem_grow(&p, &o->cap_patterns, o->n_patterns + 1, sizeof *o->patterns);
		o->patterns = p;
		o->patterns[o->n_patterns++] = row;
		qsort(o->patterns, o->n_patterns, sizeof *o->patterns, pattern_order);
		return;
	}
	e = find_object(o, row->scope, slice_str(row->object));
	if (e == NULL) {
		e = mem_zalloc(sizeof *e);
		e->n = key_of(key, row->scope, slice_str(row->object));
		e->key = mem_memdup0(key, e->n);
		HASH_ADD_KEYPTR(hh, o->objects, e->key, e->n, e);
	}
	row->next = e->rows;
	e->rows = row;
}

static void
leave(struct overrides *o, struct override *row)
{
	struct override **at;
	struct object *e;
	size_t kept = 0;

	if (row->limit == NULL) {
		o->n_of_some -= !overrides_all_queues(row);
		o->n_of_all -= overrides_all_queues(row);
		return;
	}
	if (row->is_pattern) {
		for (size_t i = 0; i < o->n_patterns; i++) {
			if (o->patterns[i] != row)
				o->patterns[kept++] = o->patterns[i];
		}
		o->n_patterns = kept;
		return;
	}
	e = find_object(o, row->scope, slice_str(row->object));
	CHECK(e != NULL);
	at = &e->rows;
	while (*at != row)
		at = &(*at)->next;
	*at = row->next;
	if (e->rows != NULL)
		return;
	HASH_DEL(o->objects, e);
	mem_free(e->key);
	mem_free(e);
}

/* Rows -------------------------------------------------------------------------------------------
 */
static struct slice
row_name(const struct override *row)
{
	return slice_str(row->limit != NULL ? conf_override_name(row->limit) : row->source);
}

const struct override *
overrides_find(const struct overrides *o, enum store_act_kind kind, enum conf_override_scope scope,
	       struct slice object, struct slice name)
{
	for (size_t i = 0; i < o->n; i++) {
		const struct override *row = o->rows[i];

		if (row->kind == kind && (kind != STORE_ACT_LIMIT || row->scope == scope) &&
		    slice_eq_nocase(slice_str(row->object), object) &&
		    slice_eq(row_name(row), name))
			return row;
	}
	return NULL;
}

static void
use_number(struct overrides *o, uint32_t number)
{
	void *p = o->used;
	size_t before = o->cap_used;

	mem_grow(&p, &o->cap_used, (size_t)number / 8 + 1, 1);
	o->used = p;
	if (o->cap_used > before)
		memset(o->used + before, 0, o->cap_used - before);
	o->used[number / 8] |= (unsigned char)(1u << number % 8);
}

static uint32_t
free_number(const struct overrides *o)
{
	uint32_t n = 1;

	while (n / 8 < o->cap_used && (o->used[n / 8] >> n % 8 & 1) != 0)
		n++;
	return n;
}

static void
write_origin(struct override *row)
{
	char iso[CLOCK_ISO_BYTES];

	snprintf(row->origin, sizeof row->origin, "set by operator%s%s",
		 row->until_wall_us != 0 ? " until " : "",
		 row->until_wall_us != 0 ? clock_iso(iso, row->until_wall_us) : "");
}

/* Takes `row`; its number is 0 for a new one. */
static const struct override *
put(struct overrides *o, struct override *row)
{
	const struct override *old =
		overrides_find(o, row->kind, row->scope, slice_str(row->object), row_name(row));
	void *p = o->rows;

	if (old == NULL && o->n >= OVERRIDES_MAX) {
		row_free(row);
		return NULL;
	}
	if (row->number == 0)
		row->number = old != NULL ? old->number : free_number(o);
	if (old != NULL)
		overrides_remove(o, old);
	row->is_pattern = row->scope == CONF_OVER_QUEUE && strchr(row->object, '*') != NULL;
	write_origin(row);
	use_number(o, row->number);
	mem_grow(&p, &o->cap, o->n + 1, sizeof *o->rows);
	o->rows = p;
	o->rows[o->n++] = row;
	enter(o, row);
	return row;
}

static struct override *
row_new(enum store_act_kind kind, struct slice object, uint64_t since_wall_us,
	uint64_t until_wall_us, uint64_t until_boot_us)
{
	struct override *row = mem_zalloc(sizeof *row);

	row->kind = kind;
	row->object = mem_memdup0(object.p, object.n);
	row->since_wall_us = since_wall_us;
	row->until_wall_us = until_wall_us;
	row->until_boot_us = until_boot_us;
	return row;
}

const struct override *
overrides_put_limit(struct overrides *o, enum conf_override_scope scope, struct slice object,
		    struct conf_override *limit, uint64_t since_wall_us, uint64_t until_wall_us,
		    uint64_t until_boot_us)
{
	struct override *row =
		row_new(STORE_ACT_LIMIT, object, since_wall_us, until_wall_us, until_boot_us);

	row->scope = scope;
	row->limit = limit;
	return put(o, row);
}

static void
set_rule(struct override *row, struct slice rule)
{
	if (rule.n > OVERRIDE_RULE)
		rule = slice_sub(rule, rule.n - OVERRIDE_RULE);
	row->rule = rule.n > 0 ? mem_memdup0(rule.p, rule.n) : NULL;
}

const struct override *
overrides_put_source(struct overrides *o, struct slice queues, struct slice source,
		     struct slice rule, uint64_t since_wall_us, uint64_t until_wall_us,
		     uint64_t until_boot_us)
{
	struct override *row = row_new(STORE_ACT_SOURCE_DISABLED, queues, since_wall_us,
				       until_wall_us, until_boot_us);

	row->source = mem_memdup0(source.p, source.n);
	set_rule(row, rule);
	return put(o, row);
}

bool
overrides_restore(struct overrides *o, uint32_t number, const struct store_act *act,
		  uint64_t wall_us, uint64_t boot_us)
{
	uint64_t until = OVERRIDE_NEVER;
	struct conf_override *limit;
	struct override *row;
	struct buf why = { 0 };

	if (act->object.n == 0 || act->object.n > OVERRIDE_OBJECT || number == 0 ||
	    number > 100 * OVERRIDES_MAX)
		return false;
	if (act->until_wall_us != 0)
		until = act->until_wall_us > wall_us ? boot_us + (act->until_wall_us - wall_us)
						     : boot_us;
	row = row_new((enum store_act_kind)act->kind, act->object, act->since_wall_us,
		      act->until_wall_us, until);
	row->number = number;
	if (act->kind == STORE_ACT_SOURCE_DISABLED) {
		row->source = mem_memdup0(act->name.p, act->name.n);
		set_rule(row, act->value);
		return put(o, row) != NULL;
	}
	limit = act->kind == STORE_ACT_LIMIT && act->scope < CONF_OVER_SCOPES
			? conf_override_new((enum conf_override_scope)act->scope, act->name,
					    act->value, &why)
			: NULL;
	buf_clear(&why);
	if (limit == NULL) {
		row_free(row);
		use_number(o, number); /* of a later version, perhaps: it stays */
		return false;
	}
	row->scope = (enum conf_override_scope)act->scope;
	row->limit = limit;
	return put(o, row) != NULL;
}

void
overrides_remove(struct overrides *o, const struct override *row)
{
	for (size_t i = 0; i < o->n; i++) {
		struct override *mine = o->rows[i];

		if (mine != row)
			continue;
		leave(o, mine);
		memmove(o->rows + i, o->rows + i + 1, (o->n - i - 1) * sizeof *o->rows);
		o->n--;
		o->used[mine->number / 8] &= (unsigned char)~(1u << mine->number % 8);
		row_free(mine);
		return;
	}
}

struct store_act
overrides_act(const struct override *row)
{
	return (struct store_act){
		.kind = (uint8_t)row->kind,
		.scope = (uint8_t)row->scope,
		.since_wall_us = row->since_wall_us,
		.until_wall_us = row->until_wall_us,
		.object = slice_str(row->object),
		.name = row_name(row),
		.value = row->limit != NULL  ? slice_str(conf_override_value(row->limit))
			 : row->rule != NULL ? slice_str(row->rule)
					     : SLICE_NONE,
	};
}

const struct override *
overrides_ended(const struct overrides *o, uint64_t boot_us, uint64_t *next)
{
	const struct override *ended = NULL;

	*next = OVERRIDE_NEVER;
	for (size_t i = 0; i < o->n; i++) {
		const struct override *row = o->rows[i];

		if (row->until_boot_us <= boot_us)
			ended = row;
		if (row->until_boot_us < *next)
			*next = row->until_boot_us;
	}
	return ended;
}

/* Which hold -------------------------------------------------------------------------------------
 */
static void
add_found(struct overrides *o, size_t *n, const struct override *row)
{
	void *p = o->found;

	mem_grow(&p, &o->cap_found, *n + 1, sizeof *o->found);
	o->found = p;
	o->found[(*n)++] = (struct conf_over){ row->limit, row->origin };
}

struct conf_overs
overrides_of_queue(struct overrides *o, struct slice queue)
{
	struct object *e;
	size_t n = 0;

	if (o->n_patterns == 0 && o->objects == NULL)
		return (struct conf_overs){ NULL, 0 };
	for (size_t i = 0; i < o->n_patterns; i++) {
		if (control_matches(queue, slice_str(o->patterns[i]->object)))
			add_found(o, &n, o->patterns[i]);
	}
	e = find_object(o, CONF_OVER_QUEUE, queue);
	for (const struct override *row = e != NULL ? e->rows : NULL; row != NULL; row = row->next)
		add_found(o, &n, row);
	return (struct conf_overs){ o->found, n };
}

bool
overrides_apply(const struct overrides *o, enum conf_override_scope scope, struct slice name,
		struct conf_limits *l)
{
	struct object *e = find_object(o, scope, name);

	for (const struct override *row = e != NULL ? e->rows : NULL; row != NULL; row = row->next)
		conf_override_apply(row->limit, l);
	return e != NULL;
}

static bool
decides(const struct override *row, const char *directive, const struct conf_source_ip *ip)
{
	return strcmp(conf_override_name(row->limit), directive) == 0 &&
	       (ip == NULL || !conf_override_is_per_source(row->limit) ||
		conf_override_decides(row->limit, ip));
}

const struct override *
overrides_deciding(struct overrides *o, enum conf_override_scope scope, struct slice name,
		   const char *directive, const struct conf_source_ip *ip)
{
	struct object *e = find_object(o, scope, name);

	for (const struct override *row = e != NULL ? e->rows : NULL; row != NULL;
	     row = row->next) {
		if (decides(row, directive, ip))
			return row;
	}
	for (size_t i = scope == CONF_OVER_QUEUE ? o->n_patterns : 0; i-- > 0;) {
		if (control_matches(name, slice_str(o->patterns[i]->object)) &&
		    decides(o->patterns[i], directive, ip))
			return o->patterns[i];
	}
	return NULL;
}

/* Disabled sources -------------------------------------------------------------------------------
 */
bool
overrides_all_queues(const struct override *row)
{
	return strcmp(row->object, "*/*") == 0;
}

bool
overrides_source_disabled(const struct overrides *o, struct slice queue, struct slice source,
			  uint64_t *until_boot_us)
{
	bool disabled = false;

	*until_boot_us = 0;
	for (size_t i = 0; i < o->n; i++) {
		const struct override *row = o->rows[i];

		if (row->source == NULL || overrides_all_queues(row) ||
		    !slice_is(source, row->source) ||
		    !control_matches(queue, slice_str(row->object)))
			continue;
		disabled = true;
		if (row->until_boot_us > *until_boot_us)
			*until_boot_us = row->until_boot_us;
	}
	return disabled;
}

bool
overrides_disable_for_some(const struct overrides *o)
{
	return o->n_of_some > 0;
}

bool
overrides_disabled_for_all(const struct overrides *o, struct slice source)
{
	return o->n_of_all > 0 && overrides_find(o, STORE_ACT_SOURCE_DISABLED, CONF_OVER_QUEUE,
						 SLICE_LIT("*/*"), source) != NULL;
}
