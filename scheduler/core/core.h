/* core: decides what goes when, on which connection, from which source IP. Pure: facts and clock values
 * in, decisions out through `core_ops`; it reads no clock, does no I/O and logs nothing.
 *
 * The driver (scheduler/) turns decisions into messages, events and rows, and tells what came of them.
 * Ops are called from inside core functions and must not call back into the core.
 *
 * A queue is in exactly one waiting place (enum core_wait) which is also its answer to "why does it not
 * send, and when will it": nothing is polled. Memory: at most 48 bytes per entry, 160 per queue with its
 * name; rate history and done-bitmaps are allocated on first use. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/str.h"
#include "common/conf/conf.h"

struct core;

/* The clock values every call carries; µs of CLOCK_BOOTTIME and CLOCK_REALTIME. */
struct core_now {
	uint64_t boot_us;
	uint64_t wall_us;
};

#define CORE_CONNECTIONS_MAX 65536
#define CORE_NONE            UINT32_MAX

enum core_give_up {
	CORE_EXPIRED,     /* older than bounce-after */
	CORE_NO_ROUTE,    /* NXDOMAIN, null MX, no MX and no address: `text` says which, with status */
	CORE_DISCARDED,   /* type = "discard" */
	CORE_HOST_REFUSED, /* 5xx greeting of every host, bounce-upon-5xx-greeting */
	CORE_BOUNCE_QUEUE, /* core_bounce_queue() */
};

/* Where a queue waits; the names are what `blocked.by` says. */
enum core_wait {
	CORE_WAIT_NONE,        /* runs, or may run at once */
	CORE_WAIT_EMPTY,       /* no mail */
	CORE_WAIT_CONNECTIONS, /* max-smtp-out or total-max-smtp-out is used up, or what a worker can have */
	CORE_WAIT_RATE,        /* max-msg-rate or max-connect-rate */
	CORE_WAIT_PAUSED,
	CORE_WAIT_RETRY,       /* the queue's next-retry time, or all its entries are due later */
	CORE_WAIT_SOURCES,     /* no live worker owns a usable source IP */
	CORE_WAIT_DNS,         /* a route was asked for */
	CORE_WAIT_BACKOFF,     /* the next probe of back-off is not due yet */
};

/* What limits belong to (contract: limits). */
enum core_scope {
	CORE_SCOPE_QUEUE,
	CORE_SCOPE_QUEUE_SOURCE, /* queue x source IP */
	CORE_SCOPE_SOURCE,
	CORE_SCOPE_VMTA,
	CORE_SCOPE_PROVIDER,
	CORE_SCOPE_JOB,
	CORE_SCOPE_SENDER,
	CORE_SCOPE_MX_SOURCE,   /* MX name x source IP */
	CORE_SCOPE_DESTINATION, /* address */
	CORE_SCOPE_ALL,
};
enum core_measure {
	CORE_MEASURE_MSG,      /* attempted recipients */
	CORE_MEASURE_CONNECT,  /* connection attempts */
	CORE_MEASURE_VOLUME,   /* bytes of delivered bodies */
	CORE_MEASURE_SMTP_OUT, /* connections at once */
};
/* Names a limit across processes and configurations: 128 bits of scope, measure and what it belongs to, by name. */
struct core_charge_key {
	uint64_t hi, lo;
};

