/* What operators set over the file: read by its rules, over all that it says, and shown as theirs.
 */
#include "common/conf/conf_value.h"
#include "tests/unit/conf/fixture.h"

#define HOUR (3600ull * 1000000)

static const char text[] =
	"smtp-source-hosts = ( { ip = \"192.0.2.10\"; }, { ip = \"192.0.2.11\"; max-msg-rate = "
	"\"9/m\"; } );\n"
	"virtual-mtas = ( { name = \"v\"; smtp-source-hosts = ( { ip = \"192.0.2.10\"; } ); } );\n"
	"domains = ( { name = \"a\"; max-msg-rate = \"10/h\"; source-ip-max-msg-rate = \"0/0 "
	"500/h\";\n"
	"              max-smtp-out = 7; } );\n";

static struct conf_override *
made(enum conf_override_scope scope, const char *name, const char *value)
{
	struct buf why = { 0 };
	struct conf_override *o = conf_override_new(scope, slice_str(name), slice_str(value), &why);

	if (o == NULL)
		fail_msg("%s=%s: %.*s", name, value, (int)why.len, buf_slice(&why).p);
	buf_clear(&why);
	return o;
}

static void
test_refused(void **state)
{
	// clang-format off
	static const struct { enum conf_override_scope scope; const char *name, *value, *why; } rows[] = {
		{ CONF_OVER_QUEUE, "max-mgs-rate", "1/h", "max-mgs-rate is no limit of a queue; there are max-smtp-out, " },
		{ CONF_OVER_QUEUE, "retry-after", "10m", "retry-after is no limit of a queue" },
		{ CONF_OVER_QUEUE, "max-cold-virtual-mta-msg", "10/day", "is no limit" },
		{ CONF_OVER_QUEUE, "", "1/h", " is no limit" },
		{ CONF_OVER_QUEUE, "max-msg-rate", "", "a value" },
		{ CONF_OVER_QUEUE, "max-msg-rate", "100", "max-msg-rate: bad rate \"100\"; write a string such as" },
		{ CONF_OVER_QUEUE, "max-msg-rate", "1/fortnight", "max-msg-rate: bad rate" },
		{ CONF_OVER_QUEUE, "max-smtp-out", "0", "max-smtp-out: 0 is out of range 1..20000" },
		{ CONF_OVER_QUEUE, "max-smtp-out", "20001", "out of range 1..20000" },
		{ CONF_OVER_QUEUE, "max-smtp-out", "-3", "out of range" },
		{ CONF_OVER_QUEUE, "max-smtp-out", "many", "where an integer is expected" },
		{ CONF_OVER_QUEUE, "max-smtp-out", "1234567890123456789012", "where an integer" },
		{ CONF_OVER_QUEUE, "source-ip-max-msg-rate", "500/h", "bad rate per CIDR \"500/h\"" },
		{ CONF_OVER_QUEUE, "source-ip-max-msg-rate", "0/0 500/h,", "bad rate per CIDR" },
		{ CONF_OVER_QUEUE, "source-ip-max-smtp-out", "0/0 0", "bad count per CIDR" },
		{ CONF_OVER_SOURCE_IP, "max-data-volume-rate", "1m/h", "no limit of a source-ip; there are max-msg-rate, max-connect-rate, max-smtp-out" },
		{ CONF_OVER_VMTA, "max-msg-rate", "1/h", "no limit of a virtual-mta; there are max-smtp-out, max-smtp-msg-rate" },
		{ CONF_OVER_PROVIDER, "mx", "a", "no limit of a provider" },
	};
	// clang-format on

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct buf why = { 0 };
		struct conf_override *o = conf_override_new(rows[i].scope, slice_str(rows[i].name),
							    slice_str(rows[i].value), &why);

		assert_null(o);
		buf_putc(&why, '\0');
		if (strstr(buf_slice(&why).p, rows[i].why) == NULL ||
		    strchr(buf_slice(&why).p, '\n') != NULL)
			fail_msg("%s=%s: %s", rows[i].name, rows[i].value, buf_slice(&why).p);
		buf_clear(&why);
	}
}

static void
test_queue(void **state)
{
	struct conf *c = parsed(text);
	struct conf_override *a = made(CONF_OVER_QUEUE, "max-msg-rate", "3/h"),
			     *b = made(CONF_OVER_QUEUE, "max-msg-rate", "5/2h"),
			     *out = made(CONF_OVER_QUEUE, "max-smtp-out", "3"),
			     *twin = made(CONF_OVER_QUEUE, "backoff-max-connect-rate", "1/h");
	struct conf_over v[] = { { a, "" }, { b, "" }, { out, "" }, { twin, "" } };
	struct conf_queue q;

	(void)state;
	conf_queue_over(c, SLICE_LIT("a"), SLICE_LIT("v"), (struct conf_overs){ v, 1 }, &q);
	assert_int_equal(q.max_msg_rate.n, 3);
	/* Back-off is never faster than what the operator allows. */
	assert_int_equal(q.backoff.max_msg_rate.n, 3);
	assert_int_equal(q.max_smtp_out, 7);
	conf_queue_over(c, SLICE_LIT("a"), SLICE_LIT("v"), (struct conf_overs){ v, 4 }, &q);
	assert_int_equal(q.max_msg_rate.n, 5);
	assert_int_equal(q.max_msg_rate.window_us, 2 * HOUR);
	assert_int_equal(q.max_smtp_out, 3);
	assert_int_equal(q.backoff.max_smtp_out, 3);
	assert_int_equal(q.max_connect_rate.n, 0);
	assert_int_equal(q.backoff.max_connect_rate.n, 1);
	conf_queue(c, SLICE_LIT("a"), SLICE_LIT("v"), &q);
	assert_int_equal(q.max_msg_rate.n, 10);
	for (size_t i = 0; i < N_OF(v); i++)
		conf_override_free((struct conf_override **)(uintptr_t)&v[i].override);
	conf_free(&c);
}

