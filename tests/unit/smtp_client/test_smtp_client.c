/* smtp_client: dialogues, line by line; what the client says is compared byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/smtp/smtp_client.h"

static const char *const two[] = { "one@example.com", "two@example.com" };

struct talk {
	struct smtp_client c;
	struct smtp_policy policy;
	struct smtp_client_message m;
	const char *const *rcpts;
};

static struct slice
rcpt_of(const void *arg, size_t i)
{
	return slice_str(((const struct talk *)arg)->rcpts[i]);
}

static void
talk_init(struct talk *t)
{
	memset(t, 0, sizeof *t);
	t->policy.bounce_5xx_greeting = true;
	t->rcpts = two;
	t->m = (struct smtp_client_message){ .sender = SLICE_LIT("from@example.net"),
					     .body_bytes = 100,
					     .n_rcpts = 2,
					     .rcpt = rcpt_of };
}

static void
talk_begin(struct talk *t)
{
	smtp_client_init(&t->c, &t->policy, SLICE_LIT("mta.example.net"));
}

/* The peer says; the client hears it in one piece. */
static void
says(struct talk *t, const char *text)
{
	smtp_client_feed(&t->c, slice_str(text));
}

/* The client must want to write exactly this, and then has written it. */
#define hears(t, text) hears_at(t, text, __LINE__)
static void
hears_at(struct talk *t, const char *text, int line)
{
	struct slice out = smtp_client_output(&t->c);

	if (!slice_is(out, text))
		fail_msg("line %d: the client says `%.*s`", line, (int)out.n, out.p ? out.p : "");
	smtp_client_wrote(&t->c, out.n);
}

#define wants(t, bits) assert_int_equal(smtp_client_want(&(t)->c), bits)

static void
talk_ready(struct talk *t, const char *ehlo)
{
	talk_begin(t);
	wants(t, SMTP_CLIENT_READ);
	says(t, "220 sink ESMTP\r\n");
	hears(t, "EHLO mta.example.net\r\n");
	says(t, ehlo);
	wants(t, SMTP_CLIENT_MAIL | SMTP_CLIENT_READ);
}

static void
talk_mail(struct talk *t)
{
	t->m.arg = t;
	smtp_client_begin(&t->c, &t->m);
}

/* Recipient `i` ended so. */
#define ended(t, i, action, status, text) ended_at(t, i, VERDICT_##action, status, text, __LINE__)
static void
ended_at(struct talk *t, size_t i, unsigned action, const char *status, const char *text, int line)
{
	const struct smtp_client_outcome *o = &t->c.outcomes.rows[i];
	char s[VERDICT_STATUS_BYTES];

	if (!(smtp_client_want(&t->c) & SMTP_CLIENT_RESULT))
		fail_msg("line %d: no result", line);
	verdict_status_text(s, o->verdict.status);
	if (o->state != SMTP_CLIENT_OUTCOME_SETTLED || o->verdict.action != action ||
	    strcmp(s, status) != 0 || !slice_is(smtp_client_outcomes_text(&t->c.outcomes, i), text))
		fail_msg("line %d: recipient %zu is %s %s `%.*s`", line, i,
			 verdict_action_text(o->verdict.action), s,
			 (int)smtp_client_outcomes_text(&t->c.outcomes, i).n,
			 smtp_client_outcomes_text(&t->c.outcomes, i).p);
}

#define PIPE "250-sink\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 PIPELINING\r\n"

static void
test_pipelined(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, PIPE);
	for (int i = 0; i < 3; i++) {
		talk_mail(&t);
		wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
		/* One write, DATA the last of its group (E01). */
		hears(&t, "MAIL FROM:<from@example.net> SIZE=100\r\nRCPT TO:<one@example.com>\r\n"
			  "RCPT TO:<two@example.com>\r\nDATA\r\n");
		says(&t, "250 2.1.0 ok\r\n250 2.1.5 ok\r\n550 5.1.1 nobody\r\n354 go\r\n");
		wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_BODY);
		smtp_client_body_done(&t.c, true);
		hears(&t, ".\r\n");
		/* Not a word behind the dot before its reply. */
		wants(&t, SMTP_CLIENT_READ);
		says(&t, "250 2.6.0 queued as 1\r\n");
		wants(&t, SMTP_CLIENT_RESULT);
		assert_int_equal(smtp_client_output(&t.c).n, 0);
		ended(&t, 0, DELIVERED, "2.6.0", "250 2.6.0 queued as 1");
		ended(&t, 1, PERMANENT, "5.1.1", "550 5.1.1 nobody");
		assert_false(smtp_client_spent(&t.c));
		smtp_client_taken(&t.c);
		wants(&t, SMTP_CLIENT_MAIL | SMTP_CLIENT_READ);
	}
	smtp_client_quit(&t.c);
	hears(&t, "QUIT\r\n");
	says(&t, "221 bye\r\n");
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.reason, VERDICT_BY_NONE);
	assert_int_equal(t.c.transactions, 3);
	smtp_client_clear(&t.c);
}

