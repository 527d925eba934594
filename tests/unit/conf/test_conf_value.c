/* Quantities: every form, its bounds, and what is printed back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/conf/conf_net.h"
#include "common/conf/conf_actions.h"
#include "common/conf/conf_value.h"
#include "common/conf/conf_words.h"

#define S       1000000ull
#define N_OF(a) (sizeof(a) / sizeof *(a))

/* Fed as a slice inside other bytes: nothing may be read behind its end. */
static struct slice
inside(char room[600], const char *s)
{
	size_t n = strlen(s);

	memset(room, '9', 600);
	memcpy(room + 1, s, n);
	return slice_of(room + 1, n);
}

static void
test_rates(void **state)
{
	static const struct {
		const char *text;
		bool ok;
		uint64_t n, window;
		const char *back;
	} rows[] = {
		{ "1000/h", true, 1000, 3600 * S, "1000/h" },
		{ "83/10m", true, 83, 600 * S, "83/10m" },
		{ "1/s", true, 1, S, "1/s" },
		{ "1/sec", true, 1, S, "1/s" },
		{ "5/min", true, 5, 60 * S, "5/m" },
		{ "5/60s", true, 5, 60 * S, "5/m" },
		{ "5/90s", true, 5, 90 * S, "5/90s" },
		{ "7/hr", true, 7, 3600 * S, "7/h" },
		{ "7/day", true, 7, 86400 * S, "7/d" },
		{ "7/24h", true, 7, 86400 * S, "7/d" },
		{ "7/D", true, 7, 86400 * S, "7/d" },
		{ "unlimited", true, 0, 0, "unlimited" },
		{ "0", true, 0, 0, "unlimited" },
		{ "4294967295/h", true, UINT32_MAX, 3600 * S, "4294967295/h" },
		{ "1/30d", true, 1, 30 * 86400 * S, "1/30d" },
		{ "4294967296/h", false, 0, 0, NULL },
		{ "1/31d", false, 0, 0, NULL },
		{ "1/99999999999999999999d", false, 0, 0, NULL },
		{ "0/h", false, 0, 0, NULL },
		{ "1/0h", false, 0, 0, NULL },
		{ "1000", false, 0, 0, NULL },
		{ "1000/", false, 0, 0, NULL },
		{ "1000/10", false, 0, 0, NULL },
		{ "/h", false, 0, 0, NULL },
		{ "1000/x", false, 0, 0, NULL },
		{ "1000/h ", false, 0, 0, NULL },
		{ " 1000/h", false, 0, 0, NULL },
		{ "-1/h", false, 0, 0, NULL },
		{ "1k/h", false, 0, 0, NULL },
		{ "1/h/h", false, 0, 0, NULL },
		{ "1/w", false, 0, 0, NULL },
		{ "", false, 0, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf_rate r = { 99, 99 };
		struct buf b = { 0 };
		char room[600];

		if (conf_value_rate(inside(room, rows[i].text), &r) != rows[i].ok)
			fail_msg("%s", rows[i].text);
		if (!rows[i].ok) {
			assert_true(r.n == 99 && r.window_us == 99);
			continue;
		}
		assert_true(r.n == rows[i].n && r.window_us == rows[i].window);
		conf_value_put_rate(&b, &r);
		assert_true(slice_is(buf_slice(&b), rows[i].back));
		buf_clear(&b);
	}
}

static void
test_volumes(void **state)
{
	static const struct {
		const char *text;
		uint64_t n, window; /* n 0: refused, 1 and window 0: unlimited */
		const char *back;
	} rows[] = {
		{ "500M/h", 500ull << 20, 3600 * S, "500m/h" },
		{ "10m/5m", 10ull << 20, 300 * S, "10m/5m" },
		{ "1024/s", 1024, S, "1k/s" },
		{ "1000b/s", 1000, S, "1000/s" },
		{ "1t/d", 1ull << 40, 86400 * S, "1t/d" },
		{ "1024t/d", 1ull << 50, 86400 * S, "1024t/d" },
		{ "1025t/d", 0, 0, NULL },
		{ "99999999999999999999/d", 0, 0, NULL },
		{ "1x/d", 0, 0, NULL },
		{ "0k/d", 0, 0, NULL },
		{ "1kb/d", 0, 0, NULL },
		{ "k/d", 0, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf_rate r;
		struct buf b = { 0 };
		char room[600];

		if (conf_value_volume(inside(room, rows[i].text), &r) != (rows[i].n > 0))
			fail_msg("%s", rows[i].text);
		if (rows[i].n == 0)
			continue;
		assert_true(r.n == rows[i].n && r.window_us == rows[i].window);
		conf_value_put_volume(&b, &r);
		assert_true(slice_is(buf_slice(&b), rows[i].back));
		buf_clear(&b);
	}
}

static void
test_intervals(void **state)
{
	static const struct {
		const char *text;
		bool ok;
		uint64_t us;
		const char *back;
	} rows[] = {
		{ "1w2d12h", true, (7 + 2) * 86400 * S + 12 * 3600 * S, "1w2d12h" },
		{ "90s", true, 90 * S, "1m30s" },
		{ "10M", true, 600 * S, "10m" },
		{ "0", true, 0, "0" },
		{ "0s", true, 0, "0" },
		{ "3650d", true, 3650 * 86400 * S, "521w3d" },
		{ "3650d1s", false, 0, NULL },
		{ "3651d", false, 0, NULL },
		{ "99999999999999999999s", false, 0, NULL },
		{ "10", false, 0, NULL },
		{ "10m30m", false, 0, NULL },
		{ "30m1h", false, 0, NULL },
		{ "1h 30m", false, 0, NULL },
		{ "m", false, 0, NULL },
		{ "1.5h", false, 0, NULL },
		{ "-1h", false, 0, NULL },
		{ "1min", false, 0, NULL },
		{ "never", false, 0, NULL },
		{ "", false, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		uint64_t us;
		struct buf b = { 0 };
		char room[600];

		if (conf_value_interval(inside(room, rows[i].text), &us) != rows[i].ok)
			fail_msg("%s", rows[i].text);
		if (!rows[i].ok)
			continue;
		assert_true(us == rows[i].us);
		conf_value_put_interval(&b, us);
		assert_true(slice_is(buf_slice(&b), rows[i].back));
		buf_clear(&b);
	}
}

static void
test_interval_lists(void **state)
{
	struct conf_intervals v;
	struct buf b = { 0 };
	char room[600];

	(void)state;
	assert_true(conf_value_intervals(inside(room, "10m, 30m,1h"), &v));
	assert_int_equal(v.n, 3);
	assert_true(v.us[0] == 600 * S && v.us[1] == 1800 * S && v.us[2] == 3600 * S);
	conf_value_put_intervals(&b, &v);
	assert_true(slice_is(buf_slice(&b), "10m,30m,1h"));
	buf_reset(&b);
	for (int i = 0; i < RETRY_STEPS_MAX; i++)
		buf_printf(&b, "%s%ds", i ? "," : "", i + 1);
	assert_true(conf_value_intervals(buf_slice(&b), &v));
	assert_int_equal(v.n, RETRY_STEPS_MAX);
	assert_true(v.us[RETRY_STEPS_MAX - 1] == RETRY_STEPS_MAX * S);
	buf_puts(&b, ",1s");
	assert_false(conf_value_intervals(buf_slice(&b), &v));
	buf_clear(&b);
	assert_false(conf_value_intervals(inside(room, ""), &v));
	assert_false(conf_value_intervals(inside(room, "10m,"), &v));
	assert_false(conf_value_intervals(inside(room, ",10m"), &v));
	assert_false(conf_value_intervals(inside(room, "10m,,1h"), &v));
	assert_false(conf_value_intervals(inside(room, "10m,0s"), &v));
	assert_false(conf_value_intervals(inside(room, "10m;1h"), &v));
}

static void
test_sizes(void **state)
{
	static const struct {
		const char *text;
		bool ok;
		uint64_t bytes;
		const char *back;
	} rows[] = {
		{ "250M", true, 250ull << 20, "250m" },
		{ "64k", true, 65536, "64k" },
		{ "1000", true, 1000, "1000" },
		{ "7b", true, 7, "7" },
		{ "0", true, 0, "0" },
		{ "1024t", true, 1ull << 50, "1024t" },
		{ "1025t", false, 0, NULL },
		{ "18446744073709551616", false, 0, NULL },
		{ "1.5M", false, 0, NULL },
		{ "M", false, 0, NULL },
		{ "1MB", false, 0, NULL },
		{ "", false, 0, NULL },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		uint64_t bytes;
		struct buf b = { 0 };
		char room[600];

		if (conf_value_size(inside(room, rows[i].text), &bytes) != rows[i].ok)
			fail_msg("%s", rows[i].text);
		if (!rows[i].ok)
			continue;
		assert_true(bytes == rows[i].bytes);
		conf_value_put_size(&b, bytes);
		assert_true(slice_is(buf_slice(&b), rows[i].back));
		buf_clear(&b);
	}
}

static struct sockaddr_storage
addr(const char *text)
{
	struct sockaddr_storage ss;
	socklen_t len;

	assert_true(conf_net_ip(slice_str(text), &ss, &len));
	return ss;
}

static void
test_cidrs(void **state)
{
	static const struct {
		const char *cidr, *ip;
		bool ok, match;
	} rows[] = {
		{ "127.0.0.0/8", "127.9.8.7", true, true },
		{ "127.0.0.0/8", "128.0.0.1", true, false },
		{ "10/8", "10.255.0.1", true, true },
		{ "10.1/16", "10.1.2.3", true, true },
		{ "10.1/16", "10.2.2.3", true, false },
		{ "192.0.2.1", "192.0.2.1", true, true },
		{ "192.0.2.1", "192.0.2.2", true, false },
		{ "192.0.2.129/25", "192.0.2.200", true, true },
		{ "192.0.2.129/25", "192.0.2.100", true, false },
		{ "192.0.2.0/31", "192.0.2.1", true, true },
		{ "192.0.2.0/31", "192.0.2.2", true, false },
		{ "0/0", "8.8.8.8", true, true },
		{ "0/0", "2001:db8::1", true, true },
		{ "0.0.0.0/0", "2001:db8::1", true, false },
		{ "2001:db8::/32", "2001:db8:1::1", true, true },
		{ "2001:db8::/32", "2001:db9::1", true, false },
		{ "10/8", "::ffff:10.0.0.1", true, true },
		{ "::/0", "10.0.0.1", true, false },
		{ "10/33", "10.0.0.1", false, false },
		{ "2001:db8::/129", "10.0.0.1", false, false },
		{ "10", "10.0.0.1", false, false },
		{ "10.1.2.3.4/8", "10.0.0.1", false, false },
		{ "256/8", "10.0.0.1", false, false },
		{ "10./8", "10.0.0.1", false, false },
		{ "10/", "10.0.0.1", false, false },
		{ "10/8/8", "10.0.0.1", false, false },
		{ "10/-1", "10.0.0.1", false, false },
		{ "name", "10.0.0.1", false, false },
		{ "", "10.0.0.1", false, false },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct sockaddr_storage ss = addr(rows[i].ip);
		struct conf_cidr c;
		char room[600];

		if (conf_net_cidr(inside(room, rows[i].cidr), &c) != rows[i].ok)
			fail_msg("%s", rows[i].cidr);
		if (rows[i].ok && conf_net_match(&c, (struct sockaddr *)&ss) != rows[i].match)
			fail_msg("%s %s", rows[i].cidr, rows[i].ip);
	}
}

static void
test_endpoints(void **state)
{
	static const struct {
		const char *text;
		char sep;
		bool ok;
	} rows[] = {
		{ "127.0.0.1:25", ':', true },
		{ "[::1]:65535", ':', true },
		{ "127.0.0.1@53", '@', true },
		{ "::1@53", '@', true },
		{ "127.0.0.1:0", ':', false },
		{ "127.0.0.1:65536", ':', false },
		{ "127.0.0.1", ':', false },
		{ "127.0.0.1:", ':', false },
		{ "::1:25", ':', false },
		{ "localhost:25", ':', false },
		{ "127.0.0.1:25x", ':', false },
		{ ":25", ':', false },
		{ "", ':', false },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct sockaddr_storage ss;
		socklen_t len;
		char room[600];

		if (conf_net_ip_port(inside(room, rows[i].text), rows[i].sep, &ss, &len) !=
		    rows[i].ok)
			fail_msg("%s", rows[i].text);
	}
}

static void
test_words(void **state)
{
	static const struct {
		bool (*fn)(struct slice s);
		const char *text;
		bool ok;
	} rows[] = {
		{ conf_words_host, "a.example", true },
		{ conf_words_host, "a-b_c.example", true },
		{ conf_words_host, "m\xc3\xbcnchen.example", true },
		{ conf_words_host, ".example", false },
		{ conf_words_host, "a..b", false },
		{ conf_words_host, "a b", false },
		{ conf_words_host, "", false },
		{ conf_words_name, "mta-1.a@b", true },
		{ conf_words_name, "a b", false },
		{ conf_words_name, "a/b", false },
		{ conf_words_name, "a*", false },
		{ conf_words_name, "{default}", false },
		{ conf_words_name, "", false },
		{ conf_words_address, "ops@example.com", true },
		{ conf_words_address, "ops", false },
		{ conf_words_address, "@example.com", false },
		{ conf_words_address, "a b@example.com", false },
		{ conf_words_address, "a@b@c", false },
		{ conf_words_smtp_hosts, "a.b:25,[192.0.2.1];[IPv6:::1]:2525", true },
		{ conf_words_smtp_hosts, "lookup-mx:a.b", true },
		{ conf_words_smtp_hosts, "a.b:0", false },
		{ conf_words_smtp_hosts, "a.b:65536", false },
		{ conf_words_smtp_hosts, "[192.0.2.1", false },
		{ conf_words_smtp_hosts, "[]", false },
		{ conf_words_smtp_hosts, "[", false },
		{ conf_words_smtp_hosts, "[192.0.2.1]25", false },
		{ conf_words_smtp_hosts, "a.b,,c.d", false },
		{ conf_words_smtp_hosts, "lookup-mx:", false },
		{ conf_words_smtp_hosts, "", false },
		{ conf_words_daily, "1/day,2/d", true },
		{ conf_words_daily, "1/h", false },
		{ conf_words_daily, "1", false },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		char room[600];

		if (rows[i].fn(inside(room, rows[i].text)) != rows[i].ok)
			fail_msg("%zu %s", i, rows[i].text);
	}
}

static void
test_actions(void **state)
{
	static const struct {
		const char *actions[4]; /* up to a NULL */
		const char *why;        /* part of the reason, NULL if they are fine */
		size_t at;
	} rows[] = {
		{ { "mode=backoff" }, NULL, 0 },
		{ { "mode=backoff", "backoff-to-normal-after=1h", "defer-queue" }, NULL, 0 },
		{ { "disable-source-ip, reenable-after=4h" }, NULL, 0 },
		{ { "disable-source-ip", "reenable-after=never" }, NULL, 0 },
		{ { "reduce-connections", "for=30m" }, NULL, 0 },
		{ { "reconnect", "retry-tls", "wait-reply" }, NULL, 0 },
		{ { "mode=backoff", "mode=normal" }, "exclude", 1 },
		{ { "bounce-queue", "skip-mx" }, "exclude", 1 },
		{ { "skip-mx", "skip-mx" }, "twice", 1 },
		{ { "reenable-after=4h" }, "only behind disable-source-ip", 0 },
		{ { "backoff-to-normal-after=4h", "mode=backoff" }, "only behind", 0 },
		{ { "for=1h" }, "only behind reduce-connections", 0 },
		{ { "mode=backof" }, "did you mean \"mode=backoff\"", 0 },
		{ { "skip-mx", "nonsense-of-mine" }, "unknown action", 1 },
		{ { "disable-source-ip", "reenable-after=4" }, "reenable-after wants an interval above 0", 1 },
		{ { "mode=backoff", "backoff-to-normal-after=0s" }, "backoff-to-normal-after wants an interval above 0", 1 },
		{ { "mode=backoff", "backoff-to-normal=1h" }, "did you mean", 1 },
		{ { "" }, "unknown action", 0 },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		char text[200];
		const char *why;
		size_t n = 0, at = 99;
		struct conf_actions got = { .set = 99 };

		while (n < 4 && rows[i].actions[n] != NULL)
			n++;
		why = conf_actions_parse(rows[i].actions, n, &got, &at, text, sizeof text);
		if ((why == NULL) != (rows[i].why == NULL) ||
		    (why != NULL && (strstr(why, rows[i].why) == NULL || at != rows[i].at)))
			fail_msg("%zu: %s", i, why ? why : "taken");
	}
}

static void
test_actions_parsed(void **state)
{
	static const char *const words[] = { "mode=backoff, backoff-to-normal-after=90m", "disable-source-ip",
					     "reenable-after=never", "reduce-connections,for=1d", "wait-reply" };
	struct conf_actions a;
	struct buf out = { 0 };
	char text[200];
	size_t at;

	(void)state;
	assert_null(conf_actions_parse(words, N_OF(words), &a, &at, text, sizeof text));
	assert_true(a.backoff_to_normal_after_us == 5400000000ull && a.reenable_after_us == CONF_NEVER);
	assert_true(a.for_us == 86400000000ull);
	conf_actions_put(&out, &a);
	buf_putc(&out, '\0');
	assert_string_equal(out.data,
			    "mode=backoff, backoff-to-normal-after=1h30m, disable-source-ip, reenable-after=never, "
			    "reduce-connections, for=1d, wait-reply");
	buf_clear(&out);
	assert_null(conf_actions_parse(NULL, 0, &a, &at, text, sizeof text));
	assert_int_equal(a.set, 0);
}

static void
test_recover(void **state)
{
	static const char *const bad[] = { "10% every 0s", "101% every 1m", "0% every 1m", "10%", " every 1m", "",
					   "10%,10% every 1m", "20%,10% every 1m", "10 every 1m", "AUTO", "10%, every 1m",
					   "10% every never" };
	struct conf_recover r;

	(void)state;
	assert_true(conf_recover_parse(SLICE_LIT("auto"), &r) && r.automatic && r.n == 0);
	assert_true(conf_recover_parse(SLICE_LIT("10%,25%, 50% every 10m"), &r) && !r.automatic && r.n == 3);
	assert_true(r.percent[0] == 10 && r.percent[2] == 50 && r.every_us == 600000000);
	for (size_t i = 0; i < N_OF(bad); i++) {
		if (conf_recover_parse(slice_str(bad[i]), &r))
			fail_msg("%s", bad[i]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_actions_parsed), cmocka_unit_test(test_recover),
		cmocka_unit_test(test_rates),     cmocka_unit_test(test_volumes),
		cmocka_unit_test(test_intervals), cmocka_unit_test(test_interval_lists),
		cmocka_unit_test(test_sizes),     cmocka_unit_test(test_cidrs),
		cmocka_unit_test(test_endpoints), cmocka_unit_test(test_words),
		cmocka_unit_test(test_actions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