/* Decisions. ------------------------------------------------------------------------------------ */
struct core_open {
	uint32_t connection; /* number given by the core; < CORE_CONNECTIONS_MAX */
	uint32_t queue;
	uint32_t source_ip;
	unsigned worker;
	uint32_t route_slot;
	uint64_t route_generation;
	uint16_t target;
	uint64_t deadline_boot_us;
	uint64_t granted_boot_us; /* the stamp */
	uint32_t job, sender_domain; /* of the message it is opened for: it is charged to their connect rates too */
};
struct core_work {
	uint32_t connection;
	uint32_t queue;
	uint32_t entry; /* index: the driver's handle to it */
	struct entry_key key;
	unsigned worker;
	uint32_t source_ip;
	uint64_t lease;
	uint32_t attempt; /* from 1 */
	uint32_t segment, offset16;
	uint64_t epoch;
	uint32_t first_rcpt;
	uint16_t n_rcpts;         /* of the entry */
	const uint8_t *attempt_bits; /* which of them to attempt now; (n_rcpts + 7) / 8 bytes */
	uint16_t n_attempt;
	uint64_t deadline_boot_us;
	uint64_t granted_boot_us; /* the stamp */
	bool ask; /* its recipients are charged one by one: core_rcpt_ask() before each RCPT */
};
struct core_ops {
	/* The settings of a queue (interned by the driver, valid until core_settings_changed()). */
	const struct conf_queue *(*settings)(void *ctx, uint32_t queue, struct slice name);
	void (*ask_route)(void *ctx, uint32_t queue, struct slice name);
	void (*open)(void *ctx, const struct core_open *o);
	/* False: the worker's claim table is full; the core takes the grant back and waits for a free slot
	 * (core_worker_room()). */
	bool (*work)(void *ctx, const struct core_work *w);
	void (*close)(void *ctx, uint32_t connection, unsigned worker);
	/* All unfinished recipients of the entry have outlived bounce-after, or the queue's domain cannot
	 * get mail (permanent DNS answer, discard): the driver logs outcomes and then calls core_entry_gone(). */
	void (*give_up)(void *ctx, uint32_t entry, enum core_give_up why, const char *text);
	/* Durable state of the queue changed: retry level, retry time, paused, last error. */
	void (*queue_changed)(void *ctx, uint32_t queue);
	/* The first entry of this job and sender domain came (`used`), the last one went; or a limit of one of them (the
	 * other is 0) that counts: whoever numbers their names may count so. May be NULL. */
	void (*tag)(void *ctx, uint32_t job, uint32_t sender_domain, bool used);
	/* Memory for the charges of one limit that outlives this process: what `key` has already (then *found), else
	 * zeros. Stays at its address until charges_free(). May be NULL, and may return NULL: the core uses its own. */
	void *(*charges)(void *ctx, const struct core_charge_key *key, size_t bytes, bool *found);
	void (*charges_free)(void *ctx, void *memory);
	/* The limit is gone; what was charged to it and still counts is found by its key as long as it counts. May be
	 * NULL: as charges_free(). */
	void (*charges_keep)(void *ctx, void *memory);
	/* The source-ip-... limits of a queue for one source IP; with `backoff` those of its back-off mode. NULL: none. */
	void (*source_limits)(void *ctx, uint32_t queue, struct slice name, uint32_t source_ip, bool backoff,
			      struct conf_limits *out);
	/* Limits of a job, a sender domain (numbers of names), a provider (number of core_route_provider()).
	 * NULL, or false: none. */
	bool (*scope_limits)(void *ctx, enum core_scope scope, uint32_t number, struct conf_limits *out);
	/* The name of a job or a sender domain by its number: what is charged to it outlives the number. May be NULL, and
	 * may return an empty one: then the number is its name. */
	struct slice (*scope_name)(void *ctx, enum core_scope scope, uint32_t number);
	/* The entry has come to the queue that a redirect named: its row is to say so. NULL: nobody keeps rows. */
	void (*moved)(void *ctx, uint32_t entry);
	/* A connection of a lower queue-priority is to yield at once, in the middle of a message. May be NULL. */
	void (*interrupt)(void *ctx, uint32_t connection, unsigned worker);
	/* Back-off of the queue (for this source IP; CORE_NONE: as a whole) has ended by itself: enum core_backoff_end.
	 * May be NULL. */
	void (*backoff_over)(void *ctx, uint32_t queue, uint32_t source_ip, unsigned why);
	/* After core_modes_changed(), before anything is granted in the queue: has it been entered and left as it is to be?
	 * False: it waits until core_look_again(). May be NULL: it always has. */
	bool (*mode_is_told)(void *ctx, uint32_t queue);
};

struct core *core_new(const struct core_ops *ops, void *ctx, const struct conf *conf, uint64_t next_lease);
void core_free(struct core **c);

