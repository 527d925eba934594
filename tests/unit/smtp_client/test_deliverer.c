/* deliverer: a whole worker process, with this test as its master, its scheduler, and the peer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/mem.h"
#include "common/base/wire.h"
#include "common/ipc/channel.h"
#include "common/conf/conf.h"
#include "common/ipc/reply_match.h"
#include "common/ipc/results.h"
#include "common/net/addr.h"
#include "common/proc/control.h"
#include "common/proc/role.h"
#include "common/proc/route.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

#define EPOCH   7
#define SEGMENT 1
#define RCPTS   3
#define IN_TIME 20000000 /* us, until a leave is stale */

/* The peer ------------------------------------------------------------------------------------ */

/* What it says at each place; "!close", "!hang" and "!drip" (a byte now and then) are no words. */
struct script {
	const char *greeting, *ehlo, *mail, *rcpt[RCPTS], *data, *dot;
};

static const struct script good = {
	"220 sink\r\n",     "250-sink\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n",
	"250 2.1.0 ok\r\n", { "250 2.1.5 ok\r\n", "250 2.1.5 ok\r\n", "250 2.1.5 ok\r\n" },
	"354 go\r\n",       "250 2.6.0 queued\r\n",
};

struct session {
	struct watch watch;
	int fd;
	bool in_data, used;
	int rcpt;
	struct buf in;
};

/* The world ----------------------------------------------------------------------------------- */

struct told {
	struct message m;
	struct slice payload; /* owned */
};

static struct {
	char dir[256];
	struct loop *loop;
	struct script script;
	int listen_fd;
	struct watch accept_watch;
	struct session sessions[16];
	int n_accepted, n_quit, n_rset;
	struct buf body; /* of the last DATA, as it was on the wire, without the dot */
	struct spool spool;
	struct claim_table *claims;
	struct route_object *routes;
	int routes_fd, snapshot_fd, control;
	pid_t worker;
	struct channel *channel;
	struct told told[64];
	int n_told;
	struct timer timer, drip;
	struct session *dripping;
	bool late;
	bool ask, hang_rset;
	bool ruled; /* connections are of a queue that has rules */
	bool by_ip; /* and of rollup-by-ip */
	bool group_is_whole; /* MAIL came in one read with every RCPT and DATA */
	uint64_t next_offset;
	uint32_t attempt; /* of the next work; 0: the first */
	uint64_t next_lease;
	struct segment_writer writer;
} t;

