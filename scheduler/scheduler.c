/* scheduler: the process that owns the queue. It decides, and it alone writes; no network, no DNS, no
 * parsing of foreign text. One loop thread touches the index; a committer thread writes; two more
 * threads make segments ready and read records. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/disk.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/event_log/event_cursor.h"
#include "common/proc/route.h"
#include "scheduler/admission.h"
#include "scheduler/control.h"
#include "scheduler/quarantine.h"
#include "scheduler/state.h"
#include "scheduler/target_names.h"

#define DECISIONS_A_TURN 512
#define NAMES_A_TURN     1024
#define OUTCOMES_MAX     8192 /* that wait for their records */
#define TICK_US          200000u
#define TICKS_A_QUOTA    5
#define QUOTA_EVERY_US   100000u
#define TRY_AGAIN_US     500000u  /* between two tries to open the queue */
#define TRIES_A_LINE     20
#define LIFE_LEAST_US    2300000u /* longer than what the master takes for a quick death and makes wait */
#define ENTRIES_TO_TRIM  10000
#define MOVES_A_COMMIT   400

struct core_now
scheduler_now(const struct scheduler *s)
{
	return (struct core_now){ loop_boot_us(s->loop), loop_wall_us(s->loop) };
}

uint32_t
scheduler_name(struct scheduler *s, struct slice name)
{
	bool is_new;
	uint32_t number = names_number(s->names, name, &is_new);

	if (is_new)
		committer_put_name(s->committer, number, name);
	return number;
}

uint32_t
scheduler_queue(struct scheduler *s, struct slice domain, struct slice vmta)
{
	char text[NAME_BYTES_MAX + 2];
	struct slice name;
	uint32_t number;

	CHECK(domain.n + vmta.n + 1 <= NAME_BYTES_MAX);
	memcpy(text, domain.p, domain.n);
	text[domain.n] = '/';
	memcpy(text + domain.n + 1, vmta.p, vmta.n);
	str_lower(text, domain.n);
	name = slice_of(text, domain.n + 1 + vmta.n);
	number = scheduler_name(s, name);
	/* Also for a known name: a job may have been called so before there was such a queue. */
	names_keep(s->names, number);
	if (overrides_disable_for_some(s->overrides))
		acts_queue(s, number);
	else
		core_queue_add(s->core, number, names_get(s->names, number));
	backoff_queue(s, number);
	return number;
}

void
scheduler_kick(struct scheduler *s)
{
	s->run_again = true;
}

/* One turn ------------------------------------------------------------------------------------- */
static void
tell_recorder(struct scheduler *s)
{
	struct event_position at = committer_synced(s->committer);
	struct message m = { .kind = MESSAGE_SYNCED };

	if (s->recorder.channel == NULL || !event_position_before(s->told, at))
		return;
	m.u.position.file = at.file;
	m.u.position.offset = at.offset;
	if (channel_send(s->recorder.channel, &m, SLICE_NONE) == 0)
		s->told = at;
}

static void
flush_channels(struct scheduler *s)
{
	for (unsigned i = 0; i < s->n_workers; i++) {
		if (s->workers[i].channel != NULL)
			channel_flush(s->workers[i].channel);
	}
	for (unsigned i = 0; i < s->n_receivers; i++) {
		if (s->receivers[i].channel != NULL)
			channel_flush(s->receivers[i].channel);
	}
	if (s->resolver.channel != NULL)
		channel_flush(s->resolver.channel);
	if (s->recorder.channel != NULL)
		channel_flush(s->recorder.channel);
}

static bool
nothing_runs(struct scheduler *s)
{
	for (uint32_t i = 0; i < CORE_CONNECTIONS_MAX; i++) {
		if (s->conns[i].used)
			return false;
	}
	return committer_is_idle(s->committer);
}

static void
name_is_unused(void *arg, uint32_t number)
{
	struct scheduler *s = arg;

	committer_del_name(s->committer, number);
}

/* A name goes in a later commit than the last row that refers to it. */
static void
forget_names(struct scheduler *s)
{
	if (!committer_is_full(s->committer) && names_sweep(s->names, NAMES_A_TURN, name_is_unused, s))
		timer_set(&s->run_timer, 0);
}

/* Redirected entries, each of which costs a row: so many with each commit, what is new has room beside them. */
static void
may_move(struct scheduler *s, const struct core_now *now)
{
	bool some = s->may_move || committer_is_idle(s->committer);

	s->may_move = false;
	core_move_room(s->core, now, some ? MOVES_A_COMMIT : 0);
}

