/* rate_sim: limits with long windows (10m, 1h, 1d) through virtual days: around the core and the
 * file of charges, workers that die, schedulers that are killed, reloads that change limits, clocks
 * that are set, and machines that reboot, in order or not.
 *
 * What is judged are stamps alone, as the event log has them, on a time line of their own that goes
 * on through every reboot: for each charge, what the window and the tenth that end with it hold,
 * against the limit that was in force. In calm episodes also what was sent in twenty windows. In
 * busy ones most limits are far away, so that they are not asked, and one after the other is
 * changed to one that is near.
 *
 * rate_sim [-s SEED] [-n EPISODES] [-p off-by-one|no-refund|old-passes|no-forget] [-f FAULTS] [-q]
 *          [-v]
 * An episode is a seed. With -p a fault is planted (the linker puts it between the core and its
 * rates, or its passes), and must be found. -f: of w worker dies, k scheduler is killed, r reload,
 * s one limit is set, c clock is set, b reboot. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/event_log/event.h"
#include "scheduler/charges.h"
#include "scheduler/core/core.h"
#include "scheduler/core/passes.h"
#include "scheduler/core/rate.h"
#include "scheduler/core/state.h"
#include "tests/lib/chance.h"
#include "tests/lib/quiet_ops.h"

#define SECOND      UINT64_C(1000000)
#define MINUTE      (60 * SECOND)
#define HOUR        (60 * MINUTE)
#define DAY         (24 * HOUR)
#define QUEUES      4
#define VMTAS       2
#define SOURCES     5 /* 0: nobody's; 1, 2 of v0; 3, 4 of v1 */
#define WORKERS     2
#define JOBS        2
#define BACKLOG     40 /* entries that wait in each queue */
#define RCPTS       8
#define CLAIMS      256
#define CONNS       512
#define WINDOWS     20
#define USE_PERCENT 98
#define STEPS_MOST  3000000 /* of an episode */
#define GRANTS_MOST 60000
#define GRANTS_BUSY 10000

/* A planted fault ------------------------------------------------------------------------------ */
static bool off_by_one, no_refund, old_passes, no_forget;

