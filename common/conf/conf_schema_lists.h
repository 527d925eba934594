/* conf_schema_lists: directives of the smaller blocks, after conf_schema.h. */
#pragma once

// clang-format off
#define CONF_SOURCE_TABLE(B, C, N) \
	C("match", MATCH, "", CONF_REQUIRED, "127.0.0.0/8", "client addresses, or a name that listeners refer to") \
	B(smtp_service, "smtp-service", BOOL, "", "true", NULL, "serve this client; else it is greeted with 521") \
	B(always_allow_relaying, "always-allow-relaying", BOOL, "", "false", NULL, "accept mail to any domain") \
	B(process_x_virtual_mta, "process-x-virtual-mta", BOOL, "", "false", NULL, "the header X-Virtual-MTA chooses the virtual MTA") \
	B(retain_x_virtual_mta, "retain-x-virtual-mta", BOOL, "", "false", NULL, "leave that header in the message") \
	B(allow_empty_x_virtual_mta, "allow-empty-x-virtual-mta", BOOL, "", "false", NULL, "an empty X-Virtual-MTA means none") \
	B(reject_invalid_virtual_mta, "reject-invalid-virtual-mta", BOOL, "", "true", NULL, "refuse mail that names an unknown virtual MTA") \
	B(default_virtual_mta, "default-virtual-mta", VMTA_POOL, "by-smtp-source-ip", NULL, "{default}", "virtual MTA or pool of mail that names none") \
	B(process_x_job, "process-x-job", BOOL, "", "false", NULL, "the header X-Job names the job") \
	B(retain_x_job, "retain-x-job", BOOL, "", "false", NULL, "leave that header in the message") \
	B(jobid_header, "jobid-header", NAME, "", "X-Job", NULL, "another header that names the job") \
	B(process_x_envid, "process-x-envid", BOOL, "", "false", NULL, "the header X-Envid gives the envelope id") \
	B(add_received_header, "add-received-header", BOOL, "", "true", NULL, "put a Received header on top") \
	B(hide_message_source, "hide-message-source", BOOL, "", "false", NULL, "name no client in it") \
	C("add-date-header", BOOL_OR, "override", "false", NULL, "add a Date header where there is none") \
	B(add_message_id_header, "add-message-id-header", BOOL, "", "false", NULL, "add a Message-ID header where there is none") \
	B(max_message_size, "max-message-size", SIZE_U, "1..", "unlimited", NULL, "largest message taken, at most 256M") \
	B(max_message_hops, "max-message-hops", COUNT, "1..1000", "100", NULL, "most Received headers") \
	B(max_rcpt_per_message, "max-rcpt-per-message", COUNT_U, "0..", "0", NULL, "most recipients of a message; 0 and more than 10000 mean 10000") \
	B(smtp_command_timeout_us, "smtp-command-timeout", INTERVAL, "1s..1d", "10m", NULL, "longest wait for a command") \
	B(smtp_data_timeout_us, "smtp-data-timeout", INTERVAL, "1s..1d", "10m", NULL, "longest wait for more of a message") \
	N("always-allow-api-submission", BOOL, "", "false", "the same as allow-mailmerge") \
	N("allow-mailmerge", BOOL, "", "false", "offer mail merge") \
	N("allow-auth", BOOL, "", "true", "offer AUTH") \
	N("require-auth", BOOL, "", "false", "insist on AUTH") \
	N("allow-unencrypted-plain-auth", BOOL, "", "false", "AUTH PLAIN and LOGIN without TLS") \
	N("allow-starttls", BOOL, "", "false", "offer STARTTLS") \
	N("require-starttls-before-auth", BOOL, "", "false", "insist on STARTTLS before AUTH") \
	N("smtp-max-auth-failure-rate", RATE, "", "unlimited", "failed logins before a lock-out") \
	N("add-x-virtual-mta-header", BOOL, "", "false", "write the virtual MTA into the message") \
	N("jobid-prefix", STRING, "", NULL, "put before each job") \
	N("process-x-schedule", BOOL, "", "false", "the header X-Schedule gives windows of delivery") \
	N("retain-x-schedule", BOOL, "", "false", "leave that header in the message") \
	N("process-x-dkim-options", BOOL, "", "false", "the header X-DKIM-Options steers signing") \
	N("retain-x-dkim-options", BOOL, "", "false", "leave that header in the message") \
	N("process-x-dkim-key", BOOL, "", "false", "the header X-DKIM-Key brings a key") \
	N("retain-x-dkim-key", BOOL, "", "false", "leave that header in the message") \
	N("pattern-list", STRING, "", NULL, "rules that choose the virtual MTA") \
	N("rewrite-list", STRING, "", NULL, "rewriting of senders") \
	N("suppression-lists", STRINGS, "", NULL, "recipients that are refused") \
	N("date-header-time", ENUM, "reception|delivery", "reception", "time in an added Date") \
	N("remove-header", STRINGS, "", NULL, "headers removed") \
	N("remove-received-headers", BOOL, "", "false", "remove the client's Received headers") \
	N("bcc", ADDRESS, "", NULL, "address that gets a copy") \
	N("verp-default", BOOL, "", "false", "encode the recipient in the sender") \
	N("accept-invalid-recipients", BOOL, "", "false", "accept and return, rather than refuse") \
	N("auto-qualify-domain", BOOL, "", "true", "append domain-suffix") \
	N("too-many-rcpts-fails-message", BOOL, "", "false", "refuse the message, not the recipients") \
	N("source-group", STRING, "", NULL, "shared inbound connections") \
	N("allow-chunking", BOOL, "", "true", "offer CHUNKING") \
	N("allow-smtputf8", BOOL, "", "true", "offer SMTPUTF8") \
	N("disconnect-on-transient-error", BOOL, "", "false", "hang up rather than answer 4xx") \
	N("suppress-local-dsn", BOOL, "", "false", "no bounce messages for this client's mail") \
	N("dsn-return-default", ENUM, "headers|full|system", "system", "what bounce messages return") \
	N("check-spf-inbound", BOOL, "", "false", "check SPF of received mail") \
	N("check-dkim-inbound", BOOL, "", "false", "check DKIM of received mail") \
	N("check-iprev-inbound", BOOL, "", "false", "check the client's name") \
	N("check-mfrom-inbound", BOOL, "", "false", "check the sender's domain") \
	N("check-spf-inbound-max-void-lookups", COUNT, "0..100", "2", "empty answers allowed in SPF") \
	N("check-spf-inbound-best-guess", STRING, "", NULL, "no longer used") \
	N("trace-spf-check", BOOL, "", "false", "DNS data in the header") \
	N("trace-dkim-check", BOOL, "", "false", "DNS data in the header") \
	N("trace-iprev-check", BOOL, "", "false", "DNS data in the header") \
	N("reject-spf-check-temperror", BOOL, "", "true", "refuse at this outcome") \
	N("reject-spf-check-permerror", BOOL, "", "true", "refuse at this outcome") \
	N("reject-spf-check-fail", BOOL, "", "true", "refuse at this outcome") \
	N("reject-iprev-check-temperror", BOOL, "", "false", "refuse at this outcome") \
	N("reject-iprev-check-permerror", BOOL, "", "false", "refuse at this outcome") \
	N("reject-iprev-check-fail", BOOL, "", "false", "refuse at this outcome") \
	N("log-connections", BOOL, "", "false", "log connections") \
	N("log-commands", BOOL, "", "false", "log commands") \
	N("log-data", BOOL, "", "false", "log messages") \
	N("log-tls", BOOL, "", "false", "log TLS") \
	N("include", STRINGS, "", NULL, "directives from another file") \
	N("broken-auth-clients", BOOL, "", "false", "no longer used")

