/* reception: the event that says that a message was accepted, made from its envelope: by the receiver that has it
 * in hand, and by a scheduler that finds its rows without the event. */
#pragma once

#include "common/base/buf.h"
#include "common/queue/record.h"

/* Appends an encoded EVENT_RECEPTION; `body_bytes` as the record's header says. */
void reception_encode(struct buf *out, const struct record_envelope *env, uint64_t body_bytes);
