#include "common/conf/conf_rules.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/conf/conf_actions.h"
#include "common/conf/conf_names.h"
#include "common/conf/conf_type.h"
#include "common/conf/conf_words.h"
#include "common/pattern/pattern.h"

/* Without its slashes. */
static struct slice
pattern_of(const struct conf_value *reply)
{
	struct slice s = slice_str(reply->v.string);

	return slice_of(s.p + 1, s.n - 2);
}

static const struct conf_block *
next_list(struct conf_loader *x, const struct conf_block *list)
{
	const struct conf_value *then = conf_block_get(list, "then");

	return then == NULL ? NULL
			    : conf_load_find(x, x->root, CONF_SCOPE_REPLY_LIST,
					     slice_str(then->v.string));
}

/* Checking ------------------------------------------------------------------------------------ */
static void
check_pattern(struct conf_loader *x, const struct conf_block *rule)
{
	const struct conf_value *reply = conf_block_get(rule, "reply");
	struct buf why = { 0 };

	if (reply == NULL || x->compiled)
		return;
	if (pattern_check(pattern_of(reply), &why) != 0)
		conf_msgs_error(x->msgs, reply->file, reply->line,
				"rule: reply: %.80s does not compile: %.*s", reply->text,
				(int)why.len, buf_slice(&why).p);
	buf_clear(&why);
}

static void
check_category(struct conf_loader *x, const struct conf_block *rule)
{
	const struct conf_value *category = conf_block_get(rule, "category");

	if (category != NULL && strlen(category->v.string) > RULE_CATEGORY_MAX)
		conf_msgs_error(x->msgs, category->file, category->line,
				"rule: category: \"%.20s...\" is longer than %d bytes",
				category->text, RULE_CATEGORY_MAX);
}

static unsigned
rules_of(const struct conf_block *list)
{
	unsigned n = 0;

	CONF_EACH(r, list, CONF_SCOPE_RULE)
	n++;
	return n;
}

/* What stands behind a list, and how much that is. */
static void
check_chain(struct conf_loader *x, const struct conf_block *list)
{
	const struct conf_value *then = conf_block_get(list, "then");
	unsigned n = 0, lists = 0;

	for (const struct conf_block *b = list; b != NULL; b = next_list(x, b)) {
		n += rules_of(b);
		if (lists > 0 && b == list) {
			conf_msgs_error(x->msgs, then->file, then->line,
					"smtp-pattern-list \"%.100s\": then: it leads back to it",
					list->key);
			return;
		}
		if (++lists > RULE_LISTS_MAX) /* into a loop that is not its own */
			return;
	}
	if (n > RULES_PER_LIST_MAX)
		conf_msgs_error(
			x->msgs, list->file, list->line,
			"smtp-pattern-list \"%.100s\": more than %d rules, with those behind it",
			list->key, RULES_PER_LIST_MAX);
}

void
conf_rules_check(struct conf_loader *x)
{
	unsigned n = 0, lists = 0;

	CONF_EACH(list, x->root, CONF_SCOPE_REPLY_LIST)
	{
		if (lists++ == RULE_LISTS_MAX) {
			conf_msgs_error(x->msgs, list->file, list->line,
					"more than %d smtp-pattern-lists", RULE_LISTS_MAX);
			return;
		}
		CONF_EACH(rule, list, CONF_SCOPE_RULE)
		{
			if (n++ == RULES_MAX) {
				conf_msgs_error(x->msgs, rule->file, rule->line,
						"more than %d rules", RULES_MAX);
				return;
			}
			check_pattern(x, rule);
			check_category(x, rule);
		}
	}
	CONF_EACH(list, x->root, CONF_SCOPE_REPLY_LIST)
	check_chain(x, list);
}

/* Building ------------------------------------------------------------------------------------ */
static const char *const scope_names[CONF_RULE_SCOPES] = { "queue", "source-ip", "virtual-mta",
							   "provider" };

const char *
conf_rule_scope_name(enum conf_rule_scope scope)
{
	return scope < CONF_RULE_SCOPES ? scope_names[scope] : "?";
}

