/* state: what the parts of the scheduler process share: one struct, each part's own section named. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "common/conf/conf.h"
#include "common/ipc/channel.h"
#include "common/ipc/results.h"
#include "common/proc/proc.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "common/queue/store.h"
#include "scheduler/backoff.h"
#include "scheduler/committer.h"
#include "scheduler/compaction.h"
#include "scheduler/core/core.h"
#include "scheduler/names.h"
#include "scheduler/offload.h"
#include "scheduler/overrides.h"
#include "scheduler/providers.h"
#include "scheduler/quota.h"
#include "scheduler/redirects.h"
#include "scheduler/anchors.h"
#include "scheduler/rollups.h"
#include "scheduler/segments.h"
#include "scheduler/settings.h"
#include "shm/stat.h"

struct scheduler;
struct charges;
struct backoff;
struct backoff_tell;

/* The line to one other process. */
struct peer {
	struct scheduler *s;
	enum role role;
	unsigned slot;
	uint32_t generation; /* of the process at the other end */
	struct channel *channel; /* NULL: none lives */
	bool said_hello;
	bool refused_work; /* a worker: no claim slot or no room in its ring */
	uint64_t n_refused, told_us; /* a worker: OPENs that found no room since that was told */
	uint32_t pid;
	/* Messages for which the ring had no room; the first n_sent of them went meanwhile. */
	struct message *waiting;
	size_t n_waiting, n_sent, cap_waiting;
};

/* What a rule with `after` asks of the transaction in which it fires. */
enum conn_fired { CONN_FIRED_STAY = 1, CONN_FIRED_BOUNCE = 2, CONN_FIRED_SKIP = 4, CONN_FIRED_SLOW = 8 };
#define CONN_FIRED_MOST 4 /* different replies by which rules fire in one transaction; of more the first are kept */

/* What the driver remembers of a connection that the core has opened. */
struct conn {
	uint32_t entry; /* CORE_NONE: no lease out */
	uint64_t lease;
	uint64_t stamp_boot_us;      /* of the lease */
	uint64_t open_stamp_boot_us; /* of the OPEN */
	uint32_t claim_slot;
	uint32_t queue;
	uint32_t source_ip;
	uint32_t job, sender_domain; /* that it was opened for, if they have limits; 0: none */
	uint16_t attempt;
	uint8_t worker;
	uint8_t n_matches;   /* told of this transaction */
	uint8_t n_fired;
	struct fired { /* of outcomes with that reply, whole or cut */
		uint32_t reply, head; /* hashes: of all of it, of its first bytes */
		uint16_t bytes;
		uint8_t what; /* enum conn_fired */
	} fired[CONN_FIRED_MOST];
	bool used;
	bool unsent; /* its OPEN found no room */
	bool ready;  /* OPENED came */
};

/* A claim found in a table at start, until its worker says what became of it. */
struct old_claim {
	struct claim_grant grant;
	unsigned worker;
	unsigned slot;
	uint32_t entry;  /* CORE_NONE: no row, or a row that covers it */
	bool believable; /* the slot's checksums hold */
	bool running;    /* its worker lives and works on it */
	bool open;       /* nothing was decided yet: its entry is claimed under its lease */
};

/* A message of the last commit: its reception was being logged beside it. */
struct lost_reception {
	msg_id_t message;
	struct entry_key key;
	uint32_t entry; /* of `key`, one of its entries; CORE_NONE: no row */
	bool logged;    /* the event is there */
	bool held;      /* the entry: it is not sent yet */
	bool owed;      /* the record is being read */
};

