#include "bench/sink/sink_session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#define COMMAND_MAX 4096
#define OUT_HIGH    (64u << 10) /* a repeated reply is topped up to this */
#define LINGER_US   2000000u

/* COMMAND --DATA, 354--> CONTENT --dot--> COMMAND; from each of them
 *   --delay or drip--> (waiting, then on) ; --hang--> HUNG ; --close--> CLOSING */
enum session_state { COMMAND, CONTENT, HUNG, CLOSING };

struct sink_session {
	struct sink_provider_state *state;
	int fd;
	struct watch watch;
	struct timer timer; /* delay, drip or linger; made when first needed */
	enum session_state now;
	bool waiting; /* for the timer: nothing is parsed */
	bool in_mail;
	bool close_when_sent, reset;
	int messages;
	struct buf in, out;
	struct sink_promise promise;
	struct sink_body body;
	/* the answer under way */
	enum sink_stage stage;
	const struct sink_rule *rule;
	struct buf key;
	uint32_t repeat_left;
	uint32_t drip_us;
	char peer[SINK_PEER_BYTES], local[SINK_PEER_BYTES];
};

static void on_socket(void *arg, short what);
static void on_timer(void *arg);

void
sink_peer_text(char dst[SINK_PEER_BYTES], const struct sockaddr *sa)
{
	char ip[INET6_ADDRSTRLEN] = "?";

	if (sa->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;

		inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
		snprintf(dst, SINK_PEER_BYTES, "[%s]:%u", ip, ntohs(in6->sin6_port));
	} else {
		const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;

		inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
		snprintf(dst, SINK_PEER_BYTES, "%s:%u", ip, ntohs(in->sin_port));
	}
}

/* The client's address without the port. */
static struct slice
client_ip(const struct sink_session *s)
{
	return slice_of(s->peer, (size_t)(strrchr(s->peer, ':') - s->peer));
}

/* The 250 to the dot is with the kernel: now, and not before, the ledger says so. */
static void
ledger_settle(struct sink_session *s)
{
	struct sink_stats *st = &s->state->stats;

	st->messages++;
	st->last_250_us = clock_wall_us();
	st->recipients +=
		sink_promise_write(&s->promise, &s->state->shared->ledger, "", st->last_250_us);
}

/* Taken, but the client will never learn it. */
static void
ledger_unanswered(struct sink_session *s)
{
	s->state->stats.unanswered++;
	sink_promise_write(&s->promise, &s->state->shared->ledger, "unanswered ", clock_wall_us());
}

static void
session_free(struct sink_session *s)
{
	struct sink_stats *st = &s->state->stats;

	if (s->promise.made)
		ledger_unanswered(s);
	st->lost_in_data += s->now == CONTENT;
	st->open--;
	watch_clear(&s->watch);
	timer_clear(&s->timer);
	close(s->fd);
	buf_clear(&s->in);
	buf_clear(&s->out);
	sink_promise_clear(&s->promise);
	buf_clear(&s->key);
	mem_free(s);
}

static void
wait_us(struct sink_session *s, uint64_t us)
{
	if (s->timer.ev == NULL)
		timer_init(&s->timer, s->state->shared->loop, on_timer, s);
	timer_set(&s->timer, us);
}

static void
transaction_reset(struct sink_session *s)
{
	s->in_mail = false;
	sink_promise_forget(&s->promise);
}

static void
ledger_prepare(struct sink_session *s)
{
	s->state->stats.bytes += s->body.bytes;
	sink_promise_make(&s->promise, s->state->provider->name, s->peer, &s->body);
}

/* Everything is sent and the session shall end: FIN, and the rest of the client's talk is read, so
 * that it does not turn our FIN into a reset. False when the session is gone. */