static const char *
string_of(const struct conf_block *b, const char *name)
{
	const struct conf_value *v = conf_block_get(b, name);

	return v != NULL ? v->v.string : NULL;
}

static bool
flag_of(const struct conf_block *b, const char *name)
{
	const struct conf_value *v = conf_block_get(b, name);

	return v != NULL && v->v.flag;
}

unsigned
conf_rule_stage(struct slice word)
{
	static const char *const words[] = { "connect", "ehlo", "mail", "rcpt", "data", "dot" };

	for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
		if (slice_is(word, words[i]))
			return 1u << i;
	}
	return 0;
}

static unsigned
stages_of(const struct conf_block *b)
{
	const struct conf_value *v = conf_block_get(b, "stage");
	unsigned bits = 0;

	for (size_t i = 0; v != NULL && i < v->v.strings->n; i++) {
		struct slice rest = slice_str(v->v.strings->s[i]);

		while (rest.p != NULL)
			bits |= conf_rule_stage(slice_trim(slice_cut(&rest, ',')));
	}
	return bits;
}

static uint64_t
hash_of(const struct conf_rule *r, const char *provider, unsigned nth)
{
	const char *const parts[] = { r->list, r->pattern, provider, r->category };
	XXH3_state_t *state = XXH3_createState();
	uint64_t key;

	CHECK(state != NULL);
	XXH3_64bits_reset(state);
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		const char *s = parts[i] != NULL ? parts[i] : "";

		XXH3_64bits_update(state, s, strlen(s) + 1);
	}
	XXH3_64bits_update(state, &r->stages, sizeof r->stages);
	if (nth > 0)
		XXH3_64bits_update(state, &nth, sizeof nth);
	key = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return key;
}

/* One pattern may stand in several rules of a list, with thresholds of their own: each counts for
 * itself. */
static uint64_t
key_of(const struct conf_rule *r, const char *provider, unsigned before)
{
	uint64_t key = hash_of(r, provider, 0);
	unsigned nth = 0;

	for (const struct conf_rule *other = r - before; other < r; other++) {
		if (other->key == key)
			key = hash_of(r, provider, ++nth);
	}
	return key;
}

static void
build_rule(struct conf *c, struct conf_rule *r, const struct conf_block *list,
	   const struct conf_block *b, unsigned before)
{
	const struct conf_value *reply = conf_block_get(b, "reply");
	const struct conf_strings *actions = conf_block_get(b, "actions")->v.strings;
	const struct conf_value *after = conf_block_get(b, "after");
	const char *provider = string_of(b, "provider"), *recover = string_of(b, "recover");
	const char *scope = string_of(b, "scope");
	char text[200];
	size_t at;

	r->pattern = conf_arena_str(&c->arena, pattern_of(reply));
	CHECK(conf_actions_parse(actions->s, actions->n, &r->actions, &at, text, sizeof text) ==
	      NULL);
	if (after != NULL)
		r->after = after->v.rate;
	for (unsigned i = 0; scope != NULL && i < CONF_RULE_SCOPES; i++) {
		if (strcmp(scope, scope_names[i]) == 0)
			r->scope = (enum conf_rule_scope)i;
	}
	r->provider = provider != NULL
			      ? conf_names_find(c, slice_str(provider), CONF_NAMED_PROVIDER)
			      : -1;
	r->stages = stages_of(b);
	r->dry_run = flag_of(b, "dry-run");
	r->last = flag_of(b, "last");
	r->category = string_of(b, "category");
	if (recover != NULL) {
		struct conf_recover *own = conf_arena_zalloc(&c->arena, sizeof *own);

		CHECK(conf_recover_parse(slice_str(recover), own));
		r->recover = own;
	}
	r->list = list->key;
	r->file = c->files[reply->file];
	r->line = reply->line;
	r->key = key_of(r, provider, before);
}

static void
begin_list(struct conf *c, struct conf_rule_list *l, const struct conf_block *own)
{
	const char *then = string_of(own, "then");

	l->name = own->key;
	l->n_own = rules_of(own);
	l->then = then != NULL ? conf_rule_list_find(c, slice_str(then)) : -1;
}

