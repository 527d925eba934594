/* conf: the configuration: read into one snapshot, parsed and checked, asked by typed settings.
 *
 * Life: the master reads all files into a snapshot (conf_snapshot_read), a short-lived child checks
 * it, every process parses the same bytes (conf_parse). Every directive is one row of the schema
 * (conf_schema.h): name, type, range, default, scope, help, reload or restart, built or not. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/str.h"

/* N per window; n == 0 is unlimited. */
struct conf_rate {
	uint64_t n;
	uint64_t window_us;
};

/* What one object of a scope may use; every member unlimited when nothing is said. Message rates count attempted
 * recipients, connect rates attempts, volume rates bytes (n is bytes then), max_smtp_out connections at once. */
struct conf_limits {
	struct conf_rate max_msg_rate, max_connect_rate, max_data_volume_rate;
	uint64_t max_smtp_out; /* N; CONF_UNLIMITED or 0: unlimited */
};

struct conf_intervals {
	unsigned n;
	uint64_t us[RETRY_STEPS_MAX];
};

#define CONF_UNLIMITED UINT64_MAX /* of counts and sizes */
#define CONF_NEVER     UINT64_MAX /* of intervals */

/* What was found wrong (or doubtful); printed one a line as `FILE:LINE: message`. */
struct conf_report {
	struct buf text; /* errors and warnings in order of file and line */
	unsigned n_errors;
	unsigned n_warnings; /* their lines read `FILE:LINE: warning: message` */
};
void conf_report_clear(struct conf_report *r);

/* Reads `path` and what it includes into *snapshot (names and bytes of all files). 0 or -E_*; what
 * went wrong with which file stands in *r. */
int conf_snapshot_read(const char *path, struct buf *snapshot, struct conf_report *r);
/* A snapshot of one text that is no file (a test, the sample); its includes are not read. */
void conf_snapshot_text(struct buf *snapshot, const char *name, struct slice content);

struct conf; /* opaque, immutable after conf_parse() */

/* Parses and checks all of it. 0 with *out owned by the caller, or -E_BAD with r->n_errors > 0. */
int conf_parse(struct slice snapshot, struct conf **out, struct conf_report *r);
/* The same of the snapshot in a sealed memfd, which stays mapped as long as the conf lives. 0 or -E_*. */
int conf_parse_fd(int fd, struct conf **out, struct conf_report *r);
/* A further owner: what is borrowed from it stays until each has called conf_free(). One thread. */
struct conf *conf_hold(const struct conf *c);
void conf_free(struct conf **c);

/* Global settings; strings borrowed from the conf. -------------------------------------------- */
struct conf_global {
	const char *host_name; /* of the machine when not given */
	const char *user;      /* NULL: stay who we are */
	const char *spool;
	const char *run;
	const char *log_file;
	const char *postmaster;
	const char *name_server;         /* "IP" or "IP@PORT" or NULL: /etc/resolv.conf */
	const char *const *name_servers; /* all of them, NULL-terminated */
	unsigned workers;
	unsigned receivers;
	uint64_t total_max_smtp_out; /* CONF_UNLIMITED or N */
	uint64_t total_max_smtp_in;
	uint64_t compact_after_us;
};
const struct conf_global *conf_global(const struct conf *c);

/* A reload cannot change some global settings: those of the running instance (borrowed for good) take the
 * place of what the files say now. Each one that differs from it is told: name, where it stands (NULL, 0: the
 * default), what is in force and what the files want. */
struct conf_kept {
	const char *name;
	const char *file;
	unsigned line;
	char running[128], configured[128];
};
void conf_keep(struct conf *c, const struct conf_global *running,
	       void (*told)(void *arg, const struct conf_kept *kept), void *arg);

/* smtp-listeners; 0.0.0.0:25 when the configuration has none. */
struct conf_listener {
	struct sockaddr_storage addr;
	socklen_t addr_len;
	const char *text;   /* as written */
	const char *source; /* named client rule or NULL */
	const char *file;   /* NULL: the default */
	unsigned line;
};
size_t conf_listeners(const struct conf *c, const struct conf_listener **out);

/* Virtual MTAs and their source IPs. ----------------------------------------------------------- */
/* One local address. Index 0 always exists: the kernel chooses (no smtp-source-hosts at all). */
struct conf_source_ip {
	struct sockaddr_storage addr; /* port 0; family AF_UNSPEC for index 0 */
	socklen_t addr_len;
	const char *text; /* "192.0.2.10"; "" for index 0 */
	struct conf_limits limits; /* over all queues; of the smtp-source-hosts elements that say something: they agree */
};
size_t conf_source_ips(const struct conf *c, const struct conf_source_ip **out);

