/* state: the tables of the core, for its own files only.
 *
 *   entry   in one place (enum place); the lists of READY and DEFERRED ones hang on its queue.
 *   queue   stands in the run list when something about it changed, else it waits: for its timer,
 * or in one line (enum line) for something that many queues want, or for facts. Every change of a
 *           queue ends in run_push(); pump_visit() looks at the whole queue and says where it
 * waits. active  the larger half of a queue, made when it first sends.
 *
 * Indexes, not pointers, are kept across calls: the tables grow. Times inside are boot µs, or core
 * seconds: boot seconds + CORE_SECONDS_BASE, which also names times before boot. */
#pragma once

#include "scheduler/core/core.h"
#include "scheduler/core/map.h"
#include "scheduler/core/rate.h"
#include "scheduler/core/recover.h"
#include "scheduler/core/texts.h"
#include "scheduler/core/timers.h"

#define SECOND_US         1000000ull
#define CORE_SECONDS_BASE (1u << 30)
#define NEVER             UINT64_MAX

/* Decisions of one visit before the next queue has its turn; entries looked at in one go. */
#define QUANTUM       16
#define RELEASE_SLICE 256
#define SCAN_SLICE    1024
#define DOOM_SLICE    64

/* Entries whose memory comes and goes together: whole pages. */
#define CHUNK 4096

/* Mail that was to be retried while nobody ran, and what has waited for the end of back-off, is
 * released so many a second and queue, within a minute. */
#define OVERDUE_PER_SECOND 100
#define OVERDUE_SPREAD_S   60

/* A deadline where no limit sets one. */
#define DEADLINE_US 10000000ull
/* A connection that waits longer than this for its queue's rate is closed. */
#define RATE_IDLE_US 30000000ull
/* And no longer than this when other queues wait for a connection. */
#define RATE_SOON_US 1000000ull
/* A lookup without an answer is asked again. */
#define ASK_AGAIN_US 30000000ull
/* A source IP that could not be used is left alone this long. */
#define SOURCE_BAD_US 60000000ull
/* Bounds of the time for which a permanent DNS answer holds. */
#define DEAD_LEAST_US 1000000ull
#define DEAD_MOST_US  3600000000ull
/* A dead worker's source IPs move when it is not back by then; at start workers have a little
 * longer. */
#define MOVE_AFTER_US       200000ull
#define MOVE_AFTER_START_US 1000000ull

enum place {
	PLACE_FREE, /* zero: what memory that was given back to the system reads as */
	PLACE_HELD, /* not committed yet */
	PLACE_READY,
	PLACE_DEFERRED, /* due later */
	PLACE_CLAIMED,
	PLACE_LEAVING, /* given up, withdrawn or finished: counts for nothing, waits for
			  core_entry_gone() */
};
#define PLACES                                                                                     \
	(PLACE_CLAIMED + 1) /* of entries that count in their queue; PLACE_FREE's count stays 0 */

/* Widths: message ids are counted up from 1, 2^48 last 89 years at 100,000 a second. */
struct entry {
	uint64_t message : 48;
	uint64_t ordinal : 16;
	uint32_t next, prev; /* of its list; CLAIMED: next is the claim; FREE: next free */
	uint32_t queue;
	uint32_t due;      /* core seconds */
	uint32_t received; /* core seconds */
	uint32_t tag;      /* job and sender domain: tags[] */
	uint32_t offset16;
	uint32_t segment : 22;
	uint32_t n_rcpts : 10;
	uint32_t attempts : 16;
	uint32_t first_rcpt : 14;
	uint32_t has_marks : 1;
	uint32_t host_failed : 1; /* its last attempt ended with the host failing */
	uint32_t kbytes : 19;
	uint32_t place : 3;
	uint32_t row_flags : 8;
	uint32_t idle_returns : 2; /* claims in a row that attempted nothing */
};
_Static_assert(sizeof(struct entry) == 48, "an entry is 48 bytes");
_Static_assert(ENTRY_RCPT_MAX < 1 << 10, "n_rcpts");
_Static_assert(SMTP_RCPT_MAX < 1 << 14, "first_rcpt");
_Static_assert(MESSAGE_BYTES_MAX / 1024 + ENVELOPE_BYTES_MAX / 1024 < 1 << 19, "kbytes");

/* Of entries with several recipients, once some are finished or tried: done bits, then the bits of
 * those that had their turn in this round (all unfinished ones get one before the entry is
 * deferred). */