static void
say(struct session *s, const char *text)
{
	if (strcmp(text, "!hang") == 0)
		return;
	if (strcmp(text, "!drip") == 0) {
		t.dripping = s;
		timer_set(&t.drip, 1);
		return;
	}
	if (strcmp(text, "!close") == 0) {
		watch_clear(&s->watch);
		close(s->fd);
		s->used = false;
		return;
	}
	assert_int_equal(write(s->fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void
on_drip(void *arg)
{
	(void)arg;
	if (!t.dripping->used)
		return;
	say(t.dripping, "2");
	timer_set(&t.drip, 150000);
}

static void
close_sessions(void)
{
	for (int i = 0; i < 16; i++) {
		if (t.sessions[i].used)
			say(&t.sessions[i], "!close");
	}
}

static void
hear_line(struct session *s, struct slice line)
{
	if (slice_starts_nocase(line, "EHLO ")) {
		assert_true(slice_is(line, "EHLO out1.example.net"));
		say(s, t.script.ehlo);
	} else if (slice_starts_nocase(line, "MAIL ")) {
		s->rcpt = 0;
		say(s, t.script.mail);
	} else if (slice_starts_nocase(line, "RCPT ")) {
		say(s, t.script.rcpt[s->rcpt++ % RCPTS]);
	} else if (slice_is(line, "DATA")) {
		s->in_data = t.script.data[0] == '3';
		buf_reset(&t.body);
		say(s, t.script.data);
	} else if (slice_is(line, "RSET")) {
		t.n_rset++;
		say(s, t.hang_rset ? "!hang" : "250 reset\r\n");
	} else if (slice_is(line, "QUIT")) {
		t.n_quit++;
		say(s, "221 bye\r\n");
	} else {
		fail_msg("the peer hears `%.*s`", (int)line.n, line.p);
	}
}

static void
on_session(void *arg, short what)
{
	struct session *s = arg;
	char bytes[65536];
	ssize_t n = read(s->fd, bytes, sizeof bytes);
	const char *lf;

	(void)what;
	if (n <= 0) {
		say(s, "!close");
		return;
	}
	if (n > 4 && memcmp(bytes, "MAIL", 4) == 0) {
		int rcpts = 0;

		for (ssize_t i = 0; i + 4 < n; i++)
			rcpts += memcmp(bytes + i, "RCPT", 4) == 0;
		t.group_is_whole = rcpts == RCPTS && memcmp(bytes + n - 6, "DATA\r\n", 6) == 0;
	}
	buf_put(&s->in, bytes, (size_t)n);
	while (s->used && s->in.len > 0 &&
	       (lf = memchr(s->in.data + s->in.start, '\n', s->in.len)) != NULL) {
		size_t len = (size_t)(lf - (s->in.data + s->in.start)) + 1;
		struct slice line = slice_of(s->in.data + s->in.start, len);

		assert_true(len >= 2 && line.p[len - 2] == '\r');
		if (!s->in_data) {
			hear_line(s, slice_of(line.p, len - 2));
		} else if (len == 3 && line.p[0] == '.') {
			s->in_data = false;
			say(s, t.script.dot);
		} else {
			buf_put_slice(&t.body, line);
		}
		if (s->used)
			buf_consume(&s->in, len);
	}
}

static void
on_accept(void *arg, short what)
{
	struct session *s = t.sessions;
	int fd = accept(t.listen_fd, NULL, NULL);

	(void)arg;
	(void)what;
	assert_true(fd >= 0);
	while (s->used)
		s++;
	assert_true(s < t.sessions + 16);
	buf_clear(&s->in);
	*s = (struct session){ .fd = fd, .used = true };
	watch_init(&s->watch, t.loop, fd, on_session, s);
	watch_set(&s->watch, EV_READ);
	t.n_accepted++;
	say(s, t.script.greeting);
}

/* The scheduler ------------------------------------------------------------------------------- */

static void
on_channel_input(void *arg)
{
	struct message m;
	struct slice payload;
	int rc;

	(void)arg;
	while ((rc = channel_recv(t.channel, &m, &payload)) == 1) {
		assert_true(t.n_told < 64);
		t.told[t.n_told].m = m;
		t.told[t.n_told].payload =
			slice_of(mem_memdup0(payload.p ? payload.p : "", payload.n), payload.n);
		t.n_told++;
	}
	assert_int_equal(rc, 0);
	channel_flush(t.channel);
}

static void
attach(void)
{
	struct channel_fds fds, mine;
	struct control_message m = {
		.kind = CONTROL_CHANNEL, .role = ROLE_SCHEDULER, .slot = 0, .generation = 1
	};

	assert_int_equal(channel_create(&fds), 0);
	mine = (struct channel_fds){ dup(fds.memfd), dup(fds.wake_scheduler), dup(fds.wake_other) };
	assert_int_equal(channel_open(&t.channel, &mine, 'S', t.loop, on_channel_input, NULL), 0);
	channel_expect(t.channel, 'W');
	assert_int_equal(control_send(t.control, &m, &fds), 0);
	channel_fds_close(&fds);
}

static void
forget_told(void)
{
	for (int i = 0; i < t.n_told; i++)
		mem_free((void *)(uintptr_t)t.told[i].payload.p);
	t.n_told = 0;
}

static void
on_late(void *arg)
{
	(void)arg;
	t.late = true;
	loop_stop(t.loop);
}

static const struct told *wanted;
static unsigned wanted_kind;
static int wanted_from;

static void
on_turn(void *arg)
{
	(void)arg;
	for (int i = wanted_from; i < t.n_told; i++) {
		if (t.told[i].m.kind == wanted_kind) {
			wanted = &t.told[i];
			loop_stop(t.loop);
			return;
		}
	}
}

/* Runs until the worker says `kind`, which is the `nth` since forget_told(). */
static const struct told *
await(unsigned kind, int line)
{
	wanted = NULL;
	wanted_kind = kind;
	t.late = false;
	on_turn(NULL);
	timer_set(&t.timer, 10000000);
	if (wanted == NULL) {
		loop_set_turn_end(t.loop, on_turn, NULL);
		loop_run(t.loop);
	}
	timer_stop(&t.timer);
	if (wanted == NULL)
		fail_msg("line %d: the worker does not say %s", line, message_name(kind));
	wanted_from = (int)(wanted - t.told) + 1;
	return wanted;
}
#define AWAIT(kind) await(MESSAGE_##kind, __LINE__)

/* Runs so long, and on a busy machine until the worker had its turn. */
static void
run_ms(unsigned ms)
{
	wanted_kind = MESSAGE_KIND_COUNT;
	do {
		timer_set(&t.timer, ms * 1000);
		loop_run(t.loop);
	} while (!child_sleeps(t.worker));
}

static void
tell(struct message *m, struct slice payload)
{
	assert_int_equal(channel_send(t.channel, m, payload), 0);
	channel_flush(t.channel);
}

static void
open_connection(uint32_t number, uint64_t generation)
{
	struct message m = { .kind = MESSAGE_OPEN };

	m.u.open.connection = number;
	m.u.open.route_generation = generation;
	m.u.open.deadline_boot_us = clock_boot_us() + IN_TIME;
	m.u.open.source_ip = 1;
	m.u.open.vmta = 1;
	m.u.open.queue = 9;
	tell(&m, t.by_ip   ? SLICE_LIT("127.0.0.1.r.rollup/mta1")
		 : t.ruled ? SLICE_LIT("ruled.example/mta1")
			   : SLICE_LIT("example.com/mta1"));
}

/* A record in the segment; its offset. */
static uint64_t
put_record(struct slice body, unsigned flags, msg_id_t id)
{
	static const struct slice rcpts[RCPTS] = { { "a@example.com", 13 },
						   { "b@example.com", 13 },
						   { "c@example.com", 13 } };
	static const struct record_entry entry = { { "example.com", 11 }, 0, RCPTS };
	struct record_envelope env = { .id = id,
				       .received_wall_us = 5,
				       .sender = SLICE_LIT("s@example.net"),
				       .vmta = SLICE_LIT("mta1"),
				       .job = SLICE_LIT("job7"),
				       .n_rcpts = RCPTS,
				       .rcpts = rcpts,
				       .n_entries = 1,
				       .entries = &entry };
	struct buf head = { 0 };
	static const char zeros[RECORD_ALIGN];
	struct iovec iov[3];
	int64_t at;

	record_encode(&head, &env, flags, &body, 1);
	record_stamp(head.data + head.start, EPOCH);
	iov[0] = (struct iovec){ head.data + head.start, head.len };
	iov[1] = (struct iovec){ (void *)(uintptr_t)body.p, body.n };
	iov[2] = (struct iovec){ (void *)(uintptr_t)zeros, record_padding(head.len, body.n) };
	at = segment_append(&t.writer, iov, 3);
	assert_true(at >= 0);
	buf_clear(&head);
	return (uint64_t)at;
}

/* Grants all (or those of `bits`) to a connection; the claim slot. */
static unsigned
give_work(uint32_t connection, uint64_t offset, msg_id_t id, unsigned char bits, int64_t in_us)
{
	struct claim_grant g = { .lease = ++t.next_lease,
				 .key = { id, 0 },
				 .connection = connection,
				 .n_rcpts = RCPTS,
				 .ask = t.ask,
				 .attempt = t.attempt ? t.attempt : 1 };
	struct message m = { .kind = MESSAGE_WORK };
	int slot = claim_grant(t.claims, &g);

	assert_true(slot >= 0);
	m.u.work.lease = g.lease;
	m.u.work.epoch = EPOCH;
	m.u.work.deadline_boot_us = (uint64_t)((int64_t)clock_boot_us() + in_us);
	m.u.work.id = id;
	m.u.work.connection = connection;
	m.u.work.claim_slot = (uint32_t)slot;
	m.u.work.segment = SEGMENT;
	m.u.work.offset16 = (uint32_t)(offset / 16);
	m.u.work.n_rcpts = RCPTS;
	m.u.work.flags = t.ask ? WORK_ASK : 0;
	m.u.work.attempt = (uint16_t)g.attempt;
	tell(&m, slice_of(&bits, 1));
	return (unsigned)slot;
}

/* The RESULT's parts; the claim slot must hold the same bytes. */
static struct results
results_of(const struct told *told, struct result_strings *strings)
{
	static struct buf scratch, scratch2;
	struct wire_reader r;
	struct slice encoded;
	struct results results;
	struct claim_view view;

	wire_read_init(&r, told->payload);
	encoded = wire_bytes(&r, CLAIM_RESULT_BYTES);
	assert_int_equal(results_decode(&results, encoded, &scratch), 0);
	assert_int_equal(claim_read(t.claims, told->m.u.result.claim_slot, &view), 0);
	assert_int_equal(view.state, CLAIM_ANSWERED);
	assert_true(view.results_ok && slice_eq(view.results, encoded));
	assert_int_equal(results.flags, told->m.u.result.flags);
	if (strings != NULL)
		assert_int_equal(
			result_strings_decode(strings, wire_raw(&r, wire_left(&r)), &scratch2), 0);
	claim_free(t.claims, told->m.u.result.claim_slot);
	return results;
}

/* Life ---------------------------------------------------------------------------------------- */

static const char conf_text[] =
	"host-name = \"mta.example.net\";\n"
	"spool = \"%s/spool\";\nrun = \"%s/run\";\nlog-file = \"%s/log\";\n"
	"workers = 1;\n"
	"smtp-listeners = ( { address = \"127.0.0.1:2599\"; } );\n"
	"allow-destinations = [ \"127.0.0.0/8\" ];\n"
	"virtual-mtas = ( { name = \"mta1\"; smtp-source-hosts = ( { ip = \"127.0.0.1\"; name = "
	"\"out1.example.net\"; } ); } );\n"
	"domains = ( { name = \"*\"; data-send-timeout = \"2s\"; smtp-data-termination-timeout = "
	"\"1s\"; smtp-greeting-timeout = \"1s\"; },\n"
	"  { name = \"ruled.example\"; smtp-pattern-list = \"l\"; },\n"
	"  { name = \"r.rollup\"; smtp-pattern-list = \"l\"; } );\n"
	"mx-rollup-list = { mx = [ \"mx.example.com r.rollup rollup-by-ip\" ]; };\n"
	"providers = ( { name = \"p\"; mx = [ \"mx.example.com\" ]; } );\n"
	"smtp-pattern-lists = ( { name = \"l\"; rules = (\n"
	"  { reply = \"/too many/\"; actions = [ \"mode=backoff\" ]; after = \"3/10m\"; category = \"session-limit\"; },\n"
	"  { reply = \"/^421 4.7.0/\"; actions = [ \"reconnect\" ]; },\n"
	"  { reply = \"/wait (.*)/\"; actions = [ \"wait-reply\" ]; category = \"server-busy\"; },\n"
	"  { reply = \"/blocked/\"; actions = [ \"disable-source-ip\" ]; category = \"ip-block\"; },\n"
	"  { reply = \"/other host/\"; actions = [ \"skip-mx\" ]; },\n"
	"  { reply = \"/never/\"; actions = [ \"bounce-rcpt\" ]; },\n"
	"  { reply = \"/recovered/\"; actions = [ \"mode=normal\" ]; },\n"
	"  { reply = \"/dry/\"; actions = [ \"skip-mx\" ]; dry-run = true; },\n"
	"  { reply = \"/counted/\"; actions = [ \"skip-mx\" ]; after = \"5/10m\"; },\n"
	"  { reply = \"/of p/\"; actions = [ \"mode=backoff\" ]; provider = \"p\"; stage = [ \"mail\" ]; },\n"
	"  { reply = \"/session/\"; actions = [ \"reconnect\" ]; },\n"
	"  { reply = \"/fewer/\"; actions = [ \"reduce-connections\" ]; } ); } );\n";

static void
listen_for_mail(void)
{
	struct addr at;
	socklen_t n = sizeof at.u.v4;
	static struct route route;

	assert_true(addr_parse(&at, slice_str("127.0.0.1"), 0));
	t.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(t.listen_fd, &at.u.sa, at.len), 0);
	assert_int_equal(listen(t.listen_fd, 100), 0);
	assert_int_equal(getsockname(t.listen_fd, &at.u.sa, &n), 0);
	watch_init(&t.accept_watch, t.loop, t.listen_fd, on_accept, NULL);
	watch_set(&t.accept_watch, EV_READ);
	t.routes_fd = route_object_create();
	assert_true(t.routes_fd >= 0);
	assert_int_equal(route_object_map(&t.routes, t.routes_fd, 1), 0);
	route.generation = 3;
	route.status = ROUTE_GOOD;
	route.expires_boot_us = UINT64_MAX;
	route.n_targets = route.n_hosts = 1;
	memcpy(&route.targets[0].addr, &at.u.v4, sizeof at.u.v4);
	strcpy(route.hosts[0], "mx.example.com");
	strcpy(route.best, "mx.example.com");
	route_put(t.routes, 0, &route);
}

static void
start_worker(void)
{
	int pair[2];

	assert_int_equal(control_pair(pair), 0);
	t.worker = child_fork();
	if (t.worker == 0) {
		struct heritage h = { .role = ROLE_WORKER,
				      .generation = 1,
				      .control_fd = pair[1],
				      .snapshot_fd = t.snapshot_fd,
				      .routes_fd = t.routes_fd,
				      .operator_fd = -1,
				      .guard_fd = -1 };

		close(pair[0]);
		log_open(scratch_path(t.dir, "log"), "worker");
		_exit(deliverer_main(&h));
	}
	assert_true(t.worker > 0);
	close(pair[1]);
	t.control = pair[0];
}

static int
setup(void **state)
{
	const char *dir = scratch_make(), *why;
	struct conf_report report = { 0 };
	struct buf snapshot = { 0 };
	char text[4096];

	(void)state;
	memset(&t, 0, sizeof t);
	wanted_from = 0;
	str_copy(t.dir, sizeof t.dir, slice_str(dir));
	t.loop = loop_new();
	timer_init(&t.timer, t.loop, on_late, NULL);
	timer_init(&t.drip, t.loop, on_drip, NULL);
	t.script = good;
	snprintf(text, sizeof text, conf_text, dir, dir, dir);
	scratch_write(scratch_path(dir, "sluice.conf"), text, strlen(text));
	if (conf_snapshot_read(scratch_path(dir, "sluice.conf"), &snapshot, &report) != 0)
		fail_msg("%.*s", (int)report.text.len, report.text.data);
	t.snapshot_fd = memfd_create("snapshot", 0);
	assert_int_equal(write(t.snapshot_fd, snapshot.data + snapshot.start, snapshot.len),
			 (ssize_t)snapshot.len);
	buf_clear(&snapshot);
	conf_report_clear(&report);
	mkdir(scratch_path(dir, "run"), 0750);
	mkdir(scratch_path(scratch_path(dir, "run"), "shm"), 0750);
	assert_int_equal(spool_open(&t.spool, scratch_path(dir, "spool"), &why), 0);
	assert_int_equal(segment_create(t.spool.segments_fd, SEGMENT, 4 << 20, t.spool.instance),
			 0);
	assert_int_equal(segment_stamp(t.spool.segments_fd, SEGMENT, EPOCH, t.spool.instance), 0);
	assert_int_equal(segment_writer_open(&t.writer, t.spool.segments_fd, SEGMENT, EPOCH,
					     t.spool.instance),
			 0);
	assert_int_equal(claim_table_open(&t.claims, t.spool.claims_fd, 0, t.spool.instance), 0);
	listen_for_mail();
	start_worker();
	attach();
	AWAIT(WORKER_HELLO);
	AWAIT(HELLO_END);
	return 0;
}

static int
teardown(void **state)
{
	int status = 0;

	(void)state;
	/* The line to the master ends: the worker must leave by itself. */
	close_sessions();
	close(t.control);
	for (int i = 0; i < 2000 && waitpid(t.worker, &status, WNOHANG) == 0; i++)
		usleep(10000);
	if (kill(t.worker, 0) == 0) {
		kill(t.worker, SIGKILL);
		waitpid(t.worker, &status, 0);
		return 1;
	}
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "worker died of signal %d\n", WTERMSIG(status));
		return 1;
	}
	forget_told();
	if (t.channel != NULL)
		channel_close(&t.channel);
	for (int i = 0; i < 16; i++)
		buf_clear(&t.sessions[i].in);
	watch_clear(&t.accept_watch);
	close(t.listen_fd);
	timer_clear(&t.timer);
	timer_clear(&t.drip);
	loop_free(&t.loop);
	segment_writer_close(&t.writer);
	claim_table_close(&t.claims);
	route_object_unmap(&t.routes);
	close(t.routes_fd);
	close(t.snapshot_fd);
	spool_close(&t.spool);
	buf_clear(&t.body);
	scratch_remove(t.dir);
	return 0;
}

