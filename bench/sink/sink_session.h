/* sink_session: one connection to the sink: the SMTP dialogue as its provider's script plays it. */
#pragma once

#include <sys/socket.h>

#include "bench/sink/sink_promise.h"
#include "bench/sink/sink_rules.h"
#include "bench/sink/sink_stats.h"
#include "common/event/loop.h"

/* What the sessions share. Ledger line, per recipient, after the 250 was handed to the kernel:
 *   time_us provider client_ip:port message-key recipient xxh64-of-body bytes sender
 * with `unanswered` in front where the dot came and the connection ended before the 250 was out.
 * Trace line, per answer:    time_us provider client local stage key reply...
 * Connections line, per accept: time_us provider client local */
struct sink_shared {
	struct loop *loop;
	struct sink_log ledger, trace, connections;
	uint64_t script_boot_us; /* when the present script began */
	char read[256u << 10];   /* one for all: nothing stays in it over a turn */
};

struct sink_provider_state {
	struct sink_shared *shared;
	const struct sink_provider *provider;
	struct sink_rules *rules;
	struct sink_stats stats;
};

/* Takes the accepted non-blocking descriptor; frees itself when the connection ends. */
void sink_session_start(struct sink_provider_state *state, int fd, const struct sockaddr *peer,
			const struct sockaddr *local);

/* `address:port`, IPv6 in brackets. */
#define SINK_PEER_BYTES 64
void sink_peer_text(char dst[SINK_PEER_BYTES], const struct sockaddr *sa);