static void
turn_end(void *arg)
{
	struct scheduler *s = arg;
	struct core_now now = scheduler_now(s);

	if (s->failed) {
		flush_channels(s);
		return;
	}
	if (s->run_again && !s->draining) {
		size_t outcomes = records_waiting(s);
		uint64_t next;

		s->run_again = false;
		may_move(s, &now);
		core_give_up_room(s->core, &now, outcomes < OUTCOMES_MAX ? (uint32_t)(OUTCOMES_MAX - outcomes) : 0);
		next = core_run(s->core, &now, DECISIONS_A_TURN);
		if (next <= now.boot_us) {
			s->run_again = true;
			timer_set(&s->run_timer, 0);
		} else if (next != UINT64_MAX) {
			timer_set(&s->run_timer, next - now.boot_us);
		}
	}
	if (control_turn(s))
		timer_set(&s->run_timer, 0);
	if (rollups_turn(s))
		timer_set(&s->run_timer, 0);
	if (backoff_turn(s))
		timer_set(&s->run_timer, 0);
	records_turn(s);
	forget_names(s);
	segments_flush(s->segments);
	committer_kick(s->committer);
	flush_channels(s);
}

static void
on_run_timer(void *arg)
{
	scheduler_kick(arg);
}

/* After each commit that is not right behind another one, and each second. */
static void
check_quota(struct scheduler *s)
{
	struct event_position low = s->recorder_at.file != 0 ? s->recorder_at : s->oldest_events;
	struct quota_facts f = { .map_percent = store_fill_percent(s->store) };
	enum quota before = s->quota;

	s->quota_at_us = loop_boot_us(s->loop);
	(void)disk_room(s->spool.fd, &f.disk_bytes, &f.free_bytes);
	f.events_percent = quota_events_percent(low, committer_synced(s->committer),
						committer_event_file_bytes(s->committer), f.disk_bytes);
	s->quota = quota_check(&f, before);
	if (s->quota == before)
		return;
	log_warn("spool=%s quota=%s reception=%s disk_free_mb=%llu map_percent=%u events_percent=%u", s->spool.path,
		 quota_text(s->quota), s->quota != QUOTA_FREE ? "refused" : "taken",
		 (unsigned long long)(f.free_bytes >> 20), f.map_percent, f.events_percent);
	segments_tight(s->segments, s->quota != QUOTA_FREE);
}

/* After a peak has gone. */
static void
return_memory(struct scheduler *s, uint64_t entries)
{
	if (entries > s->peak_entries)
		s->peak_entries = entries;
	if (entries * 4 > s->peak_entries || s->peak_entries < ENTRIES_TO_TRIM)
		return;
	s->peak_entries = entries;
	mem_trim();
}

static void
keep_segments(struct scheduler *s)
{
	if (!s->old_claims_settled && recovery_is_over(s)) {
		s->old_claims_settled = true;
		segments_release_old(s->segments);
	}
	segments_tick(s->segments);
	if (!s->draining)
		compaction_tick(s->compaction);
}

static void
on_tick(void *arg)
{
	struct scheduler *s = arg;
	struct core_totals t;

	timer_set(&s->tick, TICK_US);
	if (s->failed) {
		stats_tick(s);
		return;
	}
	if (s->ticks++ % TICKS_A_QUOTA == 0 || s->quota != QUOTA_FREE)
		check_quota(s);
	keep_segments(s);
	dispatch_tick(s);
	records_tick(s);
	routes_tick(s);
	charges_turn(s);
	backoff_sweep(s);
	stats_tick(s);
	tell_recorder(s);
	core_totals(s->core, &t);
	return_memory(s, t.queued_entries);
	/* Leases are unique over lives: keep the durable mark well ahead of what is given. */
	if (t.next_lease + (1u << 19) > committer_meta_view(s->committer)->next_lease)
		committer_meta(s->committer)->next_lease = t.next_lease + (1u << 20);
	if (s->draining && nothing_runs(s))
		proc_done(s->proc);
}

/* What the committer tells --------------------------------------------------------------------- */
static void
on_committed(void *arg)
{
	struct scheduler *s = arg;

	s->may_move = true;
	tell_recorder(s);
	if (loop_boot_us(s->loop) - s->quota_at_us >= QUOTA_EVERY_US)
		check_quota(s);
	/* Rings that were left unread while the batch was full. */
	for (unsigned i = 0; i < s->n_workers; i++)
		dispatch_channel(&s->workers[i]);
	for (unsigned i = 0; i < s->n_receivers; i++)
		intake_channel(&s->receivers[i]);
	/* How far a segment is committed goes with the rows, or a message told again would be taken twice. */
	segments_flush(s->segments);
	scheduler_kick(s);
}

