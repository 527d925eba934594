#include "bench/sink/sink_script.h"

#include <libconfig.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/mem.h"

#define LIST_MAX 10000

enum field_kind { INT, FLAG, NUMBER, STRING, STRINGS, STAGE, ACTION, BY, DELAYS, RULES };

struct field {
	const char *name;
	enum field_kind kind;
	size_t offset;
	size_t count_offset; /* of the size_t beside an array */
	int least;
};

/* What the parser carries along: where to say what is wrong. */
struct reader {
	char *err;
	size_t err_bytes;
	bool failed;
};

// clang-format off
#define RULE(member)     offsetof(struct sink_rule, member), 0
#define PROVIDER(member) offsetof(struct sink_provider, member), 0
static const struct field rule_fields[] = {
	{ "stage",          STAGE,  RULE(stage), 0 },
	{ "action",         ACTION, RULE(action), 0 },
	{ "match",          STRING, RULE(match), 0 },
	{ "client",         STRING, RULE(client), 0 },
	{ "reply",          STRING, RULE(reply), 0 },
	{ "percent",        NUMBER, RULE(percent), 0 },
	{ "every",          INT,    RULE(every), 1 },
	{ "first-attempts", INT,    RULE(first_attempts), 1 },
	{ "limit",          INT,    RULE(limit), 0 },
	{ "window-ms",      INT,    RULE(window_ms), 1 },
	{ "by",             BY,     RULE(by_client), 0 },
	{ "sticky",         FLAG,   RULE(sticky), 0 },
	{ "raw",            FLAG,   RULE(raw), 0 },
	{ "from-ms",        INT,    RULE(from_ms), 0 },
	{ "until-ms",       INT,    RULE(until_ms), 1 },
	{ "delay-ms",       INT,    RULE(delay_ms), 0 },
	{ "drip-ms",        INT,    RULE(drip_ms), 1 },
	{ "repeat",         INT,    RULE(repeat), 1 },
	{ NULL, INT, 0, 0, 0 },
};
static const struct field provider_fields[] = {
	{ "name",            STRING,  PROVIDER(name), 0 },
	{ "banner",          STRING,  PROVIDER(banner), 0 },
	{ "listen",          STRINGS, offsetof(struct sink_provider, listen), offsetof(struct sink_provider, n_listen), 0 },
	{ "features",        STRINGS, offsetof(struct sink_provider, features), offsetof(struct sink_provider, n_features), 0 },
	{ "delay-ms",        DELAYS,  PROVIDER(delay_ms), 0 },
	{ "max-connections", INT,     PROVIDER(max_connections), 0 },
	{ "max-messages-per-connection", INT, PROVIDER(max_messages), 0 },
	{ "rules",           RULES,   offsetof(struct sink_provider, rules), offsetof(struct sink_provider, n_rules), 0 },
	{ NULL, INT, 0, 0, 0 },
};
static const char *const stage_names[] = {
#define X(name) #name,
	SINK_STAGES(X)
#undef X
};
static const char *const action_names[] = {
#define X(name) #name,
	SINK_ACTIONS(X)
#undef X
};
static const char *const default_features[] = { "PIPELINING", "8BITMIME", "SIZE 104857600", "ENHANCEDSTATUSCODES" };
// clang-format on

static void read_group(struct reader *r, config_setting_t *s, const struct field *fields, void *to);

const char *
sink_stage_name(enum sink_stage stage)
{
	return stage_names[stage];
}

static void
fail(struct reader *r, const config_setting_t *s, const char *what)
{
	if (r->failed)
		return;
	r->failed = true;
	snprintf(r->err, r->err_bytes, "line %u: %s: %s", config_setting_source_line(s),
		 config_setting_name(s) != NULL ? config_setting_name(s) : "element", what);
}

static int
read_int(struct reader *r, const config_setting_t *s, int least)
{
	int v = config_setting_get_int(s);

	if (config_setting_type(s) != CONFIG_TYPE_INT || v < least)
		fail(r, s, least > 0 ? "wants a positive integer" : "wants an integer, 0 or more");
	return v;
}

static double
read_number(struct reader *r, const config_setting_t *s)
{
	double v;

	if (config_setting_type(s) == CONFIG_TYPE_INT)
		v = config_setting_get_int(s);
	else if (config_setting_type(s) == CONFIG_TYPE_FLOAT)
		v = config_setting_get_float(s);
	else
		v = -1;
	if (v < 0 || v > 100)
		fail(r, s, "wants a number from 0 to 100");
	return v;
}

static const char *
read_text(struct reader *r, const config_setting_t *s)
{
	if (config_setting_type(s) == CONFIG_TYPE_STRING)
		return config_setting_get_string(s);
	fail(r, s, "wants a string");
	return "";
}