struct scheduler {
	struct proc *proc;
	struct loop *loop;
	const struct conf *conf;
	struct core *core;
	struct names *names;
	struct committer *committer;
	struct segments *segments;
	struct compaction *compaction; /* NULL while starting */
	bool old_claims_settled;
	struct quarantine *quarantine; /* entries that are damaged */
	struct offload *reader; /* reads records; NULL while starting */
	struct records *records; /* who waits for it */
	struct segment_cache *cache; /* the reader thread's */
	struct spool spool;
	struct store *store; /* for short reads; the committer owns it */
	struct timer run_timer;
	unsigned ticks;
	struct timer tick;
	/* life */
	struct event_writer *log; /* while starting: the committer takes it */
	unsigned tries;      /* to open the queue */
	struct timer again;  /* starting: the disk is tried again; failed: the end */
	uint64_t ready_boot_us;
	bool started;
	bool failed; /* a commit failed: nothing is taken or decided any more */
	bool draining;
	enum quota quota; /* not FREE: nothing new is taken */
	uint64_t quota_at_us;
	bool disk_full; /* the first try of a start said so */
	struct event_position oldest_events; /* until the recorder says where it reads */
	bool run_again;
	/* peers */
	struct peer receivers[RECEIVERS_MAX];
	struct peer workers[WORKERS_MAX];
	struct peer resolver;
	struct peer recorder;
	unsigned n_workers, n_receivers;
	struct claim_table *claims[WORKERS_MAX];
	struct charges *charges;	 /* NULL: limits live in memory only */
	struct offload *charges_thread; /* syncs it; NULL while starting */
	bool charges_syncing;
	uint64_t charges_sync_at_us;
	struct conn *conns; /* CORE_CONNECTIONS_MAX */
	uint32_t *unsent; /* connections whose OPEN found no room */
	size_t n_unsent, cap_unsent;
	uint32_t *unasked; /* queues whose ASK found no room */
	size_t n_unasked, cap_unasked;
	bool wants_reception; /* some acct-file wants `r` records */
	struct settings *settings;
	struct overrides *overrides; /* of operators */
	struct timer acts_timer;     /* the first of them ends */
	struct providers *providers;
	struct target_names *target_names; /* NULL: none yet */
	struct redirects *redirects;
	struct rollups *rollups; /* NULL: there was none yet */
	struct backoff *backoff;
	struct backoff_tell *backoff_tell;
	struct notify *notify;
	struct {
		uint64_t second; /* boot clock */
		unsigned lines;  /* about matches, in it */
	} match_log;
	struct anchors *anchors; /* NULL: none was needed yet */
	bool may_move; /* a commit ended since entries were moved */
	struct route_object *routes; /* read-only; NULL: could not be mapped */
	/* recovery */
	struct lost_reception *receptions; /* by message: rows whose event may be missing */
	size_t n_receptions;
	bool receptions_begin;
	struct old_claim *old_claims; /* while loading by entry, then by lease */
	size_t n_old_claims, cap_old_claims;
	/* cursor of the recorder */
	struct event_position recorder_at;
	uint64_t recorder_lsn; /* at the start: of the event there; 0: not known */
	struct event_position told;
	/* counters that the core does not keep */
	struct stat_totals totals;
	uint64_t discarded; /* recipients */
	uint64_t kept_back; /* recipients that the core gave up, and that stay */
	uint64_t peak_entries; /* queued at once, since memory was given back */
	struct stat_object *stat;
	struct stat_rows *stat_rows;
	struct limit_rows *limit_rows;
	struct control *control;
	struct reload *reload; /* NULL: none was asked for yet */
	uint64_t started_wall_us;
	struct buf scratch;
	struct buf scratch2;
	struct buf payload;
};

struct core_now scheduler_now(const struct scheduler *s);
/* The number of a queue, made known to core and store when it is new. */
uint32_t scheduler_queue(struct scheduler *s, struct slice domain, struct slice vmta);
uint32_t scheduler_name(struct scheduler *s, struct slice name);
/* Something changed: let the core decide before the turn ends. */
void scheduler_kick(struct scheduler *s);

/* peer: messages without payload; they go when there is room, in their order, or never when it dies. */
void peer_send(struct peer *p, const struct message *m);
/* False when some still wait: then nothing more is to be taken from it. */
bool peer_flush(struct peer *p);
void peer_close(struct peer *p);
/* It broke the rules: what it says is heard no more, and the master is asked for another one. */
void peer_broken(struct peer *p, int rc);

/* intake: receivers. */
void intake_channel(struct peer *p);
void intake_gone(struct peer *p);
void intake_segment(void *arg, unsigned receiver, uint32_t generation, uint64_t for_bytes,
		    uint32_t number, uint64_t epoch, uint64_t bytes, int rc);

/* dispatch: workers, and the core's ops. */
extern const struct core_ops dispatch_ops;
void dispatch_channel(struct peer *p);
void dispatch_gone(struct peer *p);
void dispatch_tick(struct scheduler *s);

