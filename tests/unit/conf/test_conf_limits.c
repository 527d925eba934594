/* Limits: who may use how much, which of several values holds, and where it was written. */
#include <arpa/inet.h>
#include <time.h>

#include "common/base/mem.h"
#include "common/conf/conf_net.h"
#include "common/conf/conf_value.h"
#include "tests/unit/conf/fixture.h"

#define S 1000000ull

/* "RATE CONNECT VOLUME OUT" */
static const char *
shown(const struct conf_limits *l)
{
	static char text[200];
	struct buf b = { 0 };

	conf_value_put_rate(&b, &l->max_msg_rate);
	buf_putc(&b, ' ');
	conf_value_put_rate(&b, &l->max_connect_rate);
	buf_putc(&b, ' ');
	conf_value_put_volume(&b, &l->max_data_volume_rate);
	buf_printf(&b, " %llu", (unsigned long long)l->max_smtp_out);
	str_copy(text, sizeof text, buf_slice(&b));
	buf_clear(&b);
	return text;
}

#define NOTHING "unlimited unlimited unlimited 0"

static void
expect(const struct conf_limits *l, const char *text)
{
	assert_non_null(l);
	assert_string_equal(shown(l), text);
}

/* Back-off ------------------------------------------------------------------------------------ */
static void
test_twins(void **state)
{
	static const char text[] = "domains = (\n"
				   " { name = \"a\"; max-msg-rate = \"10/h\"; max-connect-rate = "
				   "\"5/m\"; max-data-volume-rate = \"1m/h\";\n"
				   "   max-smtp-out = 7; retry-after = \"10m,59m,1h,90m\"; },\n"
				   " { name = \"b\"; max-msg-rate = \"10/h\"; backoff-max-msg-rate "
				   "= \"unlimited\"; max-smtp-out = 30; },\n"
				   " { name = \"c\"; backoff-max-msg-rate = \"1/h\"; "
				   "backoff-max-connect-rate = \"2/h\"; max-smtp-out = 30;\n"
				   "   backoff-max-data-volume-rate = \"3k/h\"; "
				   "backoff-max-smtp-out = 25; backoff-retry-after = \"5m\"; },\n"
				   " { name = \"*.d\"; backoff-max-msg-rate = \"1/h\"; }, { name = "
				   "\"e.d\"; max-msg-rate = \"9/h\"; } );\n";
	struct conf *c = parsed(text);
	struct conf_queue q = queue_of(c, "a/x");

	(void)state;
	expect(&q.backoff, "10/h 5/m 1m/h 7");
	assert_int_equal(q.backoff_retry_after.n, 4);
	assert_int_equal(q.backoff_retry_after.us[0], 3600 * S);
	assert_int_equal(q.backoff_retry_after.us[1], 3600 * S);
	assert_int_equal(q.backoff_retry_after.us[2], 3600 * S);
	assert_int_equal(q.backoff_retry_after.us[3], 5400 * S);
	assert_int_equal(q.retry_after.us[0], 600 * S);

	q = queue_of(c, "b/x"); /* what is said is said, also if it is faster */
	expect(&q.backoff, "unlimited unlimited unlimited 20");
	q = queue_of(c, "c/x");
	expect(&q.backoff, "1/h 2/h 3k/h 25");
	assert_int_equal(q.backoff_retry_after.n, 1);
	assert_int_equal(q.backoff_retry_after.us[0], 300 * S);
	q = queue_of(c, "e.d/x"); /* each directive by itself */
	expect(&q.backoff, "1/h unlimited unlimited 20");
	q = queue_of(c, "z/x");
	expect(&q.backoff, "unlimited unlimited unlimited 20");
	conf_free(&c);
}

