/* limits: every bound that a peer, a client, a file or another process can reach, by name.
 * "configurable" names the directive that sets a lower or other value; the rest is fixed. */
#pragma once

/* Processes. */
#define WORKERS_MAX        64
#define RECEIVERS_MAX      16
#define SOURCE_IPS_MAX     4096
#define LISTENERS_MAX      64
#define CONNECTIONS_MAX    20000 /* of one worker or receiver; further bounded by RLIMIT_NOFILE */

/* SMTP in (RFC 5321 4.5.3.1). */
#define SMTP_COMMAND_MAX       2048          /* bytes of a command line with CRLF; 512 + extensions */
#define SMTP_LOCAL_PART_MAX    64
#define SMTP_DOMAIN_MAX        255
#define SMTP_PATH_MAX          256           /* <...> with brackets */
#define SMTP_BAD_COMMANDS_MAX  20            /* errors of one session before 421 */
#define SMTP_RCPT_MAX          10000         /* of one message; configurable: max-rcpt-per-message */
#define SMTP_INPUT_MAX         65536         /* bytes read and not yet parsed */
#define SMTP_OUTPUT_MAX        65536         /* replies a client has not read: then reading stops */
#define MESSAGE_BYTES_MAX      (256u << 20)  /* configurable: max-message-size */
#define RECEIVER_MEMORY_MAX    (1024u << 20) /* bodies held by one receiver; then 452 */
#define HEADER_BYTES_MAX       (1u << 20)    /* header section that is scanned */
#define HEADER_LINE_MAX        65536
#define RECEIVED_HOPS_MAX      100           /* configurable: max-message-hops */
#define X_HEADER_VALUE_MAX     256           /* X-Virtual-MTA, X-Job, X-Envid */

/* SMTP out. */
#define REPLY_LINE_MAX     2048
#define REPLY_LINES_MAX    100
#define REPLY_READ_MAX     65536 /* bytes read for one reply */
#define REPLY_KEPT_MAX     512   /* bytes kept of its text */
#define EHLO_KEYWORDS_MAX  100
#define CLAIM_RCPT_MAX     1000  /* recipients of one claim; configurable: max-rcpt-per-transaction */
#define ENTRY_RCPT_MAX     1000  /* recipients of one entry; more make a further entry */

/* DNS. */
#define ROUTE_MX_MAX       20
#define ROUTE_TARGETS_MAX  64 /* addresses over all MX of a route */
#define ROUTE_SLOTS        16384
#define CNAME_DEPTH_MAX    10
#define DNS_INFLIGHT_MAX   200

/* Storage. */
#define SEGMENT_BYTES          (64u << 20) /* less on a small disk (disk.h), so too: */
#define EVENT_FILE_BYTES       (64u << 20)
#define EVENT_LOG_FILES_MAX    256 /* that readers may leave unread; reception stops before */
#ifndef STORE_MAP_BYTES
#define STORE_MAP_BYTES        (64ull << 30)
#endif
#define STORE_OPS_MAX          20000 /* operations of one transaction */
#define ENVELOPE_BYTES_MAX     (8u << 20)
#define EVENT_BYTES_MAX        (16u << 20)   /* a reception with SMTP_RCPT_MAX long addresses */
#define NAME_BYTES_MAX         512

/* Between processes. */
#define RING_ENTRIES           4096       /* power of two */
#define RING_BYTES             (8u << 20) /* payload ring each way */
#define ASK_BYTES_MAX          4096       /* a domain or an smtp-hosts value, with its port */
#define IPC_PAYLOAD_MAX        (2u << 20)
#define OPERATOR_FRAME_MAX     65536
#define OPERATOR_CLIENTS_MAX   64
#define STAT_QUEUE_ROWS        65536
#define STAT_SOURCE_ROWS       4096
#define STAT_LIMIT_ROWS        4096

/* Configuration. */
#define CONF_FILE_BYTES_MAX    (64u << 20)
#define CONF_FILES_MAX         1000
#define CONF_ERRORS_MAX        1000
#define CONF_RULES_BYTES_MAX   (1u << 30) /* compiled */
#define RULES_MAX              10000 /* of all smtp-pattern-lists */
#define RULE_LISTS_MAX         1000
#define RULE_HITS_MAX          32    /* rules that count for one reply: the first of those that match */
#define RULES_PER_LIST_MAX     4000  /* with those of the lists behind it */
#define RULE_CATEGORY_MAX      63    /* bytes: each recipient of an event names one */
#define RETRY_STEPS_MAX        30
