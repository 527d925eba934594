#include "common/conf/conf_load.h"

#include <libconfig.h>
#include <limits.h>
#include <stdio.h>
#include <uthash.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/conf/conf_scan.h"
#include "common/conf/conf_type.h"

#define KEY_MAX 400

struct conf_known {
	UT_hash_handle hh;
	struct conf_block *block;
	size_t n;
	char key[]; /* parent, scope, key in lower case */
};

/* One file on its way. */
struct load {
	struct conf_loader *x;
	unsigned file;
	struct conf_scan scan;
	unsigned quiet; /* inside a list that is not supported yet: said once, at the list */
};

/* Marks of conf_scan hang on the settings; a mark that is not there is this one. */
static struct conf_mark unmarked;

static const struct conf_mark *
mark_of(const config_setting_t *s)
{
	return s->hook ? s->hook : &unmarked;
}

static unsigned
line_of(const config_setting_t *s)
{
	return s->line;
}

static size_t
known_key(char out[KEY_MAX], const struct conf_block *parent, enum conf_scope_id scope,
	  struct slice key)
{
	size_t n = key.n < 300 ? key.n : 300;

	memcpy(out, &parent, sizeof parent);
	out[sizeof parent] = (char)scope;
	if (n > 0)
		memcpy(out + sizeof parent + 1, key.p, n);
	str_lower(out + sizeof parent + 1, n);
	return sizeof parent + 1 + n;
}

struct conf_block *
conf_load_find(struct conf_loader *x, const struct conf_block *parent, enum conf_scope_id scope,
	       struct slice key)
{
	char text[KEY_MAX];
	size_t n = known_key(text, parent, scope, key);
	struct conf_known *k;

	HASH_FIND(hh, x->known, text, n, k);
	return k ? k->block : NULL;
}

static void
known_add(struct conf_loader *x, struct conf_block *b)
{
	char text[KEY_MAX];
	size_t n = known_key(text, b->parent, b->scope, slice_str(b->key));
	struct conf_known *k = conf_arena_zalloc(x->arena, sizeof *k + n);

	memcpy(k->key, text, n);
	k->n = n;
	k->block = b;
	HASH_ADD_KEYPTR(hh, x->known, k->key, k->n, k);
}

/* Values -------------------------------------------------------------------------------------- */
static bool
strings_of(const config_setting_t *s, struct conf_strings *out)
{
	int n = config_setting_length(s);

	out->s = mem_calloc((size_t)n, sizeof *out->s);
	out->lines = mem_calloc((size_t)n, sizeof *out->lines);
	for (int i = 0; i < n; i++) {
		const config_setting_t *e = config_setting_get_elem(s, (unsigned)i);

		if (config_setting_type(e) != CONFIG_TYPE_STRING)
			return false;
		out->s[out->n] = config_setting_get_string(e);
		out->lines[out->n++] = line_of(e);
	}
	return true;
}

/* The caller frees raw->list.s and raw->list.lines. */
static void
raw_of(const config_setting_t *s, struct conf_raw *raw)
{
	memset(raw, 0, sizeof *raw);
	switch (config_setting_type(s)) {
	case CONFIG_TYPE_BOOL:
		raw->kind = CONF_RAW_BOOL;
		raw->flag = config_setting_get_bool(s) != 0;
		break;
	case CONFIG_TYPE_INT:
		raw->kind = CONF_RAW_INT;
		raw->number = config_setting_get_int(s);
		break;
	case CONFIG_TYPE_INT64:
		raw->kind = CONF_RAW_INT;
		raw->number = config_setting_get_int64(s);
		break;
	case CONFIG_TYPE_FLOAT:
		raw->kind = CONF_RAW_FLOAT;
		break;
	case CONFIG_TYPE_STRING:
		raw->kind = CONF_RAW_STRING;
		raw->string = config_setting_get_string(s);
		break;
	case CONFIG_TYPE_ARRAY:
	case CONFIG_TYPE_LIST:
		raw->kind = strings_of(s, &raw->list) ? CONF_RAW_STRINGS : CONF_RAW_OTHER;
		break;
	default:
		raw->kind = CONF_RAW_OTHER;
	}
}

/* Remembers the first use of what is not supported yet; the warning comes once, with a count. */
static void
note_todo(struct load *l, const struct conf_block *b, const struct conf_directive *d, unsigned line)
{
	struct conf_loader *x = l->x;
	void *v = x->todo;
	char where[300];

	if (d->built || l->quiet > 0)
		return;
	for (size_t i = 0; i < x->n_todo; i++) {
		if (x->todo[i].d == d) {
			x->todo[i].more++;
			return;
		}
	}
	mem_grow(&v, &x->cap_todo, x->n_todo + 1, sizeof *x->todo);
	x->todo = v;
	conf_place_name(b, d, where, sizeof where);
	x->todo[x->n_todo++] =
		(struct conf_todo){ .d = d,
				    .where = conf_arena_str(x->arena, slice_str(where)),
				    .file = l->file,
				    .line = line };
}

