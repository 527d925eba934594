/* What a file means: which value wins, defaults, clients, virtual MTAs, and where values came from.
 */
#include <arpa/inet.h>
#include <time.h>

#include "common/conf/conf_value.h"
#include "tests/unit/conf/fixture.h"

#define S 1000000ull

/* The port names the winner. */
static const char precedence[] =
	"domain-macros = ( { name = \"m\"; domains = [ \"mac.test\", \"both.test\", \"*.sub.test\" "
	"]; },\n"
	"  { name = \"tld\"; domains = \"test\"; }, { name = \"n\"; domains = [ \"n1.$tld\", "
	"\"n2.$tld\" ]; } );\n"
	"virtual-mtas = (\n"
	"  { name = \"v1\"; domains = ( { name = \"*\"; default-smtp-port = 101; max-smtp-out = "
	"11; },\n"
	"      { name = \"v.test\"; default-smtp-port = 102; }, { name = \"$m\"; default-smtp-port "
	"= 103; } ); },\n"
	"  { name = \"v2\"; }, { name = \"V3\"; },\n"
	"  { name = \"v4\"; domains = ( { name = \"*.wide.test\"; default-smtp-port = 104; } ); } "
	");\n"
	"virtual-mta-pools = ( { name = \"p\"; virtual-mtas = [ \"v1\", \"v2\" ]; domains = (\n"
	"      { name = \"*\"; max-smtp-out = 12; mx-connection-attempts = 3; },\n"
	"      { name = \"v.test\"; default-smtp-port = 202; } ); },\n"
	"  { name = \"q\"; virtual-mtas = [ \"v2\", \"v3\" ]; } );\n"
	"domains = (\n"
	"  { name = \"*\"; default-smtp-port = 1; max-msg-rate = \"1/h\"; mx-connection-attempts = "
	"9; },\n"
	"  { name = \"*.test\"; default-smtp-port = 2; },\n"
	"  { name = \"[*.]test\"; default-smtp-port = 3; },\n"
	"  { name = \"*.wide.test\"; default-smtp-port = 4; },\n"
	"  { name = \"[*.]wide.test\"; default-smtp-port = 5; max-msg-rate = \"5/h\"; },\n"
	"  { name = \"wide.test\"; default-smtp-port = 6; },\n"
	"  { name = \"v.test\"; default-smtp-port = 7; max-msg-rate = \"7/h\"; },\n"
	"  { name = \"both.test\"; default-smtp-port = 8; },\n"
	"  { name = \"$m\"; default-smtp-port = 9; max-msg-rate = \"9/h\"; },\n"
	"  { name = \"$n\"; default-smtp-port = 10; },\n"
	"  { name = \"x.$tld\"; default-smtp-port = 13; },\n"
	"  { name = \"[10/8]\"; default-smtp-port = 14; },\n"
	"  { name = \"[10.1/16]\"; default-smtp-port = 15; },\n"
	"  { name = \"[2001:db8::/32]\"; default-smtp-port = 16; },\n"
	"  { name = \"Case.Example.\"; default-smtp-port = 17; } );\n";

