/* What a full ring has no room for comes later, in its order, and all of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "common/ipc/channel.h"
#include "scheduler/state.h"

#define SENT (3 * RING_ENTRIES)

static struct channel_fds
copy_of(const struct channel_fds *f)
{
	return (struct channel_fds){ fcntl(f->memfd, F_DUPFD_CLOEXEC, 3),
				     fcntl(f->wake_scheduler, F_DUPFD_CLOEXEC, 3),
				     fcntl(f->wake_other, F_DUPFD_CLOEXEC, 3) };
}

struct pair {
	struct loop *loop;
	struct peer peer;
	struct channel *receiver;
	uint64_t got;
};

static void
on_scheduler(void *arg)
{
	struct pair *p = arg;
	struct message m;
	struct slice payload;

	peer_flush(&p->peer);
	(void)channel_recv(p->peer.channel, &m, &payload);
	channel_flush(p->peer.channel);
}

static void
on_receiver(void *arg)
{
	struct pair *p = arg;
	struct message m;
	struct slice payload;

	while (channel_recv(p->receiver, &m, &payload) == 1) {
		assert_int_equal(m.kind, MESSAGE_ACK);
		assert_int_equal(m.u.ack.id, ++p->got);
	}
	channel_flush(p->receiver);
	if (p->got == SENT)
		loop_stop(p->loop);
}

static void
make(struct pair *p)
{
	struct channel_fds fds, other;

	memset(p, 0, sizeof *p);
	p->loop = loop_new();
	assert_int_equal(channel_create(&fds), 0);
	other = copy_of(&fds);
	assert_int_equal(channel_open(&p->peer.channel, &fds, 'S', p->loop, on_scheduler, p), 0);
	channel_expect(p->peer.channel, 'R');
	assert_int_equal(channel_open(&p->receiver, &other, 'R', p->loop, on_receiver, p), 0);
}

static void
send_all(struct pair *p)
{
	struct message m = { .kind = MESSAGE_ACK };

	for (uint64_t i = 1; i <= SENT; i++) {
		m.u.ack.id = i;
		peer_send(&p->peer, &m);
	}
}

static void
all_in_order(void **state)
{
	struct pair p;

	(void)state;
	make(&p);
	send_all(&p);
	assert_false(peer_flush(&p.peer)); /* two rings full wait: nothing more is taken from this one */
	channel_flush(p.peer.channel);
	loop_run(p.loop);
	assert_int_equal(p.got, SENT);
	assert_true(peer_flush(&p.peer));
	peer_close(&p.peer);
	channel_close(&p.receiver);
	loop_free(&p.loop);
}

static void
nothing_for_the_next(void **state)
{
	struct pair p;

	(void)state;
	make(&p);
	send_all(&p);
	peer_close(&p.peer);
	assert_int_equal(p.peer.n_waiting, 0);
	send_all(&p); /* to nobody */
	assert_int_equal(p.peer.n_waiting, 0);
	channel_close(&p.receiver);
	loop_free(&p.loop);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_in_order),
		cmocka_unit_test(nothing_for_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