/* Facts. ---------------------------------------------------------------------------------------- */
/* A queue by its durable number; name "domain/vmta". Fine when it is there already. */
void core_queue_add(struct core *c, uint32_t queue, struct slice name);
/* State as loaded from the store. */
void core_queue_restore(struct core *c, uint32_t queue, bool paused, unsigned retry_level,
			uint64_t retry_at_wall_us, struct slice last_error);

/* All that is queued in `from` is `to`'s from now on, and what comes until the last of it has gone there: in flight, not
 * committed yet, new. Nothing more is granted in `from`; what waits moves in steps (ops.moved), with its due times. `fresh`:
 * the number of `from` from now on, under which it keeps its name, its state, its limits and its connections; nothing is
 * known by the old one any more. May be `from` itself. False, and nothing changed: it would be a loop, or `from` is being
 * moved already. */
bool core_redirect(struct core *c, const struct core_now *now, uint32_t from, uint32_t to, uint32_t fresh);
/* The same, but one entry stays in `from`: the first of those that wait, else *kept if it is claimed (CORE_NONE: none). *kept: which. */
bool core_redirect_but_one(struct core *c, const struct core_now *now, uint32_t from, uint32_t to, uint32_t fresh,
			   uint32_t *kept);
/* Mail of this queue goes elsewhere no longer: what is in flight, or new, stays from now on. False: not all that waited has
 * gone yet, and so it is as it was. */
bool core_redirect_over(struct core *c, const struct core_now *now, uint32_t queue);
/* Where mail of the queue goes while it is being moved: itself when it is not. */
uint32_t core_redirected(const struct core *c, uint32_t queue);
/* So many entries may move until this is called again. Without a call: any number. */
void core_move_room(struct core *c, const struct core_now *now, uint32_t room);

struct core_entry_facts {
	struct entry_key key;
	uint32_t queue; /* by core_entry_get(): where it belongs */
	uint32_t segment, offset16;
	uint64_t epoch;          /* of the segment; the core keeps it per segment number, not per entry */
	uint32_t received_s, due_s;
	uint32_t first_rcpt;
	uint16_t n_rcpts;
	uint16_t attempts;
	uint32_t kbytes;
	uint32_t job, sender_domain; /* name numbers */
	uint8_t row_flags;
	struct slice done;       /* bitmap of finished recipients, may be empty */
	bool committed;          /* false: not to be sent before core_entry_committed() */
	uint32_t sent_by;        /* by core_entry_get(): the queue that it is still in, and in flight of perhaps */
};
/* The entry's index. */
uint32_t core_entry_add(struct core *c, const struct core_now *now, const struct core_entry_facts *f);
void core_entry_committed(struct core *c, const struct core_now *now, uint32_t entry);
/* Its last recipient is finished, or it was not queued after all: forget it. Any state but claimed. */
void core_entry_gone(struct core *c, const struct core_now *now, uint32_t entry);
void core_entry_get(const struct core *c, uint32_t entry, struct core_entry_facts *out);
/* Is `entry` (still) the one of this key? Any number may be asked. */
bool core_entry_is(const struct core *c, uint32_t entry, struct entry_key key);
bool core_entry_is_claimed(const struct core *c, uint32_t entry);
/* Its record lies elsewhere now. False, and nothing changed, unless it waits in its queue: it is not committed yet,
 * claimed or leaving. */
bool core_entry_move(struct core *c, uint32_t entry, uint32_t segment, uint32_t offset16, uint64_t epoch);
/* An operator deletes it: false when it is claimed now (the caller tries again after its result). The entry
 * leaves its queue; core_entry_gone() when the deletion is durable. */
bool core_entry_withdraw(struct core *c, const struct core_now *now, uint32_t entry);

/* Workers: a source IP of the configuration belongs to one worker (to several only when there are fewer IPs
 * than workers). Home: IP i at worker i mod W. When its owner dies it moves to a live worker at once if
 * that one does not come back within 200 ms; it goes home when the guest has closed its connections. */