/* Cases --------------------------------------------------------------------------------------- */

static void
test_delivers_and_reuses(void **state)
{
	static const char body[] = "Subject: x\r\n\r\nhello\r\n";
	uint64_t at = put_record(SLICE_LIT(body), 0, 11);
	struct result_strings strings;
	struct results r;
	const struct told *told;

	(void)state;
	open_connection(5, 3);
	told = AWAIT(OPENED);
	assert_int_equal(told->m.u.opened.connection, 5);
	assert_true(slice_is(told->payload, "PIPELINING SIZE 8BITMIME"));
	assert_int_equal(told->m.u.opened.flags, OPENED_PIPELINING);
	for (int i = 0; i < 3; i++) {
		give_work(5, at, 11, 7, IN_TIME);
		told = AWAIT(RESULT);
		r = results_of(told, &strings);
		assert_int_equal(r.flags, 0);
		assert_int_equal(told->m.u.result.connection, 5);
		assert_int_equal(told->m.u.result.sent_bytes, sizeof body - 1);
		assert_int_equal(r.n_rcpts, RCPTS);
		assert_int_equal(r.rcpts[2].index, 2);
		assert_int_equal(r.rcpts[2].action, EVENT_DELIVERED);
		assert_int_equal(r.rcpts[2].code, 250);
		assert_int_equal(r.rcpts[2].stamp_boot_us, 0); /* the claim's */
		assert_true(t.group_is_whole);
		assert_true(slice_is(r.rcpts[2].diag, "smtp;250 2.6.0 queued"));
		assert_true(slice_is(r.dsn_mta, "mx.example.com (127.0.0.1)"));
		assert_true(slice_is(r.dlv_source_ip, "127.0.0.1"));
		assert_true(slice_is(r.dlv_esmtp, "PIPELINING SIZE 8BITMIME"));
		assert_true(slice_is(strings.sender, "s@example.net"));
		assert_true(slice_is(strings.job, "job7"));
		assert_true(slice_is(strings.rcpts[1], "b@example.com"));
		assert_int_equal(strings.body_bytes, sizeof body - 1);
		assert_true(slice_is(buf_slice(&t.body), body));
	}
	assert_int_equal(t.n_accepted, 1);
	/* Some of the recipients only. */
	t.script.rcpt[0] = "550 5.1.1 nobody\r\n";
	t.script.rcpt[1] = "450 4.2.2 full\r\n";
	give_work(5, at, 11, 6, IN_TIME);
	r = results_of(AWAIT(RESULT), &strings);
	assert_int_equal(r.n_rcpts, 2);
	assert_int_equal(r.rcpts[0].index, 1);
	assert_int_equal(r.rcpts[0].action, EVENT_BOUNCED);
	assert_int_equal(r.rcpts[0].status[1], 1);
	assert_int_equal(r.rcpts[1].index, 2);
	assert_int_equal(r.rcpts[1].action, EVENT_DEFERRED);
	assert_true(slice_is(strings.rcpts[0], "b@example.com"));
	/* Late: not a word to the peer. */
	give_work(5, at, 11, 7, -1);
	told = AWAIT(RETURNED);
	assert_int_equal(told->m.u.returned.why, RETURN_LATE);
	assert_int_equal(t.n_rset, 1);
	tell(&(struct message){ .kind = MESSAGE_CLOSE, .u.conn.connection = 5 }, SLICE_NONE);
	told = AWAIT(CLOSED);
	assert_int_equal(told->m.u.closed.why, OPEN_OK);
	assert_int_equal(told->m.u.closed.messages, 4);
	assert_int_equal(t.n_quit, 1);
	/* And to a connection that is no more. */
	give_work(5, at, 11, 7, IN_TIME);
	told = AWAIT(RETURNED);
	assert_int_equal(told->m.u.returned.why, RETURN_CONNECTION_GONE);
}