static void
test_queue_values(void **state)
{
	struct conf *c = parsed("domains = ( { name = \"a\"; max-data-volume-rate = \"5m/10m\"; "
				"smtp-out-rampup-interval = "
				"\"3s\"; max-errors-per-connection = 4; queue-priority = 90; "
				"allow-priority-interruption = "
				"false; allow-priority-interruption-during-transfer = true; } );");
	struct conf_queue q = queue_of(c, "a/x");

	(void)state;
	assert_int_equal(q.max_data_volume_rate.n, 5 << 20);
	assert_int_equal(q.max_data_volume_rate.window_us, 600 * S);
	assert_int_equal(q.smtp_out_rampup_interval_us, 3 * S);
	assert_int_equal(q.max_errors_per_connection, 4);
	assert_int_equal(q.queue_priority, 90);
	assert_false(q.allow_priority_interruption);
	assert_true(q.allow_priority_interruption_during_transfer);
	q = queue_of(c, "b/x");
	assert_int_equal(q.max_data_volume_rate.n, 0);
	assert_int_equal(q.smtp_out_rampup_interval_us, 0);
	assert_true(q.max_errors_per_connection == CONF_UNLIMITED);
	assert_int_equal(q.queue_priority, 50);
	assert_true(q.allow_priority_interruption);
	assert_false(q.allow_priority_interruption_during_transfer);
	assert_false(q.source_limits);
	conf_free(&c);
}

/* Scopes -------------------------------------------------------------------------------------- */
static const char scopes[] =
	"providers = ( { name = \"Google\"; mx = [ \"*.Google.com\", \"gmail-smtp-in.l.test\" ]; "
	"max-msg-rate = \"1/s\"; },\n"
	"  { name = \"both\"; mx = [ \"*.google.com\", \"*.test\" ]; max-smtp-out = 3; },\n"
	"  { name = \"rest\"; mx = \"*\"; } );\n"
	"jobs = ( { name = \"News 1\"; max-msg-rate = \"2/s\"; max-data-volume-rate = \"1g/d\"; } "
	");\n"
	"senders = ( { name = \"news.example\"; max-connect-rate = \"3/s\"; } );\n"
	"mx-connection-limit = [\n\"*.google.com 10\",\n\"*.l.google.com 20\", "
	"\"aspmx.l.google.com 30\",\n\"*.free.test unlimited\", \"* 5\" ];\n"
	"ip-connection-limit = [ \"0.0.0.0/0 9\", \"198.51.100.0/24 8\",\n\"198.51.100.7 7\", "
	"\"198.51.100.8 unlimited\", "
	"\"2001:db8::/32 6\" ];\n"
	"virtual-mtas = ( { name = \"v1\"; max-smtp-out = 11; }, { name = \"v2\"; "
	"max-smtp-msg-rate = \"12/s\"; },\n"
	"  { name = \"v3\"; max-smtp-msg-rate = \"unlimited\"; }, { name = \"v4\"; } );\n"
	"virtual-mta-pools = ( { name = \"p\"; virtual-mtas = [ \"v1\", \"v2\", \"v3\" ]; "
	"max-smtp-out = 21;\n"
	"  max-smtp-msg-rate = \"22/s\"; max-smtp-data-volume-rate = \"23m/h\"; } );\n";

static void
test_providers(void **state)
{
	static const struct {
		const char *mx; /* with commas */
		int provider;
	} rows[] = {
		{ "aspmx.l.google.com", 0 },
		{ "ASPMX.L.GOOGLE.COM", 0 },
		{ "a.google.com,gmail-smtp-in.l.test", 0 },
		{ "a.google.com,other.l.test", 1 }, /* all of them, by one provider */
		{ "google.com", 2 },                /* not below it */
		{ "xgoogle.com", 2 },
		{ "a.google.com,b.example", 2 },
	};
	const struct conf_provider *p;
	struct conf *c = parsed(scopes);

	(void)state;
	assert_int_equal(conf_providers(c, &p), 3);
	assert_string_equal(p[0].name, "Google");
	expect(&p[0].limits, "1/s unlimited unlimited 0");
	expect(&p[1].limits, "unlimited unlimited unlimited 3");
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct slice rest = slice_str(rows[i].mx), mx[4];
		size_t n = 0;

		while (rest.p != NULL)
			mx[n++] = slice_cut(&rest, ',');
		if (conf_provider_find(c, mx, n) != rows[i].provider)
			fail_msg("%s: %d", rows[i].mx, conf_provider_find(c, mx, n));
	}
	assert_int_equal(conf_provider_find(c, NULL, 0), -1);
	conf_free(&c);
	c = parsed("providers = ( { name = \"g\"; mx = \"a.b\"; } );");
	assert_int_equal(conf_provider_find(c, &SLICE_LIT("b.a"), 1), -1);
	conf_free(&c);
}

