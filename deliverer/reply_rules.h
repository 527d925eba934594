/* reply_rules: what the operator's rules say of the replies of a connection. The worker does at
 * once what concerns the dialogue and the mail in it, and tells the scheduler of the rest. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"
#include "common/conf/conf.h"

struct connection;
struct worker;
struct reply_rules; /* the compiled rules of one configuration; shared by its connections */

/* A configuration is about to be used: its rules are loaded. */
void reply_rules_prepare(struct worker *w, const struct conf *conf, uint64_t generation);
/* Those of earlier configurations that nobody uses any more go; `dropped`: also what was prepared.
 */
void reply_rules_sweep(struct worker *w, bool dropped);

/* A connection of that queue ("domain/vmta") to that route (`best` as in struct route): takes what
 * it needs. `list`: of conf_rule_lists(), -1: none. */
void reply_rules_open(struct connection *c, uint64_t generation, const struct conf *conf, int list,
		      struct slice queue_name, struct slice best);
void reply_rules_listen(struct connection *c);
void reply_rules_close(struct connection *c);
/* Each second: the log tells of searches that came to no end within their bounds. */
void reply_rules_tick(struct worker *w);
/* A transaction begins: by the configuration that is in force now; each rule may be told once more.
 */
void reply_rules_begin(struct connection *c);
