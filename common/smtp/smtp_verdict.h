/* smtp_verdict: from a reply, or the lack of one, to whom it concerns and what becomes of them.
 *
 *   phase     2xx              4xx                      5xx                      no reply
 *   greeting  -                host, transient          host, by policy          host, transient
 *   EHLO HELO -                host, transient          host, transient          host, transient
 *   MAIL      -                message, transient       message, permanent       connection,
 * transient RCPT      -                recipient, transient     recipient, permanent connection,
 * transient DATA      protocol error   message, transient       message, permanent connection,
 * transient body      protocol error   connection, transient    connection, transient connection,
 * transient dot       DELIVERED        message, transient       message, permanent       message,
 * UNKNOWN
 *
 * 421 is transient everywhere, and of the host or the connection (smtp-421-means-mx-unavailable).
 * A 552 to RCPT after an accepted recipient is a 452 (RFC 5321 4.5.3.1.10). Pure. */
#pragma once

#include <stdbool.h>

#include "common/mail/verdict.h"
#include "common/smtp/smtp_reply.h"

/* The queue's directives, as PowerMTA names them. */
struct smtp_policy {
	bool mx_unavailable_421;         /* smtp-421-means-mx-unavailable */
	bool bounce_5xx_greeting;        /* bounce-upon-5xx-greeting */
	bool invalid_mailbox_553;        /* smtp-553-means-invalid-mailbox */
	bool bounce_transfer_failure;    /* bounce-upon-transfer-failure */
	bool assume_delivery_on_timeout; /* assume-delivery-upon-data-termination-timeout */
	bool ignore_pipelining;          /* ignore-pipelining */
	bool ignore_8bitmime;            /* ignore-8bitmime */
	bool ignore_dsn;                 /* ignore-dsn */
};

/* The verdict of a well-formed reply. `accepted`: RCPTs of this transaction accepted before it. */
struct verdict smtp_verdict(enum verdict_phase phase, const struct smtp_reply *reply, bool accepted,
			    const struct smtp_policy *policy);

/* The verdict when there was none that could be understood: `reason` is not VERDICT_BY_REPLY. */
struct verdict smtp_verdict_failure(enum verdict_phase phase, enum verdict_reason reason,
				    const struct smtp_policy *policy);
