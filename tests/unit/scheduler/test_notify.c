/* What operators are told of: as kept, as written, and how often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/limits.h"
#include "common/base/mem.h"
#include "common/conf/conf.h"
#include "common/queue/store.h"
#include "scheduler/notify_text.h"

#define SEC 1000000ull
#define T0  (1700000000ull * SEC)

static struct notify_event
flip(void)
{
	return (struct notify_event){
		.key = 77,
		.kind = NOTIFY_BACKOFF,
		.scope = CONF_RULE_QUEUE,
		.wall_us = T0,
		.until_us = T0 + 3600 * SEC,
		.to = SLICE_LIT("ops@a.example\nmore@b.example"),
		.name = SLICE_LIT("p.example/v"),
		.reason = SLICE_LIT("421 4.7.0 \"Too many\" from \\you"),
		.rule = SLICE_LIT("/etc/sluice/p.conf:12"),
		.pattern = SLICE_LIT("\\btoo many\\b"),
		.source_ip = SLICE_LIT("192.0.2.10"),
		.reroute = SLICE_LIT("w"),
		.limits = SLICE_LIT("backoff-max-msg-rate 7/h"),
	};
}

static void
comes_back_as_stored(void **state)
{
	struct notify_event e = flip(), back;
	struct buf blob = { 0 };

	(void)state;
	notify_event_encode(&blob, &e);
	assert_true(notify_event_decode(&back, buf_slice(&blob)));
	assert_int_equal(back.key, e.key);
	assert_int_equal(back.kind, e.kind);
	assert_int_equal(back.scope, e.scope);
	assert_int_equal(back.wall_us, e.wall_us);
	assert_int_equal(back.until_us, e.until_us);
	assert_int_equal(back.retry_us, 0);
#define X(name, bytes) assert_true(slice_eq(back.name, e.name));
	NOTIFY_TEXTS(X)
#undef X
	/* Cut anywhere it is not understood; what a later version puts behind is. */
	for (size_t n = 0; n < blob.len; n++)
		assert_false(notify_event_decode(&back, slice_of(blob.data + blob.start, n)));
	buf_puts(&blob, "more");
	assert_true(notify_event_decode(&back, buf_slice(&blob)));
	buf_clear(&blob);
}

/* Whatever the texts, it fits the store, and it is understood again. */
static void
the_longest_fits(void **state)
{
	char *big = mem_alloc(100000);
	struct notify_event e = flip(), back;
	struct buf blob = { 0 };

	(void)state;
	memset(big, 'x', 100000);
#define X(name, bytes) e.name = slice_of(big, 100000);
	NOTIFY_TEXTS(X)
#undef X
	notify_event_encode(&blob, &e);
	assert_in_range(blob.len, 1, STORE_BACKOFF_MAX);
	assert_true(notify_event_decode(&back, buf_slice(&blob)));
	assert_int_equal(back.to.n, 4000);
	buf_clear(&blob);
	mem_free(big);
}

static void
five_in_any_minute(void **state)
{
	struct notify_pace p = { { 0 } };
	uint64_t next;

	(void)state;
	assert_int_equal(notify_pace_room(&p, 1, &next), NOTIFY_A_MINUTE);
	for (unsigned i = 0; i < NOTIFY_A_MINUTE; i++)
		notify_pace_sent(&p, (100 + i) * SEC);
	assert_int_equal(notify_pace_room(&p, 105 * SEC, &next), 0);
	assert_int_equal(next, 160 * SEC);
	assert_int_equal(notify_pace_room(&p, 160 * SEC - 1, &next), 0);
	assert_int_equal(notify_pace_room(&p, 160 * SEC, &next), 1);
	assert_int_equal(next, 161 * SEC);
	notify_pace_sent(&p, 160 * SEC);
	assert_int_equal(notify_pace_room(&p, 160 * SEC, &next), 0);
	assert_int_equal(notify_pace_room(&p, 10000 * SEC, &next), NOTIFY_A_MINUTE);
	assert_int_equal(next, UINT64_MAX);
}

static struct buf text;