static void
test_lockstep(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, "250 sink\r\n");
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net>\r\n"); /* no SIZE was offered */
	says(&t, "250 ok\r\n");
	hears(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "450 4.2.1 later\r\n");
	hears(&t, "RCPT TO:<two@example.com>\r\n");
	says(&t, "251 forwarding\r\n");
	hears(&t, "DATA\r\n");
	says(&t, "354 go\r\n");
	smtp_client_body_done(&t.c, false);
	hears(&t, "\r\n.\r\n");
	says(&t, "250 ok\r\n");
	ended(&t, 0, TRANSIENT, "4.2.1", "450 4.2.1 later");
	ended(&t, 1, DELIVERED, "2.0.0", "250 ok");
	smtp_client_clear(&t.c);
}

static void
test_lockstep_all_refused(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, "250 sink\r\n");
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net>\r\n");
	says(&t, "250 ok\r\n");
	hears(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "550 no\r\n");
	hears(&t, "RCPT TO:<two@example.com>\r\n");
	says(&t, "450 no\r\n");
	ended(&t, 0, PERMANENT, "5.1.1", "550 no"); /* and no DATA */
	ended(&t, 1, TRANSIENT, "4.2.0", "450 no");
	assert_int_equal(smtp_client_output(&t.c).n, 0);
	smtp_client_taken(&t.c);
	hears(&t, "RSET\r\n");
	says(&t, "250 ok\r\n");
	wants(&t, SMTP_CLIENT_MAIL | SMTP_CLIENT_READ);
	/* MAIL refused. */
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net>\r\n");
	says(&t, "550 5.7.1 not you\r\n");
	ended(&t, 0, PERMANENT, "5.7.1", "550 5.7.1 not you");
	ended(&t, 1, PERMANENT, "5.7.1", "550 5.7.1 not you");
	smtp_client_clear(&t.c);
}

/* RFC 2920 3.1: 354 for nobody gets a lone dot, and no belief. */
static void
test_lone_dot(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n550 no\r\n552 5.2.2 full\r\n354 go\r\n");
	wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
	hears(&t, ".\r\n");
	says(&t, "250 queued\r\n");
	ended(&t, 0, PERMANENT, "5.1.1", "550 no");
	ended(&t, 1, PERMANENT, "5.2.2", "552 5.2.2 full"); /* nobody was accepted before */
	smtp_client_taken(&t.c);
	hears(&t, "RSET\r\n");
	says(&t, "250 ok\r\n");
	/* MAIL refused, all else pipelined behind it. */
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "451 4.7.1 later\r\n503 mail?\r\n503 mail?\r\n354 go\r\n");
	hears(&t, ".\r\n");
	says(&t, "250 queued\r\n");
	ended(&t, 0, TRANSIENT, "4.7.1", "451 4.7.1 later");
	ended(&t, 1, TRANSIENT, "4.7.1", "451 4.7.1 later");
	smtp_client_taken(&t.c);
	hears(&t, "RSET\r\n");
	says(&t, "250 ok\r\n");
	/* The same with a sane peer. */
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "451 4.7.1 later\r\n503 mail?\r\n503 mail?\r\n503 rcpt?\r\n");
	ended(&t, 0, TRANSIENT, "4.7.1", "451 4.7.1 later");
	ended(&t, 1, TRANSIENT, "4.7.1", "451 4.7.1 later");
	smtp_client_taken(&t.c);
	hears(&t, "RSET\r\n");
	says(&t, "250 ok\r\n");
	/* And with one that takes recipients without a sender: no dot, it could be a message. */
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "550 5.7.1 no\r\n250 ok?\r\n503 mail?\r\n354 go\r\n");
	assert_int_equal(smtp_client_output(&t.c).n, 0);
	ended(&t, 0, PERMANENT, "5.7.1", "550 5.7.1 no");
	ended(&t, 1, PERMANENT, "5.7.1", "550 5.7.1 no");
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_CLOSE);
	smtp_client_clear(&t.c);
}

