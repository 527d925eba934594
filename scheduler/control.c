#include "scheduler/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/wire.h"

#define ACCEPT_PAUSE_US 200000u
#define CHUNK_BYTES (OPERATOR_FRAME_MAX - 64)

struct control_client {
	struct control *control;
	int fd;
	struct watch watch;
	struct request *request; /* being answered */
	struct buf text;         /* answer still to be sent */
	bool answering;
	uint32_t status;
	uid_t uid;
	uint64_t turn; /* of its accept: who came first */
};

struct control {
	struct scheduler *s;
	struct watch watch;
	struct timer pause; /* of accepting */
	uint64_t turn;
	struct request *working; /* those that go on in slices */
	struct control_client clients[OPERATOR_CLIENTS_MAX];
};

// clang-format off
static const struct command {
	const char *first, *second; /* words of the command; second may be NULL */
	control_fn *fn;
	bool changes; /* logged with who asked */
} commands[] = {
	{ "show", "status", control_show_status, false },
	{ "show", "queues", control_show_queues, false },
	{ "show", "topqueues", control_show_topqueues, false },
	{ "show", "queue", control_show_queue, false },
	{ "show", "domains", control_show_domains, false },
	{ "show", "vmtas", control_show_vmtas, false },
	{ "show", "sources", control_show_sources, false },
	{ "show", "workers", control_show_workers, false },
	{ "show", "settings", control_show_settings, false },
	{ "show", "limits", control_show_limits, false },
	{ "show", "disabled", control_show_disabled, false },
	{ "set", "queue", control_set_queue, true },
	{ "set", "limit", control_set_limit, true },
	{ "disable", "source", control_disable_source, true },
	{ "enable", "source", control_enable_source, true },
	{ "pause", "queue", control_pause, true },
	{ "resume", "queue", control_resume, true },
	{ "schedule", NULL, control_schedule, true },
	{ "list", NULL, control_list, false },
	{ "delete", NULL, control_delete, true },
	{ "reload", NULL, control_reload, true },
	{ "stop", NULL, control_stop, true },
};
// clang-format on

/* Arguments ------------------------------------------------------------------------------------ */
struct slice
control_option(const struct request *r, const char *name)
{
	size_t n = strlen(name);

	for (unsigned i = 0; i < r->n_args; i++) {
		struct slice a = r->args[i];

		if (a.n > n + 2 && memcmp(a.p, "--", 2) == 0 && slice_eq(slice_of(a.p + 2, n), slice_str(name)) &&
		    a.p[n + 2] == '=')
			return slice_sub(a, n + 3);
	}
	return SLICE_NONE;
}

bool
control_given(const struct request *r, const char *name)
{
	size_t n = strlen(name);

	for (unsigned i = 0; i < r->n_args; i++) {
		struct slice a = r->args[i];

		if (a.n >= n + 2 && memcmp(a.p, "--", 2) == 0 && memcmp(a.p + 2, name, n) == 0 &&
		    (a.n == n + 2 || a.p[n + 2] == '='))
			return true;
	}
	return false;
}

bool
control_flag(const struct request *r, const char *name)
{
	for (unsigned i = 0; i < r->n_args; i++) {
		if (r->args[i].n > 2 && memcmp(r->args[i].p, "--", 2) == 0 && slice_is(slice_sub(r->args[i], 2), name))
			return true;
	}
	return false;
}

struct slice
control_word(const struct request *r, unsigned n)
{
	for (unsigned i = 0; i < r->n_args; i++) {
		if (r->args[i].n >= 2 && memcmp(r->args[i].p, "--", 2) == 0)
			continue;
		if (n-- == 0)
			return r->args[i];
	}
	return SLICE_NONE;
}