/* As many changes as go in one message, whatever the texts: it fits the line to a receiver. */
static void
a_digest_has_an_end(void **state)
{
	enum { MANY = 500 };
	static struct notify_event events[MANY];
	struct notify_from from = { "mta.example", T0 + SEC };
	char big[600];
	size_t told, n = 0;

	(void)state;
	memset(big, '\xd0', sizeof big);
	for (size_t i = 0; i < MANY; i++) {
		events[i] = flip();
		events[i].key = 77 + i;
	}
	assert_int_equal(notify_text_most(&text, &from, events, MANY), MANY);
	for (size_t i = 0; i < MANY; i++)
		events[i].reason = events[i].pattern = events[i].rule = slice_of(big, sizeof big);
	for (; n < MANY; n += told) {
		told = notify_text_most(&text, &from, events + n, MANY - n);
		assert_in_range(told, 1, MANY - n);
		assert_in_range(text.len, 1, NOTIFY_TEXT_MAX);
	}
	_Static_assert(NOTIFY_TEXT_MAX + MANY * 8 + 5000 < IPC_PAYLOAD_MAX, "with keys and addresses");
	buf_clear(&text);
}

static void
write_text(const struct notify_event *events, size_t n)
{
	struct notify_from from = { "mta.example", T0 + SEC };

	buf_reset(&text);
	notify_text(&text, &from, events, n);
	buf_putc(&text, '\0');
}

static bool
has(const char *words)
{
	return strstr(buf_slice(&text).p, words) != NULL;
}

/* Lines as SMTP wants them, ASCII, and one empty line between header and body. */
static void
is_well_formed(void)
{
	struct slice all = buf_slice(&text);
	const char *body = strstr(all.p, "\r\n\r\n");
	size_t width = 0;

	all.n--;
	assert_non_null(body);
	for (size_t i = 0; i < all.n; i++) {
		unsigned char c = (unsigned char)all.p[i];

		assert_true(c == '\r' || c == '\n' || (c >= 0x20 && c < 0x7f));
		assert_int_equal(c == '\n', i > 0 && all.p[i - 1] == '\r');
		assert_false(width == 0 && c == '.');
		width = c == '\n' ? 0 : width + 1;
		assert_true(width <= 999);
	}
	assert_int_equal(width, 0);
	assert_memory_equal(all.p, "Date: Tue, 14 Nov 2023 22:13:21 +0000\r\n", 39);
	assert_true(has("\r\nAuto-Submitted: auto-generated\r\n"));
	assert_true(has("\r\nFrom: Sluice <postmaster@mta.example>\r\n"));
}

static void
one_is_told_in_full(void **state)
{
	// clang-format off
	static const char *const lines[] = {
		"\r\nTo: ops@a.example,\r\n more@b.example\r\n",
		"\r\nSubject: [sluice] p.example/v is in back-off\r\n",
		"\r\nMessage-ID: <notify.4d.1@mta.example>\r\n",
		"\r\n\r\nQueue:         p.example/v\r\n",
		"\r\nVirtual MTA:   v\r\n",
		"\r\nMode:          normal -> back-off\r\n",
		"\r\nTime:          Tue, 14 Nov 2023 22:13:20 +0000\r\n",
		"\r\nReason:        421 4.7.0 \"Too many\" from \\you\r\n",
		"\r\nRule:          /etc/sluice/p.conf:12\r\n",
		"\r\nPattern:       \\btoo many\\b\r\n",
		"\r\nSource IP:     192.0.2.10\r\n",
		"\r\nRerouted to:   w\r\n",
		"\r\nEnds:          Tue, 14 Nov 2023 23:13:20 +0000\r\n",
		"\r\nNext try:      at once, within the limits\r\n",
		"\r\nLimits:        backoff-max-msg-rate 7/h\r\n",
		"\r\nTo undo:       sluice set queue --mode=normal 'p.example/v'\r\n",
	};
	// clang-format on
	struct notify_event e = flip();

	(void)state;
	write_text(&e, 1);
	is_well_formed();
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		if (!has(lines[i]))
			fail_msg("not there: %s in %s", lines[i], buf_slice(&text).p);
	}
	e.until_us = 0;
	e.retry_us = T0;
	write_text(&e, 1);
	assert_true(has("\r\nEnds:          not by time\r\n"));
	assert_true(has("\r\nNext try:      Tue, 14 Nov 2023 22:13:20 +0000\r\n"));
}