/* Bodies of many sizes arrive as they were, stuffed where needed. */
static void
test_bodies(void **state)
{
	static const size_t sizes[] = { 0, 2, 100, 65536, 65538, 70000, 1500000 };
	unsigned seed = 3;

	(void)state;
	open_connection(1, 3);
	AWAIT(OPENED);
	for (int dots = 0; dots < 2; dots++) {
		for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
			struct buf body = { 0 }, wire = { 0 };
			uint64_t at;

			while (body.len < sizes[i]) {
				size_t left = sizes[i] - body.len, len;
				bool dot = dots && rand_r(&seed) % 3 == 0;

				/* Now and then a line longer than what is stuffed at a time. */
				len = rand_r(&seed) % 50 == 0 ? 40000 : (size_t)rand_r(&seed) % 100;
				len = left < len + 4 ? left - 2 : len;
				for (size_t k = 0; k < len; k++) {
					char c = dot && k == 0 ? '.' : (char)('a' + k % 26);

					if (k == 0 && dot)
						buf_putc(&wire, '.');
					buf_putc(&wire, c);
					buf_putc(&body, c);
				}
				buf_puts(&wire, "\r\n");
				buf_puts(&body, "\r\n");
			}
			at = put_record(buf_slice(&body), dots ? RECORD_DOT_LINES : 0, 20 + i);
			give_work(1, at, 20 + i, 1, IN_TIME);
			assert_int_equal(results_of(AWAIT(RESULT), NULL).rcpts[0].action,
					 EVENT_DELIVERED);
			if (!slice_eq(buf_slice(&t.body), buf_slice(&wire)))
				fail_msg("body of %zu bytes, dots %d", sizes[i], dots);
			buf_clear(&body);
			buf_clear(&wire);
		}
	}
	/* One that does not end in CRLF gets it. */
	give_work(1, put_record(SLICE_LIT("a\r\nb"), 0, 77), 77, 1, IN_TIME);
	assert_int_equal(results_of(AWAIT(RESULT), NULL).rcpts[0].action, EVENT_DELIVERED);
	assert_true(slice_is(buf_slice(&t.body), "a\r\nb\r\n"));
}

