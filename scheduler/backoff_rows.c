#include "scheduler/backoff_rows.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits((keyptr), (keylen)))
#include <uthash.h>

#include "common/base/mem.h"
#include "common/base/wire.h"
#include "scheduler/core/timers.h"

#define NAME_MAX_BYTES 520
#define TEXT_MAX       600
#define KEY_MAX        (NAME_MAX_BYTES + 16)
#define SWEEP_A_CALL   64

enum blob_kind { BLOB_ROW = 1, BLOB_COUNT }; /* 3: notify_event.h */

struct row_node {
	struct backoff_row row;
	UT_hash_handle hh;
	uint32_t at, heap_pos; /* in the list, and among those that end */
	char key[];
};
struct count_node {
	struct backoff_count count;
	UT_hash_handle hh;
	size_t at; /* in the list */
	char key[];
};

struct backoff_rows {
	struct row_node *by_name;
	struct row_node **rows;
	size_t n_rows, cap_rows;
	size_t on[CONF_RULE_SCOPES];
	struct timers ends; /* by until_boot_us */
	struct count_node *by_rule;
	struct count_node **counts;
	size_t n_counts, cap_counts, cursor;
	uint32_t last_number;
};

/* Names ---------------------------------------------------------------------------------------- */
static size_t
put_key(char key[KEY_MAX], uint64_t rule_key, enum conf_rule_scope scope, struct slice name)
{
	size_t n = name.n < NAME_MAX_BYTES ? name.n : NAME_MAX_BYTES;

	memcpy(key, &rule_key, sizeof rule_key);
	key[sizeof rule_key] = (char)scope;
	if (n > 0)
		memcpy(key + sizeof rule_key + 1, name.p, n);
	str_lower(key + sizeof rule_key + 1, n);
	return sizeof rule_key + 1 + n;
}

static char *
text(struct slice s)
{
	return mem_memdup0(s.n > 0 ? s.p : "", s.n < TEXT_MAX ? s.n : TEXT_MAX);
}

static void
set_text(char **at, struct slice s)
{
	char *new = text(s);

	mem_free(*at);
	*at = new;
}

/* The table ------------------------------------------------------------------------------------ */
static uint32_t *
heap_pos(void *arg, uint32_t at)
{
	struct backoff_rows *r = arg;

	return &r->rows[at]->heap_pos;
}

static struct row_node *
node_of(struct backoff_row *row)
{
	return (struct row_node *)row; /* its first member */
}

static void
set_end(struct backoff_rows *r, struct backoff_row *row, uint64_t boot_us)
{
	row->until_boot_us = boot_us;
	timers_set(&r->ends, node_of(row)->at, boot_us);
}

struct backoff_rows *
backoff_rows_new(void)
{
	struct backoff_rows *r = mem_zalloc(sizeof *r);

	r->ends.pos = heap_pos;
	r->ends.arg = r;
	return r;
}

/* But for its name. */
static void
free_texts(struct backoff_row *row)
{
	for (unsigned i = 0; i < row->n_changes; i++)
		mem_free(row->changes[i].reason);
	mem_free(row->reason);
	mem_free(row->rule);
	mem_free(row->source_ip);
	mem_free(row->reroute);
}

static void
row_free(struct row_node *e)
{
	free_texts(&e->row);
	mem_free(e->row.name);
	mem_free(e);
}

static void
count_free(struct count_node *e)
{
	mem_free(e->count.name);
	mem_free(e);
}

void
backoff_rows_free(struct backoff_rows **rp)
{
	struct backoff_rows *r = *rp;

	if (r == NULL)
		return;
	HASH_CLEAR(hh, r->by_name);
	HASH_CLEAR(hh, r->by_rule);
	for (size_t i = 0; i < r->n_rows; i++)
		row_free(r->rows[i]);
	for (size_t i = 0; i < r->n_counts; i++)
		count_free(r->counts[i]);
	timers_clear(&r->ends);
	mem_free(r->rows);
	mem_free(r->counts);
	mem_free(r);
	*rp = NULL;
}

struct backoff_row *
backoff_rows_find(const struct backoff_rows *r, enum conf_rule_scope scope, struct slice name)
{
	char key[KEY_MAX];
	size_t n = put_key(key, 0, scope, name);
	struct row_node *e = NULL;

	HASH_FIND(hh, r->by_name, key, n, e);
	return e != NULL ? &e->row : NULL;
}

