/* conf_show: the values of a queue and where each came from. */
#include "common/base/mem.h"
#include "common/conf/conf_domain.h"
#include "common/conf/conf_names.h"

struct show {
	const struct conf_directive *rows;
	const struct conf_value **value; /* of each row: the one that wins so far */
	const struct conf_block **block;
};

static void
note_values(void *arg, const struct conf_block *block)
{
	struct show *s = arg;

	for (const struct conf_value *v = block->values; v != NULL; v = v->next) {
		s->value[v->d - s->rows] = v;
		s->block[v->d - s->rows] = block;
	}
}

static void
show_row(const struct conf *c, const struct conf_directive *d, const struct conf_value *v,
	 const struct conf_block *b, struct json *j)
{
	json_object_begin(j);
	json_key_str(j, "name", d->name);
	json_key_str(j, "value", v ? v->text : d->def);
	json_key_str(j, "file", v ? c->files[v->file] : NULL);
	json_key(j, "line");
	if (v != NULL)
		json_u64(j, v->line);
	else
		json_null(j);
	json_key_str(j, "scope",
		     v == NULL ? "default"
			       : conf_schema_scope(b == NULL ? CONF_SCOPE_GLOBAL : b->parent->scope)
					 ->title);
	json_key_str(j, "scopeName",
		     b != NULL && b->parent->parent != NULL ? b->parent->key : NULL);
	json_key_str(j, "domain", b != NULL ? b->key : NULL);
	json_key_bool(j, "supported", d->built);
	json_object_end(j);
}

void
conf_show_settings(const struct conf *c, struct slice domain, struct slice vmta, struct json *j)
{
	const struct conf_scope *scope = conf_schema_scope(CONF_SCOPE_DOMAIN);
	const struct conf_value *global =
		conf_block_value(c->root, c->rows.global_allow_destinations);
	struct show s = { .rows = scope->rows };
	int v = conf_vmta_find(c, vmta);

	s.value = mem_calloc(scope->n_rows, sizeof *s.value);
	s.block = mem_calloc(scope->n_rows, sizeof *s.block);
	conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, note_values, &s);
	json_array_begin(j);
	for (size_t i = 0; i < scope->n_rows; i++) {
		const struct conf_directive *d = &scope->rows[i];
		const struct conf_value *value = s.value[i];

		if (strcmp(d->name, scope->key) == 0 || (!d->built && value == NULL))
			continue;
		if (value == NULL && d == c->rows.allow_destinations)
			value = global;
		show_row(c, d, value, s.block[i], j);
	}
	json_array_end(j);
	mem_free(s.value);
	mem_free(s.block);
}

/* One of them
 * ---------------------------------------------------------------------------------------- */

struct search {
	const struct conf_directive *d;
	const struct conf_value *value; /* the one that wins so far */
};

static void
note_value(void *arg, const struct conf_block *block)
{
	struct search *s = arg;
	const struct conf_value *v = conf_block_value(block, s->d);

	if (v != NULL)
		s->value = v;
}

bool
conf_setting_find(const struct conf *c, struct slice domain, struct slice vmta, const char *name,
		  struct conf_setting *out)
{
	int v = conf_vmta_find(c, vmta);
	struct search s = { .d = conf_schema_find(CONF_SCOPE_DOMAIN, name) };

	if (s.d != NULL) {
		conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, note_value, &s);
	} else {
		s.d = conf_schema_find(CONF_SCOPE_GLOBAL, name);
		if (s.d == NULL)
			return false;
		s.value = conf_block_value(c->root, s.d);
	}
	out->value = s.value != NULL ? s.value->text : s.d->def;
	out->file = s.value != NULL ? c->files[s.value->file] : NULL;
	out->line = s.value != NULL ? s.value->line : 0;
	return true;
}
