#include "scheduler/names.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/check.h"
#include "common/base/mem.h"

/* Below this many numbers nothing is made smaller. */
#define SHRINK_LEAST 4096

struct name {
	uint32_t bytes;
	char text[];
};

struct slot {
	struct name *name; /* NULL: free, or reserved for a name that is damaged */
	uint32_t hash;     /* of the name; FREE: next free one */
	uint32_t refs : 29;
	uint32_t kept : 1;   /* for good */
	uint32_t listed : 1; /* in the list of those to be looked at */
	uint32_t is_free : 1;
};

struct names {
	struct slot *slots; /* by number; 0 is unused */
	size_t cap;
	uint32_t highest;
	uint32_t free; /* first, 0 none */
	/* Open addressing: numbers by the hash of their names, 0 empty. */
	uint32_t *cells;
	size_t n_cells; /* a power of two */
	size_t n_named;
	uint32_t *idle; /* perhaps unused */
	size_t n_idle, cap_idle;
	bool loaded;
};

struct names *
names_new(void)
{
	return mem_zalloc(sizeof(struct names));
}

void
names_free(struct names **np)
{
	struct names *n = *np;

	if (n == NULL)
		return;
	for (uint32_t i = 1; i <= n->highest; i++)
		mem_free(n->slots[i].name);
	mem_free(n->slots);
	mem_free(n->cells);
	mem_free(n->idle);
	mem_free(n);
	*np = NULL;
}

/* The table by name ---------------------------------------------------------------------------- */
static uint32_t
hash_of(struct slice text)
{
	return (uint32_t)XXH3_64bits(text.p, text.n);
}

/* The cell that holds it, or the empty one where it would go. */
static size_t
find(const struct names *n, struct slice text, uint32_t hash)
{
	size_t i = hash & (n->n_cells - 1);

	for (; n->cells[i] != 0; i = (i + 1) & (n->n_cells - 1)) {
		const struct slot *s = &n->slots[n->cells[i]];

		if (s->hash == hash && slice_eq(slice_of(s->name->text, s->name->bytes), text))
			break;
	}
	return i;
}

static void
resize(struct names *n, size_t cells)
{
	mem_free(n->cells);
	n->n_cells = cells;
	n->cells = mem_calloc(cells, sizeof *n->cells);
	for (uint32_t number = 1; number <= n->highest; number++) {
		size_t i = n->slots[number].hash & (cells - 1);

		if (n->slots[number].name == NULL)
			continue;
		while (n->cells[i] != 0)
			i = (i + 1) & (cells - 1);
		n->cells[i] = number;
	}
}

static void
take_out(struct names *n, uint32_t number)
{
	size_t hole = n->slots[number].hash & (n->n_cells - 1);

	while (n->cells[hole] != number)
		hole = (hole + 1) & (n->n_cells - 1);
	/* Close the hole: move back what could not stand at its home because of it. */
	for (size_t i = (hole + 1) & (n->n_cells - 1); n->cells[i] != 0; i = (i + 1) & (n->n_cells - 1)) {
		size_t home = n->slots[n->cells[i]].hash & (n->n_cells - 1);

		if (((i - home) & (n->n_cells - 1)) >= ((i - hole) & (n->n_cells - 1))) {
			n->cells[hole] = n->cells[i];
			hole = i;
		}
	}
	n->cells[hole] = 0;
}

/* Numbers -------------------------------------------------------------------------------------- */
void
names_reserve(struct names *n, uint32_t number)
{
	void *p = n->slots;
	size_t before = n->cap;

	if (number > n->highest) {
		mem_grow(&p, &n->cap, (size_t)number + 1, sizeof *n->slots);
		n->slots = p;
		if (n->cap > before)
			memset(n->slots + before, 0, (n->cap - before) * sizeof *n->slots);
		for (uint32_t i = n->highest + 1; i <= number; i++)
			n->slots[i].is_free = 1; /* but given only when all is loaded */
		n->highest = number;
	}
	n->slots[number].is_free = 0;
}

void
names_restore(struct names *n, uint32_t number, struct slice text)
{
	uint32_t hash = hash_of(text);
	struct slot *s;
	size_t i;

	if (number == 0)
		return;
	if ((n->n_named + 1) * 3 > n->n_cells * 2)
		resize(n, n->n_cells ? n->n_cells * 2 : 64);
	i = find(n, text, hash);
	if (n->cells[i] != 0 || (number <= n->highest && n->slots[number].name != NULL))
		return;
	names_reserve(n, number);
	s = &n->slots[number];
	s->name = mem_alloc(sizeof *s->name + text.n + 1);
	s->name->bytes = (uint32_t)text.n;
	memcpy(s->name->text, text.p, text.n);
	s->name->text[text.n] = '\0';
	s->hash = hash;
	n->cells[i] = number;
	n->n_named++;
}