static bool
part_matches(struct slice part, struct slice pattern)
{
	/* A star at the begin or end stands for anything. */
	if (slice_is(pattern, "*"))
		return true;
	if (pattern.n > 1 && pattern.p[0] == '*') {
		struct slice tail = slice_sub(pattern, 1);

		return part.n >= tail.n && slice_eq_nocase(slice_sub(part, part.n - tail.n), tail);
	}
	if (pattern.n > 1 && pattern.p[pattern.n - 1] == '*') {
		size_t n = pattern.n - 1;

		return part.n >= n && slice_eq_nocase(slice_of(part.p, n), slice_of(pattern.p, n));
	}
	return slice_eq_nocase(part, pattern);
}

bool
control_matches(struct slice name, struct slice pattern)
{
	struct slice name_vmta = name, pattern_vmta = pattern;
	struct slice name_domain = slice_cut(&name_vmta, '/');
	struct slice pattern_domain = slice_cut(&pattern_vmta, '/');

	if (!part_matches(name_domain, pattern_domain))
		return false;
	return pattern_vmta.p == NULL || part_matches(name_vmta, pattern_vmta);
}

struct slice
control_queue_name(const struct request *r, struct slice name, char *out)
{
	const struct conf_vmta *vmtas;
	struct slice vmta = name, domain = slice_cut(&vmta, '/');
	int v = conf_vmta_find(r->s->conf, vmta);
	size_t n;

	(void)conf_vmtas(r->s->conf, &vmtas);
	if (v >= 0) /* notices have the settings of {default}, and queues of their own */
		vmta = slice_eq_nocase(vmta, SLICE_LIT(CONF_VMTA_NOTIFY))
			       ? SLICE_LIT(CONF_VMTA_NOTIFY)
			       : slice_str(vmtas[v].name);
	if (vmta.p == NULL || domain.n + 1 + vmta.n > NAME_BYTES_MAX)
		return name;
	n = (size_t)snprintf(out, NAME_BYTES_MAX + 1, "%.*s/%.*s", (int)domain.n, domain.p,
			     (int)vmta.n, vmta.p);
	str_lower(out, domain.n);
	return slice_of(out, n);
}

/* Answers -------------------------------------------------------------------------------------- */
void
control_fail(struct request *r, int status, const char *fmt, ...)
{
	va_list ap;

	r->status = status;
	va_start(ap, fmt);
	vsnprintf(r->message, sizeof r->message, fmt, ap);
	va_end(ap);
}

static void
client_close(struct control_client *c)
{
	if (c->fd < 0)
		return;
	watch_clear(&c->watch);
	close(c->fd);
	c->fd = -1;
	if (c->request != NULL)
		c->request->client = NULL; /* it ends by itself */
	c->request = NULL;
	buf_clear(&c->text);
	c->answering = false;
}

