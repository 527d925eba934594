#include "receiver/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#define LINGER_US      2000000u /* for the client to read our last words */
#define BODY_HINT      24576u   /* room for a usual message at once */
#define BODY_HINT_MAX  (1u << 20)
#define INPUT_KEPT_MAX 4096u
#define BODY_PROGRESS  4096u /* bytes of a body that earn it another smtp-data-timeout */

#define REFUSED_SERVICE "521 5.3.2 Host does not accept mail"
#define REFUSED_MEMORY "452 4.3.1 Insufficient system storage"
#define SAID_SHUTDOWN  "421 4.3.2 Service shutting down"

/*
 * A session is in one of: serving (the machine decides), waiting (its message is with the inlet),
 * closing (the machine is closed: the output is sent, then the socket lingers).
 */
struct session {
	struct session *next, *prev;
	struct session_pool *pool;
	int fd;
	struct watch watch;
	struct smtp_server smtp;
	struct terms *terms; /* held; what `rules` and `smtp` borrow from */
	struct conf_client rules;
	struct sockaddr_storage peer_addr;
	char *source;   /* the listener's client rule, NULL: none */
	struct buf in;  /* read, not yet taken by the machine */
	struct buf out; /* not yet written */
	struct envelope envelope;
	struct buf body;
	struct parcel *parcel; /* the inlet's, while the session waits for it; else NULL */
	uint64_t deadline_us;
	uint64_t body_mark; /* bytes of the body when it last earned time */
	bool in_body;       /* the deadline is a body's */
	bool no_memory;     /* the body is being read over */
	bool waiting;
	bool stalled; /* not read because of the flow */
	bool closing;
	bool linger; /* the client may still be sending */
	bool eof;    /* the client will send no more, but may still listen */
	char peer[INET6_ADDRSTRLEN];
	char local[INET6_ADDRSTRLEN];
};

void
session_pool_init(struct session_pool *p, struct loop *loop, struct inlet *inlet,
		  struct terms *terms)
{
	memset(p, 0, sizeof *p);
	p->loop = loop;
	p->inlet = inlet;
	p->terms = terms;
	p->read_buf = mem_alloc(SMTP_INPUT_MAX);
}

static void
drop_body(struct session *s)
{
	s->pool->held_bytes -= s->body.len;
	buf_clear(&s->body);
	s->no_memory = false;
}

static void
session_free(struct session *s)
{
	struct session_pool *p = s->pool;

	if (s->waiting)
		inlet_disown(s->parcel);
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		p->all = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	p->n--;
	drop_body(s);
	watch_clear(&s->watch);
	close(s->fd);
	buf_clear(&s->in);
	buf_clear(&s->out);
	envelope_clear(&s->envelope);
	terms_put(&s->terms);
	mem_free(s->source);
	mem_free(s);
}

void
session_pool_clear(struct session_pool *p)
{
	while (p->all != NULL)
		session_free(p->all);
	mem_free(p->read_buf);
	p->read_buf = NULL;
	terms_put(&p->terms);
}

static void
touch(struct session *s)
{
	s->in_body = s->smtp.state == SMTP_SERVER_STATE_BODY;
	s->body_mark = s->in_body ? s->smtp.data.bytes : 0;
	s->deadline_us =
		loop_boot_us(s->pool->loop) +
		(s->in_body ? s->rules.smtp_data_timeout_us : s->rules.smtp_command_timeout_us);
}

/* Input was taken: more time, unless it is a trickle that could hold the session for ever (part of
 * a line, a few bytes of a body). */
static void
earn_time(struct session *s)
{
	if (s->smtp.skipping)
		return;
	if (s->in_body && s->smtp.state == SMTP_SERVER_STATE_BODY &&
	    s->smtp.data.bytes - s->body_mark < BODY_PROGRESS)
		return;
	touch(s);
}

/* What the machine asks --------------------------------------------------------------------------
 */

/* Between two messages: the present configuration, if it is another. */
static void
take_terms(struct session *s)
{
	struct terms *was = s->terms;

	if (s->terms == s->pool->terms)
		return;
	s->terms = terms_hold(s->pool->terms);
	conf_client(s->terms->conf, (const struct sockaddr *)&s->peer_addr, s->source, &s->rules);
	s->smtp.host_name = conf_global(s->terms->conf)->host_name;
	s->smtp.max_size = s->rules.max_message_size;
	s->smtp.max_rcpts = (uint32_t)s->rules.max_rcpt_per_message;
	terms_put(&was);
}