static void
on_failure(void *arg, int rc)
{
	struct scheduler *s = arg;

	uint64_t lived_us = clock_boot_us() - s->ready_boot_us;

	/* What the commit did is unknown: nobody is answered, the next life reads what is there. Where lives
	 * are short the cause lasts: then the pause between two of them is made here. */
	log_error("commit=failed error=\"%s\" action=restart", err_text(rc));
	s->failed = true;
	if (lived_us >= LIFE_LEAST_US)
		proc_fail(s->proc);
	else
		timer_set(&s->again, LIFE_LEAST_US - lived_us);
}

/* Peers ---------------------------------------------------------------------------------------- */
void
scheduler_recycle_events(struct scheduler *s)
{
	struct event_position low = committer_covered(s->committer);

	if (s->recorder_at.file == 0)
		return; /* it has not said yet where it reads */
	if (event_position_before(s->recorder_at, low))
		low = s->recorder_at;
	committer_recycle_events(s->committer, charges_events_needed(s, low));
}

static void
recorder_channel(struct peer *p)
{
	struct message m;
	struct slice payload;
	int rc = 0;

	while (p->channel != NULL && (rc = channel_recv(p->channel, &m, &payload)) == 1) {
		if (m.kind != MESSAGE_CURSOR)
			continue;
		p->s->recorder_at = (struct event_position){ m.u.position.file, m.u.position.offset };
		scheduler_recycle_events(p->s);
	}
	if (rc < 0)
		peer_broken(p, rc);
}

static void
recorder_gone(struct peer *p)
{
	channel_close(&p->channel);
}

static struct peer *
find_peer(struct scheduler *s, enum role role, unsigned slot)
{
	switch (role) {
	case ROLE_RECEIVER:
		return slot < s->n_receivers ? &s->receivers[slot] : NULL;
	case ROLE_WORKER:
		return slot < s->n_workers ? &s->workers[slot] : NULL;
	case ROLE_RESOLVER:
		return &s->resolver;
	case ROLE_RECORDER:
		return &s->recorder;
	default:
		return NULL;
	}
}

static void
peer_gone(struct peer *p)
{
	switch (p->role) {
	case ROLE_RECEIVER:
		intake_gone(p);
		break;
	case ROLE_WORKER:
		dispatch_gone(p);
		break;
	case ROLE_RESOLVER:
		routes_gone(p);
		break;
	default:
		recorder_gone(p);
		break;
	}
}

static void
on_input(void *arg)
{
	struct peer *p = arg;

	if (p->channel == NULL || p->s->failed)
		return;
	switch (p->role) {
	case ROLE_RECEIVER:
		intake_channel(p);
		scheduler_kick(p->s);
		break;
	case ROLE_WORKER:
		dispatch_channel(p);
		break;
	case ROLE_RESOLVER:
		routes_channel(p);
		break;
	default:
		recorder_channel(p);
		break;
	}
}

static void
on_channel(void *arg, enum role role, unsigned slot, uint32_t generation, const struct channel_fds *fds)
{
	struct scheduler *s = arg;
	struct peer *p = find_peer(s, role, slot);
	struct channel_fds copy = *fds;
	int rc;
#define X(name, entry, letter, count) [ROLE_##name] = letter,
	static const char letters[] = { ROLES(X) };
#undef X

	if (p == NULL || !s->started || s->failed) {
		channel_fds_close(&copy);
		return;
	}
	if (p->channel != NULL)
		peer_gone(p);
	p->generation = generation;
	p->said_hello = false;
	rc = channel_open(&p->channel, fds, 'S', s->loop, on_input, p);
	if (rc != 0) {
		p->channel = NULL;
		peer_broken(p, rc);
		return;
	}
	channel_expect(p->channel, letters[role]);
	if (role == ROLE_RESOLVER)
		routes_came(p);
	if (role == ROLE_RECORDER) {
		s->told = (struct event_position){ 0, 0 };
		tell_recorder(s);
	}
	on_input(p);
}

static void
on_peer_gone(void *arg, enum role role, unsigned slot, uint32_t generation)
{
	struct scheduler *s = arg;
	struct peer *p = find_peer(s, role, slot);

	/* The next life finds its claims in the table. */
	if (!s->started || s->failed)
		return;
	if (p == NULL || (p->channel != NULL && p->generation != generation))
		return;
	peer_gone(p);
}