static void
test_precedence(void **state)
{
	static const struct {
		const char *queue;
		unsigned port, rate, out, attempts;
	} rows[] = {
		/* global scope: a.b, then [*.]a.b, then *.a.b, the longest first, then * */
		{ "other/v9", 1, 1, 20, 9 },
		{ "test/v9", 3, 1, 20, 9 },
		{ "a.test/v9", 3, 1, 20, 9 },
		{ "wide.test/v9", 6, 5, 20, 9 },
		{ "a.wide.test/v9", 5, 5, 20, 9 },
		{ "b.a.wide.test/v9", 5, 5, 20, 9 },
		{ "v.test/v9", 7, 7, 20, 9 },
		{ "xtest/v9", 1, 1, 20, 9 },
		{ "/v9", 1, 1, 20, 9 },
		/* written out beats macro, directive by directive */
		{ "both.test/v9", 8, 9, 20, 9 },
		{ "mac.test/v9", 9, 9, 20, 9 },
		{ "a.sub.test/v9", 9, 9, 20, 9 },
		{ "sub.test/v9", 3, 1, 20, 9 },
		{ "n1.test/v9", 10, 1, 20, 9 },
		{ "n2.test/v9", 10, 1, 20, 9 },
		{ "x.test/v9", 13, 1, 20, 9 },
		/* address literals, the longest prefix first */
		{ "[10.2.0.1]/v9", 14, 1, 20, 9 },
		{ "[10.1.0.1]/v9", 15, 1, 20, 9 },
		{ "[ipv6:2001:db8::1]/v9", 16, 1, 20, 9 },
		{ "[11.1.0.1]/v9", 1, 1, 20, 9 },
		{ "[nonsense]/v9", 1, 1, 20, 9 },
		{ "case.example/v9", 17, 1, 20, 9 },
		/* virtual MTA beats pool beats global, even where it is wider */
		{ "other/v1", 101, 1, 11, 3 },
		{ "v.test/v1", 102, 7, 11, 3 },
		{ "both.test/v1", 103, 9, 11, 3 },
		{ "v.test/v2", 202, 7, 12, 3 },
		{ "other/V2", 1, 1, 12, 3 },
		{ "v.test/v3", 7, 7, 20, 9 },
		{ "v.test/v4", 7, 7, 20, 9 },
		{ "a.wide.test/v4", 104, 5, 20, 9 },
		{ "wide.test/v4", 6, 5, 20, 9 },
		{ "v.test/{default}", 7, 7, 20, 9 },
		{ "v.test/p", 7, 7, 20, 9 }, /* a pool is no virtual MTA */
	};
	struct conf *c = parsed(precedence);

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct conf_queue q = queue_of(c, rows[i].queue);

		if (q.default_smtp_port != rows[i].port || q.max_msg_rate.n != rows[i].rate ||
		    q.max_smtp_out != rows[i].out || q.mx_connection_attempts != rows[i].attempts)
			fail_msg("%s: port %u rate %u out %u attempts %u", rows[i].queue,
				 q.default_smtp_port, (unsigned)q.max_msg_rate.n,
				 (unsigned)q.max_smtp_out, (unsigned)q.mx_connection_attempts);
	}
	conf_free(&c);
	assert_null(c);
}

/* The longest name that can come, and the deepest. */
static void
test_long_domains(void **state)
{
	struct conf *c = parsed("domains = ( { name = \"*.a\"; default-smtp-port = 5; } );");
	char name[600];

	(void)state;
	for (size_t n = 1; n < sizeof name; n++) {
		struct conf_queue q;

		for (size_t i = 0; i < n; i++)
			name[i] = i % 2 == n % 2 ? '.' : 'a';
		conf_queue(c, slice_of(name, n), SLICE_LIT("x"), &q);
		assert_int_equal(q.default_smtp_port, n >= 2 ? 5 : 25);
	}
	conf_free(&c);
}

static void
test_queue_defaults(void **state)
{
	struct conf *c = parsed("");
	struct conf_queue q = queue_of(c, "a.b/{default}");

	(void)state;
	assert_true(q.max_smtp_out == 20 && q.max_msg_rate.n == 0 && q.max_connect_rate.n == 0);
	assert_true(q.max_msg_per_connection == CONF_UNLIMITED);
	assert_true(q.max_rcpt_per_transaction == 1000 && q.mx_connection_attempts == 10);
	assert_true(q.retry_after.n == 1 && q.retry_after.us[0] == 600 * S);
	assert_true(q.retry_recipients_after_us == 600 * S);
	assert_true(q.retry_after_dns_error_us == 60 * S);
	assert_true(q.bounce_after_us == (4 * 86400 + 12 * 3600) * S);
	assert_true(q.connection_idle_timeout_us == 0 && !q.retry_upon_new_mail);
	assert_true(!q.bounce_upon_no_mx && q.bounce_upon_5xx_greeting);
	assert_true(!q.smtp_421_means_mx_unavailable && q.smtp_553_means_invalid_mailbox);
	assert_true(!q.ignore_pipelining && !q.ignore_8bitmime && !q.discard);
	assert_true(q.smtp_hosts == NULL && q.default_smtp_port == 25);
	assert_true(q.connect_timeout_us == 120 * S && q.smtp_greeting_timeout_us == 300 * S);
	assert_true(q.data_send_timeout_us == 180 * S);
	assert_true(q.smtp_data_termination_timeout_us == 600 * S);
	assert_true(q.smtp_multiple_line_response_timeout_us == 300 * S);
	assert_true(q.smtp_command_reply_timeout_us == 300 * S);
	assert_true(q.allow_destinations != NULL && q.allow_destinations[0] == NULL);
	conf_free(&c);
}