static void
warn_todo(struct conf_loader *x)
{
	for (size_t i = 0; i < x->n_todo; i++) {
		const struct conf_todo *t = &x->todo[i];
		char more[60] = "";

		if (t->more > 0)
			snprintf(more, sizeof more, " (and in %u more places)", t->more);
		conf_msgs_warn(x->msgs, t->file, t->line, "%s: not supported yet%s", t->where,
			       more);
	}
}

/* Takes the value over, with a word about the one that it replaces. */
static void
set_value(struct load *l, struct conf_block *b, const struct conf_value *v)
{
	struct conf_loader *x = l->x;
	const struct conf_value *old = conf_block_value(b, v->d);
	const char *key = conf_schema_scope(b->scope)->key;
	char where[300];

	if (v->d->type == CONF_TYPE_INCLUDE) /* each file its own; followed by conf_snapshot */
		return;
	if (old != NULL && key != NULL && strcmp(key, v->d->name) == 0)
		return; /* the same block again */
	conf_place_name(b, v->d, where, sizeof where);
	if (old != NULL && b->parent == NULL) {
		conf_msgs_error(x->msgs, v->file, v->line, "%s stands already in %s:%u", where,
				x->files[old->file].name, old->line);
		return;
	}
	if (old != NULL)
		conf_msgs_warn(x->msgs, v->file, v->line,
			       "%s: \"%.100s\" replaces \"%.100s\" of %s:%u", where, v->text,
			       old->text, x->files[old->file].name, old->line);
	conf_block_set(x->arena, b, v);
}

static void load_group(struct load *l, struct conf_block *b, config_setting_t *s, unsigned open);
static void load_list(struct load *l, struct conf_block *parent, const struct conf_directive *d,
		      config_setting_t *s, unsigned open);

/* An integer under a name that had its unit in the name. */
static void
integer_of_old(struct load *l, const char *of_integer, struct conf_raw *raw)
{
	char text[40];
	long long n = raw->number;

	if (strcmp(of_integer, "%lld/h") == 0)
		snprintf(text, sizeof text, "%lld/h", n);
	else
		snprintf(text, sizeof text, "0/0 %lld", n);
	raw->kind = CONF_RAW_STRING;
	raw->string = conf_arena_str(l->x->arena, slice_str(text));
}

static void
load_value(struct load *l, struct conf_block *b, const struct conf_directive *d,
	   config_setting_t *s, const char *of_integer)
{
	struct conf_place p = { .arena = l->x->arena,
				.msgs = l->x->msgs,
				.block = b,
				.file = l->file,
				.line = line_of(s) };
	struct conf_value v;
	struct conf_raw raw;

	if (mark_of(s)->bad_int)
		return;
	raw_of(s, &raw);
	if (raw.kind == CONF_RAW_INT && of_integer != NULL)
		integer_of_old(l, of_integer, &raw);
	if (conf_type_value(&p, d, &raw, &v)) {
		note_todo(l, b, d, line_of(s));
		set_value(l, b, &v);
	}
	mem_free(raw.list.s);
	mem_free(raw.list.lines);
}

static void
unknown_name(struct load *l, struct conf_block *b, config_setting_t *s)
{
	const char *name = config_setting_name(s);
	const char *slip = conf_schema_suggest(b->scope, name, 2);
	const char *near = conf_schema_suggest(b->scope, name, UINT_MAX);
	int other = conf_schema_elsewhere(b->scope, name);
	char where[300], hint[160] = "";

	if (slip == NULL && other == CONF_SCOPE_GLOBAL)
		snprintf(hint, sizeof hint, "; it belongs outside of all blocks");
	else if (slip == NULL && other >= 0)
		snprintf(hint, sizeof hint, "; it belongs into %s blocks",
			 conf_schema_scope((enum conf_scope_id)other)->title);
	else if (near != NULL)
		snprintf(hint, sizeof hint, "; did you mean %s?", near);
	conf_place_name(b, NULL, where, sizeof where);
	if (b->parent == NULL)
		conf_msgs_error(l->x->msgs, l->file, line_of(s), "unknown directive %.100s%s", name,
				hint);
	else
		conf_msgs_error(l->x->msgs, l->file, line_of(s), "%s: unknown directive %.100s%s",
				where, name, hint);
}