struct marks {
	uint16_t n_done, n_tried; /* tried and not done */
	uint8_t bits[];
};

struct list {
	uint32_t head, tail;
};

/* What many queues may wait for together. */
enum line_kind {
	LINE_NONE,
	LINE_LIMIT,   /* a limit that several queues share; `of`: limits[] */
	LINE_ASKS,    /* lookups in flight */
	LINE_SOURCES, /* a source IP of a virtual MTA with room for a connection; `of`: vmtas[] */
	LINE_SENDERS, /* the same, with room for a message */
	LINE_ROOM,    /* the claim table of a worker; `of`: workers[] */
	LINE_CONNS,   /* the connections that a worker can have; `of`: workers[] */
};

/* Queues in their order, by queue-priority; made when the first one comes. The one at the head has
 * its turn when there is room (`poked`), again when the timer says so, or when something is given
 * back. */
struct line {
	struct line_class {
		struct list queues; /* by line_next */
		uint32_t n;
		uint8_t priority;
	} * classes; /* the highest first */
	size_t cap;
	uint32_t n_classes, n; /* classes with queues; queues */
	uint32_t of;
	uint32_t heap_pos;   /* in line_timers */
	uint32_t poked_next; /* FREE: next free */
	uint32_t vain;       /* turns in a row that were not used */
	uint32_t asked;      /* those of them after which the queue stayed in the line */
	uint8_t kind;        /* enum line_kind; LINE_NONE: free */
	bool poked;
};

/* Which directive refused, beside the limits of limits[]; the texts are in view.c. */
enum refusal {
	REFUSAL_NONE,
	REFUSAL_MAX_SMTP_OUT,
	REFUSAL_LIMIT, /* active.blocked_by */
	REFUSAL_CLAIM_TABLE,
	REFUSAL_NO_VMTA,
	REFUSAL_TARGETS,
	REFUSAL_ATTEMPTS,
	REFUSAL_HANDED_BACK,
	REFUSAL_RAMPUP,
	REFUSAL_DESCRIPTORS,
};

/* One limit: scope x measure. A rate has charges, a count users. */
struct limit {
	struct rate *rate; /* NULL: a count */
	void *memory;      /* of ops.charges, where the rate lives; NULL: its own */
	uint64_t n;
	uint64_t promise_epoch; /* of promised[0]; before it promised[1] */
	uint64_t paced; /* a steady pace of N has used what was charged by then */
	uint64_t no_refund_until; /* what it remembers has other stamps */
	uint64_t off_until; /* not 0: it was taken away, and refuses nothing; charged on until then */
	uint64_t refused;
	uint64_t sure; /* rate: room for at least so much, at any time until more is charged; 0: not known */
	/* rate: so much is charged already for what comes before `alike_until`, and counts as if it
	 * had come at `ahead_since` (NEVER: nothing was charged ahead). */
	uint64_t ahead, ahead_since, alike_until;
	uint64_t within;   /* the deadline that it sets; NEVER: none */
	uint64_t pace_one; /* rate: what one takes at a steady pace */
	uint64_t pace_late;
	uint32_t used;     /* count: connections */
	uint32_t ending;   /* count: those of them that are being closed, or yield */
	uint32_t idle;     /* count: those of them that are idle */
	uint32_t promised[2]; /* connections made for want of one, not used yet: room is kept for each */
	uint32_t refs;     /* claims and connections that are charged to it */
	uint32_t line;     /* who waits for it; 0: nobody */
	uint32_t owner;    /* queue, or group; free: next free */
	uint8_t scope, measure;
	uint8_t mode; /* of its queue in which it holds: enum limit_mode */
	bool owned; /* false: no such limit any more; what is charged to it ends with it */
	bool made;
	bool found; /* an earlier process charged to it: so are its claims */
};

/* LEARNED: what the recovery from back-off allows; HELD: of back-off for a source IP. They hold as
 * long as there are such. */
enum limit_mode { LIMIT_ALWAYS, LIMIT_NORMAL, LIMIT_BACKOFF, LIMIT_LEARNED, LIMIT_HELD };

/* The limits of one object by measure, 0: none. */
#define MEASURES (CORE_MEASURE_SMTP_OUT + 1)
struct bounds {
	uint32_t of[MEASURES];
};
struct rates {
	uint32_t of[CORE_MEASURE_SMTP_OUT];
};

