/* backoff: what the rules that replies match do to queues and sources, durable: which queues are in
 * back-off, by themselves or by a wider scope, why, until when; how often rules matched. The rows
 * are backoff_rows'; here they are put in force and on disk, each with the event of the flip, in
 * one commit. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "common/base/str.h"

struct rules_verdict;
struct scheduler;
struct backoff_row;
struct conf_rule;

/* One reply that some rules match, as its worker told it; checked: every number is one of ours.
 * It comes before the result of its transaction. */
struct backoff_match {
	uint32_t queue;      /* that its connection was opened for; may be redirected by now */
	uint32_t source_ip;  /* of the connection: a number of conf_source_ips() of this
				configuration */
	uint32_t connection; /* a number of s->conns[], in use */
	uint32_t entry; /* what the transaction carries; CORE_NONE: there is none (greeting, EHLO,
			   idle) */
	unsigned stage; /* enum conf_rule_stage; 0: of none (RSET, QUIT, 421 while idle) */
	uint16_t code;
	uint16_t n;
	uint32_t rule[RULE_HITS_MAX]; /* numbers of conf_rules(s->conf), in the order of their list:
					 for rules_merge() */
	uint32_t fresh;   /* bit i: rule[i] has not matched before in this transaction (before the
			     first MAIL:   on this connection). Only these count for `after`; at least
			     one is set. */
	uint64_t wait_us; /* the time that the reply names; 0: none */
	struct slice
		text; /* the reply on one line, at most REPLY_KEPT_MAX; borrowed for the call */
};
_Static_assert(RULE_HITS_MAX <= 32, "a bit for each");

/* Called when the scheduler has read the match. What the worker does by itself is done already
 * (reconnect, skip-mx, what becomes of the message that met the reply); grants made behind this
 * call see its effect. */
void backoff_matched(struct scheduler *s, const struct backoff_match *m);

/* At start, before the core. Then, when all queues are known. */
void backoff_load(struct scheduler *s);
void backoff_started(struct scheduler *s);
void backoff_close(struct scheduler *s);
/* Another configuration: modes and their ends stay, settings that are read anew are told. */
void backoff_reconfigured(struct scheduler *s);
void backoff_sweep(struct scheduler *s);
/* The queue is there, or has another provider: what holds for it is put in force. Quick when
 * nothing is. */
void backoff_queue(struct scheduler *s, uint32_t queue);
/* The core knows the mode of the queue; false: it is told soon. Changes nothing now. */
bool backoff_is_told(struct scheduler *s, uint32_t queue);
/* A queue has another number. */
void backoff_has_number(struct scheduler *s, uint32_t from, uint32_t fresh);
/* A slice of what is due to many queues; true: there is more. Once per turn. */
bool backoff_turn(struct scheduler *s);
/* Where the queue's mail goes: itself, or along reroute-to-virtual-mta or its twin. */
uint32_t backoff_target(struct scheduler *s, uint32_t queue);
/* What waits in it goes there: not where the way leads back to it. */
bool backoff_sends_away(struct scheduler *s, uint32_t queue);
/* And where its next new message goes: perhaps it is the probe of a queue on the way. */
uint32_t backoff_target_of_new(struct scheduler *s, uint32_t queue);

/* The core: it ended by itself (enum core_backoff_end). Noted now, done at the top of the loop. */
void backoff_over(struct scheduler *s, uint32_t queue, uint32_t source_ip, unsigned why);

/* By command. */
void backoff_command(struct scheduler *s, uint32_t queue, bool on);
/* The command that all queues of a pattern be normal: where those are all of a wider scope, its own back-off ends too,
 * which queues that come later would be in: a virtual MTA's when the pattern names it, any when that has stars alone.
 * False: there was none. */
bool backoff_end_wide(struct scheduler *s, struct slice pattern);

/* A source IP was disabled for this queue: if it was the last one, that is told, and back-off may begin.
 * `rule`: that did it, empty: a command; `entry`: that met its reply, CORE_NONE: none. */
void backoff_source_disabled(struct scheduler *s, uint32_t queue, struct slice source, struct slice rule,
			     uint32_t entry);
/* A number of its own for a row in the store's table of back-off. */
uint32_t backoff_number(struct scheduler *s);

/* Some queue or scope is or was in back-off. */
bool backoff_is_known(const struct scheduler *s);
/* The row by which the queue is in back-off, its own or a scope's; NULL: it is not. */
const struct backoff_row *backoff_of(const struct scheduler *s, uint32_t queue);
/* The queue's own row, with its last changes; NULL: its mode never changed. */
const struct backoff_row *backoff_own(const struct scheduler *s, uint32_t queue);

/* backoff_changes.c: the last changes of its mode, the oldest first, by whichever row, into room for BACKOFF_CHANGES; reasons
 * are borrowed. Their number. */
