#include "bench/load/load_session.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load/load_run.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mem.h"

#define REPLY_ROOM     65536
#define PIECES         64
#define PAUSE_FIRST_US 10000u
#define PAUSE_MOST_US  500000u

static void on_socket(void *arg, short what);
static void on_timer(void *arg);
static void transaction_done(struct load_session *s);

void
load_session_init(struct load_session *s, struct load_run *run)
{
	memset(s, 0, sizeof *s);
	s->run = run;
	s->fd = -1;
	s->taken = mem_calloc(run->plan.rcpts, 1);
	timer_init(&s->timer, run->loop, on_timer, s);
}

static void
hang_up(struct load_session *s)
{
	watch_clear(&s->watch);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	buf_reset(&s->in);
	buf_reset(&s->out);
}

void
load_session_clear(struct load_session *s)
{
	hang_up(s);
	timer_clear(&s->timer);
	buf_clear(&s->in);
	buf_clear(&s->out);
	load_mail_clear(&s->mail);
	mem_free(s->taken);
	s->taken = NULL;
}

static void
pause_us(struct load_session *s, uint64_t us)
{
	s->state = LOAD_PAUSE;
	timer_set(&s->timer, us);
}

static void
die(struct load_session *s)
{
	if (s->state == LOAD_DEAD)
		return;
	hang_up(s);
	timer_stop(&s->timer);
	s->state = LOAD_DEAD;
	load_run_dead(s->run, s);
}

/* The message's recipients whose RCPT was taken become acknowledged or unknown; the others were
 * counted as refused when they were. */
static void
settle(struct load_session *s, bool unknown)
{
	struct load_run *r = s->run;
	struct load_stats *st = &r->stats;

	if (unknown) {
		st->unknown += s->rcpts_taken;
	} else {
		st->acknowledged += s->rcpts_taken;
		st->messages++;
		st->bytes += s->mail.bytes;
		st->last_us = clock_wall_us();
	}
	for (unsigned k = 0; k < r->plan.rcpts; k++)
		if (s->taken[k])
			load_run_write(r, s, k, unknown);
	s->has_mail = false;
}

/* The connection is gone, by whatever. */
static void
lost(struct load_session *s)
{
	struct load_run *r = s->run;
	bool connected = s->state > LOAD_NEW;
	bool by_us = s->state == LOAD_QUIT;

	if (connected && !by_us)
		r->stats.lost_connections++;
	else if (!connected)
		r->stats.connect_failures++;
	s->failures = s->state > LOAD_EHLO ? 0 : s->failures + 1;
	hang_up(s);
	load_run_forget(r, s);
	if (s->has_mail) {
		/* Without the last byte of the dot the server cannot have taken it. */
		bool dot_sent = s->state == LOAD_DOT && s->mail_sent == s->mail.wire_bytes;

		if (dot_sent)
			settle(s, true);
		s->has_mail = false;
		s->state = LOAD_PAUSE;
		(dot_sent ? load_run_settled : load_run_returned)(r, s);
	}
	if (s->state == LOAD_DEAD)
		return;
	if (r->ended || (!r->opt.reconnect && !by_us)) {
		die(s);
		return;
	}
	if (by_us)
		pause_us(s, 0);
	else
		pause_us(s,
			 s->failures > 5 ? PAUSE_MOST_US : (uint64_t)PAUSE_FIRST_US << s->failures);
}

void
load_session_expire(struct load_session *s)
{
	lost(s);
}

/* Sends what is buffered, then the mail while in DOT. False when the connection was lost. */
static bool
flush(struct load_session *s)
{
	for (;;) {
		struct iovec iov[PIECES];
		struct slice out = buf_slice(&s->out);
		struct msghdr msg = { .msg_iov = iov };
		ssize_t n;

		if (out.n > 0) {
			iov[0] = (struct iovec){ (void *)(uintptr_t)out.p, out.n };
			msg.msg_iovlen = 1;
		} else if (s->state == LOAD_DOT && s->mail_sent < s->mail.wire_bytes) {
			msg.msg_iovlen =
				(size_t)load_mail_pieces(&s->mail, s->mail_sent, iov, PIECES);
		} else {
			break;
		}
		n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			watch_set(&s->watch, EV_READ | EV_WRITE);
			return true;
		}
		if (n < 0) {
			lost(s);
			return false;
		}
		s->active_us = loop_boot_us(s->run->loop);
		if (out.n > 0)
			buf_consume(&s->out, (size_t)n);
		else
			s->mail_sent += (size_t)n;
	}
	if (s->state == LOAD_DOT && s->dot_us == 0)
		s->dot_us = clock_boot_us();
	watch_set(&s->watch, EV_READ);
	return true;
}

