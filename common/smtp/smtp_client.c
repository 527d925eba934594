#include "common/smtp/smtp_client.h"

#include <string.h>

#include "common/base/check.h"
#include "common/base/mem.h"
#include "common/smtp/smtp_client_command.h"

enum step { STEP_MAIL, STEP_RCPT, STEP_DATA, STEP_WAIT };

/* Output and the FIFO ------------------------------------------------------------------------- */

/* Everything appended to c->out since the last call becomes one command of `phase`. */
static void
push(struct smtp_client *c, enum verdict_phase phase, size_t rcpt)
{
	if (c->fifo_head > 0 && c->fifo_n == 0)
		c->fifo_head = 0;
	if (c->fifo_head + c->fifo_n >= c->fifo_cap) {
		void *p = c->fifo;

		mem_grow(&p, &c->fifo_cap, c->fifo_head + c->fifo_n + 1, sizeof *c->fifo);
		c->fifo = p;
	}
	c->queued = c->written + c->out.len;
	c->fifo[c->fifo_head + c->fifo_n++] = (struct smtp_client_command){ .phase = (uint8_t)phase,
									    .rcpt = (uint32_t)rcpt,
									    .end = c->queued };
	if (c->fifo_n == 1)
		c->deadline_serial++;
}

static void
say(struct smtp_client *c, enum verdict_phase phase, const char *verb, struct slice argument)
{
	buf_puts(&c->out, verb);
	buf_put_slice(&c->out, argument);
	buf_put(&c->out, "\r\n", 2);
	push(c, phase, 0);
}

static const struct smtp_client_command *
head(const struct smtp_client *c)
{
	return c->fifo_n > 0 ? &c->fifo[c->fifo_head] : NULL;
}

static void
pop(struct smtp_client *c)
{
	c->fifo_head++;
	c->fifo_n--;
	c->deadline_serial++;
}

static void
enter(struct smtp_client *c, enum smtp_client_state state)
{
	c->state = state;
	c->deadline_serial++;
}

/* Life ---------------------------------------------------------------------------------------- */

void
smtp_client_init(struct smtp_client *c, const struct smtp_policy *policy, struct slice helo)
{
	CHECK(smtp_client_helo_ok(helo));
	memset(c, 0, sizeof *c);
	c->policy = *policy;
	c->helo = helo;
	push(c, VERDICT_AT_GREETING, 0);
}

void
smtp_client_clear(struct smtp_client *c)
{
	smtp_reply_clear(&c->reply);
	smtp_client_outcomes_clear(&c->outcomes);
	buf_clear(&c->out);
	mem_free(c->fifo);
	memset(c, 0, sizeof *c);
	c->state = SMTP_CLIENT_CLOSED;
}

void
smtp_client_listen(struct smtp_client *c,
		   void (*fn)(void *arg, enum verdict_phase phase, const struct smtp_reply *reply,
			      struct smtp_client_ruling *out),
		   void *arg)
{
	c->listener = fn;
	c->listener_arg = arg;
}

static void
keep_end_text(struct smtp_client *c, struct slice text)
{
	c->end_text_n = (uint16_t)(text.n < sizeof c->end_text ? text.n : sizeof c->end_text);
	if (c->end_text_n > 0)
		memmove(c->end_text, text.p, c->end_text_n);
}

/* The connection is over; the first reason stays. */
static void
close_with(struct smtp_client *c, struct verdict v, struct slice text)
{
	if (c->end.reason == VERDICT_BY_NONE && c->notice.reason != VERDICT_BY_NONE) {
		c->end = c->notice; /* its text is kept already */
	} else if (c->end.reason == VERDICT_BY_NONE) {
		c->end = v;
		keep_end_text(c, text);
	}
	if (c->state == SMTP_CLIENT_ENDED) {
		c->close_after = true;
		return;
	}
	buf_reset(&c->out);
	c->fifo_n = 0;
	enter(c, SMTP_CLIENT_CLOSED);
}

