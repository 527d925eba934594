/* conf_schema_global: directives outside of any block, after conf_schema.h. */
#pragma once

// clang-format off
#define CONF_GLOBAL_TABLE(B, R, C, N) \
	C("include", INCLUDE, "", NULL, "[ \"conf.d/*.conf\" ]", "further files, relative to this one, patterns in sorted order") \
	C("host-name", HOSTS, "", NULL, "mta.example.com", "our name in greeting and HELO; the machine's own unless given") \
	R(user, "user", NAME, "", NULL, "sluice", "account to run as when started as root") \
	R(spool, "spool", PATH, "", "/var/spool/sluice", NULL, "directory of queue, segments, event log and claim tables") \
	R(run, "run", PATH, "", "/run/sluice", NULL, "directory of control socket, pid file and shared memory") \
	B(log_file, "log-file", LOG, "", "/var/log/sluice/sluice.log", NULL, "where the log goes: a file, \"stderr\" or \"syslog\"") \
	R(workers, "workers", COUNT, "1..64", "4", NULL, "delivery processes") \
	R(receivers, "receivers", COUNT, "1..16", "1", NULL, "reception processes") \
	C("postmaster", ADDRESSES, "", NULL, "ops@example.com", "who gets notices; postmaster at host-name unless given") \
	C("name-server", NAME_SERVER, "", NULL, "127.0.0.1@53", "DNS resolvers; those of the machine unless given") \
	B(total_max_smtp_out, "total-max-smtp-out", COUNT_U, "1..", "unlimited", NULL, "most outbound connections of all queues together") \
	B(total_max_smtp_in, "total-max-smtp-in", COUNT_U, "1..", "1000", NULL, "most inbound connections") \
	R(compact_after_us, "compact-after", INTERVAL, "0..30d", "10m", NULL, "how long a file of the spool is mostly dead before its queued mail moves together") \
	C("always-allow-relaying", BOOL, "", "false", NULL, "what sources may do unless they say otherwise") \
	C("allow-destinations", CIDRS, "", NULL, "[ \"127.0.0.0/8\" ]", "loopback, private or own addresses that mail may go to all the same") \
	C("smtp-listeners", LIST, "smtp-listener", NULL, NULL, "sockets for SMTP") \
	C("sources", LIST, "source", NULL, NULL, "what clients may do, by address or name") \
	C("smtp-source-hosts", LIST, "smtp-source-host", NULL, NULL, "source IPs of virtual MTAs that name none") \
	C("smtp-source-host", SOURCE_HOST, "", NULL, "192.0.2.10 out1.example.com", "the same in PowerMTA's form") \
	C("virtual-mtas", LIST, "virtual-mta", NULL, NULL, "source IPs with a name, and domain settings for their mail") \
	C("virtual-mta-pools", LIST, "virtual-mta-pool", NULL, NULL, "virtual MTAs that take turns") \
	C("domain-macros", LIST, "domain-macro", NULL, NULL, "names for lists of domains") \
	C("domains", LIST, "domain", NULL, NULL, "settings of queues by recipient domain") \
	C("providers", LIST, "provider", NULL, NULL, "limits over all domains whose MX hosts belong together") \
	C("jobs", LIST, "job", NULL, NULL, "limits by job") \
	C("senders", LIST, "sender", NULL, NULL, "limits by sender domain") \
	C("smtp-pattern-lists", LIST, "smtp-pattern-list", NULL, NULL, "rules for the replies of hosts") \
	C("acct-files", LIST, "acct-file", NULL, NULL, "accounting files") \
	N("http-listeners", LIST, "http-listener", NULL, "sockets for HTTP") \
	N("spools", LIST, "spool", NULL, "spool directories with settings") \
	N("smtp-users", LIST, "smtp-user", NULL, "users for AUTH") \
	N("source-groups", LIST, "source-group", NULL, "inbound connections shared by sources") \
	N("bounce-processor", GROUP, "bounce-processor", NULL, "reads bounces that come back as mail") \
	N("feedback-loop-processor", GROUP, "feedback-loop-processor", NULL, "reads complaints") \
	N("address-lists", LIST, "address-list", NULL, "lists of addresses, also for suppression") \
	N("pattern-lists", LIST, "pattern-list", NULL, "rules that choose a virtual MTA by headers") \
	C("mx-rollup-list", GROUP, "mx-rollup-list", NULL, NULL, "queues made of several domains, by their MX hosts") \
	N("dns", GROUP, "dns", NULL, "domains looked up in advance") \
	N("rewrite-lists", LIST, "rewrite-list", NULL, "rewriting of senders") \
	N("domain-key-lists", LIST, "domain-key-list", NULL, "signing keys with a name") \
	N("proxies", LIST, "proxy", NULL, "proxies for outbound connections") \
	N("vault", GROUP, "vault", NULL, "where keys are kept") \
	N("bounce-category-patterns", STRINGS, "", NULL, "\"/REGEX/ CATEGORY\" each: classes of bounces") \
	N("transmissions-api", GROUP, "transmissions-api", NULL, "injection over HTTP") \
	N("transmissions-api-listeners", LIST, "transmissions-api-listener", NULL, "its sockets") \
	N("signals", GROUP, "signals", NULL, "uploads of events") \
	N("signals-filter", STRINGS, "", NULL, "which mail has signals") \
	N("aliases", STRINGS, "", NULL, "\"ADDRESS TARGET[,TARGET]\" each: forwarding") \
	N("alias", STRINGS, "", NULL, "the same") \
	N("total-max-file", COUNT, "0..", NULL, "threads of file delivery") \
	N("spool-delete-corrupted", BOOL, "", "false", "delete what cannot be read in the spool") \
	N("spool-min-free-space", SIZE, "", "0", "room in the spool below which reception stops") \
	N("spool-max-recipients", COUNT_A, "1..", "auto", "recipients in the spool above which reception stops") \
	N("max-memory-usage-percent", COUNT, "1..100", "90", "memory use above which reception stops") \
	N("run-as-root", BOOL, "", "false", "stay root; use user") \
	N("thread-min-priority", COUNT, "-20..20", "15", "priority of threads") \
	N("thread-max-priority", COUNT, "-20..20", "0", "priority of threads") \
	N("thread-reuse", BOOL, "", "true", "keep finished threads") \
	N("sync-msg-create", BOOL, "", "true", "sync received mail; always done") \
	N("sync-msg-update", BOOL, "", "true", "sync changes; always done") \
	N("host-id", COUNT, "0..", "0", "number of this server in message ids") \
	N("domain-suffix", HOST, "", NULL, "appended to addresses without a domain") \
	N("edns-udp-length", COUNT, "512..4096", NULL, "EDNS payload size") \
	N("smtp-proxy-source-host", STRINGS, "", NULL, "source IPs behind a proxy") \
	N("use-proxy", STRINGS, "", NULL, "proxies in order of failover") \
	N("smtp-listener", STRINGS, "", NULL, "use smtp-listeners") \
	N("smtp-ip", IPS, "", NULL, "use smtp-listeners") \
	N("smtp-port", COUNT, "1..65535", NULL, "use smtp-listeners") \
	N("smtp-await-slot", BOOL, "", "false", "hold new inbound connections when full") \
	N("smtp-server-tls-certificate", STRING, "", NULL, "our certificate for clients") \
	N("smtp-server-tls-ca-file", PATH, "", NULL, "certificates that clients are checked against") \
	CONF_TLS_VERSION_ROWS(N, "smtp-server-tls-") \
	N("smtp-server-tls-ciphers", STRING, "", "HIGH:!ADH:@STRENGTH", "OpenSSL's list of ciphers") \
	N("smtp-server-tls-v1_3-ciphersuites", STRING, "", NULL, "OpenSSL's list of TLS 1.3 suites") \
	N("smtp-server-tls-tlsv1_3-ciphersuites", STRING, "", NULL, "the same") \
	N("smtp-server-tls-dh-key-length", COUNT, "1024..4096", "2048", "length of Diffie-Hellman keys") \
	N("custom-dsn-from-header", STRING, "", NULL, "From of bounce messages") \
	N("dsn-failed-from-template", STRING, "", NULL, "template of bounce messages") \
	N("dsn-failed-subject-template", STRING, "", NULL, "template of bounce messages") \
	N("dsn-failed-body-template-from", PATH, "", NULL, "file with the template of bounce messages") \
	N("mailmerge-expands-undefined-variables", BOOL, "", "true", "undefined variables become empty") \
	N("pmc-acct-min-free-space", SIZE_U, "", "unlimited", "files of the management console") \
	N("track-time-first-attempt", BOOL, "", "false", "account the time of the first attempt") \
	N("volume-audit-api-key", STRING, "", NULL, "volume licences; there are none") \
	N("relay-domain", STRINGS, "", NULL, "recipient domains accepted from anyone") \
	N("relay-address", STRINGS, "", NULL, "recipients accepted from anyone") \
	N("relay-debug", BOOL, "", "false", "refuse relaying by 4xx") \
	N("domain-key", STRINGS, "", NULL, "\"SELECTOR,DOMAIN,FILE\": signing keys") \
	N("invalid-virtual-mta-fallback", VMTA_POOL, "", NULL, "for mail that names an unknown virtual MTA") \
	N("include-headers-from", PATH, "", NULL, "file with headers put behind our Received") \
	N("domain-macro", STRINGS, "", NULL, "use domain-macros") \
	N("reroute-to-virtual-mta", VMTA_POOL, "", NULL, "move all mail there") \
	C("mx-connection-limit", MX_COUNT, "1..20000", NULL, "*.google.com 20", "connections to an MX name from one source IP; each name that matches has its own") \
	C("ip-connection-limit", CIDR_COUNT, "1..20000", NULL, "198.51.100.0/24 10", "connections to one address, from all source IPs") \
	N("pickup", STRINGS, "", NULL, "\"DIR BAD-DIR\": directory watched for mail") \
	N("pickup-remove-dot", BOOL, "", "false", "pickup files are dot-stuffed") \
	N("pickup-retry-interval", INTERVAL, "", NULL, "no longer used") \
	N("dummy-smtp-ip", IPS, "", NULL, "black-hole server; see sluice-sink") \
	N("dummy-smtp-port", COUNT, "0..65535", "0", "black-hole server; see sluice-sink") \
	N("dummy-smtp-await-slot", BOOL, "", "false", "black-hole server; see sluice-sink") \
	N("dummy-smtp-latency", COUNT, "0..", "0", "black-hole server; see sluice-sink") \
	N("dummy-smtp-has-chunking", BOOL, "", "false", "black-hole server; see sluice-sink") \
	N("dummy-smtp-has-pipelining", BOOL, "", "false", "black-hole server; see sluice-sink") \
	N("dummy-smtp-has-verp", BOOL, "", "false", "black-hole server; see sluice-sink") \
	N("dummy-smtp-has-mailmerge", BOOL, "", "false", "black-hole server; see sluice-sink") \
	N("dummy-smtp-update-stats", BOOL, "", "true", "black-hole server; see sluice-sink") \
	N("dummy-smtp-blacklist", PATH, "", NULL, "black-hole server; see sluice-sink") \
	N("dummy-smtp-log-blacklist", BOOL, "", "false", "black-hole server; see sluice-sink") \
	N("dummy-smtp-blacklist-bounce-method", STRING, "", NULL, "black-hole server; see sluice-sink") \
	N("dummy-smtp-blacklist-bounce-percent", COUNT, "0..100", NULL, "black-hole server; see sluice-sink") \
	N("enable-signals", BOOL_OR, "filter|STRING", NULL, "which mail has signals") \
	N("log-rotate", COUNT, "0..1000", "8", "old logs kept") \
	N("log-auto-rotation", BOOL, "", "true", "rotate the log at midnight") \
	N("log-file-world-readable", BOOL, "", "false", "anyone may read the log") \
	N("http-mgmt-port", COUNT, "0..65535", "8080", "use http-listeners") \
	N("http-access", STRINGS, "", NULL, "\"CIDR ROLE\": who may do what over HTTP") \
	N("http-api-key", STRINGS, "", NULL, "keys for HTTP") \
	N("http-csrf-protection", BOOL, "", "true", "no changes by GET") \
	N("http-redirect-to-https", BOOL, "", "true", "send browsers to HTTPS") \
	N("http-strict-transport-security-max-age", COUNT, "0..", "0", "HSTS, seconds") \
	CONF_TLS_VERSION_ROWS(N, "http-tls-") \
	N("http-tls-ciphers", STRING, "", NULL, "OpenSSL's list of ciphers") \
	N("http-tls-tlsv1_3-ciphersuites", STRING, "", NULL, "OpenSSL's list of TLS 1.3 suites") \
	N("http-tls-dh-key-length", COUNT, "1024..4096", "2048", "length of Diffie-Hellman keys") \
	N("http-tls-ca-file", PATH, "", NULL, "certificates that clients are checked against") \
	N("http-log-tls", BOOL, "", "false", "log TLS of HTTP") \
	N("http-log-requests", BOOL, "", "false", "log HTTP requests") \
	N("http-log-data", BOOL, "", "false", "log HTTP bodies") \
	N("http-default-max-items", COUNT, "1..100000", "10", "length of lists") \
	N("http-default-sort-order", ENUM, "rcpt|name|size", "rcpt", "order of lists") \
	N("http-mgmt-source", STRINGS, "", NULL, "no longer used") \
	N("no-http-mgmt-source", BOOL, "", NULL, "no longer used")
// clang-format on