/* Queues with this virtual MTA in their name hold the notices that we send of ourselves: {default} by another name,
 * for conf_vmta_find() too, whose queues back-off never holds. Not among conf_vmtas(). */
#define CONF_VMTA_NOTIFY "{notify}"

/* One smtp-source-hosts element of a virtual MTA. */
struct conf_vmta_source {
	unsigned source_ip; /* index into conf_source_ips() */
	const char *helo;   /* its `name` */
	unsigned weight;    /* 1 unless given */
};
struct conf_vmta {
	const char *name;   /* "{default}" is number 0 and always there */
	unsigned n_sources; /* at least 1 */
	const struct conf_vmta_source *sources;
	struct conf_limits limits; /* max-smtp-msg-rate, max-smtp-data-volume-rate, max-smtp-out; its own or its pool's */
};
size_t conf_vmtas(const struct conf *c, const struct conf_vmta **out);
/* Number of the virtual MTA, -1 when there is none. Names are compared without case. */
int conf_vmta_find(const struct conf *c, struct slice name);

struct conf_pool {
	const char *name;
	unsigned n_vmtas;
	const unsigned *vmtas; /* numbers */
};
size_t conf_pools(const struct conf *c, const struct conf_pool **out);
int conf_pool_find(const struct conf *c, struct slice name);

/* Scopes beside queues: their limits. `name` without case; NULL when the configuration has no such. -------------- */
struct conf_provider {
	const char *name;
	const char *const *mx; /* host names or "*.DOMAIN", NULL-terminated */
	struct conf_limits limits;
};
size_t conf_providers(const struct conf *c, const struct conf_provider **out);
/* The first provider that has all of these lowest-preference MX hosts, -1: none. */
int conf_provider_find(const struct conf *c, const struct slice *mx, size_t n);
const struct conf_limits *conf_provider_limits(const struct conf *c, struct slice provider);
const struct conf_limits *conf_job_limits(const struct conf *c, struct slice job);
const struct conf_limits *conf_sender_limits(const struct conf *c, struct slice sender_domain);
/* The longest window of any rate in it; 0: there is none. */
uint64_t conf_longest_window(const struct conf *c);
/* mx-connection-limit: connections to this MX name from one source IP; CONF_UNLIMITED or N. */
uint64_t conf_mx_connection_limit(const struct conf *c, struct slice mx);
/* ip-connection-limit: connections to this address; the most specific CIDR decides. */
uint64_t conf_ip_connection_limit(const struct conf *c, const struct sockaddr *destination);

/* Where the mail of a domain is queued: the domain itself, the target of its queue-to, or the rollup queue of
 * its MX hosts. queue-to: NULL when there is none. */
const char *conf_queue_to(const struct conf *c, struct slice domain, struct slice vmta);
/* mx-rollup-list: the rollup queue for a domain whose lowest-preference MX hosts are these; false: none. `reaches`:
 * whether the addresses of these hosts (as in smtp-hosts) are all among those of the domain's; it is asked in the
 * order of the list, for queues of hosts with rollup-by-ip. */
struct conf_rolled {
	const char *queue; /* its domain */
	const char *hosts; /* by_ip: these have the addresses; NULL: those of the domain's that conf_rollup_names() */
	bool by_ip;        /* the queue is one of several: see conf_rollup_ips.h */
};
bool conf_has_rollups(const struct conf *c);
bool conf_rollup(const struct conf *c, struct slice domain, struct slice vmta, const struct slice *mx, size_t n,
		 bool (*reaches)(void *arg, const char *hosts), void *arg, struct conf_rolled *out);
/* Whether some entry of this rollup queue is this MX host, or a pattern for it. */
bool conf_rollup_names(const struct conf *c, struct slice domain, struct slice mx);
/* The names and patterns of its entries, no more than `most`; how many. */
size_t conf_rollup_patterns(const struct conf *c, struct slice domain, struct slice *out, size_t most);

/* The hosts that are named for this rollup queue, in the form of smtp-hosts; NULL: it is none, or they are patterns. */
const char *conf_rollup_hosts(const struct conf *c, struct slice domain);
/* The name of a rollup queue, now or before a reload: NAME.rollup, which is no domain. */
bool conf_is_rollup(struct slice domain);

/* What a client may do (`sources` in the file), merged for its address: the more specific CIDR
 * wins per directive. ------------------------------------------------------------------------- */
