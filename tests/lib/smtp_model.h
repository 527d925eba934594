/* smtp_model: random SMTP sessions by a grammar, and beside each command what a server has to say
 * to it. Shares no code with the machine that it judges, and never parses: it knows what it wrote.
 */
#pragma once

#include "common/base/buf.h"

#define SMTP_MODEL_SIZE  600 /* the message size limit it expects */
#define SMTP_MODEL_RCPTS 5   /* and the recipients of one message */

struct smtp_model {
	struct buf bytes; /* what the client sends */
	struct buf codes; /* what it has to hear: "250 354 " */
	struct buf mail;  /* what has to be kept: "from>to,to,[body]\n" each */
	bool hello, sender, closed;
	unsigned rcpts, errors;
	struct buf envelope; /* "from>to,to," of the running transaction */
	char who;            /* first letter of the sender */
};

/* The driver has to refuse senders whose local part begins with s (451), recipients with n (550),
 * and of senders with d the DATA (452), with m the message (451). */
void smtp_model_begin(struct smtp_model *m); /* zeroed; expects the greeting */
void smtp_model_command(struct smtp_model *m);
void smtp_model_clear(struct smtp_model *m);

void smtp_model_seed(uint64_t seed);
unsigned smtp_model_pick(unsigned n); /* 0 .. n-1 */