unsigned
smtp_client_want(const struct smtp_client *c)
{
	switch (c->state) {
	case SMTP_CLIENT_CLOSED:
		return SMTP_CLIENT_CLOSE;
	case SMTP_CLIENT_ENDED:
		return SMTP_CLIENT_RESULT;
	case SMTP_CLIENT_READY:
		return SMTP_CLIENT_MAIL | SMTP_CLIENT_READ;
	case SMTP_CLIENT_SENDING:
		if (c->asking)
			return SMTP_CLIENT_READ | SMTP_CLIENT_MAY;
		return SMTP_CLIENT_READ | (c->out.len > 0 ? SMTP_CLIENT_WRITE : 0u);
	case SMTP_CLIENT_IN_BODY:
		/* The body follows what was said before it. */
		return SMTP_CLIENT_READ | (c->out.len > 0 ? SMTP_CLIENT_WRITE : SMTP_CLIENT_BODY);
	default:
		return SMTP_CLIENT_READ | (c->out.len > 0 ? SMTP_CLIENT_WRITE : 0u);
	}
}

enum smtp_client_deadline
smtp_client_deadline(const struct smtp_client *c)
{
	static const uint8_t of_state[] = {
		[SMTP_CLIENT_GREETING] = SMTP_CLIENT_DEADLINE_GREETING,
		[SMTP_CLIENT_HELLO] = SMTP_CLIENT_DEADLINE_COMMAND,
		[SMTP_CLIENT_READY] = SMTP_CLIENT_DEADLINE_IDLE,
		[SMTP_CLIENT_SENDING] = SMTP_CLIENT_DEADLINE_COMMAND,
		[SMTP_CLIENT_PROVING] = SMTP_CLIENT_DEADLINE_COMMAND,
		[SMTP_CLIENT_IN_BODY] = SMTP_CLIENT_DEADLINE_BODY,
		[SMTP_CLIENT_IN_DOT] = SMTP_CLIENT_DEADLINE_DOT,
		[SMTP_CLIENT_ENDED] = SMTP_CLIENT_DEADLINE_NONE,
		[SMTP_CLIENT_RESETTING] = SMTP_CLIENT_DEADLINE_COMMAND,
		[SMTP_CLIENT_QUITTING] = SMTP_CLIENT_DEADLINE_QUIT,
		[SMTP_CLIENT_CLOSED] = SMTP_CLIENT_DEADLINE_NONE,
	};

	return c->asking ? SMTP_CLIENT_DEADLINE_ASK : of_state[c->state];
}

struct slice
smtp_client_output(const struct smtp_client *c)
{
	return buf_slice(&c->out);
}

void
smtp_client_wrote(struct smtp_client *c, size_t n)
{
	buf_consume(&c->out, n);
	c->written += n;
}

bool
smtp_client_spent(const struct smtp_client *c)
{
	return c->state == SMTP_CLIENT_CLOSED || c->close_after || c->leaving ||
	       (c->ehlo.mail_max > 0 && c->transactions >= c->ehlo.mail_max);
}

enum verdict_phase
smtp_client_phase(const struct smtp_client *c)
{
	if (c->state == SMTP_CLIENT_IN_BODY)
		return VERDICT_AT_BODY;
	if (c->state == SMTP_CLIENT_IN_DOT && head(c)->end > c->written)
		return VERDICT_AT_BODY; /* a dot that did not leave ends nothing */
	if (c->asking)
		return VERDICT_AT_RCPT;
	return head(c) != NULL ? (enum verdict_phase)head(c)->phase : VERDICT_AT_NONE;
}

/* A transaction ------------------------------------------------------------------------------- */

static bool
in_transaction(const struct smtp_client *c)
{
	return c->state == SMTP_CLIENT_SENDING || c->state == SMTP_CLIENT_PROVING ||
	       c->state == SMTP_CLIENT_IN_BODY || c->state == SMTP_CLIENT_IN_DOT;
}

/* The driver's turn: all recipients have their verdict. */
static void
end_transaction(struct smtp_client *c, bool reset)
{
	c->reset_after = reset;
	c->asking = false;
	c->transactions++;
	c->fifo_n = 0;
	enter(c, SMTP_CLIENT_ENDED);
	if (c->mx_down)
		close_with(c, c->notice, SLICE_NONE);
	else if (c->skip_host && c->end.reason == VERDICT_BY_NONE)
		c->end = c->notice; /* its text is kept already */
}

