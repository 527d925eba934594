/* A whole scheduler process whose worker, receiver, resolver and recorder say what no honest one
 * would: half of it plausible, half of it nonsense. It may refuse and ask for their death, but it
 * lives, it ends when it is told to, and what it wrote can be read by its next life. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/wire.h"
#include "common/conf/conf.h"
#include "common/ipc/channel.h"
#include "common/ipc/new_message.h"
#include "common/ipc/operator.h"
#include "common/ipc/reply_match.h"
#include "common/ipc/results.h"
#include "common/proc/control.h"
#include "common/proc/role.h"
#include "common/proc/route.h"
#include "common/queue/claims.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

#define ROUNDS   2000 /* of some messages each, in a life, at most */
#define WORKS    60
#define ACKS     500
#define KNOWN    64
#define OTHERS   4
#define RULES    16
#define OPERATORS 8
#define QUIET_MS 20000

struct other {
	enum role role;
	char letter;
	uint32_t generation;
	struct channel *channel;
};

struct world {
	char path[600];
	struct spool spool;
	struct loop *loop;
	pid_t pid;
	int control, operator_fd, routes_fd, snapshot_fd[2];
	uint64_t configuration; /* in force */
	struct other others[OTHERS];
	struct claim_table *claims;
	uint64_t seed;
	/* What the scheduler said: the grain of truth in what it is told. */
	struct message opens[KNOWN], works[KNOWN];
	unsigned n_opens, n_opened, n_works, n_settled;
	struct message segment;
	uint64_t offset, next_id, ids_end, tokens[KNOWN];
	unsigned n_tokens, asked_kill, acks, said, refused;
	bool asked_segment;
	struct buf payload;
	uint64_t rule_keys[RULES];
	int operators[OPERATORS]; /* who asked last */
	unsigned n_operators;
};

static uint64_t
rnd(struct world *w)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed;
}

/* Mostly the true value; else one near it, a small one, or anything. */
static uint64_t
bent(struct world *w, uint64_t truth)
{
	switch (rnd(w) % 100) {
	case 0:
		return truth + 1;
	case 1:
		return truth - 1;
	case 2:
		return rnd(w) % 4;
	case 3:
		return rnd(w);
	case 4:
		return UINT64_MAX;
	default:
		return truth;
	}
}

static struct slice
noise(struct world *w, size_t most)
{
	static char bytes[4096];
	size_t n = rnd(w) % (most + 1);

	for (size_t i = 0; i < n; i++)
		bytes[i] = (char)rnd(w);
	return slice_of(bytes, n);
}

/* A message of its own kind with any fields at all, such as its ring lets through. */
static void
say_nonsense(struct world *w, struct other *o)
{
	struct message m = { 0 };

	for (int tries = 0; tries < 100; tries++) {
		struct slice noisy = noise(w, rnd(w) % 2 == 0 ? 0 : 600);

		m.kind = (uint16_t)(rnd(w) % MESSAGE_KIND_COUNT);
		/* These begin everything anew: now and then only. */
		if ((m.kind == MESSAGE_RECEIVER_HELLO || m.kind == MESSAGE_SEG_REQ) &&
		    rnd(w) % 20 != 0)
			continue;
		m.payload_bytes = (uint32_t)noisy.n;
		for (size_t i = 0; i < sizeof m.u.bytes; i++)
			m.u.bytes[i] = (unsigned char)(rnd(w) % 3 == 0 ? rnd(w) : rnd(w) % 2);
		if (message_check(&m, o->letter, 'S') == 0) {
			(void)channel_send(o->channel, &m, noisy);
			return;
		}
	}
}

/* The worker ----------------------------------------------------------------------------------- */
static struct results
some_results(struct world *w, struct result_rcpt *rows, unsigned n)
{
	struct results r = { .flags = (uint32_t)(rnd(w) % 8 == 0 ? rnd(w) % 16 : 0),
			     .wall_us = rnd(w),
			     .boot_us = rnd(w),
			     .rcpts = rows };

	r.dsn_mta = SLICE_LIT("dns;host (192.0.2.1)");
	for (unsigned i = 0; i < n; i++) {
		rows[i] = (struct result_rcpt){ .index = (uint16_t)bent(w, i),
						.status = { 4, 4, 2 } };
		rows[i].action = (uint8_t)(rnd(w) % 8 == 0 ? rnd(w) : rnd(w) % EVENT_ACTION_COUNT);
		rows[i].diag = SLICE_LIT("smtp;450 4.2.1 perhaps");
		rows[i].stamp_boot_us = rnd(w) % 4 == 0 ? bent(w, clock_boot_us()) : 0;
	}
	r.n_rcpts = n;
	return r;
}

