// clang-format off
/* sim: the parts of the simulator: the real scheduler in a world of which nothing is real.
 *
 *   threads  the scheduler's threads as coroutines, its memory in an arena: a kill is never to resume
 *   disk     files on a memory file system, and of all that is not synced what was there before
 *   process  loop, timers, channels, clocks, the line to the master
 *   peers    receivers, workers, resolver, recorder
 *   modes    back-off: what rules bring about, what holds of it
 *   ledger   what was promised and what became of it: reads events, trusts nobody
 *   main     seeds, steps, faults */
// clang-format on
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/str.h"
#include "common/event_log/event_log.h"
#include "common/ipc/message.h"
#include "common/proc/role.h"
#include "common/queue/segment.h"
#include "scheduler/state.h"

#define SIM_WORKERS   3
#define SIM_RECEIVERS 2
#define SIM_SECOND    1000000ull

/* main: chance, and what goes wrong. */
uint64_t sim_random(void);
unsigned sim_below(unsigned n); /* 0 .. n-1 */
bool sim_percent(unsigned p);
/* A promise is broken: says what, seed and step, and how to see it again; ends the process. */
_Noreturn void sim_broken(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define HOLDS(cond, ...)                                                                           \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0))                                                  \
			sim_broken(__VA_ARGS__);                                                   \
	} while (0)
/* A line of the story, with -v. */
void sim_tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
extern bool sim_loud;
extern bool sim_calm;        /* no more faults: everything must come to its end */
extern bool sim_no_room;     /* the quota is reached */
extern bool sim_spoilt;      /* the queue forgot a segment: mail may come twice, but all of it comes */
extern const char *sim_root; /* the folder of the spool */

struct sim_clock {
	uint64_t boot_us, wall_us;
	unsigned boot; /* how often the machine was started */
};
extern struct sim_clock sim_clock;

/* threads */
enum { SIM_THREADS = 12 };
bool threads_inside(void); /* the scheduler runs, not the world around it */
void threads_begin(void);  /* of an episode */
void threads_start(void (*fn)(void *arg), void *arg);
/* A thread that can go on, chosen by chance; -1 none does but the one in the loop. */
int threads_pick(bool loop_is_ready);
void threads_run(int thread);
/* From inside: something else may happen here. */
void threads_pause(unsigned percent);
void threads_wait_for_loop(void);
bool threads_main_waits(void); /* the first thread is at the top of its loop */
void threads_kill(void);

/* disk */
void disk_begin(const char *root, unsigned error_rate); /* of 20000 writes and syncs of the scheduler */
uint64_t disk_errors(void);
void disk_end(void);
void disk_kill(void);       /* the scheduler's descriptors and maps go, nothing else */
void disk_power_cut(void);  /* of what is not synced, anything may be lost */
void disk_write_back(void); /* the kernel writes some pages that nobody asked it to */
/* Sets a bit `at` bytes behind the begin of each place that looks like this and has the byte `then` behind it: how many.
 * (What is left of a row in a page of a new use ends in the middle, and what follows is alive.) */
unsigned disk_spoil(const char *path, struct slice what, size_t at, unsigned char then);
int disk_eventfd_ready(int fd);
unsigned disk_unsynced(void);

/* process */
struct link;
struct link *link_new(void);
void link_leave(struct link *l); /* the other process goes; what it said can still be read */
void link_drop(struct link *l);
bool link_alive(const struct link *l); /* the scheduler's end is there */
bool link_put(struct link *l, const struct message *m, struct slice payload);
bool link_get(struct link *l, struct message *m, struct slice *payload);
bool link_taken(const struct link *l); /* nothing that the other side said is unread */

void process_start(void);
void process_kill(void);
bool process_lives(void);
bool process_is_ready(void);
bool process_can_turn(void);
uint64_t process_next_timer(void);
struct scheduler *process_scheduler(void); /* NULL while starting */
void process_channel(enum role role, unsigned slot, uint32_t generation, struct link *l);
void process_gone(enum role role, unsigned slot, uint32_t generation);
/* Somebody it asked to have killed; false: none. */
bool process_asks_kill(enum role *role, unsigned *slot);
void process_conf(const struct conf *conf);
const struct conf *process_the_conf(void);

/* peers */
void peers_begin(const struct spool *spool);
void peers_end(void);
void peers_connect(void); /* the scheduler is ready: each living one gets a new channel */
void peers_lost_scheduler(void);
/* What a receiver that lives writes to just now; false: nothing. */
bool peers_open_segment(struct segment_info *out);
bool peers_step(void);
void peers_kill_one(void);
void peers_kill(enum role role, unsigned slot);
void peers_kill_all(void);
bool peers_are_idle(void);

/* modes */
extern bool sim_flips; /* the configuration has rules */
struct buf;
void modes_begin(void);
/* A reply that some rules match, as a worker tells it; false: none. */
bool modes_match(struct message *m, struct buf *payload);
void modes_event(const struct event *e);
void modes_after_start(struct scheduler *s);
void modes_look(struct scheduler *s); /* at the top of its loop */
extern struct sim_flip_counts {
	uint64_t matches, flips;
} sim_flip_counts;

/* ledger */
struct sim_record { /* a message that a receiver wrote */
	msg_id_t id;
	uint32_t segment;
	uint64_t epoch, offset, bytes;
	uint16_t n_entries;
	uint16_t first[4], count[4];
	uint8_t domain[4];
	uint16_t n_rcpts;
};
void ledger_begin(void);
void ledger_written(const struct sim_record *r);
void ledger_acknowledged(msg_id_t id);
void ledger_refused(msg_id_t id);
void ledger_granted(const struct message *work, struct slice bits, unsigned worker);
/* An RCPT that was asked for leaves, granted at this stamp. */
void ledger_stamped(uint64_t lease, unsigned rcpt, uint64_t stamp_boot_us);
void ledger_took(uint64_t lease, unsigned rcpt,
		 enum event_action action);        /* the far end answered */
void ledger_lease_ends(uint64_t lease, bool said); /* result read or sent, or its worker is dead */
void ledger_cut(void);
void ledger_event(const struct event *e);
void ledger_after_start(struct scheduler *s);
void ledger_at_end(struct scheduler *s);
uint64_t ledger_rows(struct scheduler *s);
void ledger_tell_open(void);
unsigned ledger_open(void); /* acknowledged recipients without an end */
struct sim_counts {
	uint64_t written, acked, delivered, bounced, expired, deferred, dups, events, leases, refused, moved, stamped,
		redirects;
};
extern struct sim_counts sim_counts;
