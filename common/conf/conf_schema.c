#include "common/conf/conf_schema.h"

#include <stdlib.h>

#include "common/base/check.h"
#include "common/conf/conf.h"
#include "common/conf/conf_schema_domain.h"
#include "common/conf/conf_schema_global.h"
#include "common/conf/conf_schema_lists.h"

#define NAME_MAX_BYTES 64 /* longest word that is compared for likeness */

// clang-format off
#define ROW(name_, type_, arg_, def_, example_, help_, built_, restart_, ...)                       \
	{ .name = name_, .type = CONF_TYPE_##type_, .arg = arg_, .def = def_, .example = example_, \
	  .help = help_, .built = built_, .restart = restart_, __VA_ARGS__ },
#define FIELD(s, f) .offset = offsetof(struct s, f), .size = sizeof(((struct s *)0)->f)
#define C(name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, false, .offset = CONF_UNBOUND)
#define N(name, type, arg, def, help)          ROW(name, type, arg, def, NULL, help, false, false, .offset = CONF_UNBOUND)

#define B(f, name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, false, FIELD(conf_global, f))
#define R(f, name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, true, FIELD(conf_global, f))
static const struct conf_directive rows_GLOBAL[] = { CONF_GLOBAL_TABLE(B, R, C, N) };
#undef B
#define B(f, name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, false, FIELD(conf_queue, f))
static const struct conf_directive rows_DOMAIN[] = { CONF_DOMAIN_TABLE(B, C, N) };
#undef B
#define B(f, name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, false, FIELD(conf_client, f))
static const struct conf_directive rows_SOURCE[] = { CONF_SOURCE_TABLE(B, C, N) };
#undef B
#define B(f, name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, false, FIELD(conf_acct_file, f))
static const struct conf_directive rows_ACCT[] = { CONF_ACCT_TABLE(B, C, N) };

/* The other scopes bind limits, or nothing. */
#undef B
#define B(f, name, type, arg, def, example, help) ROW(name, type, arg, def, example, help, true, false, FIELD(conf_limits, f))
#define TABLES(X) \
	X(SMTP_LISTENER) X(HTTP_LISTENER) X(VMTA) X(POOL) X(SOURCE_HOST) X(MACRO) X(PROVIDER) X(JOB) \
	X(SENDER) X(REPLY_LIST) X(RULE) X(SPOOL) X(SMTP_USER) X(SOURCE_GROUP) X(EMAIL_PATTERNS) \
	X(ADDRESSES) X(PATTERN_LIST) X(ROLLUP) X(DNS) X(REWRITE) X(KEYS) X(PROXY) X(VAULT) \
	X(TRANSMISSIONS) X(SIGNALS)
#define X(id) static const struct conf_directive rows_##id[] = { CONF_##id##_TABLE(B, C, N) };
TABLES(X)
#undef X
static const struct conf_directive rows_BOUNCE[] = { CONF_BOUNCE_TABLE(B, C, N) };
static const struct conf_directive rows_FEEDBACK[] = { CONF_BOUNCE_TABLE(B, C, N) };
static const struct conf_directive rows_TRANSMISSIONS_LISTENER[] = { CONF_HTTP_LISTENER_TABLE(B, C, N) };

