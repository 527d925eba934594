/* rules_bench: 400 patterns against real replies: Vectorscan with what is around it, beside a loop
 * of PCRE2's JIT over the same patterns in the same run. Do they agree, and how many times faster
 * is it?
 *
 *   rules_bench [-s SEED] [-n PATTERNS] [-d FOLDER] [-x TIMES]
 *
 * FOLDER holds patterns.tsv, replies.tsv, reply-mix.txt; without it the shipped rules and our own
 * samples are used. What is missing of the patterns is made up, with beginnings that many share.
 * Exit status 1: they do not agree, or it is less than TIMES times faster. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/rules/rules.h"
#include "common/smtp/smtp_reply.h"

#define ROUNDS   7
#define ROUND_US 200000

static uint64_t seed;

static uint32_t
draw(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

struct texts {
	struct slice *v;
	size_t n, cap;
};

static void
add(struct texts *t, struct slice s)
{
	void *p = t->v;

	mem_grow(&p, &t->cap, t->n + 1, sizeof *t->v);
	t->v = p;
	t->v[t->n++] = slice_of(mem_memdup0(s.p, s.n), s.n);
}

/* Files --------------------------------------------------------------------------------------- */
static bool
read_file(const char *folder, const char *name, struct buf *out)
{
	char path[4096];
	FILE *f;
	size_t n;

	snprintf(path, sizeof path, "%s/%s", folder, name);
	f = fopen(path, "r");
	if (f == NULL)
		return false;
	while ((n = fread(buf_room(out, 65536), 1, 65536, f)) > 0)
		buf_added(out, n);
	fclose(f);
	return true;
}

/* The fields of one column of a table; of a file without columns (NULL) all lines. */
static bool
read_column(struct texts *t, const char *folder, const char *name, const char *column)
{
	struct buf file = { 0 };
	struct slice rest, head;
	int at = 0;

	if (!read_file(folder, name, &file))
		return false;
	rest = buf_slice(&file);
	if (column != NULL) {
		head = slice_cut(&rest, '\n');
		while (head.p != NULL && !slice_is(slice_cut(&head, '\t'), column))
			at++;
	}
	while (rest.p != NULL) {
		struct slice row = slice_cut(&rest, '\n'), one = row;

		for (int i = 0; column != NULL && i <= at && row.p != NULL; i++)
			one = slice_cut(&row, '\t');
		if (one.n > 0)
			add(t, one);
	}
	buf_clear(&file);
	return true;
}

static void
shipped_patterns(struct texts *t)
{
	struct buf snapshot = { 0 };
	struct conf_report r = { 0 };
	const struct conf_rule *rules;
	struct conf *c;
	size_t n;

	CHECK(conf_snapshot_read("etc/sluice.conf", &snapshot, &r) == 0);
	CHECK(conf_parse(buf_slice(&snapshot), &c, &r) == 0);
	n = conf_rules(c, &rules);
	for (size_t i = 0; i < n; i++)
		add(t, slice_str(rules[i].pattern));
	conf_free(&c);
	conf_report_clear(&r);
	buf_clear(&snapshot);
}

/* What servers put behind the words: a page, a name, an id. */
static void
lengthen(struct texts *t)
{
	for (size_t i = 0; i < t->n; i++) {
		struct buf b = { 0 };

		buf_put_slice(&b, t->v[i]);
		buf_printf(&b,
			   " - https://postmaster.example.net/help?ip=192.0.2.%u&id=%08x "
			   "(mx%u.example.net)",
			   draw(255), draw(1u << 30), draw(9));
		t->v[i] = slice_of(mem_memdup0(buf_slice(&b).p, b.len), b.len);
		buf_clear(&b);
	}
}

/* Replies as the client has them: one line, cleaned. */
static void
as_read(struct texts *t)
{
	for (size_t i = 0; i < t->n; i++) {
		struct smtp_reply reply = { 0 };
		struct buf line = { 0 };
		struct slice last;
		size_t used;

		buf_put_slice(&line, t->v[i]);
		buf_puts(&line, "\r\n");
		CHECK(smtp_reply_feed(&reply, buf_slice(&line), &used, &last) == SMTP_REPLY_DONE);
		t->v[i] = slice_of(mem_memdup0(reply.text, reply.text_n), reply.text_n);
		smtp_reply_clear(&reply);
		buf_clear(&line);
	}
}

/* Made-up patterns ---------------------------------------------------------------------------- */
static const char *const beginnings[] = {
	"^4\\d\\d .*4\\.7\\.",
	"^550 .*5\\.7\\.",
	"Client host \\[.*\\] blocked using ",
	"temporarily deferred due to ",
	"Recipient address rejected: ",
	"too many (messages|connections) from ",
	"^421 .*try again ",
	"exceeded the (maximum|allowed) ",
	"\\[(TSS?|IPTS)",
	"Your (IP|domain) has been ",
	"message rejected (for|due to) ",
	"AUP#",
};
static const char *const words[] = { "reputation", "volume",  "policy",  "listed",
				     "unknown",    "spam",    "content", "rate",
				     "hourly",     "daily",   "session", "sender",
				     "network",    "bounces", "limit",   "filter" };