static void
say_result(struct world *w, struct other *o, const struct message *work)
{
	struct result_rcpt rows[8];
	struct slice addresses[8] = { SLICE_LIT("a@b.example"), SLICE_LIT("b@b.example") };
	unsigned n = (unsigned)bent(w, work->u.work.n_rcpts) % 8;
	struct results r = some_results(w, rows, n);
	struct result_strings st = { .sender = SLICE_LIT("x@y.example"),
				     .rcpts = addresses,
				     .n_rcpts = n };
	struct message m = { .kind = MESSAGE_RESULT };
	struct buf encoded = { 0 };

	results_encode(&encoded, &r);
	if (rnd(w) % 4 != 0) {
		(void)claim_begin(w->claims, (unsigned)(bent(w, work->u.work.claim_slot) % 256),
				  work->u.work.lease);
		(void)claim_answer(w->claims, (unsigned)(bent(w, work->u.work.claim_slot) % 256),
				   work->u.work.lease, buf_slice(&encoded));
	}
	buf_reset(&w->payload);
	wire_put_u32(&w->payload, (uint32_t)bent(w, encoded.len));
	buf_put_slice(&w->payload, buf_slice(&encoded));
	if (rnd(w) % 4 != 0)
		result_strings_encode(&w->payload, &st);
	m.u.result.lease = bent(w, work->u.work.lease);
	m.u.result.connection = (uint32_t)bent(w, work->u.work.connection);
	m.u.result.claim_slot = (uint32_t)bent(w, work->u.work.claim_slot);
	m.u.result.flags = r.flags;
	(void)channel_send(o->channel, &m, buf_slice(&w->payload));
	buf_clear(&encoded);
}

/* Of rules that are there and of others, many times over for one transaction. */
static void
say_match(struct world *w, struct other *o, const struct message *open, const struct message *work)
{
	struct message m = { .kind = MESSAGE_REPLY_MATCH };
	struct reply_match told = { .n = 1 + (unsigned)(rnd(w) % RULE_HITS_MAX), .text = rnd(w) % 2 ? noise(w, REPLY_KEPT_MAX) : SLICE_LIT("450 4.2.1 perhaps") };

	for (unsigned i = 0; i < told.n; i++)
		told.rules[i] = (struct reply_match_rule){ (uint32_t)bent(w, RULES), bent(w, w->rule_keys[rnd(w) % RULES]),
							   rnd(w) % 2 == 0 };
	buf_reset(&w->payload);
	reply_match_encode(&w->payload, &told);
	if (rnd(w) % 8 == 0)
		w->payload.len = rnd(w) % w->payload.len;
	m.u.reply_match.lease = bent(w, work->u.work.lease);
	m.u.reply_match.conf_generation = bent(w, open->u.open.conf_generation);
	m.u.reply_match.wait_us = bent(w, 60000000);
	m.u.reply_match.connection = (uint32_t)bent(w, open->u.open.connection);
	m.u.reply_match.transaction = (uint32_t)bent(w, 1);
	m.u.reply_match.code = (uint16_t)bent(w, 421);
	m.u.reply_match.stage = (uint16_t)bent(w, 1u << rnd(w) % 6);
	for (unsigned i = rnd(w) % 20 == 0 ? 100 : 1; i > 0; i--)
		(void)channel_send(o->channel, &m, buf_slice(&w->payload));
}

