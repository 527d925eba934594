/* names: numbers for queue names, jobs and sender domains: durable. A number is given again only when
 * nothing referred to it any more and that is known to the store. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/str.h"

struct names;

struct names *names_new(void);
void names_free(struct names **n);

/* As loaded from the store. */
void names_restore(struct names *n, uint32_t number, struct slice name);
/* `number` is in use somewhere, with a name or (damaged) without: never given to another. */
void names_reserve(struct names *n, uint32_t number);
/* All is loaded: what nobody holds is to be forgotten, and numbers between are given again. */
void names_loaded(struct names *n);
/* How many are known. */
size_t names_count(const struct names *n);
/* The number of `name`, a new one (then *is_new) when it is not known; 0 for an empty name. */
uint32_t names_number(struct names *n, struct slice name, bool *is_new);
/* 0 when there is none. */
uint32_t names_find(const struct names *n, struct slice name);
/* Empty for 0 and for unknown numbers; borrowed. */
struct slice names_get(const struct names *n, uint32_t number);

/* One more, one less refers to it (0: nothing). What nobody refers to is forgotten by the next sweep, not before:
 * a name that is new, or changes hands, is safe until then. */
void names_hold(struct names *n, uint32_t number, int delta);
/* Somebody refers to it. */
bool names_is_held(const struct names *n, uint32_t number);
/* Nobody is called so any more; the number stays in use. */
void names_unname(struct names *n, uint32_t number);
/* For good: a queue's. */
void names_keep(struct names *n, uint32_t number);
/* Forgets names that nobody refers to, at most `most`, and calls fn for each number; true when more are left. */
bool names_sweep(struct names *n, unsigned most, void (*fn)(void *arg, uint32_t number), void *arg);
