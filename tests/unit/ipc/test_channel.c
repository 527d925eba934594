/* Two processes and a channel between them. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/ipc/channel.h"
#include "tests/lib/child.h"

static uint64_t
rnd(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* The size of payload number `i`: mostly none, often small, now and then the largest. */
static size_t
payload_size(uint64_t *state, uint64_t i)
{
	uint64_t r = rnd(state);

	if (i % 50000 == 49999)
		return IPC_PAYLOAD_MAX;
	return (r & 3) != 0 ? 0 : (r >> 8) % 700;
}

static void
fill_payload(char *p, size_t n, uint64_t i)
{
	for (size_t k = 0; k < n; k++)
		p[k] = (char)((i * 31 + k * 7) & 0xff);
}

/* A receiver that sends `total` NEWs numbered from 1
 * ------------------------------------------------ */

struct sender {
	struct loop *loop;
	struct channel *c;
	uint64_t next, total, seed, refused;
	size_t n;
	bool pending; /* size drawn, not sent */
	char *payload;
};

static void
send_on(void *arg)
{
	struct sender *s = arg;
	struct message in;
	struct slice none;

	while (channel_recv(s->c, &in, &none) > 0)
		;
	while (s->next <= s->total) {
		struct message m = { .kind = MESSAGE_NEW, .u.new_message.id = s->next };

		if (!s->pending)
			s->n = payload_size(&s->seed, s->next);
		s->pending = true;
		fill_payload(s->payload, s->n, s->next);
		if (channel_send(s->c, &m, slice_of(s->payload, s->n)) != 0) {
			s->refused++;
			break;
		}
		s->pending = false;
		s->next++;
	}
	channel_flush(s->c);
	if (s->next > s->total)
		loop_stop(s->loop);
}

static void
send_all(const struct channel_fds *fds, uint64_t total)
{
	struct sender s = { .next = 1, .total = total, .seed = 42 };

	s.loop = loop_new();
	s.payload = mem_alloc(IPC_PAYLOAD_MAX);
	if (channel_open(&s.c, fds, 'R', s.loop, send_on, &s) != 0)
		_exit(9);
	send_on(&s);
	if (s.next <= s.total)
		loop_run(s.loop);
	_exit(s.refused > 0 ? 1 : 0);
}

/* The scheduler's side that checks them
 * ------------------------------------------------------------- */

struct taker {
	struct loop *loop;
	struct channel *c;
	uint64_t next, total, seed, bad, turns;
	char *expected;
	struct timer guard;
	bool timed_out;
};

static void
on_guard(void *arg)
{
	struct taker *t = arg;

	t->timed_out = true;
	loop_stop(t->loop);
}

static void
take_on(void *arg)
{
	struct taker *t = arg;
	struct message m;
	struct slice payload;
	int rc;

	t->turns++;
	while ((rc = channel_recv(t->c, &m, &payload)) > 0) {
		size_t n = payload_size(&t->seed, t->next);

		fill_payload(t->expected, n, t->next);
		if (m.kind != MESSAGE_NEW || m.u.new_message.id != t->next || payload.n != n ||
		    (n > 0 && memcmp(payload.p, t->expected, n) != 0))
			t->bad++;
		t->next++;
	}
	channel_flush(t->c);
	if (rc < 0 || t->next > t->total)
		loop_stop(t->loop);
}

static void
taker_begin(struct taker *t, const struct channel_fds *fds, uint64_t total)
{
	*t = (struct taker){ .next = 1, .total = total, .seed = 42 };
	t->loop = loop_new();
	t->expected = mem_alloc(IPC_PAYLOAD_MAX);
	assert_int_equal(channel_open(&t->c, fds, 'S', t->loop, take_on, t), 0);
	timer_init(&t->guard, t->loop, on_guard, t);
	timer_set(&t->guard, 60 * 1000000u);
}

static void
taker_end(struct taker *t)
{
	timer_clear(&t->guard);
	channel_close(&t->c);
	loop_free(&t->loop);
	mem_free(t->expected);
}

