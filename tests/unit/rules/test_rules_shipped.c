/* The rules that are shipped: what they make of replies whose class is known. Own samples beside
 * this file; with SLUICE_TEST_DATA=FOLDER also its replies.tsv (columns provider, text, label,
 * action) and reply-mix.txt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/mem.h"
#include "common/rules/rules.h"
#include "common/rules/rules_category.h"
#include "common/rules/rules_merge.h"
#include "common/smtp/smtp_reply.h"

#define N_OF(a)     (sizeof(a) / sizeof *(a))
#define CLASSES_MAX 64
#define CLASS_BYTES 40

struct world {
	struct buf snapshot;
	struct conf *conf;
	struct rules *plain, *fast;
	int list;
};

static int
setup(void **state)
{
	struct world *w = mem_zalloc(sizeof *w);
	struct conf_report r = { 0 };

	*state = w;
	assert_int_equal(conf_snapshot_read("etc/sluice.conf", &w->snapshot, &r), 0);
	(void)conf_parse(buf_slice(&w->snapshot), &w->conf, &r);
	if (r.n_errors + r.n_warnings > 0)
		fail_msg("%.*s", (int)r.text.len, buf_slice(&r.text).p);
	conf_report_clear(&r);
	w->list = conf_rule_list_find(w->conf, SLICE_LIT("providers"));
	assert_true(w->list >= 0);
	w->plain = rules_new(w->conf, NULL);
	w->fast = rules_new(w->conf, pattern_vectorscan());
	return 0;
}

static int
teardown(void **state)
{
	struct world *w = *state;

	rules_free(&w->plain);
	rules_free(&w->fast);
	conf_free(&w->conf);
	buf_clear(&w->snapshot);
	mem_free(w);
	return 0;
}

static int
provider_of(const struct world *w, struct slice name)
{
	const struct conf_provider *p;
	size_t n = conf_providers(w->conf, &p);

	if (slice_is(name, "ionos")) /* one platform */
		name = SLICE_LIT("gmx");
	for (size_t i = 0; i < n; i++) {
		if (slice_is(name, p[i].name))
			return (int)i;
	}
	return -1;
}

/* The text on one line as a worker has it, and what the rules say: the same by either engine. */
static void
ask(struct world *w, int provider, struct slice text, struct rules_verdict *out)
{
	struct rules_query q = { .list = w->list, .provider = provider };
	struct smtp_reply reply = { 0 };
	struct rules_hits a, b;
	struct buf line = { 0 };
	struct slice last;
	size_t used;

	buf_put_slice(&line, text);
	buf_puts(&line, "\r\n");
	if (smtp_reply_feed(&reply, buf_slice(&line), &used, &last) != SMTP_REPLY_DONE)
		fail_msg("no reply: %.*s", (int)text.n, text.p);
	q.text = smtp_reply_text(&reply);
	rules_match(w->plain, &q, &a);
	rules_match(w->fast, &q, &b);
	if (a.n != b.n || memcmp(a.rule, b.rule, a.n * sizeof a.rule[0]) != 0 ||
	    a.wait_us != b.wait_us)
		fail_msg("the engines do not agree: %.*s", (int)text.n, text.p);
	rules_merge(w->conf, a.rule, a.n, a.wait_us, out);
	smtp_reply_clear(&reply);
	buf_clear(&line);
}

/* Judging ------------------------------------------------------------------------------------- */
struct tally {
	unsigned n, right, ip, ip_as_gone, wrong_actions, n_actions, other_names;
	struct {
		char name[CLASS_BYTES];
		unsigned n, right;
		struct buf wrong;
	} classes[CLASSES_MAX];
	unsigned n_classes;
};

static bool
is_one_of(const char *word, const char *const *words)
{
	for (; *words != NULL; words++) {
		if (strcmp(word, *words) == 0)
			return true;
	}
	return false;
}

static unsigned
class_of(struct tally *t, const char *name)
{
	unsigned i = 0;

	while (i < t->n_classes && strcmp(t->classes[i].name, name) != 0)
		i++;
	assert_true(i < CLASSES_MAX);
	if (i == t->n_classes) {
		str_copy(t->classes[i].name, CLASS_BYTES, slice_str(name));
		t->n_classes++;
	}
	return i;
}

/* What the verdict should do, in the words of the labelled action; NULL: it does that. */
static const char *
wrong_action(const struct rules_verdict *v, struct slice action)
{
	static const struct {
		const char *word;
		uint32_t set;
	} rows[] = {
		{ "backoff", 1u << CONF_ACTION_BACKOFF },
		{ "disable-ip", 1u << CONF_ACTION_DISABLE_SOURCE_IP },
		{ "reduce-connections", 1u << CONF_ACTION_REDUCE_CONNECTIONS },
		{ "reconnect", 1u << CONF_ACTION_RECONNECT },
		{ "retry-tls", 1u << CONF_ACTION_RETRY_TLS },
	};
	uint32_t mask = 0, want = 0;

	for (size_t i = 0; i < N_OF(rows); i++) {
		mask |= rows[i].set;
		if (slice_is(action, rows[i].word))
			want = rows[i].set;
	}
	if ((v->set & mask) == want)
		return NULL;
	for (size_t i = 0; i < N_OF(rows); i++) {
		if (v->set & rows[i].set)
			return rows[i].word;
	}
	return "nothing";
}