struct backoff_row *
backoff_rows_make(struct backoff_rows *r, enum conf_rule_scope scope, struct slice name)
{
	struct backoff_row *row = backoff_rows_find(r, scope, name);
	char key[KEY_MAX];
	size_t n = put_key(key, 0, scope, name);
	struct row_node *e;
	void *p = r->rows;

	if (row != NULL)
		return row;
	e = mem_zalloc(sizeof *e + n);
	memcpy(e->key, key, n);
	row = &e->row;
	row->number = ++r->last_number;
	row->scope = scope;
	row->until_boot_us = BACKOFF_NEVER;
	row->name = text(name);
	row->reason = text(SLICE_NONE);
	row->rule = text(SLICE_NONE);
	row->source_ip = text(SLICE_NONE);
	row->reroute = text(SLICE_NONE);
	HASH_ADD_KEYPTR(hh, r->by_name, e->key, n, e);
	mem_grow(&p, &r->cap_rows, r->n_rows + 1, sizeof(struct row_node *));
	r->rows = p;
	e->at = (uint32_t)r->n_rows;
	e->heap_pos = UINT32_MAX;
	r->rows[r->n_rows++] = e;
	return row;
}

size_t
backoff_rows_count(const struct backoff_rows *r)
{
	return r->n_rows;
}

struct backoff_row *
backoff_rows_at(const struct backoff_rows *r, size_t i)
{
	return i < r->n_rows ? &r->rows[i]->row : NULL;
}

size_t
backoff_rows_on(const struct backoff_rows *r, enum conf_rule_scope scope)
{
	return r->on[scope];
}

/* The mode ------------------------------------------------------------------------------------- */
static void
add_change(struct backoff_row *row, bool to_backoff, struct slice reason, uint64_t wall_us)
{
	if (row->n_changes == BACKOFF_CHANGES) {
		mem_free(row->changes[0].reason);
		memmove(row->changes, row->changes + 1,
			(BACKOFF_CHANGES - 1) * sizeof row->changes[0]);
		row->n_changes--;
	}
	row->changes[row->n_changes++] =
		(struct backoff_change){ wall_us, to_backoff, text(reason) };
}

bool
backoff_row_enter(struct backoff_rows *r, struct backoff_row *row, const struct backoff_why *why,
		  uint64_t wall_us, uint64_t boot_us)
{
	bool was_on = row->on;

	row->until_wall_us = why->for_us == BACKOFF_NEVER ? 0 : wall_us + why->for_us;
	set_end(r, row, why->for_us == BACKOFF_NEVER ? BACKOFF_NEVER : boot_us + why->for_us);
	/* What brought it about stays told; a further match only moves the end. */
	if (was_on)
		return false;
	row->rule_key = why->rule_key;
	set_text(&row->reason, why->reason);
	set_text(&row->rule, why->rule);
	set_text(&row->source_ip, why->source_ip);
	set_text(&row->reroute, why->reroute);
	row->on = true;
	row->recovering = false;
	row->before_mps = row->rate_mps = 0;
	row->since_wall_us = wall_us;
	r->on[row->scope]++;
	add_change(row, true, why->reason, wall_us);
	return true;
}

bool
backoff_row_leave(struct backoff_rows *r, struct backoff_row *row, struct slice reason,
		  uint64_t wall_us)
{
	if (!row->on)
		return false;
	row->on = false;
	row->since_wall_us = wall_us;
	row->until_wall_us = 0;
	set_end(r, row, BACKOFF_NEVER);
	r->on[row->scope]--;
	add_change(row, false, reason, wall_us);
	return true;
}

void
backoff_row_note(struct backoff_row *row, struct slice reason, uint64_t wall_us)
{
	add_change(row, false, reason, wall_us);
}

static bool
is_exempt(const struct backoff_row *queue_row, const struct backoff_row *scope_row)
{
	for (unsigned i = 0; queue_row != NULL && i < queue_row->n_exempt; i++) {
		if (queue_row->exempt[i].number == scope_row->number &&
		    queue_row->exempt[i].since_wall_us == scope_row->since_wall_us)
			return true;
	}
	return false;
}

bool
backoff_row_holds(const struct backoff_row *scope_row, const struct backoff_row *queue_row)
{
	return scope_row->on && !is_exempt(queue_row, scope_row);
}