size_t __real_rate_bytes(uint64_t n);
size_t __wrap_rate_bytes(uint64_t n);
uint64_t __real_rate_found_n(const void *memory);
uint64_t __wrap_rate_found_n(const void *memory);
struct rate *__real_rate_new(uint64_t n, uint64_t window_us);
struct rate *__wrap_rate_new(uint64_t n, uint64_t window_us);
struct rate *__real_rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
struct rate *__wrap_rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
struct rate *__real_rate_new_wide(uint64_t n, uint64_t window_us);
struct rate *__wrap_rate_new_wide(uint64_t n, uint64_t window_us);
struct rate *__real_rate_place_wide(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
struct rate *__wrap_rate_place_wide(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
bool __real_rate_set_n(struct rate *r, uint64_t n, uint64_t now_us);
bool __wrap_rate_set_n(struct rate *r, uint64_t n, uint64_t now_us);
uint64_t __real_rate_limit(const struct rate *r);
uint64_t __wrap_rate_limit(const struct rate *r);
void __real_rate_refund(struct rate *r, uint64_t stamp_us, uint64_t k);
void __wrap_rate_refund(struct rate *r, uint64_t stamp_us, uint64_t k);

size_t
__wrap_rate_bytes(uint64_t n)
{
	return __real_rate_bytes(n + off_by_one);
}

uint64_t
__wrap_rate_found_n(const void *memory)
{
	uint64_t n = __real_rate_found_n(memory);

	return n > 0 ? n - off_by_one : 0;
}

struct rate *
__wrap_rate_new(uint64_t n, uint64_t window_us)
{
	return __real_rate_new(n + off_by_one, window_us);
}

struct rate *
__wrap_rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	return __real_rate_place(memory, n + off_by_one, window_us, now_us);
}

struct rate *
__wrap_rate_new_wide(uint64_t n, uint64_t window_us)
{
	return __real_rate_new_wide(n + off_by_one, window_us);
}

struct rate *
__wrap_rate_place_wide(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us)
{
	return __real_rate_place_wide(memory, n + off_by_one, window_us, now_us);
}

bool
__wrap_rate_set_n(struct rate *r, uint64_t n, uint64_t now_us)
{
	return __real_rate_set_n(r, n + off_by_one, now_us);
}

uint64_t
__wrap_rate_limit(const struct rate *r)
{
	return __real_rate_limit(r) - off_by_one;
}

void
__wrap_rate_refund(struct rate *r, uint64_t stamp_us, uint64_t k)
{
	if (!no_refund)
		__real_rate_refund(r, stamp_us, k);
}

const struct pass *__real_passes_find(struct core *c, const struct asker *who, uint32_t source,
				      const struct core_tag *t);
const struct pass *__wrap_passes_find(struct core *c, const struct asker *who, uint32_t source,
				      const struct core_tag *t);
void __real_passes_forget_queue(struct core *c, uint32_t qi);
void __wrap_passes_forget_queue(struct core *c, uint32_t qi);

/* None is ever void. */
const struct pass *
__wrap_passes_find(struct core *c, const struct asker *who, uint32_t source,
		   const struct core_tag *t)
{
	for (uint32_t i = 0; old_passes && c->passes && i < PASS_SETS * PASS_WAYS; i++) {
		if (c->passes[i].epoch)
			c->passes[i].epoch = c->pass_epoch;
	}
	return __real_passes_find(c, who, source, t);
}

void
__wrap_passes_forget_queue(struct core *c, uint32_t qi)
{
	if (!no_forget)
		__real_passes_forget_queue(c, qi);
}

/* The world ------------------------------------------------------------------------------------ */
/* Times called `at` are on the time line that no reboot interrupts. */
struct change {
	uint64_t at, n, window_us;
	uint64_t known_from; /* before that it need not know: it had a shorter window */
	uint64_t starts;     /* of the scheduler, until then */
	uint64_t life_at;    /* the last of these */
};
struct seen {
	uint64_t at, amount;
};
/* One limit, and what the log says was charged to it. */
struct judged {
	const char *scope;
	unsigned number;
	enum core_measure measure;
	struct conf_rate *rate;
	struct change *changes;
	struct seen *seen;
	size_t n_changes, cap_changes, n_seen, cap_seen;
};
struct item {
	bool used, claimed;
	uint32_t index;
	unsigned queue, n_rcpts, job;
	uint64_t message;
	uint32_t kbytes, received_s;
	uint8_t done;
	uint16_t attempts;
};
struct link {
	enum { NONE, OPENING, OPEN, CLOSING } state;
	unsigned queue, worker, source, job;
	uint64_t stamp, due; /* boot */
	bool pipelining;
};
struct lease {
	bool used, one_by_one, adopted;
	uint64_t lease, stamp, due;
	uint32_t conn;
	unsigned item, worker, source;
	uint8_t bits, asked;
	uint64_t stamps[RCPTS];
};
/* A line of the log. */
struct logged {
	uint64_t boot, stamp, wall_us;
	unsigned queue, source, job;
	uint32_t rcpts, connects;
	uint64_t bytes;
};

static struct {
	uint64_t seed, rng, steps;
	struct core *core;
	struct charges *charges;
	int dir;
	struct core_now now;
	uint64_t boot,
		boot_at; /* number of this boot, and where its clock began on the time line */
	uint64_t next_message, next_lease;
	uint64_t life_at; /* the scheduler's start */
	bool reboots_next, calm, busy, asked[QUEUES], up[WORKERS], syncing;
	struct conf_queue settings[QUEUES];
	struct conf_limits scopes_vmta[VMTAS], scopes_source[SOURCES], provider, jobs[JOBS];
	struct conf_vmta vmtas[VMTAS + 1];
	struct conf_source_ip source_ips[SOURCES];
	struct item items[QUEUES * BACKLOG];
	struct link links[CONNS];
	struct lease leases[CLAIMS];
	struct judged judged[64];
	size_t n_judged;
	struct logged *log;
	size_t n_log, cap_log;
	char *synced; /* the file as it was after the last sync */
	size_t synced_bytes;
	uint64_t grants, reboots, kills, reloads;
} w;

static char found[400]; /* the violation */
static const char *faults = "wkrscb";
static bool verbose;

static uint64_t
rnd(void)
{
	return chance_next(&w.rng);
}

static uint64_t
below(uint64_t n)
{
	return (rnd() >> 20) % n;
}

static bool
percent(unsigned p)
{
	return below(100) < p;
}

static uint64_t
at_now(void)
{
	return w.boot_at + w.now.boot_us;
}

/* What the log says ---------------------------------------------------------------------------- */
static bool
falls_in(const struct judged *j, unsigned queue, unsigned source, unsigned job)
{
	switch (j->scope[0]) {
	case 'q':
		return j->number == queue;
	case 's':
		return j->number == source;
	case 'v':
		return j->number == queue % VMTAS;
	case 'j':
		return j->number == job;
	default:
		return true; /* the provider has them all */
	}
}

static void
charged(enum core_measure measure, unsigned queue, unsigned source, unsigned job, uint64_t stamp,
	uint64_t amount)
{
	for (size_t i = 0; i < w.n_judged; i++) {
		struct judged *j = &w.judged[i];

		if (j->measure != measure || !falls_in(j, queue, source, job))
			continue;
		mem_grow((void **)&j->seen, &j->cap_seen, j->n_seen + 1, sizeof(j->seen[0]));
		j->seen[j->n_seen++] = (struct seen){ w.boot_at + stamp, amount };
	}
}

static void
write_log(struct logged l)
{
	l.boot = w.boot;
	l.wall_us = w.now.wall_us;
	mem_grow((void **)&w.log, &w.cap_log, w.n_log + 1, sizeof(w.log[0]));
	w.log[w.n_log++] = l;
}

/* The judge ------------------------------------------------------------------------------------ */
static int
by_stamp(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* What there is to know of it, for whoever looks for the reason. */
static void
explain(const struct judged *j, uint64_t at)
{
	for (size_t i = 0; i < j->n_changes; i++) {
		const struct change *c = &j->changes[i];

		printf("limit from %.6f s: %llu in %.0f s, known from %.6f s\n",
		       (double)c->at / 1e6, (unsigned long long)c->n, (double)c->window_us / 1e6,
		       (double)c->known_from / 1e6);
	}
	for (size_t i = 0; i < j->n_seen && j->seen[i].at <= at; i++)
		printf("%llu at %.6f s\n", (unsigned long long)j->seen[i].amount,
		       (double)j->seen[i].at / 1e6);
}

static void
violation(const struct judged *j, const char *what, uint64_t at, uint64_t got, uint64_t allowed)
{
	if (found[0] == '\0' && verbose)
		explain(j, at);
	if (found[0] == '\0')
		snprintf(found, sizeof(found),
			 "%s %u measure %d at %llu.%06llu s: %llu in %s, %llu allowed", j->scope,
			 j->number, (int)j->measure, (unsigned long long)(at / SECOND),
			 (unsigned long long)(at % SECOND), (unsigned long long)got, what,
			 (unsigned long long)allowed);
}

/* Of what ends at seen[i]: the sum from `from` on; a body above `most` may be alone. */
static void
judge_part(const struct judged *j, const uint64_t *sums, size_t i, uint64_t from, uint64_t most,
	   const char *what)
{
	size_t low = 0, high = i;
	uint64_t sum;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (j->seen[mid].at < from)
			low = mid + 1;
		else
			high = mid;
	}
	sum = sums[i + 1] - sums[low];
	if (sum > most && !(j->measure == CORE_MEASURE_VOLUME && low == i))
		violation(j, what, j->seen[i].at, sum, most);
}

static bool
was_charged(const struct judged *j, uint64_t from, uint64_t to)
{
	for (size_t i = 0; i < j->n_seen; i++) {
		if (j->seen[i].at >= from && j->seen[i].at < to)
			return true;
	}
	return false;
}

/* A limit that was taken away before anything was charged to it, in this life of the scheduler, was
 * never there: nobody knows what went from then until it was set again. */
static void
forget_unused(struct judged *j)
{
	uint64_t known = 0, off = 0, life_at = 0;

	for (size_t i = 0; i < j->n_changes; i++) {
		struct change *c = &j->changes[i];
		bool again = i > 0 && c[-1].n == 0 && c->n > 0;

		if (i > 0 && c[-1].n > 0 && c->n == 0) {
			off = c->at;
			life_at = c->life_at;
		}
		if (c->known_from < known)
			c->known_from = known;
		if (again && c->known_from < c->at &&
		    !was_charged(j, c->known_from > life_at ? c->known_from : life_at, off))
			c->known_from = known = c->at;
	}
}

static void
judge_one(struct judged *j)
{
	uint64_t *sums = mem_zalloc((j->n_seen + 1) * sizeof(sums[0]));
	size_t c = 0;

	qsort(j->seen, j->n_seen, sizeof(j->seen[0]), by_stamp);
	forget_unused(j);
	for (size_t i = 0; i < j->n_seen; i++)
		sums[i + 1] = sums[i] + j->seen[i].amount;
	for (size_t i = 0; i < j->n_seen; i++) {
		uint64_t at = j->seen[i].at, known, share, from;
		const struct change *now;

		while (c + 1 < j->n_changes && j->changes[c + 1].at <= at)
			c++;
		now = &j->changes[c];
		if (now->n == 0)
			continue;
		known = now->known_from;
		share = now->n / 5 ? now->n / 5 : 1;
		from = at > now->window_us ? at - now->window_us : 0;
		judge_part(j, sums, i, from > known ? from : known, now->n, "a window");
		from = at > now->window_us / 10 ? at - now->window_us / 10 : 0;
		judge_part(j, sums, i, from > known ? from : known, share, "a tenth of a window");
	}
	mem_free(sums);
}

/* The narrowest of a calm episode: twenty windows from its first charge. */
static void
judge_use(struct judged *j)
{
	uint64_t used = 0, window = j->changes[0].window_us, least;

	least = USE_PERCENT * WINDOWS * j->changes[0].n / 100;
	for (size_t i = 0; i < j->n_seen && j->seen[i].at < j->seen[0].at + WINDOWS * window; i++)
		used += j->seen[i].amount;
	if (used < least)
		violation(j, "twenty windows: too few", j->n_seen ? j->seen[0].at : 0, used, least);
}

/* Decisions of the core ------------------------------------------------------------------------ */
static const struct conf_queue *
op_settings(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	return &w.settings[queue];
}

static void
op_ask(void *ctx, uint32_t queue, struct slice name)
{
	(void)ctx;
	(void)name;
	w.asked[queue] = true;
}

static void
op_open(void *ctx, const struct core_open *o)
{
	(void)ctx;
	CHECK(o->connection < CONNS && w.links[o->connection].state == NONE && w.up[o->worker]);
	w.links[o->connection] = (struct link){ .state = OPENING,
						.queue = o->queue,
						.worker = o->worker,
						.source = o->source_ip,
						.job = o->job - 1,
						.stamp = w.now.boot_us,
						.due = w.now.boot_us + 500 + below(20000) };
}

static bool
op_work(void *ctx, const struct core_work *k)
{
	unsigned item = 0;
	struct lease *l = w.leases;

	(void)ctx;
	while (item < QUEUES * BACKLOG && !(w.items[item].used && w.items[item].index == k->entry))
		item++;
	CHECK(item < QUEUES * BACKLOG && !w.items[item].claimed);
	while (l < w.leases + CLAIMS && l->used)
		l++;
	if (l == w.leases + CLAIMS)
		return false;
	*l = (struct lease){ .used = true,
			     .one_by_one = !w.links[k->connection].pipelining,
			     .lease = k->lease,
			     .stamp = k->granted_boot_us,
			     .due = w.now.boot_us + 500 +
				    below(w.calm   ? 20000
					  : w.busy ? 40000
						   : 2000000),
			     .conn = k->connection,
			     .item = item,
			     .worker = k->worker,
			     .source = k->source_ip,
			     .bits = k->attempt_bits[0] };
	w.items[item].claimed = true;
	w.grants++;
	return true;
}

static void
op_close(void *ctx, uint32_t connection, unsigned worker)
{
	(void)ctx;
	(void)worker;
	w.links[connection].state = CLOSING;
	w.links[connection].due = w.now.boot_us + below(5000);
}

static bool
op_scope_limits(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out)
{
	(void)ctx;
	if (scope == CORE_SCOPE_PROVIDER)
		*out = w.provider;
	else if (scope == CORE_SCOPE_JOB)
		*out = w.jobs[number - 1];
	else if (scope == CORE_SCOPE_SOURCE)
		*out = w.scopes_source[number];
	else if (scope == CORE_SCOPE_VMTA && number > 0)
		*out = w.scopes_vmta[number - 1];
	else
		return false;
	return true;
}

static void *
op_charges(void *ctx, const struct core_charge_key *key, size_t bytes, bool *was)
{
	(void)ctx;
	return charges_take(w.charges, key, bytes, was);
}

static void
op_charges_free(void *ctx, void *memory)
{
	(void)ctx;
	charges_give(w.charges, memory);
}

static void
op_charges_keep(void *ctx, void *memory)
{
	(void)ctx;
	charges_leave(w.charges, memory);
}

static const struct core_ops ops = { .settings = op_settings,
				     .ask_route = op_ask,
				     .open = op_open,
				     .work = op_work,
				     .close = op_close,
				     .give_up = quiet_give_up,
				     .queue_changed = quiet_changed,
				     .scope_limits = op_scope_limits,
				     .charges = op_charges,
				     .charges_free = op_charges_free,
				     .charges_keep = op_charges_keep };

/* Limits --------------------------------------------------------------------------------------- */
/* What is older than its windows so far is forgotten; taken away, it remembers for a window, and
 * what goes meanwhile unless the scheduler dies. */
static void
note_change(struct judged *j)
{
	const struct change *last = j->n_changes ? &j->changes[j->n_changes - 1] : NULL;
	struct change c = { .at = at_now(),
			    .n = j->rate->n,
			    .window_us = j->rate->window_us,
			    .starts = w.kills + w.reboots,
			    .life_at = w.life_at };

	if (last && last->n == 0 &&
	    (c.n == 0 || last->at + last->window_us < c.at || last->starts != c.starts)) {
		c.known_from = c.at;
		c.window_us = c.n == 0 ? 0 : c.window_us;
	} else if (last) {
		c.known_from = last->known_from;
		if (c.window_us > last->window_us && c.at - last->window_us > c.known_from)
			c.known_from = c.at - last->window_us;
	}
	if (last && last->n > 0 && c.n == 0)
		c.window_us = last->window_us;
	mem_grow((void **)&j->changes, &j->cap_changes, j->n_changes + 1, sizeof(c));
	j->changes[j->n_changes++] = c;
}

static void
judge_this(const char *scope, unsigned number, enum core_measure m, struct conf_rate *rate)
{
	struct judged *j = &w.judged[w.n_judged++];

	CHECK(w.n_judged <= sizeof(w.judged) / sizeof(w.judged[0]));
	*j = (struct judged){ .scope = scope, .number = number, .measure = m, .rate = rate };
	note_change(j);
}

static void
random_rate(struct conf_rate *r, enum core_measure m)
{
	static const uint64_t n[] = { 50, 128, 129, 500, 1, 3, 7, 2000 };
	static const uint64_t windows[] = { 10 * MINUTE, HOUR, DAY };

	static const uint64_t far[] = { 5000, 20000, 100000 };

	r->window_us = windows[below(3)];
	if (w.busy && (r->n < far[0] || percent(50))) {
		r->n = far[below(3)] * (m == CORE_MEASURE_VOLUME ? 20 * 1024 : 1);
		return;
	}
	r->n = n[below(w.calm || percent(30) ? 8 : 4)] * (m == CORE_MEASURE_VOLUME ? 20 * 1024 : 1);
}

static void
maybe_rate(struct conf_rate *r, enum core_measure m, unsigned chance)
{
	*r = (struct conf_rate){ 0, 0 };
	if (percent(chance))
		random_rate(r, m);
}

static void
random_limits(void)
{
	unsigned narrow = (unsigned)below(4); /* in a calm episode the one limit there is */
	struct conf_rate *one[] = { &w.settings[0].max_msg_rate, &w.scopes_source[1].max_msg_rate,
				    &w.scopes_vmta[0].max_msg_rate, &w.provider.max_msg_rate };
	static const char *const scopes[] = { "queue", "source", "vmta", "provider" };

	if (w.calm) {
		random_rate(one[narrow], CORE_MEASURE_MSG);
		judge_this(scopes[narrow], narrow == 1, CORE_MEASURE_MSG, one[narrow]);
		return;
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		random_rate(&w.settings[i].max_msg_rate,
			    CORE_MEASURE_MSG); /* else it would never wait */
		maybe_rate(&w.settings[i].max_connect_rate, CORE_MEASURE_CONNECT, 20);
		maybe_rate(&w.settings[i].max_data_volume_rate, CORE_MEASURE_VOLUME, 20);
		judge_this("queue", i, CORE_MEASURE_MSG, &w.settings[i].max_msg_rate);
		judge_this("queue", i, CORE_MEASURE_CONNECT, &w.settings[i].max_connect_rate);
		judge_this("queue", i, CORE_MEASURE_VOLUME, &w.settings[i].max_data_volume_rate);
	}
	for (unsigned i = 1; i < SOURCES; i++) {
		maybe_rate(&w.scopes_source[i].max_msg_rate, CORE_MEASURE_MSG, 40);
		judge_this("source", i, CORE_MEASURE_MSG, &w.scopes_source[i].max_msg_rate);
	}
	for (unsigned i = 0; i < VMTAS; i++) {
		maybe_rate(&w.scopes_vmta[i].max_msg_rate, CORE_MEASURE_MSG, 40);
		judge_this("vmta", i, CORE_MEASURE_MSG, &w.scopes_vmta[i].max_msg_rate);
	}
	for (unsigned i = 0; i < JOBS; i++) {
		maybe_rate(&w.jobs[i].max_msg_rate, CORE_MEASURE_MSG, 30);
		judge_this("job", i, CORE_MEASURE_MSG, &w.jobs[i].max_msg_rate);
		maybe_rate(&w.jobs[i].max_connect_rate, CORE_MEASURE_CONNECT, 30);
		judge_this("job", i, CORE_MEASURE_CONNECT, &w.jobs[i].max_connect_rate);
	}
	maybe_rate(&w.provider.max_msg_rate, CORE_MEASURE_MSG, 40);
	judge_this("provider", 0, CORE_MEASURE_MSG, &w.provider.max_msg_rate);
}

/* The machine ---------------------------------------------------------------------------------- */
static void
boot_id_of(unsigned char id[16], uint64_t boot)
{
	memset(id, 0, 16);
	memcpy(id, &boot, sizeof(boot));
	id[15] = 1;
}

static const unsigned char instance[16] = { 5 };

/* How long ago it was granted, as the driver reckons it; false: the file has it. */
static bool
age_of(const struct charges_past *past, const struct logged *l, uint64_t *age)
{
	unsigned char id[16], mine[16];
	uint64_t then;

	boot_id_of(id, l->boot);
	boot_id_of(mine, w.boot);
	if (memcmp(id, mine, 16) == 0) {
		*age = l->stamp < w.now.boot_us ? w.now.boot_us - l->stamp : 0;
		return !past->has_boot;
	}
	if (past->has_boot && memcmp(past->boot_id, id, 16) == 0) {
		then = l->stamp + (uint64_t)past->shift_us;
		*age = (int64_t)(w.now.boot_us - then) > 0 ? w.now.boot_us - then : 0;
		return l->stamp > past->synced_boot_us;
	}
	*age = w.now.wall_us > l->wall_us ? w.now.wall_us - l->wall_us : 0;
	return true;
}

static void
tell_past(void)
{
	struct charges_past past;

	if (!charges_past(w.charges, &past))
		return;
	for (size_t i = past.from.file ? past.from.offset : 0; i < w.n_log; i++) {
		const struct logged *l = &w.log[i];
		struct core_past p = { .queue = l->queue,
				       .source_ip = l->source,
				       .job = l->job + 1,
				       .vmta = slice_str(l->queue % VMTAS ? "v1" : "v0"),
				       .provider = slice_str("prov"),
				       .provider_number = 1,
				       .rcpts = l->rcpts,
				       .connects = l->connects,
				       .bytes = l->bytes };

		if (age_of(&past, l, &p.age_us) && p.rcpts + p.connects + p.bytes > 0)
			core_charge_event(w.core, &w.now, &p);
	}
	charges_rebuilt(w.charges, INT64_MIN);
}

/* The limits are those of now. */
static void
tell_longest(void)
{
	uint64_t longest = 0;

	for (size_t i = 0; i < w.n_judged; i++) {
		const struct conf_rate *r = w.judged[i].rate;

		if (r->n > 0 && r->window_us > longest)
			longest = r->window_us;
	}
	charges_longest(w.charges, longest);
}

static void
load_item(struct item *e)
{
	struct core_entry_facts f = { .key = { e->message, 0 },
				      .queue = e->queue,
				      .epoch = 7,
				      .received_s = e->received_s,
				      .n_rcpts = (uint16_t)e->n_rcpts,
				      .attempts = e->attempts,
				      .kbytes = e->kbytes,
				      .job = e->job + 1,
				      .sender_domain = 1,
				      .done = e->done ? slice_of(&e->done, 1) : SLICE_NONE,
				      .committed = true };

	e->index = core_entry_add(w.core, &w.now, &f);
}

static void
start_scheduler(void)
{
	struct charges_now now = { w.now.boot_us, w.now.wall_us, { 0 } };
	struct core_world world = { .workers = WORKERS,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = SOURCES,
				    .source_ips = w.source_ips,
				    .n_vmtas = VMTAS + 1,
				    .vmtas = w.vmtas };

	w.life_at = at_now();
	boot_id_of(now.boot_id, w.boot);
	CHECK(charges_open(&w.charges, w.dir, instance, &now) == 0);
	w.syncing = false;
	w.core = core_new_in(&ops, NULL, &world, w.next_lease);
	for (unsigned i = 0; i < QUEUES; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%u.example/v%u", i, i % VMTAS);
		core_queue_add(w.core, i, slice_str(name));
		core_route_provider(w.core, &w.now, i, 1, slice_str("prov"));
	}
	tell_past();
	tell_longest();
	for (unsigned i = 0; i < QUEUES * BACKLOG; i++) {
		if (w.items[i].used)
			load_item(&w.items[i]);
	}
}

static void
stop_scheduler(void)
{
	struct core_totals t;

	core_totals(w.core, &t);
	w.next_lease = t.next_lease;
	core_free(&w.core);
	charges_close(&w.charges);
}

static char *
read_file(size_t *n)
{
	int fd = openat(w.dir, "charges", O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *p;

	CHECK(fd >= 0 && fstat(fd, &st) == 0);
	*n = (size_t)st.st_size;
	p = mem_zalloc(*n);
	CHECK(pread(fd, p, *n, 0) == st.st_size);
	close(fd);
	return p;
}

/* The machine dies: of the pages written since the last sync any may have reached the disk. */
static void
lose_pages(void)
{
	size_t n;
	char *p = read_file(&n);
	unsigned chance = (unsigned)below(3) * 50;
	int fd = openat(w.dir, "charges", O_WRONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	for (size_t at = 0; w.synced && at < n && at < w.synced_bytes; at += 4096) {
		if (percent(chance))
			memcpy(p + at, w.synced + at, 4096);
	}
	CHECK(pwrite(fd, p, n, 0) == (ssize_t)n);
	close(fd);
	mem_free(p);
}

static void
forget_world(void)
{
	memset(w.links, 0, sizeof(w.links));
	memset(w.leases, 0, sizeof(w.leases));
	memset(w.asked, 0, sizeof(w.asked));
	for (unsigned i = 0; i < QUEUES * BACKLOG; i++)
		w.items[i].claimed = false;
}

static void
workers_up(void)
{
	for (unsigned i = 0; i < WORKERS; i++) {
		w.up[i] = true;
		core_worker_up(w.core, &w.now, i);
	}
}

static void
reboot(void)
{
	uint64_t down = below(3) ? below(2 * MINUTE) : below(3 * HOUR), began = at_now();
	bool in_order = percent(30);

	charges_tick(w.charges, w.now.boot_us, w.now.wall_us);
	stop_scheduler();
	if (!in_order)
		lose_pages();
	mem_free(w.synced);
	w.synced = NULL;
	forget_world();
	w.boot++;
	w.reboots++;
	w.now.wall_us += down;
	w.now.boot_us = SECOND + below(30 * SECOND);
	w.boot_at = began + down - w.now.boot_us;
	start_scheduler();
	workers_up();
}

static void settle(struct lease *l);

/* Who asks for each RCPT ends with what it has got. */
static void
end_lockstep(void)
{
	for (unsigned i = 0; i < CLAIMS; i++) {
		if (w.leases[i].used && w.leases[i].one_by_one)
			settle(&w.leases[i]);
	}
}

/* The scheduler is killed; its workers go on. */
static void
kill_scheduler(void)
{
	w.kills++;
	end_lockstep();
	stop_scheduler();
	start_scheduler();
	for (unsigned i = 0; i < CLAIMS; i++) {
		struct lease *l = &w.leases[i];

		if (!l->used)
			continue;
		l->conn = CORE_NONE;
		l->adopted = true;
		core_adopt(w.core, &w.now, w.items[l->item].index, l->lease, CORE_NONE, l->worker,
			   l->source);
	}
	for (unsigned i = 0; i < CONNS; i++) {
		struct link *k = &w.links[i];

		/* Its OPEN had gone out: the attempt is made, and nobody is told. */
		if (k->state == OPENING)
			write_log((struct logged){ .stamp = k->stamp,
						   .queue = k->queue,
						   .source = k->source,
						   .job = k->job,
						   .connects = 1 });
		if (k->state == OPENING)
			charged(CORE_MEASURE_CONNECT, k->queue, k->source, k->job, k->stamp, 1);
		k->state = NONE;
	}
	memset(w.asked, 0, sizeof(w.asked));
	workers_up();
}

/* Facts ---------------------------------------------------------------------------------------- */
static void
forget_link(uint32_t number)
{
	w.links[number].state = NONE;
	for (unsigned i = 0; i < CLAIMS; i++) {
		if (w.leases[i].conn == number)
			w.leases[i].conn = CORE_NONE;
	}
}

static void
kill_worker(unsigned worker)
{
	for (uint32_t i = 0; i < CONNS; i++) {
		struct link *k = &w.links[i];

		if (k->state == NONE || k->worker != worker)
			continue;
		if (k->state == OPENING) {
			write_log((struct logged){ .stamp = k->stamp,
						   .queue = k->queue,
						   .source = k->source,
						   .job = k->job,
						   .connects = 1 });
			charged(CORE_MEASURE_CONNECT, k->queue, k->source, k->job, k->stamp, 1);
		}
		forget_link(i);
	}
	for (unsigned i = 0; i < CLAIMS; i++) {
		if (w.leases[i].used && w.leases[i].worker == worker)
			w.leases[i].conn = CORE_NONE;
	}
	core_worker_down(w.core, &w.now, worker);
	core_worker_up(w.core, &w.now, worker);
}

/* In a calm episode those that fall in its limit. */
static bool
has_mail(unsigned queue)
{
	return !w.calm || falls_in(&w.judged[0], queue, 1 + 2 * (queue % VMTAS), 0);
}

static void
fill_queues(void)
{
	for (unsigned i = 0; i < QUEUES * BACKLOG; i++) {
		struct item *e = &w.items[i];

		if (e->used || !has_mail(i % QUEUES))
			continue;
		*e = (struct item){ .used = true,
				    .queue = i % QUEUES,
				    .n_rcpts = percent(50) ? 1 : 1 + (unsigned)below(RCPTS),
				    .job = (unsigned)below(JOBS),
				    .message = ++w.next_message,
				    .kbytes = 1 + (uint32_t)below(percent(95) ? 40 : 400),
				    .received_s = (uint32_t)(w.now.wall_us / SECOND) };
		load_item(e);
	}
}

static void
end_link(uint32_t i)
{
	struct link *k = &w.links[i];
	unsigned queue = k->queue, source = k->source, job = k->job;
	uint64_t stamp = k->stamp;

	if (k->state == CLOSING) {
		forget_link(i);
		core_closed(w.core, &w.now, i, slice_str("gone"));
		return;
	}
	if (!w.calm && percent(5)) { /* nothing happened: given back, not logged */
		forget_link(i);
		core_open_failed(w.core, &w.now, i, CORE_FAIL_NOT_ATTEMPTED, slice_str("late"));
		return;
	}
	write_log((struct logged){
		.stamp = stamp, .queue = queue, .source = source, .job = job, .connects = 1 });
	charged(CORE_MEASURE_CONNECT, queue, source, job, stamp, 1);
	if (!w.calm && percent(3)) {
		forget_link(i);
		core_open_failed(w.core, &w.now, i, CORE_FAIL_HOST, slice_str("refused"));
		return;
	}
	k->state = OPEN;
	k->pipelining = percent(60);
	core_opened_as(w.core, &w.now, i, 0, k->pipelining);
}

/* One question, or none left: then true. */
static bool
ask_next(struct lease *l)
{
	uint64_t stamp, deadline;

	for (unsigned i = 0; i < RCPTS; i++) {
		if (!(l->bits >> i & 1) || l->asked >> i & 1)
			continue;
		if (!core_rcpt_ask(w.core, &w.now, w.items[l->item].index, l->lease, i, &stamp,
				   &deadline))
			return true; /* the rest goes back */
		l->asked |= (uint8_t)(1u << i);
		l->stamps[i] = stamp;
		l->due = w.now.boot_us + 100 + below(2000);
		return false;
	}
	return true;
}

static uint8_t
fate_of(const struct lease *l, unsigned i)
{
	uint64_t x = below(100);

	if (l->one_by_one && !(l->asked >> i & 1))
		return EVENT_UNATTEMPTED;
	if (x < 10 && !l->one_by_one)
		return EVENT_UNATTEMPTED; /* MAIL refused, too late: given back */
	return x < 90 ? EVENT_DELIVERED : x < 95 ? EVENT_BOUNCED : EVENT_DEFERRED;
}

static void
settle(struct lease *l)
{
	struct item *e = &w.items[l->item];
	struct core_rcpt_result rcpts[RCPTS];
	struct core_result r = { .entry = e->index, .lease = l->lease, .rcpts = rcpts };
	struct logged line = {
		.stamp = l->stamp, .queue = e->queue, .source = l->source, .job = e->job
	};
	struct core_decision d;

	for (unsigned i = 0; i < RCPTS; i++) {
		uint8_t action;

		if (!(l->bits >> i & 1))
			continue;
		action = fate_of(l, i);
		rcpts[r.n_rcpts++] = (struct core_rcpt_result){ (uint16_t)i, action };
		if (action == EVENT_UNATTEMPTED)
			continue;
		if (l->one_by_one) /* each has its stamp in the log */
			write_log((struct logged){ .stamp = l->stamps[i],
						   .queue = e->queue,
						   .source = l->source,
						   .job = e->job,
						   .rcpts = 1 });
		else
			line.rcpts++;
		charged(CORE_MEASURE_MSG, e->queue, l->source, e->job,
			l->one_by_one ? l->stamps[i] : l->stamp, 1);
		if (action == EVENT_DELIVERED)
			line.bytes = e->kbytes * 1024ull;
		if (action != EVENT_DEFERRED)
			e->done |= (uint8_t)(1u << i);
	}
	r.body_bytes = line.bytes;
	if (line.bytes)
		charged(CORE_MEASURE_VOLUME, e->queue, l->source, e->job, l->stamp, line.bytes);
	if (line.rcpts || line.bytes)
		write_log(line);
	CHECK(core_settle(w.core, &w.now, &r, &d));
	e->attempts = d.attempts;
	l->used = e->claimed = false;
	core_worker_room(w.core, &w.now, l->worker);
	if (d.finished) {
		core_entry_gone(w.core, &w.now, e->index);
		e->used = false;
	}
}

static void
due_now(void)
{
	for (uint32_t i = 0; i < CONNS; i++) {
		struct link *k = &w.links[i];

		if ((k->state == OPENING || k->state == CLOSING) && k->due <= w.now.boot_us)
			end_link(i);
	}
	for (unsigned i = 0; i < CLAIMS; i++) {
		struct lease *l = &w.leases[i];

		if (!l->used || l->due > w.now.boot_us)
			continue;
		if (l->one_by_one && !l->adopted && l->conn != CORE_NONE && !ask_next(l))
			continue;
		settle(l);
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		if (!w.asked[i])
			continue;
		w.asked[i] = false;
		core_route(w.core, &w.now, i, CORE_ROUTE_GOOD, i, 1 + w.now.boot_us, 1,
			   w.now.boot_us + 30 * DAY, "");
	}
	fill_queues();
}

/* Faults --------------------------------------------------------------------------------------- */
/* A sync is begun now, and is over some time later. */
static void
keep_charges(void)
{
	charges_tick(w.charges, w.now.boot_us, w.now.wall_us);
	/* The log holds no event of a later grant than now. */
	charges_sync_begin(w.charges, w.now.boot_us, (struct event_position){ 1, w.n_log });
	CHECK(charges_sync(w.charges) == 0);
	mem_free(w.synced);
	w.synced = read_file(&w.synced_bytes);
	charges_sync_end(w.charges, 0);
}

/* Another limit than before, or none. */
static void
change_one(struct judged *j)
{
	w.reloads++;
	w.now.boot_us++; /* no stamp is of both */
	w.now.wall_us++;
	if (percent(15) && j->rate != &w.settings[j->number % QUEUES].max_msg_rate)
		*j->rate = (struct conf_rate){ 0, 0 };
	else
		random_rate(j->rate, j->measure);
	for (unsigned i = 0; i < VMTAS; i++)
		w.vmtas[i + 1].limits = w.scopes_vmta[i];
	for (unsigned i = 0; i < SOURCES; i++)
		w.source_ips[i].limits = w.scopes_source[i];
	note_change(j);
	tell_longest();
}

static void
reload(void)
{
	struct judged *j = &w.judged[below(w.n_judged)];
	struct core_world world = { .workers = WORKERS,
				    .total_max_smtp_out = CONF_UNLIMITED,
				    .n_source_ips = SOURCES,
				    .source_ips = w.source_ips,
				    .n_vmtas = VMTAS + 1,
				    .vmtas = w.vmtas };
	static const uint32_t same[SOURCES] = { 0, 1, 2, 3, 4 };

	change_one(j);
	core_reconfigure_in(w.core, &w.now, &world, same);
}

/* The same, said of that one alone. */
static void
set_limit(void)
{
	struct judged *j = &w.judged[below(w.n_judged)];

	change_one(j);
	switch (j->scope[0]) {
	case 'q':
		core_limits_changed(w.core, &w.now, CORE_SCOPE_QUEUE, j->number);
		break;
	case 's':
		core_limits_changed(w.core, &w.now, CORE_SCOPE_SOURCE, j->number);
		break;
	case 'v':
		core_limits_changed(w.core, &w.now, CORE_SCOPE_VMTA, j->number + 1);
		break;
	case 'j':
		core_limits_changed(w.core, &w.now, CORE_SCOPE_JOB, j->number + 1);
		break;
	default:
		core_limits_changed(w.core, &w.now, CORE_SCOPE_PROVIDER, 1);
	}
}

static void
fault(void)
{
	static const char kinds[] = "wwwwwwkkkkrrcccccccb";
	static const char busy[] = "rrsssssssswk";
	char kind = w.busy ? busy[below(sizeof(busy) - 1)] : kinds[below(sizeof(kinds) - 1)];

	if (strchr(faults, kind) == NULL)
		return;
	if (kind == 'w')
		kill_worker((unsigned)below(WORKERS));
	else if (kind == 'k')
		kill_scheduler();
	else if (kind == 'r')
		reload();
	else if (kind == 's')
		set_limit();
	else if (kind == 'c') /* the wall clock is set */
		w.now.wall_us += below(2 * HOUR) - HOUR;
	else
		w.reboots_next = true;
	if (!w.busy || percent(5)) /* nothing reboots there */
		keep_charges();
}

/* One of many things happens, and the time until the next. A machine reboots within ten seconds
 * after a sync, as often as the driver syncs; it has lived long enough for two. */
static uint64_t
trouble(void)
{
	if (w.reboots_next) {
		w.reboots_next = false;
		reboot();
	} else {
		fault();
	}
	if (w.reboots_next)
		return 1 + below(10 * SECOND);
	if (w.busy)
		return 1 + below(SECOND / 2);
	return 1 + below(percent(10) ? 30 : 40 * MINUTE);
}

/* Episodes ------------------------------------------------------------------------------------- */
static void
settings(void)
{
	static const struct conf_vmta_source nobody[] = { { 0, "", 1 } },
					     v0[] = { { 1, "a", 1 }, { 2, "b", 2 } },
					     v1[] = { { 3, "c", 1 }, { 4, "d", 1 } };

	for (unsigned i = 0; i < QUEUES; i++) {
		w.settings[i] = (struct conf_queue){
			.max_smtp_out = 4,
			.max_msg_per_connection = w.calm ? CONF_UNLIMITED : 1 + below(20),
			.max_errors_per_connection = CONF_UNLIMITED,
			.max_rcpt_per_transaction = 1 + below(RCPTS),
			.mx_connection_attempts = 10,
			.retry_after = { .n = 1, .us = { 5 * SECOND } },
			.retry_recipients_after_us = 10 * SECOND,
			.retry_after_dns_error_us = SECOND,
			.bounce_after_us = CONF_NEVER,
			.connection_idle_timeout_us = 5 * SECOND,
			.queue_priority = 50,
		};
	}
	random_limits();
	w.vmtas[0] = (struct conf_vmta){ .name = "{default}", .n_sources = 1, .sources = nobody };
	w.vmtas[1] = (struct conf_vmta){
		.name = "v0", .n_sources = w.calm ? 1 : 2, .sources = v0, .limits = w.scopes_vmta[0]
	};
	w.vmtas[2] = (struct conf_vmta){
		.name = "v1", .n_sources = 2, .sources = v1, .limits = w.scopes_vmta[1]
	};
	for (unsigned i = 0; i < SOURCES; i++) {
		static const char *const texts[SOURCES] = { "", "192.0.2.1", "192.0.2.2",
							    "192.0.2.3", "192.0.2.4" };

		w.source_ips[i].text = texts[i];
		w.source_ips[i].limits = w.scopes_source[i];
	}
}

static void
end(void)
{
	for (size_t i = 0; i < w.n_judged; i++) {
		mem_free(w.judged[i].seen);
		mem_free(w.judged[i].changes);
	}
	mem_free(w.log);
	mem_free(w.synced);
}

/* How long: twenty windows of the narrowest when it is calm; else days. */
static uint64_t
length(void)
{
	if (w.calm)
		return (WINDOWS + 2) * w.judged[0].rate->window_us;
	return w.busy ? MINUTE : DAY + below(4 * DAY);
}

static bool
planted(void)
{
	return off_by_one || no_refund || old_passes || no_forget;
}

static void
live(void)
{
	uint64_t stop = at_now() + length(), next_fault = at_now() + (w.busy ? SECOND / 2 : MINUTE),
		 idle;

	while (at_now() < stop && w.grants < (w.busy ? GRANTS_BUSY : GRANTS_MOST) &&
	       ++w.steps < STEPS_MOST) {
		uint64_t next = core_run(w.core, &w.now, 0);

		/* What is planted the judge has to find. */
		if (!w.calm && !planted() && w.steps % 64 == 0)
			core_check(w.core);
		for (unsigned i = 0; i < CONNS; i++) {
			if ((w.links[i].state == OPENING || w.links[i].state == CLOSING) &&
			    w.links[i].due < next)
				next = w.links[i].due;
		}
		for (unsigned i = 0; i < CLAIMS; i++) {
			if (w.leases[i].used && w.leases[i].due < next)
				next = w.leases[i].due;
		}
		for (unsigned i = 0; i < QUEUES; i++)
			next = w.asked[i] ? 0 : next;
		idle = next > w.now.boot_us ? next - w.now.boot_us : 1;
		if (!w.calm && idle > next_fault - at_now())
			idle = next_fault - at_now();
		if (idle > stop - at_now())
			idle = stop - at_now();
		idle += idle == 0;
		w.now.boot_us += idle;
		w.now.wall_us += idle;
		due_now();
		if (!w.calm && at_now() >= next_fault) {
			uint64_t pause = trouble();

			next_fault = at_now() + pause;
		}
	}
}

static void
episode(uint64_t seed, int dir)
{
	memset(&w, 0, sizeof(w));
	w.dir = dir;
	w.seed = seed;
	w.rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
	w.calm = seed % 2 == 0;
	w.busy = seed % 8 == 5;
	w.now = (struct core_now){ 1000 * SECOND + below(SECOND), 1800000000 * SECOND };
	w.boot_at = 10 * DAY;
	w.next_lease = 1;
	unlinkat(dir, "charges", 0);
	settings();
	start_scheduler();
	workers_up();
	fill_queues();
	live();
	for (size_t i = 0; i < w.n_judged; i++)
		judge_one(&w.judged[i]);
	if (w.calm && at_now() >= w.judged[0].seen[0].at + WINDOWS * w.judged[0].rate->window_us)
		judge_use(&w.judged[0]);
	stop_scheduler();
	end();
}

static void
take_dir(char *path)
{
	unlinkat(w.dir, "charges", 0);
	unlinkat(w.dir, "charges.new", 0);
	close(w.dir);
	rmdir(path);
}

int
main(int argc, char **argv)
{
	char path[] = "/tmp/sluice-rate-sim-XXXXXX";
	uint64_t seed = 1, episodes = 20, grants = 0, reboots = 0, kills = 0, reloads = 0, done = 0;
	bool quiet = false;
	clock_t began = clock();
	int opt, dir;

	log_open("/dev/null", "rate_sim");
	while ((opt = getopt(argc, argv, "s:n:p:f:qv")) != -1) {
		if (opt == 's')
			seed = strtoull(optarg, NULL, 10);
		else if (opt == 'n')
			episodes = strtoull(optarg, NULL, 10);
		else if (opt == 'p' && strcmp(optarg, "off-by-one") == 0)
			off_by_one = true;
		else if (opt == 'p' && strcmp(optarg, "no-refund") == 0)
			no_refund = true;
		else if (opt == 'p' && strcmp(optarg, "old-passes") == 0)
			old_passes = true;
		else if (opt == 'p' && strcmp(optarg, "no-forget") == 0)
			no_forget = true;
		else if (opt == 'v')
			verbose = true;
		else if (opt == 'f')
			faults = optarg;
		else if (opt == 'q')
			quiet = true;
		else
			return 2;
	}
	if (mkdtemp(path) == NULL || (dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return 2;
	for (; done < episodes && found[0] == '\0'; done++) {
		episode(seed + done, dir);
		grants += w.grants;
		reboots += w.reboots;
		kills += w.kills;
		reloads += w.reloads;
	}
	w.dir = dir;
	take_dir(path);
	if (found[0] != '\0')
		printf("violation: seed %llu: %s\n", (unsigned long long)w.seed, found);
	else if (!quiet)
		printf("rate_sim: seeds %llu..%llu, %llu grants, %llu reboots, %llu kills, %llu "
		       "reloads, %.1f s, 0 violations\n",
		       (unsigned long long)seed, (unsigned long long)(seed + episodes - 1),
		       (unsigned long long)grants, (unsigned long long)reboots,
		       (unsigned long long)kills, (unsigned long long)reloads,
		       (double)(clock() - began) / CLOCKS_PER_SEC);
	return found[0] != '\0';
}