static const char *
on_sender(struct session *s)
{
	take_terms(s);
	if (!s->rules.smtp_service) /* since the session began */
		return REFUSED_SERVICE;
	if (inlet_flow(s->pool->inlet) == INLET_REFUSING)
		return inlet_refusal(s->pool->inlet);
	envelope_begin(&s->envelope, &s->smtp.mail.sender);
	return NULL;
}

static const char *
on_recipient(struct session *s)
{
	struct address rcpt = s->smtp.recipient;
	const char *postmaster = conf_global(s->terms->conf)->postmaster;

	if (!s->rules.always_allow_relaying)
		return "550 5.7.1 Relaying denied";
	/* The server's own <postmaster> (RFC 5321 4.5.1) is whoever looks after it. */
	if (rcpt.kind == ADDRESS_LOCAL &&
	    (postmaster == NULL || address_parse_mailbox(slice_str(postmaster), &rcpt) != 0))
		return "550 5.1.1 No postmaster here";
	return envelope_add(&s->envelope, &rcpt) ? NULL : "452 4.5.3 Too many recipients";
}

static bool
memory_is_short(const struct session_pool *p)
{
	return p->held_bytes + inlet_held_bytes(p->inlet) > RECEIVER_MEMORY_MAX;
}

static const char *
on_data(struct session *s)
{
	uint64_t hint = s->smtp.mail.size > 0 ? s->smtp.mail.size : BODY_HINT;

	if (inlet_flow(s->pool->inlet) == INLET_REFUSING)
		return inlet_refusal(s->pool->inlet);
	if (memory_is_short(s->pool))
		return REFUSED_MEMORY;
	buf_room(&s->body, hint < BODY_HINT_MAX ? (size_t)hint : BODY_HINT_MAX);
	return NULL;
}

static void
on_body(struct session *s)
{
	if (s->no_memory)
		return;
	if (memory_is_short(s->pool)) {
		drop_body(s);
		s->no_memory = true;
		return;
	}
	buf_put_slice(&s->body, s->smtp.run);
	s->pool->held_bytes += s->smtp.run.n;
}

/* NULL: the inlet has the message and will answer. */
static const char *
on_message(struct session *s)
{
	struct session_pool *p = s->pool;
	size_t bytes = s->body.len;
	struct parcel *parcel = NULL;
	const char *refusal = NULL;
	struct parcel_source src = {
		.rules = &s->rules,
		.smtp = &s->smtp,
		.peer = s->peer,
		.local = s->local,
		.envelope = &s->envelope,
		.body = &s->body,
		.wall_us = loop_wall_us(p->loop),
	};

	if (s->no_memory)
		return REFUSED_MEMORY;
	src.id = inlet_take_id(p->inlet);
	if (src.id == 0 || inlet_flow(p->inlet) == INLET_REFUSING)
		return inlet_refusal(p->inlet);
	refusal = parcel_make(&s->terms->maker, &src, &parcel);
	if (refusal != NULL)
		return refusal;
	p->held_bytes -= bytes; /* the body is the parcel's now */
	parcel->owner = s;
	s->waiting = true;
	s->parcel = parcel;
	inlet_submit(p->inlet, parcel);
	return NULL;
}

/* Feeds the machine until it wants more input or an answer. */
static void
run(struct session *s, struct slice *in)
{
	const char *reply;

	while (s->out.len < SMTP_OUTPUT_MAX) {
		switch (smtp_server_next(&s->smtp, in, &s->out)) {
		case SMTP_SERVER_SENDER:
			smtp_server_answer(&s->smtp, &s->out, on_sender(s));
			break;
		case SMTP_SERVER_RECIPIENT:
			smtp_server_answer(&s->smtp, &s->out, on_recipient(s));
			break;
		case SMTP_SERVER_DATA:
			smtp_server_answer(&s->smtp, &s->out, on_data(s));
			break;
		case SMTP_SERVER_BODY:
			on_body(s);
			break;
		case SMTP_SERVER_MESSAGE:
			reply = on_message(s);
			if (reply == NULL)
				return;
			drop_body(s);
			smtp_server_answer(&s->smtp, &s->out, reply);
			break;
		case SMTP_SERVER_RESET:
			drop_body(s);
			break;
		case SMTP_SERVER_CLOSE:
			s->closing = true;
			s->linger = !s->smtp.quit;
			return;
		case SMTP_SERVER_MORE:
		case SMTP_SERVER_WAITING:
			return;
		}
	}
}