static void
test_jobs_and_senders(void **state)
{
	struct conf *c = parsed(scopes);

	(void)state;
	expect(conf_job_limits(c, SLICE_LIT("news 1")), "2/s unlimited 1g/d 0");
	assert_null(
		conf_job_limits(c, SLICE_LIT("news.example"))); /* each list has names of its own */
	assert_null(conf_job_limits(c, SLICE_LIT("v1")));
	assert_null(conf_job_limits(c, SLICE_NONE));
	expect(conf_sender_limits(c, SLICE_LIT("NEWS.example")), "unlimited 3/s unlimited 0");
	assert_null(conf_sender_limits(c, SLICE_LIT("a.news.example")));
	conf_free(&c);
}

static void
test_vmta_limits(void **state)
{
	static const struct {
		const char *vmta, *limits;
	} rows[] = {
		{ "{default}", NOTHING },
		{ "v1", "22/s unlimited 23m/h 11" },
		{ "v2", "12/s unlimited 23m/h 21" },
		{ "v3", "unlimited unlimited 23m/h 21" },
		{ "v4", NOTHING },
	};
	struct conf *c = parsed(scopes);
	const struct conf_vmta *v;

	(void)state;
	conf_vmtas(c, &v);
	for (size_t i = 0; i < N_OF(rows); i++)
		expect(&v[conf_vmta_find(c, slice_str(rows[i].vmta))].limits, rows[i].limits);
	conf_free(&c);
}

static uint64_t
ip_limit(const struct conf *c, const char *ip)
{
	struct sockaddr_storage ss;
	socklen_t len;

	assert_true(conf_net_ip(slice_str(ip), &ss, &len));
	return conf_ip_connection_limit(c, (struct sockaddr *)&ss);
}

static void
test_connection_limits(void **state)
{
	struct conf *c = parsed(scopes), *none = parsed("");

	(void)state;
	assert_int_equal(conf_mx_connection_limit(c, SLICE_LIT("aspmx.l.google.com")), 30);
	assert_int_equal(conf_mx_connection_limit(c, SLICE_LIT("ALT1.L.google.com")), 20);
	assert_int_equal(conf_mx_connection_limit(c, SLICE_LIT("x.google.com")), 10);
	assert_int_equal(conf_mx_connection_limit(c, SLICE_LIT("google.com")), 5);
	assert_true(conf_mx_connection_limit(c, SLICE_LIT("mx.free.test")) == CONF_UNLIMITED);
	assert_true(conf_mx_connection_limit(none, SLICE_LIT("mx.free.test")) == CONF_UNLIMITED);
	assert_int_equal(ip_limit(c, "198.51.100.7"), 7);
	assert_int_equal(ip_limit(c, "::ffff:198.51.100.7"), 7);
	assert_true(ip_limit(c, "198.51.100.8") == CONF_UNLIMITED);
	assert_int_equal(ip_limit(c, "198.51.100.9"), 8);
	assert_int_equal(ip_limit(c, "198.51.101.1"), 9);
	assert_int_equal(ip_limit(c, "2001:db8::1"), 6);
	assert_true(ip_limit(c, "2001:db9::1") == CONF_UNLIMITED);
	assert_true(ip_limit(none, "198.51.100.7") == CONF_UNLIMITED);
	conf_free(&c);
	conf_free(&none);
}

static void
test_source_ips(void **state)
{
	static const char text[] =
		"smtp-source-hosts = ( { ip = \"192.0.2.1\"; max-msg-rate = \"60/m\"; } );\n"
		"virtual-mtas = ( { name = \"a\"; smtp-source-hosts = ( { ip = \"192.0.2.2\"; "
		"max-smtp-out = 4; },\n"
		"    { ip = \"192.0.2.3\"; } ); },\n"
		"  { name = \"b\"; smtp-source-hosts = (\n{ ip = \"192.0.2.1\"; max-msg-rate = "
		"\"60/1m\"; max-connect-rate = "
		"\"1/s\"; },\n    { ip = \"192.0.2.3\";\nmax-smtp-out = 9; } ); } );\n";
	static const char *const limits[] = { NOTHING, "60/m 1/s unlimited 0",
					      "unlimited unlimited unlimited 4",
					      "unlimited unlimited unlimited 9" };
	struct conf *c = parsed(text);
	const struct conf_source_ip *ips;

	(void)state;
	assert_int_equal(conf_source_ips(c, &ips), 4);
	for (size_t i = 0; i < N_OF(limits); i++)
		expect(&ips[i].limits, limits[i]);
	conf_free(&c);
}