static void
list_free(struct names *n)
{
	n->free = 0;
	for (uint32_t i = n->highest; i > 0; i--) {
		if (!n->slots[i].is_free)
			continue;
		n->slots[i].hash = n->free;
		n->free = i;
	}
}

static void
list_idle(struct names *n, uint32_t number)
{
	void *p = n->idle;

	if (!n->loaded || n->slots[number].listed || n->slots[number].name == NULL)
		return;
	n->slots[number].listed = 1;
	mem_grow(&p, &n->cap_idle, n->n_idle + 1, sizeof *n->idle);
	n->idle = p;
	n->idle[n->n_idle++] = number;
}

void
names_loaded(struct names *n)
{
	n->loaded = true;
	list_free(n);
	for (uint32_t i = 1; i <= n->highest; i++) {
		if (n->slots[i].refs == 0 && !n->slots[i].kept)
			list_idle(n, i);
	}
}

static uint32_t
take_number(struct names *n)
{
	uint32_t number = n->free;

	if (number == 0)
		return n->highest + 1;
	n->free = n->slots[number].hash;
	return number;
}

size_t
names_count(const struct names *n)
{
	return n->n_named;
}

uint32_t
names_number(struct names *n, struct slice text, bool *is_new)
{
	uint32_t number = names_find(n, text);

	*is_new = false;
	if (text.n == 0 || number != 0)
		return number;
	*is_new = true;
	number = take_number(n);
	names_restore(n, number, text);
	list_idle(n, number); /* unless somebody holds it by then */
	return number;
}

uint32_t
names_find(const struct names *n, struct slice text)
{
	return text.n > 0 && n->n_cells > 0 ? n->cells[find(n, text, hash_of(text))] : 0;
}

struct slice
names_get(const struct names *n, uint32_t number)
{
	if (number == 0 || number > n->highest || n->slots[number].name == NULL)
		return SLICE_NONE;
	return slice_of(n->slots[number].name->text, n->slots[number].name->bytes);
}

/* Forgetting ----------------------------------------------------------------------------------- */
void
names_hold(struct names *n, uint32_t number, int delta)
{
	struct slot *s;

	if (number == 0)
		return;
	names_reserve(n, number);
	s = &n->slots[number];
	CHECK(delta >= 0 || s->refs >= (uint32_t)-delta);
	s->refs = (uint32_t)((int64_t)s->refs + delta) & 0x1fffffff;
	if (s->refs == 0 && !s->kept)
		list_idle(n, number);
}

void
names_keep(struct names *n, uint32_t number)
{
	names_reserve(n, number);
	n->slots[number].kept = 1;
}

bool
names_is_held(const struct names *n, uint32_t number)
{
	return number <= n->highest && n->slots[number].refs > 0;
}

void
names_unname(struct names *n, uint32_t number)
{
	struct slot *s = &n->slots[number];

	CHECK(number > 0 && number <= n->highest && s->name != NULL);
	take_out(n, number);
	n->n_named--;
	mem_free(s->name);
	s->name = NULL;
	s->kept = 1;
}

/* When most numbers are free, the memory of those at the end goes back. */
static void
shrink(struct names *n)
{
	uint32_t last = n->highest;

	if (n->n_cells > SHRINK_LEAST && n->n_named * 8 < n->n_cells)
		resize(n, n->n_cells / 4);
	if (n->n_idle == 0 && n->cap_idle > SHRINK_LEAST) {
		mem_free(n->idle);
		n->idle = NULL;
		n->cap_idle = 0;
	}
	if (n->cap <= SHRINK_LEAST || n->n_named * 8 > n->cap)
		return;
	while (last > 0 && n->slots[last].is_free)
		last--;
	if ((size_t)last * 4 > n->cap)
		return;
	n->highest = last;
	n->cap = (size_t)last * 2 + 16;
	n->slots = mem_realloc(n->slots, n->cap * sizeof *n->slots);
	memset(n->slots + last + 1, 0, (n->cap - last - 1) * sizeof *n->slots);
	list_free(n);
}

bool
names_sweep(struct names *n, unsigned most, void (*fn)(void *arg, uint32_t number), void *arg)
{
	bool any = n->n_idle > 0;

	while (n->n_idle > 0 && most-- > 0) {
		uint32_t number = n->idle[--n->n_idle];
		struct slot *s = &n->slots[number];

		s->listed = 0;
		if (s->refs > 0 || s->kept || s->name == NULL)
			continue;
		take_out(n, number);
		n->n_named--;
		mem_free(s->name);
		s->name = NULL;
		s->is_free = 1;
		s->hash = n->free;
		n->free = number;
		fn(arg, number);
	}
	if (any && n->n_idle == 0)
		shrink(n);
	return n->n_idle > 0;
}