static void
judge(struct tally *t, const struct rules_verdict *v, struct slice label, struct slice action,
      struct slice text)
{
	static const char *const about_ip[] = { "rate-limit-ip",
						"too-many-connections",
						"reputation-deferral",
						"ip-block",
						"rdns",
						"greylisting",
						NULL };
	static const char *const gone[] = { "unknown-user", "inactive-user", "bad-domain", NULL };
	const char *got = v->category != NULL ? v->category : "(none)";
	char want[CLASS_BYTES];
	const char *did = action.n > 0 ? wrong_action(v, action) : NULL;
	unsigned i;

	str_copy(want, sizeof want, label);
	i = class_of(t, want);
	t->n++;
	t->classes[i].n++;
	t->right += strcmp(want, got) == 0;
	t->classes[i].right += strcmp(want, got) == 0;
	if (strcmp(want, got) != 0)
		buf_printf(&t->classes[i].wrong, "      as %s: %.*s\n", got,
			   (int)(text.n < 100 ? text.n : 100), text.p);
	t->ip += is_one_of(want, about_ip);
	t->ip_as_gone += is_one_of(want, about_ip) && is_one_of(got, gone);
	t->n_actions += action.n > 0;
	if (did != NULL) {
		t->wrong_actions++;
		buf_printf(&t->classes[i].wrong, "      does %s instead of %.*s: %.*s\n", did,
			   (int)action.n, action.p, (int)(text.n < 100 ? text.n : 100), text.p);
	}
}

static void
report(struct tally *t)
{
	for (unsigned i = 0; i < t->n_classes; i++) {
		printf("  %-22s %3u of %3u\n%.*s", t->classes[i].name, t->classes[i].right,
		       t->classes[i].n, (int)t->classes[i].wrong.len,
		       t->classes[i].wrong.data ? t->classes[i].wrong.data : "");
		buf_clear(&t->classes[i].wrong);
	}
	printf("  right: %u of %u (%.1f %%); of a sender's IP, taken for a recipient that is gone: "
	       "%u of %u; wrong actions: "
	       "%u of %u\n",
	       t->right, t->n, 100.0 * t->right / t->n, t->ip_as_gone, t->ip, t->wrong_actions,
	       t->n_actions);
}

/* Files --------------------------------------------------------------------------------------- */
static bool
read_file(const char *path, struct buf *out)
{
	FILE *f = fopen(path, "r");
	size_t n;

	if (f == NULL)
		return false;
	while ((n = fread(buf_room(out, 65536), 1, 65536, f)) > 0)
		buf_added(out, n);
	fclose(f);
	return true;
}

static int
column(struct slice head, const char *name)
{
	for (int i = 0; head.p != NULL; i++) {
		if (slice_is(slice_cut(&head, '\t'), name))
			return i;
	}
	return -1;
}

static struct slice
field(struct slice row, int i)
{
	struct slice one = SLICE_NONE;

	while (i-- >= 0 && row.p != NULL)
		one = slice_cut(&row, '\t');
	return one;
}

/* Judges each row of the table; false: there is no such file. */
static bool
judge_file(struct world *w, const char *path, const char *label, struct tally *t)
{
	struct buf file = { 0 };
	struct slice rest, head;
	int provider, text, class, action, theirs;

	if (!read_file(path, &file))
		return false;
	rest = buf_slice(&file);
	head = slice_cut(&rest, '\n');
	provider = column(head, "provider");
	text = column(head, "text");
	class = column(head, label);
	action = column(head, "action");
	theirs = action >= 0 ? column(head, "category") : -1; /* PowerMTA's names, beside labels */
	assert_true(provider >= 0 && text >= 0 && class >= 0);
	while (rest.p != NULL) {
		struct slice row = slice_cut(&rest, '\n');
		struct rules_verdict v;

		if (row.n == 0)
			continue;
		ask(w, provider_of(w, field(row, provider)), field(row, text), &v);
		if (theirs >= 0 &&
		    slice_is(field(row, class), v.category != NULL ? v.category : "") &&
		    !slice_is(field(row, theirs), rules_bounce_category(v.category)))
			t->other_names++;
		judge(t, &v, field(row, class), action >= 0 ? field(row, action) : SLICE_NONE,
		      field(row, text));
	}
	buf_clear(&file);
	return true;
}

static void
test_own_samples(void **state)
{
	struct tally t = { 0 };

	assert_true(judge_file(*state, "tests/unit/rules/replies.tsv", "category", &t));
	report(&t);
	assert_true(t.n > 70 && t.n == t.right);
	assert_int_equal(t.ip_as_gone, 0);
}

