/* backoff_impl: what the files of backoff.h share: backoff.c (how a mode comes and goes, and is kept),
 * backoff_match.c (from a reply to that), backoff_tell.c (from that to the core), backoff_how.c (what
 * the core is told), backoff_reroute.c (where mail goes), backoff_recovery.c (how its rate returns). */
#pragma once

#include "scheduler/backoff.h"
#include "scheduler/backoff_rows.h"

/* backoff.c. Some queue or scope is or was in back-off. */
bool backoff_is_known(const struct scheduler *s);
/* The queue's own row, with its last changes; NULL: its mode never changed. */
const struct backoff_row *backoff_own(const struct scheduler *s, uint32_t queue);
/* The queue has an object of that scope: a provider that is known, a source IP. */
bool backoff_has_scope(const struct scheduler *s, unsigned scope, uint32_t queue,
		       uint32_t source_ip);
/* The row of the queue's object of that scope (enum conf_rule_scope), made if it is new; NULL: it has
 * none. `source_ip` as in struct backoff_match. */
struct backoff_row *backoff_scope_row(struct scheduler *s, unsigned scope, uint32_t queue,
				      uint32_t source_ip);
/* NULL: nothing is known of it. */
struct backoff_row *backoff_scope_find(struct scheduler *s, unsigned scope, uint32_t queue,
				       uint32_t source_ip);
struct backoff_rows *backoff_table(struct scheduler *s);
/* The row is durable with the batch that fills. */
void backoff_put(struct scheduler *s, const struct backoff_row *row);
/* `entry`: that met the reply, CORE_NONE: none. */
void backoff_enter(struct scheduler *s, struct backoff_row *row, struct backoff_why *why,
		   uint32_t queue, uint32_t entry);
void backoff_leave(struct scheduler *s, struct backoff_row *row, struct slice reason,
		   struct slice rule);
/* The queue is out of back-off, by its own row and by all wider ones, until those end. True: it was in
 * it, or one of its source IPs was. */
bool backoff_out(struct scheduler *s, uint32_t queue, struct slice reason, struct slice rule);
/* A match of a rule with `after`, of the scope's object. True: it fires. */
bool backoff_count(struct scheduler *s, unsigned rule, uint32_t queue, uint32_t source_ip);

/* backoff_how.c: what the core is told of a queue's back-off by this row. `how` borrows from *room. */
struct core_backoff;
struct conf_recover;
struct backoff_room {
	struct conf_recover *recover;
	uint32_t *sources;
};
void backoff_how(struct scheduler *s, uint32_t queue, const struct backoff_row *row,
		 struct core_backoff *how, struct backoff_room *room);
void backoff_room_clear(struct backoff_room *room);

/* backoff_reroute.c: all that waits in the queue goes where its mode of now sends it; of back-off
 * with probes one message stays, `entry` (in flight, CORE_NONE: none) if none waits.
 * `tell`: its mode has just changed; a loop is reported. */
void backoff_reroute(struct scheduler *s, uint32_t queue, uint32_t entry, bool tell);
/* What waits in it goes to its target: not where the way leads back to it. */
bool backoff_sends_away(struct scheduler *s, uint32_t queue);
/* The virtual MTA that a name stands for, of a pool one of its members, for this queue always the
 * same; NULL: there is none of that name. */
const char *backoff_member(const struct scheduler *s, const char *name, uint32_t queue);

/* backoff_tell.c. Whether source IPs' modes are to be told is known at the start. */
void backoff_tell_open(struct scheduler *s, bool sources);
void backoff_tell_close(struct scheduler *s);
void backoff_tell_started(struct scheduler *s);
void backoff_tell_tick(struct scheduler *s);
void backoff_tell_number(struct scheduler *s, uint32_t from, uint32_t fresh);
/* The row has changed, at once in force; `met`: by a reply to this queue. `again`: a further match; its
 * recovery hears of it. */
void backoff_in_force(struct scheduler *s, const struct backoff_row *row, uint32_t met, bool again);
/* The mode of many queues is another one, or what follows from it; `tell`: loops are reported. */
void backoff_tell_all(struct scheduler *s, bool tell);
/* A way of mail has become a loop: whoever is in it keeps its mail, and does not probe. */
void backoff_tell_loop(struct scheduler *s);
/* For which source IPs the queue is in back-off. */
void backoff_tell_sources(struct scheduler *s, uint32_t queue);
/* Its back-off has ended in the core. */
void backoff_untold(struct scheduler *s, uint32_t queue);
/* In a turn to come: whoever changes a mode goes on to use the queue's number, which this may change. */
void backoff_reroute_soon(struct scheduler *s, uint32_t queue);
/* Its mail cannot go yet, what is on its way to it comes from there: tried again each tick. True: that
 * is new. */
bool backoff_reroute_later(struct scheduler *s, uint32_t queue);
/* That the way of its mail leads back has not been told since it is in this mode; now it has. */
bool backoff_loop_is_news(struct scheduler *s, uint32_t queue);

/* backoff_recovery.c: how far the recovery of queues has come, kept. True: the row says something
 * new, the caller puts it. */
bool backoff_note_recovery(struct scheduler *s, struct backoff_row *row);
/* At start: it goes on where it was. */
void backoff_resume_recovery(struct scheduler *s);
