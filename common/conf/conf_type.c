#include "common/conf/conf_type.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/conf/conf_actions.h"
#include "common/conf/conf_net.h"
#include "common/conf/conf_rollup.h"
#include "common/conf/conf_value.h"
#include "common/conf/conf_words.h"

/* What a value of the type is made of, and whether an integer in its place forgot its unit. */
enum shape { SHAPE_BOOL, SHAPE_BOOL_OR, SHAPE_INT, SHAPE_STRING, SHAPE_STRINGS, SHAPE_NONE };

/* Whether `s` is of the type; may fill *out. */
typedef bool check_fn(struct conf_place *p, const struct conf_directive *d, struct slice s,
		      struct conf_value *out);

const char *
conf_place_name(const struct conf_block *b, const struct conf_directive *d, char *out, size_t bytes)
{
	const struct conf_scope *s = conf_schema_scope(b->scope);

	if (b->parent == NULL)
		snprintf(out, bytes, "%s", d ? d->name : "global");
	else
		snprintf(out, bytes, "%s%s%.100s%s%s%s", s->title, b->key ? " \"" : "",
			 b->key ? b->key : "", b->key ? "\"" : "", d ? ": " : "", d ? d->name : "");
	return out;
}

__attribute__((format(printf, 4, 5))) static bool
complain(struct conf_place *p, const struct conf_directive *d, unsigned line, const char *fmt, ...)
{
	char what[400], where[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	conf_msgs_error(p->msgs, p->file, line, "%s: %s",
			conf_place_name(p->block, d, where, sizeof where), what);
	return false;
}

bool
conf_type_pair(struct slice s, struct slice *first, struct slice *second)
{
	size_t n = 0;

	s = slice_trim(s);
	while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t') /* PowerMTA's files have tabs */
		n++;
	*first = slice_of(s.p, n);
	*second = slice_trim(slice_sub(s, n));
	return second->n > 0 && memchr(second->p, ' ', second->n) == NULL &&
	       memchr(second->p, '\t', second->n) == NULL;
}

/* Ranges -------------------------------------------------------------------------------------- */
static bool
bound_parse(enum conf_type t, struct slice s, int64_t *out)
{
	uint64_t v;
	bool ok;

	if (t == CONF_TYPE_INTERVAL || t == CONF_TYPE_INTERVAL_N)
		ok = conf_value_interval(s, &v);
	else if (t == CONF_TYPE_SIZE || t == CONF_TYPE_SIZE_U)
		ok = conf_value_size(s, &v);
	else if (s.n > 0 && s.p[0] == '-') {
		ok = slice_u64(slice_sub(s, 1), INT32_MAX, &v);
		*out = -(int64_t)v;
		return ok;
	} else
		ok = slice_u64(s, INT32_MAX, &v);
	*out = ok ? (int64_t)v : 0;
	return ok;
}

/* `range` is "LOW..HIGH", "LOW.." or "". */
static bool
in_range(const struct conf_directive *d, int64_t v)
{
	struct slice all = slice_str(d->arg);
	const char *dots = strstr(d->arg, "..");
	int64_t low, high;

	if (dots == NULL)
		return true;
	CHECK(bound_parse(d->type, slice_of(d->arg, (size_t)(dots - d->arg)), &low));
	if (v < low)
		return false;
	all = slice_sub(all, (size_t)(dots - d->arg) + 2);
	if (all.n == 0)
		return true;
	CHECK(bound_parse(d->type, all, &high));
	return v <= high;
}

/* Types of one string ------------------------------------------------------------------------- */
static bool
warn_if_zero(struct conf_place *p, const struct conf_directive *d, struct slice s, bool ok)
{
	char where[300];

	if (ok && slice_is(s, "0") && p->msgs != NULL)
		conf_msgs_warn(p->msgs, p->file, p->line, "%s: \"0\" means unlimited",
			       conf_place_name(p->block, d, where, sizeof where));
	return ok;
}

static bool
check_rate(struct conf_place *p, const struct conf_directive *d, struct slice s,
	   struct conf_value *out)
{
	return warn_if_zero(p, d, s, conf_value_rate(s, &out->v.rate));
}

static bool
check_volume(struct conf_place *p, const struct conf_directive *d, struct slice s,
	     struct conf_value *out)
{
	return warn_if_zero(p, d, s, conf_value_volume(s, &out->v.rate));
}

static bool
check_threshold(struct conf_place *p, const struct conf_directive *d, struct slice s,
		struct conf_value *out)
{
	(void)p;
	(void)d;
	return conf_value_rate(s, &out->v.rate) && out->v.rate.n > 0;
}

static bool
check_interval(struct conf_place *p, const struct conf_directive *d, struct slice s,
	       struct conf_value *out)
{
	(void)p;
	if (d->type == CONF_TYPE_INTERVAL_N && slice_is(s, "never")) {
		out->v.number = CONF_NEVER;
		return true;
	}
	return conf_value_interval(s, &out->v.number);
}

static bool
check_intervals(struct conf_place *p, const struct conf_directive *d, struct slice s,
		struct conf_value *out)
{
	struct conf_intervals *v = conf_arena_zalloc(p->arena, sizeof *v);

	(void)d;
	out->v.intervals = v;
	return conf_value_intervals(s, v);
}

static bool
check_size(struct conf_place *p, const struct conf_directive *d, struct slice s,
	   struct conf_value *out)
{
	(void)p;
	if (d->type == CONF_TYPE_SIZE_U && slice_is(s, "unlimited")) {
		out->v.number = CONF_UNLIMITED;
		return true;
	}
	return conf_value_size(s, &out->v.number);
}

static bool
check_any(struct conf_place *p, const struct conf_directive *d, struct slice s,
	  struct conf_value *out)
{
	(void)p;
	(void)d;
	(void)out;
	return s.n > 0;
}

static bool
check_path(struct conf_place *p, const struct conf_directive *d, struct slice s,
	   struct conf_value *out)
{
	(void)p;
	(void)out;
	if (d->type == CONF_TYPE_LOG && (slice_is(s, "stderr") || slice_is(s, "syslog")))
		return true;
	if (d->type == CONF_TYPE_ACCT_PATH && s.n > 1 && s.p[0] == '|')
		return true;
	return s.n > 1 && s.n < 4096 && s.p[0] == '/';
}

/* The forms of conf_words, as check_fn. */
#define WORD_CHECK(name)                                                                           \
	static bool check_##name(struct conf_place *p, const struct conf_directive *d,             \
				 struct slice s, struct conf_value *out)                           \
	{                                                                                          \
		(void)p;                                                                           \
		(void)d;                                                                           \
		(void)out;                                                                         \
		return conf_words_##name(s);                                                       \
	}