static void
test_million(void **state)
{
	struct channel_fds fds;
	struct taker t;
	pid_t pid;
	int status;

	(void)state;
	assert_int_equal(channel_create(&fds), 0);
	pid = child_fork();
	assert_true(pid >= 0);
	if (pid == 0)
		send_all(&fds, 1000000);
	taker_begin(&t, &fds, 1000000);
	loop_run(t.loop);
	assert_false(t.timed_out);
	assert_int_equal(t.next, 1000001);
	assert_int_equal(t.bad, 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_in_range(WEXITSTATUS(status), 0, 1);
	taker_end(&t);
}

/* A full ring refuses, loses nothing, and the sender is woken when there is room. */
static void
test_full(void **state)
{
	struct channel_fds fds;
	struct taker t;
	pid_t pid;
	int status;

	(void)state;
	assert_int_equal(channel_create(&fds), 0);
	pid = child_fork();
	assert_true(pid >= 0);
	if (pid == 0)
		send_all(&fds, 100000);
	do
		usleep(300000); /* nobody takes: it fills up and sleeps */
	while (!child_sleeps(pid));
	taker_begin(&t, &fds, 100000);
	loop_run(t.loop);
	assert_false(t.timed_out);
	assert_int_equal(t.next, 100001);
	assert_int_equal(t.bad, 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1); /* was refused */
	taker_end(&t);
}

/* The producer is killed in mid-stream: all that was published is whole and in order; a fresh
 * channel begins at the beginning. */
static void
test_killed(void **state)
{
	unsigned begun = 0;

	(void)state;
	for (unsigned round = 0; round < 20; round++) {
		struct channel_fds fds;
		struct taker t;
		pid_t pid;

		assert_int_equal(channel_create(&fds), 0);
		pid = child_fork();
		assert_true(pid >= 0);
		if (pid == 0)
			send_all(&fds, UINT64_MAX - 1);
		taker_begin(&t, &fds, UINT64_MAX - 1);
		timer_set(&t.guard, 3000 + 1000 * round);
		loop_run(t.loop);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		for (unsigned i = 0; i < 100; i++)
			take_on(&t);
		assert_int_equal(t.bad, 0);
		begun += t.next > 1; /* on a busy machine the first ones may die before they say a word */
		taker_end(&t);
	}
	assert_in_range(begun, 1, 20);
}

/* One process, both ends
 * ----------------------------------------------------------------------------- */

struct pair {
	struct loop *loop;
	struct channel *scheduler, *worker;
	unsigned scheduler_inputs, worker_inputs;
};

static void
on_scheduler(void *arg)
{
	((struct pair *)arg)->scheduler_inputs++;
}

static void
on_worker(void *arg)
{
	((struct pair *)arg)->worker_inputs++;
}

static void
dup_fds(struct channel_fds *out, const struct channel_fds *in)
{
	out->memfd = fcntl(in->memfd, F_DUPFD_CLOEXEC, 3);
	out->wake_scheduler = fcntl(in->wake_scheduler, F_DUPFD_CLOEXEC, 3);
	out->wake_other = fcntl(in->wake_other, F_DUPFD_CLOEXEC, 3);
}

static void
pair_open(struct pair *p)
{
	struct channel_fds fds, more;

	*p = (struct pair){ 0 };
	assert_int_equal(channel_create(&fds), 0);
	dup_fds(&more, &fds);
	p->loop = loop_new();
	assert_int_equal(channel_open(&p->scheduler, &fds, 'S', p->loop, on_scheduler, p), 0);
	assert_int_equal(channel_open(&p->worker, &more, 'W', p->loop, on_worker, p), 0);
}

static void
pair_close(struct pair *p)
{
	channel_close(&p->scheduler);
	channel_close(&p->worker);
	loop_free(&p->loop);
}

static void
turn(struct pair *p)
{
	event_base_loop(loop_base(p->loop), EVLOOP_NONBLOCK);
}

static void
test_wakes_only_a_sleeper(void **state)
{
	struct pair p;
	struct message m = { .kind = MESSAGE_CLOSE }, got;
	struct slice payload;

	(void)state;
	pair_open(&p);
	assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), 0);
	turn(&p);
	assert_int_equal(p.worker_inputs, 0); /* not flushed yet */
	channel_flush(p.scheduler);
	turn(&p);
	assert_int_equal(p.worker_inputs, 1);
	/* It has not slept again: nothing rings. */
	assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), 0);
	channel_flush(p.scheduler);
	turn(&p);
	assert_int_equal(p.worker_inputs, 1);
	assert_int_equal(channel_recv(p.worker, &got, &payload), 1);
	assert_int_equal(channel_recv(p.worker, &got, &payload), 1);
	assert_int_equal(channel_recv(p.worker, &got, &payload), 0);
	assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), 0);
	channel_flush(p.scheduler);
	turn(&p);
	assert_int_equal(p.worker_inputs, 2);
	assert_int_equal(p.scheduler_inputs, 0);
	pair_close(&p);
}