static void
make_pattern(struct texts *t, unsigned number)
{
	struct buf b = { 0 };
	const char *w = words[draw(16)], *v = words[draw(16)];

	buf_puts(&b, beginnings[draw(12)]);
	switch (draw(5)) {
	case 0:
		buf_printf(&b, "%s (of|by) %s-%u\\b", w, v, number);
		break;
	case 1:
		buf_printf(&b, "(%s|%s) ?%u", w, v, number);
		break;
	case 2:
		buf_printf(&b, "%s.*[a-f]%u", w, number);
		break;
	case 3: /* names a time */
		buf_printf(&b, ".*%s %u.*in (\\d+) (seconds|minutes)", w, number);
		break;
	default:
		buf_printf(&b, "%s{1,3}\\(%s%u\\)", w, v, number);
	}
	add(t, buf_slice(&b));
	buf_clear(&b);
}

/* A rule for each; those whose groups may hold a time wait for it. */
static struct conf *
conf_of(const struct texts *patterns, struct buf *snapshot)
{
	struct buf text = { 0 };
	struct conf_report r = { 0 };
	struct conf *c;

	buf_puts(&text, "domains = ( { name = \"*\"; smtp-pattern-list = \"l\"; } );\n"
			"smtp-pattern-lists = ( { name = \"l\"; rules = (\n");
	for (size_t i = 0; i < patterns->n; i++) {
		struct slice p = patterns->v[i];
		bool waits = memmem(p.p, p.n, "(\\d+)", 5) != NULL ||
			     memmem(p.p, p.n, "greylist", 8) != NULL;

		buf_printf(&text, "%s{ reply = \"/", i > 0 ? "," : "");
		for (size_t k = 0; k < p.n; k++) {
			if (p.p[k] == '\\' || p.p[k] == '"')
				buf_putc(&text, '\\');
			buf_putc(&text, p.p[k]);
		}
		buf_printf(&text, "/\"; actions = [ \"mode=backoff\"%s ]; }\n",
			   waits ? ", \"wait-reply\"" : "");
	}
	buf_puts(&text, "); } );\n");
	conf_snapshot_text(snapshot, "bench", buf_slice(&text));
	if (conf_parse(buf_slice(snapshot), &c, &r) != 0) {
		fprintf(stderr, "%.*s", (int)r.text.len, buf_slice(&r.text).p);
		exit(2);
	}
	conf_report_clear(&r);
	buf_clear(&text);
	return c;
}

/* The two ----------------------------------------------------------------------------------------
 */
struct loop {
	pcre2_code **codes;
	size_t n;
	pcre2_match_data *data;
};

static void
loop_open(struct loop *l, const struct texts *patterns)
{
	l->n = patterns->n;
	l->codes = mem_calloc(l->n, sizeof(pcre2_code *));
	l->data = pcre2_match_data_create(10, NULL);
	for (size_t i = 0; i < l->n; i++) {
		int error;
		PCRE2_SIZE at;

		l->codes[i] = pcre2_compile((PCRE2_SPTR)patterns->v[i].p, patterns->v[i].n,
					    PCRE2_CASELESS | PCRE2_DOTALL, &error, &at, NULL);
		CHECK(l->codes[i] != NULL &&
		      pcre2_jit_compile(l->codes[i], PCRE2_JIT_COMPLETE) == 0);
	}
}

/* How many match; the first RULE_HITS_MAX into rules[]. */
static unsigned
loop_match(const struct loop *l, struct slice text, uint32_t *rules)
{
	unsigned n = 0;

	for (size_t i = 0; i < l->n && n < RULE_HITS_MAX; i++) {
		/* 0: with more groups than there is room for. */
		if (pcre2_jit_match(l->codes[i], (PCRE2_SPTR)text.p, text.n, 0, 0, l->data, NULL) >=
		    0)
			rules[n++] = (uint32_t)i;
	}
	return n;
}

static unsigned sink; /* what came out: nothing may be left out as unused */

static double
time_loop(const struct loop *l, const struct texts *t)
{
	uint64_t began = clock_boot_us(), n = 0;
	uint32_t rules[RULE_HITS_MAX];

	do {
		for (size_t i = 0; i < t->n; i++)
			sink += loop_match(l, t->v[i], rules);
		n += t->n;
	} while (clock_boot_us() - began < ROUND_US);
	return (double)(clock_boot_us() - began) * 1000 / (double)n;
}

static double
time_rules(struct rules *r, const struct texts *t)
{
	uint64_t began = clock_boot_us(), n = 0;
	struct rules_query q = { .provider = -1 };
	struct rules_hits hits;

	do {
		for (size_t i = 0; i < t->n; i++) {
			q.text = t->v[i];
			rules_match(r, &q, &hits);
			sink += hits.n + (unsigned)hits.wait_us;
		}
		n += t->n;
	} while (clock_boot_us() - began < ROUND_US);
	return (double)(clock_boot_us() - began) * 1000 / (double)n;
}