static void
load_single_group(struct load *l, struct conf_block *parent, const struct conf_directive *d,
		  config_setting_t *s, unsigned open)
{
	enum conf_scope_id scope = conf_schema_scope_of(d);
	struct conf_block *b = conf_block_skip(parent->children, scope);
	char where[300];

	if (!config_setting_is_group(s)) {
		conf_msgs_error(l->x->msgs, l->file, line_of(s), "%s: write a group, { ... }",
				conf_place_name(parent, d, where, sizeof where));
		return;
	}
	if (b == NULL) {
		b = conf_block_new(l->x->arena, parent, scope);
		b->file = l->file;
		b->line = line_of(s);
		conf_block_attach(b);
	}
	load_group(l, b, s, open);
}

static void
load_member(struct load *l, struct conf_block *b, config_setting_t *s, unsigned open)
{
	const char *name = config_setting_name(s), *of_integer = NULL;
	const struct conf_directive *d = conf_schema_find(b->scope, name);
	char where[300];

	if (mark_of(s)->twice || config_setting_type(s) == CONFIG_TYPE_NONE)
		return;
	if (d == NULL) {
		d = conf_schema_find_old(b->scope, name, &of_integer);
		if (d == NULL) {
			unknown_name(l, b, s);
			return;
		}
		conf_msgs_warn(l->x->msgs, l->file, line_of(s), "%s: an old spelling of %s",
			       conf_place_name(b, NULL, where, sizeof where), d->name);
	}
	if (d->type != CONF_TYPE_LIST && d->type != CONF_TYPE_GROUP) {
		if (!(open > 0 && config_setting_is_aggregate(s)))
			load_value(l, b, d, s, of_integer);
		return;
	}
	note_todo(l, b, d, line_of(s));
	l->quiet += !d->built;
	if (d->type == CONF_TYPE_GROUP)
		load_single_group(l, b, d, s, open);
	else
		load_list(l, b, d, s, open);
	l->quiet -= !d->built;
}

/* `open`: a syntax error stands behind the last member, inside so many brackets from here on: what
 * is missing may stand there. */
static void
load_group(struct load *l, struct conf_block *b, config_setting_t *s, unsigned open)
{
	const struct conf_scope *scope = conf_schema_scope(b->scope);
	int n = config_setting_length(s);
	char where[300];

	for (int i = 0; i < n; i++)
		load_member(l, b, config_setting_get_elem(s, (unsigned)i),
			    open > 0 && i == n - 1 ? open - 1 : 0);
	for (size_t i = 0; i < scope->n_rows && open == 0; i++) {
		const struct conf_directive *d = &scope->rows[i];

		if (d->def == NULL || strcmp(d->def, CONF_REQUIRED) != 0 ||
		    config_setting_get_member(s, d->name) != NULL || conf_block_value(b, d) != NULL)
			continue;
		conf_msgs_error(l->x->msgs, l->file, line_of(s), "%s: %s is missing",
				conf_place_name(b, NULL, where, sizeof where), d->name);
	}
}

/* The block that the group `s` describes: a new one, or the one of the same key. */
static struct conf_block *
block_for(struct load *l, struct conf_block *parent, enum conf_scope_id scope, config_setting_t *s)
{
	const struct conf_scope *sc = conf_schema_scope(scope);
	struct conf_block *b = conf_block_new(l->x->arena, parent, scope), *old;
	config_setting_t *key;
	char text[KEY_MAX];

	b->file = l->file;
	b->line = line_of(s);
	if (sc->key == NULL) {
		conf_block_attach(b);
		return b;
	}
	key = config_setting_get_member(s, sc->key);
	if (key == NULL || config_setting_type(key) != CONFIG_TYPE_STRING) {
		b->dead = true;
		return b;
	}
	b->line = line_of(key);
	str_copy(text, sizeof text, slice_str(config_setting_get_string(key)));
	b->key = conf_arena_str(l->x->arena, slice_str(text));
	old = conf_load_find(l->x, parent, scope, slice_str(b->key));
	if (old == NULL) {
		conf_block_attach(b);
		known_add(l->x, b);
		return b;
	}
	if (scope == CONF_SCOPE_SMTP_LISTENER || scope == CONF_SCOPE_HTTP_LISTENER) {
		conf_msgs_error(l->x->msgs, l->file, b->line, "%s %.100s stands already in %s:%u",
				sc->title, b->key, l->x->files[old->file].name, old->line);
		b->dead = true;
		return b;
	}
	conf_msgs_warn(l->x->msgs, l->file, b->line,
		       "%s \"%.100s\" is merged with the one in %s:%u", sc->title, b->key,
		       l->x->files[old->file].name, old->line);
	return old;
}

