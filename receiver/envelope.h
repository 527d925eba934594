/* envelope: the sender and the accepted recipients of a running transaction, and their grouping by
 * queue (recipient domain, or where its queue-to leads) into entries. */
#pragma once

#include <stdbool.h>

#include "common/base/limits.h"
#include "common/conf/conf.h"
#include "common/mail/address.h"
#include "common/queue/record.h"

struct envelope_rcpt {
	uint32_t at; /* in text */
	uint16_t n;
	uint16_t domain; /* offset of the domain within the address */
	const char *queue_to; /* of its domain, while grouping; NULL: none */
};

/* Embedded; zero-initialised is empty. */
struct envelope {
	struct buf text; /* the sender, then the recipients, back to back */
	size_t sender_n;
	size_t sender_domain; /* offset; sender_n when there is none */
	struct envelope_rcpt *rcpts;
	size_t n, cap;
};

void envelope_clear(struct envelope *e); /* frees */
void envelope_reset(struct envelope *e); /* empty, memory kept up to a bound */

void envelope_begin(struct envelope *e, const struct address *sender);
/* False when the message would have more recipient text than a NEW can carry. */
bool envelope_add(struct envelope *e, const struct address *rcpt);

struct slice envelope_sender(const struct envelope *e);
struct slice envelope_sender_domain(const struct envelope *e);

/* Recipients in the order of their entries; arrays borrowed until the next call (one scratch for
 * the process), slices from the envelope. */
struct envelope_grouped {
	const struct slice *rcpts;
	uint32_t n_rcpts;
	const struct record_entry *entries;
	uint16_t n_entries;
};
void envelope_group(struct envelope *e, const struct conf *conf, struct slice vmta, struct envelope_grouped *out);