static bool
session_end(struct sink_session *s)
{
	if (s->reset) {
		setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 },
			   sizeof(struct linger));
		session_free(s);
		return false;
	}
	if (s->now != CLOSING) {
		s->now = CLOSING;
		shutdown(s->fd, SHUT_WR);
		wait_us(s, LINGER_US);
	}
	return true;
}

/* Fills the output with a repeated reply, a piece at a time. */
static void
top_up(struct sink_session *s)
{
	for (; s->repeat_left > 0 && s->out.len < OUT_HIGH; s->repeat_left--)
		buf_puts(&s->out, s->rule->reply);
}

/* Sends what waits. False when the session is gone. */
static bool
session_flush(struct sink_session *s)
{
	for (;;) {
		struct slice out;
		ssize_t n;

		if (s->out.len == 0)
			top_up(s);
		if (s->out.len == 0)
			break;
		out = buf_slice(&s->out);
		n = send(s->fd, out.p, s->drip_us > 0 ? 1 : out.n, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			watch_set(&s->watch, EV_WRITE);
			return true;
		}
		if (n < 0) {
			session_free(s);
			return false;
		}
		buf_consume(&s->out, (size_t)n);
		if (s->drip_us > 0) {
			s->waiting = true;
			watch_set(&s->watch, 0);
			wait_us(s, s->drip_us);
			return true;
		}
	}
	if (s->promise.made)
		ledger_settle(s);
	if (s->close_when_sent && !session_end(s))
		return false;
	watch_set(&s->watch, s->waiting ? 0 : EV_READ);
	return true;
}

static void
put_ehlo(struct sink_session *s)
{
	const struct sink_provider *p = s->state->provider;

	buf_printf(&s->out, "250%c%s\r\n", p->n_features > 0 ? '-' : ' ', p->name);
	for (size_t i = 0; i < p->n_features; i++)
		buf_printf(&s->out, "250%c%s\r\n", i + 1 < p->n_features ? '-' : ' ',
			   p->features[i]);
}

/* Lines parted by \n; without CRLF. */
static void
put_lines(struct sink_session *s, const char *text)
{
	struct slice rest = slice_str(text);

	while (rest.p != NULL) {
		buf_put_slice(&s->out, slice_cut(&rest, '\n'));
		buf_puts(&s->out, "\r\n");
	}
}

static void
trace(struct sink_session *s, const char *reply)
{
	struct sink_log *t = &s->state->shared->trace;

	if (!sink_log_wanted(t))
		return;
	sink_log_u64(&t->buf, clock_wall_us());
	buf_printf(&t->buf, " %s %s %s %s ", s->state->provider->name, s->peer, s->local,
		   sink_stage_name(s->stage));
	sink_log_field(&t->buf, buf_slice(&s->key));
	buf_putc(&t->buf, ' ');
	while (*reply != '\0' && *reply != '\r' && *reply != '\n')
		buf_putc(&t->buf, *reply++);
	buf_putc(&t->buf, '\n');
	sink_log_added(t);
}

static const char *
usual_reply(const struct sink_session *s)
{
	switch (s->stage) {
	case SINK_AT_connect:
		return s->state->provider->banner;
	case SINK_AT_mail:
		return "250 2.1.0 sender ok";
	case SINK_AT_rcpt:
		return "250 2.1.5 recipient ok";
	case SINK_AT_data:
		return "354 end with a dot";
	case SINK_AT_dot:
		return "250 2.0.0 taken";
	case SINK_AT_quit:
		return "221 2.0.0 bye";
	default:
		return "250 2.0.0 ok";
	}
}

/* What an answer with first digit `digit` does to the transaction. */
static void
take_effect(struct sink_session *s, int digit)
{
	switch (s->stage) {
	case SINK_AT_mail:
		transaction_reset(s);
		if (digit == 2) {
			s->in_mail = true;
			sink_promise_sender(&s->promise, buf_slice(&s->key));
		}
		break;
	case SINK_AT_rcpt:
		if (digit == 2)
			sink_promise_rcpt(&s->promise, buf_slice(&s->key));
		break;
	case SINK_AT_data:
		if (digit == 3) {
			s->now = CONTENT;
			sink_body_init(&s->body);
		}
		break;
	case SINK_AT_dot:
		if (digit == 2)
			ledger_prepare(s);
		transaction_reset(s);
		break;
	case SINK_AT_rset:
	case SINK_AT_ehlo:
		transaction_reset(s);
		break;
	default:
		break;
	}
}

