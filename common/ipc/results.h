/* results: what became of each recipient of a claim: the bytes in the claim slot and in RESULT.
 * Bounded by CLAIM_RESULT_BYTES for any number of recipients up to CLAIM_RCPT_MAX: a text that equals
 * the one before costs nothing, and when room runs short texts are shortened, never recipients. */
#pragma once

#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/event_log/event.h"

struct result_rcpt {
	uint16_t index;    /* within the entry */
	uint8_t action;    /* enum event_action: DELIVERED BOUNCED DEFERRED UNATTEMPTED */
	uint8_t status[3];
	uint16_t code;     /* SMTP code, 0 when there was no reply */
	uint64_t stamp_boot_us; /* its own grant; 0: the claim's; EVENT_STAMP_NONE: no RCPT was sent */
	struct slice diag; /* "smtp;450 4.2.1 ..." */
	uint64_t rule;     /* key of the configuration's rule that names the reply; 0: none, or one beyond the first
			    * RESULT_RULES_MAX of these results */
};

#define RESULT_RULES_MAX RULE_HITS_MAX

struct results {
	uint32_t flags;    /* enum result_flags (message.h) */
	uint64_t wall_us, boot_us; /* when the last reply was read */
	struct slice dlv_source_ip, dlv_destination_ip, dsn_mta, dlv_esmtp;
	const struct result_rcpt *rcpts;
	size_t n_rcpts;
};

void results_encode(struct buf *out, const struct results *r);
/* Slices point into `s` or *scratch, rcpts into *scratch, which is reset first (one for each decode) and
 * the caller's to clear. 0 or -E_BAD. */
int results_decode(struct results *out, struct slice s, struct buf *scratch);

/* The strings that the worker adds behind the results in RESULT, so that the scheduler need not read
 * the record: envelope fields and the addresses of the results' recipients, in their order. */
struct result_strings {
	struct slice sender, pool, job, envid, src_mta, src_ip, dst_ip, user;
	uint64_t received_wall_us, body_bytes;
	const struct slice *rcpts;
	size_t n_rcpts;
};
/* A string beyond 2048 bytes is cut. */
void result_strings_encode(struct buf *out, const struct result_strings *s);
int result_strings_decode(struct result_strings *out, struct slice s, struct buf *scratch);
