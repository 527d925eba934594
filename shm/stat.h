/* stat: the shared-memory objects that sluice-stat, monitor and top read without asking anyone.
 *
 * One file per writer in RUN/shm (0640, mapped): `scheduler`, `worker-N`, `receiver-N`, `resolver`,
 * `recorder`. A header, then rows at offsets that the header names; readers map read-only and trust
 * nothing they have not checked against the file's size. A row or the totals sit behind a seqlock with
 * bounded retries. The rows of each object come from the tables below: struct, JSON, Prometheus text. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"

#define STAT_MAGIC       0x53544c53u /* "SLTS" */
#define STAT_VERSION     2
#define STAT_QUEUE_NAME  320
#define STAT_REASON      192
#define STAT_NONE        UINT64_MAX /* a number that is not there: a source IP without a worker */

enum stat_writer { STAT_SCHEDULER, STAT_WORKER, STAT_RECEIVER, STAT_RESOLVER, STAT_RECORDER };

// clang-format off
/* Totals of the scheduler: name, kind (counter, gauge, time), help. */
#define STAT_TOTALS(X) \
	X(received,        counter, "messages accepted from clients") \
	X(received_rcpt,   counter, "recipients accepted from clients") \
	X(queued_rcpt,     gauge,   "recipients queued") \
	X(queued_entries,  gauge,   "entries queued") \
	X(queued_kbytes,   gauge,   "KiB queued") \
	X(queues,          gauge,   "queues that hold mail") \
	X(queues_untold,   gauge,   "queues with mail that have no row here") \
	X(limits,          gauge,   "limits in use") \
	X(limits_untold,   gauge,   "limits in use that have no row here") \
	X(attempted,       counter, "recipients attempted") \
	X(delivered,       counter, "recipients delivered") \
	X(transient,       counter, "recipients deferred") \
	X(bounced,         counter, "recipients bounced") \
	X(expired,         counter, "recipients expired") \
	X(deleted,         counter, "recipients deleted by an operator") \
	X(quarantined,     gauge,   "recipients kept because their row or record is damaged") \
	X(maybe_dup,       counter, "attempts whose outcome stayed unknown") \
	X(connections,     gauge,   "connections open or opening") \
	X(connect_attempts, counter, "connection attempts") \
	X(connect_failed,  counter, "connection attempts that failed") \
	X(commits,         counter, "commits of the store") \
	X(commit_us,       counter, "time spent in commits, microseconds") \
	X(events,          counter, "events logged") \
	X(store_fill,      gauge,   "map of the store in use, percent") \
	X(segments,        gauge,   "segment files") \
	X(segments_free,   gauge,   "segment files that are free") \
	X(segments_thin,   gauge,   "sealed segment files whose live records fill less than a quarter") \
	X(segments_moved,  counter, "thin segment files emptied by compaction") \
	X(records_moved,   counter, "records moved by compaction") \
	X(moved_bytes,     counter, "bytes written by compaction") \
	X(names,           gauge,   "names known: queues, jobs, sender domains") \
	X(loop_turn_us_max, gauge,  "longest turn of the scheduler's loop in the last 10 to 20 s, microseconds") \
	X(loop_cpu_us_max, gauge,   "most CPU time of one turn in the same time, microseconds")

/* A queue's row. */
#define STAT_QUEUE(X) \
	X(rcp,       gauge,   "recipients queued") \
	X(kb,        gauge,   "KiB queued") \
	X(conn,      gauge,   "connections") \
	X(msgRate,   gauge,   "recipients attempted in the last minute") \
	X(attempted, counter, "recipients attempted") \
	X(delivered, counter, "recipients delivered") \
	X(transient, counter, "recipients deferred") \
	X(bounced,   counter, "recipients bounced") \
	X(nextDue,   time,    "wall time in µs at which it sends again, 0 when it may now")

/* A source IP's row. */
#define STAT_SOURCE(X) \
	X(msgRate,     gauge,   "recipients attempted in the last minute") \
	X(connectRate, gauge,   "connection attempts in the last minute") \
	X(conn,        gauge,   "connections") \
	X(attempted,   counter, "recipients attempted") \
	X(delivered,   counter, "recipients delivered") \
	X(worker,      gauge,   "slot of the worker that owns it")

/* A limit's row. */
#define STAT_LIMIT(X) \
	X(used,          gauge,   "used of it now") \
	X(limit,         gauge,   "the most that may be") \
	X(windowSeconds, gauge,   "in that time; 0: at once") \
	X(refused,       counter, "times it refused") \
	X(waiting,       gauge,   "queues that wait for it") \
	X(nextRoom,      time,    "wall time in µs at which it has room again, 0 when it has or that is not known")

/* A worker's own object. */
#define STAT_WORKER_ROW(X) \
	X(connections,  gauge,   "connections open or opening") \
	X(active,       gauge,   "transactions running") \
	X(opened,       counter, "connections made") \
	X(open_failed,  counter, "connections that failed") \
	X(transactions, counter, "transactions ended") \
	X(delivered,    counter, "recipients delivered") \
	X(sent_bytes,   counter, "body bytes sent") \
	X(cpu_us,       counter, "CPU time, microseconds")

/* A receiver's own object. */
#define STAT_RECEIVER_ROW(X) \
	X(connections, gauge,   "client connections") \
	X(accepted,    counter, "connections accepted") \
	X(messages,    counter, "messages acknowledged") \
	X(refused,     counter, "messages refused") \
	X(bytes,       counter, "body bytes received") \
	X(syncs,       counter, "group syncs of the segment") \
	X(waiting,     gauge,   "messages that wait for their acknowledgement") \
	X(seg_wait_us_max, gauge, "longest wait for a segment to write to, microseconds") \
	X(seg_failed,  counter, "segments given up after a failed write or sync") \
	X(cpu_us,      counter, "CPU time, microseconds")