struct conf_client {
	bool smtp_service;
	bool always_allow_relaying;
	bool process_x_virtual_mta, retain_x_virtual_mta, allow_empty_x_virtual_mta;
	bool reject_invalid_virtual_mta;
	bool process_x_job, retain_x_job;
	bool process_x_envid;
	bool add_received_header;
	bool hide_message_source;
	bool add_date_header, add_message_id_header;
	const char *default_virtual_mta; /* a virtual MTA or pool, NULL: {default} */
	const char *jobid_header;        /* "X-Job" unless given */
	uint64_t max_message_size;       /* bytes, at most MESSAGE_BYTES_MAX */
	uint64_t max_message_hops;
	uint64_t max_rcpt_per_message; /* at most SMTP_RCPT_MAX */
	uint64_t smtp_command_timeout_us, smtp_data_timeout_us;
};
/* `listener_source`: the listener's named rule or NULL. */
void conf_client(const struct conf *c, const struct sockaddr *peer, const char *listener_source,
		 struct conf_client *out);

/* The settings of one queue (domain × virtual MTA) after precedence. --------------------------- */
struct conf_queue {
	uint64_t max_smtp_out;
	struct conf_rate max_msg_rate, max_connect_rate, max_data_volume_rate;
	struct conf_limits backoff; /* the twins in force during back-off, defaults applied (those are never above normal) */
	struct conf_intervals backoff_retry_after; /* retry_after in back-off, default applied */
	uint64_t backoff_to_normal_after_us;   /* or CONF_NEVER */
	uint64_t reenable_source_ip_after_us;  /* or CONF_NEVER */
	const char *reroute, *backoff_reroute; /* virtual MTA or pool, NULL: none */
	uint64_t backoff_probe_after_us;       /* 0: none */
	bool backoff_to_normal_after_delivery, backoff_upon_all_sources_disabled;
	uint64_t smtp_out_rampup_interval_us;  /* 0: none */
	uint64_t max_errors_per_connection;    /* CONF_UNLIMITED or N */
	unsigned queue_priority;               /* 0..100 */
	bool allow_priority_interruption, allow_priority_interruption_during_transfer;
	bool source_limits; /* some source-ip-... directive is set: conf_queue_source() has something to say */
	uint64_t max_msg_per_connection;   /* CONF_UNLIMITED or N */
	uint64_t max_rcpt_per_transaction; /* 1..CLAIM_RCPT_MAX */
	uint64_t mx_connection_attempts;
	struct conf_intervals retry_after;
	uint64_t retry_recipients_after_us, retry_after_dns_error_us;
	uint64_t bounce_after_us; /* or CONF_NEVER */
	uint64_t connection_idle_timeout_us;
	bool retry_upon_new_mail;
	bool bounce_upon_no_mx, bounce_upon_5xx_greeting;
	bool smtp_421_means_mx_unavailable, smtp_553_means_invalid_mailbox;
	bool ignore_pipelining, ignore_8bitmime;
	bool discard;               /* type = "discard" */
	int rules;                  /* smtp-pattern-list: a number of conf_rule_lists(), -1: none */
	bool learns;                /* recover = "auto", the domain's or of a rule of its list */
	const char *smtp_hosts;     /* NULL: DNS */
	uint16_t default_smtp_port; /* 25 */
	uint64_t connect_timeout_us, smtp_greeting_timeout_us, data_send_timeout_us;
	uint64_t smtp_data_termination_timeout_us, smtp_multiple_line_response_timeout_us;
	uint64_t smtp_command_reply_timeout_us; /* MAIL, RCPT, DATA: RFC 5321 4.5.3.2 */
	const char *const
		*allow_destinations; /* CIDR texts, NULL-terminated; global and domain's */
	/* Mail addresses, NULL-terminated; NULL: nobody is told. */
	const char *const *backoff_notify, *const *source_notify;
};
/* So many lists of those who are told of back-off, or of disabled source IPs, there are at most. */
unsigned conf_notify_lists(const struct conf *c, bool of_sources);
/* `domain` lower case without root dot. Never fails: an unknown vmta gives the global values. */
void conf_queue(const struct conf *c, struct slice domain, struct slice vmta,
		struct conf_queue *out);

/* The source-ip-... limits of a queue for one source IP (index of conf_source_ips()); per directive the first scope and
 * name of the precedence that has a matching CIDR decides, most specific CIDR first. */
void conf_queue_source(const struct conf *c, struct slice domain, struct slice vmta, unsigned source_ip,
		       bool backoff, struct conf_limits *out);