static void
test_queue_values(void **state)
{
	struct conf *c = parsed(
		"allow-destinations = [ \"127/8\" ];\n"
		"domains = ( { name = \"a.b\"; type = \"discard\"; smtp-hosts = \"h:26\"; \n"
		" retry-after = \"10m,1h\"; bounce-after = \"never\"; bounce-upon-no-mx = true;\n"
		" max-msg-per-connection = 7; max-connect-rate = \"83/10m\"; ignore-pipelining = "
		"true;\n"
		" allow-destinations = [ \"10/8\", \"::1\" ]; max-rcpt-per-transaction = 1;\n"
		" backoff-notify = [ \"a@b\", \"c@d\" ]; disabled-source-ip-notify = \"e@f\"; } "
		");\n");
	struct conf_queue q = queue_of(c, "a.b/{default}");

	(void)state;
	assert_true(q.discard && q.bounce_upon_no_mx && q.ignore_pipelining);
	assert_string_equal(q.smtp_hosts, "h:26");
	assert_true(q.retry_after.n == 2 && q.retry_after.us[1] == 3600 * S);
	assert_true(q.bounce_after_us == CONF_NEVER && q.max_msg_per_connection == 7);
	assert_true(q.max_connect_rate.n == 83 && q.max_connect_rate.window_us == 600 * S);
	assert_true(q.max_rcpt_per_transaction == 1);
	assert_string_equal(q.allow_destinations[0], "10/8");
	assert_string_equal(q.allow_destinations[1], "::1");
	assert_string_equal(q.allow_destinations[2], "127/8");
	assert_null(q.allow_destinations[3]);
	assert_int_equal(conf_notify_lists(c, false), 1);
	assert_int_equal(conf_notify_lists(c, true), 1);
	assert_string_equal(q.backoff_notify[0], "a@b");
	assert_string_equal(q.backoff_notify[1], "c@d");
	assert_null(q.backoff_notify[2]);
	assert_string_equal(q.source_notify[0], "e@f");
	assert_null(q.source_notify[1]);
	q = queue_of(c, "a.b/" CONF_VMTA_NOTIFY);
	assert_string_equal(q.smtp_hosts, "h:26");
	assert_int_equal(conf_vmta_find(c, SLICE_LIT(CONF_VMTA_NOTIFY)), 0);
	q = queue_of(c, "c.d/{default}");
	assert_null(q.backoff_notify);
	assert_null(q.source_notify);
	assert_string_equal(q.allow_destinations[0], "127/8");
	assert_null(q.allow_destinations[1]);
	conf_free(&c);
}

