/* room: the segments that this receiver may write to: one in use, one spare, and one made for a
 * message larger than an ordinary segment. */
#pragma once

#include <stdbool.h>

#include "common/ipc/message.h"
#include "common/queue/segment.h"

enum room_place { ROOM_CURRENT, ROOM_SPARE, ROOM_SPECIAL, ROOM_PLACES };

/* Embedded. */
struct room {
	int dir;
	unsigned char instance[16];
	struct segment_writer at[ROOM_PLACES]; /* fd -1: none */
	unsigned asked;                        /* ordinary segments on their way */
	uint64_t special_asked;                /* bytes of the special one on its way, 0 none */
};

/* Bytes of the largest record that an ordinary segment takes. */
#define ROOM_ORDINARY_MAX (SEGMENT_BYTES - SEGMENT_HEADER_BYTES)

void room_init(struct room *r, int dir, const unsigned char instance[16]);
void room_clear(struct room *r); /* closes all */

bool room_has(const struct room *r, enum room_place place);
/* How many ordinary segments to ask for now, so that one is in use and one spare. */
unsigned room_wanted(const struct room *r);
/* A new channel: nothing is on its way any more. */
void room_forget_asked(struct room *r);

/* The scheduler's answer. 0; -E_FULL: it has none; else it cannot be used and is to be sealed as it
 * is. */
int room_take(struct room *r, const struct message *open);
/* The spare becomes the one in use if there is none. */
void room_shift(struct room *r);
/* Closes the segment in `place` and describes it in *seal; `end` is where the good records end. */
void room_seal(struct room *r, enum room_place place, uint64_t end, struct message *seal);