void core_worker_up(struct core *c, const struct core_now *now, unsigned worker);
/* It has descriptors for so many connections, 0: for any number. Till told otherwise. */
void core_worker_connections(struct core *c, const struct core_now *now, unsigned worker, uint32_t most);
/* All its connections are gone; its leases are settled one by one by the driver (core_result with
 * connection lost, or core_returned) from the claim table, before or after this call. */
void core_worker_down(struct core *c, const struct core_now *now, unsigned worker);
void core_worker_room(struct core *c, const struct core_now *now, unsigned worker);

void core_route(struct core *c, const struct core_now *now, uint32_t queue, unsigned route_status,
		uint32_t slot, uint64_t generation, uint16_t n_targets, uint64_t expires_boot_us,
		const char *text);
void core_opened(struct core *c, const struct core_now *now, uint32_t connection, uint32_t rcpt_max);
/* `why`: enum open_failure (common/ipc/message.h) as a number; codes in core_failure below. The next
 * target is tried; when none is left and no connection of the queue lives, the queue goes into retry. */
enum core_failure {
	CORE_FAIL_HOST,          /* refused, timed out, lost, 4xx greeting: next target */
	CORE_FAIL_HOST_PERMANENT, /* 5xx greeting */
	CORE_FAIL_NOT_ATTEMPTED, /* stale route, late: nothing happened, refunded */
	CORE_FAIL_SOURCE,        /* the source IP cannot be used: another source */
	CORE_FAIL_DENIED,        /* destination not allowed: next target */
	CORE_FAIL_GIVEN_UP,      /* ended by ourselves after connect(): says nothing of the host, but stays charged */
	CORE_FAIL_NO_RESOURCES,  /* of the worker: nothing happened, refunded; the route stays */
};
void core_open_failed(struct core *c, const struct core_now *now, uint32_t connection,
		      enum core_failure why, struct slice text);
void core_closed(struct core *c, const struct core_now *now, uint32_t connection, struct slice text);

/* The end of a claim. */
struct core_rcpt_result {
	uint16_t index;   /* within the entry */
	uint8_t action;   /* enum event_action: DELIVERED BOUNCED DEFERRED UNATTEMPTED */
};
struct core_result {
	uint32_t entry;
	uint64_t lease;
	const struct core_rcpt_result *rcpts;
	size_t n_rcpts;
	bool connection_gone; /* no more work on it */
	bool host_failed;     /* 421, lost: the deferral is the queue's matter (retry-after), other targets first */
	bool maybe_dup;
	bool interrupted;     /* by ops.interrupt: what was deferred has not had its turn, it is ready again at once */
	uint64_t body_bytes;  /* of the body, if somebody got it; 0: what was reserved goes back, unless maybe_dup */
	struct slice text;    /* last reply, for the queue's last error */
};
/* What the row becomes; `done` borrowed until the next core call. */
struct core_decision {
	bool finished;        /* all recipients are: delete the row, then core_entry_gone() once durable */
	uint32_t due_s;       /* wall seconds, 0 at once */
	uint16_t attempts;
	uint8_t row_flags;
	struct slice done;
	uint8_t retry_level;  /* of the queue, after this */
	uint32_t retry_at_s;
};
/* False: no such claim (late result of an old lease): nothing changed. */
bool core_settle(struct core *c, const struct core_now *now, const struct core_result *r, struct core_decision *out);
/* A lease came back unattempted: charges are refunded, the entry is ready again at its old place. */
bool core_returned(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease);
/* At start: an entry is out at a live worker under `lease`, on `connection` (its number as the worker states
 * it). Afterwards core_settle()/core_returned() as usual. */
void core_adopt(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
		uint32_t connection, unsigned worker, uint32_t source_ip);

/* Operators. */
void core_pause(struct core *c, const struct core_now *now, uint32_t queue, bool paused);
/* Deliver now: clears the queue's retry (and with `rcpts` the hold of deferred recipients). */
void core_schedule(struct core *c, const struct core_now *now, uint32_t queue, bool rcpts);