/* The list behind this one; NULL: none. */
static const struct conf_rule_list *
list_behind(const struct conf *c, const struct conf_rule_list *l)
{
	return l->then >= 0 ? &c->rule_lists[l->then] : NULL;
}

/* The numbers of a list's rules and of those behind it; `first`: of each list's own. */
static void
number_rules(struct conf *c, struct conf_rule_list *l, const unsigned *first)
{
	unsigned *numbers, n = 0;

	for (const struct conf_rule_list *at = l; at != NULL; at = list_behind(c, at))
		n += at->n_own;
	numbers = conf_arena_zalloc(&c->arena, (n + 1) * sizeof *numbers);
	l->rules = numbers;
	l->n = n;
	for (const struct conf_rule_list *at = l; at != NULL; at = list_behind(c, at)) {
		for (unsigned i = 0; i < at->n_own; i++)
			*numbers++ = first[at - c->rule_lists] + i;
	}
}

/* The lists that some domain names. */
static void
note_used(struct conf *c, const struct conf_block *parent)
{
	CONF_EACH(b, parent, CONF_SCOPE_DOMAIN)
	{
		const struct conf_value *v = conf_block_value(b, c->rows.pattern_list);
		int list = v != NULL ? conf_rule_list_find(c, slice_str(v->v.string)) : -1;

		for (; list >= 0; list = c->rule_lists[list].then)
			c->rule_lists[list].used = true;
	}
}

static void
note_learns(const struct conf *c, struct conf_rule_list *l)
{
	for (unsigned i = 0; i < l->n; i++) {
		const struct conf_recover *how = c->rules[l->rules[i]].recover;

		l->learns |= how != NULL && how->automatic;
	}
}

void
conf_rules_build(struct conf *c)
{
	unsigned *first;
	struct conf_rule *r;

	CONF_EACH(list, c->root, CONF_SCOPE_REPLY_LIST)
	{
		list->id = (unsigned)c->n_rule_lists++;
		conf_names_add(c, list->key, CONF_NAMED_RULES, list->id);
		c->n_rules += rules_of(list);
	}
	r = c->rules = conf_arena_zalloc(&c->arena, (c->n_rules + 1) * sizeof *c->rules);
	c->rule_lists = conf_arena_zalloc(&c->arena, (c->n_rule_lists + 1) * sizeof *c->rule_lists);
	first = mem_calloc(c->n_rule_lists + 1, sizeof *first);
	CONF_EACH(list, c->root, CONF_SCOPE_REPLY_LIST)
	{
		unsigned before = 0;

		first[list->id] = (unsigned)(r - c->rules);
		begin_list(c, &c->rule_lists[list->id], list);
		CONF_EACH(b, list, CONF_SCOPE_RULE)
		build_rule(c, r++, list, b, before++);
	}
	for (size_t i = 0; i < c->n_rule_lists; i++) {
		number_rules(c, &c->rule_lists[i], first);
		note_learns(c, &c->rule_lists[i]);
	}
	mem_free(first);
	note_used(c, c->root);
	CONF_EACH(p, c->root, CONF_SCOPE_POOL)
	note_used(c, p);
	CONF_EACH(m, c->root, CONF_SCOPE_VMTA)
	note_used(c, m);
}

size_t
conf_rules(const struct conf *c, const struct conf_rule **out)
{
	*out = c->rules;
	return c->n_rules;
}

size_t
conf_rule_lists(const struct conf *c, const struct conf_rule_list **out)
{
	*out = c->rule_lists;
	return c->n_rule_lists;
}

int
conf_rule_list_find(const struct conf *c, struct slice name)
{
	return conf_names_find(c, name, CONF_NAMED_RULES);
}

int
conf_rule_find(const struct conf *c, uint64_t key)
{
	for (size_t i = 0; i < c->n_rules; i++) {
		if (c->rules[i].key == key)
			return (int)i;
	}
	return -1;
}