#define CONF_LISTENER_TLS_ROWS(N) \
	N("tls-certificate", STRING, "", NULL, "our certificate") \
	CONF_TLS_VERSION_ROWS(N, "tls-") \
	N("tls-ciphers", STRING, "", NULL, "OpenSSL's list of ciphers") \
	N("tls-ca-file", PATH, "", NULL, "certificates that clients are checked against") \
	N("tls-tlsv1_3-ciphersuites", STRING, "", NULL, "OpenSSL's list of TLS 1.3 suites") \
	N("tls-dh-key-length", COUNT, "1024..4096", "2048", "length of Diffie-Hellman keys")

#define CONF_SMTP_LISTENER_TABLE(B, C, N) \
	C("address", IP_PORT, "", CONF_REQUIRED, "127.0.0.1:2525", "address and port") \
	C("source", SOURCE, "", NULL, "submission", "rule in sources that clients of this socket get first") \
	N("await-slot", BOOL, "", "false", "hold new connections when full") \
	N("immediate-tls", BOOL, "", "false", "TLS from the first byte") \
	CONF_LISTENER_TLS_ROWS(N)

#define CONF_HTTP_LISTENER_TABLE(B, C, N) \
	N("address", IP_PORT, "", CONF_REQUIRED, "address and port") \
	CONF_LISTENER_TLS_ROWS(N)