/* An object that has limits, other than a queue; found by group_key(). */
struct group {
	uint64_t key, id;
	struct bounds bounds;
	/* QUEUE_SOURCE, rates: the twins, and those of the queue while it is in back-off for this
	 * source IP. All are charged all the time: none forgets what counts in its window. */
	struct bounds backoff, held;
	uint32_t number; /* of its kind: source IP, virtual MTA, provider, job, sender domain; queue */
	uint32_t source; /* QUEUE_SOURCE, MX_SOURCE */
	uint32_t users;  /* who holds it beside what is charged to its limits; free: next free */
	uint8_t scope;
	bool made, stale; /* its limits are to be asked for again */
	bool tagged;      /* ops.tag knows that it is here */
	char *name;
};

/* What one decision is charged to. */
#define CHARGES_MAX 32 /* bits of `counts` */
struct charges {
	uint32_t n;
	uint32_t counts;  /* bit k: of[k] is a count */
	uint32_t volumes; /* bit k: of[k] is of bytes */
	uint32_t of[CHARGES_MAX];
};

/* The same, held by all claims and connections that are charged to it, and by a pass. It never
 * changes. */
struct charge_set {
	uint32_t refs; /* 0: free */
	uint32_t next_free;
	struct charges charges;
};

/* A queue's mail from a source IP, for a job and a sender domain, that was found far from all its
 * limits: as long as no more was charged to anything at all than what any of them has room for,
 * nobody needs to be asked. */
#define PASS_SETS 256
#define PASS_WAYS 4
struct pass {
	uint64_t epoch;       /* c->pass_epoch; 0: none */
	uint64_t units_until; /* of c->charged_units */
	uint64_t bytes_until; /* of c->charged_bytes */
	uint64_t message_within, connection_within; /* the deadlines */
	uint64_t tried;       /* c->charged_units when it was last tried to find one */
	uint64_t used_at;
	uint32_t qi, source, job, sender_domain;
	uint32_t job_group, sender_group;
	uint32_t message, connection; /* what they are charged to: sets[] */
};

struct queue {
	char *name;
	struct active *active;
	uint64_t retry_at; /* boot µs (wall µs while retry_is_wall), 0: none */
	uint64_t until;    /* boot µs when the present wait clears, 0 not known */
	uint64_t scan_at;  /* no search for expired entries before */
	uint64_t kbytes;
	uint32_t number;
	uint32_t heap_pos;
	uint32_t run_next;
	uint32_t line_next, line_prev;
	uint32_t doomed_next; /* in the line for core_give_up_room() */
	uint32_t n[PLACES];   /* entries by place */
	uint32_t n_rcpts;     /* unfinished ones */
	struct list ready;
	struct list lanes[2]; /* deferred, each sorted by due: one for the usual delay, one for
				 others */
	uint32_t oldest;      /* nothing listed was received before this (core seconds) */
	uint32_t scan_oldest, scan_cursor;
	uint32_t doom_left;    /* so many from the heads of the lists are to be given up */
	uint32_t release_left; /* so many from the lanes are to be released at once */
	int32_t vmta;          /* -1: not configured */
	uint32_t line;         /* it stands in; 0: none */
	uint16_t name_len;
	uint16_t n_backoff_sources;
	uint16_t modes;        /* core.modes when its mode was known to be told */
	uint8_t line_priority; /* its class there */
	uint8_t retry_level;
	uint8_t wait : 4;       /* enum core_wait */
	uint8_t refusal : 4;    /* enum refusal */
	uint8_t doom_why : 4;   /* enum core_give_up */
	uint8_t scan_stage : 2; /* 0: not scanning; 1 ready, 2, 3 lanes */
	bool in_run : 1;
	bool in_doomed : 1;
	bool paused : 1;
	bool retry_is_dns : 1;
	bool retry_is_wall : 1;
	bool unsorted : 1;  /* lanes[0] is to be sorted */
	bool backoff : 1;   /* the back-off twins of its limits hold */
	bool backoff_source : 1; /* and of what goes by some source IP */
	bool only_sources : 1;   /* in back-off, which names the source IPs that it may use */
	bool probing : 1;    /* in back-off, in which one message goes in an interval */
	bool learning : 1; /* in back-off, with a rate that is learned in place of max-msg-rate's twin */
	bool touched : 1;   /* in c->touched */
	bool moving : 1;    /* its entries are another's (core.moves), and on their way */
};
_Static_assert(sizeof(struct queue) <= 160, "a queue is 160 bytes");