static void
test_globals(void **state)
{
	struct conf *c =
		parsed("host-name = [ \"m.test\", \"n.test\" ]; user = \"u\"; spool = \"/s\";\n"
		       "run = \"/r\"; log-file = \"stderr\"; workers = 3; receivers = 2;\n"
		       "name-server = [ \"192.0.2.1@53\", \"::1\" ]; postmaster = \"a@b\";\n"
		       "total-max-smtp-out = 7; total-max-smtp-in = \"unlimited\";\n"
		       "smtp-listeners = ( { address = \"127.0.0.1:2525\"; source = \"s\"; },\n"
		       "  { address = \"[::1]:26\"; } ); sources = ( { match = \"s\"; } );\n");
	const struct conf_global *g = conf_global(c);
	const struct conf_listener *l;

	(void)state;
	assert_string_equal(g->host_name, "m.test");
	assert_string_equal(g->user, "u");
	assert_string_equal(g->spool, "/s");
	assert_string_equal(g->run, "/r");
	assert_string_equal(g->log_file, "stderr");
	assert_string_equal(g->postmaster, "a@b");
	assert_string_equal(g->name_server, "192.0.2.1@53");
	assert_string_equal(g->name_servers[1], "::1");
	assert_null(g->name_servers[2]);
	assert_true(g->workers == 3 && g->receivers == 2);
	assert_true(g->total_max_smtp_out == 7 && g->total_max_smtp_in == CONF_UNLIMITED);
	assert_int_equal(conf_listeners(c, &l), 2);
	assert_int_equal(l[0].addr.ss_family, AF_INET);
	assert_int_equal(ntohs(((const struct sockaddr_in *)&l[0].addr)->sin_port), 2525);
	assert_string_equal(l[0].source, "s");
	assert_int_equal(l[1].addr.ss_family, AF_INET6);
	assert_null(l[1].source);
	conf_free(&c);

	c = parsed("");
	g = conf_global(c);
	assert_true(g->host_name != NULL && g->host_name[0] != '\0' && g->user == NULL);
	assert_true(g->name_server == NULL && g->name_servers[0] == NULL);
	assert_string_equal(g->spool, "/var/spool/sluice");
	assert_string_equal(g->run, "/run/sluice");
	assert_true(g->workers == 4 && g->receivers == 1);
	assert_true(g->total_max_smtp_out == CONF_UNLIMITED && g->total_max_smtp_in == 1000);
	assert_true(strncmp(g->postmaster, "postmaster@", 11) == 0);
	assert_int_equal(conf_listeners(c, &l), 1);
	assert_string_equal(l[0].text, "0.0.0.0:25");
	conf_free(&c);
}

static void
test_vmtas(void **state)
{
	struct conf *c = parsed(
		"host-name = \"m.test\";\n"
		"virtual-mtas = ( { name = \"A\"; smtp-source-hosts = (\n"
		"   { ip = \"192.0.2.1\"; name = \"o1.test\"; }, { ip = \"192.0.2.2\"; weight = 3; "
		"} ); },\n"
		" { name = \"b\"; smtp-source-host = [ \"192.0.2.2 o2.test\", \"2001:db8::1 "
		"o3.test\" ]; },\n"
		" { name = \"c\"; } );\n"
		"virtual-mta-pools = ( { name = \"P\"; virtual-mtas = [ \"b\", \"a\" ]; } );\n");
	const struct conf_vmta *v;
	const struct conf_pool *p;
	const struct conf_source_ip *ip;

	(void)state;
	assert_int_equal(conf_vmtas(c, &v), 4);
	assert_string_equal(v[0].name, "{default}");
	assert_true(v[0].n_sources == 1 && v[0].sources[0].source_ip == 0);
	assert_string_equal(v[0].sources[0].helo, "m.test");
	assert_string_equal(v[1].name, "A");
	assert_true(v[1].n_sources == 2 && v[1].sources[0].weight == 1 &&
		    v[1].sources[1].weight == 3);
	assert_string_equal(v[1].sources[0].helo, "o1.test");
	assert_string_equal(v[1].sources[1].helo, "m.test");
	assert_int_equal(conf_source_ips(c, &ip), 4);
	assert_true(ip[0].addr.ss_family == AF_UNSPEC && ip[0].text[0] == '\0');
	assert_string_equal(ip[2].text, "192.0.2.2");
	assert_true(v[1].sources[1].source_ip == 2 && v[2].sources[0].source_ip == 2);
	assert_string_equal(v[2].sources[1].helo, "o3.test");
	assert_string_equal(ip[v[2].sources[1].source_ip].text, "2001:db8::1");
	assert_true(v[3].n_sources == 1 && v[3].sources[0].source_ip == 0);
	assert_int_equal(conf_vmta_find(c, SLICE_LIT("a")), 1);
	assert_int_equal(conf_vmta_find(c, SLICE_LIT("B")), 2);
	assert_int_equal(conf_vmta_find(c, SLICE_LIT("{default}")), 0);
	assert_int_equal(conf_vmta_find(c, SLICE_LIT("p")), -1);
	assert_int_equal(conf_vmta_find(c, SLICE_NONE), -1);
	assert_int_equal(conf_pools(c, &p), 1);
	assert_true(p[0].n_vmtas == 2 && p[0].vmtas[0] == 2 && p[0].vmtas[1] == 1);
	assert_int_equal(conf_pool_find(c, SLICE_LIT("p")), 0);
	assert_int_equal(conf_pool_find(c, SLICE_LIT("a")), -1);
	conf_free(&c);

	/* Global source hosts stand in where a virtual MTA names none. */
	c = parsed("smtp-source-hosts = ( { ip = \"192.0.2.9\"; name = \"g.test\"; } );\n"
		   "virtual-mtas = ( { name = \"a\"; } );");
	conf_vmtas(c, &v);
	assert_string_equal(v[0].sources[0].helo, "g.test");
	assert_true(v[1].n_sources == 1 && v[1].sources[0].source_ip == 1);
	conf_free(&c);
}