#define STAT_RESOLVER_ROW(X) \
	X(lookups,  counter, "names asked for") \
	X(answered, counter, "routes given") \
	X(failed,   counter, "lookups that ended in a temporary failure") \
	X(inflight, gauge,   "lookups under way")

#define STAT_RECORDER_ROW(X) \
	X(events,  counter, "events read") \
	X(records, counter, "accounting records written") \
	X(lag,     gauge,   "bytes of the event log not yet read") \
	X(gaps,    counter, "damaged stretches of the event log, without records")
// clang-format on

#define STAT_STRUCT_FIELD(name, kind, help) uint64_t name;

struct stat_header {
	uint32_t magic, version;
	uint32_t header_bytes, bytes;
	uint32_t writer, slot;
	_Atomic uint32_t pid;
	uint32_t totals_offset, totals_bytes; /* seqlock + struct */
	uint32_t queues_offset, queue_bytes, queues_max;
	_Atomic uint32_t queues_used;         /* rows ever used; a row with an empty name is free */
	uint32_t sources_offset, source_bytes, sources_max;
	_Atomic uint32_t sources_used;
	uint32_t limits_offset, limit_bytes, limits_max;
	_Atomic uint32_t limits_used;
	_Atomic uint64_t generation;          /* of the configuration */
	_Atomic uint64_t heartbeat_boot_us;
	_Atomic uint32_t state;               /* enum stat_state */
	uint64_t started_wall_us;
	char build[32];
};
enum stat_state { STAT_STARTING, STAT_RUNNING, STAT_DRAINING, STAT_GONE };

struct stat_totals {
	STAT_TOTALS(STAT_STRUCT_FIELD)
};
struct stat_queue {
	char name[STAT_QUEUE_NAME];
	char mode[16]; /* "normal", "backoff" */
	char backoffReason[STAT_REASON];
	uint64_t paused;
	STAT_QUEUE(STAT_STRUCT_FIELD)
};
struct stat_source {
	char ip[64];
	char queue[STAT_QUEUE_NAME]; /* of a queue × source limit; empty: over all queues */
	char limit[64];
	uint64_t used, windowStart, disabled;
	STAT_SOURCE(STAT_STRUCT_FIELD)
};
struct stat_limit {
	char scope[16]; /* "queue", "source-ip", ... */
	char object[STAT_QUEUE_NAME]; /* queue, address, name */
	char sourceIp[64];            /* of a queue or MX host */
	char name[64];                /* the directive */
	char value[40];               /* "500/h" */
	STAT_LIMIT(STAT_STRUCT_FIELD)
};
struct stat_worker {
	STAT_WORKER_ROW(STAT_STRUCT_FIELD)
};
struct stat_receiver {
	STAT_RECEIVER_ROW(STAT_STRUCT_FIELD)
};
struct stat_resolver {
	STAT_RESOLVER_ROW(STAT_STRUCT_FIELD)
};
struct stat_recorder {
	STAT_RECORDER_ROW(STAT_STRUCT_FIELD)
};

/* Writer: makes RUN/shm/NAME anew (temporary name, then rename; the old one is marked GONE). The only
 * writer of it is this process. NULL when it cannot (logged by the caller). */
struct stat_object;
int stat_create(struct stat_object **out, const char *run_dir, enum stat_writer writer, unsigned slot);
void stat_close(struct stat_object **o); /* marks it GONE */
struct stat_header *stat_header(struct stat_object *o);
void stat_beat(struct stat_object *o, uint64_t boot_us, enum stat_state state);
/* Publishes the block behind totals_offset (struct stat_totals, stat_worker, ... by writer). */
void stat_put_totals(struct stat_object *o, const void *totals);
/* Row numbers are the writer's to give; < *_max. An empty name frees a row. */
void stat_put_queue(struct stat_object *o, unsigned row, const struct stat_queue *q);
void stat_put_source(struct stat_object *o, unsigned row, const struct stat_source *s);
void stat_put_limit(struct stat_object *o, unsigned row, const struct stat_limit *l);

/* Reader. 0, -E_MISSING, -E_FORMAT, -E_BAD; every offset is checked against the file's size. */
int stat_open(struct stat_object **out, const char *run_dir, enum stat_writer writer, unsigned slot);
int stat_open_image(struct stat_object **out, const void *bytes, uint64_t n); /* of bytes in memory: tests */
/* A consistent copy: 0, -E_AGAIN after bounded retries, -E_MISSING for a free row. */
int stat_get_totals(const struct stat_object *o, void *totals, uint32_t bytes);
int stat_get_queue(const struct stat_object *o, unsigned row, struct stat_queue *q);
int stat_get_source(const struct stat_object *o, unsigned row, struct stat_source *s);
int stat_get_limit(const struct stat_object *o, unsigned row, struct stat_limit *l);

/* The header's checked numbers as they are now, copied out. 0 or -E_BAD (the file was cut under us). */
struct stat_info {
	enum stat_writer writer;
	uint32_t slot, pid, state; /* state: enum stat_state or a number of no meaning */
	uint32_t bytes, version;
	uint32_t queues_used, sources_used, limits_used; /* rows that stat_get_queue/source/limit may be asked for */
	uint64_t generation, heartbeat_boot_us, started_wall_us;
	char build[32];
};
int stat_get_info(const struct stat_object *o, struct stat_info *out);

/* Bytes of the struct behind totals_offset: sizeof(struct stat_totals), ... */
uint32_t stat_totals_bytes(enum stat_writer writer);