static void
end_local(struct smtp_client *c, enum verdict_phase phase, enum verdict_reason reason,
	  struct verdict_status status)
{
	struct verdict v = smtp_verdict_failure(phase, reason, &c->policy);

	v.status = status;
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_OPEN, v, SLICE_NONE);
	end_transaction(c, false);
}

static void
say_rcpt(struct smtp_client *c, size_t i)
{
	smtp_client_put_rcpt(&c->out, c->message.rcpt(c->message.arg, i));
	push(c, VERDICT_AT_RCPT, i);
	c->outcomes.rows[i].state = SMTP_CLIENT_OUTCOME_ASKED;
}

static void
ask_for(struct smtp_client *c, size_t i)
{
	c->asking = true;
	c->ask_rcpt = i;
	c->deadline_serial++;
}

/* Writes the next command where one may leave now: all at once when the peer pipelines, otherwise
 * one at a time. DATA is the last of its group (RFC 2920 3.1). */
static void
issue(struct smtp_client *c)
{
	bool pipelining = (c->ehlo.has & SMTP_EHLO_PIPELINING) != 0;

	while (c->step != STEP_WAIT && !c->asking && (pipelining || c->fifo_n == 0)) {
		if (c->step == STEP_MAIL) {
			struct smtp_client_mail m = {
				.sender = c->message.sender,
				.with_size = (c->ehlo.has & SMTP_EHLO_SIZE) != 0,
				.size = c->message.body_bytes,
				.body_8bit = c->message.body_8bit,
				.utf8 = c->utf8,
			};

			smtp_client_put_mail(&c->out, &m);
			push(c, VERDICT_AT_MAIL, 0);
			c->step = STEP_RCPT;
		} else if (c->step == STEP_RCPT) {
			size_t i = c->n_issued++;

			if (i >= c->n_attempted) {
				c->step = STEP_DATA;
			} else if (c->outcomes.rows[i].state == SMTP_CLIENT_OUTCOME_OPEN) {
				if (c->message.ask && !pipelining)
					ask_for(c, i);
				else
					say_rcpt(c, i);
			}
		} else {
			if (!pipelining && c->n_accepted == 0) {
				end_transaction(c, true);
				return;
			}
			say(c, VERDICT_AT_DATA, "DATA", SLICE_NONE);
			c->step = STEP_WAIT;
		}
	}
}

/* Recipients that no RCPT can be made for get their verdict here. */
static size_t
check_rcpts(struct smtp_client *c)
{
	bool can_utf8 = (c->ehlo.has & SMTP_EHLO_SMTPUTF8) != 0;
	size_t good = 0;

	for (size_t i = 0; i < c->message.n_rcpts; i++) {
		struct slice a = c->message.rcpt(c->message.arg, i);
		bool utf8 = smtp_client_address_utf8(a);
		struct verdict v;

		if (i >= c->n_attempted) {
			v = smtp_verdict_failure(VERDICT_AT_RCPT, VERDICT_BY_STALE, &c->policy);
		} else if (a.n == 0 || !smtp_client_address_ok(a)) {
			v = smtp_verdict_failure(VERDICT_AT_RCPT, VERDICT_BY_BAD_ADDRESS,
						 &c->policy);
		} else if (utf8 && !can_utf8) {
			v = smtp_verdict_failure(VERDICT_AT_RCPT, VERDICT_BY_NO_FEATURE,
						 &c->policy);
			v.status = VERDICT_STATUS(5, 6, 7);
		} else {
			good++;
			c->utf8 |= utf8;
			continue;
		}
		smtp_client_outcomes_settle(&c->outcomes, i, v, SLICE_NONE);
	}
	return good;
}