static void
on_drain(void *arg)
{
	struct scheduler *s = arg;

	s->draining = true;
	if (!s->started)
		proc_done(s->proc);
}

static void
on_commit(void *arg, const struct conf *conf, const struct conf *old)
{
	reload_commit(arg, conf, old);
}

static void
on_reloaded(void *arg, const struct reload_answer *answer)
{
	reload_answered(arg, answer);
}

/* Life ----------------------------------------------------------------------------------------- */
static int
open_claims(struct scheduler *s)
{
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		char name[32];
		int rc;

		snprintf(name, sizeof name, "worker-%02u", w);
		if (w >= s->n_workers && faccessat(s->spool.claims_fd, name, F_OK, 0) != 0)
			continue;
		rc = claim_table_open(&s->claims[w], s->spool.claims_fd, w, s->spool.instance);
		if (rc != 0) {
			log_error("claims worker=%u open=failed error=\"%s\"", w, err_text(rc));
			return rc;
		}
		if (claim_reserve(s->claims[w]) != 0)
			log_warn("claims worker=%u reserve=failed", w);
	}
	return 0;
}

/* Tests fill a small one. */
static uint64_t
map_bytes(void)
{
	const char *text = getenv("SLUICE_TEST_MAP_BYTES");
	uint64_t bytes;

	return text != NULL && slice_u64(slice_str(text), STORE_MAP_BYTES, &bytes) ? bytes : STORE_MAP_BYTES;
}

/* Files before it are done with, by the store and by the recorder. A cursor that may not be on the disk counts for
 * nothing. */
static struct event_position
unused_event_files(struct scheduler *s, const struct store_meta *meta)
{
	struct event_position low = { meta->event_file, meta->event_offset };
	int rc = fsync(s->spool.cursors_fd) == 0 ? 0 : -err_errno();

	if (rc == 0)
		rc = event_cursor_position(s->spool.cursors_fd, &s->recorder_at, &s->recorder_lsn);
	if (rc != 0)
		low = s->recorder_at = (struct event_position){ 0, 0 };
	else if (event_position_before(s->recorder_at, low))
		low = s->recorder_at;
	if (rc != 0 && rc != -E_MISSING)
		log_warn("cursor=acct error=\"%s\" event_log=kept", err_text(rc));
	return low;
}

/* They may hold the room that this start needs on a full disk, and the recorder speaks only to one that is ready. No
 * transaction of ours was committed yet: so first the one that says so is made durable. */
static void
free_event_files(struct scheduler *s, struct event_position low)
{
	int rc = store_write_again(s->store);

	if (rc == 0)
		rc = event_log_trim(s->spool.events_fd, low, 0);
	if (rc != 0)
		log_warn("event_log trim=failed error=\"%s\"", err_text(rc));
}

/* The recorder has read beyond the end: events there were synced, and are damaged. It would not see what is written
 * there now, and would know its numbers. */
static int
pass_cursor(struct scheduler *s, struct store_meta *meta)
{
	struct event_position end = event_writer_position(s->log);
	struct store_txn *t;
	int rc;

	if (!event_position_before(end, s->recorder_at) && s->recorder_lsn <= event_writer_next_lsn(s->log))
		return 0;
	rc = event_writer_pass(s->log, s->recorder_at, s->recorder_lsn);
	if (rc != 0)
		return rc;
	log_error("event_file=%llu offset=%llu its last events are damaged: the recorder had read them, the rows do not have them "
		  "next_file=%llu next_lsn=%llu",
		  (unsigned long long)end.file, (unsigned long long)end.offset,
		  (unsigned long long)event_writer_position(s->log).file,
		  (unsigned long long)event_writer_next_lsn(s->log));
	meta->event_file = event_writer_position(s->log).file;
	meta->event_offset = event_writer_position(s->log).offset;
	meta->next_lsn = event_writer_next_lsn(s->log);
	rc = store_begin(s->store, &t);
	if (rc != 0)
		return rc;
	rc = store_put_meta(t, meta);
	if (rc == 0)
		return store_commit(&t);
	store_abort(&t);
	return rc;
}

/* All that is on the disk, made whole: what fails here may pass. Opening makes the end of the log durable;
 * only what is may be replayed. */