/* Queue × source IP --------------------------------------------------------------------------- */
static const char per_source[] =
	"smtp-source-hosts = ( { ip = \"192.0.2.1\"; }, { ip = \"192.0.2.2\"; }, { ip = "
	"\"192.0.3.1\"; },\n"
	"  { ip = \"198.51.100.1\"; }, { ip = \"2001:db8::1\"; } );\n"
	"virtual-mtas = ( { name = \"v\"; domains = (\n"
	"    { name = \"*\"; source-ip-max-msg-rate = \"192.0.2.0/24 30/h\"; },\n"
	"    { name = \"w.test\"; source-ip-max-msg-rate = \"192.0.2.2/32 33/h\"; } ); },\n"
	"  { name = \"w\"; }, { name = \"u\"; } );\n"
	"virtual-mta-pools = ( { name = \"p\"; virtual-mtas = [ \"v\", \"w\" ]; domains = (\n"
	"    { name = \"*\"; source-ip-max-smtp-out = \"192.0.0.0/16 3\"; } ); } );\n"
	"domains = (\n"
	"    { name = \"*\"; source-ip-max-msg-rate = [\n\"0/0 10/h\",\n\"192.0.2.0/24 "
	"20/h\",\n\"192.0.2.1 21/h\" ];\n"
	"      source-ip-max-connect-rate = \"0.0.0.0/0 5/m\"; source-ip-max-data-volume-rate = "
	"\"::/0 1m/h\";\n"
	"      source-ip-max-smtp-out = \"198.51.100.1 2\";\nbackoff-source-ip-max-msg-rate = "
	"\"192.0.2.1 1/h\"; },\n"
	"    { name = \"free.test\"; source-ip-max-msg-rate = \"0/0 unlimited\"; "
	"backoff-source-ip-max-connect-rate = \"0/0 0\"; } );\n";

static void
test_per_source(void **state)
{
	static const struct {
		const char *queue;
		unsigned source;
		bool backoff;
		const char *limits;
	} rows[] = {
		/* the most specific CIDR */
		{ "a.test/u", 1, false, "21/h 5/m unlimited 0" },
		{ "a.test/u", 2, false, "20/h 5/m unlimited 0" },
		{ "a.test/u", 3, false, "10/h 5/m unlimited 0" },
		{ "a.test/u", 4, false, "10/h 5/m unlimited 2" },
		{ "a.test/u", 5, false, "10/h unlimited 1m/h 0" },
		/* the kernel's choice is any address */
		{ "a.test/u", 0, false, "10/h 5/m 1m/h 0" },
		{ "a.test/none", 1, false, "21/h 5/m unlimited 0" },
		/* a virtual MTA's wide CIDR beats a narrow one of the global scope; what it does
		   not name is global */
		{ "a.test/v", 1, false, "30/h 5/m unlimited 3" },
		{ "a.test/v", 3, false, "10/h 5/m unlimited 3" },
		{ "w.test/v", 2, false, "33/h 5/m unlimited 3" },
		{ "w.test/v", 1, false, "30/h 5/m unlimited 3" },
		{ "a.test/w", 2, false, "20/h 5/m unlimited 3" },
		{ "a.test/w", 4, false, "10/h 5/m unlimited 2" },
		/* a narrower name with a wider CIDR; unlimited is a value */
		{ "free.test/u", 1, false, "unlimited 5/m unlimited 0" },
		/* back-off: the twin, by address; else the normal value */
		{ "a.test/u", 1, true, "1/h 5/m unlimited 0" },
		{ "a.test/u", 2, true, "20/h 5/m unlimited 0" },
		{ "free.test/u", 2, true, "unlimited unlimited unlimited 0" },
	};
	struct conf *c = parsed(per_source), *none = parsed("domains = ( { name = \"*\"; } );");
	struct conf_limits l;

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct slice vmta = slice_str(rows[i].queue), domain = slice_cut(&vmta, '/');

		conf_queue_source(c, domain, vmta, rows[i].source, rows[i].backoff, &l);
		if (strcmp(shown(&l), rows[i].limits) != 0)
			fail_msg("%s from %u: %s", rows[i].queue, rows[i].source, shown(&l));
		assert_true(queue_of(c, rows[i].queue).source_limits);
	}
	conf_queue_source(none, SLICE_LIT("a.test"), SLICE_LIT("u"), 0, false, &l);
	expect(&l, NOTHING);
	assert_false(queue_of(none, "a.test/u").source_limits);
	conf_free(&c);
	conf_free(&none);
}

