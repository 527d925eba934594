/* dns_answer: packets taken apart; whole, cut at every byte, and with every byte changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "resolver/dns_answer.h"

enum { CNAME = 5, SOA = 6, TXT = 16 };

/* One record of a packet: data is a name (MX: preference and name), an address or, for SOA, the
 * minimum. */
struct rr {
	const char *name;
	int type;
	uint32_t ttl;
	const char *data;
	int preference;
	int lie; /* added to the length that the record claims */
};

static void
put16(struct buf *b, unsigned v)
{
	buf_putc(b, (char)(v >> 8));
	buf_putc(b, (char)v);
}

static void
put32(struct buf *b, uint32_t v)
{
	put16(b, v >> 16);
	put16(b, v & 0xffff);
}

static void
put_name(struct buf *b, const char *name)
{
	struct slice rest = slice_str(name);

	while (rest.n > 0) {
		struct slice label = slice_cut(&rest, '.');

		buf_putc(b, (char)label.n);
		buf_put_slice(b, label);
	}
	buf_putc(b, '\0');
}

static void
put_rr(struct buf *b, const struct rr *r)
{
	struct buf data = { 0 };

	switch (r->type) {
	case DNS_MX:
		put16(&data, (unsigned)r->preference);
		put_name(&data, r->data);
		break;
	case CNAME:
		put_name(&data, r->data);
		break;
	case SOA:
		put_name(&data, "ns");
		put_name(&data, "h");
		for (int i = 0; i < 4; i++)
			put32(&data, 1);
		put32(&data, (uint32_t)atoi(r->data));
		break;
	default:
		buf_put(&data, r->data,
			r->type == DNS_A      ? 4
			: r->type == DNS_AAAA ? 16
					      : strlen(r->data));
	}
	put_name(b, r->name);
	put16(b, (unsigned)r->type);
	put16(b, 1);
	put32(b, r->ttl);
	put16(b, (unsigned)((int)data.len + r->lie));
	buf_put_slice(b, buf_slice(&data));
	buf_clear(&data);
}

static void
put_packet(struct buf *b, const char *name, int type, int rcode, const struct rr *answers,
	   size_t n_answers, const struct rr *authority)
{
	put16(b, 1);
	put16(b, 0x8180u | (unsigned)rcode);
	put16(b, 1);
	put16(b, (unsigned)n_answers);
	put16(b, authority != NULL);
	put16(b, 0);
	put_name(b, name);
	put16(b, (unsigned)type);
	put16(b, 1);
	for (size_t i = 0; i < n_answers; i++)
		put_rr(b, &answers[i]);
	if (authority != NULL)
		put_rr(b, authority);
}

static size_t
count(const struct rr *answers)
{
	size_t n = 0;

	while (answers[n].name != NULL)
		n++;
	return n;
}