#define CONF_VMTA_TABLE(B, C, N) \
	C("name", NAME, "", CONF_REQUIRED, "mta1", "name of the virtual MTA") \
	C("smtp-source-hosts", LIST, "smtp-source-host", NULL, NULL, "its source IPs, in turns") \
	C("smtp-source-host", SOURCE_HOST, "", NULL, "192.0.2.10 out1.example.com", "the same in PowerMTA's form") \
	C("domains", LIST, "domain", NULL, NULL, "settings of its queues; they beat those of its pool and the global ones") \
	B(max_smtp_out, "max-smtp-out", COUNT, "1..20000", NULL, "100", "most connections of all its queues") \
	B(max_msg_rate, "max-smtp-msg-rate", RATE, "", "unlimited", NULL, "attempted recipients of all its queues") \
	B(max_data_volume_rate, "max-smtp-data-volume-rate", VOLUME, "", "unlimited", NULL, "delivered bytes of all its queues") \
	N("smtp-proxy-source-host", STRINGS, "", NULL, "source IPs behind a proxy") \
	N("proxy-protocol", COUNT, "1..2", "1", "version of the proxy protocol") \
	N("use-proxy", STRINGS, "", NULL, "proxies in order of failover") \
	N("host-name", HOST, "", NULL, "our name in HELO") \
	N("domain-key", STRINGS, "", NULL, "\"SELECTOR,DOMAIN,FILE\": signing keys") \
	N("include-headers-from", PATH, "", NULL, "file with headers put behind our Received") \
	N("cold-virtual-mta", VMTAS, "", NULL, "virtual MTAs that are being warmed up") \
	N("auto-cold-virtual-mta", STRINGS, "", NULL, "no longer used") \
	N("rewrite-list", STRING, "", NULL, "rewriting of senders") \
	N("enable-signals", BOOL_OR, "filter|STRING", NULL, "which mail has signals") \
	N("include", STRINGS, "", NULL, "directives from another file")

#define CONF_POOL_TABLE(B, C, N) \
	C("name", NAME, "", CONF_REQUIRED, "pool1", "name of the pool, in one name space with virtual MTAs") \
	C("virtual-mtas", VMTAS, "", CONF_REQUIRED, "[ \"mta1\", \"mta2\" ]", "its members") \
	C("domains", LIST, "domain", NULL, NULL, "settings of the queues of all members; they beat the global ones") \
	B(max_smtp_out, "max-smtp-out", COUNT, "1..20000", NULL, "100", "most connections of all queues of each member that does not say it itself") \
	B(max_msg_rate, "max-smtp-msg-rate", RATE, "", "unlimited", NULL, "the same for attempted recipients") \
	B(max_data_volume_rate, "max-smtp-data-volume-rate", VOLUME, "", "unlimited", NULL, "the same for delivered bytes") \
	N("domain-key", STRINGS, "", NULL, "\"SELECTOR,DOMAIN,FILE\": signing keys") \
	N("include-headers-from", PATH, "", NULL, "file with headers put behind our Received") \
	N("cold-virtual-mta", VMTAS, "", NULL, "virtual MTAs that are being warmed up") \
	N("rewrite-list", STRING, "", NULL, "rewriting of senders") \
	N("enable-signals", BOOL_OR, "filter|STRING", NULL, "which mail has signals") \
	N("include", STRINGS, "", NULL, "directives from another file")

