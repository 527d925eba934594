/* smtp_verdict: phase, reply and policy in; scope, action and status out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/smtp/smtp_verdict.h"

enum {
	P_421 = 1,      /* smtp-421-means-mx-unavailable */
	P_NO_5XX = 2,   /* bounce-upon-5xx-greeting = false */
	P_NO_553 = 4,   /* smtp-553-means-invalid-mailbox = false */
	P_TRANSFER = 8, /* bounce-upon-transfer-failure */
	P_ASSUME = 16,  /* assume-delivery-upon-data-termination-timeout */
	P_ACCEPTED = 32 /* not a policy: a recipient was accepted before */
};

static struct smtp_policy
policy_of(unsigned flags)
{
	return (struct smtp_policy){
		.mx_unavailable_421 = flags & P_421,
		.bounce_5xx_greeting = !(flags & P_NO_5XX),
		.invalid_mailbox_553 = !(flags & P_NO_553),
		.bounce_transfer_failure = flags & P_TRANSFER,
		.assume_delivery_on_timeout = flags & P_ASSUME,
	};
}

#define AT(phase) VERDICT_AT_##phase
#define S(scope)  VERDICT_##scope
#define A(action) VERDICT_##action

static const struct {
	enum verdict_phase phase;
	const char *reply;
	unsigned flags;
	unsigned scope, action;
	const char *status;
} replies[] = {
	// clang-format off
	{ AT(GREETING), "220 hi", 0, S(HOST), A(DELIVERED), "2.0.0" },
	{ AT(GREETING), "421 busy", 0, S(HOST), A(TRANSIENT), "4.3.2" },
	{ AT(GREETING), "450 busy", 0, S(HOST), A(TRANSIENT), "4.0.0" },
	{ AT(GREETING), "554 no", 0, S(HOST), A(PERMANENT), "5.0.0" },
	{ AT(GREETING), "554 5.7.1 no", 0, S(HOST), A(PERMANENT), "5.7.1" },
	{ AT(GREETING), "554 5.7.1 no", P_NO_5XX, S(HOST), A(TRANSIENT), "4.0.0" },
	{ AT(GREETING), "521 no mail", 0, S(HOST), A(PERMANENT), "5.3.2" },
	{ AT(EHLO), "550 bad name", 0, S(HOST), A(TRANSIENT), "4.0.0" },
	{ AT(EHLO), "450 wait", 0, S(HOST), A(TRANSIENT), "4.0.0" },
	{ AT(MAIL), "250 ok", 0, S(MESSAGE), A(DELIVERED), "2.0.0" },
	{ AT(MAIL), "250 2.1.0 ok", 0, S(MESSAGE), A(DELIVERED), "2.1.0" },
	{ AT(MAIL), "250 5.1.0 rejected", 0, S(MESSAGE), A(DELIVERED), "2.0.0" }, /* the code decides */
	{ AT(MAIL), "451 x", 0, S(MESSAGE), A(TRANSIENT), "4.0.0" },
	{ AT(MAIL), "452 x", 0, S(MESSAGE), A(TRANSIENT), "4.3.1" },
	{ AT(MAIL), "550 x", 0, S(MESSAGE), A(PERMANENT), "5.0.0" },
	{ AT(MAIL), "552 x", 0, S(MESSAGE), A(PERMANENT), "5.3.4" },
	{ AT(MAIL), "421 x", 0, S(CONNECTION), A(TRANSIENT), "4.3.2" },
	{ AT(MAIL), "421 4.7.0 x", P_421, S(HOST), A(TRANSIENT), "4.7.0" },
	{ AT(RCPT), "251 will forward", 0, S(RECIPIENT), A(DELIVERED), "2.0.0" },
	{ AT(RCPT), "450 x", 0, S(RECIPIENT), A(TRANSIENT), "4.2.0" },
	{ AT(RCPT), "452 x", 0, S(RECIPIENT), A(TRANSIENT), "4.5.3" },
	{ AT(RCPT), "455 x", 0, S(RECIPIENT), A(TRANSIENT), "4.0.0" },
	{ AT(RCPT), "550 ok", 0, S(RECIPIENT), A(PERMANENT), "5.1.1" },
	{ AT(RCPT), "550 5.2.1 off", 0, S(RECIPIENT), A(PERMANENT), "5.2.1" },
	{ AT(RCPT), "550 4.2.1 odd", 0, S(RECIPIENT), A(PERMANENT), "5.1.1" },
	{ AT(RCPT), "599 x", 0, S(RECIPIENT), A(PERMANENT), "5.0.0" },
	{ AT(RCPT), "553 x", 0, S(RECIPIENT), A(PERMANENT), "5.1.1" },
	{ AT(RCPT), "553 x", P_NO_553, S(RECIPIENT), A(PERMANENT), "5.1.3" },
	{ AT(RCPT), "553 5.7.1 x", 0, S(RECIPIENT), A(PERMANENT), "5.7.1" },
	{ AT(RCPT), "556 x", 0, S(RECIPIENT), A(PERMANENT), "5.1.10" },
	{ AT(RCPT), "552 too many", P_ACCEPTED, S(RECIPIENT), A(TRANSIENT), "4.5.3" },
	{ AT(RCPT), "552 5.5.3 too many", P_ACCEPTED, S(RECIPIENT), A(TRANSIENT), "4.5.3" },
	{ AT(RCPT), "552 full", 0, S(RECIPIENT), A(PERMANENT), "5.2.2" },
	{ AT(RCPT), "421 bye", 0, S(CONNECTION), A(TRANSIENT), "4.3.2" },
	{ AT(RCPT), "421 bye", P_421, S(HOST), A(TRANSIENT), "4.3.2" },
	{ AT(DATA), "354 go", 0, S(MESSAGE), A(DELIVERED), "2.0.0" },
	{ AT(DATA), "399 go", 0, S(MESSAGE), A(DELIVERED), "2.0.0" },
	{ AT(DATA), "250 ok", 0, S(CONNECTION), A(TRANSIENT), "4.5.0" },
	{ AT(DATA), "451 x", 0, S(MESSAGE), A(TRANSIENT), "4.0.0" },
	{ AT(DATA), "554 x", 0, S(MESSAGE), A(PERMANENT), "5.0.0" },
	{ AT(BODY), "250 ok", 0, S(CONNECTION), A(TRANSIENT), "4.5.0" },
	{ AT(BODY), "554 x", 0, S(CONNECTION), A(TRANSIENT), "4.0.0" },
	{ AT(DOT), "250 ok", 0, S(MESSAGE), A(DELIVERED), "2.0.0" },
	{ AT(DOT), "299 ok", 0, S(MESSAGE), A(DELIVERED), "2.0.0" },
	{ AT(DOT), "250 2.6.0 queued", 0, S(MESSAGE), A(DELIVERED), "2.6.0" },
	{ AT(DOT), "354 what", 0, S(MESSAGE), A(UNKNOWN), "4.5.0" },
	{ AT(DOT), "451 4.7.1 later", 0, S(MESSAGE), A(TRANSIENT), "4.7.1" },
	{ AT(DOT), "421 later", 0, S(CONNECTION), A(TRANSIENT), "4.3.2" },
	{ AT(DOT), "550 5.7.1 spam", 0, S(MESSAGE), A(PERMANENT), "5.7.1" },
	{ AT(DOT), "552 big", 0, S(MESSAGE), A(PERMANENT), "5.3.4" },
	{ AT(MAIL), "354 what", 0, S(CONNECTION), A(TRANSIENT), "4.5.0" },
	{ AT(RCPT), "354 what", 0, S(CONNECTION), A(TRANSIENT), "4.5.0" },
	{ AT(GREETING), "354 what", 0, S(HOST), A(TRANSIENT), "4.5.0" },
	{ AT(RSET), "500 what", 0, S(CONNECTION), A(TRANSIENT), "4.0.0" },
	// clang-format on
};

