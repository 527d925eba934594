/* Accounting records: columns, values, and what hostile strings become. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "recorder/acct_record.h"
#include "tests/lib/csv.h"

static const unsigned char instance[16] = { 0xab, 0xcd, 0x01, 0x02 };

#define DBT_HEADER                                                                                 \
	"type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat," \
	"srcType,srcMta,dlvType,dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,"      \
	"jobId,envId,queue,vmtaPool"
#define OURS ",eventId,grantStamp,maybeDup\r\n"

static struct event
sample(void)
{
	static const struct event_rcpt rcpts[] = {
		{ .index = 0,
		  .action = EVENT_DELIVERED,
		  .status = { 2, 0, 0 },
		  .address = SLICE_LIT("ann@a.example"),
		  .diag = SLICE_LIT("smtp;250 2.0.0 ok") },
		{ .index = 1,
		  .action = EVENT_BOUNCED,
		  .status = { 5, 1, 1 },
		  .address = SLICE_LIT("bob@a.example"),
		  .diag = SLICE_LIT("smtp;550 5.1.1 no such user") },
		{ .index = 2,
		  .action = EVENT_DEFERRED,
		  .status = { 4, 2, 2 },
		  .address = SLICE_LIT("cid@a.example"),
		  .diag = SLICE_LIT("smtp;452 4.2.2 full") },
		{ .index = 3, .action = EVENT_UNATTEMPTED, .address = SLICE_LIT("dan@a.example") },
	};

	return (struct event){
		.kind = EVENT_RESULT,
		.lsn = 0x1f,
		.wall_us = 1795290408123456u,
		.stamp_boot_us = 987654321,
		.received_wall_us = 1795290400000000u,
		.body_bytes = 20480,
		.queue = SLICE_LIT("a.example/mta1"),
		.vmta = SLICE_LIT("mta1"),
		.pool = SLICE_LIT("pool1"),
		.job = SLICE_LIT("job7"),
		.envid = SLICE_LIT("env1"),
		.sender = SLICE_LIT("list@s.example"),
		.src_mta = SLICE_LIT("client (127.0.0.9)"),
		.src_ip = SLICE_LIT("127.0.0.9"),
		.dst_ip = SLICE_LIT("127.0.0.1"),
		.dlv_source_ip = SLICE_LIT("192.0.2.10"),
		.dlv_destination_ip = SLICE_LIT("198.51.100.7"),
		.dlv_esmtp = SLICE_LIT("PIPELINING,8BITMIME,SIZE"),
		.dsn_mta = SLICE_LIT("mx.a.example (198.51.100.7)"),
		.rcpts = rcpts,
		.n_rcpts = 4,
	};
}

static const struct conf_acct_file all = { .path = "/x/acct.csv",
					   .d = true,
					   .b = true,
					   .t = true,
					   .r = true,
					   .tq = true,
					   .iso_times = true };

/* Header and the event's records in the layout of `conf`. */
static struct csv *
recorded(const struct conf_acct_file *conf, const struct event *e, unsigned want)
{
	struct acct_layout l;
	struct buf b = { 0 };
	struct csv *c;

	acct_layout_init(&l, conf, instance);
	acct_put_header(&b, &l);
	assert_int_equal(acct_put_event(&b, &l, e), want);
	c = csv_parse(b.data, b.len);
	assert_non_null(c);
	assert_int_equal(csv_rows(c), want);
	buf_clear(&b);
	return c;
}