/* 0 sent, -E_AGAIN, or an error: the client is closed. */
static int
send_frame(struct control_client *c, enum operator_kind kind, struct slice payload)
{
	struct buf frame;
	ssize_t n;

	buf_init(&frame);
	operator_encode(&frame, kind, payload);
	n = send(c->fd, frame.data + frame.start, frame.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	buf_clear(&frame);
	if (n >= 0)
		return 0;
	return errno == EAGAIN || errno == ENOBUFS ? -E_AGAIN : -err_errno();
}

static void
send_answer(struct control_client *c)
{
	struct buf end;
	int rc = 0;

	while (c->text.len > 0 && rc == 0) {
		size_t n = c->text.len < CHUNK_BYTES ? c->text.len : CHUNK_BYTES;

		rc = send_frame(c, OPERATOR_DATA, slice_of(c->text.data + c->text.start, n));
		if (rc == 0)
			buf_consume(&c->text, n);
	}
	if (rc == 0) {
		buf_init(&end);
		wire_put_u32(&end, c->status);
		rc = send_frame(c, OPERATOR_END, buf_slice(&end));
		buf_clear(&end);
	}
	if (rc == -E_AGAIN) {
		watch_set(&c->watch, EV_WRITE);
		return;
	}
	if (rc != 0) {
		client_close(c);
		return;
	}
	c->answering = false;
	watch_set(&c->watch, EV_READ);
}

/* What stands before the members that a command writes; it is there from the start, so that a long answer is
 * not copied. */
#define ENVELOPE_BEGIN "{\"data\":{"

static void
envelope(struct request *r, struct buf *out)
{
	struct json j;

	if (r->status != 0 && !r->keep_data) {
		buf_reset(&r->text);
		buf_puts(&r->text, ENVELOPE_BEGIN);
	}
	*out = r->text;
	memset(&r->text, 0, sizeof r->text);
	json_init(&j, out);
	buf_putc(out, '}');
	j.comma = true;
	json_key_str(&j, "status", r->status == 0 ? "success" : "error");
	json_key_str(&j, "message", r->message);
	json_object_end(&j);
}

void
control_finish(struct request *r)
{
	struct control_client *c = r->client;

	if (c != NULL) {
		c->request = NULL;
		c->status = (uint32_t)r->status;
		c->answering = true;
		buf_clear(&c->text);
		envelope(r, &c->text);
		send_answer(c);
	}
	for (unsigned i = 0; i < r->n_words; i++)
		mem_free((void *)(uintptr_t)r->words[i].p);
	buf_clear(&r->text);
	mem_free(r);
}

static void
is_durable(void *ctx, uint64_t a, uint64_t b, uint64_t c)
{
	(void)a;
	(void)b;
	(void)c;
	control_finish(ctx);
}

void
control_finish_when_durable(struct request *r)
{
	r->step = NULL;
	committer_then(r->s->committer, COMMIT_NOW, is_durable, r, 0, 0, 0);
}

/* Slices --------------------------------------------------------------------------------------- */
bool
control_go_on(struct request *r, control_step *step)
{
	struct control *ct = r->s->control;

	r->step = step;
	r->next = ct->working;
	ct->working = r;
	return false;
}

bool
control_turn(struct scheduler *s)
{
	struct control *ct = s->control;
	struct request *r = ct->working;
	bool more = false;

	ct->working = NULL;
	while (r != NULL) {
		struct request *next = r->next;
		control_step *step = r->step;

		r->waits = false;
		if (!step(r)) {
			more = more || !r->waits;
			(void)control_go_on(r, step);
		} else if (r->step != NULL) {
			control_finish(r);
		}
		r = next;
	}
	return more;
}

/* Requests ------------------------------------------------------------------------------------- */
static const struct command *
find_command(struct request *r)
{
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		const struct command *cmd = &commands[i];
		unsigned n = cmd->second != NULL ? 2 : 1;

		if (r->n_words < n || !slice_is(r->words[0], cmd->first))
			continue;
		if (cmd->second != NULL && !slice_is(r->words[1], cmd->second))
			continue;
		r->args = r->words + n;
		r->n_args = r->n_words - n;
		return cmd;
	}
	return NULL;
}

unsigned
control_uid(const struct request *r)
{
	return r->client != NULL ? (unsigned)r->client->uid : 0;
}

static void
log_act(struct control_client *c, struct request *r)
{
	struct buf line;
	char esc[600];

	buf_init(&line);
	for (unsigned i = 0; i < r->n_words; i++) {
		buf_puts(&line, i > 0 ? " " : "");
		buf_put_slice(&line, r->words[i]);
	}
	log_info("operator uid=%u command=\"%s\"", (unsigned)c->uid, str_escape(esc, sizeof esc, buf_slice(&line)));
	buf_clear(&line);
}