static void
put_reply(struct sink_session *s)
{
	const struct sink_rule *rule = s->rule;
	bool own = rule != NULL && rule->reply != NULL;
	const char *text = own ? rule->reply : usual_reply(s);
	int digit = *text >= '0' && *text <= '5' ? *text - '0' : 0;

	trace(s, text);
	s->state->stats.replies[s->stage][digit]++;
	if (own && rule->raw) {
		s->repeat_left = (uint32_t)rule->repeat;
		take_effect(s, digit);
		return;
	}
	if (!own && s->stage == SINK_AT_ehlo)
		put_ehlo(s);
	else
		put_lines(s, text);
	take_effect(s, digit);
}

/* The delay is over: the answer goes out, and does what it says. */
static void
answer_now(struct sink_session *s)
{
	const struct sink_rule *rule = s->rule;
	enum sink_action action = rule != NULL ? rule->action : SINK_DO_reply;

	s->waiting = false;
	if (action == SINK_DO_reply || rule->reply != NULL) {
		put_reply(s);
	} else {
		trace(s, action == SINK_DO_close ? "(close)"
			 : action == SINK_DO_rst ? "(rst)"
						 : "(hang)");
		if (s->stage == SINK_AT_dot) {
			ledger_prepare(s);
			ledger_unanswered(s);
		}
		transaction_reset(s);
	}
	if (rule != NULL && rule->drip_ms > 0)
		s->drip_us = (uint32_t)rule->drip_ms * 1000;
	if (action == SINK_DO_hang)
		s->now = HUNG;
	s->reset = action == SINK_DO_rst;
	if (action == SINK_DO_close || action == SINK_DO_rst || s->stage == SINK_AT_quit)
		s->close_when_sent = true;
}

/* Decides on the answer to `stage`; `key` is what the rules look at. */
static void
answer(struct sink_session *s, enum sink_stage stage, struct slice key)
{
	struct sink_provider_state *ps = s->state;
	struct sink_facts f = { stage, 0, key, client_ip(s) };
	uint64_t delay_us = (uint64_t)ps->provider->delay_ms[stage] * 1000;

	f.now_us = loop_boot_us(ps->shared->loop) - ps->shared->script_boot_us;
	s->stage = stage;
	s->rule = sink_rules_decide(ps->rules, &f);
	buf_reset(&s->key);
	buf_put_slice(&s->key, key);
	if (s->rule != NULL)
		delay_us += (uint64_t)s->rule->delay_ms * 1000;
	if (delay_us == 0) {
		answer_now(s);
		return;
	}
	s->waiting = true;
	wait_us(s, delay_us);
}

static void
answer_plain(struct sink_session *s, const char *text)
{
	s->state->stats.bad_commands++;
	put_lines(s, text);
}

/* The path of `MAIL FROM:<...>` or `RCPT TO:<...>`: what stands between the brackets. */
static bool
command_path(struct slice line, struct slice *path)
{
	const char *open = memchr(line.p, '<', line.n);
	const char *close_at =
		open != NULL ? memrchr(open, '>', (size_t)(line.p + line.n - open)) : NULL;

	if (close_at == NULL)
		return false;
	*path = slice_of(open + 1, (size_t)(close_at - open - 1));
	return true;
}

