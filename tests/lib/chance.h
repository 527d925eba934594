/* chance: numbers that a seed says, the same on every machine: xorshift64* (Vigna). `state` is not 0. */
#pragma once

#include <stdint.h>

static inline uint64_t
chance_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 2685821657736338717ull;
}