static void
on_request(struct control_client *c, struct slice payload)
{
	struct request *r = mem_zalloc(sizeof *r);
	const struct command *cmd;
	int n;

	r->s = c->control->s;
	r->client = c;
	json_init(&r->json, &r->text);
	buf_puts(&r->text, ENVELOPE_BEGIN);
	n = operator_words_decode(payload, r->words);
	/* The words outlive the frame: a selection works in slices. */
	for (int i = 0; i < n; i++) {
		r->words[i].p = mem_memdup0(r->words[i].p, r->words[i].n);
		r->n_words++;
	}
	c->request = r;
	watch_set(&c->watch, 0);
	cmd = n > 0 ? find_command(r) : NULL;
	if (cmd == NULL) {
		control_fail(r, 2, "no such command");
		control_finish(r);
		return;
	}
	if (cmd->changes)
		log_act(c, r);
	if (cmd->fn(r))
		control_finish(r);
	scheduler_kick(c->control->s);
}

static void
on_client(void *arg, short what)
{
	struct control_client *c = arg;
	static char frame[OPERATOR_FRAME_MAX];
	struct operator_frame f;
	ssize_t n;

	if (what & EV_WRITE) {
		send_answer(c);
		return;
	}
	n = recv(c->fd, frame, sizeof frame, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || operator_decode(&f, slice_of(frame, (size_t)n)) != 0 || f.kind != OPERATOR_REQUEST) {
		client_close(c); /* a malformed frame costs only its sender */
		return;
	}
	on_request(c, f.payload);
}

/* A place for a new client: a free one, else that of the oldest which asks nothing, or does not read its answer.
 * Else who connects and is silent would keep the operators out. */
static struct control_client *
make_place(struct control *ct)
{
	struct control_client *oldest = NULL;

	for (int i = 0; i < OPERATOR_CLIENTS_MAX; i++) {
		struct control_client *c = &ct->clients[i];

		if (c->fd < 0)
			return c;
		if (c->request == NULL && (oldest == NULL || c->turn < oldest->turn))
			oldest = c;
	}
	if (oldest != NULL)
		client_close(oldest);
	return oldest;
}

static void
on_pause_over(void *arg)
{
	struct control *ct = arg;

	watch_set(&ct->watch, EV_READ);
}

static void
on_accept(void *arg, short what)
{
	struct control *ct = arg;
	struct control_client *c;
	struct ucred cred = { 0 };
	socklen_t len = sizeof cred;
	int fd = accept4(ct->s->proc != NULL ? proc_heritage(ct->s->proc)->operator_fd : -1, NULL, NULL,
			 SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)what;
	if (fd < 0 && errno != EAGAIN) {
		/* No descriptor: who waits is heard again in a moment, not in a circle. */
		watch_set(&ct->watch, 0);
		timer_set(&ct->pause, ACCEPT_PAUSE_US);
	}
	if (fd < 0)
		return;
	c = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 ? make_place(ct) : NULL;
	if (c == NULL) {
		close(fd);
		return;
	}
	c->fd = fd;
	c->uid = cred.uid;
	c->turn = ++ct->turn;
	c->answering = false;
	watch_init(&c->watch, ct->s->loop, fd, on_client, c);
	watch_set(&c->watch, EV_READ);
}

int
control_open(struct scheduler *s)
{
	struct control *ct = mem_zalloc(sizeof *ct);

	ct->s = s;
	for (int i = 0; i < OPERATOR_CLIENTS_MAX; i++) {
		ct->clients[i].control = ct;
		ct->clients[i].fd = -1;
	}
	s->control = ct;
	watch_init(&ct->watch, s->loop, proc_heritage(s->proc)->operator_fd, on_accept, ct);
	watch_set(&ct->watch, EV_READ);
	timer_init(&ct->pause, s->loop, on_pause_over, ct);
	return 0;
}

void
control_close(struct scheduler *s)
{
	if (s->control == NULL)
		return;
	watch_clear(&s->control->watch);
	timer_clear(&s->control->pause);
	for (int i = 0; i < OPERATOR_CLIENTS_MAX; i++)
		client_close(&s->control->clients[i]);
	mem_free(s->control);
	s->control = NULL;
}