static void
test_data(void **state)
{
	const char *folder = getenv("SLUICE_TEST_DATA");
	struct tally t = { 0 };
	char path[4096];

	snprintf(path, sizeof path, "%s/replies.tsv", folder != NULL ? folder : "");
	if (folder == NULL || !judge_file(*state, path, "label", &t))
		skip();
	report(&t);
	assert_true(t.right * 100 >= t.n * 93);
	assert_true(t.ip_as_gone * 100 <= t.ip);
	assert_true(t.wrong_actions * 100 <= t.n_actions * 7);
	assert_int_equal(t.other_names, 0);
}

/* Replies without a label: the engines agree on them, and most mean something. */
static void
test_mix(void **state)
{
	const char *folder = getenv("SLUICE_TEST_DATA");
	struct buf file = { 0 };
	struct slice rest;
	char path[4096];
	unsigned n = 0, known = 0;

	snprintf(path, sizeof path, "%s/reply-mix.txt", folder != NULL ? folder : "");
	if (folder == NULL || !read_file(path, &file))
		skip();
	rest = buf_slice(&file);
	while (rest.p != NULL) {
		struct slice line = slice_cut(&rest, '\n');
		struct rules_verdict v;

		if (line.n == 0)
			continue;
		ask(*state, -1, line, &v);
		n++;
		known += v.category != NULL;
		if (v.category == NULL)
			printf("  no rule: %.*s\n", (int)line.n, line.p);
	}
	printf("  %u of %u replies got a class\n", known, n);
	assert_true(known * 100 >= n * 80);
	buf_clear(&file);
}

/* Each entry says where it comes from and when. */
static void
test_sources(void **state)
{
	struct buf file = { 0 };
	struct slice rest, before = SLICE_NONE;
	unsigned rules = 0;

	(void)state;
	assert_true(read_file("etc/providers.conf", &file));
	rest = buf_slice(&file);
	while (rest.p != NULL) {
		struct slice line = slice_trim(slice_cut(&rest, '\n'));

		if (slice_starts_nocase(line, "{ name = \"") ||
		    slice_starts_nocase(line, "{ reply = ")) {
			rules += slice_starts_nocase(line, "{ reply");
			if (before.n == 0 || before.p[0] != '#' ||
			    memmem(before.p, before.n, "; 2025-", 7) == NULL)
				fail_msg("no source and date: %.*s", (int)line.n, line.p);
		}
		before = line;
	}
	assert_true(rules >= 217);
	buf_clear(&file);
}

/* Shipped categories are classes that accounting knows. */
static void
test_categories(void **state)
{
	static const char *const classes[] = {
#define X(ours, theirs) ours,
		RULES_CATEGORY_TABLE(X)
#undef X
			NULL
	};
	const struct world *w = *state;
	const struct conf_rule *rules;
	size_t n = conf_rules(w->conf, &rules);

	for (size_t i = 0; i < n; i++) {
		if (rules[i].category == NULL || !is_one_of(rules[i].category, classes) ||
		    !rules[i].last)
			fail_msg("%s:%u", rules[i].file, rules[i].line);
	}
	assert_string_equal(rules_bounce_category("unknown-user"), "bad-mailbox");
	assert_string_equal(rules_bounce_category("my-own"), "my-own");
	assert_string_equal(rules_bounce_category(NULL), "other");
}

/* The manual's table says by which name each is accounted. */
static void
test_manual(void **state)
{
	static const char *const pairs[][2] = {
#define X(ours, theirs) { "`" ours "`", "| `" theirs "` |" },
		RULES_CATEGORY_TABLE(X)
#undef X
	};
	struct buf file = { 0 };

	(void)state;
	assert_true(read_file("doc/manual.md", &file));
	for (size_t i = 0; i < N_OF(pairs); i++) {
		struct slice rest = buf_slice(&file);
		bool found = false;

		while (rest.p != NULL && !found) {
			struct slice line = slice_cut(&rest, '\n');
			size_t n = strlen(pairs[i][1]);

			found = slice_starts_nocase(line, pairs[i][1]) &&
				memmem(line.p + n, line.n - n, pairs[i][0], strlen(pairs[i][0])) != NULL;
		}
		if (!found)
			fail_msg("%s %s", pairs[i][1], pairs[i][0]);
	}
	buf_clear(&file);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_own_samples, setup, teardown),
		cmocka_unit_test_setup_teardown(test_categories, setup, teardown),
		cmocka_unit_test(test_sources),
		cmocka_unit_test(test_manual),
	};
	const struct CMUnitTest with_data[] = {
		cmocka_unit_test_setup_teardown(test_data, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mix, setup, teardown),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	/* `make check DATA=FOLDER` */
	if (getenv("SLUICE_TEST_DATA") != NULL)
		failed += cmocka_run_group_tests(with_data, NULL, NULL);
	return failed;
}
