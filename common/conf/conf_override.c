#include "common/conf/conf_override.h"

#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/conf/conf_impl.h"
#include "common/conf/conf_type.h"

#define CHUNK_BYTES 1024
#define PARTS_MAX   64
#define VALUE_MAX   800 /* bytes */
#define DIGITS_MOST 18

struct conf_override {
	struct conf_arena arena;
	struct conf_value value;
	const struct conf_per *per; /* NULL: one value for all */
};

static const struct {
	const char *name;
	enum conf_scope_id scope;
} scopes[CONF_OVER_SCOPES] = {
	[CONF_OVER_QUEUE] = { "queue", CONF_SCOPE_DOMAIN },
	[CONF_OVER_SOURCE_IP] = { "source-ip", CONF_SCOPE_SOURCE_HOST },
	[CONF_OVER_VMTA] = { "virtual-mta", CONF_SCOPE_VMTA },
	[CONF_OVER_PROVIDER] = { "provider", CONF_SCOPE_PROVIDER },
	[CONF_OVER_JOB] = { "job", CONF_SCOPE_JOB },
	[CONF_OVER_SENDER] = { "sender", CONF_SCOPE_SENDER },
};

const char *
conf_override_scope_name(enum conf_override_scope scope)
{
	return scopes[scope].name;
}

static bool
ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && strcmp(s + n - m, end) == 0;
}

/* What is counted, of all that is configured: the rates and max-smtp-out, and their forms. */
static bool
is_limit(const struct conf_directive *d)
{
	return d->built && strstr(d->name, "max-") != NULL &&
	       (ends_with(d->name, "-rate") || ends_with(d->name, "max-smtp-out"));
}

static void
tell_limits(struct buf *why, enum conf_override_scope scope, struct slice name)
{
	const struct conf_scope *s = conf_schema_scope(scopes[scope].scope);
	const char *between = "";

	buf_printf(why, "%.*s is no limit of a %s; there are ", (int)(name.n < 100 ? name.n : 100),
		   name.p, scopes[scope].name);
	for (size_t i = 0; i < s->n_rows; i++) {
		/* Each with its twins would be a page. */
		if (!is_limit(&s->rows[i]) || strncmp(s->rows[i].name, "backoff-", 8) == 0)
			continue;
		buf_printf(why, "%s%s", between, s->rows[i].name);
		between = ", ";
	}
	if (scope == CONF_OVER_QUEUE)
		buf_puts(why, " and each with backoff- before it");
}

static const struct conf_directive *
find_limit(enum conf_override_scope scope, struct slice name)
{
	char text[80];
	const struct conf_directive *d;

	if (name.n == 0 || name.n >= sizeof text || memchr(name.p, '\0', name.n) != NULL)
		return NULL;
	str_copy(text, sizeof text, name);
	d = conf_schema_find(scopes[scope].scope, text);
	return d != NULL && is_limit(d) ? d : NULL;
}

static bool
is_per_cidr(const struct conf_directive *d)
{
	return d->type == CONF_TYPE_CIDR_COUNT || d->type == CONF_TYPE_CIDR_RATE ||
	       d->type == CONF_TYPE_CIDR_VOLUME;
}

static bool
is_integer(struct slice s)
{
	if (s.n > 1 && s.p[0] == '-')
		s = slice_sub(s, 1);
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
	}
	return s.n > 0 && s.n <= DIGITS_MOST;
}

static bool
read_value(struct conf_override *o, const struct conf_directive *d, struct slice text,
	   struct conf_msgs *msgs)
{
	struct conf_block nowhere = { .scope = CONF_SCOPE_GLOBAL };
	struct conf_place p = { .arena = &o->arena, .msgs = msgs, .block = &nowhere };
	struct conf_raw raw = { .kind = CONF_RAW_STRING };
	const char *parts[PARTS_MAX];
	unsigned lines[PARTS_MAX] = { 0 };

	raw.string = conf_arena_str(&o->arena, text);
	if (is_per_cidr(d)) {
		raw.kind = CONF_RAW_STRINGS;
		raw.list = (struct conf_strings){ .s = parts, .lines = lines };
		while (text.p != NULL && raw.list.n < PARTS_MAX)
			parts[raw.list.n++] =
				conf_arena_str(&o->arena, slice_trim(slice_cut(&text, ',')));
		if (text.p != NULL) {
			conf_msgs_error(msgs, 0, 0, "%s: more than %d values", d->name, PARTS_MAX);
			return false;
		}
	} else if (d->type == CONF_TYPE_COUNT && is_integer(text)) {
		raw.kind = CONF_RAW_INT; /* a file has it without quotes, a command line has none */
		raw.number = strtoll(raw.string, NULL, 10);
	}
	if (!conf_type_value(&p, d, &raw, &o->value))
		return false;
	o->value.d = d;
	if (is_per_cidr(d))
		o->per = conf_per_parse(&o->arena, &o->value);
	return true;
}

struct conf_override *
conf_override_new(enum conf_override_scope scope, struct slice directive, struct slice value,
		  struct buf *why)
{
	const struct conf_directive *d = find_limit(scope, directive);
	struct conf_msgs msgs = { 0 };
	struct conf_override *o;

	if (d == NULL) {
		tell_limits(why, scope, directive);
		return NULL;
	}
	if (value.n == 0 || value.n > VALUE_MAX || memchr(value.p, '\0', value.n) != NULL) {
		buf_printf(why, "%s: a value of 1 to %d bytes is expected", d->name, VALUE_MAX);
		return NULL;
	}
	o = mem_zalloc(sizeof *o);
	o->arena.chunk_bytes = CHUNK_BYTES;
	if (!read_value(o, d, value, &msgs))
		conf_override_free(&o);
	conf_msgs_first(&msgs, why);
	return o;
}

void
conf_override_free(struct conf_override **op)
{
	struct conf_override *o = *op;

	if (o == NULL)
		return;
	conf_arena_clear(&o->arena);
	mem_free(o);
	*op = NULL;
}

const char *
conf_override_name(const struct conf_override *o)
{
	return o->value.d->name;
}

const char *
conf_override_value(const struct conf_override *o)
{
	return o->value.text;
}

bool
conf_override_is_per_source(const struct conf_override *o)
{
	return o->per != NULL;
}

uint64_t
conf_override_window(const struct conf_override *o)
{
	return conf_window_of(&o->value);
}

void
conf_override_apply(const struct conf_override *o, struct conf_limits *l)
{
	CHECK(conf_store(l, &o->value));
}

bool
conf_override_decides(const struct conf_override *o, const struct conf_source_ip *ip)
{
	return conf_per_address(o->per, (const struct sockaddr *)&ip->addr) != NULL;
}

void
conf_override_store(const struct conf_override *o, struct conf_queue *q)
{
	if (o->per != NULL)
		q->source_limits = true;
	else
		CHECK(conf_store(q, &o->value));
}

const struct conf_per *
conf_override_per(const struct conf_override *o)
{
	return o->per;
}

const struct conf_directive *
conf_override_directive(const struct conf_override *o)
{
	return o->value.d;
}