static struct smtp_reply
reply_of(const char *text)
{
	struct smtp_reply r = { 0 };
	struct buf b = { 0 };
	struct slice line;
	size_t used;

	buf_puts(&b, text);
	buf_puts(&b, "\r\n");
	assert_int_equal(smtp_reply_feed(&r, buf_slice(&b), &used, &line), SMTP_REPLY_DONE);
	buf_clear(&b);
	return r;
}

static void
test_replies(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
		struct smtp_policy policy = policy_of(replies[i].flags);
		struct smtp_reply r = reply_of(replies[i].reply);
		struct verdict v =
			smtp_verdict(replies[i].phase, &r, replies[i].flags & P_ACCEPTED, &policy);
		char status[VERDICT_STATUS_BYTES];

		verdict_status_text(status, v.status);
		if (v.scope != replies[i].scope || v.action != replies[i].action ||
		    strcmp(status, replies[i].status) != 0 || !verdict_valid(&v))
			fail_msg("row %zu %s `%s`: %s %s %s", i,
				 verdict_phase_text(replies[i].phase), replies[i].reply,
				 verdict_scope_text(v.scope), verdict_action_text(v.action),
				 status);
		assert_int_equal(v.code, r.code);
		smtp_reply_clear(&r);
	}
}

#define BY(reason) VERDICT_BY_##reason

