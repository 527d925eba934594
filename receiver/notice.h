/* notice: what the scheduler is told of segments in the order of NEWs: a parcel without mail. */
#pragma once

#include "common/ipc/message.h"
#include "receiver/parcel.h"

struct parcel *notice_seal(const struct message *seal);
/* This receiver has it open; number 0: that was all. */
struct parcel *notice_held(uint32_t number, uint64_t epoch);
void notice_message(const struct parcel *p, struct message *out);
/* Takes those of notice_held() out of the list: how many. */
unsigned notice_drop_held(struct parcel_list *l);
