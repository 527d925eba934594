/* main: sim [-t CPU-SECONDS] [-s SEED [-n EPISODES]] [-l STEPS] [-p PLANTED] [-v] [-L: list what is
 * planted]
 *
 * The scheduler as it is, in a world of chance: one seed is one episode, from an empty spool
 * through kills and power cuts to the rest at its end. A violation names seed and step, and the
 * command that shows it again. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/planted.h"
#include "common/base/wire.h"
#include "common/conf/conf.h"
#include "tests/sim/sim.h"

static const char *const planted_names[] = { "none",
#define X(name, text) #name,
					     PLANTED_FAULTS(X)
#undef X
};
enum planted_fault planted_fault;

bool sim_loud, sim_calm, sim_no_room, sim_spoilt;
const char *sim_root;
struct sim_clock sim_clock;

_Noreturn void __real__exit(int status);
static bool sim_each;       /* a line for each episode */
static uint64_t digest = 1; /* of all that was decided: the same seeds give the same */
static uint64_t rng, seed, step, steps, episode_steps = 20000;
static struct {
	uint64_t episodes, starts, kills, cuts, deaths, spoilt, failures, checks;
} done;
static struct spool spool;
static unsigned kill_rate, cut_rate, death_rate; /* in a hundred thousand steps */
static unsigned spoil_rate;                      /* in a hundred starts */

/* Chance -----------------------------------------------------------------------------------------
 */
uint64_t
sim_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * 0x2545f4914f6cdd1dull;
}

unsigned
sim_below(unsigned n)
{
	return (unsigned)((sim_random() >> 32) * n >> 32);
}

bool
sim_percent(unsigned p)
{
	return sim_below(100) < p;
}

static void
remove_root(void)
{
	char command[600];

	snprintf(command, sizeof command, "rm -rf %s %s.trash", sim_root, sim_root);
	if (sim_root != NULL && system(command) != 0)
		fprintf(stderr, "%s is left\n", sim_root);
}

void
sim_broken(const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	printf("violation: %s\nseed=%llu step=%llu steps=%llu planted=%s\nagain: build/sim/sim -s "
	       "%llu -l %llu%s%s -v\n",
	       text, (unsigned long long)seed, (unsigned long long)step, (unsigned long long)steps,
	       planted_names[planted_fault], (unsigned long long)seed,
	       (unsigned long long)episode_steps, planted_fault != 0 ? " -p " : "",
	       planted_fault != 0 ? planted_names[planted_fault] : "");
	fflush(stdout);
	remove_root();
	__real__exit(1);
}

