/* admit: which limits a grant or a connection falls in, and what stands against it. */
#pragma once

#include "scheduler/core/limits.h"

/* Entries looked at for one whose job and sender are not at their limits. */
#define LOOK_AHEAD 32

/* What a message of the queue is charged to, wherever it goes from: the queue, its virtual MTA, its
 * provider. */
void admit_message(struct core *c, uint32_t qi, struct charges *set);
/* The same from this source IP. */
void admit_message_source(struct core *c, uint32_t qi, uint32_t source, struct charges *set);
/* The job and the sender of an entry. */
void admit_message_entry(struct core *c, uint32_t e, struct charges *set);
void admit_message_tag(struct core *c, struct core_tag *t, struct charges *set);
/* Bytes of its body, as they are reserved. */
uint64_t admit_bytes(const struct core *c, uint32_t e);
/* The first ready entry of the queue that its job and its sender have room for, with what it is
 * charged to for them; CORE_NONE: then *a says what refused. */
uint32_t admit_entry(struct core *c, const struct asker *who, struct charges *set, struct answer *a);

/* What a connection of the queue is charged to, from whichever source IP. */
void admit_connection(struct core *c, uint32_t qi, struct charges *set);
void admit_connection_source(struct core *c, uint32_t qi, uint32_t source, struct charges *set);
/* The job and the sender of those that it may carry. */
void admit_connection_tag(struct core *c, struct core_tag *t, struct charges *set);
/* The first ready entry of the queue whose job and sender have room for a connection: *set is
 * charged to them too, *yes has what they say. CORE_NONE: *yes says what refused. */
uint32_t admit_connection_entry(struct core *c, const struct asker *who, struct charges *set,
				struct answer *yes);
/* That target: destination and MX x source; limits NULL: none. */
void admit_destination(struct core *c, const struct core_target_limits *t, struct charges *set);
void admit_mx(struct core *c, const struct core_target_limits *t, uint32_t source,
	      struct charges *set);

/* What a past event was charged to; `qi` CORE_NONE: its queue is not known any more. */
void admit_past(struct core *c, uint32_t qi, const struct core_past *p, struct charges *set);