static void
test_open_failures(void **state)
{
	struct results r;
	struct buf scratch = { 0 };
	const struct told *told;
	uint64_t began_us, took_us;

	(void)state;
	open_connection(1, 4); /* another route stands there */
	told = AWAIT(OPEN_FAILED);
	assert_int_equal(told->m.u.open_failed.why, OPEN_STALE);

	t.script.greeting = "554 5.7.1 not you\r\n";
	open_connection(1, 3);
	told = AWAIT(OPEN_FAILED);
	assert_int_equal(told->m.u.open_failed.why, OPEN_GREETING_PERMANENT);
	assert_int_equal(told->m.u.open_failed.code, 554);
	assert_int_equal(results_decode(&r, told->payload, &scratch), 0);
	assert_int_equal(r.n_rcpts, 1);
	assert_true(slice_is(r.rcpts[0].diag, "smtp;554 5.7.1 not you"));
	assert_true(slice_is(r.dlv_destination_ip, "127.0.0.1"));

	t.script.greeting = "421 4.3.2 later\r\n";
	open_connection(1, 3);
	told = AWAIT(OPEN_FAILED);
	assert_int_equal(told->m.u.open_failed.why, OPEN_GREETING_TRANSIENT);

	t.script.greeting = "!close";
	open_connection(1, 3);
	told = AWAIT(OPEN_FAILED);
	assert_int_equal(told->m.u.open_failed.why, OPEN_LOST);

	t.script.greeting = "SSH-2.0-OpenSSH\r\n";
	open_connection(1, 3);
	told = AWAIT(OPEN_FAILED);
	assert_int_equal(told->m.u.open_failed.why, OPEN_PROTOCOL);

	/* One deadline for the whole reply, however it trickles in. */
	t.script.greeting = "!drip";
	began_us = clock_boot_us();
	open_connection(1, 3);
	told = AWAIT(OPEN_FAILED);
	took_us = clock_boot_us() - began_us;
	assert_true(took_us > 900000 && took_us < 9000000);
	assert_int_equal(told->m.u.open_failed.why, OPEN_CONNECT_TIMEOUT);
	assert_int_equal(results_decode(&r, told->payload, &scratch), 0);
	assert_true(slice_is(r.rcpts[0].diag, "x-sluice;timed out at greeting"));

	watch_set(&t.accept_watch, 0);
	watch_clear(&t.accept_watch);
	close(t.listen_fd);
	t.listen_fd = -1;
	open_connection(1, 3);
	told = AWAIT(OPEN_FAILED);
	assert_int_equal(told->m.u.open_failed.why, OPEN_CONNECT_REFUSED);
	buf_clear(&scratch);
}

static void
test_lost_and_unknown(void **state)
{
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11);
	struct results r;

	(void)state;
	/* The peer goes after the dot: nobody knows. */
	t.script.dot = "!close";
	open_connection(1, 3);
	AWAIT(OPENED);
	give_work(1, at, 11, 1, IN_TIME);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	assert_int_equal(r.flags, RESULT_CONNECTION_GONE | RESULT_MAYBE_DUP);
	assert_true(slice_is(r.rcpts[0].diag, "x-sluice;connection lost at dot"));
	AWAIT(CLOSED);
	/* It says nothing after the dot. */
	t.script.dot = "!hang";
	open_connection(1, 3);
	AWAIT(OPENED);
	give_work(1, at, 11, 1, IN_TIME);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.flags, RESULT_CONNECTION_GONE | RESULT_MAYBE_DUP);
	assert_true(slice_is(r.rcpts[0].diag, "x-sluice;timed out at dot"));
	AWAIT(CLOSED);
	/* It goes before. */
	t.script.data = "!close";
	open_connection(1, 3);
	AWAIT(OPENED);
	give_work(1, at, 11, 1, IN_TIME);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	assert_int_equal(r.flags, RESULT_CONNECTION_GONE | RESULT_HOST);
	AWAIT(CLOSED);
	/* It closes an idle connection. */
	t.script = good;
	open_connection(1, 3);
	AWAIT(OPENED);
	close_sessions();
	assert_int_equal(AWAIT(CLOSED)->m.u.closed.why, OPEN_OK);
}

static void
test_damaged(void **state)
{
	uint64_t at = put_record(SLICE_LIT("hello hello hello\r\n"), 0, 11);
	uint64_t bare = put_record(SLICE_LIT("bare\nline\r\n"), 0, 12);
	struct results r;
	char byte;

	(void)state;
	open_connection(1, 3);
	AWAIT(OPENED);
	give_work(1, at, 99, 7, IN_TIME); /* another message stands there */
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.flags, RESULT_DAMAGED);
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	give_work(1, bare, 12, 7, IN_TIME);
	assert_int_equal(results_of(AWAIT(RESULT), NULL).flags, RESULT_DAMAGED);
	/* One byte of the body is another one now. */
	for (off_t i = (off_t)at; i < (off_t)bare; i++) {
		if (pread(t.writer.fd, &byte, 1, i) == 1 && byte == 'h') {
			byte = 'j';
			assert_int_equal(pwrite(t.writer.fd, &byte, 1, i), 1);
			break;
		}
	}
	give_work(1, at, 11, 7, IN_TIME);
	assert_int_equal(results_of(AWAIT(RESULT), NULL).flags, RESULT_DAMAGED);
	assert_int_equal(t.body.len, 0);
	/* The connection is as good as before. */
	at = put_record(SLICE_LIT("good\r\n"), 0, 13);
	give_work(1, at, 13, 7, IN_TIME);
	assert_int_equal(results_of(AWAIT(RESULT), NULL).flags, 0);
	/* The file is cut under the map: an error of this record, no death; damage when it stays
	 * so. */
	assert_int_equal(ftruncate(t.writer.fd, SEGMENT_HEADER_BYTES), 0);
	give_work(1, at, 13, 7, IN_TIME);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.flags, 0);
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	t.attempt = 3;
	give_work(1, at, 13, 7, IN_TIME);
	assert_int_equal(results_of(AWAIT(RESULT), NULL).flags, RESULT_DAMAGED);
}

/* The scheduler dies: what runs goes on, and its result reaches the next one. */
static void
test_scheduler_restart(void **state)
{
	struct control_message gone = {
		.kind = CONTROL_PEER_GONE, .role = ROLE_SCHEDULER, .slot = 0, .generation = 1
	};
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11);
	const struct told *told;
	uint64_t lease;
	unsigned slot;

	(void)state;
	t.script.dot = "!hang";
	open_connection(1, 3); /* will run */
	AWAIT(OPENED);
	open_connection(2, 3); /* idle */
	AWAIT(OPENED);
	slot = give_work(1, at, 11, 1, IN_TIME);
	lease = t.next_lease;
	run_ms(200);
	channel_close(&t.channel);
	assert_int_equal(control_send(t.control, &gone, NULL), 0);
	run_ms(100);
	assert_int_equal(t.n_quit, 1); /* the idle one */
	forget_told();
	wanted_from = 0;
	attach();
	AWAIT(WORKER_HELLO);
	told = AWAIT(HELD);
	assert_int_equal(t.told[0].m.u.hello.flags, HELLO_RESUMED);
	assert_int_equal(told->m.u.held.lease, lease);
	assert_int_equal(told->m.u.held.claim_slot, slot);
	assert_int_equal(told->m.u.held.state, CLAIM_DOT_SENT);
	AWAIT(HELLO_END);
	told = AWAIT(RESULT); /* timed out by now */
	assert_int_equal(told->m.u.result.lease, lease);
	assert_true(results_of(told, NULL).flags & RESULT_MAYBE_DUP);

	/* Ended while there was none. */
	open_connection(1, 3);
	AWAIT(OPENED);
	give_work(1, at, 11, 1, IN_TIME);
	lease = t.next_lease;
	run_ms(200);
	channel_close(&t.channel);
	assert_int_equal(control_send(t.control, &gone, NULL), 0);
	close_sessions();
	run_ms(200);
	forget_told();
	wanted_from = 0;
	attach();
	told = AWAIT(HELD);
	assert_int_equal(told->m.u.held.lease, lease);
	assert_int_equal(told->m.u.held.state, CLAIM_ANSWERED);
	AWAIT(HELLO_END);
	assert_int_equal(AWAIT(RESULT)->m.u.result.lease, lease);
}

