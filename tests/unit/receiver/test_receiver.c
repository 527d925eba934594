/* The receiver as a process of its own; this program is its master, its scheduler and its clients.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/ipc/new_message.h"
#include "common/ipc/notification.h"
#include "common/proc/control.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

#define SEG_BYTES (1u << 20)
#define NEWS_MAX  256

/* What the scheduler was told, in order. */
struct told {
	uint16_t kind; /* MESSAGE_NEW or MESSAGE_SEG_SEAL */
	msg_id_t id;
	uint32_t segment;
	uint64_t epoch, offset, bytes;
	char vmta[32], job[32], domain[32], sender_domain[32];
	unsigned n_entries;
	char owed[32];
	size_t owed_n;
};

enum answer { ANSWER_ACK, ANSWER_NACK, ANSWER_NOTHING };

struct stage {
	char dir[256];
	struct spool spool;
	int control, routes_fd, snapshot_fd;
	uint16_t port;
	pid_t pid;
	struct loop *loop;
	struct channel *channel;
	enum answer answer;
	bool no_segments;
	uint64_t next_id, next_epoch;
	uint32_t next_segment;
	uint32_t hello_flags;
	unsigned hellos, n_told;
	uint32_t held[8]; /* segments that it says it has open; 0 at their end */
	unsigned n_held, held_after; /* n_told at that end */
	bool seal_failed;
	struct told told[NEWS_MAX];
};

static struct stage st;

/* The scheduler ----------------------------------------------------------------------------------
 */

static void
answer_new(const struct message *m)
{
	struct message a = { .kind = st.answer == ANSWER_ACK ? MESSAGE_ACK : MESSAGE_NACK };

	if (st.answer == ANSWER_NOTHING)
		return;
	a.u.ack.id = m->u.new_message.id;
	a.u.ack.status = 452;
	assert_int_equal(channel_send(st.channel, &a, SLICE_NONE), 0);
}

static void
hear_new(const struct message *m, struct slice payload)
{
	struct told *t = &st.told[st.n_told++];
	struct buf scratch = { 0 };
	struct new_message n;

	assert_true(st.n_told < NEWS_MAX);
	assert_int_equal(new_message_decode(&n, payload, &scratch), 0);
	t->kind = m->kind;
	t->id = m->u.new_message.id;
	t->segment = m->u.new_message.segment;
	t->epoch = m->u.new_message.epoch;
	t->offset = m->u.new_message.offset;
	t->bytes = m->u.new_message.bytes;
	t->n_entries = n.n_entries;
	assert_int_equal(n.n_entries, m->u.new_message.n_entries);
	str_copy(t->vmta, sizeof t->vmta, n.vmta);
	str_copy(t->job, sizeof t->job, n.job);
	str_copy(t->sender_domain, sizeof t->sender_domain, n.sender_domain);
	str_copy(t->domain, sizeof t->domain, n.entries[0].domain);
	t->owed_n = n.owed.n;
	memcpy(t->owed, n.owed.n > 0 ? n.owed.p : "", n.owed.n < 32 ? n.owed.n : 0);
	buf_clear(&scratch);
	answer_new(m);
}

static void
give_segment(uint64_t for_bytes)
{
	struct message m = { .kind = MESSAGE_SEG_OPEN };
	uint64_t bytes = for_bytes > 0 ? for_bytes + SEGMENT_HEADER_BYTES : SEG_BYTES;

	if (st.no_segments) {
		m.u.seg_open.for_bytes = for_bytes;
		assert_int_equal(channel_send(st.channel, &m, SLICE_NONE), 0);
		return;
	}
	m.u.seg_open.number = ++st.next_segment;
	m.u.seg_open.epoch = ++st.next_epoch;
	m.u.seg_open.bytes = bytes;
	m.u.seg_open.for_bytes = for_bytes;
	assert_int_equal(
		segment_create(st.spool.segments_fd, m.u.seg_open.number, bytes, st.spool.instance),
		0);
	assert_int_equal(segment_stamp(st.spool.segments_fd, m.u.seg_open.number,
				       m.u.seg_open.epoch, st.spool.instance),
			 0);
	assert_int_equal(channel_send(st.channel, &m, SLICE_NONE), 0);
}

