/* addr: texts and addresses, both ways; CIDR blocks at their edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/net/addr.h"

static const struct {
	const char *text;
	const char *out; /* NULL: none */
} addresses[] = {
	// clang-format off
	{ "192.0.2.1", "192.0.2.1@25" },
	{ "192.0.2.1@2525", "192.0.2.1@2525" },
	{ "192.0.2.1:2525", "192.0.2.1@2525" },
	{ "2001:db8::1", "2001:db8::1@25" },
	{ "2001:db8::1@53", "2001:db8::1@53" },
	{ "[2001:db8::1]:53", "2001:db8::1@53" },
	{ "[2001:db8::1]", "2001:db8::1@25" },
	{ "::ffff:192.0.2.1", "::ffff:192.0.2.1@25" },
	{ "::", "::@25" },
	{ "0.0.0.0@0", "0.0.0.0@0" },
	{ "192.0.2.1@65535", "192.0.2.1@65535" },
	{ "192.0.2.1@65536", NULL },
	{ "192.0.2.1@", NULL },
	{ "192.0.2.1@-1", NULL },
	{ "192.0.2.1@1x", NULL },
	{ "192.0.2.1:", NULL },
	{ "192.0.2", NULL },
	{ "192.0.2.256", NULL },
	{ "192.0.2.1 ", NULL },
	{ "[2001:db8::1", NULL },
	{ "[2001:db8::1]53", NULL },
	{ "[2001:db8::1]:", NULL },
	{ "[192.0.2.1]", NULL },
	{ "[]", NULL },
	{ "[", NULL },
	{ "@25", NULL },
	{ "fe80::1%eth0", NULL },
	{ "localhost", NULL },
	{ "", NULL },
	{ "1:2:3:4:5:6:7:8:9", NULL },
	{ "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", NULL },
	// clang-format on
};

static void
test_addresses(void **state)
{
	char text[ADDR_TEXT_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		struct addr a;
		bool ok = addr_parse(&a, slice_str(addresses[i].text), 25);

		if (ok != (addresses[i].out != NULL))
			fail_msg("row %zu `%s`", i, addresses[i].text);
		if (ok)
			assert_string_equal(addr_port_text(text, &a), addresses[i].out);
		else
			assert_int_equal(a.u.sa.sa_family, AF_UNSPEC);
	}
}

static void
test_same(void **state)
{
	struct addr a, b;

	(void)state;
	assert_true(addr_parse(&a, slice_str("192.0.2.1@1"), 0));
	assert_true(addr_parse(&b, slice_str("::ffff:192.0.2.1@2"), 0));
	assert_true(addr_same_ip(&a, &b));
	assert_true(addr_parse(&b, slice_str("192.0.2.2"), 0));
	assert_false(addr_same_ip(&a, &b));
	assert_true(addr_parse(&b, slice_str("2001:db8::1"), 0));
	assert_false(addr_same_ip(&a, &b));
	assert_true(addr_parse(&b, slice_str("::"), 0));
	assert_true(addr_is_any(&b));
	assert_true(addr_parse(&b, slice_str("0.0.0.0"), 0));
	assert_true(addr_is_any(&b));
	assert_false(addr_is_any(&a));
}

static void
test_foreign_sockaddr(void **state)
{
	struct sockaddr_un_like {
		sa_family_t family;
		char path[100];
	} un = { AF_UNIX, "x" };
	struct sockaddr_in in = { .sin_family = AF_INET };
	struct addr a;

	(void)state;
	assert_false(addr_from(&a, (struct sockaddr *)&un, sizeof un));
	assert_true(addr_from(&a, (struct sockaddr *)&in, sizeof in));
	assert_false(addr_from(&a, (struct sockaddr *)&in, sizeof in - 1));
	assert_false(addr_from(&a, (struct sockaddr *)&in, 1));
	assert_false(addr_from(&a, (struct sockaddr *)&in, 0));
}

static const struct {
	const char *block, *address;
	int holds; /* -1: the block is none */
} blocks[] = {
	// clang-format off
	{ "10.0.0.0/8", "10.255.255.255", 1 },
	{ "10.0.0.0/8", "11.0.0.0", 0 },
	{ "10/8", "10.1.2.3", 1 },
	{ "0/0", "203.0.113.9", 1 },
	{ "0.0.0.0/0", "203.0.113.9", 1 },
	{ "0/0", "2001:db8::1", 0 },
	{ "::/0", "2001:db8::1", 1 },
	{ "::/0", "192.0.2.1", 0 },
	{ "192.0.2.128/25", "192.0.2.127", 0 },
	{ "192.0.2.128/25", "192.0.2.128", 1 },
	{ "192.0.2.129/25", "192.0.2.128", 1 }, /* host bits do not matter */
	{ "192.0.2.1", "192.0.2.1", 1 },
	{ "192.0.2.1/32", "192.0.2.1", 1 },
	{ "192.0.2.1/31", "192.0.2.0", 1 },
	{ "192.0.2.1", "192.0.2.2", 0 },
	{ "2001:db8::/33", "2001:db8:8000::", 0 },
	{ "2001:db8::/33", "2001:db8:7fff::", 1 },
	{ "2001:db8::1", "2001:db8::1", 1 },
	{ "2001:db8::1/128", "2001:db8::2", 0 },
	{ " 10.0.0.0/8 ", "10.0.0.1", 1 },
	{ "10.0.0.0/33", "", -1 },
	{ "2001:db8::/129", "", -1 },
	{ "10.0.0.0/", "", -1 },
	{ "10.0.0.0/x", "", -1 },
	{ "10.0.0.0.0/8", "", -1 },
	{ "10", "", -1 },
	{ "10.256/16", "", -1 },
	{ "/8", "", -1 },
	{ "", "", -1 },
	{ "x/8", "", -1 },
	// clang-format on
};

static void
test_blocks(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
		struct cidr c;
		struct addr a;
		bool ok = cidr_parse(&c, slice_str(blocks[i].block));

		if (ok != (blocks[i].holds >= 0))
			fail_msg("row %zu `%s`", i, blocks[i].block);
		if (!ok)
			continue;
		assert_true(addr_parse(&a, slice_str(blocks[i].address), 0));
		if (cidr_holds(&c, &a) != (blocks[i].holds == 1))
			fail_msg("row %zu `%s` `%s`", i, blocks[i].block, blocks[i].address);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_foreign_sockaddr),
		cmocka_unit_test(test_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
