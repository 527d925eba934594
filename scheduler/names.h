/* names: numbers for queue names, jobs and sender domains: durable, given once, never given again. */
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
/* The number of `name`, a new one (then *is_new) when it is not known; 0 for an empty name. */
uint32_t names_number(struct names *n, struct slice name, bool *is_new);
/* 0 when there is none. */
uint32_t names_find(const struct names *n, struct slice name);
/* Empty for 0 and for unknown numbers; borrowed. */
struct slice names_get(const struct names *n, uint32_t number);