/* So many entries may be given up until this is called again (a few more may be): each is work for the driver, and a
 * million may expire together. Without a call: any number. */
void core_give_up_room(struct core *c, const struct core_now *now, uint32_t room);

/* Makes every decision that can be made now; call once per turn after the facts. Returns the boot µs of
 * the next timer, UINT64_MAX when there is none. `most`: bound on decisions of one call (0: none);
 * when it is reached the return value is `now`. */
uint64_t core_run(struct core *c, const struct core_now *now, unsigned most);

/* Looking. --------------------------------------------------------------------------------------- */
struct core_queue_view {
	uint32_t number;
	struct slice name;
	uint64_t rcpts, entries, kbytes;
	uint32_t connections, opening;
	bool paused;
	uint64_t retry_at_wall_us; /* 0: none */
	unsigned retry_level;
	enum core_wait wait;
	const char *limit;         /* directive that refused it, or NULL */
	uint64_t until_wall_us;    /* when it clears, 0 not known */
	uint64_t attempted, delivered, bounced, transient;
	uint64_t msg_rate;         /* recipients attempted in the last minute */
	struct slice last_error;
	uint64_t last_error_wall_us;
	bool backoff;              /* mode: the whole queue is in back-off */
	bool backoff_source;       /* it is for some source IP */
	bool only_sources;         /* of its source IPs it uses those that back-off leaves */
	bool bouncing;             /* what waits bounces, by a rule: it has not come to all of it yet */
};
bool core_queue_view(const struct core *c, const struct core_now *now, uint32_t queue, struct core_queue_view *out);
/* Calls fn for each queue from `*cursor` on (0 to begin), at most `most` of them; false when all were seen. */
bool core_each_queue(const struct core *c, uint32_t *cursor, unsigned most, void (*fn)(void *arg, uint32_t queue), void *arg);
/* Calls fn for each queue of which something may have changed since it was named here last, or since it is there; at
 * most `most` of them, those that changed first; false when all were named. What passes by itself, times and
 * core_queue_view.msg_rate, is no change. */
bool core_each_changed(struct core *c, unsigned most, void (*fn)(void *arg, uint32_t queue), void *arg);
/* Same for the entries of a queue (CORE_NONE: of all queues); stays valid when entries come and go between calls. */
bool core_each_entry(const struct core *c, uint32_t queue, uint32_t *cursor, unsigned most, void (*fn)(void *arg, uint32_t entry), void *arg);

struct core_source_view {
	uint32_t source_ip;
	int worker; /* -1: none lives */
	uint32_t connections;
	uint64_t attempted, delivered, msg_rate, connect_rate;
};
void core_source_view(const struct core *c, const struct core_now *now, uint32_t source_ip, struct core_source_view *out);
struct core_totals {
	uint64_t queued_rcpts, queued_entries, queued_kbytes, queues_with_mail;
	uint64_t attempted, delivered, transient, bounced, connect_attempts, connect_failed;
	uint32_t connections;
	uint64_t next_lease;
};
void core_totals(const struct core *c, struct core_totals *out);
/* CHECKs every invariant it knows (sums, lists, one waiting place); for tests and the simulator. */
void core_check(const struct core *c);

/* Beside the above. -------------------------------------------------------------------------------- */
/* What core_new() takes from the configuration; tests and the simulator give it themselves. */
struct core_world {
	unsigned workers;
	uint64_t total_max_smtp_out; /* CONF_UNLIMITED or N */
	size_t n_source_ips;         /* index 0: the kernel chooses */
	size_t n_vmtas;
	const struct conf_vmta *vmtas;
	const struct conf_source_ip *source_ips; /* their limits; NULL: none */
};
struct core *core_new_in(const struct core_ops *ops, void *ctx, const struct core_world *w, uint64_t next_lease);