/* A peer that answers more than it was asked: until 354 has shown that both count alike, no refusal
 * is believed, for it may have been another recipient's. */
static void
test_out_of_step(void **state)
{
	static const char *const replies[] = {
		"250 ok\r\n250 surplus\r\n550 5.1.1 one\r\n250 two\r\n354 go\r\n",
		"250 ok\r\n250 surplus\r\n250 one\r\n550 5.1.1 two\r\n354 go\r\n",
		"250 ok\r\n550 5.1.1 one\r\n550 5.1.1 two\r\n550 surplus\r\n554 no valid "
		"recipients\r\n",
		"250 ok\r\n550 5.1.1 one\r\nxyzzy\r\n",
	};
	struct talk t;

	(void)state;
	for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
		talk_init(&t);
		talk_ready(&t, PIPE);
		talk_mail(&t);
		smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
		says(&t, replies[i]);
		wants(&t, SMTP_CLIENT_RESULT);
		for (int k = 0; k < 2; k++) {
			assert_int_equal(t.c.outcomes.rows[k].verdict.action, VERDICT_TRANSIENT);
			assert_int_equal(t.c.outcomes.rows[k].verdict.reason, VERDICT_BY_PROTOCOL);
		}
		assert_true(smtp_client_spent(&t.c));
		smtp_client_taken(&t.c);
		wants(&t, SMTP_CLIENT_CLOSE);
		smtp_client_clear(&t.c);
	}
	/* The surplus shows only behind the refused DATA, in the answer to RSET or in none. */
	for (int i = 0; i < 5; i++) {
		static const char *const answers[] = { "354 go\r\n", "554 no valid recipients\r\n",
						       "250 2.0.0 ok\r\n", "421 bye\r\n", NULL };
		bool sane = i >= 2;

		talk_init(&t);
		talk_ready(&t, PIPE);
		talk_mail(&t);
		smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
		says(&t, "250 ok\r\n250 ok\r\n250 ok\r\n550 5.1.1 two\r\n");
		wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
		hears(&t, "RSET\r\n");
		if (answers[i] != NULL)
			says(&t, answers[i]);
		else
			smtp_client_fail(&t.c, VERDICT_BY_LOST);
		wants(&t, SMTP_CLIENT_RESULT);
		for (int k = 0; k < 2; k++)
			assert_int_equal(t.c.outcomes.rows[k].verdict.action,
					 sane ? VERDICT_PERMANENT : VERDICT_TRANSIENT);
		assert_int_equal(smtp_client_spent(&t.c), i != 2);
		smtp_client_taken(&t.c);
		wants(&t, i == 2 ? SMTP_CLIENT_MAIL | SMTP_CLIENT_READ : SMTP_CLIENT_CLOSE);
		smtp_client_clear(&t.c);
	}
	/* Begun before the dot had left: not its answer, though it ends behind it. */
	talk_init(&t);
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n25");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "0 2.0.0 surplus\r\n");
	wants(&t, SMTP_CLIENT_RESULT);
	assert_int_equal(t.c.outcomes.rows[0].verdict.action, VERDICT_UNKNOWN);
	smtp_client_clear(&t.c);
	/* In step up to 354: what comes too much behind the dot changes nothing. */
	talk_init(&t);
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n250 ok\r\n550 5.1.1 two\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 2.0.0 done\r\n250 surplus\r\n");
	ended(&t, 0, DELIVERED, "2.0.0", "250 2.0.0 done");
	ended(&t, 1, PERMANENT, "5.1.1", "550 5.1.1 two");
	assert_true(smtp_client_spent(&t.c));
	smtp_client_clear(&t.c);
}

static void
test_552(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n250 ok\r\n552 5.5.3 too many\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\n");
	ended(&t, 0, DELIVERED, "2.0.0", "250 ok");
	ended(&t, 1, TRANSIENT, "4.5.3", "552 5.5.3 too many");
	smtp_client_clear(&t.c);
}

static void
test_helo(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_begin(&t);
	says(&t, "220-sink\r\n220-more\r\n");
	assert_int_equal(smtp_client_output(&t.c).n, 0); /* C03: the whole greeting first */
	says(&t, "220 done\r\n");
	hears(&t, "EHLO mta.example.net\r\n");
	says(&t, "500-what\r\n500 SIZE 1\r\n");
	hears(&t, "HELO mta.example.net\r\n");
	says(&t, "250-sink\r\n250 PIPELINING\r\n"); /* HELO offers nothing */
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net>\r\n");
	smtp_client_clear(&t.c);

	talk_begin(&t);
	says(&t, "220 x\r\n");
	hears(&t, "EHLO mta.example.net\r\n");
	says(&t, "550 5.7.1 no EHLO for you\r\n");
	hears(&t, "QUIT\r\n");
	assert_int_equal(t.c.end.action, VERDICT_TRANSIENT);
	smtp_client_fail(&t.c, VERDICT_BY_LOST);
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_true(slice_is(smtp_client_end_text(&t.c), "550 5.7.1 no EHLO for you"));
	smtp_client_clear(&t.c);
}

