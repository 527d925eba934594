/* What a receiver tells again, and in which order, when schedulers die faster than they listen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <event2/event.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/queue/segment.h"
#include "common/queue/spool.h"
#include "receiver/inlet.h"
#include "tests/lib/scratch.h"

#define SEG_BYTES    65536u
#define RECORD_BYTES 8192u /* seven in a segment */
#define PARCELS      9
#define TURNS        4000

struct heard {
	uint16_t kind;
	uint32_t segment;
	msg_id_t id;
};

struct stage {
	struct loop *loop;
	struct spool spool;
	struct inlet *inlet;
	struct channel *channel; /* the scheduler's end */
	bool deaf, answers;
	uint32_t next_segment;
	struct heard heard[256];
	unsigned n_heard;
	unsigned answered, broken;
};

static struct stage st;

static void
on_answer(void *arg, void *owner, const char *reply)
{
	(void)arg;
	(void)owner;
	assert_memory_equal(reply, "250 ", 4);
	st.answered++;
}

static void
on_flow(void *arg, enum inlet_flow flow)
{
	(void)arg;
	(void)flow;
}

static void
on_broken(void *arg)
{
	(void)arg;
	st.broken++;
}

static void
give_segment(void)
{
	struct message m = { .kind = MESSAGE_SEG_OPEN };
	uint32_t n = ++st.next_segment;

	m.u.seg_open.number = n;
	m.u.seg_open.epoch = 100 + n;
	m.u.seg_open.bytes = SEG_BYTES;
	assert_int_equal(segment_create(st.spool.segments_fd, n, SEG_BYTES, st.spool.instance), 0);
	assert_int_equal(segment_stamp(st.spool.segments_fd, n, 100 + n, st.spool.instance), 0);
	assert_int_equal(channel_send(st.channel, &m, SLICE_NONE), 0);
}

static void
hear(const struct message *m)
{
	struct heard h = { .kind = m->kind };
	struct message ack = { .kind = MESSAGE_ACK };

	if (m->kind == MESSAGE_NEW) {
		h.segment = m->u.new_message.segment;
		ack.u.ack.id = h.id = m->u.new_message.id;
		if (st.answers)
			assert_int_equal(channel_send(st.channel, &ack, SLICE_NONE), 0);
	} else if (m->kind == MESSAGE_SEG_SEAL) {
		h.segment = m->u.seg_seal.number;
	} else if (m->kind == MESSAGE_SEG_HELD) {
		h.segment = m->u.seg_held.number;
	} else {
		return;
	}
	assert_true(st.n_heard < 256);
	st.heard[st.n_heard++] = h;
}

static void
on_input(void *arg)
{
	struct message m;
	struct slice payload;
	int rc;

	(void)arg;
	if (st.deaf)
		return;
	while ((rc = channel_recv(st.channel, &m, &payload)) > 0) {
		if (m.kind == MESSAGE_SEG_REQ)
			give_segment();
		hear(&m);
	}
	assert_int_equal(rc, 0);
	channel_flush(st.channel);
}

static void
scheduler_comes(bool deaf)
{
	struct channel_fds fds, copy;

	assert_int_equal(channel_create(&fds), 0);
	copy = (struct channel_fds){ dup(fds.memfd), dup(fds.wake_scheduler), dup(fds.wake_other) };
	st.deaf = deaf;
	st.n_heard = 0;
	assert_int_equal(channel_open(&st.channel, &fds, 'S', st.loop, on_input, NULL), 0);
	channel_expect(st.channel, 'R');
	inlet_connect(st.inlet, &copy);
}

static void
scheduler_dies(void)
{
	channel_close(&st.channel);
	inlet_disconnect(st.inlet);
}

static void
turns_until(unsigned heard)
{
	for (unsigned i = 0; i < TURNS && st.n_heard < heard; i++) {
		event_base_loop(loop_base(st.loop), EVLOOP_NONBLOCK);
		inlet_turn(st.inlet);
		on_input(NULL);
		usleep(500);
	}
	assert_true(st.n_heard >= heard);
}

static void
submit(msg_id_t id)
{
	struct parcel *p = mem_zalloc(sizeof *p);
	/* So large that a ring takes only a few of them. */
	static char news[IPC_PAYLOAD_MAX];
	static char head[RECORD_BYTES];

	p->id = id;
	p->owner = &st;
	p->n_entries = 1;
	p->total = sizeof head;
	buf_put(&p->head, head, sizeof head);
	buf_put(&p->news, news, sizeof news);
	inlet_submit(st.inlet, p);
}

