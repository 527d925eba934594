/* smtp_client against hostile peers: 12 stages x 20 behaviours, each with and without PIPELINING,
 * fed whole and byte by byte. A recipient is delivered only by a
 * well-formed 2xx to the dot; what is not an answer is never a refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/smtp/smtp_client.h"

// clang-format off
#define STAGES(X) X(GREETING) X(EHLO) X(HELO) X(MAIL) X(RCPT_FIRST) X(RCPT_LAST) X(DATA) X(BODY) \
	X(DOT) X(RSET) X(IDLE) X(QUIT)
#define BEHAVIOURS(X) X(HANG) X(FIN) X(RST) X(DRIP) X(GARBAGE) X(EMPTY_LINE) X(SAYS_421) X(SAYS_4XX) \
	X(SAYS_5XX) X(WRONG_CLASS) X(ODD_CODE) X(ENDLESS) X(LONG_LINE) X(NUL) X(BARE) X(EIGHT_BIT) \
	X(MIXED) X(SURPLUS) X(BEFORE) X(SPLIT)
// clang-format on
#define X(name) name,
enum stage { STAGES(X) N_STAGES };
enum behaviour { BEHAVIOURS(X) N_BEHAVIOURS };
#undef X
#define X(name) #name,
static const char *const stage_names[] = { STAGES(X) };
static const char *const behaviour_names[] = { BEHAVIOURS(X) };
#undef X

static const char *const right_reply[N_STAGES] = {
	[GREETING] = "220 sink ESMTP\r\n",
	[EHLO] = "250-sink\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
	[HELO] = "250 sink\r\n",
	[MAIL] = "250 2.1.0 ok\r\n",
	[RCPT_FIRST] = "250 2.1.5 ok\r\n",
	[RCPT_LAST] = "250 2.1.5 ok\r\n",
	[DATA] = "354 go on\r\n",
	[BODY] = "250 early\r\n",
	[DOT] = "250 2.6.0 queued\r\n",
	[RSET] = "250 reset\r\n",
	[IDLE] = "250 2.1.0 ok\r\n",
	[QUIT] = "221 bye\r\n",
};

#define NOTHING 99 /* no verdict: the message never began */

struct world {
	struct smtp_client c;
	enum stage stage;
	enum behaviour behaviour;
	bool pipelining;
	bool hit, said_early; /* the behaviour was shown */
	size_t piece;
	int variant;
	bool ask; /* each RCPT has its leave, which is always given */
	bool in_data;
	int n_mail, n_rcpt;       /* commands seen in this connection, in this transaction */
	struct buf line, in;      /* of the client; for the client */
	enum verdict_reason gone; /* after what is in `in`: the peer goes, or never speaks again */
	uint64_t fed;
	int messages;           /* begun */
	unsigned actions[2][2]; /* by message and recipient */
	bool sent_right_dot;    /* a well-formed 2xx left after the dot came */
};

static struct slice
rcpt_of(const void *arg, size_t i)
{
	(void)arg;
	return i == 0 ? SLICE_LIT("one@example.com") : SLICE_LIT("two@example.com");
}

static struct smtp_client_message message = {
	.sender = { "from@example.net", 16 },
	.body_bytes = 8,
	.n_rcpts = 2,
	.rcpt = rcpt_of,
};

/* Gives `in` to the client in pieces. */
static void
feed(struct world *w, struct slice in)
{
	while (in.n > 0) {
		size_t n = in.n < w->piece ? in.n : w->piece;

		smtp_client_feed(&w->c, slice_of(in.p, n));
		w->fed += n;
		in = slice_sub(in, n);
	}
}