static void
do_mail(struct sink_session *s, struct slice line)
{
	struct sink_stats *st = &s->state->stats;
	struct slice path;

	st->mails++;
	if (st->first_mail_us == 0)
		st->first_mail_us = clock_wall_us();
	if (!command_path(line, &path) || s->in_mail) {
		answer_plain(s,
			     s->in_mail ? "503 5.5.1 one sender at a time" : "501 5.5.4 no path");
		return;
	}
	if (s->state->provider->max_messages > 0 &&
	    s->messages >= s->state->provider->max_messages) {
		put_lines(s, "421 4.7.0 enough for one connection");
		st->replies[SINK_AT_mail][4]++;
		s->close_when_sent = true;
		return;
	}
	answer(s, SINK_AT_mail, path);
}

static void
do_rcpt(struct sink_session *s, struct slice line)
{
	struct slice path;

	s->state->stats.rcpts++;
	if (!s->in_mail || !command_path(line, &path))
		answer_plain(s, s->in_mail ? "501 5.5.4 no path" : "503 5.5.1 MAIL first");
	else
		answer(s, SINK_AT_rcpt, path);
}

static void
do_data(struct sink_session *s, struct slice line)
{
	(void)line;
	if (s->promise.n_rcpts == 0) {
		s->state->stats.replies[SINK_AT_data][5]++;
		put_lines(s, s->in_mail ? "554 5.5.1 no valid recipients" : "503 5.5.1 MAIL first");
	} else {
		answer(s, SINK_AT_data, sink_promise_first_rcpt(&s->promise));
	}
}

static void
do_ehlo(struct sink_session *s, struct slice line)
{
	answer(s, SINK_AT_ehlo, slice_trim(slice_sub(line, 4)));
}

static void
do_helo(struct sink_session *s, struct slice line)
{
	(void)line;
	transaction_reset(s);
	put_lines(s, "250 hello");
}

static void
do_rset(struct sink_session *s, struct slice line)
{
	(void)line;
	answer(s, SINK_AT_rset, SLICE_NONE);
}

static void
do_noop(struct sink_session *s, struct slice line)
{
	(void)line;
	put_lines(s, "250 2.0.0 ok");
}

static void
do_quit(struct sink_session *s, struct slice line)
{
	(void)line;
	answer(s, SINK_AT_quit, SLICE_NONE);
}

// clang-format off
static const struct verb {
	const char *name;
	void (*run)(struct sink_session *s, struct slice line);
	bool last_of_group; /* RFC 2920 3.1 */
} verbs[] = {
	{ "MAIL FROM:", do_mail, false }, { "RCPT TO:", do_rcpt, false }, { "DATA", do_data, true },
	{ "RSET", do_rset, false },       { "EHLO", do_ehlo, true },      { "HELO", do_helo, true },
	{ "NOOP", do_noop, true },        { "QUIT", do_quit, true },
};
// clang-format on

static void
do_line(struct sink_session *s, struct slice line, bool more)
{
	struct sink_stats *st = &s->state->stats;

	st->faults.bare_lf += line.n == 0 || line.p[line.n - 1] != '\r';
	line.n -= line.n > 0 && line.p[line.n - 1] == '\r';
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		if (!slice_starts_nocase(line, verbs[i].name))
			continue;
		st->early_talk += more && verbs[i].last_of_group;
		verbs[i].run(s, line);
		return;
	}
	answer_plain(s, "500 5.5.1 what?");
}

static size_t
feed_content(struct sink_session *s, const char *p, size_t n)
{
	bool done;
	size_t took = sink_body_feed(&s->body, p, n, &done);

	if (!done)
		return took;
	s->now = COMMAND;
	s->messages++;
	sink_stats_faults(&s->state->stats, &s->body.faults);
	answer(s, SINK_AT_dot, sink_promise_first_rcpt(&s->promise));
	return took;
}