static void
worker_speaks(struct world *w, struct other *o)
{
	const struct message *open = &w->opens[rnd(w) % (1 + w->n_opens) % KNOWN];
	const struct message *work = &w->works[rnd(w) % (1 + w->n_works) % KNOWN];
	struct message m = { 0 };
	struct slice payload = SLICE_NONE;

	switch (rnd(w) % 14) {
	case 0:
	case 1:
	case 2:
	case 3:
		m.kind = MESSAGE_OPENED;
		if (w->n_opened < w->n_opens)
			open = &w->opens[w->n_opened++ % KNOWN];
		m.u.opened.connection = (uint32_t)bent(w, open->u.open.connection);
		m.u.opened.rcpt_max = (uint32_t)(rnd(w) % 3);
		m.u.opened.flags = (uint32_t)bent(w, rnd(w) % 2);
		break;
	case 4:
	case 5:
	case 6:
	case 7:
		if (w->n_settled < w->n_works)
			work = &w->works[w->n_settled++ % KNOWN];
		say_result(w, o, work);
		return;
	case 8:
		if (w->n_works == 0)
			return;
		m.kind = MESSAGE_RETURNED;
		m.u.returned.lease = bent(w, work->u.work.lease);
		m.u.returned.connection = (uint32_t)bent(w, work->u.work.connection);
		m.u.returned.claim_slot = (uint32_t)bent(w, work->u.work.claim_slot);
		break;
	case 9:
		m.kind = MESSAGE_CLOSED;
		m.u.closed.connection = (uint32_t)bent(w, open->u.open.connection);
		payload = SLICE_LIT("closed");
		break;
	case 10:
		m.kind = MESSAGE_OPEN_FAILED;
		m.u.open_failed.connection = (uint32_t)bent(w, open->u.open.connection);
		m.u.open_failed.why = (uint32_t)bent(w, 1 + rnd(w) % 12);
		payload = noise(w, 200);
		break;
	case 11:
		if (w->n_works == 0)
			return;
		m.kind = MESSAGE_RCPT_ASK;
		m.u.rcpt_ask.lease = bent(w, work->u.work.lease);
		m.u.rcpt_ask.connection = (uint32_t)bent(w, work->u.work.connection);
		m.u.rcpt_ask.claim_slot = (uint32_t)bent(w, work->u.work.claim_slot);
		m.u.rcpt_ask.index = (uint16_t)bent(w, rnd(w) % 3);
		break;
	case 12:
		if (w->n_opens > 0)
			say_match(w, o, open, work);
		return;
	default:
		if (rnd(w) % 4 == 0)
			say_nonsense(w, o);
		return;
	}
	(void)channel_send(o->channel, &m, payload);
}

/* The receiver --------------------------------------------------------------------------------- */
static void
say_new(struct world *w, struct other *o)
{
	static const char *const vmtas[] = { "{default}", "v", "w", "x", "gone" };
	static const char *const jobs[] = { "", "job", "job/x", "d1.example/{default}",
					    "d2.example/{default}" };
	char domains[3][32];
	struct record_entry entries[3];
	struct new_message n = { .vmta = slice_str(vmtas[rnd(w) % 5]),
				 .sender_domain = SLICE_LIT("y.example"),
				 .received_wall_us = bent(w, clock_wall_us()),
				 .entries = entries };
	struct message m = { .kind = MESSAGE_NEW };

	n.n_entries = (uint16_t)(1 + rnd(w) % 3);
	n.job = slice_str(jobs[rnd(w) % 5]);
	if (rnd(w) % 50 == 0) /* nothing of that is owed */
		n.owed = rnd(w) % 4 == 0 ? SLICE_LIT("1234567") : SLICE_LIT("12345678abcdefgh");
	for (unsigned i = 0; i < n.n_entries; i++) {
		snprintf(domains[i], sizeof domains[i], "d%u.example", (unsigned)(rnd(w) % (rnd(w) % 2 ? 300 : 3)));
		entries[i].domain = rnd(w) % 100 == 0 ? SLICE_NONE : slice_str(domains[i]);
		entries[i].first = i == 0 ? 0 : entries[i - 1].first + entries[i - 1].count;
		entries[i].count = (uint32_t)(1 + rnd(w) % 3);
	}
	if (rnd(w) % 30 == 0)
		entries[0].count = (uint32_t)bent(w, 1001);
	buf_reset(&w->payload);
	new_message_encode(&w->payload, &n);
	m.u.new_message.id = bent(w, w->next_id++);
	m.u.new_message.segment = (uint32_t)bent(w, w->segment.u.seg_open.number);
	m.u.new_message.epoch = bent(w, w->segment.u.seg_open.epoch);
	m.u.new_message.offset = bent(w, w->offset);
	m.u.new_message.bytes = 256;
	m.u.new_message.n_entries = (uint16_t)bent(w, n.n_entries);
	w->offset += 256;
	(void)channel_send(o->channel, &m, buf_slice(&w->payload));
}

