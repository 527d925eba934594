/* conf_show: the values of a queue and where each came from. */
#include "common/base/mem.h"
#include "common/conf/conf_domain.h"
#include "common/conf/conf_names.h"
#include "common/conf/conf_override.h"
#include "common/conf/conf_value.h"

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
	 const struct conf_block *b, const char *def, struct json *j)
{
	json_object_begin(j);
	json_key_str(j, "name", d->name);
	json_key_str(j, "value", v ? v->text : def);
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
	json_key_str(j, "origin", NULL);
	json_object_end(j);
}

/* What back-off makes of a directive that nobody gave, as it would be written; NULL: d is no such.
 */
static const char *
twin_text(const struct conf_directive *d, const struct conf_queue *q, struct buf *b)
{
	buf_reset(b);
	if (strcmp(d->name, "backoff-max-msg-rate") == 0)
		conf_value_put_rate(b, &q->backoff.max_msg_rate);
	else if (strcmp(d->name, "backoff-max-connect-rate") == 0)
		conf_value_put_rate(b, &q->backoff.max_connect_rate);
	else if (strcmp(d->name, "backoff-max-data-volume-rate") == 0)
		conf_value_put_volume(b, &q->backoff.max_data_volume_rate);
	else if (strcmp(d->name, "backoff-max-smtp-out") == 0)
		buf_printf(b, "%llu", (unsigned long long)q->backoff.max_smtp_out);
	else if (strcmp(d->name, "backoff-retry-after") == 0)
		conf_value_put_intervals(b, &q->backoff_retry_after);
	else
		return NULL;
	buf_putc(b, '\0');
	return buf_slice(b).p;
}

struct show_each {
	const struct conf *c;
	const struct conf_directive *d;
	struct json *j;
};

static void
show_one(void *arg, const struct conf_block *block)
{
	struct show_each *s = arg;
	const struct conf_value *v = conf_block_value(block, s->d);

	if (v != NULL)
		show_row(s->c, s->d, v, block, NULL, s->j);
}

static bool
is_per_cidr(const struct conf_directive *d)
{
	return d->type == CONF_TYPE_CIDR_COUNT || d->type == CONF_TYPE_CIDR_RATE ||
	       d->type == CONF_TYPE_CIDR_VOLUME;
}

/* What an operator set: shown before what the file says of it, which it hides. */
static void
show_override(const struct conf_over *over, struct json *j)
{
	json_object_begin(j);
	json_key_str(j, "name", conf_override_name(over->override));
	json_key_str(j, "value", conf_override_value(over->override));
	json_key_str(j, "file", NULL);
	json_key_str(j, "line", NULL);
	json_key_str(j, "scope", "operator");
	json_key_str(j, "scopeName", NULL);
	json_key_str(j, "domain", NULL);
	json_key_bool(j, "supported", true);
	json_key_str(j, "origin", over->origin);
	json_object_end(j);
}

/* True: the file's value is hidden. */
static bool
show_overrides(struct conf_overs over, const struct conf_directive *d, struct json *j)
{
	bool hidden = false;

	/* The strongest first; one per CIDR lets the weaker ones, and the file's, hold for other
	 * addresses. */
	for (size_t i = over.n; i-- > 0 && !hidden;) {
		if (conf_override_directive(over.v[i].override) != d)
			continue;
		show_override(&over.v[i], j);
		hidden = !is_per_cidr(d);
	}
	return hidden;
}

void
conf_show_settings(const struct conf *c, struct slice domain, struct slice vmta, struct json *j)
{
	conf_show_settings_over(c, domain, vmta, (struct conf_overs){ NULL, 0 }, j);
}

void
conf_show_settings_over(const struct conf *c, struct slice domain, struct slice vmta,
			struct conf_overs over, struct json *j)
{
	const struct conf_scope *scope = conf_schema_scope(CONF_SCOPE_DOMAIN);
	const struct conf_value *global =
		conf_block_value(c->root, c->rows.global_allow_destinations);
	struct show s = { .rows = scope->rows };
	struct show_each each = { .c = c, .j = j };
	struct conf_queue q;
	struct buf text = { 0 };
	int v = conf_vmta_find(c, vmta);

	conf_queue_over(c, domain, vmta, over, &q);
	s.value = mem_calloc(scope->n_rows, sizeof *s.value);
	s.block = mem_calloc(scope->n_rows, sizeof *s.block);
	conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, note_values, &s);
	json_array_begin(j);
	for (size_t i = 0; i < scope->n_rows; i++) {
		const struct conf_directive *d = &scope->rows[i];
		const struct conf_value *value = s.value[i];
		const char *def;

		if (strcmp(d->name, scope->key) == 0 || (!d->built && value == NULL))
			continue;
		if (show_overrides(over, d, j))
			continue;
		if (value == NULL && d == c->rows.allow_destinations)
			value = global;
		each.d = d;
		if (is_per_cidr(d) &&
		    value != NULL) { /* each address may take its value from another block */
			conf_domain_all(c, v < 0 ? 0 : (unsigned)v, domain, show_one, &each);
			continue;
		}
		def = value == NULL ? twin_text(d, &q, &text) : NULL;
		show_row(c, d, value, s.block[i], def != NULL ? def : d->def, j);
	}
	json_array_end(j);
	buf_clear(&text);
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
	/* A rate that back-off takes over stands where the normal one does. */
	if (s.value == NULL && s.d->def == NULL && strncmp(name, "backoff-max-", 12) == 0 &&
	    strcmp(name, "backoff-max-smtp-out") != 0)
		return conf_setting_find(c, domain, vmta, name + strlen("backoff-"), out);
	out->value = s.value != NULL ? s.value->text : s.d->def;
	out->file = s.value != NULL ? c->files[s.value->file] : NULL;
	out->line = s.value != NULL ? s.value->line : 0;
	return true;
}
