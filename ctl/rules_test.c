#include "ctl/rules_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/conf/conf_value.h"
#include "common/rules/rules.h"
#include "common/rules/rules_category.h"
#include "common/rules/rules_merge.h"
#include "common/smtp/smtp_reply.h"

#define REPLIES_MAX (64u << 20) /* bytes read */

/* The command line ---------------------------------------------------------------------------- */
static int
read_fd(int fd, struct buf *out)
{
	ssize_t n;

	do {
		n = read(fd, buf_room(out, 65536), 65536);
		if (n > 0)
			buf_added(out, (size_t)n);
		if (out->len > REPLIES_MAX)
			return -E_TOO_BIG;
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 ? -err_errno() : 0;
}

int
rules_test_read(const char *what, struct buf *out)
{
	struct stat st;
	int fd, rc;

	if (strcmp(what, "-") == 0)
		return read_fd(STDIN_FILENO, out);
	if (stat(what, &st) != 0) {
		/* A reply begins with its code. */
		if (what[0] < '2' || what[0] > '5')
			return -err_errno();
		buf_puts(out, what);
		return 0;
	}
	fd = open(what, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -err_errno();
	rc = read_fd(fd, out);
	close(fd);
	return rc;
}

int
rules_test_select(struct rules_test *t, const char *list, const char *provider, const char *stage,
		  struct buf *why)
{
	const struct conf_provider *providers;
	const struct conf_rule_list *lists;
	size_t n = conf_providers(t->conf, &providers);

	t->list = t->provider = -1;
	t->stage = 0;
	if (list == NULL && conf_rule_lists(t->conf, &lists) == 0) {
		buf_puts(why, "there is no smtp-pattern-list");
		return -E_MISSING;
	}
	if (list != NULL && (t->list = conf_rule_list_find(t->conf, slice_str(list))) < 0) {
		buf_printf(why, "there is no smtp-pattern-list \"%.100s\"", list);
		return -E_MISSING;
	}
	for (size_t i = 0; provider != NULL && i < n; i++) {
		if (slice_eq_nocase(slice_str(providers[i].name), slice_str(provider)))
			t->provider = (int)i;
	}
	if (provider != NULL && t->provider < 0) {
		buf_printf(why, "there is no provider \"%.100s\"", provider);
		return -E_MISSING;
	}
	if (stage != NULL && (t->stage = conf_rule_stage(slice_str(stage))) == 0) {
		buf_printf(why,
			   "there is no stage \"%.100s\": connect, ehlo, mail, rcpt, data, dot",
			   stage);
		return -E_MISSING;
	}
	return 0;
}

/* What is said of one reply ------------------------------------------------------------------- */
struct outcome {
	struct slice text;
	const struct conf_rule_list *list;
	const struct conf_rule *rules; /* all */
	struct rules_hits hits;
	struct rules_verdict verdict;
};

static void
put_rule_text(FILE *out, const struct conf_rule *r)
{
	struct buf b = { 0 };

	buf_printf(&b, "  %s:%u list=%s", r->file, r->line, r->list);
	if (r->category != NULL)
		buf_printf(&b, " category=%s", r->category);
	if (r->after.n > 0) {
		buf_puts(&b, " after=");
		conf_value_put_rate(&b, &r->after);
	}
	if (r->scope != CONF_RULE_QUEUE)
		buf_printf(&b, " scope=%s", conf_rule_scope_name(r->scope));
	buf_puts(&b, r->dry_run ? " dry-run: " : r->last ? " last: " : ": ");
	if (r->actions.set == 0)
		buf_puts(&b, "no action");
	conf_actions_put(&b, &r->actions);
	fprintf(out, "%.*s\n", (int)b.len, buf_slice(&b).p);
	buf_clear(&b);
}

static void
put_text(FILE *out, const struct outcome *o, bool name_list)
{
	const struct rules_verdict *v = &o->verdict;
	struct buf b = { 0 };

	fprintf(out, "%.*s\n", (int)o->text.n, o->text.p);
	for (unsigned i = 0; i < o->hits.n; i++)
		put_rule_text(out, &o->rules[o->hits.rule[i]]);
	if (o->hits.n == 0)
		buf_puts(&b, "  no rule matches");
	else
		buf_printf(&b, "  together: %s%s", v->category != NULL ? v->category : "",
			   v->category != NULL ? ": " : "");
	if (name_list && o->hits.n == 0)
		buf_printf(&b, " in list %s", o->list->name);
	if (o->hits.n > 0 && v->set == 0)
		buf_puts(&b, "no action");
	rules_verdict_put(&b, v);
	if (rules_verdict_has(v, CONF_ACTION_WAIT_REPLY)) {
		buf_puts(&b, v->wait_us > 0 ? " (the reply says " : " (the reply names no time)");
		if (v->wait_us > 0) {
			conf_value_put_interval(&b, v->wait_us);
			buf_puts(&b, ")");
		}
	}
	fprintf(out, "%.*s\n", (int)b.len, buf_slice(&b).p);
	buf_clear(&b);
}

/* "a, b" as [ "a", "b" ]. */
static void
put_words(struct json *j, const char *key, struct buf *words)
{
	struct slice rest = buf_slice(words);

	json_key(j, key);
	json_array_begin(j);
	while (rest.n > 0)
		json_string(j, slice_trim(slice_cut(&rest, ',')));
	json_array_end(j);
	buf_clear(words);
}

static void
put_rule_json(struct json *j, const struct conf_rule *r, const struct conf_provider *providers)
{
	struct buf b = { 0 };
	char place[4200];

	snprintf(place, sizeof place, "%s:%u", r->file, r->line);
	json_object_begin(j);
	json_key_str(j, "rule", place);
	json_key_str(j, "list", r->list);
	json_key_str(j, "reply", r->pattern);
	json_key_str(j, "category", r->category);
	conf_actions_put(&b, &r->actions);
	put_words(j, "actions", &b);
	if (r->after.n > 0)
		conf_value_put_rate(&b, &r->after);
	buf_putc(&b, '\0');
	json_key_str(j, "after", r->after.n > 0 ? buf_slice(&b).p : NULL);
	buf_clear(&b);
	json_key_str(j, "scope", conf_rule_scope_name(r->scope));
	json_key_str(j, "provider", r->provider >= 0 ? providers[r->provider].name : NULL);
	json_key_bool(j, "dryRun", r->dry_run);
	json_key_bool(j, "last", r->last);
	json_object_end(j);
}

static void
put_json(struct json *j, const struct outcome *o, const struct conf_provider *providers)
{
	const struct rules_verdict *v = &o->verdict;
	struct buf b = { 0 };

	json_object_begin(j);
	json_key_string(j, "text", o->text);
	json_key_str(j, "list", o->list->name);
	json_key(j, "rule");
	json_array_begin(j);
	for (unsigned i = 0; i < o->hits.n; i++)
		put_rule_json(j, &o->rules[o->hits.rule[i]], providers);
	json_array_end(j);
	json_key_str(j, "category", v->category);
	json_key_str(j, "bounceCat", rules_bounce_category(v->category));
	rules_verdict_put(&b, v);
	put_words(j, "actions", &b);
	json_key_str(j, "scope", conf_rule_scope_name(v->scope));
	json_key(j, "waitSeconds");
	if (v->wait_us > 0)
		json_u64(j, v->wait_us / 1000000);
	else
		json_null(j);
	json_object_end(j);
}

/* All of them --------------------------------------------------------------------------------- */
struct run {
	const struct rules_test *t;
	struct rules *rules;
	const struct conf_provider *providers;
	FILE *out;
	struct json *json;
	unsigned bad;
};

static void
ask(struct run *run, int list, struct slice text, bool name_list)
{
	const struct conf *c = run->t->conf;
	const struct conf_rule_list *lists;
	struct rules_query q = {
		.list = list, .provider = run->t->provider, .stage = run->t->stage, .text = text
	};
	struct outcome o = { .text = text };

	(void)conf_rule_lists(c, &lists);
	(void)conf_rules(c, &o.rules);
	o.list = &lists[list];
	rules_match(run->rules, &q, &o.hits);
	rules_merge(c, o.hits.rule, o.hits.n, o.hits.wait_us, &o.verdict);
	if (run->json != NULL)
		put_json(run->json, &o, run->providers);
	else
		put_text(run->out, &o, name_list);
}

static void
take_reply(struct run *run, struct slice text)
{
	const struct conf_rule_list *lists;
	size_t n = conf_rule_lists(run->t->conf, &lists);

	if (run->t->list >= 0) {
		ask(run, run->t->list, text, false);
		return;
	}
	for (size_t i = 0; i < n; i++)
		ask(run, (int)i, text, n > 1);
}

static void
take_garbage(struct run *run, struct slice line)
{
	char text[200];

	run->bad++;
	str_escape(text, sizeof text, line);
	if (run->json == NULL) {
		fprintf(run->out, "%s\n  not an SMTP reply\n", text);
		return;
	}
	json_object_begin(run->json);
	json_key_str(run->json, "text", text);
	json_key_str(run->json, "error", "not an SMTP reply");
	json_object_end(run->json);
}

unsigned
rules_test_run(const struct rules_test *t, struct slice replies, FILE *out, struct json *json)
{
	struct run run = { .t = t, .rules = rules_new(t->conf, NULL), .out = out, .json = json };
	struct smtp_reply reply = { 0 };
	struct buf line = { 0 };

	(void)conf_providers(t->conf, &run.providers);
	while (replies.p != NULL) {
		struct slice one = slice_cut(&replies, '\n'), text;
		enum smtp_reply_step step;
		size_t used;

		if (one.n > 0 && one.p[one.n - 1] == '\r')
			one.n--;
		if (slice_trim(one).n == 0)
			continue;
		buf_reset(&line);
		buf_put_slice(&line, one);
		buf_puts(&line, "\r\n");
		step = smtp_reply_feed(&reply, buf_slice(&line), &used, &text);
		if (step == SMTP_REPLY_DONE)
			take_reply(&run, smtp_reply_text(&reply));
		else if (step != SMTP_REPLY_LINE)
			take_garbage(&run, one);
		if (step != SMTP_REPLY_LINE)
			smtp_reply_begin(&reply);
	}
	if (smtp_reply_begun(&reply))
		take_garbage(&run, smtp_reply_text(&reply)); /* its last line is missing */
	smtp_reply_clear(&reply);
	buf_clear(&line);
	rules_free(&run.rules);
	return run.bad;
}
