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
/* Once per tick: what is past goes, and what had to wait is tried again. */
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

/* The row by which the queue is in back-off, its own or a scope's; NULL: it is not. */
const struct backoff_row *backoff_of(const struct scheduler *s, uint32_t queue);
/* The row of a source IP, in back-off or not; NULL: none. */
const struct backoff_row *backoff_of_source(const struct scheduler *s, struct slice source);

/* The last changes of its mode, the oldest first, by whichever row, into room for BACKOFF_CHANGES;
 * reasons are borrowed. Their number. */
struct backoff_change;
unsigned backoff_changes(struct scheduler *s, uint32_t queue, struct backoff_change *out);

/* The rule whose `recover` the queue follows, or followed; NULL: the domain's. */
const struct conf_rule *backoff_recover_rule(struct scheduler *s, uint32_t queue);