static void
test_refused_greeting(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_begin(&t);
	says(&t, "554-5.7.1 not you\r\n554 5.7.1 nor anyone\r\n");
	hears(&t, "QUIT\r\n");
	assert_int_equal(t.c.end.action, VERDICT_PERMANENT);
	assert_int_equal(t.c.end.scope, VERDICT_HOST);
	assert_int_equal(smtp_client_deadline(&t.c), SMTP_CLIENT_DEADLINE_QUIT);
	says(&t, "221 bye\r\n");
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_true(slice_is(smtp_client_end_text(&t.c), "554 5.7.1 not you nor anyone"));
	smtp_client_clear(&t.c);

	talk_begin(&t);
	says(&t, "421 4.7.0 later\r\n");
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.action, VERDICT_TRANSIENT);
	smtp_client_clear(&t.c);
}

static void
test_own_name(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_begin(&t);
	says(&t, "220 MTA.example.net ESMTP\r\n");
	hears(&t, "EHLO mta.example.net\r\n"); /* asked for, not by default */
	smtp_client_clear(&t.c);

	talk_begin(&t);
	t.c.loop_check = true;
	says(&t, "220 MTA.example.net ESMTP\r\n");
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.reason, VERDICT_BY_LOOP);
	smtp_client_clear(&t.c);

	talk_begin(&t);
	t.c.loop_check = true;
	says(&t, "220 other ESMTP\r\n");
	hears(&t, "EHLO mta.example.net\r\n");
	says(&t, "250-mta.example.net hello\r\n250 SIZE\r\n");
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.reason, VERDICT_BY_LOOP);
	smtp_client_clear(&t.c);
}

/* Messages that this peer cannot take: not a byte is said, and the connection stays. */
static void
test_local_verdicts(void **state)
{
	static const char *const bad[] = { "a b@example.com", "x\r\nRSET@example.com" };
	static const char *const utf8[] = { "\xc3\xa4@example.com", "b@example.com" };
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, "250-sink\r\n250-PIPELINING\r\n250 SIZE 1000\r\n");
	t.m.body_8bit = true;
	talk_mail(&t);
	ended(&t, 0, PERMANENT, "5.6.3", "");
	ended(&t, 1, PERMANENT, "5.6.3", "");
	smtp_client_taken(&t.c);
	t.m.body_8bit = false;
	t.m.body_bytes = 1001;
	talk_mail(&t);
	ended(&t, 0, PERMANENT, "5.3.4", "");
	smtp_client_taken(&t.c);
	t.m.body_bytes = 1000;
	t.rcpts = bad;
	talk_mail(&t);
	ended(&t, 0, PERMANENT, "5.1.3", "");
	ended(&t, 1, PERMANENT, "5.1.3", "");
	smtp_client_taken(&t.c);
	t.rcpts = two;
	t.m.sender = SLICE_LIT("x> SIZE=1\r\nRSET");
	talk_mail(&t);
	ended(&t, 1, PERMANENT, "5.1.7", "");
	smtp_client_taken(&t.c);
	t.m.sender = SLICE_LIT("");
	t.rcpts = utf8;
	talk_mail(&t);
	wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
	/* The one that can be sent is. */
	hears(&t, "MAIL FROM:<> SIZE=1000\r\nRCPT TO:<b@example.com>\r\nDATA\r\n");
	says(&t, "250 ok\r\n250 ok\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\n");
	ended(&t, 0, PERMANENT, "5.6.7", "");
	ended(&t, 1, DELIVERED, "2.0.0", "250 ok");
	smtp_client_clear(&t.c);
}