/* Events of the last minute, in steps of ten seconds. */
#define METER_STEPS 6
struct meter {
	uint32_t count[METER_STEPS];
	uint32_t step;
};
/* Of the recipients of a queue. */
struct deliveries {
	struct meter meter;
	uint64_t since_us, last_us; /* the first one after a minute without, the last one */
};
struct meters {
	struct meter attempted;
	struct deliveries *delivered; /* NULL: none yet */
};
_Static_assert(sizeof(struct meters) <= 40, "one for each queue that was tried: 48 bytes of the heap");

/* Groups of queue x source IP that are remembered with the queue. */
#define SOURCE_GROUPS 4

/* Former providers that are remembered; one more and the nearest to its end is forgotten. */
#define OLD_PROVIDERS 3
struct old_provider {
	uint32_t group; /* 0: none */
	uint64_t until; /* its windows are empty then */
};

struct active {
	const struct conf_queue *settings; /* NULL: to be asked for */
	struct rates own, backoff;         /* the count max-smtp-out is n_conns */
	uint32_t learned;                  /* limit, of the recovery from back-off; 0: none */
	uint32_t most_conns;               /* core_cap_connections(), until most_until; 0: none */
	uint64_t most_until;
	struct list idle;                  /* connections, most recently used first */
	uint32_t provider;                 /* group; 0: none */
	uint32_t source_groups[SOURCE_GROUPS]; /* by source IP; where it was the last time */
	uint32_t source_turn;
	struct old_provider *old_providers; /* OLD_PROVIDERS; NULL: none yet */
	uint32_t blocked_by; /* limit */
	uint32_t out_refused; /* times max-smtp-out did */
	uint32_t n_promised; /* connections for which room is kept */
	uint32_t owed[2];    /* limits that gave it a turn which another limit refused */
	int32_t debt;        /* recipients sent beyond its share of a line's turns */
	uint64_t last_open;  /* 0: never */
	uint32_t n_conns, n_opening, n_idle, n_busy;
	uint64_t route_generation; /* 0: none */
	uint64_t route_expires;
	uint64_t route_key;  /* what smtp-hosts and port the route is for, as a hash; 0: not known
				yet */
	uint64_t asked_at;   /* 0: no lookup under way */
	uint64_t dead_until; /* the domain cannot get mail: so said the DNS, and for so long */
	struct core_target *targets;
	struct core_target_limits *target_limits; /* NULL: none */
	uint16_t n_targets;
	uint16_t turn;      /* target of the last OPEN */
	bool targets_fresh; /* given for the route that comes next */
	uint8_t hold_level;
	uint64_t failed, refused,
		denied; /* bits of targets, in this round; refused and denied are failed too */
	uint64_t failed_at;
	uint64_t open_hold; /* no OPEN before: the last ones were handed back */
	uint64_t attempted, delivered, bounced, transient;
	struct meters *meters; /* NULL: nothing was sent yet */
	uint32_t route_slot;
	const char *last_error; /* in c->errors */
	uint64_t last_error_wall;
	char *doom_text;
};
_Static_assert(sizeof(struct active) <= 312, "one for each queue in use: 320 bytes of the heap");

#define PROMISES_MAX 4

enum conn_state { CONN_FREE, CONN_OPENING, CONN_IDLE, CONN_BUSY, CONN_CLOSING };
struct conn {
	uint64_t route_generation;
	uint64_t target_id;
	uint64_t stamp; /* of the OPEN */
	uint64_t since; /* idle since */
	uint32_t queue;
	uint32_t source;
	uint32_t next, prev;           /* idle list; FREE: next free */
	uint32_t rest_next, rest_prev; /* IDLE: list of all idle ones */
	uint32_t claim;
	uint32_t n_messages;
	uint32_t rcpt_max;
	uint32_t route_slot;
	uint16_t target;
	uint8_t worker;
	uint8_t state : 3;
	uint8_t retired : 1;    /* its source IP is not to be used there any more, or not for its queue */
	uint8_t yields : 1;     /* to a queue of higher priority, or to a lower count: ends with its
				   message */
	uint8_t pipelining : 1;
	uint32_t n_errors;
	struct core_target_limits limits; /* of its target */
	uint32_t charges; /* set: rates by `opened_at`, and counts */
	uint64_t opened_at;
	uint64_t promise_epoch;
	uint32_t promises[PROMISES_MAX]; /* limits that keep room for its first message; 0: none */
};

