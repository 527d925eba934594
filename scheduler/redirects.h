/* redirects: queue numbers whose rows are another queue's, durable; and making them.
 *
 * A long queue's mail becomes another's in one commit: its name gets a fresh number, and the old
 * number leads to the other queue for good. Rows with it are rewritten as the core moves their
 * entries; those of an earlier life when they change. What no row has any more is forgotten at the
 * next start: until then its number is nobody's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct scheduler;

/* At start, before names are given and rows are loaded. 0 or -E_*. */
int redirects_load(struct scheduler *s);
/* What a row says is its queue; marks the redirects on the way as used. */
uint32_t redirects_row(struct scheduler *s, uint32_t queue);
/* Where this number leads: itself, unless it was redirected. */
uint32_t redirects_end(const struct scheduler *s, uint32_t queue);
/* All rows are loaded: those that are not used go, unless some rows could not be read. */
void redirects_loaded(struct scheduler *s, bool some_unread);
void redirects_close(struct scheduler *s);

/* The mail of `from`, all that waits and what is in flight, is that of `to` from now on: durable
 * with the batch that fills. The number of `from` afterwards; 0, and nothing changed: it would be a
 * loop, or the last one is not over. */
uint32_t redirects_make(struct scheduler *s, uint32_t from, uint32_t to);
/* The same, but one entry of `from` stays: one that waits, else `entry` if it is in
 * flight (CORE_NONE: none). */
uint32_t redirects_make_but_one(struct scheduler *s, uint32_t from, uint32_t to, uint32_t entry);
