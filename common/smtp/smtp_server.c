#include "common/smtp/smtp_server.h"

#include "common/base/check.h"

/* Rows: commands. Columns: STRANGER READY SENDER RCPTS. What is not legal is answered 503. */
/* clang-format off */
enum { NO, OK };
static const unsigned char legal[SMTP_VERBS][4] = {
	[SMTP_VERB_EHLO]    = { OK, OK, OK, OK },
	[SMTP_VERB_HELO]    = { OK, OK, OK, OK },
	[SMTP_VERB_MAIL]    = { NO, OK, NO, NO },
	[SMTP_VERB_RCPT]    = { NO, NO, OK, OK },
	[SMTP_VERB_DATA]    = { NO, NO, NO, OK },
	[SMTP_VERB_RSET]    = { OK, OK, OK, OK },
	[SMTP_VERB_NOOP]    = { OK, OK, OK, OK },
	[SMTP_VERB_VRFY]    = { OK, OK, OK, OK },
	[SMTP_VERB_HELP]    = { OK, OK, OK, OK },
	[SMTP_VERB_QUIT]    = { OK, OK, OK, OK },
	[SMTP_VERB_UNBUILT] = { OK, OK, OK, OK },
	[SMTP_VERB_UNKNOWN] = { OK, OK, OK, OK },
	[SMTP_VERB_FOREIGN] = { OK, OK, OK, OK },
};
/* clang-format on */

void
smtp_server_init(struct smtp_server *s, const char *host_name, uint64_t max_size,
		 uint32_t max_rcpts)
{
	memset(s, 0, sizeof *s);
	s->state = SMTP_SERVER_STATE_GREETING;
	s->asked = SMTP_SERVER_MORE;
	s->host_name = host_name;
	s->max_size = max_size;
	s->max_rcpts = max_rcpts;
}

static void
say(struct buf *out, const char *reply)
{
	CHECK(reply[0] >= '2' && reply[0] <= '5' && strlen(reply) <= REPLY_KEPT_MAX - 2);
	buf_puts(out, reply);
	buf_put(out, "\r\n", 2);
}

static void
close_session(struct smtp_server *s)
{
	s->state = SMTP_SERVER_STATE_CLOSED;
	s->asked = SMTP_SERVER_MORE;
}

/* A client's mistake: told, counted, and after too many of them the session ends. */
static void
say_error(struct smtp_server *s, struct buf *out, const char *reply)
{
	if (++s->errors > SMTP_BAD_COMMANDS_MAX) {
		say(out, "421 4.7.0 Too many errors");
		close_session(s);
		return;
	}
	say(out, reply);
}

void
smtp_server_greet(struct smtp_server *s, struct buf *out, const char *refusal)
{
	CHECK(s->state == SMTP_SERVER_STATE_GREETING);
	if (refusal != NULL) {
		say(out, refusal);
		close_session(s);
		return;
	}
	s->state = SMTP_SERVER_STATE_STRANGER;
	buf_printf(out, "220 %.255s ESMTP Sluice\r\n", s->host_name);
}

void
smtp_server_shut(struct smtp_server *s, struct buf *out, const char *reply)
{
	if (s->state == SMTP_SERVER_STATE_CLOSED)
		return;
	say(out, reply);
	close_session(s);
}

/* The one way back to READY. */
static void
reset_transaction(struct smtp_server *s)
{
	s->n_rcpts = 0;
	if (s->state > SMTP_SERVER_STATE_READY)
		s->state = SMTP_SERVER_STATE_READY;
}

/* Ends a transaction by the client's wish; the driver hears of it if there was one. */
static enum smtp_server_event
drop_transaction(struct smtp_server *s)
{
	bool begun = s->state > SMTP_SERVER_STATE_READY;

	reset_transaction(s);
	return begun ? SMTP_SERVER_RESET : SMTP_SERVER_MORE;
}

static enum smtp_server_event
ask(struct smtp_server *s, enum smtp_server_event question)
{
	s->asked = question;
	return question;
}

static enum smtp_server_event
do_hello(struct smtp_server *s, const struct smtp_command *c, struct buf *out)
{
	const char *bad = smtp_command_hello(c->args);
	enum smtp_server_event ev;

	if (bad != NULL) {
		say_error(s, out, bad);
		return SMTP_SERVER_MORE;
	}
	ev = drop_transaction(s);
	s->state = SMTP_SERVER_STATE_READY;
	s->esmtp = c->verb == SMTP_VERB_EHLO;
	str_copy(s->helo, sizeof s->helo, c->args);
	if (!s->esmtp) {
		buf_printf(out, "250 %.255s\r\n", s->host_name);
		return ev;
	}
	buf_printf(out,
		   "250-%.255s\r\n250-PIPELINING\r\n250-SIZE %llu\r\n250-8BITMIME\r\n"
		   "250 ENHANCEDSTATUSCODES\r\n",
		   s->host_name, (unsigned long long)s->max_size);
	return ev;
}