WORD_CHECK(name)
WORD_CHECK(host)
WORD_CHECK(mx)
WORD_CHECK(address)
WORD_CHECK(smtp_hosts)
WORD_CHECK(daily)

static bool
check_recover(struct conf_place *p, const struct conf_directive *d, struct slice s,
	      struct conf_value *out)
{
	(void)p;
	(void)d;
	(void)out;
	return conf_recover_parse(s, NULL);
}

static bool
check_pattern(struct conf_place *p, const struct conf_directive *d, struct slice s,
	      struct conf_value *out)
{
	char lower[CONF_PATTERN_MAX];

	(void)d;
	if (s.n > 0 && memchr(s.p, '$', s.n) != NULL) { /* judged after its macros */
		if (s.n >= sizeof lower || memchr(s.p, ' ', s.n) != NULL)
			return false;
		str_copy(lower, sizeof lower, s);
		str_lower(lower, s.n);
	} else if (!conf_type_pattern(s, lower))
		return false;
	out->v.string = conf_arena_str(p->arena, slice_str(lower));
	return true;
}

/* A queue is called by its domain, in lower case. */
static bool
check_queue(struct conf_place *p, const struct conf_directive *d, struct slice s,
	    struct conf_value *out)
{
	char lower[CONF_PATTERN_MAX];

	(void)d;
	if (!conf_words_host(s) || !conf_type_pattern(s, lower))
		return false;
	out->v.string = conf_arena_str(p->arena, slice_str(lower));
	return true;
}

