/* work: one claim on one connection: the record read and proven, the transaction, its results. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/ipc/message.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/smtp/smtp_client.h"

struct connection;
struct worker;

struct work {
	struct work *next; /* waits for the connection to be ready */
	uint64_t lease, epoch, deadline_boot_us;
	msg_id_t id;
	uint32_t claim_slot, segment, offset16, first_rcpt;
	uint16_t entry_rcpts, attempt;
	uint16_t n_rcpts;  /* to attempt now */
	uint16_t *indexes; /* which of the entry's */
	uint64_t *stamps;  /* when it asks: of those that got their leave, 0 the others; else NULL */
	/* While it runs: */
	struct segment_ref segment_ref;
	struct record record;
	bool pinned, decoded;
	bool asked; /* the scheduler's answer is due */
	uint16_t n_stamped;
	bool stuff;         /* some line of the body begins with a dot */
	bool open_end;      /* the body does not end in CRLF */
	uint64_t body_sent; /* bytes of the body handed to the socket or to the stuffing */
};

/* A copy of what WORK says, or NULL when it makes no sense (bitmap, numbers). */
struct work *work_new(const struct message *m, struct slice bitmap);
void work_free(struct worker *w, struct work **work);

/* The record, checked to its last byte. False: the work was ended here (returned, or reported as
 * damaged) and freed. */
bool work_load(struct connection *c, struct work **work);
/* What the machine is to send; borrows the work. */
struct smtp_client_message work_message(const struct work *work);

/* Writes the outcomes into the claim slot, then tells the scheduler. Frees the work. */
void work_report(struct connection *c, struct work **work);
/* The connection never became ready: OPEN_FAILED. `why`: enum open_failure. */
void work_report_open_failed(struct connection *c, unsigned why, struct verdict v,
			     struct slice text);
/* Hands the lease back unattempted and frees the work. `why`: enum return_why. */
void work_return(struct worker *w, uint32_t connection, struct work **work, unsigned why);
