/* parcel: one accepted message between the final dot and its acknowledgement: the bytes of its
 * record, its place on disk, and who waits for it. */
#pragma once

#include "common/base/ids.h"
#include "common/conf/conf.h"
#include "common/mail/header.h"
#include "common/smtp/smtp_server.h"
#include "receiver/envelope.h"

struct parcel {
	struct parcel *next;
	void *owner; /* the session that waits, NULL when it has gone */
	msg_id_t id;
	struct buf head;  /* record header and envelope */
	struct buf trace; /* header fields that we put in front */
	struct buf body;  /* as it came in; the pieces point into it */
	struct slice pieces[HEADER_PIECES_MAX + 1];
	size_t n_pieces;
	uint64_t total; /* of the record on disk */
	uint64_t padding;
	struct buf news; /* payload of NEW */
	uint16_t n_entries;
	uint32_t segment;
	uint64_t epoch, offset;
	uint64_t since_us;   /* submitted, boot clock */
	bool sent;           /* some scheduler may know of it already */
	/* MESSAGE_SEG_SEAL (epoch, offset = end), MESSAGE_SEG_HELD (epoch): no mail, but told in the
	 * order of NEWs; 0: mail. */
	uint16_t notice;
	bool failed; /* of a SEG_SEAL */
	bool owner_answered; /* negative control only */
};

/* What stays the same from message to message. */
struct parcel_maker {
	const struct conf *conf;
	const char *host_name;
	bool receptions;      /* some accounting file wants them */
	unsigned *pool_turns; /* next member, by pool */
};
void parcel_maker_init(struct parcel_maker *m, const struct conf *conf, unsigned slot);
void parcel_maker_clear(struct parcel_maker *m);

/* One message as its session has it. */
struct parcel_source {
	const struct conf_client *rules;
	/* helo, data. BODY= was the client's word; what the next host must be able to take is told
	 * by the bytes. */
	const struct smtp_server *smtp;
	const char *peer, *local;
	struct envelope *envelope;
	struct buf *body; /* moved into the parcel on success */
	msg_id_t id;
	uint64_t wall_us;
	struct slice owed; /* it is a notification of ours, and tells these; else empty */
};

/* NULL and *out, or the reply that refuses the message (static text). */
const char *parcel_make(struct parcel_maker *m, const struct parcel_source *src,
			struct parcel **out);
/* The record is on disk: its bytes may go. */
void parcel_drop_bytes(struct parcel *p);
void parcel_free(struct parcel *p);

/* A first-in first-out list of parcels. */
struct parcel_list {
	struct parcel *head;
	struct parcel **tail; /* NULL when never used */
};
void parcel_push(struct parcel_list *l, struct parcel *p);
struct parcel *parcel_pop(struct parcel_list *l);
/* Puts all of `from` in front of `l`. */
void parcel_prepend(struct parcel_list *l, struct parcel_list *from);
/* Takes `id` out, NULL when it is not in. Near the head is cheap. */
struct parcel *parcel_take(struct parcel_list *l, msg_id_t id);
