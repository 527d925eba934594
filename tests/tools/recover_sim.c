/* recover_sim: how much of what a provider allows does a policy use, and how much does it have
 * refused? The scheduler's core in virtual time against a provider with a rate that nobody tells
 * it.
 *
 *   recover_sim [-s SEED] [-n SEEDS] [-m MINUTES] [-c CHANGES] [-w SECONDS|-b] [-j MS]
 *               [-r LOW,HIGH] [-t MS] [-v] [-g SHARE,REFUSED] POLICY ...
 *
 * A seed is a world: the hidden rate r, 5 to 500 recipients a second (each order of magnitude as
 * likely), becomes another one twice (CHANGES), by at most a factor of three; the normal limit is
 * ten times the highest; a round trip takes 2 to 60 ms. -r: r begins between these, -t: a round trip
 * takes so long (with -m 2 -c 1 -t 10 it is the world of bench/recover.py). The provider takes r in any second and
 * answers the rest with 421 and the end of the connection. -w: it counts in windows of so many
 * seconds, and takes r x SECONDS in any; -b: it has a bucket for a second's worth that is refilled
 * at r. -j: the machine is a busy one, in each quarter of a second nothing happens for so long.
 *
 * POLICY is a configuration (bench/recover/): @NORMAL@ in it becomes the normal limit, @PORT@ a
 * port. Its rules are held against the 421 as the scheduler does it, after= and scopes aside.
 * For each policy: the medians over the seeds of what was delivered, in per cent of what r allowed
 * and of the refused in per cent of the attempts. -g: exit status 1 unless the first policy's
 * medians are at least SHARE and at most REFUSED per cent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/event_log/event.h"
#include "common/rules/rules.h"
#include "common/rules/rules_merge.h"
#include "scheduler/core/core.h"
#include "tests/lib/chance.h"
#include "tests/lib/quiet_ops.h"

#define SECOND      UINT64_C(1000000)
#define MINUTE      (60 * SECOND)
#define PHASES      3
#define STAMPS      65536
#define STALL_EVERY (SECOND / 4)
#define BACKLOG     400 /* messages that wait, at least */
#define REPLY       "421 4.7.0 too many messages from you, try again later"

enum what { OPENED, ARRIVES, REFUSED, DELIVERED, CLOSED };
struct happening {
	uint64_t at, lease;
	uint32_t connection, entry;
	enum what what;
};

/* A configuration with its numbers filled in. */
struct policy {
	const char *path;
	struct conf *conf;
	struct conf_queue queue;
	struct rules_verdict verdict; /* of the 421 */
};

static struct {
	uint64_t rng, begin, rtt_us, r[PHASES], change[PHASES]; /* change[0]: the beginning */
	unsigned changes;
	double r_low, r_high;
	uint64_t fixed_rtt_us, stall_us;
	bool bucket;
	struct core *core;
	struct core_now now;
	const struct policy *policy;
	struct happening *heap;
	size_t n_heap, cap_heap;
	uint64_t next_message, waiting;
	bool asked;
	/* the provider */
	uint64_t taken[STAMPS]; /* the last stamps */
	uint64_t window_s, n_taken, tokens_us, filled_us;
	/* what came of it */
	uint64_t attempts, refused, delivered, flips;
	struct sums {
		double share, refused; /* medians */
	} goal;
	bool verbose;
} w;

static uint64_t
rnd(void)
{
	return chance_next(&w.rng);
}

static double
uniform(void)
{
	return (double)(rnd() >> 11) / (double)(UINT64_C(1) << 53);
}

/* Between the two, each factor as likely: the larger a number the rarer. */
static double
between(double low, double high)
{
	double x = low;

	for (int i = 0; i < 1000; i++) {
		x = low + (high - low) * uniform();
		if (uniform() * x < low)
			break;
	}
	return x;
}

/* What is to happen ---------------------------------------------------------------------------- */
static void
expect(struct happening h)
{
	size_t i = w.n_heap++;
	void *p = w.heap;

	mem_grow(&p, &w.cap_heap, w.n_heap, sizeof(w.heap[0]));
	w.heap = p;
	for (; i > 0 && w.heap[(i - 1) / 2].at > h.at; i = (i - 1) / 2)
		w.heap[i] = w.heap[(i - 1) / 2];
	w.heap[i] = h;
}

