/* The names of queues that have addresses in them: made, taken apart, and whose settings they have.
 */
#include <arpa/inet.h>

#include "common/conf/conf_rollup_ips.h"
#include "tests/unit/conf/fixture.h"

static void
expect(const char *what, const char *got, const char *want)
{
	if (strcmp(got, want) != 0)
		fail_msg("%s: %s instead of %s", what, got, want);
}

static bool
add(struct conf_rollup_ips *ips, const char *text)
{
	struct sockaddr_storage ss = { .ss_family = strchr(text, ':') ? AF_INET6 : AF_INET };

	assert_int_equal(inet_pton(ss.ss_family, text,
				   ss.ss_family == AF_INET
					   ? (void *)&((struct sockaddr_in *)&ss)->sin_addr
					   : (void *)&((struct sockaddr_in6 *)&ss)->sin6_addr),
			 1);
	return conf_rollup_ips_add(ips, &ss);
}

static bool
add_all(struct conf_rollup_ips *ips, const char *texts)
{
	struct slice rest = slice_str(texts);
	bool fits = true;
	char text[64];

	ips->n = 0;
	while (rest.p != NULL && rest.n > 0) {
		str_copy(text, sizeof text, slice_cut(&rest, ' '));
		fits &= add(ips, text);
	}
	return fits;
}

static void
test_name(void **state)
{
	static const struct {
		const char *ips, *queue, *name, *hosts;
	} rows[] = {
		{ "192.0.2.1", "o.rollup", "192.0.2.1.o.rollup", "[192.0.2.1]" },
		/* in whatever order they are known */
		{ "192.0.2.1 192.0.2.9 10.0.0.1", "o.rollup",
		  "10.0.0.1+192.0.2.1+192.0.2.9.o.rollup", "[10.0.0.1],[192.0.2.1],[192.0.2.9]" },
		{ "10.0.0.1 192.0.2.9 10.0.0.1 192.0.2.1", "o.rollup",
		  "10.0.0.1+192.0.2.1+192.0.2.9.o.rollup", "[10.0.0.1],[192.0.2.1],[192.0.2.9]" },
		{ "2001:db8::1 192.0.2.1 2001:db8::", "o.rollup",
		  "192.0.2.1+2001:db8::+2001:db8::1.o.rollup",
		  "[192.0.2.1];[IPv6:2001:db8::],[IPv6:2001:db8::1]" },
		{ "2001:db8::1", "1.2.o.rollup", "2001:db8::1.1.2.o.rollup", "[IPv6:2001:db8::1]" },
		/* NAME may begin with digits */
		{ "192.0.2.1", "7.8.9.0.rollup", "192.0.2.1.7.8.9.0.rollup", "[192.0.2.1]" },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf_rollup_ips ips;
		char name[SMTP_DOMAIN_MAX + 1];
		struct buf hosts = { 0 };

		assert_true(add_all(&ips, rows[i].ips));
		assert_true(conf_rollup_ips_name(&ips, slice_str(rows[i].queue), name));
		expect(rows[i].ips, name, rows[i].name);
		assert_true(slice_is(conf_rollup_base(slice_str(name)), rows[i].queue));
		assert_true(conf_rollup_ips_hosts(slice_str(name), &hosts));
		buf_putc(&hosts, '\0');
		expect(rows[i].ips, hosts.data, rows[i].hosts);
		buf_clear(&hosts);
	}
}