/* Bytes without an end: the client must give up by itself, and soon. */
static void
flood(struct world *w, struct slice block, struct slice lead)
{
	uint64_t from = w->fed;

	feed(w, lead);
	while (!(smtp_client_want(&w->c) & (SMTP_CLIENT_CLOSE | SMTP_CLIENT_RESULT))) {
		feed(w, block);
		if (w->fed - from > REPLY_READ_MAX + block.n)
			fail_msg("%s %s: still reading", stage_names[w->stage],
				 behaviour_names[w->behaviour]);
	}
}

/* What was said before arrives now. */
static void
flush(struct world *w)
{
	feed(w, buf_slice(&w->in));
	buf_reset(&w->in);
}

/* All but the last byte, one by one: no byte buys more time. */
static void
drip(struct world *w, const char *right)
{
	uint32_t serial;

	flush(w);
	serial = w->c.deadline_serial;
	for (size_t i = 0; i + 1 < strlen(right); i++) {
		smtp_client_feed(&w->c, slice_of(right + i, 1));
		assert_int_equal(w->c.deadline_serial, serial);
	}
}

static void
endless(struct world *w, const char *right)
{
	char block[4096];

	flush(w);
	snprintf(block, sizeof block, "%.3s-and so on and so forth\r\n", right);
	flood(w, slice_str(block), SLICE_NONE);
}

static void
long_line(struct world *w, const char *right)
{
	char block[4096];

	flush(w);
	memset(block, 'x', sizeof block);
	flood(w, slice_of(block, sizeof block), slice_of(right, 4));
}

static void
split(struct world *w, const char *right)
{
	for (size_t i = 0; right[i] != '\0'; i++) {
		flush(w);
		buf_putc(&w->in, right[i]);
	}
}

static void
wrong_class(struct world *w, const char *right)
{
	buf_puts(&w->in, right[0] == '3' ? "250 ok\r\n" : "354 go on\r\n");
}

static void
surplus(struct world *w, const char *right)
{
	buf_puts(&w->in, right);
	buf_puts(&w->in, right);
}

/* In place of the right reply: something is done, or one of n things is said; then perhaps it is
 * the end. What begins as the rest of a line comes behind the right code. BEFORE has no row: it was
 * said with the reply before, and the one that is due is missing. */
// clang-format off
#define SAYS(text) { text, sizeof(text) - 1 }
static const struct misbehaviour {
	void (*act)(struct world *w, const char *right);
	size_t n;
	struct slice says[4];
	enum verdict_reason gone;
} misbehaviours[N_BEHAVIOURS] = {
	[HANG]        = { .gone = VERDICT_BY_TIMEOUT },
	[FIN]         = { .gone = VERDICT_BY_LOST },
	[RST]         = { .gone = VERDICT_BY_LOST },
	[DRIP]        = { .act = drip, .gone = VERDICT_BY_TIMEOUT },
	[GARBAGE]     = { .n = 1, .says = { SAYS("xyzzy, nothing happens\r\n") } },
	[EMPTY_LINE]  = { .n = 1, .says = { SAYS("\r\n") } },
	[SAYS_421]    = { .n = 1, .says = { SAYS("421 4.3.2 going down\r\n") }, .gone = VERDICT_BY_LOST },
	[SAYS_4XX]    = { .n = 1, .says = { SAYS("451 4.3.0 later\r\n") } },
	[SAYS_5XX]    = { .n = 1, .says = { SAYS("554 5.7.1 no\r\n") } },
	[WRONG_CLASS] = { .act = wrong_class },
	[ODD_CODE]    = { .n = 4, .says = { SAYS("150 x\r\n"), SAYS("650 x\r\n"), SAYS("050 x\r\n"), SAYS("2x0 x\r\n") } },
	[ENDLESS]     = { .act = endless },
	[LONG_LINE]   = { .act = long_line },
	[NUL]         = { .n = 1, .says = { SAYS(" a\0b\r\n") } },
	[BARE]        = { .n = 4, .says = { SAYS("250 ok\n"), SAYS("250 o\rk\r\n"), SAYS("354 go\n"), SAYS("250\r \r\n") } },
	[EIGHT_BIT]   = { .n = 1, .says = { SAYS(" \xff\xfe gr\xc3\xbc\xc3\x9f \x80\r\n") } },
	[MIXED]       = { .n = 2, .says = { SAYS("-ok\r\n252 ok\r\n"), SAYS("-ok\r\n550 no\r\n") } },
	[SURPLUS]     = { .act = surplus },
	[SPLIT]       = { .act = split },
};
// clang-format on

