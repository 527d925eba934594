#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/mail/address.h"

/* 64 and 63 bytes, to reach the bounds. */
#define A10 "aaaaaaaaaa"
#define A60 A10 A10 A10 A10 A10 A10
#define A63 A60 "aaa"
#define A64 A60 "aaaa"
#define D59 A10 A10 A10 A10 A10 "aaaaaaaaa"

static const struct row {
	const char *path;
	int rc;
	enum address_kind kind;
	const char *local;
	const char *domain;
	const char *rest; /* left behind the path; NULL: nothing */
} rows[] = {
	/* clang-format off */
	{ "<>", 0, ADDRESS_NULL, "", "", NULL },
	{ "<> SIZE=1", 0, ADDRESS_NULL, "", "", " SIZE=1" },
	{ "<a@b>", 0, ADDRESS_DOMAIN, "a", "b", NULL },
	{ "<Abc.Def@Example.COM>", 0, ADDRESS_DOMAIN, "Abc.Def", "Example.COM", NULL },
	{ "<a@b>x", 0, ADDRESS_DOMAIN, "a", "b", "x" },
	{ "<!#$%&'*+-/=?^_`{|}~@b.c>", 0, ADDRESS_DOMAIN, "!#$%&'*+-/=?^_`{|}~", "b.c", NULL },
	{ "<\"a b\"@x.y>", 0, ADDRESS_DOMAIN, "\"a b\"", "x.y", NULL },
	{ "<\"a@evil\"@good>", 0, ADDRESS_DOMAIN, "\"a@evil\"", "good", NULL },
	{ "<\"a\\\"@evil\\\\\"@good>", 0, ADDRESS_DOMAIN, "\"a\\\"@evil\\\\\"", "good", NULL },
	{ "<\"\"@good>", 0, ADDRESS_DOMAIN, "\"\"", "good", NULL },
	{ "<\">\"@good>", 0, ADDRESS_DOMAIN, "\">\"", "good", NULL },
	{ "<@a,@b:u@c>", 0, ADDRESS_DOMAIN, "u", "c", NULL },
	{ "<@[1.2.3.4]:u@c>", 0, ADDRESS_DOMAIN, "u", "c", NULL },
	{ "<postmaster>", 0, ADDRESS_LOCAL, "postmaster", "", NULL },
	{ "<PostMaster>", 0, ADDRESS_LOCAL, "PostMaster", "", NULL },
	{ "<u@[192.0.2.1]>", 0, ADDRESS_LITERAL, "u", "[192.0.2.1]", NULL },
	{ "<u@[IPv6:2001:db8::1]>", 0, ADDRESS_LITERAL, "u", "[IPv6:2001:db8::1]", NULL },
	{ "<u@[tag:x]>", 0, ADDRESS_LITERAL, "u", "[tag:x]", NULL },
	{ "<u@1.2.3.4>", 0, ADDRESS_DOMAIN, "u", "1.2.3.4", NULL },
	{ "<u@xn--bcher-kva.example>", 0, ADDRESS_DOMAIN, "u", "xn--bcher-kva.example", NULL },
	{ "<a%b@c>", 0, ADDRESS_DOMAIN, "a%b", "c", NULL },
	{ "<" A64 "@b>", 0, ADDRESS_DOMAIN, A64, "b", NULL },
	{ "<a@" A63 ".b>", 0, ADDRESS_DOMAIN, "a", A63 ".b", NULL },

	{ "<" A64 "a@b>", -E_TOO_BIG, 0, 0, 0, 0 },
	{ "<a@" A64 ".b>", -E_TOO_BIG, 0, 0, 0, 0 },
	{ "<\"" A64 "\"@b>", -E_TOO_BIG, 0, 0, 0, 0 },
	{ "", -E_BAD, 0, 0, 0, 0 },
	{ "<", -E_BAD, 0, 0, 0, 0 },
	{ "a@b", -E_BAD, 0, 0, 0, 0 },
	{ "<a@b", -E_BAD, 0, 0, 0, 0 },
	{ "<a@>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@", -E_BAD, 0, 0, 0, 0 },
	{ "<@b>", -E_BAD, 0, 0, 0, 0 },
	{ "<@a:>", -E_BAD, 0, 0, 0, 0 },
	{ "<@a,u@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a>", -E_BAD, 0, 0, 0, 0 },
	{ "<a b@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<.a@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a.@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a..b@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@b@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@.c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@c.>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@c..d>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@-c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@c->", -E_BAD, 0, 0, 0, 0 },
	{ "<a@c_d>", -E_BAD, 0, 0, 0, 0 },
	{ "<a(comment)@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<\"a@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<\"a\"b@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<\"a\\", -E_BAD, 0, 0, 0, 0 },
	{ "<\"a\x01\"@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<\"a\\\x01\"@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<\xc3\xa9@c>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@\xc3\xa9>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@[1.2.3]>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@[1.2.3.4>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@[IPv6:zz]>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@[]>", -E_BAD, 0, 0, 0, 0 },
	{ "<a@b\r\n>", -E_BAD, 0, 0, 0, 0 },
	/* clang-format on */
};