/* Drain: what runs ends, then QUIT; the process leaves with status 0. */
static void
test_drain(void **state)
{
	struct control_message drain = {
		.kind = CONTROL_DRAIN, .role = ROLE_MASTER, .slot = 0, .generation = 0
	};
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11);
	int status = 0;

	(void)state;
	open_connection(1, 3);
	AWAIT(OPENED);
	open_connection(2, 3);
	AWAIT(OPENED);
	t.script.dot = "!hang";
	give_work(1, at, 11, 1, IN_TIME);
	run_ms(100);
	assert_int_equal(control_send(t.control, &drain, NULL), 0);
	AWAIT(CLOSED);
	assert_int_equal(t.n_quit, 1);
	for (int i = 0; i < 16; i++) {
		if (t.sessions[i].used)
			say(&t.sessions[i], "250 2.6.0 at last\r\n");
	}
	assert_int_equal(results_of(AWAIT(RESULT), NULL).rcpts[0].action, EVENT_DELIVERED);
	AWAIT(CLOSED);
	assert_int_equal(t.n_quit, 2);
	assert_int_equal(waitpid(t.worker, &status, 0), t.worker);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	t.worker = child_fork(); /* for teardown */
	if (t.worker == 0)
		_exit(0);
}

static void
answer(unsigned slot, uint16_t index, bool may, uint64_t stamp, int64_t in_us)
{
	struct message m = { .kind = MESSAGE_RCPT_MAY };
	const struct told *told = AWAIT(RCPT_ASK);

	assert_int_equal(told->m.u.rcpt_ask.lease, t.next_lease);
	assert_int_equal(told->m.u.rcpt_ask.connection, 5);
	assert_int_equal(told->m.u.rcpt_ask.claim_slot, slot);
	assert_int_equal(told->m.u.rcpt_ask.index, index);
	m.u.rcpt_may.lease = t.next_lease;
	m.u.rcpt_may.connection = 5;
	m.u.rcpt_may.index = index;
	m.u.rcpt_may.may = may;
	m.u.rcpt_may.stamp_boot_us = stamp;
	m.u.rcpt_may.deadline_boot_us = (uint64_t)((int64_t)clock_boot_us() + in_us);
	tell(&m, SLICE_NONE);
}

static void
open_asking(void)
{
	t.ask = true;
	t.script.ehlo = "250-sink\r\n250 SIZE 0\r\n";
	open_connection(5, 3);
	assert_int_equal(AWAIT(OPENED)->m.u.opened.flags, 0);
}

static void
test_asks(void **state)
{
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11);
	struct claim_stamped seen[RCPTS];
	struct message stray = { .kind = MESSAGE_RCPT_MAY };
	struct results r;
	unsigned slot;

	(void)state;
	open_asking();
	/* All may: each has its own stamp, in the slot before the RCPT leaves. */
	slot = give_work(5, at, 11, 7, IN_TIME);
	t.script.rcpt[1] = "550 5.1.1 nobody\r\n";
	answer(slot, 0, true, 1001, IN_TIME);
	answer(slot, 1, true, 1002, IN_TIME);
	AWAIT(RCPT_ASK);
	wanted_from--;
	assert_int_equal(claim_stamps(t.claims, slot, t.next_lease, seen, RCPTS), 2);
	assert_true(seen[0].stamp_boot_us == 1001 && seen[1].index == 1);
	answer(slot, 2, true, 1003, IN_TIME);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.rcpts[0].action, EVENT_DELIVERED);
	assert_int_equal(r.rcpts[1].action, EVENT_BOUNCED);
	for (unsigned i = 0; i < RCPTS; i++)
		assert_int_equal(r.rcpts[i].stamp_boot_us, 1001 + i);
	/* The second is refused; the answers to a talk that is over mean nothing. */
	slot = give_work(5, at, 11, 7, IN_TIME);
	answer(slot, 0, true, 2001, IN_TIME);
	answer(slot, 1, false, 0, 0);
	stray.u.rcpt_may.connection = 5;
	stray.u.rcpt_may.lease = t.next_lease;
	stray.u.rcpt_may.index = 1;
	stray.u.rcpt_may.may = 1;
	stray.u.rcpt_may.stamp_boot_us = 2002;
	stray.u.rcpt_may.deadline_boot_us = UINT64_MAX;
	tell(&stray, SLICE_NONE);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.flags, 0);
	assert_int_equal(r.rcpts[0].action, EVENT_DELIVERED);
	assert_int_equal(r.rcpts[0].stamp_boot_us, 2001);
	assert_int_equal(r.rcpts[2].action, EVENT_UNATTEMPTED);
	assert_int_equal(r.rcpts[2].stamp_boot_us, EVENT_STAMP_NONE);
	/* The first one's leave comes too late: RSET, nobody was attempted. */
	t.n_rset = 0;
	slot = give_work(5, at, 11, 7, IN_TIME);
	answer(slot, 0, true, 3001, -1);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(claim_stamps(t.claims, slot, t.next_lease, seen, RCPTS), 0);
	assert_int_equal(r.rcpts[0].action, EVENT_UNATTEMPTED);
	/* MAIL refused: nothing was charged for anybody. */
	t.script.mail = "450 4.7.1 later\r\n";
	give_work(5, at, 11, 7, IN_TIME);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	assert_int_equal(r.rcpts[0].stamp_boot_us, EVENT_STAMP_NONE);
	run_ms(100);
	assert_int_equal(t.n_rset, 2);
}

/* The scheduler dies while an answer is due: DATA with those accepted. */
static void
test_nobody_answers(void **state)
{
	struct control_message gone = {
		.kind = CONTROL_PEER_GONE, .role = ROLE_SCHEDULER, .slot = 0, .generation = 1
	};
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11);
	const struct told *told;
	struct results r;
	unsigned slot;

	(void)state;
	open_asking();
	slot = give_work(5, at, 11, 7, IN_TIME);
	answer(slot, 0, true, 1001, IN_TIME);
	AWAIT(RCPT_ASK);
	channel_close(&t.channel);
	assert_int_equal(control_send(t.control, &gone, NULL), 0);
	run_ms(300);
	forget_told();
	wanted_from = 0;
	attach();
	told = AWAIT(HELD);
	assert_int_equal(told->m.u.held.state, CLAIM_ANSWERED);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.rcpts[0].action, EVENT_DELIVERED);
	assert_int_equal(r.rcpts[0].stamp_boot_us, 1001);
	assert_int_equal(r.rcpts[1].action, EVENT_UNATTEMPTED);
	assert_int_equal(r.rcpts[2].action, EVENT_UNATTEMPTED);
}

