/* Records: what is encoded comes back; every flipped bit, cut and foreign byte is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/crc32c.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/queue/record.h"

static const struct slice rcpts[] = { SLICE_LIT("ann@a.example"), SLICE_LIT("bob@a.example"),
				      SLICE_LIT("cid@b.example") };
static const struct record_entry entries[] = {
	{ SLICE_LIT("a.example"), 0, 2 },
	{ SLICE_LIT("b.example"), 2, 1 },
};

static struct record_envelope
sample(void)
{
	return (struct record_envelope){
		.id = 0x0102030405060708u,
		.received_wall_us = 1795290408000000u,
		.sender = SLICE_LIT("list@sender.example"),
		.src_mta = SLICE_LIT("client.example (127.0.0.9)"),
		.src_ip = SLICE_LIT("127.0.0.9"),
		.dst_ip = SLICE_LIT("127.0.0.1"),
		.vmta = SLICE_LIT("mta1"),
		.pool = SLICE_LIT("pool1"),
		.job = SLICE_LIT("job-7"),
		.envid = SLICE_LIT("e1"),
		.n_rcpts = 3,
		.rcpts = rcpts,
		.n_entries = 2,
		.entries = entries,
	};
}

/* The record as it lies on disk, malloc()ed so that a read past its end is seen. */
static char *
on_disk(const struct record_envelope *env, unsigned flags, const struct slice *body, size_t n_body,
	uint64_t epoch, size_t *n)
{
	struct buf b;
	size_t head, body_bytes = 0;
	char *p;

	buf_init(&b);
	record_encode(&b, env, flags, body, n_body);
	head = b.len;
	for (size_t i = 0; i < n_body; i++) {
		body_bytes += body[i].n;
		buf_put_slice(&b, body[i]);
	}
	for (uint64_t i = record_padding(head, body_bytes); i > 0; i--)
		buf_putc(&b, 0);
	assert_int_equal(b.len, record_total(head, body_bytes));
	assert_int_equal(b.len % RECORD_ALIGN, 0);
	record_stamp(b.data, epoch);
	p = malloc(b.len);
	memcpy(p, b.data, b.len);
	*n = b.len;
	buf_clear(&b);
	return p;
}

static void
assert_slice(struct slice a, struct slice b)
{
	assert_int_equal(a.n, b.n);
	if (a.n > 0)
		assert_memory_equal(a.p, b.p, a.n);
}

static void
assert_same(const struct record_envelope *a, const struct record_envelope *b)
{
	assert_int_equal(a->id, b->id);
	assert_int_equal(a->received_wall_us, b->received_wall_us);
	assert_slice(a->sender, b->sender);
	assert_slice(a->src_mta, b->src_mta);
	assert_slice(a->src_ip, b->src_ip);
	assert_slice(a->dst_ip, b->dst_ip);
	assert_slice(a->user, b->user);
	assert_slice(a->vmta, b->vmta);
	assert_slice(a->pool, b->pool);
	assert_slice(a->job, b->job);
	assert_slice(a->envid, b->envid);
	assert_int_equal(a->n_rcpts, b->n_rcpts);
	for (uint32_t i = 0; i < a->n_rcpts; i++)
		assert_slice(a->rcpts[i], b->rcpts[i]);
	assert_int_equal(a->n_entries, b->n_entries);
	for (unsigned i = 0; i < a->n_entries; i++) {
		assert_slice(a->entries[i].domain, b->entries[i].domain);
		assert_int_equal(a->entries[i].first, b->entries[i].first);
		assert_int_equal(a->entries[i].count, b->entries[i].count);
	}
}

static const char text[] = "Subject: x\r\n\r\n.dot\r\nend\r\n";

static void
round_trip(void **state)
{
	struct record_envelope env = sample();
	struct slice whole = SLICE_LIT(text);
	struct slice pieces[] = { SLICE_LIT("Subject: x\r\n"), SLICE_NONE,
				  SLICE_LIT("\r\n.dot\r\nend\r\n") };
	struct record r;
	size_t n, m;
	char *p = on_disk(&env, RECORD_DOT_LINES | RECORD_8BIT, &whole, 1, 42, &n);
	char *q = on_disk(&env, RECORD_DOT_LINES | RECORD_8BIT, pieces, 3, 42, &m);

	(void)state;
	assert_int_equal(n, m);
	assert_memory_equal(p, q, n); /* however the body is cut */
	assert_int_equal(record_decode(&r, slice_of(p, n), 42, env.id), 0);
	assert_same(&r.env, &env);
	assert_slice(r.body, whole);
	assert_int_equal(r.header.flags, RECORD_DOT_LINES | RECORD_8BIT);
	assert_int_equal(r.header.epoch, 42);
	assert_int_equal(r.header.total_bytes, n);
	record_clear(&r);
	/* The envelope alone, without the body's bytes. */
	assert_int_equal(record_header_decode(slice_of(p, n), &r.header), 0);
	q = realloc(q, RECORD_HEADER_BYTES + r.header.envelope_bytes);
	assert_int_equal(
		record_decode_envelope(
			&r, slice_of(q, RECORD_HEADER_BYTES + r.header.envelope_bytes), 42, 0),
		0);
	assert_same(&r.env, &env);
	assert_int_equal(r.body.n, 0);
	record_clear(&r);
	/* Another life of the segment, another message. */
	assert_int_equal(record_decode(&r, slice_of(p, n), 41, 0), -E_FORMAT);
	assert_int_equal(record_decode(&r, slice_of(p, n), 0, env.id + 1), -E_FORMAT);
	free(p);
	free(q);
}

