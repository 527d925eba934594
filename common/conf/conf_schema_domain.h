/* conf_schema_domain: directives of one queue (domain × virtual MTA), after conf_schema.h. */
#pragma once

// clang-format off
#define CONF_DKIM_ROWS(N, p) \
	N(p "dkim-sign", BOOL_OR, "if-x-dkim-options-present", "false", "sign the mail of this domain") \
	N(p "dkim-algorithm", ENUM, "rsa-sha256|rsa-sha1", "rsa-sha256", "signing algorithm") \
	N(p "dkim-body-canon", ENUM, "relaxed|simple", "relaxed", "how the body is made canonical") \
	N(p "dkim-headers-canon", ENUM, "relaxed|simple", "relaxed", "how headers are made canonical") \
	N(p "dkim-headers", STRINGS, "", NULL, "header names signed beside the fixed set") \
	N(p "dkim-identity", STRING, "", "sender-or-from", "identity of the signer: address, @domain, sender-or-from, strict-from") \
	N(p "dkim-identity-fallback", STRING, "", NULL, "identity when the first yields no key") \
	N(p "dkim-query-method", STRING, "", NULL, "how verifiers fetch the key") \
	N(p "dkim-expire-after", INTERVAL_N, "", "never", "life of a signature") \
	N(p "dkim-add-timestamp", BOOL, "", "false", "put the time of signing into the signature") \
	N(p "dkim-add-body-limit", BOOL, "", "false", "sign the present length of the body only") \
	N(p "dkim-disallow-adding-headers", STRINGS, "", NULL, "headers that nobody may add after us")

#define CONF_TLS_VERSION_ROWS(N, p) \
	N(p "allow-sslv3", BOOL, "", "false", "permit SSL 3") \
	N(p "allow-tlsv1", BOOL, "", "false", "permit TLS 1.0") \
	N(p "allow-tlsv1_1", BOOL, "", "false", "permit TLS 1.1") \
	N(p "allow-tlsv1_2", BOOL, "", "true", "permit TLS 1.2") \
	N(p "allow-tlsv1_3", BOOL, "", "true", "permit TLS 1.3")

