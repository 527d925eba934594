/* rules_category: the classes that shipped rules give to replies, and PowerMTA's names for them in accounting. Pure. */
#pragma once

#include "common/base/str.h"

// clang-format off
/* X(our class, PowerMTA's bounce category) */
#define RULES_CATEGORY_TABLE(X) \
	X("rate-limit-ip",        "policy-related") \
	X("rate-limit-sender",    "policy-related") \
	X("rate-limit-rcpt",      "policy-related") \
	X("too-many-connections", "policy-related") \
	X("session-limit",        "policy-related") \
	X("reputation-deferral",  "spam-related") \
	X("ip-block",             "spam-related") \
	X("domain-block",         "spam-related") \
	X("content-spam",         "spam-related") \
	X("content-virus",        "virus-related") \
	X("content-format",       "content-related") \
	X("message-too-big",      "content-related") \
	X("auth-fail",            "policy-related") \
	X("rdns",                 "policy-related") \
	X("sender-invalid",       "invalid-sender") \
	X("tls-required",         "policy-related") \
	X("unknown-user",         "bad-mailbox") \
	X("inactive-user",        "inactive-mailbox") \
	X("mailbox-full",         "quota-issues") \
	X("bad-domain",           "bad-domain") \
	X("relay-denied",         "relaying-issues") \
	X("policy",               "policy-related") \
	X("greylisting",          "other") \
	X("server-busy",          "other") \
	X("protocol",             "protocol-errors") \
	X("routing",              "routing-errors") \
	X("network",              "bad-connection") \
	X("expired",              "message-expired") \
	X("auth-required",        "policy-related") \
	X("success",              "success")
// clang-format on

/* PowerMTA's name of a rule's category: of ours by the table, of any other word the word itself; "other" of none. */
const char *rules_bounce_category(const char *category);