/* A connection that is not ready in time hands its work back when the time is over, not when it is
 * ready. */
static void
test_not_ready(void **state)
{
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11), began;
	const struct told *told;

	(void)state;
	t.script.rcpt[0] = t.script.rcpt[1] = t.script.rcpt[2] = "550 5.1.1 nobody\r\n";
	t.script.data = "554 5.5.1 none\r\n";
	t.hang_rset = true;
	open_connection(5, 3);
	AWAIT(OPENED);
	give_work(5, at, 11, 7, IN_TIME);
	AWAIT(RESULT);
	began = clock_boot_us();
	give_work(5, at, 11, 7, 200000);
	told = AWAIT(RETURNED);
	assert_int_equal(told->m.u.returned.why, RETURN_LATE);
	assert_in_range(clock_boot_us() - began, 150000, 2000000);
}

static void
test_interrupt(void **state)
{
	struct message now = { .kind = MESSAGE_CLOSE, .u.conn = { 5, CLOSE_NOW } };
	uint64_t at = put_record(SLICE_LIT("x\r\n"), 0, 11);
	struct results r;

	(void)state;
	t.script.data = "!hang";
	open_connection(5, 3);
	AWAIT(OPENED);
	give_work(5, at, 11, 7, IN_TIME);
	run_ms(100);
	tell(&now, SLICE_NONE);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.flags, RESULT_CONNECTION_GONE | RESULT_INTERRUPTED);
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	assert_int_equal(AWAIT(CLOSED)->m.u.closed.why, OPEN_OK);
	/* Its dot is out: the answer decides. */
	t.script = good;
	t.script.dot = "!hang";
	open_connection(5, 3);
	AWAIT(OPENED);
	give_work(5, at, 11, 7, IN_TIME);
	run_ms(100);
	tell(&now, SLICE_NONE);
	run_ms(100);
	for (int i = 0; i < 16; i++) {
		if (t.sessions[i].used)
			say(&t.sessions[i], "250 2.6.0 at last\r\n");
	}
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(r.flags & RESULT_INTERRUPTED, 0);
	assert_int_equal(r.rcpts[0].action, EVENT_DELIVERED);
	AWAIT(CLOSED);
}

/* What was told since the last of them, with its rules as numbers: "0+ 2-" with + for fresh. */
static const char *
match_of(const struct told *told)
{
	static char text[400];
	struct reply_match m;
	size_t n = 0;

	assert_int_equal(reply_match_decode(&m, told->payload), 0);
	assert_int_equal(told->m.u.reply_match.conf_generation, 0);
	for (unsigned i = 0; i < m.n; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "%s%u%c", i > 0 ? " " : "", m.rules[i].number,
				      m.rules[i].fresh ? '+' : '-');
	return text;
}

static struct slice
text_of(const struct told *told)
{
	static struct reply_match m;

	assert_int_equal(reply_match_decode(&m, told->payload), 0);
	return m.text;
}

static int
count_told(unsigned kind)
{
	int n = 0;

	for (int i = 0; i < t.n_told; i++)
		n += t.told[i].m.kind == kind;
	return n;
}

/* A multi-line reply, by three rules; pipelined ones; each rule once per transaction, before the result. */
static void
test_matches(void **state)
{
	uint64_t at = put_record(SLICE_LIT("Subject: x\r\n\r\nhello\r\n"), 0, 11);
	const struct told *told;
	struct results r;

	(void)state;
	t.ruled = true;
	t.script.rcpt[0] = "421-4.7.0 too many\r\n421 4.7.0 please wait 5 minutes\r\n";
	t.script.rcpt[1] = "450 4.2.1 too many again\r\n";
	open_connection(5, 3);
	AWAIT(OPENED);
	assert_int_equal(count_told(MESSAGE_REPLY_MATCH), 0);
	give_work(5, at, 11, 7, IN_TIME);
	told = AWAIT(REPLY_MATCH);
	assert_string_equal(match_of(told), "0+ 1+ 2+");
	assert_true(slice_is(text_of(told), "421 4.7.0 too many please wait 5 minutes"));
	assert_int_equal(told->m.u.reply_match.wait_us, 300000000);
	assert_int_equal(told->m.u.reply_match.code, 421);
	assert_int_equal(told->m.u.reply_match.stage, CONF_STAGE_RCPT);
	assert_int_equal(told->m.u.reply_match.connection, 5);
	assert_int_equal(told->m.u.reply_match.transaction, 1);
	assert_int_equal(told->m.u.reply_match.lease, t.next_lease);
	r = results_of(AWAIT(RESULT), NULL);
	assert_int_equal(count_told(MESSAGE_REPLY_MATCH), 1); /* the second told nothing new */
	assert_int_equal(r.rcpts[0].action, EVENT_DEFERRED);
	assert_int_equal(r.rcpts[1].action, EVENT_DEFERRED);
	assert_int_equal(r.rcpts[2].action, EVENT_DELIVERED);
	assert_int_not_equal(r.rcpts[0].rule, 0);
	assert_int_equal(r.rcpts[0].rule, r.rcpts[1].rule);
	assert_int_equal(r.rcpts[2].rule, 0);
	/* reconnect: this was its last transaction, said with QUIT; the host is as good as before. */
	assert_int_equal(r.flags & (RESULT_CONNECTION_GONE | RESULT_HOST), RESULT_CONNECTION_GONE);
	AWAIT(CLOSED);
	assert_int_equal(t.n_quit, 1);
}