static void
test_no_name(void **state)
{
	static const char *const others[] = {
		"o.rollup",
		"192.0.2.1",
		"192.0.2.1.o.test",
		"192.0.2.o.rollup",
		"192.0.2.1+.o.rollup",
		"+192.0.2.1.o.rollup",
		"192.0.2.256.o.rollup",
		"192.0.2.1.rollup",
		"192.0.2.01.o.rollup",
		"::ffff:192.0.2.1.o.rollup.x",
		"g::1.o.rollup",
		".o.rollup",
		"",
		"rollup",
	};
	struct conf_rollup_ips ips;
	char name[SMTP_DOMAIN_MAX + 1], text[32];
	struct buf hosts = { 0 };

	(void)state;
	for (size_t i = 0; i < N_OF(others); i++) {
		assert_int_equal(conf_rollup_base(slice_str(others[i])).n, strlen(others[i]));
		if (conf_rollup_ips_hosts(slice_str(others[i]), &hosts))
			fail_msg("%s", others[i]);
	}
	/* none, too many, too long, of two kinds at once */
	assert_true(add_all(&ips, ""));
	assert_false(conf_rollup_ips_name(&ips, SLICE_LIT("o.rollup"), name));
	assert_false(add_all(&ips, "::ffff:192.0.2.1"));
	assert_true(add_all(&ips, ""));
	for (unsigned i = 0; i < CONF_ROLLUP_IPS_MAX; i++) {
		snprintf(text, sizeof text, "10.0.0.%u", i);
		assert_true(add(&ips, text));
	}
	assert_true(conf_rollup_ips_name(&ips, SLICE_LIT("o.rollup"), name));
	assert_true(add(&ips, "10.0.0.7")); /* again */
	assert_false(add(&ips, "10.0.1.0"));
	assert_true(add_all(
		&ips, "2001:db8:1111:2222:3333:4444:5555:1 2001:db8:1111:2222:3333:4444:5555:2 "
		      "2001:db8:1111:2222:3333:4444:5555:3 2001:db8:1111:2222:3333:4444:5555:4 "
		      "2001:db8:1111:2222:3333:4444:5555:5 2001:db8:1111:2222:3333:4444:5555:6 "
		      "2001:db8:1111:2222:3333:4444:5555:7 2001:db8:1111:2222:3333:4444:5555:8"));
	assert_false(conf_rollup_ips_name(&ips, SLICE_LIT("o.rollup"), name));
	buf_clear(&hosts);
}

static void
test_within(void **state)
{
	static const struct {
		const char *some, *all;
		bool within;
	} rows[] = {
		{ "10.0.0.1", "10.0.0.1", true },
		{ "10.0.0.1", "10.0.0.2 10.0.0.1", true },
		{ "10.0.0.1 10.0.0.2", "10.0.0.1", false },
		{ "10.0.0.1", "2001:db8::1 10.0.0.1", true },
		{ "10.0.0.1 2001:db8::1", "10.0.0.1", false },
		{ "10.0.0.9", "10.0.0.1", false },
		{ "10.0.0.1", "", false },
		{ "a00:1::", "10.0.0.1", false }, /* the same bytes */
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf_rollup_ips some, all;

		assert_true(add_all(&some, rows[i].some) && add_all(&all, rows[i].all));
		if (conf_rollup_ips_within(&some, &all) != rows[i].within)
			fail_msg("%s in %s", rows[i].some, rows[i].all);
	}
}

/* They have the settings of NAME.rollup. */
static void
test_settings(void **state)
{
	static const struct {
		const char *domain;
		uint64_t most;
	} rows[] = {
		{ "o.rollup", 3 },
		{ "192.0.2.1.o.rollup", 3 },
		{ "192.0.2.1+2001:db8::1.o.rollup", 3 },
		{ "192.0.2.1.p.rollup", 7 },
		{ "x.o.rollup", 7 },
		{ "192.0.2.1.o.test", 7 },
	};
	struct conf *c =
		parsed("domains = ( { name = \"*\"; max-smtp-out = 7; }, { name = \"o.rollup\"; "
		       "max-smtp-out = 3; } );");

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf_queue q;

		conf_queue(c, slice_str(rows[i].domain), SLICE_LIT("{default}"), &q);
		if (q.max_smtp_out != rows[i].most)
			fail_msg("%s: %llu", rows[i].domain, (unsigned long long)q.max_smtp_out);
	}
	conf_free(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_name),
		cmocka_unit_test(test_no_name),
		cmocka_unit_test(test_within),
		cmocka_unit_test(test_settings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