static bool
check_rollup(struct conf_place *p, const struct conf_directive *d, struct slice s,
	     struct conf_value *out)
{
	struct slice mx, queue;
	bool by_ip;

	(void)p;
	(void)d;
	(void)out;
	return conf_rollup_words(s, &mx, &queue, &by_ip);
}

static bool
check_domain_item(struct conf_place *p, const struct conf_directive *d, struct slice s,
		  struct conf_value *out)
{
	struct conf_value ignored = *out;

	return check_pattern(p, d, s, &ignored);
}

bool
conf_type_pattern(struct slice s, char out[CONF_PATTERN_MAX])
{
	struct slice host = s;
	struct conf_cidr cidr;

	if (s.n > 1 && s.p[s.n - 1] == '.')
		host.n = --s.n;
	if (s.n == 0 || s.n >= CONF_PATTERN_MAX)
		return false;
	str_copy(out, CONF_PATTERN_MAX, s);
	str_lower(out, s.n);
	if (slice_is(s, "*"))
		return true;
	if (slice_starts_nocase(s, "[*.]"))
		host = slice_sub(s, 4);
	else if (slice_starts_nocase(s, "*."))
		host = slice_sub(s, 2);
	else if (s.p[0] == '[') {
		host = slice_sub(s, slice_starts_nocase(s, "[IPv6:") ? 6 : 1);
		return s.p[s.n - 1] == ']' && conf_net_cidr(slice_of(host.p, host.n - 1), &cidr);
	} else if (s.p[0] == '{' && s.p[s.n - 1] == '}') /* PowerMTA's special domains */
		return conf_words_name(slice_of(s.p + 1, s.n - 2));
	return conf_words_host(host);
}

static bool
check_match(struct conf_place *p, const struct conf_directive *d, struct slice s,
	    struct conf_value *out)
{
	struct conf_cidr cidr;

	(void)p;
	(void)d;
	(void)out;
	if (conf_net_cidr(s, &cidr))
		return true;
	if (s.n > 0 && (isdigit((unsigned char)s.p[0]) || memchr(s.p, ':', s.n) != NULL))
		return false; /* meant as an address */
	if (slice_is(s, "{auth}") || slice_is(s, "{pickup}") || slice_is(s, "{transmissions-api}"))
		return true;
	return conf_words_name(s);
}

static bool
check_ip(struct conf_place *p, const struct conf_directive *d, struct slice s,
	 struct conf_value *out)
{
	struct sockaddr_storage ss;
	socklen_t len;

	(void)p;
	(void)out;
	if (d->type == CONF_TYPE_IP_PORT)
		return conf_net_ip_port(s, ':', &ss, &len);
	if (d->type == CONF_TYPE_NAME_SERVER && conf_net_ip_port(s, '@', &ss, &len))
		return true;
	return conf_net_ip(s, &ss, &len);
}

static bool
check_cidr(struct conf_place *p, const struct conf_directive *d, struct slice s,
	   struct conf_value *out)
{
	struct conf_cidr cidr;

	(void)p;
	(void)d;
	(void)out;
	return conf_net_cidr(s, &cidr);
}

/* "CIDR N", "CIDR RATE", "MX N", "IP NAME". */
static bool
check_pair(struct conf_place *p, const struct conf_directive *d, struct slice s,
	   struct conf_value *out)
{
	struct slice first, second;
	struct conf_value ignored = *out;
	struct conf_cidr cidr;
	struct sockaddr_storage ss;
	socklen_t len;
	uint64_t n;

	if (!conf_type_pair(s, &first, &second))
		return false;
	switch (d->type) {
	case CONF_TYPE_CIDR_RATE:
		return conf_net_cidr(first, &cidr) && check_rate(p, d, second, &ignored);
	case CONF_TYPE_CIDR_VOLUME:
		return conf_net_cidr(first, &cidr) && check_volume(p, d, second, &ignored);
	case CONF_TYPE_SOURCE_HOST:
		return conf_net_ip(first, &ss, &len) && conf_words_host(second);
	case CONF_TYPE_CIDR_COUNT:
		if (!conf_net_cidr(first, &cidr))
			return false;
		break;
	default:
		if (!conf_words_mx(first))
			return false;
		break;
	}
	return slice_is(second, "unlimited") ||
	       (slice_u64(second, INT32_MAX, &n) && in_range(d, (int64_t)n));
}