static void
each_kind_has_its_words(void **state)
{
	static const struct {
		enum notify_kind kind;
		enum conf_rule_scope scope;
		const char *name, *subject, *undo;
	} rows[] = {
		{ NOTIFY_NORMAL, CONF_RULE_QUEUE, "d/v", "d/v is out of back-off",
		  "sluice set queue --mode=backoff 'd/v'" },
		{ NOTIFY_BACKOFF, CONF_RULE_PROVIDER, "google", "provider google is in back-off",
		  "sluice set queue --mode=normal 'DOMAIN/VMTA'" },
		{ NOTIFY_BACKOFF, CONF_RULE_VMTA, "v", "virtual-mta v is in back-off",
		  "sluice set queue --mode=normal '*/v'" },
		{ NOTIFY_BACKOFF, CONF_RULE_SOURCE_IP, "192.0.2.1",
		  "source-ip 192.0.2.1 is in back-off",
		  "sluice set queue --mode=normal 'DOMAIN/VMTA'" },
		{ NOTIFY_SOURCE_OFF, CONF_RULE_QUEUE, "d/v",
		  "source IP 192.0.2.10 of d/v is disabled",
		  "sluice enable source 192.0.2.10 'd/v'" },
		{ NOTIFY_SOURCE_ON, CONF_RULE_QUEUE, "d/v",
		  "source IP 192.0.2.10 of d/v is enabled again",
		  "sluice disable source 192.0.2.10 'd/v'" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct notify_event e = flip();
		char line[200];

		e.kind = rows[i].kind;
		e.scope = rows[i].scope;
		e.name = slice_str(rows[i].name);
		write_text(&e, 1);
		is_well_formed();
		snprintf(line, sizeof line, "\r\nSubject: [sluice] %s\r\n", rows[i].subject);
		assert_true(has(line));
		snprintf(line, sizeof line, "\r\nTo undo:       %s\r\n", rows[i].undo);
		assert_true(has(line));
	}
}

static void
many_are_a_digest(void **state)
{
	struct notify_event events[5];
	char names[5][20];

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		snprintf(names[i], sizeof names[i], "d%u.example/v", i);
		events[i] = flip();
		events[i].name = slice_str(names[i]);
	}
	events[3].kind = NOTIFY_NORMAL;
	events[4].kind = NOTIFY_SOURCE_OFF;
	write_text(events, 5);
	is_well_formed();
	assert_true(has("\r\nSubject: [sluice] 5 changes: 3 into back-off, 1 out of back-off, 1 "
			"source IPs disabled\r\n"));
	assert_true(has("\r\n\r\nd0.example/v is in back-off\r\n"));
	assert_true(has("\r\nd3.example/v is out of back-off\r\n"));
	assert_true(has("\r\nsource IP 192.0.2.10 of d4.example/v is disabled\r\n"));
	assert_true(has("\r\nMessage-ID: <notify.4d.5@mta.example>\r\n"));
}

/* No text of a peer ends a line, makes a header or moves a cursor. */
static void
hostile_texts_stay_within_their_line(void **state)
{
	static const char evil[] = "421 a\r\nBcc: x@y\r\n\r\n.\r\nFrom z\x1b[2J\0\x7f\xc3\xa9";
	char all[256 * 8];

	(void)state;
	for (size_t i = 0; i < sizeof all; i++)
		all[i] = (char)i;
	for (unsigned n = 1; n <= 3; n += 2) {
		struct notify_event events[3];

		for (unsigned i = 0; i < 3; i++) {
			events[i] = flip();
#define X(name, bytes) events[i].name = i == 1 ? slice_of(all, sizeof all) : SLICE_LIT(evil);
			NOTIFY_TEXTS(X)
#undef X
			events[i].to = SLICE_LIT("ops@a.example");
		}
		write_text(events, n);
		is_well_formed();
		assert_true(
			has("421 a\\x0d\\x0aBcc: x@y\\x0d\\x0a\\x0d\\x0a.\\x0d\\x0aFrom z\\x1b[2J"
			    "\\x00\\x7f\\xc3\\xa9"));
		assert_false(has("\r\nBcc"));
		assert_false(has("\nFrom z"));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_back_as_stored),
		cmocka_unit_test(the_longest_fits),
		cmocka_unit_test(a_digest_has_an_end),
		cmocka_unit_test(five_in_any_minute),
		cmocka_unit_test(one_is_told_in_full),
		cmocka_unit_test(each_kind_has_its_words),
		cmocka_unit_test(many_are_a_digest),
		cmocka_unit_test(hostile_texts_stay_within_their_line),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	buf_clear(&text);
	return failed;
}