#define CONF_SOURCE_HOST_TABLE(B, C, N) \
	C("ip", IP, "", CONF_REQUIRED, "192.0.2.10", "local address") \
	C("name", HOST, "", NULL, "out1.example.com", "name in HELO; host-name unless given") \
	C("weight", COUNT, "1..1000", "1", NULL, "turns it gets") \
	B(max_msg_rate, "max-msg-rate", RATE, "", "unlimited", NULL, "attempted recipients from this address, all queues") \
	B(max_connect_rate, "max-connect-rate", RATE, "", "unlimited", NULL, "connection attempts from this address, all queues") \
	B(max_smtp_out, "max-smtp-out", COUNT, "1..20000", NULL, "100", "connections from this address, all queues")

#define CONF_MACRO_TABLE(B, C, N) \
	C("name", NAME, "", CONF_REQUIRED, "yahoo", "name of the macro, used as $NAME") \
	C("domains", DOMAINS, "", CONF_REQUIRED, "[ \"yahoo.com\", \"ymail.com\" ]", "what it stands for; may use other macros")

#define CONF_LIMIT_ROWS(B) \
	B(max_msg_rate, "max-msg-rate", RATE, "", "unlimited", NULL, "attempted recipients") \
	B(max_connect_rate, "max-connect-rate", RATE, "", "unlimited", NULL, "connection attempts") \
	B(max_data_volume_rate, "max-data-volume-rate", VOLUME, "", "unlimited", NULL, "delivered bytes") \
	B(max_smtp_out, "max-smtp-out", COUNT, "1..20000", NULL, "100", "connections at once")

#define CONF_PROVIDER_TABLE(B, C, N) \
	C("name", NAME, "", CONF_REQUIRED, "google", "name of the provider") \
	C("mx", MX_PATTERNS, "", CONF_REQUIRED, "[ \"*.google.com\", \"*.googlemail.com\" ]", "its MX hosts, with *.DOMAIN as a wildcard; the first provider that has all MX hosts of a domain's lowest preference is the domain's") \
	CONF_LIMIT_ROWS(B)
#define CONF_JOB_TABLE(B, C, N) \
	C("name", STRING, "", CONF_REQUIRED, "newsletter", "the job") \
	CONF_LIMIT_ROWS(B)
#define CONF_SENDER_TABLE(B, C, N) \
	C("name", HOST, "", CONF_REQUIRED, "news.example.com", "domain of the sender") \
	CONF_LIMIT_ROWS(B)

#define CONF_REPLY_LIST_TABLE(B, C, N) \
	C("name", NAME, "", CONF_REQUIRED, "common", "name that smtp-pattern-list refers to") \
	C("rules", LIST, "rule", NULL, NULL, "its rules, in order; all that match contribute, the earlier one where two contradict") \
	C("then", REPLY_LIST, "", NULL, "shipped", "the list whose rules stand behind its own") \
	N("include", STRINGS, "", NULL, "rules from another file")
#define CONF_RULE_TABLE(B, C, N) \
	C("reply", REGEX, "", CONF_REQUIRED, "/^421 .*too many/", "pattern (PCRE, case-insensitive) searched in the reply on one line: code, enhanced code, text") \
	C("actions", ACTIONS, "", CONF_REQUIRED, "[ \"mode=backoff\" ]", "what happens: mode=backoff, backoff-to-normal-after=T, mode=normal, skip-mx, bounce-queue, bounce-rcpt, disable-source-ip, reenable-after=T, defer-queue, reconnect, reduce-connections, for=T, retry-tls, wait-reply; none: the reply gets a category only") \
	C("after", THRESHOLD, "", NULL, "3/10m", "only at the Nth match in that time, counted once per transaction") \
	C("scope", ENUM, "queue|source-ip|virtual-mta|provider", "queue", NULL, "how far back-off reaches") \
	C("provider", PROVIDER, "", NULL, "google", "only replies of this provider's hosts") \
	C("stage", WORDS, "connect|ehlo|mail|rcpt|data|dot", NULL, "mail,rcpt", "only replies to these: the connection, EHLO, MAIL, RCPT, DATA, the final dot") \
	C("last", BOOL, "", "false", NULL, "of a reply that it matches, no rule behind it is asked") \
	C("dry-run", BOOL, "", "false", NULL, "count only") \
	C("category", STRING, "", NULL, "rate-limit-ip", "class shown and accounted, at most 63 bytes") \
	C("recover", RECOVER, "", NULL, "auto", "how the rate returns after back-off")

