/* reply_matches: replies that rules match, as workers tell them, and what rules that fire ask of the
 * mail that met them. Rules that fire at each match the worker obeys by itself; whether one with an
 * `after` fires the scheduler alone knows, so outcomes are read as those have them. */
#pragma once

#include <stdbool.h>

#include "common/base/str.h"

struct backoff_match;
struct conn;
struct message;
struct peer;
struct results;
struct rules_verdict;
struct scheduler;

/* Of the worker's connection `c`. It comes before the result of its transaction: what it brings
 * about holds for the next grant. */
void reply_matches_take(struct peer *p, struct conn *c, const struct message *m,
			struct slice payload);
/* Rules of the match fire: noted for the result of its transaction, and its connection is closed if
 * they want that. From backoff_matched(). */
void reply_matches_fired(struct scheduler *s, const struct backoff_match *m,
			 const struct rules_verdict *v);
/* The outcomes as the rules that fired have them. */
void reply_matches_rule_on(struct scheduler *s, const struct conn *c, struct results *r);
/* The log has room for what comes of a match, this second: a provider that refuses everything would
 * fill it. */
bool reply_matches_may_log(const struct scheduler *s);