/* The socket -------------------------------------------------------------------------------------
 */

/* False when the connection is gone. */
static bool
write_out(struct session *s)
{
	while (s->out.len > 0) {
		struct slice bytes = buf_slice(&s->out);
		ssize_t n = send(s->fd, bytes.p, bytes.n, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		buf_consume(&s->out, (size_t)n);
	}
	return true;
}

static void
set_watch(struct session *s)
{
	short what = s->out.len > 0 ? EV_WRITE : 0;

	if (s->eof)
		; /* readable for ever */
	else if (s->closing)
		what |= s->out.len == 0 ? EV_READ : 0; /* lingering */
	else if (!s->stalled && s->in.len < SMTP_INPUT_MAX && s->out.len < SMTP_OUTPUT_MAX)
		what |= EV_READ;
	watch_set(&s->watch, what);
}

static void
begin_closing(struct session *s)
{
	drop_body(s);
	s->deadline_us = loop_boot_us(s->pool->loop) + LINGER_US;
	/* Closing a socket with unread input resets it, and the client never sees our reply. */
	s->linger = s->linger || s->in.len > 0;
	buf_clear(&s->in);
}

/* Shuts the session down with a last reply; it goes on in settle(). */
static void
say_goodbye(struct session *s, const char *reply)
{
	if (s->closing)
		return;
	smtp_server_shut(&s->smtp, &s->out, reply);
	s->closing = true;
	s->linger = true;
	begin_closing(s);
}

/* After anything happened: writes, runs what the writing made room for, watches, or frees. */
static void
settle(struct session *s)
{
	struct slice in;
	size_t unwritten, taken;

	for (;;) {
		if (!s->waiting && smtp_server_is_idle(&s->smtp))
			take_terms(s);
		if (!s->closing && !s->waiting && s->pool->draining &&
		    smtp_server_is_idle(&s->smtp))
			say_goodbye(s, SAID_SHUTDOWN);
		if (!write_out(s)) {
			session_free(s);
			return;
		}
		if (s->closing || s->waiting || s->in.len == 0 || s->out.len >= SMTP_OUTPUT_MAX)
			break;
		in = buf_slice(&s->in);
		unwritten = s->out.len;
		run(s, &in);
		taken = s->in.len - in.n;
		if (taken == 0 && s->out.len == unwritten && !s->closing)
			break; /* a partial line, whether the client reads or not */
		buf_consume(&s->in, taken);
		if (s->closing)
			begin_closing(s);
		else if (taken > 0)
			earn_time(s);
	}
	if ((s->closing || (s->eof && !s->waiting)) && s->out.len == 0) {
		if (!s->linger || s->eof) {
			session_free(s);
			return;
		}
		shutdown(s->fd, SHUT_WR);
	}
	if (s->in.len == 0 && s->in.cap > INPUT_KEPT_MAX)
		buf_clear(&s->in);
	set_watch(s);
}

/* Bytes came: straight from the shared buffer into the machine when nothing is kept. */
static void
take_input(struct session *s, size_t n)
{
	struct slice in;

	if (s->in.len > 0 || s->waiting || s->out.len >= SMTP_OUTPUT_MAX) {
		buf_put(&s->in, s->pool->read_buf, n);
		return;
	}
	in = slice_of(s->pool->read_buf, n);
	run(s, &in);
	if (in.n < n)
		earn_time(s);
	buf_put_slice(&s->in, in);
	if (s->closing)
		begin_closing(s);
}

static void
on_readable(struct session *s)
{
	ssize_t n = recv(s->fd, s->pool->read_buf, SMTP_INPUT_MAX, 0);

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return;
	if (n < 0) {
		session_free(s);
		return;
	}
	if (n == 0) {
		/* What was said before is answered yet: a message that waits for its 250, commands
		 * behind it, replies not yet read. */
		s->eof = true;
		settle(s);
		return;
	}
	if (s->closing)
		return; /* read over */
	take_input(s, (size_t)n);
	settle(s);
}

static void
on_socket(void *arg, short what)
{
	struct session *s = arg;

	if ((what & EV_READ) != 0 && !s->closing && !s->waiting &&
	    inlet_flow(s->pool->inlet) == INLET_STALLED) {
		s->stalled = true;
		set_watch(s);
		what &= (short)~EV_READ;
	}
	if ((what & EV_READ) != 0)
		on_readable(s); /* writes, too, and may free */
	else if ((what & EV_WRITE) != 0)
		settle(s);
}

void
session_answer(void *owner, const char *reply)
{
	struct session *s = owner;

	CHECK(s->waiting);
	s->waiting = false;
	s->parcel = NULL;
	if (reply[0] == '2')
		s->pool->n_messages++;
	else
		s->pool->n_refused++;
	smtp_server_answer(&s->smtp, &s->out, reply);
	touch(s);
	settle(s);
}

/* Life -------------------------------------------------------------------------------------------
 */

static void
address_text(char dst[INET6_ADDRSTRLEN], const struct sockaddr *sa)
{
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;

	str_copy(dst, INET6_ADDRSTRLEN, SLICE_LIT("unknown"));
	if (sa->sa_family == AF_INET)
		inet_ntop(AF_INET, &v4->sin_addr, dst, INET6_ADDRSTRLEN);
	else if (sa->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], dst, INET6_ADDRSTRLEN);
	else if (sa->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &v6->sin6_addr, dst, INET6_ADDRSTRLEN);
}