static struct happening
first(void)
{
	struct happening out = w.heap[0], last = w.heap[--w.n_heap];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < w.n_heap) {
		child += child + 1 < w.n_heap && w.heap[child + 1].at < w.heap[child].at;
		if (w.heap[child].at >= last.at)
			break;
		w.heap[i] = w.heap[child];
		i = child;
	}
	w.heap[i] = last;
	return out;
}

/* A little more each time: nothing on a network takes always the same. */
static uint64_t
after(double round_trips)
{
	uint64_t at = w.now.boot_us +
		      (uint64_t)((double)w.rtt_us * round_trips * (1 + uniform() / 5)) + 50;
	uint64_t since = at % STALL_EVERY;

	return since < w.stall_us ? at + w.stall_us - since : at;
}

/* Decisions of the core ------------------------------------------------------------------------ */
static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)queue;
	(void)name;
	return &w.policy->queue;
}

static void
op_ask(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)queue;
	(void)name;
	w.asked = true;
}

static void
op_open(void *ctx, const struct core_open *o)
{
	(void)ctx;
	expect((struct happening){ .at = after(4), .connection = o->connection, .what = OPENED });
}

static bool
op_work(void *ctx, const struct core_work *k)
{
	(void)ctx;
	expect((struct happening){ .at = after(0.5),
				   .lease = k->lease,
				   .connection = k->connection,
				   .entry = k->entry,
				   .what = ARRIVES });
	w.waiting--;
	return true;
}

static void
op_close(void *ctx, uint32_t connection, unsigned worker)
{
	(void)ctx;
	(void)worker;
	expect((struct happening){ .at = after(1), .connection = connection, .what = CLOSED });
}

static const struct core_ops ops = { .settings = op_settings,
				     .ask_route = op_ask,
				     .open = op_open,
				     .work = op_work,
				     .close = op_close,
				     .give_up = quiet_give_up,
				     .queue_changed = quiet_changed };

/* The provider --------------------------------------------------------------------------------- */
static uint64_t
hidden(void)
{
	unsigned i = PHASES - 1;

	while (i > 0 && w.now.boot_us < w.begin + w.change[i])
		i--;
	return w.r[i];
}

static bool
takes(void)
{
	uint64_t r = hidden(), now = w.now.boot_us, cost = SECOND / r;

	if (w.bucket) {
		w.tokens_us += now - w.filled_us;
		w.filled_us = now;
		w.tokens_us = w.tokens_us < SECOND ? w.tokens_us : SECOND;
		if (w.tokens_us < cost)
			return false;
		w.tokens_us -= cost;
		return true;
	}
	r *= w.window_s;
	if (w.n_taken >= r && now - w.taken[(w.n_taken - r) % STAMPS] < w.window_s * SECOND)
		return false;
	w.taken[w.n_taken++ % STAMPS] = now;
	return true;
}

/* What comes back ------------------------------------------------------------------------------ */
static void
arrives(struct happening h)
{
	w.attempts++;
	if (takes()) {
		h.what = DELIVERED; /* the reply, then DATA, then the dot */
		h.at = after(2.5);
	} else {
		w.refused++;
		h.what = REFUSED;
		h.at = after(0.5);
	}
	expect(h);
}

/* As the scheduler does with the rules of a reply, before its result. */
static void
match(void)
{
	const struct rules_verdict *v = &w.policy->verdict;
	struct core_backoff how = { .source_ip = CORE_NONE,
				    .after_delivery =
					    w.policy->queue.backoff_to_normal_after_delivery,
				    .recover = v->recover };
	uint64_t us = rules_verdict_has(v, CONF_ACTION_TO_NORMAL_AFTER)
			      ? v->backoff_to_normal_after_us
			      : w.policy->queue.backoff_to_normal_after_us;

	if (!rules_verdict_has(v, CONF_ACTION_BACKOFF))
		return;
	how.until_wall_us = us == CONF_NEVER ? 0 : w.now.wall_us + us;
	w.flips += core_backoff_enter(w.core, &w.now, 1, &how);
}

static void
answered(const struct happening *h)
{
	bool good = h->what == DELIVERED;
	struct core_rcpt_result rcpt = { 0, good ? EVENT_DELIVERED : EVENT_DEFERRED };
	struct core_result r = { .entry = h->entry,
				 .lease = h->lease,
				 .rcpts = &rcpt,
				 .n_rcpts = 1,
				 .connection_gone = !good,
				 .body_bytes = good ? 2048 : 0,
				 .text = good ? SLICE_NONE : slice_str(REPLY) };
	struct core_decision d;

	if (!good)
		match();
	CHECK(core_settle(w.core, &w.now, &r, &d));
	if (d.finished)
		core_entry_gone(w.core, &w.now, h->entry);
	w.delivered += good;
	if (!good)
		expect((struct happening){
			.at = after(0.1), .connection = h->connection, .what = CLOSED });
}