static void
receiver_speaks(struct world *w, struct other *o)
{
	struct message m = { 0 };

	if (w->next_id >= w->ids_end || rnd(w) % 200 == 0) {
		m.kind = MESSAGE_ID_REQ;
	} else if (w->segment.u.seg_open.number == 0 || rnd(w) % 500 == 0) {
		if (w->asked_segment && rnd(w) % 3000 != 0)
			return;
		w->asked_segment = true;
		m.kind = MESSAGE_SEG_REQ;
		m.u.seg_req.bytes = rnd(w) % 40 == 0 ? bent(w, 65u << 20) : 0;
	} else if (rnd(w) % 500 == 0) {
		m.kind = MESSAGE_SEG_SEAL;
		m.u.seg_seal.number = (uint32_t)bent(w, w->segment.u.seg_open.number);
		m.u.seg_seal.epoch = bent(w, w->segment.u.seg_open.epoch);
	} else if (rnd(w) % 100 == 0) {
		say_nonsense(w, o);
		return;
	} else {
		say_new(w, o);
		return;
	}
	(void)channel_send(o->channel, &m, SLICE_NONE);
}

static void
others_speak(struct world *w, struct other *o)
{
	struct message m = { 0 };

	if (o->role == ROLE_RECORDER || rnd(w) % 8 == 0) {
		say_nonsense(w, o);
		return;
	}
	m.kind = MESSAGE_ROUTE;
	m.u.route.token = bent(w, w->tokens[rnd(w) % KNOWN]);
	m.u.route.generation = bent(w, 77);
	m.u.route.expires_boot_us = clock_boot_us() + 1000000 * (rnd(w) % 3);
	m.u.route.slot = (uint32_t)bent(w, 3);
	m.u.route.status = (uint32_t)(rnd(w) % 40 == 0 ? bent(w, ROUTE_NO_DOMAIN) : ROUTE_GOOD);
	m.u.route.n_targets = (uint16_t)bent(w, 2);
	(void)channel_send(o->channel, &m, SLICE_LIT("5.1.2 said the resolver"));
}

/* Operators: who asks and does not wait for the answer. */
// clang-format off
static const char *const asked[][4] = {
	{ "set", "queue", "--mode=backoff", "*/v" },
	{ "set", "queue", "--mode=normal", "*/*" },
	{ "set", "queue", "--mode=backoff", "d1.example/w" },
	{ "set", "queue", "--mode=normal", "d1.example/*" },
	{ "set", "queue", "--mode=backoff", "d1.example/{notify}" },
	{ "pause", "queue", "*/w" },
	{ "resume", "queue", "*/*" },
	{ "schedule", "*/*", "--retry-recipients" },
	{ "delete", "--queue=d1.example/v" },
	{ "delete", "--queue=*/w", "--maxitems=5" },
	{ "disable", "source", "127.0.0.2", "*/*" },
	{ "disable", "source", "127.0.0.4", "*/w" },
	{ "enable", "source", "127.0.0.2", "*/*" },
	{ "enable", "source", "127.0.0.4", "*/w" },
	{ "show", "queues" },
	{ "show", "limits" },
	{ "show", "disabled", "sources" },
};
// clang-format on

static void
operator_asks(struct world *w)
{
	const char *const *words = asked[rnd(w) % (sizeof asked / sizeof asked[0])];
	int *fd = &w->operators[w->n_operators++ % OPERATORS], dir;
	struct slice said[4];
	struct buf payload = { 0 }, frame = { 0 };
	struct sockaddr_un at;
	size_t n = 0;

	while (n < 4 && words[n] != NULL) {
		said[n] = slice_str(words[n]);
		n++;
	}
	if (*fd > 0)
		close(*fd);
	*fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(operator_address(&at, scratch_path(w->path, "control"), &dir), 0);
	operator_words_encode(&payload, said, n);
	operator_encode(&frame, OPERATOR_REQUEST, buf_slice(&payload));
	if (connect(*fd, (struct sockaddr *)&at, sizeof at) == 0)
		(void)!send(*fd, buf_slice(&frame).p, frame.len, MSG_NOSIGNAL);
	if (dir >= 0)
		close(dir);
	buf_clear(&payload);
	buf_clear(&frame);
}