void
session_open(struct session_pool *p, int fd, const struct sockaddr *peer,
	     const char *listener_source, const char *refusal)
{
	struct session *s = mem_zalloc(sizeof *s);
	struct sockaddr_storage local = { .ss_family = AF_UNSPEC };
	socklen_t len = sizeof local;
	int one = 1;

	s->pool = p;
	s->fd = fd;
	s->next = p->all;
	if (s->next != NULL)
		s->next->prev = s;
	p->all = s;
	p->n++;
	p->n_accepted++;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (getsockname(fd, (struct sockaddr *)&local, &len) != 0)
		local.ss_family = AF_UNSPEC;
	address_text(s->peer, peer);
	address_text(s->local, (const struct sockaddr *)&local);
	s->terms = terms_hold(p->terms);
	s->source = listener_source != NULL ? mem_strdup(listener_source) : NULL;
	memcpy(&s->peer_addr, peer,
	       peer->sa_family == AF_INET ? sizeof(struct sockaddr_in)
					  : sizeof(struct sockaddr_in6));
	conf_client(p->terms->conf, peer, listener_source, &s->rules);
	watch_init(&s->watch, p->loop, fd, on_socket, s);
	smtp_server_init(&s->smtp, conf_global(p->terms->conf)->host_name,
			 s->rules.max_message_size, (uint32_t)s->rules.max_rcpt_per_message);
	if (refusal == NULL && !s->rules.smtp_service)
		refusal = REFUSED_SERVICE;
	smtp_server_greet(&s->smtp, &s->out, refusal);
	s->closing = refusal != NULL;
	s->linger = s->closing;
	touch(s);
	if (s->closing)
		begin_closing(s);
	settle(s);
}

void
session_pool_terms(struct session_pool *p, struct terms *terms)
{
	terms_put(&p->terms);
	p->terms = terms;
	for (struct session *s = p->all; s != NULL; s = s->next) {
		if (!s->waiting && !s->closing && smtp_server_is_idle(&s->smtp))
			take_terms(s);
	}
}

void
session_pool_flow(struct session_pool *p)
{
	struct session *next;

	if (inlet_flow(p->inlet) == INLET_STALLED)
		return; /* each stops at its next input */
	for (struct session *s = p->all; s != NULL; s = next) {
		next = s->next;
		if (!s->stalled)
			continue;
		s->stalled = false;
		touch(s);
		set_watch(s);
	}
}

void
session_pool_sweep(struct session_pool *p)
{
	uint64_t now = loop_boot_us(p->loop);
	struct session *next;

	for (struct session *s = p->all; s != NULL; s = next) {
		next = s->next;
		if (s->deadline_us > now || s->waiting || s->stalled)
			continue;
		if (s->closing) {
			session_free(s);
			continue;
		}
		say_goodbye(s, "421 4.4.2 Timeout");
		settle(s);
	}
}

void
session_pool_drain(struct session_pool *p, bool now)
{
	struct session *next;

	p->draining = true;
	for (struct session *s = p->all; s != NULL; s = next) {
		next = s->next;
		if (s->waiting || s->closing)
			continue;
		if (now)
			say_goodbye(s, SAID_SHUTDOWN);
		settle(s); /* says goodbye itself where the session is idle */
	}
}