static void
test_clients(void **state)
{
	static const struct {
		const char *ip, *listener;
		bool relay, job, service;
		unsigned hops;
	} rows[] = {
		{ "10.1.2.3", NULL, false, true, true, 5 },
		{ "10.9.2.3", NULL, true, true, true, 100 },
		{ "11.1.2.3", NULL, false, false, false, 100 },
		{ "2001:db8::1", NULL, false, false, false, 100 },
		{ "10.1.2.3", "named", true, true, true, 7 },
		{ "10.1.2.3", "NAMED", true, true, true, 7 },
		{ "10.1.2.3", "other", false, true, true, 5 },
	};
	struct conf *c = parsed(
		"sources = ( { match = \"10.1/16\"; always-allow-relaying = false; "
		"max-message-hops = 5; },\n"
		"  { match = \"named\"; always-allow-relaying = true; max-message-hops = 7; },\n"
		"  { match = \"0/0\"; smtp-service = false; process-x-job = false; },\n"
		"  { match = \"10/8\"; smtp-service = true; process-x-job = true;\n"
		"    always-allow-relaying = true; } );\n");
	struct conf_client k;
	struct sockaddr_in in = { .sin_family = AF_INET };

	(void)state;
	for (size_t i = 0; i < N_OF(rows); i++) {
		struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
		bool six = strchr(rows[i].ip, ':') != NULL;

		assert_int_equal(inet_pton(six ? AF_INET6 : AF_INET, rows[i].ip,
					   six ? (void *)&in6.sin6_addr : (void *)&in.sin_addr),
				 1);
		conf_client(c, six ? (struct sockaddr *)&in6 : (struct sockaddr *)&in,
			    rows[i].listener, &k);
		if (k.always_allow_relaying != rows[i].relay || k.process_x_job != rows[i].job ||
		    k.smtp_service != rows[i].service || k.max_message_hops != rows[i].hops)
			fail_msg("%s %s", rows[i].ip, rows[i].listener ? rows[i].listener : "-");
	}
	conf_free(&c);

	c = parsed("");
	conf_client(c, (struct sockaddr *)&in, NULL, &k);
	assert_true(k.smtp_service && !k.always_allow_relaying && !k.process_x_virtual_mta);
	assert_true(k.reject_invalid_virtual_mta && k.add_received_header && !k.add_date_header);
	assert_true(k.default_virtual_mta == NULL && k.max_message_size == MESSAGE_BYTES_MAX);
	assert_true(k.max_rcpt_per_message == SMTP_RCPT_MAX && k.max_message_hops == 100);
	assert_true(k.smtp_command_timeout_us == 600 * S && k.smtp_data_timeout_us == 600 * S);
	assert_string_equal(k.jobid_header, "X-Job");
	conf_free(&c);

	c = parsed("always-allow-relaying = true;\n"
		   "virtual-mtas = ( { name = \"v\"; } );\n"
		   "sources = ( { match = \"0/0\"; default-virtual-mta = \"v\"; max-message-size = "
		   "\"1M\";\n"
		   " add-date-header = true; max-rcpt-per-message = 5; } );");
	conf_client(c, (struct sockaddr *)&in, NULL, &k);
	assert_true(k.always_allow_relaying && k.add_date_header && k.max_rcpt_per_message == 5);
	assert_true(k.max_message_size == 1 << 20);
	assert_string_equal(k.default_virtual_mta, "v");
	conf_free(&c);
}

