#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/mail/header.h"

static const struct header_rules all = {
	.process = { true, true, true },
	.max_hops = RECEIVED_HOPS_MAX,
};

static const struct row {
	const char *message;
	enum header_flaw flaw;
	const char *kept; /* NULL: the whole message */
	const char *vmta; /* NULL: not given */
	const char *job;
	const char *envid;
} rows[] = {
	/* clang-format off */
	{ "", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ "\r\nbody\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ "Subject: x\r\n\r\nb\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ "X-Job: j1\r\nSubject: x\r\n\r\nb\r\n", HEADER_FINE, "Subject: x\r\n\r\nb\r\n", NULL, "j1", NULL },
	{ "A: 1\r\nx-virtual-mta:m1\r\nB: 2\r\nX-ENVID: e\r\n\r\nb\r\n", HEADER_FINE, "A: 1\r\nB: 2\r\n\r\nb\r\n", "m1", NULL, "e" },
	{ "X-Job: a\r\nX-Job: b\r\n\r\n", HEADER_FINE, "\r\n", NULL, "a", NULL },
	/* folded, blanks around, empty, obsolete blank before the colon, no body at all */
	{ "X-Job:\r\n  j2 \r\n\r\nb\r\n", HEADER_FINE, "\r\nb\r\n", NULL, "j2", NULL },
	{ "X-Virtual-MTA: a\r\n b\r\n\tc\r\n\r\n", HEADER_FINE, "\r\n", "a b c", NULL, NULL },
	{ "X-Virtual-MTA:\r\n\r\n", HEADER_FINE, "\r\n", "", NULL, NULL },
	{ "X-Job : j\r\n\r\n", HEADER_FINE, "\r\n", NULL, "j", NULL },
	{ "X-Job: j\r\n", HEADER_FINE, "", NULL, "j", NULL },
	{ "A: 1\r\nX-Job: j\r\n", HEADER_FINE, "A: 1\r\n", NULL, "j", NULL },
	/* the body is nobody's header, nor is a longer or a shorter name */
	{ "A: 1\r\n\r\nX-Job: j\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ "no field\r\nX-Job: j\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ ": j\r\nX-Job: j\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ " folded\r\nX-Job: j\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	{ "X-Jobs: j\r\nX-Jo: k\r\n\r\n", HEADER_FINE, NULL, NULL, NULL, NULL },
	/* values that must not get into rows, names and files */
	{ "X-Job: a b\r\n\r\n", HEADER_BAD_FIELD, "", NULL, NULL, NULL },
	{ "X-Job: a\r\n b\r\n\r\n", HEADER_BAD_FIELD, "", NULL, NULL, NULL },
	{ "X-Envid: a\x01\r\n\r\n", HEADER_BAD_FIELD, "", NULL, NULL, NULL },
	{ "X-Virtual-MTA: \xc3\xa9\r\n\r\n", HEADER_BAD_FIELD, "", NULL, NULL, NULL },
	{ "X-Job: a\x7f\r\n\r\n", HEADER_BAD_FIELD, "", NULL, NULL, NULL },
	/* clang-format on */
};

static void
check_value(const struct header_value *v, const char *want)
{
	assert_int_equal(v->given, want != NULL);
	if (want != NULL)
		assert_true(slice_is(header_value_slice(v), want));
}

static void
scan_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct row *r = &rows[i];
		size_t n = strlen(r->message);
		char *exact = memcpy(mem_alloc(n + 1), r->message, n);
		struct header_scan h;
		struct buf kept = { 0 };

		exact = mem_realloc(exact, n > 0 ? n : 1);
		header_scan(&h, &all, slice_of(exact, n));
		if (h.flaw != r->flaw)
			fail_msg("%s: flaw %d", r->message, h.flaw);
		assert_int_equal(header_refusal(&h) == NULL, r->flaw == HEADER_FINE);
		if (r->flaw == HEADER_FINE) {
			for (size_t k = 0; k < h.n_pieces; k++)
				buf_put_slice(&kept, h.pieces[k]);
			assert_int_equal(kept.len, h.piece_bytes);
			if (!slice_is(buf_slice(&kept), r->kept != NULL ? r->kept : r->message))
				fail_msg("%s: kept %.*s", r->message, (int)kept.len, kept.data);
			check_value(&h.values[HEADER_VIRTUAL_MTA], r->vmta);
			check_value(&h.values[HEADER_JOB], r->job);
			check_value(&h.values[HEADER_ENVID], r->envid);
		}
		buf_clear(&kept);
		mem_free(exact);
	}
}

/* Not processed, the fields are text like any other; retained, they are read and stay. */
static void
rules_decide(void **state)
{
	static const char text[] = "X-Job: j\r\nX-Camp: c\r\n\r\nb\r\n";
	struct header_rules rules = { .max_hops = 100 };
	struct header_scan h;

	(void)state;
	header_scan(&h, &rules, SLICE_LIT(text));
	assert_int_equal(h.piece_bytes, sizeof text - 1);
	assert_false(h.values[HEADER_JOB].given);

	rules.process[HEADER_JOB] = rules.retain[HEADER_JOB] = true;
	header_scan(&h, &rules, SLICE_LIT(text));
	assert_int_equal(h.piece_bytes, sizeof text - 1);
	assert_int_equal(h.n_pieces, 1);
	check_value(&h.values[HEADER_JOB], "j");

	rules.retain[HEADER_JOB] = false;
	rules.job_name = "X-Camp";
	header_scan(&h, &rules, SLICE_LIT(text));
	check_value(&h.values[HEADER_JOB], "c");
	assert_int_equal(h.piece_bytes, sizeof text - 1 - strlen("X-Camp: c\r\n"));
}