#define CONF_ACCT_TABLE(B, C, N) \
	C("path", ACCT_PATH, "", CONF_REQUIRED, "/var/log/sluice/acct.csv", "the file; a date and a number are put into its name") \
	C("records", WORDS, "d|b|t|tq|r|rb|rs|f|delivered|bounced|transient|transient-queue|received|remote-bounced|remote-status|feedback-loop", "d,b", NULL, "kinds of records") \
	C("format", ENUM, "csv|json", "csv", NULL, "comma-separated values or JSON lines") \
	B(max_size_bytes, "max-size", SIZE, "1M..", "250M", NULL, "size at which a new file begins") \
	B(move_to, "move-to", PATH, "", NULL, "/var/log/sluice/done", "directory where finished files go") \
	B(move_interval_us, "move-interval", INTERVAL, "1s..", "1d", NULL, "age at which a file is finished, with move-to") \
	B(iso_times, "iso-times", BOOL, "", "true", NULL, "dates; else Unix seconds") \
	B(user_string, "user-string", STRING, "", NULL, "node1", "text of the field userString") \
	B(world_readable, "world-readable", BOOL, "", "false", NULL, "anyone may read the file") \
	B(sync, "sync", BOOL, "", "false", NULL, "sync after each batch") \
	N("record-fields", STRINGS, "", NULL, "\"TYPE FIELD,FIELD\": columns") \
	N("map-header-to-field", STRINGS, "", NULL, "\"TYPE HEADER FIELD\": a header's text in a column") \
	N("queue-filter", STRINGS, "", NULL, "queues accounted") \
	N("delete-after", INTERVAL_N, "", "8d", "age at which old files are deleted") \
	N("count-moved-records", BOOL, "", "false", "put the number of records into the name") \
	N("privacy-policy", STRING, "", "retain", "what becomes of recipients' local parts") \
	N("retry-interval", INTERVAL, "", "5m", "pause after a failed pipe") \
	N("write-timeout", INTERVAL, "", "1m", "longest wait for a pipe") \
	N("http-webhook-url", STRING, "", NULL, "where batches are posted") \
	N("http-webhook-extra-headers", PATH, "", NULL, "file with headers for those posts") \
	N("http-webhook-certificate", STRING, "", NULL, "our certificate") \
	N("http-webhook-ca-file", PATH, "", NULL, "certificates that the host is checked against") \
	N("http-webhook-max-interval", INTERVAL, "1m..", "5m", "longest time between posts") \
	N("http-webhook-transfer-encoding", ENUM, "gzip", NULL, "compression") \
	N("http-webhook-log-verbose", BOOL, "", "false", "log posts") \
	N("http-webhook-connect-timeout", INTERVAL, "", "5s", "longest wait for the connection") \
	N("http-webhook-io-timeout", INTERVAL, "", "5s", "longest wait for an answer")

#define CONF_SPOOL_TABLE(B, C, N) \
	N("path", PATH, "", CONF_REQUIRED, "the directory") \
	N("delete-file-holders", BOOL, "", "false", "remove empty files") \
	N("deliver-only", BOOL, "", "false", "write nothing new") \
	N("priority", COUNT, "1..100", "1", "the higher is filled first") \
	N("min-free-space", SIZE, "", "0", "room below which reception stops")
#define CONF_SMTP_USER_TABLE(B, C, N) \
	N("name", STRING, "", CONF_REQUIRED, "the user") \
	N("password", STRING, "", NULL, "its password") \
	N("authentication-method", ENUM, "password|system|certificate", "password", "how it proves itself") \
	N("tls-certificate", PATH, "", NULL, "its certificate") \
	N("source", SOURCE, "", NULL, "its rule in sources")
#define CONF_SOURCE_GROUP_TABLE(B, C, N) \
	N("name", NAME, "", CONF_REQUIRED, "the group") \
	N("max-smtp-in", COUNT_U, "1..", "unlimited", "most connections") \
	N("reserved-smtp-in", COUNT, "0..", NULL, "connections kept free for it")