static void
test_acct_files(void **state)
{
	struct conf *c =
		parsed("acct-files = ( { path = \"/a/b.csv\"; }, { path = \"/a/c.json\";\n"
		       " records = [ \"tq,r\", \"feedback-loop\" ]; format = \"json\";\n"
		       " max-size = \"1M\"; move-to = \"/d\"; iso-times = false; sync = true;\n"
		       " user-string = \"x\"; move-interval = \"1h\"; } );");
	const struct conf_acct_file *f;

	(void)state;
	assert_int_equal(conf_acct_files(c, &f), 2);
	assert_string_equal(f[0].path, "/a/b.csv");
	assert_true(f[0].d && f[0].b && !f[0].t && !f[0].tq && !f[0].r && !f[0].json && !f[0].f);
	assert_true(f[0].max_size_bytes == 250 << 20 && f[0].iso_times && f[0].move_to == NULL);
	assert_true(f[0].move_interval_us == 86400 * S && f[0].user_string == NULL);
	assert_true(!f[1].d && !f[1].b && f[1].tq && f[1].r && f[1].f && !f[1].rb && f[1].json);
	assert_true(f[1].max_size_bytes == 1 << 20 && !f[1].iso_times && f[1].sync);
	assert_string_equal(f[1].move_to, "/d");
	assert_string_equal(f[1].user_string, "x");
	assert_true(f[1].move_interval_us == 3600 * S);
	conf_free(&c);
}

/* Equal names merge, the later value wins. */
static void
test_merges(void **state)
{
	struct conf *c =
		parsed("domains = ( { name = \"a.b\"; max-smtp-out = 1; default-smtp-port = 5; },\n"
		       " { name = \"A.B\"; max-smtp-out = 2; } );\n"
		       "virtual-mtas = ( { name = \"v\"; domains = ( { name = \"c.d\"; "
		       "max-smtp-out = 3; } ); },\n"
		       " { name = \"V\"; smtp-source-hosts = ( { ip = \"192.0.2.1\"; } );\n"
		       "   domains = ( { name = \"c.d\"; default-smtp-port = 6; } ); } );\n"
		       "sources = ( { match = \"10/8\"; }, { match = \"10/8\"; process-x-job = "
		       "true; } );\n");
	const struct conf_vmta *v;
	struct conf_queue q = queue_of(c, "a.b/x");

	(void)state;
	assert_true(q.max_smtp_out == 2 && q.default_smtp_port == 5);
	assert_int_equal(conf_vmtas(c, &v), 2);
	assert_int_equal(v[1].sources[0].source_ip, 1);
	q = queue_of(c, "c.d/v");
	assert_true(q.max_smtp_out == 3 && q.default_smtp_port == 6);
	conf_free(&c);
}

/* Old spellings mean what the present ones mean. */
static void
test_old_spellings(void **state)
{
	struct conf *c = parsed(
		"domains = ( { name = \"a\"; max-msg-per-hour = 500; route = \"r:1\"; },\n"
		" { name = \"b\"; max-msg-per-hour = \"83/10m\"; max-rcpt-per-message = 3; } );");
	struct conf_queue q = queue_of(c, "a/x");

	(void)state;
	assert_true(q.max_msg_rate.n == 500 && q.max_msg_rate.window_us == 3600 * S);
	assert_string_equal(q.smtp_hosts, "r:1");
	q = queue_of(c, "b/x");
	assert_true(q.max_msg_rate.n == 83 && q.max_msg_rate.window_us == 600 * S);
	assert_true(q.max_rcpt_per_transaction == 3);
	conf_free(&c);
}

static void
expect_setting(const char *json, const char *entry)
{
	if (strstr(json, entry) == NULL)
		fail_msg("%s\nis not in\n%s", entry, json);
}