void
smtp_client_begin(struct smtp_client *c, const struct smtp_client_message *m)
{
	uint16_t has = c->ehlo.has;

	CHECK(c->state == SMTP_CLIENT_READY && m->n_rcpts > 0);
	c->message = *m;
	c->n_issued = c->n_answered = c->n_accepted = 0;
	c->notice = (struct verdict){ 0 };
	c->notice_rule = 0;
	c->lone_dot = c->close_after = c->reset_after = c->in_step = c->contrary = false;
	c->asking = false;
	c->said_from = c->written;
	c->step = STEP_MAIL;
	c->n_attempted = m->n_rcpts;
	if (c->ehlo.rcpt_max > 0 && c->ehlo.rcpt_max < c->n_attempted)
		c->n_attempted = c->ehlo.rcpt_max;
	c->utf8 = smtp_client_address_utf8(m->sender);
	smtp_client_outcomes_begin(&c->outcomes, m->n_rcpts);
	enter(c, SMTP_CLIENT_SENDING);

	if (!smtp_client_address_ok(m->sender))
		end_local(c, VERDICT_AT_MAIL, VERDICT_BY_BAD_ADDRESS, VERDICT_STATUS(5, 1, 7));
	else if (c->utf8 && (has & SMTP_EHLO_SMTPUTF8) == 0)
		end_local(c, VERDICT_AT_MAIL, VERDICT_BY_NO_FEATURE, VERDICT_STATUS(5, 6, 7));
	else if (m->body_8bit && (has & SMTP_EHLO_8BITMIME) == 0)
		end_local(c, VERDICT_AT_MAIL, VERDICT_BY_NO_FEATURE, VERDICT_STATUS(5, 6, 3));
	else if (c->ehlo.size > 0 && m->body_bytes > c->ehlo.size)
		end_local(c, VERDICT_AT_MAIL, VERDICT_BY_TOO_BIG, VERDICT_STATUS(5, 3, 4));
	else if (check_rcpts(c) == 0)
		end_transaction(c, false);
	else
		issue(c);
}

bool
smtp_client_has_said(const struct smtp_client *c)
{
	return c->written != c->said_from;
}

/* What was said and has not left is unsaid. */
static void
unsay(struct smtp_client *c)
{
	buf_reset(&c->out);
	c->queued = c->written;
	c->fifo_n = 0;
	c->deadline_serial++;
}

bool
smtp_client_unbegin(struct smtp_client *c)
{
	if (c->state != SMTP_CLIENT_SENDING || smtp_client_has_said(c) || head(c) == NULL ||
	    head(c)->phase != VERDICT_AT_MAIL)
		return false;
	unsay(c);
	enter(c, SMTP_CLIENT_READY);
	return true;
}

void
smtp_client_may(struct smtp_client *c, bool may)
{
	struct verdict v = smtp_verdict_failure(VERDICT_AT_RCPT, VERDICT_BY_STALE, &c->policy);

	CHECK(c->state == SMTP_CLIENT_SENDING && c->message.ask);
	CHECK(c->asking || (!may && !smtp_client_has_said(c) && head(c)->phase == VERDICT_AT_RCPT));
	c->said_from = c->written;
	if (may) {
		c->asking = false;
		say_rcpt(c, c->ask_rcpt);
		return;
	}
	if (!c->asking) {
		unsay(c);
		smtp_client_outcomes_settle(&c->outcomes, c->ask_rcpt, v, SLICE_NONE);
	}
	c->asking = false;
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_OPEN, v, SLICE_NONE);
	c->step = STEP_DATA;
	issue(c);
}

void
smtp_client_body_done(struct smtp_client *c, bool crlf)
{
	CHECK(c->state == SMTP_CLIENT_IN_BODY && c->out.len == 0);
	say(c, VERDICT_AT_DOT, crlf ? "." : "\r\n.", SLICE_NONE);
	enter(c, SMTP_CLIENT_IN_DOT);
}

void
smtp_client_taken(struct smtp_client *c)
{
	CHECK(c->state == SMTP_CLIENT_ENDED);
	buf_reset(&c->out);
	if (c->close_after) {
		enter(c, SMTP_CLIENT_CLOSED);
	} else if (c->leaving) { /* QUIT ends what RSET would have */
		enter(c, SMTP_CLIENT_QUITTING);
		say(c, VERDICT_AT_QUIT, "QUIT", SLICE_NONE);
	} else if (c->reset_after) {
		enter(c, SMTP_CLIENT_RESETTING);
		say(c, VERDICT_AT_RSET, "RSET", SLICE_NONE);
	} else {
		enter(c, SMTP_CLIENT_READY);
	}
}

void
smtp_client_quit(struct smtp_client *c)
{
	CHECK(c->state == SMTP_CLIENT_READY);
	enter(c, SMTP_CLIENT_QUITTING);
	say(c, VERDICT_AT_QUIT, "QUIT", SLICE_NONE);
}

