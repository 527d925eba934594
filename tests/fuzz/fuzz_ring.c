/* The consuming and the producing end of a ring whose shared memory another process scribbles over
 * between any two steps. A script of steps: put, get, sleep, wait for room, or a write of the
 * fuzzer's bytes anywhere into the counters, the entries or the payload bytes. Each end may refuse,
 * nothing else. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/ipc/channel.h"
#include "common/ipc/new_message.h"
#include "common/ipc/results.h"
#include "common/ipc/ring.h"
#include "common/queue/claims.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ENTRIES 8
#define BYTES   256

static void
touch(struct slice s)
{
	volatile uint32_t sum = 0;

	if (s.n > 0)
		sum += crc32c(0, s.p, s.n);
	(void)sum;
}

struct input {
	const uint8_t *p, *end;
};

static unsigned
next(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

static void
put(struct ring_tx *tx, struct input *in)
{
	char payload[300];
	size_t n = next(in);
	struct message m = { .kind = MESSAGE_RESULT };
	int rc;

	memset(payload, (int)n, sizeof payload);
	rc = ring_put(tx, &m, slice_of(payload, n));
	CHECK(rc == 0 || rc == -E_FULL || rc == -E_BAD);
}

/* False when the ring is to be closed. */
static bool
get(struct ring_rx *rx)
{
	struct message m;
	int rc = ring_get(rx, &m, 'W', 'S');

	if (rc == 1) {
		CHECK(message_check(&m, 'W', 'S') == 0);
		CHECK(rx->payload.len == m.payload_bytes && m.payload_bytes <= BYTES);
		touch(slice_str(message_name(m.kind)));
		touch(buf_slice(&rx->payload));
	}
	return rc >= 0;
}

/* The other process: up to 64 bytes somewhere into one of the three regions. */
static void
scribble(const struct ring_place *at, struct input *in)
{
	struct {
		unsigned char *p;
		size_t n;
	} regions[] = {
		{ (unsigned char *)at->head, sizeof *at->head },
		{ (unsigned char *)at->entries, at->n_entries * sizeof *at->entries },
		{ at->bytes, at->n_bytes },
	};
	unsigned which = next(in) % 3;
	size_t offset = (next(in) * 8u) % regions[which].n, n = next(in) % 64;

	if (n > regions[which].n - offset)
		n = regions[which].n - offset;
	for (size_t i = 0; i < n; i++)
		regions[which].p[offset + i] = (unsigned char)next(in);
}

static void
play(const struct ring_place *at, struct input *in)
{
	struct ring_tx tx;
	struct ring_rx rx;
	bool open = true;

	ring_place_init(at);
	ring_tx_init(&tx, at);
	ring_rx_init(&rx, at);
	while (open && in->p < in->end) {
		switch (next(in) % 8) {
		case 0:
		case 1:
			put(&tx, in);
			break;
		case 2:
		case 3:
			open = get(&rx);
			break;
		case 4:
			(void)ring_sleep(&rx);
			break;
		case 5:
			(void)ring_wait_room(&tx, next(in));
			break;
		case 6:
			(void)ring_tx_wakes(&tx);
			(void)ring_rx_wakes(&rx);
			break;
		case 7:
			scribble(at, in);
			break;
		}
	}
	ring_rx_clear(&rx);
}

static void
small_ring(struct slice s)
{
	struct input in = { (const uint8_t *)s.p, (const uint8_t *)s.p + s.n };
	struct ring_place at = { .n_entries = ENTRIES, .n_bytes = BYTES };

	/* Each region an allocation of its own: a step beyond it is seen. */
	at.head = aligned_alloc(64, sizeof *at.head);
	at.entries = malloc(ENTRIES * sizeof *at.entries);
	at.bytes = malloc(BYTES);
	CHECK(at.head != NULL && at.entries != NULL && at.bytes != NULL);
	memset(at.entries, 0, ENTRIES * sizeof *at.entries);
	memset(at.bytes, 0, BYTES);
	play(&at, &in);
	free(at.head);
	free(at.entries);
	free(at.bytes);
}

/* A whole channel ---------------------------------------------------------------------------------
 */

struct ends {
	struct loop *loop;
	struct channel *c[2]; /* scheduler, worker */
};

static void
drain(struct channel **c)
{
	struct message m;
	struct slice payload;
	int rc = 0;

	while (*c != NULL && (rc = channel_recv(*c, &m, &payload)) > 0)
		touch(payload);
	if (rc < 0)
		channel_close(c);
	else if (*c != NULL)
		channel_flush(*c);
}

static void
on_input(void *arg)
{
	drain(arg);
}