static bool
check_regex(struct conf_place *p, const struct conf_directive *d, struct slice s,
	    struct conf_value *out)
{
	(void)p;
	(void)d;
	(void)out;
	return s.n >= 2 && s.n < 4096 && s.p[0] == '/' && s.p[s.n - 1] == '/';
}

static bool
check_choice(struct conf_place *p, const struct conf_directive *d, struct slice s,
	     struct conf_value *out)
{
	(void)p;
	(void)out;
	if (d->type == CONF_TYPE_ENUM)
		return conf_words_choice(d->arg, s);
	while (s.p != NULL) {
		if (!conf_words_choice(d->arg, slice_trim(slice_cut(&s, ','))))
			return false;
	}
	return true;
}

// clang-format off
static const struct {
	enum shape shape;
	bool quantity; /* an integer in its place forgot its unit */
	check_fn *check;
} kinds[CONF_TYPES] = {
	[CONF_TYPE_BOOL] = { SHAPE_BOOL, false, NULL },
	[CONF_TYPE_BOOL_OR] = { SHAPE_BOOL_OR, false, NULL },
	[CONF_TYPE_COUNT] = { SHAPE_INT, false, NULL },
	[CONF_TYPE_COUNT_U] = { SHAPE_INT, false, NULL },
	[CONF_TYPE_COUNT_A] = { SHAPE_INT, false, NULL },
	[CONF_TYPE_RATE] = { SHAPE_STRING, true, check_rate },
	[CONF_TYPE_VOLUME] = { SHAPE_STRING, true, check_volume },
	[CONF_TYPE_THRESHOLD] = { SHAPE_STRING, true, check_threshold },
	[CONF_TYPE_DAILY] = { SHAPE_STRING, true, check_daily },
	[CONF_TYPE_INTERVAL] = { SHAPE_STRING, true, check_interval },
	[CONF_TYPE_INTERVAL_N] = { SHAPE_STRING, true, check_interval },
	[CONF_TYPE_INTERVALS] = { SHAPE_STRING, true, check_intervals },
	[CONF_TYPE_SIZE] = { SHAPE_STRING, true, check_size },
	[CONF_TYPE_SIZE_U] = { SHAPE_STRING, true, check_size },
	[CONF_TYPE_STRING] = { SHAPE_STRING, false, NULL },
	[CONF_TYPE_STRINGS] = { SHAPE_STRINGS, false, NULL },
	[CONF_TYPE_PATH] = { SHAPE_STRING, false, check_path },
	[CONF_TYPE_LOG] = { SHAPE_STRING, false, check_path },
	[CONF_TYPE_ACCT_PATH] = { SHAPE_STRING, false, check_path },
	[CONF_TYPE_NAME] = { SHAPE_STRING, false, check_name },
	[CONF_TYPE_HOST] = { SHAPE_STRING, false, check_host },
	[CONF_TYPE_HOSTS] = { SHAPE_STRINGS, false, check_host },
	[CONF_TYPE_ADDRESS] = { SHAPE_STRING, false, check_address },
	[CONF_TYPE_ADDRESSES] = { SHAPE_STRINGS, false, check_address },
	[CONF_TYPE_PATTERN] = { SHAPE_STRING, false, check_pattern },
	[CONF_TYPE_DOMAINS] = { SHAPE_STRINGS, false, check_domain_item },
	[CONF_TYPE_MATCH] = { SHAPE_STRING, false, check_match },
	[CONF_TYPE_IP] = { SHAPE_STRING, false, check_ip },
	[CONF_TYPE_IPS] = { SHAPE_STRINGS, false, check_ip },
	[CONF_TYPE_IP_PORT] = { SHAPE_STRING, false, check_ip },
	[CONF_TYPE_NAME_SERVER] = { SHAPE_STRINGS, false, check_ip },
	[CONF_TYPE_CIDRS] = { SHAPE_STRINGS, false, check_cidr },
	[CONF_TYPE_CIDR_COUNT] = { SHAPE_STRINGS, true, check_pair },
	[CONF_TYPE_CIDR_RATE] = { SHAPE_STRINGS, true, check_pair },
	[CONF_TYPE_CIDR_VOLUME] = { SHAPE_STRINGS, true, check_pair },
	[CONF_TYPE_MX_PATTERNS] = { SHAPE_STRINGS, false, check_mx },
	[CONF_TYPE_MX_COUNT] = { SHAPE_STRINGS, true, check_pair },
	[CONF_TYPE_SOURCE_HOST] = { SHAPE_STRINGS, false, check_pair },
	[CONF_TYPE_QUEUE] = { SHAPE_STRING, false, check_queue },
	[CONF_TYPE_ROLLUP] = { SHAPE_STRINGS, false, check_rollup },
	[CONF_TYPE_SMTP_HOSTS] = { SHAPE_STRING, false, check_smtp_hosts },
	[CONF_TYPE_REGEX] = { SHAPE_STRING, false, check_regex },
	[CONF_TYPE_ENUM] = { SHAPE_STRING, false, check_choice },
	[CONF_TYPE_WORDS] = { SHAPE_STRINGS, false, check_choice },
	[CONF_TYPE_VMTA] = { SHAPE_STRING, false, check_any },
	[CONF_TYPE_VMTA_POOL] = { SHAPE_STRING, false, check_any },
	[CONF_TYPE_VMTAS] = { SHAPE_STRINGS, false, check_any },
	[CONF_TYPE_SOURCE] = { SHAPE_STRING, false, check_any },
	[CONF_TYPE_REPLY_LIST] = { SHAPE_STRING, false, check_any },
	[CONF_TYPE_PROVIDER] = { SHAPE_STRING, false, check_any },
	[CONF_TYPE_ACTIONS] = { SHAPE_STRINGS, false, NULL },
	[CONF_TYPE_RECOVER] = { SHAPE_STRING, false, check_recover },
	[CONF_TYPE_INCLUDE] = { SHAPE_STRINGS, false, check_any },
	[CONF_TYPE_LIST] = { SHAPE_NONE, false, NULL },
	[CONF_TYPE_GROUP] = { SHAPE_NONE, false, NULL },
};
// clang-format on