/* `unsigned route_status` of core_route() (enum route_status of common/proc/route.h, which this floor does not see). */
enum core_route_status {
	CORE_ROUTE_GOOD,
	CORE_ROUTE_NO_DOMAIN,
	CORE_ROUTE_NO_MX,
	CORE_ROUTE_NULL_MX,
	CORE_ROUTE_TEMPORARY,
	CORE_ROUTE_UNUSABLE,
	CORE_ROUTE_LOOP,
};
/* The answer came, and mail of this queue goes elsewhere (core_redirect()). */
void core_route_elsewhere(struct core *c, const struct core_now *now, uint32_t queue);
/* The targets of a good route: call it just before core_route() with the same n_targets. Without it each target is
 * taken to be less preferred than the one before, and connections end when the route is renewed. */
struct core_target {
	uint64_t id;         /* names MX host and address across renewals (a hash), 0 none */
	uint16_t preference;
	uint16_t mx;         /* index of the MX host: mx-connection-attempts counts per host */
};
void core_route_targets(struct core *c, uint32_t queue, const struct core_target *targets, uint16_t n);
/* Limits of those targets, in the same order, just after core_route_targets(). Without it: none. */
struct core_target_limits {
	uint64_t mx_id, ip_id;       /* name the MX host and the address alone (hashes) */
	uint32_t mx_limit, ip_limit; /* mx-connection-limit, ip-connection-limit; 0: none */
};
void core_route_target_limits(struct core *c, uint32_t queue, const struct core_target_limits *limits, uint16_t n);
/* The resolver is a new one: what was asked and not answered is asked again. */
void core_resolver_up(struct core *c, const struct core_now *now);
/* The settings that ops->settings returned are void: all are asked for anew. */
void core_settings_changed(struct core *c, const struct core_now *now);
/* After core_adopt() of a claim whose recipients are asked for one by one: those whose RCPT may have left. The others
 * were not charged. */
struct core_rcpt_stamp {
	uint64_t stamp_us;
	uint16_t index; /* within the entry */
};
void core_adopt_asked(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease,
		      const struct core_rcpt_stamp *granted, size_t n);
/* At start, beside core_adopt(): a connection without a lease that a worker states; false: close it yourself. */
bool core_adopt_connection(struct core *c, const struct core_now *now, uint32_t connection, uint32_t queue,
			   unsigned worker, uint32_t source_ip);
/* Whose connection it is, -1 when there is no such: what a worker says about another's is not to be believed. */
int core_connection_worker(const struct core *c, uint32_t connection);
/* Which recipients its claim attempts, (n_rcpts + 7) / 8 bytes; NULL when it is not claimed. */
const uint8_t *core_claim_bits(const struct core *c, uint32_t entry);
/* A connection is ready: as core_opened(), and whether MAIL and RCPT leave in one write. Without PIPELINING a WORK
 * charges volume only, its recipients one by one (core_rcpt_ask()). */
void core_opened_as(struct core *c, const struct core_now *now, uint32_t connection, uint32_t rcpt_max, bool pipelining);
/* The worker is about to send this RCPT of its claim: charges it in all message scopes, all or none. True: it may,
 * stamped *stamp_us, until *deadline_us. Unknown lease: false. */
bool core_rcpt_ask(struct core *c, const struct core_now *now, uint32_t entry, uint64_t lease, unsigned index,
		   uint64_t *stamp_us, uint64_t *deadline_us);
/* The provider of a queue by a number the driver gives (names it in `name`, borrowed for the call); CORE_NONE: none.
 * A queue that changes its provider counts in both until the old one's windows are empty. */
void core_route_provider(struct core *c, const struct core_now *now, uint32_t queue, uint32_t provider, struct slice name);

/* Back-off. -------------------------------------------------------------------------------------
 * A queue is in back-off as a whole, or for single source IPs (scope = "source-ip"), or both; each of these has an end of
 * its own and is entered and left by itself. What has a wider scope the driver enters in each queue that it holds, those
 * that come later included. Nothing of it is durable here: the driver keeps it, and enters it anew after a restart.
 *
 * While the whole queue is: the back-off twins of its limits hold (what was used counts), backoff-retry-after is used when it
 * next goes into retry, and only `sources`. For one source IP: what goes by it, and nothing else, is held to the stricter of
 * the twins and backoff-source-ip-..., as limits of queue x source IP, besides the queue's own. After the call nothing is
 * granted at the old limits; connections that are too many, or of other source IPs, end at once, busy ones with
 * their message. Entering puts nothing into retry. */