static void
on_input(void *arg)
{
	struct message m, a = { .kind = MESSAGE_ID_BLOCK };
	struct slice payload;
	struct told *t;

	(void)arg;
	while (channel_recv(st.channel, &m, &payload) > 0) {
		switch (m.kind) {
		case MESSAGE_RECEIVER_HELLO:
			st.hellos++;
			st.hello_flags = m.u.hello.flags;
			break;
		case MESSAGE_ID_REQ:
			a.u.id_block.first = st.next_id;
			a.u.id_block.count = m.u.id_req.count;
			st.next_id += m.u.id_req.count;
			assert_int_equal(channel_send(st.channel, &a, SLICE_NONE), 0);
			break;
		case MESSAGE_SEG_REQ:
			give_segment(m.u.seg_req.bytes);
			break;
		case MESSAGE_SEG_SEAL:
			t = &st.told[st.n_told++];
			t->kind = m.kind;
			t->segment = m.u.seg_seal.number;
			t->offset = m.u.seg_seal.end;
			st.seal_failed = m.u.seg_seal.failed != 0;
			break;
		case MESSAGE_SEG_HELD:
			assert_true(st.n_held < 8);
			st.held[st.n_held++] = m.u.seg_held.number;
			st.held_after = st.n_told;
			break;
		case MESSAGE_NEW:
			hear_new(&m, payload);
			break;
		}
	}
	channel_flush(st.channel);
}

/* A turn of the scheduler's life and a short nap. */
static void
pump(void)
{
	if (st.channel != NULL) {
		event_base_loop(loop_base(st.loop), EVLOOP_NONBLOCK);
		channel_flush(st.channel);
	}
	usleep(500);
}

/* The master -------------------------------------------------------------------------------------
 */

static void
connect_scheduler(void)
{
	struct control_message m = { .kind = CONTROL_CHANNEL,
				     .role = ROLE_SCHEDULER,
				     .generation = 1 };
	struct channel_fds fds;

	assert_int_equal(channel_create(&fds), 0);
	assert_int_equal(control_send(st.control, &m, &fds), 0);
	assert_int_equal(channel_open(&st.channel, &fds, 'S', st.loop, on_input, NULL), 0);
	channel_expect(st.channel, 'R');
}

static void
scheduler_dies(void)
{
	struct control_message m = { .kind = CONTROL_PEER_GONE,
				     .role = ROLE_SCHEDULER,
				     .generation = 1 };

	channel_close(&st.channel);
	assert_int_equal(control_send(st.control, &m, NULL), 0);
}

static int
listen_somewhere(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 100), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	st.port = ntohs(a.sin_port);
	return fd;
}

static void
write_conf(const char *path)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fprintf(f,
		"host-name = \"mta.example\"; spool = \"%s/spool\"; run = \"%s/run\";\n"
		"log-file = \"stderr\"; postmaster = \"Ops@Example.com\"; receivers = 1; workers = "
		"1;\n"
		"total-max-smtp-in = 40;\n"
		"smtp-listeners = ( { address = \"127.0.0.1:%u\"; } );\n"
		"sources = ( { match = \"127.0.0.0/8\"; always-allow-relaying = true;\n"
		"  process-x-virtual-mta = true; process-x-job = true; process-x-envid = true;\n"
		"  default-virtual-mta = \"pool1\"; smtp-command-timeout = \"2s\"; "
		"max-message-size = \"700k\"; },\n"
		"  { match = \"127.0.0.3/32\"; always-allow-relaying = false; },\n"
		"  { match = \"127.0.0.4/32\"; smtp-service = false; },\n"
		"  { match = \"127.0.0.5/32\"; reject-invalid-virtual-mta = false;\n"
		"    allow-empty-x-virtual-mta = true; add-message-id-header = true; "
		"add-date-header = true;\n"
		"    hide-message-source = true; },\n"
		"  { match = \"127.0.0.7/32\"; smtp-command-timeout = \"1s\"; } );\n"
		"virtual-mtas = ( { name = \"mta1\"; smtp-source-hosts = ( { ip = \"127.0.0.1\"; "
		"name = \"o1\"; } ); },\n"
		"  { name = \"mta2\"; smtp-source-hosts = ( { ip = \"127.0.0.2\"; name = \"o2\"; } "
		"); } );\n"
		"virtual-mta-pools = ( { name = \"pool1\"; virtual-mtas = [ \"mta1\", \"mta2\" ]; "
		"} );\n"
		"domains = ( { name = \"*\"; max-smtp-out = 20; },\n"
		"  { name = \"*.many.example\"; queue-to = \"many.queue\"; } );\n",
		st.dir, st.dir, st.port);
	fclose(f);
}

static int
snapshot(void)
{
	struct conf_report report = { 0 };
	struct buf b = { 0 };
	struct conf *conf = NULL;
	char path[300];
	int fd = memfd_create("conf", MFD_CLOEXEC);

	snprintf(path, sizeof path, "%s/sluice.conf", st.dir);
	write_conf(path);
	if (conf_snapshot_read(path, &b, &report) != 0 ||
	    conf_parse(buf_slice(&b), &conf, &report) != 0)
		fail_msg("%.*s", (int)report.text.len, report.text.data);
	conf_free(&conf);
	assert_int_equal(write(fd, b.data + b.start, b.len), b.len);
	conf_report_clear(&report);
	buf_clear(&b);
	return fd;
}