/* Shapes -------------------------------------------------------------------------------------- */
static const char *
raw_title(const struct conf_raw *raw)
{
	static const char *const titles[] = { "a boolean", "an integer",        "a float",
					      "a string",  "a list of strings", "a list or group" };

	return titles[raw->kind];
}

static bool
wrong_shape(struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw)
{
	if (raw->kind == CONF_RAW_INT && kinds[d->type].quantity)
		return complain(p, d, p->line, "the bare integer %lld has no unit; write %s",
				raw->number, conf_schema_type_hint(d->type));
	return complain(p, d, p->line, "%s where a%s %s is expected; write %s", raw_title(raw),
			strchr("aeiou", conf_schema_type_title(d->type)[0]) ? "n" : "",
			conf_schema_type_title(d->type), conf_schema_type_hint(d->type));
}

static bool
out_of_range(struct conf_place *p, const struct conf_directive *d, const char *text)
{
	const char *dots = strstr(d->arg, "..");

	if (dots[2] == '\0')
		return complain(p, d, p->line, "%s is out of range; the least is %.*s", text,
				(int)(dots - d->arg), d->arg);
	return complain(p, d, p->line, "%s is out of range %s", text, d->arg);
}

static bool
bad_word(struct conf_place *p, const struct conf_directive *d, unsigned line, const char *s)
{
	char near[64], list[300];
	size_t n = 0;

	if (d->type != CONF_TYPE_ENUM && d->type != CONF_TYPE_WORDS && d->type != CONF_TYPE_BOOL_OR)
		return complain(p, d, line, "bad %s \"%.120s\"; write %s",
				conf_schema_type_title(d->type), s, conf_schema_type_hint(d->type));
	for (const char *c = d->arg; *c != '\0' && n + 3 < sizeof list; c++) {
		list[n++] = *c == '|' ? ',' : *c;
		if (*c == '|')
			list[n++] = ' ';
	}
	list[n] = '\0';
	if (conf_schema_suggest_word(d->arg, slice_str(s), near, sizeof near))
		return complain(p, d, line, "\"%.80s\" is none of %s; did you mean \"%s\"?", s,
				list, near);
	return complain(p, d, line, "\"%.80s\" is none of %s", s, list);
}