static void
test_show_settings(void **state)
{
	struct conf *c = parsed("allow-destinations = \"127/8\";\n"
				"domains = ( { name = \"*\";\n max-smtp-out = 5;\n retry-after = "
				"\"1m\";\n use-dane = true; } );\n"
				"virtual-mtas = ( { name = \"v\"; domains = ( { name = "
				"\"[*.]a.b\";\n max-smtp-out = 6; } ); } );");
	struct buf out = { 0 };
	struct json j;

	(void)state;
	json_init(&j, &out);
	conf_show_settings(c, SLICE_LIT("x.a.b"), SLICE_LIT("v"), &j);
	buf_putc(&out, '\0');
	expect_setting(out.data,
		       "{\"name\":\"max-smtp-out\",\"value\":\"6\",\"file\":\"f\",\"line\":7,"
		       "\"scope\":\"virtual-mta\",\"scopeName\":\"v\",\"domain\":\"[*.]a.b\","
		       "\"supported\":true,\"origin\":null}");
	expect_setting(out.data,
		       "{\"name\":\"retry-after\",\"value\":\"1m\",\"file\":\"f\",\"line\":4,"
		       "\"scope\":\"global\",\"scopeName\":null,\"domain\":\"*\",");
	expect_setting(out.data, "{\"name\":\"bounce-after\",\"value\":\"4d12h\",\"file\":null,"
				 "\"line\":null,\"scope\":\"default\"");
	expect_setting(out.data,
		       "{\"name\":\"use-dane\",\"value\":\"true\",\"file\":\"f\",\"line\":5,"
		       "\"scope\":\"global\",\"scopeName\":null,\"domain\":\"*\","
		       "\"supported\":false,\"origin\":null}");
	expect_setting(out.data,
		       "{\"name\":\"allow-destinations\",\"value\":\"127/8\",\"file\":\"f\","
		       "\"line\":1,\"scope\":\"global\"");
	assert_null(strstr(out.data, "use-mta-sts"));
	buf_clear(&out);
	conf_free(&c);
}

/* 20,000 domains: hashed, not walked. The bounds are generous, walking misses them by far. */
static void
test_many_domains(void **state)
{
	struct buf text = { 0 };
	struct timespec a, b;
	struct conf *c;

	(void)state;
	buf_puts(&text, "domains = ( { name = \"*\"; max-smtp-out = 7; }");
	for (int i = 0; i < 20000; i++)
		buf_printf(&text, ",\n{ name = \"d%d.test\"; default-smtp-port = %d; }", i, i + 1);
	buf_puts(&text, " );");
	buf_putc(&text, '\0');
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	c = parsed(text.data);
	for (int i = 0; i < 20000; i++) {
		char name[40];

		snprintf(name, sizeof name, "d%d.test/v", i);
		assert_int_equal(queue_of(c, name).default_smtp_port, i + 1);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	assert_true((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9 < 3);
	conf_free(&c);
	buf_clear(&text);
}

/* The rate may be learned: says the domain, or a rule of its list. */
static void
who_learns(void **state)
{
	struct conf *c = parsed(
		"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"/x/\"; actions = [ \"mode=backoff\" ]; "
		"recover = \"auto\"; } ); }, { name = \"m\"; then = \"l\"; rules = ( { reply = \"/y/\"; actions = [ "
		"\"mode=backoff\" ]; recover = \"10% every 10m\"; } ); }, { name = \"n\"; rules = ( { reply = \"/y/\"; "
		"actions = [ \"mode=backoff\" ]; recover = \"10% every 10m\"; } ); } );"
		"domains = ( { name = \"l.x\"; smtp-pattern-list = \"l\"; }, { name = \"m.x\"; smtp-pattern-list = \"m\"; },"
		"{ name = \"n.x\"; smtp-pattern-list = \"n\"; }, { name = \"auto.x\"; recover = \"auto\"; },"
		"{ name = \"steps.x\"; recover = \"10% every 10m\"; } );");

	(void)state;
	assert_true(queue_of(c, "l.x/{default}").learns);
	assert_true(queue_of(c, "m.x/{default}").learns);
	assert_true(queue_of(c, "auto.x/{default}").learns);
	assert_false(queue_of(c, "n.x/{default}").learns);
	assert_false(queue_of(c, "steps.x/{default}").learns);
	assert_false(queue_of(c, "other.x/{default}").learns);
	conf_free(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_learns),
		cmocka_unit_test(test_precedence),     cmocka_unit_test(test_long_domains),
		cmocka_unit_test(test_queue_defaults), cmocka_unit_test(test_queue_values),
		cmocka_unit_test(test_globals),        cmocka_unit_test(test_vmtas),
		cmocka_unit_test(test_clients),        cmocka_unit_test(test_acct_files),
		cmocka_unit_test(test_merges),         cmocka_unit_test(test_old_spellings),
		cmocka_unit_test(test_show_settings),  cmocka_unit_test(test_many_domains),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