/* What is heard -------------------------------------------------------------------------------- */
static void
hear(struct world *w, const struct message *m)
{
	switch (m->kind) {
	case MESSAGE_OPEN:
		w->opens[w->n_opens++ % KNOWN] = *m;
		break;
	case MESSAGE_WORK:
		w->works[w->n_works++ % KNOWN] = *m;
		break;
	case MESSAGE_ID_BLOCK:
		w->next_id = m->u.id_block.first;
		w->ids_end = m->u.id_block.first + m->u.id_block.count;
		break;
	case MESSAGE_SEG_OPEN:
		w->segment = *m;
		w->offset = SEGMENT_HEADER_BYTES;
		w->asked_segment = false;
		break;
	case MESSAGE_ASK:
		w->tokens[w->n_tokens++ % KNOWN] = m->u.ask.token;
		break;
	case MESSAGE_ACK:
		w->acks++;
		w->refused = 0;
		break;
	case MESSAGE_NACK:
		if (++w->refused > 20) /* it was sealed: another one */
			memset(&w->segment, 0, sizeof w->segment);
		break;
	default:
		break;
	}
}

static void
on_input(void *arg)
{
	(void)arg; /* everything is read in the rounds */
}

static void
listen_to(struct world *w, struct other *o)
{
	struct message m;
	struct slice payload;

	while (o->channel != NULL && channel_recv(o->channel, &m, &payload) == 1)
		hear(w, &m);
}

/* The master's part ---------------------------------------------------------------------------- */
static struct channel_fds
copy_of(const struct channel_fds *f)
{
	return (struct channel_fds){ fcntl(f->memfd, F_DUPFD_CLOEXEC, 3),
				     fcntl(f->wake_scheduler, F_DUPFD_CLOEXEC, 3),
				     fcntl(f->wake_other, F_DUPFD_CLOEXEC, 3) };
}

static void
tell(struct world *w, enum control_kind kind, const struct other *o, const struct channel_fds *fds)
{
	struct control_message m = { .kind = kind };

	if (o != NULL) {
		m.role = o->role;
		m.generation = o->generation;
	}
	assert_int_equal(control_send(w->control, &m, fds), 0);
}

static void
connect_other(struct world *w, struct other *o)
{
	struct message hello = { 0 };
	struct channel_fds fds, mine;

	o->generation++;
	assert_int_equal(channel_create(&fds), 0);
	mine = copy_of(&fds);
	tell(w, CONTROL_CHANNEL, o, &fds);
	channel_fds_close(&fds);
	assert_int_equal(channel_open(&o->channel, &mine, o->letter, w->loop, on_input, w), 0);
	hello.kind = o->role == ROLE_WORKER ? MESSAGE_WORKER_HELLO : MESSAGE_RECEIVER_HELLO;
	hello.u.hello.flags = (uint32_t)(rnd(w) % 2);
	if (o->role == ROLE_WORKER || o->role == ROLE_RECEIVER)
		(void)channel_send(o->channel, &hello, SLICE_NONE);
	hello.kind = MESSAGE_HELLO_END;
	if (o->role == ROLE_WORKER)
		(void)channel_send(o->channel, &hello, SLICE_NONE);
	if (o->role == ROLE_RECEIVER) {
		memset(&w->segment, 0, sizeof w->segment);
		w->asked_segment = false;
	}
	channel_flush(o->channel);
}

static void
disconnect(struct world *w, struct other *o)
{
	channel_close(&o->channel);
	tell(w, CONTROL_PEER_GONE, o, NULL);
}

/* The other one of two configurations. */
static void
reload(struct world *w)
{
	struct channel_fds fds = { w->snapshot_fd[w->configuration % 2], -1, -1 };
	struct control_message m = { .kind = CONTROL_PREPARE, .number = ++w->configuration };

	assert_int_equal(control_send(w->control, &m, &fds), 0);
	m.kind = CONTROL_COMMIT;
	assert_int_equal(control_send(w->control, &m, NULL), 0);
}