static void
misbehave(struct world *w, const char *right)
{
	const struct misbehaviour *m = &misbehaviours[w->behaviour];

	w->hit = true;
	if (m->act != NULL)
		m->act(w, right);
	if (m->n > 0) {
		struct slice says = m->says[(size_t)w->variant % m->n];

		if (says.p[0] == ' ' || says.p[0] == '-')
			buf_put(&w->in, right, 3);
		buf_put_slice(&w->in, says);
	}
	if (m->gone != VERDICT_BY_NONE)
		w->gone = m->gone;
}

static void
answer(struct world *w, enum stage stage, enum stage next)
{
	const char *right = right_reply[stage];

	if (w->gone != VERDICT_BY_NONE)
		return;
	if (stage == EHLO && w->stage == HELO)
		right = "502 5.5.1 EHLO?\r\n";
	else if (stage == EHLO && !w->pipelining)
		right = "250-sink\r\n250 8BITMIME\r\n";
	if ((stage == RCPT_FIRST || stage == RCPT_LAST) && w->stage == RSET)
		right = "550 5.1.1 nobody\r\n";
	if (stage == DATA && w->stage == RSET)
		right = "554 5.5.1 no valid recipients\r\n";
	if (stage == w->stage && !w->hit) {
		w->hit = true;
		if (w->behaviour == BEFORE && stage == GREETING)
			buf_puts(&w->in, right); /* a greeting has nothing before it */
		else
			misbehave(w, right);
		return;
	}
	if (stage == DOT)
		w->sent_right_dot = true;
	buf_puts(&w->in, right);
	if (w->behaviour == BEFORE && next == w->stage && !w->hit) {
		buf_puts(&w->in, right_reply[next]);
		w->said_early = true;
	}
}

static void
peer_hears_line(struct world *w, struct slice line)
{
	if (w->in_data) {
		if (slice_is(line, ".")) {
			w->in_data = false;
			answer(w, DOT, IDLE);
		}
		return;
	}
	if (slice_starts_nocase(line, "EHLO ")) {
		answer(w, EHLO, w->stage == HELO ? HELO : MAIL);
	} else if (slice_starts_nocase(line, "HELO ")) {
		answer(w, HELO, MAIL);
	} else if (slice_starts_nocase(line, "MAIL FROM:<")) {
		w->n_rcpt = 0;
		answer(w, w->n_mail++ == 0 ? MAIL : IDLE, RCPT_FIRST);
	} else if (slice_starts_nocase(line, "RCPT TO:<")) {
		bool first = w->n_rcpt++ == 0;

		answer(w, first ? RCPT_FIRST : RCPT_LAST, first ? RCPT_LAST : DATA);
	} else if (slice_is(line, "DATA")) {
		/* A peer that says 354 reads a body; any other stays with commands. */
		w->in_data = w->stage == DATA ? w->behaviour == EIGHT_BIT || w->behaviour >= SURPLUS
					      : w->stage != RSET;
		answer(w, DATA, DOT);
	} else if (slice_is(line, "RSET")) {
		answer(w, RSET, QUIT);
	} else if (slice_is(line, "QUIT")) {
		answer(w, QUIT, N_STAGES);
	} else {
		fail_msg("%s %s: the client says `%.*s`", stage_names[w->stage],
			 behaviour_names[w->behaviour], (int)line.n, line.p);
	}
}