static bool
take_int(struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw,
	 struct conf_value *out)
{
	char text[32];

	if (raw->kind == CONF_RAW_STRING &&
	    ((d->type == CONF_TYPE_COUNT_U && strcmp(raw->string, "unlimited") == 0) ||
	     (d->type == CONF_TYPE_COUNT_A && strcmp(raw->string, "auto") == 0))) {
		out->v.number = CONF_UNLIMITED;
		out->text = conf_arena_str(p->arena, slice_str(raw->string));
		return true;
	}
	if (raw->kind != CONF_RAW_INT)
		return wrong_shape(p, d, raw);
	snprintf(text, sizeof text, "%lld", raw->number);
	if (!in_range(d, raw->number))
		return out_of_range(p, d, text);
	out->v.number = (uint64_t)raw->number;
	if (d->type == CONF_TYPE_COUNT_U && raw->number == 0)
		out->v.number = CONF_UNLIMITED; /* "0 none" */
	out->text = conf_arena_str(p->arena, slice_str(text));
	return true;
}

/* "" takes back what a wider name says, as PowerMTA. */
static bool
is_cleared(const struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw)
{
	return raw->kind == CONF_RAW_STRING && raw->string[0] == '\0' &&
	       p->block->scope == CONF_SCOPE_DOMAIN &&
	       (d->type == CONF_TYPE_VMTA_POOL || d->type == CONF_TYPE_REPLY_LIST ||
		d->type == CONF_TYPE_RECOVER || d->type == CONF_TYPE_ADDRESSES ||
		d->type == CONF_TYPE_IPS);
}

static bool
take_string(struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw,
	    struct conf_value *out)
{
	struct slice s;

	if (raw->kind != CONF_RAW_STRING)
		return wrong_shape(p, d, raw);
	s = slice_str(raw->string);
	out->text = conf_arena_str(p->arena, s);
	if (d->type == CONF_TYPE_STRING || kinds[d->type].check == check_any ||
	    !kinds[d->type].quantity)
		out->v.string = out->text;
	if (is_cleared(p, d, raw))
		return true;
	if (kinds[d->type].check != NULL && !kinds[d->type].check(p, d, s, out))
		return bad_word(p, d, p->line, raw->string);
	if ((d->type == CONF_TYPE_INTERVAL || d->type == CONF_TYPE_INTERVAL_N ||
	     d->type == CONF_TYPE_SIZE || d->type == CONF_TYPE_SIZE_U) &&
	    out->v.number != UINT64_MAX && !in_range(d, (int64_t)out->v.number))
		return out_of_range(p, d, raw->string);
	return true;
}

/* Copies, with the texts joined for display. */
static void
keep_strings(struct conf_place *p, const struct conf_strings *list, struct conf_value *out)
{
	struct conf_strings *s = conf_arena_zalloc(p->arena, sizeof *s);
	struct buf joined = { 0 };

	s->n = list->n;
	s->s = conf_arena_zalloc(p->arena, (list->n + 1) * sizeof *s->s);
	s->lines = conf_arena_zalloc(p->arena, (list->n + 1) * sizeof *s->lines);
	for (size_t i = 0; i < list->n; i++) {
		s->s[i] = conf_arena_str(p->arena, slice_str(list->s[i]));
		s->lines[i] = list->lines ? list->lines[i] : p->line;
		buf_printf(&joined, "%s%s", i > 0 ? ", " : "", list->s[i]);
	}
	out->v.strings = s;
	out->text = list->n == 1 ? s->s[0] : conf_arena_str(p->arena, buf_slice(&joined));
	buf_clear(&joined);
}