static void
test_parameters(void **state)
{
	static const char *const utf8[] = { "\xc3\xa4@example.com", "\"a b\"@Example.com" };
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t,
		   "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 0\r\n250 SMTPUTF8\r\n");
	t.m.body_8bit = true;
	t.m.body_bytes = 1ull << 40; /* SIZE 0 is no limit */
	t.rcpts = utf8;
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net> SIZE=1099511627776 BODY=8BITMIME SMTPUTF8\r\n"
		  "RCPT TO:<\xc3\xa4@example.com>\r\nRCPT TO:<\"a b\"@Example.com>\r\nDATA\r\n");
	smtp_client_clear(&t.c);

	t.policy.ignore_8bitmime = t.policy.ignore_pipelining = true;
	t.rcpts = two;
	talk_ready(&t, PIPE);
	talk_mail(&t);
	ended(&t, 0, PERMANENT, "5.6.3", "");
	smtp_client_taken(&t.c);
	t.m.body_8bit = false;
	t.m.body_bytes = 1;
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net> SIZE=1\r\n");
	smtp_client_clear(&t.c);
}

static void
test_limits(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, "250-sink\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1 MAILMAX=1\r\n");
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net>\r\nRCPT TO:<one@example.com>\r\nDATA\r\n");
	says(&t, "250 ok\r\n250 ok\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\n");
	ended(&t, 0, DELIVERED, "2.0.0", "250 ok");
	ended(&t, 1, UNATTEMPTED, "4.0.0", "");
	assert_true(smtp_client_spent(&t.c));
	smtp_client_clear(&t.c);
}

static void
test_421_and_gone(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	/* Without the directive the peer is believed when it stays. */
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n421 4.7.0 slow down\r\n250 ok\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\n");
	ended(&t, 0, TRANSIENT, "4.7.0", "421 4.7.0 slow down");
	ended(&t, 1, DELIVERED, "2.0.0", "250 ok");
	assert_false(smtp_client_spent(&t.c));
	smtp_client_taken(&t.c);
	/* And when it leaves, what it said is the reason, not the mere loss. */
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "421 4.3.2 going down\r\n");
	smtp_client_fail(&t.c, VERDICT_BY_LOST);
	ended(&t, 0, TRANSIENT, "4.3.2", "421 4.3.2 going down");
	ended(&t, 1, TRANSIENT, "4.3.2", "421 4.3.2 going down");
	assert_true(smtp_client_spent(&t.c));
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.code, 421);
	smtp_client_clear(&t.c);

	/* With it: what was under way ends, then nothing more. */
	t.policy.mx_unavailable_421 = true;
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n250 ok\r\n421 4.7.0 slow down\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\n");
	ended(&t, 0, DELIVERED, "2.0.0", "250 ok");
	ended(&t, 1, TRANSIENT, "4.7.0", "421 4.7.0 slow down");
	assert_true(smtp_client_spent(&t.c));
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.scope, VERDICT_HOST);
	assert_true(slice_is(smtp_client_end_text(&t.c), "421 4.7.0 slow down"));
	smtp_client_clear(&t.c);

	/* Without PIPELINING the rest is not even asked. */
	talk_ready(&t, "250 sink\r\n");
	talk_mail(&t);
	hears(&t, "MAIL FROM:<from@example.net>\r\n");
	says(&t, "250 ok\r\n");
	hears(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "421 4.7.0 slow down\r\n");
	ended(&t, 0, TRANSIENT, "4.7.0", "421 4.7.0 slow down");
	ended(&t, 1, UNATTEMPTED, "4.0.0", "");
	smtp_client_clear(&t.c);
}

static void
bounces_421(void *arg, enum verdict_phase phase, const struct smtp_reply *reply,
	    struct smtp_client_ruling *out)
{
	(void)arg;
	(void)phase;
	out->bounce = reply->code == 421;
}

/* A rule that bounces a recipient says nothing of the others, whom the peer left with these words. */
static void
test_421_bounces_one(void **state)
{
	struct talk t;

	(void)state;
	for (int mx_down = 0; mx_down < 2; mx_down++) {
		talk_init(&t);
		t.policy.mx_unavailable_421 = mx_down;
		talk_ready(&t, PIPE);
		smtp_client_listen(&t.c, bounces_421, NULL);
		talk_mail(&t);
		smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
		says(&t, "250 ok\r\n421 4.2.1 closed for good\r\n");
		smtp_client_fail(&t.c, VERDICT_BY_LOST);
		ended(&t, 0, PERMANENT, "4.2.1", "421 4.2.1 closed for good");
		ended(&t, 1, TRANSIENT, "4.2.1", "421 4.2.1 closed for good");
		smtp_client_clear(&t.c);
	}
}