static const struct {
	enum verdict_phase phase;
	enum verdict_reason reason;
	unsigned flags;
	unsigned scope, action;
	const char *status;
} failures[] = {
	// clang-format off
	{ AT(CONNECT), BY(REFUSED), 0, S(HOST), A(TRANSIENT), "4.4.1" },
	{ AT(CONNECT), BY(TIMEOUT), 0, S(HOST), A(TRANSIENT), "4.4.2" },
	{ AT(CONNECT), BY(DENIED), 0, S(HOST), A(TRANSIENT), "4.4.4" },
	{ AT(GREETING), BY(LOST), 0, S(HOST), A(TRANSIENT), "4.4.2" },
	{ AT(EHLO), BY(LOOP), 0, S(HOST), A(TRANSIENT), "4.4.6" },
	{ AT(MAIL), BY(LOST), 0, S(CONNECTION), A(TRANSIENT), "4.4.2" },
	{ AT(MAIL), BY(NO_FEATURE), 0, S(MESSAGE), A(PERMANENT), "5.6.3" },
	{ AT(MAIL), BY(TOO_BIG), 0, S(MESSAGE), A(PERMANENT), "5.3.4" },
	{ AT(RCPT), BY(BAD_ADDRESS), 0, S(RECIPIENT), A(PERMANENT), "5.1.3" },
	{ AT(MAIL), BY(STALE), 0, S(MESSAGE), A(UNATTEMPTED), "4.0.0" },
	{ AT(BODY), BY(LOST), 0, S(CONNECTION), A(TRANSIENT), "4.4.2" },
	{ AT(BODY), BY(LOST), P_TRANSFER, S(MESSAGE), A(PERMANENT), "5.4.2" },
	{ AT(BODY), BY(TIMEOUT), P_TRANSFER, S(MESSAGE), A(PERMANENT), "5.4.2" },
	{ AT(BODY), BY(PROTOCOL), P_TRANSFER, S(CONNECTION), A(TRANSIENT), "4.5.0" },
	{ AT(BODY), BY(DAMAGED), 0, S(MESSAGE), A(QUARANTINED), "5.3.0" },
	{ AT(DOT), BY(LOST), 0, S(MESSAGE), A(UNKNOWN), "4.4.2" },
	{ AT(DOT), BY(LOST), P_ASSUME | P_TRANSFER, S(MESSAGE), A(UNKNOWN), "4.4.2" },
	{ AT(DOT), BY(TIMEOUT), 0, S(MESSAGE), A(UNKNOWN), "4.4.2" },
	{ AT(DOT), BY(TIMEOUT), P_ASSUME, S(MESSAGE), A(DELIVERED), "2.0.0" },
	{ AT(DOT), BY(PROTOCOL), P_ASSUME, S(MESSAGE), A(UNKNOWN), "4.5.0" },
	{ AT(DOT), BY(TOO_LONG), P_ASSUME, S(MESSAGE), A(UNKNOWN), "4.4.0" },
	// clang-format on
};

static void
test_failures(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
		struct smtp_policy policy = policy_of(failures[i].flags);
		struct verdict v =
			smtp_verdict_failure(failures[i].phase, failures[i].reason, &policy);
		char status[VERDICT_STATUS_BYTES];

		verdict_status_text(status, v.status);
		if (v.scope != failures[i].scope || v.action != failures[i].action ||
		    strcmp(status, failures[i].status) != 0 || !verdict_valid(&v))
			fail_msg("row %zu: %s %s %s", i, verdict_scope_text(v.scope),
				 verdict_action_text(v.action), status);
	}
}

/* Over all that can come: nothing is delivered but by 2xx to the dot, nothing bounced but by 5xx.
 */
static void
test_every_code(void **state)
{
	(void)state;
	for (unsigned phase = VERDICT_AT_GREETING; phase < VERDICT_PHASES; phase++) {
		for (unsigned flags = 0; flags < 64; flags++) {
			struct smtp_policy policy = policy_of(flags);

			for (unsigned code = 200; code <= 599; code++) {
				struct smtp_reply r = { .code = (uint16_t)code };
				struct verdict v = smtp_verdict((enum verdict_phase)phase, &r,
								flags & P_ACCEPTED, &policy);

				assert_true(verdict_valid(&v));
				if (v.action == VERDICT_DELIVERED)
					assert_int_equal(code / 100, phase == AT(DATA) ? 3 : 2);
				if (v.action == VERDICT_PERMANENT)
					assert_int_equal(code / 100, 5);
				if (v.action == VERDICT_UNKNOWN)
					assert_int_equal(phase, AT(DOT));
				if (code == 421)
					assert_int_equal(v.action, VERDICT_TRANSIENT);
				if (v.action != VERDICT_DELIVERED)
					assert_int_equal(v.status.class,
							 v.action == VERDICT_PERMANENT ? 5 : 4);
			}
		}
	}
}

static void
test_words(void **state)
{
	struct verdict v = { .scope = VERDICT_SCOPES };
	char text[VERDICT_STATUS_BYTES];

	(void)state;
	assert_false(verdict_valid(&v));
	assert_string_equal(verdict_scope_text(99), "?");
	assert_string_equal(verdict_action_text(VERDICT_UNKNOWN), "unknown");
	assert_string_equal(verdict_reason_text(VERDICT_BY_LOST), "connection lost");
	assert_string_equal(verdict_phase_text(VERDICT_AT_DOT), "dot");
	assert_string_equal(verdict_status_text(text, VERDICT_STATUS(5, 999, 999)), "5.999.999");
	assert_string_equal(verdict_status_text(text, VERDICT_STATUS(0, 0, 0)), "");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replies),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_every_code),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