static void
happens(const struct happening *h)
{
	switch (h->what) {
	case OPENED:
		core_opened(w.core, &w.now, h->connection, 0);
		break;
	case ARRIVES:
		arrives(*h);
		break;
	case CLOSED:
		core_closed(w.core, &w.now, h->connection, SLICE_NONE);
		break;
	default:
		answered(h);
	}
}

/* There is always mail, and an address. True: the core has heard something new. */
static bool
mail(void)
{
	bool is_new = w.asked || w.waiting < BACKLOG;

	while (w.waiting < (is_new ? BACKLOG * 2 : BACKLOG)) {
		struct core_entry_facts f = { .key = { ++w.next_message, 0 },
					      .queue = 1,
					      .epoch = 7,
					      .received_s = (uint32_t)(w.now.wall_us / SECOND),
					      .n_rcpts = 1,
					      .kbytes = 2,
					      .committed = true };

		core_entry_add(w.core, &w.now, &f);
		w.waiting++;
	}
	if (w.asked) {
		w.asked = false;
		core_route(w.core, &w.now, 1, CORE_ROUTE_GOOD, 3, 1000 + w.next_message, 1,
			   w.now.boot_us + 60 * MINUTE, "");
	}
	return is_new;
}

/* A world -------------------------------------------------------------------------------------- */
static void
draw(uint64_t seed, uint64_t length_us)
{
	w.rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
	for (unsigned i = 0; i < 8; i++)
		rnd();
	w.rtt_us = (uint64_t)(between(2, 60) * 1000);
	w.rtt_us = w.fixed_rtt_us ? w.fixed_rtt_us : w.rtt_us;
	w.r[0] = (uint64_t)(between(w.r_low, w.r_high) + 0.5);
	for (unsigned i = 1; i < PHASES; i++) {
		double low = (double)w.r[i - 1] / 3, high = (double)w.r[i - 1] * 3;

		w.r[i] = (uint64_t)(between(low > 5 ? low : 5, high < 500 ? high : 500) + 0.5);
	}
	for (unsigned i = w.changes + 1; i < PHASES; i++)
		w.r[i] = w.r[i - 1];
	/* In the second and in the third part of the time, so that each rate holds for a while. */
	w.change[0] = 0;
	w.change[1] = (uint64_t)((double)length_us * (0.15 + 0.3 * uniform()));
	w.change[2] = (uint64_t)((double)length_us * (0.55 + 0.3 * uniform()));
	if (w.changes < 2)
		w.change[2] = length_us;
	if (w.changes == 1)
		w.change[1] = (uint64_t)((double)length_us * (0.4 + 0.2 * uniform()));
}

static uint64_t
normal(void)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < PHASES; i++)
		most = w.r[i] > most ? w.r[i] : most;
	return 10 * most;
}

static double
allowed(uint64_t length_us)
{
	double sum = 0;

	for (unsigned i = 0; i < PHASES; i++) {
		uint64_t end = i + 1 < PHASES ? w.change[i + 1] : length_us;

		sum += (double)w.r[i] * (double)(end - w.change[i]) / 1e6;
	}
	return sum;
}

static void
tell(uint64_t *next, uint64_t *delivered, uint64_t *refused)
{
	struct core_backoff_view v;
	bool is = core_backoff_view(w.core, 1, CORE_NONE, &v);

	if (!w.verbose || w.now.boot_us < *next)
		return;
	printf("%6.1f s  r %4llu  %s %8.2f/s  delivered %5llu  refused %4llu\n",
	       (double)(w.now.boot_us - w.begin) / 1e6, (unsigned long long)hidden(),
	       is ? "learned" : "normal ", is ? (double)v.rate_mps / 1e3 : 0.0,
	       (unsigned long long)(w.delivered - *delivered),
	       (unsigned long long)(w.refused - *refused));
	*next += SECOND;
	*delivered = w.delivered;
	*refused = w.refused;
}