// clang-format off
static const struct {
	const char *name;
	enum dns_type type;
	int rcode;
	struct rr answers[14];
	struct rr authority;
	enum dns_outcome outcome;
	unsigned n;
	uint32_t ttl;
	const char *first; /* host of the first record */
} rows[] = {
	{ "a.test", DNS_MX, 0, { { "a.test", DNS_MX, 300, "mx.a.test", 10, 0 }, { "A.TEST", DNS_MX, 60, "mx2.a.test", 20, 0 } },
	  { 0 }, DNS_FOUND, 2, 60, "mx.a.test" },
	{ "a.test", DNS_MX, 0, { { "a.test", DNS_MX, 300, "", 0, 0 } }, { 0 }, DNS_FOUND, 1, 300, "" },
	{ "a.test", DNS_A, 0, { { "a.test", DNS_A, 300, "\x7f\1\2\3", 0, 0 } }, { 0 }, DNS_FOUND, 1, 300, NULL },
	{ "a.test", DNS_AAAA, 0, { { "a.test", DNS_AAAA, 5, "0123456789abcdef", 0, 0 } }, { 0 }, DNS_FOUND, 1, 5, NULL },
	/* Aliases: followed in any order, their TTLs count. */
	{ "a.test", DNS_MX, 0, { { "c.test", DNS_MX, 300, "mx.test", 1, 0 }, { "b.test", CNAME, 200, "c.test", 0, 0 },
				 { "a.test", CNAME, 100, "b.test", 0, 0 } }, { 0 }, DNS_FOUND, 1, 100, "mx.test" },
	{ "a.test", DNS_MX, 0, { { "a.test", CNAME, 100, "b.test", 0, 0 } }, { "test", SOA, 50, "70", 0, 0 }, DNS_NODATA, 0, 50, NULL },
	{ "a.test", DNS_MX, 3, { { "a.test", CNAME, 100, "b.test", 0, 0 } }, { "test", SOA, 900, "70", 0, 0 }, DNS_NXDOMAIN, 0, 70, NULL },
	{ "a.test", DNS_MX, 0, { { "a.test", CNAME, 1, "a.test", 0, 0 } }, { 0 }, DNS_FAILED, 0, 1, NULL },
	{ "a.test", DNS_MX, 0, { { "a.test", CNAME, 1, "b.test", 0, 0 }, { "b.test", CNAME, 1, "a.test", 0, 0 } }, { 0 }, DNS_FAILED, 0, 1, NULL },
	{ "c0", DNS_A, 0, { { "c0", CNAME, 9, "c1", 0, 0 }, { "c1", CNAME, 9, "c2", 0, 0 }, { "c2", CNAME, 9, "c3", 0, 0 },
			    { "c3", CNAME, 9, "c4", 0, 0 }, { "c4", CNAME, 9, "c5", 0, 0 }, { "c5", CNAME, 9, "c6", 0, 0 },
			    { "c6", CNAME, 9, "c7", 0, 0 }, { "c7", CNAME, 9, "c8", 0, 0 }, { "c8", CNAME, 9, "c9", 0, 0 },
			    { "c9", CNAME, 9, "c10", 0, 0 }, { "c10", DNS_A, 9, "abcd", 0, 0 } }, { 0 }, DNS_FOUND, 1, 9, NULL },
	{ "c0", DNS_A, 0, { { "c0", CNAME, 9, "c1", 0, 0 }, { "c1", CNAME, 9, "c2", 0, 0 }, { "c2", CNAME, 9, "c3", 0, 0 },
			    { "c3", CNAME, 9, "c4", 0, 0 }, { "c4", CNAME, 9, "c5", 0, 0 }, { "c5", CNAME, 9, "c6", 0, 0 },
			    { "c6", CNAME, 9, "c7", 0, 0 }, { "c7", CNAME, 9, "c8", 0, 0 }, { "c8", CNAME, 9, "c9", 0, 0 },
			    { "c9", CNAME, 9, "c10", 0, 0 }, { "c10", CNAME, 9, "c11", 0, 0 }, { "c11", DNS_A, 9, "abcd", 0, 0 } },
	  { 0 }, DNS_FAILED, 0, 9, NULL },
	/* What does not belong: other names, other types, lengths that lie. */
	{ "a.test", DNS_MX, 0, { { "evil.test", DNS_MX, 300, "mx.evil", 1, 0 }, { "a.test", TXT, 300, "x", 0, 0 } }, { 0 }, DNS_NODATA, 0, 0, NULL },
	{ "a.test", DNS_A, 0, { { "a.test", TXT, 300, "abc", 0, 0 }, { "a.test", DNS_A, 300, "abcd", 0, 0 } }, { 0 }, DNS_FOUND, 1, 300, NULL },
	{ "a.test", DNS_MX, 0, { { "a.test", DNS_MX, 300, "mx", 1, 5 } }, { 0 }, DNS_FAILED, 0, 0, NULL },
	{ "a.test", DNS_MX, 0, { { "a.test", DNS_MX, 300, "mx.test", 1, -3 }, { "a.test", DNS_MX, 300, "mx", 1, 0 } }, { 0 }, DNS_FAILED, 0, 0, NULL },
	/* Negative answers and their time (RFC 2308). */
	{ "a.test", DNS_MX, 3, { { NULL, 0, 0, NULL, 0, 0 } }, { "test", SOA, 900, "60", 0, 0 }, DNS_NXDOMAIN, 0, 60, NULL },
	{ "a.test", DNS_MX, 0, { { NULL, 0, 0, NULL, 0, 0 } }, { "test", SOA, 30, "60", 0, 0 }, DNS_NODATA, 0, 30, NULL },
	{ "a.test", DNS_MX, 0, { { NULL, 0, 0, NULL, 0, 0 } }, { 0 }, DNS_NODATA, 0, 0, NULL },
	{ "a.test", DNS_MX, 2, { { NULL, 0, 0, NULL, 0, 0 } }, { 0 }, DNS_FAILED, 0, 0, NULL },
	{ "a.test", DNS_MX, 5, { { "a.test", DNS_MX, 300, "mx", 1, 0 } }, { 0 }, DNS_FAILED, 0, 0, NULL },
};
// clang-format on