static void
test_idle(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, PIPE);
	assert_int_equal(smtp_client_deadline(&t.c), SMTP_CLIENT_DEADLINE_IDLE);
	says(&t, "421 4.4.2 idle too long\r\n");
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.code, 421);
	smtp_client_clear(&t.c);

	talk_ready(&t, PIPE);
	smtp_client_fail(&t.c, VERDICT_BY_LOST);
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.phase, VERDICT_AT_NONE);
	smtp_client_clear(&t.c);

	/* Garbage behind a good reply to the dot: delivered stays delivered, and that was the last.
	 */
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	says(&t, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\nwhat?\r\n");
	ended(&t, 0, DELIVERED, "2.0.0", "250 ok");
	assert_true(smtp_client_spent(&t.c));
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_CLOSE);
	assert_int_equal(t.c.end.reason, VERDICT_BY_PROTOCOL);
	smtp_client_clear(&t.c);
}

/* The dot decides by its last byte: before it nothing was sent, after it nobody knows. */
static void
test_dot_written_or_not(void **state)
{
	(void)state;
	for (size_t n = 0; n <= 3; n++) {
		struct talk t;

		talk_init(&t);
		talk_ready(&t, PIPE);
		talk_mail(&t);
		smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
		says(&t, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
		smtp_client_body_done(&t.c, true);
		smtp_client_wrote(&t.c, n);
		smtp_client_fail(&t.c, VERDICT_BY_LOST);
		if (n < 3)
			ended(&t, 0, TRANSIENT, "4.4.2", "");
		else
			ended(&t, 0, UNKNOWN, "4.4.2", "");
		assert_int_equal(t.c.end.phase, n < 3 ? VERDICT_AT_BODY : VERDICT_AT_DOT);
		smtp_client_clear(&t.c);
	}
}

static void
test_timeouts(void **state)
{
	struct talk t;

	(void)state;
	for (int assume = 0; assume < 2; assume++) {
		talk_init(&t);
		t.policy.assume_delivery_on_timeout = assume;
		talk_ready(&t, PIPE);
		talk_mail(&t);
		assert_int_equal(smtp_client_deadline(&t.c), SMTP_CLIENT_DEADLINE_COMMAND);
		smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
		says(&t, "250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n");
		assert_int_equal(smtp_client_deadline(&t.c), SMTP_CLIENT_DEADLINE_BODY);
		smtp_client_body_done(&t.c, true);
		assert_int_equal(smtp_client_deadline(&t.c), SMTP_CLIENT_DEADLINE_DOT);
		hears(&t, ".\r\n");
		says(&t, "250-almo");
		smtp_client_fail(&t.c, VERDICT_BY_TIMEOUT);
		if (assume)
			ended(&t, 0, DELIVERED, "2.0.0", "");
		else
			ended(&t, 0, UNKNOWN, "4.4.2", "");
		ended(&t, 1, PERMANENT, "5.1.1", "550 no");
		smtp_client_clear(&t.c);
	}
}

/* RFC 2920: the peer's replies are read while commands are still being written (E03), and a reply
 * that overtakes its command is none. */
static void
test_read_while_writing(void **state)
{
	static const char mail[] = "MAIL FROM:<from@example.net> SIZE=100\r\n";
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, sizeof mail - 1);
	says(&t, "250 ok\r\n");
	wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
	smtp_client_wrote(&t.c, 10); /* a part of the first RCPT */
	says(&t, "250 ok\r\n");
	ended(&t, 0, TRANSIENT, "4.5.0", "250 ok");
	assert_int_equal(t.c.outcomes.rows[0].verdict.reason, VERDICT_BY_PROTOCOL);
	smtp_client_clear(&t.c);

	/* Lost in the middle: who was asked bears it, who was not is as before. */
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, sizeof mail - 1 + sizeof "RCPT TO:<one@example.com>\r\n" - 1);
	says(&t, "250 ok\r\n");
	smtp_client_fail(&t.c, VERDICT_BY_LOST);
	ended(&t, 0, TRANSIENT, "4.4.2", "");
	ended(&t, 1, UNATTEMPTED, "4.0.0", "");
	smtp_client_clear(&t.c);
}

static const char *many[1000];