static void
test_one_cidr_twice(void **state)
{
	struct conf *c =
		parsed("ip-connection-limit = [ \"10.1/16 5\", \"10.1.0.0/16 6\", \"10/8 7\" ];\n"
		       "mx-connection-limit = [ \"a.B 1\", \"A.b 2\", \"*.a.b 3\" ];\n"
		       "domains = ( { name = \"*\"; max-smtp-out-per-source-ip = 8; } );");
	struct conf_limits l;

	(void)state;
	assert_int_equal(ip_limit(c, "10.1.2.3"), 6);
	assert_int_equal(ip_limit(c, "10.2.2.3"), 7);
	assert_int_equal(conf_mx_connection_limit(c, SLICE_LIT("a.b")), 2);
	assert_int_equal(conf_mx_connection_limit(c, SLICE_LIT("x.a.b")), 3);
	conf_queue_source(c, SLICE_LIT("a"), SLICE_LIT("v"), 0, false, &l); /* an old spelling */
	expect(&l, "unlimited unlimited unlimited 8");
	conf_free(&c);
}

/* Many CIDRs, of several lengths and families: as the plain search through the list. */
static void
test_many_cidrs(void **state)
{
	struct buf text = { 0 };
	struct conf *c;

	(void)state;
	buf_puts(&text, "ip-connection-limit = [ \"10.0.0.0/8 1\"");
	for (unsigned i = 0; i < 1000; i++)
		buf_printf(&text, ",\n\"10.%u.%u.0/24 %u\", \"10.%u.%u.7 %u\"", i / 250, i % 250,
			   2 + i, i / 250, i % 250, 2002 + i);
	buf_puts(&text, " ];");
	buf_putc(&text, '\0');
	c = parsed(text.data);
	for (unsigned i = 0; i < 1000; i++) {
		char ip[40];

		snprintf(ip, sizeof ip, "10.%u.%u.6", i / 250, i % 250);
		assert_int_equal(ip_limit(c, ip), 2 + i);
		snprintf(ip, sizeof ip, "10.%u.%u.7", i / 250, i % 250);
		assert_int_equal(ip_limit(c, ip), 2002 + i);
	}
	assert_int_equal(ip_limit(c, "10.200.0.1"), 1);
	assert_true(ip_limit(c, "11.0.0.1") == CONF_UNLIMITED);
	conf_free(&c);
	buf_clear(&text);
}

