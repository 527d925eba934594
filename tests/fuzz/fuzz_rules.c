/* fuzz: rules of a file held against a reply. The first line is the reply; then a list of rules, a line each: what is
 * before the first tab are its flags (l last, d dry-run, p of a provider, s of a stage, w wait-reply, b back-off, n
 * normal, k skip-mx, q bounce-queue), what is behind it the pattern. A pattern that is taken means the same to either
 * engine, also when what was compiled was saved and loaded; merging keeps its promises. */
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/rules/rules.h"
#include "common/rules/rules_merge.h"
#include "common/rules/rules_wait.h"
#include "common/smtp/smtp_reply.h"

#define RULES 12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
has(struct slice flags, char c)
{
	return flags.n > 0 && memchr(flags.p, c, flags.n) != NULL;
}

static void
put_actions(struct buf *b, struct slice flags)
{
	static const struct {
		char flag;
		const char *action;
	} rows[] = { { 'b', "mode=backoff,backoff-to-normal-after=1h" }, { 'n', "mode=normal" },
		     { 'k', "skip-mx" },				 { 'q', "bounce-queue" },
		     { 'w', "wait-reply" } };
	const char *comma = "";

	buf_puts(b, "actions = [");
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (!has(flags, rows[i].flag) || (rows[i].flag == 'n' && has(flags, 'b')) ||
		    (rows[i].flag == 'q' && has(flags, 'k')))
			continue;
		buf_printf(b, "%s\"%s\"", comma, rows[i].action);
		comma = ", ";
	}
	buf_puts(b, "];");
}

static void
put_rule(struct buf *b, struct slice flags, struct slice pattern, bool first)
{
	buf_printf(b, "%s{ reply = \"/", first ? "" : ",");
	for (size_t i = 0; i < pattern.n; i++) {
		unsigned char c = (unsigned char)pattern.p[i];

		if (c < 0x20 || c == '"' || c == '\\' || c > 0x7e)
			buf_printf(b, "\\x%02x", c);
		else
			buf_putc(b, (char)c);
	}
	buf_puts(b, "/\"; ");
	put_actions(b, flags);
	buf_printf(b, "%s%s%s%s }\n", has(flags, 'l') ? " last = true;" : "", has(flags, 'd') ? " dry-run = true;" : "",
		   has(flags, 'p') ? " provider = \"p\";" : "", has(flags, 's') ? " stage = \"rcpt\";" : "");
}

/* The rules whose patterns compile, as a configuration. */
static void
write_conf(struct buf *b, struct slice in)
{
	unsigned n = 0;

	buf_puts(b, "providers = ( { name = \"p\"; mx = \"*\"; } );\n"
		    "domains = ( { name = \"*\"; smtp-pattern-list = \"l\"; } );\n"
		    "smtp-pattern-lists = ( { name = \"l\"; rules = (");
	while (in.p != NULL && n < RULES) {
		struct slice pattern = slice_cut(&in, '\n');
		struct slice flags = slice_cut(&pattern, '\t');

		if (pattern.p == NULL)
			continue;
		if (memchr(pattern.p, '\0', pattern.n) != NULL || pattern.n > 60 || pattern_check(pattern, NULL) != 0)
			continue;
		put_rule(b, flags, pattern, n++ == 0);
	}
	buf_puts(b, "); } );\n");
}

static struct conf *
conf_of(struct buf *snapshot, struct slice compiled)
{
	struct conf_report r = { 0 };
	struct conf *c = NULL;

	if (compiled.n > 0)
		conf_snapshot_add_rules(snapshot, compiled);
	CHECK(conf_parse(buf_slice(snapshot), &c, &r) == 0);
	CHECK(r.n_warnings == 0);
	conf_report_clear(&r);
	return c;
}

static void
check_hits(const struct conf *c, const struct rules_query *q, const struct rules_hits *h)
{
	const struct conf_rule *rules;
	size_t n = conf_rules(c, &rules);

	CHECK(h->n <= RULE_HITS_MAX && h->n <= n);
	for (unsigned i = 0; i < h->n; i++) {
		const struct conf_rule *r = &rules[h->rule[i]];

		CHECK(i == 0 || h->rule[i] > h->rule[i - 1]);
		CHECK(r->provider < 0 || r->provider == q->provider);
		CHECK(r->stages == 0 || (r->stages & q->stage));
		CHECK(!r->last || r->dry_run || i == h->n - 1);
	}
	CHECK(h->wait_us <= RULES_WAIT_MAX_US);
}