static void
put_rcpt(struct load_session *s)
{
	buf_puts(&s->out, "RCPT TO:<");
	load_rcpt_put(&s->out, &s->run->plan, s->mail.number, s->rcpts_sent++);
	buf_puts(&s->out, ">\r\n");
}

void
load_session_mail(struct load_session *s, uint64_t number)
{
	struct load_run *r = s->run;

	CHECK(s->state == LOAD_IDLE && !s->has_mail);
	load_mail_make(&s->mail, &r->plan, number, load_run_date(r));
	s->has_mail = true;
	s->mail_sent = 0;
	s->dot_us = 0;
	s->rcpts_sent = s->rcpts_answered = s->rcpts_taken = 0;
	memset(s->taken, 0, r->plan.rcpts);
	if (r->stats.first_us == 0)
		r->stats.first_us = clock_wall_us();
	s->state = LOAD_MAIL;
	s->active_us = loop_boot_us(r->loop);
	buf_printf(&s->out, "MAIL FROM:<%s>%s\r\n", r->plan.sender,
		   r->plan.eight_bit ? " BODY=8BITMIME" : "");
	if (s->can_pipeline && r->opt.pipelining) {
		while (s->rcpts_sent < r->plan.rcpts)
			put_rcpt(s);
		buf_puts(&s->out, "DATA\r\n");
	}
	flush(s);
}

void
load_session_quit(struct load_session *s)
{
	if (s->state == LOAD_IDLE) {
		s->state = LOAD_QUIT;
		buf_puts(&s->out, "QUIT\r\n");
		flush(s);
	} else if (s->state != LOAD_QUIT) {
		die(s);
	}
}

static void
refuse(struct load_session *s, unsigned recipients, int code)
{
	s->run->stats.refused += recipients;
	if (code < 500)
		s->run->stats.refused_temporary += recipients;
}

/* The transaction came to nothing: back to IDLE by way of RSET. */
static void
abandon(struct load_session *s, int code)
{
	refuse(s, s->rcpts_taken, code);
	s->state = LOAD_RSET;
	s->has_mail = false;
	buf_puts(&s->out, "RSET\r\n");
	(s->run->opt.insist && code < 500 ? load_run_returned : load_run_settled)(s->run, s);
}

static void
on_mail_reply(struct load_session *s, int code)
{
	if (code / 100 != 2 && !(s->can_pipeline && s->run->opt.pipelining)) {
		refuse(s, s->run->plan.rcpts, code);
		abandon(s, code);
		return;
	}
	s->state = LOAD_RCPT;
	if (s->rcpts_sent == 0)
		put_rcpt(s);
}

static void
on_rcpt_reply(struct load_session *s, int code)
{
	struct load_run *r = s->run;
	unsigned k = s->rcpts_answered++;

	s->taken[k] = code / 100 == 2;
	if (s->taken[k])
		s->rcpts_taken++;
	else
		refuse(s, 1, code);
	if (s->rcpts_answered < r->plan.rcpts) {
		if (s->rcpts_sent == s->rcpts_answered)
			put_rcpt(s);
	} else if (s->can_pipeline && r->opt.pipelining) {
		s->state = LOAD_DATA; /* already sent */
	} else if (s->rcpts_taken > 0) {
		s->state = LOAD_DATA;
		buf_puts(&s->out, "DATA\r\n");
	} else {
		abandon(s, code);
	}
}

static void
on_data_reply(struct load_session *s, int code)
{
	if (code != 354) {
		abandon(s, code);
		return;
	}
	s->state = LOAD_DOT;
	if (s->rcpts_taken == 0) {
		/* Nobody wants it, but the server waits for a dot (RFC 2920 3.1). */
		s->mail_sent = s->mail.wire_bytes;
		buf_puts(&s->out, ".\r\n");
	}
}

static void
on_dot_reply(struct load_session *s, int code)
{
	struct load_run *r = s->run;
	uint64_t now = clock_boot_us();
	bool again = false;

	s->state = LOAD_IDLE;
	if (s->rcpts_taken > 0 && code / 100 == 2) {
		load_stats_latency(&r->stats, now > s->dot_us ? now - s->dot_us : 0);
		settle(s, false);
	} else {
		refuse(s, s->rcpts_taken, code);
		s->has_mail = false;
		again = r->opt.insist && code < 500;
	}
	(again ? load_run_returned : load_run_settled)(r, s);
	transaction_done(s);
}

