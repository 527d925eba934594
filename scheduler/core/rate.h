/* rate: at most N in any window, by stamps, wherever the window begins; and even: at most a fifth
 * of N (at least one) in any tenth of it.
 *
 * What is charged at a stamp may happen up to rate_delta_us() later, so it counts for window +
 * delta. N <= 128: the last N stamps, exact. Larger: 256 buckets, conservative by at most one
 * bucket. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct rate;

/* `n` at least 1, `window_us` at least 1 ms. */
struct rate *rate_new(uint64_t n, uint64_t window_us);
void rate_free(struct rate **r);

/* The deadline of a grant: 1 % of the window, at least 10 ms, at most 1 s. */
uint64_t rate_delta_us(uint64_t window_us);
uint64_t rate_window_us(const struct rate *r);
uint64_t rate_limit(const struct rate *r);
/* Most that one transaction may carry. */
uint32_t rate_share(const struct rate *r);

/* How many may be charged at `now_us`. Clock values never run backwards; if one does, the last
 * counts. */
uint32_t rate_room(struct rate *r, uint64_t now_us);
/* When there will be room for one: `now_us` or later. */
uint64_t rate_when(struct rate *r, uint64_t now_us);

/* Charges `k`, at most rate_room(). */
void rate_charge(struct rate *r, uint64_t now_us, uint32_t k);
/* Charges `k` whether there is room or not: what happened, happened (adopted claims). */
void rate_force(struct rate *r, uint64_t now_us, uint32_t k);
/* Gives back `k` of what was charged at `stamp_us`; no matter when it no longer counts. */
void rate_refund(struct rate *r, uint64_t stamp_us, uint32_t k);
/* What counts now, for the checker of invariants. */
uint64_t rate_used(const struct rate *r);

/* In memory that outlives the process -------------------------------------------------------------
 * A rate may live in memory its owner gives (a mapped file): `rate_bytes(n)` long, 8-byte aligned, zeros or what an
 * earlier process left there, wherever it died: it is then put in order, never counting less than what was charged.
 * Such a rate is not freed by rate_free(). */
size_t rate_bytes(uint64_t n);
struct rate *rate_place(void *memory, uint64_t n, uint64_t window_us, uint64_t now_us);
/* Nothing before `boot_us` (after a reboot nobody knows what was charged; later charges count as ever). */
void rate_close_until(struct rate *r, uint64_t boot_us);
/* Moves what counts in `from` (other numbers perhaps) into the fresh rate `to`. */
void rate_move(struct rate *to, const struct rate *from, uint64_t now_us);

/* Makes *r a rate of other numbers (NULL: a new one); what was charged goes on counting. */
void rate_change(struct rate **r, uint64_t n, uint64_t window_us, uint64_t now_us);