/* settle: what became of claims and entries, made durable. */
struct settle_source {
	uint32_t entry;
	uint64_t lease;
	unsigned worker;
	uint32_t claim_slot;
	uint32_t attempt;
	uint64_t stamp_boot_us;
	uint32_t source_ip;
};
/* Returns false when the core knows no such claim; then the slot is the caller's to free. */
bool settle_results(struct scheduler *s, const struct settle_source *from, const struct results *r,
		    const struct result_strings *strings);
/* The same without the strings: the record is read for them first. `r` is copied. */
void settle_by_record(struct scheduler *s, const struct settle_source *from, const struct results *r);
/* Every unfinished recipient of the claim deferred with `diag`; by record. */
void settle_lost(struct scheduler *s, const struct settle_source *from, const struct claim_view *v);
/* All unfinished recipients of an entry end without an attempt: action EVENT_EXPIRED, EVENT_DELETED or
 * EVENT_BOUNCED. */
void settle_outcome(struct scheduler *s, uint32_t entry, enum event_action action,
		    const unsigned char status[3], const char *diag);
/* Recipients whose bit is set in `bits` (of the withdrawn entry) are deleted; the entry lives on with the
 * others, due at `due_s` as it was. `then` runs when that is on disk. */
void settle_delete(struct scheduler *s, uint32_t entry, const unsigned char *bits, uint32_t due_s,
		   commit_action *then, void *ctx);
/* A connection attempt, for the log: EVENT_CONNECT when it failed, EVENT_ATTEMPT when it did not, as far as is known.
 * `stamp_boot_us`: of its OPEN; 0: connect() was not called, nothing stays charged. */
struct settle_attempt {
	enum event_kind kind;
	uint32_t queue, source_ip;
	uint64_t stamp_boot_us;
	uint32_t job, sender_domain;
	struct slice destination, mta, reason;
};
void settle_connect(struct scheduler *s, const struct settle_attempt *a);
void settle_queue_row(struct scheduler *s, uint32_t queue);

/* An entry's row as the index has it. */
struct store_row settle_row(const struct core_entry_facts *f);
struct slice settle_rcpt_address(const struct record *rec, const struct core_entry_facts *f, unsigned index);
bool settle_rcpt_is_done(const struct core_entry_facts *f, unsigned index);

/* records: reading them in the reader thread. `rec` is NULL when rc < 0: it is damaged or lost; -E_MISSING: the
 * entry, not claimed nor leaving, went away meanwhile. What may pass (no descriptor, no memory) is no answer: it
 * is tried again until there is one. Called back at the top of the loop; while starting at once, if it can be. */
typedef void records_fn(struct scheduler *s, void *arg, int rc, const struct record *rec);
void records_open(struct scheduler *s);
void records_close(struct scheduler *s);
/* Once per turn, before the batch is handed over. */
void records_turn(struct scheduler *s);
void records_tick(struct scheduler *s);
/* How many stand in line; those that are tried again later do not, or they would keep all others out. */
size_t records_waiting(const struct scheduler *s);
void records_read(struct scheduler *s, uint32_t entry, records_fn *fn, void *arg);

/* routes: the resolver's answers. */
void routes_channel(struct peer *p);
void routes_gone(struct peer *p);
void routes_came(struct peer *p);
void routes_tick(struct scheduler *s);
void routes_ask(struct scheduler *s, uint32_t queue, struct slice name);
/* The same by number; with a flag the answer is not for the core. */
#define ROUTES_ROLLUP 0x80000000u /* is this queue's mail to be rolled up? */
#define ROUTES_ANCHOR 0x40000000u /* the number is an anchor's (anchors.h) */
void routes_ask_for(struct scheduler *s, uint32_t what);
/* Another configuration: providers and the limits of MX hosts and addresses. */
void routes_reconfigured(struct scheduler *s, const struct conf *old);

/* recovery */
/* Events from the position in *meta up to `end`; *meta is moved on. */
int recovery_replay(struct scheduler *s, struct store_meta *meta, struct event_position end);
int recovery_load(struct scheduler *s, const struct store_meta *meta);
void recovery_claims(struct scheduler *s);
/* A worker that lived before named this lease. */
void recovery_held(struct scheduler *s, unsigned worker, const struct message *m);
/* A result or return for a lease of our earlier life. NULL when it is none; *from is filled. */
struct old_claim *recovery_lease(struct scheduler *s, unsigned worker, uint64_t lease, struct settle_source *from);
/* The worker is dead: what it still ran is settled from its table. */
void recovery_worker_gone(struct scheduler *s, unsigned worker);
/* Nothing of our earlier life is out any more. */
bool recovery_is_over(const struct scheduler *s);
/* A worker has said all it holds (or is new): what is left of its old claims is settled. */
void recovery_worker_known(struct scheduler *s, unsigned worker);

