/* smtp_ehlo: what a peer offers in its answer to EHLO (RFC 5321 4.1.1.1), line by line. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/base/str.h"

/* Extensions that we know; the rest is counted and forgotten. */
// clang-format off
#define SMTP_EHLO_TABLE(X)                                                                         \
	X(PIPELINING,          "PIPELINING")          /* RFC 2920 */                               \
	X(SIZE,                "SIZE")                /* RFC 1870 */                               \
	X(8BITMIME,            "8BITMIME")            /* RFC 6152 */                               \
	X(ENHANCEDSTATUSCODES, "ENHANCEDSTATUSCODES") /* RFC 2034 */                               \
	X(CHUNKING,            "CHUNKING")            /* RFC 3030 */                               \
	X(STARTTLS,            "STARTTLS")            /* RFC 3207 */                               \
	X(DSN,                 "DSN")                 /* RFC 3461 */                               \
	X(SMTPUTF8,            "SMTPUTF8")            /* RFC 6531 */                               \
	X(LIMITS,              "LIMITS")              /* RFC 9422 */                               \
	X(AUTH,                "AUTH")                /* RFC 4954 */

#define SMTP_EHLO_AUTH_TABLE(X)                                                                    \
	X(PLAIN,    "PLAIN")                                                                       \
	X(LOGIN,    "LOGIN")                                                                       \
	X(CRAM_MD5, "CRAM-MD5")                                                                    \
	X(SCRAM_SHA_256, "SCRAM-SHA-256")
// clang-format on

#define X(name, text) SMTP_EHLO_NUMBER_##name,
enum smtp_ehlo_number { SMTP_EHLO_TABLE(X) SMTP_EHLO_NUMBERS };
#undef X
#define X(name, text) SMTP_EHLO_##name = 1 << SMTP_EHLO_NUMBER_##name,
enum smtp_ehlo_bit { SMTP_EHLO_TABLE(X) };
#undef X
#define X(name, text) SMTP_EHLO_AUTH_NUMBER_##name,
enum smtp_ehlo_auth_number { SMTP_EHLO_AUTH_TABLE(X) SMTP_EHLO_AUTH_NUMBERS };
#undef X
#define X(name, text) SMTP_EHLO_AUTH_##name = 1 << SMTP_EHLO_AUTH_NUMBER_##name,
enum smtp_ehlo_auth { SMTP_EHLO_AUTH_TABLE(X) };
#undef X

struct smtp_ehlo {
	uint16_t has;        /* enum smtp_ehlo_bit */
	uint8_t auth;        /* enum smtp_ehlo_auth */
	uint8_t keywords;    /* lines looked at, at most EHLO_KEYWORDS_MAX */
	uint32_t rcpt_max;   /* LIMITS RCPTMAX; 0: none given, or nonsense */
	uint32_t mail_max;   /* LIMITS MAILMAX */
	uint32_t domain_max; /* LIMITS RCPTDOMAINMAX */
	uint64_t size;       /* greatest message in bytes; 0: no limit known (RFC 1870 4) */
};

/* Forgets all; zero-initialised is ready too. */
void smtp_ehlo_begin(struct smtp_ehlo *e);

/* One line of the answer after its first (which holds the peer's name), text behind the code. A
 * keyword given twice counts as its first; values that make no sense count as not given. */
void smtp_ehlo_line(struct smtp_ehlo *e, struct slice text);

/* Appends the known keywords with one blank between: accounting's dlvEsmtpAvailable. */
void smtp_ehlo_print(const struct smtp_ehlo *e, struct buf *out);