/* Failure ------------------------------------------------------------------------------------- */

/* RCPTs that never left were not attempted. */
static void
settle_unsent(struct smtp_client *c)
{
	struct verdict v = smtp_verdict_failure(VERDICT_AT_RCPT, VERDICT_BY_STALE, &c->policy);

	for (size_t k = 0; k < c->fifo_n; k++) {
		const struct smtp_client_command *cmd = &c->fifo[c->fifo_head + k];

		if (cmd->phase == VERDICT_AT_RCPT && cmd->end > c->written &&
		    c->outcomes.rows[cmd->rcpt].state == SMTP_CLIENT_OUTCOME_ASKED)
			smtp_client_outcomes_settle(&c->outcomes, cmd->rcpt, v, SLICE_NONE);
	}
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_OPEN, v, SLICE_NONE);
}

/* At least one RCPT was sent: somebody will bear the failure. */
static bool
somebody_was_asked(const struct smtp_client *c)
{
	const struct smtp_client_command *next = head(c);

	return c->n_answered > 0 ||
	       (next != NULL && next->phase == VERDICT_AT_RCPT && next->end <= c->written);
}

/* The transaction cannot go on: who has no verdict gets `v`; who was not asked was not attempted.
 * Unless nobody was: mail that only ever came back unattempted would be tried for ever. */
static void
break_transaction(struct smtp_client *c, struct verdict v, struct slice text)
{
	if (somebody_was_asked(c))
		settle_unsent(c);
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_OPEN, v, text);
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_ASKED, v, text);
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_ACCEPTED, v, text);
	buf_reset(&c->out);
	end_transaction(c, false);
}

/* The replies were not one to one, and 354 has not shown that they were up to here: a refusal may
 * have been another recipient's. */
static void
doubt_refusals(struct smtp_client *c, struct slice text)
{
	struct verdict v = smtp_verdict_failure(VERDICT_AT_RCPT, VERDICT_BY_PROTOCOL, &c->policy);

	for (size_t i = 0; i < c->outcomes.n; i++) {
		const struct smtp_client_outcome *row = &c->outcomes.rows[i];

		if (row->state == SMTP_CLIENT_OUTCOME_SETTLED &&
		    row->verdict.reason == VERDICT_BY_REPLY &&
		    row->verdict.action == VERDICT_PERMANENT)
			smtp_client_outcomes_settle(&c->outcomes, i, v, text);
	}
}

static void
fail_with_text(struct smtp_client *c, enum verdict_reason reason, struct slice text)
{
	enum verdict_phase phase = smtp_client_phase(c);
	struct verdict v = smtp_verdict_failure(phase, reason, &c->policy);

	if (c->state == SMTP_CLIENT_CLOSED)
		return;
	if (reason == VERDICT_BY_PROTOCOL && !c->in_step &&
	    (in_transaction(c) || c->state == SMTP_CLIENT_ENDED))
		doubt_refusals(c, text);
	if (c->state == SMTP_CLIENT_QUITTING) {
		/* All was said and done: how the peer leaves is its own affair. */
		close_with(c, (struct verdict){ 0 }, SLICE_NONE);
		return;
	}
	if (in_transaction(c)) {
		struct verdict each = v;

		if (reason == VERDICT_BY_LOST && phase != VERDICT_AT_DOT &&
		    c->notice.reason != VERDICT_BY_NONE) {
			each = c->notice;
			c->outcomes.rule = c->notice_rule;
			text = smtp_client_end_text(c);
		}
		/* A peer may close an idle connection at the very moment that MAIL leaves. */
		if (phase == VERDICT_AT_MAIL && reason == VERDICT_BY_LOST && c->transactions > 0 &&
		    !smtp_reply_begun(&c->reply))
			each = smtp_verdict_failure(phase, VERDICT_BY_STALE, &c->policy);
		break_transaction(c, each, text);
	}
	close_with(c, v, text);
}

void
smtp_client_fail(struct smtp_client *c, enum verdict_reason reason)
{
	fail_with_text(c, reason, SLICE_NONE);
}

/* Replies ------------------------------------------------------------------------------------- */