/* Does what the scheduler asks of the master; fails the test when it has died. */
static void
master_turn(struct world *w)
{
	struct control_message m;
	struct channel_fds fds;
	int status;

	while (control_recv(w->control, false, &m, &fds) > 0) {
		if (m.kind == CONTROL_REFUSED)
			fail_msg("configuration refused: %s", m.text);
		if (m.kind != CONTROL_ASK_KILL)
			continue;
		w->asked_kill++;
		for (int i = 0; i < OTHERS; i++) {
			struct other *o = &w->others[i];

			if (o->role != (enum role)m.role || o->generation != m.generation)
				continue;
			disconnect(w, o);
			connect_other(w, o);
		}
	}
	if (waitpid(w->pid, &status, WNOHANG) == w->pid)
		fail_msg("the scheduler died with status %#x after %u messages", (unsigned)status,
			 w->said);
}

static int
memfd_of(struct slice bytes)
{
	int fd = memfd_create("conf", MFD_CLOEXEC);

	assert_true(fd >= 0 && write(fd, bytes.p, bytes.n) == (ssize_t)bytes.n);
	return fd;
}

static int
listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 5), 0);
	return fd;
}

static void
start_scheduler(struct world *w)
{
	struct heritage h = { .role = ROLE_SCHEDULER, .generation = 1, .conf_generation = 1 };
	int fds[2];

	assert_int_equal(control_pair(fds), 0);
	w->pid = child_fork();
	if (w->pid == 0) {
		h.control_fd = fds[1];
		h.snapshot_fd = w->snapshot_fd[0];
		h.routes_fd = w->routes_fd;
		h.operator_fd = w->operator_fd;
		h.guard_fd = -1;
		_exit(scheduler_main(&h));
	}
	close(fds[1]);
	w->control = fds[0];
	for (int i = 0; i < OTHERS; i++)
		connect_other(w, &w->others[i]);
}

/* It goes when it is told to; the exit status. */
static int
stop_scheduler(struct world *w)
{
	struct control_message m;
	struct channel_fds fds;
	int status = -1;

	for (int i = 0; i < OTHERS; i++)
		disconnect(w, &w->others[i]);
	tell(w, CONTROL_DRAIN, NULL, NULL);
	for (int ms = 0; ms < QUIET_MS; ms += 10) {
		if (waitpid(w->pid, &status, WNOHANG) == w->pid) {
			close(w->control);
			return status;
		}
		(void)control_recv(w->control, false, &m, &fds);
		poll(NULL, 0, 10);
	}
	kill(w->pid, SIGKILL);
	waitpid(w->pid, &status, 0);
	fail_msg("the scheduler does not stop");
	return status;
}

static void
take_rule_keys(struct world *w, struct slice snapshot)
{
	struct conf_report report = { 0 };
	const struct conf_rule *rules;
	struct conf *c;

	assert_int_equal(conf_parse(snapshot, &c, &report), 0);
	assert_int_equal(conf_rules(c, &rules), RULES);
	for (unsigned i = 0; i < RULES; i++)
		w->rule_keys[i] = rules[i].key;
	conf_report_clear(&report);
	conf_free(&c);
}