static void
step(struct ends *e, int memfd, struct input *in)
{
	unsigned what = next(in), side = what & 1;
	struct message m = { .kind = side == 0 ? MESSAGE_OPEN : MESSAGE_OPENED };
	static const char payload[512];

	switch (what >> 1 & 3) {
	case 0:
		if (e->c[side] != NULL)
			(void)channel_send(e->c[side], &m, slice_of(payload, next(in)));
		break;
	case 1:
		drain(&e->c[side]);
		break;
	case 2: {
		/* Counters and flags lie in the first page, the entries behind it. */
		off_t at = next(in) * (side == 0 ? 4 : 64);
		size_t n = next(in) % 32;

		if (n > (size_t)(in->end - in->p))
			n = (size_t)(in->end - in->p);
		CHECK(pwrite(memfd, in->p, n, at) == (ssize_t)n);
		in->p += n;
		break;
	}
	case 3:
		if (e->c[side] != NULL)
			(void)channel_has_room(e->c[side], next(in));
		event_base_loop(loop_base(e->loop), EVLOOP_NONBLOCK);
		break;
	}
}

static void
whole_channel(struct slice s)
{
	struct input in = { (const uint8_t *)s.p, (const uint8_t *)s.p + s.n };
	struct ends e = { .loop = loop_new() };
	struct channel_fds fds, more;
	int memfd;

	CHECK(channel_create(&fds) == 0);
	more = (struct channel_fds){ dup(fds.memfd), dup(fds.wake_scheduler), dup(fds.wake_other) };
	memfd = dup(fds.memfd);
	if (next(&in) & 1) /* before it is opened */
		step(&e, memfd, &in);
	(void)channel_open(&e.c[0], &fds, 'S', e.loop, on_input, &e.c[0]);
	(void)channel_open(&e.c[1], &more, 'W', e.loop, on_input, &e.c[1]);
	if (e.c[0] != NULL && (next(&in) & 1))
		channel_expect(e.c[0], 'W');
	while (in.p < in.end)
		step(&e, memfd, &in);
	channel_close(&e.c[0]);
	channel_close(&e.c[1]);
	loop_free(&e.loop);
	close(memfd);
}

/* Payloads ----------------------------------------------------------------------------------------
 */

static void
results(struct slice s)
{
	struct results r, r2;
	struct buf scratch = { 0 }, scratch2 = { 0 }, again = { 0 };

	if (results_decode(&r, s, &scratch) == 0) {
		touch(r.dlv_source_ip);
		touch(r.dlv_destination_ip);
		touch(r.dsn_mta);
		touch(r.dlv_esmtp);
		results_encode(&again, &r);
		CHECK(again.len <= CLAIM_RESULT_BYTES);
		CHECK(results_decode(&r2, buf_slice(&again), &scratch2) == 0);
		CHECK(r2.n_rcpts == r.n_rcpts);
		for (size_t i = 0; i < r.n_rcpts; i++) {
			touch(r.rcpts[i].diag);
			CHECK(r.rcpts[i].index == r2.rcpts[i].index &&
			      r.rcpts[i].action == r2.rcpts[i].action &&
			      r.rcpts[i].code == r2.rcpts[i].code &&
			      r2.rcpts[i].diag.n <= r.rcpts[i].diag.n);
		}
	}
	buf_clear(&scratch);
	buf_clear(&scratch2);
	buf_clear(&again);
}

static void
strings(struct slice s)
{
	struct result_strings r;
	struct buf scratch = { 0 }, again = { 0 };

	if (result_strings_decode(&r, s, &scratch) == 0) {
		touch(r.sender);
		touch(r.user);
		for (size_t i = 0; i < r.n_rcpts; i++)
			touch(r.rcpts[i]);
		result_strings_encode(&again, &r);
		CHECK(slice_eq(buf_slice(&again), s));
	}
	buf_clear(&scratch);
	buf_clear(&again);
}

static void
new_message(struct slice s)
{
	struct new_message m;
	struct buf scratch = { 0 }, again = { 0 };

	if (new_message_decode(&m, s, &scratch) == 0) {
		touch(m.vmta);
		touch(m.sender_domain);
		touch(m.job);
		touch(m.reception);
		for (unsigned i = 0; i < m.n_entries; i++)
			touch(m.entries[i].domain);
		new_message_encode(&again, &m);
		CHECK(slice_eq(buf_slice(&again), s));
	}
	buf_clear(&scratch);
	buf_clear(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const parts[])(struct slice) = { small_ring, whole_channel, results, strings,
						       new_message };

	if (size > 0)
		parts[data[0] % (sizeof parts / sizeof *parts)](slice_of(data + 1, size - 1));
	return 0;
}