static void
row_packet(struct buf *b, size_t i)
{
	put_packet(b, rows[i].name, (int)rows[i].type, rows[i].rcode, rows[i].answers,
		   count(rows[i].answers),
		   rows[i].authority.name != NULL ? &rows[i].authority : NULL);
}

static void
test_rows(void **state)
{
	struct dns_answer a;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct buf b = { 0 };

		row_packet(&b, i);
		dns_answer_parse(&a, rows[i].name, rows[i].type, buf_slice(&b));
		if (a.outcome != rows[i].outcome || a.n != rows[i].n || a.ttl_s != rows[i].ttl)
			fail_msg("row %zu: outcome %d n %u ttl %u", i, a.outcome, a.n, a.ttl_s);
		assert_true((a.outcome == DNS_FAILED) == (a.why != NULL));
		if (rows[i].first != NULL)
			assert_string_equal(a.records[0].host, rows[i].first);
		buf_clear(&b);
	}
}

/* In a block of exactly its length, so that a read past it is seen. */
static void
parse_copy(const char *name, enum dns_type type, const char *p, size_t n)
{
	struct dns_answer a;
	char *copy = mem_alloc(n + (n == 0));

	memcpy(copy, p, n);
	dns_answer_parse(&a, name, type, slice_of(copy, n));
	assert_true(a.n <= DNS_RECORDS_MAX);
	for (unsigned i = 0; i < a.n; i++)
		assert_non_null(memchr(a.records[i].host, '\0', sizeof a.records[i].host));
	mem_free(copy);
}

static void
test_cut_and_changed(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct buf b = { 0 };
		char *p;

		row_packet(&b, i);
		p = b.data + b.start;
		for (size_t n = 0; n < b.len; n++)
			parse_copy(rows[i].name, rows[i].type, p, n);
		for (size_t at = 0; at < b.len; at++) {
			static const unsigned char values[] = { 0, 1, 0x3f, 0x40, 0xc0, 0xff };
			char kept = p[at];

			for (size_t v = 0; v < sizeof values; v++) {
				p[at] = (char)values[v];
				parse_copy(rows[i].name, rows[i].type, p, b.len);
			}
			p[at] = kept;
		}
		buf_clear(&b);
	}
}

static void
test_many_records(void **state)
{
	static struct rr many[300];
	struct buf b = { 0 };
	struct dns_answer a;

	(void)state;
	for (int i = 0; i < 300; i++)
		many[i] = (struct rr){ "a.test", DNS_MX, 300, "mx.test", i, 0 };
	put_packet(&b, "a.test", DNS_MX, 0, many, 300, NULL);
	dns_answer_parse(&a, "a.test", DNS_MX, buf_slice(&b));
	assert_int_equal(a.outcome, DNS_FOUND);
	assert_int_equal(a.n, DNS_RECORDS_MAX);
	buf_clear(&b);
}

static void
test_names(void **state)
{
	static const struct {
		const char *name;
		bool good;
	} names[] = {
		{ "a", true },
		{ "a.b", true },
		{ "xn--bcher-kva.example", true },
		{ "_x.a-b.c1", true },
		{ "192.0.2.1", true },
		{ "", false },
		{ ".", false },
		{ "a.", false },
		{ ".a", false },
		{ "a..b", false },
		{ "a b", false },
		{ "a\\032b", false },
		{ "b\xc3\xbc.c", false },
		{ "a\nb", false },
		{ "*.a", false },
		{ "a/b", false },
	};
	char label[300];

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		assert_int_equal(dns_name_ok(slice_str(names[i].name)), names[i].good);
	memset(label, 'a', sizeof label);
	assert_true(dns_name_ok(slice_of(label, 63)));
	assert_false(dns_name_ok(slice_of(label, 64)));
	for (size_t i = 63; i < sizeof label; i += 64)
		label[i] = '.';
	assert_true(dns_name_ok(slice_of(label, 253)));
	assert_false(dns_name_ok(slice_of(label, 254)));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_cut_and_changed),
		cmocka_unit_test(test_many_records),
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