/* Of each segment all NEWs in their order, and its SEAL behind them; what is held comes last. */
static void
expect_order(unsigned news)
{
	uint32_t sealed = 0;
	msg_id_t last = 0;
	unsigned n = 0;
	bool held = false;

	for (unsigned i = 0; i < st.n_heard; i++) {
		const struct heard *h = &st.heard[i];

		if (h->kind == MESSAGE_SEG_HELD) {
			held = true;
			assert_true(h->segment == 0 || h->segment > sealed);
			continue;
		}
		assert_false(held);
		if (h->kind == MESSAGE_SEG_SEAL) {
			sealed = h->segment;
			continue;
		}
		n++;
		assert_true(h->id > last);
		assert_true(h->segment > sealed);
		last = h->id;
	}
	assert_int_equal(n, news);
}

static void
two_deaths(void **state)
{
	static const struct inlet_hooks hooks = { on_answer, on_flow, on_broken, NULL };
	const char *why = NULL;

	(void)state;
	memset(&st, 0, sizeof st);
	st.loop = loop_new();
	assert_int_equal(spool_open(&st.spool, scratch_make(), &why), 0);
	st.inlet = inlet_new(st.loop, st.spool.segments_fd, st.spool.instance, 1, &hooks, NULL);
	scheduler_comes(false);
	for (msg_id_t id = 1; id <= PARCELS; id++)
		submit(id);
	turns_until(PARCELS + 1); /* and one SEAL */
	assert_int_equal(st.heard[7].kind, MESSAGE_SEG_SEAL);
	for (int deaths = 0; deaths < 3; deaths++) { /* that take no word of what fills the ring */
		scheduler_dies();
		scheduler_comes(true);
		for (int i = 0; i < 20; i++)
			inlet_turn(st.inlet);
	}
	scheduler_dies();
	scheduler_comes(false);
	turns_until(PARCELS + 1 + 3); /* two held, and their end */
	expect_order(PARCELS);
	assert_int_equal(st.n_heard, PARCELS + 1 + 3); /* each once */
	scheduler_dies();
	st.answers = true;
	scheduler_comes(false);
	turns_until(PARCELS + 1 + 3);
	expect_order(PARCELS);
	for (unsigned i = 0; i < TURNS && st.answered < PARCELS; i++) {
		event_base_loop(loop_base(st.loop), EVLOOP_NONBLOCK);
		channel_flush(st.channel);
		usleep(500);
	}
	assert_int_equal(st.answered, PARCELS);
	assert_true(inlet_is_empty(st.inlet));
	channel_close(&st.channel);
	inlet_free(&st.inlet);
	spool_close(&st.spool);
	loop_free(&st.loop);
}

/* Who has no channel to a living scheduler is of no use, and says so. */
static void
broken_channels(void **state)
{
	static const struct inlet_hooks hooks = { on_answer, on_flow, on_broken, NULL };
	struct message close = { .kind = MESSAGE_CLOSE };
	struct channel_fds none = { open("/dev/null", O_RDWR | O_CLOEXEC), -1, -1 };
	const char *why = NULL;

	(void)state;
	memset(&st, 0, sizeof st);
	st.loop = loop_new();
	assert_int_equal(spool_open(&st.spool, scratch_make(), &why), 0);
	st.inlet = inlet_new(st.loop, st.spool.segments_fd, st.spool.instance, 1, &hooks, NULL);
	inlet_connect(st.inlet, &none);
	assert_int_equal(st.broken, 1);
	scheduler_comes(true);
	scheduler_dies();
	assert_int_equal(st.broken, 1); /* a death is no such thing: there comes another one */
	scheduler_comes(true);
	channel_expect(st.channel, 'W');
	assert_int_equal(channel_send(st.channel, &close, SLICE_NONE), 0); /* to a receiver */
	channel_flush(st.channel);
	for (unsigned i = 0; i < TURNS && st.broken == 1; i++) {
		event_base_loop(loop_base(st.loop), EVLOOP_NONBLOCK);
		usleep(500);
	}
	assert_int_equal(st.broken, 2);
	channel_close(&st.channel);
	inlet_free(&st.inlet);
	spool_close(&st.spool);
	loop_free(&st.loop);
}

int
main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(two_deaths),
					    cmocka_unit_test(broken_channels) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