static void
test_thousand_recipients(void **state)
{
	struct talk t;
	struct buf in = { 0 };
	size_t delivered = 0;

	(void)state;
	for (size_t i = 0; i < 1000; i++)
		many[i] = "someone@example.com";
	talk_init(&t);
	t.rcpts = many;
	t.m.n_rcpts = 1000;
	talk_ready(&t, PIPE);
	talk_mail(&t);
	smtp_client_wrote(&t.c, smtp_client_output(&t.c).n);
	buf_puts(&in, "250 ok\r\n");
	for (size_t i = 0; i < 1000; i++)
		buf_printf(&in,
			   i % 100 == 99 ? "250 ok\r\n" : "550 5.1.1 no such user number %zu\r\n",
			   i);
	buf_puts(&in, "354 go\r\n");
	/* In pieces of a prime number of bytes. */
	for (size_t at = 0; at < in.len; at += 97)
		smtp_client_feed(&t.c, slice_of(in.data + at, in.len - at < 97 ? in.len - at : 97));
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 ok\r\n");
	for (size_t i = 0; i < 1000; i++) {
		char text[64];

		snprintf(text, sizeof text, "550 5.1.1 no such user number %zu", i);
		if (i % 100 == 99)
			delivered += t.c.outcomes.rows[i].verdict.action == VERDICT_DELIVERED;
		else
			ended(&t, i, PERMANENT, "5.1.1", text);
	}
	assert_int_equal(delivered, 10);
	buf_clear(&in);
	smtp_client_clear(&t.c);
}

static void
test_pix(void **state)
{
	struct talk t;

	(void)state;
	talk_init(&t);
	talk_begin(&t);
	says(&t, "220 ************************\r\n");
	assert_true(t.c.pix);
	smtp_client_clear(&t.c);
	talk_begin(&t);
	says(&t, "220 *** sink ***\r\n");
	assert_false(t.c.pix);
	smtp_client_clear(&t.c);
}

static const char *const four[] = { "one@example.com", "two@example.com", "three@example.com",
				    "four@example.com" };

/* Without PIPELINING, MAIL accepted: the machine asks for the first recipient. */
static void
talk_asks(struct talk *t)
{
	talk_init(t);
	t->rcpts = four;
	t->m.n_rcpts = 4;
	t->m.ask = true;
	talk_ready(t, "250 sink\r\n");
	talk_mail(t);
	wants(t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
	assert_false(smtp_client_has_said(&t->c));
	hears(t, "MAIL FROM:<from@example.net>\r\n");
	assert_true(smtp_client_has_said(&t->c));
	wants(t, SMTP_CLIENT_READ);
	says(t, "250 ok\r\n");
	wants(t, SMTP_CLIENT_READ | SMTP_CLIENT_MAY);
	assert_int_equal(t->c.ask_rcpt, 0);
	assert_int_equal(smtp_client_deadline(&t->c), SMTP_CLIENT_DEADLINE_ASK);
	assert_int_equal(smtp_client_output(&t->c).n, 0);
}

static void
may(struct talk *t, const char *rcpt)
{
	smtp_client_may(&t->c, true);
	wants(t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
	hears(t, rcpt);
	wants(t, SMTP_CLIENT_READ);
}

static void
test_asks_for_each(void **state)
{
	struct talk t;

	(void)state;
	talk_asks(&t);
	may(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "250 ok\r\n");
	wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_MAY);
	may(&t, "RCPT TO:<two@example.com>\r\n");
	says(&t, "550 5.1.1 nobody\r\n");
	assert_int_equal(t.c.ask_rcpt, 2);
	/* Refused: those behind it are not even asked for. */
	smtp_client_may(&t.c, false);
	hears(&t, "DATA\r\n");
	says(&t, "354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 2.6.0 taken\r\n");
	ended(&t, 0, DELIVERED, "2.6.0", "250 2.6.0 taken");
	ended(&t, 1, PERMANENT, "5.1.1", "550 5.1.1 nobody");
	ended(&t, 2, UNATTEMPTED, "4.0.0", "");
	ended(&t, 3, UNATTEMPTED, "4.0.0", "");
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_MAIL | SMTP_CLIENT_READ);
	smtp_client_clear(&t.c);
}

static void
test_asks_in_vain(void **state)
{
	struct talk t;

	(void)state;
	talk_asks(&t);
	smtp_client_may(&t.c, false);
	for (size_t i = 0; i < 4; i++)
		ended(&t, i, UNATTEMPTED, "4.0.0", "");
	smtp_client_taken(&t.c);
	hears(&t, "RSET\r\n");
	says(&t, "250 ok\r\n");
	wants(&t, SMTP_CLIENT_MAIL | SMTP_CLIENT_READ);
	smtp_client_clear(&t.c);
	/* The first is refused by the peer, the next by our own side. */
	talk_asks(&t);
	may(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "450 4.2.1 later\r\n");
	smtp_client_may(&t.c, false);
	ended(&t, 0, TRANSIENT, "4.2.1", "450 4.2.1 later");
	ended(&t, 1, UNATTEMPTED, "4.0.0", "");
	smtp_client_taken(&t.c);
	hears(&t, "RSET\r\n");
	smtp_client_clear(&t.c);
}