/* The index of the string's value among `names`. */
static int
read_choice(struct reader *r, const config_setting_t *s, const char *const *names, int n)
{
	const char *v = read_text(r, s);

	for (int i = 0; i < n; i++)
		if (strcmp(v, names[i]) == 0)
			return i;
	fail(r, s, "is none of the known words");
	return 0;
}

static void
read_string(struct reader *r, const config_setting_t *s, char **to)
{
	mem_free(*to);
	*to = mem_strdup(read_text(r, s));
}

static void
read_strings(struct reader *r, const config_setting_t *s, char ***to, size_t *n)
{
	int count = config_setting_length(s);

	if (!config_setting_is_array(s) || count > LIST_MAX) {
		fail(r, s, "wants an array of strings");
		return;
	}
	*to = mem_calloc((size_t)count + 1, sizeof **to);
	for (int i = 0; i < count; i++)
		(*to)[i] = mem_strdup(read_text(r, config_setting_get_elem(s, (unsigned)i)));
	*n = (size_t)count;
}

static void
read_delays(struct reader *r, const config_setting_t *s, int *delay_ms)
{
	if (!config_setting_is_group(s)) {
		fail(r, s, "wants a group { stage = milliseconds; }");
		return;
	}
	for (int i = 0; i < config_setting_length(s); i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
		int stage = 0;

		while (stage < SINK_STAGE_COUNT &&
		       strcmp(stage_names[stage], config_setting_name(e)) != 0)
			stage++;
		if (stage == SINK_STAGE_COUNT)
			fail(r, e, "is no stage");
		else
			delay_ms[stage] = read_int(r, e, 0);
	}
}

static void
check_rule(struct reader *r, config_setting_t *s, const struct sink_rule *rule)
{
	if (config_setting_lookup(s, "stage") == NULL)
		fail(r, s, "a rule needs a stage");
	else if ((rule->limit >= 0) != (rule->window_ms > 0))
		fail(r, s, "limit and window-ms go together");
	else if (rule->action == SINK_DO_reply && rule->reply == NULL && rule->delay_ms == 0 &&
		 rule->drip_ms == 0)
		fail(r, s, "a rule needs a reply, an action or a delay");
	else if (rule->reply != NULL && !rule->raw &&
		 (rule->reply[0] < '2' || rule->reply[0] > '5' || strlen(rule->reply) < 3))
		fail(r, s, "a reply begins with a code; raw = true sends anything");
}

static void
read_rules(struct reader *r, const config_setting_t *s, struct sink_rule **to, size_t *n)
{
	int count = config_setting_length(s);

	if (!config_setting_is_list(s) || count > LIST_MAX) {
		fail(r, s, "wants a list of rules");
		return;
	}
	*to = mem_calloc((size_t)count + 1, sizeof **to);
	*n = (size_t)count;
	for (int i = 0; i < count; i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
		struct sink_rule *rule = &(*to)[i];

		rule->percent = 100;
		rule->limit = -1;
		rule->repeat = 1;
		read_group(r, e, rule_fields, rule);
		check_rule(r, e, rule);
	}
}

static void
read_field(struct reader *r, config_setting_t *s, const struct field *f, void *to)
{
	static const char *const by_names[] = { "all", "client" };
	char *base = to;
	void *at = base + f->offset;
	size_t *count = (size_t *)(void *)(base + f->count_offset);

	switch (f->kind) {
	case INT:
		*(int *)at = read_int(r, s, f->least);
		break;
	case FLAG:
		if (config_setting_type(s) != CONFIG_TYPE_BOOL)
			fail(r, s, "wants true or false");
		*(bool *)at = config_setting_get_bool(s) != 0;
		break;
	case NUMBER:
		*(double *)at = read_number(r, s);
		break;
	case STRING:
		read_string(r, s, at);
		break;
	case STRINGS:
		read_strings(r, s, at, count);
		break;
	case STAGE:
		*(enum sink_stage *)at =
			(enum sink_stage)read_choice(r, s, stage_names, SINK_STAGE_COUNT);
		break;
	case ACTION:
		*(enum sink_action *)at =
			(enum sink_action)read_choice(r, s, action_names, SINK_ACTION_COUNT);
		break;
	case BY:
		*(bool *)at = read_choice(r, s, by_names, 2) == 1;
		break;
	case DELAYS:
		read_delays(r, s, at);
		break;
	case RULES:
		read_rules(r, s, at, count);
		break;
	}
}