static int
open_disk(struct scheduler *s, struct store_meta *meta, uint64_t *first_lease)
{
	const char *path = conf_global(s->conf)->spool, *why = "";
	struct event_position low;
	int rc = spool_open(&s->spool, path, &why);

	if (rc != 0) {
		log_error("spool=%s open=failed error=\"%s\" why=\"%s\"", path, err_text(rc), why);
		return rc;
	}
	rc = store_open_sized(&s->store, s->spool.path, s->spool.instance, map_bytes());
	if (rc == 0)
		rc = store_load_meta(s->store, meta);
	if (rc == -E_MISSING) {
		memset(meta, 0, sizeof *meta);
		meta->next_message_id = meta->next_epoch = meta->next_lease = meta->next_lsn = 1;
		rc = 0;
	}
	if (rc == 0)
		rc = admission_check(&s->spool, meta);
	if (rc != 0)
		return rc;
	low = unused_event_files(s, meta);
	if (s->disk_full)
		free_event_files(s, low);
	/* The commit of the replay makes the mark durable before the first lease is given: what a worker says of
	 * a lease of a life that ended at once is not taken for one of this life. */
	*first_lease = meta->next_lease;
	meta->next_lease += 1u << 20;
	rc = event_writer_open(&s->log, s->spool.events_fd, s->spool.instance,
			       (struct event_position){ meta->event_file, meta->event_offset }, meta->next_lsn);
	if (rc == 0)
		rc = recovery_replay(s, meta, event_writer_position(s->log));
	if (rc == 0)
		rc = pass_cursor(s, meta);
	/* Not before that commit: what was read as the last one may never have reached the disk, and after a power cut
	 * the one before it would ask for a file that is gone. */
	if (rc == 0 && event_recycle(s->log, low) != 0)
		log_warn("event_log recycle=failed"); /* tried again when the recorder speaks */
	if (rc == 0)
		rc = open_claims(s);
	if (rc == 0)
		rc = event_log_oldest(s->spool.events_fd, &s->oldest_events);
	if (rc == 0)
		charges_start(s);
	return rc;
}

static void
close_disk(struct scheduler *s)
{
	event_writer_close(&s->log);
	store_close(&s->store);
	for (unsigned w = 0; w < WORKERS_MAX; w++)
		claim_table_close(&s->claims[w]);
	spool_close(&s->spool);
}

static int
take_up(struct scheduler *s, const struct store_meta *meta, uint64_t first_lease)
{
	static const struct committer_hooks hooks = { on_committed, on_failure };

	backoff_load(s);
	acts_load(s); /* the core asks for limits from its first moment on */
	s->core = core_new(&dispatch_ops, s, s->conf, first_lease);
	s->committer = committer_new(s->loop, s->store, s->log, meta, &hooks, s);
	s->log = NULL;
	s->segments = segments_new(s->loop, s->committer, s->spool.segments_fd, s->spool.instance, intake_segment, s);
	segments_expect(s->segments, s->n_receivers);
	return recovery_load(s, meta);
}

static void
init(struct scheduler *s)
{
	s->loop = proc_loop(s->proc);
	s->conf = proc_conf(s->proc);
	s->started_wall_us = loop_wall_us(s->loop);
	s->names = names_new();
	s->overrides = overrides_new();
	s->settings = settings_new(s->conf, s->overrides);
	s->providers = providers_new();
	if (route_object_map(&s->routes, proc_heritage(s->proc)->routes_fd, false) != 0)
		log_warn("routes map=failed");
	s->conns = mem_calloc(CORE_CONNECTIONS_MAX, sizeof *s->conns);
	s->n_workers = conf_global(s->conf)->workers;
	s->n_receivers = conf_global(s->conf)->receivers;
	s->wants_reception = reload_reception_is_wanted(s->conf);
	for (unsigned i = 0; i < s->n_workers; i++)
		s->workers[i] = (struct peer){ .s = s, .role = ROLE_WORKER, .slot = i };
	for (unsigned i = 0; i < s->n_receivers; i++)
		s->receivers[i] = (struct peer){ .s = s, .role = ROLE_RECEIVER, .slot = i };
	s->resolver = (struct peer){ .s = s, .role = ROLE_RESOLVER };
	s->recorder = (struct peer){ .s = s, .role = ROLE_RECORDER };
	timer_init(&s->run_timer, s->loop, on_run_timer, s);
	timer_init(&s->tick, s->loop, on_tick, s);
}