/* The first word of the greeting or of EHLO's first line is the peer's name (RFC 5321 4.2). */
static bool
is_ourselves(const struct smtp_client *c, struct slice text)
{
	struct slice rest = slice_trim(text);

	return c->loop_check && slice_eq_nocase(slice_cut(&rest, ' '), c->helo);
}

/* The host wants no mail from us: say good-bye (RFC 5321 3.1), unless it is leaving itself. */
static void
refuse(struct smtp_client *c, struct verdict v)
{
	if (v.code == 421) {
		close_with(c, v, smtp_reply_text(&c->reply));
		return;
	}
	c->end = v;
	keep_end_text(c, smtp_reply_text(&c->reply));
	enter(c, SMTP_CLIENT_QUITTING);
	say(c, VERDICT_AT_QUIT, "QUIT", SLICE_NONE);
}

static void
on_greeting(struct smtp_client *c, struct verdict v, struct slice text)
{
	size_t stars = 0;

	for (size_t i = 0; i < text.n; i++)
		stars += text.p[i] == '*';
	c->pix = stars >= 10;
	if (v.action != VERDICT_DELIVERED) {
		refuse(c, v);
		return;
	}
	smtp_ehlo_begin(&c->ehlo);
	enter(c, SMTP_CLIENT_HELLO);
	say(c, VERDICT_AT_EHLO, "EHLO ", c->helo);
}

static void
on_hello(struct smtp_client *c, struct verdict v)
{
	if (v.action == VERDICT_DELIVERED) {
		if (c->said_helo)
			smtp_ehlo_begin(&c->ehlo);
		if (c->policy.ignore_pipelining)
			c->ehlo.has &= (uint16_t)~SMTP_EHLO_PIPELINING;
		if (c->policy.ignore_8bitmime)
			c->ehlo.has &= (uint16_t)~SMTP_EHLO_8BITMIME;
		if (c->policy.ignore_dsn)
			c->ehlo.has &= (uint16_t)~SMTP_EHLO_DSN;
		enter(c, SMTP_CLIENT_READY);
	} else if (!c->said_helo && (v.code == 500 || v.code == 502)) {
		c->said_helo = true;
		say(c, VERDICT_AT_HELO, "HELO ", c->helo);
	} else {
		refuse(c, v);
	}
}

static void
on_mail(struct smtp_client *c, struct verdict v, struct slice text)
{
	bool pipelining = (c->ehlo.has & SMTP_EHLO_PIPELINING) != 0;

	if (v.action == VERDICT_DELIVERED)
		return;
	/* All share it. Pipelined RCPTs and DATA still get their replies, which then mean nothing.
	 */
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_OPEN, v, text);
	smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_ASKED, v, text);
	if (!pipelining)
		end_transaction(c, true);
}

static void
on_rcpt(struct smtp_client *c, size_t i, struct verdict v, struct slice text)
{
	struct smtp_client_outcome *row = &c->outcomes.rows[i];

	c->n_answered++;
#ifdef PLANTED_BUGS
	if (c->reply.code == 551) /* the next one's verdict, even behind the last */
		row = &c->outcomes.rows[++i];
#endif
	if (row->state != SMTP_CLIENT_OUTCOME_ASKED) {
		c->contrary |= v.action == VERDICT_DELIVERED;
		return; /* MAIL was refused */
	}
	if (v.action == VERDICT_DELIVERED) {
		row->state = SMTP_CLIENT_OUTCOME_ACCEPTED;
		c->n_accepted++;
	} else {
		smtp_client_outcomes_settle(&c->outcomes, i, v, text);
	}
}