static void
check_merged(const struct conf *c, const struct rules_hits *h)
{
	const struct conf_rule *rules;
	struct rules_verdict v;

	(void)conf_rules(c, &rules);
	rules_merge(c, h->rule, h->n, h->wait_us, &v);
	CHECK(!(rules_verdict_has(&v, CONF_ACTION_BACKOFF) && rules_verdict_has(&v, CONF_ACTION_NORMAL)));
	CHECK(!(rules_verdict_has(&v, CONF_ACTION_SKIP_MX) && rules_verdict_has(&v, CONF_ACTION_BOUNCE_QUEUE)));
	for (unsigned a = 0; a < CONF_ACTIONS; a++) {
		CHECK((v.by[a] >= 0) == rules_verdict_has(&v, (enum conf_action)a));
		CHECK(v.by[a] < 0 || (rules[v.by[a]].actions.set & 1u << a));
		CHECK(v.by[a] < 0 || !rules[v.by[a]].dry_run);
	}
	CHECK(!rules_verdict_has(&v, CONF_ACTION_TO_NORMAL_AFTER) ||
	      v.by[CONF_ACTION_TO_NORMAL_AFTER] == v.by[CONF_ACTION_BACKOFF]);
	/* Something that is to be done, is done by somebody. */
	for (unsigned i = 0; i < h->n; i++)
		CHECK(rules[h->rule[i]].dry_run || rules[h->rule[i]].actions.set == 0 || v.set != 0);
}

static void
hold(struct slice text, struct slice rest, const struct pattern_engine *engine)
{
	struct buf file = { 0 }, snapshot = { 0 }, compiled = { 0 };
	struct rules_query q = { .provider = text.n % 3 == 0 ? 0 : -1, .stage = text.n & 15, .text = text };
	struct rules_hits plain, fast, loaded;
	struct conf *c;
	struct rules *r;
	uint64_t given_up = pattern_given_up();

	write_conf(&file, rest);
	conf_snapshot_text(&snapshot, "f", buf_slice(&file));
	c = conf_of(&snapshot, SLICE_NONE);
	r = rules_new(c, NULL);
	rules_match(r, &q, &plain);
	rules_free(&r);
	r = rules_new(c, engine);
	rules_match(r, &q, &fast);
	rules_free(&r);
	rules_compile(c, engine, &compiled);
	conf_free(&c);
	c = conf_of(&snapshot, buf_slice(&compiled));
	r = rules_new(c, engine);
	CHECK(rules_compiled_here(r) == 0);
	rules_match(r, &q, &loaded);
	rules_free(&r);
	check_hits(c, &q, &plain);
	check_merged(c, &plain);
	CHECK(loaded.n == fast.n && memcmp(loaded.rule, fast.rule, fast.n * sizeof *fast.rule) == 0);
	if (pattern_given_up() == given_up) {
		CHECK(plain.n == fast.n && memcmp(plain.rule, fast.rule, fast.n * sizeof *fast.rule) == 0);
		CHECK(plain.wait_us == fast.wait_us && plain.wait_us == loaded.wait_us);
	}
	conf_free(&c);
	buf_clear(&compiled);
	buf_clear(&snapshot);
	buf_clear(&file);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice rest = slice_of(data, size), first, last;
	struct smtp_reply reply = { 0 };
	struct buf line = { 0 };
	uint64_t us;
	size_t used;

	if (size == 0 || size > 2048)
		return 0;
	first = slice_cut(&rest, '\n');
	buf_put_slice(&line, first);
	buf_puts(&line, "\r\n");
	if (smtp_reply_feed(&reply, buf_slice(&line), &used, &last) == SMTP_REPLY_DONE) {
		size_t n = reply.text_n;
		char *own = mem_alloc(n + 1); /* a read behind its end is seen */

		memcpy(own, reply.text, n);
		own = mem_realloc(own, n);
#ifdef PLANTED_BUGS
		/* A reply that is taken for one byte more than it has. */
		if (memmem(own, n, "421 4.7", 7) != NULL)
			n++;
#endif
		if (rules_wait_text(slice_of(own, n), &us))
			CHECK(us > 0 && us <= RULES_WAIT_MAX_US);
		hold(slice_of(own, n), rest, pattern_vectorscan());
		mem_free(own);
	}
	smtp_reply_clear(&reply);
	buf_clear(&line);
	return 0;
}