/* -E_AGAIN: the disk would not be opened. */
static int
start(struct scheduler *s)
{
	struct store_meta meta;
	uint64_t first_lease;
	int rc;

	s->disk_full = false;
	rc = open_disk(s, &meta, &first_lease);
	if (rc == -E_FULL) {
		close_disk(s);
		s->disk_full = true;
		rc = open_disk(s, &meta, &first_lease);
	}
	if (rc != 0) {
		if (s->tries++ % TRIES_A_LINE == 0)
			log_error("queue open=failed error=\"%s\" tries=%u action=wait", err_text(rc), s->tries);
		close_disk(s);
		return -E_AGAIN;
	}
	s->started = true;
	rc = take_up(s, &meta, first_lease);
	if (rc != 0)
		return rc;
	s->cache = segment_cache_new(s->spool.segments_fd, s->spool.instance);
	records_open(s);
	charges_rebuild(s);
	recovery_claims(s); /* reads records by itself */
	receptions_log_again(s);
	acts_started(s);
	backoff_started(s);
	s->reader = offload_new(s->loop);
	rc = segments_start(s->segments);
	if (rc != 0)
		return rc;
	s->compaction = compaction_new(&(struct compaction_world){
		.loop = s->loop,
		.core = s->core,
		.committer = s->committer,
		.segments = s->segments,
		.dir = s->spool.segments_fd,
		.instance = s->spool.instance,
		.after_us = conf_global(s->conf)->compact_after_us,
	});
	for (unsigned i = s->n_receivers; i < RECEIVERS_MAX; i++)
		segments_seal_all(s->segments, i); /* there are fewer receivers now */
	rc = stats_open(s);
	if (rc == 0)
		rc = control_open(s);
	if (rc != 0)
		return rc;
	loop_set_turn_end(s->loop, turn_end, s);
	check_quota(s);
	timer_set(&s->tick, 0);
	scheduler_kick(s);
	s->ready_boot_us = clock_boot_us(); /* the loop has not looked at it for a while */
	proc_ready(s->proc);
	return 0;
}

/* A queue that was open before is waited for here, not by dying: the master would count that, and let us wait
 * longer each time. Not ready, so nobody is told of us: receivers refuse mail, workers finish what runs. */
static void
on_again(void *arg)
{
	struct scheduler *s = arg;
	int rc;

	if (s->started) { /* after a failed commit */
		proc_fail(s->proc);
		return;
	}
	rc = start(s);
	if (rc == -E_AGAIN && proc_heritage(s->proc)->instance_was_ready) {
		timer_set(&s->again, TRY_AGAIN_US);
	} else if (rc != 0) {
		log_error("scheduler start=failed error=\"%s\"", err_text(rc));
		proc_fail(s->proc);
	}
}

static void
stop(struct scheduler *s)
{
	control_close(s);
	stats_close(s);
	for (unsigned i = 0; i < s->n_workers; i++)
		channel_close(&s->workers[i].channel);
	for (unsigned i = 0; i < s->n_receivers; i++)
		channel_close(&s->receivers[i].channel);
	channel_close(&s->resolver.channel);
	channel_close(&s->recorder.channel);
	offload_free(&s->reader);
	records_close(s);
	quarantine_close(s);
	segment_cache_free(&s->cache);
	compaction_free(&s->compaction);
	segments_free(&s->segments);
	committer_free(&s->committer);
	for (unsigned w = 0; w < WORKERS_MAX; w++)
		claim_table_close(&s->claims[w]);
	core_free(&s->core);
	acts_close(s);
	backoff_close(s);
	providers_free(&s->providers);
	target_names_free(&s->target_names);
	redirects_close(s);
	rollups_close(s);
	anchors_free(&s->anchors);
	charges_stop(s);
	settings_free(&s->settings);
	overrides_free(&s->overrides);
	spool_close(&s->spool);
}

int
scheduler_main(struct heritage *h)
{
	static const struct proc_hooks hooks = {
		.on_channel = on_channel,
		.on_peer_gone = on_peer_gone,
		.on_drain = on_drain,
		.on_commit = on_commit,
		.on_reloaded = on_reloaded,
	};
	static struct scheduler state;
	struct scheduler *s = &state;
	int status;

	mem_tune();
	s->proc = proc_begin(h, &hooks, s);
	if (s->proc == NULL)
		return 1;
	init(s);
	timer_init(&s->again, s->loop, on_again, s);
	on_again(s);
	status = proc_run(s->proc);
	/* After a failed commit nothing more is written, not even an orderly end. */
	if (status != 0 || !s->started)
		_exit(status);
	stop(s);
	return status;
}