/* A limit that an operator sets over what the file says, until it is taken back. ---------------- */
enum conf_override_scope {
	CONF_OVER_QUEUE, /* all limits of `domains`, also source-ip-... and backoff-... */
	CONF_OVER_SOURCE_IP,
	CONF_OVER_VMTA,
	CONF_OVER_PROVIDER,
	CONF_OVER_JOB,
	CONF_OVER_SENDER,
	CONF_OVER_SCOPES
};
struct conf_override;
/* What the scope is called: "queue", "source-ip", "virtual-mta", "provider", "job", "sender". */
const char *conf_override_scope_name(enum conf_override_scope scope);
/* The value is read as in a file; of a directive per CIDR several with commas between. NULL, and why on one line,
 * when the scope has no such limit or the value is not of it. Needs no configuration. */
struct conf_override *conf_override_new(enum conf_override_scope scope, struct slice directive, struct slice value,
					struct buf *why);
void conf_override_free(struct conf_override **o);
const char *conf_override_name(const struct conf_override *o);  /* the directive */
const char *conf_override_value(const struct conf_override *o); /* as written */
/* The longest window of its rates, 0: it is a count. */
uint64_t conf_override_window(const struct conf_override *o);
/* It is given per CIDR. */
bool conf_override_is_per_source(const struct conf_override *o);
/* Puts it into the limits of its object: of all scopes but queues. */
void conf_override_apply(const struct conf_override *o, struct conf_limits *l);
/* It is per CIDR and has something to say of this address. */
bool conf_override_decides(const struct conf_override *o, const struct conf_source_ip *ip);

/* Overrides of one queue: a later one beats those before it. `origin` is shown as where the value came from. */
struct conf_over {
	const struct conf_override *override;
	const char *origin;
};
struct conf_overs {
	const struct conf_over *v;
	size_t n;
};
/* The same as conf_queue(), conf_queue_source(), conf_show_settings(), with overrides. */
void conf_queue_over(const struct conf *c, struct slice domain, struct slice vmta, struct conf_overs over,
		     struct conf_queue *out);
void conf_queue_source_over(const struct conf *c, struct slice domain, struct slice vmta, unsigned source_ip,
			    bool backoff, struct conf_overs over, struct conf_limits *out);
void conf_show_settings_over(const struct conf *c, struct slice domain, struct slice vmta, struct conf_overs over,
			     struct json *j);

/* Rules for replies: smtp-pattern-lists. ------------------------------------------------------- */
// clang-format off
/* X(action, as written, an interval stands behind it, the action it must stand behind) */
#define CONF_ACTION_TABLE(X) \
	X(BACKOFF,            "mode=backoff",            false, NONE) \
	X(NORMAL,             "mode=normal",             false, NONE) \
	X(TO_NORMAL_AFTER,    "backoff-to-normal-after", true,  BACKOFF) \
	X(SKIP_MX,            "skip-mx",                 false, NONE) \
	X(BOUNCE_QUEUE,       "bounce-queue",            false, NONE) \
	X(BOUNCE_RCPT,        "bounce-rcpt",             false, NONE) \
	X(DISABLE_SOURCE_IP,  "disable-source-ip",       false, NONE) \
	X(REENABLE_AFTER,     "reenable-after",          true,  DISABLE_SOURCE_IP) \
	X(DEFER_QUEUE,        "defer-queue",             false, NONE) \
	X(RECONNECT,          "reconnect",               false, NONE) \
	X(REDUCE_CONNECTIONS, "reduce-connections",      false, NONE) \
	X(FOR,                "for",                     true,  REDUCE_CONNECTIONS) \
	X(RETRY_TLS,          "retry-tls",               false, NONE) \
	X(WAIT_REPLY,         "wait-reply",              false, NONE)
// clang-format on
enum conf_action {
#define X(id, name, timed, partner) CONF_ACTION_##id,
	CONF_ACTION_TABLE(X)
#undef X
		CONF_ACTIONS,
	CONF_ACTION_NONE = CONF_ACTIONS
};

struct conf_actions {
	uint32_t set; /* bits 1 << enum conf_action */
	/* Of the bits TO_NORMAL_AFTER, REENABLE_AFTER and FOR; CONF_NEVER may stand in each. */
	uint64_t backoff_to_normal_after_us, reenable_after_us, for_us;
};
/* As they are written in a file, with ", " between. */
void conf_actions_put(struct buf *out, const struct conf_actions *a);

/* How the rate returns after back-off. */
struct conf_recover {
	bool automatic;	   /* by what the replies say; else in steps: */
	uint64_t every_us; /* the pace */
	unsigned n;
	uint8_t percent[RETRY_STEPS_MAX]; /* rising, 1 to 100 */
};