static enum smtp_server_event
do_mail(struct smtp_server *s, const struct smtp_command *c, struct buf *out)
{
	const char *bad = smtp_command_mail(c->args, s->max_size, &s->mail);

	if (bad == NULL)
		return ask(s, SMTP_SERVER_SENDER);
	if (bad[0] == '5' && bad[1] == '5' && bad[2] == '2')
		say(out, bad); /* too big is no mistake of syntax */
	else
		say_error(s, out, bad);
	return SMTP_SERVER_MORE;
}

static enum smtp_server_event
do_rcpt(struct smtp_server *s, const struct smtp_command *c, struct buf *out)
{
	const char *bad = smtp_command_rcpt(c->args, &s->recipient);

	if (bad != NULL) {
		/* A list with bad addresses is not an attack: those do not count as errors. */
		if (strncmp(bad, "501 5.1.3", 9) == 0)
			say(out, bad);
		else
			say_error(s, out, bad);
	} else if (s->recipient.kind == ADDRESS_LITERAL) {
		say(out, "550 5.1.2 Address literals are not accepted");
	} else if (s->n_rcpts >= s->max_rcpts) {
		say(out, "452 4.5.3 Too many recipients");
	} else {
		return ask(s, SMTP_SERVER_RECIPIENT);
	}
	return SMTP_SERVER_MORE;
}

static enum smtp_server_event
do_simple(struct smtp_server *s, const struct smtp_command *c, struct buf *out)
{
	switch (c->verb) {
	case SMTP_VERB_RSET:
		say(out, "250 2.0.0 Ok");
		return drop_transaction(s);
	case SMTP_VERB_NOOP:
		say(out, "250 2.0.0 Ok");
		break;
	case SMTP_VERB_HELP:
		say(out, "214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT");
		break;
	case SMTP_VERB_VRFY:
		say(out, "252 2.0.0 Send some mail, it will be tried");
		break;
	case SMTP_VERB_QUIT:
		s->quit = true;
		smtp_server_shut(s, out, "221 2.0.0 Bye");
		break;
	case SMTP_VERB_UNBUILT:
		say_error(s, out, "502 5.5.1 Command not implemented");
		break;
	case SMTP_VERB_FOREIGN:
		close_session(s);
		break;
	default:
		say_error(s, out, "500 5.5.2 Command not recognized");
		break;
	}
	return SMTP_SERVER_MORE;
}

static enum smtp_server_event
do_command(struct smtp_server *s, struct slice line, struct buf *out)
{
	struct smtp_command c;

	smtp_command_parse(&c, line);
	if (legal[c.verb][s->state - SMTP_SERVER_STATE_STRANGER] == NO) {
		say_error(s, out, "503 5.5.1 Bad sequence of commands");
		return SMTP_SERVER_MORE;
	}
	if ((c.args.n > 0 &&
	     (c.verb == SMTP_VERB_DATA || c.verb == SMTP_VERB_RSET || c.verb == SMTP_VERB_QUIT)) ||
	    (c.args.n == 0 && c.verb == SMTP_VERB_VRFY)) {
		say_error(s, out, "501 5.5.4 Syntax error in arguments");
		return SMTP_SERVER_MORE;
	}
	switch (c.verb) {
	case SMTP_VERB_EHLO:
	case SMTP_VERB_HELO:
		return do_hello(s, &c, out);
	case SMTP_VERB_MAIL:
		return do_mail(s, &c, out);
	case SMTP_VERB_RCPT:
		return do_rcpt(s, &c, out);
	case SMTP_VERB_DATA:
		return ask(s, SMTP_SERVER_DATA);
	default:
		return do_simple(s, &c, out);
	}
}

/* Cuts one line off *in, only when it is whole. Too long a line is read over to its end. */
static bool
take_line(struct smtp_server *s, struct slice *in, struct slice *line)
{
	const char *lf = in->n > 0 ? memchr(in->p, '\n', in->n) : NULL;
	size_t n = lf != NULL ? (size_t)(lf - in->p) + 1 : in->n;

	if (n > SMTP_COMMAND_MAX)
		s->skipping = true;
	if (lf == NULL) {
		if (s->skipping)
			*in = slice_sub(*in, in->n);
		return false;
	}
	*line = slice_of(in->p, n);
	*in = slice_sub(*in, n);
	return true;
}