static void
live(const struct policy *p, uint64_t length_us)
{
	static const struct conf_vmta_source own[] = { { 1, "a", 1 } }, none[] = { { 0, "", 1 } };
	static const struct conf_vmta vmtas[] = {
		{ .name = "{default}", .n_sources = 1, .sources = none },
		{ .name = "v", .n_sources = 1, .sources = own },
	};
	struct core_world world = { .workers = 1,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = 2,
				    .n_vmtas = 2,
				    .vmtas = vmtas };
	uint64_t told = 0, delivered = 0, refused = 0, end;

	w.policy = p;
	w.now = (struct core_now){ 1000 * SECOND + rnd() % (10 * SECOND), 1800000000 * SECOND };
	w.begin = told = w.now.boot_us;
	w.n_heap = w.n_taken = w.waiting = w.next_message = 0;
	w.attempts = w.refused = w.delivered = w.flips = 0;
	w.asked = false;
	w.tokens_us = SECOND;
	w.filled_us = w.begin;
	w.core = core_new_in(&ops, NULL, &world, 1);
	core_queue_add(w.core, 1, slice_str("d.example/v"));
	core_worker_up(w.core, &w.now, 0);
	end = w.begin + length_us;
	while (w.now.boot_us < end) {
		uint64_t next = core_run(w.core, &w.now, 0), at;

		if (mail())
			continue;
		at = w.n_heap > 0 && w.heap[0].at < next ? w.heap[0].at : next;
		if (at < w.now.boot_us + 1)
			at = w.now.boot_us + 1;
		at = at < end ? at : end;
		w.now.wall_us += at - w.now.boot_us;
		w.now.boot_us = at;
		while (w.n_heap > 0 && w.heap[0].at <= at) {
			struct happening h = first();

			happens(&h);
		}
		tell(&told, &delivered, &refused);
	}
	core_free(&w.core);
}

/* Policies ------------------------------------------------------------------------------------- */
static void
put_filled(struct buf *out, struct slice text, uint64_t n)
{
	static const char *const names[] = { "@NORMAL@", "@PORT@" };

	while (text.n > 0) {
		size_t k = 0;

		while (k < 2 && !slice_starts_nocase(text, names[k]))
			k++;
		if (k == 2) {
			buf_putc(out, text.p[0]);
			text = slice_sub(text, 1);
			continue;
		}
		buf_printf(out, "%llu", k == 0 ? (unsigned long long)n : 25ull);
		text = slice_sub(text, strlen(names[k]));
	}
}

static bool
read_policy(struct policy *p, uint64_t normal_limit)
{
	struct buf file = { 0 }, filled = { 0 }, snapshot = { 0 };
	struct conf_report report = { 0 };
	struct rules_hits hits;
	FILE *f = fopen(p->path, "r");
	struct rules *rules;
	size_t n;
	int rc;

	if (f == NULL) {
		perror(p->path);
		return false;
	}
	while ((n = fread(buf_room(&file, 4096), 1, 4096, f)) > 0)
		buf_added(&file, n);
	fclose(f);
	put_filled(&filled, buf_slice(&file), normal_limit);
	conf_snapshot_text(&snapshot, p->path, buf_slice(&filled));
	rc = conf_parse(buf_slice(&snapshot), &p->conf, &report);
	if (rc != 0) {
		fwrite(buf_slice(&report.text).p, 1, report.text.len, stderr);
	} else {
		conf_queue(p->conf, slice_str("d.example"), slice_str("{default}"), &p->queue);
		rules = rules_new(p->conf, NULL);
		rules_match(rules,
			    &(struct rules_query){ .list = p->queue.rules,
						   .provider = -1,
						   .stage = CONF_STAGE_MAIL,
						   .text = slice_str(REPLY) },
			    &hits);
		rules_merge(p->conf, hits.rule, hits.n, hits.wait_us, &p->verdict);
		rules_free(&rules);
	}
	conf_report_clear(&report);
	buf_clear(&snapshot);
	buf_clear(&filled);
	buf_clear(&file);
	return rc == 0;
}

/* The whole ------------------------------------------------------------------------------------ */
static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* `both`: worlds that were as good as -g asks for. */
static struct sums
print_sums(const char *path, double *shares, double *refusals, size_t n, size_t both)
{
	struct sums s;

	qsort(shares, n, sizeof(*shares), by_value);
	qsort(refusals, n, sizeof(*refusals), by_value);
	s = (struct sums){ (shares[(n - 1) / 2] + shares[n / 2]) / 2,
			   (refusals[(n - 1) / 2] + refusals[n / 2]) / 2 };
	printf("%-34s delivered %5.1f %% of what r allows (worst tenth below %5.1f), refused %6.2f "
	       "%% "
	       "of the attempts (worst tenth above %6.2f), good in both %zu of %zu\n",
	       path, s.share, shares[n / 10], s.refused, refusals[n - 1 - n / 10], both, n);
	return s;
}

