/* Events: every field comes back; what is cut or wild is refused; what is of a later version
 * skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/event_log/event.h"

static void
assert_slice(struct slice a, struct slice b)
{
	assert_int_equal(a.n, b.n);
	if (a.n > 0)
		assert_memory_equal(a.p, b.p, a.n);
}

static void
assert_same(const struct event *a, const struct event *b)
{
	assert_int_equal(a->kind, b->kind);
#define EVENT_U(name) assert_int_equal(a->name, b->name);
#define EVENT_S(name) assert_slice(a->name, b->name);
#define X(type, name) EVENT_##type(name)
	EVENT_FIELDS(X)
#undef X
#undef EVENT_U
#undef EVENT_S
	assert_int_equal(a->n_rcpts, b->n_rcpts);
	for (size_t i = 0; i < a->n_rcpts; i++) {
		assert_int_equal(a->rcpts[i].index, b->rcpts[i].index);
		assert_int_equal(a->rcpts[i].action, b->rcpts[i].action);
		assert_memory_equal(a->rcpts[i].status, b->rcpts[i].status, 3);
		assert_slice(a->rcpts[i].address, b->rcpts[i].address);
		assert_slice(a->rcpts[i].diag, b->rcpts[i].diag);
		assert_slice(a->rcpts[i].queue, b->rcpts[i].queue);
		assert_int_equal(a->rcpts[i].stamp_boot_us, b->rcpts[i].stamp_boot_us);
		assert_slice(a->rcpts[i].category, b->rcpts[i].category);
		assert_slice(a->rcpts[i].rule, b->rcpts[i].rule);
	}
}

/* The encoded bytes, malloc()ed so that a read past their end is seen. */
static char *
encoded(const struct event *e, size_t *n)
{
	struct buf b;
	char *p;

	buf_init(&b);
	event_encode(&b, e);
	p = malloc(b.len);
	memcpy(p, b.data, b.len);
	*n = b.len;
	buf_clear(&b);
	return p;
}

static void
there_and_back(const struct event *e)
{
	struct buf scratch;
	struct event got;
	size_t n;
	char *p = encoded(e, &n);

	buf_init(&scratch);
	assert_int_equal(event_decode(&got, slice_of(p, n), &scratch), 0);
	assert_same(e, &got);
	for (size_t cut = 0; cut < n; cut++) {
		char *q = malloc(cut ? cut : 1);

		memcpy(q, p, cut);
		assert_int_equal(event_decode(&got, slice_of(q, cut), &scratch), -E_BAD);
		free(q);
	}
	buf_clear(&scratch);
	free(p);
}

static void
every_field(void **state)
{
	static const uint64_t values[] = { 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX };
	static const struct event_rcpt rcpts[] = {
		{ .index = 0,
		  .action = EVENT_DELIVERED,
		  .status = { 2, 0, 0 },
		  .address = SLICE_LIT("a@b") },
		{ .index = 300,
		  .action = EVENT_BOUNCED,
		  .status = { 5, 1, 255 },
		  .address = SLICE_LIT("c,\"d\r\n@e"),
		  .diag = SLICE_LIT("smtp;550 5.1.1 no\0such"),
		  .queue = SLICE_LIT("e/mta1") },
		{ .index = UINT16_MAX, .action = EVENT_UNATTEMPTED },
		{ .index = 4,
		  .stamp_boot_us = 1ull << 40,
		  .category = SLICE_LIT("rate-limit-ip"),
		  .rule = SLICE_LIT("/etc/sluice/sluice.conf:12") },
		{ .index = 5, .rule = SLICE_LIT("a:1") },
	};
	struct event e;

	(void)state;
	for (unsigned kind = 1; kind < EVENT_KIND_COUNT; kind++) {
		memset(&e, 0, sizeof e);
		e.kind = (enum event_kind)kind;
		there_and_back(&e); /* all empty */
		e.rcpts = rcpts;
		e.n_rcpts = sizeof rcpts / sizeof rcpts[0];
		there_and_back(&e);
	}
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		uint64_t v = values[i];
		char text[300];

		memset(text, 'x', sizeof text);
#define EVENT_U(name) e.name = v--;
#define EVENT_S(name) e.name = slice_of(text, (size_t)(v-- % sizeof text));
#define X(type, name) EVENT_##type(name)
		EVENT_FIELDS(X)
#undef X
#undef EVENT_U
#undef EVENT_S
		there_and_back(&e);
	}
}

static void
of_a_later_version(void **state)
{
	/* RESULT; attempt = 5; unknown number 120, unknown bytes 121; END; one recipient that is
	 * longer than we know: index 1, action, status, address "a", no diag, no queue, stamp 7, no
	 * category, rule "r", then two bytes. */
	static const char bytes[] =
		"\x02\x0a\x05\xf0\x81\x01\xf3\x02zz\0\x01\x0f\x01\x01\x02\0\0\x01"
		"a\0\0\x07\0\x01rzz";
	struct buf scratch;
	struct event e;

	(void)state;
	buf_init(&scratch);
	assert_int_equal(event_decode(&e, SLICE_LIT(bytes), &scratch), 0);
	assert_int_equal(e.kind, EVENT_RESULT);
	assert_int_equal(e.attempt, 5);
	assert_int_equal(e.n_rcpts, 1);
	assert_true(slice_is(e.rcpts[0].address, "a"));
	assert_int_equal(e.rcpts[0].stamp_boot_us, 7);
	assert_true(slice_is(e.rcpts[0].rule, "r"));
	/* A kind that we do not know can be read, and is none. */
	assert_int_equal(event_decode(&e, SLICE_LIT("\x63\0\0"), &scratch), 0);
	assert_int_equal(e.kind, EVENT_NONE);
	buf_clear(&scratch);
}

static void
wild_bytes(void **state)
{
	static const struct {
		const char *what;
		struct slice bytes;
	} rows[] = {
		{ "nothing", SLICE_LIT("") },
		{ "kind 0", SLICE_LIT("\0\0\0") },
		{ "fields without end", SLICE_LIT("\x02") },
		{ "number without end",
		  SLICE_LIT("\x02\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") },
		{ "bytes longer than all", SLICE_LIT("\x02\x2f\x7fx") },
		{ "bytes of 2^63", SLICE_LIT("\x02\x2f\xff\xff\xff\xff\xff\xff\xff\xff\x7f") },
		{ "more recipients than bytes", SLICE_LIT("\x02\0\x05\x09\0\0\0\0\0\0\0\0\0") },
		{ "2^60 recipients", SLICE_LIT("\x02\0\x80\x80\x80\x80\x80\x80\x80\x80\x10") },
		{ "unknown action", SLICE_LIT("\x02\0\x01\x08\0\x63\0\0\0\0\0\0\0") },
		{ "index above 16 bits", SLICE_LIT("\x02\0\x01\x0a\xff\xff\x7f\0\0\0\0\0\0\0\0") },
		{ "recipient too short", SLICE_LIT("\x02\0\x01\x06\0\0\0\0\0\0\0\0\0") },
	};
	struct buf scratch;
	struct event e;

	(void)state;
	buf_init(&scratch);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char *p = malloc(rows[i].bytes.n + 1);

		memcpy(p, rows[i].bytes.p, rows[i].bytes.n);
		if (event_decode(&e, slice_of(p, rows[i].bytes.n), &scratch) != -E_BAD)
			fail_msg("%s", rows[i].what);
		free(p);
	}
	buf_clear(&scratch);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_field),
		cmocka_unit_test(of_a_later_version),
		cmocka_unit_test(wild_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