static void
load_list(struct load *l, struct conf_block *parent, const struct conf_directive *d,
	  config_setting_t *s, unsigned open)
{
	enum conf_scope_id scope = conf_schema_scope_of(d);
	char where[300];
	int n;

	if (!config_setting_is_list(s) &&
	    !(config_setting_is_array(s) && config_setting_length(s) == 0)) {
		conf_msgs_error(l->x->msgs, l->file, line_of(s),
				"%s: write a list of groups, ( { ... }, { ... } )",
				conf_place_name(parent, d, where, sizeof where));
		return;
	}
	n = config_setting_length(s);
	for (int i = 0; i < n; i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
		unsigned e_open = open > 0 && i == n - 1 ? open - 1 : 0;

		if (config_setting_is_group(e))
			load_group(l, block_for(l, parent, scope, e), e, e_open);
		else if (config_setting_type(e) != CONFIG_TYPE_NONE)
			conf_msgs_error(l->x->msgs, l->file, line_of(e),
					"%s: each element is a group, { ... }",
					conf_place_name(parent, d, where, sizeof where));
	}
}

/* Files --------------------------------------------------------------------------------------- */
/* The library notes the line of the token behind a value: put the marks of the scan in place. */
static size_t
place_marks(struct load *l, config_setting_t *s, size_t next)
{
	int n = config_setting_is_aggregate(s) ? config_setting_length(s) : 0;

	for (int i = 0; i < n; i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned)i);

		if (next < l->scan.n_marks) {
			config_setting_set_hook(e, &l->scan.marks[next]);
			e->line = l->scan.marks[next++].line;
		}
		next = place_marks(l, e, next);
	}
	return next;
}

static void
load_file(struct conf_loader *x, unsigned file)
{
	struct load l = { .x = x, .file = file };
	config_t c;

	conf_scan(&l.scan, x->files[file].content, file, x->msgs);
	config_init(&c);
	if (!config_read_string(&c, l.scan.text) && l.scan.line == 0) {
		/* None that the scan would not have found is known. */
		l.scan.line = (unsigned)config_error_line(&c);
		conf_msgs_error(x->msgs, file, l.scan.line, "%s", config_error_text(&c));
	}
	x->files[file].broken_at = l.scan.line;
	place_marks(&l, config_root_setting(&c), 0);
	load_group(&l, x->root, config_root_setting(&c), l.scan.line > 0 ? l.scan.open + 1 : 0);
	config_destroy(&c);
	conf_scan_clear(&l.scan);
}

void
conf_load(struct conf_loader *x)
{
	x->root = conf_block_new(x->arena, NULL, CONF_SCOPE_GLOBAL);
	for (size_t i = 0; i < x->n_files; i++)
		load_file(x, (unsigned)i);
	warn_todo(x);
}

/* Whether a file with a syntax error holds the name in quotes: it may be defined there. */
static bool
may_be_defined(const struct conf_loader *x, struct slice name)
{
	char quoted[KEY_MAX];
	int n = snprintf(quoted, sizeof quoted, "\"%.*s\"", (int)(name.n < 300 ? name.n : 300),
			 name.p);

	for (size_t i = 0; i < x->n_files; i++) {
		if (x->files[i].broken_at > 0 && x->files[i].content.n > 0 &&
		    memmem(x->files[i].content.p, x->files[i].content.n, quoted, (size_t)n) != NULL)
			return true;
	}
	return false;
}

static void
join_keys(struct buf *out, const struct conf_block *root, enum conf_scope_id scope)
{
	CONF_EACH(b, root, scope)
	{
		if (out->len > 65536)
			return; /* enough to choose from */
		buf_printf(out, "%s%s", out->len > 0 ? "|" : "", b->key);
	}
}

void
conf_load_undefined(struct conf_loader *x, unsigned file, unsigned line, struct slice name,
		    enum conf_scope_id scope, enum conf_scope_id other)
{
	const struct conf_scope *a = conf_schema_scope(scope), *b = conf_schema_scope(other);
	struct buf keys = { 0 };
	char near[130], hint[160] = "";

	if (may_be_defined(x, name))
		return;
	join_keys(&keys, x->root, scope);
	if (other != scope)
		join_keys(&keys, x->root, other);
	buf_putc(&keys, '\0');
	if (conf_schema_suggest_word(buf_slice(&keys).p, name, near, sizeof near))
		snprintf(hint, sizeof hint, "; did you mean \"%s\"?", near);
	conf_msgs_error(x->msgs, file, line, "there is no %s%s%s \"%.*s\" in %s%s%s%s", a->title,
			other != scope ? " or " : "", other != scope ? b->title : "",
			(int)(name.n < 100 ? name.n : 100), name.p, a->list,
			other != scope ? " or " : "", other != scope ? b->list : "", hint);
	buf_clear(&keys);
}

void
conf_load_clear(struct conf_loader *x)
{
	HASH_CLEAR(hh, x->known);
	mem_free(x->todo);
	x->todo = NULL;
}