static void
peer_hears(struct world *w, struct slice bytes)
{
	for (size_t i = 0; i < bytes.n; i++) {
		buf_putc(&w->line, bytes.p[i]);
		if (w->line.len >= 2 && bytes.p[i] == '\n') {
			struct slice line = buf_slice(&w->line);
			char copy[1024];

			assert_true(line.p[line.n - 2] == '\r');
			assert_true(line.n < sizeof copy);
			memcpy(copy, line.p, line.n);
			line = slice_of(copy, line.n - 2);
			buf_reset(&w->line);
			peer_hears_line(w, line);
		}
	}
}

static void
take_result(struct world *w)
{
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(w->c.outcomes.rows[i].state, SMTP_CLIENT_OUTCOME_SETTLED);
		w->actions[w->messages - 1][i] = w->c.outcomes.rows[i].verdict.action;
	}
	smtp_client_taken(&w->c);
}

/* What the peer has said arrives; then perhaps its end. True when something arrived. */
static bool
hear_peer(struct world *w)
{
	struct buf in = w->in;
	bool some = in.len > 0;

	buf_init(&w->in);
	feed(w, buf_slice(&in));
	buf_clear(&in);
	if (!some && w->gone != VERDICT_BY_NONE) {
		smtp_client_fail(&w->c, w->gone);
		some = true;
	}
	return some;
}

static void
run(struct world *w)
{
	int most_messages = w->stage == IDLE ? 2 : 1;
	struct smtp_policy policy = { .bounce_5xx_greeting = true };

	for (int m = 0; m < 4; m++)
		w->actions[m / 2][m % 2] = NOTHING;
	smtp_client_init(&w->c, &policy, SLICE_LIT("mta.example.net"));
	answer(w, GREETING, EHLO);
	for (int turn = 0; turn < 200; turn++) {
		unsigned want = smtp_client_want(&w->c);
		struct slice out = smtp_client_output(&w->c);

		if (want & SMTP_CLIENT_CLOSE)
			return;
		if (want & SMTP_CLIENT_RESULT) {
			take_result(w);
		} else if (hear_peer(w)) {
			continue;
		} else if (want & SMTP_CLIENT_MAIL) {
			if (w->messages < most_messages) {
				w->messages++;
				message.ask = w->ask;
				smtp_client_begin(&w->c, &message);
			} else {
				smtp_client_quit(&w->c);
			}
		} else if (want & SMTP_CLIENT_MAY) {
			assert_true(w->ask && !(w->c.ehlo.has & SMTP_EHLO_PIPELINING));
			smtp_client_may(&w->c, true);
		} else if (want & SMTP_CLIENT_BODY) {
			if (w->stage == BODY && !w->hit) {
				if (w->behaviour == BEFORE)
					buf_puts(&w->in, right_reply[BODY]);
				else
					misbehave(w, right_reply[BODY]);
				w->hit = true;
				continue;
			}
			peer_hears(w, SLICE_LIT("a body\r\n"));
			smtp_client_body_done(&w->c, true);
		} else if (want & SMTP_CLIENT_WRITE) {
			struct buf copy = { 0 };

			/* Written is written, whatever the peer makes of it. */
			buf_put_slice(&copy, out);
			smtp_client_wrote(&w->c, out.n);
			peer_hears(w, buf_slice(&copy));
			buf_clear(&copy);
		} else {
			/* Nothing more will come: the deadline. */
			smtp_client_fail(&w->c, VERDICT_BY_TIMEOUT);
		}
	}
	fail_msg("%s %s: no end", stage_names[w->stage], behaviour_names[w->behaviour]);
}