bool
backoff_row_exempt(struct backoff_row *queue_row, const struct backoff_row *scope_row)
{
	unsigned i;

	if (!scope_row->on || is_exempt(queue_row, scope_row))
		return false;
	/* The same scope's last time is over; and the oldest of another makes room. */
	for (i = 0; i < queue_row->n_exempt && queue_row->exempt[i].number != scope_row->number;
	     i++)
		;
	if (i == BACKOFF_EXEMPT_MAX) {
		i--;
		memmove(queue_row->exempt, queue_row->exempt + 1, i * sizeof queue_row->exempt[0]);
	}
	queue_row->exempt[i] =
		(struct backoff_exempt){ scope_row->number, scope_row->since_wall_us };
	if (i == queue_row->n_exempt)
		queue_row->n_exempt++;
	return true;
}

bool
backoff_row_is_past(const struct backoff_rows *r, const struct backoff_row *row, uint64_t wall_us)
{
	bool holds_off = false; /* a wider scope, which would hold again */
	uint64_t last = 0;

	for (unsigned i = 0; i < CONF_RULE_SCOPES && row->n_exempt > 0; i++)
		holds_off |= i != CONF_RULE_QUEUE && r->on[i] > 0;
	if (row->on || row->recovering || holds_off || row->n_changes + row->n_exempt == 0)
		return false;
	/* Without a change of its own it was taken out of a source IP's. */
	if (row->n_changes > 0)
		last = row->changes[row->n_changes - 1].wall_us;
	for (unsigned i = 0; i < row->n_exempt && row->n_changes == 0; i++)
		last = row->exempt[i].since_wall_us > last ? row->exempt[i].since_wall_us : last;
	return wall_us > last && wall_us - last > BACKOFF_KEPT_US;
}

void
backoff_rows_forget(struct backoff_rows *r, struct backoff_row *row)
{
	struct row_node *e = node_of(row), *last = r->rows[r->n_rows - 1];

	set_end(r, row, BACKOFF_NEVER);
	timers_set(&r->ends, last->at, BACKOFF_NEVER); /* it stands there by its place in the list */
	last->at = e->at;
	r->rows[last->at] = last;
	r->n_rows--;
	if (last != e)
		set_end(r, &last->row, last->row.until_boot_us);
	r->on[row->scope] -= row->on;
	HASH_DELETE(hh, r->by_name, e);
	row_free(e);
}

uint32_t
backoff_rows_number(struct backoff_rows *r)
{
	return ++r->last_number;
}

void
backoff_rows_has_number(struct backoff_rows *r, uint32_t number)
{
	if (number > r->last_number)
		r->last_number = number;
}

struct backoff_row *
backoff_rows_ended(const struct backoff_rows *r, uint64_t boot_us, uint64_t *next)
{
	*next = timers_next(&r->ends);
	return *next <= boot_us ? &r->rows[r->ends.heap[0].queue]->row : NULL;
}

/* Counts --------------------------------------------------------------------------------------- */
static struct count_node *
find_count(const struct backoff_rows *r, const char *key, size_t n)
{
	struct count_node *e = NULL;

	HASH_FIND(hh, r->by_rule, key, n, e);
	return e;
}

struct backoff_count *
backoff_counts_get(struct backoff_rows *r, uint64_t rule_key, enum conf_rule_scope scope,
		   struct slice name)
{
	char key[KEY_MAX];
	size_t n = put_key(key, rule_key, scope, name);
	struct count_node *e = find_count(r, key, n);
	void *p = r->counts;

	if (e != NULL)
		return &e->count;
	e = mem_zalloc(sizeof *e + n);
	memcpy(e->key, key, n);
	e->count.number = ++r->last_number;
	e->count.rule_key = rule_key;
	e->count.scope = scope;
	e->count.name = text(name);
	HASH_ADD_KEYPTR(hh, r->by_rule, e->key, n, e);
	mem_grow(&p, &r->cap_counts, r->n_counts + 1, sizeof(struct count_node *));
	r->counts = p;
	e->at = r->n_counts;
	r->counts[r->n_counts++] = e;
	return &e->count;
}

/* What lies outside the window, or (the clock was set back) in the future. */
static void
forget_old(struct backoff_count *c, uint64_t wall_us)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < c->n; i++) {
		if (c->stamps[i].wall_us <= wall_us &&
		    wall_us - c->stamps[i].wall_us < c->window_us)
			c->stamps[kept++] = c->stamps[i];
	}
	c->n = kept;
}