static void
on_data(struct smtp_client *c, struct verdict v, struct slice text)
{
	if (v.action != VERDICT_DELIVERED) {
		smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_ACCEPTED, v,
						text);
		if (v.action == VERDICT_PERMANENT && c->n_accepted > 0 &&
		    (c->ehlo.has & SMTP_EHLO_PIPELINING) != 0) {
			enter(c, SMTP_CLIENT_PROVING);
			say(c, VERDICT_AT_RSET, "RSET", SLICE_NONE);
		} else {
			end_transaction(c, true);
		}
		return;
	}
	if (c->contrary) {
		/* It has refused MAIL and yet wants a body for somebody: a lone dot could be an
		 * empty message to them. The refusal stands. */
		end_transaction(c, false);
		close_with(c,
			   smtp_verdict_failure(VERDICT_AT_DATA, VERDICT_BY_PROTOCOL, &c->policy),
			   text);
		return;
	}
	c->in_step = true;
	enter(c, SMTP_CLIENT_IN_BODY);
	if (c->n_accepted == 0) {
		/* RFC 2920 3.1: the peer expects a body for nobody; an empty one, and no belief in
		 * whatever it answers. */
		c->lone_dot = true;
		smtp_client_body_done(c, true);
	}
}

static void
on_dot(struct smtp_client *c, struct verdict v, struct slice text)
{
	if (!c->lone_dot)
		smtp_client_outcomes_settle_all(&c->outcomes, SMTP_CLIENT_OUTCOME_ACCEPTED, v,
						text);
	end_transaction(c, c->lone_dot);
}

static void
on_rset(struct smtp_client *c, struct verdict v, struct slice text)
{
	bool proving = c->state == SMTP_CLIENT_PROVING;

	if (proving && v.action != VERDICT_DELIVERED && v.code != 421) {
		/* Nobody refuses RSET: this was the reply to something else. */
		fail_with_text(c, VERDICT_BY_PROTOCOL, text);
		return;
	}
	if (proving)
		end_transaction(c, false);
	if (v.action != VERDICT_DELIVERED)
		close_with(c, v, text);
	else if (!proving)
		enter(c, SMTP_CLIENT_READY);
}

/* What the operator's rules say of the reply. */
static struct smtp_client_ruling
listen_to(struct smtp_client *c, enum verdict_phase phase)
{
	struct smtp_client_ruling ruling = { 0 };

	if (c->listener != NULL)
		c->listener(c->listener_arg, phase, &c->reply, &ruling);
	c->outcomes.rule = ruling.rule;
	return ruling;
}

/* What the rules make of a verdict: a refusal may become another one, never a success. */
static void
overrule(struct verdict *v, const struct smtp_client_ruling *ruling)
{
	if (v->action == VERDICT_PERMANENT && (ruling->stay || ruling->skip_host))
		v->action = VERDICT_TRANSIENT;
	else if (v->action == VERDICT_TRANSIENT && ruling->bounce && !ruling->stay && v->code < 500 &&
		 v->phase == VERDICT_AT_RCPT)
		v->action = VERDICT_PERMANENT;
}

/* The connection ends behind this transaction; one that has none yet is over. True: it was over at once. */
static bool
turn_away(struct smtp_client *c, struct verdict v, const struct smtp_client_ruling *ruling)
{
	if (!ruling->leave && !ruling->skip_host)
		return false;
	if (c->state == SMTP_CLIENT_GREETING || c->state == SMTP_CLIENT_HELLO) {
		if (v.action == VERDICT_DELIVERED)
			return false; /* it would say so again and again */
		v.action = VERDICT_TRANSIENT;
		v.scope = VERDICT_HOST;
		refuse(c, v);
		return true;
	}
	c->leaving = true;
	if (ruling->skip_host && in_transaction(c)) {
		c->skip_host = true;
		c->notice = v;
		c->notice.action = VERDICT_TRANSIENT;
		c->notice.scope = VERDICT_HOST;
		c->notice_rule = ruling->rule;
		keep_end_text(c, smtp_reply_text(&c->reply));
	}
	return false;
}

static void
on_notice(struct smtp_client *c, struct verdict v, const struct smtp_client_ruling *ruling)
{
	c->notice = v;
	c->notice.action = VERDICT_TRANSIENT; /* for the others: whom it bounces is the one asked for */
	c->notice_rule = ruling->rule;
	keep_end_text(c, smtp_reply_text(&c->reply));
	c->mx_down = c->policy.mx_unavailable_421 || ruling->skip_host;
	c->leaving |= ruling->leave;
	if (c->mx_down)
		c->notice.scope = VERDICT_HOST;
}