static void
received_message(struct buf *b, unsigned n)
{
	buf_reset(b);
	for (unsigned i = 0; i < n; i++)
		buf_puts(b, i % 2 == 0 ? "Received: from a\r\n\tby b\r\n" : "RECEIVED: x\r\n");
	buf_puts(b, "Received-SPF: pass\r\nDate: x\r\nmessage-id: <x@y>\r\n\r\nReceived: body\r\n");
}

static void
hops(void **state)
{
	struct buf b = { 0 };
	struct header_scan h;

	(void)state;
	received_message(&b, 99);
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_FINE);
	assert_int_equal(h.received, 99);
	assert_true(h.date && h.message_id);
	received_message(&b, 100);
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_FINE);
	received_message(&b, 101);
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_LOOP);
	assert_non_null(strstr(header_refusal(&h), "554 5.4.6"));
	buf_clear(&b);
}

static void
put_many(struct buf *b, const char *text, size_t times)
{
	for (size_t i = 0; i < times; i++)
		buf_puts(b, text);
}

/* Bounds at n and n + 1, and the time of the largest that is taken. */
static void
bounds(void **state)
{
	struct buf b = { 0 };
	struct header_scan h;
	uint64_t t;

	(void)state;
	buf_puts(&b, "X-Envid: ");
	put_many(&b, "e", X_HEADER_VALUE_MAX);
	buf_puts(&b, "\r\n\r\n");
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_FINE);
	assert_int_equal(h.values[HEADER_ENVID].n, X_HEADER_VALUE_MAX);
	buf_reset(&b);
	buf_puts(&b, "X-Envid: ");
	put_many(&b, "e", X_HEADER_VALUE_MAX + 1);
	buf_puts(&b, "\r\n\r\n");
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_BAD_FIELD);

	for (size_t extra = 0; extra < 2; extra++) {
		buf_reset(&b);
		buf_puts(&b, "A:");
		put_many(&b, "x", HEADER_LINE_MAX - 4 + extra);
		buf_puts(&b, "\r\n\r\n");
		header_scan(&h, &all, buf_slice(&b));
		assert_int_equal(h.flaw, extra == 0 ? HEADER_FINE : HEADER_TOO_BIG);
	}

	buf_reset(&b);
	put_many(&b, "AAA: 123\r\n", 100000); /* 1,000,000 bytes */
	buf_puts(&b, "\r\n");
	t = clock_cpu_us();
	header_scan(&h, &all, buf_slice(&b));
	assert_true(clock_cpu_us() - t < 200000);
	assert_int_equal(h.flaw, HEADER_FINE);
	buf_reset(&b);
	put_many(&b, "AAA: 123\r\n", HEADER_BYTES_MAX / 10 + 1);
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_TOO_BIG);
	assert_non_null(strstr(header_refusal(&h), "552 5.3.4"));

	/* One field folded for ever is not read for ever. */
	buf_reset(&b);
	put_many(&b, "A:\r\n b\r\n", 1);
	put_many(&b, " bbbbbbbbbb\r\n", HEADER_BYTES_MAX / 4);
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_TOO_BIG);
	assert_true(h.header_bytes < HEADER_BYTES_MAX + 100);

	buf_reset(&b);
	for (int i = 0; i < HEADER_PIECES_MAX + 1; i++)
		buf_puts(&b, "A: b\r\nX-Job: j\r\n");
	buf_puts(&b, "\r\n");
	header_scan(&h, &all, buf_slice(&b));
	assert_int_equal(h.flaw, HEADER_TOO_MANY);
	buf_clear(&b);
}

static void
trace_field(void **state)
{
	struct buf b = { 0 };
	struct header_trace t = { "client.example",   "192.0.2.1",
				  "mta.example",      "ESMTP",
				  "00000000000000ff", "Sat, 21 Nov 2026 19:46:48 +0000" };

	(void)state;
	header_put_received(&b, &t);
	assert_true(slice_is(buf_slice(&b), "Received: from client.example ([192.0.2.1])\r\n"
					    "\tby mta.example with ESMTP id 00000000000000ff;\r\n"
					    "\tSat, 21 Nov 2026 19:46:48 +0000\r\n"));
	buf_reset(&b);
	t.client = "2001:db8::1";
	header_put_received(&b, &t);
	assert_true(slice_starts_nocase(
		buf_slice(&b), "Received: from client.example ([IPv6:2001:db8::1])\r\n\tby "));
	buf_reset(&b);
	t.helo = NULL;
	header_put_received(&b, &t);
	assert_true(slice_starts_nocase(buf_slice(&b), "Received: by mta.example with"));
	buf_clear(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scan_rows), cmocka_unit_test(rules_decide), cmocka_unit_test(hops),
		cmocka_unit_test(bounds),    cmocka_unit_test(trace_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