struct claim {
	uint64_t lease; /* 0: free */
	uint64_t stamp;
	uint32_t entry; /* free: next free */
	uint32_t conn;  /* CORE_NONE: gone */
	uint32_t source;
	uint16_t n_attempt;
	uint8_t worker;
	bool unknown;    /* has a connection that is not in conns[] */
	bool one_by_one; /* recipients are charged by core_rcpt_ask() */
	bool refused;    /* one of them was */
	bool source_gone; /* its source IP is not configured any more, `source` is 0 */
	uint8_t *bits; /* recipients to attempt */
	uint64_t *stamps; /* one_by_one: when they were charged, 0: not yet */
	uint64_t bytes;  /* of the volume reserved */
	uint32_t charges; /* set */
	struct later { /* limits that its recipients fall in since then */
		uint64_t since;
		uint32_t limit;
	} * later;
	size_t later_cap;
	uint32_t n_later;
};

struct source {
	uint64_t move_at; /* 0: no move pending */
	uint64_t bad_until;
	uint64_t attempted, delivered;
	struct meter msg, connect;
	uint32_t n_conns;
	uint32_t turn; /* worker last given a connection, of shared ones */
	int guest;     /* worker it lives at away from home, -1 */
	uint32_t group;              /* its limits */
	struct conf_limits limits;   /* as configured */
	char *text;
	bool disabled;
	uint64_t disabled_until;
	uint32_t *vmtas; /* that have it */
	size_t vmtas_cap;
	uint32_t n_vmtas;
	uint64_t pick; /* the search that found it of no use */
};

struct worker {
	uint32_t line;  /* queues waiting for its claim table; 0: none */
	uint32_t conns; /* queues waiting for a connection to end; 0: none */
	uint32_t n_conns, n_closing;
	uint32_t n_unknown;  /* connections of claims from an earlier life, not in conns[] */
	uint32_t most_conns; /* 0: any number */
	uint32_t offers; /* so many ended while queues stood in line: those of other workers' lines are
			    to be told when its own is empty */
	bool up;
	bool full;
};

/* A queue in back-off, or in the recovery from it: as a whole, or for a source IP. */
struct backoff {
	uint32_t queue; /* free: next free */
	uint32_t source; /* CORE_NONE: the whole queue */
	uint32_t heap_pos; /* in backoff_timers */
	bool made;
	bool over; /* only its recovery is not */
	bool after_delivery;
	uint64_t probe_us, probe_at; /* with queue.probing: boot µs of the next one */
	uint64_t first_lease; /* what was granted before says nothing of it */
	uint64_t since_wall, until_wall, ended_wall;
	uint32_t *sources; /* with queue.only_sources */
	size_t n_sources;
	uint64_t before_mps;
	uint64_t spread_mps, spread_us; /* over: what waited leaves at this rate, for so long */
	struct conf_recover how; /* neither steps nor automatic: none */
	struct recover_auto learned;
};

struct vmta {
	char *name;
	uint32_t *turns; /* source IPs in the order of their turns, by weight */
	uint32_t n_turns;
	uint32_t *sources; /* each once */
	uint32_t n_sources;
	uint32_t lines[2]; /* LINE_SOURCES, LINE_SENDERS; 0: none */
	uint32_t group;
	struct conf_limits limits;
};

struct core {
	struct core_ops ops;
	void *ctx;
	struct core_now now;
	bool started;
	uint64_t next_lease;
	uint64_t total_max;
	unsigned lowest_priority; /* of any queue that may be interrupted */

	struct entry *entries;
	size_t entries_cap;
	uint32_t n_entries; /* behind the last one ever used */
	struct chunk {
		uint32_t free; /* first one given back */
		uint16_t made, used;
	} * chunks; /* CHUNK entries each: an empty one's memory goes back to the system */
	size_t chunks_cap;
	uint32_t n_chunks, low_chunk; /* those below are full */
	uint32_t spare_chunk;         /* empty, but not given back; CORE_NONE */
	struct map marks;             /* entry -> struct marks * */
	struct texts errors;
	struct map tags_map;
	struct core_tag {
		uint32_t job, sender_domain;
		uint32_t n; /* entries that have it; 0: free, and `job` is the next free one */
		uint32_t job_group, sender_group; /* where they were found the last time */
	} * tags;
	size_t tags_cap;
	uint32_t n_tags, free_tag;
	uint64_t *epochs; /* by segment number */
	size_t n_epochs;