/* charges: what was charged to limits before this process, and after it. */
void charges_start(struct scheduler *s);
/* Before the first grant, when the queues are loaded. */
void charges_rebuild(struct scheduler *s);
void charges_turn(struct scheduler *s); /* at each tick */
void charges_reconfigured(struct scheduler *s);
/* Events before `low` may be recycled, but not these. */
/* Event log that the last commit covers, the recorder has read and no charge needs may be used again. */
void scheduler_recycle_events(struct scheduler *s);
struct event_position charges_events_needed(const struct scheduler *s, struct event_position low);
void charges_stop(struct scheduler *s);

/* receptions: those that were committed and not logged any more. */
int receptions_load(struct scheduler *s);
void receptions_seen(struct scheduler *s, msg_id_t message); /* a replayed event */
int receptions_put(struct scheduler *s, struct store_txn *t); /* those not seen */
/* A row is there. True: its entry is to be added uncommitted, the reception comes first. */
bool receptions_row(struct scheduler *s, struct entry_key key, bool claimed);
void receptions_entry(struct scheduler *s, struct entry_key key, uint32_t entry);
void receptions_log_again(struct scheduler *s);

/* control: operators. */
int control_open(struct scheduler *s);
void control_close(struct scheduler *s);

struct notify_why;
/* acts: what operators set, made durable and put in force. */
void acts_load(struct scheduler *s);
/* All queues are known. */
void acts_started(struct scheduler *s);
void acts_close(struct scheduler *s);
/* Source IPs have other numbers. */
void acts_reconfigured(struct scheduler *s);
/* Makes the queue known to the core, with the source IPs that are disabled for it. */
void acts_queue(struct scheduler *s, uint32_t queue);
/* At once in force; durable with the batch that fills. False: there are too many. `for_us` 0: it has no end. */
bool acts_set_limit(struct scheduler *s, enum conf_override_scope scope, struct slice object,
		    struct conf_override *limit, uint64_t for_us);
/* The same, and why; which queues are told is the caller's to see to, except of all and of a single one. */
bool acts_disable(struct scheduler *s, struct slice queues, struct slice source, uint64_t for_us,
		  const struct notify_why *why);
/* It ends. */
void acts_end(struct scheduler *s, const struct override *row);
/* What an object of the core's is called, and its scope; empty: it has no overrides of its own. Borrowed. */
struct slice acts_object(const struct scheduler *s, enum core_scope scope, uint32_t number,
			 enum conf_override_scope *over);
/* The queue is told what holds for it and this source IP. */
void acts_tell_queue(struct scheduler *s, uint32_t queue, struct slice source);
/* An operator's act in the event log; empty queue: none. */
void acts_event(struct scheduler *s, struct slice queue, struct slice text);

/* reload */
bool reload_reception_is_wanted(const struct conf *conf);
/* `conf` is in force instead of `old`. */
void reload_commit(struct scheduler *s, const struct conf *conf, const struct conf *old);
/* To the operators who wait. */
void reload_answered(struct scheduler *s, const struct reload_answer *a);

/* stats */
/* Source IPs have other numbers. */
void stats_reconfigured(struct scheduler *s);
/* A queue has another number. */
void stats_renumber(struct scheduler *s, uint32_t queue, uint32_t number);
int stats_open(struct scheduler *s);
void stats_tick(struct scheduler *s);
/* Recipients delivered (discarded ones too) and bounced since the start. */
void stats_outcomes(const struct scheduler *s, uint64_t *delivered, uint64_t *bounced);
void stats_close(struct scheduler *s);

/* stats_limits: their part that shows limits. */
void stats_limits_open(struct scheduler *s);
void stats_limits_close(struct scheduler *s);
/* Changes of queues that were seen, counted up. */
uint64_t stats_changes(const struct scheduler *s);
void stats_limits_tick(struct scheduler *s);
void stats_limits_reconfigured(struct scheduler *s);
void stats_limits_count(const struct scheduler *s, uint64_t *limits, uint64_t *untold);
/* The limit of a source IP over all queues: of recipients, else of connection attempts, else of connections. */
void stats_limits_source(const struct scheduler *s, uint32_t source_ip, struct stat_source *row);