static void
headers(void **state)
{
	static const struct {
		struct conf_acct_file conf;
		const char *header;
	} rows[] = {
		{ { .d = true, .b = true }, DBT_HEADER OURS },
		{ { .t = true }, DBT_HEADER OURS },
		{ { .r = true },
		  "type,timeLogged,orig,rcpt,orcpt,srcType,srcMta,rcvSourceIp,rcvDestinationIp,"
		  "vmta,"
		  "jobId,envId" OURS },
		{ { .tq = true },
		  "type,timeLogged,queue,vmta,dsnStatus,dsnDiag,dsnMta,dlvType,dlvSourceIp,"
		  "dlvDestinationIp,userString" OURS },
		{ { .d = true, .b = true, .t = true, .tq = true, .r = true },
		  DBT_HEADER ",rcvSourceIp,rcvDestinationIp,userString" OURS },
		{ { .d = true, .user_string = "n1" }, DBT_HEADER ",userString" OURS },
		{ { .d = true, .json = true }, "" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct acct_layout l;
		struct buf b = { 0 };

		acct_layout_init(&l, &rows[i].conf, instance);
		acct_put_header(&b, &l);
		buf_putc(&b, '\0');
		assert_string_equal(b.data, rows[i].header);
		buf_clear(&b);
	}
}

static void
values(void **state)
{
	static const struct {
		int row;
		const char *column, *value;
	} rows[] = {
		{ 0, "type", "d" },
		{ 0, "timeLogged", "2026-11-21 19:46:48+0000" },
		{ 0, "timeQueued", "2026-11-21 19:46:40+0000" },
		{ 0, "orig", "list@s.example" },
		{ 0, "rcpt", "ann@a.example" },
		{ 0, "orcpt", "" },
		{ 0, "dsnAction", "relayed" },
		{ 0, "dsnStatus", "2.0.0 (success)" },
		{ 0, "dsnDiag", "smtp;250 2.0.0 ok" },
		{ 0, "dsnMta", "mx.a.example (198.51.100.7)" },
		{ 0, "bounceCat", "success" },
		{ 0, "srcType", "smtp" },
		{ 0, "srcMta", "client (127.0.0.9)" },
		{ 0, "dlvType", "smtp" },
		{ 0, "dlvSourceIp", "192.0.2.10" },
		{ 0, "dlvDestinationIp", "198.51.100.7" },
		{ 0, "dlvEsmtpAvailable", "PIPELINING,8BITMIME,SIZE" },
		{ 0, "dlvSize", "20480" },
		{ 0, "vmta", "mta1" },
		{ 0, "jobId", "job7" },
		{ 0, "envId", "env1" },
		{ 0, "queue", "a.example/mta1" },
		{ 0, "vmtaPool", "pool1" },
		{ 0, "eventId", "abcd0102-1f-0" },
		{ 0, "grantStamp", "987654321" },
		{ 0, "maybeDup", "0" },
		{ 0, "rcvSourceIp", "" }, /* not a column of d */
		{ 1, "type", "b" },
		{ 1, "rcpt", "bob@a.example" },
		{ 1, "dsnAction", "failed" },
		{ 1, "dsnStatus", "5.1.1 (bad destination mailbox address)" },
		{ 1, "bounceCat", "bad-mailbox" },
		{ 1, "eventId", "abcd0102-1f-1" },
		{ 2, "type", "t" },
		{ 2, "dsnAction", "delayed" },
		{ 2, "dsnStatus", "4.2.2 (mailbox full)" },
		{ 2, "bounceCat", "quota-issues" },
	};
	struct event e = sample();
	struct csv *c = recorded(&all, &e, 3);

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const char *got = csv_get(c, (size_t)rows[i].row, rows[i].column);

		assert_non_null(got);
		if (strcmp(got, rows[i].value) != 0)
			fail_msg("row %d %s: \"%s\", not \"%s\"", rows[i].row, rows[i].column, got,
				 rows[i].value);
	}
	csv_free(&c);
}

static void
the_other_kinds(void **state)
{
	struct conf_acct_file some = all;
	struct event_rcpt received = { .action = EVENT_RECEIVED, .address = SLICE_LIT("a@b") };
	struct event_rcpt gone[] = {
		{ .action = EVENT_EXPIRED, .status = { 4, 4, 7 }, .address = SLICE_LIT("a@b") },
		{ .action = EVENT_DELETED, .status = { 5, 7, 99 }, .address = SLICE_LIT("b@b") },
		{ .action = EVENT_DELIVERED, .status = { 2, 0, 0 }, .address = SLICE_LIT("c@b") },
	};
	struct event e = sample();
	struct csv *c;

	(void)state;
	e.kind = EVENT_RECEPTION;
	e.rcpts = &received;
	e.n_rcpts = 1;
	c = recorded(&all, &e, 1);
	assert_string_equal(csv_get(c, 0, "type"), "r");
	assert_string_equal(csv_get(c, 0, "vmta"), "pool1"); /* what was asked for */
	assert_string_equal(csv_get(c, 0, "rcvSourceIp"), "127.0.0.9");
	assert_string_equal(csv_get(c, 0, "rcvDestinationIp"), "127.0.0.1");
	assert_string_equal(csv_get(c, 0, "queue"), "");
	assert_string_equal(csv_get(c, 0, "timeQueued"), "");
	csv_free(&c);

	e.kind = EVENT_OUTCOME;
	e.maybe_dup = 1;
	e.stamp_boot_us = 0;
	e.rcpts = gone;
	e.n_rcpts = 3;
	c = recorded(&all, &e, 3);
	assert_string_equal(csv_get(c, 0, "type"), "b");
	assert_string_equal(csv_get(c, 0, "dsnStatus"), "4.4.7 (delivery time expired)");
	assert_string_equal(csv_get(c, 0, "bounceCat"), "message-expired");
	assert_string_equal(csv_get(c, 0, "maybeDup"), "1");
	assert_string_equal(csv_get(c, 0, "grantStamp"), "");
	assert_string_equal(csv_get(c, 1, "type"), "b");
	assert_string_equal(csv_get(c, 1, "dsnStatus"), "5.7.99 (undefined status)");
	assert_string_equal(csv_get(c, 1, "bounceCat"), "other");
	assert_string_equal(csv_get(c, 2, "type"), "d");
	assert_string_equal(csv_get(c, 2, "dlvType"), "discard");
	csv_free(&c);

	e = (struct event){ .kind = EVENT_CONNECT,
			    .lsn = 9,
			    .wall_us = 1795290408123456u,
			    .queue = SLICE_LIT("a/b"),
			    .reason = SLICE_LIT("connection refused") };
	some.iso_times = false;
	some.user_string = "n1";
	c = recorded(&some, &e, 1);
	assert_string_equal(csv_get(c, 0, "type"), "tq");
	assert_string_equal(csv_get(c, 0, "timeLogged"), "1795290408");
	assert_string_equal(csv_get(c, 0, "queue"), "a/b");
	assert_string_equal(csv_get(c, 0, "dsnDiag"), "connection refused");
	assert_string_equal(csv_get(c, 0, "userString"), "n1");
	assert_string_equal(csv_get(c, 0, "rcpt"), "");
	csv_free(&c);

	/* Not asked for, not recorded. */
	some.tq = some.t = false;
	csv_free((c = recorded(&some, &e, 0), &c));
	e = sample();
	csv_free((c = recorded(&some, &e, 2), &c));
	e.kind = EVENT_MODE;
	csv_free((c = recorded(&all, &e, 0), &c));
}

