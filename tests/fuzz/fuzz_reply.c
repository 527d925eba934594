/* A peer's bytes: the reply parser by itself, and the whole client machine against them. The first
 * byte chooses the policy; 0x1e parts what the peer says at a time. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/smtp/smtp_client.h"

#define TURN_BYTE 0x1e
#define RCPTS     3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Feeds one reply in pieces of at most `piece` bytes, each in memory of its own size. */
static enum smtp_reply_step
one_reply(struct smtp_reply *r, struct slice in, size_t piece, size_t *used)
{
	enum smtp_reply_step step = SMTP_REPLY_MORE;

	*used = 0;
	while (*used < in.n && (step == SMTP_REPLY_MORE || step == SMTP_REPLY_LINE)) {
		size_t n = in.n - *used < piece ? in.n - *used : piece, took;
		char *own = malloc(n);
		struct slice text;

		CHECK(own != NULL);
		memcpy(own, in.p + *used, n);
		step = smtp_reply_feed(r, slice_of(own, n), &took, &text);
		CHECK(took > 0 && took <= n);
		CHECK(r->text_n <= REPLY_KEPT_MAX && r->partial.len <= REPLY_LINE_MAX);
		*used += took;
		free(own);
	}
	return step;
}

/* The same bytes mean the same however they come. */
static void
whole_and_by_byte(struct slice in)
{
	while (in.n > 0) {
		struct smtp_reply a = { 0 }, b = { 0 };
		size_t used_a, used_b;
		enum smtp_reply_step step_a = one_reply(&a, in, in.n, &used_a);
		enum smtp_reply_step step_b = one_reply(&b, in, 1, &used_b);

		CHECK(step_a == step_b);
		if (step_a == SMTP_REPLY_DONE) {
			CHECK(used_a == used_b && a.code == b.code && a.lines == b.lines);
			CHECK(a.code >= 200 && a.code <= 599 && a.lines <= REPLY_LINES_MAX);
			CHECK(slice_eq(smtp_reply_text(&a), smtp_reply_text(&b)));
			CHECK(a.text_n >= 3 && (unsigned)(a.text[0] - '0') == a.code / 100u);
			for (size_t i = 0; i < a.text_n; i++)
				CHECK((unsigned char)a.text[i] >= 0x20 && a.text[i] != 0x7f);
		}
		smtp_reply_clear(&a);
		smtp_reply_clear(&b);
		if (step_a != SMTP_REPLY_DONE)
			return;
		in = slice_sub(in, used_a);
	}
}

static struct slice
rcpt_of(const void *arg, size_t i)
{
	static const char *const rcpts[RCPTS] = { "a@example.com", "b@example.com",
						  "\xc3\xbc@example.com" };

	(void)arg;
	return slice_str(rcpts[i]);
}

static const struct smtp_client_message message = { .sender = { "s@example.net", 13 },
						    .body_bytes = 500,
						    .body_8bit = true,
						    .n_rcpts = RCPTS,
						    .rcpt = rcpt_of };

/* All have a verdict, and nobody was delivered but by an answer to a dot that was out. */
static void
check_result(struct smtp_client *c, bool dot_was_out)
{
	for (size_t i = 0; i < RCPTS; i++) {
		const struct smtp_client_outcome *o = &c->outcomes.rows[i];

		CHECK(o->state == SMTP_CLIENT_OUTCOME_SETTLED && verdict_valid(&o->verdict));
		if (o->verdict.action == VERDICT_DELIVERED || o->verdict.action == VERDICT_UNKNOWN)
			CHECK(dot_was_out);
		(void)smtp_client_outcomes_text(&c->outcomes, i);
	}
}

/* What a driver does until it must hear the peer again; `most` bounds what is written at a time. */
static void
act(struct smtp_client *c, bool dot_was_out, unsigned *messages, size_t most)
{
	for (int i = 0; i < 16; i++) {
		unsigned want = smtp_client_want(c);
		struct slice out = smtp_client_output(c);

		if (want & SMTP_CLIENT_RESULT) {
			check_result(c, dot_was_out);
			CHECK(out.n == 0 || !(want & SMTP_CLIENT_WRITE));
			smtp_client_taken(c);
			dot_was_out = false;
		} else if ((want & SMTP_CLIENT_MAIL) && ++*messages < 6) {
			smtp_client_begin(c, &message);
		} else if (want & SMTP_CLIENT_MAIL) {
			smtp_client_quit(c);
		} else if (want & SMTP_CLIENT_BODY) {
			smtp_client_body_done(c, true);
		} else if (want & SMTP_CLIENT_WRITE) {
			smtp_client_wrote(c, out.n < most ? out.n : most);
			if (out.n > most)
				return;
		} else {
			return;
		}
	}
}

static bool
dot_is_out(const struct smtp_client *c)
{
	return c->state == SMTP_CLIENT_IN_DOT && c->out.len == 0;
}

static void
as_peer(struct slice in, uint8_t choice)
{
	struct smtp_policy policy = {
		.mx_unavailable_421 = choice & 1,
		.bounce_5xx_greeting = choice & 2,
		.ignore_pipelining = choice & 4,
		.bounce_transfer_failure = choice & 8,
	};
	struct smtp_client c;
	unsigned messages = 0;
	bool out;

	smtp_client_init(&c, &policy, SLICE_LIT("mta.example.net"));
	c.loop_check = choice & 16;
	while (in.p != NULL && !(smtp_client_want(&c) & SMTP_CLIENT_CLOSE)) {
		struct slice said = slice_cut(&in, TURN_BYTE);

		out = dot_is_out(&c);
		smtp_client_feed(&c, said);
		CHECK(c.reply.partial.len <= REPLY_LINE_MAX);
		act(&c, out, &messages, choice & 32 ? 60 : SIZE_MAX);
	}
	out = dot_is_out(&c);
	smtp_client_fail(&c, choice & 64 ? VERDICT_BY_TIMEOUT : VERDICT_BY_LOST);
	act(&c, out, &messages, SIZE_MAX);
	CHECK(smtp_client_want(&c) & SMTP_CLIENT_CLOSE);
	smtp_client_clear(&c);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	whole_and_by_byte(slice_of(data + 1, size - 1));
	as_peer(slice_of(data + 1, size - 1), data[0]);
	return 0;
}
