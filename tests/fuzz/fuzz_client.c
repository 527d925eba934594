/* The client machine with any peer: whatever bytes come, in whatever pieces, each recipient gets
 * one verdict that the talk can bear, nothing bare is written, and the talk ends. */
#include <stdlib.h>

#include "common/base/check.h"
#include "common/smtp/smtp_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RCPTS         3
#define MESSAGES_MOST 4

struct run {
	struct smtp_client c;
	struct smtp_client_message message;
	unsigned messages;
	bool cut;        /* the last write was a short one */
	bool dot_left;   /* the running message's dot is written */
	bool yes_behind; /* and a byte `2` has come since */
	bool ask;        /* each RCPT wants its leave */
	unsigned leaves; /* what is answered: 2 bits each, from the lowest */
	unsigned n_asked;
	bool may; /* the next RCPT has its leave */
};

static struct slice
rcpt_of(const void *arg, size_t i)
{
	static const char *const rcpts[RCPTS] = { "one@example.com", "\"t w\"@example.com",
						  "three@example.com" };

	(void)arg;
	return slice_str(rcpts[i]);
}

/* Whole lines, each byte of them fit to be sent. */
static void
check_output(struct slice out)
{
	CHECK(out.n >= 2 && out.p[out.n - 1] == '\n');
	for (size_t i = 0; i < out.n; i++) {
		CHECK(out.p[i] != '\0' && (out.p[i] != '\n' || (i > 0 && out.p[i - 1] == '\r')));
		CHECK(out.p[i] != '\r' || out.p[i + 1] == '\n');
	}
}

static void
take_result(struct run *r)
{
	const struct smtp_client_outcomes *o = &r->c.outcomes;

	CHECK(o->n == RCPTS);
	for (size_t i = 0; i < o->n; i++) {
		const struct verdict *v = &o->rows[i].verdict;
		struct slice text = smtp_client_outcomes_text(o, i);

		CHECK(o->rows[i].state == SMTP_CLIENT_OUTCOME_SETTLED && verdict_valid(v));
		CHECK(v->action != VERDICT_DELIVERED || (r->dot_left && r->yes_behind));
		CHECK(v->action != VERDICT_UNKNOWN || r->dot_left);
		CHECK(v->action != VERDICT_PERMANENT || v->code >= 500 ||
		      v->reason == VERDICT_BY_NO_FEATURE || v->reason == VERDICT_BY_TOO_BIG);
		CHECK(text.n <= REPLY_KEPT_MAX);
		for (size_t k = 0; k < text.n; k++)
			CHECK((unsigned char)text.p[k] >= ' ' && text.p[k] != 0x7f);
	}
	r->dot_left = r->yes_behind = r->may = false;
	smtp_client_taken(&r->c);
}

/* A leave given, refused, or (false) not there yet. */
static bool
answer(struct run *r)
{
	unsigned how = r->leaves >> 2 * (r->n_asked++ % 3) & 3;

	CHECK(r->ask && (r->c.ehlo.has & SMTP_EHLO_PIPELINING) == 0 && !r->may);
	CHECK(r->c.ask_rcpt < RCPTS && smtp_client_output(&r->c).n == 0);
	if (how == 3)
		return false;
	r->may = how != 2;
	smtp_client_may(&r->c, r->may);
	return true;
}

/* The time ran out before a byte left. */
static bool
take_back(struct run *r)
{
	if ((r->leaves & 3) != 1 || r->n_asked % 3 != 1 || !r->may || smtp_client_has_said(&r->c))
		return false;
	r->may = false;
	smtp_client_may(&r->c, false);
	return true;
}

/* No RCPT leaves without its leave. */
static void
check_leave(struct run *r, struct slice out)
{
	if (!r->ask || (r->c.ehlo.has & SMTP_EHLO_PIPELINING) != 0 ||
	    !slice_starts_nocase(out, "RCPT "))
		return;
	CHECK(r->may);
	r->may = false;
}

/* Does what the machine wants until it only wants to read. `part`: of each write so much at most.
 */
static void
serve(struct run *r, size_t part)
{
	unsigned want;

	while ((want = smtp_client_want(&r->c)) != SMTP_CLIENT_READ && want != SMTP_CLIENT_CLOSE) {
		struct slice out = smtp_client_output(&r->c);

		if (want & SMTP_CLIENT_RESULT) {
			take_result(r);
		} else if (want & SMTP_CLIENT_MAY) {
			if (!answer(r))
				return; /* the answer is under way: bytes of the peer come between
					 */
		} else if (want & SMTP_CLIENT_WRITE) {
			if (take_back(r))
				continue;
			check_leave(r, out);
			if (!r->cut)
				check_output(out);
			r->cut = out.n > part;
			smtp_client_wrote(&r->c, out.n < part ? out.n : part);
			r->dot_left |= r->c.state == SMTP_CLIENT_IN_DOT && out.n <= part;
			if (r->cut)
				return; /* the socket is full: bytes of the peer come between */
		} else if (want & SMTP_CLIENT_BODY) {
			smtp_client_body_done(&r->c, true);
		} else if (r->messages < MESSAGES_MOST && !smtp_client_spent(&r->c)) {
			r->messages++;
			smtp_client_begin(&r->c, &r->message);
		} else {
			smtp_client_quit(&r->c);
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct smtp_policy policy = { .bounce_5xx_greeting = true };
	struct run r = { 0 };
	size_t piece, part;

	if (size < 2 || size > 65536)
		return 0;
	piece = 1 + data[0] % 200;
	r.ask = data[0] >= 200; /* what is answered: the rest of this byte */
	r.leaves = r.ask ? data[0] - 200u : 0;
	r.message = (struct smtp_client_message){ .sender = SLICE_LIT("from@example.net"),
						  .body_bytes = 500,
						  .n_rcpts = RCPTS,
						  .ask = r.ask,
						  .rcpt = rcpt_of };
	part = data[1] < 128 ? SIZE_MAX : 1u + data[1] % 64;
	smtp_client_init(&r.c, &policy, SLICE_LIT("mta.example.net"));
	for (size_t at = 2; at < size; at += piece) {
		size_t n = size - at < piece ? size - at : piece;

		serve(&r, part);
		for (size_t i = 0; i < n; i++)
			r.yes_behind |= r.dot_left && data[at + i] == '2';
		smtp_client_feed(&r.c, slice_of((const char *)data + at, n));
	}
	for (int i = 0; i < 10 && smtp_client_want(&r.c) != SMTP_CLIENT_CLOSE; i++) {
		serve(&r, SIZE_MAX);
		smtp_client_fail(&r.c, i % 2 == 0 ? VERDICT_BY_TIMEOUT : VERDICT_BY_LOST);
	}
	CHECK(smtp_client_want(&r.c) == SMTP_CLIENT_CLOSE);
	smtp_client_clear(&r.c);
	return 0;
}