static void
test_room(void **state)
{
	struct pair p;
	struct message m = { .kind = MESSAGE_CLOSE }, got;
	struct slice payload;
	unsigned sent = 0;

	(void)state;
	pair_open(&p);
	assert_true(channel_has_room(p.scheduler, IPC_PAYLOAD_MAX));
	while (channel_send(p.scheduler, &m, SLICE_NONE) == 0)
		sent++;
	assert_int_equal(sent, RING_ENTRIES - 1);
	assert_false(channel_has_room(p.scheduler, 0));
	channel_flush(p.scheduler);
	turn(&p);
	assert_int_equal(p.scheduler_inputs, 0);
	assert_int_equal(channel_recv(p.worker, &got, &payload), 1);
	channel_flush(p.worker);
	turn(&p);
	assert_int_equal(p.scheduler_inputs, 1); /* there is room */
	assert_true(channel_has_room(p.scheduler, 0));
	assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), 0);
	assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), -E_FULL);
	pair_close(&p);
}

/* Half drained in on_input: it runs again without anybody ringing. */
static void
take_one(void *arg)
{
	struct pair *p = arg;
	struct message m;
	struct slice payload;

	if (channel_recv(p->worker, &m, &payload) == 1)
		p->worker_inputs++;
}

static void
test_unfinished_input_comes_again(void **state)
{
	struct channel_fds fds, more;
	struct pair p = { 0 };
	struct message m = { .kind = MESSAGE_CLOSE };

	(void)state;
	assert_int_equal(channel_create(&fds), 0);
	dup_fds(&more, &fds);
	p.loop = loop_new();
	assert_int_equal(channel_open(&p.scheduler, &fds, 'S', p.loop, on_scheduler, &p), 0);
	assert_int_equal(channel_open(&p.worker, &more, 'W', p.loop, take_one, &p), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), 0);
	channel_flush(p.scheduler);
	for (unsigned i = 0; i < 20; i++)
		turn(&p);
	assert_int_equal(p.worker_inputs, 5);
	pair_close(&p);
}

static void
close_inside(void *arg)
{
	struct pair *p = arg;

	p->worker_inputs++;
	channel_close(&p->worker);
}

static void
test_closed_in_on_input(void **state)
{
	struct channel_fds fds, more;
	struct pair p = { 0 };
	struct message m = { .kind = MESSAGE_CLOSE };

	(void)state;
	assert_int_equal(channel_create(&fds), 0);
	dup_fds(&more, &fds);
	p.loop = loop_new();
	assert_int_equal(channel_open(&p.scheduler, &fds, 'S', p.loop, on_scheduler, &p), 0);
	assert_int_equal(channel_open(&p.worker, &more, 'W', p.loop, close_inside, &p), 0);
	assert_int_equal(channel_send(p.scheduler, &m, SLICE_NONE), 0);
	channel_flush(p.scheduler);
	turn(&p);
	assert_int_equal(p.worker_inputs, 1);
	pair_close(&p);
}

/* The first message fixes who the other side is; channel_expect() does so before. */
static void
test_directions(void **state)
{
	struct pair p;
	struct message hello = { .kind = MESSAGE_WORKER_HELLO }, got;
	struct slice payload;

	(void)state;
	pair_open(&p);
	assert_int_equal(channel_send(p.worker, &hello, SLICE_NONE), 0);
	channel_expect(p.scheduler, 'R');
	assert_int_equal(channel_recv(p.scheduler, &got, &payload), -E_BAD);
	assert_int_equal(channel_recv(p.scheduler, &got, &payload), -E_BAD); /* for good */
	pair_close(&p);

	pair_open(&p);
	assert_int_equal(channel_send(p.worker, &hello, SLICE_NONE), 0);
	assert_int_equal(channel_recv(p.scheduler, &got, &payload), 1);
	assert_int_equal(got.kind, MESSAGE_WORKER_HELLO);
	pair_close(&p);
}

