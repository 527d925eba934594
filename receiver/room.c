#include "receiver/room.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/err.h"

void
room_init(struct room *r, int dir, const unsigned char instance[16])
{
	memset(r, 0, sizeof *r);
	r->dir = dir;
	memcpy(r->instance, instance, sizeof r->instance);
	for (int i = 0; i < ROOM_PLACES; i++)
		r->at[i].fd = -1;
}

void
room_clear(struct room *r)
{
	for (int i = 0; i < ROOM_PLACES; i++)
		segment_writer_close(&r->at[i]);
}

bool
room_has(const struct room *r, enum room_place place)
{
	return r->at[place].fd >= 0;
}

unsigned
room_wanted(const struct room *r)
{
	unsigned have =
		(unsigned)room_has(r, ROOM_CURRENT) + (unsigned)room_has(r, ROOM_SPARE) + r->asked;

	return have < 2 ? 2 - have : 0;
}

void
room_forget_asked(struct room *r)
{
	r->asked = 0;
	r->special_asked = 0;
}

int
room_take(struct room *r, const struct message *open)
{
	enum room_place place = ROOM_SPARE;

	if (open->u.seg_open.for_bytes > 0) {
		place = ROOM_SPECIAL;
		r->special_asked = 0;
	} else if (r->asked > 0) {
		r->asked--;
	}
	if (open->u.seg_open.number == 0)
		return -E_FULL;
	room_shift(r);
	if (room_has(r, place))
		return -E_EXISTS; /* one more than was asked for */
	return segment_writer_open(&r->at[place], r->dir, open->u.seg_open.number,
				   open->u.seg_open.epoch, r->instance);
}

void
room_shift(struct room *r)
{
	if (room_has(r, ROOM_CURRENT) || !room_has(r, ROOM_SPARE))
		return;
	r->at[ROOM_CURRENT] = r->at[ROOM_SPARE];
	r->at[ROOM_SPARE].fd = -1;
}

void
room_seal(struct room *r, enum room_place place, uint64_t end, struct message *seal)
{
	struct segment_writer *w = &r->at[place];

	CHECK(w->fd >= 0);
	memset(seal, 0, sizeof *seal);
	seal->kind = MESSAGE_SEG_SEAL;
	seal->u.seg_seal.number = w->info.number;
	seal->u.seg_seal.epoch = w->info.epoch;
	seal->u.seg_seal.end = end;
	segment_writer_close(w);
}