/* 100,000 queues, 20 source IPs. */
static void
test_many_queues(void **state)
{
	struct timespec a, b;
	struct conf *c = parsed(per_source);
	struct conf_limits l;
	double seconds;

	(void)state;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	for (unsigned i = 0; i < 100000; i++) {
		char name[40];
		struct slice domain =
			slice_of(name, (size_t)snprintf(name, sizeof name, "d%u.sub.test", i));

		for (unsigned k = 0; k < 20; k++)
			conf_queue_source(c, domain, SLICE_LIT("v"), k % 6, k % 2, &l);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("%.2f us each\n", seconds / 2);
	assert_true(seconds < 20); /* under a sanitizer */
	conf_free(&c);
}

/* Places -------------------------------------------------------------------------------------- */
static void
test_places(void **state)
{
	static const struct {
		const char *text, *scope, *name, *of, *directive, *value; /* NULL: not set */
		unsigned line;
	} rows[] = {
		{ scopes, "provider", "google", "", "max-msg-rate", "1/s", 1 },
		{ scopes, "provider", "both", "", "max-smtp-out", "3", 2 },
		{ scopes, "provider", "google", "", "max-smtp-out", NULL, 0 },
		{ scopes, "provider", "nobody", "", "max-smtp-out", NULL, 0 },
		{ scopes, "provider", "google", "", "nonsense", NULL, 0 },
		{ scopes, "nonsense", "google", "", "max-msg-rate", NULL, 0 },
		{ scopes, "job", "NEWS 1", "", "max-data-volume-rate", "1g/d", 4 },
		{ scopes, "sender", "news.example", "", "max-connect-rate", "3/s", 5 },
		{ scopes, "virtual-mta", "v1", "", "max-smtp-out", "11", 12 },
		{ scopes, "virtual-mta", "v2", "", "max-smtp-out", "21", 14 },
		{ scopes, "virtual-mta", "v2", "", "max-smtp-msg-rate", "12/s", 12 },
		{ scopes, "virtual-mta", "v1", "", "max-smtp-data-volume-rate", "23m/h", 15 },
		{ scopes, "virtual-mta", "v4", "", "max-smtp-out", NULL, 0 },
		{ scopes, "mx", "alt.l.google.com", "", "mx-connection-limit", "*.l.google.com 20",
		  8 },
		{ scopes, "destination", "198.51.100.7", "", "ip-connection-limit",
		  "198.51.100.7 7", 11 },
		{ per_source, "queue-source-ip", "a.test/u", "192.0.2.1", "source-ip-max-msg-rate",
		  "192.0.2.1 21/h", 13 },
		{ per_source, "queue-source-ip", "a.test/u", "192.0.2.2", "source-ip-max-msg-rate",
		  "192.0.2.0/24 20/h", 12 },
		{ per_source, "queue-source-ip", "a.test/v", "192.0.2.2", "source-ip-max-msg-rate",
		  "192.0.2.0/24 30/h", 4 },
		{ per_source, "queue-source-ip", "a.test/u", "192.0.2.1",
		  "backoff-source-ip-max-msg-rate", "192.0.2.1 1/h", 16 },
		{ per_source, "queue-source-ip", "a.test/u", "192.0.2.2",
		  "backoff-source-ip-max-msg-rate", "192.0.2.0/24 20/h", 12 },
		{ per_source, "queue-source-ip", "a.test/u", "", "source-ip-max-msg-rate",
		  "0/0 10/h", 11 },
		{ per_source, "queue-source-ip", "a.test/u", "192.0.2.1", "source-ip-max-smtp-out",
		  NULL, 0 },
		{ per_source, "queue-source-ip", "a.test/u", "nonsense", "source-ip-max-smtp-out",
		  NULL, 0 },
	};

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf *c = parsed(rows[i].text);
		struct conf_setting s = { NULL, NULL, 0 };
		bool is = conf_limit_find(c, rows[i].scope, slice_str(rows[i].name),
					  slice_str(rows[i].of), rows[i].directive, &s);

		if (is != (rows[i].value != NULL) ||
		    (is && (strcmp(s.value, rows[i].value) != 0 || s.line != rows[i].line ||
			    strcmp(s.file, "f") != 0)))
			fail_msg("row %zu, %s: %s in line %u", i, rows[i].directive, s.value,
				 s.line);
		conf_free(&c);
	}
}

static void
test_source_places(void **state)
{
	struct conf *c = parsed(
		"smtp-source-hosts = ( { ip = \"192.0.2.1\"; } );\n"
		"virtual-mtas = ( { name = \"a\"; smtp-source-hosts = ( { ip = \"192.0.2.1\";\n"
		"max-msg-rate = \"5/h\"; } ); } );");
	struct conf_setting s;

	(void)state;
	assert_true(conf_limit_find(c, "source-ip", SLICE_LIT("192.0.2.1"), SLICE_NONE,
				    "max-msg-rate", &s));
	assert_string_equal(s.value, "5/h");
	assert_int_equal(s.line, 3);
	assert_false(conf_limit_find(c, "source-ip", SLICE_LIT("192.0.2.1"), SLICE_NONE,
				     "max-smtp-out", &s));
	assert_false(conf_limit_find(c, "source-ip", SLICE_LIT("192.0.2.9"), SLICE_NONE,
				     "max-msg-rate", &s));
	conf_free(&c);
}

/* show settings ------------------------------------------------------------------------------- */
static void
expect_shown(const char *all, const char *part)
{
	if (strstr(all, part) == NULL)
		fail_msg("no %s in %s", part, all);
}

