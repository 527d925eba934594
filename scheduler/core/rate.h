/* rate: at most N in any window, by stamps, wherever the window begins; and even: at most a fifth
 * of N (at least one) in any tenth of it.
 *
 * What is charged at a stamp may happen up to rate_delta_us() later, so it counts for window +
 * delta. N <= 128: the last N stamps, exact. Larger, or when more than N counts that may matter
 * again (N was lowered, and may be raised): "wide", 256 buckets, conservative by at most one bucket
 * (0.4 % of the window).
 *
 * Amounts are recipients, attempts or bytes. What cannot be cut (a body, a transaction) is asked
 * for as a whole: above a fifth of N it goes alone in its tenth; above N it goes when its window is
 * empty, and closes the rate until its size is made up for.
 *
 * Clock values are microseconds since boot and never run backwards; if one does, the last
 * counts. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rate;

/* `n` at least 1 and at most RATE_N_MAX, `window_us` at least 1 ms and at most
 * RATE_WINDOW_MAX_US: larger numbers are taken as those. */
#define RATE_N_MAX         (UINT64_C(1) << 56)
#define RATE_WINDOW_MAX_US (UINT64_C(1) << 48)
struct rate *rate_new(uint64_t n, uint64_t window_us);
struct rate *rate_new_wide(uint64_t n, uint64_t window_us);
/* *r becomes NULL; the memory of one that was placed stays its owner's. */
void rate_free(struct rate **r);

/* The deadline of a grant: 1 % of the window, at least 10 ms, at most 1 s. */
uint64_t rate_delta_us(uint64_t window_us);
uint64_t rate_window_us(const struct rate *r);
uint64_t rate_limit(const struct rate *r);
/* Most that one transaction may carry. */
uint64_t rate_share(const struct rate *r);

/* How many may be charged at `now_us`. */
uint64_t rate_room(struct rate *r, uint64_t now_us);
/* When there will be room for one: `now_us` or later. */
uint64_t rate_when(struct rate *r, uint64_t now_us);
/* Whether `k` as a whole may be charged at `now_us`, and when it may if nothing else is charged. */
bool rate_fits(struct rate *r, uint64_t now_us, uint64_t k);
uint64_t rate_when_fits(struct rate *r, uint64_t now_us, uint64_t k);

/* Charges `k`, which fits. */
void rate_charge(struct rate *r, uint64_t now_us, uint64_t k);
/* Charges `k` whether there is room or not: what happened, happened (adopted claims). */
void rate_force(struct rate *r, uint64_t now_us, uint64_t k);
/* The same for what happened `age_us` ago, perhaps before this boot, before anything later is
 * charged: what comes out of order counts as long as what came before it. One thing larger than N
 * closes the rate as if it had been charged. */
void rate_past(struct rate *r, uint64_t now_us, uint64_t age_us, uint64_t k);
/* Until when (not then) whatever is charged counts as if it had been at `now_us`; 0: each stamp
 * counts for itself. */
uint64_t rate_alike_until(const struct rate *r, uint64_t now_us);
/* Gives back `k` of what was charged at `stamp_us`; no matter when it no longer counts. */
void rate_refund(struct rate *r, uint64_t stamp_us, uint64_t k);
/* What counts now, for the checker of invariants. */
uint64_t rate_used(const struct rate *r);
/* Nothing before `boot_us` (after a reboot nobody knows what was charged; later charges count as
 * ever). */
void rate_close_until(struct rate *r, uint64_t boot_us);

/* Makes *r a rate of other numbers (NULL: a new one); what was charged goes on counting. Not for
 * one that was placed: its owner has new memory made, and moves. */
void rate_change(struct rate **r, uint64_t n, uint64_t window_us, uint64_t now_us);
/* The same where it is, for another N alone; false: it takes another rate. */
bool rate_set_n(struct rate *r, uint64_t n, uint64_t now_us);
/* Whether one with these numbers has to be wide to take over all that counts. */
bool rate_needs_wide(struct rate *r, uint64_t n, uint64_t window_us, uint64_t now_us);
/* Whether to charge `k` more makes it forget what counts: it should be a wide one. */
bool rate_forgets(struct rate *r, uint64_t now_us, uint64_t k);
/* Moves what counts in `from` (other numbers perhaps) into the fresh rate `to`. Into a longer window goes what
 * counted when `from` was last asked or charged. */
void rate_move(struct rate *to, const struct rate *from, uint64_t now_us);

/* In memory that outlives the process -------------------------------------------------------------
 * A rate may live in memory its owner gives (a mapped file): `rate_bytes(n)` long, 8-byte aligned,
 * zeros or what an earlier process of this boot left there, wherever it died: it is then put in
 * order, never counting less than what was charged. One of other numbers, for which the memory is
 * large enough too, is made over; who dies in the middle of that leaves a rate that is closed for a
 * window. What cannot be right (rate_whole()) counts as such a rate too. */
size_t rate_bytes(uint64_t n);
size_t rate_bytes_wide(void);
struct rate *rate_place_wide(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
struct rate *rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
/* Whether what `memory` holds can be a rate at `now_us` that lies within `bytes`, or zeros. */
bool rate_whole(const void *memory, size_t bytes, uint64_t now_us);
#define RATE_BYTES_MIN 64
/* In what a machine left that died some pages may be older than others: puts its stamps in order.
 * What was charged when the older pages were written counts. */
void rate_mend(void *memory, size_t bytes);
/* Writes into `memory` that nobody knows what was charged before `since_us`: a rate placed there
 * that has a window of at most `longest_us` is closed until `since_us` + window + delta, a longer
 * one until `longer_since_us` (may be before the boot; INT64_MIN: all is known) + window + delta.
 */
void rate_unknown(void *memory, uint64_t since_us, uint64_t longest_us, int64_t longer_since_us);
/* Of a whole rate that was found: its N and window (0: it holds no rate), the last clock value it
 * saw, and whether nothing of it counts any more, neither in its own window nor in one of `window_us`. */
uint64_t rate_found_n(const void *memory);
uint64_t rate_found_window_us(const void *memory);
uint64_t rate_last_us(const void *memory);
bool rate_is_over(const void *memory, uint64_t window_us, uint64_t now_us);
/* The same of one that is in use, in its own window. */
bool rate_is_empty(struct rate *r, uint64_t now_us);
/* Copies a whole rate of another boot, whose clock was behind this one's by `shift_us`, into zeros;
 * what would be after `now_us` then is at `now_us`. False: nothing was ever charged, or when is not known. */
bool rate_shift(void *to, const void *from, int64_t shift_us, uint64_t now_us);