/* The leave came, and its time ran out before a byte of the RCPT left. */
static void
test_asked_too_late(void **state)
{
	struct talk t;

	(void)state;
	talk_asks(&t);
	may(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "250 ok\r\n");
	smtp_client_may(&t.c, true);
	assert_false(smtp_client_has_said(&t.c));
	smtp_client_may(&t.c, false);
	hears(&t, "DATA\r\n");
	says(&t, "354 go\r\n");
	smtp_client_body_done(&t.c, true);
	hears(&t, ".\r\n");
	says(&t, "250 2.6.0 taken\r\n");
	ended(&t, 0, DELIVERED, "2.6.0", "250 2.6.0 taken");
	ended(&t, 1, UNATTEMPTED, "4.0.0", "");
	ended(&t, 3, UNATTEMPTED, "4.0.0", "");
	smtp_client_clear(&t.c);
}

/* A group that did not leave in time is as if it had not begun. */
static void
test_unbegin(void **state)
{
	static const char group[] = "MAIL FROM:<from@example.net> SIZE=100\r\n"
				    "RCPT TO:<one@example.com>\r\n"
				    "RCPT TO:<two@example.com>\r\nDATA\r\n";
	struct talk t;

	(void)state;
	talk_init(&t);
	t.m.ask = true; /* means nothing where all leave at once */
	talk_ready(&t, PIPE);
	for (int i = 0; i < 3; i++) {
		talk_mail(&t);
		wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_WRITE);
		assert_true(smtp_client_unbegin(&t.c));
		wants(&t, SMTP_CLIENT_MAIL | SMTP_CLIENT_READ);
		assert_int_equal(smtp_client_output(&t.c).n, 0);
	}
	assert_int_equal(t.c.transactions, 0);
	talk_mail(&t);
	smtp_client_wrote(&t.c, 1);
	assert_false(smtp_client_unbegin(&t.c));
	hears(&t, group + 1);
	says(&t, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
	wants(&t, SMTP_CLIENT_READ | SMTP_CLIENT_BODY);
	smtp_client_clear(&t.c);
}

static void
test_lost_while_asking(void **state)
{
	struct talk t;

	(void)state;
	/* Nobody was asked for yet: all bear it, or the mail would be tried for ever. */
	talk_asks(&t);
	smtp_client_fail(&t.c, VERDICT_BY_LOST);
	ended(&t, 0, TRANSIENT, "4.4.2", "");
	ended(&t, 3, TRANSIENT, "4.4.2", "");
	assert_int_equal(t.c.outcomes.rows[0].verdict.phase, VERDICT_AT_RCPT);
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_CLOSE);
	smtp_client_clear(&t.c);
	talk_asks(&t);
	may(&t, "RCPT TO:<one@example.com>\r\n");
	says(&t, "250 ok\r\n421 4.3.2 leaving\r\n");
	ended(&t, 0, TRANSIENT, "4.3.2", "421 4.3.2 leaving");
	ended(&t, 1, UNATTEMPTED, "4.0.0", "");
	smtp_client_taken(&t.c);
	wants(&t, SMTP_CLIENT_CLOSE);
	smtp_client_clear(&t.c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pipelined),
		cmocka_unit_test(test_lockstep),
		cmocka_unit_test(test_lockstep_all_refused),
		cmocka_unit_test(test_lone_dot),
		cmocka_unit_test(test_out_of_step),
		cmocka_unit_test(test_552),
		cmocka_unit_test(test_helo),
		cmocka_unit_test(test_refused_greeting),
		cmocka_unit_test(test_own_name),
		cmocka_unit_test(test_local_verdicts),
		cmocka_unit_test(test_parameters),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_421_and_gone),
		cmocka_unit_test(test_421_bounces_one),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_dot_written_or_not),
		cmocka_unit_test(test_timeouts),
		cmocka_unit_test(test_read_while_writing),
		cmocka_unit_test(test_thousand_recipients),
		cmocka_unit_test(test_pix),
		cmocka_unit_test(test_asks_for_each),
		cmocka_unit_test(test_asks_in_vain),
		cmocka_unit_test(test_asked_too_late),
		cmocka_unit_test(test_unbegin),
		cmocka_unit_test(test_lost_while_asking),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