static void
transaction_done(struct load_session *s)
{
	struct load_run *r = s->run;

	if (s->state != LOAD_IDLE) /* the end of the run was found meanwhile */
		return;
	s->mails_done++;
	if (r->opt.per_connection > 0 && s->mails_done >= r->opt.per_connection && !r->ended)
		load_session_quit(s); /* and on_timer() connects again */
	else
		load_run_idle(r, s);
}

static void
on_ehlo_reply(struct load_session *s, int code, struct slice text)
{
	if (code / 100 != 2) {
		lost(s);
		return;
	}
	s->can_pipeline = memmem(text.p, text.n, "PIPELINING", 10) != NULL;
	s->failures = 0;
	s->state = LOAD_IDLE;
	load_run_idle(s->run, s);
}

/* One whole reply; `text` is all of its lines. */
static void
on_reply(struct load_session *s, int code, struct slice text)
{
	if (code == 421 && s->state != LOAD_DOT) {
		lost(s);
		return;
	}
	switch (s->state) {
	case LOAD_BANNER:
		if (code / 100 != 2) {
			lost(s);
			return;
		}
		s->state = LOAD_EHLO;
		buf_puts(&s->out, "EHLO load.example\r\n");
		break;
	case LOAD_EHLO:
		on_ehlo_reply(s, code, text);
		break;
	case LOAD_MAIL:
		on_mail_reply(s, code);
		break;
	case LOAD_RCPT:
		on_rcpt_reply(s, code);
		break;
	case LOAD_DATA:
		on_data_reply(s, code);
		break;
	case LOAD_DOT:
		on_dot_reply(s, code);
		break;
	case LOAD_RSET:
		s->state = LOAD_IDLE;
		transaction_done(s);
		break;
	default: /* QUIT, or talk out of turn */
		lost(s);
		break;
	}
}

/* Bytes of the first whole reply in `in`, 0 when there is none, and its code; -1 for nonsense. */
static ssize_t
whole_reply(struct slice in, int *code)
{
	size_t at = 0;

	for (;;) {
		const char *line = in.p + at;
		const char *nl = at < in.n ? memchr(line, '\n', in.n - at) : NULL;

		if (nl == NULL)
			return in.n > REPLY_ROOM ? -1 : 0;
		if (nl - line < 3 || line[0] < '2' || line[0] > '5')
			return -1;
		at += (size_t)(nl + 1 - line);
		if (line[3] == '-')
			continue;
		*code = (line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0');
		return (ssize_t)at;
	}
}

static void
take_replies(struct load_session *s)
{
	int fd = s->fd;

	while (s->in.len > 0) {
		struct slice in = buf_slice(&s->in);
		int code = 0;
		ssize_t n = whole_reply(in, &code);

		if (n < 0) {
			lost(s);
			return;
		}
		if (n == 0)
			break;
		on_reply(s, code, slice_of(in.p, (size_t)n));
		if (s->fd != fd || fd < 0)
			return; /* gone, and perhaps another one already */
		buf_consume(&s->in, (size_t)n);
	}
	flush(s);
}

static void
on_connected(struct load_session *s)
{
	int error = 0;
	socklen_t len = sizeof error;

	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
		lost(s);
		return;
	}
	s->run->stats.connects++;
	s->state = LOAD_BANNER;
	s->mails_done = 0;
	watch_set(&s->watch, EV_READ);
}

static void
on_socket(void *arg, short what)
{
	struct load_session *s = arg;

	if (s->state == LOAD_NEW) {
		on_connected(s);
		return;
	}
	if (what & EV_READ) {
		char *room = buf_room(&s->in, 4096);
		ssize_t n = recv(s->fd, room, 4096, 0);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			lost(s);
			return;
		}
		s->active_us = loop_boot_us(s->run->loop);
		buf_added(&s->in, (size_t)n);
		take_replies(s);
	} else if (what & EV_WRITE) {
		flush(s);
	}
}

void
load_session_connect(struct load_session *s)
{
	const struct load_options *o = &s->run->opt;
	int rc;

	s->state = LOAD_NEW;
	s->active_us = clock_boot_us();
	s->fd = socket(s->target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0) {
		lost(s);
		return;
	}
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	watch_init(&s->watch, s->run->loop, s->fd, on_socket, s);
	if (o->has_bind)
		rc = bind(s->fd, (const struct sockaddr *)&o->bind, o->bind_len);
	else
		rc = 0;
	if (rc == 0)
		rc = connect(s->fd, (const struct sockaddr *)&s->target, s->target_len);
	if (rc != 0 && errno != EINPROGRESS)
		lost(s);
	else
		watch_set(&s->watch, EV_WRITE);
}

static void
on_timer(void *arg)
{
	struct load_session *s = arg;

	if (s->state == LOAD_PAUSE)
		load_session_connect(s);
}