/* A whole reply: it answers the head of the FIFO. */
static void
on_reply(struct smtp_client *c, struct slice last_line)
{
	struct smtp_client_command cmd = *head(c);
	struct slice text = smtp_reply_text(&c->reply);
	struct smtp_client_ruling ruling = listen_to(c, (enum verdict_phase)cmd.phase);
	struct verdict v;

	v = smtp_verdict((enum verdict_phase)cmd.phase, &c->reply, c->n_accepted > 0, &c->policy);
	if (v.reason != VERDICT_BY_REPLY) {
		fail_with_text(c, (enum verdict_reason)v.reason, text);
		return;
	}
	pop(c);
	overrule(&v, &ruling);
	if (c->reply.code == 421 && in_transaction(c))
		on_notice(c, v, &ruling);
	else if (turn_away(c, v, &ruling))
		return;
	switch (cmd.phase) {
	case VERDICT_AT_GREETING:
		on_greeting(c, v, last_line);
		break;
	case VERDICT_AT_EHLO:
	case VERDICT_AT_HELO:
		on_hello(c, v);
		break;
	case VERDICT_AT_MAIL:
		on_mail(c, v, text);
		break;
	case VERDICT_AT_RCPT:
		on_rcpt(c, cmd.rcpt, v, text);
		break;
	case VERDICT_AT_DATA:
		on_data(c, v, text);
		break;
	case VERDICT_AT_DOT:
		on_dot(c, v, text);
		break;
	case VERDICT_AT_RSET:
		on_rset(c, v, text);
		break;
	default:
		close_with(c, (struct verdict){ 0 }, SLICE_NONE);
		break;
	}
	if (c->state == SMTP_CLIENT_SENDING && (c->mx_down || c->skip_host) && c->fifo_n == 0)
		break_transaction(c, c->notice, smtp_client_end_text(c));
	else if (c->state == SMTP_CLIENT_SENDING)
		issue(c);
	c->outcomes.rule = 0;
}

/* A reply that no command asked for. */
static void
on_unasked(struct smtp_client *c)
{
	struct slice text = smtp_reply_text(&c->reply);
	struct smtp_client_ruling ruling = listen_to(c, smtp_client_phase(c));
	struct verdict v;

	(void)ruling; /* it is leaving anyway */
	if (c->reply.code != 421) {
		fail_with_text(c, VERDICT_BY_PROTOCOL, text);
		return;
	}
	/* 421 may come at any time (RFC 5321 3.8): the peer is leaving. */
	v = smtp_verdict(smtp_client_phase(c), &c->reply, c->n_accepted > 0, &c->policy);
	if (in_transaction(c))
		break_transaction(c, v, text);
	close_with(c, v, text);
}

void
smtp_client_feed(struct smtp_client *c, struct slice in)
{
	while (in.n > 0 && c->state != SMTP_CLIENT_CLOSED && !c->close_after) {
		const struct smtp_client_command *cmd = head(c);
		struct slice line;
		size_t used;
		enum smtp_reply_step step;
		bool hello = cmd != NULL && cmd->phase == VERDICT_AT_EHLO;
		bool named = hello || (cmd != NULL && cmd->phase == VERDICT_AT_GREETING);
		bool first = c->reply.lines == 0;

		/* What begins before its command has left answers nothing, whenever it ends. */
		if (!smtp_reply_begun(&c->reply))
			c->early = cmd == NULL || cmd->end > c->written;
		step = smtp_reply_feed(&c->reply, in, &used, &line);
		in = slice_sub(in, used);
		if (step == SMTP_REPLY_GARBAGE || step == SMTP_REPLY_TOO_LONG) {
			fail_with_text(c,
				       step == SMTP_REPLY_TOO_LONG ? VERDICT_BY_TOO_LONG
								   : VERDICT_BY_PROTOCOL,
				       SLICE_NONE);
			return;
		}
		if (step == SMTP_REPLY_MORE)
			return;
		if (first && named && c->reply.code < 400 && is_ourselves(c, line)) {
			fail_with_text(c, VERDICT_BY_LOOP, SLICE_NONE);
			return;
		}
		if (hello && !first && c->reply.code < 400)
			smtp_ehlo_line(&c->ehlo, line);
		if (step == SMTP_REPLY_LINE)
			continue;
		if (c->early)
			on_unasked(c);
		else
			on_reply(c, line);
		smtp_reply_begin(&c->reply);
	}
}