static const struct conf_scope scopes[CONF_SCOPES] = {
#define X(id, title_, list_, key_) \
	[CONF_SCOPE_##id] = { title_, list_, key_, rows_##id, sizeof rows_##id / sizeof *rows_##id },
	CONF_SCOPE_TABLE(X)
#undef X
};

static const struct { const char *title, *hint; } types[CONF_TYPES] = {
#define X(id, title_, hint_) [CONF_TYPE_##id] = { title_, hint_ },
	CONF_TYPE_TABLE(X)
#undef X
};

/* Spellings of older versions: {scope, old, new, what an integer meant}. */
static const struct {
	enum conf_scope_id scope;
	const char *old, *now, *of_integer;
} old_names[] = {
	{ CONF_SCOPE_DOMAIN, "backoff-reroute-to-vmta", "backoff-reroute-to-virtual-mta", NULL },
	{ CONF_SCOPE_DOMAIN, "backoff-max-msg-per-hour", "backoff-max-msg-rate", "%lld/h" },
	{ CONF_SCOPE_DOMAIN, "backoff-maxmsg-per-hour", "backoff-max-msg-rate", "%lld/h" },
	{ CONF_SCOPE_DOMAIN, "max-msg-per-hour", "max-msg-rate", "%lld/h" },
	{ CONF_SCOPE_DOMAIN, "max-smtp-out-per-source-ip", "source-ip-max-smtp-out", "0/0 %lld" },
	{ CONF_SCOPE_DOMAIN, "route", "smtp-hosts", NULL },
	{ CONF_SCOPE_DOMAIN, "delivery-priority", "queue-priority", NULL },
	{ CONF_SCOPE_DOMAIN, "max-rcpt-per-message", "max-rcpt-per-transaction", NULL },
	{ CONF_SCOPE_POOL, "virtual-mta", "virtual-mtas", NULL },
};
// clang-format on

const struct conf_scope *
conf_schema_scope(enum conf_scope_id id)
{
	CHECK(id < CONF_SCOPES);
	return &scopes[id];
}

enum conf_scope_id
conf_schema_scope_of(const struct conf_directive *list)
{
	for (int i = 0; i < CONF_SCOPES; i++) {
		if (strcmp(scopes[i].title, list->arg) == 0)
			return (enum conf_scope_id)i;
	}
	CHECK(!"a list names a scope that is none");
	return CONF_SCOPES;
}

const char *
conf_schema_type_title(enum conf_type t)
{
	return types[t].title;
}

const char *
conf_schema_type_hint(enum conf_type t)
{
	return types[t].hint;
}

/* Rows by name, sorted on first use; the tables never change after that. */
static const struct conf_directive **sorted[CONF_SCOPES];

static int
row_order(const void *a, const void *b)
{
	return strcmp((*(const struct conf_directive *const *)a)->name,
		      (*(const struct conf_directive *const *)b)->name);
}

__attribute__((constructor)) static void
sort_rows(void)
{
	static const struct conf_directive *all[1024];
	size_t n = 0;

	for (int i = 0; i < CONF_SCOPES; i++) {
		CHECK(n + scopes[i].n_rows <= sizeof all / sizeof *all);
		sorted[i] = all + n;
		for (size_t k = 0; k < scopes[i].n_rows; k++)
			all[n++] = &scopes[i].rows[k];
		qsort(sorted[i], scopes[i].n_rows, sizeof *sorted[i], row_order);
	}
}

const struct conf_directive *
conf_schema_find(enum conf_scope_id id, const char *name)
{
	const struct conf_directive key = { .name = name }, *pkey = &key;
	const struct conf_directive **hit =
		bsearch(&pkey, sorted[id], scopes[id].n_rows, sizeof *sorted[id], row_order);

	return hit ? *hit : NULL;
}

const struct conf_directive *
conf_schema_find_old(enum conf_scope_id id, const char *name, const char **of_integer)
{
	for (size_t i = 0; i < sizeof old_names / sizeof *old_names; i++) {
		if (old_names[i].scope != id || strcmp(old_names[i].old, name) != 0)
			continue;
		*of_integer = old_names[i].of_integer;
		return conf_schema_find(id, old_names[i].now);
	}
	return NULL;
}

static unsigned
least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b; a large number
 * when either is longer than a name is. */
static unsigned
distance(struct slice a, struct slice b)
{
	unsigned row[3][NAME_MAX_BYTES + 1];

	if (a.n > NAME_MAX_BYTES || b.n > NAME_MAX_BYTES)
		return NAME_MAX_BYTES;
	for (size_t j = 0; j <= b.n; j++)
		row[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a.n; i++) {
		unsigned *now = row[i % 3], *up = row[(i + 2) % 3], *upup = row[(i + 1) % 3];

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b.n; j++) {
			unsigned change = a.p[i - 1] != b.p[j - 1];

			now[j] = least(least(up[j], now[j - 1]) + 1, up[j - 1] + change);
			if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1])
				now[j] = least(now[j], upup[j - 2] + 1);
		}
	}
	return row[a.n % 3][b.n];
}

/* How far apart a word and its likely meaning may be. */
static unsigned
near_enough(size_t n)
{
	return n < 4 ? 1 : n < 8 ? 2 : (unsigned)(n / 4 + 1);
}

const char *
conf_schema_suggest(enum conf_scope_id id, const char *name, unsigned most)
{
	struct slice word = slice_str(name);
	unsigned best = least(near_enough(word.n), most) + 1;
	const char *hit = NULL;

	for (size_t i = 0; i < scopes[id].n_rows; i++) {
		unsigned d = distance(word, slice_str(scopes[id].rows[i].name));

		if (d < best) {
			best = d;
			hit = scopes[id].rows[i].name;
		}
	}
	return hit;
}

int
conf_schema_elsewhere(enum conf_scope_id id, const char *name)
{
	for (int i = 0; i < CONF_SCOPES; i++) {
		if (i != (int)id && conf_schema_find((enum conf_scope_id)i, name) != NULL)
			return i;
	}
	return -1;
}

bool
conf_schema_suggest_word(const char *choices, struct slice word, char *out, size_t bytes)
{
	unsigned best = near_enough(word.n) + 1;
	struct slice rest = slice_str(choices);

	while (rest.p != NULL) {
		struct slice one = slice_cut(&rest, '|');
		unsigned d = distance(word, one);

		if (d < best) {
			best = d;
			str_copy(out, bytes, one);
		}
	}
	return best <= near_enough(word.n);
}
