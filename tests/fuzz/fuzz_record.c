/* What the spool's files may hold: records, events, frames, segment headers, claim slots. The first
 * byte picks the decoder. Where a checksum guards it, the harness makes the checksum right. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/event_log/event.h"
#include "common/event_log/event_file.h"
#include "common/queue/claims.h"
#include "common/queue/record.h"
#include "common/queue/segment_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const unsigned char instance[16] = "a fuzzer's spool";

/* Reads every byte that a decoder handed out. */
static void
touch(struct slice s)
{
	volatile uint32_t sum = 0;

	if (s.n > 0)
		sum += crc32c(0, s.p, s.n);
	(void)sum;
}

static void
walk_record(const struct record *r)
{
	touch(r->env.sender);
	touch(r->env.src_mta);
	touch(r->env.vmta);
	touch(r->env.envid);
	touch(r->body);
	for (unsigned i = 0; i < r->env.n_entries; i++) {
		const struct record_entry *e = &r->env.entries[i];

		touch(e->domain);
		for (uint32_t k = e->first; k < e->first + e->count; k++)
			touch(r->env.rcpts[k]);
	}
}

static void
raw_record(struct slice s)
{
	struct record r;

	if (record_decode(&r, s, 0, 0) == 0) {
		walk_record(&r);
		record_clear(&r);
	}
	if (record_decode_envelope(&r, s, 0, 0) == 0) {
		walk_record(&r);
		record_clear(&r);
	}
}

/* The input is an envelope; header and checksums are made for it. */
static void
envelope(struct slice s)
{
	struct record_envelope none = { .id = 1 };
	uint32_t bytes = (uint32_t)s.n, crc = crc32c(0, s.p, s.n);
	uint64_t total = record_total(RECORD_HEADER_BYTES + s.n, 0);
	struct record r, again;
	struct buf b;
	char *p;

	buf_init(&b);
	record_encode(&b, &none, 0, NULL, 0);
	p = malloc(RECORD_HEADER_BYTES + s.n);
	memcpy(p, b.data, RECORD_HEADER_BYTES);
	if (s.n > 0)
		memcpy(p + RECORD_HEADER_BYTES, s.p, s.n);
	memcpy(p + 24, &bytes, 4);
	memcpy(p + 28, &crc, 4);
	memcpy(p + 48, &total, 8);
	record_stamp(p, 7);
	if (record_decode(&r, slice_of(p, RECORD_HEADER_BYTES + s.n), 7, 1) == 0) {
		walk_record(&r);
		/* What was read can be written and read again. */
		buf_reset(&b);
		record_encode(&b, &r.env, r.header.flags, NULL, 0);
		CHECK(record_decode(&again, buf_slice(&b), 0, 1) == 0);
		CHECK(again.env.n_rcpts == r.env.n_rcpts && again.env.n_entries == r.env.n_entries);
		record_clear(&again);
		record_clear(&r);
	}
	free(p);
	buf_clear(&b);
}

static void
event(struct slice s)
{
	struct buf scratch, b;
	struct event e, again;
	struct buf scratch2;

	buf_init(&scratch);
	buf_init(&scratch2);
	buf_init(&b);
	if (event_decode(&e, s, &scratch) == 0) {
#define EVENT_U(name) (void)e.name;
#define EVENT_S(name) touch(e.name);
#define X(type, name) EVENT_##type(name)
		EVENT_FIELDS(X)
#undef X
#undef EVENT_U
#undef EVENT_S
		for (size_t i = 0; i < e.n_rcpts; i++) {
			CHECK(e.rcpts[i].action < EVENT_ACTION_COUNT);
			touch(e.rcpts[i].address);
			touch(e.rcpts[i].diag);
			touch(e.rcpts[i].queue);
		}
		event_encode(&b, &e);
		CHECK((event_decode(&again, buf_slice(&b), &scratch2) == 0) ==
		      (e.kind != EVENT_NONE));
		CHECK(e.kind == EVENT_NONE || again.n_rcpts == e.n_rcpts);
	}
	buf_clear(&scratch);
	buf_clear(&scratch2);
	buf_clear(&b);
}

static void
headers(struct slice s)
{
	struct segment_info info;
	struct event_frame f;
	struct record_header h;

	segment_header_decode(s, 1, instance, &info);
	record_header_decode(s, &h);
	if (event_frame_decode(s, 1, event_frame_seed(instance), &f) == 0) {
		CHECK(f.bytes >= f.payload.n + EVENT_FRAME_HEAD);
		touch(f.payload);
	}
}

static struct claim_table *table;
static unsigned char *image; /* of slot 0 */

static void
open_table(void)
{
	char dir[] = "/tmp/sluice-fuzz-XXXXXX";
	struct claim_grant g = { .lease = 9, .n_rcpts = 1 };
	int d, fd;

	CHECK(mkdtemp(dir) != NULL && (d = open(dir, O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK(claim_table_open(&table, d, 0, instance) == 0);
	CHECK(claim_grant(table, &g) == 0);
	CHECK((fd = openat(d, "worker-00", O_RDWR)) >= 0);
	image = mmap(NULL, 4096 + CLAIM_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(image != MAP_FAILED);
	image += 4096;
	CHECK(unlinkat(d, "worker-00", 0) == 0 && rmdir(dir) == 0);
	close(fd);
	close(d);
}

/* The input lies over a slot whose worker has answered. */
static void
claim_slot(struct slice s)
{
	struct claim_grant g = { .lease = 9, .n_rcpts = 1 };
	struct claim_view v;
	int slot;

	if (table == NULL)
		open_table();
	claim_free(table, 0);
	slot = claim_grant(table, &g);
	CHECK(slot == 0);
	CHECK(claim_begin(table, 0, 9) == 0 && claim_dot(table, 0, 9) == 0);
	CHECK(claim_answer(table, 0, 9, SLICE_LIT("250 2.0.0 ok")) == 0);
	if (s.n > 0)
		memcpy(image, s.p, s.n < CLAIM_SLOT_BYTES ? s.n : CLAIM_SLOT_BYTES);
	if (claim_read(table, 0, &v) == 0) {
		CHECK(v.results.n <= CLAIM_RESULT_BYTES);
		touch(v.results);
	}
	claim_begin(table, 0, v.grant.lease);
	claim_dot(table, 0, v.grant.lease);
	claim_answer(table, 0, v.grant.lease, s);
	claim_return(table, 0, 9);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice s;

	if (size == 0)
		return 0;
	s = slice_of(data + 1, size - 1);
	switch (data[0] % 5) {
	case 0:
		raw_record(s);
		break;
	case 1:
		envelope(s);
		break;
	case 2:
		event(s);
		break;
	case 3:
		headers(s);
		break;
	default:
		claim_slot(s);
	}
	return 0;
}