static size_t
feed_command(struct sink_session *s, const char *p, size_t n)
{
	const char *nl = memchr(p, '\n', n);

	if (nl == NULL && n > COMMAND_MAX) {
		answer_plain(s, "500 5.5.2 line too long");
		s->close_when_sent = true;
		return n;
	}
	if (nl == NULL)
		return 0;
	do_line(s, slice_of(p, (size_t)(nl - p)), nl + 1 < p + n);
	return (size_t)(nl + 1 - p);
}

/* Takes bytes as far as the dialogue allows; the rest waits in s->in, where they may be already. */
static void
session_advance(struct sink_session *s, const char *p, size_t n)
{
	bool waited = s->in.len > 0;
	size_t i = 0, took = 1;

	/* A 250 to the dot goes out before anything else is done; so does what is dripped or long.
	 */
	while (i < n && took > 0 && !s->waiting && !s->close_when_sent && s->now <= CONTENT &&
	       !s->promise.made && s->drip_us == 0 && s->repeat_left == 0) {
		took = s->now == CONTENT ? feed_content(s, p + i, n - i)
					 : feed_command(s, p + i, n - i);
		i += took;
	}
	if (s->now > CONTENT || s->close_when_sent)
		i = n; /* nobody will read the rest */
	if (waited)
		buf_consume(&s->in, i);
	else
		buf_put(&s->in, p + i, n - i);
}

/* Advances and sends, and again as long as whole commands wait. */
static void
session_turn(struct sink_session *s, const char *p, size_t n)
{
	bool moved;

	do {
		size_t before = n;

		if (n > 0)
			session_advance(s, p, n);
		if (!session_flush(s))
			return;
		moved = before == 0 || s->in.len < before;
		p = s->in.data + s->in.start;
		n = s->in.len;
	} while (n > 0 && moved && !s->waiting && s->out.len == 0);
}

static void
on_timer(void *arg)
{
	struct sink_session *s = arg;

	if (s->now == CLOSING) {
		session_free(s);
		return;
	}
	if (s->drip_us > 0) {
		s->waiting = false;
		if (s->out.len == 0 && s->repeat_left == 0)
			s->drip_us = 0;
	} else {
		answer_now(s);
	}
	session_turn(s, NULL, 0);
}

static void
on_socket(void *arg, short what)
{
	struct sink_session *s = arg;
	char *mem = s->state->shared->read;
	ssize_t n;

	if (what & EV_WRITE) {
		session_turn(s, NULL, 0);
		return;
	}
	n = recv(s->fd, mem, sizeof s->state->shared->read, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		session_free(s);
		return;
	}
	if (s->now >= HUNG)
		return;
	if (s->in.len > 0) {
		buf_put(&s->in, mem, (size_t)n);
		session_turn(s, s->in.data + s->in.start, s->in.len);
	} else {
		session_turn(s, mem, (size_t)n);
	}
}

void
sink_session_start(struct sink_provider_state *state, int fd, const struct sockaddr *peer,
		   const struct sockaddr *local)
{
	struct sink_session *s = mem_zalloc(sizeof *s);
	struct sink_stats *st = &state->stats;
	struct sink_log *connections = &state->shared->connections;
	int max = state->provider->max_connections;

	s->state = state;
	s->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	sink_peer_text(s->peer, peer);
	sink_peer_text(s->local, local);
	watch_init(&s->watch, state->shared->loop, fd, on_socket, s);
	st->connections++;
	if (++st->open > st->peak)
		st->peak = st->open;
	if (sink_log_wanted(connections)) {
		buf_printf(&connections->buf, "%llu %s %s %s\n",
			   (unsigned long long)clock_wall_us(), state->provider->name, s->peer,
			   s->local);
		sink_log_added(connections);
	}
	if (max > 0 && st->open > (uint64_t)max) {
		st->refused++;
		st->replies[SINK_AT_connect][4]++;
		put_lines(s, "421 4.7.0 too many connections");
		s->close_when_sent = true;
	} else {
		answer(s, SINK_AT_connect, client_ip(s));
	}
	session_turn(s, NULL, 0);
}