static void
empty_and_large(void **state)
{
	static char long_name[NAME_BYTES_MAX];
	struct slice many[1000];
	struct record_entry one = { SLICE_LIT("a"), 0, 1000 };
	struct record_envelope env = { .id = 1, .n_rcpts = 1000, .rcpts = many };
	struct record r;
	size_t n;
	char *p;

	(void)state;
	memset(long_name, 'x', sizeof long_name);
	for (size_t i = 0; i < 1000; i++)
		many[i] = slice_of(long_name, i % sizeof long_name);
	env.n_entries = 1;
	env.entries = &one;
	p = on_disk(&env, 0, NULL, 0, 1, &n);
	assert_int_equal(record_decode(&r, slice_of(p, n), 1, 1), 0);
	assert_same(&r.env, &env);
	assert_int_equal(r.body.n, 0);
	record_clear(&r);
	free(p);
	env = (struct record_envelope){ .id = 2 };
	p = on_disk(&env, 0, NULL, 0, 1, &n);
	assert_int_equal(record_decode(&r, slice_of(p, n), 1, 2), 0);
	assert_same(&r.env, &env);
	record_clear(&r);
	free(p);
}

static void
every_flipped_bit(void **state)
{
	struct record_envelope env = sample();
	struct slice body = SLICE_LIT(text);
	size_t n, meant;
	char *p = on_disk(&env, 0, &body, 1, 42, &n);
	struct record r;

	(void)state;
	assert_int_equal(record_header_decode(slice_of(p, n), &r.header), 0);
	meant = RECORD_HEADER_BYTES + r.header.envelope_bytes + r.header.body_bytes;
	for (size_t bit = 0; bit < meant * 8; bit++) {
		p[bit / 8] ^= (char)(1 << bit % 8);
		assert_true(record_decode(&r, slice_of(p, n), 42, env.id) < 0);
		if (bit < RECORD_HEADER_BYTES * 8)
			assert_true(record_header_decode(slice_of(p, n), &r.header) < 0);
		p[bit / 8] ^= (char)(1 << bit % 8);
	}
	assert_int_equal(record_decode(&r, slice_of(p, n), 42, env.id), 0);
	record_clear(&r);
	free(p);
}

static void
every_cut(void **state)
{
	struct record_envelope env = sample();
	struct slice body = SLICE_LIT(text);
	struct record r;
	size_t n, pad;
	char *p = on_disk(&env, 0, &body, 1, 42, &n);

	(void)state;
	record_header_decode(slice_of(p, n), &r.header);
	pad = n - RECORD_HEADER_BYTES - r.header.envelope_bytes - r.header.body_bytes;
	for (size_t cut = 0; cut < n - pad; cut++) {
		char *q = malloc(cut ? cut : 1);

		memcpy(q, p, cut);
		assert_true(record_decode(&r, slice_of(q, cut), 42, env.id) < 0);
		free(q);
	}
	free(p);
}

/* Checksums that hold over contents that cannot be: a writer's bug or a hand-made file. */
static void
renew(char *p, size_t content)
{
	uint32_t crc = crc32c(0, p + RECORD_HEADER_BYTES, content);

	memcpy(p + 28, &crc, 4);
	record_stamp(p, 42);
}

static void
lies_with_a_right_checksum(void **state)
{
	static const struct {
		const char *what;
		size_t at; /* from the end of the envelope */
		uint32_t value;
	} rows[] = {
		{ "first beyond the recipients", 8, 4 },
		{ "count beyond the recipients", 4, 2 },
		{ "count nothing", 4, 0 },
		{ "count wraps", 4, UINT32_MAX },
		{ "first and count wrap", 8, UINT32_MAX },
		{ "domain's length beyond the end", 21, 1000 },
	};
	struct record_envelope env = sample();
	struct record r;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t n;
		char *p = on_disk(&env, 0, NULL, 0, 42, &n);

		record_header_decode(slice_of(p, n), &r.header);
		memcpy(p + RECORD_HEADER_BYTES + r.header.envelope_bytes - rows[i].at,
		       &rows[i].value, 4);
		renew(p, r.header.envelope_bytes);
		if (record_decode(&r, slice_of(p, n), 42, env.id) != -E_BAD)
			fail_msg("%s", rows[i].what);
		free(p);
	}
}

/* A reader takes what it knows of a later version's envelope and refuses an incompatible one. */
static void
later_versions(void **state)
{
	struct record_envelope env = sample();
	struct record r;
	size_t n, grown;
	char *p = on_disk(&env, 0, NULL, 0, 42, &n);
	uint32_t bytes;
	uint64_t total;

	(void)state;
	memcpy(&bytes, p + 24, 4);
	p = realloc(p, n + 32);
	grown = bytes + 7;
	memcpy(p + RECORD_HEADER_BYTES + bytes, "\3\0\0\0new", 7);
	bytes = (uint32_t)grown;
	total = record_total(RECORD_HEADER_BYTES + grown, 0);
	memcpy(p + 24, &bytes, 4);
	memcpy(p + 48, &total, 8);
	p[4] = RECORD_VERSION + 1;
	renew(p, grown);
	assert_int_equal(record_decode(&r, slice_of(p, n + 32), 42, env.id), 0);
	assert_same(&r.env, &env);
	record_clear(&r);
	p[5] = 1;
	renew(p, grown);
	assert_int_equal(record_decode(&r, slice_of(p, n + 32), 42, env.id), -E_FORMAT);
	free(p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(empty_and_large),
		cmocka_unit_test(every_flipped_bit),
		cmocka_unit_test(every_cut),
		cmocka_unit_test(lies_with_a_right_checksum),
		cmocka_unit_test(later_versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