static const char before[] =
	"domains = ( { name = \"*\"; max-msg-rate = \"5000/s\"; retry-after = \"1s\"; "
	"retry-recipients-after = \"1s\"; max-rcpt-per-transaction = 2; smtp-pattern-list = \"l\"; "
	"backoff-max-msg-rate = \"3000/s\"; backoff-retry-after = \"1s\"; backoff-to-normal-after = \"2s\"; "
	"backoff-upon-all-sources-disabled = true; backoff-notify = [ \"ops@here.example\" ]; "
	"disabled-source-ip-notify = [ \"ops@here.example\" ]; } ); "
	"providers = ( { name = \"p\"; mx = \"*.p.example\"; } ); "
	"virtual-mtas = ( { name = \"v\"; smtp-source-hosts = ( { ip = \"127.0.0.2\"; name = \"v.example\"; }, "
	"{ ip = \"127.0.0.3\"; name = \"v2.example\"; } ); domains = ( { name = \"*\"; "
	"backoff-reroute-to-virtual-mta = \"w\"; backoff-probe-after = \"1s\"; } ); }, "
	"{ name = \"w\"; smtp-source-hosts = ( { ip = \"127.0.0.4\"; name = \"w.example\"; } ); domains = ( "
	"{ name = \"*\"; backoff-reroute-to-virtual-mta = \"all\"; backoff-to-normal-after-delivery = true; } ); }, "
	"{ name = \"x\"; smtp-source-hosts = ( { ip = \"127.0.0.5\"; name = \"x.example\"; } ); domains = ( "
	"{ name = \"*\"; reroute-to-virtual-mta = \"v\"; backoff-use-source = [ \"127.0.0.5\" ]; } ); } ); "
	"virtual-mta-pools = ( { name = \"all\"; virtual-mtas = [ \"v\", \"w\", \"x\" ]; } ); "
	"smtp-pattern-lists = ( { name = \"l\"; rules = ( "
	"{ reply = \"/421/\"; actions = [ \"mode=backoff\", \"backoff-to-normal-after=1s\" ]; after = \"3/10m\"; }, "
	"{ reply = \"/55/\"; actions = [ \"disable-source-ip\", \"defer-queue\", \"wait-reply\" ]; }, "
	"{ reply = \"/a1/\"; actions = [ \"mode=backoff\" ]; scope = \"virtual-mta\"; recover = \"auto\"; }, "
	"{ reply = \"/a2/\"; actions = [ \"mode=backoff\" ]; scope = \"provider\"; }, "
	"{ reply = \"/a3/\"; actions = [ \"mode=backoff\" ]; scope = \"source-ip\"; after = \"2/1m\"; }, "
	"{ reply = \"/a4/\"; actions = [ \"mode=backoff\" ]; recover = \"auto\"; }, "
	"{ reply = \"/a5/\"; actions = [ \"mode=backoff\" ]; recover = \"10%,50% every 1s\"; }, "
	"{ reply = \"/a6/\"; actions = [ \"mode=normal\" ]; }, "
	"{ reply = \"/a7/\"; actions = [ \"mode=normal\" ]; scope = \"virtual-mta\"; }, "
	"{ reply = \"/a8/\"; actions = [ \"bounce-queue\" ]; after = \"4/1m\"; }, "
	"{ reply = \"/a9/\"; actions = [ \"bounce-rcpt\", \"reconnect\" ]; after = \"2/1m\"; }, "
	"{ reply = \"/b1/\"; actions = [ \"skip-mx\" ]; after = \"2/1m\"; }, "
	"{ reply = \"/b2/\"; actions = [ \"reduce-connections\", \"for=1s\" ]; }, "
	"{ reply = \"/b3/\"; actions = [ \"disable-source-ip\", \"reenable-after=1s\", \"mode=backoff\" ]; }, "
	"{ reply = \"/b4/\"; actions = [ \"wait-reply\" ]; after = \"100/1s\"; }, "
	"{ reply = \"/b5/\"; actions = [ \"mode=backoff\" ]; dry-run = true; } ); } );";

/* After a reload: other source IPs by other numbers, a virtual MTA less, some of the rules. */
static const char after[] =
	"domains = ( { name = \"*\"; retry-after = \"1s\"; smtp-pattern-list = \"l\"; "
	"backoff-to-normal-after = \"2s\"; recover = \"auto\"; } ); "
	"virtual-mtas = ( { name = \"x\"; smtp-source-hosts = ( { ip = \"127.0.0.5\"; name = \"x.example\"; }, "
	"{ ip = \"127.0.0.3\"; name = \"x2.example\"; } ); domains = ( { name = \"*\"; reroute-to-virtual-mta = \"v\"; } ); }, "
	"{ name = \"v\"; smtp-source-hosts = ( { ip = \"127.0.0.3\"; name = \"v2.example\"; } ); domains = ( { name = \"*\"; "
	"backoff-reroute-to-virtual-mta = \"x\"; backoff-use-source = [ \"127.0.0.3\", \"127.0.0.5\" ]; } ); } ); "
	"smtp-pattern-lists = ( { name = \"l\"; rules = ( "
	"{ reply = \"/a3/\"; actions = [ \"mode=backoff\" ]; scope = \"source-ip\"; }, "
	"{ reply = \"/a1/\"; actions = [ \"mode=backoff\" ]; scope = \"virtual-mta\"; recover = \"50% every 1s\"; }, "
	"{ reply = \"/b3/\"; actions = [ \"disable-source-ip\" ]; after = \"2/1m\"; } ); } );";