static bool
check_strings(struct conf_place *p, const struct conf_directive *d, const struct conf_strings *s)
{
	struct conf_value ignored = { 0 };
	unsigned line = p->line;
	bool ok = true;

	for (size_t i = 0; i < s->n; i++) {
		p->line = s->lines[i];
		if (kinds[d->type].check != NULL &&
		    !kinds[d->type].check(p, d, slice_str(s->s[i]), &ignored)) {
			bad_word(p, d, s->lines[i], s->s[i]);
			ok = false;
		}
	}
	p->line = line;
	return ok;
}

static bool
take_strings(struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw,
	     struct conf_value *out)
{
	char text[200];
	const char *why;
	size_t at;
	struct conf_strings one = { .n = is_cleared(p, d, raw) ? 0 : 1 };

	if (raw->kind != CONF_RAW_STRING && raw->kind != CONF_RAW_STRINGS)
		return wrong_shape(p, d, raw);
	one.s = (const char *[]){ raw->string };
	keep_strings(p, raw->kind == CONF_RAW_STRING ? &one : &raw->list, out);
	if (d->type != CONF_TYPE_ACTIONS)
		return check_strings(p, d, out->v.strings);
	why = conf_actions_parse(out->v.strings->s, out->v.strings->n, NULL, &at, text, sizeof text);
	return why == NULL || complain(p, d, out->v.strings->lines[at], "%s", why);
}

static bool
take_bool(struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw,
	  struct conf_value *out)
{
	if (raw->kind == CONF_RAW_STRING && kinds[d->type].shape == SHAPE_BOOL_OR) {
		uint64_t us;

		out->text = out->v.string = conf_arena_str(p->arena, slice_str(raw->string));
		if (conf_words_choice(d->arg, out->text ? slice_str(out->text) : SLICE_NONE) ||
		    strstr(d->arg, "STRING") != NULL ||
		    (strstr(d->arg, "INTERVAL") != NULL &&
		     conf_value_interval(slice_str(raw->string), &us)))
			return true;
		return bad_word(p, d, p->line, raw->string);
	}
	if (raw->kind != CONF_RAW_BOOL)
		return wrong_shape(p, d, raw);
	out->v.flag = raw->flag;
	out->text = raw->flag ? "true" : "false";
	return true;
}

bool
conf_type_value(struct conf_place *p, const struct conf_directive *d, const struct conf_raw *raw,
		struct conf_value *out)
{
	*out = (struct conf_value){ .d = d, .file = p->file, .line = p->line };
	switch (kinds[d->type].shape) {
	case SHAPE_BOOL:
	case SHAPE_BOOL_OR:
		return take_bool(p, d, raw, out);
	case SHAPE_INT:
		return take_int(p, d, raw, out);
	case SHAPE_STRING:
		return take_string(p, d, raw, out);
	case SHAPE_STRINGS:
		return take_strings(p, d, raw, out);
	case SHAPE_NONE:
		break;
	}
	return wrong_shape(p, d, raw);
}

bool
conf_type_default(struct conf_arena *a, const struct conf_directive *d, struct conf_value *out)
{
	struct conf_msgs none = { 0 };
	struct conf_block root = { .scope = CONF_SCOPE_GLOBAL };
	struct conf_place p = { .arena = a, .msgs = &none, .block = &root };
	struct conf_raw raw = { .kind = CONF_RAW_STRING, .string = d->def };

	if (d->def == NULL || strcmp(d->def, CONF_REQUIRED) == 0)
		return false;
	if (strcmp(d->def, "true") == 0 || strcmp(d->def, "false") == 0) {
		raw.kind = CONF_RAW_BOOL;
		raw.flag = d->def[0] == 't';
	} else if (kinds[d->type].shape == SHAPE_INT && strchr("-0123456789", d->def[0]) != NULL) {
		raw.kind = CONF_RAW_INT;
		raw.number = atoll(d->def);
	}
	CHECK(conf_type_value(&p, d, &raw, out));
	return true;
}