uint64_t
backoff_count_now(const struct backoff_count *c, uint64_t wall_us)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < c->n; i++) {
		if (c->stamps[i].wall_us <= wall_us &&
		    wall_us - c->stamps[i].wall_us < c->window_us)
			n += c->stamps[i].matches;
	}
	return n;
}

bool
backoff_count_add(struct backoff_count *c, const struct conf_rate *after, uint64_t wall_us)
{
	/* A large threshold: matches close together share a stamp, the first one's, so they are
	 * never counted too long. */
	uint64_t grain =
		after->n > BACKOFF_STAMPS ? after->window_us / (BACKOFF_STAMPS - 1) + 1 : 0;

	c->window_us = after->window_us;
	forget_old(c, wall_us);
	if (c->n > 0 && grain > 0 && wall_us - c->stamps[c->n - 1].wall_us < grain) {
		c->stamps[c->n - 1].matches++;
	} else {
		if (c->n == BACKOFF_STAMPS)
			memmove(c->stamps, c->stamps + 1, --c->n * sizeof c->stamps[0]);
		c->stamps[c->n++] = (struct backoff_stamp){ wall_us, 1 };
	}
	if (backoff_count_now(c, wall_us) < after->n)
		return false;
	c->n = 0;
	return true;
}

uint32_t
backoff_counts_sweep(struct backoff_rows *r, uint64_t wall_us)
{
	for (unsigned i = 0; i < SWEEP_A_CALL && r->n_counts > 0; i++) {
		struct count_node *e;
		uint32_t number;

		if (r->cursor >= r->n_counts)
			r->cursor = 0;
		e = r->counts[r->cursor++];
		if (backoff_count_now(&e->count, wall_us) > 0)
			continue;
		number = e->count.number;
		r->counts[e->at] = r->counts[--r->n_counts];
		r->counts[e->at]->at = e->at;
		HASH_DEL(r->by_rule, e);
		count_free(e);
		return number;
	}
	return 0;
}

/* As stored ------------------------------------------------------------------------------------ */
/* u8 kind, u8 scope, name, then of a row: u8 on, u64 since, u64 until, u64 rule key, reason, rule,
 * source IP, reroute; u8 n, n of {u64 when, u8 to back-off, reason}; u8 n, n of {u32 number, u64
 * since}; u8 recovering, u64 before, u64 rate. Of a count: u64 rule key, u64 window; u8 n, n of {u64
 * when, u32 matches}. Times are of the wall clock. Upgrade: a new field goes behind; what is left over
 * is of a later version. */
void
backoff_row_encode(struct buf *out, const struct backoff_row *row)
{
	wire_put_u8(out, BLOB_ROW);
	wire_put_u8(out, (uint8_t)row->scope);
	wire_put_bytes(out, slice_str(row->name));
	wire_put_u8(out, row->on);
	wire_put_u64(out, row->since_wall_us);
	wire_put_u64(out, row->until_wall_us);
	wire_put_u64(out, row->rule_key);
	wire_put_bytes(out, slice_str(row->reason));
	wire_put_bytes(out, slice_str(row->rule));
	wire_put_bytes(out, slice_str(row->source_ip));
	wire_put_bytes(out, slice_str(row->reroute));
	wire_put_u8(out, (uint8_t)row->n_changes);
	for (unsigned i = 0; i < row->n_changes; i++) {
		wire_put_u64(out, row->changes[i].wall_us);
		wire_put_u8(out, row->changes[i].to_backoff);
		wire_put_bytes(out, slice_str(row->changes[i].reason));
	}
	wire_put_u8(out, (uint8_t)row->n_exempt);
	for (unsigned i = 0; i < row->n_exempt; i++) {
		wire_put_u32(out, row->exempt[i].number);
		wire_put_u64(out, row->exempt[i].since_wall_us);
	}
	wire_put_u8(out, row->recovering);
	wire_put_u64(out, row->before_mps);
	wire_put_u64(out, row->rate_mps);
}

void
backoff_count_encode(struct buf *out, const struct backoff_count *c)
{
	wire_put_u8(out, BLOB_COUNT);
	wire_put_u8(out, (uint8_t)c->scope);
	wire_put_bytes(out, slice_str(c->name));
	wire_put_u64(out, c->rule_key);
	wire_put_u64(out, c->window_us);
	wire_put_u8(out, (uint8_t)c->n);
	for (unsigned i = 0; i < c->n; i++) {
		wire_put_u64(out, c->stamps[i].wall_us);
		wire_put_u32(out, c->stamps[i].matches);
	}
}