static void
check_row(const struct row *r)
{
	size_t n = strlen(r->path);
	char *exact = n > 0 ? memcpy(mem_alloc(n), r->path, n) : NULL; /* no NUL to lean on */
	struct slice s = slice_of(exact, n);
	struct address a;
	int rc = address_parse_path(&s, &a);

	if (rc != r->rc)
		fail_msg("%s: rc %d, want %d", r->path, rc, r->rc);
	if (rc != 0) {
		assert_int_equal(s.n, n);
	} else {
		assert_int_equal(a.kind, r->kind);
		assert_true(slice_is(a.local, r->local));
		assert_true(slice_is(a.domain, r->domain));
		assert_true(slice_is(s, r->rest != NULL ? r->rest : ""));
	}
	mem_free(exact);
}

static void
paths(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		check_row(&rows[i]);
}

/* A NUL is a byte like another one: no end of anything. */
static void
nul_bytes(void **state)
{
	static const char *const texts[] = { "<a\0b@c>", "<\"a\0\"@c>", "<a@b\0>", "<\0>" };
	static const size_t sizes[] = { 7, 9, 6, 3 };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct slice s = slice_of(texts[i], sizes[i]);
		struct address a;

		assert_int_equal(address_parse_path(&s, &a), -E_BAD);
	}
}

/* Every prefix of every row, from a buffer of exactly that size. */
static void
prefixes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		for (size_t n = 0; n < strlen(rows[i].path); n++) {
			char *exact = mem_alloc(n + 1);
			struct slice s = slice_of(exact + 1, n);
			struct address a;

			memcpy(exact + 1, rows[i].path, n);
			if (address_parse_path(&s, &a) == 0)
				assert_true(s.n < n);
			mem_free(exact);
		}
	}
}

static void
path_of(size_t bytes, int want)
{
	char text[600];
	size_t at = (size_t)snprintf(text, sizeof text, "<%s@", D59);
	struct slice s;
	struct address a;
	int rc;

	while (at < bytes - 1) {
		text[at] = (at % 50) == 49 && at + 2 < bytes - 1 ? '.' : 'd';
		at++;
	}
	text[at++] = '>';
	assert_int_equal(at, bytes);
	s = slice_of(text, bytes);
	rc = address_parse_path(&s, &a);
	if (rc != want)
		fail_msg("path of %zu bytes: rc %d, want %d", bytes, rc, want);
}

static void
path_bound(void **state)
{
	(void)state;
	path_of(255, 0);
	path_of(256, 0);
	path_of(257, -E_TOO_BIG);
}

static void
domain_bound(void **state)
{
	char text[300];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof text; i++)
		text[i] = i % 50 == 49 ? '.' : 'd';
	assert_true(address_is_domain(slice_of(text, 255)));
	assert_false(address_is_domain(slice_of(text, 256)));
	assert_true(address_is_literal(SLICE_LIT("[127.0.0.1]")));
	assert_false(address_is_literal(SLICE_LIT("[127.0.0.1]x")));
	assert_false(address_is_domain(SLICE_LIT("")));
}

/* Whatever repeats: one megabyte costs no more than a look at it. */
static void
megabyte(void **state)
{
	static const char *const unit[] = {
		"a", "a.", "\"", "\\\"", "@a,", "@", "(", "[", "<", "a@"
	};
	size_t n = 1u << 20;
	char *text = mem_alloc(n);

	(void)state;
	for (size_t i = 0; i < sizeof unit / sizeof unit[0]; i++) {
		size_t u = strlen(unit[i]);
		struct slice s = slice_of(text, n);
		struct address a;
		uint64_t t;

		text[0] = '<';
		for (size_t k = 1; k < n; k++)
			text[k] = unit[i][(k - 1) % u];
		t = clock_cpu_us();
		assert_int_not_equal(address_parse_path(&s, &a), 0);
		assert_true(clock_cpu_us() - t <
			    100000); /* 10 ms, with sanitizers ten times that */
	}
	mem_free(text);
}

static void
mailboxes(void **state)
{
	struct address a;
	struct buf out = { 0 };

	(void)state;
	assert_int_equal(address_parse_mailbox(SLICE_LIT("Ops@Example.COM"), &a), 0);
	address_put(&out, &a);
	assert_true(slice_is(buf_slice(&out), "Ops@example.com"));
	assert_int_equal(address_parse_mailbox(SLICE_LIT("<a@b>"), &a), -E_BAD);
	assert_int_equal(address_parse_mailbox(SLICE_LIT("a@b "), &a), -E_BAD);
	assert_int_equal(address_parse_mailbox(SLICE_LIT("postmaster"), &a), -E_BAD);
	assert_int_equal(address_parse_mailbox(SLICE_LIT(""), &a), -E_BAD);
	buf_clear(&out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),        cmocka_unit_test(nul_bytes),
		cmocka_unit_test(prefixes),     cmocka_unit_test(path_bound),
		cmocka_unit_test(domain_bound), cmocka_unit_test(megabyte),
		cmocka_unit_test(mailboxes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