static void
test_shown(void **state)
{
	static const char text[] = "virtual-mtas = ( { name = \"v\"; domains = ( { name = \"*\"; "
				   "source-ip-max-msg-rate = \"10/8 5/h\"; } ); } );\n"
				   "domains = ( { name = \"*\"; source-ip-max-msg-rate = [ \"0/0 "
				   "60/1m\", \"10.1/16 7/h\" ];\n"
				   "max-msg-rate = \"9/h\"; max-smtp-out = 3; retry-after = "
				   "\"10m,2h\"; max-data-volume-rate = \"1m/d\"; } );\n";
	struct conf *c = parsed(text);
	struct buf out = { 0 };
	struct conf_setting s;
	struct json j;

	(void)state;
	json_init(&j, &out);
	conf_show_settings(c, SLICE_LIT("a.b"), SLICE_LIT("v"), &j);
	buf_putc(&out, '\0');
	/* per CIDR: each block that has a say, the strongest last */
	expect_shown(out.data, "{\"name\":\"source-ip-max-msg-rate\",\"value\":\"0/0 60/1m, "
			       "10.1/16 7/h\",\"file\":\"f\","
			       "\"line\":2,\"scope\":\"global\",\"scopeName\":null,\"domain\":\"*"
			       "\",\"supported\":true,\"origin\":null},"
			       "{\"name\":\"source-ip-max-msg-rate\",\"value\":\"10/8 "
			       "5/h\",\"file\":\"f\",\"line\":1,"
			       "\"scope\":\"virtual-mta\",\"scopeName\":\"v\"");
	expect_shown(out.data,
		     "{\"name\":\"backoff-source-ip-max-msg-rate\",\"value\":null,\"file\":null");
	/* what back-off makes of it */
	expect_shown(out.data, "\"backoff-max-msg-rate\",\"value\":\"9/"
			       "h\",\"file\":null,\"line\":null,\"scope\":\"default\"");
	expect_shown(out.data, "\"backoff-max-connect-rate\",\"value\":\"unlimited\"");
	expect_shown(out.data, "\"backoff-max-data-volume-rate\",\"value\":\"1m/d\"");
	expect_shown(out.data, "\"backoff-max-smtp-out\",\"value\":\"3\"");
	expect_shown(out.data, "\"backoff-retry-after\",\"value\":\"1h,2h\"");
	buf_clear(&out);
	assert_true(
		conf_setting_find(c, SLICE_LIT("a.b"), SLICE_LIT("v"), "backoff-max-msg-rate", &s));
	assert_string_equal(s.value, "9/h");
	assert_int_equal(s.line, 3);
	conf_free(&c);
}

/* Of whatever object, given for all or per CIDR, and of an override. */
static void
test_longest_window(void **state)
{
	static const struct {
		const char *text;
		uint64_t s;
	} rows[] = {
		{ "", 0 },
		{ "domains = ( { name = \"a.b\"; max-msg-rate = \"5/10m\"; } );\n", 600 },
		{ "domains = ( { name = \"a.b\"; max-msg-rate = \"5/10m\"; "
		  "backoff-max-msg-rate = \"1/10m\"; max-connect-rate = \"1/2h\"; } );\n",
		  7200 },
		{ "domains = ( { name = \"*\"; max-msg-rate = \"5/10m\";\n"
		  "source-ip-max-msg-rate = [ \"192.0.2.0/24 9/7d\", \"0/0 9/h\" ]; } );\n",
		  7 * 86400 },
		{ scopes, 86400 },
	};
	struct conf_override *o;
	struct buf why = { 0 };

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf *c = parsed(rows[i].text);

		assert_int_equal(conf_longest_window(c), rows[i].s * S);
		conf_free(&c);
	}
	o = conf_override_new(CONF_OVER_JOB, SLICE_LIT("max-msg-rate"), SLICE_LIT("5/3d"), &why);
	assert_int_equal(conf_override_window(o), 3 * 86400 * S);
	conf_override_free(&o);
	o = conf_override_new(CONF_OVER_QUEUE, SLICE_LIT("source-ip-max-connect-rate"),
			      SLICE_LIT("192.0.2.1 5/h, 0/0\t1/2h"), &why);
	assert_int_equal(conf_override_window(o), 7200 * S);
	conf_override_free(&o);
	buf_clear(&why);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_twins),          cmocka_unit_test(test_queue_values),
		cmocka_unit_test(test_providers),      cmocka_unit_test(test_jobs_and_senders),
		cmocka_unit_test(test_vmta_limits),    cmocka_unit_test(test_connection_limits),
		cmocka_unit_test(test_source_ips),     cmocka_unit_test(test_per_source),
		cmocka_unit_test(test_one_cidr_twice), cmocka_unit_test(test_many_cidrs),
		cmocka_unit_test(test_many_queues),    cmocka_unit_test(test_places),
		cmocka_unit_test(test_source_places),  cmocka_unit_test(test_shown),
		cmocka_unit_test(test_longest_window),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