static bool
campaign(const char *path, uint64_t seed, uint64_t seeds, uint64_t length_us, struct sums *out)
{
	double *shares = mem_calloc(seeds, sizeof(*shares)),
	       *refusals = mem_calloc(seeds, sizeof(*refusals));
	size_t both = 0;
	bool good = true;

	for (uint64_t i = 0; i < seeds && good; i++) {
		struct policy p = { .path = path };

		draw(seed + i, length_us);
		good = read_policy(&p, normal());
		if (!good)
			break;
		live(&p, length_us);
		shares[i] = 100 * (double)w.delivered / allowed(length_us);
		refusals[i] = w.attempts ? 100 * (double)w.refused / (double)w.attempts : 0;
		both += shares[i] >= w.goal.share && refusals[i] <= w.goal.refused;
		if (w.verbose || seeds <= 10)
			printf("seed %llu: r %llu, %llu from %.0f s, %llu from %.0f s; round trip "
			       "%.1f "
			       "ms; delivered %.1f %%, refused %.2f %% of %llu, %llu flips\n",
			       (unsigned long long)(seed + i), (unsigned long long)w.r[0],
			       (unsigned long long)w.r[1], (double)w.change[1] / 1e6,
			       (unsigned long long)w.r[2], (double)w.change[2] / 1e6,
			       (double)w.rtt_us / 1e3, shares[i], refusals[i],
			       (unsigned long long)w.attempts, (unsigned long long)w.flips);
		conf_free(&p.conf);
	}
	if (good)
		*out = print_sums(path, shares, refusals, seeds, both);
	mem_free(shares);
	mem_free(refusals);
	return good;
}

int
main(int argc, char **argv)
{
	uint64_t seed = 1, seeds = 100, minutes = 10;
	struct sums s = { 0 }, of_first = { 0 };
	int opt;

	w.window_s = 1;
	w.changes = PHASES - 1;
	w.goal.refused = 100;
	w.r_low = 5;
	w.r_high = 500;
	log_open("/dev/null", "recover_sim");
	while ((opt = getopt(argc, argv, "s:n:m:c:g:w:j:r:t:bv")) != -1) {
		if (opt == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (opt == 'n')
			seeds = strtoull(optarg, NULL, 10);
		else if (opt == 'm')
			minutes = strtoull(optarg, NULL, 10);
		else if (opt == 'c')
			w.changes = (unsigned)strtoul(optarg, NULL, 10);
		else if (opt == 'j')
			w.stall_us = strtoull(optarg, NULL, 10) * 1000 % STALL_EVERY;
		else if (opt == 'w')
			w.window_s = strtoull(optarg, NULL, 10);
		else if (opt == 't')
			w.fixed_rtt_us = strtoull(optarg, NULL, 10) * 1000;
		else if (opt == 'r' && sscanf(optarg, "%lf,%lf", &w.r_low, &w.r_high) == 2)
			continue;
		else if (opt == 'b')
			w.bucket = true;
		else if (opt == 'v')
			w.verbose = true;
		else if (opt != 'g' || sscanf(optarg, "%lf,%lf", &w.goal.share, &w.goal.refused) != 2)
			return 2;
	}
	if (optind == argc || seeds == 0 || minutes == 0 || w.window_s - 1 >= 100)
		return 2;
	printf("seeds %llu..%llu, %llu minutes each, a provider that ", (unsigned long long)seed,
	       (unsigned long long)(seed + seeds - 1), (unsigned long long)minutes);
	if (w.bucket)
		printf("refills a bucket of a second's worth at r\n");
	else
		printf("takes r x %llu s in any %llu s\n", (unsigned long long)w.window_s,
		       (unsigned long long)w.window_s);
	for (int i = optind; i < argc; i++) {
		if (!campaign(argv[i], seed, seeds, minutes * MINUTE, &s))
			return 2;
		if (i == optind)
			of_first = s;
	}
	return of_first.share < w.goal.share || of_first.refused > w.goal.refused;
}