#define CONF_DOMAIN_TABLE(B, C, N) \
	C("name", PATTERN, "", CONF_REQUIRED, "example.com", "which recipient domains: a domain, a pattern, or a $MACRO") \
	C("type", ENUM, "smtp|pipe|file|discard|http-delivery", "smtp", NULL, "how mail is delivered; only smtp and discard are supported yet") \
	\
	B(max_smtp_out, "max-smtp-out", COUNT, "1..20000", "20", NULL, "most connections of a queue at once") \
	B(backoff.max_smtp_out, "backoff-max-smtp-out", COUNT, "1..20000", NULL, "10", "the same in back-off; the smaller of 20 and max-smtp-out unless given") \
	C("source-ip-max-smtp-out", CIDR_COUNT, "1..20000", NULL, "0/0 5", "most connections of a queue from each source IP in the CIDR") \
	C("backoff-source-ip-max-smtp-out", CIDR_COUNT, "1..20000", NULL, "0/0 1", "the same in back-off; the normal value unless given") \
	B(max_msg_rate, "max-msg-rate", RATE, "", "unlimited", NULL, "attempted recipients of a queue in a window of time") \
	B(backoff.max_msg_rate, "backoff-max-msg-rate", RATE, "", NULL, "100/h", "the same in back-off; max-msg-rate unless given") \
	C("source-ip-max-msg-rate", CIDR_RATE, "", NULL, "[ \"192.0.2.0/24 500/h\", \"0/0 1000/h\" ]", "attempted recipients of a queue from each source IP in the CIDR") \
	C("backoff-source-ip-max-msg-rate", CIDR_RATE, "", NULL, "0/0 50/h", "the same in back-off; the normal value unless given") \
	B(max_connect_rate, "max-connect-rate", RATE, "", "unlimited", NULL, "connection attempts of a queue in a window of time") \
	B(backoff.max_connect_rate, "backoff-max-connect-rate", RATE, "", NULL, "10/m", "the same in back-off; max-connect-rate unless given") \
	C("source-ip-max-connect-rate", CIDR_RATE, "", NULL, "0/0 10/m", "connection attempts of a queue from each source IP in the CIDR") \
	C("backoff-source-ip-max-connect-rate", CIDR_RATE, "", NULL, "0/0 1/m", "the same in back-off; the normal value unless given") \
	B(max_data_volume_rate, "max-data-volume-rate", VOLUME, "", "unlimited", NULL, "bytes of delivered bodies of a queue in a window of time") \
	B(backoff.max_data_volume_rate, "backoff-max-data-volume-rate", VOLUME, "", NULL, "10m/h", "the same in back-off; max-data-volume-rate unless given") \
	C("source-ip-max-data-volume-rate", CIDR_VOLUME, "", NULL, "0/0 1g/h", "delivered bytes of a queue from each source IP in the CIDR") \
	C("backoff-source-ip-max-data-volume-rate", CIDR_VOLUME, "", NULL, "0/0 100m/h", "the same in back-off; the normal value unless given") \
	B(smtp_out_rampup_interval_us, "smtp-out-rampup-interval", INTERVAL, "0..1d", "0", NULL, "least time between two new connections of a queue") \
	B(connection_idle_timeout_us, "connection-idle-timeout", INTERVAL, "0..10m", "0", NULL, "how long an idle connection is kept for new mail") \
	B(max_msg_per_connection, "max-msg-per-connection", COUNT_U, "0..", "0", NULL, "messages over one connection; 0 is no limit") \
	B(max_rcpt_per_transaction, "max-rcpt-per-transaction", COUNT, "1..1000", "1000", NULL, "recipients of one MAIL") \
	B(max_errors_per_connection, "max-errors-per-connection", COUNT_U, "1..", "unlimited", NULL, "recipient errors after which a connection is closed") \
	B(mx_connection_attempts, "mx-connection-attempts", COUNT, "1..100", "10", NULL, "connection attempts on the MX hosts of one round") \
	\
	B(retry_after, "retry-after", INTERVALS, "", "10m", NULL, "waits of a queue after failed rounds; the last one repeats") \
	B(backoff_retry_after, "backoff-retry-after", INTERVALS, "", NULL, "1h,2h", "the same in back-off; retry-after but at least 1h unless given") \
	B(retry_recipients_after_us, "retry-recipients-after", INTERVAL, "1s..", "10m", NULL, "wait of a recipient after its temporary refusal") \
	B(retry_after_dns_error_us, "retry-after-dns-error", INTERVAL, "1s..", "1m", NULL, "wait of a queue when DNS gave no answer") \
	B(retry_upon_new_mail, "retry-upon-new-mail", BOOL, "", "false", NULL, "new mail ends the wait of a queue") \
	B(bounce_after_us, "bounce-after", INTERVAL_N, "1s..", "4d12h", NULL, "age at which undelivered mail is returned, counted from reception") \
	B(backoff_to_normal_after_us, "backoff-to-normal-after", INTERVAL_N, "1s..", "never", NULL, "time after which back-off ends") \
	B(backoff_to_normal_after_delivery, "backoff-to-normal-after-delivery", BOOL, "", "false", NULL, "a delivered message ends back-off") \
	C("backoff-notify", ADDRESSES, "", NULL, "ops@example.com", "who is told by mail when back-off begins and ends") \
	B(backoff_reroute, "backoff-reroute-to-virtual-mta", VMTA_POOL, "", NULL, "mta1", "where the mail of the queue goes while back-off lasts") \
	B(backoff_probe_after_us, "backoff-probe-after", INTERVAL, "1s..", NULL, "10m", "while rerouted, send one message per interval from here; a delivered one ends back-off") \
	C("backoff-use-source", IPS, "", NULL, "[ \"192.0.2.10\" ]", "the only source IPs of the virtual MTA used in back-off") \
	C("recover", RECOVER, "", NULL, "auto", "how the rate returns after back-off") \
	B(backoff_upon_all_sources_disabled, "backoff-upon-all-sources-disabled", BOOL, "", "false", NULL, "back-off when the last source IP of the queue was disabled") \
	B(reroute, "reroute-to-virtual-mta", VMTA_POOL, "", NULL, "mta1", "where the mail of the queue goes, but in back-off") \
	B(reenable_source_ip_after_us, "reenable-source-ip-after", INTERVAL_N, "1s..", "never", NULL, "time after which a disabled source IP is used again") \
	C("disabled-source-ip-notify", ADDRESSES, "", NULL, "ops@example.com", "who is told by mail when a source IP is disabled or enabled again") \
	N("log-disabled-ips", BOOL, "", "false", "log disabled source IPs") \
	C("smtp-pattern-list", REPLY_LIST, "", NULL, "common", "rules for the replies of this queue") \
	C("queue-to", QUEUE, "", NULL, "several.queue", "put new mail of this domain into another queue of its virtual MTA; that queue's settings hold for it") \
	C("disable-mx-rollup", BOOL, "", "false", NULL, "never roll this domain up with others") \
	B(queue_priority, "queue-priority", COUNT, "0..100", "50", NULL, "who yields when connections run out; the lower first") \
	B(allow_priority_interruption, "allow-priority-interruption", BOOL, "", "true", NULL, "connections may be taken away by queues of higher priority") \
	B(allow_priority_interruption_during_transfer, "allow-priority-interruption-during-transfer", BOOL, "", "false", NULL, "even in the middle of a message") \
	N("max-cold-virtual-mta-msg", DAILY, "", NULL, "messages a day that go to the cold virtual MTA, by day") \
	\
	B(smtp_hosts, "smtp-hosts", SMTP_HOSTS, "", NULL, "mx1.example.net:25,mx2.example.net;backup.example.net", "hosts that replace DNS; a comma within one preference, a semicolon before the next") \
	B(default_smtp_port, "default-smtp-port", COUNT, "1..65535", "25", NULL, "port of the MX hosts") \
	C("allow-destinations", CIDRS, "", NULL, "[ \"127.0.0.0/8\" ]", "loopback, private or own addresses that mail may go to all the same") \
	C("bounce-upon-no-mx", BOOL_OR, "never|INTERVAL", "false", NULL, "return mail of a domain that has no MX; an interval is not supported yet") \
	B(bounce_upon_5xx_greeting, "bounce-upon-5xx-greeting", BOOL, "", "true", NULL, "a 5xx greeting returns the mail; else the next MX is tried") \
	N("bounce-upon-transfer-failure", BOOL, "", "false", "return mail when the connection breaks in the body") \
	N("bounce-upon-pix-transfer-failure", BOOL, "", "false", "the same for hosts behind a PIX") \
	N("assume-delivery-upon-data-termination-timeout", BOOL, "", "false", "count a final reply that never came as delivered") \
	B(smtp_421_means_mx_unavailable, "smtp-421-means-mx-unavailable", BOOL, "", "false", NULL, "421 closes the connection and goes to the next MX; else RSET") \
	B(smtp_553_means_invalid_mailbox, "smtp-553-means-invalid-mailbox", BOOL, "", "true", NULL, "553 to RCPT without an enhanced code counts as 5.1.1") \
	N("replace-smtp-421-service-response", BOOL, "", "false", "hide the text of a 421 in bounces") \
	N("pix-bug-workaround", BOOL, "", "true", "send the final dot by itself to hosts behind a PIX") \
	B(connect_timeout_us, "connect-timeout", INTERVAL, "1s..1h", "2m", NULL, "longest wait for a connection") \
	B(smtp_greeting_timeout_us, "smtp-greeting-timeout", INTERVAL, "1s..1h", "5m", NULL, "longest wait for the greeting") \
	B(smtp_command_reply_timeout_us, "smtp-command-reply-timeout", INTERVAL, "1s..1h", "5m", NULL, "longest wait for the reply to EHLO, MAIL, RCPT, DATA") \
	B(data_send_timeout_us, "data-send-timeout", INTERVAL, "1s..1h", "3m", NULL, "longest time without progress in the body") \
	B(smtp_data_termination_timeout_us, "smtp-data-termination-timeout", INTERVAL, "1s..1h", "10m", NULL, "longest wait for the reply to the final dot") \
	B(smtp_multiple_line_response_timeout_us, "smtp-multiple-line-response-timeout", INTERVAL, "1s..1h", "5m", NULL, "longest time for all lines of one reply") \
	B(ignore_8bitmime, "ignore-8bitmime", BOOL, "", "false", NULL, "do as if the host did not offer 8BITMIME") \
	N("ignore-chunking", BOOL, "", "false", "do as if the host did not offer CHUNKING") \
	B(ignore_pipelining, "ignore-pipelining", BOOL, "", "false", NULL, "do as if the host did not offer PIPELINING") \
	N("ignore-dsn", BOOL, "", "false", "do as if the host did not offer DSN") \
	N("allow-cancel-during-transfer", BOOL, "", "true", "a stop may cut a body") \
	N("use-starttls", BOOL, "", "true", "encrypt when the host offers it") \
	N("require-starttls", BOOL, "", "false", "send only encrypted") \
	N("use-dane", BOOL, "", "false", "check hosts by TLSA records") \
	N("use-mta-sts", BOOL, "", "false", "check hosts by the policy of their domain") \
	N("reuse-ssl-session", BOOL, "", "false", "resume TLS sessions") \
	CONF_TLS_VERSION_ROWS(N, "smtp-tls-") \
	N("smtp-tls-ciphers", STRING, "", NULL, "OpenSSL's list of ciphers") \
	N("smtp-tls-tlsv1_3-ciphersuites", STRING, "", NULL, "OpenSSL's list of TLS 1.3 suites") \
	N("smtp-tls-ca-file", PATH, "", NULL, "certificates that hosts are checked against") \
	N("smtp-client-certificate", STRING, "", NULL, "our certificate for hosts") \
	N("auth-username", STRING, "", NULL, "user name for AUTH") \
	N("auth-password", STRING, "", NULL, "password for AUTH") \
	N("use-unencrypted-plain-auth", BOOL, "", "false", "AUTH PLAIN and LOGIN without encryption") \
	N("check-spf-outbound", BOOL, "", "false", "deliver only what passes SPF for our source IP") \
	CONF_DKIM_ROWS(N, "") \
	CONF_DKIM_ROWS(N, "second-") \
	N("dk-sign", BOOL, "", "false", "DomainKeys, long gone") \
	N("remove-header", STRINGS, "", NULL, "headers removed at delivery") \
	N("bcc-upon-delivery", ADDRESS, "", NULL, "address that gets a copy of what was delivered") \
	N("dsn-format", ENUM, "standard|plain-text", "standard", "form of bounce messages") \
	N("deliver-local-dsn", BOOL, "", "true", "deliver bounce messages of our own") \
	N("notify-of-delay-every", INTERVAL_N, "", "4h", "delay notices, for NOTIFY=DELAY") \
	N("disable-acct-records", WORDS, "d|b|t|tq", NULL, "accounting records not written for this queue") \
	N("track-recipient-events", BOOL, "", "false", "keep the last recipient events of a queue") \
	N("max-events-recorded", COUNT, "0..1000", "10", "errors kept per queue") \
	N("log-connections", BOOL, "", "false", "log connections") \
	N("log-commands", BOOL, "", "false", "log commands and replies") \
	N("log-data", BOOL, "", "false", "log bodies") \
	N("log-resolution", BOOL, "", "false", "log DNS") \
	N("log-transfer-failures", BOOL, "", "false", "log broken transfers") \
	N("log-tls", BOOL, "", "false", "log TLS") \
	N("log-messages", BOOL, "", "false", "log messages of {bounce}") \
	N("discard-as-bounce", BOOL, "", "false", "account discarded mail as bounced") \
	N("file-format", ENUM, "newfile-plain|newfile-pickup|append-mbox", "newfile-plain", "form of mail delivered to files") \
	N("file-destination", STRING, "", NULL, "where file delivery writes") \
	N("command", STRING, "", NULL, "program of pipe delivery") \
	N("macro-variables-preserve-case", BOOL, "", "false", "keep the case of values in the command") \
	N("http-delivery-url", STRING, "", NULL, "where http-delivery posts") \
	N("http-delivery-extra-headers", PATH, "", NULL, "file with headers for those posts") \
	N("add-x-msys-api-header", BOOL, "", "false", "hand over to SparkPost: add its header") \
	N("sparkpost-sandbox", BOOL, "", "false", "hand over to SparkPost: its sandbox") \
	N("sparkpost-ip-pool", STRING, "", NULL, "hand over to SparkPost: its IP pool") \
	N("include", STRINGS, "", NULL, "directives from another file")
// clang-format on