static enum smtp_server_event
next_command(struct smtp_server *s, struct slice *in, struct buf *out)
{
	struct slice line;

	/* A TLS hello or the like has no lines: no sense in waiting for the end of one. */
	if (s->state == SMTP_SERVER_STATE_STRANGER && !s->skipping && in->n > 0) {
		unsigned char first = (unsigned char)in->p[0];

		if (first == 0 || first == 0x16 || first >= 0x80) {
			close_session(s);
			return SMTP_SERVER_MORE;
		}
	}
	if (!take_line(s, in, &line))
		return SMTP_SERVER_WAITING; /* for us: nothing more to do */
	if (s->skipping) {
		s->skipping = false;
		say_error(s, out, "500 5.5.2 Line too long");
		return SMTP_SERVER_MORE;
	}
	if (line.n < 2 || line.p[line.n - 2] != '\r') {
		say_error(s, out, "500 5.5.2 Lines end with CR LF");
		return SMTP_SERVER_MORE;
	}
	line.n -= 2;
	if (memchr(line.p, '\r', line.n) != NULL || memchr(line.p, '\0', line.n) != NULL) {
		say_error(s, out, "500 5.5.2 Invalid character");
		return SMTP_SERVER_MORE;
	}
	return do_command(s, line, out);
}

/* The final dot is taken: a message without flaws is the driver's, another one is refused here. */
static enum smtp_server_event
end_of_data(struct smtp_server *s, struct buf *out)
{
	if (s->data.flaws == 0)
		return ask(s, SMTP_SERVER_MESSAGE);
	if ((s->data.flaws & ~(unsigned)SMTP_DATA_TOO_BIG) != 0) {
		/* Whoever sends this may see the end of it elsewhere: what comes next from there
		 * could be a message smuggled in, so it is not read. */
		say(out, "550 5.6.0 Bare CR, bare LF or NUL in the message");
		close_session(s);
		return SMTP_SERVER_MORE;
	}
	say(out, "552 5.3.4 Message size exceeds the limit");
	return drop_transaction(s);
}

static enum smtp_server_event
next_body(struct smtp_server *s, struct slice *in, struct buf *out)
{
	switch (smtp_data_next(&s->data, in, &s->run)) {
	case SMTP_DATA_RUN:
		return SMTP_SERVER_BODY;
	case SMTP_DATA_END:
		return end_of_data(s, out);
	case SMTP_DATA_MORE:
		break;
	}
	return SMTP_SERVER_WAITING;
}

enum smtp_server_event
smtp_server_next(struct smtp_server *s, struct slice *in, struct buf *out)
{
	enum smtp_server_event ev = SMTP_SERVER_MORE;

	while (ev == SMTP_SERVER_MORE) {
		if (s->state == SMTP_SERVER_STATE_CLOSED)
			return SMTP_SERVER_CLOSE;
		if (s->asked != SMTP_SERVER_MORE || s->state == SMTP_SERVER_STATE_GREETING)
			return SMTP_SERVER_WAITING;
		ev = s->state == SMTP_SERVER_STATE_BODY ? next_body(s, in, out)
							: next_command(s, in, out);
		if (ev == SMTP_SERVER_WAITING)
			return SMTP_SERVER_MORE; /* the input is used up */
	}
	return ev;
}

void
smtp_server_answer(struct smtp_server *s, struct buf *out, const char *reply)
{
	enum smtp_server_event asked = s->asked;
	bool accepted = reply == NULL || reply[0] == '2';

	s->asked = SMTP_SERVER_MORE;
	switch (asked) {
	case SMTP_SERVER_SENDER:
		if (accepted)
			s->state = SMTP_SERVER_STATE_SENDER;
		say(out, reply != NULL ? reply : "250 2.1.0 Sender ok");
		break;
	case SMTP_SERVER_RECIPIENT:
		if (accepted) {
			s->state = SMTP_SERVER_STATE_RCPTS;
			s->n_rcpts++;
		}
		say(out, reply != NULL ? reply : "250 2.1.5 Recipient ok");
		break;
	case SMTP_SERVER_DATA:
		if (!accepted) {
			reset_transaction(s);
			say(out, reply);
			break;
		}
		CHECK(reply == NULL);
		s->state = SMTP_SERVER_STATE_BODY;
		smtp_data_init(&s->data, s->max_size);
		say(out, "354 End data with <CR><LF>.<CR><LF>");
		break;
	case SMTP_SERVER_MESSAGE:
		reset_transaction(s);
		say(out, reply != NULL ? reply : "250 2.0.0 Ok");
		break;
	default:
		CHECK(!"a question was open");
	}
}
