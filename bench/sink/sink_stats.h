/* sink_stats: what a provider counted, and the JSON of it. */
#pragma once

#include "bench/sink/sink_body.h"
#include "bench/sink/sink_script.h"
#include "common/base/json.h"

#define SINK_COUNTERS(X)                                                                           \
	X(connections)  /* accepted, with those refused by max-connections */                      \
	X(refused)      /* 421 by max-connections */                                               \
	X(open)         /* now */                                                                  \
	X(peak)         /* most at once */                                                         \
	X(mails)        /* MAIL commands */                                                        \
	X(rcpts)        /* RCPT commands */                                                        \
	X(messages)     /* 250 to the dot written */                                               \
	X(recipients)   /* of these */                                                             \
	X(bytes)        /* of these, content */                                                    \
	X(unanswered)   /* taken, and the connection closed before the 250 was out */              \
	X(lost_in_data) /* connections gone between 354 and the dot */                             \
	X(bad_commands)                                                                            \
	X(early_talk) /* bytes behind a command that must be the last of its group */

struct sink_stats {
#define X(name) uint64_t name;
	SINK_COUNTERS(X)
#undef X
	uint64_t replies[SINK_STAGE_COUNT][6]; /* by stage and first digit */
	struct sink_faults faults;
	uint64_t first_mail_us, last_250_us; /* wall clock; 0: none yet */
};

/* Adds up; of times the first and the last, of `peak` the sum. */
void sink_stats_add(struct sink_stats *to, const struct sink_stats *from);
void sink_stats_faults(struct sink_stats *to, const struct sink_faults *from);

/* Members into an object already begun. */
void sink_stats_json(struct json *j, const struct sink_stats *s);