void
sim_tell(const char *fmt, ...)
{
	va_list ap;

	if (!sim_loud)
		return;
	printf("%llu: ", (unsigned long long)step);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* The scheduler's lives --------------------------------------------------------------------------
 */
static bool was_ready;
static unsigned ends_in_calm;

static void
scheduler_dies(void)
{
	process_kill();
	peers_lost_scheduler();
	was_ready = false;
}

static void
power_cut(void)
{
	sim_tell("power cut, %u sectors not synced", disk_unsynced());
	done.cuts++;
	peers_kill_all();
	scheduler_dies();
	disk_power_cut();
	ledger_cut();
	sim_clock.boot++;
	sim_clock.boot_us = sim_below(100) * SIM_SECOND + 1000000;
	sim_clock.wall_us += sim_below(600) * SIM_SECOND;
}

static void
scheduler_began(void)
{
	was_ready = true;
	done.starts++;
	ledger_after_start(process_scheduler());
	peers_connect();
}

/* While nobody looks, the row of a segment is damaged that a receiver writes to. */
static void
spoil_segment(void)
{
	struct segment_info info;
	struct buf row = { 0 };
	char path[600];

	if (sim_below(100) >= spoil_rate || !peers_open_segment(&info))
		return;
	wire_put_u64(&row, info.epoch);
	wire_put_u64(&row, info.bytes);
	snprintf(path, sizeof path, "%s/lmdb/data.mdb", sim_root);
	/* The highest byte of how far it is committed: never again what it was. */
	if (disk_spoil(path, buf_slice(&row), row.len + 7, STORE_SEGMENT_OPEN) > 0) {
		sim_tell("the row of segment %u is damaged", info.number);
		sim_spoilt = true;
		done.spoilt++;
	}
	buf_clear(&row);
}

static bool
scheduler_step(void)
{
	int thread;

	if (!process_lives()) {
		if (!sim_calm && !sim_percent(5))
			return false;
		sim_tell("scheduler starts");
		spoil_segment();
		process_start();
	}
	thread = threads_pick(process_can_turn());
	if (thread < 0)
		return false;
	threads_run(thread);
	if (!process_lives()) {
		/* The last fault may still be on its way out. */
		HOLDS(!sim_calm || ++ends_in_calm < 3, "the scheduler ends by itself");
		sim_tell("scheduler ends");
		done.failures++;
		HOLDS(done.failures < 1000, "the scheduler fails again and again");
		scheduler_dies();
		return true;
	}
	if (!was_ready && process_is_ready())
		scheduler_began();
	if (thread == 0 && was_ready && threads_main_waits()) {
		core_check(process_scheduler()->core);
		modes_look(process_scheduler());
		done.checks++;
	}
	return true;
}

static void
clock_step(void)
{
	uint64_t next = process_next_timer();

	if (next != UINT64_MAX && next > sim_clock.boot_us &&
	    (peers_are_idle() || sim_percent(20))) {
		sim_clock.wall_us += next - sim_clock.boot_us;
		sim_clock.boot_us = next;
		return;
	}
	sim_clock.boot_us += 50;
	sim_clock.wall_us += 50;
}

static bool
chance(unsigned rate)
{
	return sim_below(100000) < rate;
}

static void
fault_step(void)
{
	enum role role;
	unsigned slot;

	if (process_asks_kill(&role, &slot)) {
		sim_tell("killed as asked: %s %u", role_name(role), slot);
		peers_kill(role, slot);
	}
	if (chance(200))
		disk_write_back();
	if (sim_calm)
		return;
	if (chance(sim_no_room ? 50 : 10))
		sim_no_room = !sim_no_room;
	if (chance(kill_rate) && process_lives()) {
		sim_tell("scheduler is killed");
		done.kills++;
		scheduler_dies();
	}
	if (chance(cut_rate))
		power_cut();
	if (chance(death_rate)) {
		done.deaths++;
		peers_kill_one();
	}
}

static void
one_step(void)
{
	bool did = false;

	step++;
	fault_step();
	for (unsigned tries = 0; tries < 4 && !did; tries++)
		did = sim_percent(50) ? scheduler_step() : peers_step();
	if (!did)
		clock_step();
	else {
		uint64_t us = sim_below(40);

		sim_clock.boot_us += us;
		sim_clock.wall_us += us;
	}
}

/* Episodes ---------------------------------------------------------------------------------------
 */
static struct conf *
make_conf(void)
{
	static const char *const texts[] = {
		"run = \"/run/sim\"; log-file = \"stderr\"; workers = 3; receivers = 2; "
		"compact-after = \"2s\"; "
		"host-name = \"mta.example\"; domains = ( { name = \"*\"; max-smtp-out = 3; "
		"retry-after = \"5s,20s\"; "
		"retry-recipients-after = \"3s\"; bounce-after = \"30m\"; } );",
		"run = \"/run/sim\"; log-file = \"stderr\"; workers = 3; receivers = 2; "
		"compact-after = \"2s\"; "
		"host-name = \"mta.example\"; domains = ( { name = \"*\"; max-smtp-out = 5; "
		"retry-after = \"1s\"; "
		"retry-recipients-after = \"1s\"; bounce-after = \"8s\"; max-rcpt-per-transaction "
		"= 2; "
		"max-msg-per-connection = 3; } );",
		"run = \"/run/sim\"; log-file = \"stderr\"; workers = 3; receivers = 2; "
		"compact-after = \"2s\"; "
		"host-name = \"mta.example\"; domains = ( { name = \"*\"; max-smtp-out = 4; "
		"max-msg-rate = \"30/s\"; max-connect-rate = \"50/s\"; retry-after = \"2s\"; "
		"retry-recipients-after = \"1s\"; bounce-after = \"30m\"; } );",
		/* Back-off: mail goes from one virtual MTA to the next, the last one loses its
		   source IPs. */
		"run = \"/run/sim\"; log-file = \"stderr\"; workers = 3; receivers = 2; "
		"host-name = \"mta.example\"; domains = ( { name = \"*\"; max-smtp-out = 4; "
		"max-msg-rate = \"100/s\"; backoff-max-msg-rate = \"30/s\"; "
		"backoff-reroute-to-virtual-mta = \"m1\"; backoff-to-normal-after = \"20s\"; "
		"smtp-pattern-list = \"l\"; retry-after = \"2s\"; backoff-retry-after = \"3s\"; "
		"retry-recipients-after = \"1s\"; bounce-after = \"30m\"; recover = \"50% every 4s\"; "
		"backoff-upon-all-sources-disabled = true; } ); "
		"virtual-mtas = ( { name = \"m1\"; smtp-source-hosts = ( { ip = \"192.0.2.1\"; "
		"name = \"a.example\"; } ); domains = ( { name = \"*\"; "
		"backoff-reroute-to-virtual-mta = \"m2\"; backoff-to-normal-after-delivery = true; } ); }, "
		"{ name = \"m2\"; smtp-source-hosts = ( { ip = \"192.0.2.2\"; name = \"b.example\"; }, "
		"{ ip = \"192.0.2.3\"; name = \"c.example\"; } ); "
		"domains = ( { name = \"*\"; backoff-reroute-to-virtual-mta = \"m2\"; recover = \"auto\"; } ); } ); "
		"smtp-pattern-lists = ( { name = \"l\"; rules = ( "
		"{ reply = \"/a/\"; actions = [ \"mode=backoff\", \"backoff-to-normal-after=2s\" ]; }, "
		"{ reply = \"/b/\"; actions = [ \"mode=backoff\" ]; after = \"3/10s\"; }, "
		"{ reply = \"/c/\"; actions = [ \"mode=normal\" ]; }, "
		"{ reply = \"/d/\"; actions = [ \"mode=backoff\", \"backoff-to-normal-after=3s\" ]; "
		"scope = \"virtual-mta\"; after = \"5/1m\"; }, "
		"{ reply = \"/e/\"; actions = [ \"disable-source-ip\", \"reenable-after=5s\" ]; }, "
		"{ reply = \"/f/\"; actions = [ \"defer-queue\" ]; }, "
		"{ reply = \"/g/\"; actions = [ \"mode=backoff\", \"backoff-to-normal-after=4s\" ]; scope = \"source-ip\"; } "
		"); } );",
	};
	struct buf text = { 0 }, snapshot = { 0 };
	struct conf_report report = { 0 };
	struct conf *conf;
	unsigned which;

	buf_printf(&text, "spool = \"%s\"; ", sim_root);
	which = sim_below(5);
	sim_flips = which >= 3;
	buf_puts(&text, texts[sim_flips ? 3 : which]);
	conf_snapshot_text(&snapshot, "sim.conf", buf_slice(&text));
	HOLDS(conf_parse(buf_slice(&snapshot), &conf, &report) == 0,
	      "the configuration is refused");
	conf_report_clear(&report);
	buf_clear(&text);
	/* The snapshot lives on: the configuration may borrow from it. */
	return conf;
}

static void
begin(void)
{
	static const unsigned errors[] = { 0, 0, 0, 4, 40 };
	static const unsigned spoils[] = { 0, 0, 0, 0, 10, 50 };
	static const unsigned rates[] = { 0, 5, 20, 100, 400 };
	char trash[600];
	const char *why;

	rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
	for (int i = 0; i < 8; i++)
		sim_random();
	step = 0;
	sim_calm = sim_no_room = sim_spoilt = false;
	sim_clock = (struct sim_clock){ 1000 * SIM_SECOND, 1800000000 * SIM_SECOND, 1 };
	kill_rate = rates[sim_below(5)];
	cut_rate = rates[sim_below(5)];
	death_rate = rates[sim_below(5)];
	spoil_rate = spoils[sim_below(6)];
	remove_root();
	snprintf(trash, sizeof trash, "%s.trash", sim_root);
	HOLDS(mkdir(sim_root, 0700) == 0 && mkdir(trash, 0700) == 0, "%s cannot be made", sim_root);
	disk_begin(sim_root, errors[sim_below(5)]);
	threads_begin();
	ledger_begin();
	modes_begin();
	HOLDS(spool_open(&spool, sim_root, &why) == 0, "the spool cannot be made: %s", why);
	process_conf(make_conf());
	peers_begin(&spool);
	was_ready = false;
	ends_in_calm = 0;
}

/* Also what was never acknowledged may be in the queue, and goes out. */
static bool
rests(void)
{
	struct scheduler *s = process_scheduler();
	struct core_totals t;

	if (!was_ready || s == NULL || !peers_are_idle() || ledger_open() > 0 ||
	    !committer_is_idle(s->committer))
		return false;
	core_totals(s->core, &t);
	return t.queued_entries == 0 && ledger_rows(s) == 0; /* what leaves is read first */
}

/* Who waits for what. */
static void
tell_queue(void *arg, uint32_t queue)
{
	struct scheduler *s = arg;
	struct core_now now = { sim_clock.boot_us, sim_clock.wall_us };
	struct core_queue_view v;

	if (core_queue_view(s->core, &now, queue, &v) && v.entries > 0)
		printf("queue=%.*s entries=%llu connections=%u opening=%u wait=%u limit=%s "
		       "until=%llu now=%llu\n",
		       (int)v.name.n, v.name.p, (unsigned long long)v.entries, v.connections,
		       v.opening, v.wait, v.limit != NULL ? v.limit : "",
		       (unsigned long long)v.until_wall_us, (unsigned long long)sim_clock.wall_us);
}

static _Noreturn void
restless(void)
{
	struct scheduler *s = process_scheduler();
	uint32_t cursor = 0;

	while (s != NULL && core_each_queue(s->core, &cursor, 100, tell_queue, s))
		;
	ledger_tell_open();
	sim_broken("it does not come to rest: %u recipients are open, peers %s, committer %s",
		   ledger_open(), peers_are_idle() ? "idle" : "busy",
		   s != NULL && committer_is_idle(s->committer) ? "idle" : "busy");
}

static void
come_to_rest(void)
{
	uint64_t limit = step + 400000;

	sim_calm = true;
	sim_no_room = false;
	while (!rests()) {
		if (step >= limit)
			restless();
		one_step();
	}
	ledger_at_end(process_scheduler());
}

static void
episode(void)
{
	begin();
	while (step < episode_steps)
		one_step();
	come_to_rest();
	peers_end();
	process_kill();
	spool_close(&spool);
	disk_end();
	steps += step;
	done.episodes++;
	digest = (digest ^ rng ^ step) * 0x100000001b3ull;
	if (sim_each)
		printf("seed=%llu steps=%llu end=%016llx\n", (unsigned long long)seed,
		       (unsigned long long)step, (unsigned long long)rng);
}

static double
cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
report(uint64_t first)
{
	double s = cpu_seconds();
	const struct sim_counts *c = &sim_counts;

	printf("episodes=%llu seeds=%llu..%llu starts=%llu kills=%llu cuts=%llu deaths=%llu "
	       "spoilt=%llu errors=%llu failures=%llu\n",
	       (unsigned long long)done.episodes, (unsigned long long)first,
	       (unsigned long long)seed, (unsigned long long)done.starts,
	       (unsigned long long)done.kills, (unsigned long long)done.cuts,
	       (unsigned long long)done.deaths, (unsigned long long)done.spoilt,
	       (unsigned long long)disk_errors(), (unsigned long long)done.failures);
	printf("messages=%llu acknowledged=%llu refused=%llu delivered=%llu bounced=%llu "
	       "expired=%llu deferred=%llu "
	       "twice=%llu leases=%llu from_moved_records=%llu events=%llu stamped=%llu redirects=%llu matches=%llu flips=%llu\n",
	       (unsigned long long)c->written, (unsigned long long)c->acked,
	       (unsigned long long)c->refused, (unsigned long long)c->delivered,
	       (unsigned long long)c->bounced, (unsigned long long)c->expired,
	       (unsigned long long)c->deferred, (unsigned long long)c->dups,
	       (unsigned long long)c->leases, (unsigned long long)c->moved,
	       (unsigned long long)c->events, (unsigned long long)c->stamped,
	       (unsigned long long)c->redirects, (unsigned long long)sim_flip_counts.matches,
	       (unsigned long long)sim_flip_counts.flips);
	printf("steps=%llu cpu_s=%.1f steps_a_cpu_minute=%.0f digest=%016llx violations=0\n",
	       (unsigned long long)steps, s, (double)steps / s * 60, (unsigned long long)digest);
}

int
main(int argc, char **argv)
{
	static char root[200];
	double seconds = 10;
	uint64_t first = 1, most = UINT64_MAX;
	int opt;

	while ((opt = getopt(argc, argv, "t:s:n:l:p:evL")) != -1) {
		switch (opt) {
		case 't':
			seconds = atof(optarg);
			break;
		case 's':
			first = strtoull(optarg, NULL, 0);
			most = most == UINT64_MAX ? 1 : most;
			break;
		case 'n':
			most = strtoull(optarg, NULL, 0);
			break;
		case 'l':
			episode_steps = strtoull(optarg, NULL, 0);
			break;
		case 'p':
			for (size_t i = 0; i < sizeof planted_names / sizeof *planted_names; i++) {
				if (strcmp(planted_names[i], optarg) == 0)
					planted_fault = (enum planted_fault)i;
			}
			break;
		case 'e':
			sim_each = true;
			break;
		case 'v':
			sim_loud = true;
			break;
		case 'L':
			for (size_t i = 1; i < sizeof planted_names / sizeof *planted_names; i++)
				printf("%s\n", planted_names[i]);
			return 0;
		default:
			return 2;
		}
	}
	snprintf(root, sizeof root, "/dev/shm/sluice-sim-%d", (int)getpid());
	sim_root = root;
	for (seed = first; seed - first < most && (most != UINT64_MAX || cpu_seconds() < seconds);
	     seed++)
		episode();
	seed--;
	remove_root();
	report(first);
	return 0;
}