	struct queue *queues;
	size_t queues_cap;
	uint32_t n_queues;
	uint32_t *by_number;
	size_t n_numbers;
	struct list run; /* by run_next */
	uint32_t *touched; /* queues, for core_each_changed(): from touched_first on */
	size_t touched_cap;
	uint32_t touched_first, n_touched;
	struct line *lines; /* [0] is none */
	size_t lines_cap;
	uint32_t n_lines, free_line;
	uint32_t n_limit_lines; /* of them at limits */
	uint32_t n_used_lines;
	struct list poked; /* lines, by poked_next */
	struct timers line_timers;
	uint32_t asks_line;
	struct list doomed; /* by doomed_next: queues with entries to give up, for want of room */
	uint32_t give_up_room, move_room;
	struct map moves; /* MOVING queue -> the one whose its entries are */
	struct map kept;  /* MOVING queue -> its entry that stays */
	uint32_t n_asks;
	struct timers timers;

	struct conn *conns;
	size_t conns_cap;
	uint32_t n_conns_made, n_conns; /* numbers ever used; not free */
	struct list free_conns;
	struct list resting; /* all idle ones, by rest_next; the longest idle first */
	uint32_t n_closing;
	struct limit *limits; /* [0] is none */
	size_t limits_cap;
	uint32_t n_limits, free_limit;
	uint32_t n_off, off_hand; /* limits that are off */
	struct group *groups; /* [0] is none */
	size_t groups_cap;
	uint32_t n_groups, free_group, group_hand, sweep_due;
	struct map group_map;
	uint32_t all; /* group: total-max-smtp-out */
	struct charge_set *sets; /* [0] is the empty one */
	size_t sets_cap;
	uint32_t n_sets, free_set;
	struct pass *passes; /* PASS_SETS x PASS_WAYS; NULL: none yet */
	uint64_t pass_epoch; /* another one, and all passes are void */
	uint32_t pass_hand;
	uint64_t charged_units, charged_bytes; /* ever, and what was promised */
	struct claim *claims;
	size_t claims_cap;
	uint32_t n_claims_made, n_claims, free_claim;

	struct worker workers[WORKERS_MAX];
	unsigned n_workers;
	struct source *sources;
	size_t n_sources;
	uint64_t move_next; /* earliest move_at, NEVER */
	struct vmta *vmtas;
	size_t n_vmtas;
	struct map vmta_names;

	struct core_totals totals;
	uint64_t visits; /* queues looked at */
	uint64_t picks;  /* searches for a source IP */
	struct map disabled; /* queue and source IP: until when */
	struct backoff *backoffs;
	size_t backoffs_cap;
	uint32_t n_backoffs, free_backoff;
	struct map backoff_map; /* queue and source IP -> backoffs[] */
	struct timers backoff_timers;
	uint16_t modes; /* counted by core_modes_changed() */
	int64_t wall_shift; /* of the wall clock when they were set */
	uint8_t one_done; /* the bitmap of a finished single recipient */
};

/* Times. */
static inline uint32_t
seconds_of(uint64_t boot_us)
{
	return CORE_SECONDS_BASE + (uint32_t)(boot_us / SECOND_US);
}

static inline uint64_t
us_of_seconds(uint32_t s)
{
	return s <= CORE_SECONDS_BASE ? 0 : (uint64_t)(s - CORE_SECONDS_BASE) * SECOND_US;
}

/* Takes the clock values of a call. */
void core_clock(struct core *c, const struct core_now *now);
uint64_t core_wall_of(const struct core *c, uint64_t boot_us);
uint64_t core_boot_of(const struct core *c, uint64_t wall_us);

static inline bool
place_counts(unsigned place)
{
	return place >= PLACE_HELD && place <= PLACE_CLAIMED;
}

static inline uint32_t
queue_entries(const struct queue *q)
{
	return q->n[PLACE_HELD] + q->n[PLACE_READY] + q->n[PLACE_DEFERRED] + q->n[PLACE_CLAIMED];
}

/* Of the queue with that number; CORE_NONE: there is none. */
static inline uint32_t
queue_index(const struct core *c, uint32_t number)
{
	return number < c->n_numbers ? c->by_number[number] : CORE_NONE;
}

static inline struct queue *
queue_at(struct core *c, uint32_t qi)
{
	return &c->queues[qi];
}

void meter_add(struct meter *m, uint64_t now_us, uint32_t k);
uint64_t meter_minute(const struct meter *m, uint64_t now_us);