static void
test_queue_source(void **state)
{
	struct conf *c = parsed(text);
	struct conf_override *o = made(CONF_OVER_QUEUE, "source-ip-max-msg-rate",
				       "192.0.2.11 50/h, 10/8 1/h"),
			     *twin = made(CONF_OVER_QUEUE, "backoff-source-ip-max-smtp-out",
					  "0/0 2");
	struct conf_over v[] = { { o, "" }, { twin, "" } };
	struct conf_overs both = { v, 2 };
	const struct conf_source_ip *ips;
	struct conf_limits l;
	struct conf_queue q;

	(void)state;
	assert_int_equal(conf_source_ips(c, &ips), 3);
	assert_true(conf_override_is_per_source(o));
	assert_false(conf_override_decides(o, &ips[1]));
	assert_true(conf_override_decides(o, &ips[2]));
	conf_queue_source_over(c, SLICE_LIT("a"), SLICE_LIT("v"), 1, false, both, &l);
	assert_int_equal(l.max_msg_rate.n, 500); /* the file's, where the operator said nothing */
	assert_int_equal(l.max_smtp_out, 0);
	conf_queue_source_over(c, SLICE_LIT("a"), SLICE_LIT("v"), 2, false, both, &l);
	assert_int_equal(l.max_msg_rate.n, 50);
	conf_queue_source_over(c, SLICE_LIT("a"), SLICE_LIT("v"), 2, true, both, &l);
	assert_int_equal(l.max_msg_rate.n, 50);
	assert_int_equal(l.max_smtp_out, 2);
	/* A queue of which the file says nothing. */
	conf_queue_over(c, SLICE_LIT("b"), SLICE_LIT("v"), both, &q);
	assert_true(q.source_limits);
	conf_queue_source_over(c, SLICE_LIT("b"), SLICE_LIT("v"), 2, false, both, &l);
	assert_int_equal(l.max_msg_rate.n, 50);
	conf_override_free(&o);
	conf_override_free(&twin);
	conf_free(&c);
}

static void
test_scopes(void **state)
{
	struct conf_override *ip = made(CONF_OVER_SOURCE_IP, "max-msg-rate", "100/h"),
			     *vmta = made(CONF_OVER_VMTA, "max-smtp-data-volume-rate", "2k/m"),
			     *job = made(CONF_OVER_JOB, "max-smtp-out", "4");
	struct conf_limits l = { .max_connect_rate = { 7, HOUR } };

	(void)state;
	conf_override_apply(ip, &l);
	conf_override_apply(vmta, &l);
	conf_override_apply(job, &l);
	assert_int_equal(l.max_msg_rate.n, 100);
	assert_int_equal(l.max_msg_rate.window_us, HOUR);
	assert_int_equal(l.max_connect_rate.n, 7);
	assert_int_equal(l.max_data_volume_rate.n, 2048);
	assert_int_equal(l.max_smtp_out, 4);
	conf_override_free(&ip);
	conf_override_free(&vmta);
	conf_override_free(&job);
}

static void
test_shown(void **state)
{
	struct conf *c = parsed(text);
	struct conf_override *o = made(CONF_OVER_QUEUE, "max-msg-rate", "3/h"),
			     *per = made(CONF_OVER_QUEUE, "source-ip-max-msg-rate",
					 "192.0.2.11 50/h");
	struct conf_over v[] = { { o, "set by operator until 2026-11-22T03:00:00Z" },
				 { per, "set by operator" } };
	struct buf out = { 0 };
	struct json j;

	(void)state;
	json_init(&j, &out);
	conf_show_settings_over(c, SLICE_LIT("a"), SLICE_LIT("v"), (struct conf_overs){ v, 2 }, &j);
	buf_putc(&out, '\0');
	assert_non_null(
		strstr(buf_slice(&out).p,
		       "\"name\":\"max-msg-rate\",\"value\":\"3/h\",\"file\":null,\"line\":null,"
		       "\"scope\":\"operator\",\"scopeName\":null,\"domain\":null,\"supported\":true,\"origin\":\"set by operator until 2026"));
	assert_null(strstr(buf_slice(&out).p, "\"10/h\""));
	assert_non_null(strstr(buf_slice(&out).p, "\"192.0.2.11 50/h\""));
	assert_non_null(strstr(buf_slice(&out).p, "\"0/0 500/h\"")); /* for the other addresses */
	/* What back-off takes over is the operator's too. */
	assert_non_null(
		strstr(buf_slice(&out).p, "\"name\":\"backoff-max-msg-rate\",\"value\":\"3/h\""));
	buf_clear(&out);
	conf_override_free(&o);
	conf_override_free(&per);
	conf_free(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),      cmocka_unit_test(test_queue),
		cmocka_unit_test(test_queue_source), cmocka_unit_test(test_scopes),
		cmocka_unit_test(test_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