struct backoff_change;
unsigned backoff_changes(struct scheduler *s, uint32_t queue, struct backoff_change *out);

/* backoff_how.c: what the core is told of a queue's back-off by this row. `how` borrows from *room.
 */
struct core_backoff;
struct conf_recover;
struct backoff_room {
	struct conf_recover *recover;
	uint32_t *sources;
};
void backoff_how(struct scheduler *s, uint32_t queue, const struct backoff_row *row,
		 struct core_backoff *how, struct backoff_room *room);
void backoff_room_clear(struct backoff_room *room);
/* The rule whose `recover` the queue follows, or followed; NULL: the domain's. */
const struct conf_rule *backoff_recover_rule(struct scheduler *s, uint32_t queue);

/* backoff_reroute.c: all that waits in the queue goes where its mode of now sends it; of back-off
 * with probes one message stays, `entry` (in flight, CORE_NONE: none) if none waits.
 * `tell`: its mode has just changed; a loop is reported. */
void backoff_reroute(struct scheduler *s, uint32_t queue, uint32_t entry, bool tell);
/* The virtual MTA that a name stands for, of a pool one of its members, for this queue always the
 * same; NULL: there is none of that name. */
const char *backoff_member(const struct scheduler *s, const char *name, uint32_t queue);

/* backoff_tell.c. Whether source IPs' modes are to be told is known at the start. */
void backoff_tell_open(struct scheduler *s, bool sources);
void backoff_tell_close(struct scheduler *s);
void backoff_tell_started(struct scheduler *s);
void backoff_tell_number(struct scheduler *s, uint32_t from, uint32_t fresh);
/* The row has changed, at once in force; `met`: by a reply to this queue. `again`: a further match; its recovery hears of
 * it. */
void backoff_in_force(struct scheduler *s, const struct backoff_row *row, uint32_t met, bool again);
/* The mode of many queues is another one, or what follows from it; `tell`: loops are reported. */
void backoff_tell_all(struct scheduler *s, bool tell);
/* A way of mail has become a loop: whoever is in it keeps its mail, and does not probe. */
void backoff_tell_loop(struct scheduler *s);
void backoff_tell_sources(struct scheduler *s, uint32_t queue);
/* Its back-off has ended in the core. */
void backoff_untold(struct scheduler *s, uint32_t queue);
/* In a turn to come: whoever changes a mode goes on to use the queue's number, which this may change. */
void backoff_reroute_soon(struct scheduler *s, uint32_t queue);
/* Its mail cannot go yet, what is on its way to it comes from there: tried again each tick. True: that is new. */
bool backoff_reroute_later(struct scheduler *s, uint32_t queue);
/* That the way of its mail leads back has not been told since it is in this mode; now it has. */
bool backoff_loop_is_news(struct scheduler *s, uint32_t queue);
void backoff_tell_tick(struct scheduler *s);
/* The row of a source IP, NULL: none. */
const struct backoff_row *backoff_of_source(const struct scheduler *s, struct slice source);
/* backoff_recovery.c: how far the recovery of queues has come, kept. True: the row says something
 * new, the caller puts it. */
bool backoff_note_recovery(struct scheduler *s, struct backoff_row *row);
/* At start: it goes on where it was. */
void backoff_resume_recovery(struct scheduler *s);
/* Each tick: a few rows; those whose rate is another one are put, those that are past go. */
void backoff_sweep_rows(struct scheduler *s);

/* backoff.c to backoff_recovery.c. */
struct backoff_rows *backoff_table(struct scheduler *s);
void backoff_put(struct scheduler *s, const struct backoff_row *row);

/* backoff.c to backoff_match.c. */
struct backoff_why;
struct backoff_row *backoff_scope_row(struct scheduler *s, unsigned scope, uint32_t queue,
				      uint32_t source_ip);
/* NULL: nothing is known of it. */
struct backoff_row *backoff_scope_find(struct scheduler *s, unsigned scope, uint32_t queue,
				       uint32_t source_ip);
/* `entry`: that met the reply, CORE_NONE: none. */
void backoff_enter(struct scheduler *s, struct backoff_row *row, struct backoff_why *why,
		   uint32_t queue, uint32_t entry);
void backoff_leave(struct scheduler *s, struct backoff_row *row, struct slice reason,
		   struct slice rule);
/* The queue is out of back-off, by its own row and by all wider ones, until those end. True: it was in it. */
bool backoff_out(struct scheduler *s, uint32_t queue, struct slice reason, struct slice rule);
/* A match of a rule with `after`, of the scope's object. True: it fires. */
bool backoff_count(struct scheduler *s, unsigned rule, uint32_t queue, uint32_t source_ip);