struct core_backoff {
	uint32_t source_ip;      /* CORE_NONE: the whole queue */
	uint64_t since_wall_us;  /* 0: now; kept when it is in back-off already */
	uint64_t until_wall_us;  /* wall clock, also when that is set; 0: until told */
	bool after_delivery;     /* a recipient that somebody got of what is granted from now on ends it */
	const uint32_t *sources; /* backoff-use-source, copied; whole queue only */
	size_t n_sources;
	bool anew;               /* told again by another configuration: no reply matched */
	bool only_sources;       /* `sources` are all that may be used (none: nothing goes) */
	/* One message goes in such an interval, the next one from then on; it waits for no retry. 0: all may. Whole queue
	 * only; when it was in back-off with probes already, the next one stays when it is. */
	uint64_t probe_us, probe_next_wall_us;
	/* How the rate returns; copied; NULL: at once; whole queue only. Steps: from the end on, percentages of max-msg-rate, or
	 * of what was delivered in the minute before back-off. Automatic: during back-off, in place of backoff-max-msg-rate; a
	 * further match lowers it, and it ends back-off when it has come to max-msg-rate. */
	const struct conf_recover *recover;
	/* What core_backoff_view() said before a restart, 0: not known. */
	uint64_t before_mps, rate_mps;
	uint64_t ended_wall_us; /* not 0: back-off is over since then, only the steps of its recovery are not */
};
/* A further match while it is in back-off: all of `how` holds from now on (the timer starts again), but since when. True:
 * it was not in back-off. */
bool core_backoff_enter(struct core *c, const struct core_now *now, uint32_t queue, const struct core_backoff *how);
/* False: it was not. `at_once`: the rate does not return in steps, and if it does that already, it ends. */
bool core_backoff_leave(struct core *c, const struct core_now *now, uint32_t queue, uint32_t source_ip, bool at_once);
/* Many queues are in another mode than the core was told: it asks for each before it grants there. */
void core_modes_changed(struct core *c);
void core_look_again(struct core *c, const struct core_now *now, uint32_t queue);
/* Why back-off ended by itself (ops.backoff_over). */
enum core_backoff_end {
	CORE_BACKOFF_TIME,      /* until_wall_us came */
	CORE_BACKOFF_DELIVERY,  /* after_delivery */
	CORE_BACKOFF_RECOVERED, /* the automatic rate came to max-msg-rate */
	CORE_BACKOFF_STEPS,     /* it was over already: the last step of the recovery is, too */
};
struct core_backoff_view {
	uint32_t source_ip; /* CORE_NONE: the whole queue */
	uint64_t since_wall_us, until_wall_us, ended_wall_us; /* as in core_backoff */
	bool after_delivery;
	/* Thousandths of a recipient a second; 0: none. */
	uint64_t before_mps; /* delivered in the minute before back-off */
	uint64_t rate_mps;   /* what the recovery allows at present */
	bool automatic;      /* it is learned */
};
/* Of the whole queue (CORE_NONE), or for a source IP; false: it is in no back-off, nor in its recovery. */
bool core_backoff_view(const struct core *c, uint32_t queue, uint32_t source_ip, struct core_backoff_view *out);
/* At most so many connections at once until then (reduce-connections): whichever is less, this or the queue's own; 0: its
 * own again. A later call replaces it. By the wall clock of now: it does not matter when that is set later. */
void core_cap_connections(struct core *c, const struct core_now *now, uint32_t queue, uint32_t most,
			  uint64_t until_wall_us);
/* Into retry: until then (wait-reply), 0: for the next step of retry-after, or of its twin (defer-queue). A later time that
 * it waits for already stays. Its idle connections end. */
void core_defer_queue(struct core *c, const struct core_now *now, uint32_t queue, uint64_t until_wall_us);