static void
read_group(struct reader *r, config_setting_t *s, const struct field *fields, void *to)
{
	if (!config_setting_is_group(s)) {
		fail(r, s, "wants a group { ... }");
		return;
	}
	for (int i = 0; i < config_setting_length(s) && !r->failed; i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
		const struct field *f = fields;

		while (f->name != NULL && strcmp(f->name, config_setting_name(e)) != 0)
			f++;
		if (f->name == NULL)
			fail(r, e, "is not known here");
		else
			read_field(r, e, f, to);
	}
}

static void
provider_defaults(struct sink_provider *p, const char *name)
{
	char banner[300];

	if (p->name == NULL)
		p->name = mem_strdup(name);
	if (p->banner == NULL) {
		snprintf(banner, sizeof banner, "220 %.200s ESMTP sluice-sink", p->name);
		p->banner = mem_strdup(banner);
	}
	if (p->features == NULL) {
		p->n_features = sizeof default_features / sizeof default_features[0];
		p->features = mem_calloc(p->n_features, sizeof *p->features);
		for (size_t i = 0; i < p->n_features; i++)
			p->features[i] = mem_strdup(default_features[i]);
	}
}

static void
read_providers(struct reader *r, const config_t *cfg, struct sink_script *s)
{
	config_setting_t *root = config_root_setting(cfg);
	config_setting_t *list = config_lookup(cfg, "providers");
	int n = list != NULL ? config_setting_length(list) : 0;

	if (list == NULL || !config_setting_is_list(list) || n == 0 || n > LIST_MAX) {
		fail(r, root, "providers = ( { ... } ) is missing");
		return;
	}
	if (config_setting_length(root) != 1)
		fail(r, root, "only providers = ( ... ) is known");
	s->providers = mem_calloc((size_t)n, sizeof *s->providers);
	s->n = (size_t)n;
	for (int i = 0; i < n; i++) {
		struct sink_provider *p = &s->providers[i];
		config_setting_t *e = config_setting_get_elem(list, (unsigned)i);
		char name[32];

		read_group(r, e, provider_fields, p);
		snprintf(name, sizeof name, "provider%d", i + 1);
		provider_defaults(p, name);
		if (strpbrk(p->name, " \t\r\n") != NULL)
			fail(r, e, "a name holds no blanks");
	}
}

static int
from_config(struct sink_script **out, config_t *cfg, int parsed, char *err, size_t err_bytes)
{
	struct reader r = { err, err_bytes, false };

	if (parsed != CONFIG_TRUE) {
		snprintf(err, err_bytes, "line %d: %s", config_error_line(cfg),
			 config_error_text(cfg));
		r.failed = true;
	} else {
		*out = mem_zalloc(sizeof **out);
		read_providers(&r, cfg, *out);
		if (r.failed)
			sink_script_free(out);
	}
	config_destroy(cfg);
	return r.failed ? -E_BAD : 0;
}

int
sink_script_parse(struct sink_script **out, const char *text, char *err, size_t err_bytes)
{
	config_t cfg;

	config_init(&cfg);
	return from_config(out, &cfg, config_read_string(&cfg, text), err, err_bytes);
}

int
sink_script_load(struct sink_script **out, const char *path, char *err, size_t err_bytes)
{
	FILE *f = fopen(path, "re");
	config_t cfg;
	int rc;

	if (f == NULL) {
		rc = err_errno();
		snprintf(err, err_bytes, "%s", err_text(rc));
		return -rc;
	}
	config_init(&cfg);
	rc = from_config(out, &cfg, config_read(&cfg, f), err, err_bytes);
	fclose(f);
	return rc;
}

struct sink_script *
sink_script_plain(char *const *listen, size_t n)
{
	struct sink_script *s = mem_zalloc(sizeof *s);
	struct sink_provider *p = mem_zalloc(sizeof *p);

	s->providers = p;
	s->n = 1;
	p->listen = mem_calloc(n + 1, sizeof *p->listen);
	p->n_listen = n;
	for (size_t i = 0; i < n; i++)
		p->listen[i] = mem_strdup(listen[i]);
	provider_defaults(p, "sink");
	return s;
}

static void
free_strings(char **v, size_t n)
{
	for (size_t i = 0; v != NULL && i < n; i++)
		mem_free(v[i]);
	mem_free(v);
}

void
sink_script_free(struct sink_script **s)
{
	if (*s == NULL)
		return;
	for (size_t i = 0; i < (*s)->n; i++) {
		struct sink_provider *p = &(*s)->providers[i];

		for (size_t k = 0; k < p->n_rules; k++) {
			mem_free(p->rules[k].match);
			mem_free(p->rules[k].client);
			mem_free(p->rules[k].reply);
		}
		mem_free(p->rules);
		free_strings(p->listen, p->n_listen);
		free_strings(p->features, p->n_features);
		mem_free(p->name);
		mem_free(p->banner);
	}
	mem_free((*s)->providers);
	mem_free(*s);
	*s = NULL;
}
