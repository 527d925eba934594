// clang-format off
/* sink_script: the sink's script, a libconfig text: which mailbox providers it plays, and how.
 *
 *   providers = (
 *     { name = "slow";
 *       listen = [ "127.0.0.11:2525", "[::1]:2525" ];   # port 0: any free one
 *       banner = "220 mx.slow.example ESMTP";
 *       features = [ "PIPELINING", "8BITMIME", "SIZE 52428800" ];  # EHLO lines as they are
 *       delay-ms = { connect = 0; ehlo = 0; mail = 0; rcpt = 5; data = 0; dot = 50; rset = 0; quit = 0; };
 *       max-connections = 20;              # 421 beyond
 *       max-messages-per-connection = 100; # 421 at the next MAIL
 *       rules = (
 *         { stage = "rcpt"; percent = 5.0; reply = "450 4.2.1 try later"; },
 *         { stage = "rcpt"; match = "*@a.example"; first-attempts = 1; reply = "451 4.7.1 greylisted"; },
 *         { stage = "rcpt"; limit = 500; window-ms = 60000; by = "client"; reply = "421 4.7.0 too many"; },
 *         { stage = "mail"; client = "127.0.0.2"; from-ms = 5000; until-ms = 9000; reply = "554 5.7.1 blocked"; },
 *         { stage = "dot"; every = 100; action = "close"; }   # taken, never answered
 *       ); } );
 *
 * A rule applies when all that it names holds; the first that applies decides the stage:
 *   stage           connect ehlo mail rcpt data dot rset quit
 *   match           a shell pattern (no case) over the stage's key: client address, EHLO name, sender,
 *                   recipient; at data and dot the first recipient
 *   client          a shell pattern over the client's IP
 *   percent         chance of each attempt; with first-attempts or sticky a fixed share of the keys
 *   every           the n-th, 2n-th, ... time
 *   first-attempts  only the first n times that its key comes
 *   limit, window-ms, by   only beyond `limit` in any window; by = "all" or "client"
 *   from-ms, until-ms      time since the start of the sink or the last change of the script
 * and then: reply (lines parted by \n; CRLF is added), delay-ms, drip-ms (one byte each),
 *   raw = true (the reply's bytes as they are, nothing added), repeat (send them n times),
 *   action = "reply" | "close" | "rst" | "hang"; the last three come after the reply, if there is one. */
// clang-format on
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SINK_STAGES(X) X(connect) X(ehlo) X(mail) X(rcpt) X(data) X(dot) X(rset) X(quit)

enum sink_stage {
#define X(name) SINK_AT_##name,
	SINK_STAGES(X)
#undef X
		SINK_STAGE_COUNT
};

#define SINK_ACTIONS(X) X(reply) X(close) X(rst) X(hang)

enum sink_action {
#define X(name) SINK_DO_##name,
	SINK_ACTIONS(X)
#undef X
		SINK_ACTION_COUNT
};

struct sink_rule {
	enum sink_stage stage;
	enum sink_action action;
	char *match;  /* NULL: any */
	char *client; /* NULL: any */
	char *reply;  /* NULL: none (a bare action), or the stage's usual one (a bare delay) */
	double percent;
	int every, first_attempts;
	int limit, window_ms; /* limit -1: none */
	bool by_client, sticky, raw;
	int from_ms, until_ms; /* until_ms 0: no end */
	int delay_ms, drip_ms, repeat;
};

struct sink_provider {
	char *name, *banner;
	char **listen, **features;
	size_t n_listen, n_features;
	int delay_ms[SINK_STAGE_COUNT];
	int max_connections, max_messages; /* 0: no limit */
	struct sink_rule *rules;
	size_t n_rules;
};

struct sink_script {
	struct sink_provider *providers;
	size_t n;
	struct sink_script
		*before; /* an older one that live sessions still point into; not owned */
};

/* Reads a text. 0, or -E_BAD with a line for people in err[err_bytes]. The caller owns *out. */
int sink_script_parse(struct sink_script **out, const char *text, char *err, size_t err_bytes);
/* Of a file. 0, -E_BAD, or the file's error. */
int sink_script_load(struct sink_script **out, const char *path, char *err, size_t err_bytes);
/* One friendly provider that listens on `listen`. */
struct sink_script *sink_script_plain(char *const *listen, size_t n);
void sink_script_free(struct sink_script **s);

const char *sink_stage_name(enum sink_stage stage);