enum conf_rule_scope {
	CONF_RULE_QUEUE,
	CONF_RULE_SOURCE_IP,
	CONF_RULE_VMTA,
	CONF_RULE_PROVIDER,
	CONF_RULE_SCOPES
};
/* "queue", "source-ip", "virtual-mta", "provider". */
const char *conf_rule_scope_name(enum conf_rule_scope scope);

/* What a rule can say of the stage that a reply came at. */
enum conf_rule_stage {
	CONF_STAGE_CONNECT = 1, /* the greeting */
	CONF_STAGE_EHLO = 2,
	CONF_STAGE_MAIL = 4,
	CONF_STAGE_RCPT = 8,
	CONF_STAGE_DATA = 16,
	CONF_STAGE_DOT = 32, /* the end of the message */
};

struct conf_rule {
	const char *pattern; /* between its slashes */
	struct conf_actions actions;
	struct conf_rate after;     /* fires at the Nth match in the window; n == 0: at each */
	enum conf_rule_scope scope; /* how far back-off reaches, and of what `after` counts */
	int provider;		    /* only its replies; a number of conf_providers(), -1: any */
	unsigned stages;	    /* only replies of these (enum conf_rule_stage); 0: any */
	bool dry_run;		    /* counted only */
	bool last;		    /* of a reply that it matches, no rule behind it is asked */
	const char *category;	    /* or NULL */
	const struct conf_recover *recover; /* NULL: as the domain says */
	const char *list;
	const char *file;
	unsigned line;
	/* Tells it from all others, and is the same after a reload that leaves list, pattern, provider, stages
	 * and category as they were. Of rules that are alike in all of these their order tells. */
	uint64_t key;
};
/* All rules of all lists in the order of the files; a rule's number is its place here. */
size_t conf_rules(const struct conf *c, const struct conf_rule **out);

struct conf_rule_list {
	const char *name;
	bool used; /* some queue may have it, or it stands behind one that some queue may have */
	bool learns; /* a rule of it has recover = "auto" */
	unsigned n, n_own;
	const unsigned *rules; /* numbers, in the order in which they are asked: its own, then those of `then` */
	int then;	       /* the number of that list, -1: none */
};
size_t conf_rule_lists(const struct conf *c, const struct conf_rule_list **out);
int conf_rule_list_find(const struct conf *c, struct slice name); /* -1: there is none */
/* The rule of that key, -1 when this configuration has none. */
int conf_rule_find(const struct conf *c, uint64_t key);
/* "connect", "ehlo", "mail", "rcpt", "data", "dot" as enum conf_rule_stage; 0: no such word. */
unsigned conf_rule_stage(struct slice word);

/* What was compiled of the rules for all processes and stands behind the files in the snapshot; empty when it is not
 * there. Borrowed from the bytes that were parsed. */
struct slice conf_rules_compiled(const struct conf *c);
void conf_snapshot_add_rules(struct buf *snapshot, struct slice compiled);

/* acct-files. --------------------------------------------------------------------------------- */
struct conf_acct_file {
	const char *path;
	bool r, d, b, t, tq, rb, rs, f; /* record types wanted */
	uint64_t max_size_bytes;
	uint64_t move_interval_us;
	const char *move_to; /* or NULL */
	bool iso_times, world_readable, sync, json;
	const char *user_string; /* or NULL */
};
size_t conf_acct_files(const struct conf *c, const struct conf_acct_file **out);

/* All values of a queue with the file and line each came from (or "default"), as
 * [{"name","value","file","line","scope"}]: `sluice show settings D/V`. */
void conf_show_settings(const struct conf *c, struct slice domain, struct slice vmta,
			struct json *j);

/* The value in force of one directive of a queue, or of a global one. False: no such directive. */
struct conf_setting {
	const char *value; /* as written, or the default */
	const char *file;  /* NULL: the default */
	unsigned line;
};
bool conf_setting_find(const struct conf *c, struct slice domain, struct slice vmta,
		       const char *name, struct conf_setting *out);

/* Value and place of a limit by its directive in a scope: "provider", "job", "sender" (name), "virtual-mta" (name; its
 * own or its pool's), "source-ip" (address), "queue-source-ip" (a source-ip-... directive; name "domain/vmta", address
 * `of`; of a back-off twin that says nothing of the address: the normal one), "mx" (name), "destination" (address). What
 * is given per CIDR or MX is the one string that decides, with its line. False: not set. */
bool conf_limit_find(const struct conf *c, const char *scope, struct slice name, struct slice of,
		     const char *directive, struct conf_setting *out);

/* The sample file and the manual page (man(7) source), generated from the schema. */
void conf_print_sample(struct buf *out);
void conf_print_manual(struct buf *out);