#define CONF_BOUNCE_TABLE(B, C, N) \
	N("deliver-unmatched-email", BOOL, "", "true", "deliver what was not understood") \
	N("deliver-matched-email", BOOL, "", "false", "deliver what was understood") \
	N("deliver-email", BOOL, "", NULL, "no longer used") \
	N("forward-unmatched-to", ADDRESSES, "", NULL, "who gets what was not understood") \
	N("forward-errors-to", ADDRESSES, "", NULL, "who gets what failed") \
	N("address-list", GROUP, "address-list", NULL, "the addresses") \
	N("email-patterns", GROUP, "email-patterns", NULL, "own patterns")
#define CONF_EMAIL_PATTERNS_TABLE(B, C, N) \
	N("body-pattern-file", STRINGS, "", NULL, "files with patterns") \
	N("log-match-info", BOOL, "", "false", "log what matched")
#define CONF_ADDRESSES_TABLE(B, C, N) \
	N("name", NAME, "", NULL, "name of the list") \
	N("address", STRINGS, "", NULL, "addresses, local parts or patterns") \
	N("address-file", STRINGS, "", NULL, "files, one address a line") \
	N("domain", STRINGS, "", NULL, "domains")
#define CONF_PATTERN_LIST_TABLE(B, C, N) \
	N("name", NAME, "", CONF_REQUIRED, "name of the list") \
	N("rules", STRINGS, "", NULL, "\"header NAME /REGEX/ virtual-mta=V\" and so on, in order")
#define CONF_ROLLUP_TABLE(B, C, N) \
	C("mx", ROLLUP, "", NULL, "mx1.example.net example.rollup", "\"MX QUEUE.rollup\" each: domains that have all MX hosts of a queue share it")
#define CONF_DNS_TABLE(B, C, N) \
	N("precached-domains-file", PATH, "", NULL, "domains looked up in advance") \
	N("precached-refresh-interval", INTERVAL, "", "5m", "how often") \
	N("precached-max-domains", COUNT, "0..", "500", "how many")
#define CONF_REWRITE_TABLE(B, C, N) \
	N("name", NAME, "", CONF_REQUIRED, "name of the list") \
	N("mail-from", STRINGS, "", NULL, "\"FROM TO\": senders") \
	N("from-domain", STRINGS, "", NULL, "\"PATTERN DOMAIN\": From headers")
#define CONF_KEYS_TABLE(B, C, N) \
	N("name", NAME, "", CONF_REQUIRED, "name of the list") \
	N("domain-key", STRINGS, "", NULL, "\"SELECTOR,DOMAIN,FILE\": signing keys")
#define CONF_PROXY_TABLE(B, C, N) \
	N("name", NAME, "", CONF_REQUIRED, "name of the proxy") \
	N("server", STRING, "", NULL, "its address and port") \
	N("client", STRINGS, "", NULL, "\"IP[:PORT] HOST\": its addresses") \
	N("protocol-version", COUNT, "1..2", "1", "version of the proxy protocol")
#define CONF_VAULT_TABLE(B, C, N) \
	N("server-url", STRING, "", NULL, "where it is") \
	N("access-token", STRING, "", NULL, "token") \
	N("cache-ttl", INTERVAL, "", "24h", "how long keys are kept")
#define CONF_TRANSMISSIONS_TABLE(B, C, N) \
	N("api-key", STRINGS, "", NULL, "keys") \
	N("log-requests", BOOL, "", "false", "log requests") \
	N("log-data", BOOL, "", "false", "log bodies") \
	N("log-tls", BOOL, "", "false", "log TLS")
#define CONF_SIGNALS_TABLE(B, C, N) \
	N("api-key", STRING, "", NULL, "key") \
	N("upload-url", STRING, "", NULL, "where events go") \
	N("engagement-tracking", BOOL_OR, "sparkpost", "true", "opens and clicks") \
	N("custom-message-id-header", STRING, "", NULL, "header with the message id") \
	N("process-x-sp-subaccount-id", BOOL, "", "false", "the header X-SP-Subaccount-Id") \
	N("retain-x-sp-subaccount-id", BOOL, "", "false", "leave it in the message") \
	N("log-verbose", BOOL, "", "false", "log more") \
	N("min-free-space", SIZE, "", "20M", "room below which nothing is kept") \
	N("privacy-policy", ENUM, "retain|sha1", "retain", "what becomes of recipients")
// clang-format on