/* `file_bytes`: the child may write no file beyond it; 0: any. */
static void
start(rlim_t file_bytes)
{
	struct heritage h = { .role = ROLE_RECEIVER, .generation = 7, .operator_fd = -1 };
	struct rlimit files = { file_bytes, file_bytes };
	const char *why = NULL;
	char path[300];
	int fds[2];

	memset(&st, 0, sizeof st);
	st.next_id = 1000;
	str_copy(st.dir, sizeof st.dir, slice_str(scratch_make()));
	snprintf(path, sizeof path, "%s/spool", st.dir);
	assert_int_equal(spool_open(&st.spool, path, &why), 0);
	h.listener_fds[0] = listen_somewhere();
	h.n_listeners = 1;
	h.snapshot_fd = snapshot();
	h.routes_fd = memfd_create("routes", MFD_CLOEXEC);
	h.guard_fd = dup(st.spool.fd);
	assert_int_equal(control_pair(fds), 0);
	h.control_fd = fds[1];
	st.control = fds[0];
	st.pid = child_fork();
	assert_true(st.pid >= 0);
	if (st.pid == 0) {
		signal(SIGXFSZ, SIG_IGN);
		if (file_bytes > 0)
			setrlimit(RLIMIT_FSIZE, &files);
		/* No exit handlers of the test library. */
		_exit(receiver_main(&h));
	}
	close(fds[1]);
	close(h.listener_fds[0]);
	close(h.snapshot_fd);
	close(h.routes_fd);
	close(h.guard_fd);
	st.loop = loop_new();
}

