/* smtp_client_outcome: what became of each recipient of a transaction: verdicts and reply texts. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/str.h"
#include "common/mail/verdict.h"

enum smtp_client_outcome_state {
	SMTP_CLIENT_OUTCOME_OPEN,     /* no RCPT was made for it */
	SMTP_CLIENT_OUTCOME_ASKED,    /* RCPT made, no reply yet */
	SMTP_CLIENT_OUTCOME_ACCEPTED, /* RCPT accepted: shares the message's fate */
	SMTP_CLIENT_OUTCOME_SETTLED,  /* has its verdict */
};

struct smtp_client_outcome {
	struct verdict verdict;
	uint8_t state;
	uint16_t text_n;
	uint32_t text_at;
	uint64_t rule; /* key of the rule that its reply matches; 0: none */
};

struct smtp_client_outcomes {
	struct smtp_client_outcome *rows;
	size_t n, cap;
	struct buf texts;
	uint64_t rule; /* of what is settled now */
};

/* All `n` open; keeps the memory of earlier transactions. */
void smtp_client_outcomes_begin(struct smtp_client_outcomes *o, size_t n);
void smtp_client_outcomes_clear(struct smtp_client_outcomes *o);

/* Gives recipient `i` its verdict; a text equal to the last one kept costs no bytes. */
void smtp_client_outcomes_settle(struct smtp_client_outcomes *o, size_t i, struct verdict v,
				 struct slice text);
/* The same for all recipients that are in `state`; returns how many. */
size_t smtp_client_outcomes_settle_all(struct smtp_client_outcomes *o,
				       enum smtp_client_outcome_state state, struct verdict v,
				       struct slice text);

/* The text of recipient `i`, borrowed until the next change. */
struct slice smtp_client_outcomes_text(const struct smtp_client_outcomes *o, size_t i);