static int
snapshot_of(struct world *w, const char *text, bool first)
{
	struct buf conf = { 0 }, snapshot = { 0 };
	int fd;

	buf_printf(&conf, "spool = \"%s/spool\"; run = \"%s\"; log-file = \"%s/log\"; ", w->path, w->path, w->path);
	buf_puts(&conf, "workers = 1; receivers = 1; host-name = \"mta.example\"; ");
	buf_puts(&conf, text);
	conf_snapshot_text(&snapshot, "test.conf", buf_slice(&conf));
	if (first)
		take_rule_keys(w, buf_slice(&snapshot));
	fd = memfd_of(buf_slice(&snapshot));
	buf_clear(&conf);
	buf_clear(&snapshot);
	return fd;
}

static void
make(struct world *w, uint64_t seed)
{
	const char *why;

	memset(w, 0, sizeof *w);
	w->seed = seed;
	strcpy(w->path, scratch_make());
	log_open(scratch_path(w->path, "log"), "test"); /* the scheduler inherits it */
	assert_int_equal(mkdir(scratch_path(w->path, "spool"), 0750), 0);
	w->snapshot_fd[0] = snapshot_of(w, before, true);
	w->snapshot_fd[1] = snapshot_of(w, after, false);
	w->routes_fd = route_object_create();
	w->operator_fd = listen_at(scratch_path(w->path, "control"));
	assert_int_equal(spool_open(&w->spool, scratch_path(w->path, "spool"), &why), 0);
	assert_int_equal(claim_table_open(&w->claims, w->spool.claims_fd, 0, w->spool.instance), 0);
	w->loop = loop_new();
	w->others[0] = (struct other){ .role = ROLE_WORKER, .letter = 'W' };
	w->others[1] = (struct other){ .role = ROLE_RECEIVER, .letter = 'R' };
	w->others[2] = (struct other){ .role = ROLE_RESOLVER, .letter = 'V' };
	w->others[3] = (struct other){ .role = ROLE_RECORDER, .letter = 'A' };
}

static void
clear(struct world *w)
{
	claim_table_close(&w->claims);
	spool_close(&w->spool);
	loop_free(&w->loop);
	close(w->snapshot_fd[0]);
	close(w->snapshot_fd[1]);
	close(w->routes_fd);
	close(w->operator_fd);
	for (unsigned i = 0; i < OPERATORS; i++) {
		if (w->operators[i] > 0)
			close(w->operators[i]);
	}
	buf_clear(&w->payload);
	scratch_remove(w->path);
}

/* Until enough was done for it to have met everything, some seconds at most. */
static void
talk(struct world *w)
{
	unsigned works = w->n_works + WORKS, acks = w->acks + ACKS;

	for (unsigned i = 0; i < ROUNDS && (w->n_works < works || w->acks < acks); i++) {
		for (int k = 0; k < OTHERS; k++) {
			struct other *o = &w->others[k];

			listen_to(w, o);
			for (unsigned n = k < 2 ? rnd(w) % 12 : rnd(w) % 3; n > 0; n--, w->said++) {
				if (k == 0)
					worker_speaks(w, o);
				else if (k == 1)
					receiver_speaks(w, o);
				else
					others_speak(w, o);
			}
			channel_flush(o->channel);
			if (rnd(w) % 2000 == 0) { /* its death, and a new one */
				disconnect(w, o);
				connect_other(w, o);
			}
		}
		if (rnd(w) % 10 == 0)
			operator_asks(w);
		if (rnd(w) % 50 == 0)
			reload(w);
		poll(NULL, 0, i % 2);
		master_turn(w);
	}
}

static void
lies(void **state)
{
	const char *seed = getenv("SEED"); /* another one, by hand */
	struct world w;

	(void)state;
	make(&w, seed != NULL ? strtoull(seed, NULL, 0) : 0x5eed);
	for (int life = 0; life < 3; life++) {
		w.configuration = 1;
		start_scheduler(&w);
		talk(&w);
		if (life == 1) { /* without a word of farewell */
			for (int i = 0; i < OTHERS; i++)
				channel_close(&w.others[i].channel);
			kill(w.pid, SIGKILL);
			waitpid(w.pid, NULL, 0);
			close(w.control);
			continue;
		}
		assert_int_equal(stop_scheduler(&w), 0);
	}
	/* It was no deaf ear that they spoke to. */
	assert_true(w.acks >= ACKS);
	assert_true(w.n_works > 0); /* how many depends on the load */
	clear(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(lies) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
