/* notify_event: one thing that operators are told of by mail, as it is kept until a message that
 * tells it is stored; and how many messages they get. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"

/* How these rows begin in the store's table of back-off, beside backoff_rows.h's own. */
#define NOTIFY_BLOB 3

enum notify_kind {
	NOTIFY_BACKOFF = 1, /* back-off began */
	NOTIFY_NORMAL,      /* and ended */
	NOTIFY_SOURCE_OFF,  /* a source IP is disabled */
	NOTIFY_SOURCE_ON,   /* and enabled again */
	NOTIFY_KINDS
};

/* name, most bytes that are kept. In the order in which they are stored. */
// clang-format off
#define NOTIFY_TEXTS(X) \
	X(to, 4000)       /* mail addresses, a line feed between two */ \
	X(name, 600)      /* the queue, or a pattern of such; the object of a wider scope */ \
	X(reason, 600)    /* the reply, or what else was the cause: foreign text */ \
	X(rule, 600)      /* FILE:LINE, empty: no rule */ \
	X(pattern, 600)   /* of that rule */ \
	X(source_ip, 64)  /* that the reply came to; the one that is disabled */ \
	X(reroute, 300)   /* virtual MTA where the mail goes meanwhile */ \
	X(limits, 600)    /* those in force from now on */
// clang-format on

struct notify_event {
	uint64_t key; /* its own for ever */
	enum notify_kind kind;
	unsigned scope;     /* enum conf_rule_scope: what `name` is */
	uint64_t wall_us;   /* when */
	uint64_t until_us;  /* wall: when it ends by itself; 0: it does not */
	uint64_t retry_us;  /* wall: the queue waits till then; 0: it does not */
#define X(name, bytes) struct slice name;
	NOTIFY_TEXTS(X)
#undef X
};

/* Appends it as stored: at most STORE_BACKOFF_MAX bytes. */
void notify_event_encode(struct buf *out, const struct notify_event *e);
/* Slices point into `blob`. False: not understood. */
bool notify_event_decode(struct notify_event *out, struct slice blob);

/* To the same addresses go at most so many messages in any minute. What is more than that waits for
 * the oldest of them to be a minute old, and goes together. Embedded; zero-initialised is unused. */
#define NOTIFY_A_MINUTE 5
struct notify_pace {
	uint64_t sent_us[NOTIFY_A_MINUTE]; /* boot clock; 0: none */
};
/* Messages that may go now; *next: when one more may. */
unsigned notify_pace_room(const struct notify_pace *p, uint64_t boot_us, uint64_t *next);
void notify_pace_sent(struct notify_pace *p, uint64_t boot_us);