/* The oracle, by stage and behaviour, of recipient `i` of message `m`. */
static unsigned
expected(const struct world *w, int m, int i)
{
	enum behaviour b = w->behaviour;
	bool benign = b == EIGHT_BIT || b == SPLIT;
	bool in_time = b == BEFORE && w->pipelining; /* the command had left in the same group */

	if (m == 1 && w->stage != IDLE)
		return NOTHING;
	switch (w->stage) {
	case GREETING:
		return benign || b == BEFORE ? VERDICT_DELIVERED : NOTHING;
	case EHLO:
	case HELO:
		return benign ? VERDICT_DELIVERED : NOTHING;
	case IDLE:
		if (m == 0)
			return VERDICT_DELIVERED;
		if (b == FIN || b == RST)
			return VERDICT_UNATTEMPTED; /* closed while idle: not a word was answered */
						    /* fall through */
	case MAIL:
		if (b == BEFORE)
			return NOTHING;
		return benign          ? VERDICT_DELIVERED
		       : b == SAYS_5XX ? VERDICT_PERMANENT
				       : VERDICT_TRANSIENT;
	case RCPT_FIRST:
	case RCPT_LAST:
		if (benign || in_time)
			return VERDICT_DELIVERED;
		if (b == SAYS_4XX || b == SAYS_5XX) {
			if (i != (w->stage == RCPT_LAST))
				return VERDICT_DELIVERED;
			return b == SAYS_5XX ? VERDICT_PERMANENT : VERDICT_TRANSIENT;
		}
		/* Without PIPELINING the second RCPT had not left when the talk broke off. When the
		 * first had not either, both bear it. */
		if (!w->pipelining && i == 1 && (w->stage == RCPT_FIRST) != (b == BEFORE))
			return VERDICT_UNATTEMPTED;
		return VERDICT_TRANSIENT;
	case DATA:
		if (benign || in_time)
			return VERDICT_DELIVERED;
		return b == SAYS_5XX ? VERDICT_PERMANENT : VERDICT_TRANSIENT;
	case BODY:
		return VERDICT_TRANSIENT;
	case DOT:
		if (benign || b == SURPLUS)
			return VERDICT_DELIVERED;
		if (b == SAYS_421 || b == SAYS_4XX || b == BEFORE)
			return VERDICT_TRANSIENT;
		return b == SAYS_5XX ? VERDICT_PERMANENT : VERDICT_UNKNOWN;
	case RSET:
		return VERDICT_PERMANENT;
	default:
		return VERDICT_DELIVERED;
	}
}

static void
check_cell(struct world *w)
{
	for (int m = 0; m < 2; m++) {
		for (int i = 0; i < 2; i++) {
			unsigned want = expected(w, m, i);

			if (w->actions[m][i] != want)
				fail_msg("%s x %s, pipelining %d, ask %d, pieces of %zu, variant "
					 "%d: "
					 "message %d "
					 "recipient %d is %s, not %s",
					 stage_names[w->stage], behaviour_names[w->behaviour],
					 w->pipelining, w->ask, w->piece, w->variant, m, i,
					 verdict_action_text(w->actions[m][i]),
					 verdict_action_text(want));
		}
	}
	assert_int_equal(w->c.state, SMTP_CLIENT_CLOSED);
}

static void
test_matrix(void **state)
{
	static const size_t pieces[] = { 1, 100000 };
	int cells = 0;

	(void)state;
	for (int s = 0; s < N_STAGES; s++) {
		for (int b = 0; b < N_BEHAVIOURS; b++, cells++) {
			for (int v = 0; v < 32; v++) {
				struct world w = { .stage = (enum stage)s,
						   .behaviour = (enum behaviour)b,
						   .pipelining = v & 1,
						   .piece = pieces[v / 2 % 2],
						   .variant = v / 4 % 4,
						   .ask = v >= 16 };

				/* HELO knows no extensions. */
				if (s == HELO && w.pipelining)
					continue;
				run(&w);
				check_cell(&w);
				assert_true(w.hit || w.said_early);
				smtp_client_clear(&w.c);
				buf_clear(&w.line);
				buf_clear(&w.in);
			}
		}
	}
	assert_int_equal(cells, 240);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_matrix) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