/* Texts on which not all three say the same. */
static unsigned
disagreements(struct rules *fast, struct rules *plain, const struct loop *l, const struct texts *t,
	      unsigned *hits, unsigned *waits)
{
	unsigned bad = 0;

	for (size_t i = 0; i < t->n; i++) {
		struct rules_query q = { .provider = -1, .text = t->v[i] };
		struct rules_hits a, b;
		uint32_t rules[RULE_HITS_MAX];
		unsigned n = loop_match(l, t->v[i], rules);

		rules_match(fast, &q, &a);
		rules_match(plain, &q, &b);
		*hits += a.n;
		*waits += a.wait_us > 0;
		if (a.n != n || b.n != n || a.wait_us != b.wait_us ||
		    memcmp(a.rule, rules, n * sizeof *rules) != 0 ||
		    memcmp(b.rule, rules, n * sizeof *rules) != 0) {
			printf("  they do not agree on: %.*s\n", (int)t->v[i].n, t->v[i].p);
			bad++;
		}
	}
	return bad;
}

static int
order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int
run(const struct texts *patterns, const struct texts *replies, double wanted)
{
	struct buf snapshot = { 0 }, compiled = { 0 };
	struct conf *c = conf_of(patterns, &snapshot);
	uint64_t began = clock_boot_us(), compile_us, load_us;
	double loop_ns[ROUNDS], rules_ns[ROUNDS], times;
	unsigned hits = 0, waits = 0, bad;
	struct rules *fast, *plain = rules_new(c, NULL);
	struct loop loop;

	rules_compile(c, pattern_vectorscan(), &compiled);
	compile_us = clock_boot_us() - began;
	conf_free(&c);
	conf_snapshot_add_rules(&snapshot, buf_slice(&compiled));
	{
		struct conf_report r = { 0 };

		CHECK(conf_parse(buf_slice(&snapshot), &c, &r) == 0);
	}
	began = clock_boot_us();
	fast = rules_new(c, pattern_vectorscan());
	load_us = clock_boot_us() - began;
	CHECK(rules_compiled_here(fast) == 0);
	loop_open(&loop, patterns);
	bad = disagreements(fast, plain, &loop, replies, &hits, &waits);
	for (int i = 0; i < ROUNDS;
	     i++) { /* in turns; what else the machine does only slows down */
		loop_ns[i] = time_loop(&loop, replies);
		rules_ns[i] = time_rules(fast, replies);
	}
	qsort(loop_ns, ROUNDS, sizeof *loop_ns, order);
	qsort(rules_ns, ROUNDS, sizeof *rules_ns, order);
	times = loop_ns[0] / rules_ns[0];
	printf("compiled in %.0f ms, %zu KiB, loaded in %.1f ms\n", (double)compile_us / 1000,
	       compiled.len / 1024, (double)load_us / 1000);
	printf("%zu replies: %u matches, %u times to wait; %u on which the engines do not agree\n",
	       replies->n, hits, waits, bad);
	printf("a reply, best of %d rounds: PCRE2 JIT, one by one %.2f us; %s %.3f us: %.0f "
	       "times as fast (wanted: %.0f)\n",
	       ROUNDS, loop_ns[0] / 1000,
	       pattern_vectorscan() != NULL ? "vectorscan" : "pcre2", rules_ns[0] / 1000,
	       times, wanted);
	rules_free(&fast);
	rules_free(&plain);
	conf_free(&c);
	return bad > 0 || times < wanted;
}

int
main(int argc, char **argv)
{
	struct texts patterns = { 0 }, replies = { 0 };
	const char *folder = NULL;
	unsigned total = 400;
	double wanted = pattern_vectorscan() != NULL ? 40 : 0;
	size_t given;
	int c;

	seed = clock_wall_us() % 1000000;
	while ((c = getopt(argc, argv, "s:n:d:x:")) != -1) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (c == 'n')
			total = (unsigned)atoi(optarg);
		else if (c == 'd')
			folder = optarg;
		else if (c == 'x')
			wanted = atof(optarg);
		else
			return 2;
	}
	printf("seed %llu", (unsigned long long)seed); /* before it is drawn from */
	if (folder != NULL) {
		if (!read_column(&patterns, folder, "patterns.tsv", "pcre") ||
		    !read_column(&replies, folder, "replies.tsv", "text") ||
		    !read_column(&replies, folder, "reply-mix.txt", NULL)) {
			fprintf(stderr,
				"%s: patterns.tsv, replies.tsv, reply-mix.txt are wanted there\n",
				folder);
			return 2;
		}
	} else {
		shipped_patterns(&patterns);
		(void)read_column(&replies, "tests/unit/rules", "replies.tsv", "text");
		lengthen(&replies);
	}
	given = patterns.n;
	printf(": %zu patterns given", given);
	while (patterns.n < total)
		make_pattern(&patterns, (unsigned)patterns.n);
	printf(", %zu made up\n", patterns.n - given);
	as_read(&replies);
	return run(&patterns, &replies, wanted);
}