static void
read_row(struct wire_reader *w, struct backoff_row *row)
{
	row->on = wire_u8(w) != 0;
	row->since_wall_us = wire_u64(w);
	row->until_wall_us = wire_u64(w);
	row->rule_key = wire_u64(w);
	row->reason = text(wire_bytes(w, TEXT_MAX));
	row->rule = text(wire_bytes(w, TEXT_MAX));
	row->source_ip = text(wire_bytes(w, TEXT_MAX));
	row->reroute = text(wire_bytes(w, TEXT_MAX));
	row->n_changes = wire_u8(w);
	if (row->n_changes > BACKOFF_CHANGES) {
		w->bad = true;
		row->n_changes = 0;
	}
	for (unsigned i = 0; i < row->n_changes; i++) {
		row->changes[i].wall_us = wire_u64(w);
		row->changes[i].to_backoff = wire_u8(w) != 0;
		row->changes[i].reason = text(wire_bytes(w, TEXT_MAX));
	}
	row->n_exempt = wire_u8(w);
	if (row->n_exempt > BACKOFF_EXEMPT_MAX) {
		w->bad = true;
		row->n_exempt = 0;
	}
	for (unsigned i = 0; i < row->n_exempt; i++) {
		row->exempt[i].number = wire_u32(w);
		row->exempt[i].since_wall_us = wire_u64(w);
	}
	row->recovering = wire_u8(w) != 0;
	row->before_mps = wire_u64(w);
	row->rate_mps = wire_u64(w);
}

static bool
restore_row(struct backoff_rows *r, uint32_t number, enum conf_rule_scope scope, struct slice name,
	    struct wire_reader *w, uint64_t wall_us, uint64_t boot_us)
{
	struct backoff_row in = { .number = number, .scope = scope }, *row;

	read_row(w, &in);
	if (w->bad || backoff_rows_find(r, scope, name) != NULL) {
		free_texts(&in);
		return false;
	}
	in.recovering = in.recovering && !in.on;
	row = backoff_rows_make(r, scope, name);
	free_texts(row);
	in.name = row->name;
	in.until_boot_us = row->until_boot_us;
	*row = in;
	r->on[scope] += row->on;
	if (row->on && row->until_wall_us != 0)
		set_end(r, row,
			boot_us + (row->until_wall_us > wall_us ? row->until_wall_us - wall_us
								: 0));
	return true;
}

static bool
restore_count(struct backoff_rows *r, uint32_t number, enum conf_rule_scope scope,
	      struct slice name, struct wire_reader *w)
{
	struct backoff_count in = { .rule_key = wire_u64(w), .scope = scope }, *c;

	in.window_us = wire_u64(w);
	in.n = wire_u8(w);
	if (w->bad || in.n > BACKOFF_STAMPS)
		return false;
	for (unsigned i = 0; i < in.n; i++) {
		in.stamps[i].wall_us = wire_u64(w);
		in.stamps[i].matches = wire_u32(w);
	}
	if (w->bad)
		return false;
	c = backoff_counts_get(r, in.rule_key, scope, name);
	in.name = c->name;
	*c = in;
	c->number = number;
	return true;
}

bool
backoff_rows_restore(struct backoff_rows *r, uint32_t number, struct slice blob, uint64_t wall_us,
		     uint64_t boot_us)
{
	uint32_t last = r->last_number > number ? r->last_number : number;
	struct wire_reader w;
	unsigned kind, scope;
	struct slice name;
	bool good;

	wire_read_init(&w, blob);
	kind = wire_u8(&w);
	scope = wire_u8(&w);
	name = wire_bytes(&w, NAME_MAX_BYTES);
	good = !w.bad && name.n > 0 && scope < CONF_RULE_SCOPES;
	if (good && kind == BLOB_ROW)
		good = restore_row(r, number, (enum conf_rule_scope)scope, name, &w, wall_us,
				   boot_us);
	else
		good = good && kind == BLOB_COUNT &&
		       restore_count(r, number, (enum conf_rule_scope)scope, name, &w);
	r->last_number = last; /* its number is taken, understood or not */
	return good;
}