/* What is not a channel is not opened, and its descriptors are closed. */
static void
test_not_a_channel(void **state)
{
	struct loop *l = loop_new();
	struct channel *c;
	struct stat st;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct channel_fds fds;
		uint32_t wrong = 1;
		int kept;

		assert_int_equal(channel_create(&fds), 0);
		switch (i) {
		case 0: /* unsealed */
			close(fds.memfd);
			fds.memfd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
			break;
		case 1: /* a short one, sealed */
			close(fds.memfd);
			fds.memfd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
			assert_int_equal(ftruncate(fds.memfd, 4096), 0);
			assert_int_equal(fcntl(fds.memfd, F_ADD_SEALS,
					       F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
					 0);
			break;
		default: /* wrong magic, wrong number of entries */
			assert_int_equal(pwrite(fds.memfd, &wrong, 4, i == 2 ? 0 : 16), 4);
			break;
		}
		kept = fds.memfd;
		assert_int_equal(channel_open(&c, &fds, 'S', l, on_scheduler, NULL), -E_BAD);
		assert_null(c);
		assert_int_equal(fstat(kept, &st), -1);
	}
	loop_free(&l);
}

/* A peer that scribbles over the whole object: the other end says -E_BAD or goes on, never more. */
static void
scribble(unsigned char *map, size_t n, uint64_t *seed)
{
	uint64_t r = rnd(seed);
	size_t at = (r & 1) ? (r >> 8) % 512 : (r >> 8) % n; /* counters, or anywhere */

	map[at] = (unsigned char)(r >> 40);
	if ((r & 0xf0) == 0)
		memset(map + at, (int)(r >> 48), n - at < 4096 ? n - at : 4096);
}

static void
test_scribble(void **state)
{
	uint64_t seed = 7;
	unsigned broken = 0;

	(void)state;
	for (unsigned round = 0; round < 300; round++) {
		struct pair p;
		struct message m = { .kind = MESSAGE_RETURNED }, got;
		struct channel_fds fds, more, third;
		struct slice payload;
		struct stat st;
		unsigned char *map;
		int rc = 0;

		p = (struct pair){ 0 };
		assert_int_equal(channel_create(&fds), 0);
		dup_fds(&more, &fds);
		dup_fds(&third, &fds);
		p.loop = loop_new();
		assert_int_equal(channel_open(&p.scheduler, &fds, 'S', p.loop, on_scheduler, &p),
				 0);
		assert_int_equal(channel_open(&p.worker, &more, 'W', p.loop, on_worker, &p), 0);
		assert_int_equal(fstat(third.memfd, &st), 0);
		map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			   third.memfd, 0);
		assert_true(map != MAP_FAILED);
		channel_expect(p.scheduler, 'W');
		for (unsigned i = 0; i < 200 && rc >= 0; i++) {
			struct message open = { .kind = MESSAGE_OPEN };

			channel_send(p.worker, &m, SLICE_NONE);
			channel_send(p.scheduler, &open, SLICE_LIT("example.com/a"));
			if (i > 20)
				scribble(map, (size_t)st.st_size, &seed);
			while ((rc = channel_recv(p.scheduler, &got, &payload)) > 0) {
				if (message_check(&got, 'W', 'S') != 0 ||
				    payload.n != got.payload_bytes)
					fail();
			}
			/* Also one that was found broken in sending says so to who reads. */
			if (channel_is_broken(p.scheduler)) {
				rc = channel_recv(p.scheduler, &got, &payload);
				assert_int_equal(rc, -E_BAD);
			}
			channel_flush(p.scheduler);
		}
		if (rc == -E_BAD)
			broken++;
		assert_int_equal(munmap(map, (size_t)st.st_size), 0);
		channel_fds_close(&third);
		pair_close(&p);
	}
	assert_in_range(broken, 100, 300); /* most scribbles at the counters are noticed */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_million),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_wakes_only_a_sleeper),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_unfinished_input_comes_again),
		cmocka_unit_test(test_closed_in_on_input),
		cmocka_unit_test(test_directions),
		cmocka_unit_test(test_not_a_channel),
		cmocka_unit_test(test_scribble),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