/* What becomes of the mail that met the reply, and of its connection. */
static void
test_rulings(void **state)
{
	static const struct {
		const char *what, *mail, *rcpt, *dot, *match;
		unsigned stage;
		uint8_t action;
		uint32_t flags;
		bool ruled; /* the outcome names a rule */
	} rows[] = {
#define GONE RESULT_CONNECTION_GONE
		{ "5xx to a source", NULL, "550 5.7.1 you are blocked\r\n", NULL, "3+", CONF_STAGE_RCPT,
		  EVENT_DEFERRED, GONE, true },
		{ "5xx at the dot", NULL, NULL, "554 5.7.1 blocked\r\n", "3+", CONF_STAGE_DOT, EVENT_DEFERRED, GONE, true },
		{ "5xx, next host", "550 5.3.2 ask the other host\r\n", NULL, NULL, "4+", CONF_STAGE_MAIL,
		  EVENT_DEFERRED, GONE | RESULT_HOST, true },
		{ "4xx, next host", NULL, NULL, "451 4.3.2 other host\r\n", "4+", CONF_STAGE_DOT, EVENT_DEFERRED,
		  GONE | RESULT_HOST, true },
		{ "4xx for good", NULL, "450 4.2.1 never\r\n", NULL, "5+", CONF_STAGE_RCPT, EVENT_BOUNCED, 0, true },
		{ "4xx for good, but not to RCPT", NULL, NULL, "450 4.2.1 never\r\n", "5+", CONF_STAGE_DOT, EVENT_DEFERRED,
		  0, true },
		{ "a success stays one", NULL, NULL, "250 2.0.0 recovered, never blocked\r\n", "3+ 5+ 6+", CONF_STAGE_DOT,
		  EVENT_DELIVERED, 0, true },
		{ "5xx to a session", NULL, "554 5.7.0 session\r\n", NULL, "10+", CONF_STAGE_RCPT, EVENT_DEFERRED, GONE, true },
		{ "the same, to MAIL", "554 5.7.0 session\r\n", NULL, NULL, "10+", CONF_STAGE_MAIL, EVENT_DEFERRED, GONE, true },
		{ "5xx to so many", NULL, NULL, "554 5.7.0 fewer\r\n", "11+", CONF_STAGE_DOT, EVENT_DEFERRED, 0, true },
		{ "it is to bounce", NULL, "550 5.7.0 session, never\r\n", NULL, "5+ 10+", CONF_STAGE_RCPT, EVENT_BOUNCED, GONE,
		  true },
		{ "the same by 4xx", NULL, "450 4.7.0 fewer, never\r\n", NULL, "5+ 11+", CONF_STAGE_RCPT, EVENT_BOUNCED, 0, true },
		{ "dry run", NULL, "550 5.7.1 dry\r\n", NULL, "7+", CONF_STAGE_RCPT, EVENT_BOUNCED, 0, false },
		{ "only when it fires", NULL, "550 5.7.1 counted\r\n", NULL, "8+", CONF_STAGE_RCPT, EVENT_BOUNCED, 0, true },
		{ "of a provider, at its stage", "450 4.7.1 of p\r\n", NULL, NULL, "9+", CONF_STAGE_MAIL, EVENT_DEFERRED, 0,
		  true },
#undef GONE
	};
	uint64_t at = put_record(SLICE_LIT("Subject: x\r\n\r\nhello\r\n"), 0, 11);

	(void)state;
	t.ruled = true;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct told *told;
		struct results r;

		print_message("%s\n", rows[i].what);
		t.script = good;
		t.script.mail = rows[i].mail != NULL ? rows[i].mail : good.mail;
		for (int k = 0; k < RCPTS && rows[i].rcpt != NULL; k++)
			t.script.rcpt[k] = rows[i].rcpt;
		if (rows[i].mail != NULL || rows[i].rcpt != NULL)
			t.script.data = "554 5.5.1 no recipients\r\n";
		t.script.dot = rows[i].dot != NULL ? rows[i].dot : good.dot;
		forget_told();
		wanted_from = 0;
		open_connection(5, 3);
		AWAIT(OPENED);
		give_work(5, at, 11, 7, IN_TIME);
		told = AWAIT(REPLY_MATCH);
		assert_string_equal(match_of(told), rows[i].match);
		assert_int_equal(told->m.u.reply_match.stage, rows[i].stage);
		r = results_of(AWAIT(RESULT), NULL);
		assert_int_equal(count_told(MESSAGE_REPLY_MATCH), 1);
		for (int k = 0; k < RCPTS; k++) {
			assert_int_equal(r.rcpts[k].action, rows[i].action);
			assert_int_equal(r.rcpts[k].rule != 0, rows[i].ruled);
		}
		assert_int_equal(r.flags, rows[i].flags);
		if (!(rows[i].flags & RESULT_CONNECTION_GONE))
			tell(&(struct message){ .kind = MESSAGE_CLOSE, .u.conn.connection = 5 }, SLICE_NONE);
		AWAIT(CLOSED);
	}
}

/* A queue of rollup-by-ip has addresses for hosts: whose they are its list says. */
static void
test_provider_by_ip(void **state)
{
	static struct route route;
	uint64_t at = put_record(SLICE_LIT("Subject: x\r\n\r\nhello\r\n"), 0, 11);

	(void)state;
	assert_int_equal(route_get(t.routes, 0, 3, &route), 0);
	route.generation = 4;
	strcpy(route.best, "127.0.0.1");
	route_put(t.routes, 0, &route);
	t.by_ip = true;
	t.script.mail = "450 4.7.1 of p\r\n";
	t.script.data = "554 5.5.1 no recipients\r\n";
	open_connection(5, 4);
	AWAIT(OPENED);
	give_work(5, at, 11, 7, IN_TIME);
	assert_string_equal(match_of(AWAIT(REPLY_MATCH)), "9+");
	AWAIT(RESULT);
	tell(&(struct message){ .kind = MESSAGE_CLOSE, .u.conn.connection = 5 }, SLICE_NONE);
	AWAIT(CLOSED);
}

/* Before the first MAIL: once per connection; the host is turned away with what it said. */
static void
test_matches_before_mail(void **state)
{
	static const struct {
		const char *greeting, *ehlo, *match;
		unsigned stage;
		bool opens;
	} rows[] = {
		{ "554 5.7.1 blocked\r\n", NULL, "3+", CONF_STAGE_CONNECT, false },
		{ "421 4.7.0 too many\r\n", NULL, "0+ 1+", CONF_STAGE_CONNECT, false },
		{ NULL, "450 4.7.1 of p, too many\r\n", "0+", CONF_STAGE_EHLO, false },
		{ "220 the other host\r\n", NULL, "4+", CONF_STAGE_CONNECT, true }, /* it refuses nothing */
		{ "220 recovered\r\n", NULL, "6+", CONF_STAGE_CONNECT, true },
	};

	(void)state;
	t.ruled = true;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct told *told;

		print_message("%s\n", rows[i].greeting != NULL ? rows[i].greeting : rows[i].ehlo);
		t.script = good;
		t.script.greeting = rows[i].greeting != NULL ? rows[i].greeting : good.greeting;
		t.script.ehlo = rows[i].ehlo != NULL ? rows[i].ehlo : good.ehlo;
		forget_told();
		wanted_from = 0;
		open_connection(6, 3);
		told = AWAIT(REPLY_MATCH);
		assert_string_equal(match_of(told), rows[i].match);
		assert_int_equal(told->m.u.reply_match.stage, rows[i].stage);
		assert_int_equal(told->m.u.reply_match.lease, 0);
		assert_int_equal(told->m.u.reply_match.transaction, 0);
		if (rows[i].opens) {
			AWAIT(OPENED);
			tell(&(struct message){ .kind = MESSAGE_CLOSE, .u.conn.connection = 6 }, SLICE_NONE);
			AWAIT(CLOSED);
		} else {
			AWAIT(OPEN_FAILED);
		}
		assert_int_equal(count_told(MESSAGE_REPLY_MATCH), 1);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_delivers_and_reuses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bodies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_open_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost_and_unknown, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_scheduler_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_asks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_ready, setup, teardown),
		cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_matches, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rulings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_provider_by_ip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_matches_before_mail, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