static void
hostile_strings(void **state)
{
	static const struct {
		struct slice in;
		const char *out;
	} rows[] = {
		{ SLICE_LIT("plain"), "plain" },
		{ SLICE_LIT(""), "" },
		{ SLICE_LIT("a,b"), "a,b" },
		{ SLICE_LIT("\"quoted\""), "\"quoted\"" },
		{ SLICE_LIT("\""), "\"" },
		{ SLICE_LIT("x\",\"y"), "x\",\"y" },
		{ SLICE_LIT("one\r\nd,2026-11-21,forged"), "one  d,2026-11-21,forged" },
		{ SLICE_LIT("a\nb\rc\td"), "a b c d" },
		{ SLICE_LIT("nul\0inside"), "nul inside" },
		{ SLICE_LIT("del\x7f"), "del " },
		{ SLICE_LIT("Gr\xc3\xbc\xc3\x9f"
			    "e"),
		  "Gr\xc3\xbc\xc3\x9f"
		  "e" },
		{ SLICE_LIT("bad\xff\xc3("), "bad\xef\xbf\xbd\xef\xbf\xbd(" },
		{ SLICE_LIT("\xc0\xaf\xed\xa0\x80"),
		  "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
		{ SLICE_LIT("cut\xe2\x82"), "cut\xef\xbf\xbd\xef\xbf\xbd" },
		{ SLICE_LIT("\xf0\x9f\x93\xa7"), "\xf0\x9f\x93\xa7" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct event_rcpt rcpt = { .action = EVENT_DELIVERED,
					   .status = { 2, 0, 0 },
					   .address = rows[i].in,
					   .diag = rows[i].in };
		struct event e = { .kind = EVENT_RESULT,
				   .sender = rows[i].in,
				   .queue = rows[i].in,
				   .rcpts = &rcpt,
				   .n_rcpts = 1 };
		struct csv *c = recorded(&all, &e, 1);

		assert_string_equal(csv_get(c, 0, "rcpt"), rows[i].out);
		assert_string_equal(csv_get(c, 0, "dsnDiag"), rows[i].out);
		assert_string_equal(csv_get(c, 0, "orig"), rows[i].out);
		assert_string_equal(csv_get(c, 0, "queue"), rows[i].out);
		assert_string_equal(csv_get(c, 0, "maybeDup"),
				    "0"); /* the last column is in its place */
		csv_free(&c);
	}
}

/* Every byte value in every place of a short string: one record, one line, all columns. */
static void
one_line_whatever(void **state)
{
	struct acct_layout l;
	struct buf b = { 0 };

	(void)state;
	acct_layout_init(&l, &all, instance);
	for (unsigned v = 0; v < 256 * 4; v++) {
		char text[4] = { 'a', '"', ',', (char)0xc3 };
		struct event_rcpt rcpt = { .action = EVENT_BOUNCED, .address = slice_of(text, 4) };
		struct event e = { .kind = EVENT_RESULT, .rcpts = &rcpt, .n_rcpts = 1 };
		struct csv *c;

		text[v / 256] = (char)(v % 256);
		buf_reset(&b);
		acct_put_header(&b, &l);
		acct_put_event(&b, &l, &e);
		assert_int_equal(csv_lines(b.data, b.len), 2);
		c = csv_parse(b.data, b.len);
		assert_non_null(c);
		assert_int_equal(csv_rows(c), 1);
		csv_free(&c);
	}
	buf_clear(&b);
}

static void
json_lines(void **state)
{
	struct conf_acct_file conf = { .d = true, .b = true, .json = true, .iso_times = true };
	struct event e = sample();
	struct acct_layout l;
	struct buf b = { 0 };

	(void)state;
	acct_layout_init(&l, &conf, instance);
	assert_int_equal(acct_put_event(&b, &l, &e), 2);
	buf_putc(&b, '\0');
	assert_non_null(
		strstr(b.data, "{\"type\":\"d\",\"timeLogged\":\"2026-11-21 19:46:48+0000\","));
	assert_non_null(strstr(b.data, "\"maybeDup\":\"0\"}\n{\"type\":\"b\","));
	assert_string_equal(b.data + b.len - 3, "}\n");
	buf_clear(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers),           cmocka_unit_test(values),
		cmocka_unit_test(the_other_kinds),   cmocka_unit_test(hostile_strings),
		cmocka_unit_test(one_line_whatever), cmocka_unit_test(json_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