/* All that waits in the queue now is given up, with this text; what is in flight comes to its own end. Of a queue whose
 * mail is on its way to another one nothing. */
void core_bounce_queue(struct core *c, const struct core_now *now, uint32_t queue, const char *text);

/* Limits as they are seen and set. */
struct core_limit_view {
	enum core_scope scope;
	enum core_measure measure;
	bool backoff;            /* the twin that holds during back-off */
	bool recover;            /* what `recover` allows at present */
	uint64_t n, window_us;   /* window 0: a count */
	uint64_t used;
	uint64_t refused;        /* times it refused, since start */
	uint64_t next_room_wall_us; /* 0: there is room, or it is not known */
	uint32_t waiting;        /* queues in its line */
	uint32_t queue, source_ip, number; /* of the scope; CORE_NONE where it does not matter. number: provider, job, sender, vmta */
	uint64_t id;             /* of an MX host or destination: as in core_target_limits */
	struct slice name;       /* of provider or virtual MTA; borrowed until the next core call */
};
/* Each limit in use from `*cursor` on, at most `most`; false when all were seen. */
bool core_each_limit(const struct core *c, const struct core_now *now, uint32_t *cursor, unsigned most,
		     void (*fn)(void *arg, const struct core_limit_view *v), void *arg);
/* The limit that the queue waits for; false: it waits for none. */
bool core_blocking_limit(const struct core *c, const struct core_now *now, uint32_t queue, struct core_limit_view *out);
/* The limits of one object changed (an operator's `set limit`, or its end): they are asked for anew, at once. */
void core_limits_changed(struct core *c, const struct core_now *now, enum core_scope scope, uint32_t number);
/* A source IP is (no longer) to be used by a queue; CORE_NONE: by any. Open connections end with their message. */
void core_source_disable(struct core *c, const struct core_now *now, uint32_t queue, uint32_t source_ip, bool disabled,
			 uint64_t until_boot_us);
/* None of the source IPs of its virtual MTA is left to the queue (backoff-upon-all-sources-disabled). */
bool core_sources_all_disabled(const struct core *c, const struct core_now *now, uint32_t queue);

/* What happened before this boot, or before the memory of charges() was lost, and may still count: one transaction
 * or one attempt to connect. */
struct core_past {
	uint32_t queue;              /* CORE_NONE: there is none of that name any more */
	uint32_t source_ip;          /* CORE_NONE: it is not configured any more */
	uint32_t job, sender_domain; /* numbers of names; 0: none */
	struct slice vmta, provider; /* names; empty: none, or not known */
	uint32_t provider_number;    /* as for core_route_provider() */
	uint64_t age_us;             /* since its grant; that may be longer than the machine runs */
	uint32_t rcpts, connects;
	uint64_t bytes; /* of the body, when it was delivered to somebody */
};
/* At start, before anything is granted: charges all limits that it falls in. About in the order in which they
 * happened. */
void core_charge_event(struct core *c, const struct core_now *now, const struct core_past *p);
/* At start: what was attempted before and still counts, in order of the stamps (of this boot). */
void core_charge(struct core *c, const struct core_now *now, uint32_t queue, uint64_t stamp_boot_us,
		 uint32_t rcpts, uint32_t connects);
/* What is known of routes is old (another name server): each is asked for anew before the next connection. */
void core_routes_void(struct core *c, const struct core_now *now);
/* Another configuration in place of `old` (the workers stay as many): settings, virtual MTAs, source IPs. What source IPs
 * are called by number changes; connections on those that are gone, or that now live elsewhere, end with their message. */
void core_reconfigure(struct core *c, const struct core_now *now, const struct conf *old, const struct conf *conf);
/* What the source IPs of `old` are called in `conf`: by old number the new one, or CORE_NONE. The caller frees. */
uint32_t *core_source_map(const struct conf *old, const struct conf *conf);
/* The same; source_map[old number] is the new number or CORE_NONE. */
void core_reconfigure_in(struct core *c, const struct core_now *now, const struct core_world *w,
			 const uint32_t *source_map);