/* Drains, and wants a clean end. */
static void
stop(void)
{
	struct control_message m = { .kind = CONTROL_DRAIN };
	uint64_t until = clock_boot_us() + 10000000;
	int status = -1;

	if (control_send(st.control, &m, NULL) != 0)
		print_error("receiver is gone already\n");
	while (waitpid(st.pid, &status, WNOHANG) == 0) {
		if (clock_boot_us() > until) {
			kill(st.pid, SIGKILL);
			waitpid(st.pid, &status, 0);
			break;
		}
		pump();
	}
	if (st.channel != NULL)
		on_input(NULL); /* its last words */
	channel_close(&st.channel);
	loop_free(&st.loop);
	close(st.control);
	spool_close(&st.spool);
	scratch_remove(st.dir);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Clients ----------------------------------------------------------------------------------------
 */

struct client {
	int fd;
	struct buf got;
	bool eof;
};

static struct client
client_open(const char *from)
{
	struct client c = { 0 };
	struct sockaddr_in a = { .sin_family = AF_INET };

	c.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	a.sin_addr.s_addr = inet_addr(from);
	assert_int_equal(bind(c.fd, (struct sockaddr *)&a, sizeof a), 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a.sin_port = htons(st.port);
	assert_int_equal(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
	fcntl(c.fd, F_SETFL, O_NONBLOCK);
	return c;
}

static void
client_close(struct client *c)
{
	close(c->fd);
	buf_clear(&c->got);
}

static void
client_read(struct client *c)
{
	ssize_t n = recv(c->fd, buf_room(&c->got, 65536), 65536, 0);

	if (n > 0)
		buf_added(&c->got, (size_t)n);
	else if (n == 0 || errno != EAGAIN)
		c->eof = true;
}

static void
client_send(struct client *c, const void *p, size_t n)
{
	uint64_t until = clock_boot_us() + 20000000;
	const char *at = p;

	while (n > 0) {
		ssize_t done = send(c->fd, at, n, MSG_NOSIGNAL);

		if (done > 0) {
			at += done;
			n -= (size_t)done;
			continue;
		}
		assert_true(clock_boot_us() < until);
		pump();
	}
}

/* What the scheduler hears comes by another way than what the client hears. */
static void
wait_told(unsigned n)
{
	uint64_t until = clock_boot_us() + 20000000;

	while (st.n_told < n && clock_boot_us() < until)
		pump();
	assert_int_equal(st.n_told, n);
}

static unsigned
lines_in(const struct buf *b)
{
	unsigned n = 0;

	for (size_t i = 0; i < b->len; i++)
		n += b->data[b->start + i] == '\n';
	return n;
}

/* Waits for `lines` lines (or the end), and takes all that came as a string. */
static const char *
client_hear(struct client *c, unsigned lines)
{
	static char text[16384];
	uint64_t until = clock_boot_us() + 20000000;

	while (lines_in(&c->got) < lines && !c->eof && clock_boot_us() < until) {
		client_read(c);
		if (lines_in(&c->got) < lines)
			pump();
	}
	str_copy(text, sizeof text, buf_slice(&c->got));
	buf_reset(&c->got);
	return text;
}

static void
expect(struct client *c, const char *say, unsigned lines, const char *want)
{
	const char *got;

	client_send(c, say, strlen(say));
	got = client_hear(c, lines);
	if (strstr(got, want) == NULL)
		fail_msg("said %s\nheard %s\nwanted %s", say, got, want);
}

#define HI   "EHLO c.example\r\n"
#define FROM "MAIL FROM:<Me@Sender.Example>\r\n"
#define MAIL FROM "RCPT TO:<u@D.example>\r\nDATA\r\n"

static struct client
greeted(const char *from)
{
	struct client c = client_open(from);

	expect(&c, "", 1, "220 mta.example ESMTP");
	expect(&c, HI, 5, "250 ENHANCEDSTATUSCODES\r\n");
	return c;
}

/* Sends a whole message with a body of `bytes` x's and wants `want`. */
static void
deliver(struct client *c, size_t bytes, const char *want)
{
	char *body = mem_alloc(bytes + 16);

	expect(c, MAIL, 3, "354 ");
	memset(body, 'x', bytes);
	for (size_t i = 80; i + 1 < bytes; i += 80)
		memcpy(body + i, "\r\n", 2);
	memcpy(body + bytes, "\r\n.\r\n", 5);
	client_send(c, body, bytes + 5);
	mem_free(body);
	expect(c, "", 1, want);
}

/* Reads the record that a NEW names and checks it. */
static void *record_bytes;

static void
read_record(const struct told *t, struct record *out)
{
	struct segment_cache *cache = segment_cache_new(st.spool.segments_fd, st.spool.instance);
	struct segment_ref ref;
	struct slice copy;

	assert_int_equal(segment_get(cache, t->segment, t->epoch, &ref), 0);
	assert_true(t->offset + t->bytes <= ref.bytes.n);
	record_bytes = mem_memdup0(ref.bytes.p + t->offset, t->bytes);
	copy = slice_of(record_bytes, t->bytes);
	segment_put(cache, t->segment, t->epoch);
	segment_cache_free(&cache);
	assert_int_equal(record_decode(out, copy, t->epoch, t->id), 0);
	assert_int_equal(out->header.total_bytes, t->bytes);
}

static void
record_done(struct record *r)
{
	record_clear(r);
	mem_free(record_bytes);
}

/* Tests ------------------------------------------------------------------------------------------
 */

static void
a_message_reaches_disk_and_scheduler(void **state)
{
	struct client c;
	struct record r;
	const struct told *t = &st.told[0];

	(void)state;
	start(0);
	connect_scheduler();
	c = greeted("127.0.0.1");
	expect(&c,
	       FROM "RCPT TO:<b@Two.example>\r\nRCPT TO:<\"A b\"@one.example>\r\nRCPT "
		    "TO:<c@two.EXAMPLE>\r\n"
		    "RCPT TO:<postmaster>\r\nRCPT TO:<x@[192.0.2.1]>\r\nDATA\r\n",
	       7, "550 5.1.2");
	expect(&c,
	       "X-Job: j7\r\nSubject: s\r\nX-Virtual-MTA: MTA2\r\nX-Envid: "
	       "e9\r\n\r\n..dot\r\n.\r\n",
	       1, "250 2.0.0 Queued as 00000000000003e8\r\n");
	assert_int_equal(st.n_told, 1);
	assert_int_equal(st.hello_flags, 0);
	assert_int_equal(t->id, 1000);
	assert_int_equal(t->n_entries, 3);
	assert_string_equal(t->vmta, "mta2");
	assert_string_equal(t->job, "j7");
	assert_string_equal(t->sender_domain, "sender.example");
	assert_string_equal(t->domain, "example.com");
	assert_int_equal(t->offset, SEGMENT_HEADER_BYTES);
	read_record(t, &r);
	assert_int_equal(r.header.flags, RECORD_DOT_LINES);
	assert_true(slice_is(r.env.sender, "Me@sender.example"));
	assert_true(slice_is(r.env.vmta, "mta2"));
	assert_true(slice_is(r.env.pool, ""));
	assert_true(slice_is(r.env.job, "j7"));
	assert_true(slice_is(r.env.envid, "e9"));
	assert_true(slice_is(r.env.src_mta, "c.example (127.0.0.1)"));
	assert_true(slice_is(r.env.src_ip, "127.0.0.1"));
	assert_true(slice_is(r.env.dst_ip, "127.0.0.1"));
	assert_int_equal(r.env.n_rcpts, 4);
	assert_true(slice_is(r.env.rcpts[0], "Ops@example.com"));
	assert_true(slice_is(r.env.rcpts[1], "\"A b\"@one.example"));
	assert_true(slice_is(r.env.rcpts[2], "b@two.example"));
	assert_true(slice_is(r.env.rcpts[3], "c@two.example"));
	assert_int_equal(r.env.entries[2].count, 2);
	assert_true(slice_starts_nocase(
		r.body, "Received: from c.example ([127.0.0.1])\r\n\tby mta.example "
			"with ESMTP id 00000000000003e8;\r\n\t"));
	assert_true(slice_is(slice_sub(r.body, r.body.n - 20), "Subject: s\r\n\r\n.dot\r\n"));
	record_done(&r);
	expect(&c, "QUIT\r\n", 1, "221 2.0.0");
	client_close(&c);
	stop();
}

/* Domains of one queue: one entry for all their recipients, who keep their addresses. */
static void
queue_to(void **state)
{
	static const char *const rcpts[] = { "a@x.many.example", "c@many.queue", "d@x.many.example", "a@y.many.example",
					     "p@p.example", "e@zz.example" };
	struct client c;
	struct record r;

	(void)state;
	start(0);
	connect_scheduler();
	c = greeted("127.0.0.1");
	expect(&c,
	       FROM "RCPT TO:<a@Y.many.example>\r\nRCPT TO:<e@zz.example>\r\nRCPT TO:<a@x.many.example>\r\n"
		    "RCPT TO:<p@p.example>\r\nRCPT TO:<d@x.many.example>\r\nRCPT TO:<c@many.queue>\r\nDATA\r\n",
	       8, "354");
	expect(&c, "\r\n.\r\n", 1, "250 2.0.0");
	assert_int_equal(st.told[0].n_entries, 3);
	assert_string_equal(st.told[0].domain, "many.queue");
	read_record(&st.told[0], &r);
	assert_int_equal(r.env.n_rcpts, 6);
	assert_int_equal(r.env.entries[0].count, 4);
	assert_true(slice_is(r.env.entries[0].domain, "many.queue"));
	assert_true(slice_is(r.env.entries[1].domain, "p.example"));
	for (unsigned i = 0; i < 6; i++) {
		bool found = false;

		for (unsigned k = 0; k < 6; k++)
			found |= slice_is(r.env.rcpts[k], rcpts[i]);
		assert_true(found);
	}
	assert_true(slice_is(r.env.rcpts[4], "p@p.example"));
	record_done(&r);
	client_close(&c);
	stop();
}

static void
refusals(void **state)
{
	struct client c;
	struct record r;

	(void)state;
	start(0);
	connect_scheduler();
	c = greeted("127.0.0.3");
	expect(&c, MAIL, 3, "550 5.7.1 Relaying denied\r\n503 ");
	client_close(&c);
	c = client_open("127.0.0.4");
	expect(&c, "", 2, "521 5.3.2");
	assert_true(c.eof);
	client_close(&c);
	c = greeted("127.0.0.1");
	expect(&c, MAIL "X-Virtual-MTA: nobody\r\n\r\n.\r\n", 4, "550 5.7.1 Unknown virtual MTA");
	expect(&c, MAIL "X-Virtual-MTA:\r\n\r\n.\r\n", 4, "550 5.7.1 Unknown virtual MTA");
	expect(&c, MAIL "X-Job: a b\r\n\r\n.\r\n", 4, "550 5.6.0 Invalid job id");
	expect(&c, MAIL "a\nb\r\n.\r\n" MAIL "x\r\n.\r\n", 4, "550 5.6.0 Bare");
	client_hear(&c, 1);
	assert_true(c.eof); /* nothing is taken behind such a message */
	client_close(&c);
	c = greeted("127.0.0.1");
	expect(&c, "MAIL FROM:<a@b> SIZE=716801\r\n", 1, "552 5.3.4");
	deliver(&c, 716790, "250 2.0.0");
	deliver(&c, 716800, "552 5.3.4");
	assert_int_equal(st.n_told, 1);
	/* The pool's members in turn. */
	expect(&c, MAIL ".\r\n", 4, "250 2.0.0");
	expect(&c, MAIL ".\r\n", 4, "250 2.0.0");
	assert_string_equal(st.told[0].vmta, "mta1");
	assert_string_equal(st.told[1].vmta, "mta2");
	assert_string_equal(st.told[2].vmta, "mta1");
	read_record(&st.told[2], &r);
	assert_true(slice_is(r.env.pool, "pool1"));
	record_done(&r);
	client_close(&c);
	c = greeted("127.0.0.5");
	expect(&c, MAIL "X-Virtual-MTA: nobody\r\n\r\n.\r\n", 4, "250 2.0.0");
	assert_string_equal(st.told[3].vmta, "mta2");
	expect(&c, MAIL "X-Virtual-MTA:\r\nDate: x\r\n\r\n.\r\n", 4, "250 2.0.0");
	assert_string_equal(st.told[4].vmta, "{default}");
	read_record(&st.told[4], &r);
	assert_true(slice_starts_nocase(r.body, "Received: by mta.example with ESMTP id "));
	assert_non_null(memmem(r.body.p, r.body.n, "\r\nMessage-ID: <", 15));
	assert_null(memmem(r.body.p, r.body.n, "Date: S", 7));
	record_done(&r);
	/* Not acknowledged is not accepted. */
	st.answer = ANSWER_NACK;
	expect(&c, MAIL "a\r\n.\r\n", 4, "452 4.3.1");
	client_close(&c);
	stop();
}

/* Whatever a recipient looks like: a client that may not relay relays nothing. */
static void
no_open_relay(void **state)
{
	static const char *const forms[] = {
		/* clang-format off */
		"<u@other.example>", "<u@mta.example>", "<u@127.0.0.1>", "<u@[127.0.0.1]>", "<u@localhost>",
		"<u%other.example@mta.example>", "<u%other.example@[127.0.0.1]>", "<u%other.example>", "<u%other.example@>",
		"<other.example!u>", "<other.example!u@mta.example>", "<mta.example!other.example!u>", "<a!b!u@c>",
		"<@mta.example:u@other.example>", "<@[127.0.0.1]:u@other.example>", "<@a,@b:u@other.example>", "<@:u@other.example>",
		"<\"u@other.example\">", "<\"u@other.example\"@mta.example>", "<\"u%other.example\"@mta.example>",
		"<\"other.example!u\"@mta.example>", "<\"u\"@other.example>", "<u@other.example@mta.example>",
		"<u@mta.example@other.example>", "<u@other.example.>", "<u@.other.example>", "<u@other.example", "u@other.example",
		"<u>", "<>", "<postmaster>", "<postmaster@other.example>", "<abuse@mta.example>", "<u@other.example> NOTIFY=NEVER",
		"< u@other.example>", "<u @other.example>", "<u@ other.example>", "<(c)u@other.example>", "<u@[IPv6:::1]>",
		"\"u\"<u@other.example>", "<u@other.example>,<v@other.example>", "<u@other.example,mta.example>", "<|id>", "</etc/passwd>",
		"<u@OTHER.EXAMPLE>", "<u+x@other.example>", "<u@other>", "<u@a.b.c.d.e>", "<u@xn--bcher-kva.example>", "<..@x>",
		/* clang-format on */
	};
	struct client c;

	(void)state;
	start(0);
	connect_scheduler();
	for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
		char line[256];
		const char *got;

		if (i % 15 == 0) { /* bad forms count as errors: a new session in time */
			if (i > 0)
				client_close(&c);
			c = greeted("127.0.0.3");
		}
		snprintf(line, sizeof line, "RSET\r\n" FROM "RCPT TO:%s\r\n", forms[i]);
		client_send(&c, line, strlen(line));
		got = client_hear(&c, 3);
		if (strncmp(got, "250 2.0.0 Ok\r\n250 2.1.0 Sender ok\r\n5", 36) != 0)
			fail_msg("%s: %s", forms[i], got);
	}
	assert_int_equal(st.n_told, 0);
	client_close(&c);
	stop();
}

/* Many clients at once: each message is told once, behind the ones before it, and all are readable.
 */
static void
many_clients(void **state)
{
	struct client c[30];
	struct record r;

	(void)state;
	start(0);
	connect_scheduler();
	for (int i = 0; i < 30; i++)
		c[i] = greeted("127.0.0.1");
	for (int round = 0; round < 6; round++) {
		for (int i = 0; i < 30; i++)
			client_send(&c[i], MAIL "Subject: x\r\n\r\nhello\r\n.\r\n",
				    strlen(MAIL "Subject: x\r\n\r\nhello\r\n.\r\n"));
		for (int i = 0; i < 30; i++)
			expect(&c[i], "", 4, "250 2.0.0");
	}
	assert_int_equal(st.n_told, 180);
	for (unsigned i = 0; i < 180; i++) {
		if (i > 0)
			assert_int_equal(st.told[i].offset,
					 st.told[i - 1].offset + st.told[i - 1].bytes);
		read_record(&st.told[i], &r);
		record_done(&r);
	}
	for (int i = 0; i < 30; i++)
		client_close(&c[i]);
	stop();
}

static void
segments_roll(void **state)
{
	struct client c;
	struct record r;
	unsigned seals = 0;
	uint32_t sealed = 0;

	(void)state;
	start(0);
	connect_scheduler();
	c = greeted("127.0.0.1");
	for (int i = 0; i < 7; i++)
		deliver(&c, 400000, "250 2.0.0");
	client_close(&c);
	wait_told(10);
	/* Two fit in each; a seal comes behind the last NEW of its segment. */
	for (unsigned i = 0; i < st.n_told; i++) {
		const struct told *t = &st.told[i];

		if (t->kind == MESSAGE_SEG_SEAL) {
			seals++;
			sealed = t->segment;
			assert_int_equal(t->offset, st.told[i - 1].offset + st.told[i - 1].bytes);
			assert_int_equal(t->segment, st.told[i - 1].segment);
			continue;
		}
		assert_true(t->segment > sealed);
		read_record(t, &r);
		record_done(&r);
	}
	assert_int_equal(seals, 3);
	stop();
}

/* A write fails: the whole group hears 451, the segment is sealed where it was good, and the next
 * message goes to another one. */
static void
write_error(void **state)
{
	struct client c;

	(void)state;
	start(600000);
	connect_scheduler();
	c = greeted("127.0.0.1");
	deliver(&c, 400000, "250 2.0.0");
	deliver(&c, 400000, "451 4.3.0");
	wait_told(2);
	assert_int_equal(st.told[1].kind, MESSAGE_SEG_SEAL);
	assert_int_equal(st.told[1].segment, st.told[0].segment);
	assert_int_equal(st.told[1].offset, st.told[0].offset + st.told[0].bytes);
	assert_true(st.seal_failed);
	deliver(&c, 300000, "250 2.0.0");
	assert_int_not_equal(st.told[2].segment, st.told[0].segment);
	client_close(&c);
	stop();
}

/* The scheduler dies with a NEW unanswered: the next one hears it again, and the client waits. */
static void
scheduler_restarts(void **state)
{
	struct client c, d;
	struct told first;

	(void)state;
	start(0);
	connect_scheduler();
	c = greeted("127.0.0.1");
	d = greeted("127.0.0.1");
	deliver(&c, 700000, "250 2.0.0");
	deliver(&c, 600000, "250 2.0.0"); /* the first segment is sealed now */
	st.answer = ANSWER_NOTHING;
	expect(&c, MAIL "a\r\n.\r\n", 3, "354 ");
	wait_told(4);
	first = st.told[3];
	scheduler_dies();
	usleep(50000);
	expect(&d, "NOOP\r\n", 0, ""); /* not read: no scheduler */
	st.answer = ANSWER_ACK;
	st.n_told = 0;
	connect_scheduler();
	expect(&c, "", 1, "250 2.0.0");
	expect(&d, "", 1, "250 2.0.0 Ok");
	assert_int_equal(st.hello_flags, HELLO_RESUMED);
	assert_int_equal(st.told[0].kind, MESSAGE_NEW);
	assert_int_equal(st.told[0].id, first.id);
	assert_int_equal(st.told[0].segment, first.segment);
	assert_int_equal(st.told[0].offset, first.offset);
	assert_int_equal(st.told[1].kind, MESSAGE_SEG_SEAL); /* told again */
	wait_told(2);
	deliver(&d, 100, "250 2.0.0");
	/* What it has open it says behind what was told again: one in use, one spare. */
	assert_int_equal(st.n_held, 3);
	assert_int_equal(st.held[0], first.segment);
	assert_int_not_equal(st.held[1], first.segment);
	assert_int_not_equal(st.held[1], 0);
	assert_int_equal(st.held[2], 0);
	assert_int_equal(st.held_after, 2);
	client_close(&c);
	client_close(&d);
	stop();
}

/* Nothing is read while nothing can be kept; what waits goes on when it can. */
static void
backpressure(void **state)
{
	struct client c;
	uint32_t had;

	(void)state;
	start(0);
	c = client_open("127.0.0.1");
	for (int i = 0; i < 50; i++)
		pump();
	client_read(&c);
	assert_int_equal(c.got.len, 0); /* not even greeted */
	st.no_segments = true;
	had = st.next_segment;
	connect_scheduler();
	for (int i = 0; i < 50; i++)
		pump();
	/* The scheduler has no room: that does not pass in a moment. */
	expect(&c, "", 1, "220 ");
	expect(&c, HI, 5, "250 ");
	expect(&c, "MAIL FROM:<a@b.example>\r\n", 1, "452 4.3.1");
	st.no_segments = false; /* asked for again each second */
	for (int i = 0, after = 0; i < 6000 && after < 100; i++, after += st.next_segment > had)
		pump();
	deliver(&c, 100, "250 2.0.0");
	client_close(&c);
	stop();
}

static void
time_out_and_abuse(void **state)
{
	struct client c, d, e[45];
	unsigned refused = 0;

	(void)state;
	start(0);
	connect_scheduler();
	c = greeted("127.0.0.7");
	d = greeted("127.0.0.7");
	client_send(&d, "NO", 2);
	expect(&c, "", 1, "421 4.4.2");
	expect(&d, "", 1, "421 4.4.2");
	client_hear(&c, 1);
	assert_true(c.eof);
	client_close(&c);
	client_close(&d);
	c = greeted("127.0.0.1");
	expect(&c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1, "");
	assert_true(c.eof);
	client_close(&c);
	/* More clients than total-max-smtp-in. */
	for (int i = 0; i < 45; i++) {
		e[i] = client_open("127.0.0.1");
		refused += strstr(client_hear(&e[i], 1), "421 4.3.2") != NULL;
	}
	assert_in_range(refused, 5, 6);
	for (int i = 0; i < 45; i++)
		client_close(&e[i]);
	stop();
}

static void
tell_notification(const char *to, const char *keys, const char *text)
{
	struct message m = { .kind = MESSAGE_NOTIFY };
	struct notification n = { slice_str(to), slice_str(keys), slice_str(text) };
	struct buf payload = { 0 };

	notification_encode(&payload, &n);
	assert_int_equal(channel_send(st.channel, &m, buf_slice(&payload)), 0);
	channel_flush(st.channel);
	buf_clear(&payload);
}

/* From nobody, to all of them, as it is; with the keys that say what it tells. */
static void
a_notification_is_taken_in(void **state)
{
	static const char text[] = "Subject: s\r\nX-Virtual-MTA: mta2\r\n\r\nbody\r\n";
	const struct told *t = &st.told[0];
	struct client c;
	struct record r;

	(void)state;
	start(0);
	connect_scheduler();
	tell_notification("Ops@One.example\nb@two.example\nB@one.EXAMPLE", "12345678abcdefgh", text);
	wait_told(1); /* before it the receiver had neither ids nor room */
	assert_string_equal(t->vmta, CONF_VMTA_NOTIFY);
	assert_string_equal(t->sender_domain, "");
	assert_string_equal(t->job, "");
	assert_int_equal(t->n_entries, 2);
	assert_int_equal(t->owed_n, 16);
	assert_memory_equal(t->owed, "12345678abcdefgh", 16);
	read_record(t, &r);
	assert_true(slice_is(r.env.sender, ""));
	assert_true(slice_is(r.env.src_mta, "mta.example"));
	assert_int_equal(r.env.n_rcpts, 3);
	assert_true(slice_is(r.env.rcpts[0], "Ops@one.example"));
	assert_true(slice_is(r.env.rcpts[1], "B@one.example"));
	assert_true(slice_is(r.body, text));
	record_done(&r);
	/* What cannot be sent is not, and nothing else comes of it; a client's mail has no keys. */
	tell_notification("no address", "12345678", text);
	tell_notification("a@b.example", "1234567", text);
	tell_notification("a@b.example", "12345678", "");
	c = greeted("127.0.0.1");
	deliver(&c, 100, "250 2.0.0");
	assert_int_equal(st.n_told, 2);
	assert_int_equal(st.told[1].owed_n, 0);
	assert_string_equal(st.told[1].vmta, "mta1");
	client_close(&c);
	stop();
}

static void
drain(void **state)
{
	struct control_message m = { .kind = CONTROL_DRAIN };
	struct client idle, busy;

	(void)state;
	start(0);
	connect_scheduler();
	idle = greeted("127.0.0.1");
	busy = greeted("127.0.0.1");
	expect(&busy, MAIL, 3, "354 ");
	assert_int_equal(control_send(st.control, &m, NULL), 0);
	expect(&idle, "", 1, "421 4.3.2");
	client_hear(&idle, 1);
	assert_true(idle.eof);
	expect(&busy, "a\r\n.\r\n", 2, "250 2.0.0");
	client_close(&idle);
	client_close(&busy);
	stop();
	assert_int_equal(st.told[0].kind, MESSAGE_NEW);
	/* Both segments were given back. */
	wait_told(3);
	assert_int_equal(st.told[1].kind, MESSAGE_SEG_SEAL);
	assert_int_equal(st.told[2].kind, MESSAGE_SEG_SEAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_reaches_disk_and_scheduler),
		cmocka_unit_test(queue_to),
		cmocka_unit_test(a_notification_is_taken_in),
		cmocka_unit_test(refusals),
		cmocka_unit_test(no_open_relay),
		cmocka_unit_test(many_clients),
		cmocka_unit_test(segments_roll),
		cmocka_unit_test(write_error),
		cmocka_unit_test(scheduler_restarts),
		cmocka_unit_test(backpressure),
		cmocka_unit_test(time_out_and_abuse),
		cmocka_unit_test(drain),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
